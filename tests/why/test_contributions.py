"""Contributions of the modalities of saved runs: against the runs' own numbers, planted truth, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import scored_videos
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset
from lego_fusion.learn.train import predict_logits
from lego_fusion.measure.detection import micro_auc
from lego_fusion.measure.scored import ScoredVideo
from lego_fusion.why.contributions import abnormal_mean, detector_contributions, run_contributions
from lego_fusion.why.localise import training_bags


@pytest.fixture(scope="module")
def planted(write_planted: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Anomalies in motion and text, and noise as a third modality."""
    dataset = write_planted(tmp_path_factory.mktemp("planted") / "data")
    noise = Manifest(modality="noise", extractor="noise", version="1", width=3, stride=8, snippet_frames=8)
    config = dataset.config.model_copy(update={"modalities": {**dataset.modalities, "noise": noise}})
    truth = [one for group in dataset.ground_truth.values() for one in group]
    made = write_dataset(dataset.root, config, dataset.videos, truth)
    random = np.random.default_rng(1)
    for record in made.videos:
        write_features(made.root, "noise", record.video, random.normal(size=(made.rows(record.video), 3)))
    return made


@pytest.fixture(scope="module")
def runs(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, method, seed in (("lego-0", "lego", 0), ("lego-1", "lego", 1), ("concat", "concat", 0)):
        train_run(planted, folder / name, method=method, nodes=8, training=TrainingConfig(steps=20, seed=seed))
    train_run(planted, folder / "two", modalities=("motion", "text"), nodes=8, training=TrainingConfig(steps=2))
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["lego-0", "concat"])
def test_values_divide_what_the_run_reaches(planted: Dataset, runs: dict[str, Path], name: str) -> None:
    told = run_contributions([runs[name]], planted, draws=8)
    videos = [one.video for one in planted.select(split="test")]
    scored = [ScoredVideo.from_frames(one.video, one.scores, one.truth) for one in score_dataset(runs[name], planted, videos)]
    assert float(told.full) == pytest.approx(micro_auc(scored))
    assert told.values.sum() == pytest.approx(float(told.full - told.baseline))
    assert told.removal == "permute, 8 draws of normal training videos"
    assert told.intervals is not None
    assert told.intervals[0].unit == "video"


def test_planted_modalities_count_and_noise_does_not(planted: Dataset, runs: dict[str, Path]) -> None:
    told = run_contributions([runs["lego-0"], runs["lego-1"]], planted, quantity="abnormal-logit", intervals=False)
    motion, text, noise = told.values
    assert min(motion, text) > 10 * abs(noise)
    assert told.baseline < 0 < told.full
    auc = run_contributions([runs["lego-0"]], planted, intervals=False)
    assert min(auc.singles[:2]) > 0.9
    assert abs(auc.singles[2] - 0.5) < 0.2
    assert auc.cooperation < -0.2  # either of the two would do


def test_the_logit_is_the_mean_over_abnormal_frames(planted: Dataset, runs: dict[str, Path]) -> None:
    detector, config = load_detector(runs["lego-0"])
    videos = [one.video for one in planted.select(split="test")]
    test = load_bags(planted, list(config.manifests), videos, nodes=config.nodes)
    told = detector_contributions(
        [detector], planted, training_bags(config, planted), test, quantity="abnormal-logit", intervals=False
    )
    frames = scored_videos(planted, dict(zip(videos, predict_logits(detector, test).double(), strict=True)))
    by_hand = np.concatenate([np.repeat(one.scores, one.weights.astype(int)) for one in frames])
    truth = np.concatenate([np.repeat(one.labels, one.weights.astype(int)) for one in frames])
    assert float(told.full) == pytest.approx(by_hand[truth].mean(), rel=1e-5)


def test_several_runs_are_explained_by_their_mean(planted: Dataset, runs: dict[str, Path]) -> None:
    pair = [runs["lego-0"], runs["lego-1"]]
    one, other = (run_contributions([run], planted, draws=4, intervals=False) for run in pair)
    both = run_contributions(pair, planted, draws=4, intervals=False)
    np.testing.assert_allclose(both.values, (one.values + other.values) / 2)


def test_what_cannot_be_explained_is_named(planted: Dataset, runs: dict[str, Path], unchecked_types: None) -> None:
    with pytest.raises(DataError, match="there is no run to explain"):
        run_contributions([], planted)
    with pytest.raises(DataError, match="not trained on the same videos and modalities"):
        run_contributions([runs["lego-0"], runs["two"]], planted)
    with pytest.raises(DataError, match="models that are explained together see different inputs"):
        run_contributions([runs["concat"], runs["lego-0"]], planted)
    with pytest.raises(DataError, match="no video is in the split 'none'"):
        run_contributions([runs["lego-0"]], planted, split="none")
    with pytest.raises(ParameterError, match="'quantity' parameter of detector_contributions"):
        run_contributions([runs["lego-0"]], planted, quantity="auc")  # type: ignore[arg-type]
    detector, config = load_detector(runs["lego-0"])
    train = training_bags(config, planted)
    abnormal = train.select(train.labels.nonzero()[:, 0])
    with pytest.raises(DataError, match="nothing normal to put in a modality's place"):
        detector_contributions([detector], planted, abnormal, train)
    with pytest.raises(DataError, match="no frame is abnormal"):
        abnormal_mean([ScoredVideo.from_frames("calm", [0.0], [0])])
