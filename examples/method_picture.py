"""Draw the figure of docs/method.md: two segments, the known normals that they are like, their degrees and departures.

    python examples/method_picture.py docs/images/method.png

Nothing is drawn by hand: the points are made from a seed, everything else is what ``LegoFusion`` reads of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lego_fusion import LegoFusion

SEGMENTS = {"ordinary": (0.5, 0.25), "faster": (2.6, 1.2)}
COLOURS = {"ordinary": "#2a7f62", "faster": "#c0392b"}


def known_videos() -> torch.Tensor:
    """Six normal videos of twelve segments: people of two paces, (6, 12, 2)."""
    generator = torch.Generator().manual_seed(3)
    middle = torch.tensor([[0.0, 0.0], [1.2, 0.3]]).repeat(3, 1)[:, None]
    return middle + 0.35 * torch.randn(6, 12, 2, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = known_videos()
    fusion = LegoFusion({"motion": 2})
    fusion.fit({"motion": known}, torch.zeros(6, dtype=torch.bool), torch.arange(6))
    figure, (plane, bars) = pyplot.subplots(1, 2, figsize=(9.2, 3.7), width_ratios=(2.4, 1), layout="constrained")
    points = fusion.known_normals("motion").references
    plane.scatter(*points.T, s=14, color="#9aa5b1", zorder=3, label="known normal segments")
    heights = {}
    for name, place in SEGMENTS.items():
        x = torch.tensor([[place]])
        readings = fusion.readings({"motion": x})
        weights, columns = fusion.most_like({"motion": x}, 25)
        expected = x[0, 0] - readings.departure["motion"][0, 0] * fusion.known_normals("motion").full
        for weight, column in zip(weights[0, 0], columns[0, 0], strict=True):
            width = 6 * float(weight / weights.max())
            plane.plot(*zip(place, points[column].tolist(), strict=True), color=COLOURS[name], alpha=0.25, lw=width, zorder=1)
        arrow = {"arrowstyle": "-|>", "color": COLOURS[name], "lw": 2}
        plane.annotate("", place, expected.tolist(), arrowprops=arrow, zorder=5)
        plane.scatter(*expected, marker="x", s=50, color=COLOURS[name], zorder=5)
        plane.scatter(*place, s=70, color=COLOURS[name], zorder=6, label=f"{name} segment, x")
        heights[name] = float(((readings.degree - fusion.frozen.centre) / fusion.frozen.spread).sum())
    plane.scatter([], [], marker="x", color="black", label="what it is like: $\\Sigma_j\\,\\tilde{G}_{ij}\\,x_j$")
    plane.plot([], [], color="black", lw=2, label="departure r")
    plane.set(xlabel="speed", ylabel="size", xticks=[], yticks=[])
    plane.legend(fontsize=8, frameon=False, loc="upper left")
    plane.set_ylim(top=2.2)
    bars.bar(list(heights), list(heights.values()), color=[COLOURS[name] for name in heights])
    bars.axhline(0, color="black", lw=0.8)
    bars.set_title("degree, 0 is a typical normal one", fontsize=9)
    for side in ("top", "right"):
        plane.spines[side].set_visible(False)
        bars.spines[side].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    main()
