"""Finer units from dataset folder to score: bags, baselines, unlearned references, training, checkpoints, new videos."""

import math
import shutil

import numpy as np
import pytest
import torch

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.segments import with_presence
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.errors import DataError, ManifestError
from lego_fusion.extract.motion import Motion, MotionCells, MotionFrames
from lego_fusion.extract.run import extract_dataset
from lego_fusion.learn.bags import Bags, fit_frozen, load_bags, scoring_inputs, seen_by, training_inputs, without_units
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.learn.conditions import apply_condition, parse_condition
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.evaluation import evaluate_runs
from lego_fusion.learn.methods import (
    LEARNED,
    UNLEARNED,
    ModelShape,
    make_default_fusion,
    nearest_neighbour_scores,
    nearest_unit_scores,
    run_method,
    scored_videos,
    unit_groups,
)
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset, score_video
from lego_fusion.learn.splits import own_split
from lego_fusion.measure.detection import micro_auc
from lego_fusion.study.plan import make_plan
from lego_fusion.why.contributions import run_contributions
from lego_fusion.why.explainer import Explainer, explain_video
from lego_fusion.why.localise import heat_map_at, heat_maps

N = 8
QUICK = TrainingConfig(steps=3, check_every=2)
GRID = {"snippet_frames": 8, "stride": 8}
MANIFESTS = {
    "motion": Manifest(modality="motion", extractor="motion", version="1", width=3, nature="magnitude", **GRID),
    "cells": Manifest(
        modality="cells",
        extractor="x",
        version="1",
        width=2,
        nature="magnitude",
        unit_kind="cell",
        units=6,
        grid=(2, 3),
        **GRID,
    ),
    "words": Manifest(modality="words", extractor="x", version="1", width=4, unit_kind="word", units=5, **GRID),
}


@pytest.fixture(scope="module")
def fine(tmp_path_factory) -> Dataset:
    """In abnormal videos one cell of a third of the snippets moves as no cell does, which no segment shows."""
    random = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("fine") / "dataset"
    records, intervals, features = [], [], {}
    for split in ("train", "test"):
        for number in range(8):
            label = "abnormal" if number % 2 else "normal"
            video, frames = f"{split}_{number}", int(random.integers(50, 130))
            rows = -(-frames // 8)
            cells = np.abs(random.normal(size=(rows, 6, 2)))
            if label == "abnormal":
                first = int(random.integers(0, rows - rows // 3))
                odd = slice(first, first + rows // 3)
                cells[odd, 4] = 3 + 0.1 * random.normal(size=(rows // 3, 2))
                intervals.append(Interval(video, odd.start * 8, min(frames, odd.stop * 8)))
            features[video] = {
                "motion": random.normal(size=(rows, 3)),
                "cells": with_presence(cells),
                "words": with_presence(random.normal(size=(rows, 5, 4)), random.random((rows, 5)) < 0.7),
            }
            records.append(VideoRecord(video, label, frames, 10.0, split))
    dataset = write_dataset(root, DatasetConfig(name="fine", modalities=MANIFESTS, **GRID), records, intervals)
    for video, by_modality in features.items():
        for modality, values in by_modality.items():
            write_features(root, modality, video, values)
    return dataset


@pytest.fixture(scope="module")
def bags(fine) -> Bags:
    return load_bags(fine, list(MANIFESTS), [record.video for record in fine.videos], nodes=N)


def test_bags_keep_units_and_select_them(fine, bags):
    assert bags.inputs["motion"].shape == (16, N, 3) and bags.inputs["cells"].shape == (16, N, 6, 3)
    words = bags.inputs["words"]
    assert words.shape[:2] == (16, N) and words.shape[-1] == 5
    assert set(words[..., -1].unique().tolist()) == {0.0, 1.0} and not words[..., :-1][words[..., -1] == 0].any()
    one = load_bags(fine, ["words"], ["test_3"], nodes=N).inputs["words"]
    again = bags.named(["test_3"]).inputs["words"]
    assert torch.equal(again[:, :, : one.shape[2]], one) and not again[:, :, one.shape[2] :].any()


def test_a_fusion_that_reads_no_units_meets_their_mean(bags):
    plain = without_units(bags)
    assert {name: x.shape[2] for name, x in plain.inputs.items()} == {"motion": 3, "cells": 2, "words": 4}
    torch.testing.assert_close(plain.inputs["cells"], bags.inputs["cells"][..., :-1].mean(2))
    concat = make_default_fusion("concat", MANIFESTS)
    fit_frozen(concat, bags)
    for inputs in (training_inputs(concat, bags), scoring_inputs(concat, bags), seen_by(concat, bags)):
        assert all(torch.equal(inputs.inputs[name], plain.inputs[name]) for name in MANIFESTS)
    assert unit_groups(MANIFESTS) == {"cells": 2, "words": 1}


EVERY = [*LEARNED, "nearest-neighbours", "nearest-cells"]
ONLY_FINE = ("lego", "lego-paper", "nearest-cells")
CASES = [(method, ("motion", "cells", "words")) for method in EVERY] + [(method, ("words", "cells")) for method in ONLY_FINE]


@pytest.mark.parametrize(("method", "modalities"), CASES)
def test_every_method_scores_fine_units(fine, bags, method, modalities):
    result = run_method(fine, bags, own_split(fine), modalities, method, QUICK, ModelShape(nodes=N))
    assert len(scored_videos(fine, result.node_scores)) == 8
    assert all(torch.isfinite(scores).all() for scores in result.node_scores.values())


def test_an_odd_cell_is_found_that_means_hide(fine, bags):
    def auc(modalities, method):
        result = run_method(fine, bags, own_split(fine), modalities, method, TrainingConfig(), ModelShape(nodes=N))
        return micro_auc(scored_videos(fine, result.node_scores))

    assert auc(("cells",), "lego") > 0.85
    assert auc(("motion", "cells"), "lego") > 0.85, "motion is noise here"
    assert auc(("cells",), "nearest-cells") > auc(("cells",), "nearest-neighbours")


def test_nearest_cells_by_hand(bags):
    train, test = bags.select(range(8)), bags.select([8, 9])
    x, y = train.inputs["cells"], test.inputs["cells"]
    known = {tuple(unit.tolist()) for bag in x[~train.labels] for node in bag for unit in node}
    deviation = torch.tensor([list(unit[:2]) for unit in known]).double().std(0, unbiased=False)
    scale = (deviation * 2**0.5).tolist()

    def novelty(row: int, unit: list[float]) -> float:
        there = {tuple(u[:2].tolist()) for bag in x[~train.labels] for node in bag for u in node[3 * row : 3 * row + 3]}
        scaled = [[value / s for value, s in zip(one, scale, strict=True)] for one in (*there, unit)]
        return sum(sorted(math.dist(scaled[-1], other) for other in scaled[:-1])[:3]) / 3

    got = nearest_unit_scores(train, test, {"cells": 2}, most_novel=2)
    for bag in range(2):
        for node in range(N):
            found = sorted(novelty(u // 3, y[bag, node, u, :2].tolist()) for u in range(6))
            assert float(got[bag, node]) == pytest.approx(sum(found[-2:]) / 2, rel=1e-3)


def test_absent_units_score_nothing_and_need_a_fine_modality(bags):
    train, test = bags.select(range(8)), bags.select([8])
    test.inputs["words"][0, 2] = 0
    scores = nearest_unit_scores(train, test, {"words": 1})
    assert scores[0, 2] == 0 and (scores[0, :2] > 0).all()
    with pytest.raises(DataError, match="nearest cells need a modality of finer units: got motion"):
        nearest_unit_scores(train, test.with_modalities(["motion"]), {})
    assert nearest_neighbour_scores(train, test).shape == (1, N)
    assert "nearest-cells" in UNLEARNED


@pytest.mark.parametrize("method", ["lego", "lego-paper", "concat"])
def test_a_run_is_saved_loaded_and_measured(fine, tmp_path, method):
    names = ("motion", "cells", "words")
    train_run(fine, tmp_path / "run", modalities=names, method=method, training=QUICK, nodes=N)
    scores = score_dataset(tmp_path / "run", fine, own_split(fine).test)
    detector, config = load_detector(tmp_path / "run")
    assert config.manifests["cells"].grid == (2, 3) and list(detector.fusion.modalities) == list(names)
    bags = load_bags(fine, names, own_split(fine).test, nodes=N)
    trained = run_method(
        fine, load_bags(fine, names, [r.video for r in fine.videos], nodes=N), own_split(fine), names, method, QUICK, SHAPE
    )
    for name, tensor in trained.detector.state_dict().items():
        assert torch.equal(tensor, detector.state_dict()[name])
    assert len(bags.videos) == len(scores) and all(np.isfinite(one.scores).all() for one in scores)
    assert evaluate_runs([tmp_path / "run"], fine).results


def test_an_explanation_says_where_in_the_picture(fine, tmp_path):
    """The odd cell is the hottest of the peak's heat map, and parts add up although finer units belong to no one reference."""
    train_run(fine, tmp_path / "run", modalities=("motion", "cells", "words"), training=QUICK, nodes=N)
    explainer = Explainer(tmp_path / "run", fine)
    found = 0
    for record in fine.select(split="test", label="abnormal"):
        explained = explainer.explain(record.video, threshold=0.0)
        (event,) = explained.events
        (heat,) = event.heat_maps  # words have no place
        assert heat.modality == "cells" and np.shape(heat.values) == (2, 3) and abs(event.parts.gap) < 1e-3
        assert event.relations == (), "parts of readings belong to no one relation"
        assert set(event.parts.by_modality) == {"motion", "cells", "words"}
        assert sum(event.parts.by_modality.values()) == pytest.approx(event.parts.excess, abs=1e-3)
        truth = fine.frame_labels(record.video)
        if truth[event.segment.middle]:
            found += 1
            assert np.argmax(heat.values) == 4
    assert found >= 2


def test_cells_alone_and_models_without_cells_are_explained(fine, tmp_path):
    train_run(fine, tmp_path / "cells", modalities=("cells",), training=QUICK, nodes=N)
    (event,) = explain_video(tmp_path / "cells", fine, "test_1", threshold=0.0).events
    assert event.relations == () and len(event.heat_maps) == 1
    assert event.peak_parts.by_modality["cells"] == pytest.approx(event.peak_parts.excess, abs=1e-3)
    train_run(fine, tmp_path / "concat", modalities=("motion", "cells"), method="concat", training=QUICK, nodes=N)
    (event,) = explain_video(tmp_path / "concat", fine, "test_1", threshold=0.0).events
    assert event.heat_maps == () and event.parts is None and len(event.counterfactuals) == 2


def test_a_frame_has_the_heat_of_the_snippets_that_hold_it(fine, tmp_path):
    train_run(fine, tmp_path / "run", modalities=("cells",), training=QUICK, nodes=N)
    detector, _ = load_detector(tmp_path / "run")
    heat = heat_maps(detector.fusion, fine, "cells", "test_1")
    for frame in (0, 7, 8, 15, fine.records["test_1"].frames - 1):
        at = heat_map_at(detector.fusion, fine, "cells", "test_1", frame)
        np.testing.assert_allclose(at.values, heat[min(frame // 8, len(heat) - 1)], rtol=1e-4)


def test_changed_cells_are_noticed(fine, tmp_path):
    train_run(fine, tmp_path / "run", modalities=("motion", "cells"), training=QUICK, nodes=N)
    other = Dataset.open(shutil.copytree(fine.root, tmp_path / "other"))
    for record in other.select(split="train"):
        write_features(other.root, "cells", record.video, np.array(other.features("cells", record.video))[:, ::-1])
    with pytest.raises(DataError, match=r"not as they were when the run was trained \(dataset 'fine', modality 'cells'\)"):
        run_contributions([tmp_path / "run"], other)


def test_a_model_refuses_units_that_were_made_in_another_way(fine, tmp_path):
    train_run(fine, tmp_path / "run", modalities=("cells",), training=QUICK, nodes=N)
    other = fine.config.model_copy(update={"modalities": {"cells": MANIFESTS["cells"].model_copy(update={"grid": (3, 2)})}})
    write_dataset(tmp_path / "other", other, fine.videos)
    with pytest.raises(ManifestError, match=r"grid: \(2, 3\) against \(3, 2\)"):
        score_dataset(tmp_path / "run", Dataset.open(tmp_path / "other"), ["test_0"])


def test_a_new_video_is_scored_as_in_the_dataset(tmp_path):
    """From rendered videos through extraction and training to the score of a file."""
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    from lego_fusion.scenes.render import render_scenes

    scenes = render_scenes(tmp_path / "src", videos=6, frames=(20, 36), size=(64, 96), seed=3)
    extractors = {"motion": Motion(), "cells": MotionCells(rows=2, columns=3), "frames": MotionFrames()}
    dataset = extract_dataset(scenes.folder, tmp_path / "data", extractors=extractors).dataset
    records = [VideoRecord(r.video, "abnormal" if i % 2 else "normal", r.frames, r.fps) for i, r in enumerate(dataset.videos)]
    dataset = write_dataset(dataset.root, dataset.config, records)
    train_run(dataset, tmp_path / "run", training=QUICK, nodes=N)
    for video in scenes.videos[:2]:
        alone = score_video(tmp_path / "run", video.path)
        (together,) = score_dataset(tmp_path / "run", dataset, [video.path.stem])
        np.testing.assert_allclose(alone.scores, together.scores, atol=1e-6)


def test_noise_and_removal_reach_present_units_only(bags):
    train, test = bags.select(range(8)), bags.select(range(8, 16))
    words = test.inputs["words"]
    present = words[..., -1]
    for condition in ("words:noise=0.5", "words:missing=mean", "words:missing=permute", "words:missing=zero"):
        _, (seen,) = apply_condition(parse_condition(condition), train, [test], seed=0)
        changed = seen.inputs["words"]
        assert set(changed[..., -1].unique().tolist()) <= {0.0, 1.0}
        assert not changed[..., :-1][changed[..., -1] == 0].any() and not torch.equal(changed, words)
        if "noise" in condition or "mean" in condition:
            assert torch.equal(changed[..., -1], present)
    _, (seen,) = apply_condition(parse_condition("words:noise=0"), train, [test], seed=0)
    assert torch.equal(seen.inputs["words"], words)
    _, (seen,) = apply_condition(parse_condition("words:missing=mean"), train, [test], seed=0)
    there = train.inputs["words"].flatten(0, 2)
    expected = there[there[:, -1] > 0][:, :-1].double().mean(0).float()
    torch.testing.assert_close(seen.inputs["words"][present > 0][:, :-1], expected.expand(int(present.sum()), -1))


SHAPE = ModelShape(nodes=N)


def test_a_missing_fine_modality_is_scored_all_the_same(fine, bags):
    condition = parse_condition("cells:missing=mean")
    result = run_method(
        fine, bags, own_split(fine), ("motion", "cells"), "lego", QUICK, ModelShape(nodes=N), condition=condition
    )
    assert all(torch.isfinite(scores).all() for scores in result.node_scores.values())


def test_a_comparison_has_nearest_cells_where_there_are_cells(fine):
    def methods(*names: str) -> set[str]:
        plan = make_plan([fine], modality_sets=[names], fusions=["lego"], seeds=1)
        return {cell.method for cell in plan.cells()}

    assert methods("motion", "cells") == {"lego", "nearest-neighbours", "nearest-cells", "flow-energy"}
    assert methods("motion") == {"lego", "nearest-neighbours", "flow-energy"}
