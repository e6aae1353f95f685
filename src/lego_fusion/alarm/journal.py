"""Alarms on disk: a journal that survives a kill at any moment, and the place where watching a file goes on.

The journal is a file of JSON lines that is only ever added to, each line numbered and on the disk before anyone hears of the
alarm. A line that a kill tore is dropped at the next start. Whoever goes on with the same video makes the same alarms again;
those that are there already are known by video, kind and start, and are not written twice.
"""

from __future__ import annotations

import importlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..errors import CheckpointError, DataError, ParameterError
from ..writing import written_whole

MOST_WAITING = 1000  # lines kept in memory while the disk is full
Record = dict[str, JsonValue]
_Key = tuple[JsonValue, ...]


class AlarmJournal:
    """An append-only file of alarms as JSON lines; one process at a time.

    Args:
        path: The file; made if it is not there.
        notify: Hears when the disk is full, and when it no longer is.

    Raises:
        ParameterError: If another process writes it.
        DataError: If a line other than a torn last one is no alarm.
    """

    def __init__(self, path: str | Path, *, notify: Callable[[str], None] = lambda _: None) -> None:
        self.path, self._notify = Path(path), notify
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab", buffering=0)  # a failed write leaves nothing behind
        _lock(self._file, self.path)
        self.last_id = 0
        self.interrupted: Record | None = None  # the last alarm, if its event never ended
        self._keys: dict[_Key, int] = {}  # of the last video, with the line's number
        self._video: JsonValue = None
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        try:
            self._read()
        except DataError:
            self._file.close()
            raise

    def __enter__(self) -> AlarmJournal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def append(self, record: Mapping[str, JsonValue]) -> Record | None:
        """Write an alarm and give it as written, with its ``id``; None if it is there already.

        A full disk does not stop the watching: lines wait in memory, at most 1,000, and are written when there is room.
        """
        key = _key(record)
        if record["video"] != self._video:
            self._video, self._keys = record["video"], {}
        if key in self._keys:
            return None
        written: Record = {"id": 0, **record} | {"id": self.last_id + 1}
        self.last_id += 1
        if record["video"]:  # what comes from a camera never comes again
            self._keys[key] = self.last_id
        self._waiting.append(json.dumps(written).encode() + b"\n")
        self.flush()
        return written

    def flush(self) -> None:
        """Write what waits, oldest first, as far as the disk takes it: whole lines only."""
        troubled = len(self._waiting) > 1
        while self._waiting:
            size = os.fstat(self._file.fileno()).st_size
            try:
                write_line(self._file, self._waiting[0])
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._file.fileno(), size)
                if not troubled:
                    self._notify(f"{self.path} cannot be written ({error.strerror}); alarms wait in memory")
                return
            self._waiting.popleft()
        if troubled:
            self._notify(f"{self.path} is written again")

    def close(self) -> None:
        """Write what waits and let go of the file."""
        self.flush()
        self._file.close()

    def _read(self) -> None:
        whole = 0
        for number, (line, end) in enumerate(_lines(self.path), start=1):
            record = _parsed(line, self.path, number)
            whole = end
            self.last_id = int(str(record["id"]))
            if record["video"] != self._video:
                self._video, self._keys = record["video"], {}
            if record["video"]:
                self._keys[_key(record)] = self.last_id
            self.interrupted = record if record["kind"] == "alarm" else None
        if self.path.stat().st_size > whole:
            os.ftruncate(self._file.fileno(), whole)
            os.fsync(self._file.fileno())


def read_alarms(path: str | Path) -> list[Record]:
    """The alarms of a journal, without a torn last line.

    Raises:
        DataError: If a line is no alarm.
    """
    return [_parsed(line, Path(path), number) for number, (line, _) in enumerate(_lines(Path(path)), start=1)]


def write_line(file: io.FileIO, line: bytes) -> None:
    """Append a line and wait until it is on the disk."""
    written = 0
    while written < len(line):
        written += file.write(line[written:])
    os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Whole lines, and the place in the file where each one ends."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            if line.endswith(b"\n"):
                yield line, end


def _parsed(line: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"id", "kind", "video", "start_seconds"} <= set(record):
        fix = "give another --out, or move the file away"
        raise DataError("a line is no alarm", where=f"{path}, line {number}", got=line[:60].decode(errors="replace"), fix=fix)
    return record


def _key(record: Mapping[str, JsonValue]) -> _Key:
    return record["video"], record.get("video_bytes"), record["kind"], record["start_seconds"]


def _lock(file: io.FileIO, path: Path) -> None:
    """Keep other processes out, where the system can; a killed process lets go by itself."""
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ParameterError("another watch writes this file", where=path, fix="give each watch its own --out") from error


def now_as_text() -> str:
    """The time of day in UTC, as a person reads it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Position(BaseModel):
    """How far a file was watched.

    Args:
        video: Identity of the file that is being watched.
        segments: Segments of it that are scored.
        tracker: State of the event tracker after them.
        recent: Those of their logits that smooth the next ones, with their numbers.
    """

    model_config = ConfigDict(extra="forbid")

    video: str = ""
    segments: int = Field(default=0, ge=0)
    tracker: dict[str, float | bool | None] = Field(default_factory=dict)
    recent: tuple[tuple[int, float], ...] = ()


class Progress:
    """Where watching files goes on: the videos that are done, and the position in the one that is not.

    Args:
        journal: The alarms; ``<journal>.done`` and ``<journal>.position`` lie beside it.
        fingerprint: Of the model and the rule: alarms made by another one are not continued.

    Raises:
        CheckpointError: If they belong to another model or rule, or cannot be read.
    """

    def __init__(self, journal: Path, fingerprint: str) -> None:
        self._done_path, self._position_path = Path(f"{journal}.done"), Path(f"{journal}.position")
        self.position = self._read_position()
        first, *done = self._read_done() or [fingerprint]
        if first != fingerprint:
            fix = "give another --out, or move the files away"
            raise CheckpointError("the alarms here were made with another model or another rule", where=journal, fix=fix)
        self.done = set(done)
        self._file = self._done_path.open("ab", buffering=0)
        if self._file.tell() == 0:
            self._append(fingerprint)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def finish(self, video: str) -> None:
        """A video is done."""
        if video not in self.done:
            self.done.add(video)
            self._append(video)

    def save(
        self,
        video: str,
        segments: int,
        tracker: Mapping[str, float | bool | None],
        recent: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """Keep how far a video is watched."""
        self.position = Position(video=video, segments=segments, tracker=dict(tracker), recent=recent)
        with written_whole(self._position_path) as file:
            file.write(self.position.model_dump_json().encode())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _append(self, text: str) -> None:
        write_line(self._file, json.dumps(text).encode() + b"\n")

    def _read_done(self) -> list[str]:
        if not self._done_path.is_file():
            return []
        lines, whole = [], 0
        for line, end in _lines(self._done_path):
            try:
                lines.append(str(json.loads(line)))
            except ValueError as error:
                raise CheckpointError("the list of finished videos is damaged", where=self._done_path) from error
            whole = end
        os.truncate(self._done_path, whole)
        return lines

    def _read_position(self) -> Position:
        if not self._position_path.is_file():
            return Position()
        try:
            return Position.model_validate_json(self._position_path.read_bytes())
        except ValidationError as error:
            raise CheckpointError("the saved position is damaged", where=self._position_path, fix="delete it") from error
