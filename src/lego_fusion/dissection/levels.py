"""Which layer of a network stands for which level of which modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ..errors import ParameterError
from .findings import FUSED
from .recorder import Recorder


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
