"""What a detector is trained on: bag losses and regularisers, told apart by label, and the posterior of a head with priors.

Every function but ``degree_variance`` returns one number per bag that depends on that bag alone, so the mean over a batch does
not change with batch size, order or neighbours.

The *sum*, so that the prior fades as videos are added. There is nothing random in it: one training is the answer.

Where every video may be a world of its own (another camera each), a third reading can explain the labels better: how unlike
the rest of its own video a segment is. So that is asked first, of the degrees alone (w = 0): three fits, without it and with it
from either side, and it is taken where its objective is lower by more than ``own_world_gain`` nats. The many weights of the
departure have no say: they can explain a few dozen labels in any world, and in one that nobody knows "which way" means nothing,
so w stays 0.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from ..errors import DataError, LegoFusionError, check_choice, check_int, check_number
from ..fusion.reading_head import Priors, ReadingHead
from ..graph.relationship import columns_are_nodes

Pooling = Literal["top-k", "max", "mean"]
NOTHING_COUNTED = (
    "no entry of the fused graph reaches alpha, so degree variance is 0 and changes nothing: leave degree_threshold out"
)
_LARGEST = 1e15  # entry, where a step of a fit goes far astray
_MOST_ENTRIES = 2**22  # of which a quantile is taken


def bag_loss(
    logits: Float[Tensor, "b n"],
    labels: Bool[Tensor, " b"],
    mask: Bool[Tensor, "b n"] | None = None,
    *,
    pooling: Pooling = "top-k",
    k: int = 3,
) -> Float[Tensor, " b"]:
    """Binary cross-entropy of each bag, whose score is the mean of its k highest segment scores.

    s_i = sigmoid(logit_i), S = mean of the k largest s_i, loss = -log S for an abnormal bag, -log(1 - S) for a normal one,
    computed from the logits without rounding to 0 or 1. A bag of fewer than k nodes uses all it has.

    Args:
        logits: (B, N).
        labels: True where the bag is abnormal, (B,).
        mask: True where a node exists, (B, N).
        pooling: ``"top-k"``, ``"max"`` (k = 1) or ``"mean"`` (k = N).
        k: Number of segments for ``"top-k"``.

    Returns:
        Loss per bag, (B,).

    Raises:
        DataError: If a bag has no node.

    Example:
        >>> bag_loss(torch.tensor([[0.0, -9.0]]), torch.tensor([True]), k=1)
        tensor([0.6931])
    """
    check_choice(pooling, "pooling", "bag_loss", ("top-k", "max", "mean"))
    wanted = {"top-k": k, "max": 1, "mean": logits.shape[1]}[pooling]
    top, chosen = _top_nodes(logits, mask, check_int(wanted, "k", "bag_loss", low=1))
    signed = torch.where(labels[:, None], top, -top)
    log_scores = torch.nn.functional.logsigmoid(signed).masked_fill(~chosen, float("-inf"))
    return chosen.sum(1).to(logits.dtype).log() - log_scores.logsumexp(1)


def smoothness(logits: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, " b"]:
    """sum_i (s_(i+1) - s_i)^2 within each bag, over neighbours that both exist."""
    squared = logits.sigmoid().diff(dim=1).square()
    if mask is not None:
        squared = squared * (mask[:, 1:] & mask[:, :-1])
    return squared.sum(1)


def sparsity(logits: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, " b"]:
    """sum_i s_i within each bag."""
    scores = logits.sigmoid()
    return (scores if mask is None else scores * mask).sum(1)


def degree_variance(
    graph: Float[Tensor, "b n k"],
    labels: Bool[Tensor, " b"],
    mask: Bool[Tensor, "b n"] | None = None,
    *,
    threshold: float | None = None,
    quantile: float = 0.9,
    k: int = 17,
    square: bool | None = None,
) -> Float[Tensor, ""]:
    """Squared difference between the labels' mean variance of node degrees, relative to their sum.

    d_i = (1/K) sum_j e(G_ij); V_n is the mean over normal bags of the variance of d over their nodes, V_a that over abnormal
    bags and their k nodes of highest degree; loss = ((V_n - V_a) / (V_n + V_a))^2, with e = max(0, G_ij - alpha) and alpha a
    quantile of the entries of normal bags. It lies in [0, 1], acts alike whatever scale and level a fusion's graph has, and is
    continuous, as a fit by L-BFGS needs. With an absolute ``threshold`` it is the paper's (V_n - V_a)^2 of
    e = G_ij [G_ij >= alpha], which few entries of some graphs reach and whose size is that of the graph to the fourth power.
    With the 1/K (K columns that exist) neither grows with the number of nodes. It compares the labels of one batch, so it needs
    both; it does not change with the order of bags, nor when all are repeated.

    Args:
        graph: The fused graph, (B, N, N) or (B, N, K).
        labels: True where the bag is abnormal, (B,).
        mask: True where a node exists, (B, N).
        threshold: Absolute alpha, the paper's; None takes the quantile.
        quantile: Share of the entries of normal bags below alpha, in [0, 1].
        k: Nodes of an abnormal bag that count; all it has where it has fewer.
        square: Whether the columns are the nodes; None goes by the shape, so say False for as many references as nodes.

    Raises:
        DataError: If the bags have one label only.

    Warns:
        RuntimeWarning: If no entry reaches an absolute alpha: the term is then 0 and changes nothing.

    Source: the paper's regulariser; the exact formula is inferred, the relative threshold is ours.
    """
    if bool(labels.all()) or not bool(labels.any()):
        raise DataError(
            "degree variance compares the two labels",
            expected="normal and abnormal bags in every batch",
            got="only abnormal bags" if bool(labels.all()) else "only normal bags",
            fix="sample batches by label, or set its weight to 0",
        )
    columns: Tensor | int = graph.shape[-1]
    exists = torch.ones(graph.shape[:2], dtype=torch.bool, device=graph.device) if mask is None else mask
    there = exists[:, :, None].expand_as(graph)
    if mask is not None and columns_are_nodes(graph, square):
        columns, there = mask.sum(1, keepdim=True).clamp_min(1), there & mask[:, None]
    counted = counted_entries(graph, labels, there, threshold=threshold, quantile=quantile)
    if not bool((counted * there).any()) and threshold is not None:
        warnings.warn(NOTHING_COUNTED, RuntimeWarning, stacklevel=2)
    degree = counted.sum(-1) / columns
    top, chosen = _top_nodes(degree, mask, check_int(k, "k", "degree_variance", low=1))
    normal = _masked_variance(degree[~labels], exists[~labels]).mean()
    abnormal = _masked_variance(top[labels], chosen[labels]).mean()
    return variance_difference(normal, abnormal, relative=threshold is None)


def variance_difference(normal: Float[Tensor, "*s"], abnormal: Float[Tensor, "*s"], *, relative: bool) -> Float[Tensor, "*s"]:
    """(V_n - V_a)^2, or that over (V_n + V_a)^2: 0 where both are 0.

    Example:
        >>> variance_difference(torch.tensor(3.0), torch.tensor(1.0), relative=True)
        tensor(0.2500)
    """
    difference = normal - abnormal
    if relative:
        difference = difference / (normal + abnormal).clamp_min(torch.finfo(normal.dtype).tiny)
    return difference.square()


def counted_entries(
    graph: Float[Tensor, "b n k"],
    labels: Bool[Tensor, " b"],
    there: Bool[Tensor, "b n k"] | None = None,
    *,
    threshold: float | None = None,
    quantile: float = 0.9,
) -> Float[Tensor, "b n k"]:
    """The e of ``degree_variance`` for every entry; alpha is the smallest that at least so many normal ones do not exceed.

    Args:
        graph: As for ``degree_variance``.
        labels: As for ``degree_variance``.
        there: Which entries exist.
        threshold: As for ``degree_variance``.
        quantile: As for ``degree_variance``.

    Example:
        >>> graph, labels = torch.tensor([[[0.0, 1.0, 2.0, 3.0]], [[0.0, 1.0, 2.0, 3.0]]]), torch.tensor([False, True])
        >>> counted_entries(graph, labels, quantile=0.75)[1]
        tensor([[0., 0., 0., 1.]])
        >>> counted_entries(graph, labels, threshold=2.0)[1]
        tensor([[0., 0., 2., 3.]])
    """
    if threshold is not None:
        return graph * (graph >= threshold)
    share = check_number(quantile, "quantile", "degree_variance", low=0.0, high=1.0)
    graph = graph.clamp(max=_LARGEST)
    exists = torch.ones_like(graph, dtype=torch.bool) if there is None else there
    normal = graph[~labels][exists[~labels]]
    normal = normal[:: -(-len(normal) // _MOST_ENTRIES)]
    return (graph - normal.kthvalue(max(1, math.ceil(share * len(normal)))).values).relu()


def operator_penalty(
    coefficients: Float[Tensor, "*orders"], *, sparsity: float = 0.0, order_decay: float = 0.0
) -> Float[Tensor, ""]:
    """Price of the coefficients: sparsity * sum |A_t| + order_decay * sum 2^(o_t - 1) A_t^2 over the terms of order o_t >= 1.

    It keeps a learned A readable. The constant (order 0) is free. A head after the operator can grow where A shrinks, so a
    weight is no bound on A by itself: look at the shares of the terms, not at the size of A.

    Args:
        coefficients: Dense A, (P_1 + 1, ..., P_M + 1), from ``GraphOperator.dense_coefficients``.
        sparsity: Weight of the sum of absolute values (lasso), >= 0.
        order_decay: Weight of the squares, which doubles with every order, >= 0.

    Example:
        >>> A = torch.tensor([[9.0, 1.0], [-2.0, 3.0]])
        >>> float(operator_penalty(A, sparsity=1.0)), float(operator_penalty(A, order_decay=1.0))
        (6.0, 23.0)
    """
    order = torch.zeros_like(coefficients)
    for axis, size in enumerate(coefficients.shape):
        powers = torch.arange(size, device=coefficients.device).to(coefficients)
        order = order + powers.reshape([-1 if a == axis else 1 for a in range(coefficients.ndim)])
    learned = coefficients * (order > 0)
    return sparsity * learned.abs().sum() + order_decay * (2 ** (order - 1) * learned.square()).sum()


def _top_nodes(values: Tensor, mask: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The k highest existing values of each row (B, min(k, N)) and which of them exist."""
    k = min(k, values.shape[1])
    if mask is None:
        top = values.topk(k, dim=1).values
        return top, torch.ones_like(top, dtype=torch.bool)
    if not bool(mask.any(1).all()):
        raise DataError("a bag has no node", where=f"bag {int((~mask.any(1)).nonzero()[0, 0])}", fix="leave empty videos out")
    index = values.masked_fill(~mask, -math.inf).topk(k, dim=1).indices
    return values.gather(1, index), mask.gather(1, index)


def _masked_variance(values: Tensor, exists: Tensor) -> Tensor:
    """Population variance of each row over the entries that exist."""
    count = exists.sum(1).clamp_min(1)
    mean = (values * exists).sum(1) / count
    return ((values - mean[:, None]).square() * exists).sum(1) / count


HISTORY = 20  # steps that L-BFGS remembers
AT_ONCE = 10  # iterations between two looks
LEAST_GAIN = 1e-7  # of an iteration, as a share of the objective; a fit ends where one gains less


@dataclass(frozen=True)
class Fitted:
    """One fit.

    Args:
        objective: Sum of the bag losses plus the price of the weights, in nats.
        weights: Of the detector.
        history: Objective after every ten iterations.
    """

    objective: float
    weights: dict[str, Tensor]
    history: tuple[float, ...]


def most_probable(
    head: ReadingHead,
    weights: Callable[[], dict[str, Tensor]],
    load: Callable[[dict[str, Tensor]], Any],
    parameters: Callable[[], Sequence[torch.nn.Parameter]],
    objective: Callable[[], Tensor],
    *,
    priors: Priors,
    gain: float | None,
    iterations: int,
    add_gradients: Callable[[Sequence[torch.nn.Parameter]], None] = lambda parameters: None,
    on_iteration: Callable[[int, float], None] | None = None,
) -> tuple[Fitted, list[float]]:
    """Ask which world the labels are of, and fit all weights in it.

    Args:
        head: Whose third reading is switched.
        weights: Gives a copy of all weights.
        load: Puts such a copy back.
        parameters: Those that are learned now.
        objective: Differentiable; what is minimised.
        priors: Of the head.
        gain: Nats by which the own world has to win; None never tries it.
        iterations: Most of each fit; it ends earlier where nothing changes any more.
        add_gradients: Sums the gradients over processes.
        on_iteration: Called with the iteration and the objective of the last fit.

    Returns:
        The last fit, whose weights are loaded, and the objectives of those that were compared: without the own world, and with
        it from either side; none where it was not tried.
    """
    start, asked = weights(), list[Fitted]()
    for share in (None, priors.own_mean, -priors.own_mean) if gain is not None else ():
        load(start)
        head.use_own_world(share is not None)
        if share is not None:
            with torch.no_grad():
                head.own_share.fill_(share)
        alone = [parameter for parameter in parameters() if parameter is not head.weights]
        history = _minimise(alone, objective, iterations, add_gradients, None)
        asked.append(Fitted(history[-1], weights(), tuple(history)))
    mixed = min(asked[1:], key=lambda fit: fit.objective, default=None)
    if mixed is not None and gain is not None and mixed.objective < asked[0].objective - gain:
        load(mixed.weights)
        head.use_own_world(True)
        if on_iteration is not None:
            on_iteration(AT_ONCE * len(mixed.history), mixed.objective)
        return mixed, [fit.objective for fit in asked]
    load(start)
    head.use_own_world(False)
    history = _minimise(parameters(), objective, iterations, add_gradients, on_iteration)
    return Fitted(history[-1], weights(), tuple(history)), [fit.objective for fit in asked]


def _minimise(
    parameters: Sequence[torch.nn.Parameter],
    objective: Callable[[], Tensor],
    iterations: int,
    add_gradients: Callable[[Sequence[torch.nn.Parameter]], None],
    on_iteration: Callable[[int, float], None] | None,
) -> list[float]:
    def at(point: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        like = parameters[0]
        torch.nn.utils.vector_to_parameters(torch.from_numpy(point).to(like), parameters)

    def evaluated(point: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, np.ndarray[Any, np.dtype[np.float64]]]:
        at(point)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        loss = objective()
        torch.autograd.backward(loss)
        add_gradients(parameters)
        gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        value, slope = float(loss.detach()), gradient.double().cpu().numpy()
        if math.isfinite(value) and np.isfinite(slope).all():
            highest.append(max(abs(value), *highest))
            return value, slope
        if len(highest) == 1:
            raise LegoFusionError("the fit met a number that is no number", fix="look for damaged features with the doctor")
        return 1e3 * highest[-1], np.zeros_like(slope)  # a step too far: the line search comes back

    history: list[float] = []
    highest = [1.0]
    count = 0

    def passed(intermediate_result: OptimizeResult) -> None:
        nonlocal count
        count += 1
        if count % AT_ONCE == 0:
            at(intermediate_result.x)
            history.append(float(intermediate_result.fun))
            if on_iteration is not None:
                on_iteration(count, history[-1])

    start = torch.nn.utils.parameters_to_vector(parameters).detach().double().cpu().numpy()
    options = {"maxiter": iterations, "maxcor": HISTORY, "ftol": LEAST_GAIN, "gtol": 1e-5}
    found = minimize(evaluated, start, jac=True, method="L-BFGS-B", callback=passed, options=options)
    at(found.x)
    if count % AT_ONCE or not history:
        history.append(float(found.fun))
        if on_iteration is not None:
            on_iteration(count, history[-1])
    return history


def all_weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers of a module."""
    return copy.deepcopy({name: tensor.detach() for name, tensor in module.state_dict().items()})
