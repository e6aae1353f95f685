"""One video, decoded once: every extractor describes its snippets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from ..data.video import Frame, VideoReader
from ..errors import DataError, ParameterError
from .base import (
    Extractor,
    Features,
    FrameExtractor,
    SidecarExtractor,
    Snippet,
    TrackExtractor,
    check_row,
    iterate_snippets,
    seconds_of_spans,
    snippet_spans,
)
from .captions import captions_per_frame, read_captions

CaptionSource = Path | tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one pass over a video gave.

    Args:
        values: Features of the frame extractors by modality, (T, D), or (T, U, D + 1) with finer units.
        fps: Frames per second.
        times: Seconds of each frame after the first, (frames,).
        start: Seconds of the file's own clock at the first frame.
        problem: What is wrong with the file, or None; the frames before it are described all the same.
        notes: What is unusual about the file but handled.
        seconds: Time spent by modality, and ``"decode"``.
    """

    values: dict[str, Float32[np.ndarray, "snippets ..."]]
    fps: float
    times: Float64[np.ndarray, " frames"]
    start: float
    problem: str | None
    notes: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.times)

    def spans(self, snippet_frames: int, stride: int) -> Float64[np.ndarray, "snippets 2"]:
        """Seconds [start, end) of every snippet, (T, 2)."""
        return seconds_of_spans(snippet_spans(self.frames, snippet_frames, stride), self.times, self.fps)


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """The features of one video by modality, with its frames, rate and problem as in Decoded."""

    features: dict[str, Features]
    decoded: Decoded


def extract_video(
    path: str | Path,
    extractors: Mapping[str, Extractor],
    *,
    snippet_frames: int = 16,
    stride: int = 16,
    captions: str | Path | None = None,
) -> dict[str, Features]:
    """Describe one video by every extractor, as extract_dataset would; see describe_video for its frames and rate.

    Args:
        path: The video file.
        extractors: By modality.
        snippet_frames: Frames that a row describes.
        stride: Frames from one row to the next.
        captions: Its caption file, for extractors that read one.

    Raises:
        VideoError: Not a video.
        DataError: Captions missing or malformed, or an extractor gave NaN.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lego_fusion.scenes.render import render_scenes
        >>> from lego_fusion.extract.motion import Motion
        >>> with TemporaryDirectory() as folder:
        ...     scenes = render_scenes(folder, videos=2, frames=(20, 20), size=(64, 96), fps=10.0)
        ...     features = extract_video(scenes.videos[0].path, {"motion": Motion()})
        >>> features["motion"].values.shape, features["motion"].spans.round(3).tolist()
        ((2, 72), [[0.0, 1.6], [1.6, 2.0]])
    """
    return describe_video(path, extractors, snippet_frames=snippet_frames, stride=stride, captions=captions).features


def describe_video(
    path: str | Path,
    extractors: Mapping[str, Extractor],
    *,
    snippet_frames: int = 16,
    stride: int = 16,
    captions: str | Path | None = None,
    look: Callable[[Frame], object] | None = None,
) -> VideoFeatures:
    """As extract_video, with the video's frames, rate and problem; ``look`` also sees every frame, in the same pass."""
    path = Path(path)
    check_extractors(extractors)
    decoded = decode_video(path, frame_extractors(extractors), snippet_frames=snippet_frames, stride=stride, look=look)
    source = None if captions is None else Path(captions)
    values = describe_rest(path, extractors, decoded, source, snippet_frames=snippet_frames, stride=stride, where=str(path))
    spans = decoded.spans(snippet_frames, stride)
    return VideoFeatures({modality: Features(values[modality], spans) for modality in extractors}, decoded)


def decode_video(
    path: Path,
    extractors: Mapping[str, FrameExtractor],
    *,
    snippet_frames: int = 16,
    stride: int = 16,
    look: Callable[[Frame], object] | None = None,
) -> Decoded:
    """Decode a video once and let all frame extractors look at each snippet; with nothing that looks, only count its frames."""
    rows: dict[str, list[np.ndarray]] = {modality: [] for modality in extractors}
    seconds = dict.fromkeys(extractors, 0.0)
    times: list[float] = []
    started = time.perf_counter()
    with VideoReader(path) as reader:
        if not extractors and look is None:
            times = [moment for moment, _ in reader.decode()]
        else:
            frames = _noting_times(reader, times, look)
            for snippet in iterate_snippets(frames, snippet_frames, stride):
                for modality, row in describe_snippet(snippet, extractors, where=path.name, seconds=seconds).items():
                    rows[modality].append(row)
        seconds["decode"] = time.perf_counter() - started - sum(seconds.values())
        return Decoded(
            values={modality: np.stack(described) for modality, described in rows.items()},
            fps=round((len(times) - 1) / times[-1] if times[-1] > 0 else reader.declared_fps, 9),
            times=np.array(times, dtype=np.float64),
            start=reader.start,
            problem=reader.problem,
            notes=reader.notes,
            seconds=seconds,
        )


def describe_snippet(
    snippet: Snippet, extractors: Mapping[str, FrameExtractor], *, where: str, seconds: dict[str, float] | None = None
) -> dict[str, Float32[np.ndarray, ...]]:
    """The row of each modality for one snippet, of a file or of a running stream.

    Args:
        snippet: Its frames.
        extractors: By modality.
        where: Name of the video or stream, for errors.
        seconds: Gains the time spent by modality.

    Raises:
        DataError: If an extractor gave a row of the wrong shape, or NaN.
    """
    rows = {}
    for modality, extractor in extractors.items():
        before = time.perf_counter()
        row = extractor.snippet(snippet.frames, snippet.before)
        rows[modality] = _checked(extractor, row, f"{where}, modality '{modality}', row {snippet.index}")
        if seconds is not None:
            seconds[modality] += time.perf_counter() - before
    return rows


def _noting_times(reader: VideoReader, times: list[float], look: Callable[[Frame], object] | None) -> Iterator[Frame]:
    for frame in reader:
        times.append(frame.time)
        if look is not None:
            look(frame)
        yield frame


def check_extractors(extractors: Mapping[str, Extractor]) -> None:
    """Refuse what is not an extractor, and none at all."""
    if not extractors:
        raise ParameterError("no extractor given", fix="name at least one, for example motion")
    for name, one in extractors.items():
        if not isinstance(one, FrameExtractor | SidecarExtractor | TrackExtractor):
            expected = "a FrameExtractor, a SidecarExtractor or a TrackExtractor"
            raise ParameterError("not an extractor", where=name, expected=expected, got=type(one).__name__)


def frame_extractors(extractors: Mapping[str, Extractor]) -> dict[str, FrameExtractor]:
    """Those that look at pictures."""
    return {name: one for name, one in extractors.items() if isinstance(one, FrameExtractor)}


def describe_rest(
    path: Path,
    extractors: Mapping[str, Extractor],
    decoded: Decoded,
    captions: CaptionSource | None,
    *,
    snippet_frames: int,
    stride: int,
    where: str,
) -> dict[str, Float32[np.ndarray, "snippets ..."]]:
    """The features of a decoded video by modality: those that it has, and those of its captions and other tracks.

    Args:
        path: The video file.
        extractors: By modality; those that look at pictures are done.
        decoded: The video; its ``seconds`` gain the time spent by modality.
        captions: Its captions, for extractors that read them.
        snippet_frames: Frames that a row describes.
        stride: Frames from one row to the next.
        where: Name of the video, for errors in captions that are no file.

    Raises:
        DataError: If captions or the track are missing or malformed, or an extractor gave a wrong row.
    """
    values = dict(decoded.values)
    for modality, extractor in extractors.items():
        started = time.perf_counter()
        if isinstance(extractor, SidecarExtractor):
            values[modality] = _caption_rows(extractor, captions, decoded, snippet_frames, stride, where)
        elif isinstance(extractor, TrackExtractor):
            rows = extractor.rows(path, decoded.spans(snippet_frames, stride), decoded.start)
            values[modality] = _all_checked(extractor, rows, path.name)
        else:
            continue
        decoded.seconds[modality] = time.perf_counter() - started
    return values


def _caption_rows(
    extractor: SidecarExtractor, captions: CaptionSource | None, decoded: Decoded, snippet_frames: int, stride: int, where: str
) -> Float32[np.ndarray, "snippets ..."]:
    if captions is None:
        raise DataError("the video has no captions", where=where, fix=f"add a caption file, or leave out '{extractor.name}'")
    if isinstance(captions, Path):
        spoken, where = read_captions(captions, decoded, gaps=extractor.gaps), str(captions)
    else:
        spoken = captions_per_frame(captions, decoded.frames, where=where, gaps=extractor.gaps)
    try:
        rows = extractor.rows(spoken, decoded.frames, snippet_frames, stride)
    except DataError as error:
        place = where if error.where is None else f"{where}, {error.where}"
        raise DataError(error.what, where=place, expected=error.expected, got=error.got, fix=error.fix) from error
    return _all_checked(extractor, rows, where)


def _all_checked(extractor: Extractor, rows: Iterable[object], where: str) -> Float32[np.ndarray, "snippets ..."]:
    return np.stack([_checked(extractor, row, f"{where}, row {t}") for t, row in enumerate(rows)])


def _checked(extractor: Extractor, row: object, where: str) -> Float32[np.ndarray, ...]:
    units = None if extractor.unit_kind == "none" else extractor.units
    return check_row(row, width=extractor.width, units=units, where=where)
