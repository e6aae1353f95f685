"""``score``: one video, or every video of a folder, to a score per frame."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .run_options import given_networks, reads_captions, truth_beside
from .terminal import USER_ERROR, as_text, one_line_errors, print_json, print_table, progress, remark, warn

if TYPE_CHECKING:
    from ..alarm.events import EventRule
    from ..learn.checkpoint import RunConfig
    from ..learn.scoring import VideoScores
    from ..measure.event_metrics import Event
    from ..report.scores import FolderReport

_MOST_EVENTS = 5
_MOST_VIDEOS = 10


@one_line_errors
def score(
    video: Annotated[Path, typer.Argument(help="Video file, or a folder of them.", show_default=False)],
    model: Annotated[Path, typer.Option(help="Run folder, as 'train' writes it.", show_default=False)],
    captions: Annotated[
        Path | None, typer.Option(help="Its captions. Default: captions/<video>.* beside the video or its folder.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="The image network that appearance was extracted with.")] = None,
    text_model: Annotated[Path | None, typer.Option(help="The folder of the sentence embedding, if it was a folder.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Ground truth. Default: intervals.csv beside the video, if it names it.")
    ] = None,
    camera: Annotated[str, typer.Option(help="Whose calibration to use, where the run has one for each camera.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for <video>.csv, .json and .png.")] = Path("scores"),
    workers: Annotated[int, typer.Option(help="Of a folder: processes; 0 takes one per processor.")] = 0,
    engine: Annotated[str, typer.Option(help="Of a folder: processes, or ray: a Ray cluster.")] = "processes",
    parquet: Annotated[bool, typer.Option("--parquet", help="Of a folder: the summary as Parquet too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score every frame of a video and draw the curve, with the ground truth where it is known.

    Of a folder, every video, into OUT/videos with a summary beside; the same command goes on where it was stopped. Videos that
    fail are listed, the others are scored, and the exit code is 2.

    Example: lego-fusion score door.mp4 --model my-run --captions door.srt

    Example: lego-fusion score recordings --model my-run --workers 4 --out scores
    """
    from ..alarm.event_evaluation import rule_of_run
    from ..errors import MissingExtraError, ParameterError
    from ..extract.captions import captions_beside
    from ..learn.checkpoint import read_run_config
    from ..learn.scoring import open_run, score_video
    from ..report.scores import save_scores, scores_document

    config = read_run_config(model)
    rule, promise = rule_of_run(model, camera)
    if video.is_dir():
        if captions is not None:
            fix = f"put captions/<video>.srt (.vtt, .json, .csv, .txt) into {video}"
            raise ParameterError("--captions is for one video", where=video, got="a folder", fix=fix)
        given = {"rule": rule, "networks": given_networks(config, onnx, text_model), "engine": engine, "parquet": parquet}
        _score_folder(config, model, video, out, truth, given, workers, json=json)
        return
    if not video.is_file():
        raise ParameterError("there is no such video file", where=video, fix="check the path")
    networks = given_networks(config, onnx, text_model)
    with_text = reads_captions(config)
    found = captions_beside(video) if captions is None and with_text else captions
    if with_text and found is None:
        fix = f"give them with --captions, or put captions/{video.stem}.srt (.vtt, .json, .csv, .txt) beside the video"
        raise ParameterError("the model needs captions, and none are beside the video", where=video, fix=fix)
    with progress(f"scoring {video.name}") as notify:
        opened = open_run(model, networks=networks)
        scores = score_video(opened, video, captions=found, intervals=truth or truth_beside(video))
        notify(1, 1)
    warnings = list(scores.warnings)
    if truth is not None and scores.truth is not None and not scores.truth.any():
        warnings.append(f"{truth} has no interval of {video.stem}: all its frames count as normal")
    try:
        files = save_scores(out, scores, rule)
    except MissingExtraError as missing:
        warnings.append(f"no picture is drawn: {missing}")
        files = save_scores(out, scores, rule, picture=False)
    if json:
        beside = {"warnings": warnings, "model": str(model), "world": opened.detector.world, "files": as_text(files)}
        print_json(scores_document(scores, rule) | beside)
        return
    warn(warnings)
    _print_outcome(scores, files, rule, promise)
    if opened.detector.world:
        remark(opened.detector.world)


def _score_folder(
    config: RunConfig,
    model: Path,
    folder: Path,
    out: Path,
    truth: Path | None,
    given: dict[str, Any],
    workers: int,
    *,
    json: bool,
) -> None:
    from ..data.video import find_videos
    from ..extract.captions import captions_beside
    from ..report.scores import VideoToScore, score_folder

    captioned = reads_captions(config)
    videos = [
        VideoToScore(path, captions_beside(path) if captioned else None, truth or truth_beside(path))
        for path in find_videos(folder)
    ]
    picture = importlib.util.find_spec("matplotlib") is not None
    with progress(f"scoring {len(videos)} videos") as notify:
        report = score_folder(
            model, videos, out, workers=workers or os.cpu_count() or 1, picture=picture, on_video=notify, **given
        )
    warnings = [] if picture else ["no pictures are drawn: pip install 'lego-fusion[report]'"]
    if json:
        rows = [vars(row) for row in report.rows]
        document = {"videos": rows, "failures": report.failures, "reused": report.reused, "warnings": warnings}
        print_json(document | {"model": str(model), "world": report.world, "files": as_text(report.files)})
    else:
        _tell_folder(report)
        if report.world:
            remark(report.world)
    warn([*warnings, *(f"{row.video}: {row.warnings}" for row in report.rows if row.warnings)])
    for name, line in report.failures.items():
        remark(f"failed: {name}: {line}")
    if report.failures:
        raise typer.Exit(USER_ERROR)


def _tell_folder(report: FolderReport) -> None:
    highest = sorted(report.rows, key=lambda row: -row.highest_score)[:_MOST_VIDEOS]
    if highest:
        typer.echo(f"the {len(highest)} videos of the highest scores, of {len(report.rows)}:")
        rows = [
            (
                row.video,
                f"{row.seconds:.1f}",
                f"{row.highest_score:.3f}",
                f"{row.highest_at:.1f}",
                str(row.events),
                _auc(row.auc),
            )
            for row in highest
        ]
        print_table(("video", "seconds", "highest score", "at (s)", "events", "AUC"), rows, whole=True)
    typer.echo(f"{len(report.rows) - report.reused} scored, {report.reused} kept as they were, {len(report.failures)} failed")
    typer.echo("written: " + ", ".join(map(str, report.files.values())))


def _auc(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _print_outcome(scores: VideoScores, files: dict[str, Path], rule: EventRule, promise: str) -> None:
    from ..alarm.event_evaluation import events_of
    from ..alarm.events import as_score
    from ..measure.detection import micro_auc
    from ..measure.scored import ScoredVideo

    place = int(scores.scores.argmax())
    at = f"{scores.times[place]:.1f} s"
    typer.echo(f"{scores.video}: {len(scores.scores)} frames, highest score {scores.scores[place]:.2f} at {at}")
    events = sorted(events_of(scores, rule), key=lambda event: -event.peak)
    if events:
        rows = [
            (f"{one.start_seconds:.1f} to {one.end_seconds:.1f}", f"{one.peak:.2f}", f"{as_score(one.peak):.2f}", _alarm(one))
            for one in events[:_MOST_EVENTS]
        ]
        typer.echo(f"events, the highest {len(rows)} of {len(events)}:")
        print_table(("seconds", "peak (logit)", "as a score", "alarm at"), rows)
    else:
        typer.echo(f"no event: nothing lasts above logit {rule.threshold:.2f}, a score of {as_score(rule.threshold):.2f}")
    typer.echo(f"rule: {promise}")
    if scores.truth is not None and scores.truth.any() and not scores.truth.all():
        auc = micro_auc([ScoredVideo.from_frames(scores.video, scores.scores, scores.truth)])
        typer.echo(f"against the ground truth: AUC {100 * auc:.1f} % over the frames of this video")
    typer.echo("written: " + ", ".join(map(str, files.values())))


def _alarm(event: Event) -> str:
    return "snoozed" if event.alarm_seconds is None else f"{event.alarm_seconds:.1f}"
