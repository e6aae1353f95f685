"""Contributions of the modalities of a model: what it reaches with some of them only, with bootstrap intervals.

A model has no notion of an absent modality, so something must stand for it. That removal changes the answer, and its name
is part of every record. The model is any callable that takes features by name; nothing here knows what is inside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64, Int64

from ..errors import DataError, ParameterError, check_choice, check_int, check_number, with_changes
from ..measure.intervals import Estimate, combined_intervals
from ..measure.scored import ScoredVideo
from .shapley import (
    Contributions,
    all_subsets,
    check_modalities,
    contributions_from_values,
    interaction_weights,
    name_set,
    require_few,
    require_repeatable,
    sampled_contributions,
    shapley_weights,
)

Features = Mapping[str, Any]
Model = Callable[[Any], Any]
CustomRemoval = Callable[[Model, Features, frozenset[str]], Any]
NamedRemoval = Literal["zero", "mean", "permute"]
REMOVALS: tuple[NamedRemoval, ...] = ("zero", "mean", "permute")


@dataclass(frozen=True)
class Removal:
    """How a modality is taken from a model; as for ``ModelValue``."""

    removal: NamedRemoval | CustomRemoval = "mean"
    background: Features | None = None
    label: str | None = None
    repeats: int = 8


@dataclass(frozen=True, eq=False)
class ModelValue:
    """v(S) of a model: its metric, or its predictions, with the modalities outside S removed.

    Args:
        model: Takes features by name, as arrays or tensors with the samples along the first axis; returns predictions as an
            array or tensor, or as a list of ``ScoredVideo``. Several models of one kind, such as one per training seed, may be
            given as a list: v is the mean over them, each with the same stand-ins.
        features: What the model takes, by name; the names are the modalities.
        metric: Value of predictions: ``metric(targets, predictions)`` as in scikit-learn where targets are given, else
            ``metric(predictions)``; None for the predictions themselves.
        targets: Ground truth of the samples (n, ...), or None.
        removal: ``"zero"``: zeros. ``"mean"``: the mean over every axis but the last (the only one, if there is one).
            ``"permute"``: rows of other samples, the same for all removed modalities, so that their relation to each
            other stays; v is the mean over ``repeats`` permutations, the same for every S (the marginal).
            Or a function ``(model, features, absent names) -> predictions``, for example one that drops the terms of a
            modality from the model.
        background: Features to take stand-ins from instead, by name: ``"mean"`` uses their mean, ``"permute"`` draws rows of
            theirs, again the same for all removed modalities. For a detector of what is unusual, give normal samples:
            to it, zeros or a mean of everything may be the most unusual input of all.
        label: Name of the removal in the record; None for its own name.
        repeats: Permutations of ``"permute"``.
        seed: Of the permutations.

    Example:
        >>> bits = {"x1": np.array([0, 0, 1, 1]), "x2": np.array([0, 1, 0, 1])}
        >>> xor = ModelValue(lambda x: x["x1"] ^ x["x2"], bits, removal="zero")
        >>> xor(frozenset({"x1"})).tolist()
        [0.0, 0.0, 1.0, 1.0]
    """

    model: Model | Sequence[Model]
    features: Features
    metric: Callable[..., Any] | None = None
    targets: npt.ArrayLike | None = None
    removal: NamedRemoval | CustomRemoval = "mean"
    background: Features | None = None
    label: str | None = None
    repeats: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_modalities(list(self.features))
        if not self.models:
            raise ParameterError("there is no model to explain", expected="at least one")
        if callable(self.removal):
            if self.background is not None:
                raise ParameterError("a removal that is a function takes no background", fix="close over it in the function")
        else:
            check_choice(self.removal, "removal", "ModelValue", REMOVALS)
            _check_background(self.features, self.background, self.removal)
            _check_samples(self.features, self.removal, others=2 if self.background is None else 1)
            if self.background is not None:
                _check_samples({name: self.background[name] for name in self.features}, self.removal, others=1)
        check_int(self.repeats, "repeats", "ModelValue", low=1)
        check_int(self.seed, "seed", "ModelValue", low=0)

    @property
    def models(self) -> tuple[Model, ...]:
        """The models, one or more."""
        return (self.model,) if callable(self.model) else tuple(self.model)

    @property
    def removal_name(self) -> str:
        """The removal as the record names it."""
        if self.label is not None:
            return self.label
        named = str(getattr(self.removal, "__name__", "custom")) if callable(self.removal) else self.removal
        if self.removal == "permute":
            named += f", {self.repeats} " + ("permutations" if self.background is None else "draws")
        return named if self.background is None else f"{named} of the background"

    def __call__(self, present: frozenset[str]) -> Float64[np.ndarray, "*shape"]:
        """The value of one set of modalities."""
        return self.value_of(self.predictions(present))

    def value_of(self, predictions: Sequence[Any]) -> Float64[np.ndarray, "*shape"]:
        """The mean value of predictions over models and the repeats of one removal."""
        return np.asarray(np.mean([self.measure(one, self.targets) for one in predictions], axis=0))

    def predictions(self, present: frozenset[str]) -> list[Any]:
        """What each model predicts when only these modalities are present, once per repeat of a random removal."""
        absent = frozenset(self.features) - present
        if not absent:
            outputs = [model(dict(self.features)) for model in self.models]
        elif callable(self.removal):
            outputs = [self.removal(model, self.features, absent) for model in self.models]
        elif self.removal == "permute":
            inputs = [self._without(absent, _rows_of(order)) for order in self._orders()]
            outputs = [model(one) for model in self.models for one in inputs]
        else:
            outputs = [model(self._without(absent, _zeros if self.removal == "zero" else _mean)) for model in self.models]
        return [_checked(output, present) for output in outputs]

    def measure(self, predictions: Any, targets: npt.ArrayLike | None) -> Float64[np.ndarray, "*shape"]:
        """The metric of some predictions.

        Raises:
            DataError: If the metric has no value because the targets hold one class only.
        """
        if self.metric is None:
            return np.asarray(predictions, np.float64)
        arguments = (predictions,) if targets is None else (np.asarray(targets), predictions)
        one_class = targets is not None and len(np.unique(np.asarray(targets))) < 2
        with warnings.catch_warnings():
            if one_class:  # scikit-learn only warns, and gives NaN or a number that means nothing
                warnings.simplefilter("error", UserWarning)
            try:
                value = np.asarray(self.metric(*arguments), np.float64)
            except (ValueError, UserWarning) as error:
                if not one_class:
                    raise
                raise _one_class(targets) from error
        if one_class and not np.isfinite(value).all():
            raise _one_class(targets)
        return value

    def majority(self, targets: npt.ArrayLike) -> float:
        """The metric of the constant predictor of the most frequent target."""
        classes, counts = np.unique(np.asarray(targets), return_counts=True)
        constant = np.full(np.shape(targets), classes[counts.argmax()])
        return float(self.measure(constant, targets))

    def _without(self, absent: frozenset[str], stand_in: Callable[[Any, Any], Any]) -> dict[str, Any]:
        source = self.background or self.features
        return {name: stand_in(value, source[name]) if name in absent else value for name, value in self.features.items()}

    def _orders(self) -> list[Int64[np.ndarray, " n"]]:
        """Which row stands for each sample, once per repeat: always the same for one seed."""
        generator = np.random.default_rng(self.seed)
        rows = len(next(iter(self.features.values())))
        if self.background is None:
            return [generator.permutation(rows) for _ in range(self.repeats)]
        drawn_from = len(self.background[next(iter(self.features))])
        return [generator.integers(0, drawn_from, rows) for _ in range(self.repeats)]


def _check_background(features: Features, background: Features | None, removal: str) -> None:
    if background is None:
        return
    if removal == "zero":
        raise ParameterError("zeros need no background", fix="choose removal='mean' or 'permute', or leave background out")
    missing = [name for name in features if name not in background]
    if missing:
        raise DataError(f"modality '{missing[0]}' is missing", where="background", got=", ".join(background) or "nothing")
    for name, value in features.items():
        if tuple(background[name].shape[1:]) != tuple(value.shape[1:]):
            raise DataError(
                "samples have another shape",
                where=f"background, modality '{name}'",
                expected=tuple(value.shape[1:]),
                got=tuple(background[name].shape[1:]),
            )


def _check_samples(features: Features, removal: str, *, others: int) -> None:
    lengths = {name: len(value) for name, value in features.items()}
    if removal != "permute":
        return
    if len(set(lengths.values())) > 1:
        raise DataError("modalities have different numbers of samples", expected="one number", got=lengths)
    if min(lengths.values()) < others:
        raise DataError(
            "a permutation needs other samples", expected=f"at least {others}", got=min(lengths.values()), fix="use 'mean'"
        )


def _checked(output: Any, present: frozenset[str]) -> Any:
    """Predictions as an array, finite where they are numbers; scored videos as they are."""
    if isinstance(output, list | tuple) and output and isinstance(output[0], ScoredVideo):
        return output
    array = output.detach().cpu().numpy() if isinstance(output, torch.Tensor) else np.asarray(output)
    wrong = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros(1, bool)
    if wrong.any():
        raise DataError(
            "predictions are not finite",
            where=f"with {name_set(present)}",
            expected="finite numbers",
            got=f"{int(wrong.sum())} of {array.size} are NaN or infinite",
            fix="look for NaN in the features, or choose another removal",
        )
    return array


def _one_class(targets: npt.ArrayLike | None) -> DataError:
    return DataError(
        "the metric needs two classes",
        where="targets",
        expected="samples of at least two classes",
        got=f"only {np.asarray(targets).ravel()[0]}",
        fix="add samples of another class, or explain predictions instead (metric=None)",
    )


def _zeros(feature: Any, source: Any) -> Any:
    return torch.zeros_like(feature) if isinstance(feature, torch.Tensor) else np.zeros_like(feature)


def _mean(feature: Any, source: Any) -> Any:
    """The mean of each column of the source in every row."""
    axes = tuple(range(max(1, source.ndim - 1)))
    if isinstance(feature, torch.Tensor):
        number = source if source.is_floating_point() else source.double()
        return number.mean(axes, keepdim=True).expand(feature.shape)
    return np.broadcast_to(np.mean(source, axis=axes, keepdims=True), np.shape(feature))


def _rows_of(order: Int64[np.ndarray, " n"]) -> Callable[[Any, Any], Any]:
    """A function that takes these rows of the source."""
    return lambda feature, source: source[
        torch.from_numpy(order).to(source.device) if isinstance(source, torch.Tensor) else order
    ]


def model_contributions(
    model: Model | Sequence[Model],
    features: Features,
    metric: Callable[..., Any] | None = None,
    *,
    targets: npt.ArrayLike | None = None,
    baseline: Literal["model", "majority"] | float = "model",
    permutations: int | None = None,
    resamples: int = 0,
    level: float = 0.95,
    tolerance: float = 1e-6,
    seed: int = 0,
    **removal: Any,
) -> Contributions:
    """What each modality contributes to a model's metric, or to each of its predictions.

    Args:
        model: As for ``ModelValue``.
        features: As for ``ModelValue``.
        metric: As for ``ModelValue``; None explains every prediction, each on its own.
        targets: As for ``ModelValue``.
        baseline: v({}): ``"model"`` for the model with everything removed; ``"majority"`` for the metric of the constant
            predictor of the most frequent target, which breaks the dummy axiom (see ``contributions``); or a number, for
            example 0.5 for an AUC.
        permutations: None for exact values, at most 12 modalities; a number samples that many orders of modalities.
        resamples: Bootstrap resamples of the samples for an interval of every value, of the cooperation and of the
            interactions; 0 for none. Needs a metric with one value, and exact values. Samples are drawn within each class where
            targets are integers, booleans or text. Where the model returns ``ScoredVideo``, any number above 0 gives the
            intervals over videos of ``measure.intervals``, which draw nothing. The model is not asked again.
        level: How often an interval is to hold the true value, in (0, 1).
        tolerance: The model is evaluated twice on the full set; its predictions may differ by ``tolerance`` times the larger
            of 1 and their maximum.
        seed: Of permutations and resamples.
        removal: How modalities are removed, fields of ``Removal`` by name: ``removal="zero"``, ``background``, ``label``,
            ``repeats``; it is named in the record.

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
    chosen: Removal = with_changes(Removal(), removal, "model_contributions")
    value = ModelValue(model, features, metric, targets, seed=seed, **vars(chosen))
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
        return tuple(combined_intervals(runs, shares, metric, offsets=offsets, level=level))
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
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=1)
    ends = zip(everyone, np.fmin(low, everyone), np.fmax(high, everyone), strict=True)
    return tuple(Estimate(float(one), float(least), float(most), level, "sample") for one, least, most in ends)


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
