"""Networks made by hand whose output is known, and files that are none."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lego_fusion.data.video import Frame
from lego_fusion.errors import DataError, MissingExtraError, ParameterError
from lego_fusion.extract.onnx import OnnxImage

REASON = "pip install 'lego-fusion[onnx,video]'"
onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("cv2", reason=REASON)
MakeFrames = Callable[..., list[Frame]]


def save_network(path: Path, nodes: list[Any], shape: list[Any], output: list[Any], *, element: int = 1) -> Path:
    """Save a graph from ``image`` to ``out``; element 1 is float32, 10 float16, 7 int64."""
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info("image", element, shape)]
    outputs = [helper.make_tensor_value_info("out", element, output)]
    graph = helper.make_graph(nodes, "made", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, ["image"], ["out"], **attributes)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """The identity: the embedding is the mean of each colour."""
    return save_network(tmp_path / "colours.onnx", [node("Identity")], ["n", 3, "h", "w"], ["n", 3, "h", "w"])


def test_a_map_is_averaged_to_the_mean_colours(colours: Path, make_frames: MakeFrames) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, size=(6, 20, 30, 3), dtype=np.uint8)
    extractor = OnnxImage(colours, frames_per_snippet=3)
    expected = pictures[[1, 3, 5]].mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(extractor.snippet(make_frames(pictures), None), expected, rtol=1e-5)
    assert extractor.width == 3


def test_scale_mean_and_deviation_are_applied_in_that_order(colours: Path, make_frames: MakeFrames) -> None:
    picture = np.full((1, 8, 8, 3), 51, dtype=np.uint8)  # 0.2
    extractor = OnnxImage(colours, scale=10.0, mean=(1.0, 2.0, 4.0), std=(1.0, 2.0, 4.0))
    np.testing.assert_allclose(extractor.snippet(make_frames(picture), None), [1.0, 0.0, -0.5], atol=1e-6)


def test_channels_last_is_seen_and_averaged_over_its_own_axes(tmp_path: Path, make_frames: MakeFrames) -> None:
    path = save_network(tmp_path / "last.onnx", [node("Identity")], [1, "h", "w", 3], [1, "h", "w", 3])
    picture = np.broadcast_to(np.array([255, 0, 51], dtype=np.uint8), (1, 4, 5, 3))
    np.testing.assert_allclose(OnnxImage(path).snippet(make_frames(picture), None), [1.0, 0.0, 0.2], rtol=1e-6)


def test_tokens_are_averaged(tmp_path: Path, make_frames: MakeFrames) -> None:
    shape = onnx.helper.make_tensor("shape", 7, [3], [0, -1, 3])
    nodes = [
        onnx.helper.make_node("Constant", [], ["shape"], value=shape),
        onnx.helper.make_node("Reshape", ["image", "shape"], ["out"]),
    ]
    path = save_network(tmp_path / "tokens.onnx", nodes, [1, "h", "w", 3], [1, "t", 3])
    picture = np.broadcast_to(np.array([255, 0, 51], dtype=np.uint8), (1, 4, 5, 3))
    np.testing.assert_allclose(OnnxImage(path).snippet(make_frames(picture), None), [1.0, 0.0, 0.2], rtol=1e-6)


def test_a_fixed_size_is_resized_to(tmp_path: Path, make_frames: MakeFrames) -> None:
    path = save_network(tmp_path / "fixed.onnx", [node("Flatten")], [1, 3, 4, 6], [1, 72])
    extractor = OnnxImage(path)
    picture = np.random.default_rng(0).integers(0, 256, size=(1, 8, 12, 3), dtype=np.uint8)
    halved = picture[0].reshape(4, 2, 6, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel() / 255
    assert extractor.width == 72
    np.testing.assert_allclose(extractor.snippet(make_frames(picture), None), halved, atol=0.5 / 255 + 1e-6)
    with pytest.raises(DataError, match=r"fixes another picture size .*expected \(4, 6\), got \(8, 8\)"):
        OnnxImage(path, input_size=(8, 8)).snippet(make_frames(picture), None)


def test_an_open_size_takes_the_picture_reduced(tmp_path: Path, make_frames: MakeFrames) -> None:
    path = save_network(tmp_path / "flat.onnx", [node("Flatten")], [1, 3, "h", "w"], [1, "d"])
    picture = np.zeros((1, 100, 200, 3), np.uint8)
    assert len(OnnxImage(path, longest_side=64)._embed(picture[0])) == 3 * 32 * 64
    assert len(OnnxImage(path, input_size=(10, 12))._embed(picture[0])) == 3 * 10 * 12


def test_half_precision_networks_are_fed_half_precision(tmp_path: Path, make_frames: MakeFrames) -> None:
    path = save_network(tmp_path / "half.onnx", [node("Identity")], [1, 3, 4, 4], [1, 3, 4, 4], element=10)
    values = OnnxImage(path).snippet(make_frames(np.full((1, 4, 4, 3), 255, np.uint8)), None)
    np.testing.assert_array_equal(values, np.ones(3, dtype=np.float32))


def test_an_output_is_chosen_by_name(colours: Path) -> None:
    assert OnnxImage(colours, output="out").width == 3
    with pytest.raises(DataError, match=r"no such output .*expected out, got logits"):
        _ = OnnxImage(colours, output="logits").width


def test_an_open_network_goes_to_another_process_closed(colours: Path, make_frames: MakeFrames) -> None:
    extractor = OnnxImage(colours)
    frames = make_frames(np.full((1, 4, 4, 3), 7, np.uint8))
    values = extractor.snippet(frames, None)
    copy = pickle.loads(pickle.dumps(extractor))  # noqa: S301 - what multiprocessing does with our own object
    np.testing.assert_array_equal(copy.snippet(frames, None), values)
    assert copy.manifest("a") == extractor.manifest("a")


def test_the_weights_hash_follows_the_bytes_also_those_kept_outside(colours: Path) -> None:
    alone = OnnxImage(colours).weights_hash
    beside = colours.with_name("colours.onnx.data")
    beside.write_bytes(b"weights")
    with_weights = OnnxImage(colours).weights_hash
    beside.write_bytes(b"other weights")
    assert len({alone, with_weights, OnnxImage(colours).weights_hash}) == 3
    beside.unlink()
    assert OnnxImage(colours).weights_hash == alone


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not an ONNX network"), (b"hello, I am text", "not an ONNX network"), (b"\x08\x08", "not an ONNX network")],
)
def test_a_file_that_is_no_network_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "wrong.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        _ = OnnxImage(path).width
    assert "\n" not in str(caught.value)
    assert "wrong.onnx" in str(caught.value)


def test_a_truncated_network_is_refused(colours: Path) -> None:
    colours.write_bytes(colours.read_bytes()[:-20])
    with pytest.raises(DataError, match="not an ONNX network"):
        _ = OnnxImage(colours).width


@pytest.mark.parametrize(
    ("shape", "element", "message"),
    [
        (["n", 128], 1, "not an image network .*got image"),
        ([4, 3, 8, 8], 1, "not an image network"),
        (["n", 3, 8, 8], 7, "not an image network"),
        (["n", 1, 8, 8], 1, "not a network for colour pictures"),
    ],
)
def test_a_network_of_another_kind_is_refused(tmp_path: Path, shape: list[Any], element: int, message: str) -> None:
    path = save_network(tmp_path / "other.onnx", [node("Identity")], shape, shape, element=element)
    with pytest.raises(DataError, match=message):
        _ = OnnxImage(path).width


def test_an_output_that_is_no_embedding_is_refused(tmp_path: Path) -> None:
    path = save_network(tmp_path / "size.onnx", [node("Squeeze")], [1, 3, 1, 1], [3])
    with pytest.raises(DataError, match=r"not an embedding .*got float32 \(3,\)"):
        _ = OnnxImage(path).width


def test_a_missing_file_and_bad_settings_are_refused(tmp_path: Path, colours: Path) -> None:
    with pytest.raises(DataError, match=r"no ONNX file .*none\.onnx"):
        OnnxImage(tmp_path / "none.onnx")
    with pytest.raises(ParameterError, match="'std' parameter of OnnxImage"):
        OnnxImage(colours, std=(1.0, 0.0, 1.0))
    with pytest.raises(ParameterError, match="'mean' parameter of OnnxImage is wrong"):
        OnnxImage(colours, mean=(1.0,))
    with pytest.raises(ParameterError, match="'layout' parameter"):
        OnnxImage(colours, layout="chw")


def test_without_onnxruntime_the_extra_is_named(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*lego-fusion\[onnx\]"):
        _ = OnnxImage(colours).width


def test_the_given_squeezenet_embeds_pictures_of_any_size(shared_data: Path, make_frames: MakeFrames) -> None:
    extractor = OnnxImage(shared_data / "weights" / "squeezenet_v1.0_embedding.onnx", frames_per_snippet=1)
    random = np.random.default_rng(0)
    first, second = (random.integers(0, 256, size=(1, 60, 80, 3), dtype=np.uint8) for _ in range(2))
    values = [extractor.snippet(make_frames(picture), None) for picture in (first, second, first)]
    assert extractor.width == 512
    np.testing.assert_array_equal(values[0], values[2])
    assert not np.allclose(values[0], values[1])
