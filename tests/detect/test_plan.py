"""Which cells a comparison has, and which folder is its own."""

import json
from pathlib import Path

import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.detect.plan import Cell, Plan, claim, read_plan
from lego_fusion.detect.planning import make_plan
from lego_fusion.detect.protocol import LEARNED, UNLEARNED
from lego_fusion.detect.train import TrainingConfig
from lego_fusion.errors import CheckpointError

BOTH = (("motion", "text"),)


# --- cells -----------------------------------------------------------------------------------------------------------


def test_every_combination_is_a_cell_once(planted: Dataset) -> None:
    sets = [("motion", "text"), ("text",)]
    plan = make_plan([planted], modality_sets=sets, fusions=("lego", "concat"), seeds=2, splits="resplits", count=3)
    learned = {(cell.split, cell.modalities, cell.method, cell.seed) for cell in plan.cells() if cell.method in LEARNED}
    splits = [split.name for split in plan.datasets[0].splits]
    assert len(set(splits)) == 3
    expected = {(s, m, f, n) for s in splits for m in sets for f in ("lego", "concat") for n in (0, 1)}
    assert learned == expected
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


def some_plan(planted: Dataset, **options: object) -> Plan:
    return make_plan([planted], **{"seeds": 3, **options})  # type: ignore[arg-type]


def test_a_plan_survives_its_file_and_goes_on(planted: Dataset, tmp_path: Path) -> None:
    plan = some_plan(planted, splits="resplits", count=2, validation=0.2, conditions=("text:noise=1",))
    claim(tmp_path / "new", plan)
    assert read_plan(tmp_path / "new") == plan
    before = (tmp_path / "new" / "plan.json").stat().st_mtime_ns
    claim(tmp_path / "new", some_plan(planted, splits="resplits", count=2, validation=0.2, conditions=("text:noise=1.0",)))
    assert (tmp_path / "new" / "plan.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seeds": 5}, "got seeds 3 there, 5 asked for. What"),
        ({"training": TrainingConfig(steps=20)}, "got training.steps 300 there, 20 asked for"),
        ({"test_best": True}, "got test_best false there, true asked for"),
        ({"fusions": ("lego",)}, r"got another fusions|got fusions \[.*\"mlp\".* there, \[\"lego\"\] asked for"),
        (
            {"splits": "resplits", "count": 1},
            r"split_kind \"own\" there, \"resplits\" asked for; datasets\[0\].splits",
        ),
    ],
)
def test_another_plan_is_refused_by_name_once_a_cell_is_there(
    planted: Dataset, tmp_path: Path, options: dict, match: str
) -> None:
    plan = some_plan(planted)
    claim(tmp_path, plan)
    claim(tmp_path, some_plan(planted, **options))  # nothing is lost with it
    claim(tmp_path, plan)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / plan.cells()[0].file).touch()
    with pytest.raises(CheckpointError, match=match):
        claim(tmp_path, some_plan(planted, **options))
    assert read_plan(tmp_path) == plan


def test_another_version_or_another_dataset_is_another_plan(planted: Dataset, tmp_path: Path) -> None:
    plan = some_plan(planted)
    claim(tmp_path, plan)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "one.npz").touch()
    stored = json.loads((tmp_path / "plan.json").read_text())
    for change, match in (
        ({"lego_fusion": "0.0.1"}, 'lego_fusion "0.0.1" there'),
        ({"datasets": [{**stored["datasets"][0], "hash": "0" * 64}]}, r"datasets\[0\].hash|another datasets\[0\].hash"),
    ):
        (tmp_path / "plan.json").write_text(json.dumps({**stored, **change}))
        with pytest.raises(CheckpointError, match=match):
            claim(tmp_path, plan)


def test_a_folder_of_something_else_is_refused(planted: Dataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(CheckpointError, match="not empty and holds no comparison"):
        claim(tmp_path, some_plan(planted))
    for text in ("{", "[]"):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(CheckpointError, match="the plan"):
            claim(tmp_path, some_plan(planted))
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not the plan of a comparison"):
        read_plan(tmp_path)
