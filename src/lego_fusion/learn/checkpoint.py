"""Saved detectors, their snapshots and interrupted runs: tensors in safetensors, the rest in JSON, nothing that runs code."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..data.manifest import Manifest
from ..errors import CheckpointError, LegoFusionError, ParameterError
from ..fusion.registry import make_fusion
from ..measure.smoothing import MOST_SECONDS
from ..writing import written_whole
from .detector import Detector

if TYPE_CHECKING:
    from .configuration import TrainingState


FORMAT = 2


class RunConfig(BaseModel):
    """What a saved detector is and where it comes from: ``config.json`` of a run folder.

    Args:
        format: Version of the layout of a run folder.
        lego_fusion: Version of the package that wrote it.
        detector: Fusion and head, as ``Detector.config`` returns them.
        nodes: N, segments per video, or of a window.
        segment_snippets: Snippets of a segment where segments have a fixed duration (``bags``); None where every video is
            cut into N equal spans.
        smoothing: Of its scores, in seconds (``measure.smoothing``); a run that does not say has none.
        manifests: Of every modality, in the fusion's order; features made in another way are refused.
        training: The training configuration.
        dataset: Name, hash, split and lists of videos that it was trained on.
        references: Where each reference unit comes from: video and first and last frame.
        weights_hash: SHA-256 of ``model.safetensors``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    lego_fusion: str
    detector: dict[str, JsonValue]
    nodes: int = Field(ge=1)
    segment_snippets: int | None = Field(default=None, ge=1)
    smoothing: float = Field(default=0.0, ge=0, le=MOST_SECONDS)
    manifests: dict[str, Manifest]
    training: dict[str, JsonValue]
    dataset: dict[str, JsonValue]
    references: list[dict[str, JsonValue]] = Field(default_factory=list)
    weights_hash: str = ""

    def require_equal_spans(self, doing: str) -> None:
        """Raise ``ParameterError`` where segments have a fixed duration and ``doing`` is for N equal spans of each video."""
        if self.segment_snippets is not None:
            expected, fix = "a model trained without --segment-snippets", "train another one for this"
            got = f"segments of {self.segment_snippets} snippets"
            raise ParameterError(
                f"{doing} is for models that cut each video into equal spans", expected=expected, got=got, fix=fix
            )


def save_detector(folder: Path, detector: Detector, config: RunConfig) -> None:
    """Write ``model.safetensors`` and, last, ``config.json`` with its hash; each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous() for name, tensor in detector.state_dict().items()})
    with written_whole(folder / "model.safetensors") as file:
        file.write(weights)
    stored = config.model_copy(update={"weights_hash": hashlib.sha256(weights).hexdigest()})
    with written_whole(folder / "config.json") as file:
        file.write(stored.model_dump_json(indent=2).encode())


def read_run_config(folder: str | Path) -> RunConfig:
    """Read and check ``config.json`` of a run folder.

    Raises:
        CheckpointError: If it is missing, damaged, has an unknown key or comes from another format version.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError("there is no trained model here", where=folder, expected="config.json", fix="train one first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError("the configuration cannot be read", where=path, got=str(error)) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            "the model was saved by another version",
            where=path,
            expected=f"format {FORMAT}",
            got=f"format {found}",
            fix=f"train again into a new folder: {_command(content)}",
        )
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"the configuration is wrong at '{place}'", where=path, got=first["msg"]) from error


def _command(content: Any) -> str:
    """The command that trains again what a configuration of another version describes, as far as it can be read."""
    try:
        names, kind = list(content["manifests"]), content["detector"]["fusion"]["kind"]
        chosen = f" --fusion {kind} --modalities {','.join(names)}"
    except (KeyError, TypeError, AttributeError):
        chosen = ""
    return f"lego-fusion train DATASET RUN{chosen}"


def load_detector(folder: str | Path) -> tuple[Detector, RunConfig]:
    """Load a detector from a run folder, ready to score.

    Raises:
        CheckpointError: If a file is missing, damaged, of another version, or does not belong to the other.
    """
    config = read_run_config(folder)
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise CheckpointError("the weights are missing", where=path, fix="train again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != config.weights_hash:
        raise CheckpointError("the weights do not belong to this configuration", where=path, fix="train again")
    tensors, _ = read_tensors(path)
    try:
        fusion: Any = config.detector["fusion"]
        head: Any = config.detector["head"]
        detector = Detector(make_fusion(fusion["kind"], fusion["config"]), **head)
        detector.load_state_dict(tensors)
    except (LegoFusionError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError("the model cannot be rebuilt", where=folder, got=str(error), fix="train again") from error
    return detector.eval(), config


def save_training_state(path: Path, detector: Detector, optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write everything that a killed run needs, as one file that is replaced whole."""
    tensors = {f"model/{name}": tensor.detach().cpu() for name, tensor in detector.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{name}": torch.as_tensor(value).detach().cpu() for name, value in entry.items()}
    tensors["random"] = torch.get_rng_state()
    facts: dict[str, Any] = {"step": state.step, "best_loss": state.best_loss, "best_step": state.best_step}
    facts |= {"looks_without_gain": state.looks_without_gain, "history": state.history}
    metadata = {"format": str(FORMAT), "state": json.dumps(facts)}
    with written_whole(path) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata))


def load_training_state(path: Path, detector: Detector, optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
    """Put a detector, its optimiser, the random numbers and the state back to where a killed run stopped."""
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != str(FORMAT) or "state" not in metadata:
        raise CheckpointError("this is not the checkpoint of a run", where=path, fix="delete it to start again")
    entries: dict[int, dict[str, Tensor]] = {}
    try:
        detector.load_state_dict(_under("model/", tensors))
        for name, tensor in _under("optimiser/", tensors).items():
            index, _, key = name.partition("/")
            entries.setdefault(int(index), {})[key] = tensor
        optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["random"])
        facts = json.loads(metadata["state"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError("the checkpoint is of another model", where=path, fix="delete it to start again") from error
    for name, value in facts.items():
        setattr(state, name, value)
    state.best = _under("best/", tensors)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; ``CheckpointError`` if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError("the file cannot be read", where=path, got=str(error), fix="delete it and train again") from error


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
