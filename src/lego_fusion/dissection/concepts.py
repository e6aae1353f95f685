"""Where in each image a concept is, over pixels or object by object, and which concepts two layers share.

Few of the 2^C combinations of C concepts ever occur, so a number for each pixel and a table of what is in each combination
hold masks that overlap as well as labels that exclude each other, in a few bytes a pixel.

Where concepts lie on objects and most of a picture is background, a unit that is active on every object alike overlaps with
each attribute of objects far more than random pixels do: of two colours that are equally common it holds half of each. Read
over regions, one number for each object, such a unit is at chance for every attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Integer
from numpy.typing import NDArray
from scipy import ndimage, sparse

from ..errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts of N images of H x W pixels; make one with ``from_masks``, ``from_labels`` or a ``ConceptCollector``.

    A pixel without a label belongs to no concept; it counts as a place where every concept is absent.

    Args:
        names: Of the C concepts.
        pixels: Combination of every pixel (N, H, W); a negative number is the last one.
        members: Which concepts are in each combination (V, C); none is in the last.
        chosen: Positions of the images that are kept (n,), of all by default.
    """

    names: tuple[str, ...]
    pixels: Array
    members: Bool[np.ndarray, "v c"]
    chosen: Int[np.ndarray, " n"]

    @classmethod
    def from_masks(cls, masks: Array, names: Sequence[str] | None = None) -> Concepts:
        """Concepts that may overlap, as masks (N, C, H, W) of bool.

        Raises:
            DataError: If the shape or type is wrong, or names are missing or repeated.
        """
        if masks.ndim != 4 or masks.dtype != np.bool_:
            raise DataError("not masks of concepts", expected="bool (N, C, H, W)", got=f"{masks.dtype} {masks.shape}")
        named = tuple(names) if names is not None else tuple(f"concept {place}" for place in range(masks.shape[1]))
        collector = ConceptCollector(_checked(named, masks.shape[1]))
        for start in range(0, len(masks), 16):
            collector.add(masks[start : start + 16])
        return collector.concepts() if len(masks) else cls.from_labels(np.zeros((0, *masks.shape[2:]), dtype=int), named)

    @classmethod
    def from_labels(cls, labels: Array, names: Sequence[str]) -> Concepts:
        """Concepts that exclude each other, as a map of labels (N, H, W): the position in ``names``, negative for none.

        Raises:
            DataError: If the shape or type is wrong, or a label has no name.

        Example:
            >>> Concepts.from_labels(np.array([[[0, 1], [1, -1]]]), ["sky", "road"]).areas(0, 1).tolist()
            [[1, 2]]
        """
        if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError("not a map of labels", expected="integers (N, H, W)", got=f"{labels.dtype} {labels.shape}")
        if labels.size and int(labels.max()) >= len(names):
            raise DataError(
                "a label has no name", expected=f"at most {len(names) - 1}, negative for none", got=int(labels.max())
            )
        members = np.eye(len(names) + 1, len(names), dtype=bool)
        return cls(_checked(tuple(names), len(names)), labels, members, np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def take(self, order: Int[np.ndarray, " k"]) -> Concepts:
        """The images at these positions, in this order: a part, or a permutation for a null."""
        return replace(self, chosen=self.chosen[order])

    def codes(self, start: int, stop: int, stride: int = 1) -> Array:
        """Combination (b, h, w) of the pixels of some images, at every ``stride``-th row and column."""
        rows: Array = self.pixels[self.chosen[start:stop]][..., ::stride, ::stride]
        return rows if rows.dtype.kind == "u" else np.where(rows < 0, len(self.members) - 1, rows)

    def masks(self, start: int, stop: int, stride: int = 1) -> Bool[np.ndarray, "b c h w"]:
        """Masks of some images, at every ``stride``-th row and column."""
        return np.moveaxis(self.members[self.codes(start, stop, stride)], -1, 1)

    def areas(self, start: int, stop: int) -> Int[np.ndarray, "b c"]:
        """Number of pixels of each concept in some images."""
        codes, count = self.codes(start, stop).astype(np.int64), len(self.members)
        cells = codes + count * np.arange(len(codes))[:, None, None]
        seen = np.bincount(cells.ravel(), minlength=len(codes) * count).reshape(len(codes), count)
        return np.rint(seen @ self.members.astype(np.float64)).astype(np.int64)


class ConceptCollector:
    """Concepts of images that come in batches, kept as combinations.

    Args:
        names: Of the C concepts.

    Example:
        >>> collector = ConceptCollector(["dark", "round"])
        >>> collector.add(np.array([[[[True, False]], [[True, True]]]]))
        >>> collector.concepts().masks(0, 1).astype(int).tolist()
        [[[[1, 0]], [[1, 1]]]]
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = _checked(tuple(names), len(names))
        self._numbers: dict[bytes, int] = {}
        self._parts: list[Array] = []

    def add(self, masks: Bool[np.ndarray, "b c h w"]) -> None:
        """Take the masks of the next images."""
        if masks.shape[1] != len(self.names):
            raise DataError("masks of another number of concepts", expected=len(self.names), got=masks.shape[1])
        if self._parts and masks.shape[2:] != self._parts[0].shape[1:]:
            raise DataError("labels change their size", expected=self._parts[0].shape[1:], got=masks.shape[2:])
        self._parts.append(smallest_type(np.stack([self._coded(image) for image in masks])))

    def _coded(self, masks: Bool[np.ndarray, "c h w"]) -> Array:
        packed = np.packbits(masks.reshape(len(masks), -1), axis=0).T  # (h w, bytes)
        words = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
        words[:, : packed.shape[1]] = packed
        keys = words.view(np.uint64)
        if keys.shape[1] == 1:
            found, inverse = np.unique(keys[:, 0], return_inverse=True)
        else:
            found, inverse = np.unique(keys, axis=0, return_inverse=True)
        numbers = [self._numbers.setdefault(row.tobytes(), len(self._numbers)) for row in found]
        return np.array(numbers, dtype=np.int64)[inverse.ravel()].reshape(masks.shape[1:])

    def concepts(self) -> Concepts:
        """All images so far."""
        if not self._parts:
            raise DataError("there are no labels", expected="those of at least one image")
        rows = np.array([np.frombuffer(key, dtype=np.uint8) for key in self._numbers])
        members = np.unpackbits(rows, axis=1, count=len(self.names)).astype(bool)
        members = np.concatenate([members, np.zeros((1, len(self.names)), dtype=bool)])  # the last holds none
        pixels = np.concatenate(self._parts)
        return Concepts(self.names, pixels, members, np.arange(len(pixels)))


def smallest_type(numbers: Array) -> Array:
    """The same in the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _checked(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    if not names or len(names) != count or len(set(names)) != count:
        raise DataError("wrong names of concepts", expected=f"{count} different names, at least one", got=f"{len(set(names))}")
    return names


@dataclass(frozen=True)
class LevelConcepts:
    """Which concepts each modality detects at one level, and what the fused layer there keeps of them.

    With D_m the concepts that m detects, J = |all detect| / |any detects| and U_m = |m alone detects| / |any detects|; of two
    modalities J + U_1 + U_2 = 1. Definitions are ours: consistency is what all detect, speciality what one alone detects.

    Args:
        level: Its name.
        detected: D of each modality, as ``UnitAlignment.detected`` gives it.
        fused: D of the fused layer at this level; None if there is none.

    Example:
        >>> sets = LevelConcepts("late", {"rgb": frozenset({"sky", "road"}), "depth": frozenset({"road", "wall", "car"})})
        >>> sets.joint, sets.unique("rgb"), sets.unique("depth")
        (0.25, 0.25, 0.5)
    """

    level: str
    detected: dict[str, frozenset[str]]
    fused: frozenset[str] | None = None

    @property
    def union(self) -> frozenset[str]:
        """What any modality detects."""
        return frozenset().union(*self.detected.values())

    @property
    def shared(self) -> frozenset[str]:
        """What all modalities detect."""
        return frozenset.intersection(*self.detected.values())

    def special(self, modality: str) -> frozenset[str]:
        """What one modality alone detects."""
        others = [found for name, found in self.detected.items() if name != modality]
        return self.detected[modality].difference(*others)

    @property
    def all_special(self) -> frozenset[str]:
        """What is special to any modality."""
        return frozenset().union(*(self.special(name) for name in self.detected))

    @property
    def joint(self) -> float:
        """J, in [0, 1]; 1 where nothing is detected, which then says nothing."""
        return len(self.shared) / len(self.union) if self.union else 1.0

    def unique(self, modality: str) -> float:
        """U of a modality, in [0, 1]."""
        return len(self.special(modality)) / max(len(self.union), 1)

    @property
    def shared_kept(self) -> float | None:
        """Share of the shared concepts that the fused layer detects; None without either."""
        return self._kept(self.shared)

    @property
    def special_kept(self) -> float | None:
        """Share of the concepts of one modality alone that the fused layer detects; None without either."""
        return self._kept(self.all_special)

    def _kept(self, wanted: frozenset[str]) -> float | None:
        return None if self.fused is None or not wanted else len(wanted & self.fused) / len(wanted)


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
