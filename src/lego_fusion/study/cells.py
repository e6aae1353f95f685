"""What a comparison consists of: cells of dataset, split, modality set, fusion, seed and condition, fixed beforehand.

A plan is written before the first cell is trained. Each finished cell keeps what decided its numbers: a later plan that asks
for the same cells, for fewer or for more takes them as they are, and one that would make them otherwise is refused there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..data.files import read_text
from ..errors import CheckpointError, DataError
from ..learn.conditions import parse_condition
from ..learn.configuration import TrainingConfig
from ..learn.methods import UNLEARNED, draws_at_random
from ..learn.splits import Split
from ..writing import written_whole

PLAN_FILE = "plan.json"
CELLS_FOLDER = "cells"
_CHOOSING = {"split_kind", "modality_sets", "fusions", "references", "seeds", "conditions", "validation", "datasets"}
"""Fields of a plan that choose its cells and decide no number beyond what a cell and its split hold."""


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


class Plan(BaseModel):
    """Everything that decides the numbers of a comparison.

    Args:
        lego_fusion: Version of this package.
        split_kind: Where the splits come from, a key of ``SPLITS``.
        modality_sets: Each is fused on its own.
        fusions: Learned methods.
        references: Whether the methods that learn nothing are there too.
        seeds: Number of training seeds; they count up from the configuration's seed.
        conditions: What is done to the features, in words of ``learn.conditions``.
        training: The same for every fusion.
        validation: Share of the training videos of each label that are held out; 0 holds none out.
        nodes: N, segments per video.
        hidden: Units of the head.
        options: Of the fusions by name, those that differ from the default.
        smoothing: Of every method's scores, in seconds (``measure.smoothing``); a plan that does not say has none.
        test_best: Whether the test videos are also scored at the start and along the way, to measure the optimism gap.
        datasets: With their splits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lego_fusion: str
    split_kind: str
    modality_sets: tuple[tuple[str, ...], ...] = Field(min_length=1)
    fusions: tuple[str, ...] = Field(min_length=1)
    references: bool
    seeds: int = Field(ge=1)
    conditions: tuple[str, ...] = Field(min_length=1)
    training: TrainingConfig
    validation: float
    nodes: int
    hidden: int = 32
    options: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    smoothing: float = 0.0
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

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What decides the numbers of a cell, beside what it says itself: plans agree on a cell where this is equal."""
        dataset, split = self.dataset(cell.dataset), self.split(cell)
        learned = cell.method not in UNLEARNED
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

    def _methods(self, dataset: DatasetPlan, names: Sequence[str]) -> list[str]:
        needs = {"flow-energy": dataset.moving, "nearest-cells": dataset.fine}
        unlearned = [method for method in UNLEARNED if method not in needs or set(needs[method]) & set(names)]
        return [*self.fusions, *(unlearned if self.references else [])]

    def _seeds(self, method: str, condition: str) -> list[int | None]:
        """What draws nothing at random has no seed of its own: it runs once, and once for every noise that is drawn."""
        if condition == "clean" and not draws_at_random(method, self.training):
            return [None]
        return [self.training.seed + number for number in range(self.seeds)]


def claim(folder: str | Path, plan: Plan) -> None:
    """Make a folder this plan's, or refuse it; finished cells of other fusions, seeds, sets or splits stay in it.

    Raises:
        CheckpointError: A cell of the plan is there and was made otherwise (the message names what differs), or the folder
            holds something else.
    """
    path = Path(folder) / PLAN_FILE
    if path.is_file():
        require_same_cells(folder, plan)
    else:
        _require_empty(path.parent, "comparison")
    if not path.is_file() or _read_json(path) != plan.model_dump(mode="json"):
        _write_plan(path, plan)


def require_same_cells(folder: str | Path, plan: Plan) -> None:
    """Raise ``CheckpointError`` if a finished cell of the plan was made otherwise than the plan would make it."""
    for cell in plan.cells():
        path = Path(folder) / CELLS_FOLDER / cell.file
        if not path.is_file():
            continue
        there, asked = stored_identity(path), plan.identity(cell)
        watched = bool(there.get("test_best"))  # looks at the test videos change no other number
        found = list(_differences(there, asked | {"test_best": asked["test_best"] or watched}))
        if found:
            raise _other("comparison", folder, found, f"finished cells made otherwise, such as {cell}: ")


def stored_identity(path: Path) -> dict[str, Any]:
    """What decided the numbers of a finished cell; ``CheckpointError`` if its file is damaged or of an earlier version."""
    fix = "delete the file, or use another folder"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            identity = json.loads(stored["identity"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise CheckpointError("a cell cannot be read, or is of an earlier version", where=path, got=error, fix=fix) from error
    if not isinstance(identity, dict):
        raise CheckpointError("a cell cannot be read", where=path, got="no table of what decided it", fix=fix)
    return identity


def claim_folder(folder: str | Path, plan: BaseModel, parts: Sequence[str], what: str) -> None:
    """Make a folder a plan's as a whole, or refuse it; a plan of which nothing would be lost gives way.

    Args:
        folder: Where the plan is kept.
        plan: What is asked for.
        parts: Patterns of files that would be lost.
        what: Name of the whole, for the message.

    Raises:
        CheckpointError: The folder holds another plan (the message names what differs), or something else.
    """
    path = Path(folder) / PLAN_FILE
    if path.is_file():
        found = list(_differences(_read_json(path), plan.model_dump(mode="json")))
        if not found:
            return
        if any(any(path.parent.glob(pattern)) for pattern in parts):
            raise _other(what, folder, found)
    else:
        _require_empty(path.parent, what)
    _write_plan(path, plan)


def _other(what: str, folder: str | Path, found: Sequence[str], of: str = "") -> CheckpointError:
    return CheckpointError(
        f"the folder holds another {what}",
        where=folder,
        expected="the same command",
        got=of + "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else ""),
        fix="use another folder, or delete this one",
    )


def _require_empty(folder: Path, what: str) -> None:
    if folder.exists() and any(not one.name.startswith(".") for one in folder.iterdir()):
        raise CheckpointError(f"the folder is not empty and holds no {what}", where=folder, fix="use a new folder")


def _write_plan(path: Path, plan: BaseModel) -> None:
    with written_whole(path) as file:
        file.write((plan.model_dump_json(indent=1) + "\n").encode())


def read_plan(folder: str | Path) -> Plan:
    """The plan of a folder; ``CheckpointError`` if it holds none."""
    path = Path(folder) / PLAN_FILE
    try:
        return Plan.model_validate(_read_json(path))
    except ValidationError as error:
        raise CheckpointError("not the plan of a comparison", where=path, fix="use another folder") from error


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


def _digest(videos: Sequence[str]) -> str:
    """Names in order, short enough for a message."""
    return f"{len(videos)} videos, {hashlib.sha256(json.dumps(videos).encode()).hexdigest()[:12]}"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)
