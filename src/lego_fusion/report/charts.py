"""HTML from nested calls, every text escaped, and charts of a page as inline SVG and bars."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ..data.tables import intervals_from_labels
from .words import number_text

VOID = ("img", "meta", "br", "hr", "input", "rect", "path", "line")


class Html(str):
    """Markup, as opposed to text that is still to be escaped."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: object) -> Html:
    """One element; ``class_`` stands for ``class``, other underscores for hyphens; an attribute that is None is left out.

    Example:
        >>> element("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    named = {"class" if key == "class_" else key.replace("_", "-"): value for key, value in attributes.items()}
    inside = "".join(f' {key}="{escape(str(value))}"' for key, value in named.items() if value is not None)
    if name in VOID:
        return Html(f"<{name}{inside}>" if name in VOID[:5] else f"<{name}{inside}/>")
    return Html(f"<{name}{inside}>{join(*content)}</{name}>")


def join(*content: str) -> Html:
    """Several pieces one after the other, texts escaped."""
    return Html("".join(piece if isinstance(piece, Html) else escape(piece) for piece in content))


def document(title: str, style: str, *body: str, scripts: Sequence[str] = ()) -> str:
    """A whole page in one file, and a policy under which nothing is fetched from elsewhere and no other script runs.

    Args:
        title: Of the page.
        style: Its style sheet.
        body: What it shows.
        scripts: JavaScript that runs at its end, in this order.
    """
    scripts = [script.replace("\r\n", "\n") for script in scripts]  # as a browser reads it, for the hash
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    if scripts:
        policy += "; script-src " + " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    run = [element("script", Html(script)) for script in scripts]
    return "<!doctype html>\n" + element("html", head, element("body", *body, *run), lang="en") + "\n"


def data_block(name: str, value: Any) -> Html:
    r"""JSON that a script finds by its id; no text in it can end the block.

    Example:
        >>> data_block("data", "</script>")
        '<script type="application/json" id="data">"\\u003c/script\\u003e"</script>'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return element("script", Html(text), type="application/json", id=name)


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


WIDTH, HEIGHT = 1000, 150.0
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
) -> Html:
    """The score of every frame over time, events shaded, the threshold dashed, ground truth as a band where it is known."""
    frames = len(scores)
    shades = [_box(start, end, frames, 0.0, HEIGHT, "var(--shade)") for start, end in events]
    band = []
    if truth is not None:
        band = [
            _box(one.start_frame, one.end_frame, frames, HEIGHT + 4, 8.0, "var(--alarm)")
            for one in intervals_from_labels("video", truth)
        ]
    line = element("path", d=_steps(scores, 0.0, 1.0), fill="none", stroke="var(--accent)", **_THIN, stroke_width=2)
    level = HEIGHT * (1 - threshold)
    dashed = {"stroke": "var(--soft)", "stroke_dasharray": "6 5", "stroke_width": 1, **_THIN}
    limit = element("line", x1=0, x2=WIDTH, y1=f"{level:.1f}", y2=f"{level:.1f}", **dashed)
    label = f"Score of {frames} frames, highest {scores.max():.2f}; {len(events)} events at or above {threshold:g}."
    height = HEIGHT + (14 if truth is not None else 2)
    key = [_key("var(--accent)", "score, 0 to 1"), _key("var(--shade)", f"event: score {threshold:g} or more")]
    if truth is not None:
        key.append(_key("var(--alarm)", "known to be abnormal (ground truth)" if truth.any() else "ground truth: all normal"))
    return join(_chart(height, label, *shades, limit, line, *band), _axis(frames, fps), element("div", *key, class_="key"))


def parts_chart(
    parts: Mapping[str, Float64[np.ndarray, " n"]],
    spans: Sequence[tuple[int, int]],
    frames: int,
    *,
    fps: float,
    highest: Sequence[tuple[int, int]] = (),
) -> Html:
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
    shapes = []
    for column, (start, end) in enumerate(_without_overlap(spans, frames)):
        above = below = 0.0
        for number, value in enumerate(values[:, column].tolist()):
            base = above if value >= 0 else below
            top, bottom = (_height(level, least, most) for level in (max(base, base + value), min(base, base + value)))
            shapes.append(_box(start, end, frames, top, bottom - top, colour(number)))
            above, below = above + max(value, 0.0), below + min(value, 0.0)
    zero = _height(0.0, least, most)
    shapes.append(element("line", x1=0, x2=WIDTH, y1=f"{zero:.1f}", y2=f"{zero:.1f}", stroke="var(--soft)", **_THIN))
    label = f"Parts of {', '.join(parts)} over time, from {least:.1f} to {most:.1f} logits above the typical normal segment."
    key = [_key(colour(number), name) for number, name in enumerate(parts)]
    scale = element("span", f"{number_text(least, '.0f')} to {most:.0f} logits above the typical normal segment")
    marks = [_box(start, end, frames, HEIGHT + 4, 8.0, "var(--ink)") for start, end in highest]
    key += [_key("var(--ink)", "highest segment of an event")] if marks else []
    chart = _chart(HEIGHT + (14 if marks else 0), label, *shapes, *marks)
    return join(chart, _axis(frames, fps), element("div", *key, scale, class_="key"))


def bar(label: str, value: float, text: str, *, low: float, high: float, fill: str) -> Html:
    """One bar from zero to a value on a scale from ``low`` to ``high``, with its label before and its text behind."""
    width = max(high - low, 1e-12)
    left, right = ((min(max(end, low), high) - low) / width * 100 for end in (min(value, 0.0), max(value, 0.0)))
    drawn = element("span", class_="fill", style=f"left:{left:.2f}%;width:{right - left:.2f}%;background:{fill}")
    zero = element("span", class_="zero", style=f"left:{-low / width * 100:.2f}%") if low < 0 else Html("")
    track = element("span", drawn, zero, class_="track", role="presentation")
    return element("div", element("span", label), track, element("span", text, class_="value"), class_="bar")


_THIN = {"vector_effect": "non-scaling-stroke"}


def _chart(height: float, label: str, *shapes: Html) -> Html:
    options = {"viewBox": f"0 0 {WIDTH} {height:g}", "preserveAspectRatio": "none", "role": "img", "aria_label": label}
    return element("div", element("svg", *shapes, **options, style=f"height:{height:g}px"), class_="chart")


def _axis(frames: int, fps: float) -> Html:
    seconds = frames / fps
    return element("div", *(element("span", f"{share * seconds:.1f} s") for share in (0, 0.25, 0.5, 0.75, 1)), class_="axis")


def _key(fill: str, text: str) -> Html:
    return element("span", element("i", style=f"background:{fill}"), text)


def _box(start: int, end: int, frames: int, top: float, height: float, fill: str) -> Html:
    x, width = start / frames * WIDTH, (end - start) / frames * WIDTH
    place = {"x": f"{x:.2f}", "y": f"{top:.2f}", "width": f"{width:.2f}", "height": f"{height:.2f}"}
    return element("rect", **place, fill=fill)


def _steps(values: Float64[np.ndarray, " frames"], low: float, high: float) -> str:
    """Path of a step curve; equal neighbours are one step."""
    heights = [_height(value, low, high) for value in values.tolist()]
    path = [f"M0 {heights[0]:.2f}"]
    for frame, height in enumerate(heights):
        if frame and height != heights[frame - 1]:
            path.append(f"H{frame / len(heights) * WIDTH:.2f}V{height:.2f}")
    return "".join(path) + f"H{WIDTH}"


def _height(value: float, low: float, high: float) -> float:
    return 1 + (HEIGHT - 2) * (1 - (value - low) / (high - low))


def _without_overlap(spans: Sequence[tuple[int, int]], frames: int) -> list[tuple[int, int]]:
    """Spans of segments for drawing: each ends where the next begins, copies of one place are drawn once."""
    starts = [start for start, _ in spans] + [frames]
    return [(start, max(start, following)) for start, following in itertools.pairwise(starts)]
