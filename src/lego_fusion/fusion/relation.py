"""One modality's relation inside a video, of segments or of finer units, and the options that may differ by modality.

Features of a fine modality are (B, N, U, D + 1): N nodes of U units, the last column being 1 where a unit is present and 0
where it is not. An absent unit relates to nothing and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import DataError, ParameterError
from ..graph.relation_vectors import RelationVectors, cosine_vectors, dot_vectors, gaussian_vectors
from ..graph.relationship import (
    apply_mask,
    cosine_graph,
    dot_graph,
    gaussian_graph,
    mean_squared_norm,
    median_distance,
    pool_relations,
    to_unit_range,
)
from .options import RelationKind, UnitPooling


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
        self.kind: RelationKind = kind
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


def mean_over_units(x: Float[Tensor, "b n u d_and_1"]) -> Float[Tensor, "b n d"]:
    """Mean of a node's present units; zero where there is none. What a fusion sees that reads no units.

    Example:
        >>> mean_over_units(torch.tensor([[[[2.0, 1.0], [4.0, 1.0], [0.0, 0.0]]]]))
        tensor([[[3.]]])
    """
    present = x[..., -1:]
    return (x[..., :-1] * present).sum(2) / present.sum(2).clamp_min(1)


class UnitRelation(Relation):
    """Finer units -> graph of the nodes that hold them: relations are pooled, features are not.

    R_ij = mean or maximum of R_uv over units u of node i and v of node j. Centre and bandwidth are fitted on *different*
    units: most cells of most pictures do not move, and copies of one unit say nothing new about how far units lie apart.

    Args:
        width: D.
        kind: As in ``Relation``.
        pooling: ``"mean"`` or ``"max"``.
        centre: As in ``Relation``.
        unit_range: As in ``Relation``.
    """

    def __init__(
        self, width: int, kind: RelationKind, *, pooling: UnitPooling = "mean", centre: bool = False, unit_range: bool = False
    ) -> None:
        super().__init__(width, kind, centre=centre, unit_range=unit_range)
        self.pooling: UnitPooling = pooling

    def fit(self, features: Float[Tensor, "v n u d_and_1"]) -> None:
        """Fit centre and scale on the different units of the training bags."""
        units = features.flatten(0, -2)
        units = units[units[:, -1] > 0][:, :-1]
        if not len(units):
            raise DataError("no unit is present in the training videos", expected="units to learn from", got="absent ones only")
        super().fit(torch.unique(units, dim=0)[:, None])

    def forward(self, x: Float[Tensor, "b n u d_and_1"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n n"]:
        """Relate the units to each other, and pool them by node."""
        return apply_mask(torch.stack([self._among_themselves(bag) for bag in x]), mask, square=True)

    def _among_themselves(self, bag: Float[Tensor, "n u d_and_1"]) -> Float[Tensor, "n n"]:
        nodes, units, _ = bag.shape
        present = bag[..., -1].flatten() > 0
        if not bool(present.any()):
            return bag.new_zeros(nodes, nodes)
        node = torch.arange(nodes, device=bag.device).repeat_interleave(units)[present]
        graph = super().forward(bag[..., :-1].flatten(0, 1)[present][None])
        return pool_relations(graph, node[None], nodes, reduce="max" if self.pooling == "max" else "mean")[0]


def relation_kinds(
    modalities: Mapping[str, int], relations: RelationKind | Mapping[str, RelationKind]
) -> dict[str, RelationKind]:
    """The relation of each modality."""
    if isinstance(relations, str):
        return dict.fromkeys(modalities, relations)
    missing = [name for name in modalities if name not in relations]
    if missing:
        raise ParameterError(f"no relation is given for modality '{missing[0]}'", got=", ".join(relations) or "none")
    return {name: relations[name] for name in modalities}
