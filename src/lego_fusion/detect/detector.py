"""The detector: a fusion and a small head that turns each node's vector into a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import ParameterError, check_int, check_number
from ..fusion.base import Fusion
from ..fusion.lego import LegoFusion


class DetectorOutput(NamedTuple):
    """Segment logits (B, N), higher is more abnormal (sigmoid gives the segment score), and the fused graph if there is one."""

    logits: Float[Tensor, "b n"]
    graph: Float[Tensor, "b n k"] | None


class NodeHead(nn.Module):
    """Two fully connected layers on each node's vector: F -> hidden -> 1, ReLU between; the sigmoid comes with the loss.

    With a start direction w the head begins as the linear score w . x (each hidden unit a slightly different positive multiple
    of it, shifted so that no ReLU cuts while |x| <= ``reach``), so an untrained detector already scores in the right sense.

    Args:
        in_features: F.
        hidden: Width between the layers; 32 with F = 32 is the paper's N -> N -> 1.
        dropout: Of the hidden units, in [0, 1].
        direction: w (F,), or None for PyTorch's usual start.
        reach: Largest |x| for which the start is exactly linear.
        noise: Relative spread of the hidden units around w.
        seed: Of the start.

    Source: the paper's head; the signed start is ours.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int = 32,
        *,
        dropout: float = 0.0,
        direction: Float[Tensor, " f"] | None = None,
        reach: float = 1.0,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_int(in_features, "in_features", "NodeHead", low=1)
        check_int(hidden, "hidden", "NodeHead", low=1)
        check_number(dropout, "dropout", "NodeHead", low=0.0, high=1.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(in_features, hidden)
            self.second = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)
        if direction is not None:
            self._start(direction, reach, noise, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _start(self, direction: Tensor, reach: float, noise: float, generator: torch.Generator) -> None:
        hidden = self.first.out_features
        spread = 1 + noise * torch.randn(hidden, len(direction), generator=generator)
        self.first.weight.copy_(direction * spread.clamp_min(0))
        self.first.bias.copy_(reach * self.first.weight.abs().sum(1))
        self.second.weight.fill_(1 / hidden)
        self.second.bias.copy_(-self.first.bias.mean()[None])

    @torch.no_grad()
    def rescale(self, shift: float, scale: float) -> None:
        """Change the logits from z to (z - shift) / scale."""
        self.second.weight.div_(scale)
        self.second.bias.sub_(shift).div_(scale)

    def forward(self, nodes: Float[Tensor, "b n f"]) -> Float[Tensor, "b n"]:
        """Logits of the nodes."""
        logits: Tensor = self.second(self.dropout(self.first(nodes).relu()))[..., 0]
        return logits


class Detector(nn.Module):
    """Features or cached relations of videos -> one logit per node.

    Args:
        fusion: Any fusion whose statistics are fitted.
        hidden: Width of the head.
        dropout: Of the head.
        seed: Of the head's start.
    """

    def __init__(self, fusion: Fusion, *, hidden: int = 32, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.fusion = fusion
        self.head_config = {"hidden": hidden, "dropout": dropout, "seed": seed}
        direction = fusion.start_direction()
        self.head = NodeHead(fusion.out_features, hidden, dropout=dropout, direction=direction, seed=seed)

    def forward(
        self, inputs: Mapping[str, Tensor], mask: Bool[Tensor, "b n"] | None = None, *, cached: bool = False
    ) -> DetectorOutput:
        """Score the nodes.

        Args:
            inputs: Features (B, N, D_m) by modality; or, with ``cached``, graphs (B, N, N or K) from ``LegoFusion.relations``.
            mask: True where a node exists, (B, N).
            cached: Whether ``inputs`` are graphs.
        """
        if not cached:
            output = self.fusion(inputs, mask)
        elif isinstance(self.fusion, LegoFusion):
            output = self.fusion.forward_relations(inputs, mask)
        else:
            raise ParameterError(f"the fusion '{self.fusion.kind}' has no relations to cache", fix="pass features")
        return DetectorOutput(self.head(output.nodes), output.graph)

    @torch.no_grad()
    def calibrate_start(
        self,
        inputs: Mapping[str, Tensor],
        labels: Bool[Tensor, " b"],
        *,
        cached: bool,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> None:
        """Set where training starts from: modalities balanced, logits on a common scale.

        First the fusion balances its modalities (``Fusion.balance_start``), then the logits are shifted and scaled so that
        the nodes of normal training bags have mean -2 and deviation 1, which makes 0 a sensible threshold.
        """
        was_training = self.training
        self.eval()
        known = {name: tensor[~labels] for name, tensor in inputs.items()}
        if cached:
            self.fusion.balance_start(inputs, labels, mask)
        there = None if mask is None else mask[~labels]
        normal = self(known, there, cached=cached).logits
        normal = normal if there is None else normal[there]
        self.train(was_training)
        deviation = float(normal.std()) if normal.numel() > 1 else 0.0
        scale = deviation if deviation > 0 else 1.0
        self.head.rescale(float(normal.mean()) + 2 * scale, scale)

    def parameter_count(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def config(self) -> dict[str, Any]:
        """JSON values from which ``detect.checkpoint`` makes an equal detector."""
        return {"fusion": {"kind": self.fusion.kind, "config": self.fusion.config()}, "head": self.head_config}
