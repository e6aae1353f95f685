"""``explain``: why videos score as they do, as pages; without a video, what a run does with its modalities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .explain_run import explain_runs
from .terminal import one_line_errors, print_json, print_table, progress, warn

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..data.tables import VideoRecord
    from ..report.pictures import Pictures
    from ..why.records import VideoExplanation


@one_line_errors
def explain(
    run: Annotated[Path, typer.Argument(help="Run folder, as 'train' writes it.", show_default=False)],
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIDEO",
            help="Names in the dataset, the name of a split, or 'all'. More run folders instead: their spread over seeds.",
            show_default=False,
        ),
    ] = None,
    *,
    data: Annotated[Path, typer.Option(help="The dataset folder that the run was trained on.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for pages and JSON files.")] = Path("explanations"),
    split: Annotated[str | None, typer.Option(help="Explain all videos of this split of videos.csv.")] = None,
    threshold: Annotated[float, typer.Option(help="An event is a span of frames with this score or more.")] = 0.5,
    removal: Annotated[str, typer.Option(help="What stands for a missing modality: typical, or drop-term.")] = "typical",
    videos_in: Annotated[
        Path | None, typer.Option("--videos", help="Folder of the video files. Default: as videos.csv says.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="Caption file or folder. Default: captions/ beside the video files.")
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Leave pictures out, and with them faces.")] = False,
    evolution: Annotated[
        bool, typer.Option("--evolution", help="What the operator did over the training, from the run's snapshots.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say why videos score as they do: which modality, compared with which known-normal segments, and what without it.

    Writes a page per video that any browser shows, without a server, and a JSON file per event. Without a video it says what
    the run has learned (weights of its readings, or coefficients of its operator) and what each modality contributes to the AUC
    on the test videos; of several runs that differ in their seed, also how much the coefficients vary; of a run with
    snapshots, how the operator came about.

    Example: lego-fusion explain my-run door_07 --data my-dataset
    """
    from ..data.dataset import Dataset
    from ..errors import ParameterError, check_choice, check_number
    from ..why.records import REMOVALS

    check_choice(removal, "removal", "explain", REMOVALS)
    check_number(threshold, "threshold", "explain", low=0.0, high=1.0)
    dataset = Dataset.open(data)
    runs = [run, *(Path(name) for name in videos or () if (Path(name) / "config.json").is_file())]
    wanted = [name for name in videos or () if Path(name) not in runs[1:]]
    if not wanted and split is None:
        explain_runs(runs, dataset, out, evolution=evolution, json=json)
        return
    if evolution:
        raise ParameterError("--evolution is of a run, not of videos", got="RUN VIDEO", fix="leave the videos out")
    if len(runs) > 1:
        got = f"{len(runs)} runs and videos"
        raise ParameterError(
            "videos are explained by one run", expected="RUN VIDEO...", got=got, fix="explain one after the other"
        )
    records = _records(dataset, wanted, split)
    explanations = _explained(run, dataset, records, threshold, removal, captions)
    pictures = None if no_images else _pictures(explanations, dataset, videos_in)
    _save(out, explanations, pictures, data=data, json=json)


def _records(dataset: Dataset, names: Sequence[str], split: str | None) -> list[VideoRecord]:
    """The videos that are meant; a name of a video goes before that of a split."""
    from ..errors import DataError

    known, splits = {one.video: one for one in dataset.videos}, {one.split for one in dataset.videos if one.split}
    found: dict[str, VideoRecord] = {}
    for name in names:
        if name in known or name not in {*splits, "all"}:
            found[name] = dataset.records[name]
        else:
            found |= {one.video: one for one in dataset.videos if name in ("all", one.split)}
    if split is not None:
        chosen = dataset.select(split=split)
        if not chosen:
            got = f"splits {', '.join(sorted(splits)) or '(none)'}"
            raise DataError(f"no video is in the split '{split}'", where=dataset.root, got=got, fix="choose another")
        found |= {one.video: one for one in chosen}
    return list(found.values())


def _explained(
    run: Path, dataset: Dataset, records: Sequence[VideoRecord], threshold: float, removal: Any, captions: Path | None
) -> list[VideoExplanation]:
    from ..extract.captions import captions_of
    from ..why.explainer import Explainer
    from ..why.records import with_captions

    sole = records[0].video if len(records) == 1 else None
    texts = captions_of(records, captions, sole=sole)
    found = []
    with progress("explaining") as notify:
        explainer = Explainer(run, dataset)
        normal = [one for one in dataset.videos if one.video in explainer.normal_videos and one.video not in texts]
        texts |= captions_of(normal, captions, sole=sole, required=False)
        for number, record in enumerate(records):
            found.append(with_captions(explainer.explain(record.video, threshold=threshold, removal=removal), texts))
            notify(number + 1, len(records))
    return found


def _pictures(explanations: Sequence[VideoExplanation], dataset: Dataset, folder: Path | None) -> Pictures:
    from ..errors import DataError
    from ..report.pictures import load_pictures

    if folder is not None and not folder.is_dir():
        raise DataError("not a folder of videos", where=folder, fix="give an existing folder, or --no-images")
    records = {one.video: one for one in dataset.videos}
    with progress("reading pictures") as notify:
        return load_pictures(explanations, records, folder, on_video=notify)


def _save(out: Path, explanations: Sequence[VideoExplanation], pictures: Pictures | None, *, data: Path, json: bool) -> None:
    from ..report.cards import save_cards
    from ..report.words import headline

    files = save_cards(out, explanations, pictures)
    notes = list(dict.fromkeys(pictures.notes)) if pictures is not None else []
    if json:
        documents = [one.document() | {"headlines": [headline(one, event) for event in one.events]} for one in explanations]
        paths = {kind: [str(path) for path in found] for kind, found in files.items()}
        print_json({"data": str(data), "videos": documents, "notes": notes, "files": paths})
        return
    warn(notes)
    _print_events(explanations)
    pages = files["index"] or files["pages"]
    typer.echo(f"written: {len(files['pages'])} pages and {len(files['events'])} event files; open {pages[0]}")


def _print_events(explanations: Sequence[VideoExplanation]) -> None:
    from ..report.words import percent_text, score_text

    names = list(explanations[0].kinds)
    rows = []
    for one in explanations:
        for event in one.events:
            top = event.modalities[0]
            share = percent_text(event.parts.share(event.parts.by_modality[top])) if event.parts is not None else ""
            frames = f"{event.span.start_frame} to {event.span.end_frame - 1}"
            without = {row.modality: f"{score_text(row.without)} ({row.without_logit:.1f})" for row in event.counterfactuals}
            score = f"{score_text(event.span.peak)} ({event.logit:.1f})"
            rows.append((one.video, frames, f"{top} {share}".strip(), score, *(without[name] for name in names)))
    if rows:
        print_table(("video", "frames", "mostly", "score (logit)", *(f"without {name}" for name in names)), rows, left=3)
    quiet = [f"{one.video} ({score_text(float(one.scores.max()))})" for one in explanations if not one.events]
    if quiet:
        threshold = f"{explanations[0].threshold:g}"
        typer.echo(f"no event, no frame is scored {threshold} or more (highest score): {', '.join(quiet)}")
