"""``compare``: fusions side by side on dataset folders, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import (
    CONFIG,
    DEVICES,
    GROUP_BY,
    SMOOTHING_HELP,
    as_text,
    chosen,
    names,
    one_line_errors,
    print_json,
    print_table,
    progress,
    stopped_by_termination,
    warn,
)

if TYPE_CHECKING:
    from ..study.table import Comparison


@one_line_errors
def compare(
    data: Annotated[list[Path], typer.Argument(help="Dataset folders.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write, or to go on with after a stop.", show_default=False)],
    modality_sets: Annotated[
        str, typer.Option(help="Such as motion+text,text: 'all' is all together, 'each' every one alone.")
    ] = "all",
    fusions: Annotated[
        str, typer.Option(help="With commas; 'all' is every one but mtn. Default: lego and five baselines.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="Training seeds.")] = 3,
    splits: Annotated[str, typer.Option(help="'own', 'resplits', or 'domains': each left out of training once.")] = "own",
    resplits: Annotated[int, typer.Option(help="Average over so many random re-splits instead of the own split.")] = 0,
    group_by: Annotated[str, typer.Option(help=GROUP_BY)] = "",
    baseline: Annotated[
        str, typer.Option(help="Method to take differences to, or 'best'. Default: concat.", show_default=False)
    ] = "",
    conditions: Annotated[
        str, typer.Option(help="Such as clean,text:noise=1.0,text:missing=mean,noise-modality=64.")
    ] = "clean",
    references: Annotated[bool, typer.Option(help="Also the methods that learn nothing.")] = True,
    validation: Annotated[
        float, typer.Option(help="Share of the training videos to hold out; the step with the lowest loss on them counts.")
    ] = 0.0,
    smoothing: Annotated[float | None, typer.Option(help=SMOOTHING_HELP, show_default=False)] = None,
    test_best: Annotated[
        bool, typer.Option("--test-best", help="Also the untrained start, and what picking the best test step would add.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE: of one fusion, such as lego.references=512; of all, training.iterations=100, nodes=64, ...",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help=CONFIG)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of every fusion.")] = None,
    workers: Annotated[int, typer.Option(help="Processes, one thread each.")] = 2,
    cache: Annotated[str, typer.Option(help="Keep graphs: 'auto' in each dataset folder, or in a folder.")] = "off",
    figure: Annotated[
        Path | None, typer.Option(help="PNG or SVG file. Default: comparison.png in the folder.", show_default=False)
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Train nothing: the table of the cells that are finished, and how many are not.")
    ] = False,
    devices: Annotated[int, typer.Option(help=DEVICES)] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train fusions on the same splits, seeds and budget, into one table; the same command goes on where it was stopped.

    Each row has its mean micro AUC with an interval and the paired difference to a baseline. Leaves the records of all runs
    (results.jsonl), the table (table.md, table.json) and a figure in the folder. A stop prints the table of what is finished,
    as --show does later. Finished cells are taken as they are: the folder serves fewer or more fusions, seeds, splits and sets.

    Example: lego-fusion compare my-dataset --out comparison --modality-sets motion+text,all --fusions all --resplits 10
    """
    from ..data.dataset import Dataset
    from ..data.grouping import group_videos
    from ..errors import DataError, MissingExtraError, check_choice
    from ..fusion.registry import FUSIONS
    from ..learn.processes import process_group
    from ..learn.settings import read_settings
    from ..report.comparison_files import FIGURE_FILE, FIGURE_KINDS, comparison_figure, save_comparison
    from ..study.plan import ALL_FUSIONS, SENSIBLE_FUSIONS, make_plan, parse_modality_sets
    from ..study.table import compare as run
    from ..study.table import summarise

    datasets = [group_videos(Dataset.open(path), group_by) for path in data]
    wanted = [name for word in names(fusions) for name in (ALL_FUSIONS if word == "all" else (word,))]
    compared = list(dict.fromkeys(wanted)) or list(SENSIBLE_FUSIONS)
    compared = [FUSIONS.typed(check_choice(name, "fusions", "compare", FUSIONS)) for name in compared]
    settings = read_settings(config, setting or [], chosen(steps=steps, smoothing=smoothing), fusions=compared)
    plan = make_plan(
        datasets,
        modality_sets=parse_modality_sets(modality_sets, datasets[0]),
        fusions=compared,
        references=references,
        seeds=seeds,
        splits=resplits or splits,
        conditions=names(conditions),
        validation=validation,
        test_best=test_best,
        settings=settings,
    )
    if figure is not None:
        check_choice(figure.suffix.lower(), "figure", "compare", FIGURE_KINDS)
    if show:
        comparison = summarise(plan, datasets, out, baseline=baseline, partial=True)
        if comparison.unfinished == len(plan.cells()):
            raise DataError("no cell of this comparison is finished", where=out, fix="leave --show out")
        _print_outcome(out, comparison, {}, json=json)
        return
    with (
        process_group(devices) as ranks,
        progress(f"comparing {len(plan.fusions)} fusions") as notify,
        stopped_by_termination(),
    ):
        each = workers if ranks.size == 1 else 1
        try:
            comparison = run(plan, datasets, out, baseline=baseline, workers=each, cache=cache, on_cell=notify, ranks=ranks)
        except KeyboardInterrupt:
            if ranks.first:
                _print_outcome(out, summarise(plan, datasets, out, baseline=baseline, partial=True), {}, json=json)
            raise
    if not ranks.first:
        raise typer.Exit
    files = save_comparison(out, comparison)
    try:
        files["figure"] = comparison_figure(figure or out / FIGURE_FILE, comparison)
    except MissingExtraError as error:
        warn([f"no figure: {error}"])
    _print_outcome(out, comparison, files, json=json)


def _print_outcome(out: Path, comparison: Comparison, files: Mapping[str, Path], *, json: bool) -> None:
    from ..report.comparison_files import document, rules, sections, table

    if json:
        print_json({"folder": str(out), **document(comparison), "files": as_text(files)})
        return
    for title, rows in sections(comparison):
        typer.echo(title)
        headings, cells = table(comparison, rows, brief=True)
        broken = [heading.replace(" ", "\n", 1) for heading in headings]
        print_table(broken, cells, left=headings.index("method") + 1, whole=True)
    for line in (*rules(comparison), *(f"{name}: {path}" for name, path in files.items())):
        typer.echo(line)
    warn(comparison.notes)
