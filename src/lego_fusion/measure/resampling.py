"""A metric on many resamples of the videos at once, apart from ``intervals``: the arithmetic without the statistics.

A resample is an array of positions in the list of videos. Where a metric is known, its runs are sorted once and a
resample only changes how often each video counts; any other metric is called on every resampled list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from ..errors import DataError
from .detection import abnormal_auc, average_precision, macro_auc, micro_auc
from .ranking import as_single_frames, video_auc, video_average_precision
from .scored import ScoredVideo

Metric = Callable[[Sequence[ScoredVideo]], float]

_CHUNK = 2**18  # numbers held at once: small enough to stay in the processor's cache


def metric_on(videos: Sequence[ScoredVideo], metric: Metric, draws: Int64[np.ndarray, "r v"]) -> Float64[np.ndarray, " r"]:
    """Compute a metric on each of r resamples.

    Args:
        videos: The videos, each name once.
        metric: Those of ``detection.METRICS`` are computed on all resamples together; any other is called on lists in
            which the k-th copy of a video is named ``name#k``.
        draws: Positions in ``videos`` (r, v), as many in each resample as there are videos.

    Returns:
        The metric of each resample, NaN where it is undefined.

    Example:
        >>> videos = [ScoredVideo.from_frames(name, [0.0, 1.0], [0, 1]) for name in ("v01", "v02")]
        >>> metric_on(videos, micro_auc, np.array([[0, 1], [1, 1]])).tolist()
        [1.0, 1.0]
    """
    if metric is macro_auc:
        return _macro_on(videos, draws)
    if metric is micro_auc or metric is average_precision:
        return _pooled_on(videos, metric, multiplicities(draws))
    if metric is abnormal_auc:
        kept = [position for position, video in enumerate(videos) if video.abnormal]
        return _pooled_on([videos[position] for position in kept], micro_auc, multiplicities(draws)[:, kept])
    if metric is video_auc or metric is video_average_precision:
        frames, of_frames = as_single_frames(videos), micro_auc if metric is video_auc else average_precision
        return _pooled_on(frames, of_frames, multiplicities(draws))
    return np.array([_value_or_nan(metric, resample) for resample in _resampled_lists(videos, draws)])


def multiplicities(draws: Int64[np.ndarray, "r v"]) -> Float64[np.ndarray, "r v"]:
    """How often each of v things was drawn in each of r resamples."""
    resamples, size = draws.shape
    cells = draws + size * np.arange(resamples)[:, None]
    return np.bincount(cells.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def _resampled_lists(videos: Sequence[ScoredVideo], draws: Int64[np.ndarray, "r v"]) -> Iterator[list[ScoredVideo]]:
    """Each resample as a list of videos whose k-th copies are named ``name#k``."""
    copies: dict[tuple[int, int], ScoredVideo] = {}
    for draw in draws.tolist():
        resample, times = [], dict.fromkeys(draw, 0)
        for position in draw:
            times[position] += 1
            key = (position, times[position])
            if key not in copies:
                copies[key] = replace(videos[position], video=f"{videos[position].video}#{times[position]}")
            resample.append(copies[key])
        yield resample


def _value_or_nan(metric: Metric, resample: Sequence[ScoredVideo]) -> float:
    try:
        return float(metric(resample))
    except DataError:
        return float("nan")


def _macro_on(videos: Sequence[ScoredVideo], draws: Int64[np.ndarray, "r v"]) -> Float64[np.ndarray, " r"]:
    """Macro AUC of each resample, from the AUC of every video computed once."""
    aucs = np.array([_value_or_nan(macro_auc, [video]) for video in videos])
    counts = multiplicities(draws)[:, np.isfinite(aucs)]
    return _divide(counts @ aucs[np.isfinite(aucs)], counts.sum(axis=1))


@dataclass(frozen=True, eq=False)
class _SortedRuns:
    """The runs of all videos from the highest score down, and where each score of an abnormal run begins and ends."""

    positive_owner: Int64[np.ndarray, " p"]
    positive_weights: Float64[np.ndarray, " p"]
    negative_owner: Int64[np.ndarray, " n"]
    negative_weights: Float64[np.ndarray, " n"]
    positive_ends: Int64[np.ndarray, "2 t"]
    negative_ends: Int64[np.ndarray, "2 t"]


def _sort_runs(videos: Sequence[ScoredVideo]) -> _SortedRuns:
    owner = np.repeat(np.arange(len(videos)), [len(video.scores) for video in videos])
    falling = -np.concatenate([video.scores for video in videos])
    labels = np.concatenate([video.labels for video in videos])
    weights = np.concatenate([video.weights for video in videos])
    order = np.argsort(falling, kind="stable")
    positive, negative = order[labels[order]], order[~labels[order]]
    thresholds = np.unique(falling[positive])
    positive_ends, negative_ends = (
        np.stack(
            [np.searchsorted(falling[rows], thresholds, side="left"), np.searchsorted(falling[rows], thresholds, side="right")]
        )
        for rows in (positive, negative)
    )
    return _SortedRuns(owner[positive], weights[positive], owner[negative], weights[negative], positive_ends, negative_ends)


def _frames_until(
    owner: Int64[np.ndarray, " n"], weights: Float64[np.ndarray, " n"], counts: Float64[np.ndarray, "v c"]
) -> Float64[np.ndarray, "n+1 c"]:
    """Frames in the first 0 ... n runs, in each of c resamples."""
    sums = np.zeros((len(owner) + 1, counts.shape[1]))
    np.cumsum(counts[owner] * weights[:, None], axis=0, out=sums[1:])
    return sums


def _pooled_on(videos: Sequence[ScoredVideo], metric: Metric, counts: Float64[np.ndarray, "r v"]) -> Float64[np.ndarray, " r"]:
    """Micro AUC or average precision of each resample, with runs weighted by the copies of their video.

    AUC = sum_t gain_t (N - (F_above(t) + F_from(t)) / 2) / (P N) and AP = sum_t gain_t T_from(t) / (T_from(t) +
    F_from(t)) / P over the scores t of abnormal frames, where T and F are the abnormal and normal frames above or from
    t on, P and N all of them, and gain_t = T_from(t) - T_above(t).
    """
    runs = _sort_runs(videos)
    values = []
    step = max(1, _CHUNK // (len(runs.positive_owner) + len(runs.negative_owner)))
    for start in range(0, len(counts), step):
        part = np.ascontiguousarray(counts[start : start + step].T)  # (v, c)
        true = _frames_until(runs.positive_owner, runs.positive_weights, part)
        false = _frames_until(runs.negative_owner, runs.negative_weights, part)
        true_above, true_from = true[runs.positive_ends]  # (t, c) each
        false_above, false_from = false[runs.negative_ends]
        gain = true_from - true_above
        if metric is average_precision:
            found = _divide(gain * true_from, true_from + false_from, empty=0.0).sum(axis=0)
            values.append(_divide(found, np.where(false[-1] > 0, true[-1], 0.0)))
        else:
            found = (gain * (false[-1] - (false_above + false_from) / 2)).sum(axis=0)
            values.append(_divide(found, true[-1] * false[-1]))
    return np.concatenate(values)


def _divide(
    numerator: Float64[np.ndarray, "*s"], denominator: Float64[np.ndarray, "*s"], empty: float = float("nan")
) -> Float64[np.ndarray, "*s"]:
    """Quotient, and ``empty`` where the denominator is 0."""
    quotient = np.full_like(numerator, empty)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient
