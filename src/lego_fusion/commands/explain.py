"""``explain``: why a video has its score; without a video, what was learned and what each modality contributes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import one_line_errors, print_json, print_table, progress, warn

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..data.tables import VideoRecord
    from ..explain.shapley import Contributions
    from ..explain.terms import ShareHistory
    from ..report.pictures import Pictures
    from ..why.learned import CoefficientRow, OperatorExplanation, ReadingWeights
    from ..why.records import VideoExplanation


_MOST_ROWS, _MOST_STEPS = 12, 12


def explain_runs(runs: Sequence[Path], dataset: Dataset, out: Path, *, evolution: bool, json: bool) -> None:
    """Say what runs have learned, what each modality contributes on the test videos, and how an operator changed."""
    from ..errors import ParameterError
    from ..learn.checkpoint import list_snapshots, load_detector
    from ..why.learned import explain_operator, operator_history, reading_weights

    notes: list[str] = []
    operator: OperatorExplanation | None = None
    read = {run.name: reading_weights(load_detector(run)[0]) for run in runs}
    weights = {name: one for name, one in read.items() if one is not None}
    try:
        operator = explain_operator(runs, dataset)
    except ParameterError as error:  # another model: what modalities contribute can be said all the same
        if not weights:
            notes.append(str(error))
    followed = runs if evolution else [run for run in runs if operator is not None and list_snapshots(run)]
    histories = {run: operator_history(run, dataset) for run in followed}
    found = _contributions(runs, dataset, notes)
    if operator is None and found is None and not weights:
        raise ParameterError("nothing can be said of this run without a video", got=notes[-1], fix="explain videos")
    files = [file for run, history in histories.items() for file in _save_history(out, run.name, history, notes)]
    if json:
        document: dict[str, Any] = operator.document() if operator is not None else {}
        document["weights"] = {name: one.document() for name, one in weights.items()}
        document["contributions"] = None if found is None else {"metric": "micro AUC", "split": "test", **found.document()}
        document["evolution"] = {run.name: _history_document(history) for run, history in histories.items()}
        print_json(document | {"notes": notes, "files": [str(file) for file in files]})
        return
    warn(notes)
    for name, one in weights.items():
        _print_weights(name, one)
    if operator is not None:
        _print_operator(operator)
    if found is not None:
        _print_contributions(found, len(runs))
    for run, history in histories.items():
        _print_history(run.name, history)
    if files:
        typer.echo(f"written: {', '.join(map(str, files))}")


def _print_weights(run: str, found: ReadingWeights) -> None:
    typer.echo(f"{run} lives in the {found.world}")
    headings = ["", *(f"degree, order {order}" for order in found.orders), "departure"]
    headings += [f"own video, order {order}" for order in found.orders] if found.own else []
    rows = []
    for row in found.rows:
        sizes = [found.departure.get(row)]
        own = found.own.get(row, (None,) * (len(found.orders) if found.own else 0))
        rows.append((row, *("" if value is None else f"{value:.3f}" for value in (*found.degrees[row], *sizes, *own))))
    print_table(headings, rows)
    typer.echo("degrees start at a weight of 1, departures at 0; a departure's weight is the length over its columns")


def _contributions(runs: Sequence[Path], dataset: Dataset, notes: list[str]) -> Contributions | None:
    """What each modality contributes on the test videos; None, and a note, where that cannot be measured."""
    from ..errors import DataError, ParameterError
    from ..learn.evaluation import measurable_videos
    from ..why.contributions import run_contributions

    try:
        videos = measurable_videos(dataset, "test")[0]
        if len({bool(label) for video in videos for label in dataset.frame_labels(video)}) < 2:
            raise DataError("the AUC needs normal and abnormal frames", where="split 'test'")
    except DataError as error:
        notes.append(f"what each modality contributes is not measured: {error}")
        return None
    try:
        with progress("taking modalities away") as notify:
            try:
                found = run_contributions(runs, dataset)
            except DataError as too_few:
                found = run_contributions(runs, dataset, intervals=False)
                notes.append(f"contributions have no interval: {too_few}")
            notify(found.evaluations, found.evaluations)
            return found
    except ParameterError as too_many:
        notes.append(f"what each modality contributes is not measured: {too_many}")
        return None


def _print_contributions(found: Contributions, runs: int) -> None:
    mean = f", mean of {runs} runs" if runs > 1 else ""
    typer.echo(f"micro AUC of the test videos{mean}: {found.full:.3f}; what each modality contributes (Shapley values):")
    rows = []
    for one in found.rows():
        interval = f"[{one['low']:+.3f}, {one['high']:+.3f}]" if "low" in one else ""
        rows.append((one["modality"], f"{one['value']:+.3f}", interval, f"{one['alone']:.3f}"))
    level = f"{100 * found.intervals[0].level:g} % interval" if found.intervals else "no interval"
    print_table(("modality", "contributes", level, "AUC alone"), rows)
    cooperation = f"cooperation {float(found.cooperation):+.3f}"
    if found.intervals:
        cooperation += f" [{found.intervals[-1].low:+.3f}, {found.intervals[-1].high:+.3f}]"
    meaning = "below 0: they repeat each other, above 0: they need each other"
    typer.echo(f"{cooperation} ({meaning}); without any modality {float(found.baseline):.3f}; removal: {found.removal}")


def _save_history(out: Path, run: str, history: ShareHistory, notes: list[str]) -> list[Path]:
    """Write the shares as CSV and, where matplotlib is there, as a figure."""
    from ..errors import MissingExtraError
    from ..report.figures import share_lines
    from ..writing import written_whole

    lines, text = history.lines(), io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("step", *lines))
    table.writerows((step, *(f"{line[place]:.6f}" for line in lines.values())) for place, step in enumerate(history.steps))
    files = [out / f"{run}-evolution.csv"]
    with written_whole(files[0]) as file:
        file.write(text.getvalue().encode())
    try:
        share_lines(out / f"{run}-evolution.png", history.steps, lines, title=run)
        files.append(out / f"{run}-evolution.png")
    except MissingExtraError as error:
        notes.append(f"no figure: {error}")
    return files


def _history_document(history: ShareHistory) -> dict[str, Any]:
    orders = {str(order): list(line) for order, line in history.by_order.items() if order}
    return {"steps": list(history.steps), "by_modalities": {k: list(v) for k, v in history.lines().items()}, "by_order": orders}


def _print_history(run: str, history: ShareHistory) -> None:
    typer.echo(f"{run}: share of the fused graph's variation over the training, in %")
    count = len(history.steps)
    shown = sorted(
        {round(place * (count - 1) / (min(count, _MOST_STEPS) - 1 or 1)) for place in range(min(count, _MOST_STEPS))}
    )
    rows = [(name, *(f"{100 * line[place]:.1f}" for place in shown)) for name, line in history.lines().items()]
    print_table(("step", *(str(history.steps[place]) for place in shown)), rows[:_MOST_ROWS])


def _print_operator(found: OperatorExplanation) -> None:
    for name, seed, sentence in zip(found.runs, found.seeds, found.sentences, strict=True):
        typer.echo(f"{name} (seed {seed}): {sentence}")
    _print_coefficients(found)


def _print_coefficients(found: OperatorExplanation) -> None:
    several = len(found.runs) > 1
    headings = ["term", "coefficient", *(["deviation", "same sign"] if several else []), "share of the variation"]
    print_table(headings, [_coefficient_row(row) for row in found.rows[:_MOST_ROWS]])
    left = len(found.rows) - _MOST_ROWS
    if left > 0:
        share = sum(row.variance_share for row in found.rows[_MOST_ROWS:])
        typer.echo(f"{left} smaller terms account for {100 * share:.1f} % together; --json lists them")
    supports = sorted(found.by_support.items(), key=lambda pair: -abs(pair[1]))
    by_support = ", ".join(f"{' x '.join(key)} {100 * share:.1f} %" for key, share in supports if key)
    by_order = ", ".join(f"{order}: {100 * share:.1f} %" for order, share in found.by_order.items() if order)
    typer.echo(f"variation of the fused graph by modalities: {by_support}")
    typer.echo(f"by order: {by_order}")


def _coefficient_row(row: CoefficientRow) -> list[str]:
    term = " x ".join(f"{name}^{power}" if power > 1 else name for name, power in row.powers.items()) or "constant"
    spread = [] if row.deviation is None or row.agreement is None else [f"{row.deviation:.4f}", f"{100 * row.agreement:.0f} %"]
    return [term, f"{row.coefficient:+.4f}", *spread, f"{100 * row.variance_share:.1f} %"]


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
