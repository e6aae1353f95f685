"""A dissection in plain words: one answer to each of its three questions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..dissection.concepts import LevelConcepts
from ..dissection.records import Ablation, Dissection
from ..dissection.variance import Bounded
from .words import number_text, percent_text

_MOST_NAMES = 6
_VAGUE = 0.2  # share of the detectors from which on it is said
NOTABLE = 0.05  # a p-value up to it is told as more than chance


def listed(names: Collection[str], most: int = _MOST_NAMES) -> str:
    """Names with commas, the rest counted.

    Example:
        >>> listed(["b", "a", "c"], most=2)
        'a, b and 1 more'
    """
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more if ordered else "none"


def answers(found: Dissection) -> dict[str, list[str]]:
    """The lines that answer each of the three questions, by question."""
    return {
        "What is consistent, what is special?": consistency_words(found),
        "How do representations evolve?": evolution_words(found),
        "How do the modalities collaborate?": collaboration_words(found),
    }


def consistency_words(found: Dissection) -> list[str]:
    """What the modalities share and what each holds alone, at the last level, and what that is of the variance."""
    last = found.sets[-1]
    if not last.union:
        return [f"At {last.level} no unit of any modality detects a concept, so nothing can be called shared or special."]
    who = "both modalities" if len(found.modalities) == 2 else f"all {len(found.modalities)} modalities"
    shared = f"{who.capitalize()} detect {len(last.shared)} of {len(last.union)} concepts at {last.level}"
    lines = [shared + (f": {listed(last.shared)}." if last.shared else ".")]
    for name in found.modalities:
        special = last.special(name)
        lines.append(f"{name} alone detects {listed(special)}." if special else f"{name} alone detects nothing.")
    return [*lines, *_untrained_words(found), _variance_words(found), *_vague_words(found)]


def reading_words(found: Dissection) -> str:
    """What concepts were told apart among, and what a detector is."""
    measure = {"stock": "IoU", "normalised": "way from chance to the best IoU", "auroc": "AUROC"}[found.mode]
    what = f"{found.regions:,} {found.over}" if found.regions else found.over
    return f"Read over {what}; a detector: {measure} above {found.cut:g}."


def _untrained_words(found: Dissection) -> list[str]:
    """What of it copies of the network have that were never trained."""
    if found.untrained is None:
        return []
    last, copies = found.sets[-1], found.untrained[-1]
    made, anyway = [], []
    for name in found.modalities:
        before, now = copies.detected[name], last.detected[name]
        made += [f"{name} {listed(now - before)}"] if now - before else []
        anyway += [f"{name} {listed(now & before)}"] if now & before else []
    if not anyway:
        return ["Copies of the network that were never trained detect none of these."]
    if not made:
        return [f"Copies of the network that were never trained detect all of these too: {'; '.join(anyway)}."]
    return [f"Copies that were never trained detect {'; '.join(anyway)} too; beyond these: {'; '.join(made)}."]


def _vague_words(found: Dissection) -> list[str]:
    several, units = found.vague
    if several < _VAGUE * max(units, 1) or not several:
        return []
    return [
        f"Caution: {several} of {units} detecting units detect concepts that exclude each other; they may find things without "
        f"telling them apart, which makes J too high. {_remedy(found)}"
    ]


def _remedy(found: Dissection) -> str:
    return "A higher cut is stricter." if found.regions else "Give the objects (regions), or a higher cut, which is stricter."


def _variance_words(found: Dissection) -> str:
    shares = found.variance.shares
    if not shares.total:
        return "The concept profiles do not vary at all."
    p_value = found.chance["speciality, sum of squares"].p_value
    chance = "more" if p_value <= NOTABLE else "not more"
    consistency, speciality = (bounded_percent(found.intervals[name]) for name in ("consistency", "speciality"))
    return (
        f"Of the variance of the concept profiles {consistency} depends on the concept alone (consistency), "
        f"{speciality} on which modality holds it (speciality, {chance} than chance, p = {p_value:.3f})."
    )


def bounded_percent(one: Bounded) -> str:
    """A share with its interval."""
    return f"{percent_text(one.value)} [{number_text(100 * one.low, '.0f')}, {number_text(100 * one.high, '.0f')}]"


def evolution_words(found: Dissection) -> list[str]:
    """How the number of concepts, what is shared and the profiles change over levels and over the training."""
    first, last = found.sets[0], found.sets[-1]
    if len(found.sets) == 1:
        lines = ["There is one level, so nothing evolves over levels."]
    else:
        parts = [f"{name} from {len(first.detected[name])} to {len(last.detected[name])}" for name in found.modalities]
        lines = [
            f"From {first.level} to {last.level} the concepts detected go in {', in '.join(parts)}; J, the share that is held "
            f"in common, from {_joint(first)} to {_joint(last)}{joint_interval(found, last)}."
        ]
        common, own = (bounded_percent(found.intervals[name]) for name in ("common_evolution", "own_evolution"))
        lines.append(f"Change over levels that the modalities have in common is {common} of the variance, their own {own}.")
    return [*lines, *_training_words(found)]


def _joint(one: LevelConcepts) -> str:
    return number_text(one.joint) if one.union else "none (nothing detected)"


def joint_interval(found: Dissection, one: LevelConcepts) -> str:
    """The interval of J at a level behind a space; nothing where none is known."""
    bounds = found.intervals.get(f"J at {one.level}")
    return f" [{number_text(bounds.low)}, {number_text(bounds.high)}]" if bounds is not None and one.union else ""


def _training_words(found: Dissection) -> list[str]:
    if len(found.snapshots) < 2:
        return []
    first, last = found.snapshots[0], found.snapshots[-1]
    level = last.levels[-1].level
    between = f"from {number_text(first.between[-1])} to {number_text(last.between[-1])}"
    counts = ", ".join(
        f"{name} from {len(first.levels[-1].detected[name])} to {len(last.levels[-1].detected[name])}"
        for name in found.modalities
    )
    return [
        f"Over the training ({first.name} to {last.name}), at {level}: concepts of {counts}; J from "
        f"{_joint(first.levels[-1])} to {_joint(last.levels[-1])}; similarity of the modalities {between}."
    ]


def collaboration_words(found: Dissection) -> list[str]:
    """The verdict and its evidence, or what can be said without streams trained apart."""
    lines = _verdict(found) if found.collaboration else _kept_words(found)
    return [*lines, *ablation_words(found)]


def _verdict(found: Dissection) -> list[str]:
    rows = found.collaboration or ()
    chosen = next((row for row in reversed(rows) if row.shared_kept is not None or row.special_kept is not None), rows[-1])
    others = [f"{row.level}: {row.verdict}" for row in rows if row is not chosen]
    verdict = "No verdict" if chosen.verdict == "undecided" else chosen.verdict.capitalize()
    lines = [f"{verdict} at {chosen.level}" + (f" ({'; '.join(others[:4])})" if others else "") + "."]
    evidence = list(chosen.evidence())
    return [*lines, "Evidence: " + "; ".join(evidence) + "."]


def _kept_words(found: Dissection) -> list[str]:
    fused = [one for one in found.sets if one.fused is not None]
    lines = []
    if fused:
        one = fused[-1]
        special = one.all_special
        kept = [
            f"{round(share * len(wanted))} of {len(wanted)} {what}"
            for what, wanted, share in (("shared", one.shared, one.shared_kept), ("special", special, one.special_kept))
            if share is not None
        ]
        said = " and ".join(kept) if kept else "nothing, since no modality detects anything"
        new = (one.fused or frozenset()) - one.union
        added = f" It detects {len(new)} that no modality there does." if new else ""
        lines.append(f"The fused layer at {one.level} keeps {said} concepts.{added}" if kept else f"Fused layer: {said}.")
    lines.append(_similarity_words(found))
    lines.append("Whether training together made it so is not known without streams trained apart.")
    return lines


def _similarity_words(found: Dissection) -> str:
    values = [np.mean([value for value, _ in found.between(level).values()]) for level in found.levels]
    floors = [floor for level in found.levels for _, floor in found.between(level).values() if floor is not None]
    first, last = number_text(float(values[0])), number_text(float(values[-1]))
    goes = f"goes from {first} to {last}" if len(values) > 1 else f"is {first}"
    floor = f" (noise floor up to {number_text(max(floors))})" if floors else ""
    return f"Similarity between the modalities (debiased CKA) {goes} over the levels{floor}."


def ablation_words(found: Dissection) -> list[str]:
    """What silencing groups of units costs."""
    rows = list(found.ablation or ())
    own = sorted((row for row in rows if row.group != "random"), key=lambda row: row.change)[:3]
    if not own:
        return []
    told = [
        f"{row.group} units of {row.modality} at {row.level} {number_text(row.change, '+.3f')}{_random(rows, row)}"
        for row in own
    ]
    return [f"Silencing units changes the metric most for {'; '.join(told)}."]


def _random(rows: Sequence[Ablation], row: Ablation) -> str:
    """The mean change by random units that match a group."""
    own = (row.level, row.modality, row.group, row.metric)
    drawn = [one.change for one in rows if (one.level, one.modality, one.matched, one.metric) == own]
    return f" (random ones {number_text(float(np.mean(drawn)), '+.3f')})" if drawn else ""
