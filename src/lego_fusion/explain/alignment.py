"""Which unit of a layer stands for which concept: thresholds, overlaps, ranks and the images that excite a unit most.

Unit-concept alignment follows Network Dissection (arXiv 1704.05796). What is ours: the overlap is read beside the ceiling
that the frequency of the concept sets and beside chance, ties are counted and not assumed away, and a threshold-free
reading (area under the ROC curve) stands beside both, because at the usual quantile of 0.005 and cut of 0.04 no concept
of more than 12.5 % of the pixels can ever be found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from .concepts import Concepts
from .overlap import CUTS, OverlapCounts, UnitOverlap
from .ranks import rank_auroc

Mode = Literal["stock", "normalised", "auroc"]


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
        peaks: Largest value of each unit in each image (N, K).
        images: Positions, in what was handed in, of the N images that were used.
        notes: What a reader should know: concepts that never occur, images left out, units that tie at their threshold.
    """

    concepts: tuple[str, ...]
    thresholds: Float[np.ndarray, " k"]
    counts: OverlapCounts
    auroc: Float64[np.ndarray, "k c"] | None
    auroc_pixels: int
    peaks: Float[np.ndarray, "n k"]
    images: Int[np.ndarray, " n"]
    notes: tuple[str, ...]

    @cached_property
    def overlap(self) -> UnitOverlap:
        """The counts of all images together, with IoU, ceiling and normalised IoU."""
        return self.counts.total()

    def detects(self, mode: Mode = "normalised", cut: float | None = None) -> Bool[np.ndarray, "k c"]:
        """Which unit detects which concept (K, C).

        Args:
            mode: "stock" and "normalised" as ``UnitOverlap.detects``; "auroc": above 0.8.
            cut: Instead of the default, in [0, 1].
        """
        check_choice(mode, "mode", "detects", ("stock", "normalised", "auroc"))
        if mode != "auroc":
            return self.overlap.detects(mode, cut)
        if self.auroc is None:
            raise ParameterError("the area under the ROC curve was not computed", fix="align with auroc_pixels of at least 1")
        low = check_number(CUTS[mode] if cut is None else cut, "cut", "detects", low=0.0, high=1.0)
        found: NDArray[Any] = np.nan_to_num(self.auroc) > low
        return found

    def detected(self, mode: Mode = "normalised", cut: float | None = None) -> frozenset[str]:
        """The set D of concepts that some unit detects."""
        places = np.flatnonzero(self.detects(mode, cut).any(axis=0))
        return frozenset(self.concepts[place] for place in places)

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
    image_size: tuple[int, int] | None = None,
    unlabelled: Literal["refuse", "drop"] = "refuse",
    auroc_pixels: int = 256,
    batch_size: int = 4,
    device: str | torch.device = "cpu",
    where: str = "activations",
) -> UnitAlignment:
    """Align every unit of a layer with every concept; two passes over the maps, which are read in batches.

    The map of a unit is upsampled bilinearly to the size of the labels. Its threshold T is exact: of n values the largest
    floor(quantile n) lie above T if none ties with it, fewer otherwise. M = 1[a > T], IoU = |M & Y| / |M | Y|.

    Args:
        maps: Activations (N, K, h, w), array (memory-mapped too) or tensor; half precision is read as float32.
        concepts: Of the same N images.
        quantile: Share of the pixels where a unit counts as active, in (0, 1).
        image_size: Height and width of the images, if the labels are to be held to it.
        unlabelled: What happens to images in which no concept is: "refuse" them, or "drop" them, noting how many.
        auroc_pixels: At most so many pixels of each image, on an even lattice, are ranked for the area under the ROC
            curve, which is exact on these; 0 leaves it out. Memory: 4 N K auroc_pixels bytes.
        batch_size: Images upsampled at a time; changes nothing but memory and speed.
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
    _check(maps, concepts, image_size, where)
    share = check_number(quantile, "quantile", "align", low=0.0, high=1.0)
    check_int(auroc_pixels, "auroc_pixels", "align", low=0)
    check_int(batch_size, "batch_size", "align", low=1)
    check_choice(unlabelled, "unlabelled", "align", ("refuse", "drop"))
    concepts, images, notes = _labelled(concepts, unlabelled)
    height, width = concepts.size
    kept = int(share * len(images) * height * width + 1e-9)
    if not 1 <= kept < len(images) * height * width:
        raise ParameterError(
            f"a quantile of {share} keeps {kept} of {len(images) * height * width} pixels",
            expected="at least one, and not all",
            fix="give more images, or another quantile",
        )
    stride = int(np.ceil(np.sqrt(height * width / auroc_pixels) - 1e-9)) if auroc_pixels else 0
    top, peaks = TopValues(int(maps.shape[1]), kept + 1), []
    lattice: NDArray[Any] | None = None
    for start, upsampled in _upsampled(maps, images, concepts.size, batch_size, device, where):
        top.add(upsampled)
        peaks.append(upsampled.amax((2, 3)).cpu().numpy())
        if stride:
            part = upsampled[:, :, ::stride, ::stride].cpu().numpy()
            lattice = np.empty((len(images), *part.shape[1:]), dtype=part.dtype) if lattice is None else lattice
            lattice[start : start + len(part)] = part
    thresholds = top.smallest()
    counts = _count(maps, images, concepts, thresholds, batch_size, device, where)
    auroc, ranked = None, 0
    if lattice is not None:
        ranked = lattice.shape[2] * lattice.shape[3]
        auroc = rank_auroc(lattice, lambda start, stop: concepts.masks(start, stop, stride))
    notes += _tie_note(counts, kept) + _absent_note(counts, concepts) + _unranked_note(auroc, counts, concepts)
    return UnitAlignment(
        concepts.names, thresholds.cpu().numpy(), counts, auroc, ranked, np.concatenate(peaks), images, tuple(notes)
    )


class TopValues:
    """The largest values of each unit in a stream, exactly: a bound that only rises lets almost all values be skipped.

    Args:
        units: Number of units.
        kept: How many values of each are kept.

    Example:
        >>> top = TopValues(units=1, kept=2)
        >>> for batch in torch.tensor([[3.0, 1.0], [5.0, 4.0]]):
        ...     top.add(batch.reshape(1, 1, 1, 2))
        >>> top.smallest().tolist()
        [4.0]
    """

    def __init__(self, units: int, kept: int) -> None:
        self.kept = kept
        self._filled = [0] * units
        self._bounds: list[Tensor | None] = [None] * units
        self._room: Tensor | None = None  # one block for all, so that memory is not torn into pieces

    def add(self, maps: Float[Tensor, "b k h w"]) -> None:
        """See more values of every unit."""
        room = self._make_room(maps)
        for unit, bound in enumerate(self._bounds):
            values = maps[:, unit].reshape(-1)
            values = values if bound is None else values[values > bound]
            if self._filled[unit] + len(values) > room.shape[1]:
                self._prune(unit, room)
            end = self._filled[unit] + len(values)
            room[unit, self._filled[unit] : end] = values
            self._filled[unit] = end

    def smallest(self) -> Float[Tensor, " k"]:
        """The ``kept``-th largest value of each unit, or the smallest where fewer were seen."""
        if self._room is None:
            raise DataError("no values were seen", expected="at least one")
        for unit in range(len(self._filled)):
            self._prune(unit, self._room)
        return torch.stack([self._room[unit, :filled].min() for unit, filled in enumerate(self._filled)])

    def _make_room(self, maps: Tensor) -> Tensor:
        """Twice what is kept, and a batch."""
        columns = 2 * self.kept + maps[:, 0].numel()
        if self._room is None:
            self._room = maps.new_empty(len(self._filled), columns)
        elif self._room.shape[1] < columns:
            larger = self._room.new_empty(len(self._filled), columns)
            larger[:, : self._room.shape[1]] = self._room
            self._room = larger
        return self._room

    def _prune(self, unit: int, room: Tensor) -> None:
        filled = self._filled[unit]
        if filled < self.kept:
            return
        values = room[unit, :filled].topk(self.kept, sorted=False).values
        room[unit, : self.kept] = values
        self._filled[unit], self._bounds[unit] = self.kept, values.min()


def _upsampled(
    maps: Any, images: Int[np.ndarray, " n"], size: tuple[int, int], batch_size: int, device: str | torch.device, where: str
) -> Iterator[tuple[int, Tensor]]:
    """First position and upsampled maps (b, K, H, W) of each batch."""
    for start in range(0, len(images), batch_size):
        rows = maps[images[start : start + batch_size]]
        rows = torch.as_tensor(rows).detach().to(device)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        if not bool(rows.isfinite().all()):
            raise DataError("activations are not finite", where=where, got=f"NaN or inf near image {int(images[start])}")
        if tuple(rows.shape[2:]) != size:
            rows = torch.nn.functional.interpolate(rows, size=size, mode="bilinear", align_corners=False)
        yield start, rows


def _count(
    maps: Any,
    images: Int[np.ndarray, " n"],
    concepts: Concepts,
    thresholds: Tensor,
    batch_size: int,
    device: str | torch.device,
    where: str,
) -> OverlapCounts:
    units, count = len(thresholds), len(concepts.names)
    both = np.zeros((len(images), units, count), dtype=np.int32)
    unit_area, concept_area = np.zeros((len(images), units), dtype=np.int64), np.zeros((len(images), count), dtype=np.int64)
    for start, upsampled in _upsampled(maps, images, concepts.size, batch_size, device, where):
        rows = slice(start, start + len(upsampled))
        active = (upsampled > thresholds[:, None, None]).flatten(2)  # (b, K, H W)
        image, unit, place = (index.cpu().numpy() for index in active.nonzero(as_tuple=True))
        cells = torch.from_numpy(image * units + unit)
        hits = torch.from_numpy(concepts.at(start, image, place)).int()  # (active, C)
        torch.from_numpy(both[rows].reshape(-1, count)).index_add_(0, cells, hits)
        unit_area[rows] = torch.bincount(cells, minlength=len(active) * units).reshape(-1, units).numpy()
        concept_area[rows] = concepts.areas(start, start + len(active))
    return OverlapCounts(both, unit_area, concept_area, concepts.size[0] * concepts.size[1])


def _check(maps: Any, concepts: Concepts, image_size: tuple[int, int] | None, where: str) -> None:
    if maps.ndim != 4 or 0 in maps.shape:
        raise DataError("activations have no spatial extent", where=where, expected="(N, K, h, w)", got=tuple(maps.shape))
    if len(maps) != len(concepts):
        raise DataError("labels are of other images", where=where, expected=f"{len(maps)} images", got=len(concepts))
    if image_size is not None and concepts.size != tuple(image_size):
        raise DataError(
            "labels have another size than the images",
            where=where,
            expected=tuple(image_size),
            got=concepts.size,
            fix="resize the labels to the images, taking the nearest label",
        )


def _labelled(concepts: Concepts, unlabelled: str) -> tuple[Concepts, Int[np.ndarray, " n"], list[str]]:
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


def _tie_note(counts: OverlapCounts, kept: int) -> list[str]:
    areas = counts.unit_area.sum(axis=0)
    tied = int((areas < kept).sum())
    return [f"{tied} of {len(areas)} units tie at their threshold and are active in fewer pixels"] if tied else []


def _absent_note(counts: OverlapCounts, concepts: Concepts) -> list[str]:
    absent = [name for name, area in zip(concepts.names, counts.concept_area.sum(axis=0), strict=True) if not area]
    return [f"concepts that never occur: {', '.join(absent)}"] if absent else []


def _unranked_note(auroc: NDArray[Any] | None, counts: OverlapCounts, concepts: Concepts) -> list[str]:
    if auroc is None:
        return []
    lost = np.isnan(auroc[0]) & (counts.concept_area.sum(axis=0) > 0)
    names = [name for name, missing in zip(concepts.names, lost, strict=True) if missing]
    return [f"concepts on none or all of the ranked pixels, so without AUROC: {', '.join(names)}"] if names else []
