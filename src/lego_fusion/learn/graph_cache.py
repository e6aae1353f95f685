"""The frozen stage of a dataset on disk: features are read once, and every later training of any learned stage begins at once.

    my-dataset/graphs/lego_motion+text_32-segments_float32_1a2b3c4d.safetensors

One file holds what the frozen stage made of the training videos (cross-fitted) and of the other videos, graphs or readings of
them, and what it learned from the training videos (centres, scales, references). Inside stands everything that they depend on:
its settings, the training list with its labels, and the manifest and state of the feature files. Nothing that is learned, nor
the operator's order or form, changes it, so one file serves a whole grid of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors.torch import save
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import CheckpointError, DataError, ParameterError
from ..fusion.base import Fusion
from ..writing import written_whole
from .bags import Bags, fit_frozen, is_cached, load_bags, scoring_inputs, thread_count, training_inputs
from .checkpoint import read_tensors
from .configuration import TrainingConfig
from .processes import torch_threads

CACHE_FOLDER = "graphs"
FORMAT = 2
GraphType = Literal["float32", "float16"]
_TYPES: dict[GraphType, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


class GraphRequest(BaseModel):
    """Everything that graphs depend on.

    Args:
        format: Of the file.
        dataset: Name of the dataset.
        manifests: Hash of the manifest of each modality, in the fusion's order.
        files: Hash over size and time of change of every feature file.
        fusion: Its kind.
        nodes: N.
        relations: Settings of the fusion that change its frozen stage.
        training: Training videos with their labels, in order.
        others: Videos to score, in order.
        dtype: Type of the stored numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    dataset: str
    manifests: dict[str, str]
    files: str
    fusion: str
    nodes: int
    relations: dict[str, JsonValue]
    training: tuple[tuple[str, str], ...]
    others: tuple[str, ...]
    dtype: GraphType = "float32"

    @property
    def file(self) -> str:
        """Name of the file: the settings in words, and a hash of them and of the lists of videos (not of the data)."""
        facts = [self.fusion, self.nodes, self.relations, list(self.manifests)]
        facts += [self.training, self.others, self.dtype, self.format]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
        names = re.sub(r"[^\w.+-]+", "-", "+".join(self.manifests), flags=re.ASCII)[:100]
        return f"{self.fusion}_{names}_{self.nodes}-segments_{self.dtype}_{key}.safetensors"

    def differences(self, other: GraphRequest) -> list[str]:
        """What ``other`` has that this has not, in words."""
        found = []
        for name in type(self).model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine == theirs:
                continue
            if name == "files":
                found.append("the feature files have changed since")
            elif isinstance(mine, dict):
                changed = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
                found += [f"{name}.{key}: {_short(theirs.get(key))} there, {_short(mine.get(key))} here" for key in changed]
            elif isinstance(mine, tuple):
                odd = sorted(map(str, set(mine) ^ set(theirs)))
                found.append(f"{name} videos: {', '.join(odd[:3]) or 'another order'}" + (" ..." if len(odd) > 3 else ""))
            else:
                found.append(f"{name}: {theirs} there, {mine} here")
        return found


@dataclass(frozen=True, eq=False)
class Graphs:
    """Graphs of a split.

    Args:
        training: Bags with cross-fitted graphs (``Bags.related``).
        others: Bags of the other videos, with graphs against all references; None where there are none.
        statistics: What the relations learned from the training videos, buffers by name.
        path: The file.
        built: Whether it was built just now.
    """

    training: Bags
    others: Bags | None
    statistics: dict[str, Tensor]
    path: Path | None = None
    built: bool = True


def cache_place(choice: str | Path, dataset: Dataset) -> Path | None:
    """Where ``--cache`` points: None for ``"off"``, ``graphs`` in the dataset folder for ``"auto"``, else the path itself."""
    return {"off": None, "auto": dataset.root / CACHE_FOLDER}.get(str(choice), Path(choice))


def trains_on_graphs(fusion: Fusion, training: TrainingConfig) -> bool:
    """Whether a training run needs nothing but graphs: our own fusion, and no features that go missing on the way."""
    return is_cached(fusion) and training.modality_dropout == 0


def graph_request(
    dataset: Dataset,
    fusion: Fusion,
    training: Sequence[str],
    others: Sequence[str] = (),
    *,
    nodes: int = 32,
    dtype: GraphType = "float32",
) -> GraphRequest:
    """What the graphs of a split depend on; ``fusion`` need not be fitted.

    Raises:
        ParameterError: If the dtype is unknown, or the fusion cannot train on graphs alone.
        DataError: If a video, a modality or a feature file is missing.
    """
    if dtype not in _TYPES:
        raise ParameterError("unknown type of stored graphs", expected=", ".join(_TYPES), got=repr(dtype))
    if not fusion.has_frozen_stage:
        raise ParameterError("this fusion learns from features", got=f"'{fusion.kind}'", fix="use no cache")
    if not training:
        raise DataError("there is no training video to relate", where=f"dataset '{dataset.name}'", expected="at least one")
    names = list(fusion.modalities)
    return GraphRequest(
        dataset=dataset.name,
        manifests={name: dataset.modalities[name].hash for name in names if name in dataset.modalities},
        files=state_of_files(dataset, names, [*training, *others]),
        fusion=fusion.kind,
        nodes=nodes,
        relations=json.loads(json.dumps(fusion.frozen_config())),
        training=tuple((video, dataset.records[video].label) for video in training),
        others=tuple(others),
        dtype=dtype,
    )


def cached_graphs(
    dataset: Dataset,
    fusion: Fusion,
    training: Sequence[str],
    others: Sequence[str] = (),
    *,
    nodes: int = 32,
    cache: str | Path | None = None,
    dtype: GraphType = "float32",
    threads: int | None = None,
    bags: Bags | None = None,
    on_video: Callable[[str], None] | None = None,
) -> Graphs:
    """The graphs of a split from the cache, or built in one pass over the features and stored there.

    The fusion's relations are fitted afterwards either way.

    Args:
        dataset: An open dataset folder.
        fusion: Whose relations are wanted; its statistics are set.
        training: Training videos, all labelled.
        others: Videos to score: for validation, or for testing.
        nodes: N.
        cache: Folder to keep graphs in, ``graphs`` in the dataset folder by default; files that no longer fit are built
            again. Or one ``.safetensors`` file, which must fit.
        dtype: Type of the stored numbers; they are float32 again when read.
        threads: Videos read and related at a time; None takes one per processor, up to 4.
        bags: The segments of all these videos, where they are in memory already.
        on_video: Called with each video read.

    Raises:
        CheckpointError: If ``cache`` is a file that was made with other settings or of other data: the message says which.
        DataError: If features are missing or wrong, a graph cannot be stored in this type, or the disk is full.
    """
    request = graph_request(dataset, fusion, training, others, nodes=nodes, dtype=dtype)
    if cache is not None and Path(cache).suffix == ".safetensors":
        return _restored(dataset, fusion, Path(cache), request)
    path = (dataset.root / CACHE_FOLDER if cache is None else Path(cache)) / request.file
    if path.is_file():
        try:
            return _restored(dataset, fusion, path, request)
        except CheckpointError:  # of features that have changed, or damaged: it is made again
            pass
    graphs = build_graphs(dataset, fusion, training, others, nodes=nodes, threads=threads, bags=bags, on_video=on_video)
    _write(path, graphs, request)
    # as stored: the first run and the next ones train on the same numbers
    return _restored(dataset, fusion, path, request, built=True) if dtype != "float32" else replace(graphs, path=path)


def build_graphs(
    dataset: Dataset,
    fusion: Fusion,
    training: Sequence[str],
    others: Sequence[str] = (),
    *,
    nodes: int = 32,
    threads: int | None = None,
    bags: Bags | None = None,
    on_video: Callable[[str], None] | None = None,
) -> Graphs:
    """Read the features of a split once, fit the relations of a fusion, and relate all videos; nothing is stored."""
    names, count = list(fusion.modalities), thread_count(threads)
    with torch_threads(1), torch.no_grad():  # several videos at a time, each in one thread: none waits for another
        if bags is None and not fusion.knows_training:
            parts = [training, others] if others else [training]
            graphs = [_read_and_related(dataset, fusion, part, nodes, count, on_video) for part in parts]
            return Graphs(graphs[0], graphs[1] if others else None, {name: x.clone() for name, x in _statistics(fusion)})
        if bags is None:
            train = load_bags(dataset, names, training, nodes=nodes, threads=count, on_video=on_video)
        else:
            train = bags.named(training)
        fit_frozen(fusion, train)
        related = replace(training_inputs(fusion, train), related=True)
        del train  # before the others are read
        if bags is not None:
            scored = replace(scoring_inputs(fusion, bags.named(others)), related=True) if others else None
        else:
            scored = _read_and_related(dataset, fusion, others, nodes, count, on_video) if others else None
    return Graphs(related, scored, {name: tensor.clone() for name, tensor in _statistics(fusion)})


def _read_and_related(
    dataset: Dataset,
    fusion: Fusion,
    videos: Sequence[str],
    nodes: int,
    threads: int,
    on_video: Callable[[str], None] | None,
) -> Bags:
    """The graphs of unseen videos, each from its files to its graphs at once, so that no features are kept."""
    parts: list[Bags] = []

    def relate(video: str) -> Bags:
        bags = load_bags(dataset, list(fusion.modalities), [video], nodes=nodes, threads=1)
        return replace(scoring_inputs(fusion, bags), related=True)

    with ThreadPoolExecutor(threads) as pool:
        for video, part in zip(videos, pool.map(relate, videos), strict=True):
            parts.append(part)
            if on_video is not None:
                on_video(video)
    return Bags.joined(parts)


def restore_statistics(fusion: Fusion, statistics: dict[str, Tensor]) -> None:
    """Give a fusion what the relations of an equal one learned from its training videos."""
    expected = {name for name, _ in _statistics(fusion)}
    if expected != set(statistics):
        odd = ", ".join(sorted(expected ^ set(statistics)))
        raise CheckpointError("the statistics are those of another fusion", got=odd, fix="build the graphs again")
    fusion.load_state_dict(statistics, strict=False)  # strict of these buffers alone, which are all there


def _statistics(fusion: Fusion) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in fusion.named_buffers() if not name.startswith("operator.")]


def state_of_files(dataset: Dataset, modalities: Sequence[str], videos: Sequence[str]) -> str:
    """Hash over size and time of change of the feature files."""
    digest = hashlib.sha256()
    for modality in modalities:
        for video in videos:
            path = dataset.feature_file(modality, video)
            if not path.is_file():
                where = f"modality '{modality}', video '{video}'"
                raise DataError("there is no feature file", where=where, expected=path, fix="extract this modality again")
            state = path.stat()
            digest.update(f"{modality}/{video} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _write(path: Path, graphs: Graphs, request: GraphRequest) -> None:
    tensors = {f"statistics/{name}": tensor.contiguous() for name, tensor in graphs.statistics.items()}
    facts: dict[str, Any] = {}
    for part, bags in (("training", graphs.training), ("others", graphs.others)):
        if bags is None:
            continue
        facts[part] = {"videos": bags.videos, "crops": bags.crops}
        for name, graph in bags.inputs.items():
            stored = graph.to(_TYPES[request.dtype]).contiguous()
            if not bool((stored.isfinite() | (graph == torch.inf)).all()):  # infinite where a video would meet itself
                fix = "store them as float32"
                raise DataError("relations leave the range of the type", where=f"modality '{name}'", got=request.dtype, fix=fix)
            tensors[f"{part}/{name}"] = stored
    metadata = {"request": request.model_dump_json(), "facts": json.dumps(facts)}
    content = save(tensors, metadata=metadata)
    try:
        with written_whole(path) as file:
            file.write(content)
    except OSError as error:
        raise DataError(
            f"the graphs cannot be stored: {error.strerror or error}",
            where=path,
            expected=f"{len(content) / 1e6:.1f} MB of room in a folder that can be written to",
            fix="free some space, name another folder with --cache FOLDER, or use --cache off",
        ) from error


def _restored(dataset: Dataset, fusion: Fusion, path: Path, request: GraphRequest, *, built: bool = False) -> Graphs:
    tensors, metadata = read_tensors(path)
    try:
        there = GraphRequest.model_validate_json(metadata["request"])
        facts = json.loads(metadata["facts"])
    except (KeyError, ValueError, ValidationError) as error:
        raise CheckpointError("the file holds no graphs of ours", where=path, fix="use --cache auto") from error
    differences = request.differences(there)
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        fix = "use --cache auto, which builds them again"
        raise CheckpointError("the graphs were made otherwise", where=path, got="; ".join(differences[:3]) + more, fix=fix)
    parts: dict[str, Bags] = {}
    for part, fact in facts.items():
        graphs = {name: tensors[f"{part}/{name}"].float() for name in request.manifests}
        labels = torch.tensor([dataset.records[video].label == "abnormal" for video in fact["videos"]], dtype=torch.bool)
        parts[part] = Bags(tuple(fact["videos"]), labels, int(fact["crops"]), graphs, related=True)
    statistics = {name.removeprefix("statistics/"): x for name, x in tensors.items() if name.startswith("statistics/")}
    restore_statistics(fusion, statistics)
    return Graphs(parts["training"], parts.get("others"), statistics, path, built)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
