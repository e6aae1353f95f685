"""``evaluate``: saved runs on videos with ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import one_line_errors, print_json, warn


@one_line_errors
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, as 'train' writes them.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Dataset folder with ground truth.", show_default=False)],
    split: Annotated[str, typer.Option(help="Which videos of it, as in the split column of videos.csv.")] = "test",
    events: Annotated[
        bool, typer.Option("--events", help="Also measure events; done anyway for a run that is calibrated.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the records to this file, one JSON line each.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure saved runs, with intervals; runs that differ in their seed alone become one mean.

    Frame-level AUC on the real frames: micro (all frames pooled), abnormal videos only, macro (mean over videos with both
    classes) and average precision. Intervals are over videos and, of several runs, seeds. Of events: average precision at
    temporal IoU, recall, delay of the alarm and false alarms per hour without an event, for each run by its own calibration.

    Example: lego-fusion evaluate runs/seed-* --data my-dataset
    """
    from ..alarm.calibration import read_calibration
    from ..alarm.event_evaluation import evaluate_events
    from ..data.dataset import Dataset
    from ..learn.evaluation import evaluate_runs
    from ..measure.result import save_results
    from .results import print_events, print_results

    dataset = Dataset.open(data)
    measured = evaluate_runs(runs, dataset, split=split)
    found = [evaluate_events(run, dataset, split=split) for run in runs if events or read_calibration(run) is not None]
    results = [*measured.results, *(result for one in found for result in one.results)]
    notes = list(dict.fromkeys([*measured.notes, *(note for one in found for note in one.notes)]))
    if out is not None:
        save_results(out, results)
    if json:
        documents = [result.model_dump(mode="json") for result in results]
        print_json({"data": str(data), "split": split, "results": documents, "notes": notes})
    else:
        print_results(measured.results)
        print_events([result for one in found for result in one.results])
        warn(notes)
