"""Sequences of any kind with a label per item: items as nodes, variable lengths as a mask, a head on every node.

    python examples/sequence_nodes.py

Two streams of features per item, say the words and the voice of a speaker's sentences. Every speaker has a way of talking that
hides what a sentence says: only against the other sentences of the speaker does it show. A node of LEGO carries what its
neighbours in the fused graph say, G X, beside its own features; a concatenation sees single sentences. Put your own arrays into
``made_sequences``.
"""

from __future__ import annotations

import torch
from torch import nn

from lego_fusion import Concat, PaperFusion
from lego_fusion.fusion.base import Fusion

WIDTHS = {"words": 8, "voice": 6}
SHORTEST, LONGEST = 8, 20
Sequences = tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]


def made_sequences(count: int, directions: dict[str, torch.Tensor], generator: torch.Generator) -> Sequences:
    """Features (V, N, D) by name, labels (V, N), and a mask (V, N) that is True where an item exists."""
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=generator)
    mask = torch.arange(LONGEST) < lengths[:, None]
    labels = torch.randint(0, 2, (count, LONGEST), generator=generator).float() * mask
    features = {}
    for name, width in WIDTHS.items():
        speaker = 2 * torch.randn(count, 1, width, generator=generator)
        noise = 0.7 * torch.randn(count, LONGEST, width, generator=generator)
        features[name] = (speaker + labels[..., None] * directions[name] + noise) * mask[..., None]
    return features, labels, mask


def accuracy_of(fusion: Fusion, train: Sequences, test: Sequences, steps: int = 300) -> float:
    """Train a fusion and a head on the labels of real items; share of the real items of other sequences told right."""
    features, labels, mask = train
    owners = torch.arange(len(mask))[:, None].expand_as(mask)[mask]
    items = {name: x[mask][:, None] for name, x in features.items()}  # statistics are fitted on real items only
    fusion.fit(items, torch.zeros(len(owners), dtype=torch.bool), owners)
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(fusion.out_features, 32), nn.ReLU(), nn.Linear(32, 1))
    adam = torch.optim.Adam([*fusion.parameters(), *head.parameters()], lr=1e-2, weight_decay=1e-3)
    for _ in range(steps):
        logits = head(fusion.fuse(features, mask).nodes)[..., 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits[mask], labels[mask])
        adam.zero_grad()
        loss.backward()
        adam.step()
    features, labels, mask = test
    with torch.no_grad():
        told = (head(fusion.fuse(features, mask).nodes)[..., 0] > 0) == labels.bool()
    return float(told[mask].float().mean())


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = {name: torch.randn(width, generator=generator) for name, width in WIDTHS.items()}
    train, test = made_sequences(60, directions, generator), made_sequences(40, directions, generator)
    lego = PaperFusion(WIDTHS, nodes=LONGEST, rows="propagate", own_features=True)
    for name, fusion in (("LEGO, neighbours and own features", lego), ("concatenation", Concat(WIDTHS))):
        print(f"{name}: {100 * accuracy_of(fusion, train, test):.1f} % of the items of new sequences are told right")


if __name__ == "__main__":
    main()
