"""The dataset folder: plain files that a person can read and other tools can write.

``dataset.yaml`` (name, time grid, modalities), ``videos.csv`` (one row per video), optional ``intervals.csv``
(ground truth in time) and ``features/<modality>/<video>.npy``, or another folder that ``dataset.yaml`` names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool, Float

from ..errors import DataError
from ..writing import written_whole
from .features import (
    Array,
    Provenance,
    feature_path,
    feature_problems,
    load_features,
    manifest_problems,
    read_provenance,
    read_rows,
)
from .files import shorten
from .ground_truth import labels_from_intervals
from .manifest import Manifest
from .tables import (
    CONFIG_FILE,
    INTERVALS_FILE,
    VIDEOS_FILE,
    DatasetConfig,
    Interval,
    VideoRecord,
    check_listed,
    hash_tables,
    read_config,
    read_intervals,
    read_videos,
    write_intervals,
    write_videos,
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset folder, its tables read and its features left on disk until asked for.

    Args:
        root: The folder.
        config: Content of ``dataset.yaml``.
        videos: Rows of ``videos.csv``, in order.
        ground_truth: Intervals by video; a video without any is absent.
        hash: SHA-256 over the three tables as they were read.

    Example:
        >>> import tempfile
        >>> from lego_fusion.data.features import write_features
        >>> motion = Manifest(modality="motion", extractor="motion", version="1", width=2)
        >>> config = DatasetConfig(name="doors", modalities={"motion": motion})
        >>> records = [VideoRecord("v01", "abnormal", frames=40, fps=10.0, split="test")]
        >>> dataset = write_dataset(tempfile.mkdtemp(), config, records, [Interval("v01", 20, 30)])
        >>> path = write_features(dataset.root, "motion", "v01", np.ones((3, 2)))
        >>> dataset.features("motion", "v01").shape, int(dataset.frame_labels("v01").sum())
        ((3, 2), 10)
    """

    root: Path
    config: DatasetConfig
    videos: tuple[VideoRecord, ...]
    ground_truth: Mapping[str, tuple[Interval, ...]]
    hash: str = ""

    @classmethod
    def open(cls, root: str | Path) -> Dataset:
        """Read the tables of a dataset folder.

        Args:
            root: The folder.

        Raises:
            DataError: If it is no dataset folder, or a table is wrong; the message names file and line.
        """
        root = Path(root)
        if not (root / CONFIG_FILE).is_file():
            raise DataError(
                "not a dataset folder",
                where=root,
                expected=f"a folder with {CONFIG_FILE} and {VIDEOS_FILE}",
                got="no such folder" if not root.is_dir() else f"no {CONFIG_FILE} in it",
                fix="make one with `lego-fusion extract`",
            )
        config, videos = read_config(root / CONFIG_FILE), read_videos(root / VIDEOS_FILE)
        ground_truth = read_intervals(root / INTERVALS_FILE, videos) if (root / INTERVALS_FILE).exists() else {}
        return cls(root, config, videos, ground_truth, hash_tables(root))

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.config.name

    @cached_property
    def modalities(self) -> dict[str, Manifest]:
        """Manifest of every modality by its name, in the order of ``dataset.yaml``; ``DataError`` for another name."""
        return _Modalities(self.name, self.config.modalities)

    @cached_property
    def records(self) -> Mapping[str, VideoRecord]:
        """The row of ``videos.csv`` of every video by its name; ``DataError`` for a name that it does not list."""
        return _Records(self.root, self.videos)

    def select(
        self, videos: Iterable[str] | None = None, *, split: str | None = None, label: str | None = None
    ) -> tuple[VideoRecord, ...]:
        """Records that meet every condition given; none is an empty tuple.

        Args:
            videos: Names; the result keeps their order. Without it, all videos in the order of the file.
            split: Split they must be in.
            label: Label they must have.

        Raises:
            DataError: If a name is unknown.
        """
        records = self.videos if videos is None else tuple(self.records[one] for one in videos)
        return tuple(record for record in records if split in (None, record.split) and label in (None, record.label))

    def rows(self, video: str) -> int:
        """T = ceil(frames / stride), the number of snippets of a video; a last partial snippet counts."""
        return -(-self.records[video].frames // self.config.stride)

    def features(
        self, modality: str, video: str, *, check: bool = True, finite: bool = True
    ) -> Float[np.ndarray, "rows width"] | Float[np.ndarray, "rows crops width"]:
        """Features of one video in one modality, mapped into memory.

        Args:
            modality: Name of a modality of ``dataset.yaml``.
            video: Name of a video of ``videos.csv``.
            check: Also read all numbers and refuse NaN and infinity, and features whose provenance names another
                manifest.
            finite: False leaves the numbers unread in that check, for a caller that will look at them anyway.

        Returns:
            Shape (T, D), or (T, C, D) where the manifest says C > 1, or (T, U, D + 1) where it names finer units, the last
            column being their presence (``data.segments``); float32 or float16, as stored; read-only.

        Raises:
            DataError: If a name is unknown, or the file is missing, truncated, of another type, width, number of crops
                or length than the dataset says, or lies outside the folder.
        """
        manifest, rows, (source, name) = self.modalities[modality], self.rows(video), self._source(video)
        where = f"modality '{modality}', video '{video}'"
        values = self.stored_features(modality, video)
        problems = feature_problems(values, manifest, rows, where, numbers=check and (finite or manifest.has_units))
        if check:
            problems += manifest_problems(read_provenance(source.root, modality, name), manifest, where)
        for _, problem in problems:
            raise problem
        return values

    def feature_file(self, modality: str, video: str) -> Path:
        """Path of one feature file, in the dataset folder or where ``dataset.yaml`` says; it need not exist."""
        self.modalities[modality]
        source, name = self._source(video)
        location = source.config.locations.get(modality)
        return feature_path(source.root, modality, name) if location is None else location.path(name)

    def stored_features(self, modality: str, video: str) -> Array:
        """Features of one video as they are stored, brought to its snippets where they lie elsewhere; else unchecked."""
        where, path, rows = f"modality '{modality}', video '{video}'", self.feature_file(modality, video), self.rows(video)
        source, name = self._source(video)
        self.modalities[modality].require_same(source.modalities[modality], where=where)
        location, values = source.config.locations.get(modality), load_features(path, where)
        if location is None or values.ndim < 2 or not len(values):
            return values
        return read_rows(values, location.spans(name, len(values), rows, source.config.stride, where))

    def provenance(self, modality: str, video: str) -> Provenance | None:
        """How the features of one video and modality were made; None where nothing is recorded."""
        source, name = self._source(video)
        return read_provenance(source.root, modality, name)

    def intervals(self, video: str) -> tuple[Interval, ...]:
        """Ground-truth intervals of a video, in the order of the file; empty where there are none."""
        return self.ground_truth.get(self.records[video].video, ())

    def has_ground_truth(self, video: str) -> bool:
        """Whether it is known which frames of a video are abnormal."""
        return self.records[video].label == "normal" or bool(self.intervals(video))

    def frame_labels(self, video: str) -> Bool[np.ndarray, " frames"]:
        """One truth value per frame: True where it is abnormal; all False in a normal video.

        Raises:
            DataError: If an abnormal or unlabelled video has no interval, a normal one has some, or one ends after
                the video.
        """
        record, intervals = self.records[video], self.intervals(video)
        if (record.label == "normal") == bool(intervals):
            raise DataError(
                "label and ground truth contradict each other" if intervals else "no ground truth in time",
                where=f"video '{video}' of {self.root}",
                expected="no interval in a normal video, at least one in any other",
                got=f"label '{record.label}' and {len(intervals)} intervals",
                fix=f"correct {VIDEOS_FILE} or {INTERVALS_FILE}",
            )
        return labels_from_intervals(intervals, record.frames)

    def _source(self, video: str) -> tuple[Dataset, str]:
        """The folder that a video's features lie in, and its name there: this one, or a member of a joined folder."""
        self.records[video]
        if not self.config.members:
            return self, video
        if video not in self._origins:
            listed = shorten(map(repr, self.config.members))
            fix = "join the folders again"
            raise DataError(f"no joined folder has the video '{video}'", where=self.root, expected=f"one of {listed}", fix=fix)
        return self._origins[video]

    @cached_property
    def _origins(self) -> dict[str, tuple[Dataset, str]]:
        origins: dict[str, tuple[Dataset, str]] = {}
        for member in self.config.members.values():
            dataset = Dataset.open(member.root)
            if dataset.config.members:
                fix = "join the folders that it was joined from"
                raise DataError("a joined folder cannot be joined again", where=member.root, fix=fix)
            for record in dataset.videos:
                name = member.prefix + record.video
                if name in origins and name in self.records:
                    fix = "join the folders again"
                    raise DataError(f"two joined folders have a video '{name}'", where=member.root, fix=fix)
                origins[name] = dataset, record.video
        return origins


class _Modalities(dict[str, Manifest]):
    """Manifests by modality, whose missing key says what the dataset has."""

    def __init__(self, dataset: str, manifests: Mapping[str, Manifest]) -> None:
        super().__init__(manifests)
        self.dataset = dataset

    def __missing__(self, modality: str) -> Manifest:
        where, got = f"dataset '{self.dataset}'", ", ".join(self) or "no modality"
        fix = "extract it, or leave it out"
        raise DataError(f"modality '{modality}' is missing", where=where, expected=modality, got=got, fix=fix)


class _Records(dict[str, VideoRecord]):
    """Records by video, whose missing key says what the dataset has."""

    def __init__(self, root: Path, videos: Iterable[VideoRecord]) -> None:
        super().__init__({record.video: record for record in videos})
        self.root = root

    def __missing__(self, video: str) -> VideoRecord:
        expected, fix = f"one of {shorten(map(repr, self))}", f"see the names in {VIDEOS_FILE}"
        raise DataError(f"the dataset has no video '{video}'", where=self.root, expected=expected, fix=fix)


def write_dataset(
    root: str | Path, config: DatasetConfig, records: Iterable[VideoRecord], intervals: Iterable[Interval] = ()
) -> Dataset:
    """Write the tables of a dataset folder, each whole or not at all, and open it.

    Tables that are there already are replaced; features are left alone.

    Args:
        root: The folder; made if absent.
        config: Name, time grid and modalities.
        records: The videos, in order; at least one.
        intervals: Ground truth; without any, there is no ``intervals.csv``.

    Raises:
        DataError: If there is no video, one is listed twice, or an interval is of an unknown video or ends after its
            video.
    """
    root, videos, given = Path(root), tuple(records), tuple(intervals)
    ground_truth: dict[str, list[Interval]] = {}
    for interval in given:
        ground_truth.setdefault(interval.video, []).append(interval)
    check_listed(ground_truth, videos, root / INTERVALS_FILE)
    frames = {record.video: record.frames for record in videos}
    for video, group in ground_truth.items():
        labels_from_intervals(group, frames[video])
    if not videos or len(frames) < len(videos):
        raise DataError("a dataset needs videos with different names", where=root, got=[record.video for record in videos])

    write_videos(root / VIDEOS_FILE, videos)
    if given:
        write_intervals(root / INTERVALS_FILE, given)
    else:
        (root / INTERVALS_FILE).unlink(missing_ok=True)
    with written_whole(root / CONFIG_FILE) as file:
        unused = {name for name in ("locations", "members") if not getattr(config, name)}
        document = config.model_dump(mode="json", exclude=unused)
        file.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    return Dataset.open(root)
