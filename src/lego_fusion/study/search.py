"""Searches that do not fit a grid: Optuna proposes, the sweep's trials are trained, validation videos judge.

The study lives in a database: a file in the folder of the search, or any URL that several machines reach. Every process of
every machine that gives the same command takes part in one study, and all stop when it holds as many finished trials as were
asked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..data.dataset import Dataset
from ..errors import DataError, LegoFusionError, MissingExtraError, ParameterError, check_int
from ..learn.detector import Detector
from ..learn.graph_cache import CACHE_FOLDER, cache_place
from ..learn.processes import run_jobs
from ..learn.settings import full_key
from .batched import why_alone
from .cells import claim_folder
from .sweep_plan import SweepPlan, Value, parse_grid
from .sweep_run import (
    FINISHED,
    STUDY_FILE,
    TrialResult,
    graphs_of_test_videos,
    loaded_graphs,
    measurable,
    metrics_on_test,
    train_trials,
    untrained,
)
from .sweep_table import SweepTable, make_row, make_table

Trained = tuple[list[Detector], list[TrialResult]]
_FLOATS = re.compile(r"([^.,]+(?:\.\d+)?(?:e[+-]?\d+)?)\.\.(.+)", re.IGNORECASE)


class Space(BaseModel):
    """Values of one key that a search may choose.

    Args:
        values: Single values; empty where there is a span.
        low: Lowest of a span.
        high: Highest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: tuple[Value, ...] = ()
    low: int | float = 0
    high: int | float = 0


class SearchPlan(BaseModel):
    """Everything that decides what a search tries.

    Args:
        plan: What every trial shares; its grid holds the values, or the ends of the spans.
        space: Values or a span for each key.
        trials: How many are to be finished.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: SweepPlan
    space: dict[str, Space]
    trials: int = Field(ge=1)

    @property
    def study(self) -> str:
        """Name of the study: equal for equal searches, whatever the number of trials."""
        facts = self.model_dump_json(exclude={"trials"})
        return f"lego-fusion-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class _Job:
    """What a process needs to take part in a study."""

    search: SearchPlan
    root: Path
    cache: Path | None
    storage: str
    number: int


def parse_space(words: Sequence[str]) -> dict[str, Space]:
    """A space as a command line gives it: ``fusion.references=64..2048``, ``prior_departure=0.1..10`` (logarithmic), ``k=1,3``.

    Example:
        >>> parse_space(["prior_departure=0.1..1e1"])["prior_departure"].high
        10.0
    """
    space: dict[str, Space] = {}
    for word in words:
        name, _, text = (part.strip() for part in word.partition("="))
        span = _FLOATS.fullmatch(text)
        if span is None or "," in text:
            space[name] = Space(values=parse_grid([word])[name])
            continue
        try:
            ends = [int(end) if re.fullmatch(r"-?\d+", end) else float(end) for end in span.groups()]
        except ValueError:
            raise ParameterError("a value of the search is no number", where=word, got=repr(text)) from None
        if ends[0] > ends[1]:
            raise ParameterError("a span of the search is empty", where=word, expected="the lower end first")
        space[name] = Space(low=ends[0], high=ends[1])
    return space


def grid_of(space: Mapping[str, Space]) -> dict[str, tuple[Value, ...]]:
    """A grid that holds the values, all integers of a span, or the ends of a span of other numbers."""
    grid: dict[str, tuple[Value, ...]] = {}
    for name, one in space.items():
        whole = isinstance(one.low, int) and isinstance(one.high, int)
        span = tuple(range(int(one.low), int(one.high) + 1)) if whole else (one.low, one.high)
        grid[name] = one.values or span
    return grid


def run_search(
    search: SearchPlan,
    dataset: Dataset,
    folder: str | Path,
    *,
    storage: str = "",
    workers: int | None = None,
    cache: str | Path = "folder",
    on_trial: Callable[[int, int], None] | None = None,
) -> tuple[SweepTable, Detector]:
    """Search until the study holds as many finished trials as the plan says; the same call goes on, here or elsewhere.

    Args:
        search: Made from the same dataset.
        dataset: Where the features lie.
        folder: For the plan, the graphs and, by default, the study.
        storage: Database URL, such as ``postgresql://host/name``; SQLite in the folder by default.
        workers: Processes, one thread each; two by default, as there are processors.
        cache: As for ``sweep.run_sweep``.
        on_trial: Called with how many of how many trials are done.

    Returns:
        The table of all finished trials and the default, the two that matter measured on the test videos where their frames
        are known; and the detector of the best one, trained again.

    Raises:
        MissingExtraError: If optuna is not installed.
        ParameterError: If the database cannot be reached.
        LegoFusionError: If a trial cannot be trained.
    """
    optuna = _optuna()
    folder = Path(folder)
    claim_folder(folder, search, FINISHED, "search")
    place = folder / CACHE_FOLDER if str(cache) == "folder" else cache_place(cache, dataset)
    url = storage or f"sqlite:///{(folder / STUDY_FILE).resolve()}"
    study = _study(search, url)
    loaded_graphs(search.plan, dataset, place, search.plan.trial(0, search.plan.default))  # before the workers look for it
    workers = min(2, os.cpu_count() or 1) if workers is None else check_int(workers, "workers", "search", low=1)
    jobs = [_Job(search, dataset.root, place, url, number) for number in range(workers)]
    notify = on_trial or (lambda done, total: None)
    for _, failure in run_jobs(_take_part, jobs, workers, where="search"):
        if failure:
            raise LegoFusionError(f"a trial failed: {failure}")
        notify(min(search.trials, len(_finished(study))), search.trials)
    finished = sorted(_finished(study), key=lambda trial: trial.number)
    found = [(json.loads(one.user_attrs["values"]), _results(one.user_attrs["results"])) for one in finished]
    sampler = type(optuna.samplers.TPESampler()).__name__
    notes = [f"{len(found)} trials of {sampler} and the default; what each proposes depends on those before"]
    if search.plan.default not in [values for values, _ in found]:
        found.append((search.plan.default, _trained(search.plan, dataset, place, search.plan.default)[1]))
    rows = [make_row(number, values, results, {}) for number, (values, results) in enumerate(found)]
    table = make_table(search.plan, rows, notes)
    trained = {number: _trained(search.plan, dataset, place, found[number][0]) for number in {table.default, table.pick}}
    for number in trained if measurable(search.plan, dataset) else ():
        test = _on_test(search.plan, dataset, place, found[number][0], trained[number])
        rows[number] = make_row(number, *found[number], test)
    return make_table(search.plan, rows, notes), trained[table.pick][0][0]


def _take_part(job: _Job) -> str:
    """Train proposals until the study is full; returns what went wrong, in one line, or nothing."""
    optuna = _optuna()
    dataset = Dataset.open(job.root)
    study = _study(job.search, job.storage, seed=job.search.plan.training.seed + job.number)

    def objective(proposed: Any) -> float:
        values = {name: _suggested(proposed, name, space) for name, space in job.search.space.items()}
        _, results = _trained(job.search.plan, dataset, job.cache, values)
        losses = [result.validation_loss for result in results]
        proposed.set_user_attr("results", json.dumps([vars(result) for result in results]))
        proposed.set_user_attr("values", json.dumps(values))
        loss = sum(losses) / len(losses)
        return loss if math.isfinite(loss) else 1e9

    def stop_when_full(current: Any, _: Any) -> None:
        if len(_finished(current)) >= job.search.trials:
            current.stop()

    if len(_finished(study)) >= job.search.trials:
        return ""
    try:
        study.optimize(objective, callbacks=[stop_when_full])
    except LegoFusionError as error:
        return str(error)
    except optuna.exceptions.StorageInternalError as error:
        return f"the database failed: {' '.join(str(error).split())}"
    return ""


def _trained(plan: SweepPlan, dataset: Dataset, cache: Path | None, values: dict[str, Value]) -> Trained:
    """A configuration with all its seeds, together where that can be."""
    trials = [plan.trial(number, values, number) for number in range(plan.seeds)]
    graphs = loaded_graphs(plan, dataset, cache, trials[0])
    reason = why_alone(untrained(plan, dataset, graphs, trials[0]), trials[0].training)
    together = reason is None and len(trials) > 1 and trials[0].training.batch_size is None
    detectors, results = train_trials(plan, dataset, graphs, trials, together=together)
    order = sorted(range(len(trials)), key=lambda place: results[place].validation_loss)
    return [detectors[place] for place in order], [results[place] for place in order]


def _suggested(proposed: Any, name: str, space: Space) -> Value:
    if space.values:
        chosen: Value = json.loads(proposed.suggest_categorical(name, [json.dumps(value) for value in space.values]))
    elif isinstance(space.low, int) and isinstance(space.high, int):
        chosen = int(proposed.suggest_int(name, space.low, space.high))
    else:
        chosen = float(proposed.suggest_float(name, float(space.low), float(space.high), log=space.low > 0))
    return chosen


def _results(text: str) -> list[TrialResult]:
    return [TrialResult(**values) for values in json.loads(text)]


def _on_test(
    plan: SweepPlan, dataset: Dataset, cache: Path | None, values: dict[str, Value], trained: Trained
) -> dict[int, dict[str, float]]:
    """Test metrics of the seeds of a configuration, by trial."""
    graphs = graphs_of_test_videos(plan, dataset, cache, plan.trial(0, values))
    return {result.trial: metrics_on_test(plan, dataset, graphs, detector) for detector, result in zip(*trained, strict=True)}


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def _study(search: SearchPlan, url: str, seed: int | None = None) -> Any:
    optuna = _optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sampler = optuna.samplers.TPESampler(seed=search.plan.training.seed if seed is None else seed, constant_liar=True)
            return optuna.create_study(
                study_name=search.study, storage=url, direction="minimize", sampler=sampler, load_if_exists=True
            )
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


def make_search_plan(plan: SweepPlan, space: Mapping[str, Space], trials: int) -> SearchPlan:
    """Fix a search, with the plan of a sweep over ``grid_of`` its space."""
    check_int(trials, "search", "sweep", low=1)
    spaces = {full_key(key, [plan.method], where="search"): one for key, one in space.items()}
    if set(spaces) != set(plan.grid):
        raise DataError("the plan is of another space", expected=", ".join(space), got=", ".join(plan.grid))
    return SearchPlan(plan=plan, space=spaces, trials=trials)
