"""The dissection against what was planted: five kinds of fusion on rendered RGB-D scenes, trained and taken apart.

    python benchmarks/dissection_study.py [--seeds 0 1 2 3 4] [--steps 300] [--development]

The networks of two_stream.py are trained on 300 scenes (others for each seed) and dissected on 200 that none was trained on;
information is read on 600 more. Readings, quantile and cuts were chosen with --development: seeds 10 and 11, other scenes.
Results go to benchmarks/results/dissection_study.json; dissection_figures.py draws the figures of docs/dissection.md from it.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

import numpy as np
import torch

from dissection_measures import (
    CHANNELS,
    ENCODER,
    KINDS,
    MARGIN,
    TELLING,
    Aligned,
    ablations,
    aligned,
    batches_of,
    collaboration_record,
    collaborations,
    concept_record,
    concepts_of,
    consistency,
    information,
    record,
    shapley,
    streams_of,
    variance,
)
from known_answers.scenes import PlantedScenes, plant_scenes
from lego_fusion.dissection.collaboration import Streams, collaboration
from lego_fusion.dissection.concepts import LevelConcepts
from lego_fusion.dissection.recorder import Recording
from lego_fusion.explain.similarity import cka
from measuring import store
from two_stream import TwoStream, intersection_over_union, pictures_of, predicted, train

OBJECTS = (4, 7)
JOINT = ("middle: concatenation", "middle: LegoBlock", "late")
PLACES = ("rgb alone", "depth alone", "early", *JOINT)
CHECKPOINTS = (0, 10, 30, 100)  # steps, and the last
Pooled = dict[tuple[str, str], np.ndarray]


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--development", action="store_true", help="other scenes; stored under another name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first = 900 if options.development else 300
    dissected = plant_scenes(200, objects=OBJECTS, seed=first + 1)
    spoken = plant_scenes(600, objects=OBJECTS, seed=first + 2)
    seeds, pooled, apart = {}, {}, {}
    for seed in options.seeds:
        started = time.perf_counter()
        seeds[seed], pooled[seed], apart[seed] = one_seed(seed, dissected, spoken, options.steps)
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    settings = {"size": [48, 48], "train": 300, "dissected": 200, "spoken": 600, "objects": OBJECTS, "steps": options.steps}
    across = {"discrepancy": discrepancy(pooled), "apart against apart": same_again(apart)}
    result = {"benchmark": "dissection_study", **settings, "seeds": seeds, "across seeds": across}
    print(f"stored: {store('dissection_study' + '-development' * options.development, result)}")


def one_seed(seed: int, dissected: PlantedScenes, spoken: PlantedScenes, steps: int) -> tuple[dict[str, Any], Pooled, Streams]:
    """Train all networks and take them apart."""
    concepts = concepts_of(dissected)
    networks, snapshots = trained(seed, steps)
    recordings = {m: record(networks[f"{m} alone"], {m: streams_of("alone", m, decoder=True)}, dissected) for m in CHANNELS}
    objects = {m: aligned(recordings[m], dissected, concepts)[m] for m in CHANNELS}
    both = Recording(
        {key: rows for one in recordings.values() for key, rows in one.arrays.items()},
        {key: layer for one in recordings.values() for key, layer in one.layers.items()},
        "spatial",
    )
    apart = Streams(both, objects)
    found: dict[str, Any] = {"iou": {place: iou(networks[place], dissected) for place in PLACES}}
    found["consistency"] = consistency(objects, recordings, concepts)
    found["variance"] = variance(objects, seed=seed)
    found["information"] = information(networks, spoken, seed=seed)
    found["shapley"] = {place: shapley(networks[place], dissected) for place in ("early", *JOINT)}
    joint: dict[str, Aligned] = {}
    found["collaboration"] = {}
    for place in JOINT:
        readings, joint[place] = collaborations(place, networks[place], apart, dissected, concepts)
        found["collaboration"][place] = {one.level: collaboration_record(one) for one in readings}
    found["early"] = fused_from_the_start(networks["early"], dissected, concepts)
    found["evolution"] = evolution(snapshots, dissected, concepts)
    some = batches_of(dissected)[:2]  # 100 scenes
    found["ablation"] = {place: ablations(networks[place], joint[place], some, seed=seed) for place in JOINT[:2]}
    return found, {key: rows.mean(axis=(2, 3)) for key, rows in both.arrays.items()}, apart


def trained(seed: int, steps: int) -> tuple[dict[str, TwoStream], dict[str, dict[int, TwoStream]]]:
    """All networks of a seed, and copies on the way."""
    scenes = plant_scenes(300, objects=OBJECTS, seed=1000 + seed)
    networks: dict[str, TwoStream] = {}
    snapshots: dict[str, dict[int, TwoStream]] = {}
    for place in PLACES:
        kept = snapshots.setdefault(place, {})

        def keep(step: int, network: TwoStream, kept: dict[int, TwoStream] = kept) -> None:
            if step in (*CHECKPOINTS, steps):
                kept[step] = copy.deepcopy(network).eval()

        networks[place] = train(place, scenes, steps=steps, seed=seed, after=keep)
    return networks, snapshots


def iou(network: TwoStream, planted: PlantedScenes) -> dict[str, float]:
    """Mean IoU of the classes that each modality tells."""
    by_class = intersection_over_union(predicted(network, planted), pictures_of(planted)[1])
    return {told: round(float(np.mean([by_class[name] for name in names])), 3) for told, names in TELLING.items()}


def fused_from_the_start(network: TwoStream, planted: PlantedScenes, concepts: Any) -> dict[str, Any]:
    """Early fusion has no two streams to compare: only what its one trunk detects at each level."""
    objects = aligned(record(network, {"both": streams_of("early", "both", decoder=True)}, planted), planted, concepts)["both"]
    found = {}
    for level, one in objects.items():
        detected = one.detected("auroc")
        found[level] = {kind: [len(detected & set(names)), len(names)] for kind, names in KINDS.items()}
    return found


def evolution(snapshots: Mapping[str, Mapping[int, TwoStream]], planted: PlantedScenes, concepts: Any) -> dict[str, Any]:
    """J, U, detectors and similarity at level 3 on the way through the training, apart and together."""
    found: dict[str, Any] = {"apart": {}, "together": {}}
    place = "middle: concatenation"
    for step in snapshots[place]:
        networks = {
            "apart": {m: snapshots[f"{m} alone"][step] for m in CHANNELS},
            "together": dict.fromkeys(CHANNELS, snapshots[place][step]),
        }
        for name, by_modality in networks.items():
            layer = {m: {m: {"3": f"encoders.{m}.{ENCODER['3']}"}} for m in CHANNELS}
            recordings = {m: record(by_modality[m], layer[m], planted) for m in CHANNELS}
            objects = {m: aligned(recordings[m], planted, concepts)[m]["3"] for m in CHANNELS}
            sets = LevelConcepts("3", {m: objects[m].detected("auroc") for m in CHANNELS})
            found[name][step] = concept_record(sets) | {
                "units that detect": {m: int(objects[m].detects("auroc").any(axis=1).sum()) for m in CHANNELS},
                "similarity": round(cka(*(recordings[m].pooled()[f"{m} 3"] for m in CHANNELS)), 3),
            }
    return found


def discrepancy(pooled: Mapping[int, Pooled], *, halves: int = 100) -> dict[str, Any]:
    """Similarity across modalities, of any two seeds, against the same modality of two seeds; debiased CKA of pooled maps.

    The interval is over halves of the images and seeds drawn again. Halves, because a bootstrap draws images twice, and two
    copies of one image are alike in every network; half of the images varies about the whole as the whole does about more.
    """
    seeds, found = list(pooled), {}
    generator = np.random.default_rng(0)
    images = len(next(iter(pooled[seeds[0]].values())))
    for level in dict.fromkeys(level for _, level in pooled[seeds[0]]):
        rows = {(m, seed): pooled[seed][m, level] for m in CHANNELS for seed in seeds}
        value = similarities(rows, seeds)
        permuted = {key: one[generator.permutation(images)] for key, one in rows.items()}
        floor = float(np.quantile(list(similarities(permuted, seeds)["pairs"].values()), 0.95))
        drawn = []
        for _ in range(halves if len(seeds) > 1 else 0):
            half = generator.permutation(images)[: images // 2]
            again = generator.choice(seeds, len(seeds)).tolist()
            drawn.append(similarities({key: one[half] for key, one in rows.items()}, again))
        found[level] = {"noise floor": round(floor, 3)}
        for name in ("across", "rgb", "depth", "same", "same - across"):
            chance = [row[name] for row in drawn if np.isfinite(row[name])]
            ends = np.quantile(chance, [0.025, 0.975]) if chance else (np.nan, np.nan)
            found[level][name] = [round(float(one), 3) for one in (value[name], *ends)]
    return found


def similarities(rows: Mapping[tuple[str, int], np.ndarray], seeds: list[int]) -> dict[str, Any]:
    """Mean similarity of the pairs of each kind; a seed drawn twice counts twice, but not against itself."""
    pairs: dict[tuple[tuple[str, int], tuple[str, int]], float] = {}

    def similar(one: tuple[str, int], other: tuple[str, int]) -> float:
        if (one, other) not in pairs:
            pairs[one, other] = cka(rows[one], rows[other])
        return pairs[one, other]

    different = [pair for pair in combinations(seeds, 2) if pair[0] != pair[1]]
    means: dict[str, Any] = {}
    for m in CHANNELS:
        same = [similar((m, min(pair)), (m, max(pair))) for pair in different]
        means[m] = float(np.mean(same)) if same else float("nan")
    means["across"] = float(np.mean([similar(("rgb", one), ("depth", other)) for one, other in product(seeds, seeds)]))
    means["same"] = (means["rgb"] + means["depth"]) / 2
    return means | {"same - across": means["same"] - means["across"], "pairs": pairs}


def same_again(apart: Mapping[int, Streams]) -> list[dict[str, Any]]:
    """What the collaboration finds where there is none: separate streams of one seed against those of the next."""
    seeds = list(apart)
    pairs = zip(seeds, seeds[1:] + seeds[:1], strict=True) if len(seeds) > 1 else ()
    readings = [one for a, b in pairs for one in collaboration(apart[a], apart[b], mode="auroc", margin=MARGIN)]
    return [{"level": one.level, "trend": one.trend, "J": [one.apart.joint, one.joint.joint]} for one in readings]


if __name__ == "__main__":
    main()
