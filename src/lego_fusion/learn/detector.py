"""The detector: a fusion and a small head that turns each node's vector into a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import check_int, check_number
from ..fusion.base import Fusion
from ..fusion.reading_head import ReadingHead
from ..fusion.streams import NodeStream


class DetectorOutput(NamedTuple):
    """Segment logits (B, N), higher is more abnormal (sigmoid gives the segment score), and the fused graph if there is one."""

    logits: Float[Tensor, "b n"]
    graph: Float[Tensor, "b n k"] | None


class NodeHead(nn.Module):
    """Two fully connected layers on each node's vector: F -> hidden -> 1, ReLU between; the sigmoid comes with the loss.

    Args:
        in_features: F.
        hidden: Width between the layers; 32 with F = 32 is the paper's N -> N -> 1.
        dropout: Of the hidden units, in [0, 1].
        seed: Of the start.

    Source: the paper's head.
    """

    def __init__(self, in_features: int, hidden: int = 32, *, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        check_int(in_features, "in_features", "NodeHead", low=1)
        check_int(hidden, "hidden", "NodeHead", low=1)
        check_number(dropout, "dropout", "NodeHead", low=0.0, high=1.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(in_features, hidden)
            self.second = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: Float[Tensor, "b n f"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n"]:
        """Logits of the nodes, each from its own vector."""
        logits: Tensor = self.second(self.dropout(self.first(nodes).relu()))[..., 0]
        return logits


class Detector(nn.Module):
    """Features or frozen inputs of videos -> one logit per node.

    Args:
        fusion: Any fusion whose statistics are fitted.
        hidden: Width of the head, where the fusion brings none of its own.
        dropout: Of the head.
        seed: Of the head's start.
    """

    head: NodeHead | ReadingHead

    def __init__(self, fusion: Fusion, *, hidden: int = 32, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.fusion = fusion
        self.head_config = {"hidden": hidden, "dropout": dropout, "seed": seed}
        own = fusion.make_head()
        self.head = NodeHead(fusion.out_features, hidden, dropout=dropout, seed=seed) if own is None else own

    def forward(
        self, inputs: Mapping[str, Tensor], mask: Bool[Tensor, "b n"] | None = None, *, cached: bool = False
    ) -> DetectorOutput:
        """Score the nodes.

        Args:
            inputs: Features (B, N, D_m) by modality; or, with ``cached``, what the fusion's frozen stage made of them.
            mask: True where a node exists, (B, N).
            cached: Whether ``inputs`` come from the frozen stage (``Fusion.transform``).
        """
        output = self.fusion(inputs if cached else self.fusion.transform(inputs, mask), mask)
        return DetectorOutput(self.head(output.nodes, mask), output.graph)

    @property
    def reading_head(self) -> ReadingHead | None:
        """The head that is a sum of readable parts, where it is one."""
        return None if isinstance(self.head, NodeHead) else self.head

    @property
    def own_world(self) -> bool | None:
        """Whether it asks how unlike the rest of its own video a segment is; None where that is not a question of its own."""
        head = self.reading_head
        return None if head is None else bool(head.own_world)

    @property
    def world(self) -> str:
        """In which world it lives, in words; nothing where that is not a question."""
        head = self.reading_head
        if head is None:
            return ""
        if not self.own_world:
            return "known world: a score says how unlike the known normal footage a segment is"
        share = round(100 * float(head.alpha))
        return f"own world: {share} % of a score says how unlike the rest of its own video a segment is (alpha)"

    def stream(self, window: int) -> NodeStream:
        """What the head reads of a running video of windows of so many segments."""
        return self.fusion.stream(window, inside=self.own_world is not False)

    def parameter_count(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def config(self) -> dict[str, Any]:
        """JSON values from which ``learn.checkpoint`` makes an equal detector."""
        return {"fusion": {"kind": self.fusion.kind, "config": self.fusion.config()}, "head": self.head_config}
