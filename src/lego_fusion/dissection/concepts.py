"""Where in each image a concept is: every pixel has the number of its combination of concepts, read in parts.

Few of the 2^C combinations of C concepts ever occur, so a number for each pixel and a table of what is in each combination
hold masks that overlap as well as labels that exclude each other, in a few bytes a pixel.
"""

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
    """Concepts of N images of H x W pixels; make one with ``from_masks``, ``from_labels`` or a ``ConceptCollector``.

    A pixel without a label belongs to no concept; it counts as a place where every concept is absent.

    Args:
        names: Of the C concepts.
        pixels: Combination of every pixel (N, H, W); a negative number is the last one.
        members: Which concepts are in each combination (V, C); none is in the last.
        chosen: Positions of the images that are kept (n,), of all by default.
    """

    names: tuple[str, ...]
    pixels: Array
    members: Bool[np.ndarray, "v c"]
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
        collector = ConceptCollector(_checked(named, masks.shape[1]))
        for start in range(0, len(masks), 16):
            collector.add(masks[start : start + 16])
        return collector.concepts() if len(masks) else cls.from_labels(np.zeros((0, *masks.shape[2:]), dtype=int), named)

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
        members = np.eye(len(names) + 1, len(names), dtype=bool)
        return cls(_checked(tuple(names), len(names)), labels, members, np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def take(self, order: Int[np.ndarray, " k"]) -> Concepts:
        """The images at these positions, in this order: a part, or a permutation for a null."""
        return replace(self, chosen=self.chosen[order])

    def codes(self, start: int, stop: int, stride: int = 1) -> Array:
        """Combination (b, h, w) of the pixels of some images, at every ``stride``-th row and column."""
        rows: Array = self.pixels[self.chosen[start:stop]][..., ::stride, ::stride]
        return rows if rows.dtype.kind == "u" else np.where(rows < 0, len(self.members) - 1, rows)

    def masks(self, start: int, stop: int, stride: int = 1) -> Bool[np.ndarray, "b c h w"]:
        """Masks of some images, at every ``stride``-th row and column."""
        return np.moveaxis(self.members[self.codes(start, stop, stride)], -1, 1)

    def areas(self, start: int, stop: int) -> Int[np.ndarray, "b c"]:
        """Number of pixels of each concept in some images."""
        codes, count = self.codes(start, stop).astype(np.int64), len(self.members)
        cells = codes + count * np.arange(len(codes))[:, None, None]
        seen = np.bincount(cells.ravel(), minlength=len(codes) * count).reshape(len(codes), count)
        return np.rint(seen @ self.members.astype(np.float64)).astype(np.int64)


class ConceptCollector:
    """Concepts of images that come in batches, kept as combinations.

    Args:
        names: Of the C concepts.

    Example:
        >>> collector = ConceptCollector(["dark", "round"])
        >>> collector.add(np.array([[[[True, False]], [[True, True]]]]))
        >>> collector.concepts().masks(0, 1).astype(int).tolist()
        [[[[1, 0]], [[1, 1]]]]
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = _checked(tuple(names), len(names))
        self._numbers: dict[bytes, int] = {}
        self._parts: list[Array] = []

    def add(self, masks: Bool[np.ndarray, "b c h w"]) -> None:
        """Take the masks of the next images."""
        if masks.shape[1] != len(self.names):
            raise DataError("masks of another number of concepts", expected=len(self.names), got=masks.shape[1])
        if self._parts and masks.shape[2:] != self._parts[0].shape[1:]:
            raise DataError("labels change their size", expected=self._parts[0].shape[1:], got=masks.shape[2:])
        self._parts.append(_small(np.stack([self._coded(image) for image in masks])))

    def _coded(self, masks: Bool[np.ndarray, "c h w"]) -> Array:
        packed = np.packbits(masks.reshape(len(masks), -1), axis=0).T  # (h w, bytes)
        words = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
        words[:, : packed.shape[1]] = packed
        keys = words.view(np.uint64)
        if keys.shape[1] == 1:
            found, inverse = np.unique(keys[:, 0], return_inverse=True)
        else:
            found, inverse = np.unique(keys, axis=0, return_inverse=True)
        numbers = [self._numbers.setdefault(row.tobytes(), len(self._numbers)) for row in found]
        return np.array(numbers, dtype=np.int64)[inverse.ravel()].reshape(masks.shape[1:])

    def concepts(self) -> Concepts:
        """All images so far."""
        if not self._parts:
            raise DataError("there are no labels", expected="those of at least one image")
        rows = np.array([np.frombuffer(key, dtype=np.uint8) for key in self._numbers])
        members = np.unpackbits(rows, axis=1, count=len(self.names)).astype(bool)
        members = np.concatenate([members, np.zeros((1, len(self.names)), dtype=bool)])  # the last holds none
        pixels = np.concatenate(self._parts)
        return Concepts(self.names, pixels, members, np.arange(len(pixels)))


def _small(numbers: Array) -> Array:
    """The same in the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _checked(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    if not names or len(names) != count or len(set(names)) != count:
        raise DataError("wrong names of concepts", expected=f"{count} different names, at least one", got=f"{len(set(names))}")
    return names
