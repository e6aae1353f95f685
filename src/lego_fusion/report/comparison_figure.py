"""A comparison as a picture: each method's AUC with its interval, or its curve over the levels of a condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..learn.conditions import parse_condition
from ..learn.protocol import UNLEARNED
from ..study.comparison import OURS, Comparison, Row
from .figures import CURVE, TRUTH, load_matplotlib, save_figure

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
        comparison: What ``study.comparison.summarise`` returned.

    Returns:
        The path.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure_class, canvas = load_matplotlib()
    rows = [row for row in comparison.rows if row.dataset == comparison.rows[-1].dataset]
    families = _families(comparison.plan.conditions)
    panels = _level_panels(rows, families) if families else _clean_panels(rows)
    most = max(len(members) for _, members in panels)
    columns, lines = min(len(panels), PANELS), -(-len(panels) // PANELS)
    size = (4.2 * columns + (1.6 if families else 0.0), 0.6 + lines * (3.0 if families else 0.8 + 0.27 * most))
    figure = figure_class(figsize=size, layout="constrained")
    canvas(figure)
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
