"""How well events are found: average precision at temporal IoU, delay of the alarm, false alarms per hour."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from ..errors import DataError, check_number
from .intervals import Estimate, count_dispersion, jackknife_interval, rate_interval

SECONDS_PER_HOUR = 3600.0
DELAY, RATE = "delay seconds", "false alarms per hour"
Span = tuple[float, float]  # start and end in seconds


@dataclass(frozen=True)
class Event:
    """A span of a video that a detector calls abnormal.

    Args:
        start_seconds: Time of its first segment.
        end_seconds: Time at which its last segment ends.
        peak: Highest logit inside.
        peak_seconds: Start of the segment that has it.
        alarm_seconds: When the alarm is raised: the event has lasted long enough and no earlier alarm keeps it quiet. None: it
            was kept quiet all along.
    """

    start_seconds: float
    end_seconds: float
    peak: float
    peak_seconds: float
    alarm_seconds: float | None = None

    @property
    def snoozed(self) -> bool:
        """Whether no alarm was raised because an earlier one had just ended."""
        return self.alarm_seconds is None

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True)
class EventVideo:
    """A video with what was found in it and what is there.

    Args:
        video: Name.
        seconds: Its length, > 0.
        events: Events that a detector found.
        truth: Spans (start, end) in seconds in which something abnormal happens, apart from each other.

    Raises:
        DataError: If the length is not positive, or a true span is empty or overlaps another.
    """

    video: str
    seconds: float
    events: tuple[Event, ...]
    truth: tuple[Span, ...]

    def __post_init__(self) -> None:
        where = f"video '{self.video}'"
        if not 0 < self.seconds < float("inf"):
            raise DataError("a video must have a length", where=where, expected="seconds > 0", got=self.seconds)
        ordered = sorted(self.truth)
        if any(end <= start for start, end in ordered):
            raise DataError("a true event holds no time", where=where, expected="start < end", got=ordered)
        if any(after[0] < before[1] for before, after in itertools.pairwise(ordered)):
            raise DataError("true events overlap", where=where, got=ordered, fix="join them")

    @property
    def quiet_seconds(self) -> float:
        """Time without a true event."""
        return self.seconds - sum(end - start for start, end in self.truth)


@dataclass(frozen=True)
class EventMetrics:
    """How well events are found in some videos.

    Args:
        average_precision: By temporal IoU.
        recall: Share of true events that an event with an alarm meets; None without a true event.
        delays: Times in seconds from the start of each detected true event to its first alarm.
        false_alarms: Alarms of events that meet no true event.
        quiet_hours: Hours without a true event.
        true_events: How many there are.
    """

    average_precision: dict[float, float]
    recall: float | None
    delays: tuple[float, ...]
    false_alarms: int
    quiet_hours: float
    true_events: int

    @property
    def delay_seconds(self) -> float | None:
        """Median of the delays; None where no true event is detected."""
        return float(np.median(self.delays)) if self.delays else None

    @property
    def false_alarms_per_hour(self) -> float:
        """False alarms per hour without a true event; infinite if there is no such time and yet a false alarm."""
        if self.quiet_hours > 0:
            return self.false_alarms / self.quiet_hours
        return float("inf") if self.false_alarms else 0.0

    @property
    def mean_average_precision(self) -> float | None:
        """Mean over the temporal IoUs; None without a true event."""
        return float(np.mean(list(self.average_precision.values()))) if self.average_precision else None


def time_text(seconds: float) -> str:
    """A length of time for a person.

    Example:
        >>> time_text(12.0), time_text(1800.0), time_text(9000.0)
        ('12 s', '30 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * SECONDS_PER_HOUR else f"{seconds / SECONDS_PER_HOUR:.1f} h"


def temporal_iou(a: Span, b: Span) -> float:
    """Time in both over time in either, in [0, 1].

    Example:
        >>> temporal_iou((0.0, 4.0), (2.0, 6.0))
        0.3333333333333333
    """
    both = min(a[1], b[1]) - max(a[0], b[0])
    if both <= 0:
        return 0.0
    return both / (max(a[1], b[1]) - min(a[0], b[0]))


def event_average_precision(videos: Sequence[EventVideo], iou: float) -> float:
    """Area under the precision-recall curve of events ranked by their peak, precision made to fall with recall.

    An event is right if its temporal IoU with a true event of its video that no higher one has taken is at least ``iou``; it
    takes the one it overlaps most. Events of equal peak count together, so that their order does not matter.

    Args:
        videos: With events and truth.
        iou: Least temporal IoU, in (0, 1].

    Raises:
        DataError: If no video has a true event.

    Source: the ActivityNet protocol of temporal action detection, for one class.

    Example:
        >>> found = (Event(0.0, 4.0, 2.0, 1.0, 1.0), Event(8.0, 9.0, 1.0, 8.0, 8.0))
        >>> event_average_precision([EventVideo("door", 10.0, found, ((0.0, 5.0),))], 0.5)
        1.0
    """
    check_number(iou, "iou", "event_average_precision", low=1e-9, high=1.0)
    true = sum(len(video.truth) for video in videos)
    if not true:
        raise DataError("there is no true event to find", fix="measure videos with ground truth in time")
    found_by_video = ((place, event) for place, video in enumerate(videos) for event in video.events)
    ranked = sorted(found_by_video, key=lambda one: (-one[1].peak, one[0], one[1].start_seconds))
    if not ranked:
        return 0.0
    free = [list(video.truth) for video in videos]
    right = []
    for place, event in ranked:
        overlaps = [temporal_iou((event.start_seconds, event.end_seconds), span) for span in free[place]]
        right.append(max(overlaps, default=0.0) >= iou)
        if right[-1]:
            free[place].pop(int(np.argmax(overlaps)))
    last_of_tie = np.append(np.diff([event.peak for _, event in ranked]) != 0, True)
    found = np.cumsum(right)[last_of_tie]
    precision = found / (np.flatnonzero(last_of_tie) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(found, prepend=0) * precision).sum() / true)


def event_metrics(videos: Sequence[EventVideo], *, ious: Sequence[float] = (0.1, 0.3, 0.5)) -> EventMetrics:
    """Every metric of events on some videos.

    Args:
        videos: With events and truth; those without a true event count for false alarms.
        ious: Temporal IoUs of the average precision.

    Raises:
        DataError: If there is no video.

    Example:
        >>> found = (Event(2.0, 4.0, 2.0, 3.0, 3.0), Event(8.0, 9.0, 1.0, 8.0, 8.5))
        >>> metrics = event_metrics([EventVideo("door", 10.0, found, ((1.0, 5.0),))])
        >>> metrics.recall, metrics.delay_seconds, metrics.false_alarms, round(metrics.false_alarms_per_hour)
        (1.0, 2.0, 1, 600)
    """
    if not videos:
        raise DataError("there is nothing to measure", expected="at least one video")
    delays: list[float] = []
    true = false = 0
    for video in videos:
        alarms = [event for event in video.events if event.alarm_seconds is not None]
        false += sum(not _meets_any(event, video.truth) for event in alarms)
        true += len(video.truth)
        for span in video.truth:
            waits = [max(0.0, (event.alarm_seconds or 0.0) - span[0]) for event in alarms if _meets_any(event, (span,))]
            delays += [min(waits)] if waits else []
    return EventMetrics(
        average_precision={iou: event_average_precision(videos, iou) for iou in ious} if true else {},
        recall=len(delays) / true if true else None,
        delays=tuple(delays),
        false_alarms=false,
        quiet_hours=sum(video.quiet_seconds for video in videos) / SECONDS_PER_HOUR,
        true_events=true,
    )


def event_intervals(
    videos: Sequence[EventVideo], *, ious: Sequence[float] = (0.1, 0.3, 0.5), level: float = 0.95
) -> dict[str, Estimate | float]:
    """Every metric of events, with its interval where there is enough to say one.

    Average precision and recall have the jackknife interval over videos, those with and without a true event apart
    (``measure.intervals``); the rate of false alarms has the exact one of a Poisson rate over the quiet hours, wider where
    the alarms crowd in some videos (``count_dispersion``); the median delay that between order statistics, which needs six
    detected events for 95 %.

    Args:
        videos: With events and truth.
        ious: Temporal IoUs of the average precision.
        level: How often an interval is to hold the true value, in (0, 1).

    Returns:
        By "event AP@0.5" (one for each IoU), "event mAP", "event recall", "delay seconds" and "false alarms per hour": an
        estimate, or a bare number where there is too little for an interval; a metric without a value is left out.
    """
    whole = event_metrics(videos, ious=ious)
    lists = [[*videos[:i], *videos[i + 1 :]] for i in range(len(videos))]
    others = [_named(event_metrics(one, ious=ious)) if one else {} for one in lists]
    with_truth = np.array([bool(video.truth) for video in videos])
    found: dict[str, Estimate | float] = {}
    for name, value in _named(whole).items():
        try:
            if name == RATE:
                counts = [event_metrics([video], ious=()).false_alarms for video in videos]
                dispersion = count_dispersion(counts, [video.quiet_seconds for video in videos])
                found[name] = rate_interval(whole.false_alarms, whole.quiet_hours, dispersion=dispersion, level=level)
            elif name == DELAY:
                found[name] = median_interval(whole.delays, level=level)
            else:
                without = np.array([other.get(name, np.nan) for other in others])
                found[name] = jackknife_interval(value, without, with_truth, level=level, share=True)
        except DataError:
            found[name] = value
    return found


def median_interval(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """Median with the interval between two order statistics, which holds the true one at least so often whatever the law.

    Low is the k-th lowest and high the k-th highest of n values, k the largest number with
    P(Binomial(n, 1/2) < k) <= (1 - level) / 2.

    Raises:
        DataError: If there are too few values for this level.

    Source: Conover, Practical Nonparametric Statistics (1999), 3.2.

    Example:
        >>> print(median_interval([4.0, 1.0, 2.0, 3.0, 9.0, 5.0]))
        3.5000 [1.0000, 9.0000]
    """
    ordered = sorted(values)
    k = int(binom.ppf((1 - level) / 2, len(ordered), 0.5))
    if k < 1:
        raise DataError("too few values for an interval of their median", expected="6 for 95 %", got=len(ordered))
    return Estimate(float(np.median(ordered)), ordered[k - 1], ordered[-k], level, "event")


def _named(metrics: EventMetrics) -> dict[str, float]:
    values: Mapping[str, float | None] = {
        **{f"event AP@{iou:g}": value for iou, value in metrics.average_precision.items()},
        "event mAP": metrics.mean_average_precision,
        "event recall": metrics.recall,
        DELAY: metrics.delay_seconds,
        RATE: metrics.false_alarms_per_hour if metrics.quiet_hours > 0 else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _meets_any(event: Event, spans: Sequence[Span]) -> bool:
    return any(event.start_seconds < end and start < event.end_seconds for start, end in spans)
