"""Datasets that others prepared, as a dataset folder: their tables are written, their features stay where they are."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, check_int, check_number, load_package, located, with_changes
from .dataset import Dataset, write_dataset
from .features import FeatureLocation, read_rows, write_features
from .files import check_name, number_in, read_table
from .ground_truth import Span, audit, read_ground_truth
from .lists import Benchmark, ListedVideo
from .manifest import Manifest, Nature
from .tables import CONFIG_FILE, DatasetConfig, Interval, VideoRecord, read_config

Array = np.ndarray[Any, np.dtype[Any]]
HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class ArrayFiles:
    """Features of one modality in ``.npz`` files, one for each video, or in one HDF5 file.

    Args:
        root: A folder of ``<video>.npz``, or an HDF5 file.
        key: Name of the array: in a ``.npz`` file it may be left out if there is one array only; in HDF5 it holds
            ``{video}``, which alone is the default.
    """

    root: Path
    key: str = ""

    def path(self, video: str) -> Path:
        """The file that holds the features of one video."""
        name = check_name(video, "video")
        return self.root if self.root.suffix in HDF5_ENDINGS else self.root / f"{name}.npz"

    def read(self, video: str, where: str) -> Array:
        """The array of one video.

        Raises:
            DataError: If the file or the array is missing, or holds no floating-point numbers.
            MissingExtraError: If HDF5 is needed and h5py is not installed.
        """
        path = self.path(video)
        if not path.is_file():
            raise DataError("there is no feature file", where=where, expected=path)
        values = self._hdf5(video, where) if path == self.root else self._npz(path)
        if values.dtype.kind != "f":
            raise DataError("not features", where=where, expected="floating-point numbers", got=values.dtype)
        return values

    def _npz(self, path: Path) -> Array:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                key = self.key or (arrays.files[0] if len(arrays.files) == 1 else "")
                if key not in arrays.files:
                    got = ", ".join(arrays.files)
                    raise DataError("which array of the file?", where=path, expected="its name", got=got, fix="give the key")
                values: Array = arrays[key]
                return values
        except DataError:
            raise
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"not a .npz file of numbers: {error}", where=path) from error

    def _hdf5(self, video: str, where: str) -> Array:
        h5py: Any = load_package("h5py", extra="formats")
        key = (self.key or "{video}").replace("{video}", video)
        try:
            with h5py.File(self.root, "r") as file:
                found = file.get(key)
                if not isinstance(found, h5py.Dataset):
                    raise DataError("there is no such array in the file", where=where, expected=f"'{key}' in {self.root}")
                return np.asarray(found[()])
        except OSError as error:
            raise DataError(f"not an HDF5 file: {error}", where=self.root) from error


Source = FeatureLocation | ArrayFiles
_AS_THEY_ARE = FeatureLocation(root="/")
"""The rule for rows that are written over, which have to fit."""
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
            raise problem.changed(what=problem.what + more, fix=fix) from problem
        self.lines.append(str(problem.changed(fix=None)))


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
            path = source.path(video.video)
            if path.is_file():
                found[video.video] = _shape(source.read(video.video, where), where)
            else:
                missing.append(DataError("a listed video has no feature file", where=where, expected=path))
            if on_progress is not None:
                on_progress(done, len(listed) * len(features))
        for problem in missing:
            warnings.unless_partial(problem, len(missing) - 1)
        _check_same(modality, found)
        shapes[modality] = found
    return shapes


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


ASSUMED_FPS = 25.0


@dataclass(frozen=True)
class ImportReport:
    """What an import made.

    Args:
        dataset: The dataset folder.
        warnings: What a person should know, one line each.
        copied: Feature files that had to be written over; 0 where all features stay where they are.
    """

    dataset: Dataset
    warnings: tuple[str, ...]
    copied: int

    def count(self, split: str, label: str | None = None) -> int:
        """How many videos of a split (and label) there are."""
        return len(self.dataset.select(split=split, label=label))


@dataclass(frozen=True)
class _Clip:
    """Frames and frame rate of a video, and whether the frames were counted."""

    frames: int
    fps: float
    counted: bool


def read_frame_counts(path: str | Path) -> dict[str, tuple[int, float | None]]:
    """Real frames, and the frame rate if it stands there, from a table with the columns video, frames and optionally fps.

    Raises:
        DataError: If the table is wrong or a number is out of range.
    """
    counts: dict[str, tuple[int, float | None]] = {}
    for line, row in read_table(Path(path), ("video", "frames"), ("fps",)):
        with located(f"{path}, line {line}"):
            frames, fps = number_in(row, "frames", int), number_in(row, "fps", float) if row.get("fps") else None
            if frames < 1 or row["video"] in counts:
                raise DataError("frames below 1, or a video listed twice", got=", ".join(row.values()))
        counts[row["video"]] = frames, fps
    return counts


@dataclass(frozen=True)
class ImportSettings:
    """What is said of feature files beside where they are.

    Args:
        ground_truth_form: Which form that is.
        truth_split: The split that ground truth is about: all its abnormal videos must have some, and an array is of it alone.
        frame_counts: Real frames and frame rate of videos; without them, frames are rows x stride.
        fps: Frame rate of videos whose rate is not in ``frame_counts``.
        snippet_frames: Frames that a row describes.
        stride: Frames from one row to the next.
        natures: Nature of a modality, as in its manifest; ``"direction"`` where it is not named.
        benchmark: Sizes that the splits must have.
        allow_partial: Turn other sizes, missing files, missing abnormal frames and ground truth after the end into
            warnings; videos without features are left out.
    """

    ground_truth_form: str = "auto"
    truth_split: str = "test"
    frame_counts: Mapping[str, tuple[int, float | None]] | None = None
    fps: float | None = None
    snippet_frames: int = 16
    stride: int = 16
    natures: Mapping[str, Nature] | None = None
    benchmark: Benchmark | None = None
    allow_partial: bool = False

    def __post_init__(self) -> None:
        check_int(self.stride, "stride", "import_dataset", low=1)
        if self.fps is not None:
            check_number(self.fps, "fps", "import_dataset", low=1e-3)


def import_dataset(
    output: str | Path,
    videos: Iterable[ListedVideo],
    features: Mapping[str, Source],
    *,
    name: str,
    ground_truth: str | Path | None = None,
    settings: ImportSettings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> ImportReport:
    """Make a dataset folder of labelled videos and feature files that exist already.

    Only the headers of the feature files are read. Nothing is written unless everything fits.

    Args:
        output: The dataset folder to write.
        videos: Videos with their labels and splits; ground truth is in this order.
        features: Where the features of each modality are. The rows of the first one are the snippets of a video.
        name: Name of the dataset.
        ground_truth: Where the abnormal frames are, in any form of ``read_ground_truth``. What it says of videos of
            other splits is kept too: nothing trains on it, but a re-split or a domain left out can test them.
        settings: What else there is to say; its defaults where nothing is.
        on_progress: Told how many of how many feature files have been looked at.
        changes: Fields of the settings by name, such as ``stride=8``.

    Returns:
        The dataset, and what should be known about it.

    Raises:
        DataError: If anything does not fit; the message names the video.
    """
    how: ImportSettings = with_changes(settings or ImportSettings(), changes, "import_dataset")
    listed, warnings, stride = tuple(videos), Warnings(how.allow_partial), how.stride
    _refuse_extracted(Path(output))
    if not listed or not features:
        raise DataError("nothing to import", where=name, expected="at least one video and one modality")
    for problem in () if how.benchmark is None else how.benchmark.problems(listed):
        warnings.unless_partial(problem)
    shapes = read_shapes(features, listed, warnings, on_progress)
    listed = tuple(video for video in listed if all(video.video in found for found in shapes.values()))
    if not listed:
        raise DataError("no video has features in every modality", where=name, fix="check the folders")
    clips = _clips(listed, next(iter(shapes.values())), how, warnings)
    locations = {modality: source for modality, source in features.items() if isinstance(source, FeatureLocation)}
    manifests = {}
    for modality, found in shapes.items():
        location = locations.get(modality, _AS_THEY_ARE)
        manifests[modality] = _manifest(modality, location, found[listed[0].video], how)
        for video, clip in clips.items():
            where = f"modality '{modality}', video '{video}'"
            location.spans(video, found[video][0], -(-clip.frames // stride), stride, where)
    truth = [] if ground_truth is None else _truth(listed, clips, ground_truth, how, warnings)
    copied = _write_over(Path(output), listed, {name: one for name, one in features.items() if name not in locations})
    config = DatasetConfig(
        name=name, snippet_frames=how.snippet_frames, stride=stride, modalities=manifests, locations=locations
    )
    records = [
        VideoRecord(
            video.video, video.label, clips[video.video].frames, clips[video.video].fps, video.split,
            domain=video.domain, class_name=video.class_name, source=video.source,
        )
        for video in listed
    ]  # fmt: skip
    return ImportReport(write_dataset(output, config, records, truth), tuple(warnings.lines), copied)


def _refuse_extracted(output: Path) -> None:
    """A dataset whose features were made here, or a joined one, is not replaced by another."""
    path = output / CONFIG_FILE
    if not path.is_file():
        return
    config = read_config(path)
    if config.members:
        raise DataError("the folder holds a joined dataset", where=output, fix="choose another folder")
    own = [one.modality for one in config.modalities.values() if one.extractor != "imported"]
    if own:
        got = f"features of {', '.join(own)}"
        raise DataError("the folder holds a dataset that was not imported", where=output, got=got, fix="choose another folder")


def _clips(listed: Sequence[ListedVideo], shapes: Shapes, how: ImportSettings, warnings: Warnings) -> dict[str, _Clip]:
    """Frames and rate of every video, as the table of frames says or as its rows tell."""
    clips, assumed, stride, counts = {}, 0, how.stride, how.frame_counts or {}
    for video in listed:
        rows = shapes[video.video][0]
        frames, rate = counts.get(video.video, (rows * stride, None))
        if -(-frames // stride) != rows:
            raise DataError(
                "the number of frames does not fit the features",
                where=f"video '{video.video}'",
                expected=f"{(rows - 1) * stride + 1} to {rows * stride} frames for {rows} rows",
                got=frames,
                fix="correct the table of frames, or leave it out",
            )
        assumed += rate is None and how.fps is None
        clips[video.video] = _Clip(frames, rate or how.fps or ASSUMED_FPS, video.video in counts)
    if assumed:
        warnings.lines.append(f"no frame rate given for {assumed} videos: {ASSUMED_FPS:g} assumed, which only times depend on")
    return clips


def _manifest(modality: str, location: FeatureLocation, shape: tuple[int, ...], how: ImportSettings) -> Manifest:
    return Manifest(
        modality=modality,
        extractor="imported",
        version="1",
        settings={"length": location.length, "stride": location.stride, "timed": location.times is not None},
        width=shape[2],
        crops=shape[1],
        snippet_frames=how.snippet_frames,
        stride=how.stride,
        nature=(how.natures or {}).get(modality, "direction"),
    )


def _truth(
    listed: Sequence[ListedVideo],
    clips: Mapping[str, _Clip],
    path: str | Path,
    how: ImportSettings,
    warnings: Warnings,
) -> list[Interval]:
    """Ground truth that fits the labels, cut to the frames of each video."""
    stride, split = how.stride, how.truth_split
    spans: list[Span] = []
    others: list[Span] = []
    for video in listed:
        clip = clips[video.video]
        padded, slack = -(-clip.frames // stride) * stride, 0 if clip.counted else stride - 1
        group = spans if video.split == split else others
        group.append(Span(video.video, video.label, clip.frames, padded, slack))
    if not spans:
        raise DataError(f"there is ground truth, but no video in split '{split}'", where=path, fix="name the right split")
    found = read_ground_truth(path, spans, how.ground_truth_form, others)
    spans += [span for span in others if span.video in found]
    problems = audit(spans, found)
    contradictions = [problem for problem in problems if problem.what.startswith("the video is normal")]
    if contradictions:
        raise contradictions[0]
    for problem in problems:
        warnings.unless_partial(problem, len(problems) - 1)
    frames = {span.video: span.frames for span in spans}
    return [
        replace(one, end_frame=min(one.end_frame, frames[video]))
        for video, intervals in found.items()
        for one in intervals
        if one.start_frame < frames[video]
    ]


def _write_over(output: Path, listed: Sequence[ListedVideo], sources: Mapping[str, Source]) -> int:
    """Write over the features that cannot stay where they are; how many files that were."""
    for modality, source in sources.items():
        for video in listed:
            where = f"modality '{modality}', video '{video.video}'"
            write_features(output, modality, video.video, read_rows(source.read(video.video, where), None))
    return len(listed) * len(sources)
