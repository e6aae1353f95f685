"""Fusions of each node by itself, found by name: concatenated, summed, gated, through a network, by products of columns."""

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


class Concat(ScaledFusion):
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
        self.out_features = sum(self.modalities.values())

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Scale and concatenate."""
        return FusionOutput(torch.cat(list(self.scaled(features, mask).values()), dim=-1))


class Add(ScaledFusion):
    """Sum: node = sum_m (W_m x_m + b_m).

    Args:
        modalities: Width of each modality by name.
        width: F, to which every W_m maps.
        seed: Of the start.

    Example:
        >>> fusion = Add({"motion": 3, "text": 2}, width=8)
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "add"

    def __init__(self, modalities: Mapping[str, int], *, width: int = 32, seed: int = 0) -> None:
        super().__init__(modalities, width=width, seed=seed)
        self.out_features = width
        with seeded(seed):
            self.projection = linear_maps(self.modalities, width)

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Project and join."""
        projected = [self.projection[name](x) for name, x in self.scaled(features, mask).items()]
        return FusionOutput(mask_nodes(self.join(torch.stack(projected)), mask))

    def join(self, projected: Float[Tensor, "m b n f"]) -> Float[Tensor, "b n f"]:
        """The sum of the M modalities."""
        return projected.sum(0)


class Product(Add):
    """Elementwise product: node = prod_m (W_m x_m + b_m).

    Args:
        modalities: Width of each modality by name.
        width: F, to which every W_m maps.
        seed: Of the start.

    Example:
        >>> fusion = Product({"motion": 3, "text": 2}, width=8)
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "product"

    def join(self, projected: Float[Tensor, "m b n f"]) -> Float[Tensor, "b n f"]:
        """The product of the M modalities."""
        return projected.prod(0)


class Gated(ScaledFusion):
    """Gated sum: node = sum_m g_m tanh(W_m x_m + b_m), with one gate per modality and node, seen from all modalities.

    g_m = sigmoid(sum_k <u_mk, x_k> + c_m). ``gates`` reads them.

    Args:
        modalities: Width of each modality by name.
        width: F, to which every W_m maps.
        seed: Of the start.

    Source: the gated multimodal unit (Arevalo et al., 2017) for M modalities, with a number for a gate instead of a vector.

    Example:
        >>> fusion = Gated({"motion": 3, "text": 2}, width=8)
        >>> features = {"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}
        >>> fusion(features).nodes.shape, fusion.gates(features)["text"].shape
        (torch.Size([1, 4, 8]), torch.Size([1, 4]))
    """

    kind: ClassVar[str] = "gated"

    def __init__(self, modalities: Mapping[str, int], *, width: int = 32, seed: int = 0) -> None:
        super().__init__(modalities, width=width, seed=seed)
        self.out_features = width
        total = sum(self.modalities.values())
        with seeded(seed):
            self.projection = linear_maps(self.modalities, width)
            self.gate = nn.ModuleDict({name: nn.Linear(total, 1) for name in self.modalities})

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Project, gate and sum."""
        scaled = self.scaled(features, mask)
        gates = self._gates(scaled)
        gated = [gates[name][:, :, None] * self.projection[name](x).tanh() for name, x in scaled.items()]
        return FusionOutput(mask_nodes(torch.stack(gated).sum(0), mask))

    def gates(
        self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None
    ) -> dict[str, Float[Tensor, "b n"]]:
        """How far each modality is let through at each node, in (0, 1), by name; of no meaning where a node is masked."""
        return self._gates(self.scaled(features, mask))

    def _gates(self, scaled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        everything = torch.cat(list(scaled.values()), dim=-1)
        return {name: self.gate[name](everything)[..., 0].sigmoid() for name in scaled}


class MLP(ScaledFusion):
    """Non-linear fusion of the concatenation: node = ReLU(W_2 ReLU(W_1 [x_1, ..., x_M] + b_1) + b_2).

    Args:
        modalities: Width of each modality by name.
        width: F of the nodes.
        hidden: Width between the two layers.
        seed: Of the start.

    Example:
        >>> fusion = MLP({"motion": 3, "text": 2}, width=8)
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "mlp"

    def __init__(self, modalities: Mapping[str, int], *, width: int = 32, hidden: int = 64, seed: int = 0) -> None:
        super().__init__(modalities, width=width, hidden=hidden, seed=seed)
        self.out_features = width
        with seeded(seed):
            self.first = nn.Linear(sum(self.modalities.values()), hidden)
            self.second = nn.Linear(hidden, width)

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Concatenate, then two layers."""
        joined = torch.cat(list(self.scaled(features, mask).values()), dim=-1)
        return FusionOutput(mask_nodes(self.second(self.first(joined).relu()).relu(), mask))


class ScoreAverage(ScaledFusion):
    """Late fusion: node = (1/M) sum_m s_m, one number; s_m = <v_m, ReLU(W_m x_m + b_m)> + c_m sees one modality alone.

    The head behind it gets that number only, so modalities meet nowhere but in their mean logit. ``logits`` reads them.

    Args:
        modalities: Width of each modality by name.
        hidden: Width inside each modality's small head.
        seed: Of the start.

    Example:
        >>> fusion = ScoreAverage({"motion": 3, "text": 2})
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 1])
    """

    kind: ClassVar[str] = "score-average"

    def __init__(self, modalities: Mapping[str, int], *, hidden: int = 32, seed: int = 0) -> None:
        super().__init__(modalities, hidden=hidden, seed=seed)
        self.out_features = 1
        with seeded(seed):
            self.first = linear_maps(self.modalities, hidden)
            self.second = linear_maps(dict.fromkeys(self.modalities, hidden), 1)

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Average the logits of the modalities."""
        return FusionOutput(mask_nodes(torch.stack(list(self.logits(features, mask).values())).mean(0)[..., None], mask))

    def logits(
        self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None
    ) -> dict[str, Float[Tensor, "b n"]]:
        """What each modality alone says of each node, by name; of no meaning where a node is masked."""
        return {name: self.second[name](self.first[name](x).relu())[..., 0] for name, x in self.scaled(features, mask).items()}


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
