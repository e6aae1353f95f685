"""The figures of docs/dissection.md, from the stored study.

python benchmarks/dissection_figures.py [results/dissection_study.json] [docs/images]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from known_answers.scenes import SEEN_BY
from lego_fusion.report.figures import LINES, new_figure
from measuring import RESULTS

LEVELS = ("1", "2", "3", "4", "5")
IMAGES = Path(__file__).parents[1] / "docs" / "images"
TOLD = {"rgb": "colour", "depth": "height", "either": "outline\nalone", "both": "colour\nXOR height"}
NAMES = {"rgb": "RGB stream", "depth": "depth stream"}


def figure(width: float, height: float) -> Any:
    """An empty figure."""
    made = new_figure(width, height)
    made.set_dpi(110)
    return made


def concepts(path: Path, seeds: Mapping[str, Any]) -> None:
    """Best AUROC of any unit, by concept and level, of both streams trained alone."""
    made = figure(8.6, 4.2)
    axes = made.subplots(1, 2, sharey=True)
    names = list(SEEN_BY)
    for axis, m in zip(axes, NAMES, strict=True):
        of = [seed["consistency"]["best AUROC"][m] for seed in seeds.values()]
        values = np.array([[np.mean([one[level][name] for one in of]) for level in LEVELS] for name in names])
        image = axis.imshow(values, cmap="cividis", vmin=0.5, vmax=1.0, aspect="auto")
        for row, column in np.ndindex(*values.shape):
            dark = values[row, column] < 0.78
            axis.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color="white" if dark else "black")
        axis.set(title=NAMES[m], xlabel="level: encoder 1 to 3, decoder 4 and 5")
        axis.set_xticks(range(len(LEVELS)), LEVELS)
        axis.set_yticks(
            range(len(names)), [f"{name} ({'both' if len(SEEN_BY[name]) == 2 else SEEN_BY[name][0]})" for name in names]
        )
    made.colorbar(image, ax=axes, label="AUROC of the best unit, over objects")
    made.savefig(path)


def ablation(path: Path, seeds: Mapping[str, Any], place: str = "middle: concatenation") -> None:
    """What each class group loses beyond random units, by stream and by what the units stand for."""
    made = figure(8.6, 4.0)
    axes = made.subplots(1, 2, sharey=True)
    for axis, (m, groups) in zip(axes, {"rgb": ("colour", "shared"), "depth": ("height", "shared")}.items(), strict=True):
        for number, group in enumerate(groups):
            rows = [seed["ablation"][place][m].get(group) for seed in seeds.values()]
            rows = [one["change"] for one in rows if one]
            if not rows:
                continue
            values = np.array([[one[told][0] for told in TOLD] for one in rows])
            at = np.arange(len(TOLD)) + 0.4 * number - 0.2
            label = f"{group} units" if group != "shared" else "units for shared concepts"
            axis.bar(at, values.mean(axis=0), width=0.36, color=LINES[number], label=label)
            for column, x in enumerate(at):
                axis.plot(np.full(len(values), x), values[:, column], "o", color="black", markersize=3)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=f"{NAMES[m]}, level 3", xlabel="classes told by")
        axis.set_xticks(range(len(TOLD)), list(TOLD.values()))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), fontsize=8, ncols=2, frameon=False)
    axes[0].set_ylabel("change of IoU (dots: seeds)")
    made.savefig(path)


def evolution(path: Path, seeds: Mapping[str, Any]) -> None:
    """J and similarity at level 3 over the training, apart and together."""
    made = figure(8.6, 3.2)
    axes = made.subplots(1, 3)
    steps = list(next(iter(seeds.values()))["evolution"]["apart"])
    for place, (axis, (key, title)) in enumerate(
        zip(
            axes,
            (("J", "J, shared of all concepts"), ("units", "units that detect, of 96"), ("similarity", "CKA of the streams")),
            strict=True,
        )
    ):
        for number, side in enumerate(("apart", "together")):
            values = np.array([[value_of(seed["evolution"][side][step], key) for step in steps] for seed in seeds.values()])
            axis.plot(
                range(len(steps)), values.mean(axis=0), color=LINES[number], label=f"trained {side}", marker="o", markersize=4
            )
            axis.fill_between(
                range(len(steps)), values.min(axis=0), values.max(axis=0), color=LINES[number], alpha=0.18, linewidth=0
            )
        axis.set(title=title, xlabel="training step")
        axis.set_xticks(range(len(steps)), steps)
        axis.set_ylim(bottom=0)
        if place == 0:
            axis.legend(fontsize=8)
    made.savefig(path)


def value_of(one: Mapping[str, Any], key: str) -> float:
    """A number of a checkpoint."""
    return float(sum(one["units that detect"].values()) if key == "units" else one[key])


def main() -> None:
    """Draw all figures."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "dissection_study.json"
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else IMAGES
    seeds = json.loads(source.read_text(encoding="utf-8"))["seeds"]
    concepts(folder / "dissection-concepts.png", seeds)
    ablation(folder / "dissection-ablation.png", seeds)
    evolution(folder / "dissection-evolution.png", seeds)


if __name__ == "__main__":
    main()
