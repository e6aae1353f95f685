"""What charts of a page draw: places, sizes and colours of shapes, as plain values for the templates' macros."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ..data.ground_truth import intervals_from_labels
from .words import number_text

WIDTH, HEIGHT = 1000.0, 150.0
COLOURS = 8


def colour(number: int) -> str:
    """The colour of the n-th modality, as the style sheet defines it."""
    return f"var(--m{number % COLOURS})"


def score_chart(
    scores: Float64[np.ndarray, " frames"],
    *,
    fps: float,
    threshold: float,
    events: Sequence[tuple[int, int]],
    truth: Bool[np.ndarray, " frames"] | None = None,
) -> dict[str, Any]:
    """The score of every frame over time, events shaded, the threshold dashed, ground truth as a band where it is known."""
    frames = len(scores)
    boxes = [_box(start, end, frames, 0.0, HEIGHT, "var(--shade)") for start, end in events]
    key = [("var(--accent)", "score, 0 to 1"), ("var(--shade)", f"event: score {threshold:g} or more")]
    if truth is not None:
        spans = intervals_from_labels("video", truth)
        boxes += [_box(one.start_frame, one.end_frame, frames, HEIGHT + 4, 8.0, "var(--alarm)") for one in spans]
        key.append(("var(--alarm)", "known to be abnormal (ground truth)" if truth.any() else "ground truth: all normal"))
    label = f"Score of {frames} frames, highest {scores.max():.2f}; {len(events)} events at or above {threshold:g}."
    return _chart(HEIGHT + (14 if truth is not None else 2), label, boxes, HEIGHT * (1 - threshold), frames / fps, key) | {
        "path": step_path(scores, 0.0, 1.0, WIDTH, HEIGHT),
        "dashed": True,
    }


def parts_chart(
    parts: Mapping[str, Float64[np.ndarray, " n"]],
    spans: Sequence[tuple[int, int]],
    frames: int,
    *,
    fps: float,
    highest: Sequence[tuple[int, int]] = (),
) -> dict[str, Any]:
    """Parts of each modality over time as stacked areas, in logits above the typical normal segment.

    Args:
        parts: Of each segment, (N,) by modality.
        spans: Frames [start, end) of each segment.
        frames: Of the video.
        fps: Frames per second.
        highest: Frames of the segments that are looked at closely, which are marked.
    """
    values = np.stack(list(parts.values()))  # (M, N)
    most = max(float(np.clip(values, 0, None).sum(0).max()), 1e-9)
    least = min(float(np.clip(values, None, 0).sum(0).min()), 0.0)
    boxes = []
    for column, (start, end) in enumerate(_without_overlap(spans, frames)):
        above = below = 0.0
        for number, value in enumerate(values[:, column].tolist()):
            base = above if value >= 0 else below
            top, bottom = (level(end, least, most) for end in (max(base, base + value), min(base, base + value)))
            boxes.append(_box(start, end, frames, top, bottom - top, colour(number)))
            above, below = above + max(value, 0.0), below + min(value, 0.0)
    marks = [_box(start, end, frames, HEIGHT + 4, 8.0, "var(--ink)") for start, end in highest]
    key = [(colour(number), name) for number, name in enumerate(parts)]
    key += [("var(--ink)", "highest segment of an event")] if marks else []
    label = f"Parts of {', '.join(parts)} over time, from {least:.1f} to {most:.1f} logits above the typical normal segment."
    height = HEIGHT + (14 if marks else 0)
    return _chart(height, label, boxes + marks, level(0.0, least, most), frames / fps, key) | {
        "scale": f"{number_text(least, '.0f')} to {most:.0f} logits above the typical normal segment"
    }


def bar(label: str, value: float, text: str, *, low: float, high: float, fill: str) -> dict[str, Any]:
    """One bar from zero to a value on a scale from ``low`` to ``high``, label before and text behind; in percent."""
    width = max(high - low, 1e-12)
    left, right = ((min(max(end, low), high) - low) / width * 100 for end in (min(value, 0.0), max(value, 0.0)))
    zero = f"{-low / width * 100:.2f}" if low < 0 else None
    return {"label": label, "left": f"{left:.2f}", "width": f"{right - left:.2f}", "zero": zero, "text": text, "fill": fill}


def _chart(height: float, label: str, boxes: list[Any], line: float, seconds: float, key: list[Any]) -> dict[str, Any]:
    axis = [f"{share * seconds:.1f} s" for share in (0, 0.25, 0.5, 0.75, 1)]
    shapes = {"boxes": boxes, "level": f"{line:.1f}", "path": "", "dashed": False}
    return {"width": f"{WIDTH:g}", "height": f"{height:g}", "label": label, "axis": axis, "key": key, "scale": "", **shapes}


def _box(start: int, end: int, frames: int, top: float, height: float, fill: str) -> tuple[str, str, str, str, str]:
    """x, y, width, height and fill of a rectangle over frames."""
    x, width = start / frames * WIDTH, (end - start) / frames * WIDTH
    return f"{x:.2f}", f"{top:.2f}", f"{width:.2f}", f"{height:.2f}", fill


def step_path(values: Float64[np.ndarray, " frames"], low: float, high: float, width: float, height: float) -> str:
    """Path of a curve over frames that is flat within each; equal neighbours are one step."""
    levels = [level(value, low, high, height) for value in values.tolist()]
    path = [f"M0 {levels[0]:.2f}"]
    for frame, (before, after) in enumerate(itertools.pairwise(levels), start=1):
        if after != before:
            path.append(f"H{frame / len(levels) * width:.2f}V{after:.2f}")
    return "".join(path) + f"H{width:g}"


def level(value: float, low: float, high: float, height: float = HEIGHT) -> float:
    """Where a value between ``low`` and ``high`` is drawn in a picture of some height, a pixel from its edges at least."""
    inside = min(max((value - low) / max(high - low, 1e-9), 0.0), 1.0)
    return 1 + (height - 2) * (1 - inside)


def _without_overlap(spans: Sequence[tuple[int, int]], frames: int) -> list[tuple[int, int]]:
    """Spans of segments for drawing: each ends where the next begins, copies of one place are drawn once."""
    starts = [start for start, _ in spans] + [frames]
    return [(start, max(start, following)) for start, following in itertools.pairwise(starts)]
