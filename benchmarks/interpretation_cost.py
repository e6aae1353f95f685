"""What explaining costs: each measure at the size its target names, with the target beside the time.

    python benchmarks/interpretation_cost.py [--quick]

Every entry of ``MEASUREMENTS`` is a function that does its work once and returns what it measured; seconds are the best of
a few runs, on the threads that torch and BLAS take by default. "processor" is the time all cores spent, which is what a
machine that is busy with other work can still be compared by.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lego_fusion.explain.contributions import model_contributions
from lego_fusion.explain.similarity import similarity_matrix
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.learn.bags import Bags, fit_frozen
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.train import predict
from lego_fusion.measure.detection import micro_auc
from lego_fusion.measure.scored import ScoredVideo
from measuring import store

PED2 = {"motion": 72, "appearance": 512, "text": 384}  # widths
PED2_VIDEOS, PED2_FRAMES = (10, 18), 180  # training and test videos
NODES, LAYERS, SAMPLES, WIDTH = 32, 10, 2000, 1024


def made_bags(videos: int, seed: int) -> Bags:
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(videos, NODES, width, generator=generator) for name, width in PED2.items()}
    return Bags(tuple(f"v{number}" for number in range(videos)), torch.arange(videos) % 2 == 1, 1, inputs)


def scored_by(detector: Detector, test: Bags) -> Callable[[Mapping[str, Tensor]], list[ScoredVideo]]:
    """The detector as a model of features by name, spread over frames."""
    labels = np.zeros(PED2_FRAMES, int)
    labels[60:120] = 1
    truth = [labels * int(abnormal) for abnormal in test.labels]

    def model(features: Mapping[str, Tensor]) -> list[ScoredVideo]:
        scores = predict(detector, Bags(test.videos, test.labels, 1, dict(features))).numpy()
        spread = scores[:, np.arange(PED2_FRAMES) * NODES // PED2_FRAMES]
        return [
            ScoredVideo.from_frames(video, row, frames) for video, row, frames in zip(test.videos, spread, truth, strict=True)
        ]

    return model


def shapley() -> list[dict[str, Any]]:
    """Exact Shapley values of three modalities on as many videos as Ped2 tests, with and without intervals."""
    train, test = made_bags(PED2_VIDEOS[0], 0), made_bags(PED2_VIDEOS[1], 1)
    fusion = LegoFusion(PED2)
    fit_frozen(fusion, train)
    model = scored_by(Detector(fusion), test)
    normal = train.select((~train.labels).nonzero()[:, 0]).inputs
    name = "exact Shapley, 3 modalities, Ped2"
    rows = []
    for what, arguments in (
        ("", {}),
        (", intervals of 1,000 resamples", {"resamples": 1000}),
        (", 8 draws per set, intervals", {"resamples": 1000, "removal": "permute"}),
    ):
        seconds = timed(
            lambda arguments=arguments: model_contributions(
                model, test.inputs, micro_auc, baseline=0.5, background=normal, **arguments
            )
        )
        rows.append({"what": name + what, **seconds, "target_s": 5.0})
    return rows


def similarity() -> list[dict[str, Any]]:
    """Debiased CKA of 20 pairs among 10 layers, and of all 100, Gram matrices kept, float32 against float64."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(SAMPLES, WIDTH, generator=generator)
    layers = {
        f"layer {number}": shared * (1 - number / LAYERS) + torch.randn(SAMPLES, WIDTH, generator=generator)
        for number in range(LAYERS)
    }
    two = dict(list(layers.items())[:2])
    double = {name: layer.double() for name, layer in layers.items()}
    exact = similarity_matrix(double, {name: double[name] for name in two}, keep_grams=True).values
    rows = []
    for what, others, target in (("20 pairs", two, 3.0), ("100 pairs", layers, None)):
        seconds = timed(lambda others=others: similarity_matrix(layers, others, keep_grams=True))
        rows.append({"what": f"CKA, {what} of 10 layers, {SAMPLES} x {WIDTH}, float32", **seconds, "target_s": target})
    single = similarity_matrix(layers, two, keep_grams=True).values
    rows[0]["largest_difference_to_float64"] = float(np.abs(single - exact).max())
    return rows


MEASUREMENTS: tuple[Callable[[], list[dict[str, Any]]], ...] = (shapley, similarity)
_ROUNDS = 3


def timed(work: Callable[[], object]) -> dict[str, float]:
    """The best wall time of a few runs, and the processor time of that run."""
    best = {"seconds": float("inf"), "processor_s": 0.0}
    for _ in range(_ROUNDS):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        spent = time.perf_counter() - wall
        if spent < best["seconds"]:
            best = {"seconds": round(spent, 4), "processor_s": round(time.process_time() - processor, 4)}
    return best


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="cost of explanations")
    for heading in ("measure", "seconds", "processor", "target", "difference to float64"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for row in rows:
        met = "-" if row["target_s"] is None else f"< {row['target_s']:g} {'MISSED' if missed(row) else 'met'}"
        difference = row.get("largest_difference_to_float64")
        told = "" if difference is None else f"{difference:.0e}"
        table.add_row(row["what"], f"{row['seconds']:.3f}", f"{row['processor_s']:.3f}", met, told)
    Console(width=120).print(table)


def missed(row: Mapping[str, Any]) -> bool:
    return row["target_s"] is not None and row["seconds"] >= row["target_s"]


def main() -> int:
    """Measure, print, store; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="store nothing")
    quick = parser.parse_args().quick
    rows = [row for measurement in MEASUREMENTS for row in measurement()]
    show(rows)
    if not quick:
        store("interpretation_cost", {"benchmark": "interpretation_cost", "measures": rows})
    return 1 if any(missed(row) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
