"""Detectors on bags with a planted explanation: the settings that every benchmark on them shares.

200 bags to train on and 100 to test, 8 nodes, 2 of them abnormal, 4 features, noise 0.15. The relation is the dot product
without centring (the planted sizes and signs are the signal), with 24 references. ``prior=0`` lets A leave its start, which is
the mean of the first orders; 200 steps of 0.02. They were chosen on seeds 0 to 4; benchmarks use other seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lego_fusion.data.planted import PlantedBags, PlantedKind, plant_bags
from lego_fusion.detect.bags import Bags, fit_statistics
from lego_fusion.detect.detector import Detector
from lego_fusion.detect.train import TrainingConfig, fit
from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.lego import LegoFusion

TRAIN, TEST, NODES, WIDTH, ABNORMAL = 200, 100, 8, 4, 2
TRAINING = TrainingConfig(prior=0.0, steps=200, learning_rate=2e-2, k=ABNORMAL, operator_order_decay=0.1)


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


def planted(kind: PlantedKind, seed: int) -> Planted:
    made = plant_bags(kind, videos=TRAIN + TEST, nodes=NODES, width=WIDTH, abnormal=ABNORMAL, noise=0.15, seed=seed)
    features = {name: torch.from_numpy(values) for name, values in made.features.items()}
    names = tuple(f"{kind}-{seed}-{number}" for number in range(TRAIN + TEST))
    bags = Bags(names, torch.from_numpy(made.labels), 1, features)
    train, test = bags.select(range(TRAIN)), bags.select(range(TRAIN, TRAIN + TEST))
    return Planted(made, train, test, torch.from_numpy(made.nodes[TRAIN:]))


def lego(data: Planted, seed: int, order: int = 2) -> LegoFusion:
    options = {"relations": "dot", "centre": False, "scale_columns": False, "references": 24, "noise_gate": False}
    return LegoFusion(data.widths, nodes=NODES, order=order, seed=seed, **options)


def trained(fusion: Fusion, data: Planted, training: TrainingConfig) -> Detector:
    fit_statistics(fusion, data.train)
    detector = Detector(fusion, seed=training.seed)
    fit(detector, data.train, training)
    return detector.eval()
