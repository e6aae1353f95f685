"""The bivariate polynomial in Triton: each graph is read once and the result written once.

A program walks over blocks of entries. Relations are read in their own dtype, which need not be one, and computed in float32.
In the backward a program keeps its share of the gradient of A on chip, as a product of two small matrices of powers, and writes
it once; the shares are summed at the end. Triton's interpreter runs the same code without a GPU (``TRITON_INTERPRET=1``), for
tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import eager_kernel

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK = 1024  # entries of a block of the forward
BACKWARD_BLOCK = 128  # of the backward, whose powers are (16, block)
PROGRAMS_PER_PROCESSOR = 8
SIDE = 16  # P + 1 and Q + 1 are padded to what a matrix unit takes


if triton is not None:
    SIDE_ON_CHIP = tl.constexpr(SIDE)

    @triton.jit  # type: ignore[untyped-decorator]
    def _forward(
        s_ptr: Any, t_ptr: Any, a_ptr: Any, out_ptr: Any, entries: Any, P1: tl.constexpr, Q1: tl.constexpr, BLOCK: tl.constexpr
    ) -> None:
        index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = index < entries
        s = tl.load(s_ptr + index, mask=inside, other=0.0).to(tl.float32)
        t = tl.load(t_ptr + index, mask=inside, other=0.0).to(tl.float32)
        g = tl.zeros((BLOCK,), tl.float32)
        for p in tl.static_range(P1):
            inner = tl.zeros((BLOCK,), tl.float32)
            for q in tl.static_range(Q1):
                inner = inner * t + tl.load(a_ptr + (P1 - 1 - p) * Q1 + (Q1 - 1 - q))
            g = g * s + inner
        tl.store(out_ptr + index, g.to(out_ptr.dtype.element_ty), mask=inside)

    @triton.jit  # type: ignore[untyped-decorator]
    def _powers(x: Any, BLOCK: tl.constexpr) -> Any:
        """(16, BLOCK): row p is x^p, by the binary digits of p."""
        exponent = tl.arange(0, SIDE_ON_CHIP)[:, None]
        x1 = x[None, :]
        x2 = x1 * x1
        x4 = x2 * x2
        x8 = x4 * x4
        result = tl.where((exponent & 1) != 0, x1, 1.0)
        result = result * tl.where((exponent & 2) != 0, x2, 1.0)
        result = result * tl.where((exponent & 4) != 0, x4, 1.0)
        return result * tl.where((exponent & 8) != 0, x8, 1.0)

    @triton.jit  # type: ignore[untyped-decorator]
    def _backward(
        s_ptr: Any,
        t_ptr: Any,
        a_ptr: Any,
        w_ptr: Any,
        by_s_ptr: Any,
        by_t_ptr: Any,
        by_a_ptr: Any,
        entries: Any,
        blocks: Any,
        P1: tl.constexpr,
        Q1: tl.constexpr,
        GRAPHS: tl.constexpr,
        COEFFICIENTS: tl.constexpr,
        BLOCK: tl.constexpr,
    ) -> None:
        program = tl.program_id(0)
        share = tl.zeros((SIDE_ON_CHIP, SIDE_ON_CHIP), tl.float32)
        for block in range(program, blocks, tl.num_programs(0)):
            index = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
            inside = index < entries
            s = tl.load(s_ptr + index, mask=inside, other=0.0).to(tl.float32)
            t = tl.load(t_ptr + index, mask=inside, other=0.0).to(tl.float32)
            w = tl.load(w_ptr + index, mask=inside, other=0.0).to(tl.float32)
            if GRAPHS:
                value = tl.zeros((BLOCK,), tl.float32)
                slope_s = tl.zeros((BLOCK,), tl.float32)
                slope_t = tl.zeros((BLOCK,), tl.float32)
                for p in tl.static_range(P1):
                    inner = tl.zeros((BLOCK,), tl.float32)
                    slope = tl.zeros((BLOCK,), tl.float32)
                    for q in tl.static_range(Q1):
                        slope = slope * t + inner
                        inner = inner * t + tl.load(a_ptr + (P1 - 1 - p) * Q1 + (Q1 - 1 - q))
                    slope_s = slope_s * s + value
                    value = value * s + inner
                    slope_t = slope_t * s + slope
                tl.store(by_s_ptr + index, (slope_s * w).to(by_s_ptr.dtype.element_ty), mask=inside)
                tl.store(by_t_ptr + index, (slope_t * w).to(by_t_ptr.dtype.element_ty), mask=inside)
            if COEFFICIENTS:
                weighted = _powers(s, BLOCK) * w[None, :]
                share += tl.dot(weighted, tl.trans(_powers(t, BLOCK)), input_precision="ieee")
        if COEFFICIENTS:
            place = tl.arange(0, SIDE_ON_CHIP)[:, None] * SIDE_ON_CHIP + tl.arange(0, SIDE_ON_CHIP)[None, :]
            tl.store(by_a_ptr + program * SIDE_ON_CHIP * SIDE_ON_CHIP + place, share)


def bivariate(s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
    """sum_pq A_pq s^p t^q by Horner's rule in s over polynomials in t."""
    s, t, a = s.contiguous(), t.contiguous(), coefficients.float().contiguous()
    dtype = torch.promote_types(torch.promote_types(s.dtype, t.dtype), coefficients.dtype)
    result = torch.empty_like(s, dtype=dtype)
    if s.numel():
        _forward[(triton.cdiv(s.numel(), BLOCK),)](s, t, a, result, s.numel(), P1=a.shape[0], Q1=a.shape[1], BLOCK=BLOCK)
    return result


def bivariate_gradients(
    s: Tensor, t: Tensor, coefficients: Tensor, gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients in s, t and A, each where it is needed; the two graphs' together."""
    s, t, gradient, a = s.contiguous(), t.contiguous(), gradient.contiguous(), coefficients.float().contiguous()
    graphs = bool(needed[0] or needed[1])
    by_s, by_t = (torch.empty_like(x) for x in (s, t)) if graphs else (s, t)  # never written where not needed
    blocks = triton.cdiv(s.numel(), BACKWARD_BLOCK)
    programs = max(1, min(blocks, PROGRAMS_PER_PROCESSOR * _processors(s.device)))
    shares = torch.zeros(programs, SIDE, SIDE, device=s.device)
    if s.numel():
        _backward[(programs,)](
            s, t, a, gradient, by_s, by_t, shares, s.numel(), blocks,
            P1=a.shape[0], Q1=a.shape[1], GRAPHS=graphs, COEFFICIENTS=bool(needed[2]), BLOCK=BACKWARD_BLOCK,
        )  # fmt: skip
    by_a = shares.sum(0)[: a.shape[0], : a.shape[1]].to(coefficients.dtype) if needed[2] else None
    return [by_s if needed[0] else None, by_t if needed[1] else None, by_a]


def product(graphs: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """Not written in Triton: the plain operations, so that the interface is whole."""
    return eager_kernel.product(graphs, factors)


def product_gradients(
    graphs: Sequence[Tensor], factors: Sequence[Tensor], gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Not written in Triton: the plain operations, so that the interface is whole."""
    return eager_kernel.product_gradients(graphs, factors, gradient, needed)


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
