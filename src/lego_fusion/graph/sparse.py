"""Graphs of nearest neighbours: the second way to have many nodes, exact on the edges that are kept.

    edge (i, j)   where j is among the k nearest of i in the relation of some modality, or i of j
    G_ij = sum_pq A_pq R_a,ij^p R_b,ij^q   on edges, 0 elsewhere

The neighbours are found tile by tile; then only edges exist, about N k numbers for each modality. Unlike ``k_nearest`` before
the operator, an edge has its exact value in *every* modality, and what is no edge is zero even where A_00 is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ParameterError, check_int
from .kernels import refuse_second_derivative
from .operator import GraphOperator
from .relation_vectors import RelationVectors, inner_gradient, relation_block
from .streaming import TILE, Propagated, relation_vectors, require_fitting

CHUNK = 2**24  # numbers gathered at a time: edges times width


class Edges(NamedTuple):
    """Edges of one graph for a batch, sorted by item, row and column.

    Args:
        rows: Item times N plus row of each edge, (E,).
        columns: Item times N (or K) plus column, (E,).
        diagonal: Whether row and column are the same node, (E,).
    """

    rows: Int[Tensor, " e"]
    columns: Int[Tensor, " e"]
    diagonal: Bool[Tensor, " e"]


def propagate_nearest(
    features: Mapping[str, Float[Tensor, "b n _"] | RelationVectors],
    operator: GraphOperator,
    x: Float[Tensor, "b k f"],
    mask: Bool[Tensor, "_ _"] | None = None,
    *,
    neighbours: int,
) -> Propagated:
    """Fuse relations on the edges of nearest neighbours and pass X along them: G X and degrees.

    Args:
        features: As in ``streaming.propagate``.
        operator: With elementwise powers.
        x: What the columns of G hold, (B, N, F) or (B, K, F).
        mask: True where a node exists, (B, N).
        neighbours: How many columns each row keeps for each modality, in [1, columns]; a node is a neighbour of itself.

    Returns:
        G X and absolute row sums, differentiable once in the features, X and the coefficients; which edges there are is not.

    Raises:
        ParameterError: As in ``streaming.propagate``, or if ``neighbours`` is out of range.

    Example:
        >>> operator = GraphOperator(["colour", "depth"], order=3)
        >>> streams = {"colour": torch.rand(1, 50, 8), "depth": torch.rand(1, 50, 4)}
        >>> propagate_nearest(streams, operator, torch.rand(1, 50, 6), neighbours=5).degree.shape
        torch.Size([1, 50])
    """
    vectors = relation_vectors(features, operator, mask)
    require_fitting(vectors[0], x)
    if operator.zero_order == "identity":
        raise ParameterError("edges of nearest neighbours need zero_order='ones'", got="zero_order='identity'")
    check_int(neighbours, "neighbours", "propagate_nearest", low=1, high=max(1, x.shape[1]))
    polynomial, coefficients = operator.entry_polynomial()
    edges = nearest_edges(vectors, neighbours, mask)
    values = polynomial([_relation_on_edges(one, edges) for one in vectors], coefficients)
    shape = vectors[0].left.shape[:2]
    if mask is not None and vectors[0].right is None:
        x = x.masked_fill(~mask[..., None], 0.0)
    passed = _EdgeSum.apply(values.to(x.dtype), x.flatten(0, 1), edges, shape.numel())  # type: ignore[no-untyped-call]
    degree = values.new_zeros(shape.numel()).index_add(0, edges.rows, values.abs()).to(x.dtype)
    return Propagated(passed.view(*shape, x.shape[2]), degree.view(shape))


@torch.no_grad()
def nearest_edges(vectors: list[RelationVectors], neighbours: int, mask: Bool[Tensor, "_ _"] | None = None) -> Edges:
    """Edges to the nearest columns of each row, in any modality; between nodes in both directions.

    Args:
        vectors: One per modality, of one shape.
        neighbours: Columns kept for each row and modality.
        mask: True where a node exists, (B, N): a masked one has no edge.
    """
    (batch, nodes), square = vectors[0].left.shape[:2], vectors[0].right is None
    columns = nodes if square else _right(vectors[0]).shape[1]
    codes = [torch.zeros(0, dtype=torch.long, device=vectors[0].left.device)]
    for item in range(batch):
        exists = None if mask is None else mask[item]
        for one in vectors:
            row, column = _nearest_of_item(one, item, min(neighbours, columns), exists if square else None)
            if exists is not None:
                keep = exists[row] & exists[column] if square else exists[row]
                row, column = row[keep], column[keep]
            first = item * nodes * columns
            codes.append(first + row * columns + column)
            if square:
                codes.append(first + column * columns + row)
    code = torch.cat(codes).unique()
    place, column = code // columns, code % columns
    return Edges(place, place // nodes * columns + column, (place % nodes == column) & square)


def _nearest_of_item(one: RelationVectors, item: int, neighbours: int, exists: Tensor | None) -> tuple[Tensor, Tensor]:
    left, right = one.left[item], _right(one)[item]
    offset = one.right_offset if one.right is not None else one.left_offset
    found = []
    for first in range(0, len(left), TILE):
        inner = (
            left[first : first + TILE] @ right.T
        )  # order within a row is that of the relation: offsets of rows do not matter
        if offset is not None:
            inner += offset[item]
        if one.right is None and one.map in ("cosine", "unit range cosine"):
            inner.diagonal(first).fill_(2.0)  # of a zero vector too, the node itself is nearest
        if exists is not None:
            inner.masked_fill_(~exists, float("-inf"))
        found.append(inner.topk(neighbours, dim=1).indices)
    column = torch.cat(found) if found else torch.zeros(0, neighbours, dtype=torch.long, device=left.device)
    row = torch.arange(len(left), device=left.device)[:, None].expand_as(column)
    return row.flatten(), column.flatten()


def _relation_on_edges(one: RelationVectors, edges: Edges) -> Tensor:
    """Exact relations of the edges, (E,)."""
    right, right_offset = (one.left, one.left_offset) if one.right is None else (one.right, one.right_offset)
    inner = _EdgeProduct.apply(one.left.flatten(0, 1), right.flatten(0, 1), edges)  # type: ignore[no-untyped-call]
    if one.left_offset is not None and right_offset is not None:
        inner = inner + one.left_offset.flatten()[edges.rows] + right_offset.flatten()[edges.columns]
    result: Tensor = _EdgeMap.apply(inner, one.map, edges.diagonal)  # type: ignore[no-untyped-call]
    return result


class _EdgeMap(torch.autograd.Function):
    """Inner products -> relations, with a fixed diagonal where the relation has one."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor, map: Any, diagonal: Tensor) -> Tensor:
        graph = relation_block(map, inner.clone(), diagonal=False)
        fixed = map in ("cosine", "unit range cosine")
        if fixed:
            graph.masked_fill_(diagonal, 1.0)
        ctx.map, ctx.fixed = map, fixed
        ctx.save_for_backward(graph, diagonal)
        return graph

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        graph, diagonal = ctx.saved_tensors
        inner = inner_gradient(ctx.map, gradient.clone(), graph, diagonal=False)
        return inner.masked_fill_(diagonal, 0.0) if ctx.fixed else inner, None, None


class _EdgeProduct(torch.autograd.Function):
    """<u_i, v_j> of every edge; gathered rows exist for a chunk of edges only."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(left, right)
        result = left.new_empty(len(edges.rows))
        for part in _chunks(edges, left.shape[1]):
            result[part] = (left[edges.rows[part]] * right[edges.columns[part]]).sum(1)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        (left, right), edges = ctx.saved_tensors, ctx.edges
        by_left, by_right = _zeros_where(ctx.needs_input_grad, left, right)
        for part in _chunks(edges, left.shape[1]):
            weight = gradient[part, None]
            if by_left is not None:
                by_left.index_add_(0, edges.rows[part], weight * right[edges.columns[part]])
            if by_right is not None:
                by_right.index_add_(0, edges.columns[part], weight * left[edges.rows[part]])
        return by_left, by_right, None


class _EdgeSum(torch.autograd.Function):
    """sum_j g_ij x_j over the edges of each row."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, edges: Edges, rows: int) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(values, x)
        result = x.new_zeros(rows, x.shape[1])
        for part in _chunks(edges, x.shape[1]):
            result.index_add_(0, edges.rows[part], values[part, None] * x[edges.columns[part]])
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        (values, x), edges = ctx.saved_tensors, ctx.edges
        by_values, by_x = _zeros_where(ctx.needs_input_grad, values, x)
        for part in _chunks(edges, x.shape[1]):
            sent = gradient[edges.rows[part]]
            if by_values is not None:
                by_values[part] = (sent * x[edges.columns[part]]).sum(1)
            if by_x is not None:
                by_x.index_add_(0, edges.columns[part], values[part, None] * sent)
        return by_values, by_x, None, None


def _chunks(edges: Edges, width: int) -> Iterator[slice]:
    size = max(1, CHUNK // max(1, width))
    for first in range(0, len(edges.rows), size):
        yield slice(first, first + size)


def _zeros_where(needed: tuple[bool, ...], *tensors: Tensor) -> list[Tensor | None]:
    return [torch.zeros_like(one) if need else None for one, need in zip(tensors, needed, strict=False)]


def _right(one: RelationVectors) -> Tensor:
    return one.left if one.right is None else one.right
