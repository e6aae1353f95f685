"""What a comparison is made of, and what is refused before anything is trained."""

from dataclasses import replace
from pathlib import Path

import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.data.grouping import group_videos
from lego_fusion.data.tables import write_videos
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import LEARNED
from lego_fusion.learn.splits import own_split
from lego_fusion.study.plan import ALL_FUSIONS, SENSIBLE_FUSIONS, make_plan, parse_modality_sets

BOTH = (("motion", "text"),)


def changed(dataset: Dataset, root: Path, *, of: str = "train", told: bool = True, **changes: str) -> Dataset:
    """A copy of the tables in which the first abnormal video of a split is another one, or nothing is told of its frames."""
    first = next(record for record in dataset.videos if record.split == of and record.label == "abnormal")
    (root / "dataset.yaml").write_bytes((dataset.root / "dataset.yaml").read_bytes())
    lines = (dataset.root / "intervals.csv").read_text().splitlines(keepends=True)
    (root / "intervals.csv").write_text("".join(line for line in lines if told or not line.startswith(f"{first.video},")))
    write_videos(root / "videos.csv", [replace(one, **changes) if one == first else one for one in dataset.videos])
    return Dataset.open(root)


def test_defaults_are_all_modalities_and_no_slow_fusion(planted: Dataset) -> None:
    plan = make_plan([planted], references=False, seeds=1)
    assert plan.modality_sets == BOTH
    assert plan.fusions == SENSIBLE_FUSIONS
    assert {cell.method for cell in plan.cells()} == set(SENSIBLE_FUSIONS)
    assert set(LEARNED) - set(ALL_FUSIONS) == {"mtn"}
    assert plan.conditions == ("clean",)


def test_seeds_count_up_from_that_of_the_configuration(planted: Dataset) -> None:
    plan = make_plan([planted], fusions=("concat", "lego"), references=False, seeds=2, training=TrainingConfig(seed=5))
    assert [(cell.method, cell.seed) for cell in plan.cells()] == [("concat", 5), ("concat", 6), ("lego", None)]


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


def test_domains_are_left_out_in_turn(planted: Dataset, tmp_path: Path) -> None:
    for name in ("dataset.yaml", "intervals.csv"):
        (tmp_path / name).write_bytes((planted.root / name).read_bytes())
    places = ("door", "yard", "roof")
    moved = [replace(one, domain=places[number % 3]) for number, one in enumerate(planted.videos)]
    write_videos(tmp_path / "videos.csv", moved)
    dataset = Dataset.open(tmp_path)
    splits = make_plan([dataset], splits="domains").datasets[0].splits
    assert len(splits) == 3
    for split in splits:
        (tested,) = {dataset.records[video].domain for video in split.test}
        assert split.name == f"left-out:{tested}"
        assert {dataset.records[video].domain for video in split.train} == set(places) - {tested}
    with pytest.raises(DataError, match="only one domain"):
        make_plan([planted], splits="domains")


def test_ground_truth_of_training_videos_is_used_when_they_are_tested(planted: Dataset, tmp_path: Path) -> None:
    """The planted set knows the frames of its training videos too; where it does not, they are left out and counted."""
    plan = make_plan([planted], splits=4).datasets[0]
    assert plan.untold == 0
    assert any(video.startswith("train_abnormal") for split in plan.splits for video in split.test)
    only = tmp_path / "tested"
    only.mkdir()
    for name in ("dataset.yaml", "videos.csv"):
        (only / name).write_bytes((planted.root / name).read_bytes())
    lines = (planted.root / "intervals.csv").read_text().splitlines(keepends=True)
    (only / "intervals.csv").write_text("".join(line for line in lines if not line.startswith("train_")))
    plan = make_plan([Dataset.open(only)], splits=4).datasets[0]
    assert not any(video.startswith("train_abnormal") for split in plan.splits for video in split.test)
    assert 0 < plan.untold <= 4


def test_what_resplits_by_source_got_is_said(planted: Dataset, tmp_path: Path) -> None:
    by_number = group_videos(planted, r"\d+$")  # normal and abnormal, training and test videos of one number
    plan = make_plan([by_number], splits=2).datasets[0]
    (note,) = plan.notes
    assert note.startswith("planted: no re-split divides a source; they train on ")
    assert "normal videos (own split: 6)" in note
    assert make_plan([planted], splits=2).datasets[0].notes == ()
    (warning,) = make_plan([by_number]).datasets[0].notes
    assert "the split 'own' divides 3 of the sources" in warning


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
        ({"splits": 0}, ParameterError, "'count' parameter of resplits"),
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


def test_an_unknown_way_to_split_is_refused(planted: Dataset) -> None:
    with pytest.raises(ParameterError, match="'splits' parameter of compare must be one of 'own', 'resplits', 'domains'"):
        make_plan([planted], splits="thirds")


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
