"""Metrics of events, against counts by hand."""

import pytest

from lego_fusion.errors import DataError
from lego_fusion.measure.event_metrics import (
    Event,
    EventVideo,
    event_average_precision,
    event_intervals,
    event_metrics,
    temporal_iou,
)


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


def test_intervals_hold_the_value_and_shrink_to_it_where_all_videos_are_alike() -> None:
    alike = [EventVideo(str(i), 100.0, (event(2, 10, 1.0),), ((0.0, 10.0),)) for i in range(5)]
    found = event_intervals(alike, resamples=50)
    assert (found["event recall"].low, found["event recall"].high) == (1.0, 1.0)
    assert found["delay seconds"].value == 10.0
    differing = [*alike, EventVideo("miss", 100.0, (event(50, 60, 2.0),), ((0.0, 10.0),))]
    found = event_intervals(differing, resamples=200)
    recall = found["event recall"]
    assert recall.value == pytest.approx(5 / 6)
    assert recall.low < recall.value < recall.high
    assert found["event AP@0.5"].value == pytest.approx(5 / 6 * 5 / 6)  # one false event ranks first


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
