"""What a dissection found: concepts, variance, similarity and collaboration of modalities at every level, as plain records.

The paper that asks these questions (arXiv 2308.10019) does not give its equations to us in public: the definitions are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from ..explain.similarity import SimilarityMatrix
from .alignment import UnitAlignment
from .collaboration import LevelCollaboration
from .concepts import LevelConcepts
from .overlap import CUTS, Mode
from .recorder import Key
from .variance import AgainstChance, Bounded, SemanticVariance

FUSED = "fused"


@dataclass(frozen=True)
class Ablation:
    """One metric before and after some units of a layer are silenced, on the same images.

    Args:
        level: Of the layer.
        modality: Of the layer.
        group: What the units have in common: "shared" and "special" concepts, or "random" units of the same number.
        units: Positions of the units that were silenced.
        before: The metric of the network as it is.
        after: With the units silenced.
        change: after - before.
        low: Lower end of the interval of the change, over resampled images.
        high: Upper end.
        metric: Name of the metric, for example of a class whose IoU it is.
        matched: Of random units: the group that they match in number; elsewhere "".
    """

    level: str
    modality: str
    group: str
    units: tuple[int, ...]
    before: float
    after: float
    change: float
    low: float
    high: float
    metric: str = ""
    matched: str = ""


@dataclass(frozen=True)
class DetectorCount:
    """How many concepts a layer detects, beside how many it would if the masks lay on the wrong images.

    Args:
        concepts: Names of the concepts that some unit detects.
        units: Number of units that detect any.
        of: Number of units.
        chance: Number of concepts against shuffled masks; None where it was not asked for.
        doubtful: Detected concepts that more than a twentieth of the shuffles detect too: where they lie explains them.
    """

    concepts: frozenset[str]
    units: int
    of: int
    chance: AgainstChance | None = None
    doubtful: frozenset[str] = frozenset()


@dataclass(frozen=True)
class UnitRow:
    """The concept that a unit stands for most.

    Args:
        modality: Of the layer.
        level: Of the layer.
        unit: Its position.
        concept: The best one by the chosen mode.
        iou: |M & Y| / |M | Y|.
        ceiling: The largest IoU that the areas allow.
        above_chance: Share of the way from chance to the ceiling.
        auroc: Area under the ROC curve; None if it was not computed.
        detects: Whether it is a detector by the chosen mode.
        score: What the mode reads.
    """

    modality: str
    level: str
    unit: int
    concept: str
    iou: float
    ceiling: float
    above_chance: float
    auroc: float | None
    detects: bool
    score: float = 0.0


@dataclass(frozen=True, eq=False)
class Gallery:
    """The images that excite a unit most, with the pixels where it is active.

    Args:
        row: The unit.
        images: Positions of the images (n,), most exciting first.
        pictures: (n, C, H, W) in [0, 1]; None where the data gives no pictures.
        masks: Where the unit is active (n, H', W').
    """

    row: UnitRow
    images: tuple[int, ...]
    pictures: tuple[Float32[np.ndarray, "c h w"], ...] | None
    masks: Bool[np.ndarray, "n g v"]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The network at one checkpoint of its training.

    Args:
        name: Of the checkpoint.
        levels: Concepts at each level.
        variance: Semantic variance.
        between: Mean similarity of two modalities at each level (L,), debiased CKA.
        to_last: Similarity of each layer to the same layer at the last checkpoint.
    """

    name: str
    levels: tuple[LevelConcepts, ...]
    variance: SemanticVariance
    between: NDArray[Any]
    to_last: dict[Key, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dissection:
    """Everything that ``dissect`` found.

    Args:
        modalities: Names, in order.
        levels: Names, from first to last.
        concepts: Names of all concepts asked for.
        layers: Name of the layer by (modality, level); the fused ones under "fused".
        alignments: By modality and level, without the fused layers.
        fused: Alignment of the fused layer by level.
        variance: Semantic variance in all readings and its exact split.
        intervals: Of shares, variances and J over resampled images, by name.
        chance: The same beside units that are dealt anew to the modalities.
        sets: Concepts of each level.
        detectors: Counts of detected concepts by (modality, level).
        units: Best concept of every unit, best detectors of each layer first.
        galleries: Images of the best detectors.
        similarity: Debiased CKA of every layer with every other, and its noise floor.
        collaboration: Joint against separate training, level by level; None without separately trained streams.
        snapshots: One for each checkpoint, in order.
        ablation: Causal checks, if there are any.
        notes: What a reader should know.
        settings: What was asked for.
        vague: Number of units that detect concepts which exclude each other, and of units that detect any: those may find
            things without telling them apart, which makes J too high.
        over: What concepts were read over, objects or pixels, and why, in words.
        regions: How many objects; 0 where pixels were read.
        relabelled: Shares and variances beside what they are when the labels are dealt anew to the objects or images.
        untrained: Concepts of each level in copies of the network that were never trained, any of them; None if there is none.
    """

    modalities: tuple[str, ...]
    levels: tuple[str, ...]
    concepts: tuple[str, ...]
    layers: dict[Key, str]
    alignments: dict[str, dict[str, UnitAlignment]]
    fused: dict[str, UnitAlignment]
    variance: SemanticVariance
    intervals: dict[str, Bounded]
    chance: dict[str, AgainstChance]
    sets: tuple[LevelConcepts, ...]
    detectors: dict[Key, DetectorCount]
    units: tuple[UnitRow, ...]
    galleries: tuple[Gallery, ...]
    similarity: SimilarityMatrix
    collaboration: tuple[LevelCollaboration, ...] | None
    snapshots: tuple[Snapshot, ...]
    ablation: tuple[Ablation, ...] | None
    notes: tuple[str, ...]
    settings: dict[str, Any]
    vague: tuple[int, int] = (0, 0)
    over: str = "pixels"
    regions: int = 0
    relabelled: dict[str, AgainstChance] = field(default_factory=dict)
    untrained: tuple[LevelConcepts, ...] | None = None

    @property
    def mode(self) -> Mode:
        """What a detector is."""
        mode: Mode = self.settings["mode"]
        return mode

    @property
    def cut(self) -> float:
        """From where on."""
        cut = self.settings["cut"]
        return CUTS[self.mode] if cut is None else float(cut)

    @property
    def images(self) -> int:
        """How many images were aligned."""
        return len(next(iter(next(iter(self.alignments.values())).values())).images)

    def between(self, level: str) -> dict[tuple[str, str], tuple[float, float | None]]:
        """Similarity of each pair of modalities at a level, and its noise floor."""
        names, found = self.similarity.names_a, {}
        for place, first in enumerate(self.modalities):
            for second in self.modalities[place + 1 :]:
                row, column = names.index(f"{first} {level}"), names.index(f"{second} {level}")
                floor = None if self.similarity.floor is None else float(self.similarity.floor[row, column])
                found[first, second] = float(self.similarity.values[row, column]), floor
        return found

    def summary(self) -> str:
        """The sets of each level and the shares as text."""
        lines = []
        for one in self.sets:
            special = ", ".join(f"{name} alone {len(one.special(name))}" for name in self.modalities)
            lines.append(f"{one.level}: {len(one.shared)} shared, {special} (J {one.joint:.2f})")
        shares = self.variance.shares
        lines.append(f"consistency {shares.consistency:.2f}, speciality {shares.speciality:.2f} of the variance of profiles")
        return "\n".join(lines)


def best_units(alignment: UnitAlignment, key: Key, mode: Mode, cut: float | None) -> list[UnitRow]:
    """The best concept of every unit of a layer, best detectors first."""
    overlap, found = alignment.overlap, alignment.detects(mode, cut)
    ranked = overlap.scores(mode)
    best = ranked.argmax(axis=1)
    rows = []
    for unit in np.argsort(-ranked.max(axis=1), kind="stable"):
        place = (int(unit), int(best[unit]))
        auroc = None if alignment.auroc is None or np.isnan(alignment.auroc[place]) else float(alignment.auroc[place])
        iou, ceiling, above = (
            float(np.nan_to_num(table[place])) for table in (overlap.iou, overlap.ceiling, overlap.above_chance)
        )
        name, detects = alignment.concepts[place[1]], bool(found[place])
        rows.append(UnitRow(key[0], key[1], place[0], name, iou, ceiling, above, auroc, detects, float(ranked[place])))
    return rows
