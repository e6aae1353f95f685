"""Figures of a dissection as inline SVG and as bars that follow the width of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..dissection.findings import FUSED, Dissection, LevelConcepts
from ..explain.similarity import SimilarityMatrix
from .charts import Html, colour, element, join
from .words import number_text

WIDTH, HEIGHT, LEFT, BOTTOM = 360, 150, 26, 20
_MARKS = ("circle", "square", "triangle", "diamond")


def key(entries: Mapping[str, str]) -> Html:
    """Names beside their fills."""
    spans = (element("span", element("i", style=f"background:{fill}"), name) for name, fill in entries.items())
    return element("div", *spans, class_="key")


def sets_figure(found: Dissection) -> Html:
    """Of each level the concepts of one modality alone, of all, and of some, side by side."""
    fills = {f"{name} alone": colour(place) for place, name in enumerate(found.modalities)}
    shared = "both" if len(found.modalities) == 2 else "all"
    rows = [_set_row(found, one) for one in found.sets]
    first = next(iter(fills))
    entries = {first: fills[first], shared: "var(--shared)"} | fills
    if len(found.modalities) > 2:
        entries["some"] = "var(--soft)"
    return join(*rows, key(entries))


def _set_row(found: Dissection, one: LevelConcepts) -> Html:
    alone = [(len(one.special(name)), colour(place), f"{name} alone") for place, name in enumerate(found.modalities)]
    some = len(one.union) - len(one.shared) - sum(count for count, _, _ in alone)
    parts = [alone[0], (len(one.shared), "var(--shared)", "shared"), (some, "var(--soft)", "some"), *alone[1:]]
    spans = [
        element("span", str(count), style=f"flex:{count};background:{fill}", title=f"{name}: {count}", class_="part")
        for count, fill, name in parts
        if count
    ]
    bounds = found.intervals.get(f"J at {one.level}")
    interval = f" [{number_text(bounds.low)}, {number_text(bounds.high)}]" if bounds is not None and one.union else ""
    text = element("span", f"J {number_text(one.joint)}" if one.union else "no concept", title=f"J{interval}", class_="value")
    return element("div", element("span", one.level), element("span", *spans, class_="stack"), text, class_="bar three")


def lines_figure(names: Sequence[str], lines: Mapping[str, Sequence[float]], fills: Mapping[str, str], what: str) -> Html:
    """Lines over levels or checkpoints from 0 up, each with a mark of its own.

    Args:
        names: Of the places on the axis.
        lines: Values by name.
        fills: Colour of each.
        what: Is counted, for those who do not see it.
    """
    top = max(1.0, *(max(values) for values in lines.values()))
    shapes = [*_grid(top), *_names(names)]
    for number, (name, values) in enumerate(lines.items()):
        points = [(_across(place, len(names)), _up(value, top)) for place, value in enumerate(values)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        shapes.append(element("path", d=path, fill="none", stroke=fills[name], stroke_width=2.5))
        shapes += [_mark(x, y, fills[name], number) for x, y in points]
    told = "; ".join(f"{name} {', '.join(f'{value:g}' for value in values)}" for name, values in lines.items())
    svg = element("svg", *shapes, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{what}: {told}", class_="lines")
    shown = [
        element("span", element("svg", _mark(7.0, 7.0, fills[name], place), viewBox="0 0 14 14", class_="mark"), name)
        for place, name in enumerate(lines)
    ]
    return join(svg, element("div", *shown, class_="key"))


def _grid(top: float) -> list[Html]:
    step = next(step for step in (0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if top / step <= 5)
    shapes = []
    for value in np.arange(0, top + step / 2, step):
        y = _up(float(value), top)
        shapes.append(element("line", x1=LEFT, x2=WIDTH, y1=f"{y:.1f}", y2=f"{y:.1f}", stroke="var(--line)"))
        shapes.append(element("text", f"{value:g}", x=LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end"))
    return shapes


def _names(names: Sequence[str]) -> list[Html]:
    """Names below the axis, as many as there is room for, shortened."""
    every = -(-len(names) * max(5, min(12, max(map(len, names)))) * 7 // (WIDTH - LEFT))
    shapes = []
    for place, name in enumerate(names):
        if place % every == 0 or (place == len(names) - 1 and place % every >= every / 2):
            anchor = "start" if place == 0 and len(names) > 1 else "end" if place == len(names) - 1 and place else "middle"
            shown = name if len(name) <= 12 else name[:11] + "…"
            x = LEFT if anchor == "start" else WIDTH if anchor == "end" else _across(place, len(names))
            shapes.append(element("text", shown, x=f"{x:.1f}", y=HEIGHT - 4, text_anchor=anchor))
    return shapes


def _across(place: int, count: int) -> float:
    return LEFT + 10 + (WIDTH - LEFT - 20) * (place / (count - 1) if count > 1 else 0.5)


def _up(value: float, top: float) -> float:
    return 8 + (HEIGHT - BOTTOM - 12) * (1 - max(value, 0.0) / top)


def _mark(x: float, y: float, fill: str, number: int) -> Html:
    kind = _MARKS[number % len(_MARKS)]
    if kind == "circle":
        return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4, fill=fill)
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
        "diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    }[kind]
    return element("path", d="M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + "Z", fill=fill)


def evolution_figure(found: Dissection) -> Html:
    """Number of concepts of each modality over the levels, and over checkpoints at the last level."""
    fills = {name: colour(place) for place, name in enumerate(found.modalities)} | {FUSED: "var(--ink)"}
    lines = {name: [float(len(one.detected[name])) for one in found.sets] for name in found.modalities}
    if found.sets and all(one.fused is not None for one in found.sets):
        lines[FUSED] = [float(len(one.fused or ())) for one in found.sets]
    figures = [element("p", "Concepts detected, by level", class_="note tight")]
    figures.append(lines_figure([one.level for one in found.sets], lines, fills, "concepts detected at each level"))
    if len(found.snapshots) > 1:
        over = {name: [float(len(one.levels[-1].detected[name])) for one in found.snapshots] for name in found.modalities}
        figures.append(element("p", f"Concepts detected at {found.levels[-1]}, over the training", class_="note tight"))
        figures.append(lines_figure([one.name for one in found.snapshots], over, fills, "concepts detected at each checkpoint"))
    return join(*figures)


def collaboration_figure(found: Dissection) -> Html:
    """Similarity between the modalities at each level with its noise floor, and what the fused layers keep."""
    rows = [element("p", _similarity_title(found), class_="note tight")]
    for place, level in enumerate(found.levels):
        pairs = found.between(level)
        value = float(np.mean([one for one, _ in pairs.values()]))
        floors = [floor for _, floor in pairs.values() if floor is not None]
        floor = float(np.mean(floors)) if floors else None
        rows.append(_share_bar(level, value, "var(--accent)", floor))
        if found.collaboration is not None:
            rows.append(_share_bar("apart", found.collaboration[place].similarity_apart, "var(--soft)", None, small=True))
    kept = [one for one in found.sets if one.fused is not None and one.union]
    if kept:
        rows.append(element("p", "Share of the concepts that the fused layer keeps", class_="note tight"))
    for one in kept:
        for name, share, fill in (("shared", one.shared_kept, "var(--shared)"), ("special", one.special_kept, "var(--m3)")):
            if share is not None:
                rows.append(_share_bar(f"{one.level}, {name}" if len(kept) > 1 else name, share, fill, None))
    return join(*rows)


def _similarity_title(found: Dissection) -> str:
    floor = "; the mark is the noise floor" if found.similarity.floor is not None else ""
    apart = ", together and apart" if found.collaboration is not None else ""
    return f"Similarity of the modalities at each level{apart}{floor}"


def _share_bar(label: str, value: float, fill: str, floor: float | None, *, small: bool = False) -> Html:
    width = 100 * min(max(value, 0.0), 1.0)
    drawn = [element("span", class_="fill", style=f"left:0;width:{width:.1f}%;background:{fill}")]
    if floor is not None:
        drawn.append(element("span", class_="floor", style=f"left:{100 * min(max(floor, 0.0), 1.0):.1f}%"))
    text = element("span", number_text(value), class_="value")
    track = element("span", *drawn, class_="track", role="presentation")
    return element("div", element("span", label), track, text, class_="bar three small" if small else "bar three")


def matrix_table(matrix: SimilarityMatrix) -> Html:
    """A similarity matrix as a table of shaded cells; those below their noise floor are pale and in brackets."""
    head = element("tr", element("th", ""), *(element("th", element("span", name), class_="turned") for name in matrix.names_b))
    rows = []
    for place, name in enumerate(matrix.names_a):
        cells = []
        for column in range(len(matrix.names_b)):
            value = float(matrix.values[place, column])
            floor = None if matrix.floor is None else float(matrix.floor[place, column])
            below = floor is not None and value <= floor
            title = f"{name} and {matrix.names_b[column]}" + (f", noise floor {floor:.3f}" if floor is not None else "")
            text = number_text(value)
            cells.append(shaded(f"({text})" if below else text, 0.0 if below else value, title, "below" if below else None))
        rows.append(element("tr", element("th", name), *cells))
    return element("div", element("table", head, *rows, class_="heat"), class_="scroll")


def shaded(text: str, share: float, title: str, class_: str | None = None) -> Html:
    """A cell, the darker the nearer its share is to 1; the ink stays legible."""
    mixed = round(55 * min(max(share, 0.0), 1.0))
    style = f"background:color-mix(in srgb,var(--accent) {mixed}%,var(--card))" if mixed else None
    return element("td", text, style=style, title=title, class_=class_)
