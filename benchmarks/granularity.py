"""The study of finer units in docs/results.md: snippets, frames, motion cells and words, alone and in one fused graph.

    python benchmarks/granularity.py NAME DATASET [DATASET ...] [--resplits 10] [--seeds 2]

The dataset folders hold any of motion, motion-cells, motion-frames, text and words; rows of others are left out. All settings
are the defaults, scores are smoothed by the default; selection is the last step, and beside it stands the untrained start. A
method in which nothing is drawn runs once. Stored as benchmarks/results/granularity-NAME.json.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import LEARNED, draws_at_random, run_method, scored_videos
from lego_fusion.learn.splits import Split, own_split, resplits
from lego_fusion.measure.detection import abnormal_auc, macro_auc, micro_auc
from lego_fusion.measure.smoothing import SMOOTHING
from measuring import store
from study import mean_and_deviation

MODALITIES = ("motion", "motion-cells", "motion-frames", "text", "words")
ROWS = (
    (("motion",), "lego"),
    (("motion-cells",), "lego"),
    (("motion-frames",), "lego"),
    (("text",), "lego"),
    (("words",), "lego"),
    (("motion", "text"), "lego"),
    (("motion", "motion-cells"), "lego"),
    (("motion", "motion-cells", "text"), "lego"),
    (("motion", "motion-frames", "motion-cells"), "lego"),
    (MODALITIES, "lego"),
    (("motion-cells",), "lego-paper"),
    (("motion-cells",), "concat"),
    (("motion", "motion-cells", "text"), "concat"),
    (("motion",), "flow-energy"),
    (("motion",), "nearest-neighbours"),
    (("motion-cells",), "nearest-neighbours"),
    (("motion", "motion-cells", "text"), "nearest-neighbours"),
    (("motion-cells",), "nearest-cells"),
)
METRICS = {"micro": micro_auc, "abnormal": abnormal_auc, "macro": macro_auc}


def measure_split(path: Path, split: Split, seeds: int) -> list[dict[str, Any]]:
    """All rows on one split: one record per method and seed."""
    torch.set_num_threads(1)
    dataset = Dataset.open(path)
    present = [name for name in MODALITIES if name in dataset.modalities]
    bags = load_bags(dataset, present, (*split.train, *split.test))
    records = []
    for names, method in ROWS:
        if not set(names) <= set(present):
            continue
        for seed in range(seeds if draws_at_random(method, TrainingConfig()) else 1):
            config = TrainingConfig(seed=seed, check_every=1_000_000)  # the start and the last step are looked at
            run = run_method(dataset, bags, split, names, method, config, watch_test=method in LEARNED)
            scored = scored_videos(dataset, run.node_scores, smoothing=SMOOTHING)
            record: dict[str, Any] = {"dataset": dataset.name, "split": split.name, "modalities": names, "method": method}
            record |= {"seed": seed, "parameters": run.parameters}
            record |= {"seconds": run.train_seconds, "score_seconds": run.score_seconds}
            record |= {name: metric(scored) for name, metric in METRICS.items()}
            if run.watched:
                record["untrained"] = micro_auc(scored_videos(dataset, run.watched[0], smoothing=SMOOTHING))
            records.append(record)
    return records


def summarise(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per row: mean and deviation over splits, and the paired difference to motion + text, or to motion."""
    groups = defaultdict(list)
    for record in records:
        groups[tuple(record["modalities"]), record["method"]].append(record)
    against = _by_split(groups.get((("motion", "text"), "lego")) or groups[("motion",), "lego"])
    lines = []
    for (names, method), group in groups.items():
        line: dict[str, Any] = {"modalities": "+".join(names), "method": method, "parameters": group[0]["parameters"]}
        line |= {key: float(np.mean([one[key] for one in group])) for key in ("seconds", "score_seconds")}
        for key in (*METRICS, "untrained"):
            if key in group[0]:
                line[key], line[f"{key}_deviation"] = mean_and_deviation(group, key)
        mine = _by_split(group)
        differences = [mine[split] - against[split] for split in sorted(against)]
        line["difference"], line["splits_above"] = float(np.mean(differences)), sum(one > 0 for one in differences)
        line["difference_deviation"] = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
        lines.append(line | {"splits": len(differences)})
    return lines


def _by_split(group: list[dict[str, Any]], key: str = "abnormal") -> dict[tuple[str, str], float]:
    values = defaultdict(list)
    for record in group:
        values[record["dataset"], record["split"]].append(record[key])
    return {split: float(np.mean(found)) for split, found in values.items()}


def markdown(lines: list[dict[str, Any]]) -> str:
    """The lines as a table, AUC in percent."""

    def cell(line: dict[str, Any], key: str) -> str:
        return f"{100 * line[key]:.1f} ± {100 * line[f'{key}_deviation']:.1f}" if key in line else "-"

    table = [
        "| modalities | method | micro AUC | abnormal-only AUC | macro AUC | untrained | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        cells = " | ".join(cell(line, key) for key in METRICS)
        start = f"{100 * line['untrained']:.1f}" if "untrained" in line else "-"
        names = line["modalities"].replace("+", " + ")
        table.append(f"| {names} | {line['method']} | {cells} | {start} | {line['seconds'] + line['score_seconds']:.1f} |")
    return "\n".join(table)


def main() -> None:
    """Run the study and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--resplits", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    started = time.perf_counter()
    jobs = []
    for path in options.datasets:
        dataset = Dataset.open(path)
        jobs += [(path, one) for one in (resplits(dataset, options.resplits) if options.resplits else [own_split(dataset)])]
    with ProcessPoolExecutor(options.workers) as pool:
        done = list(pool.map(measure_split, *zip(*jobs, strict=True), [options.seeds] * len(jobs)))
    lines = summarise([record for records in done for record in records])
    print(markdown(lines))
    seconds = time.perf_counter() - started
    facts = {"seeds": options.seeds, "resplits": options.resplits, "sets": len(options.datasets), "seconds": seconds}
    print(f"\n{seconds:.0f} s; stored as {store(f'granularity-{options.name}', {**facts, 'rows': lines}).name}")


if __name__ == "__main__":
    main()
