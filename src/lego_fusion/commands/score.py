"""``score``: one video to a score per frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import as_text, one_line_errors, print_json, print_table, progress, warn

if TYPE_CHECKING:
    from ..detect.checkpoint import RunConfig
    from ..detect.events import EventRule
    from ..detect.runs import VideoScores
    from ..measure.events import Event

_MOST_EVENTS = 5
_CAPTION_EXTRACTORS = ("text", "words")


@one_line_errors
def score(
    video: Annotated[Path, typer.Argument(help="Video file.", show_default=False)],
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
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score every frame of a video and draw the curve, with the ground truth where it is known.

    Example: lego-fusion score door.mp4 --model my-run --captions door.srt
    """
    from ..detect.checkpoint import read_run_config
    from ..detect.event_evaluation import rule_of_run
    from ..detect.runs import score_video
    from ..errors import MissingExtraError, ParameterError
    from ..report.scores import save_scores, scores_document

    config = read_run_config(model)
    rule, promise = rule_of_run(model, camera)
    if not video.is_file():
        raise ParameterError("there is no such video file", where=video, fix="check the path")
    networks = _networks(config, onnx, text_model)
    with_text = any(manifest.extractor in _CAPTION_EXTRACTORS for manifest in config.manifests.values())
    found = _beside(video, "captions") if captions is None and with_text else captions
    if with_text and found is None:
        fix = f"give them with --captions, or put captions/{video.stem}.srt (.vtt, .json, .csv, .txt) beside the video"
        raise ParameterError("the model needs captions, and none are beside the video", where=video, fix=fix)
    with progress(f"scoring {video.name}") as tell:
        scores = score_video(model, video, captions=found, networks=networks, intervals=truth or _truth_beside(video))
        tell(1, 1)
    warnings = list(scores.warnings)
    if truth is not None and scores.truth is not None and not scores.truth.any():
        warnings.append(f"{truth} has no interval of {video.stem}: all its frames count as normal")
    try:
        files = save_scores(out, scores, rule)
    except MissingExtraError as missing:
        warnings.append(f"no picture is drawn: {missing}")
        files = save_scores(out, scores, rule, picture=False)
    if json:
        print_json(scores_document(scores, rule) | {"warnings": warnings, "model": str(model), "files": as_text(files)})
        return
    warn(warnings)
    _tell(scores, files, rule, promise)


def _networks(config: RunConfig, onnx: Path | None, text_model: Path | None) -> dict[str, Path]:
    """The network of each modality that needs one from this machine."""
    from ..errors import ParameterError

    networks: dict[str, Path] = {}
    for option, extractors, path in (("--onnx", ("onnx",), onnx), ("--text-model", _CAPTION_EXTRACTORS, text_model)):
        using = [name for name, manifest in config.manifests.items() if manifest.extractor in extractors]
        if path is not None and not using:
            got = ", ".join(f"{name} by {manifest.extractor}" for name, manifest in config.manifests.items())
            raise ParameterError(f"{option} is given, but the model uses no such network", got=got, fix="leave it out")
        if path is None and using and option == "--onnx":
            file = config.manifests[using[0]].settings.get("file")
            fix = "give it with --onnx"
            raise ParameterError(f"the model needs the network of '{using[0]}'", expected=f"the file {file}", fix=fix)
        networks |= {name: path for name in using if path is not None}
    return networks


def _beside(video: Path, folder: str) -> Path | None:
    """The caption file of a video in ``captions/`` beside it or beside its folder."""
    from ..extract.captions import CAPTION_SUFFIXES

    for parent in (video.parent, video.parent.parent):
        for suffix in CAPTION_SUFFIXES:
            path = parent / folder / f"{video.stem}{suffix}"
            if path.is_file():
                return path
    return None


def _truth_beside(video: Path) -> Path | None:
    """The ``intervals.csv`` beside a video or its folder, if it names the video."""
    from ..data.annotations import read_intervals

    for parent in (video.parent, video.parent.parent):
        path = parent / "intervals.csv"
        if path.is_file() and {video.stem, video.name} & set(read_intervals(path)):
            return path
    return None


def _tell(scores: VideoScores, files: dict[str, Path], rule: EventRule, promise: str) -> None:
    from ..detect.event_evaluation import events_of
    from ..detect.events import as_score
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
