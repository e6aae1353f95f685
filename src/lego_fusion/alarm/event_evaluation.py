"""How well a saved run finds events: its own rule on videos with ground truth, every metric with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..data.dataset import Dataset
from ..data.ground_truth import intervals_from_labels
from ..learn.checkpoint import load_detector
from ..learn.evaluation import Evaluation, measurable_videos, selection_of
from ..learn.runs import read_method
from ..learn.scoring import VideoScores, score_dataset
from ..measure.event_metrics import RATE, Event, EventVideo, event_intervals, time_text
from ..measure.intervals import Estimate
from ..measure.result import Result
from .calibration import Calibration, read_calibration
from .events import EventRule, find_events, frame_edges, score_segments

UNCALIBRATED = "the run is not calibrated: events are spans scored 0.5 or more, which promises nothing about false alarms"


def rule_of_run(folder: str | Path, camera: str = "") -> tuple[EventRule, str]:
    """The rule that a run makes events by, and what it promises: the calibrated one, or spans scored 0.5 or more."""
    return _rule_of(read_calibration(folder), camera)


def events_of(scores: VideoScores, rule: EventRule) -> tuple[Event, ...]:
    """The events of a scored video."""
    return find_events(score_segments(scores), rule)


def event_video(scores: VideoScores, rule: EventRule) -> EventVideo:
    """A scored video with its events and, in seconds, its ground truth (none where nothing is known)."""
    edges = frame_edges(scores.times, scores.fps)
    runs = () if scores.truth is None else intervals_from_labels("video", scores.truth)
    truth = tuple((float(edges[run.start_frame]), float(edges[run.end_frame])) for run in runs)
    return EventVideo(scores.video, float(edges[-1] - edges[0]), events_of(scores, rule), truth)


def evaluate_events(
    folder: str | Path,
    dataset: Dataset,
    *,
    split: str = "test",
    ious: Sequence[float] = (0.1, 0.3, 0.5),
) -> Evaluation:
    """Measure the events of one saved run on the videos of a split.

    Args:
        folder: Run folder; its calibration makes the events, for each camera its own.
        dataset: Made by the same extractors as the run's training data.
        split: Name of the videos' split; videos without ground truth in time are left out.
        ious: Temporal IoUs of the average precision.

    Raises:
        DataError: No video of the split has ground truth.
        CheckpointError: The folder holds no run, or a calibration of other weights.
    """
    names, notes = measurable_videos(dataset, split)
    detector, config = load_detector(Path(folder))
    calibration = read_calibration(folder)
    _, promise = _rule_of(calibration)
    videos = [
        event_video(scores, _rule_of(calibration, dataset.records[scores.video].camera)[0])
        for scores in score_dataset(folder, dataset, names)
    ]
    true = sum(len(video.truth) for video in videos)
    if promise == UNCALIBRATED:
        notes.append(promise)
    notes += _calibrated_on(calibration, names)
    protocol = f"events, {len(videos)} videos with {true} true ones; {promise}"
    facts = {
        "dataset": dataset.name,
        "split": split,
        "modalities": tuple(config.manifests),
        "fusion": read_method(Path(folder), config),
        "seed": int(str(config.training["seed"])),
        "selection": selection_of(config),
        "smoothing": config.smoothing,
        "protocol": protocol,
        "parameters": detector.parameter_count(),
    }
    found = event_intervals(videos, ious=ious)
    quiet = sum(video.quiet_seconds for video in videos)
    return Evaluation(tuple(_result(name, estimate, quiet, facts) for name, estimate in found.items()), tuple(notes))


def _result(metric: str, found: Estimate | float, quiet_seconds: float, facts: dict[str, object]) -> Result:
    """A record that says what its interval rests on, or that there is none."""
    if not isinstance(found, Estimate):
        protocol = f"{facts['protocol']}; too few videos or events for an interval"
        return Result.model_validate({**facts, "metric": metric, "value": found, "protocol": protocol})
    interval = {"value": found.value, "low": found.low, "high": found.high, "level": found.level}
    over = (
        f"of a Poisson rate over {time_text(quiet_seconds)} without a true event" if metric == RATE else f"over {found.unit}s"
    )
    protocol = f"{facts['protocol']}; {100 * found.level:.0f} % interval {over}"
    extra = {"quiet_seconds": quiet_seconds} if metric == RATE else {}
    return Result.model_validate({**facts, "metric": metric, **interval, "protocol": protocol, "extra": extra})


def _rule_of(calibration: Calibration | None, camera: str = "") -> tuple[EventRule, str]:
    if calibration is None:
        return EventRule(), UNCALIBRATED
    return calibration.rule_for(camera), calibration.promise()


def _calibrated_on(calibration: Calibration | None, videos: Sequence[str]) -> list[str]:
    if calibration is None:
        return []
    used = {video for camera in calibration.cameras.values() for video in camera.videos} & set(videos)
    if not used:
        return []
    return [f"{len(used)} of the {len(videos)} videos were calibrated on: false alarms on new footage will be more"]
