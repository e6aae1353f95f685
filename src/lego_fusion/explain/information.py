"""Partial information decomposition: what two sources say about a target twice, each alone, and only together.

Axis letters: t table, a symbol of the first source, b symbol of the second, c class of the target. The programme is

    min_Q  sum_abc q_abc log(q_abc / q_ab),    sum_b q_abc = P_ac,    sum_a q_abc = P_bc,    q >= 0

(minus the entropy of the target given both sources). Its dual has no variable per cell, only one per marginal:

    max_{l, m}  sum_ac P_ac l_ac + sum_bc P_bc m_bc    such that    v_ab = -log sum_c exp(l_ac + m_bc) >= 0.

At the optimum q_abc = s_ab exp(l_ac + m_bc + v_ab) and s_ab v_ab = 0. The solver follows s_ab v_ab = t as t falls to 0, by
Newton steps in l, m and s together (a primal-dual interior point). Any l, m with v >= 0 bound the optimum from below, and any
q with the right marginals from above: their difference is the gap that is returned, whatever happened on the way.

Axis letters: n sample, t table, a and b symbols of the first and second source, c class of the target.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float64, Int64

from ..errors import DataError, check_int, check_number
from .decomposition import (
    PartialInformation,
    Values,
    check_lengths,
    check_names,
    check_resampling,
    default_clusters,
    from_informations,
    label_symbols,
    require_classes,
    source_symbols,
    with_chance,
)

NEGLIGIBLE = 1e-12  # cells of less mass are left out
_FALL, _SLOW_FALL = 0.2, 0.5  # how far t falls after a full step, and after a shortened one
_TO_BOUNDARY = 0.99
_ARMIJO = 1e-4
_PROXIMAL = 1e-12  # relative weight that keeps the Newton system regular where the optimum is not unique
_SHORTEST = 1e-8
_LONGEST = 200.0  # about how far one multiplier may move in a step; for masses that a multiplier far off does not see

Tables = Float64[np.ndarray, "t a b c"]
FirstMarginal = Float64[np.ndarray, "t a c"]
SecondMarginal = Float64[np.ndarray, "t b c"]
Blocks = Float64[np.ndarray, "t a b"]


@dataclass(frozen=True, eq=False)
class Couplings:
    """Solutions of t programmes.

    Args:
        distribution: Q (t, a, b, c), with the marginals of the tables.
        gap: Certified bound on how far each is from its optimum, in nats (t,), cells of negligible mass left out.
        iterations: Newton steps taken for each (t,).
    """

    distribution: Tables
    gap: Float64[np.ndarray, " t"]
    iterations: Int64[np.ndarray, " t"]


def least_informative_coupling(tables: Tables, *, tolerance: float, max_iterations: int = 200) -> Couplings:
    """Solve the programme above for each of t tables at once.

    Args:
        tables: Joint probabilities P (t, a, b, c), each table of sum 1.
        tolerance: Gap at which a table is done, in nats.
        max_iterations: Newton steps after which a table is returned with the gap it has.

    Returns:
        The best coupling met for each table.

    Source: the measure is Bertschinger, Rauh, Olbrich, Jost and Ay, Quantifying unique information (Entropy 2014); the dual is
    derived in Makkeh, Theis and Vicente, BROJA-2PID (Entropy 2018).

    Example:
        >>> table = np.zeros((1, 2, 2, 2))
        >>> for a, b in np.ndindex(2, 2):
        ...     table[0, a, b, a & b] = 0.25
        >>> least_informative_coupling(table, tolerance=1e-9).distribution[0, :, :, 0].round(6).tolist()
        [[0.5, 0.0], [0.0, 0.25]]
    """
    kept = np.where(tables > NEGLIGIBLE, tables, 0.0)
    kept /= kept.sum(axis=(1, 2, 3), keepdims=True)
    best, gap = kept.copy(), np.full(len(kept), np.inf)
    iterations = np.zeros(len(kept), dtype=np.int64)
    active = np.arange(len(kept))
    path = _Path.start(kept.sum(2), kept.sum(1))
    for iteration in range(max_iterations + 1):
        bound, found = path.lower_bound(), path.rounded()
        path_gap = negative_entropy(found) - bound
        for candidate, candidate_gap in ((found, path_gap), (kept[active], negative_entropy(kept[active]) - bound)):
            better = candidate_gap < gap[active]
            best[active[better]], gap[active[better]] = candidate[better], candidate_gap[better]
        iterations[active] = iteration
        unfinished = (gap[active] > tolerance) & (path.last_step > _SHORTEST)
        if not unfinished.any() or iteration == max_iterations:
            break
        active = active[unfinished]
        path = path.take(unfinished).step(path_gap[unfinished])
    return Couplings(best, np.maximum(gap, 0.0), iterations)


def negative_entropy(tables: Tables) -> Float64[np.ndarray, " t"]:
    """Minus the entropy of c given a and b, in nats: sum_abc q log(q / q_ab)."""
    value: Float64[np.ndarray, " t"] = _x_log_x(tables).sum((1, 2, 3)) - _x_log_x(tables.sum(-1)).sum((1, 2))
    return value


def _x_log_x(x: Float64[np.ndarray, "*s"]) -> Float64[np.ndarray, "*s"]:
    result: Float64[np.ndarray, "*s"] = x * np.log(np.where(x > 0, x, 1.0))
    return result


@dataclass(frozen=True, eq=False)
class _Path:
    """Where t programmes are on their way: marginals, multipliers l and m, block masses s, slacks v, p = exp(l + m + v)."""

    first: FirstMarginal
    second: SecondMarginal
    first_multiplier: FirstMarginal
    second_multiplier: SecondMarginal
    mass: Blocks
    slack: Blocks
    conditional: Tables
    blocks: Bool[np.ndarray, "t a b"]
    last_step: Float64[np.ndarray, " t"]

    @classmethod
    def start(cls, first: FirstMarginal, second: SecondMarginal) -> _Path:
        """Sources independent given the class; multipliers with v >= 1/2, because sum_c sqrt(P(c|a) P(c|b)) <= 1."""
        mass = _divide(first[:, :, None] * second[:, None], first.sum(1)[:, None, None]).sum(-1)
        shares = [_divide(part, part.sum(-1, keepdims=True)) for part in (first, second)]
        ours, theirs = (np.log(np.where(share > 0, share, 1.0)) / 2 - 0.25 for share in shares)
        slack, conditional = _slack(first, second, ours, theirs)
        return cls(first, second, ours, theirs, mass, slack, conditional, mass > 0, np.ones(len(first)))

    def take(self, chosen: Bool[np.ndarray, " t"]) -> _Path:
        """The programmes chosen."""
        return replace(self, **{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def lower_bound(self) -> Float64[np.ndarray, " t"]:
        """Value of the dual."""
        return _inner((self.first, self.second), (self.first_multiplier, self.second_multiplier))

    def rounded(self) -> Tables:
        """Move s p onto the marginals: rows and columns scaled down to fit, what is missing added as a product."""
        q = self.mass[..., None] * self.conditional
        q = q * np.minimum(1.0, _divide(self.first, q.sum(2)))[:, :, None]
        q = q * np.minimum(1.0, _divide(self.second, q.sum(1)))[:, None]
        missing_first, missing_second = np.maximum(self.first - q.sum(2), 0.0), np.maximum(self.second - q.sum(1), 0.0)
        share = _divide(missing_second, missing_first.sum(1)[:, None])
        rounded: Tables = q + missing_first[:, :, None] * share[:, None]
        return rounded

    def step(self, gap: Float64[np.ndarray, " t"]) -> _Path:
        """One Newton step towards s v = t, shortened until the dual plus t sum log v has risen.

        t falls with the sum of s v, but not ahead of the gap, which also counts how far s p is from the marginals.
        """
        fall = np.where(self.last_step >= 1, _FALL, _SLOW_FALL)
        rest = np.maximum((self.mass * self.slack * self.blocks).sum((1, 2)), gap)
        target = (fall * rest / self.blocks.sum((1, 2)))[:, None, None]
        central = np.where(self.blocks, target / self.slack, 0.0)
        pull = central[..., None] * self.conditional
        gradients = self.first - pull.sum(2), self.second - pull.sum(1)
        steps = self._newton_direction(*gradients)
        rise = _inner(gradients, steps)
        length, path = self._climb(steps, rise, target[:, 0, 0])
        change = (self.conditional * (steps[0][:, :, None] + steps[1][:, None])).sum(-1)  # how far v falls, to first order
        mass_step = np.where(self.blocks, central - self.mass + self.mass / self.slack * change, 0.0)
        room = np.where(mass_step < 0, _TO_BOUNDARY * _divide(self.mass, -mass_step), 1.0).min((1, 2))
        mass = self.mass + np.minimum(length, room)[:, None, None] * mass_step
        return replace(path, mass=mass, last_step=length)

    def _climb(
        self, steps: tuple[FirstMarginal, SecondMarginal], rise: Float64[np.ndarray, " t"], target: Float64[np.ndarray, " t"]
    ) -> tuple[Float64[np.ndarray, " t"], _Path]:
        """Halve each step until the dual plus t sum log v has risen enough and every v is above zero."""
        start = self._barrier(target)
        length = np.ones(len(start))
        while True:
            path = self._moved(steps, length)
            value = path._barrier(target)
            risen = value >= start + _ARMIJO * length * rise - 1e-14 * np.abs(start)
            if (risen | (length < _SHORTEST)).all():
                return length, path
            length = np.where(risen, length, length / 2)

    def _moved(self, steps: tuple[FirstMarginal, SecondMarginal], length: Float64[np.ndarray, " t"]) -> _Path:
        first = self.first_multiplier + length[:, None, None] * steps[0]
        second = self.second_multiplier + length[:, None, None] * steps[1]
        slack, conditional = _slack(self.first, self.second, first, second)
        return replace(self, first_multiplier=first, second_multiplier=second, slack=slack, conditional=conditional)

    def _barrier(self, target: Float64[np.ndarray, " t"]) -> Float64[np.ndarray, " t"]:
        """Dual value plus t sum_ab log v_ab; minus infinity where a v is not above zero."""
        inside = (self.slack > 0) & np.isfinite(self.slack)
        logs = np.log(np.where(inside, self.slack, 1.0)).sum((1, 2))
        return np.where(inside.all((1, 2)), self.lower_bound() + target * logs, -np.inf)

    def _newton_direction(self, first: FirstMarginal, second: SecondMarginal) -> tuple[FirstMarginal, SecondMarginal]:
        """Solve the Newton system for the right-hand side given, scaled to unit diagonal.

        Its matrix is A' [ s (diag p - p p') + (s / v) p p' ] A with A from multipliers to l_ac + m_bc. It is singular along
        l_ac + k_c, m_bc - k_c, which changes nothing: those directions are filled in.
        """
        tables, n, classes = first.shape[0], first.shape[1] + second.shape[1], first.shape[2]
        matrix = self._curvature().reshape(tables, n * classes, n * classes)
        used = np.concatenate([self.first > 0, self.second > 0], axis=1).reshape(tables, -1)
        diagonal = np.einsum("tii->ti", matrix)
        scale = np.sqrt(np.where(used & (diagonal > 0), diagonal, 1.0))
        matrix /= scale[:, :, None] * scale[:, None]
        sign = np.where(np.arange(n) < first.shape[1], 1.0, -1.0)
        idle = (sign[:, None, None] * np.eye(classes)).reshape(n * classes, classes)  # one column per class
        idle = idle * (scale * used)[:, :, None]
        idle /= np.sqrt((idle**2).sum(1, keepdims=True)).clip(np.finfo(float).tiny)
        matrix += idle @ idle.transpose(0, 2, 1)
        right = np.concatenate([first, second], axis=1).reshape(tables, -1) * used / scale
        diagonal += np.where(used, _PROXIMAL + np.abs(right / scale) / _LONGEST, 1.0)
        solution = np.linalg.solve(matrix, right[:, :, None])[:, :, 0] / scale
        both = solution.reshape(tables, n, classes)
        return both[:, : first.shape[1]], both[:, first.shape[1] :]

    def _curvature(self) -> Float64[np.ndarray, "t n c n c"]:
        """The matrix of the Newton system, n = a + b multipliers per class."""
        p, mass = self.conditional, self.mass[..., None]
        weighted = np.where(self.blocks, self.mass / self.slack - self.mass, 0.0)[..., None] * p
        a, b, c = p.shape[1:]
        matrix = np.zeros((len(p), a + b, c, a + b, c))
        rows, columns, classes = np.arange(a), a + np.arange(b), np.arange(c)
        # Fancy indices far apart come first in numpy, hence the transposes.
        matrix[:, rows, :, rows] = (weighted.swapaxes(2, 3) @ p).swapaxes(0, 1)
        matrix[:, columns, :, columns] = (weighted.transpose(0, 2, 3, 1) @ p.swapaxes(1, 2)).swapaxes(0, 1)
        across = weighted[:, :, :, :, None] * p[:, :, :, None]  # (t, a, b, c, c)
        across[..., classes, classes] += mass * p
        matrix[:, :a, :, a:] = across.swapaxes(2, 3)
        matrix[:, a:, :, :a] = across.transpose(0, 2, 4, 1, 3)
        own = np.concatenate([(mass * p).sum(2), (mass * p).sum(1)], axis=1).reshape(len(p), -1)
        np.einsum("tii->ti", matrix.reshape(len(p), (a + b) * c, -1))[...] += own
        return matrix


def _slack(
    first: FirstMarginal, second: SecondMarginal, first_multiplier: FirstMarginal, second_multiplier: SecondMarginal
) -> tuple[Blocks, Tables]:
    """v_ab = -log sum_c exp(l_ac + m_bc) over the classes that both a and b have, 1 where they share none; and p."""
    possible = (first > 0)[:, :, None] & (second > 0)[:, None]
    exponent = np.where(possible, first_multiplier[:, :, None] + second_multiplier[:, None], -np.inf)
    highest = np.where(possible.any(-1), exponent.max(-1), 0.0)[..., None]
    weights = np.exp(exponent - highest)
    total = weights.sum(-1, keepdims=True)
    slack = np.where(possible.any(-1), -(highest + np.log(np.where(total > 0, total, 1.0)))[..., 0], 1.0)
    return slack, _divide(weights, total)


def _inner(one: tuple[FirstMarginal, SecondMarginal], other: tuple[FirstMarginal, SecondMarginal]) -> Float64[np.ndarray, " t"]:
    product: Float64[np.ndarray, " t"] = (one[0] * other[0]).sum((1, 2)) + (one[1] * other[1]).sum((1, 2))
    return product


def _divide(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Quotient, and 0 where the denominator is 0."""
    quotient: npt.NDArray[np.float64] = np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), 0.0)
    return quotient


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
