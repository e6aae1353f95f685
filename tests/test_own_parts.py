"""Fusions and extractors of a person's own: by file or entry point, recorded with their source, and never run unasked."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import ParameterError
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.registry import FUSIONS, make_fusion
from lego_fusion.own_parts import ALLOWED

FUSION = """
from lego_fusion.fusion.elementwise import Concat

class Halved(Concat):
    def forward(self, features, mask=None):
        found = super().forward(features, mask)
        return found._replace(nodes=found.nodes / 2)

class Frozen(Concat):
    has_frozen_stage = True

    def __init__(self, modalities, *, factor=1.0):
        super().__init__(modalities)
        self.factor = factor

    def config(self):
        return {"modalities": self.modalities, "factor": self.factor}

    def frozen_config(self):
        return {"factor": self.factor}

    def transform(self, features, mask=None, *, video_ids=None, crops=1, inside=True):
        return {name: self.factor * features[name] for name in self.modalities}

class Other:
    pass
"""
EXTRACTOR = """
from lego_fusion.extract.motion import Motion

class Coarse(Motion):
    version = "mine-1"
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(ALLOWED, raising=False)
    path = tmp_path / "mine.py"
    path.write_text(FUSION)
    return path


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "lego_fusion", *map(str, words)]
    clean = {name: value for name, value in os.environ.items() if name != ALLOWED}
    return subprocess.run(line, capture_output=True, text=True, env=clean | environment, check=False)


def test_an_own_fusion_trains_into_a_run_that_needs_leave_to_be_loaded(mine: Path, planted: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = command("train", planted.root, run, "--fusion", f"{mine}:Halved", "--steps", 2, "--json")
    assert trained.returncode == 0, trained.stderr
    config = json.loads((run / "config.json").read_text())
    kind = config["detector"]["fusion"]["kind"]
    assert kind.startswith(f"{mine}:Halved@")
    refused = command("evaluate", run, "--data", planted.root)
    assert refused.returncode == 2
    assert f"set {ALLOWED}={mine}" in refused.stderr
    allowed = command("evaluate", run, "--data", planted.root, "--json", **{ALLOWED: str(mine)})
    assert allowed.returncode == 0, allowed.stderr
    mine.write_text(FUSION + "# changed")
    changed = command("evaluate", run, "--data", planted.root, **{ALLOWED: str(mine)})
    assert changed.returncode == 2
    assert "the file has changed" in changed.stderr


def test_an_own_fusion_is_compared_by_several_workers(mine: Path, planted: Dataset, tmp_path: Path) -> None:
    fusions = f"concat,{mine}:Halved"
    words = ("compare", planted.root, "--fusions", fusions, "--seeds", 1, "--steps", 2, "--workers", 2, "--out", tmp_path / "c")
    done = command(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert ":Halved@" in done.stdout


def test_options_of_an_own_fusion_are_set_by_its_name(mine: Path, planted: Dataset, tmp_path: Path) -> None:
    words = ("compare", planted.root, "--fusions", f"concat,{mine}:Frozen", "--seeds", 1, "--steps", 2, "--workers", 1)
    done = command(*words, "--out", tmp_path / "c", "--set", f"{mine}:Frozen.factor=2.0", "--json")
    assert done.returncode == 0, done.stderr
    wrong = command(*words, "--out", tmp_path / "d", "--set", f"{mine}:Frozen.factr=2.0")
    assert wrong.returncode == 2
    assert "unknown key" in wrong.stderr


def test_an_own_fusion_with_a_frozen_stage_is_swept_and_refused_where_its_source_changed(
    mine: Path, planted: Dataset, tmp_path: Path
) -> None:
    words = ("sweep", planted.root, tmp_path / "s", "--fusion", f"{mine}:Frozen", "--validation", 0.4, "--steps", 2)
    grid = ("--grid", "fusion.factor=1.0,2.0")
    done = command(*words, *grid)
    assert done.returncode == 0, done.stderr
    assert "the grid is empty" in command(*words[:2], tmp_path / "t", *words[3:]).stderr, "it names none of its own"
    mine.write_text(FUSION + "# changed")
    changed = command(*words, *grid)
    assert changed.returncode == 2
    assert "method" in changed.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Other", "this is no fusion"),
        ("Missing", "nothing of that name"),
    ],
)
def test_what_is_no_fusion_is_said(mine: Path, name: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        FUSIONS.typed(f"{mine}:{name}")


def test_a_file_that_is_absent_or_fails_is_said(mine: Path) -> None:
    with pytest.raises(ParameterError, match="there is no file"):
        FUSIONS.typed(f"{mine.with_name('none.py')}:A")
    mine.write_text("1 / 0")
    with pytest.raises(ParameterError, match=r"the file fails.*ZeroDivisionError"):
        FUSIONS.typed(f"{mine}:A")


def test_a_record_never_runs_code_unasked(mine: Path) -> None:
    mine.write_text("raise SystemExit('executed')")
    with pytest.raises(ParameterError, match="not run unasked"):
        make_fusion(f"{mine}:Halved@{'0' * 12}", {"modalities": {"a": 2}})


def test_a_fusion_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("joined", "lego_fusion.fusion.elementwise:Add", FUSIONS.group)
    monkeypatch.setitem(FUSIONS.__dict__, "installed", {"joined": point})
    monkeypatch.setattr("lego_fusion.fusion.elementwise.Add.kind", "add")
    assert "joined" in FUSIONS and "joined" in list(FUSIONS)
    assert make_fusion("joined", {"modalities": {"a": 2}}).kind == "joined"
    assert Concat.kind == "concat"


@pytest.mark.slow
def test_an_own_extractor_goes_from_video_to_score(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    from lego_fusion.scenes.render import render_scenes

    scenes = render_scenes(tmp_path / "scenes", videos=8, frames=(32, 48), size=(64, 96))
    mine, data, run = tmp_path / "own.py", tmp_path / "data", tmp_path / "run"
    mine.write_text(EXTRACTOR)
    made = command("extract", scenes.folder, data, "--modalities", f"coarse={mine}:Coarse", "--set", "coarse.bins=3")
    assert made.returncode == 0, made.stderr
    manifest = Dataset.open(data).modalities["coarse"]
    assert manifest.extractor.startswith(f"{mine}:Coarse@") and manifest.settings["bins"] == 3
    wrong = command("extract", scenes.folder, tmp_path / "none", "--modalities", f"motion,{mine}:Missing")
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1
    assert "this is no extractor" in wrong.stderr
    trained = command("train", data, run, "--segment-snippets", 1)
    assert trained.returncode == 0, trained.stderr
    video = scenes.folder / "videos" / f"{scenes.videos[-1].name}.mp4"
    assert command("score", video, "--out", tmp_path / "scores", "--model", run).returncode == 2
    scored = command("score", video, "--out", tmp_path / "scores", "--model", run, "--json", **{ALLOWED: str(mine)})
    assert scored.returncode == 0, scored.stderr
    watched = command("watch", video, "--model", run, "--scores", **{ALLOWED: str(mine)})
    assert watched.returncode == 0 and '"kind": "score"' in watched.stdout, watched.stderr
    mine.write_text(EXTRACTOR + "# changed")
    changed = command("score", video, "--out", tmp_path / "scores", "--model", run, **{ALLOWED: str(mine)})
    assert changed.returncode == 2
    assert "of another source" in changed.stderr
