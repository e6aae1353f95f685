"""Units silenced in networks whose answer to it is known exactly."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from known_answers.silenced_classes import class_iou, excess_over_random
from lego_fusion.dissection.ablation import (
    ImageMetric,
    ablate,
    mean_metric,
    silenced,
    unit_groups,
    unit_labels,
)
from lego_fusion.dissection.alignment import align
from lego_fusion.dissection.concepts import Concepts
from lego_fusion.dissection.records import Ablation
from lego_fusion.errors import DataError, ParameterError

WEIGHTS = torch.tensor([1.0, -2.0, 4.0, 0.0])
INPUTS = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    """y = w x, through a layer of four units that can be silenced."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.units(x).flatten(2).mean(2) @ WEIGHTS if x.ndim == 4 else self.units(x) @ WEIGHTS


def batches(size: int, x: Tensor = INPUTS) -> list[tuple[Tensor, Tensor]]:
    return [(part, part @ WEIGHTS) for part in x.split(size)]


OUTPUT = mean_metric("output", lambda outputs, targets: outputs)
ERROR = mean_metric("squared error", lambda outputs, targets: (outputs - targets) ** 2)


@pytest.mark.parametrize("by", ["zero", "mean"])
@pytest.mark.parametrize("units", [(0,), (1, 2), (3,), (0, 1, 2, 3)])
def test_a_linear_network_loses_what_the_units_gave(by: str, units: tuple[int, ...]) -> None:
    """By zero the mean output falls by w_k mean x_k; by the mean it stays, and the squared error is the variance."""
    some = list(units)
    (output,) = ablate(Linear().eval(), "units", {"g": units}, batches(7), OUTPUT, by=by, draws=0)
    (error,) = ablate(Linear().eval(), "units", {"g": units}, batches(7), ERROR, by=by, draws=0)
    lost = INPUTS[:, some] @ WEIGHTS[some]
    if by == "zero":
        assert output.change == pytest.approx(-float(lost.mean()), abs=1e-5)
        assert error.after == pytest.approx(float((lost**2).mean()), abs=1e-5)
    else:
        assert output.change == pytest.approx(0, abs=1e-5)
        assert error.after == pytest.approx(float(lost.var(correction=0)), abs=1e-4)
    assert error.before == pytest.approx(0, abs=1e-10)
    assert output.units == units and output.change == output.after - output.before


def test_batches_do_not_matter() -> None:
    runs = [ablate(Linear().eval(), "units", {"g": [1, 2]}, batches(size), ERROR, by="mean", seed=4) for size in (1, 7, 30)]
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert (one.units, one.group) == (other.units, other.group)
            numbers = [(row.before, row.after, row.change, row.low, row.high) for row in (one, other)]
            assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_the_interval_is_that_of_a_mean_over_images() -> None:
    (found,) = ablate(Linear().eval(), "units", {"g": [2]}, batches(30), OUTPUT, draws=0, resamples=4000)
    lost = -4.0 * INPUTS[:, 2]
    half = 1.96 * float(lost.std(correction=0)) / 30**0.5
    assert found.low == pytest.approx(float(lost.mean()) - half, abs=0.15 * half)
    assert found.high == pytest.approx(float(lost.mean()) + half, abs=0.15 * half)
    (silent,) = ablate(Linear().eval(), "units", {"g": [3]}, batches(30), OUTPUT, draws=0)
    assert (silent.low, silent.change, silent.high) == (0, 0, 0), "a unit of weight 0 is of no use on any resample"


def test_random_units_are_others_of_the_same_number() -> None:
    found = ablate(Linear().eval(), "units", {"shared": [0], "special": [1, 2, 3]}, batches(30), ERROR, draws=6, key=("m", "l"))
    own = [row for row in found if row.group != "random"]
    assert [row.group for row in own] == ["shared", "special"]
    assert {(row.modality, row.level, row.metric) for row in found} == {("m", "l", "squared error")}
    for row in found:
        if row.matched == "shared":
            assert len(row.units) == 1 and row.units[0] in (1, 2, 3)
        if row.matched == "special":
            assert row.units == (0,), "there is only one other"
    assert sum(row.matched == "shared" for row in found) == sum(row.matched == "special" for row in found) == 6
    again = ablate(Linear().eval(), "units", {"shared": [0], "special": [1, 2, 3]}, batches(30), ERROR, draws=6, key=("m", "l"))
    assert found == again
    everything = ablate(Linear().eval(), "units", {"all": [0, 1, 2, 3]}, batches(30), ERROR)
    assert len(everything) == 1, "no other units are left to draw"


def test_excess_is_beyond_what_random_units_cost() -> None:
    rows = [
        Ablation("l", "m", "special", (0,), 1.0, 0.2, -0.8, -0.9, -0.7, "x"),
        Ablation("l", "m", "random", (1,), 1.0, 0.9, -0.1, -0.2, 0.0, "x", "special"),
        Ablation("l", "m", "random", (2,), 1.0, 0.7, -0.3, -0.4, 0.0, "x", "special"),
        Ablation("l", "m", "random", (2,), 1.0, 0.7, -0.3, -0.4, 0.0, "y", "special"),
        Ablation("l", "m", "shared", (3,), 1.0, 0.7, -0.3, -0.4, 0.0, "x"),
    ]
    assert excess_over_random(rows) == {("special", "x"): pytest.approx(-0.6)}


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (2, 6, 3)])
def test_units_are_silenced_along_their_axis_and_nothing_else(shape: tuple[int, ...]) -> None:
    """Of (b, K), maps (b, K, h, w) and tokens (b, T, K); the other units and the input itself stay."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    kept = x.clone()
    model = nn.Sequential(nn.Identity())
    axis = 2 if len(shape) == 3 else 1
    with silenced(model, "0", [1]):
        out = model(x)
    assert torch.equal(x, kept) and torch.equal(model(x), kept)
    assert bool((out.select(axis, 1) == 0).all())
    for unit in (0, 2):
        assert torch.equal(out.select(axis, unit), kept.select(axis, unit))
    with silenced(model, "0", [1], np.array([7.0, 8.0, 9.0])):
        assert bool((model(x).select(axis, 1) == 8).all())


def test_the_first_of_several_outputs_is_silenced() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return x, "weights"

    model = nn.Sequential(Pair())
    with silenced(model, "0", [0]):
        value, other = model(torch.ones(1, 2))
    assert value.tolist() == [[0, 1]] and other == "weights"


def test_hooks_are_removed_whatever_happens() -> None:
    model = Linear().eval()
    broken = ImageMetric(lambda outputs, targets: 1 / 0, lambda rows: {})
    with pytest.raises(ZeroDivisionError):
        ablate(model, "units", {"g": [0]}, batches(30), broken)
    with pytest.raises(RuntimeError), silenced(model, "units", [0]):
        raise RuntimeError
    assert not model.units._forward_hooks
    state = model.state_dict()
    ablate(model, "units", {"g": [0]}, batches(30), OUTPUT)
    assert not model.units._forward_hooks and not model.training and state.keys() == model.state_dict().keys()


def test_iou_is_counted_over_all_images() -> None:
    """Class 1 is true in pixels 0 and 1; told in 1 and 2. Class 2: true in one of two images only."""
    told = torch.tensor([[[0, 1, 1, 0]], [[2, 2, 0, 0]]])
    true = torch.tensor([[[1, 1, 0, 0]], [[2, 0, 0, 0]]])
    metric = class_iou({"a": 1, "b": 2, "never": 3}, {"a": ["a"], "both": ["a", "b"], "never": ["never"]})
    logits = nn.functional.one_hot(told, 4).permute(0, 3, 1, 2).float()
    rows = metric.rows(logits, true).numpy()
    values = metric.values(rows)
    assert values["a"] == pytest.approx(1 / 3) and values["both"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert np.isnan(values["never"])
    assert metric.values(np.concatenate([rows, rows])) == pytest.approx(values, nan_ok=True)


def test_a_unit_stands_for_what_it_aligns_with_best() -> None:
    masks = np.random.default_rng(0).random((20, 3, 8, 8)) < 0.1
    noise = np.random.default_rng(1).random((20, 4, 8, 8))
    noise[:, 0] += masks[:, 2]
    noise[:, 1] += masks[:, 0] + 0.5 * masks[:, 1]
    noise[:, 2] += masks[:, 1]
    found = align(noise, Concepts.from_masks(masks, ["a", "b", "c"]), quantile=0.05)
    for mode in ("normalised", "stock", "auroc"):
        assert unit_labels(found, mode) == ("c", "a", "b", None)
    groups = unit_groups(unit_labels(found), {"shared": {"a", "b"}, "special": {"c"}, "none": {"d"}})
    assert groups == {"shared": (1, 2), "special": (0,)}


@pytest.mark.usefixtures("unchecked_types")
def test_bad_input_is_named() -> None:
    model = Linear().eval()
    with pytest.raises(ParameterError, match="training mode"):
        ablate(Linear(), "units", {"g": [0]}, batches(30), OUTPUT)
    with pytest.raises(ParameterError, match=r"the model has no layer 'unit'.*'units'"):
        ablate(model, "unit", {"g": [0]}, batches(30), OUTPUT)
    with pytest.raises(ParameterError, match=r"has no such unit .*group 'g'.*expected 0 to 3, got"):
        ablate(model, "units", {"g": [4]}, batches(30), OUTPUT)
    with pytest.raises(ParameterError, match="group 'g' has no units"):
        ablate(model, "units", {"g": []}, batches(30), OUTPUT)
    with pytest.raises(ParameterError, match="'random' names the units that are drawn"):
        ablate(model, "units", {"random": [0]}, batches(30), OUTPUT)
    with pytest.raises(ParameterError, match="batches can be read once only"):
        ablate(model, "units", {"g": [0]}, iter(batches(30)), OUTPUT)
    with pytest.raises(DataError, match="no images to ablate on"):
        ablate(model, "units", {"g": [0]}, [], OUTPUT)
    with pytest.raises(DataError, match="one row for each image"):
        ablate(model, "units", {"g": [0]}, batches(30), mean_metric("x", lambda outputs, targets: outputs.mean()))
    with pytest.raises(DataError, match="activations are not finite"):
        ablate(model, "units", {"g": [0]}, [(INPUTS / 0, INPUTS)], OUTPUT)
    with pytest.raises(ParameterError, match="'by' parameter of ablate"):
        ablate(model, "units", {"g": [0]}, batches(30), OUTPUT, by="noise")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'draws' parameter of ablate"):
        ablate(model, "units", {"g": [0]}, batches(30), OUTPUT, draws=-1)
    with pytest.raises(ParameterError, match="no class 'c' to take the IoU of"):
        class_iou({"a": 0}, {"g": ["c"]})
    with pytest.raises(ParameterError, match="has no such unit"), silenced(model, "units", [9]):
        model(INPUTS)
    flat = nn.Sequential(nn.Identity())
    with pytest.raises(DataError, match="no units to silence"), silenced(flat, "0", [0]):
        flat(torch.zeros(3))
