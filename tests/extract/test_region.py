"""Regions: what happens outside one changes nothing, what happens inside does, and the whole picture is no region."""

from collections.abc import Callable

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_fusion.data.segments import split_presence
from lego_fusion.data.video import Frame
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.extract.appearance import Appearance
from lego_fusion.extract.base import FrameExtractor, Region
from lego_fusion.extract.motion import Motion, MotionCells, MotionFrames
from lego_fusion.extract.onnx import OnnxImage
from lego_fusion.extract.registry import extractor_for, make_extractor

pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
MakeFrames = Callable[..., list[Frame]]
RIGHT = "0.5,0,1,1"
TRIANGLE = "0.5,1; 1,1; 1,0"
EXTRACTORS = (Motion, MotionCells, MotionFrames, Appearance)


def crossing(texture: np.ndarray, left: int) -> np.ndarray:
    """Five pictures (5, 120, 180, 3) of a still scene in which a square of 30 pixels moves 3 pixels a frame."""
    pictures = np.repeat(texture[None, :120, :180], 5, axis=0)
    for index, picture in enumerate(pictures):
        picture[50:80, left + 3 * index : left + 3 * index + 30] = texture[165:195, 250:280]
    return pictures


# Which pixels


@pytest.mark.parametrize("text", ["0.25,0.5,0.75,1", "0.25,0.5;0.75,0.5;0.75,1;0.25,1", "0.75,1; 0.25,1; 0.25,0.5; 0.75,0.5"])
def test_a_rectangle_is_its_four_corners(text: str) -> None:
    expected = np.zeros((8, 12), dtype=bool)
    expected[4:, 3:9] = True
    region = Region.parse(text)
    assert region is not None
    np.testing.assert_array_equal(region.inside(8, 12), expected)


def test_a_triangle_holds_the_centres_below_its_edge() -> None:
    region = Region.parse("0,0;1,1;0,1")
    assert region is not None
    y, x = (np.indices((10, 10)) + 0.5) / 10
    off_the_edge = x != y
    np.testing.assert_array_equal(region.inside(10, 10)[off_the_edge], (y > x)[off_the_edge])


def test_several_regions_are_watched_together() -> None:
    one, other, both = (Region.parse(text) for text in ("0,0,0.5,0.5", TRIANGLE, f"0,0,0.5,0.5 | {TRIANGLE}"))
    assert one is not None and other is not None and both is not None
    np.testing.assert_array_equal(both.inside(30, 40), one.inside(30, 40) | other.inside(30, 40))


@given(left=st.integers(0, 90), top=st.integers(0, 90), width=st.integers(1, 10), height=st.integers(1, 10))
def test_the_text_of_a_manifest_gives_the_same_region_back(left: int, top: int, width: int, height: int) -> None:
    region = Region.parse(f"{left / 100},{top / 100},{(left + width) / 100},{(top + height) / 100}")
    assert region is not None and Region.parse(region.text) == region


@pytest.mark.parametrize("text", ["0,0,1,1", "0,0;1,0;1,1;0,1", "0.2,0.2,0.3,0.3|0,0,1,1", None])
def test_the_whole_picture_is_no_region(text: str | None, texture: np.ndarray, make_frames: MakeFrames) -> None:
    frames = make_frames(crossing(texture, 60))
    for kind in EXTRACTORS:
        extractor = kind(region=text)
        assert extractor.manifest("m") == kind().manifest("m") and "region" not in extractor.settings
        np.testing.assert_array_equal(extractor.snippet(frames, None), kind().snippet(frames, None))


def test_what_is_seen_has_the_mean_colour_of_the_inside_outside(texture: np.ndarray) -> None:
    region = Region.parse(RIGHT)
    assert region is not None
    picture = texture[:120, :180]
    seen = region.seen(picture)
    np.testing.assert_array_equal(seen[:, 90:], picture[:, 90:])
    np.testing.assert_array_equal(seen[:, :90], np.broadcast_to(np.round(picture[:, 90:].mean(axis=(0, 1))), (120, 90, 3)))


# What extractors make of it


@pytest.mark.parametrize("kind", EXTRACTORS)
@pytest.mark.parametrize("region", [RIGHT, TRIANGLE, "0.6,0.1,0.9,0.9|0.7,0,1,0.5"])
def test_an_event_outside_changes_nothing_and_one_inside_does(
    kind: type[FrameExtractor], region: str, texture: np.ndarray, make_frames: MakeFrames
) -> None:
    still, outside, inside = (
        kind(region=region).snippet(make_frames(pictures), None)
        for pictures in (np.repeat(texture[None, :120, :180], 5, axis=0), crossing(texture, 5), crossing(texture, 130))
    )
    np.testing.assert_array_equal(outside, still)
    assert np.abs(inside - still).max() > 0.01


def test_a_network_sees_only_the_inside(tmp_path, texture: np.ndarray, make_frames: MakeFrames) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install 'lego-fusion[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'lego-fusion[onnx]'")
    shape = ["n", 3, "h", "w"]
    tensors = [onnx.helper.make_tensor_value_info(name, 1, shape) for name in ("image", "out")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["image"], ["out"])], "g", tensors[:1], tensors[1:])
    network = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "colours.onnx").write_bytes(network.SerializeToString())
    pictures = crossing(texture, 5)
    got = OnnxImage(tmp_path / "colours.onnx", region=RIGHT).snippet(make_frames(pictures), None)
    np.testing.assert_allclose(got, pictures[:, :, 90:].mean(axis=(0, 1, 2)) / 255, atol=0.5 / 255)


def test_statistics_are_those_of_the_pixels_inside(make_frames: MakeFrames) -> None:
    """A speed that is the same everywhere has the same mean, root mean square and quantiles in every region."""

    class Given(Motion):
        def flow(self, frames, before):
            flow = np.zeros((len(frames) - 1, 40, 60, 2), dtype=np.float32)
            flow[..., 0] = 3.0
            return flow

    frames = make_frames(np.zeros((4, 40, 60, 3), dtype=np.uint8))
    for rows, bands in ((8, 4), (5, 5), (4, 1)):
        whole = Given(rows=rows, bands=bands)
        part = Given(rows=rows, bands=bands, region="0.33,0.1,0.8,0.7|0.05,0.8,0.4,0.95")
        # the two parts touch every band
        np.testing.assert_allclose(part.snippet(frames, None), whole.snippet(frames, None), rtol=1e-5)
    upper = dict(zip(Given().columns(), Given(region="0,0,1,0.5").snippet(frames, None), strict=True))
    assert upper["moving_fraction"] == 1 and upper["speed_mean"] == pytest.approx(upper["speed_q500"])
    assert upper["band_0_direction_0_mean"] > 0 == upper["band_3_direction_0_mean"] == upper["band_3_direction_0_peak"]


def test_cells_outside_are_absent(texture: np.ndarray, make_frames: MakeFrames) -> None:
    extractor = MotionCells(rows=4, columns=6, region=RIGHT)
    _, present = split_presence(extractor.snippet(make_frames(crossing(texture, 60)), None))
    np.testing.assert_array_equal(present.reshape(4, 6), np.repeat([[False] * 3 + [True] * 3], 4, axis=0))


def test_the_region_is_in_the_manifest_and_comes_back_from_it() -> None:
    for name in ("motion", "appearance", "motion-cells", "motion-frames"):
        extractor = make_extractor(name, {"region": RIGHT}, modality="m")
        manifest = extractor.manifest("m")
        assert manifest.settings["region"] == "0.5,0;1,0;1,1;0.5,1"
        assert extractor_for(manifest).manifest("m") == manifest != make_extractor(name, {}, modality="m").manifest("m")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.1,0.2,0.9,1.1", "outside the picture"),
        ("-0.1,0,1,1", "outside the picture"),
        ("nan,0,1,1", "no area"),
        ("nan,0;1,0;1,1", "outside the picture"),
        ("0,0;1,1", "at least three points"),
        ("0.5,0.5", "at least three points"),
        ("0.5,0,0.5,1", "no area"),
        ("0.9,0,0.1,1", "no area"),
        ("0,0;0.5,0.5;1,1", "no area"),
        ("0,0;1,1;1,0;0,1", "edges cross"),
        ("0,0;1,0;1,1,1", "two numbers"),
        ("door", "not numbers"),
        ("", "not numbers"),
    ],
)
def test_what_is_no_region_is_refused(text: object, says: str) -> None:
    for kind in EXTRACTORS:
        with pytest.raises(ParameterError, match=f"'region' parameter of .*{says}"):
            make_extractor(kind.name, {"region": text}, modality="m")


def test_numbers_instead_of_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the package's own check answers
    with pytest.raises(ParameterError, match=r"'region' parameter of Motion is no region \(not text"):
        make_extractor("motion", {"region": [0.5, 0, 1, 1]}, modality="m")


def test_a_region_smaller_than_a_pixel_is_refused(make_frames: MakeFrames) -> None:
    with pytest.raises(DataError, match="holds no pixel"):
        Appearance(region="0.1,0.1,0.101,0.101").snippet(make_frames(np.zeros((1, 64, 96, 3), np.uint8)), None)
