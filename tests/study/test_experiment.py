"""Cells: each is what its method gives alone, whoever runs it and however often it was stopped."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.engines import run_in_processes
from lego_fusion.errors import CheckpointError, LegoFusionError, ParameterError
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import run_method, scored_videos
from lego_fusion.learn.processes import _called, _one_thread
from lego_fusion.learn.splits import own_split
from lego_fusion.measure.detection import METRICS, micro_auc
from lego_fusion.measure.smoothing import SMOOTHING
from lego_fusion.study.cells import Cell, ComparisonPlan, read_cell, unfinished_cells
from lego_fusion.study.experiment import _comparison_batches, cell_videos, measure, run_cells
from lego_fusion.study.plan import make_plan

QUICK = TrainingConfig(steps=8, check_every=4, learning_rate=1e-2)


def plan_of(dataset: Dataset, **options: Any) -> ComparisonPlan:
    given: dict[str, Any] = {"fusions": ("lego", "concat"), "seeds": 2, "training": QUICK, **options}
    return make_plan([dataset], **given)


def contents(folder: Path, plan: ComparisonPlan) -> dict[Cell, Any]:
    """Everything a cell holds but how long it took."""
    found = {}
    for cell in plan.cells():
        one = read_cell(folder, plan, cell)
        records = [record.model_dump(exclude={"train_seconds", "score_seconds"}) for record in one.records]
        found[cell] = (one.array.tobytes(), one.array.shape, records)
    return found


@pytest.fixture(scope="module")
def plan(planted: Dataset) -> ComparisonPlan:
    return plan_of(planted, test_best=True)


@pytest.fixture(scope="module")
def done(planted: Dataset, plan: ComparisonPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; do not change it."""
    folder = tmp_path_factory.mktemp("compared") / "new"
    assert run_cells(plan, [planted], folder, workers=1)[0] == {}
    return folder


def test_a_cell_is_what_its_method_gives_alone(planted: Dataset, plan: ComparisonPlan, done: Path) -> None:
    split = own_split(planted)
    bags = load_bags(planted, ("motion", "text"), (*split.train, *split.test))
    for cell in plan.cells():
        config = QUICK if cell.seed is None else QUICK.model_copy(update={"seed": cell.seed})
        watch = cell.method in plan.fusions
        with torch.random.fork_rng():
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            run = run_method(planted, bags, split, cell.modalities, cell.method, config, watch_test=watch)
            torch.set_num_threads(threads)
        one = read_cell(done, plan, cell)
        assert one.array.dtype == np.float64
        assert np.array_equal(one.array, torch.stack([run.node_scores[video] for video in split.test]).numpy())
        scored = scored_videos(planted, run.node_scores, smoothing=plan.smoothing)
        assert one.value("micro_auc") == micro_auc(scored)
        assert [video.scores.tolist() for video in cell_videos(planted, plan, one)] == [v.scores.tolist() for v in scored]
        first = one.records[0]
        assert (first.dataset, first.split, first.modalities) == ("planted", "own", ("motion", "text"))
        assert (first.fusion, first.seed, first.parameters) == (cell.method, cell.seed, run.parameters)
        assert {record.smoothing for record in one.records} == {SMOOTHING}
        assert first.protocol == "frame level, real frames, 6 videos (3 abnormal)"
        assert (first.train_seconds is None) == (cell.method not in plan.fusions)
        assert {record.metric for record in one.records} == set(METRICS)
        if watch:
            looks = {
                step: micro_auc(scored_videos(planted, scores, smoothing=plan.smoothing))
                for step, scores in run.watched.items()
            }
            if cell.method == "lego":  # looked at by iteration of its fit, which ends when nothing more is gained
                assert min(looks) == 0 and len(looks) >= 2
            else:
                assert sorted(looks) == [0, 4, 8]
            assert one.value("micro_auc", "untrained") == looks[0]
            assert one.value("micro_auc", "test-best") == max(looks.values()) >= micro_auc(scored)


def test_the_honest_number_is_said_to_be_what_it_is(planted: Dataset, plan: ComparisonPlan, done: Path, tmp_path: Path) -> None:
    honest = {cell.method: read_cell(done, plan, cell).records[0].selection for cell in plan.cells()}
    assert honest == {
        "lego": "last-step",
        "concat": "last-step",
        "nearest-neighbours": "none-learned",
        "flow-energy": "none-learned",
    }
    for options, selection in (({"validation": 0.3}, "validation"), ({"training": TrainingConfig(steps=0)}, "untrained")):
        other = plan_of(planted, fusions=("lego",), seeds=1, references=False, **options)
        run_cells(other, [planted], tmp_path / selection, workers=1)
        assert {one.selection for one in read_cell(tmp_path / selection, other, other.cells()[0]).records} == {selection}


def test_processes_give_what_one_process_gives(planted: Dataset, plan: ComparisonPlan, done: Path, tmp_path: Path) -> None:
    assert run_cells(plan, [planted], tmp_path / "two", workers=2)[0] == {}
    assert contents(tmp_path / "two", plan) == contents(done, plan)


def test_a_stopped_comparison_goes_on(planted: Dataset, plan: ComparisonPlan, done: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "stopped"))
    cells = plan.cells()
    for cell in cells[::2]:
        (folder / "cells" / cell.file).unlink()
    half = folder / "cells" / ".0123456789abcdef.partial"
    half.write_bytes((done / "cells" / cells[0].file).read_bytes()[:100])
    kept = {cell: (folder / "cells" / cell.file).stat().st_mtime_ns for cell in cells[1::2]}
    told: list[tuple[int, int]] = []
    assert run_cells(plan, [planted], folder, workers=1, on_cell=lambda *counts: told.append(counts))[0] == {}
    assert contents(folder, plan) == contents(done, plan)
    assert {cell: (folder / "cells" / cell.file).stat().st_mtime_ns for cell in kept} == kept
    assert not half.exists()
    assert told == [(count, len(cells)) for count in range(len(kept), len(cells) + 1)]
    told.clear()
    run_cells(plan, [planted], folder, workers=2, on_cell=lambda *counts: told.append(counts))
    assert told == [(len(cells), len(cells))]


def test_a_cell_that_fails_is_named_and_tried_again(planted: Dataset, tmp_path: Path) -> None:
    """Only a fusion with graphs can leave a term out."""
    plan = plan_of(planted, seeds=1, conditions=("text:missing=drop-term",))
    for workers in (1, 1):
        failures = run_cells(plan, [planted], tmp_path, workers=workers)[0]
        assert {cell.method for cell in failures} == {"concat", "nearest-neighbours", "flow-energy"}
        assert all("graphs" in line and "\n" not in line for line in failures.values())
    assert [path.name for path in (tmp_path / "cells").iterdir()] == [plan.cells()[0].file]


def test_what_torch_refuses_is_a_failure_too(planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("not enough memory:\n you tried to allocate 9 GB")

    monkeypatch.setattr("lego_fusion.study.experiment.run_method", out_of_memory)
    plan = plan_of(planted, fusions=("lego",), seeds=1, references=False)
    failures = run_cells(plan, [planted], tmp_path, workers=1)[0]
    assert list(failures.values()) == ["RuntimeError: not enough memory: you tried to allocate 9 GB"]


def test_a_fault_of_ours_is_not_hidden(planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: object, **__: object) -> None:
        raise KeyError("typo")

    monkeypatch.setattr("lego_fusion.study.experiment.run_method", faulty)
    threads = torch.get_num_threads()
    with pytest.raises(KeyError):
        run_cells(plan_of(planted), [planted], tmp_path, workers=1)
    assert torch.get_num_threads() == threads


class Deadly(Path().__class__):  # type: ignore[misc]
    """A path that ends the process that unpacks it."""

    def __reduce__(self) -> Any:
        return (os._exit, (1,))


def test_a_process_that_dies_is_one_line(planted: Dataset, plan: ComparisonPlan, tmp_path: Path) -> None:
    jobs = list(_comparison_batches(plan, [planted], Deadly(tmp_path), plan.cells()[:2]))
    with pytest.raises(LegoFusionError, match=r"a worker process died.*fewer workers"):
        list(run_in_processes(_called, measure, jobs, 1, where="compare", start=_one_thread))


def test_another_plan_is_refused_before_anything_is_trained(planted: Dataset, done: Path) -> None:
    with pytest.raises(CheckpointError, match="another comparison"):
        run_cells(plan_of(planted, training=QUICK.model_copy(update={"steps": 9})), [planted], done, workers=1)
    run_cells(plan_of(planted), [planted], done, workers=1)  # without looks: the same numbers


def test_finished_cells_serve_another_choice(planted: Dataset, tmp_path: Path) -> None:
    few, more = plan_of(planted, fusions=("lego",), seeds=1), plan_of(planted, fusions=("concat", "lego"), seeds=2)
    run_cells(few, [planted], tmp_path, workers=1)
    before = {cell: (tmp_path / "cells" / cell.file).read_bytes() for cell in few.cells()}
    assert unfinished_cells(tmp_path, more.cells()) == set(more.cells()) - set(few.cells())
    told: list[tuple[int, int]] = []
    run_cells(more, [planted], tmp_path, workers=1, on_cell=lambda *counts: told.append(counts))
    assert told[0] == (len(few.cells()), len(more.cells()))
    assert {cell: (tmp_path / "cells" / cell.file).read_bytes() for cell in before} == before
    alone = tmp_path / "alone"
    run_cells(more, [planted], alone, workers=1)
    assert contents(tmp_path, more) == contents(alone, more)


def test_no_workers_is_refused(planted: Dataset, plan: ComparisonPlan, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="'workers' parameter of compare"):
        run_cells(plan, [planted], tmp_path, workers=0)


def test_a_damaged_cell_is_named(plan: ComparisonPlan, done: Path, tmp_path: Path) -> None:
    cell = plan.cells()[0]
    path = tmp_path / "cells" / cell.file
    whole = (done / "cells" / cell.file).read_bytes()
    path.parent.mkdir()
    for damaged in (b"", whole[: len(whole) // 2], b"records"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"a cell cannot be read \(.*{cell.method}.*delete the file"):
            read_cell(tmp_path, plan, cell)
    with path.open("wb") as file:
        np.savez(file, records=np.frombuffer(b"{}", np.uint8), scores=np.zeros((1, 1)))
    with pytest.raises(CheckpointError, match="a cell cannot be read"):
        read_cell(tmp_path, plan, cell)
    with pytest.raises(CheckpointError, match="a cell cannot be read"):
        read_cell(tmp_path / "nowhere", plan, cell)
