"""References that learn nothing: how far is a segment from the known normal ones, and how much moves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, check_int
from ..graph.distances import mean_distance, nearest
from .bags import Bags, mean_over_crops, without_units


def nearest_neighbour_scores(train: Bags, test: Bags, *, neighbours: int = 3) -> Float[Tensor, "v n"]:
    """Mean distance to the nearest normal training segments, divided by its typical size and summed over modalities.

    Per modality: d_i = mean Euclidean distance to the k nearest segments of normal training videos, over columns scaled by
    the normal segments' deviation; divided by the mean distance between normal segments. No label but "normal" is used.

    Args:
        train: Training bags with features; only normal ones count. Finer units count as the mean of those present.
        test: Bags to score, with the same modalities.
        neighbours: k.

    Returns:
        Scores of the test bags, (V, N), higher is more abnormal.
    """
    check_int(neighbours, "neighbours", "nearest_neighbour_scores", low=1)
    normal = ~train.bag_labels
    if not bool(normal.any()):
        raise DataError("nearest neighbours need normal training videos", expected="at least one", got="none")
    train, test = without_units(train), without_units(test.with_modalities(list(train.inputs)))
    total: Tensor | float = 0.0
    for name, tensor in train.inputs.items():
        known = torch.unique(tensor[normal].flatten(0, 1), dim=0)
        deviation = known.std(0, unbiased=False)
        scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation)) * tensor.shape[-1] ** 0.5
        known = known / scale
        distance = nearest(test.inputs[name].flatten(0, 1) / scale, known, min(neighbours, len(known)))[0].mean(-1)
        total = total + (distance / mean_distance(known) if len(known) > 1 else distance)
    if not isinstance(total, Tensor):
        raise DataError("nearest neighbours need at least one modality")
    return mean_over_crops(total.reshape(-1, next(iter(test.inputs.values())).shape[1]), test.crops)


def nearest_unit_scores(
    train: Bags, test: Bags, groups: Mapping[str, int], *, neighbours: int = 3, most_novel: int = 8
) -> Float[Tensor, "v n"]:
    """Mean novelty of a segment's most novel units, summed over the modalities of finer units.

    Per unit: d_u = mean Euclidean distance to the k nearest units of its group (cells of the same row of the picture) in normal
    training videos, copies counted once, over columns scaled by the deviation of the normal units.

    Args:
        train: Training bags; only normal ones count.
        test: Bags to score.
        groups: The modalities to use, and the number of groups that their units come in.
        neighbours: k.
        most_novel: Units of a segment whose mean novelty is its score.

    Returns:
        Scores of the test bags, (V, N), higher is more abnormal; a segment without units scores 0.
    """
    check_int(neighbours, "neighbours", "nearest_unit_scores", low=1)
    check_int(most_novel, "most_novel", "nearest_unit_scores", low=1)
    if not groups:
        raise DataError("nearest cells need a modality of finer units", got=", ".join(test.inputs), fix="extract motion-cells")
    scores = []
    for name, count in groups.items():
        novelty = nearest_unit_distances(train, test.inputs[name], name, count, neighbours=neighbours)
        present = test.inputs[name][..., -1] > 0
        ranked = novelty.masked_fill(~present, float("-inf")).topk(min(most_novel, novelty.shape[-1]), dim=-1).values
        there = ranked > float("-inf")
        scores.append(ranked.masked_fill(~there, 0.0).sum(-1) / there.sum(-1).clamp_min(1))
    return mean_over_crops(torch.stack(scores).sum(0), test.crops)


def nearest_unit_distances(
    train: Bags, units: Float[Tensor, "b n u d_and_1"], modality: str, groups: int, *, neighbours: int = 3
) -> Float[Tensor, "b n u"]:
    """Mean distance of every unit to its nearest normal ones of the same group, see ``nearest_unit_scores``."""
    normal = ~train.bag_labels
    known = train.inputs[modality][normal]  # (B, N, U, D + 1)
    width, group_size = units.shape[-1] - 1, units.shape[2] // groups
    different = torch.unique(known.flatten(0, 2)[known[..., -1].flatten() > 0], dim=0)[:, :-1]
    if not len(different):
        raise DataError("nearest cells need normal training videos with units", where=f"modality '{modality}'", got="none")
    deviation = different.std(0, unbiased=False)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation)) * width**0.5
    distances = []
    for g in range(groups):
        first = g * (known.shape[2] // groups)
        there = known[:, :, first : first + known.shape[2] // groups].flatten(0, 2)
        there = torch.unique(there[there[:, -1] > 0], dim=0)[:, :-1] / scale
        mine = units[:, :, g * group_size : (g + 1) * group_size, :-1] / scale
        distances.append(nearest(mine, there, min(neighbours, len(there)))[0].mean(-1))
    return torch.cat(distances, dim=2)


def column_scores(bags: Bags, modality: str, column: int) -> Float[Tensor, "v n"]:
    """One column of one modality as the score, for example the flow energy of ``motion``."""
    values = without_units(bags.with_modalities([modality])).inputs[modality]
    if not 0 <= column < values.shape[-1]:
        raise DataError("there is no such column", where=modality, expected=f"0 to {values.shape[-1] - 1}", got=str(column))
    return mean_over_crops(values[..., column], bags.crops)
