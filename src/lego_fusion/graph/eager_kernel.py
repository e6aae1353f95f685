"""The operator's polynomials block by block, in plain tensor operations: the reference, for every device and dtype.

Entries do not meet each other, so the work is done for one block of entries at a time: powers exist for that block only, and
all polynomials in them are one small matrix product.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**15  # entries worked on at a time: their powers stay in the cache


def bivariate(s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
    """sum_pq A_pq s^p t^q by Horner's rule in s over polynomials in t."""
    result = s.new_empty(s.shape)
    for s_block, t_block, out in _blocks(s, t, result):
        inner = _matmul(coefficients, _power_rows(t_block, coefficients.shape[1]))  # (P+1, E)
        out.copy_(inner[-1])
        for row in reversed(inner[:-1].unbind()):
            torch.addcmul(row, out, s_block, out=out)
    return result


def bivariate_gradients(
    s: Tensor, t: Tensor, coefficients: Tensor, gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients in s, t and A, each where it is needed."""
    by_s, by_t = (s.new_empty(s.shape) if need else None for need in needed[:2])
    by_coefficients = torch.zeros_like(coefficients) if needed[2] else None
    slope_s, slope_t = _slope(coefficients.T).T, _slope(coefficients).T  # (P, Q+1), (Q, P+1)
    for s_block, t_block, weight, s_out, t_out in _blocks(s, t, gradient, by_s, by_t):
        s_powers, t_powers = (_power_rows(x, n) for x, n in zip((s_block, t_block), coefficients.shape, strict=True))
        if s_out is not None:
            torch.sum(_matmul(slope_s, t_powers).mul_(s_powers[:-1]), 0, out=s_out).mul_(weight)
        if t_out is not None:
            torch.sum(_matmul(slope_t, s_powers).mul_(t_powers[:-1]), 0, out=t_out).mul_(weight)
        if by_coefficients is not None:
            by_coefficients += _matmul(s_powers.mul_(weight), t_powers.T)
    return [by_s, by_t, by_coefficients]


def product(graphs: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """sum_r prod_m (sum_p a_rmp s_m^p)."""
    result = graphs[0].new_empty(graphs[0].shape)
    for *blocks, out in _blocks(*graphs, result):
        values = [_matmul(a, _power_rows(x, a.shape[1])) for x, a in zip(blocks, factors, strict=True)]  # M of (rank, E)
        torch.sum(functools.reduce(torch.mul, values), 0, out=out)
    return result


def product_gradients(
    graphs: Sequence[Tensor], factors: Sequence[Tensor], gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients in all graphs and then in all factors, each where it is needed."""
    count = len(graphs)
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
    return [*by_graphs, *by_factors]


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
