"""Squared Euclidean distances by centred matrix products."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def squared_distances(x: Float[Tensor, "*rows d"], y: Float[Tensor, "*b k d"]) -> Float[Tensor, "*rows k"]:
    """|x_i - y_j|^2, seen from the mean of y."""
    centre = y.mean(-2, keepdim=True) if y.ndim > 2 else y.mean(0)
    x, y = x - centre, y - centre
    inner = x @ y.transpose(-1, -2)
    norms = y.square().sum(-1)
    return (inner * -2 + x.square().sum(-1, keepdim=True) + (norms[..., None, :] if y.ndim > 2 else norms)).clamp_min(0)
