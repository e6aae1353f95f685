"""Motion by cell and by frame: the sums and means of the whole, what is absent, and a rendered video through the door."""

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.data.segments import split_presence
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.extract.describe import extract_video
from lego_fusion.extract.motion import Motion, MotionCells, MotionFrames
from lego_fusion.extract.run import extract_dataset

SIZE = {"longest_side": 90}


@pytest.fixture(scope="module")
def moving(texture, make_frames):
    """Eight frames of a picture that slides to the left by 2 pixels a frame, 80 x 120."""
    return make_frames(np.stack([texture[:80, 2 * i : 2 * i + 120] for i in range(8)]))


def test_cells_of_equal_size_average_to_the_whole(moving):
    values, present = split_presence(MotionCells(rows=4, columns=6, longest_side=120).snippet(moving, None))
    whole = dict(zip(Motion(longest_side=120).columns(), Motion(longest_side=120).snippet(moving, None), strict=True))
    assert present.all() and values.shape == (24, 11)
    assert np.sqrt((values[:, 0] ** 2).mean()) == pytest.approx(whole["speed_rms"], rel=1e-4)
    assert values[:, 1].mean() == pytest.approx(whole["speed_mean"], rel=1e-4)
    assert values[:, 2].mean() == pytest.approx(whole["moving_fraction"], rel=1e-4)
    np.testing.assert_allclose(values[:, 3:].sum(axis=1), values[:, 1], rtol=1e-4, atol=1e-5)


def test_what_moves_in_one_cell_is_in_that_cell_only(texture, make_frames):
    pictures = np.repeat(texture[None, :80, :120], 5, axis=0)
    for i in range(5):
        pictures[i, 40:60, 80:100] = texture[100:120, 100 + 2 * i : 120 + 2 * i]
    values, _ = split_presence(MotionCells(rows=4, columns=6, longest_side=120).snippet(make_frames(pictures), None))
    speed = values[:, 1].reshape(4, 6)
    assert np.unravel_index(speed.argmax(), speed.shape) == (2, 4)
    assert (speed[:, :2] == 0).all() and (speed[0] == 0).all()


def test_frames_have_the_flow_from_the_frame_before(moving):
    extractor, one = MotionFrames(frames=8, **SIZE), Motion(**SIZE)
    values, present = split_presence(extractor.snippet(moving, None))
    assert present.tolist() == [False] + [True] * 7 and values.shape == (8, 72)
    for i in range(1, 8):
        np.testing.assert_allclose(values[i], one.snippet(moving[i : i + 1], moving[i - 1]), rtol=1e-5, atol=1e-6)
    later, there = split_presence(extractor.snippet(moving[3:6], moving[2]))  # the last, partial snippet
    assert there.tolist() == [True] * 3 + [False] * 5
    np.testing.assert_allclose(later[:3], values[3:6], rtol=1e-5, atol=1e-6)


def test_the_means_of_the_frames_are_those_of_the_snippet(moving):
    whole = Motion(**SIZE).snippet(moving, None)
    values, present = split_presence(MotionFrames(frames=8, **SIZE).snippet(moving, None))
    for name in ("speed_mean", "moving_fraction", "band_1_direction_180_mean"):
        place = Motion().columns().index(name)
        assert values[present][:, place].mean() == pytest.approx(whole[place], rel=1e-4)


def test_a_single_frame_has_still_cells_and_no_frame(moving):
    cells, there = split_presence(MotionCells(**SIZE).snippet(moving[:1], None))
    assert there.all() and not cells.any()
    assert not MotionFrames(**SIZE).snippet(moving[:1], None).any()


def test_a_picture_smaller_than_the_grid_leaves_cells_out(make_frames):
    tiny = make_frames(np.zeros((3, 5, 40, 3), np.uint8))
    values, present = split_presence(MotionCells(rows=8, columns=12).snippet(tiny, None))
    assert present.reshape(8, 12).sum() == 5 * 12 and not values.any()


def test_a_rendered_video_gives_shapes_times_and_presence(scenes, tmp_path):
    extractors = {"cells": MotionCells(rows=2, columns=3, **SIZE), "frames": MotionFrames(**SIZE)}
    report = extract_dataset(scenes.folder, tmp_path / "out", extractors=extractors)
    dataset = Dataset.open(tmp_path / "out")
    assert not report.failures and dataset.modalities["cells"].grid == (2, 3)
    for record in dataset.videos:
        rows = -(-record.frames // 16)
        cells, frames = (dataset.features(name, record.video) for name in ("cells", "frames"))
        assert cells.shape == (rows, 6, 12) and frames.shape == (rows, 16, 73)
        assert cells[..., -1].all() and frames[..., -1].sum() == record.frames - 1
    again = extract_dataset(scenes.folder, tmp_path / "out", extractors=extractors)
    assert again.reused == len(dataset.videos)


def test_a_video_shorter_than_a_snippet(write_video, texture, tmp_path):
    path = write_video(tmp_path / "short.mp4", np.stack([texture[:80, 2 * i : 2 * i + 120] for i in range(3)]))
    features = extract_video(path, {"cells": MotionCells(**SIZE), "frames": MotionFrames(**SIZE)})
    assert features["cells"].values.shape == (1, 96, 12) and features["cells"].values[..., -1].all()
    assert features["frames"].values[0, :, -1].tolist() == [0, 1, 1] + [0] * 13


def test_bad_settings_and_too_long_snippets(moving):
    with pytest.raises(DataError, match=r"more frames than units: expected at most 4, got 8.*frames=8"):
        MotionFrames(frames=4, **SIZE).snippet(moving, None)
    with pytest.raises(ParameterError, match="'frames' parameter of MotionFrames"):
        MotionFrames(frames=0)
    with pytest.raises(ParameterError, match="'rows' parameter"):
        MotionCells(rows=0)
