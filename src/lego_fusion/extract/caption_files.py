"""Find and read the captions of several videos of a dataset, and the words that set some frames apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..data.dataset import VideoRecord
from ..data.files import read_text
from ..errors import DataError
from .captions import CAPTION_SUFFIXES, Caption, captions_per_frame, read_captions

_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class _Clock:
    """When the frames of a video of a dataset are shown."""

    frames: int
    fps: float

    @property
    def times(self) -> Float64[np.ndarray, " frames"]:
        return np.arange(self.frames) / self.fps


def captions_of(
    records: Iterable[VideoRecord], where: str | Path | None = None, *, sole: str | None = None, required: bool = True
) -> dict[str, tuple[Caption, ...]]:
    """Read the captions of videos, as far as there are any.

    Args:
        records: The videos.
        where: A folder with ``<video>.json`` (.csv, .srt, .vtt, .txt); or a JSON file that holds those of many videos, one text
            or null per frame, by name (``{"door_01": [...]}``, or by parts of the name, ``{"test": {"01": [...]}}`` for
            test_01); or the caption file of one video, by its name or ``sole``. None looks for ``captions/`` beside each
            video's file.
        sole: The video that a caption file of another name belongs to.
        required: Whether it is an error if ``where`` names none of the videos.

    Returns:
        Captions by video; a video without any is absent. What lies past a video's end is cut, and gaps are left.

    Raises:
        DataError: If a file is malformed, or ``where`` names none of the videos.
    """
    videos = list(records)
    if where is None:
        found = {one.video: path for one in videos if (path := _beside(one)) is not None}
        return {one.video: _read(found[one.video], one) for one in videos if one.video in found}
    where = Path(where)
    if where.is_dir():
        files = {one.video: path for one in videos if (path := _in_folder(where, one.video)) is not None}
        captions = {one.video: _read(files[one.video], one) for one in videos if one.video in files}
    else:
        texts = _texts_by_video(where) if where.suffix.lower() == ".json" else {}
        captions = {
            one.video: captions_per_frame(texts[one.video], one.frames, where=f"{where}, video {one.video}", gaps="empty")
            for one in videos
            if one.video in texts
        }
        if not texts:
            name = sole if sole is not None else where.stem
            captions = {one.video: _read(where, one) for one in videos if one.video == name}
    if required and not captions:
        names = ", ".join(one.video for one in videos[:3])
        raise DataError("no captions of these videos", where=where, expected=f"captions of {names}", got="none of them")
    return captions


def captions_between(captions: Sequence[Caption], start: int, end: int, *, most: int = 1) -> tuple[str, ...]:
    """The captions of the middles of ``most`` equal parts of the frames [start, end), without repetition.

    Example:
        >>> captions_between([Caption(0, 5, "a door"), Caption(5, 9, "a dog")], 0, 9, most=2)
        ('a door', 'a dog')
    """
    texts: dict[str, None] = {}
    near = [one for one in captions if one.start < end and one.end > start]
    for part in range(most):
        if near:
            middle = start + (2 * part + 1) * (end - start) / (2 * most)
            texts[min(near, key=lambda one: abs((one.start + one.end) / 2 - middle)).text] = None
    return tuple(texts)


def word_shares(captions: Iterable[Caption], start: int = 0, end: int | None = None) -> dict[str, float]:
    """Share of the captioned frames in [start, end) whose captions have a word, by word in small letters.

    Example:
        >>> word_shares([Caption(0, 3, "A door"), Caption(3, 4, "a door, a dog")])
        {'door': 1.0, 'dog': 0.25}
    """
    frames: dict[str, set[int]] = {}
    captioned: set[int] = set()
    for one in captions:
        covered = range(max(one.start, start), one.end if end is None else min(one.end, end))
        captioned.update(covered)
        for word in dict.fromkeys(_WORD.findall(one.text.lower())):
            frames.setdefault(word, set()).update(covered)
    return {word: len(inside) / len(captioned) for word, inside in frames.items() if inside}


def _read(path: Path, record: VideoRecord) -> tuple[Caption, ...]:
    return read_captions(path, _Clock(record.frames, record.fps), gaps="empty")


def _beside(record: VideoRecord) -> Path | None:
    if not record.file:
        return None
    file = Path(record.file)
    for parent in (file.parent, file.parent.parent):
        if (path := _in_folder(parent / "captions", file.stem)) is not None:
            return path
    return None


def _in_folder(folder: Path, name: str) -> Path | None:
    return next((path for suffix in CAPTION_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _texts_by_video(path: Path) -> dict[str, list[str | None]]:
    """Lists of texts by the names above them, joined by ``_``; empty where the file is not such a table."""
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError("not JSON", where=path, got=getattr(error, "msg", "too deeply nested")) from error
    found: dict[str, list[str | None]] = {}
    tables: list[tuple[str, Any]] = [("", content)]
    while tables:
        name, table = tables.pop()
        if isinstance(table, dict) and "captions" not in table:
            tables += [(f"{name}_{key}" if name else str(key), inner) for key, inner in table.items()]
        elif name and isinstance(table, list) and all(text is None or isinstance(text, str) for text in table):
            found[name] = table
    return found
