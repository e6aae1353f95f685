"""The record of a partial information decomposition, the symbols it is read from, and what it is compared with: chance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int64
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from ..errors import DataError, ParameterError, check_int

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


Values = dict[str, Float64[np.ndarray, " t"]]
Replicates = Mapping[str, npt.NDArray[np.float64]]  # the null and the bootstrap may differ in number

INFLATION_WARNING = 0.05 + 1e-9  # bits


@dataclass(frozen=True)
class Null:
    """What chance alone gives: the same decomposition with labels permuted.

    Args:
        mean: Mean over the permutations, in bits.
        high: 95 % quantile, in bits.
        p_value: (1 + permutations at least as large as the value) / (1 + permutations).
    """

    mean: float
    high: float
    p_value: float


@dataclass(frozen=True)
class PartialInformation:
    """What two modalities say about a target, in bits.

    redundancy + unique = information of one modality; redundancy + both unique + synergy = total. The parts have the keys
    ``"redundancy"``, ``"unique NAME"`` and ``"synergy"`` in ``null`` and ``intervals``, which also hold ``"total"`` and
    ``"information NAME"``.

    Args:
        redundancy: Bits that either modality gives.
        unique: Bits that only this modality gives, by name.
        synergy: Bits that only both together give.
        total: I(X1 X2; Y).
        information: I(X; Y) of each modality alone, by name.
        gap: Certified bound on the error of each part on this table, in bits; None where the estimator has none.
        marginal_error: Largest difference between a marginal of the solution and its target.
        symbols: Symbols of each modality, by name; empty where the estimator needs none.
        clustered: Names of the modalities whose symbols are k-means clusters of continuous features.
        classes: Classes of the target.
        samples: Samples; None for an exact table.
        inflation: Bits that chance adds to synergy minus redundancy at this size, about; None for an exact table.
        null: Null of every quantity; None for an exact table, which has no chance in it.
        intervals: Bootstrap interval of every quantity (low, high); None for an exact table.
        level: Share of resamples inside the intervals.
        permutations: Permutations behind the null.
        resamples: Resamples behind the intervals.
        convergence: Bits that the last steps of a trained coupling gained; None where nothing was trained.
        notes: What a reader should know before believing the numbers.
    """

    redundancy: float
    unique: Mapping[str, float]
    synergy: float
    total: float
    information: Mapping[str, float]
    gap: float | None
    marginal_error: float
    symbols: Mapping[str, int]
    classes: int
    clustered: tuple[str, ...] = ()
    samples: int | None = None
    inflation: float | None = None
    null: Mapping[str, Null] | None = None
    intervals: Mapping[str, tuple[float, float]] | None = None
    level: float = 0.95
    permutations: int = 0
    resamples: int = 0
    convergence: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, float]:
        """Every quantity by the key it has in ``null`` and ``intervals``."""
        unique = {f"unique {name}": value for name, value in self.unique.items()}
        alone = {f"information {name}": value for name, value in self.information.items()}
        return {"redundancy": self.redundancy, **unique, "synergy": self.synergy, **alone, "total": self.total}

    def __str__(self) -> str:
        width = max(map(len, self.values))
        lines = [f"{'bits':{width}}    value"]
        if self.null is not None and self.intervals is not None:
            lines[0] += f"    null   null 95 %       p   {100 * self.level:g} % interval"
        for key, value in self.values.items():
            line = f"{key:{width}}  {round(value, 4) + 0.0:7.4f}"
            if self.null is not None and self.intervals is not None:
                null, (low, high) = self.null[key], self.intervals[key]
                line += f"  {null.mean:6.4f}      {null.high:6.4f}  {null.p_value:6.4f}   [{low:.4f}, {high:.4f}]"
            lines.append(line)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def from_informations(
    names: tuple[str, str],
    first: Float64[np.ndarray, " t"],
    second: Float64[np.ndarray, " t"],
    together: Float64[np.ndarray, " t"],
    least: Float64[np.ndarray, " t"],
) -> Values:
    """R = I1 + I2 - q, U1 = q - I2, U2 = q - I1, S = I12 - q for each of t cases, by the keys of the record.

    The optimum q* lies between the larger of I1 and I2 and the smaller of I12 and I1 + I2 (no part is negative), so a q found
    above or below that range is nearer to q* on its edge.
    """
    least = np.clip(least, np.maximum(first, second), np.minimum(together, first + second))
    return {
        "redundancy": first + second - least,
        f"unique {names[0]}": least - second,
        f"unique {names[1]}": least - first,
        "synergy": together - least,
        f"information {names[0]}": first,
        f"information {names[1]}": second,
        "total": together,
    }


def with_chance(
    found: PartialInformation,
    null: Replicates,
    bootstrap: Replicates,
    *,
    samples: int,
    level: float,
    clustered: tuple[str, ...] = (),
) -> PartialInformation:
    """Add null, intervals and, where the sample is small for its symbols, a note that is also a warning."""
    added = None
    notes = list(found.notes)
    if found.symbols:
        first, second = found.symbols.values()
        cells = first * second * found.classes
        added = inflation(first, second, found.classes, samples)
        if clustered:
            counts = ", ".join(f"'{name}' into {found.symbols[name]}" for name in clustered)
            notes.append(f"k-means clustered {counts} symbols; other numbers of clusters give other values")
        if added > INFLATION_WARNING or samples < cells:
            small = (
                f"{samples} samples for {first} x {second} x {found.classes} = {cells} cells: chance alone adds about "
                f"{added:.3f} bits to synergy minus redundancy; take fewer symbols or more samples"
            )
            notes.append(small)
            warnings.warn(small, UserWarning, stacklevel=3)
    values = found.values
    return replace(
        found,
        clustered=clustered,
        samples=samples,
        inflation=added,
        null={key: _null(value, null[key]) for key, value in values.items()},
        intervals={key: _reflected(value, bootstrap[key], level) for key, value in values.items()},
        level=level,
        permutations=len(null["total"]),
        resamples=len(bootstrap["total"]),
        notes=tuple(notes),
    )


def _null(value: float, replicates: Float64[np.ndarray, " t"]) -> Null:
    as_large = int((replicates >= value - 1e-12).sum())
    return Null(float(replicates.mean()), float(np.quantile(replicates, 0.95)), (1 + as_large) / (1 + len(replicates)))


def _reflected(value: float, replicates: Float64[np.ndarray, " t"], level: float) -> tuple[float, float]:
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return max(0.0, 2 * value - float(high)), max(0.0, 2 * value - float(low))


def check_names(names: tuple[str, str]) -> None:
    """Raise ``ParameterError`` unless there are two different names."""
    if len(names) != 2 or len(set(names)) != 2 or not all(names):
        raise ParameterError(
            "a decomposition has two sources",
            expected="two different names",
            got=names,
            fix="join further modalities to one source",
        )


def check_resampling(owner: str, permutations: int, resamples: int, level: float, seed: int, *, least: int = 20) -> None:
    """Raise ``ParameterError`` unless the null and the intervals can be drawn."""
    check_int(permutations, "permutations", owner, low=least)
    check_int(resamples, "resamples", owner, low=least)
    check_int(seed, "seed", owner, low=0)
    if not 0 < level < 1:
        raise ParameterError(f"The 'level' parameter of {owner} must be a number in (0, 1). Got {level!r} instead")


def check_lengths(names: tuple[str, str], x1: npt.ArrayLike, x2: npt.ArrayLike, y: npt.ArrayLike) -> None:
    """Raise ``DataError`` unless both sources and the target have equally many samples."""
    counts = dict(zip((*names, "target"), map(_count, (x1, x2, y)), strict=True))
    if len(set(counts.values())) > 1:
        raise DataError(
            "sources and target differ in length",
            expected="one sample of each per row",
            got=", ".join(f"{count} of '{name}'" for name, count in counts.items()),
        )


def require_classes(count: int) -> None:
    """Raise ``DataError`` where the target never changes."""
    if count < 2:
        raise DataError(
            "nothing can be informative about a target that never changes",
            where="target",
            expected="2 or more classes",
            got=count,
            fix="take samples of another class too",
        )


def _count(values: npt.ArrayLike) -> int:
    shape = np.shape(values)
    return shape[0] if shape else 0
