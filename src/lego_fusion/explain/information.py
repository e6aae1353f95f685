"""Partial information decomposition: what two sources say about a target twice, each alone, and only together.

Axis letters: n sample, t table, a and b symbols of the first and second source, c class of the target.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int64

from ..errors import DataError, check_int, check_number
from .broja import Tables, least_informative_coupling
from .decomposition import (
    PartialInformation,
    Values,
    check_lengths,
    check_names,
    check_resampling,
    from_informations,
    require_classes,
    with_chance,
)
from .symbols import default_clusters, label_symbols, source_symbols

REPLICATE_TOLERANCE = 1e-3  # bits; permutations and resamples need no more
_NUMBERS_AT_ONCE = 2**22

Solution = tuple[Float64[np.ndarray, "a b c"], float]  # Q of the first table and its gap in bits


def decompose_table(
    table: npt.ArrayLike, *, names: tuple[str, str] = ("first", "second"), tolerance: float = 1e-4
) -> PartialInformation:
    """Decompose an exact joint distribution.

    With q = min I_Q(X1 X2; Y) over the Q that have the (x1, y) and (x2, y) marginals of P:
    R = I1 + I2 - q, U1 = q - I2, U2 = q - I1, S = I12 - q.

    Args:
        table: Joint probabilities P (a, b, c), not negative, of sum 1.
        names: Names of the two sources.
        tolerance: Largest certified error of each part in bits, in [1e-8, 1].

    Returns:
        The decomposition. Redundancy and synergy are too small by at most ``gap``, unique parts too large by at most ``gap``.

    Raises:
        DataError: If the table is no distribution, or its target never changes.
        ParameterError: If a parameter is out of its range.

    Source: Bertschinger, Rauh, Olbrich, Jost and Ay, Quantifying unique information (Entropy 2014).

    Example:
        >>> exclusive_or = np.zeros((2, 2, 2))
        >>> for a, b in np.ndindex(2, 2):
        ...     exclusive_or[a, b, a ^ b] = 0.25
        >>> print(decompose_table(exclusive_or, names=("motion", "text")))
        bits                  value
        redundancy           0.0000
        unique motion        0.0000
        unique text          0.0000
        synergy              1.0000
        information motion   0.0000
        information text     0.0000
        total                1.0000
    """
    check_names(names)
    joint = _probabilities(table)
    check_number(tolerance, "tolerance", "decompose_table", low=1e-8, high=1.0)
    return _record(_decompose(joint[None], tolerance, names), joint, names, tolerance)


def partial_information(
    x1: npt.ArrayLike,
    x2: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    names: tuple[str, str] = ("first", "second"),
    clusters: int | None = None,
    tolerance: float = 1e-4,
    permutations: int = 200,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> PartialInformation:
    """Decompose what two sources say about a target, from samples, with what chance alone would have given.

    The frequencies of the symbols are taken for the distribution. That inflates: chance alone adds about
    (k1 - 1)(k2 - 1)(|Y| - 1) / (2 N ln 2) bits to synergy minus redundancy, so read every part beside its null.
    The interval is the reflected bootstrap [2 value - q_high, 2 value - q_low], cut at 0, which takes off the part of the
    inflation that resampling shows; it may therefore lie below the value. Samples are taken to be independent.

    Args:
        x1: First source: labels (n,), or continuous features as floats (n,) or (n, d), which are clustered by k-means.
        x2: Second source, likewise.
        y: Class of every sample (n,).
        names: Names of the two sources.
        clusters: Clusters for a continuous source, 2 or more; None chooses as many as keep the inflation below 0.05 bit.
        tolerance: Largest certified error of each part on the table of frequencies, in bits, in [1e-8, 1].
        permutations: Permutations of the labels for the null, 20 or more.
        resamples: Bootstrap resamples for the intervals, 20 or more. The clusters stay as they are.
        level: Share of resamples inside the intervals, in (0, 1).
        seed: Seed of clustering, permutations and resamples.

    Returns:
        The decomposition with its null and intervals.

    Raises:
        DataError: If the samples differ in number, are fewer than 2 or not finite, or the target has one class.
        ParameterError: If a parameter is out of its range.

    Warns:
        UserWarning: If the sample is small for the number of symbols.

    Source: Liang et al., Quantifying and modeling multimodal interactions (arXiv 2302.12247).

    Example:
        >>> generator = np.random.default_rng(0)
        >>> x1, x2 = generator.integers(0, 2, (2, 500))
        >>> found = partial_information(x1, x2, x1 & x2, names=("motion", "text"))
        >>> round(found.redundancy, 2), round(found.synergy, 2), found.null["synergy"].mean < 0.01
        (0.31, 0.52, True)
    """
    check_names(names)
    check_number(tolerance, "tolerance", "partial_information", low=1e-8, high=1.0)
    check_resampling("partial_information", permutations, resamples, level, seed)
    if clusters is not None:
        check_int(clusters, "clusters", "partial_information", low=2)
    target = label_symbols(y, "target")
    check_lengths(names, x1, x2, y)
    require_classes(target.count)
    chosen = default_clusters(len(target.index), target.count) if clusters is None else clusters
    sources = [source_symbols(x, name, clusters=chosen, seed=seed) for x, name in zip((x1, x2), names, strict=True)]
    shape = (sources[0].count, sources[1].count, target.count)
    pairs = sources[0].index * shape[1] + sources[1].index
    samples = len(pairs)
    joint = _frequencies(pairs, target.index[None], shape)[0]

    generator = np.random.default_rng(seed)
    shuffled = generator.permuted(np.broadcast_to(target.index, (permutations, samples)), axis=1)
    null, _ = _decompose(_frequencies(pairs, shuffled, shape), max(tolerance, REPLICATE_TOLERANCE), names)
    drawn = generator.multinomial(samples, joint.ravel(), size=resamples).reshape(resamples, *shape) / samples
    bootstrap, _ = _decompose(drawn, max(tolerance, REPLICATE_TOLERANCE), names)
    found = _record(_decompose(joint[None], tolerance, names), joint, names, tolerance)
    clustered = tuple(name for name, source in zip(names, sources, strict=True) if source.clustered)
    return with_chance(found, null, bootstrap, samples=samples, level=level, clustered=clustered)


def _decompose(tables: Tables, tolerance: float, names: tuple[str, str]) -> tuple[Values, Solution]:
    """The quantities of t tables in bits, and Q with its gap in bits."""
    t, a, b, c = tables.shape
    at_once = max(1, _NUMBERS_AT_ONCE // ((a + b) * c) ** 2)
    solved = [
        least_informative_coupling(tables[start : start + at_once], tolerance=tolerance * np.log(2))
        for start in range(0, t, at_once)
    ]
    coupling = np.concatenate([part.distribution for part in solved])
    gap = np.concatenate([part.gap for part in solved]) / np.log(2)
    informations = (
        _information(tables.sum(2)),
        _information(tables.sum(1)),
        _information(tables.reshape(t, a * b, c)),
        _information(coupling.reshape(t, a * b, c)),
    )
    return from_informations(names, *informations), (coupling[0], float(gap[0]))


def _information(tables: Float64[np.ndarray, "t x c"]) -> Float64[np.ndarray, " t"]:
    """I(X; C) of each table in bits: sum p log2( p / (p_x p_c) )."""
    product = tables.sum(2, keepdims=True) * tables.sum(1, keepdims=True)
    ratio = np.divide(tables, product, out=np.ones_like(tables), where=tables > 0)
    information: Float64[np.ndarray, " t"] = (tables * np.log2(ratio)).sum((1, 2))
    return information


def _record(
    solved: tuple[Values, Solution], joint: Float64[np.ndarray, "a b c"], names: tuple[str, str], tolerance: float
) -> PartialInformation:
    values = {key: float(value[0]) for key, value in solved[0].items()}
    coupling, gap = solved[1]
    off = max(float(np.abs(coupling.sum(axis) - joint.sum(axis)).max()) for axis in (0, 1))
    a, b, classes = joint.shape
    far = f"stopped {gap:.1g} bits from the optimum at most, not {tolerance:g} as asked"
    return PartialInformation(
        redundancy=values["redundancy"],
        unique={name: values[f"unique {name}"] for name in names},
        synergy=values["synergy"],
        total=values["total"],
        information={name: values[f"information {name}"] for name in names},
        gap=gap,
        marginal_error=off,
        symbols=dict(zip(names, (a, b), strict=True)),
        classes=classes,
        notes=(far,) if gap > tolerance else (),
    )


def _frequencies(
    pairs: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, "t n"], shape: tuple[int, int, int]
) -> Float64[np.ndarray, "t a b c"]:
    """Share of the samples in every cell, for each of t labellings."""
    cells = pairs * shape[2] + labels
    size = shape[0] * shape[1] * shape[2]
    counts = np.bincount((cells + size * np.arange(len(labels))[:, None]).ravel(), minlength=size * len(labels))
    shares: Tables = counts.reshape(len(labels), *shape) / len(pairs)
    return shares


def _probabilities(table: npt.ArrayLike) -> Float64[np.ndarray, "a b c"]:
    """The table as float64 of sum 1, without symbols that never occur."""
    where = "joint table"
    try:
        joint = np.array(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            "the table holds no numbers", where=where, expected="probabilities (a, b, c)", got=str(error)
        ) from error
    if joint.ndim != 3 or joint.size == 0:
        raise DataError("the table has a wrong shape", where=where, expected="(a, b, c), none of them 0", got=joint.shape)
    if not np.isfinite(joint).all():
        raise DataError("the table is not finite", where=where, expected="probabilities", got="NaN or infinity")
    if (joint < 0).any():
        raise DataError("the table has negative entries", where=where, expected="probabilities", got=joint.min())
    if abs(joint.sum() - 1) > 1e-6:
        raise DataError(
            "the table does not sum to 1", where=where, expected="1", got=joint.sum(), fix="divide counts by their sum"
        )
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        joint = np.compress(joint.sum(others) > 0, joint, axis=axis)
    require_classes(joint.shape[2])
    normalised: Float64[np.ndarray, "a b c"] = joint / joint.sum()
    return normalised
