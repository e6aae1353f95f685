"""From a manifest back to the extractor that writes it."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.manifest import Manifest
from lego_fusion.data.video import Frame
from lego_fusion.errors import DataError, ManifestError, ParameterError
from lego_fusion.extract.appearance import Appearance
from lego_fusion.extract.audio import Audio
from lego_fusion.extract.base import Extractor, FrameExtractor
from lego_fusion.extract.motion import Motion, MotionCells, MotionFrames
from lego_fusion.extract.onnx import OnnxImage
from lego_fusion.extract.registry import EXTRACTORS, column_names, extractor_for, make_extractor
from lego_fusion.extract.text import Text
from lego_fusion.own_parts import ALLOWED

MADE = [
    Motion(bins=4, per="frame"),
    Appearance(cells=(3, 5), frames_per_snippet=2),
    Audio(bands=32),
    MotionCells(rows=3, columns=4, per="frame"),
    MotionFrames(frames=8, longest_side=64),
]


@pytest.mark.parametrize("extractor", MADE, ids=lambda one: one.name)
def test_the_way_back_gives_the_same_manifest(extractor: Extractor) -> None:
    manifest = Manifest.model_validate_json(extractor.manifest("any", 8, 4).model_dump_json())
    assert extractor_for(manifest).manifest("any", 8, 4) == manifest


def test_networks_are_found_where_they_lie_and_must_be_the_same(
    shared_data: Path, tiny_text_model: Path, tmp_path: Path
) -> None:
    path = shared_data / "weights" / "squeezenet_v1.0_embedding.onnx"
    pytest.importorskip("onnxruntime", reason="pip install 'lego-fusion[onnx]'")
    image, text = OnnxImage(path, frames_per_snippet=2).manifest("a"), Text(tiny_text_model).manifest("t")
    assert extractor_for(image, model=path).manifest("a") == image
    assert extractor_for(text, model=tiny_text_model).manifest("t") == text
    with pytest.raises(ParameterError, match=r"needs its network \(a\): expected the file squeezenet"):
        extractor_for(image)
    with pytest.raises(ManifestError, match=r"another way .*weights_hash"):
        extractor_for(image.model_copy(update={"weights_hash": "0" * 64}), model=path)


def test_an_extractor_is_made_by_name_and_what_is_unknown_is_listed() -> None:
    assert make_extractor("appearance", {"cells": [3, 5]}, modality="hog").settings == Appearance(cells=(3, 5)).settings
    with pytest.raises(ParameterError, match=r"no such extractor \(nose\): expected motion, .*got smell"):
        make_extractor("smell", {}, modality="nose")
    with pytest.raises(ParameterError, match=r"unexpected keyword argument 'speed' \(m\): expected longest_side"):
        make_extractor("motion", {"speed": 1}, modality="m")
    with pytest.raises(ParameterError, match=r"missing a required argument: 'path' \(net\)"):
        make_extractor("onnx", {}, modality="net")


def test_unknown_extractors_settings_and_versions_are_refused() -> None:
    manifest = Motion().manifest("m")
    names = "motion, appearance, onnx, text, audio, motion-cells, motion-frames, words"
    with pytest.raises(ParameterError, match=f"no such extractor .*{names}, got imported"):
        extractor_for(manifest.model_copy(update={"extractor": "imported"}))
    with pytest.raises(DataError, match="settings of another version"):
        extractor_for(manifest.model_copy(update={"settings": {"speed": 1}}))
    with pytest.raises(ManifestError, match=f"version: '0' against '{Motion.version}'"):
        extractor_for(manifest.model_copy(update={"version": "0"}))


OWN = """
from dataclasses import dataclass
from functools import cached_property
import numpy as np
from lego_fusion.extract.base import FrameExtractor

@dataclass
class Brightness(FrameExtractor):
    quantiles: int = 4
    width = property(lambda self: self.quantiles)

    @cached_property
    def levels(self):
        return (level for level in np.linspace(0, 1, self.quantiles))  # which cannot be pickled

    def columns(self):
        return tuple(f"quantile {number}" for number in range(self.quantiles))

    def snippet(self, frames, before):
        return np.quantile(frames[-1].image, list(self.levels))
"""


def test_an_own_extractor_is_a_dataclass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "")
    (tmp_path / "own.py").write_text(OWN)
    extractor = make_extractor(f"{tmp_path / 'own.py'}:Brightness", {"quantiles": 3}, modality="light")
    manifest = extractor.manifest("light")
    assert (manifest.settings, manifest.width, manifest.version) == ({"quantiles": 3}, 3, "1")
    assert extractor_for(manifest).manifest("light") == manifest
    assert column_names(manifest) == ("quantile 0", "quantile 1", "quantile 2")
    assert extractor.levels is extractor.levels
    sent = pickle.loads(pickle.dumps(extractor))  # noqa: S301 - as to a worker
    row = sent.snippet([Frame(0, 0.0, np.arange(12, dtype=np.uint8).reshape(2, 2, 3))], None)
    assert row.tolist() == [0.0, 5.5, 11.0]
    with pytest.raises(ParameterError, match=r"unexpected keyword argument 'bins' \(light\): expected quantiles"):
        make_extractor(manifest.extractor, {"bins": 3}, modality="light")
    monkeypatch.setenv(ALLOWED, "")
    assert column_names(manifest.model_copy(update={"extractor": f"{manifest.extractor[:-1]}?"})) == (
        "column 0",
        "column 1",
        "column 2",
    )


@pytest.mark.parametrize("kind", [kind for kind in EXTRACTORS.values() if kind in (Motion, Appearance)])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_every_extractor_without_a_network_keeps_the_contract(
    kind: type[FrameExtractor], count: int, texture: np.ndarray, make_frames: Callable[..., list[Frame]]
) -> None:
    frames = make_frames(np.stack([texture[i : i + 60, 2 * i : 2 * i + 90] for i in range(count)]))
    extractor = kind()
    first, second = extractor.snippet(frames, None), kind().snippet(frames, None)
    assert first.shape == (extractor.width,)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    assert extractor.manifest("m").width == extractor.width
    assert len(extractor.columns()) == extractor.width
