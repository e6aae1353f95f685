"""Alarm cards: a JSON document per event, one HTML page per video without a script, and for several videos a list."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..why.parts import DEPARTURE, OWN, READINGS, TIME
from ..why.records import EventExplanation, Parts, RelationPart, Segment, VideoExplanation, event_document
from ..writing import write_text
from .charts import bar, colour, parts_chart, score_chart
from .pages import render, table
from .pictures import Pictures
from .words import (
    frames_text,
    headline,
    logit_text,
    number_text,
    percent_text,
    place_text,
    score_text,
    support_text,
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
    spans = [(event.span.start_frame, event.span.end_frame) for event in one.events]
    peaks = [(event.segment.start_frame, event.segment.end_frame) for event in one.events]
    places = [(segment.start_frame, segment.end_frame) for segment in one.segments]
    return render(
        "card.html",
        f"{one.video}: why this score",
        explanation=one,
        index=index,
        curve=score_chart(one.scores, fps=one.fps, threshold=one.threshold, events=spans, truth=one.truth),
        parts=parts_chart(one.by_modality, places, frames, fps=one.fps, highest=peaks) if one.by_modality else None,
        cards=[_event_card(one, event, pictures) for event in one.events],
        own=OWN,
        about=_about(one, pictures),
    )


def index_page(explanations: Sequence[VideoExplanation], pages: Mapping[str, str]) -> str:
    """The page that lists videos; ``pages`` holds the address of each video's page."""
    count, first = sum(len(one.events) for one in explanations), explanations[0]
    title = f"{first.run}: {count} event{'' if count == 1 else 's'} in {len(explanations)} videos of {first.dataset}"
    return render("card_index.html", title, explanations=explanations, pages=pages, headline=headline)


def _event_card(explanation: VideoExplanation, event: EventExplanation, pictures: Pictures | None) -> Piece:
    """What the template shows of one event, beside the event itself."""
    fills = {name: colour(number) for number, name in enumerate(explanation.kinds)}
    return {
        "event": event,
        "where": where_sentence(event),
        "why": why_sentence(explanation, event),
        "figures": None if pictures is None else _gallery(explanation, event, pictures),
        "quotes": [_marked(text, [one.word for one in event.words]) for text in event.captions],
        "parts": None if event.parts is None else _shares(event, event.parts, fills),
        "finer": None if event.parts is None else _finer(event.parts, fills),
        "shapley": None if event.shapley is None else _shapley(event.shapley, fills),
        "removed": _removed(event, fills),
    }


def _gallery(explanation: VideoExplanation, event: EventExplanation, pictures: Pictures) -> list[Piece]:
    peak = f"highest segment, {frames_text(event.segment)}, logit {event.logit:.1f}"
    near = event.nearest[0]
    text = f"{place_text(near.segment)}, {near.distance:.1f} times the usual distance"
    shown = [(event.segment, "This video", peak, "wide peak"), (near.segment, "Most alike among known normals", text, "wide")]
    for one in [one for one in event.received if one.segment != near.segment][:_MOST_COMPARED]:
        text = f"{place_text(one.segment)}: {percent_text(one.value)} of what was expected here"
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
    heat = next((event.heat_maps[0] for event in explanation.events if event.segment == segment and event.heat_maps), None)
    address = pictures.uri(segment, heat)
    if heat is not None and address is not None:
        text += f". Orange: cells unlike any known-normal cell there ({heat.modality})"
    said = () if "peak" in kind else explanation.captions.get(segment, ())  # those of the peak stand below the pictures
    alt = f"{title}: frame {segment.middle} of {segment.video}"
    words = {"title": title, "text": text, "alt": alt, "quote": said[0] if said else "", "video": segment.video}
    return {"kind": kind, "address": address, **words}


def _marked(text: str, words: Sequence[str]) -> list[str]:
    """A text in pieces, every second of which is one of the words."""
    return re.split(rf"\b({'|'.join(map(re.escape, words))})\b", text, flags=re.IGNORECASE) if words else [text]


def _shares(event: EventExplanation, parts: Parts, fills: Mapping[str, str]) -> list[Piece]:
    """What each modality adds."""
    return _bars({name: parts.by_modality[name] for name in event.modalities}, parts, fills)


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
    if parts.columns:
        found.append(_columns(parts))
    return found


def _columns(parts: Parts) -> Piece:
    """The columns whose departure counts most, those of which something is seen in two digits."""
    counted = [one for one in parts.columns if abs(one.part) >= _SMALLEST_PART]
    whole = parts.by_reading.get(DEPARTURE, 0.0) + parts.by_reading.get(TIME, 0.0)
    note = f"The departure adds {logit_text(whole)} logits in all. "
    if not counted:
        return {"note": note + "No single column adds 0.005 or more."}
    left = logit_text(whole - sum(one.part for one in counted))
    note += f"The columns that count most, with more or less than expected here; all others together: {left}."
    rows = [(one.modality, one.name, logit_text(one.part), "more" if one.moved > 0 else "less") for one in counted]
    return {"note": note, "table": table(("modality", "column", "part, logits", "here"), rows)}


def _bars(values: Mapping[str, float], parts: Parts, fills: Mapping[str, str]) -> list[Piece]:
    high, low = max([*values.values(), 0.0]), min([*values.values(), 0.0])
    scale = {"low": low if low < -_SMALLEST_SHOWN * high else 0.0, "high": max(high, 1e-9)}
    texts = {name: f"{logit_text(part)} · {percent_text(parts.share(part)) or '–'}" for name, part in values.items()}
    return [bar(name, part, texts[name], **scale, fill=fills.get(name, "var(--soft)")) for name, part in values.items()]


def _removed(event: EventExplanation, fills: Mapping[str, str]) -> list[Piece]:
    """The highest score as it is, without each modality, and with one alone."""
    rows = [("as it is", event.span.peak, event.logit, "var(--ink)")]
    ordered = sorted(event.counterfactuals, key=lambda one: one.without_logit)
    rows += [(f"without {one.modality}", one.without, one.without_logit, fills[one.modality]) for one in ordered]
    if len(event.counterfactuals) > 1:
        alone = sorted(event.counterfactuals, key=lambda one: -one.alone_logit)
        rows += [(f"{one.modality} only", one.alone, one.alone_logit, fills[one.modality]) for one in alone]
    return [
        bar(name, score, f"{score_text(score)} ({number_text(logit, '.1f')})", low=0.0, high=1.0, fill=fill)
        for name, score, logit, fill in rows
    ]


def _shapley(values: Mapping[str, float], fills: Mapping[str, str]) -> list[Piece]:
    scale = {"low": min(0.0, *values.values()), "high": max(1e-9, *values.values())}
    ranked = sorted(values.items(), key=lambda pair: -pair[1])
    return [bar(name, value, number_text(value, "+.2f"), **scale, fill=fills[name]) for name, value in ranked]


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
            files["events"].append(folder / f"{explanation.video}-event-{number}.json")
            write_text(files["events"][-1], content + "\n")
        _remove_older(folder, explanation)
        files["pages"].append(folder / pages[explanation.video])
        write_text(files["pages"][-1], video_page(explanation, pictures, index="index.html" if several else None))
    if several:
        files["index"].append(folder / "index.html")
        write_text(files["index"][0], index_page(explanations, pages))
    return files


def _file_name(video: str, *, several: bool) -> str:
    """Name of a page; a video called 'index' must not take the place of the list."""
    return f"{video}-video.html" if several and video == "index" else f"{video}.html"


def _remove_older(folder: Path, explanation: VideoExplanation) -> None:
    for path in folder.glob("*-event-*.json") if folder.is_dir() else ():
        found = re.fullmatch(r"(.*)-event-(\d+)\.json", path.name)
        if found and found[1] == explanation.video and int(found[2]) > len(explanation.events):
            path.unlink()
