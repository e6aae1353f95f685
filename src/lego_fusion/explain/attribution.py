"""Gradients, integrated gradients and Shapley values of modalities; apart, as they explain without ``faithfulness``.

All of them explain any model that takes arrays by modality name, (B, N, K) each, and gives one score per bag, (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..errors import DataError, check_int
from .shapley import contributions

Inputs = Mapping[str, Float[Tensor, "_b _n _k"]]
Model = Callable[[dict[str, Tensor]], Float[Tensor, " b"]]


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each entry of each modality adds to the score of its bag.

    Args:
        parts: By modality, (B, N, K).
        gap: score - score of the baseline - sum of all parts, (B,): what the method leaves unexplained.
    """

    parts: dict[str, Float[Tensor, "b n k"]]
    gap: Float[Tensor, " b"]

    def by_modality(self) -> dict[str, Float[Tensor, " b"]]:
        """Sum over entries."""
        return {name: part.flatten(1).sum(1) for name, part in self.parts.items()}

    def by_node(self) -> Float[Tensor, "b n"]:
        """Sum over modalities and columns."""
        return torch.stack([part.sum(-1) for part in self.parts.values()]).sum(0)


def gradient_times_input(model: Model, inputs: Inputs) -> Attribution:
    """X * df/dx at the input; its gap is against a baseline of zeros, and is no error where f is not linear.

    Source: Shrikumar et al. (2016).

    Example:
        >>> found = gradient_times_input(lambda x: (2 * x["a"]).sum((1, 2)), {"a": torch.ones(1, 1, 2)})
        >>> found.parts["a"].tolist(), found.gap.tolist()
        ([[[2.0, 2.0]]], [0.0])
    """
    score, gradient = _gradient(model, inputs)
    with torch.no_grad():
        at_zero = model({name: torch.zeros_like(x) for name, x in inputs.items()})
    parts = {name: inputs[name] * gradient[name] for name in inputs}
    return Attribution(parts, score - at_zero - _total(parts))


def integrated_gradients(model: Model, inputs: Inputs, baseline: Inputs, *, steps: int = 64) -> Attribution:
    """(x - x0) * mean of df/dx on the straight line from a baseline to the input, at the middles of equal steps.

    Args:
        model: Differentiable almost everywhere.
        inputs: x, (B, N, K) by modality.
        baseline: x0, of the same shapes.
        steps: Points on the line.

    Raises:
        DataError: If inputs and baseline differ in names or shapes.

    Source: Sundararajan et al. (2017).

    Example:
        >>> x, zero = {"a": torch.full((1, 1, 1), 3.0)}, {"a": torch.zeros(1, 1, 1)}
        >>> round(float(integrated_gradients(lambda x: x["a"].square().sum((1, 2)), x, zero).parts["a"]), 5)
        9.0
    """
    check_int(steps, "steps", "integrated_gradients", low=1)
    require_alike(inputs, baseline)
    total = {name: torch.zeros_like(x) for name, x in inputs.items()}
    for step in range(steps):
        place = (step + 0.5) / steps
        _, gradient = _gradient(model, {name: baseline[name] + place * (x - baseline[name]) for name, x in inputs.items()})
        total = {name: total[name] + gradient[name] / steps for name in total}
    parts = {name: (x - baseline[name]) * total[name] for name, x in inputs.items()}
    with torch.no_grad():
        gap = model(dict(inputs)) - model(dict(baseline)) - _total(parts)
    return Attribution(parts, gap)


def modality_shapley(model: Model, inputs: Inputs, baseline: Inputs) -> Float64[np.ndarray, "m b"]:
    """Shapley value of each modality to each bag's score, an absent modality being replaced by its baseline (M, B).

    Example:
        >>> x, zero = ({name: size * torch.ones(1, 1, 1) for name in "ab"} for size in (1, 0))
        >>> modality_shapley(lambda x: (x["a"] * x["b"]).sum((1, 2)), x, zero).tolist()
        [[0.5], [0.5]]
    """
    require_alike(inputs, baseline)

    @torch.no_grad()
    def value(present: frozenset[str]) -> Float64[np.ndarray, " b"]:
        return model({name: inputs[name] if name in present else baseline[name] for name in inputs}).double().numpy()

    return contributions(value, list(inputs), removal="baseline").values


def require_alike(inputs: Mapping[str, Tensor], baseline: Mapping[str, Tensor]) -> None:
    """Raise ``DataError`` unless both have the same names and shapes."""
    shapes, others = ({name: tuple(x.shape) for name, x in given.items()} for given in (inputs, baseline))
    if not shapes or shapes != others:
        raise DataError("inputs and baseline differ", expected=shapes or "at least one modality", got=others)


def _gradient(model: Model, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores (B,) and the gradient of each by its own entries."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    score = model(dict(leaves))
    gradients = torch.autograd.grad(score.sum(), list(leaves.values()), allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves.values(), gradients, strict=True)]
    return score.detach(), dict(zip(leaves, filled, strict=True))


def _total(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([part.flatten(1).sum(1) for part in parts.values()]).sum(0)
