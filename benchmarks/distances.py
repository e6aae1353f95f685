"""Distances and nearest rows against a plain matrix product of the same size, torch's two forms of cdist, and faiss.

    python benchmarks/distances.py [--quick]

Everything of a row is timed in alternating rounds of one process, one thread. "Of a matrix product's rate" is the time
of ``x @ y.T`` alone over the time taken: centring, lengths, the product, and for the nearest also choosing them and measuring
them again. faiss is the exact flat index, timed where it is installed. The error is that against
differences in float64. Memory is the growth of the process's peak in a process of its own, as much as
the largest case of a real dataset needs: the rows are those of UCF-Crime's normal training videos (800 videos, 10 crops, 32
segments), read from a file; they are searched as rows of one another, and since memory does not depend on how many meet how
many, a part of them as rows of x is enough.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lego_fusion.graph.distances import nearest, prepare, squared_distances
from measuring import alternating, main_of_rows, median_ratio

ROWS, OTHERS, WIDTH, NEAREST = 2048, 8192, 512, 3
OFFSETS = (0.0, 1e3, 1e6)
LARGE, LARGE_WIDTH, ASKED = 256_000, 2048, 1024
QUICK_LARGE = 16_000


def made(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def relative_error(offset: float) -> float:
    """Largest error of an entry over |x_i - c|^2 + |y_j - c|^2, c the mean of y, against differences in float64."""
    x, y = (made(rows, WIDTH, seed) + offset for seed, rows in enumerate((64, 512)))
    exact = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    centre = y.double().mean(0)
    scale = (x - centre).square().sum(1)[:, None] + (y - centre).square().sum(1)
    return float(((squared_distances(x, y) - exact).abs() / scale).max())


def candidates() -> dict[str, Callable[[], object]]:
    """What is timed, all at one size."""
    x, y = made(ROWS, WIDTH, 0), made(OTHERS, WIDTH, 1)
    points = prepare(y)
    calls: dict[str, Callable[[], object]] = {
        "product": lambda: x @ y.T,
        "distances": lambda: squared_distances(x, y),
        "prepared": lambda: squared_distances(x, points),
        "cdist": lambda: torch.cdist(x, y),
        "nearest": lambda: nearest(x, y, NEAREST),
        "cdist, topk": lambda: torch.cdist(x, y).topk(NEAREST, largest=False),
    }
    flat = faiss_search(x.numpy(), y.numpy())
    return calls if flat is None else calls | {"faiss": flat}


def faiss_search(x: np.ndarray, y: np.ndarray) -> Callable[[], object] | None:
    """A search of faiss's flat index, or None where it is not installed."""
    try:
        import faiss  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    faiss.omp_set_num_threads(1)
    return lambda: faiss.knn(x, y, NEAREST)


def without_products() -> Callable[[], object]:
    """The form that subtracts all pairs, of an eighth of the rows: it takes as long as all the others together."""
    x, y = made(ROWS // 8, WIDTH, 0), made(OTHERS, WIDTH, 1)
    return lambda: torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def speed_rows(rounds: int) -> list[dict[str, Any]]:
    """Share of the rate of a product, and how many times faster than other forms."""
    seconds = alternating(candidates() | {"differences": without_products()}, rounds=rounds, warmup=1)
    seconds["differences"] = [8 * one for one in seconds["differences"]]
    milliseconds = {name: round(1e3 * median(values), 1) for name, values in seconds.items()}
    size = f"{ROWS:,} x {OTHERS:,} x {WIDTH}"
    rows: list[dict[str, Any]] = []
    for name, words, target in (
        ("distances", "squared distances", 0.6),
        ("prepared", "squared distances to prepared points", 0.6),
        ("nearest", f"{NEAREST} nearest, distances exact", None),
    ):
        share = median_ratio(seconds["product"], seconds[name])
        facts = {"target": target, "measured": share, "unit": "of a matrix product's rate", "roofline": share}
        rows.append({"name": f"{words}, {size}", **facts, "milliseconds": milliseconds})
    for name, other, words, target in (
        ("distances", "differences", "squared distances against cdist without products", 15.0),
        ("distances", "cdist", "squared distances against cdist by products (not centred)", None),
        ("nearest", "cdist, topk", f"{NEAREST} nearest against cdist by products and topk", None),
        ("nearest", "faiss", f"{NEAREST} nearest against faiss, flat index", None),
    ):
        measured = median_ratio(seconds[other], seconds[name]) if other in seconds else None
        rows.append({"name": f"{words}, {size}", "target": target, "measured": measured, "unit": "times faster"})
    return rows


def error_rows() -> list[dict[str, Any]]:
    """Largest error in float32, by the offset that all rows share."""
    return [
        {
            "name": f"largest error over |x - c|^2 + |y - c|^2, float32, {WIDTH} wide, all rows {offset:g} from the origin",
            "target": 1e-5,
            "measured": relative_error(offset),
            "unit": "at most",
        }
        for offset in OFFSETS
    ]


def memory_row(large: int) -> dict[str, Any]:
    """Growth of the peak while the nearest of many rows are found, without a copy of them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        rows = np.lib.format.open_memmap(path, "w+", np.float16, (large, LARGE_WIDTH))
        random = np.random.default_rng(0)
        for start in range(0, large, 4000):
            rows[start : start + 4000] = random.standard_normal((min(4000, large - start), LARGE_WIDTH), np.float32)
        rows.flush()
        found = json.loads(subprocess.check_output([sys.executable, __file__, "--peak", str(path)], text=True))
    name = f"peak memory of the {NEAREST} nearest of {large:,} rows {LARGE_WIDTH} wide, other groups only, beyond the inputs"
    facts = {"unit": "at most", "target": 2.0, "measured": found["gigabytes"], "gigabytes": found}
    return {**facts, "name": f"{name}, GB ({ASKED:,} asked for)"}


def peak(path: Path) -> dict[str, float]:
    """In a process of its own: read the rows, search, and see how far the peak has grown."""
    torch.set_num_threads(1)
    rows = torch.from_numpy(np.load(path))
    groups = torch.arange(len(rows)) // 320
    nearest(rows[:64], rows[:64], 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    nearest(rows[:ASKED], rows, NEAREST, exclude=(groups[:ASKED], groups))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs = rows.numel() * rows.element_size() / 1e9
    return {"gigabytes": (after - before) * 1024 / 1e9, "inputs": inputs, "peak": after * 1024 / 1e9}


def rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Every row of this benchmark: name, target, measured (None: not measured here), unit."""
    return [*speed_rows(3 if quick else 9), *error_rows(), memory_row(QUICK_LARGE if quick else LARGE)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(json.dumps(peak(Path(sys.argv[2]))))
        sys.exit(0)
    sys.exit(main_of_rows(__doc__, "distances", "distances and nearest rows, one thread", rows, quick_means="fewer rounds"))
