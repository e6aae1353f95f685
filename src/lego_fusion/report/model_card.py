"""The card of a saved model: what it is, what it was trained and measured on, and what it was not tried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..alarm.calibration import ALL_CAMERAS, read_calibration
from ..alarm.event_evaluation import UNCALIBRATED
from ..data.dataset import Dataset, VideoRecord
from ..fusion.reading_head import ReadingHead
from ..learn.checkpoint import RunConfig, load_detector
from ..learn.detector import Detector
from ..learn.evaluation import selection_of
from ..learn.runs import read_method
from ..measure.result import Result

Lines = Mapping[str, str]
_MOST_NAMES = 40


def model_card(
    folder: str | Path, dataset: Dataset | None = None, results: Sequence[Result] = (), split: str = "test"
) -> dict[str, Lines]:
    """Everything a reader should know before trusting a model, in words: sections of named lines.

    Args:
        folder: Run folder.
        dataset: The dataset it was trained on, if at hand: it tells labels, cameras and kinds of anomaly.
        results: What was measured, if anything was.
        split: Of the videos that were measured.

    Returns:
        Sections "Model", "Trained on", "Labels", "Measured on", "Calibration", "Not tried on" and "Limits".

    Raises:
        CheckpointError: If the folder holds no run.
    """
    folder = Path(folder)
    detector, config = load_detector(folder)
    trained = _trained_videos(config)
    same = dataset is not None and config.dataset.get("name") == dataset.name
    known = {one.video: one for one in dataset.videos} if dataset is not None and same else {}
    records = [known[video] for video in trained if video in known]
    return {
        "Model": _model(folder, config, detector),
        "Trained on": _training(config, trained, records),
        "Labels": _labels(config),
        "Measured on": _measured(results),
        "Calibration": _calibration(folder),
        "Not tried on": _untried(records, dataset, results, split),
        "Limits": _LIMITS,
    }


_LIMITS = {
    "new is not harmful": "what is unlike the normal training videos scores high, whether it matters to anyone or not, and "
    "what was common in them scores low, even if it does",
    "scores": "a score is what a model says, no probability and no proof; scores near 1 all look alike, logits do not",
    "change": "a camera that was moved, another season or lens can raise all scores: calibrate again on new normal footage",
    "people": "nothing was measured about whether some groups of people cause more alarms than others; a person should look "
    "at the footage before anything follows from an alarm",
}


def _model(folder: Path, config: RunConfig, detector: Detector) -> dict[str, str]:
    modalities = [f"{name} ({one.extractor} {one.version}, {one.width} numbers)" for name, one in config.manifests.items()]
    spans = f"{config.nodes} equal spans of each video"
    if config.segment_snippets is not None:
        spans = f"{config.segment_snippets} snippets each, from windows of {config.nodes}"
    training, head = config.training, detector.reading_head
    lines = {"fusion": read_method(folder, config), "modalities": ", ".join(modalities)}
    lines["parameters"] = f"{detector.parameter_count():,}"
    lines |= {} if head is None else {"world": head.world}
    lines |= {"segments": spans, "training": f"{_length(training, head)}, chosen by: {selection_of(config)}"}
    lines |= {"known normals": f"{len(config.references)} segments"} if config.references else {}
    lines["smoothing"] = f"Gaussian of {config.smoothing:g} s over its scores" if config.smoothing else "none"
    return lines | {"weights": f"SHA-256 {config.weights_hash}", "lego-fusion": config.lego_fusion}


def _length(training: Mapping[str, Any], head: ReadingHead | None) -> str:
    """How long was trained, and what was drawn at random."""
    if head is None:
        return f"{training.get('steps')} steps, seed {training.get('seed')}"
    if training.get("steps") == 0 or training.get("normal_only"):
        return "untrained: all degrees count alike, the departure not at all; nothing is random"
    return f"at most {training.get('iterations')} iterations to the most probable weights; nothing is random"


def _training(config: RunConfig, trained: Sequence[str], records: Sequence[VideoRecord]) -> dict[str, str]:
    lines = {"dataset": str(config.dataset.get("name") or "unnamed"), "dataset hash": str(config.dataset.get("hash") or "")}
    counted = f"{len(trained)}"
    if len(records) == len(trained):
        normal = sum(one.label == "normal" for one in records)
        hours = sum(one.frames / one.fps for one in records) / 3600
        counted += f": {normal} normal, {len(records) - normal} abnormal, {hours:.2g} hours"
    more = f" and {len(trained) - _MOST_NAMES} more" if len(trained) > _MOST_NAMES else ""
    lines |= {"videos": counted, "names": ", ".join(trained[:_MOST_NAMES]) + more}
    cameras = sorted({one.camera for one in records if one.camera})
    return lines | ({"cameras": ", ".join(cameras)} if cameras else {})


def _labels(config: RunConfig) -> dict[str, str]:
    if config.training.get("normal_only"):
        return {"training": "normal videos alone; no abnormal video was learned from"}
    return {"training": "one word per video, normal or abnormal; when in a video it happens was not told"}


def _measured(results: Sequence[Result]) -> dict[str, str]:
    if not results:
        return {"nothing": "no ground truth was at hand for this report"}
    return {"videos": f"split '{results[0].split}' of {results[0].dataset}; the numbers are in the table of metrics"}


def _calibration(folder: Path) -> dict[str, str]:
    calibration = read_calibration(folder)
    if calibration is None:
        return {"none": UNCALIBRATED}
    lines = {"promise": calibration.promise()}
    lines |= {"dataset": calibration.dataset} if calibration.dataset else {}
    for camera, one in calibration.cameras.items():
        threshold = f"logit {one.rule.threshold:.2f}"
        footage = f"; {len(one.videos)} videos, {one.hours:.2g} hours" if one.videos else ""
        lines["threshold" if camera == ALL_CAMERAS else f"camera {camera}"] = threshold + footage
        for video, second in one.suspects:
            lines[f"suspect {video}"] = f"may hold an event at {second:.1f} s, which would make the threshold too high"
    return lines


def _untried(records: Sequence[VideoRecord], dataset: Dataset | None, results: Sequence[Result], split: str) -> dict[str, str]:
    measured = dataset.select(split=split) if dataset is not None and results else ()
    seen = [*records, *measured]
    cameras = sorted({one.camera for one in seen if one.camera})
    rates = sorted({one.fps for one in seen})
    kinds = sorted({one.class_name for one in measured if one.class_name})
    places = f"cameras other than {', '.join(cameras)}" if cameras else "any camera or place that is not in these videos"
    lines = {"other places": places}
    if rates:
        lines["other rates"] = "frame rates other than " + ", ".join(f"{rate:g}" for rate in rates)
    lines["other anomalies"] = f"kinds other than {', '.join(kinds)}" if kinds else "kinds that are not in the measured videos"
    if not results:
        lines["any at all"] = "in this report the model was measured on no video"
    return lines | {"other conditions": "night, weather, a dirty lens or lost frames, unless these videos have them"}


def _trained_videos(config: RunConfig) -> list[str]:
    names = config.dataset.get("train")
    return [str(name) for name in names] if isinstance(names, list) else []
