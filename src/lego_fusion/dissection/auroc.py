"""The area under the ROC curve of every unit for every concept, by ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import NDArray


def rank_auroc(
    maps: Float[np.ndarray, "n k h w"], codes: NDArray[Any], members: Bool[np.ndarray, "v c"]
) -> Float64[np.ndarray, "k c"]:
    """P(a pixel of the concept is above one outside) + P(they tie) / 2, exact on the pixels given (Mann-Whitney).

    AUROC = (sum of the ranks of the concept's pixels - p (p + 1) / 2) / (p (n - p)), p of n pixels in the concept. Ranks are
    summed for each combination of concepts, so that the number of concepts costs nothing.

    Args:
        maps: Maps of the units.
        codes: Combination of concepts of every pixel (n, h, w).
        members: Which concepts are in each combination.

    Returns:
        In [0, 1]; NaN for concepts that are nowhere or everywhere.
    """
    pixels, combinations = codes.size, codes.ravel()
    weights = members.astype(np.float64)
    inside = np.bincount(combinations, minlength=len(members)) @ weights
    sums = np.stack([rank_sums(maps[:, unit].ravel(), combinations, len(members)) for unit in range(maps.shape[1])]) @ weights
    room = inside * (pixels - inside)
    found: Float64[np.ndarray, "k c"] = np.divide(
        sums - inside * (inside + 1) / 2, room, out=np.full(sums.shape, np.nan), where=room > 0
    )
    return found


def rank_sums(values: NDArray[Any], groups: NDArray[Any], count: int) -> Float64[np.ndarray, " v"]:
    """Sum of the ranks of each group, 1 for the smallest value, ties at their mean.

    Example:
        >>> rank_sums(np.array([3.0, 1.0, 3.0, 2.0]), np.array([0, 0, 1, 1]), 2).tolist()
        [4.5, 5.5]
    """
    order = np.argsort(values)
    ranked = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    ends = np.append(starts[1:], len(values))
    ranks = np.repeat((starts + ends + 1) / 2, ends - starts)
    return np.bincount(groups[order], weights=ranks, minlength=count)


@dataclass(frozen=True, eq=False)
class RankedRegions:
    """The ranks of R regions in each of K units, from which the area follows for any weights of the images; see ``rank``.

    Args:
        below: Number of regions that are below each region (K, R).
        up_to: Number of regions that are not above it (K, R), itself among them.
        order: Regions from the lowest up (K, R).
        members: Which concepts each region has (R, C).
        images: Position of the image of each region (R,).
    """

    below: Int[np.ndarray, "k r"]
    up_to: Int[np.ndarray, "k r"]
    order: Int[np.ndarray, "k r"]
    members: Bool[np.ndarray, "r c"]
    images: Int[np.ndarray, " r"]

    @classmethod
    def rank(
        cls, values: Float[np.ndarray, "r k"], members: Bool[np.ndarray, "r c"], images: Int[np.ndarray, " r"]
    ) -> RankedRegions:
        """Rank the values of every unit.

        Example:
            >>> values, members = np.array([[1.0], [2.0], [3.0]]), np.array([[False], [True], [True]])
            >>> ranked = RankedRegions.rank(values, members, np.array([0, 0, 1]))
            >>> ranked.auroc().tolist(), ranked.auroc(np.array([1.0, 0.0])).tolist()
            ([[1.0]], [[1.0]])
        """
        order = np.argsort(values.T, axis=1).astype(np.int32)
        below, up_to = np.empty_like(order), np.empty_like(order)
        for unit, column in enumerate(values.T):
            ranked = column[order[unit]]
            below[unit] = np.searchsorted(ranked, column, side="left")
            up_to[unit] = np.searchsorted(ranked, column, side="right")
        return cls(below, up_to, order, members, images)

    def auroc(self, weights: Float64[np.ndarray, " n"] | None = None) -> Float64[np.ndarray, "k c"]:
        """P(a region of the concept is above one without) + P(they tie) / 2; NaN for concepts that are nowhere or everywhere.

        Args:
            weights: How often each image counts; once if None.
        """
        if weights is None:
            weight, middle = np.ones(len(self.images)), (self.below + self.up_to) / 2.0
        else:
            weight = weights[self.images]
            sums = np.zeros((len(self.order), len(weight) + 1))
            np.cumsum(weight[self.order], axis=1, out=sums[:, 1:])
            middle = (np.take_along_axis(sums, self.below, 1) + np.take_along_axis(sums, self.up_to, 1)) / 2
        members = self.members.astype(np.float64)
        inside = weight @ members
        room = inside * (weight.sum() - inside)
        found: Float64[np.ndarray, "k c"] = np.divide(
            (middle * weight) @ members - inside**2 / 2,
            room,
            out=np.full((len(self.order), members.shape[1]), np.nan),
            where=room > 0,
        )
        return found

    def relabelled(self, order: Int[np.ndarray, " r"]) -> RankedRegions:
        """With the concepts of other regions."""
        return replace(self, members=self.members[order])
