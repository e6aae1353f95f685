"""Bags with a planted answer: a detector learns it, and its terms and Shapley values name modality, order, nodes and sign."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from known_answers.agreement import logits_within, modality_shares, node_auc, order_shares, share_error
from known_answers.bags import KINDS, plant_bags
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.faithfulness import replacement_for
from lego_fusion.explain.shapley import contributions
from lego_fusion.explain.terms import explain_nodes, mean_sorted_row, operator_terms, variance_shares

PLANTED = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "planted.py"))  # the model that is read
CONFIG = PLANTED["TRAINING"].model_copy(update={"steps": 150})


def learned(kind, seed):
    """A detector trained on planted bags, its operator free to move, and what it sees of 50 test bags."""
    data = PLANTED["planted"](kind, seed, train=150, test=50)
    fusion = PLANTED["KnownDots"](data.widths, references=32, order=1, seed=seed)
    detector = PLANTED["trained"](fusion, data, CONFIG.model_copy(update={"seed": seed}))
    return data.made, detector, fusion.transform(data.test.inputs), fusion.transform(data.normal.inputs), data.truth


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_terms_and_shapley_values_recover_what_was_planted(kind, seed):
    made, detector, graphs, known, truth = learned(kind, seed)
    first, second = detector.head.first, detector.head.second
    terms, normal = (operator_terms(detector.fusion.operator, given, square=False) for given in (graphs, known))
    explained = explain_nodes(terms, mean_sorted_row(normal), first, second)
    assert float(explained.gap.abs().max()) < 1e-3
    assert share_error(modality_shares(explained), made.shares) < 0.1
    assert node_auc(explained.nodes().total, truth) > 0.95
    orders = order_shares(explained)
    assert max(orders, key=orders.get) == made.order
    shares = variance_shares(explained.nodes())
    interacting = sum(share for exponents, share in shares.items() if sum(p > 0 for p in exponents) > 1)
    assert interacting > 0.8 if kind == "synergy" else abs(interacting) < 0.1

    dropped = contributions(lambda s: node_auc(logits_within(terms, normal, first, second, s), truth), list(graphs))
    replaced = replacement_for(graphs, "typical", normal=known)  # the nearest normal node would tell what it replaces

    @torch.no_grad()
    def replacing(present):
        given = {name: graphs[name] if name in present else replaced[name] for name in graphs}
        return node_auc(detector(given, cached=True).logits, truth)

    marginal = contributions(replacing, list(graphs))
    for found in (dropped, marginal):
        if made.cooperation:
            assert np.sign(round(float(found.cooperation), 1)) == made.cooperation
        else:
            assert abs(float(found.cooperation)) < 0.1
        assert abs(found.values[2]) < 0.05, "nothing was planted in the third"
    if made.cooperation:
        assert np.sign(dropped.interactions[0, 1]) == np.sign(marginal.interactions[0, 1]) == made.cooperation


def test_a_seed_decides_the_bags_and_nothing_else_is_drawn():
    one, same, other = plant_bags("synergy", seed=1), plant_bags("synergy", seed=1), plant_bags("synergy", seed=2)
    assert all(np.array_equal(one.features[name], same.features[name]) for name in one.features)
    assert not np.array_equal(one.features["alpha"], other.features["alpha"])
    assert one.labels.sum() == 100 and np.array_equal(one.nodes.sum(1), 4 * one.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_is_what_is_said(kind):
    """Without noise: which features tell abnormal nodes, alone and by their agreement."""
    made = plant_bags(kind, noise=0.0, spread=0.0, seed=3)
    alpha, beta = made.features["alpha"], made.features["beta"]
    agreement = (alpha * beta).sum(-1)
    if kind == "synergy":
        assert np.allclose(agreement, np.where(made.nodes, -1, 1), atol=1e-5)
        assert abs(float(alpha[made.nodes].mean() - alpha[~made.nodes].mean())) < 0.03
        assert not np.allclose(made.features["gamma"], 0)
    else:
        direction = alpha[0, 0]
        assert np.allclose(alpha @ direction, np.where(made.nodes, -1, 1), atol=1e-5)
        assert np.allclose(beta, 0) if kind == "single" else np.allclose(np.abs(beta @ beta[0, 0]), 1, atol=1e-5)
        assert np.allclose(made.features["gamma"], 0)
    assert sum(made.shares.values()) == 1


def test_dropping_no_term_leaves_the_logits():
    _, detector, graphs, known, _ = learned("single", 0)
    terms, normal = (operator_terms(detector.fusion.operator, given, square=False) for given in (graphs, known))
    whole = logits_within(terms, normal, detector.head.first, detector.head.second, set(graphs))
    with torch.no_grad():
        torch.testing.assert_close(whole, detector(graphs, cached=True).logits, rtol=1e-4, atol=1e-4)
    none = logits_within(terms, normal, detector.head.first, detector.head.second, set())
    assert float(none.std()) < 1e-5


def test_bad_input_is_named():
    with pytest.raises(ParameterError, match="'kind' parameter of plant_bags"):
        plant_bags("unique")
    with pytest.raises(ParameterError, match="'abnormal' parameter of plant_bags"):
        plant_bags("single", nodes=4, abnormal=4)
    with pytest.raises(ParameterError, match="'noise' parameter of plant_bags"):
        plant_bags("single", noise=-1.0)
    with pytest.raises(DataError, match="shares of other modalities"):
        share_error({"a": 1.0}, {"b": 1.0})
    with pytest.raises(DataError, match="an AUC needs planted and other nodes"):
        node_auc(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool))
