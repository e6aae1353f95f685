"""How well scores find abnormal frames and videos: AUC in its readings, average precision, false alarms.

Scores may lie in any range: only their order counts, and nothing squashes, clamps or rescales them. Frames are counted
through the weights of their runs rather than repeated.

The score of a video is the mean over the 3/32 of its frames with the highest scores. That is as much as the 3 of 32 segments
whose mean the bag loss reads, and it is defined for any frame scores, however they came about.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float64

from ..errors import DataError, check_number
from .scored import RankedRuns, require_videos
from .scored import ScoredVideo as ScoredVideo

TOP_SHARE = Fraction(3, 32)
"""Share of a video's frames that its score is a mean of."""
_FIXES = {  # of a missing class
    "frames": "add videos with {} frames, or check the ground truth",
    "videos": "add {} videos, or report the micro AUC",
}


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

    Videos with one class only are left out, as an AUC does not exist for them; ``detection_metrics`` counts the rest.

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
    return _macro(RankedRuns.of(scored).auc_by_video(len(scored)))


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
    return _abnormal_only(RankedRuns.of(scored), scored).auc()


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


def video_scores(scored: Sequence[ScoredVideo]) -> Float64[np.ndarray, " v"]:
    """S = mean of the score over the 3/32 of the frames with the highest ones, for each video.

    Args:
        scored: The videos.

    Returns:
        One score a video, (V,), in the unit of the scores.

    Example:
        >>> video_scores([ScoredVideo.from_frames("v01", [0.0] * 29 + [1.0, 2.0, 3.0], [0] * 32)]).tolist()
        [2.0]
    """
    return np.array([_video_score(video) for video in scored], np.float64)


def video_auc(scored: Sequence[ScoredVideo]) -> float:
    """Area under the ROC curve of whole videos: P(S+ > S-) + P(S+ = S-) / 2 for an abnormal and a normal video.

    Args:
        scored: The videos, each name once; one with an abnormal frame is abnormal.

    Returns:
        The AUC in [0, 1].

    Raises:
        DataError: If there is no video, a name comes twice, or all videos are of one class.

    Example:
        >>> video_auc([ScoredVideo.from_frames("v01", [5.0, 0.0], [1, 0]), ScoredVideo.from_frames("v02", [1.0, 2.0], [0, 0])])
        1.0
    """
    return _video_runs(scored, "video AUC").auc()


def video_average_precision(scored: Sequence[ScoredVideo]) -> float:
    """Average precision of whole videos, a sum of steps: sum_k (recall_k - recall_(k-1)) precision_k.

    Args:
        scored: The videos, each name once; one with an abnormal frame is abnormal.

    Returns:
        The average precision in (0, 1].

    Raises:
        DataError: If there is no video, a name comes twice, or all videos are of one class.

    Example:
        >>> videos = [ScoredVideo.from_frames("v01", [1.0], [1]), ScoredVideo.from_frames("v02", [2.0], [0])]
        >>> video_average_precision(videos)
        0.5
    """
    return _video_runs(scored, "video average precision").average_precision()


def as_single_frames(scored: Sequence[ScoredVideo]) -> list[ScoredVideo]:
    """Each video as one frame of its score and label: a metric of videos is that metric of these frames."""
    scores = video_scores(scored)
    return [ScoredVideo.from_frames(one.video, [score], [one.abnormal]) for one, score in zip(scored, scores, strict=True)]


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
    aucs = runs.auc_by_video(len(scored))
    metrics: dict[str, Callable[[], float]] = {
        "micro_auc": lambda: _both_classes(runs, "micro AUC").auc(),
        "macro_auc": lambda: _macro(aucs),
        "abnormal_auc": lambda: _abnormal_only(runs, scored).auc(),
        "average_precision": lambda: _both_classes(runs, "average precision").average_precision(),
        "video_auc": lambda: video_auc(scored),
        "video_average_precision": lambda: video_average_precision(scored),
    }
    if threshold is not None:
        metrics["false_alarm_rate"] = functools.partial(false_alarm_rate, scored, threshold)
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            values[name] = metric()
        except DataError as reason:
            undefined[name] = str(reason)
    return DetectionMetrics(values, undefined, int(np.isfinite(aucs).sum()))


def _macro(aucs: Float64[np.ndarray, " v"]) -> float:
    defined = aucs[np.isfinite(aucs)]
    if not len(defined):
        raise DataError(
            "macro AUC is undefined",
            expected="a video with both normal and abnormal frames",
            got=f"{len(aucs)} videos of one class each",
            fix="report the micro AUC, or evaluate videos with frame-level ground truth",
        )
    return float(np.mean(defined))


def _pool(scored: Sequence[ScoredVideo], metric: str) -> RankedRuns:
    """The runs of all videos in one, sorted, with both classes present."""
    require_videos(scored)
    return _both_classes(RankedRuns.of(scored), metric)


def _abnormal_only(runs: RankedRuns, scored: Sequence[ScoredVideo]) -> RankedRuns:
    abnormal = np.array([video.abnormal for video in scored])
    return _both_classes(runs.of_videos(abnormal), "abnormal-videos-only AUC")


def _both_classes(runs: RankedRuns, metric: str, things: str = "frames") -> RankedRuns:
    """The runs, unless one class is missing among the frames, or the videos, that they stand for."""
    for name, counts in (("abnormal", runs.abnormal), ("normal", runs.normal)):
        if not counts.any():
            raise DataError(
                f"{metric} is undefined with one class only",
                expected=f"normal and abnormal {things}",
                got=f"no {name} {things.removesuffix('s')}",
                fix=_FIXES[things].format(name),
            )
    return runs


def _video_score(video: ScoredVideo) -> float:
    order = np.argsort(-video.scores, kind="stable")
    weights, left = video.weights[order], float(TOP_SHARE) * video.frames
    counted = np.clip(left - (np.cumsum(weights) - weights), 0.0, weights)
    return float(counted @ video.scores[order] / left)


def _video_runs(scored: Sequence[ScoredVideo], metric: str) -> RankedRuns:
    """The videos as frames, sorted, with both classes present."""
    require_videos(scored)
    return _both_classes(RankedRuns.of(as_single_frames(scored)), metric, "videos")
