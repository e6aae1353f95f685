"""Fusions without relations: features side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .base import ColumnScaling, Fusion, FusionOutput, mask_nodes


class Concat(Fusion):
    """Concatenation: node_i = [x_i^1, ..., x_i^M], each column scaled by its training mean and deviation.

    Args:
        modalities: Width of each modality by name.

    Example:
        >>> fusion = Concat({"motion": 3, "text": 2})
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 5])
    """

    kind: ClassVar[str] = "concat"

    def __init__(self, modalities: Mapping[str, int]) -> None:
        super().__init__(modalities)
        self.scaling = nn.ModuleDict({name: ColumnScaling(width) for name, width in modalities.items()})
        self.out_features = sum(modalities.values())

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal fusion."""
        return {"modalities": self.modalities}

    def fit_statistics(
        self,
        features: Mapping[str, Float[Tensor, "v n _"]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        """Fit the column scaling of each modality on all training bags."""
        for name, tensor in zip(self.modalities, self.select(features), strict=True):
            self.scaling[name].fit(tensor)  # type: ignore[operator]

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Scale and concatenate."""
        scaled = [self.scaling[name](x) for name, x in zip(self.modalities, self.select(features), strict=True)]
        return FusionOutput(mask_nodes(torch.cat(scaled, dim=-1), mask))
