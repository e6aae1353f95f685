"""The area under the ROC curve of every unit for every concept, by ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from scipy.stats import rankdata


def rank_auroc(
    maps: Float[np.ndarray, "n k h w"], masks: Callable[[int, int], Bool[np.ndarray, "b c h w"]], batch_size: int = 32
) -> Float64[np.ndarray, "k c"]:
    """P(a pixel of the concept is above one outside) + P(they tie) / 2, exact on the pixels given (Mann-Whitney).

    AUROC = (sum of the ranks of the concept's pixels - p (p + 1) / 2) / (p (n - p)), p of n pixels in the concept.

    Args:
        maps: Maps of the units.
        masks: Concepts of the images from a start to before a stop.
        batch_size: Images whose masks are asked for at a time.

    Returns:
        In [0, 1]; NaN for concepts that are nowhere or everywhere.
    """
    pixels = maps.size // maps.shape[1]
    inside: list[list[NDArray[Any]]] = []
    for start in range(0, len(maps), batch_size):
        rows = masks(start, min(start + batch_size, len(maps))).swapaxes(0, 1)  # (c, b, h, w)
        first = start * maps.shape[2] * maps.shape[3]
        inside.append([np.flatnonzero(row) + first for row in rows])
    places = [np.concatenate(parts) for parts in zip(*inside, strict=True)]
    found = np.full((maps.shape[1], len(places)), np.nan)
    for unit in range(len(found)):
        ranks = rankdata(maps[:, unit].ravel())
        for concept, chosen in enumerate(places):
            count = len(chosen)
            if 0 < count < pixels:
                excess = ranks[chosen].sum() - count * (count + 1) / 2
                found[unit, concept] = excess / (count * (pixels - count))
    return found
