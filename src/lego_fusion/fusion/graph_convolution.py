"""The usual way to use a graph: pass the features of neighbours along its edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..graph.relationship import cosine_graph
from .base import FusionOutput, ScaledFusion, linear_maps, mask_nodes, seeded


class GraphConvolution(ScaledFusion):
    """One graph convolution over each modality's own graph, a second one across all graphs.

    S_m is the cosine graph of a modality's nodes without its negative entries, each row divided by its sum; then
    y_m = ReLU(S_m x_m W_m + b_m) and node = sum_m S y_m V_m + c with S = (1/M) sum_m S_m. S is the output's graph.

    Args:
        modalities: Width of each modality by name.
        width: Of y_m, and F.
        seed: Of the start.

    Source: Kipf and Welling (ICLR 2017) with row normalisation; the graphs are relationship graphs.

    Example:
        >>> fusion = GraphConvolution({"motion": 3, "text": 2}, width=8)
        >>> output = fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)})
        >>> output.nodes.shape, output.graph.shape
        (torch.Size([1, 4, 8]), torch.Size([1, 4, 4]))
    """

    kind: ClassVar[str] = "graph-convolution"

    def __init__(self, modalities: Mapping[str, int], *, width: int = 32, seed: int = 0) -> None:
        super().__init__(modalities, width=width, seed=seed)
        self.out_features = width
        with seeded(seed):
            self.within = linear_maps(self.modalities, width)
            self.across = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in self.modalities})
            self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Convolve within each graph, then across their mean."""
        scaled = self.scaled(features, mask)
        graphs = {name: neighbour_shares(x, mask) for name, x in scaled.items()}
        y = {name: self.within[name](graphs[name] @ x).relu() for name, x in scaled.items()}
        mapped = torch.stack([self.across[name](rows) for name, rows in y.items()]).sum(0)
        shared = torch.stack(list(graphs.values())).mean(0)
        return FusionOutput(mask_nodes(shared @ mapped + self.bias, mask), shared)


def neighbour_shares(x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n n"]:
    """The cosine graph without negative entries, each row divided by its sum; rows and columns of masked nodes are zero.

    Example:
        >>> neighbour_shares(torch.tensor([[[1.0], [2.0], [-1.0]]]))[0]
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    graph = cosine_graph(x, mask=mask).clamp_min(0)
    total = graph.sum(-1, keepdim=True)  # at least the 1 of the diagonal, unless masked
    return graph / torch.where(total > 0, total, torch.ones_like(total))
