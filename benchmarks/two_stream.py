"""A compact two-stream encoder-decoder for planted RGB-D scenes, whose streams meet early, in the middle or late.

Each stream halves the picture twice (3 convolutions, the last of 48 channels on a quarter of the resolution); the decoder
brings it back by two convolutions. There are no skips around the middle, so what is fused there is all the decoder gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from known_answers.scenes import LABELS, PlantedScenes
from lego_fusion import LegoBlock
from lego_fusion.fusion.networks import CrossAttention

CHANNELS = {"rgb": 3, "depth": 1}
WIDTH = 48  # channels where streams meet in the middle


def encoder(channels: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, 48, H/4, W/4)."""
    layers: list[nn.Module] = []
    for before, after, stride in ((channels, 24, 2), (24, 32, 2), (32, WIDTH, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def decoder(classes: int) -> nn.Sequential:
    """(B, 48, H/4, W/4) -> logits (B, classes, H, W)."""
    layers: list[nn.Module] = []
    for before, after in ((WIDTH, WIDTH), (WIDTH, 32)):
        layers += [nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
    return nn.Sequential(*layers[:-1], nn.Conv2d(32, 4 * classes, 3, 1, 1), nn.PixelShuffle(2))


class Concatenation(nn.Module):
    """A linear map of the concatenated cells."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(2 * WIDTH, WIDTH, 1)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """(B, 48, h, w)."""
        return self.projection(torch.cat([maps[name] for name in CHANNELS], 1))  # type: ignore[no-any-return]


class Addition(nn.Module):
    """The sum of the cells."""

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """(B, 48, h, w)."""
        return maps["rgb"] + maps["depth"]


class Attention(nn.Module):
    """Each stream's cells attend to all cells of the other; a linear map of both."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = CrossAttention(dict.fromkeys(CHANNELS, WIDTH), width=WIDTH)
        self.projection = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """(B, 48, h, w)."""
        nodes = self.attention({name: x.flatten(2).transpose(1, 2) for name, x in maps.items()}).nodes
        return self.projection(nodes).transpose(1, 2).reshape(maps["rgb"].shape)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """All cells attend to all, each with both streams; a linear map of a cell and of what it received."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2 * WIDTH, num_heads=4, batch_first=True)
        self.projection = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """(B, 48, h, w)."""
        cells = torch.cat([maps[name] for name in CHANNELS], 1).flatten(2).transpose(1, 2)
        received, _ = self.attention(cells, cells, cells, need_weights=False)
        fused = self.projection(torch.cat([cells, received], 2)).transpose(1, 2)
        return fused.reshape(maps["rgb"].shape)  # type: ignore[no-any-return]


def lego_block(start: str = "concatenation", order: int = 2) -> LegoBlock:
    """The block in the place of the concatenation or the sum."""
    return LegoBlock(dict.fromkeys(CHANNELS, WIDTH), WIDTH, start=start, order=order)


MIDDLES: dict[str, Callable[[], nn.Module]] = {
    "middle: concatenation": Concatenation,
    "middle: addition": Addition,
    "middle: cross-attention": Attention,
    "middle: LegoBlock": lego_block,
    "middle: LegoBlock, order 0": lambda: lego_block(order=0),
    "middle: LegoBlock from the sum": lambda: lego_block("addition"),
}
FURTHER: dict[str, Callable[[], nn.Module]] = {"middle: self-attention": SelfAttention}  # for relations between objects
PLACES = ("rgb alone", "depth alone", "early", *MIDDLES, "late")


class TwoStream(nn.Module):
    """The network.

    Args:
        place: One of ``PLACES`` or ``FURTHER``: which streams there are and where they meet. Early: at the input; late: the
            mean of the logits of two whole networks.
        classes: Number of labels.
    """

    def __init__(self, place: str, classes: int = len(LABELS)) -> None:
        super().__init__()
        self.place = place
        streams = {"early": {"both": 4}, "rgb alone": {"rgb": 3}, "depth alone": {"depth": 1}}.get(place, CHANNELS)
        self.encoders = nn.ModuleDict({name: encoder(channels) for name, channels in streams.items()})
        middles = MIDDLES | FURTHER
        self.middle = middles[place]() if place in middles else None
        heads = streams if place == "late" else ["fused"]
        self.decoders = nn.ModuleDict({name: decoder(classes) for name in heads})

    def forward(self, pictures: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes, H, W) from pictures (B, C_m, H, W) by name."""
        if self.place == "early":
            pictures = {"both": torch.cat([pictures[name] for name in CHANNELS], 1)}
        maps = {name: one(pictures[name]) for name, one in self.encoders.items()}
        if self.place == "late":
            return torch.stack([one(maps[name]) for name, one in self.decoders.items()]).mean(0)
        fused = next(iter(maps.values())) if self.middle is None else self.middle(maps)
        return self.decoders["fused"](fused)  # type: ignore[no-any-return]


def pictures_of(planted: PlantedScenes) -> tuple[dict[str, Tensor], Tensor]:
    """Both modalities as (S, C, H, W), about centred, and the labels (S, H, W)."""
    rgb = torch.from_numpy(planted.rgb).permute(0, 3, 1, 2).contiguous() * 2 - 1
    depth = torch.from_numpy(planted.depth)[:, None] * 2
    return {"rgb": rgb, "depth": depth}, torch.from_numpy(planted.labels.astype(np.int64))


def train(
    place: str,
    planted: PlantedScenes,
    *,
    steps: int,
    batch: int = 16,
    seed: int = 0,
    names: Sequence[str] = LABELS,
    after: Callable[[int, TwoStream], None] | None = None,
) -> TwoStream:
    """Train on random batches: Adam, one cycle of the rate up to 1e-2, pictures mirrored at random.

    ``after`` is handed the number of steps done and the network, from 0 on; it must leave both as they are.
    """
    torch.manual_seed(seed)
    network = TwoStream(place, len(names))
    pictures, labels = pictures_of(planted)
    adam = torch.optim.Adam(network.parameters(), lr=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, total_steps=steps)
    weights = torch.ones(len(names))
    weights[0] = 0.2  # of the plane, which is most of every scene
    for step in range(steps):
        if after is not None:
            after(step, network)
        chosen = torch.randint(len(labels), (batch,))
        flipped = [3] if bool(torch.rand(()) < 0.5) else []
        logits = network({name: x[chosen].flip(flipped) for name, x in pictures.items()})
        loss = nn.functional.cross_entropy(logits, labels[chosen].flip([axis - 1 for axis in flipped]), weights)
        adam.zero_grad()
        loss.backward()
        adam.step()
        rates.step()
    if after is not None:
        after(steps, network)
    return network.eval()


@torch.no_grad()
def predicted(network: nn.Module, planted: PlantedScenes, batch: int = 50) -> Tensor:
    """The label of every pixel, (S, H, W)."""
    pictures, _ = pictures_of(planted)
    parts = range(0, len(planted.labels), batch)
    return torch.cat([network({name: x[s : s + batch] for name, x in pictures.items()}).argmax(1) for s in parts])


def intersection_over_union(told: Tensor, labels: Tensor, names: Sequence[str] = LABELS) -> dict[str, float]:
    """Of each class over all pixels of all scenes."""
    both = [((told == k) & (labels == k)).sum() for k in range(len(names))]
    either = [((told == k) | (labels == k)).sum() for k in range(len(names))]
    return {name: float(a / b) for name, a, b in zip(names, both, either, strict=True)}
