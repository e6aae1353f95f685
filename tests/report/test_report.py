"""A report as one file: nothing from elsewhere, every text escaped, bounded, and refused in one line where it cannot be."""

import base64
import hashlib
import json
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import command_line
from lego_fusion.alarm.events import EventRule
from lego_fusion.cli import app
from lego_fusion.data.dataset import Dataset
from lego_fusion.data.tables import write_videos
from lego_fusion.errors import DataError, MissingExtraError
from lego_fusion.learn.scoring import VideoScores
from lego_fusion.measure.event_metrics import Event
from lego_fusion.measure.intervals import rate_interval
from lego_fusion.measure.result import Result
from lego_fusion.report.figures import save_report_figures
from lego_fusion.report.pictures import Pictures
from lego_fusion.report.report_data import MOST_ROWS, Report, moment_at, moments_of, quantise, report_data, wanted_segments
from lego_fusion.report.report_page import _tiles, metric_interval, metric_value, report_page
from lego_fusion.report.run_report import run_report, save_report
from lego_fusion.scenes.render import render_scenes
from lego_fusion.why.learned import ReadingWeights
from lego_fusion.why.reading import CoefficientTable, VideoReading
from lego_fusion.why.records import Segment

NASTY = "<script>alert('1')</script>&\"\N{LINE SEPARATOR}"
pytest.importorskip("plotly", reason="pip install 'lego-fusion[report]'")


def reading(video: str = "door", rows: int = 4, *, graphs: bool = True, events: int = 1) -> VideoReading:
    """Of segments of 8 frames at 10 frames a second; the third has the peak."""
    random = np.random.default_rng(0)
    logits = np.where(np.arange(rows) == 2, 5.0, -2.0)
    frames = np.repeat(logits, 8)
    scores = VideoScores(video, 10.0, np.arange(8 * rows) / 10, 1 / (1 + np.exp(-frames)), frames > 0, logits=frames)
    shape = (rows, 6)
    return VideoReading(
        scores=scores,
        rule=EventRule(),
        events=(Event(1.6, 2.4, 5.0, 1.6, 2.4),) * events,
        segments=tuple(Segment(video, 8 * row, 8 * row + 8) for row in range(rows)),
        logits=logits,
        graphs={"motion": random.uniform(-1, 1, shape).astype(np.float32)} if graphs else {},
        fused=random.uniform(-1, 1, shape).astype(np.float32) if graphs else None,
        columns=tuple(Segment("calm", 8 * n, 8 * n + 8) for n in range(6)) if graphs else (),
        known=40 if graphs else 0,
        parts={"motion": logits + 2} if graphs else {},
        baseline=-2.0 if graphs else None,
    )


def report(*readings: VideoReading, **fields: Any) -> Report:
    table = CoefficientTable("", "motion", np.array([[0.1, 0.9]]))
    given: dict[str, Any] = {
        "title": "t",
        "run": "r",
        "coefficients": (table,),
        "promise": "nothing",
        "card": {"A": {"b": "c"}},
    }
    return Report(readings=readings or (reading(),), **(given | fields))


class Page(HTMLParser):
    """Tags, attributes, texts, and what is in each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


# The page


def test_nothing_is_fetched_and_no_other_script_runs() -> None:
    page = Page(report_page(report(reading("a"), reading("b"))))
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "href", "srcset", "action"), (tag, name, value[:60])
    (policy,) = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    ours = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts[1:]}
    assert len(ours) == 2
    assert ours == allowed


def test_every_text_is_escaped() -> None:
    one = reading(NASTY)
    one = replace(one, columns=tuple(Segment(NASTY, 0, 8) for _ in one.columns), graphs={NASTY: one.graphs["motion"]})
    nasty = {NASTY: {NASTY: NASTY}}
    text = report_page(
        report(
            *(one, reading("b")),
            **dict.fromkeys(("title", "run", "promise"), NASTY),
            card=nasty,
            settings=nasty,
            manifests=nasty,
            labels={NASTY: NASTY},
            notes=(NASTY,),
        ),
        Pictures(notes=[NASTY]),
    )
    page = Page(text)
    assert page.tags.count("script") == 3  # the data, Plotly, ours
    assert page.data["videos"][0]["name"] == NASTY
    assert "<" not in page.scripts[0]
    assert page.text.count(NASTY) >= 8
    assert "<script>alert" not in text


def test_no_images_means_no_picture_at_all_in_the_file(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
    one = reading()
    images = {one.segments[2]: np.full((24, 36, 3), 90, np.uint8)}
    path = save_report(tmp_path / "report.html", report(one), Pictures(images))
    assert path.read_text().count("data:image/jpeg;base64,") == 1
    assert list(Page(path.read_text()).data["videos"][0]["pictures"]) == ["2"]
    save_report(path, report(one), None)
    page = Page(path.read_text())
    assert "img" not in page.tags
    assert page.data["videos"][0]["pictures"] == {}
    for script in page.scripts[:1]:
        assert "data:image" not in script
    assert not [path for path in tmp_path.iterdir() if path.name != "report.html"]


def test_a_model_without_graphs_says_so_and_leaves_the_panels_out(tmp_path: Path) -> None:
    text = report_page(report(reading(graphs=False), coefficients=(), has_graphs=False))
    page = Page(text)
    assert "no relation graphs" in page.text
    assert ("div", "id", "operator") not in page.attributes
    assert page.data["videos"][0]["graphs"] == []


def test_metrics_have_their_unit_interval_and_protocol() -> None:
    facts = {"dataset": "yard", "split": "test", "modalities": ("motion",), "fusion": "lego", "selection": "last-step"}
    auc = Result(metric="micro_auc", value=0.912, low=0.85, high=0.97, level=0.95, seed=0, protocol="frames of 9", **facts)
    delay = Result(metric="delay seconds", value=1.25, seed=0, protocol="events", **facts)
    assert (metric_value(auc), metric_interval(auc)) == ("91.2 %", "[85.0 %, 97.0 %]")
    assert (metric_value(delay), metric_interval(delay)) == ("1.2 s", "")
    page = Page(report_page(report(results=(auc,), event_results=(delay,))))
    for told in ("91.2 %", "[85.0 %, 97.0 %]", "(1) frames of 9.", "(2) events."):
        assert told in page.text
    assert "Nothing was measured" in Page(report_page(report())).text


@pytest.mark.parametrize(("seconds", "short"), [(12.0, True), (3599.0, True), (3600.0, False)])
def test_a_rate_needs_an_hour_to_be_a_tile(seconds: float, short: bool) -> None:
    """No false alarm in 12 s is compatible with 1,107 an hour."""
    rate = Result(
        dataset="planted",
        split="test",
        modalities=("motion",),
        fusion="lego",
        seed=0,
        selection="last-step",
        metric="false alarms per hour",
        protocol="events",
        extra={"quiet_seconds": seconds},
        **{name: getattr(rate_interval(0, seconds / 3600), name) for name in ("value", "low", "high", "level")},
    )
    told = report(event_results=(rate,))
    page = Page(report_page(told))
    assert ("too little for a rate" in page.text) == short
    assert any(tile["name"] == "false alarms per hour" for tile in _tiles(told)) != short
    if seconds == 12.0:
        assert "0 false alarms in 12 s without a true event: too little for a rate. Up to 1,107 an hour" in page.text


def test_what_was_learned_is_a_table_with_the_world_it_lives_in() -> None:
    degrees, sizes = {"motion": (1.5, 0.75), "fused graph": (1.0, 1.0)}, {"motion": 0.625}
    own = {"motion": (1.125, 0.5)}
    weights = ReadingWeights(("motion", "fused graph"), (1, 2), degrees, own, sizes, 0.9, f"own world {NASTY}")
    page = Page(report_page(report(weights=weights, coefficients=())))
    assert "What was learned" in page.text
    assert f"It lives in the own world {NASTY}." in page.text
    for told in ("1.50", "0.75", "0.62", "own video, order 2", "1.12"):
        assert told in page.text
    assert "What was learned" not in Page(report_page(report())).text


# What is drawn


def test_the_curve_comes_back_from_its_steps() -> None:
    video = report_data([reading()], []).document["videos"][0]
    assert video["edges"] == [0.0, 1.6, 2.4, 3.2]
    assert video["logits"] == [-2.0, 5.0, -2.0]
    assert video["truth"] == [[1.6, 2.4]]
    assert video["peaks"] == [2]
    assert video["threshold"] == 0.0
    assert video["parts"] == {"motion": [0.0, 0.0, 7.0, 0.0]}
    assert (video["known"], video["columns"][1]) == (40, "calm, frames 8 to 15")


def test_graphs_come_back_to_half_a_level() -> None:
    one = reading()
    (video,) = report_data([one], []).document["videos"]
    for graph, values in zip(video["graphs"], (*one.graphs.values(), one.fused), strict=True):
        levels = np.frombuffer(base64.b64decode(graph["data"]), np.uint8).reshape(-1, graph["columns"])
        back = graph["low"] + levels / 255 * (graph["high"] - graph["low"])
        assert np.abs(back - values).max() <= (graph["high"] - graph["low"]) / 255 / 2 + 2e-6
    flat, low, high = quantise(np.full((2, 3), 0.5))
    assert (flat.tolist(), low, high) == ([[0, 0, 0], [0, 0, 0]], 0.5, 0.5)


def test_copies_of_a_snippet_are_one_moment() -> None:
    one = reading()
    doubled = replace(one, segments=(one.segments[0], *one.segments[:3]), logits=np.array([-2.0, -2.0, -2.0, 5.0]))
    moments = moments_of(doubled)
    assert [(moment.first, moment.last, moment.logit) for moment in moments] == [(0, 1, -2.0), (2, 2, -2.0), (3, 3, 5.0)]
    assert moment_at(moments, 1.7) == 2
    assert moment_at(moments, 99.0) == 2


def test_a_long_video_keeps_the_rows_around_its_event() -> None:
    long = reading(rows=MOST_ROWS + 1)
    (video,) = report_data([long], []).document["videos"]
    assert video["rows"] == list(range(2 + 16 + 1))
    levels = np.frombuffer(base64.b64decode(video["graphs"][0]["data"]), np.uint8).reshape(-1, 6)
    low, high = video["graphs"][0]["low"], video["graphs"][0]["high"]
    assert np.allclose(low + levels / 255 * (high - low), long.graphs["motion"][video["rows"]], atol=0.01)
    assert report_data([reading(rows=MOST_ROWS)], []).document["videos"][0]["rows"] is None


def test_the_file_does_not_grow_beyond_what_is_asked_for() -> None:
    pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
    quiet, loud = reading("quiet"), replace(reading("loud"), logits=np.array([0.0, 0.0, 9.0, 0.0]))
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    pictures = Pictures({one.segments[2]: noise for one in (quiet, loud)})
    everything = report_data([quiet, loud], [], pictures)
    assert everything.notes == ()
    graphs = sum(len(graph["data"]) for graph in everything.document["videos"][0]["graphs"])
    picture = len(everything.document["videos"][1]["pictures"]["2"])
    tight = report_data([quiet, loud], [], pictures, megabytes=(2 * graphs + picture + 10) / 1e6)
    assert [list(video["pictures"]) for video in tight.document["videos"]] == [[], ["2"]]  # the highest first
    assert tight.notes[0].startswith("pictures left out: 1, since")
    none = report_data([quiet, loud], [], pictures, megabytes=0.0)
    assert [video["graphs"] for video in none.document["videos"]] == [[], []]
    assert len(none.notes) == 2


def test_of_one_video_every_moment_has_a_picture_and_of_several_the_peaks() -> None:
    assert len(wanted_segments([reading()])["door"]) == 4
    assert wanted_segments([reading("a"), reading("b", events=0)]) == {"a": [Segment("a", 16, 24)], "b": [Segment("b", 16, 24)]}


# Reports of real runs


def test_a_run_is_measured_and_described(made: Any) -> None:
    found = run_report(made.run("lego"), Dataset.open(made.data))
    assert [one.video for one in found.readings] == ["calm", "odd"]
    assert {one.metric for one in found.results} >= {"micro_auc"}
    assert {one.metric for one in found.event_results} >= {"event recall"}
    assert found.labels == {"calm": "normal", "odd": "abnormal"}
    assert any("not calibrated" in note for note in found.notes)
    chosen = run_report(made.run("lego"), Dataset.open(made.data), videos=["odd"])
    assert chosen.results == ()
    assert run_report(made.run("paper"), Dataset.open(made.data)).square


def test_the_curve_is_high_where_it_is_abnormal(made: Any) -> None:
    found = run_report(made.run("lego"), Dataset.open(made.data))
    odd = next(one for one in found.readings if one.video == "odd")
    assert odd.scores.truth is not None
    assert odd.scores.logits is not None
    assert odd.scores.logits[odd.scores.truth].min() > odd.scores.logits[~odd.scores.truth].max()


def test_figures_are_written_for_every_video_and_the_operator(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")
    told: list[int] = []
    made = report(reading("a/b"), reading("a$b"), reading(NASTY, graphs=False))
    paths = save_report_figures(tmp_path, made, on_video=lambda done, total: told.append(done))
    assert told == [1, 2, 3]
    assert len(set(paths)) == 8
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert {path.stem for path in paths} == {"a_b", "a_b-2", "script_alert_1_script", "operator"}
    for path in paths:
        start = path.read_bytes()[:100]
        assert start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<?xml" in start


# The command line


def run(*arguments: object, code: int = 0) -> Any:
    return command_line.run("report", *arguments, code=code)


def refused(*arguments: object) -> str:
    return command_line.refused("report", *arguments)


@pytest.mark.parametrize("method", ["lego", "paper", "concat", "fixed"])
def test_every_kind_of_model_has_a_report(made: Any, tmp_path: Path, method: str) -> None:
    out = tmp_path / "report.html"
    figures = ["--figures", tmp_path / "figures"] if method == "concat" else []
    told = run(made.run(method), "--data", made.data, "--out", out, "--json", *figures)
    document = json.loads(told.stdout)
    assert [Path(path).name for path in document["figures"]] == (
        ["calm.png", "calm.svg", "odd.png", "odd.svg"] if figures else []
    )
    assert document["bytes"] == out.stat().st_size
    assert document["videos"].keys() == {"calm", "odd"}
    assert any("no picture of odd: its video file is not there" in note for note in document["notes"])
    page = Page(out.read_text())
    assert len(page.data["videos"][1]["graphs"]) == (0 if method == "concat" else 3)
    assert ("no relation graphs" in page.text) == (method == "concat")


def test_a_video_file_is_shown_with_pictures_and_without_a_dataset(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    render_scenes(tmp_path / "src", videos=6, frames=(24, 32), size=(64, 96), seed=3, kinds=["fast"])
    invoke = CliRunner().invoke
    grid = ["--snippet-frames", "8", "--stride", "8"]
    made = ["extract", str(tmp_path / "src"), str(tmp_path / "data"), "--modalities", "motion", *grid]
    assert invoke(app, made).exit_code == 0
    assert invoke(app, ["train", str(tmp_path / "data"), str(tmp_path / "run"), "--steps", "5"]).exit_code == 0
    dataset = Dataset.open(tmp_path / "data")
    video = dataset.select(split="test", label="abnormal")[0]
    file, out = tmp_path / "src" / "videos" / f"{video.video}.mp4", tmp_path / "out.html"
    told = run(tmp_path / "run", "--video", file, "--out", out)
    assert "what each modality adds is left out" not in told.stderr  # the run holds what it knows of normals
    alone = Page(out.read_text()).data["videos"][0]
    assert len(alone["pictures"]) == len(alone["moments"]) == dataset.rows(video.video)
    assert list(alone["parts"]) == ["motion"]
    assert alone["truth"]  # intervals.csv beside the video's folder
    told = run(tmp_path / "run", "--video", file, "--data", tmp_path / "data", "--out", out, "--no-images")
    page = Page(out.read_text())
    assert list(page.data["videos"][0]["parts"]) == ["motion"]
    assert page.data["videos"][0]["pictures"] == {}
    told = run(tmp_path / "run", "--data", tmp_path / "data", "--out", out)
    whole = next(one for one in Page(out.read_text()).data["videos"] if one["name"] == video.video)
    assert whole["logits"] == pytest.approx(alone["logits"], abs=1e-2)  # a file as its features in the dataset
    assert list(whole["pictures"]) == [str(number) for number in sorted(whole["peaks"])]
    named = file.with_name("<script>alert(1)<script>.mp4")
    named.write_bytes(file.read_bytes())
    run(tmp_path / "run", "--video", named, "--out", out, "--no-images")
    assert "<script>alert" not in out.read_text()
    assert Page(out.read_text()).data["videos"][0]["name"] == named.stem
    file.write_bytes(b"no video")
    told = run(tmp_path / "run", "--data", tmp_path / "data", "--out", out)
    assert f"warning: no picture of {video.video}: " in told.stderr
    assert refused(tmp_path / "run", "--video", file, "--out", tmp_path / "none.html").startswith("error: ")
    assert not (tmp_path / "none.html").exists()


def test_videos_without_ground_truth_are_shown_and_not_measured(made: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    dataset = Dataset.open(made.data)
    data.mkdir()
    (data / "dataset.yaml").write_bytes((made.data / "dataset.yaml").read_bytes())
    shutil.copytree(made.data / "features", data / "features")
    write_videos(data / "videos.csv", [replace(one, label="") if one.split == "test" else one for one in dataset.videos])
    run(made.run("lego"), "--data", data, "--out", tmp_path / "out.html")
    page = Page((tmp_path / "out.html").read_text())
    assert "Nothing was measured" in page.text
    assert [one["truth"] for one in page.data["videos"]] == [None, None]


BAD = {
    "nothing": ([], "there is nothing to show"),
    "no folder": (["--data", "DATA", "--out", "TMP/no/report.html"], "the folder to write into is not there"),
    "a folder": (["--data", "DATA", "--out", "TMP"], "this is a folder"),
    "unwritable": (["--data", "DATA", "--out", "/proc/report.html"], "/proc"),
    "no split": (["--data", "DATA", "--split", "later", "--out", "TMP/a.html"], "no video is in the split 'later'"),
    "no dataset": (["--data", "TMP/nothing", "--out", "TMP/a.html"], "nothing"),
    "no such video": (["--data", "DATA", "--videos", "cat", "--out", "TMP/a.html"], "cat"),
    "no file": (["--video", "TMP/cat.mp4", "--out", "TMP/a.html"], "there is no such video file"),
    "two ways": (["--video", "TMP/cat.mp4", "--videos", "odd", "--out", "TMP/a.html"], "--videos is of a dataset"),
    "no video folder": (["--data", "DATA", "--videos-in", "TMP/cat", "--out", "TMP/a.html"], "not a folder of videos"),
    "size": (["--data", "DATA", "--megabytes", "-1", "--out", "TMP/a.html"], "megabytes"),
}


@pytest.mark.parametrize(("arguments", "line"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused_in_one_line(made: Any, tmp_path: Path, arguments: list[str], line: str) -> None:
    given = [one.replace("DATA", str(made.data)).replace("TMP", str(tmp_path)) for one in arguments]
    assert line in refused(made.run("lego"), *given)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_run_is_refused(made: Any, tmp_path: Path) -> None:
    assert "there is no trained model here" in refused(tmp_path, "--data", made.data, "--out", tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["plotly", "matplotlib"])
def test_a_package_that_is_missing_is_named(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    figures = ["--figures", tmp_path / "figures"]
    line = refused(made.run("lego"), "--data", made.data, "--out", tmp_path / "a.html", *figures)
    assert f"this needs the package '{package}'" in line
    assert "lego-fusion[report]" in line
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lego_fusion.writing.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_report(path, report())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_reasons_are_of_the_family() -> None:
    with pytest.raises(DataError, match="not there"):
        save_report("/nowhere/at/all.html", report())
    assert issubclass(MissingExtraError, ImportError)
