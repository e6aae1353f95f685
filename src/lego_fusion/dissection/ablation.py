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
from torch import Tensor, nn

from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from .alignment import UnitAlignment
from .findings import Dissection
from .labelled_data import LabelledData, Pairs
from .overlap import Mode
from .recorder import Call, Key, Recorder


@dataclass(frozen=True)
class Ablation:
    """One metric before and after some units of a layer are silenced, on the same images.

    Args:
        level: Of the layer.
        modality: Of the layer.
        group: What the units have in common: "shared" and "special" concepts, or "random" units of the same number.
        units: Positions of the units that were silenced.
        before: The metric of the network as it is.
        after: With the units silenced.
        change: after - before.
        low: Lower end of the interval of the change, over resampled images.
        high: Upper end.
        metric: Name of the metric, for example of a class whose IoU it is.
        matched: Of random units: the group that they match in number; elsewhere "".
    """

    level: str
    modality: str
    group: str
    units: tuple[int, ...]
    before: float
    after: float
    change: float
    low: float
    high: float
    metric: str = ""
    matched: str = ""


def excess_over_random(found: Iterable[Ablation]) -> dict[tuple[str, str], float]:
    """Change by (group, metric) minus the mean change of the random units that match the group.

    A layer may depend on how many units it has left, whatever they stand for: what a group does beyond that is its own.
    Groups without random units are left out.

    Example:
        >>> own = Ablation("late", "rgb", "special", (0, 1), 0.9, 0.3, -0.6, -0.7, -0.5, "disc")
        >>> other = Ablation("late", "rgb", "random", (2, 3), 0.9, 0.8, -0.1, -0.2, 0.0, "disc", matched="special")
        >>> excess_over_random([own, other])
        {('special', 'disc'): -0.5}
    """
    rows = list(found)
    excess = {}
    for row in rows:
        chance = [other.change for other in rows if other.matched == row.group and other.metric == row.metric]
        if row.group != "random" and chance:
            excess[row.group, row.metric] = row.change - sum(chance) / len(chance)
    return excess


Array = NDArray[Any]
By = Literal["zero", "mean"]


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


def class_iou(classes: Mapping[str, int], groups: Mapping[str, Collection[str]] | None = None) -> ImageMetric:
    """IoU of classes in a segmentation: the sum over images of |told & true| over that of |told | true|.

    Args:
        classes: Label of each class, by name. Outputs are logits (b, L, H, W), targets labels (b, H, W).
        groups: Names of the classes of which a mean is taken, by name of the mean; None: each class, and "mean" of all.

    Raises:
        ParameterError: If a group names a class that is not there.

    Example:
        >>> metric = class_iou({"plane": 0, "disc": 1})
        >>> logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # told: plane, disc
        >>> metric.values(metric.rows(logits, torch.tensor([[[1, 1]]])).numpy())
        {'plane': 0.0, 'disc': 0.5, 'mean': 0.25}
    """
    wanted = {name: (name,) for name in classes} | {"mean": tuple(classes)} if groups is None else groups
    unknown = sorted({name for names in wanted.values() for name in names} - set(classes))
    if unknown:
        raise ParameterError(f"no class '{unknown[0]}' to take the IoU of", expected=", ".join(classes))
    labels = torch.tensor(list(classes.values()))
    places = {name: [list(classes).index(one) for one in names] for name, names in wanted.items()}

    def rows(outputs: Tensor, targets: Tensor) -> Tensor:
        told = outputs.argmax(1)[:, None] == labels.to(outputs.device)[:, None, None]  # (b, C, H, W)
        true = targets[:, None] == labels.to(targets.device)[:, None, None]
        return torch.stack([(told & true).sum((2, 3)), (told | true).sum((2, 3))], 1)  # (b, 2, C)

    def values(counts: Array) -> dict[str, float]:
        both, either = counts.sum(axis=0, dtype=np.float64)
        iou = np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)
        return {name: float(iou[chosen].mean()) for name, chosen in places.items()}

    return ImageMetric(rows, values)


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
        concepts: Of each group, for example ``{"shared": sets.shared, "special": sets.only_first}``.

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


def ablate(
    model: nn.Module,
    layer: str,
    groups: Mapping[str, Collection[int]],
    batches: Iterable[tuple[Any, Any]],
    metric: ImageMetric,
    *,
    key: Key = ("", ""),
    by: By = "zero",
    draws: int = 5,
    call: Call | None = None,
    resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Ablation, ...]:
    """Silence each group of units, and as many other units at random, and read the metric before and after.

    Args:
        model: The network, in evaluation mode.
        layer: Name of the layer.
        groups: Positions of the units of each group, for example from ``unit_groups``.
        batches: Pairs of what ``call`` takes and targets, in a form that can be read again and again, such as a list.
        metric: What is read.
        key: Modality and level, for the record.
        by: "zero", or "mean": the mean of each unit over these images and all places.
        draws: How often random units are drawn for each group, from the units outside it; fewer than the group has where
            there are not as many.
        call: As for ``Recorder``.
        resamples: For the interval of the change: images are drawn again, before and after alike.
        confidence: Of the interval, in (0, 1).
        seed: Of random units and resamples.

    Returns:
        For every group and every number of the metric one record, then those of the random units that match the group.

    Raises:
        ParameterError: If the network is in training mode, a layer, unit or group is wrong, or batches can be read once only.
        DataError: If there are no images, or the metric gives not one row for each.
    """
    check_choice(by, "by", "ablate", ("zero", "mean"))
    check_int(draws, "draws", "ablate", low=0)
    check_int(resamples, "resamples", "ablate", low=1)
    check_number(confidence, "confidence", "ablate", low=0.0, high=1.0)
    if iter(batches) is batches:
        raise ParameterError("batches can be read once only", where="ablate", fix="give a list or a DataLoader")
    recorder = Recorder(model, {key[0]: {key[1]: layer}}, call=call)
    means = _unit_means(recorder, batches)
    chosen = {name: _checked(units, name, len(means), layer) for name, units in groups.items()}
    generator = np.random.default_rng(check_int(seed, "seed", "ablate", low=0))
    before = _rows(recorder, batches, metric)
    draw = generator.integers(0, len(before), size=(resamples, len(before)))
    found = []
    for name, units in chosen.items():
        others = np.setdiff1d(np.arange(len(means)), units)
        random = [generator.permutation(others)[: len(units)] for _ in range(draws if len(others) else 0)]
        trials = [(name, "", units), *(("random", name, tuple(sorted(map(int, row)))) for row in random)]
        for group, matched, some in trials:
            with silenced(model, layer, some, means if by == "mean" else None):
                after = _rows(recorder, batches, metric)
            for metric_name, numbers in _changes(before, after, draw, metric, confidence).items():
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
        changes = np.array([new[name] - old[name] for old, new in drawn])
        changes = changes[np.isfinite(changes)]
        ends = np.quantile(changes, [(1 - confidence) / 2, (1 + confidence) / 2]) if len(changes) else (np.nan, np.nan)
        old, new = values[0][name], values[1][name]
        found[name] = (old, new, new - old, float(ends[0]), float(ends[1]))
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
