"""How alike the layers of recordings are, modality x level against modality x level, over samples or place by place."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, check_choice, check_int
from ..explain.activations import Centred, centred
from ..explain.similarity import SimilarityMatrix, cka, similarity_matrix
from .recorded import Key, Recording

Over = Literal["samples", "places"]


def feature_similarity(
    first: Recording, second: Recording | None = None, *, over: Over = "samples", permutations: int = 20, seed: int = 0
) -> SimilarityMatrix:
    """Debiased CKA of every layer with every other, each beside its noise floor; layers are named "modality level".

    Args:
        first: One side.
        second: The other, of the same samples; None: the first against itself.
        over: "samples" compares means over places (N, K). "places" compares place by place, (N h w, K), after averaging
            the finer of two grids to the coarser; its floor permutes whole images, because neighbouring places are alike
            and the same place is alike in many images.
        permutations: For the floor, 95 % quantile; 0 for none.
        seed: Of the permutations.

    Raises:
        DataError: If the samples differ in number, or "places" meets a layer without spatial extent.
    """
    check_choice(over, "over", "feature_similarity", ("samples", "places"))
    check_int(permutations, "permutations", "feature_similarity", low=0)
    other = first if second is None else second
    if over == "samples":
        rows = first.pooled()
        return similarity_matrix(rows, rows if second is None else other.pooled(), permutations=permutations, seed=seed)
    generator = np.random.default_rng(check_int(seed, "seed", "feature_similarity", low=0))
    samples = {len(array) for recording in (first, other) for array in recording.arrays.values()}
    if len(samples) != 1:
        raise DataError("recordings have different numbers of samples", expected="the same", got=sorted(samples))
    orders = [generator.permutation(min(samples)) for _ in range(permutations)]
    values, floor = np.zeros((2, len(first.arrays), len(other.arrays)))
    for row, key in enumerate(first.arrays):
        for column, other_key in enumerate(other.arrays):
            x, y = on_one_grid(_spatial(first, key), _spatial(other, other_key))
            values[row, column] = _place_cka(x, y)
            if orders:
                floor[row, column] = np.quantile([_place_cka(x, y[torch.from_numpy(order)]) for order in orders], 0.95)
    names = tuple(" ".join(key) for key in first.arrays), tuple(" ".join(key) for key in other.arrays)
    return SimilarityMatrix(*names, values, "cka", floor if orders else None)


def on_one_grid(
    first: Float[Tensor, "n k h w"], second: Float[Tensor, "n j g v"]
) -> tuple[Float[Tensor, "n k a b"], Float[Tensor, "n j a b"]]:
    """Both averaged to the smaller height and the smaller width of the two.

    Example:
        >>> x, y = on_one_grid(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4))
        >>> tuple(x.shape), tuple(y.shape)
        ((2, 3, 4, 4), (2, 5, 4, 4))
    """
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    resize = torch.nn.functional.adaptive_avg_pool2d
    return resize(first, size), resize(second, size)


def _place_cka(x: Tensor, y: Tensor) -> float:
    return cka(_rows(x), _rows(y))


def _rows(maps: Tensor) -> Centred:
    return centred(maps.permute(0, 2, 3, 1).flatten(0, 2))  # (n a b, k)


def _spatial(recording: Recording, key: Key) -> Tensor:
    array: Any = recording[key]
    if recording.kind != "spatial":
        raise DataError(
            "a layer has no spatial extent", where=" ".join(key), expected="kind 'spatial'", got=f"kind '{recording.kind}'"
        )
    return torch.from_numpy(np.array(array, dtype=np.float32))
