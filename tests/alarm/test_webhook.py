"""The webhook: everything arrives once the other side is there, in order, and nothing waits for it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lego_fusion.alarm.webhook import Webhook
from lego_fusion.errors import DataError, ParameterError


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses given, then with 200."""

    daemon_threads = True

    def __init__(self, port: int = 0, statuses: tuple[int, ...] = ()) -> None:
        self.statuses, self.taken, self.keys = list(statuses), [], []
        super().__init__(("127.0.0.1", port), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.taken.append(json.loads(content)["id"])
            self.server.keys.append(self.headers["Idempotency-Key"])
        self.send_response(status)
        if status in (301, 302):
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    there: list[Receiver] = []

    def start(**options: Any) -> Receiver:
        there.append(Receiver(**options))
        return there[-1]

    yield start
    for one in there:
        one.shutdown()
        one.server_close()


def write(journal: Path, *numbers: int) -> None:
    with journal.open("ab") as file:
        for number in numbers:
            file.write(json.dumps({"id": number}).encode() + b"\n")


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def test_lines_arrive_in_order_with_a_key(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    receiver, journal = receive(), tmp_path / "a.jsonl"
    write(journal, 1, 2)
    webhook = Webhook(receiver.url, journal, name="door")
    webhook.start()
    write(journal, 3)
    webhook.wake()
    until(lambda: receiver.taken == [1, 2, 3])
    assert receiver.keys == ["door-1", "door-2", "door-3"]
    webhook.close()
    assert webhook.pending == 0


def test_what_was_taken_is_not_sent_again_by_another_start(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    receiver, journal = receive(), tmp_path / "a.jsonl"
    for number in (1, 2):
        write(journal, number)
        webhook = Webhook(receiver.url, journal)
        webhook.start()
        until(lambda number=number: receiver.taken[-1:] == [number])
        webhook.close()
    assert receiver.taken == [1, 2]


def test_a_webhook_that_is_down_keeps_what_waits_and_goes_on(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    journal, told = tmp_path / "a.jsonl", []
    write(journal, 1, 2)
    webhook = Webhook(f"http://127.0.0.1:{port}/hook", journal, notify=told.append, first_wait=0.05)
    started = time.monotonic()
    webhook.start()
    webhook.wake()
    assert time.monotonic() - started < 1  # nobody waits
    until(lambda: webhook.failures >= 3)
    assert webhook.pending == 2
    waits = [float(line.split("again in ")[1].split()[0]) for line in told]
    assert waits[:3] == [0.05, 0.1, 0.2]
    receiver = receive(port=port)
    until(lambda: receiver.taken == [1, 2])
    webhook.close()


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
def test_anything_but_success_is_tried_again(status: int, receive: Callable[..., Receiver], tmp_path: Path) -> None:
    receiver, journal, told = receive(statuses=(status,)), tmp_path / "a.jsonl", []
    write(journal, 1)
    webhook = Webhook(receiver.url, journal, notify=told.append, first_wait=0.02)
    webhook.start()
    until(lambda: receiver.taken == [1])
    webhook.close()
    assert f"the other side answers {status}" in told[0]


def test_of_too_many_that_wait_the_oldest_are_given_up(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    receiver, journal, told = receive(), tmp_path / "a.jsonl", []
    write(journal, *range(1, 8))
    webhook = Webhook(receiver.url, journal, notify=told.append, most_pending=3)
    webhook.start()
    until(lambda: receiver.taken == [5, 6, 7])
    webhook.close()
    assert webhook.given_up == 4 and "4 alarms are given up" in told[0]


def test_a_torn_line_is_not_sent(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    receiver, journal = receive(), tmp_path / "a.jsonl"
    write(journal, 1)
    with journal.open("ab") as file:
        file.write(b'{"id": 2, "kind"')
    webhook = Webhook(receiver.url, journal)
    webhook.start()
    until(lambda: receiver.taken == [1])
    webhook.close()
    assert receiver.taken == [1]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "host/x", "http:///x", ""])
def test_only_web_addresses(url: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="needs an address of http or https"):
        Webhook(url, tmp_path / "a.jsonl")


def test_a_damaged_note_of_what_was_delivered(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.delivered").write_text("{")
    with pytest.raises(DataError, match="note of what was delivered is damaged"):
        Webhook("http://127.0.0.1:9/", tmp_path / "a.jsonl")
