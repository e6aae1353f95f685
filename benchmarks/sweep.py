"""A sweep of 100 (P, Q) x 5 seeds trained together, against one by one and against two worker processes.

    python benchmarks/sweep.py [--quick]

10 bags of N = 32 nodes related to each other, two modalities, P and Q from 1 to 10, the paper's reading in full form; the head
reads rows as they are ("row head") or sorted. Together is the whole of ``fit_together`` for all 500 trials in the chunks that
``run_sweep`` makes. One by one is ``fit`` for every (P, Q) once (100 trials; seeds cost the same), and two workers are the same
100 in two processes that are already running. All take as many steps and are compared by the time of a trial.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import Bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.train import fit
from lego_fusion.study.batched import MOST_TOGETHER, fit_together
from measuring import alternating, median_ratio, store

VIDEOS, NODES, HIGHEST, SEEDS = 10, 32, 10, 5
NAMES = ("video", "text")
TARGETS = {"ordered": 3.0, "sorted": 1.5}
HEADS = {"ordered": "row head", "sorted": "sorted rows"}
Trial = tuple[int, int, int]


def made_graphs() -> Bags:
    generator = torch.Generator().manual_seed(0)
    graphs = {name: 2 * torch.rand(VIDEOS, NODES, NODES, generator=generator) - 1 for name in NAMES}
    return Bags(tuple(f"v{i}" for i in range(VIDEOS)), torch.arange(VIDEOS) % 2 == 1, 1, graphs, related=True)


def all_trials(seeds: int) -> list[Trial]:
    return [(p, q, s) for p in range(1, HIGHEST + 1) for q in range(1, HIGHEST + 1) for s in range(seeds)]


def detector(trial: Trial, rows: str) -> Detector:
    p, q, seed = trial
    options: Any = {"rows": rows, "form": "full"}
    orders = dict(zip(NAMES, (p, q), strict=True))
    fusion = PaperFusion(dict.fromkeys(NAMES, 4), nodes=NODES, order=orders, seed=seed, **options)
    return Detector(fusion, seed=seed)


def together(trials: Sequence[Trial], rows: str, steps: int) -> float:
    """Seconds of training all, without making the detectors."""
    detectors = [detector(trial, rows) for trial in trials]
    configs, bags = [TrainingConfig(steps=steps, seed=seed) for *_, seed in trials], made_graphs()
    started = time.perf_counter()
    for first in range(0, len(trials), MOST_TOGETHER):
        chunk = slice(first, first + MOST_TOGETHER)
        fit_together(detectors[chunk], bags, configs[chunk])
    return time.perf_counter() - started


def alone(trials: Sequence[Trial], rows: str, steps: int) -> float:
    """Seconds of training all, without making the detectors."""
    torch.set_num_threads(1)
    detectors, bags = [detector(trial, rows) for trial in trials], made_graphs()
    started = time.perf_counter()
    for one, (*_, seed) in zip(detectors, trials, strict=True):
        fit(one, bags, TrainingConfig(steps=steps, seed=seed))
    return time.perf_counter() - started


def measure(rows: str, steps: int, rounds: int, every: int, pool: ProcessPoolExecutor) -> dict[str, list[float]]:
    """Milliseconds of a trial, by way of training."""
    many, few = all_trials(SEEDS)[::every], all_trials(1)[::every]
    found: dict[str, list[float]] = {"together": [], "one by one": [], "two workers": []}

    def two_workers() -> float:
        halves = [few[::2], few[1::2]]
        return max(pool.map(alone, halves, [rows] * 2, [steps] * 2))

    ways = {
        "together": lambda: found["together"].append(1e3 * together(many, rows, steps) / len(many)),
        "one by one": lambda: found["one by one"].append(1e3 * alone(few, rows, steps) / len(few)),
        "two workers": lambda: found["two workers"].append(1e3 * two_workers() / len(few)),
    }
    alternating(ways, rounds=rounds, warmup=0)
    return found


def rows(steps: int = 40, rounds: int = 3, every: int = 1) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The measured rows, and what they come from."""
    torch.set_num_threads(1)
    made: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(alone, [[(1, 1, 0)]] * 2, ["ordered"] * 2, [1] * 2))  # the processes import what they need
        alone([(1, 1, 0)], "ordered", 1)
        for head, words in HEADS.items():
            found = measure(head, steps, rounds, every, pool)
            facts[words] = {way: round(median(times), 2) for way, times in found.items()}
            for other, target in (("one by one", TARGETS[head]), ("two workers", 1.0)):
                ratio = round(median_ratio(found[other], found["together"]), 2)
                name = f"sweep, {words}: together over {other}"
                made.append({"name": name, "target": target, "measured": ratio, "unit": "times faster"})
    made.append({"name": "sweep on CUDA over one by one", "target": 20.0, "measured": "not measured", "unit": "times faster"})
    return made, facts


def main() -> int:
    """Measure, print, store; with --strict 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every 10th trial, few steps, and nothing stored")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    options = parser.parse_args()
    quick = options.quick
    load = os.getloadavg()[0]
    made, facts = rows(10, 1, 10) if quick else rows()
    table = Table(title=f"100 (P, Q) x {SEEDS} seeds, {VIDEOS} bags; ms of a trial: {facts}")
    for heading in ("what", "measured", "target", ""):
        table.add_column(heading)
    for row in made:
        met = "" if isinstance(row["measured"], str) else "met" if row["measured"] >= row["target"] else "MISSED"
        table.add_row(row["name"], str(row["measured"]), f">= {row['target']:g} {row['unit']}", met)
    Console(width=140).print(table)
    if not quick:
        store("sweep", {"benchmark": "sweep", "load": load, "steps": 40, "milliseconds_of_a_trial": facts, "rows": made})
    return int(options.strict and any(not isinstance(row["measured"], str) and row["measured"] < row["target"] for row in made))


if __name__ == "__main__":
    sys.exit(main())
