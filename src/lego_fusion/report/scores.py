"""Scores of one video as files: a table, a JSON document and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..alarm.event_evaluation import events_of
from ..alarm.events import EventRule, as_score
from ..data.files import write_table
from ..learn.runs import VideoScores
from ..writing import written_whole
from .figures import score_curve


def scores_document(scores: VideoScores, rule: EventRule | None = None) -> dict[str, Any]:
    """Everything known about a video's scores, as JSON values; events by a rule, by default spans scored 0.5 or more."""
    rule = rule or EventRule()
    document: dict[str, Any] = {"video": scores.video, "fps": scores.fps, "frames": len(scores.scores)}
    document["rule"] = rule.model_dump(mode="json") | {"score": as_score(rule.threshold)}
    document["events"] = [vars(event) | {"peak_score": as_score(event.peak)} for event in events_of(scores, rule)]
    document["warnings"] = list(scores.warnings)
    document["seconds"] = scores.times.round(6).tolist()
    document["scores"] = scores.scores.tolist()
    document["truth"] = None if scores.truth is None else scores.truth.astype(int).tolist()
    return document


def save_score_table(folder: str | Path, scores: VideoScores) -> Path:
    """Write ``<video>.csv`` with frame, seconds, score (unrounded) and, where it is known, truth (0 or 1)."""
    columns = ["frame", "seconds", "score"] + (["truth"] if scores.truth is not None else [])
    path = Path(folder) / f"{scores.video}.csv"
    write_table(path, columns, _rows(scores))
    return path


def save_scores(
    folder: str | Path, scores: VideoScores, rule: EventRule | None = None, *, picture: bool = True
) -> dict[str, Path]:
    """Write ``<video>.csv``, ``<video>.json`` and ``<video>.png`` into a folder, each whole or not at all.

    Args:
        folder: Made if it is not there.
        scores: Scores of a video, with logits.
        rule: How events are found; by default spans scored 0.5 or more.
        picture: Whether to draw the curve.

    Returns:
        The files by their kind: csv, json, png.

    Raises:
        MissingExtraError: If a picture is asked for and matplotlib is not installed; the other files are written then.
    """
    folder = Path(folder)
    files = {"csv": save_score_table(folder, scores), "json": folder / f"{scores.video}.json"}
    with written_whole(files["json"]) as file:
        file.write((json.dumps(scores_document(scores, rule)) + "\n").encode())
    if picture:
        files["png"] = folder / f"{scores.video}.png"
        score_curve(files["png"], scores.scores, fps=scores.fps, truth=scores.truth, title=scores.video)
    return files


def _rows(scores: VideoScores) -> Iterator[dict[str, object]]:
    for frame, (seconds, score) in enumerate(zip(scores.times, scores.scores, strict=True)):
        row: dict[str, object] = {"frame": frame, "seconds": f"{seconds:.6f}", "score": float(score)}  # unrounded: no ties
        yield row if scores.truth is None else row | {"truth": int(scores.truth[frame])}
