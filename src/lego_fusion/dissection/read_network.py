"""One network over one set of data: layers found, recorded and aligned; apart, since ``dissect`` reads several so."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import ParameterError
from .active_pixels import Layer
from .alignment import UnitAlignment, align, align_regions
from .concepts import Concepts, LevelConcepts, Regions, active_regions
from .labelled_data import LabelledData, Labels
from .recorder import Key, LayerNames, Recorder, Recording, place_means
from .records import FUSED, Gallery, UnitRow, best_units
from .settings import DissectSettings, FilledSettings
from .variance import Profile


def chosen_layers(
    model: nn.Module,
    layers: Mapping[str, LayerNames],
    fused: LayerNames | None = None,
) -> dict[str, dict[str, str]]:
    """The layers by modality and level, with one set of names for the levels; ``fused`` under ``FUSED``.

    Raises:
        ParameterError: If there are not two modalities, a layer is unknown, or numbers of levels differ.
    """
    if len(layers) < 2 or FUSED in layers:
        expected = f"two modalities or more, none called '{FUSED}'"
        raise ParameterError("there is nothing to compare", expected=expected, got=", ".join(layers) or "none")
    found: dict[str, dict[str, str]] = {modality: {} for modality in layers}
    for (modality, level), layer in Recorder(model, layers).layers.items():
        found[modality][level] = layer
    counts = {modality: len(row) for modality, row in found.items()}
    if len(set(counts.values())) > 1:
        raise ParameterError(
            "modalities have different numbers of levels",
            expected="as many in each, matched by their order",
            got="; ".join(f"{modality} {len(row)} ({', '.join(row.values())})" for modality, row in found.items()),
            fix="name the layers that correspond",
        )
    names = _level_names(layers, next(iter(counts.values())))
    chosen = {modality: dict(zip(names, row.values(), strict=True)) for modality, row in found.items()}
    if fused is not None:
        chosen[FUSED] = _fused(model, fused, names)
    return chosen


def _level_names(layers: Mapping[str, object], count: int) -> tuple[str, ...]:
    """Those that all modalities give alike, else numbers."""
    given = {tuple(levels) if isinstance(levels, Mapping) else () for levels in layers.values()}
    named = next(iter(given)) if len(given) == 1 else ()
    return named or tuple(f"level {place + 1}" for place in range(count))


def _fused(model: nn.Module, fused: Mapping[str, str] | Sequence[str] | str, names: tuple[str, ...]) -> dict[str, str]:
    if isinstance(fused, str):
        matched = list(Recorder(model, {FUSED: fused}).layers.values())
        if len(matched) not in (1, len(names)):
            wrong = f"the pattern '{fused}' matches {len(matched)} layers"
            raise ParameterError(wrong, where=FUSED, expected=f"1 or {len(names)}")
        fused = matched
    if not isinstance(fused, Mapping):
        if len(fused) > len(names):
            raise ParameterError("more fused layers than levels", expected=f"at most {len(names)}", got=len(fused))
        fused = dict(zip(names[-len(fused) :], fused, strict=True))
    unknown = [level for level in fused if level not in names]
    if unknown or not fused:
        raise ParameterError(f"no level '{unknown[0] if unknown else ''}' for a fused layer", expected=", ".join(names))
    return {level: layer for (_, level), layer in Recorder(model, {FUSED: fused}).layers.items()}


def untrained_copy(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with new weights: every module draws its own as when it is made, running statistics included.

    Parameters of modules that cannot do so are drawn from a normal distribution of the parameter's own root mean square.

    Args:
        model: The network; it is not changed, nor is the global random state.
        seed: Of the weights.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
        >>> drawn = untrained_copy(model)
        >>> torch.equal(drawn[0].weight, model[0].weight), drawn.training
        (False, False)
    """
    drawn = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in drawn.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                size = float(parameter.square().mean().sqrt())
                parameter.copy_(size * torch.randn(parameter.shape, dtype=parameter.dtype))
    return drawn


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
        over: What was read over, and why, in words.
        settings: With what was left to the data filled in.
    """

    alignments: dict[str, dict[str, UnitAlignment]]
    fused: dict[str, UnitAlignment]
    pooled: Recording
    galleries: tuple[Gallery, ...]
    digest: bytes
    vague: tuple[int, int]
    over: str
    settings: FilledSettings

    @property
    def regions(self) -> int:
        """How many objects were read over; 0 for pixels."""
        return next(iter(next(iter(self.alignments.values())).values())).regions

    @property
    def profile(self) -> Profile:
        """Of the variance: over objects the best unit."""
        return "best" if self.regions else "mean"

    @property
    def layers(self) -> dict[Key, UnitAlignment]:
        """All alignments by (modality, level), the fused ones last."""
        rows = {**self.alignments, **({FUSED: self.fused} if self.fused else {})}
        return {(modality, level): one for modality, row in rows.items() for level, one in row.items()}

    def sets(self) -> tuple[LevelConcepts, ...]:
        """The concepts of each level."""
        found, (mode, cut) = [], (self.settings.mode, self.settings.cut)
        for level in next(iter(self.alignments.values())):
            detected = {modality: row[level].detected(mode, cut) for modality, row in self.alignments.items()}
            fused = self.fused[level].detected(mode, cut) if level in self.fused else None
            found.append(LevelConcepts(level, detected, fused))
        return tuple(found)


@dataclass(frozen=True)
class NetworkReader:
    """Reads the same layers of one network after the other, on the same data and in the same way.

    Args:
        layers: By modality and level, as ``chosen_layers`` gives them.
        data: What a network is run on.
        settings: How.
    """

    layers: dict[str, dict[str, str]]
    data: LabelledData
    settings: DissectSettings

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(name for name in self.layers if name != FUSED)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names, from first to last."""
        return tuple(next(iter(self.layers.values())))

    def read(self, model: nn.Module, only: Sequence[str] | None = None) -> Reading:
        """Record the layers into a folder that is removed afterwards, and align each.

        Args:
            model: The network.
            only: Modalities that are read; None: all, and the fused layers.
        """
        layers = self.layers if only is None else {name: self.layers[name] for name in only}
        recorder = Recorder(model, layers, call=self.settings.call, grid=self.settings.grid)
        labels = Labels(self.data.concept_names(), self.settings.kind, self.modalities)
        alignments: dict[str, dict[str, UnitAlignment]] = {}
        means: dict[Key, NDArray[Any]] = {}
        shown: list[Gallery] = []
        vague = np.zeros(2, dtype=np.int64)
        self.settings.step("recording")
        with tempfile.TemporaryDirectory(dir=self.settings.scratch, prefix="dissection-") as folder:
            kept = Path(folder) / "recording"
            recorder.record(labels.inputs(self.data.batches()), self.settings.kind, folder=kept, dtype=self.settings.dtype)
            regions, over = labels.regions(self.settings.read)
            settings = self.settings.filled(over_regions=regions is not None)
            for key in recorder.layers:
                settings.step(" ".join(key))
                maps = Recording.open(kept)[key]  # opened anew, so that only one layer is mapped into memory
                maps = maps if maps.ndim == 4 else maps[:, :, None, None]
                means[key] = place_means(maps)
                concepts = labels.concepts(key[0], maps)
                found = _aligned(maps, f"layer '{recorder.layers[key]}', {' '.join(key)}", concepts, regions, settings)
                alignments.setdefault(key[0], {})[key[1]] = found
                vague += _vague(found, concepts, settings)
                shown += _galleries(maps, found, key, concepts.size, regions, settings)
                del maps
        fused = alignments.pop(FUSED, {})
        pooled = Recording(means, dict(recorder.layers), "pooled")
        several, units = vague.tolist()
        return Reading(alignments, fused, pooled, tuple(shown), labels.digest.digest(), (several, units), over, settings)


def _aligned(
    maps: NDArray[Any], where: str, concepts: Concepts, regions: Regions | None, settings: FilledSettings
) -> UnitAlignment:
    shared = {"quantile", "unlabelled", "shuffles", "seed"}
    if regions is not None:
        return align_regions(maps, concepts, regions, where=where, **settings.model_dump(include=shared))
    over_pixels = settings.model_dump(include={*shared, "auroc_pixels", "batch_size", "device"})
    return align(maps, concepts, where=where, **over_pixels)


def _vague(found: UnitAlignment, concepts: Concepts, settings: FilledSettings) -> NDArray[Any]:
    """Units that detect two concepts which no pixel has both of, and units that detect any."""
    detects = found.detects(settings.mode, settings.cut).astype(np.float64)
    members = concepts.members.astype(np.float64)
    apart = members.T @ members == 0
    return np.array([int((((detects @ apart) * detects).sum(axis=1) > 0).sum()), int(detects.any(axis=1).sum())])


def _galleries(
    maps: NDArray[Any],
    found: UnitAlignment,
    key: Key,
    size: tuple[int, int],
    regions: Regions | None,
    settings: FilledSettings,
) -> list[Gallery]:
    """Of the best detector of each concept, best concepts first."""
    units, images = settings.gallery
    if settings.kind != "spatial" or not units or not images:
        return []
    best: dict[str, UnitRow] = {}
    for row in best_units(found, key, settings.mode, settings.cut):
        if row.detects:
            best.setdefault(row.concept, row)
    galleries = []
    for row in list(best.values())[:units]:
        places = np.array(found.gallery(row.unit, images))
        threshold = float(found.thresholds[row.unit])
        if regions is not None:
            masks = active_regions(maps[places, row.unit][:, None], regions.numbers[places], threshold)
        else:
            layer = Layer(maps, places, np.array([row.unit]), size, len(places), settings.device, key[0])
            large = torch.cat([layer.upsampled(rows[:, 0]) for _, rows in layer.batches()])
            masks = (large > threshold).cpu().numpy()
        galleries.append(Gallery(row, tuple(int(place) for place in places), None, masks))
    return galleries
