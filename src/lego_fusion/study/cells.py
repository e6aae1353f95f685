"""What is trained: cells, the plans that list them, fixed before the first one is trained, and the files of finished cells.

folder/
  plan.json          what was asked for last
  cells/<cell>.npz   a finished cell: its records as JSON lines, its arrays (scores or weights), and what decided them

The same plan goes on where it was stopped. A comparison takes every finished cell that it would make itself, whatever else was
asked for before; a sweep, whose cells are trained together, shares its folder with no other.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from ..data.dataset import Dataset
from ..data.files import read_text
from ..errors import CheckpointError, DataError
from ..fusion.base import Fusion
from ..learn.conditions import parse_condition
from ..learn.configuration import TrainingConfig
from ..learn.graph_cache import GraphType
from ..learn.methods import UNLEARNED, draws_at_random, make_default_fusion
from ..learn.settings import Settings, as_word, settings_of
from ..learn.splits import Split
from ..measure.result import Result, Selection
from ..writing import PARTIAL, written_whole

PLAN_FILE, CELLS_FOLDER, STUDY_FILE = "plan.json", "cells", "search.db"
FORMER_FOLDER = "trials"  # where sweeps kept several trials in one file
_CHOOSING = {"split_kind", "modality_sets", "fusions", "references", "seeds", "conditions", "validation", "datasets"}
"""Fields of a comparison that choose its cells and decide no number beyond what a cell and its split hold."""


@dataclass(frozen=True)
class Cell:
    """One training, or one reference that learns nothing, before it is averaged with others.

    Args:
        dataset: Name of the dataset.
        split: Name of its split.
        modalities: Modality set, in the order that orients the fusion.
        method: Name of a fusion, or of a reference that learns nothing.
        seed: Of training; None for what draws nothing.
        condition: What was done to the features.
        configuration: What a grid or a search chose for it, as JSON; empty where there is none.

    Example:
        >>> print(Cell("ped2", "own", ("motion", "text"), "lego", 0))
        lego on motion + text (ped2, split own, seed 0)
    """

    dataset: str
    split: str
    modalities: tuple[str, ...]
    method: str
    seed: int | None
    condition: str = "clean"
    configuration: str = ""

    @property
    def values(self) -> dict[str, JsonValue]:
        """The configuration by key (``learn.settings``)."""
        return dict(json.loads(self.configuration or "{}"))

    @property
    def file(self) -> str:
        """Name of its file: readable, and another one for every cell."""
        words = [self.dataset, self.split, "+".join(self.modalities), self.method]
        words += [f"seed-{self.seed}"] if self.seed is not None else []
        words += [self.condition] if self.condition != "clean" else []
        words += [f"{key}={as_word(value)}" for key, value in self.values.items()]
        readable = re.sub(r"[^\w.=+-]+", "-", "_".join(words), flags=re.ASCII)[:150]
        facts = astuple(self) if self.configuration else astuple(self)[:-1]
        return f"{readable}_{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}.npz"

    def __str__(self) -> str:
        facts = [self.dataset, f"split {self.split}"]
        facts += [f"seed {self.seed}"] if self.seed is not None else []
        facts += [self.condition] if self.condition != "clean" else []
        return f"{self.method} on {' + '.join(self.modalities)} ({', '.join(facts)})"


class TrialResult(BaseModel):
    """The record of a sweep's cell: a configuration trained with one seed.

    Args:
        together: Whether it was trained with others.
        loss: Bag loss on the training videos (of their cross-fitted frozen stage), pooled as the plan's own training says.
        validation_loss: The same on the validation videos.
        validation_auc: AUC of the bag scores of the validation videos.
        parameters: Learned numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    together: bool
    loss: float
    validation_loss: float
    validation_auc: float
    parameters: int


@dataclass(frozen=True, eq=False)
class CellResult:
    """A finished cell.

    Args:
        cell: Which one.
        records: Of a comparison one Result per metric that is defined, with ``test_best`` also the untrained start and the best
            of all looks; of a sweep one ``TrialResult``.
        array: Of a comparison the segment logits (a reference's distances) of the split's test videos, in its order, (V, N); of
            a sweep all learned numbers, (parameters,).
        identity: What decided it.
    """

    cell: Cell
    records: tuple[Any, ...]
    array: np.ndarray
    identity: dict[str, Any]

    def value(self, metric: str, selection: Selection | None = None) -> float | None:
        """A metric of a comparison's cell, None where it is not defined; by default as honestly selected."""
        chosen = selection or self.records[0].selection
        return next((one.value for one in self.records if (one.metric, one.selection) == (metric, chosen)), None)


class _Plan(BaseModel):
    """What every study has in common.

    Args:
        lego_fusion: Version of this package.
        seeds: Number of training seeds; they count up from the training's.
        training: What every cell shares, but for what a configuration says.
        nodes: N, segments per video.
        hidden: Units of the head, where a fusion brings none of its own.
        smoothing: Of every method's test scores, in seconds (``measure.smoothing``); a plan that does not say has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    lego_fusion: str
    seeds: int = Field(ge=1)
    training: TrainingConfig
    nodes: int
    hidden: int = 32
    smoothing: float = 0.0


class DatasetPlan(BaseModel):
    """One dataset of a comparison.

    Args:
        name: As in ``dataset.yaml``.
        hash: Of its tables.
        manifests: Hash of the manifest of each modality that is used.
        splits: Which videos train and test; every test video has ground truth in time.
        moving: Those modalities whose first column is flow energy.
        fine: Those modalities whose rows hold finer units.
        untold: Test videos left out because nothing is known about their frames.
        notes: What a person should know of the splits, one line each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    hash: str
    manifests: dict[str, str]
    splits: tuple[Split, ...]
    moving: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()
    untold: int = 0
    notes: tuple[str, ...] = ()

    @property
    def videos(self) -> tuple[str, ...]:
        """Every video of every split, once."""
        parts = (part for split in self.splits for part in (split.train, split.validation, split.test))
        return tuple(dict.fromkeys(itertools.chain.from_iterable(parts)))


class ComparisonPlan(_Plan):
    """Everything that decides the numbers of a comparison.

    Args:
        split_kind: Where the splits come from, a key of ``SPLITS``.
        modality_sets: Each is fused on its own.
        fusions: Learned methods.
        references: Whether the methods that learn nothing are there too.
        conditions: What is done to the features, in words of ``learn.conditions``.
        validation: Share of the training videos of each label that are held out; 0 holds none out.
        options: Of the fusions by name, those that differ from the default.
        test_best: Whether the test videos are also scored at the start and along the way, to measure the optimism gap.
        datasets: With their splits.
    """

    what: ClassVar[str] = "comparison"
    verb: ClassVar[str] = "compare"
    record: ClassVar[type[BaseModel]] = Result

    split_kind: str
    modality_sets: tuple[tuple[str, ...], ...] = Field(min_length=1)
    fusions: tuple[str, ...] = Field(min_length=1)
    references: bool
    conditions: tuple[str, ...] = Field(min_length=1)
    validation: float
    options: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    test_best: bool
    datasets: tuple[DatasetPlan, ...] = Field(min_length=1)

    def cells(self) -> list[Cell]:
        """Every combination that there is, those of one dataset and split together."""
        return [
            Cell(dataset.name, split.name, names, method, seed, condition)
            for dataset in self.datasets
            for split in dataset.splits
            for names, condition in itertools.product(self.modality_sets, self.conditions)
            if parse_condition(condition).applies_to(names)
            for method in self._methods(dataset, names)
            for seed in self._seeds(method, condition)
        ]

    def dataset(self, cell: Cell) -> DatasetPlan:
        """The dataset of a cell."""
        return next(dataset for dataset in self.datasets if dataset.name == cell.dataset)

    def overlap(self, dataset: str) -> float:
        """Test over training videos of random re-splits; 0 for splits that test each video once."""
        if self.split_kind != "resplits":
            return 0.0
        splits = next(one.splits for one in self.datasets if one.name == dataset)
        return sum(len(split.test) for split in splits) / sum(len(split.train) for split in splits)

    def split(self, cell: Cell) -> Split:
        """The split of a cell."""
        return next(split for split in self.dataset(cell).splits if split.name == cell.split)

    def training_of(self, cell: Cell) -> TrainingConfig:
        """The training of a cell, with its seed."""
        return self.training if cell.seed is None else self.training.model_copy(update={"seed": cell.seed})

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What decides the numbers of a cell, beside what it says itself: plans agree on a cell where this is equal."""
        dataset, split, learned = self.dataset(cell), self.split(cell), cell.method not in UNLEARNED
        training = self.training.model_copy(update={"seed": cell.seed}).model_dump(mode="json") if learned else None
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        return self.model_dump(mode="json", exclude=_CHOOSING) | {
            "dataset": {"hash": dataset.hash, "manifests": {name: dataset.manifests[name] for name in cell.modalities}},
            "split": {part: _digest(videos) for part, videos in parts.items()},
            "training": training,
            "options": self.model_dump(mode="json")["options"].get(cell.method, {}),
            "hidden": self.hidden if learned else None,
            "test_best": self.test_best and learned,
        }

    def conflicts(self, folder: Path) -> list[str]:
        """What decided a finished cell of this plan otherwise."""
        for cell in self.cells():
            if not cell_path(folder, cell).is_file():
                continue
            there, asked = read_cell(folder, self, cell).identity, self.identity(cell)
            watched = bool(there.get("test_best"))  # looks at the test videos change no other number
            found = list(_differences(there, asked | {"test_best": asked["test_best"] or watched}))
            if found:
                return [f"finished cells made otherwise, such as {cell}: {found[0]}", *found[1:]]
        return []

    def _methods(self, dataset: DatasetPlan, names: Sequence[str]) -> list[str]:
        needs = {"flow-energy": dataset.moving, "nearest-cells": dataset.fine}
        unlearned = [method for method in UNLEARNED if method not in needs or set(needs[method]) & set(names)]
        return [*self.fusions, *(unlearned if self.references else [])]

    def _seeds(self, method: str, condition: str) -> list[int | None]:
        """What draws nothing at random has no seed of its own: it runs once, and once for every noise that is drawn."""
        if condition == "clean" and not draws_at_random(method, self.training):
            return [None]
        return [self.training.seed + number for number in range(self.seeds)]


class SweepPlan(_Plan):
    """Everything that decides the table of a sweep, or what a search tries.

    Args:
        dataset: Name of the dataset.
        hash: Of its tables.
        files: State of the feature files of training and validation videos (``graph_cache.state_of_files``).
        manifests: Hash of the manifest of each modality, in the order that orients the operator.
        method: ``"lego"`` or ``"lego-paper"``.
        options: Of the fusion, what the grid leaves alone.
        split: With validation videos, by which configurations are compared.
        grid: Values by key (``learn.settings``): ``fusion.references``, ``fusion.order.motion``, ``training.k`` and others.
        default: Value of every key of the grid without it.
        dtype: Type of the cached graphs.
        search: How many configurations Optuna proposes instead of the whole grid; 0 for no search.
        spans: Keys of which a search may choose any value from the first to the last.
    """

    verb: ClassVar[str] = "sweep"
    record: ClassVar[type[BaseModel]] = TrialResult

    dataset: str
    hash: str
    files: str
    manifests: dict[str, str]
    method: str
    options: dict[str, JsonValue]
    split: Split
    grid: dict[str, tuple[JsonValue, ...]]
    default: dict[str, JsonValue] = Field(default_factory=dict)
    dtype: GraphType = "float32"
    search: int = Field(default=0, ge=0)
    spans: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """How it is called in messages."""
        return "search" if self.search else "sweep"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.manifests)

    def configurations(self) -> list[dict[str, JsonValue]]:
        """Every combination of the grid, the last key changing fastest; the default comes last where it is none of them."""
        every = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return every if self.default in every else [*every, self.default]

    def cells(self) -> list[Cell]:
        """Every configuration with every seed, the seeds of one configuration together."""
        return [cell for values in self.configurations() for cell in self.cells_of(values)]

    def cells_of(self, values: Mapping[str, JsonValue]) -> list[Cell]:
        """A configuration with every seed."""
        seeds = range(self.training.seed, self.training.seed + self.seeds)
        named = {"dataset": self.dataset, "split": self.split.name, "modalities": self.modalities, "method": self.method}
        return [Cell(**named, seed=seed, configuration=json.dumps(dict(values))) for seed in seeds]  # type: ignore[arg-type]

    def settings(self, cell: Cell) -> Settings:
        """All settings of a cell, with its seed."""
        fixed = {f"training.{name}": value for name, value in self.training.model_dump().items()}
        fixed |= {f"fusion.{name}": value for name, value in self.options.items()}
        fixed |= {"nodes": self.nodes, "hidden": self.hidden, "training.seed": cell.seed}
        return settings_of({**fixed, **cell.values}, [self.method], where="sweep")

    def fusion(self, dataset: Dataset, cell: Cell) -> Fusion:
        """The untrained fusion of a cell."""
        manifests, settings = {name: dataset.modalities[name] for name in self.modalities}, self.settings(cell)
        seed, options = settings.training.seed, settings.options_of(self.method)
        return make_default_fusion(self.method, manifests, nodes=settings.nodes, seed=seed, options=options)

    def identity(self, cell: Cell) -> dict[str, Any]:
        """The name of the whole: cells are trained together, and so each is as all make it."""
        facts = self.model_dump_json(exclude={"search"})
        return {"study": f"lego-fusion-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"}

    def conflicts(self, folder: Path) -> list[str]:
        """What another plan says otherwise of which something is finished."""
        finished = [*(folder / CELLS_FOLDER).glob("*.npz"), *folder.glob(STUDY_FILE)]
        return list(_differences(_read_plan(folder), self.model_dump(mode="json"))) if finished else []


Plan = ComparisonPlan | SweepPlan


def claim(folder: str | Path, plan: Plan) -> None:
    """Make a folder this plan's, or refuse it; what a kill in the middle of writing left is removed.

    Raises:
        CheckpointError: Something there was made otherwise (the message names what), or the folder holds something else.
    """
    folder = Path(folder)
    there = _read_plan(folder)
    if not there and folder.exists() and any(not one.name.startswith(".") for one in folder.iterdir()):
        fix = "use a new folder"
        raise CheckpointError(f"the folder is not empty and holds no {plan.what}", where=folder, fix=fix)
    require_same_cells(folder, plan)
    if there != plan.model_dump(mode="json"):
        with written_whole(folder / PLAN_FILE) as file:
            file.write((plan.model_dump_json(indent=1) + "\n").encode())
    for leftover in (folder / CELLS_FOLDER).glob(PARTIAL):
        leftover.unlink(missing_ok=True)


def require_same_cells(folder: str | Path, plan: Plan) -> None:
    """Raise ``CheckpointError`` if something finished was made otherwise than the plan would make it."""
    if (Path(folder) / FORMER_FOLDER).is_dir():
        fix = "delete the folder and give the same command again"
        raise CheckpointError("the folder holds a sweep of an earlier version", where=folder, fix=fix)
    found = plan.conflicts(Path(folder))
    if found:
        raise CheckpointError(
            f"the folder holds another {plan.what}",
            where=folder,
            expected="the same command",
            got="; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else ""),
            fix="use another folder, or delete this one",
        )


def cell_path(folder: str | Path, cell: Cell) -> Path:
    """Where a finished cell is kept."""
    return Path(folder) / CELLS_FOLDER / cell.file


def unfinished_cells(folder: str | Path, cells: Sequence[Cell]) -> frozenset[Cell]:
    """The cells that a folder does not hold."""
    return frozenset(cell for cell in cells if not cell_path(folder, cell).is_file())


def write_cell(folder: str | Path, plan: Plan, cell: Cell, records: Sequence[BaseModel], array: np.ndarray) -> None:
    """Keep a finished cell, whole or not at all."""
    lines, identity = "\n".join(one.model_dump_json() for one in records), json.dumps(plan.identity(cell))
    texts = [np.frombuffer(text.encode(), np.uint8) for text in (lines, identity)]
    with written_whole(cell_path(folder, cell)) as file:
        np.savez(file, scores=array, records=texts[0], identity=texts[1])


def read_cell(folder: str | Path, plan: Plan, cell: Cell) -> CellResult:
    """A finished cell of a folder; ``CheckpointError`` if it is not there, damaged or of an earlier version."""
    path = cell_path(folder, cell)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            lines, identity = stored["records"].tobytes().splitlines(), dict(json.loads(stored["identity"].tobytes()))
            return CellResult(cell, tuple(map(plan.record.model_validate_json, lines)), stored["scores"], identity)
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
        expected, fix = "a cell of this version", "delete the file and give the same command again, or use another folder"
        raise CheckpointError("a cell cannot be read", where=path, expected=expected, got=error, fix=fix) from error


def _read_plan(folder: Path) -> dict[str, Any]:
    """The plan of a folder as JSON values; empty where there is none."""
    path = folder / PLAN_FILE
    try:
        return TypeAdapter(dict[str, Any]).validate_json(read_text(path)) if path.is_file() else {}
    except (ValidationError, DataError) as error:
        raise CheckpointError("the plan cannot be read", where=path, fix="use another folder") from error


def _differences(there: Any, asked: Any, name: str = "") -> Iterator[str]:
    """What differs between two JSON values, by name."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in dict.fromkeys((*there, *asked)):
            yield from _differences(there.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif there != asked:
        short = all(len(json.dumps(value)) <= 80 for value in (there, asked))
        yield f"{name} {json.dumps(there)} there, {json.dumps(asked)} asked for" if short else f"another {name}"


def _digest(videos: Sequence[str]) -> str:
    """Names in order, short enough for a message."""
    return f"{len(videos)} videos, {hashlib.sha256(json.dumps(videos).encode()).hexdigest()[:12]}"
