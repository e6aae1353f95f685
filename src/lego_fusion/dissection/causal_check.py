"""Whether a network uses what its modalities share and what one alone holds: their units silenced, a metric read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ParameterError
from .ablation import By, ImageMetric, ablate, unit_groups, unit_labels
from .ablation_result import Ablation
from .findings import Dissection
from .labelled_data import LabelledData, Pairs
from .recorder import Call


def causal_check(
    model: nn.Module,
    found: Dissection,
    data: str | Path | Pairs | Callable[[], Pairs],
    metric: ImageMetric,
    *,
    levels: Sequence[str] | None = None,
    by: By = "mean",
    draws: int = 3,
    call: Call | None = None,
    resamples: int = 200,
    batch_size: int = 8,
    seed: int = 0,
) -> tuple[Ablation, ...]:
    """Silence the units of each stream that stand for shared and for special concepts, and as many others at random.

    Args:
        model: The network that was dissected.
        found: Its dissection, which says what units stand for.
        data: What it was dissected on, or other images with labels, as for ``dissect``.
        metric: Read from the outputs of the network and the labels as the data gives them; a folder gives masks.
        levels: Of which units are silenced; the last one by default.
        by: As ``ablate``.
        draws: As ``ablate``.
        call: As for ``dissect``.
        resamples: As ``ablate``.
        batch_size: Of a folder.
        seed: Of random units and resamples.

    Returns:
        The records, as ``dissect(..., ablation=)`` and the page take them.

    Raises:
        ParameterError: If a level is unknown, or the data can be read once only.
        DataError: As ``ablate``.
    """
    source = LabelledData(data, found.concepts, batch_size)
    if not source.again:
        raise ParameterError("the data can be read once only", fix="hand in a list, a loader, or a function that returns one")
    wanted = found.levels[-1:] if levels is None else levels
    unknown = sorted(set(wanted) - set(found.levels))
    if unknown:
        raise ParameterError(f"there is no level '{unknown[0]}'", expected=", ".join(found.levels))
    rows: list[Ablation] = []
    for one, alignments in zip(found.sets, zip(*(row.items() for row in found.alignments.values()), strict=True), strict=True):
        for modality, (level, alignment) in zip(found.modalities, alignments, strict=True):
            labels = unit_labels(alignment, found.mode, found.cut)
            groups = unit_groups(labels, {"shared": one.shared, "special": one.special(modality)})
            if one.level in wanted and groups:
                layer = found.layers[modality, level]
                options: dict[str, Any] = {"by": by, "draws": draws, "call": call, "resamples": resamples, "seed": seed}
                rows += ablate(model, layer, groups, source, metric, key=(modality, level), **options)
    return tuple(rows)
