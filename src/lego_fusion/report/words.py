"""An explanation in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from ..why.parts import OWN
from ..why.records import EventExplanation, Segment, VideoExplanation

_VERBS = {
    "motion": "it moves",
    "appearance": "it looks",
    "onnx": "it looks",
    "objects": "it looks",
    "text": "it is described",
    "audio": "it sounds",
}
AGREES, AGAINST = 0.1, -0.05  # shares of the excess from which a modality agrees or speaks against


def score_text(score: float) -> str:
    """A score in two digits that never says 0 or 1 of what is only near.

    Example:
        >>> score_text(0.314), score_text(0.9999), score_text(1e-9)
        ('0.31', '> 0.99', '< 0.01')
    """
    return "> 0.99" if score > 0.99 else "< 0.01" if score < 0.01 else f"{score:.2f}"


def logit_text(value: float) -> str:
    """A part in logits with its sign, and a true minus."""
    if abs(value) < 0.005:
        return "0"
    return number_text(value, "+.1f" if abs(value) >= 0.05 else "+.2f")


def number_text(value: float, form: str = ".2f") -> str:
    """A number with a true minus, and none before zero.

    Example:
        >>> number_text(-0.004), number_text(-0.46)
        ('0.00', '−0.46')
    """
    text = format(value, form)
    return format(0.0, form) if not text.strip("+-0.") else text.replace("-", "−")


def percent_text(share: float | None) -> str:
    """A share in percent."""
    return "" if share is None else number_text(100 * share, ".0f") + "\N{NO-BREAK SPACE}%"


def frames_text(segment: Segment) -> str:
    """``frames 64 to 79``, counted from 0."""
    return f"frames {segment.start_frame} to {segment.end_frame - 1}"


def place_text(segment: Segment) -> str:
    """``door, frames 64 to 79``: a segment of any video."""
    return f"{segment.video}, {frames_text(segment)}"


def support_text(support: tuple[str, ...]) -> str:
    """``motion alone`` or ``motion × text together``."""
    if not support:
        return "constant"
    return f"{support[0]} alone" if len(support) == 1 else f"{' × '.join(support)} together"


def term_text(powers: Mapping[str, int]) -> str:
    """``motion``, ``motion²`` or ``motion × text²``: the powers of one term."""
    raised = {1: "", 2: "²", 3: "³"}
    return " × ".join(name + raised.get(power, f"^{power}") for name, power in powers.items())


def headline(explanation: VideoExplanation, event: EventExplanation) -> str:
    """One or two sentences: where, how high, mostly why, and what the other modalities say."""
    return f"{where_sentence(event)} {why_sentence(explanation, event)}"


def where_sentence(event: EventExplanation) -> str:
    """Frames, seconds and score of an event."""
    span = event.span
    seconds = f"{span.start_seconds:.1f} to {span.end_seconds:.1f} s"
    return f"Frames {span.start_frame} to {span.end_frame - 1} ({seconds}): abnormal with score {score_text(span.peak)}."


def why_sentence(explanation: VideoExplanation, event: EventExplanation) -> str:
    """The modality that adds most, how unlike normal it is there, and whether the others agree."""
    first, *others = event.modalities
    because = _unlike(explanation, event, first)
    if event.parts is None:
        drop = next(one for one in event.counterfactuals if one.modality == first)
        return f"The score depends most on {first}: {because}. Without it the score would be {score_text(drop.without)}."
    share = event.parts.share(event.parts.by_modality[first])
    lead = "Mostly because" if share is not None and share >= 0.5 else "Above all because"
    told = [_other(name, event.parts.share(event.parts.by_modality[name])) for name in others]
    return f"{lead} {because}{'; ' + ', '.join(told) if told else ''}."


def _other(name: str, share: float | None) -> str:
    if share is None:
        return name
    word = "agrees" if share >= AGREES else "speaks against it" if share <= AGAINST else "adds little"
    return f"{name} {word} ({percent_text(share)})"


def _unlike(explanation: VideoExplanation, event: EventExplanation, modality: str) -> str:
    kinds = list(explanation.kinds.values())
    kind = explanation.kinds.get(modality, "")
    verb = _VERBS.get(kind, f"its {modality} is")
    if kind in _VERBS and kinds.count(kind) > 1:
        verb += f" ({modality})"
    if event.peak_parts is not None and event.peak_parts.by_reading.get(OWN, 0.0) > event.peak_parts.excess / 2:
        return f"{verb} unlike the rest of its own video"
    nearest = next((one for one in event.nearest if one.modality == modality), None)
    unusual = nearest.unusual if nearest else 0.0
    if unusual >= 1:
        return f"{verb} unlike any known normal segment"
    if unusual >= 0.95:
        return f"{verb} unlike almost all known normal segments"
    if unusual >= 0.5:
        return f"{verb} less like its nearest known normal segment than is usual"
    if event.relations:
        return f"{verb} unlike the other segments of the video, although a normal segment much like it is known"
    return f"{verb} as abnormal training videos do, although a normal segment much like it is known"
