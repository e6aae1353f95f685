"""Watching files, folders and cameras: the scores are the offline ones, and nothing is lost or told twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lego_fusion.alarm.events import EventRule, find_events
from lego_fusion.alarm.journal import AlarmJournal, Progress, read_alarms
from lego_fusion.alarm.live import SegmentScore, SnippetQueue, Work, stream_extractors
from lego_fusion.alarm.watch import Callbacks, Health, Watch, fingerprint, health_as_json
from lego_fusion.data.dataset import Dataset
from lego_fusion.data.stream import LiveStream, Recording, VideoFile, VideoFolder
from lego_fusion.data.tables import write_videos
from lego_fusion.data.video import Frame, VideoReader
from lego_fusion.errors import VideoError
from lego_fusion.extract.motion import Motion
from lego_fusion.extract.run import extract_dataset
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_video
from lego_fusion.scenes.render import render_scenes

pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rendered videos of ten segments each and two runs trained on them, one for each kind of relation."""
    root = tmp_path_factory.mktemp("watched")
    scenes = render_scenes(root / "source", videos=6, frames=(38, 42), size=(64, 96), fps=10.0, seed=5)
    motion = Motion(longest_side=64, preset="ultrafast")
    grid = {"snippet_frames": 4, "stride": 4}
    dataset = extract_dataset(root / "source", root / "data", extractors={"motion": motion}, **grid).dataset
    labelled = [type(one)(**{**vars(one), "label": one.label or "normal", "split": ""}) for one in dataset.videos]
    write_videos(root / "data" / "videos.csv", labelled)
    dataset = type(dataset).open(root / "data")
    for name, method in (("references", "lego"), ("window", "lego-paper")):
        settings = TrainingConfig(steps=10)
        train_run(dataset, root / name, method=method, training=settings, nodes=4, segment_snippets=1)
    (root / "video.mp4").write_bytes(scenes.videos[0].path.read_bytes())
    return root


class Heard:
    """What was told."""

    def __init__(self) -> None:
        self.alarms: list[dict[str, Any]] = []
        self.segments: list[tuple[str, SegmentScore]] = []
        self.notes: list[str] = []
        self.health: list[dict[str, Any]] = []

    def callbacks(self) -> Callbacks:
        return Callbacks(
            self.alarms.append,
            lambda video, score: self.segments.append((video, score)),
            self.notes.append,
            lambda health: self.health.append(health_as_json(health)),
        )

    @property
    def logits(self) -> list[float]:
        return [score.logit for _, score in self.segments]


def make(run: Path, source: Any, heard: Heard, rule: EventRule | None = None, **options: Any) -> Watch:
    detector, config = load_detector(run)
    extractors = stream_extractors(config)
    return Watch(source, detector, config, extractors, rule or EventRule(threshold=1e6), callbacks=heard.callbacks(), **options)


def rule_between(logits: list[float]) -> EventRule:
    """A rule under which some segments are events and some are not."""
    return EventRule(threshold=float(np.median(logits)))


def offline(run: Path, video: Path) -> list[float]:
    return [float(value) for value in score_video(run, video).logits[::4]]


def offline_of(watched: Path, segments: list[int]) -> list[float]:
    """Logits of the watched video as if it had these segments only, one after the other, smoothed over the time they take."""
    detector, config = load_detector(watched / "references")
    dataset = Dataset.open(watched / "data")
    features = torch.from_numpy(dataset.features("motion", dataset.videos[0].video)[segments]).float()
    with torch.inference_mode():
        logits = detector({"motion": features.reshape(1, len(segments), -1)}).logits[0].double().numpy()
    away = (np.array(segments)[:, None] - np.array(segments)) * 0.4 / config.smoothing  # 4 frames of 10 a second
    weights = np.where((away >= 0) & (away <= 4), np.exp(-np.square(away) / 2), 0.0)
    return [float(logit) for logit in weights @ logits / weights.sum(1)]


@pytest.mark.parametrize("kind", ["references", "window"])
def test_a_file_is_scored_as_offline_and_its_events_are_those_of_the_recording(kind: str, watched: Path) -> None:
    expected = offline(watched / kind, watched / "video.mp4")
    rule, heard = rule_between(expected), Heard()
    health = make(watched / kind, VideoFile(watched / "video.mp4"), heard, rule, camera="door").run()
    assert heard.logits == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert health.segments == len(expected) and health.dropped_snippets == 0
    segments = [(score.start_seconds, score.end_seconds, score.logit) for _, score in heard.segments]
    ends = [one for one in heard.alarms if one["kind"] == "end"]
    events = find_events(segments, rule)
    assert [(one["start_seconds"], one["end_seconds"]) for one in ends] == [
        pytest.approx((event.start_seconds, event.end_seconds)) for event in events
    ]
    assert health.alarms == len(ends) > 0
    assert {one["camera"] for one in heard.alarms} == {"door"} and {one["video"] for one in heard.alarms} == {"video.mp4"}
    assert [one["id"] for one in heard.alarms] == list(range(1, len(heard.alarms) + 1))


def test_a_folder_is_watched_video_by_video_and_once(watched: Path, tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mp4"):
        shutil.copy(watched / "video.mp4", tmp_path / name)
    (tmp_path / "broken.mp4").touch()
    expected = offline(watched / "references", watched / "video.mp4")
    heard = Heard()
    out = tmp_path / "out" / "alarms.jsonl"
    for _ in range(2):
        with AlarmJournal(out) as journal, Progress(out, "one") as progress:
            folder = VideoFolder(tmp_path, once=True, settle_seconds=0.0)
            rule = rule_between(expected)
            make(watched / "references", folder, heard, rule, journal=journal, progress=progress).run()
    assert [video for video, _ in heard.segments] == ["a.mp4"] * len(expected) + ["b.mp4"] * len(expected)
    assert heard.logits == pytest.approx(expected * 2, rel=1e-5, abs=1e-5)
    assert len([note for note in heard.notes if "broken.mp4 is left out" in note]) == 1
    assert read_alarms(out) == heard.alarms


def test_a_video_that_cannot_be_described_does_not_stop_the_folder(
    watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(watched / "video.mp4", tmp_path / name)
    heard = Heard()
    watch = make(watched / "references", VideoFolder(tmp_path, once=True, settle_seconds=0.0), heard)
    whole, calls = watch.extractors["motion"].snippet, iter(range(1000))

    def broken(frames: Any, before: Any) -> np.ndarray:
        row = whole(frames, before)
        return row * np.nan if next(calls) == 2 else row

    monkeypatch.setattr(watch.extractors["motion"], "snippet", broken)
    watch.run()
    assert [video for video, _ in heard.segments].count("a.mp4") == 2
    assert [video for video, _ in heard.segments].count("b.mp4") == 11
    assert any("a.mp4 is left out: an extractor gave a number that is not finite" in note for note in heard.notes)


def test_a_snippet_that_cannot_be_described_does_not_stop_a_camera(watched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    watch = make(watched / "references", Repeats(watched / "video.mp4", 1), heard, queue_snippets=100)
    whole, calls = watch.extractors["motion"].snippet, iter(range(1000))
    monkeypatch.setattr(
        watch.extractors["motion"],
        "snippet",
        lambda frames, before: whole(frames, before) * (np.nan if next(calls) == 2 else 1),
    )
    watch.run()
    left = [0, 1, *range(3, len(offline(watched / "references", watched / "video.mp4")))]
    assert heard.logits == pytest.approx(offline_of(watched, left), rel=1e-5, abs=1e-5)
    assert any("a snippet is left out" in note for note in heard.notes)


def test_a_file_that_is_no_video_is_an_error(watched: Path, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(VideoError, match="a zip archive"):
        make(watched / "references", VideoFile(tmp_path / "x.mp4"), Heard()).run()


class Repeats:
    """A camera for tests: the frames of a video again and again, as takes."""

    name, live = "camera", True

    def __init__(self, video: Path, takes: int, *, gap: float = 0.0) -> None:
        with VideoReader(video) as reader:
            self.frames = list(reader)
        self.count, self.gap = takes, gap

    def takes(self, notify: Any, stop: threading.Event) -> Iterator[Recording]:
        length = len(self.frames) / 10
        for number in range(self.count):
            yield Recording("", "", self._shown(number * (length + self.gap)), 10.0)

    def _shown(self, start: float) -> Iterator[Frame]:
        for frame in self.frames:
            yield Frame(frame.index, start + frame.time, frame.image)
            time.sleep(0.002)


@pytest.mark.parametrize("kind", ["references", "window"])
def test_each_connection_of_a_camera_is_scored_as_a_video_of_its_own(kind: str, watched: Path) -> None:
    expected, heard = offline(watched / kind, watched / "video.mp4"), Heard()
    camera = Repeats(watched / "video.mp4", 2, gap=7.0)
    health = make(watched / kind, camera, heard, rule_between(expected), queue_snippets=100).run()
    assert heard.logits == pytest.approx(expected * 2, rel=1e-5, abs=1e-5)
    assert health.lag_seconds is not None and health.lag_seconds >= 0
    starts = [score.start_seconds for _, score in heard.segments]
    assert starts == sorted(starts) and starts[len(expected)] == pytest.approx(len(camera.frames) / 10 + 7)


def test_a_machine_that_is_too_slow_drops_whole_snippets_and_says_so(watched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, camera = Heard(), Repeats(watched / "video.mp4", 3)
    watch = make(watched / "references", camera, heard, queue_snippets=2)
    whole = watch.extractors["motion"].snippet

    def slow(frames: Any, before: Any) -> np.ndarray:
        time.sleep(0.05)
        return whole(frames, before)

    monkeypatch.setattr(watch.extractors["motion"], "snippet", slow)
    health = watch.run()
    expected = offline(watched / "references", watched / "video.mp4")
    assert health.dropped_snippets > 0 and health.dropped_snippets + health.segments == 3 * len(expected)
    assert any("the machine is too slow" in note for note in heard.notes)
    frames = [round(10 * score.start_seconds) for _, score in heard.segments]
    there = [[frame % len(camera.frames) // 4 for frame in frames if frame // len(camera.frames) == take] for take in range(3)]
    scored = [logit for left in there if left for logit in offline_of(watched, left)]
    assert heard.logits == pytest.approx(scored, rel=1e-5, abs=1e-5)  # as a video of what is left of it


def test_a_file_is_never_dropped_however_slow(watched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    watch = make(watched / "references", VideoFile(watched / "video.mp4"), heard, queue_snippets=1, queue_bytes=1)
    whole = watch.extractors["motion"].snippet

    def slow(frames: Any, before: Any) -> np.ndarray:
        time.sleep(0.03)
        return whole(frames, before)

    monkeypatch.setattr(watch.extractors["motion"], "snippet", slow)
    assert watch.run().dropped_snippets == 0
    assert heard.logits == pytest.approx(offline(watched / "references", watched / "video.mp4"), rel=1e-5, abs=1e-5)


def test_the_queue_holds_no_more_than_it_may() -> None:
    from lego_fusion.extract.base import Snippet

    take = Recording("", "", iter(()), 10.0)
    work = Work(take, Snippet(0, (Frame(0, 0.0, np.zeros((10, 10, 3), np.uint8)),), None))
    queue = SnippetQueue(3, size=700)
    assert [queue.put(work, wait=False) for _ in range(4)] == [True, True, False, False]  # 300 bytes each
    assert queue.put(Work(take, ends=True), wait=False)
    assert queue.get(0.0) is work and queue.put(work, wait=False)
    assert SnippetQueue(3, size=1).put(work, wait=False)  # one always fits
    queue.close()
    assert not queue.put(work, wait=True)


def test_health_is_told_and_stopping_ends_a_camera_s_event(watched: Path) -> None:
    heard = Heard()
    rule = EventRule(threshold=-1e6)
    watch = make(watched / "references", Repeats(watched / "video.mp4", 1000), heard, rule, health_seconds=0.05)
    threading.Timer(0.5, watch.stop).start()
    started = time.monotonic()
    health = watch.run()
    assert time.monotonic() - started < 5
    assert isinstance(health, Health) and len(heard.health) >= 3
    assert heard.health[-1]["fps"] > 0 and heard.health[-1]["lag_seconds"] is not None
    assert [one["kind"] for one in heard.alarms][:1] == ["alarm"] and heard.alarms[-1]["kind"] == "end"


def test_a_camera_s_event_that_a_kill_cut_off_is_closed_at_the_next_start(watched: Path, tmp_path: Path) -> None:
    out, heard = tmp_path / "a.jsonl", Heard()
    with AlarmJournal(out) as journal:
        journal.append({"kind": "alarm", "video": "", "video_bytes": None, "start_seconds": 3.0})
    with AlarmJournal(out) as journal:
        make(watched / "references", Repeats(watched / "video.mp4", 1), heard, journal=journal).run()
    assert [(one["kind"], one.get("interrupted")) for one in read_alarms(out)] == [("alarm", None), ("end", True)]


@pytest.mark.parametrize("kind", ["references", "window"])
@pytest.mark.parametrize("segments", [1, 3, 7, 9])
def test_a_file_stopped_anywhere_goes_on_as_if_it_was_not(kind: str, segments: int, watched: Path, tmp_path: Path) -> None:
    video, rule = watched / "video.mp4", rule_between(offline(watched / kind, watched / "video.mp4"))
    whole, out = Heard(), tmp_path / "a.jsonl"
    make(watched / kind, VideoFile(video), whole, rule).run()
    heard = Heard()
    for _ in range(2):
        with AlarmJournal(out) as journal, Progress(out, "one") as progress:
            watch = make(watched / kind, VideoFile(video), heard, rule, journal=journal, progress=progress)
            if not heard.segments:
                notify = watch.callbacks.segment

                def stop(name: str, score: SegmentScore, watch: Watch = watch, notify: Any = notify) -> None:
                    notify(name, score)
                    if len(heard.segments) == segments:
                        watch.stop()

                watch.callbacks.segment = stop
            watch.run()
    assert heard.logits == pytest.approx(whole.logits, rel=1e-6)
    plain = [{key: value for key, value in one.items() if key != "time"} for one in whole.alarms]
    assert [{key: value for key, value in one.items() if key != "time"} for one in read_alarms(out)] == plain


KILLED = """
import os, sys, time
from pathlib import Path
from lego_fusion.data.stream import VideoFolder
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.alarm.events import EventRule
from lego_fusion.alarm.journal import AlarmJournal, Progress
from lego_fusion.alarm.live import stream_extractors
from lego_fusion.alarm import watch as module
import av, cv2, numpy

run, folder, out, threshold = sys.argv[1:]

def watch():
    module._POSITION_SECONDS = 0.0
    detector, config = load_detector(run)
    extractors = stream_extractors(config)
    whole = extractors["motion"].snippet
    def slow(frames, before):
        time.sleep(0.01)
        return whole(frames, before)
    extractors["motion"].snippet = slow
    rule = EventRule(threshold=float(threshold))
    callbacks = module.Callbacks(alarm=lambda one: print(one["id"], flush=True))
    with AlarmJournal(out) as journal, Progress(Path(out), "one") as progress:
        source = VideoFolder(Path(folder), once=True, settle_seconds=0.0)
        module.Watch(source, detector, config, extractors, rule, journal=journal, progress=progress, callbacks=callbacks).run()

for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        watch()
        os._exit(0)
    print("child", child, flush=True)
    print("over", os.waitpid(child, 0)[1], flush=True)
"""


def kill_and_go_on(watched: Path, folder: Path, out: Path, kills: int) -> tuple[list[int], int]:
    """Kill so many times at random moments, then let it end; the alarms that were told, and how often it was killed."""
    random = np.random.default_rng(0)
    threshold = rule_between(offline(watched / "references", watched / "video.mp4")).threshold
    command = [sys.executable, "-c", KILLED, str(watched / "references"), str(folder), str(out), str(threshold)]
    told: list[int] = []
    killed = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        for attempt in range(kills + 1):
            parent.stdin.write("go\n")
            child = int(_word(parent.stdout, "child", told))
            if attempt < kills:
                time.sleep(float(random.uniform(0.0, 0.5)))
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            killed += int(_word(parent.stdout, "over", told)) == signal.SIGKILL
            _check_whole(out)
        parent.stdin.close()
    return told, killed


def _word(lines: Any, word: str, told: list[int]) -> str:
    """The next line that begins with a word; the numbers before it were told."""
    for line in lines:
        if line.startswith(word):
            return str(line.split()[1])
        told.append(int(line))
    raise AssertionError("the process ended")


def _check_whole(out: Path) -> None:
    """Whole lines are whole, and so is what is written at once."""
    for path in (out, Path(f"{out}.done")):
        for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
            json.loads(line)
    if Path(f"{out}.position").exists():
        json.loads(Path(f"{out}.position").read_bytes())


def check_kills(watched: Path, tmp_path: Path, *, kills: int, videos: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(videos):
        shutil.copy(watched / "video.mp4", folder / f"{number:02d}.mp4")
    told, killed = kill_and_go_on(watched, folder, tmp_path / "killed.jsonl", kills)
    calm = Heard()
    with AlarmJournal(tmp_path / "calm.jsonl") as journal:
        rule = rule_between(offline(watched / "references", watched / "video.mp4"))
        source = VideoFolder(folder, once=True, settle_seconds=0.0)
        make(watched / "references", source, calm, rule, journal=journal).run()
    kept = ("id", "kind", "video", "start_seconds", "end_seconds", "peak_seconds")
    there = [tuple(one[key] for key in kept) for one in read_alarms(tmp_path / "killed.jsonl")]
    assert there == [tuple(one[key] for key in kept) for one in read_alarms(tmp_path / "calm.jsonl")]
    assert len(set(told)) == len(told)  # nobody was told twice
    assert set(told) <= {one[0] for one in there} and killed >= kills // 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_alarms_survive_being_killed(watched: Path, tmp_path: Path) -> None:
    check_kills(watched, tmp_path, kills=4, videos=8)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_alarms_survive_being_killed_twenty_times(watched: Path, tmp_path: Path) -> None:
    check_kills(watched, tmp_path, kills=20, videos=40)


def test_what_decides_the_alarms_is_in_the_fingerprint(watched: Path) -> None:
    _, one = load_detector(watched / "references")
    _, other = load_detector(watched / "window")
    assert (
        len({fingerprint(one, EventRule()), fingerprint(other, EventRule()), fingerprint(one, EventRule(threshold=1.0))}) == 3
    )


def test_a_camera_that_is_not_there_is_given_up_when_asked(watched: Path) -> None:
    camera = LiveStream("tcp://127.0.0.1:9", give_up_seconds=0.1, first_wait=0.05)
    with pytest.raises(VideoError, match="no frame comes from the stream"):
        make(watched / "references", camera, Heard()).run()
