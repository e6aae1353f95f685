"""Inputs of a network with the labels of their places, from a folder or a loader, always in the same order.

```
scenes/
  rgb/NAME.png | NAME.npy       one folder for each modality, the same names in all
  depth/NAME.png | NAME.npy
  labels/NAME.png | NAME.npy    integer label of every pixel; or NAME.npz, one bool (H, W) array for each concept
  labels.csv                    value,name: what the labels mean; a value without a name belongs to no concept
  regions/NAME.png | NAME.npy   optional: number of the object of every pixel, 0 for none
```
"""

from __future__ import annotations

import hashlib
import importlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Integer
from torch import Tensor

from ..data.files import check_name, read_table
from ..errors import DataError, MissingExtraError, ParameterError
from .concepts import ConceptCollector, Concepts, Regions, found_regions, given_regions, smallest_type
from .recorder import Kind
from .records import FUSED

Array = np.ndarray[Any, np.dtype[Any]]
LABELS, LABEL_TABLE, REGIONS = "labels", "labels.csv", "regions"
_PICTURES, _MASKS = (".png", ".npy"), ".npz"


@dataclass(frozen=True)
class DissectionFolder:
    """Pictures and labels; make one with ``open``.

    Args:
        root: The folder.
        names: Of the pictures, in order.
        modalities: Names of the folders of pictures.
        values: Label values by concept; empty where masks name their concepts.
        concepts: Names.
        regions: Whether there are maps of object numbers.
    """

    root: Path
    names: tuple[str, ...]
    modalities: tuple[str, ...]
    values: dict[str, int]
    concepts: tuple[str, ...]
    regions: bool = False

    @classmethod
    def open(cls, root: str | Path) -> DissectionFolder:
        """Look at the names of the files; nothing is read but ``labels.csv`` and the lists of arrays in ``.npz`` files.

        Raises:
            DataError: If a folder is missing or empty, or a picture has no counterpart; it names the first.
        """
        root = Path(root)
        if not root.is_dir():
            raise DataError("there is no such folder", where=root, expected="a folder for each modality, and labels/")
        labels = _stems(root / LABELS, (*_PICTURES, _MASKS))
        folders = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != LABELS and path.name[0] != ".")
        modalities = tuple(check_name(name, "modality") for name in folders if name != REGIONS)
        if len(modalities) < 2:
            got = ", ".join(modalities) or "none"
            raise DataError("there is nothing to compare", where=root, expected="folders of two modalities or more", got=got)
        for modality in (*modalities, *({REGIONS} & set(folders))):
            stems = _stems(root / modality, _PICTURES)
            for missing, here in ((set(labels) - set(stems), modality), (set(stems) - set(labels), LABELS)):
                if missing:
                    raise DataError(
                        f"there is no '{min(missing)}'", where=root / here, fix="give every picture in every folder"
                    )
        endings = {path.suffix for path in labels.values()}
        if _MASKS in endings and len(endings) > 1:
            raise DataError("labels of two kinds", where=root / LABELS, expected="label maps, or masks", got=sorted(endings))
        values = _label_table(root / LABEL_TABLE) if (root / LABEL_TABLE).is_file() or _MASKS not in endings else {}
        concepts = tuple(values) or tuple(sorted({name for path in labels.values() for name in _loaded(path, names=True)}))
        return cls(root, tuple(sorted(labels)), modalities, values, concepts, REGIONS in folders)

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, modality: str, name: str) -> Float32[np.ndarray, "c h w"] | Array:
        """One picture as a network takes it: channels first; a PNG in [0, 1], an array as it is, float32.

        Raises:
            DataError: If it cannot be read.
        """
        array = _read(self._path(modality, name, _PICTURES))
        if array.ndim not in (2, 3):
            raise DataError(
                "not a picture", where=self.root / modality / name, expected="(H, W) or (H, W, C)", got=tuple(array.shape)
            )
        scale = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
        pictured = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        return np.ascontiguousarray(pictured, dtype=np.float32) / np.float32(scale)

    def masks(self, name: str) -> Bool[np.ndarray, "c h w"]:
        """Where each concept is.

        Raises:
            DataError: If the labels cannot be read, or hold an unknown concept.
        """
        path = self._path(LABELS, name, (*_PICTURES, _MASKS))
        if path.suffix == _MASKS:
            return _class_masks(path, self.concepts)
        labels = self._integers(path, "not a map of labels")
        wanted = np.array([self.values[concept] for concept in self.concepts])
        found: Bool[np.ndarray, "c h w"] = labels == wanted.reshape(-1, 1, 1)
        return found

    def objects(self, name: str) -> Integer[np.ndarray, "h w"]:
        """Number of the object of every pixel of one picture.

        Raises:
            DataError: If they cannot be read.
        """
        return self._integers(self._path(REGIONS, name, _PICTURES), "not a map of regions")

    def batches(self, size: int = 8) -> Iterator[tuple[Any, ...]]:
        """Pictures (b, C, H, W) by modality, masks (b, C, H, W), and object numbers (b, H, W) if there are any.

        Raises:
            DataError: If pictures of a modality differ in size, or their labels have another.
        """
        for start in range(0, len(self.names), size):
            names = self.names[start : start + size]
            pictures = {modality: self._stack(modality, names) for modality in self.modalities}
            yield pictures, self._stack(LABELS, names), *([self._stack(REGIONS, names)] if self.regions else [])

    def _integers(self, path: Path, wrong: str) -> Array:
        array = _read(path)
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise DataError(wrong, where=path, expected="integers (H, W)", got=f"{array.dtype} {array.shape}")
        return array

    def _stack(self, part: str, names: tuple[str, ...]) -> Array:
        whole = {LABELS: self.masks, REGIONS: self.objects}
        arrays = [whole[part](name) if part in whole else self.picture(part, name) for name in names]
        for name, array in zip(names, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise DataError("the size differs", where=self.root / part / name, expected=arrays[0].shape, got=array.shape)
        return np.stack(arrays)

    def _path(self, part: str, name: str, endings: tuple[str, ...]) -> Path:
        path = next(path for ending in endings if (path := self.root / part / f"{name}{ending}").is_file())
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise DataError("a link leads out of the folder", where=path, fix="copy the file")
        return path


def _stems(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in endings and path.name[0] != ".":
            if path.stem in found:
                raise DataError("a name comes twice", where=path, got=found[path.stem].name, fix="keep one of them")
            found[check_name(path.stem, "picture")] = path
    if not found:
        raise DataError("there are no files", where=folder, expected=" or ".join(f"*{ending}" for ending in endings))
    return found


def _label_table(path: Path) -> dict[str, int]:
    values: dict[str, int] = {}
    for line, row in read_table(path, ("value", "name")):
        try:
            value = int(row["value"])
        except ValueError:
            raise DataError(
                "not a label value", where=f"{path}, line {line}", expected="an integer", got=row["value"]
            ) from None
        if row["name"] in values or value in values.values() or not row["name"]:
            raise DataError("a label is not unique", where=f"{path}, line {line}", got=f"{value},{row['name']}")
        values[row["name"]] = value
    if not values:
        raise DataError("no label has a name", where=path, expected="rows of value,name")
    return values


def _loaded(path: Path, *, names: bool = False) -> Any:
    """The array of a ``.npy`` file; of a ``.npz`` file its arrays by name, or their names alone."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found as arrays:
            return list(arrays.files) if names else dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"not a {path.suffix} file: {error}", where=path) from error


def _class_masks(path: Path, concepts: tuple[str, ...]) -> Array:
    found = _loaded(path)
    unknown = sorted(set(found) - set(concepts))
    if unknown:
        raise DataError("a mask of an unknown concept", where=path, expected=", ".join(concepts), got=unknown[0])
    shapes = {mask.shape for mask in found.values()}
    if len(shapes) != 1 or any(mask.ndim != 2 or mask.dtype != np.bool_ for mask in found.values()):
        got = ", ".join(f"{name} {mask.dtype} {mask.shape}" for name, mask in found.items()) or "nothing"
        raise DataError("not masks", where=path, expected="bool (H, W) for each concept, one size", got=got)
    absent = np.zeros(shapes.pop(), dtype=bool)
    return np.stack([found.get(concept, absent) for concept in concepts])


def _read(path: Path) -> Array:
    if path.suffix == ".npy":
        return np.asarray(_loaded(path))
    try:
        opencv = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video") from error
    data = opencv.imdecode(np.frombuffer(path.read_bytes(), np.uint8), opencv.IMREAD_UNCHANGED)
    if data is None:
        raise DataError("not a picture that can be read", where=path, expected="PNG")
    colour: Array = data if data.ndim == 2 else data[..., [2, 1, 0, 3][: data.shape[2]]]
    return colour


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
            regions = Regions(smallest_type(np.concatenate(parts)), given=True) if parts else found_regions(concepts)
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
