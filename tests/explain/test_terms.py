"""Shares of the operator: exact sums, known polynomials, Shapley values by brute force, planted truth."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.terms import (
    Terms,
    coefficient_spread,
    explain_nodes,
    mean_row,
    mean_sorted_row,
    operator_terms,
    summarise_operator,
    variance_shares,
)
from lego_fusion.graph.operator import GraphOperator

FORMS = [
    ("full", "hadamard", "ones", 2),
    ("full", "hadamard", "identity", 2),
    ("full", "matrix", "identity", 2),
    ("joint", "hadamard", "ones", 3),
    ("joint", "hadamard", "identity", 3),
    ("joint", "matrix", "ones", 2),
    ("rank1", "hadamard", "ones", 3),
    ("all-pairs", "hadamard", "ones", 3),
    ("all-pairs", "hadamard", "identity", 3),
    ("random-pair", "hadamard", "ones", 3),
    ("random-pair", "matrix", "identity", 3),
    ("joint", "hadamard", "ones", 1),
]


def random_graphs(names, generator, batch=2, nodes=5, columns=None):
    shape = (batch, nodes, columns or nodes)
    graphs = {name: torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1 for name in names}
    if columns is None:
        graphs = {name: (graph + graph.transpose(1, 2)) / 2 for name, graph in graphs.items()}
    return graphs


@pytest.mark.parametrize("form, expansion, zero_order, modalities", FORMS)
@pytest.mark.parametrize("masked", [False, True])
def test_terms_add_up_to_the_fused_graph(form, expansion, zero_order, modalities, masked):
    generator = torch.Generator().manual_seed(3)
    names = ["motion", "text", "audio"][:modalities]
    options = {"expansion": expansion, "zero_order": zero_order, "noise": 0.7}
    operator = GraphOperator(names, 2, form, **options).double().eval()
    graphs = random_graphs(names, generator)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) if masked else None
    terms = operator_terms(operator, graphs, mask)
    torch.testing.assert_close(terms.total, operator(graphs, mask), rtol=1e-12, atol=1e-13)
    for groups in (terms.by_support(), terms.by_order()):
        torch.testing.assert_close(torch.stack(list(groups.values())).sum(0), terms.total, rtol=1e-12, atol=1e-13)
    shares = torch.stack(list(terms.by_modality().values())).sum(0)
    torch.testing.assert_close(shares + terms.constant, terms.total, rtol=1e-12, atol=1e-13)


def test_terms_of_a_polynomial_written_by_hand():
    operator = GraphOperator(["a", "b"], 2, "full", noise=0.0)
    with torch.no_grad():
        operator.coefficients.copy_(torch.tensor([[5.0, 0.0, 0.0], [2.0, 3.0, 0.0], [0.0, 0.0, 7.0]]))
    graphs = {"a": torch.full((1, 1, 1), 0.5), "b": torch.full((1, 1, 1), -0.2)}
    terms = operator_terms(operator, graphs, square=False)
    found = {e: round(float(v), 6) for e, v in zip(terms.exponents, terms.values, strict=True) if float(v)}
    assert found == {(0, 0): 5.0, (1, 0): 1.0, (1, 1): -0.3, (2, 2): 0.07}
    assert {k: round(float(v), 6) for k, v in terms.by_support().items() if float(v)} == {
        (): 5.0,
        ("a",): 1.0,
        ("a", "b"): -0.23,
    }
    assert {k: round(float(v), 6) for k, v in terms.by_order().items() if float(v)} == {0: 5.0, 1: 1.0, 2: -0.3, 4: 0.07}
    assert {k: round(float(v), 6) for k, v in terms.by_modality().items()} == {"a": 0.885, "b": -0.115}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), modalities=st.integers(1, 4))
def test_modality_shares_are_shapley_values_of_dropping_terms(seed, modalities):
    names = [f"m{index}" for index in range(modalities)]
    operator = GraphOperator(names, 2, "joint", noise=0.5, seed=seed).double().eval()
    graphs = random_graphs(names, torch.Generator().manual_seed(seed), batch=1, nodes=2)
    shares = operator_terms(operator, graphs).by_modality()

    def value(kept):  # a dropped modality keeps its zeroth power alone
        factors = {n: f if n in kept else torch.cat([f[:, :1], 0 * f[:, 1:]], 1) for n, f in operator.factors.items()}
        grown = {n: torch.stack([graphs[n] ** p for p in range(3)]) for n in names}
        mixed = [torch.einsum("rp,pbij->rbij", factors[n], grown[n]) for n in names]
        return torch.stack(mixed).prod(0).sum(0)

    for name in names:
        expected = torch.zeros_like(graphs[names[0]])
        others = [other for other in names if other != name]
        for size in range(len(others) + 1):
            weight = math.factorial(size) * math.factorial(len(others) - size) / math.factorial(modalities)
            for kept in itertools.combinations(others, size):
                expected += weight * (value({*kept, name}) - value(set(kept)))
        torch.testing.assert_close(shares[name], expected, rtol=1e-9, atol=1e-10)


def head(columns, hidden=7, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(columns, hidden).double(), nn.Linear(hidden, 1).double()


@pytest.mark.parametrize("ranked", [True, False])
def test_node_parts_add_up_to_the_logit_and_match_integrated_gradients(ranked):
    generator = torch.Generator().manual_seed(1)
    names = ["motion", "text"]
    operator = GraphOperator(names, 2, "joint", noise=0.8).double().eval()
    terms = operator_terms(operator, random_graphs(names, generator, batch=3, nodes=4, columns=6), square=False)
    known = operator_terms(operator, random_graphs(names, generator, batch=5, nodes=4, columns=6), square=False)
    baseline = (mean_sorted_row if ranked else mean_row)(known)
    first, second = head(6)
    explained = explain_nodes(terms, baseline, first, second, ranked=ranked)

    def score(rows):
        return second(first(rows).relu())[..., 0]

    rows = terms.total.sort(dim=-1, descending=True).values if ranked else terms.total
    torch.testing.assert_close(explained.logits, score(rows))
    assert float(explained.gap.detach().abs().max()) < 1e-12
    torch.testing.assert_close(explained.nodes().total + explained.baseline, explained.logits.detach(), rtol=1e-10, atol=1e-12)
    # the same integral in many small steps
    start = baseline.values.sum(0)
    steps = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    line = (start + steps[:, None] * (rows[0, 0] - start)).requires_grad_()
    (gradient,) = torch.autograd.grad(score(line).sum(), line)
    by_column = (rows[0, 0] - start) * gradient.mean(0)
    mine = explained.relations()[0, 0]
    if ranked:
        mine = mine[terms.total[0, 0].argsort(descending=True)]
    torch.testing.assert_close(mine, by_column, rtol=1e-3, atol=1e-5)


def test_columns_of_an_explanation_are_the_references_not_their_ranks():
    operator = GraphOperator(["motion"], 1, noise=0.0)
    graph = torch.tensor([[[0.1, 0.9, 0.5]]])
    known = operator_terms(operator, {"motion": torch.full((1, 1, 3), 0.9)}, square=False)
    first, second = nn.Linear(3, 1), nn.Linear(1, 1)
    with torch.no_grad():
        first.weight.fill_(-1.0), first.bias.fill_(10.0), second.weight.fill_(1.0), second.bias.fill_(0.0)
    explained = explain_nodes(operator_terms(operator, {"motion": graph}, square=False), mean_sorted_row(known), first, second)
    torch.testing.assert_close(explained.relations()[0, 0], torch.tensor([0.8, 0.0, 0.4]))


def test_a_unit_that_does_not_move_counts_where_it_is_active():
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]])), first.bias.copy_(torch.tensor([1.0, 0.0]))
        second.weight.fill_(2.0), second.bias.zero_()
    terms = Terms(("a",), ((1,),), torch.tensor([[[[3.0, 3.0]]]]))
    explained = explain_nodes(terms, Terms(("a",), ((1,),), torch.tensor([[1.0, 1.0]])), first, second)
    torch.testing.assert_close(explained.terms.values.flatten(), torch.tensor([4.0, -4.0]))


def test_variance_shares_add_up_and_name_what_varies():
    generator = torch.Generator().manual_seed(0)
    operator = GraphOperator(["motion", "text"], 2, "full", noise=0.0)
    with torch.no_grad():
        operator.coefficients.zero_()
        operator.coefficients[0, 1], operator.coefficients[1, 1] = 2.0, 0.3
    graphs = {name: graph.float() for name, graph in random_graphs(["motion", "text"], generator, nodes=30).items()}
    terms = operator_terms(operator, graphs)
    shares = variance_shares(terms)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-9)
    assert shares[0, 1] > 0.9 and shares[1, 0] == 0
    assert summarise_operator(terms).startswith("Almost only text at order 1")
    with torch.no_grad():
        operator.coefficients[1, 1] = 2.5
    sentence = summarise_operator(operator_terms(operator, graphs))
    assert "text at order 1" in sentence and "motion x text agreement at order 2 (1 + 1)" in sentence


def test_a_constant_graph_has_no_shares():
    operator = GraphOperator(["motion"], 1)
    with pytest.raises(DataError, match="fused graph is constant"):
        variance_shares(operator_terms(operator, {"motion": torch.ones(1, 3, 3)}))


def test_coefficient_spread_over_seeds():
    same = [GraphOperator(["a", "b"], 2, "joint", noise=0.0, seed=seed) for seed in range(3)]
    spread = coefficient_spread(same)
    assert float(spread.deviation.max()) == 0 and len(spread.exponents) == 9
    assert float(spread.mean[spread.exponents.index((1, 0))]) == pytest.approx(0.5)
    noisy = coefficient_spread([GraphOperator(["a", "b"], 2, "full", noise=0.1, seed=seed) for seed in range(8)])
    assert float(noisy.deviation.min()) > 0
    assert float(noisy.agreement[noisy.exponents.index((1, 0))]) == 1.0


def test_bad_input_is_named():
    operator = GraphOperator(["a", "b"], 1)
    with pytest.raises(ParameterError, match="no graph for modality 'b'"):
        operator_terms(operator, {"a": torch.rand(1, 2, 2)})
    with pytest.raises(DataError, match="at least 2 operators"):
        coefficient_spread([operator])
    with pytest.raises(DataError, match="different modalities or orders"):
        coefficient_spread([operator, GraphOperator(["a", "c"], 1)])
    terms = operator_terms(operator, {"a": torch.rand(1, 2, 2), "b": torch.rand(1, 2, 2)})
    with pytest.raises(ParameterError, match="do not belong together"):
        explain_nodes(terms, mean_sorted_row(terms), nn.Linear(3, 2), nn.Linear(2, 1))


def test_a_variance_share_is_the_covariance_with_the_whole_and_not_the_variance_of_its_own():
    """Terms x, -x / 2 and y with var x = var y = 1, uncorrelated: G = x / 2 + y, var G = 1.25, shares 0.4, -0.2 and 0.8."""
    x, y = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    values = torch.stack([x, -x / 2, y, torch.full((4,), 7.0)]).view(4, 1, 2, 2)
    shares = variance_shares(Terms(("a", "b"), ((1, 0), (2, 0), (0, 1), (0, 0)), values))
    assert shares == pytest.approx({(1, 0): 0.4, (2, 0): -0.2, (0, 1): 0.8, (0, 0): 0.0})
