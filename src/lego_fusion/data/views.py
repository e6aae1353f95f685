"""Multi-view samples: several arrays with one row per sample each, or one array whose columns fall into groups.

A view is an array (rows, width), dense or sparse. Views are found by name: the keys of a dict, or ``view_0``, ``view_1``... for
a list. None stands for a view that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

from ..errors import DataError, ParameterError

View: TypeAlias = Any  # np.ndarray (rows, width) of float64, or a scipy CSR array of the same


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


def named_views(samples: Mapping[str, Any] | Sequence[Any]) -> dict[str, View]:
    """Views by name, those that are None left out, each checked: two-dimensional, finite, as many rows as the others.

    Raises:
        DataError: If a view is not two-dimensional, holds NaN or infinity, or differs in rows; or if there is no view.

    Example:
        >>> [(name, view.shape) for name, view in named_views([np.zeros((3, 2)), np.zeros((3, 5))]).items()]
        [('view_0', (3, 2)), ('view_1', (3, 5))]
    """
    if not isinstance(samples, Mapping):
        samples = {f"view_{number}": view for number, view in enumerate(samples)}
    views = {str(name): _checked(str(name), view) for name, view in samples.items() if view is not None}
    if not views:
        raise DataError("there is no view", expected="at least one array", fix="give a dict or list of arrays (rows, width)")
    first = next(iter(views))
    for name, view in views.items():
        if view.shape[0] != views[first].shape[0]:
            expected = f"{views[first].shape[0]} rows as in '{first}'"
            raise DataError("views differ in length", where=f"view '{name}'", expected=expected, got=view.shape[0])
    return views


def split_columns(
    samples: View, view_columns: Mapping[str, Any] | Sequence[Any] | None, names: Sequence[str] | None = None
) -> dict[str, View]:
    """Cut one array into views by groups of columns.

    Args:
        samples: (rows, width), dense or CSR.
        view_columns: For each view a slice, a list of column numbers or, where ``names`` are given, of column names;
            None makes the whole array one view.
        names: Name of every column.

    Raises:
        ParameterError: If a group is empty or names a column that does not exist.

    Example:
        >>> {name: view.shape[1] for name, view in split_columns(np.zeros((4, 5)), {"a": slice(0, 2), "b": [2, 4]}).items()}
        {'a': 2, 'b': 2}
    """
    if view_columns is None:
        return {"view_0": samples}
    if not isinstance(view_columns, Mapping):
        view_columns = {f"view_{number}": group for number, group in enumerate(view_columns)}
    return {str(name): samples[:, _columns(name, group, samples.shape[1], names)] for name, group in view_columns.items()}


def join_views(samples: Mapping[str, Any] | Sequence[Any]) -> tuple[View, dict[str, slice]]:
    """Put views beside each other in one array, for tools that index rows: cross-validation, pipelines, grid search.

    Returns:
        The array (CSR where any view is sparse) and the ``view_columns`` that cut it again.

    Example:
        >>> samples, columns = join_views({"a": np.zeros((3, 2)), "b": np.ones((3, 1))})
        >>> samples.shape, columns
        ((3, 3), {'a': slice(0, 2, None), 'b': slice(2, 3, None)})
    """
    views = named_views(samples)
    ends = np.cumsum([view.shape[1] for view in views.values()]).tolist()
    columns = {name: slice(end - view.shape[1], end) for (name, view), end in zip(views.items(), ends, strict=True)}
    if any(sp.issparse(view) for view in views.values()):
        return sp.csr_array(sp.hstack([sp.csr_array(view) for view in views.values()])), columns
    return np.hstack(list(views.values())), columns


def check_finite(view: View, where: str) -> None:
    """Raise ``DataError`` where a view holds NaN or infinity."""
    numbers = view.data if sp.issparse(view) else view
    if not np.isfinite(numbers).all():
        wrong = int((~np.isfinite(numbers)).sum())
        fix = "impute or drop them first, or leave the whole view out where it is missing"
        raise DataError("features contain NaN or infinity (inf)", where=where, got=f"{wrong} such values", fix=fix)


def _checked(name: str, view: Any) -> View:
    where = f"view '{name}'"
    try:
        view = sp.csr_array(view, dtype=np.float64) if sp.issparse(view) else np.asarray(view, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("a view is not an array of numbers", where=where, got=type(view).__name__) from error
    if view.ndim != 2 or view.shape[1] == 0:
        raise DataError("a view has the wrong shape", where=where, expected="(rows, width), width > 0", got=view.shape)
    check_finite(view, where)
    return view


def _columns(name: object, group: Any, width: int, names: Sequence[str] | None) -> np.ndarray:
    if isinstance(group, slice):
        numbers = list(range(*group.indices(width)))
    else:
        numbers = [_column_number(name, column, names) for column in _listed(group)]
    if not numbers or min(numbers) < -width or max(numbers) >= width:
        got = group if numbers else f"no column from {group!r}"
        raise ParameterError(
            "view_columns names columns that do not exist", where=f"view '{name}'", expected=f"{width} columns", got=got
        )
    return np.asarray(numbers)


def _listed(group: Any) -> Iterable[Any]:
    return [group] if isinstance(group, str | int) else list(group)


def _column_number(view: object, column: Any, names: Sequence[str] | None) -> int:
    if not isinstance(column, str):
        return int(column)
    if names is None or column not in names:
        known = "column numbers: this array has no column names" if names is None else ", ".join(names)
        raise ParameterError(f"view_columns names an unknown column {column!r}", where=f"view '{view}'", expected=known)
    return list(names).index(column)
