"""The normal training segments, to find the one that a segment is most like and to say how unusual its distance is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..fusion.known import KnownNormals, column_scales, normal_rows
from ..graph.operator import GraphOperator
from ..graph.references import choose_references, node_numbers
from ..learn.bags import Bags
from .event_records import NearestNormal, Segment

MOST_SEGMENTS = 2048  # of models that know none themselves; more are thinned evenly
PSEUDO_VIDEOS, EXPONENT = 4.0, 0.5  # as in the default fusion


class NormalSegments:
    """Known-normal segments and their distances in each modality.

    In each modality the nearest has the largest relation R_ij = 1 / (1 + d_ij^2 / s_j^2), and its distance is d_ij / s_j: in
    units of how densely normal segments lie around it. Jointly the nearest is the largest entry of the fused graph, and its
    distance is that which all modalities alike would need for the same product of relations.

    Args:
        known: What is known in each modality, K segments.
        segments: Where they are, K of them.
        operator: Of the fused graph; None for the product of all relations.
    """

    def __init__(
        self, known: Mapping[str, KnownNormals], segments: Sequence[Segment], operator: GraphOperator | None = None
    ) -> None:
        self.known, self.segments, self.operator = dict(known), list(segments), operator
        self._usual: dict[str | None, Tensor] = {}  # sorted distances of normals to the nearest normal of another video
        surprises = {name: one.surprise(one.references) for name, one in self.known.items()}
        same = ~self._of_other_videos()
        for key, (surprise, distance) in self._with_joint(surprises).items():
            place = surprise.masked_fill(same, float("inf")).argmin(1, keepdim=True)
            nearest = distance.masked_fill(same, float("inf")).gather(1, place)[:, 0]
            self._usual[key] = nearest[nearest.isfinite()].sort().values

    @classmethod
    def of_bags(cls, normal: Bags, where: Callable[[str, int], Segment]) -> NormalSegments:
        """Of normal bags with features (V, N, D) of one crop a video.

        Args:
            normal: The bags.
            where: Name of a video and number of a segment -> the segment.
        """
        everything = torch.ones(len(normal.videos), dtype=torch.bool)
        numbers = node_numbers(list(normal.inputs.values()), normal.mask)
        places = choose_references(numbers, everything, MOST_SEGMENTS, normal.mask)
        known = {}
        for name, x in normal.inputs.items():
            known[name] = KnownNormals(x.shape[-1])
            known[name].fit_scales(column_scales(normal_rows(x, everything, normal.mask), len(x), PSEUDO_VIDEOS))
            known[name].fit_references(x[places[:, 0], places[:, 1]], places[:, 0], EXPONENT)
        return cls(known, [where(normal.videos[bag], node) for bag, node in places.tolist()])

    def nearest(self, features: Mapping[str, Float[Tensor, "c _"]]) -> tuple[NearestNormal, ...]:
        """The nearest normal segment to a segment with these features, of each crop: jointly first, then by modality."""
        surprises = {name: one.surprise(features[name]).mean(0, keepdim=True) for name, one in self.known.items()}
        found = self._with_joint(surprises).items()
        return tuple(self._describe(key, surprise[0], distance[0]) for key, (surprise, distance) in found)

    def _describe(self, modality: str | None, surprise: Float[Tensor, " k"], distances: Float[Tensor, " k"]) -> NearestNormal:
        place = int(surprise.argmin())
        distance, usual = distances[place], self._usual[modality]
        if len(usual) == 0:  # one normal video: nothing to compare with
            return NearestNormal(modality, self.segments[place], 0.0, 0.0)
        unusual = float((usual < distance).double().mean())
        return NearestNormal(modality, self.segments[place], float(distance / usual.median().clamp_min(1e-12)), unusual)

    def _with_joint(self, surprises: Mapping[str, Float[Tensor, "n k"]]) -> dict[str | None, tuple[Tensor, Tensor]]:
        """What orders the known segments, and the distance to each, (N, K): jointly first, then by modality."""
        mean = torch.stack(list(surprises.values())).mean(0)
        joint = mean if self.operator is None else -self.operator.log_entries(dict(surprises))
        found: dict[str | None, tuple[Tensor, Tensor]] = {None: (joint, mean.expm1().sqrt())}
        return found | {name: (one, one.expm1().sqrt()) for name, one in surprises.items()}

    def _of_other_videos(self) -> Bool[Tensor, "k k"]:
        numbers = {video: number for number, video in enumerate(dict.fromkeys(one.video for one in self.segments))}
        video = torch.tensor([numbers[one.video] for one in self.segments])
        return video[:, None] != video[None]
