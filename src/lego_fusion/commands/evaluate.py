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
    out: Annotated[Path | None, typer.Option(help="Also write the records to this file, one JSON line each.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure saved runs, with intervals; runs that differ in their seed alone become one mean.

    Frame-level AUC on the real frames: micro (all frames pooled), abnormal videos only, macro (mean over videos with both
    classes) and average precision. The interval is a bootstrap over videos and seeds.

    Example: lego-fusion evaluate runs/seed-* --data my-dataset
    """
    from ..data.dataset import Dataset
    from ..detect.evaluation import evaluate_runs
    from ..measure.result import save_results
    from .results import print_results

    measured = evaluate_runs(runs, Dataset.open(data), split=split)
    if out is not None:
        save_results(out, measured.results)
    if json:
        results = [result.model_dump(mode="json") for result in measured.results]
        print_json({"data": str(data), "split": split, "results": results, "notes": list(measured.notes)})
    else:
        print_results(measured.results)
        warn(measured.notes)
