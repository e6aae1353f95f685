"""How well frame scores find the abnormal frames: AUC in its three readings, average precision, false alarms.

Scores may lie in any range: only their order counts, and nothing squashes, clamps or rescales them. Frames are counted
through the weights of their runs rather than repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, check_number
from .ranking import RankedRuns, video_auc, video_average_precision
from .scored import ScoredVideo as ScoredVideo
from .scored import require_videos


@dataclass(frozen=True)
class DetectionMetrics:
    """Every metric that has a value on a set of videos, and why the others have none.

    Args:
        values: Metric name to value.
        undefined: Metric name to the reason why it has no value here.
        macro_videos: Videos that the macro AUC averages over.
    """

    values: dict[str, float]
    undefined: dict[str, str]
    macro_videos: int


def micro_auc(scored: Sequence[ScoredVideo]) -> float:
    """Area under the ROC curve over the pooled frames of all videos: the number most papers call AUC.

    AUC = P(s+ > s-) + P(s+ = s-) / 2 for a random abnormal frame s+ and a random normal frame s-.

    Args:
        scored: The videos, each name once.

    Returns:
        The AUC in [0, 1].

    Raises:
        DataError: If there is no video, a name comes twice, or one class has no frame.

    Example:
        >>> micro_auc([ScoredVideo.from_frames("v01", [-3.0, 2.0, 1.0, 7.0], [0, 0, 1, 1])])
        0.75
    """
    return _pool(scored, "micro AUC").auc()


def macro_auc(scored: Sequence[ScoredVideo]) -> float:
    """Mean of the per-video AUC over the videos that have both classes; every such video counts the same.

    Videos with one class only are left out, as an AUC does not exist for them: ``macro_videos`` counts the rest.

    Args:
        scored: The videos, each name once.

    Returns:
        The mean AUC in [0, 1].

    Raises:
        DataError: If there is no video, a name comes twice, or no video has both classes.

    Example:
        >>> both = ScoredVideo.from_frames("v01", [1.0, 2.0], [0, 1])
        >>> macro_auc([both, ScoredVideo.from_frames("v02", [5.0, 6.0], [0, 0])])
        1.0
    """
    require_videos(scored)
    return _macro(RankedRuns.of(scored), len(scored))


def macro_videos(scored: Sequence[ScoredVideo]) -> int:
    """Count the videos with both classes: those that ``macro_auc`` averages over.

    Example:
        >>> macro_videos([ScoredVideo.from_frames("v01", [1.0, 2.0], [0, 1])])
        1
    """
    require_videos(scored)
    return sum(_has_both(video) for video in scored)


def abnormal_auc(scored: Sequence[ScoredVideo]) -> float:
    """Micro AUC over the abnormal videos only: does the score find *when*, once it is known *in which video*.

    Args:
        scored: The videos, each name once; those without an abnormal frame are left out.

    Returns:
        The AUC in [0, 1].

    Raises:
        DataError: If there is no video, a name comes twice, or the abnormal videos lack a class.

    Example:
        >>> both = ScoredVideo.from_frames("v01", [1.0, 2.0], [0, 1])
        >>> abnormal_auc([both, ScoredVideo.from_frames("v02", [5.0, 6.0], [0, 0])])
        1.0
    """
    require_videos(scored)
    abnormal = [video for video in scored if video.abnormal]
    if not abnormal:
        raise _missing_class("abnormal-videos-only AUC", "abnormal")
    return _pool(abnormal, "abnormal-videos-only AUC").auc()


def average_precision(scored: Sequence[ScoredVideo]) -> float:
    """Average precision over the pooled frames, which is a sum of steps and not the trapezoid under the curve.

    AP = sum_k (recall_k - recall_(k-1)) precision_k over the thresholds k from the highest score down.

    Args:
        scored: The videos, each name once.

    Returns:
        The average precision in (0, 1].

    Raises:
        DataError: If there is no video, a name comes twice, or one class has no frame.

    Example:
        >>> average_precision([ScoredVideo.from_frames("v01", [4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0])]) * 6
        5.0
    """
    return _pool(scored, "average precision").average_precision()


def false_alarm_rate(scored: Sequence[ScoredVideo], threshold: float, normal_only: bool = True) -> float:
    """Share of normal frames whose score is at or above a threshold.

    Args:
        scored: The videos, each name once.
        threshold: Score from which a frame raises an alarm, in the unit of the scores.
        normal_only: Count the frames of normal videos only; False also counts the normal frames of abnormal videos.

    Returns:
        The share in [0, 1].

    Raises:
        DataError: If there is no video, a name comes twice, or there is no normal video (or no normal frame).

    Example:
        >>> normal = ScoredVideo.from_frames("v02", [0.1, 0.2, 0.5, 0.9], [0, 0, 0, 0])
        >>> false_alarm_rate([normal], threshold=0.5)
        0.5
    """
    threshold = check_number(threshold, "threshold", "false_alarm_rate", low=-np.inf)
    require_videos(scored)
    counted = [video for video in scored if not (normal_only and video.abnormal)]
    alarms = sum(float(video.weights[~video.labels & (video.scores >= threshold)].sum()) for video in counted)
    frames = sum(float(video.weights[~video.labels].sum()) for video in counted)
    if frames == 0:
        kind = "normal video" if normal_only else "normal frame"
        raise DataError(
            "the false-alarm rate is undefined",
            expected=f"at least one {kind}",
            got="none",
            fix=f"evaluate a set that has a {kind}" + (", or pass normal_only=False" if normal_only else ""),
        )
    return alarms / frames


METRICS: dict[str, Callable[[Sequence[ScoredVideo]], float]] = {
    "micro_auc": micro_auc,
    "macro_auc": macro_auc,
    "abnormal_auc": abnormal_auc,
    "average_precision": average_precision,
    "video_auc": video_auc,
    "video_average_precision": video_average_precision,
}
"""The metrics that need nothing but scored videos, by the name that a Result gives them."""


def detection_metrics(scored: Sequence[ScoredVideo], threshold: float | None = None) -> DetectionMetrics:
    """Compute every metric that is defined on these videos and say why the others are not.

    Args:
        scored: The videos, each name once.
        threshold: Where given, ``false_alarm_rate`` on normal videos is one of the metrics.

    Returns:
        Values by metric name, reasons by metric name, and the videos behind the macro AUC.

    Raises:
        DataError: If there is no video or a name comes twice.

    Example:
        >>> found = detection_metrics([ScoredVideo.from_frames("v01", [1.0, 2.0], [0, 1])], threshold=2.0)
        >>> found.values["micro_auc"], sorted(found.undefined)
        (1.0, ['false_alarm_rate', 'video_auc', 'video_average_precision'])
    """
    require_videos(scored)
    runs = RankedRuns.of(scored)  # the one sort that all of them share
    abnormal = np.array([video.abnormal for video in scored])
    metrics: dict[str, Callable[[], float]] = {
        "micro_auc": lambda: _both_classes(runs, "micro AUC").auc(),
        "macro_auc": lambda: _macro(runs, len(scored)),
        "abnormal_auc": lambda: _both_classes(runs.of_videos(abnormal), "abnormal-videos-only AUC").auc(),
        "average_precision": lambda: _both_classes(runs, "average precision").average_precision(),
    }
    metrics |= {"video_auc": lambda: video_auc(scored), "video_average_precision": lambda: video_average_precision(scored)}
    if threshold is not None:
        limit = threshold
        metrics["false_alarm_rate"] = lambda: false_alarm_rate(scored, limit)
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            values[name] = metric()
        except DataError as reason:
            undefined[name] = str(reason)
    return DetectionMetrics(values, undefined, macro_videos(scored))


def _macro(runs: RankedRuns, videos: int) -> float:
    aucs = runs.auc_by_video(videos)
    defined = aucs[np.isfinite(aucs)]
    if not len(defined):
        raise DataError(
            "macro AUC is undefined",
            expected="a video with both normal and abnormal frames",
            got=f"{videos} videos of one class each",
            fix="report the micro AUC, or evaluate videos with frame-level ground truth",
        )
    return float(np.mean(defined))


def _pool(scored: Sequence[ScoredVideo], metric: str) -> RankedRuns:
    """The runs of all videos in one, sorted, with both classes present."""
    require_videos(scored)
    return _both_classes(RankedRuns.of(scored), metric)


def _both_classes(runs: RankedRuns, metric: str) -> RankedRuns:
    for name, counts in (("abnormal", runs.abnormal), ("normal", runs.normal)):
        if not counts.any():
            raise _missing_class(metric, name)
    return runs


def _has_both(video: ScoredVideo) -> bool:
    return video.abnormal and not bool(video.labels.all())


def _missing_class(metric: str, missing: str) -> DataError:
    return DataError(
        f"{metric} is undefined with one class only",
        expected="normal and abnormal frames",
        got=f"no {missing} frame",
        fix=f"add videos with {missing} frames, or check the ground truth",
    )
