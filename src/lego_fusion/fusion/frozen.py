"""The frozen stage of the default fusion: what is known of normal videos, and what the graphs to it say of a node."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import DataError, ParameterError
from ..graph.operator import GraphOperator
from ..graph.readings import bounded, degrees, inside_degrees, propagated, received
from ..graph.references import choose_references, node_numbers, require_several_videos, spacings
from .base import mask_nodes
from .known import KnownNormals, column_scales, normal_rows
from .known_units import KnownUnits
from .units import mean_over_units

NUMBERS_AT_ONCE = 2**23  # entries of the graphs that are held at a time


class Settings(NamedTuple):
    """What ``LegoFusion`` is told of its frozen stage; see there."""

    references: int
    kept: int
    received: int
    orders: tuple[int, ...]
    bandwidth_exponent: float
    pseudo_videos: float
    window: int | None
    most_novel: int


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


class FrozenReadings(nn.Module):
    """Known normals of every modality, and what degrees and departures are usual among them; all buffers.

    Args:
        modalities: Width of each.
        units: Groups of those whose nodes hold finer units.
        settings: See there.
    """

    centre: Tensor  # (M, P)
    spread: Tensor
    inside_centre: Tensor
    inside_spread: Tensor
    inside_bandwidth: Tensor  # (M,)
    scale: Tensor  # (M,), of departures
    median: Tensor  # (M,)
    fewest: Tensor  # columns that every training video meets at least
    reference_units: Tensor  # (K, 2): training bag and node of each column; -1 where it was added

    def __init__(self, modalities: Mapping[str, int], units: Mapping[str, int], settings: Settings) -> None:
        super().__init__()
        self.modalities, self.units, self.settings = dict(modalities), dict(units), settings
        self.whole = [name for name in self.modalities if name not in self.units]  # of one vector per node
        self.known = nn.ModuleDict()
        for name, width in self.modalities.items():
            groups = units.get(name)
            fine = groups is not None
            self.known[name] = (
                KnownUnits(width, groups=units[name], most_novel=settings.most_novel) if fine else KnownNormals(width)
            )
        count, powers = len(self.modalities), len(settings.orders)
        for buffer in ("centre", "inside_centre"):
            self.register_buffer(buffer, torch.zeros(count, powers))
        for buffer in ("spread", "inside_spread"):
            self.register_buffer(buffer, torch.ones(()))
        for buffer in ("inside_bandwidth", "scale", "median"):
            self.register_buffer(buffer, torch.ones(count))
        self.register_buffer("fewest", torch.tensor(0))
        self.register_buffer("reference_units", torch.zeros(0, 2, dtype=torch.long))
        self._remembered: tuple[Any, ...] | None = None

    @property
    def kept(self) -> int:
        """Entries of a row that a degree sees: fewer than asked for where a training video meets fewer."""
        return min(self.settings.kept, int(self.fewest))

    @property
    def received(self) -> int:
        """Entries of a row of G that propagate."""
        return min(self.settings.received, int(self.fewest))

    def of(self, name: str) -> KnownNormals:
        """What is known of a modality."""
        known = self.known[name]
        if not isinstance(known, KnownNormals):  # for the type checker: nothing else is put there
            raise TypeError(type(known))
        return known

    def units_of(self, name: str) -> KnownUnits:
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
    def fit(
        self,
        x: Mapping[str, Float[Tensor, "v n ..."]],
        normal: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        mask: Bool[Tensor, "v n"] | None,
        operator: GraphOperator | None,
    ) -> None:
        """Know the segments of the normal training bags, and what is usual among them.

        Raises:
            DataError: If fewer than two normal videos are given.
        """
        if not bool(normal.any()):
            raise DataError("reference units come from normal videos", expected="normal training videos", got="none")
        videos, settings = len(video_ids[normal].unique()), self.settings
        if self.whole:
            self._fit_columns(x, normal, video_ids, mask, videos)
        else:
            self.fewest.fill_(max(settings.kept, settings.received))
        options: dict[str, Any] = {"most": settings.references, "exponent": settings.bandwidth_exponent}
        options |= {"pseudo_videos": settings.pseudo_videos}
        for name in self.units:
            self.units_of(name).fit_units(x[name], normal, video_ids, name=name, **options)
        self._fit_inside(x, normal, mask)
        readings = self.read(x, mask, video_ids, operator)
        self._fit_usual(readings, normal, mask)
        tensors = [(weakref.ref(tensor), tensor._version) for tensor in x.values()]
        self._remembered = tensors, video_ids, mask, readings

    def remembered(self, x: Mapping[str, Tensor], video_ids: Tensor, mask: Tensor | None) -> Readings | None:
        """The readings found while fitting, where these are the very tensors that were fitted on."""
        if self._remembered is None:
            return None
        tensors, ids, known_mask, readings = self._remembered
        pairs = zip(tensors, x.values(), strict=True)
        same = all(one() is tensor and tensor._version == version for (one, version), tensor in pairs)
        found: Readings = readings
        return found if same and known_mask is mask and torch.equal(ids, video_ids) else None

    def add(self, x: Mapping[str, Float[Tensor, "u d"]], videos: Int[Tensor, " u"]) -> None:
        """Know more normal segments: new columns of every graph; the others stay as they are."""
        if self.units:
            got = f"units of {', '.join(self.units)}"
            raise ParameterError("known segments can be added where all modalities have one vector", got=got, fix="train again")
        for name, values in x.items():
            self.of(name).add_references(values, videos, self.settings.bandwidth_exponent)
        nowhere = self.reference_units.new_full((len(videos), 2), -1)  # in no training bag
        self.reference_units = torch.cat([self.reference_units, nowhere])
        self._remembered = None

    def read(
        self,
        x: Mapping[str, Float[Tensor, "b n ..."]],
        mask: Bool[Tensor, "b n"] | None,
        video_ids: Int[Tensor, " b"] | None,
        operator: GraphOperator | None,
    ) -> Readings:
        """Degrees and departures of bags; with ``video_ids`` of training bags, cross-fitted."""
        first = next(iter(x.values()))
        count, nodes = first.shape[:2]
        degree = first.new_empty(count, nodes, len(self.modalities), len(self.settings.orders))
        lengths, units = first.new_zeros(count, nodes, len(self.modalities)), dict[str, Tensor]()
        place = {name: number for number, name in enumerate(self.modalities)}
        weights = first.new_zeros(count, nodes, self.received if self.whole else 0)
        columns = torch.zeros(weights.shape, dtype=torch.long, device=first.device)
        if self.whole and operator is not None:
            for name in self.whole:
                self.of(name).require_fitted()
            for bags in chunks(count, nodes * len(self.reference_units) * len(self.whole), 1):
                part = {name: x[name][bags].flatten(0, 1) for name in self.whole}
                entries = self.surprises(part, None if video_ids is None else video_ids[bags], video_ids, nodes)
                with torch.set_grad_enabled(torch.is_grad_enabled() and operator.is_product):  # else it is learned later
                    heaviest, which = received(operator.log_entries(entries), self.received)
                for name in self.whole:
                    nearest = entries[name].topk(self.kept, dim=-1, largest=False).values
                    degree[bags, :, place[name]] = degrees(nearest, self.settings.orders).unflatten(0, (-1, nodes))
                    moved = (part[name] - propagated(heaviest, which, self.of(name).references)) / self.of(name).full
                    lengths[bags, :, place[name]] = torch.linalg.vector_norm(moved, dim=-1).unflatten(0, (-1, nodes))
                weights[bags], columns[bags] = heaviest.unflatten(0, (-1, nodes)), which.unflatten(0, (-1, nodes))
        for name in self.units:
            fine = self.units_of(name)
            if video_ids is not None:
                fine.set_videos(video_ids)
            read = fine.read(x[name], self.settings.orders, self.settings.kept, self.settings.received, own_bags=video_ids)
            degree[:, :, place[name]], units[name] = read.degree, read.departure
            lengths[:, :, place[name]] = torch.linalg.vector_norm(read.departure, dim=-1)
        return Readings(degree, self.inside(x, mask), weights, columns, lengths, units)

    def surprises(
        self, rows: Mapping[str, Float[Tensor, "r d"]], own: Tensor | None, video_ids: Tensor | None, nodes: int
    ) -> dict[str, Float[Tensor, "r k"]]:
        """-log R of rows to every column by modality of whole segments; infinite in a video's own columns.

        Args:
            rows: Nodes of some bags, one after the other.
            own: Video of each bag, where it must not meet itself.
            video_ids: Video of each training bag.
            nodes: N, rows of a bag.
        """
        found = {name: self.of(name).surprise(values) for name, values in rows.items()}
        if own is not None and video_ids is not None:
            owners = video_ids[self.reference_units[:, 0]]
            meets = own.repeat_interleave(nodes)[:, None] == owners
            found = {name: surprise.masked_fill_(meets, float("inf")) for name, surprise in found.items()}
        return found

    def departure(self, name: str, x: Tensor, readings: Readings, bags: slice) -> Float[Tensor, "b n d"]:
        """Scaled and bounded departures of some bags."""
        place = list(self.modalities).index(name)
        if name in self.units:
            moved = readings.units[name][bags]
        else:
            known = self.of(name)
            weights, columns = readings.weights[bags].flatten(0, 1), readings.columns[bags].flatten(0, 1)
            moved = (x[bags] - propagated(weights, columns, known.references).view_as(x[bags])) / known.full
        return bounded(moved / self.scale[place], self.median[place])

    def usual(self, readings: Readings) -> tuple[Float[Tensor, "b n m p"], Float[Tensor, "b n m p"]]:
        """Degrees and inside degrees, centred and scaled; 0, as of a typical normal node, where there is nothing to tell."""
        degree = ((readings.degree - self.centre) / self.spread).nan_to_num()
        return degree, ((readings.inside - self.inside_centre) / self.inside_spread).nan_to_num()

    def inside(self, x: Mapping[str, Tensor], mask: Tensor | None) -> Float[Tensor, "b n m p"]:
        """Degrees in the graph inside each video."""
        rows = {name: mask_nodes(self._comparable(name, tensor), mask) for name, tensor in x.items()}
        numbers, window = node_numbers(list(rows.values()), mask), self.settings.window
        found = []
        for place, (name, values) in enumerate(rows.items()):
            near, bandwidth = self.of(name).near, self.inside_bandwidth[place]
            parts = [
                inside_degrees(
                    values[bags] / near,
                    numbers[bags],
                    bandwidth,
                    self.settings.orders,
                    None if mask is None else mask[bags],
                    window,
                )
                for bags in chunks(len(values), values.shape[1] * max(values.shape[1], values.shape[2]), 1)
            ]
            found.append(torch.cat(parts))
        return torch.stack(found, dim=2)

    def _fit_columns(
        self, x: Mapping[str, Tensor], normal: Tensor, video_ids: Tensor, mask: Tensor | None, videos: int
    ) -> None:
        numbers = node_numbers([x[name] for name in self.whole], mask)
        self.reference_units = choose_references(numbers, normal, self.settings.references, mask)
        owners = video_ids[self.reference_units[:, 0]]
        require_several_videos(owners)
        self.fewest.fill_(len(owners) - int(owners.unique(return_counts=True)[1].max()))
        for name in self.whole:
            known, units = self.of(name), self.reference_units
            known.fit_scales(column_scales(normal_rows(x[name], normal, mask), videos, self.settings.pseudo_videos))
            known.fit_references(x[name][units[:, 0], units[:, 1]], owners, self.settings.bandwidth_exponent)

    def _fit_inside(self, x: Mapping[str, Tensor], normal: Tensor, mask: Tensor | None) -> None:
        """Bandwidth inside videos: geometric mean over normal nodes of the distance to the 3 nearest others of the video."""
        rows = {name: self._comparable(name, tensor[normal]) for name, tensor in x.items()}
        there = torch.ones(next(iter(rows.values())).shape[:2], dtype=torch.bool) if mask is None else mask[normal]
        numbers = node_numbers(list(rows.values()), there)
        for place, (name, values) in enumerate(rows.items()):
            near = self.of(name).near
            found = [
                spacings(bag[exists] / near, number[exists], apart=1) for bag, number, exists in zip(values, numbers, there)
            ]
            spacing = torch.cat(found)
            positive = spacing[spacing > 0]
            self.inside_bandwidth[place] = positive.log().mean().exp() if len(positive) else 1.0

    def _fit_usual(self, readings: Readings, normal: Tensor, mask: Tensor | None) -> None:
        """Centres and scales of what the graphs say of normal bags (of departures: of all training bags)."""
        exists = torch.ones_like(readings.degree[..., 0, 0], dtype=torch.bool) if mask is None else mask
        known = exists & normal[:, None]
        degree, inside = readings.degree[known].double(), readings.inside[known].double()  # (rows, M, P)
        self.centre.copy_(degree.nanmean(0).nan_to_num())
        self.spread.copy_(_deviation((degree - self.centre).nan_to_num().sum((-1, -2))))
        self.inside_centre.copy_(inside.nanmean(0).nan_to_num())
        self.inside_spread.copy_(_deviation((inside - self.inside_centre).nan_to_num().sum((-1, -2))))
        lengths = readings.lengths[exists].double()  # (rows, M)
        self.scale.copy_(_positive((lengths.square().mean(0) * len(self.modalities)).sqrt()))
        self.median.copy_(_positive((lengths / self.scale).median(0).values))

    def _comparable(self, name: str, x: Tensor) -> Tensor:
        """One vector per node."""
        return mean_over_units(x) if name in self.units else x

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_remembered": None}  # of no use elsewhere

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + "reference_units")
        if stored is not None and stored.ndim == 2:
            self.reference_units = self.reference_units.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def chunks(count: int, numbers: int, crops: int) -> Iterator[slice]:
    """Slices of bags of so many numbers each that are held at a time; crops of one video stay together."""
    step = max(1, NUMBERS_AT_ONCE // max(1, numbers) // crops) * crops
    return (slice(first, min(count, first + step)) for first in range(0, count, step))


def _deviation(values: Tensor) -> Tensor:
    deviation = values.std() if len(values) > 1 else torch.zeros((), dtype=values.dtype, device=values.device)
    return _positive(deviation)


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.ones_like(values))
