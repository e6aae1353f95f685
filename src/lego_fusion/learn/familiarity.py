"""Is this footage like what the detector was trained on? How far its segments lie from the known normals, in each modality.

    d_i    = distance of a segment to the known segments nearest to it, in units of how far those lie from each other
    ratio  = median of d_i over the segments of a video  /  the largest such median among the training videos, normal ones
             held against the others

The median is over a whole video, so that an event, which is unlike the training footage and ought to be, does not count; of a
video of which most is abnormal the training videos of that kind say how far that is from normal. Scores of unlike footage say
nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from ..fusion.base import Fusion

UNLIKE = 2.0  # ratio from which footage is said to be unlike: at most 1.5 on other clips of one camera, 2.7 and more on others


@torch.no_grad()
def unlike_training(fusion: Fusion, features: Mapping[str, Float[Tensor, "b n ..."]]) -> list[str]:
    """What to say of one video's footage, a line for each modality in which it is unlike the training footage.

    Args:
        fusion: Of the detector.
        features: Of the segments of one video, a bag for each crop, (C, N, D) by modality.
    """
    medians = {name: float(ratio.median()) for name, ratio in fusion.unlikeness(features).items()}
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

    @torch.no_grad()
    def look(self, features: Mapping[str, Float[Tensor, "1 1 ..."]]) -> None:
        """Take the next segment."""
        for name, ratio in self.fusion.unlikeness(features).items():
            self._ratios[name].append(float(ratio))
            usual = median(self._ratios[name])
            if name not in self._told and len(self._ratios[name]) >= self.least and usual > UNLIKE:
                self._told.add(name)
                self._tell(say_unlike(name, usual))


def say_unlike(modality: str, ratio: float) -> str:
    """One line for a person."""
    return (
        f"the footage is unlike the training footage in {modality} ({ratio:.1f} times as far from what is known as the most "
        "unlike training video): the scores say little; train on footage of this camera, or add normal videos of it"
    )
