"""The faithfulness table of docs/interpretation.md: whether explanations are true to the model they explain.

    python benchmarks/faithfulness.py               planted bags, three kinds, seeds 10 to 12
    python benchmarks/faithfulness.py PED2          a Ped2 dataset folder (weak split), nodes of test anomalies

Explained are the terms of an operator: on planted bags that of the smallest readable model, on Ped2 that of the paper's
reading. (The parts of the default are those of a linear head: gradient x input of its readings is the parts themselves.)
Explained are abnormal nodes (spans: bags). What is replaced becomes the nearest known normal node's. Stored as
benchmarks/results/faithfulness-planted.json or -ped2.json.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import planted
from known_answers.agreement import logits_within, modality_shares, node_auc, order_shares, share_error
from known_answers.bags import KINDS
from lego_fusion.data.dataset import Dataset
from lego_fusion.data.segments import segment_bounds
from lego_fusion.explain.attribution import gradient_times_input, integrated_gradients, modality_shapley
from lego_fusion.explain.faithfulness import (
    Case,
    Faithfulness,
    Units,
    cell_units,
    edge_units,
    faithfulness_table,
    judge,
    modality_units,
    randomisation_check,
    reference_areas,
    replacement_for,
    span_units,
    summarise_cases,
)
from lego_fusion.explain.shapley import contributions
from lego_fusion.explain.terms import Terms, explain_nodes, mean_row, mean_sorted_row
from lego_fusion.fusion.networks import CrossAttention
from lego_fusion.learn.bags import Bags, load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import run_method
from lego_fusion.learn.splits import own_split
from measuring import store

Graphs = dict[str, Tensor]
METHODS = ("terms", "shapley", "gradient x input", "integrated gradients", "random")


@dataclass
class Setting:
    """One model, the inputs it is explained on, and known normal inputs."""

    detector: Detector
    inputs: Graphs  # graphs or features of V bags, (V, N, K or D)
    normal: Graphs
    cases: list[tuple[int, int, str]]  # bag, node, group
    attends: bool
    top: int
    replacement: str = "nearest"

    def score(self, node: int | None, detector: Detector | None = None) -> Callable[[Graphs], Tensor]:
        """Logit of a node, or the mean of the highest of a bag."""
        model = detector or self.detector

        def of(inputs: Graphs) -> Tensor:
            logits = model(inputs, cached=not self.attends).logits
            return logits.topk(min(self.top, logits.shape[1]), dim=1).values.mean(1) if node is None else logits[:, node]

        return of

    def bag(self, video: int) -> Graphs:
        """One bag, (1, N, K) by modality."""
        return {name: x[video : video + 1] for name, x in self.inputs.items()}

    def replaced(self, bag: Graphs) -> Graphs:
        """What stands for what is taken away."""
        ranked = self.replacement == "typical" and self.detector.fusion.row_order == "sorted"
        return replacement_for(bag, self.replacement, normal=self.normal, ranked=ranked)


def term_parts(detector: Detector, inputs: Graphs, normal: Graphs) -> Any:
    fusion: Any = detector.fusion
    ranked, base = fusion.row_order == "sorted", planted.terms(fusion, normal)
    known = mean_sorted_row(base) if ranked else mean_row(base)
    return explain_nodes(planted.terms(fusion, inputs), known, detector.head.first, detector.head.second, ranked=ranked)


def importances(setting: Setting, method: str, video: int, node: int | None, detector: Detector, draw: int) -> np.ndarray:
    """(M, N, K) parts of a bag's score, or of a node's; with attention the last axis is summed: (M, N, 1)."""
    bag = setting.bag(video)
    score = setting.score(node, detector)
    if method == "random":
        shape = (len(bag), *next(iter(bag.values())).shape[1:2], 1 if setting.attends else next(iter(bag.values())).shape[2])
        return np.random.default_rng([video, node or 0, draw]).random(shape)
    if method == "attention":
        fusion: Any = detector.fusion
        looked = defaultdict(lambda: torch.zeros(next(iter(bag.values())).shape[1]))
        with torch.no_grad():
            for by_other in fusion.attention(bag).values():
                for other, weights in by_other.items():
                    looked[other] = looked[other] + (weights[0].sum(0) if node is None else weights[0, node])
        return torch.stack([looked[name] for name in bag])[:, :, None].numpy()
    if method == "shapley":
        values = torch.from_numpy(modality_shapley(score, bag, setting.replaced(bag))[:, 0])
        return values[:, None, None].expand(len(bag), *next(iter(bag.values())).shape[1:]).numpy()
    if method == "terms":
        by_modality = term_parts(detector, bag, setting.normal).terms.by_modality()
        return torch.stack([by_modality[name][0] for name in bag]).detach().numpy()
    found = (
        gradient_times_input(score, bag)
        if method == "gradient x input"
        else integrated_gradients(score, bag, setting.replaced(bag), steps=32)
    )
    parts = [part[0].sum(-1, keepdim=True) if setting.attends else part[0] for part in found.parts.values()]
    return torch.stack(parts).numpy()


def units_of(setting: Setting, kind: str, video: int, node: int) -> Units:
    bag = setting.bag(video)
    replaced = setting.replaced(bag)
    if kind == "spans":
        return span_units(setting.score(None), bag, replaced)
    if setting.attends:
        return (cell_units if kind == "edges" else modality_units)(setting.score(node), bag, replaced)
    if kind == "edges":
        return edge_units(setting.score(node), bag, replaced, node=node)
    return modality_units(setting.score(node), bag, replaced)


def as_units(kind: str, parts: np.ndarray, node: int, attends: bool) -> np.ndarray:
    """(M, N, K) parts -> one importance per unit."""
    if kind == "spans":
        return parts.sum((0, 2))
    if kind == "edges":
        return parts.sum(2) if attends else parts[:, node]
    return parts.sum((1, 2)) if attends else parts[:, node].sum(1)


def measure(name: str, setting: Setting, methods: Iterable[str], agreement: dict[str, dict[str, float]]) -> list[Faithfulness]:
    """Every explanation of one model on its cases, units by units."""
    records = []
    for kind in ("edges", "spans", "modalities"):
        seen: set[int] = set()
        cases: dict[str, list[Case]] = defaultdict(list)
        groups = []
        for video, node, group in setting.cases:
            if kind == "spans" and video in seen:
                continue
            seen.add(video)
            units = units_of(setting, kind, video, node)
            references: Any = {way: reference_areas(units, way) for way in ("deletion", "insertion")}
            groups.append(group)
            for method in methods:
                parts = importances(setting, method, video, None if kind == "spans" else node, setting.detector, 0)
                cases[method].append(judge(units, as_units(kind, parts, node, setting.attends), references))
        for method in methods:
            if kind == "spans" and method == "shapley":
                continue  # the same for every node
            extra: dict[str, Any] = dict(agreement.get(method, {}))
            if kind == "edges":
                extra["randomisation"] = randomisation(setting, method)
            records.append(
                summarise_cases(method, name, kind, setting.replacement, cases[method], groups=groups, **extra)  # type: ignore[arg-type]
            )
    return records


def randomisation(setting: Setting, method: str, most: int = 12) -> float:
    draws = iter(range(1000))

    def explain(model: Any) -> np.ndarray:
        draw = next(draws)
        parts = [(importances(setting, method, v, n, model, draw), n) for v, n, _ in setting.cases[:most]]
        return np.stack([as_units("edges", part, n, setting.attends).ravel() for part, n in parts])

    return randomisation_check(explain, setting.detector, draws=3)


def planted_agreement(data: planted.Planted, setting: Setting) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Shares, places and order that each explanation finds, against what was planted."""
    truth, shares = data.truth, data.made.shares
    explained = term_parts(setting.detector, setting.inputs, setting.normal)
    orders = order_shares(explained)
    fusion: Any = setting.detector.fusion
    base = planted.terms(fusion, setting.normal)
    head = setting.detector.head
    dropped = contributions(
        lambda present: node_auc(logits_within(explained_terms(setting), base, head.first, head.second, present), truth),
        list(shares),
        removal="drop-term",
    )
    found: dict[str, dict[str, float]] = {
        "terms": {
            "share_error": share_error(modality_shares(explained), shares),
            "node_auc": node_auc(explained.nodes().total, truth),
        }
    }
    normal = replacement_for(setting.inputs, "typical", normal=setting.normal)  # the nearest would tell what it replaces
    for method in ("gradient x input", "integrated gradients"):
        parts: dict[str, list[Tensor]] = defaultdict(list)
        for node in range(truth.shape[1]):
            score = setting.score(node)
            one = (
                gradient_times_input(score, setting.inputs)
                if method == "gradient x input"
                else integrated_gradients(score, setting.inputs, normal, steps=32)
            )
            for name, value in one.by_modality().items():
                parts[name].append(value)
        found[method] = _agreement_of({name: torch.stack(value, 1) for name, value in parts.items()}, truth, shares)
    phi = np.stack([modality_shapley(setting.score(node), setting.inputs, normal) for node in range(truth.shape[1])], 2)
    found["shapley"] = _agreement_of(dict(zip(shares, torch.from_numpy(phi), strict=True)), truth, shares)
    facts = {
        "modality_shares": modality_shares(explained),
        "order": max(orders, key=lambda order: orders[order]),
        "planted_order": data.made.order,
        "cooperation": float(dropped.cooperation),
        "planted_cooperation": data.made.cooperation,
        "interaction_share": sum(v for k, v in support_shares(explained).items() if len(k) > 1),
    }
    return found, facts


def explained_terms(setting: Setting) -> Terms:
    fusion: Any = setting.detector.fusion
    return planted.terms(fusion, setting.inputs)


def support_shares(explained: Any) -> dict[tuple[str, ...], float]:
    from lego_fusion.explain.terms import variance_shares

    nodes = explained.nodes()
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for exponents, support in zip(nodes.exponents, nodes.supports, strict=True):
        found[support] += variance_shares(nodes)[exponents]
    return dict(found)


def _agreement_of(parts: dict[str, Tensor], truth: Tensor, planted_shares: dict[str, float]) -> dict[str, float]:
    """As for terms: share of a modality = cov(its part, sum of parts) / var(sum)."""
    total = torch.stack(list(parts.values())).sum(0).double()
    centred = total - total.mean()
    shares = {
        name: float(((part.double() - part.double().mean()) * centred).mean() / centred.square().mean())
        for name, part in parts.items()
    }
    return {"share_error": share_error(shares, planted_shares), "node_auc": node_auc(total, truth)}


def planted_setting(kind: Any, seed: int, method: str) -> tuple[planted.Planted, Setting, float]:
    data = planted.planted(kind, seed)
    training = planted.TRAINING.model_copy(update={"seed": seed})
    attends = method == "attention"
    if attends:
        training = training.model_copy(update={"operator_order_decay": 0.0, "steps": 600, "learning_rate": 3e-3})
    fusion = CrossAttention(data.widths, seed=seed) if attends else planted.readable(data, seed)
    detector = planted.trained(fusion, data, training)
    inputs, normal = data.test.inputs, data.normal.inputs
    if not attends:
        inputs, normal = fusion.transform(inputs), fusion.transform(normal)
    with torch.no_grad():
        auc = node_auc(detector(inputs, cached=not attends).logits, data.truth)
    cases = [(v, n, data.test.videos[v]) for v, n in data.truth.nonzero().tolist()][:12]
    return data, Setting(detector, inputs, normal, cases, attends, planted.ABNORMAL), auc


def run_planted(seeds: Iterable[int]) -> dict[str, Any]:
    rows, facts = [], []
    for kind in KINDS:
        for seed in seeds:
            data, setting, auc = planted_setting(kind, seed, "readable")
            agreement, found = planted_agreement(data, setting)
            facts.append({"kind": kind, "seed": seed, "auc": auc, **found})
            print(kind, seed, facts[-1], flush=True)
            rows += [(kind, seed, one) for one in measure("operator", setting, METHODS, agreement)]
            _, other, other_auc = planted_setting(kind, seed, "attention")
            facts[-1]["attention_auc"] = other_auc
            names = ("attention", "gradient x input", "integrated gradients", "random")
            rows += [(kind, seed, one) for one in measure("cross-attention", other, names, {})]
    return {"bags": facts, "rows": [{"kind": k, "seed": s, **dataclasses.asdict(r)} for k, s, r in rows]}


def run_ped2(path: Path, replacement: str) -> dict[str, Any]:
    dataset = Dataset.open(path)
    split, names = own_split(dataset), ["motion", "appearance", "text"]
    bags = load_bags(dataset, names, (*split.train, *split.test))
    test = bags.named([video for video in split.test if dataset.records[video].label == "abnormal"])
    train = bags.named(split.train)
    normal = train.select((~train.labels).nonzero()[:, 0])
    records = []
    for method in ("lego-paper", "cross-attention"):
        detector = run_method(dataset, bags, split, names, method, TrainingConfig()).detector
        if detector is None:
            raise TypeError(method)
        detector.eval()
        attends = method != "lego-paper"
        fusion: Any = detector.fusion
        inputs, known = (
            (test.inputs, normal.inputs) if attends else (fusion.transform(test.inputs), fusion.transform(normal.inputs))
        )
        cases = abnormal_nodes(dataset, test, detector, inputs, not attends)
        setting = Setting(detector, inputs, known, cases, attends, 3, replacement)
        explanations = ("attention", "gradient x input", "integrated gradients", "random") if attends else METHODS
        records += measure(method, setting, explanations, {})
    print(faithfulness_table(records))
    return {"split": split.name, "rows": [dataclasses.asdict(one) for one in records]}


def abnormal_nodes(
    dataset: Dataset, test: Bags, detector: Detector, inputs: Graphs, cached: bool
) -> list[tuple[int, int, str]]:
    """The four highest nodes of each abnormal video that lie in the anomaly."""
    with torch.no_grad():
        logits = detector(inputs, cached=cached).logits
    chosen = []
    for place, video in enumerate(test.videos):
        bounds, labels = segment_bounds(dataset.rows(video), logits.shape[1]), dataset.frame_labels(video)
        stride = dataset.config.stride
        inside = [bool(labels[min(int(bounds[n]) * stride, len(labels) - 1)]) for n in range(logits.shape[1])]
        ranked = [int(n) for n in logits[place].argsort(descending=True) if inside[int(n)]]
        chosen += [(place, node, video) for node in ranked[:4]]
    return chosen


def summary(rows: list[dict[str, Any]]) -> str:
    """Mean over kinds and seeds, with the range over the nine."""
    lines = ["| explanation | model | units | deletion | insertion | beats random | weights redrawn | share error | node AUC |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    keys = list(dict.fromkeys((row["model"], row["units"], row["explanation"]) for row in rows))
    for model, units, explanation in keys:
        own = [row for row in rows if (row["model"], row["units"], row["explanation"]) == (model, units, explanation)]
        cells = []
        for field in ("deletion", "insertion"):
            values = [row[field] for row in own]
            cells.append(f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        cells.append(f"{100 * np.mean([row['beats_random'] for row in own]):.0f} %")
        for field in ("randomisation", "share_error", "node_auc"):
            values = [row[field] for row in own if row[field] is not None]
            cells.append(f"{np.mean(values):.2f}" if values else "-")
        lines.append(f"| {explanation} | {model} | {units} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path, help="Ped2 dataset folder; without it, planted bags")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.dataset is None:
        result = run_planted(range(10, 10 + arguments.seeds))
        for kind in (*KINDS, None):
            print(f"\n{kind or 'all kinds'}")
            print(summary([row for row in result["rows"] if kind in (None, row["kind"])]))
        store("faithfulness-planted", result)
    else:
        store("faithfulness-ped2", {kind: run_ped2(arguments.dataset, kind) for kind in ("nearest", "typical")})
