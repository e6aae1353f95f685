"""The fast metrics on choices of the videos against scikit-learn on repeated frames, and the metric called on each list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from lego_fusion.errors import DataError
from lego_fusion.measure import resampling
from lego_fusion.measure.detection import (
    METRICS,
    ScoredVideo,
    abnormal_auc,
    average_precision,
    micro_auc,
)
from lego_fusion.measure.resampling import metric_on

Make = Callable[..., list[ScoredVideo]]


def any_counts(videos: int, choices: int = 40, seed: int = 5) -> np.ndarray:
    draws = np.random.default_rng(seed).integers(0, videos, size=(choices, videos))
    return (draws[:, :, None] == np.arange(videos)).sum(axis=1).astype(float)


def frames(videos: list[ScoredVideo]) -> tuple[np.ndarray, np.ndarray]:
    counts = [video.weights.astype(int) for video in videos]
    scores = np.concatenate([np.repeat(v.scores, c) for v, c in zip(videos, counts, strict=True)])
    return np.concatenate([np.repeat(v.labels, c) for v, c in zip(videos, counts, strict=True)]), scores


@pytest.mark.parametrize(("count", "runs"), [(9, 8), (4, 1), (12, 40)])
def test_pooled_metrics_equal_scikit_learn_on_repeated_frames(count: int, runs: int, make_videos: Make) -> None:
    videos = make_videos(count, max(runs, 2))
    counts = any_counts(count)
    counts = counts[counts @ np.array([video.abnormal for video in videos]) > 0]
    lists = [[video for video, times in zip(videos, row, strict=True) for _ in range(int(times))] for row in counts]
    abnormal = [[video for video in one if video.abnormal] for one in lists]
    for metric, oracle, data in (
        (micro_auc, roc_auc_score, lists),
        (average_precision, average_precision_score, lists),
        (abnormal_auc, roc_auc_score, abnormal),
    ):
        expected = [oracle(*frames(one)) for one in data]
        np.testing.assert_allclose(metric_on(videos, metric, counts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_fast_equals_the_metric_called_on_each_chosen_list(metric: Callable[..., float], make_videos: Make) -> None:
    videos = [
        *make_videos(6, 5),
        ScoredVideo.from_frames("all abnormal", [1.0, 0.5], [1, 1]),
        ScoredVideo.from_frames("one frame", [0.5], [0]),
    ]
    single, both = np.eye(8)[6:] * 8, np.array([[0.0] * 6 + [4.0, 4.0]])
    counts = np.vstack([any_counts(8, 60), single, both])
    slow = metric_on(videos, lambda chosen: metric(chosen), counts)
    np.testing.assert_allclose(metric_on(videos, metric, counts), slow, rtol=0, atol=1e-12, equal_nan=True)
    assert np.isnan(slow[60:62]).all()  # one class only has no value


def test_chunks_do_not_matter(make_videos: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, counts = make_videos(), any_counts(9)
    whole = [metric_on(videos, metric, counts) for metric in (micro_auc, average_precision)]
    monkeypatch.setattr(resampling, "_CHUNK", 1)
    for metric, expected in zip((micro_auc, average_precision), whole, strict=True):
        np.testing.assert_allclose(metric_on(videos, metric, counts), expected, rtol=0, atol=1e-14)


def test_every_video_once_is_the_metric_itself(make_videos: Make) -> None:
    videos = make_videos()
    once = np.ones((1, 9))
    for metric in METRICS.values():
        assert metric_on(videos, metric, once)[0] == pytest.approx(metric(videos), abs=1e-12)


def test_an_unknown_metric_sees_copies_under_their_own_names() -> None:
    videos = [ScoredVideo.from_frames(name, [0.0, 1.0], [0, 1]) for name in ("a", "a#1", "b")]
    seen: list[list[str]] = []

    def record(chosen: list[ScoredVideo]) -> float:
        seen.append([video.video for video in chosen])
        return micro_auc(chosen)

    assert metric_on(videos, record, np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])).tolist() == [1.0, 1.0]
    assert seen == [["a", "a#2", "a#1"], ["b", "b#2", "b#3"]]


def test_only_our_errors_mean_undefined(make_videos: Make) -> None:
    def undefined(chosen: list[ScoredVideo]) -> float:
        raise DataError("no value")

    def broken(chosen: list[ScoredVideo]) -> float:
        raise ZeroDivisionError

    assert np.isnan(metric_on(make_videos(), undefined, any_counts(9, 3))).all()
    with pytest.raises(ZeroDivisionError):
        metric_on(make_videos(), broken, any_counts(9, 3))
