"""Feature files of a dataset folder or of elsewhere, ``features/<modality>/<video>.npy``, and the record of how each was made.

``dataset.yaml`` names the folder, as the person who imported gave it. Nothing outside that folder is ever opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from ..errors import DataError, ManifestError
from ..writing import written_whole
from .files import check_name, read_text
from .manifest import Manifest
from .segments import segment_spans

Array = np.ndarray[Any, np.dtype[Any]]
Provenance = dict[str, Any]
Problem = tuple[str, DataError]
"""Name of a check, and what it found wrong."""

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
    return _inside(path, root, "the dataset folder", "copy the features into the dataset folder")


def _inside(path: Path, root: Path, folder: str, fix: str) -> Path:
    """The path, unless a link leads out of the folder."""
    try:
        target, inside = path.resolve(), root.resolve()
    except (OSError, RuntimeError) as error:  # links that go in circles
        raise DataError(f"the path cannot be followed: {error}", where=path) from error
    if not target.is_relative_to(inside):
        what, expected, got = f"the feature file lies outside {folder}", f"a file inside {root}", f"a link to {target}"
        raise DataError(what, where=path, expected=expected, got=got, fix=fix)
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


def feature_problems(values: Array, manifest: Manifest, rows: int, where: str, *, numbers: bool = True) -> list[Problem]:
    """Everything wrong with one feature array: with its type and shape, then with its numbers.

    Args:
        values: The array as stored.
        manifest: What the dataset says about its modality.
        rows: T that the video's number of frames asks for.
        where: Modality and video, for the messages.
        numbers: Whether to look at the numbers too.
    """
    problems: list[Problem] = []

    def refuse(check: str, what: str, expected: str, got: object, fix: str) -> None:
        problems.append((check, DataError(what, where=where, expected=expected, got=got, fix=fix)))

    if values.dtype not in (np.dtype(np.float16), np.dtype(np.float32)):
        fix = "write the features with values.astype('float32')"
        refuse("dtype", "wrong number type of features", "float32 or float16", values.dtype, fix)
    if values.shape[1:] != manifest.row_shape:
        expected = f"shape (T, {', '.join(map(str, manifest.row_shape))}) as dataset.yaml says"
        if manifest.has_units:
            expected += f": {manifest.units} units ({manifest.unit_kind}) of {manifest.width} numbers and their presence"
        other = "units" if manifest.has_units else "crops"
        of_width = values.shape[2:] == manifest.row_shape[1:] if manifest.has_units else values.shape[-1:] == (manifest.width,)
        check = other if of_width else "width"
        fix = f"extract this modality again, or correct width and {other} in dataset.yaml"
        refuse(check, f"wrong width or {other} of features", expected, f"shape {values.shape}", fix)
    if values.ndim and len(values) != rows:
        expected = f"{rows} rows (frames / stride {manifest.stride}, rounded up)"
        fix = "extract this modality again, or correct frames in videos.csv"
        refuse("length-drift", "the number of feature rows does not fit the video", expected, f"{len(values)} rows", fix)
    if numbers and values.ndim and values.dtype.kind == "f":
        problems += value_problems(values, where)
        if manifest.has_units and {check for check, _ in problems} <= {"length-drift"}:
            problems += presence_problems(values, where)
    return problems


def value_problems(values: Array, where: str) -> Iterator[Problem]:
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


def presence_problems(stored: Array, where: str) -> Iterator[tuple[str, DataError]]:
    """A presence that is not 0 or 1, or an absent unit that is not zero, as ("presence", error)."""
    presence = np.asarray(stored[..., -1])
    wrong = (presence != 0) & (presence != 1)
    filled = (presence == 0) & (np.asarray(stored[..., :-1]) != 0).any(axis=-1)
    for bad, fault, expected in (
        (wrong, "the presence of a unit is not 0 or 1", "0 or 1 in the last column"),
        (filled, "an absent unit is not empty", "zeros beside presence 0"),
    ):
        if bad.any():
            row, unit = (int(place) for place in np.argwhere(bad)[0])
            got = f"{stored[row, unit, -1]:g} and {int(np.count_nonzero(stored[row, unit, :-1]))} numbers that are not 0"
            fix = "write the features with with_presence, or extract this modality again"
            yield "presence", DataError(fault, where=f"{where}, row {row}, unit {unit}", expected=expected, got=got, fix=fix)
            return


def manifest_problems(provenance: Mapping[str, Any] | None, manifest: Manifest, where: str) -> Iterator[Problem]:
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
        values: Features, shape (T, D), (T, C, D) with crops or (T, U, D + 1) with finer units (``data.segments``), T at least
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


Spans = Int[np.ndarray, "rows 2"]
LengthRule = Literal["error", "resample", "truncate", "repeat-last"]
LENGTH_RULES: tuple[LengthRule, ...] = get_args(LengthRule)


def _absolute(root: str) -> str:
    if not Path(root).is_absolute():
        raise ValueError(f"the folder must be an absolute path, got {root!r}")
    return root


AbsoluteFolder = Annotated[str, AfterValidator(_absolute)]


class FeatureLocation(BaseModel):
    """Where the feature files of one modality lie, and how their rows become the snippets of a video.

    Args:
        root: The folder, as an absolute path.
        files: Name of a file in it, with ``{video}`` for the video; a ``.npy`` file.
        length: What to do with T' rows in a video of T snippets: ``"error"`` refuses them; ``"resample"`` averages T equal
            spans of the rows (or copies, where T' < T); ``"truncate"`` leaves out the rows after T and refuses fewer;
            ``"repeat-last"`` repeats the last row and refuses more.
        stride: Frames from one row of these files to the next, where it is known: then rows meet snippets by time, and
            ``length`` speaks of the end of the video only.
        times: Like ``files``, for arrays of shape (T',) or (T', 2): first frame, and frame after the last, of every row.

    Example:
        >>> FeatureLocation(root="/data/ped2", files="{video}_i3d.npy").length
        'error'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: AbsoluteFolder
    files: str = "{video}.npy"
    length: LengthRule = "error"
    stride: int | None = Field(default=None, ge=1)
    times: str | None = None

    @field_validator("files", "times")
    @classmethod
    def _one_file_per_video(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        plain = pattern.replace("{video}", "", 1)
        path = PurePosixPath(pattern)
        if plain == pattern or "{" in plain or "}" in plain or "\\" in plain or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"a file name must hold {{video}} once and stay in its folder, got {pattern!r}")
        if path.suffix != ".npy":
            raise ValueError(f"only .npy files are read where they are, got {pattern!r}")
        return pattern

    def path(self, video: str, pattern: str | None = None) -> Path:
        """Path of the file of one video.

        Args:
            video: Name of the video.
            pattern: Name of the file; ``files`` without it.

        Raises:
            DataError: If the name is not safe, or a link leads out of the folder.
        """
        path = Path(self.root) / (pattern or self.files).replace("{video}", check_name(video, "video"))
        return _inside(path, Path(self.root), "its folder", "import again with the folder that holds the files themselves")

    def read(self, video: str, where: str) -> Array:
        """The file of one video, mapped into memory."""
        return load_features(self.path(video), where)

    def spans(self, video: str, source_rows: int, rows: int, stride: int, where: str) -> Spans | None:
        """Which rows of the file of a video are averaged for each of its snippets; None where there is nothing to do.

        Args:
            video: Name of the video.
            source_rows: T', rows of the file.
            rows: T, snippets of the video.
            stride: Frames from one snippet to the next.
            where: Modality and video, for the messages.

        Raises:
            DataError: If ``length`` does not say how T' rows become T.
        """
        if self.times is not None:
            spans = _by_times(load_features(self.path(video, self.times), where), source_rows, rows, stride, where)
        elif self.stride is not None and self.stride != stride:
            first = np.arange(rows) * stride
            spans = np.stack([first // self.stride, -(-(first + stride) // self.stride)], axis=1)
        elif source_rows != rows and self.length == "resample":
            return np.stack(segment_spans(source_rows, rows), axis=1)
        elif source_rows == rows:
            return None
        else:
            spans = np.stack([np.arange(rows), np.arange(rows) + 1], axis=1)
        return self._end(spans, source_rows, rows, where)

    def _end(self, spans: Spans, source_rows: int, rows: int, where: str) -> Spans:
        """Apply the rule to snippets after the last row, and to rows after the last snippet."""
        missing, surplus = spans[:, 0] >= source_rows, int(source_rows - spans[-1, 1])
        if missing.any() and self.length != "repeat-last":
            raise self._refusal("shorter", "repeat-last", f"none for the last {int(missing.sum())}", (source_rows, rows), where)
        if surplus > 0 and self.length != "truncate":
            raise self._refusal("longer", "truncate", f"{surplus} too many", (source_rows, rows), where)
        spans = np.minimum(spans, source_rows)
        spans[missing] = source_rows - 1, source_rows
        return spans

    def _refusal(self, fault: str, cure: str, missing: str, sizes: tuple[int, int], where: str) -> DataError:
        timed = self.times is not None or self.stride is not None
        return DataError(
            f"the features are {fault} than the video",
            where=where,
            expected=f"rows for {sizes[1]} snippets",
            got=f"{sizes[0]} rows, {missing}",
            fix=f"choose a rule by name: {cure!r}" + ("" if timed else " or 'resample'") + f" (it is {self.length!r} now)",
        )


class Member(BaseModel):
    """A dataset folder that another one was joined from.

    Args:
        root: The folder, as an absolute path.
        prefix: What stands before the names of its videos in the joined folder.

    Example:
        >>> Member(root="/data/ped2", prefix="ped2_").prefix
        'ped2_'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: AbsoluteFolder
    prefix: str = ""


def _by_times(times: Array, source_rows: int, rows: int, stride: int, where: str) -> Spans:
    """The rows whose time meets each snippet."""
    starts = times if times.ndim == 1 else times[:, 0]
    ends = np.append(starts[1:], rows * stride) if times.ndim == 1 else times[:, -1]
    fits = times.shape in ((source_rows,), (source_rows, 2)) and bool(np.all(np.diff(starts) > 0) and np.all(ends >= starts))
    if not fits:
        raise DataError(
            "the times do not fit the features",
            where=where,
            expected=f"one rising first frame (and the frame after the last) for each of {source_rows} rows",
            got=f"shape {times.shape}",
            fix="write the times again, in frames",
        )
    first = np.arange(rows) * stride
    begin = np.searchsorted(np.maximum.accumulate(ends), first, side="right")
    end = np.searchsorted(starts, first + stride, side="left")
    gaps = np.flatnonzero((begin >= end) & (begin < source_rows))
    if gaps.size:
        raise DataError(
            "the features leave a gap in the video",
            where=where,
            expected="rows without a gap",
            got=f"no row for frames {first[gaps[0]]} to {first[gaps[0]] + stride}",
            fix="extract the features for the whole video",
        )
    return np.stack([begin, np.maximum(end, begin + 1)], axis=1)


def read_rows(values: Array, spans: Spans | None) -> Array:
    """Average spans of rows; rows with one crop lose that axis, and any floating-point type but float16 becomes float32.

    Args:
        values: Features as stored, shape (T', D) or (T', C, D).
        spans: First row, and row after the last, of every snippet, shape (T, 2); None leaves all rows as they are.

    Returns:
        Features, shape (T, D) or (T, C, D); the same memory map where there is nothing to change.

    Example:
        >>> read_rows(np.array([[1.0], [2.0], [6.0]]), np.array([[0, 1], [1, 3]])).tolist()
        [[1.0], [4.0]]
    """
    if values.ndim == 3 and values.shape[1] == 1:
        values = values[:, 0]
    if spans is not None:
        values = np.stack([values[first:end].mean(axis=0, dtype=np.float64) for first, end in spans])
    small = values.dtype in (np.dtype(np.float16), np.dtype(np.float32))
    return values.astype(np.float32) if values.dtype.kind == "f" and not small else values
