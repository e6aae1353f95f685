"""Thresholds that keep a promise, apart from ``calibration`` as they know scores alone: no run, no file.

Frames are not exchangeable, so the unit of the first promise is the *block*: a clip, or a fixed length of footage, with the
maximum of its logits. For n blocks that were used neither for training nor for references and a new one exchangeable with
them, the k-th smallest maximum with k = ceil((n + 1)(1 - alpha)) is exceeded with probability at most alpha (split conformal
prediction). It exists for n >= 1 / alpha - 1 only. The second promise is an upper confidence bound of the rate of alarms that
come in bursts: a Poisson number of clusters, as large as the calibration footage has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ..errors import DataError, ParameterError, check_number
from ..measure.event_metrics import SECONDS_PER_HOUR
from ..measure.intervals import count_dispersion, rate_interval
from ..measure.scored import ScoredVideo
from .events import EventRule, find_events

Segments = Sequence[tuple[float, float, float]]  # start and end in seconds, and the logit
_ROUNDING = 1e-9
_BURST_BLOCKS = 30  # hours with an alarm that are enough to see how large bursts are
_STRETCHES = 20  # that long footage is cut into
_BURST_LEVELS = 16  # thresholds at which that is looked at
_BURST_ERRORS = 1.5  # standard errors that are added: too small a burst breaks the budget, too large a one costs footage
_BUSY = 0.1  # share of normal footage that may be inside events
_OUTLYING = 3.0  # interquartile ranges above the upper quartile


@dataclass(frozen=True)
class Block:
    """A clip, or a fixed length of one, known to be normal.

    Args:
        video: Name of its video.
        start_seconds: Where it starts.
        end_seconds: Where it ends.
        maximum: Highest logit inside.
        peak_seconds: Start of the segment that has it.
    """

    video: str
    start_seconds: float
    end_seconds: float
    maximum: float
    peak_seconds: float


@dataclass(frozen=True)
class HourlyThreshold:
    """A threshold for a number of false alarms an hour.

    Args:
        rule: With the threshold.
        alarms: Alarms that the calibration footage has at it.
        hours: Of calibration footage.
        bound: Upper confidence bound of the alarms an hour.
        bursts: Variance over mean of the alarms of an hour; 1 where they come one by one (``burst_size``).
    """

    rule: EventRule
    alarms: int
    hours: float
    bound: float
    bursts: float


def cut_blocks(video: str, segments: Segments, block_seconds: float | None = None) -> list[Block]:
    """The blocks of a video: itself whole, or every full length of ``block_seconds``; a rest at the end is left out.

    Example:
        >>> [block.maximum for block in cut_blocks("door", [(0.0, 6.0, 1.0), (6.0, 10.0, 3.0), (10.0, 12.0, 9.0)], 5.0)]
        [1.0, 3.0]
    """
    if not segments:
        return []
    first, last = segments[0][0], segments[-1][1]
    length = last - first if block_seconds is None else check_number(block_seconds, "block_seconds", "cut_blocks", low=1e-3)
    starts, ends, logits = (np.array(column) for column in zip(*segments, strict=True))
    blocks = []
    for place in range(math.floor((last - first) / length + _ROUNDING)):
        low, high = first + place * length, first + (place + 1) * length
        inside = np.flatnonzero((starts < high - _ROUNDING) & (ends > low + _ROUNDING))
        if len(inside):
            peak = int(inside[logits[inside].argmax()])
            blocks.append(Block(video, low, high, float(logits[peak]), float(starts[peak])))
    return blocks


def required_blocks(share: float) -> int:
    """Fewest blocks for a share alpha of normal blocks with an alarm: 1 / alpha - 1, rounded up.

    Example:
        >>> required_blocks(0.2), required_blocks(0.1), required_blocks(0.05)
        (4, 9, 19)
    """
    check_number(share, "share", "required_blocks", low=1e-9, high=1 - 1e-9)
    return math.ceil(1 / share - 1 - _ROUNDING)


def block_threshold(maxima: Float64[np.ndarray, " n"], share: float) -> float:
    """The lowest threshold that a new normal block reaches with probability at most ``share``.

    Args:
        maxima: Maxima of n normal blocks, finite.
        share: alpha, in (0, 1).

    Returns:
        A logit just above the ceil((n + 1)(1 - alpha))-th smallest maximum; a block has an alarm if its own reaches it.

    Raises:
        ParameterError: If n < 1 / alpha - 1.
        DataError: If a maximum is not finite.

    Source: split conformal prediction (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005).

    Example:
        >>> round(block_threshold(np.arange(9.0), 0.1), 6)
        8.0
    """
    if not np.isfinite(maxima).all():
        raise DataError("a logit of the calibration footage is not finite", fix="look at the footage with 'doctor'")
    needed = required_blocks(share)
    if len(maxima) < needed:
        raise ParameterError(
            f"too little calibration footage for alarms in at most {share:g} of normal blocks",
            expected=f"{needed} normal blocks that were not trained on",
            got=len(maxima),
            fix="give more normal footage, shorter blocks, or a larger share",
        )
    rank = math.ceil((len(maxima) + 1) * (1 - share) - _ROUNDING)
    return float(np.nextafter(np.sort(maxima)[rank - 1], np.inf))


def required_hours(per_hour: float, confidence: float = 0.95, bursts: float = 1.0) -> float:
    """Hours without an alarm after which the bound of the rate is ``per_hour``: -ln(1 - confidence) bursts / per_hour.

    Example:
        >>> round(required_hours(1.0), 2), round(required_hours(1.0, bursts=4.0), 2)
        (3.0, 11.98)
    """
    check_number(per_hour, "per_hour", "required_hours", low=1e-9)
    check_number(confidence, "confidence", "required_hours", low=0.501, high=1 - 1e-9)
    return -math.log(1 - confidence) * check_number(bursts, "bursts", "required_hours", low=1.0) / per_hour


def rate_bound(alarms: int, hours: float, confidence: float = 0.95, bursts: float = 1.0) -> float:
    """Upper bound of a rate: bursts chi2(confidence; 2 alarms / bursts + 2) / (2 hours).

    Example:
        >>> round(rate_bound(0, 3.0), 3), round(rate_bound(2, 3.0), 3), round(rate_bound(4, 6.0, bursts=2.0), 3)
        (0.999, 2.099, 2.099)
    """
    return rate_interval(alarms, hours, dispersion=bursts, level=2 * confidence - 1).high


def burst_size(videos: Sequence[Segments], rule: EventRule) -> float:
    """How much alarms come in bursts: variance over mean of their number in an hour, and 1.5 standard errors; at least 1.

    Of more than 20 hours in a twentieth of them, as a burst that is cut in two looks smaller.

    An unusual crowd or light raises many alarms at once, few of which may lie above the threshold that is wanted. Therefore it
    is measured lower, at the threshold with the most alarms of those down to the first at which 30 hours have one.

    Args:
        videos: Segments of normal footage that was not trained on.
        rule: How events are found; its threshold is replaced.
    """
    peaks = sorted({peak for segments in videos for peak in _minute_maxima(segments)}, reverse=True)
    stretch = max(SECONDS_PER_HOUR, sum(segments[-1][1] - segments[0][0] for segments in videos) / _STRETCHES)
    best, size = -1, 1.0
    for place in np.unique(np.geomspace(1, len(peaks), _BURST_LEVELS).astype(int)) - 1:
        counts, hours = _by_stretch(videos, rule.with_threshold(peaks[place]), stretch)
        if sum(counts) > best:
            best, size = sum(counts), count_dispersion(counts, hours, errors=_BURST_ERRORS)
        if sum(count > 0 for count in counts) >= _BURST_BLOCKS:
            break
    return size


def _by_stretch(videos: Sequence[Segments], rule: EventRule, seconds: float) -> tuple[list[int], list[float]]:
    """Alarms of each stretch of so many seconds of each video, and the hours that these last."""
    counts, hours = [], []
    for segments in videos:
        first, last = segments[0][0], segments[-1][1]
        raised = [one.alarm_seconds - first for one in find_events(segments, rule) if one.alarm_seconds is not None]
        edges = np.append(np.arange(0.0, last - first, seconds), last - first)
        counts += np.histogram(raised, edges)[0].tolist()
        hours += (np.diff(edges) / SECONDS_PER_HOUR).tolist()
    return counts, hours


def hourly_threshold(videos: Sequence[Segments], rule: EventRule, per_hour: float, confidence: float = 0.95) -> HourlyThreshold:
    """The lowest threshold whose false alarms an hour stay within a budget, with confidence.

    Thresholds (the peak of each minute, and just above it) are tried from high to low, each against the upper bound of its
    rate, and the first that fails ends the search; in that fixed order the chance that the one kept breaks the budget is at
    most 1 - confidence. It ends, too, where a tenth of the time is inside events, since an event of hours is but one alarm.
    Alarms may come in bursts as large as those of this footage (``burst_size``); of bursts that it does not have, nothing can
    be known.

    Args:
        videos: Segments of normal footage that was not trained on.
        rule: How events are found; its threshold is replaced.
        per_hour: Budget of false alarms an hour, > 0.
        confidence: Above 0.5, below 1.

    Raises:
        ParameterError: If the footage is shorter than ``required_hours``; it says how long it must be.

    Source: fixed-sequence testing (Angelopoulos et al., Learn then Test, 2021) with the Poisson bound of clusters. How often it
    holds in simulations: docs/results.md.
    """
    hours = sum(end - start for segments in videos for start, end, _ in segments) / SECONDS_PER_HOUR
    _require_hours(hours, per_hour, confidence, 1.0)
    bursts = burst_size(videos, rule)
    _require_hours(hours, per_hour, confidence, bursts)
    peaks = sorted({peak for segments in videos for peak in _minute_maxima(segments)}, reverse=True)
    nothing = rule.with_threshold(float(np.nextafter(peaks[0], np.inf)))
    best = HourlyThreshold(nothing, 0, hours, rate_bound(0, hours, confidence, bursts), bursts)
    for threshold in (value for peak in peaks for value in (float(np.nextafter(peak, np.inf)), peak)):
        tried = rule.with_threshold(threshold)
        events = [event for segments in videos for event in find_events(segments, tried)]
        alarms = sum(not event.snoozed for event in events)
        bound = rate_bound(alarms, hours, confidence, bursts)
        if bound > per_hour or sum(event.seconds for event in events) > _BUSY * hours * SECONDS_PER_HOUR:
            break
        best = HourlyThreshold(tried, alarms, hours, bound, bursts)
    return best


def _require_hours(hours: float, per_hour: float, confidence: float, bursts: float) -> None:
    needed = required_hours(per_hour, confidence, bursts)
    if hours < needed * (1 - _ROUNDING):
        fix = "give more normal footage, or a larger budget"
        raise ParameterError(
            f"too little normal footage to promise {per_hour:g} false alarms an hour at {confidence:.0%} confidence"
            + (f", as its alarms come in bursts of up to {bursts:.1f}" if bursts > 1 else ""),
            expected=f"{needed:.1f} hours of it, without a single alarm",
            got=f"{hours:.2f} hours",
            fix=f"snooze for as long as a burst lasts, {fix}" if bursts > 1 else fix,
        )


def _minute_maxima(segments: Segments) -> list[float]:
    """Highest logit of each minute, the places where the number of alarms changes."""
    highest: dict[int, float] = {}
    for start, _, logit in segments:
        minute = int(start // 60)
        highest[minute] = max(logit, highest.get(minute, -math.inf))
    return list(highest.values())


def best_f1_threshold(videos: Sequence[ScoredVideo]) -> tuple[float, float]:
    """The threshold with the highest F1 over the frames of labelled videos, and that F1; the highest of several equal ones.

    Args:
        videos: With logits as scores; never test videos.

    Raises:
        DataError: If a class has no frame.

    Example:
        >>> best_f1_threshold([ScoredVideo.from_frames("a", [-1.0, 2.0, 3.0, 1.0], [0, 1, 1, 0])])
        (2.0, 1.0)
    """
    thresholds, true, false, abnormal, _ = _operating_points(videos)
    f1 = 2 * true / (true + false + abnormal)
    best = int(f1.argmax())
    return float(thresholds[best]), float(f1[best])


def least_cost_threshold(videos: Sequence[ScoredVideo], miss_cost: float) -> tuple[float, float]:
    """The threshold with the least cost, a missed frame costing ``miss_cost`` false ones, and that cost per frame.

    Args:
        videos: With logits as scores; never test videos.
        miss_cost: > 0.

    Raises:
        DataError: If a class has no frame.

    Example:
        >>> least_cost_threshold([ScoredVideo.from_frames("a", [-1.0, 2.0, 1.0, 0.0], [0, 0, 1, 0])], 3.0)
        (1.0, 0.25)
    """
    check_number(miss_cost, "miss_cost", "least_cost_threshold", low=1e-9)
    thresholds, true, false, abnormal, frames = _operating_points(videos)
    cost = (miss_cost * (abnormal - true) + false) / frames
    best = int(cost.argmin())
    return float(thresholds[best]), float(cost[best])


def outlying_blocks(blocks: Sequence[Block]) -> list[Block]:
    """Blocks whose maximum is more than three interquartile ranges above the upper quartile: they may hold an event.

    Fewer than four blocks have none.
    """
    if len(blocks) < 4:
        return []
    maxima = np.array([block.maximum for block in blocks])
    low, high = np.quantile(maxima, [0.25, 0.75])
    return [block for block in blocks if block.maximum > high + _OUTLYING * max(high - low, _ROUNDING)]


def _operating_points(
    videos: Sequence[ScoredVideo],
) -> tuple[Float64[np.ndarray, " t"], Float64[np.ndarray, " t"], Float64[np.ndarray, " t"], float, float]:
    """Distinct scores, falling, with the abnormal and the normal frames at or above each; abnormal frames; all frames."""
    scores, labels, weights = (np.concatenate([getattr(v, name) for v in videos]) for name in ("scores", "labels", "weights"))
    if labels.all() or not labels.any():
        raise DataError(
            "a threshold cannot be chosen from one class",
            expected="normal and abnormal frames",
            got="abnormal frames only" if labels.all() else "normal frames only",
            fix="give labelled validation videos of both, or use a false-alarm budget, which needs normal footage alone",
        )
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    true, false = (np.cumsum((weights * part)[order])[last] for part in (labels, ~labels))
    return scores[order][last], true, false, float(true[-1]), float(weights.sum())
