"""A heat map over its frame: the picture that is written, and what is refused."""

import numpy as np
import pytest

from lego_fusion.errors import DataError
from lego_fusion.report.figures import heat_map

pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")


def test_the_hot_cell_is_bright_and_the_cool_ones_show_the_frame(tmp_path):
    from matplotlib.image import imread

    frame, heat = np.full((60, 90, 3), 120, np.uint8), np.zeros((2, 3))
    heat[1, 2] = 1.0
    mask = np.zeros((60, 90), bool)
    mask[40:50, 70:80] = True
    heat_map(tmp_path / "heat.png", [("a", frame, heat), ("b", frame, heat[::-1]), ("c", frame, 0 * heat)], masks=[mask, None])
    drawn = imread(tmp_path / "heat.png")[..., :3]
    plain = (np.abs(drawn - 120 / 255) < 0.02).all(axis=-1)
    assert plain.mean() > 0.25  # cool cells show the frame as it is
    assert (drawn[..., :2].min(axis=-1) > 0.75).mean() > 0.02


def test_without_a_picture_there_is_nothing_to_draw(tmp_path):
    with pytest.raises(DataError, match="no picture to draw"):
        heat_map(tmp_path / "heat.png", [])
    assert not (tmp_path / "heat.png").exists()
