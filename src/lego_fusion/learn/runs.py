"""Run folders: train a detector on a dataset folder, take up a killed run, evaluate it, score new videos with it.

my-run/
  request.json          what was asked for; the same request goes on or is done, another one is refused
  checkpoint.safetensors  state of an unfinished run
  config.json, model.safetensors  the detector
  history.csv           loss by step
  snapshots/            weights at some steps, where they were asked for
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from .. import __version__
from ..data.dataset import Dataset
from ..errors import CheckpointError, ParameterError, check_int, with_changes
from ..fusion.base import Fusion
from ..measure.smoothing import SMOOTHING, check_smoothing
from ..writing import PARTIAL, written_whole
from .bags import (
    Bags,
    fit_frozen,
    load_segments,
)
from .checkpoint import FORMAT, SNAPSHOTS, RunConfig, clear_snapshots, read_run_config, save_detector
from .configuration import TrainConfig, TrainingConfig, TrainingState
from .detector import Detector
from .graph_cache import cache_place, cached_graphs, trains_on_graphs
from .methods import make_default_fusion
from .processes import SINGLE_PROCESS, Ranks, torch_threads
from .scoring import dataset_segment
from .splits import Split, hold_out, require_labels, training_split
from .train import fit


def train_run(
    dataset: Dataset,
    folder: str | Path,
    config: TrainConfig | None = None,
    *,
    threads: int = 1,
    cache: str | Path = "off",
    on_step: Callable[[int, float], None] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    **changes: Any,
) -> RunConfig:
    """Train a detector on the training videos of a dataset folder and save it; the same call goes on where it was killed.

    Args:
        dataset: With a split, and labels for the training videos.
        folder: Run folder; made if it is not there.
        config: What to train; its defaults where nothing is said.
        threads: Processor threads of training. With one, the weights do not depend on the number of processors, and small
            sets train many times faster than with several on a machine that is busy otherwise.
        cache: Graphs are kept for the next run: ``"auto"`` in the dataset folder, or in a folder; a ``.safetensors`` file must
            fit. Fusions that have none read features. The weights are the same with and without.
        on_step: Called with the step and the loss.
        ranks: Processes that all make this call and train together (``processes.process_group``); the first writes the folder.
        changes: Fields of the configuration by name, such as ``modalities=["motion"]`` or ``nodes=16``.

    Raises:
        DataError: If data are missing or wrong.
        CheckpointError: If the folder holds another run, or the cache file is of other settings or data.
    """
    config = with_changes(config or TrainConfig(), changes, "train_run")
    folder, training, method, options = Path(folder), config.training, config.method, config.options
    nodes, segment_snippets, validation = config.nodes, config.segment_snippets, config.validation
    names = tuple(config.modalities) or tuple(dataset.modalities)
    split = training_split(dataset)
    require_labels(dataset, split)
    split = hold_out(dataset, split, validation, seed=training.seed) if validation else split
    if options:  # before the folder is made
        make_default_fusion(method, {name: dataset.modalities[name] for name in names}, nodes=nodes, options=options)
    request = _request(dataset, names, method, training, nodes, config.hidden, split, options)
    if segment_snippets is not None:
        request["segment_snippets"] = check_int(segment_snippets, "segment_snippets", "train_run", low=1)
    if check_smoothing(config.smoothing, "train_run"):
        request["smoothing"] = float(config.smoothing)
    if ranks.first_alone(lambda: _is_finished(folder, request)):
        return read_run_config(folder)

    def prepare() -> tuple[Fusion, Bags, Bags | None]:
        return _prepared(dataset, names, method, training, nodes, split, cache_place(cache, dataset), segment_snippets, options)

    fusion, train, held_out = prepare() if str(cache) == "off" else ranks.first_before_others(prepare)
    detector = Detector(fusion, hidden=config.hidden, seed=training.seed)
    checkpoint, snapshots = folder / "checkpoint.safetensors", folder / SNAPSHOTS
    if ranks.first and not checkpoint.exists():
        clear_snapshots(folder)  # of a request that gave way to this one
    given: dict[str, Any] = {"checkpoint": checkpoint, "snapshots": snapshots, "on_step": on_step, "ranks": ranks}
    with torch_threads(threads):
        state = fit(detector, train, training, validation=held_out, **given)

    def save() -> None:
        _write_history(folder / "history.csv", state)
        _save(folder, detector, request, train, dataset)
        for leftover in (checkpoint, *folder.glob(PARTIAL), *snapshots.glob(PARTIAL)):  # of a kill in the middle of writing
            leftover.unlink(missing_ok=True)

    ranks.first_alone(save)
    return read_run_config(folder)


def save_run(
    folder: str | Path,
    detector: Detector,
    dataset: Dataset,
    split: Split,
    training: TrainingConfig,
    train: Bags,
    *,
    method: str,
    nodes: int,
    options: Mapping[str, Any] | None = None,
    smoothing: float = SMOOTHING,
) -> None:
    """Save a detector that was trained elsewhere as a run folder, which evaluates, scores and explains like any other.

    Args:
        folder: Made if it is not there; what it holds is replaced.
        detector: As trained.
        dataset: On which.
        split: On which videos.
        training: With which settings.
        train: The training bags.
        method: One of ``methods.LEARNED``.
        nodes: N.
        options: Of the fusion, as for ``train_run``.
        smoothing: As for ``train_run``.
    """
    modalities, hidden = list(detector.fusion.modalities), int(detector.head_config["hidden"])
    request = _request(dataset, modalities, method, training, nodes, hidden, split, options)
    request["smoothing"] = check_smoothing(smoothing, "save_run")
    with written_whole(Path(folder) / "request.json") as file:
        file.write(json.dumps(request, indent=2).encode())
    _save(Path(folder), detector, request, train, dataset)


def _save(folder: Path, detector: Detector, request: Mapping[str, JsonValue], train: Bags, dataset: Dataset) -> None:
    nodes, snippets = int(str(request["nodes"])), request.get("segment_snippets")
    segment_snippets = None if snippets is None else int(str(snippets))
    config = RunConfig(
        format=FORMAT,
        lego_fusion=__version__,
        detector=detector.config(),
        nodes=nodes,
        manifests={name: dataset.modalities[name] for name in detector.fusion.modalities},
        training=cast(dict[str, JsonValue], request["training"]),
        dataset=cast(dict[str, JsonValue], request["dataset"]),
        segment_snippets=segment_snippets,
        smoothing=float(str(request.get("smoothing", 0.0))),
        references=_describe_references(detector, train, dataset, nodes, segment_snippets),
    )
    save_detector(folder, detector, config)


def read_method(folder: Path, config: RunConfig) -> str:
    """Name of the method that was asked for; without the request, the kind of the fusion."""
    request = _read_request(folder) if (folder / "request.json").is_file() else {}
    fusion = config.detector.get("fusion")
    kind = fusion.get("kind") if isinstance(fusion, dict) else None
    return str(request.get("method") or kind or "unknown")


def _prepared(
    dataset: Dataset,
    names: Sequence[str],
    method: str,
    training: TrainingConfig,
    nodes: int,
    split: Split,
    cache: Path | None,
    segment_snippets: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Fusion, Bags, Bags | None]:
    """A fusion with fitted statistics, and the bags to train on and to look at: features, or graphs from the cache."""
    kept = [video for video in split.train if not (training.normal_only and dataset.records[video].label == "abnormal")]
    manifests = {name: dataset.modalities[name] for name in names}
    window = None if segment_snippets is None else nodes
    fusion = make_default_fusion(method, manifests, nodes=nodes, seed=training.seed, window=window, options=options)
    if cache is not None and segment_snippets is not None:
        fix = "leave --cache out"
        raise ParameterError("a graph cache holds videos of equal spans, not segments of a fixed duration", fix=fix)
    if cache is not None and trains_on_graphs(fusion, training):
        graphs = cached_graphs(dataset, fusion, kept, split.validation, nodes=nodes, cache=cache)
        return fusion, graphs.training, graphs.others
    parts = [kept, split.validation] if split.validation else [kept]
    train, *held_out = [load_segments(dataset, names, part, nodes, segment_snippets) for part in parts]
    fit_frozen(fusion, train)
    return fusion, train, held_out[0] if held_out else None


def _request(
    dataset: Dataset,
    modalities: Sequence[str],
    method: str,
    training: TrainingConfig,
    nodes: int,
    hidden: int,
    split: Split,
    options: Mapping[str, Any] | None,
) -> dict[str, JsonValue]:
    """Everything that decides the final weights, as JSON values."""
    data: dict[str, JsonValue] = {"name": dataset.name, "hash": dataset.hash, "train": list(split.train)}
    data["validation"] = list(split.validation)
    return {
        "lego_fusion": __version__,
        "method": method,
        "modalities": list(modalities),
        "manifests": {name: dataset.modalities[name].hash for name in modalities if name in dataset.modalities},
        "nodes": nodes,
        "hidden": hidden,
        **({"options": json.loads(json.dumps(dict(options)))} if options else {}),
        "training": training.model_dump(mode="json"),
        "dataset": data,
    }


def _is_finished(folder: Path, request: dict[str, JsonValue]) -> bool:
    """Whether the folder holds the finished run of this request; otherwise the request is there afterwards.

    The request of a run that left no checkpoint gives way to another one, since nothing is lost with it.
    """
    finished, started = (folder / "config.json").is_file(), (folder / "checkpoint.safetensors").is_file()
    if (folder / "request.json").is_file():
        there = _read_request(folder)
        if there == request:
            return finished
        if finished or started:
            raise CheckpointError(
                "the folder holds another run",
                where=folder,
                expected="the same command",
                got=f"another {', '.join(_changed(there, request))}",
                fix="use another folder, or delete this one",
            )
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise CheckpointError("the folder is not empty and holds no run", where=folder, fix="use a new folder")
    with written_whole(folder / "request.json") as file:
        file.write(json.dumps(request, indent=2).encode())
    return False


def _changed(there: Mapping[str, JsonValue], request: Mapping[str, JsonValue]) -> list[str]:
    """The parts of a request that differ; of the training, the settings that do."""
    changed = []
    for key in request:
        before, asked = there.get(key), request[key]
        if before == asked:
            continue
        if isinstance(before, dict) and isinstance(asked, dict) and key == "training":
            settings = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
            told = [f"{name}: {before.get(name)} there, {asked.get(name)} asked for" for name in settings]
            changed.append(f"training ({', '.join(told)})")
        else:
            changed.append(key)
    return changed


def _read_request(folder: Path) -> dict[str, JsonValue]:
    path = folder / "request.json"
    try:
        request = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError("the request of this run cannot be read", where=path, fix="use another folder") from error
    if not isinstance(request, dict):
        raise CheckpointError("the request of this run is not a table", where=path, fix="use another folder")
    return request


def _describe_references(
    detector: Detector, train: Bags, dataset: Dataset, nodes: int, segment_snippets: int | None
) -> list[dict[str, JsonValue]]:
    """Video and frames of each known segment, so that it can be shown."""
    described: list[dict[str, JsonValue]] = []
    crops = max(dataset.modalities[name].crops for name in detector.fusion.modalities)  # frozen inputs may be one bag a video
    for bag, node in detector.fusion.reference_units.tolist():
        video = train.videos[bag // crops]
        start, end = dataset_segment(dataset, video, node, nodes, segment_snippets)
        described.append({"video": video, "start_frame": start, "end_frame": end})
    return described


def _write_history(path: Path, state: TrainingState) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", "loss", "validation_loss"], restval="")
    writer.writeheader()
    writer.writerows(state.history)
    with written_whole(path) as file:
        file.write(text.getvalue().encode())
