"""From a score back to what made it, novel units and nearest known normals; apart from ``explainer``: it needs no events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import DataError, ParameterError
from ..fusion.base import Fusion
from ..fusion.known import KnownNormals, column_scales, normal_rows
from ..graph.operator import GraphOperator
from ..graph.references import choose_references, node_numbers
from ..learn.bags import (
    Bags,
    is_cached,
    seen_by,
)
from ..learn.checkpoint import RunConfig
from ..learn.scoring import load_run_bags
from .records import (
    HeatMap,
    NearestNormal,
    Segment,
)


@dataclass(frozen=True, eq=False)
class Traced:
    """The units that made the nodes of some bags.

    Args:
        units: Index of each node's most novel units, most novel first, (B, N, k); -1 where it has fewer.
        novelty: 1 - mean relation to the nearest known units of each of them, (B, N, k); 0 where there is none.
        places: Row and column of the picture of each of them, (B, N, k, 2), where the units have places; else None.
    """

    units: Int[Tensor, "b n k"]
    novelty: Float[Tensor, "b n k"]
    places: Int[Tensor, "b n k 2"] | None


@torch.no_grad()
def trace_nodes(fusion: Fusion, bags: Bags, modality: str, grid: tuple[int, int] | None = None) -> Traced:
    """Find the units that speak for each node: its most novel ones.

    Args:
        fusion: A fitted fusion that relates units of the modality to known ones (``lego``).
        bags: With features.
        modality: Of finer units.
        grid: Rows and columns of the picture that the units fill (``manifest.grid``).

    Raises:
        ParameterError: If the fusion does not read the modality unit by unit, or knows no units.
    """
    known = fusion.known_units(modality)
    x = seen_by(fusion, bags).inputs[modality]
    kept = kept_of(fusion)
    units = known.read(x, (1,), kept).units
    nearest = known.unit_novelty(x, kept).gather(-1, units.clamp_min(0)).masked_fill(units < 0, 0.0)
    places = None if grid is None else torch.stack([units.div(grid[1], rounding_mode="floor"), units % grid[1]], dim=-1)
    if places is not None:
        places = places.masked_fill((units < 0)[..., None], -1)
    return Traced(units, nearest, places)


@torch.no_grad()
def unit_novelty(
    fusion: Fusion, modality: str, stored: Float[np.ndarray, "snippets units width_and_1"]
) -> Float[np.ndarray, "snippets units"]:
    """How unlike the known-normal units each unit of each snippet is: 1 - mean relation to the nearest; 0 where absent.

    Args:
        fusion: As for ``trace_nodes``.
        modality: Of finer units.
        stored: Units of every snippet as ``Dataset.features`` gives them, (T, U, D + 1). Snippets, not segments: a heat map
            loses nothing to resampling.
    """
    known = fusion.known_units(modality)
    x = torch.from_numpy(np.array(stored)).to(known.references)[None]
    novelty = known.unit_novelty(x, kept_of(fusion))
    return np.asarray(novelty[0].cpu().numpy(), dtype=np.float64)


def heat_maps(
    fusion: Fusion, dataset: Dataset, modality: str, video: str, *, snippets: Sequence[int] | None = None
) -> Float[np.ndarray, "snippets rows columns"]:
    """Novelty of every cell of every snippet of a video, or of those chosen, (T, rows, columns).

    Raises:
        ParameterError: As ``trace_nodes``, and if the units have no place in the picture.
    """
    manifest = dataset.modalities.get(modality)
    if manifest is not None and manifest.grid is None:
        got = f"units of kind '{manifest.unit_kind}'"
        raise ParameterError(f"modality '{modality}' has no places in the picture", expected="cells or patches", got=got)
    stored = dataset.features(modality, video)
    if manifest is None or manifest.grid is None:  # for the type checker: features() has refused an unknown modality
        raise TypeError(modality)
    chosen = stored if snippets is None else stored[list(snippets)]
    return unit_novelty(fusion, modality, chosen).reshape(len(chosen), *manifest.grid)


def heat_map_at(fusion: Fusion, dataset: Dataset, modality: str, video: str, frame: int) -> HeatMap:
    """Novelty of every cell at one frame: the mean over the snippets that hold it; the nearest one where none does.

    Raises:
        ParameterError: As ``heat_maps``.
    """
    starts = np.arange(dataset.rows(video)) * dataset.config.stride
    holds = np.flatnonzero((starts <= frame) & (frame < starts + dataset.config.snippet_frames)).tolist()
    nearest = [int(np.abs(starts - frame).argmin())]
    at = heat_maps(fusion, dataset, modality, video, snippets=holds or nearest).mean(0)
    return HeatMap(modality, tuple(tuple(map(float, row)) for row in at))


def kept_of(fusion: Fusion) -> int:
    """Nearest known units that the novelty of a unit is the mean over."""
    return int(fusion.config().get("kept", 1))


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


def training_bags(config: RunConfig, dataset: Dataset) -> Bags:
    """The bags that a run was trained on, in its order.

    Raises:
        DataError: If the dataset does not hold the training videos.
    """
    names = config.dataset.get("train")
    videos = [str(name) for name in names] if isinstance(names, list) else []
    there = {record.video for record in dataset.videos}
    missing = [video for video in videos if video not in there]
    if missing or not videos:
        raise DataError(
            "the videos that the run was trained on are not in this dataset, and normal ones among them are what a video is "
            "explained against",
            where=f"dataset '{dataset.name}'",
            expected=f"the {len(videos)} training videos of '{config.dataset.get('name')}'",
            got=f"no '{missing[0]}'" if missing else "a run that names none",
            fix="give the dataset that the run was trained on, with the new videos extracted into it",
        )
    bags = load_run_bags(config, dataset, videos)
    if config.training.get("normal_only"):
        return bags.select((~bags.labels).nonzero()[:, 0])
    return bags


def known_columns(config: RunConfig) -> list[Segment]:
    """What each column of a run's graphs to known normals is."""
    return [Segment(str(one["video"]), int(str(one["start_frame"])), int(str(one["end_frame"]))) for one in config.references]


def require_same_references(fusion: Fusion, training: Bags, dataset: str) -> None:
    """Raise ``DataError`` unless the known segments are where the run found them: else the features were changed since."""
    if not is_cached(fusion, training):
        return
    for name, values in training.inputs.items():
        places, known = fusion.known_places(name)
        own = places[:, 0] >= 0  # others were added from elsewhere
        index = places[own].unbind(1)
        there = not len(index[0]) or int(index[0].max()) < len(values)
        found = values[index][..., : known.shape[1]] if there else values
        if not there or not torch.allclose(found, known[own], rtol=1e-4, atol=1e-5):
            raise DataError(
                "the training videos are not as they were when the run was trained",
                where=f"dataset '{dataset}', modality '{name}'",
                expected="the same features in the places of the known segments",
                got="others",
                fix="train again on this dataset",
            )
