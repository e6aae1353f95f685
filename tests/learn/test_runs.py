"""Run folders: trained once, taken up where they were killed, and scoring what they were made for."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.segments import segment_bounds
from lego_fusion.errors import CheckpointError, DataError, ManifestError, ParameterError
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.evaluation import evaluate_runs
from lego_fusion.learn.methods import ModelShape, frame_scores, run_method
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset, score_video
from lego_fusion.learn.splits import own_split
from lego_fusion.measure.detection import micro_auc
from lego_fusion.measure.scored import ScoredVideo
from lego_fusion.measure.smoothing import SMOOTHING

N = 8
QUICK = TrainingConfig(steps=10, learning_rate=1e-2, checkpoint_every=3, batch_size=6)


def train(dataset: Dataset, folder: Path, **options):
    return train_run(dataset, folder, **{"training": QUICK, "nodes": N, **options})


@pytest.fixture(scope="module")
def finished(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(planted, folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_holds_the_model_and_how_it_came_about(finished, planted):
    names = sorted(path.name for path in finished.iterdir())
    assert names == ["config.json", "history.csv", "model.safetensors", "request.json"]
    with (finished / "history.csv").open() as file:
        steps = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert [step for step, _ in steps] == [10 * (place + 1) for place in range(len(steps))] and steps, (
        "a look every ten iterations"
    )
    _, config = load_detector(finished)
    assert list(config.manifests) == ["motion", "text"]
    assert config.manifests["motion"] == planted.modalities["motion"]
    assert config.dataset["train"] == list(own_split(planted).train)
    assert config.training["steps"] == 10


@pytest.mark.parametrize("method", ["lego", "lego-paper", "concat", "gated", "mtn"])
def test_scores_are_those_of_the_protocol(planted, tmp_path, method):
    """Two ways to one number: the run folder, and the run that experiments use."""
    train(planted, tmp_path / "run", method=method)
    split = own_split(planted)
    bags = load_bags(planted, ["motion", "text"], [record.video for record in planted.videos], nodes=N)
    direct = run_method(planted, bags, split, ["motion", "text"], method, QUICK, ModelShape(nodes=N))
    for video in score_dataset(tmp_path / "run", planted, split.test):
        expected = frame_scores(planted, video.video, direct.node_scores[video.video], smoothing=SMOOTHING)
        np.testing.assert_allclose(video.logits, expected.numpy(), rtol=1e-5, atol=1e-5)  # here alone, there in one batch
        np.testing.assert_allclose(video.scores, expected.sigmoid().numpy(), rtol=1e-5)


def test_what_is_said_of_each_frame(finished, planted):
    videos = own_split(planted).test
    for video, scored in zip(videos, score_dataset(finished, planted, videos), strict=True):
        record = planted.records[video]
        assert scored.video == video and scored.fps == 10.0
        assert scored.scores.shape == scored.times.shape == scored.truth.shape == (record.frames,)
        assert ((scored.scores >= 0) & (scored.scores <= 1)).all()
        np.testing.assert_allclose(scored.times, np.arange(record.frames) / 10)
        np.testing.assert_array_equal(scored.truth, planted.frame_labels(video))


def test_planted_anomalies_are_found(finished, planted):
    scored = score_dataset(finished, planted, own_split(planted).test)
    assert micro_auc([ScoredVideo.from_frames(video.video, video.scores, video.truth) for video in scored]) > 0.95


def test_a_video_is_scored_alike_whatever_else_is_scored(finished, planted):
    videos = own_split(planted).test
    together = {video.video: video.scores for video in score_dataset(finished, planted, videos)}
    for video in videos:
        (alone,) = score_dataset(finished, planted, [video])
        np.testing.assert_allclose(alone.scores, together[video], rtol=1e-5)


def test_references_are_segments_of_normal_training_videos(finished, planted):
    detector, config = load_detector(finished)
    train_videos = own_split(planted).train
    references = detector.fusion.known_normals("motion").references.numpy()
    assert len(config.references) == len(references) > 1
    for described, features in zip(config.references, references, strict=True):
        record = planted.records[described["video"]]
        assert record.label == "normal" and record.video in train_videos
        assert 0 <= described["start_frame"] < described["end_frame"] <= record.frames
        rows = planted.features("motion", record.video)
        bounds = segment_bounds(len(rows), N)
        spans = [rows[a : max(b, a + 1)].mean(0) for a, b in pairwise(bounds)]
        assert min(np.abs(span - features).max() for span in spans) < 1e-5
        shown = rows[described["start_frame"] // 8 : -(-described["end_frame"] // 8)].mean(0)
        np.testing.assert_allclose(shown, features, atol=1e-5)


def test_the_same_command_does_not_train_again(folder, planted):
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    steps: list[int] = []
    train(planted, folder, on_step=lambda step, _: steps.append(step))
    assert steps == []
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


@pytest.mark.parametrize("killed_at", [1, 3, 5, 9, 10])
def test_a_killed_run_ends_with_the_same_model(planted, tmp_path, killed_at):
    finished = tmp_path / "finished"
    train(planted, finished, method="lego-paper")

    def kill(step: int, _: float) -> None:
        if step == killed_at:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(planted, folder, method="lego-paper", on_step=kill)
    assert not (folder / "config.json").exists()
    train(planted, folder, method="lego-paper")
    for name in ("model.safetensors", "config.json", "history.csv", "request.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    assert not (folder / "checkpoint.safetensors").exists()


def test_a_killed_fit_starts_again_and_ends_with_the_same_model(finished, planted, tmp_path):
    """It takes seconds, so it keeps no state on the way."""

    def kill(step: int, _: float) -> None:
        if step == 10:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(planted, folder, on_step=kill)
    assert [path.name for path in folder.iterdir()] == ["request.json"]
    train(planted, folder)
    for name in ("model.safetensors", "config.json", "history.csv", "request.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"training": QUICK.model_copy(update={"seed": 1})}, r"training \(seed: 0 there, 1 asked for\)"),
        ({"method": "concat"}, "method"),
        ({"modalities": ["motion"]}, "modalities"),
        ({"modalities": ["text", "motion"]}, "modalities"),
        ({"nodes": 4}, "nodes"),
        ({"hidden": 4}, "hidden"),
        ({"validation": 0.3}, "dataset"),
    ],
)
def test_another_command_is_refused(folder, planted, options, changed):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=rf"the folder holds another run.*got another .*{changed}.*use another folder"):
        train(planted, folder, **options)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_dataset_is_refused(folder, write_planted, tmp_path):
    other = write_planted(tmp_path / "other", train=(5, 4))
    with pytest.raises(CheckpointError, match="the folder holds another run"):
        train(other, folder)


def test_a_folder_with_other_things_is_left_alone(planted, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"sun")
    with pytest.raises(CheckpointError, match=r"the folder is not empty and holds no run.*use a new folder"):
        train(planted, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("content", ["{", "[]", "[1]"])
def test_a_request_that_cannot_be_read(folder, planted, content):
    (folder / "request.json").write_text(content)
    with pytest.raises(CheckpointError, match="the request of this run"):
        train(planted, folder)


def test_validation_videos_are_held_out_and_choose_the_step(planted, tmp_path):
    training = QUICK.model_copy(update={"selection": "validation", "check_every": 2})
    config = train(planted, tmp_path / "run", method="lego-paper", training=training, validation=0.3)
    held_out = config.dataset["validation"]
    assert {planted.records[video].label for video in held_out} == {"normal", "abnormal"}
    assert set(held_out).isdisjoint(config.dataset["train"])
    with (tmp_path / "run" / "history.csv").open() as file:
        looks = [row["step"] for row in csv.DictReader(file) if row["validation_loss"]]
    assert looks == ["2", "4", "6", "8", "10"]


def test_normal_only(planted, tmp_path):
    config = train(planted, tmp_path / "run", training=TrainingConfig(normal_only=True))
    assert {planted.records[reference["video"]].label for reference in config.references} == {"normal"}


def relabelled(planted: Dataset, root: Path, label: str, videos: list[str]) -> Dataset:
    """The same videos, some with another label, and no ground truth."""
    records = [replace(record, label=label) if record.video in videos else record for record in planted.videos]
    shutil.copytree(planted.root / "features", root / "features")
    return write_dataset(root, planted.config, records)


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_a_training_video_without_label(planted, tmp_path, validation):
    dataset = relabelled(planted, tmp_path / "data", "", ["train_normal_1"])
    with pytest.raises(DataError, match=r"a training video has no label \(train_normal_1\).*edit videos\.csv"):
        train(dataset, tmp_path / "run", validation=validation)


def test_one_class_only_in_training(planted, tmp_path):
    abnormal = [video for video in own_split(planted).train if "abnormal" in video]
    dataset = relabelled(planted, tmp_path / "data", "normal", abnormal)
    with pytest.raises(DataError, match=r"the training videos hold one class only.*train with normal_only"):
        train(dataset, tmp_path / "run")


def test_a_video_without_ground_truth_is_scored_all_the_same(planted, finished, tmp_path):
    dataset = relabelled(planted, tmp_path / "data", "", ["test_abnormal_0"])
    (scored,) = score_dataset(finished, dataset, ["test_abnormal_0"])
    assert scored.truth is None
    (known,) = score_dataset(finished, planted, ["test_abnormal_0"])
    np.testing.assert_array_equal(scored.scores, known.scores)


def test_a_dataset_that_lacks_a_modality_of_the_model(planted, finished, tmp_path):
    config = planted.config.model_copy(update={"modalities": {"motion": planted.modalities["motion"]}})
    dataset = write_dataset(tmp_path, config, planted.videos)
    with pytest.raises(DataError, match=r"modality 'text' is missing.*expected motion, text, got motion.*trained without it"):
        score_dataset(finished, dataset, ["test_normal_0"])


def test_features_made_in_another_way_are_refused(planted, finished, tmp_path):
    root = Path(shutil.copytree(planted.root, tmp_path / "data"))
    content = yaml.safe_load((root / "dataset.yaml").read_text())
    content["modalities"]["motion"]["version"] = "2"
    (root / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ManifestError, match=r"modality 'motion' were made in another way.*version: '1' against '2'"):
        score_dataset(finished, Dataset.open(root), ["test_normal_0"])


def test_a_modality_the_model_was_not_trained_on(finished, tmp_path):
    with pytest.raises(
        ParameterError, match=r"the model was not trained on modality 'audio'.*expected motion, text, got audio"
    ):
        score_video(finished, tmp_path / "v.mp4", networks={"audio": tmp_path / "network.onnx"})


def test_a_folder_without_a_model(tmp_path, planted):
    with pytest.raises(CheckpointError, match="there is no trained model here"):
        score_dataset(tmp_path, planted, ["test_normal_0"])


def test_the_request_can_be_read_by_a_person(finished, planted):
    request = json.loads((finished / "request.json").read_text())
    assert request["method"] == "lego" and request["modalities"] == ["motion", "text"]
    assert request["dataset"]["hash"] == planted.hash
    assert request["manifests"] == {name: manifest.hash for name, manifest in planted.modalities.items()}


def test_smoothing_is_kept_in_the_run_and_an_old_run_has_none(finished, planted, tmp_path):
    assert load_detector(finished)[1].smoothing == SMOOTHING
    shutil.copytree(finished, tmp_path / "old")
    stored = json.loads((tmp_path / "old" / "config.json").read_text())
    assert stored.pop("smoothing") == SMOOTHING
    (tmp_path / "old" / "config.json").write_text(json.dumps(stored))
    video = own_split(planted).test[0]
    (old,), (new,) = (score_dataset(folder, planted, [video]) for folder in (tmp_path / "old", finished))
    assert load_detector(tmp_path / "old")[1].smoothing == 0.0
    assert len(np.unique(old.logits)) < len(np.unique(new.logits))  # steps became slopes
    assert new.logits.min() >= old.logits.min() and new.logits.max() <= old.logits.max()
    results = [evaluate_runs([folder], planted).results for folder in (tmp_path / "old", finished)]
    assert [{one.smoothing for one in part} for part in results] == [{0.0}, {SMOOTHING}]


@pytest.mark.parametrize("smoothing", [-1.0, float("nan"), 61.0])
def test_a_smoothing_out_of_its_range_is_refused_before_training(planted, tmp_path, smoothing):
    with pytest.raises(ParameterError, match="'smoothing' parameter of train_run"):
        train(planted, tmp_path / "run", smoothing=smoothing)
    assert not (tmp_path / "run").exists()


def test_known_segments_of_videos_with_crops_are_the_same_from_a_cache(write_planted, tmp_path):
    dataset = write_planted(tmp_path / "dataset", crops=2)
    plain, cached = train(dataset, tmp_path / "plain"), train(dataset, tmp_path / "cached", cache=tmp_path / "graphs")
    assert plain.references == cached.references
    normal = {record.video for record in dataset.videos if record.split == "train" and record.label == "normal"}
    assert {one["video"] for one in plain.references} == normal
    videos = [record.video for record in dataset.videos if record.split == "test"]
    scores = [score_dataset(tmp_path / folder, dataset, videos) for folder in ("plain", "cached")]
    for one, other in zip(*scores, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-3, atol=1e-3)
