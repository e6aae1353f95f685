"""Choice of reference units against brute force, and the promise that no video meets itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.graph.references import choose_references, cross_fitted_references, farthest_points, joint_distance

POINTS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=9)


def distance_of(points: list[tuple[int, int]]) -> Tensor:
    x = torch.tensor(points, dtype=torch.float64)
    return (x[:, None] - x[None]).abs().sum(-1)  # whole numbers, so that ties are exact


def farthest_by_hand(distance: list[list[float]], count: int) -> list[int]:
    units = range(len(distance))
    chosen = [min(units, key=lambda u: sum(distance[u]))]
    while len(chosen) < count:
        gaps = [min(distance[u][c] for c in chosen) for u in units]
        if max(gaps) == 0:
            break
        chosen.append(gaps.index(max(gaps)))
    return chosen


@settings(max_examples=80, deadline=None)
@given(points=POINTS, count=st.integers(1, 10))
def test_farthest_points_by_hand(points, count):
    distance = distance_of(points)
    chosen = farthest_points(distance, count).tolist()
    assert chosen == farthest_by_hand(distance.tolist(), count)
    assert len(chosen) == min(count, len(set(points)))
    assert len({points[u] for u in chosen}) == len(chosen)


@settings(max_examples=40, deadline=None)
@given(points=POINTS, count=st.integers(1, 10))
def test_more_references_begin_with_the_fewer(points, count):
    distance = distance_of(points)
    fewer = farthest_points(distance, count).tolist()
    assert farthest_points(distance, count + 1).tolist()[: len(fewer)] == fewer


@settings(max_examples=40, deadline=None)
@given(points=POINTS.filter(lambda points: len(set(points)) >= 3))
def test_farthest_points_cover_within_twice_the_best_cover(points):
    """The guarantee of the greedy choice, against all choices of three units (Gonzalez 1985)."""
    distance = distance_of(points)

    def radius(chosen: Tensor) -> float:
        return distance[chosen].amin(0).max().item()

    best = min(radius(choice) for choice in torch.combinations(torch.arange(len(points)), 3))
    assert radius(farthest_points(distance, 3)) <= 2 * best


def test_choose_references_looks_at_candidates_only():
    positions = torch.tensor([50.0, 0.0, 1.0, 2.0, -70.0])
    distance = (positions[:, None] - positions).abs()
    candidates = torch.tensor([False, True, True, True, False])
    assert choose_references(distance, candidates, 5).tolist() == [2, 1, 3]


def test_joint_distance_by_hand_and_in_any_unit():
    a, b = distance_of([(0, 0), (1, 0), (0, 3)]), distance_of([(1, 1), (4, 1), (2, 2)])
    expected = (a / (sum(a.flatten().tolist()) / 9) + b / (sum(b.flatten().tolist()) / 9)) / 2
    torch.testing.assert_close(joint_distance([a, b]), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(joint_distance([1000 * a, 0.01 * b]), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(joint_distance([a, torch.zeros_like(a)]), a / a.mean() / 2)


def videos_of(points_per_video: list[int], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    videos = torch.repeat_interleave(torch.arange(len(points_per_video)), torch.tensor(points_per_video))
    x = torch.randn(len(videos), 3, generator=generator, dtype=torch.float64)
    return torch.cdist(x, x), videos


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=3, max_size=6), count=st.integers(1, 12), seed=st.integers(0, 100))
def test_no_video_meets_itself_and_all_have_as_many(sizes, count, seed):
    distance, videos = videos_of(sizes, seed)
    normal = videos != 1  # video 1 is abnormal
    everyone, for_video = cross_fitted_references(distance, normal, videos, count)
    assert set(for_video) == set(range(len(sizes))) - {1}
    assert normal[everyone].all()
    total = sum(sizes) - sizes[1]
    assert len(everyone) == min(count, *(total - sizes[video] for video in for_video))
    for video, index in for_video.items():
        assert len(index) == len(everyone)
        assert (videos[index] != video).all() and normal[index].all()


def test_the_choice_is_deterministic():
    distance, videos = videos_of([4, 4, 4], 0)
    normal = torch.ones(12, dtype=torch.bool)
    first, second = (cross_fitted_references(distance, normal, videos, 5) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][video], second[1][video]) for video in first[1])


@pytest.mark.parametrize("normal_videos", [0, 1])
def test_one_normal_video_cannot_be_cross_fitted(normal_videos):
    distance, videos = videos_of([3, 3], 0)
    with pytest.raises(DataError, match=f"at least 2 normal training videos, got {normal_videos}.*references=0"):
        cross_fitted_references(distance, videos < normal_videos, videos, 2)


def test_errors():
    with pytest.raises(DataError, match="no unit to choose references from"):
        choose_references(torch.zeros(2, 2), torch.tensor([False, False]), 1)
    with pytest.raises(ParameterError, match="'count' parameter of farthest_points"):
        farthest_points(torch.zeros(2, 2), 0)
    with pytest.raises(DataError, match="no modality"):
        joint_distance([])
