"""Intervals against plain loops, closed forms and simulation, and what must not change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import beta, poisson, t

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
    combined_intervals,
    count_dispersion,
    jackknife_interval,
    mean_interval,
    metric_interval,
    paired_difference,
    rate_interval,
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


def by_loops(runs: Sequence[Sequence[ScoredVideo]], metric: Callable[..., float]) -> tuple[float, float, float]:
    """Value, variance and degrees of freedom, from lists without one video and sums over pairs of seeds."""
    values, inverse, total = [metric(run) for run in runs], 0.0, 0.0
    pairs = [(s, o) for s in range(len(runs)) for o in range(len(runs)) if s != o or len(runs) == 1]
    for kind in (True, False):
        places = [place for place, video in enumerate(runs[0]) if video.abnormal == kind]
        left = [[metric([*run[:i], *run[i + 1 :]]) for i in places] for run in runs]
        apart = [[one - np.mean(row) for one in row] for row in left]
        products = [sum(a * b for a, b in zip(apart[s], apart[o], strict=True)) for s, o in pairs]
        part = max(0.0, (len(places) - 1) / len(places) * float(np.mean(products)))
        total += part
        inverse += part / (len(places) - 1)
    inverse *= total
    if len(runs) > 1:
        seeds = sum((value - np.mean(values)) ** 2 for value in values) / (len(values) - 1) / len(values)
        inverse, total = inverse + seeds**2 / (len(values) - 1), total + seeds
    return float(np.mean(values)), total, total**2 / inverse


@METRIC
@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_interval_is_that_of_plain_loops_on_the_logit_scale(
    metric: Callable[..., float], seeds: int, make_videos: Make
) -> None:
    videos = make_videos(11, 6)
    runs = [shifted(videos, 0.4, seed) for seed in range(seeds)]
    value, variance, freedom = by_loops(runs, metric)
    half = t.ppf(0.95, freedom) * variance**0.5 / (value * (1 - value))
    odds = value / (1 - value)
    low, high = (1 / (1 + 1 / (odds * np.exp(sign * half))) for sign in (-1, 1))
    estimate = metric_interval(runs, metric, level=0.9)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, low, high), abs=1e-12)
    assert estimate.unit == ("video" if seeds == 1 else "video and seed")


def test_an_own_metric_has_a_symmetric_interval_from_the_same_formula(make_videos: Make) -> None:
    runs = [shifted(make_videos(11), 0.4, seed) for seed in range(3)]
    value, variance, freedom = by_loops(runs, level_of)
    estimate = metric_interval(runs, level_of)
    half = t.ppf(0.975, freedom) * variance**0.5
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, value - half, value + half))


def test_the_interval_of_a_mean_is_students() -> None:
    """Of one kind of video the jackknife variance of a mean is s^2 / n exactly."""
    values = np.array([0.3, 0.9, 0.4, 0.8, 0.1])
    half = t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5)
    estimate = metric_interval(constant_videos(values, []), level_of)
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_seeds_alone_give_the_t_interval_of_their_mean() -> None:
    shifts = np.random.default_rng(1).normal(size=12)
    runs = [constant_videos([shift] * 3, [shift] * 3) for shift in shifts]
    estimate = metric_interval(runs, level_of)
    half = t.ppf(0.975, 11) * shifts.std(ddof=1) / np.sqrt(12)
    assert (estimate.value, estimate.high - estimate.value) == pytest.approx((shifts.mean(), half))


def test_video_and_seed_variance_add() -> None:
    generator = np.random.default_rng(2)
    base, shifts = generator.normal(size=40), generator.normal(scale=0.3, size=10)
    runs = [constant_videos(base[:20] + shift, base[20:] + shift) for shift in shifts]
    estimate = metric_interval(runs, level_of)
    videos = 19 / 20 * (19 * base[:20].var(ddof=1) + 19 * base[20:].var(ddof=1)) / 39**2
    seeds = shifts.var(ddof=1) / 10
    halves = [t.ppf(0.975, freedom) * np.sqrt(videos + seeds) for freedom in (19, 48)]  # between the least and all together
    assert halves[1] <= estimate.high - estimate.value <= halves[0]


def test_noise_of_seed_and_video_together_is_not_counted_twice() -> None:
    """Scores that no two seeds share hold no variance of videos: what is left is that of the seeds, which holds it already."""
    generator = np.random.default_rng(4)
    values = generator.normal(size=(200, 8))
    runs = [constant_videos(row[:4], row[4:]) for row in values]
    estimate = metric_interval(runs, level_of)
    half = t.ppf(0.975, 199) * values.mean(axis=1).std(ddof=1) / np.sqrt(200)
    assert half <= estimate.high - estimate.value < 1.15 * half  # counted twice it would be 2 ** 0.5 times


@pytest.mark.parametrize(("sizes", "seeds", "effect"), [((6, 12), 1, 0.0), ((6, 12), 3, 0.6), ((12, 12), 3, 0.0)])
def test_the_intervals_of_small_sets_cover(sizes: tuple[int, int], seeds: int, effect: float) -> None:
    """Scores that are correlated within videos: percentiles of resampled videos hold the true AUC in 83 to 91 % of these."""

    def world(generator: np.random.Generator, abnormal: int, normal: int, runs: int) -> list[list[ScoredVideo]]:
        own = generator.normal(0, 0.7, (abnormal + normal, 1)) + generator.normal(0, 1, (abnormal + normal, 10))
        labels = np.zeros((abnormal + normal, 10), np.bool_)
        labels[:abnormal, 3:7] = True
        scores = [own + (1.5 + generator.normal(0, effect)) * labels + generator.normal(0, 0.5, own.shape) for _ in range(runs)]
        ones = np.ones(10)
        return [[ScoredVideo(f"{v:04}", run[v], labels[v], ones) for v in range(len(run))] for run in scores]

    large = [world(np.random.default_rng((1, n)), 500, 1000, 1)[0] for n in range(20)]
    truth = np.mean([micro_auc(one) for one in large])
    worlds = [world(np.random.default_rng((2, n)), *sizes, seeds) for n in range(400)]
    intervals = [metric_interval(runs, micro_auc) for runs in worlds]
    assert 0.925 <= np.mean([one.low <= truth <= one.high for one in intervals]) <= 0.985


# --- what must hold --------------------------------------------------------------------------------------------------


@METRIC
def test_value_is_the_metric_and_lies_inside(metric: Callable[..., float], make_videos: Make) -> None:
    for seed in range(5):
        videos = make_videos(10, 6, seed=seed)
        estimate = metric_interval(videos, metric, level=0.1)
        assert estimate.value == pytest.approx(metric(videos), abs=1e-12)
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1


def test_interval_shrinks_with_more_videos_and_grows_with_the_level(make_videos: Make) -> None:
    videos = make_videos(9)
    many = [replace(video, video=f"{video.video}-{copy}") for copy in range(16) for video in videos]
    few, more = (metric_interval(v, micro_auc) for v in (videos, many))
    assert more.value == pytest.approx(few.value)
    assert (more.high - more.low) < (few.high - few.low) / 4  # the quantile falls as well
    wide, narrow = (metric_interval(videos, micro_auc, level=level) for level in (0.99, 0.5))
    assert wide.low < few.low < narrow.low < narrow.high < few.high < wide.high


@METRIC
def test_order_and_splitting_do_not_matter(metric: Callable[..., float], make_videos: Make) -> None:
    videos = make_videos(10)
    estimate = metric_interval(videos, metric)
    assert metric_interval(videos[::-1], metric) == estimate
    split = [
        replace(v, scores=np.repeat(v.scores, 2), labels=np.repeat(v.labels, 2), weights=np.repeat(v.weights / 2, 2))
        for v in videos
    ]
    halves = metric_interval(split, metric)
    assert (halves.low, halves.high) == pytest.approx((estimate.low, estimate.high), abs=1e-12)


def test_perfect_scores_leave_what_as_many_videos_without_an_error_leave() -> None:
    """Three videos of the rarer kind: P(no error) = 2.5 % where an error has probability 1 - 0.025^(1/3)."""
    estimate = metric_interval(constant_videos([0.1, 0.2, 0.3, 0.4], [0.7, 0.8, 0.9]), micro_auc)
    assert (estimate.low, estimate.value, estimate.high) == (pytest.approx(beta.ppf(0.025, 3, 1)), 1.0, 1.0)
    estimate = metric_interval(constant_videos([0.7, 0.8, 0.9], [0.1, 0.2, 0.3]), micro_auc)
    assert (estimate.low, estimate.value, estimate.high) == (0.0, 0.0, pytest.approx(beta.ppf(0.975, 1, 3)))


def test_a_metric_with_parameters_can_be_used(make_videos: Make) -> None:
    videos = make_videos(12)
    estimate = metric_interval(videos, partial(false_alarm_rate, threshold=0.5))
    assert estimate.low <= false_alarm_rate(videos, 0.5) <= estimate.high


@METRIC
def test_equal_runs_are_one_run_but_for_the_unit(metric: Callable[..., float], make_videos: Make) -> None:
    videos = make_videos(10)
    one, many = metric_interval(videos, metric), metric_interval([videos, videos, videos], metric)
    assert (many.value, many.low, many.high) == pytest.approx((one.value, one.low, one.high), abs=1e-12)
    assert metric_interval([videos], metric) == one


def test_order_of_the_runs_does_not_matter(make_videos: Make) -> None:
    runs = [shifted(make_videos(9), 0.5, seed) for seed in range(4)]
    estimate = metric_interval(runs, average_precision)
    assert estimate.value == pytest.approx(np.mean([average_precision(run) for run in runs]), abs=1e-12)
    backwards = metric_interval([run[::-1] for run in runs[::-1]], average_precision)
    assert (backwards.low, backwards.high) == pytest.approx((estimate.low, estimate.high), abs=1e-12)


# --- paired differences ----------------------------------------------------------------------------------------------


@METRIC
def test_identical_methods_differ_by_zero(metric: Callable[..., float], make_videos: Make) -> None:
    videos = make_videos(10)
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
    alone = metric_interval(videos, micro_auc)
    paired = paired_difference(videos, near, micro_auc)
    assert paired.unit == "video"
    assert paired.high - paired.low < (alone.high - alone.low) / 2
    assert abs(paired.value) < paired.high - paired.low + 1e-3


def test_a_method_without_seeds_is_paired_with_every_run_of_the_other() -> None:
    shifts = np.random.default_rng(0).normal(size=10)
    runs = [constant_videos([shift, shift + 1, shift], [shift, shift + 1, shift]) for shift in shifts]
    constant = constant_videos([0.0, 1.0, 0.0], [0.0, 1.0, 0.0])
    single = paired_difference(runs, constant, level_of)
    half = t.ppf(0.975, 9) * shifts.std(ddof=1) / np.sqrt(10)
    assert (single.value, single.low, single.high) == pytest.approx((shifts.mean(), shifts.mean() - half, shifts.mean() + half))
    assert single.unit == "video and seed"
    assert paired_difference(runs, [constant] * 10, level_of) == single
    raised = [[replace(video, scores=video.scores + 0.5) for video in run] for run in runs]
    same = paired_difference(raised, runs, level_of)  # seeds are paired too, so nothing varies
    assert (same.low, same.high) == pytest.approx((0.5, 0.5), abs=1e-12)
    with pytest.raises(DataError, match=r"paired by seed.*10 runs of both.*got 3"):
        paired_difference(runs, runs[:3], level_of)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_too_few_videos_of_a_kind_are_refused_where_it_matters(make_videos: Make) -> None:
    for normal in (1, 2):
        few_normal = constant_videos([0.1] * normal, [0.2, 0.6, 0.3])
        with pytest.raises(DataError, match=f"at least 3 normal videos, got {normal}: n0000"):
            metric_interval(few_normal, micro_auc)
    lone_normal = make_videos(5)[1:]
    for metric in (abnormal_auc, macro_auc):
        assert metric_interval(lone_normal, metric).low < metric_interval(lone_normal, metric).high
    few_abnormal = [*make_videos(3), *constant_videos([0.0, 0.1], [])]
    for metric in METRICS.values():
        with pytest.raises(DataError, match="at least 3 abnormal videos"):
            metric_interval(few_abnormal, metric)
    full = [ScoredVideo.from_frames(f"full {n}", [1.0], [1]) for n in range(2)]
    with pytest.raises(DataError, match="at least 3 two-class videos, got 1"):
        metric_interval([make_videos(2)[1], *full], macro_auc)
    with pytest.raises(DataError, match="needs several of a kind"):  # an own metric that looks at both kinds
        jackknife_interval(1.0, np.array([0.5, 1.5, 1.0, 1.2, 0.8]), np.array([True, True, False, False, False]))
    left_out, kinds = np.array([0.5, 0.7, 0.6, 0.9, 0.8, 0.7]), np.arange(6) < 3
    plain, share = (jackknife_interval(0.7, left_out, kinds, share=wanted) for wanted in (False, True))
    assert plain.high > 1 > share.high > share.low > 0 > plain.low  # a difference may leave [0, 1], and is none by default
    assert jackknife_interval(0.7, left_out, kinds) == plain


def test_a_value_that_hangs_on_one_video_is_refused() -> None:
    whole = [ScoredVideo.from_frames(f"full {n}", [0.5 + n], [1]) for n in range(3)]
    only = ScoredVideo.from_frames("two classes", [0.0, 1.0], [0, 1])
    with pytest.raises(DataError, match="without one of the videos there is no value: got none without video number 3"):
        metric_interval([*whole, only], abnormal_auc)


def test_undefined_metrics_say_what_is_missing(make_videos: Make) -> None:
    normal = constant_videos([0.1, 0.2, 0.3], [])
    with pytest.raises(DataError, match="no abnormal frame"):
        metric_interval(normal, micro_auc)
    with pytest.raises(DataError, match="no abnormal frame"):
        metric_interval(normal, abnormal_auc)
    with pytest.raises(DataError, match="no finite value"):
        metric_interval(make_videos(), lambda _: float("nan"))


def test_runs_of_other_videos_or_other_truth_are_refused(make_videos: Make) -> None:
    videos = make_videos(9)
    with pytest.raises(DataError, match=r"different videos \(run 1 against run 0\).*8 against 9.*v008"):
        metric_interval([videos, videos[:-1]], micro_auc)
    with pytest.raises(DataError, match="different videos"):
        paired_difference(videos, [*videos[:-1], replace(videos[-1], video="other")], micro_auc)
    relabelled = [*videos[:-1], replace(videos[-1], labels=np.ones_like(videos[-1].labels))]
    with pytest.raises(DataError, match=r"different ground truth \(video 'v008'\)"):
        paired_difference(videos, relabelled, micro_auc)
    with pytest.raises(DataError, match="more than once"):
        metric_interval([videos, [*videos, videos[0]]], micro_auc)


def test_nothing_to_measure_is_refused(make_videos: Make) -> None:
    for nothing in ([], [[]]):
        with pytest.raises(DataError, match="nothing to measure"):
            metric_interval(nothing, micro_auc)
        with pytest.raises(DataError, match="nothing to measure"):
            paired_difference(make_videos(), nothing, micro_auc)
        with pytest.raises(DataError, match="nothing to measure"):
            paired_difference(nothing, make_videos(), micro_auc)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_levels_out_of_range_are_refused(level: float, make_videos: Make) -> None:
    for call in (
        lambda: metric_interval(make_videos(), micro_auc, level=level),
        lambda: mean_interval([0.1, 0.2, 0.3], level=level),
        lambda: rate_interval(1, 1.0, level=level),
    ):
        with pytest.raises(ParameterError, match="'level' parameter of interval"):
            call()


def test_an_estimate_prints_its_interval() -> None:
    assert str(Estimate(0.95, 0.9, 0.975, level=0.95)) == "0.9500 [0.9000, 0.9750]"


def test_combinations_are_of_the_same_videos(make_videos: Make) -> None:
    videos, near = make_videos(seed=1), make_videos(seed=1, signal=2.0)
    rows = np.array([[1.0, -1.0], [0.0, 2.0], [0.5, 0.5], [0.0, 1.0]])
    offsets = np.array([0.0, -1.0, 0.0, 0.0])
    difference, doubled, mean, alone = combined_intervals([videos, near], rows, micro_auc, offsets=offsets)
    paired = paired_difference(videos, near, micro_auc)
    assert (difference.low, difference.high) == pytest.approx((paired.low, paired.high), abs=1e-12)
    assert (doubled.low, doubled.high) == pytest.approx((2 * alone.low - 1, 2 * alone.high - 1))
    assert mean.value == pytest.approx((micro_auc(videos) + micro_auc(near)) / 2)
    with pytest.raises(DataError, match="different videos"):
        combined_intervals([videos, videos[1:]], rows, micro_auc)


# --- a number per unit ----------------------------------------------------------------------------------------------


def test_numbers_have_students_interval() -> None:
    """Standard deviation 0.1, so half the width is t(0.975; 2) 0.1 / sqrt 3 = 4.3027 * 0.057735."""
    estimate = mean_interval([0.4, 0.5, 0.6])
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.25158, 0.5, 0.74842), abs=1e-5)
    assert estimate.unit == "split"


def test_splits_that_share_videos_have_a_wider_interval() -> None:
    """Nadeau and Bengio: 1 / J + overlap in place of 1 / J, here 1 / 3 + 2 / 3."""
    plain, shared = mean_interval([0.4, 0.5, 0.6]), mean_interval([0.4, 0.5, 0.6], overlap=2 / 3)
    assert shared.high - shared.low == pytest.approx((plain.high - plain.low) * 3**0.5)


def test_an_interval_of_means_moves_and_stretches_with_them() -> None:
    values = [0.3, 0.1, 0.4, 0.1, 0.5]
    plain, moved = mean_interval(values), mean_interval([2 * value + 1 for value in values])
    assert (moved.low, moved.high) == pytest.approx((2 * plain.low + 1, 2 * plain.high + 1))
    assert mean_interval([0.75] * 4).low == mean_interval([0.75] * 4).high == 0.75
    share = mean_interval([0.9, 1.0, 0.8, 1.0], share=True)
    plain = mean_interval([0.9, 1.0, 0.8, 1.0])
    assert (share.low, share.high) == (plain.low, 1.0)  # a t interval of shares ends where shares end
    assert mean_interval([0.1, 0.0, 0.2], unit="dataset", share=True).low == 0.0
    assert mean_interval([0.1, 0.0, 0.2], unit="dataset", share=True).unit == "dataset"
    assert plain.high > 1


def test_an_interval_of_means_needs_several_finite_numbers() -> None:
    for values in ([], [0.5], [0.5, 0.6], [0.5, 0.6, float("nan")]):
        with pytest.raises(DataError, match="an interval over datasets needs several values: expected at least 3 finite"):
            mean_interval(values, unit="dataset")
    with pytest.raises(ParameterError, match="'overlap' parameter"):
        mean_interval([0.1, 0.2, 0.3], overlap=-0.1)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_ends_of_a_rate_are_where_as_many_events_become_improbable(count: int) -> None:
    """P(N >= n) = 2.5 % at the low end, P(N <= n) = 2.5 % at the high end, N Poisson with rate times hours."""
    estimate = rate_interval(count, 4.0)
    assert estimate.value == count / 4
    assert poisson.cdf(count, estimate.high * 4) == pytest.approx(0.025)
    assert estimate.unit == "hour"
    assert estimate.low == 0 if not count else poisson.sf(count - 1, estimate.low * 4) == pytest.approx(0.025)


def test_exact_rates_hold_at_least_as_often_as_they_say() -> None:
    for expected in (0.3, 2.0, 9.0):
        intervals = [rate_interval(n, 1.0) for n in range(60)]
        inside = [n for n, one in enumerate(intervals) if one.low <= expected <= one.high]
        assert poisson.pmf(inside, expected).sum() >= 0.95


def test_events_in_clusters_have_the_interval_of_their_clusters() -> None:
    """Six events in clusters of three are three times two clusters."""
    two, six = rate_interval(2, 4.0), rate_interval(6, 4.0, dispersion=3.0)
    assert (six.low, six.value, six.high) == pytest.approx((3 * two.low, 3 * two.value, 3 * two.high))
    assert count_dispersion([0, 1, 3], [1.0, 1.0, 2.0]) == 1.0  # rate 1: (1 + 0 + 1 / 2) / 2 = 0.75, not below 1
    assert count_dispersion([4, 0, 0], [1.0, 1.0, 2.0]) == pytest.approx((9 + 1 + 2) / 2)
    assert count_dispersion([4, 0, 0, 0], [1.0, 1.0, 2.0, 0.0]) == pytest.approx(6.0)  # no time, no count
    assert count_dispersion([0, 0], [1.0, 1.0]) == count_dispersion([7], [1.0]) == count_dispersion([], []) == 1.0
    assert count_dispersion([8, 0], [1.0, 1.0]) == pytest.approx(8.0)  # two stretches are enough: (16 + 16) / 4
    z = [(5 - 1) ** 2 / 1, 1.0, 1.0, 2.0]  # five events in five hours
    assert count_dispersion([5, 0, 0, 0], [1.0, 1.0, 1.0, 2.0], errors=2.0) == pytest.approx(
        sum(z) / 3 + 2 * np.std(z, ddof=1) / 2
    )
    assert count_dispersion([2, 1], [1e-3, 1e-3]) == 1.0  # a rate needs no whole hour
    with pytest.raises(ValueError, match="zip"):
        count_dispersion([1, 2], [1.0])


def test_a_rate_needs_time() -> None:
    with pytest.raises(ParameterError, match="'hours' parameter"):
        rate_interval(0, 0.0)
    with pytest.raises(ParameterError, match="'dispersion' parameter"):
        rate_interval(1, 1.0, dispersion=0.5)
