"""A folder of pictures in several modalities with labels for every pixel, as ``dissect`` reads it.

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

import importlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Integer

from ..data.files import check_name, read_table
from ..errors import DataError, MissingExtraError

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
        concepts = tuple(values) or tuple(sorted({name for path in labels.values() for name in _array_names(path)}))
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
            return _masks(path, self.concepts)
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


def _array_names(path: Path) -> list[str]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return list(arrays.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"not a .npz file: {error}", where=path) from error


def _masks(path: Path, concepts: tuple[str, ...]) -> Array:
    names = _array_names(path)
    unknown = sorted(set(names) - set(concepts))
    if unknown:
        raise DataError("a mask of an unknown concept", where=path, expected=", ".join(concepts), got=unknown[0])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"not a .npz file of masks: {error}", where=path) from error
    shapes = {mask.shape for mask in found.values()}
    if len(shapes) != 1 or any(mask.ndim != 2 or mask.dtype != np.bool_ for mask in found.values()):
        got = ", ".join(f"{name} {mask.dtype} {mask.shape}" for name, mask in found.items()) or "nothing"
        raise DataError("not masks", where=path, expected="bool (H, W) for each concept, one size", got=got)
    absent = np.zeros(shapes.pop(), dtype=bool)
    return np.stack([found.get(concept, absent) for concept in concepts])


def _read(path: Path) -> Array:
    if path.suffix == ".npy":
        try:
            array: Array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"not an array file: {error}", where=path) from error
        return array
    try:
        opencv = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video") from error
    data = opencv.imdecode(np.frombuffer(path.read_bytes(), np.uint8), opencv.IMREAD_UNCHANGED)
    if data is None:
        raise DataError("not a picture that can be read", where=path, expected="PNG")
    colour: Array = data if data.ndim == 2 else data[..., [2, 1, 0, 3][: data.shape[2]]]
    return colour
