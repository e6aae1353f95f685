"""A small run to report on, and a browser to look at its page."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.runs import train_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run")
PATIENCE = 30.0
START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"


class Browser:
    """A headless Chromium, driven through the pipe of its DevTools protocol: JSON messages that end with a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()
        reads, writes = (fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (to_browser[0], from_browser[1]))
        arguments = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", START, str(reads), str(writes), program, *arguments],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (reads, writes, to_browser[0], from_browser[1]):
            os.close(fd)
        self._out, self._in = to_browser[1], from_browser[0]
        self._numbers, self._left = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except ConnectionError:
            self.close()
            raise

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def run(self, script: str) -> Any:
        """The value of an expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < until, f"never true: {condition}; the page said {self.complaints()}"
            time.sleep(0.02)

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, touch: bool = False) -> None:
        """Open a file in a window of some size."""
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.body && document.body.dataset.ready === 'yes'")

    def move(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Press and let go."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is in the window."""
        return self.run(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")

    def picture(self, path: Path, height: int = 3000) -> None:
        """Take a picture of the page."""
        width = self.run("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def complaints(self) -> list[str]:
        """Exceptions, and what the console or the content policy said."""
        told = [json.dumps(one["params"]) for one in self.events if one["method"] == "Runtime.exceptionThrown"]
        entries = [one["params"]["entry"] for one in self.events if one["method"] == "Log.entryAdded"]
        return told + [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]

    def fetched(self) -> list[str]:
        """Every address that the page asked for."""
        return [one["params"]["request"]["url"] for one in self.events if one["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        """End the browser."""
        os.close(self._out)
        os.close(self._in)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise ConnectionError(f"the browser says nothing; its exit code is {self.process.poll()}")
            self._left += piece
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs a browser: apt install chromium")
    try:
        started = Browser(program, tmp_path_factory.mktemp("profile"))
    except ConnectionError as error:
        pytest.skip(f"{program} does not start here: {error}")
    yield started
    started.close()


@dataclass(frozen=True)
class Made:
    """A dataset folder and runs on it."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    def run(self, name: str) -> Path:
        return self.root / name


@pytest.fixture(scope="session")
def write_yard() -> Callable[..., Dataset]:
    """Write a dataset of 61 frames a video at 10 frames a second; in abnormal ones frames 24 to 47 are unlike the rest."""

    def write(root: Path, test: tuple[str, ...] = ("calm", "odd"), modalities: tuple[str, ...] = ("motion", "text")) -> Dataset:
        random = np.random.default_rng(2)
        made = {"version": "1", "width": 3, "stride": 8, "snippet_frames": 8}
        manifests = {name: Manifest(modality=name, extractor=name, **made) for name in modalities}
        records = [VideoRecord(f"calm_{n}", "normal", 61, 10.0, "train") for n in range(4)]
        records += [VideoRecord(f"odd_{n}", "abnormal", 61, 10.0, "train") for n in range(2)]
        records += [VideoRecord(name, "normal" if "calm" in name else "abnormal", 61, 10.0, "test") for name in test]
        intervals = [Interval(one.video, 24, 48) for one in records if one.label == "abnormal"]
        config = DatasetConfig(name="yard", stride=8, snippet_frames=8, modalities=manifests)
        dataset = write_dataset(root, config, records, intervals)
        for one in records:
            for name in manifests:
                values = 3 * np.eye(3)[0] + 0.2 * random.normal(size=(8, 3))
                if one.label == "abnormal":
                    values[3:6] += 3 * (np.eye(3)[1] - np.eye(3)[0])
                write_features(root, name, one.video, values)
        return dataset

    return write


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, write_yard: Callable[..., Dataset]) -> Made:
    """``lego``, ``paper``, ``concat`` and ``fixed`` (of segments of a fixed duration) on one dataset; do not change them."""
    root = tmp_path_factory.mktemp("report")
    dataset = write_yard(root / "data")
    few = TrainingConfig(steps=20)
    for name, method in (("lego", "lego"), ("paper", "lego-paper"), ("concat", "concat")):
        train_run(dataset, root / name, method=method, nodes=8, training=few)
    train_run(dataset, root / "fixed", nodes=8, training=few, segment_snippets=1)
    return Made(root)
