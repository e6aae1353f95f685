"""A sweep as a table for people and machines, and as a heat map of the grid."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from pydantic import TypeAdapter

from ..errors import DataError
from ..learn.settings import as_word
from ..measure.result import pipe_table
from ..study.table import SweepRow, SweepTable
from ..writing import write_text
from .figures import new_figure, save_figure

CSV_FILE, JSON_FILE, MARKDOWN_FILE, FIGURE_FILE = "table.csv", "table.json", "table.md", "grid.png"
TEST_BEST = "test-best"
LEAST_AUC_RANGE = 0.02  # of colours, so that differences of nothing are not painted as if they were some


def save_sweep(folder: str | Path, table: SweepTable) -> dict[str, Path]:
    """Write all rows as CSV, JSON and Markdown, each file whole or not at all; the files by their kind."""
    folder = Path(folder)
    files = {"csv": folder / CSV_FILE, "json": folder / JSON_FILE, "markdown": folder / MARKDOWN_FILE}
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([headings(table), *(_cells(table, row) for row in table.rows)])
    write_text(files["csv"], text.getvalue())
    write_text(files["json"], json.dumps(document(table), indent=1) + "\n")
    write_text(files["markdown"], markdown(table))
    return files


def document(table: SweepTable) -> dict[str, Any]:
    """The table as JSON values; what is not a number is null."""
    rows = json.loads(TypeAdapter(tuple[SweepRow, ...]).dump_json(table.rows))
    chosen: dict[str, Any] = {"pick": rows[table.pick], "default": rows[table.default], "rule": rule(table)}
    if table.test_best is not None:
        chosen[TEST_BEST] = rows[table.test_best]
    return {"plan": table.plan.model_dump(mode="json"), **chosen, "rows": rows, "notes": list(table.notes)}


def rule(table: SweepTable) -> str:
    """How the pick was made."""
    plan = table.plan
    seeds = f", mean of {plan.seeds} seeds" if plan.seeds > 1 else ""
    held_out = f"{len(plan.split.validation)} validation videos held out of training"
    return f"lowest bag loss on {held_out}{seeds}; no test video had a part in it"


def headings(table: SweepTable) -> list[str]:
    """Column names of the table."""
    tested = [f"test {name}" for name in table.rows[table.pick].test]
    return ["configuration", *table.plan.grid, *_MEASURED, "parameters", "chosen", *tested]


_MEASURED = {
    "validation loss": "validation_loss",
    "deviation": "deviation",
    "validation AUC": "validation_auc",
    "training loss": "training_loss",
}


def best_rows(table: SweepTable, count: int) -> list[list[str]]:
    """Cells of the configurations with the lowest validation loss, the pick first; the default and the test-best among them."""
    ranked = sorted(table.rows, key=lambda row: (row.configuration != table.pick, _last(row.validation_loss)))[:count]
    for number in (table.default, table.test_best):
        if number is not None and number not in [row.configuration for row in ranked]:
            ranked.append(table.rows[number])
    return [_cells(table, row) for row in ranked]


def verdict(table: SweepTable) -> list[str]:
    """What was chosen, beside the default, in lines: by the validation videos, and on the test videos afterwards."""
    pick, default, lines = table.rows[table.pick], table.rows[table.default], []
    keys = ", ".join(f"{key}={as_word(value)}" for key, value in pick.values.items())
    lines.append(f"pick: {keys}" + (", which is the default" if table.pick == table.default else ""))
    lines.append(rule(table))
    for name, of in (("validation loss", "validation_loss"), ("validation AUC", "validation_auc")):
        lines.append(f"{name} {getattr(pick, of):.4f}, of the default {getattr(default, of):.4f}")
    if "micro_auc" in pick.test:
        beside = f", of the default {default.test['micro_auc']:.4f}" if "micro_auc" in default.test else ""
        lines.append(f"test micro AUC {pick.test['micro_auc']:.4f}{beside}")
    if table.test_best is not None:
        best = table.rows[table.test_best].test["micro_auc"]
        lines.append(f"test-best, chosen on the test videos and so no result: {best:.4f}")
    return lines


def markdown(table: SweepTable, *, most: int = 30) -> str:
    """The best configurations as Markdown, and the rule below; the CSV file has all rows."""
    cells = best_rows(table, most)
    remarks = [*verdict(table), f"{len(cells)} of {len(table.rows)} configurations; {CSV_FILE} has all of them"]
    if table.test_best is not None:
        remarks.append(f"{TEST_BEST}: chosen on the test videos, which is no honest choice; it shows by how much that flatters")
    return pipe_table(headings(table), cells) + "\n\n" + "\n".join(f"* {remark}" for remark in (*remarks, *table.notes)) + "\n"


def sweep_heat_map(path: str | Path, table: SweepTable) -> Path:
    """Draw the validation loss over the two orders, or over the first two parameters that vary.

    Where more parameters vary, a cell is the best of them. The pick is framed. Where test videos were measured, a second map
    shows their micro AUC for the same configurations.

    Args:
        path: PNG, SVG or PDF file.
        table: Of the sweep.

    Returns:
        The path.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        DataError: If no parameter has more than one value.
    """
    rows, columns = _axes(table)
    loss, best = _grid(table, rows, columns)
    if not np.isfinite(loss).any():
        raise DataError("there is no grid to draw", expected="whole numbers or a few values", got="a search over spans")
    maps = [("validation loss (lower is better)", loss, "viridis_r")]
    if table.test_best is not None:
        test = np.array([[_test(table, number) for number in line] for line in best])
        maps.append(("test micro AUC (no part of the choice)", test, "viridis"))
    sizes = len(table.plan.grid[columns]), len(table.plan.grid.get(rows, (0,)))
    size = len(maps) * max(4.2, 1.8 + 0.6 * sizes[0]), max(2.4, 1.7 + 0.42 * sizes[1])
    figure = new_figure(*size)
    for axis, (title, values, colours) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        _draw(axis, table, (rows, columns), title, values, colours, best)
    others = [key for key, given in table.plan.grid.items() if len(given) > 1 and key not in (rows, columns)]
    figure.suptitle(table.plan.dataset + (f": best over {', '.join(others)}" if others else ""), fontsize=10, x=0.01, ha="left")
    save_figure(path, figure)
    return Path(path)


def _draw(
    axis: Any,
    table: SweepTable,
    names: tuple[str, str],
    title: str,
    values: Float64[np.ndarray, "rows columns"],
    colours: str,
    best: Sequence[Sequence[int]],
) -> None:
    from matplotlib.patches import Rectangle

    loss, top = colours != "viridis", float(np.nanmax(values))
    least = float(np.nanmin(values)) if loss else min(float(np.nanmin(values)), top - LEAST_AUC_RANGE)
    shown = axis.imshow(values, cmap=colours, vmin=least, vmax=top, origin="lower", aspect="auto")
    axis.figure.colorbar(shown, ax=axis, shrink=0.85).formatter.set_useOffset(False)
    for name, set_ticks, label in ((names[0], axis.set_yticks, axis.set_ylabel), (names[1], axis.set_xticks, axis.set_xlabel)):
        given = table.plan.grid.get(name, ())
        set_ticks(range(len(given)), [as_word(value) for value in given])
        label(name)
    middle = (top + least) / 2
    bright = (values > middle) if loss else (values < middle)  # white on the dark half
    for (line, place), value in np.ndenumerate(values):
        if values.size <= 150 and math.isfinite(value):
            colour = "white" if bright[line, place] else "black"
            text = f"{value:.3g}" if loss else f"{value:.4f}"
            axis.text(place, line, text, ha="center", va="center", fontsize=7, color=colour)
        if best[line][place] == table.pick:
            corner = (place - 0.5, line - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.5))
    axis.set_title(f"{title}; framed: pick", fontsize=9, loc="left")


def _axes(table: SweepTable) -> tuple[str, str]:
    """Parameters of the rows and of the columns; the rows have none where only one varies."""
    varied = [name for name, values in table.plan.grid.items() if len(values) > 1]
    if not varied:
        raise DataError("there is no grid to draw", expected="a parameter with several values", got="one configuration")
    orders = [name for name in varied if name.startswith("fusion.order.")]
    chosen = (orders if len(orders) > 1 else [*orders, *(name for name in varied if name not in orders)])[:2]
    return (chosen[0], chosen[1]) if len(chosen) == 2 else ("", chosen[0])


def _grid(table: SweepTable, rows: str, columns: str) -> tuple[Float64[np.ndarray, "rows columns"], list[list[int]]]:
    """Lowest validation loss of each cell, and the configuration that has it."""
    grid = table.plan.grid
    loss = np.full((len(grid.get(rows, (0,))), len(grid[columns])), np.nan)
    best = [[-1] * loss.shape[1] for _ in range(loss.shape[0])]
    for row in sorted(table.rows, key=lambda row: (_last(row.validation_loss), row.parameters, row.configuration)):
        if any(name and row.values[name] not in grid[name] for name in (rows, columns)):
            continue  # a search between the ends of a span
        line = grid[rows].index(row.values[rows]) if rows else 0
        place = grid[columns].index(row.values[columns])
        if best[line][place] < 0:
            loss[line, place], best[line][place] = row.validation_loss, row.configuration
    return loss, best


def _test(table: SweepTable, configuration: int) -> float:
    return table.rows[configuration].test.get("micro_auc", math.nan)


def _cells(table: SweepTable, row: SweepRow) -> list[str]:
    places = {"pick": table.pick, "default": table.default, TEST_BEST: table.test_best}
    chosen = [word for word, number in places.items() if number == row.configuration]
    measured = [_number(getattr(row, name)) for name in _MEASURED.values()]
    tested = [_number(row.test.get(name, math.nan)) for name in table.rows[table.pick].test]
    return [
        str(row.configuration),
        *map(as_word, row.values.values()),
        *measured,
        str(row.parameters),
        " ".join(chosen),
        *tested,
    ]


def _number(value: float) -> str:
    return f"{value:.6f}" if math.isfinite(value) else ""


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf
