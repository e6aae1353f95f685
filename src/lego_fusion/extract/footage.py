"""What is wrong with footage, beside its scores: cuts, a moved camera, darkness, a frozen picture, other light, another size.

Pictures are looked at five times a second, reduced to 96 x 54 grey levels, whatever their size. A detector may well give high
scores at such moments, and for the wrong reason: a warning stands beside the score and never is an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from ..data.dataset import Dataset
from ..data.doctor import Finding
from ..data.video import Frame, VideoReader
from ..errors import VideoError
from .base import load_opencv

Kind = Literal["scene cut", "camera moved", "dark", "frozen", "light changed", "size changed"]
KINDS: tuple[Kind, ...] = ("scene cut", "camera moved", "dark", "frozen", "light changed", "size changed")

_WIDTH, _HEIGHT = 96, 54
_LOOK_SECONDS = 0.2
_DARK = 16.0  # mean grey level of 255
_EMPTY = 3.0  # deviation of grey levels below which a picture has no structure to compare
_FROZEN = 0.25  # largest difference of grey levels between two looks at the same picture
_CUT = 0.4  # correlation of two looks below which the scene may be another one
_CHANGED = 12.0  # grey levels by which a place differs, beyond the mean difference
_CUT_SHARE = 0.3  # of the picture that differs at a cut; less is something that passes
_SETTLE_SECONDS = 1.0  # over which the background is averaged
_LASTS: dict[Kind, float] = {"dark": 1.0, "frozen": 2.0, "light changed": 1.0, "camera moved": 1.0}  # seconds before it is told
_SHIFT = 0.03  # of the width
_STILL = 0.5  # correlation of edges from which the camera stands where it stood, whoever walks through the picture
_BETTER = 0.2  # by how much a shift must raise that correlation to be believed
_LIGHT = 1.35  # ratio of mean grey levels
_MOST_MOVES = 3  # after which a camera is said to keep moving


@dataclass(frozen=True)
class FootageWarning:
    """Something about footage that a person should know.

    Args:
        kind: What.
        seconds: When it begins.
        message: In words, without the time.
    """

    kind: Kind
    seconds: float
    message: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.seconds:.1f} s: {self.message}"


class FootageMonitor:
    """Looks at one frame after the other and tells what is wrong, each thing once when it begins; memory does not grow.

    Raises:
        MissingExtraError: If OpenCV is not installed.

    Example:
        >>> monitor = FootageMonitor()
        >>> black = np.zeros((54, 96, 3), np.uint8)
        >>> [str(w) for i in range(12) for w in monitor.look(Frame(i, i / 5, black))][0]
        'dark at 0.0 s: the mean grey level is 0 of 255'
    """

    def __init__(self) -> None:
        self._cv2: Any = load_opencv()
        self._size: tuple[int, int] | None = None
        self._next_look = -math.inf
        self._since: dict[str, float] = {}  # when a state that is not told yet, or goes on, began
        self._told: set[str] = set()
        self._moves = 0
        self._window = np.outer(np.hanning(_HEIGHT), np.hanning(_WIDTH)).astype(np.float32)
        self._before: Float32[np.ndarray, "h w"] | None = None
        self._time = 0.0
        self._first: Float32[np.ndarray, "h w"] | None = None  # of this scene
        self._recent = np.zeros((_HEIGHT, _WIDTH), np.float32)
        self._begun = 0.0

    def look(self, frame: Frame) -> list[FootageWarning]:
        """Take the next frame."""
        found = list(self._size_change(frame))
        if frame.time < self._next_look:
            return found
        self._next_look = frame.time + _LOOK_SECONDS - 1e-6
        grey, begun, now = self._reduced(frame.image), self._time, frame.time
        level = float(grey.mean())
        found += self._lasting("dark", level < _DARK, now, now, f"the mean grey level is {level:.0f} of 255")
        if self._before is not None:
            same = float(np.abs(grey - self._before).max()) <= _FROZEN
            found += self._lasting("frozen", same, begun, now, "nothing in the picture changes, not even noise")
            if _is_cut(grey, self._before):
                found += self._new_scene(now, self._shift(self._before, grey))
        if level >= _DARK:
            found += self._against_background(grey, now, min(max(now - begun, 0.0), 1.0))
        self._before, self._time = grey, now
        return found

    def _size_change(self, frame: Frame) -> Iterator[FootageWarning]:
        size = (frame.image.shape[1], frame.image.shape[0])
        if self._size is not None and size != self._size:
            words = f"from {self._size[0]} x {self._size[1]} to {size[0]} x {size[1]} pixels"
            yield FootageWarning("size changed", frame.time, words)
        self._size = size

    def _against_background(self, grey: Float32[np.ndarray, "h w"], now: float, step: float) -> Iterator[FootageWarning]:
        """Compare the mean of the last second with that of the first one of this scene."""
        if self._first is None:
            self._first, self._recent, self._begun = grey.copy(), grey.copy(), now
            return
        share = 1 - math.exp(-step / _SETTLE_SECONDS)
        self._recent += share * (grey - self._recent)
        if now - self._begun <= 2 * _SETTLE_SECONDS:
            self._first = self._recent.copy()
            return
        ratio = float(self._recent.mean() / max(self._first.mean(), 1.0))
        changed = not 1 / _LIGHT <= ratio <= _LIGHT
        yield from self._lasting("light changed", changed, now, now, f"{ratio - 1:+.0%} since this scene began")
        shift = self._shift(self._first, self._recent)
        if self._lasting("camera moved", shift >= _SHIFT, now, now, ""):
            yield from self._new_scene(now, shift)

    def _new_scene(self, now: float, shift: float) -> Iterator[FootageWarning]:
        """The picture is another one, or the same one moved: a new scene begins."""
        if shift < _SHIFT:
            yield FootageWarning("scene cut", now, "the picture is another one from here on")
        else:
            self._moves += 1
            if self._moves <= _MOST_MOVES:
                more = ", and keeps moving: no more is said about it" if self._moves == _MOST_MOVES else ""
                yield FootageWarning("camera moved", now, f"by {shift:.0%} of the width{more}")
        self._first = None
        for kind in ("camera moved", "light changed"):
            self._over(kind)

    def _shift(self, a: Float32[np.ndarray, "h w"], b: Float32[np.ndarray, "h w"]) -> float:
        """How far the picture has moved, as a share of its width; 0 unless the move makes still edges meet that did not."""
        if min(a.std(), b.std()) < _EMPTY:
            return 0.0
        before, now = _edges(a), _edges(b)
        unmoved = _correlation(before, now)
        if unmoved >= _STILL:
            return 0.0
        (x, y), _ = self._cv2.phaseCorrelate(before, now, self._window)
        moved = _correlation(*_overlap(before, now, round(x), round(y)))
        return math.hypot(x, y) / _WIDTH if moved >= max(_STILL, unmoved + _BETTER) else 0.0

    def _lasting(self, kind: Kind, is_so: bool, begin: float, now: float, words: str) -> list[FootageWarning]:
        """Tell a state once it has lasted; it can be told again after it was over."""
        if not is_so:
            self._over(kind)
            return []
        since = self._since.setdefault(kind, begin)
        if kind in self._told or now - since < _LASTS[kind]:
            return []
        self._told.add(kind)
        return [FootageWarning(kind, since, words)]

    def _over(self, kind: str) -> None:
        self._since.pop(kind, None)
        self._told.discard(kind)

    def _reduced(self, image: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, "h w"]:
        small = self._cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=self._cv2.INTER_AREA)
        grey: Float32[np.ndarray, "h w"] = small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return grey


def check_footage(frames: Iterable[Frame]) -> list[FootageWarning]:
    """Everything a monitor tells about a video, in order."""
    monitor = FootageMonitor()
    return [warning for frame in frames for warning in monitor.look(frame)]


def footage_findings(dataset: Dataset, on_video: Callable[[int, int], object] | None = None) -> list[Finding]:
    """What is wrong with the video files of a dataset folder, as the doctor says it; a file that is gone is a warning too.

    Args:
        dataset: Whose ``videos.csv`` names the files.
        on_video: Called with how many of how many videos are done.
    """
    findings = []
    for done, record in enumerate(dataset.videos, start=1):
        path = dataset.root / record.file
        if not record.file or not path.is_file():
            message = f"its video file is not there: {record.file or 'no file in videos.csv'}"
            findings.append(Finding("warning", "footage", record.video, message, "look at it elsewhere"))
        else:
            findings += _findings_of(record.video, path)
        if on_video is not None:
            on_video(done, len(dataset.videos))
    return findings


def _findings_of(video: str, path: Path) -> list[Finding]:
    try:
        with VideoReader(path) as frames:
            warnings = check_footage(frames)
    except VideoError as error:
        return [Finding("error", "footage", video, error.what, "mend or leave out the video")]
    fix = "look at the video there; scores at such moments mean little"
    return [Finding("warning", warning.kind, video, str(warning), fix) for warning in warnings]


def _edges(picture: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Size of the gradient: structure without light."""
    return np.asarray(np.hypot(*np.gradient(picture)), dtype=np.float32)


def _is_cut(now: Float32[np.ndarray, "h w"], before: Float32[np.ndarray, "h w"]) -> bool:
    difference = now - before
    changed = float((np.abs(difference - difference.mean()) > _CHANGED).mean())
    return changed > _CUT_SHARE and _correlation(now, before) < _CUT


def _overlap(
    a: Float32[np.ndarray, "h w"], b: Float32[np.ndarray, "h w"], x: int, y: int
) -> tuple[Float32[np.ndarray, "rows columns"], Float32[np.ndarray, "rows columns"]]:
    """The parts of two pictures that show the same where the second is the first moved by (x, y), within half its size."""
    x, y = int(np.clip(x, -_WIDTH // 2, _WIDTH // 2)), int(np.clip(y, -_HEIGHT // 2, _HEIGHT // 2))
    of_a = a[max(-y, 0) : _HEIGHT - max(y, 0), max(-x, 0) : _WIDTH - max(x, 0)]
    of_b = b[max(y, 0) : _HEIGHT - max(-y, 0), max(x, 0) : _WIDTH - max(-x, 0)]
    return of_a, of_b


def _correlation(a: Float32[np.ndarray, "h w"], b: Float32[np.ndarray, "h w"]) -> float:
    """Correlation of two pictures; 1 where one has no structure, as a light that goes out is no cut."""
    if min(a.std(), b.std()) < _EMPTY:
        return 1.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()))
