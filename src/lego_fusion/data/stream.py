"""Frames that come from somewhere else while they are watched: a camera, an RTSP or HTTP address, a folder that fills.

Every source hands out **takes**: unbroken runs of frames. A file is one take, a connection to a camera another; no snippet
reaches from one take into the next.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

from ..errors import ParameterError, VideoError, load_package
from .video import (
    Frame,
    FrameClock,
    VideoReader,
    declared_rate,
    is_video_file,
    prepare_decoder,
    refuse_absurd_size,
    upright_picture,
)

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "rtp", "tcp", "srt")
_PROTOCOLS = "http,https,tcp,tls,udp,rtp,srtp,rtsp,rtsps,rtmp,srt,crypto,httpproxy"  # never a file of this machine
_FIRST_NOTES = 250  # frames after which a stream is told what is unusual about it; and again when it ends
_LONGEST_WAIT = 60.0
StepCallback = Callable[[str], None]


@dataclass
class Recording:
    """One unbroken run of frames.

    Args:
        name: What it is called in alarms: the file's name, or "" for a camera.
        identity: Name and size of a file, by which it is known again; "" where nothing can be taken up again.
        frames: With times that never fall; indices count from 0.
        rate: Frames per second that the source declares.
        first_needed: Frames before this one are there for their times only, see ``VideoReader``.
    """

    name: str
    identity: str
    frames: Iterator[Frame]
    rate: float
    first_needed: int = 0


@runtime_checkable
class Source(Protocol):
    """Where frames come from."""

    @property
    def name(self) -> str:
        """For messages, without passwords."""

    @property
    def live(self) -> bool:
        """Whether it does not wait, so that what cannot be described in time must be dropped."""

    def takes(self, notify: StepCallback, stop: threading.Event) -> Iterator[Recording]:
        """Yield takes until the source ends or ``stop`` is set; ``notify`` gets what a person should know."""


def open_source(
    source: str, *, once: bool = False, settle_seconds: float = 2.0, give_up_seconds: float | None = None
) -> VideoFile | VideoFolder | LiveStream:
    """Say what a source is by how it is written.

    Args:
        source: A video file, a folder, ``webcam:0`` or ``/dev/video0``, or an address such as ``rtsp://camera/stream``.
        once: Of a folder: stop when all videos in it are done, instead of waiting for more.
        settle_seconds: Of a folder: how long a file must not have changed before it is read.
        give_up_seconds: Of a stream: how long it may be gone before that is an error; None waits for ever.

    Raises:
        ParameterError: If it is none of these.
    """
    if re.match(r"^webcam:\d+$", source):
        return LiveStream(f"/dev/video{source.partition(':')[2]}", give_up_seconds=give_up_seconds)
    if re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]*://", source):
        if urlsplit(source).scheme.lower() not in SCHEMES:
            expected = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise ParameterError("no stream of this kind can be watched", expected=expected, got=redacted(source))
        return LiveStream(source, give_up_seconds=give_up_seconds)
    path = Path(source)
    if path.is_dir():
        return VideoFolder(path, once=once, settle_seconds=settle_seconds)
    if path.is_file():
        return VideoFile(path)
    if path.exists() and path.is_char_device():
        return LiveStream(source, give_up_seconds=give_up_seconds)
    fix = "give a video file, a folder, webcam:0, or an address such as rtsp://camera/stream"
    raise ParameterError("there is nothing to watch", where=source, got="no such file, folder or device", fix=fix)


def redacted(address: str) -> str:
    """An address without user, password and query, which may hold a key.

    Example:
        >>> redacted("rtsp://admin:secret@door.local:554/live?token=1")
        'rtsp://door.local:554/live'
    """
    parts = urlsplit(address)
    if not parts.netloc:
        return address
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class VideoFile:
    """One video file, read as fast as it can be described.

    Args:
        path: The file.
        first_picture: Frames before this one are not needed.
    """

    live = False

    def __init__(self, path: Path, *, first_picture: int = 0) -> None:
        self.path, self.name, self.first_picture = path, str(path), first_picture

    @property
    def identity(self) -> str:
        """Name and size: a file of another size is another video."""
        return f"{self.path.name}:{self.path.stat().st_size}"

    def takes(self, notify: StepCallback, stop: threading.Event) -> Iterator[Recording]:
        """Yield the file.

        Raises:
            VideoError: As ``VideoReader``.
        """
        with VideoReader(self.path, first_picture=self.first_picture) as reader:
            yield Recording(self.path.name, self.identity, reader, reader.declared_fps, self.first_picture)
            for note in (reader.problem, *reader.notes):
                if note:
                    notify(f"{self.path.name}: {note}")


@dataclass
class VideoFolder:
    """A folder of videos, one after the other by name, and then those that arrive.

    A file that has just changed is left alone until it has rested. A file that cannot be read is told of, and the next one
    comes; it is not tried again.

    Args:
        path: The folder.
        once: Whether to stop when nothing is left.
        settle_seconds: How long a file must not have changed.
        first_picture: Of a video by its identity, for one that was watched in part.
        done: Identities of what is finished.
        on_failure: Called with the identity of a file that cannot be read.
    """

    path: Path
    once: bool = False
    settle_seconds: float = 2.0
    first_picture: dict[str, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    on_failure: Callable[[str], None] = lambda identity: None
    live = False

    def __post_init__(self) -> None:
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.path)

    def takes(self, notify: StepCallback, stop: threading.Event) -> Iterator[Recording]:
        """Yield each video once."""
        while not stop.is_set():
            ready, waiting = self._look()
            for path in ready:
                file = VideoFile(path)
                identity = file.identity
                file.first_picture = self.first_picture.get(identity, 0)
                try:
                    for take in file.takes(notify, stop):
                        take.frames = self._until_failure(take, take.frames, notify)
                        yield take
                except VideoError as error:
                    self._fail(path.name, identity, error, notify)
                self.done.add(identity)
                if stop.is_set():
                    return
            if not ready:
                if self.once and not waiting:
                    return
                stop.wait(min(1.0, max(0.05, self.settle_seconds / 2)))

    def _until_failure(self, take: Recording, frames: Iterator[Frame], notify: StepCallback) -> Iterator[Frame]:
        try:
            yield from frames
        except VideoError as error:
            self._fail(take.name, take.identity, error, notify)

    def _fail(self, name: str, identity: str, error: VideoError, notify: StepCallback) -> None:
        notify(f"{name} is left out: {error}")
        self.on_failure(identity)

    def _look(self) -> tuple[list[Path], bool]:
        """Videos that are new and have rested, and whether one is new and has not; by no clock that can be set."""
        ready, now = [], time.monotonic()
        seen: dict[Path, tuple[tuple[int, int], float]] = {}
        for path in sorted(self.path.iterdir()):
            with suppress(OSError):  # it was taken away meanwhile
                if not is_video_file(path) or not path.is_file() or VideoFile(path).identity in self.done:
                    continue
                facts = path.stat()
                state = (facts.st_size, facts.st_mtime_ns)
                before, since = self._seen.get(path, (None, now))
                seen[path] = (state, since if state == before else now)
                if now - seen[path][1] >= self.settle_seconds:
                    ready.append(path)
        self._seen = seen
        return ready, len(ready) < len(seen)


class LiveStream:
    """A camera or an address, opened again with growing pauses when it breaks off.

    Args:
        address: Of a device, or an URL.
        give_up_seconds: How long no frame may come before that is an error; None waits for ever.
        timeout_seconds: How long a connection may be silent before it is taken for broken.
        first_wait: Pause before the first new attempt; each next one is twice as long, up to a minute.
    """

    live = True

    def __init__(
        self, address: str, *, give_up_seconds: float | None = None, timeout_seconds: float = 10.0, first_wait: float = 1.0
    ) -> None:
        self.address, self.name = address, redacted(address)
        self.give_up_seconds, self.timeout_seconds, self.first_wait = give_up_seconds, timeout_seconds, first_wait
        self.reconnects = 0
        self._seconds, self._arrived = 0.0, time.monotonic()
        self._frames = 0
        self._size: tuple[int, int] | None = None
        self._codec = self._why = ""

    def takes(self, notify: StepCallback, stop: threading.Event) -> Iterator[Recording]:
        """Yield one take per connection.

        Raises:
            VideoError: If no frame came for ``give_up_seconds``.
            MissingExtraError: If PyAV is not installed.
        """
        av = load_package("av", extra="video")
        wait, self._arrived = self.first_wait, time.monotonic()
        while not stop.is_set():
            before, self._why = self._frames, "the stream ended"
            try:
                yield from self._connection(av, notify, stop)
            except (av.FFmpegError, OSError, ValueError, VideoError) as error:
                self._why = _in_words(error)
            if stop.is_set():
                return
            why = self._why
            wait = self.first_wait if self._frames > before else min(2 * wait, _LONGEST_WAIT)
            gone = time.monotonic() - self._arrived
            if self.give_up_seconds is not None and gone + wait > self.give_up_seconds:
                fix = "check the address and that the camera is on"
                raise VideoError("no frame comes from the stream", where=self.name, got=f"{why}, for {gone:.0f} s", fix=fix)
            notify(f"{why}; trying again in {wait:g} s")
            stop.wait(wait)
            self.reconnects += 1

    def _connection(self, av: Any, notify: StepCallback, stop: threading.Event) -> Iterator[Recording]:
        container = self._open(av)
        try:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise VideoError("the stream has no video track", where=self.name)
            codec = str(stream.codec_context.name)
            if self._codec and codec != self._codec:
                notify(f"the codec changes from {self._codec} to {codec}")
            self._codec = codec
            frames = self._read(av, container, stream, notify, stop)
            yield Recording("", "", frames, declared_rate(stream))
            frames.close()
        finally:
            container.close()

    def _open(self, av: Any) -> Any:
        if "://" not in self.address:
            return av.open(self.address, format="v4l2", timeout=self.timeout_seconds)
        options = {"protocol_whitelist": _PROTOCOLS}
        if self.address.lower().startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        return av.open(self.address, options=options, timeout=self.timeout_seconds, metadata_errors="ignore")

    def _read(self, av: Any, container: Any, stream: Any, notify: StepCallback, stop: threading.Event) -> Generator[Frame]:
        prepare_decoder(stream)
        start = self._seconds + (time.monotonic() - self._arrived if self._frames else 0.0)
        clock = FrameClock(declared_rate(stream), unit=float(stream.time_base), start=start)
        try:
            for index, decoded in enumerate(self._pictures(av, container, stream, notify)):
                self._arrived = time.monotonic()
                self._seconds = clock.read(decoded.pts, self._arrived)
                self._look_at(decoded, notify)
                self._frames += 1
                yield Frame(index, self._seconds, upright_picture(decoded))
                if index == _FIRST_NOTES:
                    for note in clock.notes():
                        notify(f"so far {note}")
                if stop.is_set():
                    return
        except (av.FFmpegError, OSError, ValueError, VideoError) as error:
            self._why = _in_words(error)
        finally:
            for note in clock.notes():
                notify(note)

    def _pictures(self, av: Any, container: Any, stream: Any, notify: StepCallback) -> Iterator[Any]:
        """Decoded pictures, until the connection ends or gives none for too long, whatever else it sends."""
        damaged, last = 0, time.monotonic()
        try:
            for packet in container.demux():
                pictures = []
                if packet.stream_index == stream.index:
                    try:
                        pictures = stream.decode(packet)
                    except av.FFmpegError:
                        damaged += 1
                yield from pictures
                now = time.monotonic()
                last = now if pictures else last
                if now - last > self.timeout_seconds:
                    raise VideoError("the stream sends no picture any more", where=self.name)
        except (av.FFmpegError, OSError):
            with suppress(av.FFmpegError):  # what the decoder still holds came before the break
                yield from stream.decode(None)
            raise
        finally:
            if damaged:
                notify(f"{damaged} packets did not decode")

    def _look_at(self, decoded: Any, notify: StepCallback) -> None:
        size = (decoded.width, decoded.height)
        if size != self._size:
            refuse_absurd_size(self.name, *size)
            if self._size is not None:
                notify(f"the size changes from {self._size[0]} x {self._size[1]} to {size[0]} x {size[1]}")
            self._size = size


def _in_words(error: Exception) -> str:
    if isinstance(error, VideoError):
        return error.what
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the stream broke off ({words})"
