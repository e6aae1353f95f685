"""Detectors on bags with a planted explanation: the model and the settings that every benchmark on them shares.

200 bags to train on and 100 to test, 8 nodes, 2 of them abnormal, 4 features, noise 0.15. The model is the smallest one whose
terms can be read: dot products with 24 known normal nodes (the planted sizes and signs are the signal), a joint operator that
starts at the mean of the first orders, and a head on its sorted rows; 200 steps of 0.02. They were chosen on seeds 0 to 4;
benchmarks use other seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from known_answers.bags import PlantedBags, PlantedKind, plant_bags
from lego_fusion.explain.terms import Terms, operator_terms
from lego_fusion.fusion.base import Fusion, FusionOutput
from lego_fusion.graph.operator import GraphOperator
from lego_fusion.graph.references import evenly_thinned
from lego_fusion.learn.bags import Bags, fit_frozen
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.train import fit

TRAIN, TEST, NODES, WIDTH, ABNORMAL = 200, 100, 8, 4, 2
TRAINING = TrainingConfig(steps=200, learning_rate=2e-2, k=ABNORMAL, operator_order_decay=0.1)


class KnownDots(Fusion):
    """Graphs of dot products with some nodes of normal bags, fused by a learned operator, rows from most to least alike."""

    kind: ClassVar[str] = "known-dots"
    has_frozen_stage = True
    row_order = "sorted"

    def __init__(self, modalities: Mapping[str, int], *, references: int = 24, order: int = 2, seed: int = 0) -> None:
        super().__init__(modalities)
        self.out_features = self.references = references
        self.arguments = {"references": references, "order": order, "seed": seed}
        for name, width in self.modalities.items():
            self.register_buffer(f"known_{name}", torch.zeros(references, width))
        self.operator = GraphOperator(list(self.modalities), order, seed=seed)

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal fusion."""
        return {"modalities": self.modalities, **self.arguments}

    def fit(self, features: Mapping[str, Tensor], labels: Tensor, video_ids: Tensor, mask: Tensor | None = None) -> None:
        """Keep some nodes of normal bags, evenly."""
        normal = {name: features[name][~labels].flatten(0, 1) for name in self.modalities}
        chosen = evenly_thinned(torch.arange(len(normal[next(iter(normal))])), self.references)
        for name, nodes in normal.items():
            self.get_buffer(f"known_{name}").copy_(nodes[chosen])

    def transform(self, features: Mapping[str, Tensor], mask: Tensor | None = None, **asked: Any) -> dict[str, Tensor]:
        """Dot products with what is known."""
        return {name: features[name] @ self.get_buffer(f"known_{name}").T for name in self.modalities}

    def operator_graphs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The graphs themselves."""
        return dict(inputs)

    def forward(self, inputs: Mapping[str, Tensor], mask: Tensor | None = None) -> FusionOutput:
        """Sorted rows of the fused graph."""
        graph = self.operator(inputs, square=False)
        return FusionOutput(graph.sort(dim=-1, descending=True).values, graph)


@dataclass
class Planted:
    """What was planted, and the bags to train and test on."""

    made: PlantedBags
    train: Bags
    test: Bags
    truth: Tensor  # (V, N), of the test bags

    @property
    def widths(self) -> dict[str, int]:
        """D of each modality."""
        return dict.fromkeys(self.made.features, WIDTH)

    @property
    def normal(self) -> Bags:
        """The normal training bags."""
        return self.train.select((~self.train.labels).nonzero()[:, 0])


def planted(kind: PlantedKind, seed: int, *, train: int = TRAIN, test: int = TEST) -> Planted:
    made = plant_bags(kind, videos=train + test, nodes=NODES, width=WIDTH, abnormal=ABNORMAL, noise=0.15, seed=seed)
    features = {name: torch.from_numpy(values) for name, values in made.features.items()}
    names = tuple(f"{kind}-{seed}-{number}" for number in range(train + test))
    bags = Bags(names, torch.from_numpy(made.labels), 1, features)
    return Planted(
        made, bags.select(range(train)), bags.select(range(train, train + test)), torch.from_numpy(made.nodes[train:])
    )


def readable(data: Planted, seed: int, order: int = 2) -> KnownDots:
    return KnownDots(data.widths, order=order, seed=seed)


def terms(fusion: Any, inputs: Mapping[str, Tensor]) -> Terms:
    """The terms of a fusion's operator over its frozen inputs."""
    return operator_terms(fusion.operator, inputs, square=fusion.relates_within)


def trained(fusion: Fusion, data: Planted, training: TrainingConfig) -> Detector:
    fit_frozen(fusion, data.train)
    detector = Detector(fusion, seed=training.seed)
    fit(detector, data.train, training)
    return detector.eval()
