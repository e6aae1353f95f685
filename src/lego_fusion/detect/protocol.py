"""How a number comes about: which videos train and test, which method, which seed, which step is taken.

Nothing here looks at a test video before the model is final, except ``watch_test``, which exists to measure how optimistic
picking the best test step would have been.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..data.manifest import Manifest
from ..data.segments import rows_to_frames, segments_to_rows
from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from ..fusion.base import Fusion
from ..fusion.registry import FUSIONS, make_plain_fusion
from ..measure.scored import ScoredVideo
from ..measure.smoothing import smooth_frames
from .bags import Bags, fit_statistics
from .conditions import CLEAN, Condition, apply_condition
from .detector import Detector
from .graph_cache import cached_graphs, trains_on_graphs
from .novelty import column_scores, nearest_neighbour_scores, nearest_unit_scores
from .train import TrainingConfig, fit, predict_logits

UnlearnedMethod = Literal["nearest-neighbours", "nearest-cells", "flow-energy"]
LEARNED: tuple[str, ...] = tuple(FUSIONS)
DomainSplit = Literal["left-out", "within"]
DOMAIN_SPLITS: tuple[DomainSplit, ...] = ("left-out", "within")
UNNAMED_DOMAIN = "(none)"  # of videos that name no domain
UNLEARNED: tuple[UnlearnedMethod, ...] = ("nearest-neighbours", "nearest-cells", "flow-energy")


@dataclass(frozen=True)
class Split:
    """Names of training, test and (held out of training) validation videos."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    validation: tuple[str, ...] = ()


@dataclass
class Run:
    """One method trained and scored on one split with one seed.

    Args:
        node_scores: Logits of the segments of each test video, or the distances of a reference, (N,) float64.
        detector: The trained detector; None for a reference that learns nothing.
        watched: With ``watch_test``, the test scores at each look, by step; step 0 is the untrained start.
    """

    node_scores: dict[str, Tensor]
    detector: Detector | None
    parameters: int
    train_seconds: float
    score_seconds: float
    watched: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def own_split(dataset: Dataset, name: str = "own") -> Split:
    """The split in ``videos.csv``: ``train`` and ``test`` rows, and ``validation`` rows if there are any."""
    parts = {part: tuple(record.video for record in dataset.select(split=part)) for part in ("train", "test", "validation")}
    if not parts["train"]:
        raise DataError("no video is marked for training", where="videos.csv", expected="'train' in the split column")
    return Split(name, parts["train"], parts["test"], parts["validation"])


def resplits(dataset: Dataset, count: int, *, seed: int = 0) -> list[Split]:
    """Random splits with as many normal and abnormal training videos as the dataset's own split, the rest for testing.

    Args:
        dataset: A dataset whose own split says how many of each to train on.
        count: How many splits.
        seed: Split i is drawn from (seed, i), so that more splits do not change the first ones.
    """
    check_int(count, "count", "resplits", low=1)
    own = own_split(dataset)
    everyone = (*own.train, *own.test, *own.validation)
    drawn = []
    for index in range(count):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        train: list[str] = []
        for label in ("normal", "abnormal"):
            group = [video for video in everyone if dataset.record(video).label == label]
            wanted = sum(dataset.record(video).label == label for video in own.train)
            order = torch.randperm(len(group), generator=generator)
            train += [group[int(place)] for place in order[:wanted]]
        test = tuple(video for video in everyone if video not in set(train))
        drawn.append(Split(f"resplit-{seed}-{index}", tuple(train), test))
    return drawn


def hold_out(dataset: Dataset, split: Split, share: float, *, seed: int = 0) -> Split:
    """Move a share of the training videos of each label to validation: at least one, and never all.

    Raises:
        DataError: If a label has fewer than two training videos.
    """
    check_number(share, "share", "hold_out", low=0.0, high=0.9)
    generator = torch.Generator().manual_seed(seed)
    kept, held = [], []
    for label in ("normal", "abnormal"):
        group = [video for video in split.train if dataset.record(video).label == label]
        if len(group) < 2:
            got = f"{len(group)} {label}"
            raise DataError("too few training videos to hold some out", expected="at least 2 of each label", got=got)
        count = min(len(group) - 1, max(1, round(share * len(group))))
        order = [group[int(place)] for place in torch.randperm(len(group), generator=generator)]
        held += order[:count]
        kept += order[count:]
    kept += [video for video in split.train if not dataset.record(video).label]
    return Split(split.name, tuple(kept), split.test, tuple(held))


def require_labels(dataset: Dataset, split: Split) -> None:
    """Raise ``DataError`` unless every training and validation video is labelled."""
    for video in (*split.train, *split.validation):
        if dataset.record(video).label not in ("normal", "abnormal"):
            raise DataError("a training video has no label", where=video, expected="normal or abnormal", fix="edit videos.csv")


def domain_splits(dataset: Dataset, kind: DomainSplit = "left-out") -> list[Split]:
    """For every domain of a dataset, a split that tests on the test videos of that domain.

    Args:
        dataset: With training videos of at least two domains, or of one for ``"within"``.
        kind: ``"left-out"``: trained on the training videos of all other domains; ``"within"``: on its own ones. The same
            videos are tested, so that the two can be compared with each other and with the own split (all domains pooled).

    Returns:
        One split a domain, in the order of ``videos.csv``, named ``"left-out:DOMAIN"`` or ``"within:DOMAIN"``. A domain
        without test videos has none; one without training videos has only ``"left-out"``.

    Raises:
        DataError: If the dataset has one domain only (for ``"left-out"``), or no split is possible.
    """
    check_choice(kind, "kind", "domain_splits", DOMAIN_SPLITS)
    own = own_split(dataset)
    domains = list(dict.fromkeys(record.domain for record in dataset.videos))
    if kind == "left-out" and len(domains) < 2:
        fix = "fill the column 'domain', or join datasets with `lego-fusion join`"
        raise DataError(
            "there is only one domain", where=dataset.root, expected="at least two", got=domains[0] or "none", fix=fix
        )

    def part(videos: Sequence[str], domain: str) -> tuple[str, ...]:
        return tuple(video for video in videos if (dataset.record(video).domain == domain) == (kind == "within"))

    drawn = []
    for domain in domains:
        test = tuple(video for video in own.test if dataset.record(video).domain == domain)
        train = part(own.train, domain)
        if train and test:
            drawn.append(Split(f"{kind}:{domain or UNNAMED_DOMAIN}", train, test, part(own.validation, domain)))
    if not drawn:
        raise DataError("no domain has test videos, and training videos to go with them", where="videos.csv")
    return drawn


def unit_groups(manifests: Mapping[str, Manifest]) -> dict[str, int]:
    """The modalities of finer units, and in how many groups they meet references: cells and patches by row of the picture."""
    return {
        name: 1 if manifest.grid is None else manifest.grid[0] for name, manifest in manifests.items() if manifest.has_units
    }


def make_default_fusion(
    method: str,
    manifests: Mapping[str, Manifest],
    *,
    nodes: int = 32,
    seed: int = 0,
    window: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Fusion:
    """A fusion in the configuration fixed for all data, or with some of its options changed.

    ``lego`` and ``lego-paper`` read modalities of finer units unit by unit.

    Args:
        method: A name of the registry.
        manifests: Of the modalities.
        nodes: N.
        seed: Of what is random.
        window: Segments that a causal model looks back on, where it is for streams.
        options: Other arguments of the fusion, by name.
    """
    check_choice(method, "method", "make_default_fusion", LEARNED)
    widths = {name: manifest.width for name, manifest in manifests.items()}
    given = {"nodes": nodes, "seed": seed, "window": window, "units": unit_groups(manifests)}
    return make_plain_fusion(method, widths, **{**given, **(options or {})}, asked=tuple(options or ()))


def draws_at_random(method: str, config: TrainingConfig) -> bool:
    """Whether another seed gives another result, on features as they are; where not, a comparison runs a method once.

    Args:
        method: One of ``LEARNED`` or ``UNLEARNED``.
        config: Of the training: an order of segments may be drawn for modality dropout.
    """
    if method in UNLEARNED:
        return False
    permuted = config.modality_dropout > 0 and config.modality_removal == "permute"
    return permuted or _fusion_draws(method)


@functools.cache
def _fusion_draws(method: str) -> bool:
    return make_plain_fusion(method, {"first": 1, "second": 1}).draws_at_random


def run_method(
    dataset: Dataset,
    bags: Bags,
    split: Split,
    modalities: Sequence[str],
    method: str,
    config: TrainingConfig,
    *,
    nodes: int = 32,
    condition: Condition = CLEAN,
    watch_test: bool = False,
    checkpoint: Path | None = None,
    cache: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Run:
    """Train a method on a split's training videos and score its test videos.

    Args:
        dataset: Where the bags come from.
        bags: Of all videos of the split, with features of at least ``modalities``.
        split: Which of them train and test.
        modalities: Which of their features to use, in the order that orients the operator.
        method: One of ``LEARNED`` or ``UNLEARNED``.
        config: Of the training; its seed is the run's.
        nodes: N, as in the bags.
        condition: What happens to the features, seeded by the configuration's seed; learned or not, all methods meet the same.
        watch_test: Also keep the test scores of the start, of every ``config.check_every`` steps and of the last step.
        checkpoint: Where a killed run can go on from.
        cache: Folder to keep graphs in, for methods and conditions that train on graphs of the features as they are.
        on_step: Called with step and loss.
    """
    check_choice(method, "method", "run_method", (*LEARNED, *UNLEARNED))
    bags = bags.with_modalities(modalities)
    train, test = bags.named(split.train), bags.named(split.test)
    if config.normal_only and method not in UNLEARNED:  # abnormal videos must not reach the statistics either
        train = train.select((~train.labels).nonzero()[:, 0])
    held_out = [bags.named(split.validation)] if split.validation else []
    train, (test, *held_out) = apply_condition(condition, train, [test, *held_out], seed=config.seed)
    dropped = (condition.modality,) if condition.removal == "drop-term" else ()
    if method in UNLEARNED:
        if dropped:
            raise ParameterError("'drop-term' needs a fusion with graphs", got=f"method '{method}'", fix="use missing=mean")
        started = time.perf_counter()
        scores = _unlearned(dataset, train, test, method)
        return Run(_by_video(test, scores), None, 0, 0.0, time.perf_counter() - started)
    started = time.perf_counter()
    manifests = condition.manifests({name: dataset.modalities[name] for name in modalities})
    fusion = make_default_fusion(method, manifests, nodes=nodes, seed=config.seed)
    validation = held_out[0] if held_out else None
    if cache is not None and condition == CLEAN and trains_on_graphs(fusion, config):
        others = (*split.test, *split.validation)
        graphs = cached_graphs(dataset, fusion, train.videos, others, nodes=nodes, cache=cache, bags=bags)
        train, test = graphs.training, (graphs.others or test).named(split.test)
        validation = graphs.others.named(split.validation) if graphs.others and split.validation else None
    else:
        fit_statistics(fusion, train)
    detector = Detector(fusion, seed=config.seed)
    watched: dict[int, dict[str, Tensor]] = {}
    watching = 0.0

    def look(step: int) -> None:
        nonlocal watching
        if watch_test and (step % config.check_every == 0 or step == config.steps):
            began = time.perf_counter()
            watched[step] = _by_video(test, predict_logits(detector, test, dropped=dropped))
            watching += time.perf_counter() - began

    def stepped(step: int, loss: float) -> None:
        look(step)
        if on_step is not None:
            on_step(step, loss)

    options: dict[str, Any] = {"validation": validation, "checkpoint": checkpoint}
    state = fit(detector, train, config, **options, on_start=lambda: look(0), on_step=stepped)
    train_seconds = time.perf_counter() - started - watching
    started = time.perf_counter()
    by_video = _by_video(test, predict_logits(detector, test, dropped=dropped))
    score_seconds = time.perf_counter() - started
    if watch_test and config.selection == "last-step":
        watched[state.step] = by_video  # of several fits the last look may be at another than was kept
    return Run(by_video, detector, detector.parameter_count(), train_seconds, score_seconds, watched)


def scored_videos(dataset: Dataset, node_scores: Mapping[str, Tensor], *, smoothing: float = 0.0) -> list[ScoredVideo]:
    """Set segment scores, as they spread over frames, beside the ground truth: as weighted runs, not frame by frame.

    Args:
        dataset: With the ground truth.
        node_scores: Logits or scores of each video's segments, (N,).
        smoothing: Of the frames, in seconds (``measure.smoothing``).
    """
    return [_scored(dataset, video, scores, smoothing) for video, scores in node_scores.items()]


def _scored(dataset: Dataset, video: str, scores: Tensor, smoothing: float) -> ScoredVideo:
    labels, stride = dataset.frame_labels(video), dataset.config.stride
    if smoothing or dataset.config.snippet_frames > stride:  # overlapping snippets: a frame's score is a mean over several
        return ScoredVideo.from_frames(video, frame_scores(dataset, video, scores, smoothing=smoothing).numpy(), labels)
    rows = segments_to_rows(scores.double().numpy(), dataset.rows(video))
    bounds = np.minimum(np.arange(len(rows) + 1) * stride, len(labels))
    intervals = [(one.start_frame, one.end_frame) for one in dataset.intervals(video)]
    return ScoredVideo.from_spans(video, rows, bounds, intervals)


def frame_scores(dataset: Dataset, video: str, node_scores: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Segment scores (N,) -> frame scores (frames,): mean over the nodes of each snippet, spread over its frames, smoothed."""
    record, grid = dataset.record(video), (dataset.config.snippet_frames, dataset.config.stride)
    frames = rows_to_frames(segments_to_rows(node_scores.double().numpy(), dataset.rows(video)), record.frames, *grid)
    return torch.from_numpy(smooth_frames(frames, record.fps, smoothing, constant=math.gcd(*grid)))


def _unlearned(dataset: Dataset, train: Bags, test: Bags, method: UnlearnedMethod) -> Tensor:
    if method == "nearest-neighbours":
        return nearest_neighbour_scores(train, test)
    known = [name for name in test.inputs if name in dataset.modalities]  # a modality of noise added is in no dataset
    if method == "nearest-cells":
        return nearest_unit_scores(train, test, unit_groups({name: dataset.modalities[name] for name in known}))
    moving = [name for name in known if dataset.modalities[name].extractor == "motion"]
    if not moving:
        raise DataError("flow energy needs a modality of the 'motion' extractor", got=", ".join(test.inputs))
    return column_scores(test, moving[0], 0)


def _by_video(bags: Bags, scores: Tensor) -> dict[str, Tensor]:
    return dict(zip(bags.videos, scores.double(), strict=True))
