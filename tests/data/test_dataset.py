import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import read_provenance, write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.errors import DataError, ManifestError

MOTION = Manifest(modality="motion", extractor="flow", version="1", width=4, nature="magnitude")
CLIP = Manifest(modality="clip", extractor="imported", version="1", width=3, crops=2)
CONFIG = DatasetConfig(name="doors", modalities={"motion": MOTION, "clip": CLIP})
RECORDS = [
    VideoRecord("v02", "abnormal", frames=50, fps=29.97002997002997, split="test", class_name="cart"),
    VideoRecord("v01", "normal", frames=48, fps=10.0, split="train", file="videos/v01, new.mp4"),
    VideoRecord("v03", "abnormal", frames=1, fps=25.0, split="train"),
    VideoRecord("v04", "", frames=16, fps=25.0),
]
INTERVALS = [Interval("v02", 3, 5, "cart"), Interval("v02", 40, 50)]


def values(rows, *row_shape, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, *row_shape)).astype(np.float32)


@pytest.fixture
def dataset(tmp_path):
    made = write_dataset(tmp_path / "doors", CONFIG, RECORDS, INTERVALS)
    for record in RECORDS:
        rows = math.ceil(record.frames / 16)
        write_features(made.root, "motion", record.video, values(rows, 4), {"manifest_hash": MOTION.hash})
        write_features(made.root, "clip", record.video, values(rows, 2, 3))
    return made


def edit(dataset, name, change):
    path = dataset.root / name
    path.write_text(change(path.read_text()))


# What is written comes back


def test_tables_round_trip(dataset):
    opened = Dataset.open(dataset.root)
    assert opened.config == CONFIG
    assert opened.name == "doors"
    assert list(opened.modalities) == ["motion", "clip"]
    assert opened.videos == tuple(RECORDS)
    assert opened.intervals("v02") == tuple(INTERVALS)
    assert opened.intervals("v01") == ()


def test_videos_csv_is_as_documented_and_holds_optional_columns_only_where_used(dataset):
    lines = (dataset.root / "videos.csv").read_text().splitlines()
    assert lines[0] == "video,label,frames,fps,split,class,file"
    assert lines[2] == 'v01,normal,48,10.0,train,,"videos/v01, new.mp4"'


def test_a_table_of_another_tool_is_read(dataset):
    lines = "\ufefflabel, video ,frames,fps,split\r\nnormal, v9 ,20,25,train\r\n\r\n"
    (dataset.root / "videos.csv").write_bytes(lines.encode())
    (dataset.root / "intervals.csv").unlink()
    assert Dataset.open(dataset.root).videos == (VideoRecord("v9", "normal", 20, 25.0, "train"),)


@pytest.mark.parametrize(("modality", "row_shape"), [("motion", (4,)), ("clip", (2, 3))])
def test_features_come_back_mapped_and_read_only(dataset, modality, row_shape):
    features = dataset.features(modality, "v02")
    np.testing.assert_array_equal(features, values(4, *row_shape))
    assert isinstance(features, np.memmap)
    assert not features.flags.writeable


def test_features_are_stored_as_float32_rows_in_c_order(tmp_path):
    given = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    path = write_features(tmp_path, "motion", "v01", given)
    stored = np.load(path)
    assert path == tmp_path / "features" / "motion" / "v01.npy"
    assert stored.dtype == np.float32
    assert stored.flags.c_contiguous
    np.testing.assert_array_equal(stored, given)


def test_provenance_belongs_to_the_features_beside_it(tmp_path):
    write_features(tmp_path, "motion", "v01", values(3, 2), {"source_sha256": "ab", "rows": 99})
    assert read_provenance(tmp_path, "motion", "v01") == {"source_sha256": "ab", "rows": 3}
    write_features(tmp_path, "motion", "v01", values(4, 2))
    assert read_provenance(tmp_path, "motion", "v01") is None


def test_a_record_that_is_no_json_changes_nothing(tmp_path):
    write_features(tmp_path, "motion", "v01", values(3, 2), {"frames": 48})
    with pytest.raises(DataError, match=r"provenance is not JSON: .*modality 'motion', video 'v01'"):
        write_features(tmp_path, "motion", "v01", values(5, 2), {"fps": math.nan})
    assert read_provenance(tmp_path, "motion", "v01") == {"frames": 48, "rows": 3}
    assert np.load(tmp_path / "features" / "motion" / "v01.npy").shape == (3, 2)


def test_nothing_half_written_stays_behind(tmp_path, monkeypatch):
    """A failure in the middle of writing leaves the old array, without the record that might not fit it."""
    write_features(tmp_path, "motion", "v01", values(3, 2), {"frames": 48})

    def fail(file, *_, **__):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_features(tmp_path, "motion", "v01", values(5, 2), {"frames": 80})
    folder = tmp_path / "features" / "motion"
    assert [path.name for path in folder.iterdir()] == ["v01.npy"]
    assert np.load(folder / "v01.npy").shape == (3, 2)


def test_writing_again_replaces_the_tables_and_keeps_the_features(dataset):
    smaller = write_dataset(dataset.root, CONFIG, RECORDS[:2])
    assert [record.video for record in smaller.videos] == ["v02", "v01"]
    assert not (dataset.root / "intervals.csv").exists()
    assert smaller.features("motion", "v01").shape == (3, 4)


# Time and labels


@given(st.integers(1, 500), st.integers(1, 40))
def test_rows_counts_every_snippet_that_starts_in_the_video(frames, stride):
    records = (VideoRecord("v", "normal", frames, 25.0),)
    dataset = Dataset(Path(), DatasetConfig(name="x", stride=stride), records, {})
    assert dataset.rows("v") == len([t for t in range(frames) if t * stride < frames])


def test_frame_labels(dataset):
    assert np.flatnonzero(dataset.frame_labels("v02")).tolist() == [3, 4, *range(40, 50)]
    assert dataset.frame_labels("v02").shape == (50,)
    assert dataset.frame_labels("v01").tolist() == [False] * 48
    assert [dataset.has_ground_truth(video) for video in ("v01", "v02", "v03", "v04")] == [True, True, False, False]


@pytest.mark.parametrize("video", ["v03", "v04"])
def test_no_ground_truth_is_never_taken_for_normal(dataset, video):
    with pytest.raises(DataError, match=rf"no ground truth in time \(video '{video}'.*at least one in any other"):
        dataset.frame_labels(video)


def test_a_normal_video_with_an_interval_is_a_contradiction(dataset):
    edit(dataset, "intervals.csv", lambda text: text + "v01,1,2,\n")
    with pytest.raises(DataError, match=r"contradict each other \(video 'v01'.*label 'normal' and 1 intervals"):
        Dataset.open(dataset.root).frame_labels("v01")


def test_an_interval_after_the_end_is_an_error(dataset):
    edit(dataset, "intervals.csv", lambda text: text.replace("40,50", "40,51"))
    with pytest.raises(DataError, match=r"ends after its video \(video 'v02'\): expected at most 50 frames"):
        Dataset.open(dataset.root).frame_labels("v02")


def test_select(dataset):
    def names(*args, **conditions):
        return [record.video for record in dataset.select(*args, **conditions)]

    assert names() == ["v02", "v01", "v03", "v04"]
    assert names(split="train") == ["v01", "v03"]
    assert names(split="train", label="abnormal") == ["v03"]
    assert names(label="") == names(split="") == ["v04"]
    assert names(["v03", "v02"]) == ["v03", "v02"]
    assert names(["v03", "v02"], split="test") == ["v02"]
    assert names(split="validation") == []
    with pytest.raises(DataError, match="no video 'v99'"):
        dataset.select(["v99"])


# The hash follows the tables and nothing else


def test_the_hash_does_not_depend_on_the_place_or_the_features(dataset, tmp_path):
    shutil.copytree(dataset.root, tmp_path / "copy")
    write_features(tmp_path / "copy", "motion", "v01", values(3, 4, seed=1))
    assert Dataset.open(tmp_path / "copy").hash == dataset.hash
    assert len(dataset.hash) == 64


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dataset.yaml", lambda text: text.replace("doors", "gates")),
        ("videos.csv", lambda text: text.replace("train", "other")),
        ("intervals.csv", lambda text: text.replace("40", "41")),
    ],
)
def test_the_hash_follows_each_table(dataset, name, change):
    edit(dataset, name, change)
    assert Dataset.open(dataset.root).hash != dataset.hash


def test_no_intervals_and_an_empty_table_of_intervals_differ(dataset):
    edit(dataset, "intervals.csv", lambda text: text.splitlines()[0] + "\n")
    empty = Dataset.open(dataset.root).hash
    (dataset.root / "intervals.csv").unlink()
    assert Dataset.open(dataset.root).hash != empty


# Bad folders and tables


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"not a dataset folder.*got no dataset.yaml in it.*lego-fusion extract"):
        Dataset.open(tmp_path)
    with pytest.raises(DataError, match=r"not a dataset folder.*got no such folder"):
        Dataset.open(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "colour: red\n", "colour: Extra inputs are not permitted"),
        (lambda text: text.replace("width: 4", "width: 0"), "modalities.motion.width: .*greater than or equal to 1"),
        (lambda text: text.replace("extractor: flow\n", "extractor: flow\n    speed: 1\n"), "motion.speed: Extra inputs"),
        (lambda text: text.replace("modality: clip", "modality: text"), "modality 'clip' has the manifest of 'text'"),
        (lambda text: text.replace("stride: 16", "stride: 8", 1), "modality 'motion' has stride 16, the dataset 8"),
        (lambda text: "name: [open", "not a YAML file"),
        (lambda text: "", "wrong dataset settings: the file: "),
        (lambda text: "name: !!python/object/apply:os.getcwd []", "not a YAML file"),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(dataset, change, message):
    edit(dataset, "dataset.yaml", change)
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(dataset.root)
    assert "\n" not in str(caught.value)
    assert "dataset.yaml" in str(caught.value)


HEADER = "video,label,frames,fps,split"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}\nv1,odd,10,25,train\n", r"unknown label \(.*videos.csv, line 2\).*got 'odd'"),
        (f"{HEADER}\nv1,normal,10,25,train\nv2,normal,ten,25,\n", r"not a whole number \(.*videos.csv, line 3\).*'ten'"),
        (f"{HEADER}\nv1,normal,10.5,25,\n", "not a whole number .*line 2.*'10.5'"),
        (f"{HEADER}\nv1,normal,0,25,\n", "wrong number of frames .*line 2"),
        (f"{HEADER}\nv1,normal,10,0,\n", "wrong frame rate .*line 2.*got 0.0"),
        (f"{HEADER}\nv1,normal,10,nan,\n", "wrong frame rate .*line 2.*got nan"),
        (f"{HEADER}\nv1,normal,10,25,\nv1,normal,10,25,\n", r"'v1' is listed twice \(.*line 3\)"),
        (f"{HEADER}\n../v1,normal,10,25,\n", r"'../v1' cannot be a file name.*line 2"),
        (f"{HEADER}\n/etc/v1,normal,10,25,\n", "'/etc/v1' cannot be a file name"),
        (f"{HEADER}\nv1,normal,10,25\n", r"another number of cells.*line 2\): expected 5, got 4"),
        (f"{HEADER},colour\n", r"unknown column 'colour' \(.*line 1\): expected video,label,frames,fps,split and opt"),
        ("video,label,frames,fps\n", "misses the column 'split'"),
        (f"{HEADER}\n", "lists no video"),
        ("", "misses the column"),
    ],
)
def test_bad_tables_of_videos_name_file_and_line(dataset, text, message):
    (dataset.root / "videos.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(dataset.root)
    assert "\n" not in str(caught.value)


def test_a_missing_table_of_videos_is_named(dataset):
    (dataset.root / "videos.csv").unlink()
    with pytest.raises(DataError, match=r"cannot be read: No such file.*videos\.csv"):
        Dataset.open(dataset.root)


def test_intervals_of_an_unknown_video_are_refused_when_opened_and_when_written(dataset, tmp_path):
    edit(dataset, "intervals.csv", lambda text: text + "v2,1,2,\n")
    with pytest.raises(DataError, match=r"not in the dataset .*intervals.csv.*got 'v2'"):
        Dataset.open(dataset.root)
    with pytest.raises(DataError, match=r"not in the dataset .*got 'v2'"):
        write_dataset(tmp_path / "new", CONFIG, RECORDS, [Interval("v2", 1, 2)])
    assert not (tmp_path / "new").exists()


def test_write_dataset_writes_nothing_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="videos with different names"):
        write_dataset(tmp_path / "new", CONFIG, [RECORDS[0], RECORDS[0]])
    with pytest.raises(DataError, match="videos with different names"):
        write_dataset(tmp_path / "new", CONFIG, [])
    with pytest.raises(DataError, match="at most 50 frames, got frames 1 to 51"):
        write_dataset(tmp_path / "new", CONFIG, RECORDS, [Interval("v02", 1, 51)])
    assert not (tmp_path / "new").exists()


# Bad features


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (values(4, 4).astype(np.float64), "wrong number type .*expected float32 or float16, got float64"),
        (values(4, 4).astype(">f4"), "wrong number type .*expected float32 or float16, got >f4"),
        (np.array([["a"] * 4] * 4), "wrong number type .*got <U1"),
        (values(4, 5), r"wrong width or crops .*expected shape \(T, 4\).*got shape \(4, 5\)"),
        (values(4, 1, 4), r"wrong width or crops .*got shape \(4, 1, 4\)"),
        (values(4), r"wrong width or crops .*got shape \(4,\)"),
        (np.float32(4), r"wrong width or crops .*got shape \(\)"),
        (values(3, 4), r"rows does not fit the video .*expected 4 rows .*got 3 rows"),
        (values(0, 4), r"rows does not fit the video .*expected 4 rows .*got 0 rows"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{value.dtype}{value.shape}",
)
def test_features_of_another_form_are_refused(dataset, stored, message):
    np.save(dataset.root / "features" / "motion" / "v02.npy", stored)
    with pytest.raises(DataError, match=message) as caught:
        dataset.features("motion", "v02")
    assert "(modality 'motion', video 'v02')" in str(caught.value)


def test_crops_that_differ_from_the_manifest_are_refused(dataset):
    np.save(dataset.root / "features" / "clip" / "v02.npy", values(4, 10, 3))
    with pytest.raises(DataError, match=r"expected shape \(T, 2, 3\) as dataset.yaml says, got shape \(4, 10, 3\)"):
        dataset.features("clip", "v02")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_with_its_row(dataset, bad):
    stored = values(4, 2, 3)
    stored[2, 1, 0] = bad
    np.save(dataset.root / "features" / "clip" / "v02.npy", stored)
    with pytest.raises(DataError, match=rf"\(modality 'clip', video 'v02', row 2\).*got {bad}"):
        dataset.features("clip", "v02")
    assert dataset.features("clip", "v02", check=False).shape == (4, 2, 3)
    with pytest.raises(DataError, match=r"modality 'clip', video 'v02', row 2"):
        write_features(dataset.root, "clip", "v02", stored)


def test_a_row_far_down_a_long_video_is_found(tmp_path):
    stored = values(9000, 1)
    stored[8500] = np.nan
    with pytest.raises(DataError, match="row 8500"):
        write_features(tmp_path, "motion", "v01", stored)


def test_a_file_cut_anywhere_is_refused(dataset):
    path = dataset.root / "features" / "motion" / "v02.npy"
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"truncated or not a .npy file.*video 'v02'\).*got {size} bytes"):
            dataset.features("motion", "v02")


def test_pickles_and_archives_are_refused(dataset):
    path = dataset.root / "features" / "motion" / "v02.npy"
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"not a .npy file of numbers"):
        dataset.features("motion", "v02")
    with path.open("wb") as file:
        np.savez(file, values(4, 4))
    with pytest.raises(DataError, match=r"not a .npy file of numbers"):
        dataset.features("motion", "v02")


def test_missing_names_and_files_are_named(dataset):
    with pytest.raises(DataError, match=r"modality 'audio' is missing \(dataset 'doors'\): expected audio, got motion, clip"):
        dataset.features("audio", "v02")
    with pytest.raises(DataError, match=r"no video 'v99'.*expected one of 'v02', 'v01'"):
        dataset.features("motion", "v99")
    (dataset.root / "features" / "motion" / "v02.npy").unlink()
    with pytest.raises(DataError, match=r"no feature file \(modality 'motion', video 'v02'\): expected .*v02.npy"):
        dataset.features("motion", "v02")


def test_features_made_with_another_manifest_are_refused(dataset):
    edit(dataset, "dataset.yaml", lambda text: text.replace("version: '1'", "version: '2'", 1))
    changed = Dataset.open(dataset.root)
    with pytest.raises(ManifestError, match=rf"made in another way.*video 'v02'.*got manifest {MOTION.hash[:12]}"):
        changed.features("motion", "v02")
    assert changed.features("clip", "v02").shape == (4, 2, 3)  # nothing is recorded, nothing is contradicted


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_a_damaged_provenance_is_an_error(dataset, text):
    path = dataset.root / "features" / "motion" / "v02.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"v02\.json"):
        read_provenance(dataset.root, "motion", "v02")


@pytest.mark.parametrize("array", [values(0, 4), values(4, 0), values(4), values(1, 1, 1, 1)], ids=lambda a: str(a.shape))
def test_what_is_no_feature_set_is_not_written(tmp_path, array):
    with pytest.raises(DataError, match=r"not a feature set .*expected \(T, D\) or \(T, C, D\)"):
        write_features(tmp_path, "motion", "v01", array)
    assert not list(tmp_path.iterdir())


def test_numbers_beyond_float32_are_not_written(tmp_path):
    with pytest.raises(DataError, match=r"row 1.*got inf"):
        write_features(tmp_path, "motion", "v01", np.array([[1.0], [1e300]]))


# Paths that leave the folder


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "", "a/b", "/etc/passwd", "a\\b", "C:x", ".hidden", "a\x00b", "a\nb", "a.", "a ", "-rf", "n" * 201],
)
def test_names_that_could_leave_the_folder_are_refused(tmp_path, name):
    for modality, video in (("motion", name), (name, "v01")):
        with pytest.raises(DataError, match="cannot be a file name"):
            write_features(tmp_path, modality, video, values(1, 1))
        with pytest.raises(DataError, match="cannot be a file name"):
            read_provenance(tmp_path, modality, video)
    with pytest.raises(DataError, match="cannot be a file name"):
        VideoRecord(name, "normal", 1, 1.0)


@pytest.mark.parametrize(
    "name", ["v", "01_001", "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6", "v=38GQ9L2meyE__#1", "Überfall 2 (a)", "視頻"]
)
def test_names_of_published_datasets_are_taken(tmp_path, name):
    made = write_dataset(tmp_path, CONFIG, [VideoRecord(name, "normal", 1, 1.0)])
    write_features(tmp_path, "motion", name, values(1, 4))
    assert made.features("motion", Dataset.open(tmp_path).videos[0].video).shape == (1, 4)


@pytest.mark.parametrize("linked", ["features/motion/v02.npy", "features/motion", "features"])
def test_a_link_out_of_the_folder_is_refused(dataset, tmp_path, linked):
    inside, outside = dataset.root / linked, tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(DataError, match=r"lies outside the dataset folder .*got a link to .*outside"):
        dataset.features("motion", "v02")


def test_a_link_inside_the_folder_and_a_linked_folder_are_followed(dataset, tmp_path):
    folder = dataset.root / "features" / "motion"
    (folder / "v02.npy").rename(dataset.root / "moved.npy")
    (folder / "v02.npy").symlink_to(dataset.root / "moved.npy")
    (tmp_path / "link").symlink_to(dataset.root)
    assert Dataset.open(tmp_path / "link").features("motion", "v02").shape == (4, 4)


def test_a_link_in_a_circle_is_one_line(dataset):
    path = dataset.root / "features" / "motion" / "v02.npy"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DataError, match=r"cannot be followed|no feature file"):
        dataset.features("motion", "v02")


def test_settings_are_plain_yaml(dataset):
    assert yaml.safe_load((dataset.root / "dataset.yaml").read_text())["modalities"]["motion"]["nature"] == "magnitude"
    assert json.loads((dataset.root / "features" / "motion" / "v02.json").read_text())["rows"] == 4
