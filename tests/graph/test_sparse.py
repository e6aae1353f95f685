"""Propagation on nearest-neighbour edges against whole graphs with the other entries removed."""

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.graph import sparse
from lego_fusion.graph.operator import GraphOperator
from lego_fusion.graph.relation_vectors import cosine_vectors, dot_vectors, gaussian_vectors
from lego_fusion.graph.relationship import cosine_graph, dot_graph, gaussian_graph
from lego_fusion.graph.sparse import propagate_nearest
from lego_fusion.graph.streaming import propagate

NODES = 9
MASK = torch.tensor([[True] * NODES, [True, False, True, True, True, True, False, True, True]])
RELATIONS = {
    "cosine": (cosine_graph, cosine_vectors, {}),
    "dot": (dot_graph, dot_vectors, {"scale": 3.0}),
    "gaussian": (gaussian_graph, gaussian_vectors, {"bandwidth": 2.0}),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operator(**options) -> GraphOperator:
    return GraphOperator(["a", "b"], 3, "full", noise=0.5, **options).double()


def kept_by_hand(graphs: list[Tensor], neighbours: int, mask: Tensor | None, *, square: bool) -> Tensor:
    """Which entries are edges: row by row, the nearest existing columns of either graph."""
    kept = torch.zeros_like(graphs[0], dtype=torch.bool)
    for graph in graphs:
        for item in range(graph.shape[0]):
            for row in range(graph.shape[1]):
                if mask is not None and not mask[item, row]:
                    continue
                columns = range(graph.shape[2])
                if square and mask is not None:
                    columns = [column for column in columns if mask[item, column]]
                ranked = sorted(columns, key=lambda column: -graph[item, row, column].item())
                kept[item, row, ranked[:neighbours]] = True
    return kept | kept.transpose(1, 2) if square else kept


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("references", [0, 7])
@pytest.mark.parametrize("kind", RELATIONS)
def test_it_is_the_whole_graph_on_its_edges(kind, references, masked, monkeypatch):
    monkeypatch.setattr(sparse, "TILE", 4)
    monkeypatch.setattr(sparse, "CHUNK", 20)
    graph, vectors, options = RELATIONS[kind]
    features = {name: random(2, NODES, 5, seed=seed).requires_grad_() for seed, name in enumerate("ab")}
    known = {name: random(1, references, 5, seed=5 + seed).requires_grad_() for seed, name in enumerate("ab")}
    others = known if references else dict.fromkeys("ab")
    x, one, mask = random(2, references or NODES, 3, seed=3).requires_grad_(), operator(), MASK if masked else None
    graphs = {name: graph(features[name], others[name], mask=mask, **options) for name in "ab"}
    kept = kept_by_hand(list(graphs.values()), 3, mask, square=not references)
    fused = one(graphs, mask, square=not references) * kept
    made = {name: vectors(features[name], others[name], **options) for name in "ab"}
    found = propagate_nearest(made, one, x, mask, neighbours=3)
    leaves = [*features.values(), *(known.values() if references else ()), x, one.coefficients]
    weight, weight_of_degree = random(2, NODES, 3, seed=7), random(2, NODES, seed=8)
    results = [(found.values, found.degree), (fused @ x, fused.abs().sum(-1))]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
    gradients = [
        torch.autograd.grad((values * weight).sum() + (degree * weight_of_degree).sum(), leaves) for values, degree in results
    ]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


def test_with_all_neighbours_it_is_streaming():
    features, x, one = {name: random(2, NODES, 4, seed=seed) for seed, name in enumerate("ab")}, random(2, NODES, 3), operator()
    found, streamed = propagate_nearest(features, one, x, neighbours=NODES), propagate(features, one, x)
    torch.testing.assert_close(found.values, streamed.values)
    torch.testing.assert_close(found.degree, streamed.degree)


@pytest.mark.parametrize("batch", [0, 1])
def test_one_node_and_no_item(batch):
    features, x = {name: random(batch, 1, 4) for name in "ab"}, random(batch, 1, 2)
    one = operator()
    torch.testing.assert_close(propagate_nearest(features, one, x, neighbours=1).values, one.coefficients.sum() * x)


@pytest.mark.parametrize(
    ("options", "neighbours", "message"),
    [
        ({}, 0, "'neighbours' parameter"),
        ({}, NODES + 1, rf"'neighbours' parameter.*\[1, {NODES}\]"),
        ({"zero_order": "identity"}, 2, "need zero_order='ones'"),
        ({"expansion": "matrix"}, 2, "matrix powers need whole graphs"),
    ],
)
def test_bad_input(options, neighbours, message):
    features = {name: random(1, NODES, 4) for name in "ab"}
    with pytest.raises(ParameterError, match=message):
        propagate_nearest(features, operator(**options), random(1, NODES, 2), neighbours=neighbours)
