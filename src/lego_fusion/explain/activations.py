"""Activations of a layer made ready for comparison: checked, centred, on one scale, with what every measure needs kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError

FEWEST_UNBIASED = 4  # the unbiased estimator divides by n (n - 3)


@dataclass(frozen=True, eq=False)
class Centred:
    """The activations of n samples in d dimensions, columns centred, scaled to a mean squared row norm of 1.

    Args:
        rows: (n, d), float32 or float64.
        squares: Squared norm of every row (n,), float64.
        scale: Mean norm that the centred rows had: their root mean square.
        name: Of the layer, for messages.
        gram: rows @ rows.T (n, n), or None where it is not kept.
        source: Where the samples were put into another order: what they were, and the order.
    """

    rows: Float[Tensor, "n d"]
    squares: Float[Tensor, " n"]
    scale: float
    name: str
    gram: Float[Tensor, "n n"] | None = None
    source: tuple[Centred, Int[Tensor, " n"]] | None = None

    def with_gram(self) -> Centred:
        """The same with its Gram matrix."""
        return self if self.gram is not None else replace(self, gram=self.rows @ self.rows.T)

    def permuted(self, order: Int[Tensor, " n"]) -> Centred:
        """The same samples in another order."""
        gram = None if self.gram is None else self.gram[order][:, order]
        return replace(self, rows=self.rows[order], squares=self.squares[order], gram=gram, source=(self, order))

    @cached_property
    def self_product(self) -> float:
        """|X'X|^2, which no order of the samples changes."""
        return squared_product(self, self) if self.source is None else self.source[0].self_product

    @cached_property
    def basis(self) -> tuple[Float[Tensor, "n r"], Float[Tensor, " r"]]:
        """Orthonormal directions of the samples and their singular values, largest first, rounding left out.

        By a thin QR and the SVD of R, whose singular values tell how many columns are real.
        """
        if self.source is not None:
            directions, values = self.source[0].basis
            return directions[self.source[1]], values
        q, r = torch.linalg.qr(self.rows)  # (n, min(n, d)), (min(n, d), d)
        u, s, _ = torch.linalg.svd(r, full_matrices=False)
        kept = s > s[0] * max(self.rows.shape) * torch.finfo(s.dtype).eps
        return (q @ u)[:, kept], s[kept]


def centred(activations: Any, name: str = "activations", *, double: bool = False) -> Centred:
    """Check and centre activations (n, d), given as an array or a tensor.

    float32 stays float32 (half precision becomes it), all else becomes float64; ``double`` makes everything float64.

    Raises:
        DataError: If there are fewer than 2 samples, the shape is not (n, d), a value is not finite, or every column is
            constant.
    """
    if isinstance(activations, Centred):
        return activations
    rows = activations.detach() if isinstance(activations, Tensor) else torch.as_tensor(activations)
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 1:
        raise DataError(
            "activations have a wrong shape",
            where=name,
            expected="(samples, dimensions), at least 2 samples",
            got=tuple(rows.shape),
            fix="flatten or pool every other axis",
        )
    single = rows.dtype in (torch.float32, torch.float16, torch.bfloat16) and not double
    rows = rows.to(torch.float32 if single else torch.float64)
    if not bool(rows.isfinite().all()):
        wrong = int((~rows.isfinite()).any(1).sum())
        raise DataError(
            "activations are not finite", where=name, expected="finite numbers", got=f"{wrong} rows with NaN or inf"
        )
    rows, scale = _to_unit_rows(rows, name)
    return Centred(rows, _squares(rows), scale, name)


def _to_unit_rows(rows: Float[Tensor, "n d"], name: str) -> tuple[Float[Tensor, "n d"], float]:
    """Centre the columns, and divide all by the root mean square of the row norms; no square overflows on the way."""
    largest = torch.maximum(rows.amax(0), -rows.amin(0))
    top = largest.max().clamp_min(torch.finfo(rows.dtype).tiny)
    rows = rows / top
    rows -= rows.mean(0)
    rows -= rows.mean(0)  # again, for what rounding of a large mean left over
    deviation = torch.maximum(rows.amax(0), -rows.amin(0))
    constant = deviation <= 8 * torch.finfo(rows.dtype).eps * largest / top
    if bool(constant.all()):
        raise DataError(
            "features are constant",
            where=name,
            expected="at least one dimension that varies over the samples",
            got=f"no variance in {rows.shape[1]} dimensions",
            fix="leave the layer out, or look for a dead unit",
        )
    rows *= torch.where(constant, 0.0, 1.0 / deviation.max())
    norm = float(_squares(rows).mean().sqrt())
    rows /= norm
    return rows, norm * float(deviation.max()) * float(top)


def _squares(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Squared norm of every row, float64."""
    return torch.linalg.vecdot(rows, rows).double()


def same_samples(x: Centred, y: Centred, *, debiased: bool = False) -> None:
    """Raise ``DataError`` unless both have the same number of samples, enough for the estimator."""
    if len(x.rows) != len(y.rows):
        raise DataError(
            "layers have different numbers of samples",
            where=f"{x.name} and {y.name}",
            expected="the same samples in the same order",
            got=f"{len(x.rows)} and {len(y.rows)}",
        )
    if debiased and len(x.rows) < FEWEST_UNBIASED:
        raise DataError(
            "too few samples for a debiased measure",
            where=f"{x.name} and {y.name}",
            expected=f"at least {FEWEST_UNBIASED}",
            got=len(x.rows),
            fix="give more samples, or say debiased=False and read it beside its noise floor",
        )


def alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the device of the first and in the finer of their two precisions."""
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(first.device, dtype)


def squared_product(x: Centred, y: Centred) -> float:
    """|X'Y|^2 = sum_ij K_ij L_ij, from Gram matrices where both are kept, else from the columns; summed in float64."""
    if x.gram is not None and y.gram is not None:
        return float(torch.linalg.vecdot(*alike(x.gram, y.gram)).double().sum())
    rows, others = alike(x.rows, y.rows)
    product = rows.T @ others
    return float(torch.linalg.vecdot(product, product).double().sum())


def hsic(x: Centred, y: Centred, product: float, *, debiased: bool) -> float:
    """HSIC of centred activations from ``product`` = |X'Y|^2.

    Biased: product / (n - 1)^2. Unbiased: with k and l the squared row norms,
    (product - n / (n - 2) k.l + sum(k) sum(l) / ((n - 1) (n - 2))) / (n (n - 3)),
    which is Song et al.'s estimator with what is known of the row sums of centred Gram matrices put in.
    """
    n = len(x.rows)
    if not debiased:
        return product / (n - 1) ** 2
    squares, others = alike(x.squares, y.squares)
    diagonal = float(squares @ others)
    traces = float(squares.sum() * others.sum())
    return (product - n / (n - 2) * diagonal + traces / ((n - 1) * (n - 2))) / (n * (n - 3))
