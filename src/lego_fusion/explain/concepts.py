"""Where in each image a concept is: masks, or a map of labels, read in parts so that neither need fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from ..errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts of N images of H x W pixels; make one with ``from_masks`` or ``from_labels``.

    A pixel without a label belongs to no concept; it counts as a place where every concept is absent.

    Args:
        names: Of the C concepts.
        pixels: Masks (N, C, H, W) of bool, or labels (N, H, W), index of the one concept or negative for none.
        chosen: Positions of the images that are kept (n,), of all by default.
    """

    names: tuple[str, ...]
    pixels: Array
    chosen: Int[np.ndarray, " n"]

    @classmethod
    def from_masks(cls, masks: Array, names: Sequence[str] | None = None) -> Concepts:
        """Concepts that may overlap, as masks (N, C, H, W) of bool.

        Raises:
            DataError: If the shape or type is wrong, or names are missing or repeated.
        """
        if masks.ndim != 4 or masks.dtype != np.bool_:
            raise DataError("not masks of concepts", expected="bool (N, C, H, W)", got=f"{masks.dtype} {masks.shape}")
        named = tuple(names) if names is not None else tuple(f"concept {place}" for place in range(masks.shape[1]))
        return cls(_checked(named, masks.shape[1]), masks, np.arange(len(masks)))

    @classmethod
    def from_labels(cls, labels: Array, names: Sequence[str]) -> Concepts:
        """Concepts that exclude each other, as a map of labels (N, H, W): the position in ``names``, negative for none.

        Raises:
            DataError: If the shape or type is wrong, or a label has no name.

        Example:
            >>> Concepts.from_labels(np.array([[[0, 1], [1, -1]]]), ["sky", "road"]).areas(0, 1).tolist()
            [[1, 2]]
        """
        if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError("not a map of labels", expected="integers (N, H, W)", got=f"{labels.dtype} {labels.shape}")
        if labels.size and int(labels.max()) >= len(names):
            raise DataError(
                "a label has no name", expected=f"at most {len(names) - 1}, negative for none", got=int(labels.max())
            )
        return cls(_checked(tuple(names), len(names)), labels, np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def take(self, order: Int[np.ndarray, " k"]) -> Concepts:
        """The images at these positions, in this order: a part, or a permutation for a null."""
        return replace(self, chosen=self.chosen[order])

    def masks(self, start: int, stop: int, stride: int = 1) -> Bool[np.ndarray, "b c h w"]:
        """Masks of some images, at every ``stride``-th row and column."""
        rows: Array = self.pixels[self.chosen[start:stop]][..., ::stride, ::stride]
        there: Array = rows if rows.ndim == 4 else rows[:, None] == np.arange(len(self.names)).reshape(-1, 1, 1)
        return there

    def areas(self, start: int, stop: int) -> Int[np.ndarray, "b c"]:
        """Number of pixels of each concept in some images."""
        rows = self.pixels[self.chosen[start:stop]]
        if rows.ndim == 4:
            return np.asarray(np.count_nonzero(rows, axis=(2, 3)), dtype=np.int64)
        count = len(self.names)
        cells = np.where(rows < 0, count, rows).astype(np.int64) + (count + 1) * np.arange(len(rows))[:, None, None]
        areas: Array = np.bincount(cells.ravel(), minlength=len(rows) * (count + 1)).reshape(len(rows), -1)[:, :count]
        return areas

    def at(self, start: int, images: Int[np.ndarray, " p"], places: Int[np.ndarray, " p"]) -> Bool[np.ndarray, "p c"]:
        """Which concepts are at pixel ``places`` (row major) of the images ``start + images``."""
        chosen, (row, column) = self.chosen[start + images], np.divmod(places, self.size[1])
        if self.pixels.ndim == 4:
            return np.asarray(self.pixels[chosen, :, row, column])
        return np.asarray(self.pixels[chosen, row, column][:, None] == np.arange(len(self.names)))


def _checked(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    if not names or len(names) != count or len(set(names)) != count:
        raise DataError("wrong names of concepts", expected=f"{count} different names, at least one", got=f"{len(set(names))}")
    return names
