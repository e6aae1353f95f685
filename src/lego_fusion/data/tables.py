"""The tables of a dataset folder: what it is, its videos, their ground truth in time, with file and line of what is wrong."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import DataError, located
from .features import FeatureLocation, Member
from .files import check_name, number_in, read_table, read_text, shorten, write_table
from .manifest import Manifest
from .video import is_video_file

_COLUMNS = ("video", "start_frame", "end_frame")


@dataclass(frozen=True)
class Interval:
    """Frames start_frame <= f < end_frame of one video in which something abnormal happens.

    Args:
        video: Name of the video.
        start_frame: First abnormal frame, counted from 0.
        end_frame: The frame after the last abnormal one.
        class_name: Kind of the event; empty where unknown.

    Raises:
        DataError: Unless 0 <= start_frame < end_frame.

    Example:
        >>> Interval("v01", 60, 180).end_frame
        180
    """

    video: str
    start_frame: int
    end_frame: int
    class_name: str = ""

    def __post_init__(self) -> None:
        check_name(self.video, "video")
        if not 0 <= self.start_frame < self.end_frame:
            raise DataError(
                "an interval must hold at least one frame",
                where=f"video '{self.video}'",
                expected="0 <= start_frame < end_frame",
                got=f"start_frame {self.start_frame}, end_frame {self.end_frame}",
                fix="count frames from 0 and give the frame after the last one as end_frame",
            )


def read_intervals(path: str | Path, videos: Iterable[VideoRecord] | None = None) -> dict[str, tuple[Interval, ...]]:
    """Read ground truth from a table with the columns video, start_frame, end_frame and optionally class.

    Args:
        path: A CSV file with a header row.
        videos: All that may be named, where they are known.

    Returns:
        Intervals by video, both in the order of the file.

    Raises:
        DataError: If the table cannot be read or a row is wrong; the message names file and line. Or if it names a video that
            is not listed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "intervals.csv"
        >>> write_intervals(path, [Interval("v01", 60, 180, "bicycle")])
        >>> read_intervals(path)["v01"]
        (Interval(video='v01', start_frame=60, end_frame=180, class_name='bicycle'),)
    """
    path = Path(path)
    by_video: dict[str, list[Interval]] = {}
    for line, row in read_table(path, _COLUMNS, ("class",)):
        with located(f"{path}, line {line}"):
            start, end = number_in(row, "start_frame", int), number_in(row, "end_frame", int)
            interval = Interval(row["video"], start, end, row.get("class", ""))
        by_video.setdefault(interval.video, []).append(interval)
    if videos is not None:
        check_listed(by_video, videos, path)
    return {video: tuple(intervals) for video, intervals in by_video.items()}


def check_listed(videos_with_intervals: Iterable[str], videos: Iterable[VideoRecord], path: Path) -> None:
    """Raise ``DataError`` if a table of intervals names a video that is not listed."""
    known = {record.video for record in videos}
    unknown = [video for video in videos_with_intervals if video not in known]
    if unknown:
        raise DataError(
            "intervals of a video that is not in the dataset",
            where=path,
            expected=f"videos of {VIDEOS_FILE}",
            got=shorten(map(repr, unknown)),
            fix="correct the name, or remove the interval",
        )


def write_intervals(path: str | Path, intervals: Iterable[Interval]) -> None:
    """Write ground truth as a table that ``read_intervals`` reads, in the order given, whole or not at all."""
    _write_records(Path(path), {name: name for name in _COLUMNS} | {"class": "class_name"}, intervals)


LABELS = ("normal", "abnormal", "")
CONFIG_FILE = "dataset.yaml"
VIDEOS_FILE = "videos.csv"
INTERVALS_FILE = "intervals.csv"
_REQUIRED = ("video", "label", "frames", "fps", "split")
_OPTIONAL = {"domain": "domain", "camera": "camera", "class": "class_name", "source": "source", "file": "file"}  # column: field


@dataclass(frozen=True)
class VideoRecord:
    """One row of ``videos.csv``.

    Args:
        video: Name, the name of its feature files too.
        label: ``"normal"``, ``"abnormal"``, or empty where nobody has said.
        frames: Number of frames, at least 1.
        fps: Frames per second, above 0.
        split: ``"train"``, ``"test"`` or any other name; empty for none.
        domain: Where the video comes from, for experiments across domains.
        camera: Name of the camera.
        class_name: Kind of anomaly (column ``class``).
        source: The recording it was cut from; no split divides the videos of one source. Empty where it stands alone.
        file: Path of the video file as it was given.

    Raises:
        DataError: If a value is outside its range.

    Example:
        >>> VideoRecord("v01", "normal", frames=180, fps=10.0, split="train").label
        'normal'
    """

    video: str
    label: str
    frames: int
    fps: float
    split: str = ""
    domain: str = ""
    camera: str = ""
    class_name: str = ""
    source: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        check_name(self.video, "video")
        where = f"video '{self.video}'"
        if self.label not in LABELS:
            raise DataError("unknown label", where=where, expected="normal, abnormal or empty", got=repr(self.label))
        if not (isinstance(self.frames, int) and self.frames >= 1):
            raise DataError("wrong number of frames", where=where, expected="an int from 1 up", got=repr(self.frames))
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise DataError("wrong frame rate", where=where, expected="a number above 0", got=repr(self.fps))


class DatasetConfig(BaseModel):
    """Content of ``dataset.yaml``.

    Args:
        name: Name of the dataset.
        snippet_frames: Frames that a feature row describes.
        stride: Frames from one feature row to the next, the same in all modalities.
        modalities: Manifest of every modality by its name; the order is kept.
        locations: Where the features of a modality lie, if not in the dataset folder.
        members: Dataset folders whose videos and features these are, by their names (``joining.join_datasets``).

    Example:
        >>> DatasetConfig(name="doors").stride
        16
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    snippet_frames: int = Field(default=16, ge=1)
    stride: int = Field(default=16, ge=1)
    modalities: dict[str, Manifest] = Field(default_factory=dict)
    locations: dict[str, FeatureLocation] = Field(default_factory=dict)
    members: dict[str, Member] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _manifests_fit(self) -> DatasetConfig:
        for name, manifest in self.modalities.items():
            if manifest.modality != name:
                raise ValueError(f"modality '{name}' has the manifest of '{manifest.modality}'")
            if manifest.stride != self.stride:
                raise ValueError(f"modality '{name}' has stride {manifest.stride}, the dataset {self.stride}")
        unknown = [name for name in self.locations if name not in self.modalities]
        if unknown:
            raise ValueError(f"locations names '{unknown[0]}', which is no modality")
        return self


def read_config(path: str | Path) -> DatasetConfig:
    """Read ``dataset.yaml``; ``DataError`` in one line if it is not YAML or holds an unknown or wrong key."""
    path = Path(path)
    fix = f"correct {path.name}"
    try:
        return DatasetConfig.model_validate(yaml.safe_load(read_text(path)))
    except yaml.YAMLError as error:
        raise DataError(f"not a YAML file: {error}", where=path, fix=fix) from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in error.errors(include_url=False)
        ]
        raise DataError(f"wrong dataset settings: {'; '.join(faults)}", where=path, fix=fix) from error


def read_videos(path: str | Path) -> tuple[VideoRecord, ...]:
    """Read ``videos.csv`` in order; ``DataError`` with file and line if it is empty or a row is wrong or repeated.

    A table without the column ``file`` may name the video files as sources, as earlier versions wrote it: a source with the
    ending of a video file that one video alone has is its file.
    """
    path = Path(path)
    records: dict[str, VideoRecord] = {}
    table = read_table(path, _REQUIRED, tuple(_OPTIONAL))
    for line, row in table if not table or "file" in table[0][1] else _with_files(table):
        with located(f"{path}, line {line}"):
            frames, fps = number_in(row, "frames", int), number_in(row, "fps", float)
            optional = {field: row.get(column, "") for column, field in _OPTIONAL.items()}
            record = VideoRecord(row["video"], row["label"], frames, fps, row["split"], **optional)
            if record.video in records:
                raise DataError(f"the video '{record.video}' is listed twice")
        records[record.video] = record
    if not records:
        raise DataError("the table lists no video", where=path, fix="add one row per video")
    return tuple(records.values())


def write_videos(path: str | Path, records: Iterable[VideoRecord]) -> None:
    """Write ``videos.csv``, whole or not at all; optional columns appear only where a video uses them."""
    records = tuple(records)
    columns = {name: name for name in _REQUIRED} | {
        column: field for column, field in _OPTIONAL.items() if any(getattr(record, field) for record in records)
    }
    _write_records(Path(path), columns, records)


def _with_files(table: list[tuple[int, dict[str, str]]]) -> list[tuple[int, dict[str, str]]]:
    """Rows whose source is a video file of their own name it as their file."""
    count = Counter(row.get("source", "") for _, row in table)
    moved = []
    for line, row in table:
        source = row.get("source", "")
        own = count[source] == 1 and is_video_file(source)
        moved.append((line, {**row, "file": source, "source": ""} if own else row))
    return moved


def _write_records(path: Path, columns: Mapping[str, str], records: Iterable[Interval | VideoRecord]) -> None:
    """Write the fields that columns are named after."""
    write_table(path, tuple(columns), ({column: getattr(one, field) for column, field in columns.items()} for one in records))


def hash_tables(root: Path) -> str:
    """SHA-256 over the three tables of a dataset folder as they stand on disk."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, VIDEOS_FILE, INTERVALS_FILE):
        path = root / name
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "absent"
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()
