"""A dissection as one HTML file: no script, nothing fetched from elsewhere; the three answers on the first screen."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ..dissection.findings import FUSED, Dissection, Gallery, UnitRow
from ..dissection.overlap import Mode
from .charts import Html, document, element
from .dissection_figures import collaboration_figure, evolution_figure, matrix_table, sets_figure, shaded
from .dissection_words import (
    QUESTIONS,
    bounded_percent,
    collaboration_words,
    consistency_words,
    evolution_words,
    reading_words,
)
from .style import PAGE_STYLE
from .words import number_text, percent_text

DEFINITIONS: dict[str, str] = {
    "Unit and concept": """A unit is active where its upsampled map exceeds its own quantile.
        IoU = |M ∧ Y| / |M ∨ Y| (Network Dissection, arXiv 1704.05796).""",
    "Objects": """Ours. Where concepts lie on objects, a unit is read over objects: its mean over each, one number an object.
        Among pixels a unit active on every object alike would hold half of each of two colours and count for both; among
        objects it is at chance. A detector is then a unit whose area under the ROC curve is above 0.8: of an object with the
        concept and one without, it is higher on the first four times out of five. Objects are given, or the connected areas
        of one combination of concepts.""",
    "Ceiling, chance": """Ours. IoU cannot exceed min(q/p, p/q) for a unit active in a share q and a concept covering a share p:
        at q = 0.005 and the usual cut of 0.04 no concept of more than 12.5 % of the pixels could ever be found. So a detector
        is a unit that comes a given share of the way from chance to the ceiling.""",
    "Profile s[m, l, c]": """Ours. Over pixels the mean over the units of a layer of IoU / ceiling; over objects how far the
        best unit is on the way from chance to the ceiling, in which units for concepts that exclude each other do not
        cancel.""",
    "Semantic variance": """Ours. Variances of the profile over modalities, levels and units; its exact split into M, L, C, ML,
        MC, LC and MLC says what is consistent (C), special (MC + MLC) and what evolves (L + LC in common, ML + MLC of its own).
        MLC is in two of them.""",
    "Copies that were never trained": """Ours. The same network with weights drawn as before any training: what these detect
        comes from the inputs and the architecture.""",
    "J and U": "Ours. J: share of the detected concepts that all modalities detect; U: share that one alone detects.",
    "Feature similarity": "Debiased linear CKA (arXiv 1905.00414), with a noise floor from permuted images.",
    "Collaboration": """Ours. Hybrid rule: the fused level keeps at least 75 % of the shared and of the special concepts.
        Alignment: training together raises J by more than 0.05. Division of labour: it lowers J.""",
    "Why ours": """The paper that asks the three questions (arXiv 2308.10019) gives its equations nowhere that we could read
        them; these definitions answer the same questions and have exact cases that are tested.""",
}


DISSECTION_STYLE = (
    PAGE_STYLE
    + """
:root{--shared:#009e73}
@media (prefers-color-scheme:dark){:root{--shared:#2fc79b}}
main.wide{max-width:84rem;padding-top:.9rem}
.answers{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:1rem;align-items:stretch;margin:.7rem 0 1rem}
.answers .card{margin:0;border-top:4px solid var(--accent);padding:.8rem 1rem}
.answers h2{font-size:1.05rem}
.answers p{font-size:.92rem;line-height:1.42}
.answers p.lead{font-size:1rem;font-weight:600}
.tight{margin:.55rem 0 .15rem!important}
.bar.three{grid-template-columns:minmax(4rem,6.6rem) 1fr 3.6rem;margin:.22rem 0;font-size:.86rem}
.bar.three>:first-child{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bar.small{font-size:.78rem;color:var(--soft)}
.bar.small .track{height:.55rem}
.stack{display:flex;height:1.15rem;border-radius:3px;overflow:hidden;background:var(--track)}
.stack .part{color:#fff;font-size:.74rem;line-height:1.15rem;text-align:center;min-width:0;overflow:hidden;
border-right:2px solid var(--card);font-weight:600}
@media (prefers-color-scheme:dark){.stack .part{color:#111}}
.floor{position:absolute;top:0;bottom:0;width:2px;background:var(--ink)}
svg.lines{width:100%;display:block;max-width:26rem}
svg.lines text{font-size:11px;fill:var(--soft)}
svg.mark{width:.9rem;height:.9rem;vertical-align:-.12rem;margin-right:.3rem}
table.heat{width:auto;font-size:.8rem;font-variant-numeric:tabular-nums}
table.heat td{text-align:center;padding:.2rem .35rem;min-width:2.9rem;border:1px solid var(--card);white-space:nowrap}
table.heat th{padding:.2rem .5rem .2rem 0;white-space:nowrap;vertical-align:bottom;border:0;max-width:16rem;overflow:hidden;
text-overflow:ellipsis}
table.heat th.turned{padding:.2rem .1rem;text-align:center;white-space:normal;line-height:1.15;
font-size:.74rem;max-width:4.2rem}
td.below{color:var(--soft)}
td.found{font-weight:700;outline:2px solid var(--ink);outline-offset:-2px}
.units{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:.9rem 1.2rem;margin:.6rem 0}
.unit .row{display:grid;grid-template-columns:repeat(4,1fr);gap:.25rem}
.unit img{width:100%;display:block;border-radius:4px;image-rendering:pixelated}
.unit p{font-size:.84rem;line-height:1.3}
@media (max-width:60rem){.answers{grid-template-columns:1fr}}
@media (max-width:40rem){.scroll table:not(.heat){min-width:36rem}table.heat th{white-space:normal;max-width:6.5rem}
table.heat td{min-width:2.5rem;padding:.2rem .2rem}.units{grid-template-columns:1fr}svg.lines text{font-size:12px}}
"""
)


_LONGEST_SIDE = 96
_LINE = np.array([213.0, 94.0, 0.0])  # Okabe and Ito's vermilion
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


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


_MOST_UNITS = 8  # rows of each layer


def dissection_page(found: Dissection, *, title: str = "Dissection", images: bool = True) -> str:
    """The page.

    Args:
        found: What was found.
        title: Of the page.
        images: Whether galleries are shown.
    """
    body = element(
        "main",
        element("h1", title),
        element("p", f"{_facts(found)}. {reading_words(found)}", class_="soft"),
        _answers(found),
        _concept_table(found),
        _variance_table(found),
        _similarity(found),
        *_ablation(found),
        *([_galleries(found)] if images and any(one.pictures for one in found.galleries) else []),
        _unit_tables(found),
        _definitions(found),
        _settings(found),
        class_="wide",
    )
    return document(title, DISSECTION_STYLE, body)


def _facts(found: Dissection) -> str:
    layers = len(found.layers)
    return (
        f"{' and '.join(found.modalities)}, {len(found.levels)} level{'s' * (len(found.levels) > 1)}, {layers} layers, "
        f"{len(found.variance.concepts)} concepts, {found.images:,} images"
    )


def _answers(found: Dissection) -> Html:
    parts = (
        (consistency_words(found), sets_figure(found)),
        (evolution_words(found), evolution_figure(found)),
        (collaboration_words(found), collaboration_figure(found)),
    )
    cards = []
    for letter, question, (words, figure) in zip("abc", QUESTIONS, parts, strict=True):
        lead, *rest = words
        text = [element("p", lead, class_="lead"), *([element("p", " ".join(rest))] if rest else [])]
        cards.append(element("section", element("h2", f"({letter}) {question}"), *text, figure, class_="card"))
    return element("div", *cards, class_="answers")


def _concept_table(found: Dissection) -> Html:
    """Best unit of every layer for every concept."""
    columns = [(name, level) for name in found.modalities for level in found.levels]
    columns += [(FUSED, level) for level in found.levels if level in found.fused]
    every = {**found.alignments, FUSED: found.fused}
    reads = {key: every[key[0]][key[1]] for key in columns}
    score: Mode = "auroc" if found.mode == "auroc" else "normalised"
    head = element("tr", element("th", "concept"), *(element("th", " ".join(key), class_="turned") for key in columns))
    rows = []
    for place, name in enumerate(found.concepts):
        if name not in found.variance.concepts:
            continue
        cells = []
        for key in columns:
            values = reads[key].overlap.scores(score)[:, place]
            detected = name in found.detectors[key].concepts
            doubtful = name in found.detectors[key].doubtful
            best, text = float(values.max()), number_text(float(values.max()))
            mark = f"{text}{'?' if doubtful else ''}"
            shade = 2 * best - 1 if score == "auroc" else best
            cells.append(shaded(mark, shade, f"{name} in {' '.join(key)}: {text}", "found" if detected else None))
        rows.append(element("tr", element("th", name), *cells))
    counts = [element("td", _count_text(found, key), title=_count_title(found, key)) for key in columns]
    rows.append(element("tr", element("th", "concepts detected"), *counts))
    what = "objects" if found.regions else "images"
    value = "area under the ROC curve, 0.5 by chance" if score == "auroc" else "share of the way from chance to the best IoU"
    note = (
        f"Best unit of each layer for each concept: {value}. Framed: a detector. In brackets below: how many would be detected "
        f"if the labels lay on the wrong {what} (mean over shuffles). A question mark: the concept is also detected then, so "
        f"that {'chance' if found.regions else 'its position in the picture'} explains it."
    )
    table = element("div", element("table", head, *rows, class_="heat"), class_="scroll")
    return element("section", element("h2", "Which concept, where"), element("p", note, class_="note"), table, class_="card")


def _count_text(found: Dissection, key: tuple[str, str]) -> str:
    one = found.detectors[key]
    return f"{len(one.concepts)}" + (f" ({number_text(one.chance.mean, '.1f')})" if one.chance is not None else "")


def _count_title(found: Dissection, key: tuple[str, str]) -> str:
    one = found.detectors[key]
    p_value = f", p = {one.chance.p_value:.3f} against shuffled labels" if one.chance is not None else ""
    return f"{one.units} of {one.of} units detect {len(one.concepts)} concepts{p_value}"


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


def _variance_table(found: Dissection) -> Html:
    names = ("if units had no modality", "p", "if labels meant nothing", "p")
    head = _head("share of the variance of s[m, l, c]", "what it is", "share [interval]", *names)
    rows = []
    for name, (label, meaning) in _PARTS.items():
        key = name if name.startswith("share") else f"{name}, sum of squares"
        chance = found.chance[key]
        tested = not set(name.removeprefix("share ")) <= set("LC") and name not in ("consistency", "common_evolution")
        null = percent_text(found.chance[name].mean) if tested else "–"
        cells = (bounded_percent(found.intervals[name]), null, f"{chance.p_value:.3f}" if tested else "–", *_dealt(found, key))
        rows.append(element("tr", element("td", label), element("td", meaning), *_numbers(cells)))
    readings = [(f"across modalities at {level}", f"SV({level}) = mean_c Var_m s") for level in found.levels]
    readings += [(f"over levels in {name}", f"SV_levels({name}) = mean_c Var_l s") for name in found.modalities]
    others = []
    for name, label in readings:
        one, chance = found.intervals[name], found.chance[name]
        read = (_bounds(one.value, one.low, one.high, ".4f"), number_text(chance.mean, ".4f"), f"{chance.p_value:.3f}")
        others.append(element("tr", element("td", label), *_numbers((*read, *_dealt(found, name)))))
    for place, modality in enumerate(found.modalities):
        for column, level in enumerate(found.levels):
            value = number_text(float(found.variance.of_units[place, column]), ".5f")
            row = element("td", f"SV_units({modality}, {level}) = mean_k Var_c IoU")
            others.append(element("tr", row, *_numbers((value, "–", "–", "–", "–"))))
    more = element(
        "details",
        element("summary", "semantic variance in every reading"),
        _table(_head("reading", "value [interval]", *names, words=1), others),
    )
    note = (
        f"Intervals: {found.settings.get('resamples', '')} resamples of the images. Nulls: units dealt anew to the modalities "
        "of their level, and labels dealt anew, of which the sum of squares or the variance is given; p is that of the sum of "
        f"squares, or of the variance. {_PROFILES[found.settings.get('profile', 'mean')]}"
    )
    return _section("Semantic variance", note, _table(head, rows), more)


_PROFILES = {
    "mean": "s is the mean over units of IoU / ceiling.",
    "best": "s is how far the best unit of a layer is on the way from chance to the ceiling.",
}


def _dealt(found: Dissection, key: str) -> tuple[str, str]:
    """A sum of squares or variance with the labels dealt anew, beside its own; and p."""
    chance = found.relabelled.get(key)
    if chance is None or key.startswith("share"):
        return "–", "–"
    return f"{number_text(chance.mean, '.4f')} (is {number_text(chance.value, '.4f')})", f"{chance.p_value:.3f}"


def _similarity(found: Dissection) -> Html:
    note = (
        "Debiased CKA of the means over places, every layer with every other. Pale and in brackets: not above its noise floor, "
        "the 95 % quantile with the images of one side permuted."
    )
    return _section("Feature similarity", note, matrix_table(found.similarity))


def _ablation(found: Dissection) -> list[Html]:
    if not found.ablation:
        return []
    head = _head("layer", "units", "silenced", "metric before", "after", "change [interval]")
    rows = [
        element(
            "tr",
            element("td", f"{row.modality} {row.level}"),
            element("td", " ".join(filter(None, (row.group, getattr(row, "matched", ""), getattr(row, "metric", ""))))),
            *_numbers((str(len(row.units)), number_text(row.before, ".3f"), number_text(row.after, ".3f"))),
            *_numbers((_bounds(row.change, row.low, row.high, "+.3f"),)),
        )
        for row in found.ablation
    ]
    note = "Units are silenced in the running network; random units of the same number show what any loss of units costs."
    return [_section("Causal check", note, _table(head, rows))]


def _galleries(found: Dissection) -> Html:
    parts: list[Html] = []
    for modality, level in dict.fromkeys((one.row.modality, one.row.level) for one in found.galleries):
        chosen = [one for one in found.galleries if (one.row.modality, one.row.level) == (modality, level) and one.pictures]
        if chosen:
            parts.append(element("h3", f"{modality} {level}"))
            parts.append(element("div", *(_unit_gallery(one) for one in chosen), class_="units"))
    where = "the objects in which" if found.regions else "where"
    note = f"The images that excite the best detectors most; outlined and bright: {where} the unit is active."
    return _section("What units see", note, *parts)


def _unit_gallery(one: Gallery) -> Html:
    title = element("p", element("b", one.row.concept), f", unit {one.row.unit}, {number_text(one.row.score)}")
    shown = [
        element("img", src=gallery_uri(picture, mask), alt=f"image {image}, unit {one.row.unit}", loading="lazy")
        for image, picture, mask in zip(one.images, one.pictures or (), one.masks, strict=True)
    ]
    return element("div", title, element("div", *shown, class_="row"), class_="unit")


def _unit_tables(found: Dissection) -> Html:
    parts: list[Html] = []
    for key in found.detectors:
        rows = [row for row in found.units if (row.modality, row.level) == key][:_MOST_UNITS]
        head = _head("unit", "concept", "detector", "above chance", "IoU", "ceiling", "AUROC", words=3)
        table = _table(head, [element("tr", *_unit_cells(row)) for row in rows])
        told = f"{' '.join(key)}: {_count_title(found, key)}"
        parts.append(element("details", element("summary", told), table, id=f"units-{len(parts)}"))
    return _section("Units", f"The best {_MOST_UNITS} of each layer; all are in units.csv.", *parts)


def _unit_cells(row: UnitRow) -> list[Html]:
    words = [element("td", text) for text in (str(row.unit), row.concept, "yes" if row.detects else "no")]
    numbers = (row.above_chance, row.iou, row.ceiling)
    auroc = "–" if row.auroc is None else number_text(row.auroc, ".3f")
    return [*words, *_numbers((*(number_text(value, ".3f") for value in numbers), auroc))]


def _definitions(found: Dissection) -> Html:
    rows = [part for name, text in DEFINITIONS.items() for part in (element("dt", name), element("dd", text))]
    return _section("Definitions", reading_words(found), element("dl", *rows))


def _settings(found: Dissection) -> Html:
    asked = {**found.settings, "layers": "; ".join(f"{' '.join(key)}: {name}" for key, name in found.layers.items())}
    rows = [part for name, value in asked.items() for part in (element("dt", name), element("dd", str(value)))]
    notes = [element("p", note) for note in found.notes]
    heard = [element("h3", "Remarks"), *notes] if notes else []
    return element("section", element("h2", "Settings"), element("dl", *rows), *heard, class_="card")


def _section(title: str, note: str, *content: Html) -> Html:
    return element("section", element("h2", title), element("p", note, class_="note"), *content, class_="card")


def _head(*names: str, words: int = 2) -> Html:
    left = words if len(names) > 4 else 1
    return element("tr", *(element("th", name, class_="number" if place >= left else None) for place, name in enumerate(names)))


def _table(head: Html, rows: Sequence[Html]) -> Html:
    return element("div", element("table", head, *rows), class_="scroll")


def _numbers(cells: Iterable[str]) -> list[Html]:
    return [element("td", cell, class_="number") for cell in cells]


def _bounds(value: float, low: float, high: float, form: str) -> str:
    return f"{number_text(value, form)} [{number_text(low, form)}, {number_text(high, form)}]"
