"""Scores of one video as files: a table, a JSON document and a picture; and the spans where they are high."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.annotations import intervals_from_labels
from ..data.files import write_table, written_whole
from ..detect.runs import VideoScores
from .figures import score_curve


@dataclass(frozen=True)
class Span:
    """Frames [start_frame, end_frame) whose scores are all at or above a threshold.

    Args:
        start_frame: First frame, from 0.
        end_frame: The frame after the last.
        start_seconds: Time of the first frame.
        end_seconds: Time at which the last frame ends.
        peak: Highest score.
    """

    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    peak: float


def high_spans(scores: VideoScores, *, threshold: float = 0.5) -> list[Span]:
    """The spans at or above a threshold, the highest first.

    Args:
        scores: Scores of a video.
        threshold: In [0, 1]. Detectors with reference units are calibrated so that 0.5 lies two standard deviations above
            the mean segment of normal training videos before training.

    Example:
        >>> import numpy as np
        >>> scores = VideoScores("door", 1.0, np.arange(4.0), np.array([0.6, 0.1, 0.9, 0.8]))
        >>> [(span.start_frame, span.end_frame, span.peak) for span in high_spans(scores)]
        [(2, 4, 0.9), (0, 1, 0.6)]
    """
    spans = []
    for run in intervals_from_labels("video", scores.scores >= threshold):
        end = scores.times[run.end_frame] if run.end_frame < len(scores.times) else scores.times[-1] + 1 / scores.fps
        peak = float(scores.scores[run.start_frame : run.end_frame].max())
        spans.append(Span(run.start_frame, run.end_frame, float(scores.times[run.start_frame]), float(end), peak))
    return sorted(spans, key=lambda span: (-span.peak, span.start_frame))


def scores_document(scores: VideoScores) -> dict[str, Any]:
    """Everything known about a video's scores, as JSON values."""
    document: dict[str, Any] = {"video": scores.video, "fps": scores.fps, "frames": len(scores.scores)}
    document["spans"] = [vars(span) for span in high_spans(scores)]
    document["warnings"] = list(scores.warnings)
    document["seconds"] = scores.times.round(6).tolist()
    document["scores"] = scores.scores.round(6).tolist()
    document["truth"] = None if scores.truth is None else scores.truth.astype(int).tolist()
    return document


def save_score_table(folder: str | Path, scores: VideoScores) -> Path:
    """Write ``<video>.csv`` with frame, seconds, score and, where it is known, truth (0 or 1)."""
    columns = ["frame", "seconds", "score"] + (["truth"] if scores.truth is not None else [])
    path = Path(folder) / f"{scores.video}.csv"
    write_table(path, columns, _rows(scores))
    return path


def save_scores(folder: str | Path, scores: VideoScores, *, picture: bool = True) -> dict[str, Path]:
    """Write ``<video>.csv``, ``<video>.json`` and ``<video>.png`` into a folder, each whole or not at all.

    Args:
        folder: Made if it is not there.
        scores: Scores of a video.
        picture: Whether to draw the curve.

    Returns:
        The files by their kind: csv, json, png.

    Raises:
        MissingExtraError: If a picture is asked for and matplotlib is not installed; the other files are written then.
    """
    folder = Path(folder)
    files = {"csv": save_score_table(folder, scores), "json": folder / f"{scores.video}.json"}
    with written_whole(files["json"]) as file:
        file.write((json.dumps(scores_document(scores)) + "\n").encode())
    if picture:
        files["png"] = folder / f"{scores.video}.png"
        score_curve(files["png"], scores.scores, fps=scores.fps, truth=scores.truth, title=scores.video)
    return files


def _rows(scores: VideoScores) -> Iterator[dict[str, object]]:
    for frame, (seconds, score) in enumerate(zip(scores.times, scores.scores, strict=True)):
        row: dict[str, object] = {"frame": frame, "seconds": f"{seconds:.6f}", "score": f"{score:.6f}"}
        yield row if scores.truth is None else row | {"truth": int(scores.truth[frame])}
