"""Sequences that are not video: the utterances of one speaker as nodes, each with a label of its own (CMU-MOSI).

    python benchmarks/sequences.py [--data ../shared/data] [--seeds 5]

62 training videos of 9 to 55 utterances, padded and masked; text, audio and video features; the sentiment of every utterance.
All models: columns standardised by the training utterances, the same head (F -> 32 -> 1, ReLU, dropout 0.3), cross-entropy on
the real nodes, Adam 1e-3 with weight decay 1e-3, 8 videos a step, at most 200 epochs. 12 training videos, drawn anew for
each seed, decide which epoch is kept (lowest loss; stopped 30 epochs after it). The 31 test videos are scored once.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.elementwise import MLP, Add, Concat
from lego_fusion.fusion.networks import CrossAttention, GraphConvolution
from lego_fusion.fusion.paper import PaperFusion
from measuring import RESULTS, store

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NAMES = ("text", "audio", "video")
REFERENCE = "lego, G X and own features"
Widths = dict[str, int]
OURS: dict[str, Any] = {"centre": True, "zero_order": "ones", "form": "joint"}
MODELS: dict[str, Callable[[Widths, int, int], Fusion]] = {
    REFERENCE: lambda w, n, s: PaperFusion(w, nodes=n, rows="propagate", own_features=True, seed=s, **OURS),
    "lego, G X": lambda w, n, s: PaperFusion(w, nodes=n, rows="propagate", seed=s, **OURS),
    "concat": lambda w, n, s: Concat(w),
    "add": lambda w, n, s: Add(w, seed=s),
    "mlp": lambda w, n, s: MLP(w, seed=s),
    "cross-attention": lambda w, n, s: CrossAttention(w, seed=s),
    "graph-convolution": lambda w, n, s: GraphConvolution(w, seed=s),
    **{f"{name} alone": lambda w, n, s, name=name: Concat({name: w[name]}) for name in NAMES},  # type: ignore[misc]
}


class Sequences(NamedTuple):
    """Padded sequences: features (V, N, D) by name, labels (V, N) and a mask (V, N) that is True where a node exists."""

    features: dict[str, Tensor]
    labels: Tensor
    mask: Tensor
    names: list[str]

    def select(self, places: Tensor) -> Sequences:
        """Some of the sequences."""
        features = {name: x[places] for name, x in self.features.items()}
        return Sequences(features, self.labels[places], self.mask[places], [self.names[int(place)] for place in places])

    def nodes(self) -> tuple[dict[str, Tensor], Tensor]:
        """The real nodes as bags of one node each, and which sequence each is of: what statistics are fitted on."""
        real = {name: x[self.mask][:, None] for name, x in self.features.items()}
        return real, torch.arange(len(self.mask))[:, None].expand_as(self.mask)[self.mask]


def read_mosi(path: Path) -> tuple[Sequences, Sequences]:
    """Training and test videos of CMU-MOSI; columns have mean 0 and deviation 1 over the training utterances."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for name in NAMES:
        mean, deviation = arrays[f"{name}_train"].mean(0), arrays[f"{name}_train"].std(0)
        for part in ("train", "test"):
            arrays[f"{name}_{part}"] = (arrays[f"{name}_{part}"] - mean) / np.where(deviation > 1e-6, deviation, 1)
    segments = {part: [name.rpartition("_") for name in arrays[f"segment_{part}"]] for part in ("train", "test")}
    longest = max(max(np.unique([s[0] for s in one], return_counts=True)[1]) for one in segments.values())
    train, test = (_padded(arrays, part, segments[part], int(longest)) for part in ("train", "test"))
    return train, test


def _padded(arrays: dict[str, np.ndarray], part: str, segments: Sequence[tuple[str, str, str]], longest: int) -> Sequences:
    videos = sorted({video for video, _, _ in segments})
    features = {name: torch.zeros(len(videos), longest, arrays[f"{name}_{part}"].shape[1]) for name in NAMES}
    labels, mask = torch.zeros(len(videos), longest), torch.zeros(len(videos), longest, dtype=torch.bool)
    for place, video in enumerate(videos):
        rows = sorted((int(number), row) for row, (owner, _, number) in enumerate(segments) if owner == video)
        chosen = [row for _, row in rows]
        for name in NAMES:
            features[name][place, : len(rows)] = torch.from_numpy(arrays[f"{name}_{part}"][chosen]).float()
        labels[place, : len(rows)] = torch.from_numpy(arrays[f"y_{part}"][chosen]).float()
        mask[place, : len(rows)] = True
    return Sequences(features, labels, mask, videos)


def train(fusion: Fusion, sequences: Sequences, held_out: Sequences, seed: int, epochs: int = 200) -> tuple[nn.Module, int]:
    """Train fusion and head on labelled nodes; what had the lowest loss on the sequences held out is kept."""
    generator = torch.Generator().manual_seed(seed)
    real, owners = sequences.nodes()
    fusion.fit(real, torch.zeros(len(owners), dtype=torch.bool), owners)
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Linear(fusion.out_features, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 1))
    model = nn.ModuleDict({"fusion": fusion, "head": head})
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-3)
    best, kept, since = float("inf"), copy.deepcopy(model.state_dict()), 0
    for _ in range(epochs):
        model.train()
        for places in torch.randperm(len(sequences.mask), generator=generator).split(8):
            batch = sequences.select(places)
            adam.zero_grad()
            node_loss(model, batch).backward()
            adam.step()
        model.eval()
        with torch.no_grad():
            loss = float(node_loss(model, held_out))
        since += 1
        if loss < best:
            best, kept, since = loss, copy.deepcopy(model.state_dict()), 0
        if since >= 30:
            break
    model.load_state_dict(kept)
    return model.eval(), sum(one.numel() for one in model.parameters())


def node_logits(model: nn.Module, sequences: Sequences) -> Tensor:
    """Logit of every node, (V, N)."""
    nodes = model["fusion"](sequences.features, sequences.mask).nodes  # type: ignore[index]
    return model["head"](nodes)[..., 0]  # type: ignore[index, no-any-return]


def node_loss(model: nn.Module, sequences: Sequences) -> Tensor:
    """Mean cross-entropy over the real nodes."""
    logits = node_logits(model, sequences)[sequences.mask]
    return nn.functional.binary_cross_entropy_with_logits(logits, sequences.labels[sequences.mask])


@torch.no_grad()
def right(model: nn.Module, sequences: Sequences) -> np.ndarray:
    """Whether each real node is told right, as numbers, sequence by sequence."""
    told = (node_logits(model, sequences) > 0) == sequences.labels.bool()
    return told[sequences.mask].double().numpy()


def interval(values: np.ndarray, owners: np.ndarray, resamples: int = 2000) -> list[float]:
    """95 % bootstrap interval over sequences of the mean over nodes, in percent."""
    sums = np.bincount(owners, values)
    counts = np.bincount(owners)
    draws = np.random.default_rng(0).integers(0, len(sums), (resamples, len(sums)))
    means = 100 * sums[draws].sum(1) / counts[draws].sum(1)
    return [round(float(end), 2) for end in np.quantile(means, (0.025, 0.975))]


def measure_model(name: str, data: Path, seeds: int) -> tuple[dict[str, Any], np.ndarray]:
    """Accuracy of one model, mean over seeds; and the share of seeds that tell each test utterance right."""
    torch.set_num_threads(1)
    everyone, test = read_mosi(data / "mosi" / "mosi.npz")
    widths, nodes = {one: x.shape[-1] for one, x in everyone.features.items()}, everyone.mask.shape[1]
    by_seed, validation, size, started = [], [], 0, time.perf_counter()
    for seed in range(seeds):
        order = torch.randperm(len(everyone.mask), generator=torch.Generator().manual_seed(seed))
        held_out, rest = everyone.select(order[:12]), everyone.select(order[12:])
        model, size = train(MODELS[name](widths, nodes, seed), rest, held_out, seed)
        by_seed.append(right(model, test))
        validation.append(100 * right(model, held_out).mean())
    told = np.mean(by_seed, axis=0)
    facts = {"accuracy": 100 * told.mean(), "validation_accuracy": np.mean(validation)}
    line: dict[str, Any] = {key: round(float(value), 2) for key, value in facts.items()}
    line |= {"by_seed": [round(100 * float(one.mean()), 2) for one in by_seed], "parameters": size}
    line |= {"interval": interval(told, test.nodes()[1].numpy()), "seconds": round(time.perf_counter() - started, 1)}
    print(f"{name}: {line}", flush=True)
    return line, told


def measure(data: Path, seeds: int, workers: int) -> dict[str, dict[str, Any]]:
    """Every model, and how far the reference model is ahead of it on the same test utterances."""
    with ProcessPoolExecutor(workers) as pool:
        done = dict(zip(MODELS, pool.map(partial(measure_model, data=data, seeds=seeds), MODELS), strict=True))
    owners = read_mosi(data / "mosi" / "mosi.npz")[1].nodes()[1].numpy()
    for line, told in done.values():
        ahead = done[REFERENCE][1] - told
        line |= {"reference_minus_this": round(100 * float(ahead.mean()), 2), "difference_interval": interval(ahead, owners)}
    return {name: line for name, (line, _) in done.items()}


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """The models as a table."""
    table = ["| model | parameters | test accuracy | validation | first line minus this |", "|---|---|---|---|---|"]
    for name, line in found.items():
        low, high = line["interval"]
        difference = "-"
        if name != REFERENCE:
            ends = line["difference_interval"]
            difference = f"{line['reference_minus_this']:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]"
        accuracy = f"{line['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
        table.append(f"| {name} | {line['parameters']:,} | {accuracy} | {line['validation_accuracy']:.1f} | {difference} |")
    return "\n".join(table)


def main() -> None:
    """Measure and store, with the estimator of benchmarks/multiview.py on the same test utterances beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    found = measure(options.data, options.seeds, options.workers)
    print(markdown(found))
    stored = {"benchmark": "sequences", "dataset": "CMU-MOSI", "seeds": options.seeds, "models": found}
    other = RESULTS / "multiview.json"
    if other.is_file():
        accuracy = json.loads(other.read_text(encoding="utf-8"))["datasets"]["MOSI"]["methods"]["LegoClassifier"]["accuracy"]
        stored["classifier"] = {"accuracy": accuracy, "source": "benchmarks/results/multiview.json"}
        print(f"LegoClassifier, single utterances, on the same test utterances (benchmarks/multiview.py): {accuracy}")
    print(f"stored as {store('sequences', stored).relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
