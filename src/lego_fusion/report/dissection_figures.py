"""Figures of a dissection: places and colours of bars, lines and cells, for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..dissection.findings import FUSED, Dissection, LevelConcepts
from ..explain.similarity import SimilarityMatrix
from .charts import colour
from .words import number_text

WIDTH, HEIGHT, LEFT, BOTTOM = 360, 150, 26, 20
_MARKS = ("circle", "square", "triangle", "diamond")


def sets_figure(found: Dissection) -> dict[str, Any]:
    """Of each level the concepts of one modality alone, of all, and of some, side by side."""
    fills = {f"{name} alone": colour(place) for place, name in enumerate(found.modalities)}
    shared, first = "both" if len(found.modalities) == 2 else "all", next(iter(fills))
    entries = {first: fills[first], shared: "var(--shared)"} | fills
    if len(found.modalities) > 2:
        entries["some"] = "var(--soft)"
    return {"rows": [_set_row(found, one) for one in found.sets], "key": [(fill, name) for name, fill in entries.items()]}


def _set_row(found: Dissection, one: LevelConcepts) -> dict[str, Any]:
    alone = [(len(one.special(name)), colour(place), f"{name} alone") for place, name in enumerate(found.modalities)]
    some = len(one.union) - len(one.shared) - sum(count for count, _, _ in alone)
    parts = [alone[0], (len(one.shared), "var(--shared)", "shared"), (some, "var(--soft)", "some"), *alone[1:]]
    bounds = found.intervals.get(f"J at {one.level}")
    interval = f" [{number_text(bounds.low)}, {number_text(bounds.high)}]" if bounds is not None and one.union else ""
    text = f"J {number_text(one.joint)}" if one.union else "no concept"
    return {"level": one.level, "parts": [part for part in parts if part[0]], "title": f"J{interval}", "text": text}


def lines_figure(
    names: Sequence[str], lines: Mapping[str, Sequence[float]], fills: Mapping[str, str], what: str
) -> dict[str, Any]:
    """Lines over levels or checkpoints from 0 up, each with a mark of its own.

    Args:
        names: Of the places on the axis.
        lines: Values by name.
        fills: Colour of each.
        what: Is counted, for those who do not see it.
    """
    top = max(1.0, *(max(values) for values in lines.values()))
    drawn = []
    for number, (name, values) in enumerate(lines.items()):
        points = [(f"{_across(place, len(names)):.1f}", f"{_up(value, top):.1f}") for place, value in enumerate(values)]
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        mark = _MARKS[number % len(_MARKS)]
        drawn.append({"name": name, "path": path, "points": points, "fill": fills[name], "mark": mark})
    told = "; ".join(f"{name} {', '.join(f'{value:g}' for value in values)}" for name, values in lines.items())
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "label": f"{what}: {told}"}
    return {**frame, "grid": _grid(top), "names": _names(names), "lines": drawn}


def _grid(top: float) -> list[tuple[float, str]]:
    step = next(step for step in (0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if top / step <= 5)
    return [(round(_up(float(value), top), 1), f"{value:g}") for value in np.arange(0, top + step / 2, step)]


def _names(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Names below the axis, as many as there is room for, shortened."""
    every = -(-len(names) * max(5, min(12, max(map(len, names)))) * 7 // (WIDTH - LEFT))
    found = []
    for place, name in enumerate(names):
        if place % every == 0 or (place == len(names) - 1 and place % every >= every / 2):
            anchor = "start" if place == 0 and len(names) > 1 else "end" if place == len(names) - 1 and place else "middle"
            x = LEFT if anchor == "start" else WIDTH if anchor == "end" else _across(place, len(names))
            found.append((f"{x:.1f}", anchor, name if len(name) <= 12 else name[:11] + "…"))
    return found


def _across(place: int, count: int) -> float:
    return LEFT + 10 + (WIDTH - LEFT - 20) * (place / (count - 1) if count > 1 else 0.5)


def _up(value: float, top: float) -> float:
    return 8 + (HEIGHT - BOTTOM - 12) * (1 - max(value, 0.0) / top)


def evolution_figure(found: Dissection) -> list[dict[str, Any]]:
    """Number of concepts of each modality over the levels, and over checkpoints at the last level."""
    fills = {name: colour(place) for place, name in enumerate(found.modalities)} | {FUSED: "var(--ink)"}
    lines = {name: [float(len(one.detected[name])) for one in found.sets] for name in found.modalities}
    if found.sets and all(one.fused is not None for one in found.sets):
        lines[FUSED] = [float(len(one.fused or ())) for one in found.sets]
    levels = lines_figure([one.level for one in found.sets], lines, fills, "concepts detected at each level")
    figures = [{"title": "Concepts detected, by level", "lines": levels}]
    if len(found.snapshots) > 1:
        over = {name: [float(len(one.levels[-1].detected[name])) for one in found.snapshots] for name in found.modalities}
        steps = lines_figure([one.name for one in found.snapshots], over, fills, "concepts detected at each checkpoint")
        figures.append({"title": f"Concepts detected at {found.levels[-1]}, over the training", "lines": steps})
    return figures


def collaboration_figure(found: Dissection) -> list[dict[str, Any]]:
    """Similarity between the modalities at each level with its noise floor, and what the fused layers keep."""
    rows: list[dict[str, Any]] = [{"title": _similarity_title(found)}]
    for place, level in enumerate(found.levels):
        pairs = found.between(level)
        value = float(np.mean([one for one, _ in pairs.values()]))
        floors = [floor for _, floor in pairs.values() if floor is not None]
        rows.append(_share_bar(level, value, "var(--accent)", float(np.mean(floors)) if floors else None))
        if found.collaboration is not None:
            rows.append(_share_bar("apart", found.collaboration[place].similarity_apart, "var(--soft)", small=True))
    kept = [one for one in found.sets if one.fused is not None and one.union]
    if kept:
        rows.append({"title": "Share of the concepts that the fused layer keeps"})
    for one in kept:
        for name, share, fill in (("shared", one.shared_kept, "var(--shared)"), ("special", one.special_kept, "var(--m3)")):
            if share is not None:
                rows.append(_share_bar(f"{one.level}, {name}" if len(kept) > 1 else name, share, fill))
    return [{"bar": None, "title": "", **row} for row in rows]


def _similarity_title(found: Dissection) -> str:
    floor = "; the mark is the noise floor" if found.similarity.floor is not None else ""
    apart = ", together and apart" if found.collaboration is not None else ""
    return f"Similarity of the modalities at each level{apart}{floor}"


def _share_bar(label: str, value: float, fill: str, floor: float | None = None, *, small: bool = False) -> dict[str, Any]:
    width, mark = (None if one is None else f"{100 * min(max(one, 0.0), 1.0):.1f}" for one in (value, floor))
    return {"bar": {"label": label, "width": width, "fill": fill, "floor": mark, "text": number_text(value), "small": small}}


def matrix_table(matrix: SimilarityMatrix) -> dict[str, Any]:
    """A similarity matrix as shaded cells; those below their noise floor are pale and in brackets."""
    rows = []
    for place, name in enumerate(matrix.names_a):
        cells = []
        for column, other in enumerate(matrix.names_b):
            value = float(matrix.values[place, column])
            floor = None if matrix.floor is None else float(matrix.floor[place, column])
            below = floor is not None and value <= floor
            title = f"{name} and {other}" + (f", noise floor {floor:.3f}" if floor is not None else "")
            text = number_text(value)
            cells.append(shaded(f"({text})" if below else text, 0.0 if below else value, title, "below" if below else ""))
        rows.append({"name": name, "cells": cells})
    return {"corner": "", "head": list(matrix.names_b), "rows": rows}


def shaded(text: str, share: float, title: str, kind: str = "") -> dict[str, Any]:
    """A cell, the darker the nearer its share is to 1; the ink stays legible."""
    return {"text": text, "mixed": round(55 * min(max(share, 0.0), 1.0)), "title": title, "kind": kind}
