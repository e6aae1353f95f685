"""Fix a comparison before anything is trained: which videos train and test, which fusions, seeds and conditions meet."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import __version__
from ..data.dataset import Dataset
from ..errors import DataError, ParameterError, check_choice, check_int, check_number, with_changes
from ..fusion.registry import FUSIONS
from ..learn.conditions import parse_condition
from ..learn.configuration import TrainingConfig
from ..learn.methods import LEARNED, make_default_fusion
from ..learn.settings import Settings
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
)
from ..measure.smoothing import check_smoothing
from .cells import DatasetPlan, Plan

ALL_FUSIONS = tuple(method for method in LEARNED if method != "mtn")
"""What ``all`` stands for; MTN takes a hundred times as long as the others and is compared where it is named."""
SENSIBLE_FUSIONS = ("lego", "concat", "add", "mlp", "cross-attention", "score-average")


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
    splits: str = "own",
    count: int = 10,
    conditions: Sequence[str] = ("clean",),
    validation: float = 0.0,
    test_best: bool = False,
    settings: Settings | None = None,
    **changes: Any,
) -> Plan:
    """Fix a comparison before anything is trained.

    Args:
        datasets: Opened dataset folders, each with a name of its own.
        modality_sets: Sets of modalities that every dataset has; by default all of the first dataset's together.
        fusions: Learned methods (``methods.LEARNED``), in the order in which they are shown.
        references: Whether nearest neighbours and, where there is motion, flow energy stand in the same table.
        seeds: Training seeds.
        splits: A key of ``SPLITS``. ``"own"``: as in ``videos.csv``; ``"resplits"``: random ones with as many training videos;
            ``"domains"``: every domain is tested once by what was trained on all videos of the others.
        count: How many random ones.
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
    chosen: Settings = with_changes(settings or Settings(), changes, "make_plan")
    training = chosen.training
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
        nodes=chosen.nodes,
        hidden=chosen.hidden,
        options={fusion: dict(given) for fusion, given in chosen.options.items()},
        smoothing=check_smoothing(chosen.smoothing, "compare"),
        test_best=test_best,
        datasets=tuple(_plan_dataset(one, sets, splits, count, training, validation) for one in datasets),
    )
    _require_met(plan)
    _require_options(plan, datasets[0])
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


def _plan_dataset(
    dataset: Dataset,
    modality_sets: Sequence[Sequence[str]],
    kind: str,
    count: int,
    training: TrainingConfig,
    validation: float,
) -> DatasetPlan:
    used = dict.fromkeys(itertools.chain.from_iterable(modality_sets))
    manifests = {name: dataset.modalities[name] for name in used}
    drawn = SPLITS[check_choice(kind, "splits", "compare", tuple(SPLITS))].draw(dataset, count)
    if validation:
        drawn = [hold_out(dataset, split, validation, seed=training.seed) for split in drawn]
    for split in drawn:
        require_labels(dataset, split)
        if training.selection == "validation" and not split.validation:
            fix = "give --validation, the share of the training videos to hold out"
            raise DataError("selection='validation' needs validation videos", where=f"split {split.name}", got="none", fix=fix)
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
    yield from _drawn_counts(dataset, splits, kind)
    tested = {dataset.records[video].domain for split in splits for video in split.test}
    never = [domain or UNNAMED_DOMAIN for domain in dict.fromkeys(one.domain for one in dataset.videos) if domain not in tested]
    if kind == "domains" and never:
        listed = ", ".join(never[:5]) + (f" and {len(never) - 5} more" if len(never) > 5 else "")
        yield f"{dataset.name}: {listed} only train: normal and abnormal frames are not both known there"


def _drawn_counts(dataset: Dataset, splits: Sequence[Split], kind: str) -> list[str]:
    """How many videos re-splits by source came to train on, beside those of the own split."""
    sources = Counter(record.source for record in dataset.videos if record.source)
    if kind != "resplits" or not any(count > 1 for count in sources.values()):
        return []
    own, counts = own_split(dataset), []
    for label in ("normal", "abnormal"):
        wanted, *found = (
            sum(dataset.records[video].label == label for video in (*split.train, *split.validation))
            for split in (own, *splits)
        )
        span = f"{min(found)} to {max(found)}" if min(found) < max(found) else f"{found[0]}"
        counts.append(f"{span} {label} videos (own split: {wanted})")
    return [f"{dataset.name}: no re-split divides a source; they train on {' and '.join(counts)}"]


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


def _require_options(plan: Plan, dataset: Dataset) -> None:
    """Every fusion can be made with its options; it says what is wrong with one."""
    for fusion, options in plan.options.items():
        check_choice(fusion, "options", "compare", plan.fusions)
        for names in plan.modality_sets:
            manifests = {name: dataset.modalities[name] for name in names}
            make_default_fusion(fusion, manifests, nodes=plan.nodes, options=options)
