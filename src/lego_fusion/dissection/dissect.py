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
from dataclasses import asdict, replace
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
from .findings import FUSED, AblationReading, DetectorCount, Dissection, Gallery, LevelConcepts, Snapshot, UnitRow, best_units
from .labelled_data import LabelledData, Pairs, named_pictures
from .overlap import Mode
from .reading import ChosenSettings, DissectSettings, Reading, StepCallback, chosen_layers, read_network, untrained_copy
from .recorder import Key, Recording
from .variance import (
    AgainstChance,
    Profile,
    bootstrap,
    relabelled_null,
    semantic_variance,
    share_statistics,
    unit_permutation_null,
)
from .variance import Layers as Overlaps

Networks = nn.Module | Mapping[str, nn.Module]
_FLOOR_PERMUTATIONS = 20


def dissect(
    model: nn.Module,
    layers: Mapping[str, Mapping[str, str] | Sequence[str] | str],
    data: str | Path | Pairs | Callable[[], Pairs],
    concepts: Sequence[str] | None = None,
    *,
    fused: Mapping[str, str] | Sequence[str] | str | None = None,
    apart: Networks | None = None,
    checkpoints: Sequence[str | Path] | Mapping[str, Mapping[str, Tensor]] = (),
    ablation: Iterable[AblationReading] | None = None,
    settings: DissectSettings | None = None,
    on_step: StepCallback | None = None,
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
        on_step: Called with the name of each step.
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
    settings = with_changes(settings or DissectSettings(), changes, "dissect")
    chosen = chosen_layers(model, layers, fused)
    modalities, levels = tuple(name for name in chosen if name != FUSED), tuple(next(iter(chosen.values())))
    source = LabelledData(data, None if concepts is None else tuple(concepts), settings.batch_size)
    if not source.again and (apart is not None or checkpoints):
        raise ParameterError("the data can be read once only", fix="hand in a list, a loader, or a function that returns one")
    reading = read_network(model, chosen, source, modalities, settings, galleries=settings.gallery, notify=on_step)
    asked = reading.settings
    quick = replace(asked, shuffles=0, auroc_pixels=settings.auroc_pixels if asked.mode == "auroc" else 0)
    together = None
    if apart is not None:
        separate = _read_apart(apart, chosen, source, modalities, quick, on_step)
        _same_order(reading, separate)
        together = _collaborating(reading, separate, asked.mode, asked.cut)
    notes = list(_notes(reading))
    never = _untrained(model, chosen, source, modalities, quick, asked.untrained, notes, on_step)
    snapshots = _snapshots(model, checkpoints, chosen, source, modalities, quick, reading, on_step)
    galleries = _with_pictures(reading.galleries, source, modalities)
    if on_step is not None:
        on_step("intervals and nulls")
    pooled = reading.pooled.pooled()
    profile: Profile = "best" if reading.regions else "mean"
    unsaid = ("call", "scratch", "device", "gallery", "untrained")
    said = {key: value for key, value in asdict(asked).items() if key not in unsaid}
    said |= {"fused": bool(fused), "apart": apart is not None, "untrained copies": asked.untrained}
    return Dissection(
        modalities,
        levels,
        source.concept_names(),
        dict(reading.pooled.layers),
        reading.alignments,
        reading.fused,
        semantic_variance(reading.alignments, profile),
        bootstrap(reading.alignments, _statistics(asked.mode, asked.cut, profile), resamples=asked.resamples, seed=asked.seed),
        unit_permutation_null(reading.alignments, permutations=asked.permutations, seed=asked.seed, profile=profile),
        _sets(reading, levels),
        _detectors(reading, asked.mode, asked.cut),
        _units(reading, asked.mode, asked.cut),
        galleries,
        similarity_matrix(pooled, pooled, permutations=_FLOOR_PERMUTATIONS, seed=asked.seed),
        together,
        snapshots,
        None if ablation is None else tuple(ablation),
        tuple(notes),
        said | {"profile": profile},
        reading.vague,
        reading.over,
        reading.regions,
        relabelled_null(reading.alignments, profile),
        never,
    )


def _untrained(
    model: nn.Module,
    layers: Mapping[str, Mapping[str, str]],
    data: LabelledData,
    modalities: tuple[str, ...],
    settings: ChosenSettings,
    copies: int,
    notes: list[str],
    notify: StepCallback | None,
) -> tuple[LevelConcepts, ...] | None:
    """Concepts that any copy detects that was never trained; None, and a note, where that cannot be read."""
    if copies and not data.again:
        notes.append("copies that were never trained are not read: the data can be read once only")
        return None
    levels = tuple(next(iter(layers.values())))
    found: list[tuple[LevelConcepts, ...]] = []
    for copied in range(copies):
        drawn = untrained_copy(model, settings.seed + copied)
        try:
            found.append(_sets(read_network(drawn, layers, data, modalities, settings, notify=notify), levels))
        except DataError as error:
            notes.append(f"copies that were never trained are not read: {error}")
            return None
    return (
        tuple(
            LevelConcepts(row[0].level, {name: frozenset().union(*(one.detected[name] for one in row)) for name in modalities})
            for row in zip(*found, strict=True)
        )
        or None
    )


def _read_apart(
    apart: Networks,
    layers: Mapping[str, Mapping[str, str]],
    data: LabelledData,
    modalities: tuple[str, ...],
    settings: ChosenSettings,
    notify: StepCallback | None,
) -> Reading:
    networks = apart if isinstance(apart, Mapping) else dict.fromkeys(modalities, apart)
    if set(networks) != set(modalities):
        raise ParameterError("networks trained apart", expected=f"one for each of {', '.join(modalities)}", got=list(networks))
    if len(modalities) != 2:
        raise ParameterError("collaboration is between two modalities", expected=2, got=len(modalities), fix="choose a pair")
    readings = [
        read_network(network, {name: layers[name] for name in names}, data, modalities, settings, notify=notify)
        for network, names in _by_network(networks, modalities)
    ]
    alignments = {name: row for reading in readings for name, row in reading.alignments.items()}
    arrays = {key: array for reading in readings for key, array in reading.pooled.arrays.items()}
    ordered = {name: alignments[name] for name in modalities}
    pooled = Recording({key: arrays[key] for name in modalities for key in arrays if key[0] == name}, {}, "pooled")
    return replace(readings[0], alignments=ordered, fused={}, pooled=pooled, galleries=())


def _by_network(networks: Mapping[str, nn.Module], modalities: Sequence[str]) -> list[tuple[nn.Module, list[str]]]:
    found: list[tuple[nn.Module, list[str]]] = []
    for name in modalities:
        known = next((names for network, names in found if network is networks[name]), None)
        if known is None:
            found.append((networks[name], [name]))
        else:
            known.append(name)
    return found


def _same_order(first: Reading, second: Reading) -> None:
    if first.digest != second.digest:
        raise DataError("the data came in another order the second time", fix="do not shuffle")


def _collaborating(joint: Reading, apart: Reading, mode: Mode, cut: float | None) -> tuple[LevelCollaboration, ...]:
    arrays = {key: array for key, array in joint.pooled.arrays.items() if key[0] != FUSED}
    streams = Streams(Recording(arrays, {}, "pooled"), joint.alignments), Streams(apart.pooled, apart.alignments)
    return collaboration(*streams, joint.fused, mode=mode, cut=cut)


def _snapshots(
    model: nn.Module,
    checkpoints: Sequence[str | Path] | Mapping[str, Mapping[str, Tensor]],
    layers: Mapping[str, Mapping[str, str]],
    data: LabelledData,
    modalities: tuple[str, ...],
    settings: ChosenSettings,
    now: Reading,
    notify: StepCallback | None,
) -> tuple[Snapshot, ...]:
    states = checkpoints if isinstance(checkpoints, Mapping) else {_name(path, checkpoints): path for path in checkpoints}
    levels = tuple(next(iter(layers.values())))
    readings: dict[str, Reading] = {}
    for name, state in states.items():
        network = load_state(copy.deepcopy(model), state, name)
        readings[name] = read_network(network, layers, data, modalities, settings, notify=notify)
        _same_order(now, readings[name])
        readings[name] = replace(readings[name], alignments=_without_counts(readings[name].alignments))
    last = list(readings.values())[-1].pooled if readings else None
    found: list[Snapshot] = []
    for name, reading in readings.items():
        rows = reading.pooled.arrays
        between = [
            float(np.mean([cka(rows[first, level], rows[second, level]) for first, second in combinations(modalities, 2)]))
            for level in levels
        ]
        to_last = {key: cka(rows[key], last.arrays[key]) for key in rows} if last is not None else {}
        sets = _sets(reading, levels)
        variance = semantic_variance(reading.alignments, "best" if reading.regions else "mean")
        found.append(Snapshot(name, sets, variance, np.array(between), to_last))
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


def _sets(reading: Reading, levels: tuple[str, ...]) -> tuple[LevelConcepts, ...]:
    found, (mode, cut) = [], (reading.settings.mode, reading.settings.cut)
    for level in levels:
        detected = {modality: row[level].detected(mode, cut) for modality, row in reading.alignments.items()}
        fused = reading.fused[level].detected(mode, cut) if level in reading.fused else None
        found.append(LevelConcepts(level, detected, fused))
    return tuple(found)


def _all(reading: Reading) -> dict[Key, UnitAlignment]:
    rows = {**reading.alignments, **({FUSED: reading.fused} if reading.fused else {})}
    return {(modality, level): one for modality, row in rows.items() for level, one in row.items()}


def _detectors(reading: Reading, mode: Mode, cut: float | None) -> dict[Key, DetectorCount]:
    return {key: _detector_count(one, mode, cut) for key, one in _all(reading).items()}


def _detector_count(alignment: UnitAlignment, mode: Mode, cut: float | None) -> DetectorCount:
    found = alignment.detects(mode, cut)
    names, units = alignment.detected(mode, cut), int(found.any(axis=1).sum())
    if alignment.shuffled is None or not len(alignment.shuffled) or (mode == "auroc" and alignment.shuffled_auroc is None):
        return DetectorCount(names, units, len(found))
    shuffled = np.array([one.detects(mode, cut).any(axis=0) for one in alignment.by_chance()])  # (S, C)
    drawn, value = shuffled.sum(axis=1), len(names)
    p_value = (1 + int((drawn >= value).sum())) / (1 + len(drawn))
    chance = AgainstChance(float(value), float(drawn.mean()), float(np.quantile(drawn, 0.95)), p_value)
    often = {name for name, share in zip(alignment.concepts, shuffled.mean(axis=0), strict=True) if share > 0.05}
    return DetectorCount(names, units, len(found), chance, frozenset(names & often))


def _units(reading: Reading, mode: Mode, cut: float | None) -> tuple[UnitRow, ...]:
    return tuple(row for key, one in _all(reading).items() for row in best_units(one, key, mode, cut))


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
    for key, one in _all(reading).items():
        for note in one.notes:
            noted.setdefault(note, []).append(" ".join(key))
    total = len(_all(reading))
    return tuple(note if len(keys) == total else f"{', '.join(keys)}: {note}" for note, keys in noted.items())
