"""``sweep`` as a person meets it: a table, a picture, a chosen model; one line for every mistake; a kill changes nothing."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import command_line
from lego_fusion.data.dataset import write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord

pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")
FILES = {"graphs", "cells", "plan.json", "table.csv", "table.json", "table.md", "pick", "grid.png"}
PAPER = ("--fusion", "lego-paper")
ORDERS = ("--grid", "fusion.order.motion=1..2", "--grid", "fusion.order.text=2,3")
SMALL = (*PAPER, *ORDERS, "--steps", 4, "--seeds", 2)


def run(*arguments: object, code: int = 0, verb: str = "sweep") -> Any:
    return command_line.run(verb, *arguments, code=code, columns=240)


def refused(*arguments: object) -> str:
    return command_line.refused("sweep", *arguments, columns=240)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short videos; in abnormal ones the second half is faster, and told in other words."""
    root, random = tmp_path_factory.mktemp("data") / "street", np.random.default_rng(1)
    names = {"motion": 3, "text": 4}
    manifests = {
        name: Manifest(modality=name, extractor=name, version="1", width=width, stride=8, snippet_frames=8)
        for name, width in names.items()
    }
    records = [
        VideoRecord(f"{split}_{label}_{number}", label, 96, 10.0, split)
        for split in ("train", "test")
        for label in ("normal", "abnormal")
        for number in range(5)
    ]
    intervals = [Interval(record.video, 48, 96) for record in records if record.label == "abnormal"]
    write_dataset(root, DatasetConfig(name="street", stride=8, snippet_frames=8, modalities=manifests), records, intervals)
    for record in records:
        odd = (np.arange(12) >= 6) & (record.label == "abnormal")
        for name, width in names.items():
            write_features(root, name, record.video, random.normal(size=(12, width)) + 1.5 * odd[:, None])
    return root


def test_a_table_a_picture_and_a_chosen_model(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = run(data, out, *SMALL).stdout
    assert "no test video had a part in it" in shown
    assert "test micro AUC" in shown
    assert "test-best" not in shown
    assert {path.name for path in out.iterdir()} == FILES
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    orders = [(row["fusion.order.motion"], row["fusion.order.text"]) for row in rows]
    assert orders == [("1", "2"), ("1", "3"), ("2", "2"), ("2", "3")]
    losses = [float(row["validation loss"]) for row in rows]
    assert ["pick" in row["chosen"] for row in rows] == [loss == min(losses) for loss in losses]
    assert ["default" in row["chosen"] for row in rows] == [False, False, True, False]
    told = json.loads(run(data, out, *SMALL, "--json").stdout)
    assert told["pick"]["validation_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert "test-best" not in told
    chosen = {told["pick"]["configuration"], told["default"]["configuration"]}
    assert told["default"]["values"] == {"fusion.order.motion": 2, "fusion.order.text": 2}
    assert [bool(row["test"]) for row in told["rows"]] == [row["configuration"] in chosen for row in told["rows"]]
    assert not (data / "graphs").exists()
    evaluated = json.loads(run(out / "pick", "--data", data, "--json", verb="evaluate").stdout)
    with_test = json.loads(run(data, out, *SMALL, "--test", "--json").stdout)
    assert with_test["pick"]["values"] == told["pick"]["values"]
    assert evaluated["results"][0]["value"] == pytest.approx(with_test["pick"]["test"]["micro_auc"], abs=0.2)  # one seed of two
    best = max(row["test"]["micro_auc"] for row in with_test["rows"])
    assert with_test["test-best"]["test"]["micro_auc"] == best
    assert "test-best, chosen on the test videos and so no result" in run(data, out, *SMALL, "--test").stdout
    assert "no honest choice" in (out / "table.md").read_text()


def test_settings_of_the_default_stand_beside_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("fusion: {bandwidth_exponent: 0.75}\niterations: 20\n")
    grid = ("--grid", "fusion.references=8,2048", "--grid", "fusion.orders=[1],[1,2]", "--set", "training.k=2")
    out = tmp_path / "out"
    told = json.loads(run(data, out, *grid, "--config", tmp_path / "settings.yaml", "--json").stdout)
    values = [(row["values"]["fusion.references"], row["values"]["fusion.orders"]) for row in told["rows"]]
    assert values == [(8, [1]), (8, [1, 2]), (2048, [1]), (2048, [1, 2])]
    assert told["default"]["configuration"] == 3
    assert told["plan"]["options"] == {"bandwidth_exponent": 0.75}
    shown = run(data, out, *grid, "--config", tmp_path / "settings.yaml").stdout
    assert "pick: fusion.references=" in shown and ", of the default " in shown
    config = json.loads((out / "pick" / "config.json").read_text())
    fusion = config["detector"]["fusion"]["config"]
    picked = told["pick"]["values"]
    assert (fusion["references"], fusion["orders"]) == (picked["fusion.references"], picked["fusion.orders"])
    assert fusion["bandwidth_exponent"] == 0.75
    assert (config["training"]["k"], config["training"]["iterations"]) == (2, 20)
    evaluated = json.loads(run(out / "pick", "--data", data, "--json", verb="evaluate").stdout)
    found = next(one["value"] for one in evaluated["results"] if one["metric"] == "micro_auc")
    assert found == pytest.approx(told["pick"]["test"]["micro_auc"], abs=1e-6)


def test_a_killed_sweep_ends_with_the_same_table(data: Path, tmp_path: Path) -> None:
    request = (*PAPER, "--grid", "fusion.order=1..4", "--grid", "k=1,2", "--seeds", 9, "--steps", 30)
    killed, cells = tmp_path / "killed", tmp_path / "killed" / "cells"
    command = [sys.executable, "-m", "lego_fusion", "sweep", str(data), str(killed), *map(str, request), "--workers", "1"]
    going = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while going.poll() is None and not list(cells.glob("*.npz")):
        time.sleep(0.005)
    going.send_signal(signal.SIGKILL)
    assert going.wait() == -signal.SIGKILL, "it ended before it could be killed: give it more steps"
    there = {path.name: path.read_bytes() for path in cells.glob("*.npz")}
    assert not (killed / "table.csv").exists()
    for folder in (killed, tmp_path / "whole"):
        run(data, folder, *request, "--workers", 1)
    assert len(there) < len(list(cells.iterdir())) == 81
    assert {name: (cells / name).read_bytes() for name in there} == there
    assert (killed / "table.csv").read_bytes() == (tmp_path / "whole" / "table.csv").read_bytes()


def test_videos_of_one_group_are_held_out_together_by_sweep_and_train(data: Path, tmp_path: Path) -> None:
    """Videos that end in the same digit belong together, in the own split too, which is said."""
    options = ("--group-by", r"\d$", "--validation", 0.4, "--steps", 3)
    swept = run(data, tmp_path / "swept", "--grid", "k=1", *options)
    trained = run(data, tmp_path / "trained", *options, verb="train")
    for shown in (swept, trained):
        assert "warning: the split 'own' divides" in shown.stderr
    split = json.loads((tmp_path / "swept" / "plan.json").read_text())["split"]
    assert split["validation"]
    assert not {name[-1] for name in split["train"]} & {name[-1] for name in split["validation"]}
    videos = json.loads((tmp_path / "trained" / "config.json").read_text())["dataset"]["train"]
    assert sorted(videos) == sorted(split["train"])


def test_mistakes_are_one_line(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "unknown key 'speed' (grid)" in refused(data, out, "--grid", "speed=1")
    assert "the grid is empty" in refused(data, out, "--grid", "k=")
    assert "must be an int in [0, 32]" in refused(data, out, *PAPER, "--grid", "fusion.order=1..40")
    assert "changes nothing beside the others" in refused(data, out, "--grid", "fusion.order=1..4")
    assert "one training is the answer" in refused(data, out, "--seeds", 3)
    assert "write 'fusion.references'" in refused(data, out, "--set", "fusion.refrences=3")
    assert "a sweep trains on what a frozen stage makes of features" in refused(data, out, "--fusion", "mlp", "--grid", "k=1,3")
    assert "a sweep chooses by validation videos" in refused(data, out, "--validation", 0)
    assert "The 'mode' parameter of sweep" in refused(data, out, *SMALL, "--mode", "fast")
    assert "The 'cache_type' parameter" in refused(data, out, *SMALL, "--cache-type", "int8")
    assert "--test goes with a grid" in refused(data, out, *SMALL, "--search", 3, "--test")
    assert not out.exists()
    run(data, out, *SMALL)
    assert "holds another sweep" in refused(data, out, *SMALL[:-1], 3)
    assert "not a dataset folder" in refused(tmp_path, out)


def test_a_search_goes_on_and_says_what_it_tried(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="pip install 'lego-fusion[search]'")
    spans = ("--grid", "fusion.order.motion=1..3", "--grid", "learning_rate=1e-4..1e-1", "--grid", "fusion.rows=ordered,sorted")
    space = (*PAPER, *spans, "--steps", 3)
    out = tmp_path / "out"
    first = json.loads(run(data, out, *space, "--search", 3, "--workers", 1, "--json").stdout)
    assert len(first["rows"]) == 4  # and the default
    assert first["rows"][3] == first["default"]
    assert all(1e-4 <= row["values"]["training.learning_rate"] <= 1e-1 for row in first["rows"])
    assert first["default"]["values"] == {"fusion.order.motion": 2, "training.learning_rate": 1e-3, "fusion.rows": "ordered"}
    assert first["pick"]["test"]["micro_auc"] >= 0 and first["default"]["test"]["micro_auc"] >= 0
    assert (out / "search.db").is_file()
    again = json.loads(run(data, out, *space, "--search", 3, "--workers", 1, "--json").stdout)
    assert again["rows"] == first["rows"]
    assert (out / "pick" / "config.json").is_file()
    assert "holds another search" in refused(data, out, *space, "--search", 3, "--steps", 9)
    assert "holds another sweep" in refused(data, out, *SMALL)
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    run(data, tmp_path / "b", *space, "--search", 2, "--workers", 1, "--storage", url)
    shared = json.loads(run(data, tmp_path / "c", *space, "--search", 2, "--workers", 1, "--storage", url, "--json").stdout)
    assert len(shared["rows"]) == 3  # another folder, as of another machine, met the finished study
    assert not (tmp_path / "c" / "search.db").exists()
    wrong = refused(data, tmp_path / "d", *space, "--search", 2, "--storage", "nonsense://nowhere")
    assert "the database of the search cannot be opened" in wrong
