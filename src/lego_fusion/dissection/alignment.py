"""Which unit of a layer stands for which concept, over pixels or over regions, and the images that excite a unit most.

Unit-concept alignment follows Network Dissection (arXiv 1704.05796). What is ours: the overlap is read beside the ceiling
that the frequency of the concept sets and beside chance, ties are counted and not assumed away, and a threshold-free
reading (area under the ROC curve) stands beside both, because at the usual quantile of 0.005 and cut of 0.04 no concept
of more than 12.5 % of the pixels can ever be found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from .active_pixels import Active, Layer, active_pixels, guessed_bounds
from .concepts import Concepts, Regions, RegionTable, region_means, region_table
from .overlap import Mode, OverlapCounts, RankedRegions, UnitOverlap, rank_auroc

_UNITS_AT_A_TIME = 64  # bounds the memory
_SAMPLED = 256  # pixels per image from which a threshold is guessed
_LARGEST_TABLE = 1 << 24


@dataclass(frozen=True, eq=False)
class UnitAlignment:
    """How the K units of a layer align with C concepts over N images.

    Args:
        concepts: Names of the concepts (C).
        thresholds: Of each unit (K,): a unit is active where its upsampled map is above.
        counts: Pixel counts of every image.
        auroc: Probability that a random pixel of the concept excites the unit more than one outside (K, C), ties counting
            half; NaN where it is not defined. None if it was not asked for.
        auroc_pixels: Pixels per image that it was computed on.
        peaks: Largest value of each unit in each image (N, K), before it is upsampled.
        images: Positions, in what was handed in, of the N images that were used.
        notes: What a reader should know: concepts that never occur, images left out, units that tie at their threshold.
        shuffled: Sums of the intersections after the masks were dealt anew to the images (S, K, C), for a null.
        shuffled_auroc: The area under the ROC curve after the same (S, K, C), where regions are read.
        regions: How many regions were read instead of pixels; 0 for pixels.
    """

    concepts: tuple[str, ...]
    thresholds: Float[np.ndarray, " k"]
    counts: OverlapCounts
    auroc: Float64[np.ndarray, "k c"] | None
    auroc_pixels: int
    peaks: Float[np.ndarray, "n k"]
    images: Int[np.ndarray, " n"]
    notes: tuple[str, ...]
    shuffled: Int[np.ndarray, "s k c"] | None = None
    shuffled_auroc: Float64[np.ndarray, "s k c"] | None = None
    regions: int = 0

    @cached_property
    def overlap(self) -> UnitOverlap:
        """The counts of all images together, with IoU, ceiling, normalised IoU, and the area under the ROC curve."""
        return replace(self.counts.total(), auroc=self.auroc)

    def detects(self, mode: Mode = "normalised", cut: float | None = None) -> Bool[np.ndarray, "k c"]:
        """Which unit detects which concept (K, C).

        Args:
            mode: "stock" and "normalised" as ``UnitOverlap.detects``; "auroc": above 0.8.
            cut: Instead of the default, in [0, 1].
        """
        return self.overlap.detects(mode, cut)

    def detected(self, mode: Mode = "normalised", cut: float | None = None) -> frozenset[str]:
        """The set D of concepts that some unit detects."""
        places = np.flatnonzero(self.detects(mode, cut).any(axis=0))
        return frozenset(self.concepts[place] for place in places)

    def by_chance(self) -> Iterator[UnitOverlap]:
        """The overlap under each shuffle of the labels over images or regions: what position and frequency alone explain."""
        total = self.overlap
        for place, both in enumerate(() if self.shuffled is None else self.shuffled):
            auroc = None if self.shuffled_auroc is None else self.shuffled_auroc[place]
            yield UnitOverlap(both.astype(np.float64), total.unit_area, total.concept_area, total.pixels, auroc)

    def gallery(self, unit: int, images: int = 8) -> list[int]:
        """Positions of the images in which a unit is largest, largest first, ties in order."""
        check_int(unit, "unit", "gallery", low=0, high=len(self.thresholds) - 1)
        check_int(images, "images", "gallery", low=1)
        order = np.argsort(-self.peaks[:, unit], kind="stable")[:images]
        return [int(position) for position in self.images[order]]


def align(
    maps: Any,
    concepts: Concepts,
    *,
    quantile: float = 0.005,
    unlabelled: Literal["refuse", "drop"] = "refuse",
    auroc_pixels: int = 256,
    shuffles: int = 0,
    seed: int = 0,
    batch_size: int = 4,
    device: str | torch.device = "cpu",
    where: str = "activations",
) -> UnitAlignment:
    """Align every unit of a layer with every concept; the maps are read in batches, twice.

    The map of a unit is upsampled bilinearly to the size of the labels. Its threshold T is exact: of n values the largest
    floor(quantile n) lie above T if none ties with it, fewer otherwise. M = 1[a > T], IoU = |M & Y| / |M | Y|.

    Args:
        maps: Activations (N, K, h, w), array (memory-mapped too) or tensor; half precision is read as float32.
        concepts: Of the same N images.
        quantile: Share of the pixels where a unit counts as active, in (0, 1).
        unlabelled: What happens to images in which no concept is: "refuse" them, or "drop" them, noting how many.
        auroc_pixels: At most so many pixels of each image, on an even lattice, are ranked for the area under the ROC
            curve, which is exact on these; 0 leaves it out. Memory: 4 N auroc_pixels bytes for each of 64 units.
        shuffles: How often the masks are dealt anew to the images, for ``UnitAlignment.by_chance``.
        seed: Of the shuffles; the same in every layer of the same images.
        batch_size: Images read at a time; changes nothing but memory and speed.
        device: Where the maps are upsampled.
        where: Name of the layer, for messages.

    Returns:
        The alignment, with counts per image.

    Raises:
        DataError: If the maps have no spatial extent or are not finite, or the labels are of other images, of another
            size or absent.
        ParameterError: If a parameter is out of range, or the quantile keeps no pixel.

    Source: Bau et al., arXiv 1704.05796, section 2; ceiling, chance and ties are ours.

    Example:
        >>> maps = np.arange(16.0).reshape(1, 1, 4, 4)
        >>> found = align(maps, Concepts.from_masks(maps >= 12, ["bottom"]), quantile=0.25)
        >>> found.overlap.iou.tolist(), found.overlap.ceiling.tolist(), found.auroc.tolist()
        ([[1.0]], [[1.0]], [[1.0]])
    """
    _check(maps, concepts, where)
    share = check_number(quantile, "quantile", "align", low=0.0, high=1.0)
    check_int(auroc_pixels, "auroc_pixels", "align", low=0)
    check_int(shuffles, "shuffles", "align", low=0)
    check_int(batch_size, "batch_size", "align", low=1)
    check_choice(unlabelled, "unlabelled", "align", ("refuse", "drop"))
    generator = np.random.default_rng(check_int(seed, "seed", "align", low=0))
    concepts, images, notes = labelled_images(concepts, unlabelled)
    height, width = concepts.size
    kept = int(share * len(images) * height * width + 1e-9)
    if not 1 <= kept < len(images) * height * width:
        raise ParameterError(
            f"a quantile of {share} keeps {kept} of {len(images) * height * width} pixels",
            expected="at least one, and not all",
            fix="give more images, or another quantile",
        )
    orders = [generator.permutation(len(images)) for _ in range(shuffles)]
    blocks = []
    for first in range(0, maps.shape[1], _UNITS_AT_A_TIME):
        units = np.arange(first, min(first + _UNITS_AT_A_TIME, maps.shape[1]))
        layer = Layer(maps, images, units, (height, width), batch_size, device, where)
        blocks.append(_align_units(layer, concepts, kept, auroc_pixels, orders))
    thresholds, both, unit_area, peaks, auroc, shuffled = (
        np.concatenate(part, axis=axis) for part, axis in zip(zip(*blocks, strict=True), (0, 1, 1, 1, 0, 1), strict=True)
    )
    areas = [concepts.areas(start, start + 64) for start in range(0, len(images), 64)]
    counts = OverlapCounts(both, unit_area, np.concatenate(areas), height * width)
    ranked = len(range(0, height, _stride(auroc_pixels, height, width))) if auroc_pixels else 0
    ranked *= len(range(0, width, _stride(auroc_pixels, height, width))) if auroc_pixels else 0
    found = auroc if auroc_pixels else None
    notes += remarks(counts, concepts.names, kept, found)
    return UnitAlignment(concepts.names, thresholds, counts, found, ranked, peaks, images, tuple(notes), shuffled)


def _align_units(
    layer: Layer, concepts: Concepts, kept: int, auroc_pixels: int, orders: Sequence[NDArray[Any]]
) -> tuple[NDArray[Any], ...]:
    """Thresholds, intersections, areas, peaks, AUROC and shuffled intersections of some units."""
    (height, width), images = concepts.size, len(concepts)
    stride = _stride(auroc_pixels or _SAMPLED, height, width)
    sample: Tensor | None = None
    peaks, least = [], torch.full((len(layer.units),), torch.inf, dtype=torch.float64)
    for start, rows in layer.batches():
        part = layer.sample(rows, stride).cpu()
        sample = part.new_empty(images, *part.shape[1:]) if sample is None else sample
        sample[start : start + len(part)] = part
        peaks.append(rows.amax((2, 3)).cpu().numpy())
        least = torch.minimum(least, rows.amin((0, 2, 3)).cpu().double())
    if sample is None:
        raise DataError("there are no images", where=layer.where)
    guess = guessed_bounds(sample.transpose(0, 1).flatten(1), kept / (images * height * width))
    thresholds, active = active_pixels(layer, kept, guess.to(layer.device), least)
    both, unit_area, shuffled = _count(active, len(layer.units), concepts, orders)
    auroc = np.full((len(layer.units), len(concepts.names)), np.nan)
    if auroc_pixels:
        codes = [concepts.codes(start, start + 64, stride) for start in range(0, images, 64)]
        auroc = rank_auroc(sample.numpy(), np.concatenate(codes), concepts.members)
    return thresholds.cpu().numpy(), both, unit_area, np.concatenate(peaks), auroc, shuffled


def _count(
    active: Sequence[Active], units: int, concepts: Concepts, orders: Sequence[NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Pixels of each concept among the active ones (N, k, C), all active ones (N, k), and the first with masks shuffled."""
    images, count, pixels = len(concepts), len(concepts.names), concepts.size[0] * concepts.size[1]
    both = np.zeros((images, units, count), dtype=np.int32)
    unit_area = np.zeros((images, units), dtype=np.int64)
    shuffled = np.zeros((len(orders), units, count), dtype=np.int64)
    others = [concepts.take(order) for order in orders]
    for part in active:
        run = torch.repeat_interleave(torch.arange(len(part.lengths)), part.lengths).numpy()
        unit, image = part.units.numpy()[run], part.images.numpy()[run]
        place, cells = image * pixels + part.places.numpy(), image * units + unit
        rows = slice(part.start, part.stop)
        size = part.stop - part.start
        codes = concepts.codes(part.start, part.stop).reshape(-1)[place]
        both[rows] += _members(cells, codes, size * units, concepts.members).reshape(size, units, count)
        unit_area[rows] += np.bincount(cells, minlength=size * units).reshape(size, units)
        for number, other in enumerate(others):
            codes = other.codes(part.start, part.stop).reshape(-1)[place]
            shuffled[number] += _members(unit, codes, units, concepts.members)
    return both, unit_area, shuffled


def _members(cells: NDArray[Any], codes: NDArray[Any], count: int, members: NDArray[Any]) -> NDArray[Any]:
    """How often each concept is in each cell (count, C): by combination and then by concept, unless those are too many."""
    combinations = len(members)
    if count * combinations <= _LARGEST_TABLE:
        seen = np.bincount(cells * combinations + codes, minlength=count * combinations).reshape(count, combinations)
        return np.rint(seen @ members.astype(np.float64)).astype(np.int32)
    table = torch.zeros(count, members.shape[1], dtype=torch.int32)
    return table.index_add_(0, torch.from_numpy(cells), torch.from_numpy(members[codes]).int()).numpy()


def _stride(wanted: int, height: int, width: int) -> int:
    """Of an even lattice with at most so many pixels."""
    return max(1, int(np.ceil(np.sqrt(height * width / wanted) - 1e-9)))


def _check(maps: Any, concepts: Concepts, where: str) -> None:
    if maps.ndim != 4 or 0 in maps.shape:
        raise DataError("activations have no spatial extent", where=where, expected="(N, K, h, w)", got=tuple(maps.shape))
    if len(maps) != len(concepts):
        raise DataError("labels are of other images", where=where, expected=f"{len(maps)} images", got=len(concepts))


def labelled_images(concepts: Concepts, unlabelled: str) -> tuple[Concepts, Int[np.ndarray, " n"], list[str]]:
    """Images with at least one concept, and a note on the others."""
    some = np.concatenate([concepts.areas(start, start + 64).any(axis=1) for start in range(0, len(concepts), 64)])
    images, without = np.flatnonzero(some), np.flatnonzero(~some)
    if len(without) and (unlabelled == "refuse" or not len(images)):
        shown = ", ".join(map(str, without[:5])) + (" ..." if len(without) > 5 else "")
        raise DataError(
            f"{len(without)} of {len(concepts)} images have no label",
            where=f"positions {shown}",
            expected="at least one concept in every image",
            fix="label them, or say unlabelled='drop'" if len(images) else "give labels",
        )
    notes = [f"{len(without)} of {len(concepts)} images have no label and were left out"] if len(without) else []
    return (concepts.take(images) if len(without) else concepts), images, notes


def remarks(counts: OverlapCounts, names: Sequence[str], kept: int, auroc: NDArray[Any] | None) -> list[str]:
    """What a reader should know: units that tie at their threshold, concepts that never occur, concepts without AUROC."""
    areas, there = counts.unit_area.sum(axis=0), counts.concept_area.sum(axis=0) > 0
    tied = int((areas < kept).sum())
    notes = [f"{tied} of {len(areas)} units tie at their threshold and are active in fewer places"] if tied else []
    absent = [name for name, present in zip(names, there, strict=True) if not present]
    notes += [f"concepts that never occur: {', '.join(absent)}"] if absent else []
    lost = np.zeros(len(names), dtype=bool) if auroc is None else np.isnan(auroc[0]) & there
    unranked = [name for name, missing in zip(names, lost, strict=True) if missing]
    return notes + (
        [f"concepts on none or all of the ranked places, so without AUROC: {', '.join(unranked)}"] if unranked else []
    )


QUANTILE = 0.1  # of the regions


def align_regions(
    maps: Any,
    concepts: Concepts,
    regions: Regions,
    *,
    quantile: float = QUANTILE,
    unlabelled: Literal["refuse", "drop"] = "refuse",
    shuffles: int = 0,
    seed: int = 0,
    where: str = "activations",
) -> UnitAlignment:
    """Align every unit with every concept over regions; the same as ``align`` on what ``by_region`` gives, by image.

    A unit is active in the regions whose mean is above its threshold, of R regions the largest floor(quantile R); the area
    under the ROC curve is over all regions. A region without a concept, if it is given, is a place where all are absent.

    Args:
        maps: Activations (N, K, h, w), array (memory-mapped too) or tensor, read image by image.
        concepts: Of the same N images.
        regions: Of the same images.
        quantile: Share of the regions where a unit counts as active, in (0, 1).
        unlabelled: What happens to images in which no concept is: "refuse" them, or "drop" them, noting how many.
        shuffles: How often the concepts are dealt anew to the regions, the same in every layer.
        seed: Of the shuffles.
        where: Name of the layer, for messages.

    Returns:
        The alignment; its counts are by image, for those images that have a region.

    Raises:
        DataError: If maps, concepts and regions are of other images or sizes, there is no region, or a value is not finite.
        ParameterError: If a parameter is out of range, or the quantile keeps no region.
    """
    share = check_number(quantile, "quantile", "align_regions", low=0.0, high=1.0)
    check_int(shuffles, "shuffles", "align_regions", low=0)
    generator = np.random.default_rng(check_int(seed, "seed", "align_regions", low=0))
    if len(concepts) != len(maps):
        raise DataError("labels are of other images", where=where, expected=f"{len(maps)} images", got=len(concepts))
    _, labelled, notes = labelled_images(concepts, unlabelled)
    numbers = np.zeros_like(regions.numbers)
    numbers[labelled] = regions.numbers[labelled]
    table = region_table(concepts, numbers)
    means = region_means(maps, numbers)
    kept = int(share * len(means) + 1e-9)
    if not 1 <= kept < len(means):
        fix = "give more images, or another quantile"
        raise ParameterError(
            f"a quantile of {share} keeps {kept} of {len(means)} regions", expected="at least one, and not all", fix=fix
        )
    thresholds = -np.partition(-means, kept, axis=0)[kept]
    active = means > thresholds
    images, starts = np.unique(table.images, return_index=True)
    ranked = RankedRegions.rank(means, table.members, np.searchsorted(images, table.images))
    counts = _counts(active, table, starts, ranked)
    orders = [generator.permutation(len(means)) for _ in range(shuffles)]
    members = table.members.astype(np.float64)
    empty = np.zeros((0, means.shape[1], members.shape[1]))
    both = [active.T.astype(np.float64) @ members[order] for order in orders]
    areas = [ranked.relabelled(order).auroc() for order in orders]
    auroc = ranked.auroc()
    without = len(labelled) - len(images)
    notes += [f"{without} of {len(labelled)} images have no region and add nothing"] if without else []
    notes += [*regions.notes, *remarks(counts, concepts.names, kept, auroc)]
    return UnitAlignment(
        concepts.names,
        thresholds,
        counts,
        auroc,
        0,
        np.maximum.reduceat(means, starts, axis=0),
        images,
        tuple(notes),
        np.rint(np.array(both) if both else empty).astype(np.int64),
        np.array(areas) if areas else empty,
        len(means),
    )


def _counts(active: NDArray[Any], table: RegionTable, starts: NDArray[Any], ranked: RankedRegions) -> OverlapCounts:
    """Regions of each image in which units are active and concepts are."""
    ends = [*starts[1:], len(active)]
    parts = [(active[first:last], table.members[first:last]) for first, last in zip(starts, ends, strict=True)]
    both = [units.T.astype(np.int32) @ concepts.astype(np.int32) for units, concepts in parts]
    units, concepts = (np.add.reduceat(rows.astype(np.int64), starts, axis=0) for rows in (active, table.members))
    return OverlapCounts(np.array(both), units, concepts, np.diff([*starts, len(active)]), ranked)
