"""Cells of a comparison measured by several processes, a file each; apart from ``comparison_table``, which only reads.

comparison/
  plan.json            what was asked for last
  cells/<cell>.npz     segment logits or distances of the test videos (V, N), the cell's Result records as JSON lines, and what
                       decided them
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float64

from ..data.dataset import Dataset
from ..errors import CheckpointError, LegoFusionError, ParameterError, check_int
from ..learn.bags import Bags, load_bags
from ..learn.conditions import parse_condition
from ..learn.configuration import TrainingConfig
from ..learn.graph_cache import cache_place
from ..learn.methods import UNLEARNED, ModelShape, Run, run_method, scored_videos
from ..learn.processes import SINGLE_PROCESS, Ranks, run_jobs
from ..learn.splits import Split
from ..measure.detection import detection_metrics, micro_auc
from ..measure.result import Result, Selection
from ..measure.scored import ScoredVideo
from ..writing import PARTIAL, written_whole
from .cells import CELLS_FOLDER, Cell, Plan, claim


@dataclass(frozen=True, eq=False)
class CellResult:
    """A finished cell.

    Args:
        cell: Which one.
        records: One Result per metric that is defined; with ``test_best`` also the untrained start and the best of all looks.
        scores: Segment logits (a reference's distances) of the split's test videos, in its order, (V, N).
    """

    cell: Cell
    records: tuple[Result, ...]
    scores: Float64[np.ndarray, "v n"]

    def value(self, metric: str, selection: Selection | None = None) -> float | None:
        """A metric of this cell, None where it is not defined; by default as honestly selected."""
        chosen = selection or self.records[0].selection
        return next((one.value for one in self.records if (one.metric, one.selection) == (metric, chosen)), None)


@dataclass(frozen=True)
class _Job:
    """What a process needs to measure one cell."""

    cell: Cell
    split: Split
    root: Path
    modalities: tuple[str, ...]
    videos: tuple[str, ...]
    training: TrainingConfig
    nodes: int
    hidden: int
    options: dict[str, Any]
    smoothing: float
    test_best: bool
    path: Path
    identity: dict[str, Any]
    cache: Path | None = None


def run_plan(
    plan: Plan,
    datasets: Sequence[Dataset],
    folder: str | Path,
    *,
    workers: int = 2,
    cache: str | Path = "off",
    on_cell: Callable[[int, int], None] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> dict[Cell, str]:
    """Measure every cell that is not in the folder yet.

    Args:
        plan: Made from the same datasets.
        datasets: Where the features lie.
        folder: Where the cells are kept; made if it is not there.
        workers: Processes, one thread each; with 1 everything happens in this one. Processes start Python anew, so a script
            needs ``if __name__ == "__main__"``. The scores do not depend on the number.
        cache: Graphs are kept: ``"auto"`` in each dataset folder, or in one folder for all. The scores stay the same.
        on_cell: Called with how many of how many cells are done.
        ranks: Processes that all make this call and share the cells (``ranks.process_group``).

    Returns:
        Why, in one line, a cell could not be measured. It is not kept, so the same call tries it again.

    Raises:
        CheckpointError: If the folder holds cells of the plan that were made otherwise, or something else.
        LegoFusionError: If a process dies.
    """
    check_int(workers, "workers", "compare", low=1)
    folder = Path(folder)
    ranks.first_alone(lambda: _claimed(folder, plan))
    cells = plan.cells()
    jobs = [job for job in _jobs(plan, datasets, folder, cells, cache) if not job.path.is_file()]
    notify = on_cell or (lambda done, total: None)
    notify(len(cells) - len(jobs), len(cells))
    failures: dict[Cell, str] = {}
    for number, (job, failure) in enumerate(run_jobs(_measure, jobs, workers, where="compare", ranks=ranks), start=1):
        if failure:
            failures[job.cell] = failure
        notify(len(cells) - len(jobs) + number, len(cells))
    return {cell: failures[cell] for cell in cells if cell in failures}


def _claimed(folder: Path, plan: Plan) -> None:
    claim(folder, plan)
    for leftover in (folder / CELLS_FOLDER).glob(PARTIAL):  # of a kill in the middle of writing
        leftover.unlink(missing_ok=True)


def read_cell(folder: str | Path, cell: Cell) -> CellResult:
    """A finished cell of a folder.

    Raises:
        CheckpointError: If it is not there or damaged.
    """
    path = Path(folder) / CELLS_FOLDER / cell.file
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            lines, scores = stored["records"].tobytes().splitlines(), stored["scores"]
        records = tuple(Result.model_validate_json(line) for line in lines)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        fix = "delete the file and give the same command again"
        raise CheckpointError("a cell cannot be read", where=path, got=error, fix=fix) from error
    return CellResult(cell, records, scores)


def unfinished_cells(folder: str | Path, plan: Plan) -> frozenset[Cell]:
    """The cells of a plan that a folder does not hold."""
    return frozenset(cell for cell in plan.cells() if not (Path(folder) / CELLS_FOLDER / cell.file).is_file())


def cell_videos(dataset: Dataset, plan: Plan, result: CellResult) -> list[ScoredVideo]:
    """The test videos of a cell with the score and the truth of every frame."""
    videos = plan.split(result.cell).test
    scores = dict(zip(videos, torch.from_numpy(result.scores), strict=True))
    return scored_videos(dataset, scores, smoothing=plan.smoothing)


def _jobs(
    plan: Plan, datasets: Sequence[Dataset], folder: Path, cells: Sequence[Cell], cache: str | Path = "off"
) -> Iterator[_Job]:
    if Path(cache).suffix == ".safetensors":
        raise ParameterError("a comparison needs the graphs of several splits", expected="--cache FOLDER or auto", got=cache)
    places = {dataset.name: cache_place(cache, dataset) for dataset in datasets}
    modalities = tuple(dict.fromkeys(name for names in plan.modality_sets for name in names))
    roots = {dataset.name: dataset.root for dataset in datasets}
    videos = {
        dataset.name: tuple(dict.fromkeys(v for s in dataset.splits for v in (*s.train, *s.validation, *s.test)))
        for dataset in plan.datasets
    }
    for cell in cells:
        training = plan.training if cell.seed is None else plan.training.model_copy(update={"seed": cell.seed})
        yield _Job(
            cell=cell,
            split=plan.split(cell),
            root=roots[cell.dataset],
            modalities=modalities,
            videos=videos[cell.dataset],
            training=training,
            nodes=plan.nodes,
            hidden=plan.hidden,
            options=plan.options.get(cell.method, {}),
            smoothing=plan.smoothing,
            test_best=plan.test_best and cell.method not in UNLEARNED,
            path=folder / CELLS_FOLDER / cell.file,
            identity=plan.identity(cell),
            cache=places[cell.dataset],
        )


def _measure(job: _Job) -> str:
    """Measure a cell and write its file; returns what went wrong, in one line, or nothing."""
    try:
        dataset, bags = _loaded(job.root, job.modalities, job.videos, job.nodes)
        cell = job.cell
        run = run_method(
            dataset,
            bags,
            job.split,
            cell.modalities,
            cell.method,
            job.training,
            ModelShape(job.nodes, job.hidden, job.options),
            condition=parse_condition(cell.condition),
            watch_test=job.test_best,
            cache=job.cache,
        )
        records = _records(dataset, job, run)
    except LegoFusionError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:  # torch's own: out of memory, a matrix that cannot be factored
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    lines = "\n".join(one.model_dump_json() for one in records).encode()
    scores = torch.stack([run.node_scores[video] for video in job.split.test]).numpy()
    identity = json.dumps(job.identity).encode()
    with written_whole(job.path) as file:
        np.savez(file, scores=scores, records=np.frombuffer(lines, np.uint8), identity=np.frombuffer(identity, np.uint8))
    return ""


@functools.lru_cache(maxsize=1)
def _loaded(root: Path, modalities: tuple[str, ...], videos: tuple[str, ...], nodes: int) -> tuple[Dataset, Bags]:
    """A dataset and its bags, resampled once for all cells that follow each other."""
    dataset = Dataset.open(root)
    return dataset, load_bags(dataset, modalities, videos, nodes=nodes)


def _records(dataset: Dataset, job: _Job, run: Run) -> list[Result]:
    """Every metric that is defined; micro AUC must be."""
    cell = job.cell
    scored = scored_videos(dataset, run.node_scores, smoothing=job.smoothing)
    abnormal = sum(video.abnormal for video in scored)
    facts: dict[str, Any] = {"dataset": cell.dataset, "split": cell.split, "modalities": cell.modalities, "fusion": cell.method}
    facts |= {"seed": cell.seed, "condition": cell.condition, "smoothing": job.smoothing}
    facts |= {"parameters": run.parameters, "protocol": f"frame level, real frames, {len(scored)} videos ({abnormal} abnormal)"}
    learned = cell.method not in UNLEARNED
    times: dict[str, Any] = {"train_seconds": run.train_seconds if learned else None, "score_seconds": run.score_seconds}
    records = []
    values = detection_metrics(scored).values
    if "micro_auc" not in values:
        micro_auc(scored)  # raises, and says why
    for name, value in values.items():
        records.append(Result(metric=name, value=value, selection=_selection(job), **facts, **times))
    if run.watched:
        looks = {
            step: micro_auc(scored_videos(dataset, scores, smoothing=job.smoothing)) for step, scores in run.watched.items()
        }
        best = max(looks, key=lambda step: looks[step])
        records.append(Result(metric="micro_auc", value=looks[0], selection="untrained", **facts))
        records.append(Result(metric="micro_auc", value=looks[best], selection="test-best", extra={"step": best}, **facts))
    return records


def _selection(job: _Job) -> Selection:
    if job.cell.method in UNLEARNED:
        return "none-learned"
    if job.training.normal_only or job.training.steps == 0:
        return "untrained"
    return job.training.selection
