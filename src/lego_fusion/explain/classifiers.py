"""Class probabilities that information can be read from: by networks that did not see the sample, and calibrated.

Axis letters: n sample, d feature, y class.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

HIDDEN = 64
LEARNING_RATE, WEIGHT_DECAY = 1e-2, 1e-2
TINY = 1e-30


def network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """A network of one hidden layer whose weights come from the generator given."""
    layers = [nn.utils.skip_init(nn.Linear, inputs, HIDDEN), nn.utils.skip_init(nn.Linear, HIDDEN, outputs)]
    with torch.no_grad():
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            layer.bias.zero_()
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def held_out_probabilities(
    x: Float[Tensor, "n d"], labels: Tensor, classes: int, steps: int, generator: torch.Generator
) -> Float[Tensor, "n y"]:
    """p(y|x) of every sample by a network that did not see it, calibrated."""
    logits = torch.zeros(len(x), classes)
    half = torch.randperm(len(x), generator=generator) % 2 == 0
    for held_out in (half, ~half):
        model = network(x.shape[1], classes, generator)
        optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        seen = torch.nonzero(~held_out)[:, 0]
        for _ in range(steps):
            rows = seen[torch.randint(len(seen), (min(512, len(seen)),), generator=generator)]
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), labels[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            logits[held_out] = model(x[held_out])
    return calibrate(logits, labels)


def calibrate(logits: Float[Tensor, "n y"], labels: Tensor) -> Float[Tensor, "n y"]:
    """softmax(s logits + bias) of least cross-entropy; class frequencies where s would not be above zero.

    At that optimum the mean entropy is the cross-entropy and the mean probabilities are the class frequencies, so that
    information read from the probabilities is neither that of an overconfident network nor of a timid one.
    """
    logits = (logits - logits.mean(1, keepdim=True)).double()
    frequencies = torch.bincount(labels, minlength=logits.shape[1]).double() / len(labels)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros_like(frequencies).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [scale, bias], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(scale * logits + bias, labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        if not scale > 0:
            return frequencies.expand(len(labels), -1)
        return torch.softmax(scale * logits + bias, dim=1)


def information_gain(probabilities: Float[Tensor, "n y"]) -> Float[Tensor, " n"]:
    """Bits by which each sample's probabilities differ from the mean ones; their mean is the information."""
    ratio = probabilities.clamp_min(TINY) / probabilities.mean(0).clamp_min(TINY)
    return (probabilities * torch.log2(ratio)).sum(1)
