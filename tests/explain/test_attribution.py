"""Attributions against closed forms."""

import pytest
import torch

from lego_fusion.errors import DataError
from lego_fusion.explain.attribution import gradient_times_input, integrated_gradients, modality_shapley


def product(inputs):
    return (inputs["a"] * inputs["b"]).sum((1, 2))


def some(seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 2, 4, generator=generator, dtype=torch.float64) for name in "ab"}


def test_a_product_is_split_by_the_path():
    """On a straight line d(ab) = mean(b) da + mean(a) db, exactly."""
    x, x0 = some(), some(1)
    found = integrated_gradients(product, x, x0, steps=3)
    torch.testing.assert_close(found.parts["a"], (x["a"] - x0["a"]) * (x["b"] + x0["b"]) / 2)
    torch.testing.assert_close(found.parts["b"], (x["b"] - x0["b"]) * (x["a"] + x0["a"]) / 2)
    torch.testing.assert_close(found.gap, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    shapley = torch.from_numpy(modality_shapley(product, x, x0))  # the same for two modalities
    torch.testing.assert_close(torch.stack(list(found.by_modality().values())), shapley)
    torch.testing.assert_close(found.by_node().sum(1), product(x) - product(x0))


def test_gradient_times_input_is_exact_for_a_linear_model_and_not_for_a_product():
    x = some()
    linear = gradient_times_input(lambda given: (3 * given["a"]).sum((1, 2)), x)
    torch.testing.assert_close(linear.parts["a"], 3 * x["a"])
    assert not linear.parts["b"].any() and float(linear.gap.abs().max()) < 1e-12
    twice = gradient_times_input(product, x)
    torch.testing.assert_close(twice.gap, -product(x))  # a product is counted once for each of its factors


def test_bags_do_not_meet_each_other():
    x, x0 = some(), some(1)
    whole = integrated_gradients(product, x, x0).parts["a"]
    alone = integrated_gradients(product, {n: v[1:2] for n, v in x.items()}, {n: v[1:2] for n, v in x0.items()}).parts["a"]
    torch.testing.assert_close(whole[1:2], alone)


def test_inputs_and_baseline_must_fit():
    with pytest.raises(DataError, match="inputs and baseline differ"):
        integrated_gradients(product, some(), {"a": some()["a"]})
    with pytest.raises(DataError, match="inputs and baseline differ"):
        modality_shapley(product, some(), some(batch=2))
