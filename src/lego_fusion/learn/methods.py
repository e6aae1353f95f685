"""How a number comes about: one method, a fusion or a reference that learns nothing, trained and scored with one seed.

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
from jaxtyping import Float
from torch import Tensor

from ..data.dataset import Dataset
from ..data.manifest import Manifest
from ..data.segments import rows_to_frames, segments_to_rows
from ..errors import DataError, ParameterError, check_choice, check_int
from ..fusion.base import Fusion
from ..fusion.registry import FUSIONS, make_plain_fusion
from ..graph.distances import mean_distance, nearest
from ..measure.scored import ScoredVideo
from ..measure.smoothing import smooth_frames
from .bags import Bags, fit_frozen, mean_over_crops, without_units
from .conditions import CLEAN, Condition, apply_condition
from .configuration import TrainingConfig
from .detector import Detector
from .graph_cache import cached_graphs, trains_on_graphs
from .splits import Split
from .train import fit, predict_logits

UnlearnedMethod = Literal["nearest-neighbours", "nearest-cells", "flow-energy"]
LEARNED: Mapping[str, type[Fusion]] = FUSIONS
UNLEARNED: tuple[UnlearnedMethod, ...] = ("nearest-neighbours", "nearest-cells", "flow-energy")


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

    ``lego`` and ``lego-paper`` read modalities of finer units unit by unit. An option that may differ by modality and is given
    for some keeps its default for the others.

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
    chosen = {name: _for_all(method, name, value, tuple(widths)) for name, value in (options or {}).items()}
    fusion = make_plain_fusion(method, widths, **{**given, **chosen}, asked=tuple(chosen))
    for name in fusion.idle_options():
        if name in chosen:
            what = f"the option '{name}' of {method} changes nothing beside the others"
            raise ParameterError(
                what, got=f"{name}={chosen[name]}", fix="leave it out, or set the others too: docs/own-videos.md"
            )
    return fusion


def _for_all(method: str, name: str, value: Any, modalities: Sequence[str]) -> Any:
    """An option given by modality, with its default for those that are not named."""
    if not isinstance(value, Mapping):
        return value
    unknown = [one for one in value if one not in modalities]
    if unknown:
        where = f"option '{name}' of {method}"
        raise ParameterError(f"'{unknown[0]}' is no modality", where=where, expected=", ".join(modalities), got=unknown[0])
    defaults = FUSIONS[method].defaults()
    return {**(dict.fromkeys(modalities, defaults[name]) if name in defaults else {}), **value}


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


@dataclass(frozen=True)
class ModelShape:
    """What decides the shape of a model beside its fusion's name and its modalities.

    Args:
        nodes: N, segments of a bag.
        hidden: Units of the head, where the fusion brings none of its own.
        options: Of the fusion, those that differ from its defaults, as for ``make_default_fusion``.
    """

    nodes: int = 32
    hidden: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)


def run_method(
    dataset: Dataset,
    bags: Bags,
    split: Split,
    modalities: Sequence[str],
    method: str,
    config: TrainingConfig,
    shape: ModelShape | None = None,
    *,
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
        shape: Of the model; its defaults where nothing is said.
        condition: What happens to the features, seeded by the configuration's seed; learned or not, all methods meet the same.
        watch_test: Also keep the test scores of the start, of every ``config.check_every`` steps and of the last step.
        checkpoint: Where a killed run can go on from.
        cache: Folder to keep graphs in, for methods and conditions that train on graphs of the features as they are.
        on_step: Called with step and loss.
    """
    check_choice(method, "method", "run_method", LEARNED if method in LEARNED else (*LEARNED, *UNLEARNED))
    shape = shape or ModelShape()
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
    fusion = make_default_fusion(method, manifests, nodes=shape.nodes, seed=config.seed, options=shape.options)
    validation = held_out[0] if held_out else None
    if cache is not None and condition == CLEAN and trains_on_graphs(fusion, config):
        others = (*split.test, *split.validation)
        graphs = cached_graphs(dataset, fusion, train.videos, others, nodes=shape.nodes, cache=cache, bags=bags)
        train, test = graphs.training, (graphs.others or test).named(split.test)
        validation = graphs.others.named(split.validation) if graphs.others and split.validation else None
    else:
        fit_frozen(fusion, train)
    detector = Detector(fusion, hidden=shape.hidden, seed=config.seed)
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

    given: dict[str, Any] = {"validation": validation, "checkpoint": checkpoint}
    state = fit(detector, train, config, **given, on_start=lambda: look(0), on_step=stepped)
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
    record, grid = dataset.records[video], (dataset.config.snippet_frames, dataset.config.stride)
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


def nearest_neighbour_scores(train: Bags, test: Bags, *, neighbours: int = 3) -> Float[Tensor, "v n"]:
    """Mean distance to the nearest normal training segments, divided by its typical size and summed over modalities.

    Per modality: d_i = mean Euclidean distance to the k nearest segments of normal training videos, over columns scaled by
    the normal segments' deviation; divided by the mean distance between normal segments. No label but "normal" is used.

    Args:
        train: Training bags with features; only normal ones count. Finer units count as the mean of those present.
        test: Bags to score, with the same modalities.
        neighbours: k.

    Returns:
        Scores of the test bags, (V, N), higher is more abnormal.
    """
    check_int(neighbours, "neighbours", "nearest_neighbour_scores", low=1)
    normal = ~train.bag_labels
    if not bool(normal.any()):
        raise DataError("nearest neighbours need normal training videos", expected="at least one", got="none")
    train, test = without_units(train), without_units(test.with_modalities(list(train.inputs)))
    total: Tensor | float = 0.0
    for name, tensor in train.inputs.items():
        known = torch.unique(tensor[normal].flatten(0, 1), dim=0)
        deviation = known.std(0, unbiased=False)
        scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation)) * tensor.shape[-1] ** 0.5
        known = known / scale
        distance = nearest(test.inputs[name].flatten(0, 1) / scale, known, min(neighbours, len(known)))[0].mean(-1)
        total = total + (distance / mean_distance(known) if len(known) > 1 else distance)
    if not isinstance(total, Tensor):
        raise DataError("nearest neighbours need at least one modality")
    return mean_over_crops(total.reshape(-1, next(iter(test.inputs.values())).shape[1]), test.crops)


def nearest_unit_scores(
    train: Bags, test: Bags, groups: Mapping[str, int], *, neighbours: int = 3, most_novel: int = 8
) -> Float[Tensor, "v n"]:
    """Mean novelty of a segment's most novel units, summed over the modalities of finer units.

    Per unit: d_u = mean Euclidean distance to the k nearest units of its group (cells of the same row of the picture) in normal
    training videos, copies counted once, over columns scaled by the deviation of the normal units.

    Args:
        train: Training bags; only normal ones count.
        test: Bags to score.
        groups: The modalities to use, and the number of groups that their units come in.
        neighbours: k.
        most_novel: Units of a segment whose mean novelty is its score.

    Returns:
        Scores of the test bags, (V, N), higher is more abnormal; a segment without units scores 0.
    """
    check_int(neighbours, "neighbours", "nearest_unit_scores", low=1)
    check_int(most_novel, "most_novel", "nearest_unit_scores", low=1)
    if not groups:
        raise DataError("nearest cells need a modality of finer units", got=", ".join(test.inputs), fix="extract motion-cells")
    scores = []
    for name, count in groups.items():
        novelty = nearest_unit_distances(train, test.inputs[name], name, count, neighbours=neighbours)
        present = test.inputs[name][..., -1] > 0
        ranked = novelty.masked_fill(~present, float("-inf")).topk(min(most_novel, novelty.shape[-1]), dim=-1).values
        there = ranked > float("-inf")
        scores.append(ranked.masked_fill(~there, 0.0).sum(-1) / there.sum(-1).clamp_min(1))
    return mean_over_crops(torch.stack(scores).sum(0), test.crops)


def nearest_unit_distances(
    train: Bags, units: Float[Tensor, "b n u d_and_1"], modality: str, groups: int, *, neighbours: int = 3
) -> Float[Tensor, "b n u"]:
    """Mean distance of every unit to its nearest normal ones of the same group, see ``nearest_unit_scores``."""
    normal = ~train.bag_labels
    known = train.inputs[modality][normal]  # (B, N, U, D + 1)
    width, group_size = units.shape[-1] - 1, units.shape[2] // groups
    different = torch.unique(known.flatten(0, 2)[known[..., -1].flatten() > 0], dim=0)[:, :-1]
    if not len(different):
        raise DataError("nearest cells need normal training videos with units", where=f"modality '{modality}'", got="none")
    deviation = different.std(0, unbiased=False)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation)) * width**0.5
    distances = []
    for g in range(groups):
        first = g * (known.shape[2] // groups)
        there = known[:, :, first : first + known.shape[2] // groups].flatten(0, 2)
        there = torch.unique(there[there[:, -1] > 0], dim=0)[:, :-1] / scale
        mine = units[:, :, g * group_size : (g + 1) * group_size, :-1] / scale
        distances.append(nearest(mine, there, min(neighbours, len(there)))[0].mean(-1))
    return torch.cat(distances, dim=2)


def column_scores(bags: Bags, modality: str, column: int) -> Float[Tensor, "v n"]:
    """One column of one modality as the score, for example the flow energy of ``motion``."""
    values = without_units(bags.with_modalities([modality])).inputs[modality]
    if not 0 <= column < values.shape[-1]:
        raise DataError("there is no such column", where=modality, expected=f"0 to {values.shape[-1] - 1}", got=str(column))
    return mean_over_crops(values[..., column], bags.crops)
