"""Alignment of units with concepts against counts by hand, oracles and identities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score, roc_auc_score

from lego_fusion.dissection.active_pixels import nth_largest
from lego_fusion.dissection.alignment import UnitAlignment, align
from lego_fusion.dissection.concepts import Concepts
from lego_fusion.dissection.overlap import UnitOverlap, frequency_ceiling
from lego_fusion.errors import DataError, ParameterError


def scene(samples: int = 5, units: int = 4, size: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps at half the resolution of the masks, and three concepts that overlap."""
    generator = np.random.default_rng(seed)
    maps = generator.normal(size=(samples, units, size // 2, size // 2)).astype(np.float32)
    masks = generator.random((samples, 3, size, size)) < np.array([0.05, 0.3, 0.7]).reshape(3, 1, 1)
    masks[:, 2, 0, 0] = True  # no image without a label
    return maps, masks


def upsampled(maps: np.ndarray, size: int) -> np.ndarray:
    single = torch.from_numpy(maps).flatten(0, 1)[:, None]
    resize = torch.nn.functional.interpolate(single, (size, size), mode="bilinear", align_corners=False)
    return resize.reshape(*maps.shape[:2], size, size).numpy()


def assert_same(found: UnitAlignment, other: UnitAlignment) -> None:
    np.testing.assert_array_equal(found.thresholds, other.thresholds)
    np.testing.assert_array_equal(found.counts.intersection, other.counts.intersection)
    np.testing.assert_array_equal(found.counts.unit_area, other.counts.unit_area)
    np.testing.assert_array_equal(found.counts.concept_area, other.counts.concept_area)
    np.testing.assert_array_equal(found.auroc, other.auroc)
    np.testing.assert_array_equal(found.peaks, other.peaks)
    assert found.notes == other.notes


def test_iou_threshold_and_auroc_meet_their_oracles() -> None:
    maps, masks = scene()
    found = align(maps, Concepts.from_masks(masks), quantile=0.1)
    large = upsampled(maps, 8)
    for unit in range(4):
        values = large[:, unit].ravel()
        kept = int(0.1 * values.size)
        assert found.thresholds[unit] == np.sort(values)[::-1][kept]
        for concept in range(3):
            truth = masks[:, concept].ravel()
            assert found.overlap.iou[unit, concept] == pytest.approx(jaccard_score(truth, values > found.thresholds[unit]))
            assert found.auroc is not None
            assert found.auroc[unit, concept] == pytest.approx(roc_auc_score(truth, values))
    assert found.auroc_pixels == 64
    np.testing.assert_allclose(found.overlap.attained, 32 / 320)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 100), st.integers(1, 7), st.floats(0.02, 0.9))
def test_streaming_is_batch_whatever_the_batch_size(seed: int, size: int, quantile: float) -> None:
    maps, masks = scene(seed=seed)
    concepts = Concepts.from_masks(masks)
    assert_same(
        align(maps, concepts, quantile=quantile, batch_size=size), align(maps, concepts, quantile=quantile, batch_size=5)
    )


def test_labels_are_masks_that_exclude_each_other() -> None:
    maps, _ = scene()
    labels = np.random.default_rng(3).integers(-1, 4, size=(5, 8, 8))
    names = ["sky", "road", "wall", "car"]
    masks = np.stack([labels == place for place in range(4)], axis=1)
    found = align(maps, Concepts.from_labels(labels, names), quantile=0.1)
    assert_same(found, align(torch.from_numpy(maps), Concepts.from_masks(masks, names), quantile=0.1))
    assert found.concepts == tuple(names)


def test_permuting_units_and_images_permutes_rows() -> None:
    maps, masks = scene()
    found = align(maps, Concepts.from_masks(masks), quantile=0.1)
    order, images = np.array([2, 0, 3, 1]), np.array([4, 2, 0, 1, 3])
    other = align(maps[images][:, order], Concepts.from_masks(masks).take(images), quantile=0.1)
    np.testing.assert_array_equal(other.overlap.iou, found.overlap.iou[order])
    np.testing.assert_allclose(other.auroc, found.auroc[order])
    np.testing.assert_array_equal(other.counts.intersection, found.counts.intersection[images][:, order])


@settings(deadline=None, max_examples=20)
@given(st.integers(-6, 6), st.integers(-8, 8))
def test_a_positive_affine_transform_changes_nothing(power: int, shift: int) -> None:
    generator = np.random.default_rng(0)
    maps = generator.integers(0, 200, size=(5, 3, 4, 4)).astype(np.float64)  # so that nothing is rounded
    concepts = Concepts.from_masks(scene()[1])
    found, other = align(maps, concepts, quantile=0.1), align(2.0**power * maps + shift, concepts, quantile=0.1)
    np.testing.assert_array_equal(other.overlap.iou, found.overlap.iou)
    np.testing.assert_array_equal(other.auroc, found.auroc)


def test_any_increasing_transform_changes_nothing_where_nothing_is_resampled_but_may_elsewhere() -> None:
    generator = np.random.default_rng(0)
    masks = scene()[1]
    for size, same in ((8, True), (4, False)):
        maps = generator.permuted(np.arange(5 * 2 * size * size, dtype=np.float64)).reshape(5, 2, size, size)
        found, other = (align(values, Concepts.from_masks(masks), quantile=0.1) for values in (maps, np.exp(maps / 40)))
        assert np.array_equal(found.counts.intersection, other.counts.intersection) == same


@pytest.mark.parametrize(("rows", "quantile"), [(1, 0.125), (1, 0.03), (4, 0.125), (4, 0.005), (7, 0.5)])
def test_a_perfect_ranking_reaches_the_ceiling(rows: int, quantile: float) -> None:
    masks = np.zeros((4, 1, 8, 8), dtype=bool)
    masks[:, :, :rows] = True
    generator = np.random.default_rng(0)
    maps = generator.permuted(np.arange(256.0)).reshape(4, 1, 8, 8) + 1000.0 * masks  # every pixel has a value of its own
    found = align(maps, Concepts.from_masks(masks), quantile=quantile)
    kept, area = int(quantile * 256), rows * 32
    assert found.overlap.iou[0, 0] == pytest.approx(min(kept / area, area / kept))
    assert found.overlap.ceiling[0, 0] == pytest.approx(found.overlap.iou[0, 0])
    assert found.overlap.normalised[0, 0] == pytest.approx(1)
    assert found.overlap.above_chance[0, 0] == pytest.approx(1)
    assert found.auroc is not None
    assert found.auroc[0, 0] == 1.0
    assert found.detected("normalised") == found.detected("auroc") == {"concept 0"}
    assert found.detected("stock") == ({"concept 0"} if min(kept / area, area / kept) > 0.04 else set())


def test_a_common_concept_is_out_of_reach_of_the_stock_threshold() -> None:
    assert frequency_ceiling(np.array([0.005, 0.005]), np.array([0.125, 0.5])).tolist() == [0.04, 0.01]
    masks = np.zeros((20, 1, 20, 20), dtype=bool)
    masks[:, :, :10] = True
    maps = np.random.default_rng(0).random((20, 1, 20, 20)) + masks
    found = align(maps, Concepts.from_masks(masks, ["sky"]))
    assert found.detected("stock") == set()
    assert found.detected("normalised") == found.detected("auroc") == {"sky"}


def test_an_indicator_ties_and_the_attained_share_is_said() -> None:
    masks = np.zeros((4, 1, 8, 8), dtype=bool)
    masks[:, :, :2] = True
    for share, active, note in ((0.25, 0.25, False), (0.3, 0.25, True), (0.1, 0.0, True)):
        found = align(masks.astype(np.float32), Concepts.from_masks(masks), quantile=share)
        assert found.overlap.attained[0] == active
        assert any("1 of 1 units tie at their threshold" in line for line in found.notes) == note
        assert found.overlap.normalised[0, 0] == (1.0 if active else 0.0)
        assert found.auroc is not None
        assert found.auroc[0, 0] == 1.0


def test_a_constant_unit_detects_nothing() -> None:
    maps, masks = scene()
    maps[:, 1] = 3.0
    found = align(maps, Concepts.from_masks(masks), quantile=0.1)
    assert found.overlap.attained[1] == 0
    assert (found.overlap.iou[1] == 0).all()
    assert (found.overlap.normalised[1] == 0).all()
    assert found.auroc is not None
    np.testing.assert_array_equal(found.auroc[1], 0.5)
    for mode in ("stock", "normalised", "auroc"):
        assert not found.detects(mode)[1].any()


def test_random_pixels_are_near_chance_for_every_frequency() -> None:
    generator = np.random.default_rng(0)
    masks = generator.random((30, 3, 20, 20)) < np.array([0.05, 0.3, 0.8]).reshape(3, 1, 1)
    found = align(generator.normal(size=(30, 20, 20, 20)), Concepts.from_masks(masks), quantile=0.05, auroc_pixels=400)
    np.testing.assert_allclose(found.overlap.above_chance.mean(0), 0, atol=0.02)
    assert found.overlap.normalised[:, 2].mean() > 0.7  # the ceiling alone does not correct for chance
    assert found.detected("normalised") == found.detected("auroc") == set()
    np.testing.assert_allclose(found.auroc, 0.5, atol=0.05)


def test_a_lattice_ranks_what_lies_on_it() -> None:
    maps, masks = scene(size=8)
    found = align(maps, Concepts.from_masks(masks), quantile=0.1, auroc_pixels=16)
    assert found.auroc_pixels == 16
    assert found.auroc is not None
    on_lattice = upsampled(maps, 8)[:, 1, ::2, ::2].ravel()
    assert found.auroc[1, 2] == pytest.approx(roc_auc_score(masks[:, 2, ::2, ::2].ravel(), on_lattice))
    masks[:, 0] = False
    masks[:, 0, 1, 1] = True  # beside the lattice
    missed = align(maps, Concepts.from_masks(masks), quantile=0.1, auroc_pixels=16)
    assert missed.notes == ("concepts on none or all of the ranked places, so without AUROC: concept 0",)
    assert "concept 0" not in missed.detected("auroc", 0.0)
    without = align(maps, Concepts.from_masks(masks), quantile=0.1, auroc_pixels=0)
    assert without.auroc is None
    with pytest.raises(ParameterError, match="was not computed"):
        without.detects("auroc")


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 8))
def test_the_largest_values_of_a_stream_are_kept(parts: list[list[int]], kept: int) -> None:
    expected = sorted((value for part in parts for value in part), reverse=True)[:kept]
    found = nth_largest((torch.tensor([part], dtype=torch.float32) for part in parts), kept)
    assert found.item() == min(expected)


def test_galleries_show_the_images_with_the_largest_values() -> None:
    maps = np.zeros((5, 2, 4, 4), dtype=np.float32)
    for image, height in enumerate([1.0, 5.0, 3.0, 5.0, 2.0]):
        maps[image, 0, 1, 2] = height
    masks = np.ones((5, 1, 4, 4), dtype=bool)
    masks[:, :, 0] = False
    found = align(maps, Concepts.from_masks(masks), quantile=0.1)
    assert found.gallery(0, 3) == [1, 3, 2]
    assert found.gallery(0) == [1, 3, 2, 4, 0]
    masks[1] = False
    dropped = align(maps, Concepts.from_masks(masks), quantile=0.1, unlabelled="drop")
    assert dropped.gallery(0, 2) == [3, 2]
    with pytest.raises(ParameterError, match="'unit' parameter of gallery"):
        found.gallery(2)


def test_unlabelled_images_are_refused_or_left_out_with_a_note() -> None:
    maps, masks = scene()
    masks[[1, 3]] = False
    with pytest.raises(DataError, match=r"2 of 5 images have no label \(positions 1, 3\).*unlabelled='drop'"):
        align(maps, Concepts.from_masks(masks), quantile=0.1)
    found = align(maps, Concepts.from_masks(masks), quantile=0.1, unlabelled="drop")
    assert found.notes[0] == "2 of 5 images have no label and were left out"
    rest = np.array([0, 2, 4])
    assert found.images.tolist() == rest.tolist()
    direct = align(maps[rest], Concepts.from_masks(masks[rest]), quantile=0.1)
    np.testing.assert_array_equal(found.overlap.iou, direct.overlap.iou)
    with pytest.raises(DataError, match="5 of 5 images have no label"):
        align(maps, Concepts.from_masks(np.zeros_like(masks)), quantile=0.1, unlabelled="drop")


def test_concepts_that_never_occur_are_noted_and_never_detected() -> None:
    maps, masks = scene()
    masks[:, 1] = False
    found = align(maps, Concepts.from_masks(masks, ["a", "b", "c"]), quantile=0.1)
    assert found.notes == ("concepts that never occur: b",)
    assert np.isnan(found.overlap.iou[:, 1]).all()
    assert np.isnan(found.overlap.profile[1])
    assert found.overlap.present.tolist() == [True, False, True]
    for mode in ("stock", "normalised", "auroc"):
        assert "b" not in found.detected(mode, 0.0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda maps, masks: {"maps": maps[:, :, 0, 0]},
            r"no spatial extent \(rgb early\): expected \(N, K, h, w\), got \(5, 4\)",
        ),
        (
            lambda maps, masks: {"concepts": Concepts.from_masks(masks[:3])},
            r"of other images \(rgb early\): expected 5 images, got 3",
        ),
        (lambda maps, masks: {"maps": np.where(maps == maps.max(), np.nan, maps)}, r"not finite \(rgb early\)"),
        (lambda maps, masks: {"quantile": 0.001}, r"quantile of 0.001 keeps 0 of 320 pixels"),
        (lambda maps, masks: {"quantile": 1.0}, r"keeps 320 of 320 pixels"),
        (lambda maps, masks: {"quantile": 1.5}, r"'quantile' parameter of align"),
        (lambda maps, masks: {"batch_size": 0}, r"'batch_size' parameter of align"),
    ],
)
def test_bad_input_gets_one_clear_line(change, match: str) -> None:  # type: ignore[no-untyped-def]
    maps, masks = scene()
    settings = {"maps": maps, "concepts": Concepts.from_masks(masks), "quantile": 0.1, "where": "rgb early"}
    settings |= change(maps, masks)
    with pytest.raises((DataError, ParameterError), match=match):
        align(settings.pop("maps"), settings.pop("concepts"), **settings)


def test_bad_labels_get_one_clear_line() -> None:
    with pytest.raises(DataError, match=r"not masks of concepts: expected bool \(N, C, H, W\), got float64 \(2, 3\)"):
        Concepts.from_masks(np.zeros((2, 3)))
    with pytest.raises(DataError, match="not a map of labels"):
        Concepts.from_labels(np.zeros((2, 3, 3)), ["a"])
    with pytest.raises(DataError, match="a label has no name: expected at most 0, negative for none, got 1"):
        Concepts.from_labels(np.ones((2, 3, 3), dtype=int), ["a"])
    with pytest.raises(DataError, match="wrong names of concepts: expected 2 different names"):
        Concepts.from_masks(np.zeros((1, 2, 3, 3), dtype=bool), ["a", "a"])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40))
def test_no_overlap_is_above_its_ceiling(unit: int, concept: int, both: int) -> None:
    overlap = UnitOverlap(
        np.array([[float(min(both, unit, concept))]]), np.array([float(unit)]), np.array([float(concept)]), 100.0
    )
    assert 0 <= overlap.iou[0, 0] <= overlap.ceiling[0, 0] + 1e-12
    assert overlap.normalised[0, 0] <= 1 + 1e-12
