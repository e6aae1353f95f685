"""Which unit of a layer stands for which concept, read over regions: one number for each object instead of each pixel."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, ParameterError, check_int, check_number
from .alignment import UnitAlignment, labelled_images, remarks
from .auroc import RankedRegions
from .concepts import Concepts
from .overlap import OverlapCounts
from .regions import Regions, RegionTable, region_means, region_table

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
