"""The table of a sweep: one row per configuration, and which of them the validation videos choose."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError
from ..measure.detection import METRICS
from .sweep_plan import SweepPlan, Value
from .sweep_run import TrialResult


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
        trials: Numbers of its trials, the one with the lowest validation loss first.
        test: Mean of each test metric, where its trials were measured.
    """

    configuration: int
    values: dict[str, Value]
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
    """

    plan: SweepPlan
    rows: tuple[SweepRow, ...]
    pick: int
    default: int
    test_best: int | None = None
    notes: tuple[str, ...] = ()


def tabulate(
    plan: SweepPlan,
    results: Sequence[TrialResult],
    *,
    test: Mapping[int, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
) -> SweepTable:
    """Average the trials of each configuration over their seeds, and choose.

    Args:
        plan: Of the sweep.
        results: Of ``sweep.run_sweep``, one per trial, in order.
        test: Of ``sweep.measure_on_test``, by trial.
        notes: To be handed on.

    Raises:
        DataError: If trials are missing, or no configuration has a finite validation loss.
    """
    configurations = plan.configurations()
    if len(results) != len(configurations) * plan.seeds:
        got = f"{len(results)} of {len(configurations) * plan.seeds}"
        raise DataError("the sweep is not finished", got=f"{got} trials", fix="give the same command again")
    rows = [
        make_row(number, values, results[number * plan.seeds : (number + 1) * plan.seeds], test or {})
        for number, values in enumerate(configurations)
    ]
    return make_table(plan, rows, notes)


def make_table(plan: SweepPlan, rows: Sequence[SweepRow], notes: Sequence[str] = ()) -> SweepTable:
    """Choose among rows, of which one is the default.

    Raises:
        DataError: If no configuration has a finite validation loss.
    """
    finite = [row for row in rows if math.isfinite(row.validation_loss)]
    if not finite:
        fix = "try a lower learning rate or order"
        raise DataError("no configuration has a finite validation loss", got=f"{len(rows)} configurations", fix=fix)
    pick = min(finite, key=lambda row: (row.validation_loss, row.parameters, row.configuration)).configuration
    default = next(row.configuration for row in rows if row.values == plan.default)
    said = list(notes)
    if len(finite) < len(rows):
        said.append(f"{len(rows) - len(finite)} configurations diverged")
    best = None
    if all("micro_auc" in row.test for row in rows):
        best = max(rows, key=lambda row: row.test["micro_auc"]).configuration
    return SweepTable(plan, tuple(rows), pick, default, best, tuple(said))


def make_row(
    number: int, values: dict[str, Value], results: Sequence[TrialResult], test: Mapping[int, Mapping[str, float]]
) -> SweepRow:
    """The row of a configuration from its trials."""
    measured = [test[result.trial] for result in results if result.trial in test]
    losses = [result.validation_loss for result in results]
    whole = len(measured) == len(results)
    return SweepRow(
        configuration=number,
        values=values,
        validation_loss=statistics.fmean(losses),
        deviation=float(np.std(losses, ddof=1)) if len(losses) > 1 else math.nan,
        validation_auc=statistics.fmean(result.validation_auc for result in results),
        training_loss=statistics.fmean(result.loss for result in results),
        parameters=results[0].parameters,
        trials=tuple(result.trial for result in sorted(results, key=lambda result: result.validation_loss)),
        test={
            name: statistics.fmean(one[name] for one in measured)
            for name in METRICS
            if whole and all(name in one for one in measured)
        },
    )
