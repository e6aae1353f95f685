"""Thresholds keep what they promise: by simulation, by exhaustive search, and by the numbers of the textbooks."""

import math

import numpy as np
import pytest

from lego_fusion.alarm.events import EventRule, find_events
from lego_fusion.alarm.thresholds import (
    Block,
    best_f1_threshold,
    block_threshold,
    burst_size,
    cut_blocks,
    hourly_threshold,
    least_cost_threshold,
    outlying_blocks,
    rate_bound,
    required_blocks,
    required_hours,
)
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.measure.scored import ScoredVideo


@pytest.mark.parametrize(
    ("count", "share"), [(4, 0.2), (9, 0.1), (9, 0.3), (19, 0.1), (7, 0.5), (10, 0.13), (12, 0.17), (5, 0.35)]
)
def test_a_new_block_reaches_the_threshold_with_the_exact_conformal_probability(count: int, share: float) -> None:
    """For continuous exchangeable maxima P = 1 - ceil((n + 1)(1 - alpha)) / (n + 1), whatever their distribution."""
    random = np.random.default_rng(0)
    draws = random.standard_cauchy(size=(4_000, count + 1))
    alarms = np.array([row[-1] >= block_threshold(row[:-1], share) for row in draws])
    exact = 1 - math.ceil(round((count + 1) * (1 - share), 9)) / (count + 1)
    assert abs(alarms.mean() - exact) < 4 * math.sqrt(max(exact * (1 - exact), 1e-4) / len(alarms))
    assert exact <= share + 1e-12


@pytest.mark.parametrize(("count", "share", "rank"), [(10, 0.13, 10), (12, 0.17, 11), (5, 0.35, 4), (9, 0.1, 9), (20, 0.1, 19)])
def test_the_threshold_is_just_above_the_ranked_maximum(count: int, share: float, rank: int) -> None:
    """k = ceil((n + 1)(1 - alpha)): ceil(9.57), ceil(10.79), ceil(3.9), 9, ceil(18.9); with n for n + 1 some are one less."""
    maxima = np.random.default_rng(0).permutation(count).astype(float)
    assert block_threshold(maxima, share) == np.nextafter(rank - 1, np.inf)


def test_ties_can_only_make_alarms_rarer() -> None:
    assert block_threshold(np.full(9, 2.0), 0.1) > 2.0


def test_too_few_blocks_are_refused_with_the_number_needed() -> None:
    assert [required_blocks(share) for share in (0.2, 0.1, 0.05, 0.5, 1 / 3)] == [4, 9, 19, 1, 2]
    with pytest.raises(ParameterError, match=r"expected 9 normal blocks that were not trained on, got 8"):
        block_threshold(np.arange(8.0), 0.1)
    with pytest.raises(DataError, match="not finite"):
        block_threshold(np.array([0.0, np.nan]), 0.5)


def test_blocks_are_clips_or_full_lengths() -> None:
    segments = [(float(t), t + 1.0, float(x)) for t, x in enumerate([0, 5, 1, 2, 9])]
    assert cut_blocks("a", segments) == [Block("a", 0.0, 5.0, 9.0, 4.0)]
    assert cut_blocks("a", segments, 2.0) == [Block("a", 0.0, 2.0, 5.0, 1.0), Block("a", 2.0, 4.0, 2.0, 3.0)]
    assert cut_blocks("a", segments, 6.0) == []
    assert cut_blocks("a", []) == []


def test_a_segment_over_a_border_counts_in_both_blocks() -> None:
    assert [block.maximum for block in cut_blocks("a", [(0.0, 1.0, 0.0), (1.0, 3.0, 7.0), (3.0, 4.0, 1.0)], 2.0)] == [7.0, 7.0]


def test_hours_needed_and_rate_bound_are_the_rule_of_three_and_the_exact_poisson_bound() -> None:
    from scipy.stats import poisson

    assert required_hours(1.0) == pytest.approx(2.9957, abs=1e-4)
    assert required_hours(0.5) == pytest.approx(2 * required_hours(1.0))
    for alarms in (0, 1, 5):
        assert poisson.cdf(alarms, 10 * rate_bound(alarms, 10.0)) == pytest.approx(0.05)
    assert rate_bound(6, 10.0, bursts=3.0) == pytest.approx(3 * rate_bound(2, 10.0))
    assert required_hours(1.0, bursts=3.0) == pytest.approx(3 * required_hours(1.0))


def hours(*logits: float, length: float = 60.0) -> list[tuple[float, float, float]]:
    return [(length * t, length * (t + 1), x) for t, x in enumerate(logits)]


def test_the_hourly_threshold_is_the_lowest_whose_bound_keeps_the_budget() -> None:
    random = np.random.default_rng(1)
    logits = random.permutation(120).astype(float)  # ten hours of five minutes, all different
    segments = hours(*logits.tolist(), length=300.0)
    found = hourly_threshold([segments], EventRule(), 1.0)
    allowed = max(k for k in range(20) if rate_bound(k, 10.0) <= 1.0)
    assert found.alarms <= allowed
    counts = [len(find_events(segments, EventRule(threshold=float(t)))) for t in range(120)]
    lowest = min(t for t in range(120) if all(counts[u] <= allowed for u in range(t, 120)))
    assert lowest - 1 < found.rule.threshold <= lowest
    assert found.bound == pytest.approx(rate_bound(found.alarms, 10.0))


def test_bursts_are_the_variance_over_the_mean_of_hours_and_an_error_and_a_half() -> None:
    """Six alarms in one hour of ten: z = (n - 0.6)^2 / 0.6 is 48.6 once and 0.6 nine times, sum / 9 = 6, error 48 / 10."""
    together = [-1.0] * 600
    together[62:74:2] = [5.0, 5.1, 5.2, 5.3, 5.4, 5.5]
    apart = [-1.0] * 600
    apart[10::100] = [5.0, 5.1, 5.2, 5.3, 5.4, 5.5]
    assert burst_size([hours(*together)], EventRule()) == pytest.approx(6 + 1.5 * np.std([48.6] + [0.6] * 9, ddof=1) / 10**0.5)
    assert burst_size([hours(*apart)], EventRule()) == 1.0
    assert burst_size([hours(*together)], EventRule(snooze_seconds=600.0)) < 5.0  # a burst of eleven minutes is two alarms
    halves = [hours(*together[:300]), hours(*together[300:])]  # another video starts its hours anew, the same ones here
    assert burst_size(halves, EventRule()) == pytest.approx(burst_size([hours(*together)], EventRule()))


def test_every_threshold_is_tried_from_the_top_and_the_first_that_fails_ends_it() -> None:
    """Ten hours allow five alarms of one by one (bound 1.05 at 5, 0.92 at 4); of peaks in ten different hours four pass."""
    logits = [-1.0] * 600
    for place in range(10):
        logits[60 * place + 30] = 10.0 - place
    found = hourly_threshold([hours(*logits)], EventRule(), 1.0)
    assert rate_bound(4, 10.0) < 1.0 < rate_bound(5, 10.0)
    assert found.alarms == 4
    assert found.rule.threshold == np.nextafter(6.0, np.inf)  # just above the fifth, so that four reach it
    assert found.bursts == 1.0


def test_alarms_in_a_snooze_are_none() -> None:
    logits = [-1.0] * 600
    logits[100:110:2] = [5.0] * 5
    logits[400] = 6.0
    snoozed = hourly_threshold([hours(*logits)], EventRule(snooze_seconds=1200.0), 1.0)
    assert snoozed.alarms == 2  # and six without a snooze, of which ten hours allow four
    assert snoozed.rule.threshold <= 5.0
    assert hourly_threshold([hours(*logits)], EventRule(snooze_seconds=1200.0), 0.65).alarms == 2


def broken_budgets(cluster: float, snooze: float, rounds: int = 40) -> float:
    """Share of calibrations on 20 hours whose true rate, over 600 other hours, is above one an hour."""

    def footage(random: np.random.Generator, length: int) -> list[tuple[float, float, float]]:
        logits = np.full(60 * length, -9.0)
        for start in np.flatnonzero(random.random(len(logits)) < 6 / cluster / 60):
            places = start + np.cumsum(np.append(0, random.geometric(0.5, random.geometric(1 / cluster) - 1) + 1))
            places = places[places < len(logits)]
            logits[places] = random.exponential() + 0.2 * random.normal(size=len(places))
        return hours(*logits.tolist())

    rule, random = EventRule(snooze_seconds=snooze), np.random.default_rng(3)
    long = footage(random, 600)
    levels = np.linspace(0.0, 6.0, 25)
    alarms = [sum(not one.snoozed for one in find_events(long, rule.with_threshold(float(x)))) for x in levels]
    broken = 0
    for _ in range(rounds):
        try:
            found = hourly_threshold([footage(random, 20)], rule, 1.0)
        except ParameterError:
            continue  # refused: no promise is made
        broken += float(np.interp(found.rule.threshold, levels, alarms)) > 600
    return broken / rounds


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [1.0, 5.0])
@pytest.mark.parametrize("snooze", [0.0, 600.0])
def test_the_hourly_budget_is_kept_with_confidence(cluster: float, snooze: float) -> None:
    """One by one, and in bursts of five, for which the plain Poisson bound breaks more than a quarter of the budgets."""
    assert broken_budgets(cluster, snooze) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 40)


def test_short_footage_is_refused_with_the_hours_needed() -> None:
    with pytest.raises(ParameterError, match=r"expected 3\.0 hours of it, without a single alarm, got 1\.00 hours"):
        hourly_threshold([hours(*[0.0] * 60)], EventRule(), 1.0)


def test_footage_whose_alarms_burst_must_be_longer() -> None:
    logits = np.full(600, -1.0)
    logits[100:200:2] = np.linspace(3, 4, 50)
    with pytest.raises(ParameterError, match=r"bursts of up to \d+\.\d.*hours of it, without.*got 10\.00 hours.*snooze"):
        hourly_threshold([hours(*logits.tolist())], EventRule(), 1.0)


def test_the_rule_of_events_is_kept() -> None:
    rule = EventRule(threshold=0.0, release=-2.0, minimum_seconds=90.0, merge_seconds=60.0)
    found = hourly_threshold([hours(*np.random.default_rng(0).normal(size=600).tolist())], rule, 1.0)
    assert found.rule.threshold - found.rule.low == pytest.approx(2.0)
    assert (found.rule.minimum_seconds, found.rule.merge_seconds) == (90.0, 60.0)


def scored(seed: int) -> list[ScoredVideo]:
    random = np.random.default_rng(seed)
    labels = random.random(60) < 0.3
    return [ScoredVideo.from_frames("a", np.round(random.normal(size=60) + labels, 1), labels)]


@pytest.mark.parametrize("seed", range(5))
def test_best_f1_and_least_cost_against_trying_every_threshold(seed: int) -> None:
    videos = scored(seed)
    score, label, weight = videos[0].scores, videos[0].labels, videos[0].weights

    def counts(threshold: float) -> tuple[float, float, float]:
        told = score >= threshold
        return weight[told & label].sum(), weight[told & ~label].sum(), weight[~told & label].sum()

    def f1(threshold: float) -> float:
        true, false, missed = counts(threshold)
        return 2 * true / (2 * true + false + missed)

    def cost(threshold: float) -> float:
        _, false, missed = counts(threshold)
        return (4 * missed + false) / 60

    threshold, value = best_f1_threshold(videos)
    assert value == pytest.approx(f1(threshold)) == pytest.approx(max(map(f1, score)))
    threshold, value = least_cost_threshold(videos, 4.0)
    assert value == pytest.approx(cost(threshold)) == pytest.approx(min(map(cost, score)))


def test_one_class_has_no_best_threshold() -> None:
    for label in (0, 1):
        with pytest.raises(DataError, match="cannot be chosen from one class"):
            best_f1_threshold([ScoredVideo.from_frames("a", [0.0, 1.0], [label, label])])


def test_a_block_far_above_the_others_is_named() -> None:
    usual = [Block(str(i), 0.0, 1.0, float(i), 0.0) for i in range(8)]
    event = Block("event", 0.0, 1.0, 60.0, 0.5)
    assert outlying_blocks([*usual, event]) == [event]
    assert outlying_blocks(usual) == []
    assert outlying_blocks([event]) == []
