"""Exported detectors give the scores of the detectors, without torch; what they cannot score is one line."""

import copy
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lego_fusion.alarm.calibration import calibrate_run
from lego_fusion.alarm.export import export_run
from lego_fusion.cli import app
from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.segments import segments_to_rows, to_segments
from lego_fusion.data.tables import DatasetConfig, VideoRecord
from lego_fusion.errors import CheckpointError, ParameterError
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.checkpoint import load_detector, save_detector
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import load_run_bags, score_dataset
from lego_fusion.learn.train import predict_logits
from lego_fusion.scorer import Scorer, ScorerError

for package in ("onnxruntime", "onnx", "onnxscript"):
    pytest.importorskip(package, reason="pip install 'lego-fusion[onnx]'")

N = 8


def train(dataset: Dataset, folder: Path, **options: object) -> Path:
    train_run(dataset, folder, training=TrainingConfig(steps=5), nodes=N, **options)
    return folder


@pytest.fixture(scope="module")
def made(write_planted_once: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Dataset]:
    """A calibrated run, its export, and the dataset."""
    root = tmp_path_factory.mktemp("export")
    run = train(write_planted_once, root / "run")
    calibrate_run(run, None, "fixed", 1.25)
    export_run(run, root / "model")
    return run, root / "model", write_planted_once


@pytest.fixture(scope="module")
def write_planted_once(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_folder(tmp_path_factory.mktemp("planted") / "dataset")


def planted_folder(root: Path, *, crops: int = 1) -> Dataset:
    """Two modalities, of which the second decides: the planted folder of the detector's tests in small."""
    random = np.random.default_rng(0)
    manifests = {
        name: Manifest(
            modality=name, extractor="made", version="1", width=width, stride=8, snippet_frames=8, nature=nature, crops=crops
        )
        for name, width, nature in (("motion", 3, "magnitude"), ("text", 5, "direction"))
    }
    records = [
        VideoRecord(f"{split}_{i}", "abnormal" if i % 2 else "normal", int(random.integers(61, 130)), 10.0, split)
        for split in ("train", "test")
        for i in range(6)
    ]
    dataset = write_dataset(root, DatasetConfig(name="made", stride=8, snippet_frames=8, modalities=manifests), records)
    for record in records:
        rows = -(-record.frames // 8)
        odd = ((np.arange(rows) < rows // 3) & (record.label == "abnormal"))[:, None, None]
        for name, values in (
            ("motion", 1 + random.random((rows, crops, 3)) + 3 * odd),
            ("text", random.normal(size=(rows, crops, 5)) + 2 * odd),
        ):
            write_features(root, name, record.video, values[:, 0] if crops == 1 else values)
    return dataset


def test_windows_of_any_number_and_length_score_as_the_detector_does(made: tuple[Path, Path, Dataset]) -> None:
    run, model, dataset = made
    detector, _ = load_detector(run)
    names = [record.video for record in dataset.videos]
    scorer = Scorer(model / "model.onnx")
    for nodes in (1, N, 21):
        bags = load_bags(dataset, ["motion", "text"], names, nodes=nodes)
        found = scorer.score({name: x.numpy() for name, x in bags.inputs.items()})
        np.testing.assert_allclose(found.logits, predict_logits(detector, bags).numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.scores, predict_logits(detector, bags).sigmoid().numpy(), rtol=0, atol=1e-5)
        assert found.graph is None  # the default hands on readings, not the graph


def test_a_video_scores_as_the_command_line_scores_it(made: tuple[Path, Path, Dataset]) -> None:
    run, model, dataset = made
    scorer = Scorer(model / "model.onnx")
    for expected in score_dataset(run, dataset, [record.video for record in dataset.videos]):
        features = {name: dataset.features(name, expected.video) for name in ("motion", "text")}
        found = scorer.score_video(features, fps=expected.fps, frames=len(expected.scores))
        assert found.frames == 2  # a quarter of a second, the half of what it is smoothed by, has two frames and a half
        np.testing.assert_allclose(found.scores, expected.scores[::2], rtol=0, atol=1e-5)
        assert expected.logits is not None
        np.testing.assert_allclose(found.logits, expected.logits[::2], rtol=1e-5, atol=1e-5)
        assert found.threshold == 1.25


@pytest.mark.parametrize("rows", [1, 3, 8, 13, 64])
def test_segments_and_rows_are_those_of_the_package(made: tuple[Path, Path, Dataset], rows: int) -> None:
    scorer = Scorer(made[1] / "model.onnx")
    x = np.random.default_rng(rows).normal(size=(rows, 1, 3))
    np.testing.assert_allclose(scorer._segments(x), to_segments(x, N), atol=1e-6)
    values = np.arange(float(N))
    np.testing.assert_allclose(scorer._rows(values, rows), segments_to_rows(values, rows), atol=1e-12)


@pytest.mark.parametrize("method", ["lego-paper", "concat", "graph-convolution", "mtn"])
def test_other_fusions_export_too(write_planted_once: Dataset, tmp_path: Path, method: str) -> None:
    run = train(write_planted_once, tmp_path / "run", method=method)
    export_run(run, tmp_path / "model")
    video = write_planted_once.videos[-1].video
    features = {name: write_planted_once.features(name, video) for name in ("motion", "text")}
    (expected,) = score_dataset(run, write_planted_once, [video])
    found = Scorer(tmp_path / "model" / "model.onnx").score_video(features, fps=expected.fps, frames=len(expected.scores))
    np.testing.assert_allclose(found.scores, expected.scores[:: found.frames], rtol=0, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 1.5])
def test_segments_of_a_fixed_duration_export_too(write_planted_once: Dataset, tmp_path: Path, smoothing: float) -> None:
    run = train(write_planted_once, tmp_path / "run", segment_snippets=2, smoothing=smoothing)
    export_run(run, tmp_path / "model")
    scorer = Scorer(tmp_path / "model" / "model.onnx")
    for expected in score_dataset(run, write_planted_once, [record.video for record in write_planted_once.videos[:3]]):
        features = {name: write_planted_once.features(name, expected.video) for name in ("motion", "text")}
        found = scorer.score_video(features, fps=expected.fps)
        np.testing.assert_allclose(found.scores, expected.scores[::8], rtol=0, atol=1e-5)


def test_crops_of_a_video_score_as_the_mean_of_their_readings(tmp_path: Path) -> None:
    dataset = planted_folder(tmp_path / "dataset", crops=3)
    run = train(dataset, tmp_path / "run")
    export_run(run, tmp_path / "model")
    scorer = Scorer(tmp_path / "model" / "model.onnx")
    for expected in score_dataset(run, dataset, [record.video for record in dataset.videos[:4]]):
        features = {name: dataset.features(name, expected.video) for name in ("motion", "text")}
        assert features["motion"].shape[1:] == (3, 3)
        found = scorer.score_video(features, fps=expected.fps, frames=len(expected.scores))
        assert expected.logits is not None
        np.testing.assert_allclose(found.logits, expected.logits[:: found.frames], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("segment_snippets", [None, 1])
@pytest.mark.parametrize("operator", ["fixed", "learned"])
def test_a_run_of_the_own_world_and_of_a_learned_operator_exports(
    write_planted_once: Dataset, tmp_path: Path, operator: str, segment_snippets: int | None
) -> None:
    """The own world is switched on with shares that a fit could find, so that every reading counts."""
    run = train(write_planted_once, tmp_path / "run", options={"operator": operator}, segment_snippets=segment_snippets)
    detector, config = load_detector(run)
    before = score_dataset(run, write_planted_once, [write_planted_once.videos[0].video])[0]
    assert detector.reading_head is not None
    detector.reading_head.use_own_world(True)
    with torch.no_grad():
        detector.reading_head.own_share.fill_(0.5)
    save_detector(tmp_path / "own", detector, config)
    export_run(tmp_path / "own", tmp_path / "model")
    scorer = Scorer(tmp_path / "model" / "model.onnx")
    videos = [record.video for record in write_planted_once.videos]
    for expected in score_dataset(tmp_path / "own", write_planted_once, videos):
        features = {name: write_planted_once.features(name, expected.video) for name in ("motion", "text")}
        found = scorer.score_video(features, fps=expected.fps, frames=len(expected.scores))
        assert expected.logits is not None
        # a learned operator's terms cancel, and the logarithm magnifies it: no further apart than float32 is from float64
        bags = load_run_bags(config, write_planted_once, [expected.video])
        single, exact = (predict_logits(one, bags).double() for one in (detector, copy.deepcopy(detector).double()))
        rounding = float((single - exact).abs().max()) if operator == "learned" else 0.0
        assert rounding < 1e-2
        np.testing.assert_allclose(found.logits, expected.logits[:: found.frames], rtol=1e-5, atol=2e-5 + rounding)
        if expected.video == before.video:
            assert before.logits is not None and not np.allclose(expected.logits, before.logits, atol=1e-3)


def test_a_streamable_video_is_scored_whole_and_from_its_past_alone(write_planted_once: Dataset, tmp_path: Path) -> None:
    run = train(write_planted_once, tmp_path / "run", segment_snippets=1)
    export_run(run, tmp_path / "model")
    scorer = Scorer(tmp_path / "model" / "model.onnx")
    record = max(write_planted_once.videos, key=lambda one: one.frames)
    features = {name: write_planted_once.features(name, record.video) for name in ("motion", "text")}
    rows = len(features["motion"])
    assert rows > N  # longer than the window
    whole = scorer.score_video(features, fps=record.fps)
    (expected,) = score_dataset(run, write_planted_once, [record.video])
    assert expected.logits is not None and whole.frames == 8
    np.testing.assert_allclose(whole.logits, expected.logits[::8], rtol=1e-5, atol=1e-5)
    for there in (1, 5, N, rows - 1):
        begun = scorer.score_video({name: x[:there] for name, x in features.items()}, fps=record.fps)
        np.testing.assert_allclose(begun.logits, whole.logits[:there], rtol=1e-5, atol=1e-5)


def test_the_folder_runs_by_itself_without_torch(made: tuple[Path, Path, Dataset], tmp_path: Path) -> None:
    """The copied scorer in a process that may import neither torch nor lego-fusion."""
    folder = Path(shutil.copytree(made[1], tmp_path / "model"))
    code = """
import sys
sys.modules["torch"] = sys.modules["lego_fusion"] = None
import numpy as np
from scorer import Scorer
scores = Scorer("model.onnx").score_video({"motion": np.ones((9, 3)), "text": np.ones((9, 5))}, fps=5)
print(scores.scores.shape, sorted(m for m in sys.modules if m.split(".")[0] in ("scipy", "sklearn", "jaxtyping")))
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "(72,) []", told.stderr


def test_a_model_says_what_it_is(made: tuple[Path, Path, Dataset]) -> None:
    about = Scorer(made[1] / "model.onnx").about
    assert about["widths"] == {"motion": 3, "text": 5}
    assert about["manifests"]["motion"]["extractor"] == "made"
    assert about["promise"] == "a threshold given by a person; no promise about false alarms"


def test_torch_export_gives_the_same(made: tuple[Path, Path, Dataset], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(made[0]), str(tmp_path), "--torch", "--json"], catch_exceptions=False)
    files = json.loads(result.stdout)["files"]
    program = torch.export.load(files["torch"])
    x = {"motion": np.random.default_rng(0).random((2, 5, 3), np.float32), "text": np.ones((2, 5, 5), np.float32)}
    logits = program.module()(*(torch.from_numpy(value) for value in x.values()))[0]
    np.testing.assert_allclose(Scorer(files["onnx"]).score(x).logits, logits.detach().numpy(), rtol=1e-5, atol=1e-5)


Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: {"motion": x["motion"]}, "modality 'text' is missing"),
        (lambda x: x | {"sound": x["text"]}, "no modality 'sound'"),
        (lambda x: x | {"text": x["text"][:, :4]}, "another shape"),
        (lambda x: x | {"text": x["text"][:0]}, "another shape"),
        (lambda x: x | {"text": x["text"][:5]}, "differ in length"),
        (lambda x: x | {"text": x["text"] * np.nan}, "not finite"),
        (lambda x: x | {"text": x["text"].astype(str)}, "not finite numbers"),
    ],
)
def test_features_that_cannot_be_scored_are_refused(made: tuple[Path, Path, Dataset], change: Change, match: str) -> None:
    scorer = Scorer(made[1] / "model.onnx")
    with pytest.raises(ScorerError, match=match):
        scorer.score_video(change({"motion": np.ones((9, 3)), "text": np.ones((9, 5))}))


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_model_that_smooths_its_scores_needs_a_clock(made: tuple[Path, Path, Dataset], fps: float) -> None:
    with pytest.raises(ScorerError, match=r"over 0\.5 seconds: expected fps above 0"):
        Scorer(made[1] / "model.onnx").score_video({"motion": np.ones((9, 3)), "text": np.ones((9, 5))}, fps=fps)


def test_files_that_are_no_model_are_refused(made: tuple[Path, Path, Dataset], tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="there is no model here"):
        Scorer(tmp_path / "model.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ScorerError, match="not a model that lego-fusion exported"):
        Scorer(tmp_path / "text.onnx")
    whole = (made[1] / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScorerError, match="not a model that lego-fusion exported"):
        Scorer(tmp_path / "cut.onnx")
    with pytest.raises(CheckpointError, match="no trained model"):
        export_run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_windows_that_are_related_to_each_other_are_refused_by_name(write_planted_once: Dataset, tmp_path: Path) -> None:
    run = train(write_planted_once, tmp_path / "run", method="concat", segment_snippets=1)
    with pytest.raises(ParameterError, match="cannot be exported yet"):
        export_run(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_window_takes_about_a_millisecond(made: tuple[Path, Path, Dataset]) -> None:
    """A bound a hundred times as wide as what is measured by benchmarks/scorer.py, so that no load of a machine breaks it."""
    scorer = Scorer(made[1] / "model.onnx")
    x = {"motion": np.ones((1, N, 3), np.float32), "text": np.ones((1, N, 5), np.float32)}
    scorer.score(x)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        scorer.score(x)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1
