"""Causal check: silence the units of a layer that stand for some concepts, and see what the network can no longer do.

An alignment says where a unit is active, not whether the network uses it. Here the units are set to zero, or to their mean,
while the network runs, and a metric is read on the same images before and after. As many other units, drawn at random, tell
what the mere loss of units costs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..errors import DataError, ParameterError, with_changes
from .alignment import UnitAlignment
from .labelled_data import LabelledData, Pairs
from .overlap import Mode
from .recorder import Call, Key, Recorder
from .records import Ablation, Dissection
from .variance import finite_interval

Array = NDArray[Any]


@dataclass(frozen=True)
class ImageMetric:
    """A metric in two steps, so that it can be resampled over images and does not depend on how they are batched.

    Args:
        rows: From the outputs and targets of a batch to one row for each image (b, ...): counts, losses, or the outputs
            and targets themselves where a metric needs all of them at once.
        values: From the rows of some images (n, ...), an image as often as it was drawn, to numbers by name; NaN where one
            is not defined on them.
    """

    rows: Callable[[Any, Any], Any]
    values: Callable[[Any], Mapping[str, float]]


def mean_metric(name: str, rows: Callable[[Any, Any], Any]) -> ImageMetric:
    """The mean over images of one number for each, for example of a loss.

    Args:
        name: Of the metric.
        rows: From outputs and targets of a batch to (b,).

    Example:
        >>> error = mean_metric("error", lambda outputs, targets: (outputs - targets).abs())
        >>> error.values(np.array([1.0, 3.0]))
        {'error': 2.0}
    """
    return ImageMetric(rows, lambda values: {name: float(np.mean(values))})


def unit_labels(alignment: UnitAlignment, mode: Mode = "normalised", cut: float | None = None) -> tuple[str | None, ...]:
    """The concept that each unit stands for: of those it detects the one it aligns with best; None if it detects none."""
    detects = alignment.detects(mode, cut)
    scores = alignment.overlap.scores(mode)
    best = np.where(detects.any(axis=1), np.where(detects, scores, -np.inf).argmax(axis=1), -1)
    return tuple(None if place < 0 else alignment.concepts[place] for place in best.tolist())


def unit_groups(labels: Sequence[str | None], concepts: Mapping[str, Collection[str]]) -> dict[str, tuple[int, ...]]:
    """Positions of the units whose label is among the concepts of each group; groups without a unit are left out.

    Args:
        labels: As ``unit_labels`` gives them.
        concepts: Of each group, for example ``{"shared": sets.shared, "special": sets.special("rgb")}``.

    Example:
        >>> unit_groups(["disc", "red", None, "red"], {"shared": ["disc"], "special": ["red"], "other": ["tall"]})
        {'shared': (0,), 'special': (1, 3)}
    """
    groups = {
        name: tuple(place for place, label in enumerate(labels) if label in some and label is not None)
        for name, some in concepts.items()
    }
    return {name: units for name, units in groups.items() if units}


@contextmanager
def silenced(
    model: nn.Module, layer: str, units: Collection[int], stand_in: Float64[np.ndarray, " k"] | None = None
) -> Iterator[None]:
    """While the block runs, units of a layer give zero, or what stands in for them; the hook is removed whatever happens.

    Args:
        model: The network.
        layer: Name as in ``model.named_modules()``.
        units: Positions along the axis of units: 1 of (b, K) and (b, K, h, w), the last of tokens (b, T, K).
        stand_in: Value of each of the K units; None: zeros.

    Raises:
        ParameterError: If the layer is unknown, or has no such unit (when it runs).

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Flatten())
        >>> with silenced(model, "0", [1]):
        ...     model(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[1.0, 0.0, 3.0]]
    """
    named = Recorder(model, {"layer": {"layer": layer}}).layers["layer", "layer"]
    chosen = sorted(set(units))

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        value = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(value, Tensor) or value.ndim not in (2, 3, 4):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DataError("a layer has no units to silence", where=f"layer '{layer}'", expected="a tensor", got=got)
        axis = 2 if value.ndim == 3 else 1
        if chosen and (chosen[0] < 0 or chosen[-1] >= value.shape[axis]):
            raise ParameterError(
                "a layer has no such unit", where=f"layer '{layer}'", expected=f"0 to {value.shape[axis] - 1}", got=chosen
            )
        changed = value.movedim(axis, -1).clone()
        changed[..., chosen] = 0.0 if stand_in is None else torch.from_numpy(stand_in[chosen]).to(changed)
        changed = changed.movedim(-1, axis)
        return type(output)([changed, *output[1:]]) if isinstance(output, tuple | list) else changed

    handle = dict(model.named_modules(remove_duplicate=False))[named].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class AblateSettings(BaseModel):
    """How units are silenced, and what it is compared with.

    Args:
        by: "zero", or "mean": the mean of each unit over these images and all places.
        draws: How often random units are drawn for each group, from the units outside it; fewer than the group has where
            there are not as many.
        call: As for ``Recorder``.
        resamples: For the interval of the change: images are drawn again, before and after alike.
        confidence: Of the interval, in (0, 1).
        seed: Of random units and resamples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    by: Literal["zero", "mean"] = "zero"
    draws: int = Field(default=5, ge=0)
    call: Call | None = None
    resamples: int = Field(default=500, ge=1)
    confidence: float = Field(default=0.95, ge=0, le=1)
    seed: int = Field(default=0, ge=0)


def ablate(
    model: nn.Module,
    layer: str,
    groups: Mapping[str, Collection[int]],
    batches: Iterable[tuple[Any, Any]],
    metric: ImageMetric,
    *,
    key: Key = ("", ""),
    settings: AblateSettings | None = None,
    **changes: Any,
) -> tuple[Ablation, ...]:
    """Silence each group of units, and as many other units at random, and read the metric before and after.

    Args:
        model: The network, in evaluation mode.
        layer: Name of the layer.
        groups: Positions of the units of each group, for example from ``unit_groups``.
        batches: Pairs of what ``call`` takes and targets, in a form that can be read again and again, such as a list.
        metric: What is read.
        key: Modality and level, for the record.
        settings: How; its defaults where there are none.
        changes: Fields of the settings by name, such as ``by="mean"``.

    Returns:
        For every group and every number of the metric one record, then those of the random units that match the group.

    Raises:
        ParameterError: If the network is in training mode, a layer, unit or group is wrong, or batches can be read once only.
        DataError: If there are no images, or the metric gives not one row for each.
    """
    how: AblateSettings = with_changes(settings or AblateSettings(), changes, "ablate")
    if iter(batches) is batches:
        raise ParameterError("batches can be read once only", where="ablate", fix="give a list or a DataLoader")
    recorder = Recorder(model, {key[0]: {key[1]: layer}}, call=how.call)
    means = _unit_means(recorder, batches)
    chosen = {name: _checked(units, name, len(means), layer) for name, units in groups.items()}
    generator = np.random.default_rng(how.seed)
    before = _rows(recorder, batches, metric)
    draw = generator.integers(0, len(before), size=(how.resamples, len(before)))
    found = []
    for name, units in chosen.items():
        others = np.setdiff1d(np.arange(len(means)), units)
        random = [generator.permutation(others)[: len(units)] for _ in range(how.draws if len(others) else 0)]
        trials = [(name, "", units), *(("random", name, tuple(sorted(map(int, row)))) for row in random)]
        for group, matched, some in trials:
            with silenced(model, layer, some, means if how.by == "mean" else None):
                after = _rows(recorder, batches, metric)
            for metric_name, numbers in _changes(before, after, draw, metric, how.confidence).items():
                found.append(Ablation(key[1], key[0], group, some, *numbers, metric_name, matched))
    return tuple(found)


def _unit_means(recorder: Recorder, batches: Iterable[tuple[Any, Any]]) -> Float64[np.ndarray, " k"]:
    """Mean of each unit over images and places; the recorder refuses training and what is not finite."""
    total, images = np.zeros(()), 0
    for rows in recorder.stream((inputs for inputs, _ in batches), "pooled"):
        (value,) = rows.values()
        total, images = total + value.double().sum(0).cpu().numpy(), images + len(value)
    if not images:
        raise DataError("there are no images to ablate on", expected="at least one batch")
    return total / images


def _rows(recorder: Recorder, batches: Iterable[tuple[Any, Any]], metric: ImageMetric) -> Array:
    parts = []
    for inputs, targets in batches:
        with torch.no_grad():
            rows = metric.rows(recorder.call(recorder.model, inputs), targets)
        array = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        if array.ndim == 0 or len(array) != len(targets):
            raise DataError("the metric must give one row for each image", expected=len(targets), got=array.shape)
        parts.append(array)
    return np.concatenate(parts)


def _changes(
    before: Array, after: Array, draw: Array, metric: ImageMetric, confidence: float
) -> dict[str, tuple[float, float, float, float, float]]:
    """Before, after, change, low and high of every number of the metric."""
    values = [metric.values(rows) for rows in (before, after)]
    drawn = [(metric.values(before[rows]), metric.values(after[rows])) for rows in draw]
    found = {}
    for name in values[0]:
        low, high = finite_interval([changed[name] - kept[name] for kept, changed in drawn], confidence)
        old, new = values[0][name], values[1][name]
        found[name] = (old, new, new - old, low, high)
    return found


def _checked(units: Collection[int], name: str, count: int, layer: str) -> tuple[int, ...]:
    chosen = tuple(sorted({int(unit) for unit in units}))
    if not chosen:
        raise ParameterError(f"group '{name}' has no units", where="ablate", expected="at least one", fix="leave it out")
    if name == "random":
        raise ParameterError("'random' names the units that are drawn", where="ablate", fix="name the group otherwise")
    if chosen[0] < 0 or chosen[-1] >= count:
        raise ParameterError(
            f"layer '{layer}' has no such unit", where=f"group '{name}'", expected=f"0 to {count - 1}", got=chosen
        )
    return chosen


def causal_check(
    model: nn.Module,
    found: Dissection,
    data: str | Path | Pairs | Callable[[], Pairs],
    metric: ImageMetric,
    *,
    levels: Sequence[str] | None = None,
    batch_size: int = 8,
    settings: AblateSettings | None = None,
    **changes: Any,
) -> tuple[Ablation, ...]:
    """Silence the units of each stream that stand for shared and for special concepts, and as many others at random.

    Args:
        model: The network that was dissected.
        found: Its dissection, which says what units stand for.
        data: What it was dissected on, or other images with labels, as for ``dissect``.
        metric: Read from the outputs of the network and the labels as the data gives them; a folder gives masks.
        levels: Of which units are silenced; the last one by default.
        batch_size: Of a folder.
        settings: How; by the mean, with 3 draws and 200 resamples, where there are none.
        changes: Fields of the settings by name, such as ``seed=1``.

    Returns:
        The records, as ``dissect(..., ablation=)`` and the page take them.

    Raises:
        ParameterError: If a level is unknown, or the data can be read once only.
        DataError: As ``ablate``.
    """
    how = with_changes(settings or AblateSettings(by="mean", draws=3, resamples=200), changes, "causal_check")
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
                rows += ablate(model, layer, groups, source, metric, key=(modality, level), settings=how)
    return tuple(rows)
