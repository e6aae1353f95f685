"""``extract``: a folder of videos to a dataset folder of features."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import USER_ERROR, names, one_line_errors, print_json, progress, remark, warn

if TYPE_CHECKING:
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
            help="Any of motion, appearance, text, audio, in finer units motion-cells, motion-frames, words, your own "
            "FILE.py:Class, or NAME=EXTRACTOR. Default: motion, and text where captions are."
        ),
    ] = "",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME.SETTING=VALUE of an extractor, such as coarse.preset=fast.")
    ] = None,
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
    engine: Annotated[str, typer.Option(help="processes, or ray: the cluster of RAY_ADDRESS or a local one.")] = "processes",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 2 if any video failed.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Describe every video by features, once; a stopped run goes on where it was.

    Videos that fail are left out and listed. One signal may be described in several ways: NAME=EXTRACTOR names a modality and
    what makes it: motion, appearance (gradients and colours), onnx (the network of --onnx), text, audio, FILE.py:Class, or one
    that an installed package announces.

    Example: lego-fusion extract my-videos my-dataset --modalities motion,text,coarse=motion --set coarse.preset=fast
    """
    from ..extract.layouts import list_source
    from ..extract.run import extract_dataset

    given: dict[str, Any] = {"labels": labels, "intervals": intervals, "captions": captions, "layout": layout}
    wanted = names(modalities)
    if not wanted:
        captioned = any(video.captions is not None for video in list_source(source, **given).videos)
        wanted = ["motion", "text"] if captioned else ["motion"]
    extractors = _extractors(wanted, setting or [], onnx, text_model, gaps, snippet_frames)
    with progress(f"extracting {', '.join(extractors)}") as notify:
        report = extract_dataset(
            source,
            out,
            extractors=extractors,
            snippet_frames=snippet_frames,
            stride=stride,
            workers=workers or os.cpu_count() or 1,
            engine=engine,
            on_progress=lambda step: notify(step.done, step.total),
            **given,
        )
    _print_outcome(report, out, json=json)
    if strict and report.failures:
        raise typer.Exit(USER_ERROR)


def _extractors(
    wanted: list[str], settings: list[str], onnx: Path | None, text_model: str, gaps: str, snippet_frames: int
) -> dict[str, Extractor]:
    from ..data.manifest import Manifest
    from ..errors import ParameterError
    from ..extract.registry import EXTRACTORS, make_extractor
    from ..extract.text import DEFAULT_MODEL

    kinds: dict[str, str] = {}
    for text in dict.fromkeys(wanted):
        name, equals, kind = text.partition("=")
        if not equals and name not in EXTRACTORS:
            fix = "correct --modalities, or give NAME=EXTRACTOR"
            raise ParameterError(f"unknown modality '{name}'", expected=", ".join(EXTRACTORS), fix=fix)
        if not equals:  # named as its extractor, or for its class
            name = text.rpartition(":")[2].lower() if ":" in text else text
            kind = "onnx" if text == "appearance" and onnx is not None else text
        if name in kinds or not Manifest.is_name(name):
            got, fix = repr(text), "name each once, with a letter first and then letters, digits, - and _"
            raise ParameterError("the modality cannot be named so", got=got, fix=fix)
        kinds[name] = kind
    for option, users, value in (("--onnx", {"onnx"}, onnx), ("--text-model", {"text", "words"}, text_model)):
        if value and not users & set(kinds.values()):
            modality = "appearance" if option == "--onnx" else "text"
            raise ParameterError(f"{option} is given without the modality {modality}", fix=f"add it: --modalities {modality}")
    sentences = {"model": text_model or DEFAULT_MODEL, "gaps": gaps}
    usual: dict[str, dict[str, Any]] = {"text": sentences, "words": sentences, "motion-frames": {"frames": snippet_frames}}
    usual["onnx"] = {} if onnx is None else {"path": onnx}
    chosen = _settings(settings, kinds)
    for name, kind in kinds.items():
        if kind == "onnx" and onnx is None and "path" not in chosen.get(name, {}):
            raise ParameterError("the modality needs its network", where=name, fix="give it with --onnx FILE")
    return {
        name: make_extractor(kind, usual.get(kind, {}) | chosen.get(name, {}), modality=name) for name, kind in kinds.items()
    }


def _settings(texts: list[str], names: Collection[str]) -> dict[str, dict[str, Any]]:
    """NAME.SETTING=VALUE, the value as YAML reads it."""
    import yaml

    from ..errors import ParameterError

    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        name, dot, setting = place.partition(".")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            read = None
        if not (equals and dot and setting) or read is None or name not in names:
            expected = f"NAME.SETTING=VALUE with a NAME of {', '.join(names)}"
            raise ParameterError(
                "--set cannot be understood", expected=expected, got=repr(text), fix="--set motion.preset=fast"
            )
        settings.setdefault(name, {})[setting] = read
    return settings


def _print_outcome(report: ExtractionReport, out: Path, *, json: bool) -> None:
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
