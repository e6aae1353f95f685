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
from .charts import bar, colour, parts_chart, score_chart
from .pages import render, table
from .pictures import Pictures
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
_SMALLEST_SHOWN = 0.005  # of the largest bar
Piece = dict[str, Any]


def video_page(explanation: VideoExplanation, pictures: Pictures | None = None, *, index: str | None = None) -> str:
    """The page of one video.

    Args:
        explanation: Of the video.
        pictures: Of its segments; None leaves pictures out.
        index: Address of the page that lists all videos, if there is one.

    Returns:
        A whole HTML document.
    """
    one, frames = explanation, len(explanation.scores)
    count, highest = len(one.events), score_text(float(one.scores.max()))
    verdict = f"{count} event{'s' if count > 1 else ''} with a score of {one.threshold:g} or more."
    if not count:
        verdict = f"No event: no frame has a score of {one.threshold:g} or more. The highest score is {highest}."
    facts = f"{one.dataset}, {frames} frames, {frames / one.fps:.1f} s" + (f". Judged in the {one.world}" if one.world else "")
    spans = [(event.span.start_frame, event.span.end_frame) for event in one.events]
    peaks = [(event.segment.start_frame, event.segment.end_frame) for event in one.events]
    places = [(segment.start_frame, segment.end_frame) for segment in one.segments]
    return render(
        "card.html",
        f"{one.video}: why this score",
        explanation=one,
        index=index,
        facts=facts,
        verdict=verdict,
        curve=score_chart(one.scores, fps=one.fps, threshold=one.threshold, events=spans, truth=one.truth),
        parts=parts_chart(one.by_modality, places, frames, fps=one.fps, highest=peaks) if one.by_modality else None,
        cards=[_event_card(one, event, pictures) for event in one.events],
        about=_about(one, pictures),
    )


def index_page(explanations: Sequence[VideoExplanation], pages: Mapping[str, str]) -> str:
    """The page that lists videos; ``pages`` holds the address of each video's page."""
    rows = []
    for one in explanations:
        highest = max((event.logit for event in one.events), default=None)
        logit, score = "" if highest is None else f"logit {highest:.1f}", score_text(float(one.scores.max()))
        texts = [headline(one, event) for event in one.events]
        rows.append({"video": one.video, "address": quote(pages[one.video]), "score": score, "logit": logit, "events": texts})
    count, first = sum(len(one.events) for one in explanations), explanations[0]
    title = f"{first.run}: {count} event{'' if count == 1 else 's'} in {len(explanations)} videos of {first.dataset}"
    return render("card_index.html", title, threshold=f"{first.threshold:g}", rows=rows)


def _event_card(explanation: VideoExplanation, event: EventExplanation, pictures: Pictures | None) -> Piece:
    """What the template shows of one event."""
    words = [one.word for one in event.words]
    return {
        "where": where_sentence(event),
        "why": why_sentence(explanation, event),
        "figures": None if pictures is None else _gallery(explanation, event, pictures),
        "quotes": [_marked(text, words) for text in event.captions],
        "words": _words_note(event),
        "shares": _shares(explanation, event),
        "shapley": _shapley(explanation, event),
        "removed": _removed(explanation, event),
        "nearest": _nearest(event),
        "details": [*_known(event), *_relations(event)],
    }


def _gallery(explanation: VideoExplanation, event: EventExplanation, pictures: Pictures) -> list[Piece]:
    peak = f"highest segment, {frames_text(event.segment)}, logit {event.logit:.1f}"
    near = event.nearest[0]
    text = f"{near.segment.video}, {frames_text(near.segment)}, {near.distance:.1f} times the usual distance"
    shown = [(event.segment, "This video", peak, "wide peak"), (near.segment, "Most alike among known normals", text, "wide")]
    for one in [one for one in event.received if one.segment != near.segment][:_MOST_COMPARED]:
        text = f"{one.segment.video}, {frames_text(one.segment)}: {percent_text(one.value)} of what was expected here"
        shown.append((one.segment, "Compared with", text, ""))
    for other, parts in _by_segment(event.relations)[:_MOST_COMPARED]:
        largest = max(parts, key=lambda one: abs(one.part))
        values = ", ".join(
            f"{name} {number_text(value)} (usual {number_text(largest.typical[name])})"
            for name, value in largest.similarity.items()
        )
        total = sum(one.part for one in parts)
        text = f"{frames_text(other)}: {logit_text(total)} logits. Likeness in {values}"
        shown.append((other, "Segment that counts", text, ""))
    return [_figure(explanation, segment, pictures, title, text, kind) for segment, title, text, kind in shown]


def _figure(explanation: VideoExplanation, segment: Segment, pictures: Pictures, title: str, text: str, kind: str) -> Piece:
    heat = _heat(explanation, segment)
    address = pictures.uri(segment, heat)
    if heat is not None and address is not None:
        text += f". Orange: cells unlike any known-normal cell there ({heat.modality})"
    said = () if "peak" in kind else explanation.captions.get(segment, ())  # those of the peak stand below the pictures
    alt = f"{title}: frame {segment.middle} of {segment.video}"
    words = {"title": title, "text": text, "alt": alt, "quote": said[0] if said else "", "video": segment.video}
    return {"kind": kind, "address": address, **words}


def _heat(explanation: VideoExplanation, segment: Segment) -> HeatMap | None:
    event = next((event for event in explanation.events if event.segment == segment), None)
    return event.heat_maps[0] if event is not None and event.heat_maps else None


def _words_note(event: EventExplanation) -> str:
    if not event.words:
        return ""
    told = ", ".join(
        f"“{one.word}” ({percent_text(one.here)}, among normals {percent_text(one.normal)})" for one in event.words
    )
    note = "share of the frames whose captions have the word; read from the captions, not from the model"
    return f"Words that set it apart: {told}: {note}."


def _marked(text: str, words: Sequence[str]) -> list[str]:
    """A text in pieces, every second of which is one of the words."""
    return re.split(rf"\b({'|'.join(map(re.escape, words))})\b", text, flags=re.IGNORECASE) if words else [text]


def _fills(explanation: VideoExplanation) -> dict[str, str]:
    return {name: colour(number) for number, name in enumerate(explanation.kinds)}


def _shares(explanation: VideoExplanation, event: EventExplanation) -> Piece | None:
    """What each modality adds, and finer; None where a model's logits are no sum of parts."""
    parts, fills = event.parts, _fills(explanation)
    if parts is None:
        return None
    finer = "which reading, order and column" if parts.columns or OWN in parts.by_reading else ""
    return {
        "note": f"Logits of the event above the typical normal segment: {_sum_text(parts)}. Mean over its frames.",
        "bars": _bars({name: parts.by_modality[name] for name in event.modalities}, parts, fills),
        "finer_title": finer or "single modalities, interactions, orders",
        "finer": _finer(parts, fills),
    }


def _finer(parts: Parts, fills: Mapping[str, str]) -> list[Piece]:
    """The same parts by reading, by set of modalities, by order and by column, as far as there is more than one."""
    found: list[Piece] = []
    if OWN in parts.by_reading:
        told = {name: part for name, part in parts.by_reading.items() if name != OWN or part}
        words = "; ".join(f"{name}: {READINGS[name]}" for name in told)
        found.append({"note": f"By reading. {words}.", "bars": _bars(told, parts, {})})
    if any(len(support) > 1 for support in parts.by_support):
        supports = {support_text(support): part for support, part in parts.by_support.items() if support}
        alone = {support_text(support): fills[support[0]] for support in parts.by_support if len(support) == 1}
        ranked = dict(sorted(supports.items(), key=lambda pair: -abs(pair[1])))
        note = "A modality's bar above holds its own terms and an equal part of every interaction it is in."
        found.append({"note": note, "bars": _bars(ranked, parts, alone)})
    orders = {f"order {order}": part for order, part in parts.by_order.items()}
    what = "By power of the degrees:" if OWN in parts.by_reading else "By total order of the term:"
    found.append({"note": what, "bars": _bars(orders, parts, {})})
    return [{"table": None, "bars": None, **one} for one in (*found, *_columns(parts))]


def _columns(parts: Parts) -> list[Piece]:
    """The columns whose departure counts most, those of which something is seen in two digits."""
    if not parts.columns:
        return []
    counted = [one for one in parts.columns if abs(one.part) >= _SMALLEST_PART]
    whole = parts.by_reading.get(DEPARTURE, 0.0) + parts.by_reading.get(TIME, 0.0)
    note = f"The departure adds {logit_text(whole)} logits in all. "
    if not counted:
        return [{"note": note + "No single column adds 0.005 or more."}]
    left = logit_text(whole - sum(one.part for one in counted))
    note += f"The columns that count most, with more or less than expected here; all others together: {left}."
    rows = [(one.modality, one.name, logit_text(one.part), "more" if one.moved > 0 else "less") for one in counted]
    return [{"note": note, "table": table(("modality", "column", "part, logits", "here"), rows)}]


def _bars(values: Mapping[str, float], parts: Parts, fills: Mapping[str, str]) -> list[Piece]:
    high, low = max([*values.values(), 0.0]), min([*values.values(), 0.0])
    scale = {"low": low if low < -_SMALLEST_SHOWN * high else 0.0, "high": max(high, 1e-9)}
    texts = {name: f"{logit_text(part)} · {percent_text(parts.share(part)) or '–'}" for name, part in values.items()}
    return [bar(name, part, texts[name], **scale, fill=fills.get(name, "var(--soft)")) for name, part in values.items()]


def _sum_text(parts: Parts) -> str:
    return f"{parts.logit:.1f} − ({parts.baseline:.1f}) = {parts.excess:.1f}".replace("-", "−")


def _removed(explanation: VideoExplanation, event: EventExplanation) -> Piece:
    """The highest score as it is, without each modality, and with one alone."""
    fills = _fills(explanation)
    rows = [("as it is", event.span.peak, event.logit, "var(--ink)")]
    ordered = sorted(event.counterfactuals, key=lambda one: one.without_logit)
    rows += [(f"without {one.modality}", one.without, one.without_logit, fills[one.modality]) for one in ordered]
    if len(event.counterfactuals) > 1:
        alone = sorted(event.counterfactuals, key=lambda one: -one.alone_logit)
        rows += [(f"{one.modality} only", one.alone, one.alone_logit, fills[one.modality]) for one in alone]
    note = f"Highest score of the event (in brackets the highest logit). Without a modality, {explanation.removal_meaning}."
    bars = [
        bar(name, score, f"{score_text(score)} ({number_text(logit, '.1f')})", low=0.0, high=1.0, fill=fill)
        for name, score, logit, fill in rows
    ]
    return {"note": note, "bars": bars}


def _shapley(explanation: VideoExplanation, event: EventExplanation) -> Piece:
    if event.shapley is None:
        return {"note": "Too many modalities for exact Shapley values.", "bars": []}
    fills, start = _fills(explanation), event.score_without_all or 0.0
    note = (
        f"The highest score is {score_text(event.span.peak)}, and {score_text(start)} with every modality removed. The values "
        "divide the difference over all orders in which modalities can be added. Where any of several modalities would do "
        "alone, they share equally, however strong each is."
    )
    scale = {"low": min(0.0, *event.shapley.values()), "high": max(1e-9, *event.shapley.values())}
    ranked = sorted(event.shapley.items(), key=lambda pair: -pair[1])
    return {
        "note": note,
        "bars": [bar(name, value, number_text(value, "+.2f"), **scale, fill=fills[name]) for name, value in ranked],
    }


def _nearest(event: EventExplanation) -> Piece:
    rows = []
    for one in event.nearest:
        place = f"{one.segment.video}, {frames_text(one.segment)}"
        rows.append((one.modality or "all together", place, f"{one.distance:.1f} ×", percent_text(one.unusual)))
    note = (
        "Distance: in units of the usual one, from a normal training segment to the nearest of another video. Unusual: share "
        "of the normal training segments that are nearer to theirs."
    )
    return {"note": note, "table": table(("in", "most alike normal segment", "distance", "unusual"), rows)}


def _known(event: EventExplanation) -> list[Piece]:
    """The known normal segments that the highest segment is compared with."""
    if not event.known:
        return []
    rows = []
    for one in event.known:
        place = f"{one.segment.video}, {frames_text(one.segment)}"
        value = percent_text(one.value) if one.modality is None else number_text(one.value, ".3f")
        rows.append((one.modality or "all together", place, value))
    note = (
        f"Of the highest segment ({frames_text(event.segment)}). All together: the largest entries of the fused graph, whose "
        "mean by these weights is what was expected here. In a modality: the nearest ones, whose relation, from 0 to 1, makes "
        "its degree."
    )
    title = "the known normal segments that it is compared with"
    return [{"title": title, "note": note, "table": table(("in", "known normal segment", "relation"), rows)}]


def _relations(event: EventExplanation) -> list[Piece]:
    if event.peak_parts is None or not event.relations:
        return []
    rows = []
    for one in event.relations:
        here, usual = (", ".join(number_text(value) for value in values.values()) for values in (one.similarity, one.typical))
        rows.append((frames_text(one.other), term_text(one.powers), logit_text(one.part), here, usual))
    listed = sum(one.part for one in event.relations)
    note = (
        f"Terms of the highest segment ({frames_text(event.segment)}), whose logit is {_sum_text(event.peak_parts)} above the "
        f"typical normal segment. Listed: {logit_text(listed)}; all others together: {logit_text(event.other_relations)}. "
        "“Usual” is what a typical normal segment has at the same place of its row, from most to least alike."
    )
    names = ("segment", "term", "part, logits", "likeness here", "usual")
    return [{"title": "the relations that count most", "note": note, "table": table(names, rows)}]


def _by_segment(relations: Sequence[RelationPart]) -> list[tuple[Segment, list[RelationPart]]]:
    """The listed terms by the segment they relate to, the largest sum first."""
    groups: dict[Segment, list[RelationPart]] = {}
    for one in relations:
        groups.setdefault(one.other, []).append(one)
    return sorted(groups.items(), key=lambda pair: -abs(sum(one.part for one in pair[1])))


def _about(explanation: VideoExplanation, pictures: Pictures | None) -> dict[str, str]:
    rows = dict(explanation.settings)
    rows |= {"threshold": f"{explanation.threshold:g}", "removal": f"{explanation.removal}: {explanation.removal_meaning}"}
    gaps = [abs(event.parts.gap) for event in explanation.events if event.parts is not None]
    if gaps:
        rows["completeness gap"] = f"{max(gaps):.0e} logits: what the parts leave over of the logits they explain"
    elif explanation.events:
        rows["parts"] = "not defined for this model: only scores without modalities"
    return rows | {f"note {place + 1}": note for place, note in enumerate(pictures.notes if pictures is not None else ())}


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
