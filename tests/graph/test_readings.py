"""What is read off graphs to known normals, against loops over their formulas in double precision."""

import math

import pytest
import torch
from torch import Tensor

from lego_fusion.graph.readings import (
    bounded,
    degrees,
    inside_degrees,
    propagated,
    surprise,
    time_context,
)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_surprise_is_minus_the_log_of_the_relation():
    x, known, bandwidth = rows(5, 3), rows(4, 3, seed=1), torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    for i in range(5):
        for j in range(4):
            relation = 1 / (1 + math.dist(x[i].tolist(), known[j].tolist()) ** 2 / float(bandwidth[j]) ** 2)
            assert float(surprise(x, known, bandwidth)[i, j]) == pytest.approx(-math.log(relation), rel=1e-9)


@pytest.mark.parametrize("size", [1e10, 1e18, 1e30])
def test_however_far_a_node_is_its_surprise_is_finite(size):
    x = torch.tensor([[size, 0.0], [1.0, 1.0]])
    found = surprise(x, torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([1e-3, 1e-3]))
    assert found.isfinite().all() and found[0].min() > 30
    assert float(found[1, 1]) == pytest.approx(0, abs=1e-4), "other rows stay as they were"


def test_degrees_by_hand():
    nearest = rows(6, 3).abs()
    found = degrees(nearest, (1, 2, 5))
    for i in range(6):
        for place, p in enumerate((1, 2, 5)):
            mean = sum(math.exp(-p * float(u)) for u in nearest[i]) / 3
            assert float(found[i, place]) == pytest.approx(-math.log(mean) / (2 * p), rel=1e-9)


def test_powers_tend_to_the_nearest_neighbour():
    """lim phi_p = log(1 + d^2 / s^2) / 2 of the nearest one: nearest neighbours are the limit of graph powers."""
    nearest = torch.tensor([[0.5, 1.0, 3.0]], dtype=torch.float64)
    found = degrees(nearest, (1, 4, 16, 64, 4096))[0]
    assert (found.diff() < 0).all()
    assert float(found[-1]) == pytest.approx(0.25, abs=1e-3)


def test_a_missing_modality_adds_a_constant():
    """The logarithm before modalities are added makes contrast count, not size: a factor on R shifts every node alike."""
    nearest = rows(6, 3).abs()
    difference = degrees(nearest + 0.7, (1, 2)) - degrees(nearest, (1, 2))
    torch.testing.assert_close(difference, torch.full_like(difference, 0.35))


@pytest.mark.parametrize("root", [1, 3])
def test_propagation_by_hand(root):
    log_graph, known = rows(4, 7), [rows(7, 2, seed=1), rows(7, 5, seed=2)]
    found = propagated(log_graph, known, root)
    for i in range(4):
        entries = [math.exp(float(u)) ** (1 / root) for u in log_graph[i]]
        for values, made in zip(known, found, strict=True):
            expected = sum(entry * row for entry, row in zip(entries, values, strict=True)) / sum(entries)
            torch.testing.assert_close(made[i], expected)


def test_a_column_that_must_not_be_met_gives_nothing():
    log_graph = torch.tensor([[0.0, float("-inf"), -1.0]], dtype=torch.float64)
    found = propagated(log_graph, [torch.tensor([[1.0], [1e9], [2.0]], dtype=torch.float64)])[0]
    assert float(found) == pytest.approx((1 + 2 * math.exp(-1)) / (1 + math.exp(-1)))


def test_bounded_departures_keep_their_direction():
    departure = rows(6, 4) * torch.tensor([1e-3, 0.1, 1, 10, 1e3, 1e8], dtype=torch.float64)[:, None]
    found = bounded(departure, torch.tensor(1.0, dtype=torch.float64))
    assert (torch.linalg.vector_norm(found, dim=-1) <= math.sqrt(2) + 1e-9).all()
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(found, departure), torch.ones(6, dtype=torch.float64))
    usual = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(bounded(usual, torch.tensor(5.0)), usual, msg="a usual length stays")


def inside_by_hand(x: Tensor, numbers: list[int], s: float, p: int, exists: list[bool], window: int | None) -> list[float]:
    found = []
    for i in range(len(x)):
        others = [
            (1 + math.dist(x[i].tolist(), x[j].tolist()) ** 2 / s**2) ** -p
            for j in range(len(x))
            if exists[j] and abs(numbers[i] - numbers[j]) > 1 and (window is None or 0 <= i - j < window)
        ]
        found.append(-math.log(sum(others) / len(others)) / (2 * p) if others else float("nan"))
    return found


@pytest.mark.parametrize("window", [None, 1, 3, 4, 9, 20])
@pytest.mark.parametrize("masked", [False, True])
def test_inside_degrees_by_hand(window, masked):
    x = rows(2, 9, 3)
    numbers = torch.tensor([[0, 0, 1, 2, 3, 3, 4, 5, 6], list(range(9))])
    mask = torch.tensor([[True] * 9, [False, True, True, False, True, True, True, False, True]]) if masked else None
    found = inside_degrees(x, numbers, torch.tensor(1.5), (1, 3), mask, window)
    for bag in range(2):
        exists = [True] * 9 if mask is None else mask[bag].tolist()
        for place, p in enumerate((1, 3)):
            expected = inside_by_hand(x[bag], numbers[bag].tolist(), 1.5, p, exists, window)
            for node in range(9):
                if exists[node]:
                    assert float(found[bag, node, place]) == pytest.approx(expected[node], rel=1e-6, nan_ok=True)


def test_with_a_window_the_future_changes_nothing():
    x, later = rows(1, 12, 3), rows(1, 12, 3, seed=5)
    numbers = torch.arange(12)[None]
    changed = torch.where(torch.arange(12)[None, :, None] > 7, later, x)
    first, second = (inside_degrees(one, numbers, torch.tensor(1.0), (1,), None, 5) for one in (x, changed))
    torch.testing.assert_close(first[:, :8], second[:, :8], equal_nan=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_time_context_by_hand(causal, deviation):
    values = rows(2, 30)
    mask = torch.rand(2, 30, generator=torch.Generator().manual_seed(1)) > 0.3
    found = time_context(values, deviation, mask, causal=causal)
    for bag in range(2):
        for i in range(30):
            near = [
                (math.exp(-(((i - j) / deviation) ** 2) / 2), float(values[bag, j]))
                for j in range(30)
                if mask[bag, j] and abs(i - j) <= 4 * deviation and (not causal or j <= i)
            ]
            if mask[bag, i]:
                expected = sum(w * v for w, v in near) / sum(w for w, _ in near)
                assert float(found[bag, i]) == pytest.approx(expected, rel=1e-6)


def test_a_constant_stays_a_constant_and_no_time_is_no_time():
    values = torch.full((1, 5), 3.0)
    torch.testing.assert_close(time_context(values, 2.0), values)
    torch.testing.assert_close(time_context(values, 2.0, causal=True), values)
    noise = torch.rand(1, 5)
    assert torch.equal(time_context(noise, 0.0), noise)
