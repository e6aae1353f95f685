"""Where units are most active: exact thresholds of their upsampled maps, and the pixels above, in one pass over most maps.

A bilinear map is nowhere above the largest value of the map it was made from, so only maps that reach a bound just below
the threshold are upsampled at all. The bound is a guess from a sample of the pixels; where it was too high, which the number
of pixels above it shows, the unit is done again without one. The guess thus costs or saves time and never changes a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        top = TopValues(len(again), kept + 1)
        for _, rows in rest.batches():
            for piece in rows:
                top.add(rest.upsampled(piece)[None])
        thresholds[again] = top.smallest()
        places = torch.tensor(again)
        parts += [replace(part, units=places[part.units]) for part in _above(rest, thresholds[again])]
    return thresholds, parts


def guessed_bounds(sample: Float[Tensor, "k s"], share: float) -> Float[Tensor, " k"]:
    """Of each unit the value that somewhat more than a share of its sampled values lie above."""
    count = sample.shape[1]
    above = min(count, int(np.ceil(_MARGIN * share * count + 4 * np.sqrt(share * count) / 2 + 1)))
    return sample.topk(above, dim=1, sorted=False).values.amin(1)


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
