"""Score video files with a saved run: decoded, described as its training videos were, cut into segments, scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from scipy.special import expit

from ..data.annotations import labels_from_intervals, read_intervals
from ..errors import ParameterError
from ..extract.base import Extractor, SidecarExtractor
from ..extract.describe import describe_video
from ..extract.footage import FootageMonitor, FootageWarning
from ..extract.registry import extractor_for
from .bags import Bags, seen_by
from .checkpoint import RunConfig, load_detector
from .detector import Detector
from .known_normals import unlike_training
from .runs import VideoScores, bags_of_video, frame_logits
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
