"""Events: the spans of a video whose scores are high."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.annotations import intervals_from_labels
from .runs import VideoScores


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
    spans = []
    for run in intervals_from_labels("video", scores.scores >= threshold):
        end = scores.times[run.end_frame] if run.end_frame < len(scores.times) else scores.times[-1] + 1 / scores.fps
        peak = float(scores.scores[run.start_frame : run.end_frame].max())
        spans.append(Span(run.start_frame, run.end_frame, float(scores.times[run.start_frame]), float(end), peak))
    return sorted(spans, key=lambda span: (-span.peak, span.start_frame))
