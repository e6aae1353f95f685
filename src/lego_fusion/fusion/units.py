"""Relations of finer units inside a video: cells, patches, frames or words relate to each other, and relations are pooled.

Features of a fine modality are (B, N, U, D + 1): N nodes of U units, the last column being 1 where a unit is present and 0
where it is not. An absent unit relates to nothing and counts nowhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import DataError, check_choice
from ..graph.granularity import pool_relations
from ..graph.relationship import apply_mask
from .relation import Relation, RelationKind

UnitPooling = Literal["mean", "max"]
UNIT_POOLINGS: tuple[UnitPooling, ...] = ("mean", "max")


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
        self.pooling: UnitPooling = check_choice(pooling, "unit_pooling", "PaperFusion", UNIT_POOLINGS)

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
