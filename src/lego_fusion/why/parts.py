"""What a segment's logit is the sum of, and what it would be if some modalities were not there.

    logit = baseline + sum of parts

Two models have such parts. The default reads graphs to known normals by a linear head (``fusion.reading_head``): a part
for each modality and power of a degree, and for each column of the departure of a segment and of those near it in time; the
baseline is the logit of a typical normal segment, all of whose readings are zero. The paper's reading hands on rows of a
fused graph, whose terms are followed through its head (``explain.terms``).

Taking a modality out and putting nothing in its place shifts every logit, so that the score says nothing about the video any
more. So a removal puts the *typical normal segment* in its place, and with all modalities removed (nearly) the score of a
typical normal segment is left.

The default reads graphs to known normals by a linear head, and the typical normal segment has readings of zero. Removing
a modality takes its parts out of the sum and leaves all others: which known segments these are compared with stays. Both
removals are one; only the degree of a *learned* fused graph needs several modalities: ``typical`` leaves the share of
those that are there, ``drop-term`` nothing unless all are.

For the paper's reading they differ:

* ``typical``: the modality's relations become those of a typical normal segment. In the j-th column of the row as the head
  sees it stands the mean of what normal training segments have in their j-th column. In interactions, what the other
  modalities say of this segment stays.
* ``drop-term``: every term of the operator in which the modality has a power of at least 1 takes its typical normal value, so
  that its interactions are typical as well. The sum of what such a removal changes is a sum of the operator's terms.

A model without such parts gets the mean features of normal training segments in the modality's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..explain.terms import NodeExplanation, Support, Terms, mean_row, mean_sorted_row, operator_terms
from ..fusion.base import Fusion
from ..fusion.reading_head import HeadParts
from ..graph.operator import GraphOperator
from ..learn.bags import Bags
from ..learn.detector import Detector, NodeHead
from ..learn.train import predict_logits
from .records import Removal

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
        nodes = detector.fusion(frozen.inputs, frozen.mask).nodes
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


PARTS_MEANING = "its readings are those of the typical normal segment; what the other modalities are compared with stays"
ROW_MEANINGS: dict[Removal, str] = {
    "typical": "its relations are replaced by those of the typical normal segment",
    "drop-term": "the terms of the operator that contain it take their value in the typical normal segment",
}
MEAN_MEANING = "its features are replaced by the mean over the segments of normal training videos"
_BAGS_AT_ONCE = 32


@runtime_checkable
class Counterfactuals(Protocol):
    """Logits of one video for sets of modalities that are present."""

    def logits(self, present: Bool[np.ndarray, "s m"]) -> Float[Tensor, "s n"]:
        """Segment logits for each row of ``present``, whose columns are the modalities in the fusion's order."""


@dataclass(frozen=True)
class PartsPresent:
    """For models whose logit is a sum of readable parts: the parts of what is there.

    Args:
        parts: Of the video.
        modalities: In the fusion's order.
        removal: ``"typical"`` counts a part of several modalities by the share of them that is there, ``"drop-term"`` where all
            are.
    """

    parts: NodeParts
    modalities: tuple[str, ...]
    removal: Removal

    def logits(self, present: Bool[np.ndarray, "s m"]) -> Float[Tensor, "s n"]:
        """See ``Counterfactuals``."""
        supports = list(self.parts.by_support().items())
        belongs = torch.tensor([[name in support for name in self.modalities] for support, _ in supports]).double()  # (G, M)
        there = torch.from_numpy(present).double() @ belongs.T / belongs.sum(1).clamp_min(1)  # (S, G)
        there[:, belongs.sum(1) == 0] = 1.0
        if self.removal == "drop-term":
            there = (there > 1 - 1e-9).double()
        return self.parts.baseline + there @ torch.stack([part for _, part in supports])


@dataclass(frozen=True)
class TypicalNormal:
    """The typical row of normal segments, column by column as the head sees it.

    Args:
        terms: Each term of the operator, values (T, K).
        relations: The relation in each modality, (K,).
    """

    terms: Terms
    relations: Mapping[str, Float[Tensor, " k"]]

    @classmethod
    def of(cls, fusion: Fusion, graphs: Mapping[str, Float[Tensor, "b n n"]]) -> TypicalNormal:
        """Average over the nodes of normal bags, a few bags at a time."""
        count = len(next(iter(graphs.values())))
        pieces = []
        for start in range(0, count, _BAGS_AT_ONCE):
            piece = {name: graph[start : start + _BAGS_AT_ONCE] for name, graph in graphs.items()}
            terms = terms_of(fusion, piece)
            mean = mean_sorted_row(terms) if is_ranked(fusion) else mean_row(terms)
            order = head_order(fusion, terms)
            seen = {name: graph.gather(-1, order).flatten(0, 1).mean(0) for name, graph in piece.items()}
            pieces.append((len(order) / count, mean, seen))
        values = torch.stack([share * mean.values for share, mean, _ in pieces]).sum(0)
        relations = {name: torch.stack([share * seen[name] for share, _, seen in pieces]).sum(0) for name in graphs}
        first = pieces[0][1]
        return cls(Terms(first.names, first.exponents, values), relations)


def terms_of(fusion: Fusion, graphs: Mapping[str, Float[Tensor, "b n k"]]) -> Terms:
    """The terms of a fusion's operator over graphs."""
    return operator_terms(operator_of(fusion), graphs, square=fusion.relates_within)


def operator_of(fusion: Fusion) -> GraphOperator:
    """The operator of a fusion that has one."""
    if fusion.operator is None:  # for the type checker: callers ask for a capability first
        raise TypeError(fusion.kind)
    return fusion.operator


def node_head(detector: Detector) -> NodeHead:
    """The head of a detector whose fusion hands on rows."""
    if not isinstance(detector.head, NodeHead):  # for the type checker: such fusions bring no head of their own
        raise TypeError(type(detector.head))
    return detector.head


def is_ranked(fusion: Fusion) -> bool:
    """Whether the head sees rows in descending order."""
    return fusion.row_order == "sorted"


def head_order(fusion: Fusion, terms: Terms) -> Tensor:
    """Which column stands at each place of the row that the head sees, (B, N, K)."""
    total = terms.total
    return total.argsort(dim=-1, descending=True) if is_ranked(fusion) else torch.arange(total.shape[-1]).expand_as(total)


@dataclass(frozen=True)
class TypicalRelations:
    """``typical``: relations of removed modalities are those of the typical normal segment."""

    detector: Detector
    graphs: Mapping[str, Float[Tensor, "c n k"]]
    typical: TypicalNormal
    order: Tensor

    def logits(self, present: Bool[np.ndarray, "s m"]) -> Float[Tensor, "s n"]:
        """See ``Counterfactuals``."""
        replaced = {
            name: torch.zeros_like(graph).scatter_(-1, self.order, self.typical.relations[name].expand_as(graph))
            for name, graph in self.graphs.items()
        }
        rows = []
        with torch.no_grad():
            for row in present:
                kept = dict(zip(self.detector.fusion.modalities, row, strict=True))
                graphs = {name: graph if kept[name] else replaced[name] for name, graph in self.graphs.items()}
                rows.append(self.detector(graphs, cached=True).logits.mean(0))
        return torch.stack(rows)


@dataclass(frozen=True)
class TypicalTerms:
    """``drop-term``: terms that contain a removed modality take their typical normal value."""

    detector: Detector
    terms: Terms
    typical: TypicalNormal
    order: Tensor

    def logits(self, present: Bool[np.ndarray, "s m"]) -> Float[Tensor, "s n"]:
        """See ``Counterfactuals``."""
        seen = self.terms.values.gather(-1, self.order.expand_as(self.terms.values))  # (T, C, N, K)
        baseline = self.typical.terms.values[:, None, None]
        uses = torch.tensor(self.terms.exponents) > 0  # (T, M)
        rows = []
        with torch.no_grad():
            for row in torch.from_numpy(present):
                dropped = (uses & ~row).any(1)[:, None, None, None]
                total = torch.where(dropped, baseline, seen).sum(0)
                total = total.sort(dim=-1, descending=True).values if is_ranked(self.detector.fusion) else total
                rows.append(self.detector.head(total).mean(0))
        return torch.stack(rows)


@dataclass(frozen=True)
class MeanFeatures:
    """For models without parts: features of removed modalities are the mean over normal training segments.

    Args:
        detector: Any.
        bag: The video, features (C, N, D_m).
        means: (D_m,) by modality.
    """

    detector: Detector
    bag: Bags
    means: Mapping[str, Float[Tensor, " _"]]

    def logits(self, present: Bool[np.ndarray, "s m"]) -> Float[Tensor, "s n"]:
        """See ``Counterfactuals``."""
        rows = []
        for row in present:
            kept = dict(zip(self.detector.fusion.modalities, row, strict=True))
            inputs = {
                name: values if kept[name] else self.means[name].expand_as(values) for name, values in self.bag.inputs.items()
            }
            rows.append(predict_logits(self.detector, replace(self.bag, inputs=inputs))[0])
        return torch.stack(rows)
