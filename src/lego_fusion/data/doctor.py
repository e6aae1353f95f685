"""Examine a dataset folder and list everything that is wrong with it, never stopping at the first problem."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import DataError
from .dataset import Dataset
from .features import feature_problems, manifest_problems
from .files import shorten
from .grouping import likely_sources
from .manifest import Manifest
from .segments import split_presence
from .tables import CONFIG_FILE, INTERVALS_FILE, VIDEOS_FILE, Interval, VideoRecord, read_config, read_intervals, read_videos

Array = np.ndarray[Any, np.dtype[Any]]
Severity = Literal["error", "warning"]

# Rows that a manifest calls l2 may be this far from length 1 (float16 networks reach 5e-4).
_NORM_TOLERANCE = 1e-3
# Videos of one modality whose root mean square differs by more than this from the median were not made alike.
_SCALE_RATIO = 100.0
_CHECKS: dict[str, tuple[Severity, str]] = {  # how bad it is, and what to do
    "dataset-folder": ("error", "check the path"),
    "no-ground-truth": ("warning", f"write {INTERVALS_FILE} if you know it; training does without"),
    "no-label": ("warning", f"write normal or abnormal into {VIDEOS_FILE}"),
    "source-divided": ("warning", "put its videos into one split, or compare with --resplits, which divides no source"),
    "likely-source-divided": (
        "warning",
        f"write the recording of each video into the column 'source' of {VIDEOS_FILE}: no re-split divides it then",
    ),
    "unknown-video": ("error", "correct the name, or remove them"),
    "normal-with-interval": ("error", "correct the label or the intervals"),
    "interval-outside": ("error", f"correct {INTERVALS_FILE}, or frames in {VIDEOS_FILE}"),
    "no-positive-frame": ("error", f"add its intervals to {INTERVALS_FILE}, or correct the label"),
    "constant-rows": ("warning", "look at the video and its extraction"),
    "constant-columns": ("warning", "they tell nothing: check the extractor"),
    "not-normalised": ("error", "divide each row by its length, or write normalisation: none into dataset.yaml"),
    "scale": ("warning", "extract all videos of a modality in the same way"),
    "length-drift": ("error", f"extract the modality that differs again, or correct frames in {VIDEOS_FILE}"),
    "train-test-overlap": ("error", "keep it in one split"),
    "extra-modality": ("warning", "add its manifest, or remove the folder"),
    "extra-file": ("warning", f"add the videos to {VIDEOS_FILE}, or remove the files"),
}


@dataclass(frozen=True)
class Finding:
    """One problem of a dataset folder.

    Args:
        severity: ``"error"``: training or evaluation would fail or be wrong; ``"warning"``: worth a look.
        check: Name of the check, for filtering.
        where: File, modality or video.
        message: What is wrong, what was expected and found.
        fix: What to do.
    """

    severity: Severity
    check: str
    where: str
    message: str
    fix: str


def diagnose(dataset_root: str | Path) -> list[Finding]:
    """Find what is missing, damaged, inconsistent or contradictory in a dataset folder.

    Args:
        dataset_root: The dataset folder.

    Returns:
        All findings: tables first, then labels, then features by modality. Empty if nothing is wrong.

    Example:
        >>> [(finding.severity, finding.check) for finding in diagnose("no-such-folder")]
        [('error', 'dataset-folder')]
    """
    root = Path(dataset_root)
    if not root.is_dir():
        return [_found("dataset-folder", root, "there is no such folder")]
    findings: list[Finding] = []
    tables: dict[str, Any] = {}
    for name, read in ((CONFIG_FILE, read_config), (VIDEOS_FILE, read_videos), (INTERVALS_FILE, read_intervals)):
        if name == INTERVALS_FILE and not (root / name).exists():
            continue
        try:
            tables[name] = read(root / name)
        except DataError as error:
            findings.append(_from_error(name, error))
    if VIDEOS_FILE not in tables:
        return findings
    videos: tuple[VideoRecord, ...] = tables[VIDEOS_FILE]
    findings += [*_label_findings(videos), *_source_findings(videos)]
    if INTERVALS_FILE in tables:
        findings += _interval_findings(videos, tables[INTERVALS_FILE])
    elif not (root / INTERVALS_FILE).exists() and any(record.label == "abnormal" for record in videos):
        message = "it is not known when something abnormal happens, so no frame-level metric can be computed"
        findings.append(_found("no-ground-truth", INTERVALS_FILE, message))
    if CONFIG_FILE in tables:
        findings += _feature_findings(Dataset(root, tables[CONFIG_FILE], videos, {}))
    return findings


def _label_findings(videos: tuple[VideoRecord, ...]) -> Iterator[Finding]:
    for record in videos:
        if not record.label:
            yield _found("no-label", _video(record.video), "the video has no label")
    train = {record.label for record in videos if record.split == "train" and record.label}
    if len(train) == 1:
        only = train.pop()
        yield Finding(
            "warning" if only == "normal" else "error",
            "one-class",
            f"{VIDEOS_FILE}, split 'train'",
            f"all labelled training videos are {only}",
            "label videos of both kinds"
            + (", or train from normal videos only" if only == "normal" else ": nothing shows what is normal"),
        )


def _source_findings(videos: tuple[VideoRecord, ...]) -> Iterator[Finding]:
    """Sources that the split divides, and names that look like parts of one recording where the table does not say so."""
    records = {record.video: record for record in videos}
    members: dict[str, list[str]] = defaultdict(list)
    for record in videos:
        members[record.source].append(record.video)
    for source, names in members.items():
        if source and (listed := _divided(records, names)):
            yield _found("source-divided", VIDEOS_FILE, f"the split divides the source '{source}': {listed}")
    likely = likely_sources(members[""]).items()
    divided = [f"'{stem}': {listed}" for stem, names in likely if (listed := _divided(records, names))]
    if divided:
        shown = "; ".join(divided[:3]) + (f" and {len(divided) - 3} more" if len(divided) > 3 else "")
        message = f"names suggest {len(divided)} recordings that the split divides: {shown}"
        yield _found("likely-source-divided", VIDEOS_FILE, message)


def _divided(records: dict[str, VideoRecord], names: list[str]) -> str:
    """Videos with their splits where they are of training and of another split, else nothing."""
    splits = {records[name].split for name in names} & {"train", "validation", "test"}
    listed = shorten((f"{name} ({records[name].split or 'no split'})" for name in names), most=5)
    return listed if len(splits) > 1 else ""


def _interval_findings(videos: tuple[VideoRecord, ...], ground_truth: dict[str, tuple[Interval, ...]]) -> Iterator[Finding]:
    known = {record.video: record for record in videos}
    for video, intervals in ground_truth.items():
        if video not in known:
            message = f"{len(intervals)} intervals of a video that {VIDEOS_FILE} does not list"
            yield _found("unknown-video", _video(video), message)
            continue
        record = known[video]
        if record.label == "normal":
            message = f"the video is labelled normal and has {len(intervals)} abnormal intervals"
            yield _found("normal-with-interval", _video(video), message)
        for interval in intervals:
            if interval.end_frame > record.frames:
                message = f"frames {interval.start_frame} to {interval.end_frame} in a video of {record.frames}"
                yield _found("interval-outside", _video(video), message)
    yield from _without_positive_frame(videos, set(ground_truth))


def _without_positive_frame(videos: tuple[VideoRecord, ...], located: set[str]) -> Iterator[Finding]:
    """Abnormal videos without an interval; a training split with labels per video only is how it should be."""
    abnormal = [record for record in videos if record.label == "abnormal"]
    train_is_located = any(record.split == "train" and record.video in located for record in abnormal)
    for record in abnormal:
        if record.video not in located and (record.split != "train" or train_is_located):
            severity: Severity = "warning" if record.split == "train" else "error"
            message = "the video is labelled abnormal and has no abnormal frame"
            yield _found("no-positive-frame", _video(record.video), message, severity)


@dataclass
class _Summary:
    """What the sound feature arrays of one modality have in common, gathered video by video."""

    scales: dict[str, float] = field(default_factory=dict)
    constant: list[str] = field(default_factory=list)
    not_unit: dict[str, float] = field(default_factory=dict)
    low: Array | None = None
    high: Array | None = None

    def add(self, video: str, values: Array, manifest: Manifest) -> None:
        low, high = values.min(axis=0), values.max(axis=0)
        if len(values) > 1 and np.array_equal(low, high):
            self.constant.append(video)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)
        norms = np.sqrt(np.square(values, dtype=np.float64).sum(axis=-1)).ravel()
        self.scales[video] = float(np.sqrt(np.mean(np.square(norms)) / manifest.width))
        worst = float(np.abs(norms[norms > 0] - 1).max(initial=0.0))  # a row of zeros has no direction to normalise
        if manifest.normalisation == "l2" and worst > _NORM_TOLERANCE:
            self.not_unit[video] = worst

    def findings(self, modality: str) -> Iterator[Finding]:
        where, total = f"modality '{modality}'", len(self.scales)
        if self.constant:
            yield _found("constant-rows", where, f"all rows are the same in {_some(self.constant, total)}")
        if self.low is not None and self.high is not None and total > 1:
            columns = np.flatnonzero(self.low == self.high)
            if columns.size:
                message = f"{columns.size} of {self.low.size} columns are the same in all rows of all videos"
                message += f" (the first is column {columns[0]})"
                yield _found("constant-columns", where, message)
        if self.not_unit:
            worst = max(self.not_unit.values())
            message = f"the manifest says l2, but lengths are up to {worst:.3g} from 1 in {_some(self.not_unit, total)}"
            yield _found("not-normalised", where, message)
        middle = float(np.median([scale for scale in self.scales.values() if scale > 0] or [0.0]))
        odd = [
            video
            for video, scale in self.scales.items()
            if scale > 0 and not middle / _SCALE_RATIO <= scale <= middle * _SCALE_RATIO
        ]
        if odd:
            message = f"numbers are over {_SCALE_RATIO:.0f} times larger or smaller than usual in {_some(odd, total)}"
            yield _found("scale", where, message)


def _feature_findings(dataset: Dataset) -> Iterator[Finding]:
    lengths: dict[str, dict[str, int]] = defaultdict(dict)  # video: modality: rows
    twins: dict[tuple[str, str, str], list[str]] = defaultdict(list)  # modality, source, content: videos
    for modality, manifest in dataset.modalities.items():
        summary = _Summary()
        for record in dataset.videos:
            where = f"modality '{modality}', video '{record.video}'"
            source = yield from _provenance_findings(dataset, modality, record.video, where)
            values = yield from _opened(dataset, modality, record.video)
            if values is None:
                continue
            problems = dict(feature_problems(values, manifest, dataset.rows(record.video), where))
            yield from (_from_error(check, error) for check, error in problems.items() if check != "length-drift")
            if values.ndim:
                lengths[record.video][modality] = len(values)
            if not problems.keys() <= {"length-drift"} or not values.size:
                continue
            described = np.asarray(values)
            if manifest.has_units:
                units, present = split_presence(described)
                described = units[present]
            if len(described):
                summary.add(record.video, described, manifest)
            if source:
                twins[modality, source, hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()].append(record.video)
        yield from summary.findings(modality)
    yield from _length_findings(dataset, lengths)
    yield from _twin_findings(dataset, twins.values())
    yield from _extra_findings(dataset)


def _provenance_findings(dataset: Dataset, modality: str, video: str, where: str) -> Generator[Finding, None, str]:
    """What is wrong with the record of one feature file; returns the hash of its source, where that is known."""
    try:
        provenance = dataset.provenance(modality, video) or {}
    except DataError as error:
        yield _from_error("provenance", error)
        return ""
    yield from (_from_error(*one) for one in manifest_problems(provenance, dataset.modalities[modality], where))
    return str(provenance.get("source_sha256", ""))


def _opened(dataset: Dataset, modality: str, video: str) -> Generator[Finding, None, Array | None]:
    """The array of one feature file, or the finding why it cannot be read."""
    check = "outside-folder"
    try:
        path = dataset.feature_file(modality, video)
        check = "unreadable" if path.is_file() else "missing"
        return dataset.stored_features(modality, video)
    except DataError as error:
        yield _from_error(check, error)
        return None


def _length_findings(dataset: Dataset, lengths: dict[str, dict[str, int]]) -> Iterator[Finding]:
    for record in dataset.videos:
        rows = dataset.rows(record.video)
        found = lengths.get(record.video, {})
        if any(length != rows for length in found.values()):
            listed = ", ".join(f"{modality} has {length} rows" for modality, length in found.items())
            message = f"{record.frames} frames at stride {dataset.config.stride} make {rows} rows, but {listed}"
            yield _found("length-drift", _video(record.video), message)


def _twin_findings(dataset: Dataset, groups: Iterable[list[str]]) -> Iterator[Finding]:
    """Videos of the same source and the same features in more than one split.

    The source alone does not notify: the captions of many videos may stand in one file.
    """
    for videos in sorted({tuple(group) for group in groups}):
        splits = {record.split for record in dataset.select(videos)}
        if {"train", "test"} <= splits:
            listed = ", ".join(f"'{record.video}' ({record.split})" for record in dataset.select(videos))
            yield _found("train-test-overlap", VIDEOS_FILE, f"the same video is in training and test: {listed}")


def _extra_findings(dataset: Dataset) -> Iterator[Finding]:
    known = {record.video for record in dataset.videos}
    folder = dataset.root / "features"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        where = str(path.relative_to(dataset.root))
        if path.name not in dataset.modalities:
            if path.is_dir():
                yield _found("extra-modality", where, f"the folder belongs to no modality of {CONFIG_FILE}")
            continue
        extra = sorted(file.stem for file in path.glob("*.npy") if file.stem not in known)
        if extra:
            message = f"{len(extra)} feature files without a row in {VIDEOS_FILE}: {shorten(extra, most=5)}"
            yield _found("extra-file", where, message)


def _found(check: str, where: object, message: str, severity: Severity | None = None) -> Finding:
    usual, fix = _CHECKS[check]
    return Finding(severity or usual, check, str(where), message, fix)


def _from_error(check: str, error: DataError) -> Finding:
    return Finding("error", check, str(error.where), str(error.changed(where=None, fix=None)), error.fix or "correct the file")


def _video(video: str) -> str:
    return f"video '{video}'"


def _some(videos: Iterable[str], total: int) -> str:
    listed = list(videos)
    return f"{len(listed)} of {total} videos: {shorten(listed, most=5)}"
