"""The operator's kernels against explicit sums and stacked powers, and against what this machine can do at all.

    python benchmarks/operator_kernels.py [--quick]

"Explicit" is: powers built once by multiplication, a double loop in Python over A_pq, autograd. "Stacked" is: all powers of
both graphs in two tensors, one matrix product, autograd. One thread, alternating runs, medians; results are compared before
they are timed. The roofline column is the share of the machine's limit that is reached: the time for moving the bytes at the
rate of an elementwise add, or for the multiply-adds at the rate of a matrix product, whichever is longer, over the time taken.
Both rates are measured in the same run. An add of 8 x 256 x 256 numbers happens in the cache, where it is limited by nothing
that limits arithmetic; from 8 x 1,024 x 1,024 on it is limited by memory.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from graph_operator import explicit, inputs, kept_bytes
from lego_fusion.graph.kernels import bivariate_polynomial
from measuring import alternating, main_of_rows, median_ratio

SHAPES = [(64, 32, 10.0), (8, 256, 12.0)]  # B, N, times faster than explicit; P = Q = 8
MATRIX = 1024


def stacked(s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
    """sum_p s^p (A t-powers)_p with all powers held."""
    powers = []
    for graph, order in ((s, coefficients.shape[0]), (t, coefficients.shape[1])):
        rows = [torch.ones_like(graph).flatten()]
        for _ in range(order - 1):
            rows.append(rows[-1] * graph.flatten())
        powers.append(torch.stack(rows))
    return (powers[0] * (coefficients @ powers[1])).sum(0).view(s.shape)


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "explicit": explicit,
    "stacked": stacked,
    "eager": functools.partial(bivariate_polynomial, kernel="eager"),
    "compiled": functools.partial(bivariate_polynomial, kernel="compiled"),
}


def step(method: str, leaves: list[Tensor]) -> list[Tensor]:
    result = METHODS[method](*leaves)
    return [result.detach(), *torch.autograd.grad(result.sum(), leaves)]


def limits(elements: int) -> dict[str, Callable[[], object]]:
    """An elementwise add of so many numbers, and a matrix product: what the machine can do."""
    a, b, out = (torch.rand(elements) for _ in range(3))
    square, result = torch.rand(MATRIX, MATRIX), torch.empty(MATRIX, MATRIX)
    return {"add": lambda: torch.add(a, b, out=out), "product": lambda: torch.mm(square, square, out=result)}


def roofline(seconds: dict[str, list[float]], elements: int, arrays: int, operations: float, taken: float) -> float:
    """Share of the machine's limit: the longer of moving the arrays and doing the operations, over the time taken."""
    moving = arrays / 3 * median(seconds["add"])  # an add moves three arrays
    doing = operations * elements / (2 * MATRIX**3 / median(seconds["product"]))
    return max(moving, doing) / taken


def speed_rows(rounds: int) -> list[dict[str, Any]]:
    """Forward and backward at P = Q = 8."""
    rows = []
    for batch, nodes, target in SHAPES:
        leaves = inputs(batch, nodes, 8, learned_graphs=True)
        expected = step("explicit", leaves)
        for method in ("stacked", "eager", "compiled"):
            for ours, theirs in zip(step(method, leaves), expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
        elements = batch * nodes * nodes
        calls = {method: functools.partial(step, method, leaves) for method in METHODS}
        seconds = alternating(calls | limits(elements), rounds=rounds)
        taken = median(seconds["compiled"])
        multiply_adds = 2 * 81 * 4  # value; two slopes with their values; sums of powers
        share = roofline(seconds, elements, 3 + 5 + 3, multiply_adds, taken)
        facts = {"unit": "times faster", "milliseconds": {name: 1e3 * median(seconds[name]) for name in METHODS}}
        for other, wanted in (("explicit", target), ("stacked", 2.0)):
            name = f"compiled operator forward + backward vs {other}, P=Q=8, B {batch} N {nodes}"
            measured = median_ratio(seconds[other], seconds["compiled"])
            rows.append({"name": name, "target": f">= {wanted:g}", "measured": measured, "roofline": share, **facts})
            rows[-1]["met"] = measured >= wanted
    return rows


def add_rows(rounds: int) -> list[dict[str, Any]]:
    """The forward alone against an elementwise add of the same tensors, P = Q = 3."""
    rows = []
    for batch, nodes in ((8, 256), (8, 1024)):
        s, t, a = (leaf.detach() for leaf in inputs(batch, nodes, 3, learned_graphs=False))
        out = torch.empty_like(s)
        calls: dict[str, Callable[[], object]] = {
            "forward": lambda s=s, t=t, a=a: bivariate_polynomial(s, t, a, kernel="compiled"),
            "new": lambda s=s, t=t: s + t,
        }
        seconds = alternating(calls | limits(out.numel()), rounds=rounds)
        measured = median_ratio(seconds["forward"], seconds["new"])
        share = roofline(seconds, out.numel(), 3, 2 * 16, median(seconds["forward"]))
        name = f"compiled forward vs elementwise add, P=Q=3, B {batch} N {nodes}"
        facts = {"unit": "times slower", "roofline": share, "met": measured <= 3}
        rows.append({"name": name, "target": "<= 3", "measured": measured, **facts})
    return rows


def memory_rows() -> list[dict[str, Any]]:
    """Bytes kept between forward and backward, over those of the graphs and A."""
    rows = []
    for order in (1, 3, 8):
        leaves = inputs(64, 32, order, learned_graphs=True)
        least = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        measured = kept_bytes(METHODS["compiled"], leaves) / least
        name = f"kept for the backward, P=Q={order}"
        rows.append({"name": name, "target": "= 1", "measured": measured, "unit": "graphs and A", "met": measured == 1})
    return rows


def cuda_rows(rounds: int) -> list[dict[str, Any]]:
    """The compiled forward on CUDA against the copy bandwidth (P = Q <= 3) and the float32 rate (P = Q = 8)."""
    wanted = [(3, "of the measured copy bandwidth", 0.8), (8, "of the measured float32 rate", 0.4)]
    if not torch.cuda.is_available():
        return [
            {"name": f"CUDA: operator P=Q={order}", "target": f">= {least}", "measured": None, "unit": f"share {what}"}
            for order, what, least in wanted
        ]
    return [_cuda_row(order, what, least, rounds) for order, what, least in wanted]


def _cuda_row(order: int, what: str, least: float, rounds: int) -> dict[str, Any]:
    s, t, a = (leaf.detach().cuda() for leaf in inputs(64, 1024, order, learned_graphs=False))
    big, copy = torch.rand(2**28, device="cuda"), torch.empty(2**28, device="cuda")
    square = torch.rand(8192, 8192, device="cuda")
    calls: dict[str, Callable[[], object]] = {
        "operator": lambda: bivariate_polynomial(s, t, a, kernel="compiled"),
        "copy": lambda: copy.copy_(big),
        "product": lambda: square @ square,
    }
    seconds = alternating({name: _synchronised(call) for name, call in calls.items()}, rounds=rounds)
    taken = median(seconds["operator"])
    if order <= 3:
        rate, limit = 12 * s.numel() / taken, 8 * big.numel() / median(seconds["copy"])
    else:
        rate, limit = 2 * (order + 1) ** 2 * s.numel() / taken, 2 * 8192**3 / median(seconds["product"])
    facts = {"unit": f"share {what}", "roofline": rate / limit, "met": rate / limit >= least}
    return {"name": f"CUDA: operator P=Q={order}", "target": f">= {least}", "measured": rate / limit, **facts}


def _synchronised(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Every row of this benchmark: name, target, measured (None: not measured here), unit."""
    rounds = 5 if quick else 31
    return [*speed_rows(rounds), *add_rows(rounds), *memory_rows(), *cuda_rows(rounds)]


if __name__ == "__main__":
    sys.exit(main_of_rows(__doc__, "operator_kernels", "the operator's kernels, one thread", rows, quick_means="fewer rounds"))
