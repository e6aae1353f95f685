"""From finished cells to the rows of one table: how a comparison reads them, and how a sweep does.

A comparison averages seeds, then splits, then datasets, with intervals and paired differences. A sweep averages the seeds of a
configuration, and lets the validation videos choose.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import JsonValue

from ..data.dataset import Dataset
from ..errors import DataError, LegoFusionError
from ..learn.methods import LEARNED
from ..learn.processes import SINGLE_PROCESS, Ranks
from ..measure.detection import METRICS, micro_auc
from ..measure.intervals import Estimate, mean_interval, metric_interval, paired_difference
from ..measure.result import Result
from ..measure.scored import ScoredVideo
from .cells import (
    Cell,
    CellResult,
    ComparisonPlan,
    SweepPlan,
    TrialResult,
    read_cell,
    require_same_cells,
    unfinished_cells,
)
from .experiment import cell_videos, run_cells
from .plan import BEST, OURS, choose_baseline

UNFINISHED = "no cell is finished"
Measure = Callable[[CellResult], float | None]


@dataclass(frozen=True)
class Row:
    """One method on one modality set of one dataset, over all its splits and seeds; AUC as a share in [0, 1].

    Args:
        dataset: Name, or that of all datasets together.
        modalities: Modality set.
        condition: What was done to the features.
        method: Name of the fusion or reference.
        cells: Cells behind it.
        planned: Cells that it will have when the comparison is finished.
        micro: Mean micro AUC; None where a cell failed, or none is finished.
        low: Lower end of its interval; None where there is no interval.
        high: Upper end.
        deviation: Standard deviation over splits (or datasets), where there are several.
        abnormal: Mean AUC of the abnormal videos alone.
        average_precision: Mean average precision of the frames.
        video_auc: Mean AUC of whole videos (``measure.ranking``).
        video_precision: Mean average precision of whole videos.
        baseline: What the difference is taken to; empty where there is none.
        difference: Mean micro AUC minus that of the baseline.
        difference_low: Lower end of its interval.
        difference_high: Upper end.
        parameters: Learned parameters.
        train_seconds: Mean wall-clock time of one training run, on one thread.
        score_seconds: Mean wall-clock time of scoring all test videos.
        untrained: Mean micro AUC of the start; only where the test videos were watched.
        gap: Optimism gap, the best of all looks at the test videos minus ``micro``; only where they were watched.
        error: Why there is no number.
    """

    dataset: str
    modalities: tuple[str, ...]
    condition: str
    method: str
    cells: int
    planned: int
    micro: float | None = None
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    abnormal: float | None = None
    average_precision: float | None = None
    video_auc: float | None = None
    video_precision: float | None = None
    baseline: str = ""
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    parameters: int | None = None
    train_seconds: float | None = None
    score_seconds: float | None = None
    untrained: float | None = None
    gap: float | None = None
    error: str = ""

    def __str__(self) -> str:
        condition = "" if self.condition == "clean" else f", {self.condition}"
        return f"{self.method} on {' + '.join(self.modalities)}, {self.dataset}{condition}"


@dataclass(frozen=True)
class Comparison:
    """The numbers of a comparison, finished or stopped.

    Args:
        plan: What was compared.
        baseline: What differences are taken to; empty where there is none.
        rows: By dataset, modality set, condition and method; those of several datasets together come last.
        notes: What went wrong or was left out, one line each.
        records: Result records of all finished cells.
        unfinished: Cells that are still to be measured.
    """

    plan: ComparisonPlan
    baseline: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    records: tuple[Result, ...]
    unfinished: int = 0


def compare(
    plan: ComparisonPlan,
    datasets: Sequence[Dataset],
    folder: str | Path,
    *,
    baseline: str = "",
    workers: int = 2,
    cache: str | Path = "off",
    on_cell: Callable[[int, int], None] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> Comparison:
    """Train every fusion of a plan on the same splits, seeds and budget, and make the table; the same call goes on if stopped.

    Args:
        plan: From ``make_plan``.
        datasets: Those it was made from.
        folder: Where the plan and the finished cells are kept.
        baseline: As for ``summarise``.
        workers: Processes, one thread each; more than one needs ``if __name__ == "__main__"`` in a script.
        cache: Where graphs are kept, if they are (``experiment.run_cells``).
        on_cell: Called with how many of how many cells are done.
        ranks: Processes that all make this call and share the cells.

    Raises:
        ParameterError: If the baseline is not compared.
        CheckpointError: If the folder holds cells of the plan that were made otherwise, or something else.
        LegoFusionError: If not a single cell could be measured.

    Example:
        ``compare(make_plan([dataset], fusions=("lego", "concat")), [dataset], "comparison").rows``
    """
    choose_baseline(plan, baseline)
    failures, _ = run_cells(plan, datasets, folder, workers=workers, cache=cache, on_cell=on_cell, ranks=ranks)
    if len(failures) == len(plan.cells()):
        cell, failure = next(iter(failures.items()))
        raise LegoFusionError(f"nothing could be compared; {cell}: {failure}")
    return summarise(plan, datasets, folder, failures=failures, baseline=baseline)


def summarise(
    plan: ComparisonPlan,
    datasets: Sequence[Dataset],
    folder: str | Path,
    *,
    failures: Mapping[Cell, str] | None = None,
    baseline: str = "",
    partial: bool = False,
) -> Comparison:
    """Make the table of a comparison whose cells are in a folder.

    With one split, intervals are over its test videos and the seeds. With several, each split counts as its mean over seeds
    and intervals are over splits, wider for random re-splits, which share videos (``measure.intervals.mean_interval``); in the
    rows of several datasets together, over datasets. A difference is taken on the same videos, splits and seeds.

    Args:
        plan: Of the folder.
        datasets: Its datasets, for the ground truth.
        folder: With all cells but the failed ones.
        failures: What ``run_cells`` returned.
        baseline: Name of a method; ``"best"`` for the baseline with the highest mean in each modality set (chosen on the test
            numbers, which is favourable to it); by default concat where it is compared.
        partial: Make it of the cells that are finished, and count the others; a difference is then taken over the splits that
            both methods have.

    Raises:
        ParameterError: If the baseline is not compared.
        CheckpointError: If a cell is missing or damaged, or was made otherwise than the plan would make it.
    """
    failures, cells = failures or {}, plan.cells()
    baseline = choose_baseline(plan, baseline)
    require_same_cells(folder, plan)
    unfinished = unfinished_cells(folder, cells) if partial else frozenset()
    results = {cell: read_cell(folder, plan, cell) for cell in cells if cell not in failures and cell not in unfinished}
    measure = _Intervals(plan, {dataset.name: dataset for dataset in datasets})
    rows: list[Row] = []
    for groups in _blocks(plan, results, failures):
        reference = _baseline_of(groups, baseline)
        rows += [_row(group, reference, measure) for group in groups]
    notes = [
        f"{dataset.name}: {dataset.untold} videos without ground truth in time are never tested"
        for dataset in plan.datasets
        if dataset.untold
    ]
    notes += [note for dataset in plan.datasets for note in dataset.notes]
    notes += [f"{row}: {row.error}" for row in rows if row.error not in ("", UNFINISHED)]
    if unfinished:
        missing = f"{len(unfinished)} of {len(cells)} cells are missing"
        notes.append(f"not finished: {missing}; means are over the finished ones alone")
    if not baseline:
        notes.append("no differences: concat is not compared; name another baseline")
    records = tuple(record for result in results.values() for record in result.records)
    return Comparison(plan, baseline, tuple(rows), (*notes, *measure.notes), records, len(unfinished))


def together(plan: ComparisonPlan) -> str:
    """How the rows of all datasets together are called."""
    return f"all {len(plan.datasets)} datasets"


@dataclass(frozen=True, eq=False)
class _Group:
    """The finished cells of a row; a unit is what its interval draws, several of them, or one split whose videos are drawn."""

    row: Row
    unit: Literal["split", "dataset"]
    units: Mapping[str, Sequence[CellResult]]
    several: bool

    @property
    def results(self) -> list[CellResult]:
        return [result for results in self.units.values() for result in results]

    def shared(self, other: _Group) -> tuple[_Group, _Group]:
        """Both on the units that both have, which are all of them once the comparison is finished."""
        both = [unit for unit in self.units if unit in other.units]
        one, two = (replace(group, units={unit: group.units[unit] for unit in both}) for group in (self, other))
        return one, two

    def values(self, of: Measure) -> list[float]:
        """A number of each unit, the mean over its splits of each split's mean over seeds; empty where one is undefined."""
        means = []
        for results in self.units.values():
            splits: dict[tuple[str, str], list[float]] = {}
            for result in results:
                value = of(result)
                if value is None:
                    return []
                splits.setdefault((result.cell.dataset, result.cell.split), []).append(value)
            means.append(float(np.mean([np.mean(values) for values in splits.values()])))
        return means

    def mean(self, of: Measure) -> float | None:
        """Mean over the units, None where it is undefined."""
        values = self.values(of)
        return float(np.mean(values)) if values else None


class _Intervals:
    """Intervals of groups and of their differences; each cell's frames are scored once."""

    def __init__(self, plan: ComparisonPlan, datasets: Mapping[str, Dataset]) -> None:
        self.plan, self.datasets = plan, datasets
        self.notes: dict[str, None] = {}
        self._scored: dict[Cell, list[ScoredVideo]] = {}

    def __call__(self, group: _Group, other: _Group | None = None) -> tuple[float | None, float | None]:
        """Interval of the mean micro AUC, or of its difference to another group; of units, or of the videos of one split."""
        try:
            interval = self._of_units(group, other) if group.several else self._of_videos(group, other)
            return interval.low, interval.high
        except DataError as error:
            self.notes[f"{group.row.dataset}: no intervals: {error}"] = None
            return None, None

    def _of_units(self, group: _Group, other: _Group | None) -> Estimate:
        values = np.array(group.values(_micro)) - (np.array(other.values(_micro)) if other else 0.0)
        overlap = self.plan.overlap(group.row.dataset) if group.unit == "split" else 0.0
        return mean_interval(values.tolist(), unit=group.unit, overlap=overlap, share=other is None)

    def _of_videos(self, group: _Group, other: _Group | None) -> Estimate:
        if other is None:
            return metric_interval(self._runs(group), micro_auc)
        return paired_difference(self._runs(group), self._runs(other), micro_auc)

    def _runs(self, group: _Group) -> list[list[ScoredVideo]]:
        for result in group.results:
            if result.cell not in self._scored:
                self._scored[result.cell] = cell_videos(self.datasets[result.cell.dataset], self.plan, result)
        return [self._scored[result.cell] for result in group.results]


def _blocks(plan: ComparisonPlan, results: Mapping[Cell, CellResult], failures: Mapping[Cell, str]) -> Iterator[list[_Group]]:
    """Groups that are compared with each other: of one dataset (or all), modality set and condition."""
    cells, names = plan.cells(), [dataset.name for dataset in plan.datasets]
    for dataset in (*names, *([together(plan)] if len(names) > 1 else [])):
        blocks: dict[Any, dict[str, list[Cell]]] = {}
        for cell in cells:
            if cell.dataset == dataset or dataset not in names:
                block = blocks.setdefault((cell.modalities, cell.condition), {})
                block.setdefault(cell.method, []).append(cell)
        wanted = 1 if dataset in names else len(names)
        for block in blocks.values():
            yield [_group(dataset, wanted, members, results, failures) for members in block.values()]


def _group(
    dataset: str, wanted: int, cells: Sequence[Cell], results: Mapping[Cell, CellResult], failures: Mapping[Cell, str]
) -> _Group:
    """The group of a row, of one dataset or of so many as are wanted."""
    unit: Literal["split", "dataset"] = "dataset" if wanted > 1 else "split"
    failed = [failures[cell] for cell in cells if cell in failures]
    units: dict[str, list[CellResult]] = {}
    for cell in cells if not failed else ():
        if cell in results:
            units.setdefault(getattr(cell, unit), []).append(results[cell])
    error = ""
    if failed:
        error = f"{len(failed)} of {len(cells)} cells failed: {failed[0]}"
    elif not units:
        error = UNFINISHED
    elif unit == "dataset" and len(units) < wanted:
        error = f"there is none on {wanted - len(units)} of the datasets"
    first = cells[0]
    row = Row(dataset, first.modalities, first.condition, first.method, cells=0, planned=len(cells), error=error)
    return _Group(row, unit, units, len({getattr(cell, unit) for cell in cells}) > 1)


def _baseline_of(groups: Sequence[_Group], baseline: str) -> _Group | None:
    """The group that the others are compared with, if there is one that worked."""
    working = {group.row.method: group for group in groups if not group.row.error}
    if baseline != BEST:
        return working.get(baseline)
    candidates = [group for method, group in working.items() if method in LEARNED and method not in OURS]
    return max(candidates, key=lambda group: group.mean(_micro) or 0.0, default=None)


def _row(group: _Group, reference: _Group | None, interval: _Intervals) -> Row:
    if group.row.error:
        return group.row
    values, (low, high) = group.values(_micro), interval(group)
    row = replace(
        group.row,
        cells=len(group.results),
        micro=float(np.mean(values)),
        low=low,
        high=high,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        abnormal=group.mean(lambda result: result.value("abnormal_auc")),
        average_precision=group.mean(lambda result: result.value("average_precision")),
        video_auc=group.mean(lambda result: result.value("video_auc")),
        video_precision=group.mean(lambda result: result.value("video_average_precision")),
        baseline=reference.row.method if reference else "",
        parameters=group.results[0].records[0].parameters,
        train_seconds=group.mean(lambda result: result.records[0].train_seconds),
        score_seconds=group.mean(lambda result: result.records[0].score_seconds),
        untrained=group.mean(lambda result: result.value("micro_auc", "untrained")),
        gap=group.mean(_gap),
    )
    if reference is None or group is reference:
        return row
    group, reference = group.shared(reference)
    if not group.units:
        return row
    low, high = interval(group, reference)
    difference = float(np.mean(group.values(_micro))) - float(np.mean(reference.values(_micro)))
    return replace(row, difference=difference, difference_low=low, difference_high=high)


def _micro(result: CellResult) -> float | None:
    return result.value("micro_auc")


def _gap(result: CellResult) -> float | None:
    honest, best = _micro(result), result.value("micro_auc", "test-best")
    return best - honest if honest is not None and best is not None else None


# --- sweeps ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepRow:
    """One configuration, over its seeds.

    Args:
        configuration: Its number.
        values: What the grid chose for it.
        validation_loss: Mean bag loss on the validation videos.
        deviation: Standard deviation of that over the seeds; NaN for one seed.
        validation_auc: Mean AUC of the validation videos' bag scores.
        training_loss: Mean bag loss on the training videos.
        parameters: Learned numbers.
        trials: Numbers of its cells among all, the one with the lowest validation loss first.
        test: Mean of each test metric, where its cells were measured.
    """

    configuration: int
    values: dict[str, JsonValue]
    validation_loss: float
    deviation: float
    validation_auc: float
    training_loss: float
    parameters: int
    trials: tuple[int, ...]
    test: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepTable:
    """All rows of a sweep.

    Args:
        plan: What was swept.
        rows: One per configuration, in order.
        pick: Number of the configuration with the lowest validation loss; of equal ones, that with fewer parameters.
        default: Number of the one that is trained where nothing is swept.
        test_best: Number of the configuration with the highest test micro AUC, where all were measured. Choosing it would be
            choosing on the test set: it is there to show by how much that flatters.
        notes: What a reader should know, one line each.
        cells: By ``SweepRow.trials``.
    """

    plan: SweepPlan
    rows: tuple[SweepRow, ...]
    pick: int
    default: int
    test_best: int | None = None
    notes: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()

    def cells_of(self, *rows: SweepRow) -> list[Cell]:
        """The cells of rows, the one with the lowest validation loss first."""
        return [self.cells[number] for row in rows for number in row.trials]


def tabulate(
    plan: SweepPlan,
    results: Mapping[Cell, TrialResult],
    *,
    test: Mapping[Cell, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
) -> SweepTable:
    """Average the cells of each configuration over their seeds, and choose.

    Args:
        plan: Of the sweep.
        results: Of ``experiment.run_sweep`` or ``search.run_search``, in order.
        test: Of ``experiment.measure_on_test``.
        notes: To be handed on.

    Raises:
        DataError: If cells are missing, or no configuration has a finite validation loss.
    """
    planned = 0 if plan.search else len(plan.cells())
    if len(results) < planned:
        got = f"{len(results)} of {planned} trials"
        raise DataError("the sweep is not finished", got=got, fix="give the same command again")
    found, seeds = list(enumerate(results.items())), plan.seeds
    starts = range(0, len(found), seeds)
    rows = [_sweep_row(number, found[start : start + seeds], test or {}) for number, start in enumerate(starts)]
    finite = [row for row in rows if math.isfinite(row.validation_loss)]
    if not finite:
        fix = "try a lower learning rate or order"
        raise DataError("no configuration has a finite validation loss", got=f"{len(rows)} configurations", fix=fix)
    diverged = [f"{len(rows) - len(finite)} configurations diverged"] if len(finite) < len(rows) else []
    pick = min(finite, key=lambda row: (row.validation_loss, row.parameters, row.configuration)).configuration
    default = next(row.configuration for row in rows if row.values == plan.default)
    best = None
    if all("micro_auc" in row.test for row in rows):
        best = max(rows, key=lambda row: row.test["micro_auc"]).configuration
    return SweepTable(plan, tuple(rows), pick, default, best, (*notes, *diverged), tuple(results))


def _sweep_row(
    configuration: int, trials: Sequence[tuple[int, tuple[Cell, TrialResult]]], test: Mapping[Cell, Mapping[str, float]]
) -> SweepRow:
    """The row of a configuration from its cells, numbered among all."""
    cells, results = zip(*(trial for _, trial in trials), strict=True)
    losses = [result.validation_loss for result in results]
    measured = [test[cell] for cell in cells] if all(cell in test for cell in cells) else []
    defined = [name for name in METRICS if measured and all(name in one for one in measured)]
    return SweepRow(
        configuration=configuration,
        values=cells[0].values,
        validation_loss=statistics.fmean(losses),
        deviation=float(np.std(losses, ddof=1)) if len(losses) > 1 else math.nan,
        validation_auc=statistics.fmean(result.validation_auc for result in results),
        training_loss=statistics.fmean(result.loss for result in results),
        parameters=results[0].parameters,
        trials=tuple(number for number, _ in sorted(trials, key=lambda trial: trial[1][1].validation_loss)),
        test={name: statistics.fmean(one[name] for one in measured) for name in defined},
    )
