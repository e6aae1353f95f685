"""Node vectors of a running video: a segment comes in, and what its score is read from comes out.

By definition the score of a segment is that of the last node of the window of the last N segments. What is kept for it is
bounded: the features of the window, its graphs, or, where a node's vector is made once, a few vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..graph.relationship import k_nearest
from .relation import Relation

Forward = Callable[..., Any]  # inputs and mask -> what has ``nodes``


class NodeStream(ABC):
    """See the module.

    Args:
        before: How many segments before its own a segment's score depends on.
    """

    def __init__(self, before: int) -> None:
        self.before = before
        self.clear()

    @abstractmethod
    def clear(self) -> None:
        """Forget everything: another video begins."""

    @abstractmethod
    def push(
        self, features: Mapping[str, Float[Tensor, "1 1 ..."]]
    ) -> tuple[Float[Tensor, "1 n f"], Bool[Tensor, "1 n"] | None]:
        """Take the next segment; the vectors of the last nodes, of which the last is its own, and which of them exist."""


class FeatureWindow(NodeStream):
    """The features of the last N segments; their vectors are made anew for every segment.

    Args:
        forward: Features (1, N, ...) by modality and mask to node vectors.
        window: N.
    """

    def __init__(self, forward: Forward, window: int) -> None:
        self.forward, self.window = forward, window
        super().__init__(window - 1)

    def clear(self) -> None:
        """Forget the segments."""
        self._ring: dict[str, Tensor] = {}

    def push(self, features: Mapping[str, Float[Tensor, "1 1 ..."]]) -> tuple[Float[Tensor, "1 n f"], Bool[Tensor, "1 n"]]:
        """Make the vectors of the window."""
        self._ring = {name: appended(self._ring.get(name), x, self.window) for name, x in features.items()}
        there = next(iter(self._ring.values())).shape[1]
        mask = _last_exist(there, self.window)
        nodes: Tensor = self.forward({name: _left_padded(x, self.window) for name, x in self._ring.items()}, mask).nodes
        return nodes, mask


class GraphWindow(NodeStream):
    """The graphs of the last N segments to each other; a new segment adds a row and a column, the oldest leaves.

    Args:
        forward: Graphs (1, N, N) by modality and mask to node vectors.
        relations: By modality.
        window: N.
        nearest: Entries of each row that are kept; None keeps all.
    """

    def __init__(self, forward: Forward, relations: Mapping[str, Relation], window: int, nearest: int | None = None) -> None:
        self.forward, self.relations, self.window, self.nearest = forward, dict(relations), window, nearest
        super().__init__(window - 1)

    def clear(self) -> None:
        """Forget the segments."""
        self._features: dict[str, Tensor] = {}
        self._graphs = {name: torch.zeros(1, self.window, self.window) for name in self.relations}

    def push(self, features: Mapping[str, Float[Tensor, "1 1 ..."]]) -> tuple[Float[Tensor, "1 n f"], Bool[Tensor, "1 n"]]:
        """Add the segment's row and column, and make the vectors of the window."""
        for name, relation in self.relations.items():
            self._features[name] = appended(self._features.get(name), features[name], self.window)
            self._graphs[name] = _moved(self._graphs[name], relation.row(self._features[name])[0])
        mask = _last_exist(next(iter(self._features.values())).shape[1], self.window)
        nodes: Tensor = self.forward({name: self._sparse(graph, mask) for name, graph in self._graphs.items()}, mask).nodes
        return nodes, mask

    def _sparse(self, graph: Tensor, mask: Tensor) -> Tensor:
        return graph if self.nearest is None else k_nearest(graph, min(self.nearest, self.window), mask=mask, square=True)


class NodeRing(NodeStream):
    """Vectors that are made once, as many as a head that looks back in time sees.

    Args:
        make: Features of some segments in a row, (1, n, ...) by modality, to the vector of the last, (1, 1, F).
        window: How many segments it is given, where there are so many.
        reach: Vectors that are kept beside the last.
    """

    def __init__(self, make: Callable[[Mapping[str, Tensor]], Tensor], *, window: int, reach: int) -> None:
        self.make, self.window, self.reach = make, window, reach
        super().__init__(max(window - 1, reach))

    def clear(self) -> None:
        """Forget the segments."""
        self._features: dict[str, Tensor] = {}
        self._nodes: Tensor | None = None

    def push(self, features: Mapping[str, Float[Tensor, "1 1 ..."]]) -> tuple[Float[Tensor, "1 n f"], None]:
        """Make the segment's vector."""
        self._features = {name: appended(self._features.get(name), x, self.window) for name, x in features.items()}
        self._nodes = appended(self._nodes, self.make(self._features), self.reach + 1)
        return self._nodes, None


def appended(ring: Tensor | None, x: Tensor, window: int) -> Tensor:
    """The ring with one more segment, of which the oldest leaves where there are more than N."""
    if ring is None:
        return x
    if x.ndim == 4 and ring.shape[2] != x.shape[2]:
        most = max(ring.shape[2], x.shape[2])
        ring, x = (torch.nn.functional.pad(part, (0, 0, 0, most - part.shape[2])) for part in (ring, x))
    return torch.cat([ring, x], dim=1)[:, -window:]


def _moved(graph: Float[Tensor, "1 n n"], row: Float[Tensor, " there"]) -> Float[Tensor, "1 n n"]:
    """The graph a segment later; every relation is symmetric."""
    first = graph.shape[1] - len(row)
    graph = torch.roll(graph, shifts=(-1, -1), dims=(1, 2))
    graph[0, -1], graph[0, :, -1] = 0.0, 0.0
    graph[0, -1, first:], graph[0, first:, -1] = row, row
    return graph


def _last_exist(there: int, window: int) -> Bool[Tensor, "1 n"]:
    return torch.arange(window)[None] >= window - there


def _left_padded(ring: Tensor, window: int) -> Tensor:
    missing = window - ring.shape[1]
    if not missing:
        return ring
    return torch.cat([ring[:, :1].expand(-1, missing, *ring.shape[2:]), ring], dim=1)
