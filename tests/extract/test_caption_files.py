"""Captions of several videos, found and read; words that set frames apart."""

import json
from pathlib import Path

import pytest

from lego_fusion.data.tables import VideoRecord
from lego_fusion.errors import DataError
from lego_fusion.extract.captions import Caption, captions_between, captions_of, word_shares


def record(video: str, file: str = "") -> VideoRecord:
    return VideoRecord(video, "", 4, 10.0, file=file)


def test_a_folder_a_table_and_a_single_file_say_the_same(tmp_path: Path) -> None:
    texts = ["a", "a", None, "b"]
    expected = (Caption(0, 2, "a"), Caption(3, 4, "b"))
    folder = tmp_path / "captions"
    folder.mkdir()
    (folder / "test_01.json").write_text(json.dumps(texts))
    (tmp_path / "flat.json").write_text(json.dumps({"test_01": texts, "test_02": texts}))
    (tmp_path / "nested.json").write_text(json.dumps({"test": {"01": texts}, "train": {"01": texts}}))
    (tmp_path / "any.json").write_text(json.dumps(texts))
    records = [record("test_01"), record("other")]
    for where in (folder, tmp_path / "flat.json", tmp_path / "nested.json", folder / "test_01.json"):
        assert captions_of(records, where) == {"test_01": expected}, where
    assert captions_of(records, tmp_path / "any.json", sole="test_01") == {"test_01": expected}
    beside = [record("test_01", str(tmp_path / "test_01.mp4")), record("other", str(tmp_path / "other.mp4")), record("bare")]
    assert captions_of(beside) == {"test_01": expected}
    inner = [record("test_01", str(tmp_path / "videos" / "test_01.mp4"))]
    assert captions_of(inner) == {"test_01": expected}


def test_captions_of_other_lengths_are_cut_or_left_open(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(json.dumps({"v": ["a"] * 9, "w": ["b"]}))
    assert captions_of([record("v"), record("w")], tmp_path / "all.json") == {
        "v": (Caption(0, 4, "a"),),
        "w": (Caption(0, 1, "b"),),
    }


def test_captions_of_none_of_the_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text('{"v": ["a"]}')
    with pytest.raises(DataError, match="no captions of these videos"):
        captions_of([record("w")], tmp_path / "all.json")
    assert captions_of([record("w")], tmp_path / "all.json", required=False) == {}
    (tmp_path / "all.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        captions_of([record("w")], tmp_path / "all.json")
    with pytest.raises(DataError, match="file cannot be read"):
        captions_of([record("w")], tmp_path / "none.json")


def test_captions_between_frames_are_those_nearest_to_the_middles() -> None:
    captions = [Caption(0, 4, "a"), Caption(4, 8, "b"), Caption(8, 12, "c")]
    assert captions_between(captions, 4, 8) == ("b",)
    assert captions_between(captions, 0, 12, most=3) == ("a", "b", "c")
    assert captions_between(captions, 20, 24) == ()


def test_shares_of_words_count_frames() -> None:
    captions = [Caption(0, 2, "a red Cart"), Caption(1, 4, "the cart, the cart"), Caption(6, 8, "<b>nothing</b>")]
    assert word_shares(captions) == pytest.approx({"red": 2 / 6, "cart": 4 / 6, "the": 3 / 6, "nothing": 2 / 6})
    assert word_shares(captions, 0, 1) == {"red": 1.0, "cart": 1.0}
    assert word_shares([]) == {}
