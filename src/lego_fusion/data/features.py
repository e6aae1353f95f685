"""Feature files of a dataset folder: ``features/<modality>/<video>.npy``, and beside each a record of how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import DataError, ManifestError
from ..writing import written_whole
from .files import check_name, read_text
from .manifest import Manifest

Array = np.ndarray[Any, np.dtype[Any]]
Provenance = dict[str, Any]

# Rows looked at together when values are checked: enough to be fast, few enough to keep a long video out of memory.
_ROWS_AT_ONCE = 4096


def feature_path(root: str | Path, modality: str, video: str, suffix: str = ".npy") -> Path:
    """Path of one feature file (or, with suffix ``".json"``, of its provenance) inside a dataset folder.

    Args:
        root: The dataset folder.
        modality: Name of the feature set.
        video: Name of the video.
        suffix: ``".npy"`` or ``".json"``.

    Raises:
        DataError: If a name is not safe, or a link under ``features`` leads out of the folder.

    Example:
        >>> feature_path("my-dataset", "motion", "v01").as_posix()
        'my-dataset/features/motion/v01.npy'
    """
    root = Path(root)
    path = root / "features" / check_name(modality, "modality") / f"{check_name(video, 'video')}{suffix}"
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # links that go in circles
        raise DataError(f"the path cannot be followed: {error}", where=path) from error
    if not target.is_relative_to(root.resolve()):
        raise DataError(
            "the feature file lies outside the dataset folder",
            where=path,
            expected=f"a file inside {root}",
            got=f"a link to {target}",
            fix="copy the features into the dataset folder",
        )
    return path


def load_features(path: Path, where: str) -> Array:
    """Map a ``.npy`` file into memory without reading it, pickles off.

    Args:
        path: The file.
        where: Modality and video, for the message.

    Raises:
        DataError: If the file is missing, truncated, empty, or not a ``.npy`` file of numbers.
    """
    if not path.is_file():
        raise DataError("there is no feature file", where=where, expected=path, fix="extract this modality again")
    try:
        return np.lib.format.open_memmap(path, mode="r")  # never unpickles
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise DataError(
            "the feature file is truncated or not a .npy file of numbers",
            where=where,
            expected="a complete .npy file",
            got=f"{path.stat().st_size} bytes at {path} ({error})",
            fix="extract this modality again",
        ) from error


def form_problems(values: Array, manifest: Manifest, rows: int, where: str) -> Iterator[tuple[str, DataError]]:
    """Everything wrong with the type and shape of one feature array, as (name of the check, error).

    Args:
        values: The array as stored.
        manifest: What the dataset says about its modality.
        rows: T that the video's number of frames asks for.
        where: Modality and video, for the messages.
    """
    if values.dtype not in (np.dtype(np.float16), np.dtype(np.float32)):
        yield (
            "dtype",
            DataError(
                "wrong number type of features",
                where=where,
                expected="float32 or float16",
                got=values.dtype,
                fix="write the features with values.astype('float32')",
            ),
        )
    if values.shape[1:] != manifest.row_shape:
        yield _shape_problem(values, manifest, where)
    if values.ndim and len(values) != rows:
        yield (
            "length-drift",
            DataError(
                "the number of feature rows does not fit the video",
                where=where,
                expected=f"{rows} rows (frames / stride {manifest.stride}, rounded up)",
                got=f"{len(values)} rows",
                fix="extract this modality again, or correct frames in videos.csv",
            ),
        )


def _shape_problem(values: Array, manifest: Manifest, where: str) -> tuple[str, DataError]:
    expected = f"shape (T, {', '.join(map(str, manifest.row_shape))}) as dataset.yaml says"
    if manifest.has_units:
        expected += f": {manifest.units} units ({manifest.unit_kind}) of {manifest.width} numbers and their presence"
        check = "width" if values.shape[2:] != manifest.row_shape[1:] else "units"
        what, fields = "wrong width or units of features", "width and units"
    else:
        check = "width" if values.shape[-1:] != (manifest.width,) else "crops"
        what, fields = "wrong width or crops of features", "width and crops"
    fix = f"extract this modality again, or correct {fields} in dataset.yaml"
    return check, DataError(what, where=where, expected=expected, got=f"shape {values.shape}", fix=fix)


def value_problems(values: Array, where: str) -> Iterator[tuple[str, DataError]]:
    """The first row that holds NaN or infinity, as ("not-finite", error); nothing if all numbers are finite."""
    for start in range(0, len(values), _ROWS_AT_ONCE):
        finite = np.isfinite(values[start : start + _ROWS_AT_ONCE]).reshape(min(_ROWS_AT_ONCE, len(values) - start), -1)
        bad = np.flatnonzero(~finite.all(axis=1))
        if bad.size:
            yield (
                "not-finite",
                DataError(
                    "features hold NaN or infinity",
                    where=f"{where}, row {start + bad[0]}",
                    expected="finite numbers",
                    got=values[start + bad[0]][~finite[bad[0]].reshape(values.shape[1:])][0],
                    fix="extract this modality again",
                ),
            )
            return


def manifest_problems(provenance: Mapping[str, Any] | None, manifest: Manifest, where: str) -> Iterator[tuple[str, DataError]]:
    """A provenance that names another manifest than the dataset, as ("manifest-mismatch", error)."""
    made_with = None if provenance is None else provenance.get("manifest_hash")
    if made_with is not None and made_with != manifest.hash:
        yield (
            "manifest-mismatch",
            ManifestError(
                "the features were made in another way than dataset.yaml says",
                where=where,
                expected=f"manifest {manifest.hash[:12]}",
                got=f"manifest {str(made_with)[:12]}",
                fix="extract this modality again with the settings in dataset.yaml",
            ),
        )


def write_features(
    root: str | Path,
    modality: str,
    video: str,
    values: Float[np.ndarray, "rows ..."],
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write the features of one video and modality into a dataset folder, whole or not at all.

    Args:
        root: The dataset folder.
        modality: Name of the feature set.
        video: Name of the video.
        values: Features, shape (T, D), (T, C, D) with crops or (T, U, D + 1) with finer units (``data.units``), T at least
            1, finite; stored as float32.
        provenance: How they were made, as JSON values: ``manifest_hash``, ``source_sha256``, ``fps`` and ``frames``
            are read by other parts of the package; ``rows`` is added. Written beside the features, after them; without
            it, a record left by earlier features is removed.

    Returns:
        The path of the feature file.

    Raises:
        DataError: If the array is no feature set, the provenance is not JSON, or the path leaves the folder.

    Example:
        >>> import tempfile
        >>> root = tempfile.mkdtemp()
        >>> path = write_features(root, "motion", "v01", np.ones((3, 2)), {"frames": 48})
        >>> np.load(path).dtype, read_provenance(root, "motion", "v01")
        (dtype('float32'), {'frames': 48, 'rows': 3})
    """
    where = f"modality '{modality}', video '{video}'"
    path, record = (feature_path(root, modality, video, suffix) for suffix in (".npy", ".json"))
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError("not a feature set", where=where, expected="(T, D) or (T, C, D), none 0", got=values.shape)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity and is refused below
        stored = np.ascontiguousarray(values, dtype=np.float32)
    for _, problem in value_problems(stored, where):
        raise problem
    text = None if provenance is None else _provenance_text({**provenance, "rows": len(stored)}, where)
    record.unlink(missing_ok=True)
    with written_whole(path) as file:
        np.save(file, stored, allow_pickle=False)
    if text is not None:
        with written_whole(record) as file:
            file.write(text.encode())
    return path


def read_provenance(root: str | Path, modality: str, video: str) -> Provenance | None:
    """How the features of one video and modality were made; None where nothing is recorded.

    Raises:
        DataError: If the record is not a JSON object, or the path leaves the folder.
    """
    path = feature_path(root, modality, video, ".json")
    if not path.exists():
        return None
    try:
        record = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"the provenance is not JSON: {error}", where=path, fix="extract again") from error
    if not isinstance(record, dict):
        raise DataError("the provenance is not a JSON object", where=path, got=type(record).__name__)
    return record


def _provenance_text(provenance: Provenance, where: str) -> str:
    try:
        return json.dumps(provenance, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"the provenance is not JSON: {error}", where=where, fix="use plain numbers and text") from error
