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
from typer.testing import CliRunner

from lego_fusion.cli import app
from lego_fusion.data.annotations import Interval
from lego_fusion.data.dataset import DatasetConfig, VideoRecord, write_dataset, write_features
from lego_fusion.data.manifest import Manifest

pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")
FILES = {"graphs", "trials", "plan.json", "table.csv", "table.json", "table.md", "pick", "grid.png"}
SMALL = ("--grid", "order.motion=1..2", "--grid", "order.text=1,3", "--steps", 4, "--seeds", 2)


def run(*arguments: object, code: int = 0, verb: str = "sweep") -> Any:
    result = CliRunner(env={"COLUMNS": "240"}).invoke(app, [verb, *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: object) -> str:
    """The one line with which a command is refused; nothing on stdout."""
    result = run(*arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stdout == ""
    return lines[0]


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
    assert "no test video was looked at" in shown
    assert "test micro" not in shown
    assert "test-best" not in shown
    assert {path.name for path in out.iterdir()} == FILES
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [(row["order.motion"], row["order.text"]) for row in rows] == [("1", "1"), ("1", "3"), ("2", "1"), ("2", "3")]
    losses = [float(row["validation loss"]) for row in rows]
    assert [row["chosen"] for row in rows] == ["pick" if loss == min(losses) else "" for loss in losses]
    told = json.loads(run(data, out, *SMALL, "--json").stdout)
    assert told["pick"]["validation_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert "test-best" not in told
    assert all(row["test"] == {} for row in told["rows"])
    assert not (data / "graphs").exists()
    evaluated = json.loads(run(out / "pick", "--data", data, "--json", verb="evaluate").stdout)
    with_test = json.loads(run(data, out, *SMALL, "--test", "--json").stdout)
    assert with_test["pick"]["values"] == told["pick"]["values"]
    assert evaluated["results"][0]["value"] == pytest.approx(with_test["pick"]["test"]["micro_auc"], abs=0.2)  # one seed of two
    best = max(row["test"]["micro_auc"] for row in with_test["rows"])
    assert with_test["test-best"]["test"]["micro_auc"] == best
    assert "test-best, chosen on the test videos and so no result" in run(data, out, *SMALL, "--test").stdout
    assert "no honest choice" in (out / "table.md").read_text()


def test_a_killed_sweep_ends_with_the_same_table(data: Path, tmp_path: Path) -> None:
    request = ("--grid", "order=1..4", "--grid", "k=1,2", "--seeds", 9, "--steps", 30)
    killed, trials = tmp_path / "killed", tmp_path / "killed" / "trials"
    command = [sys.executable, "-m", "lego_fusion", "sweep", str(data), str(killed), *map(str, request), "--workers", "1"]
    going = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while going.poll() is None and not list(trials.glob("*.safetensors")):
        time.sleep(0.005)
    going.send_signal(signal.SIGKILL)
    assert going.wait() == -signal.SIGKILL, "it ended before it could be killed: give it more steps"
    there = {path.name: path.read_bytes() for path in trials.glob("*.safetensors")}
    assert not (killed / "table.csv").exists()
    for folder in (killed, tmp_path / "whole"):
        run(data, folder, *request, "--workers", 1)
    assert len(there) < len(list(trials.iterdir())) == 3
    assert {name: (trials / name).read_bytes() for name in there} == there
    assert (killed / "table.csv").read_bytes() == (tmp_path / "whole" / "table.csv").read_bytes()


def test_videos_of_one_group_are_held_out_together_by_sweep_and_train(data: Path, tmp_path: Path) -> None:
    """Videos that end in the same digit belong together, in the own split too, which is said."""
    options = ("--group-by", r"\d$", "--validation", 0.4, "--steps", 3)
    swept = run(data, tmp_path / "swept", "--grid", "order=1", *options)
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
    assert "unknown parameter 'speed' in the grid" in refused(data, out, "--grid", "speed=1")
    assert "the grid is empty" in refused(data, out, "--grid", "k=")
    assert "must be an int in [0, 32]" in refused(data, out, "--grid", "order=1..40")
    assert "a sweep chooses by validation videos" in refused(data, out, "--validation", 0)
    assert "The 'mode' parameter of sweep" in refused(data, out, *SMALL, "--mode", "fast")
    assert "The 'cache_type' parameter" in refused(data, out, *SMALL, "--cache-type", "int8")
    assert "--test goes with a grid" in refused(data, out, *SMALL, "--search", 3, "--test")
    assert not out.exists()
    run(data, out, *SMALL)
    assert "holds another sweep" in refused(data, out, *SMALL, "--seeds", 3)
    assert "not a dataset folder" in refused(tmp_path, out)


def test_a_search_goes_on_and_says_what_it_tried(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="pip install 'lego-fusion[search]'")
    space = ("--grid", "order.motion=1..3", "--grid", "learning_rate=1e-4..1e-1", "--grid", "k=1,3", "--steps", 3)
    out = tmp_path / "out"
    first = json.loads(run(data, out, *space, "--search", 3, "--workers", 1, "--json").stdout)
    assert len(first["rows"]) == 3
    assert all(1e-4 <= row["values"]["learning_rate"] <= 1e-1 for row in first["rows"])
    assert (out / "search.db").is_file()
    again = json.loads(run(data, out, *space, "--search", 3, "--workers", 1, "--json").stdout)
    assert again["rows"] == first["rows"]
    assert (out / "pick" / "config.json").is_file()
    assert "holds another search" in refused(data, out, *space, "--search", 3, "--steps", 9)
    assert "holds another sweep" in refused(data, out, *SMALL)
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    run(data, tmp_path / "b", *space, "--search", 2, "--workers", 1, "--storage", url)
    shared = json.loads(run(data, tmp_path / "c", *space, "--search", 2, "--workers", 1, "--storage", url, "--json").stdout)
    assert len(shared["rows"]) == 2  # another folder, as of another machine, met the finished study
    assert not (tmp_path / "c" / "search.db").exists()
    wrong = refused(data, tmp_path / "d", *space, "--search", 2, "--storage", "nonsense://nowhere")
    assert "the database of the search cannot be opened" in wrong
