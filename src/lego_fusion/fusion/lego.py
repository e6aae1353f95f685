"""LEGO: fuse modalities in graph space, where every modality has the same shape whatever its features were."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import DataError, ParameterError, check_choice, check_int
from ..graph.expansion import Expansion, Normalisation, ZeroOrder
from ..graph.operator import Form, GraphOperator
from ..graph.references import cross_fitted_references, joint_distance
from ..graph.relationship import k_nearest
from ..graph.streaming import TILE_ABOVE, propagate
from . import start
from .base import Fusion, FusionOutput, mask_nodes
from .modality_options import relation_kinds, unit_groups
from .relation import Relation, RelationKind
from .row_statistics import STATISTICS, row_statistics
from .units import UnitPooling, UnitRelation

Rows = Literal["ordered", "sorted", "statistics", "propagate"]
ROWS: tuple[Rows, ...] = ("ordered", "sorted", "statistics", "propagate")
MOST_ORDERED = 1024  # columns of rows in fixed order, whose head grows with their square
BAGS_AT_ONCE = 8  # related together: small enough to stay in the processor's cache
MOST_CANDIDATES = 2048  # segments that references are chosen from, evenly spread where there are more


class LegoFusion(Fusion):
    """Relationship graphs of all modalities, expanded to powers and fused by a learned operator.

    R_m = relation of the N nodes to K known-normal reference units (or to each other), G = operator(R_1, ..., R_M); each node
    hands on its row of G.

    Args:
        modalities: Width of each modality by name; the order orients A.
        nodes: N, needed for the number of outputs where nodes relate to each other.
        relations: Relation of each modality, ``"cosine"``, ``"gaussian"`` or ``"dot"``; one for all, or by name.
        references: K >= 2 reference units, or 0 to relate the nodes to each other.
        centre: Subtract the training mean before cosines and dot products.
        unit_range: Map cosines to [0, 1].
        scale_columns: Divide feature columns by how much they vary among normals (``relation.Relation``).
        nearest: Keep only this many entries of each row of each graph; None keeps all.
        order: Highest power P, for all graphs or by name.
        form: Form of the operator (``graph.operator``).
        rank: Rank of the joint form.
        expansion: ``"hadamard"`` or ``"matrix"``.
        zero_order: ``"ones"`` or ``"identity"``.
        normalisation: Of graphs before matrix powers.
        symmetric: Use (A + A^T) / 2.
        rows: What a node hands on: its row ``"ordered"`` as the columns are, ``"sorted"`` from most to least similar (which
            does not depend on which column is which), ``"statistics"`` of the row, or ``"propagate"``: sum_j G_ij x_j of the
            features, divided by sum_j |G_ij|.
        noise_gate: Start a modality whose relations have no memory from one node to the next, as noise has none, with a
            small weight (``start.noise_gate``); for nodes in the order of time.
        own_features: Also hand on the node's own features (x - centre) / column scale of every modality: where a node has a
            class of its own, its relations alone do not tell which.
        units: Modalities whose nodes hold finer units, (B, N, U, D + 1) with presence, and the number of groups that their
            units come in (rows of a grid of cells; 1 where units have no place). Their references are units themselves, K
            for each group; the *relations* of a node's units are pooled (``units.UnitRelation``).
        unit_pooling: ``"novel"``, ``"mean"`` or ``"max"`` over a node's units.
        most_novel: Units that ``"novel"`` keeps.
        kept_references: Of how many most similar references a sorted row holds; None: of all. ``add_references`` sets it.
        seed: Seed of the operator's start.

    Column k of a pooled graph is the k-th nearest known unit, no certain one. Beside graphs of whole segments, whose columns
    are certain ones, it is put in the column of the segment that is k-th nearest in the mean of those graphs, so that the
    operator multiplies nearest with nearest.

    Source: the paper; reference units, sorted rows and the joint form are ours. ``LegoFusion.paper`` is the paper's reading.

    Example:
        >>> fusion = LegoFusion({"motion": 8, "text": 4}, nodes=16, references=0)
        >>> output = fusion({"motion": torch.rand(2, 16, 8), "text": torch.rand(2, 16, 4)})
        >>> output.nodes.shape, output.graph.shape
        (torch.Size([2, 16, 16]), torch.Size([2, 16, 16]))
    """

    kind: ClassVar[str] = "lego"

    def __init__(
        self,
        modalities: Mapping[str, int],
        *,
        nodes: int = 32,
        relations: RelationKind | Mapping[str, RelationKind] = "cosine",
        references: int = 32,
        centre: bool = True,
        unit_range: bool = False,
        scale_columns: bool = True,
        nearest: int | None = None,
        order: int | Mapping[str, int] = 2,
        form: Form = "joint",
        rank: int | None = None,
        expansion: Expansion = "hadamard",
        zero_order: ZeroOrder = "ones",
        normalisation: Normalisation = "row",
        symmetric: bool = False,
        rows: Rows = "sorted",
        noise_gate: bool = True,
        own_features: bool = False,
        units: Mapping[str, int] | None = None,
        unit_pooling: UnitPooling = "novel",
        most_novel: int = 8,
        kept_references: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(modalities)
        self.units = unit_groups(self.modalities, units or {}, rows, own_features=own_features)
        self.whole = [name for name in self.modalities if name not in self.units]  # modalities of one vector per node
        self.nodes = check_int(nodes, "nodes", "LegoFusion", low=1)
        self.wanted_references = check_int(references, "references", "LegoFusion", low=0)
        self.rows: Rows = check_choice(rows, "rows", "LegoFusion", ROWS)
        if rows == "ordered" and (references or nodes) > MOST_ORDERED:
            raise ParameterError(
                "rows in fixed order are for small graphs: a head on them has about as many parameters as the graph entries",
                where="rows='ordered'",
                expected=f"at most {MOST_ORDERED} {'references' if references else 'nodes'}",
                got=references or nodes,
                fix="use rows='statistics' or rows='propagate', whose width does not grow with the graph, or fewer references",
            )
        self.kept_references = (
            None if kept_references is None else check_int(kept_references, "kept_references", "LegoFusion", low=1)
        )
        self.own_features = bool(own_features)
        self.nearest = None if nearest is None else check_int(nearest, "nearest", "LegoFusion", low=1)
        kinds = relation_kinds(self.modalities, relations)
        if references and (expansion, zero_order) != ("hadamard", "ones"):
            raise ParameterError(
                "reference units are defined for expansion='hadamard' with zero_order='ones' only",
                got=f"expansion='{expansion}', zero_order='{zero_order}'",
                fix="use references=0",
            )
        options: dict[str, Any] = {"form": form, "rank": rank, "expansion": expansion, "zero_order": zero_order}
        options |= {"normalisation": normalisation, "symmetric": symmetric, "seed": seed}
        self._config = {"nodes": nodes, "relations": kinds, "centre": centre, "unit_range": unit_range, "rows": rows}
        self._config |= {"scale_columns": scale_columns, "noise_gate": noise_gate, "own_features": self.own_features}
        self.noise_gate = noise_gate
        self._last_choice: tuple[list[Any], list[int], Tensor, Tensor, dict[int, Tensor]] | None = None
        self.start_gates: dict[str, float] = {}  # known once the start is balanced; not kept in a saved model
        if self.units:
            self._config |= {"units": self.units, "unit_pooling": unit_pooling, "most_novel": most_novel}
        self._config |= {"nearest": nearest, "order": order if isinstance(order, int) else dict(order), **options}
        self.reference_units: Tensor  # (K, 2): training bag and node of each reference, so that it can be shown
        self.register_buffer("reference_units", torch.zeros(references if self.whole else 0, 2, dtype=torch.long))
        self.relation = nn.ModuleDict()
        shared: dict[str, Any] = {"references": references, "centre": centre, "unit_range": unit_range}
        shared |= {"scale_columns": scale_columns}
        pooled: dict[str, Any] = {"pooling": unit_pooling, "most_novel": most_novel}
        for name, width in self.modalities.items():
            self.relation[name] = (
                UnitRelation(width, kinds[name], groups=self.units[name], **pooled, **shared)
                if name in self.units
                else Relation(width, kinds[name], **shared)
            )
        self.operator = GraphOperator(list(self.modalities), order, **options)

    @classmethod
    def paper(
        cls,
        modalities: Mapping[str, int],
        *,
        nodes: int = 32,
        order: int = 2,
        units: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> LegoFusion:
        """The paper's reading: cosine inside one video, R^(0) = I, full A (random pairs for more than two), rows in order.

        Relations of finer units become those of their nodes by their mean.
        """
        form: Form = "full" if len(modalities) <= 2 else "random-pair"
        options: dict[str, Any] = {
            "centre": False,
            "scale_columns": False,
            "zero_order": "identity",
            "rows": "ordered",
            "references": 0,
            "units": units,
            "unit_pooling": "mean",
        }
        return cls(modalities, nodes=nodes, order=order, form=form, seed=seed, **options)

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal fusion; ``references`` is the number there really are."""
        kept = {} if self.kept_references is None else {"kept_references": self.kept_references}
        references = self.columns if self.wanted_references else 0
        return {"modalities": self.modalities, "references": references, **kept, **self._config}

    @property
    def columns(self) -> int:
        """Columns of the graphs: K reference units, or N nodes."""
        if not self.wanted_references:
            return self.nodes
        return int(self._relation(next(iter(self.modalities))).references.shape[-2])

    @property
    def out_features(self) -> int:  # type: ignore[override]
        """F, numbers per node."""
        widths = sum(self.modalities.values())
        count = {"statistics": len(STATISTICS), "propagate": widths}.get(self.rows, self.kept_references or self.columns)
        return count + widths if self.own_features else count

    @property
    def needs_features(self) -> bool:
        """Whether the relations alone, computed once and cached, do not suffice to make the nodes."""
        return self.rows == "propagate" or self.own_features

    def start_direction(self) -> Tensor | None:
        """With sorted rows against references: less similar to the nearest known normals is more abnormal.

        Column j of a sorted row, the j-th most similar reference, starts with a weight proportional to -1 / (j + 1): the
        nearest count most, as among nearest neighbours, and none is left out.
        """
        if not self.wanted_references or self.rows != "sorted" or self.own_features:
            return None
        weights = 1 / torch.arange(1, (self.kept_references or self.columns) + 1)
        return -weights / weights.sum()

    def balance_start(
        self,
        relations: Mapping[str, Float[Tensor, "b n k"]],
        labels: Bool[Tensor, " b"] | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> None:
        """Let every modality's relation vary alike among known normals, and gate out what cannot be told from noise.

        Its first-order coefficient is multiplied by gate / spread (``start.start_weights``): a modality that differs much
        from one normal video to the next says little about what is abnormal. Pure noise differs *least* (the mean of a row
        of small random cosines hardly moves), so without the gate it would get the largest weight. ``start_gates`` keeps the
        gates to be read; in a model loaded from disk it is empty.
        """
        direction = self.start_direction()
        if direction is None:
            return
        graphs = {name: relations[name] for name in self.modalities}
        self.start_gates = dict.fromkeys(graphs, 1.0)
        if self.noise_gate and len(graphs) > 1:
            self.start_gates = {
                name: start.noise_gate(start.memory(graph, -direction.to(graph), mask)) for name, graph in graphs.items()
            }
        first = next(iter(graphs.values()))
        normal = torch.ones(len(first), dtype=torch.bool, device=first.device) if labels is None else ~labels
        self.operator.weigh_first_order(start.start_weights(graphs, normal, self.start_gates, mask))

    @torch.no_grad()
    def relevance(self, relations: Mapping[str, Float[Tensor, "b n k"]]) -> dict[str, float]:
        """Share of each modality in what the operator makes of some graphs (``GraphOperator.modality_shares``); sums to 1."""
        return self.operator.modality_shares(relations)

    def fit_statistics(
        self,
        features: Mapping[str, Float[Tensor, "v n ..."]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
    ) -> None:
        """Fit centres and scales on all training bags, and choose the references among the normal ones."""
        for name, tensor in zip(self.modalities, self.select(features), strict=True):
            self._relation(name).fit(tensor, ~labels)
        if self.wanted_references:
            self.fit_references(features, labels, video_ids)

    def fit_references(
        self, features: Mapping[str, Float[Tensor, "v n ..."]], labels: Bool[Tensor, " v"], video_ids: Int[Tensor, " v"]
    ) -> None:
        """Choose K medoids among the segments of normal training bags and keep their features as buffers.

        K becomes smaller where the normal videos hold fewer distinct segments. Where they hold more than 2,048, that many
        evenly spread ones are the candidates. ``reference_units`` tells which they are.
        """
        self.select(features)
        count = self.wanted_references
        if self.whole:
            index, for_video = self._choose(features, labels, video_ids)
            given = [features[name] for name in self.whole]
            self._last_choice = [weakref.ref(x) for x in given], [x._version for x in given], labels, video_ids, for_video
            for name in self.whole:
                self._relation(name).set_references(features[name].flatten(0, 1), index)
            nodes, count = features[self.whole[0]].shape[1], len(index)
            self.reference_units = torch.stack([index // nodes, index % nodes], dim=1)
        for name in self.units:
            relation = self.unit_relation(name)
            relation.set_references(features[name], relation.choose(features[name], labels, video_ids, count)[0])

    def add_references(self, features: Mapping[str, Float[Tensor, "u d"]]) -> None:
        """Let more normal segments count as known, without training: a sorted row goes on holding its K most similar.

        Adding a segment can only raise entries of a sorted row where the operator rises with the relations, and leaves a
        segment alone that is not more like the new references than like its K nearest old ones.

        Args:
            features: Of U new normal segments, (U, D) by modality.

        Raises:
            ParameterError: If the fusion has no references, its rows are not sorted, or it has modalities of finer units.
        """
        if not self.wanted_references or self.rows != "sorted" or self.units:
            got = "finer units" if self.units else f"rows='{self.rows}', references={self.wanted_references}"
            raise ParameterError("references can be added to sorted rows of whole segments only", got=got, fix="train again")
        self.kept_references = self.kept_references or self.columns
        chosen = self.select({name: x[None] for name, x in features.items()})
        for name, x in zip(self.modalities, chosen, strict=True):
            relation = self._relation(name)
            relation.references = torch.cat([relation.references, x[0].to(relation.references)])
        self.wanted_references = self.columns
        added = self.columns - len(self.reference_units)
        nowhere = self.reference_units.new_full((added, 2), -1)  # in no training bag
        self.reference_units = torch.cat([self.reference_units, nowhere])

    def relations(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> dict[str, Float[Tensor, "b n k"]]:
        """The graph of each modality: no learned parameter, so frozen features need it once."""
        chosen = self.select(features)
        graphs = {name: self._graph(name, x, None, mask) for name, x in zip(self.modalities, chosen, strict=True)}
        return self._aligned(graphs)

    def training_relations(
        self,
        features: Mapping[str, Float[Tensor, "v n ..."]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        *,
        shown: Mapping[str, Float[Tensor, "v n ..."]] | None = None,
        threads: int = 1,
    ) -> dict[str, Float[Tensor, "v n k"]]:
        """The graphs of the training bags, cross-fitted: a normal video meets references from other videos only.

        ``shown`` are other features of the same bags (a modality removed, say), which then meet the references that
        ``features`` lead to. ``threads`` videos are related at a time.
        """
        shown = features if shown is None else shown
        if not self.wanted_references:
            return self.relations(shown)
        chosen = dict(zip(self.modalities, self.select(features), strict=True))
        seen = dict(zip(self.modalities, self.select(shown), strict=True))
        graphs = {name: self._graph(name, seen[name], None, None) for name in self.units}
        for_video: dict[int, Tensor] = self._chosen_for(features, labels, video_ids) if self.whole else {}
        for name in self.whole:
            units, x = chosen[name].flatten(0, 1), seen[name]
            graphs[name] = x.new_empty(*x.shape[:2], self.columns)

            def relate(video: int, name: str = name, units: Tensor = units, x: Tensor = x) -> None:
                bags, index = (video_ids == video).nonzero()[:, 0], for_video.get(video)
                graphs[name][bags] = self._graph(name, x[bags], None if index is None else units[index][None], None)

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(relate, video_ids.unique().tolist()))
        graphs = {name: graphs[name] for name in self.modalities}
        for name in self.units:
            units = chosen[name].flatten(0, 2)[:, :-1]
            for video, index in self.unit_relation(name).choose(chosen[name], labels, video_ids, self.columns)[1].items():
                bags = video_ids == video
                graphs[name][bags] = self._graph(name, seen[name][bags], units[index], None)
        return self._aligned(graphs)

    def unit_relation(self, name: str) -> UnitRelation:
        """The relation of a modality of finer units.

        Raises:
            ParameterError: If the modality has none.
        """
        relation = self.relation[name] if name in self.units else None
        if not isinstance(relation, UnitRelation):
            there = ", ".join(self.units) or "none"
            raise ParameterError(f"modality '{name}' is not read unit by unit", expected="a fine modality", got=there)
        return relation

    def forward(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> FusionOutput:
        """Relate, expand, fuse.

        Where rows are propagated along graphs of more than ``TILE_ABOVE``^2 entries, no graph is held and ``graph`` is None.
        """
        if self._in_tiles(features):
            return self._forward_in_tiles(features, mask)
        return self.forward_relations(self.relations(features, mask), mask, features=features)

    def forward_relations(
        self,
        relations: Mapping[str, Float[Tensor, "b n k"]],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        features: Mapping[str, Float[Tensor, "b n ..."]] | None = None,
    ) -> FusionOutput:
        """Fuse graphs computed before by ``relations``; ``features`` only where ``needs_features``."""
        graph = self.operator(relations, mask, square=not self.wanted_references)
        nodes = self._with_own(self._rows(graph, mask, features), features)
        return FusionOutput(mask_nodes(nodes, mask), graph)

    def _with_own(self, nodes: Tensor, features: Mapping[str, Tensor] | None) -> Tensor:
        if not self.own_features:
            return nodes
        own = zip(self.modalities, self.select(self._needed(features)), strict=True)
        return torch.cat([nodes, *(self._relation(name).scaled(x) for name, x in own)], dim=-1)

    def _in_tiles(self, features: Mapping[str, Tensor]) -> bool:
        if self.rows != "propagate" or self.nearest is not None or self.operator.expansion != "hadamard":
            return False
        nodes = self.select(features)[0].shape[1]
        return nodes * (self.columns if self.wanted_references else nodes) > TILE_ABOVE**2

    def _forward_in_tiles(self, features: Mapping[str, Tensor], mask: Tensor | None) -> FusionOutput:
        chosen = self.select(features)
        if mask is not None:
            chosen = [mask_nodes(x, mask) for x in chosen]
        vectors = {name: self._relation(name).vectors(x) for name, x in zip(self.modalities, chosen, strict=True)}
        values = self._propagated_values(features).expand(len(chosen[0]), -1, -1)
        nodes = propagate(vectors, self.operator, values, mask).weighted_mean()
        return FusionOutput(mask_nodes(self._with_own(nodes, features), mask), None)

    def _needed(self, features: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        if features is None:
            option = "own_features=True" if self.own_features else "rows='propagate'"
            raise ParameterError(f"{option} needs the features beside the relations", fix="call forward(features)")
        return features

    def _rows(self, graph: Tensor, mask: Tensor | None, features: Mapping[str, Tensor] | None) -> Tensor:
        if self.rows == "propagate":
            return self._propagate(graph, features)
        if self.rows != "ordered" and mask is not None and not self.wanted_references:
            graph = graph.masked_fill(~mask[:, None, :], float("-inf"))  # masked columns sort last and count for nothing
        if self.rows == "ordered":
            return graph
        ranked = graph.sort(dim=-1, descending=True).values
        if self.rows == "statistics":
            return row_statistics(ranked)
        if self.kept_references is not None:
            ranked = ranked[..., : self.kept_references]
        return ranked.masked_fill(ranked == float("-inf"), 0.0)

    def _propagate(self, graph: Tensor, features: Mapping[str, Tensor] | None) -> Tensor:
        values = self._propagated_values(self._needed(features))
        degree = graph.abs().sum(-1, keepdim=True)
        return (graph @ values) / torch.where(degree > 0, degree, torch.ones_like(degree))

    def _propagated_values(self, features: Mapping[str, Tensor]) -> Tensor:
        if self.wanted_references:
            return torch.cat([self._relation(name).references for name in self.modalities], dim=-1)[None]
        return torch.cat(self.select(features), dim=-1)

    def _aligned(self, graphs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the k-th nearest known unit in the column of the k-th nearest known segment, see the class."""
        if not (self.units and self.whole and self.wanted_references):
            return graphs
        order = torch.stack([graphs[name] for name in self.whole]).mean(0).argsort(dim=-1, descending=True, stable=True)
        return graphs | {name: torch.empty_like(graphs[name]).scatter_(-1, order, graphs[name]) for name in self.units}

    def _graph(self, name: str, x: Tensor, references: Tensor | None, mask: Tensor | None) -> Tensor:
        if mask is None and references is None and not torch.compiler.is_exporting() and len(x) > BAGS_AT_ONCE:
            return torch.cat([self._graph(name, part, None, None) for part in x.split(BAGS_AT_ONCE)])
        graph: Tensor = self._relation(name)(x, references, mask)
        if self.nearest is None:
            return graph
        square = references is None and not self.wanted_references
        return k_nearest(graph, min(self.nearest, graph.shape[-1]), mask=mask, square=square)

    def _relation(self, name: str) -> Relation:
        relation = self.relation[name]
        if not isinstance(relation, Relation):  # for the type checker: nothing else is put there
            raise TypeError(type(relation))
        return relation

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_choice": None}  # of no use elsewhere

    def _chosen_for(self, features: Mapping[str, Tensor], labels: Tensor, video_ids: Tensor) -> dict[int, Tensor]:
        """References for each normal video; those found while fitting, where these are the very tensors that were fitted on."""
        given = [features[name] for name in self.whole]
        if self._last_choice is not None:
            seen, versions, known_labels, known_ids, for_video = self._last_choice
            unchanged = all(x is one() and x._version == version for x, one, version in zip(given, seen, versions, strict=True))
            if unchanged and torch.equal(labels, known_labels) and torch.equal(video_ids, known_ids):
                return for_video
        return self._choose(features, labels, video_ids)[1]

    def _choose(self, features: Mapping[str, Tensor], labels: Tensor, video_ids: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """References among all normal bags and, for each normal video, among the others: indices into bags x nodes."""
        chosen = [features[name] for name in self.whole]
        if bool(labels.all()):
            raise DataError("reference units come from normal videos", expected="normal training videos", got="none")
        normal_bags = (~labels).nonzero()[:, 0]
        nodes = chosen[0].shape[1]
        units = (normal_bags[:, None] * nodes + torch.arange(nodes, device=labels.device)).flatten()
        videos = video_ids[normal_bags].repeat_interleave(nodes)
        if len(units) > MOST_CANDIDATES:  # all pairs are compared, for every normal video once
            spread = torch.linspace(0, len(units) - 1, MOST_CANDIDATES, device=labels.device).long()
            units, videos = units[spread], videos[spread]
        distance = joint_distance(
            [self._relation(name).dissimilarity(x.flatten(0, 1)[units]) for name, x in zip(self.whole, chosen, strict=True)]
        )
        everyone = torch.ones(len(units), dtype=torch.bool, device=labels.device)
        index, for_video = cross_fitted_references(distance, everyone, videos, self.wanted_references)
        return units[index], {video: units[chosen_index] for video, chosen_index in for_video.items()}
