"""A dissection as one HTML file: no script, nothing fetched from elsewhere; the three answers on the first screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..dissection.findings import FUSED, Dissection, Gallery, UnitRow
from ..dissection.overlap import Mode
from .dissection_definitions import DEFINITIONS
from .dissection_figures import collaboration_figure, evolution_figure, matrix_table, sets_figure, shaded
from .dissection_pictures import gallery_uri
from .dissection_style import DISSECTION_STYLE
from .dissection_words import (
    QUESTIONS,
    bounded_percent,
    collaboration_words,
    consistency_words,
    evolution_words,
    reading_words,
)
from .markup import Html, document, element
from .words import number_text, percent_text

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
