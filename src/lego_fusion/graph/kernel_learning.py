"""The operator as multiple kernel learning: A is learned in closed form, from the leave-one-out error of kernel ridge.

A cosine or a Gaussian graph is a kernel, and so is an elementwise product of two (Schur). With A >= 0 the operator of order 1,

    G = sum_k w_k K_k / v_k        K_k: the kernel of one view, or the product of the kernels of two views

is a kernel again. v_k is the variance of kernel k (mean diagonal once centred), w the softmax of what is learned, so that w_k
is the share of kernel k. Kernel ridge on G predicts f(x) = mean(y) + sum_i alpha_i (g(x, x_i) - mean_j g(x_j, x_i)), where with
K = H G H and H = I - 11^T / n,

    C = (K + lambda I)^-1,   alpha = C (y - mean(y)),   y_i - f_without_i(x_i) = alpha_i / (C_ii - 1 / (n lambda)).

The last line is the prediction error for sample i by a ridge fitted without it, without fitting n models. A and lambda that
were chosen by this very error have seen every sample: it is then too small, and what is said of new data comes from folds in
which they are chosen again (``estimators``). The subtracted term is what the mean costs: it is refitted too. Without it the
formula reads no error at all on pure noise once lambda is small, because the constant vector, which no centred kernel explains,
then fills C_ii.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, check_int, check_number

RIDGES = tuple(float(ridge) for ridge in torch.logspace(-7, 3, 41, dtype=torch.float64))
LEARNING_RIDGES = RIDGES[12:]  # from 1e-4: below, the kernels that are not asked fill what is left and A cannot be read
MIXTURES = ("averaged", "uniform", "additive", "full")  # how weights are made, see ``learn_mixture``
WEAKEST = 1e-12  # share of the largest eigenvalue below which a direction between landmarks is rounding
Factor = tuple[str, str]  # (kernel, view), such as ("gaussian", "motion")


@dataclass(frozen=True)
class Term:
    """One kernel of the dictionary: of a view, or the product of two views' kernels.

    Example:
        >>> print(Term((("cosine", "text"), ("gaussian", "motion"))))
        cosine(text) * gaussian(motion)
    """

    factors: tuple[Factor, ...]

    def __str__(self) -> str:
        return " * ".join(f"{kernel}({view})" for kernel, view in self.factors)

    def uses(self, views: Iterable[str]) -> bool:
        """Whether any of these views takes part."""
        return any(view in set(views) for _, view in self.factors)


class LearnedWeights(NamedTuple):
    """The share of each kernel and the ridge that the leave-one-out error chose; the loss before every step and at the end."""

    weights: Float[Tensor, " k"]
    ridge: float
    losses: list[float]


class Ridge(NamedTuple):
    """A fitted kernel ridge.

    f(x) = mean + (g(x, supports) - column mean of g over the training rows) @ coefficients.
    """

    mean: Float[Tensor, " c"]
    coefficients: Float[Tensor, "m c"]
    residuals: Float[Tensor, "n c"]  # leave-one-out: y_i - f_without_i(x_i)
    ridge: float
    losses: Float[Tensor, " r"]  # mean squared leave-one-out residual of every ridge tried


def dictionary(kernels: Mapping[str, Sequence[str]], *, products: bool = True) -> list[Term]:
    """All kernels of every view, then all products of the kernels of two different views.

    Args:
        kernels: The kernels of each view by its name.
        products: Whether the products are wanted; without them the operator is additive.

    Example:
        >>> terms = dictionary({"a": ["cosine", "gaussian"], "b": ["cosine"]})
        >>> print(*terms, sep="; ")
        cosine(a); gaussian(a); cosine(b); cosine(a) * cosine(b); gaussian(a) * cosine(b)
    """
    singles = {view: [(kernel, view) for kernel in names] for view, names in kernels.items()}
    terms = [Term((factor,)) for factors in singles.values() for factor in factors]
    if products:
        for one, other in itertools.combinations(singles.values(), 2):
            terms += [Term(pair) for pair in itertools.product(one, other)]
    return terms


def evaluate_terms(terms: Sequence[Term], graphs: Mapping[Factor, Float[Tensor, "n m"]]) -> Float[Tensor, "k n m"]:
    """Every kernel of the dictionary, stacked; for the few hundred rows that A is learned from."""
    stack = []
    for term in terms:
        first, *rest = (graphs[factor] for factor in term.factors)
        for graph in rest:
            first = first * graph
        stack.append(first)
    return torch.stack(stack)


def mix_terms(
    terms: Sequence[Term], weights: Float[Tensor, " k"], graphs: Mapping[Factor, Float[Tensor, "n m"]]
) -> Float[Tensor, "n m"]:
    """G = sum_k weights_k K_k for any number of rows, with no product stored: each is added as it is made.

    Terms whose factors start alike are gathered, K_a * (w_a + sum_b w_ab K_b), so that a product costs one multiply-add.
    """
    gathered: dict[Factor, list[tuple[float, Factor | None]]] = {}
    for term, weight in zip(terms, weights.tolist(), strict=True):
        if weight:
            gathered.setdefault(term.factors[0], []).append((weight, term.factors[1] if len(term.factors) == 2 else None))
    total = torch.zeros_like(next(iter(graphs.values())))
    for first, others in gathered.items():
        inner = torch.full_like(total, sum(weight for weight, other in others if other is None))
        for weight, other in others:
            if other is not None:
                inner.add_(graphs[other], alpha=weight)
        total.addcmul_(graphs[first], inner)
    return total


def term_means(
    terms: Sequence[Term], graphs: Mapping[Factor, Float[Tensor, "n m"]], shares: Float[Tensor, " n"]
) -> Float[Tensor, "k m"]:
    """Column sum over the rows of every kernel, each row times its share: the mean, which centring at prediction subtracts."""
    columns = []
    for term in terms:
        first, *rest = (graphs[factor] for factor in term.factors)
        columns.append(torch.einsum("n,nm,nm->m", shares, first, rest[0]) if rest else shares @ first)
    return torch.stack(columns)


def centre_kernel(kernel: Float[Tensor, "*k n n"]) -> Float[Tensor, "*k n n"]:
    """H K H with H = I - 11^T / n: the kernel of the features minus their mean.

    Example:
        >>> centre_kernel(torch.tensor([[4.0, 2.0], [2.0, 1.0]]))
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]])
    """
    rows = kernel.mean(-1, keepdim=True)
    return kernel - rows - kernel.mean(-2, keepdim=True) + rows.mean(-2, keepdim=True)


def kernel_variances(kernels: Float[Tensor, "k n n"]) -> Float[Tensor, " k"]:
    """v_k: mean diagonal of each kernel once centred; 1 for a kernel that is constant, which then stays zero once centred."""
    variance = kernels.diagonal(dim1=-2, dim2=-1).mean(-1) - kernels.mean((-2, -1))
    scale = kernels.diagonal(dim1=-2, dim2=-1).abs().mean(-1)
    return torch.where(variance > 1e-12 * scale, variance, torch.ones_like(variance))


def leave_one_out_residuals(
    kernel: Float[Tensor, "n n"], targets: Float[Tensor, "n c"], ridge: float | Float[Tensor, ""]
) -> Float[Tensor, "n c"]:
    """Error for every sample of the kernel ridge that is fitted, mean and all, without it: alpha_i / (C_ii - 1 / (n lambda)).

    Args:
        kernel: Centred, (n, n), positive semidefinite.
        targets: One column per output, (n, c); not centred.
        ridge: lambda > 0.

    Returns:
        y_i - f_without_i(x_i), (n, c). Differentiable in all three.

    Source: the predicted residual sum of squares (PRESS) of a least-squares model with a mean of its own.

    Example: without any kernel the model is the mean of the others.
        >>> leave_one_out_residuals(torch.zeros(3, 3), torch.tensor([[0.0], [0.0], [3.0]]), 1.0).flatten()
        tensor([-1.5000, -1.5000,  3.0000])
    """
    samples = len(kernel)
    inverse = torch.linalg.inv(kernel + ridge * torch.eye(samples, dtype=kernel.dtype, device=kernel.device))
    alpha = inverse @ (targets - targets.mean(0))
    residuals: Tensor = alpha / (inverse.diagonal() - 1 / (samples * ridge))[:, None]
    return residuals


def start_weights(terms: Sequence[Term], *, dtype: torch.dtype = torch.float64) -> Float[Tensor, " k"]:
    """Where learning starts: half on the views' own kernels alike, half on the products alike; all where there are none."""
    single = torch.tensor([len(term.factors) == 1 for term in terms])
    counts = torch.where(single, single.sum(), (~single).sum()).to(dtype)
    return 1 / counts / (1 if bool(single.all()) else 2)


def learn_weights(
    kernels: Float[Tensor, "k n n"],
    targets: Float[Tensor, "n c"],
    start: Float[Tensor, " k"],
    *,
    steps: int = 50,
    learning_rate: float = 0.1,
    ridge: float | None = None,
) -> LearnedWeights:
    """Softmax weights, and the ridge with them, that minimise the mean squared leave-one-out residual, by Adam.

    Args:
        kernels: Each centred and divided by its variance, (K, n, n); a few hundred rows are enough.
        targets: (n, c), best of unit scale.
        start: Positive weights that sum to one, (K,).
        steps: Steps of Adam; 0 keeps the start and only chooses the ridge.
        learning_rate: Of Adam, on the logits and on log lambda.
        ridge: Keep lambda at this value instead of learning it.

    Returns:
        The weights of the last step; deterministic.

    Raises:
        DataError: If the leave-one-out error is not finite.
    """
    check_int(steps, "steps", "learn_weights", low=0)
    check_number(learning_rate, "learning_rate", "learn_weights", low=0.0)
    logits = start.log().clone().requires_grad_()
    first = solve_ridge(torch.tensordot(start, kernels, 1), targets, LEARNING_RIDGES).ridge if ridge is None else ridge
    log_ridge = torch.tensor(first, dtype=kernels.dtype).log().requires_grad_()
    adam = torch.optim.Adam([logits, log_ridge] if ridge is None else [logits], lr=learning_rate)
    losses = []
    for step in range(steps + 1):
        weights, strength = logits.softmax(0), log_ridge.exp()
        mixed = torch.tensordot(weights.detach(), kernels, 1)
        loss, by_kernel, by_ridge = leave_one_out_gradient(mixed, targets, float(strength.detach()))
        losses.append(loss)
        if not math.isfinite(loss):
            raise DataError(
                "the leave-one-out error is not finite", fix="look for features of extreme size, or set a larger ridge"
            )
        if step < steps:
            adam.zero_grad()
            by_weight = torch.tensordot(kernels, by_kernel, 2)
            torch.autograd.backward([weights, strength], [by_weight, torch.full_like(strength, by_ridge)])
            adam.step()
            with torch.no_grad():
                log_ridge.clamp_(math.log(LEARNING_RIDGES[0]), math.log(LEARNING_RIDGES[-1]))
    return LearnedWeights(logits.detach().softmax(0), float(log_ridge.detach().exp()), losses)


def learn_mixture(
    terms: Sequence[Term],
    kernels: Float[Tensor, "k n n"],
    targets: Float[Tensor, "n c"],
    mixture: str = "averaged",
    *,
    steps: int = 50,
    ridge: float | None = None,
) -> tuple[Float[Tensor, " k"], list[float]]:
    """The weights of a mixture and the losses of the last learning: one of ``MIXTURES``.

    ``"uniform"``: alike for the kernels of views; ``"additive"``: learned over these; ``"full"``: learned over all;
    ``"averaged"``: the mean of the three, which is less sure of the few rows that A is learned from.

    Args:
        terms: What the kernels are, (K).
        kernels: As for ``learn_weights``.
        targets: As for ``learn_weights``.
        mixture: One of ``MIXTURES``.
        steps: As for ``learn_weights``.
        ridge: As for ``learn_weights``.
    """
    single = torch.tensor([len(term.factors) == 1 for term in terms])
    parts = MIXTURES[1:] if mixture == "averaged" else (mixture,)
    total, losses = torch.zeros(len(terms), dtype=kernels.dtype), []
    for part in parts:
        among = torch.ones_like(single) if part == "full" else single
        start = start_weights([term for term, there in zip(terms, among.tolist(), strict=True) if there], dtype=kernels.dtype)
        taken = 0 if part == "uniform" else steps
        learned = learn_weights(kernels[among], targets, start, steps=taken, ridge=ridge)
        total[among] += learned.weights / len(parts)
        losses = learned.losses
    return total, losses


def leave_one_out_gradient(
    kernel: Float[Tensor, "n n"], targets: Float[Tensor, "n c"], ridge: float
) -> tuple[float, Float[Tensor, "n n"], float]:
    """The mean squared leave-one-out residual, its gradient by the kernel and its derivative by the ridge, in closed form.

    With r_i the residuals, d_i = C_ii - 1 / (n lambda), p_i = 2 r_i / (N d_i) and q_i = p_i r_i (summed over outputs), N = n c:

        dL/dK = C diag(q) C - C p alpha^T,   dL/dlambda = trace dL/dK - sum_i q_i / (n lambda^2).

    One inverse and one matrix product, where automatic differentiation of the inverse takes four.
    """
    samples = len(kernel)
    shifted = kernel.clone()
    shifted.diagonal().add_(ridge)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
    alpha = inverse @ (targets - targets.mean(0))
    divisor = (inverse.diagonal() - 1 / (samples * ridge))[:, None]
    residuals = alpha / divisor
    pull = 2 * residuals / (residuals.numel() * divisor)
    curvature = (pull * residuals).sum(1)
    by_kernel = (inverse * curvature) @ inverse - (inverse @ pull) @ alpha.mT
    by_ridge = by_kernel.trace() - curvature.sum() / (samples * ridge**2)
    return float(residuals.square().mean()), by_kernel, float(by_ridge)


def solve_ridge(
    kernel: Float[Tensor, "n n"],
    targets: Float[Tensor, "n c"],
    ridges: Sequence[float] = RIDGES,
    *,
    counts: Float[Tensor, " n"] | None = None,
) -> Ridge:
    """Kernel ridge with a mean of its own; the ridge of the smallest leave-one-out error, from one eigendecomposition.

    With s_i how much a row counts (mean 1) it minimises sum_i s_i (y_i - f(x_i))^2 + lambda |f|^2, which is the ridge of
    S^1/2 K S^1/2 on S^1/2 (y - mean); alpha_i is then divided by (C_ii - s_i / (n lambda)) s_i^1/2.

    Args:
        kernel: Positive semidefinite, (n, n), centred where every row counts alike. The supports of the result are its rows.
        targets: (n, c).
        ridges: Every lambda to try, > 0.
        counts: How much each row counts, (n,), >= 0; None for alike.
    """
    samples = len(kernel)
    counts = (
        torch.ones(samples, dtype=kernel.dtype, device=kernel.device) if counts is None else counts * samples / counts.sum()
    )
    root, mean = counts.sqrt(), counts @ targets / samples
    if bool((counts != 1).any()):
        columns = counts @ kernel / samples
        kernel = root[:, None] * (kernel - columns - columns[:, None] + columns @ counts / samples) * root
    values, vectors = torch.linalg.eigh(kernel)
    rotated = vectors.mT @ (root[:, None] * (targets - mean))
    squares = vectors.square()

    def alpha_and_residuals(ridge: float) -> tuple[Tensor, Tensor]:
        shrunk = 1 / (values.clamp_min(0) + ridge)
        alpha = vectors @ (shrunk[:, None] * rotated)
        divisor = (squares @ shrunk - counts / (samples * ridge)) * root
        return root[:, None] * alpha, alpha / divisor[:, None]

    return _best_ridge(mean, counts, ridges, alpha_and_residuals)


def solve_landmark_ridge(
    to_landmarks: Float[Tensor, "n m"],
    landmarks: Float[Tensor, "m m"],
    targets: Float[Tensor, "n c"],
    ridges: Sequence[float] = RIDGES,
    *,
    counts: Float[Tensor, " n"] | None = None,
) -> Ridge:
    """The same with G replaced by G_nm G_mm^-1 G_mn (Nystroem): time n m^2, memory n m. Leave-one-out errors are exact for it.

    Args:
        to_landmarks: G of the training rows against the landmarks, (n, m), not centred.
        landmarks: G of the landmarks among themselves, (m, m), not centred.
        targets: (n, c).
        ridges: Every lambda to try, > 0.
        counts: As for ``solve_ridge``.
    """
    samples = len(targets)
    counts = torch.ones(samples, dtype=targets.dtype) if counts is None else counts * samples / counts.sum()
    root, mean = counts.sqrt()[:, None], counts @ targets / samples
    values, vectors = torch.linalg.eigh(landmarks)
    kept = values > WEAKEST * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    whiten = vectors[:, kept] / values[kept].sqrt()
    features = to_landmarks @ whiten
    features = root * (features - counts @ features / samples)
    wanted = root * (targets - mean)
    spread, axes = torch.linalg.eigh(features.mT @ features)
    scores = features @ axes
    squares, rotated = scores.square(), scores.mT @ wanted

    def coefficients_and_residuals(ridge: float) -> tuple[Tensor, Tensor]:
        shrunk = 1 / (spread.clamp_min(0) + ridge)
        fitted = scores @ (shrunk[:, None] * rotated)
        divisor = (1 - squares @ shrunk - counts / samples)[:, None] * root
        return whiten @ (axes @ (shrunk[:, None] * rotated)), (wanted - fitted) / divisor

    return _best_ridge(mean, counts, ridges, coefficients_and_residuals)


def _best_ridge(
    mean: Tensor, counts: Tensor, ridges: Sequence[float], solve: Callable[[float], tuple[Tensor, Tensor]]
) -> Ridge:
    there = counts > 0
    losses = torch.stack([(counts[there] @ solve(ridge)[1][there].square()).mean() / len(counts) for ridge in ridges])
    if not bool(torch.isfinite(losses).any()):
        raise DataError("no ridge gives a finite leave-one-out error", fix="look for features of extreme size")
    best = ridges[int(torch.where(torch.isfinite(losses), losses, torch.inf).argmin())]
    coefficients, residuals = solve(best)
    return Ridge(mean, coefficients, residuals, best, losses)
