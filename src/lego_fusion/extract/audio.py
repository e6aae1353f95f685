"""How loud what pitch is: log-mel energies of a video's sound, read as one track at one rate; found by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from pydantic import Field
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from ..data.manifest import Nature
from ..data.video import open_video
from ..errors import DataError, VideoError, check_int
from .base import TrackExtractor, with_settings

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


RATE = 16_000  # samples per second
HOP = 160  # 10 ms
WINDOW = 400  # 25 ms
_BINS = 1024  # of the Fourier transform: fine enough that the narrowest band has a bin
_FLOOR = 1e-8  # mean square that counts as silence, -80 dB
_SLACK = 0.1  # seconds that the track may lack at a short last snippet: encoders work in blocks


@with_settings
class Audio(TrackExtractor):
    """Describe a snippet by the mean and the standard deviation, over its time, of the energy in mel bands, in decibels.

    The first audio track is mixed to one channel at 16 kHz and cut into Hann windows of 25 ms, one every 10 ms from the first
    frame of the video on. With P(f) the power spectrum of a window, whose sum is its mean square, and H_j the j-th triangle of
    ``mel_filter_bank``, E_j = 10 log10(sum_f H_j(f) P(f) + 1e-8): 0 dB is a mean square of 1, silence is -80 dB.

    A window belongs to the snippet in whose time [start of its first frame, start of the frame after its last) it is centred,
    and counts only if it lies wholly inside the track. A snippet of at most 0.1 s without such a window (shorter than 10 ms, or
    at the very edge of the track) takes the nearest one that is at most 0.1 s away; otherwise ``gaps`` decides.

    Columns: the means of the bands from low to high, then their standard deviations.

    Args:
        bands: Mel bands between 0 and 8,000 Hz, in [8, 128].
        gaps: A snippet without sound (no track, one that starts late or ends early, a hole) is an ``"error"``, or
            ``"silence"``: -80 dB in all bands.

    Source:
        Stevens, Volkmann and Newman, A Scale for the Measurement of the Psychological Magnitude Pitch, 1937; the formula of
        the scale and the triangles are those of the HTK Book.

    Example:
        >>> Audio().width, Audio(bands=8).columns()[0], Audio(bands=8).columns()[-1]
        (128, 'band_226_hz_mean', 'band_5875_hz_deviation')
    """

    name: ClassVar[str] = "audio"
    version: ClassVar[str] = "1"
    nature: ClassVar[Nature] = "magnitude"  # decibels have no natural zero to take directions from

    bands: int = Field(default=64, ge=8, le=128)
    gaps: Literal["error", "silence"] = "error"

    @property
    def width(self) -> int:
        """D = 2 bands."""
        return 2 * self.bands

    def columns(self) -> tuple[str, ...]:
        """Name the D columns by the centre of their band."""
        names = [f"band_{centre:.0f}_hz" for centre in mel_centres(self.bands)]
        return tuple(f"{name}_{what}" for what in ("mean", "deviation") for name in names)

    def rows(self, path: Path, spans: Float64[np.ndarray, "snippets 2"], start: float) -> Float32[np.ndarray, "snippets width"]:
        """Describe the sound of every snippet, see the class.

        Args:
            path: The video file.
            spans: Seconds [start, end) of each snippet after the first frame, (T, 2).
            start: Seconds of the file's clock at the first frame.

        Raises:
            DataError: There is no sound for a snippet, and ``gaps`` is ``"error"``.
        """
        track = read_sound(path, RATE)
        if track is None and self.gaps == "error":
            fix = "leave the modality out, or choose gaps=silence"
            raise DataError("the video has no audio track", where=path.name, expected="sound", fix=fix)
        silence = np.append(np.full(self.bands, 10 * math.log10(_FLOOR)), np.zeros(self.bands))
        samples, inside = _timeline(track or [], float(spans[-1, 1]), start)
        rows = np.tile(silence, (len(spans), 1))
        for row, (begin, end) in enumerate(spans):
            windows = _windows_of(begin, end, inside)
            if len(windows):
                energy = self._energy(samples, windows)
                rows[row] = np.append(energy.mean(axis=0), energy.std(axis=0))
            elif self.gaps == "error":
                raise DataError(
                    "there is no sound for a part of the video",
                    where=f"{path.name}, {begin:.2f} to {end:.2f} s",
                    expected="an audio track as long as the video",
                    got=_extent(track or [], start),
                    fix="choose gaps=silence, or leave the modality out",
                )
        return rows.astype(np.float32)

    def _energy(
        self, samples: Float64[np.ndarray, " samples"], windows: Int64[np.ndarray, " windows"]
    ) -> Float64[np.ndarray, "windows bands"]:
        first, last = int(windows[0]), int(windows[-1])
        power = self._transform.spectrogram(samples, p0=first, p1=last + 1)[:, windows - first]  # (bins, windows)
        mean_square = power.T * (RATE / _BINS) @ mel_filter_bank(self.bands).T
        return np.asarray(10 * np.log10(mean_square + _FLOOR))

    @cached_property
    def _transform(self) -> Any:
        return ShortTimeFFT(hann(WINDOW, sym=False), HOP, RATE, fft_mode="onesided2X", mfft=_BINS, scale_to="psd")


def mel_centres(bands: int, high: float = RATE / 2) -> Float64[np.ndarray, " bands"]:
    """Centres of bands that are equally spaced on the mel scale m(f) = 2595 log10(1 + f / 700) between 0 Hz and ``high``.

    Example:
        >>> mel_centres(3).round().tolist()
        [614.0, 1768.0, 3934.0]
    """
    return np.asarray(_hertz(np.linspace(0, _mel(high), bands + 2))[1:-1])


def mel_filter_bank(bands: int, bins: int = _BINS, rate: int = RATE) -> Float64[np.ndarray, "bands frequencies"]:
    """Weights of the frequencies k rate / bins in every mel band: triangles over the mel scale that overlap by half.

    H_j(f) = max(0, 1 - |m(f) - m_j| / d), d the distance of two centres m_j: 1 at the centre of the band, 0 from the centres
    of its neighbours on. Between the first and the last centre the weights of a frequency add up to 1.

    Args:
        bands: Number of bands.
        bins: Points of the Fourier transform.
        rate: Samples per second.

    Example:
        >>> mel_filter_bank(3, bins=16).round(2)[:, 2:6]
        array([[0.  , 0.  , 0.  , 0.  ],
               [0.86, 0.36, 0.  , 0.  ],
               [0.14, 0.64, 0.98, 0.67]])
    """
    frequencies = np.arange(bins // 2 + 1) * rate / bins
    step = _mel(rate / 2) / (bands + 1)
    centres = step * np.arange(1, bands + 1)
    return np.asarray(np.maximum(0.0, 1 - np.abs(_mel(frequencies) - centres[:, None]) / step))


def _mel(hertz: Any) -> Any:
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def _hertz(mel: Any) -> Any:
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


def _timeline(
    track: list[Sound], seconds: float, start: float
) -> tuple[Float64[np.ndarray, " samples"], Bool[np.ndarray, " windows"]]:
    """Samples from the first frame to the end of the video, and which windows lie wholly inside a piece of the track."""
    windows = math.ceil((seconds + _SLACK) * RATE / HOP)
    samples, inside = np.zeros(windows * HOP + WINDOW), np.zeros(windows, dtype=np.bool_)
    for piece in track:
        first = round((piece.start - start) * RATE)
        end = min(first + len(piece.samples), len(samples))
        begin = max(first, 0)
        if begin >= end:
            continue
        samples[begin:end] = piece.samples[begin - first : end - first]
        whole = (-(-(begin + WINDOW // 2) // HOP), (end - WINDOW // 2) // HOP + 1)
        inside[whole[0] : max(whole)] = True
    return samples, inside


def _windows_of(begin: float, end: float, inside: Bool[np.ndarray, " windows"]) -> Int64[np.ndarray, " own"]:
    """Numbers of the windows centred in [begin, end) seconds; of a short span without any, the nearest within reach."""
    there = np.flatnonzero(inside).astype(np.int64)
    centres = there * HOP / RATE
    own = there[(centres >= begin - 1e-9) & (centres < end - 1e-9)]
    if len(own) or not len(there) or end - begin > _SLACK:
        return own
    away = np.maximum(begin - centres, centres - end)
    return there[[int(away.argmin())]] if away.min() <= _SLACK else own


def _extent(track: list[Sound], start: float) -> str:
    if not track:
        return "no audio track"
    return ", ".join(f"sound from {s.start - start:.2f} to {s.start - start + len(s.samples) / RATE:.2f} s" for s in track[:5])
