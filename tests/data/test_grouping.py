"""Which videos no split may divide: by a column, by names, and what only looks like parts of one recording."""

from dataclasses import replace
from pathlib import Path

import pytest

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.grouping import group_videos, likely_sources, sources_of
from lego_fusion.data.tables import DatasetConfig, VideoRecord, read_videos
from lego_fusion.errors import DataError, ParameterError

NAMES = ("door_01_a", "door_01_b", "door_02_a", "yard")


@pytest.fixture
def doors(tmp_path: Path) -> Dataset:
    cameras = ("north", "north", "south", "")
    records = [
        VideoRecord(name, label, 9, 10.0, camera=camera, class_name=kind)
        for name, camera, label, kind in zip(
            NAMES, cameras, ("normal", "abnormal", "abnormal", "normal"), ("still", "fight", "fight", "still"), strict=True
        )
    ]
    return write_dataset(tmp_path / "doors", DatasetConfig(name="doors"), records)


def groups(dataset: Dataset, by: str) -> set[frozenset[str]]:
    keys = sources_of(group_videos(dataset, by).videos)
    return {frozenset(video for video in keys if keys[video] == key) for key in keys.values()}


def alone(*names: str) -> set[frozenset[str]]:
    return {frozenset([name]) for name in names}


@pytest.mark.parametrize(
    ("by", "together"),
    [
        ("", set()),
        ("camera", {"door_01_a", "door_01_b"}),
        ("class", {"door_01_b", "door_02_a"}),  # normal videos have no kind of anomaly
        (r"(.+)_[ab]$", {"door_01_a", "door_01_b"}),
        (r"door", {"door_01_a", "door_01_b", "door_02_a"}),
    ],
)
def test_videos_are_grouped_by_a_column_or_by_their_names(doors: Dataset, by: str, together: set[str]) -> None:
    expected = ({frozenset(together)} if together else set()) | alone(*(set(NAMES) - together))
    assert groups(doors, by) == expected
    assert group_videos(doors, by).hash == doors.hash  # no file is changed


def test_no_grouping_divides_a_source(doors: Dataset) -> None:
    sources = dict(zip(NAMES, ("", "tape", "tape", "tape"), strict=True))
    known = replace(doors, videos=tuple(replace(one, source=sources[one.video]) for one in doors.videos))
    assert groups(known, "source") == {frozenset(NAMES[1:])} | alone(NAMES[0])
    assert groups(known, "camera") == {frozenset(NAMES)}  # one camera holds a part of the tape


@pytest.mark.parametrize(
    ("by", "error", "match"),
    [
        ("domain", DataError, r"no video has a domain to group by \(dataset 'doors'\).*fill the column 'domain'"),
        ("camra", ParameterError, r"no column is called so, and no name of a video matches.*'door_01_a'"),
        ("(door", ParameterError, r"cannot be grouped so.*expected source, camera, domain, class.*'\(door'"),
    ],
)
def test_what_cannot_be_grouped_is_one_line(doors: Dataset, by: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        group_videos(doors, by)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (("door_01_part1", "door_01_Part02", "yard_1"), {"door_01"}),
        (("01_p00", "01_p01", "02_p00", "02_p01"), {"01", "02"}),
        (("a-CLIP-1", "a-clip-2", "b seg 3", "b seg 4", "c.cut.1", "c.cut2"), {"a", "b", "c"}),
        (("x-001", "x-002", "y-001", "y-002", "z-001"), {"x", "y"}),
        (("scene-001", "scene-002", "scene-003", "yard-001"), set()),  # a folder that counts
        (("street_clip_1", "street_clip_2"), set()),  # all of them: the name of the dataset
        (("stop1", "stop2", "scene_0001", "scene_0002", "Abuse028_x264"), set()),
        (("door_01_part1", "yard_02_part1"), set()),
    ],
)
def test_names_that_look_like_parts(names: tuple[str, ...], stems: set[str]) -> None:
    assert set(likely_sources(names)) == stems


def test_a_table_keeps_source_and_file(tmp_path: Path) -> None:
    records = [
        VideoRecord("a", "normal", 9, 10.0, source="tape", file="in/a.mp4"),
        VideoRecord("b", "", 9, 10.0, file="in/b.mp4"),
    ]
    assert write_dataset(tmp_path, DatasetConfig(name="doors"), records).videos == tuple(records)


def test_a_video_file_as_source_of_one_video_is_its_file(tmp_path: Path) -> None:
    """As earlier versions wrote it; a recording that several videos were cut from is their source."""
    rows = ("a,normal,9,10,,in/a.mp4", "b,normal,9,10,,tape.avi", "c,normal,9,10,,tape.avi", "d,normal,9,10,,tape")
    (tmp_path / "videos.csv").write_text("\n".join(("video,label,frames,fps,split,source", *rows)))
    found = [(one.source, one.file) for one in read_videos(tmp_path / "videos.csv")]
    assert found == [("", "in/a.mp4"), ("tape.avi", ""), ("tape.avi", ""), ("tape", "")]
