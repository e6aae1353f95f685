"""Footage unlike the training footage is told; an event in familiar footage is not."""

import pytest
import torch

from lego_fusion.detect.familiarity import UNLIKE, distance_ratios, unlike_training
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion

V, N = 12, 8


def bags(shift: float = 0.0, spread: float = 1.0, seed: int = 0, videos: int = V) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: shift + spread * torch.randn(videos, N, width, generator=generator)
        for name, width in (("motion", 4), ("text", 6))
    }


@pytest.fixture
def fusion() -> LegoFusion:
    made = LegoFusion({"motion": 4, "text": 6}, nodes=N, references=8, relations={"motion": "gaussian", "text": "cosine"})
    made.fit_statistics(bags(), torch.zeros(V, dtype=torch.bool), torch.arange(V))
    return made


def test_the_ratio_is_one_at_the_furthest_reference(fusion: LegoFusion) -> None:
    known = {name: fusion.relation[name].references[None] for name in ("motion", "text")}
    for ratio in distance_ratios(fusion, known).values():
        assert float(ratio.max()) == pytest.approx(1.0)


def test_new_footage_of_the_same_kind_is_familiar_and_another_camera_is_not(fusion: LegoFusion) -> None:
    assert unlike_training(fusion, bags(seed=1, videos=1)) == []
    other = bags(seed=1, videos=1) | {"motion": bags(shift=20.0, seed=1, videos=1)["motion"]}
    (line,) = unlike_training(fusion, other)
    assert "unlike the training footage in motion" in line


def test_an_event_in_less_than_half_of_the_video_does_not_count(fusion: LegoFusion) -> None:
    video = bags(seed=1, videos=1)
    video["motion"][:, : N // 2 - 1] += 50.0
    assert unlike_training(fusion, video) == []
    video["motion"][:, : N // 2 + 1] += 50.0
    assert len(unlike_training(fusion, video)) == 1


def test_scaling_a_column_of_everything_changes_nothing() -> None:
    ratios = []
    for scale in (1.0, 100.0):
        factor = torch.tensor([scale, 1.0, 1.0, 1.0])
        train = bags()["motion"] * factor
        fusion = LegoFusion({"motion": 4}, nodes=N, references=8, relations="cosine")
        fusion.fit_statistics({"motion": train}, torch.zeros(V, dtype=torch.bool), torch.arange(V))
        relation = fusion.relation["motion"]
        relation.column_scale.copy_(train.flatten(0, 1).std(0))  # without the shrinkage, which is for small columns
        relation.references.copy_(train.flatten(0, 1)[:8])
        ratios.append(distance_ratios(fusion, {"motion": bags(seed=2, videos=1)["motion"] * factor})["motion"])
    torch.testing.assert_close(*ratios)


def test_without_references_nothing_can_be_said() -> None:
    assert distance_ratios(Concat({"motion": 4, "text": 6}), bags()) == {}
    assert distance_ratios(LegoFusion({"motion": 4}, nodes=N, references=0), bags()) == {}
    assert UNLIKE > 1
