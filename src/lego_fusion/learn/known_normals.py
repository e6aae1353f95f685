"""Known normals of a saved detector: whether new footage is like them, and more of them without training.

    d_i    = distance of a segment to the known segments nearest to it, in units of how far those lie from each other
    ratio  = median of d_i over the segments of a video  /  the largest such median among the training videos, normal ones
             held against the others

The median is over a whole video, so that an event, which is unlike the training footage and ought to be, does not count; of a
video of which most is abnormal the training videos of that kind say how far that is from normal. Scores of unlike footage say
nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from jaxtyping import Float
from pydantic import JsonValue
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import CheckpointError, DataError, ParameterError, check_int
from ..fusion.base import Fusion
from .bags import Bags, seen_by
from .checkpoint import RunConfig, load_detector, save_detector
from .scoring import dataset_segment, load_run_bags, require_same_features

UNLIKE = 2.0  # ratio from which footage is said to be unlike: at most 1.5 on other clips of one camera, 2.7 and more on others


@torch.no_grad()
def unlike_training(fusion: Fusion, features: Mapping[str, Float[Tensor, "b n ..."]]) -> list[str]:
    """What to say of one video's footage, a line for each modality in which it is unlike the training footage.

    Args:
        fusion: Of the detector.
        features: Of the segments of one video, a bag for each crop, (C, N, D) by modality.
    """
    medians = {name: float(ratio.median()) for name, ratio in fusion.unlikeness(features).items()}
    return [say_unlike(name, ratio) for name, ratio in medians.items() if ratio > UNLIKE]


class FamiliarityMonitor:
    """Tells once of each modality in which a stream is unlike the training footage, from the median of its last segments.

    Args:
        fusion: Of the detector.
        tell: Hears one line a modality.
        segments: How many are looked back at; none is told of before there are ``least``.
        least: See ``segments``.
    """

    def __init__(self, fusion: Fusion, tell: Callable[[str], None], *, segments: int = 32, least: int = 4) -> None:
        self.fusion, self.least, self._tell = fusion, least, tell
        self._ratios: dict[str, deque[float]] = {name: deque(maxlen=segments) for name in fusion.modalities}
        self._told: set[str] = set()

    @torch.no_grad()
    def look(self, features: Mapping[str, Float[Tensor, "1 1 ..."]]) -> None:
        """Take the next segment."""
        for name, ratio in self.fusion.unlikeness(features).items():
            self._ratios[name].append(float(ratio))
            usual = median(self._ratios[name])
            if name not in self._told and len(self._ratios[name]) >= self.least and usual > UNLIKE:
                self._told.add(name)
                self._tell(say_unlike(name, usual))


def say_unlike(modality: str, ratio: float) -> str:
    """One line for a person."""
    return (
        f"the footage is unlike the training footage in {modality} ({ratio:.1f} times as far from what is known as the most "
        "unlike training video): the scores say little; train on footage of this camera, or add normal videos of it"
    )


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
