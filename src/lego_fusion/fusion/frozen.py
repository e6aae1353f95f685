"""The frozen stage of the default fusion, apart from what is learned in ``lego``: graphs to known normals, and readings."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import DataError, ParameterError
from ..graph.operator import GraphOperator
from ..graph.readings import bounded, degrees, inside_degrees, propagated
from ..graph.references import choose_references, evenly_thinned, node_numbers, require_several_videos, spacings
from .base import at_least_single, mask_nodes
from .known import KnownNormals, KnownUnits, column_scales, normal_rows
from .options import LegoOptions
from .relation import mean_over_units

NUMBERS_AT_ONCE = 2**23  # entries of the graphs that are held at a time
PSEUDO_NODES = 2.0  # of the usual variance inside a video
MOST_BAGS = 2048  # evenly spread, on which it is seen what is usual


class Readings(NamedTuple):
    """What the graphs say of the nodes of some bags, before it is centred and scaled.

    Args:
        degree: phi_mp, (B, N, M, P).
        inside: phi'_mp in the graph inside the video, (B, N, M, P); NaN where there is nothing to compare with.
        departure: By modality, (B, N, D), in deviations among normals.
    """

    degree: Float[Tensor, "b n m p"]
    inside: Float[Tensor, "b n m p"]
    departure: dict[str, Float[Tensor, "b n _"]]

    def of(self, bags: slice) -> Readings:
        """Those of some of the bags."""
        return Readings(self.degree[bags], self.inside[bags], {name: one[bags] for name, one in self.departure.items()})


class Own(NamedTuple):
    """What training bags must not meet: columns that come from their own video.

    Args:
        bags: Video of each bag.
        columns: Video of each column.
    """

    bags: Int[Tensor, " b"]
    columns: Int[Tensor, " k"]


class FrozenReadings(nn.Module):
    """Known normals of every modality, and what degrees and departures are usual among them; all buffers.

    Args:
        modalities: Width of each.
        options: Of the fusion.
    """

    centre: Tensor  # (M, P)
    spread: Tensor
    inside_centre: Tensor
    inside_spread: Tensor
    inside_bandwidth: Tensor  # (M,)
    scale: Tensor  # (M,), of departures
    median: Tensor  # (M,)
    farthest: Tensor  # (M,): the largest of the training videos' median distances to the known normals
    fewest: Tensor  # columns that every training video meets at least
    reference_units: Tensor  # (K, 2): training bag and node of each column; -1 where it was added

    def __init__(self, modalities: Mapping[str, int], options: LegoOptions) -> None:
        super().__init__()
        self.modalities, self.units, self.options = dict(modalities), options.units, options
        self.whole = [name for name in self.modalities if name not in self.units]  # of one vector per node
        self.product = GraphOperator(self.whole, 1, "rank1", start="product", noise=0.0) if self.whole else None
        if self.product is not None:  # G = prod_m R_m, whatever is learned later
            self.product.requires_grad_(False)
        self.known = nn.ModuleDict()
        for name, width in self.modalities.items():
            groups = self.units.get(name)
            self.known[name] = (
                KnownNormals(width) if groups is None else KnownUnits(width, groups=groups, most_novel=options.most_novel)
            )
        count, powers = len(self.modalities), len(options.orders)
        for buffer in ("centre", "inside_centre"):
            self.register_buffer(buffer, torch.zeros(count, powers))
        for buffer in ("spread", "inside_spread"):
            self.register_buffer(buffer, torch.ones(()))
        for buffer in ("inside_bandwidth", "scale", "median", "farthest"):
            self.register_buffer(buffer, torch.ones(count))
        self.register_buffer("fewest", torch.tensor(0))
        self.register_buffer("reference_units", torch.zeros(0, 2, dtype=torch.long))
        self._fewest = 0  # the same as a number, which an exported graph has as a constant
        self._remembered: tuple[Any, ...] | None = None

    @property
    def kept(self) -> int:
        """Entries of a row that a degree sees: fewer than asked for where a training video meets fewer."""
        return min(self.options.kept, self._fewest)

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
    ) -> None:
        """Know the segments of the normal training bags, and what is usual among them.

        Raises:
            DataError: If fewer than two normal videos are given.
        """
        if not bool(normal.any()):
            raise DataError("reference units come from normal videos", expected="normal training videos", got="none")
        videos, options = len(video_ids[normal].unique()), self.options
        if self.whole:
            self._fit_columns(x, normal, video_ids, mask, videos)
        else:
            self._know_at_least(options.kept)
        known: dict[str, Any] = {"most": options.references, "exponent": options.bandwidth_exponent}
        known |= {"pseudo_videos": options.pseudo_videos}
        for name in self.units:
            self.units_of(name).fit_units(x[name], normal, video_ids, name=name, **known)
        self._fit_inside(x, normal, mask)
        some = evenly_thinned(torch.arange(len(normal), device=normal.device), MOST_BAGS)
        every = len(some) == len(normal)  # else they are read again by whoever trains, a few at a time
        part = dict(x) if every else {name: tensor[some] for name, tensor in x.items()}
        readings = self.read(part, _of(mask, some), self.own(video_ids[some], video_ids))
        self._fit_usual(readings, normal[some], _of(mask, some))
        tensors = [(weakref.ref(tensor), tensor._version) for tensor in x.values()]
        self._remembered = (tensors, video_ids, mask, readings) if every else None

    def remembered(self, x: Mapping[str, Tensor], video_ids: Tensor, mask: Tensor | None) -> Readings | None:
        """The readings found while fitting, where these are the very tensors that were fitted on."""
        if self._remembered is None:
            return None
        tensors, ids, known_mask, readings = self._remembered
        pairs = zip(tensors, x.values(), strict=True)
        same = all(one() is tensor and tensor._version == version for (one, version), tensor in pairs)
        found: Readings = readings
        return found if same and known_mask is mask and torch.equal(ids, video_ids) else None

    def new_places(
        self, x: Mapping[str, Float[Tensor, "b n d"]], mask: Bool[Tensor, "b n"] | None, most: int
    ) -> Int[Tensor, "u two"]:
        """Bag and node of the distinct segments that are not known yet, evenly thinned."""
        self._require_whole()
        first = next(iter(x.values()))
        everything = torch.ones(len(first), dtype=torch.bool, device=first.device)
        places = choose_references(node_numbers(list(x.values()), mask), everything, first[..., 0].numel(), mask)
        rows = torch.cat([values[places[:, 0], places[:, 1]] for values in x.values()], dim=1)
        known = torch.cat([self.of(name).references for name in x], dim=1)
        return evenly_thinned(places[_first_of_each(torch.cat([known, rows]))[len(known) :]], most)

    def _require_whole(self) -> None:
        if self.units:
            got = f"units of {', '.join(self.units)}"
            raise ParameterError("known segments can be added where all modalities have one vector", got=got, fix="train again")

    def add(self, x: Mapping[str, Float[Tensor, "u d"]], videos: Int[Tensor, " u"]) -> None:
        """Know more normal segments: new columns of every graph; the others stay as they are."""
        self._require_whole()
        for name, values in x.items():
            self.of(name).add_references(values, videos, self.options.bandwidth_exponent)
        nowhere = self.reference_units.new_full((len(videos), 2), -1)  # in no training bag
        self.reference_units = torch.cat([self.reference_units, nowhere])
        self._remembered = None

    def own(self, bags: Int[Tensor, " b"], video_ids: Int[Tensor, " v"]) -> Own:
        """What some training bags must not meet.

        Args:
            bags: Video of each bag.
            video_ids: Video of every training bag.
        """
        for name in self.units:
            self.units_of(name).set_videos(video_ids)
        return Own(bags, video_ids[self.reference_units[:, 0].clamp_min(0)])

    def read(
        self,
        x: Mapping[str, Float[Tensor, "b n ..."]],
        mask: Bool[Tensor, "b n"] | None,
        own: Own | None = None,
        *,
        inside: bool = True,
    ) -> Readings:
        """Degrees and departures of bags; with ``own`` of training bags, cross-fitted; inside NaN if not asked for."""
        degree, departure = dict[str, Tensor](), dict[str, Tensor]()
        product = self.product
        if product is not None:
            for name in self.whole:
                self.of(name).require_fitted()
            first = x[self.whole[0]]

            def read_some(bags: slice) -> list[Tensor]:
                part = {name: x[name][bags] for name in self.whole}
                return self._read_whole(part, product, None if own is None else Own(own.bags[bags], own.columns))

            numbers = first.shape[1] * len(self.reference_units) * len(self.whole)
            found = in_parts(read_some, first.shape[0], numbers)
            degree = dict(zip(self.whole, found[: len(self.whole)], strict=True))
            departure = dict(zip(self.whole, found[len(self.whole) :], strict=True))
        for name in self.units:
            read = self.units_of(name).read(
                x[name], self.options.orders, self.options.kept, own_bags=None if own is None else own.bags
            )
            degree[name], departure[name] = read.degree, read.departure
        degrees_ = torch.stack([degree[name] for name in self.modalities], dim=2)
        beside = self.inside(x, mask) if inside else torch.full_like(degrees_, float("nan"))
        return Readings(degrees_, beside, {name: departure[name] for name in self.modalities})

    def _read_whole(self, x: Mapping[str, Tensor], product: GraphOperator, own: Own | None) -> list[Tensor]:
        """Degrees of each modality of whole segments, then departures of each."""
        nodes = next(iter(x.values())).shape[1]
        rows = {name: at_least_single(tensor.flatten(0, 1)) for name, tensor in x.items()}
        entries = self.surprises(rows, own, nodes)
        known = [self.of(name).references for name in rows]
        expected = propagated(product.log_entries(entries), known, len(rows))
        nearest = [entries[name].topk(self.kept, dim=-1, largest=False).values for name in rows]
        found = [degrees(one, self.options.orders) for one in nearest]
        found += [(rows[name] - middle) / self.of(name).full for name, middle in zip(rows, expected, strict=True)]
        return [one.unflatten(0, (-1, nodes)) for one in found]

    def unlikeness(self, readings: Readings) -> Float[Tensor, "b n m"]:
        """Distance to the nearest known normals, in units of how far these lie apart, over the largest usual one."""
        return (_distances(readings.degree) / self.farthest).nan_to_num()

    def surprises(
        self, rows: Mapping[str, Float[Tensor, "r d"]], own: Own | None, nodes: int | torch.SymInt
    ) -> dict[str, Float[Tensor, "r k"]]:
        """-log R of rows to every column by modality of whole segments; infinite in a video's own columns.

        Args:
            rows: Nodes of some bags, one after the other.
            own: What those bags must not meet.
            nodes: N, rows of a bag.
        """
        found = {name: self.of(name).surprise(values) for name, values in rows.items()}
        if own is None:
            return found
        meets = own.bags.repeat_interleave(nodes)[:, None] == own.columns
        return {name: surprise.masked_fill_(meets, float("inf")) for name, surprise in found.items()}

    def bounded(self, name: str, departure: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """A departure in units of the usual one, and bounded."""
        place = list(self.modalities).index(name)
        return bounded(departure / self.scale[place], self.median[place])

    def usual(self, readings: Readings) -> tuple[Float[Tensor, "b n m p"], Float[Tensor, "b n m p"]]:
        """Degrees and inside degrees, centred and scaled; 0, as of a typical normal node, where there is nothing to tell."""
        degree = ((readings.degree - self.centre) / self.spread).nan_to_num()
        return degree, ((readings.inside - self.inside_centre) / self.inside_spread).nan_to_num()

    def inside(self, x: Mapping[str, Tensor], mask: Tensor | None, *, last: int | None = None) -> Float[Tensor, "b r m p"]:
        """Degrees in the graph inside each video; of so many nodes at the end only, if that is said."""
        orders, window, found = self.options.orders, self.options.window, []
        for rows, there in self._comparable(x, mask):
            numbers = node_numbers(list(rows.values()), there)
            own = (self._by_own_scale(name, values, there) for name, values in rows.items())
            scaled = zip(own, self.inside_bandwidth, strict=True)
            one = [inside_degrees(values, numbers, width, orders, there, window, last=last) for values, width in scaled]
            found.append(torch.stack(one, dim=2))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _fit_columns(
        self, x: Mapping[str, Tensor], normal: Tensor, video_ids: Tensor, mask: Tensor | None, videos: int
    ) -> None:
        numbers = [node_numbers([rows[name] for name in self.whole], there) for rows, there in self._comparable(x, mask)]
        self.reference_units = choose_references(torch.cat(numbers), normal, self.options.references, mask)
        owners = video_ids[self.reference_units[:, 0]]
        require_several_videos(owners)
        self._know_at_least(len(owners) - int(owners.unique(return_counts=True)[1].max()))
        for name in self.whole:
            known, units = self.of(name), self.reference_units
            known.fit_scales(column_scales(normal_rows(x[name], normal, mask), videos, self.options.pseudo_videos))
            known.fit_references(x[name][units[:, 0], units[:, 1]], owners, self.options.bandwidth_exponent)

    def _by_own_scale(self, name: str, x: Float[Tensor, "b n d"], mask: Tensor | None) -> Float[Tensor, "b n d"]:
        """Nodes divided by how much each column varies inside their own video: what is still elsewhere may be busy here.

        Column c by sqrt( (N v_c + 2 u_c) / (N + 2) ), v_c its variance over the N nodes of the video and u_c that inside a
        usual normal video, as two pseudo-nodes. A stream has not seen its video yet, so there it is sqrt(u_c).
        """
        within = self.of(name).within
        if self.options.window is not None:
            return x / within.sqrt()
        there = torch.ones_like(x[..., 0]) if mask is None else mask.to(x)
        count = there.sum(1)[:, None, None]  # also where an export takes any number of bags and nodes
        shifted = x - x.sum(1, keepdim=True) / count.clamp_min(1)
        variance = mask_nodes(shifted, mask).square().sum(1, keepdim=True)  # times N
        return shifted / ((variance + PSEUDO_NODES * within) / (count + PSEUDO_NODES)).sqrt()

    def _fit_inside(self, x: Mapping[str, Tensor], normal: Tensor, mask: Tensor | None) -> None:
        """How much columns vary inside a normal video, and the bandwidth there.

        The bandwidth is the geometric mean over normal nodes of the distance to the 3 nearest others of the video.
        """
        bags = evenly_thinned(normal.nonzero()[:, 0], MOST_BAGS)
        self._fit_within(x, bags, mask)
        spacing: dict[str, list[Tensor]] = {name: [] for name in x}
        for rows, there in self._comparable(x, mask, bags):
            numbers = node_numbers(list(rows.values()), there)
            exists = torch.ones_like(numbers, dtype=torch.bool) if there is None else there
            for name, values in rows.items():
                near = spacings(self._by_own_scale(name, values, there), numbers, apart=1, exists=exists)
                spacing[name].append(near[exists])
        for place, parts in enumerate(spacing.values()):
            positive = torch.cat(parts)
            positive = positive[positive > 0]
            self.inside_bandwidth[place] = positive.log().mean().exp() if len(positive) else 1.0

    def _fit_within(self, x: Mapping[str, Tensor], bags: Int[Tensor, " b"], mask: Tensor | None) -> None:
        """Mean over normal bags of the variance of each column inside a bag, steadied by pseudo-videos of mean variance."""
        total = {name: torch.zeros(width, dtype=torch.float64, device=bags.device) for name, width in self.modalities.items()}
        for rows, there in self._comparable(x, mask, bags):
            for name, values in rows.items():
                count = values.shape[1] if there is None else there.sum(1).clamp_min(1)[:, None, None].double()
                shifted = values.double() - values.sum(1, keepdim=True, dtype=torch.float64) / count
                total[name] += (mask_nodes(shifted, there).square().sum(1, keepdim=True) / count).sum((0, 1))
        videos, pseudo = len(bags), self.options.pseudo_videos
        for name, variance in total.items():
            steadied = (variance + pseudo * variance.mean() / videos) / (videos + pseudo)
            self.of(name).within = _positive(steadied).to(self.of(name).near)

    def _fit_usual(self, readings: Readings, normal: Tensor, mask: Tensor | None) -> None:
        """Centres and scales of what the graphs say of normal bags (of departures: of all training bags)."""
        exists = torch.ones_like(readings.degree[..., 0, 0], dtype=torch.bool) if mask is None else mask
        known = exists & normal[:, None]
        degree, inside = readings.degree[known].double(), readings.inside[known].double()  # (rows, M, P)
        self.centre.copy_(degree.nanmean(0).nan_to_num())
        self.spread.copy_(_deviation((degree - self.centre).nan_to_num().sum((-1, -2))))
        self.inside_centre.copy_(inside.nanmean(0).nan_to_num())
        self.inside_spread.copy_(_deviation((inside - self.inside_centre).nan_to_num().sum((-1, -2))))
        moved = [torch.linalg.vector_norm(one, dim=-1)[exists] for one in readings.departure.values()]
        lengths = torch.stack(moved, dim=-1).double()  # (rows, M)
        self.scale.copy_(_positive((lengths.square().mean(0) * len(self.modalities)).sqrt()))
        self.median.copy_(_positive((lengths / self.scale).median(0).values))
        distances = _distances(readings.degree).masked_fill(~exists[..., None], float("nan"))
        self.farthest.copy_(_positive(distances.nanmedian(1).values.nan_to_num().amax(0)))

    def _know_at_least(self, columns: int) -> None:
        self._fewest = columns
        self.fewest.fill_(columns)

    def _comparable(
        self, x: Mapping[str, Tensor], mask: Tensor | None, bags: Int[Tensor, " b"] | None = None
    ) -> Iterator[tuple[dict[str, Float[Tensor, "b n _"]], Bool[Tensor, "b n"] | None]]:
        """One vector per node and modality, zero where masked, and the mask: a few bags at a time, of all or of some."""
        first = next(iter(x.values()))
        nodes, width = first.shape[1], max(math.prod(tensor.shape[2:]) for tensor in x.values())
        for part in chunks(first.shape[0] if bags is None else len(bags), nodes * max(nodes, width), 1):
            some = part if bags is None else bags[part]
            there = None if mask is None else mask[some]
            rows = {name: at_least_single(tensor[some]) for name, tensor in x.items()}
            whole = {name: mean_over_units(values) if name in self.units else values for name, values in rows.items()}
            yield {name: mask_nodes(values, there) for name, values in whole.items()}, there

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_remembered": None}  # of no use elsewhere

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + "reference_units")
        if stored is not None and stored.ndim == 2:
            self.reference_units = self.reference_units.new_empty(stored.shape)
        self._fewest = int(state_dict.get(prefix + "fewest", self.fewest))
        super()._load_from_state_dict(state_dict, prefix, *args)


def chunks(count: int | torch.SymInt, numbers: int | torch.SymInt, crops: int) -> Iterator[slice]:
    """Slices of bags of so many numbers each that are held at a time; crops of one video stay together."""
    if torch.compiler.is_exporting():  # an exported graph takes any number of bags, so no loop over them
        return iter([slice(None)])
    count, numbers = int(count), int(numbers)
    step = max(1, NUMBERS_AT_ONCE // max(1, numbers) // crops) * crops
    return (slice(first, min(count, first + step)) for first in range(0, count, step))


def in_parts(
    make: Callable[[slice], list[Tensor]],
    count: int | torch.SymInt,
    numbers: int | torch.SymInt,
    *,
    crops: int = 1,
    pooled: int = 1,
) -> list[Tensor]:
    """What ``make`` gives of all bags, a few of them at a time; for every ``pooled`` crops of a video it gives one."""
    slices = list(chunks(count, numbers, crops))
    if len(slices) == 1:
        return make(slices[0])
    found: list[Tensor] = []
    for bags in slices:
        made = make(bags)
        found = found or [one.new_empty(count // pooled, *one.shape[1:]) for one in made]
        for whole, one in zip(found, made, strict=True):
            whole[bags.start // pooled : bags.stop // pooled] = one
    return found


def _distances(degree: Float[Tensor, "b n m p"]) -> Float[Tensor, "b n m"]:
    """Ratio d / s from the first degree: exp(2 phi) = 1 + d^2 / s^2 where all kept references are equally far."""
    return torch.expm1(2 * degree[..., 0]).clamp_min(0).sqrt()


def _first_of_each(rows: Float[Tensor, "u d"]) -> Bool[Tensor, " u"]:
    """True where no earlier row is the same."""
    which = torch.unique(rows, dim=0, return_inverse=True)[1]
    index = torch.arange(len(rows), device=rows.device)
    first = index.new_full((int(which.max()) + 1,), len(rows)).scatter_reduce_(0, which, index, reduce="amin")
    return first[which] == index


def _of(mask: Tensor | None, bags: Tensor) -> Tensor | None:
    return None if mask is None else mask if len(bags) == len(mask) else mask[bags]


def _deviation(values: Tensor) -> Tensor:
    deviation = values.std() if len(values) > 1 else torch.zeros((), dtype=values.dtype, device=values.device)
    return _positive(deviation)


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.ones_like(values))
