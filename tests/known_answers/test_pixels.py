"""Heat maps against masks: pixel AUC against every pixel spelled out, and the pointing game by hand."""

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from known_answers.pixels import frame_heat_maps, heat_map, hit_rate, pointing_hits, scored_pixels
from lego_fusion.errors import DataError
from lego_fusion.measure.detection import micro_auc
from lego_fusion.measure.intervals import metric_interval


def made(seed: int, frames: int = 5, size: tuple[int, int] = (11, 17), grid: tuple[int, int] = (3, 4)):
    random = np.random.default_rng(seed)
    heat = random.integers(0, 6, size=(frames, *grid)) / 5.0  # with ties
    masks = random.random((frames, *size)) < random.choice([0.0, 0.1, 0.7], size=(frames, 1, 1))
    masks[0, 0, 0] = True
    return heat, masks


@given(seed=st.integers(0, 30))
def test_pixel_auc_is_that_of_every_pixel(seed):
    heat, masks = made(seed)
    abnormal = masks.any(axis=(1, 2))
    rows, columns = np.arange(11) * 3 // 11, np.arange(17) * 4 // 17
    pixels = heat[:, rows][:, :, columns]
    expected = roc_auc_score(masks[abnormal].ravel(), pixels[abnormal].ravel())
    scored = scored_pixels("v", heat, masks)
    assert micro_auc([scored]) == pytest.approx(expected, abs=1e-12)
    assert scored.frames == abnormal.sum() * 11 * 17


def test_a_perfect_map_and_its_opposite():
    masks = np.zeros((2, 6, 8), bool)
    masks[:, 2:4, 4:6] = True
    heat = np.zeros((2, 3, 4))
    heat[:, 1, 2] = 1.0
    assert micro_auc([scored_pixels("v", heat, masks)]) == 1.0
    assert micro_auc([scored_pixels("v", -heat, masks)]) == 0.0
    hits, chance = pointing_hits("v", heat, masks)
    assert hit_rate([hits]) == 1.0 and hit_rate([chance]) == pytest.approx(1 / 12)
    assert hit_rate([pointing_hits("v", -heat, masks)[0]]) == 0.0


@given(seed=st.integers(0, 30))
def test_the_pointing_game_by_hand(seed):
    heat, masks = made(seed)
    wins, shares = [], []
    for frame in range(5):
        if not masks[frame].any():
            continue
        touched = {(y * 3 // 11, x * 4 // 17) for y, x in np.argwhere(masks[frame])}
        hottest = max(((r, c) for r in range(3) for c in range(4)), key=lambda cell: (heat[frame][cell], -cell[0], -cell[1]))
        wins.append(hottest in touched)
        shares.append(len(touched) / 12)
    hits, chance = pointing_hits("v", heat, masks)
    assert hits.scores.tolist() == wins
    assert hit_rate([hits]) == pytest.approx(np.mean(wins)) and hit_rate([chance]) == pytest.approx(np.mean(shares))


def test_videos_count_by_their_frames_and_have_intervals():
    videos = [pointing_hits(f"v{seed}", *made(seed, frames=3 + seed))[0] for seed in range(6)]
    everything = np.concatenate([video.scores for video in videos])
    assert hit_rate(videos) == pytest.approx(everything.mean())
    found = metric_interval(videos, hit_rate)
    assert found.low <= found.value <= found.high


def test_frames_share_the_heat_of_their_snippets():
    heat = np.random.default_rng(0).random((3, 2, 2))
    spread = frame_heat_maps(heat, frames=10, snippet_frames=4, stride=4)
    for frame in range(10):
        np.testing.assert_array_equal(spread[frame], heat[frame // 4])


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # so that the package's own check answers
    heat, masks = made(0)
    with pytest.raises(DataError, match=r"heat maps and masks do not fit \(v\): expected 5 frames, got 4"):
        scored_pixels("v", heat[:4], masks)
    with pytest.raises(DataError, match="no pixel is abnormal"):
        pointing_hits("v", heat, np.zeros_like(masks))


def test_the_hot_cell_is_bright_and_the_cool_ones_show_the_frame(tmp_path):
    imread = pytest.importorskip("matplotlib.image", reason="pip install 'lego-fusion[report]'").imread

    frame, heat = np.full((60, 90, 3), 120, np.uint8), np.zeros((2, 3))
    heat[1, 2] = 1.0
    mask = np.zeros((60, 90), bool)
    mask[40:50, 70:80] = True
    heat_map(tmp_path / "heat.png", [("a", frame, heat), ("b", frame, heat[::-1]), ("c", frame, 0 * heat)], masks=[mask, None])
    drawn = imread(tmp_path / "heat.png")[..., :3]
    plain = (np.abs(drawn - 120 / 255) < 0.02).all(axis=-1)
    assert plain.mean() > 0.25  # cool cells show the frame as it is
    assert (drawn[..., :2].min(axis=-1) > 0.75).mean() > 0.02
