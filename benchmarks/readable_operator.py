"""What a readable operator costs: frame AUC with and without the settings of the operator, on planted bags and on Ped2.

    python benchmarks/readable_operator.py               planted bags, three kinds, seeds 10 to 12
    python benchmarks/readable_operator.py PED2          a Ped2 dataset folder: 5 re-splits, 2 seeds, nothing tuned on it

On planted bags the operator is that of the smallest readable model (``planted``), on Ped2 that of the paper's reading; the
default learns none.
Beside the AUC stands how much there is to read: how many terms carry 1 % or more of the fused graph's variation, and how many
coefficients are negative. Stored as benchmarks/results/readable_operator-planted.json or -ped2.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import planted
from known_answers.agreement import modality_shares, node_auc, share_error
from known_answers.bags import KINDS
from lego_fusion.data.dataset import Dataset
from lego_fusion.explain.terms import explain_nodes, mean_sorted_row, variance_shares
from lego_fusion.learn.bags import Bags, load_bags, scoring_inputs
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import run_method, scored_videos
from lego_fusion.learn.splits import resplits
from lego_fusion.measure.detection import micro_auc
from measuring import store

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "sparsity 0.03": {"operator_sparsity": 0.03},
    "sparsity 0.3": {"operator_sparsity": 0.3},
    "order decay 0.1": {"operator_order_decay": 0.1},
    "order decay 1": {"operator_order_decay": 1.0},
    "non-negative": {"operator_nonnegative": True},
    "sparsity 0.03, non-negative": {"operator_sparsity": 0.03, "operator_nonnegative": True},
}


def reading(detector: Detector, bags: Bags) -> dict[str, float]:
    """Terms that matter on some bags, the largest share among them, and negative coefficients."""
    fusion: Any = detector.fusion
    with torch.no_grad():
        shares = variance_shares(planted.terms(fusion, scoring_inputs(fusion, bags).inputs))
        coefficients = fusion.operator.dense_coefficients()
    return {
        "terms": sum(abs(share) >= 0.01 for share in shares.values()),
        "largest": max(shares.values()),
        "negative": int((coefficients < 0).sum()),
    }


def planted_row(kind: Any, seed: int, name: str) -> dict[str, Any]:
    data = planted.planted(kind, seed)
    config = planted.TRAINING.model_copy(update={"operator_order_decay": 0.0, "seed": seed, **SETTINGS[name]})
    detector = planted.trained(planted.readable(data, seed), data, config)
    fusion: Any = detector.fusion
    with torch.no_grad():
        auc = node_auc(detector(data.test.inputs).logits, data.truth)
    known = mean_sorted_row(planted.terms(fusion, fusion.transform(data.normal.inputs)))
    terms = planted.terms(fusion, fusion.transform(data.test.inputs))
    found = modality_shares(explain_nodes(terms, known, detector.head.first, detector.head.second))
    row = {"kind": kind, "seed": seed, "setting": name, "auc": auc, "share_error": share_error(found, data.made.shares)}
    return row | reading(detector, data.test)


def ped2_rows(path: Path, splits: int, seeds: int) -> list[dict[str, Any]]:
    dataset = Dataset.open(path)
    names = ["motion", "appearance", "text"]
    bags = load_bags(dataset, names, [record.video for record in dataset.videos])
    rows = []
    for split in resplits(dataset, splits):
        for seed in range(seeds):
            for name, options in SETTINGS.items():
                run = run_method(dataset, bags, split, names, "lego-paper", TrainingConfig(seed=seed, **options))
                if run.detector is None:
                    raise TypeError(name)
                row = {"split": split.name, "seed": seed, "setting": name}
                row["auc"] = micro_auc(scored_videos(dataset, run.node_scores))
                rows.append(row | reading(run.detector, bags.named(split.test)))
        print(split.name, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Mean of every setting, and the paired cost in AUC with its range."""
    key = [name for name in ("kind", "split", "seed") if name in rows[0]]
    plain = {tuple(row[k] for k in key): row["auc"] for row in rows if row["setting"] == "none"}
    shared = ["share_error"] if "share_error" in rows[0] else []
    lines = [
        "| setting | AUC | cost in AUC (range) | terms of 1 % | largest share | negative |" + " share error |" * len(shared)
    ]
    lines.append("|---|---|---|---|---|---|" + "---|" * len(shared))
    for name in SETTINGS:
        own = [row for row in rows if row["setting"] == name]
        cost = [100 * (plain[tuple(row[k] for k in key)] - row["auc"]) for row in own]
        mean = {
            field: float(np.mean([row[field] for row in own])) for field in ("auc", "terms", "largest", "negative", *shared)
        }
        cells = [name, f"{100 * mean['auc']:.2f}", f"{np.mean(cost):+.2f} ({min(cost):+.2f} to {max(cost):+.2f})"]
        cells += [f"{mean['terms']:.1f}", f"{100 * mean['largest']:.0f} %", f"{mean['negative']:.1f}"]
        lines.append("| " + " | ".join(cells + [f"{mean[field]:.2f}" for field in shared]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path, help="Ped2 dataset folder; without it, planted bags")
    parser.add_argument("--resplits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=None, help="2 on Ped2, 3 on planted bags")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.dataset is None:
        chosen = range(10, 10 + (arguments.seeds or 3))
        result = [planted_row(kind, seed, name) for kind in KINDS for seed in chosen for name in SETTINGS]
        for kind in KINDS:
            print(f"\n{kind}\n{table([row for row in result if row['kind'] == kind])}")
        store("readable_operator-planted", {"rows": result})
    else:
        result = ped2_rows(arguments.dataset, arguments.resplits, arguments.seeds or 2)
        print(table(result))
        store("readable_operator-ped2", {"rows": result})
