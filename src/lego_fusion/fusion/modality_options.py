"""Options of a fusion that may differ from modality to modality, checked and spelled out for each."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ParameterError, check_int
from .relation import RelationKind


def relation_kinds(
    modalities: Mapping[str, int], relations: RelationKind | Mapping[str, RelationKind]
) -> dict[str, RelationKind]:
    """The relation of each modality."""
    if isinstance(relations, str):
        return dict.fromkeys(modalities, relations)
    given: object = relations
    if not isinstance(given, Mapping):
        what = f"The 'relations' parameter of PaperFusion must be a relation, or one by modality. Got {relations!r} instead"
        raise ParameterError(what)
    missing = [name for name in modalities if name not in relations]
    if missing:
        raise ParameterError(f"no relation is given for modality '{missing[0]}'", got=", ".join(relations) or "none")
    return {name: relations[name] for name in modalities}


def unit_groups(modalities: Mapping[str, int], units: Mapping[str, int]) -> dict[str, int]:
    """Groups of units of each fine modality."""
    unknown = [name for name in units if name not in modalities]
    if unknown:
        raise ParameterError(f"units names '{unknown[0]}', which is no modality", expected=", ".join(modalities))
    return {name: check_int(groups, f"units['{name}']", "fusion", low=1) for name, groups in units.items()}
