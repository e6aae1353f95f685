"""Saved runs on videos with ground truth: every metric with its interval, as Result records that say how it was measured."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.dataset import Dataset
from ..errors import DataError
from ..measure.detection import METRICS
from ..measure.intervals import metric_interval
from ..measure.result import Result, Selection
from ..measure.scored import ScoredVideo
from .checkpoint import RunConfig, load_detector
from .runs import read_method
from .scoring import score_dataset
from .splits import UNNAMED_DOMAIN

POOLED_NOTE = "all domains pooled: micro AUC and average precision also count whether scores are alike from domain to domain"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What ``evaluate_runs`` found.

    Args:
        results: One record per method and metric that is defined on the videos; where they are of several domains, one more
            for each domain.
        notes: What a reader of the numbers should know, one line each.
    """

    results: tuple[Result, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _ScoredRun:
    """One run folder and the videos as it scores them."""

    config: RunConfig
    method: str
    parameters: int
    score_seconds: float
    videos: list[ScoredVideo]

    @property
    def seed(self) -> int:
        return int(str(self.config.training["seed"]))

    @property
    def selection(self) -> Selection:
        return selection_of(self.config)


def evaluate_runs(
    folders: Sequence[str | Path],
    dataset: Dataset,
    *,
    split: str = "test",
    train_seconds: float | None = None,
) -> Evaluation:
    """Measure saved runs on the videos of a split; runs that differ in their seed alone become one mean with its interval.

    Videos of several domains are measured all together and domain by domain; a domain of one class has no AUC, and a note.

    Args:
        folders: Run folders.
        dataset: Made by the same extractors as the runs' training data.
        split: Name of the videos' split in ``videos.csv``; videos without ground truth in time are left out, and noted.
        train_seconds: Of a run, to be written into the records.

    Raises:
        DataError: No video of the split has ground truth, or a method comes twice with the same seed.
        ManifestError: The dataset's features were made in another way.
        CheckpointError: A folder holds no run.
    """
    if not folders:
        raise DataError("there is no run to evaluate", expected="at least one run folder")
    videos, notes = measurable_videos(dataset, split)
    domains = _domains(dataset, videos)
    if domains:
        notes.append(POOLED_NOTE)
    runs = [_score(Path(folder), dataset, videos) for folder in folders]
    results: list[Result] = []
    for group in _groups(runs):
        measured = _measured(group, dataset.name, split, train_seconds)
        notes += [*_trained_on(group, videos), *measured.notes]
        results += measured.results
        for domain, members in domains.items():
            part = _measured(group, dataset.name, split, train_seconds, domain=domain, videos=members)
            notes += [f"domain '{domain}': {note}" for note in part.notes]
            results += part.results
    return Evaluation(tuple(results), tuple(dict.fromkeys(notes)))


def selection_of(config: RunConfig) -> Selection:
    """The rule by which a run's weights were chosen."""
    training = config.training
    if training["normal_only"] or training["steps"] == 0:
        return "untrained"
    return "validation" if training["selection"] == "validation" else "last-step"


def measurable_videos(dataset: Dataset, split: str) -> tuple[list[str], list[str]]:
    """Videos of the split with ground truth, and what to say of the others."""
    chosen = [record.video for record in dataset.select(split=split)]
    if not chosen:
        there = ", ".join(sorted({record.split or "(none)" for record in dataset.videos}))
        fix = "write the split into videos.csv, or choose another"
        raise DataError(f"no video is in the split '{split}'", where=dataset.root, got=f"splits {there}", fix=fix)
    known = [video for video in chosen if dataset.has_ground_truth(video)]
    if not known:
        raise DataError(
            f"no video of the split '{split}' has ground truth in time",
            where=dataset.root,
            expected="intervals.csv with the abnormal frames, or videos labelled normal",
            fix="write intervals.csv: video,start_frame,end_frame",
        )
    left = len(chosen) - len(known)
    return known, [f"{left} videos without ground truth in time are left out"] if left else []


def _domains(dataset: Dataset, videos: Sequence[str]) -> dict[str, set[str]]:
    """The videos of each domain; nothing where all are of one."""
    domains: dict[str, set[str]] = {}
    for video in videos:
        domains.setdefault(dataset.records[video].domain or UNNAMED_DOMAIN, set()).add(video)
    return domains if len(domains) > 1 else {}


def _score(folder: Path, dataset: Dataset, videos: Sequence[str]) -> _ScoredRun:
    detector, config = load_detector(folder)
    started = time.perf_counter()
    scored = [
        ScoredVideo.from_frames(one.video, one.logits, one.truth)
        for one in score_dataset(folder, dataset, videos)
        if one.logits is not None and one.truth is not None  # always: the videos are those with ground truth
    ]
    return _ScoredRun(config, read_method(folder, config), detector.parameter_count(), time.perf_counter() - started, scored)


def _groups(runs: Sequence[_ScoredRun]) -> list[list[_ScoredRun]]:
    """Runs alike in everything but the seed."""
    groups: dict[Any, list[_ScoredRun]] = {}
    for run in runs:
        settings = sorted((name, str(value)) for name, value in run.config.training.items() if name != "seed")
        cut = (run.config.nodes, run.config.segment_snippets, run.config.smoothing)
        groups.setdefault((run.method, cut, tuple(run.config.manifests), tuple(settings)), []).append(run)
    for group in groups.values():
        seeds = [run.seed for run in group]
        if len(set(seeds)) < len(seeds):
            raise DataError(
                "two runs of one method have the same seed",
                where=group[0].method,
                got=f"seeds {', '.join(map(str, seeds))}",
                fix="train with another --seed, or leave one out",
            )
    return list(groups.values())


def _trained_on(group: Sequence[_ScoredRun], videos: Sequence[str]) -> list[str]:
    trained: set[str] = set()
    for run in group:
        names = run.config.dataset.get("train")
        trained |= {str(name) for name in names} if isinstance(names, list) else set()
    seen = len(trained & set(videos))
    return [f"{seen} of the {len(videos)} videos were trained on: these numbers say nothing about new videos"] if seen else []


def measure_runs(runs: Sequence[Sequence[ScoredVideo]], **facts: Any) -> Evaluation:
    """Every metric that is defined, as the mean over the runs of one method, with its interval where there are videos enough.

    Args:
        runs: The same videos as scored with each seed.
        facts: Fields of ``Result`` that say what is measured; all but metric, value, interval and protocol.
    """
    abnormal = sum(video.abnormal for video in runs[0])
    results: list[Result] = []
    notes: list[str] = []
    for name, metric in METRICS.items():
        protocol = f"frame level, real frames, {len(runs[0])} videos ({abnormal} abnormal)"
        found: dict[str, Any] = {}
        try:
            estimate = metric_interval(runs, metric)
            found = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "level": estimate.level}
            drawn = "videos" if estimate.unit == "video" else "videos and seeds"
            protocol += f"; {100 * estimate.level:.0f} % interval over {drawn}"
        except DataError as too_few:
            try:
                found = {"value": sum(metric(run) for run in runs) / len(runs)}
                notes.append(f"{name} has no interval: {too_few}")
            except DataError as undefined:
                notes.append(f"{name} has no value: {undefined}")
                continue
        results.append(Result(metric=name, protocol=protocol, **found, **facts))
    return Evaluation(tuple(results), tuple(notes))


def _measured(
    group: Sequence[_ScoredRun],
    dataset: str,
    split: str,
    train_seconds: float | None,
    *,
    domain: str = "",
    videos: Collection[str] | None = None,
) -> Evaluation:
    first, seeds = group[0], tuple(run.seed for run in group)
    return measure_runs(
        [[one for one in run.videos if videos is None or one.video in videos] for run in group],
        dataset=dataset,
        split=split,
        domain=domain,
        modalities=tuple(first.config.manifests),
        fusion=first.method if first.config.segment_snippets is None else f"{first.method}, streamable",
        seed=seeds[0] if len(seeds) == 1 else None,
        seeds=seeds if len(seeds) > 1 else (),
        selection=first.selection,
        smoothing=first.config.smoothing,
        parameters=first.parameters,
        train_seconds=train_seconds,
        score_seconds=sum(run.score_seconds for run in group) / len(group) if videos is None else None,
    )
