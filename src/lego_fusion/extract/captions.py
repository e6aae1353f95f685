"""Captions beside a video, in JSON, CSV, SRT, VTT or TXT, as spans of frames with a text; and those of several videos."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Timed:
    """A caption in seconds, and where it was read."""

    start: float
    end: float
    text: str
    where: str


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
    captions = read(_text_of(path), str(path), timeline, way)
    return _within(captions, timeline.frames, way, str(path))


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
    raise DataError(
        f"the captions are {than} than the video",
        where=where,
        expected=f"captions for {frames} frames",
        got=f"captions for {captioned}",
        fix="caption the same video again, or choose gaps='nearest' or gaps='empty'",
    )


def _within(captions: Sequence[Caption], frames: int, gaps: Gaps, where: str) -> tuple[Caption, ...]:
    """Order captions by frame and cut them at the end of the video, which is an error unless gaps are accepted."""
    last = max((caption.end for caption in captions), default=0)
    if last > frames and gaps == "error":
        _refuse_length(last, frames, where)
    kept = [Caption(c.start, min(c.end, frames), c.text) for c in captions if c.start < frames]
    return tuple(sorted(kept, key=lambda caption: (caption.start, caption.end)))


def _text_of(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError("the caption file cannot be read", where=path, got=error.strerror) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise DataError(
            "the caption file is not UTF-8",
            where=path,
            got=f"byte 0x{byte:02x} at position {error.start}",
            fix="save it as UTF-8",
        ) from error


def _read_json(text: str, where: str, timeline: Timeline, gaps: Gaps) -> list[Caption]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError("not JSON", where=where + line, got=getattr(error, "msg", "too deeply nested")) from error
    if isinstance(content, dict) and isinstance(content.get("captions"), list):
        return _json_spans(content["captions"], where, timeline, gaps)
    if isinstance(content, dict) and content and all(key.isascii() and key.isdigit() for key in content):
        items = sorted((int(key), value) for key, value in content.items())
        for frame, value in items:
            _check_text(value, f"{where}, frame {frame}")
        return [Caption(frame, frame + 1, value.strip()) for frame, value in items if value and value.strip()]
    if isinstance(content, list) and not any(isinstance(entry, dict) for entry in content):
        for frame, value in enumerate(content):
            _check_text(value, f"{where}, frame {frame}")
        return list(captions_per_frame(content, timeline.frames, where=where, gaps=gaps))
    if isinstance(content, list):
        return _json_spans(content, where, timeline, gaps)
    raise DataError("no captions in the file", where=where, expected=_ACCEPTED, got=type(content).__name__)


def _json_spans(entries: list[Any], where: str, timeline: Timeline, gaps: Gaps) -> list[Caption]:
    captions: list[Caption] = []
    for number, entry in enumerate(entries):
        place = f"{where}, caption {number}"
        if not isinstance(entry, dict):
            raise DataError("not a caption", where=place, expected='{"start", "end", "text"}', got=type(entry).__name__)
        captions += _span_from(entry, place, timeline, gaps)
    return captions


def _check_text(value: object, where: str) -> None:
    if value is not None and not isinstance(value, str):
        raise DataError("not a text", where=where, expected="a string or null", got=type(value).__name__)


def _read_csv(text: str, where: str, timeline: Timeline, gaps: Gaps) -> list[Caption]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    captions: list[Caption] = []
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        if not any(
            wanted <= set(names)
            for wanted in ({"start_frame", "end_frame", "text"}, {"frame", "text"}, {"start", "end", "text"})
        ):
            raise DataError(
                "the columns are not those of captions",
                where=f"{where}, line 1",
                expected="start_frame,end_frame,text or frame,text or start,end,text (seconds)",
                got=",".join(names) or "an empty file",
            )
        reader.fieldnames = names
        for row in reader:
            place = f"{where}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError("a row of another length", where=place, expected=f"{len(names)} fields", fix="quote commas")
            captions += _span_from(row, place, timeline, gaps)
    except csv.Error as error:
        raise DataError("not CSV", where=f"{where}, line {reader.line_num}", got=error) from error
    return captions


def _span_from(entry: Mapping[str, Any], where: str, timeline: Timeline, gaps: Gaps) -> list[Caption]:
    """Turn one record with a text and frames or seconds into a caption; a blank text into none."""
    _check_text(entry.get("text"), f"{where}, text")
    text = (entry.get("text") or "").strip()
    if "frame" in entry:
        start = _whole(entry["frame"], f"{where}, frame")
        end = start + 1
    elif "start_frame" in entry and "end_frame" in entry:
        start, end = (_whole(entry[name], f"{where}, {name}") for name in ("start_frame", "end_frame"))
        if end <= start:
            raise DataError(
                "a caption ends before it starts", where=where, expected="start_frame < end_frame", got=f"{start}, {end}"
            )
    elif "start" in entry and "end" in entry:
        seconds = [_seconds(entry[name], f"{where}, {name}") for name in ("start", "end")]
        return _to_frames([_Timed(seconds[0], seconds[1], text, where)], timeline, gaps)
    else:
        raise DataError("a caption without its place", where=where, expected="start and end, or start_frame and end_frame")
    return [Caption(start, end, text)] if text else []


def _whole(value: object, where: str) -> int:
    try:
        number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else -1
    except ValueError:
        number = -1
    if number < 0:
        raise DataError("not the number of a frame", where=where, expected="an integer from 0", got=repr(value))
    return number


def _seconds(value: object, where: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise DataError("not a time", where=where, expected="seconds from 0", got=repr(value))
    return number


def _read_subtitles(text: str, where: str, timeline: Timeline, gaps: Gaps) -> list[Caption]:
    """Read SRT and WebVTT: blocks of a timing line and lines of text, after a number or name, between blank lines."""
    timed: list[_Timed] = []
    lines = _lines(text)
    number = 0
    while number < len(lines):
        block_start = number
        while number < len(lines) and lines[number].strip():
            number += 1
        timed += _subtitle(lines[block_start:number], block_start + 1, where)
        number += 1
    return _to_frames(timed, timeline, gaps)


def _subtitle(block: list[str], line: int, where: str) -> list[_Timed]:
    if not block or (re.match(r"^(WEBVTT|NOTE|STYLE|REGION)\b", block[0]) and "-->" not in "".join(block)):
        return []
    skipped = 0 if "-->" in block[0] else 1
    matched = _TIMING.match(block[skipped]) if len(block) > skipped else None
    if matched is None:
        got = block[min(skipped, len(block) - 1)].strip()
        raise DataError(
            "not a subtitle",
            where=f"{where}, line {line + min(skipped, len(block) - 1)}",
            expected="00:00:01,000 --> 00:00:02,000",
            got=repr(got[:60]),
        )
    start, end = (_clock(moment) for moment in matched.groups())
    text = " ".join(_MARKUP.sub("", part).strip() for part in block[skipped + 1 :]).strip()
    return [_Timed(start, end, text, f"{where}, line {line + skipped}")]


def _clock(moment: str) -> float:
    parts = [float(part) for part in moment.replace(",", ".").split(":")]
    return float(sum(part * 60.0**place for place, part in enumerate(reversed(parts))))


def _lines(text: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def _read_lines(text: str, where: str, timeline: Timeline, gaps: Gaps) -> list[Caption]:
    lines = _lines(text)
    while lines and len(lines) > timeline.frames and not lines[-1].strip():
        lines.pop()
    if len(lines) == 1 and lines[0].strip():
        return [Caption(0, timeline.frames, lines[0].strip())]
    return list(captions_per_frame(lines, timeline.frames, where=where, gaps=gaps))


def _to_frames(timed: Sequence[_Timed], timeline: Timeline, gaps: Gaps) -> list[Caption]:
    """Give each timed caption the frames whose middle it covers, or the one nearest to its own middle."""
    middles = _middles(timeline)
    ends = float(timeline.times[-1]) + 1.0 / timeline.fps
    captions = []
    for caption in timed:
        if caption.end <= caption.start:
            raise DataError(
                "a caption ends before it starts",
                where=caption.where,
                expected="start < end",
                got=f"{caption.start:g}, {caption.end:g} s",
            )
        if caption.start >= ends and gaps == "error":
            raise DataError(
                "the captions are longer than the video",
                where=caption.where,
                expected=f"captions up to {ends:g} s",
                got=f"one from {caption.start:g} s",
                fix="caption the same video again, or choose gaps='nearest' or gaps='empty'",
            )
        if not caption.text or caption.start >= ends:
            continue
        start, end = (int(place) for place in np.searchsorted(middles, (caption.start, caption.end)))
        if end <= start:
            start = int(np.abs(middles - (caption.start + caption.end) / 2).argmin())
            end = start + 1
        captions.append(Caption(start, end, caption.text))
    return captions


def _middles(timeline: Timeline) -> Float[np.ndarray, " frames"]:
    ends = np.append(timeline.times[1:], timeline.times[-1] + 1.0 / timeline.fps)
    return np.asarray((timeline.times + ends) / 2)


_READERS: dict[str, Callable[[str, str, Timeline, Gaps], list[Caption]]] = {
    ".json": _read_json,
    ".csv": _read_csv,
    ".srt": _read_subtitles,
    ".vtt": _read_subtitles,
    ".txt": _read_lines,
}


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
