"""Watching: speed beside decoding and flow alone, real time at 25 frames/s, memory over 12 hours, equality with offline.

    python benchmarks/watching.py DATASET --videos FOLDER --network FILE.onnx [--parts auc,equal,speed,live,memory]

DATASET has motion and appearance (made by the network) of the videos in FOLDER. Models are trained on its training split with
segments of one snippet. All parts run on a machine as it is; the load at the start is stored with the numbers.

* auc: a streamable model beside one of 32 equal spans, on the dataset's test split.
* equal: streamed against offline scores of every test video, by segment.
* speed: frames a second of (a) decoding and optical flow alone, at the preset and size of the motion extractor, and (b)
  watch: decoding, motion features, scores. In turn on the same file, 640 x 360, best of the rounds. Also in processor time,
  since watch decodes in a thread of its own.
* live: PyAV listens and sends 640 x 360 at 25 frames/s for a minute; watch must not drop and must not fall behind.
* memory: 12 hours of segments from small made pictures, as fast as they can be scored, with alarms (2 hours for relations in
  the window); resident memory at the beginning of every hour and at the end.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lego_fusion.alarm.events import EventRule
from lego_fusion.alarm.journal import AlarmJournal
from lego_fusion.alarm.live import SegmentScore, stream_extractors
from lego_fusion.alarm.watch import Callbacks, Health, Watch
from lego_fusion.data.dataset import Dataset
from lego_fusion.data.stream import LiveStream, Recording, VideoFile
from lego_fusion.data.video import Frame, VideoReader
from lego_fusion.extract.base import iterate_snippets
from lego_fusion.extract.motion import Motion
from lego_fusion.extract.run import extract_dataset
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.evaluation import evaluate_runs
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset
from lego_fusion.scenes.render import render_scenes
from measuring import store

FPS, SIZE, ROUNDS, LIVE_SECONDS, HOURS = 25, (640, 360), 3, 60, 12
QUIET = EventRule(threshold=1e9)
SENDER = """
import sys, time, av
from lego_fusion.data.video import VideoReader
url, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
with VideoReader(path) as reader:
    pictures = [frame.image for frame in reader]
with av.open(url, "w", format="mpegts") as container:
    stream = container.add_stream("mpeg2video", rate=25)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
    ready = [av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p") for picture in pictures[:100]]
    started = time.monotonic()
    for number in range(int(25 * seconds)):
        frame = ready[number % len(ready)]
        frame.pts = number
        container.mux(stream.encode(frame))
        time.sleep(max(0.0, started + (number + 1) / 25 - time.monotonic()))
    container.mux(stream.encode())
"""


def upscaled_scene(folder: Path, seconds: int) -> Path:
    """A rendered scene at 640 x 360 and 25 frames/s."""
    import av

    scene = render_scenes(folder / "scene", videos=2, frames=(FPS * seconds,) * 2, size=(180, 320), fps=float(FPS), seed=7)
    path = folder / "scene.mp4"
    with VideoReader(scene.videos[0].path) as reader, av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in reader:
            picture = cv2.resize(frame.image, SIZE, interpolation=cv2.INTER_LINEAR)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def watch(run: Path, source: Any, networks: dict[str, Path], **options: Any) -> Health:
    detector, config = load_detector(run)
    extractors = stream_extractors(config, networks={k: v for k, v in networks.items() if k in config.manifests})
    return Watch(source, detector, config, extractors, options.pop("rule", QUIET), **options).run()


def flow_alone(path: Path, motion: Motion) -> int:
    """Decode and estimate flow, and nothing else."""
    frames = 0
    with VideoReader(path) as reader:
        for snippet in iterate_snippets(reader, 16, 16):
            motion.flow(snippet.frames, snippet.before)
            frames += len(snippet.frames)
    return frames


def timed(work: Callable[[], int]) -> tuple[float, float]:
    """Frames a second, by the clock and by processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    frames = work()
    return frames / (time.perf_counter() - wall), frames / (time.process_time() - processor)


def speed(run: Path, path: Path) -> dict[str, Any]:
    found: dict[str, list[tuple[float, float]]] = {"flow alone": [], "watch": []}
    for _ in range(ROUNDS):
        found["flow alone"].append(timed(lambda: flow_alone(path, Motion())))
        found["watch"].append(timed(lambda: watch(run, VideoFile(path), {}).frames))
    best = {name: [max(values) for values in zip(*rounds, strict=True)] for name, rounds in found.items()}
    ratios = {way: best["watch"][at] / best["flow alone"][at] for at, way in enumerate(("clock", "processor"))}
    return {"frames_per_second": best, "ratio": ratios, "required": 0.5}


def live(run: Path, path: Path, networks: dict[str, Path]) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    sender = subprocess.Popen([sys.executable, "-c", SENDER, f"{address}?listen=1", str(path), str(LIVE_SECONDS)])
    lags: list[float] = []
    source = LiveStream(address, first_wait=0.1)
    watching: list[Watch] = []

    def hear(health: Health) -> None:
        if health.lag_seconds is not None:
            lags.append(health.lag_seconds)
        if sender.poll() is not None:
            watching[0].stop()

    detector, config = load_detector(run)
    extractors = stream_extractors(config, networks={k: v for k, v in networks.items() if k in config.manifests})
    watching.append(Watch(source, detector, config, extractors, QUIET, callbacks=Callbacks(health=hear), health_seconds=0.5))
    health = watching[0].run()
    sender.wait(20)
    lag = {"lag_median": float(np.median(lags)), "lag_95": float(np.quantile(lags, 0.95)), "lag_highest": max(lags)}
    return {"frames": health.frames, "segments": health.segments, "dropped_snippets": health.dropped_snippets, **lag}


class Made:
    """A camera of small random pictures, two to a segment of 0.64 s, that never waits for anybody but is never dropped."""

    name, live = "made", False

    def __init__(self, hours: float) -> None:
        self.segments = int(hours * 3600 / 0.64)
        self.pictures = np.random.default_rng(0).integers(0, 256, (64, 36, 64, 3)).astype(np.uint8)

    def takes(self, notify: Any, stop: threading.Event) -> Iterator[Recording]:
        """One take of all hours."""
        shown = (Frame(i, 0.32 * i, self.pictures[i * i % 61].copy()) for i in range(2 * self.segments))
        yield Recording("", "", shown, 1 / 0.32)


def resident() -> float:
    """Mebibytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(folder: Path) -> dict[str, Any]:
    render_scenes(folder / "small", videos=6, frames=(30, 40), size=(64, 96), seed=5)
    motion = Motion(longest_side=32, preset="ultrafast")
    data = extract_dataset(folder / "small", folder / "data", extractors={"motion": motion}, snippet_frames=2, stride=2).dataset
    found = {}
    for name, method, hours in (("references", "lego", HOURS), ("relations in the window", "lego-paper", HOURS // 6)):
        train_run(data, folder / method, method=method, training=TrainingConfig(steps=20), segment_snippets=1)
        by_hour: list[float] = []
        logits: list[float] = []

        def hear(video: str, score: SegmentScore, by_hour: list[float] = by_hour, logits: list[float] = logits) -> None:
            if len(by_hour) < score.end_seconds / 3600:
                by_hour.append(round(resident(), 1))
            if len(logits) < 500:
                logits.append(score.logit)

        watch(folder / method, Made(0.05), {}, callbacks=Callbacks(segment=hear))
        by_hour.clear()
        rule = EventRule(threshold=float(np.median(logits)))
        started = time.perf_counter()
        with AlarmJournal(folder / f"{method}.jsonl") as journal:
            options: dict[str, Any] = {"journal": journal, "rule": rule.model_copy(update={"snooze_seconds": 600.0})}
            health = watch(folder / method, Made(hours), {}, callbacks=Callbacks(segment=hear), **options)
        facts = {"hours": hours, "segments": health.segments, "alarms": health.alarms}
        found[name] = {**facts, "seconds": time.perf_counter() - started, "mebibytes_by_hour": [*by_hour, round(resident(), 1)]}
    return found


def equal(run: Path, dataset: Dataset, videos: Path, networks: dict[str, Path]) -> dict[str, Any]:
    names = [record.video for record in dataset.select(split="test")]
    logits, scores = [], []
    for video, offline in zip(names, score_dataset(run, dataset, names), strict=True):
        assert offline.logits is not None  # noqa: S101
        streamed: list[float] = []
        hear = Callbacks(segment=lambda _, score, streamed=streamed: streamed.append(score.logit))  # type: ignore[misc]
        watch(run, VideoFile(videos / f"{video}.mp4"), networks, callbacks=hear)
        expected, seen = offline.logits[:: dataset.config.stride], np.array(streamed)
        logits.append(np.abs(seen - expected) / np.maximum(1, np.abs(expected)))
        scores.append(np.abs(1 / (1 + np.exp(-seen)) - 1 / (1 + np.exp(-expected))))
    pooled = [float(np.concatenate(values).max()) for values in (logits, scores)]
    facts = {"videos": len(names), "segments": sum(map(len, logits))}
    return {**facts, "highest_relative_logit_difference": pooled[0], "highest_score_difference": pooled[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--parts", default="auc,equal,speed,live,memory")
    parser.add_argument("--name", default="watching")
    asked = parser.parse_args()
    dataset, networks = Dataset.open(asked.dataset), {"appearance": asked.network}
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {"motion": folder / "motion", "motion + appearance": folder / "both"}
        for modalities, run in runs.items():
            train_run(dataset, run, modalities=modalities.split(" + "), segment_snippets=1)
        if "auc" in asked.parts.split(","):
            spans = folder / "spans"
            train_run(dataset, spans, modalities=["motion", "appearance"])
            measured = evaluate_runs([spans, runs["motion + appearance"]], dataset).results
            found["auc"] = {f"{one.fusion} {one.metric}": [one.value, one.low, one.high] for one in measured}
        if "equal" in asked.parts.split(","):
            found["equal"] = equal(runs["motion + appearance"], dataset, asked.videos, networks)
        scene = upscaled_scene(folder, 20) if {"speed", "live"} & set(asked.parts.split(",")) else None
        if "speed" in asked.parts and scene is not None:
            found["speed"] = speed(runs["motion"], scene)
        if "live" in asked.parts and scene is not None:
            found["live"] = {modalities: live(run, scene, networks) for modalities, run in runs.items()}
        if "memory" in asked.parts.split(","):
            found["memory"] = memory(folder)
    found["load_at_the_end"] = os.getloadavg()[0]
    store(asked.name, found)


if __name__ == "__main__":
    main()
