import os

import numpy as np
import pytest

from lego_fusion.data.dataset import write_dataset
from lego_fusion.data.doctor import diagnose
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord, write_intervals, write_videos

MOTION = Manifest(modality="motion", extractor="flow", version="1", width=3, nature="magnitude")
CLIP = Manifest(modality="clip", extractor="net", version="1", width=4, crops=2, normalisation="l2")
MANIFESTS = {"motion": MOTION, "clip": CLIP}
RECORDS = [
    VideoRecord("a", "normal", frames=60, fps=10.0, split="train"),
    VideoRecord("b", "abnormal", frames=64, fps=10.0, split="train"),
    VideoRecord("c", "normal", frames=33, fps=10.0, split="test"),
    VideoRecord("d", "abnormal", frames=80, fps=10.0, split="test"),
]
INTERVALS = [Interval("d", 10, 20), Interval("d", 70, 80)]


def random(modality, video, rows):
    rng = np.random.default_rng([ord(modality[0]), ord(video[0])])
    if modality == "motion":
        return rng.normal(size=(rows, 3)).astype(np.float32)
    clip = rng.normal(size=(rows, 2, 4))
    return (clip / np.linalg.norm(clip, axis=-1, keepdims=True)).astype(np.float32)


def provenance(modality, video):
    return {"manifest_hash": MANIFESTS[modality].hash, "source_sha256": f"sha of {video}"}


@pytest.fixture
def root(tmp_path):
    """A sound dataset folder; each test breaks one thing in it."""
    write_dataset(tmp_path, DatasetConfig(name="doors", modalities=MANIFESTS), RECORDS, INTERVALS)
    for record in RECORDS:
        for modality in MANIFESTS:
            features = random(modality, record.video, -(-record.frames // 16))
            write_features(tmp_path, modality, record.video, features, provenance(modality, record.video))
    return tmp_path


def found(root):
    return {(finding.severity, finding.check, finding.where) for finding in diagnose(root)}


def only(root):
    (finding,) = diagnose(root)
    assert finding.message
    assert finding.fix
    assert "\n" not in finding.message
    return finding


def npy(root, modality, video):
    return root / "features" / modality / f"{video}.npy"


def change_videos(root, **fields):
    """Replace fields of video rows: change_videos(root, a={"label": ""})."""
    write_videos(
        root / "videos.csv",
        [VideoRecord(**{**vars(record), **fields.get(record.video, {})}) for record in RECORDS],
    )


def test_a_sound_folder_has_no_finding(root):
    assert diagnose(root) == []


# Tables


def test_no_folder_and_an_empty_folder(tmp_path):
    assert found(tmp_path / "absent") == {("error", "dataset-folder", str(tmp_path / "absent"))}
    assert {where[:2] for where in found(tmp_path)} == {("error", "dataset.yaml"), ("error", "videos.csv")}


@pytest.mark.parametrize("name", ["dataset.yaml", "videos.csv"])
def test_a_broken_table_is_one_finding(root, name):
    (root / name).write_text("name: [open\nvideo,label\n")
    finding = only(root)
    assert (finding.severity, finding.check) == ("error", name)
    assert finding.where.startswith(str(root / name))


def test_a_broken_table_of_intervals_does_not_stop_the_rest(root):
    (root / "intervals.csv").write_text("video,start_frame,end_frame\nd,5,5\n")
    npy(root, "motion", "a").unlink()
    assert {where[:2] for where in found(root)} == {("error", "intervals.csv"), ("error", "missing")}


def test_broken_settings_do_not_hide_what_is_wrong_with_the_labels(root):
    (root / "dataset.yaml").write_text("name: 5\n")
    change_videos(root, a={"label": ""})
    assert {("error", "dataset.yaml"), ("warning", "no-label")} <= {where[:2] for where in found(root)}


# Labels and ground truth


def test_videos_without_label(root):
    change_videos(root, c={"label": ""})
    assert found(root) == {("warning", "no-label", "video 'c'")}


@pytest.mark.parametrize(("label", "severity"), [("normal", "warning"), ("abnormal", "error")])
def test_one_class_only_in_training(root, label, severity):
    change_videos(root, a={"label": label}, b={"label": label})
    finding = only(root)
    assert (finding.severity, finding.check) == (severity, "one-class")
    assert label in finding.message


def test_an_abnormal_test_video_without_a_positive_frame(root):
    change_videos(root, c={"label": "abnormal"})
    assert found(root) == {("error", "no-positive-frame", "video 'c'")}


def test_training_videos_need_no_positive_frame_unless_others_have_some(root):
    records = [*RECORDS, VideoRecord("e", "abnormal", frames=16, fps=10.0, split="train")]
    write_videos(root / "videos.csv", records)
    for modality in MANIFESTS:
        write_features(root, modality, "e", random(modality, "e", 1))
    assert diagnose(root) == []
    write_intervals(root / "intervals.csv", [*INTERVALS, Interval("b", 1, 2)])
    assert found(root) == {("warning", "no-positive-frame", "video 'e'")}


def test_no_ground_truth_at_all_is_said_once(root):
    (root / "intervals.csv").unlink()
    assert found(root) == {("warning", "no-ground-truth", "intervals.csv")}


@pytest.mark.parametrize(
    ("interval", "check", "message"),
    [
        (Interval("d", 70, 81), "interval-outside", "frames 70 to 81 in a video of 80"),
        (Interval("x", 1, 2), "unknown-video", "1 intervals of a video that videos.csv does not list"),
        (Interval("c", 1, 2), "normal-with-interval", "labelled normal and has 1 abnormal intervals"),
    ],
)
def test_intervals_that_contradict_the_videos(root, interval, check, message):
    write_intervals(root / "intervals.csv", [*INTERVALS, interval])
    finding = only(root)
    assert (finding.severity, finding.check, finding.where) == ("error", check, f"video '{interval.video}'")
    assert message in finding.message


# Feature files


def test_a_missing_feature_file(root):
    npy(root, "clip", "b").unlink()
    assert found(root) == {("error", "missing", "modality 'clip', video 'b'")}


@pytest.mark.parametrize("size", [0, 30, 140])
def test_a_truncated_feature_file(root, size):
    os.truncate(npy(root, "clip", "b"), size)
    assert found(root) == {("error", "unreadable", "modality 'clip', video 'b'")}


@pytest.mark.parametrize(
    ("features", "checks"),
    [
        (np.ones((4, 2, 4), dtype=np.float64), {"dtype"}),
        (np.ones((4, 2, 4), dtype=">f4"), {"dtype"}),
        (np.ones((4, 2, 5), dtype=np.float32), {"width"}),
        (np.ones((4, 3, 4), dtype=np.float32), {"crops"}),
        (np.ones((4, 4), dtype=np.float32), {"crops"}),
        (np.ones((4, 7), dtype=np.float16), {"width"}),
        (np.ones((4, 7), dtype=np.int16), {"dtype", "width"}),
        (np.array("text"), {"dtype", "width"}),
        (np.full((4, 2, 4), np.nan, dtype=np.float32), {"not-finite"}),
        (np.full((4, 2, 4), np.inf, dtype=np.float64), {"dtype", "not-finite"}),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else None,
)
def test_features_of_another_form(root, features, checks):
    np.save(npy(root, "clip", "b"), features)
    assert {(severity, check) for severity, check, _ in found(root)} == {("error", check) for check in checks}
    assert all("modality 'clip', video 'b'" in finding.where for finding in diagnose(root))


def test_length_drift_names_every_modality_with_its_rows(root):
    write_features(root, "clip", "b", random("clip", "b", 3), provenance("clip", "b"))
    finding = only(root)
    assert (finding.severity, finding.check, finding.where) == ("error", "length-drift", "video 'b'")
    assert finding.message == "64 frames at stride 16 make 4 rows, but motion has 4 rows, clip has 3 rows"


def test_drift_of_all_modalities_against_the_table(root):
    change_videos(root, b={"frames": 65})
    finding = only(root)
    assert finding.message == "65 frames at stride 16 make 5 rows, but motion has 4 rows, clip has 4 rows"


def test_an_empty_array_is_length_drift(root):
    np.save(npy(root, "motion", "b"), np.zeros((0, 3), dtype=np.float32))
    assert found(root) == {("error", "length-drift", "video 'b'")}


def test_another_manifest(root):
    write_features(root, "motion", "b", random("motion", "b", 4), {"manifest_hash": "0" * 64})
    finding = only(root)
    assert (finding.severity, finding.check) == ("error", "manifest-mismatch")
    assert MOTION.hash[:12] in finding.message


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_provenance(root, text):
    npy(root, "motion", "b").with_suffix(".json").write_text(text)
    assert only(root).check == "provenance"


def test_a_link_out_of_the_folder(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "b.npy"
    npy(root, "motion", "b").rename(outside)
    npy(root, "motion", "b").symlink_to(outside)
    assert only(root).check == "outside-folder"


def test_features_that_are_not_normalised_are_counted(root):
    for video in "ab":
        write_features(root, "clip", video, 2 * random("clip", video, 4), provenance("clip", video))
    finding = only(root)
    assert (finding.severity, finding.check, finding.where) == ("error", "not-normalised", "modality 'clip'")
    assert "up to 1 from 1 in 2 of 4 videos: a, b" in finding.message


def test_rows_of_zeros_have_nothing_to_normalise(root):
    features = random("clip", "b", 4)
    features[1] = 0
    write_features(root, "clip", "b", features, provenance("clip", "b"))
    assert diagnose(root) == []


@pytest.mark.parametrize("factor", [1e4, 1e-4])
def test_a_video_of_another_scale(root, factor):
    write_features(root, "motion", "c", factor * random("motion", "c", 3), provenance("motion", "c"))
    finding = only(root)
    assert (finding.severity, finding.check) == ("warning", "scale")
    assert finding.message.endswith("in 1 of 4 videos: c")


def test_constant_rows_are_counted_in_one_finding(root):
    for video in "ab":
        constant = np.repeat(random("motion", video, 1), 4, axis=0)
        write_features(root, "motion", video, constant, provenance("motion", video))
    finding = only(root)
    assert (finding.severity, finding.check, finding.where) == ("warning", "constant-rows", "modality 'motion'")
    assert "2 of 4 videos: a, b" in finding.message


def test_constant_columns_are_counted_in_one_finding(root):
    for record in RECORDS:
        features = random("motion", record.video, -(-record.frames // 16))
        features[:, 1:] = [0.5, 0]
        write_features(root, "motion", record.video, features, provenance("motion", record.video))
    finding = only(root)
    assert (finding.severity, finding.check, finding.where) == ("warning", "constant-columns", "modality 'motion'")
    assert finding.message.startswith("2 of 3 columns")
    assert "column 1" in finding.message


def test_a_modality_of_zeros_has_no_scale_to_complain_about(root):
    for record in RECORDS:
        write_features(root, "motion", record.video, np.zeros((-(-record.frames // 16), 3)), provenance("motion", "x"))
    assert {finding.check for finding in diagnose(root)} == {"constant-rows", "constant-columns"}


# The folder as a whole


def test_one_video_in_training_and_test(root):
    change_videos(root, d={"frames": 64})
    write_intervals(root / "intervals.csv", INTERVALS[:1])
    for modality in MANIFESTS:  # 'd' is a copy of 'b'
        write_features(root, modality, "d", random(modality, "b", 4), provenance(modality, "b"))
    finding = only(root)
    assert (finding.severity, finding.check) == ("error", "train-test-overlap")
    assert "'b' (train), 'd' (test)" in finding.message


def test_one_source_for_many_videos_is_not_one_video(root):
    """The captions of all videos may stand in one file."""
    for record in RECORDS:
        features = random("clip", record.video, -(-record.frames // 16))
        write_features(root, "clip", record.video, features, {"source_sha256": "captions.json"})
    assert diagnose(root) == []


def test_files_and_folders_that_belong_to_nothing(root):
    write_features(root, "motion", "old", random("motion", "a", 4))
    write_features(root, "audio", "a", random("motion", "a", 4))
    (root / "features" / "notes.txt").write_text("a file of the user's own")
    assert found(root) == {
        ("warning", "extra-file", os.path.join("features", "motion")),  # noqa: PTH118 - as the system writes it
        ("warning", "extra-modality", os.path.join("features", "audio")),  # noqa: PTH118
    }


def test_no_features_at_all(root):
    for path in (root / "features").rglob("*.*"):
        path.unlink()
    assert [finding.check for finding in diagnose(root)] == ["missing"] * 8


def test_all_problems_are_found_together(root):
    change_videos(root, a={"label": ""}, c={"label": "abnormal"})
    write_intervals(root / "intervals.csv", [*INTERVALS, Interval("x", 1, 2), Interval("d", 70, 90)])
    npy(root, "clip", "a").unlink()
    os.truncate(npy(root, "clip", "b"), 30)
    write_features(root, "motion", "c", random("motion", "c", 9), {"manifest_hash": "other"})
    write_features(root, "motion", "old", random("motion", "a", 4))
    assert {finding.check for finding in diagnose(root)} == {
        "no-label",
        "one-class",
        "no-positive-frame",
        "unknown-video",
        "interval-outside",
        "missing",
        "unreadable",
        "manifest-mismatch",
        "length-drift",
        "extra-file",
    }


def test_a_source_that_the_split_divides_is_a_warning(root):
    change_videos(root, **{record.video: {"source": "tape"} for record in RECORDS})
    finding = only(root)
    assert (finding.severity, finding.check) == ("warning", "source-divided")
    assert "divides the source 'tape'" in finding.message
    assert "--resplits" in finding.fix


def test_names_that_suggest_a_divided_source_are_named(tmp_path):
    names = {"door_01_part1": "train", "door_01_Part2": "test", "yard_clip1": "train", "yard_clip2": "train", "gate": "test"}
    write_dataset(tmp_path, DatasetConfig(name="x"), [VideoRecord(n, "normal", 16, 10.0, split) for n, split in names.items()])
    (finding,) = [one for one in diagnose(tmp_path) if one.check == "likely-source-divided"]
    assert finding.severity == "warning"
    assert "'door_01': door_01_part1 (train), door_01_Part2 (test)" in finding.message
    assert "yard" not in finding.message
    assert "column 'source'" in finding.fix
    told = [VideoRecord(n, "normal", 16, 10.0, split, source=n) for n, split in names.items()]
    write_dataset(tmp_path, DatasetConfig(name="x"), told)
    assert not [one for one in diagnose(tmp_path) if one.check.endswith("source-divided")]  # the table knows better
