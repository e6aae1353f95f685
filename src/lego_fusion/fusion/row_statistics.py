"""What a node's row of similarities is reduced to, where not the row itself."""

from __future__ import annotations

import torch
from torch import Tensor

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
