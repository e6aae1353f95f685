"""One modality's known normals: the scale of its columns, its reference units and how densely normals lie around each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import DataError
from ..graph.distances import Points, prepare
from ..graph.readings import surprise
from ..graph.references import local_bandwidths, spacings

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
            raise DataError("the fusion knows no normal segment yet", fix="call fit_statistics with training videos first")

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
