"""What a comparison consists of, which folder is its own, and what is refused before anything is trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lego_fusion.data.dataset import Dataset, write_videos
from lego_fusion.detect.plan import (
    ALL_FUSIONS,
    SENSIBLE_FUSIONS,
    Cell,
    Plan,
    claim,
    make_plan,
    parse_modality_sets,
    read_plan,
)
from lego_fusion.detect.protocol import LEARNED, UNLEARNED, own_split
from lego_fusion.detect.train import TrainingConfig
from lego_fusion.errors import CheckpointError, DataError, ParameterError

BOTH = (("motion", "text"),)


def changed(dataset: Dataset, root: Path, *, of: str = "train", told: bool = True, **changes: str) -> Dataset:
    """A copy of the tables in which the first abnormal video of a split is another one, or nothing is told of its frames."""
    first = next(record for record in dataset.videos if record.split == of and record.label == "abnormal")
    (root / "dataset.yaml").write_bytes((dataset.root / "dataset.yaml").read_bytes())
    lines = (dataset.root / "intervals.csv").read_text().splitlines(keepends=True)
    (root / "intervals.csv").write_text("".join(line for line in lines if told or not line.startswith(f"{first.video},")))
    write_videos(root / "videos.csv", [replace(one, **changes) if one == first else one for one in dataset.videos])
    return Dataset.open(root)


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


def test_defaults_are_all_modalities_and_no_slow_fusion(planted: Dataset) -> None:
    plan = make_plan([planted], references=False, seeds=1)
    assert plan.modality_sets == BOTH
    assert plan.fusions == SENSIBLE_FUSIONS
    assert {cell.method for cell in plan.cells()} == set(SENSIBLE_FUSIONS)
    assert set(LEARNED) - set(ALL_FUSIONS) == {"mtn"}
    assert plan.conditions == ("clean",)


def test_seeds_count_up_from_that_of_the_configuration(planted: Dataset) -> None:
    plan = make_plan([planted], fusions=("lego",), references=False, seeds=2, training=TrainingConfig(seed=5))
    assert [cell.seed for cell in plan.cells()] == [5, 6]


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


def test_validation_is_held_out_of_training_alike_for_every_seed(planted: Dataset) -> None:
    plan, plain = make_plan([planted], validation=0.3), make_plan([planted])
    (split,), (whole,) = plan.datasets[0].splits, plain.datasets[0].splits
    assert plan.training.selection == "validation"
    assert plain.training.selection == "last-step"
    assert sorted(split.train + split.validation) == sorted(whole.train)
    assert len(split.validation) == 3  # a third of six and of four, rounded
    assert split.test == whole.test


def test_test_videos_without_ground_truth_are_left_out_and_counted(planted: Dataset, tmp_path: Path) -> None:
    plan = make_plan([changed(planted, tmp_path, of="test", told=False)]).datasets[0]
    assert plan.untold == 1
    assert sorted(plan.splits[0].test) == sorted(own for own in own_split(planted).test if own != "test_abnormal_0")
    assert plan.hash != make_plan([planted]).datasets[0].hash


def test_modality_sets_as_they_are_written(planted: Dataset) -> None:
    assert parse_modality_sets("all", planted) == [("motion", "text")]
    assert parse_modality_sets("each, text+motion,all, motion", planted) == [
        ("motion",),
        ("text",),
        ("text", "motion"),
        ("motion", "text"),
    ]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"fusions": ("lego", "legs")}, ParameterError, "'fusions' parameter of compare must be one of 'lego'.*Got 'legs'"),
        ({"fusions": ("nearest-neighbours",)}, ParameterError, "must be one of 'lego'"),
        ({"fusions": ()}, ParameterError, "the fusions of a comparison differ from each other: got none"),
        ({"fusions": ("lego", "lego")}, ParameterError, "got 'lego' twice"),
        ({"modality_sets": [("text",), ("text",)]}, ParameterError, "the modality sets .* twice"),
        ({"modality_sets": [("motion", "audio")]}, DataError, r"modality 'audio' is missing \(dataset 'planted'\)"),
        ({"seeds": 0}, ParameterError, "'seeds' parameter of compare"),
        ({"splits": "resplits", "count": 0}, ParameterError, "'count' parameter of resplits"),
        ({"validation": 1.0}, ParameterError, "'validation' parameter of compare"),
        ({"training": TrainingConfig(selection="validation")}, DataError, "needs validation videos.*--validation"),
        ({"conditions": ("fog",)}, ParameterError, "this is no condition"),
        ({"conditions": ("clean", "clean")}, ParameterError, "the conditions .* 'clean' twice"),
        ({"modality_sets": [("text",)], "conditions": ("motion:noise=1",)}, ParameterError, "meets no modality set"),
    ],
)
def test_what_cannot_be_planned(planted: Dataset, options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make_plan([planted], **options)


def test_an_unknown_way_to_split_is_refused(planted: Dataset, unchecked_types: None) -> None:
    with pytest.raises(ParameterError, match="'splits' parameter of compare must be one of 'own', 'resplits'"):
        make_plan([planted], splits="thirds")  # type: ignore[arg-type]


def test_datasets_have_names_of_their_own(planted: Dataset) -> None:
    with pytest.raises(ParameterError, match="the datasets of a comparison differ from each other: got 'planted' twice"):
        make_plan([planted, planted])
    with pytest.raises(ParameterError, match="got none"):
        make_plan([])


def test_training_videos_have_labels(planted: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a training video has no label"):
        make_plan([changed(planted, tmp_path, label="")])


def test_something_must_be_testable(planted: Dataset, tmp_path: Path) -> None:
    for name in ("dataset.yaml", "intervals.csv"):
        (tmp_path / name).write_bytes((planted.root / name).read_bytes())
    write_videos(tmp_path / "videos.csv", [replace(one, split=one.split.replace("test", "")) for one in planted.videos])
    with pytest.raises(DataError, match="no test video has ground truth in time"):
        make_plan([Dataset.open(tmp_path)])


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
