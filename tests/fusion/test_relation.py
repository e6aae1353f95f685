"""One modality's relation: fitted statistics and each kind of graph against loops in double precision."""

import math

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.relation import RELATION_KINDS, SHRINKAGE, Relation

every_kind = pytest.mark.parametrize("kind", RELATION_KINDS)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def fitted(kind: str, train: Tensor, *, references: int = 0, normal: Tensor | None = None, **options: bool) -> Relation:
    relation = Relation(train.shape[-1], kind, references=references, **options).double()
    relation.fit(train, torch.ones(len(train), dtype=torch.bool) if normal is None else normal)
    return relation


def by_hand(kind: str, x: list[float], y: list[float], train: Tensor, centre: bool, column_scale: list[float]) -> float:
    """The relation of two rows, from the training rows and the scale of each column."""

    def scaled(row: list[float]) -> list[float]:
        return [value / scale for value, scale in zip(row, column_scale, strict=True)]

    flat, x, y = [scaled(row) for row in train.reshape(-1, train.shape[-1]).tolist()], scaled(x), scaled(y)
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
@pytest.mark.parametrize("scale_columns", [True, False])
@pytest.mark.parametrize("against", ["each other", "fitted references", "given references"])
def test_every_relation_by_hand(kind, centre, scale_columns, against):
    train, x, other = rows(4, 3, 5), rows(2, 3, 5, seed=1), rows(1, 6, 5, seed=2)
    options = {"centre": centre, "scale_columns": scale_columns}
    relation = fitted(kind, train, references=4, **options)
    index = torch.tensor([7, 0, 3, 11])
    relation.set_references(train.flatten(0, 1), index)
    if against == "each other":
        relation = fitted(kind, train, **options)
        columns = x
        graph = relation(x)
    elif against == "fitted references":
        columns = train.flatten(0, 1)[index].expand(2, -1, -1)
        graph = relation(x)
    else:
        columns = other.expand(2, -1, -1)
        graph = relation(x, other)
    scale = relation.column_scale.tolist()
    expected = [
        [[by_hand(kind, a, b, train, centre, scale) for b in columns[v].tolist()] for a in x[v].tolist()] for v in range(len(x))
    ]
    torch.testing.assert_close(graph, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)


@every_kind
def test_column_scales_by_hand(kind):
    """Half-scaled by what varies among normal bags; the abnormal ones have no part in it."""
    train, normal = rows(5, 3, 4), torch.tensor([True, False, True, True, False])
    train[~normal] *= 100
    scale = fitted(kind, train, normal=normal).column_scale
    if kind == "dot":
        assert (scale == 1).all()
        return
    known = train[normal].reshape(-1, 4).tolist()
    means = [sum(column) / len(known) for column in zip(*known, strict=True)]
    variances = [sum((row[d] - means[d]) ** 2 for row in known) / len(known) for d in range(4)]
    shrunk = SHRINKAGE[kind] * sum(variances) / 4
    expected = [math.sqrt(variance + shrunk) for variance in variances]
    torch.testing.assert_close(scale, torch.tensor(expected, dtype=torch.float64))
    assert (fitted(kind, train, normal=normal, scale_columns=False).column_scale == 1).all()


@pytest.mark.parametrize("kind", SHRINKAGE)
def test_a_column_that_never_varies_is_not_blown_up(kind):
    train = rows(4, 3, 5)
    train[..., 2] = 7.0
    scale = fitted(kind, train).column_scale
    assert scale[2] == scale.min() > 0.1 * scale.mean()


@every_kind
def test_without_a_normal_bag_all_say_what_varies(kind):
    train = rows(4, 3, 5)
    none, every = (torch.full((4,), value) for value in (False, True))
    assert torch.equal(fitted(kind, train, normal=none).column_scale, fitted(kind, train, normal=every).column_scale)


def test_references_are_copies_of_training_rows():
    train = rows(4, 3, 5)
    relation = fitted("cosine", train, references=2)
    units = train.flatten(0, 1).clone()
    relation.set_references(units, torch.tensor([3, 8]))
    units.zero_()
    assert torch.equal(relation.references, train.flatten(0, 1)[[3, 8]])
    assert torch.equal(relation.state_dict()["references"], relation.references)


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
    square, to_references = fitted(kind, train), fitted(kind, train, references=3)
    to_references.set_references(train.flatten(0, 1), torch.tensor([0, 4, 8]))
    both = mask[:, :, None] & mask[:, None, :]
    assert torch.equal(square(x, mask=mask), square(x).masked_fill(~both, 0.0))
    graph = to_references(x, mask=mask)  # as many references as nodes
    assert torch.equal(graph, to_references(x).masked_fill(~mask[:, :, None], 0.0))


@every_kind
@pytest.mark.parametrize("centre", [True, False])
def test_dissimilarity_is_a_dissimilarity(kind, centre):
    train = rows(4, 3, 5)
    relation = fitted(kind, train, centre=centre)
    units = torch.cat([train.flatten(0, 1), train[0, :2]])  # two copies
    dissimilarity = relation.dissimilarity(units)
    torch.testing.assert_close(dissimilarity, dissimilarity.T)
    assert (dissimilarity.diagonal() == 0).all() and (dissimilarity >= 0).all()
    assert dissimilarity[0, -2] == 0 and dissimilarity[1, -1] == 0, "copies of one segment are one segment"
    apart = ~torch.eye(len(units), dtype=torch.bool)
    apart[0, -2] = apart[-2, 0] = apart[1, -1] = apart[-1, 1] = False
    assert (dissimilarity[apart] > 0).all()


@pytest.mark.parametrize("kind", ["cosine", "gaussian"])
def test_the_more_alike_the_less_dissimilar(kind):
    units = rows(9, 5, seed=3)
    relation = fitted(kind, rows(4, 3, 5))
    above = torch.triu_indices(9, 9, 1)
    similarity, dissimilarity = (m[above[0], above[1]] for m in (relation(units[None])[0], relation.dissimilarity(units)))
    assert torch.equal(similarity.argsort(descending=True), dissimilarity.argsort())


@every_kind
def test_units_of_measurement(kind):
    """A Gaussian and a dot product know their own scale; a cosine has none."""
    train, x = rows(4, 3, 5), rows(2, 3, 5, seed=1)
    plain, rescaled = fitted(kind, train), fitted(kind, 100 * train)
    torch.testing.assert_close(rescaled(100 * x), plain(x), rtol=1e-9, atol=1e-12)
    units = train.flatten(0, 1)
    torch.testing.assert_close(rescaled.dissimilarity(100 * units), plain.dissimilarity(units), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_a_centred_relation_does_not_see_a_common_offset(kind):
    train, x = rows(4, 3, 5), rows(2, 3, 5, seed=1)
    torch.testing.assert_close(fitted(kind, train + 50)(x + 50), fitted(kind, train)(x), rtol=1e-8, atol=1e-9)
    assert not torch.allclose(fitted(kind, train, centre=False)(x + 50), fitted(kind, train, centre=False)(x), atol=0.1)


@every_kind
def test_features_that_never_change_give_a_finite_graph(kind):
    train = torch.full((4, 3, 5), 2.0, dtype=torch.float64)
    relation = fitted(kind, train)
    assert torch.isfinite(relation(train)).all()
    assert (relation.dissimilarity(train.flatten(0, 1)) == 0).all()


@pytest.mark.parametrize("kind", ["gaussian", "dot"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_features_must_be_finite(kind, value):
    train = rows(4, 3, 5)
    train[1, 2, 3] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        fitted(kind, train)


def test_an_unknown_relation(unchecked_types):
    with pytest.raises(ParameterError, match="'relation' parameter of LegoFusion must be one of 'cosine', 'gaussian', 'dot'"):
        Relation(3, "cosin", references=0, centre=True, unit_range=False)
