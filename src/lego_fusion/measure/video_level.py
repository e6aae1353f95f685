"""How well a score per video tells abnormal videos from normal ones: the question that labels per video ask.

The score of a video is the mean over the 3/32 of its frames with the highest scores. That is as much as the 3 of 32 segments
whose mean the bag loss reads, and it is defined for any frame scores, however they came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float64

from ..errors import DataError
from .ranking import RankedRuns
from .scored import ScoredVideo, require_videos

TOP_SHARE = Fraction(3, 32)
"""Share of a video's frames that its score is a mean of."""


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
    return np.array([_score(video) for video in scored], np.float64)


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
    return _runs(scored, "video AUC").auc()


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
    return _runs(scored, "video average precision").average_precision()


def _score(video: ScoredVideo) -> float:
    order = np.argsort(-video.scores, kind="stable")
    weights, left = video.weights[order], float(TOP_SHARE) * video.frames
    counted = np.clip(left - (np.cumsum(weights) - weights), 0.0, weights)
    return float(counted @ video.scores[order] / left)


def as_single_frames(scored: Sequence[ScoredVideo]) -> list[ScoredVideo]:
    """Each video as one frame of its score and label: a metric of videos is that metric of these frames."""
    scores = video_scores(scored)
    return [ScoredVideo.from_frames(one.video, [score], [one.abnormal]) for one, score in zip(scored, scores, strict=True)]


def _runs(scored: Sequence[ScoredVideo], metric: str) -> RankedRuns:
    """The videos as frames, sorted, with both classes present."""
    require_videos(scored)
    for name, there in (("abnormal", any(one.abnormal for one in scored)), ("normal", not all(one.abnormal for one in scored))):
        if not there:
            raise DataError(
                f"{metric} is undefined with one class only",
                expected="normal and abnormal videos",
                got=f"no {name} video",
                fix=f"add {name} videos, or report the micro AUC",
            )
    return RankedRuns.of(as_single_frames(scored))
