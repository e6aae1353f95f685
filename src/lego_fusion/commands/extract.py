"""``extract``: a folder of videos to a dataset folder of features."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import USER_ERROR, names, one_line_errors, print_json, progress, remark, warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..data.manifest import Manifest
    from ..extract.base import Extractor
    from ..extract.run import ExtractionReport


@one_line_errors
def extract(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of videos, or one with videos/, labels.csv, intervals.csv and captions/.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Dataset folder to write or to go on with.", show_default=False)],
    modalities: Annotated[
        str,
        typer.Option(
            help="Any of motion, appearance, text, with commas, and in finer units motion-cells, motion-frames, words. "
            "Default: motion, and text where captions are."
        ),
    ] = "",
    onnx: Annotated[Path | None, typer.Option(help="Image network for appearance; without one, HOG and colours.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of video,label[,split].")] = None,
    intervals: Annotated[Path | None, typer.Option(help="Ground truth: video,start_frame,end_frame.")] = None,
    captions: Annotated[Path | None, typer.Option(help="Folder of <video>.json, .csv, .srt, .vtt or .txt.")] = None,
    text_model: Annotated[
        str, typer.Option(help="Sentence embedding: folder, or name on the hub that is in the local cache.")
    ] = "",
    gaps: Annotated[str, typer.Option(help="Snippets without a caption: error, nearest or empty.")] = "error",
    layout: Annotated[str, typer.Option(help="How SOURCE is laid out: folder or ped2.")] = "folder",
    snippet_frames: Annotated[int, typer.Option(help="Frames that a feature row describes.")] = 16,
    stride: Annotated[int, typer.Option(help="Frames from one row to the next.")] = 16,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes one per processor.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 2 if any video failed.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Describe every video by features, once; a stopped run goes on where it was.

    Videos that fail are left out and listed.

    Example: lego-fusion extract my-videos my-dataset --modalities motion,text
    """
    from ..extract.layouts import list_source
    from ..extract.run import extract_dataset

    given: dict[str, Any] = {"labels": labels, "intervals": intervals, "captions": captions, "layout": layout}
    wanted = names(modalities)
    if not wanted:
        captioned = any(video.captions is not None for video in list_source(source, **given).videos)
        wanted = ["motion", "text"] if captioned else ["motion"]
    extractors = _extractors(wanted, onnx, text_model, gaps, snippet_frames)
    with progress(f"extracting {', '.join(wanted)}") as tell:
        report = extract_dataset(
            source,
            out,
            extractors=extractors,
            snippet_frames=snippet_frames,
            stride=stride,
            workers=workers or os.cpu_count() or 1,
            on_progress=lambda step: tell(step.done, step.total),
            **given,
        )
    _tell(report, out, json=json)
    if strict and report.failures:
        raise typer.Exit(USER_ERROR)


def _extractors(wanted: list[str], onnx: Path | None, text_model: str, gaps: str, snippet_frames: int) -> dict[str, Extractor]:
    from ..errors import ParameterError
    from ..extract.appearance import Appearance
    from ..extract.motion import Motion
    from ..extract.motion_units import MotionCells, MotionFrames
    from ..extract.onnx import OnnxImage
    from ..extract.text import DEFAULT_MODEL, Text
    from ..extract.words import Words

    known: dict[str, Callable[[], Extractor]] = {
        "motion": Motion,
        "motion-cells": MotionCells,
        "motion-frames": lambda: MotionFrames(frames=snippet_frames),
        "appearance": Appearance if onnx is None else lambda: OnnxImage(onnx),
        "text": lambda: Text(text_model or DEFAULT_MODEL, gaps=gaps),
        "words": lambda: Words(text_model or DEFAULT_MODEL, gaps=gaps),
    }
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ParameterError(f"unknown modality '{unknown[0]}'", expected=", ".join(known), fix="correct --modalities")
    for option, modalities, value in (("--onnx", ("appearance",), onnx), ("--text-model", ("text", "words"), text_model)):
        if value and not set(modalities) & set(wanted):
            name = modalities[0]
            raise ParameterError(f"{option} is given without the modality {name}", fix=f"add it: --modalities {name}")
    return {name: known[name]() for name in dict.fromkeys(wanted)}


def _tell(report: ExtractionReport, out: Path, *, json: bool) -> None:
    dataset = report.dataset
    labels = {label or "unlabelled": len(dataset.select(label=label)) for label in ("normal", "abnormal", "")}
    splits = {record.split for record in dataset.videos} - {""}
    if json:
        document: dict[str, Any] = {"dataset": str(out), "videos": len(dataset.videos), "labels": labels}
        document["splits"] = {split: len(dataset.select(split=split)) for split in sorted(splits)}
        document["modalities"] = {name: manifest.width for name, manifest in dataset.modalities.items()}
        document |= {"extracted": report.extracted, "reused": report.reused, "seconds": report.seconds}
        document["failures"] = [vars(failure) for failure in report.failures]
        print_json(document | {"warnings": list(report.warnings)})
        return
    for failure in report.failures:
        remark(f"failed: {failure.video}: {failure.message}")
    warn(report.warnings)
    listed = ", ".join(f"{count} {label}" for label, count in labels.items() if count)
    widths = ", ".join(f"{name} ({_size(manifest)})" for name, manifest in dataset.modalities.items())
    typer.echo(
        f"{out}: {len(dataset.videos)} videos ({listed}), {widths} per snippet of {dataset.config.snippet_frames} frames"
    )
    typer.echo(f"{report.extracted} videos extracted, {report.reused} kept as they were, {len(report.failures)} failed")
    typer.echo(_next_command(labels, splits, out))


def _size(manifest: Manifest) -> str:
    numbers = f"{manifest.width} numbers"
    return f"{manifest.units} {manifest.unit_kind}s of {numbers}" if manifest.has_units else numbers


def _next_command(labels: dict[str, int], splits: set[str], out: Path) -> str:
    if labels["normal"] + labels["abnormal"] == 0:
        return f"next: write normal or abnormal into {out / 'videos.csv'}, then lego-fusion train {out} my-run"
    if not splits:
        remark(
            f"note: no video is marked 'train' or 'test' in {out / 'videos.csv'}: all labelled ones will train, "
            "and nothing will be measured"
        )
    if not labels["abnormal"]:
        return f"next: lego-fusion train {out} my-run --normal-only"
    return f"next: lego-fusion train {out} my-run"
