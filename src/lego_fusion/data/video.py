"""Videos as frames with times: local files only, decoded by PyAV in presentation order, faults said in words."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..errors import DataError, VideoError, load_package

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".ts")
MAXIMUM_SIDE = 16_384
MAXIMUM_PIXELS = 100_000_000
_JUMP_SECONDS = 1.0
_NO_PICTURE = np.zeros((1, 1, 3), dtype=np.uint8)
# Playlists and concatenation scripts, which name other files, are not among these, whatever the suffix says.
_CONTAINER_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpegts,mpeg,mpegvideo,h264,hevc,m4v,asf,flv,ogg,gif,wav,mp3,aac,flac"
)
_FORMATS_OF_FIRST_BYTES = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Args:
        index: Place in presentation order, from 0.
        time: Seconds after the first frame, from the presentation time stamp; never decreases.
        image: RGB, (h, w, 3) uint8.
    """

    index: int
    time: float
    image: UInt8[np.ndarray, "h w 3"]


def is_video_file(path: str | Path) -> bool:
    """Say by its suffix whether a path names a video; hidden files do not count.

    Example:
        >>> is_video_file("street.MP4"), is_video_file("street.json"), is_video_file("._street.mp4")
        (True, False, False)
    """
    path = Path(path)
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def find_videos(folder: str | Path) -> list[Path]:
    """List the videos directly inside a folder, sorted by name.

    Raises:
        DataError: Not a folder, no video in it, or two videos whose names differ only in the suffix.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("not a folder of videos", where=folder, got=_kind_of_path(folder), fix="give an existing folder")
    videos = sorted(path for path in folder.iterdir() if path.is_file() and is_video_file(path))
    if not videos:
        suffixes = " ".join(VIDEO_SUFFIXES)
        raise DataError("no videos in the folder", where=folder, expected=f"files ending in {suffixes}", got="none")
    first_of_stem: dict[str, Path] = {}
    for path in videos:
        first = first_of_stem.setdefault(path.stem, path)
        if first is not path:
            raise DataError(
                "two videos share one name",
                where=folder,
                expected="names that differ before the suffix",
                got=f"{first.name} and {path.name}",
                fix="rename or remove one of them",
            )
    return videos


class VideoReader:
    """Iterate over the frames of a video in presentation order, holding a few frames in memory at a time.

    A damaged file is read as far as it goes: after the last frame ``problem`` says in words what is wrong (None for a
    sound file) and ``notes`` what was unusual but handled. Frames are turned upright where the file says how.

    Args:
        path: A local video file.
        first_picture: Frames before this one are decoded and timed, but not turned into pictures: theirs is one black pixel.

    Raises:
        VideoError: Not a local file, not a video, no video track, larger than 16,384 pixels a side or 100 megapixels,
            or (while iterating) not one frame can be decoded.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lego_fusion.scenes.render import render_scenes
        >>> with TemporaryDirectory() as folder:
        ...     scenes = render_scenes(folder, videos=2, frames=(16, 16), size=(64, 96))
        ...     with VideoReader(scenes.videos[0].path) as reader:
        ...         times = [frame.time for frame in reader]
        >>> times[:3], reader.frames_read, reader.problem
        ([0.0, 0.1, 0.2], 16, None)
    """

    def __init__(self, path: str | Path, *, first_picture: int = 0) -> None:
        self.path = Path(path)
        self.first_picture = first_picture
        self.frames_read = 0
        self.problem: str | None = None
        self._notes: dict[str, str] = {}
        self._size: tuple[int, int] | None = None
        self._damaged = _Fault("frame", "damaged and patched by the decoder")
        self._undecodable = _Fault("packet", "not decodable")
        self._container, self._stream, self._av_error = open_video(self.path)
        # An AVI numbers its frames as they are stored: the k-th frame shown has the k-th time.
        self._stored_stamps: deque[int | None] | None = deque() if self._container.format.name == "avi" else None
        self._clock = FrameClock(declared_rate(self._stream), unit=float(self._stream.time_base))
        self._frames = self._read()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about the file but handled."""
        return (*self._notes.values(), *self._clock.notes())

    @property
    def start(self) -> float:
        """When the first frame is shown, in seconds of the file's own clock, which its sound follows too."""
        return (self._clock.zero or 0.0) * self._clock.unit

    @property
    def declared_fps(self) -> float:
        """Frames per second that the file declares."""
        return self._clock.rate

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> VideoReader:
        return self

    def __next__(self) -> Frame:
        return next(self._frames)

    def close(self) -> None:
        """Stop reading and close the file."""
        self._frames.close()
        self._container.close()

    def _read(self) -> Generator[Frame]:
        for index, (time, decoded) in enumerate(self.decode()):
            yield Frame(index, time, _NO_PICTURE if index < self.first_picture else upright_picture(decoded))

    def decode(self) -> Iterator[tuple[float, Any]]:
        """Yield (time, PyAV frame) without converting pictures: for counting."""
        seconds = 0.0
        for decoded in self._decoded():
            time = self._clock.read(self._stored_stamps.popleft() if self._stored_stamps else decoded.pts)
            self._look_at(decoded)
            self.frames_read += 1
            seconds = time + (decoded.duration * self._clock.unit if decoded.duration else 1 / self._clock.rate)
            yield time, decoded
        if self.frames_read == 0:
            what = _what_it_is(self.path)
            raise VideoError("no frame of the video decodes", where=self.path, got=what, fix="copy or convert it again")
        self._damaged.report(self._add_problem)
        self._undecodable.report(self._add_problem)
        self._compare_with_declared(seconds)

    def _decoded(self) -> Iterator[Any]:
        """Yield PyAV frames; a packet that does not decode is skipped, a file that cannot be read on ends the video."""
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except self._av_error:
                self._undecodable.count(self._last_position())
                continue
            if self._stored_stamps is not None and packet is not None and packet.size:
                self._stored_stamps.append(packet.pts)
            yield from frames

    def _packets(self) -> Iterator[Any]:
        """Yield PyAV packets; the last is empty, or None, and makes the decoder hand over what it still holds."""
        try:
            yield from self._container.demux(self._stream)
        except self._av_error as error:
            self._add_problem(f"reading stops {self._last_position()}: {error.strerror}")
            yield None

    def _look_at(self, decoded: Any) -> None:
        """Note what is unusual about a frame."""
        size = (decoded.width, decoded.height)
        if size != self._size:
            refuse_absurd_size(self.path, *size)
            if self._size is not None:
                self._notes.setdefault("size", f"the size changes at frame {self.frames_read} to {size[0]} x {size[1]}")
            self._size = size
        rotation = int(decoded.rotation)
        if rotation:
            done = "not applied" if rotation % 90 else "applied"
            self._notes.setdefault("rotation", f"rotation by {rotation} degrees counter-clockwise asked for, {done}")
        if decoded.is_corrupt:
            self._damaged.count(self._position(self.frames_read, self._clock.last))

    def _compare_with_declared(self, seconds: float) -> None:
        declared = _declared_seconds(self._container, self._stream)
        tolerance = (1.5 if "matroska" in self._container.format.name else 0.6) / self._clock.rate
        if declared is not None and seconds < declared - tolerance:
            frames = f" and {self._stream.frames} frames" if self._stream.frames else ""
            self._add_problem(f"the video ends early, {self._last_position()}; the file declares {declared:.2f} s{frames}")

    def _add_problem(self, problem: str) -> None:
        self.problem = problem if self.problem is None else f"{self.problem}; {problem}"

    def _last_position(self) -> str:
        if self.frames_read == 0:
            return "before the first frame"
        return "after " + self._position(self.frames_read - 1, self._clock.last)

    @staticmethod
    def _position(index: int, time: float) -> str:
        return f"frame {index} at {time:.2f} s"


class _Fault:
    """Count a kind of fault and remember where it was met first."""

    def __init__(self, thing: str, what: str) -> None:
        self.thing, self.what, self.number, self.first = thing, what, 0, ""

    def count(self, position: str) -> None:
        self.number += 1
        self.first = self.first or position

    def report(self, to: Callable[[str], None]) -> None:
        if self.number:
            to(f"{_count(self.number, self.thing)} {self.what}, the first {self.first}")


class FrameClock:
    """Turn the time stamps of frames into seconds that never fall, whatever the stamps do.

    A stamp may be missing, repeat or go back: a missing one is placed by the rate, one before the last is moved up to it. The
    stamps of a stream may also leap by hours, when a camera sets its clock: after a leap, forward or back, of more than a
    second that no clock of this machine has seen pass, time goes on from where it was.

    Args:
        rate: Frames per second where stamps are missing.
        unit: Seconds of one tick.
        start: Seconds of the first frame.
    """

    def __init__(self, rate: float, *, unit: float, start: float = 0.0) -> None:
        self.rate, self.unit, self.start = rate, unit, start
        self.last, self._arrived, self._index = start, 0.0, -1
        self.zero: float | None = None  # the stamp of second 0
        self.counts = dict.fromkeys(("missing", "repeated", "backwards", "leaps"), 0)

    def read(self, stamp: int | None, arrived: float | None = None) -> float:
        """Seconds of a frame.

        Args:
            stamp: In ticks; None where the frame has none.
            arrived: When it came, in seconds of a monotonic clock; None in a file, which does not leap.
        """
        self._index += 1
        time = self._without_stamp() if stamp is None else self._of_stamp(stamp, arrived)
        if self._index and time <= self.last:
            self.counts["repeated" if time == self.last else "backwards"] += 1
            time = self.last
        self.last, self._arrived = time, arrived or 0.0
        return time

    def _without_stamp(self) -> float:
        self.counts["missing"] += 1
        return self.start + self._index / self.rate if self.zero is None else self.last + 1 / self.rate

    def _of_stamp(self, stamp: int, arrived: float | None) -> float:
        frame = 1 / self.rate
        if self.zero is None:
            self.zero = stamp - (self.start + self._index / self.rate) / self.unit
        time = (stamp - self.zero) * self.unit
        if arrived is None or not self._index:
            return time
        step, passed, longest = time - self.last, arrived - self._arrived, max(_JUMP_SECONDS, 5 * frame)
        if -longest <= step <= passed + longest:
            return time
        self.counts["leaps"] += 1
        time = self.last + max(frame, passed if step > 0 else 0.0)
        self.zero = stamp - time / self.unit
        return time

    def notes(self) -> tuple[str, ...]:
        """What was unusual, in words."""
        words = {
            "missing": ("frame", f"without a time stamp, placed by the rate of {self.rate:g} frames/s"),
            "repeated": ("frame", "with the time stamp of the frame before"),
            "backwards": ("frame", "with a time stamp before the last, moved up to it"),
            "leaps": ("leap", "of the stream's clock; time goes on from where it was"),
        }
        return tuple(f"{_count(self.counts[kind], thing)} {what}" for kind, (thing, what) in words.items() if self.counts[kind])


def open_video(path: Path) -> tuple[Any, Any, Any]:
    """Open a local file, pick its video stream and name PyAV's error; no other file or address can be reached from it.

    Raises:
        VideoError: As VideoReader.
    """
    av = load_package("av", extra="video")
    if not path.is_file():
        raise VideoError("not a video file", where=path, got=_kind_of_path(path), fix="give a local video file")
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINER_FORMATS}
    try:
        container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        what = _what_it_is(path)
        raise VideoError("not a video that can be read", where=path, got=what, fix="copy or convert it again") from error
    moving = [stream for stream in container.streams.video if not _is_cover_picture(av, stream)]
    if not moving:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no"
        container.close()
        raise VideoError("the file has no video track", where=path, got=f"{kinds} tracks only", fix="give a video")
    stream = moving[0]
    try:
        refuse_absurd_size(path, stream.codec_context.width, stream.codec_context.height)
    except VideoError:
        container.close()
        raise
    prepare_decoder(stream)
    return container, stream, av.FFmpegError


def prepare_decoder(stream: Any) -> None:
    """Decode a stream in a way that does not depend on chance, and refuses pictures of an absurd size."""
    stream.thread_type = "SLICE"  # with frame threads, which frames are marked as damaged is left to chance
    stream.codec_context.options = {"max_pixels": str(MAXIMUM_PIXELS)}


def declared_rate(stream: Any) -> float:
    """Frames per second that a stream declares; 25 where it does not."""
    return float(stream.guessed_rate or stream.average_rate or 25)


def _is_cover_picture(av: Any, stream: Any) -> bool:
    return bool(getattr(stream, "disposition", 0) & av.stream.Disposition.attached_pic)


def refuse_absurd_size(path: object, width: int, height: int) -> None:
    """Raise ``VideoError`` for pictures so large that they can only be a fault or an attack."""
    if max(width, height) > MAXIMUM_SIDE or width * height > MAXIMUM_PIXELS:
        raise VideoError(
            "the pictures are too large",
            where=path,
            expected=f"at most {MAXIMUM_SIDE} pixels a side and {MAXIMUM_PIXELS // 1_000_000} megapixels",
            got=f"{width} x {height}",
            fix="scale the video down",
        )


def _declared_seconds(container: Any, stream: Any) -> float | None:
    """How long the video track says it is, from its first frame; None where the file does not say."""
    if "mp4" in container.format.name:  # edit lists may hide frames that are counted, so the duration decides
        return float(stream.duration * stream.time_base) if stream.duration else None
    if stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)
    start = float((stream.start_time or 0) * stream.time_base)
    written = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if written:
        hours, minutes, seconds = (float(part) for part in written.groups())
        return hours * 3600 + minutes * 60 + seconds - start
    if "matroska" in container.format.name and container.duration and len(container.streams) == 1:
        return float(container.duration) / 1e6 - start
    return None


def upright_picture(decoded: Any) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB picture of a PyAV frame, turned upright where the frame says how."""
    image: UInt8[np.ndarray, "h w 3"] = decoded.to_ndarray(format="rgb24", threads=1)  # more threads only slow small pictures
    turn = _quarter_turns(decoded)
    return np.ascontiguousarray(np.rot90(image, turn)) if turn else image


def _quarter_turns(decoded: Any) -> int:
    """Counter-clockwise quarter turns that make the picture upright."""
    rotation = int(decoded.rotation)
    return 0 if rotation % 90 else rotation // 90 % 4


def _kind_of_path(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.is_file():
        return "a file"
    return "something that is not a plain file" if path.exists() else "nothing of that name"


def _what_it_is(path: Path) -> str:
    """Name what a file is that is not a readable video, from its first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        return f"a file that cannot be opened ({error.strerror})"
    if not head:
        return "0 bytes"
    for first_bytes, name in _FORMATS_OF_FIRST_BYTES:
        if head.startswith(first_bytes):
            return name
    if head[4:8] == b"ftyp":
        return "an mp4 whose index or pictures are missing, as when recording or copying was cut short"
    if b"\0" not in head and _is_text(head):
        return "text"
    return f"{_count(path.stat().st_size, 'byte')} of no known video format, or damaged from the start"


def _is_text(head: bytes) -> bool:
    try:
        head[: len(head) - 3].decode()  # the cut may fall inside a character
    except UnicodeDecodeError as error:
        return error.start > len(head) - 8 and error.start > 0
    return True


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
