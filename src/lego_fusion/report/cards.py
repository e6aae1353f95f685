"""Alarm cards: a JSON document per event, one HTML page per video without a script, and for several videos a list."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import DataError
from ..why.parts import DEPARTURE, OWN, READINGS, TIME
from ..why.records import EventExplanation, HeatMap, Parts, RelationPart, Segment, VideoExplanation, event_document
from ..writing import written_whole
from .charts import Html, bar, colour, document, element, join, parts_chart, score_chart
from .pictures import Pictures
from .style import PAGE_STYLE
from .words import (
    frames_text,
    headline,
    logit_text,
    number_text,
    percent_text,
    score_text,
    support_text,
    term_text,
    where_sentence,
    why_sentence,
)

_MOST_COMPARED = 3  # pictures of segments that the highest one is compared with
_SMALLEST_PART = 0.005  # logits; what is smaller is written as 0
_COLUMNS = ("modality", "column", "part, logits", "here")
_SMALLEST_SHOWN = 0.005  # of the largest bar


def video_page(explanation: VideoExplanation, pictures: Pictures | None = None, *, index: str | None = None) -> str:
    """The page of one video.

    Args:
        explanation: Of the video.
        pictures: Of its segments; None leaves pictures out.
        index: Address of the page that lists all videos, if there is one.

    Returns:
        A whole HTML document.
    """
    back = [element("p", element("a", "← all videos", href=index))] if index else []
    cards = [
        _event_card(explanation, event, pictures, number + 1, len(explanation.events))
        for number, event in enumerate(explanation.events)
    ]
    body = element(
        "main",
        *back,
        _overview(explanation),
        *cards,
        _about(explanation, pictures),
        element("footer", _model_line(explanation)),
    )
    return document(f"{explanation.video}: why this score", PAGE_STYLE, body)


def index_page(explanations: Sequence[VideoExplanation], pages: Mapping[str, str]) -> str:
    """The page that lists videos; ``pages`` holds the address of each video's page."""
    head = element("tr", *(element("th", name) for name in ("video", "highest score", "events")))
    rows = []
    for one in explanations:
        events = [element("p", headline(one, event)) for event in one.events] or [element("p", "no event", class_="soft")]
        link = element("a", one.video, href=quote(pages[one.video]))
        highest = max((event.logit for event in one.events), default=None)
        logit = [] if highest is None else [element("br"), element("span", f"logit {highest:.1f}", class_="soft")]
        score = element("td", score_text(float(one.scores.max())), *logit, class_="number")
        rows.append(element("tr", element("td", link), score, element("td", *events)))
    count = sum(len(one.events) for one in explanations)
    first = explanations[0]
    title = f"{first.run}: {count} event{'' if count == 1 else 's'} in {len(explanations)} videos of {first.dataset}"
    table = element("div", element("table", head, *rows), class_="scroll")
    text = f"An event is a span of frames with a score of {first.threshold:g} or more."
    return document(title, PAGE_STYLE, element("main", element("h1", title), element("p", text, class_="soft"), table))


def _overview(explanation: VideoExplanation) -> Html:
    count, highest = len(explanation.events), float(explanation.scores.max())
    if count:
        verdict = f"{count} event{'s' if count > 1 else ''} with a score of {explanation.threshold:g} or more."
    else:
        verdict = (
            f"No event: no frame has a score of {explanation.threshold:g} or more. The highest score is {score_text(highest)}."
        )
    spans = [(event.span.start_frame, event.span.end_frame) for event in explanation.events]
    frames = len(explanation.scores)
    curve = score_chart(
        explanation.scores, fps=explanation.fps, threshold=explanation.threshold, events=spans, truth=explanation.truth
    )
    charts = [element("h3", "Score over time"), curve]
    if explanation.by_modality:
        peaks = [(event.segment.start_frame, event.segment.end_frame) for event in explanation.events]
        places = [(segment.start_frame, segment.end_frame) for segment in explanation.segments]
        charts += [
            element("h3", "What raises it, when", style="margin-top:1rem"),
            parts_chart(explanation.by_modality, places, frames, fps=explanation.fps, highest=peaks),
        ]
    facts = f"{explanation.dataset}, {frames} frames, {frames / explanation.fps:.1f} s"
    facts += f". Judged in the {explanation.world}" if explanation.world else ""
    head = [element("h1", explanation.video), element("p", facts, class_="soft"), element("p", verdict)]
    return join(*head, element("section", *charts, class_="card"))


def _event_card(
    explanation: VideoExplanation, event: EventExplanation, pictures: Pictures | None, number: int, count: int
) -> Html:
    title = element("h2", element("span", where_sentence(event), class_="where"), id=f"event-{number}")
    why = element("p", why_sentence(explanation, event), class_="why")
    ordinal = [element("p", f"Event {number} of {count}", class_="soft")] if count > 1 else []
    columns = element("div", _share_bars(explanation, event), _counterfactual_bars(explanation, event), class_="two")
    said = _captions(event)
    return element(
        "section",
        *ordinal,
        title,
        why,
        _gallery(explanation, event, pictures),
        *said,
        columns,
        _nearest(event),
        *_known(event),
        *_relations(event),
        class_="card alarm",
    )


def _gallery(explanation: VideoExplanation, event: EventExplanation, pictures: Pictures | None) -> Html:
    peak = f"highest segment, {frames_text(event.segment)}, logit {event.logit:.1f}"
    figures = [_figure(explanation, event.segment, pictures, "This video", peak, class_="wide peak")]
    near = event.nearest[0]
    text = f"{near.segment.video}, {frames_text(near.segment)}, {near.distance:.1f} times the usual distance"
    figures.append(_figure(explanation, near.segment, pictures, "Most alike among known normals", text, class_="wide"))
    for one in [one for one in event.received if one.segment != near.segment][:_MOST_COMPARED]:
        text = f"{one.segment.video}, {frames_text(one.segment)}: {percent_text(one.value)} of what was expected here"
        figures.append(_figure(explanation, one.segment, pictures, "Compared with", text))
    for other, parts in _by_segment(event.relations)[:_MOST_COMPARED]:
        largest = max(parts, key=lambda one: abs(one.part))
        values = ", ".join(
            f"{name} {number_text(value)} (usual {number_text(largest.typical[name])})"
            for name, value in largest.similarity.items()
        )
        total = sum(one.part for one in parts)
        text = f"{frames_text(other)}: {logit_text(total)} logits. Likeness in {values}"
        figures.append(_figure(explanation, other, pictures, "Segment that counts", text))
    if pictures is None:
        figures = [element("p", "Pictures are left out.", class_="note")]
    return element("div", *figures, class_="pictures") if pictures is not None else figures[0]


def _figure(
    explanation: VideoExplanation, segment: Segment, pictures: Pictures | None, title: str, text: str, class_: str | None = None
) -> Html:
    heat = _heat(explanation, segment)
    address = pictures.uri(segment, heat) if pictures is not None else None
    if heat is not None and address is not None:
        text += f". Orange: cells unlike any known-normal cell there ({heat.modality})"
    if address is None:
        shown = element("div", f"no picture of {segment.video}", class_="absent")
    else:
        shown = element("img", src=address, alt=f"{title}: frame {segment.middle} of {segment.video}", loading="lazy")
    said = explanation.captions.get(segment, ())
    quote = [element("details", element("summary", "caption"), element("blockquote", said[0]))] if said else []
    if class_ is not None and "peak" in class_:
        quote = []  # its captions stand below the pictures
    return element("figure", shown, element("figcaption", element("b", title), element("br"), text, *quote), class_=class_)


def _heat(explanation: VideoExplanation, segment: Segment) -> HeatMap | None:
    event = next((event for event in explanation.events if event.segment == segment), None)
    return event.heat_maps[0] if event is not None and event.heat_maps else None


def _captions(event: EventExplanation) -> list[Html]:
    if not event.captions:
        return []
    quotes = [element("blockquote", _marked(text, [one.word for one in event.words])) for text in event.captions]
    rows = []
    if event.words:
        told = ", ".join(
            f"“{one.word}” ({percent_text(one.here)}, among normals {percent_text(one.normal)})" for one in event.words
        )
        note = "share of the frames whose captions have the word; read from the captions, not from the model"
        rows = [element("p", f"Words that set it apart: {told}: {note}.", class_="note")]
    return [element("h3", "What the captions say of the highest segment"), *quotes, *rows]


def _marked(text: str, words: Sequence[str]) -> Html:
    """A text with some of its words marked."""
    if not words:
        return join(text)
    pieces = re.split(rf"\b({'|'.join(map(re.escape, words))})\b", text, flags=re.IGNORECASE)
    return join(*(element("mark", piece) if place % 2 else piece for place, piece in enumerate(pieces)))


def _share_bars(explanation: VideoExplanation, event: EventExplanation) -> Html:
    parts = event.parts
    if parts is None:
        return _shapley_bars(explanation, event)
    colours = {name: colour(number) for number, name in enumerate(explanation.kinds)}
    title = element("h3", "Why: what each modality adds")
    note = f"Logits of the event above the typical normal segment: {_sum_text(parts)}. Mean over its frames."
    by_modality = _bars({name: parts.by_modality[name] for name in event.modalities}, parts, colours)
    inner = element("details", element("summary", _finer_title(parts)), *_finer_bars(parts, colours))
    return element("div", title, element("p", note, class_="note"), by_modality, inner)


def _finer_title(parts: Parts) -> str:
    return (
        "which reading, order and column"
        if parts.columns or OWN in parts.by_reading
        else "single modalities, interactions, orders"
    )


def _finer_bars(parts: Parts, colours: Mapping[str, str]) -> list[Html]:
    """The same parts by reading, by set of modalities, by order and by column, as far as there is more than one."""
    found: list[Html] = []
    if OWN in parts.by_reading:
        told = {name: part for name, part in parts.by_reading.items() if name != OWN or part}
        words = "; ".join(f"{name}: {READINGS[name]}" for name in told)
        found += [element("p", f"By reading. {words}.", class_="note"), _bars(told, parts, {})]
    if any(len(support) > 1 for support in parts.by_support):
        supports = {support_text(support): part for support, part in parts.by_support.items() if support}
        fills = {support_text(support): colours[support[0]] for support in parts.by_support if len(support) == 1}
        ranked = dict(sorted(supports.items(), key=lambda pair: -abs(pair[1])))
        note = "A modality's bar above holds its own terms and an equal part of every interaction it is in."
        found += [element("p", note, class_="note"), _bars(ranked, parts, fills)]
    orders = {f"order {order}": part for order, part in parts.by_order.items()}
    what = "By power of the degrees:" if OWN in parts.by_reading else "By total order of the term:"
    return [*found, element("p", what, class_="note"), _bars(orders, parts, {}), *_column_table(parts)]


def _column_table(parts: Parts) -> list[Html]:
    """The columns whose departure counts most, those of which something is seen in two digits."""
    shown = [one for one in parts.columns if abs(one.part) >= _SMALLEST_PART]
    if not parts.columns:
        return []
    head = element("tr", *(element("th", name, class_="number" if place > 1 else None) for place, name in enumerate(_COLUMNS)))
    rows = []
    for one in shown:
        cells = (one.modality, one.name, logit_text(one.part), "more" if one.moved > 0 else "less")
        rows.append(
            element("tr", *(element("td", cell, class_="number" if place > 1 else None) for place, cell in enumerate(cells)))
        )
    whole = parts.by_reading.get(DEPARTURE, 0.0) + parts.by_reading.get(TIME, 0.0)
    left = logit_text(whole - sum(one.part for one in shown))
    note = f"The departure adds {logit_text(whole)} logits in all. "
    if not shown:
        return [element("p", note + "No single column adds 0.005 or more.", class_="note")]
    note += f"The columns that count most, with more or less than expected here; all others together: {left}."
    return [element("p", note, class_="note"), element("div", element("table", head, *rows), class_="scroll")]


def _bars(values: Mapping[str, float], parts: Parts, fills: Mapping[str, str]) -> Html:
    high = max([*values.values(), 0.0])
    low = min([*values.values(), 0.0])
    low = low if low < -_SMALLEST_SHOWN * high else 0.0
    texts = {name: f"{logit_text(part)} · {percent_text(parts.share(part)) or '–'}" for name, part in values.items()}
    return join(
        *(
            bar(name, part, texts[name], low=low, high=max(high, 1e-9), fill=fills.get(name, "var(--soft)"))
            for name, part in values.items()
        )
    )


def _sum_text(parts: Parts) -> str:
    return f"{parts.logit:.1f} − ({parts.baseline:.1f}) = {parts.excess:.1f}".replace("-", "−")


def _counterfactual_bars(explanation: VideoExplanation, event: EventExplanation) -> Html:
    colours = {name: colour(number) for number, name in enumerate(explanation.kinds)}
    rows = [_score_bar("as it is", event.span.peak, event.logit, "var(--ink)")]
    ordered = sorted(event.counterfactuals, key=lambda one: one.without_logit)
    rows += [_score_bar(f"without {one.modality}", one.without, one.without_logit, colours[one.modality]) for one in ordered]
    if len(event.counterfactuals) > 1:
        alone = sorted(event.counterfactuals, key=lambda one: -one.alone_logit)
        rows += [_score_bar(f"{one.modality} only", one.alone, one.alone_logit, colours[one.modality]) for one in alone]
    note = f"Highest score of the event (in brackets the highest logit). Without a modality, {explanation.removal_meaning}."
    inner = _shapley_bars(explanation, event) if event.parts is not None and event.shapley is not None else Html("")
    details = element("details", element("summary", "exact Shapley values of the score"), inner) if inner else Html("")
    return element("div", element("h3", "What if a modality were not there"), element("p", note, class_="note"), *rows, details)


def _score_bar(label: str, score: float, logit: float, fill: str) -> Html:
    text = f"{score_text(score)} ({number_text(logit, '.1f')})"
    return bar(label, score, text, low=0.0, high=1.0, fill=fill)


def _shapley_bars(explanation: VideoExplanation, event: EventExplanation) -> Html:
    if event.shapley is None:
        return element("p", "Too many modalities for exact Shapley values.", class_="note")
    colours = {name: colour(number) for number, name in enumerate(explanation.kinds)}
    start = event.score_without_all or 0.0
    note = (
        f"The highest score is {score_text(event.span.peak)}, and {score_text(start)} with every modality removed. The values "
        "divide the difference over all orders in which modalities can be added. Where any of several modalities would do "
        "alone, they share equally, however strong each is."
    )
    ranked = sorted(event.shapley.items(), key=lambda pair: -pair[1])
    high, low = max(1e-9, *event.shapley.values()), min(0.0, *event.shapley.values())
    bars = [
        bar(name, value, f"{value:+.2f}".replace("-", "−"), low=low, high=high, fill=colours[name]) for name, value in ranked
    ]
    return element("div", element("h3", "Shapley value of each modality"), element("p", note, class_="note"), *bars)


def _nearest(event: EventExplanation) -> Html:
    names = ("in", "most alike normal segment", "distance", "unusual")
    head = element("tr", *(element("th", name, class_="number" if place > 1 else None) for place, name in enumerate(names)))
    rows = []
    for one in event.nearest:
        place = f"{one.segment.video}, {frames_text(one.segment)}"
        cells = (one.modality or "all together", place, f"{one.distance:.1f} ×", percent_text(one.unusual))
        rows.append(
            element("tr", *(element("td", cell, class_="number" if place > 1 else None) for place, cell in enumerate(cells)))
        )
    note = (
        "Distance: in units of the usual one, from a normal training segment to the nearest of another video. Unusual: share "
        "of the normal training segments that are nearer to theirs."
    )
    title = element("h3", "Most alike among the normal training segments")
    table = element("div", element("table", head, *rows), class_="scroll")
    return element("div", title, element("p", note, class_="note"), table)


def _known(event: EventExplanation) -> list[Html]:
    """The known normal segments that the highest segment is compared with."""
    if not event.known:
        return []
    names = ("in", "known normal segment", "relation")
    head = element("tr", *(element("th", name, class_="number" if place > 1 else None) for place, name in enumerate(names)))
    rows = []
    for one in event.known:
        place = f"{one.segment.video}, {frames_text(one.segment)}"
        value = percent_text(one.value) if one.modality is None else number_text(one.value, ".3f")
        cells = (one.modality or "all together", place, value)
        rows.append(
            element("tr", *(element("td", cell, class_="number" if place > 1 else None) for place, cell in enumerate(cells)))
        )
    note = (
        f"Of the highest segment ({frames_text(event.segment)}). All together: the largest entries of the fused graph, whose "
        "mean by these weights is what was expected here. In a modality: the nearest ones, whose relation, from 0 to 1, makes "
        "its degree."
    )
    table = element("div", element("table", head, *rows), class_="scroll")
    summary = element("summary", "the known normal segments that it is compared with")
    return [element("details", summary, element("p", note, class_="note"), table)]


def _relations(event: EventExplanation) -> list[Html]:
    if event.peak_parts is None or not event.relations:
        return []
    names = ("segment", "term", "part, logits", "likeness here", "usual")
    head = element("tr", *(element("th", name, class_="number" if place > 1 else None) for place, name in enumerate(names)))
    rows = []
    for one in event.relations:
        here, usual = (", ".join(number_text(value) for value in values.values()) for values in (one.similarity, one.typical))
        cells = [frames_text(one.other), term_text(one.powers), logit_text(one.part), here, usual]
        rows.append(
            element("tr", *(element("td", cell, class_="number" if place > 1 else None) for place, cell in enumerate(cells)))
        )
    listed = sum(one.part for one in event.relations)
    note = (
        f"Terms of the highest segment ({frames_text(event.segment)}), whose logit is {_sum_text(event.peak_parts)} above the "
        f"typical normal segment. Listed: {logit_text(listed)}; all others together: {logit_text(event.other_relations)}. "
        "“Usual” is what a typical normal segment has at the same place of its row, from most to least alike."
    )
    table = element("div", element("table", head, *rows), class_="scroll")
    return [element("details", element("summary", "the relations that count most"), element("p", note, class_="note"), table)]


def _by_segment(relations: Sequence[RelationPart]) -> list[tuple[Segment, list[RelationPart]]]:
    """The listed terms by the segment they relate to, the largest sum first."""
    groups: dict[Segment, list[RelationPart]] = {}
    for one in relations:
        groups.setdefault(one.other, []).append(one)
    return sorted(groups.items(), key=lambda pair: -abs(sum(one.part for one in pair[1])))


def _about(explanation: VideoExplanation, pictures: Pictures | None) -> Html:
    rows = dict(explanation.settings)
    rows |= {"threshold": f"{explanation.threshold:g}", "removal": f"{explanation.removal}: {explanation.removal_meaning}"}
    gaps = [abs(event.parts.gap) for event in explanation.events if event.parts is not None]
    if gaps:
        rows["completeness gap"] = f"{max(gaps):.0e} logits: what the parts leave over of the logits they explain"
    elif explanation.events:
        rows["parts"] = "not defined for this model: only scores without modalities"
    rows |= {f"note {place + 1}": note for place, note in enumerate(pictures.notes if pictures is not None else ())}
    pairs = [piece for name, value in rows.items() for piece in (element("dt", name), element("dd", value))]
    return element("section", element("h3", "How this was made"), element("dl", *pairs), class_="card")


def _model_line(explanation: VideoExplanation) -> Html:
    made = f"Run {explanation.run}, dataset {explanation.dataset}"
    return element("p", f"Frames are counted from 0. {made}. A score is what a model says, no proof.")


def card_document(explanation: VideoExplanation, event: EventExplanation) -> dict[str, Any]:
    """One event with what is needed to understand it by itself, as JSON values."""
    document: dict[str, Any] = {"headline": headline(explanation, event), "video": explanation.video, "run": explanation.run}
    document |= {"dataset": explanation.dataset, "fps": explanation.fps, "threshold": explanation.threshold}
    document |= {"removal": explanation.removal, "removal_meaning": explanation.removal_meaning}
    document |= {"modalities": dict(explanation.kinds), "settings": dict(explanation.settings)}
    return document | event_document(event)


def save_cards(
    folder: str | Path, explanations: Sequence[VideoExplanation], pictures: Pictures | None = None
) -> dict[str, list[Path]]:
    """Write ``<video>.html`` and ``<video>-event-<n>.json``, and for several videos ``index.html``.

    Each file is written whole or not at all. Event files of the same video from an earlier call that had more events are
    removed.

    Args:
        folder: Made if it is not there.
        explanations: Of different videos.
        pictures: From ``load_pictures``; None leaves pictures out.

    Returns:
        Files by kind: ``pages``, ``events`` and ``index``.

    Raises:
        DataError: If there is nothing to write, or a video comes twice.
    """
    folder, videos = Path(folder), [one.video for one in explanations]
    if not videos or len(set(videos)) < len(videos):
        got = ", ".join(videos) or "none"
        raise DataError("cards are written for different videos", where=folder, expected="each video once", got=got)
    several = len(videos) > 1
    pages = {video: _file_name(video, several=several) for video in videos}
    files: dict[str, list[Path]] = {"pages": [], "events": [], "index": []}
    for explanation in explanations:
        for number, event in enumerate(explanation.events, start=1):
            content = json.dumps(card_document(explanation, event), indent=2, allow_nan=False, ensure_ascii=False)
            files["events"].append(_write(folder / f"{explanation.video}-event-{number}.json", content + "\n"))
        _remove_older(folder, explanation)
        page = video_page(explanation, pictures, index="index.html" if several else None)
        files["pages"].append(_write(folder / pages[explanation.video], page))
    if several:
        files["index"].append(_write(folder / "index.html", index_page(explanations, pages)))
    return files


def _file_name(video: str, *, several: bool) -> str:
    """Name of a page; a video called 'index' must not take the place of the list."""
    return f"{video}-video.html" if several and video == "index" else f"{video}.html"


def _write(path: Path, text: str) -> Path:
    with written_whole(path) as file:
        file.write(text.encode())
    return path


def _remove_older(folder: Path, explanation: VideoExplanation) -> None:
    for path in folder.glob("*-event-*.json") if folder.is_dir() else ():
        found = re.fullmatch(r"(.*)-event-(\d+)\.json", path.name)
        if found and found[1] == explanation.video and int(found[2]) > len(explanation.events):
            path.unlink()
