"""Captions beside an explanation: what is said of the segments that are shown, and which words set them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..extract.caption_files import captions_between, word_shares
from ..extract.captions import Caption
from .event_records import EventExplanation, VideoExplanation, Word

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
