"""More normal footage for a saved detector, without training: segments of new normal videos become known ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from ..data.dataset import Dataset
from ..errors import CheckpointError, DataError, ParameterError, check_int
from .bags import Bags, seen_by
from .checkpoint import RunConfig, load_detector, save_detector
from .scoring import dataset_segment, load_run_bags, require_same_features


def add_known_normal(
    folder: str | Path, out: str | Path, dataset: Dataset, videos: Sequence[str], *, count: int | None = None
) -> RunConfig:
    """Write a copy of a saved run that also knows some normal videos; the weights stay as they were trained.

    All their distinct segments become known, evenly thinned where there are too many; what the run knows already is not added
    again.

    Args:
        folder: Run folder.
        out: Run folder to write; there must be none.
        dataset: Made by the same extractors as the run's training data.
        videos: Names of normal videos.
        count: Most segments to add, at least 1; by default as many as keep to the most that the run may know (its setting
            ``references``) and, where it is full, as many for each video as it knows of each of its own.

    Returns:
        The configuration of the new run. It has no calibration: the scores are others.

    Raises:
        DataError: If a video is not labelled normal, or the features hold nothing new.
        ParameterError: If the fusion knows no segments, or has modalities of finer units.
        CheckpointError: If there is no run, or ``out`` is there already.
    """
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise CheckpointError("the folder is there already", where=out, fix="use a new folder")
    detector, config = load_detector(folder)
    fusion = detector.fusion
    if not fusion.columns:
        raise ParameterError(f"the fusion '{fusion.kind}' has no references", fix="train again with the new videos")
    require_same_features(config, dataset)
    for video in videos:
        if dataset.records[video].label != "normal":
            got = dataset.records[video].label or "no label"
            raise DataError("only normal videos can become references", where=f"video '{video}'", got=got)
    bags = seen_by(fusion, load_run_bags(config, dataset, videos))
    most = _usual(config, fusion.config().get("references", 0), len(videos)) if count is None else count
    most = check_int(most, "count", "add_known_normal", low=1)
    places = fusion.add_normals(bags.inputs, bags.video_ids, bags.mask, most=most)
    if not len(places):
        raise DataError("these videos hold nothing that the run does not know already", fix="there is nothing to add")
    added = [_describe(dataset, bags, config, *place) for place in places.tolist()]
    update = {"references": [*config.references, *added], "detector": detector.config(), "weights_hash": ""}
    save_detector(out, detector, config.model_copy(update=update))
    return config.model_copy(update=update)


def _usual(config: RunConfig, most: int, videos: int) -> int:
    """Room for more, or, where the run is full, as many a video as it knows of each of its own."""
    own = {str(one["video"]) for one in config.references}
    return max(1, most - len(config.references), round(videos * len(config.references) / max(1, len(own))))


def _describe(dataset: Dataset, bags: Bags, config: RunConfig, bag: int, node: int) -> dict[str, JsonValue]:
    video = bags.videos[bag // bags.crops]
    start, end = dataset_segment(dataset, video, node, config.nodes, config.segment_snippets)
    return {"dataset": dataset.name, "video": video, "start_frame": start, "end_frame": end}
