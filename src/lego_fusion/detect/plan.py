"""What a comparison consists of: cells of dataset, split, modality set, fusion, seed and condition, fixed beforehand.

A plan is written before the first cell is trained. It identifies the comparison: the same plan goes on in its folder, another
one is refused there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import __version__
from ..data.dataset import Dataset
from ..data.files import read_text
from ..errors import CheckpointError, DataError, ParameterError, check_choice, check_int, check_number
from ..writing import written_whole
from .conditions import parse_condition
from .protocol import LEARNED, UNLEARNED, Split, hold_out, own_split, require_labels, resplits
from .train import TrainingConfig

SplitKind = Literal["own", "resplits"]
ALL_FUSIONS = tuple(method for method in LEARNED if method != "mtn")
"""What ``all`` stands for; MTN takes a hundred times as long as the others and is compared where it is named."""
SENSIBLE_FUSIONS = ("lego", "concat", "add", "mlp", "cross-attention", "score-average")
PLAN_FILE = "plan.json"
CELLS_FOLDER = "cells"


@dataclass(frozen=True)
class Cell:
    """One number of the comparison before it is averaged.

    Args:
        dataset: Name of the dataset.
        split: Name of its split.
        modalities: Modality set, in the order that orients the fusion.
        method: Name of a fusion, or of a reference that learns nothing.
        seed: Of training; None for what draws nothing.
        condition: What was done to the features.
    """

    dataset: str
    split: str
    modalities: tuple[str, ...]
    method: str
    seed: int | None
    condition: str = "clean"

    def __str__(self) -> str:
        facts = [self.dataset, f"split {self.split}"]
        facts += [f"seed {self.seed}"] if self.seed is not None else []
        facts += [self.condition] if self.condition != "clean" else []
        return f"{self.method} on {' + '.join(self.modalities)} ({', '.join(facts)})"

    @property
    def file(self) -> str:
        """Name of its file: readable, and another one for every cell."""
        words = [self.dataset, self.split, "+".join(self.modalities), self.method]
        words += [f"seed-{self.seed}"] if self.seed is not None else []
        words += [self.condition] if self.condition != "clean" else []
        readable = re.sub(r"[^\w.=+-]+", "-", "_".join(words), flags=re.ASCII)[:150]
        return f"{readable}_{hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()[:8]}.npz"


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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    hash: str
    manifests: dict[str, str]
    splits: tuple[Split, ...]
    moving: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()
    untold: int = 0


class Plan(BaseModel):
    """Everything that decides the numbers of a comparison.

    Args:
        lego_fusion: Version of this package.
        split_kind: Where the splits come from.
        modality_sets: Each is fused on its own.
        fusions: Learned methods.
        references: Whether the methods that learn nothing are there too.
        seeds: Number of training seeds; they count up from the configuration's seed.
        conditions: What is done to the features, in words of ``detect.conditions``.
        training: The same for every fusion.
        validation: Share of the training videos of each label that are held out; 0 holds none out.
        nodes: N, segments per video.
        test_best: Whether the test videos are also scored at the start and along the way, to measure the optimism gap.
        datasets: With their splits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lego_fusion: str
    split_kind: SplitKind
    modality_sets: tuple[tuple[str, ...], ...] = Field(min_length=1)
    fusions: tuple[str, ...] = Field(min_length=1)
    references: bool
    seeds: int = Field(ge=1)
    conditions: tuple[str, ...] = Field(min_length=1)
    training: TrainingConfig
    validation: float
    nodes: int
    test_best: bool
    datasets: tuple[DatasetPlan, ...] = Field(min_length=1)

    def cells(self) -> list[Cell]:
        """All cells, those of one dataset and split together."""
        return [
            Cell(dataset.name, split.name, names, method, seed, condition)
            for dataset in self.datasets
            for split in dataset.splits
            for names, condition in itertools.product(self.modality_sets, self.conditions)
            if parse_condition(condition).applies_to(names)
            for method in self._methods(dataset, names)
            for seed in self._seeds(method, condition)
        ]

    def dataset(self, name: str) -> DatasetPlan:
        """The dataset of a name."""
        return next(dataset for dataset in self.datasets if dataset.name == name)

    def split(self, cell: Cell) -> Split:
        """The split of a cell."""
        return next(split for split in self.dataset(cell.dataset).splits if split.name == cell.split)

    def _methods(self, dataset: DatasetPlan, names: Sequence[str]) -> list[str]:
        needs = {"flow-energy": dataset.moving, "nearest-cells": dataset.fine}
        unlearned = [method for method in UNLEARNED if method not in needs or set(needs[method]) & set(names)]
        return [*self.fusions, *(unlearned if self.references else [])]

    def _seeds(self, method: str, condition: str) -> list[int | None]:
        """A reference has no seed of its own: it runs once, and once for every noise that is drawn."""
        if method in UNLEARNED and condition == "clean":
            return [None]
        return [self.training.seed + number for number in range(self.seeds)]


SPLITS: dict[SplitKind, Callable[[Dataset, int], list[Split]]] = {
    "own": lambda dataset, count: [own_split(dataset)],
    "resplits": resplits,
}
"""Every way to divide a dataset, given how many divisions are wanted."""


def make_plan(
    datasets: Sequence[Dataset],
    *,
    modality_sets: Sequence[Sequence[str]] = (),
    fusions: Sequence[str] = SENSIBLE_FUSIONS,
    references: bool = True,
    seeds: int = 3,
    splits: SplitKind = "own",
    count: int = 10,
    conditions: Sequence[str] = ("clean",),
    training: TrainingConfig | None = None,
    validation: float = 0.0,
    nodes: int = 32,
    test_best: bool = False,
) -> Plan:
    """Fix a comparison before anything is trained.

    Args:
        datasets: Opened dataset folders, each with a name of its own.
        modality_sets: Sets of modalities that every dataset has; by default all of the first dataset's together.
        fusions: Learned methods (``protocol.LEARNED``), in the order in which they are shown.
        references: Whether nearest neighbours and, where there is motion, flow energy stand in the same table.
        seeds: Training seeds.
        splits: ``"own"``: as in ``videos.csv``; ``"resplits"``: ``count`` random ones with as many training videos.
        count: Number of re-splits.
        conditions: What is done to the features; a modality set without the modality concerned leaves a condition out.
        training: The same for every fusion.
        validation: Share of the training videos to hold out, the same for every seed; selects by validation loss.
        nodes: N.
        test_best: Watch the test videos, to measure how optimistic picking the best step on them would be.

    Raises:
        ParameterError: A name is unknown or comes twice, or a number is out of range.
        DataError: A dataset lacks a modality, labels, or ground truth for its test videos.
    """
    _require_different("datasets", [one.name for one in datasets])
    check_int(seeds, "seeds", "compare", low=1)
    check_number(validation, "validation", "compare", low=0.0, high=0.9)
    for method in fusions:
        check_choice(method, "fusions", "compare", LEARNED)
    sets = tuple(tuple(names) for names in modality_sets) or (tuple(datasets[0].modalities),)
    words = tuple(str(parse_condition(condition)) for condition in conditions)
    for what, values in (("fusions", fusions), ("modality sets", sets), ("conditions", words)):
        _require_different(what, values)
    training = training or TrainingConfig()
    if validation:
        training = training.model_copy(update={"selection": "validation"})
    plan = Plan(
        lego_fusion=__version__,
        split_kind=splits,
        modality_sets=sets,
        fusions=tuple(fusions),
        references=references,
        seeds=seeds,
        conditions=words,
        training=training,
        validation=validation,
        nodes=nodes,
        test_best=test_best,
        datasets=tuple(_plan_dataset(one, sets, splits, count, training, validation) for one in datasets),
    )
    _require_met(plan)
    return plan


def parse_modality_sets(text: str, dataset: Dataset) -> list[tuple[str, ...]]:
    """Modality sets as a command line names them: ``motion+text,text``; ``all`` is all together, ``each`` each one alone."""
    names = tuple(dataset.modalities)
    sets: list[tuple[str, ...]] = []
    for word in filter(None, map(str.strip, text.split(","))):
        if word in names:
            sets.append((word,))
        elif word == "all":
            sets.append(names)
        elif word == "each":
            sets += [(name,) for name in names]
        else:
            sets.append(tuple(name.strip() for name in word.split("+")))
    return list(dict.fromkeys(sets))


def claim(folder: str | Path, plan: Plan) -> None:
    """Make a folder this plan's, or refuse it; the plan of a folder without a finished cell gives way.

    Raises:
        CheckpointError: The folder holds another plan (the message names what differs), or something else.
    """
    path = Path(folder) / PLAN_FILE
    if path.is_file():
        found = list(_differences(_read_json(path), plan.model_dump(mode="json")))
        if not found:
            return
        if any((path.parent / CELLS_FOLDER).glob("*.npz")):
            raise CheckpointError(
                "the folder holds another comparison",
                where=folder,
                expected="the same command",
                got="; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else ""),
                fix="use another folder, or delete this one",
            )
    elif path.parent.exists() and any(not one.name.startswith(".") for one in path.parent.iterdir()):
        raise CheckpointError("the folder is not empty and holds no comparison", where=folder, fix="use a new folder")
    with written_whole(path) as file:
        file.write((plan.model_dump_json(indent=1) + "\n").encode())


def read_plan(folder: str | Path) -> Plan:
    """The plan of a folder; ``CheckpointError`` if it holds none."""
    path = Path(folder) / PLAN_FILE
    try:
        return Plan.model_validate(_read_json(path))
    except ValidationError as error:
        raise CheckpointError("not the plan of a comparison", where=path, fix="use another folder") from error


def _plan_dataset(
    dataset: Dataset,
    modality_sets: Sequence[Sequence[str]],
    kind: SplitKind,
    count: int,
    training: TrainingConfig,
    validation: float,
) -> DatasetPlan:
    used = dict.fromkeys(itertools.chain.from_iterable(modality_sets))
    for name in used:
        if name not in dataset.modalities:
            raise DataError(
                f"modality '{name}' is missing",
                where=f"dataset '{dataset.name}'",
                expected=name,
                got=", ".join(dataset.modalities) or "no modality",
                fix="name modality sets that every dataset has, such as motion+text,motion",
            )
    drawn = SPLITS[check_choice(kind, "splits", "compare", tuple(SPLITS))](dataset, count)
    if validation:
        drawn = [hold_out(dataset, split, validation, seed=training.seed) for split in drawn]
    for split in drawn:
        require_labels(dataset, split)
        if training.selection == "validation" and not split.validation:
            fix = "give --validation, the share of the training videos to hold out"
            raise DataError("selection='validation' needs validation videos", where=f"split {split.name}", got="none", fix=fix)
    known = [replace(split, test=tuple(filter(dataset.has_ground_truth, split.test))) for split in drawn]
    for split in known:
        if not split.test:
            raise DataError(
                "no test video has ground truth in time",
                where=f"dataset '{dataset.name}', split {split.name}",
                expected="test videos with intervals.csv, or labelled normal",
                fix="write intervals.csv, or the test split into videos.csv",
            )
    return DatasetPlan(
        name=dataset.name,
        hash=dataset.hash,
        manifests={name: dataset.modalities[name].hash for name in used},
        splits=tuple(known),
        moving=tuple(name for name in used if dataset.modalities[name].extractor == "motion"),
        fine=tuple(name for name in used if dataset.modalities[name].has_units),
        untold=len({video for split in drawn for video in split.test if not dataset.has_ground_truth(video)}),
    )


def _require_different(what: str, values: Sequence[object]) -> None:
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if not values or twice:
        got = f"{twice[0]!r} twice" if twice else "none"
        raise ParameterError(f"the {what} of a comparison differ from each other", got=got, fix="name each once")


def _require_met(plan: Plan) -> None:
    """Every condition meets at least one modality set."""
    for condition in plan.conditions:
        if not any(parse_condition(condition).applies_to(names) for names in plan.modality_sets):
            sets = ", ".join("+".join(names) for names in plan.modality_sets)
            raise ParameterError("a condition meets no modality set", where=f"'{condition}'", got=sets)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, DataError) as error:
        raise CheckpointError("the plan cannot be read", where=path, fix="use another folder") from error
    if not isinstance(content, dict):
        raise CheckpointError("the plan is not a table", where=path, fix="use another folder")
    return content


def _differences(there: Any, asked: Any, name: str = "") -> Iterator[str]:
    """What differs between two JSON values, by name."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in dict.fromkeys((*there, *asked)):
            yield from _differences(there.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif isinstance(there, list) and isinstance(asked, list) and len(there) == len(asked) and any(map(_is_table, asked)):
        for number, pair in enumerate(zip(there, asked, strict=True)):
            yield from _differences(*pair, f"{name}[{number}]")
    elif there != asked:
        short = all(len(json.dumps(value)) <= 80 for value in (there, asked))
        yield f"{name} {json.dumps(there)} there, {json.dumps(asked)} asked for" if short else f"another {name}"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)
