"""What the dissection says of one training, beside what was planted; dissection_study.py runs it over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import torch

from known_answers.scenes import CLASSES, LABELS, SEEN_BY, PlantedScenes
from known_answers.silenced_classes import class_iou, excess_over_random
from lego_fusion.dissection.ablation import ablate, unit_groups, unit_labels
from lego_fusion.dissection.alignment import UnitAlignment, align
from lego_fusion.dissection.collaboration import LevelCollaboration, Streams, collaboration
from lego_fusion.dissection.concepts import Concepts, LevelConcepts, by_region
from lego_fusion.dissection.read_network import untrained_copy
from lego_fusion.dissection.recorder import Recorder, Recording
from lego_fusion.dissection.variance import bootstrap, semantic_variance, share_statistics, unit_permutation_null
from lego_fusion.explain.batch_information import batch_partial_information
from lego_fusion.explain.contributions import ModelValue
from lego_fusion.explain.decomposition import PartialInformation
from lego_fusion.explain.information import partial_information
from lego_fusion.explain.shapley import contributions
from two_stream import CHANNELS, TwoStream, pictures_of

ENCODER = {"1": "2", "2": "5", "3": "8"}  # level -> place of the ReLU in an encoder
DECODER = {"4": "2", "5": "6"}
FUSED = {"3": "middle", "4": "decoders.fused.2", "5": "decoders.fused.6"}
QUANTILE = 0.1  # of objects; chosen with the readings below on development seeds
READINGS: dict[str, dict[str, Any]] = {
    "objects, AUROC > 0.8": {"mode": "auroc"},  # the reading used where no other is named
    "objects, 0.5 of the way to the ceiling": {"mode": "normalised", "cut": 0.5},
    "pixels, 0.2 of the way to the ceiling": {"mode": "normalised"},
    "pixels, IoU > 0.04": {"mode": "stock"},
}
KINDS = {kind: tuple(name for name in SEEN_BY if name.startswith(kind)) for kind in ("colour", "texture", "height", "outline")}
TELLING = {told: tuple(one.name for one in CLASSES if one.told_by == told) for told in ("rgb", "depth", "either", "both")}
IOU = class_iou({one: place for place, one in enumerate(LABELS) if place}, TELLING)
Batches = list[tuple[dict[str, torch.Tensor], torch.Tensor]]
Aligned = dict[str, dict[str, UnitAlignment]]


UNTRAINED = 3  # copies
MARGIN = 0.05  # of J: more than this is a trend; the study shows that it is too little


def streams_of(place: str, name: str, *, decoder: bool) -> dict[str, str]:
    """Layers of one stream by level; with its own decoder where it has one."""
    layers = {level: f"encoders.{name}.{at}" for level, at in ENCODER.items()}
    head = name if place == "late" else "fused"
    return layers | ({level: f"decoders.{head}.{at}" for level, at in DECODER.items()} if decoder else {})


def batches_of(planted: PlantedScenes, size: int = 50) -> Batches:
    """Pictures and labels."""
    pictures, labels = pictures_of(planted)
    parts = range(0, len(labels), size)
    return [({name: x[s : s + size] for name, x in pictures.items()}, labels[s : s + size]) for s in parts]


def run_network(network: torch.nn.Module, pictures: Any) -> object:
    """The network on one batch."""
    return network(pictures)


def record(network: TwoStream, layers: Mapping[str, Mapping[str, str]], planted: PlantedScenes) -> Recording:
    """Maps of all layers."""
    return Recorder(network, layers, call=run_network).record((inputs for inputs, _ in batches_of(planted)), "spatial")


def concepts_of(planted: PlantedScenes) -> Concepts:
    """Masks of every concept."""
    return Concepts.from_masks(np.stack(list(planted.concepts().values()), 1), tuple(SEEN_BY))


def over_objects(maps: Any, planted: PlantedScenes, concepts: Concepts) -> UnitAlignment:
    """Alignment object by object."""
    pooled, labels = by_region(maps, concepts, planted.objects)
    return align(pooled, labels, quantile=QUANTILE, batch_size=500)


def aligned(recording: Recording, planted: PlantedScenes, concepts: Concepts) -> Aligned:
    """Alignments over objects by modality and level."""
    return {m: {n: over_objects(recording[m, n], planted, concepts) for n in recording.levels(m)} for m in recording.modalities}


def concept_record(sets: LevelConcepts) -> dict[str, Any]:
    """J, U and their concepts, and those that a modality cannot see."""
    first, second = sets.detected["rgb"], sets.detected["depth"]
    unseen = [f"rgb: {name}" for name in first if "rgb" not in SEEN_BY[name]]
    unseen += [f"depth: {name}" for name in second if "depth" not in SEEN_BY[name]]
    numbers = {"J": sets.joint, "U rgb": sets.unique("rgb"), "U depth": sets.unique("depth")}
    names = {"shared": sorted(sets.shared), "rgb": sorted(sets.special("rgb")), "depth": sorted(sets.special("depth"))}
    return {name: round(value, 3) for name, value in numbers.items()} | names | {"not visible": sorted(unseen)}


def consistency(objects: Aligned, recordings: Mapping[str, Recording], concepts: Concepts) -> dict[str, Any]:
    """J and U of the streams at every level, in every reading, and detectors."""
    found: dict[str, Any] = {name: {} for name in READINGS}
    for level in objects["rgb"]:
        pixels = {m: align(recordings[m][m, level], concepts, auroc_pixels=0) for m in CHANNELS}
        for name, reading in READINGS.items():
            read = {m: pixels[m] if name.startswith("pixels") else objects[m][level] for m in CHANNELS}
            detected = {m: one.detected(**reading) for m, one in read.items()}
            found[name][level] = concept_record(LevelConcepts(level, detected))
        for m in CHANNELS:
            units = objects[m][level].detects("auroc").any(axis=1)
            found.setdefault("units that detect", {}).setdefault(m, {})[level] = [int(units.sum()), len(units)]
            best = dict(zip(concepts.names, np.nan_to_num(objects[m][level].auroc).max(axis=0).round(3).tolist(), strict=True))
            found.setdefault("best AUROC", {}).setdefault(m, {})[level] = best
    return found


def variance(objects: Aligned, *, nulls: int = 20, seed: int = 0) -> dict[str, Any]:
    """Var_m of every concept and the ANOVA shares, from the mean profile and from the best unit."""
    found = {}
    for profile in ("mean", "best"):
        read = semantic_variance(objects, profile)  # type: ignore[arg-type]
        by_concept = dict(zip(read.concepts, read.profiles.var(axis=0).mean(axis=0), strict=True))
        lead = dict(zip(read.concepts, (read.profiles[0] - read.profiles[1]).mean(axis=0), strict=True))
        special = [name for name in by_concept if len(SEEN_BY[name]) == 1]
        needed = [name for name in special if not name.startswith("texture")]
        statistics = partial(share_statistics, profile=profile)
        bounds = bootstrap(objects, statistics, resamples=100, seed=seed)
        units = unit_permutation_null(objects, permutations=100, seed=seed, profile=profile)  # type: ignore[arg-type]
        shuffled = [statistics(one) for one in relabelled(objects, nulls, seed)]
        shares = {}
        for name in ("consistency", "speciality"):
            squares = f"{name}, sum of squares"
            chance = [row[squares] for row in shuffled]
            shares[name] = {
                "share": [round(getattr(bounds[name], end), 3) for end in ("value", "low", "high")],
                "sum of squares": round(units[squares].value, 4),
                "units dealt anew": [round(units[squares].mean, 4), round(units[squares].p_value, 3)],
                "labels shuffled": [round(mean(chance), 4), round(at_least(chance, units[squares].value), 3)],
            }
        found[profile] = {
            "by concept": {name: round(float(value), 5) for name, value in by_concept.items()},
            "pairs in order": round(in_order(by_concept, special), 3),
            "pairs in order without texture": round(in_order(by_concept, needed), 3),
            "right modality leads": {name: bool((lead[name] > 0) == (SEEN_BY[name] == ("rgb",))) for name in special},
            "anova": shares,
        }
    return found


def in_order(by_concept: Mapping[str, float], special: Sequence[str]) -> float:
    """Share of the pairs of a special and a shared concept in which the special one varies more across modalities."""
    shared = [name for name in by_concept if len(SEEN_BY[name]) == 2]
    return float(np.mean([by_concept[one] > by_concept[other] for one in special for other in shared]))


def at_least(chance: Sequence[float], value: float) -> float:
    """The p value of a permutation test."""
    return (1 + sum(one >= value for one in chance)) / (1 + len(chance))


def relabelled(objects: Aligned, times: int, seed: int) -> list[dict[str, dict[str, Any]]]:
    """The overlaps with the objects' labels permuted: active units as they are, the same permutation in every layer."""
    generator = np.random.default_rng(seed)
    first = next(iter(next(iter(objects.values())).values()))
    labels = first.counts.concept_area  # (objects, C), 0 or 1
    found = []
    for _ in range(times):
        order = generator.permutation(len(labels))
        rows = {}
        for modality, levels in objects.items():
            rows[modality] = {
                name: type(one.overlap)(
                    (one.counts.unit_area.T @ labels[order]).astype(float),
                    one.overlap.unit_area,
                    one.overlap.concept_area,
                    one.overlap.pixels,
                )
                for name, one in levels.items()
            }
        found.append(rows)
    return found


def told_from_rival(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Share of the pixels of a class whose logit is above that of its rival; of triangle and cross each other's. Chance: 0.5.

    The outline is given, as it were: finding an object and saying which of two it is are read apart.
    """
    found: dict[str, list[float]] = {told: [] for told in TELLING}
    for one in CLASSES:
        rival = one.rival or {"triangle": "cross", "cross": "triangle"}[one.name]
        place, other = LABELS.index(one.name), LABELS.index(rival)
        lead = (logits[:, place] - logits[:, other])[labels == place]
        found[one.told_by].append(float(((lead > 0).double() + 0.5 * (lead == 0)).mean()))
    return {told: mean(values) for told, values in found.items()}


def shapley(network: TwoStream, planted: PlantedScenes) -> dict[str, Any]:
    """Shapley values and cooperation by which modality tells the classes, for two removals, in IoU and against the rival."""
    pictures, labels = pictures_of(planted)
    features = {name: x.permute(0, 2, 3, 1) for name, x in pictures.items()}  # channels last: a mean for each channel

    @torch.no_grad()
    def model(given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        parts = range(0, len(labels), 50)
        maps = {name: x.permute(0, 3, 1, 2) for name, x in given.items()}
        return torch.cat([network({name: x[s : s + 50] for name, x in maps.items()}) for s in parts])

    def metric(targets: Any, logits: Any) -> np.ndarray:
        told, true = torch.from_numpy(logits), torch.from_numpy(targets)
        found = IOU.values(IOU.rows(told, true).numpy()), told_from_rival(told, true)
        return np.array([list(one.values()) for one in found])

    found: dict[str, Any] = {}
    for removal in ("permute", "mean"):
        value = ModelValue(model, features, metric, labels.numpy(), removal, repeats=3)  # type: ignore[arg-type]
        result = contributions(value, list(CHANNELS))
        for row, name in enumerate(("IoU", "against the rival")):
            found[f"{name}, {removal}"] = {
                told: {
                    **{m: round(float(result.values[i, row, place]), 3) for i, m in enumerate(CHANNELS)},
                    "cooperation": round(float(result.cooperation[row, place]), 3),
                    "all": round(float(result.full[row, place]), 3),
                    "none": round(float(result.baseline[row, place]), 3),
                }
                for place, told in enumerate(TELLING)
            }
    return found


def information_record(found: PartialInformation) -> dict[str, Any]:
    """Parts in bits, each with the mean and p value of its null."""
    null = found.null or {}
    keys = ("redundancy", "unique rgb", "unique depth", "synergy")
    return {key: [round(found.values[key], 3), round(null[key].mean, 3), round(null[key].p_value, 3)] for key in keys}


def information(networks: Mapping[str, TwoStream], planted: PlantedScenes, *, seed: int = 0) -> dict[str, Any]:
    """What the two networks of one modality say of objects of one outline: by their answers, and by their level 3."""
    concepts = concepts_of(planted)
    answers, features = {}, {}
    for m in CHANNELS:
        network = networks[f"{m} alone"]
        with torch.no_grad():
            logits = torch.cat([network(inputs) for inputs, _ in batches_of(planted)])
        pooled, _ = by_region(logits.softmax(1), concepts, planted.objects)
        answers[m] = pooled[:, 1:, 0, 0].argmax(1)
        layer = {m: {"3": f"encoders.{m}.{ENCODER['3']}"}}
        features[m] = by_region(record(network, layer, planted)[m, "3"], concepts, planted.objects)[0][:, :, 0, 0].astype(float)
    outlines, labels = (np.array([getattr(one, name) for one in planted.table]) for name in ("outline", "label"))
    names = ("rgb", "depth")
    found: dict[str, Any] = {}
    for group, chosen in {
        "disc": ["disc"],
        "square": ["square"],
        "triangle, cross": ["triangle", "cross"],
        "diamond": ["diamond"],
    }.items():
        rows = np.isin(outlines, chosen)
        told = partial_information(
            *(answers[m][rows] for m in names), labels[rows], names=names, permutations=100, resamples=20, seed=seed
        )
        held = batch_partial_information(
            *(features[m][rows] for m in names), labels[rows], names=names, permutations=3, resamples=20, seed=seed
        )
        found[group] = {"answers": information_record(told), "features": information_record(held), "objects": int(rows.sum())}
    return found


def collaborations(
    place: str, network: TwoStream, apart: Streams, planted: PlantedScenes, concepts: Concepts
) -> tuple[list[LevelCollaboration], Aligned]:
    """Readings of all levels at which the streams are still two, with the level where they become one."""
    late = place == "late"
    recording = record(network, {m: streams_of(place, m, decoder=late) for m in CHANNELS}, planted)
    objects = aligned(recording, planted, concepts)

    def fused_of(one: TwoStream) -> dict[str, UnitAlignment]:
        if late:
            with torch.no_grad():
                maps = {"5": torch.cat([one(inputs) for inputs, _ in batches_of(planted)])}
        else:
            maps = {"3": record(one, {"fused": FUSED}, planted)["fused", "3"]}
        return {level: over_objects(values, planted, concepts) for level, values in maps.items()}

    levels = tuple(objects["rgb"])
    rows = {m: {n: apart.alignments[m][n] for n in levels} for m in CHANNELS}
    never = [fused_of(untrained_copy(network, seed)) for seed in range(UNTRAINED)]
    streams = Streams(recording, objects), Streams(apart.recording, rows)
    found = collaboration(*streams, fused_of(network), untrained=never, mode="auroc", margin=MARGIN)
    return list(found), objects


def collaboration_record(found: LevelCollaboration) -> dict[str, Any]:
    """As JSON values."""
    return {
        "verdict": found.verdict,
        "trend": found.trend,
        "similarity": [round(found.similarity_apart, 3), round(found.similarity_joint, 3)],
        "J": [round(found.apart.joint, 3), round(found.joint.joint, 3)],
        "kept": [found.shared_kept, found.special_kept],
        "gains": {null: [round(x, 4) for x in (gain.value, gain.low, gain.high)] for null, gain in found.gains.items()},
        "kept by training": {name: round(value, 3) for name, value in found.kept_by_training.items()},
        "evidence": list(found.evidence()),
        "together": concept_record(found.joint),
    }


def ablations(network: TwoStream, objects: Aligned, batches: Batches, *, seed: int) -> dict[str, Any]:
    """What classes lose, in IoU, without the units of level 3 that stand for a kind of concept; and random units beside."""
    found: dict[str, Any] = {}
    sets = LevelConcepts("3", {m: objects[m]["3"].detected("auroc") for m in CHANNELS})
    for m in CHANNELS:
        labels = unit_labels(objects[m]["3"], "auroc")
        groups = unit_groups(
            labels, {"shared": sets.shared, "special": sets.special(m)} | {k: n for k, n in KINDS.items() if k != "outline"}
        )
        layer = f"encoders.{m}.{ENCODER['3']}"
        rows = ablate(
            network,
            layer,
            groups,
            batches,
            IOU,
            key=(m, "3"),
            by="mean",
            draws=3,
            call=run_network,
            resamples=100,
            seed=seed,
        )  # type: ignore[arg-type]
        excess = excess_over_random(rows)
        found[m] = {}
        for row in rows:
            if row.group == "random":
                continue
            entry = found[m].setdefault(row.group, {"units": len(row.units), "change": {}, "beyond random": {}})
            entry["change"][row.metric] = [round(value, 3) for value in (row.change, row.low, row.high)]
            if (row.group, row.metric) in excess:
                entry["beyond random"][row.metric] = round(excess[row.group, row.metric], 3)
    return found
