"""One modality's relation with what it learned from the training videos: centre, scale, and reference units."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import check_choice
from ..graph.relation_vectors import RelationVectors, cosine_vectors, dot_vectors, gaussian_vectors
from ..graph.relationship import (
    cosine_graph,
    dot_graph,
    gaussian_graph,
    mean_squared_norm,
    median_distance,
    to_unit_range,
)

RelationKind = Literal["cosine", "gaussian", "dot"]
RELATION_KINDS: tuple[RelationKind, ...] = ("cosine", "gaussian", "dot")
BAGS_AT_ONCE = 4  # small enough to stay in the processor's cache
SHRINKAGE: dict[RelationKind, float] = {"cosine": 0.1, "gaussian": 1.0}


class Relation(nn.Module):
    """Features of one modality -> relationship graph, with fitted statistics in buffers.

    Args:
        width: D.
        kind: ``"cosine"``, ``"gaussian"`` (bandwidth: median training distance over half-scaled columns) or ``"dot"`` (scale:
            training mean of squared norms).
        references: K; 0 relates the nodes to each other.
        centre: Whether cosine and dot subtract the mean of all training features.
        unit_range: Whether a cosine graph is mapped to [0, 1].
        scale_columns: Whether cosine and Gaussian divide column j by sqrt(v_j + shrinkage * mean_j v_j), v_j its variance
            over normal training bags. Columns that hardly vary among normals then count for more than their size, but are
            never blown up to pure noise; the shrinkage is 0.1 for cosine and 1 for Gaussian, where size is the signal.
    """

    centre: Tensor
    column_scale: Tensor
    scale: Tensor
    references: Tensor

    def __init__(
        self,
        width: int,
        kind: RelationKind,
        *,
        references: int,
        centre: bool = True,
        unit_range: bool = False,
        scale_columns: bool = True,
    ) -> None:
        super().__init__()
        self.kind: RelationKind = check_choice(kind, "relation", "LegoFusion", RELATION_KINDS)
        self.centred, self.unit_range = centre, unit_range
        self.scale_columns = scale_columns and kind in SHRINKAGE
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("column_scale", torch.ones(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("references", torch.zeros(references, width))

    def fit(self, features: Float[Tensor, "v n d"], normal: Bool[Tensor, " v"]) -> None:
        """Set the centre from all training bags, the column scales from the normal ones (all where none is), the scale last."""
        rows = features.reshape(-1, features.shape[-1])
        if self.centred:
            self.centre.copy_(_moments(features)[0])
        if self.scale_columns:
            variance = _moments(features[normal] if bool(normal.any()) else features)[1]
            deviation = (variance + SHRINKAGE[self.kind] * variance.mean()).sqrt()
            self.column_scale.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
        if self.kind == "gaussian":
            self.scale.copy_(median_distance(rows / self.column_scale))
        elif self.kind == "dot":
            self.scale.copy_(mean_squared_norm(rows, self.centre))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        references: Float[Tensor, "b_or_1 k d"] | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n k"]:
        """Relate the nodes to the references given, else to the fitted ones, else (where there are none) to each other."""
        if references is None and self.references.shape[0] > 0:
            references = self.references[None]
        return self.relate(x, references, mask)

    def relate(
        self,
        x: Float[Tensor, "b n d"],
        references: Float[Tensor, "b_or_1 k d"] | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n k"]:
        """Relate the rows of x to the references, or to each other where there are none."""
        if self.kind == "dot":
            return dot_graph(x, references, scale=self.scale, centre=self.centre, mask=mask)
        x = x / self.column_scale
        others = None if references is None else references / self.column_scale
        if self.kind == "gaussian":
            return gaussian_graph(x, others, bandwidth=self.scale, mask=mask)
        graph = cosine_graph(x, others, centre=self._scaled_centre(), mask=mask)
        return to_unit_range(graph, mask, square=references is None) if self.unit_range else graph

    def vectors(self, x: Float[Tensor, "b n d"], references: Float[Tensor, "b_or_1 k d"] | None = None) -> RelationVectors:
        """What ``forward`` would make its graph from, for graphs made in tiles (``graph.streaming``)."""
        if references is None and self.references.shape[0] > 0:
            references = self.references[None]
        if self.kind == "dot":
            return dot_vectors(x, references, scale=self.scale, centre=self.centre)
        x = x / self.column_scale
        others = None if references is None else references / self.column_scale
        if self.kind == "gaussian":
            return gaussian_vectors(x, others, bandwidth=self.scale)
        return cosine_vectors(x, others, centre=self._scaled_centre(), unit_range=self.unit_range)

    def scaled(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Features as the relation sees them: (x - centre) / column scale."""
        return (x - self.centre) / self.column_scale

    def dissimilarity(self, units: Float[Tensor, "u d"]) -> Float[Tensor, "u u"]:
        """Non-negative dissimilarity with zero diagonal that orders pairs as the relation does, for choosing references.

        cosine: 1 - R_ij; gaussian: |x_i - x_j|^2 / s^2 over scaled columns; dot: |x_i - x_j|^2 / scale.
        """
        scaled = units / self.column_scale
        if self.kind == "cosine":
            similarity = cosine_graph(scaled[None], scaled[None], centre=self._scaled_centre())[0]
            nothing = similarity.diagonal() == 0  # units at the centre relate to nothing, yet are copies of each other
            result = (1 - similarity).masked_fill(nothing[:, None] & nothing, 0.0).fill_diagonal_(0.0)
        else:
            distance = torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist") ** 2
            result = distance / (self.scale**2 if self.kind == "gaussian" else self.scale)
        return result.clamp_min(0).masked_fill(result < 1e-6, 0.0)  # copies of one segment are one segment

    def dissimilarity_to(self, x: Float[Tensor, "n d"], units: Float[Tensor, "u d"]) -> Float[Tensor, "n u"]:
        """Non-negative dissimilarity of rows to units, by the formulas of ``dissimilarity``: for finding the nearest."""
        x, units = x / self.column_scale, units / self.column_scale
        if self.kind == "cosine":
            return (1 - cosine_graph(x[None], units[None], centre=self._scaled_centre())[0]).clamp_min(0)
        distance = torch.cdist(x, units, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        return distance / (self.scale**2 if self.kind == "gaussian" else self.scale)

    def set_references(self, units: Float[Tensor, "u d"], index: Int[Tensor, " k"]) -> None:
        """Keep the features of the chosen units as references."""
        self.references = units[index].clone()

    def _scaled_centre(self) -> Tensor | None:
        return self.centre / self.column_scale if self.centred else None


def _moments(features: Float[Tensor, "v n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and variance of each column in float64, some bags at a time, so that no copy of all of them is needed."""
    count = features.shape[0] * features.shape[1]
    shift = features[0].mean(0, dtype=torch.float64)  # near the mean, so that squares do not cancel
    total, squares = torch.zeros_like(shift), torch.zeros_like(shift)
    for part in features.split(BAGS_AT_ONCE):
        rows = part.reshape(-1, part.shape[-1]).double() - shift
        total += rows.sum(0)
        squares += rows.square_().sum(0)
    mean = total / count
    return mean + shift, (squares / count - mean.square()).clamp_min(0)
