"""What a detector sees in a video agrees with what it scores; what is not known is left out and said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lego_fusion.alarm.calibration import calibrate_run
from lego_fusion.alarm.event_evaluation import UNCALIBRATED
from lego_fusion.data.dataset import Dataset
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset
from lego_fusion.report.run_report import model_card
from lego_fusion.why.reading import Reader, coefficient_tables
from lego_fusion.why.records import Segment

NODES = 12
VIDEO = "test_abnormal_0"


@pytest.fixture(scope="module")
def runs(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("reading")
    for method in ("lego", "lego-paper", "concat"):
        train_run(planted, root / method, method=method, training=TrainingConfig(steps=5), nodes=NODES)
    train_run(planted, root / "fixed", training=TrainingConfig(steps=5), nodes=NODES, segment_snippets=2, smoothing=0.0)
    fixed = {"training": TrainingConfig(steps=5), "nodes": NODES, "segment_snippets": 2}
    train_run(planted, root / "fixed-paper", method="lego-paper", **fixed)
    return {path.name: path for path in root.iterdir()}


def test_the_head_says_of_the_fused_graph_what_the_reading_says(runs: dict[str, Path], planted: Dataset) -> None:
    reader = Reader(runs["lego-paper"], planted)
    (reading,) = reader.dataset_videos(planted, [VIDEO])
    assert reading.fused is not None
    with torch.no_grad():
        logits = reader.detector.head(torch.from_numpy(reading.fused)[None])[0].double().numpy()
    assert np.allclose(logits, reading.logits, atol=1e-4)


def test_what_segments_receive_is_what_was_expected_of_them(runs: dict[str, Path], planted: Dataset) -> None:
    """The weights that are shown, times the features of the known segments that they belong to, are what the model expects."""
    reader = Reader(runs["lego"], planted)
    (reading,) = reader.dataset_videos(planted, [VIDEO])
    assert reading.fused is not None
    assert reading.known == len(reader.config.references) > len(reading.columns)
    places = {(str(one["video"]), one["start_frame"]): place for place, one in enumerate(reader.config.references)}
    columns = [places[one.video, one.start_frame] for one in reading.columns]
    fusion = reader.detector.fusion
    bags = load_bags(planted, ["motion", "text"], [VIDEO], nodes=NODES)
    found = fusion.readings(bags.inputs)  # type: ignore[operator]
    nodes = {name: bags.inputs[name][0] for name in ("motion", "text")}
    weights = fusion.graphs(bags.inputs).fused[0]  # type: ignore[operator, union-attr]
    assert torch.allclose(weights.sum(1), torch.ones(NODES), atol=1e-6)
    assert np.allclose(reading.fused, weights[:, columns], atol=1e-6)
    for name, known in fusion.known_segments().items():
        expected = nodes[name] - found.departure[name][0] * known.full
        assert torch.allclose(weights @ known.references, expected, atol=1e-5)
        relation = torch.exp(-known.surprise(bags.inputs[name]))[0][:, columns]
        assert np.allclose(reading.graphs[name], relation, atol=1e-6)


def test_of_many_known_segments_those_are_shown_that_the_video_receives_most_from(
    runs: dict[str, Path], planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = Reader(runs["lego"], planted).dataset_videos(planted, [VIDEO])
    monkeypatch.setattr("lego_fusion.why.reading.MOST_COLUMNS", 5)
    monkeypatch.setattr("lego_fusion.why.reading._ROWS_AT_ONCE", 7)  # more than one piece
    (some,) = Reader(runs["lego"], planted).dataset_videos(planted, [VIDEO])
    assert whole.fused is not None
    assert some.fused is not None
    most = np.sort(np.argsort(-whole.fused.sum(0), kind="stable")[:5])
    assert [whole.columns[column] for column in most] == list(some.columns)
    assert np.allclose(some.fused, whole.fused[:, most], atol=1e-6)
    assert np.allclose(some.graphs["text"], whole.graphs["text"][:, most], atol=1e-6)
    assert some.known == whole.known


@pytest.mark.parametrize("method", ["lego", "lego-paper", "fixed"])
def test_parts_add_up_to_the_logit_above_the_typical_normal_segment(
    runs: dict[str, Path], planted: Dataset, method: str
) -> None:
    (reading,) = Reader(runs[method], planted).dataset_videos(planted, [VIDEO])
    assert set(reading.parts) == {"motion", "text"} == set(reading.graphs)
    assert reading.baseline is not None
    constant = reading.logits - reading.baseline - sum(reading.parts.values())
    if method != "lego-paper":  # in the paper's reading the identity has a term of its own, which belongs to no modality
        assert np.allclose(constant, 0, atol=1e-4)
    assert np.isfinite(constant).all()


def test_scores_and_events_are_those_of_the_run(runs: dict[str, Path], planted: Dataset) -> None:
    names = [record.video for record in planted.select(split="test")]
    told: list[tuple[int, int]] = []
    readings = Reader(runs["lego"], planted).dataset_videos(
        planted, names, on_video=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (len(names), len(names))
    for reading, scores in zip(readings, score_dataset(runs["lego"], planted, names), strict=True):
        assert reading.video == scores.video
        assert (reading.scores.logits == scores.logits).all()
        assert reading.peak == reading.logits.max()
        assert [event.peak >= reading.rule.threshold for event in reading.events] == [True] * len(reading.events)


def test_segments_cover_the_video_and_columns_are_the_references(runs: dict[str, Path], planted: Dataset) -> None:
    reader = Reader(runs["lego"], planted)
    (reading,) = reader.dataset_videos(planted, [VIDEO])
    frames = planted.records[VIDEO].frames
    assert len(reading.segments) == NODES == len(reading.logits)
    assert reading.segments[0].start_frame == 0
    assert reading.segments[-1].end_frame == frames
    assert all(one.video.startswith("train_normal") for one in reading.columns)
    assert {graph.shape for graph in reading.graphs.values()} == {(NODES, len(reading.columns))}
    (square,) = Reader(runs["lego-paper"], planted).dataset_videos(planted, [VIDEO])
    assert square.columns == square.segments
    assert square.known == 0


def test_segments_of_a_fixed_duration_are_read_as_many_as_there_are(runs: dict[str, Path], planted: Dataset) -> None:
    reader = Reader(runs["fixed"], planted)
    (reading,) = reader.dataset_videos(planted, [VIDEO])
    rows, frames = planted.rows(VIDEO), planted.records[VIDEO].frames
    assert len(reading.segments) == -(-rows // 2)
    assert reading.segments[1] == Segment(VIDEO, 16, 32)
    assert reading.segments[-1].end_frame == frames
    assert reading.scores.logits is not None
    assert np.allclose(reading.logits, reading.scores.logits[[one.start_frame for one in reading.segments]])
    assert len(reading.parts["text"]) == len(reading.segments)
    assert reader.notes == []
    (windows,) = Reader(runs["fixed-paper"], planted).dataset_videos(planted, [VIDEO])
    assert windows.graphs == {}  # every segment has a window of its own
    assert windows.fused is None
    assert windows.parts == {}


def test_a_baseline_has_no_graphs(runs: dict[str, Path], planted: Dataset) -> None:
    reader = Reader(runs["concat"], planted)
    (reading,) = reader.dataset_videos(planted, [VIDEO])
    assert (reading.graphs, reading.fused, reading.columns, reading.parts) == ({}, None, (), {})
    assert coefficient_tables(reader.detector) == []
    assert len(reading.logits) == NODES


def test_without_the_training_videos_the_parts_of_the_papers_reading_are_left_out(
    runs: dict[str, Path], planted: Dataset, write_planted: Callable[..., Dataset], tmp_path: Path
) -> None:
    assert "--data" in Reader(runs["lego-paper"]).notes[0]
    other = write_planted(tmp_path / "other", train=(1, 1), test=(1, 1))
    reader = Reader(runs["lego-paper"], other)
    (reading,) = reader.dataset_videos(other, [VIDEO])
    assert reading.parts == {}
    assert reading.fused is not None
    assert "left out" in reader.notes[0]
    reader = Reader(runs["lego"], other)  # holds what it knows itself
    (reading,) = reader.dataset_videos(other, [VIDEO])
    assert set(reading.parts) == {"motion", "text"}
    assert reader.notes == Reader(runs["lego"]).notes == []


@pytest.mark.parametrize("form", ["joint", "all-pairs"])
def test_coefficients_are_those_by_which_the_operator_fuses(form: str) -> None:
    names = {"a": 2, "b": 3, "c": 4}
    fusion = PaperFusion(names, nodes=4, order=2, form=form, zero_order="ones")  # type: ignore[arg-type]
    tables = {(one.rows, one.columns): one.values for one in coefficient_tables(Detector(fusion))}
    assert set(tables) == {("a", "b"), ("a", "c"), ("b", "c")}
    constant = {name: torch.full((1, 4, 4), value) for name, value in (("a", 2.0), ("b", 3.0), ("c", 0.0))}
    with torch.no_grad():
        fused = float(fusion.operator.eval()(constant)[0, 0, 0])  # R_c = 0 leaves the terms without c
    powers = np.outer([2.0**p for p in range(3)], [3.0**q for q in range(3)])
    assert float((tables["a", "b"] * powers).sum()) == pytest.approx(fused, rel=1e-4)
    alone = PaperFusion({"a": 2}, nodes=4, order=3)
    (table,) = coefficient_tables(Detector(alone))
    assert (table.rows, table.columns, table.values.shape) == ("", "a", (1, 4))


def test_the_card_says_what_a_model_was_and_was_not_tried_on(runs: dict[str, Path], planted: Dataset) -> None:
    card = model_card(runs["lego"], planted)
    assert list(card) == ["Model", "Trained on", "Labels", "Measured on", "Calibration", "Not tried on", "Limits"]
    assert card["Trained on"]["videos"].startswith("10: 6 normal, 4 abnormal")
    assert card["Trained on"]["dataset"] == "planted"
    assert "train_normal_0" in card["Trained on"]["names"]
    assert card["Not tried on"]["other rates"] == "frame rates other than 10"
    assert "measured on no video" in card["Not tried on"]["any at all"]
    assert card["Calibration"] == {"none": UNCALIBRATED}
    assert "fixed" not in card["Model"]["segments"]
    assert model_card(runs["fixed"])["Model"]["segments"].startswith("2 snippets each")
    assert model_card(runs["lego"])["Trained on"]["videos"] == "10"  # labels are in the dataset alone
    assert card["Model"]["world"].startswith("known world")
    assert "seed" not in card["Model"]["training"]
    assert "world" not in model_card(runs["concat"])["Model"]
    assert "seed 0" in model_card(runs["concat"])["Model"]["training"]


def test_the_card_tells_the_promise_and_suspects(runs: dict[str, Path], tmp_path: Path) -> None:
    calibrate_run(runs["concat"], None, "fixed", 1.5)
    card = model_card(runs["concat"])["Calibration"]
    assert card["threshold"] == "logit 1.50"
    assert "no promise" in card["promise"]
