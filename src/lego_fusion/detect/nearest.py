"""The normal training segments, to find the one that a segment is most like and to say how unusual its distance is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..fusion.lego import MOST_CANDIDATES
from ..fusion.relation import Relation
from .event_records import NearestNormal, Segment


class NormalSegments:
    """Known-normal segments and their distances in each modality.

    A distance is the root of the dissimilarity that the modality's relation orders pairs by (``Relation.dissimilarity``), which
    is a Euclidean distance of features, of unit length for cosine. The joint one is the mean over modalities, each divided by
    its mean among normals so that none outweighs another.

    Args:
        relations: Fitted relation of each modality.
        units: Features of the U segments, (U, D_m) by modality; more than 2,048 are thinned evenly.
        segments: Where they are, U of them.
    """

    def __init__(
        self, relations: Mapping[str, Relation], units: Mapping[str, Float[Tensor, "u _"]], segments: Sequence[Segment]
    ) -> None:
        keep = torch.arange(len(segments))
        if len(segments) > MOST_CANDIDATES:
            keep = torch.linspace(0, len(segments) - 1, MOST_CANDIDATES).long()
        self.relations = dict(relations)
        self.units = {name: units[name][keep] for name in relations}
        self.segments = [segments[index] for index in keep.tolist()]
        self._scale: dict[str, float] = {}
        self._usual: dict[str | None, Tensor] = {}  # sorted distances of normals to the nearest normal of another video
        distances = {name: self.relations[name].dissimilarity(values).sqrt() for name, values in self.units.items()}
        for name, matrix in distances.items():
            self._scale[name] = float(matrix.mean()) or 1.0
        other = self._of_other_videos()
        for key, matrix in self._with_joint(distances).items():
            nearest = matrix.masked_fill(~other, float("inf")).amin(1)
            self._usual[key] = nearest[nearest.isfinite()].sort().values

    def nearest(self, features: Mapping[str, Float[Tensor, " _"]]) -> tuple[NearestNormal, ...]:
        """The nearest normal segment to a segment with these features: jointly first, then by modality."""
        distances = {
            name: self.relations[name].dissimilarity_to(features[name][None], units).sqrt()
            for name, units in self.units.items()
        }
        return tuple(self._describe(key, row[0]) for key, row in self._with_joint(distances).items())

    def _describe(self, modality: str | None, distances: Float[Tensor, " u"]) -> NearestNormal:
        place = int(distances.argmin())
        distance, usual = distances[place], self._usual[modality]
        if len(usual) == 0:  # one normal video: nothing to compare with
            return NearestNormal(modality, self.segments[place], 0.0, 0.0)
        unusual = float((usual < distance).double().mean())
        return NearestNormal(modality, self.segments[place], float(distance / usual.median().clamp_min(1e-12)), unusual)

    def _with_joint(self, distances: Mapping[str, Float[Tensor, "n u"]]) -> dict[str | None, Float[Tensor, "n u"]]:
        joint = torch.stack([distance / self._scale[name] for name, distance in distances.items()]).mean(0)
        found: dict[str | None, Tensor] = {None: joint}
        found.update(distances.items())
        return found

    def _of_other_videos(self) -> Bool[Tensor, "u u"]:
        numbers = {video: number for number, video in enumerate(dict.fromkeys(one.video for one in self.segments))}
        video = torch.tensor([numbers[one.video] for one in self.segments])
        return video[:, None] != video[None]
