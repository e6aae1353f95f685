"""A dissection as one HTML file without a script; apart from ``dissection_files``: the page alone, no file."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ..dissection.concepts import LevelConcepts
from ..dissection.overlap import Mode
from ..dissection.records import FUSED, Dissection, Gallery
from ..explain.similarity import SimilarityMatrix
from .charts import colour
from .dissection_words import answers, bounded_percent, joint_interval, reading_words
from .pages import render, table
from .words import number_text, percent_text

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
    text = f"J {number_text(one.joint)}" if one.union else "no concept"
    return {
        "level": one.level,
        "parts": [part for part in parts if part[0]],
        "title": f"J{joint_interval(found, one)}",
        "text": text,
    }


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


_MOST_UNITS = 8  # rows of each layer
_LONGEST_SIDE = 96
_LINE = np.array([213.0, 94.0, 0.0])  # Okabe and Ito's vermilion
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PARTS = {
    "consistency": ("Consistency: C", "the concept alone"),
    "speciality": ("Speciality: MC + MLC", "concepts that one modality holds more than another"),
    "common_evolution": ("Evolution in common: L + LC", "change over levels, the same in all modalities"),
    "own_evolution": ("Evolution of its own: ML + MLC", "change over levels that differs between modalities"),
    "share M": ("M", "a mere offset between modalities"),
    "share L": ("L", ""),
    "share C": ("C", ""),
    "share ML": ("ML", ""),
    "share MC": ("MC", ""),
    "share LC": ("LC", ""),
    "share MLC": ("MLC", ""),
}
_PROFILES = {
    "mean": "s is the mean over units of IoU / ceiling.",
    "best": "s is how far the best unit of a layer is on the way from chance to the ceiling.",
}


def dissection_page(found: Dissection, *, title: str = "Dissection", images: bool = True) -> str:
    """The page.

    Args:
        found: What was found.
        title: Of the page.
        images: Whether galleries are shown.
    """
    layers = {"layers": "; ".join(f"{' '.join(key)}: {name}" for key, name in found.layers.items())}
    return render(
        "dissection.html",
        title,
        found=found,
        reading=reading_words(found),
        answers=answers(found),
        sets=sets_figure(found),
        evolution=evolution_figure(found),
        collaboration=collaboration_figure(found),
        concepts=_concepts(found),
        variance=_variance(found),
        similarity=matrix_table(found.similarity),
        galleries=_galleries(found) if images else {},
        most_units=_MOST_UNITS,
        units=_units(found),
        settings={**found.settings, **layers},
    )


def _concepts(found: Dissection) -> dict[str, Any]:
    """Best unit of every layer for every concept."""
    columns = [(name, level) for name in found.modalities for level in found.levels]
    columns += [(FUSED, level) for level in found.levels if level in found.fused]
    every = {**found.alignments, FUSED: found.fused}
    reads = {key: every[key[0]][key[1]] for key in columns}
    score: Mode = "auroc" if found.mode == "auroc" else "normalised"
    rows = []
    for place, name in enumerate(found.concepts):
        if name not in found.variance.concepts:
            continue
        cells = []
        for key in columns:
            one, best = found.detectors[key], float(reads[key].overlap.scores(score)[:, place].max())
            text = number_text(best)
            mark, shade = f"{text}{'?' if name in one.doubtful else ''}", 2 * best - 1 if score == "auroc" else best
            cells.append(shaded(mark, shade, f"{name} in {' '.join(key)}: {text}", "found" if name in one.concepts else ""))
        rows.append({"name": name, "cells": cells})
    counts = [shaded(_count_text(found, key), 0.0, _count_title(found, key)) for key in columns]
    rows.append({"name": "concepts detected", "cells": counts})
    what = "objects" if found.regions else "images"
    value = "area under the ROC curve, 0.5 by chance" if score == "auroc" else "share of the way from chance to the best IoU"
    note = (
        f"Best unit of each layer for each concept: {value}. Framed: a detector. In brackets below: how many would be detected "
        f"if the labels lay on the wrong {what} (mean over shuffles). A question mark: the concept is also detected then, so "
        f"that {'chance' if found.regions else 'its position in the picture'} explains it."
    )
    return {"corner": "concept", "head": [" ".join(key) for key in columns], "rows": rows, "note": note}


def _count_text(found: Dissection, key: tuple[str, str]) -> str:
    one = found.detectors[key]
    return f"{len(one.concepts)}" + (f" ({number_text(one.chance.mean, '.1f')})" if one.chance is not None else "")


def _count_title(found: Dissection, key: tuple[str, str]) -> str:
    one = found.detectors[key]
    p_value = f", p = {one.chance.p_value:.3f} against shuffled labels" if one.chance is not None else ""
    return f"{one.units} of {one.of} units detect {len(one.concepts)} concepts{p_value}"


def _variance(found: Dissection) -> dict[str, Any]:
    rows = []
    for name, (label, meaning) in _PARTS.items():
        key = name if name.startswith("share") else f"{name}, sum of squares"
        tested = not set(name.removeprefix("share ")) <= set("LC") and name not in ("consistency", "common_evolution")
        null = (percent_text(found.chance[name].mean), f"{found.chance[key].p_value:.3f}") if tested else ("–", "–")
        rows.append((label, meaning, bounded_percent(found.intervals[name]), *null, *_dealt(found, key)))
    readings = [(f"across modalities at {level}", f"SV({level}) = mean_c Var_m s") for level in found.levels]
    readings += [(f"over levels in {name}", f"SV_levels({name}) = mean_c Var_l s") for name in found.modalities]
    others = []
    for name, label in readings:
        one, chance = found.intervals[name], found.chance[name]
        read = (_bounds(one.value, one.low, one.high, ".4f"), number_text(chance.mean, ".4f"), f"{chance.p_value:.3f}")
        others.append((label, *read, *_dealt(found, name)))
    for place, modality in enumerate(found.modalities):
        for column, level in enumerate(found.levels):
            value = number_text(float(found.variance.of_units[place, column]), ".5f")
            others.append((f"SV_units({modality}, {level}) = mean_k Var_c IoU", value, "–", "–", "–", "–"))
    note = (
        f"Intervals: {found.settings.get('resamples', '')} resamples of the images. Nulls: units dealt anew to the modalities "
        "of their level, and labels dealt anew, of which the sum of squares or the variance is given; p is that of the sum of "
        f"squares, or of the variance. {_PROFILES[found.settings.get('profile', 'mean')]}"
    )
    names = ("if units had no modality", "p", "if labels meant nothing", "p")
    shares = table(("share of the variance of s[m, l, c]", "what it is", "share [interval]", *names), rows)
    return {"note": note, "table": shares, "readings": table(("reading", "value [interval]", *names), others, words=1)}


def _dealt(found: Dissection, key: str) -> tuple[str, str]:
    """A sum of squares or variance with the labels dealt anew, beside its own; and p."""
    chance = found.relabelled.get(key)
    if chance is None or key.startswith("share"):
        return "–", "–"
    return f"{number_text(chance.mean, '.4f')} (is {number_text(chance.value, '.4f')})", f"{chance.p_value:.3f}"


def _galleries(found: Dissection) -> dict[str, list[dict[str, Any]]]:
    shown: dict[str, list[dict[str, Any]]] = {}
    for one in found.galleries:
        if one.pictures:
            shown.setdefault(f"{one.row.modality} {one.row.level}", []).append(_unit_gallery(one, one.pictures))
    return shown


def _unit_gallery(one: Gallery, pictures: Sequence[Float32[np.ndarray, "c h w"]]) -> dict[str, Any]:
    addresses = [
        (image, gallery_uri(picture, mask)) for image, picture, mask in zip(one.images, pictures, one.masks, strict=True)
    ]
    return {"concept": one.row.concept, "unit": one.row.unit, "score": number_text(one.row.score), "pictures": addresses}


def _units(found: Dissection) -> list[dict[str, Any]]:
    """The best units of each layer."""
    return [
        {
            "title": f"{' '.join(key)}: {_count_title(found, key)}",
            "rows": [row for row in found.units if (row.modality, row.level) == key][:_MOST_UNITS],
        }
        for key in found.detectors
    ]


def _bounds(value: float, low: float, high: float, form: str) -> str:
    return f"{number_text(value, form)} [{number_text(low, form)}, {number_text(high, form)}]"


def gallery_uri(picture: Float32[np.ndarray, "c h w"], mask: Bool[np.ndarray, "g v"]) -> str:
    """A picture of which all but the mask is pale, the mask outlined.

    Args:
        picture: In [0, 1]; of 3 channels or more the first three are colours, else the first is gray.
        mask: Resampled to the picture.
    """
    step = -(-max(picture.shape[1:]) // _LONGEST_SIDE)
    small = picture[:3, ::step, ::step] if picture.shape[0] >= 3 else np.repeat(picture[:1, ::step, ::step], 3, axis=0)
    colours = 255.0 * np.moveaxis(np.clip(small, 0, 1), 0, -1)
    rows, columns = (np.arange(size) * old // size for size, old in zip(colours.shape[:2], mask.shape, strict=True))
    inside = mask[rows][:, columns]
    shown = np.where(inside[..., None], colours, 0.45 * colours + 0.55 * 128)
    shown[outline(inside)] = _LINE
    return png_uri((shown.astype(np.uint8) >> 3 << 3).astype(np.uint8))  # fewer colours: half the size


def outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels outside that touch the inside.

    Example:
        >>> outline(np.array([[False, False, False], [False, True, False]])).astype(int).tolist()
        [[0, 1, 0], [1, 0, 1]]
    """
    wide = np.pad(mask, 1)
    near = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return np.asarray(near & ~mask)


def png_uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture as a PNG data URI, by the standard library alone."""
    height, width = image.shape[:2]
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1
    )  # each row begins with its filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    data = _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
