"""Scores of whole videos, by hand and against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from lego_fusion.measure.detection import video_auc, video_average_precision, video_scores
from lego_fusion.measure.scored import ScoredVideo

Make = Callable[..., list[ScoredVideo]]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0] * 28 + [9.0, 3.0, 6.0, 0.0], 6.0),  # three of 32 frames
        ([0.0] * 61 + [1.0, 2.0, 3.0], 1.0),  # six of 64
        ([5.0], 5.0),
        ([1.0, 2.0], 2.0),  # a part of a frame
        ([-1.0] * 15 + [2.0], 1.0),  # a frame and a half
    ],
)
def test_a_video_scores_as_its_highest_frames(scores: list[float], expected: float) -> None:
    (found,) = video_scores([ScoredVideo.from_frames("v", scores, [0] * len(scores))])
    assert found == pytest.approx(expected)


def test_three_of_32_equal_segments_is_what_the_bag_loss_reads() -> None:
    segments = np.random.default_rng(0).normal(size=32)
    (found,) = video_scores([ScoredVideo.from_frames("v", np.repeat(segments, 11), np.zeros(352, int))])
    assert found == pytest.approx(np.sort(segments)[-3:].mean())


def test_order_of_frames_and_runs_do_not_matter(make_videos: Make) -> None:
    for video in make_videos():
        repeated = np.repeat(video.scores, video.weights.astype(int))
        shuffled = np.random.default_rng(1).permutation(repeated)
        other = ScoredVideo.from_frames("v", shuffled, np.zeros(len(shuffled), int))
        assert video_scores([video])[0] == pytest.approx(video_scores([other])[0])


def test_metrics_equal_scikit_learn(make_videos: Make) -> None:
    videos = make_videos(12, 20)
    labels, scores = [video.abnormal for video in videos], video_scores(videos)
    assert video_auc(videos) == pytest.approx(roc_auc_score(labels, scores))
    assert video_average_precision(videos) == pytest.approx(average_precision_score(labels, scores))
