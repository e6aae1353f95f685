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
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float64
from pydantic import JsonValue
from scipy.special import expit

from .. import __version__
from ..data.dataset import Dataset
from ..data.segments import rows_to_frames, segment_frames, segments_to_rows
from ..errors import CheckpointError, DataError, ParameterError, check_int, with_changes
from ..fusion.base import Fusion
from ..measure.smoothing import SMOOTHING, check_smoothing, smooth, smooth_frames
from ..writing import PARTIAL, written_whole
from .bags import (
    Bags,
    bag_of_segments,
    fit_statistics,
    fixed_segments,
    load_bags,
    load_fixed_bags,
    require_modalities,
    segments_by_crop,
    thread_count,
)
from .checkpoint import FORMAT, SNAPSHOTS, RunConfig, clear_snapshots, load_detector, read_run_config, save_detector
from .configuration import TrainConfig, TrainingConfig, TrainingState
from .detector import Detector
from .graph_cache import cache_place, cached_graphs, trains_on_graphs
from .methods import make_default_fusion
from .processes import ALONE, Ranks, torch_threads
from .splits import Split, hold_out, require_labels, training_split
from .train import fit, predict_logits


@dataclass(frozen=True, eq=False)
class VideoScores:
    """Scores of one video.

    Args:
        video: Name.
        fps: Frames per second.
        times: Time of each frame in seconds, (frames,).
        scores: Score of each frame in [0, 1], (frames,).
        truth: True where a frame is known to be abnormal, or None where nothing is known.
        warnings: What a person should know, one line each.
        logits: Logit of each frame, (frames,), which events are found in: scores near 1 round to the same number.
    """

    video: str
    fps: float
    times: Float64[np.ndarray, " frames"]
    scores: Float64[np.ndarray, " frames"]
    truth: Bool[np.ndarray, " frames"] | None = None
    warnings: tuple[str, ...] = ()
    logits: Float64[np.ndarray, " frames"] | None = None


def train_run(
    dataset: Dataset,
    folder: str | Path,
    config: TrainConfig | None = None,
    *,
    threads: int = 1,
    cache: str | Path = "off",
    on_step: Callable[[int, float], None] | None = None,
    ranks: Ranks = ALONE,
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
        ranks: Processes that all make this call and train together (``ranks.process_group``); the first writes the folder.
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
    split = hold_out(dataset, split, validation, seed=training.seed) if validation else split
    require_labels(dataset, split)
    if options:  # before the folder is made
        require_modalities(dataset, names)
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


def score_dataset(folder: str | Path, dataset: Dataset, videos: Sequence[str]) -> list[VideoScores]:
    """Score videos of a dataset folder with a saved detector; features made in another way are refused.

    Each video goes from its files to its scores in one thread of several, so that scoring keeps pace with reading and memory
    does not grow with the number of videos.
    """
    detector, config = load_detector(Path(folder))
    require_same_features(config, dataset)
    if not videos:
        raise DataError("there is nothing to load", where=f"dataset '{dataset.name}'", expected="videos and modalities")

    def score(video: str) -> VideoScores:
        bags = load_run_bags(config, dataset, [video], threads=1)
        record, node_logits = dataset.records[video], predict_logits(detector, bags)[0].double()
        truth = dataset.frame_labels(video) if dataset.has_ground_truth(video) else None
        logits = frame_logits(node_logits.numpy(), dataset.rows(video), record.frames, record.fps, config)
        return VideoScores(video, record.fps, np.arange(record.frames) / record.fps, expit(logits), truth, logits=logits)

    with torch_threads(1), ThreadPoolExecutor(thread_count(None)) as pool:
        return list(pool.map(score, videos))


def bags_of_video(config: RunConfig, video: str, features: Mapping[str, np.ndarray]) -> Bags:
    """The features of one video, cut into segments as a run's are, as bags of no known label (which counts as normal)."""
    manifests, snippets = config.manifests, config.segment_snippets
    if snippets is not None:
        fixed = {name: fixed_segments(values, manifests[name], snippets) for name, values in features.items()}
        return bag_of_segments(video, fixed, window=config.nodes)
    segments = {name: segments_by_crop(values, manifests[name], config.nodes) for name, values in features.items()}
    return Bags((video,), torch.zeros(1, dtype=torch.bool), 1, segments)


def load_run_bags(config: RunConfig, dataset: Dataset, videos: Sequence[str], *, threads: int | None = None) -> Bags:
    """Videos of a dataset folder as a run cuts them."""
    return _load(dataset, list(config.manifests), videos, config.nodes, config.segment_snippets, threads=threads)


def _load(
    dataset: Dataset,
    modalities: Sequence[str],
    videos: Sequence[str],
    nodes: int,
    segment_snippets: int | None,
    *,
    threads: int | None = None,
) -> Bags:
    if segment_snippets is None:
        return load_bags(dataset, modalities, videos, nodes=nodes, threads=threads)
    return load_fixed_bags(dataset, modalities, videos, segment_snippets=segment_snippets, nodes=nodes, threads=threads)


def read_method(folder: Path, config: RunConfig) -> str:
    """Name of the method that was asked for; without the request, the kind of the fusion."""
    request = _read_request(folder) if (folder / "request.json").is_file() else {}
    fusion = config.detector.get("fusion")
    kind = fusion.get("kind") if isinstance(fusion, dict) else None
    return str(request.get("method") or kind or "unknown")


def require_same_features(config: RunConfig, dataset: Dataset) -> None:
    """Raise ``DataError`` unless the dataset has every modality of a run, made in the same way (``ManifestError``)."""
    for name, manifest in config.manifests.items():
        if name not in dataset.modalities:
            raise DataError(
                f"modality '{name}' is missing",
                where=f"dataset '{dataset.name}'",
                expected=", ".join(config.manifests),
                got=", ".join(dataset.modalities) or "no modality",
                fix=f"extract '{name}' for this dataset, or use a model trained without it",
            )
        manifest.require_same(dataset.modalities[name], where=f"dataset '{dataset.name}'")


def dataset_segment(
    dataset: Dataset, video: str, segment: int, nodes: int, segment_snippets: int | None = None
) -> tuple[int, int]:
    """Frames [start, end) of one of the N segments of a video, or of one of its segments of so many snippets."""
    grid = {"snippet_frames": dataset.config.snippet_frames, "stride": dataset.config.stride}
    return segment_span(segment, nodes, segment_snippets, frames=dataset.records[video].frames, **grid)


def segment_span(
    segment: int, nodes: int, segment_snippets: int | None, *, frames: int, snippet_frames: int, stride: int
) -> tuple[int, int]:
    """Frames [start, end) of a segment of a video of so many frames; see ``dataset_segment``."""
    rows = -(-frames // stride)
    if segment_snippets is not None:
        last = min((segment + 1) * segment_snippets, rows) - 1
        return segment * segment_snippets * stride, min(frames, last * stride + snippet_frames)
    return segment_frames(segment, nodes, rows=rows, frames=frames, snippet_frames=snippet_frames, stride=stride)


def frame_logits(
    node_logits: Float64[np.ndarray, " n"], rows: int, frames: int, fps: float, config: RunConfig
) -> Float64[np.ndarray, " frames"]:
    """Logit of every frame from those of the segments of a video, smoothed as the run says.

    Frames are smoothed from both sides; segments of a fixed duration over the past alone, as a stream has them.
    """
    first = next(iter(config.manifests.values()))
    grid = (first.snippet_frames, first.stride)
    if config.segment_snippets is None:
        spread = rows_to_frames(segments_to_rows(node_logits, rows), frames, *grid)
        return smooth_frames(spread, fps, config.smoothing, constant=math.gcd(*grid))
    step = config.segment_snippets * first.stride / fps
    by_segment = smooth(node_logits, step, config.smoothing, causal=True)
    return rows_to_frames(np.repeat(by_segment, config.segment_snippets)[:rows], frames, *grid)


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
    require_modalities(dataset, names)
    manifests = {name: dataset.modalities[name] for name in names}
    window = None if segment_snippets is None else nodes
    fusion = make_default_fusion(method, manifests, nodes=nodes, seed=training.seed, window=window, options=options)
    if cache is not None and segment_snippets is not None:
        fix = "leave --cache out"
        raise ParameterError("a graph cache holds videos of equal spans, not segments of a fixed duration", fix=fix)
    if cache is not None and trains_on_graphs(fusion, training):
        graphs = cached_graphs(dataset, fusion, kept, split.validation, nodes=nodes, cache=cache)
        return fusion, graphs.training, graphs.others
    train = _load(dataset, names, kept, nodes, segment_snippets)
    fit_statistics(fusion, train)
    held_out = _load(dataset, names, split.validation, nodes, segment_snippets) if split.validation else None
    return fusion, train, held_out


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
    places = getattr(detector.fusion, "reference_units", None)
    if places is None:
        return []
    described: list[dict[str, JsonValue]] = []
    crops = max(dataset.modalities[name].crops for name in detector.fusion.modalities)  # frozen inputs may be one bag a video
    for bag, node in places.tolist():
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
