"""Alignment over regions, against alignment on the pooled regions, scikit-learn and the plant."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from known_answers.scenes import SEEN_BY, plant_scenes
from lego_fusion.dissection.alignment import align, align_regions
from lego_fusion.dissection.concepts import Concepts, Regions, by_region, found_regions, given_regions, region_means
from lego_fusion.dissection.overlap import RankedRegions
from lego_fusion.dissection.read_network import untrained_copy
from lego_fusion.dissection.variance import bootstrap, overlaps_of, relabelled_null
from lego_fusion.errors import DataError, ParameterError

SCENES = plant_scenes(30, objects=(3, 6), seed=5)
CONCEPTS = Concepts.from_masks(np.stack(list(SCENES.concepts().values()), 1), tuple(SEEN_BY))
GIVEN = Regions(SCENES.objects, given=True)
MAPS = np.random.default_rng(0).normal(size=(30, 3, 12, 12)).astype(np.float32)


def test_found_regions_are_the_objects_where_none_touch() -> None:
    found = found_regions(CONCEPTS)
    for mine, planted in zip(found.numbers, SCENES.objects, strict=True):
        pairs = set(zip(mine.ravel().tolist(), planted.ravel().tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert (0, 0) in pairs


def test_regions_touch_at_corners_and_are_counted_from_the_top_left() -> None:
    labels = np.array([[[0, -1, 1, 1], [-1, 0, 1, 1], [2, 2, -1, -1], [2, 2, -1, 0]]])
    found = found_regions(Concepts.from_labels(labels, ["a", "b", "c"]), least_pixels=2)
    assert found.numbers.tolist() == [[[1, 0, 2, 2], [0, 1, 2, 2], [3, 3, 0, 0], [3, 3, 0, 0]]]
    assert found.notes == ("1 areas of fewer than 2 pixels are no regions",)


def test_only_the_largest_of_too_many_regions_are_kept() -> None:
    labels = np.array([[[0, 0, -1, 0, -1, 0, 0, 0]]])
    found = found_regions(Concepts.from_labels(labels, ["a"]), least_pixels=1, most=2)
    assert found.numbers.tolist() == [[[1, 1, 0, 0, 0, 2, 2, 2]]]
    assert found.notes == ("of 1 images with more than 2 regions the largest were kept",)


def test_means_are_those_of_the_upsampled_map() -> None:
    large = torch.nn.functional.interpolate(torch.from_numpy(MAPS), size=(48, 48), mode="bilinear", align_corners=False).numpy()
    expected = [
        large[image][:, SCENES.objects[image] == number].mean(1)
        for image in range(30)
        for number in range(1, SCENES.objects[image].max() + 1)
    ]
    np.testing.assert_allclose(region_means(MAPS, SCENES.objects), expected, atol=1e-5)


def test_it_is_alignment_of_the_pooled_regions_added_up_by_image() -> None:
    one = align_regions(MAPS, CONCEPTS, GIVEN, shuffles=3)
    other = align(*by_region(MAPS, CONCEPTS, SCENES.objects), quantile=0.1, batch_size=500, shuffles=3)
    for name in ("iou", "above_chance", "ceiling"):
        np.testing.assert_allclose(getattr(one.overlap, name), getattr(other.overlap, name))
    np.testing.assert_allclose(one.auroc, other.auroc)
    np.testing.assert_array_equal(one.thresholds, other.thresholds)
    np.testing.assert_array_equal(one.shuffled, other.shuffled)
    images = [one.scene for one in SCENES.table]
    np.testing.assert_array_equal(one.counts.pixels, np.bincount(images))
    np.testing.assert_array_equal(one.counts.concept_area.sum(0), other.counts.concept_area.sum(0))
    assert one.regions == len(SCENES.table) and len(one.images) == 30


def test_a_resample_of_the_images_is_an_alignment_of_the_images_drawn() -> None:
    weights = np.zeros(30)
    weights[[2, 5, 11]] = [1, 2, 1]
    drawn = [2, 5, 5, 11]
    one = align_regions(MAPS, CONCEPTS, GIVEN)
    (again,) = one.counts.totals(weights[None])
    other = align_regions(MAPS[drawn], CONCEPTS.take(np.array(drawn)), Regions(SCENES.objects[drawn], given=True))
    np.testing.assert_allclose(again.auroc, other.auroc)
    np.testing.assert_array_equal(again.concept_area, other.overlap.concept_area)
    assert again.pixels == other.overlap.pixels


def test_ranks_agree_with_scikit_learn_with_weights_and_ties() -> None:
    random = np.random.default_rng(1)
    values, members = random.integers(0, 6, size=(80, 2)).astype(float), random.random((80, 3)) < 0.4
    images = np.sort(random.integers(0, 20, size=80))
    ranked, weights = RankedRegions.rank(values, members, images), random.integers(0, 4, size=20).astype(float)
    for unit, concept in np.ndindex(2, 3):
        expected = roc_auc_score(members[:, concept], values[:, unit])
        assert ranked.auroc()[unit, concept] == pytest.approx(expected)
        expected = roc_auc_score(members[:, concept], values[:, unit], sample_weight=weights[images])
        assert ranked.auroc(weights)[unit, concept] == pytest.approx(expected)
    assert np.isnan(RankedRegions.rank(values, members | True, images).auroc()).all()


def test_labels_dealt_anew_leave_chance_and_j_has_an_interval() -> None:
    """A unit for red objects: the null is at a half, and the statistic of every resample is read from the same ranks."""
    red = CONCEPTS.masks(0, 30)[:, :1] + 0.01 * np.random.default_rng(2).random((30, 1, 48, 48))
    rows = {
        "rgb": {"1": align_regions(red, CONCEPTS, GIVEN, shuffles=40)},
        "depth": {"1": align_regions(red, CONCEPTS, GIVEN, shuffles=40)},
    }
    one = rows["rgb"]["1"]
    assert one.detected("auroc") == {"colour red"}
    assert [chance.auroc is not None for chance in one.by_chance()] == [True] * 40
    assert np.mean([chance.auroc[0] for chance in one.by_chance() if chance.auroc is not None]) == pytest.approx(0.5, abs=0.05)
    assert relabelled_null(rows, "best")["consistency, sum of squares"].p_value == pytest.approx(1 / 41)
    bounds = bootstrap(rows, lambda layers: {"red": float(layers["rgb"]["1"].scores("auroc")[0, 0])}, resamples=20)["red"]
    assert bounds.low == bounds.value == bounds.high == 1
    assert overlaps_of(rows)["rgb"]["1"].scores("auroc")[0, 0] == 1


def test_images_without_a_region_or_a_label_add_nothing() -> None:
    numbers = SCENES.objects.copy()
    numbers[4] = 0
    one = align_regions(MAPS, CONCEPTS, Regions(numbers, given=True))
    assert 4 not in one.images and any("1 of 30 images have no region" in note for note in one.notes)
    masks = CONCEPTS.masks(0, 30)
    masks[7] = False
    bare = Concepts.from_masks(masks, CONCEPTS.names)
    with pytest.raises(DataError, match="1 of 30 images have no label"):
        align_regions(MAPS, bare, GIVEN)
    assert 7 not in align_regions(MAPS, bare, GIVEN, unlabelled="drop").images


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="there are no regions"):
        align_regions(MAPS, CONCEPTS, Regions(np.zeros_like(SCENES.objects), given=True))
    with pytest.raises(DataError, match="concepts and regions differ in size"):
        align_regions(MAPS, CONCEPTS, Regions(SCENES.objects[:, :40], given=True))
    with pytest.raises(DataError, match="labels are of other images"):
        align_regions(MAPS[:4], CONCEPTS, GIVEN)
    with pytest.raises(DataError, match="not finite"):
        align_regions(np.full_like(MAPS, np.inf), CONCEPTS, GIVEN)
    with pytest.raises(ParameterError, match=r"keeps 0 of \d+ regions"):
        align_regions(MAPS, CONCEPTS, GIVEN, quantile=0.001)
    with pytest.raises(DataError, match=r"too many regions.*at most 1000 in an image, got 1600"):
        given_regions(np.arange(1, 1601).reshape(1, 40, 40))
    with pytest.raises(DataError, match=r"not maps of regions.*float64"):
        given_regions(np.zeros((1, 4, 4)))
    assert given_regions(np.array([[[-3, 2]]])).tolist() == [[[0, 2]]]


def test_a_copy_that_was_never_trained_is_new_everywhere_and_the_network_is_not() -> None:
    class Custom(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(3 * torch.ones(200))
            self.inner = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))

    with torch.random.fork_rng():
        model = Custom().eval()
        model.inner[1].running_mean += 5
        before, state = {name: x.clone() for name, x in model.state_dict().items()}, torch.get_rng_state()
        drawn, again = untrained_copy(model, 3), untrained_copy(model, 3)
        assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(torch.equal(x, drawn.state_dict()[name]) for name, x in again.state_dict().items())
    assert not drawn.inner[1].running_mean.any() and not drawn.training
    assert float(drawn.weight.detach().square().mean().sqrt()) == pytest.approx(3, rel=0.2)
    assert not torch.equal(drawn.inner[0].weight, before["inner.0.weight"])


def test_labels_dealt_anew_are_dealt_once_each() -> None:
    """Two units active on complementary halves meet, together, every region of a concept once: none is drawn twice."""
    maps = np.concatenate([MAPS[:, :1], -MAPS[:, :1]], axis=1)
    found = align_regions(maps, CONCEPTS, GIVEN, quantile=0.5, shuffles=5)
    total = found.counts.total()
    left_out = found.regions - int(total.unit_area.sum())  # of an odd number of regions one is active in neither
    areas = total.concept_area
    assert found.shuffled is not None
    for shuffled in found.shuffled:
        assert np.all((areas - shuffled.sum(axis=0) >= 0) & (areas - shuffled.sum(axis=0) <= left_out))
