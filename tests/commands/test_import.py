"""The verb ``import`` as a person meets it: a folder in TEVAD's layout becomes a dataset; each mistake is one line."""

import json

import numpy as np
import pytest

from command_line import refused, run
from lego_fusion.data.dataset import Dataset


@pytest.fixture
def tevad(tmp_path, monkeypatch):
    """Six videos of Ped2's names in TEVAD's layout; the text of the third is shorter than its video."""
    monkeypatch.chdir(tmp_path)
    lists = {"train": ["Test002", "Test006", "Train007"], "test": ["Test001", "Train001", "Train002"]}
    for folder in ("i3d", "emb"):
        (tmp_path / folder).mkdir()
    truth = []
    for split, names in lists.items():
        (tmp_path / f"{split}.list").write_text("".join(f"/home/x/{name}_i3d.npy\n" for name in names))
        for rows, name in enumerate(names, start=3):
            np.save(tmp_path / "i3d" / f"{name}_i3d.npy", np.full((rows, 10, 8), rows, np.float32))
            np.save(tmp_path / "emb" / f"{name}_emb.npy", np.full((rows - (name == "Train007"), 4), rows, np.float32))
            if split == "test":
                truth.append(np.zeros(16 * rows))
                truth[-1][8:20] = name.startswith("Test")
    np.save(tmp_path / "gt.npy", np.concatenate(truth))
    return ["--features", "clip=i3d", "--features", "text=emb", "--train-list", "train.list", "--test-list", "test.list"]


BENCHMARK = ("--benchmark", "ped2", "--allow-partial", "--text-length", "repeat-last")


def test_import_and_what_it_says(tevad, tmp_path):
    result = run("import", "out", *tevad, *BENCHMARK, "--ground-truth", "gt.npy", "--fps", "10", "--magnitude", "clip")
    assert "train: 3 videos, 2 of them abnormal" in result.stdout
    assert "clip (10 x 8), text (1 x 4), 1 intervals, 0 feature files copied" in result.stdout
    assert "UCSD Ped2: frame-level micro AUC" in result.stdout
    assert "split 'train'): expected 10 videos" in result.stderr
    dataset = Dataset.open("out")
    assert dataset.name == "out"
    assert dataset.modalities["clip"].nature == "magnitude"
    assert dataset.features("text", "Train007").shape == (5, 4)
    assert dataset.frame_labels("Test001").nonzero()[0].tolist() == list(range(8, 20))
    assert run("doctor", "out", "--json").stdout


def test_a_model_of_imported_features_is_followed_by_explain_not_by_score(tevad):
    run("import", "out", *tevad, *BENCHMARK, "--ground-truth", "gt.npy", "--fps", "10")
    told = run("train", "out", "model", "--fusion", "concat", "--steps", "2").stdout
    assert "next: lego-fusion explain model test --data out" in told and "lego-fusion score" not in told


def test_the_document(tevad):
    document = json.loads(run("import", "out", *tevad, *BENCHMARK, "--ground-truth", "gt.npy", "--json").stdout)
    assert document["splits"] == {"train": {"normal": 1, "abnormal": 2}, "test": {"normal": 2, "abnormal": 1}}
    assert document["modalities"] == {"clip": {"width": 8, "crops": 10}, "text": {"width": 4, "crops": 1}}
    assert (document["videos"], document["copied"], document["intervals"]) == (6, 0, 1)


def test_npz_files_of_a_plain_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, video in enumerate(("door_01", "door_02")):
        np.savez(tmp_path / f"{video}.npz", np.full((2, 3), number, np.float32))
    (tmp_path / "labels.csv").write_text("video,label,domain\ndoor_01,normal,north\ndoor_02,abnormal,south\n")
    assert "2 feature files copied" in run("import", "out", "--features", "clip=.", "--labels", "labels.csv").stdout
    dataset = Dataset.open("out")
    assert [record.domain for record in dataset.videos] == ["north", "south"]
    assert dataset.features("clip", "door_02").tolist() == [[1, 1, 1], [1, 1, 1]]


def test_labels_by_place_and_by_table(tevad, tmp_path):
    place = ["--abnormal-first", "train=2", "--abnormal-first", "test=1", "--text-length", "repeat-last"]
    run("import", "out", *tevad, *place)
    by_place = [(record.video, record.label) for record in Dataset.open("out").videos]
    rows = "".join(f"{video},{label},{'train' if number < 3 else 'test'}\n" for number, (video, label) in enumerate(by_place))
    (tmp_path / "labels.csv").write_text("video,label,split\n" + rows)
    run("import", "again", *tevad[:4], "--labels", "labels.csv", "--text-length", "repeat-last")
    assert Dataset.open("again").videos == Dataset.open("out").videos


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--benchmark", "ped3"], ["'ped2'", "'ped3'"]),
        (["--benchmark", "ped2"], ["split 'train'", "10 videos"]),
        (["--benchmark", "ped2", "--allow-partial"], ["shorter than the video", "'Train007'", "repeat-last"]),
        ([*BENCHMARK, "--abnormal-first", "train=3"], ["disagree", "'Train007'"]),
        ([*BENCHMARK, "--abnormal-first", "train=x"], ["SPLIT=NUMBER"]),
        ([*BENCHMARK, "--abnormal-first", "odd=1"], ["'odd'"]),
        ([*BENCHMARK, "--files", "audio={video}.npy"], ["'audio'"]),
        ([*BENCHMARK, "--files", "clip=../{video}.npy"], ["stay in its folder"]),
        ([*BENCHMARK, "--features", "clip=emb"], ["each name once"]),
        ([*BENCHMARK, "--features", "more=nowhere"], ["no such feature folder", "'more'"]),
        ([*BENCHMARK, "--ground-truth", "nothing.npy"], ["nothing.npy"]),
        (["--benchmark", "ped2", "--text-length", "pad"], ["'resample'", "'pad'"]),
        ([], ["nothing says whether", "'Test002'"]),
    ],
)
def test_mistakes_are_one_line(tevad, tmp_path, arguments, words):
    line = refused("import", "out", *tevad, *arguments)
    assert all(word in line for word in words), line
    assert not (tmp_path / "out").exists()


def test_no_videos_are_named(tevad):
    assert "--train-list" in refused("import", "out", *tevad[:4])
