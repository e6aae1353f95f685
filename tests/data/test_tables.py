from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_fusion.data.ground_truth import intervals_from_labels, labels_from_intervals
from lego_fusion.data.tables import Interval, read_intervals, write_intervals
from lego_fusion.errors import DataError

HEADER = "video,start_frame,end_frame,class\n"


def write(tmp_path, text):
    path = tmp_path / "intervals.csv"
    path.write_bytes(text.encode())
    return path


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_labels_become_intervals_and_back(labels):
    labels = np.array(labels)
    intervals = intervals_from_labels("v01", labels, "cart")
    np.testing.assert_array_equal(labels_from_intervals(intervals, len(labels)), labels)
    assert {interval.class_name for interval in intervals} <= {"cart"}
    # maximal runs: two neighbours never touch
    assert all(a.end_frame < b.start_frame for a, b in pairwise(intervals))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=6))
def test_overlapping_intervals_label_the_union(given_spans):
    intervals = [Interval("v01", start, start + length) for start, length in given_spans]
    union = {frame for start, length in given_spans for frame in range(start, start + length)}
    assert set(np.flatnonzero(labels_from_intervals(intervals, 40))) == union


def test_no_interval_means_all_false():
    assert not labels_from_intervals([], 5).any()
    assert intervals_from_labels("v01", np.zeros(5, dtype=bool)) == ()


def test_file_round_trip_groups_by_video_in_order(tmp_path):
    intervals = [Interval("v02", 5, 9), Interval("v01", 0, 1, "bike, fast"), Interval("v02", 1, 3, "cart")]
    write_intervals(tmp_path / "intervals.csv", intervals)
    read = read_intervals(tmp_path / "intervals.csv")
    assert list(read) == ["v02", "v01"]
    assert read == {"v02": (intervals[0], intervals[2]), "v01": (intervals[1],)}
    assert [path.name for path in tmp_path.iterdir()] == ["intervals.csv"]


def test_tables_of_other_tools_are_read(tmp_path):
    """A byte order mark, Windows line ends, blanks, empty lines, another order of columns, no class."""
    path = write(tmp_path, "\ufeffend_frame, video ,start_frame\r\n 9, v01, 5\r\n\r\n")
    assert read_intervals(path) == {"v01": (Interval("v01", 5, 9),)}


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (3, 3), (4, 3)])
def test_an_interval_holds_a_frame(start, end):
    with pytest.raises(DataError, match=rf"video 'v01'.*got start_frame {start}, end_frame {end}"):
        Interval("v01", start, end)


def test_an_interval_beyond_the_video_names_video_and_frames():
    with pytest.raises(DataError, match=r"video 'v01'\): expected at most 10 frames, got frames 8 to 11"):
        labels_from_intervals([Interval("v01", 8, 11)], frames=10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "v01,1,2,\nv01,5,4,\n", r"at least one frame \(.*intervals.csv, line 3\).*got start_frame 5"),
        (HEADER + "v01,1.5,4,\n", r"'start_frame' is not a whole number \(.*line 2\).*got '1.5'"),
        (HEADER + "v01,1,,\n", r"'end_frame' is not a whole number \(.*line 2\).*got ''"),
        (HEADER + "../v01,1,2,\n", r"'../v01' cannot be a file name.*line 2"),
        (HEADER + "v01,1,2\n", r"another number of cells.*line 2\): expected 4, got 3"),
        (HEADER + 'v01,1,2,"open\n', "not a CSV table"),
        ("video,start_frame,class\n", r"misses the column 'end_frame' \(.*line 1\)"),
        ("video,start_frame,end_frame,colour\n", r"unknown column 'colour' \(.*line 1\)"),
        ("video,video,start_frame,end_frame\n", "repeats the column 'video'"),
        ("", "misses the column 'video', 'start_frame', 'end_frame'"),
    ],
)
def test_bad_tables_name_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_intervals(write(tmp_path, text))


def test_a_table_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "intervals.csv").write_bytes(b"\xff\xfe\x00video")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_intervals(tmp_path / "intervals.csv")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: No such file.*nothing\.csv"):
        read_intervals(tmp_path / "nothing.csv")


def test_published_ped2_ground_truth_survives(shared_data, tmp_path):
    """Frame labels of the twelve test clips go through intervals and the file and come back; 1,648 of 2,010 are abnormal."""
    labels: dict[str, list[bool]] = {}
    for line in (shared_data / "ped2" / "labels.csv").read_text().splitlines()[1:]:
        split, clip, _, label = line.split(",")
        if split == "test":
            labels.setdefault(f"test_{clip[-2:]}", []).append(label == "1")
    intervals = [i for video, values in labels.items() for i in intervals_from_labels(video, np.array(values))]
    write_intervals(tmp_path / "intervals.csv", intervals)
    read = read_intervals(tmp_path / "intervals.csv")
    back = {video: labels_from_intervals(read[video], len(values)) for video, values in labels.items()}
    assert all(back[video].tolist() == values for video, values in labels.items())
    assert sum(map(len, back.values())) == 2010
    assert sum(int(values.sum()) for values in back.values()) == 1648
