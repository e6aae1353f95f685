"""Dissect a multi-modal network: what its modalities share, what each holds alone, how that evolves, how they cooperate.

Five lines, for a network that takes ``rgb`` and ``depth`` and data that yields (inputs, labels of every pixel):

    from lego_fusion import dissect
    layers = {"rgb": "encoder.rgb.stage*", "depth": "encoder.depth.stage*"}
    found = dissect(network.eval(), layers, loader, ["floor", "wall", "chair"], fused="fusion")
    print(found.summary())
    found.sets[-1].shared, found.sets[-1].special("depth")

The questions are those of arXiv 2308.10019, whose equations are not public to us: the definitions are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import CheckpointError, DataError, ParameterError, with_changes
from ..explain.similarity import cka, similarity_matrix
from .alignment import UnitAlignment
from .collaboration import LevelCollaboration, Streams, collaboration
from .concepts import LevelConcepts
from .labelled_data import LabelledData, Pairs, named_pictures
from .overlap import Mode
from .read_network import NetworkReader, Reading, chosen_layers, untrained_copy
from .recorder import LayerNames, Recording
from .records import FUSED, Ablation, DetectorCount, Dissection, Gallery, Snapshot, best_units
from .settings import DissectSettings
from .variance import Layers as Overlaps
from .variance import (
    Profile,
    against_chance,
    bootstrap,
    relabelled_null,
    semantic_variance,
    share_statistics,
    unit_permutation_null,
)

Networks = nn.Module | Mapping[str, nn.Module]
Checkpoints = Sequence[str | Path] | Mapping[str, Mapping[str, Tensor]]
_FLOOR_PERMUTATIONS = 20
_NOT_SAID = {"call", "scratch", "device", "gallery", "untrained", "on_step"}  # settings that say nothing of the result


def dissect(
    model: nn.Module,
    layers: Mapping[str, LayerNames],
    data: str | Path | Pairs | Callable[[], Pairs],
    concepts: Sequence[str] | None = None,
    *,
    fused: LayerNames | None = None,
    apart: Networks | None = None,
    checkpoints: Checkpoints = (),
    ablation: Iterable[Ablation] | None = None,
    settings: DissectSettings | None = None,
    **changes: Any,
) -> Dissection:
    """Record, align and compare the layers of a network, modality by modality and level by level.

    Activations lie in a temporary folder, never all in memory; the network is not changed.

    Args:
        model: Any network, in evaluation mode.
        layers: For each modality its layer at every level, from the first level to the last: a pattern (``encoder.rgb.*``), a
            list of layers, or layers by the name of the level. As many in each modality, matched by their order.
        data: A dataset folder (docs/formats.md); or batches of (inputs, labels), always in the same order; or a function
            that returns them. Labels of kind "spatial" are integers (b, H, W), the position in ``concepts`` or negative for
            none, or masks, bool (b, C, H, W); of "tokens" (b, T) or (b, C, T), or by modality; of "pooled", and of whole
            samples with "tokens", (b,) or (b, C). A third element of the batches, or a folder ``regions``, numbers the objects:
            integers (b, H, W), 0 for none.
        concepts: Names of the concepts; a folder names them itself.
        fused: Layer where the modalities are one: of each level, or a single one, of the last level.
        apart: The same streams trained separately: a network with both, or one for each modality.
        checkpoints: State dicts of earlier steps of the training, files (safetensors) or tensors by name, in order.
        ablation: Results of causal checks, which are handed on.
        settings: How it is read; its defaults where there are none.
        changes: Fields of the settings by name, such as ``kind="tokens"`` or ``seed=1``.

    Returns:
        The dissection.

    Raises:
        ParameterError: If a layer is unknown (it lists the nearest), numbers of levels differ or the model trains.
        DataError: If labels or activations are not what they should be.
        CheckpointError: If a checkpoint does not fit the network.

    Source: questions of arXiv 2308.10019; alignment after arXiv 1704.05796; the rest is ours.

    Example:
        >>> import torch
        >>> streams = nn.ModuleDict({"rgb": nn.Conv2d(3, 4, 3), "depth": nn.Conv2d(1, 4, 3)}).eval()
        >>> generator = torch.Generator().manual_seed(0)
        >>> inputs = {"rgb": torch.rand(8, 3, 9, 9, generator=generator), "depth": torch.rand(8, 1, 9, 9, generator=generator)}
        >>> labels = (inputs["depth"][:, 0] > 0.5).long()
        >>> run = lambda network, batch: [network[name](batch[name]) for name in batch]
        >>> found = dissect(streams, {"rgb": ["rgb"], "depth": ["depth"]}, [(inputs, labels)], ["low", "high"], call=run)
        >>> found.levels, found.images, sorted(found.variance.shares.parts) == sorted(["M", "L", "C", "ML", "MC", "LC", "MLC"])
        (('level 1',), 8, True)
    """
    asked: DissectSettings = with_changes(settings or DissectSettings(), changes, "dissect")
    source = LabelledData(data, None if concepts is None else tuple(concepts), asked.batch_size)
    reader = NetworkReader(chosen_layers(model, layers, fused), source, asked)
    if not source.again and (apart is not None or checkpoints):
        raise ParameterError("the data can be read once only", fix="hand in a list, a loader, or a function that returns one")
    reading = reader.read(model)
    used = reading.settings
    ranked = used.auroc_pixels if used.mode == "auroc" else 0
    quick = replace(reader, settings=used.model_copy(update={"shuffles": 0, "auroc_pixels": ranked, "gallery": (0, 0)}))
    notes = list(_notes(reading))
    never, copies = _untrained(model, quick, used.untrained, notes)
    together = None if apart is None else _collaborating(reading, _read_apart(apart, quick, reading.digest), copies)
    snapshots = _snapshots(model, checkpoints, quick, reading.digest)
    galleries = _with_pictures(reading.galleries, source, reader.modalities)
    asked.step("intervals and nulls")
    pooled, profile = reading.pooled.pooled(), reading.profile
    statistics = _statistics(used.mode, used.cut, profile)
    permuted = unit_permutation_null(reading.alignments, permutations=used.permutations, seed=used.seed, profile=profile)
    said = {"fused": bool(fused), "apart": apart is not None, "untrained copies": used.untrained, "profile": profile}
    return Dissection(
        modalities=reader.modalities,
        levels=reader.levels,
        concepts=source.concept_names(),
        layers=dict(reading.pooled.layers),
        alignments=reading.alignments,
        fused=reading.fused,
        variance=semantic_variance(reading.alignments, profile),
        intervals=bootstrap(reading.alignments, statistics, resamples=used.resamples, seed=used.seed),
        chance=permuted,
        sets=reading.sets(),
        detectors={key: _detector_count(one, used.mode, used.cut) for key, one in reading.layers.items()},
        units=tuple(row for key, one in reading.layers.items() for row in best_units(one, key, used.mode, used.cut)),
        galleries=galleries,
        similarity=similarity_matrix(pooled, pooled, permutations=_FLOOR_PERMUTATIONS, seed=used.seed),
        collaboration=together,
        snapshots=snapshots,
        ablation=None if ablation is None else tuple(ablation),
        notes=tuple(notes),
        settings={**used.model_dump(exclude=_NOT_SAID), **said},
        vague=reading.vague,
        over=reading.over,
        regions=reading.regions,
        relabelled=relabelled_null(reading.alignments, profile),
        untrained=never,
    )


def _untrained(
    model: nn.Module, reader: NetworkReader, copies: int, notes: list[str]
) -> tuple[tuple[LevelConcepts, ...] | None, list[dict[str, UnitAlignment]]]:
    """Concepts that any copy detects that was never trained, and the fused levels of each; none, and a note, if unreadable."""
    if copies and not reader.data.again:
        notes.append("copies that were never trained are not read: the data can be read once only")
        return None, []
    try:
        readings = [reader.read(untrained_copy(model, reader.settings.seed + copied)) for copied in range(copies)]
    except DataError as error:
        notes.append(f"copies that were never trained are not read: {error}")
        return None, []
    levels = []
    for rows in zip(*(reading.sets() for reading in readings), strict=True):
        detected = {name: frozenset().union(*(row.detected[name] for row in rows)) for name in reader.modalities}
        levels.append(LevelConcepts(rows[0].level, detected))
    return tuple(levels) or None, [reading.fused for reading in readings]


def _read_apart(apart: Networks, reader: NetworkReader, digest: bytes) -> Reading:
    """Every modality from its own network, or all from one, as one reading."""
    modalities = reader.modalities
    networks = apart if isinstance(apart, Mapping) else dict.fromkeys(modalities, apart)
    if set(networks) != set(modalities):
        raise ParameterError("networks trained apart", expected=f"one for each of {', '.join(modalities)}", got=list(networks))
    if len(modalities) != 2:
        raise ParameterError("collaboration is between two modalities", expected=2, got=len(modalities), fix="choose a pair")
    same = networks[modalities[0]] is networks[modalities[1]]
    readings = [reader.read(networks[names[0]], names) for names in ([modalities] if same else [(one,) for one in modalities])]
    for reading in readings:
        _check_order(reading, digest)
    alignments = {name: row for reading in readings for name, row in reading.alignments.items()}
    arrays = {key: array for reading in readings for key, array in reading.pooled.arrays.items()}
    return replace(readings[0], alignments=alignments, pooled=Recording(arrays, {}, "pooled"))


def _check_order(reading: Reading, digest: bytes) -> None:
    if reading.digest != digest:
        raise DataError("the data came in another order the second time", fix="do not shuffle")


def _collaborating(
    joint: Reading, apart: Reading, untrained: Sequence[Mapping[str, UnitAlignment]]
) -> tuple[LevelCollaboration, ...]:
    arrays = {key: array for key, array in joint.pooled.arrays.items() if key[0] != FUSED}
    streams = Streams(Recording(arrays, {}, "pooled"), joint.alignments), Streams(apart.pooled, apart.alignments)
    used = joint.settings
    return collaboration(*streams, joint.fused, untrained=untrained, mode=used.mode, cut=used.cut, resamples=used.resamples)


def _snapshots(model: nn.Module, checkpoints: Checkpoints, reader: NetworkReader, digest: bytes) -> tuple[Snapshot, ...]:
    states = checkpoints if isinstance(checkpoints, Mapping) else {_name(path, checkpoints): path for path in checkpoints}
    readings: dict[str, Reading] = {}
    for name, state in states.items():
        reading = reader.read(load_state(copy.deepcopy(model), state, name))
        _check_order(reading, digest)
        readings[name] = replace(reading, alignments=_without_counts(reading.alignments))
    found: list[Snapshot] = []
    for name, reading in readings.items():
        rows, last = reading.pooled.arrays, list(readings.values())[-1].pooled.arrays
        between = [
            float(
                np.mean([cka(rows[first, level], rows[second, level]) for first, second in combinations(reader.modalities, 2)])
            )
            for level in reader.levels
        ]
        to_last = {key: cka(rows[key], last[key]) for key in rows}
        variance = semantic_variance(reading.alignments, reading.profile)
        found.append(Snapshot(name, reading.sets(), variance, np.array(between), to_last))
    return tuple(found)


def _name(path: str | Path, paths: Sequence[str | Path]) -> str:
    """The name of a file, or its path where names repeat."""
    stems = [Path(one).stem for one in paths]
    return Path(path).stem if stems.count(Path(path).stem) == 1 else str(path)


def load_state(model: nn.Module, state: str | Path | Mapping[str, Tensor], name: str) -> nn.Module:
    """Load weights, from a safetensors file or by name, into a network.

    Raises:
        CheckpointError: If the file is none, or does not fit the network.
    """
    if not isinstance(state, Mapping):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(str(state))
        except (OSError, SafetensorError, ValueError) as error:
            fix = "save the state dict as safetensors"
            raise CheckpointError("not a safetensors file", where=state, got=error, fix=fix) from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError("weights do not fit the network", where=name, got=str(error)) from error
    return model


def _without_counts(alignments: dict[str, dict[str, UnitAlignment]]) -> dict[str, dict[str, UnitAlignment]]:
    """Alignments with their counts summed, so that several networks fit in memory."""
    return {
        modality: {level: replace(one, counts=one.counts.summed()) for level, one in row.items()}
        for modality, row in alignments.items()
    }


def _statistics(mode: Mode, cut: float | None, profile: Profile) -> Callable[[Overlaps], dict[str, float]]:
    """Shares and variances, and J and U of every level where the mode can be read anew from resampled images."""

    def statistics(overlaps: Overlaps) -> dict[str, float]:
        found = share_statistics(overlaps, profile)
        if mode == "auroc" and any(one.auroc is None for row in overlaps.values() for one in row.values()):
            return found
        names = tuple(next(iter(overlaps.values())))
        for level, rows in zip(names, zip(*(row.values() for row in overlaps.values()), strict=True), strict=True):
            there = np.array([one.detects(mode, cut).any(axis=0) for one in rows])
            union = int(there.any(axis=0).sum())
            found[f"J at {level}"] = float(there.all(axis=0).sum() / union) if union else 1.0
            for name, row in zip(overlaps, there, strict=True):
                alone = row & (there.sum(axis=0) == 1)
                found[f"U of {name} at {level}"] = float(alone.sum() / max(union, 1))
        return found

    return statistics


def _detector_count(alignment: UnitAlignment, mode: Mode, cut: float | None) -> DetectorCount:
    found = alignment.detects(mode, cut)
    names, units = alignment.detected(mode, cut), int(found.any(axis=1).sum())
    if alignment.shuffled is None or not len(alignment.shuffled) or (mode == "auroc" and alignment.shuffled_auroc is None):
        return DetectorCount(names, units, len(found))
    shuffled = np.array([one.detects(mode, cut).any(axis=0) for one in alignment.by_chance()])  # (S, C)
    chance = against_chance(float(len(names)), shuffled.sum(axis=1))
    often = {name for name, share in zip(alignment.concepts, shuffled.mean(axis=0), strict=True) if share > 0.05}
    return DetectorCount(names, units, len(found), chance, frozenset(names & often))


def _with_pictures(galleries: Sequence[Gallery], data: LabelledData, modalities: tuple[str, ...]) -> tuple[Gallery, ...]:
    """Galleries with the pictures of their images, found in one more pass over the data."""
    wanted = {position for gallery in galleries for position in gallery.images}
    if not wanted or not data.again:
        return tuple(galleries)
    pictures: dict[tuple[str, int], NDArray[Any]] = {}
    start = 0
    for inputs, _ in data:
        named = named_pictures(inputs, modalities)
        if not named:
            return tuple(galleries)
        size = len(next(iter(named.values())))
        for position in wanted.intersection(range(start, start + size)):
            for name, tensor in named.items():
                pictures[name, position] = _picture(tensor[position - start])
        start += size
    shown = []
    for gallery in galleries:
        name = gallery.row.modality if gallery.row.modality in modalities else modalities[0]
        found = [pictures.get((name, position)) for position in gallery.images]
        there = [picture for picture in found if picture is not None]
        shown.append(replace(gallery, pictures=tuple(there) if len(there) == len(found) else None))
    return tuple(shown)


def _picture(tensor: Tensor) -> NDArray[Any]:
    """Values in [0, 1], stretched if they are not."""
    array = tensor.detach().float().cpu().numpy()
    low, high = float(array.min()), float(array.max())
    return array if low >= 0 and 0.5 < high <= 1 else (array - low) / max(high - low, 1e-9)


def _notes(reading: Reading) -> tuple[str, ...]:
    """Remarks of the layers, those that all share once."""
    noted: dict[str, list[str]] = {}
    for key, one in reading.layers.items():
        for note in one.notes:
            noted.setdefault(note, []).append(" ".join(key))
    total = len(reading.layers)
    return tuple(note if len(keys) == total else f"{', '.join(keys)}: {note}" for note, keys in noted.items())
