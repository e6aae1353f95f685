"""How cost grows: with nodes, orders, modalities and videos; how fast a video is scored; what A looks like at high order.

    python benchmarks/scaling.py [--quick] [--video CLIP.mp4]

Each row doubles one size and leaves the others: graphs (cosine, features 256 wide), operator forward and backward, all in one
run on one thread, median of alternating rounds. With a video: seconds to extract motion and to score, against its length.
The orders are read on bags with a planted outlier in one of two modalities, trained from several seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lego_fusion.explain.terms import coefficient_spread, operator_terms, variance_shares
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.graph.operator import GraphOperator
from lego_fusion.graph.relationship import cosine_graph
from lego_fusion.learn.bags import Bags, fit_frozen, training_inputs
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.train import fit, predict
from measuring import alternating, store

WIDTH = 256
BASE = {"bags": 8, "nodes": 128, "order": 2, "modalities": 2}
GROWING: dict[str, tuple[int, ...]] = {
    "nodes": (128, 256, 512, 1024),
    "order": (2, 4, 8, 16),
    "modalities": (2, 4, 8),
    "bags": (8, 16, 32, 64),
}


def step(bags: int, nodes: int, order: int, modalities: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Making the graphs of one size, and one forward and backward of the operator over them."""
    generator = torch.Generator().manual_seed(0)
    names = [f"m{index}" for index in range(modalities)]
    features = {name: torch.randn(bags, nodes, WIDTH, generator=generator) for name in names}
    graphs = {name: cosine_graph(x) for name, x in features.items()}
    operator = GraphOperator(names, order)

    def relate() -> list[Tensor]:
        return [cosine_graph(x) for x in features.values()]

    def fuse() -> None:
        operator.zero_grad()
        operator(graphs).square().mean().backward()

    return relate, fuse


def growth(rounds: int) -> list[dict[str, Any]]:
    """Seconds for each size, beside those of the base size measured in the same rounds."""
    rows = []
    for what, sizes in GROWING.items():
        candidates: dict[str, Callable[[], object]] = {}
        for size in sizes:
            candidates[f"relate {size}"], candidates[f"fuse {size}"] = step(**(BASE | {what: size}))
        seconds = alternating(candidates, rounds=rounds)
        for size in sizes:
            row: dict[str, Any] = {"growing": what, "size": size}
            for part in ("relate", "fuse"):
                taken = seconds[f"{part} {size}"]
                base = seconds[f"{part} {sizes[0]}"]
                row[part] = median(taken)
                row[f"{part}_ratio"] = median(a / b for a, b in zip(taken, base, strict=True))
            rows.append(row)
            print(
                f"{what:>10} {size:>5}: graphs {1e3 * row['relate']:8.1f} ms ({row['relate_ratio']:5.1f} x), "
                f"operator forward + backward {1e3 * row['fuse']:8.1f} ms ({row['fuse_ratio']:5.1f} x)"
            )
    return rows


def planted(videos: int = 80, nodes: int = 16, seed: int = 0) -> Bags:
    """Bags in which three segments of an abnormal one leave the normal cluster in ``motion``; ``text`` says nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(videos) % 2 == 1
    centre = torch.zeros(8)
    centre[0] = 3.0
    motion = centre + 0.5 * torch.randn(videos, nodes, 8, generator=generator)
    text = centre + 0.5 * torch.randn(videos, nodes, 8, generator=generator)
    for video in labels.nonzero()[:, 0].tolist():
        places = torch.randperm(nodes, generator=generator)[:3]
        motion[video, places] = 3.0 * torch.nn.functional.normalize(torch.randn(3, 8, generator=generator), dim=-1)
    return Bags(tuple(f"v{i}" for i in range(videos)), labels, 1, {"motion": motion, "text": text})


def high_orders(orders: tuple[int, ...], seeds: int) -> list[dict[str, Any]]:
    """For each order: bag AUC on unseen bags, what each order accounts for, and how alike A is from seed to seed."""
    from sklearn.metrics import roc_auc_score

    train, test = planted(seed=0), planted(seed=1)
    rows = []
    for order in orders:
        operators, aucs, shares = [], [], []
        for seed in range(seeds):
            options = {"relations": "gaussian", "zero_order": "ones", "form": "joint", "rows": "sorted"}
            fusion = PaperFusion({"motion": 8, "text": 8}, nodes=16, order=order, seed=seed, **options)
            fit_frozen(fusion, train)
            detector = Detector(fusion, seed=seed)
            fit(detector, train, TrainingConfig(steps=300, learning_rate=1e-2, seed=seed))
            bag_scores = predict(detector, test).topk(3, dim=1).values.mean(1)
            aucs.append(float(roc_auc_score(test.labels.numpy(), bag_scores.numpy())))
            graphs = training_inputs(fusion, train).inputs
            by_term = variance_shares(operator_terms(fusion.operator, graphs))
            by_order: dict[int, float] = {}
            for exponents, share in by_term.items():
                by_order[sum(exponents)] = by_order.get(sum(exponents), 0.0) + share
            motion = sum(share for exponents, share in by_term.items() if exponents[0] and not exponents[1])
            shares.append((motion, by_order))
            operators.append(fusion.operator)
        spread = coefficient_spread(operators)
        row = {
            "order": order,
            "coefficients": len(spread.exponents),
            "auc": sum(aucs) / seeds,
            "motion_share": sum(share for share, _ in shares) / seeds,
            "first_order_share": sum(by_order.get(1, 0.0) for _, by_order in shares) / seeds,
            "sign_agreement": float(spread.agreement.mean()),
            "relative_deviation": float(spread.deviation.norm() / spread.mean.norm()),
        }
        rows.append(row)
        print(
            f"order {order:>2}: {row['coefficients']:>3} coefficients, bag AUC {100 * row['auc']:.1f}, motion alone accounts "
            f"for {100 * row['motion_share']:.0f} % of the variation, order 1 for {100 * row['first_order_share']:.0f} %; "
            f"signs agree over {seeds} seeds for {100 * row['sign_agreement']:.0f} % of the coefficients, "
            f"deviation {row['relative_deviation']:.2f} of their size"
        )
    return rows


def real_time(video: Path) -> dict[str, float]:
    """Seconds to describe a video by motion and to score its segments, against how long it lasts."""
    from lego_fusion.data.segments import to_segments
    from lego_fusion.extract.describe import describe_video
    from lego_fusion.extract.motion import Motion

    started = time.perf_counter()
    described = describe_video(video, {"motion": Motion()}, captions=None, snippet_frames=16, stride=16)
    extraction = time.perf_counter() - started
    rows = described.features["motion"].values
    segments = torch.from_numpy(to_segments(rows, 32))[None]
    known = Bags(("a", "b", "c"), torch.tensor([False, False, True]), 1, {"motion": segments.repeat(3, 1, 1)})
    fusion = LegoFusion({"motion": rows.shape[1]})
    fit_frozen(fusion, known)
    detector, one = Detector(fusion), Bags(("a",), torch.tensor([False]), 1, {"motion": segments})
    scoring = median(_timed(lambda: predict(detector, one)) for _ in range(30))
    found = {
        "frames": float(described.decoded.frames),
        "fps": described.decoded.fps,
        "extraction": extraction,
        "score": scoring,
    }
    per_second = found["frames"] / extraction
    print(
        f"{video.name}: motion at {per_second:.0f} frames/s ({per_second / found['fps']:.1f} x the video's rate), "
        f"scoring 32 segments {1e3 * scoring:.2f} ms"
    )
    return found


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--video", type=Path, action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"base": BASE, "width": WIDTH, "growth": growth(3 if options.quick else 11)}
    result["orders"] = high_orders((1, 2) if options.quick else (1, 2, 4, 8), 2 if options.quick else 5)
    result["videos"] = [real_time(video) for video in options.video]
    if not options.quick:
        print(f"stored: {store('scaling', result)}")


if __name__ == "__main__":
    main()
