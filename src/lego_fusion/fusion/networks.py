"""Fusions by networks across nodes, found by name: attention, graph convolution, multi-scale temporal networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import check_choice, check_int, check_number
from ..graph.relationship import cosine_graph
from .base import Fusion, FusionOutput, ScaledFusion, linear_maps, mask_nodes, seeded


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
