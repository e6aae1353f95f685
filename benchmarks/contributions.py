"""What each modality contributes on a dataset's own split: Shapley values, singles, cooperation and interactions.

    python benchmarks/contributions.py DATASET [--seeds 3] [--methods lego,concat] [--draws 32]

v(S) is the micro AUC, and beside it the mean logit of the abnormal frames, with the other modalities of each test video taken
from a normal training video drawn at random; the mean over seeds and draws. Intervals draw the test videos again (1,000 times),
with the models as they are. Stored as benchmarks/results/contributions-<dataset>.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import run_method
from lego_fusion.learn.splits import own_split
from lego_fusion.why.contributions import QUANTITIES, detector_contributions
from measuring import store


def measure(dataset: Dataset, method: str, seeds: int, draws: int) -> list[dict[str, Any]]:
    """One record per quantity."""
    split, names = own_split(dataset), list(dataset.modalities)
    bags = load_bags(dataset, names, (*split.train, *split.test))
    detectors = []
    for seed in range(seeds):
        run = run_method(dataset, bags, split, names, method, TrainingConfig(seed=seed))
        if not isinstance(run.detector, Detector):
            raise TypeError(f"'{method}' learns nothing")
        detectors.append(run.detector)
    rows = []
    for quantity, meaning in QUANTITIES.items():
        started = time.perf_counter()
        found = detector_contributions(
            detectors, dataset, bags.named(split.train), bags.named(split.test), quantity=quantity, draws=draws
        )
        seconds = time.perf_counter() - started
        rows.append({"method": method, "quantity": meaning, "seconds": seconds, **found.document()})
    return rows


def show(row: dict[str, Any]) -> None:
    """A record as a table of Markdown."""
    print(
        f"\n**{row['method']}, {row['quantity']}**: v({{}}) {row['baseline']:.3f}, v(all) {row['full']:.3f}; {row['removal']}\n"
    )
    print("| | value | 95 % interval | alone |\n|---|---|---|---|")
    for one in row["modalities"]:
        print(f"| {one['modality']} | {one['value']:+.3f} | [{one['low']:+.3f}, {one['high']:+.3f}] | {one['alone']:.3f} |")
    for one in row["interactions"]:
        print(f"| {' x '.join(one['pair'])} | {one['value']:+.3f} | [{one['low']:+.3f}, {one['high']:+.3f}] | |")
    together = row["cooperation"]
    print(f"| cooperation | {together['value']:+.3f} | [{together['low']:+.3f}, {together['high']:+.3f}] | |")


def main() -> None:
    """Train, explain, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default="lego,concat")
    parser.add_argument("--draws", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset.open(options.dataset)
    rows = [row for method in options.methods.split(",") for row in measure(dataset, method, options.seeds, options.draws)]
    for row in rows:
        show(row)
    facts = {"dataset": dataset.name, "seeds": options.seeds, "draws": options.draws, "rows": rows}
    print(f"\nstored as {store(f'contributions-{dataset.name}', facts).name}")


if __name__ == "__main__":
    main()
