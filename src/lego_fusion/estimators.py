"""Scikit-learn estimators for multi-view samples: the fusion operator as multiple kernel learning, with a readable A.

Every view gives a cosine and a Gaussian kernel; every pair of views the products of those (order 1). Their weights A are
learned from the leave-one-out error of kernel ridge, and kernel ridge on the mixture predicts: see ``graph.kernel_learning``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from .data.views import View, check_finite, column_groups, column_names, is_multi_view, named_views, views_of_frame
from .errors import DataError, ParameterError, check_choice, check_int, check_number
from .graph.kernel_learning import MIXTURES
from .kernel_mixture import KernelMixture, MixtureOptions

SPARSE = 0.3  # share of numbers that are not zero above which a sparse view is no text


class Coefficients(dict[str, float]):
    """The share of every kernel in the operator, largest first; prints as a table.

    Example:
        >>> print(Coefficients({"gaussian(motion)": 0.75, "cosine(text)": 0.25}))
        gaussian(motion)  75.0 %
        cosine(text)      25.0 %
    """

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:<{width}}  {100 * share:4.1f} %" for name, share in self.items())


class _LegoKernelRidge(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: reading views, learning A, the ridge on top, its predictions."""

    def __init__(
        self,
        *,
        view_columns: Any = None,
        text_views: Any = None,
        weights: str = "averaged",
        steps: int = 50,
        ridge: float | None = None,
        n_landmarks: int = 1000,
        folds: int = 5,
        missing_views: str = "solve",
        random_state: Any = 0,
    ) -> None:
        self.view_columns = view_columns
        self.text_views = text_views
        self.weights = weights
        self.steps = steps
        self.ridge = ridge
        self.n_landmarks = n_landmarks
        self.folds = folds
        self.missing_views = missing_views
        self.random_state = random_state

    _multi_view: bool

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self) -> None:
        owner = type(self).__name__
        check_choice(self.weights, "weights", owner, MIXTURES)
        check_int(self.steps, "steps", owner, low=0)
        check_int(self.folds, "folds", owner, low=0)
        if self.folds == 1:
            raise ParameterError("one fold leaves no rows to fit", expected="0, or at least 2", got="folds=1")
        check_int(self.n_landmarks, "n_landmarks", owner, low=2)
        if self.ridge is not None:
            check_number(self.ridge, "ridge", owner, low=1e-12)
        check_choice(self.missing_views, "missing_views", owner, ("solve", "error"))

    def _read(self, X: Any, *, reset: bool) -> dict[str, View]:
        """Samples in any form as checked views by name; at prediction time, those of the training views that are there."""
        if self.view_columns is None and (frames := views_of_frame(X)):
            X = frames
        if not is_multi_view(X):
            return self._read_array(X, reset=reset)
        if not reset and not self._multi_view:
            raise DataError("samples come as separate views, training came as one array", fix="give one array")
        if reset and self.view_columns is not None:
            raise ParameterError(
                "view_columns cuts one array, and samples come as separate views", fix="leave view_columns out"
            )
        if not reset and not isinstance(X, Mapping) and len(X) != len(self.view_names_):
            expected = f"{len(self.view_names_)} views, None for one that is missing"
            raise DataError("wrong number of views", expected=expected, got=len(X))
        if reset:
            self._multi_view, self._column_names = True, column_names(X)
        else:
            X = self._in_fitted_order(X)
        views = named_views(X, missing_rows=not reset)
        if reset:
            self.n_features_in_ = sum(view.shape[1] for view in views.values())
        else:
            self._check_views(views)
        return views

    def _read_array(self, X: Any, *, reset: bool) -> dict[str, View]:
        if not reset and self._multi_view:
            raise DataError("samples come as one array, training came as separate views", fix="give a dict or list of arrays")
        if reset and self.view_columns is not None:
            self._groups = column_groups(X, self.view_columns)
        X = validate_data(self, X, reset=reset, accept_sparse="csr", dtype=np.float64, ensure_all_finite=False)
        if reset and self.view_columns is None:
            self._groups = column_groups(X, None)
        self._multi_view = False
        return named_views({name: X[:, group] for name, group in self._groups.items()}, missing_rows=not reset)

    def _in_fitted_order(self, X: Any) -> dict[str, Any]:
        """Data frames with the columns of training in another order, in that order."""
        views = {name: X[name] for name in X} if isinstance(X, Mapping) else {f"view_{n}": view for n, view in enumerate(X)}
        for name, columns in column_names(views).items():
            fitted = self._column_names.get(name)
            if fitted is None or columns == fitted:
                continue
            if sorted(columns) != sorted(fitted) or len(set(columns)) < len(columns):
                odd = sorted(set(columns) ^ set(fitted)) or ["a name comes twice"]
                expected = f"the columns of training: {', '.join(fitted[:5])}"
                raise DataError("a view has other columns", where=f"view '{name}'", expected=expected, got=", ".join(odd[:5]))
            views[name] = views[name].iloc[:, [columns.index(column) for column in fitted]]
        return views

    def _check_views(self, views: dict[str, View]) -> None:
        for name, view in views.items():
            if name not in self.view_widths_:
                raise DataError(f"unknown view '{name}'", expected=f"some of {', '.join(self.view_widths_)}")
            if view.shape[1] != self.view_widths_[name]:
                where, expected = f"view '{name}'", f"width {self.view_widths_[name]} as in training"
                raise DataError("wrong feature width", where=where, expected=expected, got=view.shape[1])
        self._require_views([name for name in self.view_names_ if name not in views])

    def _require_views(self, missing: Sequence[str]) -> None:
        if missing and self.missing_views == "error":
            raise DataError("views are missing", where=", ".join(missing), fix="give them, or set missing_views='solve'")

    def _text_names(self, views: dict[str, View]) -> set[str]:
        if self.text_views is None:
            return {name for name, view in views.items() if sp.issparse(view) and view.nnz <= SPARSE * np.prod(view.shape)}
        names = {self.text_views} if isinstance(self.text_views, str) else set(self.text_views)
        if names - views.keys():
            raise ParameterError("text_views names unknown views", expected=f"some of {', '.join(views)}", got=sorted(names))
        return names

    def _fit(self, views: dict[str, View], targets: np.ndarray, groups: np.ndarray, counts: np.ndarray) -> None:
        """Fit the mixture on all rows, and once without each fold for the outputs of rows that had no part in it."""
        order = _stratified_order(groups, check_random_state(self.random_state))
        self.view_names_, self.view_widths_ = list(views), {name: view.shape[1] for name, view in views.items()}
        text, options = self._text_names(views), MixtureOptions(*(getattr(self, name) for name in MixtureOptions._fields))
        self._mixture = KernelMixture(options, text).fit(views, targets, counts, order)
        self.out_of_fold_ = np.full(targets.shape, np.nan)
        folds = min(self.folds, len(targets) // 2) if len(targets) >= 4 else 0
        dealt = order[np.argsort(groups[order], kind="stable")]  # class by class, so that every fold has its share of each
        for fold in range(folds):
            held = np.zeros(len(targets), np.bool_)
            held[dealt[fold::folds]] = True
            rest = np.flatnonzero(~held & (counts > 0))
            places = np.full(len(targets), -1)
            places[rest] = np.arange(len(rest))
            inner, kept = places[order][places[order] >= 0], {name: view[rest] for name, view in views.items()}
            fitted = KernelMixture(options, text).fit(kept, targets[rest], counts[rest], inner)
            self.out_of_fold_[held] = fitted.outputs({name: view[held] for name, view in views.items()})
        mixture, names = self._mixture, map(str, self._mixture.terms)
        self.weights_, self.losses_, self.support_ = mixture.weights.numpy(), mixture.losses, mixture.chosen
        self.ridge_, self.intercept_, self.dual_coef_ = (
            mixture.ridge.ridge,
            mixture.ridge.mean.numpy(),
            mixture.ridge.coefficients.numpy(),
        )
        self.coefficients_ = Coefficients(sorted(zip(names, self.weights_.tolist(), strict=True), key=lambda one: -one[1]))
        losses = mixture.ridge.losses
        self.leave_one_out_error_ = float(losses[losses.isfinite()].min())
        self.out_of_fold_error_ = float(np.mean((self.out_of_fold_ - targets) ** 2))

    def _outputs(self, X: Any) -> np.ndarray:
        """The ridge's outputs (rows, outputs); rows that lack the same views are predicted together, without their kernels."""
        check_is_fitted(self)
        views = self._read(X, reset=False)
        absent = {name: _absent_rows(view) for name, view in views.items()}
        if not any(rows.any() for rows in absent.values()):
            return self._mixture.outputs(views)
        patterns, which = np.unique(np.stack(list(absent.values()), axis=1), axis=0, return_inverse=True)
        outputs = np.zeros((len(which), len(self.intercept_)))
        for number, pattern in enumerate(patterns):
            there = [name for name, gone in zip(absent, pattern, strict=True) if not gone]
            if not there:
                place = int(np.argmax(which.ravel() == number))
                raise DataError("a sample has no view", where=f"row {place}", expected="numbers in at least one view")
            self._require_views([name for name in absent if name not in there])
            rows = np.flatnonzero(which.ravel() == number)
            outputs[rows] = self._mixture.outputs({name: views[name][rows] for name in there})
        return outputs


class LegoClassifier(ClassifierMixin, _LegoKernelRidge):  # type: ignore[misc]
    """Classify multi-view samples by their relations in every view and in every pair of views.

    f(x) = b + sum_i alpha_i sum_k w_k K_k(x, x_i) / v_k  on targets of +1 and -1, one output per class (one for two classes),
    or per label where ``y`` is a table of labels.

    Args:
        view_columns: Where samples come as one array: the columns of each view, a dict or list of slices, lists of numbers or
            names, masks, or callables. None takes the top level of a data frame's columns, where there are several levels.
        text_views: Names of views that are text: cosine only, not standardised. None takes the sparse ones, of whose numbers at
            most 30 % are not zero.
        weights: How A is made: ``"full"`` learns it over the kernels of views and of pairs, ``"additive"`` over those of views,
            ``"uniform"`` is alike for those of views, ``"averaged"`` the mean of the three, with the ridge solved on it.
        steps: Steps of Adam on A, from at most 400 rows drawn by class; 0 keeps the start.
        ridge: lambda; None chooses it by the leave-one-out error.
        n_landmarks: How many rows stand for all where there are more than four times as many.
        folds: Parts of the rows that are left out in turn, with everything fitted again, for ``out_of_fold_``. 0: none; then
            probabilities are not calibrated.
        missing_views: ``"solve"``: at prediction time a view may be absent (None, not in the dict, or NaN throughout a row):
            its kernels are left out, and the ridge is solved without them, once. ``"error"``: an absent view is an error.
        random_state: Draws learning rows, landmarks and folds.
        class_weight: How much the rows of a class count: a dict, ``"balanced"`` (all classes as much in sum), or None.
        class_bias: Whether each class gets a bias of its own beside the temperature, which may change the chosen class.

    Attributes:
        coefficients_: Share of every kernel by name, largest first; ``print`` it.
        out_of_fold_: Output for every training row by a model that never saw it: fitted to the other folds, A, bandwidths and
            lambda included. Probabilities are calibrated on these, and a stacked model is to be fitted to them; NaN without
            folds.
        out_of_fold_error_: Their mean squared error.
        leave_one_out_error_: The error that lambda and A were chosen by; smaller than that of new rows.
        losses_: The leave-one-out error of the last learning before every step, and at the end.

    Raises:
        DataError: If views are missing, of wrong width, length or columns, hold NaN, or there is one class only.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> group = rng.integers(0, 2, size=(200, 2))
        >>> a, b = (group[:, [view]] * 2 - 1 + 0.3 * rng.normal(size=(200, 3)) for view in range(2))
        >>> model = LegoClassifier(weights="full").fit({"a": a, "b": b}, group[:, 0] ^ group[:, 1])
        >>> " * " in next(iter(model.coefficients_))  # neither view alone tells
        True
    """

    def __init__(
        self,
        *,
        view_columns: Any = None,
        text_views: Any = None,
        weights: str = "averaged",
        steps: int = 50,
        ridge: float | None = None,
        n_landmarks: int = 1000,
        folds: int = 5,
        missing_views: str = "solve",
        random_state: Any = 0,
        class_weight: Any = None,
        class_bias: bool = False,
    ) -> None:
        super().__init__(
            view_columns=view_columns,
            text_views=text_views,
            weights=weights,
            steps=steps,
            ridge=ridge,
            n_landmarks=n_landmarks,
            folds=folds,
            missing_views=missing_views,
            random_state=random_state,
        )
        self.class_weight = class_weight
        self.class_bias = class_bias

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LegoClassifier:
        """Learn A, the ridge and the calibration.

        Args:
            X: Views.
            y: Labels (rows,); or 0 and 1 for each of several labels, (rows, labels).
            sample_weight: How much each row counts in the ridge, its choice and the calibration, (rows,); A is learned from
                rows alike.
        """
        self._check_parameters()
        check_choice(self.class_bias, "class_bias", type(self).__name__, (True, False))
        views = self._read(X, reset=True)
        rows = next(iter(views.values())).shape[0]
        self._multi_label = _is_table(y)
        labels = _checked_labels(y, rows, several=self._multi_label)
        check_classification_targets(labels)
        counts = _checked_counts(sample_weight, rows)
        if self._multi_label:
            self.classes_, targets, groups = np.arange(labels.shape[1]), 2.0 * labels - 1, np.zeros(rows, dtype=int)
            if self.class_weight is not None:
                raise ParameterError("class_weight is for one label a row", fix="give sample_weight")
        else:
            self.classes_, groups = np.unique(labels, return_inverse=True)
            if len(self.classes_) < 2:
                raise DataError("y has one class only", expected="at least two classes", got=self.classes_.tolist())
            targets = 2.0 * (groups[:, None] == np.arange(len(self.classes_))) - 1
            targets = targets[:, 1:] if len(self.classes_) == 2 else targets
            counts = counts * compute_sample_weight(self.class_weight, labels)
        self._fit(views, targets, groups, counts)
        self.temperature_, self.biases_ = self._calibration(targets, groups, counts)
        return self

    def _calibration(self, targets: np.ndarray, groups: np.ndarray, counts: np.ndarray) -> tuple[float, np.ndarray]:
        """The t > 0, and biases where they are wanted, of the smallest log loss out of fold."""
        outputs: np.ndarray[Any, Any] = self.out_of_fold_
        if self._multi_label:  # every label of every row is a question of its own
            groups, counts = (targets.ravel() > 0).astype(int), counts.repeat(targets.shape[1])
            outputs = outputs.reshape(-1, 1)
        logits = self._logits(outputs)
        kept = np.isfinite(logits).all(1) & (counts > 0)
        if not kept.any():
            return 1.0, np.zeros(logits.shape[1])
        return _fit_calibration(logits[kept], groups[kept], counts[kept], biases=self.class_bias)

    def decision_function(self, X: Any) -> np.ndarray:
        """Output of every class, or label, (rows, classes); of two classes that of the second, (rows,)."""
        outputs = self._outputs(X)
        return outputs[:, 0] if len(self.classes_) == 2 and not self._multi_label else outputs

    def predict(self, X: Any) -> np.ndarray:
        """The class of the largest probability, (rows,); of several labels 0 or 1 each, (rows, labels)."""
        logits = self._calibrated(X)
        if self._multi_label:
            return (logits[..., 1] > logits[..., 0]).astype(int)
        return np.asarray(self.classes_[logits.argmax(1)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """softmax(t * outputs + biases), (rows, classes), calibrated on ``out_of_fold_``; of each label, (rows, labels)."""
        return np.asarray(np.exp(self.predict_log_proba(X)))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of ``predict_proba``."""
        found = log_softmax(self._calibrated(X), axis=-1)
        return np.asarray(found[..., 1] if self._multi_label else found)

    def _calibrated(self, X: Any) -> np.ndarray:
        outputs = self._outputs(X)
        logits = np.stack([-outputs, outputs], axis=-1) if self._multi_label else self._logits(outputs)
        return np.asarray(self.temperature_ * logits + self.biases_)

    @staticmethod
    def _logits(outputs: np.ndarray) -> np.ndarray:
        return np.hstack([-outputs, outputs]) if outputs.shape[1] == 1 else outputs


class LegoRegressor(RegressorMixin, _LegoKernelRidge):  # type: ignore[misc]
    """Predict numbers from multi-view samples; parameters and attributes as ``LegoClassifier``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> a, b = rng.normal(size=(2, 200, 3))
        >>> LegoRegressor().fit([a, b], a[:, 0] * b[:, 0]).score([a, b], a[:, 0] * b[:, 0]) > 0.9
        True
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LegoRegressor:
        """Learn A and the ridge from views ``X`` and targets ``y``, (rows,) or (rows, outputs)."""
        self._check_parameters()
        views = self._read(X, reset=True)
        targets = _checked_numbers(y, next(iter(views.values())).shape[0])
        counts = _checked_counts(sample_weight, len(targets))
        self._one_output = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        spread = targets.std(0)
        self._target_mean, self._target_scale = targets.mean(0), np.where(spread > 0, spread, 1.0)
        groups = np.zeros(len(targets), dtype=int)
        scaled = (targets - self._target_mean) / self._target_scale
        self._fit(views, scaled, groups, counts)
        self._deviation = np.sqrt(np.mean((self.out_of_fold_ - scaled) ** 2, axis=0)) * self._target_scale
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Numbers of the shape of ``y``; with ``return_std`` also how far they are off, as far as the folds tell.

        The standard deviation is the root of the mean squared error of ``out_of_fold_``, one number an output for all rows: no
        row is told from another by it.
        """
        outputs = self._outputs(X) * self._target_scale + self._target_mean
        found = np.asarray(outputs[:, 0] if self._one_output else outputs)
        if not return_std:
            return found
        if not np.isfinite(self.out_of_fold_error_):
            raise ParameterError(
                "return_std needs outputs out of fold", fix="fit with folds of at least 2, on four rows or more"
            )
        return found, np.broadcast_to(self._deviation[0] if self._one_output else self._deviation, found.shape)


def _stratified_order(groups: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A random order whose every beginning holds the groups in their proportions."""
    order = random.permutation(len(groups))
    place = np.empty(len(groups))
    for group in np.unique(groups):
        members = order[groups[order] == group]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place[order], kind="stable")]


def _absent_rows(view: View) -> np.ndarray:
    """Rows without a number: this sample does not have the view."""
    return np.zeros(view.shape[0], np.bool_) if sp.issparse(view) else np.isnan(view).all(axis=1)


def _is_table(y: Any) -> bool:
    """Whether there are several labels of 0 or 1 a row."""
    table = y if sp.issparse(y) else np.asarray(y)
    if table.ndim != 2:
        return False
    if table.dtype.kind == "f":
        check_finite(table, "Input y")
    return bool(type_of_target(table) == "multilabel-indicator")


def _checked_labels(y: Any, samples: int, *, several: bool) -> np.ndarray:
    if y is None:
        raise DataError("y is missing: it requires y to be passed, but the target y is None")
    labels = np.asarray((y.toarray() if sp.issparse(y) else y) if several else column_or_1d(y, warn=True))
    _check_length(labels, samples)
    if labels.dtype.kind == "f":
        check_finite(labels, "Input y")
    return np.asarray(labels)


def _checked_counts(sample_weight: Any, samples: int) -> np.ndarray:
    """How much each row counts, 1 where nothing is said."""
    if sample_weight is None:
        return np.ones(samples)
    counts = np.asarray(sample_weight, dtype=np.float64)
    if counts.ndim == 0:
        return np.ones(samples)
    if counts.shape != (samples,) or not np.isfinite(counts).all() or counts.min() < 0:
        expected = f"{samples} finite numbers >= 0"
        raise DataError("sample_weight cannot be used", expected=expected, got=f"{counts.ravel()[:4].tolist()}...")
    if np.count_nonzero(counts) < 2:
        raise DataError("the sample_weight of almost every row is zero", expected="at least two rows with a weight above 0")
    return counts


def _checked_numbers(y: Any, samples: int) -> np.ndarray:
    if y is None:
        raise DataError("y is missing: it requires y to be passed, but the target y is None")
    numbers = np.asarray(y, dtype=np.float64)
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = column_or_1d(numbers, warn=True)
    _check_length(numbers, samples)
    check_finite(numbers, "Input y")
    return numbers


def _check_length(y: np.ndarray, samples: int) -> None:
    if len(y) != samples:
        raise DataError("X and y differ in length: inconsistent numbers of samples", expected=f"{samples} as in X", got=len(y))
    if samples < 2:
        raise DataError("too few samples", expected="at least 2", got="1 sample")


def _fit_calibration(logits: np.ndarray, numbers: np.ndarray, counts: np.ndarray, *, biases: bool) -> tuple[float, np.ndarray]:
    """The t > 0, and where wanted the biases b (0 for the first class), of the smallest log loss of softmax(t * logits + b)."""
    classes, rows = logits.shape[1], np.arange(len(logits))

    def loss(parameters: np.ndarray) -> float:
        said = log_softmax(np.exp(parameters[0]) * logits + np.append(0.0, parameters[1:]), axis=1)
        return float(-counts @ said[rows, numbers] / counts.sum())

    start = minimize_scalar(lambda scale: loss(np.append(scale, np.zeros(classes - 1))), bounds=(-5, 5), method="bounded").x
    if not biases:
        return float(np.exp(start)), np.zeros(classes)
    found = minimize(loss, np.append(start, np.zeros(classes - 1)), bounds=[(-5, 5)] + [(-20, 20)] * (classes - 1)).x
    return float(np.exp(found[0])), np.append(0.0, found[1:])
