"""A normal video becomes known without training: what is like it scores lower, what is not stays as it was."""

from pathlib import Path

import numpy as np
import pytest

from lego_fusion.alarm.calibration import calibrate_run, read_calibration
from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import CheckpointError, DataError, ParameterError
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.known_normals import add_known_normal
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import load_run_bags, score_dataset


@pytest.fixture(scope="module")
def run(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known") / "run"
    train_run(planted, folder, training=TrainingConfig(steps=5), nodes=8)
    return folder


def test_a_video_that_is_known_now_scores_no_higher_than_before(run: Path, planted: Dataset, tmp_path: Path) -> None:
    video = planted.select(split="test", label="normal")[0].video
    add_known_normal(run, tmp_path / "new", planted, [video], count=8)
    (before,), (after,) = (score_dataset(folder, planted, [video]) for folder in (run, tmp_path / "new"))
    assert before.logits is not None and after.logits is not None
    assert after.logits.mean() < before.logits.mean()


def test_old_weights_and_old_references_stay(run: Path, planted: Dataset, tmp_path: Path) -> None:
    video = planted.select(split="test", label="normal")[0].video
    written = add_known_normal(run, tmp_path / "new", planted, [video], count=3)
    (old, config), (new, again) = load_detector(run), load_detector(tmp_path / "new")
    for (name, before), (_, after) in zip(old.named_parameters(), new.named_parameters(), strict=True):
        np.testing.assert_array_equal(before.detach(), after.detach(), err_msg=name)
    known = old.fusion.columns
    assert new.fusion.columns == known + 3 and new.fusion.out_features == old.fusion.out_features
    old_text, new_text = (one.fusion.known_normals("text") for one in (old, new))
    np.testing.assert_array_equal(old_text.references, new_text.references[:known])
    np.testing.assert_array_equal(old_text.bandwidth, new_text.bandwidth[:known])
    assert again.references[: len(config.references)] == config.references
    assert (
        [one["video"] for one in again.references[known:]]
        == [video] * 3
        == [one["video"] for one in written.references[known:]]
    )


def test_the_video_of_an_event_scores_nearly_as_before(run: Path, planted: Dataset, tmp_path: Path) -> None:
    normal = planted.select(split="test", label="normal")[0].video
    abnormal = [record.video for record in planted.select(split="test", label="abnormal")]
    add_known_normal(run, tmp_path / "new", planted, [normal], count=8)
    for before, after in zip(*(score_dataset(folder, planted, abnormal) for folder in (run, tmp_path / "new")), strict=True):
        assert before.truth is not None and before.logits is not None and after.logits is not None
        fall = before.logits - after.logits
        assert fall[before.truth].mean() < 0.2 * (before.logits[before.truth].mean() - before.logits[~before.truth].mean())


def test_every_distinct_segment_becomes_known_unless_a_number_is_given(run: Path, planted: Dataset, tmp_path: Path) -> None:
    video = planted.select(split="test", label="normal")[0].video
    known = len(load_detector(run)[1].references)
    segments = {tuple(row) for row in load_run_bags(load_detector(run)[1], planted, [video]).inputs["text"][0].tolist()}
    for count, expected in ((None, len(segments)), (2, 2)):
        written = add_known_normal(run, tmp_path / f"new{count}", planted, [video], count=count)
        assert len(written.references) - known == expected
        frames = [one["start_frame"] for one in written.references[known:]]
        assert frames == sorted(frames) and len(set(frames)) == expected


def test_a_full_run_takes_as_many_a_video_as_it_has_of_its_own(planted: Dataset, tmp_path: Path) -> None:
    options = {"references": 12}
    config = train_run(planted, tmp_path / "run", training=TrainingConfig(iterations=1), nodes=8, options=options)
    videos = {one["video"] for one in config.references}
    assert len(config.references) == 12
    video = planted.select(split="test", label="normal")[0].video
    written = add_known_normal(tmp_path / "run", tmp_path / "new", planted, [video])
    assert len(written.references) - 12 == round(12 / len(videos))


def test_adding_twice_adds_nothing_that_is_known(run: Path, planted: Dataset, tmp_path: Path) -> None:
    video = planted.select(split="test", label="normal")[0].video
    add_known_normal(run, tmp_path / "once", planted, [video])
    with pytest.raises(DataError, match="nothing that the run does not know"):
        add_known_normal(tmp_path / "once", tmp_path / "twice", planted, [video])
    assert not (tmp_path / "twice").exists()


def test_what_becomes_known_is_familiar(run: Path, planted: Dataset, tmp_path: Path) -> None:
    """A segment that is known is as near as can be, in the new run and after it was written and read."""
    video = planted.select(split="test", label="normal")[0].video
    add_known_normal(run, tmp_path / "new", planted, [video])
    before, after = (load_detector(folder)[0].fusion for folder in (run, tmp_path / "new"))
    x = load_run_bags(load_detector(run)[1], planted, [video]).inputs
    for name, far in before.unlikeness(x).items():
        assert bool((after.unlikeness(x)[name] < far).all())


def test_it_has_no_calibration_until_it_is_calibrated(run: Path, planted: Dataset, tmp_path: Path) -> None:
    add_known_normal(run, tmp_path / "new", planted, [planted.select(split="test", label="normal")[0].video])
    assert read_calibration(tmp_path / "new") is None
    assert calibrate_run(tmp_path / "new", None, "fixed", 0.0).rule_for().threshold == 0.0


def test_it_is_not_calibrated_on_what_it_knows(run: Path, planted: Dataset, tmp_path: Path) -> None:
    known, *others = [record.video for record in planted.select(split="test", label="normal")]
    add_known_normal(run, tmp_path / "new", planted, [known])
    with pytest.raises(DataError, match=f"were trained on.*{known}.*leave these out"):
        calibrate_run(tmp_path / "new", planted, "blocks", 0.4, split="test")
    chosen = calibrate_run(tmp_path / "new", planted, "blocks", 0.4, split="test", leave_out=[known])
    assert list(chosen.cameras[""].videos) == others


def test_what_cannot_be_added_is_refused(run: Path, planted: Dataset, tmp_path: Path) -> None:
    normal, abnormal = (planted.select(split="test", label=label)[0].video for label in ("normal", "abnormal"))
    with pytest.raises(DataError, match="only normal videos can become references"):
        add_known_normal(run, tmp_path / "new", planted, [abnormal])
    with pytest.raises(CheckpointError, match="there already"):
        add_known_normal(run, run, planted, [normal])
    train_run(planted, tmp_path / "concat", training=TrainingConfig(steps=1), nodes=8, method="concat")
    with pytest.raises(ParameterError, match="has no references"):
        add_known_normal(tmp_path / "concat", tmp_path / "new", planted, [normal])
    train_run(planted, tmp_path / "paper", training=TrainingConfig(steps=1), nodes=8, method="lego-paper")
    with pytest.raises(ParameterError, match="has no references"):
        add_known_normal(tmp_path / "paper", tmp_path / "new", planted, [normal])
    assert not (tmp_path / "new").exists()
