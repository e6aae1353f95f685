"""What silencing units costs the classes of a segmentation: their IoU, and the change beyond that of random units."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lego_fusion.dissection.ablation import ImageMetric
from lego_fusion.dissection.records import Ablation
from lego_fusion.errors import ParameterError

Array = NDArray[Any]


def excess_over_random(found: Iterable[Ablation]) -> dict[tuple[str, str], float]:
    """Change by (group, metric) minus the mean change of the random units that match the group.

    A layer may depend on how many units it has left, whatever they stand for: what a group does beyond that is its own.
    Groups without random units are left out.

    Example:
        >>> own = Ablation("late", "rgb", "special", (0, 1), 0.9, 0.3, -0.6, -0.7, -0.5, "disc")
        >>> other = Ablation("late", "rgb", "random", (2, 3), 0.9, 0.8, -0.1, -0.2, 0.0, "disc", matched="special")
        >>> excess_over_random([own, other])
        {('special', 'disc'): -0.5}
    """
    rows = list(found)
    excess = {}
    for row in rows:
        chance = [other.change for other in rows if other.matched == row.group and other.metric == row.metric]
        if row.group != "random" and chance:
            excess[row.group, row.metric] = row.change - sum(chance) / len(chance)
    return excess


def class_iou(classes: Mapping[str, int], groups: Mapping[str, Collection[str]] | None = None) -> ImageMetric:
    """IoU of classes in a segmentation: the sum over images of |told & true| over that of |told | true|.

    Args:
        classes: Label of each class, by name. Outputs are logits (b, L, H, W), targets labels (b, H, W).
        groups: Names of the classes of which a mean is taken, by name of the mean; None: each class, and "mean" of all.

    Raises:
        ParameterError: If a group names a class that is not there.

    Example:
        >>> metric = class_iou({"plane": 0, "disc": 1})
        >>> logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # told: plane, disc
        >>> metric.values(metric.rows(logits, torch.tensor([[[1, 1]]])).numpy())
        {'plane': 0.0, 'disc': 0.5, 'mean': 0.25}
    """
    wanted = {name: (name,) for name in classes} | {"mean": tuple(classes)} if groups is None else groups
    unknown = sorted({name for names in wanted.values() for name in names} - set(classes))
    if unknown:
        raise ParameterError(f"no class '{unknown[0]}' to take the IoU of", expected=", ".join(classes))
    labels = torch.tensor(list(classes.values()))
    places = {name: [list(classes).index(one) for one in names] for name, names in wanted.items()}

    def rows(outputs: Tensor, targets: Tensor) -> Tensor:
        told = outputs.argmax(1)[:, None] == labels.to(outputs.device)[:, None, None]  # (b, C, H, W)
        true = targets[:, None] == labels.to(targets.device)[:, None, None]
        return torch.stack([(told & true).sum((2, 3)), (told | true).sum((2, 3))], 1)  # (b, 2, C)

    def values(counts: Array) -> dict[str, float]:
        both, either = counts.sum(axis=0, dtype=np.float64)
        iou = np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)
        return {name: float(iou[chosen].mean()) for name, chosen in places.items()}

    return ImageMetric(rows, values)
