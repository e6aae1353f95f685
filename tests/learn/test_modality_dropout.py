"""Modality dropout: how often, never all, the same after a resumed run, and the removals it is said to use."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import Bags, fit_frozen, training_inputs
from lego_fusion.learn.conditions import REMOVALS, ModalityDropout
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.train import fit

WIDTHS = {"motion": 3, "text": 4, "audio": 2}
N = 6


def made_bags(videos: int = 9, crops: int = 2) -> Bags:
    generator = torch.Generator().manual_seed(0)
    inputs = {name: 1 + torch.randn(videos * crops, N, width, generator=generator) for name, width in WIDTHS.items()}
    return Bags(tuple(f"v{index}" for index in range(videos)), torch.arange(videos) % 3 == 2, crops, inputs)


MAKE = {
    "lego": lambda: LegoFusion(WIDTHS),
    "lego-paper": lambda: PaperFusion(WIDTHS, nodes=N, centre=True),
    "concat": lambda: Concat(WIDTHS),
}


def made_fusion(kind: str, bags: Bags) -> Fusion:
    fusion = MAKE[kind]()
    fit_frozen(fusion, bags)
    return fusion


def made_dropout(kind: str, bags: Bags, *, probability: float = 0.5, removal: str = "mean", seed: int = 0) -> ModalityDropout:
    return ModalityDropout(made_fusion(kind, bags), bags, probability, removal, seed=seed)


def changed(batch: Bags, after: Bags) -> torch.Tensor:
    """Which modality of which bag changed, (bags, M)."""
    return torch.stack([(batch.inputs[name] != after.inputs[name]).flatten(1).any(1) for name in WIDTHS], dim=1)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("removal", ["mean", "zero", "permute"])
def test_never_more_than_one_modality_goes_and_crops_lose_the_same(kind, removal):
    bags = made_bags()
    dropout = made_dropout(kind, bags, probability=0.9, removal=removal)
    batch = training_inputs(made_fusion(kind, bags), bags)
    gone = torch.stack([changed(batch, dropout(batch, step)) for step in range(30)])
    assert gone.any(2).float().mean() > 0.8
    assert (gone.sum(2) <= 1).all()
    assert kind == "lego" or torch.equal(gone[:, 0::2], gone[:, 1::2]), "the default has taken the mean over crops"
    assert gone.any(1).any(0).all(), "every modality goes some time"


def test_how_often():
    choices = torch.stack([made_dropout("concat", made_bags(), probability=0.3).choices(50, step) for step in range(100)])
    assert abs(float((choices >= 0).float().mean()) - 0.3) < 0.02
    share = torch.tensor([float((choices == index).float().mean()) for index in range(3)])
    torch.testing.assert_close(share, torch.full((3,), 0.1), rtol=0.0, atol=0.015)
    assert (made_dropout("concat", made_bags(), probability=0.0).choices(50, 0) == -1).all()


def test_what_is_gone_is_a_function_of_seed_and_step():
    bags = made_bags()
    first, again, other = (made_dropout("concat", bags, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(first.choices(40, 7), again.choices(40, 7))
    assert not torch.equal(first.choices(40, 7), first.choices(40, 8))
    assert not torch.equal(first.choices(40, 7), other.choices(40, 7))


def test_features_that_are_gone_are_at_the_training_mean_and_the_others_untouched():
    bags = made_bags()
    dropout = made_dropout("concat", bags, probability=0.9)
    choices = dropout.choices(9, 3).repeat_interleave(2)
    after = dropout(bags, 3)
    for index, (name, tensor) in enumerate(bags.inputs.items()):
        mean = tensor.reshape(-1, WIDTHS[name]).mean(0)
        expected = torch.where((choices == index)[:, None, None], mean, tensor)
        torch.testing.assert_close(after.inputs[name], expected)


def test_a_graph_that_is_gone_is_empty_or_that_of_the_mean_segment():
    """Centred cosines of the mean are 0, as an empty graph is; so the two removals agree, but for a node and itself."""
    bags = made_bags()
    batch = training_inputs(made_fusion("lego-paper", bags), bags)
    empty, mean = (
        made_dropout("lego-paper", bags, probability=0.9, removal=removal)(batch, 0) for removal in ("drop-term", "mean")
    )
    choices = made_dropout("lego-paper", bags, probability=0.9).choices(9, 0).repeat_interleave(2)
    for index, name in enumerate(WIDTHS):
        expected = batch.inputs[name].masked_fill((choices == index)[:, None, None], 0.0)
        assert torch.equal(empty.inputs[name], expected)
        others = ~torch.eye(N, dtype=torch.bool)
        assert torch.equal(mean.inputs[name][:, others], expected[:, others])


def test_removed_segments_meet_what_is_known_as_their_video_does_in_training():
    """Zero features of one modality, the others as they are: what ``shown`` gives, cross-fitted against the same columns."""
    bags = made_bags(crops=1)
    fusion = made_fusion("lego", bags)
    assert isinstance(fusion, LegoFusion)
    gone = ModalityDropout(fusion, bags, 0.5, "zero", seed=0).gone.inputs
    for name, width in WIDTHS.items():
        zero = torch.zeros(9, N, width)
        owner = bags.video_ids[fusion.reference_units[:, 0]]
        for video in range(9):
            others = owner != video
            surprise = fusion.known_normals(name).surprise(zero[video])[:, others]
            nearest = surprise.topk(3, largest=False).values.exp().reciprocal()  # R of the three most alike
            degree = torch.stack([-(nearest**p).mean(-1).log() / (2 * p) for p in (1, 2)], dim=-1)
            place = list(WIDTHS).index(name)
            expected = (degree - fusion.frozen.centre[place]) / fusion.frozen.spread
            torch.testing.assert_close(gone[name][video, :, :2], expected, rtol=1e-4, atol=1e-4)


def test_what_is_expected_of_all_steps_is_whole_or_without_one():
    bags = made_bags()
    dropout = made_dropout("lego", bags, probability=0.3)
    whole = training_inputs(made_fusion("lego", bags), bags)
    found = dropout.expected(whole)
    assert [round(share, 6) for share, _ in found] == [0.7, 0.1, 0.1, 0.1]
    assert found[0][1] is whole
    for index, (_, part) in enumerate(found[1:]):
        assert changed(whole, part).any(0).tolist() == [place == index for place in range(3)]


def test_part_of_the_videos_finds_its_own_removed_features():
    bags = made_bags()
    dropout = made_dropout("concat", bags, probability=0.9, removal="permute")
    batch = bags.select([5, 2])
    choices = dropout.choices(2, 1).repeat_interleave(2)
    after = dropout(batch, 1)
    for index, name in enumerate(WIDTHS):
        removed = dropout.gone.inputs[name][[10, 11, 4, 5]]
        assert torch.equal(after.inputs[name], torch.where((choices == index)[:, None, None], removed, batch.inputs[name]))


@pytest.mark.parametrize(("kind", "removal"), [("lego-paper", "drop-term"), ("lego-paper", "mean"), ("concat", "permute")])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_resumed_run_ends_where_the_other_ended(kind, removal, batch_size, tmp_path: Path):
    bags = made_bags()
    config = TrainingConfig(steps=12, modality_dropout=0.4, modality_removal=removal, batch_size=batch_size, checkpoint_every=5)

    def trained(steps: int, checkpoint: Path | None) -> dict[str, torch.Tensor]:
        detector = Detector(made_fusion(kind, bags), hidden=4)
        fit(detector, bags, config.model_copy(update={"steps": steps}), checkpoint=checkpoint)
        return detector.state_dict()

    whole = trained(12, None)
    trained(7, tmp_path / "state")
    resumed = trained(12, tmp_path / "state")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    without = Detector(made_fusion(kind, bags), hidden=4)
    fit(without, bags, config.model_copy(update={"modality_dropout": 0.0}))
    assert any(not torch.equal(whole[name], tensor) for name, tensor in without.state_dict().items())


def test_wrong_values():
    bags = made_bags()
    for value in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValidationError, match="modality_dropout"):
            TrainingConfig(modality_dropout=value)
    with pytest.raises(
        ParameterError, match=r"must leave something: expected a probability below 1.*got 1, motion, text, audio"
    ):
        made_dropout("concat", bags, probability=1.0)
    with pytest.raises(ParameterError, match=r"at least two modalities, got 0\.5, text"):
        ModalityDropout(Concat({"text": 4}), bags, 0.5, "mean", seed=0)
    with pytest.raises(ParameterError, match="'drop-term' needs a fusion with graphs"):
        made_dropout("concat", bags, removal="drop-term")


def test_every_removal_is_offered_to_training():
    for removal in REMOVALS:
        assert TrainingConfig(modality_removal=removal).modality_removal == removal
