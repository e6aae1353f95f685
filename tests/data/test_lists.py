"""Lists and labels: names without folders and endings, and no label that two sources disagree about."""

import pytest

from lego_fusion.data.lists import ListedVideo, NameRule, label_videos, read_labels, read_list, read_lists
from lego_fusion.errors import DataError

RULE = NameRule(r"Train\d{3}", r"Test\d{3}")


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_names_of_a_list_in_its_order(tmp_path):
    path = write(tmp_path / "a.list", "/home/x/ped2/Test002_i3d.npy", "", r"G:\ped2\Train007_i3d.npy", "Train008")
    assert read_list(path) == ("Test002", "Train007", "Train008")


@pytest.mark.parametrize(
    "lines, message",
    [
        (["a/v1_i3d.npy", "b/v1_i3d.npy"], "'v1' is listed twice.*line 2.*lines 1 and 2"),
        (["", " "], "names no video"),
        (["a/.npy"], "line 1.*letter or digit"),
    ],
)
def test_wrong_lists(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_list(write(tmp_path / "a.list", *lines))


def test_a_video_in_both_lists_is_named(tmp_path):
    lists = {"train": write(tmp_path / "a", "v1", "v2"), "test": write(tmp_path / "b", "v3", "v2")}
    with pytest.raises(DataError, match=r"1 videos are in more than one split.*got v2"):
        read_lists(lists)


def test_labels_follow_names_whatever_the_order():
    names = ["Train001", "Test002", "Train003", "Test004"]
    expected = {name: "abnormal" if name.startswith("Test") else "normal" for name in names}
    for order in (names, names[::-1]):
        labelled = label_videos([ListedVideo(name, "train") for name in order], rule=RULE)
        assert {video.video: video.label for video in labelled} == expected


def test_place_counts_from_the_start_of_each_list():
    videos = [ListedVideo("a", "train"), ListedVideo("b", "train"), ListedVideo("c", "test"), ListedVideo("d", "test")]
    labelled = label_videos(videos, abnormal_first={"train": 1, "test": 2})
    assert [video.label for video in labelled] == ["abnormal", "normal", "abnormal", "abnormal"]


def test_sources_that_disagree_are_refused():
    videos = [ListedVideo("Test001", "train"), ListedVideo("Train001", "train")]
    with pytest.raises(DataError, match=r"disagree.*Train001.*normal by its name, abnormal by its place 2 in the list"):
        label_videos(videos, rule=RULE, abnormal_first={"train": 2})
    table = [ListedVideo("Test001", "train", "normal")]
    with pytest.raises(DataError, match=r"disagree.*Test001.*abnormal by its name, normal by the table"):
        label_videos(videos, rule=RULE, table=table)


def test_a_table_that_puts_a_video_into_another_split_is_refused():
    with pytest.raises(DataError, match=r"more than one split.*lists and the table.*got v1"):
        label_videos([ListedVideo("v1", "train")], table=[ListedVideo("v1", "test", "normal")])


def test_without_a_rule_nothing_is_guessed():
    with pytest.raises(DataError, match=r"nothing says whether.*'v1'"):
        label_videos([ListedVideo("v1", "train")])


def test_a_table_gives_class_and_domain(tmp_path):
    table = read_labels(write(tmp_path / "l.csv", "video,label,class,domain", "v1,abnormal,cart,street", "v2,normal,,park"))
    labelled = label_videos([ListedVideo("v2", "train"), ListedVideo("v1", "test")], table=table)
    assert labelled == (
        ListedVideo("v2", "train", "normal", "", "park"),
        ListedVideo("v1", "test", "abnormal", "cart", "street"),
    )


@pytest.mark.parametrize(
    "rows, message",
    [
        (["v1,odd,train"], "unknown label.*line 2.*'odd'"),
        (["v1,normal,train", "v1,normal,train"], "listed twice.*line 3"),
        (["v1,normal,train", "v1,normal,test"], "more than one split.*line 3"),
        ([], "lists no video"),
    ],
)
def test_wrong_tables(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_labels(write(tmp_path / "l.csv", "video,label,split", *rows))
