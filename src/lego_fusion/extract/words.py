"""What is said about a snippet, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32
from pydantic import JsonValue

from ..data.manifest import UnitKind
from ..data.units import with_presence
from ..errors import DataError, check_int
from .base import snippet_spans
from .captions import Caption
from .text import DEFAULT_MODEL, Text, _quiet, caption_weights

Embedded = tuple[tuple[str, ...], Float32[np.ndarray, "words width"]]


class Words(Text):
    """Describe a snippet by the words of one caption: each word's embedding in its sentence.

    The caption is the one that covers most of the snippet's frames, the first of several. Each word is the mean of the token
    embeddings of its word pieces (last layer of the sentence encoder, before pooling); punctuation is left out, and a word
    that comes twice is there once, as the mean. Of a caption with more than ``words`` different words the first are kept;
    what a caption lacks of ``words`` is absent.

    Args:
        model: As in ``Text``.
        words: U, words kept of a caption, in [1, 1024].
        gaps: A snippet without a caption is an ``"error"``, takes the ``"nearest"`` one, or stays ``"empty"`` (no word).
        download: As in ``Text``.
        batch_size: As in ``Text``.
        device: As in ``Text``.
    """

    name: ClassVar[str] = "words"
    version: ClassVar[str] = "1"
    unit_kind: ClassVar[UnitKind] = "word"

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        words: int = 80,
        gaps: str = "error",
        download: bool = False,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        super().__init__(model, gaps=gaps, download=download, batch_size=batch_size, device=device)
        self.words = check_int(words, "words", "Words", low=1, high=1024)
        self._words: dict[str, Embedded] = {}

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Everything that was chosen and changes the numbers."""
        return {**super().settings, "words": self.words}

    @property
    def units(self) -> int:
        """U, words kept of a caption."""
        return self.words

    def rows(
        self, captions: Sequence[Caption], frames: int, snippet_frames: int, stride: int
    ) -> Float32[np.ndarray, "snippets units width_and_1"]:
        """Describe every snippet of a video of ``frames`` frames, see the class.

        Raises:
            DataError: A snippet has no caption and ``gaps`` is ``"error"``, or there is no caption at all.
        """
        texts = list(dict.fromkeys(caption.text for caption in captions))
        values = np.zeros((len(snippet_spans(frames, snippet_frames, stride)), self.words, self.width), dtype=np.float32)
        present = np.zeros(values.shape[:2], dtype=bool)
        weights = caption_weights(captions, texts, frames, snippet_frames, stride, gaps=self.gaps).toarray()
        chosen = {row: texts[int(shares.argmax())] for row, shares in enumerate(weights) if shares.any()}
        self._embed(list(chosen.values()))
        for row, text in chosen.items():
            embeddings = self._words[text][1][: self.words]
            values[row, : len(embeddings)] = embeddings
            present[row, : len(embeddings)] = True
        return with_presence(values, present)

    def words_of(self, text: str) -> tuple[str, ...]:
        """The different words of a caption, in the order of their units."""
        self._embed([text])
        return self._words[text][0][: self.words]

    def _embed(self, texts: Sequence[str]) -> None:
        new = sorted({text for text in texts if text not in self._words})
        if not new:
            return
        with _quiet():
            tokens = self._network.encode(
                new, batch_size=self.batch_size, show_progress_bar=False, output_value="token_embeddings"
            )
            tokenizer, longest = self._network.tokenizer, self._network.max_seq_length
            for text, embeddings in zip(new, tokens, strict=True):
                encoded = tokenizer(text.strip(), truncation=True, max_length=longest)
                self._words[text] = _by_word(text.strip(), encoded, np.asarray(embeddings.cpu(), dtype=np.float32))


def _by_word(text: str, encoded: Any, embeddings: Float32[np.ndarray, "tokens width"]) -> Embedded:
    """Average the tokens of each different word."""
    if not encoded.is_fast or len(encoded["input_ids"]) != len(embeddings):
        raise DataError(
            "the tokens of a caption cannot be told apart by word",
            where=repr(text[:40]),
            expected="a model with a fast tokenizer",
            got=f"{len(encoded['input_ids'])} tokens, {len(embeddings)} embeddings",
            fix="use another text model",
        )
    tokens: dict[str, list[int]] = {}
    for token, word in enumerate(encoded.word_ids()):
        if word is None:  # what marks the start and the end of a sentence
            continue
        span = encoded.word_to_chars(word)
        spelled = text[span.start : span.end].lower()
        if any(letter.isalnum() for letter in spelled):
            tokens.setdefault(spelled, []).append(token)
    if not tokens:
        return (), np.zeros((0, embeddings.shape[1]), dtype=np.float32)
    return tuple(tokens), np.stack([embeddings[places].mean(axis=0) for places in tokens.values()])
