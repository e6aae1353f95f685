"""The table against scikit-learn, the statistics module and the cells themselves."""

import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import CheckpointError, ParameterError
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import frame_scores
from lego_fusion.measure.detection import METRICS, average_precision, micro_auc, video_auc, video_average_precision
from lego_fusion.measure.intervals import mean_interval, metric_interval, paired_difference
from lego_fusion.study.cells import ComparisonPlan, read_cell
from lego_fusion.study.experiment import cell_videos, run_cells
from lego_fusion.study.plan import choose_baseline, make_plan
from lego_fusion.study.table import Comparison, Row, summarise

QUICK = TrainingConfig(steps=8, check_every=4, learning_rate=1e-2)


def compared(datasets: list[Dataset], folder: Path, **options: Any) -> tuple[ComparisonPlan, dict[Any, str]]:
    given: dict[str, Any] = {"fusions": ("lego", "concat", "add"), "seeds": 2, "training": QUICK, **options}
    plan = make_plan(datasets, **given)
    return plan, run_cells(plan, datasets, folder, workers=1)[0]


def rows_of(table: Comparison, **facts: object) -> dict[str, Row]:
    """Rows by method."""
    return {row.method: row for row in table.rows if all(getattr(row, name) == value for name, value in facts.items())}


def auc_on_every_frame(dataset: Dataset, plan: ComparisonPlan, folder: Path, method: str, split: str) -> list[float]:
    """Micro AUC of each seed by scikit-learn, from the scores in the cells' files."""
    values = []
    for cell in plan.cells():
        if (cell.method, cell.split) == (method, split):
            scores, truth = [], []
            for video, row in zip(plan.split(cell).test, read_cell(folder, plan, cell).array, strict=True):
                scores.append(frame_scores(dataset, video, torch.from_numpy(row), smoothing=plan.smoothing).numpy())
                truth.append(dataset.frame_labels(video))
            values.append(float(roc_auc_score(np.concatenate(truth), np.concatenate(scores))))
    return values


@pytest.fixture(scope="module")
def own(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparisonPlan, Path]:
    folder = tmp_path_factory.mktemp("own")
    return compared([planted], folder, test_best=True)[0], folder


@pytest.fixture(scope="module")
def drawn(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparisonPlan, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    return compared([planted], folder, splits=3)[0], folder


def test_one_split_is_the_mean_over_seeds_with_an_interval_over_videos(
    planted: Dataset, own: tuple[ComparisonPlan, Path]
) -> None:
    plan, folder = own
    rows = rows_of(summarise(plan, [planted], folder))
    assert list(rows) == ["lego", "concat", "add", "nearest-neighbours", "flow-energy"]
    runs: dict[str, Any] = {method: [] for method in rows}
    for cell in plan.cells():
        runs[cell.method].append(cell_videos(planted, plan, read_cell(folder, plan, cell)))
    for method, row in rows.items():
        expected = auc_on_every_frame(planted, plan, folder, method, "own")
        assert len(expected) == row.cells == (2 if method in ("concat", "add") else 1)  # lego draws nothing
        assert row.micro == pytest.approx(statistics.fmean(expected), abs=1e-12)
        interval = metric_interval(runs[method], micro_auc)
        assert (row.low, row.high) == (interval.low, interval.high)
        assert row.deviation is None
        assert row.baseline == "concat"
        if method == "concat":
            assert row.difference is None
        else:
            between = paired_difference(runs[method], runs["concat"], micro_auc)
            assert (row.difference_low, row.difference_high) == (between.low, between.high)
            assert row.difference == pytest.approx(row.micro - rows["concat"].micro)
            assert row.difference_low <= row.difference <= row.difference_high


def test_the_gap_is_that_of_the_looks(
    planted: Dataset, own: tuple[ComparisonPlan, Path], drawn: tuple[ComparisonPlan, Path]
) -> None:
    plan, folder = own
    for method, row in rows_of(summarise(plan, [planted], folder)).items():
        cells = [read_cell(folder, plan, cell) for cell in plan.cells() if cell.method == method]
        if row.train_seconds is None:
            assert (row.untrained, row.gap) == (None, None)
            continue
        best = [one.value for cell in cells for one in cell.records if one.selection == "test-best"]
        starts = [one.value for cell in cells for one in cell.records if one.selection == "untrained"]
        assert len(best) == len(starts) == (1 if method == "lego" else 2)
        assert row.untrained == pytest.approx(statistics.fmean(starts))
        assert row.gap == pytest.approx(statistics.fmean(best) - row.micro)
        assert row.gap >= 0
    plan, folder = drawn
    assert all(row.gap is None for row in summarise(plan, [planted], folder).rows)  # nobody asked for it


def test_several_splits_count_as_one_number_each(planted: Dataset, drawn: tuple[ComparisonPlan, Path]) -> None:
    plan, folder = drawn
    rows = rows_of(summarise(plan, [planted], folder, baseline="add"))
    splits = [split.name for split in plan.datasets[0].splits]
    shared = len(plan.datasets[0].splits[0].test) / len(plan.datasets[0].splits[0].train)  # videos of random re-splits
    assert shared > 0.1
    means = {
        method: [statistics.fmean(auc_on_every_frame(planted, plan, folder, method, split)) for split in splits]
        for method in rows
    }
    for method, row in rows.items():
        assert row.micro == pytest.approx(statistics.fmean(means[method]), abs=1e-12)
        assert row.deviation == pytest.approx(statistics.stdev(means[method]), abs=1e-12)
        assert row.cells == (6 if method in ("concat", "add") else 3)
        spread = mean_interval(means[method], overlap=shared, share=True)
        assert (row.low, row.high) == pytest.approx((spread.low, spread.high), abs=1e-12)
        if method != "add":
            differences = [one - other for one, other in zip(means[method], means["add"], strict=True)]
            between = mean_interval(differences, overlap=shared)
            assert row.difference == pytest.approx(between.value, abs=1e-12)
            assert (row.difference_low, row.difference_high) == pytest.approx((between.low, between.high), abs=1e-12)


def test_several_datasets_stand_alone_and_together(planted: Dataset, write_planted: Any, tmp_path: Path) -> None:
    write_planted(tmp_path / "second", train=(4, 4), test=(4, 2))
    config = tmp_path / "second" / "dataset.yaml"
    config.write_text(config.read_text().replace("name: planted", "name: second"))
    datasets = [planted, Dataset.open(tmp_path / "second")]
    options: dict[str, Any] = {"fusions": ("lego", "concat"), "splits": 2}
    plan, failures = compared(datasets, tmp_path / "both", **options)
    table = summarise(plan, datasets, tmp_path / "both", failures=failures)
    assert list(dict.fromkeys(row.dataset for row in table.rows)) == ["planted", "second", "all 2 datasets"]
    for method, row in rows_of(table, dataset="all 2 datasets").items():
        alone = [rows_of(table, dataset=name)[method] for name in ("planted", "second")]
        assert row.micro == pytest.approx(statistics.fmean(one.micro for one in alone))
        assert row.deviation == pytest.approx(statistics.stdev(one.micro for one in alone))
        assert row.cells == sum(one.cells for one in alone)
        assert (row.low, row.difference_low) == (None, None)  # two datasets say little of others
    assert any("an interval over datasets needs several values: expected at least 3" in note for note in table.notes)
    alone_plan, _ = compared([planted], tmp_path / "one", **options)
    for row in summarise(alone_plan, [planted], tmp_path / "one").rows:
        same = rows_of(table, dataset="planted")[row.method]
        assert (row.micro, row.low, row.high, row.difference) == (same.micro, same.low, same.high, same.difference)


def test_the_order_of_fusions_changes_nothing(planted: Dataset, own: tuple[ComparisonPlan, Path], tmp_path: Path) -> None:
    forth = rows_of(summarise(own[0], [planted], own[1]))
    plan, _ = compared([planted], tmp_path, fusions=("add", "concat", "lego"), test_best=True)
    back = rows_of(summarise(plan, [planted], tmp_path))
    assert list(back)[:3] == ["add", "concat", "lego"]
    numbers = ("micro", "low", "high", "abnormal", "difference", "difference_low", "difference_high", "untrained", "gap")
    for method, row in forth.items():
        assert [getattr(row, name) for name in numbers] == [getattr(back[method], name) for name in numbers]


def test_the_best_baseline_is_chosen_among_the_others(planted: Dataset, drawn: tuple[ComparisonPlan, Path]) -> None:
    plan, folder = drawn
    rows = rows_of(summarise(plan, [planted], folder, baseline="best"))
    best = max(("concat", "add"), key=lambda method: rows[method].micro)
    assert {row.baseline for row in rows.values()} == {best}
    assert [method for method, row in rows.items() if row.difference is None] == [best]


def test_a_baseline_is_one_that_is_compared(planted: Dataset) -> None:
    plan = make_plan([planted], fusions=("lego", "add"))
    assert choose_baseline(plan) == ""
    assert choose_baseline(make_plan([planted])) == "concat"
    assert choose_baseline(plan, "nearest-neighbours") == "nearest-neighbours"
    with pytest.raises(ParameterError, match=r"'baseline' parameter of compare must be one of 'lego', 'add'.*'best'"):
        choose_baseline(plan, "concat")
    with pytest.raises(ParameterError, match="no baseline to choose from"):
        choose_baseline(make_plan([planted], fusions=("lego", "lego-paper")), "best")


def test_a_row_with_a_failed_cell_has_no_number(planted: Dataset, tmp_path: Path) -> None:
    conditions = ("clean", "text:missing=drop-term")
    plan, failures = compared([planted], tmp_path, fusions=("lego", "concat"), conditions=conditions)
    assert len(failures) == 6
    table = summarise(plan, [planted], tmp_path, failures=failures)
    clean, missing = (rows_of(table, condition=condition) for condition in conditions)
    assert all(row.micro is not None and not row.error for row in clean.values())
    assert missing["lego"].micro is not None
    assert (missing["lego"].difference, missing["lego"].baseline) == (None, "")
    assert (missing["concat"].micro, missing["concat"].cells) == (None, 0)
    assert missing["concat"].error.startswith("2 of 2 cells failed: ")
    assert [note.partition(",")[0] for note in table.notes] == [
        f"{method} on motion + text" for method in ("concat", "nearest-neighbours", "flow-energy")
    ]
    assert len(table.records) == len(METRICS) * (len(plan.cells()) - 6)


def test_without_enough_videos_there_is_a_value_but_no_interval(write_planted: Any, tmp_path: Path) -> None:
    dataset = write_planted(tmp_path / "few", test=(2, 1))
    plan, _ = compared([dataset], tmp_path / "out", fusions=("lego", "concat"), references=False, seeds=1)
    table = summarise(plan, [dataset], tmp_path / "out")
    for row in table.rows:
        assert row.micro is not None
        assert (row.low, row.high, row.difference_low) == (None, None, None)
    assert rows_of(table)["lego"].difference == pytest.approx(rows_of(table)["lego"].micro - rows_of(table)["concat"].micro)
    assert [note for note in table.notes if "needs more than 1 abnormal video" in note] == list(table.notes)
    assert len(table.notes) == 1


def test_no_baseline_is_said(planted: Dataset, tmp_path: Path) -> None:
    plan, _ = compared([planted], tmp_path, fusions=("add",), references=False, seeds=1)
    table = summarise(plan, [planted], tmp_path)
    assert table.rows[0].baseline == ""
    assert table.notes == ("no differences: concat is not compared; name another baseline",)


def test_every_cell_leaves_its_records(planted: Dataset, own: tuple[ComparisonPlan, Path]) -> None:
    plan, folder = own
    records = summarise(plan, [planted], folder).records
    for cell in plan.cells():
        mine = [one for one in records if (one.fusion, one.seed) == (cell.method, cell.seed)]
        frames = ["micro_auc", "macro_auc", "abnormal_auc", "average_precision"]
        assert [one.metric for one in mine][:6] == [*frames, "video_auc", "video_average_precision"]
        assert len(mine) == (8 if cell.method in plan.fusions else 6)


def test_a_stopped_comparison_is_the_table_of_what_is_finished(
    planted: Dataset, drawn: tuple[ComparisonPlan, Path], tmp_path: Path
) -> None:
    plan, done = drawn
    first, second, third = (split.name for split in plan.datasets[0].splits)
    kept = [
        cell
        for cell in plan.cells()
        if cell.method == "lego"
        or (cell.method == "concat" and cell.split != first)
        or (cell.method, cell.split) == ("add", first)
    ]
    (tmp_path / "cells").mkdir()
    for cell in kept:
        shutil.copy(done / "cells" / cell.file, tmp_path / "cells")
    table = summarise(plan, [planted], tmp_path, partial=True)
    rows, whole = rows_of(table), rows_of(summarise(plan, [planted], done))
    assert [(row.cells, row.planned) for row in rows.values()] == [(3, 3), (4, 6), (2, 6), (0, 3), (0, 3)]
    assert table.unfinished == len(plan.cells()) - 9
    assert (
        f"not finished: {table.unfinished} of {len(plan.cells())} cells are missing; means are over the finished ones alone"
        in table.notes
    )
    assert rows["lego"].micro == whole["lego"].micro
    means = {
        (method, split): statistics.fmean(auc_on_every_frame(planted, plan, done, method, split))
        for method, splits in (("lego", (second, third)), ("concat", (second, third)))
        for split in splits
    }
    differences = [means["lego", split] - means["concat", split] for split in (second, third)]
    assert rows["lego"].difference == pytest.approx(statistics.fmean(differences), abs=1e-12)  # on the splits of both
    assert rows["add"].difference is None  # which shares none with concat
    assert rows["add"].low is None  # one split of several says nothing of their spread
    assert rows["nearest-neighbours"].micro is None
    with pytest.raises(CheckpointError, match="a cell cannot be read"):
        summarise(plan, [planted], tmp_path)


def test_videos_are_measured_as_a_whole_beside_their_frames(planted: Dataset, own: tuple[ComparisonPlan, Path]) -> None:
    plan, folder = own
    for method, row in rows_of(summarise(plan, [planted], folder)).items():
        cells = [read_cell(folder, plan, cell) for cell in plan.cells() if cell.method == method]
        scored = [cell_videos(planted, plan, cell) for cell in cells]
        assert row.video_auc == pytest.approx(statistics.fmean(map(video_auc, scored)))
        assert row.video_precision == pytest.approx(statistics.fmean(map(video_average_precision, scored)))
        assert row.average_precision == pytest.approx(statistics.fmean(map(average_precision, scored)))
