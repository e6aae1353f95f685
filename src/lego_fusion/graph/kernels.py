"""Polynomials of relationship graphs, computed without keeping a single power, by the kernel that suits their size.

With elementwise powers and R^(0) = 1 every entry of the fused graph is a polynomial in that entry's relations:

    two graphs   g = sum_p s^p (sum_q A_pq t^q)                   nested: Horner in s, over polynomials in t
    M graphs     g = sum_r prod_m (sum_p a_rmp s_m^p)             one polynomial per factor

The backward keeps the graphs and the coefficients and computes the rest again. So memory does not depend on P and Q, and
graphs may have any shape, as long as all have the same. Two kernels give the same up to rounding:

    eager     plain tensor operations, every device and dtype: the reference
    compiled  ``torch.compile`` of one function per order; float32 and float64; needs a C++ compiler on a CPU

Said by an argument, by ``use_kernel`` around the code, or by the environment variable ``LEGO_FUSION_KERNEL``, in this order.
Left alone (``auto``), small graphs are eager, so that nothing waits for a compiler; from 2^20 entries on they are compiled
where that is possible. Graphs that are not contiguous are copied by the kernel that needs it; graphs and coefficients of
different dtype are computed in the widest one. Fewer than two entries are always eager.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ParameterError, check_choice
from . import compiled_kernel, eager_kernel

KernelName = Literal["auto", "eager", "compiled"]
KERNELS: tuple[KernelName, ...] = ("auto", "eager", "compiled")
ENVIRONMENT = "LEGO_FUSION_KERNEL"
COMPILE_FROM = 2**20  # entries; below, the seconds that compiling takes are seldom won back
COMPILERS = ("g++", "clang++", "c++", "cl")

_said: ContextVar[KernelName | None] = ContextVar("kernel", default=None)


@contextmanager
def use_kernel(name: KernelName) -> Iterator[None]:
    """Compute all polynomials inside with one kernel; a backward uses the kernel of its forward.

    Args:
        name: ``"auto"``, ``"eager"`` or ``"compiled"``.

    Raises:
        ParameterError: If the name is unknown.

    Example:
        >>> from lego_fusion.graph.kernels import bivariate_polynomial
        >>> with use_kernel("eager"):
        ...     bivariate_polynomial(torch.tensor([2.0]), torch.tensor([3.0]), torch.ones(2, 2))
        tensor([12.])
    """
    token = _said.set(check_choice(name, "kernel", "use_kernel", KERNELS))
    try:
        yield
    finally:
        _said.reset(token)


def said_kernel() -> KernelName:
    """The kernel asked for by ``use_kernel`` or the environment, else ``"auto"``."""
    said = _said.get()
    if said is not None:
        return said
    name: KernelName = check_choice(os.environ.get(ENVIRONMENT) or "auto", ENVIRONMENT, "the environment", KERNELS)
    return name


def choose_kernel(
    asked: KernelName | None, graph: Tensor, dtype: torch.dtype, sizes: Sequence[int], *, rank: int | None = None
) -> KernelName:
    """The kernel for some graphs.

    Args:
        asked: What the caller says; None goes by ``said_kernel``.
        graph: One of the graphs, for its size and device.
        dtype: The widest dtype of all graphs and coefficients.
        sizes: P_m + 1 of every graph.
        rank: Rank of the product form; None where there is one A.

    Returns:
        ``"eager"`` or ``"compiled"``.

    Raises:
        ParameterError: If the kernel asked for is unknown or cannot do this.
    """
    name = said_kernel() if asked is None else check_choice(asked, "kernel", "the operator", KERNELS)
    if graph.numel() < 2 or torch.compiler.is_compiling():  # compiled code around us compiles the plain operations itself
        return "eager"
    if name == "eager" or (name == "auto" and graph.numel() < COMPILE_FROM):
        return "eager"
    why_not = _why_not_compiled(dtype, sizes, rank)
    if why_not is not None and name == "compiled":
        raise ParameterError("the compiled kernel cannot compute this", expected=why_not, fix="use kernel='auto'")
    return "compiled" if why_not is None and can_compile(graph.device) else "eager"


def can_compile(device: torch.device) -> bool:
    """Whether there is what ``torch.compile`` needs: a C++ compiler, for CUDA Triton; says once where there is not."""
    if not compiled_kernel.available():
        return False
    if device.type == "cpu" and not _has_compiler(os.environ.get("PATH"), os.environ.get("CXX")):
        compiled_kernel.unavailable("no C++ compiler is on the path")
    elif device.type != "cpu" and not has_triton():
        compiled_kernel.unavailable("the package triton is not installed")
    return compiled_kernel.available()


@functools.cache  # looking costs more than a small polynomial
def _has_compiler(path: str | None, named: str | None) -> bool:
    return any(shutil.which(name, path=path) for name in (named or COMPILERS[0], *COMPILERS))


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def kernel_module(name: str) -> ModuleType:
    """The module that computes: ``bivariate``, ``product`` and the gradients of both."""
    return compiled_kernel if name == "compiled" else eager_kernel


def _why_not_compiled(dtype: torch.dtype, sizes: Sequence[int], rank: int | None) -> str | None:
    most, dtypes = compiled_kernel.MOST_COEFFICIENTS, compiled_kernel.DTYPES
    count = _coefficients(sizes, rank)
    if count > most:
        return f"at most {most} coefficients, not {count}"
    return None if dtype in dtypes else f"float32 or float64, not {dtype}"


def _coefficients(sizes: Sequence[int], rank: int | None) -> int:
    return sizes[0] * sizes[1] if rank is None else rank * sum(sizes)


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
        kernel: ``"eager"`` or ``"compiled"``; None leaves the choice to ``use_kernel``.

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
    tensors = [x.to(dtype) for x in (s, t, coefficients)]
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
        result: Tensor = kernel_module(kernel).bivariate(s, t, coefficients)
        return result

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
        result: Tensor = kernel_module(kernel).product(tensors[:count], tensors[count:])
        return result

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
