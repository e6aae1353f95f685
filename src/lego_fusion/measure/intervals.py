"""How far a metric can be trusted: intervals over videos and seeds, paired differences, splits, rates.

The unit that is left out is the video, because the frames of one video are not independent of each other. Videos and seeds are
two random factors, as cases and readers are in studies of several readers: with m_s the metric of seed s on all videos and
m_s,-i without video i,

    Cov_h(s, s') = (n_h - 1) / n_h * sum over i in h of (m_s,-i - mean_h m_s,-) (m_s',-i - mean_h m_s',-)     (jackknife)
    V            = sum over h of max(0, mean over s != s' of Cov_h(s, s')) + var_s(m_s) / S

where h runs over the kinds of videos, abnormal and normal, whose numbers n_h a test set fixes. The variance between seeds holds
what a seed and a video have with each other, so nothing counts twice. One seed says nothing of others: V is then the sum of
Cov_h(s, s), and the interval is that of this detector on other videos. The interval is value -/+ t V^(1/2), with Student's t
quantile at the degrees of freedom that the parts of V have together (``_freedom``); for a share of [0, 1] on the scale
log(p / (1 - p)), where it cannot leave that range and is as skew as such numbers are near its ends.

Source: Obuchowski and Rockette 1995 and Hillis 2007 (two factors), Efron and Stein 1981 (jackknife), Satterthwaite 1946.
How often the intervals cover in simulations: docs/protocols.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import expit, logit
from scipy.stats import chi2, t

from ..errors import DataError, ParameterError, check_number
from .detection import METRICS, abnormal_auc, macro_auc
from .resampling import Metric as Metric
from .resampling import metric_on
from .scored import ScoredVideo, require_videos

Runs = Sequence[ScoredVideo] | Sequence[Sequence[ScoredVideo]]
LEAST_VIDEOS = 3
"""Videos of a kind, or splits, below which there is no interval: of two, it would be 13 standard errors wide."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Args:
        value: The number measured.
        low: Lower end of the interval, at most ``value``.
        high: Upper end of the interval, at least ``value``.
        level: How often such intervals hold the true value, for example 0.95.
        unit: What varies: ``"video"``, ``"video and seed"``, or what else there are several of.

    Example:
        >>> print(Estimate(0.9, 0.85, 0.93, level=0.95))
        0.9000 [0.8500, 0.9300]
    """

    value: float
    low: float
    high: float
    level: float
    unit: str = "video"

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def metric_interval(runs: Runs, metric: Metric, *, level: float = 0.95) -> Estimate:
    """Mean of a metric over training seeds, with its interval over videos and, where there are several, seeds.

    Neither the order of the videos nor of the runs matters.

    Args:
        runs: The videos as scored by one detector, each name once; or one such list for each seed.
        metric: Function of a list of videos. Those of ``detection.METRICS`` are computed without every video at once; any
            other is called once a video.
        level: How often the interval is to hold the true value, in (0, 1).

    Returns:
        The mean over the runs and its interval.

    Raises:
        DataError: If the metric is undefined on the videos or without one of them, there are fewer than three videos of a
            kind that it looks at, or the runs differ in their videos or ground truth.
        ParameterError: If a parameter is out of its range.

    Example:
        >>> from lego_fusion.measure.detection import ScoredVideo, micro_auc
        >>> videos = [ScoredVideo.from_frames(f"v{i}", [0.1 * i, 0.5], [0, i % 2]) for i in range(8)]
        >>> print(metric_interval(videos, micro_auc))
        0.6250 [0.3017, 0.8654]
        >>> metric_interval([videos, videos], micro_auc).unit
        'video and seed'
    """
    same = _same_videos(_as_runs(runs))
    values = np.array([_value(run, metric) for run in same])
    return _estimate(values, _left_out(same, metric), _kinds(same[0]), level, share=metric in METRICS.values())


def paired_difference(first: Runs, second: Runs, metric: Metric, *, level: float = 0.95) -> Estimate:
    """Difference of a metric, first minus second, both on the same videos and, where there are several, the same seeds.

    Args:
        first: Videos as scored by one method; or one such list for each of its seeds.
        second: The same videos as scored by the other. Its runs are paired with those of the first, in order; the single
            run of a method that draws nothing is paired with every run of the other.
        metric: As for ``metric_interval``.
        level: How often the interval is to hold the true difference, in (0, 1).

    Returns:
        The difference and its interval; an interval that excludes 0 tells the methods apart at this level.

    Raises:
        DataError: As ``metric_interval``, and if both methods have several runs and not as many.
        ParameterError: If a parameter is out of its range.

    Example:
        >>> from lego_fusion.measure.detection import ScoredVideo, micro_auc
        >>> good = [ScoredVideo.from_frames(f"v{i}", [0.0, 1.0], [0, i % 2]) for i in range(8)]
        >>> poor = [ScoredVideo.from_frames(f"v{i}", [i % 3, 0.5], [0, i % 2]) for i in range(8)]
        >>> paired_difference(good, poor, micro_auc).low > 0
        True
    """
    one, other = _as_runs(first), _as_runs(second)
    if len(one) != len(other) and 1 not in (len(one), len(other)):
        fix = "train both methods with the same seeds"
        raise DataError("runs are paired by seed", expected=f"{len(one)} runs of both", got=len(other), fix=fix)
    runs = _same_videos([*one, *other])
    values, left_out = np.array([_value(run, metric) for run in runs]), _left_out(runs, metric)
    of_first, of_second = slice(0, len(one)), slice(len(one), None)
    return _estimate(values[of_first] - values[of_second], left_out[of_first] - left_out[of_second], _kinds(runs[0]), level)


def combined_intervals(
    runs: Sequence[Sequence[ScoredVideo]],
    coefficients: Float64[np.ndarray, "k m"],
    metric: Metric,
    *,
    offsets: Float64[np.ndarray, " k"] | None = None,
    level: float = 0.95,
) -> list[Estimate]:
    """Intervals over videos of k linear combinations of what m runs reach.

    The combinations are coefficients @ metric + offsets; ``paired_difference`` of two single runs is the row (1, -1).

    Args:
        runs: The same videos as scored in m ways.
        coefficients: One row per combination (k, m).
        metric: As for ``metric_interval``.
        offsets: Added to each combination (k,), known exactly; None for zero.
        level: How often an interval is to hold the true value, in (0, 1).

    Returns:
        The k values and their intervals.

    Raises:
        DataError: As ``metric_interval``.
        ParameterError: If a parameter is out of its range.

    Example:
        >>> from lego_fusion.measure.detection import ScoredVideo, micro_auc
        >>> good = [ScoredVideo.from_frames(f"v{i}", [0.0, 1.0], [0, i % 2]) for i in range(8)]
        >>> poor = [ScoredVideo.from_frames(f"v{i}", [i % 3, 0.5], [0, i % 2]) for i in range(8)]
        >>> combined_intervals([good, poor], np.array([[1.0, -1.0]]), micro_auc)[0].low > 0
        True
    """
    same = _same_videos(runs)
    added = np.zeros(len(coefficients)) if offsets is None else offsets
    values = coefficients @ np.array([_value(run, metric) for run in same]) + added
    left_out, kinds = coefficients @ _left_out(same, metric), _kinds(same[0])
    return [_estimate(values[k : k + 1], left_out[k : k + 1], kinds, level) for k in range(len(values))]


def jackknife_interval(
    value: float,
    left_out: Float64[np.ndarray, " v"],
    abnormal: Bool[np.ndarray, " v"],
    *,
    level: float = 0.95,
    share: bool = False,
) -> Estimate:
    """The interval of any statistic of videos, from its value without each of them.

    Args:
        value: On all videos.
        left_out: Without video i, (V,).
        abnormal: Which videos are of the one kind; the others are of the other.
        level: How often the interval is to hold the true value, in (0, 1).
        share: Whether it is a number of [0, 1].

    Raises:
        DataError: If a number is not finite, or there are fewer than three videos of a kind that the statistic looks at.

    Example:
        >>> numbers = np.array([1.0, 2.0, 3.0, 4.0])  # for a mean it is the t interval
        >>> left_out = (numbers.sum() - numbers) / 3
        >>> print(jackknife_interval(numbers.mean(), left_out, np.zeros(4, np.bool_)))
        2.5000 [0.4457, 4.5543]
    """
    return _estimate(np.array([value]), left_out[None], (abnormal, ~abnormal), level, share=share)


def mean_interval(
    values: Sequence[float], *, unit: str = "split", level: float = 0.95, overlap: float = 0.0, share: bool = False
) -> Estimate:
    """Mean of one number per unit, with its t interval: V = (1 / J + overlap) var(values), J - 1 degrees of freedom.

    For numbers that are already whole, such as the AUC of each split (or a difference of two). Random re-splits of one dataset
    share videos, so their numbers depend on each other and 1 / J alone is too little: with overlap = test videos / training
    videos it is the corrected resampled t interval.

    Args:
        values: One finite number per unit, three or more.
        unit: What a number stands for.
        level: How often the interval is to hold the true mean, in (0, 1).
        overlap: Test over training videos where units are random re-splits of the same videos; 0 for independent units.
        share: Whether the numbers are of [0, 1], which the interval then does not leave.

    Returns:
        The mean and its interval.

    Raises:
        DataError: If there are fewer than three values, or one is not finite.
        ParameterError: If a parameter is out of its range.

    Source: Nadeau and Bengio, Inference for the Generalization Error (2003).

    Example:
        >>> print(mean_interval([0.9, 1.0, 0.8]))
        0.9000 [0.6516, 1.1484]
        >>> print(mean_interval([0.9, 1.0, 0.8], overlap=0.5, share=True))
        0.9000 [0.5072, 1.0000]
    """
    numbers, level = np.asarray(values, dtype=np.float64), _level(level)
    if len(numbers) < LEAST_VIDEOS or not np.isfinite(numbers).all():
        expected, got = f"at least {LEAST_VIDEOS} finite numbers", f"{len(numbers)}: {', '.join(map(str, values[:4]))}"
        raise DataError(f"an interval over {unit}s needs several values", expected=expected, got=got)
    weight = 1 / len(numbers) + check_number(overlap, "overlap", "mean_interval", low=0.0)
    value, variance = float(numbers.mean()), float(weight * numbers.var(ddof=1))
    low, high = _bounds(value, variance, len(numbers) - 1.0, 1 / weight, level, share=False)
    return Estimate(value, max(low, 0.0), min(high, 1.0), level, unit) if share else Estimate(value, low, high, level, unit)


def rate_interval(count: int, hours: float, *, dispersion: float = 1.0, level: float = 0.95) -> Estimate:
    """Events per hour with the exact interval of a Poisson rate, which allows for events that come in clusters.

    With phi the dispersion, m = count / phi clusters of phi events each are a Poisson number: the ends are phi times the
    chi-squared quantiles at 2 m and 2 m + 2 degrees of freedom over 2 hours. Nothing seen in a short time is compatible with a
    high rate.

    Args:
        count: Events counted.
        hours: In how much time, > 0.
        dispersion: Variance over mean of the counts of equal times, >= 1 (``count_dispersion``); 1 for events that come
            independently of each other.
        level: How often the interval is to hold the true rate, at least, in (0, 1).

    Source: Garwood 1936.

    Example:
        >>> print(rate_interval(0, 12 / 3600))
        0.0000 [0.0000, 1106.6638]
        >>> print(rate_interval(6, 2.0, dispersion=3.0))  # as wide as that of two events
        3.0000 [0.3633, 10.8370]
    """
    level, tail = _level(level), (1 - level) / 2
    check_number(hours, "hours", "rate_interval", low=1e-12)
    clusters, of_each = count / check_number(dispersion, "dispersion", "rate_interval", low=1.0), dispersion / (2 * hours)
    low = of_each * float(chi2.ppf(tail, 2 * clusters)) if count else 0.0
    return Estimate(count / hours, low, of_each * float(chi2.ppf(1 - tail, 2 * clusters + 2)), level, "hour")


def count_dispersion(counts: Sequence[int], hours: Sequence[float], *, errors: float = 0.0) -> float:
    """Pearson's estimate of how much more counts of events vary than a Poisson number does, at least 1.

    max(1, sum of (n_i - rate h_i)^2 / (rate h_i) / (V - 1)), rate the events per hour over all V stretches of time.

    Args:
        counts: n_i, events in each stretch, for example a video.
        hours: h_i, its length; stretches of no length are left out.
        errors: So many standard errors are added to an estimate above 1.

    Example:
        >>> count_dispersion([2, 2, 2], [1.0, 1.0, 1.0]), count_dispersion([6, 0, 0], [1.0, 1.0, 1.0])
        (1.0, 6.0)
    """
    pairs = [(count, length) for count, length in zip(counts, hours, strict=True) if length > 0]
    rate = sum(count for count, _ in pairs) / max(sum(length for _, length in pairs), 1e-300)
    if len(pairs) < 2 or not rate:
        return 1.0
    parts = np.array([(count - rate * length) ** 2 / (rate * length) for count, length in pairs])
    found = float(parts.sum()) / (len(pairs) - 1)
    return found + errors * float(parts.std(ddof=1)) / len(pairs) ** 0.5 if found > 1 else 1.0


def _estimate(
    values: Float64[np.ndarray, " s"],
    left_out: Float64[np.ndarray, "s v"],
    kinds: Sequence[Bool[np.ndarray, " v"]],
    level: float,
    *,
    share: bool = False,
) -> Estimate:
    """The mean of S values with its interval, from the values without each video."""
    seeds, level = len(values), _level(level)
    if not (np.isfinite(values).all() and np.isfinite(left_out).all()):
        place = int(np.argmax(~np.isfinite(left_out).all(axis=0)))
        fix = "add videos, or report the value without an interval"
        raise DataError("without one of the videos there is no value", got=f"none without video number {place}", fix=fix)
    between = 1 - np.eye(seeds) if seeds > 1 else np.ones((1, 1))
    parts, freedoms = [], []
    for kind in kinds:
        members, count = left_out[:, kind], int(kind.sum())
        looked_at = bool((members != values[:, None]).any())
        if looked_at and count < LEAST_VIDEOS:
            fix = "add videos, or report the value without an interval"
            expected = f"at least {LEAST_VIDEOS} with, and {LEAST_VIDEOS} without anything abnormal"
            raise DataError("an interval over videos needs several of a kind", expected=expected, got=count, fix=fix)
        if looked_at:
            apart = members - members.mean(axis=1, keepdims=True)
            covariance = (count - 1) / count * (apart @ apart.T)
            parts.append(max(0.0, float((between * covariance).sum() / between.sum())))
            freedoms.append(count - 1)
    of_videos = sum(parts)
    of_seeds = float(values.var(ddof=1)) / seeds if seeds > 1 else 0.0
    freedom = _freedom(parts, freedoms, of_seeds, seeds - 1)
    value, fewest = float(values.mean()), min(int(kind.sum()) for kind in kinds if kind.any())
    low, high = _bounds(value, of_videos + of_seeds, freedom, float(fewest), level, share)
    return Estimate(value, low, high, level, "video" if seeds == 1 else "video and seed")


def _freedom(parts: Sequence[float], freedoms: Sequence[int], of_seeds: float, seed_freedom: int) -> float:
    """Degrees of freedom of a variance with parts: V^2 / (sum of part^2 / its degrees), Satterthwaite's.

    The kinds of videos count as one part with the mean of their 1 / degrees, which is nearer to the fewer videos.
    """
    of_videos = sum(parts)
    if of_videos + of_seeds == 0:
        return np.inf
    inverse = of_videos * sum(part / freedom for part, freedom in zip(parts, freedoms, strict=True))
    if of_seeds:
        inverse += of_seeds**2 / seed_freedom
    return float((of_videos + of_seeds) ** 2 / inverse)


def _bounds(value: float, variance: float, freedom: float, units: float, level: float, share: bool) -> tuple[float, float]:
    """Ends of an interval; of a share of exactly 0 or 1, the bound that as many units without an exception leave."""
    if share and value in (0.0, 1.0):
        other = float(((1 - level) / 2) ** (1 / units))  # Clopper and Pearson 1934
        return (other, 1.0) if value else (0.0, 1 - other)
    half = float(t.ppf((1 + level) / 2, freedom)) * variance**0.5
    if not share:
        return value - half, value + half
    half /= value * (1 - value)
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def _level(level: float) -> float:
    if not 0 < check_number(level, "level", "interval", low=0.0, high=1.0) < 1:
        raise ParameterError(f"The 'level' parameter of interval must be a number in (0, 1). Got {level!r} instead")
    return level


def _kinds(videos: Sequence[ScoredVideo]) -> tuple[Bool[np.ndarray, " v"], Bool[np.ndarray, " v"]]:
    abnormal = np.array([video.abnormal for video in videos])
    return abnormal, ~abnormal


def _left_out(runs: Sequence[Sequence[ScoredVideo]], metric: Metric) -> Float64[np.ndarray, "m v"]:
    """The metric of each run without each of its videos."""
    _require_several(runs[0], metric)
    others = 1 - np.eye(len(runs[0]))
    return np.stack([metric_on(run, metric, others) for run in runs])


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


def _require_several(videos: Sequence[ScoredVideo], metric: Metric) -> None:
    """Every kind of video that the metric looks at comes three times, or not at all."""
    kinds = {"abnormal": [video for video in videos if video.abnormal]}
    if metric is macro_auc:
        kinds["two-class"] = [video for video in videos if video.abnormal and not video.labels.all()]
    elif metric is not abnormal_auc:
        kinds["normal"] = [video for video in videos if not video.abnormal]
    for kind, members in kinds.items():
        if 0 < len(members) < LEAST_VIDEOS:
            raise DataError(
                f"an interval over videos needs more than {len(members)} {kind} video{'s' * (len(members) > 1)}",
                expected=f"at least {LEAST_VIDEOS} {kind} videos",
                got=f"{len(members)}: {', '.join(video.video for video in members)}",
                fix="add videos, or report the value without an interval",
            )


def _value(run: Sequence[ScoredVideo], metric: Metric) -> float:
    value = float(metric(run))
    if not np.isfinite(value):
        raise DataError("the metric has no finite value on these videos", expected="a finite number", got=value)
    return value
