"""Similarity of recordings, and verdicts on streams whose concepts are planted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lego_fusion.dissection.alignment import UnitAlignment, align
from lego_fusion.dissection.collaboration import APART, UNTRAINED, Streams, collaboration
from lego_fusion.dissection.concepts import Concepts
from lego_fusion.dissection.recorder import Recorder, Recording
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.similarity import cka, similarity_matrix

NAMES = tuple("abcdef")
MASKS = np.random.default_rng(100).random((20, 6, 8, 8)) < 0.15
CONCEPTS = Concepts.from_masks(MASKS, NAMES)


def detector_maps(detected: str, seed: int) -> np.ndarray:
    """One unit for each concept it is to detect, and two that detect nothing."""
    noise = np.random.default_rng(seed).random((20, len(detected) + 2, 8, 8))
    chosen = MASKS[:, [NAMES.index(name) for name in detected]]
    noise[:, : len(detected)] += chosen
    return noise


def aligned(detected: str, seed: int = 0) -> UnitAlignment:
    return align(detector_maps(detected, seed), CONCEPTS, quantile=0.05)


def streams(first: str, second: str, seed: int = 0) -> Streams:
    maps = {("rgb", "late"): detector_maps(first, seed), ("depth", "late"): detector_maps(second, seed + 1)}
    alignments = {key[0]: {"late": align(values, CONCEPTS, quantile=0.05)} for key, values in maps.items()}
    arrays = {key: values.astype(np.float32) for key, values in maps.items()}
    return Streams(Recording(arrays, {key: key[0] for key in maps}, "spatial"), alignments)


@pytest.mark.parametrize(
    ("joint", "apart", "fused", "verdict", "trend"),
    [
        (("abcd", "cdef"), ("abcd", "cdef"), "abcdef", "keeps what it was given", None),
        (("abcd", "cdef"), ("abc", "cde"), "abcdef", "hybrid rule", None),
        (("abcd", "abcd"), ("abcd", "cdef"), "abcd", "alignment", "alignment"),
        (("abc", "def"), ("abcd", "cdef"), "ad", "division of labour", "division of labour"),
        (("abcd", "cdef"), ("abcd", "cdef"), "cd", "undecided", None),
        (("abcde", "bcdef"), ("abc", "def"), "abcdef", "alignment", "alignment"),
        (("abcde", "bcdef"), ("abc", "de"), "abcdef", "hybrid rule", "alignment"),
        (("", ""), ("abc", "def"), "abc", "undecided", None),
        (("abcd", "cdef"), ("abcd", "cdef"), None, "undecided", None),
    ],
)
def test_verdicts_follow_what_was_planted(
    joint: tuple[str, str], apart: tuple[str, str], fused: str | None, verdict: str, trend: str | None
) -> None:
    layer = None if fused is None else {"late": aligned(fused)}
    untrained = [{"late": aligned("", seed)} for seed in (30, 31, 32)]
    (found,) = collaboration(streams(*joint), streams(*apart, seed=5), layer, untrained=untrained)
    assert (found.verdict, found.trend) == (verdict, trend)
    assert found.joint.shared == set(joint[0]) & set(joint[1])
    assert found.apart.union == set(apart[0]) | set(apart[1])
    shared, special = set(joint[0]) & set(joint[1]), set(joint[0]) ^ set(joint[1])
    for kept, wanted in ((found.shared_kept, shared), (found.special_kept, special)):
        if fused is None or not wanted:
            assert kept is None
        else:
            assert kept == pytest.approx(len(wanted & set(fused)) / len(wanted))
    assert any("J says nothing" in line for line in found.evidence()) == (not joint[0])


def test_a_gain_is_the_mean_over_the_concepts_of_the_streams_of_the_best_unit() -> None:
    """Streams trained apart lack f: the gain is a sixth of what the fused unit for it has more than their best other unit."""
    together, apart, fused = streams("abcd", "cdef"), streams("abcd", "cde", seed=5), aligned("abcdef", 9)
    never = [{"late": aligned("", seed)} for seed in (30, 31, 32)]
    (found,) = collaboration(together, apart, {"late": fused}, untrained=never)
    units = [row["late"].counts.total().scores("normalised") for row in apart.alignments.values()]
    held = fused.counts.total().scores("normalised").max(axis=0)
    assert found.gains[APART].value == pytest.approx((held - np.vstack(units).max(axis=0)).mean())
    assert found.gains[APART].low > 0
    assert found.gains[UNTRAINED].value > found.gains[APART].value
    assert found.verdict == "hybrid rule"
    values = [row["late"].counts.total().scores("normalised").max(axis=0).mean() for row in never]
    spread = np.std(values, ddof=1) * 4.302653  # t(0.975; 2)
    assert found.gains[UNTRAINED].value - found.gains[UNTRAINED].low > spread * (1 + 1 / 3) ** 0.5
    assert found.gains[APART].value - found.gains[APART].low > spread * 2**0.5
    for few in ((), never[:1]):
        (without,) = collaboration(together, apart, {"late": fused}, untrained=few)
        assert (without.verdict, without.gains) == ("keeps what it was given", {})
        assert any("no hybrid rule can be told" in line for line in without.evidence())


def test_random_filters_beside_their_concatenation_follow_no_hybrid_rule() -> None:
    """A concatenation keeps everything by construction: 20 of 20 pairs of filters that nobody trained do, and none gains."""

    def filters(seed: int, modality: int) -> np.ndarray:
        weights = torch.randn(6, 6, 3, 3, generator=torch.Generator().manual_seed(100 * seed + modality))
        inputs = torch.from_numpy(detector_maps("abcdef", modality)[:, :6]).float()
        return torch.conv2d(inputs, weights, padding=1).numpy()

    def side(seed: int) -> tuple[Streams, dict[str, UnitAlignment]]:
        maps = {name: filters(seed, number) for number, name in enumerate(("rgb", "depth"))}
        rows = {name: {"late": align(values, CONCEPTS, quantile=0.05)} for name, values in maps.items()}
        arrays = {(name, "late"): values for name, values in maps.items()}
        both = {"late": align(np.concatenate(list(maps.values()), axis=1), CONCEPTS, quantile=0.05)}
        return Streams(Recording(arrays, {key: key[0] for key in arrays}, "spatial"), rows), both

    sides, verdicts = [side(seed) for seed in range(24)], []
    for number in range(20):
        (together, fused), (apart, _) = sides[number], sides[number + 1]
        never = [both for _, both in sides[number + 2 : number + 5]]
        (found,) = collaboration(together, apart, fused, untrained=never, cut=0.1, resamples=100)
        assert found.special_kept in (1.0, None)
        assert found.shared_kept in (1.0, None)
        verdicts.append(found.verdict)
    assert "hybrid rule" not in verdicts
    assert verdicts.count("keeps what it was given") > 3


def test_the_same_training_twice_changes_nothing() -> None:
    side = streams("abcd", "cdef")
    (found,) = collaboration(side, side)
    assert (found.similarity_joint, found.joint) == (found.similarity_apart, found.apart)
    assert found.kept_by_training == pytest.approx({"rgb": 1.0, "depth": 1.0})
    assert found.verdict == "undecided"


def test_similarities_are_those_of_the_measure() -> None:
    recording = streams("abcd", "cdef").recording
    matrix = similarity_matrix(recording.pooled(), recording.pooled())
    assert matrix.names_a == ("rgb late", "depth late")
    rgb, depth = (recording[modality, "late"] for modality in ("rgb", "depth"))
    assert matrix.values[0, 1] == pytest.approx(cka(rgb.mean((2, 3)), depth.mean((2, 3))), abs=1e-6)


def test_from_a_network_to_the_sets(tmp_path: Path) -> None:
    """A network that copies the masks it is shown detects them, from memory and from disk."""
    model = nn.Conv2d(6, 6, 1, bias=False).eval()
    with torch.no_grad():
        model.weight.copy_(torch.eye(6)[:, :, None, None] * torch.tensor([1.0, 1, 1, 0, 0, 0])[:, None, None, None])
    images = torch.from_numpy(detector_maps("abcdef", 0)[:, :6]).float()
    recorder = Recorder(nn.Sequential(model).eval(), {"rgb": {"late": "0"}})
    for folder in (None, tmp_path / "recording"):
        recording = recorder.record(images.split(7), "spatial", folder=folder)
        found = align(recording["rgb", "late"], CONCEPTS, quantile=0.05)
        assert found.detected() == set("abc")
        pooled = recorder.record(images.split(7)).pooled()
        assert similarity_matrix(pooled, pooled).values.tolist() == [[pytest.approx(1)]]


def test_streams_that_cannot_be_compared_are_refused() -> None:
    side = streams("abcd", "cdef")
    with pytest.raises(ParameterError, match=r"no level 'early' to compare a fused layer with: expected \['late'\]"):
        collaboration(side, side, {"early": aligned("a")})
    row = side.alignments["rgb"]["late"]
    one = Streams(side.recording, {"rgb": {"late": row}})
    with pytest.raises(DataError, match="between two modalities: expected 2, got 1"):
        collaboration(one, one)
    with pytest.raises(DataError, match="differ in modalities or levels"):
        collaboration(side, Streams(side.recording, {"rgb": {"late": row}, "depth": {"early": row}}))
    uneven = Streams(side.recording, {"rgb": {"late": row}, "depth": {"late": row, "later": row}})
    with pytest.raises(ParameterError, match=r"different numbers of levels: expected as many in each.*got rgb 1, depth 2"):
        collaboration(uneven, uneven)
    other = Streams(side.recording, {"rgb": {"last": row}, "depth": {"last": row}})
    with pytest.raises(DataError, match="nothing was recorded for rgb last"):
        collaboration(other, other)
    short = Recording({key: values[:9] for key, values in side.recording.arrays.items()}, {}, "spatial")
    with pytest.raises(DataError, match="samples"):
        collaboration(side, Streams(short, side.alignments))
