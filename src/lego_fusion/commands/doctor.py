"""``doctor``: what is wrong with a dataset folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from .terminal import USER_ERROR, one_line_errors, print_json, print_table, progress


@one_line_errors
def doctor(
    folder: Annotated[Path, typer.Argument(help="Dataset folder, as 'extract' writes it.", show_default=False)],
    footage: Annotated[
        bool,
        typer.Option(
            "--footage", help="Also decode every video and look for cuts, a moved camera, darkness, a frozen picture."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find what is missing, damaged or contradictory in a dataset folder.

    Exit code 2 if something would make training or evaluation fail or be wrong, 0 if there are warnings only.

    Example: lego-fusion doctor my-dataset
    """
    from ..data.doctor import diagnose

    findings = diagnose(folder)
    if footage:
        from ..data.dataset import Dataset
        from ..extract.footage import footage_findings

        with progress("looking at the footage") as notify:
            findings += footage_findings(Dataset.open(folder), notify)
    sources = _sources(folder)
    errors = sum(finding.severity == "error" for finding in findings)
    if json:
        print_json({"folder": str(folder), "errors": errors, "sources": sources, "findings": [vars(one) for one in findings]})
    elif findings:
        rows = [(one.severity, one.check, one.where, one.message, one.fix) for one in findings]
        print_table(("severity", "check", "where", "what is wrong", "what to do"), rows, left=5)
        typer.echo(f"{errors} errors, {len(findings) - errors} warnings in {folder}")
    else:
        typer.echo(f"nothing wrong in {folder}")
    if sources and not json:
        count, videos = len(sources), sum(sources.values())
        typer.echo(f"{videos} videos come from {count} source{'s' if count > 1 else ''}, which no re-split or hold-out divides")
    if errors:
        raise typer.Exit(USER_ERROR)


def _sources(folder: Path) -> dict[str, int]:
    """How many videos each source of a dataset folder has; nothing where the table cannot be read."""
    from ..data.tables import VIDEOS_FILE, read_videos
    from ..errors import DataError

    try:
        return dict(Counter(record.source for record in read_videos(folder / VIDEOS_FILE) if record.source))
    except DataError:
        return {}
