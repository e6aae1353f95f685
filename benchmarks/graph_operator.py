"""The fusion operator against the explicit sum: time of forward and backward on one thread, and bytes kept in between.

    python benchmarks/graph_operator.py [--quick]

"Explicit" is what one writes first: the powers of both graphs built once by multiplication, a double loop in Python over
A_pq, autograd. Both do the same work side by side in one run, and their results are compared before they are timed.
(This file is not called ``operator.py``, because a script's folder comes first on the path and would hide Python's own module.)
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lego_fusion.graph.kernels import bivariate_polynomial
from measuring import alternating, median_ratio, store

SHAPES = [(64, 32, 8, 1.5), (8, 256, 8, None), (64, 32, 3, None)]  # B, N, P = Q, target ratio
ORDERS = [1, 3, 8]  # P = Q, for the bytes kept


def explicit(s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
    """sum_pq A_pq s^p t^q, as one writes it first."""
    s_powers, t_powers = [torch.ones_like(s)], [torch.ones_like(t)]
    for powers, graph, order in ((s_powers, s, coefficients.shape[0]), (t_powers, t, coefficients.shape[1])):
        for _ in range(order - 1):
            powers.append(powers[-1] * graph)
    total = torch.zeros_like(s)
    for p, s_power in enumerate(s_powers):
        for q, t_power in enumerate(t_powers):
            total = total + coefficients[p, q] * s_power * t_power
    return total


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"explicit": explicit, "ours": bivariate_polynomial}


def inputs(batch: int, nodes: int, order: int, *, learned_graphs: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    graphs = [2 * torch.rand(batch, nodes, nodes, generator=generator) - 1 for _ in range(2)]
    coefficients = torch.randn(order + 1, order + 1, generator=generator)
    return [*(graph.requires_grad_(learned_graphs) for graph in graphs), coefficients.requires_grad_()]


def step(method: str, leaves: list[Tensor]) -> list[Tensor]:
    """Forward and backward; returns the result and every gradient."""
    result = METHODS[method](*leaves)
    gradients = torch.autograd.grad(result.sum(), [leaf for leaf in leaves if leaf.requires_grad])
    return [result.detach(), *gradients]


def time_shape(
    batch: int, nodes: int, order: int, target: float | None, *, learned_graphs: bool, rounds: int
) -> dict[str, Any]:
    leaves = inputs(batch, nodes, order, learned_graphs=learned_graphs)
    for theirs, ours in zip(step("explicit", leaves), step("ours", leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    seconds = alternating({name: functools.partial(step, name, leaves) for name in METHODS}, rounds=rounds)
    return {
        "batch": batch,
        "nodes": nodes,
        "order": order,
        "gradients": "graphs and A" if learned_graphs else "A only",
        **{f"{name}_ms": round(1e3 * median(values), 3) for name, values in seconds.items()},
        "ratio": round(median_ratio(seconds["explicit"], seconds["ours"]), 2),
        "target": target,
    }


def kept_bytes(method: Callable[..., Tensor], leaves: list[Tensor]) -> int:
    """Bytes of all distinct tensors that autograd keeps between forward and backward."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        method(*leaves)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def memory(order: int) -> dict[str, Any]:
    leaves = inputs(64, 32, order, learned_graphs=True)
    graphs_and_coefficients = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    kept = {f"{name}_bytes": kept_bytes(method, leaves) for name, method in METHODS.items()}
    return {"batch": 64, "nodes": 32, "order": order, **kept, "graphs_and_A_bytes": graphs_and_coefficients}


def show(times: list[dict[str, Any]], sizes: list[dict[str, Any]]) -> None:
    table = Table(title="forward + backward, one thread, median")
    for heading in ("B", "N", "P = Q", "gradients of", "explicit ms", "ours ms", "times faster", "target"):
        table.add_column(heading, justify="right")
    for row in times:
        target = "-" if row["target"] is None else f">= {row['target']} {'met' if row['ratio'] >= row['target'] else 'MISSED'}"
        facts = (row["batch"], row["nodes"], row["order"], row["gradients"], row["explicit_ms"], row["ours_ms"], row["ratio"])
        table.add_row(*map(str, facts), target)
    kept = Table(title="kept for the backward, B 64, N 32")
    for heading in ("P = Q", "explicit MB", "ours MB", "two graphs and A MB"):
        kept.add_column(heading, justify="right")
    for row in sizes:
        numbers = (row[key] / 1e6 for key in ("explicit_bytes", "ours_bytes", "graphs_and_A_bytes"))
        kept.add_row(str(row["order"]), *(f"{number:.2f}" for number in numbers))
    Console(width=100).print(table, kept)


def main() -> int:
    """Measure, print, store; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing stored")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    times = [
        time_shape(*shape, learned_graphs=learned, rounds=3 if quick else 31) for shape in SHAPES for learned in (True, False)
    ]
    sizes = [memory(order) for order in ORDERS]
    show(times, sizes)
    if not quick:
        store("graph_operator", {"benchmark": "graph_operator", "times": times, "kept_for_backward": sizes})
    missed = [row for row in times if row["target"] is not None and row["ratio"] < row["target"]]
    missed += [row for row in sizes if row["ours_bytes"] != row["graphs_and_A_bytes"]]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
