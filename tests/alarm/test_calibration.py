"""Calibration on unseen footage: stored beside the model, per camera, tied to its weights, and refused where it cannot be."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.alarm.calibration import CALIBRATION, calibrate_run, calibration_videos, read_calibration
from lego_fusion.alarm.events import EventRule, find_events, score_segments
from lego_fusion.data.dataset import Dataset
from lego_fusion.data.tables import write_videos
from lego_fusion.errors import CheckpointError, DataError, ParameterError
from lego_fusion.learn.checkpoint import read_run_config
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset


@pytest.fixture(scope="module")
def trained(write_planted: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and its dataset with 12 normal videos set aside for calibration; copy them before changing them."""
    root = tmp_path_factory.mktemp("calibration")
    dataset = write_planted(root / "dataset", test=(14, 3))
    aside = [record.video for record in dataset.select(split="test", label="normal")][:12]
    write_videos(
        root / "dataset" / "videos.csv",
        [
            replace(r, split="calibration", camera="gate" if aside.index(r.video) < 8 else "yard") if r.video in aside else r
            for r in dataset.videos
        ],
    )
    train_run(Dataset.open(root / "dataset"), root / "run", training=TrainingConfig(steps=5), nodes=8)
    return root / "run", root / "dataset"


@pytest.fixture
def run(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


@pytest.fixture
def dataset(trained: tuple[Path, Path]) -> Dataset:
    return Dataset.open(trained[1])


def test_a_share_of_clips_per_camera(run: Path, dataset: Dataset) -> None:
    made = calibrate_run(run, dataset, "blocks", 0.25)
    assert made == read_calibration(run)
    assert {camera: one.blocks for camera, one in made.cameras.items()} == {"": 12, "gate": 8, "yard": 4}
    for one in made.cameras.values():
        maxima = sorted(max(scores.logits) for scores in score_dataset(run, dataset, one.videos))
        rank = int(np.ceil((len(maxima) + 1) * 0.75 - 1e-9))
        assert one.rule.threshold == np.nextafter(maxima[rank - 1], np.inf)
    assert made.rule_for("gate") == made.cameras["gate"].rule
    assert made.rule_for("another") == made.cameras[""].rule


def test_without_footage_set_aside_neither_test_nor_known_videos_are_taken(run: Path, trained, tmp_path: Path) -> None:
    """Of a split that nobody set aside: every normal video but those of the test split, of training and of validation."""
    root = Path(shutil.copytree(trained[1], tmp_path / "dataset"))
    dataset = Dataset.open(root)
    free = {record.video for record in dataset.select(split="calibration")}
    write_videos(root / "videos.csv", [replace(r, split="spare") if r.video in free else r for r in dataset.videos])
    spare = Dataset.open(root)
    config = read_run_config(run)
    chosen = {one.video for one in calibration_videos(config, spare, "blocks", None)}
    assert chosen == free
    held_out = sorted(chosen)[:3]
    known = config.model_copy(update={"dataset": {**config.dataset, "validation": held_out}})
    assert {one.video for one in calibration_videos(known, spare, "blocks", None)} == free - set(held_out)
    with pytest.raises(DataError, match="were trained on"):
        calibration_videos(known, spare, "blocks", "spare")
    assert {one.split for one in calibration_videos(config, spare, "blocks", "test")} == {"test"}  # only where asked for


def test_footage_above_the_threshold_has_an_alarm_and_no_other(run: Path, dataset: Dataset) -> None:
    rule = calibrate_run(run, dataset, "blocks", 0.25).rule_for()
    for scores in score_dataset(run, dataset, [record.video for record in dataset.select(split="calibration")]):
        assert bool(find_events(score_segments(scores), rule)) == (scores.logits.max() >= rule.threshold)


def test_it_can_be_run_again_without_training_and_keeps_the_rule(run: Path, dataset: Dataset) -> None:
    before = (run / "model.safetensors").read_bytes()
    calibrate_run(run, dataset, "blocks", 0.25)
    rule = EventRule(threshold=5.0, release=4.0, minimum_seconds=1.0, merge_seconds=2.0, snooze_seconds=3.0)
    again = calibrate_run(run, dataset, "blocks", 0.5, rule=rule)
    assert (run / "model.safetensors").read_bytes() == before
    chosen = again.rule_for()
    assert chosen.threshold - chosen.low == pytest.approx(1.0)
    assert (chosen.minimum_seconds, chosen.merge_seconds, chosen.snooze_seconds) == (1.0, 2.0, 3.0)


def test_labelled_videos_and_a_threshold_by_hand(run: Path, dataset: Dataset) -> None:
    f1 = calibrate_run(run, dataset, "f1", split="test")
    assert f1.cameras[""].reached is not None and 0.5 < f1.cameras[""].reached <= 1.0
    cheap, dear = (calibrate_run(run, dataset, "cost", cost, split="test").rule_for().threshold for cost in (0.01, 100.0))
    assert dear <= cheap
    assert calibrate_run(run, None, "fixed", 1.5).rule_for().threshold == 1.5


def test_an_event_in_the_calibration_footage_is_named_and_can_be_left_out(run: Path, trained, tmp_path: Path) -> None:
    root = Path(shutil.copytree(trained[1], tmp_path / "dataset"))
    dataset = Dataset.open(root)
    video = dataset.select(split="calibration")[0].video
    path = dataset.feature_file("motion", video)
    values = np.load(path, allow_pickle=False)
    values[len(values) // 2] += 30.0
    np.save(path, values)
    made = calibrate_run(run, Dataset.open(root), "blocks", 0.25)
    assert [name for name, _ in made.cameras[""].suspects] == [video]
    second = made.cameras[""].suspects[0][1]
    assert abs(second - len(values) // 2 * 0.8) < 1.7
    left = calibrate_run(run, Dataset.open(root), "blocks", 0.3, leave_out=[video])
    assert video not in left.cameras[""].videos and left.cameras[""].suspects == ()


def test_what_cannot_be_calibrated_is_refused(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"expected 19 normal blocks .*got 12"):
        calibrate_run(run, dataset, "blocks", 0.05)
    with pytest.raises(ParameterError, match=r"camera 'gate'.*expected 9 normal blocks .*got 8"):
        calibrate_run(run, dataset, "blocks", 0.1)
    with pytest.raises(ParameterError, match=r"too little normal footage to promise 1 false alarms an hour"):
        calibrate_run(run, dataset, "per-hour", 1.0)
    with pytest.raises(DataError, match="were trained on"):
        calibrate_run(run, dataset, "blocks", 0.2, split="train")
    with pytest.raises(DataError, match="no footage to calibrate on"):
        calibrate_run(run, dataset, "f1", split="nowhere")
    with pytest.raises(DataError, match="no video 'ghost'"):
        calibrate_run(run, dataset, "blocks", 0.2, leave_out=["ghost"])
    with pytest.raises(ParameterError, match="'value' of this criterion is missing"):
        calibrate_run(run, dataset, "blocks")
    with pytest.raises(CheckpointError, match="no trained model"):
        calibrate_run(tmp_path, dataset, "blocks", 0.2)
    assert not (run / CALIBRATION).exists()


def test_a_calibration_of_other_weights_or_a_damaged_one_is_refused(run: Path, dataset: Dataset) -> None:
    assert read_calibration(run) is None
    calibrate_run(run, dataset, "blocks", 0.25)
    stored = json.loads((run / CALIBRATION).read_text())
    for change, match in (
        ({"weights_hash": "0"}, "belongs to other weights"),
        ({"format": 99}, "another version"),
        ({"cameras": {}}, "another version"),
        ({"surprise": 1}, "cannot be read"),
    ):
        (run / CALIBRATION).write_text(json.dumps(stored | change))
        with pytest.raises(CheckpointError, match=match):
            read_calibration(run)
    (run / CALIBRATION).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_calibration(run)
