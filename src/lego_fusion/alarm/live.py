"""A streamable model on a running stream: one logit per segment, equal to what scoring the recorded video would give.

Snippets come in by the same extractors and the same averaging as offline. A new segment is one more row of the frozen stage;
what of the segments before it is kept is bounded and up to the fusion (``fusion.streams``). So memory does not grow.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..data.manifest import Manifest
from ..data.stream import Recording
from ..errors import DataError, ParameterError, check_int
from ..extract.base import Extractor, FrameExtractor, SidecarExtractor, Snippet
from ..extract.registry import extractor_for
from ..fusion.relation import mean_over_units
from ..learn.bags import fixed_segments
from ..learn.checkpoint import RunConfig
from ..learn.detector import Detector
from .events import as_score

QUEUE_SNIPPETS = 4
QUEUE_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class Work:
    """What goes through the queue: the start of a take, one of its snippets, or its end.

    Args:
        take: Which.
        snippet: Or None.
        arrived: When its last frame came, in seconds of a monotonic clock.
        ends: Whether the take is over.
    """

    take: Recording
    snippet: Snippet | None = None
    arrived: float = 0.0
    ends: bool = False

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return 0 if self.snippet is None else sum(frame.image.nbytes for frame in self.snippet.frames)


class SnippetQueue:
    """A queue that holds a few snippets, and not more bytes than it may; one snippet always fits.

    Args:
        snippets: Most of them.
        size: Most bytes of pictures.
    """

    def __init__(self, snippets: int = QUEUE_SNIPPETS, size: int = QUEUE_BYTES) -> None:
        self.snippets = check_int(snippets, "snippets", "SnippetQueue", low=1)
        self.size, self._bytes = size, 0
        self._closed = self._ended = False
        self._items: deque[Work] = deque()
        self._changed = threading.Condition()

    def put(self, work: Work, *, wait: bool) -> bool:
        """Add work; False where there is no room and it may not wait, or nobody takes it any more."""
        with self._changed:
            if not wait and work.snippet is not None and not self._fits(work):
                return False
            self._changed.wait_for(lambda: self._closed or self._fits(work))
            if self._closed:
                return False
            self._items.append(work)
            self._bytes += work.size
            self._changed.notify_all()
            return True

    def get(self, seconds: float) -> Work | None:
        """The next work; None where nothing came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended, seconds)
            if not self._items:
                return None
            work = self._items.popleft()
            self._bytes -= work.size
            self._changed.notify_all()
            return work

    @property
    def over(self) -> bool:
        """Whether nothing is there and nothing will come."""
        with self._changed:
            return self._ended and not self._items

    def end(self) -> None:
        """Nothing will come any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, work: Work) -> bool:
        waiting = sum(one.snippet is not None for one in self._items)
        return work.snippet is None or not waiting or (waiting < self.snippets and self._bytes + work.size <= self.size)


@dataclass(frozen=True, eq=False)
class StreamSegment:
    """One segment of a stream.

    Args:
        number: Place in its take, from 0.
        start_seconds: When it starts.
        end_seconds: When it ends, after its start and not after the next one starts.
        features: Of each modality, (1, 1, D) or (1, 1, U, D + 1).
    """

    number: int
    start_seconds: float
    end_seconds: float
    features: dict[str, Tensor]


@dataclass(frozen=True)
class SegmentScore:
    """The causal score of one segment.

    Args:
        start_seconds: When it starts.
        end_seconds: When it ends.
        logit: Higher is more abnormal.
    """

    start_seconds: float
    end_seconds: float
    logit: float

    @property
    def score(self) -> float:
        """Sigmoid of the logit, in [0, 1]."""
        return as_score(self.logit)


def stream_extractors(
    config: RunConfig, *, networks: Mapping[str, Path] | None = None, where: object = None
) -> dict[str, FrameExtractor]:
    """The extractors that a run needs on a stream.

    Args:
        config: Of the run.
        networks: For each modality whose extractor is a network on disk, where it lies.
        where: The run, for errors.

    Raises:
        ParameterError: If the model cannot be run on a stream: it cuts videos into equal spans, or needs captions or sound.
    """
    if config.segment_snippets is None:
        raise ParameterError(
            "the model cuts a whole video into equal spans, so it cannot score one that has not ended",
            where=where,
            expected="segments of a fixed duration",
            got=f"{config.nodes} spans",
            fix="train one with --segment-snippets 1",
        )
    networks = networks or {}
    extractors: dict[str, FrameExtractor] = {}
    for name, manifest in config.manifests.items():
        if manifest.crops != 1:
            raise ParameterError(f"modality '{name}' has {manifest.crops} crops, a stream has one", where=where)
        extractor = extractor_for(manifest, model=networks.get(name))
        if not isinstance(extractor, FrameExtractor):
            raise ParameterError(
                f"the model needs {_lacking(extractor)} for modality '{name}', which a stream does not bring",
                where=where,
                expected="modalities made from pictures",
                got=", ".join(config.manifests),
                fix=f"train without '{name}', for example with --modalities motion,appearance",
            )
        extractors[name] = extractor
    return extractors


def _lacking(extractor: Extractor) -> str:
    return "captions" if isinstance(extractor, SidecarExtractor) else "the sound"


class SegmentMaker:
    """Described snippets to segments of S snippets.

    Where snippets were dropped, a segment is the mean of those that are there; one of which nothing is there does not exist.

    Args:
        manifests: Of every modality.
        segment_snippets: S.
        stride: Frames from one snippet to the next: where they overlap, a segment lasts until the next one starts.
        rate: Frames per second that the source declares.
    """

    def __init__(self, manifests: Mapping[str, Manifest], segment_snippets: int, *, stride: int, rate: float) -> None:
        self.manifests, self.snippets, self.stride, self.rate = manifests, segment_snippets, stride, rate
        self._number, self._start, self._end = 0, 0.0, float("-inf")
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in manifests}

    def push(self, snippet: Snippet, rows: Mapping[str, np.ndarray]) -> list[StreamSegment]:
        """Take the next snippet and what the extractors say of it; give the segments that are complete now."""
        number = snippet.index // self.snippets
        complete = self.finish() if number != self._number else []
        self._number = number
        start, end = self._seconds(snippet)
        if not any(self._rows.values()):
            self._start = max(start, self._end)
        self._end = max(end, self._start + (end - start))
        for name, row in rows.items():
            self._rows[name].append(row)
        return complete + (self.finish() if (snippet.index + 1) % self.snippets == 0 else [])

    def finish(self) -> list[StreamSegment]:
        """The take has ended: what is there is a segment."""
        if not any(self._rows.values()):
            return []
        rows = {name: np.stack(values) for name, values in self._rows.items()}
        features = {name: fixed_segments(values, self.manifests[name], self.snippets) for name, values in rows.items()}
        self._rows = {name: [] for name in self.manifests}
        return [StreamSegment(self._number, self._start, self._end, features)]

    def _seconds(self, snippet: Snippet) -> tuple[float, float]:
        """When a snippet starts, and when the next one does or, where that is not known yet, its last frame ends."""
        times = [frame.time for frame in snippet.frames]
        if len(times) > self.stride and times[self.stride] > times[0]:
            return times[0], times[self.stride]
        gaps = np.diff(times)
        usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1 / self.rate
        return times[0], times[-1] + usual


class StreamScorer:
    """Segments one by one to logits, by definition those of the last node of the window of the last N segments.

    Args:
        detector: Of a streamable run.
        config: Of the run.

    Example:
        >>> from lego_fusion.fusion.elementwise import Concat
        >>> config = RunConfig(
        ...     format=1, lego_fusion="0", detector={}, nodes=4, segment_snippets=1, manifests={}, training={}, dataset={}
        ... )
        >>> scorer = StreamScorer(Detector(Concat({"motion": 2})), config)
        >>> isinstance(scorer.push({"motion": torch.zeros(1, 1, 2)}), float)
        True
    """

    def __init__(self, detector: Detector, config: RunConfig) -> None:
        self.detector = detector.eval()
        self._stream = detector.stream(config.nodes)

    @property
    def before(self) -> int:
        """How many segments before its own a segment's logit depends on."""
        return self._stream.before

    def clear(self) -> None:
        """Forget the last segments: a new take begins."""
        self._stream.clear()

    @torch.inference_mode()
    def push(self, features: Mapping[str, Float[Tensor, "1 1 ..."]]) -> float:
        """Take the next segment and give its logit.

        Raises:
            DataError: If the logit is not finite.
        """
        fusion = self.detector.fusion
        seen = {name: _as_read(features[name], fine=name in fusion.units) for name in fusion.modalities}
        nodes, mask = self._stream.push(seen)
        logit = float(self.detector.head(nodes, mask)[0, -1])
        if not np.isfinite(logit):
            raise DataError("the model gave a score that is not finite", got=logit, fix="look at the pictures there")
        return logit


def _as_read(x: Tensor, *, fine: bool) -> Tensor:
    """Finer units that a fusion does not read become the mean of those present."""
    return mean_over_units(x) if x.ndim == 4 and not fine else x
