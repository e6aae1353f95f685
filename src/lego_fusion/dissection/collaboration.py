"""How two modalities cooperate once they are trained together.

The paper that asks this (arXiv 2308.10019) reports a hybrid rule that uses consistency and speciality at once; its
equations are not public to us, so the reading below is ours. With D the concepts a layer detects, J = |D_1 & D_2| /
|D_1 | D_2| and U = 1 - J:

* hybrid rule: the fused level keeps most of what both hold and most of what one alone holds, and holds these concepts better
  than two nulls that learn nothing together: the streams trained apart side by side, and copies of the network never trained;
* alignment: joint training raises J, and so lowers U; division of labour: it lowers J, and so raises U;
* keeps what it was given: the fused level keeps most of both kinds, and more cannot be told. Any layer that contains its inputs
  does, whatever they are: the concatenation of random filters too.

How well a level holds concepts is the mean over those that a stream detects, together or apart, of the best unit's score (of
the mode; over pixels, where the area under the ROC curve cannot be resampled, the way from chance to the ceiling). A gain over
a null counts where its 95 % interval is above 0. It holds what varies over images, and what varies from one network to the
next, as far as the copies never trained tell: with s their standard deviation, t s (1 + 1 / C)^1/2 over C copies and t s 2^1/2
over the streams trained apart, t of C - 1 degrees of freedom.

A fusion can follow the hybrid rule and a trend, so the trend is kept beside the verdict. Few concepts make J coarse: one more
or less moves it by about 1 / |D_1 | D_2|, which the evidence states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy.stats import t

from ..errors import DataError, ParameterError, check_number
from ..explain.similarity import similarity_matrix
from .alignment import UnitAlignment
from .concepts import LevelConcepts
from .overlap import Mode, UnitOverlap
from .recorder import Recording
from .variance import Bounded, bootstrap, check_levels, overlaps_of

Trend = Literal["alignment", "division of labour"]
Verdict = Literal["hybrid rule", "alignment", "division of labour", "keeps what it was given", "undecided"]
APART, UNTRAINED = "the streams trained apart, side by side", "copies never trained"


@dataclass(frozen=True, eq=False)
class Streams:
    """Two modalities of one training, jointly or apart.

    Args:
        recording: Activations of both.
        alignments: By modality and level, of the same layers.
    """

    recording: Recording
    alignments: Mapping[str, Mapping[str, UnitAlignment]]


@dataclass(frozen=True)
class LevelCollaboration:
    """What joint training did at one level.

    Args:
        level: Its name in the first modality.
        joint: Sets of concepts after joint training.
        apart: Sets of concepts after separate training.
        similarity_joint: F between the two modalities after joint training, debiased CKA.
        similarity_apart: The same after separate training.
        kept_by_training: F(A_joint, A_apart) of each modality: how much of it joint training left as it was.
        trend: By the change of J beyond the margin; None if it is within, or if a side detects nothing.
        gains: By null, how much better the fused level holds the concepts, with its interval; none without a fused level,
            concepts, or two copies that were never trained.
        verdict: The hybrid rule if both shares are high and both gains are above 0, else the trend, else whether the fused
            level keeps what it was given, else "undecided".
    """

    level: str
    joint: LevelConcepts
    apart: LevelConcepts
    similarity_joint: float
    similarity_apart: float
    kept_by_training: dict[str, float]
    trend: Trend | None
    gains: dict[str, Bounded]
    verdict: Verdict

    @property
    def shared_kept(self) -> float | None:
        """Share of D_1 & D_2 that the fused level detects; None without a fused level or shared concept."""
        return self.joint.shared_kept

    @property
    def special_kept(self) -> float | None:
        """Share of D_1 ^ D_2 that it detects, likewise."""
        return self.joint.special_kept

    def evidence(self) -> tuple[str, ...]:
        """The verdict in words, one fact a line."""
        lines = [
            f"similarity of the modalities {self.similarity_apart:.2f} apart, {self.similarity_joint:.2f} together",
            f"J {self.apart.joint:.2f} apart (of {len(self.apart.union)} concepts), "
            f"{self.joint.joint:.2f} together (of {len(self.joint.union)})",
        ]
        if not self.apart.union or not self.joint.union:
            lines.append("one of the two trainings detects no concept, so that J says nothing")
        for kind, share, number in (
            ("shared", self.shared_kept, len(self.joint.shared)),
            ("special", self.special_kept, len(self.joint.all_special)),
        ):
            if share is not None:
                lines.append(f"the fused level keeps {share:.0%} of {number} {kind} concepts")
        for null, gain in self.gains.items():
            lines.append(f"it holds concepts better than {null} by {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
        if self.joint.fused is not None and not self.gains:
            lines.append(f"no hybrid rule can be told without concepts, or without several {UNTRAINED}")
        return tuple(lines)


def collaboration(
    joint: Streams,
    apart: Streams,
    fused: Mapping[str, UnitAlignment] | None = None,
    *,
    untrained: Sequence[Mapping[str, UnitAlignment]] = (),
    mode: Mode = "normalised",
    cut: float | None = None,
    margin: float = 0.2,
    high: float = 0.75,
    resamples: int = 200,
) -> tuple[LevelCollaboration, ...]:
    """Compare two modalities trained jointly with the same two trained apart, level by level.

    Args:
        joint: After joint training; two modalities with the same number of levels.
        apart: After separate training, with the same modalities and levels, on the same samples.
        fused: Alignment of the fused layer at a level, by the name that the level has in the first modality.
        untrained: The same of copies of the network that were never trained; without two or more no hybrid rule can be told.
        mode: What counts as detection.
        cut: Of the mode.
        margin: A change of J within it is no trend, in [0, 1]. Between two trainings of one network, in which nothing
            cooperates, J moved by up to 0.2 in the study of ``docs/dissection.md``; a pair of your own seeds tells yours.
        high: Share kept from which on the fused level counts as keeping, in [0, 1].
        resamples: Of the images, for the intervals of the gains.

    Returns:
        One reading per level, in order.

    Raises:
        DataError: If there are not two modalities, or the two trainings differ in modalities, levels or samples.
        ParameterError: If the modalities have different numbers of levels, or a fused level is unknown.
    """
    check_number(margin, "margin", "collaboration", low=0.0, high=1.0)
    check_number(high, "high", "collaboration", low=0.0, high=1.0)
    levels = _levels(joint, apart)
    unknown = sorted(set(fused or {}) - {first for first, _ in levels})
    if unknown:
        raise ParameterError(f"no level '{unknown[0]}' to compare a fused layer with", expected=[first for first, _ in levels])
    names = tuple(joint.alignments)
    pooled = [side.recording.pooled() for side in (joint, apart)]
    inside = [similarity_matrix(rows, rows) for rows in pooled]
    across = similarity_matrix(pooled[0], pooled[1])
    found = []
    for pair in levels:
        places = list(zip(names, pair, strict=True))
        rows = [f"{modality} {level}" for modality, level in places]
        between = [float(m.values[m.names_a.index(rows[0]), m.names_b.index(rows[1])]) for m in inside]
        own = [float(across.values[across.names_a.index(row), across.names_b.index(row)]) for row in rows]
        kept_by_training = dict(zip(names, own, strict=True))
        level_fused = fused.get(pair[0]) if fused else None
        there = level_fused.detected(mode, cut) if level_fused is not None else None
        together, separate = (
            LevelConcepts(pair[0], {m: one.alignments[m][n].detected(mode, cut) for m, n in places}, kept)
            for one, kept in ((joint, there), (apart, None))
        )
        trend = _trend(together, separate, margin)
        shared, special = together.shared_kept, together.special_kept
        keeps = shared is not None and special is not None and min(shared, special) >= high
        side_by_side = [apart.alignments[modality][name] for modality, name in places]
        never = [copy[pair[0]] for copy in untrained if pair[0] in copy]
        names_held = together.union | separate.union
        gains = {} if level_fused is None else _gains(level_fused, side_by_side, never, names_held, mode, resamples)
        hybrid = keeps and len(gains) == 2 and all(gain.low > 0 for gain in gains.values())
        verdict: Verdict = "hybrid rule" if hybrid else trend or ("keeps what it was given" if keeps else "undecided")
        facts = (between[0], between[1], kept_by_training, trend, gains, verdict)
        found.append(LevelCollaboration(pair[0], together, separate, *facts))
    return tuple(found)


def _gains(
    fused: UnitAlignment,
    apart: Sequence[UnitAlignment],
    untrained: Sequence[UnitAlignment],
    names: frozenset[str],
    mode: Mode,
    resamples: int,
) -> dict[str, Bounded]:
    """How much better the best units of the fused level hold some concepts than those of either null."""
    chosen = [place for place, name in enumerate(fused.concepts) if name in names]
    if not chosen:
        return {}
    if any(one.counts.ranked is None for one in (fused, *apart, *untrained)):
        mode = "stock" if mode == "stock" else "normalised"

    def held(row: Mapping[str, UnitOverlap]) -> Float64[np.ndarray, "l c"]:
        return np.stack([one.scores(mode).max(axis=0)[chosen] for one in row.values()])

    def statistics(overlaps: Mapping[str, Mapping[str, UnitOverlap]]) -> dict[str, float]:
        whole = held(overlaps["fused"]).mean()
        found = {APART: float(whole - held(overlaps[APART]).max(axis=0).mean())}
        return found | ({UNTRAINED: float(whole - held(overlaps[UNTRAINED]).mean())} if copies > 1 else {})

    copies = len(untrained)
    layers = {"fused": [fused], APART: apart, **({UNTRAINED: untrained} if copies > 1 else {})}
    numbered = {name: {str(place): one for place, one in enumerate(row)} for name, row in layers.items()}
    found = bootstrap(numbered, statistics, resamples=resamples)
    if copies < 2:
        return {}
    spread = float(held(overlaps_of(numbered)[UNTRAINED]).mean(axis=1).std(ddof=1) * t.ppf(0.975, copies - 1))
    wider = {APART: spread * 2**0.5, UNTRAINED: spread * (1 + 1 / copies) ** 0.5}
    return {null: _widened(gain, wider[null]) for null, gain in found.items()}


def _widened(gain: Bounded, half: float) -> Bounded:
    """An interval with another half width added, as independent errors add."""
    below, above = float(np.hypot(gain.value - gain.low, half)), float(np.hypot(gain.high - gain.value, half))
    return Bounded(gain.value, gain.value - below, gain.value + above)


def _trend(joint: LevelConcepts, apart: LevelConcepts, margin: float) -> Trend | None:
    change = joint.joint - apart.joint
    if not joint.union or not apart.union or abs(change) <= margin:
        return None
    return "alignment" if change > 0 else "division of labour"


def _levels(joint: Streams, apart: Streams) -> list[tuple[str, str]]:
    """Names of the corresponding levels in both modalities."""
    shapes = [{modality: tuple(row) for modality, row in side.alignments.items()} for side in (joint, apart)]
    if len(shapes[0]) != 2:
        raise DataError("collaboration is between two modalities", expected=2, got=len(shapes[0]), fix="choose a pair")
    if shapes[0] != shapes[1]:
        raise DataError("the two trainings differ in modalities or levels", expected=shapes[0], got=shapes[1])
    check_levels(joint.alignments)
    missing = [
        (m, n) for side in (joint, apart) for m, row in shapes[0].items() for n in row if (m, n) not in side.recording.arrays
    ]
    if missing:
        raise DataError(f"nothing was recorded for {' '.join(missing[0])}", fix="record the layers that are aligned")
    first, second = shapes[0].values()
    return list(zip(first, second, strict=True))
