"""``import``: features and lists that others prepared, as a dataset folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import one_line_errors, print_json, progress, warn

if TYPE_CHECKING:
    from ..data.importers import ImportReport, Source
    from ..data.lists import Benchmark, ListedVideo

_FILES = ("{video}_i3d.npy", "{video}_emb.npy", "{video}.npy")


@one_line_errors
def import_(
    out: Annotated[Path, typer.Argument(help="Dataset folder to write.", show_default=False)],
    features: Annotated[
        list[str], typer.Option(help="NAME=FOLDER of a modality, or NAME=FILE.h5; the first one gives the snippets.")
    ],
    train_list: Annotated[Path | None, typer.Option(help="List file of the training videos.")] = None,
    test_list: Annotated[Path | None, typer.Option(help="List file of the test videos, in the order of the truth.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table video,label[,split,class,domain,source].")] = None,
    benchmark: Annotated[str, typer.Option(help="Known names and sizes: ped2, shanghaitech, ucf-crime, ...")] = "",
    abnormal_first: Annotated[
        list[str] | None, typer.Option(help="SPLIT=N: the first N videos of that list are abnormal.")
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(help="Abnormal frames, of the test videos at least: array, annotations, masks or intervals."),
    ] = None,
    ground_truth_form: Annotated[str, typer.Option(help="auto, array, ucf-crime, xd-violence, masks or intervals.")] = "auto",
    files: Annotated[
        list[str] | None, typer.Option(help="NAME=PATTERN of file names with {video}, or the name of an array.")
    ] = None,
    text_length: Annotated[
        str, typer.Option(help="Where other modalities have more or fewer rows: error, resample, truncate, repeat-last.")
    ] = "error",
    text_stride: Annotated[int, typer.Option(help="Frames from row to row of the other modalities; 0: unknown.")] = 0,
    text_times: Annotated[str, typer.Option(help="Pattern of .npy files with the frames of their rows.")] = "",
    magnitude: Annotated[list[str] | None, typer.Option(help="Modality whose numbers are amounts, such as speed.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Table video,frames[,fps] of the real videos.")] = None,
    fps: Annotated[float, typer.Option(help="Frame rate of all videos; 0: unknown.")] = 0.0,
    stride: Annotated[int, typer.Option(help="Frames from one feature row to the next, and in each.")] = 16,
    name: Annotated[str, typer.Option(help="Name of the dataset; that of the folder without it.")] = "",
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Warn where a part is missing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a dataset folder of features that exist already, in the layout of TEVAD, RTFM and MSAD or a plain folder.

    .npy features stay where they are. Labels come from the names that --benchmark knows, from --labels, or from
    --abnormal-first; what disagrees is refused, and so is everything that does not fit.

    Example: lego-fusion import sh --benchmark shanghaitech --features clip=SH_ten_crop_i3d --features text=sent_emb_n
    --train-list shanghai-i3d-train-10crop.list --test-list shanghai-i3d-test-10crop.list --ground-truth gt-sh2.npy
    """
    from ..data.importers import import_dataset, read_frame_counts
    from ..data.lists import benchmark as find_benchmark

    known = find_benchmark(benchmark) if benchmark else None
    lists = {split: path for split, path in (("train", train_list), ("test", test_list)) if path is not None}
    videos = _videos(lists, labels, known, _counts(abnormal_first or ()))
    others = {"length": text_length, "stride": text_stride or None, "times": text_times or None}
    sources = _sources(_pairs(features, "--features"), _pairs(files or (), "--files"), others, videos)
    with progress("looking at features") as notify:
        report = import_dataset(
            out,
            videos,
            sources,
            name=name or out.resolve().name,
            ground_truth=ground_truth,
            ground_truth_form=ground_truth_form,
            frame_counts=None if frames is None else read_frame_counts(frames),
            fps=fps or None,
            snippet_frames=stride,
            stride=stride,
            natures=dict.fromkeys(magnitude or (), "magnitude"),
            benchmark=known,
            allow_partial=allow_partial,
            on_progress=notify,
        )
    _print_outcome(report, out, known, json=json)


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    from ..errors import ParameterError

    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in pairs:
            raise ParameterError(f"{option} wants NAME=VALUE, each name once", got=repr(text), fix=f"{option} clip=FOLDER")
        pairs[name] = value
    return pairs


def _counts(texts: Sequence[str]) -> dict[str, int]:
    from ..errors import ParameterError

    counts = _pairs(texts, "--abnormal-first")
    if not all(value.isdecimal() for value in counts.values()):
        raise ParameterError("--abnormal-first wants SPLIT=NUMBER", got=", ".join(texts), fix="--abnormal-first train=63")
    return {split: int(value) for split, value in counts.items()}


def _videos(
    lists: Mapping[str, Path], table: Path | None, known: Benchmark | None, abnormal_first: Mapping[str, int]
) -> Sequence[ListedVideo]:
    from ..data.lists import label_videos, read_labels, read_lists
    from ..errors import ParameterError

    rows = None if table is None else read_labels(table)
    listed = read_lists(lists) if lists else rows
    if listed is None:
        raise ParameterError("no videos are named", fix="give --train-list and --test-list, or --labels")
    unknown = sorted(set(abnormal_first) - {video.split for video in listed})
    if unknown:
        raise ParameterError(f"--abnormal-first names the split '{unknown[0]}', which has no list", fix="correct it")
    return label_videos(listed, rule=known.names if known else None, table=rows, abnormal_first=abnormal_first)


def _sources(
    folders: Mapping[str, str], files: Mapping[str, str], others: Mapping[str, Any], videos: Sequence[ListedVideo]
) -> dict[str, Source]:
    from pydantic import ValidationError

    from ..data.features import LENGTH_RULES, FeatureLocation
    from ..data.importers import HDF5_ENDINGS, ArrayFiles
    from ..errors import DataError, ParameterError, check_choice

    check_choice(others["length"], "--text-length", "import", LENGTH_RULES)
    if unknown := sorted(set(files) - set(folders)):
        raise ParameterError(f"--files names '{unknown[0]}', which --features does not", fix="correct the name")
    sources: dict[str, Source] = {}
    for number, (modality, folder) in enumerate(folders.items()):
        path = Path(folder).resolve()
        if not path.exists():
            raise DataError("there is no such feature folder", where=f"modality '{modality}'", expected=path)
        if path.suffix in HDF5_ENDINGS or (path.is_dir() and any(path.glob("*.npz"))):
            sources[modality] = ArrayFiles(path, files.get(modality, ""))
            continue
        pattern = files.get(modality) or _usual_files(path, videos)
        try:
            sources[modality] = FeatureLocation(root=str(path), files=pattern, **(others if number else {}))
        except ValidationError as error:
            raise ParameterError(error.errors()[0]["msg"], where=f"modality '{modality}'", fix="correct --files") from error
    return sources


def _usual_files(folder: Path, videos: Sequence[ListedVideo]) -> str:
    """The pattern of the field that fits the most videos."""
    return max(_FILES, key=lambda files: sum((folder / files.replace("{video}", one.video)).is_file() for one in videos))


def _print_outcome(report: ImportReport, out: Path, known: Benchmark | None, *, json: bool) -> None:
    dataset = report.dataset
    splits = sorted({record.split for record in dataset.videos})
    counts = {split: {label: report.count(split, label) for label in ("normal", "abnormal")} for split in splits}
    located = sum(len(intervals) for intervals in dataset.ground_truth.values())
    widths = {name: {"width": manifest.width, "crops": manifest.crops} for name, manifest in dataset.modalities.items()}
    if json:
        document = {"dataset": str(out), "videos": len(dataset.videos), "splits": counts, "modalities": widths}
        document |= {"intervals": located, "copied": report.copied, "warnings": list(report.warnings)}
        document["protocol"] = None if known is None else {"metric": known.metric, "protocol": known.protocol}
        print_json(document)
        return
    warn(report.warnings)
    for split, labels in counts.items():
        typer.echo(f"{split or 'no split'}: {sum(labels.values())} videos, {labels['abnormal']} of them abnormal")
    listed = ", ".join(f"{name} ({one['crops']} x {one['width']})" for name, one in widths.items())
    typer.echo(f"{out}: {len(dataset.videos)} videos, {listed}, {located} intervals, {report.copied} feature files copied")
    if known is not None:
        typer.echo(f"{known.title}: {known.metric}; {known.protocol}")
    typer.echo(f"next: lego-fusion doctor {out}, then lego-fusion train {out} my-run")
