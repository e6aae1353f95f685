"""One modality's relation inside a video, with what it learned from the training videos: centre and scale."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import check_choice
from ..graph.relation_vectors import RelationVectors, cosine_vectors, dot_vectors, gaussian_vectors
from ..graph.relationship import (
    cosine_graph,
    dot_graph,
    gaussian_graph,
    mean_squared_norm,
    median_distance,
    to_unit_range,
)

RelationKind = Literal["cosine", "gaussian", "dot"]
RELATION_KINDS: tuple[RelationKind, ...] = ("cosine", "gaussian", "dot")


class Relation(nn.Module):
    """Features of one modality -> relationship graph, with fitted statistics in buffers.

    Args:
        width: D.
        kind: ``"cosine"``, ``"gaussian"`` (bandwidth: median training distance) or ``"dot"`` (scale: training mean of squared
            norms).
        centre: Whether cosine and dot subtract the mean of all training features.
        unit_range: Whether a cosine graph is mapped to [0, 1].
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, width: int, kind: RelationKind, *, centre: bool = False, unit_range: bool = False) -> None:
        super().__init__()
        self.kind: RelationKind = check_choice(kind, "relations", "PaperFusion", RELATION_KINDS)
        self.centred, self.unit_range = centre, unit_range
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, features: Float[Tensor, "v n d"]) -> None:
        """Set centre and scale from all training bags."""
        rows = features.reshape(-1, features.shape[-1])
        if self.centred:
            self.centre.copy_(rows.mean(0, dtype=torch.float64))
        if self.kind == "gaussian":
            self.scale.copy_(median_distance(rows))
        elif self.kind == "dot":
            self.scale.copy_(mean_squared_norm(rows, self.centre))

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n n"]:
        """Relate the nodes to each other."""
        if self.kind == "dot":
            return dot_graph(x, scale=self.scale, centre=self.centre, mask=mask)
        if self.kind == "gaussian":
            return gaussian_graph(x, bandwidth=self.scale, mask=mask)
        graph = cosine_graph(x, centre=self.centre if self.centred else None, mask=mask)
        return to_unit_range(graph, mask, square=True) if self.unit_range else graph

    def row(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
        """The last node's row of the graph of some nodes, without the rest of the graph."""
        last = x[:, -1:]
        if self.kind == "dot":
            return dot_graph(last, x, scale=self.scale, centre=self.centre)[:, 0]
        if self.kind == "gaussian":
            return gaussian_graph(last, x, bandwidth=self.scale)[:, 0]
        row = cosine_graph(last, x, centre=self.centre if self.centred else None)[:, 0]
        row[:, -1] = 1.0  # also of a node at the centre, which relates to nothing else
        return (row + 1) / 2 if self.unit_range else row

    def vectors(self, x: Float[Tensor, "b n d"]) -> RelationVectors:
        """What ``forward`` would make its graph from, for graphs made in tiles (``graph.streaming``)."""
        if self.kind == "dot":
            return dot_vectors(x, scale=self.scale, centre=self.centre)
        if self.kind == "gaussian":
            return gaussian_vectors(x, bandwidth=self.scale)
        return cosine_vectors(x, centre=self.centre if self.centred else None, unit_range=self.unit_range)

    def centred_features(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Features as the relation sees them: x - centre."""
        return x - self.centre
