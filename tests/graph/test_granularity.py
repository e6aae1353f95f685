"""Pooling of finer graphs to nodes, exact against loops over every pair of units."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.graph.relationship import (
    assign_units,
    cosine_graph,
    pool_relations,
)

CASES = st.tuples(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 5))  # seed, units, nodes


def draw(seed: int, units: int, nodes: int, columns: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Random relations of two videos, membership (empty nodes and padding happen) and positive weights."""
    generator = torch.Generator().manual_seed(seed)
    relations = torch.randn(2, units, columns or units, generator=generator, dtype=torch.float64)
    member = torch.randint(-1, nodes, (2, units), generator=generator)
    weights = torch.rand(2, units, generator=generator, dtype=torch.float64) + 0.1
    return relations, member, weights


def units_of(member: list[int], node: int) -> list[int]:
    return [u for u, owner in enumerate(member) if owner == node]


@settings(max_examples=60, deadline=None)
@given(case=CASES, weighted=st.booleans())
def test_mean_over_pairs_of_units(case, weighted):
    relations, member, weights = draw(*case)
    pooled = pool_relations(relations, member, case[2], weights=weights if weighted else None)
    for b in range(2):
        w = weights[b].tolist() if weighted else [1.0] * case[1]
        for i in range(case[2]):
            for j in range(case[2]):
                pairs = [(u, v) for u in units_of(member[b].tolist(), i) for v in units_of(member[b].tolist(), j)]
                total = sum(w[u] * w[v] for u, v in pairs)
                expected = sum(w[u] * w[v] * relations[b, u, v].item() for u, v in pairs) / total if pairs else 0.0
                assert pooled[b, i, j].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(case=CASES)
def test_max_over_pairs_of_units(case):
    relations, member, _ = draw(*case)
    pooled = pool_relations(relations, member, case[2], reduce="max")
    for b in range(2):
        for i in range(case[2]):
            for j in range(case[2]):
                pairs = [(u, v) for u in units_of(member[b].tolist(), i) for v in units_of(member[b].tolist(), j)]
                assert pooled[b, i, j].item() == max((relations[b, u, v].item() for u, v in pairs), default=0.0)


def novelty_order(rows: list[list[float]], units: list[int]) -> list[int]:
    return sorted(units, key=lambda u: max(rows[u]))


@settings(max_examples=60, deadline=None)
@given(
    starts=st.lists(st.tuples(st.integers(-3, 12), st.integers(0, 5)), min_size=1, max_size=8),
    borders=st.lists(st.integers(0, 10), min_size=2, max_size=6, unique=True).map(sorted),
)
def test_assign_units_takes_the_largest_overlap(starts, borders):
    spans = [(float(a), float(a + length)) for a, length in starts]
    nodes = list(zip(map(float, borders[:-1]), map(float, borders[1:]), strict=True))
    assigned, weights = assign_units(torch.tensor(spans), torch.tensor(nodes))
    for u, (start, end) in enumerate(spans):
        if start == end:
            overlaps = [1.0 if a <= start < b else 0.0 for a, b in nodes]
        else:
            overlaps = [max(0.0, min(end, b) - max(start, a)) for a, b in nodes]
        best = max(overlaps)
        assert weights[u].item() == best
        assert (assigned[u].item() == -1) if best == 0 else (overlaps[assigned[u].item()] == best)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_one_unit_per_node_is_the_graph_itself(reduce):
    graph = cosine_graph(torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)))
    member = torch.arange(6).expand(2, -1)
    torch.testing.assert_close(pool_relations(graph, member, 6, reduce=reduce), graph)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_order_of_units_and_padding_do_not_matter(reduce):
    relations, member, weights = draw(5, 8, 3)
    order = torch.tensor([4, 1, 7, 0, 3, 6, 2, 5])
    pooled = pool_relations(relations, member, 3, reduce=reduce, weights=weights)
    permuted = pool_relations(relations[:, order][:, :, order], member[:, order], 3, reduce=reduce, weights=weights[:, order])
    torch.testing.assert_close(permuted, pooled)
    padded = pool_relations(
        torch.nn.functional.pad(relations, (0, 2, 0, 2), value=99.0),
        torch.nn.functional.pad(member, (0, 2), value=-1),
        3,
        reduce=reduce,
        weights=torch.nn.functional.pad(weights, (0, 2), value=1.0),
    )
    torch.testing.assert_close(padded, pooled)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_gradients(reduce):
    relations, member, _ = draw(1, 5, 3)
    assert torch.autograd.gradcheck(lambda r: pool_relations(r, member, 3, reduce=reduce), (relations.requires_grad_(),))


@pytest.mark.parametrize("node", [-2, 3])
def test_a_unit_of_a_node_that_does_not_exist(node):
    member = torch.tensor([[0, node]])
    with pytest.raises(ParameterError, match=r"a unit names a node that does not exist: expected indices in \[-1, 2\]"):
        pool_relations(torch.zeros(1, 2, 2), member, 3)


def test_bad_options():
    relations, member = torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ParameterError, match="'reduce' parameter of pool_relations must be one of 'mean', 'max'"):
        pool_relations(relations, member, 1, reduce="median")
    with pytest.raises(ParameterError, match="'num_nodes' parameter"):
        pool_relations(relations, member, 0)
