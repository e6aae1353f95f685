"""Large sets: features kept in the type of their files, bags held once, the frozen stage a few bags at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.fusion import frozen
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.reading_head import Priors
from lego_fusion.learn.bags import Bags, fit_frozen, load_bags, scoring_inputs, training_inputs
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import LEARNED, make_default_fusion
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset
from lego_fusion.learn.splits import own_split
from lego_fusion.learn.train import fit, predict_logits

NAMES = ("motion", "text")


def halved(dataset: Dataset) -> Dataset:
    """The same files as float16."""
    for record in dataset.videos:
        for name in NAMES:
            path = dataset.feature_file(name, record.video)
            np.save(path, np.load(path).astype(np.float16))
    return dataset


@pytest.fixture
def whole(write_planted, tmp_path: Path) -> Dataset:
    return write_planted(tmp_path / "whole", crops=2)


@pytest.fixture
def half(write_planted, tmp_path: Path) -> Dataset:
    return halved(write_planted(tmp_path / "half", crops=2))


def trained(dataset: Dataset, method: str) -> tuple[Detector, Bags]:
    split = own_split(dataset)
    train = load_bags(dataset, NAMES, split.train, nodes=8)
    fusion = make_default_fusion(method, {name: dataset.modalities[name] for name in NAMES}, nodes=8)
    fit_frozen(fusion, train)
    detector = Detector(fusion)
    fit(detector, train, TrainingConfig(steps=3 if method == "lego" else 0))  # Adam follows the signs of the least gradients
    return detector, load_bags(dataset, NAMES, split.test, nodes=8)


@pytest.mark.parametrize("method", LEARNED)
def test_half_precision_files_give_nearly_the_scores_of_whole_ones(whole: Dataset, half: Dataset, method: str) -> None:
    (detector, test), (other, halves) = trained(whole, method), trained(half, method)
    assert {tensor.dtype for tensor in halves.inputs.values()} == {torch.float16}
    assert {tensor.dtype for tensor in test.inputs.values()} == {torch.float32}
    expected = predict_logits(detector, test)
    assert expected.shape == (len(test.videos), 8)
    scale = float(expected.abs().max())
    torch.testing.assert_close(predict_logits(other, halves) / scale, expected / scale, atol=2e-3, rtol=0)


def test_readings_of_half_precision_are_near_those_of_the_same_numbers_in_single(half: Dataset) -> None:
    split = own_split(half)
    bags = load_bags(half, NAMES, split.train, nodes=8)
    single = Bags(bags.videos, bags.labels, bags.crops, {name: x.float() for name, x in bags.inputs.items()})
    found = []
    for one in (bags, single):
        fusion = LegoFusion({"motion": 3, "text": 5})
        fit_frozen(fusion, one)
        found.append((training_inputs(fusion, one).inputs, scoring_inputs(fusion, one).inputs))
    for mine, theirs in zip(*found, strict=True):
        for name in NAMES:
            assert mine[name].dtype == torch.float32
            torch.testing.assert_close(mine[name], theirs[name], atol=1e-3, rtol=1e-3)


def test_one_file_in_single_precision_keeps_all_of_its_modality_so(half: Dataset) -> None:
    video = own_split(half).train[-1]
    path = half.feature_file("motion", video)
    np.save(path, np.load(path).astype(np.float32) * 1e6)  # beyond the range of float16
    bags = load_bags(half, NAMES, own_split(half).train, nodes=8)
    assert bags.inputs["motion"].dtype == torch.float32
    assert bags.inputs["text"].dtype == torch.float16
    assert float(bags.inputs["motion"].max()) > 1e6


def test_a_run_on_half_precision_files_trains_and_scores(half: Dataset, tmp_path: Path) -> None:
    train_run(half, tmp_path / "run", nodes=8, training=TrainingConfig(iterations=5))
    scores = score_dataset(tmp_path / "run", half, own_split(half).test)
    assert all(np.isfinite(one.scores).all() and len(one.scores) == half.records[one.video].frames for one in scores)


def test_all_bags_in_their_order_are_not_copied(whole: Dataset) -> None:
    bags = load_bags(whole, NAMES, own_split(whole).train, nodes=8)
    assert bags.named(bags.videos) is bags
    assert bags.named(bags.videos[::-1]) is not bags


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("operator", ["fixed", "learned"])
def test_a_few_bags_at_a_time_give_what_all_at_once_do(monkeypatch: pytest.MonkeyPatch, crops: int, operator: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(9 * crops, 6, width, generator=generator) for name, width in (("motion", 4), ("text", 3))}
    mask = torch.arange(6) < torch.tensor([6, 4, 5] * 3).repeat_interleave(crops)[:, None]
    bags = Bags(tuple(map(str, range(9))), torch.arange(9) % 3 == 2, crops, x, mask)
    found = []
    for numbers in (2**23, 1):  # all bags, then one video
        monkeypatch.setattr(frozen, "NUMBERS_AT_ONCE", numbers)
        fusion = LegoFusion({"motion": 4, "text": 3}, operator=operator)
        fit_frozen(fusion, bags)
        assert len(list(frozen.chunks(9 * crops, 100, crops))) == (1 if numbers > 1 else 9)
        found.append({**training_inputs(fusion, bags).inputs, **dict(fusion.named_buffers())})
        found[-1] |= {f"unseen {name}": one for name, one in scoring_inputs(fusion, bags).inputs.items()}
    for name, one in found[0].items():
        torch.testing.assert_close(found[1][name], one, atol=1e-5, rtol=1e-5)


def test_references_that_are_set_again_are_measured_to_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x = {"motion": torch.randn(4, 5, 3, generator=generator)}
    fusion = LegoFusion({"motion": 3})
    labels = torch.tensor([False, False, False, True])
    fusion.fit(x, labels, torch.arange(4))
    before = fusion.relations(x)["motion"]
    other = LegoFusion({"motion": 3})
    other.fit({"motion": x["motion"] + torch.rand(4, 5, 3, generator=generator)}, labels, torch.arange(4))
    expected = other.relations(x)["motion"]
    assert not torch.allclose(before, expected)
    fusion.load_state_dict(other.state_dict())
    assert torch.equal(fusion.relations(x)["motion"], expected)


@pytest.mark.parametrize("videos", [3, 40])  # fewer and more rows than columns
def test_the_factor_of_the_prior_holds_the_second_moments_of_normal_segments(videos: int) -> None:
    generator = torch.Generator().manual_seed(0)
    fusion = LegoFusion({"motion": 30, "text": 10}, time_context=1.5)
    head = fusion.make_head().double()
    nodes = torch.randn(videos, 6, fusion.out_features, generator=generator, dtype=torch.float64)
    mask = torch.arange(6) < 3 + torch.arange(videos)[:, None] % 4
    departure = head.layout.split(nodes)[2]
    rows = []
    for video in range(videos):
        there = mask[video].nonzero()[:, 0].tolist()
        for i in there:
            weights = {j: float(np.exp(-((i - j) ** 2) / (2 * 1.5**2))) for j in there}
            near = sum(weight * departure[video, j] for j, weight in weights.items()) / sum(weights.values())
            rows.append((departure[video, i] + near) / 2**0.5)
    moments = sum(torch.outer(row, row) for row in rows)
    usual = head.usual(nodes, mask)
    assert len(usual.factor) == min(len(rows), 40)
    torch.testing.assert_close(usual.factor.T @ usual.factor, moments / moments.trace())
    head.weights.data.copy_(torch.randn(40, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        with_it, without = (head.penalty(Priors(invariance=one, departure=1.0), usual) for one in (2.0, 0.0))
        assert float(with_it - without) == pytest.approx(float(head.weights @ moments @ head.weights / moments.trace()))


def test_segments_of_half_precision_files_take_half_the_memory(whole: Dataset, half: Dataset) -> None:
    sizes = []
    for dataset in (whole, half):
        bags = load_bags(dataset, NAMES, own_split(dataset).train, nodes=8)
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in bags.inputs.values()))
    assert sizes[1] * 2 == sizes[0]
