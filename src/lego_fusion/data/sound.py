"""The sound of a video as samples with times: one track, mixed to one channel, at the rate that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ..errors import VideoError, check_int
from .video import open_video

# A time stamp this far from where the samples before it end is a gap or a jump; less is rounding of the container.
_JUMP = 0.05


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples without a gap.

    Args:
        start: Seconds of the file's own clock at the first sample.
        samples: Between -1 and 1 unless the encoder went beyond, (samples,).
    """

    start: float
    samples: Float32[np.ndarray, " samples"]


def read_sound(path: str | Path, rate: int = 16_000) -> list[Sound] | None:
    """Decode the first audio track of a video file.

    Packets that do not decode are left out, and so is everything after the place where the file cannot be read on.

    Args:
        path: A local video file.
        rate: Samples per second.

    Returns:
        The track in pieces, a new one after every gap or jump of over 50 ms; None where the file has no audio track.

    Raises:
        VideoError: Not a video, or no sample of its track decodes.
    """
    path = Path(path)
    check_int(rate, "rate", "read_sound", low=1)
    container, _, av_error = open_video(path)
    with container:
        if not container.streams.audio:
            return None
        pieces = list(_pieces(container, av_error, rate))
    if not pieces:
        raise VideoError("no sound of the audio track decodes", where=path, fix="copy or convert the video again")
    return pieces


def _pieces(container: Any, av_error: Any, rate: int) -> Iterator[Sound]:
    resampler, start, seconds = None, 0.0, 0.0
    parts: list[np.ndarray] = []
    for frame in _frames(container, av_error):
        time = start + seconds if frame.time is None else float(frame.time)
        if resampler is None or abs(time - (start + seconds)) > _JUMP:
            yield from _finished(resampler, parts, start)
            resampler, parts, start, seconds = _resampler(rate), [], time, 0.0
        seconds += frame.samples / frame.sample_rate
        frame.pts = None  # times are kept here
        parts += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    yield from _finished(resampler, parts, start)


def _finished(resampler: Any, parts: list[np.ndarray], start: float) -> Iterator[Sound]:
    if resampler is None:
        return
    samples = np.concatenate([*parts, *(piece.to_ndarray()[0] for piece in resampler.resample(None)), np.zeros(0, np.float32)])
    if len(samples):
        yield Sound(start, np.nan_to_num(samples.astype(np.float32), posinf=0.0, neginf=0.0))


def _resampler(rate: int) -> Any:
    import av

    return av.AudioResampler(format="flt", layout="mono", rate=rate)


def _frames(container: Any, av_error: Any) -> Iterator[Any]:
    stream = container.streams.audio[0]
    try:
        for packet in container.demux(stream):
            try:
                yield from stream.decode(packet)
            except av_error:
                continue
    except av_error:
        return
