"""Relationship graphs against plain loops, and the invariances that their formulas promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.graph.relationship import (
    apply_mask,
    cosine_graph,
    dot_graph,
    gaussian_graph,
    k_nearest,
    mean_squared_norm,
    median_distance,
    to_unit_range,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
SHAPES = [(1, 1, 1), (2, 5, 3), (3, 8, 1), (1, 6, 40)]
KINDS = ["cosine", "centred cosine", "gaussian", "dot", "centred dot"]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def centre_of(width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return random(width, seed=9, dtype=dtype)


def relate(kind: str, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """One of the five relations with fixed parameters."""
    centre = centre_of(x.shape[-1], x.dtype) if "centred" in kind else None
    if "cosine" in kind:
        return cosine_graph(x, y, centre=centre, mask=mask)
    if kind == "gaussian":
        return gaussian_graph(x, y, bandwidth=1.7, mask=mask)
    return dot_graph(x, y, scale=2.5, centre=centre, mask=mask)


def entry_by_loop(kind: str, x: list[float], y: list[float]) -> float:
    """The formula of one entry in Python floats."""
    if kind == "gaussian":
        return math.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * 1.7**2))
    if "centred" in kind:
        centre = centre_of(len(x)).tolist()
        x, y = ([a - c for a, c in zip(v, centre, strict=True)] for v in (x, y))
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / 2.5 if "dot" in kind else dot / (math.hypot(*x) * math.hypot(*y))


def graph_by_loop(kind: str, x: Tensor, y: Tensor) -> Tensor:
    rows = [
        [[entry_by_loop(kind, a, b) for b in others] for a in nodes]
        for nodes, others in zip(x.tolist(), y.expand(len(x), -1, -1).tolist(), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_loop_between_nodes_and_against_references(kind, shape, dtype):
    x, y = random(*shape), random(shape[0], 4, shape[2], seed=1)
    for others in (None, y, y[:1]):
        graph = relate(kind, x.to(dtype), None if others is None else others.to(dtype))
        expected = graph_by_loop(kind, x, x if others is None else others)
        assert graph.dtype == dtype
        torch.testing.assert_close(graph.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("kind", KINDS)
def test_symmetric_with_the_right_diagonal(kind):
    x = random(3, 9, 5)
    graph = relate(kind, x)
    torch.testing.assert_close(graph, graph.transpose(1, 2), rtol=0, atol=1e-15)
    if "dot" not in kind:
        assert (graph.diagonal(dim1=1, dim2=2) == 1).all()
        assert graph.abs().max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_nodes_permutes_the_graph(kind):
    x, order = random(2, 7, 3), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(relate(kind, x[:, order]), relate(kind, x)[:, order][:, :, order], rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_under_a_mask_changes_nothing(kind):
    x = random(2, 5, 3)
    padded = torch.cat([x, random(2, 3, 3, seed=4)], dim=1)
    mask = torch.tensor([True] * 5 + [False] * 3).expand(2, -1)
    graph = relate(kind, padded, mask=mask)
    torch.testing.assert_close(graph[:, :5, :5], relate(kind, x), rtol=0, atol=1e-14)
    assert (graph[:, 5:] == 0).all() and (graph[:, :, 5:] == 0).all()


@pytest.mark.parametrize("references", [3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_never_reaches_the_columns_of_references(kind, references):
    """Also where there are as many references as nodes, so that the shape alone does not tell."""
    x, y = random(2, 5, 3), random(1, references, 3, seed=1)
    mask = torch.tensor([[True, False, True, True, False], [True] * 5])
    graph = relate(kind, x, y, mask=mask)
    assert (graph[~mask] == 0).all()
    assert torch.equal(graph[mask], relate(kind, x, y)[mask])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    nodes=st.integers(1, 6),
    width=st.integers(1, 5),
    scales=st.lists(st.floats(1e-3, 1e3), min_size=6),
)
def test_cosine_ignores_positive_scaling_of_each_vector(seed, nodes, width, scales):
    x = random(1, nodes, width, seed=seed)
    scaled = x * torch.tensor(scales[:nodes], dtype=x.dtype)[None, :, None]
    torch.testing.assert_close(cosine_graph(scaled), cosine_graph(x), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-100, 100))
def test_translation_and_rotation(seed, shift):
    x, centre = random(2, 5, 4, seed=seed), random(4, seed=seed + 1)
    rotation, _ = torch.linalg.qr(random(4, 4, seed=seed + 2))
    moved = x @ rotation + shift
    torch.testing.assert_close(gaussian_graph(moved, bandwidth=1.3), gaussian_graph(x, bandwidth=1.3), rtol=0, atol=1e-11)
    for relation in (cosine_graph, lambda x, centre: dot_graph(x, scale=3.0, centre=centre)):
        here, there = relation(x, centre=centre), relation(moved, centre=centre @ rotation + shift)
        torch.testing.assert_close(there, here, rtol=0, atol=1e-9)


def test_gaussian_depends_on_distance_over_bandwidth_only():
    x = random(1, 6, 3)
    torch.testing.assert_close(gaussian_graph(8 * x, bandwidth=8.0), gaussian_graph(x, bandwidth=1.0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_vector_relates_to_nothing_but_itself(dtype):
    x = random(1, 4, 3, dtype=dtype)
    x[0, 2] = 0
    graph = cosine_graph(x)[0]
    assert graph[2].tolist() == [0, 0, 1, 0]
    assert graph[:, 2].tolist() == [0, 0, 1, 0]
    assert (cosine_graph(x, torch.zeros(1, 2, 3, dtype=dtype)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_vector_at_the_centre_up_to_rounding_relates_to_nothing(dtype):
    centre = torch.tensor([1e4, 0.1, -3.0], dtype=dtype)
    x = centre + random(1, 3, 3, dtype=dtype)
    x[0, 1] = centre * (1 + 2 * torch.finfo(dtype).eps)
    assert cosine_graph(x, centre=centre)[0, 1].tolist() == [0, 1, 0]


def test_a_large_column_does_not_hide_differences_in_a_small_one():
    x = torch.tensor([[[1e6, 1e-2], [1e6, 3e-2], [1e6, -1e-2]]])
    graph = cosine_graph(x, centre=torch.tensor([1e6, 0.0]))
    torch.testing.assert_close(graph[0], torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]))


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_of_any_size(size, dtype):
    x = random(1, 5, 3)
    large = (size * x).to(dtype)
    torch.testing.assert_close(cosine_graph(large).double(), cosine_graph(x), rtol=0, atol=1e-5)
    centre = centre_of(3)
    torch.testing.assert_close(
        cosine_graph(large, centre=(size * centre).to(dtype)).double(), cosine_graph(x, centre=centre), rtol=0, atol=1e-5
    )
    bandwidth = median_distance(large[0])
    torch.testing.assert_close(bandwidth.double(), size * median_distance(x[0]), rtol=1e-5, atol=0)
    expected = gaussian_graph(x, bandwidth=median_distance(x[0]))
    torch.testing.assert_close(gaussian_graph(large, bandwidth=bandwidth).double(), expected, rtol=0, atol=1e-5)
    if dtype == torch.float64:
        scaled = dot_graph(large, scale=mean_squared_norm(large[0]))
        torch.testing.assert_close(scaled, dot_graph(x, scale=mean_squared_norm(x[0])), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_at_zero_vectors_coincident_points_and_far_away(kind):
    x = random(1, 6, 3, dtype=torch.float32)
    x[0, 0] = 0
    x[0, 1] = centre_of(3, torch.float32)
    x[0, 3] = x[0, 2]
    x[0, 4] *= 1e15
    x[0, 5] *= 1e-15
    for others in (None, x[:, :3].clone()):
        leaf = x.clone().requires_grad_()
        graph = relate(kind, leaf, others)
        assert torch.isfinite(graph).all()
        (graph * random(*graph.shape, seed=3, dtype=torch.float32)).sum().backward()
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    x, y = random(1, 4, 3).requires_grad_(), random(1, 2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: relate(kind, x), (x,))
    assert torch.autograd.gradcheck(lambda x, y: relate(kind, x, y), (x, y))


def test_far_apart_nodes_do_not_overflow():
    graph = gaussian_graph(torch.tensor([[[0.0], [1e30]]]), bandwidth=1.0)
    assert graph[0].tolist() == [[1, 0], [0, 1]]


def test_apply_mask_goes_by_the_shape_unless_told():
    ones, mask = torch.ones(1, 3, 3), torch.tensor([[True, False, True]])
    assert apply_mask(ones, None) is ones
    both = [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    assert apply_mask(ones, mask)[0].tolist() == apply_mask(ones, mask, square=True)[0].tolist() == both
    assert apply_mask(ones, mask, square=False)[0].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert apply_mask(torch.ones(1, 3, 2), mask)[0].tolist() == [[1, 1], [0, 0], [1, 1]]


def test_unit_range():
    graph, mask = torch.tensor([[[1.0, -1.0], [0.0, 0.5]]]), torch.tensor([[True, False]])
    assert to_unit_range(graph)[0].tolist() == [[1, 0], [0.5, 0.75]]
    assert to_unit_range(graph, mask)[0].tolist() == [[1, 0], [0, 0]]
    assert to_unit_range(graph.flip(2), mask, square=False)[0].tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("neighbours", [1, 2, 5, 7])
def test_k_nearest_keeps_exact_values_of_the_largest(neighbours):
    square, tall = cosine_graph(random(2, 7, 3)), random(2, 4, 7, seed=2)
    for graph in (square, tall):
        rows = graph.tolist()
        limits = [[sorted(row, reverse=True)[neighbours - 1] for row in nodes] for nodes in rows]
        largest = graph >= torch.tensor(limits, dtype=graph.dtype)[:, :, None]
        expected = largest | largest.transpose(1, 2) if graph is square else largest
        assert torch.equal(k_nearest(graph, neighbours), torch.where(expected, graph, 0.0))
    kept = k_nearest(square, neighbours)
    assert torch.equal(kept != 0, (kept != 0).transpose(1, 2))


def test_k_nearest_against_as_many_references_as_nodes_works_by_row():
    graph = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]])
    assert (k_nearest(graph, 1, square=False)[0] > 0).tolist() == [[True, False], [True, False]]
    assert (k_nearest(graph, 1)[0] > 0).tolist() == [[True, True], [True, False]]


def test_k_nearest_is_not_changed_by_padding():
    graph = cosine_graph(random(1, 5, 3, seed=3))  # with negative entries, which are less than the zeros of a masked node
    padded = torch.nn.functional.pad(graph, (0, 4, 0, 4))
    mask = torch.tensor([[True] * 5 + [False] * 4])
    assert torch.equal(k_nearest(padded, 4, mask=mask)[:, :5, :5], k_nearest(graph, 4))
    assert torch.equal(k_nearest(padded, 8, mask=mask), padded)


@pytest.mark.parametrize("neighbours", [0, 8])
def test_k_nearest_refuses_more_neighbours_than_columns(neighbours):
    with pytest.raises(ParameterError, match=r"'neighbours' parameter of k_nearest must be an int in \[1, 7\]"):
        k_nearest(torch.zeros(1, 7, 7), neighbours)


@pytest.mark.parametrize("rows", [2, 3, 6, 7])
def test_median_distance_is_the_lower_middle_of_all_pairs(rows):
    x = random(rows, 3, seed=rows)
    points = x.tolist()
    distances = sorted(math.dist(points[i], points[j]) for i in range(rows) for j in range(i))
    assert median_distance(x).item() == pytest.approx(distances[(len(distances) - 1) // 2], rel=1e-12)


def test_median_distance_of_many_rows_uses_evenly_spaced_ones():
    x = torch.arange(1000.0)[:, None]
    assert median_distance(x, at_most=10).item() == pytest.approx(median_distance(x[::111]).item())


def test_median_distance_of_copies():
    assert median_distance(torch.tensor([[0.0], [0.0], [0.0], [6.0]])).item() == 6
    assert median_distance(torch.ones(5, 2)).item() == 1


def test_mean_squared_norm():
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert mean_squared_norm(x).item() == 13
    assert mean_squared_norm(x, torch.tensor([0.0, 1.0])).item() == 9
    assert mean_squared_norm(torch.zeros(4, 2)).item() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_statistics_refuse_values_that_are_not_finite(value):
    x = torch.tensor([[1.0], [value]])
    for statistic in (median_distance, mean_squared_norm):
        with pytest.raises(DataError, match=r"NaN or infinite.*run the doctor"):
            statistic(x)


def test_errors():
    with pytest.raises(DataError, match=r"at least two units.*got 1"):
        median_distance(torch.zeros(1, 3))
    with pytest.raises(DataError, match="cannot be squared"):
        mean_squared_norm(torch.tensor([[1e30]]))
    with pytest.raises(ParameterError, match=r"'bandwidth' parameter of gaussian_graph must be above 0. Got 0.0"):
        gaussian_graph(torch.zeros(1, 2, 1), bandwidth=torch.zeros(()))
    with pytest.raises(ParameterError, match="'scale' parameter of dot_graph must be above 0"):
        dot_graph(torch.zeros(1, 2, 1), scale=-1.0)
