"""Events of saved runs against the ground truth of a planted dataset, and on the command line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lego_fusion.alarm.calibration import read_calibration
from lego_fusion.alarm.event_evaluation import UNCALIBRATED, evaluate_events, event_video, rule_of_run
from lego_fusion.alarm.events import EventRule
from lego_fusion.cli import app
from lego_fusion.data.dataset import Dataset
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import VideoScores


@pytest.fixture(scope="module")
def run(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events") / "run"
    train_run(planted, folder, training=TrainingConfig(steps=5), nodes=8)
    return folder


def test_truth_in_frames_becomes_truth_in_seconds() -> None:
    truth = np.array([False, True, True, False, True])
    logits = np.array([-1.0, 2.0, 2.0, -1.0, -1.0])
    video = event_video(VideoScores("door", 2.0, np.arange(5) / 2, logits * 0, truth, logits=logits), EventRule())
    assert video.truth == ((0.5, 1.5), (2.0, 2.5))
    assert [(event.start_seconds, event.end_seconds) for event in video.events] == [(0.5, 1.5)]
    assert video.seconds == 2.5


def test_planted_events_are_found_and_every_number_says_how(run: Path, planted: Dataset) -> None:
    measured = evaluate_events(run, planted)
    found = {result.metric: result for result in measured.results}
    assert set(found) == {
        *(f"event AP@{iou:g}" for iou in (0.1, 0.3, 0.5)),
        "event mAP",
        "event recall",
        "delay seconds",
        "false alarms per hour",
    }
    assert found["event recall"].value == 1.0  # a third of each abnormal video moves four times as fast
    assert found["delay seconds"].low is None  # four detected events are too few for an interval of their median
    assert found["delay seconds"].protocol.endswith("too few videos or events for an interval")
    others = [result for name, result in found.items() if name != "delay seconds"]
    assert all(result.low <= result.value <= result.high for result in others)
    assert re.search(r"95 % interval of a Poisson rate over \d+ \w+ without", found["false alarms per hour"].protocol)
    assert UNCALIBRATED in measured.notes and UNCALIBRATED in found["event mAP"].protocol


def test_the_command_line_measures_events_of_a_calibrated_run(run: Path, planted: Dataset, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))

    def told(*arguments: object) -> dict:
        result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    plain = told("evaluate", run, "--data", planted.root)
    assert not any(one["metric"].startswith("event") for one in plain["results"])
    made = told("calibrate", run, planted.root, "--false-alarms", 0.25, "--split", "test", "--merge-seconds", 1)
    assert made["promise"] == "at most 25.0% of normal clips have an alarm, on average"
    assert any("test videos" in line for line in made["warnings"])
    assert rule_of_run(run)[0].merge_seconds == 1.0
    hourly = ("calibrate", run, planted.root, "--per-hour", 1000, "--split", "test")
    kept = told(*hourly)
    assert kept["cameras"][""]["bursts"] == 1.0  # four events in four videos
    budget, conditions = kept["promise"].split("confidence, ")
    assert budget == "at most 1000 false alarms an hour, at 95% "
    assert conditions == "on footage like the 0.0 normal hours it was chosen on, where they come one by one"
    assert not any("--snooze-seconds" in line for line in kept["warnings"])
    older = json.loads((run / "calibration.json").read_text())
    del older["cameras"][""]["bursts"]
    (run / "calibration.json").write_text(json.dumps(older))
    assert "if they come independently of each other" in read_calibration(run).promise()
    told("calibrate", run, planted.root, "--false-alarms", 0.25, "--split", "test", "--merge-seconds", 1)
    measured = told("evaluate", run, "--data", planted.root)
    assert any(one["metric"] == "event mAP" for one in measured["results"])
    assert any("were calibrated on" in note for note in measured["notes"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), "say once how the threshold is to be chosen"),
        (("--false-alarms", "0.1", "--per-hour", "1"), "got --false-alarms, --per-hour"),
        (("--false-alarms", "0.1"), "the footage to calibrate on is missing"),
        (("--score", "1.5"), "--score must be between 0 and 1"),
        (("--score", "0.5", "--merge-seconds", "-1"), "--merge-seconds must be 0 or more"),
        (("--score", "0.5", "--hysteresis", "-1"), "--hysteresis must be 0 or more"),
    ],
)
def test_what_calibrate_refuses_in_one_line(run: Path, arguments: tuple[str, ...], match: str) -> None:
    result = CliRunner().invoke(app, ["calibrate", str(run), *arguments], catch_exceptions=False)
    assert result.exit_code == 2
    assert match in result.stderr and len(result.stderr.splitlines()) == 1
