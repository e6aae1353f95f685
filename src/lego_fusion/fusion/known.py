"""Known normals: one modality's scale, reference units and density, and how finer units are read against known units.

Features of a fine modality are (B, N, U, D + 1): N nodes of U units, the last column being 1 where a unit is present and 0
where it is not. Units come in groups (rows of a grid of cells) that are known apart: place u of U belongs to group
u // (U / G).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import DataError, check_int
from ..graph.distances import Points, prepare
from ..graph.readings import degrees, propagated, surprise
from ..graph.references import evenly_thinned, local_bandwidths, spacings
from .relation import mean_over_units

BAGS_AT_ONCE = 4  # in float64 at a time


class Scales(NamedTuple):
    """Scale of each column.

    Args:
        near: For distances, sqrt((V v_c + q mean_c v_c) / (V + q)): V normal videos and q pseudo-videos of mean variance, so
            that one rule serves few and many.
        full: For departures, the deviation among normals itself; 1 where a column is constant.
    """

    near: Float[Tensor, " d"]
    full: Float[Tensor, " d"]


def column_scales(rows: Iterator[Float[Tensor, "r d"]], videos: int, pseudo_videos: float) -> Scales:
    """Scales from the rows of normal videos, given in parts.

    Raises:
        DataError: If there is no row, or a value leaves the range of floats when squared.
    """
    count, shift = 0, None
    total, squares = torch.zeros(()), torch.zeros(())
    for part in rows:
        if not len(part):
            continue
        part = part.double()
        shift = part[0] if shift is None else shift  # near the mean, so that squares do not cancel
        total, squares = total + (part - shift).sum(0), squares + (part - shift).square().sum(0)
        count += len(part)
    if not count:
        raise DataError("there is nothing normal to know", expected="features of normal training videos", got="none")
    variance = (squares / count - (total / count).square()).clamp_min(0)
    if not bool(variance.isfinite().all()):
        fix = "rescale them, or look for a damaged file with `lego-fusion doctor`"
        raise DataError("features leave the range of numbers when squared", expected="finite values", fix=fix)
    shrunk = (videos * variance + pseudo_videos * variance.mean()) / (videos + pseudo_videos)
    return Scales(_positive(shrunk.sqrt()).float(), _positive(variance.sqrt()).float())


class KnownNormals(nn.Module):
    """Reference units of one modality, all buffers; those that follow from others are not stored.

    Args:
        width: D.
    """

    sized: ClassVar[tuple[str, ...]] = ("references", "bandwidth")  # buffers as large as what is known
    near: Tensor
    full: Tensor
    within: Tensor  # (D,), variance of a column inside a normal video
    references: Tensor  # (K, D), as extracted
    bandwidth: Tensor  # (K,)
    common: Tensor
    point_centre: Tensor  # (1, D): what distances to references / near need
    point_rows: Tensor  # (K, D)
    point_squares: Tensor  # (K,)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("near", torch.ones(width))
        self.register_buffer("full", torch.ones(width))
        self.register_buffer("within", torch.ones(width))
        self.register_buffer("references", torch.zeros(0, width))
        self.register_buffer("bandwidth", torch.ones(0))
        self.register_buffer("common", torch.ones(()))
        self.register_buffer("point_centre", torch.zeros(1, width), persistent=False)
        self.register_buffer("point_rows", torch.zeros(0, width), persistent=False)
        self.register_buffer("point_squares", torch.zeros(0), persistent=False)

    def fit_scales(self, scales: Scales) -> None:
        """Set the scales of the columns."""
        self.near, self.full = scales.near.to(self.near), scales.full.to(self.full)

    def fit_references(self, units: Float[Tensor, "k d"], videos: Int[Tensor, " k"], exponent: float) -> None:
        """Keep the references, and the bandwidth of each from its distance to those of other videos."""
        self.references = units.to(self.near, copy=True)
        self.bandwidth, self.common = local_bandwidths(spacings(units / self.near, videos), exponent)
        self._prepare()

    def add_references(self, units: Float[Tensor, "k d"], videos: Int[Tensor, " k"], exponent: float) -> None:
        """Know more normal units; those that were known before keep their bandwidth."""
        units = units.to(self.references)
        nobody = videos.min() - 1
        known = torch.cat([self.references, units])
        known_videos = torch.cat([nobody.expand(len(self.references)), videos])
        spacing = spacings(units / self.near, videos, known / self.near, known_videos)
        bandwidth, _ = local_bandwidths(spacing, exponent, self.common)
        self.references, self.bandwidth = known, torch.cat([self.bandwidth, bandwidth])
        self._prepare()

    def surprise(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows k"]:
        """-log of the relation to every reference."""
        return surprise(x / self.near, Points(self.point_centre, self.point_rows, self.point_squares), self.bandwidth)

    def require_fitted(self) -> None:
        """Raise ``DataError`` where there is no reference yet."""
        if not self.references.shape[-2]:
            raise DataError("the fusion knows no normal segment yet", fix="call fit with training videos first")

    def _prepare(self) -> None:
        """Scale and centre the references once for all distances to them."""
        points = prepare(self.references / self.near)
        self.point_centre, self.point_rows, self.point_squares = points.centre, points.rows, points.squares

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in self.sized:
            stored, buffer = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and stored.ndim == buffer.ndim:
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._prepare()


def normal_rows(
    x: Float[Tensor, "b n d"], normal: Bool[Tensor, " b"], mask: Bool[Tensor, "b n"] | None
) -> Iterator[Float[Tensor, "r d"]]:
    """The existing nodes of normal bags, a few bags at a time."""
    for bags in normal.nonzero()[:, 0].split(BAGS_AT_ONCE):
        part = x[bags]
        yield part.flatten(0, 1) if mask is None else part[mask[bags]]


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


_NUMBERS_AT_ONCE = 2**24


class UnitReading(NamedTuple):
    """What the units of some nodes say of them.

    Args:
        degree: (B, N, P); NaN where a node has no unit.
        departure: In deviations among normals, (B, N, D); zero where a node has no unit.
        units: The most novel units of each node, most novel first, (B, N, k); -1 where it has fewer.
        novelty: Degree of order 1 of each unit, (B, N, U); zero where absent.
    """

    degree: Float[Tensor, "b n p"]
    departure: Float[Tensor, "b n d"]
    units: Int[Tensor, "b n k"]
    novelty: Float[Tensor, "b n u"]


class KnownUnits(KnownNormals):
    """Known units by group.

    Per unit u of a node: the relation to every known unit of its group, and its degree and departure by that graph. Per node,
    over its ``most_novel`` units of highest degree: the mean of their degrees, which is the degree of the geometric mean of
    their relations (an arithmetic one would hide one odd unit among familiar ones), and the mean of their departures.

    Args:
        width: D.
        groups: G.
        most_novel: Units that speak for a node; all where it has fewer.
    """

    sized: ClassVar[tuple[str, ...]] = ("references", "bandwidth", "places")
    places: Tensor  # (G, K, 3): training bag, node and unit of each reference, so that it can be shown

    def __init__(self, width: int, *, groups: int, most_novel: int) -> None:
        super().__init__(width)
        self.groups = check_int(groups, "units", "LegoFusion", low=1)
        self.most_novel = check_int(most_novel, "most_novel", "LegoFusion", low=1)
        self.register_buffer("references", torch.zeros(groups, 0, width))
        self.register_buffer("bandwidth", torch.ones(groups, 0))  # 0 where a group knows fewer units than another
        self.register_buffer("places", torch.zeros(groups, 0, 3, dtype=torch.long))

    def fit_units(
        self,
        x: Float[Tensor, "v n u d_and_1"],
        normal: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        *,
        most: int,
        exponent: float,
        pseudo_videos: float,
        name: str,
    ) -> None:
        """Know the different present units of the normal bags, at most so many of each group.

        Scales are those of *different* units: most cells of most pictures do not move, and copies say nothing new.

        Raises:
            DataError: If fewer than two normal videos have a unit in a group.
        """
        self._check_groups(x)
        by_group = [self._different(x, normal, video_ids, group) for group in range(self.groups)]
        rows = (x.flatten(0, 2)[index][:, :-1] for index, _ in by_group)
        self.fit_scales(column_scales(rows, len(video_ids[normal].unique()), pseudo_videos))
        flat, chosen = x.flatten(0, 2), []
        for group, (index, _) in enumerate(by_group):
            index = evenly_thinned(index, most)
            videos = video_ids[index // (x.shape[1] * x.shape[2])]
            if len(videos.unique()) < 2:
                where = f"modality '{name}'" + (f", row {group} of the units" if self.groups > 1 else "")
                raise DataError(
                    "too few normal training videos have units to know",
                    where=where,
                    expected="present units in at least 2 of them",
                    got=str(len(videos.unique())),
                    fix="leave the modality out, or add normal training videos",
                )
            chosen.append((index, videos))
        largest = max(len(index) for index, _ in chosen)
        self.references = x.new_zeros(self.groups, largest, self.width)
        self.bandwidth, self.places = x.new_zeros(self.groups, largest), self.places.new_full((self.groups, largest, 3), -1)
        for group, (index, videos) in enumerate(chosen):
            units, count = flat[index][:, :-1], len(index)
            self.references[group, :count] = units
            self.bandwidth[group, :count] = local_bandwidths(spacings(units / self.near, videos), exponent)[0]
            node, unit = index // x.shape[2], index % x.shape[2]
            self.places[group, :count] = torch.stack([node // x.shape[1], node % x.shape[1], unit], dim=1)
        self._prepare()

    def read(
        self,
        x: Float[Tensor, "b n u d_and_1"],
        orders: Sequence[int],
        kept: int,
        *,
        own_bags: Int[Tensor, " b"] | None = None,
    ) -> UnitReading:
        """Degree and departure of every node from its units.

        Args:
            x: Of some bags.
            orders: Powers of the degree.
            kept: Entries of each unit's row that the degree sees.
            own_bags: Video of each bag where it must not meet its own units (``video_of_reference`` says theirs).
        """
        self._check_groups(x)
        kept = min(kept, self.references.shape[1])
        at_once = max(1, _NUMBERS_AT_ONCE // max(1, x[0, ..., 0].numel() * self.references.shape[1]))
        parts = []
        for bags in torch.arange(len(x), device=x.device).split(at_once):
            own = None if own_bags is None else own_bags[bags]
            parts.append(self._read(x[bags], orders, kept, own))
        return UnitReading(*(torch.cat(found) for found in zip(*parts, strict=True)))

    def set_videos(self, video_ids: Int[Tensor, " v"]) -> None:
        """Remember, for cross-fitting, which video each reference comes from."""
        self.video_of_reference = video_ids[self.places[..., 0].clamp_min(0)]

    def unit_novelty(self, x: Float[Tensor, "b n u d_and_1"], kept: int) -> Float[Tensor, "b n u"]:
        """1 - mean relation to the kept nearest known units, in [0, 1); zero where absent."""
        novelty = 1 - torch.exp(-2 * self.read(x, (1,), kept).novelty)
        return novelty.masked_fill(x[..., -1] == 0, 0.0)

    def means(self, x: Float[Tensor, "b n u d_and_1"]) -> Float[Tensor, "b n d"]:
        """Mean of the present units of each node, by which the nodes of one video are compared with each other."""
        return mean_over_units(x)

    def _read(self, x: Tensor, orders: Sequence[int], kept: int, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        present = x[..., -1] > 0
        b, n, u, _ = x.shape
        nearest, departure = x.new_empty(b, n, u, kept), x.new_empty(b, n, u, self.width)
        size = u // self.groups
        for group in range(self.groups):
            places = slice(group * size, (group + 1) * size)
            units = x[:, :, places, :-1].flatten(0, 2)
            entries = self._surprises(units, group)
            if own is not None:
                meets = own.repeat_interleave(n * size)[:, None] == self.video_of_reference[group]
                entries = entries.masked_fill(meets, float("inf"))
            nearest[:, :, places] = entries.topk(kept, largest=False).values.view(b, n, size, kept)
            expected = propagated(-entries, [self.references[group]])[0]
            departure[:, :, places] = ((units - expected) / self.full).view(b, n, size, -1)
        novelty = degrees(nearest, (1,))[..., 0].masked_fill(~present, 0.0)
        ranked = novelty.masked_fill(~present, -1.0).topk(min(self.most_novel, u), dim=-1)
        there = ranked.values >= 0
        pooled = nearest.gather(2, ranked.indices[..., None].expand(-1, -1, -1, kept))
        degree = self._pooled_degrees(pooled.masked_fill(~there[..., None], float("inf")), there, orders)
        moved = departure.gather(2, ranked.indices[..., None].expand(-1, -1, -1, self.width)) * there[..., None]
        total = moved.sum(2) / there.sum(-1, keepdim=True).clamp_min(1)
        return degree, total, ranked.indices.masked_fill(~there, -1), novelty

    def _prepare(self) -> None:
        """Each group by itself."""
        groups = [prepare(references) for references in self.references / self.near]
        self.point_centre = torch.stack([points.centre for points in groups])
        self.point_rows = torch.stack([points.rows for points in groups])
        self.point_squares = torch.stack([points.squares for points in groups])

    def _surprises(self, units: Tensor, group: int) -> Tensor:
        bandwidth = self.bandwidth[group]
        exists = bandwidth > 0
        points = Points(self.point_centre[group], self.point_rows[group], self.point_squares[group])
        entries = surprise(units / self.near, points, torch.where(exists, bandwidth, torch.ones_like(bandwidth)))
        return entries.masked_fill(~exists, float("inf"))

    @staticmethod
    def _pooled_degrees(nearest: Tensor, there: Tensor, orders: Sequence[int]) -> Tensor:
        """Mean of the degrees of the units that are there; NaN where none is."""
        found = degrees(nearest, orders).masked_fill(~there[..., None], 0.0)
        count = there.sum(-1)[..., None]
        return (found.sum(-2) / count.clamp_min(1)).masked_fill(count == 0, float("nan"))

    def _different(self, x: Tensor, normal: Tensor, video_ids: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """Flat index of the first place of every different present unit of every normal video in a group, and its video."""
        v, n, u, _ = x.shape
        index = (
            torch.arange(v * n * u, device=x.device).view(v, n, self.groups, u // self.groups)[normal][:, :, group].flatten()
        )
        flat = x.flatten(0, 2)
        index = index[flat[index, -1] > 0]
        videos = video_ids[index // (n * u)]
        if not len(index):
            return index, videos
        _, which = torch.unique(torch.cat([videos[:, None].to(x), flat[index, :-1]], dim=1), dim=0, return_inverse=True)
        first = torch.full((int(which.max()) + 1,), len(index), device=x.device)
        first = first.scatter_reduce(0, which, torch.arange(len(index), device=x.device), reduce="amin").sort().values
        return index[first], videos[first]

    def _check_groups(self, x: Tensor) -> None:
        if x.shape[2] % self.groups:
            raise DataError("units do not fill the groups", expected=f"a multiple of {self.groups} units", got=x.shape[2])
