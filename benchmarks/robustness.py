"""Noisy and missing modalities: what each fusion loses, on dataset folders, in one table and one figure.

    python benchmarks/robustness.py NAME DATASET [DATASET ...] --resplits 5     random re-splits (0: each folder's own split)
    python benchmarks/robustness.py NAME DATASET --methods lego                 only some; stored rows of the others stay

Conditions (``lego_fusion.learn.conditions``): Gaussian noise on text at four levels, a modality of pure noise beside two good
ones, a modality missing at test time; the last also with modality dropout in training. Scores are smoothed by the default.
Stored with every run as benchmarks/results/robustness-NAME.json; drawn as a picture with --figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.conditions import parse_condition
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import run_method, scored_videos
from lego_fusion.learn.splits import Split, own_split, resplits
from lego_fusion.measure.detection import abnormal_auc, micro_auc
from lego_fusion.measure.smoothing import SMOOTHING
from measuring import RESULTS, store

METHODS = ("lego", "concat", "add", "gated", "cross-attention", "score-average", "mlp", "nearest-neighbours")
NOISE_LEVELS = (0.5, 1, 2, 4)
NOISY = ("clean", *(f"text:noise={level:g}" for level in NOISE_LEVELS), "noise-modality=64")
MISSING = ("text:missing=mean", "motion:missing=mean", "text:missing=drop-term", "motion:missing=drop-term")
DROPOUT = 0.3
WITH_TEXT, WITH_APPEARANCE = ("motion", "text"), ("motion", "appearance")
Cell = tuple[tuple[str, ...], str, float]  # modalities, condition, modality dropout


def cells() -> list[Cell]:
    """Everything that is measured for every method."""
    measured: list[Cell] = [(WITH_TEXT, condition, 0.0) for condition in (*NOISY, *MISSING)]
    measured += [(WITH_APPEARANCE, condition, 0.0) for condition in ("clean", "noise-modality=64")]
    return measured + [(WITH_TEXT, condition, DROPOUT) for condition in ("clean", *MISSING)]


def measure_split(path: Path, split: Split, seeds: int, methods: Sequence[str]) -> list[dict[str, Any]]:
    """All cells on one split: one row per method, cell and seed. Without learning only the noise has a seed."""
    torch.set_num_threads(1)
    dataset = Dataset.open(path)
    bags = load_bags(dataset, list(dataset.modalities), (*split.train, *split.test))
    rows = []
    for (names, text, dropout), method, seed in itertools.product(cells(), methods, range(seeds)):
        if ("drop-term" in text and method != "lego") or (dropout and method == "nearest-neighbours"):
            continue
        condition = parse_condition(text)
        removal = "drop-term" if "drop-term" in text else "mean"
        config = TrainingConfig(seed=seed, modality_dropout=dropout, modality_removal=removal)
        run = run_method(dataset, bags, split, names, method, config, condition=condition)
        scored = scored_videos(dataset, run.node_scores, smoothing=SMOOTHING)
        row: dict[str, Any] = {"dataset": dataset.name, "split": split.name, "modalities": "+".join(names)}
        row |= {"condition": text, "dropout": dropout, "method": method, "seed": seed}
        rows.append(row | {"micro": micro_auc(scored), "abnormal": abnormal_auc(scored)})
    return rows


def mean_and_deviation(rows: list[dict[str, Any]], key: str = "micro") -> tuple[float, float]:
    """Mean and standard deviation over splits of each split's mean over seeds."""
    by_split = defaultdict(list)
    for row in rows:
        by_split[row["dataset"], row["split"]].append(row[key])
    means = [float(np.mean(values)) for values in by_split.values()]
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def differences(rows: list[dict[str, Any]], clean: list[dict[str, Any]], key: str = "micro") -> list[dict[str, Any]]:
    """Each run minus the clean run of the same split and seed."""
    before = {(row["dataset"], row["split"], row["seed"]): row[key] for row in clean}
    return [row | {key: row[key] - before[row["dataset"], row["split"], row["seed"]]} for row in rows]


def replaced(stored: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """New rows with those stored of methods that were not measured this time, in the order of ``METHODS``."""
    methods = {row["method"] for row in rows}
    kept = json.loads(stored.read_text(encoding="utf-8"))["rows"] if stored.exists() else []
    return sorted([row for row in kept if row["method"] not in methods] + rows, key=lambda row: METHODS.index(row["method"]))


def grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str, float, str], list[dict[str, Any]]]:
    """Rows by modalities, condition, dropout and method."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["modalities"], row["condition"], row["dropout"], row["method"]].append(row)
    return dict(groups)


def markdown(rows: list[dict[str, Any]]) -> str:
    """AUC in percent where clean, and what each condition changes it by, paired by split and seed."""
    groups = grouped(rows)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = ["| modalities | condition | dropout | " + " | ".join(methods) + " |", "|---" * (3 + len(methods)) + "|"]
    for names, condition, dropout in dict.fromkeys(key[:3] for key in groups):
        cells = []
        for method in methods:
            group = groups.get((names, condition, dropout, method))
            plain = condition == "clean" and not dropout
            if group is None:
                cells.append("-")
                continue
            changed = group if plain else differences(group, groups[names, "clean", 0.0, method])
            mean, deviation = mean_and_deviation(changed)
            cells.append(f"{100 * mean:{'' if plain else '+'}.1f} ± {100 * deviation:.1f}")
        table.append(f"| {names} | {condition} | {dropout:g} | {' | '.join(cells)} |")
    return "\n".join(table)


def draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """AUC against the level of noise on text, and what is lost to a noise modality and to missing ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = grouped(rows)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colours = dict(zip(methods, plt.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), width_ratios=(1, 1.5), layout="constrained")
    texts = ("clean", *(f"text:noise={level:g}" for level in NOISE_LEVELS))
    for method in methods:
        curve = [100 * mean_and_deviation(groups["motion+text", text, 0.0, method])[0] for text in texts]
        style = {"linewidth": 2.5 if method == "lego" else 1.3, "linestyle": "--" if method == "nearest-neighbours" else "-"}
        left.plot((0, *NOISE_LEVELS), curve, marker="o", markersize=3, color=colours[method], label=method, **style)
    left.set_xlabel("noise on text, in deviations of each column")
    left.set_ylabel("micro AUC, percent")
    left.set_title("motion + text, text ever noisier", fontsize=10)
    bars = [("motion+text", "noise-modality=64", "noise added to\nmotion + text")]
    bars += [("motion+appearance", "noise-modality=64", "noise added to\nmotion + appearance")]
    bars += [("motion+text", f"{name}:missing=mean", f"{name} missing\nat test") for name in ("text", "motion")]
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        for group, (names, condition, _) in enumerate(bars):
            lost = differences(groups[names, condition, 0.0, method], groups[names, "clean", 0.0, method])
            change = 100 * mean_and_deviation(lost)[0]
            right.bar(group + (place - (len(methods) - 1) / 2) * width, change, width, color=colours[method], label=method)
    right.axhline(0, color="black", linewidth=0.8)
    right.set_xticks(range(len(bars)), [label for *_, label in bars], fontsize=9)
    right.set_ylabel("change of micro AUC, points")
    right.set_title("what is lost against the clean run", fontsize=10)
    left.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Measure, store, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("datasets", nargs="*", type=Path, help="none: print and draw what is stored")
    parser.add_argument("--resplits", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="PNG to draw")
    options = parser.parse_args()
    stored = RESULTS / f"robustness-{options.name}.json"
    if options.datasets:
        started = time.perf_counter()
        jobs: list[tuple[Path, Split]] = []
        for path in options.datasets:
            dataset = Dataset.open(path)
            drawn = resplits(dataset, options.resplits) if options.resplits else [own_split(dataset)]
            jobs += [(path, split) for split in drawn]
        arguments = ([options.seeds] * len(jobs), [options.methods.split(",")] * len(jobs))
        with ProcessPoolExecutor(options.workers) as pool:
            done = list(pool.map(measure_split, *zip(*jobs, strict=True), *arguments))
        rows = replaced(stored, [row for part in done for row in part])
        store(stored.stem, {"resplits": options.resplits, "seeds": options.seeds, "rows": rows})
        print(f"{time.perf_counter() - started:.0f} s")
    rows = json.loads(stored.read_text(encoding="utf-8"))["rows"]
    print(f"\n### {options.name}\n\n{markdown(rows)}")
    if options.figure:
        draw(rows, options.figure, options.name)


if __name__ == "__main__":
    main()
