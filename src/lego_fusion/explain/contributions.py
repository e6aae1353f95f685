"""Contributions of the modalities of a model, with bootstrap intervals over its samples or videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int64

from ..errors import ParameterError, check_choice, check_int, check_number
from ..measure.intervals import Estimate, combined_intervals, percentile_interval
from .removal import CustomRemoval, Features, Model, ModelValue, NamedRemoval
from .shapley import (
    Contributions,
    all_subsets,
    check_modalities,
    contributions_from_values,
    interaction_weights,
    require_few,
    require_repeatable,
    sampled_contributions,
    shapley_weights,
)


def model_contributions(
    model: Model | Sequence[Model],
    features: Features,
    metric: Callable[..., Any] | None = None,
    *,
    targets: npt.ArrayLike | None = None,
    removal: NamedRemoval | CustomRemoval = "mean",
    background: Features | None = None,
    label: str | None = None,
    repeats: int = 8,
    baseline: Literal["model", "majority"] | float = "model",
    permutations: int | None = None,
    resamples: int = 0,
    level: float = 0.95,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Contributions:
    """What each modality contributes to a model's metric, or to each of its predictions.

    Args:
        model: As for ``ModelValue``.
        features: As for ``ModelValue``.
        metric: As for ``ModelValue``; None explains every prediction, each on its own.
        targets: As for ``ModelValue``.
        removal: As for ``ModelValue``; it is named in the record.
        background: As for ``ModelValue``.
        label: As for ``ModelValue``.
        repeats: As for ``ModelValue``.
        baseline: v({}): ``"model"`` for the model with everything removed; ``"majority"`` for the metric of the constant
            predictor of the most frequent target, which breaks the dummy axiom (see ``contributions``); or a number, for
            example 0.5 for an AUC.
        permutations: None for exact values, at most 12 modalities; a number samples that many orders of modalities.
        resamples: Bootstrap resamples of the samples (of the videos, where the model returns ``ScoredVideo``) for an interval
            of every value, of the cooperation and of the interactions; 0 for none. Needs a metric with one value, and exact
            values. Samples are drawn within each class where targets are integers, booleans or text. The model is not asked
            again.
        level: Share of resamples inside the interval, in (0, 1).
        tolerance: The model is evaluated twice on the full set; its predictions may differ by ``tolerance`` times the larger
            of 1 and their maximum.
        seed: Of permutations and resamples.

    Returns:
        The contributions; ``evaluations`` counts calls of the model.

    Raises:
        DataError: If predictions are not finite, the model is not deterministic, or a metric of two classes meets one.
        ParameterError: If there are more than 12 modalities and ``permutations`` is None, or parameters do not fit together.

    Example:
        >>> bits = {"x1": np.array([0, 0, 1, 1]), "x2": np.array([0, 1, 0, 1])}
        >>> def accuracy(targets, predictions):
        ...     return (targets == predictions).mean()
        >>> told = model_contributions(
        ...     lambda x: x["x1"] & x["x2"], bits, accuracy, targets=[0, 0, 0, 1], removal="zero", baseline="majority"
        ... )
        >>> told.values.tolist(), float(told.cooperation)
        ([0.125, 0.125], 0.25)
    """
    value = ModelValue(model, features, metric, targets, removal, background, label, repeats, seed)
    names = check_modalities(list(features))
    check_int(resamples, "resamples", "model_contributions", low=0)
    if permutations is None:
        require_few(names)
    floor = _baseline_value(value, baseline)
    full = value.predictions(frozenset(names))
    again = value.predictions(frozenset(names))
    for one, other in zip(full, again, strict=True):
        _require_same_predictions(value, one, other, tolerance)
    if permutations is not None:
        return _sampled(value, names, permutations, resamples, floor, seed)
    subsets = [frozenset(np.array(names)[row].tolist()) for row in all_subsets(len(names))]
    by_set = [value.predictions(present) for present in subsets[floor is not None : -1]] + [full]
    values = [value.value_of(predictions) for predictions in by_set]
    if floor is not None:
        values.insert(0, np.broadcast_to(floor, values[-1].shape))
    record = contributions_from_values(
        np.stack(values), names, removal=value.removal_name, evaluations=sum(map(len, by_set)) + len(again)
    )
    if resamples == 0:
        return record
    found, own = _intervals(value, by_set, baseline, resamples, level), len(names) + 1
    pairs = dict(zip(combinations(names, 2), found[own:], strict=True))
    return replace(record, intervals=found[:own], interaction_intervals=pairs)


def _sampled(
    value: ModelValue, names: tuple[str, ...], permutations: int, resamples: int, floor: float | None, seed: int
) -> Contributions:
    if resamples:
        raise ParameterError("intervals over samples need exact values", fix="leave out permutations, or resamples")
    calls = 0

    def counted(present: frozenset[str]) -> Float64[np.ndarray, "*shape"]:
        nonlocal calls
        predictions = value.predictions(present)
        calls += len(predictions)
        return value.value_of(predictions)

    record = sampled_contributions(
        counted, names, permutations=permutations, seed=seed, baseline=floor, removal=value.removal_name
    )
    return replace(record, evaluations=calls + 2 * len(value.models))


def _baseline_value(value: ModelValue, baseline: str | float) -> float | None:
    """The number that stands for v({}), or None where the model is asked."""
    if isinstance(baseline, str):
        check_choice(baseline, "baseline", "model_contributions", ("model", "majority"))
        if baseline == "majority" and (value.metric is None or value.targets is None):
            fix = "give metric and targets, or a number"
            raise ParameterError("the majority predictor needs a metric and targets", fix=fix)
        return None if baseline == "model" else value.majority(np.asarray(value.targets))
    return check_number(baseline, "baseline", "model_contributions", low=-float("inf"))


def _require_same_predictions(value: ModelValue, first: Any, second: Any, tolerance: float) -> None:
    if not isinstance(first, np.ndarray):
        first, second = (value.measure(one, value.targets) for one in (first, second))
    require_repeatable(first, second, tolerance)


def _intervals(
    value: ModelValue, by_set: list[list[Any]], baseline: str | float, resamples: int, level: float
) -> tuple[Estimate, ...]:
    """Intervals of the Shapley values, of the cooperation and of the interactions, from predictions made once.

    All are linear in v, and v is the mean over repeats: their rows of weights are spread over the repeats.
    """
    if value.metric is None:
        raise ParameterError("intervals over samples need a metric", fix="give a metric, or leave out resamples")
    weights = _all_weights(len(value.features))
    from_model = weights[:, -len(by_set) :]  # without the first column where v({}) is given
    runs = [run for repeats in by_set for run in repeats]
    shares = np.concatenate(
        [
            np.repeat(column[:, None] / len(repeats), len(repeats), 1)
            for column, repeats in zip(from_model.T, by_set, strict=True)
        ],
        axis=1,
    )
    if not isinstance(runs[0], np.ndarray):
        offsets = np.zeros(len(weights)) if isinstance(baseline, str) else weights[:, 0] * baseline
        metric = value.metric
        return tuple(
            combined_intervals(runs, shares, metric, offsets=offsets, resamples=resamples, level=level, seed=value.seed)
        )
    return _sample_intervals(value, runs, shares, weights[:, 0], baseline, resamples, level)


def _sample_intervals(
    value: ModelValue,
    runs: list[npt.NDArray[Any]],
    shares: Float64[np.ndarray, "k r"],
    first: Float64[np.ndarray, " k"],
    baseline: str | float,
    resamples: int,
    level: float,
) -> tuple[Estimate, ...]:
    """The same for predictions that come as arrays with one row per sample."""
    if value.targets is None or any(len(run) != len(np.asarray(value.targets)) for run in runs):
        raise ParameterError("intervals over samples need one target and one prediction per sample", fix="give targets")
    targets = np.asarray(value.targets)

    def combined(rows: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " k"]:
        given = value.majority(targets[rows]) if baseline == "majority" else baseline
        from_model: Float64[np.ndarray, " k"]
        from_model = shares @ np.array([float(value.measure(run[rows], targets[rows])) for run in runs])
        return from_model if isinstance(given, str) else from_model + first * given

    everyone = combined(np.arange(len(targets)))
    samples = np.stack([combined(rows) for rows in _draw_samples(targets, resamples, value.seed)], axis=1)  # (k, resamples)
    return tuple(percentile_interval(float(one), row, level, "sample") for one, row in zip(everyone, samples, strict=True))


def _draw_samples(targets: npt.NDArray[Any], resamples: int, seed: int) -> list[Int64[np.ndarray, " n"]]:
    """Positions of the samples of each resample, within each class where there are classes."""
    generator = np.random.default_rng(seed)
    members = [np.arange(len(targets))]
    if targets.ndim == 1 and targets.dtype.kind in "biuUS":
        members = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    return [np.concatenate([generator.choice(group, len(group)) for group in members]) for _ in range(resamples)]


def _all_weights(count: int) -> Float64[np.ndarray, "k s"]:
    """The rows that make the Shapley values, then the cooperation, then the interaction of each pair from v of all sets."""
    cooperation = np.zeros(2**count)
    cooperation[2 ** np.arange(count)] = -1.0
    cooperation[0] += count - 1
    cooperation[-1] += 1.0
    first, second = np.triu_indices(count, 1)
    return np.concatenate([shapley_weights(count), cooperation[None], interaction_weights(count)[first, second]])
