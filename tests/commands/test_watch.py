"""``watch`` as a person meets it: alarms on stdout, everything else on stderr, one line for every mistake."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from command_line import refused, run
from lego_fusion.scenes.render import render_scenes

for package in ("av", "cv2"):
    pytest.importorskip(package, reason="pip install 'lego-fusion[video]'")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with source videos and the runs ``stream`` and ``spans``."""
    root = tmp_path_factory.mktemp("trained")
    render_scenes(root / "source", videos=8, frames=(32, 48), size=(64, 96), seed=11)
    small = ("--snippet-frames", "4", "--stride", "4", "--workers", "1", "--set", "motion.longest_side=64")
    run("extract", root / "source", root / "data", "--modalities", "motion", *small, "--set", "motion.preset=ultrafast")
    run("train", root / "data", root / "stream", "--segment-snippets", "1", "--steps", "5")
    run("train", root / "data", root / "spans", "--steps", "5")
    return root


def video_of(root: Path) -> Path:
    return sorted((root / "source" / "videos").glob("*.mp4"))[0]


def test_training_says_that_the_model_can_watch(trained: Path, tmp_path: Path) -> None:
    told = run("train", trained / "data", tmp_path / "run", "--segment-snippets", "2", "--steps", "1").stdout
    assert f"next: lego-fusion watch SOURCE --model {tmp_path / 'run'}" in told
    assert "streamable" in told


def test_alarms_are_lines_on_stdout_and_scores_are_those_of_score(trained: Path, tmp_path: Path) -> None:
    video, status = video_of(trained), tmp_path / "status.json"
    out = tmp_path / "alarms.jsonl"
    options = ("--model", trained / "stream", "--threshold", "0.1", "--camera", "door", "--scores", "--json")
    result = run("watch", video, *options, "--out", out, "--status", status)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    scores = [line["score"] for line in lines if line["kind"] == "score"]
    run("score", video, "--model", trained / "stream", "--out", tmp_path / "scores")
    table = np.genfromtxt(tmp_path / "scores" / f"{video.stem}.csv", delimiter=",", names=True)
    np.testing.assert_allclose(np.repeat(scores, 4)[: len(table)], table["score"], atol=1e-4)
    alarms = [line for line in lines if line["kind"] != "score"]
    assert out.read_text().splitlines() == [json.dumps(alarm) for alarm in alarms]
    assert {alarm["camera"] for alarm in alarms} <= {"door"}
    assert json.loads(status.read_text())["segments"] == len(scores)
    told = [json.loads(line) for line in result.stderr.splitlines()]
    assert {one["kind"] for one in told} == {"note", "health"}
    assert "watching" in told[0]["note"] and any("known world" in one.get("note", "") for one in told)
    again = run("watch", video, *options, "--out", out)
    assert again.stdout == "" and "was watched to its end before" in again.stderr


def test_the_calibration_of_the_run_is_used(trained: Path, tmp_path: Path) -> None:
    run("calibrate", trained / "stream", "--score", "0.9")
    try:
        told = run("watch", video_of(trained), "--model", trained / "stream", "--minimum-seconds", "1").stderr
        assert "calibrated: a threshold given by a person" in told and "an alarm is a score of 0.900 or more" in told
        told = run("watch", video_of(trained), "--model", trained / "stream", "--threshold", "0.2", "--camera", "x").stderr
        assert "an alarm is a score of 0.200 or more" in told
    finally:
        (trained / "stream" / "calibration.json").unlink()


def test_a_folder_once(trained: Path) -> None:
    folder = trained / "source" / "videos"
    result = run("watch", folder, "--model", trained / "stream", "--once", "--settle-seconds", "0.1", "--scores")
    videos = [json.loads(line)["video"] for line in result.stdout.splitlines() if json.loads(line)["kind"] == "score"]
    assert list(dict.fromkeys(videos)) == [path.name for path in sorted(folder.glob("*.mp4"))]


def test_ctrl_c_ends_the_watching_of_a_folder_in_good_order(trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lego_fusion", "watch", str(tmp_path), "--model", str(trained / "stream")]
    process = subprocess.Popen([*command, "--health-seconds", "0.1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "watching" not in process.stderr.readline():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 0 and "watched 0 frames" in told and "Traceback" not in told


def test_mistakes_are_one_line(trained: Path, tmp_path: Path) -> None:
    video, stream = video_of(trained), ("--model", trained / "stream")
    assert "cuts a whole video into equal spans" in refused("watch", video, "--model", trained / "spans")
    assert "--segment-snippets" in refused("watch", video, "--model", trained / "spans")
    assert "there is nothing to watch" in refused("watch", tmp_path / "none.mp4", *stream)
    assert "no stream of this kind" in refused("watch", "gopher://host/x", *stream)
    assert "give --out, too" in refused("watch", video, *stream, "--webhook", "http://localhost:9/")
    assert "http or https" in refused("watch", video, *stream, "--webhook", "file:///x", "--out", tmp_path / "a.jsonl")
    assert "score between 0 and 1" in refused("watch", video, *stream, "--threshold", "3")
    assert "--merge-seconds must be 0 or more" in refused("watch", video, *stream, "--merge-seconds", "-1")
    assert "--health-seconds must be above 0" in refused("watch", video, *stream, "--health-seconds", "0")
    assert "alarms go to a file" in refused("watch", video, *stream, "--out", tmp_path)
    assert "no trained model here" in refused("watch", video, "--model", tmp_path)
    (tmp_path / "x.mp4").write_bytes(b"")
    assert "0 bytes" in refused("watch", tmp_path / "x.mp4", *stream)
    assert "no frame comes from the stream" in refused("watch", "tcp://127.0.0.1:9", *stream, "--give-up-seconds", "0.1")
    (tmp_path / "other.jsonl").write_text("hello\n")
    assert "a line is no alarm" in refused("watch", video, *stream, "--out", tmp_path / "other.jsonl")
    assert "segment_snippets" in refused("train", trained / "data", tmp_path / "new", "--segment-snippets", "0")
    assert "--onnx is given" in refused("watch", video, *stream, "--onnx", tmp_path / "x.onnx")


def test_another_rule_does_not_go_on_with_the_same_file(trained: Path, tmp_path: Path) -> None:
    options = ("--model", trained / "stream", "--out", tmp_path / "a.jsonl")
    run("watch", video_of(trained), *options, "--threshold", "0.5")
    assert "another model or another rule" in refused("watch", video_of(trained), *options, "--threshold", "0.6")


def test_a_region_is_watched_as_it_was_trained(trained: Path, tmp_path: Path) -> None:
    """A model of a part of the picture scores a stream as it scores the features that were extracted with that part."""
    small = ("--snippet-frames", "4", "--stride", "4", "--workers", "1", "--set", "motion.longest_side=64")
    part = ("--set", "motion.preset=ultrafast", "--set", "motion.region=0,0.4,0.5,1|0.5,0.5;1,0.5;1,1")
    run("extract", trained / "source", tmp_path / "data", "--modalities", "motion", *small, *part)
    run("train", tmp_path / "data", tmp_path / "run", "--segment-snippets", "1", "--steps", "5")
    video = video_of(trained)
    lines = run("watch", video, "--model", tmp_path / "run", "--threshold", "0.5", "--scores").stdout.splitlines()
    scores = [line["score"] for line in map(json.loads, lines) if line["kind"] == "score"]
    run("score", video, "--model", tmp_path / "run", "--out", tmp_path / "scores")
    table = np.genfromtxt(tmp_path / "scores" / f"{video.stem}.csv", delimiter=",", names=True)
    np.testing.assert_allclose(np.repeat(scores, 4)[: len(table)], table["score"], atol=1e-4)
    assert "region" in refused("evaluate", tmp_path / "run", "--data", trained / "data")
