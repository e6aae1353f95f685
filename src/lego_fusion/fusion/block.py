"""LEGO fusion as a block inside a network: the patches or tokens of several streams are nodes, their relations are fused.

Where ``LegoFusion`` hands on rows of the fused graph, the block *propagates features* along it and gives back what it got, a
feature map or tokens, so that it stands where a concatenation or an addition stood.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from ..graph.expansion import normalise
from ..graph.operator import GraphOperator, check_names
from ..graph.relationship import cosine_graph
from ..graph.sparse import propagate_nearest
from ..graph.streaming import TILE_ABOVE, propagate
from .base import mask_nodes, seeded

Start = Literal["concatenation", "addition"]
STARTS: tuple[Start, ...] = ("concatenation", "addition")

OPERATOR_OPTIONS = ("order", "form", "expansion", "zero_order", "seed")


class LegoBlock(nn.Module):
    """Fuse two or more streams of a network by concatenation plus propagation along their fused relationship graph.

        Y = sum_m X_m W_m + b  +  gain * ( D^-1 G  sum_m X_m V_m ),        G = operator(R_1, ..., R_M),  D_ii = sum_j |G_ij|

    X_m are the N nodes of stream m, R_m their cosines (seen from the mean node of the item), W_m and V_m linear maps to
    ``out_features`` and ``gain`` one number per output. sum_m X_m W_m is a linear map of the concatenation [X_1, ..., X_M].
    Rows of D^-1 G have absolute sum 1, so what arrives is never larger than the largest value sent. Gradients reach the
    streams through the graphs too. Nodes have no order: permuting them permutes the output.

    A block of ``start="concatenation"`` begins as a linear map of the concatenation (that of a fresh ``torch.nn.Linear``),
    one of ``start="addition"`` as the sum of the streams; both with the propagated part at ``gain`` beside it.

    Memory: with whole graphs training keeps about 2 M + 3 arrays of N x N numbers for each item: with two streams in float32
    9 MB at N = 576. Above ``tile_above`` nodes no graph is held: tiles of it are made, used and made again in the backward
    (``graph.streaming``), and memory grows with N only. Matrix powers need whole graphs and refuse more than ``most_nodes``.
    With ``patch`` the nodes of a map are patches of p x p cells: fewer by p^2.

    Args:
        modalities: Width D_m of each stream by name; the order orients an operator that is not symmetric.
        out_features: F, width of the output.
        start: ``"concatenation"``, or ``"addition"`` where every D_m = F.
        gain: Start of the propagated part's weight, >= 0; at 0 the graphs learn nothing in the first step.
        centred: Take cosines from the mean node of the item; without it the cosines of features after a ReLU are all near 1.
        resize: Name of the stream whose resolution all maps take (bilinear); None wants equal resolutions.
        patch: p: a node is the mean of p x p cells of a map, and what it receives goes to all of them; 1 for tokens.
        most_nodes: Largest N allowed where whole graphs are needed: matrix powers, ``relations`` and ``graph``.
        tile_above: Largest N whose graphs are held whole by ``forward``, with elementwise powers.
        neighbours: Propagate along edges to this many nearest nodes of each stream only (``graph.sparse``; elementwise powers
            with ``ones``); None uses all. ``relations`` and ``graph`` stay whole.
        operator: Options of the operator, by name, see ``GraphOperator``: ``order``, the highest power of the graphs, P >= 0,
            where 0 propagates the mean node; ``form``; ``expansion``; ``zero_order``; ``seed`` of the start.

    Raises:
        ParameterError: If an option is unknown or out of range, a name cannot be used, or widths do not allow the start.

    Source: the paper's relationship graphs and operator, applied to patches and tokens; projection, propagation and start
    are ours.

    Example:
        >>> block = LegoBlock({"colour": 16, "depth": 8}, out_features=24)
        >>> maps = {"colour": torch.rand(2, 16, 6, 8), "depth": torch.rand(2, 8, 6, 8)}
        >>> block(maps).shape
        torch.Size([2, 24, 6, 8])
        >>> block({"colour": torch.rand(2, 5, 16), "depth": torch.rand(2, 5, 8)}).shape
        torch.Size([2, 5, 24])
    """

    def __init__(
        self,
        modalities: Mapping[str, int],
        out_features: int,
        *,
        start: str = "concatenation",
        gain: float = 0.1,
        centred: bool = True,
        resize: str | None = None,
        patch: int = 1,
        most_nodes: int = 4096,
        tile_above: int = TILE_ABOVE,
        neighbours: int | None = None,
        **operator: Any,
    ) -> None:
        super().__init__()
        unknown = [name for name in operator if name not in OPERATOR_OPTIONS]
        if unknown:
            raise ParameterError(
                f"LegoBlock has no parameter '{unknown[0]}'", expected=", ".join(OPERATOR_OPTIONS), got=unknown[0]
            )
        if not modalities:
            raise ParameterError("a block needs at least one modality", where="LegoBlock")
        check_names(list(modalities))
        self.modalities = {
            name: check_int(width, f"modalities['{name}']", "LegoBlock", low=1) for name, width in modalities.items()
        }
        self.out_features = check_int(out_features, "out_features", "LegoBlock", low=1)
        self.patch = check_int(patch, "patch", "LegoBlock", low=1)
        self.most_nodes = check_int(most_nodes, "most_nodes", "LegoBlock", low=1)
        self.tile_above = check_int(tile_above, "tile_above", "LegoBlock", low=0)
        self.neighbours = None if neighbours is None else check_int(neighbours, "neighbours", "LegoBlock", low=1)
        if neighbours is not None and not self._elementwise(operator):
            raise ParameterError("neighbours are defined for expansion='hadamard' with zero_order='ones'", where="LegoBlock")
        if resize is not None:
            check_choice(resize, "resize", "LegoBlock", list(self.modalities))
        self.start: Start = check_choice(start, "start", "LegoBlock", STARTS)
        self.centred, self.resize, self.seed = centred, resize, check_int(operator.get("seed", 0), "seed", "LegoBlock", low=0)
        self.operator = GraphOperator(list(self.modalities), **operator)
        started = check_number(gain, "gain", "LegoBlock", low=0.0)
        self.gain = nn.Parameter(torch.full((self.out_features,), started))
        with seeded(self.seed):
            self.projection, self.value = (self._maps() for _ in range(2))
            self.bias = nn.Parameter(self._uniform(self.out_features))
        if start == "addition":
            self._start_as_sum()

    @staticmethod
    def _elementwise(operator: Mapping[str, Any]) -> bool:
        return (operator.get("expansion", "hadamard"), operator.get("zero_order", "ones")) == ("hadamard", "ones")

    def _maps(self) -> nn.ParameterDict:
        return nn.ParameterDict({name: self._uniform(self.out_features, width) for name, width in self.modalities.items()})

    def _uniform(self, *shape: int) -> Tensor:
        bound = 1 / math.sqrt(sum(self.modalities.values()))
        return torch.empty(shape).uniform_(-bound, bound)

    @torch.no_grad()
    def _start_as_sum(self) -> None:
        for name, width in self.modalities.items():
            if width != self.out_features:
                raise ParameterError(
                    "a sum needs streams as wide as the output",
                    where=f"modality '{name}'",
                    expected=self.out_features,
                    got=width,
                    fix="use start='concatenation'",
                )
            self.projection[name].copy_(torch.eye(width))
        self.bias.zero_()

    def forward(
        self, features: Mapping[str, Float[Tensor, "b ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b ..."]:
        """Fuse the streams.

        Args:
            features: By name, all feature maps (B, D_m, h, w) or all tokens (B, N, D_m); other names are ignored.
            mask: True where a token exists, (B, N); what a masked token holds goes nowhere and its output is zero.

        Returns:
            (B, F, h, w) or (B, N, F).

        Raises:
            DataError: If a stream is missing or does not fit, or whole graphs are needed for more than ``most_nodes`` nodes.
        """
        streams = self._select(features, mask)
        is_map = next(iter(streams.values())).ndim == 4
        whole, nodes = self._nodes(streams, mask)
        received = self._received(nodes, mask)
        out = _linear(whole, self.projection) + self.bias
        if not is_map:
            return mask_nodes(out + self.gain * received, mask)
        height, width = next(iter(streams.values())).shape[2:]
        spread = _as_map(self.gain * received, height // self.patch, width // self.patch)
        if self.patch > 1:
            spread = spread.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return _as_map(out, height, width) + spread

    def relations(
        self, features: Mapping[str, Float[Tensor, "b ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> dict[str, Float[Tensor, "b n n"]]:
        """R_m, the relationship graph of each stream by name, (B, N, N): nodes of a map row by row."""
        return self._relate(self._nodes(self._select(features, mask), mask, held=True)[1], mask)

    def graph(
        self, features: Mapping[str, Float[Tensor, "b ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n n"]:
        """G, the fused graph before rows are normalised, (B, N, N)."""
        return self._fuse(self._nodes(self._select(features, mask), mask, held=True)[1], mask)

    def extra_repr(self) -> str:
        """Streams and output, for printing."""
        widths = ", ".join(f"{name}: {width}" for name, width in self.modalities.items())
        return f"{widths} -> {self.out_features}, start={self.start}, patch={self.patch}"

    def _received(self, nodes: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        """D^-1 G sum_m X_m V_m, (B, N, F), from whole graphs where they are small."""
        values, first = _linear(nodes, self.value), next(iter(nodes.values()))
        count = first.shape[1]
        if not self._in_tiles(count):
            return normalise(self._fuse(nodes, mask), "row") @ values
        seen = {name: _from_mean(x, mask) if self.centred else x for name, x in nodes.items()}
        values = values.to(first.dtype)
        if self.neighbours is None:
            return propagate(seen, self.operator, values, mask).weighted_mean()
        return propagate_nearest(seen, self.operator, values, mask, neighbours=min(self.neighbours, count)).weighted_mean()

    def _in_tiles(self, count: int) -> bool:
        """Whether no whole graph is held."""
        return self.neighbours is not None or (count > self.tile_above and self.operator.expansion == "hadamard")

    def _fuse(self, nodes: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        fused: Tensor = self.operator(self._relate(nodes, mask), mask, square=True)
        return fused.to(next(iter(nodes.values())).dtype)

    def _relate(self, nodes: dict[str, Tensor], mask: Tensor | None) -> dict[str, Tensor]:
        seen = {name: _from_mean(x, mask) if self.centred else x for name, x in nodes.items()}
        return {name: cosine_graph(x, mask=mask) for name, x in seen.items()}

    def _nodes(
        self, streams: dict[str, Tensor], mask: Tensor | None, *, held: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every cell of a map and the patches they form, both (B, N, D_m); of tokens the tokens twice."""
        first = next(iter(streams.values()))
        if first.ndim == 3:
            self._require_few(first.shape[1], "give fewer tokens: merge or sample them before the block", held=held)
            tokens = {name: mask_nodes(x, mask) for name, x in streams.items()}
            return tokens, tokens
        height, width = first.shape[2:]
        if height % self.patch or width % self.patch:
            raise DataError(
                "a map cannot be cut into patches",
                expected=f"height and width divisible by {self.patch}",
                got=f"{height} x {width}",
                fix="pad or resize the maps, or use another patch",
            )
        fix = f"use patch={2 * self.patch} (nodes of {2 * self.patch} x {2 * self.patch} cells), or place it at a coarser level"
        self._require_few((height // self.patch) * (width // self.patch), fix, held=held)
        whole = {name: _as_nodes(x) for name, x in streams.items()}
        if self.patch == 1:
            return whole, whole
        return whole, {name: _as_nodes(functional.avg_pool2d(x, self.patch)) for name, x in streams.items()}

    def _require_few(self, count: int, fix: str, *, held: bool) -> None:
        if count > self.most_nodes and (held or not self._in_tiles(count)):
            raise DataError(
                "too many nodes for graphs of N x N",
                where="LegoBlock",
                expected=f"at most {self.most_nodes} (most_nodes)",
                got=count,
                fix=fix,
            )

    def _select(self, features: Mapping[str, Tensor], mask: Tensor | None) -> dict[str, Tensor]:
        """The streams in the order of ``modalities``, resized where asked, with layouts, widths and sizes checked."""
        missing = [name for name in self.modalities if name not in features]
        if missing:
            raise DataError(
                f"modality '{missing[0]}' is missing",
                expected=", ".join(self.modalities),
                got=", ".join(features) or "no modality",
                fix=f"give features of '{missing[0]}', or make a block without it",
            )
        streams = {name: features[name] for name in self.modalities}
        first = next(iter(streams.values()))
        for name, x in streams.items():
            self._require_layout(name, x, first)
        if first.ndim == 4 and self.resize is not None:
            size = streams[self.resize].shape[2:]
            streams = {name: x if x.shape[2:] == size else _resized(x, size) for name, x in streams.items()}
        _require_equal_sizes(streams)
        if mask is not None:
            _require_mask(mask, first)
        return streams

    def _require_layout(self, name: str, x: Tensor, first: Tensor) -> None:
        axis = 1 if first.ndim == 4 else 2
        if first.ndim not in (3, 4) or x.ndim != first.ndim or x.shape[0] != first.shape[0] or 0 in x.shape:
            raise DataError(
                "streams have no common layout",
                where=f"modality '{name}'",
                expected="all feature maps (B, D, h, w) or all tokens (B, N, D) of one batch, none empty",
                got=f"{tuple(x.shape)} beside {tuple(first.shape)}",
            )
        if x.shape[axis] != self.modalities[name]:
            raise DataError(
                "features have another width",
                where=f"modality '{name}'",
                expected=f"{self.modalities[name]} at axis {axis} of {'(B, D, h, w)' if axis == 1 else '(B, N, D)'}",
                got=tuple(x.shape),
            )
        if x.dtype != self.gain.dtype and not torch.is_autocast_enabled(x.device.type):
            raise DataError(
                "features and block differ in dtype",
                where=f"modality '{name}'",
                expected=self.gain.dtype,
                got=x.dtype,
                fix="convert the features, or the block with .to(dtype)",
            )


def _require_equal_sizes(streams: dict[str, Tensor]) -> None:
    (name, first), *others = streams.items()
    what = "numbers of tokens" if first.ndim == 3 else "resolutions"
    for other, x in others:
        here, there = (tuple(one.shape[2:] if one.ndim == 4 else one.shape[1:2]) for one in (first, x))
        if here != there:
            fix = "use resize, the name of the stream whose resolution all take" if x.ndim == 4 else "align the tokens first"
            got = f"'{name}' {' x '.join(map(str, here))}, '{other}' {' x '.join(map(str, there))}"
            raise DataError(f"streams have different {what}", got=got, fix=fix)


def _require_mask(mask: Tensor, first: Tensor) -> None:
    if first.ndim == 4:
        raise DataError("a mask is for tokens", expected="no mask with feature maps", fix="flatten the maps to tokens")
    if mask.dtype != torch.bool or mask.shape != first.shape[:2]:
        raise DataError(
            "the mask does not fit", expected=f"{tuple(first.shape[:2])} bool", got=f"{tuple(mask.shape)} {mask.dtype}"
        )


def _linear(nodes: dict[str, Tensor], weights: nn.ParameterDict) -> Tensor:
    """sum_m X_m W_m^T, (B, N, F)."""
    first, *others = (functional.linear(x, weights[name]) for name, x in nodes.items())
    return functools.reduce(torch.add, others, first)


def _from_mean(x: Float[Tensor, "b n d"], mask: Tensor | None) -> Float[Tensor, "b n d"]:
    """X minus the mean of the item's existing nodes; nodes that are the mean, up to rounding, become zero."""
    count = x.shape[1] if mask is None else mask.sum(1).clamp_min(1)[:, None, None]
    wide = torch.promote_types(x.dtype, torch.float32)  # in which sums of half-precision numbers stay in range
    mean = (x.sum(1, keepdim=True, dtype=wide) / count).to(x.dtype)
    shifted = x - mean
    rounding = 8 * torch.finfo(x.dtype).eps * (x.detach().abs() + mean.detach().abs())
    return shifted.masked_fill((shifted.detach().abs() <= rounding).all(-1, keepdim=True), 0.0)


def _as_nodes(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n d"]:
    return x.flatten(2).transpose(1, 2)


def _as_map(x: Float[Tensor, "b n d"], height: int, width: int) -> Float[Tensor, "b d h w"]:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
