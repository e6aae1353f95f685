"""What a sweep consists of: every combination of a grid of settings, and the default beside them, fixed before training."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .. import __version__
from ..data.dataset import Dataset
from ..errors import DataError, ParameterError, check_choice, check_int
from ..fusion.base import Fusion
from ..fusion.registry import FUSIONS
from ..learn.configuration import TrainingConfig
from ..learn.graph_cache import GraphType, state_of_files
from ..learn.methods import make_default_fusion
from ..learn.settings import Settings, full_key, parse_value, settings_of
from ..learn.splits import Split, hold_out, require_labels, training_split
from ..measure.smoothing import SMOOTHING, check_smoothing

MOST_ORDER = 32  # higher powers of a relation below 1 are zero in float32, and above it infinite
MOST_CONFIGURATIONS = 10_000
METHODS = ("lego", "lego-paper")
FITTED = ("iterations", "prior_departure", "prior_orders", "prior_bias", "own_world_gain")  # of a head with priors alone
STEPPED = ("steps", "learning_rate", "weight_decay", "batch_size")  # of all others alone
SHARED = (
    *("k", "pooling", "degree_variance", "degree_threshold", "degree_k", "smoothness", "sparsity"),
    *("operator_sparsity", "operator_order_decay"),
)
Value = JsonValue
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_COMMA = re.compile(r",(?![^\[]*\])(?![^{]*\})")  # that is in no list or table


@dataclass(frozen=True)
class Trial:
    """One detector to be trained.

    Args:
        number: Place in the sweep.
        values: What the grid chose for it, by key.
        settings: All of them, with the seed.
    """

    number: int
    values: dict[str, Value]
    settings: Settings

    @property
    def training(self) -> TrainingConfig:
        """Of the training."""
        return self.settings.training


class SweepPlan(BaseModel):
    """Everything that decides the table of a sweep.

    Args:
        lego_fusion: Version of this package.
        dataset: Name of the dataset.
        hash: Of its tables.
        files: State of the feature files of training and validation videos (``graph_cache.state_of_files``).
        manifests: Hash of the manifest of each modality, in the order that orients the operator.
        method: ``"lego"`` or ``"lego-paper"``.
        options: Of the fusion, what the grid leaves alone.
        split: With validation videos, by which configurations are compared.
        nodes: N, segments per video.
        hidden: Width of the head, where the fusion brings none.
        smoothing: Of the scores of test videos and of the pick, in seconds (``measure.smoothing``); by default none.
        grid: Values by key (``learn.settings``): ``fusion.references``, ``fusion.order.motion``, ``training.k`` and others.
        default: Value of every key of the grid without it.
        seeds: How many; they count up from the training's.
        training: What the grid leaves alone.
        dtype: Type of the cached graphs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lego_fusion: str
    dataset: str
    hash: str
    files: str
    manifests: dict[str, str]
    method: Literal["lego", "lego-paper"]
    options: dict[str, JsonValue]
    split: Split
    nodes: int
    hidden: int
    smoothing: float = 0.0
    grid: dict[str, tuple[Value, ...]]
    default: dict[str, Value]
    seeds: int = Field(ge=1)
    training: TrainingConfig
    dtype: GraphType = "float32"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.manifests)

    def configurations(self) -> list[dict[str, Value]]:
        """Every combination of the grid, the last key changing fastest; the default comes last where it is none of them."""
        every = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return every if self.default in every else [*every, self.default]

    def trials(self) -> list[Trial]:
        """Every configuration with every seed, the seeds of one configuration together."""
        return [
            self.trial(number * self.seeds + seed, values, seed)
            for number, values in enumerate(self.configurations())
            for seed in range(self.seeds)
        ]

    def trial(self, number: int, values: Mapping[str, Value], seed: int = 0) -> Trial:
        """One trial from values by key, with the seed-th seed."""
        fixed = {f"training.{name}": value for name, value in self.training.model_dump().items()}
        fixed |= {f"fusion.{name}": value for name, value in self.options.items()}
        fixed |= {"nodes": self.nodes, "hidden": self.hidden, "training.seed": self.training.seed + seed}
        return Trial(number, dict(values), settings_of({**fixed, **values}, [self.method], where="sweep"))

    def fusion(self, dataset: Dataset, trial: Trial) -> Fusion:
        """The untrained fusion of a trial."""
        manifests = {name: dataset.modalities[name] for name in self.modalities}
        options = trial.settings.options_of(self.method)
        return make_default_fusion(
            self.method, manifests, nodes=trial.settings.nodes, seed=trial.training.seed, options=options
        )


def make_sweep_plan(
    dataset: Dataset,
    grid: Mapping[str, Sequence[Value]] | None = None,
    *,
    modalities: Sequence[str] = (),
    method: str = "lego",
    options: Mapping[str, Any] | None = None,
    seeds: int = 1,
    training: TrainingConfig | None = None,
    validation: float = 0.0,
    nodes: int = 32,
    hidden: int = 32,
    smoothing: float = SMOOTHING,
    dtype: GraphType = "float32",
) -> SweepPlan:
    """Fix a sweep before anything is trained.

    Args:
        dataset: With a split, and labels for the training videos.
        grid: Values by key; ``default_grid`` by default.
        modalities: Feature sets to fuse; all by default.
        method: ``"lego"``, whose trials are fitted one by one on frozen stages that they share where they can, or
            ``"lego-paper"``, whose trials are trained together on shared powers of the graphs inside the videos.
        options: Of the fusion, by name, what the grid leaves alone.
        seeds: How often each configuration is trained, where its start is drawn at random; validation losses are averaged.
        training: What the grid leaves alone.
        validation: Share of the training videos of each label to hold out; with 0 the split's own validation videos count.
        nodes: N.
        hidden: Width of the head, where the fusion brings none.
        smoothing: Of the scores of test videos and of the pick, in seconds; bags are compared by their segments.
        dtype: Type of the cached graphs.

    Raises:
        ParameterError: If the grid is empty, or a key or value of it is unknown, out of range or changes nothing.
        DataError: If there are no validation videos, or data are missing.
    """
    names = tuple(modalities) or tuple(dataset.modalities)
    check_choice(method, "method", "sweep", METHODS)
    given = default_grid(method, names) if grid is None else grid
    keys = {full_key(key, [method], where="grid"): tuple(values) for key, values in given.items()}
    if len(keys) < len(given):
        raise ParameterError("the grid has a key twice", got=", ".join(given), fix="give all its values at once")
    check_int(seeds, "seeds", "sweep", low=1)
    split = training_split(dataset)
    training = training or TrainingConfig()
    split = hold_out(dataset, split, validation, seed=training.seed) if validation else split
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
        method=cast(Literal["lego", "lego-paper"], method),
        options=json.loads(json.dumps(dict(options or {}))),
        split=split,
        nodes=nodes,
        hidden=hidden,
        smoothing=check_smoothing(smoothing, "sweep"),
        grid=keys,
        default={},
        seeds=seeds,
        training=training,
        dtype=dtype,
    )
    fusion = plan.fusion(dataset, plan.trial(0, {}))
    _check_grid(plan, fusion)
    plan = plan.model_copy(update={"default": {key: _default(plan, fusion, key) for key in keys}})
    _require_made(plan, dataset)
    return plan


def default_grid(method: str, modalities: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """What is swept where nothing is said, as the fusion names it (``Fusion.usual_grid``).

    Example:
        >>> default_grid("lego-paper", ["motion", "text"])
        {'fusion.order.motion': (1, 2, 3), 'fusion.order.text': (1, 2, 3)}
    """
    return dict(FUSIONS[check_choice(method, "method", "default_grid", METHODS)].usual_grid(modalities))


def parse_grid(words: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """A grid as a command line gives it: ``fusion.order.motion=1..4``, ``fusion.orders=[1],[1,2]``, ``k=1,3``.

    Raises:
        ParameterError: If a word is no ``KEY=VALUES``, or a key comes twice.

    Example:
        >>> parse_grid(["fusion.order=1..3", "k=1,3", "fusion.operator=fixed,learned"])
        {'fusion.order': (1, 2, 3), 'k': (1, 3), 'fusion.operator': ('fixed', 'learned')}
    """
    grid: dict[str, tuple[Value, ...]] = {}
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


def frozen_stage(fusion: Fusion, trial: Trial) -> str:
    """Trials with equal answers share what the frozen stage of their fusions makes of the videos."""
    return json.dumps([fusion.frozen_config(), trial.settings.nodes], sort_keys=True)


def draws(fusion: Fusion) -> bool:
    """Whether a training with this fusion starts at random, so that seeds differ."""
    return fusion.make_head() is None or any(parameter.requires_grad for parameter in fusion.parameters())


def _values(text: str, word: str) -> list[Value]:
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


def _default(plan: SweepPlan, fusion: Fusion, key: str) -> Value:
    """Value of a key where the grid says nothing."""
    section, _, name = key.partition(".")
    if not name:
        found: Any = getattr(plan, section)
    elif section == "training":
        found = getattr(plan.training, name)
    else:
        option, _, modality = name.partition(".")
        usual = type(fusion).defaults()[option]
        found = plan.options.get(option, usual)
        if modality and isinstance(found, Mapping):
            found = found.get(modality, usual)
        found = fusion.config()[option] if found is None else found
    return cast(Value, json.loads(json.dumps(found)))


def _require_made(plan: SweepPlan, dataset: Dataset) -> None:
    """Every trial can be made, and is trained on what a frozen stage makes of features."""
    trials = plan.trials()  # raises where a setting is out of its range
    different = {json.dumps([trial.settings.options, trial.settings.nodes], sort_keys=True): trial for trial in trials}
    for trial in different.values():
        fusion = plan.fusion(dataset, trial)
        if not fusion.has_frozen_stage:
            got = ", ".join(f"{name}={value}" for name, value in trial.settings.options_of(plan.method).items())
            raise ParameterError("a sweep trains on graphs, which this reading does not suffice with", where="sweep", got=got)
        if plan.seeds > 1 and not draws(fusion):
            fix = "leave --seeds out"
            what = "nothing is drawn at random: one training is the answer"
            raise ParameterError(what, where=plan.method, got=f"{plan.seeds} seeds", fix=fix)
