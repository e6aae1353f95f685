"""Graphs too large to hold: time and memory of streaming, beside those of the Gram products it cannot do without.

    python benchmarks/streaming.py [--quick]

Two modalities, P = Q = 3, gradients to the features of both, to X and to A. The Gram products alone are the inner products of
all pairs of nodes in both modalities, each pair once. Counted in those (one unit, 2 N^2 D multiplications and additions),
streaming makes them in the forward and again in the backward, and sends gradients back to the features, which is two more. So 4
units, and 3 F / D for G X and its gradients, is the least that any way without N x N numbers in memory can do, and a second row
compares with the Gram products *and their own backward* (3 units).
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lego_fusion.fusion.block import LegoBlock
from lego_fusion.graph.operator import GraphOperator
from lego_fusion.graph.streaming import TILE, propagate
from measuring import alternating, main_of_rows, median_ratio

WIDTH, ORDER = 512, 3
PEAK = """
import sys, torch
sys.path.insert(0, {folder!r})
from streaming import made, step
torch.set_num_threads(1)

def kilobytes(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))

step(*made(2048, {out}))  # everything is loaded and compiled
inputs = made({nodes}, {out})
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # forget the highest so far
before = kilobytes("VmRSS")
step(*inputs)
print(kilobytes("VmHWM") - before)
"""


def made(nodes: int, out: int) -> tuple[dict[str, Tensor], GraphOperator, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.randn(1, nodes, WIDTH, generator=generator).requires_grad_() for name in ("a", "b")}
    return features, GraphOperator(["a", "b"], ORDER, "full"), torch.randn(1, nodes, out, generator=generator).requires_grad_()


def step(features: dict[str, Tensor], operator: GraphOperator, x: Tensor) -> None:
    """Forward and backward: G X and degrees."""
    found = propagate(features, operator, x)
    torch.autograd.grad(found.values.sum() + found.degree.sum(), [*features.values(), x, *operator.parameters()])


def gram(features: dict[str, Tensor]) -> None:
    """All inner products of both modalities, each pair of tiles once."""
    for x in features.values():
        rows = x.detach()[0]
        for first in range(0, len(rows), TILE):
            for second in range(first, len(rows), TILE):
                rows[first : first + TILE] @ rows[second : second + TILE].T


def speed_rows(nodes: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    square = torch.rand(TILE, TILE)
    for out, target in ((64, 3.0), (WIDTH, 5.0)):
        step(*made(2 * TILE, out))  # compiled before anything is timed
        features, operator, x = made(nodes, out)
        calls: dict[str, Callable[[], object]] = {
            "gram": lambda f=features: gram(f),
            "streaming": lambda f=features, o=operator, x=x: step(f, o, x),
            "product": lambda: [square @ square for _ in range(20)],
        }
        seconds = alternating(calls, rounds=rounds, warmup=0)
        taken = median(seconds["streaming"])
        units = 4 + 3 * out / WIDTH
        operations = units * 2 * nodes**2 * WIDTH
        share = operations / (20 * 2 * TILE**3 / median(seconds["product"])) / taken
        ratio = median_ratio(seconds["streaming"], seconds["gram"])
        what = f"streaming N={nodes}, D={WIDTH}, F={out}, forward + backward"
        facts = {"unit": "times slower", "roofline": share, "least_possible": units}
        alone = {"name": f"{what} vs two Gram products alone", "target": f"<= {target:g}", "measured": ratio}
        rows.append(alone | facts | {"met": ratio <= target, "seconds": taken})
        both = {"name": f"{what} vs two Gram products with their backward (3 x alone)", "target": None}
        rows.append(both | {"measured": ratio / 3} | facts | {"least_possible": units / 3})
    return rows


def memory_rows(nodes: int) -> list[dict[str, Any]]:
    """Peak memory of a step above what inputs and code take, in a process of its own; as Linux tells it."""
    rows: list[dict[str, Any]] = []
    if not Path("/proc/self/clear_refs").exists():
        return rows
    for out in (64, WIDTH):
        code = PEAK.format(folder=str(sys.path[0]), nodes=nodes, out=out)
        kilobytes = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        name = f"streaming N={nodes}, D={WIDTH}, F={out}: memory above inputs"
        rows.append({"name": name, "target": "< 2", "measured": kilobytes * 1024 / 1e9, "unit": "GB"})
        rows[-1]["met"] = rows[-1]["measured"] < 2
    return rows


def threshold_rows(rounds: int) -> list[dict[str, Any]]:
    """A block's step with whole graphs over one with tiles: where ``TILE_ABOVE`` comes from."""
    rows = []
    for nodes in (512, 1024, 2048):
        features = {name: torch.randn(1, nodes, 128) for name in ("a", "b")}
        calls: dict[str, Callable[[], object]] = {}
        for name, limit in (("whole", nodes), ("tiles", 0)):
            one = LegoBlock({"a": 128, "b": 128}, 128, tile_above=limit)
            calls[name] = functools.partial(_block_step, one, features)
        seconds = alternating(calls, rounds=rounds)
        measured = median_ratio(seconds["whole"], seconds["tiles"])
        name = f"block forward + backward, N={nodes}: tiles vs whole graphs"
        rows.append({"name": name, "target": None, "measured": measured, "unit": "times faster"})
    return rows


def _block_step(one: LegoBlock, features: dict[str, Tensor]) -> None:
    one({name: x.clone().requires_grad_() for name, x in features.items()}).square().mean().backward()


def cuda_rows(rounds: int) -> list[dict[str, Any]]:
    """bfloat16, N = 32,768: share of the measured matrix rate."""
    rows = []
    measured: dict[str, float | None] = {"forward": None, "backward": None}
    if torch.cuda.is_available():
        measured = _cuda_shares(32768, rounds)
    for part, least in (("forward", 0.4), ("backward", 0.25)):
        share = measured[part]
        row: dict[str, Any] = {"name": f"CUDA: streaming, bf16, D={WIDTH}, N=32768, {part}", "target": f">= {least}"}
        rows.append(row | {"measured": share, "unit": "share of the measured matrix rate"})
        if share is not None:
            rows[-1]["met"] = share >= least
    return rows


def _cuda_shares(nodes: int, rounds: int) -> dict[str, float | None]:
    features, operator, x = made(nodes, 64)
    features = {name: one.detach().cuda().bfloat16().requires_grad_() for name, one in features.items()}
    operator, x = operator.cuda(), x.detach().cuda().bfloat16().requires_grad_()
    square = torch.rand(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def forward() -> None:
        with torch.no_grad():
            propagate(features, operator, x, tile=8192)
        torch.cuda.synchronize()

    def both() -> None:
        found = propagate(features, operator, x, tile=8192)
        torch.autograd.grad(found.values.sum() + found.degree.sum(), [*features.values(), x, *operator.parameters()])
        torch.cuda.synchronize()

    def product() -> None:
        square @ square
        torch.cuda.synchronize()

    seconds = alternating({"forward": forward, "both": both, "product": product}, rounds=rounds)
    rate = 2 * 8192**3 / median(seconds["product"])
    unit, ahead = 2 * nodes**2 * WIDTH, median(seconds["forward"])
    share = 64 / WIDTH
    return {
        "forward": (1 + share) * unit / ahead / rate,
        "backward": (3 + 2 * share) * unit / (median(seconds["both"]) - ahead) / rate,
    }


def rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Every row of this benchmark: name, target, measured (None: not measured here), unit."""
    nodes, rounds = (4096, 1) if quick else (16384, 3)
    return [*speed_rows(nodes, rounds), *memory_rows(nodes), *threshold_rows(3 if quick else 9), *cuda_rows(rounds)]


if __name__ == "__main__":
    sys.exit(main_of_rows(__doc__, "streaming", "graphs too large to hold, one thread", rows, quick_means="smaller graphs"))
