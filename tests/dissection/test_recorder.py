"""Recording changes nothing about a network, and says by name what it cannot record."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lego_fusion.dissection.recorder import Recorder
from lego_fusion.errors import DataError, ParameterError


class TwoStream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rgb = nn.ModuleDict({"stage1": nn.Conv2d(3, 4, 3), "stage2": nn.Conv2d(4, 6, 3, stride=2)})
        self.depth = nn.ModuleDict({"stage1": nn.Conv2d(1, 5, 3), "stage2": nn.Conv2d(5, 6, 3, stride=2)})
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(12, 2)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        pooled = []
        for value, stream in ((rgb, self.rgb), (depth, self.depth)):
            for stage in stream.values():
                value = self.act(stage(value))
            pooled.append(value.mean((2, 3)))
        return self.head(torch.cat(pooled, 1))


LEVELS = {"rgb": {"early": "rgb.stage1", "late": "rgb.stage2"}, "depth": {"early": "depth.stage1", "late": "depth.stage2"}}


@pytest.fixture
def model() -> TwoStream:
    torch.manual_seed(0)
    return TwoStream().eval()


def batches(size: int, samples: int = 6) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    rgb, depth = torch.randn(samples, 3, 12, 10, generator=generator), torch.randn(samples, 1, 12, 10, generator=generator)
    return zip(rgb.split(size), depth.split(size), strict=True)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_what_is_recorded_is_what_the_layer_gives_before_a_later_layer_works_in_place(model: TwoStream) -> None:
    rgb, depth = next(batches(6))
    recording = Recorder(model, LEVELS).record([(rgb, depth)], "spatial")
    with torch.no_grad():
        early = model.rgb["stage1"](rgb)
        late = model.depth["stage2"](model.depth["stage1"](depth).relu())
    np.testing.assert_array_equal(recording["rgb", "early"], early.numpy())
    np.testing.assert_allclose(recording["depth", "late"], late.numpy(), atol=1e-6)
    assert (recording["rgb", "early"] < 0).any()
    assert recording.modalities == ("rgb", "depth")
    assert recording.levels("rgb") == ("early", "late")


@pytest.mark.parametrize("kind", ["pooled", "spatial", "tokens"])
def test_batch_size_and_place_change_nothing_but_rounding(model: TwoStream, tmp_path: Path, kind: str) -> None:
    recorder = Recorder(model, LEVELS)
    whole = recorder.record(batches(6), kind)
    parts = recorder.record(batches(4), kind)
    disk = recorder.record(batches(1), kind, folder=tmp_path / "recording")
    fine = recorder.record(batches(5), kind, folder=tmp_path / "fine", dtype="float32")
    for key, values in whole.arrays.items():
        np.testing.assert_allclose(parts[key], values, atol=1e-6)
        np.testing.assert_allclose(fine[key], values, atol=1e-6)
        assert disk[key].dtype == np.float16
        assert isinstance(disk[key], np.memmap)
        np.testing.assert_allclose(disk[key].astype(np.float32), values, rtol=2**-10, atol=1e-5)
    assert disk.layers == whole.layers
    assert not list(tmp_path.glob(".*"))


def test_kinds_agree(model: TwoStream) -> None:
    recorder = Recorder(model, LEVELS)
    spatial, tokens, pooled = (recorder.record(batches(3), kind) for kind in ("spatial", "tokens", "pooled"))
    for key, values in spatial.arrays.items():
        assert tokens[key].shape == (*values.shape[:2], values.shape[2] * values.shape[3], 1)
        np.testing.assert_array_equal(tokens[key].ravel(), values.ravel())
        np.testing.assert_allclose(pooled[key], values.mean((2, 3)), atol=1e-6)
        np.testing.assert_allclose(spatial.pooled()[" ".join(key)], pooled[key], atol=1e-6)


def test_patterns_stop_at_dots(model: TwoStream) -> None:
    recorder = Recorder(model, {"rgb": "rgb.*", "depth": {"last": "dep*.stage2"}})
    assert recorder.layers == {
        ("rgb", "rgb.stage1"): "rgb.stage1",
        ("rgb", "rgb.stage2"): "rgb.stage2",
        ("depth", "last"): "depth.stage2",
    }
    with pytest.raises(ParameterError, match=r"pattern '\*\.stage2' matches 2 layers .*'rgb.stage2', 'depth.stage2'"):
        Recorder(model, {"depth": {"last": "*.stage2"}})


def test_tokens_become_a_grid_without_the_class_token() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return x + 0, 1

    model = nn.Sequential(Tokens(), nn.Identity()).eval()
    x = torch.arange(14.0).reshape(1, 7, 2)
    grid = Recorder(model, {"m": {"l": "0"}}, grid=(2, 3)).record([x], "spatial")["m", "l"]
    np.testing.assert_array_equal(grid[0, 1], [[3, 5, 7], [9, 11, 13]])
    with pytest.raises(DataError, match=r"too few tokens for the grid \(layer '0', m l\): expected 3 x 3, got 7"):
        Recorder(model, {"m": {"l": "0"}}, grid=(3, 3)).record([x], "spatial")
    with pytest.raises(DataError, match=r"no spatial extent \(layer '0'.*kind='pooled'"):
        Recorder(model, {"m": {"l": "0"}}).record([x], "spatial")


def test_batches_reach_the_model_as_arguments_keywords_or_by_a_call(model: TwoStream) -> None:
    rgb, depth = next(batches(6))
    plain = Recorder(model, LEVELS).record([(rgb, depth)])
    named = Recorder(model, LEVELS).record([{"depth": depth, "rgb": rgb}])
    called = Recorder(model, LEVELS, call=lambda net, batch: net(*batch["images"])).record([{"images": (rgb, depth)}])
    for key, values in plain.arrays.items():
        np.testing.assert_array_equal(named[key], values)
        np.testing.assert_array_equal(called[key], values)


def test_the_model_is_left_as_it_was(model: TwoStream) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = Recorder(model, LEVELS).stream(batches(2))
    next(stream)
    assert hooks(model) == 0
    with pytest.raises(RuntimeError):
        Recorder(model, LEVELS).record([(torch.zeros(1, 3, 12, 10), torch.zeros(1, 2, 12, 10))])
    assert hooks(model) == 0
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_mode_is_refused_by_name(model: TwoStream) -> None:
    model.rgb["stage2"].train()
    with pytest.raises(ParameterError, match=r"training mode.*\(rgb.stage2\).*model.eval\(\)"):
        Recorder(model, LEVELS).record(batches(2))
    assert model.rgb["stage2"].training


def test_unknown_layers_list_the_nearest(model: TwoStream) -> None:
    with pytest.raises(ParameterError, match=r"no layer 'rgb.stage_1' \(rgb early\): expected a name such as 'rgb.stage1'"):
        Recorder(model, {"rgb": {"early": "rgb.stage_1"}})
    with pytest.raises(ParameterError, match=r"no layer 'dpth.\*' \(depth\): expected a name such as 'depth"):
        Recorder(model, {"depth": "dpth.*"})
    with pytest.raises(ParameterError, match="no layers to record"):
        Recorder(model, {})
    with pytest.raises(ParameterError, match=r"no levels \(rgb\)"):
        Recorder(model, {"rgb": {}})


def test_activations_that_are_not_finite_are_refused_by_layer(model: TwoStream) -> None:
    with torch.no_grad():
        model.depth["stage2"].bias[0] = float("nan")
    with pytest.raises(DataError, match=r"not finite \(layer 'depth.stage2', depth late, batch 0\)"):
        Recorder(model, LEVELS).record(batches(3))
    assert hooks(model) == 0


def test_a_failed_recording_leaves_no_folder(model: TwoStream, tmp_path: Path) -> None:
    with torch.no_grad():
        model.rgb["stage1"].bias[0] = 1e6
    with pytest.raises(DataError, match=r"beyond the range of float16 \(layer 'rgb.stage1', rgb early\).*float32"):
        Recorder(model, LEVELS).record(batches(3), "spatial", folder=tmp_path / "new")
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").mkdir()
    with pytest.raises(DataError, match="folder is there already"):
        Recorder(model, LEVELS).record(batches(3), folder=tmp_path / "old")
    with pytest.raises(DataError, match="no batches"):
        Recorder(model, LEVELS).record([], folder=tmp_path / "new")
    with pytest.raises(DataError, match="no batches"):
        Recorder(model, LEVELS).record([])


def test_layers_that_run_twice_or_never_are_refused(model: TwoStream) -> None:
    with pytest.raises(DataError, match=r"must run once for each batch \(layer 'act', rgb early\): got 4 times"):
        Recorder(model, {"rgb": {"early": "act"}}).record(batches(3))
    with pytest.raises(DataError, match=r"\(layer 'head', rgb early\): got 0 times"):
        Recorder(model, {"rgb": {"early": "head"}}, call=lambda net, batch: net.rgb["stage1"](batch[0])).record(batches(3))


def test_shapes_that_change_and_outputs_without_a_tensor_are_refused(model: TwoStream) -> None:
    other = [next(batches(6)), (torch.zeros(1, 3, 9, 9), torch.zeros(1, 1, 9, 9))]
    with pytest.raises(DataError, match=r"change their shape between batches \(layer 'rgb.stage1'"):
        Recorder(model, LEVELS).record(other, "spatial")

    class Words(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "nothing"

    with pytest.raises(DataError, match=r"nothing that can be recorded \(layer '0', m l\).*got str"):
        Recorder(nn.Sequential(Words()).eval(), {"m": {"l": "0"}}).record([torch.zeros(1, 2)])


def test_a_folder_that_is_no_recording_is_refused(model: TwoStream, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a recording"):
        type(Recorder(model, LEVELS).record(batches(3))).open(tmp_path)
    with pytest.raises(DataError, match=r"nothing was recorded for rgb middle: expected one of rgb early"):
        Recorder(model, LEVELS).record(batches(3))["rgb", "middle"]
