"""Finer units: presence on disk, what is refused, and segments of units against loops."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_fusion.data.dataset import write_dataset
from lego_fusion.data.doctor import diagnose
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.segments import MOST_UNITS, segment_bounds, split_presence, to_segments, units_to_segments, with_presence
from lego_fusion.data.tables import DatasetConfig, VideoRecord
from lego_fusion.errors import DataError

U, D = 6, 2
CELLS = Manifest(modality="cells", extractor="x", version="1", width=D, unit_kind="cell", units=U, grid=(2, 3), stride=8)
WORDS = CELLS.model_copy(update={"modality": "words", "unit_kind": "word", "grid": None})


def stored(rows: int, seed: int = 0, share: float = 0.6) -> np.ndarray:
    random = np.random.default_rng(seed)
    return with_presence(random.normal(size=(rows, U, D)).astype(np.float32), random.random((rows, U)) < share)


def test_what_is_absent_is_zero_and_what_is_zero_may_be_present():
    values, present = np.full((1, 3, 2), 7.0), np.array([[True, False, True]])
    values[0, 0] = 0.0
    joined = with_presence(values, present)
    assert joined.tolist() == [[[0, 0, 1], [0, 0, 0], [7, 7, 1]]] and joined.dtype == np.float32
    back, there = split_presence(joined)
    assert there.tolist() == present.tolist() and back[0, 2].tolist() == [7, 7]


@given(rows=st.integers(1, 12), nodes=st.integers(1, 9), seed=st.integers(0, 5), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_units_with_a_place_are_averaged_where_they_are(rows, nodes, seed, share):
    given_units = stored(rows, seed, share)
    got, bounds = units_to_segments(given_units, nodes, CELLS), segment_bounds(rows, nodes)
    assert got.shape == (nodes, U, D + 1)
    for node in range(nodes):
        first, end = bounds[node], max(bounds[node + 1], bounds[node] + 1)
        for unit in range(U):
            there = [row[:D] for row in given_units[first:end, unit] if row[D]]
            expected = [*np.mean(there, axis=0), 1] if there else [0] * (D + 1)
            np.testing.assert_allclose(got[node, unit], expected, atol=1e-6)


def test_all_present_cells_are_segments_as_ever():
    values = np.random.default_rng(1).normal(size=(11, U, D))
    got = units_to_segments(with_presence(values), 4, CELLS)
    np.testing.assert_allclose(got[..., :D], to_segments(values, 4), atol=1e-6)


@given(rows=st.integers(1, 12), nodes=st.integers(1, 9), seed=st.integers(0, 5), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_units_without_a_place_stand_side_by_side(rows, nodes, seed, share):
    given_units = stored(rows, seed, share)
    got, bounds = units_to_segments(given_units, nodes, WORDS), segment_bounds(rows, nodes)
    fullest = 1
    for node in range(nodes):
        first, end = bounds[node], max(bounds[node + 1], bounds[node] + 1)
        there = [unit.tolist() for row in given_units[first:end] for unit in row if unit[D]]
        fullest = max(fullest, len(there))
        assert [unit.tolist() for unit in got[node] if unit[D]] == there
        assert not got[node, len(there) :].any()
    assert got.shape == (nodes, fullest, D + 1)


def test_a_long_segment_keeps_evenly_spread_units():
    values = np.arange(100 * U, dtype=np.float64).reshape(100, U, 1) * np.ones(D)
    got = units_to_segments(with_presence(values), 1, WORDS)[0]
    assert len(got) == MOST_UNITS and got[0, 0] == 0 and got[-1, 0] == 100 * U - 1
    assert np.all(np.diff(got[:, 0]) >= 2)


@pytest.fixture
def dataset(tmp_path):
    config = DatasetConfig(name="fine", stride=8, snippet_frames=8, modalities={"cells": CELLS})
    made = write_dataset(tmp_path, config, [VideoRecord(f"v{i}", "normal", 20, 10.0) for i in range(3)])
    for i in range(3):
        write_features(tmp_path, "cells", f"v{i}", stored(3, i))
    return made


def test_features_of_units_are_read_as_written_and_the_doctor_is_content(dataset):
    np.testing.assert_array_equal(dataset.features("cells", "v1"), stored(3, 1))
    assert [finding.check for finding in diagnose(dataset.root) if finding.severity == "error"] == []


def broken(change) -> np.ndarray:
    values = stored(3, share=0.5)
    change(values)
    return values


def half(values: np.ndarray) -> None:
    values[1, 2] = [0, 0, 0.5]


def filled(values: np.ndarray) -> None:
    values[2, 1] = [3, 0, 0]


@pytest.mark.parametrize(
    ("values", "check", "message"),
    [
        (
            stored(3)[:, :5],
            "units",
            r"wrong width or units .*shape \(T, 6, 3\) .*6 units \(cell\).*got shape \(3, 5, 3\)",
        ),
        (stored(3)[..., :2], "width", r"wrong width or units .*got shape \(3, 6, 2\)"),
        (stored(3)[:, 0], "width", r"wrong width or units .*got shape \(3, 3\)"),
        (broken(half), "presence", r"presence of a unit is not 0 or 1 .*row 1, unit 2\): expected 0 or 1.*got 0.5"),
        (broken(filled), "presence", r"an absent unit is not empty .*row 2, unit 1\).*got 0 and 1 numbers that are not 0"),
    ],
    ids=["units", "width", "no units", "half present", "absent and not empty"],
)
def test_other_units_are_one_clear_error(dataset, values, check, message):
    write_features(dataset.root, "cells", "v1", values)
    with pytest.raises(DataError, match=message):
        dataset.features("cells", "v1")
    assert [finding.check for finding in diagnose(dataset.root) if finding.severity == "error"] == [check]


def test_units_are_not_crops(tmp_path):
    """The same array means something else where the manifest says crops."""
    crops = Manifest(modality="cells", extractor="x", version="1", width=D + 1, crops=U, stride=8)
    config = DatasetConfig(name="crops", stride=8, snippet_frames=8, modalities={"cells": crops})
    dataset = write_dataset(tmp_path, config, [VideoRecord("v", "normal", 20, 10.0)])
    write_features(tmp_path, "cells", "v", stored(3))
    assert dataset.features("cells", "v").shape == (3, U, D + 1)
    assert crops.differences(CELLS) == [
        line for line in crops.differences(CELLS) if re.match("width|crops|unit_kind|units|grid|snippet", line)
    ]
