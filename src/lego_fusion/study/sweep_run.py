"""Train every configuration of a grid on cached frozen stages, and choose one by validation videos.

sweep/
  plan.json               what is swept; the same plan goes on here, another one is refused
  graphs/                 what frozen stages made of the videos, unless that is kept elsewhere
  trials/<chunk>.safetensors  weights and losses of a few trials, written as soon as they are trained

A frozen stage serves all trials that differ in learned settings only. Fusions whose heads step (``lego-paper``) are then
trained many at a time on shared powers of the graphs (``batched``); those that are fitted (``lego``) one after the other.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import CheckpointError, LegoFusionError, check_choice, check_int
from ..fusion.base import Fusion
from ..learn.bags import Bags
from ..learn.checkpoint import read_tensors
from ..learn.detector import Detector
from ..learn.graph_cache import CACHE_FOLDER, Graphs, build_graphs, cache_place, cached_graphs, restore_statistics
from ..learn.methods import scored_videos
from ..learn.objective import bag_loss
from ..learn.processes import SINGLE_PROCESS, Ranks, run_jobs
from ..learn.train import fit, predict_logits
from ..measure.detection import detection_metrics
from ..writing import PARTIAL, written_whole
from .batched import bucket, fit_together, why_alone
from .cells import claim_folder
from .sweep_plan import SweepPlan, Trial, frozen_stage

Mode = Literal["auto", "together", "alone"]
MODES: tuple[Mode, ...] = ("auto", "together", "alone")
TRIALS_FOLDER, STUDY_FILE = "trials", "search.db"
FINISHED = (f"{TRIALS_FOLDER}/*.safetensors", STUDY_FILE)
MOST_TOGETHER = 32  # detectors in one matrix product: more do not fit the processor's cache
BYTES_TOGETHER = 2**28
BYTES_PER_ENTRY = 48  # fused graph, sorted rows, their places and the gradients of all three
WORTH_A_PROCESS = 60.0  # seconds of work from which starting Python anew pays
SECONDS_PER_STEP = {True: 5e-8, False: 3e-3}  # together, by entry of a graph; alone
SECONDS_PER_ITERATION = 1e-2  # of a head that is fitted, in up to three fits


@dataclass(frozen=True)
class TrialResult:
    """A trained configuration with one seed.

    Args:
        trial: Its number.
        seed: Of the start and the batches.
        together: Whether it was trained with others.
        loss: Bag loss on the training videos (of their cross-fitted frozen stage), pooled as the plan's own training says.
        validation_loss: The same on the validation videos.
        validation_auc: AUC of the bag scores of the validation videos.
        parameters: Learned numbers.
    """

    trial: int
    seed: int
    together: bool
    loss: float
    validation_loss: float
    validation_auc: float
    parameters: int


@dataclass(frozen=True)
class _Job:
    """What a process needs to train a few trials of one frozen stage."""

    plan: SweepPlan
    root: Path
    cache: Path | None
    trials: tuple[Trial, ...]
    together: bool
    path: Path
    stage: str


def run_sweep(
    plan: SweepPlan,
    dataset: Dataset,
    folder: str | Path,
    *,
    mode: Mode = "auto",
    workers: int | None = None,
    cache: str | Path = "folder",
    on_trial: Callable[[int, int], None] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> tuple[list[TrialResult], list[str]]:
    """Train every trial that is not in the folder yet.

    Args:
        plan: Made from the same dataset.
        dataset: Where the features lie.
        folder: Where frozen stages, weights and losses are kept; made if it is not there.
        mode: ``"together"`` trains configurations side by side on shared powers, ``"alone"`` one after the other; ``"auto"``
            trains together what can be, if the graphs are small enough for several configurations to fit in memory.
        workers: Processes, one thread each; None takes one, or two (as there are processors) where much is to be done. The
            table does not depend on the number.
        cache: Where frozen stages are kept: ``"folder"`` in this folder, ``"auto"`` in the dataset folder, another folder, or
            ``"off"``, where every process computes them.
        on_trial: Called with how many of how many trials are done.
        ranks: Processes that all make this call and share the trials (``ranks.process_group``).

    Returns:
        One result per trial, in order, and remarks, such as why some were trained alone.

    Raises:
        CheckpointError: If the folder holds another sweep, or a cache file does not fit.
        LegoFusionError: If a trial cannot be trained.
    """
    check_choice(mode, "mode", "sweep", MODES)
    folder = Path(folder)
    ranks.first_alone(lambda: _claimed(folder, plan))
    place = _place(folder, dataset, cache)
    trials, done = plan.trials(), {result.trial for result in _stored(folder)}
    notify = on_trial or (lambda done, total: None)
    notify(len(done), len(trials))
    notes: list[str] = []
    if len(done) < len(trials):
        chunks, notes = _chunks(plan, dataset, trials, mode)
        jobs = [
            _Job(plan, dataset.root, place, tuple(chunk), together, folder / TRIALS_FOLDER / _chunk_file(chunk), stage)
            for stage, together, chunk in chunks
            if not {trial.number for trial in chunk} <= done
        ]
        if place is not None:  # once, before several processes need them
            ranks.first_before_others(lambda: _prepare(jobs))
        workers = _workers(plan, dataset, jobs) if workers is None else check_int(workers, "workers", "sweep", low=1)
        failed: list[LegoFusionError] = []
        for job, failure in run_jobs(_train, jobs, workers, where="sweep", ranks=ranks):
            if failure:
                failed.append(LegoFusionError(f"a trial failed: {failure}", where=job.trials[0].values))
                if ranks.size == 1:  # others would wait for the rest
                    break
            done |= {trial.number for trial in job.trials}
            notify(len(done), len(trials))
        if failed:
            raise failed[0]
    return _stored(folder), notes


def load_trial(plan: SweepPlan, dataset: Dataset, folder: str | Path, number: int, *, cache: str | Path = "folder") -> Detector:
    """The trained detector of a trial, ready to score.

    Raises:
        CheckpointError: If the folder does not hold it.
    """
    trial = plan.trials()[number]
    graphs = loaded_graphs(plan, dataset, _place(Path(folder), dataset, cache), trial)
    return _with_weights(untrained(plan, dataset, graphs, trial), _weights(Path(folder)), number)


def training_bags(plan: SweepPlan, dataset: Dataset, folder: str | Path, trial: Trial, *, cache: str | Path = "folder") -> Bags:
    """What a trial was trained on: the training bags after the frozen stage."""
    return loaded_graphs(plan, dataset, _place(Path(folder), dataset, cache), trial).training


def measurable(plan: SweepPlan, dataset: Dataset) -> tuple[str, ...]:
    """The test videos whose frames are known, by which what was chosen can be measured."""
    return tuple(filter(dataset.has_ground_truth, plan.split.test))


def measure_on_test(
    plan: SweepPlan,
    dataset: Dataset,
    folder: str | Path,
    trials: Sequence[int],
    *,
    cache: str | Path = "folder",
    on_trial: Callable[[int, int], None] | None = None,
) -> dict[int, dict[str, float]]:
    """Measure trained trials on the test videos, which nothing before this has looked at.

    Args:
        plan: Of the finished sweep.
        dataset: Where the features lie.
        folder: Of the sweep.
        trials: Their numbers.
        cache: As for ``run_sweep``.
        on_trial: Called with how many of how many trials are measured.

    Returns:
        Metrics by name (``measure.detection.METRICS``) for each trial.

    Raises:
        DataError: If no test video has ground truth in time.
    """
    weights, every = _weights(Path(folder)), plan.trials()
    place = _place(Path(folder), dataset, cache)
    measured: dict[int, dict[str, float]] = {}
    for number in trials:
        graphs = graphs_of_test_videos(plan, dataset, place, every[number])
        detector = _with_weights(untrained(plan, dataset, graphs, every[number]), weights, number)
        measured[number] = metrics_on_test(plan, dataset, graphs, detector)
        if on_trial is not None:
            on_trial(len(measured), len(trials))
    return measured


def graphs_of_test_videos(plan: SweepPlan, dataset: Dataset, cache: Path | None, trial: Trial) -> Graphs:
    """The frozen stage of the test videos whose frames are known.

    Raises:
        DataError: If there is none.
    """
    known = measurable(plan, dataset)
    if not known:
        from ..learn.evaluation import measurable_videos

        measurable_videos(dataset, "test")  # raises, and says why
    return _stage(plan, dataset, cache, trial, known)


def metrics_on_test(plan: SweepPlan, dataset: Dataset, graphs: Graphs, detector: Detector) -> dict[str, float]:
    """Metrics of a detector on the videos beside the training ones, whose frames are known."""
    if graphs.others is None:
        raise CheckpointError("the graphs hold no test video", where=graphs.path, fix="delete the file")
    logits = dict(zip(graphs.others.videos, predict_logits(detector, graphs.others).double(), strict=True))
    return detection_metrics(scored_videos(dataset, logits, smoothing=plan.smoothing)).values


def train_trials(
    plan: SweepPlan, dataset: Dataset, graphs: Graphs, trials: Sequence[Trial], *, together: bool
) -> tuple[list[Detector], list[TrialResult]]:
    """Train a few trials of one frozen stage, side by side or one after the other, and look at the validation videos."""
    detectors = [untrained(plan, dataset, graphs, trial) for trial in trials]
    if graphs.others is None:
        raise CheckpointError("the graphs hold no validation video", where=graphs.path, fix="delete the file")
    held_out = graphs.others.named(plan.split.validation)
    if together:
        fit_together(detectors, graphs.training, [trial.training for trial in trials], validation=held_out)
    else:
        for detector, trial in zip(detectors, trials, strict=True):
            fit(detector, graphs.training, trial.training, validation=held_out)
    made = zip(trials, detectors, strict=True)
    results = [_result(plan, trial, detector, graphs.training, held_out, together=together) for trial, detector in made]
    return detectors, results


def untrained(plan: SweepPlan, dataset: Dataset, graphs: Graphs | None, trial: Trial) -> Detector:
    """The untrained detector of a trial; what it knows of normals is what made the graphs."""
    fusion = plan.fusion(dataset, trial)
    if graphs is not None:
        restore_statistics(fusion, graphs.statistics)
    return Detector(fusion, hidden=trial.settings.hidden, seed=trial.training.seed)


def loaded_graphs(plan: SweepPlan, dataset: Dataset, cache: Path | None, trial: Trial) -> Graphs:
    """The frozen stage of training and validation videos, once for all trials of a process that share it in a row."""
    return _stage(plan, dataset, cache, trial, plan.split.validation)


@dataclass(frozen=True)
class _Stage:
    """A frozen stage: what it depends on, and how it comes about."""

    key: tuple[str, ...]
    make: Callable[[], Graphs] = field(compare=False)


def _stage(plan: SweepPlan, dataset: Dataset, cache: Path | None, trial: Trial, others: Sequence[str]) -> Graphs:
    fusion = plan.fusion(dataset, trial)
    key = (plan.model_dump_json(), str(dataset.root), str(cache), frozen_stage(fusion, trial), *others)
    return _loaded_once(_Stage(key, lambda: _graphs(plan, dataset, fusion, cache, trial, others)))


@functools.lru_cache(maxsize=1)
def _loaded_once(stage: _Stage) -> Graphs:
    return stage.make()


def _graphs(
    plan: SweepPlan, dataset: Dataset, fusion: Fusion, cache: Path | None, trial: Trial, others: Sequence[str]
) -> Graphs:
    nodes = trial.settings.nodes
    if cache is None:
        return build_graphs(dataset, fusion, plan.split.train, others, nodes=nodes)
    return cached_graphs(dataset, fusion, plan.split.train, others, nodes=nodes, cache=cache, dtype=plan.dtype)


def _place(folder: Path, dataset: Dataset, cache: str | Path) -> Path | None:
    return folder / CACHE_FOLDER if str(cache) == "folder" else cache_place(cache, dataset)


def _claimed(folder: Path, plan: SweepPlan) -> None:
    claim_folder(folder, plan, FINISHED, "sweep")
    for leftover in (folder / TRIALS_FOLDER).glob(PARTIAL):  # of a kill in the middle of writing
        leftover.unlink(missing_ok=True)


def _chunks(
    plan: SweepPlan, dataset: Dataset, trials: Sequence[Trial], mode: Mode
) -> tuple[list[tuple[str, bool, list[Trial]]], list[str]]:
    """Trials that are trained in one go, their frozen stage, and whether together; a function of plan, data and mode alone."""
    groups: dict[tuple[Any, ...], list[tuple[tuple[int, ...], Trial]]] = {}
    notes: dict[str, int] = {}
    for trial in trials:
        detector, room = untrained(plan, dataset, None, trial), _room(plan, dataset, trial)
        stage, reason = frozen_stage(detector.fusion, trial), why_alone(detector, trial.training)
        if reason is None and mode == "auto" and room < 2:
            reason = f"graphs of {_entries(plan, dataset, trial):,} entries, too large for several to fit in memory"
        if reason is not None and (detector.reading_head is None or mode == "together"):
            notes[reason] = notes.get(reason, 0) + 1
        alone = mode == "alone" or reason is not None
        key = (stage, False, 1, trial.number) if alone else (stage, True, max(1, room), bucket(detector, trial.training))
        orders: tuple[int, ...] = () if alone else cast(Any, detector.fusion).operator.orders  # like orders share terms
        groups.setdefault(key, []).append((orders, trial))
    chunks: list[tuple[str, bool, list[Trial]]] = []
    for (stage, together, size, _), members in sorted(groups.items(), key=lambda one: one[0][0]):
        ordered = [trial for _, trial in sorted(members, key=lambda one: (one[0], one[1].number))]
        chunks += [(stage, together, ordered[first : first + size]) for first in range(0, len(ordered), size)]
    said = [f"{count} trials are trained one by one: {reason}" for reason, count in notes.items() if mode != "alone"]
    return chunks, said


def _entries(plan: SweepPlan, dataset: Dataset, trial: Trial) -> int:
    """Of a graph inside the video of every training bag."""
    crops = max(dataset.modalities[name].crops for name in plan.modalities)
    return len(plan.split.train) * crops * trial.settings.nodes**2


def _room(plan: SweepPlan, dataset: Dataset, trial: Trial) -> int:
    """Detectors that fit in memory together."""
    return min(MOST_TOGETHER, BYTES_TOGETHER // (_entries(plan, dataset, trial) * BYTES_PER_ENTRY))


def _prepare(jobs: Sequence[_Job]) -> None:
    """Compute the frozen stages that several jobs need."""
    stages = [job.stage for job in jobs]
    for place, job in enumerate(jobs):
        if stages.count(job.stage) > 1 and job.stage not in stages[:place]:
            loaded_graphs(job.plan, Dataset.open(job.root), job.cache, job.trials[0])


def _workers(plan: SweepPlan, dataset: Dataset, jobs: Sequence[_Job]) -> int:
    """Two processes where each has enough to do."""
    seconds = 0.0
    for job in jobs:
        fitted = untrained(plan, dataset, None, job.trials[0]).reading_head is not None
        for trial in job.trials:
            each = SECONDS_PER_STEP[job.together] * (_entries(plan, dataset, trial) if job.together else 1)
            training = trial.training
            seconds += SECONDS_PER_ITERATION * training.iterations if fitted else each * training.steps
    return min(2, os.cpu_count() or 1, len(jobs)) if seconds > WORTH_A_PROCESS else 1


def _train(job: _Job) -> str:
    """Train the trials of a job and write their file; returns what went wrong, in one line, or nothing."""
    try:
        dataset = Dataset.open(job.root)
        graphs = loaded_graphs(job.plan, dataset, job.cache, job.trials[0])
        detectors, results = train_trials(job.plan, dataset, graphs, job.trials, together=job.together)
    except LegoFusionError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:  # torch's own: out of memory
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    weights = {
        str(trial.number): torch.cat([tensor.detach().flatten().float() for tensor in _learned(detector)])
        for trial, detector in zip(job.trials, detectors, strict=True)
    }
    content = save(weights, metadata={"results": json.dumps([vars(result) for result in results])})
    with written_whole(job.path) as file:
        file.write(content)
    return ""


def _result(plan: SweepPlan, trial: Trial, detector: Detector, train: Bags, validation: Bags, *, together: bool) -> TrialResult:
    own = plan.training
    logits = predict_logits(detector, validation)
    scores = logits.topk(min(own.k, logits.shape[1]), dim=1).values.sigmoid().mean(1).nan_to_num()
    return TrialResult(
        trial=trial.number,
        seed=trial.training.seed,
        together=together,
        loss=float(bag_loss(predict_logits(detector, train), train.labels, pooling=own.pooling, k=own.k).mean()),
        validation_loss=float(bag_loss(logits, validation.labels, pooling=own.pooling, k=own.k).mean()),
        validation_auc=float(roc_auc_score(validation.labels.numpy(), scores.numpy())),
        parameters=detector.parameter_count(),
    )


def _learned(detector: Detector) -> list[Tensor]:
    """What training changes: parameters, and the switches of the head."""
    return [*detector.parameters(), *detector.head.buffers()]


@torch.no_grad()
def _with_weights(detector: Detector, weights: dict[str, Tensor], number: int) -> Detector:
    if str(number) not in weights:
        raise CheckpointError(f"trial {number} is not trained yet", fix="give the same command again")
    tensors = _learned(detector)
    for tensor, values in zip(tensors, weights[str(number)].split([one.numel() for one in tensors]), strict=True):
        tensor.copy_(values.view(tensor.shape))
    return detector.eval()


def _chunk_file(chunk: Sequence[Trial]) -> str:
    numbers = ",".join(str(trial.number) for trial in chunk)
    return f"{chunk[0].number:06d}_{hashlib.sha256(numbers.encode()).hexdigest()[:8]}.safetensors"


def _stored(folder: Path) -> list[TrialResult]:
    """The results in a folder, by trial."""
    found: dict[int, TrialResult] = {}
    for path in sorted((folder / TRIALS_FOLDER).glob("*.safetensors")):
        try:
            results = [TrialResult(**values) for values in json.loads(read_tensors(path)[1]["results"])]
        except (KeyError, TypeError, ValueError) as error:
            fix = "delete the file and give the same command again"
            raise CheckpointError("trials cannot be read", where=path, got=str(error), fix=fix) from error
        for result in results:
            found.setdefault(result.trial, result)
    return [found[number] for number in sorted(found)]


def _weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in sorted((folder / TRIALS_FOLDER).glob("*.safetensors")):
        for number, tensor in read_tensors(path)[0].items():
            weights.setdefault(number, tensor)
    return weights
