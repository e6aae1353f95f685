"""The maximum a posteriori of a head with priors: the sum of bag losses plus the price of the weights, by L-BFGS.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from ..errors import LegoFusionError
from ..fusion.reading_head import Priors, ReadingHead

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
        if not math.isfinite(float(loss.detach())):
            raise LegoFusionError("the fit met a number that is no number", fix="look for damaged features with the doctor")
        gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        return float(loss.detach()), gradient.double().cpu().numpy()

    history: list[float] = []
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
