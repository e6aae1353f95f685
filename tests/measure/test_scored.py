"""Metrics read off one sort, against scikit-learn on frames that are written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from lego_fusion.errors import DataError
from lego_fusion.measure.detection import abnormal_auc, average_precision, detection_metrics, macro_auc, micro_auc
from lego_fusion.measure.scored import RankedRuns, ScoredVideo

spans = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=8)  # (score, frames)
interval = st.tuples(st.integers(-3, 60), st.integers(-3, 60)).map(lambda pair: (min(pair), max(pair)))
video = st.tuples(spans, st.lists(interval, max_size=3))
quick = settings(max_examples=60, deadline=None)


def frames_of(pieces: list[tuple[int, int]], intervals: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    scores = np.repeat([score / 3 for score, _ in pieces], [count for _, count in pieces])
    labels = np.array([any(start <= frame < end for start, end in intervals) for frame in range(len(scores))])
    return scores, labels


def built(name: str, pieces: list[tuple[int, int]], intervals: list[tuple[int, int]]) -> ScoredVideo:
    bounds = np.cumsum([0, *(count for _, count in pieces)]).astype(np.int64)
    return ScoredVideo.from_spans(name, [score / 3 for score, _ in pieces], bounds, intervals)


@quick
@given(video)
def test_spans_and_intervals_are_the_frames_they_stand_for(made: tuple) -> None:
    found, expected = built("v", *made), ScoredVideo.from_frames("v", *frames_of(*made))
    for name in ("scores", "labels", "weights"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


@quick
@given(st.lists(video, min_size=2, max_size=5))
def test_metrics_equal_scikit_learn_on_repeated_frames(made: list[tuple]) -> None:
    # one video has both classes, so that every metric is defined; tied scores and cut spans come by themselves
    made = [([(1, 5), (2, 4), (0, 3)], [(3, 8)]), *made]
    videos = [built(f"v{number}", *one) for number, one in enumerate(made)]
    frames = [frames_of(*one) for one in made]
    scores, labels = (np.concatenate(parts) for parts in zip(*frames, strict=True))
    abnormal = [np.concatenate(parts) for parts in zip(*[one for one in frames if one[1].any()], strict=True)]
    by_video = [roc_auc_score(y, s) for s, y in frames if y.any() and not y.all()]
    expected = {
        "micro_auc": roc_auc_score(labels, scores),
        "macro_auc": np.mean(by_video),
        "abnormal_auc": roc_auc_score(abnormal[1], abnormal[0]),
        "average_precision": average_precision_score(labels, scores),
    }
    found = detection_metrics(videos).values
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    alone = {metric.__name__: metric(videos) for metric in (micro_auc, macro_auc, abnormal_auc, average_precision)}
    assert alone == pytest.approx(expected, abs=1e-12)


def test_weights_may_be_fractions() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.random(200) < 0.3, generator.integers(0, 40, 200) / 7
    weights = generator.random(200) + 0.01
    runs = RankedRuns.of([ScoredVideo("v", scores, labels, weights)])
    assert runs.auc() == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert runs.average_precision() == pytest.approx(average_precision_score(labels, scores, sample_weight=weights), abs=1e-12)


def test_differences_that_would_overflow_or_round_away_still_count() -> None:
    low, high = 1.0, np.nextafter(1.0, 2.0)
    assert micro_auc([ScoredVideo.from_frames("v", [low, high], [0, 1])]) == 1.0
    assert micro_auc([ScoredVideo.from_frames("v", [-1.7e308, 1.7e308], [0, 1])]) == 1.0


def test_a_video_of_one_class_has_no_auc_of_its_own() -> None:
    videos = [ScoredVideo.from_frames("a", [0.0, 1.0], [0, 1]), ScoredVideo.from_frames("b", [5.0, 6.0], [1, 1])]
    found = RankedRuns.of(videos).auc_by_video(2)
    assert found[0] == 1.0
    assert np.isnan(found[1])


@pytest.mark.parametrize("bounds", [[0, 5], [0, 5, 5], [0, 9, 4]])
def test_spans_that_do_not_fit_are_refused(bounds: list[int]) -> None:
    with pytest.raises(DataError, match="the spans do not fit the scores"):
        ScoredVideo.from_spans("v", [0.1, 0.2], np.array(bounds))
