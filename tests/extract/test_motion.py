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


def crossing(texture: np.ndarray, left: int, top: int, dx: int = 2, count: int = 5) -> np.ndarray:
    """Pictures (count, 160, 240, 3) of a still scene that a textured square of 30 pixels crosses dx pixels a frame."""
    pictures = np.repeat(texture[None, :160, :240], count, axis=0)
    for index, picture in enumerate(pictures):
        picture[top : top + 30, left + dx * index : left + dx * index + 30] = texture[165:195, 250:280]
    return pictures


def by_name(motion: Motion, values: np.ndarray) -> dict[str, float]:
    return dict(zip(motion.columns(), values.tolist(), strict=True))


def test_columns_are_as_many_as_the_width_and_differ() -> None:
    for motion in (Motion(), Motion(rows=1, columns=1, bands=1, bins=2), Motion(rows=6, columns=5, bands=3, bins=12)):
        assert len(set(motion.columns())) == len(motion.columns()) == motion.width == 8 + 2 * motion.bands * motion.bins


def test_columns_are_named_in_order() -> None:
    statistics = ("speed_rms", "speed_mean", "speed_q500", "speed_q900", "speed_q990", "speed_q999")
    pooled = [f"band_{band}_direction_{angle}" for band in (0, 1) for angle in (0, 120, 240)]
    assert Motion(rows=4, bands=2, bins=3).columns() == (
        *(*statistics, "moving_fraction", "fastest_cell"),  # the first: the reference that learns nothing reads it
        *(f"{name}_mean" for name in pooled),
        *(f"{name}_peak" for name in pooled),
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    height=st.integers(1, 14),  # fewer pixels than cells: some cells are empty
    width=st.integers(1, 14),
    bins=st.integers(2, 9),
    grid=st.sampled_from([(4, 3, 2), (4, 3, 4), (4, 3, 1), (3, 1, 3), (1, 1, 1), (6, 2, 2)]),
)
def test_given_flow_is_pooled_as_explicit_loops_do(
    seed: int, height: int, width: int, bins: int, grid: tuple[int, int, int]
) -> None:
    rows, columns, bands = grid
    random = np.random.default_rng(seed)
    flow = random.normal(scale=1.0, size=(3, height, width, 2)).astype(np.float32)
    times = np.cumsum(random.uniform(0.1, 0.19, size=4))  # variable frame rate
    frames = [Frame(i, time, np.zeros((height, width, 3), np.uint8)) for i, time in enumerate(times.tolist())]
    motion = Given(flow, rows=rows, columns=columns, bands=bands, bins=bins, dead_zone=0.3)
    got = by_name(motion, motion.snippet(frames, None))

    speeds = np.zeros((3, height, width))
    histogram = np.zeros((3, rows, columns, bins))
    pixels = np.zeros((3, rows, columns))
    for pair, y, x in np.ndindex(3, height, width):
        u, v = flow[pair, y, x].tolist()
        cell = (pair, y * rows // height, x * columns // width)
        pixels[cell] += 1
        if np.hypot(u, v) < 0.3:
            continue
        speeds[pair, y, x] = 100 * np.hypot(u, v) / max(height, width) / (times[pair + 1] - times[pair])
        place = np.degrees(np.arctan2(v, u)) % 360 / (360 / bins)
        for direction in range(bins):
            distance = min(abs(place - direction), bins - abs(place - direction))
            histogram[(*cell, direction)] += max(0.0, 1 - distance) * speeds[pair, y, x]
    for cell in np.ndindex(3, rows, columns):
        histogram[cell] /= max(pixels[cell], 1)

    expected = {"speed_mean": speeds.mean(), "speed_rms": np.sqrt((speeds**2).mean())}
    for place, share in {"q500": 0.5, "q900": 0.9, "q990": 0.99, "q999": 0.999}.items():
        expected[f"speed_{place}"] = np.quantile(speeds, share)
    expected["moving_fraction"] = (speeds > 0).mean()
    expected["fastest_cell"] = sum(max(cell.sum() for row in pair for cell in row) for pair in histogram) / 3
    for band, direction in np.ndindex(bands, bins):
        mine = [row for row in range(rows) if row * bands // rows == band]
        cells = [[histogram[pair, row, column, direction] for row in mine for column in range(columns)] for pair in range(3)]
        name = f"band_{band}_direction_{360 * direction / bins:g}"
        expected[f"{name}_mean"] = sum(map(sum, cells)) / (3 * len(cells[0]))
        expected[f"{name}_peak"] = sum(map(max, cells)) / 3
    assert got == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_what_moves_along_a_band_is_the_same_wherever_it_is() -> None:
    def features(left: int, top: int) -> np.ndarray:
        flow = np.zeros((2, 80, 120, 2))
        flow[:, top : top + 14, left : left + 9] = np.random.default_rng(0).normal(size=(2, 14, 9, 2))
        motion = Given(flow)  # cells of 10 x 10 pixels, bands of 20
        return motion.snippet([Frame(i, i / 10, np.zeros((80, 120, 3), np.uint8)) for i in range(3)], None)

    here = features(0, 2)
    for left in (20, 50, 110):
        np.testing.assert_allclose(features(left, 2), here, rtol=1e-5)
    below = features(0, 62)
    np.testing.assert_allclose(below[:8], here[:8], rtol=1e-5)
    bands_here, bands_below = here[8:].reshape(2, 4, 8), below[8:].reshape(2, 4, 8)  # (mean and peak, band, direction)
    np.testing.assert_allclose(bands_below[:, 3], bands_here[:, 0], rtol=1e-5)
    assert bands_here[:, 0].min() > 0
    assert not bands_below[:, :3].any()
    assert not bands_here[:, 1:].any()


def test_an_object_crossing_the_scene_is_seen_in_its_band_and_direction(texture: np.ndarray, make_frames: MakeFrames) -> None:
    def bands(left: int, top: int, dx: int = 2) -> np.ndarray:
        motion = Motion()
        return motion.snippet(make_frames(crossing(texture, left, top, dx)), None)[8:].reshape(2, 4, 8)

    here, there, below, back = bands(40, 45), bands(160, 45), bands(40, 125), bands(40, 45, -2)
    for mean, peak in (here, there, below, back):
        assert (mean <= peak).all()
    assert [part[0].sum(axis=1).argmax() for part in (here, there, below, back)] == [1, 1, 3, 1]
    assert [part[1].max(axis=0).argmax() for part in (here, there, below, back)] == [0, 0, 0, 4]
    near, far = (np.linalg.norm(other - here) / np.linalg.norm(here) for other in (there, below))
    assert near < 0.25 < 1 < far
    assert np.linalg.norm(back - here) > np.linalg.norm(here)


@pytest.mark.parametrize(("dx", "dy", "direction"), [(3, 0, 0), (0, 3, 90), (-3, 0, 180), (0, -3, 270), (2, 2, 45)])
def test_a_moving_texture_has_its_speed_and_direction(
    texture: np.ndarray, make_frames: MakeFrames, dx: int, dy: int, direction: int
) -> None:
    motion = Motion()
    got = by_name(motion, motion.snippet(make_frames(shifted(texture, dx, dy, 5), fps=20.0), None))
    speed = 100 * np.hypot(dx, dy) / 180 * 20
    assert got["speed_q500"] == pytest.approx(speed, rel=0.05)
    assert got["speed_mean"] == pytest.approx(speed, rel=0.15)
    for band in range(4):
        of_band = {name: value for name, value in got.items() if name.startswith(f"band_{band}_") and name.endswith("_mean")}
        assert of_band[f"band_{band}_direction_{direction}_mean"] > 0.8 * sum(of_band.values())


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
    assert values.shape == (72,)
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
        ({"longest_side": 8}, "'longest_side' parameter of Motion must be greater than or equal to 32. Got 8"),
        ({"bins": 1}, "'bins' parameter"),
        ({"rows": 0}, "'rows' parameter"),
        ({"bands": 0}, "'bands' parameter of Motion must be greater than or equal to 1. Got 0"),
        ({"rows": 9}, "'rows' parameter of Motion must be a multiple of bands=4. Got 9 instead"),
        ({"rows": 4, "bands": 8}, "'rows' parameter of Motion must be a multiple of bands=8. Got 4 instead"),
        ({"dead_zone": -1.0}, "'dead_zone' parameter"),
        ({"preset": "best"}, "must be 'ultrafast', 'fast' or 'medium'. Got 'best'"),
        ({"per": "minute"}, "must be 'second' or 'frame'"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Motion(**settings)


def test_the_manifest_has_every_setting_that_changes_numbers() -> None:
    manifest = Motion().manifest("flow", 8, 4)
    assert (manifest.modality, manifest.nature, manifest.width, manifest.weights_hash) == ("flow", "magnitude", 72, None)
    one = {"longest_side": 120, "rows": 6, "columns": 5, "bands": 3, "bins": 4}
    one |= {"preset": "fast", "dead_zone": 0.1, "per": "frame"}
    other = {"longest_side": 90, "rows": 9, "columns": 4, "bands": 2, "bins": 6}
    other |= {"preset": "medium", "dead_zone": 0.3, "per": "second"}
    hashes = {Motion(**(one | {name: other[name]})).manifest("flow", 8, 4).hash for name in other}
    assert len(hashes | {Motion(**one).manifest("flow", 8, 4).hash}) == len(Motion().settings) + 1


def test_without_opencv_the_extra_is_named(make_frames: MakeFrames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"opencv-python-headless.*lego-fusion\[video\]"):
        Motion().snippet(make_frames(np.zeros((2, 40, 40, 3), np.uint8)), None)
