"""LEGO: one graph of all modalities to every known normal segment, read twice; and the graph inside the video beside it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from ..graph.operator import Form, GraphOperator
from ..graph.readings import bounded, degrees, inside_degrees, propagated, received
from ..graph.references import choose_references, node_numbers, require_several_videos
from .base import Fusion, FusionOutput, Graphs, mask_nodes
from .known import KnownNormals, column_scales, normal_rows
from .known_units import KnownUnits
from .modality_options import unit_groups
from .reading_head import FUSED, Layout, ReadingHead
from .units import mean_over_units

OperatorChoice = Literal["fixed", "learned"]
OPERATORS: tuple[OperatorChoice, ...] = ("fixed", "learned")
NUMBERS_AT_ONCE = 2**23  # entries of the graphs that are held at a time


class Readings(NamedTuple):
    """What the graphs say of the nodes of some bags, before it is centred and scaled.

    Args:
        degree: phi_mp, (B, N, M, P).
        inside: phi'_mp in the graph inside the video, (B, N, M, P); NaN where there is nothing to compare with.
        weights: Of the known segments that each node receives from, (B, N, r).
        columns: Which they are, (B, N, r).
        lengths: Length of the departure in each modality, (B, N, M).
        units: Departures of modalities of finer units, (B, N, D), in deviations among normals.
    """

    degree: Float[Tensor, "b n m p"]
    inside: Float[Tensor, "b n m p"]
    weights: Float[Tensor, "b n r"]
    columns: Int[Tensor, "b n r"]
    lengths: Float[Tensor, "b n m"]
    units: dict[str, Float[Tensor, "b n _"]]


class LegoFusion(Fusion):
    """Relate every segment to all known normal ones in every modality at once, and read the fused graph twice.

    R_m,ij = 1 / (1 + d_ij^2 / s_j^2), columns j are the distinct segments of the normal training videos; G = operator(R_1, ...,
    R_M), by default their product. A node hands on

    * its *degrees* phi_mp = -(1 / 2p) log mean_kept R_m,ij^p: how known is it, in each modality and at each power;
    * its *departure* r_m = x_m - sum_j G_ij x_m,j / sum_j G_ij: which way is it unlike the known segments that it is most like;
    * its degrees in the graph inside its own video: how unlike the rest of the video is it.

    None of them holds a learned parameter: a training video's own columns are masked (cross-fitting), everything is centred and
    scaled by what normal videos show, and the readings are computed once. A linear head with normal priors does the rest
    (``reading_head``).

    Args:
        modalities: Width of each modality by name.
        references: Most known segments K, evenly thinned where there are more.
        kept: Largest entries of a row that its degree sees.
        received: Largest entries of a row of G that propagate.
        orders: Powers p of the degrees.
        bandwidth_exponent: e of ``references.local_bandwidths``, in [0, 1]; 1/2 is half-way from common to local.
        pseudo_videos: Videos of mean variance that steady the scales of columns.
        time_context: Deviation of the mean over nodes near in time, in nodes; 0 is none.
        window: Nodes up to a node's own that its time context and its own video's graph may see, for streams; None: the whole
            video, before and after.
        operator: ``"fixed"``: G is the product of the graphs. ``"learned"``: the coefficients of the operator are learned from
            there, and the degree of G itself is read too.
        order: Highest power of each graph in a learned operator.
        form: Form of a learned operator (``graph.operator``).
        rank: Rank of its joint form.
        units: Modalities whose nodes hold finer units, (B, N, U, D + 1) with presence, and the number of groups that their
            units come in (rows of a grid of cells). They are read unit by unit (``known_units``); G is of the others.
        most_novel: Units that speak for a node.
        seed: Of a learned operator's start.

    Source: ours, from the paper's graphs, powers, operator and degree; ``PaperFusion`` is the paper's own reading.

    Example:
        >>> fusion = LegoFusion({"motion": 8, "text": 4})
        >>> features = {"motion": torch.rand(3, 16, 8), "text": torch.rand(3, 16, 4)}
        >>> fusion.fit_statistics(features, torch.tensor([False, False, True]), torch.arange(3))
        >>> fusion(features).nodes.shape  # 2 x 2 degrees, as many inside, 8 + 4 departures
        torch.Size([3, 16, 20])
    """

    kind: ClassVar[str] = "lego"
    has_frozen_stage = True
    centre: Tensor
    spread: Tensor
    inside_centre: Tensor
    inside_spread: Tensor
    inside_bandwidth: Tensor
    scale: Tensor
    median: Tensor
    fused_centre: Tensor
    reference_units: Tensor  # (K, 2): training bag and node of each column, so that it can be shown; -1 where it was added

    def __init__(
        self,
        modalities: Mapping[str, int],
        *,
        references: int = 2048,
        kept: int = 3,
        received: int = 10,
        orders: Sequence[int] = (1, 2),
        bandwidth_exponent: float = 0.5,
        pseudo_videos: float = 4.0,
        time_context: float = 2.0,
        window: int | None = None,
        operator: OperatorChoice = "fixed",
        order: int = 2,
        form: Form = "joint",
        rank: int | None = None,
        units: Mapping[str, int] | None = None,
        most_novel: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(modalities)
        owner = "LegoFusion"
        self.units = unit_groups(self.modalities, units or {})
        self.whole = [name for name in self.modalities if name not in self.units]  # modalities of one vector per node
        self.references = check_int(references, "references", owner, low=1)
        self.kept = check_int(kept, "kept", owner, low=1)
        self.received = check_int(received, "received", owner, low=1)
        self.orders = tuple(check_int(p, "orders", owner, low=1) for p in orders)
        if not self.orders:
            raise ParameterError("The 'orders' parameter of LegoFusion must name at least one power. Got none")
        self.bandwidth_exponent = check_number(bandwidth_exponent, "bandwidth_exponent", owner, low=0.0, high=1.0)
        self.pseudo_videos = check_number(pseudo_videos, "pseudo_videos", owner, low=0.0)
        self.time_context = check_number(time_context, "time_context", owner, low=0.0, high=1e4)
        self.window = None if window is None else check_int(window, "window", owner, low=1)
        self.operator_choice: OperatorChoice = check_choice(operator, "operator", owner, OPERATORS)
        if self.learns_operator and not self.whole:
            raise ParameterError("a learned operator needs a modality of whole segments", got=", ".join(self.units))
        self._config = {"references": self.references, "kept": self.kept, "received": self.received}
        self._config |= {"orders": list(self.orders), "bandwidth_exponent": self.bandwidth_exponent}
        self._config |= {"pseudo_videos": self.pseudo_videos, "time_context": self.time_context, "window": self.window}
        self._config |= {"operator": operator, "order": order, "form": form, "rank": rank}
        self._config |= {"units": self.units, "most_novel": most_novel, "seed": seed}
        self.known = nn.ModuleDict()
        for name, width in self.modalities.items():
            groups = self.units.get(name)
            known = KnownNormals(width) if groups is None else KnownUnits(width, groups=groups, most_novel=most_novel)
            self.known[name] = known
        self.operator = _operator(self.whole, operator, order, form, rank, seed)
        count, powers = len(self.modalities), len(self.orders)
        for buffer in ("centre", "inside_centre"):
            self.register_buffer(buffer, torch.zeros(count, powers))
        for buffer in ("spread", "inside_spread"):
            self.register_buffer(buffer, torch.ones(()))
        for buffer in ("inside_bandwidth", "scale", "median"):
            self.register_buffer(buffer, torch.ones(count))
        self.register_buffer("fused_centre", torch.zeros(powers))
        self.register_buffer("fewest", torch.tensor(0))  # columns that every training video meets at least
        self.register_buffer("reference_units", torch.zeros(0, 2, dtype=torch.long))
        self._remembered: tuple[Any, ...] | None = None

    @property
    def learns_operator(self) -> bool:
        """Whether the operator's coefficients are learned."""
        return self.operator_choice == "learned"

    @property
    def pools_crops(self) -> bool:
        """Whether the mean over crops may be taken of the inputs: the logit is linear in them."""
        return not self.learns_operator

    @property
    def one_pass(self) -> bool:
        """Whether one pass over a video gives what its windows would give one by one."""
        return self.window is not None

    @property
    def columns(self) -> int:
        """Known segments K; 0 before ``fit_statistics``, and where all modalities are of finer units."""
        return len(self.reference_units)

    @property
    def layout(self) -> Layout:
        """What a node's vector holds."""
        rows = (*self.modalities, *((FUSED,) if self.learns_operator else ()))
        return Layout(rows, tuple(self.modalities), self.orders, self.modalities)

    @property
    def out_features(self) -> int:  # type: ignore[override]
        """F, numbers per node."""
        return sum(self.layout.sizes)

    def make_head(self) -> ReadingHead:
        """The head that reads a node's vector."""
        return ReadingHead(self.layout, time_deviation=self.time_context, causal=self.window is not None)

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal fusion."""
        return {"modalities": self.modalities, **self._config}

    def frozen_config(self) -> dict[str, Any]:
        """All of it but what a learned operator is; ``operator`` says what the inputs are."""
        return {name: value for name, value in self._config.items() if name not in ("order", "form", "rank", "seed")}

    def fit_statistics(
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
        self._fit(features, labels, video_ids, mask)

    def training_inputs(
        self,
        features: Mapping[str, Float[Tensor, "v n ..."]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        mask: Bool[Tensor, "v n"] | None = None,
        *,
        shown: Mapping[str, Float[Tensor, "v n ..."]] | None = None,
        crops: int = 1,
        threads: int = 1,
    ) -> dict[str, Float[Tensor, "videos n ..."]]:
        """The readings of the training bags, cross-fitted: a video does not meet its own segments."""
        del labels, threads  # one matrix product after the other
        chosen = self._chosen(features if shown is None else shown)
        readings = None if shown is not None else self._recall(chosen, video_ids, mask)
        return self._inputs(chosen, mask, video_ids, crops, readings)

    def inputs(
        self,
        features: Mapping[str, Float[Tensor, "b n ..."]],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        crops: int = 1,
    ) -> dict[str, Float[Tensor, "videos n ..."]]:
        """The readings of bags against all known segments: no learned parameter, so frozen features need it once.

        By modality: P degrees, P inside degrees and D_m departures, (B / crops, N, 2 P + D_m); with a learned operator
        K surprises, P degrees, P inside degrees and the features.
        """
        return self._inputs(self._chosen(features), mask, None, crops, None)

    def forward(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> FusionOutput:
        """Relate, fuse, read."""
        return self.forward_inputs(self.inputs(features, mask), mask)

    def forward_inputs(
        self, inputs: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> FusionOutput:
        """The vector of each node from what ``inputs`` gave."""
        if self.learns_operator:
            return self._learned(inputs, mask)
        powers = len(self.orders)
        parts = [inputs[name].split([powers, powers, width], dim=-1) for name, width in self.modalities.items()]
        nodes = torch.cat([torch.cat(part, dim=-1) for part in zip(*parts, strict=True)], dim=-1)
        return FusionOutput(mask_nodes(nodes, mask))

    def known_normals(self, name: str) -> KnownNormals:
        """What is known of a modality."""
        known = self.known[name]
        if not isinstance(known, KnownNormals):  # for the type checker: nothing else is put there
            raise TypeError(type(known))
        return known

    def known_units(self, name: str) -> KnownUnits:
        """What is known of a modality of finer units.

        Raises:
            ParameterError: If the modality has none.
        """
        known = self.known[name] if name in self.units else None
        if not isinstance(known, KnownUnits):
            there = ", ".join(self.units) or "none"
            raise ParameterError(f"modality '{name}' is not read unit by unit", expected="a fine modality", got=there)
        return known

    @torch.no_grad()
    def relations(self, features: Mapping[str, Float[Tensor, "b n ..."]]) -> dict[str, Float[Tensor, "b n k"]]:
        """The graph of each modality of whole segments to the known ones, R in (0, 1], to be looked at."""
        chosen = self._chosen(features)
        return {name: torch.exp(-self.known_normals(name).surprise(chosen[name])) for name in self.whole}

    def graphs(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> Graphs | None:
        """The relation to every known segment, and the part of the fused graph that propagates: weights that sum to 1.

        Of G only the largest ``received`` entries of each row count, divided by their sum; all others are zero. None where all
        modalities are of finer units.
        """
        del mask  # a node's row is its own
        if not self.whole:
            return None
        relations = self.relations(features)
        with torch.no_grad():
            log_graph = self._log_graph({name: -graph.log() for name, graph in relations.items()})
            weights, columns = received(log_graph, min(self.received, int(self.fewest)))
            return Graphs(relations, torch.zeros_like(log_graph).scatter_(-1, columns, weights), self.kept)

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
        return self._read(self._chosen(features), mask, video_ids)

    def add_references(self, features: Mapping[str, Float[Tensor, "u d"]], videos: Int[Tensor, " u"]) -> None:
        """Know more normal segments, without training: new columns of every graph; the others stay as they are.

        Args:
            features: Of U normal segments, (U, D) by modality.
            videos: Which of the new videos each comes from.

        Raises:
            ParameterError: If the fusion has modalities of finer units.
        """
        if self.units:
            got = f"units of {', '.join(self.units)}"
            raise ParameterError("known segments can be added where all modalities have one vector", got=got, fix="train again")
        chosen = self._chosen({name: x[None] for name, x in features.items()})
        for name, x in chosen.items():
            self.known_normals(name).add_references(x[0], videos, self.bandwidth_exponent)
        nowhere = self.reference_units.new_full((len(videos), 2), -1)  # in no training bag
        self.reference_units = torch.cat([self.reference_units, nowhere])
        self._remembered = None

    # ---- the frozen stage

    def _chosen(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.modalities, self.select(features), strict=True))

    @torch.no_grad()
    def _fit(self, features: Mapping[str, Tensor], labels: Tensor, video_ids: Tensor, mask: Tensor | None) -> None:
        x, normal = self._chosen(features), ~labels
        if not bool(normal.any()):
            raise DataError("reference units come from normal videos", expected="normal training videos", got="none")
        videos = len(video_ids[normal].unique())
        if self.whole:
            numbers = node_numbers([x[name] for name in self.whole], mask)
            self.reference_units = choose_references(numbers, normal, self.references, mask)
            owners = video_ids[self.reference_units[:, 0]]
            require_several_videos(owners)
            counts = owners.unique(return_counts=True)[1]
            self.fewest.fill_(len(owners) - int(counts.max()))
        for name in self.whole:
            known, units = self.known_normals(name), self.reference_units
            known.fit_scales(column_scales(normal_rows(x[name], normal, mask), videos, self.pseudo_videos))
            known.fit_references(x[name][units[:, 0], units[:, 1]], owners, self.bandwidth_exponent)
        options = {"most": self.references, "exponent": self.bandwidth_exponent, "pseudo_videos": self.pseudo_videos}
        for name in self.units:
            self.known_units(name).fit_units(x[name], normal, video_ids, name=name, **options)
        self._fit_inside(x, normal, mask)
        readings = self._read(x, mask, video_ids)
        self._fit_usual(readings, normal, mask)
        if self.learns_operator:
            self._fit_fused(x, normal, video_ids, mask)
        tensors = [weakref.ref(tensor) for tensor in x.values()]
        versions = [tensor._version for tensor in x.values()]
        self._remembered = tensors, versions, video_ids, mask, readings

    def _fit_inside(self, x: Mapping[str, Tensor], normal: Tensor, mask: Tensor | None) -> None:
        """Bandwidth inside videos: geometric mean over normal nodes of the distance to the 3 nearest others of the video."""
        rows = {name: self._comparable(name, tensor[normal]) for name, tensor in x.items()}
        there = None if mask is None else mask[normal]
        numbers = node_numbers(list(rows.values()), there)
        for place, (name, values) in enumerate(rows.items()):
            spacing = []
            for bag in range(len(values)):
                exists = torch.ones_like(numbers[bag], dtype=torch.bool) if there is None else there[bag]
                spacing.append(_inside_spacing(values[bag][exists] / self.known_normals(name).near, numbers[bag][exists]))
            positive = torch.cat(spacing)
            positive = positive[positive > 0]
            self.inside_bandwidth[place] = positive.log().mean().exp() if len(positive) else 1.0

    def _fit_usual(self, readings: Readings, normal: Tensor, mask: Tensor | None) -> None:
        """Centres and scales of what the graphs say of normal bags (of departures: of all training bags)."""
        exists = torch.ones(readings.degree.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
        known = exists.to(readings.degree.device) & normal[:, None]
        degree = readings.degree[known].double()  # (rows, M, P)
        self.centre.copy_(_nanmean(degree))
        self.spread.copy_(_deviation((degree - self.centre).nan_to_num().sum((-1, -2))))
        inside = readings.inside[known].double()
        self.inside_centre.copy_(_nanmean(inside))
        self.inside_spread.copy_(_deviation((inside - self.inside_centre).nan_to_num().sum((-1, -2))))
        lengths = readings.lengths[exists.to(readings.lengths.device)].double()  # (rows, M)
        self.scale.copy_(_positive((lengths.square().mean(0) * len(self.modalities)).sqrt()))
        self.median.copy_(_positive((lengths / self.scale).median(0).values))

    def _fit_fused(self, x: Mapping[str, Tensor], normal: Tensor, video_ids: Tensor, mask: Tensor | None) -> None:
        found = self._inputs(dict(x), mask, video_ids, 1, None)
        graph = self._log_graph({name: found[name][..., : self.columns] for name in self.whole})
        degree = self._fused_degree(graph)
        known = normal[:, None].expand(degree.shape[:2]) if mask is None else mask & normal[:, None]
        self.fused_centre.copy_(degree[known].double().mean(0))

    def _recall(self, x: Mapping[str, Tensor], video_ids: Tensor, mask: Tensor | None) -> Readings | None:
        """The readings found while fitting, where these are the very tensors that were fitted on."""
        if self._remembered is None:
            return None
        tensors, versions, ids, known_mask, readings = self._remembered
        same = all(
            one() is tensor and tensor._version == version
            for one, tensor, version in zip(tensors, x.values(), versions, strict=True)
        )
        found: Readings = readings
        return found if same and known_mask is mask and torch.equal(ids, video_ids) else None

    def _inputs(
        self,
        x: dict[str, Tensor],
        mask: Tensor | None,
        video_ids: Tensor | None,
        crops: int,
        readings: Readings | None,
    ) -> dict[str, Tensor]:
        readings = self._read(x, mask, video_ids) if readings is None else readings
        count, nodes = readings.degree.shape[:2]
        degree = ((readings.degree - self.centre) / self.spread).nan_to_num()  # a node without units is like any other
        inside = ((readings.inside - self.inside_centre) / self.inside_spread).nan_to_num()
        found: dict[str, Tensor] = {}
        for place, name in enumerate(self.modalities):
            if self.learns_operator:
                found[name] = self._unfused(name, place, x[name], degree, inside, readings, video_ids)
                continue
            packed = degree.new_empty(count // crops, nodes, 2 * len(self.orders) + self.modalities[name])
            packed[..., : len(self.orders)] = _mean_over(degree[:, :, place], crops)
            packed[..., len(self.orders) : 2 * len(self.orders)] = _mean_over(inside[:, :, place], crops)
            for bags in _chunks(count, nodes * self.modalities[name], crops):
                departure = self._departure(name, place, x[name][bags], readings, bags)
                packed[bags.start // crops : bags.stop // crops, :, 2 * len(self.orders) :] = _mean_over(departure, crops)
            found[name] = packed
        return found

    def _departure(self, name: str, place: int, x: Tensor, readings: Readings, bags: slice) -> Tensor:
        """Scaled and bounded departures of some bags."""
        if name in self.units:
            departure = readings.units[name][bags]
        else:
            known = self.known_normals(name)
            expected = propagated(readings.weights[bags].flatten(0, 1), readings.columns[bags].flatten(0, 1), known.references)
            departure = (x - expected.view_as(x)) / known.full
        return bounded(departure / self.scale[place], self.median[place])

    def _read(self, x: Mapping[str, Tensor], mask: Tensor | None, video_ids: Tensor | None) -> Readings:
        first = next(iter(x.values()))
        count, nodes = first.shape[:2]
        shape = (count, nodes, len(self.modalities))
        degree = first.new_empty(*shape, len(self.orders))
        lengths, units = first.new_zeros(shape), dict[str, Tensor]()
        weights = first.new_zeros(count, nodes, 0)
        columns = torch.zeros(count, nodes, 0, dtype=torch.long, device=first.device)
        place = {name: number for number, name in enumerate(self.modalities)}
        if self.whole:
            for name in self.whole:
                self.known_normals(name).require_fitted()
            weights = first.new_empty(count, nodes, min(self.received, int(self.fewest)))
            columns = columns.new_empty(weights.shape)
            for bags in _chunks(count, nodes * self.columns * len(self.whole), 1):
                own = None if video_ids is None else video_ids[bags]
                part = {name: x[name][bags].flatten(0, 1) for name in self.whole}
                found, heaviest, which = self._relate(part, nodes, own, video_ids)
                for name in self.whole:
                    degree[bags, :, place[name]] = found[name].view(-1, nodes, len(self.orders))
                    known = self.known_normals(name)
                    moved = (part[name] - propagated(heaviest, which, known.references)) / known.full
                    lengths[bags, :, place[name]] = torch.linalg.vector_norm(moved, dim=-1).view(-1, nodes)
                weights[bags], columns[bags] = heaviest.view(-1, *weights.shape[1:]), which.view(-1, *columns.shape[1:])
        for name in self.units:
            fine = self.known_units(name)
            if video_ids is not None:
                fine.set_videos(video_ids)
            read = fine.read(x[name], self.orders, self.kept, self.received, own_bags=video_ids)
            degree[:, :, place[name]], units[name] = read.degree, read.departure
            lengths[:, :, place[name]] = torch.linalg.vector_norm(read.departure, dim=-1)
        return Readings(degree, self._inside(x, mask), weights, columns, lengths, units)

    def _relate(
        self, x: Mapping[str, Tensor], nodes: int, own: Tensor | None, video_ids: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Degrees by modality, and weights and columns that each row receives from, of rows of some bags."""
        kept, count = min(self.kept, int(self.fewest)), min(self.received, int(self.fewest))
        meets = None
        if own is not None and video_ids is not None:
            owners = self._owners(video_ids)
            meets = own.repeat_interleave(nodes)[:, None] == owners
        degree, entries = {}, {}
        for name, rows in x.items():
            surprise = self.known_normals(name).surprise(rows)
            if meets is not None:
                surprise = surprise.masked_fill_(meets, float("inf"))
            degree[name] = degrees(surprise.topk(kept, dim=-1, largest=False).values, self.orders)
            entries[name] = surprise
        return degree, *received(self._log_graph(entries), count)

    def _owners(self, video_ids: Tensor) -> Tensor:
        """Training video of each column; of those that were added, none."""
        bags = self.reference_units[:, 0]
        return torch.where(bags < 0, video_ids.min() - 1, video_ids[bags.clamp_min(0)])

    def _inside(self, x: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        rows = {name: self._comparable(name, tensor) for name, tensor in x.items()}
        numbers = node_numbers(list(rows.values()), mask)
        found = []
        for place, (name, values) in enumerate(rows.items()):
            near, bandwidth = self.known_normals(name).near, self.inside_bandwidth[place]
            parts = [
                inside_degrees(
                    values[bags] / near,
                    numbers[bags],
                    bandwidth,
                    self.orders,
                    None if mask is None else mask[bags],
                    self.window,
                )
                for bags in _chunks(len(values), values.shape[1] * values.shape[2], 1)
            ]
            found.append(torch.cat(parts))
        return torch.stack(found, dim=2)

    def _comparable(self, name: str, x: Tensor) -> Tensor:
        """One vector per node."""
        return mean_over_units(x) if name in self.units else x

    # ---- a learned operator

    def _unfused(
        self,
        name: str,
        place: int,
        x: Tensor,
        degree: Tensor,
        inside: Tensor,
        readings: Readings,
        video_ids: Tensor | None,
    ) -> Tensor:
        """What the learned stage needs of a modality: K surprises, degrees, inside degrees, and features or departures."""
        if name in self.units:
            bags = slice(0, len(x))
            return torch.cat([degree[:, :, place], inside[:, :, place], self._departure(name, place, x, readings, bags)], -1)
        surprise = self.known_normals(name).surprise(x)
        if video_ids is not None:
            owners = self._owners(video_ids)
            surprise = surprise.masked_fill((video_ids[:, None] == owners)[:, None], float("inf"))
        return torch.cat([surprise, degree[:, :, place], inside[:, :, place], x], dim=-1)

    def _log_graph(self, surprises: Mapping[str, Tensor]) -> Tensor:
        """log G of the operator; -inf where a column is a video's own."""
        if self.operator is None:
            raise DataError("there is no graph to fuse", expected="a modality of whole segments")
        return self.operator.log_entries(surprises)

    def _fused_degree(self, log_graph: Tensor) -> Tensor:
        kept = min(self.kept, int(self.fewest))
        return degrees(-log_graph.topk(kept, dim=-1).values, self.orders)

    def _learned(self, inputs: Mapping[str, Tensor], mask: Tensor | None) -> FusionOutput:
        powers, columns = len(self.orders), self.columns
        log_graph = self._log_graph({name: inputs[name][..., :columns] for name in self.whole})
        weights, which = received(log_graph, min(self.received, int(self.fewest)))
        fused = ((self._fused_degree(log_graph) - self.fused_centre) / self.spread).nan_to_num()
        degree, inside, departure = [], [], []
        for place, (name, width) in enumerate(self.modalities.items()):
            packed = inputs[name]
            if name not in self.units:
                known, packed = self.known_normals(name), packed[..., columns:]
            own_degree, own_inside, values = packed.split([powers, powers, width], dim=-1)
            if name not in self.units:
                expected = (weights[..., None] * known.references[which]).sum(-2)
                values = bounded((values - expected) / known.full / self.scale[place], self.median[place])
            degree.append(own_degree), inside.append(own_inside), departure.append(values)
        nodes = torch.cat([*degree, fused, *inside, *departure], dim=-1)
        return FusionOutput(mask_nodes(nodes, mask), log_graph.exp())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_remembered": None}  # of no use elsewhere

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + "reference_units")
        if stored is not None and stored.ndim == 2:
            self.reference_units = self.reference_units.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _operator(
    names: Sequence[str], choice: OperatorChoice, order: int, form: Form, rank: int | None, seed: int
) -> GraphOperator | None:
    """The operator over the graphs of whole segments: it starts as their product, G = prod_m R_m."""
    if not names:
        return None
    if choice == "fixed":
        operator = GraphOperator(names, 1, "rank1", start="product", noise=0.0)
        operator.requires_grad_(False)
        return operator
    return GraphOperator(names, order, form, rank=rank, start="product", seed=seed)


def _inside_spacing(x: Tensor, numbers: Tensor) -> Tensor:
    """Mean distance of each node of one video to its 3 nearest others, copies and neighbours in time apart."""
    squared = torch.cdist(x[None].double(), x[None].double())[0].square()
    squared = squared.masked_fill((numbers[:, None] - numbers).abs() <= 1, float("inf"))
    nearest = squared.topk(min(3, len(x)), largest=False).values
    there = nearest.isfinite()
    mean = nearest.masked_fill(~there, 0.0).sqrt().sum(-1) / there.sum(-1).clamp_min(1)
    return mean[there.any(-1)].to(x)


def _chunks(count: int, numbers: int, crops: int) -> Iterator[slice]:
    """Slices of bags whose graphs are held at a time; crops of one video stay together."""
    step = max(1, NUMBERS_AT_ONCE // max(1, numbers) // crops) * crops
    return (slice(first, min(count, first + step)) for first in range(0, count, step))


def _mean_over(values: Tensor, crops: int) -> Tensor:
    return values if crops == 1 else values.unflatten(0, (-1, crops)).mean(1)


def _nanmean(values: Tensor) -> Tensor:
    return values.nanmean(0).nan_to_num()


def _deviation(values: Tensor) -> Tensor:
    deviation = values.std() if len(values) > 1 else torch.zeros((), dtype=values.dtype, device=values.device)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.ones_like(values))
