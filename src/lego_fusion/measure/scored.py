"""Videos with a score and a ground truth for every frame, and their runs sorted once: what every metric is computed from.

A run of frames with one score and one label counts with its number of frames, so nothing is repeated: 1.1 million frames of
scores that change every 16 frames are 70,000 numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float64, Int64, Shaped

from ..errors import DataError


@dataclass(frozen=True, eq=False)
class ScoredVideo:
    """The frames of one video with their scores and their ground truth, as S weighted runs.

    The arrays are copied and made read-only.

    Args:
        video: Name of the video.
        scores: Score per run (S,), any finite number, higher is more abnormal.
        labels: Whether the frames of a run are abnormal (S,), bool or 0 and 1.
        weights: Frames per run (S,), above zero.

    Raises:
        DataError: If scores or weights are not finite, labels are not boolean, or lengths differ or are zero.

    Example:
        >>> video = ScoredVideo("v01", np.array([0.1, 0.9]), labels=np.array([0, 1]), weights=np.array([16, 16]))
        >>> video.abnormal, video.frames
        (True, 32.0)
    """

    video: str
    scores: Shaped[np.ndarray, " _"]  # float64, bool and float64 once built
    labels: Shaped[np.ndarray, " _"]
    weights: Shaped[np.ndarray, " _"]

    def __post_init__(self) -> None:
        scores = _numbers(self.scores, "scores", self.video)
        labels = _labels(self.labels, self.video)
        weights = _numbers(self.weights, "weights", self.video)
        _require_equal_lengths(self.video, scores=scores, labels=labels, weights=weights)
        if (weights <= 0).any():
            raise DataError(
                "a run without frames",
                where=f"weights of video '{self.video}'",
                expected="frame counts above 0",
                got=weights.min(),
                fix="leave the run out",
            )
        for name, array in (("scores", scores), ("labels", labels), ("weights", weights)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def from_frames(cls, video: str, scores: npt.ArrayLike, labels: npt.ArrayLike) -> ScoredVideo:
        """Build from one score and one label per frame; neighbours that agree in both become one run.

        Args:
            video: Name of the video.
            scores: Score per frame (F,).
            labels: Ground truth per frame (F,), bool or 0 and 1.

        Returns:
            The video, whose runs hold F frames in all.

        Raises:
            DataError: As the class does.

        Example:
            >>> ScoredVideo.from_frames("v01", [0.1, 0.1, 0.9, 0.9], [0, 0, 0, 1]).weights.tolist()
            [2.0, 1.0, 1.0]
        """
        score, label = _numbers(scores, "scores", video), _labels(labels, video)
        _require_equal_lengths(video, scores=score, labels=label)
        return cls._joined(video, score, label, np.ones(len(score)))

    @classmethod
    def from_spans(
        cls,
        video: str,
        scores: npt.ArrayLike,
        bounds: Int64[np.ndarray, " _"],
        intervals: Sequence[tuple[int, int]] = (),
    ) -> ScoredVideo:
        """Build from one score per span of frames and the intervals that are abnormal, without a number per frame.

        Where an interval begins or ends inside a span, the span becomes runs of both labels.

        Args:
            video: Name of the video.
            scores: Score per span (S,).
            bounds: First frame of each span, and the frame after the last, rising, (S + 1,).
            intervals: Abnormal frames as [start, end), in any order; they may overlap and reach over the ends.

        Returns:
            The video that ``from_frames`` makes of the scores repeated over their frames.

        Raises:
            DataError: As the class does, or where bounds do not fit the scores or do not rise.

        Example:
            >>> video = ScoredVideo.from_spans("v01", [0.1, 0.9], np.array([0, 16, 30]), [(20, 99)])
            >>> video.scores.tolist(), video.labels.tolist(), video.weights.tolist()
            ([0.1, 0.9, 0.9], [False, False, True], [16.0, 4.0, 10.0])
        """
        score = _numbers(scores, "scores", video)
        if len(bounds) != len(score) + 1 or (np.diff(bounds) <= 0).any():
            expected = f"{len(score) + 1} rising bounds for {len(score)} scores"
            raise DataError("the spans do not fit the scores", where=f"video '{video}'", expected=expected, got=bounds.tolist())
        edges = np.clip(np.array([edge for interval in intervals for edge in interval], np.int64), bounds[0], bounds[-1])
        cuts = np.unique(np.concatenate([bounds, edges]))
        starts = cuts[:-1]
        label = np.zeros(len(starts), np.bool_)
        for start, end in intervals:
            label |= (starts >= start) & (starts < end)
        return cls._joined(video, score[np.searchsorted(bounds, starts, side="right") - 1], label, np.diff(cuts))

    @classmethod
    def _joined(cls, video: str, scores: Any, labels: Any, frames: Any) -> ScoredVideo:
        """Neighbours that agree in score and label as one run."""
        changes = (scores[1:] != scores[:-1]) | (labels[1:] != labels[:-1])
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])[: len(scores)]
        return cls(video, scores[starts], labels[starts], np.add.reduceat(frames, starts) if len(starts) else frames)

    @property
    def abnormal(self) -> bool:
        """Whether the ground truth has at least one abnormal frame."""
        return bool(self.labels.any())

    @property
    def frames(self) -> float:
        """Frames of the video."""
        return float(self.weights.sum())


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


def require_videos(scored: Sequence[ScoredVideo]) -> None:
    """Raise ``DataError`` unless there is at least one video and every name comes once."""
    if not scored:
        raise DataError("there is nothing to measure", expected="at least one scored video", got="none")
    repeated = [name for name, count in Counter(video.video for video in scored).items() if count > 1]
    if repeated:
        raise DataError(
            "a video is scored more than once",
            where=f"video '{repeated[0]}'",
            expected="every name once",
            got=f"{len(repeated)} repeated names",
            fix="join the scores of a video before measuring",
        )


def _require_equal_lengths(video: str, **arrays: Shaped[np.ndarray, " _"]) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            "scores and ground truth differ in length",
            where=f"video '{video}'",
            expected="equal lengths",
            got=", ".join(f"{count} {name}" for name, count in lengths.items()),
            fix="spread the scores over the frames of the video, the last partial snippet too",
        )
    if 0 in lengths.values():
        raise DataError("a video without frames", where=f"video '{video}'", expected="at least one frame", got="0")


def _one_axis(array: npt.NDArray[Any], name: str, video: str) -> None:
    if array.ndim != 1:
        raise DataError(
            f"{name} have a wrong shape", where=f"video '{video}'", expected="one number per frame", got=array.shape
        )


def _numbers(values: npt.ArrayLike, name: str, video: str) -> Float64[np.ndarray, " s"]:
    """A fresh float64 copy of finite numbers."""
    where = f"video '{video}'"
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} are not numbers", where=where, expected="finite numbers", got=str(error)) from error
    _one_axis(array, name, video)
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise DataError(
            f"{name} are not finite",
            where=where,
            expected="finite numbers",
            got=f"{array[wrong[0]]} at position {wrong[0]} ({wrong.size} of {len(array)})",
            fix="look for NaN in the features, or for a training run that diverged",
        )
    return array


def _labels(values: npt.ArrayLike, video: str) -> Bool[np.ndarray, " s"]:
    """A fresh boolean copy of labels that are bool, or integers 0 and 1."""
    where, expected = f"video '{video}'", "bool, or integers 0 and 1"
    try:
        array = np.array(values)
    except ValueError as error:
        raise DataError("labels are not an array", where=where, expected=expected, got=str(error)) from error
    _one_axis(array, "labels", video)
    if array.size and array.dtype.kind not in "biu":
        raise DataError(
            "labels are not boolean", where=where, expected=expected, got=f"dtype {array.dtype}", fix="convert them"
        )
    if not np.isin(array, (0, 1)).all():
        wrong = array[~np.isin(array, (0, 1))][0]
        raise DataError("labels are not boolean", where=where, expected=expected, got=wrong, fix="label the frames")
    return array.astype(np.bool_)
