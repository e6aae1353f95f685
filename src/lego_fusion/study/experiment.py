"""Measure the cells of a plan in several processes, each kept in a file of its own as soon as it is done.

The cell of a comparison trains one method on features in memory and scores the test videos. The cells of a sweep share what
frozen stages made of the training and validation videos; those whose heads step (``lego-paper``) are trained many at a time on
shared powers of the graphs (``batched``), those that are fitted (``lego``) one after the other. No cell of a sweep looks at a
test video: ``measure_on_test`` does, once the choice is made.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import CheckpointError, LegoFusionError, ParameterError, check_choice, check_int
from ..learn.bags import Bags, load_bags
from ..learn.conditions import parse_condition
from ..learn.detector import Detector
from ..learn.evaluation import measurable_videos
from ..learn.graph_cache import CACHE_FOLDER, Graphs, build_graphs, cache_place, cached_graphs, restore_statistics
from ..learn.methods import UNLEARNED, ModelShape, Run, run_method, scored_videos
from ..learn.objective import bag_loss
from ..learn.processes import SINGLE_PROCESS, Ranks, run_jobs
from ..learn.runs import save_run
from ..learn.train import fit, predict_logits
from ..measure.detection import detection_metrics, micro_auc
from ..measure.result import Result, Selection
from ..measure.scored import ScoredVideo
from .batched import MODES, Mode, batches_of, entries_of, fit_together, frozen_stage
from .cells import (
    Cell,
    CellResult,
    ComparisonPlan,
    Plan,
    SweepPlan,
    TrialResult,
    claim,
    read_cell,
    unfinished_cells,
    write_cell,
)

WORTH_A_PROCESS = 60.0  # seconds of work from which starting Python anew pays
SECONDS_PER_STEP = {True: 5e-8, False: 3e-3}  # together, by entry of a graph; alone
SECONDS_PER_ITERATION = 1e-2  # of a head that is fitted, in up to three fits
Measured = list[tuple[Sequence[BaseModel], np.ndarray]]


@dataclass(frozen=True)
class Batch:
    """Cells that are measured in one go, and what a process needs for it.

    Args:
        plan: Of the cells.
        cells: In order.
        root: Of their dataset.
        folder: Where finished cells are kept.
        cache: Where graphs are kept; None for nowhere.
        together: Whether they are trained together.
        stage: The frozen stage that they share.
    """

    plan: Plan
    cells: tuple[Cell, ...]
    root: Path
    folder: Path
    cache: Path | None
    together: bool = False
    stage: str = ""


def run_cells(
    plan: Plan,
    datasets: Sequence[Dataset],
    folder: str | Path,
    *,
    mode: Mode = "auto",
    workers: int | None = None,
    cache: str | Path = "off",
    on_cell: Callable[[int, int], None] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> tuple[dict[Cell, str], list[str]]:
    """Measure every cell that is not in the folder yet.

    Args:
        plan: Made from the same datasets.
        datasets: Where the features lie.
        folder: Where the plan and the cells are kept; made if it is not there.
        mode: Of a sweep: ``"together"`` trains configurations side by side on shared powers, ``"alone"`` one after the other;
            ``"auto"`` trains together what can be, if the graphs are small enough for several of them to fit in memory.
        workers: Processes, one thread each; with 1 everything happens in this one. Processes start Python anew, so a script
            needs ``if __name__ == "__main__"``. None takes one, or two (as there are processors) where much is to be done. The
            numbers do not depend on it.
        cache: Where graphs are kept: ``"auto"`` in each dataset folder, ``"folder"`` in ``folder``, another folder, or
            ``"off"``. The numbers do not depend on it.
        on_cell: Called with how many of how many cells are done.
        ranks: Processes that all make this call and share the cells (``processes.process_group``).

    Returns:
        Why, in one line, a cell could not be measured (it is not kept, so the same call tries it again); and remarks, such as
        why some cells were trained alone.

    Raises:
        CheckpointError: If something in the folder was made otherwise, or it holds something else.
        LegoFusionError: If a process dies.
    """
    check_choice(mode, "mode", plan.verb, MODES)
    workers = workers if workers is None else check_int(workers, "workers", plan.verb, low=1)
    folder = Path(folder)
    ranks.first_alone(lambda: claim(folder, plan))
    cells = plan.cells()
    missing = unfinished_cells(folder, cells)
    done, notify = len(cells) - len(missing), on_cell or (lambda done, total: None)
    notify(done, len(cells))
    if not missing:
        return {}, []
    if isinstance(plan, SweepPlan):
        batches, notes = sweep_batches(plan, datasets[0], folder, cells, mode, cache)
    else:
        batches, notes = list(_comparison_batches(plan, datasets, folder, cells, cache)), []
    batches = [batch for batch in batches if missing.intersection(batch.cells)]
    ranks.first_before_others(lambda: _prepare(batches))
    workers = workers or _sensible_workers(batches, datasets[0])
    failures: dict[Cell, str] = {}
    for batch, failure in run_jobs(measure, batches, workers, where=plan.verb, ranks=ranks):
        failures |= dict.fromkeys(batch.cells, failure) if failure else {}
        done += len(missing.intersection(batch.cells))
        notify(done, len(cells))
        if failures and isinstance(plan, SweepPlan) and ranks.size == 1:  # no choice without it; others would wait for the rest
            break
    return {cell: failures[cell] for cell in cells if cell in failures}, notes


def measure(batch: Batch) -> str:
    """Measure the cells of a batch and write their files; returns what went wrong, in one line, or nothing."""
    plan = batch.plan
    try:
        found = _trained(plan, batch) if isinstance(plan, SweepPlan) else _compared(plan, batch)
    except LegoFusionError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:  # torch's own: out of memory, a matrix that cannot be factored
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    for cell, (records, array) in zip(batch.cells, found, strict=True):
        write_cell(batch.folder, plan, cell, records, array)
    return ""


def _prepare(batches: Sequence[Batch]) -> None:
    """Compute the frozen stages that several batches read from the cache, once before several processes need them."""
    stages = [batch.stage for batch in batches]
    for place, batch in enumerate(batches):
        several = stages.count(batch.stage) > 1 and batch.stage not in stages[:place]
        if isinstance(batch.plan, SweepPlan) and batch.cache is not None and several:
            _graphs_of(batch.plan, Dataset.open(batch.root), batch.cache, batch.cells[0])


def _sensible_workers(batches: Sequence[Batch], dataset: Dataset) -> int:
    """Two processes where each has enough to do, as in every comparison."""
    seconds = 0.0
    for plan, batch in ((batch.plan, batch) for batch in batches):
        if not isinstance(plan, SweepPlan):
            return 2
        fitted = untrained(plan, dataset, None, batch.cells[0]).reading_head is not None
        for settings in map(plan.settings, batch.cells):
            each = SECONDS_PER_STEP[batch.together] * (entries_of(plan, dataset, settings.nodes) if batch.together else 1)
            training = settings.training
            seconds += SECONDS_PER_ITERATION * training.iterations if fitted else each * training.steps
    return min(2, os.cpu_count() or 1, len(batches)) if seconds > WORTH_A_PROCESS else 1


def _place(cache: str | Path, folder: Path, dataset: Dataset) -> Path | None:
    return folder / CACHE_FOLDER if str(cache) == "folder" else cache_place(cache, dataset)


# --- comparisons -----------------------------------------------------------------------------------------------------


def _comparison_batches(
    plan: Plan, datasets: Sequence[Dataset], folder: Path, cells: Sequence[Cell], cache: str | Path = "off"
) -> Iterator[Batch]:
    if Path(cache).suffix == ".safetensors":
        raise ParameterError("a comparison needs the graphs of several splits", expected="--cache FOLDER or auto", got=cache)
    named = {dataset.name: dataset for dataset in datasets}
    for cell in cells:
        dataset = named[cell.dataset]
        yield Batch(plan, (cell,), dataset.root, folder, _place(cache, folder, dataset))


def _compared(plan: ComparisonPlan, batch: Batch) -> Measured:
    modalities = tuple(dict.fromkeys(name for names in plan.modality_sets for name in names))
    measured: Measured = []
    for cell in batch.cells:
        dataset, bags = _loaded(batch.root, modalities, plan.dataset(cell).videos, plan.nodes)
        run = run_method(
            dataset,
            bags,
            plan.split(cell),
            cell.modalities,
            cell.method,
            plan.training_of(cell),
            ModelShape(plan.nodes, plan.hidden, plan.options.get(cell.method, {})),
            condition=parse_condition(cell.condition),
            watch_test=plan.test_best and cell.method not in UNLEARNED,
            cache=batch.cache,
        )
        scores = torch.stack([run.node_scores[video] for video in plan.split(cell).test])
        measured.append((_results(plan, dataset, cell, run), scores.numpy()))
    return measured


@functools.lru_cache(maxsize=1)
def _loaded(root: Path, modalities: tuple[str, ...], videos: tuple[str, ...], nodes: int) -> tuple[Dataset, Bags]:
    """A dataset and its bags, resampled once for all cells that follow each other."""
    dataset = Dataset.open(root)
    return dataset, load_bags(dataset, modalities, videos, nodes=nodes)


def _results(plan: ComparisonPlan, dataset: Dataset, cell: Cell, run: Run) -> list[Result]:
    """Every metric that is defined; micro AUC must be."""
    scored = scored_videos(dataset, run.node_scores, smoothing=plan.smoothing)
    abnormal, learned = sum(video.abnormal for video in scored), cell.method not in UNLEARNED
    facts: dict[str, Any] = {"dataset": cell.dataset, "split": cell.split, "modalities": cell.modalities, "fusion": cell.method}
    facts |= {"seed": cell.seed, "condition": cell.condition, "smoothing": plan.smoothing}
    facts |= {"parameters": run.parameters, "protocol": f"frame level, real frames, {len(scored)} videos ({abnormal} abnormal)"}
    times: dict[str, Any] = {"train_seconds": run.train_seconds if learned else None, "score_seconds": run.score_seconds}
    untrained = plan.training.normal_only or plan.training.steps == 0
    honest: Selection = "none-learned" if not learned else "untrained" if untrained else plan.training.selection
    values = detection_metrics(scored).values
    if "micro_auc" not in values:
        micro_auc(scored)  # raises, and says why
    records = [Result(metric=name, value=value, selection=honest, **facts, **times) for name, value in values.items()]
    if run.watched:
        looks = {step: micro_auc(scored_videos(dataset, one, smoothing=plan.smoothing)) for step, one in run.watched.items()}
        best = max(looks, key=lambda step: looks[step])
        records.append(Result(metric="micro_auc", value=looks[0], selection="untrained", **facts))
        records.append(Result(metric="micro_auc", value=looks[best], selection="test-best", extra={"step": best}, **facts))
    return records


def cell_videos(dataset: Dataset, plan: ComparisonPlan, result: CellResult) -> list[ScoredVideo]:
    """The test videos of a comparison's cell with the score and the truth of every frame."""
    scores = dict(zip(plan.split(result.cell).test, torch.from_numpy(result.array), strict=True))
    return scored_videos(dataset, scores, smoothing=plan.smoothing)


# --- sweeps ----------------------------------------------------------------------------------------------------------


def run_sweep(
    plan: SweepPlan, dataset: Dataset, folder: str | Path, *, cache: str | Path = "folder", **options: Any
) -> tuple[dict[Cell, TrialResult], list[str]]:
    """Train every cell of a sweep that is not in the folder yet (``run_cells``).

    Returns:
        What came of every cell, in order, and remarks.

    Raises:
        CheckpointError: If the folder holds another sweep, or a cache file does not fit.
        LegoFusionError: If a cell cannot be trained.
    """
    failures, notes = run_cells(plan, [dataset], folder, cache=cache, **options)
    for cell, failure in failures.items():
        raise LegoFusionError(f"a trial failed: {failure}", where=cell.values)
    return {cell: read_cell(folder, plan, cell).records[0] for cell in plan.cells()}, notes


def trained(plan: SweepPlan, dataset: Dataset, folder: str | Path, cell: Cell, *, cache: str | Path = "folder") -> Detector:
    """The trained detector of a sweep's cell, ready to score.

    Raises:
        CheckpointError: If the folder does not hold it.
    """
    graphs = _graphs_of(plan, dataset, _place(cache, Path(folder), dataset), cell)
    return _with_weights(untrained(plan, dataset, graphs, cell), read_cell(folder, plan, cell))


def save_trained(
    plan: SweepPlan, dataset: Dataset, folder: str | Path, cell: Cell, run: str | Path, *, cache: str | Path = "folder"
) -> None:
    """Save a sweep's trained cell as a run folder, which evaluates, scores and explains like any other."""
    settings, detector = plan.settings(cell), trained(plan, dataset, folder, cell, cache=cache)
    train = training_bags(plan, dataset, folder, cell, cache=cache)
    facts: dict[str, Any] = {"method": plan.method, "nodes": settings.nodes, "options": settings.options_of(plan.method)}
    save_run(run, detector, dataset, plan.split, settings.training, train, smoothing=plan.smoothing, **facts)


def training_bags(plan: SweepPlan, dataset: Dataset, folder: str | Path, cell: Cell, *, cache: str | Path = "folder") -> Bags:
    """What a sweep's cell was trained on: the training bags after the frozen stage."""
    return _graphs_of(plan, dataset, _place(cache, Path(folder), dataset), cell).training


def measurable(plan: SweepPlan, dataset: Dataset) -> tuple[str, ...]:
    """The test videos whose frames are known, by which what was chosen can be measured."""
    return tuple(filter(dataset.has_ground_truth, plan.split.test))


def measure_on_test(
    plan: SweepPlan,
    dataset: Dataset,
    folder: str | Path,
    cells: Sequence[Cell],
    *,
    cache: str | Path = "folder",
    on_cell: Callable[[int, int], None] | None = None,
) -> dict[Cell, dict[str, float]]:
    """Measure trained cells on the test videos, which nothing before this has looked at.

    Args:
        plan: Of the finished sweep.
        dataset: Where the features lie.
        folder: Of the sweep.
        cells: Which ones.
        cache: As for ``run_cells``.
        on_cell: Called with how many of how many cells are measured.

    Returns:
        Metrics by name (``measure.detection.METRICS``) for each cell.

    Raises:
        DataError: If no test video has ground truth in time.
    """
    known = measurable(plan, dataset) or measurable_videos(dataset, "test")[0]  # raises, and says why
    place = _place(cache, Path(folder), dataset)
    measured: dict[Cell, dict[str, float]] = {}
    for cell in cells:
        graphs = _graphs_of(plan, dataset, place, cell, known)
        detector = _with_weights(untrained(plan, dataset, graphs, cell), read_cell(folder, plan, cell))
        logits = predict_logits(detector, _others(graphs)).double()
        scored = scored_videos(dataset, dict(zip(known, logits, strict=True)), smoothing=plan.smoothing)
        measured[cell] = detection_metrics(scored).values
        if on_cell is not None:
            on_cell(len(measured), len(cells))
    return measured


def untrained(plan: SweepPlan, dataset: Dataset, graphs: Graphs | None, cell: Cell) -> Detector:
    """The untrained detector of a sweep's cell; what it knows of normals is what made the graphs."""
    fusion, settings = plan.fusion(dataset, cell), plan.settings(cell)
    if graphs is not None:
        restore_statistics(fusion, graphs.statistics)
    return Detector(fusion, hidden=settings.hidden, seed=settings.training.seed)


def sweep_batches(
    plan: SweepPlan, dataset: Dataset, folder: Path, cells: Sequence[Cell], mode: Mode, cache: str | Path
) -> tuple[list[Batch], list[str]]:
    """Which of a sweep's cells are trained in one go, and remarks (``batched.batches_of``)."""
    batches, notes = batches_of(plan, dataset, cells, functools.partial(untrained, plan, dataset, None), mode)
    place = _place(cache, folder, dataset)
    return [Batch(plan, members, dataset.root, folder, place, together, stage) for stage, together, members in batches], notes


def _trained(plan: SweepPlan, batch: Batch) -> Measured:
    """Train the cells of a batch, side by side or one after the other, and look at the validation videos."""
    dataset = Dataset.open(batch.root)
    graphs = _graphs_of(plan, dataset, batch.cache, batch.cells[0])
    train, held_out = graphs.training, _others(graphs).named(plan.split.validation)
    detectors = [untrained(plan, dataset, graphs, cell) for cell in batch.cells]
    configs = [plan.settings(cell).training for cell in batch.cells]
    if batch.together:
        fit_together(detectors, train, configs, validation=held_out)
    else:
        for detector, config in zip(detectors, configs, strict=True):
            fit(detector, train, config, validation=held_out)
    own, measured = plan.training, cast(Measured, [])
    for detector in detectors:
        logits = predict_logits(detector, held_out)
        scores = logits.topk(min(own.k, logits.shape[1]), dim=1).values.sigmoid().mean(1).nan_to_num()
        record = TrialResult(
            together=batch.together,
            loss=float(bag_loss(predict_logits(detector, train), train.labels, pooling=own.pooling, k=own.k).mean()),
            validation_loss=float(bag_loss(logits, held_out.labels, pooling=own.pooling, k=own.k).mean()),
            validation_auc=float(roc_auc_score(held_out.labels.numpy(), scores.numpy())),
            parameters=detector.parameter_count(),
        )
        weights = torch.cat([tensor.detach().flatten().float() for tensor in _learned(detector)])
        measured.append(([record], weights.numpy()))
    return measured


def _learned(detector: Detector) -> list[Tensor]:
    """What training changes: parameters, and the switches of the head."""
    return [*detector.parameters(), *detector.head.buffers()]


@torch.no_grad()
def _with_weights(detector: Detector, result: CellResult) -> Detector:
    tensors = _learned(detector)
    for tensor, values in zip(tensors, torch.from_numpy(result.array).split([one.numel() for one in tensors]), strict=True):
        tensor.copy_(values.view(tensor.shape))
    return detector.eval()


def _others(graphs: Graphs) -> Bags:
    """The videos beside the training ones, for validation or test."""
    if graphs.others is None:
        raise CheckpointError("the graphs hold no validation or test video", where=graphs.path, fix="delete the file")
    return graphs.others


@dataclass(frozen=True)
class _Stage:
    """A frozen stage: what it depends on, and how it comes about."""

    key: tuple[str, ...]
    make: Callable[[], Graphs] = field(compare=False)


def _graphs_of(
    plan: SweepPlan, dataset: Dataset, cache: Path | None, cell: Cell, others: Sequence[str] | None = None
) -> Graphs:
    """The frozen stage of training and validation videos, or others; once for all cells of a process that share it in a row."""
    fusion, nodes, others = plan.fusion(dataset, cell), plan.settings(cell).nodes, others or plan.split.validation
    stage = frozen_stage(fusion, nodes)

    def make() -> Graphs:
        if cache is None:
            return build_graphs(dataset, fusion, plan.split.train, others, nodes=nodes)
        return cached_graphs(dataset, fusion, plan.split.train, others, nodes=nodes, cache=cache, dtype=plan.dtype)

    return _made_once(_Stage((plan.model_dump_json(), str(dataset.root), str(cache), stage, *others), make))


@functools.lru_cache(maxsize=1)
def _made_once(stage: _Stage) -> Graphs:
    return stage.make()
