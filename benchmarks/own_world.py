"""A camera that nobody has calibrated: every video another camera, and no test camera in training.

    python benchmarks/own_world.py render FOLDER --weights ONNX    rendered scenes and their features, what is not there yet
    python benchmarks/own_world.py measure FOLDER                  all methods on them, with and without known normals
    python benchmarks/own_world.py planted                         planted bags, from one world for all to a world for each
    python benchmarks/own_world.py draw                            docs/images/own-world.png, from what is stored

Rendered videos last 90 to 100 s at 5 frames a second; an abnormal one has one event of 5 to 15 s. 60 videos test; the others of
``first`` and ``second`` (60), and ``more`` (180) train; ``known`` has one more, normal video of the cameras of the test videos.
The variable of regimes is the spread between cameras over the variation before one: planted for planted bags, measured by
``spread_ratio`` for rendered ones. Stored as benchmarks/results/own_world.json and own_world_planted.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.joining import join_datasets
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.extract.motion import Motion
from lego_fusion.extract.onnx import OnnxImage
from lego_fusion.extract.run import extract_dataset
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.learn.bags import Bags, fit_frozen, load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import UNLEARNED, ModelShape, make_default_fusion, run_method, scored_videos
from lego_fusion.learn.splits import Split, own_split
from lego_fusion.learn.train import fit, predict
from lego_fusion.measure.detection import abnormal_auc, macro_auc, micro_auc
from lego_fusion.scenes.render import render_scenes
from measuring import RESULTS, store

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "own-world.png"
OWN_DEGREE = "own degree of lego, untrained"
METHODS = ("lego", "lego-paper", "concat", "mlp", "cross-attention", "graph-convolution", "score-average")
NOT_LEARNED = (OWN_DEGREE, "nearest-neighbours")
VARIANTS: dict[str, dict[str, Any]] = {  # of the paper's reading: which of its options differ
    "paper, rows sorted": {"rows": "sorted"},
    "paper, R^(0) = 1": {"zero_order": "ones"},
    "paper, rows sorted, R^(0) = 1": {"rows": "sorted", "zero_order": "ones"},
    "paper, rows sorted, R^(0) = 1, centred": {"rows": "sorted", "zero_order": "ones", "centre": True},
    "paper, rows sorted, R^(0) = 1, Gaussian": {"rows": "sorted", "zero_order": "ones", "relations": "gaussian"},
    "paper, row statistics, R^(0) = 1, Gaussian": {"rows": "statistics", "zero_order": "ones", "relations": "gaussian"},
}
TEST = 60  # the first videos of ``first``; the others of it train
SETTINGS: dict[str, Any] = {"size": (80, 120), "fps": 5.0, "frames": (450, 500), "people": (3, 12), "camera_spread": 1.0}
SETTINGS |= {"kinds": ("fast", "wrong_way", "out_of_place"), "coverage": (0.05, 0.15), "intruders": (3, 6)}
SETS: dict[str, dict[str, Any]] = {
    "first": {"videos": 96, "seed": 4000},
    "second": {"videos": 24, "seed": 777},
    "known": {"videos": 60, "seed": 4002, "camera_seed": 4000, "abnormal": 1 / 60},
    "more": {"videos": 180, "seed": 4001},
}
SPREADS = (0.0, 0.25, 0.5, 1.0, 2.0)  # between worlds, planted; the variation within one is 0.5
OWN_NODES = 2.0  # how many nodes the usual variance counts for, beside those of the video itself
METRICS = {"micro": micro_auc, "abnormal": abnormal_auc, "macro": macro_auc}


@dataclass(frozen=True)
class Task:
    """Videos to train and test on, what they are called in a table, and whether each is standardised (``standardised``)."""

    name: str
    dataset: Dataset
    split: Split
    nodes: int
    by_video: bool = False


def render(folder: Path, weights: Path) -> None:
    """Render every set that is not there, and describe it by motion and appearance."""
    for name, chosen in SETS.items():
        if (folder / name / "dataset.yaml").exists():
            continue
        scenes = render_scenes(folder / f"{name}-videos", **SETTINGS, **chosen)
        extractors = {"motion": Motion(), "appearance": OnnxImage(weights, frames_per_snippet=1)}
        extract_dataset(scenes.folder, folder / name, extractors=extractors)
        print(name, flush=True)


def rendered_tasks(folder: Path, joined: Path) -> Iterator[Task]:
    """60 and 240 training videos, with and without known normals of the test cameras; and half as many, longer segments."""
    there = [name for name in SETS if (folder / name / "dataset.yaml").exists()]
    dataset = join_datasets([folder / name for name in there], joined).dataset
    by_set = {name: [one.video for one in dataset.videos if one.domain == name] for name in SETS}
    known = [video for video in by_set["known"] if dataset.records[video].label == "normal"]
    test, few = tuple(by_set["first"][:TEST]), by_set["first"][TEST:] + by_set["second"]
    for train in (few, few + by_set["more"])[: 2 if by_set["more"] else 1]:
        yield Task(f"{len(train)} videos", dataset, Split(f"own-{len(train)}", tuple(train), test), 32)
        if known:
            split = Split(f"known-{len(train)}", (*train, *known), test)
            yield Task(f"{len(train)} videos and known normals", dataset, split, 32)
    own = Split("own-standardised", tuple(few), test)
    yield Task(f"{len(few)} videos, standardised by video", dataset, own, 32, by_video=True)
    yield Task(f"{len(few)} videos, 16 segments", dataset, Split("own-long", tuple(few), test), 16)


@dataclass(frozen=True)
class Worlds:
    """How planted bags are drawn: ``between`` worlds, ``within`` one, and the ``shift`` of abnormal nodes, as deviations."""

    between: float
    within: float = 0.5
    shift: float = 2**0.5
    videos: int = 120
    nodes: int = 32
    width: int = 16


def planted_task(root: Path, worlds: Worlds, seed: int) -> Task:
    """Bags of two modalities, the first half to train on: each video has a vector of its own, and noise around it.

    Abnormal are 3 to 6 neighbouring nodes around another vector, ``shift`` away: that of another world as long as worlds are
    that far apart (a rotation towards it where they are further, so that all vectors have one distribution), and beyond all
    worlds where they are nearer. With ``between`` = 0 there is one world, known from the normal training bags; where it is
    shift / sqrt(2) or more, what is abnormal in one world is normal in another.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(worlds.videos) % 2 == 1
    spans = [(int(random.integers(0, worlds.nodes - 6)), int(random.integers(3, 7))) for _ in labels]
    names = ("alpha", "beta")
    manifests = {
        name: Manifest(modality=name, extractor="planted", version="1", width=worlds.width, snippet_frames=1, stride=1)
        for name in names
    }
    records, intervals = [], []
    for number, (label, (start, length)) in enumerate(zip(labels, spans, strict=True)):
        video = f"world_{number:03d}"
        for name in names:
            own, other = random.normal(size=(2, worlds.width))
            x = worlds.between * own + worlds.within * random.normal(size=(worlds.nodes, worlds.width))
            if label:
                x[start : start + length] += departure(own, other, worlds.between, worlds.shift)
            write_features(root, name, video, x.astype(np.float32))
        split = "train" if number < worlds.videos // 2 else "test"
        records.append(VideoRecord(video, "abnormal" if label else "normal", worlds.nodes, 1.0, split=split))
        intervals += [Interval(video, start, start + length, "planted")] if label else []
    config = DatasetConfig(name=root.name, snippet_frames=1, stride=1, modalities=manifests)
    dataset = write_dataset(root, config, records, intervals)
    return Task(f"planted, between {worlds.between:g}", dataset, own_split(dataset), worlds.nodes)


def departure(own: np.ndarray, other: np.ndarray, between: float, shift: float) -> np.ndarray:
    """From between * own to a vector as far away as ``shift``, see ``planted_task``."""
    if between > shift / 2**0.5:
        cosine = 1 - shift**2 / (2 * between**2)
        return between * ((cosine - 1) * own + (1 - cosine**2) ** 0.5 * other)
    return -between * own + (shift**2 - between**2) ** 0.5 * other


def standardised(bags: Bags, normal: Bags) -> Bags:
    """Every video relative to itself: (x - its mean) / deviation of the column, in it as far as that can be known.

    The variance is the mean of the video's own over N nodes and, with the weight of ``OWN_NODES`` nodes, that within normal
    training videos: what varies before one camera need not vary before another.
    """
    inputs = {}
    for name, x in bags.inputs.items():
        known = normal.inputs[name].double()
        usual = known.var(1, unbiased=False).mean(0)
        usual = (len(known) * usual + 4 * usual.mean()) / (len(known) + 4)
        own, nodes = x.double().var(1, unbiased=False, keepdim=True), x.shape[1]
        deviation = ((OWN_NODES * usual + nodes * own) / (OWN_NODES + nodes)).sqrt()
        inputs[name] = ((x.double() - x.double().mean(1, keepdim=True)) / deviation.clamp_min(1e-12)).float()
    return replace(bags, inputs=inputs)


def spread_ratio(bags: Bags) -> dict[str, float]:
    """Deviation between cameras over deviation before one, of normal videos, by modality.

    sqrt(sum of the variances of the video means / mean over videos of the sum of variances within), over columns divided by
    their deviation within videos (constant columns left out); 0 where all videos have one mean.
    """
    ratios = {}
    for name, x in bags.inputs.items():
        normal = x[~bags.labels].double()
        within = normal.var(1, unbiased=True).mean(0)
        columns = within > 1e-9 * within.mean()
        noise = within / normal.shape[1]  # the mean of a video varies by chance too
        between = (normal.mean(1).var(0, unbiased=True) - noise).clamp_min(0)
        ratios[name] = float((between[columns] / within[columns]).mean().sqrt())
    return ratios


def planted_rows(seeds: int) -> list[dict[str, Any]]:
    """All methods at every spread between worlds, each seed other bags."""
    rows = []
    for between, seed in itertools.product(SPREADS, range(seeds)):
        with tempfile.TemporaryDirectory() as folder:
            worlds = Worlds(between)
            task = planted_task(Path(folder) / "planted", worlds, seed)
            found = measure(task, (*METHODS, *NOT_LEARNED), 1, variants=True)
            rows += [row | {"planted_ratio": between / worlds.within, "seed": seed} for row in found]
    return rows


def measure(task: Task, methods: Sequence[str], seeds: int, *, variants: bool = False) -> list[dict[str, Any]]:
    """One row per method: the mean over seeds of each measure."""
    names = list(task.dataset.modalities)
    bags = load_bags(task.dataset, names, (*task.split.train, *task.split.test), nodes=task.nodes)
    train = bags.named(task.split.train)
    ratio = spread_ratio(train)
    if task.by_video:
        bags = standardised(bags, train.select((~train.labels).nonzero()[:, 0]))
    rows = []
    for method in (*methods, *(VARIANTS if variants else ())):
        count = 1 if method in (*UNLEARNED, *NOT_LEARNED, "lego") else seeds
        began = time.perf_counter()
        found = [_scores(task, bags, names, method, seed) for seed in range(count)]
        seconds = (time.perf_counter() - began) / count
        scored = [scored_videos(task.dataset, one) for one in found]
        row: dict[str, Any] = {"task": task.name, "nodes": task.nodes, "training_videos": len(task.split.train)}
        row |= {"method": method, "ratio": ratio, "seconds": seconds}
        row |= {name: float(np.mean([metric(one) for one in scored])) for name, metric in METRICS.items()}
        rows.append(row | {"micro_by_seed": [micro_auc(one) for one in scored]})
        print(task.name, method, *(f"{name} {100 * row[name]:.1f}" for name in METRICS), f"{seconds:.0f} s", flush=True)
    return rows


def _scores(task: Task, bags: Bags, names: Sequence[str], method: str, seed: int) -> dict[str, Tensor]:
    if method == OWN_DEGREE:
        return own_degree(task, bags, names)
    if method not in VARIANTS:
        config = TrainingConfig(seed=seed)
        return run_method(task.dataset, bags, task.split, names, method, config, ModelShape(nodes=task.nodes)).node_scores
    train, test = bags.named(task.split.train), bags.named(task.split.test)
    manifests = {name: task.dataset.modalities[name] for name in names}
    fusion = make_default_fusion("lego-paper", manifests, nodes=task.nodes, seed=seed, options=VARIANTS[method])
    fit_frozen(fusion, train)
    detector = Detector(fusion, seed=seed)
    fit(detector, train, TrainingConfig(seed=seed))
    return dict(zip(test.videos, predict(detector, test).double(), strict=True))


def own_degree(task: Task, bags: Bags, names: Sequence[str]) -> dict[str, Tensor]:
    """The third reading of ``lego`` by itself, nothing learned: how unlike the rest of its own video is a segment."""
    train, test = bags.named(task.split.train), bags.named(task.split.test)
    fusion = LegoFusion({name: task.dataset.modalities[name].width for name in names})
    fit_frozen(fusion, train)
    _, inside = fusion.frozen.usual(fusion.readings(test.inputs))
    return dict(zip(test.videos, inside.sum((-1, -2)).double(), strict=True))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A line per method, micro / abnormal-only / macro AUC in percent by task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    found = {(row["method"], row["task"]): row for row in rows}
    table = [f"| method | {' | '.join(tasks)} |", "|---" * (1 + len(tasks)) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [
            " / ".join(f"{100 * found[method, task][name]:.1f}" for name in METRICS) if (method, task) in found else "-"
            for task in tasks
        ]
        table.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(table)


def with_stored(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """New rows, and those stored of tasks that were not measured this time."""
    stored = RESULTS / f"{name}.json"
    kept = json.loads(stored.read_text(encoding="utf-8"))["rows"] if stored.exists() else []
    measured = {row["task"] for row in rows}
    return [row for row in kept if row["task"] not in measured] + rows


def draw(image: Path) -> None:
    """AUC against the spread between worlds over the variation within one, planted; rendered scenes beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    planted = json.loads((RESULTS / "own_world_planted.json").read_text(encoding="utf-8"))["rows"]
    rendered = json.loads((RESULTS / "own_world.json").read_text(encoding="utf-8"))["rows"]
    shown = {"lego": "C0", "lego-paper": "C1", "paper, rows sorted": "C4", "nearest-neighbours": "C2", "mlp": "C3"}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), width_ratios=(1, 1))
    ratios = sorted({row["planted_ratio"] for row in planted})
    for method, colour in shown.items():
        groups = [
            [row["micro"] for row in planted if row["method"] == method and row["planted_ratio"] == one] for one in ratios
        ]
        left.plot(ratios, [100 * np.mean(group) for group in groups], "o-", color=colour, label=method)
    left.axhline(50, color="0.7", linewidth=1)
    left.set(
        xlabel="spread between worlds / variation within one", ylabel="micro AUC, %", title="planted: known world to own world"
    )
    left.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 0.78))
    raw = {row["method"]: row for row in rendered if row["task"] == "60 videos"}
    own = {row["method"]: row for row in rendered if row["task"] == "60 videos, standardised by video"}
    names = sorted(raw, key=lambda name: own[name]["micro"])
    place = np.arange(len(names))
    right.barh(place + 0.2, [100 * own[name]["micro"] for name in names], 0.4, color="C0", label="standardised by video")
    right.barh(place - 0.2, [100 * raw[name]["micro"] for name in names], 0.4, color="0.7", label="as extracted")
    right.set_yticks(place, [name.removesuffix(", untrained") for name in names], fontsize=7)
    right.legend(fontsize=8, loc="lower right")
    right.axvline(50, color="0.3", linewidth=1)
    right.set(xlabel="micro AUC, %", title="rendered: every video another camera")
    figure.tight_layout()
    figure.savefig(image, dpi=110)


def main() -> None:
    """Render, measure or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("render", "measure", "planted", "draw"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="measure tasks with this in their name; stored rows of others stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "render":
        render(options.folder, options.weights)
    elif options.what == "measure":
        with tempfile.TemporaryDirectory() as joined:
            rows = []
            for task in rendered_tasks(options.folder, Path(joined) / "own-world"):
                if options.only and options.only not in task.name:
                    continue
                rows += measure(task, (*METHODS, *NOT_LEARNED, "flow-energy"), options.seeds, variants=True)
        rows = with_stored("own_world", rows)
        print(markdown(rows))
        store("own_world", {"benchmark": "own_world", "seeds": options.seeds, "rows": rows})
    elif options.what == "planted":
        rows = planted_rows(options.seeds)
        print(markdown(rows))
        store("own_world_planted", {"benchmark": "own_world_planted", "seeds": options.seeds, "rows": rows})
    else:
        draw(IMAGE)


if __name__ == "__main__":
    main()
