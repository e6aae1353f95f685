"""Relations of finer units: cells, patches, frames or words relate to reference units, and the relations become the node's.

Features of a fine modality are (B, N, U, D + 1): N nodes of U units, the last column being 1 where a unit is present and 0
where it is not. An absent unit relates to nothing and counts nowhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import DataError, ParameterError, check_choice, check_int
from ..graph.granularity import NO_NODE, pool_reference_relations, pool_relations
from ..graph.references import choose_references, farthest_points
from ..graph.relationship import apply_mask
from .relation import Relation, RelationKind

UnitPooling = Literal["novel", "mean", "max"]
UNIT_POOLINGS: tuple[UnitPooling, ...] = ("novel", "mean", "max")
MOST_CANDIDATES = 2048  # units that references are chosen from, evenly spread where there are more
_NUMBERS_AT_ONCE = 2**24


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

    Against references, in two steps. *Unit by unit*: R_uk, units of group g (a row of the picture) against the K references
    of that group, in the order from most to least similar: references differ from group to group, so reference k of one
    has nothing to do with reference k of another, while the k-th nearest known unit means the same in all. *Then by node*:
    R_ik = mean of R_uk over the units of node i (``"mean"``), over its ``most_novel`` units whose nearest reference is least
    like them (``"novel"``), or the maximum (``"max"``). Without references: R_ij = mean or maximum of R_uv over units u of i
    and v of j.

    Centre, scales and bandwidth are fitted on *different* units: most cells of most pictures do not move, and copies of one
    unit say nothing new about how far units lie apart.

    Args:
        width: D.
        kind: As in ``Relation``.
        references: K of every group; 0 relates the nodes to each other.
        groups: G; place u of U belongs to group u // (U / G).
        pooling: ``"novel"``, ``"mean"`` or ``"max"``; ``"novel"`` needs references.
        most_novel: Units that ``"novel"`` keeps; all where a node has fewer.
        centre: As in ``Relation``.
        unit_range: As in ``Relation``.
        scale_columns: As in ``Relation``.
    """

    reference_places: Tensor  # (G, K, 3): training bag, node and unit of each reference, so that it can be shown

    def __init__(
        self,
        width: int,
        kind: RelationKind,
        *,
        references: int,
        groups: int = 1,
        pooling: UnitPooling = "novel",
        most_novel: int = 8,
        centre: bool = True,
        unit_range: bool = False,
        scale_columns: bool = True,
    ) -> None:
        super().__init__(width, kind, references=references, centre=centre, unit_range=unit_range, scale_columns=scale_columns)
        self.groups = check_int(groups, "units", "LegoFusion", low=1)
        self.pooling: UnitPooling = check_choice(pooling, "unit_pooling", "LegoFusion", UNIT_POOLINGS)
        self.most_novel = check_int(most_novel, "most_novel", "LegoFusion", low=1)
        if pooling == "novel" and references == 0:
            fix = "use unit_pooling='mean' or 'max', or reference units"
            raise ParameterError("unit_pooling='novel' needs reference units to be novel to", got="references=0", fix=fix)
        self.register_buffer("references", torch.zeros(self.groups, references, width))
        self.register_buffer("reference_places", torch.zeros(self.groups, references, 3, dtype=torch.long))

    def fit(self, features: Float[Tensor, "v n u d_and_1"], normal: Bool[Tensor, " v"]) -> None:
        """Fit centre and scales on the different units of the training bags."""
        known = normal[:, None, None, None].expand(*features.shape[:3], 1).to(features)
        units = torch.cat([known, features], dim=-1).flatten(0, 2)
        units = units[units[:, -1] > 0][:, :-1]
        if not len(units):
            raise DataError("no unit is present in the training videos", expected="units to learn from", got="absent ones only")
        units = torch.unique(units, dim=0)
        super().fit(units[:, None, 1:], units[:, 0] > 0)

    def forward(
        self,
        x: Float[Tensor, "b n u d_and_1"],
        references: Float[Tensor, "g k d"] | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n k_or_n"]:
        """Relate the units to the references given, else to the fitted ones, else to each other, and pool them by node."""
        references = self.references if references is None else references
        if references.shape[1] == 0:
            return apply_mask(torch.stack([self._among_themselves(bag) for bag in x]), mask, square=True)
        at_once = max(1, _NUMBERS_AT_ONCE // (x[0, ..., 0].numel() * references.shape[1]))
        pooled = [self._pool(self.unit_rows(part, references), part[..., -1] > 0) for part in x.split(at_once)]
        return apply_mask(torch.cat(pooled), mask, square=False)

    def unit_rows(
        self, x: Float[Tensor, "b n u d_and_1"], references: Float[Tensor, "g k d"] | None = None
    ) -> Float[Tensor, "b n u k"]:
        """Similarity of every unit to the references of its group, most similar first."""
        references = self.references if references is None else references
        b, n, u, _ = x.shape
        grouped = x[..., :-1].reshape(b, n, self.groups, u // self.groups, -1)
        rows = [
            self.relate(grouped[:, :, g].flatten(0, 2)[None], references[g][None])[0].reshape(b, n, u // self.groups, -1)
            for g in range(self.groups)
        ]
        return torch.cat(rows, dim=2).sort(dim=-1, descending=True).values

    def choose(
        self,
        x: Float[Tensor, "v n u d_and_1"],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        count: int,
    ) -> tuple[Int[Tensor, "g k"], dict[int, Int[Tensor, "g k"]]]:
        """References among the units of all normal bags and, for each normal video, among those of the others.

        By group: farthest points among the different units, at most 2,048 of them, evenly spread. Where there are fewer
        than ``count``, they are repeated, so that every group has as many.

        Returns:
            Indices into bags x nodes x units.

        Raises:
            DataError: If fewer than two normal videos are given, or a group has no unit to choose from.
        """
        normal = (~labels).nonzero()[:, 0]
        videos = sorted(set(video_ids[normal].tolist()))
        if len(videos) < 2:
            raise DataError(
                "reference units are cross-fitted by video",
                expected="at least 2 normal training videos",
                got=str(len(videos)),
                fix="add normal training videos, or use references=0",
            )
        flat = x.flatten(0, 2)
        places = torch.arange(len(flat), device=x.device).reshape(*x.shape[:2], self.groups, -1)
        everyone: list[Tensor] = []
        by_video: dict[int, list[Tensor]] = {video: [] for video in videos}
        for g in range(self.groups):
            index = places[normal, :, g].flatten()
            index = index[flat[index, -1] > 0]
            owner = video_ids[index // places[0].numel()]
            kept = _different(flat[index, :-1], owner)
            index, owner = index[kept], owner[kept]
            self._require_units(set(owner.tolist()), g)
            distance = self.dissimilarity(flat[index, :-1])
            everyone.append(index[_repeated(farthest_points(distance, count), count)])
            for video, chosen in by_video.items():
                chosen.append(index[_repeated(choose_references(distance, owner != video, count), count)])
        return torch.stack(everyone), {video: torch.stack(chosen) for video, chosen in by_video.items()}

    def set_references(self, units: Float[Tensor, "v n u d_and_1"], index: Int[Tensor, "g k"]) -> None:
        """Keep the features of the chosen units as references, and where they are."""
        self.references = units.flatten(0, 2)[index][..., :-1].clone()
        _, nodes, places = units.shape[:3]
        self.reference_places = torch.stack([index // (nodes * places), index // places % nodes, index % places], dim=-1)

    def _require_units(self, videos: set[int], group: int) -> None:
        if len(videos) < 2:
            raise DataError(
                "too few normal training videos have units to choose references from",
                where=f"row {group} of the units" if self.groups > 1 else None,
                expected="present units in at least 2 of them",
                got=str(len(videos)),
                fix="leave the modality out, or add normal training videos",
            )

    def _pool(self, rows: Float[Tensor, "b n u k"], present: Bool[Tensor, "b n u"]) -> Float[Tensor, "b n k"]:
        if self.pooling == "max":
            highest = rows.masked_fill(~present[..., None], float("-inf")).amax(2)
            return highest.masked_fill(highest == float("-inf"), 0.0)
        node = torch.where(present, 0, NO_NODE).flatten(0, 1)  # each node by itself: (B N, U)
        most_novel = self.most_novel if self.pooling == "novel" else None
        pooled = pool_reference_relations(rows.flatten(0, 1), node, 1, most_novel=most_novel)
        return pooled.reshape(*rows.shape[:2], -1)

    def _among_themselves(self, bag: Float[Tensor, "n u d_and_1"]) -> Float[Tensor, "n n"]:
        nodes, units, _ = bag.shape
        present = bag[..., -1].flatten() > 0
        if not bool(present.any()):
            return bag.new_zeros(nodes, nodes)
        node = torch.arange(nodes, device=bag.device).repeat_interleave(units)[present]
        graph = self.relate(bag[..., :-1].flatten(0, 1)[present][None])
        return pool_relations(graph, node[None], nodes, reduce="max" if self.pooling == "max" else "mean")[0]


def _different(values: Float[Tensor, "u d"], videos: Int[Tensor, " u"]) -> Int[Tensor, " kept"]:
    """First place of every different unit of every video, in order; at most 2,048, evenly spread."""
    if not len(values):
        return videos
    _, group = torch.unique(torch.cat([videos[:, None].to(values), values], dim=1), dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(values), device=values.device)
    first = first.scatter_reduce(0, group, torch.arange(len(values), device=values.device), reduce="amin").sort().values
    if len(first) > MOST_CANDIDATES:
        first = first[torch.linspace(0, len(first) - 1, MOST_CANDIDATES, device=values.device).long()]
    return first


def _repeated(index: Int[Tensor, " k"], count: int) -> Int[Tensor, " count"]:
    return index[torch.arange(count, device=index.device) % len(index)]
