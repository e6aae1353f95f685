"""The estimators obey scikit-learn's contract, read views by name, and find what only two views together tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.compose import make_column_selector
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lego_fusion import kernel_mixture
from lego_fusion.data.views import MultiView
from lego_fusion.errors import DataError, LegoFusionError, ParameterError
from lego_fusion.estimators import LegoClassifier, LegoRegressor
from lego_fusion.graph import kernel_learning as learning
from lego_fusion.graph.kernel_learning import MIXTURES
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
    weights = "A, bandwidths, lambda and folds are chosen from rows: two copies are not one row of weight 2 to them"
    return {
        "check_do_not_raise_errors_in_init_or_set_params": "type annotations are checked while the tests run",
        "check_sample_weight_equivalence_on_dense_data": weights,
        "check_sample_weight_equivalence_on_sparse_data": weights,
    }


@parametrize_with_checks(
    [LegoClassifier(steps=3, folds=2), LegoRegressor(steps=3, folds=2)], expected_failed_checks=expected_failures
)
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_planted_interaction_is_found_and_named_beside_noise() -> None:
    views, y = planted_xor()
    train, test = part(views, slice(300)), part(views, slice(300, None))
    model = LegoClassifier(weights="full", folds=0).fit(train, y[:300])
    assert model.score(test, y[300:]) > 0.95
    assert sum(share for name, share in model.coefficients_.items() if "(a) * " in name or "(b) * " in name) > 0.5
    first = next(iter(model.coefficients_))
    assert "(a)" in first
    assert "(b)" in first
    assert sum(model.coefficients_.values()) == pytest.approx(1)
    assert list(model.coefficients_.values()) == sorted(model.coefficients_.values(), reverse=True)
    additive = LegoClassifier(weights="additive", folds=0).fit(train, y[:300])
    assert additive.score(test, y[300:]) < 0.8
    assert not any(" * " in name for name in additive.coefficients_)


def test_averaged_weights_are_the_mean_of_the_three() -> None:
    views, y = three_classes()
    shares = {kind: LegoClassifier(weights=kind, steps=5, folds=0).fit(views, y).coefficients_ for kind in MIXTURES}
    assert set(shares["uniform"].values()) == {0.25}  # two kernels of each of two views
    for name, share in shares["averaged"].items():
        assert share == pytest.approx(np.mean([shares[kind].get(name, 0.0) for kind in MIXTURES[1:]]), abs=1e-12)


def noise_accuracy(seed: int, rows: int, views: int) -> float:
    random = np.random.default_rng(seed)
    samples = {f"view {number}": random.normal(size=(rows, 3)) for number in range(views)}
    y = random.permutation(np.arange(rows) % 2)
    return float(np.mean((LegoClassifier(steps=5).fit(samples, y).out_of_fold_[:, 0] > 0) == y))


@pytest.mark.parametrize(("rows", "views"), [(40, 3), (60, 2)])
def test_noise_labels_are_told_right_half_of_the_time_out_of_fold(rows: int, views: int) -> None:
    """The closed error, by which A and lambda are chosen, reads 0.63 of the first and 0 of some draws of the other."""
    found = [noise_accuracy(seed, rows, views) for seed in range(60)]
    assert abs(np.mean(found) - 0.5) < 3 * 0.5 / np.sqrt(60 * rows) + 0.02
    assert min(found) > 0.1


def test_without_folds_nothing_is_calibrated() -> None:
    views, y = three_classes(40)
    model = LegoClassifier(steps=1, folds=0).fit(views, y)
    assert np.isnan(model.out_of_fold_).all()
    assert model.temperature_ == 1.0
    folded = LegoClassifier(steps=1).fit(views, y)
    assert folded.out_of_fold_error_ == pytest.approx(np.mean((folded.out_of_fold_ - (2.0 * np.eye(3)[y] - 1)) ** 2))


def test_the_label_of_a_row_has_no_part_in_its_own_output() -> None:
    """Folds of a regression do not depend on the targets: another one of row 7 leaves its own output out of fold."""
    views, y = three_classes(40)
    targets = y.astype(float)
    other = targets.copy()
    other[7] = 50.0
    one, two = (LegoRegressor(steps=0).fit(views, given) for given in (targets, other))
    own = [m.out_of_fold_[7, 0] * t.std() + t.mean() for m, t in ((one, targets), (two, other))]
    assert own[0] == pytest.approx(own[1], abs=1e-8)
    rest = [m.out_of_fold_[:, 0] * t.std() + t.mean() for m, t in ((one, targets), (two, other))]
    assert np.median(np.abs(rest[0] - rest[1])) > 0.01  # it has one in those of the other folds


def test_the_leave_one_out_error_is_that_of_fitting_without_each_sample() -> None:
    views, y = three_classes(30)
    targets = y.astype(float)
    model = LegoRegressor(ridge=0.5, steps=0, folds=0).fit(views, targets)
    mixture = model._mixture
    rows = {name: mixture.kernels[name].prepare(view) for name, view in views.items()}
    mixed = learning.mix_terms(mixture.terms, mixture.scaled, mixture.graphs(rows, rows)).numpy()
    wanted, errors = (targets - targets.mean()) / targets.std(), []
    for i in range(30):
        others = np.delete(np.arange(30), i)
        system = np.ones((30, 30))
        system[:-1, :-1] = mixed[np.ix_(others, others)] + 0.5 * np.eye(29)
        system[-1, -1] = 0
        solution = np.linalg.solve(system, np.append(wanted[others], 0))
        errors.append(mixed[i, others] @ solution[:-1] + solution[-1] - wanted[i])
    assert model.leave_one_out_error_ == pytest.approx(np.mean(np.square(errors)), abs=1e-10)


@pytest.mark.parametrize(
    "form", ["dict", "list", "container", "array", "sparse", "masks", "frame", "names", "callables", "levels"]
)
def test_the_form_of_the_samples_changes_nothing(form: str) -> None:
    views, y = three_classes()
    expected = LegoClassifier(steps=5).fit(views, y).decision_function(views)
    samples: Any = views
    options: dict[str, Any] = {}
    if form == "list":
        samples = list(views.values())
    elif form == "container":
        samples = MultiView(views)
    elif form != "dict":
        samples, options["view_columns"] = np.hstack(list(views.values())), {"a": slice(0, 4), "b": slice(4, 8)}
    if form == "sparse":
        samples = sp.csr_matrix(samples)  # whose numbers are hardly ever zero: no text
    if form == "masks":
        options["view_columns"] = {"a": np.arange(8) < 4, "b": [False] * 4 + [True] * 4}
    if form in ("frame", "names", "callables"):
        samples = pd.DataFrame(samples, columns=[f"{name}{number}" for name in "ab" for number in range(4)])
    if form == "names":
        options["view_columns"] = {"a": slice("a0", "a3"), "b": ["b0", "b1", "b2", "b3"]}
    if form == "callables":
        options["view_columns"] = {name: make_column_selector(pattern=name) for name in "ab"}
    if form == "levels":
        samples, options = pd.concat({name: pd.DataFrame(view) for name, view in views.items()}, axis=1), {}
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
    one, two = (LegoClassifier(random_state=3).fit(views, y) for _ in range(2))
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


def test_without_a_view_the_ridge_is_solved_on_the_other_kernels() -> None:
    views, y = three_classes()
    model = LegoClassifier(steps=5, ridge=0.3).fit(views, y)
    there = model.decision_function({"b": views["b"]})
    mixture = model._mixture
    kept = [number for number, term in enumerate(mixture.terms) if not term.uses(["a"])]
    rows = {"b": mixture.kernels["b"].prepare(views["b"])}
    graphs = mixture.graphs(rows, rows)
    mixed = sum(float(mixture.scaled[k]) * graphs[mixture.terms[k].factors[0]] for k in kept)
    targets = torch.from_numpy(2.0 * np.eye(3)[y] - 1)
    solved = learning.solve_ridge(learning.centre_kernel(mixed), targets, (0.3,))
    np.testing.assert_allclose(there, solved.mean + (mixed - mixed.mean(0)) @ solved.coefficients, atol=1e-10)
    assert (model.classes_[there.argmax(1)] == y).mean() > 0.6
    lists = LegoClassifier(steps=5, ridge=0.3).fit(list(views.values()), y)
    np.testing.assert_allclose(lists.decision_function([None, views["b"]]), there)
    with pytest.raises(DataError, match=r"views are missing \(a\)"):
        LegoClassifier(steps=5, missing_views="error").fit(views, y).predict({"b": views["b"]})


def test_a_row_of_nan_is_a_sample_without_the_view() -> None:
    views, y = three_classes()
    model = LegoClassifier(steps=5).fit(views, y)
    holed = {"a": views["a"].copy(), "b": views["b"].copy()}
    holed["a"][[3, 8]], holed["b"][5] = np.nan, np.nan
    found, whole = model.decision_function(holed), model.decision_function(views)
    np.testing.assert_allclose(found[[3, 8]], model.decision_function({"b": views["b"]})[[3, 8]])
    np.testing.assert_allclose(found[5], model.decision_function({"a": views["a"]})[5])
    others = np.delete(np.arange(120), [3, 5, 8])
    np.testing.assert_allclose(found[others], whole[others])
    holed["b"][3] = np.nan
    with pytest.raises(DataError, match=r"a sample has no view \(row 3\)"):
        model.predict(holed)
    holed["b"][3, 0] = 1.0
    with pytest.raises(DataError, match=r"NaN or infinity.*view 'b'"):
        model.predict(holed)
    with pytest.raises(DataError, match=r"NaN or infinity.*view 'a'"):
        LegoClassifier().fit({"a": np.where(np.arange(120)[:, None] == 3, np.nan, views["a"])}, y)


def test_columns_of_data_frames_are_found_by_name_and_their_rows_must_agree() -> None:
    views, y = three_classes()
    frames = {name: pd.DataFrame(view, columns=list("wxyz")) for name, view in views.items()}
    model = LegoClassifier(steps=5).fit(frames, y)
    permuted = {"a": frames["a"][list("zxwy")], "b": frames["b"]}
    np.testing.assert_array_equal(model.decision_function(permuted), model.decision_function(frames))
    np.testing.assert_array_equal(model.decision_function(views), model.decision_function(frames))  # arrays: by place
    with pytest.raises(DataError, match=r"other columns \(view 'a'\): expected the columns of training: w, x, y, z, got q, z"):
        model.predict({"a": frames["a"].rename(columns={"z": "q"}), "b": frames["b"]})
    shuffled = {"a": frames["a"], "b": frames["b"].iloc[::-1]}
    for call in (lambda: model.predict(shuffled), lambda: LegoClassifier().fit(shuffled, y)):
        with pytest.raises(DataError, match=r"differ in their rows \(view 'b'\).*row 0 is .*119.* here and .*0.* there"):
            call()


def test_weights_of_rows_count_as_copies_of_them() -> None:
    views, y = three_classes(60)
    counts = np.where(y == 2, 3, 1)
    copies = np.repeat(np.arange(60), counts)
    options: dict[str, Any] = {"weights": "uniform", "ridge": 0.2, "folds": 0}
    scaled = {name: (view - view.mean(0)) / view.std(0) for name, view in views.items()}
    weighted = LegoRegressor(**options).fit(scaled, y.astype(float), sample_weight=counts)
    mixture = weighted._mixture
    rows = {name: mixture.kernels[name].prepare(view) for name, view in scaled.items()}
    mixed = learning.mix_terms(mixture.terms, mixture.scaled, mixture.graphs(rows, rows))
    wanted = torch.from_numpy(((y - y.mean()) / y.std())[:, None])
    among = learning.centre_kernel(mixed[np.ix_(copies, copies)])
    solved = learning.solve_ridge(among, wanted[copies], (0.2 * len(copies) / 60,))  # lambda is per row of weight 1 on average
    expected = solved.mean + (mixed[:, copies] - mixed[np.ix_(copies, copies)].mean(0)) @ solved.coefficients
    got = (weighted.predict(scaled) - y.mean()) / y.std()
    np.testing.assert_allclose(got, expected[:, 0], atol=1e-8)
    balanced = LegoClassifier(class_weight="balanced", **options).fit(views, y == 2)
    by_hand = LegoClassifier(**options).fit(views, y == 2, np.where(y == 2, 0.5 / (y == 2).mean(), 0.5 / (y != 2).mean()))
    np.testing.assert_allclose(balanced.decision_function(views), by_hand.decision_function(views))


def test_leave_one_out_of_weighted_rows_is_fitting_without_them() -> None:
    random = np.random.default_rng(0)
    x, y, counts = random.normal(size=(12, 2)), random.normal(size=(12, 1)), random.uniform(0.5, 2, size=12)
    counts /= counts.mean()
    kernel = torch.from_numpy(x @ x.T)
    exact = learning.solve_ridge(kernel, torch.from_numpy(y), (0.7,), counts=torch.from_numpy(counts))
    features = torch.from_numpy(x @ np.linalg.inv(np.eye(2)))
    landmarks = learning.solve_landmark_ridge(
        kernel[:, :3], kernel[:3, :3], torch.from_numpy(y), (0.7,), counts=torch.from_numpy(counts)
    )
    for i in (0, 5, 11):
        rest = np.delete(np.arange(12), i)
        design = np.column_stack([np.ones(11), features[rest]])
        penalty = 0.7 * np.diag([0.0, 1.0, 1.0])
        solution = np.linalg.solve(design.T @ (counts[rest, None] * design) + penalty, design.T @ (counts[rest] * y[rest, 0]))
        residual = y[i, 0] - np.append(1.0, x[i]) @ solution
        assert float(exact.residuals[i, 0]) == pytest.approx(residual, abs=1e-10)
        assert float(landmarks.residuals[i, 0]) == pytest.approx(residual, abs=1e-8)  # rank 2: three landmarks say all


def test_tables_of_labels_and_logarithms() -> None:
    views, y = three_classes()
    table = np.column_stack([y > 0, y == 2])
    model = LegoClassifier(steps=5).fit(views, table)
    alone = [LegoClassifier(steps=5).fit(views, column) for column in table.T]
    assert model.predict(views).shape == model.predict_proba(views).shape == (120, 2)
    assert (model.predict(views) == table).mean() > 0.85
    assert np.mean([one.score(views, column) for one, column in zip(alone, table.T, strict=True)]) > 0.85
    np.testing.assert_array_equal(model.predict(views), (model.predict_proba(views) > 0.5).astype(int))
    one = LegoClassifier(steps=5).fit(views, y)
    np.testing.assert_allclose(np.exp(one.predict_log_proba(views)), one.predict_proba(views))


def test_biases_of_classes_lower_the_log_loss_where_classes_are_rare() -> None:
    random = np.random.default_rng(0)
    y = (random.random(400) < 0.1).astype(int)
    view = y[:, None] + random.normal(size=(400, 2))
    plain, biased = (LegoClassifier(steps=5, class_bias=wanted).fit([view], y) for wanted in (False, True))
    loss = [-np.mean(m.predict_log_proba([view])[np.arange(400), y]) for m in (plain, biased)]
    assert plain.biases_.tolist() == [0.0, 0.0]
    assert biased.biases_[1] != 0
    assert loss[1] < loss[0]


def test_the_deviation_of_a_regression_is_that_of_new_rows() -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=(600, 2))
    y = 10 * a[:, 0] + 3 * random.normal(size=600)
    model = LegoRegressor(steps=5).fit([a[:300]], y[:300])
    found, deviation = model.predict([a[300:]], return_std=True)
    assert deviation.shape == found.shape
    assert deviation[0] == pytest.approx(np.std(y[300:] - found), rel=0.15)
    with pytest.raises(ParameterError, match="return_std needs outputs out of fold"):
        LegoRegressor(steps=1, folds=0).fit([a], y).predict([a], return_std=True)


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


def test_landmarks_come_close_and_all_rows_as_landmarks_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    views, y = three_classes(150)
    exact = LegoClassifier(steps=5, ridge=0.1).fit(views, y)
    monkeypatch.setattr(kernel_mixture, "EXACT", 0.5)
    monkeypatch.setattr(kernel_mixture, "BLOCK", 64)
    every = LegoClassifier(steps=5, ridge=0.1, n_landmarks=150, folds=0).fit(views, y)
    np.testing.assert_allclose(every.decision_function(views), exact.decision_function(views), atol=1e-5)
    some = LegoClassifier(steps=5, ridge=0.1, n_landmarks=60).fit(views, y)
    assert len(some.support_) == 60
    assert (some.predict(views) == exact.predict(views)).mean() > 0.9
    assert (some.predict({"a": views["a"]}) == y).mean() > 0.6


def test_cross_validation_of_views_scores_the_model_that_is_fitted_to_them() -> None:
    """One sparse view among dense ones stays text, and the dense ones stay dense, whatever indexes the rows."""
    views, y = three_classes()
    samples: Views = {"a": views["a"], "words": sp.csr_array(np.eye(3)[y] * (np.arange(120) % 2)[:, None])}
    container = MultiView(samples)
    found = cross_val_score(LegoClassifier(steps=3, folds=0), container, y, cv=KFold(3))
    for score, (train, test) in zip(found, KFold(3).split(y), strict=True):
        model = LegoClassifier(steps=3, folds=0).fit(part(samples, train), y[train])
        assert "gaussian(a)" in model.coefficients_
        assert "gaussian(words)" not in model.coefficients_
        assert model.score(part(samples, test), y[test]) == pytest.approx(score)
    assert container.shape == (120, 7)
    assert list(container) == ["a", "words"]


def test_pipeline_grid_search_and_clone() -> None:
    views, y = three_classes()
    columns = {"a": slice(0, 4), "b": slice(4, 8)}
    array = np.hstack(list(views.values()))
    model = make_pipeline(StandardScaler(), LegoClassifier(view_columns=columns, steps=3, folds=0))
    assert cross_val_score(model, array, y, cv=3).mean() > 0.7
    search = GridSearchCV(LegoClassifier(steps=3, folds=0), {"weights": ["full", "additive"]}, cv=2).fit(MultiView(views), y)
    assert search.best_score_ > 0.7
    copy = clone(search.best_estimator_)
    assert copy.weights == search.best_params_["weights"]
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
        ({"weights": "best"}, "The 'weights' parameter"),
        ({"folds": 1}, "one fold leaves no rows"),
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
