"""The split of profiles against closed forms, and its intervals and null."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.dissection.alignment import UnitAlignment, align
from lego_fusion.dissection.concepts import Concepts, LevelConcepts
from lego_fusion.dissection.overlap import UnitOverlap
from lego_fusion.dissection.variance import (
    SemanticVariance,
    bootstrap,
    semantic_variance,
    share_statistics,
    unit_permutation_null,
    variance_effects,
    variance_shares,
)
from lego_fusion.errors import DataError, ParameterError


def overlap_of(normalised: np.ndarray) -> UnitOverlap:
    """Units (K, C) with a given IoU / ceiling, where active area and concepts are as large, so that it is the IoU itself."""
    both = 2 * 1000.0 * normalised / (1 + normalised)
    return UnitOverlap(both, np.full(len(both), 1000.0), np.full(both.shape[1], 1000.0), 100_000.0)


def layers_of(profiles: np.ndarray) -> dict[str, dict[str, UnitOverlap]]:
    """One unit per layer."""
    return {f"m{m}": {f"l{n}": overlap_of(row[None]) for n, row in enumerate(rows)} for m, rows in enumerate(profiles)}


def read(profiles: np.ndarray) -> SemanticVariance:
    return semantic_variance(layers_of(profiles))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_the_parts_add_up_exactly_and_are_orthogonal(seed: int, m: int, n: int, c: int) -> None:
    profiles = np.random.default_rng(seed).random((m, n, c))
    effects = variance_effects(profiles)
    assert list(effects) == ["M", "L", "C", "ML", "MC", "LC", "MLC"]
    np.testing.assert_allclose(sum(effects.values()) + profiles.mean(), profiles, atol=1e-12)
    for first in effects:
        for second in effects:
            if first != second:
                assert (effects[first] * effects[second]).sum() == pytest.approx(0, abs=1e-12)
    shares = variance_shares(profiles)
    assert shares.total == pytest.approx(((profiles - profiles.mean()) ** 2).sum())
    assert sum(shares.parts.values()) == pytest.approx(1 if m * n * c > 1 else 0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 100), st.permutations(range(4)), st.floats(0.1, 10.0), st.floats(-1.0, 1.0))
def test_order_scale_and_shift_change_no_share(seed: int, order: list[int], scale: float, shift: float) -> None:
    profiles = np.random.default_rng(seed).random((2, 3, 4))
    shares, other = variance_shares(profiles), variance_shares(scale * profiles[::-1][:, :, order] + shift)
    assert other.parts == pytest.approx(shares.parts, abs=1e-9)


def test_each_planted_effect_is_all_there_is() -> None:
    generator = np.random.default_rng(0)
    shape = {"M": (3, 1, 1), "L": (1, 2, 1), "C": (1, 1, 4)}
    for name in ("M", "L", "C"):
        shares = variance_shares(np.broadcast_to(generator.random(shape[name]), (3, 2, 4)))
        assert shares.parts[name] == pytest.approx(1)
    m, n, c = (values - values.mean() for values in (generator.random(size) for size in (3, 2, 4)))
    three = variance_shares(np.einsum("m,l,c->mlc", m, n, c))
    assert three.parts["MLC"] == pytest.approx(1)
    assert (three.speciality, three.own_evolution) == (pytest.approx(1), pytest.approx(1))
    assert (three.consistency, three.common_evolution) == (pytest.approx(0), pytest.approx(0))
    assert variance_shares(np.full((2, 2, 2), 0.3)).parts == dict.fromkeys(["M", "L", "C", "ML", "MC", "LC", "MLC"], 0.0)


@pytest.mark.parametrize(("modalities", "concepts"), [(2, 2), (2, 7), (3, 5)])
def test_disjoint_one_hot_profiles_have_their_closed_form(modalities: int, concepts: int) -> None:
    height = 0.6
    profiles = np.zeros((modalities, 2, concepts))
    for m in range(modalities):
        profiles[m, :, m] = height
    found = read(profiles)
    np.testing.assert_allclose(found.profiles, profiles, atol=1e-12)
    np.testing.assert_allclose(found.across_modalities, height**2 * (modalities - 1) / (modalities * concepts))
    np.testing.assert_allclose(found.over_levels, 0, atol=1e-15)
    if modalities == 2:
        np.testing.assert_allclose(found.across_modalities, height**2 / (2 * concepts))


def test_a_unit_of_one_concept_and_a_uniform_unit() -> None:
    height, concepts = 0.6, 5
    one, uniform = np.eye(concepts)[0] * height, np.full(concepts, height)
    found = read(np.array([[one], [uniform]]))
    np.testing.assert_allclose(found.of_units, [[height**2 * (concepts - 1) / concepts**2], [0]], atol=1e-15)
    both = semantic_variance({"m": {"l": overlap_of(np.stack([one, uniform]))}})
    assert both.of_units[0, 0] == pytest.approx(height**2 * (concepts - 1) / concepts**2 / 2)


def scene(seed: int = 0, shift: float = 0.0) -> tuple[dict[str, dict[str, UnitAlignment]], np.ndarray]:
    """Two modalities, one of which sees concept 0 and the other concept 1 as strongly as ``shift`` says."""
    generator = np.random.default_rng(seed)
    masks = generator.random((12, 3, 8, 8)) < 0.2
    masks[:, 2, 0, 0] = True
    layers: dict[str, dict[str, UnitAlignment]] = {"rgb": {}, "depth": {}}
    for place, modality in enumerate(layers):
        for level in ("early", "late"):
            maps = generator.normal(size=(12, 6, 8, 8)) + shift * masks[:, [place]]
            layers[modality][level] = align(maps, Concepts.from_masks(masks, ["a", "b", "c"]), quantile=0.1, auroc_pixels=0)
    return layers, masks


def test_identical_streams_have_no_variance_across_modalities() -> None:
    layers, _ = scene()
    found = semantic_variance({"rgb": layers["rgb"], "copy": layers["rgb"]})
    np.testing.assert_array_equal(found.across_modalities, 0)
    assert found.shares.speciality == pytest.approx(0, abs=1e-20)
    assert found.shares.own_evolution == pytest.approx(0, abs=1e-20)
    assert found.shares.consistency + found.shares.common_evolution == pytest.approx(1)
    detected = layers["rgb"]["late"].detected("normalised", 0.02)
    sets = LevelConcepts("late", {"rgb": detected, "copy": detected})
    assert (sets.joint, sets.unique("rgb"), sets.unique("copy")) == (1, 0, 0)


def test_concepts_that_never_occur_are_left_out() -> None:
    layers, masks = scene()
    masks[:, 1] = False
    concepts = Concepts.from_masks(masks, ["a", "b", "c"])
    maps = np.random.default_rng(1).normal(size=(12, 4, 8, 8))
    found = semantic_variance({"m": {"l": align(maps, concepts, quantile=0.1)}})
    assert found.concepts == ("a", "c")
    assert found.profiles.shape == (1, 1, 2)
    with pytest.raises(DataError, match="different concepts or images"):
        semantic_variance({"rgb": {"l": layers["rgb"]["early"]}, "m": {"l": align(maps, concepts, quantile=0.1)}})


def test_the_bootstrap_is_what_counting_resampled_images_gives() -> None:
    layers, _ = scene(shift=1.0)
    counts = layers["rgb"]["late"].counts
    draw = np.array([0, 0, 3, 5, 5, 5, 7, 8, 9, 10, 11, 11])
    weighted = next(counts.totals(np.bincount(draw, minlength=12)[None].astype(np.float64)))
    np.testing.assert_array_equal(weighted.intersection, counts.intersection[draw].sum(0))
    np.testing.assert_array_equal(weighted.unit_area, counts.unit_area[draw].sum(0))
    np.testing.assert_array_equal(weighted.concept_area, counts.concept_area[draw].sum(0))
    assert weighted.pixels == 12 * 64
    bounds = bootstrap(layers, share_statistics, resamples=60)
    for name, value in share_statistics({m: {n: a.overlap for n, a in row.items()} for m, row in layers.items()}).items():
        assert bounds[name].value == value
        assert bounds[name].low <= bounds[name].high
    assert bounds["speciality"].low > 0.5
    assert bootstrap(layers, share_statistics, resamples=60) == bounds
    narrow = bootstrap(layers, share_statistics, resamples=60, level=0.5)["speciality"]
    assert bounds["speciality"].low <= narrow.low <= narrow.high <= bounds["speciality"].high


def test_the_null_tells_planted_speciality_from_none() -> None:
    planted, alike = (unit_permutation_null(scene(shift=shift)[0], permutations=99) for shift in (1.0, 0.0))
    assert planted["speciality"].p_value == 0.01
    assert planted["speciality"].value > planted["speciality"].quantile
    assert alike["speciality"].p_value > 0.05
    squares = "speciality, sum of squares"
    assert (planted[squares].p_value, alike[squares].p_value > 0.05) == (0.01, True)
    found = semantic_variance(scene(shift=1.0)[0])
    parts = [variance_effects(found.profiles)[name] for name in ("MC", "MLC")]
    assert planted[squares].value == pytest.approx(sum((part**2).sum() for part in parts))
    assert planted["across modalities at late"].p_value == 0.01


def test_units_of_one_kind_give_the_null_no_room() -> None:
    layers = layers_of(np.full((2, 2, 3), 0.4))
    found = unit_permutation_null(layers, permutations=9)
    assert {row.p_value for row in found.values()} == {1.0}


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ({}, "no levels to compare"),
        ({"rgb": {}}, "no levels to compare"),
        (
            {"rgb": layers_of(np.zeros((1, 2, 3)))["m0"], "depth": layers_of(np.zeros((1, 1, 3)))["m0"]},
            r"different numbers of levels: expected as many in each, matched by their order, got rgb 2, depth 1",
        ),
    ],
)
def test_levels_that_do_not_correspond_are_refused(layers: dict, match: str) -> None:  # type: ignore[type-arg]
    with pytest.raises((DataError, ParameterError), match=match):
        semantic_variance(layers)


def test_profiles_and_images_must_fit() -> None:
    with pytest.raises(DataError, match="profiles are not finite"):
        variance_shares(np.full((1, 2, 2), np.nan))
    layers, masks = scene()
    fewer = align(np.random.default_rng(0).normal(size=(6, 4, 8, 8)), Concepts.from_masks(masks[:6]), quantile=0.1)
    with pytest.raises(DataError, match="not of the same images"):
        bootstrap({"rgb": layers["rgb"], "depth": {"late": fewer}}, share_statistics)


@settings(deadline=None, max_examples=40)
@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
def test_the_sets_split_the_union(first: set[str], second: set[str]) -> None:
    one, two = frozenset(first), frozenset(second)
    sets, turned = LevelConcepts("l", {"a": one, "b": two}), LevelConcepts("l", {"a": two, "b": one})
    assert sets.joint + sets.unique("a") + sets.unique("b") == pytest.approx(1)
    assert (turned.unique("a"), turned.unique("b")) == (sets.unique("b"), sets.unique("a"))
    assert sets.union == first | second
    if not sets.union:
        assert sets.joint == 1
    else:
        assert sets.joint == pytest.approx(len(first & second) / len(first | second))


def test_units_for_concepts_that_exclude_each_other_cancel_in_the_mean_and_not_in_the_best() -> None:
    """One stream tells red from green by a unit for each, the other by none; both concepts cover half of what is read."""
    area, half = np.full(2, 500.0), np.full(2, 500.0)
    telling = UnitOverlap(np.array([[500.0, 0.0], [0.0, 500.0]]), area, half, 1000.0)
    blind = UnitOverlap(np.full((2, 2), 250.0), area, half, 1000.0)  # IoU 1/3, which is chance
    assert telling.profile == pytest.approx([0.5, 0.5]) and blind.profile == pytest.approx([1 / 3, 1 / 3])
    assert telling.best == pytest.approx([1, 1]) and blind.best == pytest.approx([0, 0], abs=1e-12)
    layers = {"rgb": {"l": telling}, "depth": {"l": blind}}
    assert semantic_variance(layers, "best").across_modalities == pytest.approx([1 / 4])
    assert semantic_variance(layers).across_modalities == pytest.approx([1 / 144])
    assert share_statistics(layers, "best")["across modalities at l"] == pytest.approx(1 / 4)
    null = unit_permutation_null(layers, permutations=20, profile="best")["across modalities at l"]
    assert (null.value, null.mean) == pytest.approx((1 / 4, 1 / 4)), "a lone detector is the best of whoever holds it"
    both, several = np.repeat(telling.intersection, 5, axis=0), np.full(10, 500.0)
    layers["rgb"]["l"] = UnitOverlap(both, several, half, 1000.0)
    layers["depth"]["l"] = UnitOverlap(np.full((10, 2), 250.0), several, half, 1000.0)
    assert unit_permutation_null(layers, permutations=50, profile="best")["across modalities at l"].p_value < 0.05
