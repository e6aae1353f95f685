"""Scikit-learn estimators for multi-view samples: the fusion operator as multiple kernel learning, with a readable A.

Every view gives a cosine and a Gaussian kernel; every pair of views the products of those (order 1). Their weights A are
learned from the leave-one-out error of kernel ridge, and kernel ridge on the mixture predicts: see ``graph.kernel_learning``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import log_loss
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from .data.views import View, check_finite, is_multi_view, named_views, split_columns
from .errors import DataError, ParameterError, check_choice, check_int, check_number
from .graph import kernel_learning as learning
from .graph.relationship import cosine_graph, gaussian_graph, median_distance

BLOCK = 1024  # rows predicted at a time


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


class _ViewKernels:
    """The kernels of one view, with what they keep of the training rows: mean and scale, bandwidth, and the supports."""

    def __init__(self, view: View, *, text: bool) -> None:
        self.text = text
        self.kernels = ["cosine"] if text else ["cosine", "gaussian"]
        if not text:
            rows = _dense(view)
            self.mean, scale = rows.mean(0), rows.std(0)
            self.scale = np.where(scale > 1e-12 * np.abs(rows).max(0, initial=0), scale, 1.0)

    def prepare(self, view: View) -> Any:
        """Rows as the kernels take them: text to unit length, everything else standardised by the training rows."""
        if not self.text:
            return torch.from_numpy((_dense(view) - self.mean) / self.scale)
        rows = sp.csr_array(view)
        length = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
        return sp.csr_array(sp.diags_array(1 / np.where(length > 0, length, 1)) @ rows)

    def fit_bandwidth(self, rows: Any) -> None:
        """The median distance between different rows among a few hundred."""
        if not self.text:
            self.bandwidth = float(median_distance(rows))

    def graphs(self, rows: Any, supports: Any) -> Iterator[tuple[str, Tensor]]:
        """(kernel, graph of rows against supports)."""
        if self.text:
            yield "cosine", torch.from_numpy((rows @ supports.T).toarray())
            return
        yield "cosine", cosine_graph(rows[None], supports[None])[0]
        yield "gaussian", gaussian_graph(rows[None], supports[None], bandwidth=self.bandwidth)[0]


class _LegoKernelRidge(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: reading views, learning A, the ridge on top, its predictions."""

    def __init__(
        self,
        *,
        view_columns: Any = None,
        text_views: Any = None,
        products: bool = True,
        steps: int = 50,
        learning_rate: float = 0.1,
        learning_rows: int = 400,
        ridge: float | None = None,
        n_landmarks: int = 1000,
        exact_rows: int = 4000,
        missing_views: str = "renormalise",
        random_state: Any = 0,
    ) -> None:
        self.view_columns = view_columns
        self.text_views = text_views
        self.products = products
        self.steps = steps
        self.learning_rate = learning_rate
        self.learning_rows = learning_rows
        self.ridge = ridge
        self.n_landmarks = n_landmarks
        self.exact_rows = exact_rows
        self.missing_views = missing_views
        self.random_state = random_state

    _multi_view: bool

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self) -> None:
        owner = type(self).__name__
        check_choice(self.products, "products", owner, (True, False))
        check_int(self.steps, "steps", owner, low=0)
        check_number(self.learning_rate, "learning_rate", owner, low=0.0)
        for name in ("learning_rows", "n_landmarks", "exact_rows"):
            check_int(getattr(self, name), name, owner, low=2)
        if self.ridge is not None:
            check_number(self.ridge, "ridge", owner, low=1e-12)
        check_choice(self.missing_views, "missing_views", owner, ("renormalise", "error"))

    def _read(self, X: Any, *, reset: bool) -> dict[str, View]:
        """Samples in any form as checked views by name; at prediction time, those of the training views that are there."""
        if not is_multi_view(X):
            if not reset and self._multi_view:
                raise DataError(
                    "samples come as one array, training came as separate views", fix="give a dict or list of arrays"
                )
            X = validate_data(self, X, reset=reset, accept_sparse="csr", dtype=np.float64, ensure_all_finite=False)
            check_finite(X, "Input X")
            self._multi_view = False
            return split_columns(X, self.view_columns, getattr(self, "feature_names_in_", None))
        if not reset and not self._multi_view:
            raise DataError("samples come as separate views, training came as one array", fix="give one array")
        if reset and self.view_columns is not None:
            raise ParameterError(
                "view_columns cuts one array, and samples come as separate views", fix="leave view_columns out"
            )
        if not reset and not isinstance(X, Mapping) and len(X) != len(self.view_names_):
            expected = f"{len(self.view_names_)} views, None for one that is missing"
            raise DataError("wrong number of views", expected=expected, got=len(X))
        views = named_views(X)
        if reset:
            self._multi_view, self.n_features_in_ = True, sum(view.shape[1] for view in views.values())
        else:
            self._check_views(views)
        return views

    def _check_views(self, views: dict[str, View]) -> None:
        for name, view in views.items():
            if name not in self.view_widths_:
                raise DataError(f"unknown view '{name}'", expected=f"some of {', '.join(self.view_widths_)}")
            if view.shape[1] != self.view_widths_[name]:
                where, expected = f"view '{name}'", f"width {self.view_widths_[name]} as in training"
                raise DataError("wrong feature width", where=where, expected=expected, got=view.shape[1])
        missing = [name for name in self.view_names_ if name not in views]
        if missing and self.missing_views == "error":
            raise DataError("views are missing", where=", ".join(missing), fix="give them, or set missing_views='renormalise'")

    def _text_names(self, views: dict[str, View]) -> set[str]:
        if self.text_views is None:
            return {name for name, view in views.items() if sp.issparse(view)}
        names = {self.text_views} if isinstance(self.text_views, str) else set(self.text_views)
        if names - views.keys():
            raise ParameterError("text_views names unknown views", expected=f"some of {', '.join(views)}", got=sorted(names))
        return names

    def _fit(self, views: dict[str, View], targets: np.ndarray, groups: np.ndarray) -> None:
        """Learn A from some rows, then solve the ridge on all of them; ``targets`` is (rows, outputs)."""
        random = check_random_state(self.random_state)
        order = _stratified_order(groups, random)
        text = self._text_names(views)
        self.view_names_, self.view_widths_ = list(views), {name: view.shape[1] for name, view in views.items()}
        self._kernels = {name: _ViewKernels(view, text=name in text) for name, view in views.items()}
        rows = {name: self._kernels[name].prepare(view) for name, view in views.items()}
        wanted = torch.from_numpy(targets)
        self._terms = learning.dictionary(
            {name: kernels.kernels for name, kernels in self._kernels.items()}, products=self.products
        )
        self._learn(rows, wanted, np.sort(order[: self.learning_rows]))
        self._solve(rows, wanted, order)

    def _learn(self, rows: dict[str, Any], targets: Tensor, chosen: np.ndarray) -> None:
        some = {name: row[chosen] for name, row in rows.items()}
        for name, kernels in self._kernels.items():
            kernels.fit_bandwidth(some[name])
        stack = learning.evaluate_terms(self._terms, self._graphs(some, some))
        variances = learning.kernel_variances(stack)
        stack = learning.centre_kernel(stack) / variances[:, None, None]
        start = learning.start_weights(self._terms)
        learned = learning.learn_weights(
            stack, targets[chosen], start, steps=self.steps, learning_rate=self.learning_rate, ridge=self.ridge
        )
        self.losses_ = learned.losses
        self.weights_ = learned.weights.numpy()
        self._scaled_weights = (learned.weights / variances).numpy()
        shares = sorted(zip(map(str, self._terms), self.weights_.tolist(), strict=True), key=lambda pair: -pair[1])
        self.coefficients_ = Coefficients(shares)

    def _solve(self, rows: dict[str, Any], targets: Tensor, order: np.ndarray) -> None:
        ridges = learning.RIDGES if self.ridge is None else (float(self.ridge),)
        samples, weights = len(targets), torch.from_numpy(self._scaled_weights)
        exact = samples <= self.exact_rows
        chosen = np.arange(samples) if exact else np.sort(order[: self.n_landmarks])
        self._supports = {name: row[chosen] for name, row in rows.items()}
        self.support_ = chosen
        if exact:
            graphs = self._graphs(rows, self._supports)
            mixed, means = learning.mix_terms(self._terms, weights, graphs), learning.term_means(self._terms, graphs)
            solved = learning.solve_ridge(learning.centre_kernel(mixed), targets, ridges)
        else:
            blocks = [
                self._graphs({name: row[block] for name, row in rows.items()}, self._supports) for block in _blocks(samples)
            ]
            mixed = torch.cat([learning.mix_terms(self._terms, weights, graphs) for graphs in blocks])
            sizes = torch.tensor([len(next(iter(graphs.values()))) for graphs in blocks], dtype=mixed.dtype)
            means = torch.stack([learning.term_means(self._terms, graphs) for graphs in blocks])
            means = torch.tensordot(sizes / samples, means, 1)
            among = learning.mix_terms(self._terms, weights, self._graphs(self._supports, self._supports))
            solved = learning.solve_landmark_ridge(mixed, among, targets, ridges)
        self.ridge_, self.intercept_ = solved.ridge, solved.mean.numpy()
        self.dual_coef_, self._term_means = solved.coefficients.numpy(), means.numpy()
        self.leave_one_out_ = (targets - solved.residuals).numpy()
        self.leave_one_out_error_ = float(solved.residuals.square().mean())

    def _graphs(self, rows: dict[str, Any], supports: dict[str, Any]) -> dict[learning.Factor, Tensor]:
        return {
            (kernel, name): graph
            for name, row in rows.items()
            for kernel, graph in self._kernels[name].graphs(row, supports[name])
        }

    def _outputs(self, X: Any) -> np.ndarray:
        """The ridge's outputs (rows, outputs); kernels of missing views are dropped, the weights of the others renormalised."""
        check_is_fitted(self)
        views = self._read(X, reset=False)
        missing = [name for name in self.view_names_ if name not in views]
        kept = [number for number, term in enumerate(self._terms) if not term.uses(missing)]
        terms, share = [self._terms[number] for number in kept], self.weights_[kept].sum()
        weights = torch.from_numpy(self._scaled_weights[kept] / (share if missing else 1.0))
        dual, offset = torch.from_numpy(self.dual_coef_), weights @ torch.from_numpy(self._term_means[kept])
        samples = next(iter(views.values())).shape[0]
        outputs = []
        for block in _blocks(samples):
            rows = {name: self._kernels[name].prepare(view[block]) for name, view in views.items()}
            mixed = learning.mix_terms(terms, weights, self._graphs(rows, self._supports))
            outputs.append((mixed - offset) @ dual)
        return np.asarray(self.intercept_ + torch.cat(outputs).numpy())


class LegoClassifier(ClassifierMixin, _LegoKernelRidge):  # type: ignore[misc]
    """Classify multi-view samples by their relations in every view and in every pair of views.

    f(x) = b + sum_i alpha_i sum_k w_k K_k(x, x_i) / v_k  on targets of +1 and -1, one output per class (one for two classes).

    Args:
        view_columns: Where samples come as one array: the columns of each view, a dict or list of slices or lists.
        text_views: Names of views that are text: cosine only, not standardised. None takes the sparse ones.
        products: Whether pairs of views have product kernels; without them the operator is additive.
        steps: Steps of Adam on A; 0 keeps the start, with ``products=False`` the uniform mean of the kernels.
        learning_rate: Of Adam.
        learning_rows: How many rows, drawn by class, A is learned from.
        ridge: lambda; None chooses it by the leave-one-out error.
        n_landmarks: How many rows stand for all where there are more than ``exact_rows``.
        exact_rows: The most rows for which every row is a support.
        missing_views: ``"renormalise"``: at prediction time the kernels of a view that is absent (None, or not in the dict) are
            dropped and the weights of the others renormalised. ``"error"``: an absent view is an error.
        random_state: Draws learning rows and landmarks.

    Attributes:
        coefficients_: Share of every kernel by name, largest first; ``print`` it.
        leave_one_out_: Output for every training row by a model that never saw it; probabilities are calibrated on these.
        losses_: The leave-one-out error before every step, and at the end.

    Raises:
        DataError: If views are missing, of wrong width or length, hold NaN, or there is one class only.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> group = rng.integers(0, 2, size=(200, 2))
        >>> a, b = (group[:, [view]] * 2 - 1 + 0.3 * rng.normal(size=(200, 3)) for view in range(2))
        >>> model = LegoClassifier().fit({"a": a, "b": b}, group[:, 0] ^ group[:, 1])
        >>> " * " in next(iter(model.coefficients_))  # neither view alone tells
        True
    """

    def fit(self, X: Any, y: Any) -> LegoClassifier:
        """Learn A, the ridge and the calibration from views ``X`` and labels ``y`` (rows,)."""
        self._check_parameters()
        views = self._read(X, reset=True)
        labels = _checked_labels(y, next(iter(views.values())).shape[0])
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError("y has one class only", expected="at least two classes", got=self.classes_.tolist())
        targets = 2.0 * (numbers[:, None] == np.arange(len(self.classes_))) - 1
        self._fit(views, targets[:, 1:] if len(self.classes_) == 2 else targets, numbers)
        self.temperature_ = _fit_temperature(self._logits(self.leave_one_out_), numbers)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Output of every class, (rows, classes); for two classes that of the second, (rows,), positive where it is chosen."""
        outputs = self._outputs(X)
        return outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> np.ndarray:
        """The class of the largest output, (rows,)."""
        chosen = self._logits(self._outputs(X)).argmax(1)
        return np.asarray(self.classes_[chosen])

    def predict_proba(self, X: Any) -> np.ndarray:
        """softmax(outputs * t), (rows, classes): one number t, fitted to the leave-one-out outputs, so that ranks are kept."""
        logits = self._logits(self._outputs(X))
        return _softmax(self.temperature_ * logits)

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

    def fit(self, X: Any, y: Any) -> LegoRegressor:
        """Learn A and the ridge from views ``X`` and targets ``y``, (rows,) or (rows, outputs)."""
        self._check_parameters()
        views = self._read(X, reset=True)
        targets = _checked_numbers(y, next(iter(views.values())).shape[0])
        self._one_output = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        spread = targets.std(0)
        self._target_mean, self._target_scale = targets.mean(0), np.where(spread > 0, spread, 1.0)
        self._fit(views, (targets - self._target_mean) / self._target_scale, np.zeros(len(targets), dtype=int))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Numbers of the shape of ``y``."""
        outputs = self._outputs(X) * self._target_scale + self._target_mean
        return np.asarray(outputs[:, 0] if self._one_output else outputs)


def _dense(view: View) -> np.ndarray:
    return np.ascontiguousarray(view.toarray() if sp.issparse(view) else view)


def _blocks(samples: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, samples)) for start in range(0, samples, BLOCK)]


def _stratified_order(groups: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A random order whose every beginning holds the groups in their proportions."""
    order = random.permutation(len(groups))
    place = np.empty(len(groups))
    for group in np.unique(groups):
        members = order[groups[order] == group]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place[order], kind="stable")]


def _checked_labels(y: Any, samples: int) -> np.ndarray:
    if y is None:
        raise DataError("y is missing: it requires y to be passed, but the target y is None")
    labels = column_or_1d(y, warn=True)
    _check_length(labels, samples)
    if labels.dtype.kind == "f":
        check_finite(labels, "Input y")
    return np.asarray(labels)


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


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _fit_temperature(logits: np.ndarray, numbers: np.ndarray) -> float:
    """The t > 0 of the smallest log loss of softmax(t * logits)."""
    known = np.arange(logits.shape[1])

    def loss(log_temperature: float) -> float:
        return float(log_loss(numbers, _softmax(np.exp(log_temperature) * logits), labels=known))

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))
