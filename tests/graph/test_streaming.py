"""Streaming against whole graphs: values, degrees, statistics and every gradient, for every relation, form and mask."""

import itertools

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.graph.operator import GraphOperator
from lego_fusion.graph.relation_vectors import RelationVectors, cosine_vectors, dot_vectors, gaussian_vectors
from lego_fusion.graph.relationship import cosine_graph, dot_graph, gaussian_graph, to_unit_range
from lego_fusion.graph.streaming import propagate

NODES, TILE = 11, 4  # tiles of 4, 4 and 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CENTRE = random(5, seed=9)
RELATIONS = {
    "cosine": (cosine_graph, cosine_vectors, {}),
    "centred cosine": (cosine_graph, cosine_vectors, {"centre": CENTRE}),
    "dot": (dot_graph, dot_vectors, {"scale": 3.0, "centre": CENTRE}),
    "gaussian": (gaussian_graph, gaussian_vectors, {"bandwidth": 2.0}),
}
MASK = torch.tensor([[True] * NODES, [True, False, True, True, True, True, False, True, True, True, False]])


def operator(form="full", names=("a", "b"), order=3, **options) -> GraphOperator:
    one = GraphOperator(list(names), order, form, noise=0.5, **options).double()
    return one.eval()


def dense(graphs: dict[str, Tensor], one: GraphOperator, x: Tensor, mask: Tensor | None, *, square: bool) -> list[Tensor]:
    """G X, degrees, sums and sums of squares from whole graphs."""
    fused = one(graphs, mask, square=square)
    return [fused @ x, fused.abs().sum(-1), fused.sum(-1), fused.square().sum(-1)]


def compare(streamed, whole, leaves: list[Tensor]) -> None:
    weights = [random(*one.shape, seed=20 + number) for number, one in enumerate(whole)]
    for ours, expected in zip(streamed, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)
    found, wanted = (
        torch.autograd.grad(sum((one * w).sum() for one, w in zip(results, weights, strict=True)), leaves, retain_graph=True)
        for results in (streamed, whole)
    )
    for ours, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("references", [0, 1, 6, NODES])
@pytest.mark.parametrize("kind", RELATIONS)
def test_it_is_the_whole_graph(kind, references, masked):
    graph, vectors, options = RELATIONS[kind]
    features = {name: random(2, NODES, 5, seed=seed).requires_grad_() for seed, name in enumerate("ab")}
    known = {name: random(1, references, 5, seed=5 + seed).requires_grad_() for seed, name in enumerate("ab")}
    x = random(2, references or NODES, 3, seed=3).requires_grad_()
    one, mask = operator(), MASK if masked else None
    others = known if references else dict.fromkeys("ab")
    graphs = {name: graph(features[name], others[name], mask=mask, **options) for name in "ab"}
    made = {name: vectors(features[name], others[name], **options) for name in "ab"}
    streamed = propagate(made, one, x, mask, statistics=True, tile=TILE)
    leaves = [*features.values(), *(known.values() if references else ()), x, *one.parameters()]
    compare(streamed[:4], dense(graphs, one, x, mask, square=not references), leaves)


@pytest.mark.parametrize("zero_order", ["ones", "identity"])
@pytest.mark.parametrize("form", ["joint", "rank1", "all-pairs", "random-pair"])
@pytest.mark.parametrize("names", ["a", "abc"])
def test_every_form_and_zeroth_power(names, form, zero_order):
    features = {name: random(2, NODES, 2 + seed, seed=seed).requires_grad_() for seed, name in enumerate(names)}
    one, x = operator(form, names, 2, zero_order=zero_order), random(2, NODES, 3, seed=3)
    graphs = {name: cosine_graph(rows, mask=MASK) for name, rows in features.items()}
    streamed = propagate(features, one, x, MASK, statistics=True, tile=TILE)
    compare(streamed[:4], dense(graphs, one, x, MASK, square=True), [*features.values(), *one.parameters()])


def test_random_pair_draws_once_for_all_tiles():
    features = {name: random(1, NODES, 4, seed=seed).requires_grad_() for seed, name in enumerate("abc")}
    streamed, whole = (operator("random-pair", "abc").train() for _ in range(2))
    x = random(1, NODES, 3)
    for _ in range(4):
        found = propagate(features, streamed, x, tile=TILE).values
        expected = whole({name: cosine_graph(rows) for name, rows in features.items()}) @ x
        torch.testing.assert_close(found, expected)
        gradients = [
            torch.autograd.grad(one.sum(), list(features.values()), materialize_grads=True) for one in (found, expected)
        ]
        for ours, theirs in zip(*gradients, strict=True):  # of the graph that was not drawn: zero
            torch.testing.assert_close(ours, theirs)
    assert streamed.draws == 4


def test_unit_range_and_mixed_relations():
    rows, x, one = [random(1, NODES, 5, seed=seed) for seed in range(2)], random(1, NODES, 2), operator()
    graphs = {"a": to_unit_range(cosine_graph(rows[0])), "b": gaussian_graph(rows[1], bandwidth=3.0)}
    made = {"a": cosine_vectors(rows[0], unit_range=True), "b": gaussian_vectors(rows[1], bandwidth=3.0)}
    torch.testing.assert_close(propagate(made, one, x, tile=TILE).values, one(graphs) @ x)


@pytest.mark.parametrize("zero_order", ["ones", "identity"])
def test_gradcheck(zero_order):
    one = operator(order=2, zero_order=zero_order)
    mask = torch.tensor([[True, True, False, True, True]])
    leaves = [random(1, 5, 3, seed=seed).requires_grad_() for seed in range(2)] + [random(1, 5, 2, seed=2).requires_grad_()]

    def streamed(a: Tensor, b: Tensor, x: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return tuple(propagate({"a": a, "b": b}, one, x, mask, statistics=True, tile=2)[:4])

    assert torch.autograd.gradcheck(streamed, [*leaves, one.coefficients])


def test_smallest_and_largest_skip_masked_columns():
    features = {name: random(2, NODES, 4, seed=seed) for seed, name in enumerate("ab")}
    one = operator()
    fused = one({name: cosine_graph(rows, mask=MASK) for name, rows in features.items()}, MASK)
    found = propagate(features, one, random(2, NODES, 1), MASK, statistics=True, tile=TILE)
    assert found.total.requires_grad and not found.smallest.requires_grad and not found.largest.requires_grad
    for item, node in itertools.product(range(2), range(NODES)):
        row = fused[item, node][MASK[item]] if MASK[item, node] else torch.zeros(1, dtype=torch.float64)
        torch.testing.assert_close(found.smallest[item, node], row.min())
        torch.testing.assert_close(found.largest[item, node], row.max())


def test_the_tile_does_not_matter():
    features = {name: random(1, NODES, 4, seed=seed) for seed, name in enumerate("ab")}
    one, x = operator(), random(1, NODES, 3)
    whole = propagate(features, one, x, tile=100)
    for tile in (1, 2, 5, NODES):
        torch.testing.assert_close(propagate(features, one, x, tile=tile).values, whole.values)


def test_permuted_nodes_give_the_permuted_result():
    features = {name: random(1, NODES, 4, seed=seed) for seed, name in enumerate("ab")}
    one, x, order = operator(), random(1, NODES, 3), torch.randperm(NODES, generator=torch.Generator().manual_seed(0))
    moved = propagate({name: rows[:, order] for name, rows in features.items()}, one, x[:, order], tile=TILE)
    torch.testing.assert_close(moved.values, propagate(features, one, x, tile=TILE).values[:, order])


def test_what_masked_nodes_hold_does_not_matter():
    features = {name: random(2, NODES, 4, seed=seed) for seed, name in enumerate("ab")}
    one, x = operator(), random(2, NODES, 3)
    clean = propagate(features, one, x, MASK, statistics=True, tile=TILE)
    spoilt = {name: rows.masked_fill(~MASK[..., None], float("nan")).requires_grad_() for name, rows in features.items()}
    found = propagate(spoilt, one, x.masked_fill(~MASK[..., None], float("inf")), MASK, statistics=True, tile=TILE)
    for ours, expected in zip(found, clean, strict=True):
        assert torch.equal(ours, expected)
    found.values.sum().backward()
    assert all(bool(rows.grad.isfinite().all()) for rows in spoilt.values())


@pytest.mark.parametrize(("batch", "nodes"), [(0, 5), (1, 1), (3, 1)])
def test_no_item_and_one_node(batch, nodes):
    features = {name: random(batch, nodes, 4, seed=seed).requires_grad_() for seed, name in enumerate("ab")}
    one, x = operator(), random(batch, nodes, 3)
    found = propagate(features, one, x)
    graphs = {name: cosine_graph(rows) for name, rows in features.items()}
    torch.testing.assert_close(found.values, one(graphs) @ x)
    found.values.sum().backward()
    assert one.coefficients.grad.isfinite().all()


def test_only_the_gradients_asked_for():
    features = {name: random(1, NODES, 4, seed=seed).requires_grad_(name == "b") for seed, name in enumerate("ab")}
    one, x = operator().requires_grad_(False), random(1, NODES, 3)
    propagate(features, one, x, tile=TILE).values.sum().backward()
    assert features["b"].grad is not None
    assert features["a"].grad is None and one.coefficients.grad is None


def test_the_backward_keeps_no_graph():
    features = {name: random(1, 64, 4, seed=seed).requires_grad_() for seed, name in enumerate("ab")}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        propagate(features, operator(), random(1, 64, 3), tile=8)
    assert max(tensor.numel() for tensor in kept.values()) <= 64 * 4


def test_half_precision_adds_up_in_float32():
    features = {name: random(1, NODES, 4, seed=seed).bfloat16() for seed, name in enumerate("ab")}
    one, x = operator().float(), random(1, NODES, 3).bfloat16()
    found = propagate(features, one, x, tile=TILE)
    expected = one({name: cosine_graph(rows.float()) for name, rows in features.items()}) @ x.float()
    assert found.values.dtype == torch.bfloat16
    torch.testing.assert_close(found.values.float(), expected, rtol=0.1, atol=0.1)


def test_a_second_derivative_is_refused():
    features = {name: random(1, 4, 4, seed=seed).requires_grad_() for seed, name in enumerate("ab")}
    found = propagate(features, operator(), random(1, 4, 3)).values.sum()
    with pytest.raises(ParameterError, match="differentiated once only"):
        torch.autograd.grad(found, features["a"], create_graph=True)


def bad(**changes):
    arguments = {"features": {name: random(1, 6, 4) for name in "ab"}, "operator": operator(), "x": random(1, 6, 2)}
    return arguments | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"a": random(1, 6, 4)}}, "no features for modality 'b'"),
        ({"features": {"a": random(1, 6, 4), "b": random(1, 5, 4)}}, r"one number of nodes.*modality 'b'"),
        ({"features": {"a": random(1, 6, 4), "b": random(1, 6, 4).float()}}, "one dtype"),
        ({"features": {"a": random(1, 6, 4), "b": cosine_vectors(random(1, 6, 4), random(1, 3, 4))}}, "expected none"),
        ({"x": random(1, 5, 2)}, "x does not fit the columns"),
        ({"x": random(1, 6, 2).float()}, r"expected \(1, 6, F\) torch.float64, got \(1, 6, 2\) torch.float32"),
        ({"mask": torch.ones(1, 5, dtype=torch.bool)}, "mask does not fit"),
        ({"operator": operator(expansion="matrix")}, "matrix powers need whole graphs"),
        ({"tile": 0}, "'tile' parameter"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ParameterError, match=message):
        propagate(**bad(**changes))


def test_the_identity_has_no_references():
    made = {name: cosine_vectors(random(1, 6, 4), random(1, 6, 4)) for name in "ab"}
    with pytest.raises(ParameterError, match="not defined for relations to reference units"):
        propagate(made, operator(zero_order="identity"), random(1, 6, 2))
    with pytest.raises(ParameterError, match="'bandwidth' parameter"):
        gaussian_vectors(random(1, 6, 4), bandwidth=0.0)
    assert isinstance(made["a"], RelationVectors)
