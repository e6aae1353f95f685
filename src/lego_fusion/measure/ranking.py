"""Runs in the order of their scores, sorted once, and how well a score per video tells abnormal videos from normal ones.

A run of frames with one score and one label counts with its number of frames, so nothing is repeated: 1.1 million frames of
scores that change every 16 frames are 70,000 numbers.

The score of a video is the mean over the 3/32 of its frames with the highest scores. That is as much as the 3 of 32 segments
whose mean the bag loss reads, and it is defined for any frame scores, however they came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ..errors import DataError
from .scored import ScoredVideo, require_videos


@dataclass(frozen=True, eq=False)
class RankedRuns:
    """The runs of all videos from the lowest score to the highest.

    Args:
        group: Number of the score among the different scores, rising, (S,).
        abnormal: Abnormal frames of each run, (S,); 0 where it is normal.
        normal: Normal frames of each run, (S,).
        owner: Position of the video that a run belongs to, (S,).

    Example:
        >>> runs = RankedRuns.of([ScoredVideo.from_frames("v01", [-3.0, 2.0, 1.0, 7.0], [0, 0, 1, 1])])
        >>> runs.auc(), round(runs.average_precision(), 4)
        (0.75, 0.8333)
    """

    group: Int64[np.ndarray, " s"]
    abnormal: Float64[np.ndarray, " s"]
    normal: Float64[np.ndarray, " s"]
    owner: Int64[np.ndarray, " s"]

    @classmethod
    def of(cls, scored: Sequence[ScoredVideo]) -> RankedRuns:
        """Pool the runs of videos and sort them, once."""
        scores = np.concatenate([video.scores for video in scored])
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        group = np.zeros(len(ranked), np.int64)
        np.cumsum(ranked[1:] != ranked[:-1], out=group[1:])
        labels = np.concatenate([video.labels for video in scored])[order]
        weights = np.concatenate([video.weights for video in scored])[order]
        owner = np.repeat(np.arange(len(scored)), [len(video.scores) for video in scored])[order]
        return cls(group, np.where(labels, weights, 0.0), np.where(labels, 0.0, weights), owner)

    def of_videos(self, kept: Bool[np.ndarray, " v"]) -> RankedRuns:
        """The runs of some of the videos, still sorted."""
        rows = kept[self.owner]
        return RankedRuns(self.group[rows], self.abnormal[rows], self.normal[rows], self.owner[rows])

    def auc(self) -> float:
        """P(s+ > s-) + P(s+ = s-) / 2, where both classes are there."""
        abnormal, normal = self._by_score()
        return float(abnormal @ (np.cumsum(normal) - normal / 2) / (abnormal.sum() * normal.sum()))

    def average_precision(self) -> float:
        """sum_k (recall_k - recall_(k-1)) precision_k from the highest score down, where both classes are there."""
        abnormal, normal = (counts[::-1] for counts in self._by_score())
        found = np.cumsum(abnormal)
        return float(abnormal @ (found / (found + np.cumsum(normal))) / found[-1])

    def auc_by_video(self, videos: int) -> Float64[np.ndarray, " v"]:
        """AUC of each video alone, NaN where it lacks a class."""
        order = np.argsort(self.owner, kind="stable")  # by video, and in each by score
        owner, group = self.owner[order], self.group[order]
        starts = np.flatnonzero(np.append(True, (owner[1:] != owner[:-1]) | (group[1:] != group[:-1])))
        abnormal, normal = (np.add.reduceat(counts[order], starts) for counts in (self.abnormal, self.normal))
        owner = owner[starts]
        all_normal = np.bincount(owner, weights=normal, minlength=videos)
        below = np.cumsum(normal) - normal / 2 - (np.cumsum(all_normal) - all_normal)[owner]
        pairs = np.bincount(owner, weights=abnormal, minlength=videos) * all_normal
        right = np.bincount(owner, weights=abnormal * below, minlength=videos)
        aucs = np.full(videos, np.nan)
        np.divide(right, pairs, out=aucs, where=pairs > 0)
        return aucs

    def _by_score(self) -> tuple[Float64[np.ndarray, " g"], Float64[np.ndarray, " g"]]:
        """Abnormal and normal frames of each different score, rising."""
        starts = np.flatnonzero(np.append(True, self.group[1:] != self.group[:-1]))
        return np.add.reduceat(self.abnormal, starts), np.add.reduceat(self.normal, starts)


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
