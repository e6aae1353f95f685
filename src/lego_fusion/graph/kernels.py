"""Polynomials of relationship graphs, computed without keeping a single power.

With elementwise powers and R^(0) = 1 every entry of the fused graph is a polynomial in that entry's relations:

    two graphs   g = sum_p s^p (sum_q A_pq t^q)                   nested: Horner in s, over polynomials in t
    M graphs     g = sum_r prod_m (sum_p a_rmp s_m^p)             one polynomial per factor

Entries do not meet each other, so the work is done for one block of entries at a time: powers exist for that block only, and
all polynomials in them are one small matrix product. The backward keeps the graphs and the coefficients and computes the
rest again. So memory does not depend on P and Q, and graphs may have any shape, as long as all have the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ParameterError

BLOCK = 2**15  # entries worked on at a time: their powers stay in the cache


def bivariate_polynomial(
    s: Float[Tensor, "*entries"], t: Float[Tensor, "*entries"], coefficients: Float[Tensor, "p q"]
) -> Float[Tensor, "*entries"]:
    """Evaluate sum_pq A_pq s^p t^q entry by entry.

    Args:
        s: First graph, any shape.
        t: Second graph, same shape.
        coefficients: A, (P+1, Q+1); row p and column q belong to s^p t^q.

    Returns:
        The fused graph, same shape, in the widest dtype of the three. Differentiable once in all three arguments.

    Raises:
        ParameterError: If a gradient is taken with ``create_graph=True``.

    Example:
        >>> s, t = torch.tensor([2.0]), torch.tensor([3.0])
        >>> bivariate_polynomial(s, t, torch.tensor([[1.0, 10.0], [100.0, 1000.0]]))  # 1 + 10 t + 100 s + 1000 s t
        tensor([6231.])
    """
    result: Tensor = _BivariatePolynomial.apply(*_one_dtype(s, t, coefficients))  # type: ignore[no-untyped-call]
    return result


def product_polynomial(
    graphs: Sequence[Float[Tensor, "*entries"]], factors: Sequence[Float[Tensor, "rank _"]]
) -> Float[Tensor, "*entries"]:
    """Evaluate sum_r prod_m (sum_p a_rmp s_m^p) entry by entry: a polynomial in M graphs in CP form.

    Args:
        graphs: M graphs of one shape.
        factors: For each graph its coefficients a_m, (rank, P_m + 1); the orders P_m may differ.

    Returns:
        The fused graph, in the widest dtype given. Differentiable once in all graphs and factors.

    Raises:
        ParameterError: If a gradient is taken with ``create_graph=True``.

    Example:
        >>> graphs = [torch.tensor([2.0]), torch.tensor([3.0])]
        >>> product_polynomial(graphs, [torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])])  # (1 + s)(2 t)
        tensor([18.])
    """
    result: Tensor = _ProductPolynomial.apply(len(graphs), *_one_dtype(*graphs, *factors))  # type: ignore[no-untyped-call]
    return result


class _BivariatePolynomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
        ctx.save_for_backward(s, t, coefficients)
        result = s.new_empty(s.shape)
        for s_block, t_block, out in _blocks(s, t, result):
            inner = _matmul(coefficients, _power_rows(t_block, coefficients.shape[1]))  # (P+1, E)
            out.copy_(inner[-1])
            for row in reversed(inner[:-1].unbind()):
                torch.addcmul(row, out, s_block, out=out)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        s, t, coefficients = ctx.saved_tensors
        by_s, by_t = (s.new_empty(s.shape) if needed else None for needed in ctx.needs_input_grad[:2])
        by_coefficients = torch.zeros_like(coefficients) if ctx.needs_input_grad[2] else None
        slope_s, slope_t = _slope(coefficients.T).T, _slope(coefficients).T  # (P, Q+1), (Q, P+1)
        for s_block, t_block, weight, s_out, t_out in _blocks(s, t, gradient, by_s, by_t):
            s_powers, t_powers = (_power_rows(x, n) for x, n in zip((s_block, t_block), coefficients.shape, strict=True))
            if s_out is not None:
                torch.sum(_matmul(slope_s, t_powers).mul_(s_powers[:-1]), 0, out=s_out).mul_(weight)
            if t_out is not None:
                torch.sum(_matmul(slope_t, s_powers).mul_(t_powers[:-1]), 0, out=t_out).mul_(weight)
            if by_coefficients is not None:
                by_coefficients += _matmul(s_powers.mul_(weight), t_powers.T)
        return by_s, by_t, by_coefficients


class _ProductPolynomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(*tensors)
        graphs, factors = tensors[:count], tensors[count:]
        result = graphs[0].new_empty(graphs[0].shape)
        for *blocks, out in _blocks(*graphs, result):
            values = [_matmul(a, _power_rows(x, a.shape[1])) for x, a in zip(blocks, factors, strict=True)]  # M of (rank, E)
            torch.sum(functools.reduce(torch.mul, values), 0, out=out)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        count, needed = ctx.count, ctx.needs_input_grad[1:]
        graphs, factors = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        by_graphs = [x.new_empty(x.shape) if need else None for x, need in zip(graphs, needed[:count], strict=True)]
        by_factors = [torch.zeros_like(a) if need else None for a, need in zip(factors, needed[count:], strict=True)]
        for weight, *blocks in _blocks(gradient, *graphs, *by_graphs):
            powers = [_power_rows(x, a.shape[1]) for x, a in zip(blocks[:count], factors, strict=True)]
            values = [_matmul(a, rows) for a, rows in zip(factors, powers, strict=True)]
            for m, (out, by_factor) in enumerate(zip(blocks[count:], by_factors, strict=True)):
                others = functools.reduce(torch.mul, values[:m] + values[m + 1 :], weight.expand_as(values[m]))
                if out is not None:
                    torch.sum(_matmul(_slope(factors[m]), powers[m][:-1]).mul_(others), 0, out=out)
                if by_factor is not None:
                    by_factor += _matmul(others, powers[m].T)
        return None, *by_graphs, *by_factors


def _refuse_second_derivative() -> None:
    """Raise inside a backward that is itself recorded; ``once_differentiable`` would treat it as a constant without a word."""
    if torch.is_grad_enabled():
        raise ParameterError("a fused graph can be differentiated once only", fix="take gradients without create_graph=True")


def _one_dtype(*tensors: Tensor) -> list[Tensor]:
    """All in the widest dtype among them, so that half-precision graphs are not rounded once more per power."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return [tensor.to(dtype) for tensor in tensors]


def _blocks(*tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Tensors of one shape, flattened, a block of entries at a time; views where contiguous. None stays None."""
    entries = next(tensor.numel() for tensor in tensors if tensor is not None)
    flat = [None if tensor is None else tensor.reshape(-1) for tensor in tensors]
    for first in range(0, entries, BLOCK):
        yield tuple(None if tensor is None else tensor[first : first + BLOCK] for tensor in flat)


def _power_rows(x: Tensor, count: int) -> Tensor:
    """Rows 1, x, x^2, ... of a (count, E) matrix, doubling: x^(n+i) = x^n x^i, so that few roundings meet in one power."""
    rows = x.new_empty(count, x.numel())
    rows[0] = 1
    rows[1:2] = x
    highest = 1
    while highest < count - 1:
        more = min(highest, count - 1 - highest)
        torch.mul(rows[1 : 1 + more], rows[highest], out=rows[highest + 1 : highest + 1 + more])
        highest += more
    return rows


def _slope(coefficients: Tensor) -> Tensor:
    """Coefficients of the derivative of polynomials along the last axis: p c_p at x^(p-1)."""
    return coefficients[..., 1:] * torch.arange(1, coefficients.shape[-1], device=coefficients.device)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in the operands' own precision, also inside an autocast region."""
    if not torch.is_autocast_enabled(a.device.type):
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
