"""How much the places where a unit is most active overlap with a concept, how much they could, and the AUROC by ranks.

Counts of pixels are additive, so everything here follows from sums over images, whichever batches they came in, and any
resample of the images is a weighted sum of the same counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import NDArray
from scipy.stats import rankdata

from ..errors import ParameterError, check_choice, check_number


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
    ranks = [rankdata(maps[:, unit].ravel()) for unit in range(maps.shape[1])]
    sums = np.stack([np.bincount(combinations, weights=row, minlength=len(members)) for row in ranks]) @ weights
    room = inside * (pixels - inside)
    found: Float64[np.ndarray, "k c"] = np.divide(
        sums - inside * (inside + 1) / 2, room, out=np.full(sums.shape, np.nan), where=room > 0
    )
    return found


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


Array = NDArray[Any]
Mode = Literal["stock", "normalised", "auroc"]
CUTS: dict[str, float] = {"stock": 0.04, "normalised": 0.2, "auroc": 0.8}
"""Default cut of each mode. 0.04 on the plain IoU is Network Dissection's; the other two are ours."""


def frequency_ceiling(q: Float64[np.ndarray, "*s"], p: Float64[np.ndarray, "*s"]) -> Float64[np.ndarray, "*s"]:
    """The largest IoU that a set of a share q of the pixels can have with a concept of a share p: min(q / p, p / q).

    Args:
        q: Share of the pixels where a unit is active, in [0, 1].
        p: Share of the pixels that belong to the concept.

    Returns:
        In [0, 1]; 0 where one is 0.

    Example:
        >>> frequency_ceiling(np.array([0.005]), np.array([0.125])).tolist()
        [0.04]
    """
    small, large = np.minimum(q, p), np.maximum(q, p)
    return _divide(small, large)


@dataclass(frozen=True, eq=False)
class UnitOverlap:
    """Sums of pixel counts over images, K units and C concepts, and what follows from them.

    Args:
        intersection: Pixels where the unit is active and the concept is (K, C).
        unit_area: Pixels where the unit is active (K,).
        concept_area: Pixels of the concept (C,).
        pixels: All pixels.
        auroc: Area under the ROC curve (K, C), NaN where it is not defined; None if it was not computed.
    """

    intersection: Float64[np.ndarray, "k c"]
    unit_area: Float64[np.ndarray, " k"]
    concept_area: Float64[np.ndarray, " c"]
    pixels: float
    auroc: Float64[np.ndarray, "k c"] | None = None

    @cached_property
    def present(self) -> Bool[np.ndarray, " c"]:
        """Concepts that occur at all."""
        return self.concept_area > 0

    @property
    def attained(self) -> Float64[np.ndarray, " k"]:
        """Share q of the pixels where each unit is active: below the q asked for where values tie at the threshold."""
        return self.unit_area / self.pixels

    @cached_property
    def iou(self) -> Float64[np.ndarray, "k c"]:
        """|M & Y| / |M | Y| (K, C); NaN for concepts that never occur."""
        union = self.unit_area[:, None] + self.concept_area - self.intersection
        return np.where(self.present, _divide(self.intersection, union), np.nan)

    @cached_property
    def ceiling(self) -> Float64[np.ndarray, "k c"]:
        """The IoU that a perfect detector with the attained q of each unit would have (K, C)."""
        q, p = np.broadcast_arrays(self.attained[:, None], self.concept_area / self.pixels)
        return frequency_ceiling(q, p)

    @cached_property
    def normalised(self) -> Float64[np.ndarray, "k c"]:
        """IoU / ceiling in [0, 1], 0 for a unit that is never active, NaN for concepts that never occur."""
        return np.where(self.present, _divide(np.nan_to_num(self.iou), self.ceiling), np.nan)

    @cached_property
    def above_chance(self) -> Float64[np.ndarray, "k c"]:
        """(IoU - chance) / (ceiling - chance): 1 for a perfect detector, 0 on average for pixels drawn at random.

        The chance IoU is q p / (q + p - q p). IoU / ceiling alone is about p by chance for a concept that covers a share
        p >> q of the pixels, so a cut on it would call every unit a detector of the background.
        """
        q, p = self.attained[:, None], self.concept_area / self.pixels
        chance = _divide(q * p, q + p - q * p)
        room = self.ceiling - chance
        value = _divide(np.nan_to_num(self.iou) - chance, np.where(room > 1e-12, room, 0.0))
        return np.where(self.present, value, np.nan)

    def scores(self, mode: Mode) -> Float64[np.ndarray, "k c"]:
        """What the mode reads (K, C), 0 where it is not defined: IoU, ``above_chance``, or the area under the ROC curve."""
        check_choice(mode, "mode", "detects", ("stock", "normalised", "auroc"))
        if mode != "auroc":
            return np.asarray(np.nan_to_num(self.iou if mode == "stock" else self.above_chance))
        if self.auroc is None:
            raise ParameterError("the area under the ROC curve was not computed", fix="align with auroc_pixels of at least 1")
        return np.asarray(np.nan_to_num(self.auroc))

    def detects(self, mode: Mode = "normalised", cut: float | None = None) -> Bool[np.ndarray, "k c"]:
        """Which unit detects which concept (K, C).

        Args:
            mode: "stock": IoU > 0.04, which misses every concept above q / 0.04 of the pixels. "normalised": the share of
                the way from chance to the ceiling, ``above_chance``, > 0.2. "auroc": above 0.8.
            cut: Instead of these, in [0, 1].
        """
        scores = self.scores(mode)
        return np.asarray(scores > check_number(CUTS[mode] if cut is None else cut, "cut", "detects", low=0.0, high=1.0))

    @property
    def profile(self) -> Float64[np.ndarray, " c"]:
        """Mean over units of IoU / ceiling (C,)."""
        return np.asarray(self.normalised.mean(axis=0))

    @property
    def best(self) -> Float64[np.ndarray, " c"]:
        """Highest ``above_chance`` of any unit (C,).

        Units for two concepts that exclude each other cancel in ``profile``: what one has above chance the other has
        below. They do not cancel here; but of many units one comes out high by chance, so layers should be as wide.
        """
        return np.asarray(self.above_chance.max(axis=0))


@dataclass(frozen=True, eq=False)
class OverlapCounts:
    """Pixel counts of every image.

    Args:
        intersection: (N, K, C).
        unit_area: (N, K).
        concept_area: (N, C).
        pixels: Pixels of one image, or of each (N,): where regions are read, how many it has.
        ranked: Ranks of regions, for the area under the ROC curve of any resample; None where it is not read.
    """

    intersection: Int[np.ndarray, "n k c"]
    unit_area: Int[np.ndarray, "n k"]
    concept_area: Int[np.ndarray, "n c"]
    pixels: int | Int[np.ndarray, " n"]
    ranked: RankedRegions | None = None

    def total(self) -> UnitOverlap:
        """Summed over all images."""
        return next(self.totals(np.ones((1, len(self.unit_area)))))

    def summed(self) -> OverlapCounts:
        """The counts of all images as if they were one."""
        both, units, concepts = (
            part.sum(axis=0, dtype=np.int64, keepdims=True) for part in (self.intersection, self.unit_area, self.concept_area)
        )
        return OverlapCounts(both, units, concepts, int(np.broadcast_to(self.pixels, len(self.unit_area)).sum()))

    def totals(self, weights: Float64[np.ndarray, "r n"]) -> Iterator[UnitOverlap]:
        """Summed with each of r rows of weights: how often each image counts."""
        samples, units, concepts = self.intersection.shape
        both = (weights @ self.intersection.reshape(samples, -1).astype(np.float64)).reshape(-1, units, concepts)
        unit_area, concept_area = weights @ self.unit_area, weights @ self.concept_area
        for place, row in enumerate(weights):
            auroc = None if self.ranked is None else self.ranked.auroc(row)
            yield UnitOverlap(both[place], unit_area[place], concept_area[place], float((row * self.pixels).sum()), auroc)


def _divide(over: Array, under: Array) -> Array:
    """Quotient of two arrays, and 0 where the lower one is 0."""
    over, under = np.broadcast_arrays(over, under)
    return np.asarray(np.divide(over, under, out=np.zeros(over.shape), where=under != 0))
