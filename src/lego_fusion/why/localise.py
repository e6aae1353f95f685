"""From a score back to what made it: the most novel units of a node, and for cells a heat map over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import ParameterError
from ..fusion.base import Fusion
from ..learn.bags import Bags, seen_by
from .event_records import HeatMap


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
