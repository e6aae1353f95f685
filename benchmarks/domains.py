"""Videos of several domains trained together, each domain alone, and one domain left out; measured domain by domain.

    python benchmarks/domains.py DATASET DATASET [DATASET ...] [--seeds 3]

The folders are joined as `lego-fusion join` does. Whatever a model was trained on, it is measured on the same test videos of a
domain. Two variants describe each domain by its own statistics before anything else sees the features: the mean (and the
spread of each column) of its normal training videos. Stored as benchmarks/results/domains.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.data.joining import join_datasets
from lego_fusion.learn.bags import Bags, load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import draws_at_random, run_method, scored_videos
from lego_fusion.learn.splits import Split, domain_splits, own_split
from lego_fusion.measure.detection import abnormal_auc, micro_auc
from lego_fusion.measure.intervals import metric_interval
from lego_fusion.measure.scored import ScoredVideo
from lego_fusion.measure.smoothing import SMOOTHING
from measuring import store

METHODS = ("lego", "concat", "nearest-neighbours")
STATISTICS = ("shared", "centred by domain", "centred and scaled by domain")
METRICS: dict[str, Callable[[list[ScoredVideo]], float]] = {"micro": micro_auc, "abnormal": abnormal_auc}


def by_domain(bags: Bags, dataset: Dataset, statistics: str) -> Bags:
    """Subtract from the features of each domain the mean of its normal training videos, and divide by their spread.

    A column is divided by sqrt(v_j + mean_j v_j), v_j its variance, so that columns that hardly vary are not blown up.
    """
    if statistics == "shared":
        return bags
    inputs = {name: tensor.clone() for name, tensor in bags.inputs.items()}
    domains = [dataset.records[video].domain for video in bags.videos]
    known = [dataset.records[video].split == "train" and dataset.records[video].label == "normal" for video in bags.videos]
    for name, domain in product(inputs, dict.fromkeys(domains)):
        here = torch.tensor([one == domain for one in domains])
        usual = inputs[name][here & torch.tensor(known)].flatten(0, 1).double()
        variance = usual.var(0, unbiased=False)
        spread = (variance + variance.mean()).sqrt() if "scaled" in statistics else torch.ones(())
        inputs[name][here] = ((inputs[name][here] - usual.mean(0)) / spread).float()
    return Bags(bags.videos, bags.labels, bags.crops, inputs)


def jobs(dataset: Dataset) -> Iterator[tuple[str, Split, str]]:
    """(what trains, split, statistics) of everything to measure."""
    for split in domain_splits(dataset, "within"):
        yield "alone", split, "shared"
    for statistics in STATISTICS:
        yield "together", own_split(dataset), statistics
        for split in domain_splits(dataset, "left-out"):
            yield "left out", split, statistics


def measure(root: Path, job: tuple[str, Split, str], method: str, seeds: int) -> list[dict[str, Any]]:
    """One row per domain that the split tests, and one for all of them where it tests several."""
    torch.set_num_threads(1)
    trained, split, statistics = job
    dataset = Dataset.open(root)
    names = list(dataset.modalities)
    bags = by_domain(load_bags(dataset, names, [record.video for record in dataset.videos]), dataset, statistics)
    count = seeds if draws_at_random(method, TrainingConfig()) else 1
    runs = [run_method(dataset, bags, split, names, method, TrainingConfig(seed=seed)) for seed in range(count)]
    scored = [scored_videos(dataset, run.node_scores, smoothing=SMOOTHING) for run in runs]
    domains = list(dict.fromkeys(dataset.records[video].domain for video in split.test))
    parts = {
        domain: [[one for one in run if dataset.records[one.video].domain == domain] for run in scored] for domain in domains
    }
    parts |= {"all, pooled": scored} if len(domains) > 1 else {}
    rows = []
    for domain, part in parts.items():
        row: dict[str, Any] = {"domain": domain, "trained": trained, "statistics": statistics, "method": method}
        for name, metric in METRICS.items():
            estimate = metric_interval(part, metric)
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        rows.append(row | {"by_seed": [micro_auc(one) for one in part], "training_videos": len(split.train)})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line per domain and method, micro AUC in percent."""
    trainings = [(one, "shared") for one in ("alone", "together", "left out")]
    trainings += [(one, statistics) for statistics in STATISTICS[1:] for one in ("together", "left out")]
    found = {(row["domain"], row["method"], row["trained"], row["statistics"]): row for row in rows}
    heads = [trained if statistics == "shared" else f"{trained}, {statistics}" for trained, statistics in trainings]
    table = [f"| domain | method | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for domain in dict.fromkeys(row["domain"] for row in rows):
        for method in METHODS:
            cells = []
            for key in trainings:
                row = found.get((domain, method, *key))
                span = "" if row is None else f" [{100 * row['micro_low']:.0f}, {100 * row['micro_high']:.0f}]"
                cells.append("-" if row is None else f"{100 * row['micro']:.1f}{span}")
            table.append(f"| {domain} | {method} | {' | '.join(cells)} |")
    return "\n".join(table)


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = join_datasets(options.datasets, Path(folder) / "joined")
        work = list(product(jobs(report.dataset), METHODS))
        with ProcessPoolExecutor(options.workers) as pool:
            waiting = [pool.submit(measure, report.dataset.root, job, method, options.seeds) for job, method in work]
            rows = [row for one in waiting for row in one.result()]
    print(markdown(rows))
    stored = {"benchmark": "domains", "domains": report.domains, "modalities": list(report.dataset.modalities)}
    stored |= {"seeds": options.seeds, "rows": rows, "seconds": time.perf_counter() - started}
    print(f"\n{stored['seconds']:.0f} s; stored as {store('domains', stored).relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
