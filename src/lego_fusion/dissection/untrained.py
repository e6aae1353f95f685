"""A copy of a network as it was before any training, to tell what training made from what inputs and architecture give."""

from __future__ import annotations

import copy

import torch
from torch import nn


def untrained_copy(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with new weights: every module draws its own as when it is made, running statistics included.

    Parameters of modules that cannot do so are drawn from a normal distribution of the parameter's own root mean square.

    Args:
        model: The network; it is not changed, nor is the global random state.
        seed: Of the weights.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
        >>> drawn = untrained_copy(model)
        >>> torch.equal(drawn[0].weight, model[0].weight), drawn.training
        (False, False)
    """
    drawn = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in drawn.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                size = float(parameter.square().mean().sqrt())
                parameter.copy_(size * torch.randn(parameter.shape, dtype=parameter.dtype))
    return drawn
