"""Watching a source: frames in one thread, scores and alarms in another, and between them a bounded queue.

Files are never hurried: the reader waits while the queue is full. A camera does not wait: a whole snippet that finds the queue
full is dropped, and counted. Nothing that is kept grows with time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..data.stream import LiveStream, Recording, Source, VideoFile, VideoFolder
from ..data.video import Frame
from ..errors import DataError, ParameterError, check_int, check_number
from ..extract.base import FrameExtractor, iterate_snippets
from ..extract.describe import describe_snippet
from ..extract.footage import FootageMonitor
from ..learn.checkpoint import RunConfig
from ..learn.detector import Detector
from ..learn.scoring import FamiliarityMonitor
from ..measure.smoothing import CausalSmoother
from .events import EventRule, EventTracker, EventUpdate, as_score
from .journal import AlarmJournal, Progress, Record, now_as_text
from .live import QUEUE_BYTES, QUEUE_SNIPPETS, SegmentMaker, SegmentScore, SnippetQueue, StreamScorer, StreamSegment, Work
from .webhook import Webhook

_POSITION_SECONDS = 1.0
_RATE_SECONDS = 10.0


@dataclass
class Health:
    """How the watching goes, for a person or a monitor.

    Args:
        seconds: Since the start.
        frames: Read.
        fps: Frames read a second, of late.
        scored_fps: Frames scored a second, of late.
        lag_seconds: From the arrival of a snippet's last frame to its score, the last time; None for files.
        segments: Scored.
        dropped_snippets: Because the machine was too slow.
        reconnects: Of a stream.
        alarms: Raised since the start.
        webhook_pending: Alarms that the webhook has not taken.
        webhook_given_up: Alarms that it never will.
        last_score: Sigmoid of the last logit.
        position_seconds: Of the source, at the last segment.
    """

    seconds: float = 0.0
    frames: int = 0
    fps: float = 0.0
    scored_fps: float = 0.0
    lag_seconds: float | None = None
    segments: int = 0
    dropped_snippets: int = 0
    reconnects: int = 0
    alarms: int = 0
    webhook_pending: int = 0
    webhook_given_up: int = 0
    last_score: float | None = None
    position_seconds: float = 0.0


@dataclass
class Callbacks:
    """Who is told what, all in the thread that scores, but for ``note``, which may come from any.

    Args:
        alarm: An alarm, or the end of an event, as it is in the journal.
        segment: The score of each segment, with the name of its video.
        note: What a person should know.
        health: Every ``health_seconds``.
    """

    alarm: Callable[[Record], None] = lambda record: None
    segment: Callable[[str, SegmentScore], None] = lambda video, score: None
    note: Callable[[str], None] = lambda text: None
    health: Callable[[Health], None] = lambda health: None


@dataclass(eq=False)
class Watch:
    """Score a source until it ends and tell of alarms.

    Args:
        source: From ``data.stream.open_source``.
        detector: Of a streamable run.
        config: Of the run.
        extractors: From ``stream.stream_extractors``.
        rule: When a score is an alarm.
        journal: Where alarms are kept; None keeps none, so nothing is taken up again either.
        progress: Where watching files goes on; None begins them anew.
        webhook: Sends what is in the journal.
        camera: Name in the alarms.
        callbacks: Who is told.
        health_seconds: Between two reports of health.
        queue_snippets: Snippets between the two threads.
        queue_bytes: Of pictures between the two threads.
    """

    source: Source
    detector: Detector
    config: RunConfig
    extractors: dict[str, FrameExtractor]
    rule: EventRule
    journal: AlarmJournal | None = None
    progress: Progress | None = None
    webhook: Webhook | None = None
    camera: str = ""
    callbacks: Callbacks = field(default_factory=Callbacks)
    health_seconds: float = 10.0
    queue_snippets: int = QUEUE_SNIPPETS
    queue_bytes: int = QUEUE_BYTES

    def __post_init__(self) -> None:
        check_number(self.health_seconds, "health_seconds", "Watch", low=0.01)
        first = next(iter(self.config.manifests.values()))
        self._grid = (first.snippet_frames, first.stride)
        self._snippets = check_int(self.config.segment_snippets, "segment_snippets", "Watch", low=1)
        self._scorer = StreamScorer(self.detector, self.config)
        self._queue = SnippetQueue(self.queue_snippets, self.queue_bytes)
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._tracker = EventTracker(self.rule)
        self._recording: Recording | None = None
        self._broken: Recording | None = None  # the rest of which is passed over
        self._first_segment = self._done_segments = self._scored_frames = 0
        self._numbers = 0  # of alarms, where no journal gives them
        self.health = Health()

    def stop(self) -> None:
        """End the watching soon, from any thread; what is open of a camera's events is closed."""
        self._stop.set()

    def run(self) -> Health:
        """Watch until the source ends or ``stop`` is called.

        Raises:
            VideoError: If the file cannot be read, or a stream is gone for too long.
        """
        self._resume()
        self._close_interrupted()
        reader = threading.Thread(target=self._read, name="reader", daemon=True)
        self._started = self._told = self._saved = time.monotonic()
        self._rates = deque([(self._started, 0, 0)], maxlen=64)
        if self.webhook is not None:
            self.webhook.start()
        reader.start()
        try:
            self._score()
        finally:
            self._stop.set()
            self._queue.close()
            if self.webhook is not None:
                self.webhook.close()
            self._tell_health()
        if self._failure is not None:
            raise self._failure
        return self.health

    # --- the thread that reads ---

    def _read(self) -> None:
        """Put the snippets of all takes into the queue."""
        try:
            for take in self.source.takes(self.callbacks.note, self._stop):
                if self._stop.is_set() or not self._queue.put(Work(take), wait=True):
                    return
                self._read_take(take)
                if not self._queue.put(Work(take, ends=True), wait=True):
                    return
        except Exception as error:
            self._failure = error
        finally:
            self._queue.end()

    def _read_take(self, take: Recording) -> None:
        for snippet in iterate_snippets(self._looked_at(take), *self._grid):
            if snippet.index * self._grid[1] <= take.first_needed and take.first_needed:
                continue  # its pictures were not asked for
            if not self._queue.put(Work(take, snippet, time.monotonic()), wait=not self.source.live):
                if self._stop.is_set():
                    return
                self._drop()

    def _warn(self, video: str, text: str) -> None:
        self.callbacks.note(f"warning: {video}: {text}" if video else f"warning: {text}")

    def _drop(self) -> None:
        self.health.dropped_snippets += 1
        number = self.health.dropped_snippets
        if number & (number - 1) == 0:  # 1, 2, 4, 8 ...
            self.callbacks.note(f"the machine is too slow: {number} snippets are dropped so far")

    def _looked_at(self, take: Recording) -> Iterator[Frame]:
        """The frames of a take, counted, and what is wrong with them told."""
        monitor = FootageMonitor()
        for frame in take.frames:
            self.health.frames += 1
            if frame.index > take.first_needed or not take.first_needed:
                for warning in monitor.look(frame):
                    self._warn(take.name, str(warning))
            yield frame
            if self._stop.is_set():
                return

    # --- the thread that scores ---

    def _score(self) -> None:
        while not self._stop.is_set() and not self._queue.over:
            work = self._queue.get(min(0.5, self.health_seconds))
            if work is not None and work.take is not self._broken:
                self._do_or_pass_over(work)
            self._now_and_then()
        if self.source.live:
            self._raise(self._tracker.finish())
        elif self._stop.is_set():
            self._save(force=True)

    def _do_or_pass_over(self, work: Work) -> None:
        """Do it; what cannot be described is told of, and the next video of a folder or snippet of a camera comes."""
        try:
            self._do(work)
        except DataError as error:
            if self.source.live:
                self.callbacks.note(f"a snippet is left out: {error}")
                return
            if not isinstance(self.source, VideoFolder):
                raise
            self._broken = work.take
            self.callbacks.note(f"{work.take.name} is left out: {error}")
            self._raise(self._tracker.finish())
            self._finish(work.take)

    def _do(self, work: Work) -> None:
        if work.snippet is not None:
            where = work.take.name or self.source.name
            rows = describe_snippet(work.snippet, self.extractors, where=where)
            for segment in self._maker.push(work.snippet, rows):
                self._score_segment(segment)
            self._scored_frames += min(len(work.snippet.frames), self._grid[1])
            if self.source.live:
                self.health.lag_seconds = time.monotonic() - work.arrived
        elif work.ends:
            for segment in self._maker.finish():
                self._score_segment(segment)
            if not self._stop.is_set():
                self._raise(self._tracker.finish())
                self._finish(work.take)
        else:
            self._begin(work.take)

    def _begin(self, take: Recording) -> None:
        self._recording = take
        self._scorer.clear()
        self._unlike = FamiliarityMonitor(self.detector.fusion, lambda text: self._warn(take.name, text))
        self._maker = SegmentMaker(self.config.manifests, self._snippets, stride=self._grid[1], rate=take.rate)
        self._smoother = CausalSmoother(self._snippets * self._grid[1] / take.rate, self.config.smoothing)
        self._first_segment, self._done_segments = 0, 0
        position = self.progress.position if self.progress is not None else None
        if position is not None and take.identity and position.video == take.identity:
            self._first_segment = position.segments
            self._smoother.restore(position.recent)
            self._tracker = EventTracker.restore(self.rule, position.tracker)
        elif take.identity:
            self._tracker = EventTracker(self.rule)

    def _score_segment(self, segment: StreamSegment) -> None:
        logit = self._scorer.push(segment.features)
        self._done_segments = segment.number + 1
        if segment.number < self._first_segment:
            return  # it only fills the window again
        start, end, logit = segment.start_seconds, segment.end_seconds, self._smoother.push(segment.number, logit)
        score = SegmentScore(start, end, logit)
        self._unlike.look(segment.features)
        self.health.segments += 1
        self.health.last_score, self.health.position_seconds = score.score, end
        self.callbacks.segment("" if self._recording is None else self._recording.name, score)
        self._raise(self._tracker.push(start, end, logit))
        self._save()

    def _raise(self, updates: tuple[EventUpdate, ...]) -> None:
        for update in updates:
            record = self._record(update)
            if self.journal is None:
                self._numbers += 1
                written: Record | None = {"id": self._numbers, **record}
            else:
                written = self.journal.append(record)
            if written is None:
                continue
            self.health.alarms += written["kind"] == "alarm"
            self.callbacks.alarm(written)
            if self.webhook is not None:
                self.webhook.wake()

    def _record(self, update: EventUpdate) -> Record:
        event = update.event
        kind = "snoozed" if update.kind == "end" and event.alarm_seconds is None else update.kind
        video, _, size = ("" if self._recording is None else self._recording.identity).rpartition(":")
        return {
            "kind": kind,
            "camera": self.camera,
            "source": self.source.name,
            "video": video,
            "video_bytes": int(size) if size else None,
            "start_seconds": round(event.start_seconds, 6),
            "end_seconds": round(event.end_seconds, 6),
            "peak_seconds": round(event.peak_seconds, 6),
            "peak_score": as_score(event.peak),
            "peak_logit": event.peak,
            "threshold_logit": self.rule.threshold,
            "time": now_as_text(),
        }

    # --- what is kept, and what is told now and then ---

    def _resume(self) -> None:
        """Leave out what is done, and read a file that was watched in part from where its window begins."""
        if self.progress is None:
            return
        position, done = self.progress.position, self.progress.done
        first = self._first_picture(position.segments)
        if isinstance(self.source, VideoFolder):
            self.source.done |= done
            self.source.first_picture = {position.video: first} if position.video else {}
            self.source.on_failure = self.progress.finish
        elif isinstance(self.source, VideoFile):
            if self.source.identity in done:
                self.callbacks.note(f"{self.source.name} was watched to its end before")
                self._stop.set()
            elif self.source.identity == position.video:
                self.source.first_picture = first

    def _first_picture(self, segments: int) -> int:
        """Frame from which on pictures are needed to score the segment after so many."""
        first = max(0, segments - self._scorer.before) * self._snippets * self._grid[1]
        return max(0, first - 1)  # motion looks at the frame before

    def _close_interrupted(self) -> None:
        """Say that a camera's last event ended unseen, if the watching did not end as it should."""
        last = self.journal.interrupted if self.journal is not None else None
        if self.journal is None or last is None or not self.source.live:
            return
        self.journal.append({**last, "kind": "end", "interrupted": True, "time": now_as_text()})

    def _save(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self.progress is None or self._recording is None or not (force or now - self._saved >= _POSITION_SECONDS):
            return
        self._saved, video = now, self._recording.identity
        if self._done_segments > self._first_segment and video not in self.progress.done:
            try:
                self.progress.save(video, self._done_segments, self._tracker.state(), self._smoother.state())
            except OSError as error:
                self.callbacks.note(f"the position cannot be saved ({error.strerror})")

    def _finish(self, take: Recording) -> None:
        if self.progress is not None and take.identity:
            try:
                self.progress.finish(take.identity)
            except OSError as error:
                self.callbacks.note(f"that {take.name} is done cannot be saved ({error.strerror})")

    def _now_and_then(self) -> None:
        if self.journal is not None:
            self.journal.flush()
        if time.monotonic() - self._told >= self.health_seconds:
            self._tell_health()

    def _tell_health(self) -> None:
        now = time.monotonic()
        self._told = now
        self._rates.append((now, self.health.frames, self._scored_frames))
        while len(self._rates) > 2 and now - self._rates[0][0] > max(_RATE_SECONDS, 2 * self.health_seconds):
            self._rates.popleft()
        since, frames, scored = self._rates[0]
        passed = max(now - since, 1e-9)
        self.health.seconds = now - self._started
        self.health.fps = (self.health.frames - frames) / passed
        self.health.scored_fps = (self._scored_frames - scored) / passed
        if isinstance(self.source, LiveStream):
            self.health.reconnects = self.source.reconnects
        if self.webhook is not None:
            self.health.webhook_pending, self.health.webhook_given_up = self.webhook.pending, self.webhook.given_up
        self.callbacks.health(self.health)


def health_as_json(health: Health) -> dict[str, float | int | None]:
    """Health as JSON values, rounded for reading."""
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(health).items()}


def fingerprint(config: RunConfig, rule: EventRule) -> str:
    """What decides which alarms a video raises."""
    smoothed = f" smoothed {config.smoothing:g} s" if config.smoothing else ""
    return f"{config.weights_hash} {rule.model_dump_json()}{smoothed}"


def check_paths(out: Path | None) -> Path | None:
    """Refuse a place for alarms that is a folder."""
    if out is not None and out.is_dir():
        raise ParameterError("alarms go to a file", where=out, got="a folder", fix="name a file in it, such as alarms.jsonl")
    return out
