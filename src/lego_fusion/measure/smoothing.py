"""Scores on the clock: a Gaussian over seconds, the same for every method, before anything is read from the scores.

An event lasts whole seconds, and what an extractor says of a sixteenth of one jitters. Where a video is cut into equal spans,
its *frames* are smoothed, from both sides: steps between snippets become slopes. On a stream its *segments* are, over the past
alone, so that a recorded video and a running stream give the same scores.

Logits are smoothed, not their sigmoids: events, thresholds and calibrations are found in logits; a frame's logit stays a
weighted mean of segments' logits, so the parts of an explanation still add up to it; and a logit of 30 is not cut to a score of
1 beforehand. On development data sigmoids would gain 0.0 to 0.2 points of micro AUC more for relational fusions and 0.7 for
concatenation. What learns nothing has no logits: its distances are smoothed as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Real
from scipy.ndimage import correlate1d

from ..errors import check_int, check_number

SMOOTHING = 0.5
"""Standard deviation in seconds unless told otherwise; ``benchmarks/smoothing.py`` measures what it gains and costs."""
MOST_SECONDS = 60.0
REACH = 4.0  # standard deviations beyond which nothing counts
_FINENESS = 2.0  # steps in a standard deviation, at least


def check_smoothing(seconds: object, owner: str) -> float:
    """A standard deviation in [0, 60] seconds as a float; 0 is no smoothing.

    Raises:
        ParameterError: If it is anything else.
    """
    return check_number(seconds, "smoothing", owner, low=0.0, high=MOST_SECONDS)


def smooth(
    values: Float[np.ndarray, "*b n"], step: float, seconds: float, *, causal: bool = False
) -> Float64[np.ndarray, "*b n"]:
    """Gaussian means over the last axis: y_i = sum_j w_ij x_j / sum_j w_ij, w_ij = exp(-((i - j) step / seconds)^2 / 2).

    Values more than 4 ``seconds`` away do not count, nor, with ``causal``, later ones. Beyond the ends there is nothing, and
    weights are renormalised, so a constant stays that constant.

    Args:
        values: Logits or scores, one every ``step``.
        step: Seconds from one value to the next, above 0.
        seconds: Standard deviation, in [0, 60]; with 0 the values stay as they are.
        causal: Whether a value may depend on earlier ones alone.

    Returns:
        As many values.

    Raises:
        ParameterError: If a number is out of its range.

    Example:
        >>> smooth(np.array([0.0, 0.0, 1.0, 0.0]), step=0.5, seconds=0.5).round(2).tolist()
        [0.08, 0.26, 0.43, 0.35]
        >>> smooth(np.array([0.0, 0.0, 1.0, 0.0]), step=0.5, seconds=0.5, causal=True).round(2).tolist()
        [0.0, 0.0, 0.57, 0.35]
    """
    seconds = check_smoothing(seconds, "smooth")
    step = check_number(step, "step", "smooth", low=1e-9)
    values = np.asarray(values, np.float64)
    reach = min(past_steps(step, seconds), max(values.shape[-1] - 1, 0))
    if not reach:
        return values.copy()
    weights = _weights(np.arange(-reach, reach + 1), step, seconds)
    if causal:
        weights[reach + 1 :] = 0.0
    first = values[..., :1]  # of which the rest is told apart: equal values stay exactly equal
    total = correlate1d(np.ones(values.shape[-1]), weights, mode="constant")
    mixed: Float64[np.ndarray, "*b n"] = first + correlate1d(values - first, weights, axis=-1, mode="constant") / total
    return mixed


def smooth_frames(
    frames: Float[np.ndarray, "*b f"], fps: float, seconds: float, *, constant: int = 1
) -> Float64[np.ndarray, "*b f"]:
    """``smooth`` for the frames of a video, whose scores come in spans, in as few steps as are fine enough.

    The steps are a divisor of ``constant`` frames and at most half a standard deviation long: AUC is then within 0.05 points of
    smoothing frame by frame, and metrics meet a quarter to an eighth as many different scores.

    Args:
        frames: Logit or score of each frame.
        fps: Frames per second.
        seconds: Standard deviation, in [0, 60]; with 0 the values stay as they are.
        constant: Frames that are alike from every multiple of this number on: the greatest common divisor of a snippet's frames
            and its stride.

    Raises:
        ParameterError: If a number is out of its range.

    Example:
        >>> smooth_frames(np.repeat([0.0, 1.0], 4), fps=4.0, seconds=0.5, constant=4).round(2).tolist()
        [0.06, 0.13, 0.25, 0.41, 0.59, 0.75, 0.87, 0.94]
    """
    seconds = check_smoothing(seconds, "smooth_frames")
    fps = check_number(fps, "fps", "smooth_frames", low=1e-9)
    if not seconds:
        return np.array(frames, np.float64)
    count = frame_step(fps, seconds, constant)
    steps = smooth(frames[..., ::count], count / fps, seconds)
    return np.repeat(steps, count, axis=-1)[..., : frames.shape[-1]]


def frame_step(fps: float, seconds: float, constant: int) -> int:
    """Frames in one step of ``smooth_frames``: the largest divisor of ``constant`` that lasts at most ``seconds`` / 2, or 1.

    Example:
        >>> frame_step(25.0, 0.5, 16), frame_step(10.0, 0.5, 16), frame_step(10.0, 0.1, 16)
        (4, 2, 1)
    """
    check_int(constant, "constant", "frame_step", low=1)
    longest = max(1, int(fps * seconds / _FINENESS))
    return max(count for count in range(1, min(longest, constant) + 1) if constant % count == 0)


def past_steps(step: float, seconds: float) -> int:
    """How many values before its own a smoothed one may depend on."""
    return int(REACH * seconds / step + 1e-9)


class CausalSmoother:
    """``smooth(..., causal=True)`` one value at a time, with memory for as many as count.

    Args:
        step: Seconds from one value to the next.
        seconds: Standard deviation, in [0, 60]; with 0 values stay as they are.

    Raises:
        ParameterError: If a number is out of its range.

    Example:
        >>> smoother = CausalSmoother(step=0.5, seconds=0.5)
        >>> [round(smoother.push(place, value), 2) for place, value in enumerate([0.0, 0.0, 1.0, 0.0])]
        [0.0, 0.0, 0.57, 0.35]
    """

    def __init__(self, step: float, seconds: float) -> None:
        self.step = check_number(step, "step", "CausalSmoother", low=1e-9)
        self.seconds = check_smoothing(seconds, "CausalSmoother")
        self._reach = past_steps(self.step, self.seconds)
        self._recent: deque[tuple[int, float]] = deque(maxlen=self._reach + 1)

    def push(self, place: int, value: float) -> float:
        """Take the value at a place, which rises from call to call, and give its smoothed one; places left out do not count."""
        self._recent.append((place, value))
        if not self.seconds:
            return value
        places, values = np.array(self._recent).T
        weights = _weights(places - place, self.step, self.seconds) * (place - places <= self._reach)
        return float(value + (weights * (values - value)).sum() / weights.sum())

    def state(self) -> tuple[tuple[int, float], ...]:
        """Places and values that still count, for another process to go on from."""
        return tuple(self._recent)

    def restore(self, state: Sequence[tuple[int, float]]) -> None:
        """Go on where ``state`` was taken."""
        self._recent.clear()
        self._recent.extend(state)


def _weights(places: Real[np.ndarray, " k"], step: float, seconds: float) -> Float64[np.ndarray, " k"]:
    weights: Float64[np.ndarray, " k"] = np.exp(-np.square(places * step / seconds) / 2)
    return weights
