"""Graphs of finer units, pooled to the nodes: relations are pooled, features are not.

A node may hold any number of finer units (frames, patches, motion cells, words). With u in i meaning that unit u belongs to
node i, the fine graph R_uv becomes

    mean   R_ij = sum_{u in i, v in j} w_u w_v R_uv / (sum_{u in i} w_u  sum_{v in j} w_v)
    max    R_ij = max_{u in i, v in j} R_uv

So clips, frames, patches and words can enter one fused graph without their features ever being aligned.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ParameterError, check_choice, check_int

NO_NODE = -1  # a unit that belongs to no node: padding


def assign_units(
    unit_spans: Float[Tensor, "u 2"], node_spans: Float[Tensor, "n 2"]
) -> tuple[Int[Tensor, " u"], Float[Tensor, " u"]]:
    """Give each unit to the node that it overlaps most in time.

    Args:
        unit_spans: Start and end of each unit, (U, 2), in any unit of time; a unit without length counts where it starts.
        node_spans: Start and end of each node, (N, 2), in the same unit.

    Returns:
        The node of each unit (U,), -1 where it meets none, and its weight (U,): the length of the overlap (1 for a unit
        without length).

    Example:
        >>> nodes, weights = assign_units(torch.tensor([[0.0, 2.0], [1.0, 4.0]]), torch.tensor([[0.0, 2.0], [2.0, 4.0]]))
        >>> nodes.tolist(), weights.tolist()
        ([0, 1], [2.0, 2.0])
    """
    start = torch.maximum(unit_spans[:, None, 0], node_spans[None, :, 0])
    end = torch.minimum(unit_spans[:, None, 1], node_spans[None, :, 1])
    overlap = (end - start).clamp_min(0)
    moment = unit_spans[:, 0] == unit_spans[:, 1]
    inside = (unit_spans[:, None, 0] >= node_spans[None, :, 0]) & (unit_spans[:, None, 0] < node_spans[None, :, 1])
    overlap = torch.where(moment[:, None], inside.to(overlap.dtype), overlap)
    weights, nodes = overlap.max(dim=1)
    return nodes.masked_fill(weights == 0, NO_NODE), weights


def pool_relations(
    relations: Float[Tensor, "b u u"],
    nodes: Int[Tensor, "b u"],
    num_nodes: int,
    *,
    reduce: str = "mean",
    weights: Float[Tensor, "b u"] | None = None,
) -> Float[Tensor, "b n n"]:
    """Pool the graph of finer units to the graph of the nodes that hold them.

    Args:
        relations: Graph of the finer units, (B, U, U).
        nodes: The node of each unit, (B, U), in [0, num_nodes), or -1 for padding.
        num_nodes: N.
        reduce: ``"mean"`` or ``"max"`` over the pairs of units.
        weights: Weight of each unit for the mean, (B, U), positive; None weighs them alike. Not used by ``"max"``.

    Returns:
        (B, N, N); a node without units has zero rows and columns.

    Raises:
        ParameterError: If ``reduce`` is unknown or a node index is outside the range.
    """
    check_choice(reduce, "reduce", "pool_relations", ("mean", "max"))
    _check_nodes(nodes, num_nodes)
    if reduce == "max":
        rows = _group_max(relations, nodes, num_nodes)  # (B, N, U)
        pooled = _group_max(rows.transpose(1, 2), nodes, num_nodes).transpose(1, 2)
        return pooled.masked_fill(pooled == float("-inf"), 0.0)
    share = _membership_shares(nodes, num_nodes, weights, relations.dtype)  # (B, N, U)
    return share @ relations @ share.transpose(1, 2)


def _membership_shares(nodes: Tensor, num_nodes: int, weights: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(B, N, U): share of each unit in its node; the rows of a node with units sum to one."""
    member = (nodes[:, None, :] == torch.arange(num_nodes, device=nodes.device)[None, :, None]).to(dtype)
    if weights is not None:
        member = member * weights[:, None, :].to(dtype)
    total = member.sum(-1, keepdim=True)
    return member / torch.where(total > 0, total, torch.ones_like(total))


def _group_max(values: Tensor, nodes: Tensor, num_nodes: int) -> Tensor:
    """Maximum of ``values`` (B, U, X) over the units of each node: (B, N, X), -inf where a node holds none."""
    index = torch.where(nodes == NO_NODE, num_nodes, nodes)[:, :, None].expand_as(values)
    pooled = values.new_full((values.shape[0], num_nodes + 1, values.shape[2]), float("-inf"))
    return pooled.scatter_reduce(1, index, values, reduce="amax")[:, :num_nodes]


def _check_nodes(nodes: Tensor, num_nodes: int) -> None:
    check_int(num_nodes, "num_nodes", "pooling", low=1)
    if nodes.numel() and (nodes.min() < NO_NODE or nodes.max() >= num_nodes):
        raise ParameterError(
            "a unit names a node that does not exist",
            expected=f"indices in [-1, {num_nodes - 1}]",
            got=f"[{int(nodes.min())}, {int(nodes.max())}]",
        )
