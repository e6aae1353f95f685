"""What feature files of others hold, by their headers: the shapes of all videos, or the first that is unlike the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from .arrays import ArrayFiles
from .features import load_features
from .lists import ListedVideo
from .locations import FeatureLocation

Array = np.ndarray[Any, np.dtype[Any]]
Source = FeatureLocation | ArrayFiles
Shapes = dict[str, tuple[int, ...]]  # video: rows, crops, width


class Warnings:
    """Errors that a person may choose to be warnings."""

    def __init__(self, allow_partial: bool) -> None:
        self.allow_partial, self.lines = allow_partial, list[str]()

    def unless_partial(self, problem: DataError, others: int = 0) -> None:
        """Raise a problem that stands for ``others`` more, or keep its line where a partial import is allowed."""
        if not self.allow_partial:
            more = f" (and {others} more like it)" if others else ""
            fix = problem.fix or "correct it, or allow a partial import"
            where, expected, got = problem.where, problem.expected, problem.got
            raise DataError(problem.what + more, where=where, expected=expected, got=got, fix=fix) from problem
        self.lines.append(str(DataError(problem.what, where=problem.where, expected=problem.expected, got=problem.got)))


def read_shapes(
    features: Mapping[str, Source],
    listed: Sequence[ListedVideo],
    warnings: Warnings,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Shapes]:
    """Shape of every feature file by modality and video, and an error for the first one that is unlike the others."""
    shapes: dict[str, Shapes] = {}
    for number, (modality, source) in enumerate(features.items()):
        found: Shapes = {}
        missing: list[DataError] = []
        for done, video in enumerate(listed, start=number * len(listed) + 1):
            where = f"modality '{modality}', video '{video.video}'"
            if _is_there(source, video.video):
                found[video.video] = _shape(_open(source, video.video, where), where)
            else:
                expected = source.path(video.video) if isinstance(source, FeatureLocation) else source.path
                missing.append(DataError("a listed video has no feature file", where=where, expected=expected))
            if on_progress is not None:
                on_progress(done, len(listed) * len(features))
        for problem in missing:
            warnings.unless_partial(problem, len(missing) - 1)
        _check_same(modality, found)
        shapes[modality] = found
    return shapes


def _is_there(source: Source, video: str) -> bool:
    if isinstance(source, FeatureLocation):
        return source.path(video).is_file()
    return source.path.is_file() or (source.path / f"{video}.npz").is_file()


def _open(source: Source, video: str, where: str) -> Array:
    return load_features(source.path(video), where) if isinstance(source, FeatureLocation) else source.read(video, where)


def _shape(values: Array, where: str) -> tuple[int, ...]:
    if values.ndim not in (2, 3) or 0 in values.shape or values.dtype.kind != "f":
        got = f"shape {values.shape}, type {values.dtype}"
        raise DataError("not a feature set", where=where, expected="(T, D) or (T, C, D) of floating-point numbers", got=got)
    return (len(values), *(values.shape[1:] if values.ndim == 3 else (1, *values.shape[1:])))


def _check_same(modality: str, found: Shapes) -> None:
    """Crops and width are those of most videos, or the first video that differs is named."""
    for axis, what in ((1, "crops"), (2, "width")):
        counts = Counter(shape[axis] for shape in found.values())
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            odd = next(video for video, shape in found.items() if shape[axis] != usual)
            raise DataError(
                f"{what} differ between videos",
                where=f"modality '{modality}', video '{odd}'",
                expected=f"{usual} as in {counts[usual]} of {len(found)} videos",
                got=f"{found[odd][axis]} (axes are snippets, crops, width)",
                fix="extract that video as the others",
            )
