"""Attention against loops over queries and keys."""

import math

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.networks import CrossAttention, SelfAttention, attention_weights

WIDTHS = {"motion": 3, "text": 2, "audio": 4}


def features(count: int = 3, *, nodes: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    chosen = list(WIDTHS.items())[:count]
    return {name: torch.randn(2, nodes, width, generator=generator, dtype=torch.float64) for name, width in chosen}


def attended(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """softmax(<query, key> / sqrt(d)) over a list of keys, one at a time."""
    weights = [math.exp(float(query @ key) / math.sqrt(len(query))) for key in keys]
    return sum(weight / math.fsum(weights) * value for weight, value in zip(weights, values, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_by_hand(count, masked):
    given = features(count)
    names = list(given)
    fusion = CrossAttention({name: WIDTHS[name] for name in names}, width=6).double()
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]]) if masked else torch.ones(2, 5, dtype=torch.bool)
    nodes = fusion(given, mask if masked else None).nodes
    for video in range(2):
        here = [node for node in range(5) if mask[video, node]]
        z = {n: [fusion.projection[n].weight @ x + fusion.projection[n].bias for x in given[n][video]] for n in names}
        for node in here:
            expected = []
            for name in names:
                others = [other for other in names if other != name] or [name]
                keys = [fusion.key[other].weight @ z[other][j] for other in others for j in here]
                values = [fusion.value[other].weight @ z[other][j] for other in others for j in here]
                expected.append(z[name][node] + attended(fusion.query[name].weight @ z[name][node], keys, values))
            torch.testing.assert_close(nodes[video, node], torch.cat(expected), rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
def test_self_attention_by_hand(count):
    given = features(count)
    fusion = SelfAttention({name: WIDTHS[name] for name in given}, width=6).double()
    assert hasattr(fusion, "query") == (count > 1)
    nodes = fusion(given).nodes
    for video in range(2):
        for node in range(5):
            tokens = [fusion.projection[n].weight @ x[video, node] + fusion.projection[n].bias for n, x in given.items()]
            values = [fusion.value.weight @ token for token in tokens]
            if count == 1:
                expected = tokens[0] + values[0]
            else:
                keys = [fusion.key.weight @ token for token in tokens]
                expected = sum(t + attended(fusion.query.weight @ t, keys, values) for t in tokens) / count
            torch.testing.assert_close(nodes[video, node], expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_cross_attention_looks_at_the_others_only():
    """The part of one modality changes with its own node and with any node of the others, not with its own other nodes."""
    fusion = CrossAttention({"motion": 3, "text": 2}, width=6).double()
    given = features(2)
    own, other = (dict(given) for _ in range(2))
    own["motion"], other["text"] = given["motion"].clone(), given["text"].clone()
    own["motion"][:, 4] += 1
    other["text"][:, 4] += 1
    before = fusion(given).nodes[..., :6]
    assert torch.equal(fusion(own).nodes[:, :4, :6], before[:, :4])
    assert not torch.isclose(fusion(other).nodes[:, :4, :6], before[:, :4]).all()


@torch.no_grad()
def test_a_video_without_a_node_stays_finite():
    mask = torch.tensor([[True] * 5, [False] * 5])
    for kind in (CrossAttention, SelfAttention):
        nodes = kind(WIDTHS).double()(features(), mask).nodes
        assert torch.isfinite(nodes).all() and (nodes[1] == 0).all()


def test_weights_sum_to_one_and_do_not_feel_large_scores():
    query, key = 1e4 * torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([True, True, False, True, False]).expand(2, 1, 5)
    weights = attention_weights(query, key, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    assert (weights[..., [2, 4]] == 0).all()


@pytest.mark.parametrize("kind", [CrossAttention, SelfAttention])
def test_wrong_arguments(kind, unchecked_types):
    with pytest.raises(ParameterError, match=f"'width' parameter of {kind.__name__} must be an int"):
        kind({"motion": 3}, width=0)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_attention_weights_are_those_of_forward(names):
    """Node vectors made again from the weights and the values."""
    fusion = CrossAttention(dict.fromkeys(names, 3), width=4)
    features = {name: torch.rand(2, 5, 3) for name in names}
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = fusion.attention(features, mask)
    projected = {name: fusion.projection[name](x) for name, x in fusion.scaled(features, mask).items()}
    rows = []
    for name, by_other in found.items():
        torch.testing.assert_close(sum(weights.sum(-1) for weights in by_other.values()), torch.ones(2, 5))
        assert all(float(weights.detach()[1, :, 3:].abs().max()) == 0 for weights in by_other.values())
        seen = sum(weights @ fusion.value[other](projected[other]) for other, weights in by_other.items())
        rows.append(projected[name] + seen)
    expected = torch.cat(rows, -1) * mask[:, :, None]
    torch.testing.assert_close(fusion(features, mask).nodes, expected, rtol=1e-5, atol=1e-6)
