"""Fusions by attention: of each modality's nodes to those of the others, and of modalities to each other within a node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .base import FusionOutput, ScaledFusion, linear_maps, mask_nodes, seeded


class CrossAttention(ScaledFusion):
    """Each modality's nodes attend to all nodes of the others: node = [h_1, ..., h_M].

    z_m = W_m x_m + b_m; h_m,i = z_m,i + sum_j a_m,ij V_k z_k,j over the nodes j of the modalities k other than m, with
    a_m,i = softmax_j(<Q_m z_m,i, K_k z_k,j> / sqrt(d)). A single modality attends to its own nodes.

    Args:
        modalities: Width of each modality by name.
        width: d of z, queries, keys and values; F = M d.
        seed: Of the start.

    Source: Vaswani et al. (2017) for the attention; one step of it, between modalities as in Tsai et al. (2019).

    Example:
        >>> fusion = CrossAttention({"motion": 3, "text": 2}, width=8)
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 16])
    """

    kind: ClassVar[str] = "cross-attention"

    def __init__(self, modalities: Mapping[str, int], *, width: int = 32, seed: int = 0) -> None:
        super().__init__(modalities, width=width, seed=seed)
        self.out_features = width * len(self.modalities)
        with seeded(seed):
            self.projection = linear_maps(self.modalities, width)
            self.query, self.key, self.value = (_square_maps(self.modalities, width) for _ in range(3))

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Project, attend and concatenate."""
        nodes = {name: self.projection[name](x) for name, x in self.scaled(features, mask).items()}
        keys = {name: self.key[name](z) for name, z in nodes.items()}
        values = {name: self.value[name](z) for name, z in nodes.items()}
        rows = []
        for name, z in nodes.items():
            others = [other for other in nodes if other != name] or [name]
            key, value = (torch.cat([source[other] for other in others], dim=1) for source in (keys, values))
            seen = None if mask is None else mask.repeat(1, len(others))[:, None, :]
            rows.append(z + attention_weights(self.query[name](z), key, seen) @ value)
        return FusionOutput(mask_nodes(torch.cat(rows, dim=-1), mask))

    def attention(
        self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None
    ) -> dict[str, dict[str, Float[Tensor, "b n n"]]]:
        """The weights a_m,ij that ``forward`` uses: by modality m that looks and modality k looked at, (B, N, N).

        Row i of a modality adds up to 1 over the nodes of all modalities it looks at.
        """
        nodes = {name: self.projection[name](x) for name, x in self.scaled(features, mask).items()}
        found = {}
        for name, z in nodes.items():
            others = [other for other in nodes if other != name] or [name]
            key = torch.cat([self.key[other](nodes[other]) for other in others], dim=1)
            seen = None if mask is None else mask.repeat(1, len(others))[:, None, :]
            weights = attention_weights(self.query[name](z), key, seen)
            found[name] = dict(zip(others, weights.chunk(len(others), dim=-1), strict=True))
        return found


class SelfAttention(ScaledFusion):
    """The modalities of a node attend to each other: node = (1/M) sum_m (t_m + sum_k a_mk V t_k).

    t_m = W_m x_m + b_m is the token of a modality (b_m is its embedding) and a_m = softmax_k(<Q t_m, K t_k> / sqrt(d)).
    A single modality has nobody to choose from, and no Q or K.

    Args:
        modalities: Width of each modality by name.
        width: d of tokens, queries, keys and values; also F.
        seed: Of the start.

    Source: Vaswani et al. (2017), one head, over modality tokens.

    Example:
        >>> fusion = SelfAttention({"motion": 3, "text": 2}, width=8)
        >>> fusion({"motion": torch.rand(1, 4, 3), "text": torch.rand(1, 4, 2)}).nodes.shape
        torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "self-attention"

    def __init__(self, modalities: Mapping[str, int], *, width: int = 32, seed: int = 0) -> None:
        super().__init__(modalities, width=width, seed=seed)
        self.out_features = width
        with seeded(seed):
            self.projection = linear_maps(self.modalities, width)
            self.value = nn.Linear(width, width, bias=False)
            if len(self.modalities) > 1:
                self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Make tokens, attend and average."""
        tokens = torch.stack(
            [self.projection[name](x) for name, x in self.scaled(features, mask).items()], dim=2
        )  # (B, N, M, d)
        seen = self.value(tokens)
        if len(self.modalities) > 1:
            seen = attention_weights(self.query(tokens), self.key(tokens)) @ seen
        return FusionOutput(mask_nodes((tokens + seen).mean(2), mask))


def attention_weights(
    query: Float[Tensor, "*batch q d"], key: Float[Tensor, "*batch k d"], mask: Bool[Tensor, "*batch _q k"] | None = None
) -> Float[Tensor, "*batch q k"]:
    """Softmax over k of <query, key> / sqrt(d): keys whose mask is False get nothing, unless there is no other.

    Example:
        >>> attention_weights(torch.zeros(1, 2), torch.rand(4, 2))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


def _square_maps(modalities: Mapping[str, int], width: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in modalities})
