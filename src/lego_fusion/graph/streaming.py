"""From features to what the fused graph passes on, without the N x N graphs.

    Y = G X,    d_i = sum_j |G_ij|,    G = operator(R_1, ..., R_M)

Relations are made one tile at a time, fused by the operator's polynomial, multiplied with their part of X, and forgotten. The
backward makes the tiles again. So memory grows with N (D + F), not with N^2; the numbers are those of the whole graphs up to
rounding. A graph between nodes is symmetric (its entries are polynomials of symmetric entries), so each pair of tiles is made
once and used for both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import ParameterError, check_int
from .kernels import KernelName, refuse_second_derivative, said_kernel, use_kernel
from .operator import EntryPolynomial, GraphOperator
from .relation_vectors import Map, RelationVectors, cosine_vectors, inner_gradient, relation_block, require_vectors

TILE = 1024  # rows and columns of a tile
TILE_ABOVE = 1024  # nodes; up to here whole graphs are as fast (benchmarks/streaming.py)


class Propagated(NamedTuple):
    """What a fused graph passes on.

    Args:
        values: G X, (B, N, F).
        degree: Absolute row sums d of G, (B, N).
        total: Row sums of G, (B, N); this and the rest only where statistics were asked for.
        squares: Row sums of G * G, (B, N).
        smallest: Smallest entry of each row, (B, N); without gradient.
        largest: Largest entry of each row, (B, N); without gradient.
    """

    values: Float[Tensor, "b n f"]
    degree: Float[Tensor, "b n"]
    total: Float[Tensor, "b n"] | None = None
    squares: Float[Tensor, "b n"] | None = None
    smallest: Float[Tensor, "b n"] | None = None
    largest: Float[Tensor, "b n"] | None = None

    def weighted_mean(self) -> Float[Tensor, "b n f"]:
        """D^-1 G X; zero where a node has no relations."""
        degree = self.degree[..., None]
        return self.values / torch.where(degree > 0, degree, torch.ones_like(degree))


def propagate(
    features: Mapping[str, Float[Tensor, "b n _"] | RelationVectors],
    operator: GraphOperator,
    x: Float[Tensor, "b k f"],
    mask: Bool[Tensor, "_ _"] | None = None,
    *,
    statistics: bool = False,
    tile: int | None = None,
) -> Propagated:
    """Fuse the relations of some features and pass X along the result, in one pass over tiles.

    Args:
        features: For each name of the operator features (B, N, D_m), related by their cosine, or ``RelationVectors`` of another
            relation, between the nodes or to K reference units.
        operator: With elementwise powers.
        x: What the columns of G hold, (B, N, F), or (B, K, F) where they are reference units.
        mask: True where a node exists, (B, N); masked nodes send and get nothing.
        statistics: Also compute row sums, row sums of squares, and the smallest and largest entry of each row; masked columns
            are no entries.
        tile: Rows and columns of a tile.

    Returns:
        G X and the degrees, differentiable once in the features of every modality, in X and in the coefficients.

    Raises:
        ParameterError: If a modality is missing, shapes or dtypes do not fit, the operator has matrix powers, or a gradient is
            taken with ``create_graph=True``.

    Source: the tiling is ours; recomputing tiles in the backward is that of memory-efficient attention (arXiv 2205.14135).

    Example:
        >>> operator = GraphOperator(["colour", "depth"], order=3)
        >>> streams = {"colour": torch.rand(1, 50, 8), "depth": torch.rand(1, 50, 4)}
        >>> propagate(streams, operator, torch.rand(1, 50, 6), tile=16).values.shape
        torch.Size([1, 50, 6])
    """
    vectors = relation_vectors(features, operator, mask)
    require_fitting(vectors[0], x)
    polynomial, coefficients = operator.entry_polynomial()
    size = TILE if tile is None else check_int(tile, "tile", "propagate", low=1)
    if mask is not None and vectors[0].right is None:
        x = x.masked_fill(~mask[..., None], 0.0)  # whatever a masked node holds, NaN too, stays out of every product
    plan = _Plan(polynomial, tuple(one.map for one in vectors), len(coefficients), statistics, size, said_kernel())
    flat = [tensor for one in vectors for tensor in one.tensors()]
    found = _Streaming.apply(plan, mask, x, *coefficients, *flat)  # type: ignore[no-untyped-call]
    return Propagated(*found)


def relation_vectors(
    features: Mapping[str, Tensor | RelationVectors], operator: GraphOperator, mask: Tensor | None
) -> list[RelationVectors]:
    """The vectors of every graph of the operator, in its order."""
    missing = [name for name in operator.names if name not in features]
    if missing:
        raise ParameterError(
            f"no features for modality '{missing[0]}'", expected=", ".join(operator.names), got=", ".join(features) or "nothing"
        )
    vectors: list[RelationVectors] = []
    for one in (features[name] for name in operator.names):
        _require_mask((one.left if isinstance(one, RelationVectors) else one).shape[:2], mask)
        if isinstance(one, RelationVectors):
            vectors.append(one)
        else:
            vectors.append(cosine_vectors(one if mask is None else one.masked_fill(~mask[..., None], 0.0)))
    for name, one in zip(operator.names, vectors, strict=True):
        require_vectors(name, one, vectors[0])
    if operator.zero_order == "identity" and vectors[0].right is not None:
        raise ParameterError(
            "zero_order='identity' is not defined for relations to reference units", fix="use zero_order='ones'"
        )
    return vectors


def require_fitting(vectors: RelationVectors, x: Tensor) -> None:
    """Raise ``ParameterError`` where X does not fit the columns."""
    columns = vectors.left if vectors.right is None else vectors.right
    if x.ndim != 3 or x.shape[:2] != columns.shape[:2] or x.dtype != columns.dtype:
        raise ParameterError(
            "x does not fit the columns of the graph",
            expected=f"{(*columns.shape[:2], 'F')} {columns.dtype}".replace("'", ""),
            got=f"{tuple(x.shape)} {x.dtype}",
        )


def _require_mask(shape: torch.Size, mask: Tensor | None) -> None:
    if mask is not None and (mask.dtype != torch.bool or mask.shape != shape):
        raise ParameterError("the mask does not fit", expected=f"{tuple(shape)} bool", got=f"{tuple(mask.shape)} {mask.dtype}")


@dataclass(frozen=True)
class _Plan:
    """What is not a tensor."""

    polynomial: EntryPolynomial
    maps: tuple[Map, ...]
    coefficients: int
    statistics: bool
    tile: int
    kernel: KernelName


class _Item:
    """One item of the batch: its vectors, X and mask, and how they are cut into tiles."""

    def __init__(self, plan: _Plan, index: int, mask: Tensor | None, x: Tensor, flat: Sequence[Tensor | None]) -> None:
        self.plan, self.x = plan, x[index]
        self.mask = None if mask is None else mask[index]
        chosen = [None if tensor is None else tensor[index] for tensor in flat]
        self.left, self.right, self.left_offset, self.right_offset = (chosen[part::4] for part in range(4))
        self.square = self.right[0] is None
        if self.square:
            self.right, self.right_offset = self.left, self.left_offset

    def tiles(self) -> Iterator[tuple[slice, slice, bool, bool]]:
        """Rows, columns, whether the tile has the diagonal, and whether it also stands for the tile across the diagonal."""
        rows, columns, size = len(_there(self.left[0])), len(self.x), self.plan.tile
        for first in range(0, rows, size):
            for second in range(first if self.square else 0, columns, size):
                diagonal = self.square and first == second
                yield slice(first, first + size), slice(second, second + size), diagonal, self.square and not diagonal

    def graph(self, m: int, rows: slice, columns: slice, *, diagonal: bool) -> Tensor:
        """A tile of the graph of one modality."""
        inner = _there(self.left[m])[rows] @ _there(self.right[m])[columns].T
        left, right = self.left_offset[m], self.right_offset[m]
        if left is not None:
            inner += left[rows, None]
        if right is not None:
            inner += right[columns]
        return relation_block(self.plan.maps[m], inner, diagonal=diagonal)

    def graphs(self, rows: slice, columns: slice, *, diagonal: bool) -> list[Tensor]:
        """A tile of every graph."""
        return [self.graph(m, rows, columns, diagonal=diagonal) for m in range(len(self.left))]

    def hide(self, tile: Tensor, rows: slice, columns: slice, value: float = 0.0) -> Tensor:
        """Fill the entries of masked nodes, in place."""
        if self.mask is None:
            return tile
        tile.masked_fill_(~self.mask[rows, None], value)
        return tile.masked_fill_(~self.mask[columns], value) if self.square else tile


class _Streaming(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, mask: Tensor | None, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.plan = plan
        ctx.save_for_backward(mask, x, *tensors)
        coefficients, flat = [_there(one) for one in tensors[: plan.coefficients]], tensors[plan.coefficients :]
        batch, nodes = _there(flat[0]).shape[:2]
        wide = torch.promote_types(x.dtype, torch.float32)
        sums = [x.new_zeros((batch, nodes, x.shape[2]), dtype=wide)]
        sums += [x.new_zeros((batch, nodes), dtype=wide) for _ in range(3 if plan.statistics else 1)]
        ends = [x.new_full((batch, nodes), sign * float("inf")) for sign in (1, -1)] if plan.statistics else []
        with use_kernel(plan.kernel), torch.autocast(x.device.type, enabled=False):
            for index in range(batch):
                item = _Item(plan, index, mask, x, flat)
                _forward_item(item, coefficients, [one[index] for one in sums], [one[index] for one in ends])
        ends = [one.masked_fill(one.isinf(), 0.0) for one in ends]  # of rows without columns
        ctx.mark_non_differentiable(*ends)
        return (*(one.to(x.dtype) for one in sums), *ends)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        plan, (mask, x, *tensors) = ctx.plan, ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        wide = torch.promote_types(x.dtype, torch.float32)
        totals = [
            torch.zeros_like(one, dtype=wide) if one is not None and want else None
            for one, want in zip((x, *tensors), wanted, strict=True)
        ]
        coefficients, flat = tensors[: plan.coefficients], tensors[plan.coefficients :]
        sums = gradients[: 4 if plan.statistics else 2]
        with use_kernel(plan.kernel), torch.autocast(x.device.type, enabled=False):
            for index in range(len(x)):
                item = _Item(plan, index, mask, x, flat)
                by_x = None if totals[0] is None else totals[0][index]
                by_vectors = [None if one is None else one[index] for one in totals[1 + plan.coefficients :]]
                by_coefficients = totals[1 : 1 + plan.coefficients]
                _backward_item(item, coefficients, [one[index] for one in sums], by_x, by_coefficients, by_vectors)
        dtypes = [None if one is None else one.dtype for one in (x, *tensors)]
        return None, None, *(one if one is None else one.to(dtype) for one, dtype in zip(totals, dtypes, strict=True))


def _forward_item(item: _Item, coefficients: Sequence[Tensor], sums: Sequence[Tensor], ends: Sequence[Tensor]) -> None:
    """Add every tile to the sums of its rows and, across the diagonal, of its columns."""
    for rows, columns, diagonal, mirrored in item.tiles():
        graphs = item.graphs(rows, columns, diagonal=diagonal)
        fused = item.hide(item.plan.polynomial(graphs, coefficients, diagonal=diagonal), rows, columns)
        sides = [(rows, columns, fused)] + ([(columns, rows, fused.T)] if mirrored else [])
        narrow = fused.to(item.x.dtype)
        for here, there, tile in sides:
            side = narrow if tile is fused else narrow.T
            _add_product(sums[0][here], side, item.x[there])
        size = fused.abs()
        sums[1][rows] += size.sum(1)
        if mirrored:
            sums[1][columns] += size.sum(0)
        if not ends:
            continue
        for here, there, tile in sides:
            sums[2][here] += tile.sum(1)
            sums[3][here] += tile.square().sum(1)
            for end, reduce, fill in ((ends[0], torch.amin, float("inf")), (ends[1], torch.amax, float("-inf"))):
                found = reduce(item.hide(tile.clone(), here, there, fill), 1)
                end[here] = (torch.minimum if fill > 0 else torch.maximum)(end[here], found.to(end.dtype))


def _backward_item(
    item: _Item,
    coefficients: Sequence[Tensor],
    gradients: Sequence[Tensor],
    by_x: Tensor | None,
    by_coefficients: Sequence[Tensor | None],
    by_vectors: Sequence[Tensor | None],
) -> None:
    """Make every tile again, send the gradient of its sums back into it and from there into what it was made of."""
    by_values, *by_sums = gradients
    by_left, by_right, by_left_offset, by_right_offset = (by_vectors[part::4] for part in range(4))
    if item.square:
        by_right, by_right_offset = by_left, by_left_offset
    outer_left, outer_right = by_values, item.x
    if item.square:  # both sides of the diagonal in one product
        outer_left, outer_right = (torch.cat(pair, 1) for pair in ((by_values, item.x), (item.x, by_values)))
    wanted = [by_left[m] is not None or by_right[m] is not None for m in range(len(by_left))]
    for rows, columns, diagonal, mirrored in item.tiles():
        graphs = [
            one.requires_grad_(want) for one, want in zip(item.graphs(rows, columns, diagonal=diagonal), wanted, strict=True)
        ]
        leaves = [one.detach().requires_grad_(by is not None) for one, by in zip(coefficients, by_coefficients, strict=True)]
        with torch.enable_grad():
            fused = item.plan.polynomial(graphs, leaves, diagonal=diagonal)
        value = item.hide(fused.detach(), rows, columns)
        if by_x is not None:
            narrow = value.to(item.x.dtype)
            _add_product(by_x[columns], narrow.T, by_values[rows])
            if mirrored:
                _add_product(by_x[rows], narrow, by_values[columns])
        if not fused.requires_grad:
            continue
        left, right = (outer_left, outer_right) if mirrored else (by_values, item.x)
        gradient = (left[rows] @ right[columns].T).to(value.dtype)
        gradient = item.hide(_with_sums(gradient, value, by_sums, rows, columns, mirrored=mirrored), rows, columns)
        by_graphs, by_leaves = _gradients(fused, gradient, graphs, leaves)
        for by, found in zip(by_coefficients, by_leaves, strict=True):
            if by is not None and found is not None:
                by += found
        for m, found in enumerate(by_graphs):
            if found is None:
                continue
            inner = inner_gradient(item.plan.maps[m], found, graphs[m].detach(), diagonal=diagonal)
            _add_vectors(inner, _there(item.right[m])[columns], by_left[m], by_left_offset[m], rows)
            _add_vectors(inner.T, _there(item.left[m])[rows], by_right[m], by_right_offset[m], columns)


def _gradients(
    fused: Tensor, gradient: Tensor, graphs: Sequence[Tensor], leaves: Sequence[Tensor]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients in the tiles of the graphs and in the coefficients; None where none is wanted or the tensor was not used."""
    inputs = [one for one in (*graphs, *leaves) if one.requires_grad]
    found = iter(torch.autograd.grad(fused, inputs, gradient, allow_unused=True))
    every = [next(found) if one.requires_grad else None for one in (*graphs, *leaves)]
    return every[: len(graphs)], every[len(graphs) :]


def _with_sums(
    gradient: Tensor, value: Tensor, by_sums: Sequence[Tensor], rows: slice, columns: slice, *, mirrored: bool
) -> Tensor:
    """Add what the degrees and the other row sums send back, in place."""
    per_row = [one[rows, None] + one[columns] if mirrored else one[rows, None] for one in by_sums]
    gradient.addcmul_(value.sign(), per_row[0].to(value.dtype))
    if len(per_row) > 1:
        gradient += per_row[1]
        gradient.addcmul_(value, per_row[2].to(value.dtype), value=2.0)
    return gradient


def _add_vectors(inner: Tensor, others: Tensor, by: Tensor | None, by_offset: Tensor | None, place: slice) -> None:
    if by is not None:
        _add_product(by[place], inner.to(others.dtype), others)
    if by_offset is not None:
        by_offset[place] += inner.sum(1)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a b in place; half-precision products are added up in float32."""
    if total.dtype == a.dtype == b.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b.to(a.dtype)


def _there(tensor: Tensor | None) -> Tensor:
    """For the type checker: what a plan says is there."""
    if tensor is None:
        raise TypeError
    return tensor
