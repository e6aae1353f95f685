"""Which cells a comparison has, and which folder is its own."""

from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import CheckpointError
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import LEARNED, UNLEARNED
from lego_fusion.study.cells import Cell, ComparisonPlan, claim, write_cell
from lego_fusion.study.plan import make_plan

BOTH = (("motion", "text"),)


# --- cells -----------------------------------------------------------------------------------------------------------


def test_every_combination_is_a_cell_once(planted: Dataset) -> None:
    sets = [("motion", "text"), ("text",)]
    plan = make_plan([planted], modality_sets=sets, fusions=("lego", "concat"), seeds=2, splits=3)
    learned = {(cell.split, cell.modalities, cell.method, cell.seed) for cell in plan.cells() if cell.method in LEARNED}
    splits = [split.name for split in plan.datasets[0].splits]
    assert len(set(splits)) == 3
    seeds = (("lego", None), ("concat", 0), ("concat", 1))  # lego draws nothing
    assert learned == {(s, m, f, n) for s in splits for m in sets for f, n in seeds}
    unlearned = [(cell.split, cell.modalities, cell.method, cell.seed) for cell in plan.cells() if cell.method in UNLEARNED]
    nearest = [(s, m, "nearest-neighbours", None) for s in splits for m in sets]
    flow = [(s, ("motion", "text"), "flow-energy", None) for s in splits]  # text does not move
    assert sorted(unlearned) == sorted(nearest + flow)
    assert len({cell.file for cell in plan.cells()}) == len(plan.cells()) == len(set(plan.cells()))


def test_a_condition_meets_the_sets_that_have_its_modality(planted: Dataset) -> None:
    sets = [("motion",), ("motion", "text")]
    plan = make_plan([planted], modality_sets=sets, fusions=("lego",), seeds=2, conditions=("clean", "text:noise=1.0"))
    assert {cell.condition for cell in plan.cells()} == {"clean", "text:noise=1"}
    noisy = [cell for cell in plan.cells() if cell.condition != "clean"]
    assert {cell.modalities for cell in noisy} == {("motion", "text")}
    assert [cell.seed for cell in noisy if cell.method == "nearest-neighbours"] == [0, 1]  # the noise is drawn anew


def test_files_are_readable_safe_and_different() -> None:
    cell = Cell("my set/1", "own", ("motion", "text"), "lego", 3, "text:noise=1")
    assert cell.file.startswith("my-set-1_own_motion+text_lego_seed-3_text-noise=1_")
    assert str(cell) == "lego on motion + text (my set/1, split own, seed 3, text:noise=1)"
    other = Cell("my set-1", "own", ("motion", "text"), "lego", 3, "text:noise=1")
    assert other.file != cell.file
    long = Cell("d" * 400, "own", ("motion",), "lego", 0)
    assert len(long.file) < 200


# --- whose folder it is ----------------------------------------------------------------------------------------------


def read_plan(folder: Path) -> ComparisonPlan:
    return ComparisonPlan.model_validate_json((folder / "plan.json").read_text())


def some_plan(planted: Dataset, **options: object) -> ComparisonPlan:
    return make_plan([planted], **{"seeds": 3, **options})  # type: ignore[arg-type]


def test_a_plan_survives_its_file_and_goes_on(planted: Dataset, tmp_path: Path) -> None:
    plan = some_plan(planted, splits=2, validation=0.2, conditions=("text:noise=1",))
    claim(tmp_path / "new", plan)
    assert read_plan(tmp_path / "new") == plan
    before = (tmp_path / "new" / "plan.json").stat().st_mtime_ns
    claim(tmp_path / "new", some_plan(planted, splits=2, validation=0.2, conditions=("text:noise=1.0",)))
    assert (tmp_path / "new" / "plan.json").stat().st_mtime_ns == before


def finished(folder: Path, plan: ComparisonPlan) -> None:
    """Every cell of a plan as a file that holds what decided it and nothing else."""
    claim(folder, plan)
    for cell in plan.cells():
        write_cell(folder, plan, cell, [], np.zeros(1))


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": 5},
        {"seeds": 1, "fusions": ("lego",)},
        {"fusions": ("lego", "gated")},
        {"modality_sets": [("text",), ("motion", "text")]},
        {"splits": 2},
        {"conditions": ("clean", "text:noise=1")},
        {"references": False},
        {"training": TrainingConfig(seed=1)},  # the seeds 1 to 3, of which 1 and 2 are there
    ],
)
def test_the_same_cells_serve_fewer_and_more(planted: Dataset, tmp_path: Path, options: dict) -> None:
    plan, other = some_plan(planted), some_plan(planted, **options)
    finished(tmp_path, plan)
    claim(tmp_path, other)
    assert read_plan(tmp_path) == other
    claim(tmp_path, plan)


def test_more_resplits_keep_the_first_ones(planted: Dataset, tmp_path: Path) -> None:
    finished(tmp_path, some_plan(planted, splits=3))
    claim(tmp_path, some_plan(planted, splits=5))


def test_looks_at_the_test_videos_change_no_number(planted: Dataset, tmp_path: Path) -> None:
    finished(tmp_path, some_plan(planted, test_best=True))
    claim(tmp_path, some_plan(planted))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"training": TrainingConfig(steps=20)}, "such as lego on .*: training.steps 300 there, 20 asked for. What"),
        ({"training": TrainingConfig(steps=20), "fusions": ("lego",)}, "training.steps 300 there, 20 asked for"),
        ({"test_best": True}, "test_best false there, true asked for"),
        ({"nodes": 16}, "nodes 32 there, 16 asked for"),
        ({"validation": 0.3}, 'split.train "10 videos, .*" there, "7 videos, .*" asked for'),
    ],
)
def test_a_cell_that_would_be_made_otherwise_is_refused_by_name(
    planted: Dataset, tmp_path: Path, options: dict, match: str
) -> None:
    plan = some_plan(planted)
    claim(tmp_path, plan)
    claim(tmp_path, some_plan(planted, **options))  # nothing is there yet
    finished(tmp_path, plan)
    with pytest.raises(CheckpointError, match=match):
        claim(tmp_path, some_plan(planted, **options))
    assert read_plan(tmp_path) == plan


def test_settings_of_training_are_nothing_to_a_method_that_learns_nothing(planted: Dataset) -> None:
    plan, other = some_plan(planted), some_plan(planted, training=TrainingConfig(steps=20))
    for cell in plan.cells():
        assert (plan.identity(cell) == other.identity(cell)) == (cell.method in UNLEARNED)


def test_another_version_or_another_dataset_makes_other_cells(planted: Dataset, tmp_path: Path) -> None:
    plan = some_plan(planted)
    finished(tmp_path, plan)
    datasets = (plan.datasets[0].model_copy(update={"hash": "0" * 64}),)
    manifests = (plan.datasets[0].model_copy(update={"manifests": {"motion": "0" * 64, "text": "1" * 64}}),)
    for change, match in (
        ({"lego_fusion": "0.0.1"}, 'lego_fusion ".*" there, "0.0.1" asked for'),
        ({"datasets": datasets}, r"dataset\.hash"),
        ({"datasets": manifests}, r"dataset\.manifests\.motion"),
    ):
        with pytest.raises(CheckpointError, match=match):
            claim(tmp_path, plan.model_copy(update=change))


def test_cells_of_an_earlier_version_are_refused(planted: Dataset, tmp_path: Path) -> None:
    plan = some_plan(planted)
    finished(tmp_path, plan)
    path = tmp_path / "cells" / plan.cells()[0].file
    np.savez(path, scores=np.zeros(1))
    with pytest.raises(CheckpointError, match=r"expected a cell of this version.*delete the file .* or use another folder"):
        claim(tmp_path, plan)
    np.savez(path, scores=np.zeros(1), records=np.zeros(0, np.uint8), identity=np.frombuffer(b"[1]", np.uint8))
    with pytest.raises(CheckpointError, match="a cell cannot be read"):
        claim(tmp_path, plan)


def test_a_folder_of_something_else_is_refused(planted: Dataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(CheckpointError, match="not empty and holds no comparison"):
        claim(tmp_path, some_plan(planted))
    for text in ("{", "[]"):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(CheckpointError, match="the plan"):
            claim(tmp_path, some_plan(planted))
