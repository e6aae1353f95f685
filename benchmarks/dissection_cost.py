"""What a dissection costs end to end: a two-stream network of 10 layers, 2,000 images of 128 x 128, 40 concepts.

    python benchmarks/dissection_cost.py [--quick] [--threads N]

From pictures to the finished page: recording, alignment, intervals, nulls, similarities, tables. The network has random
weights and the pictures are rectangles, since neither changes what is counted. Memory is the most that the process ever held,
the pictures, labels and mapped files among it.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from lego_fusion.dissection.dissect import dissect
from lego_fusion.report.dissection_files import save_dissection
from measuring import store

IMAGES, SIDE, CONCEPTS = 2000, 128, 40
LEVELS = ((32, 2), (64, 2), (64, 1), (64, 2), (64, 1))  # channels and stride of the layers of each stream
TARGET_S, TARGET_GB = 300.0, 4.0
BATCH = 50


def stream(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for after, stride in LEVELS:
        layers.append(nn.Sequential(nn.Conv2d(channels, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()))
        channels = after
    return nn.Sequential(*layers)


class TwoStreams(nn.Module):
    """Ten layers, five in each stream."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = stream(3), stream(1)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """(B, 64, 16, 16)."""
        return self.rgb(rgb) + self.depth(depth)  # type: ignore[no-any-return]


class Rectangles:
    """Pictures of coloured rectangles and their labels, made once and handed out in batches."""

    def __init__(self, images: int) -> None:
        random = np.random.default_rng(0)
        colours, heights = random.random((CONCEPTS, 3)), random.random(CONCEPTS)
        self.labels = np.full((images, SIDE, SIDE), -1, dtype=np.int8)
        for image in range(images):
            for concept in random.integers(0, CONCEPTS, size=12):
                row, column = random.integers(0, SIDE - 16, size=2)
                height, width = random.integers(12, 48, size=2)
                self.labels[image, row : row + height, column : column + width] = concept
        self.colours = torch.from_numpy(np.concatenate([colours, [[0.5] * 3]])).float()
        self.heights = torch.from_numpy(np.concatenate([heights, [0.0]])).float()

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], np.ndarray]]:
        generator = torch.Generator().manual_seed(1)
        for start in range(0, len(self.labels), BATCH):
            labels = self.labels[start : start + BATCH]
            place = torch.from_numpy(np.where(labels < 0, CONCEPTS, labels).astype(np.int64))
            rgb, depth = self.colours[place].permute(0, 3, 1, 2), self.heights[place][:, None]
            noise = [0.05 * torch.randn(shape.shape, generator=generator) for shape in (rgb, depth)]
            yield {"rgb": rgb + noise[0], "depth": depth + noise[1]}, labels.astype(np.int64)


def measure(images: int) -> dict[str, Any]:
    """Seconds and gigabytes of one run."""
    torch.manual_seed(0)
    data, network = Rectangles(images), TwoStreams().eval()
    load = [os.getloadavg()[0]]
    steps: list[tuple[str, float]] = []
    wall, processor = time.perf_counter(), time.process_time()
    layers = {name: [f"{name}.{place}" for place in range(len(LEVELS))] for name in ("rgb", "depth")}
    names = [f"concept {place}" for place in range(CONCEPTS)]
    found = dissect(network, layers, data, names, on_step=lambda name: steps.append((name, time.perf_counter() - wall)))
    with tempfile.TemporaryDirectory() as folder:
        save_dissection(folder, found)
        page_mb = (Path(folder) / "dissection.html").stat().st_size / 2**20
    seconds, spent = time.perf_counter() - wall, time.process_time() - processor
    ends = [when for _, when in steps[1:]] + [seconds]
    return {
        "images": images,
        "layers": 2 * len(LEVELS),
        "units": 2 * sum(channels for channels, _ in LEVELS),
        "concepts": CONCEPTS,
        "seconds": round(seconds, 1),
        "processor_s": round(spent, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "load_before_and_after": [*load, os.getloadavg()[0]],  # above the number of cores, seconds tell of other work too
        "page_mb": round(page_mb, 1),
        "steps_s": {name: round(end - start, 1) for (name, start), end in zip(steps, ends, strict=True)},
        "target_s": TARGET_S,
        "target_gb": TARGET_GB,
    }


def main() -> int:
    """Measure, print, store; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, nothing is stored")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    row = measure(IMAGES // 10 if arguments.quick else IMAGES)
    Console(width=120).print(row)
    if not arguments.quick:
        store("dissection_cost", {"benchmark": "dissection_cost", "measures": [row]})
    return 1 if row["seconds"] >= TARGET_S or row["peak_gb"] >= TARGET_GB else 0


if __name__ == "__main__":
    sys.exit(main())
