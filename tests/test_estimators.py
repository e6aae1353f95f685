"""The estimators obey scikit-learn's contract, read views by name, and find what only two views together tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lego_fusion.data.views import join_views
from lego_fusion.errors import DataError, LegoFusionError, ParameterError
from lego_fusion.estimators import LegoClassifier, LegoRegressor
from lego_fusion.report.figures import coefficient_bars

Views = dict[str, Any]


def planted_xor(rows: int = 500, noise: int = 200, seed: int = 0) -> tuple[Views, np.ndarray]:
    """Two views whose hidden groups differ in class 1, a wide view of noise."""
    random = np.random.default_rng(seed)
    groups = random.integers(0, 2, (rows, 2))
    views: Views = {"noise": random.normal(size=(rows, noise))}
    for column, name in enumerate(("a", "b")):
        views[name] = (2 * groups[:, [column]] - 1) * random.normal(size=4) + 0.4 * random.normal(size=(rows, 4))
    return views, groups[:, 0] ^ groups[:, 1]


def part(views: Views, rows: Any) -> Views:
    return {name: view[rows] for name, view in views.items()}


def three_classes(rows: int = 120, seed: int = 0) -> tuple[Views, np.ndarray]:
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, rows)
    return {name: np.eye(3)[y] @ random.normal(size=(3, 4)) + 0.5 * random.normal(size=(rows, 4)) for name in ("a", "b")}, y


def expected_failures(estimator: Any) -> dict[str, str]:
    return {"check_do_not_raise_errors_in_init_or_set_params": "type annotations are checked while the tests run"}


@parametrize_with_checks([LegoClassifier(steps=3), LegoRegressor(steps=3)], expected_failed_checks=expected_failures)
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_planted_interaction_is_found_and_named_beside_noise() -> None:
    views, y = planted_xor()
    train, test = part(views, slice(300)), part(views, slice(300, None))
    model = LegoClassifier().fit(train, y[:300])
    assert model.score(test, y[300:]) > 0.95
    assert sum(share for name, share in model.coefficients_.items() if "(a) * " in name or "(b) * " in name) > 0.5
    first = next(iter(model.coefficients_))
    assert "(a)" in first
    assert "(b)" in first
    assert sum(model.coefficients_.values()) == pytest.approx(1)
    assert list(model.coefficients_.values()) == sorted(model.coefficients_.values(), reverse=True)
    additive = LegoClassifier(products=False).fit(train, y[:300])
    assert additive.score(test, y[300:]) < 0.8
    assert not any(" * " in name for name in additive.coefficients_)


def test_pure_noise_has_chance_leave_one_out_accuracy() -> None:
    random = np.random.default_rng(0)
    views = {name: random.normal(size=(300, 10)) for name in ("a", "b")}
    y = random.integers(0, 2, 300)
    model = LegoClassifier(products=False).fit(views, y)
    assert 0.35 < np.mean((model.leave_one_out_[:, 0] > 0) == y) < 0.62
    assert np.abs(model.predict_proba(views)[:, 1] - 0.5).max() < 0.45


def test_leave_one_out_is_fitting_without_the_sample() -> None:
    views, y = three_classes(30)
    targets = y.astype(float)
    model = LegoRegressor(ridge=0.5, steps=0).fit(views, targets)
    weights = model._scaled_weights
    kernels = model._graphs(*2 * ({name: model._kernels[name].prepare(view) for name, view in views.items()},))
    mixed = sum(
        w * np.prod([kernels[f].numpy() for f in term.factors], axis=0) for w, term in zip(weights, model._terms, strict=True)
    )
    for i in (0, 7, 29):
        others = np.delete(np.arange(30), i)
        system = np.ones((30, 30))
        system[:-1, :-1] = mixed[np.ix_(others, others)] + 0.5 * np.eye(29)
        system[-1, -1] = 0
        solution = np.linalg.solve(system, np.append(targets[others], 0))
        expected = mixed[i, others] @ solution[:-1] + solution[-1]
        got = model.leave_one_out_[i, 0] * targets.std() + targets.mean()
        assert got == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("form", ["dict", "list", "array", "sparse"])
def test_the_form_of_the_samples_changes_nothing(form: str) -> None:
    views, y = three_classes()
    expected = LegoClassifier(steps=5).fit(views, y).decision_function(views)
    samples: Any = views
    options: dict[str, Any] = {}
    if form == "list":
        samples = list(views.values())
    elif form != "dict":
        samples, options["view_columns"] = join_views(views)
    if form == "sparse":
        samples, options["text_views"] = sp.csr_matrix(samples), ()
    model = LegoClassifier(steps=5, **options).fit(samples, y)
    np.testing.assert_allclose(model.decision_function(samples), expected, rtol=1e-6, atol=1e-8)


def test_views_are_found_by_name_and_rows_are_independent() -> None:
    views, y = three_classes()
    model = LegoClassifier(steps=5).fit(views, y)
    whole = model.decision_function(views)
    np.testing.assert_allclose(model.decision_function(dict(reversed(views.items()))), whole)
    np.testing.assert_allclose(model.decision_function(part(views, [5, 5, 0])), whole[[5, 5, 0]], atol=1e-12)
    renamed = {f"my {name}": view for name, view in views.items()}
    np.testing.assert_allclose(LegoClassifier(steps=5).fit(renamed, y).decision_function(renamed), whole)


def test_scale_and_shift_of_a_dense_view_do_not_matter() -> None:
    views, y = three_classes()
    other = {"a": 1000 * views["a"] - 7, "b": views["b"]}
    one, two = (LegoClassifier(steps=5).fit(samples, y).decision_function(samples) for samples in (views, other))
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-8)


def test_fitting_is_deterministic() -> None:
    views, y = three_classes()
    one, two = (LegoClassifier(learning_rows=50, random_state=3).fit(views, y) for _ in range(2))
    assert one.coefficients_ == two.coefficients_
    assert np.array_equal(one.decision_function(views), two.decision_function(views))


def test_probabilities_keep_the_order_of_the_outputs() -> None:
    views, y = three_classes()
    model = LegoClassifier(steps=5).fit(views, np.array(["x", "y", "z"])[y])
    probabilities = model.predict_proba(views)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert np.array_equal(model.classes_[probabilities.argmax(1)], model.predict(views))


def test_probabilities_are_calibrated() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(3000, 2))
    truth = 1 / (1 + np.exp(-1.5 * x[:, 0]))
    y = random.random(3000) < truth
    model = LegoClassifier(steps=5).fit([x[:600]], y[:600])
    said = model.predict_proba([x[600:]])[:, 1]
    for low in (0.1, 0.3, 0.5, 0.7):
        among = (said >= low) & (said < low + 0.2)
        assert abs(y[600:][among].mean() - said[among].mean()) < 0.12


def test_a_missing_view_is_as_if_it_had_no_kernels() -> None:
    views, y = three_classes()
    model = LegoClassifier(steps=5).fit(views, y)
    there = model.decision_function({"b": views["b"]})
    kept = [number for number, term in enumerate(model._terms) if not term.uses(["a"])]
    weights = model._scaled_weights[kept] / model.weights_[kept].sum()
    rows = model._kernels["b"].prepare(views["b"])
    graphs = dict(model._kernels["b"].graphs(rows, rows))
    mixed = sum(w * graphs[model._terms[k].factors[0][0]].numpy() for w, k in zip(weights, kept, strict=True))
    np.testing.assert_allclose(there, model.intercept_ + (mixed - mixed.mean(0)) @ model.dual_coef_, atol=1e-10)
    assert (model.classes_[there.argmax(1)] == y).mean() > 0.6
    lists = LegoClassifier(steps=5).fit(list(views.values()), y)
    np.testing.assert_allclose(lists.decision_function([None, views["b"]]), there)
    with pytest.raises(DataError, match=r"views are missing \(a\)"):
        LegoClassifier(steps=5, missing_views="error").fit(views, y).predict({"b": views["b"]})


def test_sparse_text_has_a_cosine_only_and_may_hold_empty_rows() -> None:
    views, y = three_classes()
    words = sp.random_array((120, 400), density=0.02, random_state=0, format="csr")
    words = sp.csr_array(sp.hstack([words, sp.csr_array(np.eye(3)[y])]))
    words = sp.csr_array(sp.diags_array(np.arange(120) > 0, dtype=float) @ words)
    words.eliminate_zeros()
    model = LegoClassifier(steps=5).fit({"words": words, "a": views["a"]}, y)
    assert "gaussian(words)" not in model.coefficients_
    assert {"cosine(words)", "cosine(words) * gaussian(a)"} <= model.coefficients_.keys()
    assert model.score({"words": words, "a": views["a"]}, y) > 0.9
    dense = LegoClassifier(steps=5, text_views="words").fit({"words": words.toarray(), "a": views["a"]}, y)
    assert dense.coefficients_ == pytest.approx(model.coefficients_)


def test_landmarks_come_close_and_all_rows_as_landmarks_are_exact() -> None:
    views, y = three_classes(150)
    exact = LegoClassifier(steps=5, ridge=0.1).fit(views, y)
    every = LegoClassifier(steps=5, ridge=0.1, exact_rows=100, n_landmarks=150).fit(views, y)
    np.testing.assert_allclose(every.decision_function(views), exact.decision_function(views), atol=1e-5)
    some = LegoClassifier(steps=5, ridge=0.1, exact_rows=100, n_landmarks=60).fit(views, y)
    assert len(some.support_) == 60
    assert (some.predict(views) == exact.predict(views)).mean() > 0.9


def test_pipeline_cross_validation_grid_search_and_clone() -> None:
    views, y = three_classes()
    array, columns = join_views(views)
    model = make_pipeline(StandardScaler(), LegoClassifier(view_columns=columns, steps=3))
    assert cross_val_score(model, array, y, cv=3).mean() > 0.7
    search = GridSearchCV(LegoClassifier(view_columns=columns, steps=3), {"products": [True, False]}, cv=2).fit(array, y)
    assert search.best_score_ > 0.7
    copy = clone(search.best_estimator_)
    assert copy.view_columns == columns
    assert not hasattr(copy, "coefficients_")


def test_regression_on_a_product_of_two_views() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 400, 2))
    y = 5 + 100 * a[:, 0] * b[:, 0]
    model = LegoRegressor().fit([a[:300], b[:300]], y[:300])
    assert model.score([a[300:], b[300:]], y[300:]) > 0.9
    both = LegoRegressor(steps=5).fit([a, b], np.column_stack([y, -y])).predict([a, b])
    assert both.shape == (400, 2)
    np.testing.assert_allclose(both[:, 0], -both[:, 1], atol=1e-6)


def test_coefficients_print_as_a_table() -> None:
    views, y = three_classes()
    lines = str(LegoClassifier(steps=1).fit(views, y).coefficients_).splitlines()
    assert len(lines) == 8
    assert all(line.endswith(" %") for line in lines)


VIEWS, LABELS = three_classes(20)


@pytest.mark.parametrize(
    ("samples", "labels", "message"),
    [
        ({**VIEWS, "b": VIEWS["b"][:19]}, LABELS, "views differ in length"),
        (VIEWS, LABELS[:19], "X and y differ in length.*expected 20 as in X, got 19"),
        ({**VIEWS, "b": VIEWS["b"] * np.nan}, LABELS, r"NaN or infinity.*view 'b'"),
        (VIEWS, LABELS * 0, "y has one class only"),
        ({}, LABELS, "there is no view"),
    ],
)
def test_bad_training_input(samples: Any, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LegoClassifier().fit(samples, labels)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (list(VIEWS.values())[:1], "wrong number of views: expected 2 views, None for one that is missing, got 1"),
        ({"c": VIEWS["a"]}, "unknown view 'c': expected some of a, b"),
        ({"a": VIEWS["a"][:, :2]}, r"wrong feature width \(view 'a'\): expected width 4 as in training, got 2"),
        (VIEWS["a"], "samples come as one array, training came as separate views"),
        ({"a": None, "b": None}, "there is no view"),
    ],
)
def test_bad_prediction_input(samples: Any, message: str) -> None:
    model = LegoClassifier(steps=1).fit(VIEWS, LABELS)
    with pytest.raises(DataError, match=message):
        model.predict(samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, r"The 'steps' parameter of LegoClassifier must be an int in \[0, inf\). Got -1 instead"),
        ({"ridge": 0.0}, "The 'ridge' parameter"),
        ({"missing_views": "guess"}, "The 'missing_views' parameter"),
        ({"n_landmarks": 1}, "The 'n_landmarks' parameter"),
        ({"text_views": ["poem"]}, "text_views names unknown views: expected some of a, b"),
        ({"view_columns": [[0], [1]]}, "view_columns cuts one array"),
    ],
)
def test_bad_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        LegoClassifier(**options).fit(VIEWS, LABELS)


def test_every_error_is_of_the_family() -> None:
    with pytest.raises(LegoFusionError):
        LegoRegressor().fit(VIEWS, None)


def test_coefficients_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")
    coefficient_bars(tmp_path / "bars.png", {"cosine(a)": 0.7, "cosine(a) * cosine(b)": 0.2, "cosine(b)": 0.1}, most=2)
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="there are no coefficients to draw"):
        coefficient_bars(tmp_path / "none.png", {})
