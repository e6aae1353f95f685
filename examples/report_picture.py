"""The picture of a report in the README: the page of the demo in the light, and beside it on a phone in the dark.

    make demo && python examples/report_picture.py demo-output docs/images/report.png scene_0031 1

Shown is a video by its name, or the one with the highest score, at the highest peak of its events or at another (1, 2 ...).
Needs Chromium, which is driven through the pipe of its DevTools protocol: JSON messages that end with a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from lego_fusion import Dataset
from lego_fusion.report.run_report import report_pictures, run_report, save_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run")
START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
LIGHT, PHONE, SMALLER = 1000, 390, 0.87  # widths that are shown, and what is kept of each pixel
GAP, HEIGHT = 14, 1745  # of the picture
PATIENCE = 30.0


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, program: str, profile: str) -> None:
        down, up = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (down[0], up[1])]  # away from 3 and 4, which it reads and writes
        arguments = [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        start = [sys.executable, "-S", "-c", START, *map(str, ends), *arguments]
        self.process = subprocess.Popen(start, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (*ends, down[0], up[1]):
            os.close(fd)
        self._out, self._answers = down[1], os.fdopen(up[0], "rb")
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        os.write(
            self._out, json.dumps({"id": number, "method": method, "params": parameters, **self._session}).encode() + b"\0"
        )
        while True:
            message = bytearray()
            while (byte := self._answers.read(1)) != b"\0":
                if not byte:
                    raise SystemExit("the browser has gone")
                message += byte
            answer = json.loads(message)
            if answer.get("id") == number:
                result: dict[str, Any] = answer["result"]
                return result

    def run(self, script: str) -> Any:
        """The value of an expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > until:
                raise SystemExit(f"the page is not as expected: {condition}")
            time.sleep(0.05)

    def open(self, page: Path, width: int, *, dark: bool) -> None:
        """Open a file in a window of some width."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=dark)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.body && document.body.dataset.ready === 'yes'")

    def choose(self, video: str | None, peak: int) -> None:
        """Show a video at the peak of an event."""
        if video is not None:
            rows = "[...document.querySelectorAll('tr[data-video] button')]"
            self.run(f"{rows}.find((one) => one.textContent === {json.dumps(video)}).click()")
            self.wait(f"document.getElementById('video-name').textContent === {json.dumps(video)}")
        self.run(f"document.querySelectorAll('#peaks button')[{peak}].click()")
        time.sleep(1.0)  # pictures and graphs are drawn

    def picture(self, width: int, top: float) -> Image.Image:
        """What is seen from a height on."""
        clip = {"x": 0, "y": top, "width": width, "height": HEIGHT / SMALLER, "scale": SMALLER}
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(answer["data"])))

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(10)
        os.close(self._out)
        self._answers.close()


def main() -> None:
    demo, path = Path(sys.argv[1]), Path(sys.argv[2])
    video, peak = (sys.argv[3] if len(sys.argv) > 3 else None), int(sys.argv[4]) if len(sys.argv) > 4 else 0
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        raise SystemExit("this needs a browser: apt install chromium")
    dataset = Dataset.open(demo / "dataset")
    report = run_report(demo / "runs" / "lego-seed-0", dataset)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = save_report(Path(folder) / "report.html", report, report_pictures(report, dataset))
        browser = Browser(program, f"{folder}/profile")
        try:
            browser.open(page, LIGHT, dark=False)
            browser.choose(video, peak)
            light = browser.picture(LIGHT, 0)
            browser.open(page, PHONE, dark=True)
            browser.choose(video, peak)
            top = browser.run("document.getElementById('video-name').getBoundingClientRect().top + scrollY - 24")
            phone = browser.picture(PHONE, top)
        finally:
            browser.close()
    both = Image.new("RGB", (light.width + GAP + phone.width, HEIGHT), "white")
    both.paste(light, (0, 0))
    both.paste(phone, (light.width + GAP, 0))
    both.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
