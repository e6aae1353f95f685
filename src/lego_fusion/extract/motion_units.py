"""Motion in finer units than a snippet: by cell of the picture, and by single frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float32
from pydantic import JsonValue

from ..data.manifest import Nature, UnitKind
from ..data.units import cells_of_pixels, with_presence
from ..data.video import Frame
from ..errors import DataError, check_int
from .base import FrameExtractor
from .motion import Motion

CELL_STATISTICS = ("speed_rms", "speed_mean", "moving_fraction")


class MotionCells(FrameExtractor):
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
    nature: ClassVar[Nature] = "magnitude"
    unit_kind: ClassVar[UnitKind] = "cell"

    def __init__(
        self,
        *,
        longest_side: int = 360,
        rows: int = 8,
        columns: int = 12,
        bins: int = 8,
        preset: str = "medium",
        dead_zone: float = 0.2,
        per: str = "second",
        region: str | None = None,
    ) -> None:
        self._motion = Motion(
            longest_side=longest_side,
            rows=rows,
            columns=columns,
            bands=1,
            bins=bins,
            preset=preset,
            dead_zone=dead_zone,
            per=per,
            region=region,
        )

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Everything that was chosen and changes the numbers."""
        return {name: value for name, value in self._motion.settings.items() if name != "bands"}

    @property
    def width(self) -> int:
        """D = 3 + bins."""
        return len(CELL_STATISTICS) + self._motion.bins

    @property
    def units(self) -> int:
        """U = rows columns."""
        return self.grid[0] * self.grid[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self._motion.cells

    def snippet(self, frames: Sequence[Frame], before: Frame | None) -> Float32[np.ndarray, "units width_and_1"]:
        """Describe the cells of one snippet, row by row."""
        flow = self._motion.flow(frames, before)
        speed = self._motion.speed(flow, frames, before)
        pairs, height, width = speed.shape
        cells = cells_of_pixels(height, width, *self.grid)
        pixels = self._motion.pixels_of_cells(height, width)  # (U,)
        if pairs == 0:
            return with_presence(np.zeros((self.units, self.width)), pixels > 0)
        count = np.maximum(pixels, 1) * pairs
        flat = speed.reshape(pairs, -1).astype(np.float64)
        sums = [np.bincount(cells, part.sum(axis=0), minlength=self.units) for part in (flat**2, flat, flat > 0)]
        statistics = np.stack(sums, axis=1) / count[:, None]  # (U, 3)
        statistics[:, 0] = np.sqrt(statistics[:, 0])
        directions = self._motion.oriented_histograms(flow, speed).mean(axis=0).reshape(self.units, -1)
        return with_presence(np.concatenate([statistics, directions], axis=1), pixels > 0)


class MotionFrames(FrameExtractor):
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
    nature: ClassVar[Nature] = "magnitude"
    unit_kind: ClassVar[UnitKind] = "frame"

    def __init__(
        self,
        *,
        frames: int = 16,
        longest_side: int = 360,
        rows: int = 8,
        columns: int = 12,
        bands: int = 4,
        bins: int = 8,
        preset: str = "medium",
        dead_zone: float = 0.2,
        per: str = "second",
        region: str | None = None,
    ) -> None:
        self.frames = check_int(frames, "frames", "MotionFrames", low=1, high=1024)
        self._motion = Motion(
            longest_side=longest_side,
            rows=rows,
            columns=columns,
            bands=bands,
            bins=bins,
            preset=preset,
            dead_zone=dead_zone,
            per=per,
            region=region,
        )

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Everything that was chosen and changes the numbers."""
        return {"frames": self.frames, **self._motion.settings}

    @property
    def width(self) -> int:
        """D, as of ``Motion``."""
        return self._motion.width

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
        flow = self._motion.flow(frames, before)
        speed = self._motion.speed(flow, frames, before)
        first = len(frames) - len(flow)  # 1 at the start of a video
        values, present = np.zeros((self.frames, self.width), dtype=np.float32), np.zeros(self.frames, dtype=bool)
        for pair in range(len(flow)):
            values[first + pair] = self._motion.describe(flow[pair : pair + 1], speed[pair : pair + 1])
        present[first : len(frames)] = True
        return with_presence(values, present)
