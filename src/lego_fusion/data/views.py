"""Multi-view samples: several arrays with one row per sample each, or one array whose columns fall into groups.

A view is an array (rows, width), dense or sparse. Views are found by name: the keys of a dict, or ``view_0``, ``view_1``... for
a list. None stands for a view that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int64

from ..errors import DataError, ParameterError

View: TypeAlias = Any  # np.ndarray (rows, width) of float64, or a scipy CSR array of the same


class MultiView(Mapping[str, Any]):
    """Views by name whose rows are indexed together: what cross-validation, grid search and ``train_test_split`` need.

    Args:
        samples: A dict or list of arrays, sparse arrays or data frames of two dimensions, with one row per sample each. What a
            view is (dense, sparse, with column names) stays as it is.

    Raises:
        DataError: As ``named_views``.

    Example:
        >>> samples = MultiView({"a": np.zeros((3, 2)), "b": np.ones((3, 1))})
        >>> samples.shape, samples[[0, 2]]["b"].shape
        ((3, 3), (2, 1))
    """

    def __init__(self, samples: Mapping[str, Any] | Sequence[Any]) -> None:
        checked = named_views(samples)
        self._views = {name: sp.csr_array(view) if sp.issparse(view) else view for name, view in _by_name(samples).items()}
        self.shape = (next(iter(checked.values())).shape[0], sum(view.shape[1] for view in checked.values()))

    def __getitem__(self, key: Any) -> Any:
        """A view by its name, or the samples of some rows: a slice, a mask or their numbers."""
        if isinstance(key, str):
            return self._views[key]
        rows = key[0] if isinstance(key, tuple) else key
        rows = rows if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))
        return MultiView({name: getattr(view, "iloc", view)[rows] for name, view in self._views.items()})

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def is_multi_view(samples: object) -> bool:
    """Whether samples come as a dict or list of two-dimensional arrays, not as one array."""
    if sp.issparse(samples):  # one array, though a dictionary of keys is a Mapping too
        return False
    if isinstance(samples, Mapping):
        return True
    if not isinstance(samples, list | tuple):
        return False
    there = [view for view in samples if view is not None]
    return bool(there) and all(len(getattr(view, "shape", ())) == 2 for view in there)


def views_of_frame(samples: Any) -> dict[str, Any] | None:
    """A data frame with several levels of column names as a view for each name of the top level; None for anything else."""
    if getattr(getattr(samples, "columns", None), "nlevels", 1) < 2:
        return None
    return {str(name): samples[name] for name in dict.fromkeys(samples.columns.get_level_values(0))}


def column_names(samples: Mapping[str, Any] | Sequence[Any]) -> dict[str, tuple[str, ...]]:
    """The column names of the views that are data frames; by name of the view."""
    frames = {name: view.columns for name, view in _by_name(samples).items() if hasattr(view, "columns")}
    return {name: tuple(map(str, columns)) for name, columns in frames.items()}


def named_views(samples: Mapping[str, Any] | Sequence[Any], *, missing_rows: bool = False) -> dict[str, View]:
    """Views by name, those that are None left out, each checked: two-dimensional, finite, as many rows as the others.

    Args:
        samples: A dict, or a list, whose views are ``view_0``, ``view_1``...
        missing_rows: Whether a row may be NaN as a whole: this sample does not have the view.

    Raises:
        DataError: If a view is not two-dimensional, holds NaN or infinity, or differs in rows, or in the row labels where both
            are data frames; or if there is no view.

    Example:
        >>> [(name, view.shape) for name, view in named_views([np.zeros((3, 2)), np.zeros((3, 5))]).items()]
        [('view_0', (3, 2)), ('view_1', (3, 5))]
    """
    given = _by_name(samples)
    _check_row_labels(given)
    views = {name: _checked(name, view, missing_rows) for name, view in given.items()}
    if not views:
        raise DataError("there is no view", expected="at least one array", fix="give a dict or list of arrays (rows, width)")
    first = next(iter(views))
    for name, view in views.items():
        if view.shape[0] != views[first].shape[0]:
            expected = f"{views[first].shape[0]} rows as in '{first}'"
            raise DataError("views differ in length", where=f"view '{name}'", expected=expected, got=view.shape[0])
    return views


def _by_name(samples: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if not isinstance(samples, Mapping):
        samples = {f"view_{number}": view for number, view in enumerate(samples)}
    return {str(name): view for name, view in samples.items() if view is not None}


def _check_row_labels(views: Mapping[str, Any]) -> None:
    """Data frames are about the same samples in the same order."""
    labels = {name: view.index for name, view in views.items() if hasattr(view, "iloc")}
    for name, index in labels.items():
        first, of_first = next(iter(labels.items()))
        if len(index) == len(of_first) and not index.equals(of_first):
            place = int(np.argmax(np.asarray(index != of_first)))
            expected, fix = f"the row labels of '{first}'", "bring the frames into one order: frame.loc[other.index]"
            got = f"row {place} is {index[place]!r} here and {of_first[place]!r} there"
            raise DataError("views differ in their rows", where=f"view '{name}'", expected=expected, got=got, fix=fix)


def column_groups(samples: Any, view_columns: Mapping[str, Any] | Sequence[Any] | None) -> dict[str, Int64[np.ndarray, " w"]]:
    """The columns of each view of one array, by number.

    Args:
        samples: (rows, width): an array, a sparse one, or a data frame, whose columns have names.
        view_columns: For each view a slice (of numbers, or of names, both ends included), a mask of all columns, a list
            of column numbers or names, or a callable that gives one of these for the samples, as those of
            ``sklearn.compose.make_column_selector`` do. None makes the whole array one view.

    Raises:
        ParameterError: If a group is empty, or names a column that does not exist.

    Example:
        >>> groups = column_groups(np.zeros((4, 3)), {"a": slice(0, 2), "b": [False, True, True]})
        >>> groups["a"].tolist(), groups["b"].tolist()
        ([0, 1], [1, 2])
    """
    width = np.shape(samples)[1]
    if view_columns is None:
        return {"view_0": np.arange(width)}
    if not isinstance(view_columns, Mapping):
        view_columns = {f"view_{number}": group for number, group in enumerate(view_columns)}
    names = list(samples.columns) if hasattr(samples, "columns") else None
    return {
        str(name): _columns(name, group(samples) if callable(group) else group, width, names)
        for name, group in view_columns.items()
    }


def check_finite(view: View, where: str) -> None:
    """Raise ``DataError`` where a view holds NaN or infinity."""
    numbers = view.data if sp.issparse(view) else view
    if not np.isfinite(numbers).all():
        wrong = int((~np.isfinite(numbers)).sum())
        fix = "impute or drop them first, or leave the whole view out where it is missing"
        raise DataError("features contain NaN or infinity (inf)", where=where, got=f"{wrong} such values", fix=fix)


def _checked(name: str, view: Any, missing_rows: bool) -> View:
    where = f"view '{name}'"
    try:
        view = sp.csr_array(view, dtype=np.float64) if sp.issparse(view) else np.asarray(view, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("a view is not an array of numbers", where=where, got=type(view).__name__) from error
    if view.ndim != 2 or view.shape[1] == 0:
        raise DataError("a view has the wrong shape", where=where, expected="(rows, width), width > 0", got=view.shape)
    absent = np.zeros(view.shape[0], np.bool_) if sp.issparse(view) else np.isnan(view).all(axis=1)
    check_finite(view[~absent] if missing_rows and absent.any() else view, where)
    return view


def _columns(name: object, group: Any, width: int, names: Sequence[str] | None) -> Int64[np.ndarray, " w"]:
    if isinstance(group, slice):
        start, stop = (_column_number(name, end, names) if isinstance(end, str) else end for end in (group.start, group.stop))
        stop = stop + 1 if isinstance(group.stop, str) else stop
        numbers = list(range(*slice(start, stop, group.step).indices(width)))
    else:
        listed = _listed(group)
        mask = bool(listed) and all(isinstance(column, bool | np.bool_) for column in listed)
        if mask and len(listed) != width:
            where, got = f"view '{name}'", f"{len(listed)} values"
            raise ParameterError("a mask in view_columns has the wrong length", where=where, expected=f"{width}", got=got)
        numbers = np.flatnonzero(listed).tolist() if mask else [_column_number(name, column, names) for column in listed]
    if not numbers or min(numbers) < -width or max(numbers) >= width:
        got = group if numbers else f"no column from {group!r}"
        raise ParameterError(
            "view_columns names columns that do not exist", where=f"view '{name}'", expected=f"{width} columns", got=got
        )
    return np.asarray(numbers, dtype=np.int64) % width


def _listed(group: Any) -> list[Any]:
    return [group] if isinstance(group, str | int | np.integer) and not isinstance(group, bool) else list(group)


def _column_number(view: object, column: Any, names: Sequence[str] | None) -> int:
    if isinstance(column, int | np.integer) and not isinstance(column, bool):
        return int(column)
    if not isinstance(column, str):
        expected = "a number or a name for each column, or one mask of all columns"
        raise ParameterError("view_columns is not of columns", where=f"view '{view}'", expected=expected, got=repr(column))
    if names is None or column not in names:
        known = "column numbers: this array has no column names" if names is None else ", ".join(names)
        raise ParameterError(f"view_columns names an unknown column {column!r}", where=f"view '{view}'", expected=known)
    return list(names).index(column)
