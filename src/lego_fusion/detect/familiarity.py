"""Is this footage like what the detector was trained on? Distance of its features to the statistics of the references.

    d(x)^2 = mean_j ((x_j - c_j) / s_j)^2,   c the training mean, s the scale of column j among normal segments
    ratio  = median over the segments of a video of d(x)  /  largest d of the reference units

The median is over a whole video, so that an event, which is unlike the training footage and ought to be, does not count; a
video of which most is abnormal is told apart by the size of the ratio alone. Scores of unlike footage say nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from ..fusion.base import Fusion
from ..fusion.lego import LegoFusion
from ..fusion.units import UnitRelation

UNLIKE = 2.5  # ratio from which footage is said to be unlike: 1.0 to 1.8 on other clips of one camera, 4 and more on others


@torch.no_grad()
def distance_ratios(fusion: Fusion, features: Mapping[str, Float[Tensor, "b n ..."]]) -> dict[str, Float[Tensor, "b n"]]:
    """d(x) of every segment over the largest of the reference units, by modality.

    Args:
        fusion: With fitted references; another fusion, and a modality of finer units, has no ratio.
        features: Of segments, (B, N, D) by modality.
    """
    if not isinstance(fusion, LegoFusion) or not fusion.wanted_references:
        return {}
    ratios = {}
    for name in fusion.modalities:
        relation = fusion.relation[name]
        if isinstance(relation, UnitRelation):
            continue
        known = float(_distance(relation.scaled(relation.references[None])).max())  # type: ignore[operator, index]
        if known > 0:
            ratios[name] = _distance(relation.scaled(features[name])) / known  # type: ignore[operator]
    return ratios


def unlike_training(fusion: Fusion, features: Mapping[str, Float[Tensor, "b n ..."]]) -> list[str]:
    """What to say of one video's footage, a line for each modality in which it is unlike the training footage.

    Args:
        fusion: Of the detector.
        features: Of the segments of one video, a bag for each crop, (C, N, D) by modality.
    """
    medians = {name: float(ratio.median()) for name, ratio in distance_ratios(fusion, features).items()}
    return [say_unlike(name, ratio) for name, ratio in medians.items() if ratio > UNLIKE]


class FamiliarityMonitor:
    """Tells once of each modality in which a stream is unlike the training footage, from the median of its last segments.

    Args:
        fusion: Of the detector.
        tell: Hears one line a modality.
        segments: How many are looked back at; none is told of before there are ``least``.
        least: See ``segments``.
    """

    def __init__(self, fusion: Fusion, tell: Callable[[str], None], *, segments: int = 32, least: int = 4) -> None:
        self.fusion, self.least, self._tell = fusion, least, tell
        self._ratios: dict[str, deque[float]] = {name: deque(maxlen=segments) for name in fusion.modalities}
        self._told: set[str] = set()

    def look(self, features: Mapping[str, Float[Tensor, "1 1 ..."]]) -> None:
        """Take the next segment."""
        for name, ratio in distance_ratios(self.fusion, features).items():
            self._ratios[name].append(float(ratio))
            usual = median(self._ratios[name])
            if name not in self._told and len(self._ratios[name]) >= self.least and usual > UNLIKE:
                self._told.add(name)
                self._tell(say_unlike(name, usual))


def say_unlike(modality: str, ratio: float) -> str:
    """One line for a person."""
    return (
        f"the footage is unlike the training footage in {modality} ({ratio:.1f} times as far from its mean as the furthest "
        "reference): the scores say little; train or add references from this camera"
    )


def _distance(scaled: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
    return scaled.square().mean(-1).sqrt()
