"""UCF-Crime at its true size, once from files to trained and scored: seconds by stage, rates, peak memory.

    python benchmarks/ucf_scale.py FOLDER [--videos 1900] [--threads 1] [--keep]

The files are made at random in FOLDER (8.1 GB; a dataset that is there already is used again): 1,900 videos, 1,610 for training
of which 810 are abnormal, 290 for testing of which 140 are; T = 100 snippets; ``clip`` with 10 crops, 2,048 wide, and ``text``,
768 wide, both float16. Fewer ``--videos`` keep these proportions. Training (``train_run``, the default fusion) and scoring
(``evaluate_runs``) run in a process of their own, whose largest resident memory is taken; seconds by stage are those inside
calls of the stage's function there. "read" is every byte of the files the stage needs, nothing done with it, warm and cold
(dropped from the page cache before). "matrix" is a plain product of the frozen stage's size on as many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from dataset_reading import forget, read
from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from measuring import show_rows, store

ROWS, CROPS, WIDTHS, NODES = 100, 10, {"clip": 2048, "text": 768}, 32
VIDEOS, PARTS = 1900, {("train", "normal"): 800, ("train", "abnormal"): 810, ("test", "normal"): 150, ("test", "abnormal"): 140}
MOST_MEMORY = 8.0  # GB


def made_dataset(root: Path, videos: int, seed: int = 0) -> Dataset:
    """Files of the true shape; every video is another cut of the same random numbers, turned by another number of columns."""
    if (root / "dataset.yaml").is_file():
        return Dataset.open(root)
    random = np.random.default_rng(seed)
    manifests = {
        name: Manifest(modality=name, extractor="random", version="1", width=width, crops=CROPS if name == "clip" else 1)
        for name, width in WIDTHS.items()
    }
    frames, records, intervals = ROWS * 16, [], []
    for (split, label), count in PARTS.items():
        for index in range(max(2, round(count * videos / VIDEOS))):
            name = f"{split}_{label}_{index:04}"
            records.append(VideoRecord(name, label, frames, 30.0, split))
            if label == "abnormal":
                start = int(random.integers(0, frames - 160))
                intervals.append(Interval(name, start, start + int(random.integers(80, 160))))
    dataset = write_dataset(root, DatasetConfig(name="ucf-sized", modalities=manifests), records, intervals)
    base = {name: random.random((8 * ROWS, *one.row_shape), np.float32).astype(np.float16) for name, one in manifests.items()}

    def write(record: VideoRecord, first: int, turn: int) -> None:
        for name in WIDTHS:
            path = dataset.feature_file(name, record.video)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.roll(base[name][first : first + ROWS], turn, axis=-1))

    with ThreadPoolExecutor(2) as pool:
        firsts, turns = (random.integers(0, high, len(records)) for high in (7 * ROWS, min(WIDTHS.values())))
        list(pool.map(write, records, firsts.tolist(), turns.tolist()))
    os.sync()
    return dataset


class Stages:
    """Seconds inside calls of functions, by the name of a stage; a stage inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside = 0.0  # of stages inside the one that runs

    def watch(self, module: ModuleType, function: str, stage: str) -> None:
        """Time every call that the module makes of one of its functions."""
        plain: Callable[..., Any] = getattr(module, function)

        def timed(*args: Any, **options: Any) -> Any:
            outer, self.inside, started = self.inside, 0.0, time.perf_counter()
            try:
                return plain(*args, **options)
            finally:
                passed = time.perf_counter() - started
                self.seconds[stage] += passed - self.inside
                self.inside = outer + passed

        setattr(module, function, timed)


def product_rate(threads: int) -> float:
    """Multiply-adds a second of a plain matrix product as large as one of the frozen stage's."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2048, WIDTHS["clip"]), torch.randn(WIDTHS["clip"], 2048)
    best = float("inf")
    for _ in range(7):
        started = time.perf_counter()
        _ = a @ b
        best = min(best, time.perf_counter() - started)
    return a.shape[0] * a.shape[1] * b.shape[1] / best


def work(root: Path, run: Path, threads: int) -> dict[str, Any]:
    """Train and score, in this process."""
    from lego_fusion.learn import evaluation, runs, train

    torch.set_num_threads(threads)
    stages, dataset = Stages(), Dataset.open(root)
    stages.watch(runs, "_load", "files to segments, training")
    stages.watch(runs, "fit_frozen", "frozen stage, fit")
    stages.watch(train, "training_inputs", "frozen stage, readings")
    stages.watch(train, "_most_probable", "learned stage")
    stages.watch(runs, "_save", "saving the run")
    stages.watch(evaluation, "score_dataset", "files to scores, test")
    rate = product_rate(threads)
    started = time.perf_counter()
    runs.train_run(dataset, run, threads=threads)
    trained = time.perf_counter()
    evaluation.evaluate_runs([run], dataset)
    ended = time.perf_counter()
    stages.seconds |= {"training, all": trained - started, "scoring and measuring, all": ended - trained}
    used = resource.getrusage(resource.RUSAGE_SELF)
    units = json.loads((run / "config.json").read_text(encoding="utf-8"))["references"]
    return {
        "seconds": {name: round(one, 2) for name, one in stages.seconds.items()},
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gigabytes": round(used.ru_maxrss * 1024 / 1e9, 2),
        "references": len(units),
        "product_rate": [rate, product_rate(threads)],  # before and after
    }


def seconds_to_read(files: list[Path], threads: int, *, cold: bool) -> float:
    """Every byte of the files, once."""
    if cold:
        forget(files)
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, files))
    return time.perf_counter() - started


def measure(folder: Path, videos: int, threads: int) -> dict[str, Any]:
    """All of it, with the rates to compare with."""
    dataset = made_dataset(folder / f"ucf-{videos}", videos)
    shutil.rmtree(folder / "run", ignore_errors=True)
    records = {split: dataset.select(split=split) for split in ("train", "test")}
    files = {
        split: [dataset.feature_file(name, record.video) for record in chosen for name in WIDTHS]
        for split, chosen in records.items()
    }
    size = {split: sum(path.stat().st_size for path in paths) for split, paths in files.items()}
    reading = {(split, cold): seconds_to_read(files[split], threads, cold=cold) for split in files for cold in (True, False)}
    load = os.getloadavg()[0]
    command = [sys.executable, __file__, str(folder), "--videos", str(videos), "--threads", str(threads), "--work"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    nodes = len(records["train"]) * CROPS * NODES  # rows that meet the references
    products = 2 * nodes * found["references"] * sum(WIDTHS.values())  # distances and propagation
    frozen = found["seconds"]["frozen stage, fit"] + found["seconds"]["frozen stage, readings"]
    loading = found["seconds"]["files to segments, training"]
    kinds = {"warm": reading["train", False], "cold": reading["train", True]}
    return {
        "videos": len(dataset.videos),
        "bytes": size,
        "load_before": load,
        "seconds_to_read": {f"{split}, {'cold' if cold else 'warm'}": round(one, 2) for (split, cold), one in reading.items()},
        **found,
        "shares": {
            **{f"files to segments, of the {kind} read rate": one / loading for kind, one in kinds.items()},
            "frozen stage, of the product rate": products / frozen / max(found["product_rate"]),
        },
    }


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What is printed: stages, shares, memory."""
    stages = [{"name": name, "target": None, "measured": one, "unit": "s"} for name, one in found["seconds"].items()]
    shares = [{"name": name, "target": None, "measured": round(one, 3), "unit": "x"} for name, one in found["shares"].items()]
    memory = {"name": "peak resident memory, GB", "target": f"<= {MOST_MEMORY:g}", "measured": found["peak_gigabytes"]}
    return [*stages, *shares, {**memory, "unit": "at most", "met": found["peak_gigabytes"] <= MOST_MEMORY}]


def main() -> int:
    """Make the files, measure, print, store at the full size; with --strict 1 where memory is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the files and the run")
    parser.add_argument("--videos", type=int, default=VIDEOS, help="fewer than the true number, and nothing stored")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.folder / f"ucf-{options.videos}", options.folder / "run", options.threads)))
        return 0
    found = measure(options.folder, options.videos, options.threads)
    made = rows_of(found)
    show_rows(f"{found['videos']} videos, {sum(found['bytes'].values()) / 1e9:.1f} GB, {options.threads} threads", made)
    if options.videos == VIDEOS:
        store("ucf_scale", {"benchmark": "ucf_scale", "threads": options.threads, **found, "rows": made})
    if not options.keep:
        shutil.rmtree(options.folder / f"ucf-{options.videos}")
        shutil.rmtree(options.folder / "run")
    return int(options.strict and not made[-1]["met"])


if __name__ == "__main__":
    sys.exit(main())
