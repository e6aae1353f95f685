"""Which kernel computes the operator's polynomials: by size and device, unless somebody says.

    eager     plain tensor operations, every device and dtype: the reference
    compiled  ``torch.compile`` of one function per order; float32 and float64; needs a C++ compiler on a CPU
    triton    one read and one write of each graph on CUDA; float32, bfloat16 and float16, two graphs, orders up to 15

Said by an argument, by ``use_kernel`` around the code, or by the environment variable ``LEGO_FUSION_KERNEL``, in this order.
Left alone (``auto``), small graphs are eager, so that nothing waits for a compiler; from 2^20 entries on they are compiled
where that is possible, and on CUDA computed by Triton. Graphs that are not contiguous are copied by the kernels that need it.
Graphs and coefficients of different dtype are computed in the widest one. Fewer than two entries are always eager.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import ParameterError, check_choice
from . import compiled_kernel, eager_kernel

KernelName = Literal["auto", "eager", "compiled", "triton"]
KERNELS: tuple[KernelName, ...] = ("auto", "eager", "compiled", "triton")
ENVIRONMENT = "LEGO_FUSION_KERNEL"
COMPILE_FROM = 2**20  # entries; below, the seconds that compiling takes are seldom won back
COMPILERS = ("g++", "clang++", "c++", "cl")
MOST_ORDER_OF_TRITON = 15

_said: ContextVar[KernelName | None] = ContextVar("kernel", default=None)


@runtime_checkable
class Kernel(Protocol):
    """What a kernel does. ``needed`` says of which arguments a gradient is wanted; the others are None."""

    def bivariate(self, s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
        """sum_pq A_pq s^p t^q."""

    def bivariate_gradients(
        self, s: Tensor, t: Tensor, coefficients: Tensor, gradient: Tensor, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients in s, t and A."""

    def product(self, graphs: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
        """sum_r prod_m (sum_p a_rmp s_m^p)."""

    def product_gradients(
        self, graphs: Sequence[Tensor], factors: Sequence[Tensor], gradient: Tensor, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients in all graphs, then in all factors."""


@contextmanager
def use_kernel(name: KernelName) -> Iterator[None]:
    """Compute all polynomials inside with one kernel; a backward uses the kernel of its forward.

    Args:
        name: ``"auto"``, ``"eager"``, ``"compiled"`` or ``"triton"``.

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
        ``"eager"``, ``"compiled"`` or ``"triton"``.

    Raises:
        ParameterError: If the kernel asked for is unknown or cannot do this.
    """
    name = said_kernel() if asked is None else check_choice(asked, "kernel", "the operator", KERNELS)
    if graph.numel() < 2 or torch.compiler.is_compiling():  # compiled code around us compiles the plain operations itself
        return "eager"
    why_not: dict[str, str | None] = {"eager": None}
    if name in ("auto", "triton"):
        why_not["triton"] = _why_not_triton(graph, dtype, sizes, rank)
    if name in ("auto", "compiled"):
        why_not["compiled"] = _why_not_compiled(dtype, sizes, rank)
    if name != "auto":
        if why_not[name] is not None:
            raise ParameterError(f"the {name} kernel cannot compute this", expected=why_not[name], fix="use kernel='auto'")
        return "eager" if name == "compiled" and not can_compile(graph.device) else name
    if graph.numel() < COMPILE_FROM:
        return "eager"
    if why_not["triton"] is None and graph.is_cuda:
        return "triton"
    return "compiled" if why_not["compiled"] is None and can_compile(graph.device) else "eager"


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


def kernel_module(name: str) -> Kernel:
    """The module that computes."""
    if name == "triton":
        from . import triton_kernel

        return triton_kernel
    return compiled_kernel if name == "compiled" else eager_kernel


def _why_not_compiled(dtype: torch.dtype, sizes: Sequence[int], rank: int | None) -> str | None:
    most, dtypes = compiled_kernel.MOST_COEFFICIENTS, compiled_kernel.DTYPES
    count = _coefficients(sizes, rank)
    if count > most:
        return f"at most {most} coefficients, not {count}"
    return None if dtype in dtypes else f"float32 or float64, not {dtype}"


def _why_not_triton(graph: Tensor, dtype: torch.dtype, sizes: Sequence[int], rank: int | None) -> str | None:
    if rank is not None:
        return "two graphs and one A, not a product form"
    if max(sizes) - 1 > MOST_ORDER_OF_TRITON:
        return f"orders up to {MOST_ORDER_OF_TRITON}, not {max(sizes) - 1}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"float32, bfloat16 or float16, not {dtype}"
    if not has_triton():
        return "the package triton to be installed"
    return None if graph.is_cuda or os.environ.get("TRITON_INTERPRET") == "1" else f"graphs on CUDA, not on {graph.device.type}"


def _coefficients(sizes: Sequence[int], rank: int | None) -> int:
    return sizes[0] * sizes[1] if rank is None else rank * sum(sizes)
