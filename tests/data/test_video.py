"""Videos are written frame by frame with known brightness and time stamps, so what must come back is known."""

import csv
import struct
import sys
import wave
import zipfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs PyAV: pip install 'lego-fusion[video]'")

from lego_fusion.data import video as video_module  # noqa: E402
from lego_fusion.data.video import VideoReader, find_videos, is_video_file  # noqa: E402
from lego_fusion.errors import DataError, MissingExtraError, VideoError  # noqa: E402
from probing import probe_video  # noqa: E402

RATE = 10
HEIGHT, WIDTH = 48, 64


def level(index):
    return 20 + 3 * index


def grey(index):
    return np.full((HEIGHT, WIDTH, 3), level(index), dtype=np.uint8)


def noisy(index):
    """A picture that does not compress, so that cutting the file cuts pictures."""
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def write(path, pictures, *, stamps=None, codec="libx264", muxer=None, faststart=False, options=None, unit=RATE):
    """Write pictures; ``stamps`` counts in ticks of 1 / unit seconds."""
    movflags = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", format=muxer, options=movflags) as container:
        stream = container.add_stream(codec, rate=RATE, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, unit)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index if stamps is None else stamps[index]
            frame.time_base = Fraction(1, unit)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def restamp(path, stamps):
    """Write motion JPEG with time stamps that no encoder would give, in ticks of a tenth of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        packets = [p for i in range(len(stamps)) for p in stream.encode(av.VideoFrame.from_ndarray(grey(i)))]
        packets += stream.encode(None)
        orders = np.minimum.accumulate(stamps[::-1])[::-1].tolist()  # never after its own or a later time stamp
        for packet, stamp, order in zip(packets, stamps, orders, strict=True):
            packet.pts, packet.dts, packet.time_base = stamp, order, Fraction(1, RATE)
            container.mux(packet)
    return path


def levels_of(path):
    with VideoReader(path) as reader:
        return [round((float(frame.image.mean()) - 20) / 3) for frame in reader]


def cut(path, fraction):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


@pytest.mark.parametrize("frames", [1, 2, 7, 40])
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".ts"])
def test_every_frame_is_counted_and_timed(tmp_path, frames, suffix):
    path = write(tmp_path / f"v{suffix}", [grey(i) for i in range(frames)])
    info = probe_video(path)
    assert (info.frames, info.height, info.width) == (frames, HEIGHT, WIDTH)
    np.testing.assert_allclose(info.times, np.arange(frames) / RATE, atol=1e-6)
    if frames > 1 or suffix != ".ts":  # a transport stream of one frame holds no rate
        assert info.fps == pytest.approx(RATE)
    assert (info.problem, info.notes) == (None, ())


def test_reader_agrees_with_probe_and_gives_rgb(tmp_path):
    red = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    red[..., 0] = 200
    path = write(tmp_path / "v.mp4", [red] * 5)
    with VideoReader(path) as reader:
        frames = list(reader)
        assert next(reader, None) is None
    assert [frame.index for frame in frames] == list(range(5))
    assert reader.frames_read == probe_video(path).frames == 5
    np.testing.assert_array_equal([frame.time for frame in frames], probe_video(path).times)
    assert frames[0].image.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(frames[0].image.mean(axis=(0, 1)), [200, 0, 0], atol=6)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_keeps_its_time_stamps(tmp_path, suffix):
    stamps = np.cumsum([0, 100, 40, 300, 100, 100, 20, 500]).tolist()
    info = probe_video(write(tmp_path / f"v{suffix}", [grey(i) for i in range(8)], stamps=stamps, unit=1000))
    np.testing.assert_allclose(info.times, np.array(stamps) / 1000, atol=1e-6)
    assert info.fps == pytest.approx(7 / 1.16)
    assert info.problem is None


def test_frames_with_reordering_come_in_presentation_order(tmp_path):
    path = write(tmp_path / "v.mp4", [grey(i) for i in range(40)], options={"bf": "3", "b-pyramid": "normal"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert any(packet.pts != packet.dts for packet in packets), "the test wants reordered frames"
    assert levels_of(path) == list(range(40))


def test_missing_time_stamps_fall_back_to_the_rate(tmp_path):
    path = write(tmp_path / "raw.h264", [grey(i) for i in range(12)], muxer="h264")
    info = probe_video(path)
    np.testing.assert_allclose(info.times, np.arange(12) / RATE)
    assert info.notes == ("12 frames without a time stamp, placed by the rate of 10 frames/s",)
    assert info.problem is None


def test_repeated_and_backward_time_stamps_are_kept_and_made_monotone(tmp_path):
    info = probe_video(restamp(tmp_path / "v.mkv", [0, 1, 1, 3, 2, 5]))
    np.testing.assert_allclose(info.times, [0, 0.1, 0.1, 0.3, 0.3, 0.5])
    assert info.notes == (
        "1 frame with the time stamp of the frame before",
        "1 frame with a time stamp before the last, moved up to it",
    )


def test_equal_time_stamps_do_not_divide_by_zero(tmp_path):
    info = probe_video(restamp(tmp_path / "v.mkv", [0, 0, 0]))
    assert info.frames == 3
    assert info.fps > 0


def test_a_sideways_recording_is_turned_upright(tmp_path):
    left_bright = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    left_bright[:, : WIDTH // 2] = 200
    path = write(tmp_path / "v.mp4", [left_bright] * 3)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # ISO 14496-12: the display matrix, here a quarter turn clockwise
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    with VideoReader(path) as reader:
        image = next(reader).image
    assert image.shape == (WIDTH, HEIGHT, 3)
    assert image[: WIDTH // 2 - 4].mean() > 190
    assert image[WIDTH // 2 + 4 :].mean() < 10
    info = probe_video(path)
    assert (info.height, info.width) == (WIDTH, HEIGHT)
    assert "rotation by -90 degrees" in info.notes[0]


def test_a_change_of_size_is_noted(tmp_path):
    first = write(tmp_path / "a.h264", [grey(i) for i in range(5)], muxer="h264")
    small = [np.full((32, 32, 3), 90, dtype=np.uint8)] * 4
    second = write(tmp_path / "b.h264", small, muxer="h264")
    both = tmp_path / "both.h264"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with VideoReader(both) as reader:
        shapes = [frame.image.shape[:2] for frame in reader]
    assert shapes == [(HEIGHT, WIDTH)] * 5 + [(32, 32)] * 4
    assert "the size changes at frame 5 to 32 x 32" in reader.notes


def test_truncated_with_index_in_front_gives_what_is_left_and_says_so(tmp_path):
    path = cut(write(tmp_path / "v.mp4", [noisy(i) for i in range(40)], faststart=True), 0.6)
    info = probe_video(path)
    assert 10 < info.frames < 35
    last = f"frame {info.frames - 1} at {info.times[-1]:.2f} s"
    assert info.problem.endswith(f"the video ends early, after {last}; the file declares 4.00 s and 40 frames")


def test_one_lost_frame_is_enough_to_say_so(tmp_path):
    path = write(tmp_path / "v.mp4", [noisy(i) for i in range(20)], faststart=True, options={"bf": "0"})
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    info = probe_video(path)
    assert info.frames in {19, 20}
    assert info.problem is not None


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".ts"])
def test_truncated_in_other_containers(tmp_path, suffix):
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    info = probe_video(cut(write(tmp_path / f"v{suffix}", [noisy(i) for i in range(40)], codec=codec), 0.6))
    assert 1 <= info.frames < 35
    assert "ends early" in info.problem or "damaged" in info.problem


def test_truncated_with_index_at_the_end_is_an_error(tmp_path):
    path = cut(write(tmp_path / "v.mp4", [noisy(i) for i in range(20)]), 0.6)
    with pytest.raises(VideoError, match=r"v\.mp4.*an mp4 whose index or pictures are missing"):
        probe_video(path)


def test_damage_in_the_middle_is_passed_over_and_said(tmp_path):
    options = {"g": "5", "bf": "0"}
    path = write(tmp_path / "v.mp4", [noisy(i) for i in range(40)], faststart=True, options=options)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9000] = np.random.default_rng(0).bytes(9000)
    path.write_bytes(content)
    info = probe_video(path)
    assert info.times[-1] == pytest.approx(3.9)
    assert "not decodable" in info.problem or "damaged" in info.problem


def test_index_without_pictures_is_an_error_while_reading(tmp_path):
    path = write(tmp_path / "v.mp4", [noisy(i) for i in range(10)], faststart=True)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4])
    with pytest.raises(VideoError, match=r"v\.mp4"), VideoReader(path) as reader:
        list(reader)


def make_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(9))


def make_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.write_text("not a video, but a letter\n" * 300), "text"),
        (lambda path: path.write_text("é" * 5000), "text"),
        (make_zip, "a zip archive"),
        (make_array, "a NumPy array"),
        (lambda path: path.write_bytes(bytes(range(256)) * 20), "5,120 bytes of no known video format"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: None, "nothing of that name"),
    ],
)
def test_what_is_not_a_video_is_named(tmp_path, make, what):
    path = tmp_path / "street.mp4"
    make(path)
    with pytest.raises(VideoError, match=rf"street\.mp4\).*{what}"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("name", "playlist"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile v.mp4\n"),
        ("list.ts", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nv.mp4\n#EXT-X-ENDLIST\n"),
        ("list.avi", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"),
    ],
)
def test_lists_of_other_files_are_not_followed(tmp_path, name, playlist):
    write(tmp_path / "v.mp4", [grey(0)] * 3)
    (tmp_path / name).write_text(playlist)
    with pytest.raises(VideoError, match="text"):
        VideoReader(tmp_path / name)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/v.mp4", "concat:v.mp4|v.mp4", "pipe:0", "/dev/null"])
def test_addresses_and_devices_are_refused(address):
    with pytest.raises(VideoError, match="not a video file"):
        VideoReader(address)


def test_sound_alone_is_not_a_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    with pytest.raises(VideoError, match=r"sound\.mp4\): got audio tracks only"):
        VideoReader(path)


@pytest.mark.parametrize(("limit", "value"), [("MAXIMUM_SIDE", WIDTH - 1), ("MAXIMUM_PIXELS", HEIGHT * WIDTH - 1)])
def test_absurd_sizes_are_refused(tmp_path, monkeypatch, limit, value):
    path = write(tmp_path / "v.mp4", [grey(0)] * 2)
    monkeypatch.setattr(video_module, limit, value)
    with pytest.raises(VideoError, match=rf"too large \(.*v\.mp4\).*got {WIDTH} x {HEIGHT}"):
        VideoReader(path)


def test_awkward_names_are_opened_as_they_are(tmp_path):
    path = write(tmp_path / "a:b %03d é ;.mp4", [grey(0)] * 3)
    assert probe_video(path).frames == 3


def test_find_videos_sorts_and_skips_what_is_no_video(tmp_path):
    for name in ("b.MP4", "a.avi", "c.txt", "._b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert [path.name for path in find_videos(tmp_path)] == ["a.avi", "b.MP4"]


def test_find_videos_names_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"no videos in the folder .*expected files ending in \.mp4"):
        find_videos(tmp_path)
    with pytest.raises(DataError, match=r"not a folder.*nothing of that name"):
        find_videos(tmp_path / "absent")
    for name in ("a.mp4", "a.avi"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"share one name .*got a\.avi and a\.mp4"):
        find_videos(tmp_path)


def test_is_video_file_goes_by_suffix():
    assert all(is_video_file(f"x{suffix}") for suffix in (".mp4", ".MKV", ".ts"))
    assert not any(is_video_file(name) for name in ("x", "x.mp3", ".mp4", "._x.mp4", Path("x.mp4.txt")))


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", [grey(0)])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lego-fusion\[video\]'"):
        VideoReader(path)


def test_ped2_has_as_many_frames_as_labels(shared_data):
    with (shared_data / "ped2" / "labels.csv").open() as file:
        labelled = Counter(f"{row['split']}_{int(row['clip']):02d}" for row in csv.DictReader(file))
    found = {path.stem: path for path in find_videos(shared_data / "ped2" / "videos")}
    assert found.keys() == labelled.keys()
    for name in ("train_01", "test_02", "test_12"):
        info = probe_video(found[name])
        assert (info.frames, info.problem) == (labelled[name], None)


def test_ordinary_clip_with_sound(shared_data):
    info = probe_video(shared_data / "videos" / "car-detection.mp4")
    assert (info.frames, info.problem) == (377, None)
