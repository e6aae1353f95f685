"""Reference units: the known-normal segments that the nodes of every video relate to.

Where a camera's normal footage is known, the question is how unlike *that* a segment is. So nodes relate to K segments of
normal training videos, and R is (B, N, K): all of them, because the few known segments that a segment is most like decide, and
a choice of typical ones loses just those. They are real segments that can be shown: "unlike every known normal; the nearest is
this one". The same K segments serve every modality, so that the columns of all graphs mean the same and can be multiplied.

A training video must not meet itself: its relations are *cross-fitted* by a mask over the columns that come from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import DataError, check_int, check_number
from .distances import squared_distances

SPACING_NEIGHBOURS = 3  # nearest references of other videos that say how densely normals lie around one
LEAST_SPACING = 1e-2  # of a reference, in units of the common one: copies in several videos are not infinitely dense
ROWS_AT_ONCE = 1024


def node_numbers(features: Sequence[Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None) -> Int[Tensor, "b n"]:
    """Number of the distinct snippets of a video up to each node: nodes in a row with equal features are copies of one.

    A video with fewer snippets than nodes repeats some. Copies have one number, the next distinct node one more.

    Args:
        features: Of every modality.
        mask: True where a node exists; the first existing node starts anew.

    Example:
        >>> node_numbers([torch.tensor([[[1.0], [1.0], [2.0], [1.0]]])])
        tensor([[0, 0, 1, 2]])
    """
    if torch.compiler.is_exporting():  # no part is shorter than the whole, so that one node is as good as any number
        before = (torch.arange(features[0].shape[1], device=features[0].device) - 1).clamp_min(0)
        return torch.stack([(x != x[:, before]).flatten(2).any(-1) for x in features]).any(0).long().cumsum(1)
    changed = torch.stack([(x[:, 1:] != x[:, :-1]).flatten(2).any(-1) for x in features]).any(0)
    if mask is not None:  # what a masked node holds says nothing
        changed = mask[:, 1:] & (changed | ~mask[:, :-1])
    return torch.nn.functional.pad(changed.long().cumsum(1), (1, 0))


def choose_references(
    numbers: Int[Tensor, "b n"],
    normal: Bool[Tensor, " b"],
    most: int,
    mask: Bool[Tensor, "b n"] | None = None,
) -> Int[Tensor, "k two"]:
    """Every distinct node of every normal bag, evenly thinned where there are more than ``most``: (bag, node) of each.

    Args:
        numbers: From ``node_numbers``.
        normal: Which bags are normal.
        most: Largest K.
        mask: True where a node exists.

    Raises:
        DataError: If no normal bag has a node.
    """
    check_int(most, "most", "choose_references", low=1)
    first = torch.ones_like(numbers, dtype=torch.bool)
    first[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    there = first & normal[:, None] if mask is None else first & normal[:, None] & mask
    units = there.nonzero()
    if not len(units):
        raise DataError("reference units come from normal videos", expected="normal training videos", got="none")
    return evenly_thinned(units, most)


def evenly_thinned(units: Int[Tensor, "u ..."], most: int) -> Int[Tensor, "k ..."]:
    """At most so many of some units, evenly spread over them."""
    if len(units) <= most:
        return units
    return units[torch.linspace(0, len(units) - 1, most, device=units.device, dtype=torch.float64).long()]


def require_several_videos(videos: Int[Tensor, " k"], where: object = None) -> None:
    """Raise ``DataError`` unless references come from at least two videos: a single one meets none that is not its own."""
    count = len(videos.unique())
    if count < 2:
        raise DataError(
            "references are cross-fitted by video",
            where=where,
            expected="at least 2 normal training videos with features",
            got=str(count),
            fix="add normal training videos, or cut the one that there is into several",
        )


def spacings(
    points: Float[Tensor, "*b u d"],
    groups: Int[Tensor, "*b u"],
    known: Float[Tensor, "*b k d"] | None = None,
    known_groups: Int[Tensor, "*b k"] | None = None,
    *,
    apart: int = 0,
    exists: Bool[Tensor, "*b k"] | None = None,
) -> Float[Tensor, "*b u"]:
    """Mean distance of each point to its 3 nearest known ones of other groups: how densely normals lie around it.

    Args:
        points: Scaled features, of one set or of a batch of sets, each to itself.
        groups: Number of each point's group: its video, which it must not meet.
        known: To measure against; None: the points themselves.
        known_groups: Group of each of those.
        apart: Groups whose numbers differ by no more than this do not meet either: neighbours, where they are in time.
        exists: False where there is no known one to meet.

    Returns:
        Of each point; 0 where there is no other group to meet.

    Example:
        >>> spacings(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 1, 2]))
        tensor([3.0000, 2.5000, 4.5000])
    """
    known, known_groups = (points, groups) if known is None or known_groups is None else (known, known_groups)
    found = [points.new_zeros(*groups.shape[:-1], 0)]
    for part, group in zip(points.split(ROWS_AT_ONCE, -2), groups.split(ROWS_AT_ONCE, -1), strict=True):
        near = (group[..., :, None] - known_groups[..., None, :]).abs() <= apart
        if exists is not None:
            near = near | ~exists[..., None, :]
        squared = squared_distances(part, known).masked_fill(near, float("inf"))
        nearest = squared.topk(min(SPACING_NEIGHBOURS, known.shape[-2]), largest=False).values
        there = nearest.isfinite()
        found.append(nearest.masked_fill(~there, 0.0).sqrt().sum(-1) / there.sum(-1).clamp_min(1))
    return torch.cat(found, dim=-1)


def local_bandwidths(
    spacing: Float[Tensor, " k"], exponent: float = 0.5, common: Float[Tensor, ""] | None = None
) -> tuple[Float[Tensor, " k"], Float[Tensor, ""]]:
    """Bandwidth of each reference, between a common one and its own spacing: s_j = sigma_j^e sigma^(1 - e).

    sigma_j is the reference's spacing and sigma the geometric mean of all positive ones. e = 0 is one bandwidth for all, e = 1
    a fully local one; half-way, domains of different density can be joined.

    Args:
        spacing: From ``spacings``.
        exponent: e, in [0, 1].
        common: sigma of references that are there already; None: of these.

    Returns:
        s_j > 0, and sigma; both are 1 where all references coincide, in units of the scaled features.
    """
    check_number(exponent, "exponent", "local_bandwidths", low=0.0, high=1.0)
    if common is None:
        positive = spacing[spacing > 0]
        common = positive.log().mean().exp() if len(positive) else torch.ones_like(spacing.new_zeros(()))
    floored = torch.maximum(spacing, LEAST_SPACING * common)
    return floored.pow(exponent) * common.pow(1 - exponent), common
