"""What the degree-variance term does: its pull on the operator beside the bag loss's, and the AUC it ends at.

    python benchmarks/degree_variance.py ped2 PED2 [--resplits 5] [--seeds 2]
    python benchmarks/degree_variance.py scenes SCENES-1000 SCENES-1001 SCENES-1002 [--seeds 2]

Two fusions with a learned operator: the default's relations with one (``lego`` with ``operator="learned"``) and the paper's
reading. For each setting of alpha the share of entries that count and the norm of the term's gradient on A over that of the bag
loss, both at the end of a training without the term; and micro AUC and that of abnormal videos alone after training with
lambda. Nothing is chosen on these numbers. Stored as benchmarks/results/degree_variance-NAME.json.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.learn.bags import Bags, load_bags, segment_outputs, training_inputs
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import ModelShape, run_method, scored_videos
from lego_fusion.learn.objective import bag_loss, counted_entries, degree_variance
from lego_fusion.learn.splits import Split, own_split, resplits
from lego_fusion.measure.detection import abnormal_auc, micro_auc
from measuring import store

FUSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "default, learned operator": ("lego", {"operator": "learned"}),
    "paper": ("lego-paper", {}),
}
ALPHAS: dict[str, dict[str, float | None]] = {
    "0.8 (the paper's)": {"degree_threshold": 0.8},
    "quantile 0.9": {"degree_threshold": None, "degree_quantile": 0.9},
}
LAMBDAS = (0.1, 1.0, 10.0)


def pull(detector: Any, bags: Bags, config: TrainingConfig) -> dict[str, float]:
    """Share of the entries of normal bags that count, and the gradient norms on A, term over bag loss."""
    seen = training_inputs(detector.fusion, bags)
    output = segment_outputs(detector, detector.fusion, seen)
    graph, labels = output.graph, seen.bag_labels
    parameters = [one for one in detector.fusion.operator.parameters() if one.requires_grad]
    alpha = {"threshold": config.degree_threshold, "quantile": config.degree_quantile}
    counted = counted_entries(graph.detach(), labels, **alpha)[~labels] > 0
    norms = []
    for loss in (
        bag_loss(output.logits, labels, seen.mask, k=config.k).mean(),
        degree_variance(graph, labels, k=config.degree_k, **alpha),
    ):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        norms.append(float(torch.sqrt(sum((one.square().sum() for one in gradients if one is not None), torch.zeros(())))))
    return {"counted": float(counted.float().mean()), "pull": norms[1] / max(norms[0], 1e-30)}


def measured(dataset: Dataset, splits: Sequence[Split], seeds: int) -> list[dict[str, Any]]:
    names = list(dataset.modalities)
    bags = load_bags(dataset, names, [record.video for record in dataset.videos])
    rows = []
    for split in splits:
        for seed in range(seeds):
            for fusion, (method, options) in FUSIONS.items():
                plain = run_method(dataset, bags, split, names, method, TrainingConfig(seed=seed), ModelShape(options=options))
                facts = {"dataset": dataset.name, "split": split.name, "seed": seed, "fusion": fusion}
                aucs = [one(scored_videos(dataset, plain.node_scores)) for one in (micro_auc, abnormal_auc)]
                rows.append({**facts, "alpha": "none", "lambda": 0.0, "micro": aucs[0], "abnormal": aucs[1]})
                for alpha, changes in ALPHAS.items():
                    found = pull(plain.detector, bags.named(split.train), TrainingConfig(**changes))
                    for weight in LAMBDAS:
                        config = TrainingConfig(seed=seed, degree_variance=weight, **changes)
                        run = run_method(dataset, bags, split, names, method, config, ModelShape(options=options))
                        aucs = [one(scored_videos(dataset, run.node_scores)) for one in (micro_auc, abnormal_auc)]
                        named = {"alpha": alpha, "lambda": weight, "micro": aucs[0], "abnormal": aucs[1]}
                        rows.append({**facts, **named, **found})
        print(dataset.name, split.name, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Means by fusion, alpha and lambda."""
    lines = [
        "| fusion | alpha | lambda | entries that count | pull on A | micro | abnormal only |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["fusion"], row["alpha"], row["lambda"]) for row in rows):
        own = [row for row in rows if (row["fusion"], row["alpha"], row["lambda"]) == key]
        micro, abnormal = (100 * float(np.mean([row[name] for row in own])) for name in ("micro", "abnormal"))
        counted, pulled = (float(np.median([row.get(name, 0.0) for row in own])) for name in ("counted", "pull"))
        lines.append(f"| {key[0]} | {key[1]} | {key[2]:g} | {counted:.1%} | {pulled:.1e} | {micro:.1f} | {abnormal:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--resplits", type=int, default=0, help="0: the own split")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="no entry of the fused graph reaches alpha")
    rows = []
    for path in arguments.datasets:
        dataset = Dataset.open(path)
        splits = resplits(dataset, arguments.resplits) if arguments.resplits else [own_split(dataset)]
        rows += measured(dataset, splits, arguments.seeds)
    print(table(rows))
    store(f"degree_variance-{arguments.name}", {"benchmark": "degree_variance", "rows": rows})


if __name__ == "__main__":
    main()
