"""Several dataset folders as one: nothing is copied, names stay apart, and only what was made alike is joined."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.doctor import diagnose
from lego_fusion.data.features import write_features
from lego_fusion.data.joining import join_datasets
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.errors import DataError, ManifestError


def manifest(modality, **changes):
    return Manifest(**{"modality": modality, "extractor": "flow", "version": "1", "width": 3} | changes)


MOTION, TEXT = manifest("motion", nature="magnitude"), manifest("text", extractor="text")


def make(root, name, videos, modalities=(MOTION, TEXT), *, domain="", split="train", **config):
    """A dataset whose features say where they come from: the sum of the letters of dataset, modality and video."""
    config = DatasetConfig(name=name, modalities={one.modality: one for one in modalities}, **config)
    records = [
        VideoRecord(video, "abnormal" if number else "normal", frames=40, fps=10.0, split=split, domain=domain)
        for number, video in enumerate(videos)
    ]
    dataset = write_dataset(root / name, config, records, [Interval(video, 16, 20) for video in videos[1:]])
    for video in videos:
        for one in modalities:
            values = np.full((-(-40 // dataset.config.stride), one.width), origin(name, one.modality, video), np.float32)
            write_features(dataset.root, one.modality, video, values, {"manifest_hash": one.hash})
    return dataset


def origin(*names):
    return float(sum(map(ord, "".join(names))))


@pytest.fixture
def street(tmp_path):
    return make(tmp_path, "street", ["v1", "v2"])


@pytest.fixture
def station(tmp_path):
    return make(tmp_path, "station", ["v2", "v3"], split="test")


def test_a_source_of_one_dataset_is_none_of_another(street, station, tmp_path):
    folders = []
    for one in (street, station):
        records = [replace(record, source="tape", file=f"{record.video}.mp4") for record in one.videos]
        truth = [interval for found in one.ground_truth.values() for interval in found]
        folders.append(write_dataset(one.root, one.config, records, truth).root)
    both = join_datasets(folders, tmp_path / "both").dataset
    assert [record.source for record in both.videos] == ["street/tape"] * 2 + ["station/tape"] * 2
    assert [record.file for record in both.videos] == ["v1.mp4", "v2.mp4", "v2.mp4", "v3.mp4"]


def test_every_feature_is_that_of_its_own_dataset_and_none_is_copied(street, station, tmp_path):
    report = join_datasets([street.root, station.root], tmp_path / "both")
    both = report.dataset
    assert [record.video for record in both.videos] == ["street_v1", "street_v2", "station_v2", "station_v3"]
    for source in (street, station):
        for record in source.videos:
            name = f"{source.name}_{record.video}"
            for modality in ("motion", "text"):
                values = both.features(modality, name)
                assert (values == origin(source.name, modality, record.video)).all()
                assert both.feature_file(modality, name) == source.feature_file(modality, record.video).resolve()
            assert both.intervals(name) == tuple(
                Interval(name, one.start_frame, one.end_frame) for one in source.intervals(record.video)
            )
            assert both.records[name].split == record.split and both.records[name].label == record.label
    assert not (tmp_path / "both" / "features").exists()
    assert not [finding for finding in diagnose(both.root) if finding.severity == "error"]
    assert both.config == Dataset.open(both.root).config


def test_names_that_do_not_clash_stay(street, tmp_path):
    other = make(tmp_path, "other", ["w1"])
    report = join_datasets([street.root, other.root], tmp_path / "both")
    assert [record.video for record in report.dataset.videos] == ["v1", "v2", "w1"]
    assert report.notes == ()


def test_of_three_datasets_only_those_that_clash_are_renamed(street, station, tmp_path):
    other = make(tmp_path, "other", ["w1"])
    report = join_datasets([street.root, other.root, station.root], tmp_path / "all")
    assert [record.video for record in report.dataset.videos] == ["street_v1", "street_v2", "w1", "station_v2", "station_v3"]
    assert report.notes == ("the videos of 'street' are named 'street_...'", "the videos of 'station' are named 'station_...'")


def test_a_video_keeps_its_domain_or_gets_the_name_of_its_dataset(street, tmp_path):
    night = make(tmp_path, "other", ["w1"], domain="night")
    report = join_datasets([street.root, night.root], tmp_path / "both")
    assert [record.domain for record in report.dataset.videos] == ["street", "street", "night"]
    assert report.domains == {"street": 2, "night": 1}


def test_modalities_that_not_all_have_are_left_out_with_a_note(street, tmp_path):
    silent = make(tmp_path, "silent", ["w1"], modalities=(MOTION,))
    report = join_datasets([street.root, silent.root], tmp_path / "both")
    assert list(report.dataset.modalities) == ["motion"]
    assert report.notes == ("modality 'text' is left out: 'silent' has none",)


def test_imported_features_and_missing_splits_are_noted(tmp_path):
    imported = manifest("clip", extractor="imported")
    folders = [
        make(tmp_path, name, [video], (imported,), split=split) for name, video, split in (("a", "x", "train"), ("b", "y", ""))
    ]
    notes = join_datasets([one.root for one in folders], tmp_path / "both").notes
    assert any("nothing tells whether one network made it" in note for note in notes)
    assert any("no video of 'b' has a split" in note for note in notes)


def test_a_manifest_that_differs_is_refused_and_the_difference_named(street, tmp_path):
    other = make(tmp_path, "other", ["w1"], (MOTION.model_copy(update={"version": "2"}), TEXT))
    with pytest.raises(ManifestError, match=r"modality 'motion'.*'other' against 'street'.*version: '1' against '2'"):
        join_datasets([street.root, other.root], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_what_cannot_be_joined(street, station, tmp_path):
    grid = {"snippet_frames": 8, "stride": 8}
    fine = make(tmp_path, "fine", ["w1"], (MOTION.model_copy(update=grid),), **grid)
    speech = make(tmp_path, "speech", ["w2"], (manifest("speech"),))
    both = join_datasets([street.root, station.root], tmp_path / "both").dataset
    cases = {
        "nothing to join": [street.root],
        "two datasets have the same name": [street.root, street.root],
        "different time grids.*expected snippets of 16 frames every 16": [street.root, fine.root],
        "no modality is in every dataset.*street: motion, text; speech: speech": [street.root, speech.root],
        "a joined folder cannot be joined again": [fine.root, both.root],
        "not a dataset folder": [street.root, tmp_path / "nowhere"],
    }
    for message, folders in cases.items():
        with pytest.raises(DataError, match=message):
            join_datasets(folders, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    run = tmp_path / "my-run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(DataError, match="not empty and holds no dataset"):
        join_datasets([street.root, station.root], run)
    assert [path.name for path in run.iterdir()] == ["config.json"]
    with pytest.raises(DataError, match="the output folder holds another dataset"):
        join_datasets([street.root, station.root], fine.root)


def test_joining_again_replaces_the_tables(street, station, tmp_path):
    join_datasets([street.root, station.root], tmp_path / "both")
    again = join_datasets([street.root, station.root], tmp_path / "both", name="twice")
    assert again.dataset.name == "twice" and len(again.dataset.videos) == 4


def test_a_member_that_changed_is_found(street, station, tmp_path):
    both = join_datasets([street.root, station.root], tmp_path / "both").dataset
    write_dataset(
        street.root, DatasetConfig(name="street", modalities={"motion": manifest("motion", width=3)}), street.videos[:1]
    )
    again = Dataset.open(both.root)
    with pytest.raises(ManifestError, match=r"made in another way.*street_v1"):
        again.features("motion", "street_v1")
    with pytest.raises(DataError, match="no joined folder has the video 'street_v2'"):
        again.features("motion", "street_v2")
    shutil.rmtree(street.root)
    with pytest.raises(DataError, match="not a dataset folder"):
        Dataset.open(both.root).features("motion", "station_v2")


def test_a_folder_joined_by_hand_from_joined_ones_is_refused(street, station, tmp_path):
    both = join_datasets([street.root, station.root], tmp_path / "both").dataset
    text = (both.root / "dataset.yaml").read_text().replace(str(street.root), str(both.root))
    (both.root / "dataset.yaml").write_text(text)
    with pytest.raises(DataError, match="a joined folder cannot be joined again"):
        Dataset.open(both.root).features("motion", "street_v1")


def test_the_root_of_a_member_is_absolute(street, station, tmp_path):
    both = join_datasets([street.root, station.root], tmp_path / "both").dataset
    path = both.root / "dataset.yaml"
    path.write_text(path.read_text().replace(str(street.root), "street"))
    with pytest.raises(DataError, match="must be an absolute path"):
        Dataset.open(both.root)
