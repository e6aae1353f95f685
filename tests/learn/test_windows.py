"""Segments of a fixed duration against the definition: the last node of the window up to each."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.data.manifest import Manifest
from lego_fusion.errors import ParameterError
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.learn.bags import Bags, bag_of_segments, fit_frozen, fixed_segments, load_fixed_bags, window_rows
from lego_fusion.learn.checkpoint import load_detector, read_run_config
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.evaluation import evaluate_runs
from lego_fusion.learn.methods import LEARNED, make_default_fusion
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import dataset_segment, score_dataset
from lego_fusion.learn.train import fit, predict_logits
from lego_fusion.why.explainer import Explainer

WINDOW = 5
WIDTHS = {"motion": 3, "text": 4}
MANIFESTS = {
    "motion": Manifest(modality="motion", extractor="motion", version="1", width=3, nature="magnitude"),
    "text": Manifest(modality="text", extractor="text", version="1", width=4),
}


def ragged(lengths: tuple[int, ...] = (7, 4, 9, 6), *, seed: int = 0) -> Bags:
    random = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    inputs = {name: torch.randn(len(lengths), longest, width, generator=random) for name, width in WIDTHS.items()}
    inputs = {name: x.masked_fill(~mask[:, :, None], 0.0) for name, x in inputs.items()}
    videos = tuple(f"v{number}" for number in range(len(lengths)))
    return Bags(videos, torch.arange(len(lengths)) % 3 == 2, 1, inputs, mask, WINDOW)


def make_detector(method: str, bags: Bags) -> Detector:
    fusion = make_default_fusion(method, MANIFESTS, nodes=WINDOW, seed=1, window=WINDOW)
    fit_frozen(fusion, bags)
    return Detector(fusion, seed=1).eval()


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize("snippets", [1, 2, 3])
def test_fixed_segments_are_means_of_their_snippets(length: int, snippets: int) -> None:
    rows = np.random.default_rng(0).normal(size=(length, 3)).astype(np.float32)
    segments = fixed_segments(rows, MANIFESTS["motion"], snippets)
    expected = [rows[first : first + snippets].mean(0) for first in range(0, length, snippets)]
    assert segments.shape == (1, len(expected), 3)
    np.testing.assert_allclose(segments[0], expected, rtol=1e-6)


def test_fixed_segments_keep_crops_apart() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    segments = fixed_segments(rows, MANIFESTS["motion"].model_copy(update={"crops": 2, "width": 2}), 2)
    assert segments.tolist() == [[[2.0, 3.0], [8.0, 9.0]], [[4.0, 5.0], [10.0, 11.0]]]


def test_finer_units_of_different_number_are_padded_as_absent() -> None:
    manifest = Manifest(modality="f", extractor="f", version="1", width=1, unit_kind="frame", units=2)
    rows = np.array([[[1.0, 1.0], [2.0, 1.0]], [[3.0, 1.0], [0.0, 0.0]]], dtype=np.float32)
    assert fixed_segments(rows, manifest, 1)[0].tolist() == [[[1.0, 1.0], [2.0, 1.0]], [[3.0, 1.0], [0.0, 0.0]]]


@pytest.mark.parametrize("snippets", [0, -1])
def test_a_segment_has_at_least_one_snippet(planted: Dataset, snippets: int) -> None:
    with pytest.raises(ParameterError, match="segment_snippets"):
        load_fixed_bags(planted, ["motion"], [planted.videos[0].video], segment_snippets=snippets)


def test_a_window_ends_with_its_own_segment() -> None:
    index, exists = window_rows(4, 3)
    assert index[:, -1].tolist() == [0, 1, 2, 3] and exists[:, -1].all()
    assert [row[there].tolist() for row, there in zip(index, exists, strict=True)] == [[0], [0, 1], [0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize("method", LEARNED)
def test_every_score_is_that_of_the_last_node_of_its_window(method: str) -> None:
    """Windows that are full hold no padding, so the detector is called on them as on any bag of N nodes."""
    bags = ragged()
    detector = make_detector(method, bags)
    logits = predict_logits(detector, bags)
    for video, length in enumerate((7, 4, 9, 6)):
        for last in range(WINDOW - 1, length):
            window = {name: x[video : video + 1, last - WINDOW + 1 : last + 1] for name, x in bags.inputs.items()}
            with torch.no_grad():
                expected = detector(window).logits[0, -1]
            assert float(logits[video, last]) == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("method", LEARNED)
def test_a_video_is_scored_alike_whatever_is_scored_with_it_and_whatever_follows(method: str) -> None:
    bags = ragged()
    detector = make_detector(method, bags)
    together = predict_logits(detector, bags)
    for video, length in enumerate((7, 4, 9, 6)):
        seen = {name: x[video : video + 1, : length - 1] for name, x in bags.inputs.items()}
        alone = predict_logits(detector, bag_of_segments("v", seen, window=WINDOW))[0]
        torch.testing.assert_close(alone, together[video, : length - 1], rtol=1e-5, atol=1e-5)


def test_training_without_a_missing_segment_is_training_on_bags_of_n() -> None:
    """Where all videos have N segments and references are met, the two kinds of bags differ in name only."""
    bags = ragged((6, 6, 6, 6, 6, 6))
    plain = Bags(bags.videos, bags.labels, 1, bags.inputs)
    losses = []
    for one in (bags, plain):
        detector = make_detector("lego", one)
        settings = TrainingConfig(smoothness=0.1, sparsity=0.1)
        losses.append([step["loss"] for step in fit(detector, one, settings).history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("method", ["lego", "lego-paper", "concat", "mtn"])
def test_padding_changes_neither_start_nor_training(method: str) -> None:
    bags = ragged()
    longer = {name: torch.nn.functional.pad(x, (0, 0, 0, 3), value=50.0) for name, x in bags.inputs.items()}
    mask = torch.nn.functional.pad(bags.mask, (0, 3))
    padded = Bags(bags.videos, bags.labels, 1, longer, mask, WINDOW)
    losses = []
    for one in (bags, padded):
        detector = make_detector(method, one)
        losses.append([step["loss"] for step in fit(detector, one, TrainingConfig(steps=3, smoothness=0.1)).history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_relations_inside_the_window_forget_what_left_it() -> None:
    bags = ragged((9, 9, 9))
    detector = make_detector("lego-paper", bags)
    changed = {name: x.clone() for name, x in bags.inputs.items()}
    for x in changed.values():
        x[:, 0] = 9.0
    after = predict_logits(detector, Bags(bags.videos, bags.labels, 1, changed, bags.mask, WINDOW))
    before = predict_logits(detector, bags)
    torch.testing.assert_close(after[:, WINDOW:], before[:, WINDOW:])
    assert (after[:, 1:WINDOW] - before[:, 1:WINDOW]).abs().max() > 1e-3


def test_a_run_of_fixed_segments_is_trained_saved_and_scored(planted: Dataset, tmp_path: Path) -> None:
    config = train_run(planted, tmp_path / "run", training=TrainingConfig(steps=20), nodes=8, segment_snippets=2, smoothing=0.0)
    detector, stored = load_detector(tmp_path / "run")
    assert (stored.segment_snippets, stored.nodes) == (2, 8) and stored == config
    video = planted.select(split="test")[0].video
    bags = load_fixed_bags(planted, list(stored.manifests), [video], segment_snippets=2, nodes=8)
    logits = predict_logits(detector, bags)[0].double().numpy()
    scored = score_dataset(tmp_path / "run", planted, [video])[0]
    record = planted.records[video]
    expected = [logits[frame // 16] for frame in range(record.frames)]  # snippets of 8 frames, two in a segment
    np.testing.assert_allclose(scored.logits, expected)
    for reference in stored.references:
        start, end = reference["start_frame"], reference["end_frame"]
        assert start % 16 == 0 and end == min(start + 16, planted.records[reference["video"]].frames)
        assert planted.records[reference["video"]].label == "normal"


def test_the_described_references_are_those_of_the_model(planted: Dataset, tmp_path: Path) -> None:
    config = train_run(planted, tmp_path / "run", training=TrainingConfig(steps=0), segment_snippets=1)
    detector, _ = load_detector(tmp_path / "run")
    assert isinstance(detector.fusion, LegoFusion)
    for place, reference in enumerate(config.references):
        row = planted.features("motion", reference["video"])[reference["start_frame"] // 8]
        np.testing.assert_allclose(detector.fusion.known_normals("motion").references[place], row, rtol=1e-6)


def test_a_run_of_fixed_segments_is_measured_beside_one_of_equal_spans(planted: Dataset, tmp_path: Path) -> None:
    training = TrainingConfig(steps=5)
    train_run(planted, tmp_path / "spans", training=training)
    train_run(planted, tmp_path / "stream", training=training, segment_snippets=1)
    measured = evaluate_runs([tmp_path / "spans", tmp_path / "stream"], planted)
    assert {result.fusion for result in measured.results} == {"lego", "lego, streamable"}


def test_a_run_saved_before_there_were_fixed_segments_still_loads(planted: Dataset, tmp_path: Path) -> None:
    train_run(planted, tmp_path / "run", training=TrainingConfig(steps=0))
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    assert content.pop("segment_snippets") is None
    path.write_text(json.dumps(content))
    assert read_run_config(tmp_path / "run").segment_snippets is None
    assert "segment_snippets" not in json.loads((tmp_path / "run" / "request.json").read_text())


def test_the_length_of_a_segment_in_frames(planted: Dataset) -> None:
    record = planted.videos[0]
    last = -(-planted.rows(record.video) // 3) - 1
    assert dataset_segment(planted, record.video, 0, 32, 3) == (0, 24)
    assert dataset_segment(planted, record.video, last, 32, 3) == (last * 24, record.frames)


def test_fixed_segments_are_explained_without_remainder(planted: Dataset, tmp_path: Path) -> None:
    train_run(planted, tmp_path / "run", training=TrainingConfig(steps=0), segment_snippets=1)
    video = planted.select(split="test", label="abnormal")[0].video
    (event,) = Explainer(tmp_path / "run", planted).explain(video, threshold=0.0).events
    assert event.parts is not None and abs(event.parts.gap) < 1e-3
    assert sum(event.parts.by_modality.values()) == pytest.approx(event.parts.excess, abs=1e-3)


def test_modality_dropout_refuses_fixed_segments(planted: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="modality dropout is not defined for segments of a fixed duration"):
        train_run(planted, tmp_path / "other", training=TrainingConfig(steps=1, modality_dropout=0.5), segment_snippets=1)
