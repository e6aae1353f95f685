"""What a video holds, counted by reading it: for the tests of what reads and writes videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lego_fusion.data.video import VideoReader


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What a video holds: its frames, their times after the first, its rate, its size, and what the reader said of it."""

    path: Path
    frames: int
    fps: float
    width: int
    height: int
    times: np.ndarray
    problem: str | None
    notes: tuple[str, ...]


def probe_video(path: str | Path) -> VideoInfo:
    """Read a video once and say what it holds; the rate is that of its times, or the declared one of a single frame."""
    times: list[float] = []
    height = width = 0
    with VideoReader(path) as reader:
        for frame in reader:
            if not times:
                height, width = frame.image.shape[:2]
            times.append(frame.time)
        fps = (len(times) - 1) / times[-1] if times[-1] > 0 else reader.declared_fps
        return VideoInfo(reader.path, len(times), fps, width, height, np.array(times), reader.problem, reader.notes)
