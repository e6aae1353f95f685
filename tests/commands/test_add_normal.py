"""``add-normal`` as a person meets it: a new run folder that knows more, and one line for every mistake."""

import json
from pathlib import Path

import pytest

from command_line import refused, run
from lego_fusion.data.dataset import Dataset
from lego_fusion.scenes.render import render_scenes

for package in ("av", "cv2"):
    pytest.importorskip(package, reason="pip install 'lego-fusion[video]'")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and the run ``run``, calibrated."""
    root = tmp_path_factory.mktemp("trained")
    render_scenes(root / "source", videos=12, frames=(32, 48), size=(64, 96), seed=11)
    small = ("--snippet-frames", "4", "--stride", "4", "--workers", "1", "--set", "motion.longest_side=64")
    run("extract", root / "source", root / "data", "--modalities", "motion", *small, "--set", "motion.preset=ultrafast")
    run("train", root / "data", root / "run", "--segment-snippets", "1", "--steps", "5")
    run("calibrate", root / "run", root / "data", "--score", "0.5")
    return root


@pytest.fixture(scope="module")
def normal(trained: Path) -> list[str]:
    return [one.video for one in Dataset.open(trained / "data").select(split="test", label="normal")]


def test_a_new_run_knows_more_and_wants_to_be_calibrated(trained: Path, normal: list[str], tmp_path: Path) -> None:
    new, videos = tmp_path / "new", ",".join(normal[:2])
    told = run("add-normal", trained / "run", trained / "data", new, "--videos", videos, "--count", "3", "--json")
    document = json.loads(told.stdout)
    before = json.loads((trained / "run" / "config.json").read_text())["references"]
    assert document["references"] == len(before) + 3
    assert {one["video"] for one in document["added"]} <= set(normal[:2])
    assert document["next"] == f"lego-fusion calibrate {new} {trained / 'data'} --leave-out {videos}"
    assert not (new / "calibration.json").exists() and (trained / "run" / "calibration.json").exists()
    run("calibrate", new, trained / "data", "--score", "0.5")
    video = next((trained / "source" / "videos").glob("*.mp4"))
    assert all(json.loads(line)["kind"] for line in run("watch", video, "--model", new).stdout.splitlines())


def test_people_read_what_was_added_and_what_to_do_next(trained: Path, normal: list[str], tmp_path: Path) -> None:
    told = run("add-normal", trained / "run", trained / "data", tmp_path / "new", "--videos", normal[0])
    assert f"{normal[0]}: frames " in told.stdout and "written: " in told.stdout
    assert "has no calibration" in told.stderr and "next: lego-fusion calibrate" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("{run}", "{data}", "{new}", "--videos", ""), "--videos must name videos"),
        (("{run}", "{data}", "{new}", "--videos", "{normal},{normal}"), "each once"),
        (("{run}", "{data}", "{new}", "--videos", "nobody"), "nobody"),
        (("{run}", "{data}", "{new}", "--videos", "{abnormal}"), "only normal videos can become references"),
        (("{run}", "{data}", "{run}", "--videos", "{normal}"), "the folder is there already"),
        (("{run}", "{data}", "{new}", "--videos", "{normal}", "--count", "0"), "'count' parameter"),
        (("{new}", "{data}", "{new}", "--videos", "{normal}"), "there is no trained model here"),
        (("{run}", "{run}", "{new}", "--videos", "{normal}"), "not a dataset folder"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], says: str, trained: Path, normal: list[str], tmp_path: Path) -> None:
    abnormal = Dataset.open(trained / "data").select(label="abnormal")[0].video
    places = {"run": trained / "run", "data": trained / "data", "new": tmp_path / "new"}
    filled = [one.format(**places, normal=normal[0], abnormal=abnormal) for one in arguments]
    assert says in refused("add-normal", *filled)
    assert not (tmp_path / "new").exists()
