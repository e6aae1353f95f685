"""Features that stay where they are: a folder outside the dataset, and what to do where its rows are not the video's.

``dataset.yaml`` names the folder, as the person who imported gave it. Nothing outside that folder is ever opened.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..errors import DataError
from .features import load_features
from .files import check_name
from .segments import segment_bounds

Array = np.ndarray[Any, np.dtype[Any]]
Spans = Int[np.ndarray, "rows 2"]
LengthRule = Literal["error", "resample", "truncate", "repeat-last"]
LENGTH_RULES: tuple[LengthRule, ...] = get_args(LengthRule)


def _absolute(root: str) -> str:
    if not Path(root).is_absolute():
        raise ValueError(f"the folder must be an absolute path, got {root!r}")
    return root


class FeatureLocation(BaseModel):
    """Where the feature files of one modality lie, and how their rows become the snippets of a video.

    Args:
        root: The folder, as an absolute path.
        files: Name of a file in it, with ``{video}`` for the video; a ``.npy`` file.
        length: What to do with T' rows in a video of T snippets: ``"error"`` refuses them; ``"resample"`` averages T equal
            spans of the rows (or copies, where T' < T); ``"truncate"`` leaves out the rows after T and refuses fewer;
            ``"repeat-last"`` repeats the last row and refuses more.
        stride: Frames from one row of these files to the next, where it is known: then rows meet snippets by time, and
            ``length`` speaks of the end of the video only.
        times: Like ``files``, for arrays of shape (T',) or (T', 2): first frame, and frame after the last, of every row.

    Example:
        >>> FeatureLocation(root="/data/ped2", files="{video}_i3d.npy").length
        'error'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str
    files: str = "{video}.npy"
    length: LengthRule = "error"
    stride: int | None = Field(default=None, ge=1)
    times: str | None = None

    _root_is_absolute = field_validator("root")(_absolute)

    @field_validator("files", "times")
    @classmethod
    def _one_file_per_video(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        plain = pattern.replace("{video}", "", 1)
        path = PurePosixPath(pattern)
        if plain == pattern or "{" in plain or "}" in plain or "\\" in plain or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"a file name must hold {{video}} once and stay in its folder, got {pattern!r}")
        if path.suffix != ".npy":
            raise ValueError(f"only .npy files are read where they are, got {pattern!r}")
        return pattern

    def path(self, video: str, pattern: str | None = None) -> Path:
        """Path of the file of one video.

        Args:
            video: Name of the video.
            pattern: Name of the file; ``files`` without it.

        Raises:
            DataError: If the name is not safe, or a link leads out of the folder.
        """
        path = Path(self.root) / (pattern or self.files).replace("{video}", check_name(video, "video"))
        try:
            target, root = path.resolve(), Path(self.root).resolve()
        except (OSError, RuntimeError) as error:  # links that go in circles
            raise DataError(f"the path cannot be followed: {error}", where=path) from error
        if not target.is_relative_to(root):
            raise DataError(
                "the feature file lies outside its folder",
                where=path,
                expected=f"a file inside {root}",
                got=f"a link to {target}",
                fix="import again with the folder that holds the files themselves",
            )
        return path

    def spans(self, video: str, source_rows: int, rows: int, stride: int, where: str) -> Spans | None:
        """Which rows of the file of a video are averaged for each of its snippets; None where there is nothing to do.

        Args:
            video: Name of the video.
            source_rows: T', rows of the file.
            rows: T, snippets of the video.
            stride: Frames from one snippet to the next.
            where: Modality and video, for the messages.

        Raises:
            DataError: If ``length`` does not say how T' rows become T.
        """
        if self.times is not None:
            spans = _by_times(load_features(self.path(video, self.times), where), source_rows, rows, stride, where)
        elif self.stride is not None and self.stride != stride:
            first = np.arange(rows) * stride
            spans = np.stack([first // self.stride, -(-(first + stride) // self.stride)], axis=1)
        elif source_rows != rows and self.length == "resample":
            bounds = segment_bounds(source_rows, rows)
            return np.stack([bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1)], axis=1)
        elif source_rows == rows:
            return None
        else:
            spans = np.stack([np.arange(rows), np.arange(rows) + 1], axis=1)
        return self._end(spans, source_rows, rows, where)

    def _end(self, spans: Spans, source_rows: int, rows: int, where: str) -> Spans:
        """Apply the rule to snippets after the last row, and to rows after the last snippet."""
        missing, surplus = spans[:, 0] >= source_rows, int(source_rows - spans[-1, 1])
        if missing.any() and self.length != "repeat-last":
            raise self._refusal("shorter", "repeat-last", f"none for the last {int(missing.sum())}", (source_rows, rows), where)
        if surplus > 0 and self.length != "truncate":
            raise self._refusal("longer", "truncate", f"{surplus} too many", (source_rows, rows), where)
        spans = np.minimum(spans, source_rows)
        spans[missing] = source_rows - 1, source_rows
        return spans

    def _refusal(self, fault: str, cure: str, missing: str, sizes: tuple[int, int], where: str) -> DataError:
        timed = self.times is not None or self.stride is not None
        return DataError(
            f"the features are {fault} than the video",
            where=where,
            expected=f"rows for {sizes[1]} snippets",
            got=f"{sizes[0]} rows, {missing}",
            fix=f"choose a rule by name: {cure!r}" + ("" if timed else " or 'resample'") + f" (it is {self.length!r} now)",
        )


class Member(BaseModel):
    """A dataset folder that another one was joined from.

    Args:
        root: The folder, as an absolute path.
        prefix: What stands before the names of its videos in the joined folder.

    Example:
        >>> Member(root="/data/ped2", prefix="ped2_").prefix
        'ped2_'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str
    prefix: str = ""

    _root_is_absolute = field_validator("root")(_absolute)


def _by_times(times: Array, source_rows: int, rows: int, stride: int, where: str) -> Spans:
    """The rows whose time meets each snippet."""
    starts = times if times.ndim == 1 else times[:, 0]
    ends = np.append(starts[1:], rows * stride) if times.ndim == 1 else times[:, -1]
    fits = times.shape in ((source_rows,), (source_rows, 2)) and bool(np.all(np.diff(starts) > 0) and np.all(ends >= starts))
    if not fits:
        raise DataError(
            "the times do not fit the features",
            where=where,
            expected=f"one rising first frame (and the frame after the last) for each of {source_rows} rows",
            got=f"shape {times.shape}",
            fix="write the times again, in frames",
        )
    first = np.arange(rows) * stride
    begin = np.searchsorted(np.maximum.accumulate(ends), first, side="right")
    end = np.searchsorted(starts, first + stride, side="left")
    gaps = np.flatnonzero((begin >= end) & (begin < source_rows))
    if gaps.size:
        raise DataError(
            "the features leave a gap in the video",
            where=where,
            expected="rows without a gap",
            got=f"no row for frames {first[gaps[0]]} to {first[gaps[0]] + stride}",
            fix="extract the features for the whole video",
        )
    return np.stack([begin, np.maximum(end, begin + 1)], axis=1)


def read_rows(values: Array, spans: Spans | None) -> Array:
    """Average spans of rows; rows with one crop lose that axis, and any floating-point type but float16 becomes float32.

    Args:
        values: Features as stored, shape (T', D) or (T', C, D).
        spans: First row, and row after the last, of every snippet, shape (T, 2); None leaves all rows as they are.

    Returns:
        Features, shape (T, D) or (T, C, D); the same memory map where there is nothing to change.

    Example:
        >>> read_rows(np.array([[1.0], [2.0], [6.0]]), np.array([[0, 1], [1, 3]])).tolist()
        [[1.0], [4.0]]
    """
    if values.ndim == 3 and values.shape[1] == 1:
        values = values[:, 0]
    if spans is not None:
        values = np.stack([values[first:end].mean(axis=0, dtype=np.float64) for first, end in spans])
    small = values.dtype in (np.dtype(np.float16), np.dtype(np.float32))
    return values.astype(np.float32) if values.dtype.kind == "f" and not small else values
