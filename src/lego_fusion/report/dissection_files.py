"""A dissection as files: one page, tables, and everything but the pictures as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import write_table
from ..dissection.collaboration import LevelCollaboration
from ..dissection.concepts import LevelConcepts
from ..dissection.records import FUSED, Dissection
from ..writing import write_text
from .dissection_page import dissection_page
from .dissection_words import answers


def save_dissection(
    folder: str | Path, found: Dissection, *, title: str = "Dissection", images: bool = True
) -> dict[str, Path]:
    """Write ``dissection.html``, ``dissection.json``, ``units.csv``, ``concepts.csv``, ``variance.csv`` and ``similarity.csv``.

    Args:
        folder: Made if it is not there.
        found: What was found.
        title: Of the page.
        images: Whether the page shows galleries.

    Returns:
        The files by kind.
    """
    folder = Path(folder)
    page, document = folder / "dissection.html", folder / "dissection.json"
    files = {"page": page, "document": document}
    for name, rows in _tables(found).items():
        files[name] = folder / f"{name}.csv"
        columns = list(rows[0]) if rows else []
        write_table(files[name], columns, rows)
    write_text(document, json.dumps(dissection_document(found), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(page, dissection_page(found, title=title, images=images))
    return files


def dissection_document(found: Dissection) -> dict[str, Any]:
    """All numbers as JSON values, with the three answers in words."""
    variance = found.variance
    document: dict[str, Any] = {
        "answers": {question: " ".join(words) for question, words in answers(found).items()},
        "modalities": found.modalities,
        "levels": found.levels,
        "concepts": found.concepts,
        "images": found.images,
        "layers": [{"modality": m, "level": n, "layer": layer} for (m, n), layer in found.layers.items()],
        "sets": [_sets(found, one) for one in found.sets],
        "profiles": {"concepts": variance.concepts, "values": variance.profiles},
        "shares": {name: asdict(one) for name, one in found.intervals.items()},
        "chance": {name: asdict(one) for name, one in found.chance.items()},
        "units_variance": variance.of_units,
        "detectors": [
            {"modality": m, "level": n, **asdict(one)} for (m, n), one in found.detectors.items()
        ],
        "similarity": {
            "layers": found.similarity.names_a,
            "values": found.similarity.values,
            "noise_floor": found.similarity.floor,
        },
        "collaboration": None
        if found.collaboration is None
        else [_collaboration(one) for one in found.collaboration],
        "checkpoints": [
            {"name": one.name, "sets": [_sets(found, row) for row in one.levels], "between": one.between,
             "shares": asdict(one.variance.shares), "to_last": {" ".join(k): v for k, v in one.to_last.items()}}
            for one in found.snapshots
        ],
        "ablation": None if found.ablation is None else [asdict(one) for one in found.ablation],
        "read_over": {"what": found.over, "objects": found.regions, "mode": found.mode, "cut": found.cut},
        "labels_dealt_anew": {name: asdict(one) for name, one in found.relabelled.items()},
        "untrained": None if found.untrained is None else [_sets(found, one) for one in found.untrained],
        "vague_units": {"units": found.vague[0], "of": found.vague[1]},
        "notes": found.notes,
        "settings": found.settings,
    }  # fmt: skip
    plain: dict[str, Any] = _plain(document)
    return plain


def _collaboration(one: LevelCollaboration) -> dict[str, Any]:
    kept = {"shared_kept": one.shared_kept, "special_kept": one.special_kept}
    sets = {"joint": _two_sets(one.joint), "apart": _two_sets(one.apart)}
    return {**asdict(one), **sets, **kept, "evidence": one.evidence()}


def _two_sets(one: LevelConcepts) -> dict[str, frozenset[str]]:
    first, second = one.detected
    return {"shared": one.shared, "only_first": one.special(first), "only_second": one.special(second)}


def _sets(found: Dissection, one: LevelConcepts) -> dict[str, Any]:
    return {
        "level": one.level,
        "detected": one.detected,
        "shared": one.shared,
        "special": {name: one.special(name) for name in found.modalities},
        "J": one.joint,
        "U": {name: one.unique(name) for name in found.modalities},
        "fused": one.fused,
        "shared_kept": one.shared_kept,
        "special_kept": one.special_kept,
    }


def _tables(found: Dissection) -> dict[str, list[dict[str, object]]]:
    matrix = found.similarity
    return {
        "units": [asdict(row) for row in found.units],
        "concepts": list(_concept_rows(found)),
        "variance": [
            {"statistic": name, **asdict(one), "chance_mean": found.chance[name].mean if name in found.chance else "",
             "p_value": found.chance[name].p_value if name in found.chance else "",
             "labels_dealt_anew_mean": found.relabelled[name].mean if name in found.relabelled else "",
             "labels_dealt_anew_p_value": found.relabelled[name].p_value if name in found.relabelled else ""}
            for name, one in found.intervals.items()
        ],
        "similarity": [
            {"layer": a, "other": b, "cka": float(matrix.values[row, column]),
             "noise_floor": "" if matrix.floor is None else float(matrix.floor[row, column])}
            for row, a in enumerate(matrix.names_a) for column, b in enumerate(matrix.names_b)
        ],
    }  # fmt: skip


def _concept_rows(found: Dissection) -> Iterable[dict[str, object]]:
    every = {**found.alignments, FUSED: found.fused}
    for modality, level in found.detectors:
        one, count = every[modality][level], found.detectors[modality, level]
        best = one.overlap.scores(found.mode)
        for place, name in enumerate(one.concepts):
            unit = int(best[:, place].argmax())
            present = bool(one.overlap.present[place])
            yield {
                "modality": modality,
                "level": level,
                "concept": name,
                "share_of_objects" if found.regions else "share_of_pixels": float(
                    one.overlap.concept_area[place] / one.overlap.pixels
                ),
                "profile": float(one.overlap.profile[place]) if present else "",
                "best_unit": unit if present else "",
                "best_above_chance": float(one.overlap.above_chance[unit, place]) if present else "",
                "best_score": float(best[unit, place]) if present else "",
                "detected": name in count.concepts,
                "doubtful": name in count.doubtful,
            }


def _plain(value: Any) -> Any:
    """The same in JSON values: sets sorted, arrays as lists, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
