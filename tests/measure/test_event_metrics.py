"""Metrics of events, against counts by hand."""

from math import comb

import numpy as np
import pytest
from scipy.stats import t

from lego_fusion.errors import DataError
from lego_fusion.measure.event_metrics import (
    Event,
    EventVideo,
    event_average_precision,
    event_intervals,
    event_metrics,
    median_interval,
    temporal_iou,
)
from lego_fusion.measure.intervals import rate_interval


def event(start: float, end: float, peak: float, *, quiet: bool = False) -> Event:
    return Event(float(start), float(end), peak, float(start), None if quiet else float(end))


def test_overlap_in_time() -> None:
    assert temporal_iou((0.0, 2.0), (0.0, 2.0)) == 1.0
    assert temporal_iou((0.0, 2.0), (2.0, 3.0)) == 0.0
    assert temporal_iou((0.0, 2.0), (1.0, 5.0)) == pytest.approx(1 / 5)


def test_average_precision_by_hand() -> None:
    """Ranked: right, wrong, right, of three true events: 1/3 * 1 + 1/3 * 2/3, and the third is never found."""
    video = EventVideo(
        "a", 100.0, (event(0, 10, 3.0), event(40, 50, 2.0), event(20, 30, 1.0)), ((0.0, 10.0), (20.0, 30.0), (60.0, 70.0))
    )
    assert event_average_precision([video], 0.5) == pytest.approx(1 / 3 + 2 / 9)


def test_a_true_event_is_taken_once_and_by_the_higher_peak() -> None:
    twice = EventVideo("a", 100.0, (event(0, 10, 1.0), event(0, 9, 2.0)), ((0.0, 10.0),))
    assert event_average_precision([twice], 0.5) == 1.0  # the second is wrong, after everything is found
    assert event_average_precision([twice], 0.95) == pytest.approx(0.5)  # the higher one misses


def test_ties_do_not_depend_on_the_order() -> None:
    right, wrong = event(0, 10, 1.0), event(40, 50, 1.0)
    for events in ((right, wrong), (wrong, right)):
        assert event_average_precision([EventVideo("a", 100.0, events, ((0.0, 10.0),))], 0.5) == pytest.approx(0.5)


def test_recall_delay_and_false_alarms_count_alarms_alone() -> None:
    found = (event(5, 12, 1.0), event(50, 60, 2.0), event(80, 81, 1.0, quiet=True))
    videos = [EventVideo("a", 3600.0, found, ((0.0, 10.0), (78.0, 90.0))), EventVideo("b", 3600.0, (), ())]
    metrics = event_metrics(videos)
    assert metrics.recall == 0.5
    assert metrics.delay_seconds == 12.0
    assert metrics.false_alarms == 1
    assert metrics.false_alarms_per_hour == pytest.approx(1 / ((7200 - 22) / 3600))


def test_without_a_true_event_only_false_alarms_have_a_value() -> None:
    metrics = event_metrics([EventVideo("a", 1800.0, (event(0, 1, 1.0),), ())])
    assert (metrics.recall, metrics.delay_seconds, metrics.mean_average_precision) == (None, None, None)
    assert metrics.false_alarms_per_hour == 2.0


def test_precision_is_made_to_fall_with_recall() -> None:
    """Ranked: wrong, right, right, of two true events: precision 1/2 at the first, 2/3 at the second, so 2/3 at both."""
    found = (event(50, 60, 3.0), event(0, 10, 2.0), event(20, 30, 1.0))
    video = EventVideo("a", 100.0, found, ((0.0, 10.0), (20.0, 30.0)))
    assert event_average_precision([video], 0.5) == pytest.approx(2 / 3)


def test_the_delay_is_that_of_the_first_alarm_and_never_negative() -> None:
    late, early = Event(4.0, 9.0, 1.0, 4.0, 8.0), Event(1.0, 3.0, 1.0, 1.0, 2.5)
    for events in ((late, early), (early, late)):
        assert event_metrics([EventVideo("a", 20.0, events, ((1.0, 9.0),))]).delays == (1.5,)
    before = EventVideo("a", 20.0, (Event(0.0, 5.0, 1.0, 0.0, 0.5),), ((3.0, 9.0),))
    assert event_metrics([before]).delays == (0.0,)


def test_an_event_that_only_touches_a_true_one_does_not_meet_it() -> None:
    touching = (Event(0.0, 2.0, 1.0, 0.0, 1.0), Event(5.0, 6.0, 1.0, 5.0, 5.5))
    metrics = event_metrics([EventVideo("a", 10.0, touching, ((2.0, 5.0),))])
    assert (metrics.recall, metrics.false_alarms, metrics.delays) == (0.0, 2, ())
    assert temporal_iou((0.0, 2.0), (2.0, 5.0)) == 0.0


def test_a_kept_quiet_event_counts_for_average_precision_alone() -> None:
    quiet = EventVideo("a", 3600.0, (event(0, 10, 2.0, quiet=True),), ((0.0, 10.0),))
    metrics = event_metrics([quiet])
    assert (metrics.average_precision[0.5], metrics.recall, metrics.delays) == (1.0, 0.0, ())


def test_intervals_of_shares_leave_one_video_out_each() -> None:
    """Recall 5 / 6: without the miss it is 1, without any other 4 / 5."""
    alike = [EventVideo(str(i), 100.0, (event(2, 10, 1.0),), ((0.0, 10.0),)) for i in range(5)]
    found = event_intervals(alike)
    assert (found["event recall"].value, found["event recall"].high) == (1.0, 1.0)
    assert found["event recall"].low == pytest.approx(0.025 ** (1 / 5))  # five videos without a miss
    differing = [*alike, EventVideo("miss", 100.0, (event(50, 60, 2.0),), ((0.0, 10.0),))]
    found = event_intervals(differing)
    without = np.array([4 / 5] * 5 + [1.0])
    variance = 5 / 6 * ((without - without.mean()) ** 2).sum()
    half = t.ppf(0.975, 5) * variance**0.5 / (5 / 36)
    assert found["event recall"].value == pytest.approx(5 / 6)
    assert found["event recall"].low == pytest.approx(1 / (1 + np.exp(half) / 5))
    assert found["event AP@0.5"].value == pytest.approx(5 / 6 * 5 / 6)  # one false event ranks first
    assert found["event AP@0.5"].low < found["event AP@0.5"].value < found["event AP@0.5"].high


def test_quiet_videos_count_in_the_rate_and_in_the_intervals() -> None:
    loud = [EventVideo(f"t{i}", 100.0, (event(2, 10, 1.0),), ((0.0, 10.0),)) for i in range(4)]
    false = [EventVideo(f"q{i}", 1800.0, (event(0, 5, float(i)),) if i < 2 else (), ()) for i in range(5)]
    found = event_intervals([*loud, *false])
    hours = (5 * 1800 + 4 * 90) / 3600
    assert found["false alarms per hour"] == rate_interval(2, hours)
    alone = event_intervals(loud)["event AP@0.5"]
    assert (alone.value, alone.high) == (1.0, 1.0)
    with_false = found["event AP@0.5"]  # ranked: one false at 1.0 beside the four true ones: 4 / 5
    assert with_false.value == pytest.approx(4 / 5)
    assert with_false.low < 4 / 5 < with_false.high  # without that quiet video it would be 1


def test_the_median_delay_lies_between_order_statistics() -> None:
    assert median_interval([5.0, 1.0, 4.0, 2.0, 3.0, 6.0]).low == 1.0
    nine = median_interval([float(n) for n in range(1, 10)])  # P(Binomial(9, 1/2) <= 1) = 10 / 512 <= 0.025 < 46 / 512
    assert (nine.low, nine.value, nine.high) == (2.0, 5.0, 8.0)
    with pytest.raises(DataError, match="6 for 95 %, got 5"):
        median_interval([1.0, 2.0, 3.0, 4.0, 5.0])


def test_what_has_too_little_for_an_interval_is_a_bare_number() -> None:
    few = [EventVideo(str(i), 100.0, (event(2, 10, 1.0),), ((0.0, 10.0),)) for i in range(2)]
    found = event_intervals([*few, EventVideo("miss", 100.0, (), ((0.0, 10.0),))][1:])
    assert found["event recall"] == 0.5
    assert found["delay seconds"] == 10.0
    assert "false alarms per hour" not in event_intervals([EventVideo("all", 10.0, (), ((0.0, 10.0),))])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="no true event"):
        event_average_precision([EventVideo("a", 1.0, (), ())], 0.5)
    with pytest.raises(DataError, match="nothing to measure"):
        event_metrics([])
    with pytest.raises(DataError, match="must have a length"):
        EventVideo("a", 0.0, (), ())
    with pytest.raises(DataError, match="holds no time"):
        EventVideo("a", 1.0, (), ((1.0, 1.0),))
    with pytest.raises(DataError, match="overlap"):
        EventVideo("a", 9.0, (), ((0.0, 3.0), (2.0, 4.0)))


def test_overlap_in_time_does_not_depend_on_which_comes_first() -> None:
    assert temporal_iou((2.0, 6.0), (0.0, 4.0)) == temporal_iou((0.0, 4.0), (2.0, 6.0)) == pytest.approx(2 / 6)
    assert temporal_iou((0.0, 1.0), (5.0, 6.0)) == 0.0


def test_an_overlap_of_exactly_the_least_is_right_and_takes_the_span_it_overlaps() -> None:
    half = EventVideo("a", 20.0, (event(0, 5, 1.0),), ((0.0, 10.0),))
    assert event_average_precision([half], 0.5) == 1.0
    second_first = EventVideo("a", 40.0, (event(20, 30, 2.0), event(0, 10, 1.0)), ((0.0, 10.0), (20.0, 30.0)))
    assert event_average_precision([second_first], 0.5) == 1.0


def test_an_alarm_at_the_very_start_has_no_delay() -> None:
    assert event_metrics([EventVideo("a", 9.0, (Event(0.0, 2.0, 1.0, 0.0, 0.0),), ((0.0, 3.0),))]).delays == (0.0,)


def test_spans_may_touch_and_a_video_must_end() -> None:
    assert EventVideo("a", 9.0, (), ((0.0, 3.0), (3.0, 4.0))).quiet_seconds == 5.0
    with pytest.raises(DataError, match="must have a length"):
        EventVideo("a", float("inf"), (), ())


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_order_statistics_are_the_innermost_that_hold_the_median_often_enough(level: float) -> None:
    """By brute force: the k-th lowest and highest of n hold it with probability 1 - 2 P(Binomial(n, 1/2) < k)."""
    for count in range(3, 30):
        misses = [2 * sum(comb(count, j) for j in range(k)) / 2**count for k in range(count)]
        most = max(k for k in range(count) if misses[k] <= 1 - level + 1e-12)
        values = [float(n) for n in range(1, count + 1)]
        if most < 1:
            with pytest.raises(DataError, match="too few values"):
                median_interval(values, level=level)
            continue
        found = median_interval(values, level=level)
        assert (found.low, found.high, found.level, found.unit) == (most, count + 1 - most, level, "event")


def test_intervals_take_the_level_and_the_overlaps_that_are_asked_for() -> None:
    videos = [EventVideo(f"t{i}", 100.0, (event(2, 10, 1.0 + i),), ((0.0, 10.0),)) for i in range(8)]
    videos += [EventVideo("m", 100.0, (), ((0.0, 10.0),)), EventVideo("m2", 100.0, (), ((0.0, 10.0),))]
    videos += [
        EventVideo(f"q{i}", 60.0, tuple(event(5 * n, 5 * n + 1, 0.5) for n in range(5 * (i == 0))), ()) for i in range(4)
    ]
    found, wide = event_intervals(videos, ious=(0.2,), level=0.8), event_intervals(videos, ious=(0.2,))
    assert set(found) == {"event AP@0.2", "event mAP", "event recall", "delay seconds", "false alarms per hour"}
    for name, one in found.items():
        assert one.level == 0.8
        assert wide[name].low <= one.low <= one.high <= wide[name].high
        assert wide[name].high - wide[name].low > one.high - one.low or name == "delay seconds"
    hours = (4 * 60 + 10 * 90) / 3600
    assert found["false alarms per hour"].value == pytest.approx(5 / hours)  # of a third of an hour
    poisson = rate_interval(5, hours, level=0.8)
    assert found["false alarms per hour"].high > poisson.high  # five alarms of one video are not five alarms


def test_videos_with_and_without_a_true_event_vary_apart() -> None:
    """Recall does not ask the quiet ones: however many there are, its interval is that of the others alone."""
    loud = [EventVideo(f"t{i}", 100.0, (event(2, 10, 1.0),) if i else (), ((0.0, 10.0),)) for i in range(6)]
    quiet = [EventVideo(f"q{i}", 100.0, (), ()) for i in range(9)]
    assert event_intervals([*loud, *quiet])["event recall"] == event_intervals(loud)["event recall"]
