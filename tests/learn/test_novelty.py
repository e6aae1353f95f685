"""References that learn nothing, against loops."""

import math

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.learn.bags import Bags
from lego_fusion.learn.methods import column_scores, nearest_neighbour_scores

WIDTHS = {"motion": 3, "text": 2}


def made_bags(videos: int, crops: int = 1, seed: int = 0, nodes: int = 4) -> Bags:
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: torch.randn(videos * crops, nodes, width, generator=generator, dtype=torch.float64)
        for name, width in WIDTHS.items()
    }
    return Bags(tuple(f"v{seed}_{i}" for i in range(videos)), torch.arange(videos) % 3 == 2, crops, inputs)


def scores_by_hand(train: Bags, test: Bags, neighbours: int) -> Tensor:
    total = torch.zeros(len(test.bag_labels), test.inputs["motion"].shape[1], dtype=torch.float64)
    for name, tensor in train.inputs.items():
        normal = tensor[~train.bag_labels].flatten(0, 1).tolist()
        known = [list(row) for row in {tuple(row) for row in normal}]
        width = len(known[0])
        means = [sum(row[d] for row in known) / len(known) for d in range(width)]
        deviations = [math.sqrt(sum((row[d] - means[d]) ** 2 for row in known) / len(known)) or 1.0 for d in range(width)]
        scaled = [[row[d] / deviations[d] for d in range(width)] for row in known]
        pairs = [math.dist(a, b) for i, a in enumerate(scaled) for b in scaled[:i]]
        typical = sum(pairs) / len(pairs)
        for bag in range(total.shape[0]):
            for node in range(total.shape[1]):
                row = [value / deviations[d] for d, value in enumerate(test.inputs[name][bag, node].tolist())]
                nearest = sorted(math.dist(row, other) for other in scaled)[:neighbours]
                total[bag, node] += sum(nearest) / len(nearest) / typical
    return total.reshape(-1, test.crops, total.shape[1]).mean(1)


@pytest.mark.parametrize("neighbours", [1, 3, 500])
@pytest.mark.parametrize("crops", [1, 2])
def test_nearest_neighbours_by_hand(neighbours, crops):
    train, test = made_bags(5, crops), made_bags(3, crops, seed=1)
    scores = nearest_neighbour_scores(train, test, neighbours=neighbours)
    torch.testing.assert_close(scores, scores_by_hand(train, test, neighbours))


def test_abnormal_training_videos_count_for_nothing():
    train, test = made_bags(6), made_bags(3, seed=1)
    poisoned = {name: x.masked_fill(train.bag_labels[:, None, None], float("nan")) for name, x in train.inputs.items()}
    with_poison = nearest_neighbour_scores(Bags(train.videos, train.labels, 1, poisoned), test)
    assert torch.equal(with_poison, nearest_neighbour_scores(train, test))


def test_a_known_normal_segment_scores_zero_and_copies_are_one_segment():
    train = made_bags(4)
    twice = train.select([0, 1, 2, 3, 0, 1])
    assert (nearest_neighbour_scores(train, train, neighbours=1)[~train.labels] < 1e-7).all()
    test = made_bags(2, seed=1)
    torch.testing.assert_close(nearest_neighbour_scores(twice, test), nearest_neighbour_scores(train, test))


@pytest.mark.parametrize("modality", list(WIDTHS))
def test_units_and_offsets_of_a_column_do_not_matter(modality):
    train, test = made_bags(5), made_bags(3, seed=1)
    scale = torch.logspace(-3, 3, WIDTHS[modality], dtype=torch.float64)

    def changed(bags: Bags) -> Bags:
        return Bags(bags.videos, bags.labels, 1, {**bags.inputs, modality: 100 + scale * bags.inputs[modality]})

    expected = nearest_neighbour_scores(train, test)
    torch.testing.assert_close(nearest_neighbour_scores(changed(train), changed(test)), expected, rtol=1e-6, atol=1e-9)


def test_single_precision_far_from_zero():
    """A column near 1,000 with a deviation of 1: squares of a million must not swallow distances of one."""
    train, test = made_bags(5, nodes=8), made_bags(3, seed=1, nodes=8)
    expected = nearest_neighbour_scores(train, test)

    def far(bags: Bags) -> Bags:
        return Bags(bags.videos, bags.labels, 1, {name: (x + 1000).float() for name, x in bags.inputs.items()})

    scores = nearest_neighbour_scores(far(train), far(test))
    torch.testing.assert_close(scores.double(), expected, rtol=2e-3, atol=2e-3)


def test_features_that_never_change():
    def constant(value: float) -> Bags:
        return Bags(("a", "b"), torch.tensor([False, False]), 1, {"motion": torch.full((2, 4, 3), value)})

    assert (nearest_neighbour_scores(constant(1.0), constant(1.0)) == 0).all()
    assert (nearest_neighbour_scores(constant(1.0), constant(3.0)) > 0).all()


def test_further_away_is_more_abnormal():
    train = made_bags(5)
    step = torch.ones(3, dtype=torch.float64)
    row = torch.stack([train.inputs["motion"][0, 0] + distance * step for distance in (0.0, 5.0, 10.0, 20.0)])
    text = train.inputs["text"][0, 0].expand(4, -1)
    test = Bags(("far",), torch.tensor([True]), 1, {"motion": row[None], "text": text[None]})
    scores = nearest_neighbour_scores(train, test)[0].tolist()
    assert scores == sorted(scores)


def test_errors():
    train, test = made_bags(3), made_bags(2, seed=1)
    with pytest.raises(DataError, match="nearest neighbours need normal training videos"):
        nearest_neighbour_scores(train.select([2]), test)
    with pytest.raises(ParameterError, match="'neighbours' parameter of nearest_neighbour_scores"):
        nearest_neighbour_scores(train, test, neighbours=0)
    with pytest.raises(DataError, match="modality 'text' is missing"):
        nearest_neighbour_scores(train, test.with_modalities(["motion"]))
    nothing = Bags(train.videos, train.labels, 1, {})
    with pytest.raises(DataError, match="at least one modality"):
        nearest_neighbour_scores(nothing, test)


@pytest.mark.parametrize("crops", [1, 2])
def test_a_column_as_the_score(crops):
    bags = made_bags(3, crops)
    expected = bags.inputs["text"][..., 1].reshape(3, crops, 4).mean(1)
    assert torch.equal(column_scores(bags, "text", 1), expected)


@pytest.mark.parametrize("column", [-1, 2])
def test_a_column_that_is_not_there(column):
    with pytest.raises(DataError, match=rf"there is no such column \(text\): expected 0 to 1, got {column}"):
        column_scores(made_bags(2), "text", column)
