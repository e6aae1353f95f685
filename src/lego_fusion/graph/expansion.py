"""Graph power expansion: the powers R^(0) ... R^(P) of a relationship graph.

    hadamard  R^(p)_ij = r_ij^p         the relation itself, sharpened
    matrix    R^(p) = R R ... R         weighted walks of p steps, on a row- or symmetrically normalised graph

The zeroth power is a choice: ``ones`` (R^(0)_ij = 1, under which a fused entry is a polynomial in its relations) or
``identity`` (R^(0) = I). With ``identity`` and ``hadamard`` every term with p = 0 or q = 0 falls on the diagonal only, and as
a cosine graph has a unit diagonal, those P + Q + 1 coefficients then act as one scalar.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import ParameterError, check_choice, check_int
from .relationship import apply_mask, columns_are_nodes

Expansion = Literal["hadamard", "matrix"]
ZeroOrder = Literal["ones", "identity"]
Normalisation = Literal["row", "symmetric", "none"]


def zeroth_power(
    graph: Float[Tensor, "b n k"],
    zero_order: ZeroOrder = "ones",
    mask: Bool[Tensor, "b n"] | None = None,
    *,
    square: bool | None = None,
) -> Float[Tensor, "b n k"]:
    """R^(0) for a graph: all ones or the identity, with zero rows and columns for masked nodes.

    Args:
        graph: (B, N, N), or (B, N, K) for ``ones``; only its shape, dtype and device count.
        zero_order: ``"ones"`` or ``"identity"``.
        mask: True where a node exists, (B, N).
        square: Whether the columns are the nodes; None goes by the shape, so say False for as many references as nodes.

    Raises:
        ParameterError: If the identity is asked for a graph that is not square (nodes against reference units).
    """
    check_choice(zero_order, "zero_order", "zeroth_power", ("ones", "identity"))
    if zero_order == "ones":
        return apply_mask(torch.ones_like(graph), mask, square=square)
    require_square(graph, "zero_order='identity'", square=square)
    identity = torch.eye(graph.shape[-1], dtype=graph.dtype, device=graph.device)
    return apply_mask(identity.expand_as(graph), mask)


def normalise(graph: Float[Tensor, "b n n"], normalisation: Normalisation) -> Float[Tensor, "b n n"]:
    """Divide a graph by its degrees, so that no matrix power grows: |eigenvalues| <= 1.

    d_i = sum_j |R_ij|;  row: R_ij / d_i;  symmetric: R_ij / sqrt(d_i d_j);  none: R, which may grow. A node without
    relations stays zero.

    Raises:
        ParameterError: If the graph is not square or the normalisation unknown.

    Example:
        >>> normalise(torch.tensor([[[1.0, 3.0], [3.0, 1.0]]]), "row")
        tensor([[[0.2500, 0.7500],
                 [0.7500, 0.2500]]])
    """
    check_choice(normalisation, "normalisation", "normalise", ("row", "symmetric", "none"))
    require_square(graph, "matrix powers")
    if normalisation == "none":
        return graph
    degree = graph.abs().sum(-1)
    degree = torch.where(degree > 0, degree, torch.ones_like(degree))
    if normalisation == "row":
        return graph / degree[:, :, None]
    return graph / degree.sqrt()[:, :, None] / degree.sqrt()[:, None, :]


def powers(
    graph: Float[Tensor, "b n k"],
    order: int,
    *,
    expansion: Expansion = "hadamard",
    zero_order: ZeroOrder = "ones",
    normalisation: Normalisation = "row",
    mask: Bool[Tensor, "b n"] | None = None,
    square: bool | None = None,
) -> list[Tensor]:
    """All powers of a graph, R^(0) to R^(order), each of the graph's shape.

    The operator does not need them for ``hadamard`` (see ``kernels``); this is for matrix powers and for reading.

    Args:
        graph: (B, N, N), or (B, N, K) for ``hadamard`` with ``ones``.
        order: P >= 0.
        expansion: ``"hadamard"`` or ``"matrix"``.
        zero_order: ``"ones"`` or ``"identity"``.
        normalisation: Of the graph before matrix powers: ``"row"``, ``"symmetric"`` or ``"none"``.
        mask: True where a node exists, (B, N).
        square: Whether the columns are the nodes; None goes by the shape, so say False for as many references as nodes.

    Returns:
        P + 1 tensors of the graph's shape; masked nodes have zero rows, and zero columns where columns are nodes.

    Raises:
        ParameterError: If an option is unknown or the graph is not square where it must be.

    Example:
        >>> [power[0, 0, 1].item() for power in powers(torch.tensor([[[1.0, 0.5], [0.5, 1.0]]]), 2)]
        [1.0, 0.5, 0.25]
    """
    check_int(order, "order", "powers", low=0)
    check_choice(expansion, "expansion", "powers", ("hadamard", "matrix"))
    graph = apply_mask(graph, mask, square=square)
    result = [zeroth_power(graph, zero_order, mask, square=square)]
    if expansion == "matrix":
        require_square(graph, "expansion='matrix'", square=square)
        graph = normalise(graph, normalisation)
    for p in range(1, order + 1):
        if p == 1:
            result.append(graph)
        else:
            result.append(result[-1] @ graph if expansion == "matrix" else result[-1] * graph)
    return result


def require_square(graph: Tensor, what: str, *, square: bool | None = None) -> None:
    """Raise ``ParameterError`` where ``what`` needs columns that are nodes and the graph has none."""
    if graph.shape[-1] != graph.shape[-2] or not columns_are_nodes(graph, square):
        raise ParameterError(
            f"{what} is not defined for relations to reference units",
            expected="a graph between nodes (B, N, N)",
            got=str(tuple(graph.shape)),
            fix="use expansion='hadamard' with zero_order='ones'",
        )
