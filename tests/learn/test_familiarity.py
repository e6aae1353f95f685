"""Footage unlike the training footage is told; an event in familiar footage is not."""

import pytest
import torch

from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.scoring import UNLIKE, FamiliarityMonitor, unlike_training

V, N = 12, 8


def bags(shift: float = 0.0, spread: float = 1.0, seed: int = 0, videos: int = V) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: shift + spread * torch.randn(videos, N, width, generator=generator)
        for name, width in (("motion", 4), ("text", 6))
    }


@pytest.fixture
def fusion() -> LegoFusion:
    made = LegoFusion({"motion": 4, "text": 6})
    made.fit(bags(), torch.zeros(V, dtype=torch.bool), torch.arange(V))
    return made


def test_the_ratio_is_one_at_the_most_unlike_training_video() -> None:
    """Worked out by hand: known at 0 and 1 (each video once), so bandwidth 1; a video of distance 7 to the nearest known."""
    made = LegoFusion({"motion": 1}, kept=1)
    videos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [8.0, 8.0, 100.0]])[:, :, None]
    made.fit({"motion": videos}, torch.tensor([False, False, True]), torch.arange(3))
    seen = made.unlikeness({"motion": torch.tensor([[[8.0], [1.0], [15.0], [-14.0]]])})["motion"]
    torch.testing.assert_close(seen, torch.tensor([[1.0, 0.0, 2.0, 2.0]]))


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


def test_an_abnormal_training_video_says_how_far_events_go() -> None:
    """Where training has seen videos that are abnormal from end to end, such footage is no other camera."""
    train = bags()
    for x in train.values():
        x[-1] += 20.0
    made = LegoFusion({"motion": 4, "text": 6})
    made.fit(train, torch.arange(V) == V - 1, torch.arange(V))
    assert unlike_training(made, bags(shift=20.0, seed=1, videos=1)) == []
    assert len(unlike_training(made, bags(shift=100.0, seed=1, videos=1))) == 2


def test_scaling_everything_changes_nothing() -> None:
    ratios = []
    for scale in (1.0, 100.0):
        made = LegoFusion({"motion": 4})
        made.fit({"motion": scale * bags()["motion"]}, torch.zeros(V, dtype=torch.bool), torch.arange(V))
        ratios.append(made.unlikeness({"motion": scale * bags(seed=2, videos=1)["motion"]})["motion"])
    torch.testing.assert_close(*ratios)


def test_a_stream_is_told_of_once_a_modality(fusion: LegoFusion) -> None:
    told: list[str] = []
    monitor = FamiliarityMonitor(fusion, told.append, least=2)
    other = bags(seed=1, videos=1) | {"motion": bags(shift=20.0, seed=1, videos=1)["motion"]}
    for t in range(N):
        monitor.look({name: x[:, t : t + 1] for name, x in other.items()})
        assert len(told) == (t >= 1)
    assert "motion" in told[0]


def test_without_known_normals_nothing_can_be_said() -> None:
    assert unlike_training(Concat({"motion": 4, "text": 6}), bags(shift=99.0)) == []
    assert unlike_training(PaperFusion({"motion": 4}, nodes=N), bags(shift=99.0)) == []
    assert UNLIKE > 1
