"""Time of one window through an exported detector in onnxruntime, beside the same window through torch, one thread.

    python benchmarks/scorer.py RUN

Target: under 1 ms per window.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch

from lego_fusion.alarm.export import export_run
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.scorer import Scorer
from measuring import alternating, store


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector, config = load_detector(options.run)
    widths = detector.fusion.modalities
    x = {
        name: np.random.default_rng(0).normal(size=(1, config.nodes, width)).astype(np.float32)
        for name, width in widths.items()
    }
    tensors = {name: torch.from_numpy(value) for name, value in x.items()}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        scorer = Scorer(export_run(options.run, folder)["onnx"])
        seconds = alternating({"onnxruntime": lambda: scorer.score(x), "torch": lambda: detector(tensors)}, rounds=200)
    milliseconds = {name: 1e3 * median(values) for name, values in seconds.items()}
    result = {"benchmark": "scorer", "window": {"nodes": config.nodes, "widths": widths}, "milliseconds": milliseconds}
    print({name: round(value, 3) for name, value in milliseconds.items()}, "target: onnxruntime under 1")
    print(f"stored: {store('scorer', result)}")


if __name__ == "__main__":
    main()
