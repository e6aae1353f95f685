"""Events found segment by segment: hysteresis, merging, minimum length, snooze; a stream and a file agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lego_fusion.alarm.events import Event, EventRule, EventTracker, find_events, score_segments
from lego_fusion.errors import DataError
from lego_fusion.learn.scoring import VideoScores


def seconds(*logits: float) -> list[tuple[float, float, float]]:
    """One segment a second."""
    return [(float(t), float(t + 1), float(x)) for t, x in enumerate(logits)]


def spans(events: tuple[Event, ...]) -> list[tuple[float, float]]:
    return [(event.start_seconds, event.end_seconds) for event in events]


def test_an_event_is_a_run_at_or_above_the_threshold() -> None:
    events = find_events(seconds(-1, 0, 3, 2, -1, -1, 5), EventRule())
    assert events == (Event(1.0, 4.0, 3.0, 2.0, 2.0), Event(6.0, 7.0, 5.0, 6.0, 7.0))


def test_hysteresis_keeps_an_event_open_but_opens_none() -> None:
    rule = EventRule(threshold=2.0, release=0.0)
    assert spans(find_events(seconds(1, 1, 3, 1, 0, -1, 1, 1), rule)) == [(2.0, 5.0)]
    assert spans(find_events(seconds(1, 1, 3, 1, 0, -1, 1, 1), EventRule(threshold=2.0))) == [(2.0, 3.0)]


def test_a_pause_up_to_the_limit_is_inside_the_event_and_a_longer_one_is_not() -> None:
    logits = seconds(1, -1, -1, 1, -1, -1, -1, 1)
    assert spans(find_events(logits, EventRule(merge_seconds=2.0))) == [(0.0, 4.0), (7.0, 8.0)]
    assert spans(find_events(logits, EventRule(merge_seconds=3.0))) == [(0.0, 8.0)]
    assert spans(find_events(logits, EventRule())) == [(0.0, 1.0), (3.0, 4.0), (7.0, 8.0)]


def test_after_a_pause_only_the_threshold_counts() -> None:
    rule = EventRule(threshold=2.0, release=1.0, merge_seconds=5.0)
    assert spans(find_events(seconds(3, 0, 1.5, 1.5, 3), rule)) == [(0.0, 5.0)]
    assert spans(find_events(seconds(3, 0, 1.5, 1.5, 0), rule)) == [(0.0, 1.0)]


def test_short_events_are_none_and_the_alarm_comes_when_it_has_lasted_long_enough() -> None:
    events = find_events(seconds(1, -1, 1, 1, 1, -1), EventRule(minimum_seconds=2.0))
    assert events == (Event(2.0, 5.0, 1.0, 2.0, 4.0),)


def test_snooze_keeps_quiet_for_a_while_after_an_alarm_and_not_longer() -> None:
    rule = EventRule(snooze_seconds=3.0)
    quiet = find_events(seconds(1, -1, 1, -1, -1, -1, 1), rule)
    assert [event.alarm_seconds for event in quiet] == [1.0, None, 7.0]
    assert [event.snoozed for event in quiet] == [False, True, False]
    outlasts = find_events(seconds(1, -1, 1, 1, 1, 1), rule)
    assert [event.alarm_seconds for event in outlasts] == [1.0, 5.0]  # quiet until second 4


def test_a_gap_in_time_ends_an_event() -> None:
    assert spans(find_events([(0.0, 1.0, 1.0), (9.0, 10.0, 1.0)], EventRule(merge_seconds=2.0))) == [(0.0, 1.0), (9.0, 10.0)]


logits = st.lists(st.integers(-3, 3).map(float), max_size=40)
rules = st.builds(
    lambda t, h, minimum, merge, snooze: EventRule(
        threshold=t, release=t - h, minimum_seconds=minimum, merge_seconds=merge, snooze_seconds=snooze
    ),
    *(st.integers(low, high).map(float) for low, high in ((-2, 2), (0, 2), (0, 3), (0, 3), (0, 4))),
)


@given(logits, rules)
def test_against_an_event_finder_that_sees_the_whole_video(values: list[float], rule: EventRule) -> None:
    assert spans(find_events(seconds(*values), rule)) == whole_video(values, rule)


def whole_video(values: list[float], rule: EventRule) -> list[tuple[float, float]]:
    """Runs of hysteresis, joined across short pauses, long ones kept: an oracle without state."""
    runs: list[list[int]] = []
    on = False
    for t, x in enumerate(values):
        on = x >= (rule.low if on else rule.threshold)
        if on and runs and runs[-1][1] == t:
            runs[-1][1] = t + 1
        elif on:
            runs.append([t, t + 1])
    joined: list[list[int]] = []
    for run in runs:
        if joined and run[0] - joined[-1][1] <= rule.merge_seconds:
            joined[-1][1] = run[1]
        else:
            joined.append(run)
    return [(float(a), float(b)) for a, b in joined if b - a >= rule.minimum_seconds]


@given(logits, rules, st.integers(0, 40))
def test_a_tracker_goes_on_from_its_state_in_another_process(values: list[float], rule: EventRule, cut: int) -> None:
    import json

    tracker = EventTracker(rule)
    updates = []
    for place, (start, end, x) in enumerate(seconds(*values)):
        if place == cut:
            tracker = EventTracker.restore(rule, json.loads(json.dumps(tracker.state())))
        updates += tracker.push(start, end, x)
    updates += tracker.finish()
    assert tuple(update.event for update in updates if update.kind == "end") == find_events(seconds(*values), rule)
    alarms = [update.event.alarm_seconds for update in updates if update.kind == "alarm"]
    kept = [event.alarm_seconds for event in find_events(seconds(*values), rule) if not event.snoozed]
    assert alarms == kept  # each alarm once


@given(logits, rules)
def test_a_higher_threshold_never_lengthens_the_time_in_events(values: list[float], rule: EventRule) -> None:
    plain = rule.model_copy(update={"minimum_seconds": 0.0})
    times = [sum(event.seconds for event in find_events(seconds(*values), plain.with_threshold(t))) for t in (-1.0, 1.0)]
    assert times[1] <= times[0]


def test_frames_of_equal_logit_are_one_segment() -> None:
    values = np.array([0.0, 0.0, 2.0, 2.0, 2.0])
    scores = VideoScores("door", 2.0, np.arange(5) / 2, 1 / (1 + np.exp(-values)), logits=values)
    assert score_segments(scores) == [(0.0, 1.0, 0.0), (1.0, 2.5, 2.0)]


def test_what_no_event_can_be_made_of_is_refused() -> None:
    tracker = EventTracker(EventRule())
    tracker.push(0.0, 1.0, 0.0)
    for start, end, logit in ((0.5, 2.0, 0.0), (1.0, 1.0, 0.0), (1.0, 2.0, float("nan")), (1.0, 2.0, float("inf"))):
        with pytest.raises(DataError, match="a segment that no event can be made of"):
            tracker.push(start, end, logit)
    with pytest.raises(ValidationError, match="release must be at most the threshold"):
        EventRule(threshold=0.0, release=1.0)
    with pytest.raises(DataError, match="came without logits"):
        score_segments(VideoScores("door", 2.0, np.arange(2.0), np.zeros(2)))
    with pytest.raises(DataError, match="not the state of an event tracker"):
        EventTracker.restore(EventRule(), {"paused": False})
