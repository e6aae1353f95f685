"""``explain`` as a person meets it: pages and tables, one line for every mistake, nothing half written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from command_line import refused, run
from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.runs import train_run
from lego_fusion.scenes.render import render_scenes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A dataset folder of 61 frames a video, and two runs that differ in their seed."""
    root, random = tmp_path_factory.mktemp("explain"), np.random.default_rng(2)
    manifests = {
        name: Manifest(modality=name, extractor=name, version="1", width=3, stride=8, snippet_frames=8)
        for name in ("motion", "text")
    }
    records = [VideoRecord(f"calm_{n}", "normal", 61, 10.0, "train") for n in range(4)]
    records += [VideoRecord(f"odd_{n}", "abnormal", 61, 10.0, "train") for n in range(2)]
    records += [VideoRecord("calm", "normal", 61, 10.0, "test"), VideoRecord("odd", "abnormal", 61, 10.0, "test")]
    intervals = [Interval(one.video, 24, 48) for one in records if one.label == "abnormal"]
    write_dataset(
        root / "data", DatasetConfig(name="yard", stride=8, snippet_frames=8, modalities=manifests), records, intervals
    )
    for one in records:
        for name in manifests:
            values = 3 * np.eye(3)[0] + 0.2 * random.normal(size=(8, 3))
            if one.label == "abnormal":
                values[3:6] += 3 * (np.eye(3)[1] - np.eye(3)[0])
            write_features(root / "data", name, one.video, values)
    for seed in (0, 1):
        given = {"nodes": 8, "smoothing": 0.0, "training": TrainingConfig(steps=20, seed=seed)}  # edges where they were planted
        train_run(Dataset.open(root / "data"), root / f"seed-{seed}", **given)
        train_run(Dataset.open(root / "data"), root / f"paper-{seed}", method="lego-paper", **given)
    return root / "data", [root / "seed-0", root / "seed-1"]


def test_one_video_gives_a_table_a_page_and_a_file_per_event(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    data, (model, _) = made
    told = run("explain", model, "odd", "--data", data, "--out", tmp_path)
    assert "without motion" in told.stdout
    assert "24 to 47" in told.stdout
    assert f"open {tmp_path / 'odd.html'}" in told.stdout.replace("\n", " ")
    assert "no picture of odd" in told.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"odd.html", "odd-event-1.json"}
    assert "its video file is not there" in (tmp_path / "odd.html").read_text()


def test_cells_of_a_rendered_video_are_laid_over_its_picture(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    render_scenes(tmp_path / "src", videos=6, frames=(24, 36), size=(64, 96), seed=3, kinds=["fast"])
    run("extract", tmp_path / "src", tmp_path / "data", "--modalities", "motion,motion-cells", "--snippet-frames", 8)
    run("train", tmp_path / "data", tmp_path / "run", "--steps", 5)
    dataset = Dataset.open(tmp_path / "data")
    video = next(one.video for one in dataset.select(split="test", label="abnormal"))
    told = run(
        "explain", tmp_path / "run", video, "--data", tmp_path / "data", "--out", tmp_path / "out", "--threshold", 0, "--json"
    )
    (event,) = json.loads(told.stdout)["videos"][0]["events"]
    (heat,) = event["heat_maps"]
    assert np.shape(heat["values"]) == dataset.modalities["motion-cells"].grid
    page = (tmp_path / "out" / f"{video}.html").read_text()
    assert "Orange: cells unlike any known-normal cell there (motion-cells)" in page
    assert page.count("data:image/jpeg") >= 2


def test_a_split_gives_a_list_of_pages(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    data, (model, _) = made
    for number, arguments in enumerate((("test",), ("--split", "test"), ("calm", "odd", "calm"))):
        out = tmp_path / str(number)
        told = run("explain", model, *arguments, "--data", data, "--out", out, "--no-images")
        assert {path.name for path in out.iterdir()} == {"calm.html", "odd.html", "odd-event-1.json", "index.html"}
        assert "no event" in told.stdout
        assert "calm (" in told.stdout
        assert "no picture" not in told.stderr
    assert (
        len(
            json.loads(run("explain", model, "all", "--data", data, "--out", tmp_path / "all", "--no-images", "--json").stdout)[
                "videos"
            ]
        )
        == 8
    )


def test_json_is_one_document_and_captions_are_read(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    data, (model, _) = made
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"odd": ["<script>a cart</script>"] * 61, "calm_0": ["people"] * 61}))
    arguments = ("odd", "--data", data, "--out", tmp_path / "out", "--captions", captions, "--json")
    told = json.loads(run("explain", model, *arguments, "--removal", "drop-term").stdout)
    (video,) = told["videos"]
    assert video["removal"] == "drop-term"
    assert video["headlines"][0].startswith("Frames 24 to 47")
    assert video["events"][0]["captions"] == ["<script>a cart</script>"]
    assert "cart" in [one["word"] for one in video["events"][0]["words"]]
    assert "<script>" not in Path(told["files"]["pages"][0]).read_text()


def test_without_a_video_the_weights_are_told(made: tuple[Path, list[Path]]) -> None:
    data, runs = made
    told = run("explain", runs[0], "--data", data)
    assert "seed-0 lives in the known world: how unlike the known normal segments" in told.stdout
    assert "degree, order 2" in told.stdout
    assert "no learned operator" not in told.stderr
    document = json.loads(run("explain", *runs, "--data", data, "--json").stdout)
    assert set(document["weights"]) == {"seed-0", "seed-1"}
    weights = document["weights"]["seed-0"]
    assert weights == document["weights"]["seed-1"]  # nothing is random
    assert weights["alpha"] == 0.0
    assert set(weights["degrees"]) == {"motion", "text"}


def test_without_a_video_the_operator_is_told(made: tuple[Path, list[Path]]) -> None:
    data = made[0]
    papers = [data.parent / "paper-0", data.parent / "paper-1"]
    told = run("explain", papers[0], "--data", data).stdout
    assert "of the variation of the fused graph" in told
    assert "deviation" not in told
    both = run("explain", *papers, "--data", data).stdout
    assert "deviation" in both
    assert "paper-1 (seed 1):" in both
    document = json.loads(run("explain", *papers, "--data", data, "--json").stdout)
    assert document["seeds"] == ["0", "1"]
    assert document["weights"] == {}
    assert sum(document["variance_by_order"].values()) == pytest.approx(1, abs=1e-6)


def test_what_modalities_contribute_is_told_of_every_model(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    data, runs = made
    told = run("explain", runs[0], "--data", data)
    assert "micro AUC of the test videos: 1.000" in told.stdout
    assert "removal: permute, 16 draws of normal training videos" in told.stdout.replace("\n", " ")
    assert "contributions have no interval" in told.stderr  # one video of either class cannot be drawn again
    document = json.loads(run("explain", *runs, "--data", data, "--json").stdout)
    values = document["contributions"]
    assert sum(one["value"] for one in values["modalities"]) == pytest.approx(values["full"] - values["baseline"])
    training = TrainingConfig(steps=2, snapshot_every=1)  # snapshots of a model without an operator are no mistake
    train_run(Dataset.open(data), tmp_path / "concat", method="concat", nodes=8, training=training)
    told = run("explain", tmp_path / "concat", "--data", data)
    assert "contributes" in told.stdout
    assert "has no learned operator whose terms can be read" in told.stderr
    blind = Path(shutil.copytree(data, tmp_path / "blind"))
    dataset = Dataset.open(blind)
    write_dataset(blind, dataset.config, [one for one in dataset.videos if one.split == "train"])
    told = run("explain", runs[0], "--data", blind)
    assert "is not measured: no video is in the split 'test'" in told.stderr
    assert "no learned operator" in refused("explain", tmp_path / "concat", "--data", data, "--evolution")
    assert "nothing can be said of this run" in refused("explain", tmp_path / "concat", "--data", blind)


def test_a_run_with_snapshots_tells_how_its_operator_came_about(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")
    data, runs = made
    training = TrainingConfig(steps=10, snapshot_every=4)
    train_run(Dataset.open(data), tmp_path / "run", method="lego-paper", nodes=8, training=training)
    for number, flag in enumerate(((), ("--evolution",))):
        out = tmp_path / str(number)
        told = run("explain", tmp_path / "run", "--data", data, "--out", out, *flag).stdout
        assert "run: share of the fused graph's variation over the training" in told
        assert {path.name for path in out.iterdir()} == {"run-evolution.csv", "run-evolution.png"}
    lines = (tmp_path / "0" / "run-evolution.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "0", "4", "8", "10"]
    for line in lines[1:]:
        assert sum(map(float, line.split(",")[1:])) == pytest.approx(1, abs=1e-4)
    told = json.loads(run("explain", tmp_path / "run", "--data", data, "--out", out, "--json").stdout)
    last = {name: line[-1] for name, line in told["evolution"]["run"]["by_modalities"].items()}
    assert last == pytest.approx(told["variance_by_support"])
    missing = refused("explain", data.parent / "paper-0", "--data", data, "--evolution")
    assert "kept no snapshots" in missing
    assert "--snapshots STEPS" in missing
    assert "--evolution is of a run" in refused("explain", runs[0], "odd", "--data", data, "--evolution")


def test_mistakes_are_told_in_one_line_and_nothing_is_written(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    data, runs = made
    out = tmp_path / "out"
    common = ("--data", data, "--out", out)
    assert "has no video 'nobody'" in refused("explain", runs[0], "nobody", *common)
    assert "not a dataset folder" in refused("explain", runs[0], "odd", "--data", tmp_path / "none", "--out", out)
    assert "there is no trained model here" in refused("explain", tmp_path / "none", "odd", *common)
    assert "'removal' parameter of explain" in refused("explain", runs[0], "odd", *common, "--removal", "zero")
    assert "'threshold' parameter of explain" in refused("explain", runs[0], "odd", *common, "--threshold", "2")
    assert "no video is in the split 'none'" in refused("explain", runs[0], *common, "--split", "none")
    assert "not a folder of videos" in refused("explain", runs[0], "odd", *common, "--videos", tmp_path / "none")
    assert "videos are explained by one run" in refused("explain", *runs, "odd", *common)
    assert "file cannot be read" in refused("explain", runs[0], "odd", *common, "--captions", tmp_path / "none.json")
    poor = Path(shutil.copytree(data, tmp_path / "poor"))
    config = Dataset.open(poor).config
    motion = {"motion": config.modalities["motion"]}
    records, truth = Dataset.open(poor).videos, [one for group in Dataset.open(poor).ground_truth.values() for one in group]
    write_dataset(poor, config.model_copy(update={"modalities": motion}), records, truth)
    assert "modality 'text' is missing" in refused("explain", runs[0], "odd", "--data", poor, "--out", out)
    assert not out.exists()
