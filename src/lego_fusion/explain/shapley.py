"""What each modality contributes: exact Shapley values, cooperation and interactions of any characteristic function.

A characteristic function v gives a value, or an array of values, to every set of modalities that is present: a metric of
a model whose other modalities are removed, the score of one video, the logit of one frame. Everything here is linear in v,
so all values of an array are explained by one product with the exact weights. ``removal`` makes v from a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float64

from ..errors import DataError, ParameterError, check_int, check_number
from ..measure.intervals import Estimate

MOST_EXACT = 12  # modalities: 2^12 = 4,096 evaluations
Value = Callable[[frozenset[str]], npt.ArrayLike]
BatchedValue = Callable[[Bool[np.ndarray, "s m"]], npt.ArrayLike]


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each of M modalities contributes to v, whose values may be numbers or arrays of any shape.

    Args:
        modalities: Names, M of them.
        values: Shapley value of each modality (M, ...); they sum to ``full - baseline``.
        baseline: v({}), (...).
        full: v of all modalities, (...).
        singles: v of each modality alone, (M, ...).
        cooperation: C = v(all) - v({}) - sum_i (v({i}) - v({})), (...): above zero where modalities are worth more together
            than alone, below zero where they are redundant.
        interactions: phi_ij (M, M, ...), symmetric, with what a modality does on its own on the diagonal; row i sums to
            ``values[i]``. None where the values were sampled.
        intershap: Share of the absolute interactions that is off the diagonal, (...) in [0, 1]; NaN where all are zero.
            None where the values were sampled.
        removal: How the other modalities were removed.
        evaluations: How often v or the model was asked, the second look at all modalities included.
        standard_errors: Of sampled values (M, ...), else None.
        intervals: Bootstrap interval of each value, then of the cooperation, where they were asked for.
        interaction_intervals: And of the interaction of each pair.
    """

    modalities: tuple[str, ...]
    values: Float64[np.ndarray, "m ..."]
    baseline: Float64[np.ndarray, "*shape"]
    full: Float64[np.ndarray, "*shape"]
    singles: Float64[np.ndarray, "m ..."]
    cooperation: Float64[np.ndarray, "*shape"]
    interactions: Float64[np.ndarray, "m m ..."] | None
    intershap: Float64[np.ndarray, "*shape"] | None
    removal: str
    evaluations: int
    standard_errors: Float64[np.ndarray, "m ..."] | None = None
    intervals: tuple[Estimate, ...] | None = None
    interaction_intervals: dict[tuple[str, str], Estimate] | None = None

    def at(self, *index: int) -> Contributions:
        """The contributions to one entry of an array of values, for example one video."""

        def pick(array: npt.NDArray[Any] | None, axes: int) -> Any:
            return None if array is None else np.asarray(array[(slice(None),) * axes + index])

        return replace(
            self,
            values=pick(self.values, 1),
            baseline=pick(self.baseline, 0),
            full=pick(self.full, 0),
            singles=pick(self.singles, 1),
            cooperation=pick(self.cooperation, 0),
            interactions=pick(self.interactions, 2),
            intershap=pick(self.intershap, 0),
            standard_errors=pick(self.standard_errors, 1),
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per modality, as JSON values: its name, Shapley value, value alone, and error or interval if there is one.

        Raises:
            ParameterError: If v gives arrays; take one entry with ``at``.
        """
        if self.values.ndim > 1:
            fix = "choose one with contributions.at(index)"
            raise ParameterError("rows of a table need one number per modality", got=f"shape {self.values.shape}", fix=fix)
        rows = []
        for place, name in enumerate(self.modalities):
            row = {"modality": name, "value": float(self.values[place]), "alone": float(self.singles[place])}
            if self.standard_errors is not None:
                row["standard_error"] = float(self.standard_errors[place])
            if self.intervals is not None:
                row |= {"low": self.intervals[place].low, "high": self.intervals[place].high}
            rows.append(row)
        return rows

    def document(self) -> dict[str, Any]:
        """Everything as JSON values.

        Raises:
            ParameterError: As ``rows``.
        """
        document: dict[str, Any] = {"modalities": self.rows(), "baseline": float(self.baseline), "full": float(self.full)}
        document["cooperation"] = {"value": float(self.cooperation)}
        if self.intervals is not None:
            document["cooperation"] |= {"low": self.intervals[-1].low, "high": self.intervals[-1].high}
            document |= {"level": self.intervals[-1].level, "drawn": self.intervals[-1].unit}
        if self.interactions is not None and self.intershap is not None:
            document["intershap"] = float(self.intershap) if np.isfinite(self.intershap) else None
            document["interactions"] = [self._pair(*pair) for pair in combinations(range(len(self.modalities)), 2)]
        return document | {"removal": self.removal, "evaluations": self.evaluations}

    def _pair(self, first: int, second: int) -> dict[str, Any]:
        names = (self.modalities[first], self.modalities[second])
        row: dict[str, Any] = {"pair": list(names)}
        if self.interactions is not None:
            row["value"] = float(self.interactions[first, second])
        if self.interaction_intervals is not None:
            row |= {"low": self.interaction_intervals[names].low, "high": self.interaction_intervals[names].high}
        return row

    def table(self) -> str:
        """The rows as text, with a last line on the whole.

        Example:
            >>> print(contributions(lambda present: 0.5 + 0.5 * (len(present) == 2), ["motion", "text"]).table())
            modality    value   alone
            motion    +0.2500  0.5000
            text      +0.2500  0.5000
            v({}) 0.5000, v(all) 1.0000, cooperation +0.5000, InterSHAP 1.00; removal: by the caller, 5 evaluations
        """
        rows = self.rows()
        width = max(len("modality"), *(len(row["modality"]) for row in rows))
        lines = [f"{'modality':<{width}}    value   alone" + self._extra_heading()]
        for row in rows:
            extra = f"  {row['standard_error']:.4f}" if "standard_error" in row else ""
            extra += f"  [{_signed(row['low'])}, {_signed(row['high'])}]" if "low" in row else ""
            lines.append(f"{row['modality']:<{width}}  {_signed(row['value'])}  {row['alone']:.4f}{extra}")
        return "\n".join([*lines, self._last_line()])

    def _extra_heading(self) -> str:
        heading = "" if self.standard_errors is None else "   error"
        return heading if self.intervals is None else f"{heading}  {100 * self.intervals[0].level:g} % interval"

    def _last_line(self) -> str:
        line = f"v({{}}) {float(self.baseline):.4f}, v(all) {float(self.full):.4f}"
        line += f", cooperation {_signed(float(self.cooperation))}"
        if self.intervals is not None:
            line += f" [{_signed(self.intervals[-1].low)}, {_signed(self.intervals[-1].high)}]"
        line += "" if self.intershap is None else f", InterSHAP {float(self.intershap):.2f}"
        return f"{line}; removal: {self.removal}, {self.evaluations} evaluations"


def contributions(
    value: Value | BatchedValue,
    modalities: Sequence[str],
    *,
    batched: bool = False,
    baseline: float | npt.ArrayLike | None = None,
    removal: str = "by the caller",
    tolerance: float = 1e-6,
) -> Contributions:
    """Exact Shapley values, cooperation and interactions of a characteristic function, from all 2^M sets of modalities.

    phi_i = sum_S |S|! (M - |S| - 1)! / M! (v(S + i) - v(S)) over the sets S without i.

    Args:
        value: v: takes the frozen set of the names that are present, returns a number or an array, always of one shape.
            With ``batched``: takes a bool array (S, M), one row per set, one column per modality, and returns (S, ...).
        modalities: Names, 1 to 12 of them.
        batched: Which of the two ``value`` is.
        baseline: v({}) if it is not to be asked of ``value``, for example the metric of a constant majority predictor. The
            dummy axiom then fails: a modality that the model ignores gets a value other than zero where
            v({i}) != v({}), which is where the model without any input is not the majority predictor.
        removal: Name of the removal that ``value`` applies, for the record.
        tolerance: v(all) is evaluated twice; the two may differ by ``tolerance`` times the larger of 1 and max |v(all)|.

    Returns:
        The contributions, with one axis of modalities before the axes of the values.

    Raises:
        ParameterError: If there are more than 12 modalities.
        DataError: If a value is not finite, shapes differ between sets, or v(all) differs between two evaluations.

    Source: Shapley (1953); Hu et al., SHAPE, arXiv 2205.00302, for cooperation; Wenderoth et al., InterSHAP.

    Example:
        >>> xor = contributions(lambda present: 1.0 if len(present) == 2 else 0.5, ["motion", "text"])
        >>> xor.values.tolist(), float(xor.cooperation)
        ([0.25, 0.25], 0.5)
    """
    names = check_modalities(modalities)
    require_few(names)
    subsets = all_subsets(len(names))
    asked = subsets if baseline is None else subsets[1:]
    values = _evaluate(value, names, asked, batched)
    again = _evaluate(value, names, subsets[-1:], batched)
    require_repeatable(np.asarray(values[-1]), np.asarray(again[0]), tolerance)
    if baseline is not None:
        values = np.concatenate([np.broadcast_to(np.asarray(baseline, np.float64), values.shape[1:])[None], values])
    return contributions_from_values(values, names, removal=removal, evaluations=len(asked) + 1)


def contributions_from_values(
    values: Float64[np.ndarray, "s ..."], modalities: Sequence[str], *, removal: str, evaluations: int | None = None
) -> Contributions:
    """The same from the values of all sets, (2^M, ...), in the order of ``all_subsets``.

    Example:
        >>> contributions_from_values(np.array([0.5, 1.0, 0.5, 1.0]), ["motion", "text"], removal="zero").values.tolist()
        [0.5, 0.0]
    """
    names = check_modalities(modalities)
    require_few(names)
    if len(values) != 2 ** len(names):
        raise DataError("values of some sets are missing", expected=f"2^{len(names)} = {2 ** len(names)}", got=len(values))
    _require_finite(values, names, all_subsets(len(names)))
    shapley = np.tensordot(shapley_weights(len(names)), values, 1)
    interactions = np.tensordot(interaction_weights(len(names)), values, 1)  # (M, M, ...), zero on the diagonal
    diagonal = np.arange(len(names))
    interactions[diagonal, diagonal] = shapley - interactions.sum(1)
    singles = values[2**diagonal]
    baseline, full = np.asarray(values[0]), np.asarray(values[-1])
    return Contributions(
        modalities=names,
        values=shapley,
        baseline=baseline,
        full=full,
        singles=singles,
        cooperation=_cooperation(baseline, full, singles),
        interactions=interactions,
        intershap=_intershap(interactions, len(values) * float(np.abs(values).max(initial=0.0))),
        removal=removal,
        evaluations=len(values) if evaluations is None else evaluations,
    )


def sampled_contributions(
    value: Value,
    modalities: Sequence[str],
    *,
    permutations: int = 200,
    seed: int = 0,
    baseline: float | npt.ArrayLike | None = None,
    removal: str = "by the caller",
    tolerance: float = 1e-6,
) -> Contributions:
    """Shapley values by Monte Carlo, for more modalities than 2^M evaluations allow.

    The modalities enter in random orders; a value is the mean, over R orders, of what v gained when the modality entered. It
    is unbiased, sums to v(all) - v({}) exactly, and its standard error is the deviation over orders / sqrt(R).

    Args:
        value: As for ``contributions``, not batched; each set is asked for once only.
        modalities: Names, at least one.
        permutations: R, 2 or more.
        seed: Of the orders.
        baseline: As for ``contributions``.
        removal: As for ``contributions``.
        tolerance: As for ``contributions``.

    Returns:
        The contributions with standard errors; baseline, full value, singles and cooperation are exact, interactions None.

    Raises:
        DataError: As ``contributions``.

    Source: Castro, Gomez and Tejada, Polynomial calculation of the Shapley value based on sampling (2009).

    Example:
        >>> names = [f"sensor{number}" for number in range(20)]
        >>> sampled_contributions(lambda present: len(present) ** 2 / 400, names).values.sum().round(9).item()
        1.0
    """
    names = check_modalities(modalities)
    check_int(permutations, "permutations", "sampled_contributions", low=2)
    generator = np.random.default_rng(check_int(seed, "seed", "sampled_contributions", low=0))
    known: dict[frozenset[str], Float64[np.ndarray, "*shape"]] = {}

    def look_up(present: Iterable[str]) -> Float64[np.ndarray, "*shape"]:
        key = frozenset(present)
        if key not in known:
            known[key] = _evaluate_one(value, key)
            _require_one_shape([next(iter(known.values())), known[key]])
        return known[key]

    full = look_up(names)
    require_repeatable(full, _evaluate_one(value, frozenset(names)), tolerance)
    if baseline is not None:
        known[frozenset()] = np.broadcast_to(np.asarray(baseline, np.float64), full.shape)
    singles = np.stack([look_up([name]) for name in names])
    gains = np.empty((permutations, len(names), *full.shape))
    for number in range(permutations):
        order = generator.permutation(len(names))
        path = np.stack([look_up(names[place] for place in order[:size]) for size in range(len(names) + 1)])
        gains[number, order] = np.diff(path, axis=0)
    return Contributions(
        modalities=names,
        values=gains.mean(0),
        baseline=look_up(()),
        full=full,
        singles=singles,
        cooperation=_cooperation(look_up(()), full, singles),
        interactions=None,
        intershap=None,
        removal=removal,
        evaluations=len(known) + (baseline is None),  # one more for the repeat, one less where v({}) was given
        standard_errors=gains.std(0, ddof=1) / np.sqrt(permutations),
    )


def all_subsets(count: int) -> Bool[np.ndarray, "s m"]:
    """Every set of ``count`` modalities as a row (2^M, M): the empty one first, modality i in row s where bit i of s is set.

    Example:
        >>> all_subsets(2).astype(int).tolist()
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)


def shapley_weights(count: int) -> Float64[np.ndarray, "m s"]:
    """W (M, 2^M) with phi = W v: +(|S|-1)! (M-|S|)! / M! where i is in S, -|S|! (M-|S|-1)! / M! where it is not.

    Example:
        >>> shapley_weights(2).tolist()
        [[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]]
    """
    subsets = all_subsets(count)  # (S, M)
    others = subsets.sum(1)[:, None] - subsets  # |S without i|
    share = np.array([factorial(size) * factorial(count - size - 1) / factorial(count) for size in range(count)])
    weights: Float64[np.ndarray, "m s"] = np.where(subsets, 1.0, -1.0).T * share[others].T
    return weights


def interaction_weights(count: int) -> Float64[np.ndarray, "m m s"]:
    """W (M, M, 2^M), zero where i = j, with phi_ij = sum_S W_ijS v(S), which is half of the Shapley interaction index.

    phi_ij = sum_S |S|! (M-|S|-2)! / (2 (M-1)!) [v(S+ij) - v(S+i) - v(S+j) + v(S)] over the sets S without i and j.

    Example:
        >>> interaction_weights(2)[0, 1].tolist()
        [0.5, -0.5, -0.5, 0.5]
    """
    weights = np.zeros((count, count, 2**count))
    if count == 1:
        return weights
    subsets = all_subsets(count).T  # (M, S)
    sign = np.where(subsets[:, None] == subsets[None], 1.0, -1.0)
    others = subsets.sum(0) - subsets[:, None] - subsets[None].astype(int)  # |S without i and j|
    share = [factorial(size) * factorial(count - size - 2) / (2 * factorial(count - 1)) for size in range(count - 1)]
    different = ~np.eye(count, dtype=bool)
    weights[different] = sign[different] * np.array(share)[others[different]]
    return weights


def check_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple, once it is sure that there are some and that they differ."""
    names = tuple(modalities)
    if isinstance(modalities, str) or not names or len(set(names)) < len(names):
        raise ParameterError("contributions need different names of modalities", expected="at least one name", got=modalities)
    return names


def require_few(names: Sequence[str]) -> None:
    """Raise ``ParameterError`` where 2^M evaluations are too many."""
    if len(names) > MOST_EXACT:
        raise ParameterError(
            f"exact Shapley values of {len(names)} modalities need 2^{len(names)} = {2 ** len(names)} evaluations",
            expected=f"at most {MOST_EXACT} modalities",
            got=len(names),
            fix="sample: sampled_contributions(value, modalities, permutations=200), or model_contributions(permutations=200)",
        )


def require_repeatable(first: npt.NDArray[Any], second: npt.NDArray[Any], tolerance: float) -> None:
    """Raise ``DataError`` unless two evaluations on the full set agree."""
    check_number(tolerance, "tolerance", "contributions", low=0.0)
    if first.shape != second.shape:
        largest, scale = float("inf"), 1.0
    elif first.dtype.kind in "biuf":
        largest = float(np.abs(first.astype(np.float64) - second.astype(np.float64)).max(initial=0.0))
        scale = max(1.0, float(np.abs(first).max(initial=0)))
    else:
        largest, scale = float((first != second).mean()), 1.0
    if largest > tolerance * scale:
        raise DataError(
            "the model is not deterministic",
            where="evaluated twice with all modalities",
            expected=f"a difference of at most {tolerance * scale:g}",
            got=f"a largest difference of {largest:.3g}",
            fix="switch dropout off with model.eval(), fix its seed, or raise tolerance",
        )


def name_set(present: Iterable[str]) -> str:
    """A set of modalities in words."""
    return ", ".join(sorted(present)) or "no modality"


def _signed(number: float) -> str:
    """Four decimals with a sign, and no negative zero."""
    return f"{round(number, 4) + 0.0:+.4f}"


def _evaluate(
    value: Any, names: Sequence[str], subsets: Bool[np.ndarray, "s m"], batched: bool
) -> Float64[np.ndarray, "s ..."]:
    """The values of some sets, with their shapes checked."""
    if batched:
        values = np.asarray(value(subsets), np.float64)
        if values.ndim == 0 or len(values) != len(subsets):
            raise DataError("a batched value has a wrong shape", expected=f"({len(subsets)}, ...)", got=values.shape)
        _require_finite(values, names, subsets)
        return values
    by_set = [_evaluate_one(value, frozenset(np.array(names)[row].tolist())) for row in subsets]
    _require_one_shape(by_set)
    return np.stack(by_set)


def _require_one_shape(values: Iterable[npt.NDArray[Any]]) -> None:
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        raise DataError("values of different sets have different shapes", expected="one shape", got=sorted(shapes))


def _evaluate_one(value: Value, present: frozenset[str]) -> Float64[np.ndarray, "*shape"]:
    result = np.asarray(value(present), np.float64)
    _require_finite(result[None], sorted(present), np.ones((1, len(present)), bool))
    return result


def _require_finite(values: Float64[np.ndarray, "s ..."], names: Sequence[str], subsets: Bool[np.ndarray, "s m"]) -> None:
    """Raise ``DataError`` that names the first set whose value is not finite."""
    wrong = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if wrong.any():
        first = int(wrong.argmax())
        present = [name for name, is_present in zip(names, subsets[first], strict=True) if is_present]
        bad = values[first].ravel()[~np.isfinite(values[first].ravel())][0]
        raise DataError(
            "the value of a set of modalities is not finite",
            where=f"with {name_set(present)}",
            expected="finite numbers",
            got=bad,
            fix="look at the model's output on that set; a metric of two classes needs both",
        )


def _cooperation(
    baseline: Float64[np.ndarray, "*shape"], full: Float64[np.ndarray, "*shape"], singles: Float64[np.ndarray, "m ..."]
) -> Float64[np.ndarray, "*shape"]:
    return np.asarray(full - baseline - (singles - baseline).sum(0))


def _intershap(interactions: Float64[np.ndarray, "m m ..."], scale: float) -> Float64[np.ndarray, "*shape"]:
    """sum_{i != j} |phi_ij| / sum_ij |phi_ij|, NaN where nothing has an effect beyond rounding."""
    size = np.abs(interactions)
    total = np.asarray(size.sum((0, 1)))
    shared = np.maximum(total - np.trace(size), 0.0)  # the trace of the first two axes
    return np.asarray(np.divide(shared, total, out=np.full(total.shape, np.nan), where=total > 1e-14 * scale))
