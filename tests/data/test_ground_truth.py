"""Ground truth of the field: arrays, annotation files, masks; what does not fit names the first video that is off."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from lego_fusion.data.ground_truth import (
    Span,
    audit,
    intervals_from_array,
    labels_from_intervals,
    read_annotations,
    read_ground_truth,
    read_mask,
)
from lego_fusion.data.tables import Interval
from lego_fusion.errors import DataError, ParameterError

SPANS = [Span("a", "abnormal", 30, 32), Span("b", "normal", 16, 16), Span("c", "abnormal", 17, 32)]


def truth(frames):
    """One array over a, b, c of those lengths: the last ten frames of a and the first five of c."""
    a, b, c = (np.zeros(count) for count in frames)
    a[20:30], c[:5] = 1, 1
    return np.concatenate([a, b, c])


@pytest.mark.parametrize("frames", [(32, 16, 32), (30, 16, 17)])
@pytest.mark.parametrize("kind", [bool, np.int64, np.float32])
def test_padded_and_real_arrays_give_the_same_intervals(frames, kind):
    found = intervals_from_array(truth(frames).astype(kind), SPANS, where="gt.npy")
    assert found == {"a": (Interval("a", 20, 30),), "c": (Interval("c", 0, 5),)}


def test_padding_is_left_out():
    array = truth((32, 16, 32))
    array[30:32] = 1
    assert intervals_from_array(array, SPANS, where="gt.npy")["a"] == (Interval("a", 20, 30),)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2**16)), min_size=1, max_size=5))
def test_an_array_comes_back(videos):
    parts = [np.random.default_rng(seed).integers(0, 2, rows * 16) for rows, seed in videos]
    spans = [Span(f"v{number}", "abnormal", len(part), len(part)) for number, part in enumerate(parts)]
    found = intervals_from_array(np.concatenate(parts), spans, where="gt")
    again = [labels_from_intervals(found.get(span.video, ()), span.frames) for span in spans]
    assert np.array_equal(np.concatenate(again), np.concatenate(parts))


@pytest.mark.parametrize(
    "array, message",
    [
        (truth((32, 16, 32))[:-3], "first video that is off is 'c': it ends 3 frames before"),
        (truth((32, 16, 32))[:31], "first video that is off is 'a': it ends 1 frames before"),
        (np.append(truth((32, 16, 32)), [0, 0]), "first video that is off is 'c': 2 frames are left"),
        (truth((64, 16, 32)), "first video that is off is 'c': it has no abnormal frame"),
        (np.concatenate([np.zeros(16), truth((32, 16, 32))]), "first video that is off is 'a': it has no abnormal frame"),
        (np.concatenate([np.ones(48), truth((32, 16, 32))]), "first video that is off is 'b': it has abnormal frames"),
        (truth((32, 16, 32))[:, None], "one line of zeros and ones.*shape"),
        (truth((32, 16, 32)) * 2, "zeros and ones"),
        (np.full(80, np.nan), "zeros and ones"),
    ],
)
def test_a_wrong_array_names_the_first_video_that_is_off(array, message):
    with pytest.raises(DataError, match=message):
        intervals_from_array(array, SPANS, where="gt.npy")


def test_ucf_crime(tmp_path):
    path = tmp_path / "Temporal_Anomaly_Annotation.txt"
    path.write_text(
        "Abuse028_x264.mp4  Abuse  165  240  -1  -1  \n\nArson011_x264.mp4  Arson  150  420  680  1267\n"
        "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
    )
    expected = {
        "Abuse028_x264": (Interval("Abuse028_x264", 165, 240, "Abuse"),),
        "Arson011_x264": (Interval("Arson011_x264", 150, 420, "Arson"), Interval("Arson011_x264", 680, 1267, "Arson")),
    }
    assert read_annotations(path, "ucf-crime") == expected
    spans = [Span("Arson011_x264", "abnormal", 1300, 1300), Span("Normal_Videos_003_x264", "normal", 80, 80)]
    assert read_ground_truth(path, spans) == {"Arson011_x264": expected["Arson011_x264"]}


def test_xd_violence(tmp_path):
    path = tmp_path / "annotations.txt"
    path.write_text("v=x__#1_label_B6-0-0 0 100 210 300\nOne.Day.2011__#1_label_G-0-0.mp4 5 9\n")
    first, second = "v=x__#1_label_B6-0-0", "One.Day.2011__#1_label_G-0-0"
    expected = {
        first: (Interval(first, 0, 100, "B6-0-0"), Interval(first, 210, 300, "B6-0-0")),
        second: (Interval(second, 5, 9, "G-0-0"),),
    }
    assert read_annotations(path, "xd-violence") == expected
    spans = [Span(first, "abnormal", 320, 320), Span(second, "abnormal", 16, 16)]
    assert read_ground_truth(path, spans) == expected


@pytest.mark.parametrize(
    "form, line, message",
    [
        ("ucf-crime", "Abuse028_x264.mp4 Abuse", "line 1.*name, class, start and end"),
        ("ucf-crime", "Abuse028_x264.mp4 Abuse 240 165 -1 -1", "line 1.*start_frame < end_frame"),
        ("ucf-crime", "Abuse028_x264.mp4 Abuse x 165", "line 1.*whole numbers"),
        ("xd-violence", "v1 0 10 20", "line 1.*pairs"),
        ("xd-violence", "v1 0 inf", "line 1.*whole numbers"),
    ],
)
def test_wrong_annotation_lines(tmp_path, form, line, message):
    (tmp_path / "a.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_annotations(tmp_path / "a.txt", form)


def test_masks_of_frames_and_of_pixels(tmp_path):
    frames = np.zeros(30, dtype=np.uint8)
    frames[20:30] = 1
    pixels = np.zeros((17, 4, 6), dtype=bool)
    pixels[:5, 1, 2] = True
    np.save(tmp_path / "a.npy", frames)
    np.save(tmp_path / "c.npy", pixels)
    assert read_ground_truth(tmp_path, SPANS) == {"a": (Interval("a", 20, 30),), "c": (Interval("c", 0, 5),)}


def test_masks_of_avenue(tmp_path):
    cells = np.empty((1, 40), dtype=object)
    for frame in range(40):
        cells[0, frame] = np.full((3, 4), 7 <= frame < 12, dtype=np.uint8)
    savemat(tmp_path / "3_label.mat", {"volLabel": cells})
    assert read_ground_truth(tmp_path, [Span("03", "abnormal", 40, 48)]) == {"03": (Interval("03", 7, 12),)}
    assert read_ground_truth(tmp_path, [Span("03", "abnormal", 48, 48, slack=15)]) == {"03": (Interval("03", 7, 12),)}


def test_wrong_masks(tmp_path):
    with pytest.raises(DataError, match=r"abnormal video has no mask.*'a'"):
        read_ground_truth(tmp_path, SPANS)
    np.save(tmp_path / "a.npy", np.ones(31))
    with pytest.raises(DataError, match=r"another length.*30 frames.*got 31"):
        read_ground_truth(tmp_path, SPANS)
    np.save(tmp_path / "a.npy", np.ones((30, 2)))
    with pytest.raises(DataError, match="not a mask"):
        read_mask(tmp_path / "a.npy")
    (tmp_path / "b.mat").write_bytes(b"no matlab")
    with pytest.raises(DataError, match="not a mask file of Avenue"):
        read_mask(tmp_path / "b.mat")
    savemat(tmp_path / "d.mat", {"other": 1})
    with pytest.raises(DataError, match="volLabel"):
        read_mask(tmp_path / "d.mat")


def test_a_table_of_intervals_and_an_unknown_form(tmp_path):
    (tmp_path / "i.csv").write_text("video,start_frame,end_frame\na,1,4\nother,1,2\n")
    assert read_ground_truth(tmp_path / "i.csv", SPANS) == {"a": (Interval("a", 1, 4),)}
    with pytest.raises(ParameterError, match="'ucf-crime'"):
        read_ground_truth(tmp_path / "i.csv", SPANS, "odd")


def test_audit_finds_each_contradiction_and_nothing_else():
    right = {"a": [Interval("a", 0, 30)], "c": [Interval("c", 3, 5)]}
    assert audit(SPANS, right) == []
    assert ["'a'" in str(one) and "no abnormal frame" in str(one) for one in audit(SPANS, {"c": right["c"]})] == [True]
    assert ["'b'" in str(one) for one in audit(SPANS, right | {"b": [Interval("b", 0, 1)]})] == [True]
    assert ["at most 30 frames" in str(one) for one in audit(SPANS, right | {"a": [Interval("a", 0, 31)]})] == [True]
