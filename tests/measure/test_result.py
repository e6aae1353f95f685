"""Results: validated records that survive a file, tables of them, and summaries against the statistics module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lego_fusion.errors import DataError
from lego_fusion.measure.result import Result, load_results, pipe_table, save_results


def result(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "dataset": "ped2",
        "split": "weak",
        "modalities": ("motion", "text"),
        "fusion": "lego",
        "seed": 0,
        "selection": "last-step",
        "metric": "micro_auc",
        "value": 0.9876,
        "protocol": "frame level, real frames",
    }
    return Result(**{**fields, **changes})


# --- the record ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"value": float("nan")}, "finite number"),
        ({"value": float("inf")}, "finite number"),
        ({"low": 0.9}, "go together"),
        ({"low": 0.9, "high": 0.99}, "go together"),
        ({"level": 0.95}, "go together"),
        ({"low": 0.99, "high": 1.0, "level": 0.95}, "does not hold the value"),
        ({"low": 0.9, "high": 0.98, "level": 0.95}, "does not hold the value"),
        ({"low": 0.9, "high": 0.99, "level": 1.0}, "less than 1"),
        ({"selection": "best"}, "'last-step', 'validation', 'untrained', 'none-learned' or 'test-best'"),
        ({"unknown": 1}, "Extra inputs are not permitted"),
        ({"protocol": "two\nlines"}, "match pattern"),
        ({"protocol": ""}, "match pattern"),
        ({"parameters": -1}, "greater than or equal to 0"),
        ({"train_seconds": -0.1}, "greater than or equal to 0"),
        ({"modalities": ()}, "at least 1 item"),
        ({"modalities": ("text", "text")}, "named twice"),
        ({"seeds": (1, 2)}, "one seed, or the seeds behind a mean"),
        ({"seed": None, "seeds": (1, 1)}, "named twice"),
        ({"extra": {"gap": float("nan")}}, "finite number"),
        ({"extra": {"gap": [1.0, {"deep": float("inf")}]}}, "finite number"),
        ({"extra": {"gap": object()}}, "valid JSON"),
    ],
)
def test_what_cannot_be_a_result_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        result(**changes)


def test_selection_has_no_default_and_fields_are_frozen() -> None:
    assert Result.model_fields["selection"].is_required()
    with pytest.raises(ValidationError, match="frozen"):
        result().value = 1.0  # type: ignore[misc]


def test_modalities_keep_the_order_given() -> None:
    assert result(modalities=["text", "motion"]).modalities == ("text", "motion")


# --- files -----------------------------------------------------------------------------------------------------------

finite = st.floats(-10, 10)
drawn_results = st.builds(
    result,
    dataset=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    value=finite,
    seed=st.none() | st.integers(0, 2**40),
    parameters=st.none() | st.integers(0, 10**9),
    train_seconds=st.none() | st.floats(0, 1e6),
    extra=st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.lists(finite)),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(drawn_results, max_size=4))
def test_results_survive_a_file(tmp_path_factory: pytest.TempPathFactory, drawn: list[Result]) -> None:
    path = tmp_path_factory.mktemp("results") / "new" / "results.jsonl"
    save_results(path, drawn)
    assert load_results(path) == drawn
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes().count(b"\n") == len(drawn)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    save_results(path, [result()])

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match=r"cannot be written.*no space left"):
        save_results(path, [result(), result(seed=1)])
    assert load_results(path) == [result()]
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_hold_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        save_results(tmp_path / "file" / "results.jsonl", [result()])
    with pytest.raises(DataError, match="cannot be written"):
        save_results(tmp_path, [result()])


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("not json", r"results.jsonl:3\).*Invalid JSON"),
        ("{}", r"results.jsonl:3\).*dataset: Field required"),
        (result().model_dump_json().replace('"seed"', '"sead"'), r":3\).*seed: Field required; sead: Extra inputs"),
        (result().model_dump_json().replace("0.9876", "NaN"), r":3\).*value: Input should be a finite number"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{result().model_dump_json()}\n\n{line}\n")
    with pytest.raises(DataError, match=match) as caught:
        load_results(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(.*absent.jsonl\)"):
        load_results(tmp_path / "absent.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        load_results(tmp_path / "binary.jsonl")


def test_markdown_has_as_many_cells_in_every_line() -> None:
    table = pipe_table(["fusion", "dataset"], [["a|b", "one"], ["c", "two\nlines"]]).splitlines()
    assert len(table) == 4
    assert {line.replace(r"\|", "").count("|") for line in table} == {3}
    assert r"a\|b" in table[2]
