"""A normal video becomes known without training: what is like it scores lower, what is not stays as it was."""

from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.detect.calibration import calibrate_run, read_calibration
from lego_fusion.detect.checkpoint import load_detector
from lego_fusion.detect.known_normal import add_known_normal
from lego_fusion.detect.runs import score_dataset, train_run
from lego_fusion.detect.train import TrainingConfig
from lego_fusion.errors import CheckpointError, DataError, ParameterError


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
    np.testing.assert_array_equal(old.fusion.relation["text"].references, new.fusion.relation["text"].references[:known])
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


def test_adding_twice_adds_nothing_that_is_known(run: Path, planted: Dataset, tmp_path: Path) -> None:
    video = planted.select(split="test", label="normal")[0].video
    add_known_normal(run, tmp_path / "once", planted, [video], count=1000)  # every segment that differs
    with pytest.raises(DataError, match="nothing that the run does not know"):
        add_known_normal(tmp_path / "once", tmp_path / "twice", planted, [video])
    assert not (tmp_path / "twice").exists()


def test_it_has_no_calibration_until_it_is_calibrated(run: Path, planted: Dataset, tmp_path: Path) -> None:
    add_known_normal(run, tmp_path / "new", planted, [planted.select(split="test", label="normal")[0].video])
    assert read_calibration(tmp_path / "new") is None
    assert calibrate_run(tmp_path / "new", None, "fixed", 0.0).rule_for().threshold == 0.0


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
