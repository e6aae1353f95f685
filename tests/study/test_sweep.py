"""A sweep: the same table however it is trained, stopped and gone on with; chosen without a look at the test videos."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import CheckpointError, DataError, LegoFusionError, ParameterError
from lego_fusion.learn.bags import fit_frozen, load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import make_default_fusion
from lego_fusion.learn.objective import bag_loss
from lego_fusion.learn.train import fit, predict, predict_logits
from lego_fusion.measure.detection import micro_auc
from lego_fusion.measure.scored import ScoredVideo
from lego_fusion.study import batched, experiment
from lego_fusion.study.cells import Cell, SweepPlan, TrialResult
from lego_fusion.study.experiment import measure_on_test, run_sweep, trained, training_bags
from lego_fusion.study.plan import make_sweep_plan, parse_grid
from lego_fusion.study.table import tabulate

GRID = {"fusion.order.motion": (1, 2), "fusion.order.text": (1, 2), "k": (1, 3)}
QUICK = TrainingConfig(steps=5, learning_rate=1e-2)
ORDERS = {"fusion.order": (1, 2)}
USUAL = TrainingConfig().prior_departure


def plan_of(dataset: Dataset, grid: dict | None = None, **options) -> SweepPlan:
    """A sweep of the paper's reading."""
    given = {
        "method": "lego-paper",
        "seeds": 2,
        "training": QUICK,
        "validation": 0.4,
        "nodes": 8,
        "hidden": 6,
        "smoothing": 0.0,
    }
    return make_sweep_plan(dataset, GRID if grid is None else grid, **{**given, **options})


def fitted_plan(dataset: Dataset, grid: dict | None = None, **options) -> SweepPlan:
    """A sweep of the default."""
    given = {"training": TrainingConfig(iterations=10), "validation": 0.4, "nodes": 8}
    return make_sweep_plan(dataset, grid, **{**given, **options})


@pytest.fixture(scope="module")
def plan(planted: Dataset) -> SweepPlan:
    return plan_of(planted)


@pytest.fixture(scope="module")
def done(planted: Dataset, plan: SweepPlan, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "out"
    run_sweep(plan, planted, folder)
    return folder


def values_of(results: dict[Cell, TrialResult]) -> dict[Cell, tuple]:
    return {cell: (one.loss, one.validation_loss, one.validation_auc, one.parameters) for cell, one in results.items()}


@pytest.fixture(scope="module")
def fitted(planted: Dataset, tmp_path_factory) -> tuple[SweepPlan, Path]:
    """A sweep of the default over a setting of the frozen stage, the form of the operator and a prior."""
    grid = {"fusion.references": (6, 2048), "fusion.operator": ("fixed", "learned"), "prior_departure": (0.5, 2.0)}
    plan, folder = fitted_plan(planted, grid), tmp_path_factory.mktemp("fitted") / "out"
    run_sweep(plan, planted, folder)
    return plan, folder


def test_every_fitted_trial_is_what_training_it_by_hand_gives(planted: Dataset, fitted: tuple[SweepPlan, Path]) -> None:
    plan, folder = fitted
    results, notes = run_sweep(plan, planted, folder)
    cells = plan.cells()
    assert list(results) == cells and len(cells) == 9
    assert plan.configurations()[8] == plan.default
    assert plan.default == {"fusion.references": 2048, "fusion.operator": "fixed", "training.prior_departure": USUAL}
    assert notes == [] and not any(one.together for one in results.values())
    bags = load_bags(planted, list(planted.modalities), (*plan.split.train, *plan.split.validation, *plan.split.test), nodes=8)
    train, held_out, test = (bags.named(part) for part in (plan.split.train, plan.split.validation, plan.split.test))
    settings = {0: ({"references": 6}, 0.5), 7: ({"operator": "learned"}, 2.0), 8: ({}, USUAL)}
    for number, (options, prior) in settings.items():
        fusion = make_default_fusion("lego", planted.modalities, nodes=8, options=options)
        fit_frozen(fusion, train)
        detector = Detector(fusion)
        fit(detector, train, TrainingConfig(iterations=10, prior_departure=prior))
        loss = bag_loss(predict_logits(detector, held_out), held_out.labels, k=3).mean()
        assert results[cells[number]].validation_loss == pytest.approx(float(loss), rel=1e-3)
        assert results[cells[number]].parameters == detector.parameter_count()
        loaded = trained(plan, planted, folder, cells[number])
        torch.testing.assert_close(predict(loaded, test), predict(detector, test), rtol=1e-3, atol=1e-4)


def test_trials_that_differ_in_what_is_learned_share_a_frozen_stage(
    planted: Dataset, fitted: tuple[SweepPlan, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list((fitted[1] / "graphs").iterdir())) == 4  # references x operator, for nine trials
    built: list[int] = []
    build = experiment.build_graphs
    monkeypatch.setattr(experiment, "build_graphs", lambda *args, **kwargs: built.append(1) or build(*args, **kwargs))
    grid = {"fusion.time_context": (0.0, 2.0), "prior_departure": (0.5, USUAL)}  # the time context is the head's
    run_sweep(fitted_plan(planted, grid), planted, tmp_path / "learned", cache="off")
    assert len(built) == 1
    run_sweep(fitted_plan(planted, {"fusion.kept": (1, 2)}), planted, tmp_path / "frozen", cache="off")
    assert len(built) == 1 + 3  # and the default


def test_the_own_world_is_kept_where_it_was_taken(write_planted: Callable[..., Dataset], tmp_path: Path) -> None:
    """The switch of the head is a part of what is stored."""
    dataset = write_planted(tmp_path / "dataset")
    for record in dataset.videos:  # each video another world: what is known of others says nothing
        for name in dataset.modalities:
            values = np.load(dataset.feature_file(name, record.video))
            shift = np.random.default_rng(len(record.video) * 7 + record.frames).normal(size=values.shape[1])
            np.save(dataset.feature_file(name, record.video), (values + 30 * shift).astype(np.float32))
    dataset = Dataset.open(dataset.root)
    plan = fitted_plan(dataset, {"own_world_gain": (0.0, 1e6)}, training=TrainingConfig(own_world_gain=1e6))
    run_sweep(plan, dataset, tmp_path / "out")
    heads = [trained(plan, dataset, tmp_path / "out", cell).reading_head for cell in plan.cells()]
    assert [bool(head.own_world) for head in heads if head is not None] == [True, False]


def test_crops_are_averaged_and_segments_counted_as_asked(write_planted: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = write_planted(tmp_path / "dataset", crops=2)
    plan = fitted_plan(dataset, {"nodes": (4, 8)})
    results, _ = run_sweep(plan, dataset, tmp_path / "out")
    assert len(results) == 2
    shapes = [training_bags(plan, dataset, tmp_path / "out", cell).inputs["motion"].shape[:2] for cell in plan.cells()]
    assert shapes == [(len(plan.split.train), 4), (len(plan.split.train), 8)]
    cell = plan.cells()[1]
    measured = measure_on_test(plan, dataset, tmp_path / "out", [cell])
    assert set(measured) == {cell} and 0 <= measured[cell]["micro_auc"] <= 1


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many are trained together in each go."""
    calls: list[int] = []
    train = experiment.fit_together

    def watch(detectors: list[Detector], *args: Any, **options: Any) -> Any:
        calls.append(len(detectors))
        return train(detectors, *args, **options)

    monkeypatch.setattr(experiment, "fit_together", watch)
    return calls


def assert_near(found: dict[Cell, TrialResult], expected: dict[Cell, TrialResult]) -> None:
    assert list(found) == list(expected)
    for one, other in zip(values_of(found).values(), values_of(expected).values(), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_every_trial_is_what_training_it_by_hand_gives(planted: Dataset, plan: SweepPlan, done: Path) -> None:
    results, _ = run_sweep(plan, planted, done)
    cells = plan.cells()
    assert list(results) == cells and len(cells) == 16
    assert all(one.together for one in results.values())
    names, videos = list(planted.modalities), (*plan.split.train, *plan.split.validation, *plan.split.test)
    bags = load_bags(planted, names, videos, nodes=8)
    train, held_out, test = (bags.named(part) for part in (plan.split.train, plan.split.validation, plan.split.test))
    assert not set(plan.split.validation) & {*plan.split.train, *plan.split.test}
    measured = measure_on_test(plan, planted, done, [cells[number] for number in (0, 9, 15)])
    for number, orders, k in (
        (0, {"motion": 1, "text": 1}, 1),
        (9, {"motion": 2, "text": 1}, 1),
        (15, {"motion": 2, "text": 2}, 3),
    ):
        seed = number % 2
        fusion = make_default_fusion("lego-paper", planted.modalities, nodes=8, seed=seed, options={"order": orders})
        fit_frozen(fusion, train)
        detector = Detector(fusion, hidden=6, seed=seed)
        fit(detector, train, QUICK.model_copy(update={"k": k, "seed": seed}))
        loss = bag_loss(predict_logits(detector, train), train.labels, k=QUICK.k).mean()
        assert results[cells[number]].loss == pytest.approx(float(loss), rel=1e-3)
        loss = bag_loss(predict_logits(detector, held_out), held_out.labels, k=QUICK.k).mean()
        assert results[cells[number]].validation_loss == pytest.approx(float(loss), rel=1e-3)
        assert results[cells[number]].parameters == detector.parameter_count()
        loaded = trained(plan, planted, done, cells[number])
        torch.testing.assert_close(predict(loaded, test), predict(detector, test), rtol=1e-3, atol=1e-4)
        # test metrics, by frames written out
        scored = []
        for video, scores in zip(test.videos, predict(detector, test), strict=True):
            rows = planted.rows(video)
            spread = [[] for _ in range(rows)]
            bounds = np.linspace(0, rows, 9).astype(int)
            for node in range(8):
                for row in range(bounds[node], max(bounds[node + 1], bounds[node] + 1)):
                    spread[row].append(float(scores[node]))
            frames = np.repeat([np.mean(one) for one in spread], 8)[: planted.records[video].frames]
            scored.append(ScoredVideo.from_frames(video, frames, planted.frame_labels(video)))
        assert measured[cells[number]]["micro_auc"] == pytest.approx(micro_auc(scored), abs=0.02)


def test_one_by_one_and_in_two_processes_give_the_same_table(
    planted: Dataset, plan: SweepPlan, done: Path, tmp_path: Path
) -> None:
    expected, _ = run_sweep(plan, planted, done)
    alone, notes = run_sweep(plan, planted, tmp_path / "alone", mode="alone")
    assert not any(one.together for one in alone.values())
    assert notes == []
    assert_near(alone, expected)
    small = plan_of(planted, ORDERS, seeds=1)
    here, _ = run_sweep(small, planted, tmp_path / "one", mode="alone", workers=1, cache="off")
    two, _ = run_sweep(small, planted, tmp_path / "two", mode="alone", workers=2)
    assert values_of(here) == values_of(two)


def test_small_chunks_give_the_same_table(
    planted: Dataset, plan: SweepPlan, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "MOST_TOGETHER", 3)
    calls = watched(monkeypatch)
    found, _ = run_sweep(plan, planted, tmp_path / "small")
    assert calls == [3, 3, 3, 3, 3, 1]
    assert_near(found, run_sweep(plan, planted, done)[0])


def test_large_graphs_are_trained_one_by_one_and_said(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "BYTES_TOGETHER", 1)
    found, notes = run_sweep(plan_of(planted, ORDERS, seeds=1), planted, tmp_path / "large")
    assert not any(one.together for one in found.values())
    assert len(notes) == 1
    assert "2 trials are trained one by one: graphs of " in notes[0]
    assert "too large for several to fit in memory" in notes[0]


def test_what_cannot_be_together_is_said(planted: Dataset, tmp_path: Path) -> None:
    plan = plan_of(planted, ORDERS, seeds=1, training=QUICK.model_copy(update={"operator_nonnegative": True}))
    found, notes = run_sweep(plan, planted, tmp_path / "out")
    assert notes == ["2 trials are trained one by one: operator_nonnegative"]
    assert not any(one.together for one in found.values())


def test_a_sweep_goes_on_where_it_was(
    planted: Dataset, plan: SweepPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "MOST_TOGETHER", 4)
    whole, _ = run_sweep(plan, planted, tmp_path / "whole")
    calls: list[int] = []
    train = experiment.fit_together

    def dies_at_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(experiment, "fit_together", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, planted, tmp_path / "cut")
    (tmp_path / "cut" / "cells" / ".0123.partial").write_bytes(b"half")
    told: list[tuple[int, int]] = []
    again, _ = run_sweep(plan, planted, tmp_path / "cut", on_cell=lambda done, total: told.append((done, total)))
    assert told == [(8, 16), (12, 16), (16, 16)]
    assert values_of(again) == values_of(whole)
    assert not list((tmp_path / "cut" / "cells").glob(".*"))
    assert tabulate(plan, again) == tabulate(plan, whole)


def test_another_plan_or_changed_features_are_refused(planted: Dataset, plan: SweepPlan, done: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds another sweep.*grid\.training\.k"):
        run_sweep(plan_of(planted, {**GRID, "k": (1, 2)}), planted, done)
    copy = Dataset.open(shutil.copytree(planted.root, tmp_path / "dataset"))
    run_sweep(plan_of(copy, ORDERS), copy, tmp_path / "out")
    path = copy.feature_file("text", plan.split.train[0])
    np.save(path, np.load(path) + 1)
    with pytest.raises(CheckpointError, match=r"holds another sweep.*files"):
        run_sweep(plan_of(copy, ORDERS), copy, tmp_path / "out")


def test_a_diverged_configuration_is_never_the_pick(planted: Dataset, tmp_path: Path) -> None:
    plan = plan_of(planted, {"learning_rate": (1e-2, 1e30)}, seeds=1)
    results, _ = run_sweep(plan, planted, tmp_path / "out")
    table = tabulate(plan, results)
    assert table.pick == 0
    assert math.isfinite(table.rows[0].validation_loss)


def made_result(loss: float, parameters: int = 10) -> TrialResult:
    return TrialResult(together=True, loss=0.5, validation_loss=loss, validation_auc=1.0, parameters=parameters)


def test_the_pick_is_the_lowest_mean_then_the_smallest(planted: Dataset) -> None:
    plan = plan_of(planted, {"fusion.order": (1, 2, 3)})
    cells, losses = plan.cells(), [0.4, 0.2, 0.1, 0.5, 0.3, 0.3]
    results = {cell: made_result(loss) for cell, loss in zip(cells, losses, strict=True)}
    test = {cell: {"micro_auc": value} for cell, value in zip(cells, (0.5, 0.7, 0.9, 0.9, 0.6, 0.6), strict=True)}
    table = tabulate(plan, results, test=test)
    assert table.default == 1
    assert [row.validation_loss for row in table.rows] == pytest.approx([0.3, 0.3, 0.3])
    assert table.rows[0].trials == (1, 0)
    assert table.cells_of(table.rows[0]) == [cells[1], cells[0]]
    assert table.test_best == 1
    assert tabulate(plan, results).test_best is None
    two = tabulate(plan, results, test={cell: test[cell] for cell in cells[:3]})  # the second configuration by half
    assert two.test_best is None
    assert [row.test for row in two.rows] == [{"micro_auc": pytest.approx(0.6)}, {}, {}]
    smaller = {cell: made_result(0.3, 5 if place > 3 else 10) for place, cell in enumerate(cells)}
    assert tabulate(plan, smaller).pick == 2
    with pytest.raises(DataError, match="not finished: got 5 of 6 trials"):
        tabulate(plan, {cell: results[cell] for cell in cells[:5]})
    with pytest.raises(DataError, match="no configuration has a finite validation loss"):
        tabulate(plan, {cell: made_result(math.nan) for cell in cells})


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({}, "the grid is empty: got no key"),
        ({"k": ()}, "the grid is empty: got no value of 'training.k'"),
        ({"fusion.orders": (1,)}, "unknown key 'fusion.orders'.*write 'fusion.order'"),
        ({"fusion.order.smell": (1,)}, r"'smell' is no modality.*motion, text"),
        ({"alpha": (0.1,)}, "unknown key 'alpha'"),
        ({"smoothing": (0.0, 1.0)}, "'smoothing' is not to be swept"),
        ({"seed": (0, 1)}, "'training.seed' is not to be swept.*seeds have their own option"),
        ({"prior_departure": (1, 2)}, "'training.prior_departure' is not to be swept with lego-paper"),
        ({"fusion.order": (33,)}, r"'fusion.order' parameter of sweep must be an int in \[0, 32\]. Got 33"),
        ({"fusion.order.text": (-1,)}, "Got -1"),
        ({"fusion.order": (1.5,)}, "Got 1.5"),
        ({"fusion.order": (1,), "fusion.order.text": (1,)}, "'fusion.order' is set both for all modalities and for one"),
        ({"k": (0,)}, "wrong value of 'k'"),
        ({"k": (1,), "training.k": (2,)}, "the grid has a key twice"),
        ({"learning_rate": (-1.0,)}, "wrong value of 'learning_rate'"),
        ({"fusion.rows": ("diagonal",)}, "'rows' parameter of PaperFusion"),
        ({"fusion.rows": ("sorted", "propagate")}, "a sweep trains on what a frozen stage makes.*rows=propagate"),
        ({"fusion.rank": (2, 3)}, "the option 'rank' of lego-paper changes nothing"),
        ({"nodes": (0, 8)}, r"'nodes' parameter of the settings must be an int in \[1, inf\)"),
        ({"k": tuple(range(1, 400)), "degree_k": tuple(range(1, 400))}, "the grid is too large"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_wrong_grid_is_refused(planted: Dataset, grid: dict, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        plan_of(planted, grid)


@pytest.mark.parametrize(
    ("grid", "options", "said"),
    [
        ({"learning_rate": (1e-3,)}, {}, "'training.learning_rate' is not to be swept with lego: .*training.prior_departure"),
        ({"fusion.order": (1, 2)}, {}, "the option 'order' of lego changes nothing"),
        ({"fusion.kept": (0, 3)}, {}, "'kept' parameter of LegoFusion"),
        ({"fusion.zero_order": ("ones",)}, {}, "unknown key 'fusion.zero_order'"),
        (None, {"seeds": 2}, "nothing is drawn at random: one training is the answer.*leave --seeds out"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_what_the_default_cannot_sweep_is_refused(planted: Dataset, grid: dict | None, options: dict, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        fitted_plan(planted, grid, **options)


@pytest.mark.usefixtures("unchecked_types")
def test_wrong_settings_are_refused(planted: Dataset) -> None:
    with pytest.raises(DataError, match="a sweep chooses by validation videos"):
        plan_of(planted, validation=0.0)
    with pytest.raises(ParameterError, match="a sweep trains on what a frozen stage makes of features"):
        plan_of(planted, {"k": (1, 3)}, method="concat")
    with pytest.raises(ParameterError, match="'rows' parameter of PaperFusion"):
        plan_of(planted, options={"lego-paper": {"rows": "diagonal"}})
    with pytest.raises(ParameterError, match="fusion 'lego-paper' has no option 'nodes'"):
        plan_of(planted, options={"lego-paper": {"nodes": 4}})
    with pytest.raises(DataError, match="modality 'smell' is missing"):
        plan_of(planted, modalities=["smell"])
    with pytest.raises(ParameterError, match="'mode' parameter"):
        run_sweep(plan_of(planted), planted, "nowhere", mode="fast")


def test_default_grids_and_order_of_trials(planted: Dataset) -> None:
    plan = make_sweep_plan(planted, method="lego-paper", validation=0.4)
    assert plan.grid == {"fusion.order.motion": (1, 2, 3), "fusion.order.text": (1, 2, 3)}
    assert plan.default == {"fusion.order.motion": 2, "fusion.order.text": 2}
    orders = [plan.settings(cell).options_of("lego-paper")["order"] for cell in plan.cells()]
    assert orders == [{"motion": p, "text": q} for p in (1, 2, 3) for q in (1, 2, 3)]
    plan = make_sweep_plan(planted, validation=0.4)
    assert list(plan.grid) == ["training.prior_departure"]
    assert plan.default == {"training.prior_departure": USUAL}
    assert [plan.settings(cell).training.prior_departure / USUAL for cell in plan.cells()] == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_what_is_set_beside_the_grid_is_in_every_trial_and_in_the_default(planted: Dataset) -> None:
    plan = plan_of(
        planted, {"fusion.order.text": (1, 3)}, seeds=1, options={"lego-paper": {"zero_order": "ones", "order": {"motion": 4}}}
    )
    assert plan.default == {"fusion.order.text": 2}
    made = [plan.fusion(planted, cell).config() for cell in plan.cells()]
    assert [one["order"] for one in made] == [{"motion": 4, "text": order} for order in (1, 3, 2)]
    assert {one["zero_order"] for one in made} == {"ones"}


def test_trials_of_several_readings_are_trained_together_each_with_its_own(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(
        planted, {"fusion.rows": ("ordered", "sorted"), "fusion.zero_order": ("identity", "ones"), **ORDERS}, seeds=1
    )
    calls = watched(monkeypatch)
    together, _ = run_sweep(plan, planted, tmp_path / "together")
    assert all(one.together for one in together.values())
    assert calls == [2, 2, 2, 2]
    alone, _ = run_sweep(plan, planted, tmp_path / "alone", mode="alone")
    assert_near(together, alone)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fusion.order"], "not a part of a grid"),
        (["=1"], "not a part of a grid"),
        (["k=[1"], "not a value"),
        (["k=1", "k=2"], "'k' is in the grid twice"),
    ],
)
def test_words_that_are_no_grid(words: list[str], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        parse_grid(words)


def test_words_of_a_grid() -> None:
    assert parse_grid(["fusion.order=1..3,5,3", "k=0.5,1"]) == {"fusion.order": (1, 2, 3, 5), "k": (0.5, 1)}
    assert parse_grid(["k=3..1"]) == {"k": ()}
    assert parse_grid(["fusion.orders=[1],[1, 2]", "fusion.form=joint, full", "own_world_gain=null,1e1"]) == {
        "fusion.orders": ([1], [1, 2]),
        "fusion.form": ("joint", "full"),
        "own_world_gain": (None, 10.0),
    }


def test_a_damaged_file_of_trials_is_named(planted: Dataset, plan: SweepPlan, done: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "out"))
    cell = plan.cells()[0]
    path = folder / "cells" / cell.file
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=re.escape(path.name)):
        run_sweep(plan, planted, folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="a cell cannot be read"):
        trained(plan, planted, folder, cell)


def test_a_trial_that_fails_is_one_line(planted: Dataset, plan: SweepPlan, tmp_path: Path, monkeypatch) -> None:
    def fails(*args, **kwargs):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(experiment, "fit_together", fails)
    with pytest.raises(LegoFusionError, match="a trial failed: RuntimeError: out of memory"):
        run_sweep(plan, planted, tmp_path / "out")


def test_half_precision_graphs_and_a_shared_cache(planted: Dataset, plan: SweepPlan, done: Path, tmp_path: Path) -> None:
    half, _ = run_sweep(plan_of(planted, dtype="float16"), planted, tmp_path / "half", cache=tmp_path / "graphs")
    assert not (tmp_path / "half" / "graphs").exists()
    assert "float16" in next((tmp_path / "graphs").iterdir()).name
    for one, other in zip(half.values(), run_sweep(plan, planted, done)[0].values(), strict=True):
        assert one.validation_loss == pytest.approx(other.validation_loss, abs=0.02)


def test_three_modalities_at_high_orders(write_planted: Callable[..., Dataset], tmp_path: Path) -> None:
    """More products of powers than are kept: factors are multiplied instead."""
    dataset = write_planted(tmp_path / "dataset")
    shutil.copytree(dataset.root / "features" / "text", dataset.root / "features" / "words")
    fields = json.loads(dataset.modalities["text"].model_dump_json()) | {"modality": "words"}
    content = yaml.safe_load((dataset.root / "dataset.yaml").read_text())
    content["modalities"]["words"] = fields
    (dataset.root / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for path in (dataset.root / "features" / "words").glob("*.json"):
        path.unlink()
    three = Dataset.open(dataset.root)
    plan = plan_of(three, {"fusion.order": (7, 8)}, seeds=1, options={"lego-paper": {"form": "joint"}})
    together, _ = run_sweep(plan, three, tmp_path / "together")
    alone, _ = run_sweep(plan, three, tmp_path / "alone", mode="alone")
    assert all(one.together for one in together.values())
    assert_near(together, alone)


def test_cells_of_an_earlier_version_are_refused(planted: Dataset, plan: SweepPlan, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    with pytest.raises(
        CheckpointError, match=r"a sweep of an earlier version.*delete the folder and give the same command again"
    ):
        run_sweep(plan, planted, tmp_path)
