"""The additive projection against least squares over all combinations of samples."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.additive import emap

Rows = Mapping[str, np.ndarray]


def draw(samples: int, modalities: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {f"m{place}": generator.normal(size=(samples, 2)) for place in range(modalities)}


def tangled(x: Rows) -> np.ndarray:
    total = sum(value[:, 0] for value in x.values())
    return np.stack([np.tanh(total) + np.prod([value[:, 1] for value in x.values()], axis=0), total], axis=1)


@pytest.mark.parametrize(("samples", "modalities"), [(6, 2), (4, 3), (5, 1)])
def test_it_is_the_least_squares_fit_of_one_number_per_sample_and_modality(samples: int, modalities: int) -> None:
    features = draw(samples, modalities)
    grid = np.stack(np.meshgrid(*[np.arange(samples)] * modalities, indexing="ij"), -1).reshape(-1, modalities)
    outputs = tangled({name: features[name][column] for name, column in zip(features, grid.T, strict=True)})
    design = np.concatenate([np.eye(samples)[column] for column in grid.T], axis=1)
    fitted = design @ np.linalg.lstsq(design, outputs, rcond=None)[0]
    paired = (grid == grid[:, :1]).all(1)
    told = emap(tangled, features)
    np.testing.assert_allclose(told.additive, fitted[paired], atol=1e-10)
    np.testing.assert_allclose(told.predictions, outputs[paired], atol=1e-12)
    assert told.evaluations == samples**modalities + samples
    assert told.background is None


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 7), st.integers(1, 3), st.integers(0, 100), st.one_of(st.none(), st.integers(1, 9)))
def test_an_additive_model_has_no_gap(samples: int, modalities: int, seed: int, background: int | None) -> None:
    told = emap(
        lambda x: np.sum([np.exp(value[:, 0]) * value[:, 1] for value in x.values()], axis=0),
        draw(samples, modalities, seed),
        background=background,
    )
    np.testing.assert_allclose(told.additive, told.predictions, rtol=1e-9, atol=1e-9)
    assert told.gap(np.mean) == pytest.approx(0, abs=1e-9)


def test_a_product_of_centred_modalities_has_nothing_additive() -> None:
    signs = {"a": np.array([-1.0, 1.0, -1.0, 1.0]), "b": np.array([1.0, 1.0, -1.0, -1.0])}
    told = emap(lambda x: x["a"] * x["b"], signs)
    np.testing.assert_allclose(told.additive, 0, atol=1e-12)
    targets = signs["a"] * signs["b"] > 0
    assert told.gap(lambda scores: float(((scores > 0) == targets).mean())) == 0.5  # XOR: 1 against chance


def test_drawn_combinations_come_near_all_of_them() -> None:
    features = draw(12, 3)
    exact, drawn = emap(tangled, features), emap(tangled, features, background=1000, seed=1)
    assert np.abs(exact.additive - drawn.additive).max() < 0.25
    assert drawn.evaluations == 12 + 1000 * (12 * 3 + 1)
    np.testing.assert_array_equal(drawn.additive, emap(tangled, features, background=1000, seed=1).additive)


def test_names_may_come_in_any_order_and_as_tensors() -> None:
    features = draw(5, 3)
    turned = {name: torch.from_numpy(features[name]) for name in reversed(features)}
    told = emap(lambda x: torch.tanh(sum(value.sum(1) for value in x.values())), turned)
    again = emap(lambda x: np.tanh(sum(value.sum(1) for value in x.values())), features)
    np.testing.assert_allclose(told.additive, again.additive, atol=1e-12)


def test_many_rows_are_predicted_in_parts() -> None:
    most = []

    def model(x: Rows) -> np.ndarray:
        most.append(len(x["a"]))
        return x["a"] * x["b"]

    values = np.random.default_rng(0).normal(size=100)
    told = emap(model, {"a": values, "b": values})
    assert max(most) <= 4096
    mean = values.mean()
    np.testing.assert_allclose(told.additive, 2 * values * mean - mean**2, atol=1e-12)  # E over the other, twice, less E


def test_bad_input() -> None:
    def model(x: Rows) -> np.ndarray:
        return x["a"]

    with pytest.raises(DataError, match="same number of samples"):
        emap(model, {"a": np.ones(3), "b": np.ones(4)})
    with pytest.raises(ParameterError, match=r"300\^3.*background=256"):
        emap(model, {name: np.ones(300) for name in "abc"})
    with pytest.raises(DataError, match="predictions are not finite"):
        emap(lambda x: x["a"] * np.nan, {"a": np.ones(3)})
    with pytest.raises(DataError, match="one per sample"):
        emap(lambda x: np.float64(1.0), {"a": np.ones(3)})
    with pytest.raises(ParameterError, match="'background'"):
        emap(model, {"a": np.ones(3)}, background=0)
