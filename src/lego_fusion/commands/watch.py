"""``watch``: a camera, a stream or videos to alarms, while they come in."""

from __future__ import annotations

import json as json_module
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .run_options import given_networks
from .terminal import one_line_errors, remark

if TYPE_CHECKING:
    from ..alarm.events import EventRule
    from ..alarm.live import SegmentScore
    from ..alarm.watch import Health, Watch
    from ..learn.checkpoint import RunConfig


@one_line_errors
def watch(
    source: Annotated[
        str,
        typer.Argument(
            help="Video file, folder that fills, webcam:0, or an address such as rtsp://camera/stream.", show_default=False
        ),
    ],
    model: Annotated[Path, typer.Option(help="Run folder of a model trained with --segment-snippets.", show_default=False)],
    threshold: Annotated[
        float | None, typer.Option(help="Score between 0 and 1 that is an alarm. Default: the run's calibration, or 0.5.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File of JSON lines to add alarms to; the same command goes on where it was stopped.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(help="Also send each alarm to this http(s) address; --out keeps them until it takes them."),
    ] = None,
    camera: Annotated[str, typer.Option(help="Name in the alarms; chooses the calibration of that camera.")] = "",
    onnx: Annotated[Path | None, typer.Option(help="The image network that appearance was extracted with.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Of a folder: stop when all videos in it are done.")] = False,
    settle_seconds: Annotated[float, typer.Option(help="Of a folder: how long a file must not have changed.")] = 2.0,
    give_up_seconds: Annotated[
        float | None, typer.Option(help="Of a stream: how long it may be gone. Default: for ever.")
    ] = None,
    minimum_seconds: Annotated[float | None, typer.Option(help="How long an event lasts before it raises an alarm.")] = None,
    merge_seconds: Annotated[float | None, typer.Option(help="Longest pause inside one event.")] = None,
    snooze_seconds: Annotated[float | None, typer.Option(help="How long no other alarm is raised after an event.")] = None,
    health_seconds: Annotated[float, typer.Option(help="Between two reports of rate, lag, drops and reconnects.")] = 10.0,
    status: Annotated[Path | None, typer.Option(help="Also write each report to this JSON file.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Also print the score of every segment.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Reports of health and remarks as JSON lines, too.")] = False,
) -> None:
    """Score a camera, a stream or videos while they come in, and print alarms as JSON lines.

    Files are read as fast as they can be scored. A camera that is faster than this machine loses whole snippets, which is said.
    Passwords in an address are never written down. Stop with Ctrl-C.

    Example: lego-fusion watch rtsp://door.local/live --model my-run --out door.jsonl --camera door
    """
    from ..alarm.journal import AlarmJournal, Progress
    from ..alarm.live import stream_extractors
    from ..alarm.watch import Callbacks, Watch, check_paths, fingerprint
    from ..alarm.webhook import Webhook
    from ..data.stream import open_source
    from ..errors import ParameterError
    from ..learn.checkpoint import load_detector

    check_paths(out)
    if webhook is not None and out is None:
        raise ParameterError("a webhook needs a file that keeps the alarms until they are taken", fix="give --out, too")
    if not 0 < health_seconds < float("inf") or settle_seconds < 0:
        raise ParameterError("--health-seconds must be above 0, --settle-seconds at least 0")
    detector, config = load_detector(model)
    networks = {} if config.segment_snippets is None else given_networks(config, onnx, None)
    extractors = stream_extractors(config, networks=networks, where=model)
    notify = _Telling(json=json, status=status, scores=scores)
    given = {"minimum_seconds": minimum_seconds, "merge_seconds": merge_seconds, "snooze_seconds": snooze_seconds}
    rule = _rule(model, camera, threshold, {name: value for name, value in given.items() if value is not None}, notify)
    opened = open_source(source, once=once, settle_seconds=settle_seconds, give_up_seconds=give_up_seconds)
    with ExitStack() as files:
        running = Watch(opened, detector, config, extractors, rule, camera=camera, health_seconds=health_seconds)
        running.callbacks = Callbacks(notify.alarm, notify.segment, notify.note, notify.health)
        if out is not None:
            running.journal = files.enter_context(AlarmJournal(out, notify=notify.note))
            if not opened.live:
                running.progress = files.enter_context(Progress(out, fingerprint(config, rule)))
            if webhook is not None:
                running.webhook = Webhook(webhook, out, name=camera, notify=notify.note)
        notify.note(_beginning(config, rule, opened.name))
        if detector.world:
            notify.note(detector.world)
        with _stopped_by_signals(running):
            notify.end(running.run())


class _Telling:
    """Alarms and scores on stdout, everything else on stderr."""

    def __init__(self, *, json: bool, status: Path | None, scores: bool) -> None:
        self.json, self.status, self.scores = json, status, scores

    def alarm(self, record: dict[str, Any]) -> None:
        typer.echo(json_module.dumps(record))

    def segment(self, video: str, one: SegmentScore) -> None:
        if self.scores:
            facts = {"start_seconds": one.start_seconds, "end_seconds": one.end_seconds, "logit": one.logit, "score": one.score}
            typer.echo(json_module.dumps({"kind": "score", "video": video, **facts}))

    def note(self, text: str) -> None:
        remark(json_module.dumps({"kind": "note", "note": text}) if self.json else text)

    def health(self, health: Health) -> None:
        from ..alarm.watch import health_as_json
        from ..writing import written_whole

        facts = health_as_json(health)
        if self.json:
            remark(json_module.dumps({"kind": "health", **facts}))
        else:
            remark(_in_words(health))
        if self.status is not None:
            try:
                with written_whole(self.status) as file:
                    file.write(json_module.dumps(facts).encode())
            except OSError as error:
                self.note(f"{self.status} cannot be written ({error.strerror})")

    def end(self, health: Health) -> None:
        self.note(
            f"watched {health.frames} frames in {health.seconds:.1f} s: {health.segments} segments, {health.alarms} alarms"
        )


def _rule(model: Path, camera: str, threshold: float | None, given: dict[str, float], notify: _Telling) -> EventRule:
    """The run's calibration, changed by what is given on the command line."""
    import math

    from ..alarm.calibration import read_calibration
    from ..alarm.events import EventRule
    from ..errors import ParameterError

    for name, value in given.items():
        if not 0 <= value < float("inf"):
            raise ParameterError(f"--{name.replace('_', '-')} must be 0 or more", got=value)
    calibration = read_calibration(model)
    rule = EventRule() if calibration is None else calibration.rule_for(camera)
    if threshold is not None:
        if not 0 < threshold < 1:
            raise ParameterError("--threshold is a score between 0 and 1", got=threshold)
        rule = rule.with_threshold(math.log(threshold / (1 - threshold)))
    elif calibration is None:
        notify.note("no calibration: a score of 0.5 is an alarm, and nobody knows how often that is false; see 'calibrate'")
    else:
        notify.note(f"calibrated: {calibration.promise()}")
        if camera and camera not in calibration.cameras:
            notify.note(f"camera '{camera}' has no calibration of its own; that of all cameras together is used")
    return rule.model_copy(update=given)


def _beginning(config: RunConfig, rule: EventRule, name: str) -> str:
    from ..alarm.events import as_score

    modalities = " + ".join(config.manifests)
    return f"watching {name} by {modalities}; an alarm is a score of {as_score(rule.threshold):.3f} or more"


@contextmanager
def _stopped_by_signals(running: Watch) -> Iterator[None]:
    """Ctrl-C and a service's stop end the watching in good order; a second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        running.stop()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_words(health: Health) -> str:
    parts = [f"{health.scored_fps:.1f} of {health.fps:.1f} frames/s scored", f"at {health.position_seconds:.1f} s"]
    if health.lag_seconds is not None:
        parts.append(f"lag {health.lag_seconds:.2f} s")
    counts = {
        "snippets dropped": health.dropped_snippets,
        "reconnects": health.reconnects,
        "alarms": health.alarms,
        "waiting for the webhook": health.webhook_pending,
        "given up by the webhook": health.webhook_given_up,
    }
    parts += [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(parts)
