"""The same captions in every format people have, and what is wrong with a file in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.extract.captions import Caption, captions_per_frame, read_captions
from probing import VideoInfo

MakeTimeline = Callable[..., VideoInfo]
EXPECTED = (Caption(0, 3, "a man, walking"), Caption(4, 6, "a cart"))
FORMATS = {
    "list.json": json.dumps(["a man, walking"] * 3 + [None, "a cart", " a cart "]),
    "seconds.json": json.dumps(
        {"captions": [{"start": 0.4, "end": 0.6, "text": "a cart"}, {"start": 0, "end": 0.3, "text": "a man, walking"}]}
    ),
    "frames.json": json.dumps(
        {
            "captions": [
                {"start_frame": 0, "end_frame": 3, "text": "a man, walking"},
                {"start_frame": 4, "end_frame": 6, "text": "a cart"},
            ]
        }
    ),
    "spans.json": json.dumps(
        [{"start": 0, "end": 0.3, "text": "a man, walking"}, {"start": 0.4, "end": 0.6, "text": "a cart"}]
    ),
    "frames.csv": 'start_frame,end_frame,text\n0,3,"a man, walking"\n4,6,a cart\n',
    "seconds.csv": '\ufefftext,start,end\r\n"a man, walking",0,0.3\r\na cart,0.4,0.6\r\n',
    "subtitles.srt": "1\n00:00:00,000 --> 00:00:00,300\na man,\n<i>walking</i>\n\n2\n00:00:00,400 --> 00:00:00,600\na cart\n",
    "windows.srt": (
        "\ufeff1\r\n00:00:00,000 --> 00:00:00,300\r\na man, walking\r\n\r\n\r\n2\r\n0:00:00,4 --> 00:00:00,600\r\na cart"
    ),
    "subtitles.vtt": (
        "WEBVTT - street\n\nNOTE made\nby hand\n\nSTYLE\n::cue { color: red }\n\n00:00.000 --> 00:00.300 align:start\n"
        "<v Bob>a man, walking\n\nsecond\n00:00:00.400 --> 00:00:00.600\na cart\n"
    ),
    "lines.txt": "a man, walking\na man, walking\na man, walking\n\na cart\na cart\n",
}
PER_FRAME = {
    "object.json": json.dumps({"0": "a", "1": None, "2": "b", "3": ""}),
    "frame.csv": "frame,text\n2,b\n0,a\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same(name: str, tmp_path: Path, make_timeline: MakeTimeline) -> None:
    (tmp_path / name).write_bytes(FORMATS[name].encode())
    assert read_captions(tmp_path / name, make_timeline(6)) == EXPECTED


@pytest.mark.parametrize("name", PER_FRAME)
def test_captions_of_single_frames(name: str, tmp_path: Path, make_timeline: MakeTimeline) -> None:
    (tmp_path / name).write_text(PER_FRAME[name])
    assert read_captions(tmp_path / name, make_timeline(4)) == (Caption(0, 1, "a"), Caption(2, 3, "b"))


def test_one_line_of_text_is_for_the_whole_video(tmp_path: Path, make_timeline: MakeTimeline) -> None:
    (tmp_path / "one.txt").write_text("a quiet street\n")
    assert read_captions(tmp_path / "one.txt", make_timeline(50)) == (Caption(0, 50, "a quiet street"),)


def test_lines_break_at_line_ends_only(tmp_path: Path, make_timeline: MakeTimeline) -> None:
    (tmp_path / "odd.txt").write_bytes("a\u2028b\x0bc\r\nd".encode())
    assert read_captions(tmp_path / "odd.txt", make_timeline(2)) == (Caption(0, 1, "a\u2028b\x0bc"), Caption(1, 2, "d"))


@given(texts=st.lists(st.sampled_from(["a", "b", " ", "", None]), min_size=1, max_size=30))
def test_joined_captions_spread_out_again_are_the_texts(texts: list[str | None]) -> None:
    spread: list[str | None] = [None] * len(texts)
    for caption in captions_per_frame(texts, len(texts), where="x"):
        spread[caption.start : caption.end] = [caption.text] * (caption.end - caption.start)
    assert spread == [text if text and text.strip() else None for text in texts]


def test_seconds_follow_the_times_of_a_variable_rate(tmp_path: Path, make_timeline: MakeTimeline) -> None:
    timeline = make_timeline(4, times=np.array([0.0, 0.1, 1.0, 1.1]))
    (tmp_path / "c.csv").write_text("start,end,text\n0,0.2,early\n1.0,1.2,late\n0.5,0.6,between\n")
    got = read_captions(tmp_path / "c.csv", timeline)
    assert got == (Caption(0, 1, "early"), Caption(1, 2, "between"), Caption(2, 4, "late"))


@pytest.mark.parametrize("fps", [23.976, 25.0, 29.97, 30.0, 60.0])
def test_times_at_the_borders_of_frames_do_not_slip_by_one(fps: float, tmp_path: Path, make_timeline: MakeTimeline) -> None:
    spans = [(i, i + 7) for i in range(0, 693, 7)]
    entries = [{"start": round(start / fps, 3), "end": round(end / fps, 3), "text": str(start)} for start, end in spans]
    (tmp_path / "c.json").write_text(json.dumps({"captions": entries}))
    got = read_captions(tmp_path / "c.json", make_timeline(693, fps=fps))
    assert [(caption.start, caption.end) for caption in got] == spans


def test_a_caption_shorter_than_a_frame_takes_the_nearest(tmp_path: Path, make_timeline: MakeTimeline) -> None:
    (tmp_path / "c.csv").write_text("start,end,text\n0.31,0.32,flash\n")
    assert read_captions(tmp_path / "c.csv", make_timeline(6)) == (Caption(3, 4, "flash"),)


@pytest.mark.parametrize(
    ("name", "content", "length"),
    [
        ("c.json", json.dumps(["a"] * 5), 5),
        ("c.json", json.dumps(["a"] * 9), 9),
        ("c.json", json.dumps([]), 0),
        ("c.txt", "a\nb\nc\n", 3),
        ("c.txt", "", 0),
        ("c.csv", "frame,text\n7,late\n", 8),
        ("c.csv", "start_frame,end_frame,text\n0,100,all\n", 100),
        ("c.json", json.dumps({"6": "late"}), 7),
    ],
)
def test_a_file_of_another_length_says_both_lengths(
    name: str, content: str, length: int, tmp_path: Path, make_timeline: MakeTimeline
) -> None:
    (tmp_path / name).write_text(content)
    than = "shorter" if length < 6 else "longer"
    with pytest.raises(DataError, match=rf"captions are {than} than the video .*for 6 frames, got captions for {length}\."):
        read_captions(tmp_path / name, make_timeline(6))
    for gaps in ("nearest", "empty"):
        assert all(caption.end <= 6 for caption in read_captions(tmp_path / name, make_timeline(6), gaps=gaps))


def test_subtitles_that_start_after_the_video_are_of_another_one(tmp_path: Path, make_timeline: MakeTimeline) -> None:
    (tmp_path / "c.srt").write_text("1\n00:00:00,000 --> 00:00:00,600\na\n\n2\n00:01:00,000 --> 00:01:02,000\nb\n")
    with pytest.raises(DataError, match=r"longer than the video .*line 6.*captions up to 0.6 s, got one from 60 s"):
        read_captions(tmp_path / "c.srt", make_timeline(6))
    assert read_captions(tmp_path / "c.srt", make_timeline(6), gaps="empty") == (Caption(0, 6, "a"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", b'[\n"a",\n}', r"not JSON \(.*c\.json, line 3\)"),
        ("c.json", b"", "not JSON"),
        ("c.json", b"[" * 100_000, "not JSON"),
        ("c.json", b'"one text"', "no captions in the file .*a list with one text or null per frame"),
        ("c.json", b'{"texts": []}', "no captions in the file"),
        ("c.json", b"{}", "no captions in the file"),
        ("c.json", b'["a", 5]', r"not a text \(.*frame 1\): expected a string or null, got int"),
        ("c.json", b'{"0": 5}', r"not a text \(.*frame 0\)"),
        ("c.json", b'{"captions": ["a"]}', r"not a caption \(.*caption 0\)"),
        ("c.json", b'{"captions": [{"text": "a"}]}', r"without its place \(.*caption 0\)"),
        ("c.json", b'{"captions": [{"start": 1, "end": 1, "text": "a"}]}', "ends before it starts .*caption 0"),
        ("c.json", b'{"captions": [{"start": NaN, "end": 1, "text": "a"}]}', "not a time .*start"),
        ("c.json", b'{"captions": [{"start": true, "end": 1, "text": "a"}]}', "not a time .*got True"),
        ("c.json", b'{"captions": [{"start_frame": 1.5, "end_frame": 3, "text": "a"}]}', "not the number of a frame"),
        ("c.csv", b"", "columns are not those of captions .*line 1.*got an empty file"),
        ("c.csv", b"time,text\n1,a\n", "columns are not those of captions .*got time,text"),
        ("c.csv", b"frame,text\n0,a\n1,b,c\n", r"row of another length \(.*line 3\)"),
        ("c.csv", b"frame,text\n0,a\n1\n", r"row of another length \(.*line 3\)"),
        ("c.csv", b"frame,text\n0,a\nx,b\n", r"not the number of a frame \(.*line 3, frame\).*got 'x'"),
        ("c.csv", b"frame,text\n-1,a\n", "not the number of a frame .*line 2"),
        ("c.csv", b"start_frame,end_frame,text\n3,3,a\n", "ends before it starts .*line 2"),
        ("c.csv", b"start,end,text\n0,soon,a\n", "not a time .*line 2, end.*got 'soon'"),
        ("c.csv", b'frame,text\n0,"a\n', "not CSV"),
        ("c.srt", b"1\n00:00:00,000 --> 00:00:00,300\na\n\n2\nhello\n", r"not a subtitle \(.*line 6\).*got 'hello'"),
        ("c.srt", b"just words\n", r"not a subtitle \(.*line 1\)"),
        ("c.srt", b"1\n00:00:00,300 --> 00:00:00,300\na\n", r"ends before it starts \(.*line 2\)"),
        ("c.vtt", b"WEBVTT\n\n00:61:00 --> soon\na\n", r"not a subtitle \(.*line 3\)"),
        ("c.txt", b"caf\xe9\n", r"not UTF-8 text \(.*c\.txt\): got byte 0xe9 at position 3"),
        ("c.srt", "1\n".encode("utf-16"), "not UTF-8 .*got byte 0xff at position 0"),
        ("c.docx", b"PK", r"no such caption format .*expected \.json \.csv \.srt \.vtt \.txt, got \.docx"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_the_place(
    name: str, content: bytes, message: str, tmp_path: Path, make_timeline: MakeTimeline
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_captions(tmp_path / name, make_timeline(6))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_way_with_gaps(tmp_path: Path, make_timeline: MakeTimeline) -> None:
    with pytest.raises(DataError, match="file cannot be read: No such file"):
        read_captions(tmp_path / "none.json", make_timeline(6))
    with pytest.raises(ParameterError, match="must be one of 'error', 'nearest', 'empty'"):
        read_captions(tmp_path / "none.json", make_timeline(6), gaps="error ")
