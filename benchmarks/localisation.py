"""Where in the picture: heat maps of motion cells against the pixel masks of UCSD Ped2.

    python benchmarks/localisation.py DATASET MASKS [--resplits 10] [--videos FOLDER --figure FILE]

DATASET holds motion-cells, MASKS one <video>.npz with ``mask`` (frames, height, width) per abnormal video. Nothing is trained
for this: a cell's novelty depends on the known normal cells alone. Stored as benchmarks/results/localisation.json.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from known_answers.pixels import frame_heat_maps, heat_map, hit_rate, pointing_hits, scored_pixels
from lego_fusion.data.dataset import Dataset
from lego_fusion.data.video import VideoReader
from lego_fusion.fusion.base import Fusion
from lego_fusion.learn.bags import Bags, fit_frozen, load_bags
from lego_fusion.learn.methods import make_default_fusion, nearest_unit_distances
from lego_fusion.learn.splits import Split, own_split, resplits
from lego_fusion.measure.detection import micro_auc
from lego_fusion.measure.intervals import metric_interval
from lego_fusion.why.localise import heat_maps
from measuring import store

CELLS = "motion-cells"
METHODS = ("lego", "nearest-cells", "speed")
SHOWN = (("test_02", 100), ("test_04", 60), ("test_01", 90), ("test_12", 120))  # bicycle, cart, and two more


def fitted(dataset: Dataset, split: Split) -> tuple[Fusion, Bags]:
    """LEGO on motion cells with what it knows of a split's normal videos, and the training bags."""
    train = load_bags(dataset, [CELLS], split.train)
    fusion = make_default_fusion("lego", {CELLS: dataset.modalities[CELLS]})
    fit_frozen(fusion, train)
    return fusion, train


def maps(dataset: Dataset, fusion: Fusion, train: Bags, video: str) -> dict[str, Float[np.ndarray, "snippets rows columns"]]:
    """Heat of every cell of every snippet, by method; ``speed`` is its root mean square speed, nothing more."""
    grid = dataset.modalities[CELLS].grid or (1, 1)
    stored = np.array(dataset.features(CELLS, video))
    distances = nearest_unit_distances(train, torch.from_numpy(stored)[None], CELLS, grid[0])[0]
    shape = (len(stored), *grid)
    return {
        "lego": heat_maps(fusion, dataset, CELLS, video),
        "nearest-cells": distances.double().numpy().reshape(shape),
        "speed": stored[..., 0].astype(np.float64).reshape(shape),
    }


def measure(dataset: Dataset, split: Split, masks: Path, *, interval: bool) -> list[dict[str, Any]]:
    """Pixel AUC and pointing game of every method on the abnormal test videos of a split."""
    fusion, train = fitted(dataset, split)
    videos = [video for video in split.test if dataset.records[video].label == "abnormal"]
    pixels: dict[str, list[Any]] = {method: [] for method in METHODS}
    hits: dict[str, list[Any]] = {method: [] for method in (*METHODS, "chance")}
    for video in videos:
        mask = np.load(masks / f"{video}.npz", allow_pickle=False)["mask"]
        for method, heat in maps(dataset, fusion, train, video).items():
            by_frame = frame_heat_maps(heat, len(mask), dataset.config.snippet_frames, dataset.config.stride)
            pixels[method].append(scored_pixels(video, by_frame, mask))
            hit, chance = pointing_hits(video, by_frame, mask)
            hits[method].append(hit)
        hits["chance"].append(chance)
    rows = []
    for method in (*METHODS, "chance"):
        row: dict[str, Any] = {"split": split.name, "method": method, "videos": len(videos)}
        for name, metric, scored in (("pixel_auc", micro_auc, pixels.get(method)), ("pointing", hit_rate, hits[method])):
            if scored is None:
                continue
            row[name] = metric(scored)
            if interval:
                found = metric_interval(scored, metric)
                row |= {f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    return rows


def picture(path: Path, frame: int) -> np.ndarray:
    """One frame of a video, (h, w, 3)."""
    with VideoReader(path) as reader:
        return next(itertools.islice(iter(reader), frame, None)).image


def draw(dataset: Dataset, masks: Path, videos: Path, figure: Path) -> None:
    """Frames of some abnormal videos with the heat of their snippet, each by references of the other videos' own split."""
    pictures, truths = [], []
    for video, frame in SHOWN:
        own = own_split(dataset)
        split = Split("shown", tuple(name for name in own.train if name != video), ())
        fusion, _ = fitted(dataset, split)
        heat = heat_maps(fusion, dataset, CELLS, video)[frame // dataset.config.stride]
        pictures.append((f"{video}, frame {frame}", picture(videos / f"{video}.mp4", frame), heat))
        truths.append(np.load(masks / f"{video}.npz", allow_pickle=False)["mask"][frame])
    heat_map(figure, pictures, masks=truths)


def main() -> None:
    """Measure, print and store; draw where a figure is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--resplits", type=int, default=10)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset.open(options.dataset)
    own = measure(dataset, own_split(dataset), options.masks, interval=True)
    drawn = [
        row for split in resplits(dataset, options.resplits) for row in measure(dataset, split, options.masks, interval=False)
    ]
    lines = []
    print("| method | pixel AUC | pointing game | pixel AUC, re-splits | pointing game, re-splits |\n|---|---|---|---|---|")
    for row in own:
        line = dict(row)
        cells = []
        for name in ("pixel_auc", "pointing"):
            if name in row:
                values = [one[name] for one in drawn if one["method"] == row["method"]]
                line |= {f"{name}_resplits": float(np.mean(values)), f"{name}_deviation": float(np.std(values, ddof=1))}
                cells.append(f"{100 * row[name]:.1f} [{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]")
            else:
                cells.append("-")
        for name in ("pixel_auc", "pointing"):
            there = f"{name}_resplits" in line
            cells.append(f"{100 * line[f'{name}_resplits']:.1f} ± {100 * line[f'{name}_deviation']:.1f}" if there else "-")
        lines.append(line)
        print(f"| {row['method']} | {' | '.join(cells)} |")
    print(f"stored as {store('localisation', {'resplits': options.resplits, 'rows': lines}).name}")
    if options.figure and options.videos:
        draw(dataset, options.masks, options.videos, options.figure)


if __name__ == "__main__":
    main()
