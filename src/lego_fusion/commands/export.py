"""``export``: a saved run as one file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import as_text, one_line_errors, print_json, progress


@one_line_errors
def export(
    run: Annotated[Path, typer.Argument(help="Run folder, as 'train' writes it.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write model.onnx and scorer.py into.", show_default=False)],
    torch: Annotated[bool, typer.Option("--torch", help="Also write model.pt2, for torch.export.load.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write a run as one graph from features to scores, for onnxruntime, with a scorer that needs no torch.

    Relations, references, statistics, operator and head are inside, and so are the calibrated thresholds. The features must be
    made by the extractors that the file names.

    Example: lego-fusion export my-run my-model
    """
    from ..alarm.export import export_run

    with progress("exporting") as notify:
        files = export_run(run, out, torch_too=torch)
        notify(1, 1)
    if json:
        print_json({"files": as_text(files)})
        return
    for kind, file in files.items():
        typer.echo(f"{kind}: {file} ({file.stat().st_size / 1e6:.2f} MB)")
