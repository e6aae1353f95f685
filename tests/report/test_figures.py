"""The figure of shares over steps: written whole, in both formats, or one clear line."""

from xml.etree import ElementTree

import pytest

from lego_fusion.errors import DataError
from lego_fusion.report.figures import share_lines

pytest.importorskip("matplotlib", reason="pip install 'lego-fusion[report]'")


def test_a_figure_names_every_line(tmp_path):
    shares = {f"modality {number}": [0.1 * number, 0.2, -0.1] for number in range(9)}  # more lines than colours
    share_lines(tmp_path / "shares.svg", [0, 50, 100], shares, title="Ped2")
    text = (tmp_path / "shares.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")  # noqa: S314 - written a line above
    assert all(name in text for name in (*shares, "training step", "Ped2"))
    share_lines(tmp_path / "shares.png", [0], {"motion": [1.0]})
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_named(tmp_path):
    with pytest.raises(DataError, match=r"shares and steps do not belong together \(text\): expected 2 shares, got 1"):
        share_lines(tmp_path / "a.png", [0, 1], {"motion": [1.0, 0.0], "text": [0.5]})
    with pytest.raises(DataError, match="expected 0 shares, got none"):
        share_lines(tmp_path / "a.png", [], {})
    assert not list(tmp_path.iterdir())
