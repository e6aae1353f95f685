"""Definitions of benchmarks: their sizes as METHOD states them, and their names on names of the published lists."""

import pytest

from lego_fusion.data.lists import BENCHMARKS, ListedVideo, benchmark
from lego_fusion.errors import DataError, ParameterError


def videos(split, normal, abnormal):
    kinds = ["normal"] * normal + ["abnormal"] * abnormal
    return [ListedVideo(f"{split}{number}", split, kind) for number, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    "name, train, test",
    [
        ("ped2", (4, 6), (12, 6)),
        ("shanghaitech", (175, 63), (155, 44)),
        ("ucf-crime", (800, 810), (150, 140)),
        ("xd-violence", (2047, 1904), (400, 400)),
        ("msad", (360, 120), (120, 120)),
    ],
)
def test_the_right_sizes_pass_and_one_video_less_is_named(name, train, test):
    listed = videos("train", *train) + videos("test", *test)
    known = benchmark(name)
    assert known.problems(listed) == []
    problems = known.problems(listed[1:])
    assert len(problems) == 1
    assert "split 'train'" in str(problems[0]) and f"{sum(train) - 1} videos" in str(problems[0])


@pytest.mark.parametrize("name, total", [("avenue", 37), ("street-scene", 81)])
def test_where_weak_splits_differ_the_total_is_checked(name, total):
    known = benchmark(name)
    assert known.problems(videos("train", 10, 7) + videos("test", total - 20, 3)) == []
    (problem,) = known.problems(videos("train", 10, 7) + videos("test", total - 21, 3))
    assert f"{total} videos in all splits together" in str(problem) and f"got {total - 1} videos" in str(problem)


def test_a_label_turned_over_is_a_problem_where_both_numbers_are_known():
    problems = benchmark("shanghaitech").problems(videos("train", 174, 64) + videos("test", 155, 44))
    assert ["63 of them abnormal" in str(problem) for problem in problems] == [True]


@pytest.mark.parametrize(
    "name, video, label, class_name",
    [
        ("ped2", "Test002", "abnormal", ""),
        ("ped2", "Train016", "normal", ""),
        ("ped2", "test_02", "abnormal", ""),
        ("shanghaitech", "01_0015", "abnormal", ""),
        ("shanghaitech", "01_001", "normal", ""),
        ("ucf-crime", "Abuse028_x264", "abnormal", "Abuse"),
        ("ucf-crime", "RoadAccidents133_x264", "abnormal", "RoadAccidents"),
        ("ucf-crime", "Normal_Videos_003_x264", "normal", ""),
        ("ucf-crime", "Normal_Videos548_x264", "normal", ""),
        ("xd-violence", "One.Day.2011__#01-02-50_01-07-05_label_A", "normal", ""),
        ("xd-violence", "v=ROrpKx3aIjA__#1_label_G-0-0", "abnormal", "G-0-0"),
        ("xd-violence", "Kingsman.The.Secret.Service.2014__#01-43-40_01-44-50_label_B2-G-0", "abnormal", "B2-G-0"),
        ("msad", "MSAD_normal_testing_1", "normal", ""),
        ("msad", "Fighting_1", "abnormal", ""),
    ],
)
def test_published_names(name, video, label, class_name):
    rule = benchmark(name).names
    assert rule is not None
    assert rule(video) == (label, class_name)


@pytest.mark.parametrize("name, video", [("shanghaitech", "Test002"), ("ped2", "01_0015"), ("ucf-crime", "01_001")])
def test_names_of_another_benchmark_are_refused(name, video):
    with pytest.raises(DataError, match=f"{video}.*right benchmark"):
        benchmark(name).names(video)


def test_an_unknown_benchmark_lists_the_known():
    with pytest.raises(ParameterError, match=r"'shanghaitech'.*Got 'shanghai'"):
        benchmark("shanghai")


def test_every_benchmark_says_what_and_where():
    assert set(BENCHMARKS) == {"ped2", "avenue", "shanghaitech", "street-scene", "ucf-crime", "xd-violence", "msad"}
    assert all(one.metric and one.protocol and "project page" in one.obtain for one in BENCHMARKS.values())
