"""A metric on many choices of the videos at once, apart from ``intervals``: the arithmetic without the statistics.

A choice says how often each video counts. Where a metric is known, its runs are sorted once for all choices; any other metric
is called on the list of every choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64

from ..errors import DataError
from .detection import (
    abnormal_auc,
    as_single_frames,
    average_precision,
    macro_auc,
    micro_auc,
    video_auc,
    video_average_precision,
)
from .scored import RankedRuns, ScoredVideo

Metric = Callable[[Sequence[ScoredVideo]], float]

_CHUNK = 2**18  # numbers held at once: small enough to stay in the processor's cache


def metric_on(videos: Sequence[ScoredVideo], metric: Metric, counts: Float64[np.ndarray, "r v"]) -> Float64[np.ndarray, " r"]:
    """Compute a metric on each of r choices of the videos.

    Args:
        videos: The videos, each name once.
        metric: Those of ``detection.METRICS`` are computed on all choices together; any other is called on lists in which the
            k-th copy of a video is named ``name#k`` from the second on.
        counts: How often each video counts in each choice (r, v), whole numbers.

    Returns:
        The metric of each choice, NaN where it is undefined.

    Example:
        >>> videos = [ScoredVideo.from_frames(name, [0.0, 1.0], [0, 1]) for name in ("v01", "v02")]
        >>> metric_on(videos, micro_auc, np.array([[1.0, 1.0], [0.0, 2.0]])).tolist()
        [1.0, 1.0]
    """
    if metric is macro_auc:
        return _macro_on(videos, counts)
    if metric is micro_auc or metric is average_precision:
        return _pooled_on(videos, metric, counts)
    if metric is abnormal_auc:
        kept = [position for position, video in enumerate(videos) if video.abnormal]
        return _pooled_on([videos[position] for position in kept], micro_auc, counts[:, kept])
    if metric is video_auc or metric is video_average_precision:
        frames, of_frames = as_single_frames(videos), micro_auc if metric is video_auc else average_precision
        return _pooled_on(frames, of_frames, counts)
    return np.array([_value_or_nan(metric, _chosen(videos, row)) for row in counts])


def _chosen(videos: Sequence[ScoredVideo], counts: Float64[np.ndarray, " v"]) -> list[ScoredVideo]:
    """A choice as a list of videos of different names."""
    return [
        video if copy == 1 else replace(video, video=f"{video.video}#{copy}")
        for video, count in zip(videos, counts, strict=True)
        for copy in range(1, int(count) + 1)
    ]


def _value_or_nan(metric: Metric, resample: Sequence[ScoredVideo]) -> float:
    try:
        return float(metric(resample))
    except DataError:
        return float("nan")


def _macro_on(videos: Sequence[ScoredVideo], counts: Float64[np.ndarray, "r v"]) -> Float64[np.ndarray, " r"]:
    """Macro AUC of each choice, from the AUC of every video computed once."""
    aucs = np.array([_value_or_nan(macro_auc, [video]) for video in videos])
    counts = counts[:, np.isfinite(aucs)]
    return _divide(counts @ aucs[np.isfinite(aucs)], counts.sum(axis=1))


def _pooled_on(videos: Sequence[ScoredVideo], metric: Metric, counts: Float64[np.ndarray, "r v"]) -> Float64[np.ndarray, " r"]:
    """Micro AUC or average precision of each choice, with runs weighted by how often their video counts.

    AUC = sum_t gain_t (F_below(t) + F_through(t)) / 2 / (P N) and AP = sum_t gain_t T_from(t) / (T_from(t) + F_from(t)) / P
    over the scores t of abnormal frames, where T and F are the abnormal and normal frames below t, through t or from t on, P
    and N all of them, and gain_t = T_through(t) - T_below(t).
    """
    runs = RankedRuns.of(videos)
    thresholds = np.unique(runs.group[runs.abnormal > 0])
    abnormal, normal = (_kind(runs, frames, thresholds) for frames in (runs.abnormal, runs.normal))
    values = []
    step = max(1, _CHUNK // len(runs.group))
    for start in range(0, len(counts), step):
        part = np.ascontiguousarray(counts[start : start + step].T)  # (v, c)
        true_below, true_through, positives = _frames_at(*abnormal, part)  # (t, c), (t, c), (c,)
        false_below, false_through, negatives = _frames_at(*normal, part)
        gain = true_through - true_below
        if metric is average_precision:
            true_from = positives - true_below
            found = _divide(gain * true_from, true_from + (negatives - false_below), empty=0.0).sum(axis=0)
            values.append(_divide(found, np.where(negatives > 0, positives, 0.0)))
        else:
            found = (gain * (false_below + false_through) / 2).sum(axis=0)
            values.append(_divide(found, positives * negatives))
    return np.concatenate(values)


def _kind(
    runs: RankedRuns, frames: Float64[np.ndarray, " s"], thresholds: Int64[np.ndarray, " t"]
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"], Int64[np.ndarray, "2 t"]]:
    """Owners and frames of the runs that have frames of one kind, and where each threshold begins and ends among them."""
    rows = np.flatnonzero(frames)
    ends = [np.searchsorted(runs.group[rows], thresholds, side=side) for side in ("left", "right")]
    return runs.owner[rows], frames[rows], np.stack(ends)


def _frames_at(
    owner: Int64[np.ndarray, " n"],
    frames: Float64[np.ndarray, " n"],
    ends: Int64[np.ndarray, "2 t"],
    counts: Float64[np.ndarray, "v c"],
) -> tuple[Float64[np.ndarray, "t c"], Float64[np.ndarray, "t c"], Float64[np.ndarray, " c"]]:
    """Frames of one kind below each threshold, through it, and in all, in each of c choices."""
    sums = np.zeros((len(owner) + 1, counts.shape[1]))
    np.cumsum(counts[owner] * frames[:, None], axis=0, out=sums[1:])
    below, through = sums[ends]
    return below, through, sums[-1]


def _divide(
    numerator: Float64[np.ndarray, "*s"], denominator: Float64[np.ndarray, "*s"], empty: float = float("nan")
) -> Float64[np.ndarray, "*s"]:
    """Quotient, and ``empty`` where the denominator is 0."""
    quotient = np.full_like(numerator, empty)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient
