"""``join``: several dataset folders as one, each video with its domain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import one_line_errors, print_json, remark


@one_line_errors
def join(
    folders: Annotated[list[Path], typer.Argument(help="Dataset folders, two or more.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Dataset folder to write.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the dataset; that of the folder without it.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Join dataset folders to train on all of them and to measure each domain; features stay where they are.

    A video's domain is that of its table, or the name of its dataset. Modalities that all folders have are kept, and must
    have been extracted alike. Labels, splits and intervals are those of now: join again when they change.

    Example: lego-fusion join street station --out both
    """
    from ..data.joining import join_datasets

    report = join_datasets(folders, out, name=name)
    dataset = report.dataset
    if json:
        document = {"dataset": str(out), "videos": len(dataset.videos), "domains": report.domains}
        print_json(document | {"modalities": list(dataset.modalities), "notes": list(report.notes)})
        return
    for note in report.notes:
        remark(f"note: {note}")
    for domain, videos in report.domains.items():
        records = [record for record in dataset.videos if record.domain == domain]
        train, abnormal = sum(one.split == "train" for one in records), sum(one.label == "abnormal" for one in records)
        typer.echo(f"{domain}: {videos} videos, {abnormal} abnormal, {train} to train on")
    typer.echo(f"{out}: {len(dataset.videos)} videos of {len(report.domains)} domains, {', '.join(dataset.modalities)}")
    typer.echo(f"next: lego-fusion train {out} my-run")
