"""``explain`` without a video: what was learned, what modalities contribute, and how an operator came about."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .terminal import print_json, print_table, progress, warn

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..explain.shapley import Contributions
    from ..explain.terms import ShareHistory
    from ..why.learned import CoefficientRow, OperatorExplanation, ReadingWeights

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
                found = run_contributions(runs, dataset, resamples=0)
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
