"""Similarity of representations: exact values, definitions written out, invariances, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain import similarity
from lego_fusion.explain.similarity import cca, cka, minibatch_cka, noise_floor, procrustes, pwcca, similarity_matrix, svcca

FLAT = settings(deadline=None, max_examples=25)
SEEDS = st.integers(0, 10_000)
MEASURES = ("cka", "cka-biased", "cca", "svcca", "pwcca", "procrustes")
COMPARE = {
    "cka": cka,
    "cka-biased": lambda x, y: cka(x, y, debiased=False),
    "cca": lambda x, y: float(cca(x, y).mean()),
    "svcca": svcca,
    "pwcca": pwcca,
    "procrustes": procrustes,
}


def draw(seed: int, *widths: int, samples: int = 40) -> list[np.ndarray]:
    """Activations of different widths that share some signal and have columns of uneven size."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=(samples, 3))
    return [
        signal @ generator.normal(size=(3, width)) + generator.normal(size=(samples, width)) * generator.uniform(0.2, 3, width)
        for width in widths
    ]


def directions(samples: int, count: int) -> np.ndarray:
    """Orthonormal columns, each orthogonal to the vector of ones."""
    generator = np.random.default_rng(samples * count)
    start = np.concatenate([np.ones((samples, 1)), generator.normal(size=(samples, count))], axis=1)
    return np.linalg.qr(start)[0][:, 1:]


def rotation(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def unbiased_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741 - the letters of the paper
    """Song et al., written as they write it."""
    n, one = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    parts = np.trace(k @ l) + one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    return float(parts / (n * (n - 3)))


@pytest.mark.parametrize(("a", "b", "c", "d"), [(2, 1, 1, 3), (1, 1, 1, 1), (5, 0.1, 0.3, 2)])
def test_two_shared_directions_of_other_lengths(a: float, b: float, c: float, d: float) -> None:
    u = directions(12, 2)
    expected = (a**2 * c**2 + b**2 * d**2) / np.sqrt((a**4 + b**4) * (c**4 + d**4))
    value = cka(u * [a, b], u * [c, d], debiased=False)
    assert value == pytest.approx(expected, abs=1e-12)
    if (a, b, c, d) == (2, 1, 1, 3):
        assert value == pytest.approx(0.348187, abs=1e-6)
    assert cca(u * [a, b], u * [c, d]) == pytest.approx([1, 1])


@pytest.mark.parametrize(("k", "p", "q"), [(2, 4, 5), (0, 3, 3), (3, 3, 7), (1, 1, 6)])
def test_shared_directions_among_others(k: int, p: int, q: int) -> None:
    u = directions(30, p + q - k)
    x, y = u[:, :p], u[:, p - k :]
    assert cka(x, y, debiased=False) == pytest.approx(k / np.sqrt(p * q), abs=1e-12)
    np.testing.assert_allclose(cca(x, y), [1.0] * k + [0.0] * (min(p, q) - k), atol=1e-9)
    assert procrustes(x, y) == pytest.approx(k / np.sqrt(p * q), abs=1e-12)  # k singular values of 1 over |X| |Y|


def test_wide_noise_looks_alike_unless_debiased() -> None:
    biased, debiased = [], []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        x, y = generator.normal(size=(2, 30, 500))
        biased.append(cka(x, y, debiased=False))
        debiased.append(cka(x, y))
    assert np.mean(biased) == pytest.approx(0.943, abs=0.01)
    assert abs(np.mean(debiased)) < 0.01
    assert min(debiased) < 0  # and is not clamped


@pytest.mark.parametrize("samples", [4, 5, 17])
@pytest.mark.parametrize("widths", [(3, 4), (60, 2), (50, 70)])
def test_cka_against_its_definition(samples: int, widths: tuple[int, int]) -> None:
    x, y = draw(samples, *widths, samples=samples)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    expected = unbiased_hsic(k, l) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(l, l))
    assert cka(x, y) == pytest.approx(expected, abs=1e-10)
    h = np.eye(samples) - 1 / samples
    biased = np.trace(k @ h @ l @ h) / np.sqrt(np.trace(k @ h @ k @ h) * np.trace(l @ h @ l @ h))
    assert cka(x, y, debiased=False) == pytest.approx(biased, abs=1e-10)


@pytest.mark.parametrize("measure", MEASURES)
@FLAT
@given(seed=SEEDS, scale=st.floats(1e-6, 1e6), shift=st.floats(-100, 100))
def test_scale_and_shift_change_nothing(measure: str, seed: int, scale: float, shift: float) -> None:
    x, y = draw(seed, 4, 6)
    assert COMPARE[measure](-scale * x + shift * scale, y) == pytest.approx(COMPARE[measure](x, y), abs=1e-7)


@pytest.mark.parametrize("measure", [measure for measure in MEASURES if measure != "pwcca"])
@FLAT
@given(seed=SEEDS)
def test_rotations_the_order_of_samples_and_of_sides_change_nothing(measure: str, seed: int) -> None:
    x, y = draw(seed, 4, 6)
    value = COMPARE[measure](x, y)
    order = np.random.default_rng(seed).permutation(len(x))
    assert COMPARE[measure](x @ rotation(4, seed), y @ rotation(6, seed)) == pytest.approx(value, abs=1e-9)
    assert COMPARE[measure](x[order], y[order]) == pytest.approx(value, abs=1e-9)
    assert COMPARE[measure](y, x) == pytest.approx(value, abs=1e-9)
    assert COMPARE[measure](x, 3 * x @ rotation(4, seed) - 1) == pytest.approx(1, abs=1e-9)
    assert value <= 1 + 1e-12


@FLAT
@given(seed=SEEDS)
def test_cca_alone_ignores_every_invertible_map(seed: int) -> None:
    x, y = draw(seed, 4, 6)
    stretch = rotation(4, seed) @ np.diag([1, 10, 0.1, 3]) @ rotation(4, seed + 1)
    np.testing.assert_allclose(cca(x @ stretch, y), cca(x, y), atol=1e-8)
    assert abs(cka(x @ stretch, x) - 1) > 0.01
    assert pwcca(x @ stretch, x) == pytest.approx(1)


def test_canonical_correlations_against_the_eigenvalues_of_the_textbook() -> None:
    x, y = draw(3, 4, 6)
    x, y = x - x.mean(0), y - y.mean(0)
    product = np.linalg.solve(x.T @ x, x.T @ y) @ np.linalg.solve(y.T @ y, y.T @ x)
    expected = np.sqrt(np.sort(np.linalg.eigvals(product).real)[::-1])
    np.testing.assert_allclose(cca(x, y), expected, atol=1e-9)


def test_columns_that_depend_on_others_count_once() -> None:
    x, y = draw(4, 3, 5)
    doubled = np.concatenate([x, x[:, :1], x @ [[1.0], [2.0], [3.0]], np.ones((len(x), 1))], axis=1)
    np.testing.assert_allclose(cca(doubled, y), cca(x, y), atol=1e-9)
    assert svcca(doubled, y, variance=1.0) == pytest.approx(svcca(x, y, variance=1.0), abs=1e-9)
    np.testing.assert_allclose(cca(doubled.astype(np.float32), y.astype(np.float32)), cca(x, y), atol=1e-3)


def test_svcca_keeps_as_many_directions_as_the_variance_asks() -> None:
    u = directions(30, 4)
    x = u[:, :3] * np.sqrt([0.9, 0.095, 0.005])  # shares of the variance: two directions make 99.5 %
    y = u[:, [0, 3]]
    assert svcca(x, y) == pytest.approx(0.5)  # correlations 1 and 0 of two and two
    assert svcca(x, y, variance=0.9) == pytest.approx(1.0)  # the first direction only
    assert svcca(x[:, 1:], x[:, :1], variance=1.0) == pytest.approx(0.0, abs=1e-6)


def test_pwcca_weights_directions_by_what_they_explain() -> None:
    u = directions(30, 3)
    x, y = u[:, :2] * [3, 1], u[:, [0, 2]]
    # h_1 = u_1 with correlation 1 and weight |<u_1, 3 u_1>| = 3; h_2 = u_2 with correlation 0 and weight 1
    assert pwcca(x, y) == pytest.approx(0.75)
    assert pwcca(y, x) == pytest.approx(0.5)


def test_procrustes_is_one_less_half_of_the_distance_after_the_best_rotation() -> None:
    x, y = (one - one.mean(0) for one in draw(5, 4, 4))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    u, _, v = np.linalg.svd(y.T @ x)
    best = np.sum((x - y @ u @ v) ** 2)
    assert procrustes(x, y) == pytest.approx(1 - best / 2, abs=1e-12)
    assert all(np.sum((x - y @ rotation(4, seed)) ** 2) >= best for seed in range(20))


def test_minibatches_against_sums_of_the_definition() -> None:
    x, y = draw(6, 3, 80, samples=60)
    parts = [(x[i : i + 15] * (1 + i), y[i : i + 15]) for i in range(0, 60, 15)]  # of uneven size
    sums = np.zeros(3)
    for a, b in parts:
        k, l = a @ a.T, b @ b.T  # noqa: E741
        sums += [unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l)]
    assert minibatch_cka(parts) == pytest.approx(sums[0] / np.sqrt(sums[1] * sums[2]), abs=1e-10)
    assert minibatch_cka([(x, y)]) == pytest.approx(cka(x, y), abs=1e-10)
    assert minibatch_cka([(x, y)], debiased=False) == pytest.approx(cka(x, y, debiased=False), abs=1e-10)
    assert minibatch_cka([(x, y)] * 3) == pytest.approx(cka(x, y), abs=1e-10)


def test_minibatches_are_unbiased_only_if_debiased() -> None:
    generator = np.random.default_rng(7)
    x = generator.normal(size=(2000, 20))
    y = x[:, :5] + generator.normal(size=(2000, 5))
    parts = [(x[i : i + 10], y[i : i + 10]) for i in range(0, 2000, 10)]
    assert minibatch_cka(parts) == pytest.approx(cka(x, y), abs=0.02)
    assert minibatch_cka(parts, debiased=False) > cka(x, y, debiased=False) + 0.1


@pytest.mark.parametrize("measure", MEASURES)
def test_the_noise_floor_is_the_measure_on_shuffled_rows(measure: Any) -> None:
    x, y = draw(8, 4, 6, samples=30)
    floor = noise_floor(x, y, measure, permutations=30, seed=3)
    generator = torch.Generator().manual_seed(3)
    values = [COMPARE[measure](x, y[torch.randperm(30, generator=generator).numpy()]) for _ in range(30)]
    assert floor.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert floor.quantile == pytest.approx(np.quantile(values, 0.95), abs=1e-9)
    assert COMPARE[measure](x, y) > floor.quantile
    assert floor == noise_floor(x, y, measure, permutations=30, seed=3)


def test_the_floor_of_noise_is_the_noise() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30, 500))
    assert noise_floor(x, y, "cka-biased").mean == pytest.approx(0.943, abs=0.01)
    assert abs(noise_floor(x, y, "cka").mean) < 0.01


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("keep", [True, False, None])
def test_a_matrix_holds_what_each_pair_gives(measure: Any, keep: bool | None) -> None:
    a = dict(zip(["a1", "a2"], draw(9, 5, 8), strict=True))
    b = {"b1": draw(10, 6)[0], "a1": a["a1"], "b3": draw(11, 2)[0]}
    told = similarity_matrix(a, b, measure, keep_grams=keep, permutations=5, seed=1)
    assert told.values.shape == (2, 3)
    assert told.floor is not None
    for row, x in enumerate(a.values()):
        for column, y in enumerate(b.values()):
            assert told.values[row, column] == pytest.approx(COMPARE[measure](x, y), abs=1e-9)
            floor = noise_floor(x, y, measure, permutations=5, seed=1)
            assert told.floor[row, column] == pytest.approx(floor.quantile, abs=1e-9)
    lines = told.table().splitlines()
    assert lines[0].split() == ["b1", "a1", "b3"]
    assert lines[1].startswith(f"a1 {told.values[0, 0]:.3f} (")


def test_every_layer_is_prepared_once_and_lazy_mappings_are_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    prepared = []
    original = similarity.centred
    monkeypatch.setattr(similarity, "centred", lambda layer, name: prepared.append(name) or original(layer, name))
    layers = {f"l{number}": draw(number, 3)[0] for number in range(4)}
    whole = similarity_matrix(layers, layers)
    assert len(prepared) == 4
    np.testing.assert_allclose(np.diag(whole.values), 1)
    np.testing.assert_allclose(whole.values, whole.values.T)
    np.savez(tmp_path / "layers.npz", **layers)
    with np.load(tmp_path / "layers.npz") as stored:  # gives a new array at every look
        np.testing.assert_array_equal(similarity_matrix(stored, stored).values, whole.values)


@pytest.mark.parametrize("measure", ["cka", "cka-biased", "procrustes", "svcca"])
@pytest.mark.parametrize("keep", [True, False])
def test_single_precision_is_near_double(measure: Any, keep: bool) -> None:
    layers = {f"l{width}": one + 50.0 for width, one in zip((300, 30), draw(12, 300, 30, samples=200), strict=True)}
    if measure == "svcca":
        layers.pop("l300")
    single = {name: one.astype(np.float32) for name, one in layers.items()}
    told = similarity_matrix(single, single, measure, keep_grams=keep).values
    np.testing.assert_allclose(told, similarity_matrix(layers, layers, measure).values, atol=2e-6)


def test_arrays_tensors_and_mixed_precision_agree() -> None:
    x, y = draw(13, 5, 7)
    value = cka(x, y)
    assert cka(torch.from_numpy(x).requires_grad_(), y) == pytest.approx(value, abs=1e-12)
    assert cka(x.astype(np.float32), y) == pytest.approx(value, abs=1e-6)
    assert procrustes(x.astype(np.float32), y) == pytest.approx(procrustes(x, y), abs=1e-6)
    assert pwcca(x, y.astype(np.float32)) == pytest.approx(pwcca(x, y), abs=1e-5)
    assert cka(torch.from_numpy(x).half(), y) == pytest.approx(value, abs=1e-3)
    assert cka((100 * x).astype(int), y) == pytest.approx(cka((100 * x).astype(int).astype(float), y), abs=1e-12)


def test_columns_of_very_different_size_are_not_taken_for_constant() -> None:
    x = np.array([[1e6, 0.1], [1e6, -0.1], [1e6, 0.2], [1e6, 0.3], [1e6, -0.2]], dtype=np.float32)
    assert cka(x, x[:, 1:]) == pytest.approx(1, abs=1e-5)
    huge = draw(14, 3)[0] * 1e30
    assert cka(huge.astype(np.float32), huge) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("compare", COMPARE.values(), ids=COMPARE.keys())
def test_bad_activations_are_refused(compare: Any) -> None:
    (x,) = draw(15, 3)
    with pytest.raises(DataError, match=r"different numbers of samples \(x and y\).*40 and 39"):
        compare(x, x[1:])
    for constant in (np.ones((40, 2)), np.full((40, 2), 0.1, np.float32), np.zeros((40, 1))):
        with pytest.raises(DataError, match=r"features are constant \(y\)"):
            compare(x, constant)
    for wrong in (np.nan, np.inf):
        broken = x.copy()
        broken[3, 1] = wrong
        with pytest.raises(DataError, match=r"activations are not finite \(x\).*1 rows"):
            compare(broken, x)
    for shape in ((40,), (40, 3, 2), (1, 3), (40, 0)):
        with pytest.raises(DataError, match=r"wrong shape.*flatten or pool"):
            compare(np.zeros(shape), x)


def test_three_samples_are_too_few_for_the_debiased_measure() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5))
    with pytest.raises(DataError, match=r"too few samples for a debiased measure.*at least 4, got 3"):
        cka(x, x)
    with pytest.raises(DataError, match=r"batch 1.*at least 4, got 3"):
        minibatch_cka([(np.random.default_rng(1).normal(size=(8, 5)),) * 2, (x, x)])
    assert cka(x, x, debiased=False) == pytest.approx(1)


def test_samples_that_are_all_alike_far_apart_have_no_debiased_similarity() -> None:
    with pytest.raises(DataError, match=r"equally far from each other.*\(y\)"):
        cka(draw(16, 3, samples=8)[0], np.eye(8))


def test_canonical_correlations_need_more_samples_than_directions() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 10, 20))
    with pytest.raises(DataError, match="every canonical correlation is 1 whatever the data"):
        cca(x, y)
    with pytest.raises(DataError, match=r"whatever the data \(y\)"):
        pwcca(x[:, :3], y)


def test_parameters_out_of_range(unchecked_types: None) -> None:
    x, y = draw(17, 3, 3)
    with pytest.raises(ParameterError, match=r"'variance' parameter of svcca must be a number in \(0, 1\]"):
        svcca(x, y, variance=0.0)
    with pytest.raises(ParameterError, match="'variance'"):
        svcca(x, y, variance=1.5)
    with pytest.raises(ParameterError, match="'measure' parameter of similarity must be one of 'cka', 'cka-biased'"):
        similarity_matrix({"x": x}, {"y": y}, "dot")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'permutations'"):
        noise_floor(x, y, permutations=0)
    with pytest.raises(DataError, match="no layers to compare"):
        similarity_matrix({}, {"y": y})
    with pytest.raises(DataError, match="there are no batches"):
        minibatch_cka([])
    with pytest.raises(DataError, match=r"constant .layer 'dead'"):
        similarity_matrix({"x": x}, {"dead": np.zeros((40, 2))})
