"""What the logit of each segment of a video is the sum of: labelled parts that leave no remainder but rounding.

    logit = baseline + sum of parts

Two models have such parts. The default reads graphs to known normals by a linear head (``fusion.reading_head``): a part
for each modality and power of a degree, and for each column of the departure of a segment and of those near it in time; the
baseline is the logit of a typical normal segment, all of whose readings are zero. The paper's reading hands on rows of a
fused graph, whose terms are followed through its head (``explain.terms``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..explain.terms import NodeExplanation, Support
from ..fusion.reading_head import HeadParts
from ..learn.bags import Bags
from ..learn.detector import Detector

DEGREE, OWN, DEPARTURE, TIME = "degree", "own video", "departure", "near in time"
ROW = "fused graph"
READINGS = {
    DEGREE: "how unlike the nearest known normal segments it is",
    OWN: "how unlike the rest of its own video it is",
    DEPARTURE: "which way it departs from the known normal segments that it is most like",
    TIME: "the same departure of the segments near in time",
    ROW: "its relations to the other segments of the video",
}
Key = TypeVar("Key")


@dataclass(frozen=True)
class Label:
    """What a part belongs to.

    Args:
        support: Modalities, none for a constant.
        reading: A key of ``READINGS``.
        order: Power of a degree, or total order of a term; 0 where there is none.
        column: Of the features of its modality, or None.
    """

    support: Support
    reading: str
    order: int
    column: int | None = None


@dataclass(frozen=True)
class NodeParts:
    """Parts of the logits of N segments.

    Args:
        baseline: Logit of the typical normal segment.
        logits: (N,).
        labels: T of them.
        values: (T, N).
        departures: Departure of each segment in each modality, (N, D_m), to say which way a column went; empty where there is
            none.
    """

    baseline: float
    logits: Float[Tensor, " n"]
    labels: tuple[Label, ...]
    values: Float[Tensor, "t n"]
    departures: Mapping[str, Float[Tensor, "n _"]] = field(default_factory=dict)

    @property
    def gap(self) -> Float[Tensor, " n"]:
        """What the parts leave over: rounding."""
        return self.logits.double() - self.baseline - self.values.double().sum(0)

    def weighted(self, weights: Float[Tensor, " n"]) -> NodeParts:
        """Of the mean logit with weights (N,) that add up to 1, as one segment."""
        one = {name: (weights @ x.double())[None] for name, x in self.departures.items()}
        logit, values = (self.logits.double() @ weights)[None], (self.values.double() @ weights)[:, None]
        return NodeParts(self.baseline, logit, self.labels, values, one)

    def by_support(self) -> dict[Support, Tensor]:
        """Sum of the parts of each set of modalities, (N,)."""
        return self._grouped(lambda one: one.support)

    def by_order(self) -> dict[int, Tensor]:
        """Sum of the parts of each order of at least 1, (N,)."""
        return {order: part for order, part in self._grouped(lambda one: one.order).items() if order}

    def by_reading(self) -> dict[str, Tensor]:
        """Sum of the parts of each reading, (N,)."""
        return self._grouped(lambda one: one.reading)

    def by_modality(self, modalities: Sequence[str]) -> dict[str, Tensor]:
        """Share of each modality, (N,): its own parts and an equal part of every interaction it is in."""
        shares = {name: torch.zeros(self.values.shape[1], dtype=torch.float64) for name in modalities}
        for support, part in self.by_support().items():
            for name in support:
                shares[name] = shares[name] + part / len(support)
        return shares

    def by_column(self) -> dict[tuple[str, int], Tensor]:
        """Sum of the parts of each column of each modality, (N,)."""
        keyed = self._grouped(lambda one: None if one.column is None else (one.support[0], one.column))
        return {key: part for key, part in keyed.items() if key is not None}

    def _grouped(self, key: Callable[[Label], Key]) -> dict[Key, Tensor]:
        places: dict[Key, list[int]] = {}
        for place, label in enumerate(self.labels):
            places.setdefault(key(label), []).append(place)
        return {one: self.values[found].double().sum(0) for one, found in places.items()}


def reading_parts(detector: Detector, frozen: Bags) -> NodeParts | None:
    """The parts of one video's logits, the mean over its crops; None where the head is no sum of readable parts.

    Args:
        detector: Whose head may be a ``ReadingHead``.
        frozen: What ``scoring_inputs`` gave of one video.
    """
    head = detector.reading_head
    if head is None:
        return None
    with torch.no_grad():
        nodes = detector.fusion.forward_inputs(frozen.inputs, frozen.mask).nodes
        parts, logits = head.parts(nodes, frozen.mask), head(nodes, frozen.mask).mean(0)
        departure = head.layout.split(nodes)[2].mean(0)
    layout, whole = head.layout, tuple(name for name in detector.fusion.modalities if name not in detector.fusion.units)
    labels = [Label((row,) if row in layout.widths else whole, DEGREE, p) for row in layout.rows for p in layout.orders]
    labels += [Label((name,), OWN, p) for name in layout.inside for p in layout.orders]
    columns = [(name, column) for name, width in layout.widths.items() for column in range(width)]
    labels += [Label((name,), DEPARTURE, 0, column) for name, column in columns]
    labels += [Label((name,), TIME, 0, column) for name, column in columns]
    moved = departure.split(list(layout.widths.values()), dim=-1)
    return NodeParts(parts.constant, logits, tuple(labels), _by_label(parts), dict(zip(layout.widths, moved, strict=True)))


def row_parts(explained: NodeExplanation) -> NodeParts:
    """The parts of one video's logits from the terms of its relations, the mean over its crops."""
    nodes = explained.nodes()
    labels = [Label(support, ROW, sum(powers)) for support, powers in zip(nodes.supports, nodes.exponents, strict=True)]
    return NodeParts(explained.baseline, explained.logits.mean(0), tuple(labels), nodes.values.mean(1))


def _by_label(parts: HeadParts) -> Float[Tensor, "t n"]:
    """(B, N, ...) -> (T, N), the mean over bags."""
    flat = [parts.degree.flatten(2), parts.inside.flatten(2), parts.departure, parts.time]
    return torch.cat(flat, dim=-1).mean(0).T
