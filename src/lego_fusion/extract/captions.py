"""Captions beside a video, in JSON, CSV, SRT, VTT or TXT, as spans of frames with a text; and those of several videos."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64

from ..data.files import read_text
from ..data.tables import VideoRecord
from ..errors import DataError, check_choice

Gaps = Literal["error", "nearest", "empty"]
GAPS = ("error", "nearest", "empty")
CAPTION_SUFFIXES = (".json", ".csv", ".srt", ".vtt", ".txt")
_TIMING = re.compile(r"^\s*((?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3})\s*-->\s*((?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3})(?:\s.*)?$")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")
_HEADER = re.compile(r"^(WEBVTT|NOTE|STYLE|REGION)\b")
_FIX_LENGTH = "caption the same video again, or choose gaps='nearest' or gaps='empty'"
_ACCEPTED = (
    'a list with one text or null per frame, {"captions": [{"start", "end", "text"}]} in seconds '
    '(or "start_frame", "end_frame"), or {"frame": "text"}'
)


@runtime_checkable
class Timeline(Protocol):
    """When the frames of a video are shown, as VideoInfo says it."""

    @property
    def frames(self) -> int:
        """Number of frames."""

    @property
    def fps(self) -> float:
        """Frames per second."""

    @property
    def times(self) -> Float[np.ndarray, " frames"]:
        """Seconds of each frame after the first."""


@dataclass(frozen=True)
class Caption:
    """What is said about the frames [start, end) of a video.

    Args:
        start: First frame, from 0.
        end: The frame after the last.
        text: Not empty.
    """

    start: int
    end: int
    text: str


# How an entry says where its text belongs: (first, last, its type, what may stand for it, what is wrong, what is expected)
_PLACES: tuple[tuple[str, str, type, tuple[type, ...], str, str], ...] = (
    ("frame", "frame", int, (int, str), "not the number of a frame", "an integer from 0"),
    ("start_frame", "end_frame", int, (int, str), "not the number of a frame", "an integer from 0"),
    ("start", "end", float, (int, float, str), "not a time", "seconds from 0"),
)


def read_captions(path: str | Path, timeline: Timeline, *, gaps: str = "error") -> tuple[Caption, ...]:
    """Read the captions of one video, in frames.

    Formats by suffix, all UTF-8: ``.json`` (one text or null per frame; ``{"captions": [...]}`` with start and end in
    seconds or start_frame and end_frame; ``{"frame": "text"}``), ``.csv`` (columns start_frame,end_frame,text or
    frame,text or start,end,text in seconds), ``.srt`` and ``.vtt``, ``.txt`` (a line per frame, or one line for the
    whole video). Times in seconds take the frames whose middle lies in [start, end), at least one. Null or blank
    texts are gaps. Captions may overlap.

    Args:
        path: The caption file.
        timeline: The video it belongs to, for example from probe_video.
        gaps: ``"error"`` refuses a file whose length in frames is not the video's; ``"nearest"`` and ``"empty"``
            accept it (what lies past the end is cut), for the extractor to fill.

    Raises:
        DataError: Malformed (the line is named), not UTF-8 (the byte is named), or of another length than the video.
    """
    path = Path(path)
    way: Gaps = check_choice(gaps, "gaps", "read_captions", GAPS)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError("no such caption format", where=path, expected=" ".join(CAPTION_SUFFIXES), got=path.suffix or "none")
    captions = read(_Reader(str(path), timeline, way), read_text(path))
    last = max((caption.end for caption in captions), default=0)
    if last > timeline.frames and way == "error":
        _refuse_length(last, timeline.frames, str(path))
    kept = [Caption(c.start, min(c.end, timeline.frames), c.text) for c in captions if c.start < timeline.frames]
    return tuple(sorted(kept, key=lambda caption: (caption.start, caption.end)))


def captions_per_frame(texts: Sequence[str | None], frames: int, *, where: str, gaps: Gaps = "error") -> tuple[Caption, ...]:
    """Turn one text or None per frame into captions, equal neighbours joined.

    Raises:
        DataError: Another number of texts than frames, where ``gaps`` is ``"error"``.

    Example:
        >>> captions_per_frame(["a", "a", None, "b"], 4, where="street.json")
        (Caption(start=0, end=2, text='a'), Caption(start=3, end=4, text='b'))
    """
    if len(texts) != frames and gaps == "error":
        _refuse_length(len(texts), frames, where)
    captions: list[Caption] = []
    for frame, text in enumerate(texts[:frames]):
        text = (text or "").strip()
        if text and captions and captions[-1].end == frame and captions[-1].text == text:
            captions[-1] = Caption(captions[-1].start, frame + 1, text)
        elif text:
            captions.append(Caption(frame, frame + 1, text))
    return tuple(captions)


def _refuse_length(captioned: int, frames: int, where: str) -> None:
    than = "shorter" if captioned < frames else "longer"
    expected, got = f"captions for {frames} frames", f"captions for {captioned}"
    raise DataError(f"the captions are {than} than the video", where=where, expected=expected, got=got, fix=_FIX_LENGTH)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads the text of one file, in any format, for one video."""

    where: str
    timeline: Timeline
    gaps: Gaps

    def json(self, text: str) -> list[Caption]:
        content = _read_json(text, self.where)
        entries = content.get("captions") if isinstance(content, dict) else content
        if isinstance(content, dict) and content and all(key.isascii() and key.isdigit() for key in content):
            frames = sorted((int(key), value) for key, value in content.items())
            return [
                caption for frame, value in frames for caption in self.entry({"frame": frame, "text": value}, "frame", frame)
            ]
        if not isinstance(entries, list):
            raise DataError("no captions in the file", where=self.where, expected=_ACCEPTED, got=type(content).__name__)
        if entries is content and not any(isinstance(entry, dict) for entry in entries):
            texts = [_checked_text(entry, f"{self.where}, frame {frame}") for frame, entry in enumerate(entries)]
            return list(captions_per_frame(texts, self.timeline.frames, where=self.where, gaps=self.gaps))
        return [caption for number, entry in enumerate(entries) for caption in self.entry(entry, "caption", number)]

    def csv(self, text: str) -> list[Caption]:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        captions: list[Caption] = []
        try:
            names = [name.strip().lower() for name in reader.fieldnames or ()]
            if not any({first, last, "text"} <= set(names) for first, last, *_ in _PLACES):
                raise DataError(
                    "the columns are not those of captions",
                    where=f"{self.where}, line 1",
                    expected="start_frame,end_frame,text or frame,text or start,end,text (seconds)",
                    got=",".join(names) or "an empty file",
                )
            reader.fieldnames = names
            for row in reader:
                if None in row or None in row.values():
                    place, expected = f"{self.where}, line {reader.line_num}", f"{len(names)} fields"
                    raise DataError("a row of another length", where=place, expected=expected, fix="quote commas")
                captions += self.entry(row, "line", reader.line_num)
        except csv.Error as error:
            raise DataError("not CSV", where=f"{self.where}, line {reader.line_num}", got=error) from error
        return captions

    def subtitles(self, text: str) -> list[Caption]:
        """SRT and WebVTT: blocks of a timing line and lines of text, after a number or name, between blank lines."""
        captions: list[Caption] = []
        block: list[str] = []
        for number, line in enumerate([*_lines(text), ""]):
            if line.strip():
                block.append(line)
                continue
            if block and not (_HEADER.match(block[0]) and "-->" not in "".join(block)):
                captions += self._subtitle(block, number - len(block) + 1)
            block = []
        return captions

    def _subtitle(self, block: Sequence[str], first_line: int) -> list[Caption]:
        place = 0 if "-->" in block[0] or len(block) == 1 else 1
        timing = _TIMING.match(block[place])
        if timing is None:
            where, got = f"{self.where}, line {first_line + place}", repr(block[place].strip()[:60])
            raise DataError("not a subtitle", where=where, expected="00:00:01,000 --> 00:00:02,000", got=got)
        start, end = (_seconds(moment) for moment in timing.groups())
        words = " ".join(_MARKUP.sub("", part).strip() for part in block[place + 1 :])
        return self.entry({"start": start, "end": end, "text": words}, "line", first_line + place)

    def lines(self, text: str) -> list[Caption]:
        lines, frames = _lines(text), self.timeline.frames
        while len(lines) > frames and not lines[-1].strip():
            lines.pop()
        if len(lines) == 1 and lines[0].strip():
            lines *= frames  # one line is for the whole video
        return list(captions_per_frame(lines, frames, where=self.where, gaps=self.gaps))

    def entry(self, entry: object, unit: str, number: int) -> list[Caption]:
        """A text with its place as a caption; a blank text as none."""
        where = f"{self.where}, {unit} {number}"
        if not isinstance(entry, dict):
            raise DataError("not a caption", where=where, expected='{"start", "end", "text"}', got=type(entry).__name__)
        text = (_checked_text(entry.get("text"), where) or "").strip()
        for first, last, kind, types, wrong, expected in _PLACES:
            if first not in entry or last not in entry:
                continue
            start, end = (_number(entry[name], kind, types, wrong, expected, f"{where}, {name}") for name in (first, last))
            if first == last:
                end += 1
            if end <= start:
                got = f"{start:g}, {end:g}"
                raise DataError("a caption ends before it starts", where=where, expected=f"{first} < {last}", got=got)
            return self._in_frames(start, end, text, where) if kind is float else _captions(int(start), int(end), text)
        raise DataError("a caption without its place", where=where, expected="start and end, or start_frame and end_frame")

    def _in_frames(self, start: float, end: float, text: str, where: str) -> list[Caption]:
        """Give a caption in seconds the frames whose middle it covers, or the one nearest to its own middle."""
        ends, middles = self._clock
        if start >= ends:
            if self.gaps == "error":
                expected, got = f"captions up to {ends:g} s", f"one from {start:g} s"
                long = "the captions are longer than the video"
                raise DataError(long, where=where, expected=expected, got=got, fix=_FIX_LENGTH)
            return []
        first, last = (int(place) for place in np.searchsorted(middles, (start, end)))
        if last <= first:
            first = int(np.abs(middles - (start + end) / 2).argmin())
            last = first + 1
        return _captions(first, last, text)

    @cached_property
    def _clock(self) -> tuple[float, Float[np.ndarray, " frames"]]:
        """When the video ends, and the middle of each frame."""
        times = np.append(self.timeline.times, self.timeline.times[-1] + 1.0 / self.timeline.fps)
        return float(times[-1]), (times[:-1] + times[1:]) / 2


_READERS: dict[str, Callable[[_Reader, str], list[Caption]]] = {
    ".json": _Reader.json,
    ".csv": _Reader.csv,
    ".srt": _Reader.subtitles,
    ".vtt": _Reader.subtitles,
    ".txt": _Reader.lines,
}


def _captions(start: int, end: int, text: str) -> list[Caption]:
    return [Caption(start, end, text)] if text else []


def _read_json(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError("not JSON", where=f"{where}{line}", got=getattr(error, "msg", "too deeply nested")) from error


def _checked_text(value: object, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DataError("not a text", where=where, expected="a string or null", got=type(value).__name__)
    return value


def _number(value: object, kind: type, types: tuple[type, ...], wrong: str, expected: str, where: str) -> float:
    try:
        number = kind(value) if isinstance(value, types) and not isinstance(value, bool) else -1
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise DataError(wrong, where=where, expected=expected, got=repr(value))
    return float(number)


def _seconds(clock: str) -> float:
    """Seconds of ``00:01:02,500``."""
    parts = [float(part) for part in clock.replace(",", ".").split(":")]
    return float(sum(part * 60.0**place for place, part in enumerate(reversed(parts))))


def _lines(text: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


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
    where = None if where is None else Path(where)
    captions: dict[str, tuple[Caption, ...]] = {}
    texts = texts_by_video(where) if where is not None and where.suffix.lower() == ".json" and not where.is_dir() else {}
    for one in videos:
        if one.video in texts:
            place = f"{where}, video {one.video}"
            captions[one.video] = captions_per_frame(texts[one.video], one.frames, where=place, gaps="empty")
            continue
        if where is None:
            path = captions_beside(Path(one.file)) if one.file else None
        elif where.is_dir():
            path = _in_folder(where, one.video)
        else:
            path = where if not texts and one.video == (where.stem if sole is None else sole) else None
        if path is not None:
            captions[one.video] = read_captions(path, _Clock(one.frames, one.fps), gaps="empty")
    if where is not None and required and not captions:
        names = ", ".join(one.video for one in videos[:3])
        raise DataError("no captions of these videos", where=where, expected=f"captions of {names}", got="none of them")
    return captions


def captions_beside(video: Path) -> Path | None:
    """The caption file of a video in ``captions/`` beside it or beside its folder."""
    found = (_in_folder(parent / "captions", video.stem) for parent in (video.parent, video.parent.parent))
    return next((path for path in found if path is not None), None)


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


def _in_folder(folder: Path, name: str) -> Path | None:
    return next((path for suffix in CAPTION_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def texts_by_video(path: Path) -> dict[str, list[str | None]]:
    """Lists of texts by the names above them, joined by ``_``; empty where the file is not such a table."""
    found: dict[str, list[str | None]] = {}
    tables: list[tuple[str, Any]] = [("", _read_json(read_text(path), path))]
    while tables:
        name, table = tables.pop()
        if isinstance(table, dict) and "captions" not in table:
            tables += [(f"{name}_{key}" if name else str(key), inner) for key, inner in table.items()]
        elif name and isinstance(table, list) and all(text is None or isinstance(text, str) for text in table):
            found[name] = table
    return found
