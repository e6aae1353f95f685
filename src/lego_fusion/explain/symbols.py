"""Samples as symbols: labels as they are, continuous features through k-means."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int64
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from ..errors import DataError

INFLATION_TARGET = 0.05  # bits that chance may add to synergy minus redundancy where the number of clusters is left open
CLUSTERS_AT_MOST = 20


@dataclass(frozen=True, eq=False)
class Symbols:
    """One symbol per sample.

    Args:
        index: Position of each sample's symbol among the symbols (n,).
        count: How many symbols there are.
        clustered: Whether they are clusters of continuous features.
    """

    index: Int64[np.ndarray, " n"]
    count: int
    clustered: bool = False


def source_symbols(values: npt.ArrayLike, name: str, *, clusters: int, seed: int) -> Symbols:
    """Turn one source into symbols.

    Labels (one whole number, boolean or text per sample) are symbols already. Numbers with a fraction part, (n,) or (n, d),
    are clustered by k-means with columns of unit variance, unless they have no more than ``clusters`` distinct rows.

    Args:
        values: Samples (n,) or (n, d).
        name: What the source is called in messages.
        clusters: Clusters for continuous features.
        seed: Seed of k-means.

    Returns:
        The symbols, each used at least once.

    Raises:
        DataError: If the values are not finite, not samples, or fewer than 2.

    Example:
        >>> source_symbols(["red", "blue", "red"], "colour", clusters=4, seed=0).index.tolist()
        [1, 0, 1]
    """
    array = _samples(values, name)
    if array.dtype.kind != "f":
        if array.ndim != 1:
            raise DataError(
                "a source of whole numbers has more than one column",
                where=name,
                expected="one label per sample (n,), or continuous features (n, d) as floats",
                got=f"shape {array.shape}, {array.dtype}",
                fix="convert it to float to have it clustered, or join the columns to one label",
            )
        return label_symbols(array, name)
    rows = finite_rows(array, name)
    distinct, index = np.unique(rows, axis=0, return_inverse=True)
    if len(distinct) <= clusters:
        return Symbols(index.reshape(-1).astype(np.int64), len(distinct))
    return _clusters(rows, clusters, seed)


def finite_rows(values: npt.ArrayLike, name: str) -> Float64[np.ndarray, "n d"]:
    """Continuous features (n,) or (n, d) as rows, columns of mean 0 and, unless they are constant, of variance 1."""
    array = _samples(values, name)
    rows = array.reshape(len(array), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        raise DataError("a source is not finite", where=name, expected="finite numbers", got="NaN or infinity")
    deviation = rows.std(0)
    scaled: Float64[np.ndarray, "n d"] = (rows - rows.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    return scaled


def label_symbols(values: npt.ArrayLike, name: str) -> Symbols:
    """Turn labels (n,) into symbols; floats must be whole numbers.

    Example:
        >>> label_symbols([3, 1, 3], "class").count
        2
    """
    array = _samples(values, name)
    if array.ndim != 1:
        raise DataError("labels have a wrong shape", where=name, expected="one label per sample (n,)", got=array.shape)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        raise DataError(
            "labels are not whole numbers", where=name, expected="classes", got="NaN or fractions", fix="bin the target first"
        )
    distinct, index = np.unique(array, return_inverse=True)
    return Symbols(index.astype(np.int64), len(distinct))


def default_clusters(samples: int, classes: int) -> int:
    """Most clusters per source, 2 to 20, for which chance adds at most 0.05 bit to synergy minus redundancy.

    k = 1 + floor( sqrt( 2 N ln 2 * 0.05 / (|Y| - 1) ) ), from the inflation (k - 1)^2 (|Y| - 1) / (2 N ln 2).

    Example:
        >>> default_clusters(1000, 2), default_clusters(100, 2)
        (9, 3)
    """
    most = 1 + math.floor(math.sqrt(2 * samples * math.log(2) * INFLATION_TARGET / max(classes - 1, 1)))
    return min(max(most, 2), CLUSTERS_AT_MOST)


def inflation(first: int, second: int, classes: int, samples: int) -> float:
    """Bits that chance adds to synergy minus redundancy: (k1 - 1)(k2 - 1)(|Y| - 1) / (2 N ln 2).

    Example:
        >>> round(inflation(2, 2, 2, 1000), 6)
        0.000721
    """
    return (first - 1) * (second - 1) * (classes - 1) / (2 * samples * math.log(2))


def _samples(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufUS":
            raise ValueError(f"an array of {array.dtype}")
    except ValueError as error:
        raise DataError(
            "samples are neither labels nor numbers", where=name, expected="an array (n,) or (n, d)", got=error
        ) from error
    if array.ndim not in (1, 2) or len(array) < 2 or array.size == 0:
        raise DataError("too few samples", where=name, expected="2 or more samples, (n,) or (n, d)", got=f"shape {array.shape}")
    return array


def _clusters(rows: Float64[np.ndarray, "n d"], clusters: int, seed: int) -> Symbols:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters up to rounding: fewer symbols
        found = KMeans(clusters, n_init=4, random_state=seed).fit_predict(rows)
    distinct, index = np.unique(found, return_inverse=True)
    return Symbols(index.astype(np.int64), len(distinct), clustered=True)
