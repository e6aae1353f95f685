"""A comparison as a table for people and machines with the rules of every number, and as a picture with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..learn.conditions import parse_condition
from ..learn.methods import UNLEARNED
from ..learn.settings import Settings, as_word
from ..measure.detection import TOP_SHARE
from ..measure.result import pipe_table, save_results
from ..study.cells import ComparisonPlan
from ..study.plan import ALL_FUSIONS, BEST, OURS, SPLITS
from ..study.table import UNFINISHED, Comparison, Row, together
from ..writing import write_text
from .figures import CURVE, TRUTH, new_figure, save_figure
from .pages import environment

RECORDS_FILE, MARKDOWN_FILE, JSON_FILE = "results.jsonl", "table.md", "table.json"


def save_comparison(folder: str | Path, comparison: Comparison) -> dict[str, Path]:
    """Write the records of all cells, and the table as Markdown and JSON, each file whole or not at all.

    Args:
        folder: Of the comparison.
        comparison: What ``study.table.summarise`` returned.

    Returns:
        The files by their kind: records, markdown, json.
    """
    folder = Path(folder)
    files = {"records": folder / RECORDS_FILE, "markdown": folder / MARKDOWN_FILE, "json": folder / JSON_FILE}
    save_results(files["records"], comparison.records)
    write_text(files["markdown"], f"{markdown(comparison)}\n")
    write_text(files["json"], json.dumps(document(comparison), indent=1) + "\n")
    return files


def document(comparison: Comparison) -> dict[str, Any]:
    """The table as JSON values: plain rows with AUC as shares in [0, 1], rules and notes."""
    plan = comparison.plan.model_dump(mode="json", exclude={"datasets"})
    plan["datasets"] = {dataset.name: [split.name for split in dataset.splits] for dataset in comparison.plan.datasets}
    return {
        "plan": plan,
        "baseline": comparison.baseline or None,
        "unfinished": comparison.unfinished,
        "rows": [asdict(row) for row in comparison.rows],
        "rules": rules(comparison),
        "notes": list(comparison.notes),
    }


def markdown(comparison: Comparison) -> str:
    """The table as Markdown, one for each dataset and one for all together, rules and notes below."""
    parts = []
    for title, rows in blocks(comparison):
        parts.append(f"### {title}\n\n{pipe_table(*table(comparison, rows))}")
    parts.append("\n".join(f"* {rule}" for rule in rules(comparison)))
    if comparison.notes:
        parts.append("Notes:\n\n" + "\n".join(f"* {note}" for note in comparison.notes))
    return "\n\n".join(parts)


def blocks(comparison: Comparison) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of each dataset, and of all together."""
    for name in dict.fromkeys(row.dataset for row in comparison.rows):
        yield f"{name}, {_splits(comparison.plan, name)}", [row for row in comparison.rows if row.dataset == name]


def sections(comparison: Comparison) -> Iterator[tuple[str, list[Row]]]:
    """The same for each modality set of each dataset."""
    for title, rows in blocks(comparison):
        for names in dict.fromkeys(row.modalities for row in rows):
            yield f"{' + '.join(names)}: {title}", [row for row in rows if row.modalities == names]


def table(comparison: Comparison, rows: Sequence[Row], *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of some rows, words first; ``brief`` leaves out the modalities, and why a row has no number."""
    columns = _columns(comparison, brief, {row.baseline for row in rows if row.baseline})
    return list(columns), [[cell(row) for cell in columns.values()] for row in rows]


def rules(comparison: Comparison) -> list[str]:
    """How the numbers of a comparison were made, one line each."""
    plan = comparison.plan
    facts = {"plan": plan, "training": plan.training, "baseline": comparison.baseline, "best": BEST, "top_share": TOP_SHARE}
    facts |= {"usual_shape": (plan.nodes, plan.hidden) == (Settings.nodes, Settings.hidden), "together": together(plan)}
    facts |= {"mtn_left_out": set(ALL_FUSIONS) <= set(plan.fusions) and "mtn" not in plan.fusions, "as_word": as_word}
    text = environment().get_template("comparison_rules.txt").render(facts)
    return [line for line in text.splitlines() if line]


def _columns(comparison: Comparison, brief: bool, baselines: Collection[str]) -> dict[str, Callable[[Row], str]]:
    """Heading -> cell, for the columns that this comparison has."""
    columns: dict[str, Callable[[Row], str]] = {} if brief else {"modalities": lambda row: " + ".join(row.modalities)}
    if comparison.plan.conditions != ("clean",):
        columns["condition"] = lambda row: row.condition
    columns["method"] = lambda row: row.method
    if comparison.unfinished:
        columns["cells"] = lambda row: f"{row.cells} of {row.planned}"
    columns["parameters"] = lambda row: "-" if row.parameters is None else f"{row.parameters:,}"
    columns["micro AUC"] = lambda row: _micro(row) if row.micro is not None else _no_number(row, brief)
    if len(baselines) == 1:
        columns[f"difference to {next(iter(baselines))}"] = _difference
    elif baselines:
        columns["difference to best baseline"] = lambda row: _difference(row) + (f" ({row.baseline})" if row.difference else "")
    columns["abnormal AUC"] = lambda row: _percent(row.abnormal)
    columns["AP"] = lambda row: _percent(row.average_precision)
    columns["video AUC"] = lambda row: _percent(row.video_auc)
    columns["video AP"] = lambda row: _percent(row.video_precision)
    if comparison.plan.test_best:
        columns["untrained"] = lambda row: _percent(row.untrained)
        columns["optimism gap"] = lambda row: _percent(row.gap, sign="+")
    columns["training s"] = lambda row: "-" if row.train_seconds is None else f"{row.train_seconds:.2f}"
    columns["scoring ms"] = lambda row: "-" if row.score_seconds is None else f"{1000 * row.score_seconds:.1f}"
    return columns


def _no_number(row: Row, brief: bool) -> str:
    if row.error == UNFINISHED:
        return "-"
    return "failed" if brief else f"failed: {row.error}"


def _micro(row: Row) -> str:
    spread = "" if row.deviation is None else f" ± {100 * row.deviation:.1f}"
    return _percent(row.micro) + spread + _interval(row.low, row.high)


def _difference(row: Row) -> str:
    if row.difference is None:
        return "baseline" if row.method == row.baseline else "-"
    return _percent(row.difference, sign="+") + _interval(row.difference_low, row.difference_high)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"


def _percent(value: float | None, *, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def _splits(plan: ComparisonPlan, dataset: str) -> str:
    seeds = f"{plan.seeds} seed{'s' if plan.seeds > 1 else ''}"
    counts = {len(one.splits) for one in plan.datasets if one.name == dataset} or {len(one.splits) for one in plan.datasets}
    count = "" if plan.split_kind == "own" else f"{max(counts)} "
    return f"{count}{SPLITS[plan.split_kind].title}, {seeds}"


FIGURE_FILE = "comparison.png"
PANELS = 3  # beside each other
FIGURE_KINDS = (".png", ".svg", ".pdf")
_SORTS = {"lego": CURVE, "other fusions": "#555555", "nothing learned": TRUTH}
_PALETTE = (CURVE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")  # Okabe and Ito
_DASHES = ("-", "--", ":")


def comparison_figure(path: str | Path, comparison: Comparison) -> Path:
    """Draw the rows of one dataset, or of all together where there are several; a panel for each modality set.

    Methods stand below each other with the interval of their micro AUC. Where a condition comes with several levels, a panel
    holds a curve of each method over the levels instead.

    Args:
        path: PNG, SVG or PDF file to write.
        comparison: What ``study.table.summarise`` returned.

    Returns:
        The path.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    rows = [row for row in comparison.rows if row.dataset == comparison.rows[-1].dataset]
    families = _families(comparison.plan.conditions)
    panels = _level_panels(rows, families) if families else _clean_panels(rows)
    most = max(len(members) for _, members in panels)
    columns, lines = min(len(panels), PANELS), -(-len(panels) // PANELS)
    size = (4.2 * columns + (1.6 if families else 0.0), 0.6 + lines * (3.0 if families else 0.8 + 0.27 * most))
    figure = new_figure(*size)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=not families, sharey=bool(families)).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, members) in zip(axes, panels, strict=False):
        if families:
            _draw_curves(axis, members)
        else:
            _draw_intervals(axis, members)
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    place = "outside right center" if families else "outside lower center"
    figure.legend(handles.values(), handles, loc=place, ncols=1 if families else 3, frameon=False, fontsize=8)
    figure.suptitle(rows[0].dataset, fontsize=11, x=0.01, ha="left")
    save_figure(path, figure)
    return Path(path)


def _families(conditions: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Conditions with levels by kind and modality, where there is more than one level of it (clean is level 0)."""
    families: dict[tuple[str, str], list[str]] = {}
    for word in conditions:
        condition = parse_condition(word)
        if condition.kind not in ("clean", "missing"):
            families.setdefault((condition.kind, condition.modality), []).append(word)
    clean = int("clean" in conditions)
    return {key: words for key, words in families.items() if len(words) + clean > 1}


def _level_panels(rows: Sequence[Row], families: Mapping[tuple[str, str], Sequence[str]]) -> list[tuple[str, list[Row]]]:
    panels = []
    for names in dict.fromkeys(row.modalities for row in rows):
        for (kind, modality), words in families.items():
            members = [row for row in rows if row.modalities == names and row.condition in (*words, "clean")]
            if {row.condition for row in members} - {"clean"}:
                said = "noise modality" if kind == "noise-modality" else f"{kind} in {modality}"
                panels.append((f"{' + '.join(names)}: {said}", members))
    return panels


def _clean_panels(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    keys = dict.fromkeys((row.modalities, row.condition) for row in rows)
    return [
        (" + ".join(names) + ("" if condition == "clean" else f", {condition}"), members)
        for names, condition in keys
        if (members := [row for row in rows if (row.modalities, row.condition) == (names, condition)])
    ]


def _draw_intervals(axis: Any, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        if row.micro is None:
            continue
        if row.low is not None and row.high is not None:
            axis.plot([100 * row.low, 100 * row.high], [place, place], color=_SORTS[_sort(row.method)], lw=2.2, alpha=0.55)
        axis.plot(100 * row.micro, place, "o", color=_SORTS[_sort(row.method)], ms=5.5, label=_sort(row.method))
    axis.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.axvline(50, color="0.8", lw=0.8, zorder=0)
    axis.grid(axis="x", color="0.92")
    axis.set_xlabel("micro AUC, %, with 95 % interval")


def _draw_curves(axis: Any, rows: Sequence[Row]) -> None:
    methods = list(dict.fromkeys(row.method for row in rows))
    for number, method in enumerate(methods):
        mine = [row for row in rows if row.method == method and row.micro is not None]
        mine.sort(key=lambda row: parse_condition(row.condition).level)
        levels = [parse_condition(row.condition).level for row in mine]
        style = {"color": _PALETTE[number % len(_PALETTE)], "ls": _DASHES[number // len(_PALETTE) % len(_DASHES)]}
        axis.plot(levels, [100 * (row.micro or 0) for row in mine], marker="o", ms=4, lw=1.6, label=method, **style)
        banded = [row for row in mine if row.low is not None and row.high is not None]
        if method in OURS and len(banded) == len(mine):
            lows, highs = [100 * (row.low or 0) for row in banded], [100 * (row.high or 0) for row in banded]
            axis.fill_between(levels, lows, highs, color=style["color"], alpha=0.15, lw=0)
    axis.grid(color="0.92")
    added = any(row.condition.startswith("noise-modality") for row in rows)
    axis.set(xlabel="columns of noise" if added else "noise, in deviations of each column", ylabel="micro AUC, %")


def _sort(method: str) -> str:
    if method in OURS:
        return "lego"
    return "nothing learned" if method in UNLEARNED else "other fusions"
