"""Sources of frames: what breaks off, changes, has no times or jumps is handled and said."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from lego_fusion.data.stream import (
    LiveStream,
    VideoFile,
    VideoFolder,
    open_source,
    redacted,
)
from lego_fusion.data.video import FrameClock, VideoReader
from lego_fusion.errors import ParameterError, VideoError
from lego_fusion.scenes.render import render_scenes

TICK = 1 / 90_000


def clock(**changes: float) -> FrameClock:
    return FrameClock(25.0, unit=TICK, **changes)


def test_good_stamps_are_kept_from_the_first_on() -> None:
    one = clock(start=100.0)
    stamps = [900_000 + 3600 * n for n in range(5)]
    read = [one.read(stamp, n / 25) for n, stamp in enumerate(stamps)]
    assert read == pytest.approx([100 + n / 25 for n in range(5)])
    assert one.notes() == ()


def test_frames_without_a_stamp_are_placed_by_the_rate() -> None:
    one = clock()
    assert [one.read(None, n / 25) for n in range(4)] == pytest.approx([0, 0.04, 0.08, 0.12])
    assert "4 frames without a time stamp" in one.notes()[0]


def test_repeated_and_slightly_earlier_stamps_never_turn_time_back() -> None:
    one = clock()
    read = [one.read(stamp, n / 25) for n, stamp in enumerate([0, 3600, 3600, 1800, 7200])]
    assert read == pytest.approx([0, 0.04, 0.04, 0.04, 0.08])
    assert [note.split(" with ")[0] for note in one.notes()] == ["1 frame", "1 frame"]


@pytest.mark.parametrize("leap", [90_000 * 3600, -90_000 * 3600, -90_000 * 2])
def test_a_leap_of_the_camera_s_clock_is_not_a_leap_of_time(leap: int) -> None:
    one = clock()
    stamps = [10**9 + 3600 * n + (leap if n >= 3 else 0) for n in range(6)]
    read = [one.read(stamp, n / 25) for n, stamp in enumerate(stamps)]
    assert read == pytest.approx([n / 25 for n in range(6)], abs=0.05)
    assert "1 leap of the stream's clock" in one.notes()[0]


def test_a_pause_that_this_machine_saw_pass_is_time() -> None:
    one = clock()
    one.read(0, 0.0)
    assert one.read(90_000 * 30, 30.0) == pytest.approx(30.0)
    assert one.notes() == ()


def test_time_never_falls_whatever_the_stamps_are() -> None:
    one, last = clock(), 0.0
    for number, stamp in enumerate([5, None, 2**40, -7, 0, 0, None, 10**15, 3600, 2**33 - 1, 0] * 20):
        now = one.read(stamp, number / 25)
        assert last <= now < 60
        last = now


def test_an_address_is_told_without_what_is_secret() -> None:
    assert redacted("http://user:pass@host/a?key=b#c") == "http://host/a"
    assert redacted("/dev/video0") == "/dev/video0"
    assert LiveStream("rtsp://admin:secret@door/live").name == "rtsp://door/live"


def test_what_kind_of_source_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert isinstance(open_source(str(tmp_path)), VideoFolder)
    assert isinstance(open_source(str(tmp_path / "a.mp4")), VideoFile)
    camera = open_source("webcam:2")
    assert isinstance(camera, LiveStream) and camera.address == "/dev/video2"
    assert isinstance(open_source("rtsp://door/live"), LiveStream)
    with pytest.raises(ParameterError, match="there is nothing to watch"):
        open_source(str(tmp_path / "none.mp4"))
    with pytest.raises(ParameterError, match=r"no stream of this kind.*got file://host/b"):
        open_source("file://user:secret@host/b")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    folder = tmp_path_factory.mktemp("videos")
    return render_scenes(folder, videos=2, frames=(20, 20), size=(64, 96), seed=3).videos[0].path


def test_frames_before_the_first_picture_keep_their_times(video: Path) -> None:
    with VideoReader(video) as reader, VideoReader(video, first_picture=7) as later:
        whole, part = list(reader), list(later)
    assert [frame.time for frame in part] == [frame.time for frame in whole]
    assert all(frame.image.shape == (1, 1, 3) for frame in part[:7])
    assert all((a.image == b.image).all() for a, b in zip(whole[7:], part[7:], strict=True))


class Told(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)

    def has(self, words: str) -> bool:
        return any(words in line for line in self)


def watch_folder(folder: VideoFolder, told: Told, *, most: int = 99) -> dict[str, int]:
    counts: dict[str, int] = {}
    stop = threading.Event()
    for take in folder.takes(told, stop):
        counts[take.name] = sum(1 for _ in take.frames)
        if len(counts) >= most:
            stop.set()
    return counts


def test_a_folder_gives_each_video_once_and_names_what_is_none(video: Path, tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mp4"):
        shutil.copy(video, tmp_path / name)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "archive.mp4").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "readme.txt").write_text("no video")
    told, failed = Told(), []
    folder = VideoFolder(tmp_path, once=True, settle_seconds=0.0, on_failure=failed.append)
    assert watch_folder(folder, told) == {"a.mp4": 20, "b.mp4": 20}
    assert told.has("empty.mp4 is left out") and told.has("0 bytes") and told.has("a zip archive")
    assert len(failed) == 2
    assert watch_folder(folder, told) == {}


def test_a_folder_that_fills_is_watched_on_and_a_file_in_the_making_waits(video: Path, tmp_path: Path) -> None:
    content = video.read_bytes()

    def fill() -> None:
        time.sleep(0.1)
        with (tmp_path / "late.mp4").open("wb") as file:
            for start in range(0, len(content), len(content) // 4):
                file.write(content[start : start + len(content) // 4])
                file.flush()
                time.sleep(0.1)

    shutil.copy(video, tmp_path / "early.mp4")
    os.utime(tmp_path / "early.mp4", (2**31, 2**31))  # of the future, by a clock that was wrong
    writer = threading.Thread(target=fill)
    writer.start()
    told = Told()
    assert watch_folder(VideoFolder(tmp_path, settle_seconds=0.4), told, most=2) == {"early.mp4": 20, "late.mp4": 20}
    assert told == []
    writer.join()


def frames_of(stream: LiveStream, told: Told, *, takes: int = 1) -> list[list[float]]:
    found: list[list[float]] = []
    stop = threading.Event()
    for take in stream.takes(told, stop):
        found.append([frame.time for frame in take.frames])
        if len(found) == takes:
            stop.set()
    return found


def live(address: str, **changes: Any) -> LiveStream:
    return LiveStream(address, **{"first_wait": 0.05, "timeout_seconds": 1.0, "give_up_seconds": 5.0, **changes})


def test_a_stream_that_breaks_off_is_opened_again_and_time_goes_on(serve: Callable[..., str], connection: Any) -> None:
    told = Told()
    stream = live(serve(connection(), connection(frames=10)))
    first, second = frames_of(stream, told, takes=2)
    assert (len(first), len(second)) == (20, 10)
    assert first[-1] < second[0] < first[-1] + 5
    assert stream.reconnects == 1 and told.has("trying again in 0.05 s")


def test_a_stream_that_stays_away_is_given_up_when_asked(serve: Callable[..., str], connection: Any) -> None:
    told = Told()
    stream = live(serve(connection()), give_up_seconds=0.5)
    with pytest.raises(VideoError, match="no frame comes from the stream"):
        frames_of(stream, told, takes=2)
    waits = [float(line.split("again in ")[1].split()[0]) for line in told if "again in" in line]
    assert waits == sorted(waits) and len(waits) >= 3


def test_a_stream_that_falls_silent_is_taken_for_broken(serve: Callable[..., str], connection: Any) -> None:
    told = Told()
    started = time.monotonic()
    takes = frames_of(live(serve(connection(hangs=True), connection()), timeout_seconds=0.5), told, takes=2)
    assert [len(one) for one in takes] == [20, 20]
    assert told.has("the stream broke off") and time.monotonic() - started < 10


def test_another_size_and_codec_after_a_reconnect_are_said(serve: Callable[..., str], connection: Any) -> None:
    told = Told()
    address = serve(connection(), connection(size=(128, 96), codec="mpeg2video"))
    takes = frames_of(live(address), told, takes=2)
    assert [len(one) for one in takes] == [20, 20]
    assert told.has("the codec changes from mpeg4 to mpeg2video")
    assert told.has("the size changes from 96 x 64 to 128 x 96")


def test_a_size_that_changes_within_a_connection_is_said(video: Path, tmp_path: Path) -> None:
    """Two recordings one behind the other, as a camera sends that was set up anew: MPEG-2 says its size in the stream."""
    av = pytest.importorskip("av")
    parts = []
    for size in ((96, 64), (128, 96)):
        path = tmp_path / f"{size[0]}.m2v"
        with av.open(str(path), "w", format="mpeg2video") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for number in range(10):
                frame = av.VideoFrame(*size, "yuv420p")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        parts.append(path.read_bytes())
    told = Told()
    address = serve_bytes(b"".join(parts))
    times = frames_of(live(address), told)[0]
    assert len(times) >= 19 and times == sorted(times)  # the decoder may lose one at the seam
    assert told.has("the size changes from 96 x 64 to 128 x 96")


def serve_bytes(content: bytes) -> str:
    """Send bytes to the first that connects."""
    server = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with server, server.accept()[0] as other:
            other.sendall(content)

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def recorded(path: Path, first_stamp: int, *, frames: int = 12) -> bytes:
    """An MPEG transport stream whose first frame has the stamp given, in ticks of 1/90000 s."""
    av = pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames + 1):
            frame = av.VideoFrame(96, 64, "yuv420p")
            frame.pts = number
            for packet in stream.encode(frame if number < frames else None):
                packet.time_base = Fraction(1, 90_000)
                packet.pts = packet.dts = first_stamp + 3600 * packet.pts
                container.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize(("before", "after"), [(0, 90_000 * 7200), (90_000 * 7200, 90_000 * 3600), (90_000 * 5, 0)])
def test_a_stream_whose_clock_leaps(before: int, after: int, tmp_path: Path) -> None:
    content = recorded(tmp_path / "before.ts", before) + recorded(tmp_path / "after.ts", after)
    told = Told()
    times = frames_of(live(serve_bytes(content)), told)[0]
    assert len(times) >= 23 and times == sorted(times) and times[-1] < 3
    assert told.has("1 leap of the stream's clock")


def test_a_stream_without_times(serve: Callable[..., str], connection: Any) -> None:
    """Raw MPEG-4 has no time stamps of its own."""
    told = Told()
    times = frames_of(live(serve(connection(container="m4v"))), told)[0]
    assert len(times) == 20 and times == sorted(times) and times[-1] > 0.5


def test_pyav_that_listens_is_a_stream(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = f"""
import av
with av.open("tcp://127.0.0.1:{port}?listen=1", "w", format="mpegts") as container:
    stream = container.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    for number in range(30):
        frame = av.VideoFrame(96, 64, "yuv420p")
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
"""
    server = subprocess.Popen([sys.executable, "-c", script])
    try:
        assert len(frames_of(live(f"tcp://127.0.0.1:{port}"), Told())[0]) == 30
    finally:
        server.wait(10)


RTSP_SERVER = """
import socket, struct, sys
from fractions import Fraction
import av

context = av.CodecContext.create("mpeg4", "w")
context.width, context.height, context.pix_fmt, context.time_base, context.gop_size = 96, 64, "yuv420p", Fraction(1, 25), 5
packets = []
for number in range(31):
    frame = av.VideoFrame(96, 64, "yuv420p")
    frame.pts = number
    packets += [bytes(packet) for packet in context.encode(frame if number < 30 else None)]
end = chr(13) + chr(10)
sdp = end.join(["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "t=0 0", "m=video 0 RTP/AVP 96", "a=rtpmap:96 MP4V-ES/90000", ""])
answers = {
    "DESCRIBE": ("Content-Type: application/sdp", sdp),
    "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1", ""),
}
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    other, _ = server.accept()
    heard, asked = "", ""
    while asked != "PLAY":
        heard += other.recv(4096).decode()
        while end + end in heard:
            head, heard = heard.split(end + end, 1)
            asked = head.split()[0]
            number = [line for line in head.split(end) if line.lower().startswith("cseq")][0]
            header, body = answers.get(asked, ("Public: OPTIONS, DESCRIBE, SETUP, PLAY", ""))
            lines = ["RTSP/1.0 200 OK", number, "Session: 1", header, f"Content-Length: {len(body)}", "", body]
            other.sendall(end.join(lines).encode())
    for number, packet in enumerate(packets):  # each fits into one packet of RTP
        rtp = struct.pack("!BBHII", 0x80, 96 | 0x80, number, 3600 * number, 1) + packet
        other.sendall(b"$" + bytes([0]) + struct.pack("!H", len(rtp)) + rtp)
    other.close()
"""


def test_an_rtsp_camera_is_watched_and_opened_again_after_it_closed() -> None:
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    server = subprocess.Popen([sys.executable, "-c", RTSP_SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        told = Told()
        address = f"rtsp://user:secret@127.0.0.1:{int(server.stdout.readline())}/live"
        takes = frames_of(live(address), told, takes=2)
        assert [len(one) for one in takes] == [30, 30]
        assert takes[0] == pytest.approx([n / 25 for n in range(30)]) and takes[1][0] > takes[0][-1]
        assert not told.has("secret")
    finally:
        server.kill()
        server.communicate()


def test_an_address_that_sends_no_video(tmp_path: Path) -> None:
    told = Told()
    with pytest.raises(VideoError, match="no frame comes from the stream"):
        frames_of(live(serve_bytes(b"hello, world\n" * 100), give_up_seconds=0.2), told)
