"""Alarm cards as files: a JSON document per event, an HTML page per video and, for several videos, a list of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..why.event_records import EventExplanation, VideoExplanation, event_document
from ..writing import written_whole
from .card_page import index_page, video_page
from .pictures import Pictures
from .words import headline


def card_document(explanation: VideoExplanation, event: EventExplanation) -> dict[str, Any]:
    """One event with what is needed to understand it by itself, as JSON values."""
    document: dict[str, Any] = {"headline": headline(explanation, event), "video": explanation.video, "run": explanation.run}
    document |= {"dataset": explanation.dataset, "fps": explanation.fps, "threshold": explanation.threshold}
    document |= {"removal": explanation.removal, "removal_meaning": explanation.removal_meaning}
    document |= {"modalities": dict(explanation.kinds), "settings": dict(explanation.settings)}
    return document | event_document(event)


def save_cards(
    folder: str | Path, explanations: Sequence[VideoExplanation], pictures: Pictures | None = None
) -> dict[str, list[Path]]:
    """Write ``<video>.html`` and ``<video>-event-<n>.json``, and for several videos ``index.html``.

    Each file is written whole or not at all. Event files of the same video from an earlier call that had more events are
    removed.

    Args:
        folder: Made if it is not there.
        explanations: Of different videos.
        pictures: From ``load_pictures``; None leaves pictures out.

    Returns:
        Files by kind: ``pages``, ``events`` and ``index``.

    Raises:
        DataError: If there is nothing to write, or a video comes twice.
    """
    folder, videos = Path(folder), [one.video for one in explanations]
    if not videos or len(set(videos)) < len(videos):
        got = ", ".join(videos) or "none"
        raise DataError("cards are written for different videos", where=folder, expected="each video once", got=got)
    several = len(videos) > 1
    pages = {video: _file_name(video, several=several) for video in videos}
    files: dict[str, list[Path]] = {"pages": [], "events": [], "index": []}
    for explanation in explanations:
        for number, event in enumerate(explanation.events, start=1):
            content = json.dumps(card_document(explanation, event), indent=2, allow_nan=False, ensure_ascii=False)
            files["events"].append(_write(folder / f"{explanation.video}-event-{number}.json", content + "\n"))
        _remove_older(folder, explanation)
        page = video_page(explanation, pictures, index="index.html" if several else None)
        files["pages"].append(_write(folder / pages[explanation.video], page))
    if several:
        files["index"].append(_write(folder / "index.html", index_page(explanations, pages)))
    return files


def _file_name(video: str, *, several: bool) -> str:
    """Name of a page; a video called 'index' must not take the place of the list."""
    return f"{video}-video.html" if several and video == "index" else f"{video}.html"


def _write(path: Path, text: str) -> Path:
    with written_whole(path) as file:
        file.write(text.encode())
    return path


def _remove_older(folder: Path, explanation: VideoExplanation) -> None:
    for path in folder.glob("*-event-*.json") if folder.is_dir() else ():
        found = re.fullmatch(r"(.*)-event-(\d+)\.json", path.name)
        if found and found[1] == explanation.video and int(found[2]) > len(explanation.events):
            path.unlink()
