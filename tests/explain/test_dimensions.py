"""The split into common and unique dimensions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.dimensions import split_dimensions


def planted(samples: int = 2000, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten dimensions: the first six share a signal, the others are independent."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=(samples, 6))
    sides = [
        np.concatenate([signal + noise * generator.normal(size=(samples, 6)), generator.normal(size=(samples, 4))], axis=1)
        for _ in range(2)
    ]
    return sides[0], sides[1]


def test_planted_dimensions_are_found_with_the_correlation_they_must_have() -> None:
    a, b = planted()
    split = split_dimensions(a, b)
    assert split.common.tolist() == [True] * 6 + [False] * 4
    assert split.unique.tolist() == [False] * 6 + [True] * 4
    assert split.common_share == 0.6
    np.testing.assert_allclose(split.diagonal[:6], 1 / (1 + 0.3**2), atol=0.02)
    assert (np.abs(split.diagonal[6:]) < 2 * split.chance).all()
    np.testing.assert_allclose(split.correlation, np.corrcoef(a.T, b.T)[:10, 10:], atol=1e-12)
    assert split.counts.sum() == 10
    assert len(split.edges) == 21
    assert split.chance == pytest.approx(1.96 / np.sqrt(2000))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50), st.permutations(range(10)))
def test_scale_shift_and_order_change_nothing(seed: int, scale: float, shift: float, order: list[int]) -> None:
    a, b = planted(60, seed=seed)
    split, again = split_dimensions(a, b), split_dimensions(scale * a[:, order] + shift, b[:, order])
    np.testing.assert_allclose(again.diagonal, split.diagonal[order], atol=1e-8)
    np.testing.assert_allclose(split_dimensions(b, a).correlation, split.correlation.T, atol=1e-12)
    np.testing.assert_allclose(split_dimensions(a, -a).diagonal, -1, atol=1e-12)


def test_a_constant_dimension_is_neither_common_nor_unique() -> None:
    a, b = planted()
    a[:, 0] = 3.0
    split = split_dimensions(torch.from_numpy(a), b, threshold=0.0)
    assert split.constant.tolist() == [True] + [False] * 9
    assert not split.common[0]
    assert not split.unique[0]
    assert split.counts.sum() == 9
    assert (split.correlation[0] == 0).all()


def test_the_threshold_decides() -> None:
    a, b = planted(noise=1.0)  # correlation 1/2
    assert split_dimensions(a, b, threshold=0.4).common.sum() == 6
    assert split_dimensions(a, b, threshold=0.6).common.sum() == 0


def test_bad_input() -> None:
    a, b = planted(20)
    with pytest.raises(DataError, match=r"different widths.*10 and 9"):
        split_dimensions(a, b[:, 1:])
    with pytest.raises(DataError, match="different numbers of samples"):
        split_dimensions(a, b[1:])
    with pytest.raises(DataError, match=r"constant \(b\)"):
        split_dimensions(a, np.ones_like(b))
    with pytest.raises(DataError, match="not finite"):
        split_dimensions(a, np.where(b > 0, np.nan, b))
    with pytest.raises(ParameterError, match="'threshold'"):
        split_dimensions(a, b, threshold=1.1)
    with pytest.raises(ParameterError, match="'bins'"):
        split_dimensions(a, b, bins=0)
