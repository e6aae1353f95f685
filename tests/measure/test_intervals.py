"""Intervals against plain loops, closed forms and simulation, and what must not change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.measure.detection import (
    METRICS,
    ScoredVideo,
    abnormal_auc,
    average_precision,
    false_alarm_rate,
    macro_auc,
    micro_auc,
)
from lego_fusion.measure.intervals import (
    Estimate,
    bootstrap_interval,
    combined_intervals,
    mean_interval,
    paired_difference,
    seeded_interval,
)

Make = Callable[..., list[ScoredVideo]]
METRIC = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())


def level_of(scored: Sequence[ScoredVideo]) -> float:
    """A metric with a known distribution: the mean over videos of a video's first score."""
    return float(np.mean([video.scores[0] for video in scored]))


def constant_videos(normal: Sequence[float], abnormal: Sequence[float]) -> list[ScoredVideo]:
    """Videos of one frame, whose score is given."""
    return [
        *(ScoredVideo.from_frames(f"n{n:04}", [score], [0]) for n, score in enumerate(normal)),
        *(ScoredVideo.from_frames(f"a{n:04}", [score], [1]) for n, score in enumerate(abnormal)),
    ]


def shifted(videos: Sequence[ScoredVideo], noise: float, seed: int) -> list[ScoredVideo]:
    generator = np.random.default_rng(seed)
    return [replace(v, scores=v.scores + generator.normal(scale=noise, size=v.scores.shape)) for v in videos]


# --- oracles ---------------------------------------------------------------------------------------------------------


def test_interval_is_the_quantiles_of_a_stratified_resampling(make_videos: Make) -> None:
    videos = make_videos(10, 6)
    seen: list[list[str]] = []
    values: list[float] = []

    def record(resample: Sequence[ScoredVideo]) -> float:
        seen.append([video.video.partition("#")[0] for video in resample])
        values.append(micro_auc(resample))
        return values[-1]

    estimate = bootstrap_interval(videos, record, resamples=300, level=0.9)
    names, samples = seen[1:], sorted(values[1:])  # the first call is the value itself
    assert estimate.value == values[0] == micro_auc(videos)
    assert len(samples) == estimate.resamples == 300
    at = [q * 299 for q in (0.05, 0.95)]  # quantile by linear interpolation between order statistics
    low, high = (samples[int(a)] + (a - int(a)) * (samples[int(a) + 1] - samples[int(a)]) for a in at)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-12)
    normal = {f"v{n:03}" for n in (0, 3, 6, 9)}
    assert all(sum(name in normal for name in draw) == 4 and len(draw) == 10 for draw in names)
    drawn = np.array([[draw.count(f"v{n:03}") for n in range(10)] for draw in names])
    np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.2)


@METRIC
def test_fast_metrics_have_the_interval_of_the_plain_metric(metric: Callable[..., float], make_videos: Make) -> None:
    videos = make_videos(8, 5)
    fast = bootstrap_interval(videos, metric, resamples=100)
    slow = bootstrap_interval(videos, lambda scored: metric(scored), resamples=100)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), abs=1e-12)


def test_width_is_that_of_the_stratified_standard_error() -> None:
    generator = np.random.default_rng(3)
    normal, abnormal = generator.normal(0, 1, size=60), generator.normal(5, 2, size=40)
    estimate = bootstrap_interval(constant_videos(normal, abnormal), level_of, resamples=4000)
    error = np.sqrt(60 * np.var(normal) + 40 * np.var(abnormal)) / 100
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert (estimate.high + estimate.low) / 2 == pytest.approx(estimate.value, abs=0.2 * error)


def test_seeds_alone_give_the_variance_of_their_mean() -> None:
    shifts = np.random.default_rng(1).normal(size=12)
    runs = [constant_videos([shift] * 3, [shift] * 3) for shift in shifts]
    estimate = seeded_interval(runs, level_of, resamples=3000)
    assert estimate.value == pytest.approx(shifts.mean())
    assert estimate.unit == "video and seed"
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * shifts.std() / np.sqrt(12), rel=0.08)


def test_video_and_seed_variance_add() -> None:
    generator = np.random.default_rng(2)
    base, shifts = generator.normal(size=40), generator.normal(scale=0.3, size=10)
    runs = [constant_videos(base[:20] + shift, base[20:] + shift) for shift in shifts]
    estimate = seeded_interval(runs, level_of, resamples=2000)
    variance = (20 * base[:20].var() + 20 * base[20:].var()) / 40**2 + shifts.var() / 10
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)


def test_coverage_of_the_true_auc() -> None:
    """Independent videos of one frame: 95 % intervals hold P(s+ > s-) of two normal laws in most of 100 worlds."""
    truth = 0.7602499  # Phi(1 / sqrt 2)
    held = 0
    for world in range(100):
        generator = np.random.default_rng(world)
        videos = constant_videos(generator.normal(size=30), generator.normal(1, 1, size=30))
        estimate = bootstrap_interval(videos, micro_auc, resamples=200, seed=world)
        held += estimate.low <= truth <= estimate.high
    assert 0.88 <= held / 100 <= 0.99


# --- what must hold --------------------------------------------------------------------------------------------------


@METRIC
def test_value_is_the_metric_and_lies_inside(metric: Callable[..., float], make_videos: Make) -> None:
    for seed in range(5):
        videos = make_videos(7, 6, seed=seed)
        estimate = bootstrap_interval(videos, metric, resamples=100, level=0.1)
        assert estimate.value == pytest.approx(metric(videos), abs=1e-12)
        assert estimate.low <= estimate.value <= estimate.high


def test_interval_shrinks_with_more_videos_and_grows_with_the_level(make_videos: Make) -> None:
    videos = make_videos(9)
    many = [replace(video, video=f"{video.video}-{copy}") for copy in range(16) for video in videos]
    few, more = (bootstrap_interval(v, micro_auc) for v in (videos, many))
    assert more.value == pytest.approx(few.value)
    assert (more.high - more.low) == pytest.approx((few.high - few.low) / 4, rel=0.25)
    wide, narrow = (bootstrap_interval(videos, micro_auc, level=level) for level in (0.99, 0.5))
    assert wide.low <= few.low <= narrow.low <= narrow.high <= few.high <= wide.high


@METRIC
def test_order_and_splitting_do_not_matter_and_the_seed_decides(metric: Callable[..., float], make_videos: Make) -> None:
    videos = make_videos(9)
    estimate = bootstrap_interval(videos, metric, resamples=200, seed=3)
    assert bootstrap_interval(videos, metric, resamples=200, seed=3) == estimate
    assert bootstrap_interval(videos[::-1], metric, resamples=200, seed=3) == estimate
    assert any(bootstrap_interval(videos, metric, resamples=200, seed=other).low != estimate.low for other in range(3))
    split = [
        replace(v, scores=np.repeat(v.scores, 2), labels=np.repeat(v.labels, 2), weights=np.repeat(v.weights / 2, 2))
        for v in videos
    ]
    halves = bootstrap_interval(split, metric, resamples=200, seed=3)
    assert (halves.low, halves.high) == pytest.approx((estimate.low, estimate.high), abs=1e-12)


def test_perfect_scores_have_no_width() -> None:
    estimate = bootstrap_interval(constant_videos([0.1, 0.2, 0.3], [0.7, 0.8]), micro_auc)
    assert (estimate.low, estimate.value, estimate.high) == (1.0, 1.0, 1.0)


def test_a_metric_with_parameters_can_be_used(make_videos: Make) -> None:
    videos = make_videos(12)
    estimate = bootstrap_interval(videos, partial(false_alarm_rate, threshold=0.5), resamples=100)
    assert estimate.low <= false_alarm_rate(videos, 0.5) <= estimate.high


@METRIC
def test_equal_runs_are_one_run(metric: Callable[..., float], make_videos: Make) -> None:
    videos = make_videos(9)
    one, many = bootstrap_interval(videos, metric), seeded_interval([videos, videos, videos], metric)
    assert (many.value, many.low, many.high) == pytest.approx((one.value, one.low, one.high), abs=1e-12)
    assert seeded_interval([videos], metric) == one


def test_seeded_value_is_the_mean_over_runs(make_videos: Make) -> None:
    runs = [shifted(make_videos(9), 0.5, seed) for seed in range(4)]
    estimate = seeded_interval(runs, average_precision)
    assert estimate.value == pytest.approx(np.mean([average_precision(run) for run in runs]), abs=1e-12)
    backwards = seeded_interval([run[::-1] for run in runs], average_precision)
    assert backwards == estimate


# --- paired differences ----------------------------------------------------------------------------------------------


@METRIC
def test_identical_methods_differ_by_zero(metric: Callable[..., float], make_videos: Make) -> None:
    videos = make_videos()
    estimate = paired_difference(videos, videos[::-1], metric)
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)
    runs = [videos, shifted(videos, 0.3, 1)]
    estimate = paired_difference(runs, runs, metric)
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


@METRIC
def test_exchanging_the_methods_changes_the_sign(metric: Callable[..., float], make_videos: Make) -> None:
    good, poor = make_videos(12), shifted(make_videos(12), 3.0, 1)
    one, other = paired_difference(good, poor, metric), paired_difference(poor, good, metric)
    assert one.value == pytest.approx(metric(good) - metric(poor), abs=1e-12)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-12)
    assert one.value > 0


def test_pairing_removes_what_the_videos_share(make_videos: Make) -> None:
    videos = make_videos(12)
    near = shifted(videos, 0.05, 1)
    alone = bootstrap_interval(videos, micro_auc)
    paired = paired_difference(videos, near, micro_auc)
    assert paired.unit == "video"
    assert paired.high - paired.low < (alone.high - alone.low) / 2
    assert abs(paired.value) < paired.high - paired.low + 1e-3


def test_several_seeds_against_one_run_and_against_pairs() -> None:
    shifts = np.random.default_rng(0).normal(size=10)
    runs = [constant_videos([shift, shift + 1], [shift, shift + 1]) for shift in shifts]
    constant = constant_videos([0.0, 1.0], [0.0, 1.0])
    unequal = paired_difference(runs, constant, level_of, resamples=2000)
    assert unequal.value == pytest.approx(shifts.mean())
    assert unequal.unit == "video and seed"
    assert unequal.high - unequal.low == pytest.approx(2 * 1.96 * shifts.std() / np.sqrt(10), rel=0.12)
    pairs = paired_difference(runs, [constant] * 10, level_of, resamples=2000)
    assert pairs.high - pairs.low == pytest.approx(unequal.high - unequal.low, rel=0.12)
    raised = [constant_videos([s + 0.5, s + 1.5], [s + 0.5, s + 1.5]) for s in shifts]
    same = paired_difference(raised, runs, level_of)  # seeds are paired too, so nothing varies
    assert (same.low, same.high) == pytest.approx((0.5, 0.5), abs=1e-12)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_kind_of_video_that_comes_once_is_refused_where_it_matters(make_videos: Make) -> None:
    lone_normal = make_videos(3)
    with pytest.raises(DataError, match="at least 2 normal videos, got 1, 'v000'"):
        bootstrap_interval(lone_normal, micro_auc)
    assert bootstrap_interval(lone_normal, abnormal_auc).resamples == 1000
    assert bootstrap_interval(lone_normal, macro_auc).resamples == 1000
    lone_abnormal = [*make_videos(1), ScoredVideo.from_frames("n", [0.0], [0]), make_videos(2)[1]]
    for metric in METRICS.values():
        with pytest.raises(DataError, match="at least 2 abnormal videos"):
            bootstrap_interval(lone_abnormal, metric)
    full = ScoredVideo.from_frames("full", [1.0], [1])
    with pytest.raises(DataError, match="at least 2 two-class videos"):
        bootstrap_interval([make_videos(2)[1], full], macro_auc)


def test_resamples_without_a_value_are_counted_or_refused() -> None:
    both = [ScoredVideo.from_frames(f"both {n}", [0.0, 1.0, 0.5], [0, 1, 1]) for n in range(2)]
    full = [ScoredVideo.from_frames(f"full {n}", [1.0], [1]) for n in range(2)]
    estimate = bootstrap_interval([*both, *full], abnormal_auc)  # (2/4)^4 of the resamples hold no normal frame
    assert estimate.undefined == pytest.approx(1000 / 16, rel=0.4)
    values = iter([0.5, *[float("nan")] * 51, *[0.5] * 49])
    with pytest.raises(DataError, match=r"undefined on most resamples.*49 of 100"):
        bootstrap_interval([*both, *full], lambda _: next(values), resamples=100)


def test_undefined_metrics_say_what_is_missing(make_videos: Make) -> None:
    normal = constant_videos([0.1, 0.2, 0.3], [])
    with pytest.raises(DataError, match="no abnormal frame"):
        bootstrap_interval(normal, micro_auc)
    with pytest.raises(DataError, match="no abnormal frame"):
        bootstrap_interval(normal, abnormal_auc)
    with pytest.raises(DataError, match="no finite value"):
        bootstrap_interval(make_videos(), lambda _: float("nan"))


def test_runs_of_other_videos_or_other_truth_are_refused(make_videos: Make) -> None:
    videos = make_videos(9)
    with pytest.raises(DataError, match=r"different videos \(run 1 against run 0\).*8 against 9.*v008"):
        seeded_interval([videos, videos[:-1]], micro_auc)
    with pytest.raises(DataError, match="different videos"):
        paired_difference(videos, [*videos[:-1], replace(videos[-1], video="other")], micro_auc)
    relabelled = [*videos[:-1], replace(videos[-1], labels=np.ones_like(videos[-1].labels))]
    with pytest.raises(DataError, match=r"different ground truth \(video 'v008'\)"):
        paired_difference(videos, relabelled, micro_auc)
    with pytest.raises(DataError, match="more than once"):
        seeded_interval([videos, [*videos, videos[0]]], micro_auc)


def test_nothing_to_measure_is_refused(make_videos: Make) -> None:
    for nothing in ([], [[]]):
        with pytest.raises(DataError, match="nothing to measure"):
            seeded_interval(nothing, micro_auc)
        with pytest.raises(DataError, match="nothing to measure"):
            paired_difference(make_videos(), nothing, micro_auc)
        with pytest.raises(DataError, match="nothing to measure"):
            paired_difference(nothing, make_videos(), micro_auc)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"resamples": 0}, "'resamples' parameter"),
        ({"level": 0.0}, r"'level' parameter.*\(0, 1\)"),
        ({"level": 1.0}, r"'level' parameter.*\(0, 1\)"),
        ({"level": 95.0}, "'level' parameter"),
        ({"seed": -1}, "'seed' parameter"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict, match: str, make_videos: Make) -> None:
    with pytest.raises(ParameterError, match=match):
        bootstrap_interval(make_videos(), micro_auc, **parameters)


def test_an_estimate_prints_its_interval() -> None:
    assert str(Estimate(0.95, 0.9, 0.975, level=0.95, resamples=10)) == "0.9500 [0.9000, 0.9750]"


def test_combinations_are_measured_on_the_same_resamples(make_videos: Make) -> None:
    videos, near = make_videos(seed=1), make_videos(seed=1, signal=2.0)
    rows = np.array([[1.0, -1.0], [0.0, 2.0], [0.5, 0.5]])
    difference, doubled, mean = combined_intervals(
        [videos, near], rows, micro_auc, offsets=np.array([0.0, -1.0, 0.0]), resamples=200
    )
    assert difference == paired_difference(videos, near, micro_auc, resamples=200)
    alone = bootstrap_interval(near, micro_auc, resamples=200)
    assert (doubled.low, doubled.high) == pytest.approx((2 * alone.low - 1, 2 * alone.high - 1))
    assert mean.value == pytest.approx((micro_auc(videos) + micro_auc(near)) / 2)
    with pytest.raises(DataError, match="different videos"):
        combined_intervals([videos, videos[1:]], rows, micro_auc)


# --- a number per unit ----------------------------------------------------------------------------------------------


def test_two_numbers_have_the_interval_between_them() -> None:
    """Half of the resamples are the middle, a quarter each end."""
    estimate = mean_interval([0.4, 0.8], resamples=4000)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.4, 0.6, 0.8))
    narrow = mean_interval([0.4, 0.8], resamples=4000, level=0.4)
    assert (narrow.low, narrow.high) == pytest.approx((0.6, 0.6))


def test_many_numbers_have_the_interval_of_their_mean() -> None:
    values = np.random.default_rng(3).normal(0.9, 0.05, size=400)
    estimate = mean_interval(values.tolist(), resamples=4000)
    half = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert (estimate.unit, estimate.resamples) == ("split", 4000)


def test_an_interval_of_means_moves_and_stretches_with_them() -> None:
    values = [0.3, 0.1, 0.4, 0.1, 0.5]
    plain, moved = mean_interval(values), mean_interval([2 * value + 1 for value in values])
    assert (moved.low, moved.high) == pytest.approx((2 * plain.low + 1, 2 * plain.high + 1))
    assert mean_interval([0.7] * 3).low == mean_interval([0.7] * 3).high == pytest.approx(0.7)


def test_an_interval_of_means_needs_several_finite_numbers() -> None:
    for values in ([], [0.5], [0.5, float("nan")]):
        with pytest.raises(DataError, match="an interval over datasets needs several values: expected at least 2 finite"):
            mean_interval(values, unit="dataset")
    with pytest.raises(ParameterError, match="'level' parameter of bootstrap"):
        mean_interval([0.1, 0.2], level=1.0)
