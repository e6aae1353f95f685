"""``report``: what a run says of videos, as one HTML file that needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .run_options import given_networks, reads_captions, truth_beside
from .terminal import names, one_line_errors, print_json, progress, warn

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..report.pictures import Pictures
    from ..report.report_data import Report


@one_line_errors
def report(
    run: Annotated[Path, typer.Argument(help="Run folder, as 'train' writes it.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder with the videos to show; with --video, the one trained on.")
    ] = None,
    split: Annotated[str, typer.Option(help="Show, and measure on, the videos of this split of videos.csv.")] = "test",
    videos: Annotated[str, typer.Option(help="Show these videos of the dataset instead, with commas.")] = "",
    video: Annotated[Path | None, typer.Option(help="Show one video file.")] = None,
    captions: Annotated[Path | None, typer.Option(help="With --video: its captions, if not found beside it.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="With --video: the image network of appearance.")] = None,
    text_model: Annotated[Path | None, typer.Option(help="With --video: the folder of the sentence embedding.")] = None,
    truth: Annotated[Path | None, typer.Option(help="With --video: intervals.csv, if not found beside it.")] = None,
    camera: Annotated[str, typer.Option(help="With --video: whose calibration to use.")] = "",
    videos_in: Annotated[
        Path | None, typer.Option("--videos-in", help="Folder of the video files, for pictures. Default: as videos.csv says.")
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures as PNG and SVG, too.")] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Leave pictures out, and with them faces.")] = False,
    megabytes: Annotated[float, typer.Option(help="Most of graphs and pictures together; 5 MB of Plotly come to it.")] = 8.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what a run says of videos: curves, events, pictures, relation graphs, metrics and the model card, in one file.

    Any browser opens it, without a server and without a network. With --data, all videos of a split; with --video, one file.

    Example: lego-fusion report my-run --data my-dataset --out report.html
    """
    from ..errors import check_number
    from ..report.figures import new_figure
    from ..report.report_page import plotly_script
    from ..report.run_report import check_place, save_report

    check_number(megabytes, "megabytes", "report", low=0.0, high=1000.0)
    check_place(out)
    plotly_script()  # before anything long runs
    if figures is not None:
        new_figure(1.0, 1.0)
    dataset = _dataset(data, video, videos, videos_in)
    if video is None:
        assert dataset is not None  # noqa: S101 - narrows the type for mypy
        found = _of_run(run, dataset, split, names(videos))
    else:
        found = _of_video(run, video, dataset, captions, onnx, text_model, truth, camera)
    pictures = None if no_images else _pictures(found, dataset, video, videos_in)
    save_report(out, found, pictures, megabytes=megabytes)
    drawn = _figures(figures, found) if figures is not None else []
    _print_outcome(found, pictures, out, drawn, json=json)


def _dataset(data: Path | None, video: Path | None, videos: str, videos_in: Path | None) -> Dataset | None:
    """The dataset folder, once the options fit each other."""
    from ..data.dataset import Dataset
    from ..errors import DataError, ParameterError

    if data is None and video is None:
        raise ParameterError("there is nothing to show", expected="--data DATASET or --video FILE", fix="give one of them")
    if video is not None and (videos or videos_in is not None):
        got = "--videos" if videos else "--videos-in"
        raise ParameterError(f"{got} is of a dataset, not of one video file", fix="leave it out, or leave --video out")
    if video is not None and not video.is_file():
        raise ParameterError("there is no such video file", where=video, fix="check the path")
    if videos_in is not None and not videos_in.is_dir():
        raise DataError("not a folder of videos", where=videos_in, fix="give an existing folder, or --no-images")
    return None if data is None else Dataset.open(data)


def _of_run(run: Path, dataset: Dataset, split: str, videos: list[str]) -> Report:
    from ..report.run_report import run_report

    with progress("reading videos") as notify:
        return run_report(run, dataset, split=split, videos=videos, on_video=notify)


def _of_video(
    run: Path,
    video: Path,
    dataset: Dataset | None,
    captions: Path | None,
    onnx: Path | None,
    text_model: Path | None,
    truth: Path | None,
    camera: str,
) -> Report:
    from ..extract.captions import captions_beside
    from ..learn.checkpoint import read_run_config
    from ..report.run_report import video_report

    config = read_run_config(run)
    given: dict[str, Any] = {"networks": given_networks(config, onnx, text_model), "intervals": truth or truth_beside(video)}
    found = captions_beside(video) if captions is None and reads_captions(config) else captions
    with progress(f"scoring {video.name}") as notify:
        made = video_report(run, video, dataset=dataset, captions=found, camera=camera, **given)
        notify(1, 1)
    return made


def _pictures(found: Report, dataset: Dataset | None, video: Path | None, folder: Path | None) -> Pictures:
    from ..report.run_report import report_pictures

    files = {} if video is None else {found.readings[0].video: video}
    with progress("reading pictures") as notify:
        return report_pictures(found, dataset, folder=folder, files=files, on_video=notify)


def _figures(folder: Path, found: Report) -> list[Path]:
    from ..report.figures import save_report_figures

    with progress("drawing figures") as notify:
        return save_report_figures(folder, found, on_video=notify)


def _print_outcome(found: Report, pictures: Pictures | None, out: Path, figures: list[Path], *, json: bool) -> None:
    notes = [*found.notes, *dict.fromkeys(pictures.notes if pictures is not None else ())]
    events = {one.video: len(one.events) for one in found.readings}
    size = out.stat().st_size
    if json:
        document: dict[str, Any] = {"file": str(out), "bytes": size, "figures": [str(path) for path in figures]}
        print_json(document | {"videos": events, "notes": notes})
        return
    warn(notes)
    drawn = f" and {len(figures)} figures in {figures[0].parent}" if figures else ""
    typer.echo(f"{len(events)} video{'' if len(events) == 1 else 's'} with {sum(events.values())} events")
    typer.echo(f"written: {out} ({size / 1e6:.1f} MB){drawn}; open it in any browser")
