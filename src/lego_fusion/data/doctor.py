"""Examine a dataset folder and list everything that is wrong with it, never stopping at the first problem."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import DataError
from .dataset import Dataset
from .features import (
    form_problems,
    manifest_problems,
    value_problems,
)
from .grouping import likely_sources, sources_of
from .manifest import Manifest
from .segments import presence_problems, split_presence
from .tables import CONFIG_FILE, INTERVALS_FILE, VIDEOS_FILE, Interval, VideoRecord, read_config, read_intervals, read_videos

Array = np.ndarray[Any, np.dtype[Any]]
Severity = Literal["error", "warning"]

# Rows that a manifest calls l2 may be this far from length 1 (float16 networks reach 5e-4).
_NORM_TOLERANCE = 1e-3
# Videos of one modality whose root mean square differs by more than this from the median were not made alike.
_SCALE_RATIO = 100.0
# What is found wrong with an array that is left out of the summary of its modality.
_UNUSABLE = ("dtype", "width", "crops", "units", "presence", "not-finite")


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
        return [Finding("error", "dataset-folder", str(root), "there is no such folder", "check the path")]
    findings: list[Finding] = []
    tables: dict[str, Any] = {}
    for name, read in ((CONFIG_FILE, read_config), (VIDEOS_FILE, read_videos), (INTERVALS_FILE, read_intervals)):
        if name == INTERVALS_FILE and not (root / name).exists():
            continue
        try:
            tables[name] = read(root / name)
        except DataError as error:
            findings.append(_from_error("error", name, error))
    if VIDEOS_FILE not in tables:
        return findings
    videos: tuple[VideoRecord, ...] = tables[VIDEOS_FILE]
    findings += [*_label_findings(videos), *_source_findings(videos)]
    if INTERVALS_FILE in tables:
        findings += _interval_findings(videos, tables[INTERVALS_FILE])
    elif not (root / INTERVALS_FILE).exists() and any(record.label == "abnormal" for record in videos):
        message = "it is not known when something abnormal happens, so no frame-level metric can be computed"
        fix = f"write {INTERVALS_FILE} if you know it; training does without"
        findings.append(Finding("warning", "no-ground-truth", INTERVALS_FILE, message, fix))
    if CONFIG_FILE in tables:
        findings += _feature_findings(Dataset(root, tables[CONFIG_FILE], videos, {}))
    return findings


def _label_findings(videos: tuple[VideoRecord, ...]) -> Iterator[Finding]:
    for record in videos:
        if not record.label:
            fix = f"write normal or abnormal into {VIDEOS_FILE}"
            yield Finding("warning", "no-label", _video(record.video), "the video has no label", fix)
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
    for video, source in sources_of(videos).items():
        members[source].append(video)
    for names in members.values():
        if listed := _divided(records, names):
            message = f"the split divides the source '{records[names[0]].source}': {listed}"
            fix = "put its videos into one split, or compare with --resplits, which divides no source"
            yield Finding("warning", "source-divided", VIDEOS_FILE, message, fix)
    unknown = [video for video, record in records.items() if not record.source]
    likely = {stem: listed for stem, names in likely_sources(unknown).items() if (listed := _divided(records, names))}
    if likely:
        shown = "; ".join(f"'{stem}': {listed}" for stem, listed in list(likely.items())[:3])
        more = f" and {len(likely) - 3} more" if len(likely) > 3 else ""
        message = f"names suggest {len(likely)} recordings that the split divides: {shown}{more}"
        fix = f"write the recording of each video into the column 'source' of {VIDEOS_FILE}: no re-split divides it then"
        yield Finding("warning", "likely-source-divided", VIDEOS_FILE, message, fix)


def _divided(records: dict[str, VideoRecord], names: list[str]) -> str:
    """Videos with their splits where they are of training and of another split, else nothing."""
    splits = {records[name].split for name in names} & {"train", "validation", "test"}
    return _names([f"{name} ({records[name].split or 'no split'})" for name in names]) if len(splits) > 1 else ""


def _interval_findings(videos: tuple[VideoRecord, ...], ground_truth: dict[str, tuple[Interval, ...]]) -> Iterator[Finding]:
    known = {record.video: record for record in videos}
    for video, intervals in ground_truth.items():
        if video not in known:
            message = f"{len(intervals)} intervals of a video that {VIDEOS_FILE} does not list"
            yield Finding("error", "unknown-video", _video(video), message, "correct the name, or remove them")
            continue
        record = known[video]
        if record.label == "normal":
            message = f"the video is labelled normal and has {len(intervals)} abnormal intervals"
            yield Finding("error", "normal-with-interval", _video(video), message, "correct the label or the intervals")
        for interval in intervals:
            if interval.end_frame > record.frames:
                message = f"frames {interval.start_frame} to {interval.end_frame} in a video of {record.frames}"
                fix = f"correct {INTERVALS_FILE}, or frames in {VIDEOS_FILE}"
                yield Finding("error", "interval-outside", _video(video), message, fix)
    yield from _without_positive_frame(videos, set(ground_truth))


def _without_positive_frame(videos: tuple[VideoRecord, ...], located: set[str]) -> Iterator[Finding]:
    """Abnormal videos without an interval; a training split with labels per video only is how it should be."""
    abnormal = [record for record in videos if record.label == "abnormal"]
    train_is_located = any(record.split == "train" and record.video in located for record in abnormal)
    for record in abnormal:
        if record.video not in located and (record.split != "train" or train_is_located):
            severity: Severity = "warning" if record.split == "train" else "error"
            message = "the video is labelled abnormal and has no abnormal frame"
            fix = f"add its intervals to {INTERVALS_FILE}, or correct the label"
            yield Finding(severity, "no-positive-frame", _video(record.video), message, fix)


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
            message = f"all rows are the same in {_some(self.constant, total)}"
            yield Finding("warning", "constant-rows", where, message, "look at the video and its extraction")
        if self.low is not None and self.high is not None and total > 1:
            columns = np.flatnonzero(self.low == self.high)
            if columns.size:
                message = f"{columns.size} of {self.low.size} columns are the same in all rows of all videos"
                message += f" (the first is column {columns[0]})"
                yield Finding("warning", "constant-columns", where, message, "they tell nothing: check the extractor")
        if self.not_unit:
            worst = max(self.not_unit.values())
            message = f"the manifest says l2, but lengths are up to {worst:.3g} from 1 in {_some(self.not_unit, total)}"
            fix = "divide each row by its length, or write normalisation: none into dataset.yaml"
            yield Finding("error", "not-normalised", where, message, fix)
        middle = float(np.median([scale for scale in self.scales.values() if scale > 0] or [0.0]))
        odd = [
            video
            for video, scale in self.scales.items()
            if scale > 0 and not middle / _SCALE_RATIO <= scale <= middle * _SCALE_RATIO
        ]
        if odd:
            message = f"numbers are over {_SCALE_RATIO:.0f} times larger or smaller than usual in {_some(odd, total)}"
            yield Finding("warning", "scale", where, message, "extract all videos of a modality in the same way")


def _feature_findings(dataset: Dataset) -> Iterator[Finding]:
    lengths: dict[str, dict[str, int]] = defaultdict(dict)  # video: modality: rows
    twins: dict[tuple[str, str, str], list[str]] = defaultdict(list)  # modality, source, content: videos
    for modality, manifest in dataset.modalities.items():
        summary = _Summary()
        for record in dataset.videos:
            findings, values, source = _examine(dataset, modality, record.video)
            yield from findings
            if values is None:
                continue
            lengths[record.video][modality] = len(values)
            if any(finding.check in _UNUSABLE for finding in findings) or not values.size:
                continue
            if manifest.has_units:
                units, present = split_presence(np.asarray(values))
                described = units[present]
            else:
                described = values
            if len(described):
                summary.add(record.video, described, manifest)
            if source is not None:
                twins[modality, source, hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()].append(record.video)
        yield from summary.findings(modality)
    yield from _length_findings(dataset, lengths)
    yield from _twin_findings(dataset, twins.values())
    yield from _extra_findings(dataset)


def _examine(dataset: Dataset, modality: str, video: str) -> tuple[list[Finding], Array | None, str | None]:
    """Findings of one feature file but its length, the array if it can be read, and the hash of its source if known."""
    manifest, where = dataset.modalities[modality], f"modality '{modality}', video '{video}'"
    findings: list[Finding] = []
    source: str | None = None
    try:
        provenance = dataset.provenance(modality, video)
        findings += [_from_error("error", check, error) for check, error in manifest_problems(provenance, manifest, where)]
        source = None if provenance is None else str(provenance.get("source_sha256", "")) or None
    except DataError as error:
        findings.append(_from_error("error", "provenance", error))
    values, unread = _open(dataset, modality, video)
    if values is None:
        return [*findings, *unread], None, source
    problems = [found for found in form_problems(values, manifest, dataset.rows(video), where) if found[0] != "length-drift"]
    if values.dtype.kind == "f":
        problems += value_problems(values, where)
    if manifest.has_units and not problems:
        problems += presence_problems(values, where)
    findings += [_from_error("error", check, error) for check, error in problems]
    return findings, values if values.ndim else None, source


def _open(dataset: Dataset, modality: str, video: str) -> tuple[Array | None, list[Finding]]:
    """The array of one feature file, or the finding why it cannot be read."""
    check = "outside-folder"
    try:
        path = dataset.feature_file(modality, video)
        check = "unreadable" if path.is_file() else "missing"
        return dataset.stored_features(modality, video), []
    except DataError as error:
        return None, [_from_error("error", check, error)]


def _length_findings(dataset: Dataset, lengths: dict[str, dict[str, int]]) -> Iterator[Finding]:
    for record in dataset.videos:
        rows = dataset.rows(record.video)
        found = lengths.get(record.video, {})
        if any(length != rows for length in found.values()):
            listed = ", ".join(f"{modality} has {length} rows" for modality, length in found.items())
            message = f"{record.frames} frames at stride {dataset.config.stride} make {rows} rows, but {listed}"
            fix = f"extract the modality that differs again, or correct frames in {VIDEOS_FILE}"
            yield Finding("error", "length-drift", _video(record.video), message, fix)


def _twin_findings(dataset: Dataset, groups: Iterable[list[str]]) -> Iterator[Finding]:
    """Videos of the same source and the same features in more than one split.

    The source alone does not notify: the captions of many videos may stand in one file.
    """
    for videos in sorted({tuple(group) for group in groups}):
        splits = {record.split for record in dataset.select(videos)}
        if {"train", "test"} <= splits:
            listed = ", ".join(f"'{record.video}' ({record.split})" for record in dataset.select(videos))
            message = f"the same video is in training and test: {listed}"
            yield Finding("error", "train-test-overlap", VIDEOS_FILE, message, "keep it in one split")


def _extra_findings(dataset: Dataset) -> Iterator[Finding]:
    known = {record.video for record in dataset.videos}
    folder = dataset.root / "features"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        where = str(path.relative_to(dataset.root))
        if path.name not in dataset.modalities:
            if path.is_dir():
                message = f"the folder belongs to no modality of {CONFIG_FILE}"
                yield Finding("warning", "extra-modality", where, message, "add its manifest, or remove the folder")
            continue
        extra = sorted(file.stem for file in path.glob("*.npy") if file.stem not in known)
        if extra:
            message = f"{len(extra)} feature files without a row in {VIDEOS_FILE}: {_names(extra)}"
            yield Finding("warning", "extra-file", where, message, f"add the videos to {VIDEOS_FILE}, or remove the files")


def _from_error(severity: Severity, check: str, error: DataError) -> Finding:
    plain = DataError(error.what, expected=error.expected, got=error.got)
    return Finding(severity, check, str(error.where), str(plain), error.fix or "correct the file")


def _video(video: str) -> str:
    return f"video '{video}'"


def _some(videos: Iterable[str], total: int) -> str:
    listed = list(videos)
    return f"{len(listed)} of {total} videos: {_names(listed)}"


def _names(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
