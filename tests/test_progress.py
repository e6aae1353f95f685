"""What a long run says where nobody watches a bar."""

import os
import re
import signal
import threading
import time

import pytest

from lego_fusion.commands import terminal
from lego_fusion.commands.terminal import progress, stopped_by_termination


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.05)
    said = threading.Event()
    spoken = terminal.remark

    def remark(line: str) -> None:
        spoken(line)
        if "of 45" in line:
            said.set()

    monkeypatch.setattr(terminal, "remark", remark)
    with progress("comparing") as notify:
        notify(3, 45)  # what was there before
        notify(13, 45)
        assert said.wait(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "comparing ..."
    assert any(re.fullmatch(r"comparing: 13 of 45 done after \d+ s, about \d+ s to go", line) for line in lines)
    assert re.fullmatch(r"comparing: 13 done in [\d.]+ s", lines[-1])


def test_nothing_is_said_after_the_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.2)
    with pytest.raises(ValueError, match="stop"), progress("comparing") as notify:
        notify(1, 2)
        raise ValueError("stop")
    capsys.readouterr()
    time.sleep(0.5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ((0, 0, 0, 61.0), "going on after 61 s"),
        ((3, 45, 3, 120.0), "3 of 45 done after 2 min"),
        ((13, 45, 3, 100.0), "13 of 45 done after 2 min, about 5 min to go"),
        ((45, 45, 0, 7200.0), "45 of 45 done after 2.0 h"),
    ],
)
def test_a_line_says_how_far_it_is_and_for_how_long(numbers: tuple[int, int, int, float], line: str) -> None:
    assert terminal._stand(*numbers) == line


def test_termination_stops_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stopped_by_termination():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == before
