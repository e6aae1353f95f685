"""Calibration: how a saved detector's scores become alarms, chosen on footage it has not seen and stored beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..data.dataset import Dataset
from ..data.tables import VideoRecord
from ..errors import CheckpointError, DataError, ParameterError, check_number
from ..learn.checkpoint import RunConfig, read_run_config
from ..learn.scoring import VideoScores, score_dataset
from ..measure.event_metrics import SECONDS_PER_HOUR
from ..measure.scored import ScoredVideo
from ..writing import written_whole
from .events import EventRule, score_segments
from .thresholds import (
    best_f1_threshold,
    block_threshold,
    cut_blocks,
    hourly_threshold,
    least_cost_threshold,
    outlying_blocks,
)

CALIBRATION = "calibration.json"
FORMAT = 1
SPLIT = "calibration"  # of videos.csv, set aside for this
Criterion = Literal["blocks", "per-hour", "f1", "cost", "fixed"]
ALL_CAMERAS = ""
_SUSPECT_SECONDS = 10.0  # blocks in which footage for an hourly budget is searched for events


class CameraCalibration(BaseModel):
    """What was chosen for one camera.

    Args:
        rule: With the threshold.
        videos: Names of the videos it was chosen on.
        hours: Their length.
        blocks: Number of blocks, for ``"blocks"``.
        alarms: Alarms of the calibration footage at the threshold, for ``"per-hour"``.
        bursts: How many alarms come at once there (``thresholds.burst_size``); None: of an older version, which took them to
            come one by one.
        reached: Upper bound of the false alarms an hour, the F1, or the cost per frame; None for the other criteria.
        suspects: Calibration footage that may hold an event: video and second.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: EventRule
    videos: tuple[str, ...] = ()
    hours: float = Field(default=0.0, ge=0)
    blocks: int | None = None
    alarms: int | None = None
    bursts: float | None = None
    reached: float | None = None
    suspects: tuple[tuple[str, float], ...] = ()


class Calibration(BaseModel):
    """``calibration.json`` of a run folder.

    Args:
        format: Version of the file.
        weights_hash: Of the model that it belongs to.
        criterion: ``"blocks"``: at most a share of normal blocks has an alarm; ``"per-hour"``: a budget of false alarms an
            hour; ``"f1"`` and ``"cost"``: the best on labelled videos; ``"fixed"``: a threshold given by a person.
        value: The share, the budget, or the cost of a missed frame in false ones; nothing for the others.
        block_seconds: Length of a block; None: a block is a clip.
        confidence: Of the budget.
        dataset: Name of the dataset it was chosen on.
        dataset_hash: Its hash.
        cameras: By camera; "" is all of them together, for a camera without an entry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    weights_hash: str
    criterion: Criterion
    value: float | None = None
    block_seconds: float | None = None
    confidence: float = 0.95
    dataset: str = ""
    dataset_hash: str = ""
    cameras: dict[str, CameraCalibration]

    def rule_for(self, camera: str = ALL_CAMERAS) -> EventRule:
        """The rule of a camera, or that of all together if it has none of its own."""
        return self.cameras.get(camera, self.cameras[ALL_CAMERAS]).rule

    def promise(self) -> str:
        """What it promises, in words."""
        unit = "normal clips" if self.block_seconds is None else f"normal blocks of {self.block_seconds:g} s"
        return {
            "blocks": f"at most {self.value or 0:.1%} of {unit} have an alarm, on average",
            "per-hour": f"at most {self.value or 0:g} false alarms an hour, at {self.confidence:.0%} confidence"
            + (f", {self._given()}" if self.criterion == "per-hour" else ""),
            "f1": "the highest F1 over the frames of labelled videos; no promise about false alarms",
            "cost": f"the least cost where a missed frame costs {self.value or 0:g} false ones; no promise about false alarms",
            "fixed": "a threshold given by a person; no promise about false alarms",
        }[self.criterion]

    def _given(self) -> str:
        """The conditions of a budget an hour."""
        together = self.cameras[ALL_CAMERAS]
        if together.bursts is None:
            return "if they come independently of each other (calibrate again for a promise that allows for bursts)"
        bursts = "one by one" if together.bursts < 1.05 else f"in bursts of up to {together.bursts:.1f}"
        return f"on footage like the {together.hours:.1f} normal hours it was chosen on, where they come {bursts}"


def calibrate_run(
    folder: str | Path,
    dataset: Dataset | None,
    criterion: Criterion,
    value: float | None = None,
    *,
    rule: EventRule | None = None,
    split: str | None = None,
    leave_out: Sequence[str] = (),
    block_seconds: float | None = None,
    confidence: float = 0.95,
) -> Calibration:
    """Choose the threshold of a saved detector on videos it has not seen, and store it in the run folder.

    Args:
        folder: Run folder.
        dataset: With those videos; made by the same extractors as the training data. None for ``"fixed"`` only.
        criterion: See ``Calibration``.
        value: Of the criterion; for ``"fixed"`` the logit.
        rule: How events are found; its threshold is replaced.
        split: Which videos of ``videos.csv``. None: those in the split ``calibration``, or else all that are neither in the
            split ``test`` nor were trained on.
        leave_out: Videos not to use, such as one that turns out to hold an event.
        block_seconds: For ``"blocks"``; None takes each clip as one block.
        confidence: For ``"per-hour"``.

    Returns:
        The calibration, for all cameras together and, where several are named, for each.

    Raises:
        DataError: If no suitable video is there, or one was trained on.
        ParameterError: If the footage is too short for what is asked; it says how much is needed.
        CheckpointError: If the folder holds no run.
    """
    folder, config, rule = Path(folder), read_run_config(folder), rule or EventRule()
    if criterion == "fixed" or dataset is None:
        if criterion != "fixed":
            raise ParameterError("the footage to calibrate on is missing", expected="a dataset")
        fixed = check_number(value, "value", "calibrate_run", low=-1e6, high=1e6)
        cameras = {ALL_CAMERAS: CameraCalibration(rule=rule.with_threshold(fixed))}
    else:
        records = calibration_videos(config, dataset, criterion, split, leave_out)
        scored = dict(zip(records, score_dataset(folder, dataset, [record.video for record in records]), strict=True))
        cameras = {
            camera: _chosen(criterion, value, [scored[record] for record in group], rule, block_seconds, confidence, camera)
            for camera, group in _by_camera(records).items()
        }
    calibration = Calibration(
        weights_hash=config.weights_hash,
        criterion=criterion,
        value=None if criterion == "f1" else value,
        block_seconds=block_seconds if criterion == "blocks" else None,
        confidence=confidence,
        dataset="" if dataset is None else dataset.name,
        dataset_hash="" if dataset is None else dataset.hash,
        cameras=cameras,
    )
    with written_whole(folder / CALIBRATION) as file:
        file.write(calibration.model_dump_json(indent=2).encode())
    return calibration


def read_calibration(folder: str | Path) -> Calibration | None:
    """The calibration of a run folder, or None if there is none.

    Raises:
        CheckpointError: If the file cannot be read, or belongs to other weights.
    """
    path = Path(folder) / CALIBRATION
    if not path.is_file():
        return None
    again = "run 'lego-fusion calibrate' again"
    try:
        calibration = Calibration.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise CheckpointError(
            "the calibration cannot be read", where=path, got=str(error).splitlines()[0], fix=again
        ) from error
    if calibration.format != FORMAT or ALL_CAMERAS not in calibration.cameras:
        raise CheckpointError("the calibration is of another version", where=path, fix=again)
    if calibration.weights_hash != read_run_config(folder).weights_hash:
        raise CheckpointError("the calibration belongs to other weights", where=path, fix=again)
    return calibration


def calibration_videos(
    config: RunConfig, dataset: Dataset, criterion: Criterion, split: str | None, leave_out: Iterable[str] = ()
) -> list[VideoRecord]:
    """The videos that a threshold may be chosen on.

    Raises:
        DataError: If there is none, one was trained on, or a name to leave out is unknown.
    """
    seen = _trained_on(config, dataset)
    left = {dataset.records[video].video for video in leave_out}
    if split is None:
        set_aside = dataset.select(split=SPLIT)
        records = set_aside or tuple(one for one in dataset.videos if one.split != "test" and one.video not in seen)
    else:
        records = dataset.select(split=split)
    labelled = criterion in ("f1", "cost")
    fit = [
        record
        for record in records
        if record.video not in left and (dataset.has_ground_truth(record.video) if labelled else record.label == "normal")
    ]
    if not fit:
        raise DataError(
            "there is no footage to calibrate on",
            where=f"dataset '{dataset.name}'",
            expected=("videos with ground truth in time" if labelled else "normal videos") + " that were not trained on",
            got=f"{len(records)} videos, none of them such",
            fix=f"write '{SPLIT}' into the split column of videos.csv for some videos before training, or give --split",
        )
    trained = [record.video for record in fit if record.video in seen]
    if trained:
        raise DataError(
            f"{len(trained)} of the videos were trained on, so that their scores are lower than those of new footage",
            where=f"video '{trained[0]}'",
            fix="calibrate on other videos, or leave these out",
        )
    return fit


def _trained_on(config: RunConfig, dataset: Dataset) -> set[str]:
    """Videos of a dataset that the run was trained on, or that became known normals later."""
    names = {str(one["video"]) for one in config.references if one.get("dataset") == dataset.name}
    if config.dataset.get("name") != dataset.name:
        return names
    for part in ("train", "validation"):
        listed = config.dataset.get(part)
        names |= {str(name) for name in listed} if isinstance(listed, list) else set()
    return names


def _by_camera(records: Sequence[VideoRecord]) -> dict[str, list[VideoRecord]]:
    """All together, and each camera where several are named."""
    groups: dict[str, list[VideoRecord]] = {ALL_CAMERAS: list(records)}
    named = sorted({record.camera for record in records if record.camera})
    if len(named) > 1:
        groups |= {camera: [record for record in records if record.camera == camera] for camera in named}
    return groups


def _chosen(
    criterion: Criterion,
    value: float | None,
    scored: Sequence[VideoScores],
    rule: EventRule,
    block_seconds: float | None,
    confidence: float,
    camera: str,
) -> CameraCalibration:
    segments = {one.video: score_segments(one) for one in scored}
    hours = sum(parts[-1][1] - parts[0][0] for parts in segments.values()) / SECONDS_PER_HOUR
    facts: dict[str, Any] = {"videos": tuple(segments), "hours": hours}
    if criterion in ("f1", "cost"):
        frames = [
            ScoredVideo.from_frames(one.video, one.logits, one.truth)
            for one in scored
            if one.logits is not None and one.truth is not None  # always: the videos are those with ground truth
        ]
        threshold, reached = best_f1_threshold(frames) if criterion == "f1" else least_cost_threshold(frames, value or 1.0)
        return CameraCalibration(rule=rule.with_threshold(threshold), reached=reached, **facts)
    length = _SUSPECT_SECONDS if criterion == "per-hour" else block_seconds
    blocks = [block for video, parts in segments.items() for block in cut_blocks(video, parts, length)]
    suspects = tuple((block.video, block.peak_seconds) for block in outlying_blocks(blocks))
    try:
        if criterion == "blocks":
            found = block_threshold(np.array([block.maximum for block in blocks]), _given(value, "value"))
            return CameraCalibration(rule=rule.with_threshold(found), blocks=len(blocks), suspects=suspects, **facts)
        hourly = hourly_threshold(list(segments.values()), rule, _given(value, "value"), confidence)
    except ParameterError as error:
        raise _naming_camera(error, camera) from error
    facts |= {"alarms": hourly.alarms, "bursts": hourly.bursts, "reached": hourly.bound}
    return CameraCalibration(rule=hourly.rule, suspects=suspects, **facts)


def _given(value: float | None, name: str) -> float:
    if value is None:
        raise ParameterError(f"the '{name}' of this criterion is missing", expected="a share of blocks, or alarms an hour")
    return value


def _naming_camera(error: ParameterError, camera: str) -> ParameterError:
    if not camera:
        return error
    return ParameterError(error.what, where=f"camera '{camera}'", expected=error.expected, got=error.got, fix=error.fix)
