"""``sweep``: a grid of settings trained in one run, and one of them chosen by validation videos."""

from __future__ import annotations

import os
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
    remark,
    warn,
)

if TYPE_CHECKING:
    from ..study.table import SweepTable

_SHOWN = 10  # rows on the terminal


@one_line_errors
def sweep(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write, or to go on with after a stop.", show_default=False)],
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUES, any number of times. Default: training.prior_departure; for lego-paper orders 1 to 3.",
            show_default=False,
        ),
    ] = None,
    modalities: Annotated[str, typer.Option(help="Which feature sets to fuse, with commas. Default: all.")] = "",
    fusion: Annotated[str, typer.Option(help="lego, or lego-paper (the paper's reading).")] = "lego",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE that the grid leaves alone, as for train.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help=CONFIG)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    seeds: Annotated[int, typer.Option(help="How often each configuration of lego-paper is trained; losses are averaged.")] = 1,
    validation: Annotated[
        float, typer.Option(help="Share of the training videos to hold out and choose by; 0: the split's own.")
    ] = 0.3,
    group_by: Annotated[str, typer.Option(help=GROUP_BY)] = "",
    smoothing: Annotated[float | None, typer.Option(help=SMOOTHING_HELP, show_default=False)] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Then measure all configurations on the test videos, not the pick alone.")
    ] = False,
    search: Annotated[int, typer.Option(help="Instead of the whole grid, so many trials chosen by Optuna.")] = 0,
    storage: Annotated[
        str,
        typer.Option(help="Database URL of the search. Default: a file in the folder.", show_default=False),
    ] = "",
    mode: Annotated[str, typer.Option(help="together, alone, or auto.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes, one thread each. Default: two where there is much to do.", show_default=False)
    ] = None,
    cache: Annotated[str, typer.Option(help="Keep graphs: here ('folder'), 'auto' in the dataset's, or 'off'.")] = "folder",
    cache_type: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    devices: Annotated[int, typer.Option(help=DEVICES)] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train every configuration of a grid and choose by validation videos; the same command goes on.

    A grid names keys as --set does: for lego fusion.references, fusion.kept, fusion.orders, training.prior_departure and more;
    for lego-paper fusion.order, fusion.order.motion, fusion.rows, training.learning_rate, training.degree_variance (lambda),
    training.degree_threshold (alpha) and more. VALUES are 1,2,5 or 1..10 or [1],[1,2] or fixed,learned; with --search also
    1e-4..1e-2.

    Leaves the table (table.csv, .json, .md), a picture of the grid and the chosen model (pick, a run folder) in the folder.
    What is chosen stands beside the default, with its test AUC, which no choice has looked at.

    Example: lego-fusion sweep my-dataset settings --grid fusion.references=256,2048 --grid training.prior_departure=0.5,1,2
    """
    from ..data.dataset import Dataset
    from ..data.grouping import group_videos
    from ..errors import ParameterError, check_choice
    from ..fusion.registry import FUSIONS
    from ..learn.processes import process_group
    from ..learn.settings import read_settings
    from ..learn.splits import division_warnings, training_split
    from ..study.batched import MODES
    from ..study.experiment import measurable, measure_on_test, run_sweep, save_trained
    from ..study.plan import make_sweep_plan, parse_grid, parse_space
    from ..study.search import run_search
    from ..study.table import tabulate

    data = group_videos(Dataset.open(dataset), group_by)
    fusion = FUSIONS.typed(check_choice(fusion, "fusion", "sweep", FUSIONS))
    check_choice(mode, "mode", "sweep", MODES)
    if search and test:
        raise ParameterError("--test goes with a grid", fix="leave it out: the pick is measured on the test videos anyway")
    if search and (devices > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        fix = "give the same command on each machine, with one --storage URL"
        raise ParameterError("a search is not shared by the processes of one command", got=f"--search {search}", fix=fix)
    values, spans = parse_space(grid or []) if search else (parse_grid(grid or []), [])
    plan = make_sweep_plan(
        data,
        values or None,
        modalities=names(modalities),
        method=fusion,
        seeds=seeds,
        validation=validation,
        dtype=check_choice(cache_type, "cache_type", "sweep", ("float32", "float16")),
        search=search,
        spans=spans,
        settings=read_settings(config, setting or [], chosen(steps=steps, smoothing=smoothing), fusions=[fusion]),
    )
    warn(division_warnings(data, training_split(data)))
    doing = f"training {len(plan.configurations())} configurations" + (f" with {plan.seeds} seeds" if plan.seeds > 1 else "")
    with process_group(devices) as ranks, progress(f"searching with {search} trials" if search else doing) as notify:
        if search:
            results, notes = run_search(plan, data, out, storage=storage, workers=workers, cache=cache, on_cell=notify)
        else:
            shared = {"workers": workers if ranks.size == 1 else 1, "ranks": ranks}
            results, notes = run_sweep(plan, data, out, mode=mode, cache=cache, on_cell=notify, **shared)
    if not ranks.first:
        raise typer.Exit
    table = tabulate(plan, results, notes=notes)
    if test or measurable(plan, data):  # the choice is made
        rows = table.rows if test else [table.rows[number] for number in dict.fromkeys((table.pick, table.default))]
        with progress("measuring on the test videos") as notify:
            measured = measure_on_test(plan, data, out, table.cells_of(*rows), cache=cache, on_cell=notify)
        table = tabulate(plan, results, test=measured, notes=notes)
    save_trained(plan, data, out, table.cells_of(table.rows[table.pick])[0], out / "pick", cache=cache)
    _print_outcome(out, table, json=json)


def _print_outcome(out: Path, table: SweepTable, *, json: bool) -> None:
    from ..errors import DataError, MissingExtraError
    from ..report.sweep_files import FIGURE_FILE, best_rows, document, headings, save_sweep, sweep_heat_map, verdict

    files = save_sweep(out, table) | {"pick": out / "pick"}
    try:
        files["figure"] = sweep_heat_map(out / FIGURE_FILE, table)
    except (MissingExtraError, DataError) as error:
        warn([f"no figure: {error}"])
    if json:
        print_json({"folder": str(out), **document(table), "files": as_text(files)})
        return
    print_table(headings(table), best_rows(table, _SHOWN))
    for line in (*verdict(table), *(f"{name}: {path}" for name, path in as_text(files).items())):
        typer.echo(line)
    for note in table.notes:
        remark(f"note: {note}")
