"""What a recorder kept: arrays by modality and level, in memory or memory-mapped from a folder of plain files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError
from ..writing import written_whole

Key = tuple[str, str]  # modality, level
FLOATS = ("float16", "float32")
INDEX = "recording.json"


@dataclass(frozen=True, eq=False)
class Recording:
    """Activations of the same N samples in every layer.

    Args:
        arrays: (N, K), (N, K, h, w) or (N, K, T, 1) by (modality, level).
        layers: Name of the layer of each.
        kind: "pooled", "spatial" or "tokens".
        image_size: Height and width of what the network was given, where that was an image.
    """

    arrays: dict[Key, NDArray[Any]]
    layers: dict[Key, str]
    kind: str
    image_size: tuple[int, int] | None = None

    def __getitem__(self, key: Key) -> NDArray[Any]:
        """Activations of (modality, level)."""
        if key not in self.arrays:
            have = ", ".join(" ".join(name) for name in self.arrays)
            raise DataError(f"nothing was recorded for {' '.join(key)}", expected=f"one of {have}")
        return self.arrays[key]

    @property
    def modalities(self) -> tuple[str, ...]:
        """In the order they were given."""
        return tuple(dict.fromkeys(modality for modality, _ in self.arrays))

    def levels(self, modality: str) -> tuple[str, ...]:
        """Levels of a modality, in order."""
        return tuple(level for name, level in self.arrays if name == modality)

    def pooled(self) -> dict[str, NDArray[Any]]:
        """Mean over places (N, K) by "modality level", as the similarities take it."""
        return {
            " ".join(key): array.astype(np.float32) if array.ndim == 2 else place_means(array)
            for key, array in self.arrays.items()
        }

    @classmethod
    def open(cls, folder: str | Path) -> Recording:
        """Open a folder that a recorder wrote; the arrays stay on disk until they are read.

        Raises:
            DataError: If the folder is not such a recording.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            rows = index["arrays"]
            keys = [(row["modality"], row["level"]) for row in rows]
            arrays = [np.load(folder / row["file"], mmap_mode="r", allow_pickle=False) for row in rows]
            size = index["image_size"]
            layers = {key: row["layer"] for key, row in zip(keys, rows, strict=True)}
            kind = index["kind"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError("not a recording", where=folder, expected=f"{INDEX} and its .npy files", got=error) from error
        return cls(dict(zip(keys, arrays, strict=True)), layers, kind, (size[0], size[1]) if size else None)


def place_means(array: NDArray[Any], samples: int = 32) -> NDArray[Any]:
    """Means over places (N, K) in float32 of (N, K, h, w), read so many samples at a time."""
    parts = [
        torch.from_numpy(np.array(array[start : start + samples])).float().mean((2, 3))
        for start in range(0, len(array), samples)
    ]
    return torch.cat(parts).numpy()


def append_rows(file: BinaryIO, rows: NDArray[Any], *, new: bool) -> None:
    """Write rows to an open ``.npy`` file whose header is completed by ``finish_rows``."""
    if new:
        file.write(_header((0, *rows.shape[1:]), str(rows.dtype)))
    file.write(np.ascontiguousarray(rows).data)


def finish_rows(file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
    """Put the number of rows into the header."""
    file.seek(0)
    file.write(_header(shape, dtype))


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """A header whose length does not depend on the number of rows: the format leaves room for the first axis to grow."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": description, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def write_index(folder: Path, layers: Mapping[Key, str], kind: str, image_size: tuple[int, int] | None) -> None:
    """Say which file holds which layer."""
    rows = [
        {"modality": modality, "level": level, "layer": layer, "file": f"{place:03d}.npy"}
        for place, ((modality, level), layer) in enumerate(layers.items())
    ]
    text = json.dumps({"kind": kind, "image_size": image_size, "arrays": rows}, indent=1)
    with written_whole(folder / INDEX) as file:
        file.write(text.encode())
