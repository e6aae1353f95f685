"""Alignment over objects: the same answers wherever the objects lie, and chance for a unit that only finds objects."""

import numpy as np
import pytest

from lego_fusion.dissection.alignment import align
from lego_fusion.dissection.concepts import Concepts, by_region
from lego_fusion.errors import DataError

RANDOM = np.random.default_rng(0)
IMAGES, SIDE = 40, 16


def scene() -> tuple[np.ndarray, Concepts]:
    """Four squares of 4 x 4 in each image, red or green by a coin, on a plane that is three quarters of it."""
    regions = np.zeros((IMAGES, SIDE, SIDE), dtype=np.int64)
    for number, (row, column) in enumerate([(1, 1), (1, 9), (9, 1), (9, 9)], start=1):
        regions[:, row : row + 4, column : column + 4] = number
    red = np.take_along_axis(RANDOM.random((IMAGES, 5)) < 0.5, regions.reshape(IMAGES, -1), 1).reshape(regions.shape)
    return regions, Concepts.from_masks(np.stack([red & (regions > 0), ~red & (regions > 0)], 1), ["red", "green"])


def test_finding_objects_is_not_telling_them_apart() -> None:
    """A unit for all objects is far above chance for both colours among pixels, and at chance among objects."""
    regions, concepts = scene()
    noise = 0.1 * RANDOM.random((2, IMAGES, SIDE, SIDE))
    maps = np.stack([(regions > 0) + noise[0], concepts.masks(0, IMAGES)[:, 0] + noise[1]], 1)
    pixels = align(maps, concepts, quantile=0.05)
    assert pixels.detects("normalised")[0].all() and pixels.detects("auroc")[0].all()
    objects = align(*by_region(maps, concepts, regions), quantile=0.1)
    for mode in ("normalised", "auroc"):
        assert objects.detects(mode, 0.7).tolist() == [[False, False], [True, False]]
    assert objects.auroc is not None and abs(objects.auroc[0, 0] - 0.5) < 0.15 and objects.auroc[1, 0] == 1


def test_means_are_those_of_the_pixels_of_each_region() -> None:
    regions, concepts = scene()
    maps = RANDOM.random((IMAGES, 3, SIDE, SIDE)).astype(np.float32)
    pooled, labels = by_region(maps, concepts, regions)
    assert pooled.shape == (4 * IMAGES, 3, 1, 1) and len(labels) == 4 * IMAGES
    for place in (0, 5, 4 * IMAGES - 1):
        image, number = divmod(place, 4)
        inside = regions[image] == number + 1
        np.testing.assert_allclose(pooled[place, :, 0, 0], maps[image][:, inside].mean(1), rtol=1e-5)
        assert labels.masks(place, place + 1)[0, 0, 0, 0] == concepts.masks(image, image + 1)[0, 0][inside].all()


def test_images_without_regions_and_numbers_left_out_add_nothing() -> None:
    regions, concepts = scene()
    maps = RANDOM.random((IMAGES, 2, SIDE // 2, SIDE // 2))
    whole, _ = by_region(maps, concepts, regions)
    gaps = np.where(regions == 2, 0, regions)
    gaps[3] = -1
    part, _ = by_region(maps, concepts, gaps)
    kept = [4 * image + number for image in range(IMAGES) for number in (0, 2, 3) if image != 3]
    np.testing.assert_array_equal(part, whole[kept])


def test_bad_input_is_named() -> None:
    regions, concepts = scene()
    maps = np.zeros((IMAGES, 2, 4, 4))
    with pytest.raises(DataError, match="are of other images"):
        by_region(maps[:3], concepts, regions)
    with pytest.raises(DataError, match="differ in size"):
        by_region(maps, concepts, regions[:, :4])
    with pytest.raises(DataError, match="there are no regions"):
        by_region(maps, concepts, np.zeros_like(regions))
