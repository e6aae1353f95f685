"""Objects in images, and concepts read object by object, so that finding objects is not taken for telling them apart.

Where concepts lie on objects and most of a picture is background, a unit that is active on every object alike overlaps with
each attribute of objects far more than random pixels do: of two colours that are equally common it holds half of each. Read
over regions, one number for each object, such a unit is at chance for every attribute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Integer
from numpy.typing import NDArray
from scipy import ndimage, sparse

from ..errors import DataError
from .concepts import Concepts

MOST_FOUND, MOST_GIVEN = 64, 1000  # regions of one image
_LEAST_PIXELS, _LEAST_SHARE = 4, 0.001
_TOUCHING = np.ones((3, 3), dtype=bool)  # corners too, so that a thin slanted line is one region


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of N images; make one with ``found_regions`` or ``given_regions``.

    Args:
        numbers: Number of the region that a pixel belongs to, counted from 1 in each image; 0 for none.
        given: Whether they came with the labels; else they were found in them.
        notes: What a reader should know.
    """

    numbers: Integer[np.ndarray, "n h w"]
    given: bool
    notes: tuple[str, ...] = ()


def found_regions(
    concepts: Concepts, *, least_pixels: int = _LEAST_PIXELS, least_share: float = _LEAST_SHARE, most: int = MOST_FOUND
) -> Regions:
    """Connected areas of one combination of concepts, corners touching too; where no concept is, there is no region.

    Two objects of the same concepts that touch are one region; an object whose parts have concepts of their own is several.

    Args:
        concepts: Of N images.
        least_pixels: Smaller areas are left out.
        least_share: Areas below this share of the image are left out.
        most: In an image with more areas the largest are kept.

    Example:
        >>> labels = np.array([[[0, 0, -1, 1, 1], [0, 0, -1, 1, 1]]])
        >>> found_regions(Concepts.from_labels(labels, ["cup", "box"])).numbers.tolist()
        [[[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]]]
    """
    least = max(least_pixels, int(np.ceil(least_share * concepts.size[0] * concepts.size[1])))
    some = np.asarray(concepts.members.any(axis=1))
    numbers = np.zeros((len(concepts), *concepts.size), dtype=np.min_scalar_type(most))
    small = crowded = 0
    for image in range(len(concepts)):
        codes = concepts.codes(image, image + 1)[0]
        areas = [area for code in np.unique(codes[some[codes]]) for area in _connected(codes == code)]
        large = [area for area in areas if len(area[0]) >= least]
        small, crowded = small + len(areas) - len(large), crowded + (len(large) > most)
        for number, area in enumerate(sorted(large, key=lambda area: -len(area[0]))[:most], start=1):
            numbers[image][area] = number
        numbers[image] = _in_order(numbers[image])
    notes = [f"{small} areas of fewer than {least} pixels are no regions"] if small else []
    notes += [f"of {crowded} images with more than {most} regions the largest were kept"] if crowded else []
    return Regions(numbers, given=False, notes=tuple(notes))


def _connected(mask: Bool[np.ndarray, "h w"]) -> list[tuple[NDArray[Any], ...]]:
    """Rows and columns of each connected area."""
    labels, count = ndimage.label(mask, structure=_TOUCHING)
    rows, columns = np.nonzero(labels)
    order = np.argsort(labels[rows, columns], kind="stable")
    ends = np.cumsum(np.bincount(labels[rows, columns], minlength=count + 1)[1:])[:-1]
    return list(zip(np.split(rows[order], ends), np.split(columns[order], ends), strict=True)) if count else []


def _in_order(numbers: NDArray[Any]) -> NDArray[Any]:
    """The same regions, counted from the top left."""
    present, first = np.unique(numbers, return_index=True)
    first = first[present > 0]
    renumbered = np.zeros(int(numbers.max()) + 1, dtype=numbers.dtype)
    renumbered[present[present > 0]] = np.argsort(np.argsort(first)) + 1
    counted: NDArray[Any] = renumbered[numbers]
    return counted


def given_regions(numbers: NDArray[Any], where: str = "regions") -> Integer[np.ndarray, "n h w"]:
    """Check maps of object numbers (N, H, W): integers, 0 or less for no object.

    Raises:
        DataError: If they are no such maps, or an image has too many objects for its numbers to be those of objects.
    """
    if numbers.ndim != 3 or numbers.dtype.kind not in "iu":
        got = f"{numbers.dtype} {numbers.shape}"
        raise DataError("not maps of regions", where=where, expected="integers (b, H, W), 0 for none", got=got)
    for image in numbers:
        count = len(np.unique(image[image > 0]))
        if count > MOST_GIVEN:
            fix = "give the number of the object of each pixel"
            raise DataError("too many regions", where=where, expected=f"at most {MOST_GIVEN} in an image", got=count, fix=fix)
    positive: Integer[np.ndarray, "n h w"] = np.maximum(numbers, 0)
    return positive


@dataclass(frozen=True, eq=False)
class RegionTable:
    """The regions of all images, one row each, in the order of images and numbers.

    Args:
        images: Position of the image of each region (r,).
        members: Which concepts each has (r, C): those that cover more than half of it.
    """

    images: Int[np.ndarray, " r"]
    members: Bool[np.ndarray, "r c"]


def region_table(concepts: Concepts, numbers: Integer[np.ndarray, "n h w"]) -> RegionTable:
    """Which concepts the regions of N images have.

    Raises:
        DataError: If concepts and regions are of other images or sizes, or there is no region.
    """
    if len(concepts) != len(numbers):
        got = f"{len(concepts)} images with concepts, regions {numbers.shape}"
        raise DataError("concepts and regions are of other images", expected="the same N images", got=got)
    if concepts.size != numbers.shape[1:]:
        raise DataError("concepts and regions differ in size", expected=concepts.size, got=numbers.shape[1:])
    images, rows = [], []
    members = concepts.members.astype(np.float64)
    for image in range(len(numbers)):
        place, areas = _counted(numbers[image])
        codes = concepts.codes(image, image + 1)[0].ravel()[place >= 0].astype(np.int64)
        cells = place[place >= 0] * len(members) + codes
        seen = np.bincount(cells, minlength=len(areas) * len(members)).reshape(len(areas), len(members))
        rows.append(2 * (seen @ members) > areas[:, None])
        images += [image] * len(areas)
    if not images:
        raise DataError("there are no regions", expected="numbers of at least 1", fix="read over pixels")
    return RegionTable(np.array(images), np.concatenate(rows))


def region_means(maps: Any, numbers: Integer[np.ndarray, "n h w"]) -> Float32[np.ndarray, "r k"]:
    """Mean of every unit over every region, its map upsampled bilinearly to the regions, image by image.

    Upsampling is linear: its transpose brings the weights of a region down to the map instead, which is much less work.

    Args:
        maps: Activations (N, K, h, w), array (memory-mapped too) or tensor.
        numbers: As ``Regions``.

    Raises:
        DataError: If maps and regions are of other images, or an activation is not finite.
    """
    if maps.ndim != 4 or len(maps) != len(numbers):
        got = f"activations {tuple(maps.shape)}, regions {numbers.shape}"
        raise DataError("activations and regions are of other images", expected="the same N images", got=got)
    upsampling = sparse.kron(*(_upsampling(maps.shape[axis], numbers.shape[axis - 1]) for axis in (2, 3)), format="csr")
    means = []
    for image in range(len(numbers)):
        place, areas = _counted(numbers[image])
        order = np.argsort(place, kind="stable")[np.count_nonzero(place < 0) :]
        ends = np.concatenate([[0], np.cumsum(areas)])
        inside = sparse.csr_array((np.repeat(1 / areas, areas), order, ends), shape=(len(areas), place.size))
        row = torch.from_numpy(np.array(maps[image])) if isinstance(maps, np.ndarray) else maps[image].detach().cpu()
        values = row.double().flatten(1).numpy()
        if not np.isfinite(values).all():
            raise DataError("activations are not finite", got=f"NaN or inf in image {image}")
        means.append(((inside @ upsampling) @ values.T).astype(np.float32))
    return np.concatenate(means)


def active_regions(maps: Any, numbers: Integer[np.ndarray, "n h w"], threshold: float) -> Bool[np.ndarray, "n h w"]:
    """The regions in which the mean of one unit (N, 1, h, w) is above a threshold."""
    found = np.zeros(numbers.shape, dtype=bool)
    for image, row in enumerate(numbers):
        present = np.unique(row[row > 0])
        found[image] = np.isin(row, present[region_means(maps[image : image + 1], row[None])[:, 0] > threshold])
    return found


def by_region(
    maps: Any, concepts: Concepts, regions: Integer[np.ndarray, "n h w"]
) -> tuple[Float32[np.ndarray, "r k 1 1"], Concepts]:
    """Mean activation of every unit over every region, and the concepts of the regions, ready for ``align``.

    Args:
        maps: Activations (N, K, h, w), array (memory-mapped too) or tensor; upsampled bilinearly to the size of the regions.
        concepts: Of the same N images and the size of the regions; a region has a concept that covers more than half of it.
        regions: Number of the region a pixel belongs to, counted from 1 in each image; 0 or less for none.

    Returns:
        R regions as images of one pixel, in the order of images and numbers, and their concepts.

    Raises:
        DataError: If maps, concepts and regions are of other images or sizes, or there is no region.

    Example:
        >>> maps = np.array([[[[0.0, 2.0], [0.0, 4.0]]]])
        >>> masks = np.array([[[[False, True], [False, True]]]])
        >>> pooled, found = by_region(maps, Concepts.from_masks(masks, ["right"]), np.array([[[1, 2], [1, 2]]]))
        >>> pooled.ravel().tolist(), found.masks(0, 2).ravel().tolist()
        ([0.0, 3.0], [False, True])
    """
    table = region_table(concepts, regions)
    pooled = region_means(maps, regions)
    return pooled[:, :, None, None], Concepts.from_masks(table.members[:, :, None, None], concepts.names)


def _counted(numbers: NDArray[Any]) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " r"]]:
    """Place of the region of every pixel, -1 for none, and the pixels of each region."""
    present, place, areas = np.unique(numbers, return_inverse=True, return_counts=True)
    none = int((present <= 0).sum())
    return np.maximum(place.ravel() - none, -1), areas[none:]


def _upsampling(before: int, after: int) -> Any:
    """The bilinear resampling of one axis as a sparse matrix."""
    eye = torch.eye(before, dtype=torch.float64)[None, None]
    large = torch.nn.functional.interpolate(eye, size=(after, before), mode="bilinear", align_corners=False)
    return sparse.csr_array(large[0, 0].numpy())
