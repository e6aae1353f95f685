"""Appearance without a network: flat, striped, scaled and mirrored pictures."""

from collections.abc import Callable

import numpy as np
import pytest

from lego_fusion.data.video import Frame
from lego_fusion.errors import ParameterError
from lego_fusion.extract.appearance import Appearance

pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
MakeFrames = Callable[..., list[Frame]]


def described(pictures: np.ndarray, make_frames: MakeFrames, **settings: object) -> dict[str, float]:
    extractor = Appearance(**settings)
    values = extractor.snippet(make_frames(pictures), None)
    return dict(zip(extractor.columns(), values.tolist(), strict=True))


def test_a_flat_picture_has_its_colour_and_no_gradient(make_frames: MakeFrames) -> None:
    flat = np.broadcast_to(np.array([255, 51, 0], dtype=np.uint8), (1, 40, 60, 3))
    values = described(flat, make_frames)
    assert not any(abs(value) > 1e-4 for name, value in values.items() if name.startswith("gradient"))
    assert not any(abs(value) > 1e-6 for name, value in values.items() if name.endswith("deviation"))
    for colour, share in (("red", 1.0), ("green", 0.2), ("blue", 0.0)):
        assert values[f"colour_3_5_{colour}_mean"] == pytest.approx(share / np.sqrt(24))


def test_colours_are_mean_and_deviation_of_the_pixels_of_a_cell(make_frames: MakeFrames) -> None:
    picture = np.random.default_rng(0).integers(0, 256, size=(1, 40, 60, 3), dtype=np.uint8)
    values = described(picture, make_frames)
    for row, column in np.ndindex(4, 6):
        cell = picture[0, 10 * row : 10 * row + 10, 10 * column : 10 * column + 10] / 255
        for place, colour in enumerate(("red", "green", "blue")):
            mean, deviation = (values[f"colour_{row}_{column}_{colour}_{fact}"] for fact in ("mean", "deviation"))
            assert mean * np.sqrt(24) == pytest.approx(cell[..., place].mean(), rel=1e-5)
            assert deviation * np.sqrt(24) == pytest.approx(cell[..., place].std(), rel=1e-5)


@pytest.mark.parametrize(("axis", "direction"), [(1, "0"), (0, "80"), (0, "100")])
def test_stripes_have_the_direction_of_their_gradient(make_frames: MakeFrames, axis: int, direction: str) -> None:
    wave = (127 + 100 * np.sin(np.arange(240) * np.pi / 20)).astype(np.uint8)
    picture = np.broadcast_to(wave[None, :, None] if axis == 1 else wave[:160, None, None], (160, 240, 3))
    values = described(picture[None], make_frames)
    by_direction: dict[str, float] = {}
    for name, value in values.items():
        if name.startswith("gradient"):
            by_direction[name.rsplit("_", 1)[1]] = by_direction.get(name.rsplit("_", 1)[1], 0.0) + value
    assert by_direction[direction] >= 0.45 * sum(by_direction.values())


def test_blocks_are_normalised(texture: np.ndarray, make_frames: MakeFrames) -> None:
    gradients = Appearance().snippet(make_frames(texture[None]), None)[:540].reshape(15, 36)
    lengths = np.linalg.norm(gradients, axis=1) * np.sqrt(15)
    assert (lengths <= 1 + 1e-6).all()
    assert (lengths > 0.9).all()


def test_the_same_scene_enlarged_gives_the_same(texture: np.ndarray, make_frames: MakeFrames) -> None:
    picture = texture[None, :160, :240]
    small, large = described(picture, make_frames), described(picture.repeat(2, 1).repeat(2, 2), make_frames)
    np.testing.assert_allclose(list(small.values()), list(large.values()), atol=2e-3)


def test_a_snippet_is_the_mean_of_its_sampled_frames_whatever_came_before(texture: np.ndarray, make_frames: MakeFrames) -> None:
    pictures = np.stack([texture[i : i + 40, 3 * i : 3 * i + 60] for i in range(8)])
    frames = make_frames(pictures)
    extractor = Appearance(frames_per_snippet=4)
    alone = [Appearance().snippet([frames[i]], None) for i in (1, 3, 5, 7)]
    np.testing.assert_allclose(extractor.snippet(frames, None), np.mean(alone, axis=0), atol=1e-6)
    np.testing.assert_array_equal(extractor.snippet(frames, frames[0]), extractor.snippet(frames, None))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3, 2), (500, 20)])
def test_pictures_of_any_shape_give_finite_numbers(size: tuple[int, int], make_frames: MakeFrames) -> None:
    values = Appearance().snippet(make_frames(np.full((2, *size, 3), 200, np.uint8)), None)
    assert values.shape == (684,)
    assert np.isfinite(values).all()


def test_width_follows_the_grids() -> None:
    extractor = Appearance(cells=(3, 2), colours=(1, 2))
    assert extractor.width == len(set(extractor.columns())) == 2 * 1 * 36 + 2 * 6


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(ParameterError, match="'cells' parameter of Appearance"):
        Appearance(cells=(1, 4))
    with pytest.raises(ParameterError, match="'frames_per_snippet' parameter"):
        Appearance(frames_per_snippet=0)
