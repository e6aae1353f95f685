"""What is read off a graph to known normals: how known a node is, and which way it departs from what it is like.

Entries of the relation are kept as their negative logarithm, the *surprise*

    u_ij = -log R_ij = log(1 + d_ij^2 / s_j^2)        R_ij = 1 / (1 + d_ij^2 / s_j^2) in (0, 1]

so that a product of graphs is a sum and nothing leaves the range of floats, however far a node is.

    degree      phi_p(i) = -(1 / 2p) log mean_kept R_ij^p      grows with the distance to the nearest known ones; as p grows it
                                                              tends to the log of the distance to the nearest one
    departure   r(i) = x_i - sum_j G~_ij x_j / sum_j G~_ij     one step of propagation along the fused graph

The degree sees the largest entries of a row only, the known segments that a node is most like; the departure sees all of them,
the more like the more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .distances import Points, squared_distances

NEVER_ALIKE = 1e30  # d^2 / s^2 from which nothing is told apart any more: a degree of 34.5
TRUNCATED_AT = 4.0  # standard deviations of the Gaussian over time
LEAST_MEAN = 1e-35


def surprise(
    x: Float[Tensor, "*rows d"], known: Float[Tensor, "k d"] | Points, bandwidth: Float[Tensor, " k"]
) -> Float[Tensor, "*rows k"]:
    """u_ij = log(1 + |x_i - y_j|^2 / s_j^2), the negative log of the relation of rows to references.

    Args:
        x: Scaled features.
        known: Scaled features of the references, or these prepared.
        bandwidth: s_j > 0 of each.

    Example:
        >>> surprise(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0]]), torch.ones(1)).exp()
        tensor([[1.],
                [5.]])
    """
    ratio = squared_distances(x, known) / bandwidth.square()
    if ratio.requires_grad or torch.compiler.is_exporting():
        return ratio.clamp(max=NEVER_ALIKE).log1p()
    return ratio.clamp_(max=NEVER_ALIKE).log1p_()  # there are many entries


def degrees(nearest: Float[Tensor, "*rows kept"], orders: Sequence[int]) -> Float[Tensor, "*rows p"]:
    """phi_p = -(1 / 2p) log mean_k exp(-p u_k) of the kept entries of each row, for each power p.

    Args:
        nearest: The smallest surprises of each row; infinite where there is none.
        orders: Powers p >= 1.

    Example:
        >>> degrees(torch.tensor([[0.0, 0.0]]), (1, 2))
        tensor([[0., 0.]])
    """
    count = math.log(nearest.shape[-1])
    return torch.stack([(count - (-p * nearest).logsumexp(-1)) / (2 * p) for p in orders], dim=-1)


def propagated(
    log_graph: Float[Tensor, "*rows k"], known: Sequence[Float[Tensor, "k _"]], root: int = 1
) -> list[Float[Tensor, "*rows _"]]:
    """sum_j G~_ij y_j of each table of known values, G~ = G^(1 / root) with rows that sum to 1: one step along the graph.

    With the number of modalities as root, G~ of their product is the geometric mean of their graphs, so that a row does not
    grow sharper with every modality that is added.

    Args:
        log_graph: log G; -inf where a column must not be met.
        known: Values of the K known segments, one table per modality.
        root: M >= 1.

    Example:
        >>> propagated(torch.zeros(1, 2), [torch.tensor([[1.0], [3.0]])])
        [tensor([[2.]])]
    """
    weights = torch.softmax(log_graph / root, dim=-1)
    return [weights @ values for values in known]


def bounded(departure: Float[Tensor, "*rows d"], median: Float[Tensor, ""]) -> Float[Tensor, "*rows d"]:
    """Scale r by sqrt(2) / sqrt(1 + (|r| / median)^2): direction is kept, length is at most sqrt(2) times the usual one."""
    length = torch.linalg.vector_norm(departure, dim=-1, keepdim=True)
    shrunk: Tensor = departure * (2**0.5 / (1 + (length / median).square()).sqrt())
    return shrunk


def inside_degrees(
    x: Float[Tensor, "b n d"],
    numbers: Int[Tensor, "b n"],
    bandwidth: Float[Tensor, ""],
    orders: Sequence[int],
    mask: Bool[Tensor, "b n"] | None = None,
    window: int | None = None,
    *,
    last: int | None = None,
) -> Float[Tensor, "b r p"]:
    """Degree in the graph *inside* a video: phi_p(i) = -(1 / 2p) log mean_j R_ij^p over all its other nodes.

    Over all, not the nearest: an event lasts several nodes, which are near each other. A node itself, its copies and its
    neighbours in time do not count. NaN where nothing is left to compare with.

    Args:
        x: Scaled features.
        numbers: Of the distinct snippets (``references.node_numbers``).
        bandwidth: s > 0.
        orders: Powers p.
        mask: True where a node exists.
        window: Only the nodes up to a node's own, so many at most; None: all nodes of the video.
        last: Only so many of the nodes, at the end; None: all of them.
    """
    exists = torch.ones_like(numbers, dtype=torch.bool) if mask is None else mask
    count = x.shape[1]
    begin = 0 if last is None else count - last
    if window is None or torch.compiler.is_exporting():  # an exported graph takes any number of nodes, so no loop over them
        return _inside_block(x, numbers, bandwidth, orders, exists, window, slice(begin, count), slice(0, count))
    blocks = [slice(first, min(count, first + max(window, 1))) for first in range(begin, count, max(window, 1))]
    parts = [
        _inside_block(x, numbers, bandwidth, orders, exists, window, rows, slice(max(0, rows.start - window + 1), rows.stop))
        for rows in blocks
    ]
    return torch.cat(parts, dim=1)


def _inside_block(
    x: Tensor,
    numbers: Tensor,
    bandwidth: Tensor,
    orders: Sequence[int],
    exists: Tensor,
    window: int | None,
    rows: slice,
    columns: slice,
) -> Tensor:
    """Degrees of some nodes of a video by their relation to some of its nodes."""
    apart = (numbers[:, rows, None] - numbers[:, None, columns]).abs()
    there = (apart > 1) & exists[:, None, columns]
    if window is not None:
        index = torch.arange(x.shape[1], device=x.device)
        back = index[rows, None] - index[None, columns]
        there = there & (back >= 0) & (back < window)
    ratio = (squared_distances(x[:, rows], x[:, columns]) / bandwidth.square()).clamp(max=NEVER_ALIKE)
    count = there.sum(-1)
    means = [(ratio + 1).pow(-p).masked_fill(~there, 0.0).sum(-1) / count.clamp_min(1) for p in orders]
    found = [-mean.clamp_min(LEAST_MEAN).log() / (2 * p) for mean, p in zip(means, orders, strict=True)]
    return torch.stack(found, dim=-1).masked_fill((count == 0)[..., None], float("nan"))


def time_reach(deviation: float) -> int:
    """How many nodes before (and after) a node's own its time context sees.

    Example:
        >>> time_reach(2.0)
        8
    """
    return int(TRUNCATED_AT * deviation)


def time_context(
    values: Float[Tensor, "b n"], deviation: float, mask: Bool[Tensor, "b n"] | None = None, *, causal: bool = False
) -> Float[Tensor, "b n"]:
    """Mean over nodes near in time, weights exp(-(i - j)^2 / 2 s^2) within 4 s, over the nodes that exist.

    Args:
        values: One number per node.
        deviation: s in nodes; 0 leaves the values alone.
        mask: True where a node exists.
        causal: Whether only nodes up to a node's own count.

    Example:
        >>> time_context(torch.tensor([[1.0, 1.0, 1.0]]), 2.0)
        tensor([[1., 1., 1.]])
    """
    if deviation == 0:
        return values
    reach = time_reach(deviation)
    away = torch.arange(-reach, reach + 1, device=values.device).to(values)
    kernel = torch.exp(-(away / deviation).square() / 2)
    if causal:
        kernel = kernel * (away <= 0)
    there = torch.ones_like(values) if mask is None else mask.to(values)
    both = torch.stack([values * there, there], dim=1).flatten(0, 1)[:, None]
    total, weight = torch.nn.functional.conv1d(both, kernel[None, None], padding=reach)[:, 0].unflatten(0, (-1, 2)).unbind(1)
    mean: Tensor = total / weight.clamp_min(torch.finfo(values.dtype).tiny)
    return mean
