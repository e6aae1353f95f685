"""Reference units: known-normal segments that the nodes of every video relate to.

Where most of a video is abnormal, being unlike the rest of one's own video means the opposite of abnormal. So nodes relate
to K segments taken from *normal training videos* instead, and R is (B, N, K). References are medoids, real segments that can
be shown: "unlike every known normal; the nearest is this one". The same K segments serve every modality, so that the columns
of all graphs mean the same thing and can be multiplied.

A training video must not meet itself: its relations are *cross-fitted*, to references chosen among the other normal videos.
Predictions use references chosen among all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import DataError, check_int


def joint_distance(dissimilarities: Sequence[Float[Tensor, "u u"]]) -> Float[Tensor, "u u"]:
    """Mean over modalities of each one's dissimilarity, divided by its own mean so that no modality outweighs another.

    Args:
        dissimilarities: One (U, U) matrix per modality, non-negative with zero diagonal.

    Raises:
        DataError: If no matrix is given.

    Example:
        >>> joint_distance([torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([[0.0, 30.0], [30.0, 0.0]])])
        tensor([[0., 2.],
                [2., 0.]])
    """
    if not dissimilarities:
        raise DataError("there is no modality to measure distances in", expected="one (U, U) matrix per modality")
    total = torch.zeros_like(dissimilarities[0])
    for matrix in dissimilarities:
        mean = matrix.mean()
        total = total + matrix / torch.where(mean > 0, mean, torch.ones_like(mean))
    return total / len(dissimilarities)


def farthest_points(distance: Float[Tensor, "u u"], count: int) -> Int[Tensor, " k"]:
    """Choose up to ``count`` units that cover all others: the medoid first, then always the one farthest from those chosen.

    Units at distance zero from a chosen one add nothing, so fewer than ``count`` may be returned. Deterministic: ties go to
    the first unit.

    Args:
        distance: (U, U), symmetric, non-negative, zero diagonal.
        count: K >= 1.

    Returns:
        Indices of the chosen units, in order of choice, all different.

    Raises:
        DataError: If there is no unit.

    Example:
        >>> positions = torch.tensor([0.0, 1.0, 1.0, 9.0])
        >>> farthest_points((positions[:, None] - positions).abs(), 3).tolist()
        [1, 3, 0]
    """
    check_int(count, "count", "farthest_points", low=1)
    if distance.shape[0] == 0:
        raise DataError("there is no unit to choose references from", expected="segments of normal training videos")
    chosen = [int(distance.sum(1).argmin())]
    nearest = distance[chosen[0]].clone()
    while len(chosen) < count:
        candidate = int(nearest.argmax())
        if nearest[candidate] <= 0:
            break
        chosen.append(candidate)
        nearest = torch.minimum(nearest, distance[candidate])
    return torch.tensor(chosen, device=distance.device)


def choose_references(distance: Float[Tensor, "u u"], candidates: Bool[Tensor, " u"], count: int) -> Int[Tensor, " k"]:
    """``farthest_points`` among the candidate units only, as indices into all units."""
    index = candidates.nonzero()[:, 0]
    return index[farthest_points(distance[index][:, index], count)]


def cross_fitted_references(
    distance: Float[Tensor, "u u"], normal: Bool[Tensor, " u"], videos: Int[Tensor, " u"], count: int
) -> tuple[Int[Tensor, " k"], dict[int, Int[Tensor, " k"]]]:
    """References for prediction, and for each normal training video references from the other normal videos.

    All have the same number, the largest that every choice can offer up to ``count``, so that one head reads them all.

    Args:
        distance: Between all training units, (U, U).
        normal: True for units of normal videos, (U,).
        videos: Video index of each unit, (U,).
        count: K, the number wanted.

    Returns:
        Indices (K',) chosen among all normal units, and a dict from each normal video's index to its own (K',).

    Raises:
        DataError: If fewer than two normal videos are given: a single one cannot meet references that are not its own.
    """
    normal_videos = sorted(set(videos[normal].tolist()))
    if len(normal_videos) < 2:
        raise DataError(
            "reference units are cross-fitted by video",
            expected="at least 2 normal training videos",
            got=str(len(normal_videos)),
            fix="add normal training videos, or use references=0",
        )
    everyone = choose_references(distance, normal, count)
    sums = {video: distance[:, normal & (videos == video)].sum(1, dtype=torch.float64) for video in normal_videos}
    total = torch.stack(list(sums.values())).sum(0)
    for_video = {
        video: _farthest_among(distance, total - sums[video], normal & (videos != video), count) for video in normal_videos
    }
    fewest = min(len(index) for index in (everyone, *for_video.values()))
    return everyone[:fewest], {video: index[:fewest] for video, index in for_video.items()}


def _farthest_among(distance: Tensor, sums: Tensor, candidates: Tensor, count: int) -> Tensor:
    """``choose_references`` without a copy of the candidates' distances, given each unit's sum of distances to them."""
    chosen = [int(sums.masked_fill(~candidates, float("inf")).argmin())]
    nearest = distance[chosen[0]].masked_fill(~candidates, 0.0)
    while len(chosen) < count:
        candidate = int(nearest.argmax())
        if nearest[candidate] <= 0:
            break
        chosen.append(candidate)
        nearest = torch.minimum(nearest, distance[candidate])
    return torch.tensor(chosen, device=distance.device)
