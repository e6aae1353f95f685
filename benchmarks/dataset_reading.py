"""From feature files to cached graphs and to scores, against reading the same files: cold, in one run, alternating.

    python benchmarks/dataset_reading.py [--quick | --full]

Files of UCF-Crime's shape: T = 100 snippets, 10 crops, 2,048 wide, and text 768 wide without crops, float32; 95 videos by
default (1/20 of that dataset), 1,900 with --full (16 GB in the temporary folder). Before every timing the files leave the page
cache (posix_fadvise, which needs no right but works file by file). "read" is what the machine gives: every byte of every file,
as many threads, nothing done with it. "readings" and "graphs" are the whole of ``cached_graphs`` of the default and of the
paper's reading: resampling, fitting the frozen stage, what it makes of all videos, the file on disk. "score" is
``score_dataset`` with a saved model. Latency is one video alone, its file in memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, VideoRecord
from lego_fusion.fusion.base import Fusion
from lego_fusion.learn.bags import load_bags
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.graph_cache import cached_graphs
from lego_fusion.learn.methods import make_default_fusion
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset
from lego_fusion.learn.splits import own_split
from lego_fusion.learn.train import predict
from measuring import store

ROWS, CROPS, WIDTHS = 100, 10, {"video": 2048, "text": 768}
VIDEOS, FULL, TRAINED = 95, 1900, 0.85
THREADS = min(4, os.cpu_count() or 1)
TARGET = 0.5


def made_dataset(root: Path, videos: int) -> Dataset:
    """Videos of one shape with features of their own; every other one is abnormal."""
    manifests = {
        name: Manifest(modality=name, extractor="made", version="1", width=width, crops=CROPS if name == "video" else 1)
        for name, width in WIDTHS.items()
    }
    records = [
        VideoRecord(f"v{i:04}", ("normal", "abnormal")[i % 2], ROWS * 16, 30.0, "train" if i < TRAINED * videos else "test")
        for i in range(videos)
    ]
    dataset = write_dataset(root, DatasetConfig(name="made", modalities=manifests), records, [])
    random = np.random.default_rng(0)
    base = {name: random.random((ROWS + videos, *manifest.row_shape), np.float32) for name, manifest in manifests.items()}
    for place, record in enumerate(records):
        for name in WIDTHS:
            path = dataset.feature_file(name, record.video)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, base[name][place : place + ROWS])
    os.sync()
    return dataset


def feature_files(dataset: Dataset) -> list[Path]:
    return [dataset.feature_file(name, record.video) for record in dataset.videos for name in WIDTHS]


def forget(files: list[Path]) -> None:
    """Let the files leave the page cache."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(path: Path) -> int:
    """Every byte of a file, into one small buffer."""
    size, buffer = 0, bytearray(2**22)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
    return size


def cold(files: list[Path], work: Callable[[], object]) -> float:
    forget(files)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(dataset: Dataset, folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each, and the latency of single videos."""
    files = feature_files(dataset)
    split = own_split(dataset)
    size = sum(path.stat().st_size for path in files)

    def graphs(fusion: Fusion) -> Callable[[], object]:
        def build() -> None:
            shutil.rmtree(folder / "graphs", ignore_errors=True)
            cached_graphs(dataset, fusion, split.train, split.test, cache=folder / "graphs", threads=THREADS)

        return build

    def read_all() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, files))

    train_run(dataset, folder / "run", training=TrainingConfig(steps=0), cache=folder / "kept")
    videos = [record.video for record in dataset.videos]
    candidates: dict[str, Callable[[], object]] = {
        "read": read_all,
        "readings": graphs(make_default_fusion("lego", dataset.modalities)),
        "graphs, the paper's": graphs(make_default_fusion("lego-paper", dataset.modalities)),
        "score": lambda: score_dataset(folder / "run", dataset, videos),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, work in candidates.items():
            seconds[name].append(cold(files, work))
    detector, config = load_detector(folder / "run")
    latency = []
    for video in videos[:20]:
        read(dataset.feature_file("video", video))
        started = time.perf_counter()
        predict(detector, load_bags(dataset, list(WIDTHS), [video], nodes=config.nodes, threads=1))
        latency.append(time.perf_counter() - started)
    return {"bytes": size, "videos": len(videos), "seconds": seconds, "latency_ms": [round(1e3 * one, 1) for one in latency]}


def measured_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Share of the read rate that each reaches, by rounds; and the latency of a video, which has no target."""
    seconds = found["seconds"]
    what = {
        "readings": "the default's frozen stage, cached, rate over read rate, cold",
        "graphs, the paper's": "cached graphs (the paper's relations), rate over read rate, cold",
        "score": "scoring a dataset folder, rate over read rate, cold",
    }
    rows = [
        {
            "name": text,
            "target": TARGET if name != "score" else 1.0,
            "measured": round(median(r / t for r, t in zip(seconds["read"], seconds[name], strict=True)), 3),
            "unit": "of the read rate",
        }
        for name, text in what.items()
    ]
    latency = median(found["latency_ms"])
    return [*rows, {"name": "scoring one video of 10 crops, warm", "target": None, "measured": latency, "unit": "ms"}]


def rows(videos: int = VIDEOS, rounds: int = 3) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The measured rows, and what they come from."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(made_dataset(Path(folder) / "dataset", videos), Path(folder), rounds)
    return measured_rows(found), found


def main() -> int:
    """Measure, print, store; with --strict 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer videos and rounds, and nothing stored")
    parser.add_argument("--full", action="store_true", help="all 1,900 videos")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    options = parser.parse_args()
    made, found = rows(20 if options.quick else FULL if options.full else VIDEOS, 1 if options.quick else 5)
    rate = {name: round(found["bytes"] / median(times) / 1e6) for name, times in found["seconds"].items()}
    table = Table(title=f"{found['videos']} videos, {found['bytes'] / 1e9:.2f} GB, {THREADS} threads; MB/s: {rate}")
    for heading in ("what", "measured", "target", ""):
        table.add_column(heading)
    for row in made:
        met = "" if row["target"] is None else "met" if row["measured"] >= row["target"] else "MISSED"
        table.add_row(row["name"], f"{row['measured']:g} {row['unit']}", str(row["target"] or ""), met)
    Console(width=120).print(table)
    if not options.quick:
        facts = {"benchmark": "dataset_reading", "load": os.getloadavg()[0], "threads": THREADS, "megabytes_per_second": rate}
        store("dataset_reading", {**facts, **found, "rows": made})
    return int(options.strict and any(row["target"] and row["measured"] < row["target"] for row in made))


if __name__ == "__main__":
    sys.exit(main())
