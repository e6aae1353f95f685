"""The characteristic function of a model: what it predicts, or how well, when only some modalities are present.

A model has no notion of an absent modality, so something must stand for it. That removal changes the answer, and its name
is part of every record. The model is any callable that takes features by name; nothing here knows what is inside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64, Int64

from ..errors import DataError, ParameterError, check_choice, check_int
from ..measure.scored import ScoredVideo
from .shapley import check_modalities, name_set

Features = Mapping[str, Any]
Model = Callable[[Any], Any]
CustomRemoval = Callable[[Model, Features, frozenset[str]], Any]
NamedRemoval = Literal["zero", "mean", "permute"]
REMOVALS: tuple[NamedRemoval, ...] = ("zero", "mean", "permute")


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
