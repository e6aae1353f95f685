"""How fast what moves where: dense optical flow as speed statistics and histograms, by snippet, by cell or by frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from pydantic import Field

from ..data.manifest import Nature, UnitKind
from ..data.segments import cells_of_pixels, with_presence
from ..data.video import Frame
from ..errors import DataError, ParameterError
from .base import RegionExtractor, RegionText, load_opencv, reduced_size, with_settings

STATISTICS = (
    "speed_rms",
    "speed_mean",
    "speed_q500",
    "speed_q900",
    "speed_q990",
    "speed_q999",
    "moving_fraction",
    "fastest_cell",
)
_SMALLEST_SIDE = 32  # DIS flow fails, or crashes, on pictures whose pyramid has nothing left at the top


def _gray(image: np.ndarray, size: tuple[int, int], cv2: Any) -> np.ndarray:
    """Reduce to (width, height) gray pixels; a narrow picture is continued by its border to what DIS can work on."""
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    least = max(_SMALLEST_SIDE, -(-max(size) // 4))
    right, bottom = max(0, least - size[0]), max(0, least - size[1])
    return np.ascontiguousarray(cv2.copyMakeBorder(gray, 0, bottom, 0, right, cv2.BORDER_REPLICATE))


@with_settings
class _Flow(RegionExtractor):
    """The speed of every pixel, and how it is spread over cells and directions; settings as ``Motion`` says."""

    nature: ClassVar[Nature] = "magnitude"

    longest_side: int = Field(default=360, ge=_SMALLEST_SIDE, le=1024)
    rows: int = Field(default=8, ge=1, le=64)
    across: int = Field(default=12, ge=1, le=64, alias="columns")  # ``columns`` names what a row holds
    bins: int = Field(default=8, ge=2, le=36)
    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    dead_zone: float = Field(default=0.2, ge=0.0, le=10.0)
    per: Literal["second", "frame"] = "second"
    region: RegionText = None

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.rows, self.across

    def moving(
        self, frames: Sequence[Frame], before: Frame | None
    ) -> tuple[Float32[np.ndarray, "pairs h w 2"], Float32[np.ndarray, "pairs h w"]]:
        """Flow, and the speed of every pixel in percent of the longer side per second, 0 below the dead zone and outside."""
        flow = self.flow(frames, before)
        speed: Float32[np.ndarray, "pairs h w"] = np.hypot(flow[..., 0], flow[..., 1])
        speed[speed < self.dead_zone] = 0.0
        if self.looked_at is not None:
            speed *= self.looked_at.inside(*speed.shape[1:])
        speed *= self._percent_per_unit(frames, before, max(flow.shape[1:3]))[:, None, None]
        return flow, speed

    def flow(self, frames: Sequence[Frame], before: Frame | None) -> Float32[np.ndarray, "pairs h w 2"]:
        """Estimate (u, v) in reduced pixels per pair, u to the right and v down, for each neighbouring pair of frames."""
        cv2 = load_opencv()
        size = reduced_size(frames[0].image, self.longest_side)
        grays = [_gray(picture, size, cv2) for picture in self.pictures((before, *frames) if before else frames)]
        flow = np.zeros((len(grays) - 1, size[1], size[0], 2), dtype=np.float32)
        estimator = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}"))
        for pair, (earlier, later) in enumerate(pairwise(grays)):
            flow[pair] = estimator.calc(earlier, later, None)[: size[1], : size[0]]
        return flow

    def _percent_per_unit(
        self, frames: Sequence[Frame], before: Frame | None, longer_side: int
    ) -> Float32[np.ndarray, " pairs"]:
        times = np.array([frame.time for frame in ((before, *frames) if before else frames)])
        gaps = np.diff(times)
        if self.per == "frame":
            gaps = np.ones_like(gaps)
        usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else np.inf  # no time at all: no speed
        return (100.0 / (longer_side * np.maximum(gaps, usual / 2))).astype(np.float32)

    def oriented_histograms(
        self, flow: Float32[np.ndarray, "pairs h w 2"], speed: Float32[np.ndarray, "pairs h w"]
    ) -> Float64[np.ndarray, "pairs rows columns bins"]:
        """Mean speed of every cell, split over the directions."""
        pairs, height, width = speed.shape
        cells = self.cells[0] * self.cells[1]
        pixel_cells = cells_of_pixels(height, width, *self.cells)
        moving = np.flatnonzero(speed > 0)  # few pixels move, and only they cost time
        pair, pixel = np.divmod(moving, height * width)
        u, v = flow.reshape(-1, 2)[moving].T
        place = np.arctan2(v, u).astype(np.float64) * (self.bins / (2 * np.pi))
        numbers = pair * cells + pixel_cells[pixel]
        sums = direction_histograms(place, speed.ravel()[moving], numbers, count=pairs * cells, bins=self.bins)
        pixels: np.ndarray = self.pixels_of_cells(height, width).reshape(*self.cells, 1)
        means: np.ndarray = sums.reshape(pairs, *self.cells, self.bins) / np.maximum(pixels, 1)
        return means

    def pixels_of_cells(self, height: int, width: int) -> Int64[np.ndarray, " cells"]:
        """How many pixels of a picture count in each cell, row by row."""
        cells = cells_of_pixels(height, width, *self.cells)
        if self.looked_at is not None:
            cells = cells[self.looked_at.inside(height, width).ravel()]
        counts: np.ndarray = np.bincount(cells, minlength=self.cells[0] * self.cells[1])
        return counts


@with_settings
class Motion(_Flow):
    """Describe a snippet by the optical flow between its neighbouring frames, the frame before it included.

    Flow is estimated by OpenCV's DIS on gray pictures whose longer side has at most ``longest_side`` pixels. A pixel
    that moves (u, v) reduced pixels in dt seconds has the speed ``100 |(u, v)| / (longer side * dt)``: **percent of the
    picture's longer side per second**, the same at any resolution and frame rate. Speeds below ``dead_zone`` reduced
    pixels per pair of frames count as 0: static texture with sensor noise of 4 grey levels of 255 measures 0.1, of 8
    measures 0.2 pixels (99 % quantile). An interval shorter than half the snippet's median (repeated time stamps)
    counts as half the median.

    The picture is cut into ``rows`` x ``columns`` cells, each with an oriented-flow histogram per pair of frames (speed,
    split linearly between the two nearest of ``bins`` directions, mean over the cell; direction 0 is to the right, the
    next ones turn clockwise on the screen), and into ``bands`` of rows: seen from above a walkway, a band is a distance
    from the camera. What moves along a band is the same event wherever it is, so cells are pooled over each band.

    Columns, in this order (``columns()`` names them): over all pixels and pairs, the root mean square speed (it ranks as the
    flow energy, the mean of its square, does), the mean speed, quantiles .5 .9 .99 .999, the fraction of moving pixels, and
    the speed of the fastest cell (mean over pairs); then for each band and direction the mean over its cells, and for
    each band and direction the largest of its cells (mean over pairs): a small fast object fills one cell, and a mean over
    the band would hide it. A video of one frame has no pair and gives zeros.

    With a ``region``, pixels outside get the mean colour of those inside, so that flow inside depends on nothing outside, and
    only pixels inside count, in every mean, quantile and cell; cells without one count in no band, and a band without one is 0.
    Flow within a few pixels of the edge is underestimated.

    Args:
        longest_side: Pixels of the longer side that flow is computed at, in [32, 1024]; pictures are never enlarged.
        rows: Cells from top to bottom, in [1, 64], a multiple of ``bands``.
        columns: Cells from left to right, in [1, 64].
        bands: Bands from top to bottom, in [1, 64].
        bins: Directions, in [2, 36].
        preset: DIS preset, ``"ultrafast"``, ``"fast"`` or ``"medium"``. The faster ones stop at a quarter of the
            resolution and lose objects of 20 pixels, such as a person far away; ``"medium"`` stops at half.
        dead_zone: Reduced pixels per pair of frames below which nothing moves, in [0, 10].
        per: ``"second"``, or ``"frame"`` where time stamps cannot be trusted (percent per frame then).
        region: The part of the picture to look at, see ``Region.parse``; None for the whole.

    Source:
        Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016; Chaudhry et al., Histograms of
        Oriented Optical Flow, CVPR 2009.

    Example:
        >>> Motion().width, Motion().columns()[0], Motion().columns()[8:10]
        (72, 'speed_rms', ('band_0_direction_0_mean', 'band_0_direction_45_mean'))
    """

    name: ClassVar[str] = "motion"
    version: ClassVar[str] = "2"

    bands: int = Field(default=4, ge=1, le=64)

    def __post_init__(self) -> None:
        if self.rows % self.bands:
            multiple = f"must be a multiple of bands={self.bands}"
            raise ParameterError(f"The 'rows' parameter of {type(self).__name__} {multiple}. Got {self.rows} instead")

    @property
    def width(self) -> int:
        """D = 8 + 2 bands bins."""
        return len(STATISTICS) + 2 * self.bands * self.bins

    def columns(self) -> tuple[str, ...]:
        """Name the D columns; bands count from the top, directions are degrees clockwise."""
        angles = [f"direction_{360 * place / self.bins:g}" for place in range(self.bins)]
        pooled = [f"band_{band}_{angle}" for band in range(self.bands) for angle in angles]
        return STATISTICS + tuple(f"{name}_{what}" for what in ("mean", "peak") for name in pooled)

    def snippet(self, frames: Sequence[Frame], before: Frame | None) -> Float32[np.ndarray, " width"]:
        """Describe one snippet by D numbers, see the class."""
        return self.describe(*self.moving(frames, before))

    def describe(
        self, flow: Float32[np.ndarray, "pairs h w 2"], speed: Float32[np.ndarray, "pairs h w"]
    ) -> Float32[np.ndarray, " width"]:
        """Describe some pairs of frames by D numbers; no pair gives zeros."""
        if len(flow) == 0:
            return np.zeros(self.width, dtype=np.float32)
        cells = self.oriented_histograms(flow, speed)  # (pairs, rows, columns, bins)
        banded = cells.reshape(len(cells), self.bands, -1, self.bins)
        means = banded.mean(axis=(0, 2))
        if self.looked_at is not None:
            counted = (self.pixels_of_cells(*speed.shape[1:]) > 0).reshape(self.bands, -1).sum(axis=1, keepdims=True)
            means *= banded.shape[2] / np.maximum(counted, 1)
            speed = speed[:, self.looked_at.inside(*speed.shape[1:])]
        statistics = [
            np.sqrt(np.square(speed, dtype=np.float64).mean()),
            speed.mean(dtype=np.float64),
            *np.quantile(speed, (0.5, 0.9, 0.99, 0.999)),
            np.count_nonzero(speed > 0) / speed.size,
            cells.sum(axis=3).max(axis=(1, 2)).mean(),
        ]
        pooled = [means, banded.max(axis=2).mean(axis=0)]
        return np.concatenate([statistics, *(part.ravel() for part in pooled)]).astype(np.float32)


CELL_STATISTICS = ("speed_rms", "speed_mean", "moving_fraction")


@with_settings
class MotionCells(_Flow):
    """Describe each cell of the picture by how fast what moves in it over the snippet.

    Flow, speeds (percent of the longer side per second) and settings are those of ``Motion``. A cell has the root mean square
    speed, the mean speed and the fraction of moving pixels, over its pixels and all pairs of frames, and the mean speed
    in each of ``bins`` directions. A cell in which nothing moves is zero and present; a cell without a pixel, in a picture
    smaller than the grid or outside the region, is absent. A video of one frame has no pair and gives zeros.

    Args:
        longest_side: As in ``Motion``.
        rows: Cells from top to bottom, in [1, 64].
        columns: Cells from left to right, in [1, 64].
        bins: Directions, in [2, 36].
        preset: As in ``Motion``.
        dead_zone: As in ``Motion``.
        per: As in ``Motion``.
        region: As in ``Motion``.

    Example:
        >>> MotionCells().units, MotionCells().width, MotionCells().row_shape
        (96, 11, (96, 12))
    """

    name: ClassVar[str] = "motion-cells"
    version: ClassVar[str] = "1"
    unit_kind: ClassVar[UnitKind] = "cell"

    @property
    def width(self) -> int:
        """D = 3 + bins."""
        return len(CELL_STATISTICS) + self.bins

    @property
    def units(self) -> int:
        """U = rows columns."""
        return self.grid[0] * self.grid[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.cells

    def snippet(self, frames: Sequence[Frame], before: Frame | None) -> Float32[np.ndarray, "units width_and_1"]:
        """Describe the cells of one snippet, row by row."""
        flow, speed = self.moving(frames, before)
        pairs, height, width = speed.shape
        cells = cells_of_pixels(height, width, *self.grid)
        pixels = self.pixels_of_cells(height, width)  # (U,)
        if pairs == 0:
            return with_presence(np.zeros((self.units, self.width)), pixels > 0)
        count = np.maximum(pixels, 1) * pairs
        flat = speed.reshape(pairs, -1).astype(np.float64)
        sums = [np.bincount(cells, part.sum(axis=0), minlength=self.units) for part in (flat**2, flat, flat > 0)]
        statistics = np.stack(sums, axis=1) / count[:, None]  # (U, 3)
        statistics[:, 0] = np.sqrt(statistics[:, 0])
        directions = self.oriented_histograms(flow, speed).mean(axis=0).reshape(self.units, -1)
        return with_presence(np.concatenate([statistics, directions], axis=1), pixels > 0)


@with_settings
class MotionFrames(Motion):
    """Describe each frame of a snippet by its flow from the frame before, as ``Motion`` describes a whole snippet.

    A last, partial snippet has fewer frames and the first frame of a video has none before it: their units are absent.

    Args:
        frames: U, frames that a snippet holds at most, in [1, 1024].
        longest_side: As in ``Motion``.
        rows: As in ``Motion``.
        columns: As in ``Motion``.
        bands: As in ``Motion``.
        bins: As in ``Motion``.
        preset: As in ``Motion``.
        dead_zone: As in ``Motion``.
        per: As in ``Motion``.
        region: As in ``Motion``.

    Example:
        >>> MotionFrames(frames=8).row_shape
        (8, 73)
    """

    name: ClassVar[str] = "motion-frames"
    version: ClassVar[str] = "1"
    unit_kind: ClassVar[UnitKind] = "frame"

    frames: int = Field(default=16, ge=1, le=1024)

    @property
    def units(self) -> int:
        """U, frames of a whole snippet."""
        return self.frames

    def snippet(self, frames: Sequence[Frame], before: Frame | None) -> Float32[np.ndarray, "units width_and_1"]:
        """Describe the frames of one snippet, in order.

        Raises:
            DataError: The snippet holds more frames than there are units.
        """
        if len(frames) > self.frames:
            fix = f"use MotionFrames(frames={len(frames)})"
            raise DataError(
                "a snippet holds more frames than units", expected=f"at most {self.frames}", got=len(frames), fix=fix
            )
        flow, speed = self.moving(frames, before)
        first = len(frames) - len(flow)  # 1 at the start of a video
        values, present = np.zeros((self.frames, self.width), dtype=np.float32), np.zeros(self.frames, dtype=bool)
        for pair in range(len(flow)):
            values[first + pair] = self.describe(flow[pair : pair + 1], speed[pair : pair + 1])
        present[first : len(frames)] = True
        return with_presence(values, present)


def direction_histograms(
    places: Float[np.ndarray, " points"],
    weights: Float[np.ndarray, " points"],
    cells: Int64[np.ndarray, " points"],
    *,
    count: int,
    bins: int,
) -> Float64[np.ndarray, "count bins"]:
    """Sum weights by cell and direction, each split linearly between the two directions nearest to it.

    Args:
        places: Direction of each point, in bins from that of number 0.
        weights: Of each point.
        cells: Number of its cell.
        count: Cells.
        bins: Directions of a full turn.

    Example:
        >>> direction_histograms(np.array([3.75]), np.array([8.0]), np.array([0]), count=1, bins=4).tolist()
        [[6.0, 0.0, 0.0, 2.0]]
    """
    low = np.floor(places).astype(np.int64)
    share = places - low  # of the next direction
    sums = np.zeros(count * bins)
    for direction, part in ((low, 1 - share), (low + 1, share)):
        sums += np.bincount(cells * bins + direction % bins, weights * part, minlength=len(sums))
    return sums.reshape(count, bins)
