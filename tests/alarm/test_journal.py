"""The journal of alarms: whole lines only, nothing twice, and a full disk that does not stop it."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lego_fusion.alarm import journal as journal_module
from lego_fusion.alarm.journal import AlarmJournal, Progress, read_alarms
from lego_fusion.errors import CheckpointError, DataError, ParameterError


def record(start: float = 1.0, *, kind: str = "alarm", video: str = "a.mp4") -> dict[str, Any]:
    return {"kind": kind, "video": video, "video_bytes": 7, "start_seconds": start}


def test_lines_are_numbered_across_starts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "alarms.jsonl"
    for start in (1.0, 2.0):
        journal = AlarmJournal(path)
        written = journal.append(record(start))
        assert written is not None and written["id"] == int(start)
        journal.close()
    assert [one["id"] for one in read_alarms(path)] == [1, 2]
    assert [json.loads(line)["start_seconds"] for line in path.read_text().splitlines()] == [1.0, 2.0]


def test_the_same_alarm_of_a_file_is_written_once_also_by_another_start(tmp_path: Path) -> None:
    journal = AlarmJournal(tmp_path / "a.jsonl")
    assert journal.append(record()) and journal.append(record(kind="end")) and journal.append(record(2.0))
    assert journal.append(record()) is None
    journal.close()
    again = AlarmJournal(tmp_path / "a.jsonl")
    assert again.append(record()) is None and again.append(record(kind="end")) is None
    assert again.append(record(video="b.mp4")) is not None
    assert again.append({**record(video="b.mp4"), "video_bytes": 8}) is not None  # another file of that name
    again.close()


def test_a_camera_may_say_the_same_again(tmp_path: Path) -> None:
    journal = AlarmJournal(tmp_path / "a.jsonl")
    assert journal.append(record(video="")) and journal.append(record(video=""))
    journal.close()


@pytest.mark.parametrize("cut", range(1, 20, 6))
def test_a_torn_last_line_is_dropped(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = AlarmJournal(path)
    for start in (1.0, 2.0):
        journal.append(record(start))
    journal.close()
    os.truncate(path, path.stat().st_size - cut)
    assert [one["id"] for one in read_alarms(path)] == [1]
    again = AlarmJournal(path)
    assert again.append(record(2.0)) is not None
    again.close()
    assert [(one["id"], one["start_seconds"]) for one in read_alarms(path)] == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("content", ["hello\n", '{"id": 1}\n', "[]\n", "\x00\n"])
def test_a_file_of_something_else_is_not_added_to(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a line is no alarm .*line 1.*give another --out"):
        AlarmJournal(path)
    assert path.read_text() == content


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = AlarmJournal(tmp_path / "a.jsonl")
    with pytest.raises(ParameterError, match="another watch writes this file"):
        AlarmJournal(tmp_path / "a.jsonl")
    first.close()
    AlarmJournal(tmp_path / "a.jsonl").close()


def test_a_full_disk_stops_nothing_and_tears_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    path = tmp_path / "a.jsonl"
    journal = AlarmJournal(path, notify=told.append)
    journal.append(record(1.0))
    before, write = path.read_bytes(), journal_module.write_line

    def full(file: Any, line: bytes) -> None:
        file.write(line[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal_module, "write_line", full)
    for start in (2.0, 3.0):
        written = journal.append(record(start))
        assert written is not None and written["id"] == int(start)
    assert path.read_bytes() == before
    assert len(told) == 1 and "No space left" in told[0]
    monkeypatch.setattr(journal_module, "write_line", write)
    journal.flush()
    journal.close()
    assert [one["start_seconds"] for one in read_alarms(path)] == [1.0, 2.0, 3.0]
    assert "is written again" in told[1]


def test_the_last_alarm_without_an_end_is_known(tmp_path: Path) -> None:
    journal = AlarmJournal(tmp_path / "a.jsonl")
    journal.append(record(video=""))
    journal.close()
    again = AlarmJournal(tmp_path / "a.jsonl")
    assert again.interrupted is not None
    again.append({**again.interrupted, "kind": "end"})
    again.close()
    assert [one["id"] for one in read_alarms(tmp_path / "a.jsonl")] == [1, 2]
    with AlarmJournal(tmp_path / "a.jsonl") as last:
        assert last.interrupted is None


def test_progress_is_found_again(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "a.jsonl", "model 1")
    progress.finish("a.mp4:7")
    progress.finish("a.mp4:7")
    progress.save("b.mp4:8", 12, {"paused": False, "last_end": 3.5, "quiet_until": None})
    progress.close()
    with (tmp_path / "a.jsonl.done").open("ab") as file:
        file.write(b'"torn')
    again = Progress(tmp_path / "a.jsonl", "model 1")
    assert again.done == {"a.mp4:7"}
    assert (again.position.video, again.position.segments) == ("b.mp4:8", 12)
    assert again.position.tracker == {"paused": False, "last_end": 3.5, "quiet_until": None}
    again.finish("c.mp4:9")
    again.close()
    with Progress(tmp_path / "a.jsonl", "model 1") as last:
        assert last.done == {"a.mp4:7", "c.mp4:9"}


def test_progress_of_another_model_or_rule_is_not_continued(tmp_path: Path) -> None:
    Progress(tmp_path / "a.jsonl", "model 1").close()
    with pytest.raises(CheckpointError, match="made with another model or another rule"):
        Progress(tmp_path / "a.jsonl", "model 2")


@pytest.mark.parametrize(("name", "words"), [("position", "saved position is damaged"), ("done", "finished videos is damaged")])
def test_damaged_progress_is_named(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / f"a.jsonl.{name}").write_text("{{{\n")
    with pytest.raises(CheckpointError, match=words):
        Progress(tmp_path / "a.jsonl", "model")
