"""The bounded queue between the thread that reads frames and the thread that scores them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from ..data.stream import Take
from ..errors import check_int
from ..extract.base import Snippet

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

    take: Take
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
