"""Scores of a saved run: of a dataset's videos, and of video files decoded and described as its training videos were.

Whether footage is like the training footage is read off the known normals::

    d_i    = distance of a segment to the known segments nearest to it, in units of how far those lie from each other
    ratio  = median of d_i over the segments of a video  /  the largest such median among the training videos, normal ones
             held against the others

The median is over a whole video, so that an event, which is unlike the training footage and ought to be, does not count; of a
video of which most is abnormal the training videos of that kind say how far that is from normal. Scores of unlike footage say
nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy.special import expit
from torch import Tensor

from ..data.dataset import Dataset
from ..data.ground_truth import labels_from_intervals
from ..data.segments import rows_to_frames, segment_frames, segments_to_rows
from ..data.tables import read_intervals
from ..errors import DataError, ParameterError
from ..extract.base import Extractor, SidecarExtractor
from ..extract.describe import describe_video
from ..extract.footage import FootageMonitor, FootageWarning
from ..extract.registry import extractor_for
from ..fusion.base import Fusion
from ..measure.smoothing import smooth, smooth_frames
from .bags import (
    Bags,
    bag_of_segments,
    fixed_segments,
    load_segments,
    seen_by,
    segments_by_crop,
    thread_count,
)
from .checkpoint import RunConfig, load_detector
from .detector import Detector
from .processes import torch_threads
from .train import predict_logits


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run folder made ready to score many videos: its detector and extractors are made once.

    Args:
        folder: Where it lies.
        detector: Of the run.
        config: Of the run.
        extractors: By modality, made again from the manifests it was trained on.
    """

    folder: Path
    detector: Detector
    config: RunConfig
    extractors: Mapping[str, Extractor]


def open_run(folder: str | Path, *, networks: Mapping[str, Path] | None = None) -> OpenRun:
    """Make a saved run ready to score videos.

    Args:
        folder: Run folder.
        networks: For each modality whose extractor is a network on disk, where it lies.

    Raises:
        ParameterError: If a network is given for a modality that the model does not have.
    """
    folder, networks = Path(folder), networks or {}
    detector, config = load_detector(folder)
    unknown = [name for name in networks if name not in config.manifests]
    if unknown:
        got = ", ".join(config.manifests)
        raise ParameterError(
            f"the model was not trained on modality '{unknown[0]}'", where=folder, expected=got, got=unknown[0]
        )
    extractors = {name: extractor_for(manifest, model=networks.get(name)) for name, manifest in config.manifests.items()}
    return OpenRun(folder, detector, config, extractors)


def score_video(
    run: str | Path | OpenRun,
    video: str | Path,
    *,
    captions: str | Path | None = None,
    networks: Mapping[str, Path] | None = None,
    intervals: str | Path | None = None,
    on_bags: Callable[[Bags], object] | None = None,
) -> VideoScores:
    """Score a video file with a saved detector: the extractors are made again from the manifests it was trained on.

    Args:
        run: Run folder, or one that ``open_run`` has opened for many videos.
        video: Video file.
        captions: Caption sidecar, for models with a text modality.
        networks: For each modality whose extractor is a network on disk, where it lies; not for an open run.
        intervals: ``intervals.csv`` with ground truth for this video, if known.
        on_bags: Called with the segments that are scored.

    Returns:
        The scores; their warnings name what is wrong with the footage (``extract.footage``), and each modality in which it is
        unlike the training footage (``known_normals``).

    Raises:
        ParameterError: If something the model needs is missing, or captions are given to a model without text.
        VideoError: If the video cannot be decoded.
    """
    video = Path(video)
    opened = run if isinstance(run, OpenRun) else open_run(run, networks=networks)
    config, extractors = opened.config, opened.extractors
    sidecars = [name for name, extractor in extractors.items() if isinstance(extractor, SidecarExtractor)]
    if captions is not None and not sidecars:
        where, got = opened.folder, f"a model of {', '.join(extractors)}"
        raise ParameterError("captions are given, but the model was not trained on text", where=where, got=got)
    if captions is None and sidecars:
        fix = "give the captions, or use a model trained without text"
        raise ParameterError(f"the model needs captions for modality '{sidecars[0]}'", where=opened.folder, fix=fix)
    first = next(iter(config.manifests.values()))
    monitor, footage = FootageMonitor(), list[FootageWarning]()
    described = describe_video(
        video,
        extractors,
        captions=captions,
        snippet_frames=first.snippet_frames,
        stride=first.stride,
        look=lambda frame: footage.extend(monitor.look(frame)),
    )
    decoded = described.decoded
    bags = bags_of_video(config, video.stem, {name: features.values for name, features in described.features.items()})
    if on_bags is not None:
        on_bags(bags)
    rows = len(next(iter(described.features.values())).values)
    logits = predict_logits(opened.detector, bags)[0].double()
    on_frames = frame_logits(logits.numpy(), rows, decoded.frames, decoded.fps, config)
    fusion = opened.detector.fusion
    unlike = unlike_training(fusion, seen_by(fusion, bags).inputs)
    warnings = (*(note for note in (decoded.problem, *decoded.notes) if note), *map(str, footage), *unlike)
    times = np.asarray(decoded.times, dtype=np.float64)
    truth = _known_truth(intervals, video, decoded.frames)
    return VideoScores(video.stem, decoded.fps, times, expit(on_frames), truth, warnings, on_frames)


def _known_truth(intervals: str | Path | None, video: Path, frames: int) -> Bool[np.ndarray, " frames"] | None:
    if intervals is None:
        return None
    known = read_intervals(intervals)
    return labels_from_intervals((*known.get(video.stem, ()), *known.get(video.name, ())), frames)


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
    return load_segments(dataset, list(config.manifests), videos, config.nodes, config.segment_snippets, threads=threads)


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
    if config.segment_snippets is not None:
        by_segment = smooth(node_logits, config.segment_snippets * first.stride / fps, config.smoothing, causal=True)
        return rows_to_frames(np.repeat(by_segment, config.segment_snippets)[:rows], frames, *grid)
    spread = rows_to_frames(segments_to_rows(node_logits, rows), frames, *grid)
    return smooth_frames(spread, fps, config.smoothing, constant=math.gcd(*grid))


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
        notify: Hears one line a modality.
        segments: How many are looked back at; none is told of before there are ``least``.
        least: See ``segments``.
    """

    def __init__(self, fusion: Fusion, notify: Callable[[str], None], *, segments: int = 32, least: int = 4) -> None:
        self.fusion, self.least, self._notify = fusion, least, notify
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
                self._notify(say_unlike(name, usual))


def say_unlike(modality: str, ratio: float) -> str:
    """One line for a person."""
    return (
        f"the footage is unlike the training footage in {modality} ({ratio:.1f} times as far from what is known as the most "
        "unlike training video): the scores say little; train on footage of this camera, or add normal videos of it"
    )
