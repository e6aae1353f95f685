"""Reference units: which segments they are, how densely they lie, and that no video meets itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.graph.references import (
    LEAST_SPACING,
    choose_references,
    evenly_thinned,
    local_bandwidths,
    node_numbers,
    require_several_videos,
    spacings,
)


def points(count: int, width: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_copies_have_one_number():
    """A video of three snippets in seven nodes: 0 0 1 1 1 2 2; a snippet that comes back later is another one."""
    x = torch.tensor([0.0, 0, 5, 5, 5, 0, 0])[None, :, None]
    assert node_numbers([x]).tolist() == [[0, 0, 1, 1, 1, 2, 2]]
    other = torch.tensor([1.0, 2, 2, 2, 3, 3, 3])[None, :, None]
    assert node_numbers([x, other]).tolist() == [[0, 1, 2, 2, 3, 4, 4]], "nodes are copies where every modality says so"


def test_what_a_masked_node_holds_does_not_count():
    mask = torch.tensor([[False, True, True, False, False, True]])
    x = torch.tensor([9.0, 1, 1, 7, 8, 1])[None, :, None]
    numbers = node_numbers([x], mask)
    assert numbers.tolist() == [[0, 1, 1, 1, 1, 2]]
    assert torch.equal(node_numbers([torch.where(mask[..., None], x, torch.zeros(()))], mask), numbers)


def test_references_are_all_distinct_segments_of_normal_videos():
    numbers = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3], [0, 1, 1, 1]])
    normal = torch.tensor([True, False, True])
    assert choose_references(numbers, normal, 99).tolist() == [[0, 0], [0, 2], [2, 0], [2, 1]]
    mask = torch.tensor([[True] * 4, [True] * 4, [True, False, True, True]])
    assert [2, 1] not in choose_references(numbers, normal, 99, mask).tolist()
    with pytest.raises(DataError, match="reference units come from normal videos"):
        choose_references(numbers, torch.tensor([False] * 3), 99)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 60), most=st.integers(1, 60))
def test_thinning_is_even_and_keeps_both_ends(count, most):
    kept = evenly_thinned(torch.arange(count), most)
    assert len(kept) == min(count, most) == len(kept.unique())
    assert kept[0] == 0 and (most == 1 or kept[-1] == count - 1)
    if len(kept) > 2:
        assert kept.diff().max() - kept.diff().min() <= 1


@pytest.mark.parametrize("apart", [0, 1])
@pytest.mark.parametrize("at_once", [3, 1024])
def test_spacing_by_hand(apart, at_once, monkeypatch):
    monkeypatch.setattr("lego_fusion.graph.references.ROWS_AT_ONCE", at_once)
    x, groups = points(11), torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 5])
    expected = []
    for i in range(11):
        others = sorted(
            math.dist(x[i].tolist(), x[j].tolist()) for j in range(11) if abs(int(groups[i]) - int(groups[j])) > apart
        )
        expected.append(sum(others[:3]) / len(others[:3]))
    torch.testing.assert_close(spacings(x, groups, apart=apart), torch.tensor(expected, dtype=torch.float64))


def test_spacing_to_others_and_to_none():
    x = points(4)
    assert (spacings(x, torch.zeros(4, dtype=torch.long)) == 0).all(), "one group meets nobody"
    known = points(2, seed=1)
    found = spacings(x, torch.zeros(4, dtype=torch.long), known, torch.tensor([1, 2]))
    expected = torch.stack([torch.dist(row, known[0]) + torch.dist(row, known[1]) for row in x]) / 2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.5, 1.0])
def test_bandwidths_lie_between_common_and_local(exponent):
    spacing = torch.tensor([1.0, 2.0, 4.0])
    bandwidth, common = local_bandwidths(spacing, exponent)
    assert float(common) == pytest.approx(2.0)
    torch.testing.assert_close(bandwidth, spacing**exponent * 2.0 ** (1 - exponent))


def test_segments_that_several_videos_share_are_not_infinitely_dense():
    bandwidth, common = local_bandwidths(torch.tensor([0.0, 1.0, 4.0]), 1.0)
    assert float(common) == pytest.approx(2.0), "the common spacing is that of the others"
    assert float(bandwidth[0]) == pytest.approx(LEAST_SPACING * 2.0)
    bandwidth, common = local_bandwidths(torch.zeros(3))
    assert (bandwidth > 0).all() and bandwidth.isfinite().all() and float(common) == 1.0
    with pytest.raises(ParameterError, match="'exponent' parameter"):
        local_bandwidths(torch.ones(2), 1.5)


def test_one_video_is_not_enough():
    require_several_videos(torch.tensor([3, 3, 4]))
    with pytest.raises(DataError, match=r"at least 2 normal training videos with features, got 1.*cut the one that there is"):
        require_several_videos(torch.tensor([3, 3]))
