"""LegoBlock against concatenation, addition and cross-attention in one small network, and against early and late fusion.

    python benchmarks/patch_fusion.py [--seeds 3] [--steps 300]

The network of two_stream.py segments planted RGB-D scenes of 48 x 48 pixels: 300 scenes to train on (others for each seed),
the same 200 to test on. Batches of 16, one core. In the middle the streams meet on 12 x 12 cells, the nodes of the graphs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean, median
from typing import Any

import torch

from known_answers.scenes import CLASSES, PlantedScenes, plant_scenes
from measuring import alternating, store
from two_stream import PLACES, TwoStream, intersection_over_union, pictures_of, predicted, train

OBJECTS = (4, 7)
TEST_SEED = 101


def scores(place: str, test: PlantedScenes, seed: int, steps: int) -> dict[str, float]:
    """Mean IoU in percent over all labels, the plane among them, and over the classes that each modality tells."""
    started = time.perf_counter()
    network = train(place, plant_scenes(300, objects=OBJECTS, seed=1000 + seed), steps=steps, seed=seed)
    seconds = time.perf_counter() - started
    by_class = intersection_over_union(predicted(network, test), pictures_of(test)[1])
    found = {"miou": mean(by_class.values())}
    for telling in ("rgb", "depth", "either", "both"):
        found[telling] = mean(by_class[one.name] for one in CLASSES if one.told_by == telling)
    return {**{name: round(100 * value, 2) for name, value in found.items()}, "seconds": round(seconds, 1)}


def training_step(network: TwoStream, batch: PlantedScenes) -> None:
    """One forward and backward."""
    pictures, labels = pictures_of(batch)
    loss = torch.nn.functional.cross_entropy(network(pictures), labels)
    loss.backward()  # type: ignore[no-untyped-call]


def milliseconds() -> dict[str, float]:
    """Of one training step, all networks in turn."""
    few = plant_scenes(16, objects=OBJECTS, seed=TEST_SEED)
    calls: dict[str, Callable[[], object]] = {place: partial(training_step, TwoStream(place), few) for place in PLACES}
    return {place: round(1e3 * median(seconds), 1) for place, seconds in alternating(calls, rounds=15).items()}


def measure(places: Sequence[str], seeds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Every network over all seeds."""
    test = plant_scenes(200, objects=OBJECTS, seed=TEST_SEED)
    steps_take, rows = milliseconds(), {}
    for place in places:
        runs = [scores(place, test, seed, steps) for seed in range(seeds)]
        parameters = sum(one.numel() for one in TwoStream(place).parameters())
        means = {name: round(mean(run[name] for run in runs), 2) for name in runs[0]}
        rows[place] = {"parameters": parameters, "step_milliseconds": steps_take[place], "mean": means, "by_seed": runs}
        print(f"{place}: {rows[place]}", flush=True)
    return rows


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The networks as a table."""
    head = ["network", "parameters", "ms a step", "mIoU (seeds)", "colour", "height", "outline", "colour XOR height"]
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for place, row in rows.items():
        by_seed = ", ".join(f"{run['miou']:.1f}" for run in row["by_seed"])
        cells = [place, f"{row['parameters']:,}", f"{row['step_milliseconds']:.0f}", f"{row['mean']['miou']:.1f} ({by_seed})"]
        cells += [f"{row['mean'][name]:.1f}" for name in ("rgb", "depth", "either", "both")]
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(PLACES, options.seeds, options.steps)
    print(markdown(rows))
    settings = {"size": [48, 48], "train": 300, "test": 200, "objects": OBJECTS, "steps": options.steps, "seeds": options.seeds}
    print(f"stored: {store('patch_fusion', {'benchmark': 'patch_fusion', **settings, 'networks': rows})}")


if __name__ == "__main__":
    main()
