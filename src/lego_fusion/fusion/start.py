"""What each modality weighs before any training: how steady it is among known normals, and whether it is more than noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

LEAST_GATE = 0.05  # a modality without memory is not switched off for good: training can still find a use for it


class Memory(NamedTuple):
    """Lag-one autocorrelation of a score over time, and the number of pairs of neighbours it was seen in."""

    autocorrelation: float
    pairs: int


def memory(graph: Float[Tensor, "b n k"], direction: Float[Tensor, " k"], mask: Bool[Tensor, "b n"] | None = None) -> Memory:
    """How much of what a modality says about a node, its neighbour in time says too.

    With s_t = direction . (row t, sorted from most to least similar):

        r = 1 - mean (s_t+1 - s_t)^2 / (2 var s)

    which is 1 for what changes slowly and 0 for independent values, whatever their number of columns. Neighbours with equal
    rows are copies of one snippet (a video with fewer snippets than nodes) and are left out.

    Args:
        graph: Relations to reference units, nodes in the order of time.
        direction: Weights of a sorted row.
        mask: True where a node exists, (B, N).

    Example:
        >>> import torch
        >>> slow = torch.linspace(0, 1, 50)[None, :, None]
        >>> round(memory(slow, torch.ones(1)).autocorrelation, 2)
        1.0
    """
    score = graph.sort(dim=-1, descending=True).values @ direction
    different = (graph[:, 1:] - graph[:, :-1]).abs().amax(-1) > 1e-5
    if mask is not None:
        different &= mask[:, 1:] & mask[:, :-1]
    steps = (score[:, 1:] - score[:, :-1])[different]
    variance = float((score if mask is None else score[mask]).double().var(unbiased=False))
    if len(steps) == 0 or variance == 0:
        return Memory(1.0, 0)
    return Memory(1 - float(steps.double().square().mean()) / (2 * variance), len(steps))


def noise_gate(seen: Memory) -> float:
    """Near 1 for a modality with memory, ``LEAST_GATE`` for one that cannot be told from noise.

        gate = max(LEAST_GATE, 1 - 1 / z^2),    z = r sqrt(n)

    z is the autocorrelation in units of its standard error on white noise, 1 / sqrt(n) over n pairs, so 1 - 1 / z^2 is the
    part of r^2 that noise does not explain: the positive-part James-Stein shrinkage of r towards 0.

    Example:
        >>> noise_gate(Memory(0.02, 400)), round(noise_gate(Memory(0.5, 400)), 2)
        (0.05, 0.99)
    """
    if seen.pairs == 0:
        return 1.0
    z = max(0.0, seen.autocorrelation) * seen.pairs**0.5
    return LEAST_GATE if z <= 1 else max(LEAST_GATE, 1 - 1 / z**2)


def start_weights(
    relations: Mapping[str, Float[Tensor, "b n k"]],
    normal: Bool[Tensor, " b"],
    gates: Mapping[str, float],
    mask: Bool[Tensor, "b n"] | None = None,
) -> dict[str, float]:
    """Gate / spread of each modality, scaled to a mean of 1.

    The spread is the standard deviation, over the nodes of normal bags, of the mean of their row.

    Args:
        relations: Cross-fitted graphs of training bags.
        normal: Which bags are normal.
        gates: A factor in (0, 1] per modality.
        mask: True where a node exists, (B, N).
    """
    known = normal if mask is None else mask & normal[:, None]
    spreads = {name: float(relations[name][known].mean(-1).std()) for name in gates}
    usable = [name for name, spread in spreads.items() if spread > 0]
    scale = len(usable) / sum(gates[name] / spreads[name] for name in usable) if usable else 1.0
    return {name: gates[name] * scale / spreads[name] if spreads[name] > 0 else 1.0 for name in gates}
