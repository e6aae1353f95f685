"""Where units are most active: exact thresholds of their upsampled maps, and the pixels above, in one pass over most maps.

A bilinear map is nowhere above the largest value of the map it was made from, so only maps that reach a bound just below
the threshold are upsampled at all. The bound is a guess from a sample of the pixels; where it was too high, which the number
of pixels above it shows, the unit is done again without one. The guess thus costs or saves time and never changes a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError

_MAPS_AT_A_TIME = 32  # upsampled together: they stay in the cache
_ROUNDING = 1e-6
_MARGIN = 1.4  # how many times the pixels wanted lie above the guessed bound


@dataclass(frozen=True, eq=False)
class Layer:
    """Maps of some units of a layer, read in batches.

    Args:
        maps: Activations (N', K, h, w), array or tensor.
        images: Which of them (n,).
        units: Which units (k,).
        size: Height and width that maps are upsampled to.
        batch_size: Images read at a time.
        device: Where they are upsampled.
        where: Name of the layer, for messages.
    """

    maps: Any
    images: Int[np.ndarray, " n"]
    units: Int[np.ndarray, " k"]
    size: tuple[int, int]
    batch_size: int
    device: str | torch.device
    where: str

    def batches(self) -> Iterator[tuple[int, Tensor]]:
        """First position and maps (b, k, h, w) of each batch, float32 or float64."""
        first, last = int(self.units[0]), int(self.units[-1])
        for start in range(0, len(self.images), self.batch_size):
            rows = self.maps[self.images[start : start + self.batch_size], first : last + 1]
            rows = torch.as_tensor(rows).detach().to(self.device)[:, torch.from_numpy(self.units - first)]
            rows = rows if rows.dtype == torch.float64 else rows.float()
            if not bool(rows.isfinite().all()):
                got = f"NaN or inf near image {int(self.images[start])}"
                raise DataError("activations are not finite", where=self.where, got=got)
            yield start, rows

    def upsampled(self, maps: Float[Tensor, "m h w"]) -> Float[Tensor, "m H W"]:
        """Maps at the size of the labels."""
        if tuple(maps.shape[1:]) == self.size or not len(maps):
            return maps.new_zeros(0, *self.size) if not len(maps) else maps
        # one channel each: how torch rounds depends on the number of channels, but not on that of images
        return torch.nn.functional.interpolate(maps[:, None], size=self.size, mode="bilinear", align_corners=False)[:, 0]

    def sample(self, maps: Float[Tensor, "b k h w"], stride: int) -> Float[Tensor, "b k g v"]:
        """Every ``stride``-th row and column of the upsampled maps, without the others."""
        for axis in (2, 3):
            low, high, weight = _between(maps.shape[axis], self.size[axis - 2], stride, maps)
            weight = weight.reshape(-1, 1) if axis == 2 else weight
            maps = maps.index_select(axis, low) * (1 - weight) + maps.index_select(axis, high) * weight
        return maps


@dataclass(frozen=True, eq=False)
class Active:
    """Pixels above a bound in the images of one batch, one run of them for each map, maps sorted by unit.

    Args:
        start: Position of the first image of the batch.
        stop: After the last.
        units: Position of the unit of each map (m,), among those of the layer.
        images: Position of its image in the batch (m,).
        lengths: Number of its pixels (m,).
        places: The pixels, row major (p,).
        values: Their values (p,).
    """

    start: int
    stop: int
    units: Tensor
    images: Tensor
    lengths: Tensor
    places: Tensor
    values: Tensor

    def keep(self, pixels: Tensor) -> Active:
        """Some of the pixels (p,) bool."""
        run = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)
        lengths = torch.bincount(run[pixels], minlength=len(self.lengths))
        return replace(self, lengths=lengths, places=self.places[pixels], values=self.values[pixels])


def active_pixels(
    layer: Layer, kept: int, guess: Float[Tensor, " k"], least: Float[Tensor, " k"]
) -> tuple[Tensor, list[Active]]:
    """The (``kept`` + 1)-th largest value of each unit over all images, and the pixels above it.

    Args:
        layer: The maps.
        kept: How many pixels are above where no values tie.
        guess: Bound of each unit that is probably just below.
        least: Smallest value of each unit in the maps.

    Returns:
        Thresholds (k,), and the pixels by batch; a batch may come twice, with different units.
    """
    parts = list(_above(layer, guess))
    thresholds, again = guess.clone(), []
    for unit, values in enumerate(_by_unit(parts, len(guess))):
        if len(values) > kept:
            thresholds[unit] = values.topk(kept + 1, sorted=False).values.min()
        elif guess[unit] != 0 or least[unit] != 0:  # else all the rest is 0, which no resampling changes
            again.append(unit)
    done = torch.ones(len(guess), dtype=torch.bool)
    done[again] = False
    parts = [_select(part, thresholds, done) for part in parts]
    if again:
        rest = replace(layer, units=layer.units[again])
        pieces = (rest.upsampled(maps).flatten(1) for _, rows in rest.batches() for maps in rows)
        thresholds[again] = nth_largest(pieces, kept + 1)
        places = torch.tensor(again)
        parts += [replace(part, units=places[part.units]) for part in _above(rest, thresholds[again])]
    return thresholds, parts


def guessed_bounds(sample: Float[Tensor, "k s"], share: float) -> Float[Tensor, " k"]:
    """Of each unit the value that somewhat more than a share of its sampled values lie above."""
    count = sample.shape[1]
    above = min(count, int(np.ceil(_MARGIN * share * count + 4 * np.sqrt(share * count) / 2 + 1)))
    return sample.topk(above, dim=1, sorted=False).values.amin(1)


def nth_largest(parts: Iterable[Float[Tensor, "k p"]], kept: int) -> Float[Tensor, " k"]:
    """The ``kept``-th largest value of each unit in a stream, exactly, or the smallest where fewer were seen.

    A bound that only rises lets almost all values be skipped; what is kept is pruned when it has doubled.

    Args:
        parts: Values of every unit, part by part.
        kept: How many values of each are kept.

    Raises:
        DataError: If there are no values.

    Example:
        >>> nth_largest([torch.tensor([[3.0, 1.0]]), torch.tensor([[5.0, 4.0]])], 2).tolist()
        [4.0]
    """
    seen: dict[int, Tensor] = {}
    bounds: dict[int, float] = {}
    for part in parts:
        for unit, values in enumerate(part):
            large = values[values > bounds.get(unit, -torch.inf)]
            seen[unit] = torch.cat([seen[unit], large]) if unit in seen else large
            if len(seen[unit]) > 2 * kept:
                seen[unit] = seen[unit].topk(kept, sorted=False).values
                bounds[unit] = float(seen[unit].min())
    if not seen:
        raise DataError("no values were seen", expected="at least one")
    return torch.stack([values.topk(min(kept, len(values)), sorted=False).values.min() for values in seen.values()])


def _above(layer: Layer, bounds: Tensor) -> Iterator[Active]:
    """Pixels above the bound of their unit, by batch."""
    for start, rows in layer.batches():
        peaks = rows.amax((2, 3))
        peaks = peaks + _ROUNDING * peaks.abs()  # an upsampled value may be a rounding above all it is made from
        unit, image = (peaks > bounds).T.nonzero(as_tuple=True)  # sorted by unit
        pieces = []
        for chosen in torch.arange(len(unit), device=rows.device).split(_MAPS_AT_A_TIME):
            large = layer.upsampled(rows[image[chosen], unit[chosen]]).flatten(1)
            over = large > bounds[unit[chosen], None]
            found = over.flatten().nonzero()[:, 0]
            pieces.append((over.sum(1), (found % large.shape[1]).int(), large.flatten()[found]))
        empty = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), rows.new_zeros(0).cpu())
        lengths, places, values = (
            torch.cat(parts).cpu() if pieces else nothing
            for parts, nothing in zip(zip(*pieces, strict=True) if pieces else [()] * 3, empty, strict=True)
        )
        yield Active(start, start + len(rows), unit.cpu(), image.cpu(), lengths, places, values)


def _by_unit(parts: Sequence[Active], units: int) -> Iterator[Tensor]:
    """All values of each unit."""
    split = []
    for part in parts:
        sizes = torch.zeros(units, dtype=torch.int64).index_add_(0, part.units, part.lengths)
        split.append(part.values.split(sizes.tolist()))
    for unit in range(units):
        yield torch.cat([values[unit] for values in split])


def _select(part: Active, thresholds: Tensor, done: Tensor) -> Active:
    """Pixels above the thresholds, of the units that are done."""
    unit = torch.repeat_interleave(part.units, part.lengths)
    return part.keep((part.values > thresholds.to(part.values)[unit]) & done[unit])


def _between(length: int, wanted: int, stride: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions before and after, and weight of the one after, of every ``stride``-th place of a resampled axis."""
    place = (torch.arange(0, wanted, stride, dtype=torch.float64) + 0.5) * (length / wanted) - 0.5
    place = place.clamp(min=0)
    low = place.floor().long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    return low.to(like.device), high.to(like.device), (place - low).to(like)
