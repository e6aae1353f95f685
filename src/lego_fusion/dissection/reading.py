"""One network over one set of data: layers found, recorded and aligned; apart, since ``dissect`` reads several so."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import DataError, ParameterError, check_choice, check_int
from .active_pixels import Layer
from .alignment import QUANTILE, UnitAlignment, align, align_regions
from .concepts import Concepts, Regions, active_regions
from .findings import FUSED, Gallery, UnitRow, best_units
from .labelled_data import LabelledData, Labels, Read
from .overlap import Mode
from .recorder import Call, Key, Kind, Recorder, Recording, place_means


def chosen_layers(
    model: nn.Module,
    layers: Mapping[str, Mapping[str, str] | Sequence[str] | str],
    fused: Mapping[str, str] | Sequence[str] | str | None = None,
) -> dict[str, dict[str, str]]:
    """The layers by modality and level, with one set of names for the levels; ``fused`` under ``FUSED``.

    Raises:
        ParameterError: If there are not two modalities, a layer is unknown, or numbers of levels differ.
    """
    if len(layers) < 2 or FUSED in layers:
        expected = f"two modalities or more, none called '{FUSED}'"
        raise ParameterError("there is nothing to compare", expected=expected, got=", ".join(layers) or "none")
    found: dict[str, dict[str, str]] = {modality: {} for modality in layers}
    numbered = {name: _numbered(levels) for name, levels in layers.items()}
    for (modality, level), layer in Recorder(model, numbered).layers.items():
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


def _numbered(levels: Mapping[str, str] | Sequence[str] | str) -> Mapping[str, str] | str:
    if isinstance(levels, str | Mapping):
        return levels
    return {f"level {place + 1}": layer for place, layer in enumerate(levels)}


def _level_names(layers: Mapping[str, object], count: int) -> tuple[str, ...]:
    """Those that all modalities give alike, else numbers."""
    given = {tuple(levels) if isinstance(levels, Mapping) else () for levels in layers.values()}
    named = next(iter(given)) if len(given) == 1 else ()
    return named or tuple(f"level {place + 1}" for place in range(count))


def _fused(model: nn.Module, fused: Mapping[str, str] | Sequence[str] | str, names: tuple[str, ...]) -> dict[str, str]:
    if isinstance(fused, str):
        found = [layer for _, layer in Recorder(model, {FUSED: fused}).layers.items()]
        rows = dict(zip(names, found, strict=True)) if len(found) == len(names) else {names[-1]: found[0]}
        if len(found) not in (1, len(names)):
            raise ParameterError(
                f"the pattern '{fused}' matches {len(found)} layers", where=FUSED, expected=f"1 or {len(names)}"
            )
        return rows
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


Layers = Mapping[str, Mapping[str, str]]
StepCallback = Callable[[str], None]
PIXEL_QUANTILE = 0.005  # Network Dissection's


@dataclass(frozen=True)
class DissectSettings:
    """How a network is dissected.

    Args:
        kind: "spatial", "tokens" or "pooled", as ``Recorder`` records.
        grid: Height and width of patch tokens that are to be read as maps.
        call: Runs a network on inputs, ``call(network, inputs)``; None as ``Recorder`` does.
        read: What concepts are told apart among: "regions", objects, given with the data or found as connected areas of one
            combination of concepts (``found_regions``); "pixels"; or "auto", objects where concepts lie on objects.
        quantile: Share of the objects or places where a unit counts as active. Default: 0.1 of objects, 0.005 of pixels.
        mode: What a detector is: "normalised", "stock" or "auroc", as ``UnitAlignment.detects``. Default: "auroc" over
            objects, "normalised" over pixels.
        cut: Of the mode.
        unlabelled: Images without a label: "refuse", or "drop".
        auroc_pixels: As for ``align``.
        resamples: Of the bootstrap over images.
        permutations: Of units over modalities, for the null of the variances.
        shuffles: Of labels over objects, or of masks over images, for the null of the detectors and of the variances.
        untrained: How many copies of the network, with weights drawn as before any training, are read as well; what any of
            them detects is not taken for learned.
        gallery: Units of each layer, and images of each, of which pictures are kept.
        dtype: Of the activations on disk; numbers depend on it by rounding, 2^-11 for float16.
        scratch: Where the temporary folder lies.
        batch_size: Images upsampled at a time; changes nothing but memory and speed.
        seed: Of all resampling.
        device: Where maps are upsampled.
    """

    kind: Kind = "spatial"
    grid: tuple[int, int] | None = None
    call: Call | None = None
    read: Read = "auto"
    quantile: float | None = None
    mode: Mode | None = None
    cut: float | None = None
    unlabelled: Literal["refuse", "drop"] = "refuse"
    auroc_pixels: int = 256
    resamples: int = 200
    permutations: int = 200
    shuffles: int = 20
    untrained: int = 2
    gallery: tuple[int, int] = (4, 4)
    dtype: Literal["float16", "float32"] = "float16"
    scratch: str | Path | None = None
    batch_size: int = 8
    seed: int = 0
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        for name, low in (("resamples", 1), ("permutations", 1), ("untrained", 0)):
            check_int(getattr(self, name), name, "dissect", low=low)
        if self.mode is not None:
            check_choice(self.mode, "mode", "dissect", ("stock", "normalised", "auroc"))
        check_choice(self.read, "read", "dissect", ("auto", "regions", "pixels"))


@dataclass(frozen=True)
class ChosenSettings(DissectSettings):
    """The same once it is known what is read over."""

    quantile: float = 0.0
    mode: Mode = "auroc"


def chosen(settings: DissectSettings, regions: Regions | None) -> ChosenSettings:
    """Where they are not given: over regions the area under the ROC curve, over pixels the way from chance to the ceiling."""
    mode, quantile = settings.mode, settings.quantile
    values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    values["mode"] = mode or ("normalised" if regions is None else "auroc")
    values["quantile"] = quantile if quantile is not None else PIXEL_QUANTILE if regions is None else QUANTILE
    return ChosenSettings(**values)


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
    settings: ChosenSettings

    @property
    def regions(self) -> int:
        """How many objects were read over; 0 for pixels."""
        return next(iter(next(iter(self.alignments.values())).values())).regions


def read_network(
    model: nn.Module,
    layers: Layers,
    data: LabelledData,
    modalities: tuple[str, ...],
    settings: DissectSettings,
    *,
    galleries: tuple[int, int] = (0, 0),
    notify: StepCallback | None = None,
) -> Reading:
    """Record the layers into a folder that is removed afterwards, and align each.

    Args:
        model: The network.
        layers: Layers by modality and level; those of ``FUSED`` are the fused ones.
        data: What it is run on.
        modalities: All that the labels may speak of.
        settings: How.
        galleries: For how many units of each layer, and how many images of each, masks are kept.
        notify: Called with the name of each step.
    """
    recorder = Recorder(model, layers, call=settings.call, grid=settings.grid)
    labels = Labels(data.concept_names(), settings.kind, modalities)
    alignments: dict[str, dict[str, UnitAlignment]] = {}
    means: dict[Key, NDArray[Any]] = {}
    shown: list[Gallery] = []
    vague = np.zeros(2, dtype=np.int64)
    if notify is not None:
        notify("recording")
    with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="dissection-") as folder:
        kept = Path(folder) / "recording"
        recorder.record(labels.inputs(data.batches()), settings.kind, folder=kept, dtype=settings.dtype)
        regions, over = labels.regions(settings.read)
        asked = chosen(settings, regions)
        for key in recorder.layers:
            if notify is not None:
                notify(" ".join(key))
            maps = Recording.open(kept)[key]  # opened anew, so that only one layer is mapped into memory
            maps = maps if maps.ndim == 4 else maps[:, :, None, None]
            means[key] = place_means(maps)
            alignments.setdefault(key[0], {})[key[1]] = found = _aligned(maps, key, recorder, labels, regions, asked)
            vague += _vague(found, labels.concepts(key[0], maps), asked)
            shown += _galleries(maps, found, key, labels, regions, asked, *galleries)
            del maps
    fused = alignments.pop(FUSED, {})
    pooled = Recording(means, dict(recorder.layers), "pooled")
    return Reading(alignments, fused, pooled, tuple(shown), labels.digest.digest(), (int(vague[0]), int(vague[1])), over, asked)


def _aligned(
    maps: NDArray[Any], key: Key, recorder: Recorder, labels: Labels, regions: Regions | None, settings: ChosenSettings
) -> UnitAlignment:
    where = f"layer '{recorder.layers[key]}', {key[0]} {key[1]}"
    concepts = labels.concepts(key[0], maps)
    if len(maps) != len(concepts):
        raise DataError("labels are of other images", where=where, expected=f"{len(maps)} images", got=len(concepts))
    if regions is not None:
        return align_regions(
            maps,
            concepts,
            regions,
            quantile=settings.quantile,
            unlabelled=settings.unlabelled,
            shuffles=settings.shuffles,
            seed=settings.seed,
            where=where,
        )
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


def _vague(found: UnitAlignment, concepts: Concepts, settings: ChosenSettings) -> NDArray[Any]:
    """Units that detect two concepts which no pixel has both of, and units that detect any."""
    detects = found.detects(settings.mode, settings.cut).astype(np.float64)
    members = concepts.members.astype(np.float64)
    apart = members.T @ members == 0
    return np.array([int((((detects @ apart) * detects).sum(axis=1) > 0).sum()), int(detects.any(axis=1).sum())])


def _galleries(
    maps: NDArray[Any],
    found: UnitAlignment,
    key: Key,
    labels: Labels,
    regions: Regions | None,
    settings: ChosenSettings,
    units: int,
    images: int,
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
        threshold = float(found.thresholds[row.unit])
        if regions is not None:
            masks = active_regions(maps[places, row.unit][:, None], regions.numbers[places], threshold)
        else:
            layer = Layer(maps, places, np.array([row.unit]), size, len(places), settings.device, key[0])
            large = torch.cat([layer.upsampled(rows[:, 0]) for _, rows in layer.batches()])
            masks = (large > threshold).cpu().numpy()
        galleries.append(Gallery(row, tuple(int(place) for place in places), None, masks))
    return galleries
