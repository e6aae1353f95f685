"""One modality's relation: fitted statistics and each kind of graph against loops in double precision."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.options import RelationKind
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.fusion.relation import Relation

every_kind = pytest.mark.parametrize("kind", get_args(RelationKind))


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def fitted(kind: str, train: Tensor, **options: bool) -> Relation:
    relation = Relation(train.shape[-1], kind, **options).double()
    relation.fit(train)
    return relation


def by_hand(kind: str, x: list[float], y: list[float], train: Tensor, centre: bool) -> float:
    """The relation of two rows, from the training rows."""
    flat = train.reshape(-1, train.shape[-1]).tolist()
    middle = [sum(column) / len(flat) for column in zip(*flat, strict=True)] if centre else [0.0] * len(x)
    if kind == "gaussian":
        distances = sorted(math.dist(a, b) for i, a in enumerate(flat) for b in flat[:i])
        bandwidth = distances[(len(distances) - 1) // 2]
        return math.exp(-(math.dist(x, y) ** 2) / (2 * bandwidth**2))
    a, b = ([value - m for value, m in zip(row, middle, strict=True)] for row in (x, y))
    inner = sum(p * q for p, q in zip(a, b, strict=True))
    if kind == "cosine":
        return inner / (math.hypot(*a) * math.hypot(*b))
    return inner / (sum(math.dist(row, middle) ** 2 for row in flat) / len(flat))


@every_kind
@pytest.mark.parametrize("centre", [True, False])
def test_every_relation_by_hand(kind, centre):
    train, x = rows(4, 3, 5), rows(2, 3, 5, seed=1)
    relation = fitted(kind, train, centre=centre)
    expected = [[[by_hand(kind, a, b, train, centre) for b in bag.tolist()] for a in bag.tolist()] for bag in x]
    torch.testing.assert_close(relation(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-9)


@every_kind
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("unit_range", [True, False])
def test_the_last_row_alone_is_the_last_row(kind, centre, unit_range):
    train, x = rows(4, 3, 5), rows(2, 6, 5, seed=1)
    x[1, -1] = train.flatten(0, 1).mean(0)  # at the centre, which relates to nothing but itself
    relation = fitted(kind, train, centre=centre, unit_range=unit_range)
    torch.testing.assert_close(relation.row(x), relation(x)[:, -1], rtol=1e-7, atol=1e-7)


def test_unit_range_maps_cosines_only():
    train, x = rows(4, 3, 5), rows(2, 3, 5, seed=1)
    plain, mapped = (fitted("cosine", train, unit_range=unit_range)(x) for unit_range in (False, True))
    torch.testing.assert_close(mapped, plain / 2 + 0.5)
    for kind in ("gaussian", "dot"):
        assert torch.equal(fitted(kind, train, unit_range=True)(x), fitted(kind, train)(x))


@every_kind
def test_masked_nodes_relate_to_nothing(kind):
    train, x = rows(4, 3, 5), rows(2, 3, 5, seed=1)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    square = fitted(kind, train)
    both = mask[:, :, None] & mask[:, None, :]
    assert torch.equal(square(x, mask), square(x).masked_fill(~both, 0.0))


@every_kind
def test_units_of_measurement(kind):
    """A Gaussian and a dot product know their own scale; a cosine has none."""
    train, x = rows(4, 3, 5), rows(2, 3, 5, seed=1)
    plain, rescaled = fitted(kind, train), fitted(kind, 100 * train)
    torch.testing.assert_close(rescaled(100 * x), plain(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_a_centred_relation_does_not_see_a_common_offset(kind):
    train, x = rows(4, 3, 5), rows(2, 3, 5, seed=1)
    moved = fitted(kind, train + 50, centre=True)(x + 50)
    torch.testing.assert_close(moved, fitted(kind, train, centre=True)(x), rtol=1e-8, atol=1e-9)
    assert not torch.allclose(fitted(kind, train)(x + 50), fitted(kind, train)(x), atol=0.1)


@every_kind
def test_features_that_never_change_give_a_finite_graph(kind):
    train = torch.full((4, 3, 5), 2.0, dtype=torch.float64)
    relation = fitted(kind, train)
    assert torch.isfinite(relation(train)).all()


@pytest.mark.parametrize("kind", ["gaussian", "dot"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_features_must_be_finite(kind, value):
    train = rows(4, 3, 5)
    train[1, 2, 3] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        fitted(kind, train)


@pytest.mark.parametrize("relations", ["cosin", {"motion": "cosin"}, 3])
def test_an_unknown_relation(relations):
    with pytest.raises(ParameterError, match="'relations' parameter of PaperFusion must be one of 'cosine', 'gaussian', 'dot'"):
        PaperFusion({"motion": 3}, relations=relations)
