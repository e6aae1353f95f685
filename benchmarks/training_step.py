"""One training step of LEGO on its cached frozen stage against TEVAD's two temporal networks on the same bags.

    python benchmarks/training_step.py [--quick]

A step is forward, bag loss, backward and an Adam update over the full batch: 60 videos, N = 32, one crop, features 2048 and
768 wide. Frozen features hold no learned parameter, so LEGO relates them once and then trains on readings of N x D numbers (the
paper's reading: on graphs of N x N); what that costs is timed and printed beside the steps. (The default is fitted by L-BFGS,
whose iterations cost about one step each.) TEVAD has one multi-scale temporal network per modality, joined by concatenation,
and three fully connected layers. Both see the same bags and labels, in turn, in one run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lego_fusion.fusion.networks import MTN, TevadHead
from lego_fusion.fusion.registry import make_plain_fusion
from lego_fusion.learn.bags import Bags, fit_frozen, training_inputs
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.objective import bag_loss
from measuring import alternating, median_ratio, normalised, store

WIDTHS = {"video": 2048, "text": 768}
VIDEOS, NODES, ORDER = 60, 32, 3
TARGET = 300.0
READINGS: dict[str, dict[str, Any]] = {
    "the default": {"kind": "lego"},
    "the paper's": {"kind": "lego-paper", "order": ORDER},
}


def made_bags() -> Bags:
    generator = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(VIDEOS, NODES, width, generator=generator) for name, width in WIDTHS.items()}
    return Bags(tuple(f"v{i}" for i in range(VIDEOS)), torch.arange(VIDEOS) % 2 == 1, 1, inputs)


def training_step(module: nn.Module, logits: Callable[[], Tensor], labels: Tensor) -> Callable[[], float]:
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, weight_decay=5e-3)

    def step() -> float:
        optimiser.zero_grad()
        loss = bag_loss(logits(), labels).mean()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def prepare_lego(bags: Bags, options: dict[str, Any]) -> tuple[nn.Module, Callable[[], float], float]:
    """The detector, its step after the frozen stage, and the seconds that the frozen stage took."""
    given = {name: value for name, value in options.items() if name != "kind"}
    fusion = make_plain_fusion(options["kind"], WIDTHS, asked=tuple(given), **given)
    started = time.perf_counter()
    fit_frozen(fusion, bags)
    graphs = training_inputs(fusion, bags)
    seconds = time.perf_counter() - started
    detector = Detector(fusion)
    return detector, training_step(detector, lambda: detector(graphs.inputs, cached=True).logits, bags.labels), seconds


def prepare_tevad(bags: Bags) -> tuple[nn.Module, Callable[[], float]]:
    fusion = MTN(WIDTHS, join="concat")
    model = nn.ModuleDict({"fusion": fusion, "head": TevadHead(fusion.out_features)}).train()
    return model, training_step(model, lambda: model["head"](fusion(bags.inputs).nodes), bags.labels)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def time_steps(threads: int, rounds: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    bags = made_bags()
    tevad, tevad_step = prepare_tevad(bags)
    prepared = {name: prepare_lego(bags, options) for name, options in READINGS.items()}
    seconds = alternating({"tevad": tevad_step} | {name: step for name, (_, step, _) in prepared.items()}, rounds=rounds)
    return [
        {
            "threads": threads,
            "graphs": name,
            "lego_ms": round(1e3 * median(seconds[name]), 3),
            "tevad_ms": round(1e3 * median(seconds["tevad"]), 1),
            "ratio": round(median_ratio(seconds["tevad"], seconds[name]), 1),
            "target": TARGET,
            "graphs_once_ms": round(1e3 * once, 1),
            "lego_parameters": parameters(detector),
            "tevad_parameters": parameters(tevad),
        }
        for name, (detector, _, once) in prepared.items()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    title = (
        f"one training step, {VIDEOS} videos, N = {NODES}, P = Q = {ORDER}, features {' and '.join(map(str, WIDTHS.values()))}"
    )
    table = Table(
        title=title, caption=f"TEVAD: {rows[0]['tevad_parameters']:,} parameters, LEGO: {rows[0]['lego_parameters']:,}"
    )
    for heading in ("threads", "reading", "frozen stage once ms", "LEGO ms", "TEVAD ms", "times faster", "target"):
        table.add_column(heading, justify="right")
    for row in rows:
        met = f">= {row['target']:.0f} {'met' if row['ratio'] >= row['target'] else 'MISSED'}"
        facts = (row["threads"], row["graphs"], row["graphs_once_ms"], row["lego_ms"], row["tevad_ms"], row["ratio"], met)
        table.add_row(*map(str, facts))
    Console(width=120).print(table)


def claim(step: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of all claims."""
    name = f"training step after the frozen stage vs MTN, {step['graphs']}"
    return {"name": name, "target": step["target"], "measured": step["ratio"], "unit": "times faster"}


def rows(*, quick: bool = False) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every row of this benchmark, on one thread, and the steps that they come from, with two as well."""
    steps = [row for threads in (1, 2) for row in time_steps(threads, rounds=2 if quick else 9)]
    facts = {"videos": VIDEOS, "nodes": NODES, "order": ORDER, "widths": WIDTHS, "steps": steps}
    return [claim(step) for step in steps if step["threads"] == 1], facts


def main() -> int:
    """Measure, print, store; with --strict 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing stored")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    options = parser.parse_args()
    made, facts = rows(quick=options.quick)
    show(facts["steps"])
    if not options.quick:
        store("training_step", {"benchmark": "training_step", "rows": [normalised(row) for row in made], "facts": facts})
    return 1 if options.strict and any(row["measured"] < row["target"] for row in made) else 0


if __name__ == "__main__":
    sys.exit(main())
