"""Inputs of a network with the labels of their places, read as often as needed and always in the same order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, ParameterError, check_choice
from .concepts import ConceptCollector, Concepts
from .findings import FUSED
from .folder import DissectionFolder
from .recorder import Kind
from .regions import Regions, found_regions, given_regions

Array = NDArray[Any]
Pairs = Iterable[Any]  # of (inputs, labels) or (inputs, labels, regions); a loader gives lists
Read = Literal["auto", "regions", "pixels"]
_FEWEST, _ON_OBJECTS = 20, 0.5
_AXES: dict[str, tuple[str, int]] = {"spatial": ("H, W", 3), "tokens": ("T", 2), "pooled": ("", 1)}


@dataclass(frozen=True)
class LabelledData:
    """Batches of (inputs, labels) or (inputs, labels, regions).

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

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Inputs and labels of every batch."""
        return ((inputs, labels) for inputs, labels, _ in self.batches())

    def batches(self) -> Iterator[tuple[Any, Any, Any]]:
        """Inputs, labels, and regions or None, of every batch.

        Raises:
            DataError: If an element is no pair, nor a pair with regions.
        """
        if isinstance(self.source, str | Path):
            for pictures, masks, *objects in DissectionFolder.open(self.source).batches(self.batch_size):
                yield {name: torch.from_numpy(array) for name, array in pictures.items()}, masks, *(objects or [None])
            return
        for number, pair in enumerate(self.source() if callable(self.source) else self.source):
            if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
                got = f"{type(pair).__name__} of {len(pair)}" if isinstance(pair, tuple | list) else type(pair).__name__
                expected = "(inputs, labels), or (inputs, labels, regions)"
                raise DataError(
                    "data must come as pairs of inputs and labels", where=f"batch {number}", expected=expected, got=got
                )
            yield pair[0], pair[1], pair[2] if len(pair) == 3 else None


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
    numbers: list[Array | None] = field(default_factory=list)

    def inputs(self, batches: Iterable[tuple[Any, Any, Any]]) -> Iterator[Any]:
        """Hand the inputs on, keeping the labels and regions.

        Raises:
            DataError: If labels have a wrong form, another size than the pictures or another number of samples, or regions do.
        """
        for number, (inputs, labels, objects) in enumerate(batches):
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
                shape = (len(masks), *masks.shape[2:])
            self.numbers.append(self._regions(objects, shape, where))
            yield inputs

    def _regions(self, objects: Any, shape: tuple[int, ...], where: str) -> Array | None:
        if objects is None:
            return None
        if self.kind != "spatial":
            raise DataError("regions are parts of pictures", where=where, expected="kind='spatial'", got=f"kind='{self.kind}'")
        numbers = objects.detach().cpu().numpy() if isinstance(objects, Tensor) else np.asarray(objects)
        checked = given_regions(numbers, where)
        if checked.shape != shape:
            fix = "resize the regions to the labels, taking the nearest number"
            raise DataError(
                "regions have another size than the labels", where=where, expected=shape, got=checked.shape, fix=fix
            )
        self.digest.update(checked.astype(np.int64).tobytes())
        return checked

    def regions(self, read: Read) -> tuple[Regions | None, str]:
        """The regions that concepts are read over, or None for pixels; and why, in words.

        Objects that are found are read over if at least half of all labelled pixels lie on them, they are not whole images,
        and there are enough of them.

        Raises:
            DataError: If regions are asked for and there are none, or only some batches have them.
        """
        check_choice(read, "read", "dissect", ("auto", "regions", "pixels"))
        if self.kind != "spatial":
            if read == "regions":
                raise DataError("regions are parts of pictures", expected="kind='spatial'", got=f"kind='{self.kind}'")
            return None, "each place, since tokens and whole samples have no regions"
        if read == "pixels":
            return None, "pixels, as asked for"
        parts = [one for one in self.numbers if one is not None]
        if parts and len(parts) != len(self.numbers):
            got = f"{len(parts)} of {len(self.numbers)}"
            raise DataError("only some batches have regions", expected="all or none", got=got)
        if not self.collectors:
            raise DataError("there are no batches", expected="at least one")
        reason = "modalities have labels of their own"
        if len(self.collectors) == 1:
            concepts = next(iter(self.collectors.values())).concepts()
            regions = Regions(_small(np.concatenate(parts)), given=True) if parts else found_regions(concepts)
            reason = _unfit(regions, concepts)
            if not reason:
                return regions, "objects that came with the labels" if parts else "objects found in the labels"
        if read == "regions" or parts:
            raise DataError("objects cannot be read over", got=reason, fix="read='pixels'")
        return None, f"pixels, since {reason}"

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


def _unfit(regions: Regions, concepts: Concepts) -> str:
    """Why regions are no objects to tell concepts apart among; nothing if they are."""
    inside = regions.numbers > 0
    count = sum(len(np.unique(image[image > 0])) for image in regions.numbers)
    if not count:
        return "there are no regions"
    if all(image.all() and image.max() == image.min() for image in regions.numbers):
        return "every region is a whole image"
    if count < _FEWEST:
        return f"there are only {count} regions"
    labelled = np.asarray(concepts.members.any(axis=1))[concepts.codes(0, len(concepts))]
    if not regions.given and (labelled & inside).sum() < _ON_OBJECTS * labelled.sum():
        return "most labelled pixels do not lie on connected areas"
    return ""


def _small(numbers: Array) -> Array:
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


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
