"""Views cut from one array, or joined to one, hold the same numbers; what cannot be a view is said."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lego_fusion.data.views import MultiView, column_groups, is_multi_view, named_views
from lego_fusion.errors import DataError, ParameterError


def test_rows_of_all_views_are_indexed_together_and_views_stay_what_they_are() -> None:
    frame = pd.DataFrame(np.arange(6.0).reshape(3, 2), columns=["p", "q"])
    views = MultiView({"a": frame, "text": sp.coo_array(np.eye(3)), "c": np.arange(3.0)[:, None], "gone": None})
    assert views.shape == (3, 6)
    for rows in ([2, 0], np.array([True, False, True]), slice(0, 3, 2)):
        some = views[rows, ...]
        expected = np.arange(3)[rows]
        assert list(some["a"].columns) == ["p", "q"]
        assert np.array_equal(some["a"].to_numpy(), frame.to_numpy()[rows])
        assert np.array_equal(some["text"].toarray(), np.eye(3)[rows])
        assert some["c"].ravel().tolist() == expected.tolist()
    assert views[1].shape == (1, 6)
    assert "gone" not in views


def test_column_names_numbers_masks_and_selectors_name_the_same_view() -> None:
    frame = pd.DataFrame(np.zeros((3, 4)), columns=["p", "q", "r", "s"])
    for group in (
        [1, 2],
        ["q", "r"],
        slice("q", "r"),
        slice(1, 3),
        [False, True, True, False],
        np.array([False, True, True, False]),
        np.array([-3, -2]),
        lambda samples: [name for name in samples.columns if name in "qr"],
    ):
        assert column_groups(frame, {"x": group})["x"].tolist() == [1, 2]
    assert column_groups(frame, {"x": "q"})["x"].tolist() == [1]
    assert column_groups(frame, None)["view_0"].tolist() == [0, 1, 2, 3]


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
        ({"a": [True, False]}, r"mask in view_columns has the wrong length \(view 'a'\): expected 4, got 2 values"),
        ({"a": [True, 2]}, "not of columns.*got True"),
        ({"a": [1.5]}, "not of columns.*got 1.5"),
    ],
)
def test_bad_columns(columns: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        column_groups(np.zeros((3, 4)), columns)
