"""The temporal network against loops written from its formula, and the published sizes."""

import math

import pytest
import torch
from torch import Tensor, nn

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.networks import JOINS, MTN, NodeNorm, NonLocal, TemporalNetwork, TevadHead


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic away from its start, so that nothing hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator)).mul_(0.4)
        for parameter in module.parameters():
            parameter.sub_(0.3)
    return module.double()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def normed(x: Tensor, norm: NodeNorm) -> Tensor:
    """Batch normalisation in evaluation, rows (N, C)."""
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Rows (N, C) -> rows (N, C'), node by node; beyond the ends there is zero."""
    dilation, taps = conv.dilation[0], conv.weight.shape[2]
    rows = []
    for node in range(len(x)):
        total = conv.bias.clone()
        for tap in range(taps):
            neighbour = node + (tap - taps // 2) * dilation
            if 0 <= neighbour < len(x):
                total = total + conv.weight[:, :, tap] @ x[neighbour]
        rows.append(total)
    return torch.stack(rows)


def seen_by_non_local(x: Tensor, block: NonLocal) -> Tensor:
    theta, phi, g = (convolved(x, conv) for conv in (block.theta, block.phi, block.g))
    rows = []
    for i in range(len(x)):
        total = sum((theta[i] @ phi[j]) * g[j] for j in range(len(x))) / len(x)
        rows.append(block.back.weight[:, :, 0] @ total)
    return x + normed(torch.stack(rows), block.norm)


@torch.no_grad()
@pytest.mark.parametrize("nodes", [1, 2, 9])
@pytest.mark.parametrize("width", [8, 6, 3, 1])
def test_the_network_by_hand(nodes, width):
    network = randomised(TemporalNetwork(width)).eval()
    x = torch.randn(nodes, width, generator=torch.Generator().manual_seed(nodes), dtype=torch.float64)
    scales = [normed(convolved(x, conv).relu(), norm) for conv, norm in zip(network.local, network.local_norm, strict=True)]
    scales.append(seen_by_non_local(convolved(x, network.reduce).relu(), network.non_local))
    expected = x + normed(convolved(torch.cat(scales, dim=1), network.restore).relu(), network.restore_norm)
    torch.testing.assert_close(network(x[None])[0], expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("nodes", [1, 4])
def test_the_network_sees_no_padding(nodes):
    """Also where every part of it is away from its start."""
    network = randomised(TemporalNetwork(8)).eval()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    mask = torch.arange(9).expand(2, 9) < nodes
    padded = network(x, mask)
    torch.testing.assert_close(padded[:, :nodes], network(x[:, :nodes]))
    assert (padded[:, nodes:] == 0).all()


@torch.no_grad()
def test_the_non_local_block_sees_existing_nodes_only():
    block = randomised(NonLocal(4)).eval()
    x, mask = torch.randn(1, 4, 6, dtype=torch.float64), torch.tensor([[True, False, True, True, False, True]])
    torch.testing.assert_close(block(x, mask)[..., mask[0]], block(x[..., mask[0]]))


def test_the_scales_are_three_neighbours_one_two_and_four_nodes_apart():
    network = TemporalNetwork(8)
    assert [(conv.kernel_size, conv.dilation, conv.out_channels) for conv in network.local] == [
        ((3,), (1,), 2),
        ((3,), (2,), 2),
        ((3,), (4,), 2),
    ]


@torch.no_grad()
def test_the_non_local_block_starts_as_the_identity():
    x = torch.randn(2, 4, 7)
    assert torch.equal(NonLocal(4).eval()(x), x)


@torch.no_grad()
def test_the_non_local_block_sees_nodes_in_any_order_alike():
    block = randomised(NonLocal(4)).eval()
    x, order = torch.randn(2, 4, 7, dtype=torch.float64), torch.randperm(7)
    torch.testing.assert_close(block(x[..., order]), block(x)[..., order])


@torch.no_grad()
@pytest.mark.parametrize("join", JOINS)
def test_joins_by_hand(join):
    widths = {"video": 8, "text": 4, "sound": 4}
    fusion = randomised(MTN(widths, join=join)).eval()
    features = {name: torch.randn(2, 5, width, dtype=torch.float64) for name, width in widths.items()}
    rows = {name: fusion.network[name](x) for name, x in features.items()}
    if join == "concat":
        expected = torch.cat([rows["video"], rows["text"], rows["sound"]], dim=-1)
    else:
        assert set(fusion.projection) == {"video"}
        narrow = fusion.projection["video"]
        video = rows["video"] @ narrow.weight.T + narrow.bias
        both = (rows["text"], rows["sound"])
        expected = video + both[0] + both[1] if join == "add" else video * both[0] * both[1]
    torch.testing.assert_close(fusion(features).nodes, expected)


def test_sizes_near_the_published_ones():
    """MTN on 2048-wide features 23.6 M and on 768-wide 3.3 M; TEVAD 28.4 to 29.0 M."""
    assert round(count(TemporalNetwork(2048)) / 1e6, 1) == 23.6
    assert round(count(TemporalNetwork(768)) / 1e6, 1) == 3.3
    millions = {}
    for join in JOINS:
        fusion = MTN({"video": 2048, "text": 768}, join=join)
        millions[join] = round((count(fusion) + count(TevadHead(fusion.out_features))) / 1e6, 1)
    assert millions == {"concat": 28.4, "add": 29.0, "product": 29.0}


@pytest.mark.parametrize("momentum_rounds", [1, 3])
def test_the_norm_counts_existing_nodes_only(momentum_rounds):
    x = 3 * torch.randn(2, 4, 6, dtype=torch.float64) + 1
    mask = torch.tensor([[True] * 6, [True, False, True, True, False, False]])
    norm = NodeNorm(4).double().train()
    for _ in range(momentum_rounds):
        output = norm(x, mask)
    for channel in range(4):
        values = [x[b, channel, n].item() for b in range(2) for n in range(6) if mask[b, n]]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
        expected = (x[:, channel] - mean) / (variance + norm.eps) ** 0.5
        torch.testing.assert_close(output[:, channel], expected.masked_fill(~mask, 0.0))
        kept = 0.9**momentum_rounds
        running = kept * 0 + (1 - kept) * mean
        assert norm.running_mean[channel].item() == pytest.approx(running)


def test_a_batch_of_a_single_node_leaves_the_norm_alone():
    norm = randomised(NodeNorm(3)).train()
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    x = torch.randn(1, 3, 1, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(norm(x)[0, :, 0], normed(x[0, :, 0], norm))
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())


@torch.no_grad()
def test_the_head_by_hand():
    head = randomised(TevadHead(6)).eval()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    first, second, last = head.layers
    expected = [
        [(last.weight @ (second.weight @ (first.weight @ node + first.bias).relu() + second.bias).relu() + last.bias).item()]
        for node in x.reshape(-1, 6)
    ]
    torch.testing.assert_close(head(x).reshape(-1, 1), torch.tensor(expected, dtype=torch.float64))
    assert [layer.out_features for layer in head.layers] == [512, 128, 1]


def test_the_head_drops_units_in_training_only():
    head, x = TevadHead(6), torch.randn(2, 3, 6)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


def test_the_head_is_decided_by_its_seed():
    first, second, other = TevadHead(6, seed=1).eval(), TevadHead(6, seed=1).eval(), TevadHead(6, seed=2).eval()
    x = torch.randn(2, 3, 6)
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), other(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MTN({"video": 4}, join="mean"), "'join' parameter of MTN must be one of 'concat', 'add', 'product'"),
        (lambda: MTN({"video": 4}, seed=-1), "'seed' parameter of MTN must be an int"),
        (lambda: TemporalNetwork(0), "'width' parameter of TemporalNetwork"),
        (lambda: TevadHead(0), "'in_features' parameter of TevadHead"),
        (lambda: TevadHead(4, dropout=1.5), r"'dropout' parameter of TevadHead must be a number in \[0.0, 1.0\]"),
    ],
)
def test_wrong_arguments(make, message, unchecked_types):
    with pytest.raises(ParameterError, match=message):
        make()
