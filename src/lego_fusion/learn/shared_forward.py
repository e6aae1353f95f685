"""The forward of a batch by several processes: each does its part, and all see the outputs of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .detector import Detector, DetectorOutput
from .ranks import Ranks


class SharedForward:
    """Call it like the detector, in every process, with the same bags.

    Outputs are those of the whole batch, so that what compares bags (the two labels, a mean over all) is computed from all
    of them in every process; the gradient flows to the bags of this process alone. Summed over the processes
    (``Ranks.add_gradients``), gradients are those of one process. Where the bags of a batch depend on each other or on chance
    (batch normalisation, dropout), or are fewer than the processes, each process does the whole batch for its part of the
    gradient.

    Args:
        model: The detector as set up by Lightning Fabric.
        detector: The same, for its layers.
        ranks: Who shares the work.
    """

    def __init__(self, model: Callable[..., DetectorOutput], detector: Detector, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.divisible = not any(_needs_whole_batch(module) for module in detector.modules())

    def __call__(self, inputs: Mapping[str, Tensor], mask: Tensor | None = None, **options: Any) -> DetectorOutput:
        """Outputs of all bags."""
        count = len(next(iter(inputs.values())))
        if not self.divisible or count < self.ranks.size:
            output = self.model(inputs, mask, **options)
            for tensor in output:
                if tensor is not None and tensor.requires_grad:
                    tensor.register_hook(lambda gradient: gradient / self.ranks.size)
            return output
        part = self.ranks.part(count)
        own = {name: tensor[part.start : part.stop] for name, tensor in inputs.items()}
        output = self.model(own, None if mask is None else mask[part.start : part.stop], **options)
        graph = None if output.graph is None else self.ranks.joined(output.graph, count)
        return DetectorOutput(self.ranks.joined(output.logits, count), graph)


def _needs_whole_batch(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    return isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(module, nn.modules.instancenorm._InstanceNorm)
