"""What a picture looks like without a network: gradients (HOG) and colours on grids; found by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from pydantic import Field

from ..data.manifest import Nature
from ..data.segments import cells_of_pixels
from ..data.video import Frame
from .base import RegionExtractor, RegionText, load_opencv, reduced_size, sample_evenly, with_settings
from .motion import direction_histograms

_DIRECTIONS = 9
_CLIP = 0.2  # the share of one direction in a block is limited, as in the source
_FLAT = 0.1  # a block with less gradient in all than this is taken for flat, so that noise is not blown up


@with_settings
class Appearance(RegionExtractor):
    """Describe a snippet by histograms of oriented gradients and by colours, averaged over a few of its frames.

    The gray picture is resized to ``8 * cells`` pixels a side (so it is the same at any resolution), cut into cells of
    8 x 8 pixels with 9 undirected gradient orientations each; every block of 2 x 2 cells is normalised (L2-Hys), and
    all blocks follow each other row by row. Then mean and standard deviation of red, green and blue in [0, 1] in each
    cell of a colour grid (seen at no more than 240 pixels a side). Both parts are
    divided by the square root of their number of blocks and of colour cells, to a comparable length.

    Args:
        frames_per_snippet: Frames evenly spaced in the snippet, in [1, 256].
        cells: (rows, columns) of HOG cells, each in [2, 64].
        colours: (rows, columns) of the colour grid, each in [1, 64].
        region: The part of the picture to look at, see ``Region.parse``: pixels outside get the mean colour of those inside, in
            each picture. None for the whole.

    Source:
        Dalal and Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005.

    Example:
        >>> Appearance().width, Appearance().columns()[-1]
        (684, 'colour_3_5_blue_deviation')
    """

    name: ClassVar[str] = "appearance"
    version: ClassVar[str] = "1"
    nature: ClassVar[Nature] = "direction"

    frames_per_snippet: int = Field(default=4, ge=1, le=256)
    cells: tuple[Annotated[int, Field(ge=2, le=64)], Annotated[int, Field(ge=2, le=64)]] = (4, 6)
    colours: tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]] = (4, 6)
    region: RegionText = None

    @property
    def width(self) -> int:
        """D = 36 (cell rows - 1)(cell columns - 1) + 6 colour cells."""
        rows, columns = self.cells
        return 4 * _DIRECTIONS * (rows - 1) * (columns - 1) + 6 * self.colours[0] * self.colours[1]

    def columns(self) -> tuple[str, ...]:
        """Name the D columns."""
        blocks = [f"gradient_{row}_{column}" for row in range(self.cells[0] - 1) for column in range(self.cells[1] - 1)]
        parts = [f"cell_{dy}_{dx}_{180 * n / _DIRECTIONS:g}" for dy in (0, 1) for dx in (0, 1) for n in range(_DIRECTIONS)]
        colours = [f"colour_{row}_{column}" for row in range(self.colours[0]) for column in range(self.colours[1])]
        facts = [f"{colour}_{fact}" for colour in ("red", "green", "blue") for fact in ("mean", "deviation")]
        gradients = tuple(f"{block}_{part}" for block in blocks for part in parts)
        return gradients + tuple(f"{colour}_{fact}" for colour in colours for fact in facts)

    def snippet(self, frames: Sequence[Frame], before: Frame | None) -> Float32[np.ndarray, " width"]:
        """Describe one snippet by D numbers, see the class."""
        pictures = self.pictures(sample_evenly(frames, self.frames_per_snippet))
        described = [np.concatenate([self._gradients(picture), self._colours(picture)]) for picture in pictures]
        return np.asarray(np.mean(described, axis=0), dtype=np.float32)

    def _gradients(self, image: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, " gradients"]:
        cv2 = load_opencv()
        rows, columns = self.cells
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        gray = cv2.resize(gray, (8 * columns, 8 * rows), interpolation=cv2.INTER_AREA).astype(np.float64)
        down, right = np.gradient(gray)
        place = (np.arctan2(down, right) % np.pi) * (_DIRECTIONS / np.pi)
        cell, size = cells_of_pixels(8 * rows, 8 * columns, rows, columns), np.hypot(down, right)
        sums = direction_histograms(place.ravel(), size.ravel(), cell, count=rows * columns, bins=_DIRECTIONS)
        return _normalised_blocks(sums.reshape(rows, columns, _DIRECTIONS))

    def _colours(self, image: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, " colours"]:
        cv2 = load_opencv()
        image = cv2.resize(image, reduced_size(image, 240), interpolation=cv2.INTER_AREA)
        rows, columns = self.colours
        cell = cells_of_pixels(image.shape[0], image.shape[1], rows, columns)
        pixels = np.maximum(np.bincount(cell, minlength=rows * columns), 1)
        facts = np.zeros((rows * columns, 6))
        for colour in range(3):
            values = image[..., colour].ravel() / 255.0
            mean = np.bincount(cell, weights=values, minlength=rows * columns) / pixels
            square = np.bincount(cell, weights=values**2, minlength=rows * columns) / pixels
            facts[:, 2 * colour] = mean
            facts[:, 2 * colour + 1] = np.sqrt(np.maximum(square - mean**2, 0.0))
        return np.asarray(facts.ravel() / np.sqrt(rows * columns))


def _normalised_blocks(cells: Float64[np.ndarray, "rows columns directions"]) -> Float64[np.ndarray, " gradients"]:
    """Normalise every 2 x 2 block of cells to length at most 1, clip, normalise again."""
    parts = [cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]]
    blocks = np.concatenate(parts, axis=-1).reshape(-1, 4 * cells.shape[-1])
    for limit in (_CLIP, np.inf):
        length = np.sqrt((blocks**2).sum(axis=1, keepdims=True) + _FLAT**2)
        blocks = np.minimum(blocks / length, limit)
    return np.asarray(blocks.ravel() / np.sqrt(len(blocks)))
