"""The table as text and picture, from rows made by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.splits import Split
from lego_fusion.measure.result import Result, load_results
from lego_fusion.report.comparison_files import comparison_figure, document, markdown, rules, save_comparison, sections, table
from lego_fusion.study.cells import ComparisonPlan, DatasetPlan
from lego_fusion.study.plan import ALL_FUSIONS
from lego_fusion.study.table import UNFINISHED, Comparison, Row

BOTH = ("motion", "text")


def plan_of(*, splits: int = 1, datasets: tuple[str, ...] = ("street",), **changes: Any) -> ComparisonPlan:
    drawn = tuple(Split(f"split-{number}", ("a", "b"), ("c",)) for number in range(splits))
    given: dict[str, Any] = {
        "lego_fusion": "0",
        "split_kind": "own" if splits == 1 else "resplits",
        "modality_sets": (BOTH,),
        "fusions": ("lego", "concat"),
        "references": False,
        "seeds": 3,
        "conditions": ("clean",),
        "training": TrainingConfig(),
        "validation": 0.0,
        "nodes": 32,
        "test_best": False,
        "datasets": tuple(DatasetPlan(name=name, hash="0", manifests={}, splits=drawn) for name in datasets),
    }
    return ComparisonPlan(**{**given, **changes})


LEGO = Row(
    dataset="street",
    modalities=BOTH,
    condition="clean",
    method="lego",
    cells=3,
    planned=3,
    micro=0.98765,
    low=0.9712,
    high=0.9961,
    abnormal=0.9,
    average_precision=0.712,
    video_auc=0.955,
    video_precision=0.967,
    baseline="concat",
    difference=-0.0101,
    difference_low=-0.03,
    difference_high=0.0049,
    parameters=1107,
    train_seconds=0.519,
    score_seconds=0.0061,
)
CONCAT = replace(LEGO, method="concat", micro=0.9977, difference=None, difference_low=None, difference_high=None)
FAILED = Row("street", BOTH, "clean", method="tensor", cells=0, planned=3, error="3 of 3 cells failed: a|b")


def comparison_of(*rows: Row, plan: ComparisonPlan | None = None, baseline: str = "concat", **changes: Any) -> Comparison:
    return Comparison(plan or plan_of(), baseline, rows or (LEGO, CONCAT), changes.get("notes", ()), changes.get("records", ()))


def test_a_row_is_written_in_percent() -> None:
    comparison = comparison_of()
    (title, rows), *more = sections(comparison)
    assert not more
    assert title == "motion + text: street, own split, 3 seeds"
    headings, cells = table(comparison, rows, brief=True)
    found = dict(zip(headings, cells[0], strict=True))
    assert found == {
        "method": "lego",
        "parameters": "1,107",
        "micro AUC": "98.8 [97.1, 99.6]",
        "difference to concat": "-1.0 [-3.0, 0.5]",
        "abnormal AUC": "90.0",
        "AP": "71.2",
        "video AUC": "95.5",
        "video AP": "96.7",
        "training s": "0.52",
        "scoring ms": "6.1",
    }
    assert cells[1][headings.index("difference to concat")] == "baseline"
    assert table(comparison, rows)[0] == ["modalities", *headings]


def test_columns_are_there_where_they_are_asked_for() -> None:
    watched = replace(LEGO, untrained=0.5, gap=0.012, deviation=0.004)
    plan = plan_of(splits=10, test_best=True, conditions=("clean", "text:noise=1"))
    comparison = comparison_of(watched, replace(watched, condition="text:noise=1"), plan=plan)
    headings, cells = table(comparison, comparison.rows)
    found = [dict(zip(headings, row, strict=True)) for row in cells]
    assert [row["condition"] for row in found] == ["clean", "text:noise=1"]
    assert (found[0]["untrained"], found[0]["optimism gap"]) == ("50.0", "+1.2")
    assert found[0]["micro AUC"] == "98.8 ± 0.4 [97.1, 99.6]"
    assert next(sections(comparison))[0] == "motion + text: street, 10 random re-splits, 3 seeds"
    plain = comparison_of(replace(LEGO, baseline="", difference=None), baseline="")
    assert not {"untrained", "optimism gap", "condition"} & set(table(plain, plain.rows)[0])
    assert not any("difference" in heading for heading in table(plain, plain.rows)[0])


def test_the_best_baseline_is_named_where_it_differs() -> None:
    other = replace(LEGO, modalities=("text",), baseline="add", difference=0.02, difference_low=0.01, difference_high=0.03)
    comparison = comparison_of(LEGO, other, baseline="best")
    headings, cells = table(comparison, comparison.rows)
    place = headings.index("difference to best baseline")
    assert [row[place] for row in cells] == ["-1.0 [-3.0, 0.5] (concat)", "+2.0 [1.0, 3.0] (add)"]
    assert "difference to add" in table(comparison, [other], brief=True)[0]
    assert any("on these very test numbers" in rule for rule in rules(comparison))


def test_a_failed_row_says_why_where_there_is_room() -> None:
    comparison = comparison_of(LEGO, FAILED)
    headings, cells = table(comparison, comparison.rows)
    assert cells[1][headings.index("micro AUC")] == "failed: 3 of 3 cells failed: a|b"
    brief, short = table(comparison, comparison.rows, brief=True)
    assert short[1][brief.index("micro AUC")] == "failed"
    lines = markdown(comparison).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    assert any(r"a\|b" in line for line in rows)


def test_a_stopped_comparison_says_of_how_many_cells_each_row_is() -> None:
    rows = (replace(LEGO, cells=2), Row("street", BOTH, "clean", method="add", cells=0, planned=3, error=UNFINISHED))
    comparison = replace(comparison_of(*rows), unfinished=4)
    headings, cells = table(comparison, comparison.rows)
    assert [row[headings.index("cells")] for row in cells] == ["2 of 3", "0 of 3"]
    assert cells[1][headings.index("micro AUC")] == "-"
    assert document(comparison)["unfinished"] == 4
    assert "cells" not in table(comparison_of(), (LEGO,))[0]


def test_the_rules_say_how_the_numbers_came_about() -> None:
    one = " ".join(rules(comparison_of()))
    assert "300 steps of Adam at 0.001, all videos a step" in one
    assert "the last step" in one
    assert "over test videos and seeds" in one
    assert "minus that of concat" in one
    assert "test labels" not in one
    assert "learn nothing" not in one
    training = TrainingConfig(steps=20, batch_size=8, selection="validation")
    every = plan_of(splits=3, datasets=("a", "b"), references=True, test_best=True, training=training, fusions=ALL_FUSIONS)
    many = " ".join(rules(comparison_of(plan=every)))
    assert "20 steps of Adam at 0.001, 8 videos a step" in many
    assert "lowest validation loss" in many
    assert "share videos" in many
    assert "all 2 datasets" in many
    assert "learn nothing" in many
    assert "mtn is left out" in many
    assert "test labels" in many


def test_what_is_written_can_be_read_by_machines(tmp_path: Path) -> None:
    record = Result(
        dataset="street",
        split="own",
        modalities=BOTH,
        fusion="lego",
        seed=0,
        selection="last-step",
        metric="micro_auc",
        value=0.5,
        protocol="frames",
        condition="text:noise=1",
    )
    comparison = comparison_of(LEGO, FAILED, records=(record,), notes=("something lacks",))
    files = save_comparison(tmp_path / "new", comparison)
    assert load_results(files["records"]) == [record]
    stored = json.loads(files["json"].read_text())
    assert stored == json.loads(json.dumps(document(comparison)))
    assert stored["rows"][0]["micro"] == 0.98765
    assert stored["rows"][1]["error"].startswith("3 of 3")
    assert (stored["plan"]["seeds"], stored["plan"]["datasets"], stored["baseline"]) == (3, {"street": ["split-0"]}, "concat")
    text = files["markdown"].read_text()
    assert text.startswith("### street, own split, 3 seeds\n\n| modalities | method |")
    assert "something lacks" in text
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"results.jsonl", "table.md", "table.json"}


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_picture_holds_every_method(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")
    other = replace(LEGO, modalities=("text",), method="nearest-neighbours", low=None, high=None)
    path = comparison_figure(tmp_path / f"picture.{kind}", comparison_of(LEGO, CONCAT, FAILED, other))
    start = path.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if kind == "png" else b"<?xml" in start


def test_conditions_with_levels_are_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")
    from matplotlib.axes import Axes

    drawn: list[tuple[str, list[float], list[float]]] = []
    plot = Axes.plot

    def record(axis: Axes, *arguments: Any, **options: Any) -> Any:
        drawn.append((options["label"], list(arguments[0]), list(arguments[1])))
        return plot(axis, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", record)
    conditions = ("text:noise=2", "clean", "text:noise=0.5", "motion:missing=mean")
    values = dict(zip(conditions, (0.6, 0.9, 0.8, 0.7), strict=True))
    rows = [
        replace(LEGO, condition=word, method=method, micro=value, low=value, high=value)
        for word, value in values.items()
        for method in ("lego", "concat")
    ]
    comparison_figure(tmp_path / "curves.png", comparison_of(*rows, plan=plan_of(conditions=conditions)))
    assert [name for name, _, _ in drawn] == ["lego", "concat"]
    for _, levels, heights in drawn:
        assert levels == [0.0, 0.5, 2.0]
        assert heights == pytest.approx([90, 80, 60])
