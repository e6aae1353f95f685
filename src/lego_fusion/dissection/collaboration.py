"""How two modalities cooperate once they are trained together, and how alike the layers of their recordings are.

The paper that asks this (arXiv 2308.10019) reports a hybrid rule that uses consistency and speciality at once; its
equations are not public to us, so the reading below is ours. With D the concepts a layer detects, J = |D_1 & D_2| /
|D_1 | D_2| and U = 1 - J:

* hybrid rule: the fused level keeps most of what both hold and most of what one alone holds;
* alignment: joint training raises J, and so lowers U; division of labour: it lowers J, and so raises U.

A fusion can do the first and one of the others, so the trend is kept beside the verdict. Few concepts make J coarse: one
concept more or less moves it by about 1 / |D_1 | D_2|, which the evidence states.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from ..explain.activations import Centred, centred
from ..explain.similarity import SimilarityMatrix, cka, similarity_matrix
from .alignment import UnitAlignment
from .concepts import ConceptSets, concept_sets
from .overlap import Mode
from .recorder import Key, Recording

Over = Literal["samples", "places"]


def feature_similarity(
    first: Recording, second: Recording | None = None, *, over: Over = "samples", permutations: int = 20, seed: int = 0
) -> SimilarityMatrix:
    """Debiased CKA of every layer with every other, each beside its noise floor; layers are named "modality level".

    Args:
        first: One side.
        second: The other, of the same samples; None: the first against itself.
        over: "samples" compares means over places (N, K). "places" compares place by place, (N h w, K), after averaging
            the finer of two grids to the coarser; its floor permutes whole images, because neighbouring places are alike
            and the same place is alike in many images.
        permutations: For the floor, 95 % quantile; 0 for none.
        seed: Of the permutations.

    Raises:
        DataError: If the samples differ in number, or "places" meets a layer without spatial extent.
    """
    check_choice(over, "over", "feature_similarity", ("samples", "places"))
    check_int(permutations, "permutations", "feature_similarity", low=0)
    other = first if second is None else second
    if over == "samples":
        rows = first.pooled()
        return similarity_matrix(rows, rows if second is None else other.pooled(), permutations=permutations, seed=seed)
    generator = np.random.default_rng(check_int(seed, "seed", "feature_similarity", low=0))
    samples = {len(array) for recording in (first, other) for array in recording.arrays.values()}
    if len(samples) != 1:
        raise DataError("recordings have different numbers of samples", expected="the same", got=sorted(samples))
    orders = [generator.permutation(min(samples)) for _ in range(permutations)]
    values, floor = np.zeros((2, len(first.arrays), len(other.arrays)))
    for row, key in enumerate(first.arrays):
        for column, other_key in enumerate(other.arrays):
            x, y = on_one_grid(_spatial(first, key), _spatial(other, other_key))
            values[row, column] = _place_cka(x, y)
            if orders:
                floor[row, column] = np.quantile([_place_cka(x, y[torch.from_numpy(order)]) for order in orders], 0.95)
    names = tuple(" ".join(key) for key in first.arrays), tuple(" ".join(key) for key in other.arrays)
    return SimilarityMatrix(*names, values, "cka", floor if orders else None)


def on_one_grid(
    first: Float[Tensor, "n k h w"], second: Float[Tensor, "n j g v"]
) -> tuple[Float[Tensor, "n k a b"], Float[Tensor, "n j a b"]]:
    """Both averaged to the smaller height and the smaller width of the two.

    Example:
        >>> x, y = on_one_grid(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4))
        >>> tuple(x.shape), tuple(y.shape)
        ((2, 3, 4, 4), (2, 5, 4, 4))
    """
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    resize = torch.nn.functional.adaptive_avg_pool2d
    return resize(first, size), resize(second, size)


def _place_cka(x: Tensor, y: Tensor) -> float:
    return cka(_rows(x), _rows(y))


def _rows(maps: Tensor) -> Centred:
    return centred(maps.permute(0, 2, 3, 1).flatten(0, 2))  # (n a b, k)


def _spatial(recording: Recording, key: Key) -> Tensor:
    array: Any = recording[key]
    if recording.kind != "spatial":
        raise DataError(
            "a layer has no spatial extent", where=" ".join(key), expected="kind 'spatial'", got=f"kind '{recording.kind}'"
        )
    return torch.from_numpy(np.array(array, dtype=np.float32))


Trend = Literal["alignment", "division of labour"]
Verdict = Literal["hybrid rule", "alignment", "division of labour", "undecided"]


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
        shared_kept: Share of D_1 & D_2 that the fused level detects; None without a fused level or shared concept.
        special_kept: Share of D_1 ^ D_2 that it detects, likewise.
        trend: By the change of J beyond the margin; None if it is within, or if a side detects nothing.
        verdict: The hybrid rule if both shares are high, else the trend, else "undecided".
    """

    level: str
    joint: ConceptSets
    apart: ConceptSets
    similarity_joint: float
    similarity_apart: float
    kept_by_training: dict[str, float]
    shared_kept: float | None
    special_kept: float | None
    trend: Trend | None
    verdict: Verdict

    @property
    def similarity_change(self) -> float:
        """F_joint - F_apart: above 0 where joint training brings the modalities together."""
        return self.similarity_joint - self.similarity_apart

    @property
    def joint_change(self) -> float:
        """Change of J, which is minus the change of U_1 + U_2."""
        return self.joint.joint - self.apart.joint

    def evidence(self) -> tuple[str, ...]:
        """The verdict in words, one fact a line."""
        lines = [
            f"similarity of the modalities {self.similarity_apart:.2f} apart, {self.similarity_joint:.2f} together",
            f"J {self.apart.joint:.2f} apart (of {len(self.apart.union)} concepts), "
            f"{self.joint.joint:.2f} together (of {len(self.joint.union)})",
        ]
        if self.apart.empty or self.joint.empty:
            lines.append("one of the two trainings detects no concept, so that J says nothing")
        for kind, share, number in (
            ("shared", self.shared_kept, len(self.joint.shared)),
            ("special", self.special_kept, len(self.joint.only_first | self.joint.only_second)),
        ):
            if share is not None:
                lines.append(f"the fused level keeps {share:.0%} of {number} {kind} concepts")
        return tuple(lines)


def collaboration(
    joint: Streams,
    apart: Streams,
    fused: Mapping[str, UnitAlignment] | None = None,
    *,
    mode: Mode = "normalised",
    cut: float | None = None,
    over: Over = "samples",
    margin: float = 0.2,
    high: float = 0.75,
) -> tuple[LevelCollaboration, ...]:
    """Compare two modalities trained jointly with the same two trained apart, level by level.

    Args:
        joint: After joint training; two modalities with the same number of levels.
        apart: After separate training, with the same modalities and levels, on the same samples.
        fused: Alignment of the fused layer at a level, by the name that the level has in the first modality.
        mode: What counts as detection.
        cut: Of the mode.
        over: As for ``feature_similarity``.
        margin: A change of J within it is no trend, in [0, 1]. Between two trainings of one network, in which nothing
            cooperates, J moved by up to 0.2 in the study of ``docs/dissection.md``; a pair of your own seeds tells yours.
        high: Share kept from which on the fused level counts as keeping, in [0, 1].

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
    inside = [feature_similarity(side.recording, over=over, permutations=0) for side in (joint, apart)]
    across = feature_similarity(joint.recording, apart.recording, over=over, permutations=0)
    found = []
    for pair in levels:
        rows = [f"{modality} {level}" for modality, level in zip(names, pair, strict=True)]
        between = [float(m.values[m.names_a.index(rows[0]), m.names_b.index(rows[1])]) for m in inside]
        own = [float(across.values[across.names_a.index(row), across.names_b.index(row)]) for row in rows]
        sets = [
            concept_sets(*(side.alignments[m][n].detected(mode, cut) for m, n in zip(names, pair, strict=True)))
            for side in (joint, apart)
        ]
        there = fused[pair[0]].detected(mode, cut) if fused and pair[0] in fused else None
        shared = _kept(sets[0].shared, there)
        special = _kept(sets[0].only_first | sets[0].only_second, there)
        trend = _trend(sets[0], sets[1], margin)
        hybrid = shared is not None and special is not None and min(shared, special) >= high
        found.append(
            LevelCollaboration(
                pair[0],
                sets[0],
                sets[1],
                between[0],
                between[1],
                dict(zip(names, own, strict=True)),
                shared,
                special,
                trend,
                "hybrid rule" if hybrid else trend or "undecided",
            )
        )
    return tuple(found)


def _kept(wanted: Collection[str], there: Collection[str] | None) -> float | None:
    if there is None or not wanted:
        return None
    return len(set(wanted) & set(there)) / len(wanted)


def _trend(joint: ConceptSets, apart: ConceptSets, margin: float) -> Trend | None:
    change = joint.joint - apart.joint
    if joint.empty or apart.empty or abs(change) <= margin:
        return None
    return "alignment" if change > 0 else "division of labour"


def _levels(joint: Streams, apart: Streams) -> list[tuple[str, str]]:
    """Names of the corresponding levels in both modalities."""
    shapes = [{modality: tuple(row) for modality, row in side.alignments.items()} for side in (joint, apart)]
    if len(shapes[0]) != 2:
        raise DataError("collaboration is between two modalities", expected=2, got=len(shapes[0]), fix="choose a pair")
    if shapes[0] != shapes[1]:
        raise DataError("the two trainings differ in modalities or levels", expected=shapes[0], got=shapes[1])
    first, second = shapes[0].values()
    if len(first) != len(second):
        raise ParameterError(
            "modalities have different numbers of levels",
            expected="as many in each, matched by their order",
            got=f"{len(first)} and {len(second)}",
            fix="choose the levels that correspond",
        )
    missing = [
        (m, n) for side in (joint, apart) for m, row in shapes[0].items() for n in row if (m, n) not in side.recording.arrays
    ]
    if missing:
        raise DataError(f"nothing was recorded for {' '.join(missing[0])}", fix="record the layers that are aligned")
    return list(zip(first, second, strict=True))
