"""The area under the ROC curve of every unit for every concept, by ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
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
