"""Events: the spans of a video whose scores are high, found segment by segment, so that a stream and a file agree.

A segment at or above the threshold opens an event, which goes on while segments stay at or above the release level. Two that
are at most ``merge_seconds`` apart are one. An event that has lasted ``minimum_seconds`` raises an alarm, unless one ended
less than ``snooze_seconds`` ago. Everything is in logits: scores near 1 are all alike once rounded, logits are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..data.ground_truth import intervals_from_labels
from ..errors import DataError
from ..learn.scoring import VideoScores
from ..measure.event_metrics import Event as Event

_CLOSE = 1e-9  # seconds by which two times of the same moment may differ


class EventRule(BaseModel):
    """How scores become events.

    Args:
        threshold: Logit from which on a segment opens an event; 0 is a score of 0.5.
        release: Logit below which an event pauses, at most the threshold, which it is by default.
        minimum_seconds: How long an event lasts before it raises an alarm; shorter ones are no events.
        merge_seconds: Longest pause inside one event.
        snooze_seconds: After an event with an alarm, how long no other alarm is raised; an event that outlasts it raises one.

    Example:
        >>> EventRule(threshold=1.0, release=0.0).with_threshold(3.0).release
        2.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(default=0.0, allow_inf_nan=False)
    release: float | None = Field(default=None, allow_inf_nan=False)
    minimum_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    merge_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    snooze_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _release_below(self) -> EventRule:
        if self.release is not None and self.release > self.threshold:
            raise ValueError(f"release must be at most the threshold {self.threshold}, got {self.release}")
        return self

    @property
    def low(self) -> float:
        """The release level."""
        return self.threshold if self.release is None else self.release

    def with_threshold(self, threshold: float) -> EventRule:
        """The same rule at another threshold, the release level as far below it as before."""
        release = None if self.release is None else threshold - (self.threshold - self.release)
        return self.model_copy(update={"threshold": float(threshold), "release": release})


@dataclass(frozen=True)
class EventUpdate:
    """Something to notify: an alarm, or the end of an event.

    Args:
        kind: ``"alarm"`` the moment it is raised, ``"end"`` once the event is over.
        event: As far as it is known then.
    """

    kind: Literal["alarm", "end"]
    event: Event


class EventTracker:
    """Turns one logit after the other into events; memory does not grow.

    Args:
        rule: How.

    Example:
        >>> tracker = EventTracker(EventRule(threshold=0.0, minimum_seconds=2.0))
        >>> [[update.kind for update in tracker.push(float(t), t + 1.0, x)] for t, x in enumerate([-1.0, 2.0, 3.0, -1.0])]
        [[], [], ['alarm'], ['end']]
    """

    def __init__(self, rule: EventRule) -> None:
        self.rule = rule
        self._event: Event | None = None  # the open one; its end is that of its last high segment
        self._paused = False
        self._quiet_until = float("-inf")
        self._last_end = float("-inf")

    def push(self, start_seconds: float, end_seconds: float, logit: float) -> tuple[EventUpdate, ...]:
        """Take the next segment.

        Args:
            start_seconds: When it starts, not before the last one ended.
            end_seconds: When it ends, after its start.
            logit: Its logit, finite.

        Raises:
            DataError: If the segment is not after the last one, holds no time, or its logit is not finite.
        """
        if not (self._last_end - _CLOSE <= start_seconds < end_seconds < float("inf")) or not np.isfinite(logit):
            raise DataError(
                "a segment that no event can be made of",
                expected=f"a finite logit from {self._last_end:g} s on",
                got=f"{logit} from {start_seconds:g} s to {end_seconds:g} s",
            )
        self._last_end = end_seconds
        updates: list[EventUpdate] = []
        level = self.rule.low if self._event is not None and not self._paused else self.rule.threshold
        if self._event is not None and self._pause_over(start_seconds if logit >= level else end_seconds):
            updates += self._close()
            level = self.rule.threshold
        if logit >= level:
            self._extend(start_seconds, end_seconds, float(logit))
            updates += self._alarm()
        else:
            self._paused = True
        return tuple(updates)

    def finish(self) -> tuple[EventUpdate, ...]:
        """The stream has ended: close what is open."""
        return tuple(self._close()) if self._event is not None else ()

    def state(self) -> dict[str, float | bool | None]:
        """Everything that a tracker needs to go on in another process, as JSON values."""
        event = vars(self._event) if self._event is not None else {}
        times = {"quiet_until": self._quiet_until, "last_end": self._last_end}
        return {**event, "paused": self._paused, **{k: v if np.isfinite(v) else None for k, v in times.items()}}

    @classmethod
    def restore(cls, rule: EventRule, state: Mapping[str, float | bool | None]) -> EventTracker:
        """A tracker that goes on where ``state`` was taken.

        Raises:
            DataError: If the state is not one.
        """
        tracker = cls(rule)
        try:
            values = {name: state[name] for name in ("paused", "quiet_until", "last_end")}
            event = {name: value for name, value in state.items() if name not in values}
            tracker._paused = bool(values["paused"])
            tracker._quiet_until, tracker._last_end = (
                float("-inf") if values[name] is None else float(values[name] or 0.0) for name in ("quiet_until", "last_end")
            )
            tracker._event = Event(**event) if event else None  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("not the state of an event tracker", got=error) from error
        return tracker

    def _pause_over(self, now: float) -> bool:
        assert self._event is not None  # noqa: S101 - narrows the type for mypy
        return now - self._event.end_seconds > self.rule.merge_seconds + _CLOSE

    def _extend(self, start: float, end: float, logit: float) -> None:
        self._paused = False
        if self._event is None:
            self._event = Event(start, end, logit, start)
            return
        higher = {"peak": logit, "peak_seconds": start} if logit > self._event.peak else {}
        self._event = replace(self._event, end_seconds=end, **higher)

    def _alarm(self) -> list[EventUpdate]:
        event = self._event
        assert event is not None  # noqa: S101 - narrows the type for mypy
        long_enough = event.seconds >= self.rule.minimum_seconds - _CLOSE
        if event.alarm_seconds is not None or not long_enough or event.end_seconds <= self._quiet_until:
            return []
        self._event = replace(event, alarm_seconds=event.end_seconds)
        return [EventUpdate("alarm", self._event)]

    def _close(self) -> list[EventUpdate]:
        event, self._event, self._paused = self._event, None, False
        assert event is not None  # noqa: S101 - narrows the type for mypy
        if event.alarm_seconds is not None:
            self._quiet_until = event.end_seconds + self.rule.snooze_seconds
        return [EventUpdate("end", event)] if event.seconds >= self.rule.minimum_seconds - _CLOSE else []


def find_events(segments: Iterable[tuple[float, float, float]], rule: EventRule) -> tuple[Event, ...]:
    """All events of a video, in time order.

    Args:
        segments: Start and end in seconds and logit of each segment, in time order.
        rule: How.

    Example:
        >>> [event.end_seconds for event in find_events([(0.0, 1.0, 2.0), (1.0, 2.0, -2.0), (2.0, 3.0, 1.0)], EventRule())]
        [1.0, 3.0]
    """
    tracker = EventTracker(rule)
    updates = [update for start, end, logit in segments for update in tracker.push(start, end, logit)]
    return tuple(update.event for update in (*updates, *tracker.finish()) if update.kind == "end")


def score_segments(scores: VideoScores) -> list[tuple[float, float, float]]:
    """The frames of a video as segments of equal logit: start and end in seconds, and the logit.

    Raises:
        DataError: If the scores came without logits.
    """
    if scores.logits is None:
        raise DataError("these scores came without logits", where=f"video '{scores.video}'", fix="score the video again")
    edges = frame_edges(scores.times, scores.fps)
    starts = np.flatnonzero(np.diff(scores.logits, prepend=np.nan) != 0)  # the first frame, too: a difference with NaN
    ends = np.append(starts[1:], len(scores.logits))
    return [(float(edges[a]), float(edges[b]), float(scores.logits[a])) for a, b in zip(starts, ends, strict=True)]


def as_score(logit: float) -> float:
    """The score of a logit, 1 / (1 + exp(-logit)).

    Example:
        >>> as_score(0.0), as_score(-800.0)
        (0.5, 0.0)
    """
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def frame_edges(times: Float64[np.ndarray, " frames"], fps: float) -> Float64[np.ndarray, " edges"]:
    """When each frame starts, and when the last one ends, (frames + 1,) in seconds."""
    return np.append(times, times[-1] + 1 / fps)


@dataclass(frozen=True)
class Span:
    """Frames [start_frame, end_frame) whose scores are all at or above a threshold.

    Args:
        start_frame: First frame, from 0.
        end_frame: The frame after the last.
        start_seconds: Time of the first frame.
        end_seconds: Time at which the last frame ends.
        peak: Highest score.
    """

    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    peak: float


def high_spans(scores: VideoScores, *, threshold: float = 0.5) -> list[Span]:
    """The spans at or above a threshold, the highest first.

    Args:
        scores: Scores of a video.
        threshold: In [0, 1]. Detectors with reference units are calibrated so that 0.5 lies two standard deviations above
            the mean segment of normal training videos before training.

    Example:
        >>> import numpy as np
        >>> scores = VideoScores("door", 1.0, np.arange(4.0), np.array([0.6, 0.1, 0.9, 0.8]))
        >>> [(span.start_frame, span.end_frame, span.peak) for span in high_spans(scores)]
        [(2, 4, 0.9), (0, 1, 0.6)]
    """
    edges = frame_edges(scores.times, scores.fps)
    spans = []
    for run in intervals_from_labels("video", scores.scores >= threshold):
        peak = float(scores.scores[run.start_frame : run.end_frame].max())
        spans.append(Span(run.start_frame, run.end_frame, float(edges[run.start_frame]), float(edges[run.end_frame]), peak))
    return sorted(spans, key=lambda span: (-span.peak, span.start_frame))
