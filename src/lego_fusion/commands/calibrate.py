"""``calibrate``: choose when a saved run raises an alarm, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import names, one_line_errors, print_json, print_table, progress, warn

if TYPE_CHECKING:
    from ..alarm.calibration import Calibration, Criterion

_BURSTS = 1.5  # alarms at once from which a snooze is worth its silence


@one_line_errors
def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder, as 'train' writes it.", show_default=False)],
    data: Annotated[
        Path | None, typer.Argument(help="Dataset folder with footage that the run was not trained on.", show_default=False)
    ] = None,
    false_alarms: Annotated[
        float | None, typer.Option(help="Share of normal clips (or blocks) that may have an alarm, such as 0.1.")
    ] = None,
    block_seconds: Annotated[
        float | None, typer.Option(help="With --false-alarms: cut the footage into blocks of so many seconds.")
    ] = None,
    per_hour: Annotated[float | None, typer.Option(help="Budget of false alarms an hour.")] = None,
    confidence: Annotated[float, typer.Option(help="Of --per-hour.")] = 0.95,
    best_f1: Annotated[bool, typer.Option("--best-f1", help="The highest F1 over the frames of labelled videos.")] = False,
    miss_cost: Annotated[
        float | None, typer.Option(help="The least cost on labelled videos, a missed frame costing so many false ones.")
    ] = None,
    score: Annotated[float | None, typer.Option(help="A threshold of your own: a score between 0 and 1.")] = None,
    minimum_seconds: Annotated[float, typer.Option(help="How long an event lasts before it raises an alarm.")] = 0.0,
    merge_seconds: Annotated[float, typer.Option(help="Longest pause inside one event.")] = 0.0,
    snooze_seconds: Annotated[float, typer.Option(help="How long no other alarm is raised after an event.")] = 0.0,
    hysteresis: Annotated[
        float, typer.Option(help="How far, in logits, a score may fall below the threshold before an event pauses.")
    ] = 0.0,
    split: Annotated[
        str | None,
        typer.Option(help="Which videos of videos.csv. Default: 'calibration', or all neither trained on nor in 'test'."),
    ] = None,
    leave_out: Annotated[str, typer.Option(help="Videos not to use, with commas.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Choose the threshold of a run's alarms: by a budget of false alarms, on labelled videos, or by hand.

    A budget needs normal footage that was neither trained on nor taken for references: 9 clips for --false-alarms 0.1, 4 for
    0.2; 3 hours without an alarm for --per-hour 1. The choice is stored in the run folder, for each camera that videos.csv
    names, and is used by score, watch, evaluate and report.

    Example: lego-fusion calibrate my-run my-dataset --false-alarms 0.1 --minimum-seconds 1
    """
    from ..alarm.calibration import CALIBRATION, calibrate_run
    from ..alarm.events import EventRule
    from ..data.dataset import Dataset
    from ..errors import ParameterError

    criterion, value = _criterion(false_alarms, per_hour, best_f1, miss_cost, score)
    if data is None and criterion != "fixed":
        raise ParameterError("the footage to calibrate on is missing", fix="give a dataset folder after the run folder")
    for name, seconds in (("minimum", minimum_seconds), ("merge", merge_seconds), ("snooze", snooze_seconds)):
        if not 0 <= seconds < float("inf"):
            raise ParameterError(f"--{name}-seconds must be 0 or more", got=seconds)
    if not 0 <= hysteresis < float("inf"):
        raise ParameterError("--hysteresis must be 0 or more", got=hysteresis)
    rule = EventRule(
        threshold=0.0,
        release=-hysteresis if hysteresis else None,
        minimum_seconds=minimum_seconds,
        merge_seconds=merge_seconds,
        snooze_seconds=snooze_seconds,
    )
    dataset = None if data is None else Dataset.open(data)
    with progress("scoring the calibration footage") as notify:
        calibration = calibrate_run(
            run,
            dataset,
            criterion,
            value,
            rule=rule,
            split=split,
            leave_out=names(leave_out),
            block_seconds=block_seconds,
            confidence=confidence,
        )
        notify(1, 1)
    remarks = _remarks(calibration, split)
    if json:
        document = calibration.model_dump(mode="json") | {"promise": calibration.promise(), "warnings": remarks}
        print_json(document | {"file": str(run / CALIBRATION)})
        return
    warn(remarks)
    _print_outcome(calibration, run / CALIBRATION)


def _criterion(
    false_alarms: float | None, per_hour: float | None, best_f1: bool, miss_cost: float | None, score: float | None
) -> tuple[Criterion, float | None]:
    """The one that is asked for; a score becomes a logit."""
    import math

    from ..errors import ParameterError

    asked: list[tuple[Criterion, str, float | None]] = [
        ("blocks", "--false-alarms", false_alarms),
        ("per-hour", "--per-hour", per_hour),
        ("f1", "--best-f1", 0.0 if best_f1 else None),
        ("cost", "--miss-cost", miss_cost),
        ("fixed", "--score", score),
    ]
    given = [one for one in asked if one[2] is not None]
    options = ", ".join(option for _, option, _ in asked)
    if len(given) != 1:
        got = ", ".join(option for _, option, _ in given) or "none"
        raise ParameterError("say once how the threshold is to be chosen", expected=f"one of {options}", got=got)
    criterion, option, value = given[0]
    assert value is not None  # noqa: S101 - narrows the type for mypy
    limits = {"blocks": (0.0, 1.0), "fixed": (0.0, 1.0)}.get(criterion, (0.0, math.inf))
    if criterion != "f1" and not limits[0] < value < limits[1]:
        raise ParameterError(f"{option} must be between {limits[0]:g} and {limits[1]:g}", got=value)
    return criterion, None if criterion == "f1" else math.log(value / (1 - value)) if criterion == "fixed" else value


def _remarks(calibration: Calibration, split: str | None) -> list[str]:
    from ..alarm.calibration import ALL_CAMERAS

    together = calibration.cameras[ALL_CAMERAS]
    remarks = [
        f"{video} may hold an event at {second:.1f} s, far above the other footage: look at it, and if so --leave-out {video}"
        for video, second in together.suspects
    ]
    if together.bursts is not None and together.bursts > _BURSTS and not together.rule.snooze_seconds:
        remarks.append(
            f"false alarms come in bursts of up to {together.bursts:.1f}, which the threshold pays for: --snooze-seconds, as"
            " long as conditions such as light or crowd last (600), makes a burst one alarm"
        )
    if split == "test":
        remarks.append("these are the test videos: numbers measured on them are no longer those of unseen footage")
    return remarks


def _print_outcome(calibration: Calibration, file: Path) -> None:
    from ..alarm.events import as_score

    rows = [
        (
            camera or "all",
            f"{one.rule.threshold:.3f}",
            f"{as_score(one.rule.threshold):.4f}",
            str(len(one.videos)),
            f"{one.hours:.2f}",
            "" if one.blocks is None else str(one.blocks),
            "" if one.alarms is None else str(one.alarms),
        )
        for camera, one in calibration.cameras.items()
    ]
    print_table(("camera", "threshold (logit)", "as a score", "videos", "hours", "blocks", "alarms in them"), rows)
    typer.echo(f"promise: {calibration.promise()}")
    typer.echo(f"written: {file}")
