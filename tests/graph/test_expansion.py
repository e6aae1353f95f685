"""Graph powers against plain loops."""

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.graph.expansion import normalise, powers, zeroth_power

MASK = torch.tensor([[True, True, False, True], [True, True, True, True]])


def random_graph(batch: int = 2, nodes: int = 4, columns: int | None = None, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    graph = torch.randn(batch, nodes, columns or nodes, generator=generator, dtype=torch.float64)
    return graph if columns else graph + graph.transpose(1, 2)


def multiply(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def normalised_by_loop(graph: list[list[float]], kind: str) -> list[list[float]]:
    degree = [sum(abs(r) for r in row) or 1.0 for row in graph]
    if kind == "none":
        return graph
    return [
        [r / (degree[i] if kind == "row" else (degree[i] * degree[j]) ** 0.5) for j, r in enumerate(row)]
        for i, row in enumerate(graph)
    ]


@pytest.mark.parametrize("order", [0, 1, 2, 5, 10])
@pytest.mark.parametrize("columns", [None, 3])
def test_hadamard_powers_are_powers_of_entries(order, columns):
    graph = random_graph(columns=columns)
    result = powers(graph, order)
    assert len(result) == order + 1
    for p, power in enumerate(result):
        expected = [[[r**p for r in row] for row in rows] for rows in graph.tolist()]
        torch.testing.assert_close(power, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", ["row", "symmetric", "none"])
def test_matrix_powers_are_repeated_products(kind):
    graph = random_graph()
    result = powers(graph, 4, expansion="matrix", zero_order="identity", normalisation=kind)
    assert len(result) == 5
    for b, rows in enumerate(graph.tolist()):
        base = normalised_by_loop(rows, kind)
        power = [[float(i == j) for j in range(4)] for i in range(4)]
        for p in range(5):
            torch.testing.assert_close(result[p][b], torch.tensor(power, dtype=torch.float64), rtol=1e-12, atol=1e-13)
            power = multiply(power, base)


@pytest.mark.parametrize("kind", ["row", "symmetric"])
@pytest.mark.parametrize("seed", range(5))
def test_normalised_powers_never_grow(kind, seed):
    graph = random_graph(3, 12, seed=seed)
    graph[0, 3] = graph[0, :, 3] = 0  # a node without relations
    for power in powers(graph, 10, expansion="matrix", zero_order="identity", normalisation=kind):
        assert torch.linalg.eigvals(power).abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("kind", ["row", "symmetric"])
def test_normalisation_ignores_the_size_of_a_graph(kind, size):
    graph = random_graph().float()
    torch.testing.assert_close(normalise(size * graph, kind), normalise(graph, kind), rtol=1e-5, atol=1e-7)


def test_a_node_without_relations_stays_zero_with_finite_gradients():
    for kind in ("row", "symmetric"):
        graph = random_graph()
        graph[:, 1] = graph[:, :, 1] = 0
        graph.requires_grad_()
        result = normalise(graph, kind)
        assert (result[:, 1] == 0).all() and (result[:, :, 1] == 0).all()
        result.square().sum().backward()
        assert torch.isfinite(graph.grad).all()


def test_zeroth_power():
    graph = random_graph()
    assert (zeroth_power(graph, "ones") == 1).all()
    assert torch.equal(zeroth_power(graph, "identity"), torch.eye(4, dtype=torch.float64).expand(2, 4, 4))


@pytest.mark.parametrize("expansion", ["hadamard", "matrix"])
@pytest.mark.parametrize("zero_order", ["ones", "identity"])
def test_masked_nodes_are_zero_in_every_power_as_if_they_were_not_there(expansion, zero_order):
    graph, kept = random_graph(), torch.tensor([0, 1, 3])
    options = {"expansion": expansion, "zero_order": zero_order}
    masked = powers(graph, 3, mask=MASK, **options)
    shorter = powers(graph[:1, kept][:, :, kept], 3, **options)
    for power, expected in zip(masked, shorter, strict=True):
        assert (power[0, 2] == 0).all() and (power[0, :, 2] == 0).all()
        torch.testing.assert_close(power[:1, kept][:, :, kept], expected, rtol=0, atol=1e-14)
    for power, expected in zip(masked, powers(graph, 3, **options), strict=True):
        torch.testing.assert_close(power[1], expected[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("columns", [3, 4])
def test_masked_nodes_keep_the_columns_of_references(columns):
    graph = random_graph(columns=columns)
    for p, power in enumerate(powers(graph, 2, mask=MASK, square=False)):
        assert torch.equal(power, torch.where(MASK[:, :, None], graph**p, 0.0))


@pytest.mark.parametrize("options", [{"expansion": "matrix"}, {"zero_order": "identity"}])
@pytest.mark.parametrize(("columns", "square"), [(3, None), (3, True), (4, False)])
def test_references_have_neither_matrix_powers_nor_identity(options, columns, square):
    for order in (0, 2):
        with pytest.raises(ParameterError, match=r"not defined for relations to reference units.*hadamard"):
            powers(random_graph(columns=columns), order, square=square, **options)


def test_bad_order():
    with pytest.raises(ParameterError, match="'order' parameter of powers must be an int in"):
        powers(random_graph(), -1)
