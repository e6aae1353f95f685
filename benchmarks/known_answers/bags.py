"""Bags of features with a planted answer: which modality is abnormal, at which order of the operator, in which nodes.

An explanation can be judged against what was planted only where that is known, which no real video offers. These are features,
not videos: N nodes of D numbers in each of three modalities (and in no fourth one), drawn from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64

from lego_fusion.errors import check_choice, check_int, check_number

PlantedKind = Literal["single", "redundant", "synergy"]
KINDS: tuple[PlantedKind, ...] = ("single", "redundant", "synergy")
NAMES = ("alpha", "beta", "gamma")


@dataclass(frozen=True, eq=False)
class PlantedBags:
    """Bags whose explanation is known.

    Args:
        kind: What was planted, see ``plant_bags``.
        features: Of each modality by name, (V, N, D).
        labels: True where a bag holds abnormal nodes, (V,).
        nodes: True where a node is abnormal, (V, N).
        shares: How much of the abnormality belongs to each modality; they add up to 1.
        order: Order of the operator's term that tells the abnormal nodes.
        cooperation: Sign of what the modalities are worth together beyond the sum of what each is worth alone.
    """

    kind: PlantedKind
    features: dict[str, Float32[np.ndarray, "v n d"]]
    labels: Bool[np.ndarray, " v"]
    nodes: Bool[np.ndarray, "v n"]
    shares: dict[str, float]
    order: int
    cooperation: int


def plant_bags(
    kind: str,
    *,
    videos: int = 200,
    nodes: int = 16,
    width: int = 8,
    abnormal: int = 4,
    noise: float = 0.3,
    spread: float = 0.5,
    seed: int = 0,
) -> PlantedBags:
    """Draw bags of which every second one is abnormal in ``abnormal`` consecutive nodes.

    ``"single"``: all features of ``alpha`` lie around a direction, those of abnormal nodes around its opposite. Order 1,
    share 1, nothing to cooperate. ``"redundant"``: ``alpha`` and ``beta`` both do so, in the same nodes: shares 1/2, order 1,
    and either alone is worth as much as both, so cooperation is negative. ``"synergy"``: node i has a direction u_i of its
    own; ``alpha`` is a u_i and ``beta`` is b u_i, abnormal nodes having -b u_i, with a and b > 0 (log-normal).
    Either alone is distributed alike in both classes; only the agreement of the two relations, their product, tells: order 2,
    shares 1/2, positive cooperation. The rest is noise, as is ``gamma`` always.

    Args:
        kind: One of ``KINDS``.
        videos: V, at least 4.
        nodes: N.
        width: D of every modality.
        abnormal: Abnormal nodes of an abnormal bag, less than N.
        noise: Standard deviation of the Gaussian noise on every feature.
        spread: Deviation of the logarithm of a and b, >= 0.
        seed: Of everything that is drawn.

    Raises:
        ParameterError: If an argument is out of range.

    Example:
        >>> bags = plant_bags("synergy", videos=10, seed=1)
        >>> bags.features["alpha"].shape, bags.order, bags.shares["beta"], int(bags.nodes.sum())
        ((10, 16, 8), 2, 0.5, 20)
    """
    chosen: PlantedKind = check_choice(kind, "kind", "plant_bags", KINDS)
    check_int(videos, "videos", "plant_bags", low=4)
    check_int(nodes, "nodes", "plant_bags", low=2)
    check_int(width, "width", "plant_bags", low=2)
    check_int(abnormal, "abnormal", "plant_bags", low=1, high=nodes - 1)
    check_number(noise, "noise", "plant_bags", low=0.0)
    check_number(spread, "spread", "plant_bags", low=0.0)
    random = np.random.default_rng([seed, KINDS.index(chosen)])
    labels = np.arange(videos) % 2 == 1
    where = _spans(labels, nodes, abnormal, random)
    sense = np.where(where, -1.0, 1.0)[..., None]  # (V, N, 1)
    features = {name: noise * random.normal(size=(videos, nodes, width)) for name in NAMES}
    if kind == "synergy":
        common = _directions(random, videos, nodes, width)
        sizes = np.exp(spread * random.normal(size=(2, videos, nodes, 1)))
        features["alpha"] += sizes[0] * common
        features["beta"] += sizes[1] * sense * common
        features["gamma"] += np.exp(spread * random.normal(size=(videos, nodes, 1))) * _directions(random, videos, nodes, width)
    else:
        for name in NAMES[: 2 if kind == "redundant" else 1]:
            features[name] += sense * _directions(random, 1, 1, width)
    shares = {"alpha": 1.0, "beta": 0.0, "gamma": 0.0} if kind == "single" else {"alpha": 0.5, "beta": 0.5, "gamma": 0.0}
    order, cooperation = {"single": (1, 0), "redundant": (1, -1), "synergy": (2, 1)}[kind]
    stored = {name: values.astype(np.float32) for name, values in features.items()}
    return PlantedBags(chosen, stored, labels, where, shares, order, cooperation)


def _spans(labels: np.ndarray, nodes: int, abnormal: int, random: np.random.Generator) -> Bool[np.ndarray, "v n"]:
    """One span of abnormal nodes in each abnormal bag."""
    first = random.integers(0, nodes - abnormal + 1, size=len(labels))[:, None]
    place = np.arange(nodes)
    inside: Bool[np.ndarray, "v n"] = (place >= first) & (place < first + abnormal) & labels[:, None]
    return inside


def _directions(random: np.random.Generator, videos: int, nodes: int, width: int) -> Float64[np.ndarray, "v n d"]:
    """Unit vectors in random directions."""
    drawn = random.normal(size=(videos, nodes, width))
    unit: Float64[np.ndarray, "v n d"] = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    return unit
