"""From finished cells to the rows of one table: means, intervals, paired differences, costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.dataset import Dataset
from ..errors import DataError, LegoFusionError, ParameterError, check_choice
from ..learn.methods import LEARNED
from ..learn.processes import SINGLE_PROCESS, Ranks
from ..measure.detection import micro_auc
from ..measure.intervals import Estimate, mean_interval, paired_difference, seeded_interval
from ..measure.result import Result
from ..measure.scored import ScoredVideo
from .cells import Cell, Plan, require_same_cells
from .comparison_run import CellResult, cell_videos, read_cell, run_plan, unfinished_cells

BEST = "best"
OURS = ("lego", "lego-paper")
UNFINISHED = "no cell is finished"


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

    plan: Plan
    baseline: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    records: tuple[Result, ...]
    unfinished: int = 0


def compare(
    plan: Plan,
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
        cache: Where graphs are kept, if they are (``compare.run_plan``).
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
    failures = run_plan(plan, datasets, folder, workers=workers, cache=cache, on_cell=on_cell, ranks=ranks)
    if len(failures) == len(plan.cells()):
        cell, failure = next(iter(failures.items()))
        raise LegoFusionError(f"nothing could be compared; {cell}: {failure}")
    return summarise(plan, datasets, folder, failures=failures, baseline=baseline)


def summarise(
    plan: Plan,
    datasets: Sequence[Dataset],
    folder: str | Path,
    *,
    failures: Mapping[Cell, str] | None = None,
    baseline: str = "",
    resamples: int = 1000,
    partial: bool = False,
) -> Comparison:
    """Make the table of a comparison whose cells are in a folder.

    With one split, intervals are bootstraps over its test videos and the seeds. With several, each split counts as its mean
    over seeds and the bootstrap draws splits; with several datasets, in the rows of all together, it draws datasets. A
    difference is taken on the same videos, splits, seeds and resamples.

    Args:
        plan: Of the folder.
        datasets: Its datasets, for the ground truth.
        folder: With all cells but the failed ones.
        failures: What ``run_plan`` returned.
        baseline: Name of a method; ``"best"`` for the baseline with the highest mean in each modality set (chosen on the test
            numbers, which is favourable to it); by default concat where it is compared.
        resamples: Of every bootstrap.
        partial: Make it of the cells that are finished, and count the others; a difference is then taken over the splits that
            both methods have.

    Raises:
        ParameterError: If the baseline is not compared.
        CheckpointError: If a cell is missing or damaged, or was made otherwise than the plan would make it.
    """
    failures = failures or {}
    baseline = choose_baseline(plan, baseline)
    require_same_cells(folder, plan)
    unfinished = unfinished_cells(folder, plan) if partial else ()
    results = {cell: read_cell(folder, cell) for cell in plan.cells() if cell not in failures and cell not in unfinished}
    measure = _Intervals(plan, {dataset.name: dataset for dataset in datasets}, resamples)
    rows = []
    for groups in _blocks(plan, results, failures):
        reference = _baseline_of(groups, baseline)
        rows += [_row(group, reference, measure) for group in groups]
    notes = [
        f"{dataset.name}: {dataset.untold} videos without ground truth in time are never tested"
        for dataset in plan.datasets
        if dataset.untold
    ]
    notes += [note for dataset in plan.datasets for note in dataset.notes]
    notes += [f"{_place(row)}: {row.error}" for row in rows if row.error not in ("", UNFINISHED)]
    if unfinished:
        total = len(plan.cells())
        notes.append(f"not finished: {len(unfinished)} of {total} cells are missing; means are over the finished ones alone")
    if not baseline:
        notes.append("no differences: concat is not compared; name another baseline")
    records = tuple(record for result in results.values() for record in result.records)
    return Comparison(plan, baseline, tuple(rows), (*notes, *measure.notes), records, len(unfinished))


def _place(row: Row) -> str:
    """Which row it is."""
    condition = "" if row.condition == "clean" else f", {row.condition}"
    return f"{row.method} on {' + '.join(row.modalities)}, {row.dataset}{condition}"


def choose_baseline(plan: Plan, baseline: str = "") -> str:
    """The baseline asked for, or concat where it is compared, or none (``""``); ``ParameterError`` if it is not compared."""
    methods = dict.fromkeys(cell.method for cell in plan.cells())
    if not baseline:
        return "concat" if "concat" in methods else ""
    if baseline == BEST:
        if all(method in OURS for method in plan.fusions):
            raise ParameterError("there is no baseline to choose from", where="baseline 'best'", got=", ".join(plan.fusions))
        return baseline
    return str(check_choice(baseline, "baseline", "compare", (*methods, BEST)))


def together(plan: Plan) -> str:
    """How the rows of all datasets together are called."""
    return f"all {len(plan.datasets)} datasets"


@dataclass(frozen=True, eq=False)
class _Group:
    """The finished cells of a row; a unit is what its interval draws, several of them, or one split whose videos are drawn."""

    dataset: str
    modalities: tuple[str, ...]
    condition: str
    method: str
    unit: Literal["split", "dataset"]
    units: Mapping[str, Sequence[CellResult]]
    several: bool
    planned: int
    error: str

    @property
    def results(self) -> list[CellResult]:
        return [result for results in self.units.values() for result in results]

    def shared(self, other: _Group) -> tuple[_Group, _Group]:
        """Both on the units that both have, which are all of them once the comparison is finished."""
        both = [unit for unit in self.units if unit in other.units]
        one, two = (replace(group, units={unit: group.units[unit] for unit in both}) for group in (self, other))
        return one, two

    def values(self, of: Callable[[CellResult], float | None]) -> list[float]:
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

    def mean(self, of: Callable[[CellResult], float | None]) -> float | None:
        """Mean over the units, None where it is undefined."""
        values = self.values(of)
        return float(np.mean(values)) if values else None


class _Intervals:
    """Intervals of groups and of their differences; each cell's frames are scored once."""

    def __init__(self, plan: Plan, datasets: Mapping[str, Dataset], resamples: int) -> None:
        self.plan, self.datasets, self.resamples = plan, datasets, resamples
        self.notes: dict[str, None] = {}
        self._scored: dict[Cell, list[ScoredVideo]] = {}

    def of(self, group: _Group) -> Estimate | None:
        """Interval of the mean micro AUC."""
        if group.several:
            values = group.values(_micro)
            return mean_interval(values, unit=group.unit, resamples=self.resamples) if len(values) > 1 else None
        return self._try(group, lambda: seeded_interval(self._runs(group), micro_auc, resamples=self.resamples))

    def between(self, group: _Group, other: _Group) -> Estimate | None:
        """Interval of the difference of the means."""
        if group.several:
            values = [one - two for one, two in zip(group.values(_micro), other.values(_micro), strict=True)]
            return mean_interval(values, unit=group.unit, resamples=self.resamples) if len(values) > 1 else None
        runs = self._runs(group), self._runs(other)
        return self._try(group, lambda: paired_difference(*runs, micro_auc, resamples=self.resamples))

    def _runs(self, group: _Group) -> list[list[ScoredVideo]]:
        for result in group.results:
            if result.cell not in self._scored:
                self._scored[result.cell] = cell_videos(self.datasets[result.cell.dataset], self.plan, result)
        return [self._scored[result.cell] for result in group.results]

    def _try(self, group: _Group, estimate: Callable[[], Estimate]) -> Estimate | None:
        try:
            return estimate()
        except DataError as error:
            self.notes[f"{group.dataset}: no intervals: {error}"] = None
            return None


def _blocks(plan: Plan, results: Mapping[Cell, CellResult], failures: Mapping[Cell, str]) -> Iterator[list[_Group]]:
    """Groups that are compared with each other: of one dataset (or all), modality set and condition."""
    cells = plan.cells()
    names = [dataset.name for dataset in plan.datasets]
    for dataset in (*names, *([together(plan)] if len(names) > 1 else [])):
        mine = [cell for cell in cells if cell.dataset == dataset or dataset not in names]
        for key in dict.fromkeys((cell.modalities, cell.condition) for cell in mine):
            alike = [cell for cell in mine if (cell.modalities, cell.condition) == key]
            methods = dict.fromkeys(cell.method for cell in alike)
            unit: Literal["split", "dataset"] = "split" if dataset in names else "dataset"
            by_method = [[cell for cell in alike if cell.method == method] for method in methods]
            yield [_group(dataset, unit, members, results, failures, len(names)) for members in by_method]


def _group(
    dataset: str,
    unit: Literal["split", "dataset"],
    cells: Sequence[Cell],
    results: Mapping[Cell, CellResult],
    failures: Mapping[Cell, str],
    count: int,
) -> _Group:
    failed = [failures[cell] for cell in cells if cell in failures]
    units: dict[str, list[CellResult]] = {}
    for cell in cells:
        if not failed and cell in results:
            units.setdefault(cell.split if unit == "split" else cell.dataset, []).append(results[cell])
    error = f"{len(failed)} of {len(cells)} cells failed: {failed[0]}" if failed else ""
    if not failed and not units:
        error = UNFINISHED
    elif unit == "dataset" and not failed and len(units) < count:
        error = f"there is none on {count - len(units)} of the datasets"
    several = len({cell.split if unit == "split" else cell.dataset for cell in cells}) > 1
    first = cells[0]
    return _Group(dataset, first.modalities, first.condition, first.method, unit, units, several, len(cells), error)


def _baseline_of(groups: Sequence[_Group], baseline: str) -> _Group | None:
    """The group that the others are compared with, if there is one that worked."""
    working = [group for group in groups if not group.error]
    if baseline != BEST:
        return next((group for group in working if group.method == baseline), None)
    candidates = [group for group in working if group.method in LEARNED and group.method not in OURS]
    return max(candidates, key=lambda group: group.mean(_micro) or 0.0, default=None)


def _row(group: _Group, reference: _Group | None, measure: _Intervals) -> Row:
    facts: dict[str, Any] = {"dataset": group.dataset, "modalities": group.modalities}
    facts |= {"condition": group.condition, "method": group.method, "planned": group.planned}
    if group.error:
        return Row(**facts, cells=0, error=group.error)
    values, interval = group.values(_micro), measure.of(group)
    row = Row(
        **facts,
        cells=len(group.results),
        micro=float(np.mean(values)),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        abnormal=group.mean(lambda result: result.value("abnormal_auc")),
        average_precision=group.mean(lambda result: result.value("average_precision")),
        video_auc=group.mean(lambda result: result.value("video_auc")),
        video_precision=group.mean(lambda result: result.value("video_average_precision")),
        parameters=group.results[0].records[0].parameters,
        train_seconds=group.mean(lambda result: result.records[0].train_seconds),
        score_seconds=group.mean(lambda result: result.records[0].score_seconds),
        untrained=group.mean(lambda result: result.value("micro_auc", "untrained")),
        gap=group.mean(_gap),
    )
    return row if reference is None else _with_difference(row, group, reference, measure)


def _with_difference(row: Row, group: _Group, reference: _Group, measure: _Intervals) -> Row:
    if group is reference:
        return replace(row, baseline=reference.method)
    group, reference = group.shared(reference)
    if not group.units:
        return replace(row, baseline=reference.method)
    between = measure.between(group, reference)
    difference = float(np.mean(group.values(_micro))) - float(np.mean(reference.values(_micro)))
    low, high = (between.low, between.high) if between else (None, None)
    return replace(row, baseline=reference.method, difference=difference, difference_low=low, difference_high=high)


def _micro(result: CellResult) -> float | None:
    return result.value("micro_auc")


def _gap(result: CellResult) -> float | None:
    honest, best = result.value("micro_auc"), result.value("micro_auc", "test-best")
    return best - honest if honest is not None and best is not None else None
