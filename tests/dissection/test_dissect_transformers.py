"""Transformers, saved to a folder and loaded by the code that loads those of a hub, dissected token by token."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lego_fusion.dissection.dissect import dissect
from lego_fusion.dissection.records import Dissection
from lego_fusion.errors import DataError

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'lego-fusion[text]'")

LAYERS = {"video": "video.encoder.layer.*", "text": "text.encoder.layer.*"}
SAMPLES, WORDS, PATCHES = 24, 6, 8
QUICK: dict[str, Any] = {"quantile": 0.1, "resamples": 9, "permutations": 9, "shuffles": 4, "dtype": "float32"}


class VideoAndText(nn.Module):
    def __init__(self, video: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.video, self.text, self.joint = video, text, nn.Identity()

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        seen = self.video(pixel_values=pixel_values).last_hidden_state
        read = self.text(input_ids=input_ids).last_hidden_state
        return self.joint(torch.cat([seen, read], 1))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> VideoAndText:
    """Two tiny models of the library, through files."""
    root = tmp_path_factory.mktemp("models")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    video = transformers.VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, tubelet_size=2, **size)
    text = transformers.BertConfig(vocab_size=30, max_position_embeddings=16, **size)
    transformers.VideoMAEModel(video).save_pretrained(root / "video")
    transformers.BertModel(text).save_pretrained(root / "text")
    load = transformers.AutoModel.from_pretrained
    return VideoAndText(*(load(root / name, local_files_only=True) for name in ("video", "text"))).eval()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(3, 9, (SAMPLES, WORDS), generator=generator)
    return {"pixel_values": torch.randn(SAMPLES, 4, 3, 16, 16, generator=generator), "input_ids": words}


def batches(inputs: dict[str, Tensor], labels: Any, size: int = 10) -> list[tuple[dict[str, Tensor], Any]]:
    def part(value: Any, start: int) -> Any:
        return (
            {name: x[start : start + size] for name, x in value.items()}
            if isinstance(value, dict)
            else value[start : start + size]
        )

    return [(part(inputs, start), part(labels, start)) for start in range(0, SAMPLES, size)]


@pytest.fixture(scope="module")
def by_token(network: VideoAndText, inputs: dict[str, Tensor]) -> Dissection:
    """Each token has its own label, and video and text different numbers of them."""
    labels = {"text": inputs["input_ids"] % 3, "video": (torch.arange(PATCHES) % 3).expand(SAMPLES, -1)}
    return dissect(network, LAYERS, batches(inputs, labels), ["a", "b", "c"], kind="tokens", **QUICK)


def test_units_align_with_tokens_as_counted_from_the_hidden_states(
    network: VideoAndText, inputs: dict[str, Tensor], by_token: Dissection
) -> None:
    with torch.no_grad():
        states = network.text(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states
    values, truth = states[2].reshape(-1, 16).numpy(), (inputs["input_ids"] % 3).flatten().numpy()
    kept = int(0.1 * len(values))
    found = by_token.alignments["text"]["level 2"]
    for unit in (0, 7, 15):
        active = values[:, unit] > np.sort(values[:, unit])[::-1][kept]
        for concept in range(3):
            both, either = (active & (truth == concept)).sum(), (active | (truth == concept)).sum()
            assert found.overlap.iou[unit, concept] == pytest.approx(both / either)
    assert found.overlap.pixels == SAMPLES * WORDS
    assert by_token.alignments["video"]["level 1"].overlap.pixels == SAMPLES * PATCHES


def test_everything_that_images_have_tokens_have(by_token: Dissection) -> None:
    assert by_token.variance.profiles.shape == (2, 2, 3)
    assert sum(by_token.variance.shares.parts.values()) == pytest.approx(1)
    assert by_token.similarity.names_a == ("video level 1", "video level 2", "text level 1", "text level 2")
    assert {one.level for one in by_token.sets} == {"level 1", "level 2"}
    assert not by_token.galleries


def test_results_do_not_depend_on_batches(network: VideoAndText, inputs: dict[str, Tensor], by_token: Dissection) -> None:
    labels = {"text": inputs["input_ids"] % 3, "video": (torch.arange(PATCHES) % 3).expand(SAMPLES, -1)}
    other = dissect(network, LAYERS, batches(inputs, labels, 7), ["a", "b", "c"], kind="tokens", **QUICK)
    np.testing.assert_allclose(other.variance.profiles, by_token.variance.profiles, atol=1e-6)
    assert other.sets == by_token.sets


def test_a_label_of_a_sample_holds_for_all_its_tokens(network: VideoAndText, inputs: dict[str, Tensor]) -> None:
    labels = torch.arange(SAMPLES) % 3
    masks = torch.nn.functional.one_hot(labels, 3).bool()
    tokens = {"text": WORDS, "video": PATCHES, "fused": WORDS + PATCHES}
    spread = {name: labels[:, None].expand(-1, count) for name, count in tokens.items()}
    one, *others = (
        dissect(network, LAYERS, batches(inputs, given), ["a", "b", "c"], kind="tokens", fused="joint", **QUICK)
        for given in (labels, masks, spread)
    )
    for other in others:
        np.testing.assert_array_equal(one.variance.profiles, other.variance.profiles)
        np.testing.assert_array_equal(one.fused["level 2"].overlap.iou, other.fused["level 2"].overlap.iou)
    assert one.fused["level 2"].overlap.pixels == SAMPLES * (WORDS + PATCHES)


def test_pooled_activations_have_one_place(network: VideoAndText, inputs: dict[str, Tensor]) -> None:
    found = dissect(network, LAYERS, batches(inputs, torch.arange(SAMPLES) % 3), ["a", "b", "c"], kind="pooled", **QUICK)
    with torch.no_grad():
        state = network.video(pixel_values=inputs["pixel_values"], output_hidden_states=True).hidden_states[1]
    values = state.mean(1).numpy()
    one = found.alignments["video"]["level 1"]
    np.testing.assert_allclose(one.peaks, values, atol=1e-5)
    np.testing.assert_allclose(one.thresholds, np.sort(values, axis=0)[::-1][2], atol=1e-5)


def test_labels_of_another_number_of_tokens_are_refused(network: VideoAndText, inputs: dict[str, Tensor]) -> None:
    labels = torch.zeros(SAMPLES, WORDS, dtype=torch.int64)
    with pytest.raises(DataError, match=r"another number of tokens \(video\): expected 8 tokens, got 6"):
        dissect(network, LAYERS, batches(inputs, labels), ["a"], kind="tokens", **QUICK)
