"""Polynomials of relationship graphs, computed without storing a single power.

With elementwise powers and R^(0) = 1 every entry of the fused graph is a polynomial in that entry's relations:

    two graphs   g = sum_p s^p (sum_q A_pq t^q)                   nested Horner, (P+1)(Q+1) multiply-adds
    M graphs     g = sum_r prod_m (sum_p a_rmp s_m^p)             one Horner per factor

The backward keeps the graphs and the coefficients and computes everything else again, so memory does not depend on P and Q.
Entries do not meet each other: every function here works on graphs of any shape, as long as all have the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def bivariate_polynomial(
    s: Float[Tensor, "*entries"], t: Float[Tensor, "*entries"], coefficients: Float[Tensor, "p q"]
) -> Float[Tensor, "*entries"]:
    """Evaluate sum_pq A_pq s^p t^q entry by entry.

    Args:
        s: First graph, any shape.
        t: Second graph, same shape and dtype.
        coefficients: A, (P+1, Q+1); row p and column q belong to s^p t^q.

    Returns:
        The fused graph, same shape. Differentiable once in all three arguments.

    Example:
        >>> s, t = torch.tensor([2.0]), torch.tensor([3.0])
        >>> bivariate_polynomial(s, t, torch.tensor([[1.0, 10.0], [100.0, 1000.0]]))  # 1 + 10 t + 100 s + 1000 s t
        tensor([6231.])
    """
    result: Tensor = _BivariatePolynomial.apply(s, t, coefficients)
    return result


def product_polynomial(
    graphs: Sequence[Float[Tensor, "*entries"]], factors: Sequence[Float[Tensor, "rank order"]]
) -> Float[Tensor, "*entries"]:
    """Evaluate sum_r prod_m (sum_p a_rmp s_m^p) entry by entry: a polynomial in M graphs in CP form.

    Args:
        graphs: M graphs of one shape and dtype.
        factors: For each graph its coefficients a_m, (rank, P_m + 1); the orders P_m may differ.

    Returns:
        The fused graph. Differentiable once in all graphs and factors.

    Example:
        >>> graphs = [torch.tensor([2.0]), torch.tensor([3.0])]
        >>> product_polynomial(graphs, [torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])])  # (1 + s)(2 t)
        tensor([18.])
    """
    result: Tensor = _ProductPolynomial.apply(len(graphs), *graphs, *factors)
    return result


class _BivariatePolynomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
        ctx.save_for_backward(s, t, coefficients)
        result = torch.zeros_like(s)
        for row in reversed(coefficients.tolist()):
            result.mul_(s).add_(_horner(t, row))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        s, t, coefficients = ctx.saved_tensors
        value, by_s, by_t = (torch.zeros_like(s) for _ in range(3))
        for row in reversed(coefficients.tolist()):
            inner, inner_slope = _horner_with_slope(t, row)
            by_s.mul_(s).add_(value)
            value.mul_(s).add_(inner)
            by_t.mul_(s).add_(inner_slope)
        by_coefficients = None
        if ctx.needs_input_grad[2]:
            by_coefficients = _sum_over_powers(s, t, gradient, coefficients)
        return by_s.mul_(gradient), by_t.mul_(gradient), by_coefficients


class _ProductPolynomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(*tensors)
        graphs, factors = tensors[:count], [factor.tolist() for factor in tensors[count:]]
        result = torch.zeros_like(graphs[0])
        for r in range(len(factors[0])):
            product = _horner(graphs[0], factors[0][r])
            for graph, factor in zip(graphs[1:], factors[1:], strict=True):
                product.mul_(_horner(graph, factor[r]))
            result.add_(product)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = ctx.count
        graphs, factors = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        by_graphs = [torch.zeros_like(graph) for graph in graphs]
        by_factors = [torch.zeros_like(factor) for factor in factors]
        for r in range(factors[0].shape[0]):
            pairs = [_horner_with_slope(graph, factor[r].tolist()) for graph, factor in zip(graphs, factors, strict=True)]
            values = [value for value, _ in pairs]
            for m, (_, slope) in enumerate(pairs):
                others = gradient.clone()
                for n, value in enumerate(values):
                    if n != m:
                        others.mul_(value)
                by_graphs[m].add_(slope.mul_(others))
                for p in range(factors[m].shape[1]):
                    if p > 0:
                        others.mul_(graphs[m])
                    by_factors[m][r, p] = others.sum()
        return None, *by_graphs, *by_factors


def _horner(x: Tensor, coefficients: list[float]) -> Tensor:
    """sum_p c_p x^p."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value.mul_(x).add_(coefficient)
    return value


def _horner_with_slope(x: Tensor, coefficients: list[float]) -> tuple[Tensor, Tensor]:
    """sum_p c_p x^p and its derivative sum_p p c_p x^(p-1)."""
    value, slope = torch.full_like(x, coefficients[-1]), torch.zeros_like(x)
    for coefficient in reversed(coefficients[:-1]):
        slope.mul_(x).add_(value)
        value.mul_(x).add_(coefficient)
    return value, slope


def _sum_over_powers(s: Tensor, t: Tensor, weight: Tensor, like: Tensor, *, block: int = 8192) -> Tensor:
    """sum_entries w s^p t^q for every p, q, (P+1, Q+1): powers exist for one block of entries at a time."""
    rows, columns = like.shape
    total = torch.zeros_like(like)
    blocks = (x.reshape(-1).split(block) for x in (s, t, weight))
    for s_block, t_block, weight_block in zip(*blocks, strict=True):
        total += _power_rows(s_block, rows, weight_block) @ _power_rows(t_block, columns, torch.ones_like(t_block)).T
    return total


def _power_rows(x: Tensor, count: int, first: Tensor) -> Tensor:
    """Rows first, first * x, first * x^2, ... of a (count, E) matrix."""
    rows = x.new_empty(count, x.numel())
    rows[0] = first
    for p in range(1, count):
        torch.mul(rows[p - 1], x, out=rows[p])
    return rows
