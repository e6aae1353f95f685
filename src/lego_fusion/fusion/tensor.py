"""Fusions by products between columns of different modalities: bilinear, outer product, and its low-rank form."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import ParameterError
from .base import FusionOutput, ScaledFusion, linear_maps, mask_nodes, seeded

MOST_PRODUCTS = 4096


class Bilinear(ScaledFusion):
    """Bilinear forms of pairs beside linear terms: node_f = sum_m v_mf . x_m + sum_{m<k} z_m^T W_mkf z_k + c_f.

    The forms see reduced features, z_m = P_m x_m + b_m; a single modality is paired with itself. Without the linear terms a
    node could not say in which direction it is unusual: columns are centred, and a form does not change when both of its
    sides change their sign, so segments unusual in both modalities would count like those usual in both.

    Args:
        modalities: Width of each modality by name.
        width: F.
        reduced: Width of z_m.
        seed: Of the start.

    Source: the neural tensor layer, x^T W y + V [x, y] + b (Socher et al., NeurIPS 2013), with W of low rank through P_m.

    Example:
        >>> fusion = Bilinear({"motion": 3, "text": 2}, width=8)
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "bilinear"

    def __init__(self, modalities: Mapping[str, int], *, width: int = 32, reduced: int = 16, seed: int = 0) -> None:
        super().__init__(modalities, width=width, reduced=reduced, seed=seed)
        self.out_features = width
        names = list(self.modalities)
        self.pairs = list(itertools.combinations(names, 2)) or [(names[0], names[0])]
        with seeded(seed):
            self.linear = nn.ModuleDict({name: nn.Linear(size, width, bias=False) for name, size in self.modalities.items()})
            self.projection = linear_maps(self.modalities, reduced)
            self.form = nn.ModuleDict({f"{a}:{b}": nn.Linear(reduced**2, width, bias=False) for a, b in self.pairs})
            self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Add the linear terms of all modalities and the forms of all pairs."""
        scaled = self.scaled(features, mask)
        z = {name: self.projection[name](x) for name, x in scaled.items()}
        terms = [self.linear[name](x) for name, x in scaled.items()]
        terms += [self.form[f"{a}:{b}"](_products(z[a], z[b])) for a, b in self.pairs]
        return FusionOutput(mask_nodes(torch.stack(terms).sum(0) + self.bias, mask))


class TensorFusion(ScaledFusion):
    """Outer product: node = vec([1, z_1] (x) ... (x) [1, z_M]), with z_m = P_m x_m + b_m reduced first.

    The appended ones keep each modality alone, and every product of fewer than M, among the entries. There are
    F = (reduced + 1)^M of them, at most 4096: with the default width that is up to four modalities.

    Args:
        modalities: Width of each modality by name.
        reduced: Width of z_m.
        seed: Of the start.

    Raises:
        ParameterError: If there would be more than 4096 products.

    Source: Zadeh et al., Tensor Fusion Network (EMNLP 2017).

    Example:
        >>> fusion = TensorFusion({"motion": 3, "text": 2}, reduced=4)
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 25])
    """

    kind: ClassVar[str] = "tensor"

    def __init__(self, modalities: Mapping[str, int], *, reduced: int = 7, seed: int = 0) -> None:
        super().__init__(modalities, reduced=reduced, seed=seed)
        self.out_features = (reduced + 1) ** len(self.modalities)
        if self.out_features > MOST_PRODUCTS:
            raise ParameterError(
                "the outer product has too many entries",
                where=type(self).__name__,
                expected=f"at most {MOST_PRODUCTS} per node",
                got=f"({reduced} + 1)^{len(self.modalities)} = {self.out_features}",
                fix="lower 'reduced', fuse fewer modalities, or use 'low-rank-tensor'",
            )
        with seeded(seed):
            self.projection = linear_maps(self.modalities, reduced)

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Reduce, append ones and multiply."""
        scaled = self.scaled(features, mask)
        z = [nn.functional.pad(self.projection[name](x), (1, 0), value=1.0) for name, x in scaled.items()]
        return FusionOutput(mask_nodes(functools.reduce(_products, z), mask))


class LowRankTensorFusion(ScaledFusion):
    """A linear map of the outer product, its weights of low rank: node = sum_r prod_m (F_mr [x_m, 1]) + c.

    Nothing is as large as the outer product, so there is no limit to the number of modalities. The factors F_m of all ranks
    are one affine map D_m -> rank * F, whose bias belongs to the appended 1.

    Args:
        modalities: Width of each modality by name.
        width: F.
        rank: Number of terms.
        seed: Of the start.

    Source: Liu et al., Low-rank Multimodal Fusion (ACL 2018).

    Example:
        >>> fusion = LowRankTensorFusion({"motion": 3, "text": 2}, width=8)
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "low-rank-tensor"
    rank: int

    def __init__(self, modalities: Mapping[str, int], *, width: int = 32, rank: int = 4, seed: int = 0) -> None:
        super().__init__(modalities, width=width, rank=rank, seed=seed)
        self.out_features = width
        with seeded(seed):
            self.factor = linear_maps(self.modalities, rank * width)
            self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Multiply the factors' values over modalities, sum over ranks."""
        values = torch.stack([self.factor[name](x) for name, x in self.scaled(features, mask).items()])  # (M, B, N, rank * F)
        terms = values.prod(0).unflatten(-1, (self.rank, self.width))
        return FusionOutput(mask_nodes(terms.sum(-2) + self.bias, mask))


def _products(left: Float[Tensor, "b n i"], right: Float[Tensor, "b n j"]) -> Float[Tensor, "b n ij"]:
    """All products of an entry of one and an entry of the other, the last axis flattened."""
    return (left[..., None] * right[..., None, :]).flatten(2)
