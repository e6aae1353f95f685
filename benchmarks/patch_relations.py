"""LegoBlock where classes are relations: whether an object matches the key of its scene in colour and height.

    python benchmarks/patch_relations.py [--seeds 0 1 2] [--steps 600] [--development]

The network of two_stream.py on the scenes of known_answers/relations.py: 600 to train on (others for each seed), the same 200
to test on. No convolution of the network reaches across a scene, so what tells a match from a stray has to come through the
middle. Object accuracy: the more frequent answer, match or stray, over the pixels of an object; chance is 50 %, and
the colours alone or the heights alone of object and key allow 83 %.
"""

from __future__ import annotations

import argparse
import time
from statistics import mean
from typing import Any

import numpy as np
import torch

from known_answers.relations import RELATION_LABELS, plant_relations
from known_answers.scenes import PlantedScenes
from measuring import store
from two_stream import TwoStream, intersection_over_union, pictures_of, predicted, train

NETWORKS = (
    "middle: concatenation",
    "middle: cross-attention",
    "middle: self-attention",
    "middle: LegoBlock, order 0",
    "middle: LegoBlock",
)


def object_accuracy(told: np.ndarray, planted: PlantedScenes) -> float:
    """Share of the objects beside the key whose pixels are more often called what they are than the other."""
    match, stray = RELATION_LABELS.index("match"), RELATION_LABELS.index("stray")
    right = []
    for one in planted.table:
        if one.label in (match, stray):
            answers = told[one.scene][planted.objects[one.scene] == one.number]
            lead = int((answers == match).sum()) - int((answers == stray).sum())
            right.append(0.5 if lead == 0 else float((lead > 0) == (one.label == match)))
    return mean(right)


def scores(place: str, test: PlantedScenes, seed: int, steps: int) -> dict[str, float]:
    """In percent, and processor seconds of training."""
    started = time.process_time()
    network = train(place, plant_relations(600, seed=1000 + seed), steps=steps, seed=seed, names=RELATION_LABELS)
    seconds = time.process_time() - started
    told = predicted(network, test)
    by_class = intersection_over_union(told, pictures_of(test)[1], RELATION_LABELS)
    found = {"objects": object_accuracy(told.numpy(), test), "miou": mean(by_class.values()), **by_class}
    return {**{name: round(100 * value, 1) for name, value in found.items()}, "seconds": round(seconds, 1)}


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The networks as a table."""
    head = ["network", "parameters", "objects right (seeds)", "mIoU", *RELATION_LABELS[1:], "processor s"]
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for place, row in rows.items():
        by_seed = ", ".join(f"{run['objects']:.1f}" for run in row["by_seed"])
        cells = [place, f"{row['parameters']:,}", f"{row['mean']['objects']:.1f} ({by_seed})"]
        cells += [f"{row['mean'][name]:.1f}" for name in ("miou", *RELATION_LABELS[1:], "seconds")]
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--development", action="store_true", help="other scenes; nothing is stored")
    options = parser.parse_args()
    torch.set_num_threads(1)
    test = plant_relations(200, seed=900 if options.development else 300)
    rows: dict[str, dict[str, Any]] = {}
    for place in options.networks:
        runs = [scores(place, test, seed, options.steps) for seed in options.seeds]
        parameters = sum(one.numel() for one in TwoStream(place, len(RELATION_LABELS)).parameters())
        means = {name: round(mean(run[name] for run in runs), 2) for name in runs[0]}
        rows[place] = {"parameters": parameters, "mean": means, "by_seed": runs}
        print(f"{place}: {rows[place]}", flush=True)
    print(markdown(rows))
    if not options.development:
        settings = {"size": [48, 48], "train": 600, "test": 200, "steps": options.steps, "seeds": options.seeds}
        print(f"stored: {store('patch_relations', {'benchmark': 'patch_relations', **settings, 'networks': rows})}")


if __name__ == "__main__":
    main()
