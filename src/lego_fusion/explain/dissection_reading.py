"""One network over one set of data: its layers recorded on disk, aligned one after the other, and forgotten."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import DataError
from .active_pixels import Layer
from .alignment import Mode, UnitAlignment, align
from .concepts import Concepts
from .dissection import FUSED, Gallery, UnitRow, best_units
from .labelled_data import LabelledData, Labels
from .recorded import Key, Recording, place_means
from .recorder import Call, Kind, Recorder

Layers = Mapping[str, Mapping[str, str]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class ReadingSettings:
    """How a network is read; as for ``dissect``."""

    kind: Kind
    grid: tuple[int, int] | None
    call: Call | None
    quantile: float
    mode: Mode
    cut: float | None
    unlabelled: Literal["refuse", "drop"]
    auroc_pixels: int
    shuffles: int
    seed: int
    dtype: Literal["float16", "float32"]
    scratch: Path | None
    batch_size: int
    device: str | torch.device


@dataclass(frozen=True, eq=False)
class Reading:
    """What one network does.

    Args:
        alignments: By modality and level.
        fused: By level.
        pooled: Means over places of every layer.
        galleries: Of the best detectors, without pictures.
        digest: Of the labels, to tell whether another pass met the same in the same order.
        vague: Number of units that detect concepts which exclude each other, and of units that detect any.
    """

    alignments: dict[str, dict[str, UnitAlignment]]
    fused: dict[str, UnitAlignment]
    pooled: Recording
    galleries: tuple[Gallery, ...]
    digest: bytes
    vague: tuple[int, int] = (0, 0)


def read_network(
    model: nn.Module,
    layers: Layers,
    data: LabelledData,
    modalities: tuple[str, ...],
    settings: ReadingSettings,
    *,
    galleries: tuple[int, int] = (0, 0),
    tell: Tell | None = None,
) -> Reading:
    """Record the layers into a folder that is removed afterwards, and align each.

    Args:
        model: The network.
        layers: Layers by modality and level; those of ``FUSED`` are the fused ones.
        data: What it is run on.
        modalities: All that the labels may speak of.
        settings: How.
        galleries: For how many units of each layer, and how many images of each, masks are kept.
        tell: Called with the name of each step.
    """
    recorder = Recorder(model, layers, call=settings.call, grid=settings.grid)
    labels = Labels(data.concept_names(), settings.kind, modalities)
    alignments: dict[str, dict[str, UnitAlignment]] = {}
    means: dict[Key, NDArray[Any]] = {}
    shown: list[Gallery] = []
    vague = np.zeros(2, dtype=np.int64)
    if tell is not None:
        tell("recording")
    with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="dissection-") as folder:
        kept = Path(folder) / "recording"
        inputs = labels.inputs(data.pairs())
        recorder.record(inputs, settings.kind, folder=kept, dtype=settings.dtype)
        for key in recorder.layers:
            if tell is not None:
                tell(" ".join(key))
            maps = Recording.open(kept)[key]  # opened anew, so that only one layer is mapped into memory
            maps = maps if maps.ndim == 4 else maps[:, :, None, None]
            means[key] = place_means(maps)
            alignments.setdefault(key[0], {})[key[1]] = found = _aligned(maps, key, recorder, labels, settings)
            vague += _vague(found, labels.concepts(key[0], maps), settings)
            shown += _galleries(maps, found, key, labels, settings, *galleries)
            del maps
    fused = alignments.pop(FUSED, {})
    pooled = Recording(means, dict(recorder.layers), "pooled")
    return Reading(alignments, fused, pooled, tuple(shown), labels.digest.digest(), (int(vague[0]), int(vague[1])))


def _aligned(maps: NDArray[Any], key: Key, recorder: Recorder, labels: Labels, settings: ReadingSettings) -> UnitAlignment:
    where = f"layer '{recorder.layers[key]}', {key[0]} {key[1]}"
    concepts = labels.concepts(key[0], maps)
    if len(maps) != len(concepts):
        raise DataError("labels are of other images", where=where, expected=f"{len(maps)} images", got=len(concepts))
    return align(
        maps,
        concepts,
        quantile=settings.quantile,
        unlabelled=settings.unlabelled,
        auroc_pixels=settings.auroc_pixels,
        shuffles=settings.shuffles,
        seed=settings.seed,
        batch_size=settings.batch_size,
        device=settings.device,
        where=where,
    )


def _vague(found: UnitAlignment, concepts: Concepts, settings: ReadingSettings) -> NDArray[Any]:
    """Units that detect two concepts which no pixel has both of, and units that detect any."""
    detects = found.detects(settings.mode, settings.cut).astype(np.float64)
    members = concepts.members.astype(np.float64)
    apart = members.T @ members == 0
    return np.array([int((((detects @ apart) * detects).sum(axis=1) > 0).sum()), int(detects.any(axis=1).sum())])


def _galleries(
    maps: NDArray[Any], found: UnitAlignment, key: Key, labels: Labels, settings: ReadingSettings, units: int, images: int
) -> list[Gallery]:
    """Of the best detector of each concept, best concepts first."""
    if settings.kind != "spatial" or not units or not images:
        return []
    best: dict[str, UnitRow] = {}
    for row in best_units(found, key, settings.mode, settings.cut):
        if row.detects:
            best.setdefault(row.concept, row)
    size = labels.concepts(key[0], maps).size
    galleries = []
    for row in list(best.values())[:units]:
        places = np.array(found.gallery(row.unit, images))
        layer = Layer(maps, places, np.array([row.unit]), size, len(places), settings.device, key[0])
        large = torch.cat([layer.upsampled(rows[:, 0]) for _, rows in layer.batches()])
        masks = (large > float(found.thresholds[row.unit])).cpu().numpy()
        galleries.append(Gallery(row, tuple(int(place) for place in places), None, masks))
    return galleries
