"""How far a metric can be trusted: bootstrap intervals over videos and seeds, and paired differences.

The unit that is drawn again is the video, because the frames of one video are not independent of each other. Abnormal
and normal videos are drawn apart (stratified): a test set fixes how many it has of each, and every resample keeps both
classes, without which no AUC exists. A resample is the same for every run that it is applied to, so that two methods
are compared on the same videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ..errors import DataError, ParameterError, check_int, check_number
from .detection import abnormal_auc, macro_auc
from .resampling import Metric as Metric
from .resampling import metric_on, multiplicities
from .scored import ScoredVideo, require_videos

Runs = Sequence[ScoredVideo] | Sequence[Sequence[ScoredVideo]]


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval.

    Args:
        value: The metric on all videos.
        low: Lower end of the interval, at most ``value``.
        high: Upper end of the interval, at least ``value``.
        level: Share of resamples inside, for example 0.95.
        resamples: Resamples drawn.
        unit: What was drawn again: ``"video"``, or ``"video and seed"``.
        undefined: Resamples on which the metric has no value; they are left out of the interval.

    Example:
        >>> print(Estimate(0.9, 0.85, 0.93, level=0.95, resamples=1000))
        0.9000 [0.8500, 0.9300]
    """

    value: float
    low: float
    high: float
    level: float
    resamples: int
    unit: str = "video"
    undefined: int = 0

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap_interval(
    scored: Sequence[ScoredVideo], metric: Metric, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Percentile bootstrap over videos, stratified by whether a video is abnormal.

    [low, high] are the (1 - level) / 2 and (1 + level) / 2 quantiles of the metric over the resamples, widened to hold
    the value where they miss it. Neither the order of the videos nor of their runs matters.

    Args:
        scored: The videos, each name once.
        metric: Function of a list of videos. Those of ``detection.METRICS`` are computed for many resamples at once; any
            other is called once a resample, on a list in which the k-th copy of a video is named ``name#k``.
        resamples: Resamples to draw, 1 or more.
        level: Share of resamples inside the interval, in (0, 1).
        seed: Seed of the resampling, 0 or more.

    Returns:
        The value and its interval.

    Raises:
        DataError: If the metric is undefined on the videos or on most resamples, or a kind of video that the metric
            depends on comes only once.
        ParameterError: If a parameter is out of its range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Example:
        >>> from lego_fusion.measure.detection import ScoredVideo, micro_auc
        >>> videos = [ScoredVideo.from_frames(f"v{i}", [0.1 * i, 0.5], [0, i % 2]) for i in range(8)]
        >>> estimate = bootstrap_interval(videos, micro_auc, resamples=200)
        >>> estimate.low <= estimate.value <= estimate.high
        True
    """
    return seeded_interval([scored], metric, resamples=resamples, level=level, seed=seed)


def seeded_interval(
    runs: Sequence[Sequence[ScoredVideo]],
    metric: Metric,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean of a metric over training seeds; the interval draws videos and, nested in that, seeds.

    A resample draws videos, the same for every run, and then as many runs as there are, with replacement.

    Args:
        runs: The same videos as scored by each of the seeds.
        metric: As for ``bootstrap_interval``.
        resamples: Resamples to draw, 1 or more.
        level: Share of resamples inside the interval, in (0, 1).
        seed: Seed of the resampling, 0 or more.

    Returns:
        The mean over the runs and its interval.

    Raises:
        DataError: As ``bootstrap_interval``, and if the runs differ in their videos or ground truth.
        ParameterError: If a parameter is out of its range.

    Example:
        >>> from lego_fusion.measure.detection import ScoredVideo, micro_auc
        >>> def scores_of(seed: int) -> list[ScoredVideo]:
        ...     return [ScoredVideo.from_frames(f"v{i}", [0.1 * i, 0.5 + seed], [0, i % 2]) for i in range(8)]
        >>> seeded_interval([scores_of(0), scores_of(1)], micro_auc, resamples=200).unit
        'video and seed'
    """
    sorted_runs = _same_videos(runs)
    value = _mean_value(sorted_runs, metric)
    draws, generator = _draw(sorted_runs[0], metric, resamples, level, seed)
    samples = _mean_over_runs(sorted_runs, metric, draws, _draw_runs(generator, resamples, len(runs)))
    return percentile_interval(value, samples, level, unit="video" if len(runs) == 1 else "video and seed")


def paired_difference(
    first: Runs, second: Runs, metric: Metric, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Difference of a metric, first minus second, with both measured on the same resamples.

    Args:
        first: Videos as scored by one method; or one such list for each of its seeds.
        second: The same videos as scored by the other. With equally many runs, the runs are taken as pairs, in order,
            and drawn together; otherwise the runs of each method are drawn on their own.
        metric: As for ``bootstrap_interval``.
        resamples: Resamples to draw, 1 or more.
        level: Share of resamples inside the interval, in (0, 1).
        seed: Seed of the resampling, 0 or more.

    Returns:
        The difference and its interval; an interval that excludes 0 tells the methods apart at this level.

    Raises:
        DataError: As ``bootstrap_interval``, and if the runs differ in their videos or ground truth.
        ParameterError: If a parameter is out of its range.

    Example:
        >>> from lego_fusion.measure.detection import ScoredVideo, micro_auc
        >>> good = [ScoredVideo.from_frames(f"v{i}", [0.0, 1.0], [0, i % 2]) for i in range(8)]
        >>> poor = [ScoredVideo.from_frames(f"v{i}", [1.0, 0.0], [0, i % 2]) for i in range(8)]
        >>> paired_difference(good, poor, micro_auc, resamples=200).low > 0
        True
    """
    one, other = _as_runs(first), _as_runs(second)
    runs = _same_videos([*one, *other])
    first_runs, second_runs = runs[: len(one)], runs[len(one) :]
    value = _mean_value(first_runs, metric) - _mean_value(second_runs, metric)
    draws, generator = _draw(runs[0], metric, resamples, level, seed)
    picks = _draw_runs(generator, resamples, len(one))
    other_picks = picks if len(one) == len(other) else _draw_runs(generator, resamples, len(other))
    samples = _mean_over_runs(first_runs, metric, draws, picks)
    samples = samples - _mean_over_runs(second_runs, metric, draws, other_picks)
    return percentile_interval(value, samples, level, unit="video" if len(runs) == 2 else "video and seed")


def combined_intervals(
    runs: Sequence[Sequence[ScoredVideo]],
    coefficients: Float64[np.ndarray, "k m"],
    metric: Metric,
    *,
    offsets: Float64[np.ndarray, " k"] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Estimate]:
    """Intervals of k linear combinations of what m runs reach, all measured on the same resamples of the videos.

    The combinations are coefficients @ metric + offsets; ``paired_difference`` of two single runs is the row (1, -1).

    Args:
        runs: The same videos as scored in m ways.
        coefficients: One row per combination (k, m).
        metric: As for ``bootstrap_interval``.
        offsets: Added to each combination (k,), the same in every resample; None for zero.
        resamples: Resamples to draw, 1 or more.
        level: Share of resamples inside the interval, in (0, 1).
        seed: Seed of the resampling, 0 or more.

    Returns:
        The k values and their intervals.

    Raises:
        DataError: As ``bootstrap_interval``, and if the runs differ in their videos or ground truth.
        ParameterError: If a parameter is out of its range.

    Example:
        >>> from lego_fusion.measure.detection import ScoredVideo, micro_auc
        >>> good = [ScoredVideo.from_frames(f"v{i}", [0.0, 1.0], [0, i % 2]) for i in range(8)]
        >>> poor = [ScoredVideo.from_frames(f"v{i}", [1.0, 0.0], [0, i % 2]) for i in range(8)]
        >>> combined_intervals([good, poor], np.array([[1.0, -1.0]]), micro_auc, resamples=200)[0].low > 0
        True
    """
    sorted_runs = _same_videos(runs)
    added = np.zeros(len(coefficients)) if offsets is None else offsets
    values = coefficients @ np.array([_mean_value([run], metric) for run in sorted_runs]) + added
    draws, _ = _draw(sorted_runs[0], metric, resamples, level, seed)
    samples = coefficients @ np.stack([metric_on(run, metric, draws) for run in sorted_runs]) + added[:, None]  # (k, r)
    return [percentile_interval(float(value), row, level) for value, row in zip(values, samples, strict=True)]


def mean_interval(
    values: Sequence[float], *, unit: str = "split", resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean of one number per unit; the interval draws the units again.

    For numbers that are already whole, such as the AUC of each split (or a difference of two). It describes how the mean
    varies with the units drawn; where units share videos, as random re-splits of one dataset do, it says nothing about
    other videos. The resamples depend on the number of units alone, so equal lists get equal intervals.

    Args:
        values: One finite number per unit, two or more.
        unit: What a number stands for.
        resamples: Resamples to draw, 1 or more.
        level: Share of resamples inside the interval, in (0, 1).
        seed: Seed of the resampling, 0 or more.

    Returns:
        The mean and its percentile interval.

    Raises:
        DataError: If there are fewer than two values, or one is not finite.
        ParameterError: If a parameter is out of its range.

    Example:
        >>> estimate = mean_interval([0.9, 1.0, 0.8])
        >>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3), estimate.unit
        (0.9, 0.8, 1.0, 'split')
    """
    generator = bootstrap_generator(resamples, level, seed)
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2 or not np.isfinite(numbers).all():
        expected = "at least 2 finite numbers"
        raise DataError(f"an interval over {unit}s needs several values", expected=expected, got=list(values))
    drawn = numbers[generator.integers(0, len(numbers), size=(resamples, len(numbers)))].mean(axis=1)
    return percentile_interval(float(numbers.mean()), drawn, level, unit=unit)


def _as_runs(scored: Runs) -> list[Sequence[ScoredVideo]]:
    """A single run as a list of one run."""
    if not scored:
        raise DataError("there is nothing to measure", expected="scored videos", got="an empty list")
    single = [item for item in scored if isinstance(item, ScoredVideo)]
    return [single] if single else [item for item in scored if not isinstance(item, ScoredVideo)]


def _same_videos(runs: Sequence[Sequence[ScoredVideo]]) -> list[list[ScoredVideo]]:
    """The runs with their videos in order of name, once it is sure that they are the same videos."""
    if not runs:
        raise DataError("there is nothing to measure", expected="at least one run", got="none")
    for run in runs:
        require_videos(run)
    sorted_runs = [sorted(run, key=lambda video: video.video) for run in runs]
    names = [{video.video for video in run} for run in sorted_runs]
    for number, run in enumerate(sorted_runs):
        odd = sorted(names[0] ^ names[number])
        if odd:
            raise DataError(
                "runs to be compared hold different videos",
                where=f"run {number} against run 0",
                expected="the same videos in every run",
                got=f"{len(run)} against {len(sorted_runs[0])} videos, {len(odd)} not shared: {', '.join(odd[:3])}",
                fix="score the same list of videos with every method and seed",
            )
        for video, same in zip(sorted_runs[0], run, strict=True):
            _require_same_truth(video, same)
    return sorted_runs


def _require_same_truth(video: ScoredVideo, same: ScoredVideo) -> None:
    """Both have as many frames, and as many abnormal ones; their runs may differ."""
    facts = [(float(one.weights[one.labels].sum()), one.frames) for one in (video, same)]
    if facts[0] != facts[1]:
        (abnormal, frames), (other_abnormal, other_frames) = facts
        raise DataError(
            "runs to be compared have different ground truth",
            where=f"video '{video.video}'",
            expected=f"{abnormal:g} abnormal of {frames:g} frames",
            got=f"{other_abnormal:g} of {other_frames:g}",
            fix="evaluate every run against the same labels",
        )


def _draw(
    videos: Sequence[ScoredVideo], metric: Metric, resamples: int, level: float, seed: int
) -> tuple[Int64[np.ndarray, "r v"], np.random.Generator]:
    """Positions of the videos in each resample: abnormal ones first, then normal ones."""
    generator = bootstrap_generator(resamples, level, seed)
    _require_several(videos, metric)
    abnormal = np.array([video.abnormal for video in videos])
    drawn = [
        members[generator.integers(0, len(members), size=(resamples, len(members)))]
        for members in (np.flatnonzero(abnormal), np.flatnonzero(~abnormal))
        if len(members)
    ]
    return np.concatenate(drawn, axis=1), generator


def bootstrap_generator(resamples: int, level: float, seed: int) -> np.random.Generator:
    """The generator of a bootstrap whose parameters are in their ranges."""
    check_int(resamples, "resamples", "bootstrap", low=1)
    if not 0 < check_number(level, "level", "bootstrap", low=0.0, high=1.0) < 1:
        raise ParameterError(f"The 'level' parameter of bootstrap must be a number in (0, 1). Got {level!r} instead")
    return np.random.default_rng(check_int(seed, "seed", "bootstrap", low=0))


def _require_several(videos: Sequence[ScoredVideo], metric: Metric) -> None:
    """Every kind of video that the metric looks at comes more than once, or not at all."""
    kinds = {"abnormal": [video for video in videos if video.abnormal]}
    if metric is macro_auc:
        kinds["two-class"] = [video for video in videos if video.abnormal and not video.labels.all()]
    elif metric is not abnormal_auc:
        kinds["normal"] = [video for video in videos if not video.abnormal]
    for kind, members in kinds.items():
        if len(members) == 1:
            raise DataError(
                f"an interval over videos needs more than one {kind} video",
                expected=f"at least 2 {kind} videos",
                got=f"1, '{members[0].video}'",
                fix="add videos, or report the value without an interval",
            )


def _draw_runs(generator: np.random.Generator, resamples: int, runs: int) -> Float64[np.ndarray, "r m"]:
    """How often each run is taken in each resample, as a share."""
    picks = generator.integers(0, runs, size=(resamples, runs))
    return multiplicities(picks) / runs


def _mean_over_runs(
    runs: Sequence[Sequence[ScoredVideo]],
    metric: Metric,
    draws: Int64[np.ndarray, "r v"],
    shares: Float64[np.ndarray, "r m"],
) -> Float64[np.ndarray, " r"]:
    """The metric of each resample, averaged over the runs by their shares."""
    values = np.stack([metric_on(run, metric, draws) for run in runs], axis=1)  # (r, m)
    means: Float64[np.ndarray, " r"] = (shares * values).sum(axis=1)
    return means


def _mean_value(runs: Sequence[Sequence[ScoredVideo]], metric: Metric) -> float:
    value = float(np.mean([metric(run) for run in runs]))
    if not np.isfinite(value):
        raise DataError("the metric has no finite value on these videos", expected="a finite number", got=value)
    return value


def percentile_interval(value: float, samples: Float64[np.ndarray, " r"], level: float, unit: str = "video") -> Estimate:
    """A value with the quantiles of its resampled values, widened to hold it; resamples that are not finite are left out.

    Raises:
        DataError: If most resamples are not finite.

    Example:
        >>> print(percentile_interval(0.5, np.linspace(0.0, 1.0, 101), level=0.9))
        0.5000 [0.0500, 0.9500]
    """
    defined = samples[np.isfinite(samples)]
    undefined = len(samples) - len(defined)
    if 2 * undefined > len(samples):
        raise DataError(
            "the metric is undefined on most resamples of the videos",
            expected="a value on at least half of them",
            got=f"{len(defined)} of {len(samples)}",
            fix="add videos, or report the value without an interval",
        )
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), level, len(samples), unit=unit, undefined=undefined)
