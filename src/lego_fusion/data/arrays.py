"""Features in ``.npz`` and HDF5 files, which cannot be mapped into memory where they are: they are copied once."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, MissingExtraError
from .files import check_name

Array = np.ndarray[Any, np.dtype[Any]]
HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class ArrayFiles:
    """Features of one modality in ``.npz`` files, one for each video, or in one HDF5 file.

    Args:
        path: A folder of ``<video>.npz``, or an HDF5 file.
        key: Name of the array: in a ``.npz`` file it may be left out if there is one array only; in HDF5 it holds
            ``{video}``, which alone is the default.
    """

    path: Path
    key: str = ""

    def read(self, video: str, where: str) -> Array:
        """The array of one video.

        Raises:
            DataError: If the file or the array is missing, or holds no floating-point numbers.
            MissingExtraError: If HDF5 is needed and h5py is not installed.
        """
        name = check_name(video, "video")
        values = self._hdf5(name, where) if self.path.suffix in HDF5_ENDINGS else self._npz(name, where)
        if values.dtype.kind != "f":
            raise DataError("not features", where=where, expected="floating-point numbers", got=values.dtype)
        return values

    def _npz(self, video: str, where: str) -> Array:
        path = self.path / f"{video}.npz"
        if not path.is_file():
            raise DataError("there is no feature file", where=where, expected=path)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                key = self.key or (arrays.files[0] if len(arrays.files) == 1 else "")
                if key not in arrays.files:
                    got = ", ".join(arrays.files)
                    raise DataError("which array of the file?", where=path, expected="its name", got=got, fix="give the key")
                values: Array = arrays[key]
                return values
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"not a .npz file of numbers: {error}", where=path) from error

    def _hdf5(self, video: str, where: str) -> Array:
        try:
            import h5py
        except ImportError as error:
            raise MissingExtraError("h5py", "formats") from error
        key = (self.key or "{video}").replace("{video}", video)
        try:
            with h5py.File(self.path, "r") as file:
                found = file.get(key)
                if not isinstance(found, h5py.Dataset):
                    raise DataError("there is no such array in the file", where=where, expected=f"'{key}' in {self.path}")
                return np.asarray(found[()])
        except OSError as error:
            raise DataError(f"not an HDF5 file: {error}", where=self.path) from error
