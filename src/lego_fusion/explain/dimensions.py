"""Which dimensions of two embeddings are common to both and which are each one's own, without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ..errors import DataError, check_int, check_number
from .activations import centred, same_samples


@dataclass(frozen=True, eq=False)
class DimensionSplit:
    """Common and unique dimensions of two embeddings of width D.

    Args:
        correlation: C (D, D), correlation of dimension i of the first with dimension j of the second; 0 where one is constant.
        common: C_ii >= threshold (D,).
        constant: Dimensions without variance in one of the two (D,); they are neither common nor unique.
        threshold: The least C_ii that counts as common.
        chance: About 95 % of the C_ii of unrelated embeddings lie within this of zero: 1.96 / sqrt(n).
        counts: Histogram of the C_ii that are not constant (bins,).
        edges: Its edges in [-1, 1], (bins + 1,).
    """

    correlation: Float64[np.ndarray, "d d"]
    common: Bool[np.ndarray, " d"]
    constant: Bool[np.ndarray, " d"]
    threshold: float
    chance: float
    counts: Int64[np.ndarray, " k"]
    edges: Float64[np.ndarray, " k+1"]

    @property
    def diagonal(self) -> Float64[np.ndarray, " d"]:
        """C_ii (D,)."""
        diagonal: Float64[np.ndarray, " d"] = np.diagonal(self.correlation).copy()
        return diagonal

    @property
    def unique(self) -> Bool[np.ndarray, " d"]:
        """Dimensions that vary in both and are not common (D,)."""
        return ~self.common & ~self.constant

    @property
    def common_share(self) -> float:
        """Common dimensions as a share of those that vary in both."""
        return float(self.common.sum() / max(1, int((~self.constant).sum())))


def split_dimensions(a: Any, b: Any, *, threshold: float = 0.5, bins: int = 20) -> DimensionSplit:
    """Split dimensions by the cross-correlation of batch-normalised embeddings: C = za' zb / n, common where C_ii >= threshold.

    The two must have dimension i in common by construction, as the heads of one joint training have; for embeddings trained
    apart the axes mean nothing, and this says so only through a histogram that stays around zero. Use CKA there.

    Args:
        a: Embeddings (n, D), array or tensor.
        b: Embeddings (n, D) of the same samples.
        threshold: In [0, 1]. The default of 0.5 asks that half of the variance of a dimension is a signal that both share
            (with as much noise on either side); it lies between the two peaks, near 1 and near 0, that joint training
            makes. Look at the histogram.
        bins: Of the histogram over [-1, 1].

    Returns:
        The split with its histogram.

    Raises:
        DataError: If widths or samples differ, a value is not finite, or all dimensions of one are constant.

    Source: Wang et al., DeCUR, arXiv 2309.05300, equation 1 and figure 3.

    Example:
        >>> draw = np.random.default_rng(0).normal(size=(1000, 6))
        >>> split = split_dimensions(draw[:, :4], draw[:, [0, 1, 4, 5]])
        >>> split.common.tolist(), split.common_share
        ([True, True, False, False], 0.5)
    """
    check_number(threshold, "threshold", "split_dimensions", low=0.0, high=1.0)
    check_int(bins, "bins", "split_dimensions", low=1)
    first, second = centred(a, "a", double=True), centred(b, "b", double=True)
    same_samples(first, second)
    rows_a, rows_b = first.rows.cpu().numpy(), second.rows.cpu().numpy()
    if rows_a.shape[1] != rows_b.shape[1]:
        fix = "project both to one width, or compare with CKA"
        widths = f"{rows_a.shape[1]} and {rows_b.shape[1]}"
        raise DataError("embeddings have different widths", where="a and b", expected="equal widths", got=widths, fix=fix)
    (za, constant_a), (zb, constant_b) = _normalised(rows_a), _normalised(rows_b)
    correlation = np.clip(za.T @ zb / len(za), -1.0, 1.0)
    constant = constant_a | constant_b
    diagonal = np.diagonal(correlation)
    counts, edges = np.histogram(diagonal[~constant], bins=bins, range=(-1.0, 1.0))
    common = (diagonal >= threshold) & ~constant
    return DimensionSplit(correlation, common, constant, threshold, 1.96 / float(np.sqrt(len(za))), counts, edges)


def _normalised(rows: Float64[np.ndarray, "n d"]) -> tuple[Float64[np.ndarray, "n d"], Bool[np.ndarray, " d"]]:
    """Centred columns to unit variance, zero where there is none; and which those are."""
    deviation = rows.std(0)
    constant = deviation <= 1e-12 * deviation.max()
    return np.where(constant, 0.0, rows / np.where(constant, 1.0, deviation)), constant
