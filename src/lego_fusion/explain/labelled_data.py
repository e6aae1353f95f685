"""Inputs of a network with the labels of their places, read as often as needed and always in the same order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.dissection_folder import DissectionFolder
from ..errors import DataError, ParameterError
from .concepts import ConceptCollector, Concepts
from .dissection import FUSED
from .recorder import Kind

Array = NDArray[Any]
Pairs = Iterable[Any]  # of (inputs, labels); a loader gives lists
_AXES: dict[str, tuple[str, int]] = {"spatial": ("H, W", 3), "tokens": ("T", 2), "pooled": ("", 1)}


@dataclass(frozen=True)
class LabelledData:
    """Batches of (inputs, labels).

    Args:
        source: A dataset folder, an iterable of pairs, or a function without arguments that returns one.
        names: Of the concepts; None where a folder names them.
        batch_size: Of a folder.
    """

    source: str | Path | Pairs | Callable[[], Pairs]
    names: tuple[str, ...] | None = None
    batch_size: int = 8

    @property
    def again(self) -> bool:
        """Whether the data can be read more than once."""
        return isinstance(self.source, str | Path) or callable(self.source) or not isinstance(self.source, Iterator)

    def concept_names(self) -> tuple[str, ...]:
        """Names of the concepts."""
        if isinstance(self.source, str | Path):
            return DissectionFolder.open(self.source).concepts
        if not self.names:
            raise ParameterError("concepts have no names", expected="one for each label", fix="give concepts=[...]")
        return self.names

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Inputs and labels of every batch.

        Raises:
            DataError: If an element is not such a pair.
        """
        if isinstance(self.source, str | Path):
            for pictures, masks in DissectionFolder.open(self.source).batches(self.batch_size):
                yield {name: torch.from_numpy(array) for name, array in pictures.items()}, masks
            return
        for number, pair in enumerate(self.source() if callable(self.source) else self.source):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                got = f"{type(pair).__name__} of {len(pair)}" if isinstance(pair, tuple | list) else type(pair).__name__
                raise DataError("data must come as pairs of inputs and labels", where=f"batch {number}", got=got)
            yield pair[0], pair[1]


@dataclass
class Labels:
    """Collects the labels of a pass over the data: one set of concepts for all modalities, or one for each.

    Args:
        names: Of the concepts.
        kind: Of the activations, which says what places have labels.
        modalities: Names.
    """

    names: tuple[str, ...]
    kind: Kind
    modalities: tuple[str, ...]
    collectors: dict[str, ConceptCollector] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    def inputs(self, pairs: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
        """Hand the inputs on, keeping the labels.

        Raises:
            DataError: If labels have a wrong form, another size than the pictures or another number of samples.
        """
        for number, (inputs, labels) in enumerate(pairs):
            where = f"batch {number}"
            size = _picture_size(inputs, where) if self.kind == "spatial" else None
            for modality, values in self._by_modality(labels, where).items():
                masks = _masks(values, self.kind, len(self.names), where)
                if size is not None and masks.shape[2:] != size:
                    fix = "resize the labels to the pictures, taking the nearest label"
                    raise DataError(
                        "labels have another size than the images", where=where, expected=size, got=masks.shape[2:], fix=fix
                    )
                self.collectors.setdefault(modality, ConceptCollector(self.names)).add(masks)
                self.digest.update(np.packbits(masks).tobytes())
            yield inputs

    def _by_modality(self, labels: Any, where: str) -> dict[str, Any]:
        if not isinstance(labels, Mapping):
            return {"": labels}
        if set(labels) - {FUSED} != set(self.modalities):
            raise DataError("labels of other modalities", where=where, expected=list(self.modalities), got=list(labels))
        return dict(labels)

    def concepts(self, modality: str, maps: Array) -> Concepts:
        """Concepts at the places of a layer: labels of whole samples hold for all their tokens.

        Raises:
            DataError: If tokens and labels differ in number.
        """
        if not self.collectors:
            raise DataError("there are no batches", expected="at least one")
        found = self.collectors.get(modality, next(iter(self.collectors.values()))).concepts()
        if self.kind == "spatial" or found.size == maps.shape[2:]:
            return found
        if found.size != (1, 1):
            raise DataError(
                "labels of another number of tokens", where=modality, expected=f"{maps.shape[2]} tokens", got=found.size[0]
            )
        whole = np.broadcast_to(found.pixels, (len(found.pixels), *maps.shape[2:]))
        return Concepts(found.names, whole, found.members, found.chosen)


def named_pictures(inputs: Any, modalities: Sequence[str]) -> dict[str, Tensor]:
    """Pictures (b, C, H, W) of a batch by modality: by name in a mapping, else the four-dimensional tensors in order."""
    if isinstance(inputs, Mapping):
        found = {name: inputs[name] for name in modalities if isinstance(inputs.get(name), Tensor) and inputs[name].ndim == 4}
        if found:
            return found
    tensors = [value for value in _tensors(inputs) if value.ndim == 4]
    if len(tensors) == 1:
        tensors *= len(modalities)
    return dict(zip(modalities, tensors, strict=False))


def _tensors(inputs: Any) -> list[Tensor]:
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else (inputs,)
    return [value for value in values if isinstance(value, Tensor)]


def _picture_size(inputs: Any, where: str) -> tuple[int, int] | None:
    """Height and width of all pictures, or None if there are none."""
    names = list(inputs) if isinstance(inputs, Mapping) else [f"input {place}" for place in range(len(_tensors(inputs)))]
    tensors = inputs.values() if isinstance(inputs, Mapping) else _tensors(inputs)
    sizes = {
        name: (int(value.shape[2]), int(value.shape[3]))
        for name, value in zip(names, tensors, strict=True)
        if isinstance(value, Tensor) and value.ndim == 4
    }
    if len(set(sizes.values())) > 1:
        got = ", ".join(f"{name} {height} x {width}" for name, (height, width) in sizes.items())
        raise DataError(
            "modalities have different resolutions", where=where, expected="one height and width", got=got, fix="resize them"
        )
    return next(iter(sizes.values()), None)


def _masks(labels: Any, kind: Kind, count: int, where: str) -> Array:
    """Labels of a batch as masks (b, C, H, W), (b, C, T, 1) or (b, C, 1, 1)."""
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    boolean = values.dtype == np.bool_
    if not boolean and values.dtype.kind not in "iu":
        raise DataError("labels are neither masks nor numbers", where=where, expected="bool or integers", got=values.dtype)
    axes, dimensions = _AXES[kind]
    sample = kind != "spatial" and values.ndim == 1 + boolean  # one label, or one set of them, for each sample
    if values.ndim != dimensions + boolean and not sample:
        expected = f"integers (b, {axes}), or bool (b, C, {axes})" if axes else "integers (b,), or bool (b, C)"
        raise DataError("labels have a wrong shape", where=where, expected=expected, got=tuple(values.shape))
    if boolean:
        if values.shape[1] != count:
            raise DataError("masks of another number of concepts", where=where, expected=count, got=values.shape[1])
        masks = values
    else:
        if values.size and int(values.max()) >= count:
            expected = f"at most {count - 1}, negative for none"
            raise DataError("a label has no name", where=where, expected=expected, got=int(values.max()))
        masks = values[:, None] == np.arange(count).reshape(-1, *[1] * (values.ndim - 1))
    return masks.reshape(*masks.shape, *[1] * (4 - masks.ndim))
