"""Explanations of events: sums against the model itself, removals by identities, planted truth, and every refusal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lego_fusion.alarm.events import high_spans
from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.errors import DataError, ManifestError, ParameterError
from lego_fusion.extract.captions import Caption
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import load_bags, scoring_inputs, without_graphs
from lego_fusion.learn.checkpoint import load_detector, save_detector
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import load_run_bags, score_dataset
from lego_fusion.learn.train import predict_logits
from lego_fusion.why.contributions import run_contributions
from lego_fusion.why.explainer import Explainer, explain_video
from lego_fusion.why.learned import explain_operator, operator_history, reading_weights
from lego_fusion.why.parts import operator_of
from lego_fusion.why.records import VideoExplanation, event_document, with_captions

NODES, ROWS, ODD = 8, 24, slice(9, 15)  # a segment is three snippets of 8 frames; three segments are odd
KINDS = {"motion": "magnitude", "text": "direction", "audio": "direction"}


def write_odd(root: Path) -> Dataset:
    """Normal videos that differ by noise; in test videos one modality alone is odd, or none, in frames 72 to 119."""
    random = np.random.default_rng(1)
    manifests = {
        name: Manifest(modality=name, extractor=name, version="1", width=4, stride=8, snippet_frames=8, nature=nature)
        for name, nature in KINDS.items()
    }
    records, intervals, features = [], [], {}
    names = [f"normal_{n}" for n in range(5)] + [f"odd_{n}" for n in range(3)] + ["odd_motion", "odd_text", "odd_audio", "calm"]
    for name in names:
        odd = list(KINDS) if name in ("odd_0", "odd_1", "odd_2") else [name.removeprefix("odd_")]
        values = {kind: np.eye(4)[0] * 3 + 0.3 * random.normal(size=(ROWS, 4)) for kind in KINDS}
        for kind in odd:
            if kind in values:
                values[kind][ODD] = np.eye(4)[1] * 3 + 0.3 * random.normal(size=(6, 4))
        abnormal = name.startswith("odd")
        records.append(VideoRecord(name, "abnormal" if abnormal else "normal", ROWS * 8, 10.0, "test"))
        if name[-1].isdigit():
            records[-1] = VideoRecord(name, records[-1].label, ROWS * 8, 10.0, "train")
        if abnormal:
            intervals.append(Interval(name, 72, 120))
        features[name] = values
    dataset = write_dataset(
        root, DatasetConfig(name="odd", stride=8, snippet_frames=8, modalities=manifests), records, intervals
    )
    for name, values in features.items():
        for kind, rows in values.items():
            write_features(root, kind, name, rows)
    return dataset


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_odd(tmp_path_factory.mktemp("odd") / "data")


def trained(odd: Dataset, folder: Path, **options: object) -> Path:
    train_run(odd, folder, nodes=NODES, training=TrainingConfig(steps=options.pop("steps", 15), seed=0), **options)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def run(odd: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(odd, tmp_path_factory.mktemp("runs") / "lego", smoothing=0.0)  # spans are those of whole segments


@pytest.fixture(scope="module")
def paper(odd: Dataset, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's graphs with sorted rows and a joint operator, untrained."""
    return resaved(odd, run, tmp_path_factory.mktemp("runs") / "paper", sorted_rows())


def sorted_rows(**options: object) -> PaperFusion:
    given = {"rows": "sorted", "form": "joint", "zero_order": "ones", "relations": "gaussian", "seed": 0} | options
    return PaperFusion(dict.fromkeys(KINDS, 4), nodes=NODES, **given)  # type: ignore[arg-type]


def resaved(odd: Dataset, run: Path, folder: Path, fusion: PaperFusion, first_order: bool = False) -> Path:
    """A run with another fusion, or with an operator of first-order terms only."""
    _, config = load_detector(run)
    train = load_bags(odd, list(KINDS), config.dataset["train"], nodes=NODES)  # type: ignore[arg-type]
    fusion.fit(train.inputs, train.bag_labels, train.video_ids)
    detector = Detector(fusion, seed=0)
    if first_order:
        with torch.no_grad():
            for factor in fusion.operator.factors.values():
                factor.mul_(factor.abs() > 0.1)
    save_detector(folder, detector, config.model_copy(update={"detector": detector.config(), "references": []}))
    return folder


def in_own_world(run: Path, folder: Path) -> Path:
    """The same run with every weight of its head moved, and a third of its logit from the graph inside the video."""
    detector, config = load_detector(run)
    head = detector.reading_head
    assert head is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        head.own_share.fill_(float(np.log(0.5)))
    head.use_own_world(True)
    save_detector(folder, detector, config)
    return folder


def head_by_hand(detector: Detector, row: torch.Tensor) -> float:
    first, second = detector.head.first, detector.head.second
    hidden = (first.weight @ row + first.bias).clamp_min(0)
    return float(second.weight[0] @ hidden + second.bias[0])


# What is said agrees with the model


def test_scores_and_spans_are_those_of_the_detector(odd: Dataset, run: Path) -> None:
    explained = explain_video(run, odd, "odd_text")
    known = score_dataset(run, odd, ["odd_text"])[0]
    np.testing.assert_allclose(explained.scores, known.scores, atol=1e-6)
    spans = sorted(high_spans(known), key=lambda span: span.start_frame)
    assert [(e.span.start_frame, e.span.end_frame) for e in explained.events] == [(s.start_frame, s.end_frame) for s in spans]
    assert explained.truth is not None
    assert explained.truth.sum() == 48


def check_sums(explained: VideoExplanation, *, reading: bool) -> None:
    """Every way to group the parts adds up to what the logit is above the baseline, and nothing is left over."""
    assert explained.events
    for event in explained.events:
        assert event.parts is not None
        assert event.peak_parts is not None
        for parts in (event.parts, event.peak_parts):
            constant = parts.by_support.get((), 0.0)
            assert abs(parts.gap) < 1e-4
            assert sum(parts.by_modality.values()) + constant + parts.gap == pytest.approx(parts.excess, abs=1e-9)
            assert sum(parts.by_support.values()) + parts.gap == pytest.approx(parts.excess, abs=1e-9)
            assert sum(parts.by_reading.values()) + parts.gap == pytest.approx(parts.excess, abs=1e-9)
            if reading:
                degrees = parts.by_reading["degree"] + parts.by_reading["own video"]
                assert sum(parts.by_order.values()) == pytest.approx(degrees, abs=1e-6)
                columns = sum(one.part for one in parts.columns) + parts.other_columns
                assert columns == pytest.approx(parts.by_reading["departure"] + parts.by_reading["near in time"], abs=1e-6)
            else:
                assert sum(parts.by_order.values()) + constant + parts.gap == pytest.approx(parts.excess, abs=1e-9)


@pytest.mark.parametrize("model", ["fixed", "own world", "learned", "stream", "stream, own world"])
def test_parts_add_up_from_the_typical_normal_segment_to_the_logit(odd: Dataset, run: Path, tmp_path: Path, model: str) -> None:
    folder = run
    if "learned" in model:
        folder = trained(odd, tmp_path / "learned", options={"operator": "learned"})
    if "stream" in model:
        folder = trained(odd, tmp_path / "stream", segment_snippets=2)
    if "own world" in model:
        folder = in_own_world(folder, tmp_path / "own")
    detector, config = load_detector(folder)
    explained = explain_video(folder, odd, "odd_motion", threshold=0.05)
    check_sums(explained, reading=True)
    logits = predict_logits(detector, load_run_bags(config, odd, ["odd_motion"]))[0]
    highest = max(event.logit for event in explained.events)
    assert highest == pytest.approx(float(logits.max()), abs=1e-5)
    head = detector.reading_head
    assert head is not None
    for event in explained.events:
        assert event.parts is not None
        assert event.parts.baseline == pytest.approx(float(head.bias.detach()) - 2.0, abs=1e-6)
        assert (event.parts.by_reading["own video"] == 0) == ("own world" not in model)
    known = score_dataset(folder, odd, ["odd_motion"])[0]
    np.testing.assert_allclose(explained.scores, known.scores, atol=1e-6)
    assert explained.world.startswith("own world (alpha = 0.33)" if "own world" in model else "known world")


def test_the_part_of_a_modality_is_what_the_logit_loses_when_its_readings_are_typical(
    odd: Dataset, run: Path, tmp_path: Path
) -> None:
    """Through the model itself: a zero reading is a typical normal segment's."""
    folder = in_own_world(run, tmp_path / "own")
    detector, config = load_detector(folder)
    frozen = scoring_inputs(detector.fusion, load_run_bags(config, odd, ["odd_0"]))
    explained = explain_video(folder, odd, "odd_0")
    with torch.no_grad():
        whole = detector(frozen.inputs, cached=True).logits[0].double()
        for name, part in explained.by_modality.items():
            without = detector(without_graphs(detector.fusion, frozen, [name]).inputs, cached=True).logits[0].double()
            np.testing.assert_allclose(whole - without, part, atol=1e-4)


def test_the_columns_that_count_are_those_that_were_weighed(odd: Dataset, run: Path, tmp_path: Path) -> None:
    detector, config = load_detector(run)
    head = detector.reading_head
    assert head is not None
    with torch.no_grad():
        head.weights.zero_()
        head.weights[4 + 1] = 2.0  # column 1 of text, which is where odd text goes
    save_detector(tmp_path / "one", detector, config)
    event = explain_video(tmp_path / "one", odd, "odd_text").events[0]
    assert event.peak_parts is not None
    (column,) = event.peak_parts.columns
    assert (column.modality, column.column, column.name) == ("text", 1, "column 1")
    assert column.moved > 0
    node = next(n for n, one in enumerate(explain_video(tmp_path / "one", odd, "odd_text").segments) if one == event.segment)
    bags = scoring_inputs(detector.fusion, load_run_bags(config, odd, ["odd_text"]))
    departure = bags.inputs["text"][0, :, 4 + 1].double().numpy()  # after two degrees and two inside the video
    away = np.arange(len(departure)) - node
    kernel = np.exp(-(away**2) / (2 * 2.0**2)) * (abs(away) <= 8)
    assert column.moved == pytest.approx(departure[node], rel=1e-5)
    assert column.part == pytest.approx(2.0 * (departure[node] + kernel @ departure / kernel.sum()) / 2**0.5, rel=1e-4)
    assert event.peak_parts.other_columns == pytest.approx(0.0, abs=1e-9)


def test_what_is_compared_with_is_known_and_weighs_one(odd: Dataset, run: Path) -> None:
    event = explain_video(run, odd, "odd_text").events[0]
    fusion = load_detector(run)[0].fusion
    x = load_bags(odd, list(KINDS), ["odd_text"], nodes=NODES).inputs
    node = next(n for n, one in enumerate(explain_video(run, odd, "odd_text").segments) if one == event.segment)
    assert sum(one.value for one in event.received) == pytest.approx(1.0, abs=1e-6)
    for name in KINDS:  # by hand: 1 / (1 + d^2 / s^2) of all known segments
        known = fusion.known_segments()[name]
        squared = ((x[name][0, node] - known.references) / known.near).double().square().sum(1)
        relation = 1 / (1 + squared / known.bandwidth.double().square())
        found = [one.value for one in event.known if one.modality == name]
        assert found == pytest.approx(relation.sort(descending=True).values[:3].tolist(), rel=1e-3)
        where = {one.segment.video for one in event.known if one.modality == name}
        assert all(video.startswith("normal") for video in where)
    assert [one.modality for one in event.known][-9:] == [name for name in KINDS for _ in range(3)]


@pytest.mark.parametrize("videos", ["here", "gone"])
def test_a_run_that_knows_more_normals_is_explained_too(odd: Dataset, run: Path, tmp_path: Path, videos: str) -> None:
    detector, config = load_detector(run)
    bags = load_bags(odd, list(KINDS), ["calm"], nodes=NODES)
    detector.fusion.add_references(  # type: ignore[operator]
        {name: x[0] for name, x in bags.inputs.items()}, torch.zeros(NODES, dtype=torch.long)
    )
    added = [{"video": "calm", "start_frame": 24 * n, "end_frame": 24 * n + 24} for n in range(NODES)]
    more = config.model_copy(update={"references": [*config.references, *added], "detector": detector.config()})
    save_detector(tmp_path / "more", detector, more)
    data = odd
    if videos == "gone":  # nothing of the training videos is needed
        data = changed(odd, tmp_path / "data", records=[one for one in odd.videos if one.split == "test"])
    explained = explain_video(tmp_path / "more", data, "odd_motion")
    check_sums(explained, reading=True)
    assert "calm" in explained.normal_videos
    calm = explain_video(tmp_path / "more", data, "calm", threshold=0.0).events[0]
    assert {one.segment.video for one in calm.nearest} == {"calm"}
    assert calm.nearest[0].distance < 1e-2


def test_parts_of_the_papers_reading_add_up_from_the_typical_row(odd: Dataset, paper: Path) -> None:
    detector, config = load_detector(paper)
    fusion = detector.fusion
    assert isinstance(fusion, PaperFusion)
    names = config.dataset["train"]
    bags = load_bags(odd, list(KINDS), names, nodes=NODES)  # type: ignore[arg-type]
    with torch.no_grad():
        graphs = fusion.relations({name: x[~bags.bag_labels] for name, x in bags.inputs.items()})
        fused = fusion.operator(graphs, square=True)
        baseline = head_by_hand(detector, fused.sort(-1, descending=True).values.flatten(0, 1).mean(0))
        logits = predict_logits(detector, load_bags(odd, list(KINDS), ["odd_motion"], nodes=NODES))[0]
    explained = explain_video(paper, odd, "odd_motion", threshold=0.0)
    check_sums(explained, reading=False)
    event = explained.events[0]
    assert event.parts is not None
    assert event.peak_parts is not None
    assert event.logit == pytest.approx(float(logits.max()), abs=1e-5)
    assert event.parts.baseline == pytest.approx(baseline, abs=1e-5)
    listed = sum(one.part for one in event.relations)
    assert listed + event.other_relations == pytest.approx(event.peak_parts.excess - event.peak_parts.gap, abs=1e-6)
    assert [abs(one.part) for one in event.relations] == sorted((abs(one.part) for one in event.relations), reverse=True)


def test_smoothed_scores_are_explained_without_remainder(odd: Dataset, run: Path, tmp_path: Path) -> None:
    """The weights are those of the run that is not smoothed; its segments' logits, smoothed by a loop, are explained."""
    detector, config = load_detector(run)
    save_detector(tmp_path / "smoothed", detector, config.model_copy(update={"smoothing": 1.0}))
    shutil.copy(run / "request.json", tmp_path / "smoothed")
    explained = explain_video(tmp_path / "smoothed", odd, "odd_text")
    (scored,) = score_dataset(tmp_path / "smoothed", odd, ["odd_text"])
    np.testing.assert_allclose(explained.scores, scored.scores, atol=1e-6)
    logits = predict_logits(detector, load_bags(odd, list(KINDS), ["odd_text"], nodes=NODES))[0].double().numpy()
    steps = np.repeat(logits, 6)  # 24 frames in steps of 4, which last 0.4 s
    weights = np.exp(-((np.subtract.outer(np.arange(48), np.arange(48)) * 0.4) ** 2) / 2)
    weights[np.abs(np.subtract.outer(np.arange(48), np.arange(48))) > 10] = 0  # four seconds
    expected = np.repeat(weights @ steps / weights.sum(1), 4)
    np.testing.assert_allclose(scored.logits, expected, atol=1e-5)
    event = explained.events[0]
    span = slice(event.span.start_frame, event.span.end_frame)
    assert event.parts is not None
    assert event.parts.logit == pytest.approx(expected[span].mean(), abs=1e-5)
    assert abs(event.parts.gap) < 1e-4
    assert 72 <= event.segment.start_frame < 120  # of those that show the event, not of those that reach into it


def test_parts_over_time_are_those_of_the_event(odd: Dataset, run: Path) -> None:
    explained = explain_video(run, odd, "odd_text")
    event = explained.events[0]
    inside = [n for n, one in enumerate(explained.segments) if one == event.segment]
    assert event.peak_parts is not None
    for name, parts in explained.by_modality.items():
        assert parts[inside[0]] == pytest.approx(event.peak_parts.by_modality[name], abs=1e-5)


@pytest.mark.parametrize("modality", KINDS)
def test_the_planted_modality_and_frames_are_named(odd: Dataset, run: Path, modality: str) -> None:
    (event,) = explain_video(run, odd, f"odd_{modality}").events
    assert (event.span.start_frame, event.span.end_frame) == (72, 120)
    assert event.modalities[0] == modality
    assert event.parts is not None
    assert event.parts.share(event.parts.by_modality[modality]) > 0.7  # type: ignore[operator]
    assert event.shapley is not None
    assert max(event.shapley, key=event.shapley.__getitem__) == modality
    scores = {one.modality: one.without for one in event.counterfactuals}
    assert scores[modality] < 0.5 < min(score for name, score in scores.items() if name != modality)
    unusual = {one.modality: one.unusual for one in event.nearest}
    assert unusual[modality] == 1
    assert event.known
    assert all(one.segment.video.startswith("normal") for one in event.known)


def test_a_calm_video_has_no_event(odd: Dataset, run: Path) -> None:
    explained = explain_video(run, odd, "calm")
    assert explained.events == ()
    assert explained.shown_segments() == []
    everywhere = explain_video(run, odd, "calm", threshold=0.0).events
    assert [(event.span.start_frame, event.span.end_frame) for event in everywhere] == [(0, ROWS * 8)]


# Removals


@pytest.mark.parametrize("removal", ["typical", "drop-term"])
def test_shapley_values_divide_what_the_score_has_above_no_modality(odd: Dataset, run: Path, removal: str) -> None:
    event = explain_video(run, odd, "odd_0", removal=removal).events[0]  # type: ignore[arg-type]
    assert event.shapley is not None
    assert event.score_without_all is not None
    assert sum(event.shapley.values()) == pytest.approx(event.span.peak - event.score_without_all, abs=1e-5)


def test_dropping_the_terms_of_all_modalities_leaves_the_typical_normal_segment(odd: Dataset, run: Path) -> None:
    event = explain_video(run, odd, "odd_text", removal="drop-term").events[0]
    assert event.parts is not None
    assert event.score_without_all == pytest.approx(1 / (1 + np.exp(-event.parts.baseline)), abs=1e-6)


def test_of_the_default_both_removals_are_one(odd: Dataset, run: Path) -> None:
    typical, dropped = (explain_video(run, odd, "odd_0", removal=r).events[0] for r in ("typical", "drop-term"))  # type: ignore[arg-type]
    assert typical.counterfactuals == dropped.counterfactuals
    assert typical.shapley == dropped.shapley


def test_the_degree_of_a_learned_graph_needs_all_of_its_modalities(odd: Dataset, tmp_path: Path) -> None:
    folder = trained(odd, tmp_path / "learned", options={"operator": "learned"})
    typical, dropped = (explain_video(folder, odd, "odd_0", removal=r).events[0] for r in ("typical", "drop-term"))  # type: ignore[arg-type]
    assert typical.peak_parts is not None
    together = typical.peak_parts.by_support[tuple(KINDS)]
    assert together != 0
    for one, other in zip(typical.counterfactuals, dropped.counterfactuals, strict=True):
        assert one.without_logit != other.without_logit
    node = typical.peak_parts
    lone = node.baseline + node.by_support[("text",)]
    assert dropped.counterfactuals[1].alone_logit >= lone - 1e-4
    assert typical.counterfactuals[1].alone_logit >= lone + together / 3 - 1e-4


def test_without_interactions_and_powers_both_removals_are_one(odd: Dataset, run: Path, tmp_path: Path) -> None:
    linear = resaved(odd, run, tmp_path / "linear", sorted_rows(), first_order=True)
    typical, dropped = (
        explain_video(linear, odd, "odd_motion", threshold=0.0, removal=r).events[0]  # type: ignore[arg-type]
        for r in ("typical", "drop-term")
    )
    for one, other in zip(typical.counterfactuals, dropped.counterfactuals, strict=True):
        assert one.without_logit == pytest.approx(other.without_logit, abs=1e-4)
        assert one.alone_logit == pytest.approx(other.alone_logit, abs=1e-4)


def test_the_typical_relations_stand_at_the_ranks_of_the_row(odd: Dataset, paper: Path) -> None:
    """By loops: the j-th column of the fused row gets what normal segments have in their j-th column on average."""
    explainer = Explainer(paper, odd)
    detector, fusion = explainer.detector, explainer.detector.fusion
    assert isinstance(fusion, PaperFusion)
    explained = explainer.explain("odd_text", threshold=0.0)
    event = explained.events[0]
    train = load_bags(odd, list(KINDS), explainer.config.dataset["train"], nodes=NODES)  # type: ignore[arg-type]
    with torch.no_grad():
        graphs = fusion.relations(train.inputs)
        fused = fusion.operator(graphs, square=True)
        columns = fused.shape[-1]
        typical = np.zeros(columns)
        normal = (~train.bag_labels).nonzero()[:, 0].tolist()
        for bag in normal:
            for place in range(NODES):
                ranked = sorted(range(columns), key=lambda k: -float(fused[bag, place, k]))
                typical += np.array([float(graphs["text"][bag, place, k]) for k in ranked]) / (len(normal) * NODES)
        own = fusion.relations(load_bags(odd, list(KINDS), ["odd_text"], nodes=NODES).inputs)
        rows = fusion.operator(own, square=True)[0]
        changed = {name: graph.clone() for name, graph in own.items()}
        for node in range(NODES):
            for rank, column in enumerate(sorted(range(columns), key=lambda k: -float(rows[node, k]))):
                changed["text"][0, node, column] = typical[rank]
        logits = detector(changed, cached=True).logits[0]
    without = {one.modality: one.without_logit for one in event.counterfactuals}
    assert without["text"] == pytest.approx(float(logits.max()), abs=1e-4)


# Other models


@pytest.mark.parametrize("rows", ["sorted", "ordered"])
def test_graphs_inside_one_video_are_explained_by_its_own_segments(odd: Dataset, run: Path, tmp_path: Path, rows: str) -> None:
    fusion = PaperFusion(dict.fromkeys(KINDS, 4), nodes=NODES, rows=rows, seed=0)  # type: ignore[arg-type]
    explained = explain_video(resaved(odd, run, tmp_path / rows, fusion), odd, "odd_text", threshold=0.0)
    (event,) = explained.events
    assert event.parts is not None
    assert sum(event.parts.by_support.values()) + event.parts.gap == pytest.approx(event.parts.excess, abs=1e-6)
    assert abs(event.parts.gap) < 1e-4
    assert {one.other.video for one in event.relations} == {"odd_text"}


@pytest.mark.parametrize("model", ["concat", "statistics"])
def test_other_models_are_explained_by_what_they_say_without_a_modality(
    odd: Dataset, run: Path, tmp_path: Path, model: str
) -> None:
    if model == "concat":
        folder = trained(odd, tmp_path / model, method="concat", steps=60)
    else:
        fusion = PaperFusion(dict.fromkeys(KINDS, 4), nodes=NODES, rows="statistics")
        folder = resaved(odd, run, tmp_path / model, fusion)
    explained = explain_video(folder, odd, "odd_text", threshold=0.0)
    (event,) = explained.events
    assert event.parts is None
    assert event.relations == ()
    assert explained.by_modality == {}
    assert "mean over the segments of normal" in explained.removal_meaning
    assert event.shapley is not None
    assert sum(event.shapley.values()) == pytest.approx(event.span.peak - event.score_without_all, abs=1e-6)  # type: ignore[operator]
    assert {one.modality for one in event.counterfactuals} == set(KINDS)
    json.dumps(event_document(event), allow_nan=False)
    with pytest.raises(ParameterError, match="only a logit that is a sum of parts has terms to drop"):
        explain_video(folder, odd, "odd_text", removal="drop-term")


def test_windows_of_a_stream_are_explained_without_parts(odd: Dataset, tmp_path: Path) -> None:
    """Where every segment has a window, and so graphs, of its own."""
    folder = trained(odd, tmp_path / "paper", method="lego-paper", segment_snippets=2, steps=2)
    explained = explain_video(folder, odd, "odd_text", threshold=0.0)
    (event,) = explained.events
    assert event.parts is None
    assert len(explained.segments) == ROWS // 2
    np.testing.assert_allclose(explained.scores, score_dataset(folder, odd, ["odd_text"])[0].scores, atol=1e-6)
    assert event.nearest[0].segment.video.startswith("normal")


@pytest.mark.parametrize("options", [{}, {"operator": "learned"}], ids=["fixed", "learned"])
def test_crops_count_by_their_mean(write_planted: Callable[..., Dataset], tmp_path: Path, options: dict[str, object]) -> None:
    data = write_planted(tmp_path / "crops", crops=2)
    train_run(data, tmp_path / "run", nodes=NODES, training=TrainingConfig(steps=5), options=options)
    detector, config = load_detector(tmp_path / "run")
    explained = explain_video(tmp_path / "run", data, "test_abnormal_0")
    check_sums(explained, reading=True)
    logits = predict_logits(detector, load_run_bags(config, data, ["test_abnormal_0"]))[0]
    assert explained.events[0].logit == pytest.approx(float(logits.max()), abs=1e-4)


# Nearest normals and captions


def test_a_copy_of_a_normal_video_is_nearest_to_itself(odd: Dataset, run: Path) -> None:
    event = explain_video(run, odd, "normal_2", threshold=0.0).events[0]
    for one in event.nearest:
        assert one.segment == event.segment
        assert one.distance < 1e-2
        assert one.unusual == 0


def test_captions_and_the_words_that_set_a_segment_apart(odd: Dataset, run: Path) -> None:
    said = {name: [Caption(0, ROWS * 8, "people walk on a path")] for name in ("normal_0", "normal_1")}
    said["odd_text"] = [Caption(0, 72, "people walk"), Caption(72, 120, "a CYCLIST and people on a path")]
    event = with_captions(explain_video(run, odd, "odd_text"), said).events[0]
    assert event.captions == ("a CYCLIST and people on a path",)
    assert [(one.word, one.here, one.normal) for one in event.words] == [("and", 1.0, 0.0), ("cyclist", 1.0, 0.0)]
    unknown = with_captions(explain_video(run, odd, "odd_text"), {"odd_text": said["odd_text"]}).events[0]
    assert unknown.words == ()  # with no normal caption, no word is rare


# The operator of runs


@pytest.mark.parametrize("method", ["lego-paper", "lego"])
def test_the_operator_of_one_run_and_the_spread_of_several(odd: Dataset, tmp_path: Path, method: str) -> None:
    given: dict[str, object] = {"method": method, "options": {"operator": "learned"} if method == "lego" else {"form": "joint"}}
    folders = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        train_run(odd, folder, nodes=NODES, training=TrainingConfig(steps=15, seed=seed), **given)  # type: ignore[arg-type]
    one = explain_operator(folders[:1], odd)
    assert sum(one.by_support.values()) == pytest.approx(1, abs=1e-6)
    assert sum(one.by_order.values()) == pytest.approx(1, abs=1e-6)
    assert all(row.deviation is None for row in one.rows)
    both = explain_operator(folders, odd)
    operators = [operator_of(load_detector(folder)[0].fusion) for folder in folders]
    dense = [operator.dense_coefficients().detach().double() for operator in operators]
    row = next(row for row in both.rows if row.powers == {"text": 1})
    values = torch.stack(dense)[:, 0, 1, 0]
    assert row.coefficient == pytest.approx(float(values.mean()), abs=1e-9)
    assert row.deviation == pytest.approx(float(values.std()), rel=1e-6, abs=1e-9)
    json.dumps(both.document(), allow_nan=False)


def test_the_weights_of_the_head_are_those_that_score(odd: Dataset, run: Path, tmp_path: Path) -> None:
    found = reading_weights(load_detector(in_own_world(run, tmp_path / "own"))[0])
    assert found is not None
    head = load_detector(tmp_path / "own")[0].requires_grad_(False).reading_head
    assert head is not None
    assert found.alpha == pytest.approx(1 / 3, abs=1e-6)
    assert found.degrees["text"] == pytest.approx(np.exp(head.log_a[1].tolist()).tolist())
    assert found.departure["text"] == pytest.approx(float(head.weights[4:8].norm()))
    assert set(found.own) == set(KINDS)
    json.dumps(found.document(), allow_nan=False)
    plain = reading_weights(load_detector(run)[0])
    assert plain is not None
    assert (plain.own, plain.alpha) == ({}, 0.0)


# What is refused


def test_what_is_not_there_is_named(odd: Dataset, run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no video 'nobody'"):
        explain_video(run, odd, "nobody")
    with pytest.raises(ParameterError, match="'threshold' parameter of explain"):
        explain_video(run, odd, "calm", threshold=1.5)
    with pytest.raises(DataError, match="no run to explain"):
        explain_operator([], odd)
    concat = trained(odd, tmp_path / "concat", method="concat", steps=1)
    for folder in (concat, run):
        with pytest.raises(ParameterError, match="no learned operator whose terms can be read"):
            explain_operator([folder], odd)
        with pytest.raises(ParameterError, match="no learned operator whose terms can be read"):
            operator_history(folder, odd)


def test_removals_are_two(odd: Dataset, run: Path, unchecked_types: None) -> None:
    with pytest.raises(ParameterError, match="must be one of 'typical', 'drop-term'"):
        explain_video(run, odd, "calm", removal="zero")  # type: ignore[arg-type]


def changed(odd: Dataset, root: Path, **update: object) -> Dataset:
    shutil.copytree(odd.root, root)
    records = update.get("records", odd.videos)
    there = {one.video for one in records}  # type: ignore[attr-defined]
    return write_dataset(
        root,
        odd.config.model_copy(update=update.get("config", {})),  # type: ignore[arg-type]
        records,  # type: ignore[arg-type]
        [one for video in odd.ground_truth.values() for one in video if one.video in there],
    )


def test_another_dataset_is_refused(odd: Dataset, run: Path, paper: Path, tmp_path: Path) -> None:
    modalities = {name: manifest for name, manifest in odd.modalities.items() if name != "text"}
    with pytest.raises(DataError, match="modality 'text' is missing"):
        explain_video(run, changed(odd, tmp_path / "a", config={"modalities": modalities}), "calm")
    others = dict(odd.modalities) | {"text": odd.modalities["text"].model_copy(update={"version": "2"})}
    with pytest.raises(ManifestError, match="dataset 'odd'"):
        explain_video(run, changed(odd, tmp_path / "b", config={"modalities": others}), "calm")
    without = changed(odd, tmp_path / "c", records=[v for v in odd.videos if v.video != "normal_0"])
    with pytest.raises(DataError, match="trained on are not in this dataset"):
        explain_video(paper, without, "calm")
    with pytest.raises(DataError, match="trained on are not in this dataset"):
        run_contributions([run], without)
    learned = trained(odd, tmp_path / "learned", options={"operator": "learned"})
    moved = changed(odd, tmp_path / "d")
    for number in range(5):
        write_features(moved.root, "text", f"normal_{number}", np.ones((ROWS, 4)) * (number + 1))
    with pytest.raises(DataError, match="not as they were when the run was trained"):
        explain_operator([learned], moved)
    with pytest.raises(DataError, match="not as they were when the run was trained"):
        run_contributions([run], moved)
    same, other = explain_video(run, odd, "odd_text"), explain_video(run, moved, "odd_text")
    assert same.events == other.events  # what the run knows, it holds itself
