"""Ground truth in time: half-open intervals of frames, in a table or as one truth value per frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ..errors import DataError, check_int
from .files import check_name, read_table, write_table

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


def read_intervals(path: str | Path) -> dict[str, tuple[Interval, ...]]:
    """Read ground truth from a table with the columns video, start_frame, end_frame and optionally class.

    Args:
        path: A CSV file with a header row.

    Returns:
        Intervals by video, both in the order of the file.

    Raises:
        DataError: If the table cannot be read or a row is wrong; the message names file and line.

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
        where = f"{path}, line {line}"
        start, end = (_frame_number(row, column, where) for column in ("start_frame", "end_frame"))
        try:
            interval = Interval(row["video"], start, end, row.get("class", ""))
        except DataError as error:
            raise DataError(error.what, where=where, expected=error.expected, got=error.got, fix=error.fix) from error
        by_video.setdefault(interval.video, []).append(interval)
    return {video: tuple(intervals) for video, intervals in by_video.items()}


def write_intervals(path: str | Path, intervals: Iterable[Interval]) -> None:
    """Write ground truth as a table that ``read_intervals`` reads, in the order given, whole or not at all."""
    rows = ((interval.video, interval.start_frame, interval.end_frame, interval.class_name) for interval in intervals)
    columns = (*_COLUMNS, "class")
    write_table(Path(path), columns, (dict(zip(columns, row, strict=True)) for row in rows))


def labels_from_intervals(intervals: Iterable[Interval], frames: int) -> Bool[np.ndarray, " frames"]:
    """One truth value per frame of a video: True inside any of its intervals, which may overlap.

    Args:
        intervals: Intervals of one video.
        frames: Number of frames of that video, at least 1.

    Returns:
        Truth values, shape (frames,).

    Raises:
        DataError: If an interval ends after the video.

    Example:
        >>> labels_from_intervals([Interval("v01", 1, 3)], frames=4).tolist()
        [False, True, True, False]
    """
    labels = np.zeros(check_int(frames, "frames", "labels_from_intervals", low=1), dtype=bool)
    for interval in intervals:
        if interval.end_frame > frames:
            raise DataError(
                "an interval ends after its video",
                where=f"video '{interval.video}'",
                expected=f"at most {frames} frames",
                got=f"frames {interval.start_frame} to {interval.end_frame}",
                fix="correct intervals.csv, or the number of frames in videos.csv",
            )
        labels[interval.start_frame : interval.end_frame] = True
    return labels


def intervals_from_labels(video: str, labels: Bool[np.ndarray, " frames"], class_name: str = "") -> tuple[Interval, ...]:
    """Longest runs of True in the frames of a video, in time order.

    Args:
        video: Name of the video.
        labels: One truth value per frame, shape (frames,).
        class_name: Kind of event to write into every interval.

    Returns:
        The intervals; ``labels_from_intervals`` turns them back into the same labels.

    Example:
        >>> intervals_from_labels("v01", np.array([False, True, True, False]))
        (Interval(video='v01', start_frame=1, end_frame=3, class_name=''),)
    """
    steps = np.diff(labels.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist()
    return tuple(Interval(video, start, end, class_name) for start, end in zip(starts, ends, strict=True))


def _frame_number(row: dict[str, str], column: str, where: str) -> int:
    try:
        return int(row[column])
    except ValueError as error:
        raise DataError(
            f"'{column}' is not a whole number", where=where, expected="a frame number", got=repr(row[column])
        ) from error
