"""How often do the 95 % intervals hold the true value? Simulated experiments at the sizes that this field has.

    python benchmarks/interval_coverage.py [--experiments 600] [--quick]

A video has a level of its own, an abnormal one also a strength of its own in one stretch of its 20 segments; every segment has
noise that all seeds see, and noise of each seed. With a strong seed effect every training finds another strength. The true
value is that of many videos and seeds. Paired differences are of two methods that are equally good on the whole, with noise and
seed effects of their own. Sizes are abnormal + normal videos: of small sets, and 44 + 155. Events are runs of segments over a
threshold; re-splits of one pool are too slow to simulate with training, so J independent values stand for splits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from lego_fusion.measure.detection import METRICS, ScoredVideo
from lego_fusion.measure.event_metrics import DELAY, RATE, Event, EventVideo, event_intervals, event_metrics
from lego_fusion.measure.intervals import Estimate, mean_interval, metric_interval, paired_difference, rate_interval
from measuring import store

SIZES = ((6, 12), (12, 6), (12, 12), (44, 155))
SEEDS = ((1, False), (3, False), (3, True), (5, False), (5, True))
SEGMENTS, STRENGTH, SEED_EFFECT = 20, 1.5, 0.6
Scores = Float64[np.ndarray, "s v t"]


def draw(
    random: np.random.Generator, abnormal: int, normal: int, seeds: int, *, strong: bool, methods: int = 1
) -> tuple[list[Scores], Bool[np.ndarray, "v t"]]:
    """Scores of each method and the labels of abnormal + normal videos."""
    videos = abnormal + normal
    labels = np.zeros((videos, SEGMENTS), np.bool_)
    for video in range(abnormal):
        length = random.integers(3, 10)
        start = random.integers(0, SEGMENTS - length + 1)
        labels[video, start : start + length] = True
    level, strength = random.normal(0, 0.7, (videos, 1)), STRENGTH + random.normal(0, 0.5, (videos, 1))
    shared = level + random.normal(0, 1, (videos, SEGMENTS)) + labels * strength
    found = []
    for _ in range(methods):
        seed_effect = random.normal(0, SEED_EFFECT if strong else 0.0, (seeds, 1, 1))
        noise = random.normal(0, 0.5, (seeds, videos, SEGMENTS)) + random.normal(0, 0.3, (seeds, videos, 1))
        found.append(shared + noise + labels * seed_effect)
    return found, labels


def as_runs(scores: Scores, labels: Bool[np.ndarray, "v t"]) -> list[list[ScoredVideo]]:
    """The same as scored videos, a list for each seed."""
    frames = np.ones(SEGMENTS)
    return [[ScoredVideo(f"v{v:04}", run[v], labels=labels[v], weights=frames) for v in range(len(labels))] for run in scores]


def as_events(scores: Float64[np.ndarray, "v t"], labels: Bool[np.ndarray, "v t"], threshold: float) -> list[EventVideo]:
    """Runs of segments over a threshold as events of videos whose segments last a second."""
    videos = []
    for number, (row, label) in enumerate(zip(scores, labels, strict=True)):
        spans = _runs(row >= threshold)
        events = tuple(Event(float(a), float(b), float(row[a:b].max()), float(a), float(a)) for a, b in spans)
        truth = tuple((float(a), float(b)) for a, b in _runs(label))
        videos.append(EventVideo(f"v{number}", float(SEGMENTS), events, truth))
    return videos


def _runs(values: Bool[np.ndarray, " t"]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def held(intervals: Sequence[Estimate], truth: float) -> dict[str, float]:
    """Share of the intervals that hold the truth, and their mean width."""
    inside = [one.low <= truth <= one.high for one in intervals]
    return {
        "coverage": float(np.mean(inside)),
        "width": float(np.mean([one.high - one.low for one in intervals])),
        "experiments": len(inside),
    }


def metric_rows(size: tuple[int, int], seeds: int, *, strong: bool, experiments: int, random: np.random.Generator) -> list[Any]:
    """Coverage of every metric at one size, and of the paired differences."""
    names = ("micro_auc", "average_precision", "macro_auc", "abnormal_auc")
    total = max(500, sum(size))
    many = tuple(total * part // sum(size) for part in size)
    truths: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(40):
        (scores,), labels = draw(random, *many, 6, strong=strong)
        for run in as_runs(scores, labels):
            for name in names:
                truths[name].append(METRICS[name](run))
    found: dict[str, list[Estimate]] = {name: [] for name in names}
    differences: dict[str, list[Estimate]] = {name: [] for name in names[:2]}
    for _ in range(experiments):
        (one, other), labels = draw(random, *size, seeds, strong=strong, methods=2)
        runs, other_runs = as_runs(one, labels), as_runs(other, labels)
        for name in names:
            found[name].append(metric_interval(runs, METRICS[name]))
        for name in differences:
            differences[name].append(paired_difference(runs, other_runs, METRICS[name]))
    facts = {"abnormal": size[0], "normal": size[1], "seeds": seeds, "seed effect": "strong" if strong else "none"}
    rows = [{**facts, "what": name, **held(found[name], float(np.mean(truths[name])))} for name in names]
    return rows + [{**facts, "what": f"difference of {name}", **held(differences[name], 0.0)} for name in differences]


def event_rows(size: tuple[int, int], experiments: int, random: np.random.Generator) -> list[Any]:
    """Coverage of the event metrics at one size; a metric without an interval in most experiments is left out."""
    many = tuple(4000 * part // sum(size) for part in size)
    draws = [draw(random, *many, 1, strong=False) for _ in range(10)]
    values = [event_values(as_events(scores[0], labels, 2.0)) for (scores,), labels in draws]
    truth = {name: float(np.mean([one[name] for one in values])) for name in values[0]}
    found: dict[str, list[Estimate]] = {name: [] for name in truth}
    for _ in range(experiments):
        (scores,), labels = draw(random, *size, 1, strong=False)
        for name, one in event_intervals(as_events(scores[0], labels, 2.0)).items():
            if isinstance(one, Estimate):
                found[name].append(one)
    facts = {"abnormal": size[0], "normal": size[1], "seeds": 1, "seed effect": "none"}
    enough = {name: intervals for name, intervals in found.items() if 2 * len(intervals) > experiments}
    return [{**facts, "what": name, **held(intervals, truth[name])} for name, intervals in enough.items()]


def event_values(videos: list[EventVideo]) -> dict[str, float]:
    """Values of very many videos, without leaving each of them out."""
    found = event_metrics(videos)
    values: dict[str, float | None] = {f"event AP@{iou:g}": value for iou, value in found.average_precision.items()}
    values |= {"event mAP": found.mean_average_precision, "event recall": found.recall, DELAY: found.delay_seconds}
    values[RATE] = found.false_alarms_per_hour
    return {name: value for name, value in values.items() if value is not None}


def number_rows(experiments: int, random: np.random.Generator) -> list[Any]:
    """Means of J independent numbers, and Poisson rates."""
    rows = []
    for count in (3, 5, 10):
        values = random.normal(0.9, 0.03, (20 * experiments, count))
        rows.append({"what": f"mean of {count} splits", **held([mean_interval(row.tolist()) for row in values], 0.9)})
    for expected in (0.5, 3.0, 20.0):
        counts = random.poisson(expected, 20 * experiments)
        rows.append({"what": f"rate, {expected:g} events", **held([rate_interval(int(n), 1.0) for n in counts], expected)})
    return rows


def main() -> None:
    """Simulate, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=600)
    parser.add_argument("--quick", action="store_true", help="One small size, few experiments, nothing stored.")
    given = parser.parse_args()
    random = np.random.default_rng(0)
    sizes, experiments = (SIZES[:1], 40) if given.quick else (SIZES, given.experiments)
    rows = _print(number_rows(experiments // 10 if given.quick else experiments, random))
    for size in sizes:
        fewer = experiments if sum(size) < 100 else 2 * experiments // 3
        for seeds, strong in SEEDS:
            rows += _print(metric_rows(size, seeds, strong=strong, experiments=fewer, random=random))
        rows += _print(event_rows(size, fewer, random))
    if not given.quick:
        store("interval_coverage", {"benchmark": "How often 95 % intervals hold the true value", "level": 0.95, "rows": rows})


def _print(rows: list[Any]) -> list[Any]:
    for row in rows:
        sizes = "{abnormal} + {normal}, {seeds} seeds, seed effect {seed effect}: ".format(**row) if "seeds" in row else ""
        print(f"{sizes}{row['what']}: {100 * row['coverage']:.1f} % (width {row['width']:.3f})", flush=True)
    return rows


if __name__ == "__main__":
    main()
