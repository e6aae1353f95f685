"""The paper's reading, found by name: nodes of a video relate to each other, each hands on its row of the fused graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import ParameterError
from ..graph.operator import GraphOperator
from ..graph.relationship import k_nearest
from ..graph.streaming import TILE_ABOVE, propagate
from .base import Fusion, FusionOutput, Graphs, mask_nodes
from .options import PaperOptions
from .relation import Relation, UnitRelation, relation_kinds
from .streams import GraphWindow, NodeStream

STATISTICS = ("mean", "standard deviation", "minimum", "lower quartile", "median", "upper quartile", "maximum", "entropy")


def row_statistics(ranked: Tensor) -> Tensor:
    """(B, N, 8) statistics of descending rows in which -inf marks columns that do not exist."""
    exists = ranked != float("-inf")
    count = exists.sum(-1, keepdim=True).clamp_min(1)
    values = ranked.masked_fill(~exists, 0.0)
    mean = values.sum(-1, keepdim=True) / count
    deviation = (((values - mean) * exists).square().sum(-1, keepdim=True) / count).clamp_min(1e-12).sqrt()
    quantiles = torch.cat([_descending_quantile(values, count, q) for q in (0.0, 0.25, 0.5, 0.75, 1.0)], dim=-1)
    share = values.abs() / values.abs().sum(-1, keepdim=True).clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum(-1, keepdim=True)
    return torch.cat([mean, deviation, quantiles, entropy], dim=-1)


def _descending_quantile(values: Tensor, count: Tensor, q: float) -> Tensor:
    """Quantile q, linearly interpolated, of the first ``count`` entries of descending rows."""
    position = (1 - q) * (count - 1).to(values.dtype)
    below = position.floor().long()
    above = torch.minimum(below + 1, count - 1)
    weight = position - below
    return values.gather(-1, below) * (1 - weight) + values.gather(-1, above) * weight


OPERATOR_OPTIONS = ("order", "form", "rank", "expansion", "zero_order", "normalisation", "symmetric", "seed")
MOST_ORDERED = 1024  # columns of rows in fixed order, whose head grows with their square
BAGS_AT_ONCE = 8  # related together: small enough to stay in the processor's cache


class PaperFusion(Fusion):
    """Relationship graphs of all modalities inside a video, expanded to powers and fused by a learned operator.

    R_m = relation of the N nodes to each other, G = operator(R_1, ..., R_M); each node hands on its row of G. With its
    defaults this is the paper's reading: cosines, R^(0) = I, a full A (random pairs for more than two modalities), rows in
    the order of time.

    Args:
        modalities: Width of each modality by name; the order orients A.
        options: Those of ``options.PaperOptions``, by name, which has their defaults:
        nodes: N, needed for the number of outputs.
        relations: Relation of each modality, ``"cosine"``, ``"gaussian"`` or ``"dot"``; one for all, or by name.
        centre: Subtract the training mean before cosines and dot products.
        unit_range: Map cosines to [0, 1].
        nearest: Keep only this many entries of each row of each graph; None keeps all.
        rows: What a node hands on: its row ``"ordered"`` as the columns are, ``"sorted"`` from most to least similar (which
            does not depend on which column is which), ``"statistics"`` of the row, or ``"propagate"``: sum_j G_ij x_j of the
            features, divided by sum_j |G_ij|.
        own_features: Also hand on the node's own features (x - centre) of every modality: where a node has a class of its own,
            its relations alone do not tell which.
        units: Modalities whose nodes hold finer units, (B, N, U, D + 1) with presence, and the number of groups that their
            units come in; their *relations* are pooled (``units.UnitRelation``).
        unit_pooling: ``"mean"`` or ``"max"`` over pairs of units.
        order: Highest power P, for all graphs or by name.
        form: Form of the operator (``graph.operator``); None takes ``"full"``, for more than two modalities ``"random-pair"``.
        rank: Rank of the joint form.
        expansion: ``"hadamard"`` or ``"matrix"``.
        zero_order: ``"identity"`` or ``"ones"``.
        normalisation: Of graphs before matrix powers.
        symmetric: Use (A + A^T) / 2.
        seed: Seed of the operator's start.

    Source: the paper; sorted rows, statistics, propagation and the joint form are ours.

    Example:
        >>> fusion = PaperFusion({"motion": 8, "text": 4}, nodes=16)
        >>> output = fusion.fuse({"motion": torch.rand(2, 16, 8), "text": torch.rand(2, 16, 4)})
        >>> output.nodes.shape, output.graph.shape
        (torch.Size([2, 16, 16]), torch.Size([2, 16, 16]))
    """

    kind: ClassVar[str] = "lego-paper"
    Options = PaperOptions
    options: PaperOptions
    relates_within = True
    operator: GraphOperator

    def __init__(self, modalities: Mapping[str, int], **options: Any) -> None:
        super().__init__(modalities, **options)
        self._check_rows()
        kinds = relation_kinds(self.modalities, self.options.relations)
        form = self.options.form or ("full" if len(self.modalities) <= 2 else "random-pair")
        chosen = self.options = self.options.model_copy(update={"relations": kinds, "form": form})
        self.relation = nn.ModuleDict()
        shared: dict[str, Any] = {"centre": chosen.centre, "unit_range": chosen.unit_range}
        for name, width in self.modalities.items():
            self.relation[name] = (
                UnitRelation(width, kinds[name], pooling=chosen.unit_pooling, **shared)
                if name in self.units
                else Relation(width, kinds[name], **shared)
            )
        of_operator = chosen.model_dump(include=set(OPERATOR_OPTIONS))
        self.operator = GraphOperator(list(self.modalities), **of_operator)

    @classmethod
    def usual_grid(cls, modalities: Sequence[str]) -> dict[str, tuple[int | float, ...]]:
        """Orders 1 to 3 of each modality."""
        return {f"fusion.order.{name}": (1, 2, 3) for name in modalities}

    def _check_rows(self) -> None:
        if self.options.rows == "ordered" and self.options.nodes > MOST_ORDERED:
            raise ParameterError(
                "rows in fixed order are for small graphs: a head on them has about as many parameters as the graph entries",
                where="rows='ordered'",
                expected=f"at most {MOST_ORDERED} nodes",
                got=self.options.nodes,
                fix="use rows='statistics' or rows='propagate', whose width does not grow with the graph",
            )
        if self.units and self.needs_features:
            option = "own_features=True" if self.options.own_features else "rows='propagate'"
            raise ParameterError(f"{option} needs one vector per node", got=f"units of {', '.join(self.units)}")

    def frozen_config(self) -> dict[str, Any]:
        """What changes the relations."""
        names = {"nodes", "relations", "centre", "unit_range", "nearest", "units", "unit_pooling"}
        return self.options.model_dump(mode="json", include=names)

    def idle_options(self) -> tuple[str, ...]:
        """The rank of a form that has none, and the scale of graphs whose powers need none."""
        idle = (("rank", self.operator.form != "joint"), ("normalisation", self.operator.expansion != "matrix"))
        return tuple(name for name, unused in idle if unused)

    @property
    def knows_training(self) -> bool:
        """Whether the relations learn a centre or a scale."""
        kinds = relation_kinds(self.modalities, self.options.relations)
        return set(kinds.values()) != {"cosine"} or self.options.centre or bool(self.units)

    @property
    def has_frozen_stage(self) -> bool:
        """Whether the relations alone, computed once and cached, suffice to make the nodes."""
        return not self.needs_features

    @property
    def out_features(self) -> int:  # type: ignore[override]
        """F, numbers per node."""
        widths = sum(self.modalities.values())
        count = {"statistics": len(STATISTICS), "propagate": widths}.get(self.options.rows, self.options.nodes)
        return count + widths if self.options.own_features else count

    @property
    def needs_features(self) -> bool:
        """Whether the nodes are made of features beside the relations."""
        return self.options.rows == "propagate" or self.options.own_features

    @property
    def row_order(self) -> Literal["ordered", "sorted"] | None:  # type: ignore[override]
        """In which order the head sees a node's row of G; None where it sees something else."""
        return self.options.rows if self.options.rows in ("ordered", "sorted") and not self.options.own_features else None

    @torch.no_grad()
    def graphs(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> Graphs | None:
        """The graphs inside each video, and what the operator makes of them."""
        relations = self.relations(features, mask)
        return Graphs(relations, self.operator(relations, mask, square=True))

    def operator_graphs(self, inputs: Mapping[str, Float[Tensor, "b n ..."]]) -> dict[str, Float[Tensor, "b n k"]] | None:
        """The graphs themselves; None where the nodes are made of features too."""
        return None if self.needs_features else {name: inputs[name] for name in self.modalities}

    @torch.no_grad()
    def relevance(self, relations: Mapping[str, Float[Tensor, "b n n"]]) -> dict[str, float]:
        """Share of each modality in what the operator makes of some graphs (``GraphOperator.modality_shares``); sums to 1."""
        return self.operator.modality_shares(relations)

    def fit(
        self,
        features: Mapping[str, Float[Tensor, "v n ..."]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        mask: Bool[Tensor, "v n"] | None = None,
    ) -> None:
        """Fit centres and scales on all training bags."""
        for name, tensor in zip(self.modalities, self.select(features), strict=True):
            self._relation(name).fit(tensor if mask is None else tensor[mask][:, None])

    def relations(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> dict[str, Float[Tensor, "b n n"]]:
        """The graph of each modality: no learned parameter, so frozen features need it once."""
        chosen = self.select(features)
        return {name: self._graph(name, x, mask) for name, x in zip(self.modalities, chosen, strict=True)}

    def transform(
        self,
        features: Mapping[str, Float[Tensor, "b n ..."]],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        video_ids: Int[Tensor, " b"] | None = None,
        crops: int = 1,
        inside: bool = True,
    ) -> dict[str, Float[Tensor, "b n ..."]]:
        """The graphs, or the features where those are needed."""
        return super().transform(features, mask) if self.needs_features else self.relations(features, mask)

    def stream(self, window: int, *, inside: bool = True) -> NodeStream:
        """Graphs to which a segment adds a row, where all of a node is in them; else windows."""
        if self.needs_features or self.units:
            return super().stream(window, inside=inside)
        relations = {name: self._relation(name) for name in self.modalities}
        return GraphWindow(self, relations, window, self.options.nearest)

    def forward(self, inputs: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Expand and fuse the graphs, and hand on what ``rows`` says.

        Where rows are propagated along graphs of more than ``TILE_ABOVE``^2 entries, no graph is held and ``graph`` is None.
        """
        if self._in_tiles(inputs):
            return self._forward_in_tiles(inputs, mask)
        relations, features = (self.relations(inputs, mask), inputs) if self.needs_features else (inputs, {})
        graph = self.operator(relations, mask, square=True)
        nodes = self._with_own(self._rows(graph, mask, features), features)
        return FusionOutput(mask_nodes(nodes, mask), graph)

    def _with_own(self, nodes: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        if not self.options.own_features:
            return nodes
        own = zip(self.modalities, self.select(features), strict=True)
        return torch.cat([nodes, *(self._relation(name).centred_features(x) for name, x in own)], dim=-1)

    def _in_tiles(self, features: Mapping[str, Tensor]) -> bool:
        if self.options.rows != "propagate" or self.options.nearest is not None or self.operator.expansion != "hadamard":
            return False
        return self.select(features)[0].shape[1] > TILE_ABOVE

    def _forward_in_tiles(self, features: Mapping[str, Tensor], mask: Tensor | None) -> FusionOutput:
        chosen = self.select(features)
        if mask is not None:
            chosen = [mask_nodes(x, mask) for x in chosen]
        vectors = {name: self._relation(name).vectors(x) for name, x in zip(self.modalities, chosen, strict=True)}
        values = torch.cat(self.select(features), dim=-1)
        nodes = propagate(vectors, self.operator, values, mask).weighted_mean()
        return FusionOutput(mask_nodes(self._with_own(nodes, features), mask), None)

    def _rows(self, graph: Tensor, mask: Tensor | None, features: Mapping[str, Tensor]) -> Tensor:
        if self.options.rows == "propagate":
            values = torch.cat(self.select(features), dim=-1)
            degree = graph.abs().sum(-1, keepdim=True)
            return (graph @ values) / torch.where(degree > 0, degree, torch.ones_like(degree))
        if self.options.rows == "ordered":
            return graph
        if mask is not None:
            graph = graph.masked_fill(~mask[:, None, :], float("-inf"))  # masked columns sort last and count for nothing
        ranked = graph.sort(dim=-1, descending=True).values
        if self.options.rows == "statistics":
            return row_statistics(ranked)
        return ranked.masked_fill(ranked == float("-inf"), 0.0)

    def _graph(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None and not torch.compiler.is_exporting() and len(x) > BAGS_AT_ONCE:
            return torch.cat([self._graph(name, part, None) for part in x.split(BAGS_AT_ONCE)])
        graph: Tensor = self._relation(name)(x, mask)
        if self.options.nearest is None:
            return graph
        return k_nearest(graph, min(self.options.nearest, graph.shape[-1]), mask=mask, square=True)

    def _relation(self, name: str) -> Relation:
        relation = self.relation[name]
        if not isinstance(relation, Relation):  # for the type checker: nothing else is put there
            raise TypeError(type(relation))
        return relation
