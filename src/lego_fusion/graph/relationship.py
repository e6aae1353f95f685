"""Relationship graphs: how much each node is like each other node or reference unit, and finer units pooled to nodes.

    cosine    R_ij = <x_i, y_j> / (|x_i| |y_j|)                in [-1, 1]
    gaussian  R_ij = exp(-|x_i - y_j|^2 / (2 s^2))             in (0, 1]
    dot       R_ij = <x_i, y_j> / scale                        unbounded

Without ``y`` the nodes relate to each other and R is square; with ``y`` they relate to K reference units and R is (B, N, K).
Cosine forgets magnitude; where magnitude is the signal (speed), use one of the other two.

A node may hold any number of finer units (frames, patches, motion cells, words). With u in i meaning that unit u belongs to
node i, the fine graph R_uv becomes

    mean   R_ij = sum_{u in i, v in j} w_u w_v R_uv / (sum_{u in i} w_u  sum_{v in j} w_v)
    max    R_ij = max_{u in i, v in j} R_uv

So clips, frames, patches and words can enter one fused graph without their features ever being aligned.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import DataError, ParameterError, check_choice, check_int
from .distances import squared_distances


def cosine_graph(
    x: Float[Tensor, "b n d"],
    y: Float[Tensor, "b_or_1 k d"] | None = None,
    *,
    centre: Float[Tensor, " d"] | None = None,
    mask: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b n k_or_n"]:
    """Cosine of the angle between feature vectors, seen from ``centre``.

    R_ij = <x_i - c, y_j - c> / (|x_i - c| |y_j - c|), in [-1, 1]. A vector that equals the centre (or is zero where there is
    none) relates to nothing: 0, and 1 on its own diagonal. Never NaN.

    Args:
        x: Features of the nodes, (B, N, D).
        y: Features of the reference units, (B or 1, K, D); None relates the nodes to each other.
        centre: Mean of the training features, (D,). Uncentred cosines of one camera's embeddings are all near 1.
        mask: True where a node exists, (B, N); a masked node has a zero row, and a zero column where columns are nodes.

    Returns:
        The graph, (B, N, N) with a unit diagonal, or (B, N, K).

    Raises:
        ParameterError: If the centre has another width than the features.

    Source: the paper's relationship graph; centring is ours.

    Example:
        >>> cosine_graph(torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]]]))
        tensor([[[1., 1., 0.],
                 [1., 1., 0.],
                 [0., 0., 1.]]])
    """
    unit_x = unit_vectors(x, centre)
    unit_y = unit_x if y is None else unit_vectors(y, centre)
    graph = (unit_x @ unit_y.transpose(-1, -2)).clamp(-1, 1)
    if y is None:
        graph = _with_diagonal(graph, 1.0)
    return apply_mask(graph, mask, square=y is None)


def gaussian_graph(
    x: Float[Tensor, "b n d"],
    y: Float[Tensor, "b_or_1 k d"] | None = None,
    *,
    bandwidth: Float[Tensor, ""] | float,
    mask: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b n k_or_n"]:
    """Gaussian kernel of the distance between feature vectors: R_ij = exp(-|x_i - y_j|^2 / (2 s^2)), in (0, 1].

    Args:
        x: Features of the nodes, (B, N, D).
        y: Features of the reference units, (B or 1, K, D); None relates the nodes to each other.
        bandwidth: s > 0, in the unit of the features; the method's own choice is ``median_distance``.
        mask: True where a node exists, (B, N).

    Returns:
        The graph, (B, N, N) with a unit diagonal, or (B, N, K).

    Raises:
        ParameterError: If the bandwidth is not positive.

    Example:
        >>> gaussian_graph(torch.tensor([[[0.0], [2.0]]]), bandwidth=1.0)[0, 0, 1].item()  # doctest: +ELLIPSIS
        0.1353...
    """
    require_positive(bandwidth, "bandwidth", "gaussian_graph")
    if y is None and mask is not None:
        x = _without_masked(x, mask)
    scaled = x / bandwidth  # before squaring, which could leave the range of floats
    others = None if y is None else y / bandwidth
    similarity = torch.exp(-0.5 * squared_distances(scaled, others)).to(x.dtype)
    return apply_mask(similarity, mask, square=y is None)


def dot_graph(
    x: Float[Tensor, "b n d"],
    y: Float[Tensor, "b_or_1 k d"] | None = None,
    *,
    scale: Float[Tensor, ""] | float,
    centre: Float[Tensor, " d"] | None = None,
    mask: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b n k_or_n"]:
    """Scaled dot product R_ij = <x_i - c, y_j - c> / scale: direction and magnitude at once.

    Args:
        x: Features of the nodes, (B, N, D).
        y: Features of the reference units, (B or 1, K, D); None relates the nodes to each other.
        scale: The training mean of |x - c|^2, ``mean_squared_norm``, so that entries are about 1.
        centre: c, the point that counts as nothing, (D,); None is the origin.
        mask: True where a node exists, (B, N).

    Returns:
        The graph, (B, N, N) or (B, N, K); the diagonal of a square one is |x_i - c|^2 / scale.

    Raises:
        ParameterError: If the scale is not positive, or the centre has another width than the features.

    Example:
        >>> dot_graph(torch.tensor([[[1.0], [2.0]]]), scale=2.0)
        tensor([[[0.5000, 1.0000],
                 [1.0000, 2.0000]]])
    """
    require_positive(scale, "scale", "dot_graph")
    if centre is not None:
        require_width(centre, x)
        x, y = x - centre, None if y is None else y - centre
    others = x if y is None else y
    return apply_mask(x @ others.transpose(-1, -2) / scale, mask, square=y is None)


def apply_mask(
    graph: Float[Tensor, "b n k"], mask: Bool[Tensor, "b n"] | None, *, square: bool | None = None
) -> Float[Tensor, "b n k"]:
    """Set the rows of masked nodes to zero, and their columns too where columns are nodes.

    Args:
        graph: (B, N, N) or (B, N, K).
        mask: True where a node exists; None leaves the graph alone.
        square: Whether the columns are the nodes; None goes by the shape, so say False for as many references as nodes.
    """
    if mask is None:
        return graph
    graph = graph.masked_fill(~mask[:, :, None], 0.0)
    if columns_are_nodes(graph, square):
        graph = graph.masked_fill(~mask[:, None, :], 0.0)
    return graph


def columns_are_nodes(graph: Float[Tensor, "b n k"], square: bool | None) -> bool:
    """``square`` where it is said, else whether the graph's shape is square."""
    return graph.shape[-1] == graph.shape[-2] if square is None else square


def to_unit_range(
    graph: Float[Tensor, "b n k"], mask: Bool[Tensor, "b n"] | None = None, *, square: bool | None = None
) -> Float[Tensor, "b n k"]:
    """Map a cosine graph from [-1, 1] to [0, 1] by (R + 1) / 2; masked nodes stay zero (``square`` as in ``apply_mask``)."""
    return apply_mask((graph + 1) / 2, mask, square=square)


def k_nearest(
    graph: Float[Tensor, "b n k"],
    neighbours: int,
    *,
    mask: Bool[Tensor, "b n"] | None = None,
    square: bool | None = None,
) -> Float[Tensor, "b n k"]:
    """Keep the ``neighbours`` largest entries of each row, with their exact values, and set the others to zero.

    Where columns are nodes, an edge stays if either end keeps it, so a symmetric graph stays symmetric.

    Args:
        graph: (B, N, N), whose diagonal counts as a neighbour, or (B, N, K).
        neighbours: How many entries a row keeps, in [1, number of columns].
        mask: True where a node exists, (B, N): a masked node is nobody's neighbour, though its zeros exceed a negative entry.
        square: Whether the columns are the nodes; None goes by the shape, so say False for as many references as nodes.

    Raises:
        ParameterError: If ``neighbours`` is not between 1 and the number of columns.
    """
    check_int(neighbours, "neighbours", "k_nearest", low=1, high=graph.shape[-1])
    square = columns_are_nodes(graph, square)
    graph = apply_mask(graph, mask, square=square)
    ranked = graph.masked_fill(~mask[:, None, :], float("-inf")) if square and mask is not None else graph
    kept = torch.zeros_like(graph, dtype=torch.bool)
    kept.scatter_(-1, ranked.topk(neighbours, dim=-1).indices, True)
    if square:
        kept = kept | kept.transpose(-1, -2)
    return graph.masked_fill(~kept, 0.0)


def median_distance(x: Float[Tensor, "n d"], *, at_most: int = 2048) -> Float[Tensor, ""]:
    """Median Euclidean distance over all pairs of different rows: the bandwidth of the Gaussian relation.

    Where more than ``at_most`` rows are given, that many evenly spaced ones stand for them. Of an even number of pairs the
    lower middle one is taken. Where half of the pairs or more coincide, the mean of the non-zero distances is used; where all
    do, 1.

    Raises:
        DataError: If fewer than two rows are given or a value is not finite.
    """
    if x.shape[0] < 2:
        raise DataError("a bandwidth needs at least two units", expected="2 or more rows", got=str(x.shape[0]))
    _require_finite(x)
    if x.shape[0] > at_most:
        x = x[torch.linspace(0, x.shape[0] - 1, at_most, device=x.device).long()]
    above = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
    distances = squared_distances(x.double())[above].sqrt()
    median = distances.median()
    if median == 0:
        positive = distances[distances > 0]
        median = positive.mean() if positive.numel() else torch.ones_like(median)
    return median.to(x.dtype)


def mean_squared_norm(x: Float[Tensor, "n d"], centre: Float[Tensor, " d"] | None = None) -> Float[Tensor, ""]:
    """Mean of |x - c|^2 over rows: the scale of the dot-product relation (1 where all rows are zero).

    Raises:
        DataError: If a value is not finite, or the squares leave the range of the features' dtype.
    """
    _require_finite(x)
    shifted = x.double() if centre is None else x.double() - centre.double()
    mean = shifted.square().sum(-1).mean()
    scale = torch.where(mean > 0, mean, torch.ones_like(mean)).to(x.dtype)
    if not 0 < scale < float("inf"):
        raise DataError(
            "features cannot be squared", expected="|x|^2 in the range of floats", got=f"{mean:.3g}", fix="rescale them"
        )
    return scale


def unit_vectors(x: Float[Tensor, "b n d"], centre: Float[Tensor, " d"] | None) -> Float[Tensor, "b n d"]:
    """Rows of length 1 seen from ``centre``; rows that are the centre up to the rounding of each number become zero."""
    if centre is not None:
        require_width(centre, x)
        x = x - centre
    largest = x.detach().abs().amax(-1, keepdim=True)
    nothing = _is_nothing(x.detach(), largest, centre)
    some = torch.compiler.is_exporting() or bool(nothing.any())  # an exported graph cannot ask
    # dividing by the largest first keeps squares in range
    scaled = x / (torch.where(nothing, torch.ones_like(largest), largest) if some else largest)
    norm = scaled.norm(dim=-1, keepdim=True)
    unit = scaled / (torch.where(nothing, torch.ones_like(largest), norm) if some else norm)
    return unit.masked_fill(nothing, 0.0) if some else unit


def _is_nothing(shifted: Tensor, largest: Tensor, centre: Tensor | None) -> Tensor:
    """Rows of x - c in which every |x_j - c_j| is at most 8 eps (|x_j| + |c_j|); zero rows where there is no centre."""
    if centre is None:
        return largest == 0
    rounding = 8 * torch.finfo(shifted.dtype).eps
    near = largest <= 2 * rounding * (largest + 2 * centre.abs().amax(-1))  # no other row can be: few need a closer look
    if not torch.compiler.is_exporting() and not bool(near.any()):
        return near
    bound = rounding * ((shifted + centre).abs() + centre.abs())
    return near & (shifted.abs() <= bound).all(-1, keepdim=True)


def _without_masked(x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """The first node that exists in place of those that do not, so that what these hold is nowhere in the rounding."""
    first = mask.to(torch.uint8).argmax(1)[:, None, None].expand(-1, 1, x.shape[-1])
    return torch.where(mask[:, :, None], x, x.gather(1, first))


def _with_diagonal(graph: Float[Tensor, "b n n"], value: float) -> Float[Tensor, "b n n"]:
    diagonal = torch.eye(graph.shape[-1], dtype=torch.bool, device=graph.device)
    return graph.masked_fill(diagonal, value)


def require_width(centre: Tensor, x: Tensor) -> None:
    """Raise ``ParameterError`` where a centre does not fit the features."""
    if centre.shape[-1] != x.shape[-1]:
        raise ParameterError("the centre has another width", expected=str(x.shape[-1]), got=str(centre.shape[-1]))


def require_positive(value: Tensor | float, name: str, owner: str) -> None:
    """Raise ``ParameterError`` where a value is not above zero."""
    if not torch.compiler.is_exporting() and not value > 0:
        raise ParameterError(f"The '{name}' parameter of {owner} must be above 0. Got {float(value)} instead")


def _require_finite(x: Tensor) -> None:
    if not torch.isfinite(x).all():
        raise DataError("features hold NaN or infinite values", expected="finite numbers", fix="run the doctor on the dataset")


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
