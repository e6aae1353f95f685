"""The area under the ROC curve of every unit for every concept, by ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.stats import rankdata


def rank_auroc(
    maps: Sequence[Float[np.ndarray, "_ k h w"]], masks: Callable[[int, int], Bool[np.ndarray, "b c h w"]]
) -> Float64[np.ndarray, "k c"]:
    """P(a pixel of the concept is above one outside) + P(they tie) / 2, exact on the pixels given (Mann-Whitney).

    AUROC = (sum of the ranks of the concept's pixels - p (p + 1) / 2) / (p (n - p)), p of n pixels in the concept.

    Args:
        maps: Maps of the units, in parts.
        masks: Concepts of images start to stop.

    Returns:
        In [0, 1]; NaN for concepts that are nowhere or everywhere.
    """
    inside: list[list[np.ndarray]] = []
    first, pixels = 0, 0
    for part in maps:
        rows = masks(first, first + len(part)).swapaxes(0, 1).reshape(-1, len(part) * part.shape[2] * part.shape[3])
        inside.append([np.flatnonzero(row) + pixels for row in rows])
        first, pixels = first + len(part), pixels + rows.shape[1]
    places = [np.concatenate(parts) for parts in zip(*inside, strict=True)]
    found = np.full((maps[0].shape[1], len(places)), np.nan)
    for unit in range(len(found)):
        ranks = rankdata(np.concatenate([part[:, unit].ravel() for part in maps]))
        for concept, chosen in enumerate(places):
            count = len(chosen)
            if 0 < count < pixels:
                excess = ranks[chosen].sum() - count * (count + 1) / 2
                found[unit, concept] = excess / (count * (pixels - count))
    return found
