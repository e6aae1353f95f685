"""Shapley values against the definition over permutations, the axioms, and values worked out by hand."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.shapley import (
    Contributions,
    all_subsets,
    contributions,
    contributions_from_values,
    sampled_contributions,
)

NAMES = ["audio", "flow", "motion", "text"]
GAMES = st.integers(1, 5).flatmap(
    lambda count: st.lists(st.floats(-8, 8, allow_nan=False, width=32), min_size=2**count, max_size=2**count).map(
        lambda values: np.array(values, dtype=np.float64)
    )
)


def names_of(values: np.ndarray) -> list[str]:
    return [f"m{place}" for place in range(len(values).bit_length() - 1)]


def explain(values: np.ndarray) -> Contributions:
    return contributions_from_values(values, names_of(values), removal="test")


def value_of(values: np.ndarray, present: tuple[int, ...]) -> np.ndarray:
    return values[sum(2**place for place in present)]


def by_permutations(values: np.ndarray, count: int) -> np.ndarray:
    """The definition: mean gain over all orders of entering."""
    gains = np.zeros((count, *values.shape[1:]))
    for order in itertools.permutations(range(count)):
        for step, place in enumerate(order):
            gains[place] += value_of(values, order[: step + 1]) - value_of(values, order[:step])
    return gains / math.factorial(count)


def interaction_by_sum(values: np.ndarray, i: int, j: int, count: int) -> float:
    """The sum of the interaction index, term by term."""
    others = [place for place in range(count) if place not in (i, j)]
    total = 0.0
    for size in range(count - 1):
        weight = math.factorial(size) * math.factorial(count - size - 2) / (2 * math.factorial(count - 1))
        for chosen in itertools.combinations(others, size):
            both, first, second = (value_of(values, (*chosen, *more)) for more in ((i, j), (i,), (j,)))
            total += weight * (both - first - second + value_of(values, chosen))
    return total


def test_four_modalities_against_every_order_with_array_values() -> None:
    values = np.random.default_rng(0).normal(size=(16, 3, 2))
    told = contributions_from_values(values, NAMES, removal="test")
    np.testing.assert_allclose(told.values, by_permutations(values, 4), atol=1e-12)
    assert told.values.shape == (4, 3, 2)
    assert told.interactions is not None
    assert told.interactions.shape == (4, 4, 3, 2)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_interactions_against_the_sum_of_the_formula(count: int) -> None:
    values = np.random.default_rng(count).normal(size=2**count)
    told = explain(values)
    assert told.interactions is not None
    for i, j in itertools.permutations(range(count), 2):
        assert told.interactions[i, j] == pytest.approx(interaction_by_sum(values, i, j, count), abs=1e-12)
    for i in range(count):
        others = sum(interaction_by_sum(values, i, j, count) for j in range(count) if j != i)
        assert told.interactions[i, i] == pytest.approx(by_permutations(values, count)[i] - others, abs=1e-12)


@given(GAMES)
def test_values_sum_to_what_all_gain_and_so_do_interactions(values: np.ndarray) -> None:
    told = explain(values)
    assert told.interactions is not None
    assert told.values.sum() == pytest.approx(values[-1] - values[0], abs=1e-9)
    assert told.interactions.sum() == pytest.approx(values[-1] - values[0], abs=1e-9)
    np.testing.assert_allclose(told.interactions.sum(1), told.values, atol=1e-9)
    np.testing.assert_allclose(told.interactions, told.interactions.T, atol=1e-9)


@given(GAMES, st.floats(-3, 3), st.integers(0, 100))
def test_values_are_linear_in_v(values: np.ndarray, factor: float, seed: int) -> None:
    other = np.random.default_rng(seed).normal(size=values.shape)
    mixed = explain(values + factor * other)
    for field in ("values", "interactions", "cooperation"):
        parts = getattr(explain(values), field) + factor * getattr(explain(other), field)
        np.testing.assert_allclose(getattr(mixed, field), parts, atol=1e-9)


@settings(deadline=None)
@given(st.permutations(NAMES), st.integers(0, 100))
def test_names_decide_not_positions(order: list[str], seed: int) -> None:
    worth = {
        frozenset(chosen): value
        for value, chosen in zip(
            np.random.default_rng(seed).normal(size=16),
            (chosen for size in range(5) for chosen in itertools.combinations(NAMES, size)),
            strict=True,
        )
    }
    told, again = contributions(worth.__getitem__, NAMES), contributions(worth.__getitem__, order)
    place = [NAMES.index(name) for name in order]
    np.testing.assert_allclose(again.values, told.values[place], atol=1e-12)
    assert told.interactions is not None
    assert again.interactions is not None
    np.testing.assert_allclose(again.interactions, told.interactions[np.ix_(place, place)], atol=1e-12)
    np.testing.assert_allclose(again.intershap, told.intershap, atol=1e-12)
    renamed = contributions(lambda present: worth[frozenset(name[1:] for name in present)], [f"x{name}" for name in NAMES])
    np.testing.assert_allclose(renamed.values, told.values, atol=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_a_sum_of_modalities_gives_each_its_own_and_no_interaction(worth: list[float]) -> None:
    names = [f"m{place}" for place in range(len(worth))]
    told = contributions(lambda present: sum(worth[names.index(name)] for name in present), names)
    np.testing.assert_allclose(told.values, worth, atol=1e-9)
    assert told.interactions is not None
    np.testing.assert_allclose(told.interactions, np.diag(worth), atol=1e-9)
    assert float(told.cooperation) == pytest.approx(0, abs=1e-9)


def test_modalities_that_are_alike_get_alike_values_and_one_that_does_nothing_gets_nothing() -> None:
    told = contributions(lambda present: float(len(present - {"text"})) ** 2, NAMES)
    np.testing.assert_allclose(told.values, [3, 3, 3, 0], atol=1e-12)  # text is the dummy
    assert told.interactions is not None
    np.testing.assert_allclose(told.interactions[3], 0, atol=1e-12)


def test_one_modality() -> None:
    told = contributions(lambda present: 2.0 + 3.0 * len(present), ["motion"])
    assert told.values.tolist() == [3.0]
    assert told.interactions is not None
    assert told.interactions.tolist() == [[3.0]]
    assert float(told.intershap if told.intershap is not None else np.nan) == 0.0
    assert float(told.cooperation) == 0.0


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ([0.5, 0.5, 0.5, 1.0], 1.0),  # XOR: nothing but interaction
        ([0.5, 1.0, 0.5, 1.0], 0.0),  # y = x1
        ([0.5, 1.0, 1.0, 1.0], 1 / 3),  # copies: -1/4 twice off the diagonal, 1/2 twice on it
    ],
)
def test_intershap_by_hand(values: list[float], score: float) -> None:
    assert explain(np.array(values)).intershap == pytest.approx(score)


def test_intershap_of_nothing_is_not_a_number() -> None:
    assert np.isnan(explain(np.full(8, 0.1)).intershap)


def test_batched_and_single_calls_agree() -> None:
    worth = np.random.default_rng(1).normal(size=(16, 5))

    def one(present: frozenset[str]) -> np.ndarray:
        return worth[sum(2 ** NAMES.index(name) for name in present)]

    def many(subsets: np.ndarray) -> np.ndarray:
        return worth[subsets @ 2 ** np.arange(4)]

    np.testing.assert_array_equal(contributions(one, NAMES).values, contributions(many, NAMES, batched=True).values)
    given_floor = contributions(many, NAMES, batched=True, baseline=0.0)
    assert (given_floor.baseline == 0).all()
    np.testing.assert_allclose(given_floor.values.sum(0), worth[-1])


def test_one_entry_of_an_array_is_what_it_would_be_alone() -> None:
    values = np.random.default_rng(2).normal(size=(8, 4))
    names = NAMES[:3]
    entry = contributions_from_values(values, names, removal="test").at(2)
    alone = contributions_from_values(values[:, 2], names, removal="test")
    for field in ("values", "baseline", "full", "singles", "cooperation", "interactions", "intershap"):
        np.testing.assert_allclose(getattr(entry, field), getattr(alone, field))
    assert entry.table() == alone.table()


def test_sampling_comes_near_the_exact_values_and_says_how_near() -> None:
    worth = np.random.default_rng(3).normal(size=(64, 2))
    names = [f"m{place}" for place in range(6)]

    def value(present: frozenset[str]) -> np.ndarray:
        return worth[sum(2 ** names.index(name) for name in present)]

    exact = by_permutations(worth, 6)
    deviations = []
    for seed in range(20):
        told = sampled_contributions(value, names, permutations=100, seed=seed)
        assert told.standard_errors is not None
        assert told.interactions is None
        np.testing.assert_allclose(told.values.sum(0), worth[-1] - worth[0], atol=1e-12)
        deviations.append((told.values - exact) / told.standard_errors)
    assert 0.8 < np.std(deviations) < 1.2  # a standard error is one deviation
    assert abs(np.mean(deviations)) < 0.2
    again = sampled_contributions(value, names, permutations=100, seed=19)
    np.testing.assert_array_equal(told.values, again.values)
    np.testing.assert_allclose(told.cooperation, explain_cooperation(worth), atol=1e-12)


def explain_cooperation(worth: np.ndarray) -> np.ndarray:
    return worth[-1] - worth[0] - sum(worth[2**place] - worth[0] for place in range(6))


def test_sampling_asks_for_no_set_twice_but_the_full_one() -> None:
    asked: list[frozenset[str]] = []

    def value(present: frozenset[str]) -> float:
        asked.append(present)
        return float(len(present))

    told = sampled_contributions(value, NAMES, permutations=50)
    assert len(asked) == len(set(asked)) + 1 == told.evaluations
    with_floor = sampled_contributions(value, NAMES, permutations=50, baseline=-2.0)
    assert float(with_floor.values.sum()) == pytest.approx(6.0)
    assert with_floor.evaluations == told.evaluations - 1


def test_subsets_count_up() -> None:
    subsets = all_subsets(3)
    assert subsets.shape == (8, 3)
    assert len({tuple(row) for row in subsets.tolist()}) == 8
    assert (subsets @ [1, 2, 4] == np.arange(8)).all()


def test_twelve_modalities_are_exact_and_thirteen_are_too_many() -> None:
    names = [f"m{place}" for place in range(12)]
    told = contributions(lambda subsets: subsets.sum(1) ** 2 / 144, names, batched=True)
    np.testing.assert_allclose(told.values, 1 / 12, atol=1e-12)
    with pytest.raises(ParameterError, match=re.escape("2^13 = 8192 evaluations")) as caught:
        contributions(lambda present: 0.0, [*names, "m12"])
    assert "sampled_contributions" in str(caught.value)


def test_values_that_are_not_finite_name_the_set() -> None:
    with pytest.raises(DataError, match=r"not finite .with motion, text"):
        contributions(lambda present: np.nan if present == {"motion", "text"} else 0.0, ["motion", "text", "audio"])
    with pytest.raises(DataError, match=r"not finite .with no modality.*got inf"):
        contributions(lambda subsets: np.where(subsets.any(1), 0.0, np.inf), NAMES, batched=True)
    with pytest.raises(DataError, match="not finite"):
        sampled_contributions(lambda present: np.nan, NAMES)


def test_a_value_that_changes_by_itself_is_told_with_its_largest_difference() -> None:
    calls = iter(np.arange(0.0, 100.0, 0.25))
    with pytest.raises(DataError, match=r"not deterministic.*largest difference of 0.25"):
        contributions(lambda present: next(calls), ["motion", "text"])
    with pytest.raises(DataError, match="not deterministic"):
        sampled_contributions(lambda present: next(calls), ["motion", "text"])
    contributions(lambda present: next(calls), ["motion", "text"], tolerance=1.0)


def test_other_bad_input() -> None:
    with pytest.raises(ParameterError, match="different names"):
        contributions(lambda present: 0.0, ["motion", "motion"])
    with pytest.raises(ParameterError, match="different names"):
        contributions(lambda present: 0.0, [])
    with pytest.raises(ParameterError, match="different names"):
        contributions(lambda present: 0.0, "motion")
    with pytest.raises(DataError, match="different shapes"):
        contributions(lambda present: np.zeros(len(present)), NAMES)
    with pytest.raises(DataError, match="different shapes"):
        sampled_contributions(lambda present: np.zeros(len(present)), NAMES)
    with pytest.raises(DataError, match="batched value has a wrong shape"):
        contributions(lambda subsets: 0.0, NAMES, batched=True)
    with pytest.raises(DataError, match=r"values of some sets are missing.*2\^2 = 4"):
        contributions_from_values(np.zeros(3), ["motion", "text"], removal="zero")
    with pytest.raises(ParameterError, match="'permutations'"):
        sampled_contributions(lambda present: 0.0, NAMES, permutations=1)


def test_rows_and_table() -> None:
    told = explain(np.array([0.5, 0.5, 0.5, 1.0]))
    assert told.rows()[1] == {"modality": "m1", "value": 0.25, "alone": 0.5}
    assert told.table().splitlines()[1].split() == ["m0", "+0.2500", "0.5000"]
    assert "cooperation +0.5000" in told.table()
    sampled = sampled_contributions(lambda present: float(len(present)), NAMES, permutations=3)
    assert sampled.rows()[0]["standard_error"] == 0.0
    assert "error" in sampled.table().splitlines()[0]
    with pytest.raises(ParameterError, match=r"choose one with contributions.at"):
        explain(np.zeros((4, 3))).rows()
