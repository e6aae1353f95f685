"""Pictures for a page: frames of videos, small, as data URIs."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..data.tables import VideoRecord
from ..data.video import VIDEO_SUFFIXES, VideoReader
from ..errors import MissingExtraError, VideoError
from ..why.records import HeatMap, Segment, VideoExplanation

Image = UInt8[np.ndarray, "h w 3"]
_LONGEST_SIDE, _QUALITY = 480, 82
_HEAT = np.array([213.0, 94.0, 0.0])  # Okabe and Ito's vermilion


@dataclass
class Pictures:
    """Frames of segments by segment, and what is missing and why.

    Args:
        images: Middle frame of each segment, RGB.
        notes: Why there is no picture of some, one line each.
    """

    images: dict[Segment, Image] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def uri(self, segment: Segment, heat: HeatMap | None = None, *, longest: int | None = None) -> str | None:
        """The picture of a segment as a data URI, with a heat map over it if one is given; None where there is none.

        Args:
            segment: Which.
            heat: Laid over it.
            longest: Most pixels of the longest side.
        """
        if segment not in self.images:
            return None
        image = self.images[segment]
        image = image if longest is None else _reduced(image, longest)
        return jpeg_uri(image if heat is None else overlay(image, heat))


def load_pictures(
    explanations: Iterable[VideoExplanation],
    records: Mapping[str, VideoRecord],
    folder: str | Path | None = None,
    *,
    on_video: Callable[[int, int], None] | None = None,
) -> Pictures:
    """Decode the middle frame of every segment that cards show, each video once.

    Args:
        explanations: What is to be shown.
        records: Videos of the dataset by name; the column ``source`` says where each lies.
        folder: Where the videos lie instead, as ``<video>.<suffix>``.
        on_video: Called with how many videos of how many are done.
    """
    wanted: dict[str, list[Segment]] = {}
    for explanation in explanations:
        for segment in explanation.shown_segments():
            if segment not in wanted.setdefault(segment.video, []):
                wanted[segment.video].append(segment)
    return read_pictures(wanted, {video: find_video(video, records.get(video), folder) for video in wanted}, on_video=on_video)


def read_pictures(
    wanted: Mapping[str, Sequence[Segment]],
    paths: Mapping[str, Path | None],
    *,
    on_video: Callable[[int, int], None] | None = None,
) -> Pictures:
    """Decode the middle frames of segments, each video once; what cannot be decoded is a note.

    Args:
        wanted: Segments by video.
        paths: Where each video lies; None where that is not known.
        on_video: Called with how many videos of how many are done.
    """
    pictures = Pictures()
    for number, (video, segments) in enumerate(wanted.items()):
        path = paths.get(video)
        if path is None:
            pictures.notes.append(f"no picture of {video}: its video file is not there")
        else:
            try:
                _decode(path, segments, pictures)
            except (VideoError, MissingExtraError) as error:
                pictures.notes.append(f"no picture of {video}: {error}")
        if on_video is not None:
            on_video(number + 1, len(wanted))
    return pictures


def find_video(video: str, record: VideoRecord | None, folder: str | Path | None = None) -> Path | None:
    """Where the file of a video lies, or None."""
    file = Path(record.file) if record is not None and record.file else None
    if folder is None:
        return file if file is not None and file.is_file() else None
    names = [f"{video}{suffix}" for suffix in VIDEO_SUFFIXES] + ([file.name] if file else [])
    return next((path for name in names if (path := Path(folder) / name).is_file()), None)


def overlay(image: Image, heat: HeatMap) -> Image:
    """Lay a grid over a picture: the nearer to 1 a cell's novelty, the more orange; where it is 0, the picture is as it was."""
    values = np.clip(np.asarray(heat.values, dtype=np.float64), 0.0, 1.0)
    rows = np.arange(image.shape[0]) * values.shape[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * values.shape[1] // image.shape[1]
    weight = 0.6 * values[rows][:, columns, None]
    return np.asarray(np.rint((1 - weight) * image + weight * _HEAT), dtype=np.uint8)


def jpeg_uri(image: Image) -> str:
    """A picture as a data URI, never larger than needed."""
    opencv = _opencv()
    ok, data = opencv.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [int(opencv.IMWRITE_JPEG_QUALITY), _QUALITY])
    if not ok:
        raise VideoError("a picture cannot be written as JPEG", got=f"{image.shape[1]} x {image.shape[0]} pixels")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _decode(path: Path, segments: Iterable[Segment], pictures: Pictures) -> None:
    wanted: dict[int, list[Segment]] = {}
    for segment in segments:
        wanted.setdefault(segment.middle, []).append(segment)
    with VideoReader(path) as reader:
        for frame in reader:
            for segment in wanted.pop(frame.index, ()):
                pictures.images[segment] = _reduced(frame.image)
            if not wanted:
                break
    for frame_number in wanted:
        pictures.notes.append(f"no picture of frame {frame_number}: {path.name} ends before it")


def _reduced(image: Image, longest: int = _LONGEST_SIDE) -> Image:
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    opencv = _opencv()
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(opencv.resize(image, size, interpolation=opencv.INTER_AREA))


def _opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video") from error
