"""AUC and AP of 1.1 million frames from weighted runs, against scikit-learn on the frames written out.

    python benchmarks/detection_metrics.py [--quick]

290 videos of UCF-Crime's test size with 32 segment scores each and one abnormal interval in every other video. Ours starts
from segment scores and intervals, or from one score per frame; scikit-learn from one score and one label per frame, whose
making is not timed. The values must agree to 1e-12.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from lego_fusion.measure.detection import detection_metrics
from lego_fusion.measure.scored import ScoredVideo
from measuring import alternating, median_ratio, store

VIDEOS, SEGMENTS, FRAMES, TARGET = 290, 32, 1_100_000, 5.0


def rows(rounds: int = 9) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The measured rows, and what they come from."""
    random = np.random.default_rng(0)
    lengths = random.multinomial(FRAMES - VIDEOS * SEGMENTS, np.full(VIDEOS, 1 / VIDEOS)) + SEGMENTS
    bounds = [np.linspace(0, length, SEGMENTS + 1).astype(np.int64) for length in lengths]
    scores = [random.random(SEGMENTS) for _ in lengths]
    starts = [int(random.integers(0, length // 2)) for length in lengths]
    intervals = [[(start, start + 333)] if i % 2 else [] for i, start in enumerate(starts)]
    by_frame = [np.repeat(score, np.diff(bound)) for score, bound in zip(scores, bounds, strict=True)]
    truth = [np.zeros(length, bool) for length in lengths]
    for labels, given in zip(truth, intervals, strict=True):
        for start, end in given:
            labels[start:end] = True
    all_scores, all_labels = np.concatenate(by_frame), np.concatenate(truth)
    found: dict[str, tuple[float, float]] = {}

    def from_spans() -> None:
        made = zip(scores, bounds, intervals, strict=True)
        values = detection_metrics([ScoredVideo.from_spans(str(i), *one) for i, one in enumerate(made)]).values
        found["segments"] = values["micro_auc"], values["average_precision"]

    def from_frames() -> None:
        made = zip(by_frame, truth, strict=True)
        values = detection_metrics([ScoredVideo.from_frames(str(i), *one) for i, one in enumerate(made)]).values
        found["frames"] = values["micro_auc"], values["average_precision"]

    def scikit_learn() -> None:
        found["scikit-learn"] = roc_auc_score(all_labels, all_scores), average_precision_score(all_labels, all_scores)

    ways: dict[str, Callable[[], object]] = {"segments": from_spans, "frames": from_frames, "scikit-learn": scikit_learn}
    seconds = alternating(ways, rounds=rounds)
    gap = max(abs(a - b) for way in ("segments", "frames") for a, b in zip(found[way], found["scikit-learn"], strict=True))
    what = {
        "segments": "AUC + AP (and macro, abnormal-only) from segment scores",
        "frames": "the same from one score per frame",
    }
    made = [
        {
            "name": f"{text}, over scikit-learn's AUC + AP on frames",
            "target": TARGET,
            "measured": round(median_ratio(seconds["scikit-learn"], seconds[way]), 1),
            "unit": "times faster",
        }
        for way, text in what.items()
    ]
    made.append({"name": "largest difference to scikit-learn", "target": 1e-12, "measured": gap, "unit": "at most"})
    return made, {way: round(1e3 * median(times), 2) for way, times in seconds.items()}


def main() -> int:
    """Measure, print, store; with --strict 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing stored")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    options = parser.parse_args()
    quick = options.quick
    load = os.getloadavg()[0]
    made, milliseconds = rows(2 if quick else 9)
    table = Table(title=f"{FRAMES:,} frames of {VIDEOS} videos; ms: {milliseconds}")
    for heading in ("what", "measured", "target", ""):
        table.add_column(heading)
    missed = [row["measured"] > row["target"] if row["unit"] == "at most" else row["measured"] < row["target"] for row in made]
    for row, miss in zip(made, missed, strict=True):
        table.add_row(row["name"], f"{row['measured']:.3g}", f"{row['target']:g} {row['unit']}", "MISSED" if miss else "met")
    Console(width=140).print(table)
    if not quick:
        store("detection_metrics", {"benchmark": "detection_metrics", "load": load, "milliseconds": milliseconds, "rows": made})
    return int(options.strict and any(missed))


if __name__ == "__main__":
    sys.exit(main())
