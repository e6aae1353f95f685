"""``demo``: the whole way on rendered scenes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from .terminal import as_text, one_line_errors, print_json, progress, remark


@one_line_errors
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; a finished one is shown again.")] = Path("demo-output"),
    videos: Annotated[int, typer.Option(help="Scenes to render, half of them for training.")] = 40,
    seeds: Annotated[int, typer.Option(help="Training seeds of a method that draws at random.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 7,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes one per processor.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Render scenes with planted anomalies, extract motion and text, train, measure, and draw the curves.

    Needs no data and no network. Leaves the videos, the features, the models, the scores of every test video and a picture.

    Example: lego-fusion demo --out demo-output
    """
    from ..demo import run_demo
    from .results import print_comparison

    started = time.perf_counter()
    done = run_demo(out, videos=videos, seeds=seeds, seed=seed, workers=workers or os.cpu_count() or 1, progress=progress)
    if done.reused:
        remark(f"{out} holds this demo already; delete it to run again")
    else:
        remark(f"the demo took {time.perf_counter() - started:.0f} s")
    files = as_text({"model": done.model, "scores": done.scores, "curves": done.curves, "records": done.records})
    if json:
        results = [one.model_dump(mode="json") for one in done.results]
        print_json({"folder": str(out), "results": results, "standing": done.standing, **files})
        return
    print_comparison(done.results)
    typer.echo(done.standing)
    for name, path in files.items():
        typer.echo(f"{name}: {path}")
    typer.echo(f"next: lego-fusion score {done.example} --model {done.model}")
