"""More normal footage for a saved detector, without training: segments of new normal videos become reference units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import CheckpointError, DataError, ParameterError, check_int
from ..fusion.lego import LegoFusion
from ..fusion.relation import Relation
from ..graph.references import joint_distance
from .bags import Bags, seen_by
from .checkpoint import RunConfig, load_detector, save_detector
from .runs import dataset_segment, load_run_bags, require_same_features

MOST_SEGMENTS = 2048  # new segments to choose from, evenly spread where there are more


def add_known_normal(
    folder: str | Path, out: str | Path, dataset: Dataset, videos: Sequence[str], *, count: int | None = None
) -> RunConfig:
    """Write a copy of a saved run that also knows some normal videos; the weights stay as they were trained.

    New references are chosen one by one, each the segment farthest from all references so far: what the run knows already
    is not added again.

    Args:
        folder: Run folder.
        out: Run folder to write; there must be none.
        dataset: Made by the same extractors as the run's training data.
        videos: Names of normal videos.
        count: References to add, at least 1; by default as many for each video as the run has for each of its own normal ones.

    Returns:
        The configuration of the new run. It has no calibration: the scores are others.

    Raises:
        DataError: If a video is not labelled normal, or the features hold nothing new.
        ParameterError: If the fusion has no sorted references.
        CheckpointError: If there is no run, or ``out`` is there already.
    """
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise CheckpointError("the folder is there already", where=out, fix="use a new folder")
    detector, config = load_detector(folder)
    fusion = detector.fusion
    if not isinstance(fusion, LegoFusion) or not fusion.wanted_references:
        raise ParameterError(f"the fusion '{fusion.kind}' has no references", fix="train again with the new videos")
    require_same_features(config, dataset)
    for video in videos:
        if dataset.record(video).label != "normal":
            got = dataset.record(video).label or "no label"
            raise DataError("only normal videos can become references", where=f"video '{video}'", got=got)
    bags = seen_by(fusion, load_run_bags(config, dataset, videos))
    wanted = check_int(_usual(config, len(videos)) if count is None else count, "count", "add_known_normal", low=1)
    chosen = _farthest(fusion, bags, wanted)
    fusion.add_references({name: x[chosen[:, 0], chosen[:, 1]] for name, x in bags.inputs.items()})
    added = [_describe(dataset, bags, config, *place) for place in chosen.tolist()]
    update = {"references": [*config.references, *added], "detector": detector.config(), "weights_hash": ""}
    save_detector(out, detector, config.model_copy(update=update))
    return config.model_copy(update=update)


def _usual(config: RunConfig, videos: int) -> int:
    """As many references a video as the run has for each normal video that it took some from."""
    own = {str(one["video"]) for one in config.references}
    return max(1, round(videos * len(config.references) / max(1, len(own))))


def _farthest(fusion: LegoFusion, bags: Bags, count: int) -> Tensor:
    """Bag and node of up to ``count`` segments, each the farthest from the references and those chosen before, (R, 2)."""
    first = next(iter(bags.inputs.values()))
    exists = torch.ones(first.shape[:2], dtype=torch.bool) if bags.mask is None else bags.mask
    places = exists.nonzero()
    if len(places) > MOST_SEGMENTS:
        places = places[torch.linspace(0, len(places) - 1, MOST_SEGMENTS).long()]
    known = fusion.columns
    matrices = []
    for name in fusion.modalities:
        relation = fusion.relation[name]
        assert isinstance(relation, Relation)  # noqa: S101 - narrows the type for mypy
        new = bags.inputs[name][places[:, 0], places[:, 1]]
        matrices.append(relation.dissimilarity(torch.cat([relation.references, new])))
    distance = joint_distance(matrices)
    nearest = distance[known:, :known].amin(1)
    chosen: list[int] = []
    while len(chosen) < count and float(nearest.max()) > 0:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distance[known:, known + chosen[-1]])
    if not chosen:
        raise DataError("these videos hold nothing that the run does not know already", fix="there is nothing to add")
    return places[chosen]


def _describe(dataset: Dataset, bags: Bags, config: RunConfig, bag: int, node: int) -> dict[str, JsonValue]:
    video = bags.videos[bag // bags.crops]
    start, end = dataset_segment(dataset, video, node, config.nodes, config.segment_snippets)
    return {"video": video, "start_frame": start, "end_frame": end}
