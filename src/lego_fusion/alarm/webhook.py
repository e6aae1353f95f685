"""Alarms to a web address: kept in the journal until the other side has taken them, without ever holding up the scoring."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DataError, ParameterError
from ..writing import written_whole

_LONGEST_WAIT = 300.0


class Webhook:
    """Send each line of a journal once the other side answers with 2xx, oldest first; failures are tried again.

    What was taken is noted beside the journal, so another start goes on there. A kill between the answer and the note of it
    sends that line again: the header ``Idempotency-Key`` is the same then. Where more than ``most_pending`` lines wait, the
    oldest are given up, and that is said.

    Args:
        url: http or https.
        journal: The file of alarms; ``<journal>.delivered`` lies beside it.
        name: Of the camera, for the key.
        notify: Hears what a person should know, from another thread.
        timeout_seconds: Of one attempt.
        most_pending: Lines that wait at most.
        first_wait: Pause after a first failure; each next one is twice as long, up to five minutes.

    Raises:
        ParameterError: If the address is not of http or https.
        DataError: If the note of what was delivered cannot be read.
    """

    def __init__(
        self,
        url: str,
        journal: Path,
        *,
        name: str = "",
        notify: Callable[[str], None] = lambda _: None,
        timeout_seconds: float = 10.0,
        most_pending: int = 1000,
        first_wait: float = 1.0,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ParameterError("a webhook needs an address of http or https", got=url)
        self.url, self.journal, self.name, self._notify = url, journal, name, notify
        self.timeout_seconds, self.most_pending, self.first_wait = timeout_seconds, most_pending, first_wait
        self.delivered = self.given_up = self.failures = 0
        self._cursor_path = Path(f"{journal}.delivered")
        self._offset = self._read_cursor()
        self._opener = urllib.request.OpenerDirector()
        for handler in (urllib.request.HTTPHandler, urllib.request.HTTPSHandler, urllib.request.ProxyHandler):
            self._opener.add_handler(handler())  # no redirects, no files, no ftp; anything but 2xx is a failure
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    @property
    def pending(self) -> int:
        """Lines that wait."""
        return len(self._waiting()[0])

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """A line was written."""
        self._wake.set()

    def close(self, seconds: float = 5.0) -> None:
        """Give what waits a last while, and stop; what is left then is sent at the next start."""
        self._wake.set()
        deadline = threading.Event()
        for _ in range(int(seconds / 0.05)):
            if not self._thread.is_alive() or (not self.pending and not self._wake.is_set()):
                break
            deadline.wait(0.05)
        self._stopped.set()
        self._wake.set()
        self._thread.join(0.5)

    def _run(self) -> None:
        wait = self.first_wait
        while not self._stopped.is_set():
            self._wake.clear()
            lines, ends = self._waiting()
            if not lines:
                self._wake.wait(1.0)
                continue
            if len(lines) > self.most_pending:
                surplus = len(lines) - self.most_pending
                self.given_up += surplus
                self._notify(f"webhook: {surplus} alarms are given up, more than {self.most_pending} wait")
                self._move_to(ends[surplus - 1])
                continue
            problem = self._send(lines[0])
            if problem is None:
                self.delivered, wait = self.delivered + 1, self.first_wait
                self._move_to(ends[0])
                continue
            self.failures += 1
            self._notify(f"webhook: {problem}; trying again in {wait:g} s")
            self._stopped.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _send(self, line: bytes) -> str | None:
        """Send one line; what went wrong, or None."""
        number = json.loads(line).get("id")
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{self.name or self.journal.stem}-{number}"}
        request = urllib.request.Request(self.url, data=line, headers=headers, method="POST")  # noqa: S310 - http(s) was checked
        try:
            with self._opener.open(request, timeout=self.timeout_seconds) as answer:
                status = int(answer.status)
        except (OSError, HTTPException, urllib.error.URLError) as error:
            return str(getattr(error, "reason", None) or error or type(error).__name__)
        return None if 200 <= status < 300 else f"the other side answers {status}"

    def _waiting(self) -> tuple[list[bytes], list[int]]:
        """Whole lines after what was delivered, and where each ends; a little more than the bound at most."""
        lines: list[bytes] = []
        ends: list[int] = []
        place = self._offset
        try:
            with self.journal.open("rb") as file:
                file.seek(place)
                for line in file:
                    if not line.endswith(b"\n") or len(lines) > 2 * self.most_pending:
                        break
                    place += len(line)
                    lines.append(line)
                    ends.append(place)
        except FileNotFoundError:
            pass
        return lines, ends

    def _move_to(self, offset: int) -> None:
        self._offset = offset
        try:
            with written_whole(self._cursor_path) as file:
                file.write(json.dumps({"bytes": offset}).encode())
        except OSError as error:
            self._notify(f"webhook: {self._cursor_path} cannot be written ({error.strerror})")

    def _read_cursor(self) -> int:
        if not self._cursor_path.is_file():
            return 0
        try:
            return int(json.loads(self._cursor_path.read_bytes())["bytes"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("the note of what was delivered is damaged", where=self._cursor_path, fix="delete it") from error
