"""The study of docs/results.md: every method, modality set, split and seed on dataset folders, in one table.

    python benchmarks/study.py NAME DATASET [DATASET ...]            own split and, with --resplits, random re-splits
    python benchmarks/study.py NAME DATASET --labels                 AUC against the number of labelled videos
    python benchmarks/study.py NAME DATASET --methods all            every fusion, or some by name: lego,add,gated
    python benchmarks/study.py NAME DATASET --sets motion motion,text    these sets of modalities only

Selection is the last step; scores are smoothed by the default; a method in which nothing is drawn runs once. Beside it stand
the untrained start and the optimism gap: how much higher the best of all evaluations on the test videos would have been.
Everything is stored as benchmarks/results/study-NAME.json.
"""

from __future__ import annotations

import argparse
import functools
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
from lego_fusion.errors import check_choice
from lego_fusion.learn.bags import Bags, load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import LEARNED, UNLEARNED, draws_at_random, run_method, scored_videos
from lego_fusion.learn.splits import Split, own_split, resplits
from lego_fusion.measure.detection import abnormal_auc, micro_auc
from lego_fusion.measure.intervals import metric_interval
from lego_fusion.measure.scored import ScoredVideo
from lego_fusion.measure.smoothing import SMOOTHING
from measuring import machine_facts

METHODS = ("lego", "lego-paper", "concat")
RESULTS = Path(__file__).parent / "results"
METRICS = {"micro": micro_auc, "abnormal": abnormal_auc}


def modality_sets(dataset: Dataset) -> list[tuple[str, ...]]:
    """Each modality alone, then every combination that has the first one, then all."""
    names = list(dataset.modalities)
    sets = [(name,) for name in names] + [(names[0], name) for name in names[1:]] + [tuple(names)]
    return list(dict.fromkeys(sets))


def measure_split(
    path: Path, split: Split, seeds: int, methods: Sequence[str] = METHODS, sets: Sequence[tuple[str, ...]] = ()
) -> list[dict[str, Any]]:
    """The methods, the references that learn nothing, and all modality sets on one split: one row per method, set and seed."""
    torch.set_num_threads(1)
    dataset = Dataset.open(path)
    bags = load_bags(dataset, list(dataset.modalities), (*split.train, *split.test))
    rows = []
    for names, method in itertools.product(sets or modality_sets(dataset), (*methods, *UNLEARNED)):
        if method == "flow-energy" and names != ("motion",):
            continue
        if method == "nearest-cells" and not any(dataset.modalities[name].has_units for name in names):
            continue
        for seed in range(seeds if draws_at_random(method, TrainingConfig()) else 1):
            config = TrainingConfig(seed=seed, check_every=10)
            run = run_method(dataset, bags, split, names, method, config, watch_test=method in LEARNED)
            scored = scored_videos(dataset, run.node_scores, smoothing=SMOOTHING)
            row: dict[str, Any] = {"dataset": dataset.name, "split": split.name, "modalities": names, "method": method}
            row |= {"seed": seed, "parameters": run.parameters, "seconds": run.train_seconds, "scored": scored}
            row |= {name: metric(scored) for name, metric in METRICS.items()}
            if run.watched:
                seen = {step: scored_videos(dataset, scores, smoothing=SMOOTHING) for step, scores in run.watched.items()}
                watched = {step: micro_auc(found) for step, found in seen.items()}
                row |= {"untrained": watched[0], "best": max(*watched.values(), row["micro"])}
            rows.append(row)
    return rows


def measure_labels(path: Path, split: Split) -> list[dict[str, Any]]:
    """LEGO on all modalities with ever more labelled training videos; 0 abnormal ones is the normal-only mode."""
    torch.set_num_threads(1)
    dataset = Dataset.open(path)
    names = list(dataset.modalities)
    bags: Bags = load_bags(dataset, names, (*split.train, *split.test))
    by_label = {
        label: [video for video in split.train if dataset.records[video].label == label] for label in ("normal", "abnormal")
    }
    rows = []
    normals, abnormals = len(by_label["normal"]), len(by_label["abnormal"])
    counts = [(n, 0) for n in (2, 3, 4, 8, 12) if n <= normals]
    counts += [(normals, a) for a in (1, 2, 4, 6, 8, 12) if a <= abnormals]
    for normal, abnormal in counts:
        part = Split(split.name, (*by_label["normal"][:normal], *by_label["abnormal"][:abnormal]), split.test)
        config = TrainingConfig(normal_only=abnormal == 0)
        for modalities in (names[:2], names):
            run = run_method(dataset, bags, part, modalities, "lego", config)
            scored = scored_videos(dataset, run.node_scores, smoothing=SMOOTHING)
            row: dict[str, Any] = {"dataset": dataset.name, "split": split.name, "modalities": tuple(modalities)}
            row |= {"normal": normal, "abnormal_videos": abnormal}
            rows.append(row | {name: metric(scored) for name, metric in METRICS.items()})
    return rows


def mean_and_deviation(rows: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """Mean and standard deviation over splits of each split's mean over seeds."""
    by_split = defaultdict(list)
    for row in rows:
        by_split[row["dataset"], row["split"]].append(row[key])
    means = [float(np.mean(values)) for values in by_split.values()]
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def summarise(rows: list[dict[str, Any]], splits: str) -> list[dict[str, Any]]:
    """One line per modality set and method."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["modalities"], row["method"]].append(row)
    lines = []
    for (names, method), group in groups.items():
        line: dict[str, Any] = {"splits": splits, "modalities": "+".join(names), "method": method}
        line |= {"parameters": group[0]["parameters"], "seconds": float(np.mean([row["seconds"] for row in group]))}
        for key in ("micro", "abnormal", "untrained", "best"):
            if key in group[0]:
                line[key], line[f"{key}_deviation"] = mean_and_deviation(group, key)
        if "untrained" in line:
            gains = [dict(row, gain=row["micro"] - row["untrained"], gap=row["best"] - row["micro"]) for row in group]
            line["gain"], line["gap"] = mean_and_deviation(gains, "gain")[0], mean_and_deviation(gains, "gap")[0]
        if len({(row["dataset"], row["split"]) for row in group}) == 1:
            runs: list[list[ScoredVideo]] = [row["scored"] for row in group]
            interval = metric_interval(runs, micro_auc)
            line["low"], line["high"] = interval.low, interval.high
        lines.append(line)
    return lines


def markdown(lines: list[dict[str, Any]]) -> str:
    """The lines as a table, AUC in percent."""

    def cell(line: dict[str, Any], key: str) -> str:
        if key not in line:
            return "-"
        spread = f" ± {100 * line[f'{key}_deviation']:.1f}" if line.get(f"{key}_deviation") else ""
        if key == "micro" and "low" in line:
            spread = f" [{100 * line['low']:.1f}, {100 * line['high']:.1f}]"
        sign = "+" if key in ("gain", "gap") else ""
        return f"{100 * line[key]:{sign}.1f}{spread}"

    head = "| modalities | method | parameters | micro AUC | abnormal-only AUC | untrained | gain | optimism gap | seconds |"
    table = [head, "|---|---|---|---|---|---|---|---|---|"]
    for line in lines:
        cells = [cell(line, key) for key in ("micro", "abnormal", "untrained", "gain", "gap")]
        facts = f"{line['modalities']} | {line['method']} | {line['parameters']:,}"
        table.append(f"| {facts} | {' | '.join(cells)} | {line['seconds']:.2f} |")
    return "\n".join(table)


def labels_markdown(rows: list[dict[str, Any]]) -> str:
    """The cost-of-labels curve as a table."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["modalities"], row["normal"], row["abnormal_videos"]].append(row)
    table = ["| modalities | normal videos | abnormal videos | micro AUC | abnormal-only AUC |", "|---|---|---|---|---|"]
    for (names, normal, abnormal), group in sorted(groups.items(), key=lambda item: (len(item[0][0]), item[0][2], item[0][1])):
        cells = [f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in (mean_and_deviation(group, key) for key in METRICS)]
        table.append(f"| {'+'.join(names)} | {normal} | {abnormal} | {' | '.join(cells)} |")
    return "\n".join(table)


def main() -> None:
    """Run the study and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--resplits", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--methods", default=",".join(METHODS), help="learned methods with commas, or 'all'")
    parser.add_argument("--sets", nargs="+", default=[], help="modality sets, names with commas; default: the usual ones")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    started = time.perf_counter()
    sets = [tuple(names.split(",")) for names in options.sets]
    methods = LEARNED if options.methods == "all" else tuple(options.methods.split(","))
    for method in methods:
        check_choice(method, "methods", "study", LEARNED)
    whole = functools.partial(measure_split, seeds=options.seeds, methods=methods, sets=sets)
    measure = measure_labels if options.labels else whole
    jobs = []
    for path in options.datasets:
        dataset = Dataset.open(path)
        jobs.append((path, own_split(dataset)))
        jobs += [(path, split) for split in (resplits(dataset, options.resplits) if options.resplits else [])]
    with ProcessPoolExecutor(options.workers) as pool:
        done = list(pool.map(measure, *zip(*jobs, strict=True)))
    own = [row for (_, split), rows in zip(jobs, done, strict=True) for row in rows if split.name == "own"]
    drawn = [row for (_, split), rows in zip(jobs, done, strict=True) for row in rows if split.name != "own"]
    stored: dict[str, Any] = {
        "machine": machine_facts(),
        "seeds": 1 if options.labels else options.seeds,
        "resplits": options.resplits,
    }
    for title, rows in (("own split", own), ("random re-splits", drawn)):
        if not rows:
            continue
        print(f"\n### {options.name}, {title}\n")
        if options.labels:
            print(labels_markdown(rows))
            stored[title] = rows
        else:
            stored[title] = summarise(rows, title)
            print(markdown(stored[title]))
    stored["seconds"] = time.perf_counter() - started
    RESULTS.mkdir(exist_ok=True)
    name = f"study-{options.name}{'-labels' if options.labels else ''}.json"
    (RESULTS / name).write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(f"\n{stored['seconds']:.0f} s; stored as benchmarks/results/{name}")


if __name__ == "__main__":
    main()
