"""Weights of a detector at several steps of its training, so that what it learned can be followed: ``RUN/snapshots``."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save

from ..errors import CheckpointError
from ..writing import written_whole
from .checkpoint import RunConfig, load_detector, read_tensors
from .detector import Detector

SNAPSHOTS = "snapshots"
_NAME = re.compile(r"step-(\d{5,})\.safetensors")


def save_snapshot(folder: str | Path, detector: Detector, step: int) -> Path:
    """Write the learned parameters (not the buffers, which training leaves alone) as ``step-00050.safetensors``."""
    path = Path(folder) / f"step-{step:05d}.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.named_parameters()}
    with written_whole(path) as file:
        file.write(save(tensors, metadata={"step": str(step)}))
    return path


def list_snapshots(run: str | Path) -> dict[int, Path]:
    """Step and file of each snapshot of a run folder, in the order of steps; empty where none was kept."""
    found = {}
    for path in sorted((Path(run) / SNAPSHOTS).glob("step-*.safetensors")):
        name = _NAME.fullmatch(path.name)
        if name:
            found[int(name[1])] = path
    return dict(sorted(found.items()))


def load_snapshot(run: str | Path, step: int) -> tuple[Detector, RunConfig]:
    """Load the detector of a finished run as it was after ``step`` steps, ready to score.

    Raises:
        CheckpointError: If the run is not finished, kept no snapshot of this step, or the file is of another model.
    """
    detector, config = load_detector(run)
    found = list_snapshots(run)
    if step not in found:
        have = ", ".join(str(one) for one in found) or "none"
        fix = "train with --snapshots STEPS" if not found else "choose one of these steps"
        raise CheckpointError(f"there is no snapshot of step {step}", where=run, got=have, fix=fix)
    tensors, _ = read_tensors(found[step])
    own = dict(detector.named_parameters())
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: tensor.shape for name, tensor in own.items()}:
        raise CheckpointError("the snapshot is of another model", where=found[step], fix="train again")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return detector, config


def clear_snapshots(run: str | Path) -> None:
    """Delete the snapshots of a run folder."""
    for path in list_snapshots(run).values():
        path.unlink()
