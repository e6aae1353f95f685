"""Deletion and insertion against curves worked out by hand, and what an order must not depend on."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.faithfulness import (
    Case,
    cell_units,
    curve,
    edge_units,
    faithfulness_table,
    importance_order,
    judge,
    modality_units,
    randomisation_check,
    rank_correlation,
    redraw_weights,
    reference_areas,
    replacement_for,
    span_units,
    summarise_cases,
)


def linear(weights):
    """score = sum of weights * entries, by modality."""
    return lambda inputs: torch.stack([(weights[n] * x).flatten(1).sum(1) for n, x in inputs.items()]).sum(0)


WEIGHTS = {"a": torch.tensor([[4.0, -1.0], [2.0, 0.0]]), "b": torch.tensor([[1.0, 3.0], [0.0, 0.5]])}
ONES = {name: torch.ones(1, 2, 2) for name in WEIGHTS}
ZEROS = {name: torch.zeros(1, 2, 2) for name in WEIGHTS}


def references(units, **options):
    return {way: reference_areas(units, way, **options) for way in ("deletion", "insertion")}


def test_curves_of_a_linear_model_by_hand():
    units = edge_units(linear(WEIGHTS), ONES, ZEROS, node=0)  # 4, -1, 1, 3; the other row adds 2.5
    assert units.count == 4
    order = np.array([0, 3, 2, 1])
    assert curve(units, order, "deletion").tolist() == [9.5, 5.5, 2.5, 1.5, 2.5]
    assert curve(units, order, "insertion").tolist() == [2.5, 6.5, 9.5, 10.5, 9.5]
    case = judge(units, np.array([[4.0, -1.0], [1.0, 3.0]]), references(units))
    assert case.deletion == pytest.approx((9.5 + 5.5 + 5.5 + 2.5 + 2.5 + 1.5 + 1.5 + 2.5) / 8)
    assert (case.deletion_score, case.insertion_score) == (pytest.approx(1), pytest.approx(1))
    wrong = judge(units, -np.array([4.0, -1.0, 1.0, 3.0]), references(units))
    assert (wrong.deletion_score, wrong.insertion_score) == (pytest.approx(-1), pytest.approx(-1))


def test_a_random_order_has_zero_on_average():
    units = edge_units(linear(WEIGHTS), ONES, ZEROS, node=0)
    found = references(units)
    cases = [judge(units, -np.argsort(order).astype(float), found) for order in itertools.permutations(range(4))]
    assert np.mean([case.deletion_score for case in cases]) == pytest.approx(0, abs=1e-9)
    assert np.mean([case.insertion_score for case in cases]) == pytest.approx(0, abs=1e-9)
    assert max(case.deletion_score for case in cases) == pytest.approx(1)


def test_the_greedy_order_is_the_best_of_a_linear_model_and_bounds_random_ones():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(1, 9, generator=generator) for name in "ab"}
    inputs, zeros = {n: torch.ones(1, 1, 9) for n in "ab"}, {n: torch.zeros(1, 1, 9) for n in "ab"}
    units = edge_units(linear(weights), inputs, zeros, node=0)
    found = references(units, orders=200)
    case = judge(units, torch.stack(list(weights.values())).numpy(), found)
    assert case.deletion_score == pytest.approx(1) and case.insertion_score == pytest.approx(1) and case.beats_random
    for reference in found.values():
        assert reference.low < reference.random < reference.high
    assert found["deletion"].best < found["deletion"].low and found["insertion"].best > found["insertion"].high


def test_what_each_kind_of_unit_replaces():
    assert modality_units(linear(WEIGHTS), ONES, ZEROS).score(torch.eye(2, dtype=torch.bool)).tolist() == [5.0, 4.5]
    assert span_units(linear(WEIGHTS), ONES, ZEROS).score(torch.eye(2, dtype=torch.bool)).tolist() == [7.0, 2.5]
    assert cell_units(linear(WEIGHTS), ONES, ZEROS).score(torch.eye(4, dtype=torch.bool)).tolist() == [3.0, 2.0, 4.0, 0.5]
    assert edge_units(linear(WEIGHTS), ONES, ZEROS, node=1).score(torch.eye(4, dtype=torch.bool)).tolist() == [
        9.0,
        7.0,
        7.0,
        7.5,
    ]


def test_cells_may_have_another_width_in_each_modality():
    inputs = {"a": torch.ones(1, 3, 2), "b": torch.ones(1, 3, 5)}
    zeros = {name: torch.zeros_like(x) for name, x in inputs.items()}
    units = cell_units(lambda x: x["a"].flatten(1).sum(1) + x["b"].flatten(1).sum(1), inputs, zeros)
    assert units.count == 6 and units.score(torch.eye(6, dtype=torch.bool)).tolist() == [2.0] * 3 + [5.0] * 3
    with pytest.raises(DataError, match=r"one bag are judged at a time"):
        edge_units(lambda x: x["a"].sum((1, 2)), inputs, zeros, node=0)


def test_replacements_by_hand():
    inputs = {"a": torch.tensor([[[0.1, 0.9], [0.3, 0.5]]]), "b": torch.tensor([[[2.0, 2.0], [0.0, 1.0]]])}
    normal = {"a": torch.tensor([[[0.2, 0.8], [0.6, 0.4]]]), "b": torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])}
    torch.testing.assert_close(replacement_for(inputs, "mean")["a"][0, 1], torch.tensor([0.2, 0.7]))
    assert not replacement_for(inputs, "zero")["b"].any()
    torch.testing.assert_close(replacement_for(inputs, "typical", normal=normal)["a"][0, 0], torch.tensor([0.4, 0.6]))
    ranked = replacement_for(inputs, "typical", normal=normal, ranked=True)["a"]
    torch.testing.assert_close(ranked[0], torch.tensor([[0.3, 0.7], [0.3, 0.7]]))
    nearest = replacement_for(inputs, normal=normal)
    assert all(any(torch.equal(row, known) for known in normal["a"][0]) for row in nearest["a"][0])
    for row in range(2):  # both modalities from one and the same normal node
        at = [[torch.equal(nearest[name][0, row], known) for known in normal[name][0]].index(True) for name in "ab"]
        assert at[0] == at[1]
    assert torch.equal(replacement_for(normal, normal=normal)["b"], normal["b"])


def test_ties_are_broken_at_random_and_by_the_seed():
    orders = {tuple(importance_order(np.zeros(5), seed=seed)) for seed in range(10)}
    assert len(orders) > 5
    assert importance_order(np.array([0.0, 3.0, -1.0])).tolist() == [1, 0, 2]
    assert importance_order(np.zeros(5), seed=3).tolist() == importance_order(np.zeros(5), seed=3).tolist()


def test_a_score_that_nothing_changes_has_no_scale():
    units = modality_units(linear({n: 0 * w for n, w in WEIGHTS.items()}), ONES, ZEROS)
    case = judge(units, np.array([1.0, 0.0]), references(units))
    assert math.isnan(case.deletion_score) and math.isnan(case.insertion_score)
    with pytest.raises(DataError, match="no order of replacement changes the score"):
        summarise_cases("terms", "lego", "edges", "zero", [case])


def test_a_summary_resamples_whole_groups():
    cases = [Case(0.0, 0.0, score, 1 - score, score > 0.5) for score in (0.2, 0.2, 0.2, 0.8)]
    apart = summarise_cases("terms", "lego", "edges", "zero", cases, node_auc=0.9)
    together = summarise_cases("terms", "lego", "edges", "zero", cases, groups=["v", "v", "v", "w"])
    assert apart.deletion == together.deletion == pytest.approx(0.35) and apart.insertion == pytest.approx(0.65)
    assert together.deletion_interval == (pytest.approx(0.2), pytest.approx(0.8))
    assert apart.deletion_interval[1] < 0.8 and apart.beats_random == 0.25 and apart.cases == 4
    row = faithfulness_table([apart]).splitlines()[-1]
    assert row.startswith("| terms | lego | edges | 0.35 [") and row.endswith("| 25 % | - | - | 0.90 |")


def test_weights_drawn_anew_keep_their_size_and_leave_the_model_alone():
    torch.manual_seed(0)
    model = nn.Linear(50, 40)
    before = model.weight.detach().clone()
    drawn = redraw_weights(model, 1)
    assert torch.equal(model.weight, before) and not torch.equal(drawn.weight, before)
    assert float(drawn.weight.detach().square().mean() / before.square().mean()) == pytest.approx(1, rel=0.1)
    assert torch.equal(redraw_weights(model, 1).weight, drawn.weight)
    assert not torch.equal(redraw_weights(model, 2).weight, drawn.weight)


def test_an_explanation_of_the_input_alone_fails_the_randomisation_check():
    torch.manual_seed(0)
    model, x = nn.Linear(40, 1), torch.randn(6, 40)
    assert randomisation_check(lambda _: x.numpy(), model) == pytest.approx(1)
    follows = randomisation_check(lambda m: (m.weight * x).detach().numpy(), model, draws=10)
    assert 0.05 < follows < 0.3  # two independent orders of 40: 0.13
    assert randomisation_check(lambda _: np.zeros((2, 5)), model) == 0.0


def test_rank_correlation_against_scipy():
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    for _ in range(5):
        a, b = random.integers(0, 6, size=(2, 20)).astype(float)
        assert rank_correlation(a, b) == pytest.approx(float(spearmanr(a, b).statistic))
    assert rank_correlation(np.ones(3), np.arange(3.0)) == 0.0


def test_bad_input_is_named():
    model = linear(WEIGHTS)
    units = modality_units(model, ONES, ZEROS)
    with pytest.raises(DataError, match="inputs and baseline differ"):
        modality_units(model, ONES, {"a": ZEROS["a"]})
    with pytest.raises(DataError, match=r"one bag are judged at a time"):
        span_units(model, *({n: x.expand(2, -1, -1) for n, x in given.items()} for given in (ONES, ZEROS)))
    with pytest.raises(ParameterError, match="'node' parameter of edge_units"):
        edge_units(model, ONES, ZEROS, node=2)
    with pytest.raises(DataError, match=r"importances are not finite: got 1 of 2"):
        importance_order(np.array([1.0, np.nan]))
    with pytest.raises(DataError, match="one importance per unit is needed: expected 2, got 3"):
        judge(units, np.ones(3), references(units))
    with pytest.raises(DataError, match="an order holds every unit once"):
        curve(units, np.array([0, 0]), "deletion")
    with pytest.raises(ParameterError, match="'orders' parameter of reference_areas"):
        reference_areas(units, "deletion", orders=1)
    with pytest.raises(ParameterError, match="'kind' parameter of replacement_for"):
        replacement_for(ONES, "noise")
    for kind in ("nearest", "typical"):
        with pytest.raises(DataError, match=f"the replacement '{kind}' needs known normal nodes"):
            replacement_for(ONES, kind, normal={"a": ZEROS["a"]})
    with pytest.raises(DataError, match="every case belongs to one group"):
        summarise_cases("terms", "lego", "edges", "zero", [Case(0.0, 0.0, 1.0, 1.0, True)], groups=[])
    with pytest.raises(ParameterError, match="'draws' parameter"):
        randomisation_check(lambda _: np.zeros((1, 2)), nn.Linear(1, 1), draws=0)
