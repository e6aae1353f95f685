"""Motion: known flows against explicit loops, and what must not change when the camera or the clock does."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.data.video import Frame
from lego_fusion.errors import MissingExtraError, ParameterError
from lego_fusion.extract.motion import Motion

pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
MakeFrames = Callable[..., list[Frame]]


class Given(Motion):
    """Motion with flow from outside, in reduced pixels per pair."""

    def __init__(self, flow: np.ndarray, **settings: object) -> None:
        super().__init__(**settings)
        self.given = flow.astype(np.float32)

    def flow(self, frames: Sequence[Frame], before: Frame | None) -> np.ndarray:
        return self.given


def shifted(texture: np.ndarray, dx: int, dy: int, count: int) -> np.ndarray:
    """Pictures (count, 120, 180, 3) of a texture that moves by (dx, dy) pixels a frame."""
    left, top = 70 - dx * np.arange(count), 40 - dy * np.arange(count)
    return np.stack([texture[y : y + 120, x : x + 180] for x, y in zip(left, top, strict=True)])


def by_name(motion: Motion, values: np.ndarray) -> dict[str, float]:
    return dict(zip(motion.columns(), values.tolist(), strict=True))


def test_columns_are_as_many_as_the_width_and_differ() -> None:
    for motion in (Motion(), Motion(rows=1, columns=1, bins=2), Motion(rows=3, columns=5, bins=12)):
        assert len(set(motion.columns())) == len(motion.columns()) == motion.width
    assert Motion().columns()[0] == "speed_rms"  # the reference that learns nothing reads it as flow energy


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), height=st.integers(1, 14), width=st.integers(1, 14), bins=st.integers(2, 9))
def test_given_flow_is_summed_up_as_explicit_loops_do(seed: int, height: int, width: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    flow = random.normal(scale=1.0, size=(2, height, width, 2)).astype(np.float32)
    frames = [Frame(i, i / 10, np.zeros((height, width, 3), np.uint8)) for i in range(3)]
    motion = Given(flow, rows=2, columns=3, bins=bins, dead_zone=0.3)
    got = by_name(motion, motion.snippet(frames, None))

    unit = 100 * 10 / max(height, width)
    speeds = np.zeros((2, height, width))
    histogram = np.zeros((2, 3, bins))
    pixels = np.zeros((2, 3))
    for pair, y, x in np.ndindex(2, height, width):
        u, v = flow[pair, y, x].tolist()
        cell = (y * 2 // height, x * 3 // width)
        pixels[cell] += 1
        if np.hypot(u, v) < 0.3:
            continue
        speeds[pair, y, x] = np.hypot(u, v) * unit
        place = np.degrees(np.arctan2(v, u)) % 360 / (360 / bins)
        for direction in range(bins):
            distance = min(abs(place - direction), bins - abs(place - direction))
            histogram[(*cell, direction)] += max(0.0, 1 - distance) * speeds[pair, y, x]
    histogram /= np.maximum(pixels, 1)[..., None]

    assert got["speed_mean"] == pytest.approx(speeds.mean(), rel=1e-4)
    assert got["speed_rms"] == pytest.approx(np.sqrt((speeds**2).mean()), rel=1e-4)
    assert got["speed_q900"] == pytest.approx(np.quantile(speeds, 0.9), rel=1e-4, abs=1e-4)
    assert got["moving_fraction"] == pytest.approx((speeds > 0).mean())
    assert got["fastest_cell"] == pytest.approx(histogram.sum(axis=2).max(), rel=1e-4, abs=1e-4)
    for row, column in np.ndindex(2, 3):
        cell_name = f"cell_{row}_{column}"
        mine = [got[f"{cell_name}_direction_{360 * place / bins:g}"] for place in range(bins)]
        np.testing.assert_allclose(mine, histogram[row, column], rtol=1e-3, atol=1e-3)
        assert got[f"{cell_name}_mean"] == pytest.approx(sum(mine), rel=1e-4, abs=1e-4)
        assert 0 <= got[f"{cell_name}_peak"] <= speeds.max() * (1 + 1e-5)


@pytest.mark.parametrize(("dx", "dy", "direction"), [(3, 0, 0), (0, 3, 90), (-3, 0, 180), (0, -3, 270), (2, 2, 45)])
def test_a_moving_texture_has_its_speed_and_direction(
    texture: np.ndarray, make_frames: MakeFrames, dx: int, dy: int, direction: int
) -> None:
    motion = Motion()
    got = by_name(motion, motion.snippet(make_frames(shifted(texture, dx, dy, 5), fps=20.0), None))
    speed = 100 * np.hypot(dx, dy) / 180 * 20
    assert got["speed_q500"] == pytest.approx(speed, rel=0.05)
    assert got["speed_mean"] == pytest.approx(speed, rel=0.15)
    assert got[f"cell_1_2_direction_{direction}"] > 0.85 * got["cell_1_2_mean"]


def test_doubling_the_rate_doubles_speeds_and_nothing_else(texture: np.ndarray, make_frames: MakeFrames) -> None:
    pictures = shifted(texture, 2, 1, 4)
    motion = Motion()
    slow, fast = (motion.snippet(make_frames(pictures, fps=fps), None) for fps in (8.0, 16.0))
    is_speed = np.array([name != "moving_fraction" for name in motion.columns()])
    np.testing.assert_allclose(fast[is_speed], 2 * slow[is_speed], rtol=1e-5)
    np.testing.assert_array_equal(fast[~is_speed], slow[~is_speed])
    per_frame = Motion(per="frame")
    np.testing.assert_array_equal(*(per_frame.snippet(make_frames(pictures, fps=fps), None) for fps in (8.0, 16.0)))


def test_a_larger_picture_of_the_same_scene_gives_the_same(texture: np.ndarray, make_frames: MakeFrames) -> None:
    pictures = np.stack([texture[:, 40:280], texture[:, 38:278]])  # 240 pixels wide, the size flow is computed at
    enlarged = pictures.repeat(2, axis=1).repeat(2, axis=2)
    small, large = (Motion(longest_side=240).snippet(make_frames(given), None) for given in (pictures, enlarged))
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-3)


def test_a_stalled_clock_does_not_make_speeds_explode(texture: np.ndarray) -> None:
    pictures = shifted(texture, 2, 0, 4)
    even, uneven, stopped = (
        Motion().snippet([Frame(i, t, p) for i, (t, p) in enumerate(zip(times, pictures, strict=True))], None)
        for times in ([0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.1, 0.2], [1.0, 1.0, 1.0, 1.0])
    )
    assert uneven[0] < 1.5 * even[0]
    assert not stopped[0]
    assert np.isfinite(stopped).all()


def test_sensor_noise_on_a_static_scene_fills_nothing(texture: np.ndarray, make_frames: MakeFrames) -> None:
    random = np.random.default_rng(0)
    still = np.broadcast_to(texture[None, :160, :240], (4, 160, 240, 3))
    noisy = np.clip(still + random.normal(scale=4.0, size=still.shape), 0, 255).astype(np.uint8)
    assert not Motion().snippet(make_frames(still), None).any()
    assert Motion().snippet(make_frames(noisy), None)[0] < 0.05
    assert Motion(dead_zone=0.0).snippet(make_frames(noisy), None)[0] > 0.05


def test_the_frame_before_counts_and_nothing_is_remembered(texture: np.ndarray, make_frames: MakeFrames) -> None:
    frames = make_frames(shifted(texture, 2, 1, 6))
    motion = Motion()
    whole = motion.snippet(frames, None)
    motion.snippet(frames[::-1], None)
    np.testing.assert_array_equal(motion.snippet(frames[1:], frames[0]), whole)
    assert not np.array_equal(motion.snippet(frames[1:], None), whole)


def test_one_frame_alone_does_not_move(texture: np.ndarray, make_frames: MakeFrames) -> None:
    values = Motion().snippet(make_frames(texture[None]), None)
    assert values.shape == (248,)
    assert values.dtype == np.float32
    assert not values.any()


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (16, 240), (17, 250), (9, 9), (31, 33), (40, 1000)])
@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_pictures_of_any_shape_give_finite_numbers(size: tuple[int, int], preset: str, make_frames: MakeFrames) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, size=(3, *size, 3), dtype=np.uint8)
    values = Motion(preset=preset).snippet(make_frames(pictures), None)
    assert np.isfinite(values).all()


def test_a_change_of_size_in_the_middle_is_bridged(texture: np.ndarray, make_frames: MakeFrames) -> None:
    large, small = make_frames(texture[None])[0], make_frames(texture[None, ::2, ::2])[0]
    assert np.isfinite(Motion().snippet([small], large)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"longest_side": 8}, r"'longest_side' parameter of Motion must be an int in \[32, 1024\]. Got 8"),
        ({"bins": 1}, "'bins' parameter"),
        ({"rows": 0}, "'rows' parameter"),
        ({"dead_zone": -1.0}, "'dead_zone' parameter"),
        ({"preset": "best"}, "must be one of 'ultrafast', 'fast', 'medium'. Got 'best'"),
        ({"per": "minute"}, "must be one of 'second', 'frame'"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Motion(**settings)


def test_the_manifest_has_every_setting_that_changes_numbers() -> None:
    manifest = Motion().manifest("flow", 8, 4)
    assert (manifest.modality, manifest.nature, manifest.width, manifest.weights_hash) == ("flow", "magnitude", 248, None)
    one = {"longest_side": 120, "rows": 3, "columns": 5, "bins": 4, "preset": "fast", "dead_zone": 0.1, "per": "frame"}
    other = {"longest_side": 90, "rows": 2, "columns": 4, "bins": 6, "preset": "medium", "dead_zone": 0.3, "per": "second"}
    hashes = {Motion(**(one | {name: other[name]})).manifest("flow", 8, 4).hash for name in other}
    assert len(hashes | {Motion(**one).manifest("flow", 8, 4).hash}) == len(Motion().settings) + 1


def test_without_opencv_the_extra_is_named(make_frames: MakeFrames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"opencv-python-headless.*lego-fusion\[video\]"):
        Motion().snippet(make_frames(np.zeros((2, 40, 40, 3), np.uint8)), None)
