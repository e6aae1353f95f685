"""Folders people have: what is picked up, what is warned of, what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.tables import Interval
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.extract.layouts import list_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three files that look like videos; listing does not open them."""
    for name in ("a.mp4", "b.MKV", "c.avi"):
        (tmp_path / name).write_bytes(b"not looked at")
    (tmp_path / "notes.txt").write_text("no video")
    return tmp_path


def test_a_bare_folder_gives_unlabelled_videos_and_says_so(folder: Path) -> None:
    listing = list_source(folder)
    assert [(video.name, video.label, video.split, video.captions) for video in listing.videos] == [
        (name, "", "", None) for name in ("a", "b", "c")
    ]
    assert listing.name == folder.name
    assert len(listing.warnings) == 1
    assert "no labels" in listing.warnings[0]


def test_tables_and_captions_beside_the_videos_are_picked_up(folder: Path) -> None:
    (folder / "labels.csv").write_text(
        "video,label,split,class,camera,domain,source\n"
        "b,abnormal,test,bicycle,gate,street,tape 3\nc.avi,normal,train,,,,\na,normal,train,,,,\n"
    )
    (folder / "intervals.csv").write_text("video,start_frame,end_frame,class\nb.MKV,3,5,bicycle\nb,8,9,\n")
    (folder / "captions").mkdir()
    (folder / "captions" / "b.srt").write_text("")
    (folder / "captions" / "c.JSON").write_text("[]")
    (folder / "captions" / "readme.txt").write_text("not of a video")
    listing = list_source(folder)
    a, b, c = listing.videos
    assert (b.label, b.split, b.class_name) == ("abnormal", "test", "bicycle")
    assert (b.camera, b.domain, b.source) == ("gate", "street", "tape 3")
    assert (a.label, a.captions) == ("normal", None)
    assert (b.captions, c.captions) == (folder / "captions" / "b.srt", folder / "captions" / "c.JSON")
    assert listing.intervals == {"b": (Interval("b", 3, 5, "bicycle"), Interval("b", 8, 9))}
    assert listing.warnings == ()


def test_videos_may_lie_in_a_folder_of_their_own(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "a.mp4").rename(folder / "videos" / "a.mp4")
    (folder / "labels.csv").write_text("video,label\na.mp4,normal\n")
    listing = list_source(folder)
    assert [(video.path, video.label) for video in listing.videos] == [(folder / "videos" / "a.mp4", "normal")]


def test_given_paths_win_over_those_beside_the_videos(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (folder / "labels.csv").write_text("video,label\na,abnormal\n")
    (other / "mine.csv").write_text("video,label\na,normal\nb,normal\nc,normal\n")
    (other / "spans.csv").write_text("video,start_frame,end_frame\na,0,1\n")
    (other / "a.txt").write_text("words")
    listing = list_source(folder, labels=other / "mine.csv", intervals=str(other / "spans.csv"), captions=other)
    assert {video.label for video in listing.videos} == {"normal"}
    assert listing.videos[0].captions == other / "a.txt"
    assert list(listing.intervals) == ["a"]


def test_rows_and_videos_without_each_other_are_warned_of(folder: Path) -> None:
    (folder / "labels.csv").write_text("video,label\na,normal\nz,abnormal\n")
    (folder / "intervals.csv").write_text("video,start_frame,end_frame\ny,0,1\n")
    listing = list_source(folder)
    assert [video.label for video in listing.videos] == ["normal", "", ""]
    assert listing.intervals == {}
    assert listing.warnings == (
        "labels.csv names 1 videos that are not there: z",
        "labels.csv has no row for 2 videos, which stay unlabelled: b, c",
        "intervals.csv names 1 videos that are not there: y",
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("video,label\na,odd\n", r"unknown label \(.*labels\.csv, line 2\): expected normal, abnormal or empty, got 'odd'"),
        ("video,label\na,normal\na.mp4,normal\n", r"'a' is labelled twice \(.*line 3\)"),
        ("video,label\nx,normal\n", "names none of the videos .*got x"),
        ("video,label\n", "names none of the videos .*got no rows"),
        ("name,label\na,normal\n", "column 'video'"),
        ("video,label,colour\na,normal,red\n", "unknown column 'colour'"),
    ],
)
def test_a_label_table_that_cannot_be_meant_is_refused(folder: Path, table: str, message: str) -> None:
    (folder / "labels.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        list_source(folder)


def test_two_caption_files_for_one_video_are_refused(folder: Path) -> None:
    (folder / "captions").mkdir()
    for name in ("a.json", "a.srt"):
        (folder / "captions" / name).write_text("")
    with pytest.raises(DataError, match=r"two caption files for one video .*a\.json and a\.srt"):
        list_source(folder)
    with pytest.raises(DataError, match="not a folder of caption files"):
        list_source(folder, captions=folder / "captions" / "a.json")


def test_folders_without_videos_and_unknown_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no videos in the folder"):
        list_source(tmp_path)
    with pytest.raises(DataError, match="not a folder of videos"):
        list_source(tmp_path / "none")
    with pytest.raises(ParameterError, match="'layout' parameter of list_source must be one of 'folder', 'ped2'"):
        list_source(tmp_path, layout="tree")


def test_ped2_is_listed_as_the_lists_of_the_field_have_it(shared_data: Path) -> None:
    listing = list_source(shared_data / "ped2", layout="ped2")
    split = {name: {v.name for v in listing.videos if v.split == name} for name in ("train", "test")}
    abnormal = {video.name for video in listing.videos if video.label == "abnormal"}
    assert (len(split["train"]), len(split["test"])) == (10, 18)
    assert abnormal == {f"test_{clip:02d}" for clip in range(1, 13)} == set(listing.intervals)
    assert split["train"] & abnormal == {f"test_{clip:02d}" for clip in (2, 6, 9, 10, 11, 12)}
    assert split["train"] - abnormal == {f"train_{clip:02d}" for clip in (7, 8, 14, 15)}
    positive = sum(one.end_frame - one.start_frame for spans in listing.intervals.values() for one in spans)
    with (shared_data / "ped2" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert positive == sum(int(row["label"]) for row in rows) == 1648
    assert sum(len(video.captions or ()) for video in listing.videos) == len(rows) == 4560
    held = np.zeros(180, dtype=bool)
    for one in listing.intervals["test_02"]:
        held[one.start_frame : one.end_frame] = True
    assert held.tolist() == [row["label"] == "1" for row in rows if (row["split"], row["clip"]) == ("test", "2")]


def test_ped2_files_that_are_not_its_own_are_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "test_01.mp4").write_bytes(b"")
    labels = tmp_path / "labels.csv"
    labels.write_text("split,clip,frame,label\ntest,1,0,0\ntest,1,2,1\n")
    with pytest.raises(DataError, match=r"labels of some frames are missing .*clip test_01"):
        list_source(tmp_path, layout="ped2")
    labels.write_text("split,clip,frame,label\ntest,1,x,0\n")
    with pytest.raises(DataError, match=r"not a number \(.*line 2\)"):
        list_source(tmp_path, layout="ped2")
    labels.write_text("split,clip,frame,label\ntest,2,0,0\n")
    with pytest.raises(DataError, match=r"a clip has no labels .*test_01"):
        list_source(tmp_path, layout="ped2")
    labels.write_text("split,clip,frame,label\ntest,1,0,0\n")
    (tmp_path / "captions_gpt4o.json").write_text(json.dumps(["a"]))
    with pytest.raises(DataError, match="not the captions of Ped2"):
        list_source(tmp_path, layout="ped2")
