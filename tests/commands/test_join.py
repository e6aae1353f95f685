"""The verb ``join`` as a person meets it, and what the verbs after it say of several domains."""

import json

import numpy as np
import pytest

from command_line import run
from lego_fusion.data.dataset import write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord


@pytest.fixture
def folders(tmp_path):
    """Two folders of eight videos: one number per snippet, larger where it is abnormal."""
    random = np.random.default_rng(0)
    manifest = Manifest(modality="motion", extractor="motion", version="1", width=2, nature="magnitude")
    for name in ("street", "station"):
        config = DatasetConfig(name=name, modalities={"motion": manifest})
        records = [
            VideoRecord(f"v{n}", "abnormal" if n % 2 else "normal", frames=160, fps=10.0, split="test" if n > 3 else "train")
            for n in range(8)
        ]
        truth = [Interval(f"v{n}", 32, 64) for n in range(1, 8, 2)]
        dataset = write_dataset(tmp_path / name, config, records, truth)
        for number in range(8):
            values = random.normal(size=(10, 2))
            values[2:4] += 5 * (number % 2)
            write_features(dataset.root, "motion", f"v{number}", values)
    return tmp_path / "street", tmp_path / "station"


def test_join_train_and_evaluate(folders, tmp_path):
    said = run("join", *folders, "--out", tmp_path / "both")
    assert "street: 8 videos, 4 abnormal, 4 to train on" in said.stdout
    assert "16 videos of 2 domains, motion" in said.stdout
    assert "note: the videos of 'street' are named 'street_...'" in said.stderr
    trained = run("train", tmp_path / "both", tmp_path / "run", "--steps", 5)
    assert "domain" in trained.stdout and "station" in trained.stdout
    measured = run("evaluate", tmp_path / "run", "--data", tmp_path / "both", "--json")
    results = json.loads(measured.stdout)["results"]
    assert [one["domain"] for one in results if one["metric"] == "micro_auc"] == ["", "street", "station"]


def test_join_as_json(folders, tmp_path):
    document = json.loads(run("join", *folders, "--out", tmp_path / "both", "--json").stdout)
    assert document["domains"] == {"street": 8, "station": 8} and document["modalities"] == ["motion"]


def test_mistakes_are_one_line(folders, tmp_path):
    for arguments in ((folders[0],), (folders[0], folders[0]), (folders[0], tmp_path / "nowhere")):
        result = run("join", *arguments, "--out", tmp_path / "both", code=2)
        assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
        assert result.stdout == "" and not (tmp_path / "both").exists()


def test_other_verbs_do_not_write_into_a_joined_folder(folders, tmp_path):
    run("join", *folders, "--out", tmp_path / "both")
    np.save(tmp_path / "v1.npy", np.ones((3, 2), np.float32))
    (tmp_path / "labels.csv").write_text("video,label\nv1,normal\n")
    features = ("--features", f"clip={tmp_path}", "--labels", tmp_path / "labels.csv")
    assert "holds a joined dataset" in run("import", tmp_path / "both", *features, code=2).stderr


def test_extract_does_not_write_into_a_joined_folder(folders, tmp_path):
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
    from lego_fusion.scenes.render import render_scenes

    run("join", *folders, "--out", tmp_path / "both")
    scenes = render_scenes(tmp_path / "scenes", videos=2, frames=(16, 16), size=(64, 96))
    refused = run("extract", scenes.folder, tmp_path / "both", "--modalities", "motion", "--workers", 1, code=2)
    assert "the dataset folder was joined from others" in refused.stderr
