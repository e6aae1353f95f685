"""Polynomials of relationship graphs, computed without keeping a single power.

With elementwise powers and R^(0) = 1 every entry of the fused graph is a polynomial in that entry's relations:

    two graphs   g = sum_p s^p (sum_q A_pq t^q)                   nested: Horner in s, over polynomials in t
    M graphs     g = sum_r prod_m (sum_p a_rmp s_m^p)             one polynomial per factor

The backward keeps the graphs and the coefficients and computes the rest again. So memory does not depend on P and Q, and
graphs may have any shape, as long as all have the same. How the numbers are computed is the choice of a kernel, see
``kernel_choice``: plain tensor operations (the reference), compiled code, or a Triton kernel; all give the same up to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ParameterError
from .kernel_choice import KernelName, choose_kernel, kernel_module


def bivariate_polynomial(
    s: Float[Tensor, "*entries"],
    t: Float[Tensor, "*entries"],
    coefficients: Float[Tensor, "p q"],
    *,
    kernel: KernelName | None = None,
) -> Float[Tensor, "*entries"]:
    """Evaluate sum_pq A_pq s^p t^q entry by entry.

    Args:
        s: First graph, any shape.
        t: Second graph, same shape.
        coefficients: A, (P+1, Q+1); row p and column q belong to s^p t^q.
        kernel: ``"eager"``, ``"compiled"`` or ``"triton"``; None leaves the choice to ``use_kernel``.

    Returns:
        The fused graph, same shape, in the widest dtype of the three. Differentiable once in all three arguments.

    Raises:
        ParameterError: If a gradient is taken with ``create_graph=True``, or the kernel asked for cannot do this.

    Example:
        >>> s, t = torch.tensor([2.0]), torch.tensor([3.0])
        >>> bivariate_polynomial(s, t, torch.tensor([[1.0, 10.0], [100.0, 1000.0]]))  # 1 + 10 t + 100 s + 1000 s t
        tensor([6231.])
    """
    if torch.compiler.is_exporting():  # for another runtime: plain operations, no gradient
        return _horner(s, [_horner(t, row.unbind()) for row in coefficients.unbind()])
    dtype = _widest(s, t, coefficients)
    chosen = choose_kernel(kernel, s, dtype, coefficients.shape)
    tensors = [s, t, coefficients] if chosen == "triton" else [x.to(dtype) for x in (s, t, coefficients)]
    result: Tensor = _BivariatePolynomial.apply(chosen, *tensors)  # type: ignore[no-untyped-call]
    return result


def product_polynomial(
    graphs: Sequence[Float[Tensor, "*entries"]], factors: Sequence[Float[Tensor, "rank _"]], *, kernel: KernelName | None = None
) -> Float[Tensor, "*entries"]:
    """Evaluate sum_r prod_m (sum_p a_rmp s_m^p) entry by entry: a polynomial in M graphs in CP form.

    Args:
        graphs: M graphs of one shape.
        factors: For each graph its coefficients a_m, (rank, P_m + 1); the orders P_m may differ.
        kernel: As for two graphs.

    Returns:
        The fused graph, in the widest dtype given. Differentiable once in all graphs and factors.

    Raises:
        ParameterError: If a gradient is taken with ``create_graph=True``, or the kernel asked for cannot do this.

    Example:
        >>> graphs = [torch.tensor([2.0]), torch.tensor([3.0])]
        >>> product_polynomial(graphs, [torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])])  # (1 + s)(2 t)
        tensor([18.])
    """
    if torch.compiler.is_exporting():
        terms = zip(*(factor.unbind() for factor in factors), strict=True)  # by rank
        values = [[_horner(x, row.unbind()) for x, row in zip(graphs, term, strict=True)] for term in terms]
        return torch.stack([functools.reduce(torch.mul, value) for value in values]).sum(0)
    dtype = _widest(*graphs, *factors)
    chosen = choose_kernel(kernel, graphs[0], dtype, [a.shape[1] for a in factors], rank=len(factors[0]))
    tensors = [x.to(dtype) for x in (*graphs, *factors)]
    result: Tensor = _ProductPolynomial.apply(chosen, len(graphs), *tensors)  # type: ignore[no-untyped-call]
    return result


class _BivariatePolynomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: str, s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(s, t, coefficients)
        return kernel_module(kernel).bivariate(s, t, coefficients)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        s, t, coefficients = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        return None, *kernel_module(ctx.kernel).bivariate_gradients(s, t, coefficients, gradient, needed)


class _ProductPolynomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: str, count: int, *tensors: Tensor) -> Tensor:
        ctx.kernel, ctx.count = kernel, count
        ctx.save_for_backward(*tensors)
        return kernel_module(kernel).product(tensors[:count], tensors[count:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        graphs, factors = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needed = ctx.needs_input_grad[2:]
        return None, None, *kernel_module(ctx.kernel).product_gradients(graphs, factors, gradient, needed)


def refuse_second_derivative() -> None:
    """Raise inside a backward that is itself recorded; ``once_differentiable`` would treat it as a constant without a word."""
    if torch.is_grad_enabled():
        raise ParameterError("a fused graph can be differentiated once only", fix="take gradients without create_graph=True")


def _horner(x: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """sum_p c_p x^p, each c_p a number or of the shape of x."""
    value = coefficients[-1].expand_as(x)
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _widest(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in, so that half-precision graphs are not rounded once more per power."""
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
