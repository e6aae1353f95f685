"""``compare`` as a person meets it: one table, one line for every mistake, and a killed run that ends with the same table."""

import json
import os
import re
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


def run(*arguments: object, code: int = 0) -> Any:
    return command_line.run("compare", *arguments, code=code, columns=240)


def refused(*arguments: object) -> str:
    return command_line.refused("compare", *arguments, columns=240)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty short videos; in abnormal ones the second half is faster, and told in other words."""
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
    config = DatasetConfig(name="street", stride=8, snippet_frames=8, modalities=manifests)
    write_dataset(root, config, records, intervals)
    for record in records:
        odd = (np.arange(12) >= 6) & (record.label == "abnormal")
        for name, width in names.items():
            write_features(root, name, record.video, random.normal(size=(12, width)) + 1.5 * odd[:, None])
    return root


QUICK = ("--workers", 1, "--seeds", 2, "--steps", 5, "--fusions", "lego,concat")
FILES = {"plan.json", "cells", "results.jsonl", "table.md", "table.json", "comparison.png"}


def test_a_table_for_people_and_a_document_for_machines(data: Path, tmp_path: Path) -> None:
    arguments = (data, "--out", tmp_path / "out", *QUICK, "--modality-sets", "motion+text,text", "--test-best")
    shown = run(*arguments).stdout
    assert "motion + text: street, own split, 2 seeds" in shown
    for method in ("lego", "concat", "nearest-neighbours", "flow-energy"):
        assert f"│ {method} " in shown
    assert "optimism" in shown
    assert "minus that of concat" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    told = json.loads(run(*arguments, "--json").stdout)
    assert {path: path.read_bytes() for path in before} == before  # a finished one is only read, times included
    assert [row["method"] for row in told["rows"]].count("lego") == 2
    assert [row["method"] for row in told["rows"]].count("flow-energy") == 1
    assert all(row["gap"] is not None for row in told["rows"] if row["method"] == "lego")
    assert set(told["files"]) == {"records", "markdown", "json", "figure"}
    assert "baseline best" not in shown
    best = json.loads(run(*arguments, "--baseline", "best", "--json").stdout)  # the cells are the same for any baseline
    assert best["baseline"] == "best"


def test_resplits_all_fusions_and_another_figure(data: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    options = ("--workers", 1, "--seeds", 1, "--steps", 2, "--fusions", "all", "--resplits", 2, "--figure", picture)
    told = json.loads(run(data, "--out", tmp_path / "out", *options, "--no-references", "--json").stdout)
    methods = [row["method"] for row in told["rows"]]
    assert "mtn" not in methods
    assert "tensor" in methods
    assert any("mtn is left out" in rule for rule in told["rules"])
    assert all(row["deviation"] is not None for row in told["rows"])
    assert b"<svg" in picture.read_bytes()


def test_a_fusion_that_fails_is_a_row_and_the_rest_goes_on(data: Path, tmp_path: Path) -> None:
    conditions = ("--conditions", "clean,text:missing=drop-term")
    shown = run(data, "--out", tmp_path / "out", *QUICK, *conditions)
    assert re.search(r"│ text:missing=drop-term │ concat +│ +- │ +failed │", shown.stdout)
    assert re.search(r"│ text:missing=drop-term │ lego +│ +[\d,]+ │ +\d", shown.stdout)
    assert "warning: concat on motion + text, street, text:missing=drop-term: 2 of 2 cells failed: " in shown.stderr
    line = refused(
        data,
        "--out",
        tmp_path / "none",
        "--fusions",
        "concat",
        "--no-references",
        *QUICK[:6],
        *conditions[:1],
        "text:missing=drop-term",
    )
    assert "nothing could be compared; concat on motion + text (street" in line


def test_without_matplotlib_there_is_everything_but_the_picture(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    shown = run(data, "--out", tmp_path / "out", *QUICK)
    assert "warning: no figure: this needs the package 'matplotlib'" in shown.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"comparison.png"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--fusions", "lego,glue"), "'fusions' parameter of compare must be one of 'lego'"),
        (("--modality-sets", "motion+audio"), "modality 'audio' is missing (dataset 'street')"),
        (("--baseline", "mlp"), "'baseline' parameter of compare must be one of 'lego', 'concat'"),
        (("--resplits", -1), "'count' parameter of resplits must be an int in [1, inf). Got -1"),
        (("--conditions", "rain"), "this is no condition ('rain')"),
        (("--figure", "picture.doc"), "'figure' parameter of compare must be one of '.png', '.svg', '.pdf'"),
        (("--workers", 0), "'workers' parameter of compare"),
        (("--validation", 0.99), "'validation' parameter of compare"),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_nothing(data: Path, tmp_path: Path, options: tuple, line: str) -> None:
    assert line in refused(data, "--out", tmp_path / "out", *QUICK, *options)
    assert not (tmp_path / "out").exists()


def test_other_training_in_a_folder_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    run(data, "--out", tmp_path, *QUICK)
    line = refused(data, "--out", tmp_path, *QUICK, "--steps", 6)
    assert "the folder holds another comparison" in line
    assert "training.steps 5 there, 6 asked for" in line
    assert "not a dataset folder" in refused(tmp_path, "--out", tmp_path / "out", *QUICK)


def test_show_is_the_table_of_what_is_finished(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(data, "--out", out, *QUICK)
    for path in (out / "cells").glob("*concat*seed-1*"):
        path.unlink()
    before = sorted(path.name for path in (out / "cells").iterdir())
    shown = run(data, "--out", out, *QUICK, "--fusions", "lego,concat,add", "--show")
    for row in ("lego +│ 1 of 1", "concat +│ 1 of 2", "add +│ 0 of 2", "nearest-neighbours │ 1 of 1"):
        assert re.search(row, shown.stdout), row
    assert "warning: not finished: 3 of 7 cells are missing; means are over the finished ones alone" in shown.stderr
    assert sorted(path.name for path in (out / "cells").iterdir()) == before
    told = json.loads(run(data, "--out", out, *QUICK, "--show", "--json").stdout)
    assert told["unfinished"] == 1
    assert {row["method"]: (row["cells"], row["planned"]) for row in told["rows"]}["concat"] == (1, 2)
    assert "training.steps 5 there, 9 asked for" in refused(data, "--out", out, *QUICK, "--steps", 9, "--show")
    assert "no cell of this comparison is finished" in refused(data, "--out", tmp_path / "none", *QUICK, "--show")
    run(data, "--out", out, *QUICK)  # and the comparison goes on as ever


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_stopped_comparison_prints_what_it_has(data: Path, tmp_path: Path, number: int, workers: int) -> None:
    request = (data, "--seeds", 2, "--steps", 1500, "--fusions", "lego,concat,mlp", "--out", tmp_path / "out")
    command = [sys.executable, "-m", "lego_fusion", "compare", *map(str, request), "--workers", str(workers)]
    wide = os.environ | {"COLUMNS": "240"}
    going = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=wide)
    while going.poll() is None and not list((tmp_path / "out" / "cells").glob("*.npz")):
        time.sleep(0.01)
    going.send_signal(number)
    shown, said = going.communicate()
    assert going.returncode == 130, said
    assert re.search(r"│ \d of [12] │", shown)
    assert re.search(r"warning: not finished: \d of 7 cells are missing", said)
    assert "stopped; the same command goes on where it was" in said


def test_groups_of_videos_are_never_divided(data: Path, tmp_path: Path) -> None:
    options = ("--workers", 1, "--seeds", 1, "--steps", 2, "--fusions", "lego", "--group-by", r"\d+$")
    shown = run(data, "--out", tmp_path / "out", *options, "--resplits", 2)
    assert "no re-split divides a source; they train on" in shown.stderr
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    for split in plan["datasets"][0]["splits"]:
        assert not {name[-1] for name in split["train"]} & {name[-1] for name in split["test"]}
    own = run(data, "--out", tmp_path / "own", *options)
    assert "the split 'own' divides 5 of the sources" in own.stderr
    assert "no column is called so" in refused(data, "--out", tmp_path / "no", *options[:-1], "tape")


def timeless(folder: Path) -> tuple[str, str]:
    """Records and table as text, without how long anything took."""
    records = re.sub(r'"(train|score)_seconds":[^,]*', r'"\1_seconds":0', (folder / "results.jsonl").read_text())
    return records, re.sub(r" [^|]* \| [^|]* \|$", " |", (folder / "table.md").read_text(), flags=re.MULTILINE)


def test_a_killed_comparison_ends_with_the_same_table(data: Path, tmp_path: Path) -> None:
    request = (data, "--seeds", 3, "--steps", 30, "--fusions", "lego,concat,add", "--resplits", 2)
    killed, cells = tmp_path / "killed", tmp_path / "killed" / "cells"
    command = [sys.executable, "-m", "lego_fusion", "compare", *map(str, request), "--out", str(killed), "--workers", "1"]
    going = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while going.poll() is None and len(list(cells.glob("*.npz"))) < 2:
        time.sleep(0.005)
    going.send_signal(signal.SIGKILL)
    assert going.wait() == -signal.SIGKILL, "it ended before it could be killed: give it more steps"
    there = {path.name: path.read_bytes() for path in cells.glob("*.npz")}
    assert not (killed / "table.md").exists()
    run(*request, "--out", killed, "--workers", 1)
    run(*request, "--out", tmp_path / "whole", "--workers", 1)
    assert len(there) < len(list(cells.iterdir())) == len(list((tmp_path / "whole" / "cells").iterdir())) == 18
    assert {name: (cells / name).read_bytes() for name in there} == there
    assert timeless(killed) == timeless(tmp_path / "whole")


def test_settings_belong_to_a_fusion_by_its_name(data: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("lego-paper: {zero_order: ones}\nmlp: {hidden: 5}\nhidden: 7\n")
    given = ("--fusions", "lego,lego-paper,mlp", "--set", "lego.references=9", "--set", "training.iterations=5", "--steps", 3)
    request = (data, "--out", tmp_path / "out", "--config", tmp_path / "settings.yaml", *given, "--workers", 1, "--seeds", 1)
    told = json.loads(run(*request, "--baseline", "mlp", "--json").stdout)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["options"] == {"lego-paper": {"zero_order": "ones"}, "mlp": {"hidden": 5}, "lego": {"references": 9}}
    assert (plan["hidden"], plan["training"]["iterations"], plan["training"]["steps"]) == (7, 5, 3)
    assert {"lego with references=9.", "32 segments a video, 7 units in the head."} <= set(told["rules"])
    parameters = {row["method"]: row["parameters"] for row in told["rows"]}
    layers = (7 * 5 + 5) + (5 * 32 + 32)  # 3 + 4 columns, 5 hidden units, 32 outputs
    assert parameters["mlp"] == layers + (32 * 7 + 7) + (7 + 1)
    assert "write 'lego.references'" in refused(*request, "--set", "fusion.references=2")
    assert "'concat.x' is of another fusion" in refused(*request, "--set", "concat.x=2")
    assert "must be an int in [1, inf). Got 0" in refused(data, "--out", tmp_path / "b", "--set", "lego.references=0")
    assert not (tmp_path / "b").exists()
