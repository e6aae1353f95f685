"""Fix a study before anything is trained: the cells of a comparison, or those of a sweep.

A comparison meets every dataset, split, modality set, fusion, seed and condition with each other. A sweep has one dataset, one
split and one fusion in every combination of a grid of settings, and the default; a search chooses among them as it goes.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import JsonValue

from .. import __version__
from ..data.dataset import Dataset
from ..errors import DataError, ParameterError, check_choice, check_int, check_number, with_changes
from ..fusion.base import Fusion
from ..fusion.registry import FUSIONS
from ..learn.conditions import parse_condition
from ..learn.configuration import TrainingConfig
from ..learn.graph_cache import GraphType, state_of_files
from ..learn.methods import LEARNED, make_default_fusion
from ..learn.settings import Settings, full_key, parse_value
from ..learn.splits import (
    UNNAMED_DOMAIN,
    Split,
    division_warnings,
    hold_out,
    measurable_frames,
    own_split,
    require_labels,
    resplits,
    rotate_domains,
    training_split,
)
from ..measure.smoothing import check_smoothing
from .cells import ComparisonPlan, DatasetPlan, SweepPlan

ALL_FUSIONS = tuple(method for method in LEARNED if method != "mtn")
"""What ``all`` stands for; MTN takes a hundred times as long as the others and is compared where it is named."""
SENSIBLE_FUSIONS = ("lego", "concat", "add", "mlp", "cross-attention", "score-average")
BEST = "best"
"""The name of the baseline that is chosen among the compared."""
OURS = ("lego", "lego-paper")
"""What is no baseline: the readings that are compared with them."""
MOST_ORDER = 32  # higher powers of a relation below 1 are zero in float32, and above it infinite
MOST_CONFIGURATIONS = 10_000
FITTED = ("iterations", "prior_departure", "prior_orders", "prior_bias", "own_world_gain")  # of a head with priors alone
STEPPED = ("steps", "learning_rate", "weight_decay", "batch_size")  # of all others alone
SHARED = (
    *("k", "pooling", "degree_variance", "degree_quantile", "degree_threshold", "degree_k", "smoothness", "sparsity"),
    *("operator_sparsity", "operator_order_decay"),
)
Grid = dict[str, tuple[JsonValue, ...]]
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_SPAN = re.compile(r"([^.,]+(?:\.\d+)?(?:e[+-]?\d+)?)\.\.(.+)", re.IGNORECASE)
_COMMA = re.compile(r",(?![^\[]*\])(?![^{]*\})")  # that is in no list or table


@dataclass(frozen=True)
class SplitRule:
    """A way to divide a dataset: how it is called, and the divisions, given how many are wanted."""

    title: str
    draw: Callable[[Dataset, int], list[Split]]


SPLITS = {
    "own": SplitRule("own split", lambda dataset, count: [own_split(dataset)]),
    "resplits": SplitRule("random re-splits", resplits),
    "domains": SplitRule("domains, each left out of training once", lambda dataset, count: rotate_domains(dataset)),
}
"""Every way there is, by its name on the command line."""


def make_plan(
    datasets: Sequence[Dataset],
    *,
    modality_sets: Sequence[Sequence[str]] = (),
    fusions: Sequence[str] = SENSIBLE_FUSIONS,
    references: bool = True,
    seeds: int = 3,
    splits: str | int = "own",
    conditions: Sequence[str] = ("clean",),
    validation: float = 0.0,
    test_best: bool = False,
    settings: Settings | None = None,
    **changes: Any,
) -> ComparisonPlan:
    """Fix a comparison before anything is trained.

    Args:
        datasets: Opened dataset folders, each with a name of its own.
        modality_sets: Sets of modalities that every dataset has; by default all of the first dataset's together.
        fusions: Learned methods (``methods.LEARNED``), in the order in which they are shown.
        references: Whether nearest neighbours and, where there is motion, flow energy stand in the same table.
        seeds: Training seeds.
        splits: A key of ``SPLITS``, or a number of re-splits. ``"own"``: as in ``videos.csv``; ``"resplits"``: 10 random ones
            with as many training videos; ``"domains"``: every domain is tested once by what was trained on all videos of the
            others.
        conditions: What is done to the features; a modality set without the modality concerned leaves a condition out.
        validation: Share of the training videos to hold out, the same for every seed; selects by validation loss.
        test_best: Watch the test videos, to measure how optimistic picking the best step on them would be.
        settings: Of every training (``learn.settings``): the same for every fusion but for its own options.
        changes: Fields of the settings by name, such as ``nodes=16`` or ``options={"lego": {"references": 512}}``.

    Raises:
        ParameterError: A name is unknown or comes twice, or a number is out of range.
        DataError: A dataset lacks a modality, labels, or ground truth for its test videos.
    """
    _require_different("datasets", [one.name for one in datasets])
    check_int(seeds, "seeds", "compare", low=1)
    check_number(validation, "validation", "compare", low=0.0, high=0.9)
    for method in fusions:
        check_choice(method, "fusions", "compare", LEARNED)
    fusions = [FUSIONS.typed(method) for method in fusions]
    sets = tuple(tuple(names) for names in modality_sets) or (tuple(datasets[0].modalities),)
    words = tuple(str(parse_condition(condition)) for condition in conditions)
    for what, values in (("fusions", fusions), ("modality sets", sets), ("conditions", words)):
        _require_different(what, values)
    settings = with_changes(settings or Settings(), changes, "make_plan")
    training = settings.training.model_copy(update={"selection": "validation"} if validation else {})
    kind, count = ("resplits", splits) if isinstance(splits, int) else (splits, 10)
    plan = ComparisonPlan(
        lego_fusion=__version__,
        split_kind=kind,
        modality_sets=sets,
        fusions=tuple(fusions),
        references=references,
        seeds=seeds,
        conditions=words,
        training=training,
        validation=validation,
        nodes=settings.nodes,
        hidden=settings.hidden,
        options={fusion: dict(given) for fusion, given in settings.options.items()},
        smoothing=check_smoothing(settings.smoothing, "compare"),
        test_best=test_best,
        datasets=tuple(
            _plan_dataset(one, sets, _drawn_splits(one, kind, count, training, validation), kind) for one in datasets
        ),
    )
    for condition in words:
        if not any(parse_condition(condition).applies_to(names) for names in sets):
            met = ", ".join("+".join(names) for names in sets)
            raise ParameterError("a condition meets no modality set", where=f"'{condition}'", got=met)
    for fusion, names in itertools.product(plan.options, sets):  # a fusion says what is wrong with an option
        check_choice(fusion, "options", "compare", plan.fusions)
        manifests = {name: datasets[0].modalities[name] for name in names}
        make_default_fusion(fusion, manifests, nodes=plan.nodes, options=plan.options[fusion])
    return plan


def choose_baseline(plan: ComparisonPlan, baseline: str = "") -> str:
    """The baseline asked for, or concat where it is compared, or none (``""``); ``ParameterError`` if it is not compared."""
    methods = dict.fromkeys(cell.method for cell in plan.cells())
    if not baseline:
        return "concat" if "concat" in methods else ""
    if baseline == BEST and all(method in OURS for method in plan.fusions):
        raise ParameterError("there is no baseline to choose from", where="baseline 'best'", got=", ".join(plan.fusions))
    return str(check_choice(baseline, "baseline", "compare", (*methods, BEST)))


def parse_modality_sets(text: str, dataset: Dataset) -> list[tuple[str, ...]]:
    """Modality sets as a command line names them: ``motion+text,text``; ``all`` is all together, ``each`` each one alone."""
    names = tuple(dataset.modalities)
    known: dict[str, list[tuple[str, ...]]] = {
        "all": [names],
        "each": [(name,) for name in names],
        **{name: [(name,)] for name in names},
    }
    sets: list[tuple[str, ...]] = []
    for word in filter(None, map(str.strip, text.split(","))):
        sets += known.get(word, [tuple(name.strip() for name in word.split("+"))])
    return list(dict.fromkeys(sets))


def _drawn_splits(dataset: Dataset, kind: str, count: int, training: TrainingConfig, validation: float) -> list[Split]:
    """The splits of a dataset, with labelled training videos and validation videos where they are needed."""
    drawn = SPLITS[check_choice(kind, "splits", "compare", tuple(SPLITS))].draw(dataset, count)
    if validation:
        drawn = [hold_out(dataset, split, validation, seed=training.seed) for split in drawn]
    for split in drawn:
        require_labels(dataset, split)
        if training.selection == "validation" and not split.validation:
            fix = "give --validation, the share of the training videos to hold out"
            raise DataError("selection='validation' needs validation videos", where=f"split {split.name}", got="none", fix=fix)
    return drawn


def _plan_dataset(dataset: Dataset, sets: Sequence[Sequence[str]], drawn: Sequence[Split], kind: str) -> DatasetPlan:
    used = dict.fromkeys(itertools.chain.from_iterable(sets))
    manifests = {name: dataset.modalities[name] for name in used}
    known = [replace(split, test=tuple(filter(dataset.has_ground_truth, split.test))) for split in drawn]
    for split in known:
        if not measurable_frames(dataset, split.test):
            lacking = "normal and abnormal frames are not both known among the test videos"
            raise DataError(
                lacking if split.test else "no test video has ground truth in time",
                where=f"dataset '{dataset.name}', split {split.name}",
                expected="test videos with intervals.csv, or labelled normal",
                fix="write intervals.csv, or the test split into videos.csv",
            )
    return DatasetPlan(
        name=dataset.name,
        hash=dataset.hash,
        manifests={name: manifest.hash for name, manifest in manifests.items()},
        splits=tuple(known),
        moving=tuple(name for name, manifest in manifests.items() if manifest.extractor == "motion"),
        fine=tuple(name for name, manifest in manifests.items() if manifest.has_units),
        notes=tuple(_split_notes(dataset, drawn, kind)),
        untold=len({video for split in drawn for video in split.test if not dataset.has_ground_truth(video)}),
    )


def _split_notes(dataset: Dataset, splits: Sequence[Split], kind: str) -> Iterator[str]:
    """What a person should know of the splits."""
    for split in splits:
        yield from division_warnings(dataset, split)
    sources = Counter(record.source for record in dataset.videos if record.source)
    if kind == "resplits" and any(count > 1 for count in sources.values()):
        counts = [_drawn_counts(dataset, splits, label) for label in ("normal", "abnormal")]
        yield f"{dataset.name}: no re-split divides a source; they train on {' and '.join(counts)}"
    tested = {dataset.records[video].domain for split in splits for video in split.test}
    never = [domain or UNNAMED_DOMAIN for domain in dict.fromkeys(one.domain for one in dataset.videos) if domain not in tested]
    if kind == "domains" and never:
        listed = ", ".join(never[:5]) + (f" and {len(never) - 5} more" if len(never) > 5 else "")
        yield f"{dataset.name}: {listed} only train: normal and abnormal frames are not both known there"


def _drawn_counts(dataset: Dataset, splits: Sequence[Split], label: str) -> str:
    """How many videos of a label re-splits by source came to train on, beside those of the own split."""
    wanted, *found = (
        sum(dataset.records[video].label == label for video in (*split.train, *split.validation))
        for split in (own_split(dataset), *splits)
    )
    span = f"{min(found)} to {max(found)}" if min(found) < max(found) else f"{found[0]}"
    return f"{span} {label} videos (own split: {wanted})"


def _require_different(what: str, values: Sequence[object]) -> None:
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if not values or twice:
        got = f"{twice[0]!r} twice" if twice else "none"
        raise ParameterError(f"the {what} of a comparison differ from each other", got=got, fix="name each once")


def make_sweep_plan(
    dataset: Dataset,
    grid: Mapping[str, Sequence[JsonValue]] | None = None,
    *,
    modalities: Sequence[str] = (),
    method: str = "lego",
    seeds: int = 1,
    validation: float = 0.0,
    dtype: GraphType = "float32",
    search: int = 0,
    spans: Sequence[str] = (),
    settings: Settings | None = None,
    **changes: Any,
) -> SweepPlan:
    """Fix a sweep before anything is trained.

    Args:
        dataset: With a split, and labels for the training videos.
        grid: Values by key; those that the fusion names (``Fusion.usual_grid``) by default.
        modalities: Feature sets to fuse; all by default.
        method: ``"lego"``, whose trials are fitted one by one on frozen stages that they share where they can, or
            ``"lego-paper"``, whose trials are trained together on shared powers of the graphs inside the videos.
        seeds: How often each configuration is trained, where its start is drawn at random; validation losses are averaged.
        validation: Share of the training videos of each label to hold out; with 0 the split's own validation videos count.
        dtype: Type of the cached graphs.
        search: How many configurations Optuna proposes instead of the whole grid; 0 for no search.
        spans: Keys of which a search may choose any value from the first to the last (``parse_space``).
        settings: What the grid leaves alone; the smoothing is that of test videos and of the pick, bags are compared by their
            segments.
        changes: Fields of the settings by name, such as ``nodes=16``.

    Raises:
        ParameterError: If the grid is empty, or a key or value of it is unknown, out of range or changes nothing.
        DataError: If there are no validation videos, or data are missing.
    """
    names = tuple(modalities) or tuple(dataset.modalities)
    method = FUSIONS.typed(check_choice(method, "method", "sweep", FUSIONS))
    given = FUSIONS[method].usual_grid(names) if grid is None else grid
    keys = {full_key(key, [method], where="grid"): tuple(values) for key, values in given.items()}
    if len(keys) < len(given):
        raise ParameterError("the grid has a key twice", got=", ".join(given), fix="give all its values at once")
    check_int(seeds, "seeds", "sweep", low=1)
    check_int(search, "search", "sweep", low=0)
    settings, split = with_changes(settings or Settings(), changes, "make_sweep_plan"), training_split(dataset)
    split = hold_out(dataset, split, validation, seed=settings.training.seed) if validation else split
    require_labels(dataset, split)
    if not split.validation:
        fix = "hold some training videos out with --validation 0.3"
        raise DataError("a sweep chooses by validation videos", where=f"dataset '{dataset.name}'", got="none", fix=fix)
    plan = SweepPlan(
        lego_fusion=__version__,
        dataset=dataset.name,
        hash=dataset.hash,
        files=state_of_files(dataset, names, (*split.train, *split.validation)),
        manifests={name: dataset.modalities[name].hash for name in names},
        method=method,
        options=json.loads(json.dumps(settings.options_of(method))),
        split=split,
        nodes=settings.nodes,
        hidden=settings.hidden,
        smoothing=check_smoothing(settings.smoothing, "sweep"),
        grid=keys,
        seeds=seeds,
        training=settings.training,
        dtype=dtype,
        search=search,
        spans=tuple(full_key(key, [method], where="grid") for key in spans),
    )
    fusion = plan.fusion(dataset, plan.cells_of({})[0])
    _check_grid(plan, fusion)
    plan = plan.model_copy(update={"default": {key: _default(plan, fusion, key) for key in keys}})
    _require_made(plan, dataset)
    return plan


def parse_grid(words: Sequence[str]) -> Grid:
    """A grid as a command line gives it: ``fusion.order.motion=1..4``, ``fusion.orders=[1],[1,2]``, ``k=1,3``.

    Raises:
        ParameterError: If a word is no ``KEY=VALUES``, or a key comes twice.

    Example:
        >>> parse_grid(["fusion.order=1..3", "k=1,3", "fusion.operator=fixed,learned"])
        {'fusion.order': (1, 2, 3), 'k': (1, 3), 'fusion.operator': ('fixed', 'learned')}
    """
    grid: Grid = {}
    for word in words:
        key, equals, text = (part.strip() for part in word.partition("="))
        if not equals or not key:
            expected = "KEY=VALUES, such as fusion.references=256,512 or k=1..3"
            raise ParameterError("not a part of a grid", expected=expected, got=repr(word))
        if key in grid:
            raise ParameterError(f"'{key}' is in the grid twice", fix="give all its values at once, with commas")
        found = itertools.chain.from_iterable(_values(part.strip(), word) for part in _COMMA.split(text) if part.strip())
        grid[key] = tuple({json.dumps(value): value for value in found}.values())
    return grid


def parse_space(words: Sequence[str]) -> tuple[Grid, list[str]]:
    """A grid in which a search may choose between two ends: ``fusion.references=64..2048``, ``prior_departure=0.1..10``.

    Returns:
        The grid, with all integers of a span, or the ends of a span of other numbers; and the keys of the spans.

    Example:
        >>> parse_space(["prior_departure=0.1..1e1", "k=1..3", "fusion.kept=1,2"])
        ({'prior_departure': (0.1, 10.0), 'k': (1, 2, 3), 'fusion.kept': (1, 2)}, ['prior_departure', 'k'])
    """
    grid: Grid = {}
    spans: list[str] = []
    for word in words:
        name, _, text = (part.strip() for part in word.partition("="))
        span = _SPAN.fullmatch(text)
        if span is None or "," in text:
            grid |= parse_grid([word])
            continue
        low, high = (parse_value(end, word) for end in span.groups())
        if not all(isinstance(end, int | float) for end in (low, high)):
            raise ParameterError("a value of the search is no number", where=word, got=repr(text))
        if low > high:
            raise ParameterError("a span of the search is empty", where=word, expected="the lower end first")
        whole = isinstance(low, int) and isinstance(high, int)
        grid[name] = tuple(range(low, high + 1)) if whole else (float(low), float(high))
        spans.append(name)
    return grid, spans


def _values(text: str, word: str) -> list[Any]:
    span = _RANGE.fullmatch(text)
    return list(range(int(span[1]), int(span[2]) + 1)) if span else [parse_value(text, word)]


def _check_grid(plan: SweepPlan, fusion: Fusion) -> None:
    """The grid is not empty, not too large, and names nothing that is no part of a sweep."""
    training = (*(STEPPED if fusion.make_head() is None else FITTED), *SHARED)
    for key, values in plan.grid.items():
        section, _, name = key.partition(".")
        if key == "smoothing" or (section == "training" and name not in training):
            fix = "alpha is degree_threshold, lambda is degree_variance; seeds have their own option"
            expected = ", ".join(f"training.{one}" for one in training)
            raise ParameterError(f"'{key}' is not to be swept with {plan.method}", expected=expected, fix=fix)
        for value in values if name.split(".")[0] == "order" else ():
            check_int(value, key, "sweep", low=0, high=MOST_ORDER)
    empty = next((key for key, values in plan.grid.items() if not values), None)
    if empty or not plan.grid:
        raise ParameterError("the grid is empty", got=f"no value of '{empty}'" if empty else "no key", fix="give values")
    count = math.prod(map(len, plan.grid.values()))
    if count > MOST_CONFIGURATIONS:
        fix = "give fewer values, or use --search"
        raise ParameterError("the grid is too large", expected=f"at most {MOST_CONFIGURATIONS}", got=str(count), fix=fix)


def _default(plan: SweepPlan, fusion: Fusion, key: str) -> JsonValue:
    """Value of a key where the grid says nothing."""
    section, _, name = key.partition(".")
    if section != "fusion":
        found: Any = getattr(plan.training, name) if name else getattr(plan, section)
    else:
        option, _, modality = name.partition(".")
        usual = type(fusion).defaults()[option]
        found = plan.options.get(option, usual)
        if modality and isinstance(found, Mapping):
            found = found.get(modality, usual)
        found = fusion.config()[option] if found is None else found
    return cast(JsonValue, json.loads(json.dumps(found)))


def _require_made(plan: SweepPlan, dataset: Dataset) -> None:
    """Every cell can be made, and is trained on what a frozen stage makes of features."""
    readings = {}
    for cell in plan.cells():
        settings = plan.settings(cell)  # raises where a setting is out of its range
        readings[json.dumps([settings.options, settings.nodes], sort_keys=True)] = cell
    for cell in readings.values():
        fusion, options = plan.fusion(dataset, cell), plan.settings(cell).options_of(plan.method)
        if not fusion.has_frozen_stage:
            got = ", ".join(f"{name}={value}" for name, value in options.items())
            what = "a sweep trains on what a frozen stage makes of features"
            raise ParameterError(what, where=plan.method, got=got or "none")
        random = fusion.make_head() is None or any(parameter.requires_grad for parameter in fusion.parameters())
        if plan.seeds > 1 and not random:
            got, fix = f"{plan.seeds} seeds", "leave --seeds out"
            raise ParameterError("nothing is drawn at random: one training is the answer", where=plan.method, got=got, fix=fix)
