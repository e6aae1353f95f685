"""Snapshots of a training: which steps, what is in them, and that a killed run keeps the same ones."""

import shutil
from pathlib import Path

import pytest
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import CheckpointError
from lego_fusion.learn.checkpoint import list_snapshots, load_detector, load_snapshot
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.runs import train_run

CONFIG = TrainingConfig(steps=10, learning_rate=1e-2, checkpoint_every=3, snapshot_every=4)


def train(dataset: Dataset, folder: Path, config: TrainingConfig = CONFIG, **options):
    return train_run(dataset, folder, **{"method": "lego-paper", "training": config, "nodes": 8, **options})


def bytes_of(run: Path) -> dict[int, bytes]:
    return {step: path.read_bytes() for step, path in list_snapshots(run).items()}


@pytest.fixture(scope="module")
def finished(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(planted, folder)
    return folder


def test_the_start_every_few_steps_and_the_end_are_kept(finished, planted, tmp_path):
    assert list(list_snapshots(finished)) == [0, 4, 8, 10]
    assert list_snapshots(finished)[4] == finished / "snapshots" / "step-00004.safetensors"
    final, _ = load_detector(finished)
    for step, steps in ((0, 0), (4, 4), (10, 10)):  # a training of as many steps ends there
        shorter = tmp_path / str(step)
        train(planted, shorter, CONFIG.model_copy(update={"steps": steps, "snapshot_every": None}))
        assert list_snapshots(shorter) == {}
        expected, found = load_detector(shorter)[0].state_dict(), load_snapshot(finished, step)[0].state_dict()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert all(
        torch.equal(tensor, final.state_dict()[name]) for name, tensor in load_snapshot(finished, 10)[0].state_dict().items()
    )


def test_snapshots_do_not_change_the_training(finished, planted, tmp_path):
    train(planted, tmp_path / "run", CONFIG.model_copy(update={"snapshot_every": None}))
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.mark.parametrize("killed_at", [1, 5, 9])
def test_a_killed_run_keeps_the_same_snapshots(finished, planted, tmp_path, killed_at):
    def kill(step: int, _: float) -> None:
        if step == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(planted, tmp_path / "run", on_step=kill)
    train(planted, tmp_path / "run")
    assert bytes_of(tmp_path / "run") == bytes_of(finished)


def test_another_request_leaves_no_snapshot_of_the_first(planted, tmp_path):
    def kill(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(planted, tmp_path / "run", CONFIG.model_copy(update={"snapshot_every": 1}), on_step=kill)
    assert list(list_snapshots(tmp_path / "run")) == [0, 1, 2]
    train(planted, tmp_path / "run")
    assert list(list_snapshots(tmp_path / "run")) == [0, 4, 8, 10]


def test_bad_input_is_named(finished, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no snapshot of step 5.*got 0, 4, 8, 10.*choose one of these steps"):
        load_snapshot(finished, 5)
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.copy(run / "model.safetensors", run / "snapshots" / "step-00004.safetensors")
    with pytest.raises(CheckpointError, match="the snapshot is of another model"):
        load_snapshot(run, 4)
    shutil.rmtree(run / "snapshots")
    with pytest.raises(CheckpointError, match=r"there is no snapshot of step 4.*got none.*train with --snapshots STEPS"):
        load_snapshot(run, 4)


def test_the_default_keeps_its_start_and_its_end_and_what_lies_between(planted, tmp_path):
    """Of a fit of ten iterations between two looks; the last one is the weights that were kept."""
    asked = CONFIG.model_copy(
        update={"iterations": 60, "prior_departure": 100.0, "prior_invariance": 0.0, "prior_orders": 10.0}
    )
    train(planted, tmp_path / "run", asked, method="lego")
    train(planted, tmp_path / "start", CONFIG.model_copy(update={"steps": 0, "snapshot_every": None}), method="lego")
    steps = list(list_snapshots(tmp_path / "run"))
    assert steps[0] == 0 and len(steps) > 2 and all(step % 10 == 0 for step in steps)
    for step, run in ((0, "start"), (steps[-1], "run")):
        expected, found = load_detector(tmp_path / run)[0].state_dict(), load_snapshot(tmp_path / "run", step)[0].state_dict()
        assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    train(planted, tmp_path / "plain", asked.model_copy(update={"snapshot_every": None}), method="lego")
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("run", "plain")]
    assert weights[0] == weights[1]
