"""Metrics against scikit-learn on repeated frames, against plain definitions, and under changes that must not matter."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.measure.detection import (
    METRICS,
    ScoredVideo,
    abnormal_auc,
    average_precision,
    detection_metrics,
    false_alarm_rate,
    macro_auc,
    micro_auc,
)

Frames = list[tuple[list[int], list[bool]]]


def build(frames: Frames) -> list[ScoredVideo]:
    return [ScoredVideo.from_frames(f"v{n}", np.array(s) / 8, y) for n, (s, y) in enumerate(frames)]


def usable(frames: Frames) -> bool:
    """Some video has both classes, and some video is normal: every metric is defined."""
    return any(0 < sum(y) < len(y) for _, y in frames) and any(not any(y) for _, y in frames)


video_frames = st.integers(1, 12).flatmap(
    lambda n: st.tuples(st.lists(st.integers(-20, 20), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n))
)
many_frames = st.lists(video_frames, min_size=1, max_size=5).map(
    lambda drawn: [*drawn, ([3, 1], [False, True]), ([2], [False])]
)
fast = settings(max_examples=30, deadline=None, derandomize=True)


def all_values(videos: list[ScoredVideo], threshold: float) -> list[float]:
    values = [metric(videos) for metric in METRICS.values()]
    return [*values, false_alarm_rate(videos, threshold), false_alarm_rate(videos, threshold, normal_only=False)]


# --- oracles ---------------------------------------------------------------------------------------------------------


def frames_of(frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([s for s, _ in frames]) / 8, np.concatenate([y for _, y in frames])


@fast
@given(many_frames)
def test_pooled_metrics_equal_scikit_learn_on_repeated_frames(frames: Frames) -> None:
    videos, (scores, labels) = build(frames), frames_of(frames)
    assert usable(frames)
    assert micro_auc(videos) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(videos) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    abnormal = frames_of([(s, y) for s, y in frames if any(y)])
    assert abnormal_auc(videos) == pytest.approx(roc_auc_score(abnormal[1], abnormal[0]), abs=1e-12)


@fast
@given(many_frames)
def test_auc_is_the_share_of_pairs_in_the_right_order(frames: Frames) -> None:
    def pairs(scores: np.ndarray, labels: np.ndarray) -> float:
        gaps = scores[labels][:, None] - scores[~labels][None, :]
        return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))

    videos = build(frames)
    assert micro_auc(videos) == pytest.approx(pairs(*frames_of(frames)), abs=1e-12)
    both = [pairs(np.array(s), np.array(y)) for s, y in frames if 0 < sum(y) < len(y)]
    assert macro_auc(videos) == pytest.approx(np.mean(both), abs=1e-12)
    assert detection_metrics(videos).macro_videos == len(both)


@fast
@given(many_frames, st.integers(-20, 20))
def test_false_alarm_rate_counts_normal_frames_at_or_above_the_threshold(frames: Frames, threshold: int) -> None:
    videos = build(frames)
    of_normal_videos = [s >= threshold for scores, y in frames if not any(y) for s in scores]
    of_normal_frames = [s >= threshold for scores, y in frames for s, label in zip(scores, y, strict=True) if not label]
    assert false_alarm_rate(videos, threshold / 8) == pytest.approx(np.mean(of_normal_videos), abs=1e-12)
    assert false_alarm_rate(videos, threshold / 8, normal_only=False) == pytest.approx(np.mean(of_normal_frames))


@fast
@given(video_frames)
def test_runs_of_frames_unroll_to_the_frames(frames: tuple[list[int], list[bool]]) -> None:
    scores, labels = frames
    video = ScoredVideo.from_frames("v", scores, labels)
    counts = video.weights.astype(int)
    assert np.repeat(video.scores, counts).tolist() == scores
    assert np.repeat(video.labels, counts).tolist() == labels
    assert video.frames == len(scores)
    assert video.abnormal == any(labels)
    neighbours = pairwise(zip(video.scores, video.labels, strict=True))
    assert all(one != other for one, other in neighbours)


def test_average_precision_is_the_step_sum_and_not_the_trapezoid() -> None:
    video = ScoredVideo.from_frames("v", [4.0, 3.0, 2.0, 1.0], [0, 1, 0, 1])
    assert average_precision([video]) == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 4)  # the trapezoid gives 5/12 at most


def test_constant_scores_are_chance() -> None:
    videos = [ScoredVideo.from_frames("a", np.zeros(10), np.arange(10) < 3)]
    assert micro_auc(videos) == macro_auc(videos) == abnormal_auc(videos) == 0.5
    assert average_precision(videos) == pytest.approx(0.3)


# --- what must not matter --------------------------------------------------------------------------------------------


@fast
@given(many_frames, st.randoms(use_true_random=False))
def test_order_of_videos_and_of_runs_does_not_matter(frames: Frames, random: object) -> None:
    videos = build(frames)
    before = all_values(videos, 0.5)
    shuffled = list(videos)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    shuffled = [replace(v, scores=v.scores[::-1], labels=v.labels[::-1], weights=v.weights[::-1]) for v in shuffled]
    assert all_values(shuffled, 0.5) == pytest.approx(before, abs=1e-12)


@fast
@given(many_frames)
def test_splitting_runs_and_scaling_all_weights_do_not_matter(frames: Frames) -> None:
    videos = build(frames)
    before = all_values(videos, 0.5)
    split = [
        replace(
            v,
            scores=np.repeat(v.scores, 2),
            labels=np.repeat(v.labels, 2),
            weights=np.outer(v.weights, [0.25, 0.75]).ravel(),
        )
        for v in videos
    ]
    assert all_values(split, 0.5) == pytest.approx(before, abs=1e-12)
    assert all_values([replace(v, weights=16 * v.weights) for v in videos], 0.5) == pytest.approx(before, abs=1e-12)


@fast
@given(many_frames)
def test_a_strictly_increasing_transform_does_not_matter(frames: Frames) -> None:
    videos = build(frames)
    before = all_values(videos, 0.5)
    for transform in (lambda s: 1e300 * s, np.exp, lambda s: s**3 - 1e5, lambda s: 1e-300 * s):
        changed = [replace(v, scores=transform(v.scores)) for v in videos]
        assert all_values(changed, float(transform(0.5))) == before


def test_scores_need_no_range_and_neighbouring_floats_are_told_apart() -> None:
    low = 123456.0
    frames = [-1.7e308, low, np.nextafter(low, np.inf), 1.7e308]
    assert micro_auc([ScoredVideo.from_frames("v", frames, [0, 0, 1, 1])]) == 1.0


@pytest.mark.parametrize("metric", [micro_auc, macro_auc, abnormal_auc], ids=lambda metric: metric.__name__)
def test_negated_scores_give_the_complement(metric: Callable[..., float], make_videos: Callable[..., list]) -> None:
    videos = make_videos()
    negated = [replace(v, scores=-v.scores) for v in videos]
    assert metric(videos) + metric(negated) == pytest.approx(1.0, abs=1e-12)


# --- what is undefined -----------------------------------------------------------------------------------------------


def test_detection_metrics_leaves_out_and_names_what_is_undefined() -> None:
    normal = ScoredVideo.from_frames("normal", [0.1, 0.2], [0, 0])
    full = ScoredVideo.from_frames("full", [0.3, 0.4], [1, 1])
    found = detection_metrics([normal, full], threshold=0.2)
    whole = {"video_auc": 1.0, "video_average_precision": 1.0}
    assert found.values == {"micro_auc": 1.0, "average_precision": 1.0, **whole, "false_alarm_rate": 0.5}
    assert found.macro_videos == 0
    assert set(found.undefined) == {"macro_auc", "abnormal_auc"}
    assert "no normal frame" in found.undefined["abnormal_auc"]
    everything = detection_metrics([normal, ScoredVideo.from_frames("both", [0.0, 1.0], [0, 1])])
    assert set(everything.values) == set(METRICS)
    assert everything.undefined == {}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_one_class_names_the_missing_one(metric: Callable[..., float]) -> None:
    normal = ScoredVideo.from_frames("a", [1.0, 2.0], [0, 0])
    full = ScoredVideo.from_frames("b", [1.0, 2.0], [1, 1])
    kinds = {"video_auc": "video", "video_average_precision": "video"}
    kind = kinds.get(metric.__name__, "frame")
    missing = (f"no abnormal {kind}", f"no normal {kind}")
    missing = ("both normal and abnormal",) * 2 if metric is macro_auc else missing
    with pytest.raises(DataError, match=missing[0]):
        metric([normal])
    with pytest.raises(DataError, match=missing[1]):
        metric([full])


@pytest.mark.parametrize("metric", [*METRICS.values(), detection_metrics, lambda v: false_alarm_rate(v, 0.5)])
def test_no_video_and_repeated_videos_are_refused(metric: Callable[..., float]) -> None:
    video = ScoredVideo.from_frames("twice", [1.0, 2.0], [0, 1])
    with pytest.raises(DataError, match="at least one scored video"):
        metric([])
    with pytest.raises(DataError, match=r"more than once \(video 'twice'\)"):
        metric([video, video])


def test_false_alarm_rate_needs_normal_videos_and_a_number() -> None:
    both = ScoredVideo.from_frames("both", [1.0, 2.0], [0, 1])
    full = ScoredVideo.from_frames("full", [1.0, 2.0], [1, 1])
    with pytest.raises(DataError, match=r"at least one normal video.*normal_only=False"):
        false_alarm_rate([both], 0.5)
    assert false_alarm_rate([both], 1.0, normal_only=False) == 1.0
    with pytest.raises(DataError, match="at least one normal frame"):
        false_alarm_rate([full], 0.5, normal_only=False)
    with pytest.raises(ParameterError, match="'threshold' parameter"):
        false_alarm_rate([both], float("nan"))


@pytest.mark.parametrize(
    ("scores", "labels", "match"),
    [
        ([0.1, np.nan, 0.2], [0, 0, 1], r"scores are not finite \(video 'v07'\).*nan at position 1 \(1 of 3\)"),
        ([0.1, np.inf], [0, 1], r"not finite \(video 'v07'\).*inf"),
        ([0.1, 0.2], [0, 1, 1], r"differ in length \(video 'v07'\).*2 scores, 3 labels"),
        ([], [], r"without frames \(video 'v07'\)"),
        ([0.1, 0.2], [0, 2], r"labels are not boolean \(video 'v07'\).*got 2"),
        ([0.1, 0.2], [0, -1], r"labels are not boolean \(video 'v07'\)"),
        ([0.1, 0.2], [0.0, 1.0], r"labels are not boolean \(video 'v07'\).*float64"),
        ([0.1, 0.2], ["yes", "no"], r"labels are not boolean \(video 'v07'\)"),
        (["a", "b"], [0, 1], r"scores are not numbers \(video 'v07'\)"),
        ([[0.1], [0.2]], [0, 1], r"scores have a wrong shape \(video 'v07'\).*\(2, 1\)"),
        ([0.1, 0.2], [[0, 1]], r"labels have a wrong shape \(video 'v07'\)"),
    ],
)
def test_bad_frames_name_the_video(scores: list, labels: list, match: str) -> None:
    with pytest.raises(DataError, match=match):
        ScoredVideo.from_frames("v07", scores, labels)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ([1, 0], "run without frames"),
        ([1, -2], "run without frames"),
        ([1, np.nan], "weights are not finite"),
        ([1], "1 weights"),
    ],
)
def test_bad_weights_name_the_video(weights: list, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        ScoredVideo("v07", np.array([0.1, 0.2]), np.array([False, True]), np.array(weights, dtype=float))
    assert "v07" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scored_video_holds_its_own_read_only_arrays() -> None:
    scores = np.array([1.0, 2.0])
    video = ScoredVideo("v", scores, np.array([False, True]), np.ones(2))
    scores[0] = 9.0
    assert video.scores[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        video.scores[0] = 9.0


# --- real labels -----------------------------------------------------------------------------------------------------


def test_ped2_weak_split_has_the_published_frames(shared_data: Path) -> None:
    """3,000 real test frames, 860 of them abnormal; the label as score finds them all."""
    held_out = {f"test/{n:02}" for n in (1, 3, 4, 5, 7, 8)}
    held_out |= {f"train/{n:02}" for n in range(1, 17) if n not in (7, 8, 14, 15)}
    labels: dict[str, list[int]] = {}
    with (shared_data / "ped2" / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            labels.setdefault(f"{row['split']}/{int(row['clip'].rpartition('_')[2]):02}", []).append(int(row["label"]))
    videos = [ScoredVideo.from_frames(name, y, y) for name, y in labels.items() if name in held_out]
    assert len(videos) == 18
    assert sum(video.frames for video in videos) == 3000
    assert sum(video.weights[video.labels].sum() for video in videos) == 860
    assert micro_auc(videos) == average_precision(videos) == 1.0
    assert sum(video.abnormal for video in videos) == 6
