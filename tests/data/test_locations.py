"""Features outside the dataset folder: only there, only .npy, and brought to the video's snippets by a named rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.doctor import diagnose
from lego_fusion.data.features import FeatureLocation, read_rows
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, VideoRecord
from lego_fusion.errors import DataError

TEXT = Manifest(modality="text", extractor="imported", version="1", width=2)


def dataset_at(folder, root, rows_needed=4, **settings):
    config = DatasetConfig(
        name="far", modalities={"text": TEXT}, locations={"text": FeatureLocation(root=str(root), **settings)}
    )
    return write_dataset(folder, config, [VideoRecord("v01", "normal", rows_needed * 16, 25.0, "train")])


def store(root, rows, name="v01.npy", dtype=np.float32):
    root.mkdir(exist_ok=True)
    values = np.stack([np.arange(rows), 100 + np.arange(rows)], axis=1).astype(dtype)
    np.save(root / name, values)
    return values


def test_features_are_mapped_where_they_are(tmp_path):
    values = store(tmp_path / "far", 4)
    dataset = dataset_at(tmp_path / "ds", tmp_path / "far")
    read = dataset.features("text", "v01")
    assert isinstance(read, np.memmap)
    assert np.array_equal(read, values)
    assert not (tmp_path / "ds" / "features").exists()
    assert not [finding for finding in diagnose(dataset.root) if finding.severity == "error" and finding.check != "one-class"]


def test_a_dataset_without_locations_says_nothing_of_them(tmp_path):
    config = DatasetConfig(name="near", modalities={"text": TEXT})
    dataset = write_dataset(tmp_path, config, [VideoRecord("v01", "normal", 16, 25.0)])
    assert "locations" not in (dataset.root / "dataset.yaml").read_text()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"root": "far"}, "absolute path"),
        ({"root": "/far", "files": "../{video}.npy"}, "stay in its folder"),
        ({"root": "/far", "files": "/etc/{video}.npy"}, "stay in its folder"),
        ({"root": "/far", "files": "all.npy"}, "hold {video} once"),
        ({"root": "/far", "files": "{video}/{video}.npy"}, "hold {video} once"),
        ({"root": "/far", "files": "{video}.pkl"}, "only .npy"),
        ({"root": "/far", "times": "{video}.csv"}, "only .npy"),
        ({"root": "/far", "length": "pad"}, "resample"),
        ({"root": "/far", "pickle": True}, "Extra inputs"),
    ],
)
def test_a_wrong_location_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        FeatureLocation(**settings)


def test_a_location_of_no_modality_is_refused():
    with pytest.raises(ValidationError, match="no modality"):
        DatasetConfig(name="far", locations={"text": FeatureLocation(root="/far")})


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    store(tmp_path / "elsewhere", 4)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "v01.npy").symlink_to(tmp_path / "elsewhere" / "v01.npy")
    dataset = dataset_at(tmp_path / "ds", tmp_path / "far")
    with pytest.raises(DataError, match="lies outside its folder"):
        dataset.features("text", "v01")
    assert "outside-folder" in {finding.check for finding in diagnose(dataset.root)}


def test_pickles_are_refused(tmp_path):
    (tmp_path / "far").mkdir()
    np.save(tmp_path / "far" / "v01.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"not a \.npy file of numbers"):
        dataset_at(tmp_path / "ds", tmp_path / "far").features("text", "v01")


def test_a_lost_file_is_a_finding(tmp_path):
    dataset = dataset_at(tmp_path / "ds", tmp_path / "far")
    assert "missing" in {finding.check for finding in diagnose(dataset.root)}


@pytest.mark.parametrize(
    "rule, rows, expected",
    [
        ("truncate", 6, [0, 1, 2, 3]),
        ("repeat-last", 2, [0, 1, 1, 1]),
        ("resample", 8, [0.5, 2.5, 4.5, 6.5]),
        ("resample", 2, [0, 0, 1, 1]),
        ("resample", 4, [0, 1, 2, 3]),
    ],
)
def test_rules_of_length(tmp_path, rule, rows, expected):
    store(tmp_path / "far", rows)
    read = Dataset.open(dataset_at(tmp_path / "ds", tmp_path / "far", length=rule).root).features("text", "v01")
    assert read[:, 0].tolist() == expected
    assert read[:, 1].tolist() == [100 + value for value in expected]
    assert read.dtype == np.float32


@pytest.mark.parametrize(
    "rule, rows, message",
    [
        ("error", 3, "shorter than the video.*4 snippets.*3 rows, none for the last 1.*'repeat-last' or 'resample'"),
        ("error", 6, "longer than the video.*6 rows, 2 too many.*'truncate' or 'resample'"),
        ("truncate", 3, "shorter"),
        ("repeat-last", 6, "longer"),
    ],
)
def test_other_lengths_are_refused_by_name(tmp_path, rule, rows, message):
    store(tmp_path / "far", rows)
    with pytest.raises(DataError, match=message):
        dataset_at(tmp_path / "ds", tmp_path / "far", length=rule).features("text", "v01")


def test_rows_meet_snippets_by_time(tmp_path):
    store(tmp_path / "far", 8)
    dataset = dataset_at(tmp_path / "ds", tmp_path / "far", stride=8)
    assert dataset.features("text", "v01")[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    store(tmp_path / "far", 2)
    dataset = dataset_at(tmp_path / "ds", tmp_path / "far", stride=32)
    assert dataset.features("text", "v01")[:, 0].tolist() == [0, 0, 1, 1]


def test_rows_with_times_meet_the_snippets_they_overlap(tmp_path):
    store(tmp_path / "far", 3)
    np.save(tmp_path / "far" / "v01_time.npy", np.array([[0, 16], [16, 40], [40, 64]]))
    dataset = dataset_at(tmp_path / "ds", tmp_path / "far", times="{video}_time.npy")
    assert dataset.features("text", "v01")[:, 0].tolist() == [0, 1, 1.5, 2]
    np.save(tmp_path / "far" / "v01_time.npy", np.array([0, 16, 40]))
    assert dataset.features("text", "v01")[:, 0].tolist() == [0, 1, 1.5, 2]


@pytest.mark.parametrize(
    "times, message",
    [
        ([[0, 16], [16, 32], [48, 64]], "gap in the video.*frames 32 to 48"),
        ([[0, 16], [16, 32], [32, 48]], "shorter than the video"),
        ([[0, 16], [32, 48], [16, 64]], "times do not fit"),
        ([[0, 64]], "times do not fit"),
    ],
)
def test_times_that_leave_holes_are_refused(tmp_path, times, message):
    store(tmp_path / "far", 3)
    np.save(tmp_path / "far" / "v01_time.npy", np.array(times))
    with pytest.raises(DataError, match=message):
        dataset_at(tmp_path / "ds", tmp_path / "far", times="{video}_time.npy").features("text", "v01")


@given(st.integers(1, 40), st.integers(1, 40))
def test_resampling_keeps_the_mean_where_rows_divide_and_the_range_always(source, rows):
    values = np.arange(source, dtype=np.float32)[:, None]
    read = read_rows(values, FeatureLocation(root="/", length="resample").spans("v", source, rows, 16, ""))
    assert len(read) == rows
    assert read.min() >= 0 and read.max() <= source - 1
    assert bool(np.all(np.diff(read[:, 0]) >= 0))
    if source % rows == 0:
        assert read.mean() == pytest.approx(values.mean())


def test_one_crop_and_other_number_types(tmp_path):
    root = tmp_path / "far"
    store(root, 4, dtype=np.float64)
    np.save(root / "v01.npy", np.load(root / "v01.npy")[:, None])
    read = dataset_at(tmp_path / "ds", root).features("text", "v01")
    assert read.shape == (4, 2) and read.dtype == np.float32
