"""The neural estimator: its pieces against formulas, its estimates against exact tables, what it promises and refuses."""

import math
import warnings

import numpy as np
import pytest
import torch

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.batch_information import (
    Training,
    batch_partial_information,
    calibrate,
    conditional_information,
    held_out_probabilities,
    information_gain,
    sinkhorn,
)
from lego_fusion.explain.decomposition import PartialInformation

Parts = tuple[float, float, float, float]
QUICK = Training(classifier_steps=40, coupling_steps=40, batch=32)


def drawn(table: np.ndarray, samples: int, seed: int) -> tuple[np.ndarray, ...]:
    cells = np.random.default_rng(seed).choice(table.size, size=samples, p=table.ravel())
    return np.unravel_index(cells, table.shape)


def parts(found: PartialInformation) -> Parts:
    return found.redundancy, *found.unique.values(), found.synergy


def test_sinkhorn_meets_the_marginals_and_keeps_odds_ratios() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    joint = torch.rand(3, 5, 7, generator=generator, dtype=torch.float64)
    q = sinkhorn(logits, joint.sum(2), joint.sum(1), steps=300)
    torch.testing.assert_close(q.sum(2), joint.sum(2))
    torch.testing.assert_close(q.sum(1), joint.sum(1))
    odds = logits[:, 0, 0] + logits[:, 1, 1] - logits[:, 0, 1] - logits[:, 1, 0]
    torch.testing.assert_close((q[:, 0, 0] * q[:, 1, 1] / (q[:, 0, 1] * q[:, 1, 0])).log(), odds)


def test_conditional_information_is_the_sum_over_entries() -> None:
    q = np.random.default_rng(1).dirichlet(np.full(24, 0.5)).reshape(2, 3, 4)  # (y, a, b)
    expected = sum(p * math.log2(p * q[:, a].sum() / (q[:, a, b].sum() * q[y, a].sum())) for (y, a, b), p in np.ndenumerate(q))
    assert conditional_information(torch.from_numpy(q)).item() == pytest.approx(expected, abs=1e-9)


def test_calibrated_probabilities_have_the_entropy_of_their_cross_entropy_and_the_class_frequencies() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (500,), generator=generator)
    logits = 10 * (torch.nn.functional.one_hot(labels, 3) + torch.randn(500, 3, generator=generator))  # far too sure
    p = calibrate(logits, labels)
    cross_entropy = -p[torch.arange(500), labels].log().mean()
    torch.testing.assert_close(-(p * p.log()).sum(1).mean(), cross_entropy, atol=1e-6, rtol=0.0)
    torch.testing.assert_close(p.mean(0), torch.bincount(labels).double() / 500, atol=1e-6, rtol=0.0)


def test_noise_has_no_information() -> None:
    generator = torch.Generator().manual_seed(3)
    x, labels = torch.randn(400, 20, generator=generator), torch.randint(2, (400,), generator=generator)
    p = held_out_probabilities(x, labels, 2, 100, generator)
    assert 0 <= information_gain(p).mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AND", "COPY", "BSC(.1), BSC(.2)"])
def test_exact_values(tables: dict[str, tuple[np.ndarray, Parts]], name: str) -> None:
    """Within 0.04 bit from 4,000 samples, of which sampling alone takes up to half."""
    table, expected = tables[name]
    found = batch_partial_information(*drawn(table, 4000, seed=0), training=Training(batch=128), permutations=1, resamples=20)
    assert parts(found) == pytest.approx(expected, abs=0.04)
    assert found.null is not None
    assert all(abs(null.mean) < 0.02 for null in found.null.values())


@pytest.mark.slow
def test_continuous_features_of_many_columns() -> None:
    """XOR of two signs, each hidden in one direction of ten."""
    generator = np.random.default_rng(4)
    a, b = generator.integers(0, 2, (2, 1500))
    x1, x2 = generator.normal(size=(2, 1500, 10))
    x1[:, 0] += 8 * a
    x2[:, 3] += 8 * b
    found = batch_partial_information(x1, x2, a ^ b, training=Training(classifier_steps=200, batch=128), permutations=1)
    assert found.synergy > 0.9
    assert parts(found)[:3] == pytest.approx((0, 0, 0), abs=0.02)


@pytest.fixture(scope="module")
def quick() -> PartialInformation:
    x1, x2 = np.random.default_rng(5).integers(0, 2, (2, 300))
    return batch_partial_information(x1, x2, x1 & x2, names=("motion", "text"), training=QUICK, permutations=2, resamples=20)


def test_identities(quick: PartialInformation) -> None:
    assert quick.redundancy + quick.unique["motion"] == pytest.approx(quick.information["motion"])
    assert quick.redundancy + quick.unique["text"] == pytest.approx(quick.information["text"])
    assert sum(parts(quick)) == pytest.approx(quick.total)


def test_the_record_says_how_it_was_made(quick: PartialInformation) -> None:
    assert quick.gap is None
    assert quick.convergence is not None
    assert quick.permutations == 2
    assert quick.intervals is not None
    low, high = quick.intervals["synergy"]
    assert low <= quick.synergy <= high
    assert "without a certificate" in str(quick)


def test_a_joint_network_that_lacks_what_one_source_has_is_told() -> None:
    """Two hundred columns of noise drown what the network of the other source alone finds at once."""
    generator = np.random.default_rng(6)
    x1, y = generator.normal(size=(120, 300)), generator.integers(0, 2, 120)
    found = batch_partial_information(x1, y, y, training=QUICK, permutations=1, resamples=20)
    assert found.total >= found.information["second"]
    assert min(parts(found)) >= -1e-9
    assert "the network of both sources has" in str(found)


def test_the_seed_decides_and_the_global_one_is_left_alone(quick: PartialInformation) -> None:
    x1, x2 = np.random.default_rng(5).integers(0, 2, (2, 300))
    state = torch.random.get_rng_state()
    again = batch_partial_information(x1, x2, x1 & x2, names=("motion", "text"), training=QUICK, permutations=2, resamples=20)
    assert again == quick
    assert torch.equal(torch.random.get_rng_state(), state)


FINE = np.arange(40) % 2


@pytest.mark.parametrize(
    ("x1", "x2", "y", "message"),
    [
        (FINE, FINE[:9], FINE, "differ in length"),
        (FINE, FINE, np.zeros(40, int), "never changes"),
        (FINE[:10], FINE[:10], FINE[:10], "too few samples to train on .*expected 20 or more, got 10"),
        (FINE[:1], FINE[:1], FINE[:1], "too few samples"),
        (np.array([]), np.array([]), np.array([]), "too few samples"),
        (np.full((40, 2), np.nan), FINE, FINE, r"not finite \(first\)"),
        (np.zeros((40, 2), int), FINE, FINE, "wrong shape"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(x1: np.ndarray, x2: np.ndarray, y: np.ndarray, message: str) -> None:
    with warnings.catch_warnings(), pytest.raises(DataError, match=message):
        batch_partial_information(x1, x2, y)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"training": Training(batch=2)}, "'batch' parameter of Training"),
        ({"training": Training(coupling_steps=10)}, "'coupling_steps' parameter of Training"),
        ({"permutations": 0}, "'permutations' parameter"),
        ({"resamples": 3}, "'resamples' parameter"),
        ({"names": ("a", "a")}, "two different names"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        batch_partial_information(FINE, FINE, FINE, **wrong)  # type: ignore[arg-type]
