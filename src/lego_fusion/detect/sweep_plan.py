"""What a sweep consists of: every combination of a grid of settings, with every seed, fixed before anything is trained."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .. import __version__
from ..data.dataset import Dataset
from ..errors import DataError, ParameterError, check_choice, check_int
from ..measure.smoothing import SMOOTHING, check_smoothing
from .bags import require_modalities
from .graph_cache import GraphType, state_of_files
from .protocol import Split, hold_out, make_default_fusion, require_labels
from .runs import training_split
from .settings import read_training_config
from .train import TrainingConfig

MOST_ORDER = 32  # higher powers of a relation below 1 are zero in float32, and above it infinite
MOST_TRIALS = 100_000
METHODS = ("lego", "lego-paper")
FUSION_OPTIONS = ("form", "rank", "rows")
TRAINING_PARAMETERS = (
    "learning_rate",
    "prior",
    "weight_decay",
    "k",
    "degree_variance",
    "degree_threshold",
    "degree_k",
    "smoothness",
    "sparsity",
    "operator_sparsity",
    "operator_order_decay",
    "batch_size",
    "steps",
)
Value = int | float
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


@dataclass(frozen=True)
class Trial:
    """One detector to be trained.

    Args:
        number: Place in the sweep.
        values: What the grid chose for it.
        orders: Highest power of each modality.
        training: With its seed.
    """

    number: int
    values: dict[str, Value]
    orders: dict[str, int]
    training: TrainingConfig


class SweepPlan(BaseModel):
    """Everything that decides the table of a sweep.

    Args:
        lego_fusion: Version of this package.
        dataset: Name of the dataset.
        hash: Of its tables.
        files: State of the feature files of training and validation videos (``graph_cache.state_of_files``).
        manifests: Hash of the manifest of each modality, in the order that orients the operator.
        method: ``"lego"`` or ``"lego-paper"``.
        options: Of the fusion, such as its form, which no graph depends on.
        split: With validation videos, by which configurations are compared.
        nodes: N, segments per video.
        hidden: Width of the head.
        smoothing: Of the scores of test videos and of the pick, in seconds (``measure.smoothing``); by default none.
        grid: Values of each parameter: ``order`` of all modalities, ``order.<modality>`` of one, or a training setting.
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
    seeds: int = Field(ge=1)
    training: TrainingConfig
    dtype: GraphType = "float32"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.manifests)

    def configurations(self) -> list[dict[str, Value]]:
        """Every combination of the grid, the last parameter changing fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def trials(self) -> list[Trial]:
        """Every configuration with every seed, the seeds of one configuration together."""
        return [
            self.trial(number * self.seeds + seed, values, self.training.seed + seed)
            for number, values in enumerate(self.configurations())
            for seed in range(self.seeds)
        ]

    def trial(self, number: int, values: Mapping[str, Value], seed: int) -> Trial:
        """One trial from values of parameters."""
        orders = dict.fromkeys(self.modalities, int(values.get("order", 2)))
        orders |= {name.removeprefix("order."): int(order) for name, order in values.items() if name.startswith("order.")}
        settings = {name: value for name, value in values.items() if name.split(".")[0] != "order"}
        training = read_training_config(given={**self.training.model_dump(), **settings, "seed": seed})
        return Trial(number, dict(values), orders, training)


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
        grid: Values by parameter; by default orders 1 to 3 of every modality.
        modalities: Feature sets to fuse; all by default.
        method: ``"lego"`` or ``"lego-paper"``.
        options: ``form``, ``rank`` and ``rows`` of the fusion.
        seeds: How often each configuration is trained; validation losses are averaged.
        training: What the grid leaves alone.
        validation: Share of the training videos of each label to hold out; with 0 the split's own validation videos count.
        nodes: N.
        hidden: Width of the head.
        smoothing: Of the scores of test videos and of the pick, in seconds; bags are compared by their segments.
        dtype: Type of the cached graphs.

    Raises:
        ParameterError: If the grid is empty, or a parameter or value of it is unknown or out of range.
        DataError: If there are no validation videos, or data are missing.
    """
    names = tuple(modalities) or tuple(dataset.modalities)
    require_modalities(dataset, names)
    grid = {f"order.{name}": (1, 2, 3) for name in names} if grid is None else grid
    _check_grid(grid, names)
    check_int(seeds, "seeds", "sweep", low=1)
    options = dict(options or {})
    for option in options:
        check_choice(option, "options", "sweep", FUSION_OPTIONS)
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
        method=check_choice(method, "method", "sweep", METHODS),
        options=options,
        split=split,
        nodes=nodes,
        hidden=hidden,
        smoothing=check_smoothing(smoothing, "sweep"),
        grid={name: tuple(values) for name, values in grid.items()},
        seeds=seeds,
        training=training,
        dtype=dtype,
    )
    plan.trials()  # raises where a setting is out of its range
    fusion_options(plan, dataset)  # or an option
    return plan


def fusion_options(plan: SweepPlan, dataset: Dataset) -> dict[str, Any]:
    """Arguments of the fusion of every trial, but order and seed."""
    manifests = {name: dataset.modalities[name] for name in plan.modalities}
    fusion = make_default_fusion(plan.method, manifests, nodes=plan.nodes)
    config = {**fusion.config(), **plan.options}
    type(fusion)(**config)  # raises where an option is unknown or not defined
    return config


def parse_grid(words: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """A grid as a command line gives it: ``order.motion=1..4``, ``learning_rate=1e-3,1e-2``.

    Raises:
        ParameterError: If a word is no ``name=values``, or comes twice.

    Example:
        >>> parse_grid(["order=1..3", "k=1,3", "learning_rate=1e-3"])
        {'order': (1, 2, 3), 'k': (1, 3), 'learning_rate': (0.001,)}
    """
    grid: dict[str, tuple[Value, ...]] = {}
    for word in words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if not equals or not name:
            raise ParameterError("not a part of a grid", expected="name=values, such as order=1..4 or k=1,3", got=repr(word))
        if name in grid:
            raise ParameterError(f"'{name}' is in the grid twice", fix="give all its values at once, with commas")
        values = itertools.chain.from_iterable(_values(part.strip(), word) for part in text.split(",") if part.strip())
        grid[name] = tuple(dict.fromkeys(values))
    return grid


def _values(text: str, word: str) -> list[Value]:
    span = _RANGE.fullmatch(text)
    if span:
        return list(range(int(span[1]), int(span[2]) + 1))
    try:
        number = float(text)
    except ValueError:
        raise ParameterError("a value of the grid is no number", where=word, got=repr(text)) from None
    return [int(text)] if re.fullmatch(r"-?\d+", text) else [number]


def _check_grid(grid: Mapping[str, Sequence[Value]], modalities: Sequence[str]) -> None:
    known = ("order", *(f"order.{name}" for name in modalities), *TRAINING_PARAMETERS)
    for name, values in grid.items():
        if name not in known:
            fix = "alpha is degree_threshold, lambda is degree_variance; seeds have their own option"
            raise ParameterError(f"unknown parameter '{name}' in the grid", expected=f"one of {', '.join(known)}", fix=fix)
        for value in values if name.split(".")[0] == "order" else ():
            check_int(value, name, "sweep", low=0, high=MOST_ORDER)
    count = 1
    for values in grid.values():
        count *= len(values)
    if not grid or not count:
        empty = next((name for name, values in grid.items() if not values), None)
        raise ParameterError("the grid is empty", got=f"no value of '{empty}'" if empty else "no parameter", fix="give values")
    if count > MOST_TRIALS:
        fix = "give fewer values, or use --search"
        raise ParameterError("the grid is too large", expected=f"at most {MOST_TRIALS}", got=str(count), fix=fix)
    if "order" in grid and any(name.startswith("order.") for name in grid):
        raise ParameterError("the grid names 'order' and the order of a modality", fix="name the order of each modality")
