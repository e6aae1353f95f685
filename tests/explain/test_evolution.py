"""Shares over snapshots: those of each operator on its own, adding up at every step."""

import pytest
import torch

from lego_fusion.errors import DataError
from lego_fusion.explain.terms import operator_terms, share_history, variance_shares
from lego_fusion.graph.operator import GraphOperator

GRAPHS = {name: torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(place)) for place, name in enumerate("ab")}


def test_each_step_has_the_shares_of_its_own_operator():
    operators = {step: GraphOperator(["a", "b"], 2, noise=0.5, seed=step) for step in (50, 0, 100)}
    history = share_history(operators, GRAPHS)
    assert history.steps == (0, 50, 100)
    for place, step in enumerate(history.steps):
        shares = variance_shares(operator_terms(operators[step], GRAPHS))
        assert history.by_order[2][place] == pytest.approx(shares[2, 0] + shares[1, 1] + shares[0, 2])
        assert history.by_support["b",][place] == pytest.approx(shares[0, 1] + shares[0, 2])
        assert sum(line[place] for line in history.by_support.values()) == pytest.approx(1)
        assert sum(line[place] for line in history.by_order.values()) == pytest.approx(1)
    assert set(history.lines()) == {"a", "b", "a x b"}
    last = [line[-1] for line in history.lines().values()]
    assert last == sorted(last, reverse=True)


def test_bad_input_is_named():
    with pytest.raises(DataError, match=r"there is no snapshot to follow.*train with --snapshots STEPS"):
        share_history({}, GRAPHS)
    with pytest.raises(DataError, match=r"snapshots of different operators cannot be compared \(step 5\)"):
        share_history({0: GraphOperator(["a", "b"], 1), 5: GraphOperator(["a", "b"], 2)}, GRAPHS)
