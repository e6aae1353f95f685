"""The temporal network that relations are compared with: every modality through its own multi-scale network, then joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import check_choice, check_int, check_number
from .base import Fusion, FusionOutput, mask_nodes

Join = Literal["concat", "add", "product"]
JOINS: tuple[Join, ...] = ("concat", "add", "product")
DILATIONS = (1, 2, 4)


class MTN(Fusion):
    """Multi-scale temporal networks, one per modality, joined by concatenation, sum or product.

    y_m = TemporalNetwork_m(x_m); node = [y_1, ..., y_M], sum_m V_m y_m, or prod_m V_m y_m (elementwise), where V_m is a
    learned map to the width of the narrowest modality (none for those that have it). With 2048-wide video, 768-wide text and
    ``TevadHead`` this gives 28.4 (concat) and 29.0 (add, product) million parameters, the published sizes.

    Args:
        modalities: Width of each modality by name.
        join: ``"concat"``, ``"add"`` or ``"product"``.
        seed: Seed of the start.

    Source: RTFM (ICCV 2021) for the network, TEVAD (CVPRW 2023) for one per modality and the joins.

    Example:
        >>> fusion = MTN({"video": 8, "text": 4})
        >>> fusion({"video": torch.rand(2, 16, 8), "text": torch.rand(2, 16, 4)}).nodes.shape
        torch.Size([2, 16, 12])
    """

    kind: ClassVar[str] = "mtn"

    def __init__(self, modalities: Mapping[str, int], *, join: Join = "concat", seed: int = 0) -> None:
        super().__init__(modalities)
        self.join: Join = check_choice(join, "join", "MTN", JOINS)
        self.seed = check_int(seed, "seed", "MTN", low=0)
        narrowest = min(self.modalities.values())
        self.out_features = sum(self.modalities.values()) if join == "concat" else narrowest
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.ModuleDict({name: TemporalNetwork(width) for name, width in self.modalities.items()})
            projected = {} if join == "concat" else {n: w for n, w in self.modalities.items() if w != narrowest}
            self.projection = nn.ModuleDict({name: nn.Linear(width, narrowest) for name, width in projected.items()})

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal fusion."""
        return {"modalities": self.modalities, "join": self.join, "seed": self.seed}

    def forward(self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Run every network and join what they return."""
        rows = {name: self.network[name](x, mask) for name, x in zip(self.modalities, self.select(features), strict=True)}
        if self.join == "concat":
            return FusionOutput(torch.cat(list(rows.values()), dim=-1))
        one_width = [self.projection[name](y) if name in self.projection else y for name, y in rows.items()]
        stacked = torch.stack(one_width)
        return FusionOutput(mask_nodes(stacked.sum(0) if self.join == "add" else stacked.prod(0), mask))


class TemporalNetwork(nn.Module):
    """What happens around a node at three time scales, and in the whole video.

    z_d = BN(ReLU(convolution of 3 nodes, d apart)) for d = 1, 2, 4 and z_0 = NonLocal(ReLU(W x)), each of width F / 4;
    y = x + BN(ReLU(convolution of 3 neighbours in [z_1, z_2, z_4, z_0])). Beyond the ends, and where a node is masked, there
    is zero.

    Args:
        width: F; where it is no multiple of 4, the quarter is rounded down, and is at least 1.

    Source: RTFM (ICCV 2021).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        check_int(width, "width", "TemporalNetwork", low=1)
        quarter = max(1, width // 4)
        self.local = nn.ModuleList([nn.Conv1d(width, quarter, 3, padding=d, dilation=d) for d in DILATIONS])
        self.local_norm = nn.ModuleList([NodeNorm(quarter) for _ in DILATIONS])
        self.reduce = nn.Conv1d(width, quarter, 1)
        self.non_local = NonLocal(quarter)
        self.restore = nn.Conv1d(quarter * (len(DILATIONS) + 1), width, 3, padding=1)
        self.restore_norm = NodeNorm(width)

    def forward(self, x: Float[Tensor, "b n f"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n f"]:
        """Return nodes of the same width; zero where masked."""
        x = mask_nodes(x, mask)
        columns = x.transpose(1, 2)  # (B, F, N), as convolutions want it
        scales = [norm(conv(columns).relu(), mask) for conv, norm in zip(self.local, self.local_norm, strict=True)]
        scales.append(self.non_local(self.reduce(columns).relu(), mask))
        restored = self.restore_norm(self.restore(torch.cat(scales, dim=1)).relu(), mask)
        result: Tensor = x + restored.transpose(1, 2)
        return result


class NonLocal(nn.Module):
    """Every node adds what it sees in all others: z_i = x_i + BN(W (1/N) sum_j <theta x_i, phi x_j> g x_j).

    The scale of BN starts at zero, so that the block starts as the identity.

    Args:
        width: C of its input; theta, phi and g map to C / 2, at least 1.

    Source: Wang et al., Non-local Neural Networks (CVPR 2018), dot-product form.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 2)
        self.theta, self.phi, self.g = (nn.Conv1d(width, inner, 1) for _ in range(3))
        self.back = nn.Conv1d(inner, width, 1, bias=False)
        self.norm = NodeNorm(width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "b c n"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b c n"]:
        """Return nodes of the same width; zero where masked."""
        affinity = self.theta(x).transpose(1, 2) @ self.phi(x)  # (B, N, N)
        nodes: Tensor | int = x.shape[-1]
        if mask is not None:
            affinity = affinity.masked_fill(~mask[:, None, :], 0.0)
            nodes = mask.sum(1).clamp_min(1)[:, None, None]
        seen = self.g(x) @ (affinity / nodes).transpose(1, 2)  # (B, C / 2, N)
        result: Tensor = x + self.norm(self.back(seen), mask)
        return result if mask is None else result.masked_fill(~mask[:, None, :], 0.0)


class NodeNorm(nn.BatchNorm1d):
    """Batch normalisation over the nodes that exist.

    A batch with a single node has no variance: it is normalised by the running statistics, which stay as they are.
    """

    def forward(self, x: Float[Tensor, "b c n"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b c n"]:
        """Return x with each column normalised; zero where masked."""
        count = x.shape[0] * x.shape[2] if mask is None else int(mask.sum())
        if self.training and count == 1:
            running, learned = (self.running_mean, self.running_var), (self.weight, self.bias)
            normed = nn.functional.batch_norm(x, *running, *learned, training=False, eps=self.eps)
        elif mask is None or not self.training:
            normed = super().forward(x)
        else:
            rows = x.transpose(1, 2)  # (B, N, C)
            normed = torch.zeros_like(rows).masked_scatter(mask[:, :, None], super().forward(rows[mask])).transpose(1, 2)
        return normed if mask is None else normed.masked_fill(~mask[:, None, :], 0.0)


class TevadHead(nn.Module):
    """Three fully connected layers F -> 512 -> 128 -> 1 with ReLU and dropout between; the sigmoid comes with the loss.

    Args:
        in_features: F.
        dropout: In [0, 1].
        seed: Of the start.

    Source: RTFM and TEVAD.

    Example:
        >>> TevadHead(12)(torch.rand(2, 16, 12)).shape
        torch.Size([2, 16])
    """

    def __init__(self, in_features: int, *, dropout: float = 0.7, seed: int = 0) -> None:
        super().__init__()
        check_int(in_features, "in_features", "TevadHead", low=1)
        check_number(dropout, "dropout", "TevadHead", low=0.0, high=1.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_int(seed, "seed", "TevadHead", low=0))
            self.layers = nn.ModuleList([nn.Linear(in_features, 512), nn.Linear(512, 128), nn.Linear(128, 1)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: Float[Tensor, "b n f"]) -> Float[Tensor, "b n"]:
        """Logits of the nodes."""
        first, second, last = self.layers
        logits: Tensor = last(self.dropout(second(self.dropout(first(nodes).relu())).relu()))[..., 0]
        return logits
