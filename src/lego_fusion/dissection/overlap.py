"""How much the places where a unit is most active overlap with a concept, and how much they could at best.

Counts of pixels are additive, so everything here follows from sums over images, whichever batches they came in, and any
resample of the images is a weighted sum of the same counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int
from numpy.typing import NDArray

from ..errors import ParameterError, check_choice, check_number
from .auroc import RankedRegions

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
