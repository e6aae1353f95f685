"""The polynomial kernels against explicit sums, their gradients, and what they keep in memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.graph import eager_kernel
from lego_fusion.graph.kernels import bivariate_polynomial, product_polynomial


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def powers_of(x: Tensor, order: int) -> list[Tensor]:
    result = [torch.ones_like(x)]
    for _ in range(order):
        result.append(result[-1] * x)
    return result


def explicit_bivariate(s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
    """Powers built once by multiplication, a double loop in Python, autograd."""
    s_powers, t_powers = powers_of(s, coefficients.shape[0] - 1), powers_of(t, coefficients.shape[1] - 1)
    total = torch.zeros_like(s)
    for p, s_power in enumerate(s_powers):
        for q, t_power in enumerate(t_powers):
            total = total + coefficients[p, q] * s_power * t_power
    return total


def explicit_product(graphs: list[Tensor], factors: list[Tensor]) -> Tensor:
    expanded = [powers_of(x, factor.shape[1] - 1) for x, factor in zip(graphs, factors, strict=True)]
    total = torch.zeros_like(graphs[0])
    for r in range(factors[0].shape[0]):
        product = torch.ones_like(graphs[0])
        for powers, factor in zip(expanded, factors, strict=True):
            product = product * sum(factor[r, p] * power for p, power in enumerate(powers))
        total = total + product
    return total


def entries(*shape: int, seed: int = 0) -> Tensor:
    """Relations in [-1, 1], among them exactly 0, 1 and -1."""
    x = random(*shape, seed=seed).clamp(-1, 1)
    flat = x.view(-1)
    flat[: min(3, len(flat))] = torch.tensor([0.0, 1.0, -1.0], dtype=x.dtype)[: len(flat)]
    return x


def gradients(function: Callable[..., Tensor], leaves: list[Tensor], weight: Tensor) -> tuple[Tensor, ...]:
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    return torch.autograd.grad((function(*leaves) * weight).sum(), leaves, materialize_grads=True)


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


ORDERS = [(0, 0), (0, 3), (3, 0), (1, 1), (2, 5), (10, 10)]


@pytest.mark.parametrize(("p", "q"), ORDERS)
def test_bivariate_value_and_gradients_are_those_of_the_explicit_sum(p, q):
    leaves = [entries(2, 4, 3), entries(2, 4, 3, seed=1).flip(0), random(p + 1, q + 1, seed=2)]
    assert_close(bivariate_polynomial(*leaves), explicit_bivariate(*leaves))
    weight = random(2, 4, 3, seed=3)
    for ours, expected in zip(
        gradients(bivariate_polynomial, leaves, weight), gradients(explicit_bivariate, leaves, weight), strict=True
    ):
        assert_close(ours, expected)


PRODUCTS = [([2], 1), ([0, 0], 2), ([3, 1], 1), ([2, 2], 3), ([1, 4, 0], 2), ([2, 2, 2, 2], 5)]


@pytest.mark.parametrize(("orders", "rank"), PRODUCTS)
def test_product_value_and_gradients_are_those_of_the_explicit_sum(orders, rank):
    count = len(orders)
    leaves = [entries(2, 3, 3, seed=m) for m in range(count)]
    leaves += [random(rank, order + 1, seed=10 + m) for m, order in enumerate(orders)]

    def ours(*tensors: Tensor) -> Tensor:
        return product_polynomial(tensors[:count], tensors[count:])

    def explicit(*tensors: Tensor) -> Tensor:
        return explicit_product(list(tensors[:count]), list(tensors[count:]))

    assert_close(ours(*leaves), explicit(*leaves))
    weight = random(2, 3, 3, seed=3)
    for mine, expected in zip(gradients(ours, leaves, weight), gradients(explicit, leaves, weight), strict=True):
        assert_close(mine, expected)


@pytest.mark.parametrize(("p", "q"), [(0, 0), (2, 0), (3, 2)])
def test_gradcheck_of_the_bivariate_polynomial(p, q):
    leaves = [entries(1, 3, 3), entries(1, 3, 3, seed=1), random(p + 1, q + 1, seed=2)]
    assert torch.autograd.gradcheck(bivariate_polynomial, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize(("orders", "rank"), [([2], 1), ([0, 2], 2), ([2, 1, 3], 2)])
def test_gradcheck_of_the_product_polynomial(orders, rank):
    leaves = [entries(1, 3, 3, seed=m).requires_grad_() for m in range(len(orders))]
    leaves += [random(rank, order + 1, seed=10 + m).requires_grad_() for m, order in enumerate(orders)]
    assert torch.autograd.gradcheck(lambda *x: product_polynomial(x[: len(orders)], x[len(orders) :]), leaves)


def test_only_the_gradients_asked_for():
    graphs, a = [entries(1, 4, 4, seed=m) for m in range(2)], random(3, 3, seed=2)
    for asked in range(3):
        leaves = [x.clone().requires_grad_(m == asked) for m, x in enumerate([*graphs, a])]
        bivariate_polynomial(*leaves).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [m == asked for m in range(3)]
        product_polynomial(leaves[:2], [leaves[2], a]).sum().backward()


def test_blocks_join_without_a_seam(monkeypatch):
    leaves, weight = [entries(3, 7, 5), entries(3, 7, 5, seed=1), random(4, 3, seed=2)], random(3, 7, 5, seed=3)
    factors = [random(2, 3, seed=4), random(2, 4, seed=5)]
    whole = bivariate_polynomial(*leaves), product_polynomial(leaves[:2], factors)
    whole_gradients = gradients(bivariate_polynomial, leaves, weight)
    monkeypatch.setattr(eager_kernel, "BLOCK", 8)  # 105 entries: 13 blocks and a rest of one
    assert_close(bivariate_polynomial(*leaves), whole[0])
    assert_close(product_polynomial(leaves[:2], factors), whole[1])
    for ours, expected in zip(gradients(bivariate_polynomial, leaves, weight), whole_gradients, strict=True):
        assert_close(ours, expected)


def test_graphs_need_not_be_contiguous():
    s, t, a = entries(2, 3, 4).transpose(1, 2), entries(2, 8, 3, seed=1)[:, ::2], random(3, 4, seed=2).T
    weight = random(1, 4, 3, seed=3).expand(2, 4, 3)
    assert_close(bivariate_polynomial(s, t, a), explicit_bivariate(s, t, a))
    for ours, expected in zip(
        gradients(bivariate_polynomial, [s, t, a], weight), gradients(explicit_bivariate, [s, t, a], weight), strict=True
    ):
        assert_close(ours, expected)
    factors = [a[:2], a[1:3]]
    assert_close(product_polynomial([s, t], factors), explicit_product([s, t], factors))


def test_no_entries_make_no_entries_and_zero_gradients():
    s, t = torch.zeros(0, 4, 4, requires_grad=True), torch.zeros(0, 4, 4)
    a, factors = torch.ones(3, 2, requires_grad=True), [torch.ones(2, 3, requires_grad=True), torch.ones(2, 2)]
    for result in (bivariate_polynomial(s, t, a), product_polynomial([s, t], factors)):
        assert result.shape == (0, 4, 4)
        result.sum().backward()
    assert s.grad.shape == (0, 4, 4)
    assert (a.grad == 0).all() and (factors[0].grad == 0).all()


def saved_bytes(compute: Callable[[], Tensor]) -> int:
    """Bytes of the distinct tensors that autograd keeps for the backward."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())


@pytest.mark.parametrize("order", [0, 1, 3, 10])
def test_the_backward_keeps_graphs_and_coefficients_only(order):
    graphs = [entries(2, 8, 8, seed=m).requires_grad_() for m in range(3)]
    a = random(order + 1, order + 1).requires_grad_()
    factors = [random(4, order + 1, seed=m).requires_grad_() for m in range(3)]
    size = 8 * graphs[0].numel()
    assert saved_bytes(lambda: bivariate_polynomial(graphs[0], graphs[1], a)) == 2 * size + 8 * a.numel()
    expected = 3 * size + 3 * 8 * factors[0].numel()
    assert saved_bytes(lambda: product_polynomial(graphs, factors)) == expected


def test_a_second_derivative_is_refused():
    s, a = entries(1, 2, 2).requires_grad_(), random(3, 3)
    for result in (bivariate_polynomial(s, s, a), product_polynomial([s, s], [a, a])):
        with pytest.raises(ParameterError, match=r"differentiated once only.*without create_graph=True"):
            torch.autograd.grad(result.sum(), s, create_graph=True)


def test_mixed_dtypes_are_computed_in_the_widest():
    s, t, a = entries(1, 4, 4).half(), entries(1, 4, 4, seed=1).half(), random(4, 4).float().requires_grad_()
    result = bivariate_polynomial(s, t, a)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), explicit_bivariate(s.double(), t.double(), a.double()), rtol=1e-5, atol=1e-5)
    result.sum().backward()
    assert a.grad.dtype == torch.float32


def test_autocast_does_not_lower_the_precision():
    s, t, a = (x.float() for x in (entries(1, 4, 4), entries(1, 4, 4, seed=1), random(4, 4)))
    factors = [a[:2], a[2:]]
    expected = bivariate_polynomial(s, t, a), product_polynomial([s, t], factors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bivariate_polynomial(s, t, a), expected[0])
        assert torch.equal(product_polynomial([s, t], factors), expected[1])
