"""References that learn nothing: how far is a segment from the known normal ones, and how much moves."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, check_int
from .bags import Bags, mean_over_crops


def nearest_neighbour_scores(train: Bags, test: Bags, *, neighbours: int = 3) -> Float[Tensor, "v n"]:
    """Mean distance to the nearest normal training segments, divided by its typical size and summed over modalities.

    Per modality: d_i = mean Euclidean distance to the k nearest segments of normal training videos, over columns scaled by
    the normal segments' deviation; divided by the mean distance between normal segments. No label but "normal" is used.

    Args:
        train: Training bags with features; only normal ones count.
        test: Bags to score, with the same modalities.
        neighbours: k.

    Returns:
        Scores of the test bags, (V, N), higher is more abnormal.
    """
    check_int(neighbours, "neighbours", "nearest_neighbour_scores", low=1)
    normal = ~train.bag_labels
    if not bool(normal.any()):
        raise DataError("nearest neighbours need normal training videos", expected="at least one", got="none")
    test = test.with_modalities(list(train.inputs))
    total: Tensor | float = 0.0
    for name, tensor in train.inputs.items():
        known = torch.unique(tensor[normal].flatten(0, 1), dim=0)
        deviation = known.std(0, unbiased=False)
        scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation)) * tensor.shape[-1] ** 0.5
        rows = test.inputs[name].flatten(0, 1) / scale
        distances = torch.cdist(rows, known / scale, compute_mode="donot_use_mm_for_euclid_dist")  # exact far from 0, too
        distance = distances.topk(min(neighbours, len(known)), largest=False).values.mean(-1)
        typical = torch.pdist(known / scale).mean() if len(known) > 1 else torch.ones(())
        total = total + distance / typical
    if not isinstance(total, Tensor):
        raise DataError("nearest neighbours need at least one modality")
    return mean_over_crops(total.reshape(-1, next(iter(test.inputs.values())).shape[1]), test.crops)


def column_scores(bags: Bags, modality: str, column: int) -> Float[Tensor, "v n"]:
    """One column of one modality as the score, for example the flow energy of ``motion``."""
    values = bags.with_modalities([modality]).inputs[modality]
    if not 0 <= column < values.shape[-1]:
        raise DataError("there is no such column", where=modality, expected=f"0 to {values.shape[-1] - 1}", got=str(column))
    return mean_over_crops(values[..., column], bags.crops)
