"""Euclidean distances by matrix products, and the nearest rows: fast, exact far from the origin, in bounded memory.

    |x_i - y_j|^2 = |x_i - c|^2 + |y_j - c|^2 - 2 <x_i - c, y_j - c>      for any point c

The last term is one matrix product, which a processor does some thirty times faster than differences of all pairs. What it
costs is rounding, of a few eps (|x_i - c|^2 + |y_j - c|^2), called the *scale* of an entry below. So c is a point in the midst
of the rows y: an offset that all rows share is gone before anything is squared, and a few huge rows do not move c.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError, ParameterError, check_int

COPIES = 16.0  # eps of an entry's scale, within which two rows count as copies
SPARE = 4  # further candidates for the nearest rows, so that rounding chooses nothing
FOR_CENTRE = 4096  # rows that the centre is found from
IN_CACHE = 2**18  # entries that are finished together
COLUMNS_PER_ROW = 8  # rows of y in a tile, to one of x


@dataclass(frozen=True)
class Points:
    """Rows prepared once, to which many others are then measured; made by ``prepare``.

    Args:
        centre: c, (1, D) or (B, 1, D).
        rows: y_j - c, in float32 or float64, (K, D) or (B, K, D).
        squares: |y_j - c|^2, (K,) or (B, K).
    """

    centre: Float[Tensor, "*b 1 d"]
    rows: Float[Tensor, "*b k d"]
    squares: Float[Tensor, "*b k"]


def prepare(y: Float[Tensor, "*b k d"], *, centre: Float[Tensor, "*b 1 d"] | None = None) -> Points:
    """What distances to the rows of y need, computed once: centre, centred rows, squared lengths.

    Args:
        y: Rows to measure to, (K, D) or (1, K, D), or (B, K, D) where each item of a batch has its own. Rows of 16 bits are
            kept in float32.
        centre: c; None is ``middle(y)``.

    Example:
        >>> prepare(torch.tensor([[1.0], [3.0]])).squares
        tensor([1., 1.])
    """
    if y.dim() == 3 and y.shape[0] == 1:
        y = y[0]
    y = y.to(_at_least_single(y.dtype))
    centre = middle(y) if centre is None else centre
    rows = y - centre
    return Points(centre, rows, _squares(rows))


def middle(y: Float[Tensor, "*b k d"]) -> Float[Tensor, "*b 1 d"]:
    """A point in the midst of the rows: the mean of those that are not further from the mean of all than the average row is.

    Huge rows, as long as they are fewer than half, pull the mean towards themselves, but are further from it than the rest.
    No gradient flows through it, since distances do not depend on it. Of more than 4,096 rows, that many evenly spaced ones
    are used.

    Example:
        >>> middle(torch.tensor([[1.0], [3.0], [1e6]]))
        tensor([[2.]])
    """
    y = y.detach()
    if y.shape[-2] == 0:
        return y.new_zeros(*y.shape[:-2], 1, y.shape[-1])
    if not torch.compiler.is_exporting() and y.shape[-2] > FOR_CENTRE:  # an exported graph cannot ask
        y = y[..., torch.linspace(0, y.shape[-2] - 1, FOR_CENTRE, device=y.device).long(), :]
    y = y.to(_at_least_single(y.dtype))
    far = (y - y.mean(-2, keepdim=True)).abs().amax(-1)  # not squared, which could leave the range of floats
    near = (far <= 1.001 * far.mean(-1, keepdim=True)).to(y.dtype)  # at least one, however the mean is rounded
    return (near / near.sum(-1, keepdim=True))[..., None, :] @ y


def squared_distances(
    x: Float[Tensor, "*rows d"], y: Float[Tensor, "*b k d"] | Points | None = None
) -> Float[Tensor, "*rows k"]:
    """Squared Euclidean distances of the rows of x to those of y: |x_i - y_j|^2.

    The error is at most 1e-5 of an entry's scale, |x_i - c|^2 + |y_j - c|^2, in float32, and 1e-13 in float64, whatever
    offset the rows share. What is within rounding of zero, 16 eps of its scale, is set to zero, so a copy is at 0 however far
    out it lies; distances of a thousandth of those to the centre are not resolved, which ``nearest`` does. NaN in a row of x
    makes that row NaN, in y all of them; where a square leaves the range of floats, the distance is infinite. It can be
    differentiated, and exported for other runtimes.

    Args:
        x: Rows, (*rows, D).
        y: Rows to measure to, or these prepared: (K, D) or (1, K, D), common to all; (B, K, D) for x (B, N, D), each item to
            its own. None: the rows of x, (N, D) or (B, N, D), to each other; symmetric, with a zero diagonal.

    Returns:
        (*rows, K), in float32, or in float64 if x or y are.

    Raises:
        ParameterError: If the shapes of x and y do not go together.

    Example:
        >>> squared_distances(torch.tensor([[1000.0], [1003.0]]), torch.tensor([[1000.0], [1001.0], [1005.0]]))
        tensor([[ 0.,  1., 25.],
                [ 9.,  4.,  4.]])
    """
    with _full_precision(x):
        points = y if isinstance(y, Points) else prepare(x if y is None else y)
        if y is None:
            rows, squares = points.rows, points.squares
        else:
            _require_fit(x, points)
            rows = x.to(torch.promote_types(x.dtype, points.rows.dtype)) - points.centre
            squares = _squares(rows)
        result = _finish(_product(rows, points), squares, points.squares)
        if y is not None:
            return result
        diagonal = torch.eye(result.shape[-1], dtype=torch.bool, device=x.device)
        return (result / 2 + result.mT / 2).masked_fill(diagonal, 0.0).reshape(*x.shape[:-1], x.shape[-2])


@torch.no_grad()
def mean_distance(x: Float[Tensor, "n d"], *, tile: int = 1024) -> Float[Tensor, ""]:
    """Mean Euclidean distance over all pairs of rows; 0 for a single row.

    Args:
        x: Rows, (N, D).
        tile: Rows that are measured at once: no more than ``tile`` x N distances are held.

    Raises:
        DataError: If there is no row.

    Example:
        >>> mean_distance(torch.tensor([[0.0], [3.0], [6.0]]))
        tensor(4.)
    """
    if len(x) == 0:
        raise DataError("a mean distance needs rows", expected="at least one", got="none")
    points = prepare(x)
    total = points.rows.new_zeros((), dtype=torch.float64)
    for start in range(0, len(x), tile):
        total += squared_distances(x[start : start + tile], points).sqrt_().sum(dtype=torch.float64)
    return (total / max(len(x) * (len(x) - 1), 1)).to(points.rows.dtype)


@torch.no_grad()
def nearest(
    x: Float[Tensor, "*rows d"],
    y: Float[Tensor, "m d"],
    k: int,
    *,
    exclude: tuple[Int[Tensor, "*rows"], Int[Tensor, " m"]] | None = None,
    tile: int = 1024,
) -> tuple[Float[Tensor, "*rows k"], Int[Tensor, "*rows k"]]:
    """The k nearest rows of y to every row of x, by Euclidean distance.

    Candidates come from matrix products; the distances of the k + 4 best of them are then computed again from differences, so
    a returned distance is exact (a copy is at 0), and a row left out is nearer by rounding of the products at most. Memory
    beyond the inputs and the result is that of one tile, for any number of rows. Nothing is differentiated.

    Args:
        x: Rows, (*rows, D); of 16 bits, they are computed in float32.
        y: Rows to find among, (M, D).
        k: How many, in [1, M].
        exclude: Groups of the rows of x, (*rows), and of those of y, (M,): rows of equal groups never meet. It is the mask
            of cross-fitting: a video never finds its own segments.
        tile: Rows of x at once, to eight times as many of y.

    Returns:
        Distances, ascending, and places in y, (*rows, k) both. Of equally near rows the first in y comes first. Where fewer
        than k rows are allowed, the rest are infinitely far, at place -1.

    Raises:
        ParameterError: If k is not in [1, M], or the shapes do not go together.
        DataError: If a value is not finite or too large to be squared.

    Example:
        >>> x, y = torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [8.0], [10.0]])
        >>> nearest(x, y, 1)
        (tensor([[1.],
                [0.]]), tensor([[0],
                [2]]))
        >>> nearest(x, y, 1, exclude=(torch.tensor([7, 8]), torch.tensor([7, 7, 8])))[1].flatten()
        tensor([2, 1])
    """
    check_int(k, "k", "nearest", low=1, high=len(y))
    check_int(tile, "tile", "nearest", low=1)
    if x.shape[-1] != y.shape[-1]:
        raise ParameterError("the rows have different widths", expected=str(y.shape[-1]), got=str(x.shape[-1]))
    rows = x.reshape(-1, x.shape[-1])
    groups = None if exclude is None else _checked_groups(exclude, x, y)
    with _full_precision(x):
        places = _candidates(rows, y, min(k + SPARE, len(y)), groups, tile)
        parts = [_exact(part, y, place, k) for part, place in zip(rows.split(tile), places.split(tile), strict=True)]
    distances, places = (torch.cat(found) for found in zip(*parts, strict=True))
    return distances.reshape(*x.shape[:-1], k), places.reshape(*x.shape[:-1], k)


def _candidates(rows: Tensor, y: Tensor, count: int, groups: tuple[Tensor, Tensor] | None, tile: int) -> Int[Tensor, "n c"]:
    """Places of the ``count`` nearest rows of y by matrix products, in any order; -1 where there are fewer."""
    dtype = torch.promote_types(_at_least_single(rows.dtype), _at_least_single(y.dtype))
    centre = middle(y).to(dtype)
    values = rows.new_full((len(rows), count), torch.inf, dtype=dtype)
    places = torch.full((len(rows), count), -1, device=rows.device)
    columns = COLUMNS_PER_ROW * tile
    for first in range(0, len(y), columns):
        points = prepare(y[first : first + columns].to(dtype), centre=centre)
        _require_finite(points.squares)
        for start in range(0, len(rows), tile):
            here = slice(start, start + tile)
            shifted = rows[here].to(dtype) - centre
            product = _product(shifted, points)  # less |x - c|^2, which a row has in common
            if groups is not None:
                product.masked_fill_(groups[0][here, None] == groups[1][None, first : first + columns], torch.inf)
            found, place = _smallest(product, min(count, product.shape[1]))
            found, place = torch.cat([values[here], found], 1), torch.cat([places[here], place + first], 1)
            values[here], best = found.topk(count, largest=False, sorted=False)
            places[here] = place.gather(1, best)
    return places.masked_fill_(values == torch.inf, -1)


def _smallest(values: Float[Tensor, "n m"], count: int) -> tuple[Float[Tensor, "n c"], Int[Tensor, "n c"]]:
    """The ``count`` smallest entries of each row and where they are: they lie in the groups of the smallest minima."""
    groups = int((values.shape[1] * count) ** 0.5)  # fewest entries to look at
    height = values.shape[1] // max(groups, 1)
    if height < 2 * count or groups < 2 * count:
        found = values.topk(count, largest=False, sorted=False)
        return found.values, found.indices
    body = values[:, : height * groups].unflatten(1, (height, groups))
    chosen = body.amin(1).topk(count, largest=False, sorted=False).indices  # (n, c)
    within = torch.arange(height, device=values.device)[:, None] * groups + chosen[:, None]  # (n, height, c)
    rest = torch.arange(height * groups, values.shape[1], device=values.device).expand(len(values), -1)
    places = torch.cat([within.flatten(1), rest], 1)
    found = values.gather(1, places).topk(count, largest=False, sorted=False)
    return found.values, places.gather(1, found.indices)


def _exact(rows: Tensor, y: Tensor, places: Int[Tensor, "n c"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k nearest of some candidates and their distances, from differences."""
    dtype = torch.promote_types(_at_least_single(rows.dtype), _at_least_single(y.dtype))
    places = places.sort(1).values  # so that the first of equals comes first
    differences = y[places.clamp_min(0)].to(dtype) - rows[:, None].to(dtype)
    distances = torch.linalg.vector_norm(differences, dim=-1)
    _require_finite(distances)
    ranked = distances.masked_fill(places < 0, torch.inf).sort(dim=1, stable=True)
    return ranked.values[:, :k], places.gather(1, ranked.indices)[:, :k]


def _product(rows: Float[Tensor, "*rows d"], points: Points) -> Float[Tensor, "*rows k"]:
    """|y_j - c|^2 - 2 <x_i - c, y_j - c>, in one call."""
    others, squares = points.rows.to(rows.dtype), points.squares.to(rows.dtype)
    if others.dim() > 2:
        return torch.baddbmm(squares[:, None], rows, others.mT, alpha=-2)
    return torch.addmm(squares, rows.reshape(-1, rows.shape[-1]), others.mT, alpha=-2).reshape(*rows.shape[:-1], len(others))


def _finish(product: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Add |x_i - c|^2 (overwriting), set copies and what is below 0 to 0, and mend what left the range of floats."""
    left, right = left[..., None], right[..., None, :]
    if torch.compiler.is_exporting() or product.requires_grad or product.numel() <= IN_CACHE:
        result = _rounded_to_zero(product.add_(left), left)
    else:  # some rows at a time stay in the cache for all steps
        result, at_once = product, max(1, IN_CACHE // product.shape[-1])
        for part, squares in zip(result.flatten(0, -2).split(at_once), left.flatten(0, -2).split(at_once), strict=True):
            _rounded_to_zero(part.add_(squares), squares)
    if torch.compiler.is_exporting() or not bool(left.isfinite().all() & right.isfinite().all()):
        result = result.masked_fill((left + right).isinf(), torch.inf)  # not inf - inf; NaN stays
    return result


def _rounded_to_zero(result: Tensor, left: Tensor) -> Tensor:
    rounding = 2 * COPIES * torch.finfo(result.dtype).eps * left.detach()  # of rows so near, both have this scale
    return result.masked_fill_(result <= rounding, 0.0)


def _squares(rows: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
    return rows.square().sum(-1)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A region in which products keep their operands' precision, where the caller is in one that does not."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _require_fit(x: Tensor, points: Points) -> None:
    if x.shape[-1] != points.rows.shape[-1]:
        raise ParameterError("the rows have different widths", expected=str(points.rows.shape[-1]), got=str(x.shape[-1]))
    if points.rows.dim() == 3 and (x.dim() != 3 or x.shape[0] != points.rows.shape[0]):
        expected = f"a batch of {points.rows.shape[0]}, (B, N, D)"
        raise ParameterError("rows and points are batches of different size", expected=expected, got=str(tuple(x.shape)))


def _require_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise DataError(
            "features hold NaN, infinite or too large values", expected="finite numbers", fix="run the doctor on the dataset"
        )


def _checked_groups(exclude: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if exclude[0].shape != x.shape[:-1] or exclude[1].shape != y.shape[:-1]:
        expected, got = f"{tuple(x.shape[:-1])} and {tuple(y.shape[:-1])}", " and ".join(str(tuple(g.shape)) for g in exclude)
        raise ParameterError("groups do not fit the rows", where="exclude", expected=expected, got=got)
    return exclude[0].reshape(-1), exclude[1]
