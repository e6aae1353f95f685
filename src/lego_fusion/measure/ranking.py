"""Weighted runs in the order of their scores: sorted once, and every metric that only the order decides is read off.

A run of frames with one score and one label counts with its number of frames, so nothing is repeated: 1.1 million frames of
scores that change every 16 frames are 70,000 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .scored import ScoredVideo


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
