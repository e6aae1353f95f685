"""Views cut from one array, or joined to one, hold the same numbers; what cannot be a view is said."""

import numpy as np
import pytest
import scipy.sparse as sp

from lego_fusion.data.views import is_multi_view, join_views, named_views, split_columns
from lego_fusion.errors import DataError, ParameterError


def test_joined_views_split_into_themselves() -> None:
    views = {"a": np.arange(6.0).reshape(3, 2), "b": np.ones((3, 4))}
    array, columns = join_views(views)
    for name, view in split_columns(array, columns).items():
        assert np.array_equal(view, views[name])
    sparse, columns = join_views(views | {"text": sp.csr_array(np.eye(3))})
    assert sp.issparse(sparse)
    assert np.array_equal(split_columns(sparse, columns)["text"].toarray(), np.eye(3))
    assert np.array_equal(split_columns(sparse, columns)["a"].toarray(), views["a"])


def test_column_names_and_numbers_name_the_same_view() -> None:
    array = np.arange(12.0).reshape(3, 4)
    by_name = split_columns(array, {"x": ["p", "r"]}, ["p", "q", "r", "s"])["x"]
    assert np.array_equal(by_name, split_columns(array, [[0, 2]])["view_0"])


def test_what_is_taken_for_several_views() -> None:
    assert is_multi_view({"a": None})
    assert is_multi_view([np.zeros((2, 2)), None])
    for one_array in ([[1.0, 2.0], [3.0, 4.0]], np.zeros((2, 2)), [], [np.zeros(3), np.zeros(3)]):
        assert not is_multi_view(one_array)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            {"a": np.zeros((3, 2)), "b": np.zeros((4, 2))},
            r"views differ in length \(view 'b'\): expected 3 rows as in 'a', got 4",
        ),
        ({"a": np.array([[0.0], [np.nan]])}, r"NaN or infinity \(inf\) \(view 'a'\): got 1 such values"),
        ({"a": sp.csr_array([[np.inf, 0.0]])}, "NaN or infinity"),
        ({"a": np.zeros(3)}, r"wrong shape \(view 'a'\)"),
        ({"a": np.array([["x"]])}, r"not an array of numbers \(view 'a'\)"),
        ({"a": None}, "there is no view"),
    ],
)
def test_bad_views(samples: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        named_views(samples)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [7]}, r"columns that do not exist \(view 'a'\): expected 4 columns"),
        ({"a": slice(2, 2)}, "do not exist"),
        ({"a": ["p"]}, "unknown column 'p'.*no column names"),
    ],
)
def test_bad_columns(columns: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        split_columns(np.zeros((3, 4)), columns)
