"""Finer units of a snippet: cells, patches, frames or words, of which some may be absent.

Stored as (T, U, D + 1): the last column, *presence*, is 1 where a unit is there and 0 where it is not, and an absent unit is
zero in every column. So absence is exact: a motion cell in which nothing moves is zero too, and is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from ..errors import DataError
from .manifest import Manifest
from .segments import segment_bounds, to_segments

Array = np.ndarray[Any, np.dtype[Any]]

# A segment of a long video holds the units of many snippets; of more than this many, evenly spread ones stand for all.
MOST_UNITS = 256


def with_presence(
    values: Float[np.ndarray, "*rows u d"], present: Bool[np.ndarray, "*rows u"] | None = None
) -> Float32[np.ndarray, "*rows u d_and_1"]:
    """Join unit features and their presence to the form that is stored.

    Args:
        values: D numbers of every unit; those of absent ones are ignored.
        present: Which units are there; None says all.

    Example:
        >>> with_presence(np.array([[[5.0], [7.0]]]), np.array([[True, False]])).tolist()
        [[[5.0, 1.0], [0.0, 0.0]]]
    """
    there = np.ones(values.shape[:-1], dtype=bool) if present is None else present
    stored = np.where(there[..., None], values, 0.0)
    return np.concatenate([stored, there[..., None]], axis=-1).astype(np.float32)


def split_presence(
    stored: Float[np.ndarray, "*rows u d_and_1"],
) -> tuple[Float[np.ndarray, "*rows u d"], Bool[np.ndarray, "*rows u"]]:
    """Part stored units into their features and their presence, the way back from ``with_presence``."""
    return stored[..., :-1], stored[..., -1] > 0


def presence_problems(stored: Array, where: str) -> Iterator[tuple[str, DataError]]:
    """A presence that is not 0 or 1, or an absent unit that is not zero, as ("presence", error)."""
    presence = np.asarray(stored[..., -1])
    wrong = (presence != 0) & (presence != 1)
    filled = (presence == 0) & (np.asarray(stored[..., :-1]) != 0).any(axis=-1)
    for bad, fault, expected in (
        (wrong, "the presence of a unit is not 0 or 1", "0 or 1 in the last column"),
        (filled, "an absent unit is not empty", "zeros beside presence 0"),
    ):
        if bad.any():
            row, unit = (int(place) for place in np.argwhere(bad)[0])
            got = f"{stored[row, unit, -1]:g} and {int(np.count_nonzero(stored[row, unit, :-1]))} numbers that are not 0"
            fix = "write the features with with_presence, or extract this modality again"
            yield "presence", DataError(fault, where=f"{where}, row {row}, unit {unit}", expected=expected, got=got, fix=fix)
            return


def units_to_segments(
    stored: Float[np.ndarray, "rows u d_and_1"], segments: int, manifest: Manifest
) -> Float32[np.ndarray, "segments units d_and_1"]:
    """Give every segment the units of its snippets; segments as in ``to_segments``.

    Units with a place (``manifest.grid``) are averaged over the segment's snippets, place by place and over the snippets
    where they are present. Units without one are put side by side, of more than 256 evenly spread ones; what is absent comes
    last, and as many places are kept as the fullest segment needs. A segment without a snippet of its own copies one.

    Args:
        stored: Units of every snippet, (T, U, D + 1).
        segments: N.
        manifest: Of the modality.

    Returns:
        Units of every segment, (N, U', D + 1).

    Example:
        >>> frames = Manifest(modality="f", extractor="f", version="1", width=1, unit_kind="frame", units=2)
        >>> stored = with_presence(np.array([[[1.0], [2.0]], [[3.0], [0.0]]]), np.array([[True, True], [True, False]]))
        >>> units_to_segments(stored, 1, frames)[0].tolist()
        [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]
    """
    if manifest.grid is not None:
        mean = to_segments(
            np.asarray(stored, np.float32), segments
        )  # sums of what is there over all snippets, and the share that is there
        share = mean[..., -1:]
        return with_presence(mean[..., :-1] / np.where(share > 0, share, 1.0), share[..., 0] > 0)
    bounds = segment_bounds(len(stored), segments)
    gathered = []
    for first, end in zip(bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1), strict=True):
        units = np.asarray(stored[first:end]).reshape(-1, stored.shape[-1])
        units = units[units[:, -1] > 0]
        if len(units) > MOST_UNITS:
            units = units[np.linspace(0, len(units) - 1, MOST_UNITS).astype(np.int64)]
        gathered.append(units)
    result = np.zeros((segments, max(1, *map(len, gathered)), stored.shape[-1]), dtype=np.float32)
    for place, units in enumerate(gathered):
        result[place, : len(units)] = units
    return result


def cells_of_pixels(height: int, width: int, rows: int, columns: int) -> Int64[np.ndarray, " pixels"]:
    """Number the cell of every pixel, row by row; a picture of fewer pixels than cells leaves cells empty.

    Example:
        >>> cells_of_pixels(2, 4, rows=1, columns=2).tolist()
        [0, 0, 1, 1, 0, 0, 1, 1]
    """
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return (row[:, None] * columns + column[None, :]).ravel()
