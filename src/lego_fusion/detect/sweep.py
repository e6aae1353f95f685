"""Train every configuration of a grid on one set of cached graphs, and choose one by validation videos.

sweep/
  plan.json               what is swept; the same plan goes on here, another one is refused
  graphs/                 the graphs, unless they are kept elsewhere
  trials/<chunk>.safetensors  weights and losses of a few trials, written as soon as they are trained
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import CheckpointError, LegoFusionError, check_choice, check_int
from ..fusion.lego import LegoFusion
from ..measure.detection import detection_metrics
from ..writing import PARTIAL, written_whole
from .bags import Bags
from .batched import bucket, fit_together, why_alone
from .checkpoint import read_tensors
from .detector import Detector
from .graph_cache import CACHE_FOLDER, Graphs, build_graphs, cache_place, cached_graphs, restore_statistics
from .losses import bag_loss
from .plan import claim_folder
from .processes import run_jobs
from .protocol import scored_videos
from .ranks import ALONE, Ranks
from .sweep_plan import SweepPlan, Trial, fusion_options
from .train import fit, predict_logits

Mode = Literal["auto", "together", "alone"]
MODES: tuple[Mode, ...] = ("auto", "together", "alone")
TRIALS_FOLDER, STUDY_FILE = "trials", "search.db"
FINISHED = (f"{TRIALS_FOLDER}/*.safetensors", STUDY_FILE)
MOST_TOGETHER = 32  # detectors in one matrix product: more do not fit the processor's cache
BYTES_TOGETHER = 2**28
BYTES_PER_ENTRY = 48  # fused graph, sorted rows, their places and the gradients of all three
WORTH_A_PROCESS = 60.0  # seconds of work from which starting Python anew pays
SECONDS_PER_STEP = {True: 5e-8, False: 3e-3}  # together, by entry of a graph; alone


@dataclass(frozen=True)
class TrialResult:
    """A trained configuration with one seed.

    Args:
        trial: Its number.
        seed: Of the start and the batches.
        together: Whether it was trained with others.
        loss: Training loss of the last step; NaN without a step.
        validation_loss: Bag loss on the validation videos, pooled as the plan's own training says, for every trial alike.
        validation_auc: AUC of the bag scores of the validation videos.
        parameters: Learned numbers.
        kept_step: Step whose weights were kept.
    """

    trial: int
    seed: int
    together: bool
    loss: float
    validation_loss: float
    validation_auc: float
    parameters: int
    kept_step: int


@dataclass(frozen=True)
class _Job:
    """What a process needs to train a few trials."""

    plan: SweepPlan
    root: Path
    cache: Path | None
    trials: tuple[Trial, ...]
    together: bool
    path: Path


def run_sweep(
    plan: SweepPlan,
    dataset: Dataset,
    folder: str | Path,
    *,
    mode: Mode = "auto",
    workers: int | None = None,
    cache: str | Path = "folder",
    on_trial: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[list[TrialResult], list[str]]:
    """Train every trial that is not in the folder yet.

    Args:
        plan: Made from the same dataset.
        dataset: Where the features lie.
        folder: Where graphs, weights and losses are kept; made if it is not there.
        mode: ``"together"`` trains configurations side by side on shared powers, ``"alone"`` one after the other; ``"auto"``
            trains together what can be, if the graphs are small enough for several configurations to fit in memory.
        workers: Processes, one thread each; None takes one, or two (as there are processors) where much is to be done. The
            table does not depend on the number.
        cache: Where graphs are kept: ``"folder"`` in this folder, ``"auto"`` in the dataset folder, another folder or file,
            or ``"off"``, where every process builds them.
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
    place = folder / CACHE_FOLDER if str(cache) == "folder" else cache_place(cache, dataset)
    trials, done = plan.trials(), {result.trial for result in _stored(folder)}
    tell = on_trial or (lambda done, total: None)
    tell(len(done), len(trials))
    jobs: list[_Job] = []
    notes: list[str] = []
    if len(done) < len(trials):
        graphs = ranks.first_before_others(lambda: loaded_graphs(plan, dataset.root, place))
        chunks, notes = _chunks(plan, dataset, graphs, trials, mode)
        for together, chunk in chunks:
            path = folder / TRIALS_FOLDER / _chunk_file(chunk)
            if not {trial.number for trial in chunk} <= done:
                jobs.append(_Job(plan, dataset.root, place, tuple(chunk), together, path))
        entries = next(iter(graphs.training.inputs.values())).numel()
        workers = _workers(jobs, entries) if workers is None else check_int(workers, "workers", "sweep", low=1)
        failed: list[LegoFusionError] = []
        for job, failure in run_jobs(_train, jobs, workers, where="sweep", ranks=ranks):
            if failure:
                failed.append(LegoFusionError(f"a trial failed: {failure}", where=job.trials[0].values))
                if ranks.size == 1:  # others would wait for the rest
                    break
            done |= {trial.number for trial in job.trials}
            tell(len(done), len(trials))
        if failed:
            raise failed[0]
    return _stored(folder), notes


def _claimed(folder: Path, plan: SweepPlan) -> None:
    claim_folder(folder, plan, FINISHED, "sweep")
    for leftover in (folder / TRIALS_FOLDER).glob(PARTIAL):  # of a kill in the middle of writing
        leftover.unlink(missing_ok=True)


def load_trial(plan: SweepPlan, dataset: Dataset, folder: str | Path, number: int, *, cache: str | Path = "folder") -> Detector:
    """The trained detector of a trial, ready to score.

    Raises:
        CheckpointError: If the folder does not hold it.
    """
    place = Path(folder) / CACHE_FOLDER if str(cache) == "folder" else cache_place(cache, dataset)
    trial = plan.trials()[number]
    detector = untrained(plan, dataset, loaded_graphs(plan, dataset.root, place), trial)
    return _with_weights(detector, _weights(Path(folder)), number)


def chosen_bags(plan: SweepPlan, dataset: Dataset, folder: str | Path, *, cache: str | Path = "folder") -> Bags:
    """The training bags of a sweep, with their graphs."""
    place = Path(folder) / CACHE_FOLDER if str(cache) == "folder" else cache_place(cache, dataset)
    return loaded_graphs(plan, dataset.root, place).training


def measure_on_test(
    plan: SweepPlan,
    dataset: Dataset,
    folder: str | Path,
    *,
    cache: str | Path = "folder",
    on_trial: Callable[[int, int], None] | None = None,
) -> list[dict[str, float]]:
    """Measure every trained trial on the test videos, which nothing before this has looked at.

    Args:
        plan: Of the finished sweep.
        dataset: Where the features lie.
        folder: Of the sweep.
        cache: As for ``run_sweep``.
        on_trial: Called with how many of how many trials are measured.

    Returns:
        Metrics by name (``measure.detection.METRICS``) for each trial, in order.

    Raises:
        DataError: If no test video has ground truth in time.
    """
    folder = Path(folder)
    known = tuple(filter(dataset.has_ground_truth, plan.split.test))
    if not known:
        from .evaluation import measurable_videos

        measurable_videos(dataset, "test")  # raises, and says why
    place = folder / CACHE_FOLDER if str(cache) == "folder" else cache_place(cache, dataset)
    graphs = _graphs(plan, dataset, place, known)
    weights, options = _weights(folder), fusion_options(plan, dataset)
    measured: list[dict[str, float]] = []
    trials = plan.trials()
    if graphs.others is None:
        raise CheckpointError("the graphs hold no test video", where=graphs.path, fix="delete the file")
    for trial in trials:
        detector = _with_weights(_detector(plan, options, graphs, trial), weights, trial.number)
        logits = dict(zip(graphs.others.videos, predict_logits(detector, graphs.others).double(), strict=True))
        scored = scored_videos(dataset, logits, smoothing=plan.smoothing)
        measured.append(detection_metrics(scored).values)
        if on_trial is not None:
            on_trial(len(measured), len(trials))
    return measured


def _chunks(
    plan: SweepPlan, dataset: Dataset, graphs: Graphs, trials: Sequence[Trial], mode: Mode
) -> tuple[list[tuple[bool, list[Trial]]], list[str]]:
    """Trials that are trained in one go, and whether together; a function of plan, data and mode alone."""
    entries = next(iter(graphs.training.inputs.values())).numel()
    room = min(MOST_TOGETHER, BYTES_TOGETHER // (entries * BYTES_PER_ENTRY))
    buckets: dict[Any, list[Trial]] = {}
    notes: dict[str, int] = {}
    sample = untrained(plan, dataset, graphs, trials[0])
    for trial in trials:
        reason = why_alone(sample, trial.training)
        if reason is None and mode == "auto" and room < 2:
            reason = f"graphs of {entries:,} entries, too large for several to fit in memory"
        if mode == "alone" or reason is not None:
            notes[reason or "mode 'alone'"] = notes.get(reason or "mode 'alone'", 0) + 1
            buckets[trial.number] = [trial]
        else:
            buckets.setdefault(bucket(trial.training), []).append(trial)
    chunks: list[tuple[bool, list[Trial]]] = []
    for key, members in buckets.items():
        together = not isinstance(key, int)
        ordered = sorted(members, key=lambda trial: (tuple(trial.orders.values()), trial.number))  # like orders share terms
        size = max(1, room)
        chunks += [(together, ordered[first : first + size]) for first in range(0, len(ordered), size)]
    said = [f"{count} trials are trained one by one: {reason}" for reason, count in notes.items() if mode != "alone"]
    return chunks, said


def _workers(jobs: Sequence[_Job], entries: int) -> int:
    """Two processes where each has enough to do."""
    seconds = 0.0
    for job in jobs:
        each = SECONDS_PER_STEP[True] * entries if job.together else SECONDS_PER_STEP[False]
        seconds += each * sum(trial.training.steps for trial in job.trials)
    return min(2, os.cpu_count() or 1, len(jobs)) if seconds > WORTH_A_PROCESS else 1


def train_trials(
    plan: SweepPlan, dataset: Dataset, graphs: Graphs, trials: Sequence[Trial], *, together: bool
) -> tuple[list[Detector], list[TrialResult]]:
    """Train a few trials, side by side or one after the other, and look at the validation videos."""
    options = fusion_options(plan, dataset)
    detectors = [_detector(plan, options, graphs, trial) for trial in trials]
    if graphs.others is None:
        raise CheckpointError("the graphs hold no validation video", where=graphs.path, fix="delete the file")
    held_out = graphs.others.named(plan.split.validation)
    if together:
        trained = fit_together(detectors, graphs.training, [trial.training for trial in trials], validation=held_out)
        ends = [(one.loss, one.best_step) for one in trained]
    else:
        ends = [_alone(*pair, graphs.training, held_out) for pair in zip(detectors, trials, strict=True)]
    made = zip(trials, detectors, ends, strict=True)
    return detectors, [_result(plan, trial, detector, end, held_out, together=together) for trial, detector, end in made]


def _train(job: _Job) -> str:
    """Train the trials of a job and write their file; returns what went wrong, in one line, or nothing."""
    try:
        dataset = Dataset.open(job.root)
        graphs = loaded_graphs(job.plan, job.root, job.cache)
        detectors, results = train_trials(job.plan, dataset, graphs, job.trials, together=job.together)
    except LegoFusionError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:  # torch's own: out of memory
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    weights = {
        str(trial.number): torch.cat([parameter.detach().flatten() for parameter in detector.parameters()])
        for trial, detector in zip(job.trials, detectors, strict=True)
    }
    content = save(weights, metadata={"results": json.dumps([vars(result) for result in results])})
    with written_whole(job.path) as file:
        file.write(content)
    return ""


def _alone(detector: Detector, trial: Trial, train: Bags, validation: Bags) -> tuple[float, int]:
    state = fit(detector, train, trial.training, validation=validation)
    chosen = trial.training.selection == "validation" and state.best
    return state.history[-1]["loss"] if state.history else math.nan, state.best_step if chosen else state.step


def _result(
    plan: SweepPlan, trial: Trial, detector: Detector, end: tuple[float, int], validation: Bags, *, together: bool
) -> TrialResult:
    loss, kept = end
    logits, own = predict_logits(detector, validation), plan.training
    losses = bag_loss(logits, validation.labels, pooling=own.pooling, k=own.k)
    scores = logits.topk(min(own.k, logits.shape[1]), dim=1).values.sigmoid().mean(1).nan_to_num()
    return TrialResult(
        trial=trial.number,
        seed=trial.training.seed,
        together=together,
        loss=loss,
        validation_loss=float(losses.mean()),
        validation_auc=float(roc_auc_score(validation.labels.numpy(), scores.numpy())),
        parameters=detector.parameter_count(),
        kept_step=kept,
    )


def untrained(plan: SweepPlan, dataset: Dataset, graphs: Graphs, trial: Trial) -> Detector:
    """The detector of a trial before its start is calibrated."""
    return _detector(plan, fusion_options(plan, dataset), graphs, trial)


def _detector(plan: SweepPlan, options: dict[str, Any], graphs: Graphs, trial: Trial) -> Detector:
    """The untrained detector of a trial; its relations are those of the graphs."""
    references = next((len(x) for name, x in graphs.statistics.items() if name.endswith(".references")), 0)
    own = {"order": trial.orders, "seed": trial.training.seed, "references": references if options["references"] else 0}
    fusion = LegoFusion(**{**options, **own})
    restore_statistics(fusion, graphs.statistics)
    return Detector(fusion, hidden=plan.hidden, seed=trial.training.seed)


def _with_weights(detector: Detector, weights: dict[str, Tensor], number: int) -> Detector:
    if str(number) not in weights:
        raise CheckpointError(f"trial {number} is not trained yet", fix="give the same command again")
    torch.nn.utils.vector_to_parameters(weights[str(number)], detector.parameters())
    return detector.eval()


def _graphs(plan: SweepPlan, dataset: Dataset, cache: Path | None, others: Sequence[str]) -> Graphs:
    fusion = LegoFusion(**fusion_options(plan, dataset))
    if cache is None:
        return build_graphs(dataset, fusion, plan.split.train, others)
    return cached_graphs(dataset, fusion, plan.split.train, others, cache=cache, dtype=plan.dtype)


@functools.lru_cache(maxsize=1)
def _loaded_once(plan: str, root: Path, cache: Path | None) -> Graphs:
    made = SweepPlan.model_validate_json(plan)
    return _graphs(made, Dataset.open(root), cache, made.split.validation)


def loaded_graphs(plan: SweepPlan, root: Path, cache: Path | None) -> Graphs:
    """The graphs of training and validation videos, once for all jobs of a process."""
    return _loaded_once(plan.model_dump_json(), root, cache)


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
