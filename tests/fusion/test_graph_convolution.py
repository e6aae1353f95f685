"""Graph convolution against sums over neighbours."""

import math

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.networks import GraphConvolution, neighbour_shares

WIDTHS = {"motion": 3, "text": 2}


def features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(1, 5, width, generator=generator, dtype=torch.float64) for name, width in WIDTHS.items()}


def shares_by_hand(rows: list[list[float]]) -> list[list[float]]:
    def cosine(a: list[float], b: list[float]) -> float:
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    graph = [[max(0.0, cosine(a, b)) for b in rows] for a in rows]
    return [[value / math.fsum(row) for value in row] for row in graph]


@torch.no_grad()
def test_by_hand():
    fusion, given = GraphConvolution(WIDTHS, width=4).double(), features()
    fusion.bias.uniform_()
    shares = {name: shares_by_hand(x[0].tolist()) for name, x in given.items()}
    y = {}
    for name, x in given.items():
        layer = fusion.within[name]
        neighbours = [sum(share * x[0, j] for j, share in enumerate(row)) for row in shares[name]]
        y[name] = [(layer.weight @ row + layer.bias).clamp_min(0) for row in neighbours]
    output = fusion(given)
    for i in range(5):
        expected = fusion.bias.clone()
        for j in range(5):
            share = (shares["motion"][i][j] + shares["text"][i][j]) / 2
            assert output.graph[0, i, j].item() == pytest.approx(share, abs=1e-12)
            for name in WIDTHS:
                expected += share * (fusion.across[name].weight @ y[name][j])
        torch.testing.assert_close(output.nodes[0, i], expected, rtol=1e-10, atol=1e-12)


def test_shares_sum_to_one_and_leave_masked_nodes_out():
    mask = torch.tensor([[True, True, False, True, False]])
    shares = neighbour_shares(features()["motion"], mask)
    torch.testing.assert_close(shares.sum(-1), mask.double())
    assert (shares[..., ~mask[0]] == 0).all() and (shares >= 0).all()


@torch.no_grad()
def test_nodes_alike_in_everything_become_one():
    fusion = GraphConvolution(WIDTHS).double()
    same = {name: x[:, :1].expand(-1, 5, -1) * torch.arange(1, 6)[:, None] for name, x in features().items()}
    nodes = fusion(same).nodes
    torch.testing.assert_close(nodes, nodes[:, :1].expand_as(nodes))


@torch.no_grad()
def test_the_order_of_nodes_goes_through():
    fusion, given, order = GraphConvolution(WIDTHS).double(), features(), torch.tensor([3, 0, 4, 1, 2])
    permuted = fusion({name: x[:, order] for name, x in given.items()}).nodes
    torch.testing.assert_close(permuted, fusion(given).nodes[:, order])


def test_wrong_arguments(unchecked_types):
    with pytest.raises(ParameterError, match="'width' parameter of GraphConvolution must be an int"):
        GraphConvolution(WIDTHS, width=0)
