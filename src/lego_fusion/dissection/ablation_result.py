"""The record of a causal check: what a metric loses when some units of a layer are silenced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ablation:
    """One metric before and after some units of a layer are silenced, on the same images.

    Args:
        level: Of the layer.
        modality: Of the layer.
        group: What the units have in common: "shared" and "special" concepts, or "random" units of the same number.
        units: Positions of the units that were silenced.
        before: The metric of the network as it is.
        after: With the units silenced.
        change: after - before.
        low: Lower end of the interval of the change, over resampled images.
        high: Upper end.
        metric: Name of the metric, for example of a class whose IoU it is.
        matched: Of random units: the group that they match in number; elsewhere "".
    """

    level: str
    modality: str
    group: str
    units: tuple[int, ...]
    before: float
    after: float
    change: float
    low: float
    high: float
    metric: str = ""
    matched: str = ""


def excess_over_random(found: Iterable[Ablation]) -> dict[tuple[str, str], float]:
    """Change by (group, metric) minus the mean change of the random units that match the group.

    A layer may depend on how many units it has left, whatever they stand for: what a group does beyond that is its own.
    Groups without random units are left out.

    Example:
        >>> own = Ablation("late", "rgb", "special", (0, 1), 0.9, 0.3, -0.6, -0.7, -0.5, "disc")
        >>> other = Ablation("late", "rgb", "random", (2, 3), 0.9, 0.8, -0.1, -0.2, 0.0, "disc", matched="special")
        >>> excess_over_random([own, other])
        {('special', 'disc'): -0.5}
    """
    rows = list(found)
    excess = {}
    for row in rows:
        chance = [other.change for other in rows if other.matched == row.group and other.metric == row.metric]
        if row.group != "random" and chance:
            excess[row.group, row.metric] = row.change - sum(chance) / len(chance)
    return excess
