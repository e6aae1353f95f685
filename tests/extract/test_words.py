"""Words: one unit per different word of the caption that covers most of a snippet."""

import numpy as np
import pytest

from lego_fusion.data.segments import split_presence
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.extract.captions import Caption
from lego_fusion.extract.registry import extractor_for
from lego_fusion.extract.text import Text, Words


@pytest.fixture(scope="module")
def words(tiny_text_model) -> Words:
    return Words(tiny_text_model, words=5)


def rows(words: Words, *captions: Caption, frames: int = 16, length: int = 8):
    return split_presence(words.rows(captions, frames, length, length))


def test_each_different_word_is_a_unit_in_order(words):
    assert words.words_of("A person, a cart.") == ("a", "person", "cart")
    values, present = rows(words, Caption(0, 8, "A person, a cart."), Caption(8, 16, "runs by"))
    assert values.shape == (2, 5, 16) and present.tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]


def test_words_are_the_tokens_of_the_encoder(words, tiny_text_model):
    """The mean over all tokens, markers included, is the sentence embedding of a model that pools by the mean."""
    values, present = rows(words, Caption(0, 16, "person walks by"), length=16)
    network = words._network
    tokens = network.encode(["person walks by"], output_value="token_embeddings")[0].cpu().numpy()
    np.testing.assert_allclose(values[0][present[0]], tokens[1:-1], atol=1e-5)
    np.testing.assert_allclose(tokens.mean(axis=0), Text(tiny_text_model).encode(["person walks by"])[0], atol=1e-5)


def test_a_word_that_comes_twice_is_its_mean(words):
    values, _ = rows(words, Caption(0, 16, "cart cart"), length=16)
    tokens = words._network.encode(["cart cart"], output_value="token_embeddings")[0].cpu().numpy()
    np.testing.assert_allclose(values[0, 0], tokens[1:3].mean(axis=0), atol=1e-5)


def test_the_caption_of_most_frames_speaks_and_the_first_of_several(words):
    most = rows(words, Caption(0, 3, "runs"), Caption(3, 8, "cart"), frames=8)[0]
    np.testing.assert_array_equal(most, rows(words, Caption(0, 8, "cart"), frames=8)[0])
    tie = rows(words, Caption(0, 4, "runs"), Caption(4, 8, "cart"), frames=8)[0]
    np.testing.assert_array_equal(tie, rows(words, Caption(0, 8, "runs"), frames=8)[0])


def test_gaps_and_too_many_words(words, tiny_text_model):
    with pytest.raises(DataError, match="a snippet has no caption"):
        rows(words, Caption(0, 8, "cart"))
    _, present = rows(Words(tiny_text_model, words=2, gaps="empty"), Caption(0, 8, "a person walks by"))
    assert present.tolist() == [[True, True], [False, False]]
    assert not rows(words, Caption(0, 16, "..."))[1].any()  # a caption without a word
    with pytest.raises(ParameterError, match="'words' parameter of Words"):
        Words(tiny_text_model, words=0)


def test_the_way_back_from_a_manifest(words, tiny_text_model):
    manifest = words.manifest("words")
    assert manifest.unit_kind == "word" and manifest.units == 5 and manifest.row_shape == (5, 17)
    assert extractor_for(manifest, model=tiny_text_model).manifest("words") == manifest
