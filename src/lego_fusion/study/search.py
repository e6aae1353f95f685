"""Searches that do not fit a grid: Optuna proposes, the cells of each proposal are trained, validation videos judge.

The study lives in a database: a file in the folder of the search, or any URL that several machines reach. Every process of
every machine that gives the same command takes part in one study, and all stop when it holds as many finished trials as were
asked for.
"""

from __future__ import annotations

import functools
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ..data.dataset import Dataset
from ..errors import LegoFusionError, MissingExtraError, ParameterError, check_int
from ..learn.processes import run_jobs
from .cells import STUDY_FILE, Cell, SweepPlan, TrialResult, claim, read_cell, unfinished_cells
from .experiment import measure, sweep_batches, training_bags
from .table import tabulate


@dataclass(frozen=True)
class _Job:
    """What a process needs to take part in a study."""

    plan: SweepPlan
    root: Path
    folder: Path
    cache: str | Path
    storage: str
    number: int


def run_search(
    plan: SweepPlan,
    dataset: Dataset,
    folder: str | Path,
    *,
    storage: str = "",
    workers: int | None = None,
    cache: str | Path = "folder",
    on_cell: Callable[[int, int], None] | None = None,
) -> tuple[dict[Cell, TrialResult], list[str]]:
    """Search until the study holds as many finished trials as the plan says; the same call goes on, here or elsewhere.

    Args:
        plan: With ``search``, made from the same dataset.
        dataset: Where the features lie.
        folder: For the plan, the cells, the graphs and, by default, the study.
        storage: Database URL, such as ``postgresql://host/name``; SQLite in the folder by default.
        workers: Processes, one thread each; two by default, as there are processors.
        cache: As for ``experiment.run_cells``.
        on_cell: Called with how many of how many trials are done.

    Returns:
        What came of the cells of all finished trials and of the default, and remarks. The cells of the default and of the best
        trial are in the folder, whichever machine had them first.

    Raises:
        MissingExtraError: If optuna is not installed.
        ParameterError: If the database cannot be reached.
        LegoFusionError: If a trial cannot be trained.
    """
    optuna, folder = _optuna(), Path(folder)
    claim(folder, plan)
    url = storage or f"sqlite:///{(folder / STUDY_FILE).resolve()}"
    study = _study(plan, url)
    default = plan.cells_of(plan.default)
    training_bags(plan, dataset, folder, default[0], cache=cache)  # cached before the workers look for it
    workers = min(2, os.cpu_count() or 1) if workers is None else check_int(workers, "workers", "search", low=1)
    jobs = [_Job(plan, dataset.root, folder, cache, url, number) for number in range(workers)]
    notify = on_cell or (lambda done, total: None)
    for _, failure in run_jobs(_take_part, jobs, workers, where="search"):
        if failure:
            raise LegoFusionError(f"a trial failed: {failure}")
        notify(min(plan.search, len(_finished(study))), plan.search)
    results: dict[Cell, TrialResult] = {}
    finished = sorted(_finished(study), key=lambda trial: trial.number)
    for trial in finished:
        records = map(TrialResult.model_validate_json, trial.user_attrs["results"])
        results |= dict(zip(plan.cells_of(json.loads(trial.user_attrs["values"])), records, strict=True))
    if plan.default not in [cell.values for cell in results]:
        results |= _trained(plan, dataset, folder, default, cache)
    table = tabulate(plan, results)
    _trained(plan, dataset, folder, table.cells_of(table.rows[table.pick]), cache)
    sampler = type(optuna.samplers.TPESampler()).__name__
    return results, [f"{len(finished)} trials of {sampler} and the default; what each proposes depends on those before"]


def _take_part(job: _Job) -> str:
    """Train proposals until the study is full; returns what went wrong, in one line, or nothing."""
    optuna, plan = _optuna(), job.plan
    dataset = Dataset.open(job.root)
    study = _study(plan, job.storage, seed=plan.training.seed + job.number)

    def objective(proposed: Any) -> float:
        values = {key: _suggested(proposed, plan, key) for key in plan.grid}
        results = list(_trained(plan, dataset, job.folder, plan.cells_of(values), job.cache).values())
        proposed.set_user_attr("results", [result.model_dump_json() for result in results])
        proposed.set_user_attr("values", json.dumps(values))
        loss = sum(result.validation_loss for result in results) / len(results)
        return loss if math.isfinite(loss) else 1e9

    def stop_when_full(current: Any, _: Any) -> None:
        if len(_finished(current)) >= plan.search:
            current.stop()

    if len(_finished(study)) >= plan.search:
        return ""
    try:
        study.optimize(objective, callbacks=[stop_when_full])
    except LegoFusionError as error:
        return str(error)
    except optuna.exceptions.StorageInternalError as error:
        return f"the database failed: {' '.join(str(error).split())}"
    return ""


def _trained(
    plan: SweepPlan, dataset: Dataset, folder: Path, cells: Sequence[Cell], cache: str | Path
) -> dict[Cell, TrialResult]:
    """What came of the seeds of a configuration, trained if the folder does not hold them, together where that can be."""
    if unfinished_cells(folder, cells):
        together = len(cells) > 1 and plan.settings(cells[0]).training.batch_size is None
        batches, _ = sweep_batches(plan, dataset, folder, cells, "auto" if together else "alone", cache)
        for failure in filter(None, map(measure, batches)):
            raise LegoFusionError(failure)
    return {cell: read_cell(folder, plan, cell).records[0] for cell in cells}


def _suggested(proposed: Any, plan: SweepPlan, key: str) -> JsonValue:
    values: Any = plan.grid[key]
    if key not in plan.spans:
        return json.loads(proposed.suggest_categorical(key, [json.dumps(value) for value in values]))  # type: ignore[no-any-return]
    low, high = values[0], values[-1]
    if isinstance(low, int):
        return int(proposed.suggest_int(key, low, high))
    return float(proposed.suggest_float(key, low, high, log=low > 0))


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def _study(plan: SweepPlan, url: str, seed: int | None = None) -> Any:
    optuna, name = _optuna(), plan.identity(plan.cells_of(plan.default)[0])["study"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sampler = optuna.samplers.TPESampler(seed=plan.training.seed if seed is None else seed, constant_liar=True)
            return optuna.create_study(study_name=name, storage=url, direction="minimize", sampler=sampler, load_if_exists=True)
        except Exception as error:  # whatever the database's driver raises, or its absence
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            fix = "check the URL, for example sqlite:///search.db, and that its driver is installed"
            raise ParameterError("the database of the search cannot be opened", where=url, got=first, fix=fix) from error


@functools.cache
def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
