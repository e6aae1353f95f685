"""What smoothing scores over seconds gains and costs, by method, and where it is best done.

    python benchmarks/smoothing.py DATASET [DATASET ...] [--splits 3] [--sets motion+appearance+text,motion+appearance]

Random re-splits of each dataset; a set of modalities that a dataset lacks is left out there, and without any set all of its
modalities are taken together. The forms: ``frames`` is what the package does with a whole video (logits of frames, both sides),
``scores`` the same after the sigmoid, ``snippets`` one value a snippet, ``past`` that with a one-sided Gaussian, as on a stream
of one snippet a segment. AUC in percent; every number is a mean over splits. At last the seconds that it takes to measure 1.1
million frames with and without. Stored as benchmarks/results/smoothing.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.data.segments import rows_to_frames, segments_to_rows
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import LEARNED, run_method
from lego_fusion.learn.splits import Split, resplits
from lego_fusion.measure.detection import abnormal_auc, detection_metrics, macro_auc, micro_auc
from lego_fusion.measure.scored import ScoredVideo
from lego_fusion.measure.smoothing import smooth, smooth_frames
from measuring import alternating, store

METHODS = ("lego", "concat", "nearest-neighbours")
SECONDS = (0.0, 0.25, 0.5, 1.0, 2.0)
FORMS = ("frames", "scores", "snippets", "past")
METRICS: dict[str, Callable[[Sequence[ScoredVideo]], float]] = {
    "micro": micro_auc,
    "abnormal": abnormal_auc,
    "macro": macro_auc,
}
VIDEOS, FRAMES = 290, 1_100_000  # of UCF-Crime's test split


def scored(dataset: Dataset, video: str, segments: np.ndarray, form: str, seconds: float) -> ScoredVideo:
    """A video smoothed in one of the forms, beside its ground truth."""
    record, stride = dataset.records[video], dataset.config.stride
    rows = segments_to_rows(segments, dataset.rows(video))
    if form in ("snippets", "past"):
        rows = smooth(rows, stride / record.fps, seconds, causal=form == "past")
    frames = rows_to_frames(rows, record.frames, dataset.config.snippet_frames, stride)
    if form in ("frames", "scores"):
        frames = smooth_frames(frames, record.fps, seconds, constant=np.gcd(dataset.config.snippet_frames, stride).item())
    return ScoredVideo.from_frames(video, frames, dataset.frame_labels(video))


def measure(dataset: Dataset, sets: Sequence[tuple[str, ...]], splits: int) -> list[dict[str, Any]]:
    """A row per modality set, method, form and seconds."""
    names = list(dict.fromkeys(name for one in sets for name in one))
    bags = load_bags(dataset, names, [record.video for record in dataset.videos if record.label])
    found: dict[tuple[Any, ...], list[list[float]]] = {}
    for modalities, split, method in product(sets, resplits(dataset, splits), METHODS):
        known = Split(split.name, split.train, tuple(filter(dataset.has_ground_truth, split.test)))
        run = run_method(dataset, bags, known, modalities, method, TrainingConfig())
        for form, seconds in product(FORMS, SECONDS):
            squashed = form == "scores" and method in LEARNED
            nodes = {video: (x.sigmoid() if squashed else x).numpy() for video, x in run.node_scores.items()}
            videos = [scored(dataset, video, x, form, seconds) for video, x in nodes.items()]
            values = [100 * metric(videos) for metric in METRICS.values()]
            found.setdefault(("+".join(modalities), method, form, seconds), []).append(values)
        print(dataset.name, "+".join(modalities), split.name, method, flush=True)
    keys = ("modalities", "method", "form", "seconds")
    return [
        {
            "dataset": dataset.name,
            **dict(zip(keys, key, strict=True)),
            **dict(zip(METRICS, np.mean(values, 0).round(3).tolist(), strict=True)),
        }
        for key, values in found.items()
    ]


def changes(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each method gains over no smoothing, the mean over datasets and modality sets."""
    plain = {(one["dataset"], one["modalities"], one["method"], one["form"]): one for one in rows if not one["seconds"]}
    made = []
    for method, form, seconds in product(METHODS, FORMS, SECONDS[1:]):
        here = [one for one in rows if (one["method"], one["form"], one["seconds"]) == (method, form, seconds)]
        gains = {
            name: fmean(one[name] - plain[one["dataset"], one["modalities"], method, form][name] for one in here)
            for name in METRICS
        }
        made.append({"method": method, "form": form, "seconds": seconds} | {name: round(x, 2) for name, x in gains.items()})
    return made


def cost(rounds: int = 5) -> dict[str, float]:
    """Seconds to make and measure 1.1 million frames of one score every 16 frames, by how they are smoothed."""
    random = np.random.default_rng(0)
    lengths = random.multinomial(FRAMES, np.full(VIDEOS, 1 / VIDEOS))
    spread = [np.repeat(np.cumsum(random.normal(size=-(-length // 16))), 16)[:length] for length in lengths]
    labels = [(np.arange(length) // 333 == 1) & (number % 2 == 1) for number, length in enumerate(lengths)]

    def measured(seconds: float) -> None:
        frames = [smooth_frames(one, 30.0, seconds, constant=16) for one in spread]
        detection_metrics([ScoredVideo.from_frames(str(i), *one) for i, one in enumerate(zip(frames, labels, strict=True))])

    ways = {"none": lambda: measured(0.0), "0.5 s": lambda: measured(0.5)}
    return {name: round(median(times), 3) for name, times in alternating(ways, rounds=rounds, warmup=1).items()}


def markdown(made: Sequence[dict[str, Any]], form: str) -> str:
    """A line per method: change of micro, abnormal-only and macro AUC by seconds."""
    lines = [f"| method | {' | '.join(f'{seconds:g} s' for seconds in SECONDS[1:])} |", "|---" * len(SECONDS) + "|"]
    for method in METHODS:
        here = [one for one in made if (one["method"], one["form"]) == (method, form)]
        lines.append(f"| {method} | " + " | ".join(" / ".join(f"{one[name]:+.1f}" for name in METRICS) for one in here) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--sets", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for path in options.datasets:
        dataset = Dataset.open(path)
        wanted = [tuple(one.split("+")) for one in options.sets.split(",") if one]
        sets = [one for one in wanted if set(one) <= set(dataset.modalities)] or [tuple(dataset.modalities)]
        rows += measure(dataset, sets, options.splits)
    made = changes(rows)
    for form in FORMS:
        print(f"\n{form}: change of micro / abnormal-only / macro AUC\n\n{markdown(made, form)}")
    timed = cost()
    print(f"\n1.1 million frames: {timed}")
    facts = {"splits": options.splits, "seconds_of_1.1_million_frames": timed}
    store("smoothing", {**facts, "changes": made, "rows": rows})


if __name__ == "__main__":
    main()
