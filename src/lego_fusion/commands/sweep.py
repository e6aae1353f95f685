"""``sweep``: a grid of orders and settings trained in one run, and one of them chosen by validation videos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import DEVICES, SMOOTHING_HELP, as_text, names, one_line_errors, print_json, print_table, progress, remark, warn

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..detect.detector import Detector
    from ..detect.sweep_plan import SweepPlan
    from ..detect.sweep_table import SweepTable

_SHOWN = 10  # rows on the terminal


@one_line_errors
def sweep(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write, or to go on with after a stop.", show_default=False)],
    grid: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUES, any number of times. Default: orders 1 to 3 of every modality.", show_default=False),
    ] = None,
    modalities: Annotated[str, typer.Option(help="Which feature sets to fuse, with commas. Default: all.")] = "",
    seeds: Annotated[int, typer.Option(help="How often each configuration is trained; losses are averaged.")] = 1,
    validation: Annotated[
        float, typer.Option(help="Share of the training videos to hold out and choose by; 0: the split's own.")
    ] = 0.3,
    fusion: Annotated[str, typer.Option(help="lego, or lego-paper (the paper's reading).")] = "lego",
    form: Annotated[str, typer.Option(help="Of the operator: joint, rank1, full. Default: the fusion's.")] = "",
    rows: Annotated[str, typer.Option(help="What a node hands on: sorted, ordered. Default: the fusion's.")] = "",
    config: Annotated[Path | None, typer.Option(help="YAML file with fields of TrainingConfig, as for train.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    smoothing: Annotated[float | None, typer.Option(help=SMOOTHING_HELP, show_default=False)] = None,
    test: Annotated[bool, typer.Option("--test", help="Then also measure on the test videos.")] = False,
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
    """Train every configuration of a grid on the same graphs and choose by validation videos; the same command goes on.

    A grid names orders (order, order.motion) and training settings: learning_rate, prior, weight_decay, k (of the bag score),
    degree_variance (lambda), degree_threshold (alpha), degree_k, smoothness, sparsity and others. VALUES are 1,2,5 or 1..10;
    with --search also 1e-4..1e-2.

    Leaves the table (table.csv, .json, .md), a picture of the grid and the chosen model (pick, a run folder) in the folder.

    Example: lego-fusion sweep my-dataset orders --grid order.motion=1..10 --grid order.text=1..10 --seeds 5
    """
    from ..data.dataset import Dataset
    from ..detect.settings import read_training_config
    from ..detect.sweep_plan import make_sweep_plan, parse_grid
    from ..errors import ParameterError, check_choice
    from ..measure.smoothing import SMOOTHING

    data = Dataset.open(dataset)
    words = grid or [f"order.{name}=1..3" for name in names(modalities) or data.modalities]
    options = {name: value for name, value in (("form", form), ("rows", rows)) if value}
    given = {} if steps is None else {"steps": steps}
    settings = {
        "modalities": names(modalities),
        "method": fusion,
        "options": options,
        "seeds": seeds,
        "training": read_training_config(config, given),
        "validation": validation,
        "smoothing": SMOOTHING if smoothing is None else smoothing,
        "dtype": check_choice(cache_type, "cache_type", "sweep", ("float32", "float16")),
    }
    if search and test:
        raise ParameterError("--test goes with a grid", fix="evaluate the pick: lego-fusion evaluate OUT/pick --data DATASET")
    if search and (devices > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        fix = "give the same command on each machine, with one --storage URL"
        raise ParameterError("a search is not shared by the processes of one command", got=f"--search {search}", fix=fix)
    if search:
        table, detector = _search(data, out, words, settings, search, storage, workers, cache)
    else:
        plan = make_sweep_plan(data, parse_grid(words), **settings)
        table, detector = _sweep(plan, data, out, mode, workers, cache, devices, test=test)
    _tell(data, out, table, detector, cache, json=json)


def _sweep(
    plan: SweepPlan, data: Dataset, out: Path, mode: str, workers: int | None, cache: str, devices: int, *, test: bool
) -> tuple[SweepTable, Detector]:
    from ..detect.ranks import process_group
    from ..detect.sweep import MODES, load_trial, measure_on_test, run_sweep
    from ..detect.sweep_table import tabulate
    from ..errors import check_choice

    check_choice(mode, "mode", "sweep", MODES)
    doing = f"training {len(plan.configurations())} configurations with {plan.seeds} seeds"
    with process_group(devices) as ranks, progress(doing) as tell:
        given: dict[str, Any] = {"mode": mode, "workers": workers if ranks.size == 1 else 1, "cache": cache}
        results, notes = run_sweep(plan, data, out, on_trial=tell, ranks=ranks, **given)
    if not ranks.first:
        raise typer.Exit
    measured: Sequence[dict[str, float]] = ()
    if test:
        with progress("measuring on the test videos") as tell:
            measured = measure_on_test(plan, data, out, cache=cache, on_trial=tell)
    table = tabulate(plan, results, test=measured, notes=notes)
    return table, load_trial(plan, data, out, table.rows[table.pick].trials[0], cache=cache)


def _search(
    data: Dataset,
    out: Path,
    words: Sequence[str],
    settings: dict[str, Any],
    trials: int,
    storage: str,
    workers: int | None,
    cache: str,
) -> tuple[SweepTable, Detector]:
    from ..detect.search import grid_of, make_search_plan, parse_space, run_search
    from ..detect.sweep_plan import make_sweep_plan

    space = parse_space(words)
    search = make_search_plan(make_sweep_plan(data, grid_of(space), **settings), space, trials)
    with progress(f"searching with {trials} trials") as tell:
        return run_search(search, data, out, storage=storage, workers=workers, cache=cache, on_trial=tell)


def _save_pick(data: Dataset, out: Path, table: SweepTable, detector: Detector, cache: str) -> Path:
    """The chosen model as a run folder."""
    from ..detect.runs import save_run
    from ..detect.sweep import chosen_bags

    plan, row = table.plan, table.rows[table.pick]
    training = plan.trial(0, row.values, plan.training.seed + row.trials[0] % plan.seeds).training
    train = chosen_bags(plan, data, out, cache=cache)
    facts: dict[str, Any] = {"method": plan.method, "nodes": plan.nodes, "smoothing": plan.smoothing}
    save_run(out / "pick", detector, data, plan.split, training, train, **facts)
    return out / "pick"


def _tell(data: Dataset, out: Path, table: SweepTable, detector: Detector, cache: str, *, json: bool) -> None:
    from ..errors import DataError, MissingExtraError
    from ..report.sweep import FIGURE_FILE, best_rows, document, headings, rule, save_sweep, sweep_heat_map

    files = save_sweep(out, table) | {"pick": _save_pick(data, out, table, detector, cache)}
    try:
        files["figure"] = sweep_heat_map(out / FIGURE_FILE, table)
    except (MissingExtraError, DataError) as error:
        warn([f"no figure: {error}"])
    if json:
        print_json({"folder": str(out), **document(table), "files": as_text(files)})
        return
    print_table(headings(table), best_rows(table, _SHOWN))
    typer.echo(f"pick: configuration {table.pick}, {rule(table)}")
    if table.test_best is not None:
        pick, best = (table.rows[number].test["micro_auc"] for number in (table.pick, table.test_best))
        typer.echo(f"test micro AUC of the pick {pick:.4f}; test-best, chosen on the test videos and so no result: {best:.4f}")
    for name, path in as_text(files).items():
        typer.echo(f"{name}: {path}")
    for note in table.notes:
        remark(f"note: {note}")
