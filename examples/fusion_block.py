"""LEGO as a block in a model of your own: two streams of any width in, one vector per item out, and an operator one can read.

    python examples/fusion_block.py

In every bag some items are mismatched: their group in one stream is not their group in the other. Each stream alone looks the
same for matched and mismatched items, so that only the product of the two relations, the coefficient A_11, can tell.

For feature maps or tokens inside a network, whose streams are trained along with it, there is ``LegoBlock`` (docs/method.md).
"""

from __future__ import annotations

import torch
from torch import nn

from lego_fusion import PaperFusion

ITEMS, MISMATCHED = 16, 0.2
WIDTHS = {"picture": 8, "sound": 5}


def made_bags(
    count: int, centres: dict[str, torch.Tensor], generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Bags of items in two streams, and which items are mismatched."""
    seen = torch.randint(0, 2, (count, ITEMS), generator=generator)
    mismatched = torch.rand(count, ITEMS, generator=generator) < MISMATCHED
    groups = {"picture": seen, "sound": seen ^ mismatched.long()}
    noise = {name: 0.3 * torch.randn(count, ITEMS, width, generator=generator) for name, width in WIDTHS.items()}
    return {name: centres[name][group] + noise[name] for name, group in groups.items()}, mismatched.float()


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = {name: torch.randn(2, width, generator=generator) for name, width in WIDTHS.items()}
    train, labels = made_bags(200, centres, generator)
    test, truth = made_bags(100, centres, generator)

    fusion = PaperFusion(WIDTHS, nodes=ITEMS, centre=True, rows="sorted")  # items have no order
    head = nn.Sequential(nn.Linear(fusion.out_features, ITEMS), nn.ReLU(), nn.Linear(ITEMS, 1))
    fusion.fit(train, torch.zeros(200, dtype=torch.bool), torch.arange(200))
    graphs = fusion.relations(train)  # nothing in them is learned, so they are computed once
    parameters = [*fusion.parameters(), *head.parameters()]
    adam = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(100):
        logits = head(fusion(graphs).nodes)[..., 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        right = ((head(fusion.fuse(test).nodes)[..., 0] > 0) == truth.bool()).float().mean()
    count, chance = sum(one.numel() for one in parameters), 1 - MISMATCHED
    print(f"{count} parameters: {100 * right:.1f} % of the items of new bags are told right, {100 * chance:.0f} % by chance")


if __name__ == "__main__":
    main()
