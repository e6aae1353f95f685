"""The page of a dissection: its words follow the numbers, whatever was and was not measured."""

import base64
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lego_fusion.dissection.concepts import LevelConcepts
from lego_fusion.dissection.dissect import dissect
from lego_fusion.dissection.records import Ablation, Dissection
from lego_fusion.report.dissection_files import dissection_document, save_dissection
from lego_fusion.report.dissection_page import dissection_page, gallery_uri, outline, png_uri
from lego_fusion.report.dissection_words import collaboration_words, consistency_words, evolution_words


class Streams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)) for _ in range(3))

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        return [self.a(a), self.b(b), self.c(c)]


CHECK = Ablation("level 1", "a", "shared", (1, 2), 0.8, 0.5, -0.3, -0.35, -0.25)


def made(modalities: str = "ab", levels: int = 2, **settings: Any) -> Dissection:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (16, 6, 6))
    inputs = {name: torch.rand(16, 1, 6, 6) + (labels == place)[:, None] for place, name in enumerate("abc")}
    layers = {name: [f"{name}.{place}" for place in range(levels)] for name in modalities}
    quick: dict[str, Any] = {"quantile": 0.05, "resamples": 9, "permutations": 9, "shuffles": 2} | settings
    return dissect(Streams().eval(), layers, [(inputs, labels)], ["x", "y", "z"], **quick)


@pytest.fixture(scope="module")
def found() -> Dissection:
    return made()


def with_sets(found: Dissection, *levels: tuple[str, str, str | None]) -> Dissection:
    sets = tuple(
        LevelConcepts(f"level {place + 1}", {"a": frozenset(a), "b": frozenset(b)}, None if f is None else frozenset(f))
        for place, (a, b, f) in enumerate(levels)
    )
    return replace(found, sets=sets)


def test_words_name_what_is_shared_and_special(found: Dissection) -> None:
    told = " ".join(consistency_words(with_sets(found, ("x", "y", None), ("xy", "yz", "yz"))))
    assert "Both modalities detect 1 of 3 concepts at level 2: y." in told
    assert "a alone detects x." in told
    assert "b alone detects z." in told
    alone = " ".join(consistency_words(with_sets(found, ("x", "y", None), ("x", "xy", None))))
    assert "a alone detects nothing." in alone


def test_words_follow_levels_and_the_fused_layer(found: Dissection) -> None:
    sets = with_sets(found, ("x", "", None), ("xy", "yz", "yz"))
    told = " ".join(evolution_words(sets))
    assert "in a from 1 to 2, in b from 0 to 2" in told
    assert "from 0.00 to 0.33" in told
    kept = " ".join(collaboration_words(sets))
    assert "keeps 1 of 1 shared and 1 of 2 special concepts" in kept
    assert "not known without streams trained apart" in kept


def test_nothing_detected_is_said_and_not_counted_as_agreement(found: Dissection) -> None:
    empty = with_sets(found, ("", "", None), ("", "", ""))
    assert "no unit of any modality detects a concept" in consistency_words(empty)[0]
    assert "none (nothing detected)" in evolution_words(empty)[0]
    page = dissection_page(empty)
    assert "no concept" in page


@pytest.mark.parametrize("mode", ["normalised", "stock", "auroc"])
@pytest.mark.parametrize(("modalities", "levels"), [("ab", 1), ("abc", 2)])
def test_every_size_has_a_page_and_tables(tmp_path: Path, modalities: str, levels: int, mode: str) -> None:
    one = made(modalities, levels, mode=mode, shuffles=0 if levels == 1 else 2)
    files = save_dissection(tmp_path, one)
    assert all(path.stat().st_size for path in files.values())
    assert len(consistency_words(one)) >= len(modalities) + 2 or not one.sets[-1].union


def test_causal_checks_are_shown_where_there_are_any(found: Dissection) -> None:
    assert "Causal check" not in dissection_page(found)
    one = replace(found, ablation=(CHECK, replace(CHECK, group="random", change=-0.01)))
    page = dissection_page(one)
    assert "Causal check" in page
    assert "shared units of a at level 1 −0.300" in collaboration_words(one)[-1]
    assert dissection_document(one)["ablation"][0]["change"] == -0.3


def test_the_document_holds_plain_values_only(found: Dissection) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(inner) for key, inner in value.items())
        return all(map(plain, value)) if isinstance(value, list) else value is None or isinstance(value, str | int | float)

    assert plain(dissection_document(found))


def test_a_picture_is_a_png_whose_pixels_come_back() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = base64.b64decode(png_uri(image).removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    rows = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8).reshape(5, -1)
    np.testing.assert_array_equal(rows[:, 1:].reshape(5, 7, 3), image)
    assert not rows[:, 0].any()


def test_large_pictures_are_made_small_and_masks_follow() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3, 1:3] = True
    for channels in (1, 2, 3, 5):
        uri = gallery_uri(np.full((channels, 300, 200), 0.5, np.float32), mask)
        header = base64.b64decode(uri.removeprefix("data:image/png;base64,"))[16:24]
        assert (int.from_bytes(header[4:], "big"), int.from_bytes(header[:4], "big")) == (75, 50)
    assert outline(mask).sum() == 8
    assert not outline(np.ones((3, 3), dtype=bool)).any()
