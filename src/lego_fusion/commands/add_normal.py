"""``add-normal``: more known-normal footage for a saved run, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import names, one_line_errors, print_json, progress, remark


@one_line_errors
def add_normal(
    run: Annotated[Path, typer.Argument(help="Run folder, as 'train' writes it.", show_default=False)],
    data: Annotated[
        Path, typer.Argument(help="Dataset folder with the normal videos, extracted as the run's.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="Run folder to write; there must be none.", show_default=False)],
    videos: Annotated[str, typer.Option(help="Names of normal videos, with commas.", show_default=False)],
    count: Annotated[
        int | None,
        typer.Option(
            help="Most segments to add. Default: what fits into the run's references, or its own number a video.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make normal videos known to a run, without training: their segments become references of a new run folder.

    For what is normal but raises alarms: another season, a new machine. The weights stay as they are, the scores change, so the
    new run has no calibration until it is calibrated again.

    Example: lego-fusion add-normal my-run my-dataset my-run-2 --videos snow_01,snow_02
    """
    from ..data.dataset import Dataset
    from ..errors import ParameterError
    from ..learn.checkpoint import read_run_config
    from ..learn.known_normals import add_known_normal

    chosen = names(videos)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ParameterError("--videos must name videos, each once", got=repr(videos))
    before = read_run_config(run).references
    with progress("looking for what is not known") as notify:
        config = add_known_normal(run, out, Dataset.open(data), chosen, count=count)
        notify(len(chosen), len(chosen))
    added = config.references[len(before) :]
    then = f"lego-fusion calibrate {out} {data} --leave-out {','.join(chosen)}"
    if json:
        print_json({"run": str(out), "references": len(config.references), "added": added, "next": then})
        return
    for one in added:
        typer.echo(f"{one['video']}: frames {one['start_frame']} to {one['end_frame']}")
    typer.echo(f"added {len(added)} to {len(before)} references; written: {out}")
    remark("the scores have changed and the new run has no calibration: calibrate it on footage that is in neither run")
    remark(f"next: {then} --false-alarms 0.1")
