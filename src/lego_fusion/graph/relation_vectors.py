"""Relations as functions of inner products, so that any block of a graph can be made from two short rows of vectors.

    cosine    u = (x - c) / |x - c|         R_ij = <u_i, v_j>, 1 on the diagonal
    dot       u = (x - c) / sqrt(scale)     R_ij = <u_i, v_j>
    gaussian  u = x / s                     R_ij = exp(<u_i, v_j> - |u_i|^2 / 2 - |v_j|^2 / 2)

They are those of ``relationship``, up to rounding: the Gaussian subtracts large numbers from each other where features are many
bandwidths from their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ParameterError
from .relationship import require_positive, require_width, unit_vectors

Map = Literal["cosine", "unit range cosine", "dot", "gaussian"]


@dataclass(frozen=True)
class RelationVectors:
    """What one graph is made from.

    Args:
        map: What is done to inner products.
        left: Vectors of the nodes, (B, N, D).
        right: Vectors of the reference units, (B, K, D); None relates the nodes to each other.
        left_offset: Added to every inner product of a node, (B, N); None adds nothing.
        right_offset: The same for reference units, (B, K).
    """

    map: Map
    left: Float[Tensor, "b n d"]
    right: Float[Tensor, "b k d"] | None = None
    left_offset: Float[Tensor, "b n"] | None = None
    right_offset: Float[Tensor, "b k"] | None = None

    def tensors(self) -> list[Tensor | None]:
        """All four."""
        return [self.left, self.right, self.left_offset, self.right_offset]


def cosine_vectors(
    x: Float[Tensor, "b n d"],
    y: Float[Tensor, "b_or_1 k d"] | None = None,
    *,
    centre: Float[Tensor, " d"] | None = None,
    unit_range: bool = False,
) -> RelationVectors:
    """Vectors of ``cosine_graph``; with ``unit_range`` of (R + 1) / 2.

    Args:
        x: Features of the nodes, (B, N, D).
        y: Features of the reference units, (B or 1, K, D); None relates the nodes to each other.
        centre: Mean of the training features, (D,).
        unit_range: Map cosines to [0, 1].
    """
    right = None if y is None else unit_vectors(y, centre).expand(x.shape[0], -1, -1)
    return RelationVectors("unit range cosine" if unit_range else "cosine", unit_vectors(x, centre), right)


def dot_vectors(
    x: Float[Tensor, "b n d"],
    y: Float[Tensor, "b_or_1 k d"] | None = None,
    *,
    scale: Float[Tensor, ""] | float,
    centre: Float[Tensor, " d"] | None = None,
) -> RelationVectors:
    """Vectors of ``dot_graph``, with its arguments.

    Raises:
        ParameterError: If the scale is not positive, or the centre has another width than the features.
    """
    require_positive(scale, "scale", "dot_vectors")
    if centre is not None:
        require_width(centre, x)
        x, y = x - centre, None if y is None else y - centre
    root = torch.as_tensor(scale, dtype=x.dtype, device=x.device).sqrt()
    return RelationVectors("dot", x / root, None if y is None else (y / root).expand(x.shape[0], -1, -1))


def gaussian_vectors(
    x: Float[Tensor, "b n d"],
    y: Float[Tensor, "b_or_1 k d"] | None = None,
    *,
    bandwidth: Float[Tensor, ""] | float,
) -> RelationVectors:
    """Vectors of ``gaussian_graph``, with its arguments; distances do not change when the mean is subtracted first.

    Raises:
        ParameterError: If the bandwidth is not positive.
    """
    require_positive(bandwidth, "bandwidth", "gaussian_vectors")
    middle = x.detach().mean((0, 1)) if x.numel() else 0.0
    left = (x - middle) / bandwidth
    left_offset = -left.square().sum(-1) / 2
    if y is None:
        return RelationVectors("gaussian", left, None, left_offset)
    right = ((y - middle) / bandwidth).expand(x.shape[0], -1, -1)
    return RelationVectors("gaussian", left, right, left_offset, -right.square().sum(-1) / 2)


def relation_block(map: Map, inner: Float[Tensor, "*entries"], *, diagonal: bool) -> Float[Tensor, "*entries"]:
    """Entries of the graph from inner products (overwritten); ``diagonal`` where the block has the graph's diagonal."""
    if map == "dot":
        return inner
    if map == "gaussian":
        return inner.clamp_(max=0.0).exp_()
    inner.clamp_(-1, 1)
    if diagonal:
        inner.fill_diagonal_(1.0)
    return inner.add_(1).div_(2) if map == "unit range cosine" else inner


def inner_gradient(
    map: Map,
    gradient: Float[Tensor, "*entries"],
    graph: Float[Tensor, "*entries"],
    *,
    diagonal: bool,
) -> Float[Tensor, "*entries"]:
    """Gradient in the inner products from that in the entries (overwritten)."""
    if map == "dot":
        return gradient
    if map == "gaussian":
        return gradient.mul_(graph)
    if diagonal:
        gradient.fill_diagonal_(0.0)
    return gradient.div_(2) if map == "unit range cosine" else gradient


def require_vectors(name: str, vectors: RelationVectors, first: RelationVectors) -> None:
    """Raise where two graphs would differ in shape or dtype."""
    for one, other in ((vectors.left, first.left), (vectors.right, first.right)):
        same = (one is None) == (other is None)
        if one is not None and other is not None:
            same = one.shape[:2] == other.shape[:2] and one.dtype == other.dtype
        if not same:
            raise ParameterError(
                "relations to be fused must have one number of nodes, of references, and one dtype",
                where=f"modality '{name}'",
                expected="none" if other is None else f"(B, N, D) = {tuple(other.shape[:2])} + (D,), {other.dtype}",
                got="none" if one is None else f"{tuple(one.shape)}, {one.dtype}",
            )
