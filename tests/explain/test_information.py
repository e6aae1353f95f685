"""Partial information decomposition against exact values, a one-parameter search, dit's cone solver and its own identities."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.decomposition import PartialInformation
from lego_fusion.explain.information import decompose_table, partial_information

Parts = tuple[float, float, float, float]


def parts(found: PartialInformation) -> Parts:
    return found.redundancy, *found.unique.values(), found.synergy


def information(table: np.ndarray) -> float:
    """I(X; Y) of a two-way table in bits, entry by entry."""
    rows, columns = table.sum(1), table.sum(0)
    return sum(p * math.log2(p / (rows[i] * columns[j])) for (i, j), p in np.ndenumerate(table) if p > 0)


def both(table: np.ndarray) -> float:
    return information(table.reshape(-1, table.shape[2]))


def random_table(generator: np.random.Generator, shape: tuple[int, ...], concentration: float, zeros: float) -> np.ndarray:
    """A random table, some cells of which are zero, and none of whose classes is empty."""
    table = generator.dirichlet(np.full(math.prod(shape), concentration)).reshape(shape)
    table[generator.random(shape) < zeros] = 0
    table[0, 0] += 0.01
    return table / table.sum()


# Exact values.


def test_exact_values_by_default(exact: tuple[np.ndarray, Parts]) -> None:
    found = decompose_table(exact[0])
    assert parts(found) == pytest.approx(exact[1], abs=1e-4)
    assert found.marginal_error < 1e-9
    assert found.gap is not None
    assert found.gap <= 1e-4


def test_exact_values_to_a_millionth_when_asked(exact: tuple[np.ndarray, Parts]) -> None:
    found = decompose_table(exact[0], tolerance=1e-6)
    assert parts(found) == pytest.approx(exact[1], abs=1e-6)
    assert found.marginal_error < 1e-9
    assert found.gap is not None
    assert found.gap <= 1e-6


def test_the_gap_bounds_the_error(exact: tuple[np.ndarray, Parts]) -> None:
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-8):
        found = decompose_table(exact[0], tolerance=tolerance)
        assert found.gap is not None
        assert found.gap <= tolerance
        redundancy, unique1, unique2, synergy = (value - true for value, true in zip(parts(found), exact[1], strict=True))
        for error in (-redundancy, unique1, unique2, -synergy):  # q is found from above
            assert -1e-9 <= error <= found.gap + 1e-9


# Oracles.


def test_two_by_two_tables_agree_with_a_search_over_their_one_free_number_per_class() -> None:
    """q_00c moves within its bounds and fixes the other three cells of class c; two classes, so two nested searches."""
    generator = np.random.default_rng(3)
    for trial in range(12):
        table = random_table(generator, (2, 2, 2), concentration=(0.2, 1.0)[trial % 2], zeros=0.2 * (trial % 3))
        first, second = table.sum(1), table.sum(0)
        low = np.maximum(0, first[0] + second[0] - first.sum(0))
        high = np.minimum(first[0], second[0])

        def table_at(corner: np.ndarray, first: np.ndarray = first, second: np.ndarray = second) -> np.ndarray:
            rest = first.sum(0) - first[0] - second[0] + corner
            return np.array([[corner, first[0] - corner], [second[0] - corner, rest]]).clip(0)

        def best(share: float, low: np.ndarray = low, high: np.ndarray = high, at=table_at) -> float:
            def value(other: float) -> float:
                return both(at(low + np.array([share, other]) * (high - low)))

            return minimize_scalar(value, bounds=(0, 1), method="bounded", options={"xatol": 1e-7}).fun

        least = minimize_scalar(best, bounds=(0, 1), method="bounded", options={"xatol": 1e-7}).fun
        i1, i2, i12 = information(first), information(second), both(table)
        expected = (i1 + i2 - least, least - i2, least - i1, i12 - least)
        assert parts(decompose_table(table, tolerance=1e-7)) == pytest.approx(expected, abs=2e-6)


def test_random_tables_agree_with_the_cone_solver_of_dit() -> None:
    dit = pytest.importorskip("dit", reason="pip install dit ecos in an environment of its own")
    pytest.importorskip("ecos", reason="pip install ecos")
    generator = np.random.default_rng(4)
    for trial in range(8):
        table = random_table(generator, (3, 2 + trial % 3, 2 + trial % 2), concentration=0.5, zeros=0.3)
        cells = [cell for cell, p in np.ndenumerate(table) if p > 0]
        distribution = dit.Distribution(["".join(map(str, cell)) for cell in cells], [table[cell] for cell in cells])
        lattice = dit.pid.PID_BROJA(distribution, [[0], [1]], [2], method="cone")
        expected = [float(lattice[node]) for node in (((0,), (1,)), ((0,),), ((1,),), ((0, 1),))]
        assert parts(decompose_table(table, tolerance=1e-7)) == pytest.approx(expected, abs=1e-5)


# Identities and metamorphic relations.

tables_of_any_kind = st.builds(
    random_table,
    st.integers(0, 10_000).map(np.random.default_rng),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4)),
    st.sampled_from([0.05, 0.3, 1.0, 5.0]),
    st.sampled_from([0.0, 0.3, 0.7]),
)


@settings(max_examples=40, deadline=None)
@given(tables_of_any_kind)
def test_identities(table: np.ndarray) -> None:
    found = decompose_table(table, tolerance=1e-6)
    redundancy, unique1, unique2, _ = parts(found)
    i1, i2 = information(table.sum(1)), information(table.sum(0))
    assert redundancy + unique1 == pytest.approx(i1, abs=1e-10)
    assert redundancy + unique2 == pytest.approx(i2, abs=1e-10)
    assert sum(parts(found)) == pytest.approx(both(table), abs=1e-10)
    assert found.total == pytest.approx(both(table), abs=1e-10)
    assert list(found.information.values()) == pytest.approx([i1, i2], abs=1e-10)
    assert min(parts(found)) >= -1e-10
    assert found.marginal_error < 1e-9
    assert found.gap is not None
    assert found.gap <= 1e-6
    assert not found.notes


@settings(max_examples=15, deadline=None)
@given(tables_of_any_kind, st.integers(0, 1000))
def test_neither_the_order_of_sources_nor_of_symbols_matters(table: np.ndarray, seed: int) -> None:
    redundancy, unique1, unique2, synergy = parts(decompose_table(table, tolerance=1e-6))
    swapped = decompose_table(table.swapaxes(0, 1), tolerance=1e-6)
    assert parts(swapped) == pytest.approx((redundancy, unique2, unique1, synergy), abs=2e-6)
    generator = np.random.default_rng(seed)
    shuffled = table[np.ix_(*(generator.permutation(size) for size in table.shape))]
    assert parts(decompose_table(shuffled, tolerance=1e-6)) == pytest.approx((redundancy, unique1, unique2, synergy), abs=2e-6)


@settings(max_examples=15, deadline=None)
@given(tables_of_any_kind, st.integers(0, 1000))
def test_processing_a_source_takes_information_away(table: np.ndarray, seed: int) -> None:
    """A noisy copy of x1 has no more unique, redundant or total information, and x2 has no less that is unique."""
    noise = np.random.default_rng(seed).dirichlet(np.full(3, 0.5), size=table.shape[0])  # P(x1' | x1)
    noisy = np.einsum("abc,ad->dbc", table, noise)
    before, after = decompose_table(table, tolerance=1e-6), decompose_table(noisy, tolerance=1e-6)
    assert after.redundancy <= before.redundancy + 2e-6
    assert after.unique["first"] <= before.unique["first"] + 2e-6
    assert after.unique["second"] >= before.unique["second"] - 2e-6
    assert after.total <= before.total + 1e-9


@pytest.mark.parametrize("tiny", [1e-6, 1e-9, 1e-12, 1e-15])
def test_tiny_probabilities_are_solved(tables: dict[str, tuple[np.ndarray, Parts]], tiny: float) -> None:
    for table, expected in tables.values():
        mixed = (1 - tiny) * table + tiny / table.size
        found = decompose_table(mixed, tolerance=1e-6)
        assert found.gap is not None
        assert found.gap <= 1e-6
        assert parts(found) == pytest.approx(expected, abs=2e-6 + 200 * tiny)


def test_the_parts_do_not_depend_on_symbols_that_never_occur(tables: dict[str, tuple[np.ndarray, Parts]]) -> None:
    table, expected = tables["AND"]
    padded = np.zeros((4, 3, 5))
    padded[1:3, :2, 2:4] = table
    found = decompose_table(padded, tolerance=1e-6)
    assert parts(found) == pytest.approx(expected, abs=1e-6)
    assert dict(found.symbols) == {"first": 2, "second": 2}


# Samples.


def drawn(table: np.ndarray, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (x1, x2, y) of samples drawn from a table."""
    cells = np.random.default_rng(seed).choice(table.size, size=samples, p=table.ravel())
    return np.unravel_index(cells, table.shape)  # type: ignore[return-value]


def test_frequencies_of_samples_give_the_table(tables: dict[str, tuple[np.ndarray, Parts]]) -> None:
    for name in ("AND", "boom", "COPY"):
        table, expected = tables[name]
        cells = np.repeat(np.arange(table.size), (table.ravel() * 60).round().astype(int))
        x1, x2, y = np.unravel_index(cells, table.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a small sample, on purpose
            found = partial_information(x1, x2, y, tolerance=1e-6, permutations=20, resamples=20)
        assert parts(found) == pytest.approx(expected, abs=1e-6)


def test_noise_lies_within_its_null() -> None:
    generator = np.random.default_rng(8)
    beyond = 0
    for seed in range(8):
        x1, x2, y = generator.integers(0, 4, 400), generator.integers(0, 4, 400), generator.integers(0, 2, 400)
        found = partial_information(x1, x2, y, permutations=40, resamples=20, seed=seed)
        assert found.null is not None
        beyond += sum(found.values[key] > null.high for key, null in found.null.items())
    assert beyond <= 0.2 * 8 * len(found.values)


def test_the_null_has_the_inflation_that_is_printed() -> None:
    generator = np.random.default_rng(9)
    x1, x2, y = generator.integers(0, 4, 600), generator.integers(0, 4, 600), generator.integers(0, 3, 600)
    found = partial_information(x1, x2, y, permutations=100, resamples=20)
    assert found.null is not None
    assert found.inflation == pytest.approx(3 * 3 * 2 / (2 * 600 * math.log(2)))
    assert found.null["synergy"].mean - found.null["redundancy"].mean == pytest.approx(found.inflation, rel=0.15)


def test_planted_parts_are_beyond_chance_and_inside_their_interval(tables: dict[str, tuple[np.ndarray, Parts]]) -> None:
    table, expected = tables["BSC(.1), BSC(.2)"]
    x1, x2, y = drawn(table, 1500, seed=2)
    found = partial_information(x1, x2, y, names=("motion", "text"), permutations=50)
    assert found.null is not None
    assert found.intervals is not None
    for key, true in zip(("redundancy", "unique motion", "unique text", "synergy"), expected, strict=True):
        low, high = found.intervals[key]
        assert low - 1e-3 <= true <= high + 1e-3
        if true > 0.05:
            assert found.null[key].p_value == pytest.approx(1 / 51)
            assert low > 0


def test_continuous_features_are_clustered_and_it_is_said() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.integers(0, 2, (2, 900))
    x1 = np.stack([a + 0.05 * generator.normal(size=900), np.zeros(900)], axis=1)
    x2 = b + 0.05 * generator.normal(size=900)
    found = partial_information(x1, x2, a ^ b, names=("motion", "text"), clusters=2, permutations=20, resamples=20)
    assert parts(found) == pytest.approx((0, 0, 0, 1), abs=0.01)
    assert found.clustered == ("motion", "text")
    assert "'motion' into 2" in str(found)
    left_open = partial_information(x1, x2, a ^ b, permutations=20, resamples=20)
    assert dict(left_open.symbols) == {"first": 8, "second": 8}
    assert left_open.inflation is not None
    assert left_open.inflation <= 0.05


def test_a_small_sample_warns_with_the_inflation() -> None:
    x = np.arange(40) % 8
    with pytest.warns(UserWarning, match=r"40 samples for 8 x 8 x 2 = 128 cells: chance alone adds about 0\.884 bits"):
        found = partial_information(x, np.roll(x, 3), x % 2, permutations=20, resamples=20)
    assert "0.884" in str(found)


def test_the_seed_decides() -> None:
    generator = np.random.default_rng(6)
    x1, x2, y = generator.normal(size=(300, 3)), generator.normal(size=300), generator.integers(0, 2, 300)
    found = [partial_information(x1, x2, y, permutations=20, resamples=20, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_names_of_classes_and_symbols_do_not_matter() -> None:
    x1, x2, y = np.random.default_rng(7).integers(0, 3, (3, 400))
    words = np.array(["c", "a", "b"])
    settings_ = {"permutations": 20, "resamples": 20}
    plain, named = partial_information(x1, x2, y, **settings_), partial_information(words[x1], x2 * 10, words[y], **settings_)
    assert parts(named) == pytest.approx(parts(plain), abs=2e-4)


def test_the_printed_record_shows_value_null_and_interval() -> None:
    x1, x2 = np.random.default_rng(0).integers(0, 2, (2, 300))
    lines = str(partial_information(x1, x2, x1, names=("motion", "text"), permutations=20, resamples=20)).splitlines()
    assert "null 95 %" in lines[0]
    assert "95 % interval" in lines[0]
    assert [line.split("  ")[0] for line in lines[1:4]] == ["redundancy", "unique motion", "unique text"]


# Bad input.


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.full((2, 2), 0.25), r"wrong shape .*expected \(a, b, c\).*got \(2, 2\)"),
        (np.zeros((0, 2, 2)), "wrong shape"),
        (np.full((2, 2, 2), 0.5), "does not sum to 1 .*got 4.0"),
        (np.full((2, 2, 2), np.nan), "not finite"),
        (np.array([[[1.5, -0.5]]]), "negative entries .*got -0.5"),
        (np.full((2, 2, 1), 0.25), "nothing can be informative about a target that never changes"),
        (np.stack([np.full((2, 2), 0.25), np.zeros((2, 2))], axis=2), "never changes"),
        ([["a"]], "holds no numbers"),
    ],
)
def test_tables_that_are_no_distribution_are_refused(table: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decompose_table(table)  # type: ignore[arg-type]


FINE = np.arange(10) % 2


@pytest.mark.parametrize(
    ("x1", "x2", "y", "message"),
    [
        (FINE, FINE[:9], FINE, "differ in length.*10 of 'first', 9 of 'second', 10 of 'target'"),
        (FINE, FINE, np.zeros(10, int), "never changes .*expected 2 or more classes, got 1"),
        (np.array([0]), np.array([0]), np.array([0]), "too few samples"),
        (np.array([]), np.array([]), np.array([]), "too few samples"),
        (np.full(10, np.nan), FINE, FINE, r"not finite \(first\)"),
        (FINE, np.array([np.inf] * 10), FINE, r"not finite \(second\)"),
        (np.zeros((10, 3), int), FINE, FINE, "more than one column"),
        (np.zeros((10, 3, 2)), FINE, FINE, "too few samples|wrong shape"),
        (FINE, FINE, FINE + 0.5, "not whole numbers"),
        (FINE, FINE, np.full(10, np.nan), "not whole numbers"),
        (FINE, FINE, np.zeros((10, 2), int), "labels have a wrong shape"),
        (np.array([None] * 10), FINE, FINE, "neither labels nor numbers"),
    ],
)
def test_samples_that_cannot_be_decomposed_are_refused(x1: object, x2: object, y: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        partial_information(x1, x2, y)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clusters": 1}, "'clusters' parameter"),
        ({"permutations": 0}, "'permutations' parameter"),
        ({"resamples": 5}, "'resamples' parameter"),
        ({"tolerance": 0.0}, "'tolerance' parameter"),
        ({"level": 1.0}, "'level' parameter"),
        ({"seed": -1}, "'seed' parameter"),
        ({"names": ("text", "text")}, "two different names"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        partial_information(FINE, FINE, FINE, **wrong)  # type: ignore[arg-type]
