"""How alike two representations of the same samples are: CKA, canonical correlations, Procrustes, and the noise floor.

Every measure takes activations (n, d) of the same n samples in the same order, as arrays or tensors of any widths, and is
unchanged when either is shifted or scaled as a whole, and (PWCCA apart) rotated. CCA alone is unchanged by every invertible
linear map, which also means that it cannot tell a signal from a direction of tiny variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from .activations import Centred, alike, centred, hsic, same_samples, squared_product

Measure = Literal["cka", "cka-biased", "cca", "svcca", "pwcca", "procrustes"]
VARIANCE = 0.99  # kept by SVCCA


@dataclass(frozen=True)
class NoiseFloor:
    """What a measure gives when the samples of one side are shuffled, so that nothing is shared.

    Args:
        mean: Over the permutations.
        quantile: Their ``level`` quantile: a similarity below it is not told from chance.
        level: For example 0.95.
        permutations: How many.
    """

    mean: float
    quantile: float
    level: float
    permutations: int


@dataclass(frozen=True, eq=False)
class SimilarityMatrix:
    """Every layer of one side against every layer of the other.

    Args:
        names_a: Layers of the rows, A of them.
        names_b: Layers of the columns, B of them.
        values: Similarities (A, B).
        measure: Which.
        floor: 95 % quantile of each under permuted samples (A, B), where permutations were asked for.
    """

    names_a: tuple[str, ...]
    names_b: tuple[str, ...]
    values: Float64[np.ndarray, "a b"]
    measure: Measure
    floor: Float64[np.ndarray, "a b"] | None = None

    def table(self) -> str:
        """The matrix as text, each similarity with its noise floor in brackets if there is one."""
        cells = [[f"{value:.3f}" for value in row] for row in self.values]
        if self.floor is not None:
            cells = [
                [f"{cell} ({low:.3f})" for cell, low in zip(row, floor, strict=True)]
                for row, floor in zip(cells, self.floor, strict=True)
            ]
        first = max(map(len, self.names_a))
        widths = [max(len(name), *(len(row[place]) for row in cells)) for place, name in enumerate(self.names_b)]
        lines = [" ".join([" " * first, *(name.rjust(width) for name, width in zip(self.names_b, widths, strict=True))])]
        for name, row in zip(self.names_a, cells, strict=True):
            lines.append(" ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(row, widths, strict=True))]))
        return "\n".join(lines)


def cka(x: Any, y: Any, *, debiased: bool = True) -> float:
    """Linear centred kernel alignment: the cosine of the two matrices of similarities between samples.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = X X', L = Y Y'; biased it is |X'Y|^2 / (|X'X| |Y'Y|), columns centred.

    Args:
        x: Activations (n, d), array or tensor.
        y: Activations (n, e) of the same samples.
        debiased: With the unbiased HSIC, near 0 for unrelated data of any width; it may be negative and is not clamped.
            Otherwise in [0, 1], and close to 1 for anything wide: 0.94 for unrelated noise with n = 30 and d = 500.

    Returns:
        The similarity, at most 1.

    Raises:
        DataError: If fewer than 4 samples meet ``debiased``, the numbers of samples differ, a value is not finite, or all
            columns of one side are constant.

    Source: Kornblith et al., arXiv 1905.00414; Song et al. (2012), equation 4, for the unbiased HSIC.

    Example:
        >>> u = np.array([[1.0, 1, -1, -1], [1, -1, 1, -1]]) / 2
        >>> f"{cka(u.T * [2, 1], u.T * [1, 3], debiased=False):.6f}"
        '0.348187'
    """
    return _cka(centred(x, "x"), centred(y, "y"), debiased=debiased)


def minibatch_cka(batches: Iterable[tuple[Any, Any]], *, debiased: bool = True) -> float:
    """CKA of activations that come in batches: each of the three HSIC is averaged over batches, then the ratio is taken.

    Debiased, the averages are unbiased for any batch size, so that the value does not depend on how the samples were
    batched except through noise; biased, small batches push it to 1. Computed in float64.

    Args:
        batches: Pairs of activations (n, d) and (n, e); every batch counts the same.
        debiased: As for ``cka``.

    Returns:
        The similarity.

    Raises:
        DataError: As ``cka`` for every batch, and if there is none.

    Source: Nguyen, Raghu and Kornblith, arXiv 2010.15327, equation 3.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(64, 3))
        >>> round(minibatch_cka((rows[start : start + 16], -2 * rows[start : start + 16]) for start in range(0, 64, 16)), 9)
        1.0
    """
    sums, unit = np.zeros(3), None
    for number, (first, second) in enumerate(batches):
        x, y = centred(first, f"x of batch {number}", double=True), centred(second, f"y of batch {number}", double=True)
        same_samples(x, y, debiased=debiased)
        unit = unit or (x.scale, y.scale)  # batches keep their scale relative to each other
        a, b = (x.scale / unit[0]) ** 2, (y.scale / unit[1]) ** 2
        sums += [a * b, a * a, b * b] * np.array(_three_hsic(x, y, debiased=debiased))
    if unit is None:
        raise DataError("there are no batches", expected="at least one pair of activations", got="none")
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def cca(x: Any, y: Any) -> Float64[np.ndarray, " r"]:
    """Canonical correlations, largest first: singular values of Qx' Qy with orthonormal bases Q of the centred columns.

    Columns that depend on others are left out of the bases, so r is the smaller of the two ranks.

    Args:
        x: Activations (n, d).
        y: Activations (n, e) of the same samples.

    Returns:
        Correlations (r,) in [0, 1]; their mean is the usual similarity.

    Raises:
        DataError: As ``cka``, and if one side has rank n - 1, as then every correlation is 1 whatever the data.

    Source: Hotelling (1936); Bjorck and Golub (1973) for the computation.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 3))
        >>> cca(rows, rows @ [[1, 2, 0], [0, 1, 5], [3, 0, 1]]).round(9).tolist()  # an invertible map
        [1.0, 1.0, 1.0]
    """
    return _as_array(_canonical(centred(x, "x"), centred(y, "y"))[1])


def svcca(x: Any, y: Any, *, variance: float = VARIANCE) -> float:
    """Mean canonical correlation of the leading principal components that hold ``variance`` of each side.

    Args:
        x: Activations (n, d).
        y: Activations (n, e) of the same samples.
        variance: Share of the variance kept on each side, in (0, 1]; 0.99 as in the paper.

    Returns:
        The similarity in [0, 1].

    Raises:
        DataError: As ``cca``.
        ParameterError: If ``variance`` is not in (0, 1].

    Source: Raghu et al., arXiv 1706.05806.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(svcca(rows, rows + 7.0), 9)
        1.0
    """
    if check_number(variance, "variance", "svcca", low=0.0, high=1.0) == 0:
        raise ParameterError(f"The 'variance' parameter of svcca must be a number in (0, 1]. Got {variance!r} instead")
    return _svcca(centred(x, "x"), centred(y, "y"), variance)


def pwcca(x: Any, y: Any) -> float:
    """Mean canonical correlation, weighted by how much of X each canonical direction h_i accounts for.

    PWCCA = sum_i alpha_i rho_i / sum_i alpha_i, alpha_i = sum_j |<h_i, x_j>| over the columns x_j of X.

    Not symmetric: the weights are those of ``x``. Unlike the other measures it depends on the axes of X, so a rotation of
    its columns moves it a little. As many directions count as the smaller rank has: what a wider X has beyond them is ignored.

    Args:
        x: Activations (n, d), whose directions are weighted.
        y: Activations (n, e) of the same samples.

    Returns:
        The similarity in [0, 1].

    Raises:
        DataError: As ``cca``.

    Source: Morcos, Raghu and Bengio, arXiv 1806.05759.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(pwcca(rows[:, :2], rows), 9)
        1.0
    """
    return _pwcca(centred(x, "x"), centred(y, "y"))


def procrustes(x: Any, y: Any) -> float:
    """What is left to agree on after the best rotation: |X'Y|_* / (|X| |Y|), the nuclear norm over the Frobenius norms.

    It is 1 - d / 2 with the Procrustes distance d = min_R |X / |X| - Y R / |Y||^2; columns are centred.

    Args:
        x: Activations (n, d).
        y: Activations (n, e) of the same samples.

    Returns:
        The similarity in [0, 1].

    Raises:
        DataError: As ``cka``, but for the number of samples.

    Source: Ding, Denain and Steinhardt, arXiv 2108.01661; Schonemann (1966).

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 2))
        >>> round(procrustes(rows, 3 * rows @ [[0, 1], [-1, 0]]), 9)
        1.0
    """
    return _procrustes(centred(x, "x"), centred(y, "y"))


def noise_floor(
    x: Any, y: Any, measure: Measure = "cka", *, permutations: int = 100, level: float = 0.95, seed: int = 0
) -> NoiseFloor:
    """What a measure gives for these activations when the samples of ``y`` are shuffled.

    Args:
        x: Activations (n, d).
        y: Activations (n, e).
        measure: One of ``"cka"`` (debiased), ``"cka-biased"``, ``"cca"`` (mean), ``"svcca"``, ``"pwcca"``, ``"procrustes"``.
        permutations: How many, 1 or more.
        level: Of the quantile, in [0, 1].
        seed: Of the permutations.

    Returns:
        Mean and quantile over the permutations.

    Raises:
        DataError: As the measure.

    Example:
        >>> wide = np.random.default_rng(0).normal(size=(30, 500))
        >>> noise_floor(wide, wide[:, ::-1].copy(), "cka-biased").mean > 0.9
        True
    """
    compare = _comparison(measure)
    check_number(level, "level", "noise_floor", low=0.0, high=1.0)
    check_int(permutations, "permutations", "noise_floor", low=1)
    first, second = centred(x, "x"), centred(y, "y")
    if measure in ("cka", "cka-biased") and _grams_pay([first, second], permutations, None):
        first, second = first.with_gram(), second.with_gram()
    values = _permuted(first, second, compare, permutations, seed)
    return NoiseFloor(float(values.mean()), float(np.quantile(values, level)), level, permutations)


def similarity_matrix(
    layers_a: Mapping[str, Any],
    layers_b: Mapping[str, Any],
    measure: Measure = "cka",
    *,
    permutations: int = 0,
    seed: int = 0,
    keep_grams: bool | None = None,
) -> SimilarityMatrix:
    """Compare every layer of one side with every layer of the other, each layer prepared once.

    Args:
        layers_a: Activations (n, d) by name of layer.
        layers_b: The same for the other side; a layer that is the same object on both sides is prepared once.
        measure: As for ``noise_floor``.
        permutations: For the noise floor of every pair; 0 for none. Each costs as much as the pair itself.
        seed: Of the permutations.
        keep_grams: For CKA, keep the Gram matrix (n, n) of each layer, so that a pair costs n^2 multiplications instead of
            n d e. None: where that takes fewer in all. Memory: 4 n^2 bytes per layer in float32.

    Returns:
        The similarities, and their floor if asked for.

    Raises:
        DataError: As the measure; it names the layers.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(40, 6))
        >>> print(similarity_matrix({"early": rows, "late": rows[:, :2]}, {"other": 2 * rows}).table())
              other
        early 1.000
        late  0.561
    """
    compare = _comparison(measure)
    check_int(permutations, "permutations", "similarity_matrix", low=0)
    if not layers_a or not layers_b:
        raise DataError("there are no layers to compare", expected="at least one on each side", got="none")
    a_side = dict(layers_a)
    b_side = a_side if layers_b is layers_a else dict(layers_b)
    ready: dict[int, Centred] = {}
    for name, layer in [*a_side.items(), *b_side.items()]:
        if id(layer) not in ready:
            ready[id(layer)] = centred(layer, f"layer '{name}'")
    if measure in ("cka", "cka-biased") and _grams_pay(list(ready.values()), len(a_side) * len(b_side), keep_grams):
        ready = {key: layer.with_gram() for key, layer in ready.items()}
    pairs = [[(ready[id(a)], ready[id(b)]) for b in b_side.values()] for a in a_side.values()]
    values = np.array([[compare(a, b) for a, b in row] for row in pairs], dtype=np.float64)
    floor = None
    if permutations:
        floor = np.array([[np.quantile(_permuted(a, b, compare, permutations, seed), 0.95) for a, b in row] for row in pairs])
    return SimilarityMatrix(tuple(a_side), tuple(b_side), values, measure, floor)


def _grams_pay(layers: list[Centred], pairs: int, keep: bool | None) -> bool:
    """Whether Gram matrices take fewer multiplications than products of columns."""
    if keep is not None:
        return keep
    samples, widths = len(layers[0].rows), [layer.rows.shape[1] for layer in layers]
    with_grams = sum(widths) * samples**2 + (pairs + len(layers)) * samples**2
    without = samples * (sum(width**2 for width in widths) + pairs * float(np.mean(widths)) ** 2)
    return with_grams < without


def _comparison(measure: Measure) -> Callable[[Centred, Centred], float]:
    comparisons: dict[Measure, Callable[[Centred, Centred], float]] = {
        "cka": lambda x, y: _cka(x, y, debiased=True),
        "cka-biased": lambda x, y: _cka(x, y, debiased=False),
        "cca": lambda x, y: float(_canonical(x, y)[1].mean()),
        "svcca": lambda x, y: _svcca(x, y, VARIANCE),
        "pwcca": _pwcca,
        "procrustes": _procrustes,
    }
    check_choice(measure, "measure", "similarity", tuple(comparisons))
    return comparisons[measure]


def _permuted(
    x: Centred, y: Centred, compare: Callable[[Centred, Centred], float], permutations: int, seed: int
) -> Float64[np.ndarray, " p"]:
    same_samples(x, y)
    generator = torch.Generator().manual_seed(check_int(seed, "seed", "similarity", low=0))
    orders = (torch.randperm(len(y.rows), generator=generator).to(y.rows.device) for _ in range(permutations))
    return np.array([compare(x, y.permuted(order)) for order in orders])


def _cka(x: Centred, y: Centred, *, debiased: bool) -> float:
    same_samples(x, y, debiased=debiased)
    cross, own, other_own = _three_hsic(x, y, debiased=debiased)
    return cross / float(np.sqrt(own * other_own))


def _three_hsic(x: Centred, y: Centred, *, debiased: bool) -> tuple[float, float, float]:
    """HSIC of x with y, of x with itself and of y with itself."""
    cross = hsic(x, y, squared_product(x, y), debiased=debiased)
    own = [hsic(layer, layer, layer.self_product, debiased=debiased) for layer in (x, y)]
    for layer, value in zip((x, y), own, strict=True):
        if value * len(layer.rows) ** 2 <= 8 * torch.finfo(layer.rows.dtype).eps * layer.self_product:
            raise DataError(
                "samples are all equally far from each other, and the debiased measure is 0 / 0",
                where=layer.name,
                expected="some samples nearer than others",
                fix="drop identity-like features, or say debiased=False",
            )
    return cross, own[0], own[1]


def _canonical(x: Centred, y: Centred) -> tuple[Tensor, Tensor]:
    """Canonical directions of x (n, r) and correlations (r,)."""
    same_samples(x, y)
    return _correlate(x, y, x.basis[0], y.basis[0])


def _correlate(x: Centred, y: Centred, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for layer, basis in ((x, first), (y, second)):
        if basis.shape[1] >= len(basis) - 1:
            raise DataError(
                "as many directions as samples: every canonical correlation is 1 whatever the data",
                where=layer.name,
                expected=f"rank below {len(basis) - 1}",
                got=basis.shape[1],
                fix="give more samples than dimensions, or compare with CKA",
            )
    first, second = alike(first, second)
    u, s, _ = torch.linalg.svd(first.T @ second, full_matrices=False)
    return first @ u, s.clamp(max=1.0)  # rounding goes a little above 1


def _svcca(x: Centred, y: Centred, variance: float) -> float:
    same_samples(x, y)
    kept = []
    for layer in (x, y):
        directions, s = layer.basis
        shares = s.double().square().cumsum(0) / s.double().square().sum()
        enough = int((shares < variance * (1 - 1e-12)).sum()) + 1
        kept.append(directions[:, :enough])
    return float(_correlate(x, y, *kept)[1].mean())


def _pwcca(x: Centred, y: Centred) -> float:
    directions, correlations = _canonical(x, y)
    directions, rows = alike(directions, x.rows)
    weights = (directions.T @ rows).abs().sum(1)
    return float((weights * correlations).sum() / weights.sum())


def _procrustes(x: Centred, y: Centred) -> float:
    same_samples(x, y)
    rows, others = alike(x.rows, y.rows)
    nuclear = torch.linalg.svdvals(rows.T @ others).double().sum()
    return float(nuclear / len(x.rows))  # both have a squared Frobenius norm of n


def _as_array(correlations: Tensor) -> Float64[np.ndarray, " r"]:
    return correlations.double().cpu().numpy()
