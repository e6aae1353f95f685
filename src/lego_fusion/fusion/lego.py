"""LEGO, found by name: one graph of all modalities to every known normal segment, read twice, and one inside the video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import DataError, ParameterError
from ..graph.operator import GraphOperator
from ..graph.readings import degrees, propagated, time_reach
from .base import Fusion, FusionOutput, Graphs, mask_nodes
from .frozen import FrozenReadings, Own, Readings, chunks, in_parts
from .known import KnownNormals, KnownUnits
from .options import LegoOptions
from .reading_head import FUSED, Layout, ReadingHead
from .streams import NodeRing, NodeStream


class LegoFusion(Fusion):
    """Relate every segment to all known normal ones in every modality at once, and read the fused graph twice.

    R_m,ij = 1 / (1 + d_ij^2 / s_j^2), columns j are the distinct segments of the normal training videos; G = operator(R_1, ...,
    R_M), by default their product. A node hands on

    * its *degrees* phi_mp = -(1 / 2p) log mean_kept R_m,ij^p: how known is it, in each modality and at each power;
    * its *departure* r_m = x_m - sum_j G~_ij x_m,j, G~ = G^(1 / M) with rows that sum to 1: which way is it unlike the known
      segments, the more like it the more they count;
    * its degrees in the graph inside its own video: how unlike the rest of the video is it.

    None of them holds a learned parameter: a training video's own columns are masked (cross-fitting), everything is centred and
    scaled by what normal videos show, and the readings are computed once. A linear head with normal priors does the rest
    (``reading_head``).

    Args:
        modalities: Width of each modality by name.
        options: Those of ``options.LegoOptions``, by name, which has their defaults:
        references: Most known segments K, evenly thinned where there are more.
        kept: Largest entries of a row that its degree sees.
        orders: Powers p of the degrees.
        bandwidth_exponent: e of ``references.local_bandwidths``, in [0, 1]: 0 is one common bandwidth, 1 a fully local one.
        pseudo_videos: Videos of mean variance that steady the scales of columns.
        time_context: Deviation of the mean over nodes near in time, in nodes; 0 is none.
        window: Nodes up to a node's own that its time context and its own video's graph may see, for streams; None: the whole
            video, before and after.
        units: Modalities whose nodes hold finer units, (B, N, U, D + 1) with presence, and the number of groups that their
            units come in (rows of a grid of cells). They are read unit by unit (``known``); G is of the others.
        most_novel: Units that speak for a node.
        operator: ``"fixed"``: G is the product of the graphs. ``"learned"``: the coefficients of the operator are learned from
            there, and the degree of G itself is read too.
        order: Highest power of each graph in a learned operator.
        form: Form of a learned operator (``graph.operator``).
        rank: Rank of its joint form.
        seed: Of a learned operator's start.

    Source: ours, from the paper's graphs, powers, operator and degree; ``PaperFusion`` is the paper's own reading.

    Example:
        >>> fusion = LegoFusion({"motion": 8, "text": 4})
        >>> features = {"motion": torch.rand(3, 16, 8), "text": torch.rand(3, 16, 4)}
        >>> inputs = fusion.fit_transform(features, torch.tensor([False, False, True]), torch.arange(3))
        >>> fusion(inputs).nodes.shape  # 2 x 2 degrees, as many inside, 8 + 4 departures
        torch.Size([3, 16, 20])
    """

    kind: ClassVar[str] = "lego"
    Options = LegoOptions
    options: LegoOptions
    fused_centre: Tensor

    def __init__(self, modalities: Mapping[str, int], **options: Any) -> None:
        super().__init__(modalities, **options)
        chosen = self.options
        self.frozen = FrozenReadings(self.modalities, chosen)
        if self.learns_operator and not self.whole:
            raise ParameterError("a learned operator needs a modality of whole segments", got=", ".join(self.units))
        self.learned: GraphOperator | None = None
        if self.learns_operator:
            self.learned = GraphOperator(
                self.whole, chosen.order, chosen.form, rank=chosen.rank, start="product", seed=chosen.seed
            )
        self.register_buffer("fused_centre", torch.zeros(len(chosen.orders)))

    @property
    def whole(self) -> list[str]:
        """Modalities of one vector per node; the fused graph is of these."""
        return self.frozen.whole

    @property
    def operator(self) -> GraphOperator | None:  # type: ignore[override]
        """What fuses the graphs of whole segments; it starts as their product, G = prod_m R_m, and stays it if it is fixed."""
        return self.frozen.product if self.learned is None else self.learned

    @property
    def has_frozen_stage(self) -> bool:
        """Always."""
        return True

    @property
    def learns_operator(self) -> bool:
        """Whether the operator's coefficients are learned."""
        return self.options.operator == "learned"

    @property
    def pools_crops(self) -> bool:
        """Whether the mean over crops may be taken of the inputs: the logit is linear in them."""
        return not self.learns_operator

    @property
    def any_nodes(self) -> bool:
        """Always: every node is read by itself, or against as many others as there are."""
        return True

    @property
    def one_pass(self) -> bool:
        """Whether one pass over a video gives what its windows would give one by one."""
        return self.options.window is not None

    @property
    def draws_at_random(self) -> bool:
        """Whether a learned operator's start is drawn; all else follows from the training videos."""
        return self.learns_operator

    @property
    def columns(self) -> int:
        """Known segments K; 0 before ``fit``, and where all modalities are of finer units."""
        return len(self.frozen.reference_units)

    @property
    def reference_units(self) -> Int[Tensor, "k two"]:
        """Training bag and node of each column, so that it can be shown; -1 where it was added."""
        return self.frozen.reference_units

    @property
    def layout(self) -> Layout:
        """What a node's vector holds."""
        rows = (*self.modalities, *((FUSED,) if self.learns_operator else ()))
        return Layout(rows, tuple(self.modalities), self.options.orders, self.modalities)

    @property
    def out_features(self) -> int:  # type: ignore[override]
        """F, numbers per node."""
        return sum(self.layout.sizes)

    def make_head(self) -> ReadingHead:
        """The head that reads a node's vector."""
        return ReadingHead(self.layout, time_deviation=self.options.time_context, causal=self.options.window is not None)

    def frozen_config(self) -> dict[str, Any]:
        """All of it but the head's and what a learned operator is; ``operator`` says what the inputs are."""
        return self.options.model_dump(mode="json", exclude={"time_context", "order", "form", "rank", "seed"})

    @classmethod
    def usual_grid(cls, modalities: Sequence[str]) -> dict[str, tuple[int | float, ...]]:
        """How far labels are trusted, a quarter to four times the default."""
        return {"training.prior_departure": (0.75, 1.5, 3.0, 6.0, 12.0)}

    def idle_options(self) -> tuple[str, ...]:
        """What an operator is, where none is learned."""
        if not self.learns_operator:
            return ("order", "form", "rank")
        return () if self.options.form == "joint" else ("rank",)

    def known_normals(self, name: str) -> KnownNormals:
        """What is known of a modality."""
        return self.frozen.of(name)

    def known_places(self, name: str) -> tuple[Int[Tensor, "k place"], Float[Tensor, "k d"]]:
        """Of known segments; of finer units, those of all groups."""
        if name not in self.units:
            return self.reference_units, self.known_normals(name).references
        known = self.known_units(name)
        exists = known.bandwidth > 0
        return known.places[exists], known.references[exists]

    def known_units(self, name: str) -> KnownUnits:
        """What is known of a modality of finer units; ``ParameterError`` where it has none."""
        return self.frozen.units_of(name)

    def fit(
        self,
        features: Mapping[str, Float[Tensor, "v n ..."]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        mask: Bool[Tensor, "v n"] | None = None,
    ) -> None:
        """Know the segments of the normal training bags, and what degrees and departures are usual among them.

        Raises:
            DataError: If fewer than two normal videos are given.
        """
        x = self._chosen(features)
        self.frozen.fit(x, ~labels, video_ids, mask)
        if self.learns_operator:
            self._fit_fused(x, ~labels, video_ids, mask)

    def transform(
        self,
        features: Mapping[str, Float[Tensor, "b n ..."]],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        video_ids: Int[Tensor, " b"] | None = None,
        crops: int = 1,
        inside: bool = True,
    ) -> dict[str, Float[Tensor, "videos n ..."]]:
        """The readings of bags against all known segments, or, of training bags, against those of other videos.

        By modality: P degrees, P inside degrees and D_m departures, (B / crops, N, 2 P + D_m); with a learned operator
        K surprises, P degrees, P inside degrees and the features. Without ``inside`` the inside degrees are zero.
        """
        x = self._chosen(features)
        if video_ids is None:
            return self._inputs(x, mask, None, crops, None, inside=inside)
        with torch.no_grad():
            remembered = self.frozen.remembered(x, video_ids, mask)
            return self._inputs(x, mask, self.frozen.own(video_ids, video_ids), crops, remembered)

    def forward(self, inputs: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Put the readings of the modalities side by side; fuse their graphs first, where the operator is learned."""
        if self.learns_operator:
            return self._learned(inputs, mask)
        powers = len(self.options.orders)
        for name, width in self.modalities.items():
            if name not in inputs or inputs[name].shape[-1] != 2 * powers + width:
                got = tuple(inputs[name].shape) if name in inputs else ", ".join(inputs)
                expected, fix = f"{2 * powers + width} readings of each node", "call fuse(features), or transform them first"
                raise DataError(
                    "these are not the inputs of the learned stage", where=name, expected=expected, got=got, fix=fix
                )
        parts = [inputs[name].split([powers, powers, width], dim=-1) for name, width in self.modalities.items()]
        nodes = torch.cat([torch.cat(part, dim=-1) for part in zip(*parts, strict=True)], dim=-1)
        return FusionOutput(mask_nodes(nodes, mask))

    def stream(self, window: int, *, inside: bool = True) -> NodeStream:
        """A segment is read once; the vectors stay as long as the time context reaches back.

        With ``inside`` the features of the window stay too. A fusion that sees what comes after a node meets windows.
        """
        if self.options.window is None:
            return super().stream(window, inside=inside)
        return NodeRing(
            self._last_node, window=self.options.window if inside else 1, reach=time_reach(self.options.time_context)
        )

    def _last_node(self, features: Mapping[str, Tensor]) -> Tensor:
        """Vector of the last of some segments in a row, (1, 1, F)."""
        x = self._chosen(features)
        last = {name: tensor[:, -1:] for name, tensor in x.items()}
        readings = self.frozen.read(last, None, inside=False)
        if next(iter(x.values())).shape[1] > 1:
            readings = readings._replace(inside=self.frozen.inside(x, None, last=1))
        return self(self._inputs(last, None, None, 1, readings)).nodes

    def unlikeness(self, features: Mapping[str, Float[Tensor, "b n ..."]]) -> dict[str, Float[Tensor, "b n"]]:
        """Distance to the nearest known normals, in units of how far these lie apart, over the largest usual one."""
        ratios = self.frozen.unlikeness(self.frozen.read(self._chosen(features), None, inside=False))
        return {name: ratios[..., place] for place, name in enumerate(self.modalities)}

    @torch.no_grad()
    def relations(self, features: Mapping[str, Float[Tensor, "b n ..."]]) -> dict[str, Float[Tensor, "b n k"]]:
        """The graph of each modality of whole segments to the known ones, R in (0, 1], to be looked at."""
        chosen = self._chosen(features)
        return {name: torch.exp(-self.known_normals(name).surprise(chosen[name])) for name in self.whole}

    @torch.no_grad()
    def graphs(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> Graphs | None:
        """The relation to every known segment, and the fused graph that propagates, G~: rows that sum to 1.

        None where all modalities are of finer units.
        """
        del mask  # a node's row is its own
        if not self.whole:
            return None
        relations = self.relations(features)
        log_graph = self._log_graph({name: -graph.log() for name, graph in relations.items()})
        return Graphs(relations, torch.softmax(log_graph / len(self.whole), dim=-1), self.frozen.kept)

    def operator_graphs(self, inputs: Mapping[str, Float[Tensor, "b n ..."]]) -> dict[str, Float[Tensor, "b n k"]] | None:
        """The relations to the known segments; a training video's own columns are zero."""
        if not self.learns_operator:
            return None
        return {name: torch.exp(-inputs[name][..., : self.columns]) for name in self.whole}

    def known_segments(self) -> dict[str, KnownNormals]:
        """By modality of whole segments."""
        return {name: self.known_normals(name) for name in self.whole}

    @torch.no_grad()
    def readings(
        self,
        features: Mapping[str, Float[Tensor, "b n ..."]],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        video_ids: Int[Tensor, " b"] | None = None,
    ) -> Readings:
        """Degrees and departures before they are centred and scaled; with ``video_ids`` of training bags, cross-fitted."""
        own = None if video_ids is None else self.frozen.own(video_ids, video_ids)
        return self.frozen.read(self._chosen(features), mask, own)

    @torch.no_grad()
    def most_like(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], count: int = 10
    ) -> tuple[Float[Tensor, "b n r"], Int[Tensor, "b n r"]]:
        """The known segments that each node is most like in all modalities together: their weights in G~, and their columns."""
        x = self._chosen(features)
        found = []
        for bags in chunks(len(x[self.whole[0]]), x[self.whole[0]].shape[1] * self.columns * len(self.whole), 1):
            entries = {name: self.known_normals(name).surprise(x[name][bags]) for name in self.whole}
            weights = torch.softmax(self._log_graph(entries) / len(self.whole), dim=-1)
            found.append(weights.topk(min(count, self.columns), dim=-1))
        return torch.cat([top.values for top in found]), torch.cat([top.indices for top in found])

    def add_normals(
        self,
        features: Mapping[str, Float[Tensor, "b n ..."]],
        video_ids: Int[Tensor, " b"],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        most: int,
    ) -> Int[Tensor, "u two"]:
        """Know the distinct segments of more normal bags that are not known yet, evenly thinned to ``most``.

        Raises:
            ParameterError: If the fusion has modalities of finer units.
        """
        x = self._chosen(features)
        places = self.frozen.new_places(x, mask, most)
        chosen = {name: values[places[:, 0], places[:, 1]] for name, values in x.items()}
        if len(places):
            self.add_references(chosen, video_ids[places[:, 0]])
        return places

    def add_references(self, features: Mapping[str, Float[Tensor, "u d"]], videos: Int[Tensor, " u"]) -> None:
        """Know more normal segments, without training: new columns of every graph; the others stay as they are.

        Args:
            features: Of U normal segments, (U, D) by modality.
            videos: Which of the new videos each comes from.

        Raises:
            ParameterError: If the fusion has modalities of finer units.
        """
        x = self._chosen({name: values[None] for name, values in features.items()})
        self.frozen.add({name: values[0] for name, values in x.items()}, videos)

    def _chosen(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.modalities, self.checked(features), strict=True))

    def _inputs(
        self,
        x: dict[str, Tensor],
        mask: Tensor | None,
        own: Own | None,
        crops: int,
        readings: Readings | None,
        *,
        inside: bool = True,
    ) -> dict[str, Tensor]:
        """What the frozen stage makes of bags, a few at a time."""
        first = next(iter(x.values()))
        count, nodes = first.shape[:2]
        numbers = nodes * max(sum(self.modalities.values()), self.columns * len(self.whole))
        pooled = crops if self.pools_crops else 1

        def packed(bags: slice) -> list[Tensor]:
            given = {name: tensor[bags] for name, tensor in x.items()}
            there = None if mask is None else mask[bags]
            kept = None if own is None else Own(own.bags[bags], own.columns)
            read = self.frozen.read(given, there, kept, inside=inside) if readings is None else readings.of(bags)
            made = self._packed(given, kept, pooled, read)
            return [made[name] for name in self.modalities]

        return dict(zip(self.modalities, in_parts(packed, count, numbers, crops=crops, pooled=pooled), strict=True))

    def _packed(self, x: dict[str, Tensor], own: Own | None, crops: int, readings: Readings) -> dict[str, Tensor]:
        degree, inside = self.frozen.usual(readings)
        found = {}
        for place, name in enumerate(self.modalities):
            beside = [degree[:, :, place], inside[:, :, place]]
            if self.learns_operator:
                found[name] = self._unfused(name, x[name], beside, readings, own)
            else:
                packed = torch.cat([*beside, self.frozen.bounded(name, readings.departure[name])], dim=-1)
                found[name] = packed if crops == 1 else packed.unflatten(0, (-1, crops)).mean(1)
        return found

    # ---- a learned operator

    def _unfused(self, name: str, x: Tensor, beside: list[Tensor], readings: Readings, own: Own | None) -> Tensor:
        """What the learned stage needs of a modality: K surprises, degrees, inside degrees, and features or departures."""
        if name in self.units:
            return torch.cat([*beside, self.frozen.bounded(name, readings.departure[name])], dim=-1)
        surprise = self.frozen.surprises({name: x.flatten(0, 1)}, own, x.shape[1])[name]
        return torch.cat([surprise.unflatten(0, x.shape[:2]), *beside, x], dim=-1)

    @torch.no_grad()
    def _fit_fused(self, x: Mapping[str, Tensor], normal: Tensor, video_ids: Tensor, mask: Tensor | None) -> None:
        found = self.transform(x, mask, video_ids=video_ids)
        degree = self._fused_degree(self._log_graph({name: found[name][..., : self.columns] for name in self.whole}))
        known = normal[:, None].expand(degree.shape[:2]) if mask is None else mask & normal[:, None]
        self.fused_centre.copy_(degree[known].double().mean(0))

    def _log_graph(self, surprises: Mapping[str, Tensor]) -> Tensor:
        """Log G of the operator; -inf where a column is a video's own."""
        if self.operator is None:
            raise DataError("there is no graph to fuse", expected="a modality of whole segments")
        return self.operator.log_entries(surprises)

    def _fused_degree(self, log_graph: Tensor) -> Tensor:
        return degrees(-log_graph.topk(self.frozen.kept, dim=-1).values, self.options.orders)

    def _learned(self, inputs: Mapping[str, Tensor], mask: Tensor | None) -> FusionOutput:
        powers, columns, frozen = len(self.options.orders), self.columns, self.frozen
        log_graph = self._log_graph({name: inputs[name][..., :columns] for name in self.whole})
        fused = (self._fused_degree(log_graph) - self.fused_centre) / frozen.spread
        known = [frozen.of(name).references for name in self.whole]
        expected = dict(zip(self.whole, propagated(log_graph, known, len(self.whole)), strict=True))
        beside, departure = [], []
        for name, width in self.modalities.items():
            packed = inputs[name] if name in self.units else inputs[name][..., columns:]
            readings, values = packed.split([2 * powers, width], dim=-1)
            if name not in self.units:
                values = frozen.bounded(name, (values - expected[name]) / frozen.of(name).full)
            beside.append(readings.split([powers, powers], dim=-1))
            departure.append(values)
        degree, inside = zip(*beside, strict=True)
        nodes = torch.cat([*degree, fused, *inside, *departure], dim=-1)
        return FusionOutput(mask_nodes(nodes, mask), mask_nodes(log_graph.exp(), mask))
