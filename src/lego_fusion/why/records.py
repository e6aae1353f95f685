"""What is said about one video and its events: plain records, in logits and scores, without any model in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64

from ..alarm.events import Span
from ..extract.captions import Caption, captions_between, word_shares

Removal = Literal["typical", "drop-term"]
REMOVALS: tuple[Removal, ...] = ("typical", "drop-term")
Support = tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """Frames [start_frame, end_frame) of a video, of the explained one or of a known-normal one."""

    video: str
    start_frame: int
    end_frame: int

    @property
    def middle(self) -> int:
        """The frame to show."""
        return (self.start_frame + self.end_frame - 1) // 2


@dataclass(frozen=True)
class ColumnPart:
    """What one column of a modality's features adds to a logit.

    Args:
        modality: Name.
        column: Its number.
        name: What its extractor calls it, or ``column <number>``.
        part: In logits: of the segment's own departure, and of those near in time.
        moved: How far the segment departs in it from what the known segments lead to expect, in deviations among normals that
            were bounded and scaled; below 0 where it has less.
    """

    modality: str
    column: int
    name: str
    part: float
    moved: float


@dataclass(frozen=True)
class Parts:
    """What a logit is made of, above the logit of the typical normal segment.

    logit = baseline + sum of by_support + gap, and the same with by_modality (and the constant, the part of no modality) or
    by_reading instead.

    Args:
        logit: Mean logit of the frames explained.
        baseline: Logit of the typical normal segment.
        by_modality: Part of each modality: its own terms and an equal part of every interaction it is in.
        by_support: Part of the terms of each set of modalities: one's own, and interactions.
        by_order: Part of the terms of each total order; of degrees, of each power.
        gap: What the parts leave over.
        by_reading: Part of each reading (``parts.READINGS``).
        columns: The largest parts of single columns, by size, where the model weighs columns.
        other_columns: Sum of the parts of all other columns.
    """

    logit: float
    baseline: float
    by_modality: Mapping[str, float]
    by_support: Mapping[Support, float]
    by_order: Mapping[int, float]
    gap: float
    by_reading: Mapping[str, float] = field(default_factory=dict)
    columns: tuple[ColumnPart, ...] = ()
    other_columns: float = 0.0

    @property
    def excess(self) -> float:
        """How far the logit is above the baseline: what the parts add up to."""
        return self.logit - self.baseline

    def share(self, part: float) -> float | None:
        """A part as a share of the excess; None where there is no excess to share."""
        return part / self.excess if self.excess > 0 else None


@dataclass(frozen=True)
class RelationPart:
    """One term of one relation: this segment with that one of its video, in these modalities, at this order.

    Args:
        other: The segment that it is related to.
        powers: Power of each modality of the term.
        part: In logits of the segment.
        similarity: Value of the relation, by modality of the term.
        typical: What a typical normal segment has at the same place of its row, by modality of the term.
    """

    other: Segment
    powers: Mapping[str, int]
    part: float
    similarity: Mapping[str, float]
    typical: Mapping[str, float]


@dataclass(frozen=True)
class KnownRelation:
    """A known normal segment that an explained segment is compared with.

    Args:
        modality: In which it is one of the most alike, so that its relation makes the degree; None for the fused graph, where
            it is one of those whose weighted mean is what was expected.
        segment: Where it is.
        value: The relation, in (0, 1]; of the fused graph, the weight: all weights of a segment add up to 1.
    """

    modality: str | None
    segment: Segment
    value: float


@dataclass(frozen=True)
class NearestNormal:
    """The normal training segment that a segment is most like.

    Args:
        modality: In which it is nearest; None for all of them jointly.
        segment: Where it is.
        distance: To it, in units of the usual distance: the median of that of a normal training segment to the nearest one
            of another normal training video.
        unusual: Share of the normal training segments that are nearer to theirs, in [0, 1]; 1 is unlike any known normal.
    """

    modality: str | None
    segment: Segment
    distance: float
    unusual: float


@dataclass(frozen=True)
class Counterfactual:
    """An event if a modality were not there, and if no other were (see ``VideoExplanation.removal``).

    Args:
        modality: Name.
        without: Highest score in the event's frames without the modality.
        without_logit: And the highest logit of the event's segments, which tells more where scores are near 0 or 1.
        alone: Highest score in the event's frames with this modality only.
        alone_logit: And the highest logit of the event's segments.
    """

    modality: str
    without: float
    without_logit: float
    alone: float
    alone_logit: float


@dataclass(frozen=True)
class HeatMap:
    """Where in the picture it is unlike known normals: a grid laid over the frame, for modalities of cells.

    Args:
        modality: Name.
        values: Novelty of each cell, 1 - mean relation to the nearest known-normal cells of the same row of the picture; rows
            from top to bottom, columns from left to right.
    """

    modality: str
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Word:
    """A word of the captions of a segment, and how common it is.

    Args:
        word: In small letters.
        here: Share of the segment's captioned frames whose captions have it, in [0, 1].
        normal: The same of the normal training videos.
    """

    word: str
    here: float
    normal: float


@dataclass(frozen=True)
class EventExplanation:
    """Why a span of a video scores as it does.

    Args:
        span: Its frames, and the highest score.
        mean_score: Over its frames.
        segment: The segment with the highest logit in it.
        logit: Of that segment.
        parts: Of the mean logit of its frames; None for models without exact terms.
        peak_parts: Of the logit of ``segment``.
        relations: The largest terms of ``segment``'s relations, by size.
        other_relations: Sum of the parts that are not listed in ``relations``.
        nearest: The most alike normal segments to ``segment``: jointly first, then by modality.
        counterfactuals: One per modality.
        shapley: Shapley value of each modality for the highest score, by the same removal (2^M of them); None for more than
            12 modalities.
        score_without_all: The highest score if no modality were there: what the Shapley values start from.
        captions: What is said about ``segment``.
        words: Words that are common in ``segment``'s captions and rare in those of normal training videos.
        heat_maps: Where in the picture ``segment``'s middle frame is unlike known normals, for each modality of cells.
        known: The known normal segments that ``segment`` is compared with: of the fused graph first, then by modality, the most
            alike first; empty for models that know none.
    """

    span: Span
    mean_score: float
    segment: Segment
    logit: float
    parts: Parts | None
    peak_parts: Parts | None
    relations: tuple[RelationPart, ...]
    other_relations: float
    nearest: tuple[NearestNormal, ...]
    counterfactuals: tuple[Counterfactual, ...]
    shapley: Mapping[str, float] | None
    score_without_all: float | None
    captions: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    heat_maps: tuple[HeatMap, ...] = ()
    known: tuple[KnownRelation, ...] = ()

    @property
    def received(self) -> list[KnownRelation]:
        """The known segments of the fused graph."""
        return [one for one in self.known if one.modality is None]

    @property
    def modalities(self) -> list[str]:
        """By what they add to the event, the largest first: their parts, or what the score loses without them."""
        if self.parts is not None:
            return sorted(self.parts.by_modality, key=lambda name: -self.parts.by_modality[name])  # type: ignore[union-attr]
        return [one.modality for one in sorted(self.counterfactuals, key=lambda one: one.without_logit)]


@dataclass(frozen=True, eq=False)
class VideoExplanation:
    """Why a video scores as it does, event by event.

    Args:
        run: Run folder.
        dataset: Name of the dataset.
        video: Name.
        fps: Frames per second.
        threshold: An event is a maximal span of frames at or above it.
        scores: Of each frame in [0, 1], (frames,).
        truth: True where a frame is known to be abnormal, or None.
        events: In order of time.
        segments: The N segments of the video.
        by_modality: Part of each modality in each segment's logit, (N,) each; empty for models without exact terms.
        kinds: Extractor of each modality.
        removal: What stands for a modality that is not there.
        removal_meaning: The same in words.
        settings: What the model is, in words by name.
        normal_videos: The normal training videos that it is compared with.
        world: Which world the model lives in, in words; empty for models that know of one only.
        captions: Texts by segment, for the segments that are shown.
    """

    run: str
    dataset: str
    video: str
    fps: float
    threshold: float
    scores: Float64[np.ndarray, " frames"]
    truth: Bool[np.ndarray, " frames"] | None
    events: tuple[EventExplanation, ...]
    segments: tuple[Segment, ...]
    by_modality: Mapping[str, Float64[np.ndarray, " n"]]
    kinds: Mapping[str, str]
    removal: Removal
    removal_meaning: str
    settings: Mapping[str, str]
    normal_videos: tuple[str, ...]
    world: str = ""
    captions: Mapping[Segment, Sequence[str]] = field(default_factory=dict)

    def shown_segments(self) -> list[Segment]:
        """Every segment that a card has a picture of, without repetition."""
        shown: dict[Segment, None] = {}
        for event in self.events:
            shown[event.segment] = None
            shown |= dict.fromkeys(one.segment for one in event.nearest)
            shown |= dict.fromkeys(one.other for one in event.relations)
            shown |= dict.fromkeys(one.segment for one in event.received)
        return list(shown)

    def document(self) -> dict[str, Any]:
        """Everything as JSON values, numbers rounded to six decimals."""
        document: dict[str, Any] = {"video": self.video, "dataset": self.dataset, "run": self.run, "fps": self.fps}
        document |= {"frames": len(self.scores), "threshold": self.threshold, "highest_score": float(self.scores.max())}
        document |= {"removal": self.removal, "removal_meaning": self.removal_meaning, "settings": dict(self.settings)}
        document["world"] = self.world or None
        document["modalities"] = dict(self.kinds)
        document["events"] = [event_document(event) for event in self.events]
        document["scores"] = self.scores.tolist()
        document["truth"] = None if self.truth is None else self.truth.astype(int).tolist()
        document["segments"] = [vars(segment) for segment in self.segments]
        document["parts_by_segment"] = {name: parts.tolist() for name, parts in self.by_modality.items()}
        rounded: dict[str, Any] = _rounded(document)
        return rounded


def event_document(event: EventExplanation) -> dict[str, Any]:
    """One event as JSON values; sets of modalities are joined by `` x ``."""
    document: dict[str, Any] = {**vars(event.span), "mean_score": event.mean_score, "segment": vars(event.segment)}
    document["logit"] = event.logit
    document["parts"] = None if event.parts is None else _parts_document(event.parts)
    document["peak_parts"] = None if event.peak_parts is None else _parts_document(event.peak_parts)
    document["relations"] = [{**vars(one), "other": vars(one.other)} for one in event.relations]
    document["other_relations"] = event.other_relations
    document["known"] = [{**vars(one), "segment": vars(one.segment)} for one in event.known]
    document["nearest"] = [{**vars(one), "segment": vars(one.segment)} for one in event.nearest]
    document["counterfactuals"] = [vars(one) for one in event.counterfactuals]
    document["shapley"] = None if event.shapley is None else dict(event.shapley)
    document["score_without_all"] = event.score_without_all
    document["captions"] = list(event.captions)
    document["words"] = [vars(one) for one in event.words]
    document["heat_maps"] = [{"modality": one.modality, "values": [list(row) for row in one.values]} for one in event.heat_maps]
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def _parts_document(parts: Parts) -> dict[str, Any]:
    document: dict[str, Any] = {"logit": parts.logit, "baseline": parts.baseline, "excess": parts.excess, "gap": parts.gap}
    document["by_modality"] = dict(parts.by_modality)
    document["shares"] = {name: parts.share(part) for name, part in parts.by_modality.items()}
    document["by_support"] = {" x ".join(support) or "constant": part for support, part in parts.by_support.items()}
    document["by_order"] = {str(order): part for order, part in parts.by_order.items()}
    document["by_reading"] = dict(parts.by_reading)
    document["columns"] = [vars(one) for one in parts.columns]
    return document | {"other_columns": parts.other_columns}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if abs(value) >= 1e-3 else float(f"{value:.3g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


_MOST_CAPTIONS, _MOST_WORDS = 2, 5
_COMMON_HERE, _TIMES_RARER, _RARE = 0.3, 4.0, 0.01


def with_captions(explanation: VideoExplanation, captions: Mapping[str, Sequence[Caption]]) -> VideoExplanation:
    """Add the captions of every segment shown, and of each event the words that are common in it and rare among normals.

    A word counts as such if at least 0.3 of the segment's captioned frames have it, and at least 4 times as many as of the
    normal training videos. This reads the captions, not the model: it says what may be there, not why the score is high.

    Args:
        explanation: From ``explain_video``.
        captions: By video, of the explained one and of the normal training videos, as far as there are any.
    """
    normal = [one for video in explanation.normal_videos for one in _shifted(captions.get(video, ()), video, explanation)]
    usual = word_shares(normal)
    texts = {
        segment: captions_between(captions.get(segment.video, ()), segment.start_frame, segment.end_frame)
        for segment in explanation.shown_segments()
    }
    events = tuple(_captioned(event, captions.get(explanation.video, ()), usual) for event in explanation.events)
    return replace(explanation, events=events, captions={segment: said for segment, said in texts.items() if said})


def _captioned(event: EventExplanation, captions: Sequence[Caption], usual: Mapping[str, float]) -> EventExplanation:
    start, end = event.segment.start_frame, event.segment.end_frame
    words = [Word(word, here, usual.get(word, 0.0)) for word, here in word_shares(captions, start, end).items()]
    apart = [one for one in words if usual and one.here >= _COMMON_HERE and one.here >= _TIMES_RARER * one.normal]
    ranked = sorted(apart, key=lambda one: (-one.here / (one.normal + _RARE), one.word))[:_MOST_WORDS]
    return replace(event, captions=captions_between(captions, start, end, most=_MOST_CAPTIONS), words=tuple(ranked))


def _shifted(captions: Sequence[Caption], video: str, explanation: VideoExplanation) -> list[Caption]:
    """Captions of one normal video moved to frames of its own, so that the frames of all are counted."""
    start = explanation.normal_videos.index(video) * 10**9
    return [Caption(one.start + start, one.end + start, one.text) for one in captions]
