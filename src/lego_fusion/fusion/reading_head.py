"""The head of the default fusion: a sum of readable parts with a normal prior on every weight.

    known = 1/2 sum_mp A_mp phi_mp + sum_m w_m . f_m,   f_m = (r_m + T r_m) / sqrt(2)      how unlike the known normals
    own   = 1/2 sum_mp A'_mp phi'_mp                                                       how unlike the rest of the own video
    logit = -2 + b + (1 - alpha) known + alpha own

phi are degrees, r_m departures (``graph.readings``), T the mean over nodes near in time; alpha = 0 unless a fit with the third
reading explains the labels better (``learn.objective``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..graph.readings import time_context

SLOPE = 0.5
HALF_ROOT = 0.5**0.5
TYPICAL = -2.0  # logit of a typical normal segment
FUSED = "fused graph"
BAGS_AT_ONCE = 64  # averaged over time together


class Priors(NamedTuple):
    """Standard deviations of the normal priors.

    Args:
        orders: Of log A, around 0.
        departure: sigma of the weights w of the departure.
        invariance: lambda: how much directions in which normal segments vary are trusted less. w ~ N(0, sigma^2 (I +
            lambda S / tr S)^-1), S the second moments of f among the normal training segments, so that labels cannot use
            what merely tells one normal video from another.
        bias: Of b.
        own_mean: Mean of logit(alpha): that every video is a world of its own is unlikely beforehand.
        own_deviation: Its deviation.
    """

    orders: float = 0.5
    departure: float = 3.0
    invariance: float = 60.0
    bias: float = 3.0
    own_mean: float = -3.0
    own_deviation: float = 2.0


class Usual(NamedTuple):
    """Normal training segments as the prior of w sees them.

    Args:
        factor: U with |U w|^2 = w' S w / tr S, of as few rows as that takes, (rows, sum of widths).
    """

    factor: Float[Tensor, "rows d"]


class Layout(NamedTuple):
    """Where the readings of a node stand in its vector: degrees (row by row), inside degrees, departures by modality."""

    rows: tuple[str, ...]
    inside: tuple[str, ...]
    orders: tuple[int, ...]
    widths: Mapping[str, int]

    @property
    def sizes(self) -> list[int]:
        """Length of the three parts."""
        return [len(self.rows) * len(self.orders), len(self.inside) * len(self.orders), sum(self.widths.values())]

    def split(self, nodes: Float[Tensor, "b n f"]) -> tuple[Tensor, Tensor, Tensor]:
        """Degrees (B, N, rows, P), inside degrees (B, N, M, P) and departures (B, N, sum of widths)."""
        degree, inside, departure = nodes.split(self.sizes, dim=-1)
        return degree.unflatten(-1, (-1, len(self.orders))), inside.unflatten(-1, (-1, len(self.orders))), departure


class HeadParts(NamedTuple):
    """The terms that a logit is the sum of, beside the constant -2 + b.

    Args:
        degree: By row of the layout and order, (B, N, rows, P).
        inside: By modality and order, (B, N, M, P).
        departure: By column, (B, N, sum of widths).
        time: By column, what nodes near in time add, (B, N, sum of widths).
        constant: -2 + b.
    """

    degree: Float[Tensor, "b n rows p"]
    inside: Float[Tensor, "b n m p"]
    departure: Float[Tensor, "b n d"]
    time: Float[Tensor, "b n d"]
    constant: float

    @property
    def total(self) -> Float[Tensor, "b n"]:
        """The logits."""
        parts = self.degree.sum((-1, -2)) + self.inside.sum((-1, -2)) + self.departure.sum(-1) + self.time.sum(-1)
        return parts + self.constant


class ReadingHead(nn.Module):
    """See the module. It starts with A = 1 and w = 0: more unlike the known normals is more abnormal.

    Args:
        layout: Of a node's vector.
        time_deviation: Of T, in nodes.
        causal: Whether T looks back only.
    """

    own_world: Tensor

    def __init__(self, layout: Layout, *, time_deviation: float, causal: bool) -> None:
        super().__init__()
        self.layout, self.time_deviation, self.causal = layout, time_deviation, causal
        width, orders = sum(layout.widths.values()), len(layout.orders)
        self.bias = nn.Parameter(torch.zeros(()))
        self.log_a = nn.Parameter(torch.zeros(len(layout.rows), orders))
        self.weights = nn.Parameter(torch.zeros(width))
        self.own_log_a = nn.Parameter(torch.zeros(len(layout.inside), orders))
        self.own_share = nn.Parameter(torch.tensor(Priors().own_mean))  # logit(alpha)
        self.register_buffer("own_world", torch.tensor(False))
        self.use_own_world(False)

    @property
    def alpha(self) -> Tensor:
        """Share of the own world, in [0, 1]."""
        return self.own_share.sigmoid() * self.own_world

    @property
    def world(self) -> str:
        """Which world a model lives in, in words."""
        if not bool(self.own_world):
            return "known world: how unlike the known normal segments"
        return f"own world (alpha = {float(self.alpha.detach()):.2f}): how unlike the rest of its own video"

    @torch.no_grad()
    def use_own_world(self, used: bool) -> None:
        """Whether the third reading is there at all; its weights are learned only then, and those of the departure are not."""
        self.own_world.fill_(used)
        self.weights.requires_grad_(not used)
        self.own_log_a.requires_grad_(used)
        self.own_share.requires_grad_(used)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.use_own_world(bool(self.own_world))  # what is learned goes with what is stored

    def forward(self, nodes: Float[Tensor, "b n f"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n"]:
        """Logits of the nodes."""
        degree, inside, departure = self.layout.split(nodes)
        known = SLOPE * (degree * self.log_a.exp()).sum((-1, -2)) + self._along(departure, mask)
        own = SLOPE * (inside * self.own_log_a.exp()).sum((-1, -2))
        return TYPICAL + self.bias + (1 - self.alpha) * known + self.alpha * own

    def _along(self, departure: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n"]:
        """Scalar w . f of each node, f = (r + T r) / sqrt(2); T commutes with w."""
        along = departure @ self.weights
        return (along + time_context(along, self.time_deviation, mask, causal=self.causal)) * HALF_ROOT

    @torch.no_grad()
    def parts(self, nodes: Float[Tensor, "b n f"], mask: Bool[Tensor, "b n"] | None = None) -> HeadParts:
        """The terms of every logit; they add up to it."""
        degree, inside, departure = self.layout.split(nodes)
        weighted = departure * self.weights * HALF_ROOT
        kept = 1 - self.alpha
        return HeadParts(
            kept * SLOPE * degree * self.log_a.exp(),
            self.alpha * SLOPE * inside * self.own_log_a.exp(),
            kept * weighted,
            kept * self._near_in_time(weighted, mask),
            TYPICAL + float(self.bias.detach()),
        )

    def _near_in_time(self, values: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n d"]:
        columns = values.transpose(1, 2)  # (B, D, N)
        rows = None if mask is None else mask.repeat_interleave(columns.shape[1], 0)
        near = time_context(columns.flatten(0, 1), self.time_deviation, rows, causal=self.causal)
        return near.view_as(columns).transpose(1, 2)

    def penalty(self, priors: Priors, usual: Usual | None = None) -> Tensor:
        """-log of the prior of the weights, but for a constant.

        Args:
            priors: Deviations.
            usual: Normal training segments, for the invariance; None leaves it out.
        """
        total = self.bias.square() / (2 * priors.bias**2) + self.log_a.square().sum() / (2 * priors.orders**2)
        price = self.weights.square().sum()
        if usual is not None and priors.invariance:
            price = price + priors.invariance * (usual.factor @ self.weights).square().sum()
        total = total + price / (2 * priors.departure**2)
        if bool(self.own_world):
            total = total + (self.own_share - priors.own_mean).square() / (2 * priors.own_deviation**2)
            total = total + self.own_log_a.square().sum() / (2 * priors.orders**2)
        return total

    @torch.no_grad()
    def usual(self, nodes: Float[Tensor, "b n f"], mask: Bool[Tensor, "b n"] | None = None) -> Usual:
        """What the prior has to know of the nodes of normal training bags."""
        departure = self.layout.split(nodes)[2]
        near = torch.cat([self._near_in_time(part, there) for part, there in _some_at_a_time(departure, mask)])
        followed = (departure + near) * HALF_ROOT
        rows = followed.flatten(0, 1) if mask is None else followed[mask]
        length = rows.square().sum(-1).double().sum().sqrt()
        rows = rows / torch.where(length > 0, length, 1.0).to(rows)
        return Usual(rows if len(rows) <= rows.shape[1] else torch.linalg.qr(rows, mode="r").R)


def _some_at_a_time(
    values: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None
) -> Iterator[tuple[Float[Tensor, "_ n d"], Bool[Tensor, "_ n"] | None]]:
    masks = [None] * len(values) if mask is None else mask.split(BAGS_AT_ONCE)
    return zip(values.split(BAGS_AT_ONCE), masks, strict=False)
