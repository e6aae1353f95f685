"""Bag losses against loops in double precision, and what must not change them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.learn.objective import bag_loss, degree_variance, smoothness, sparsity

POOLINGS = ("top-k", "max", "mean")
PER_BAG = {
    "top-k": lambda logits, labels, mask: bag_loss(logits, labels, mask, k=3),
    "max": lambda logits, labels, mask: bag_loss(logits, labels, mask, pooling="max"),
    "mean": lambda logits, labels, mask: bag_loss(logits, labels, mask, pooling="mean"),
    "smoothness": lambda logits, labels, mask: smoothness(logits, mask),
    "sparsity": lambda logits, labels, mask: sparsity(logits, mask),
}
every_loss = pytest.mark.parametrize("loss", PER_BAG.values(), ids=PER_BAG)


def batch(bags: int = 5, nodes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(bags, nodes, generator=generator, dtype=torch.float64)
    labels = torch.arange(bags) % 2 == 1
    lengths = torch.randint(1, nodes + 1, (bags,), generator=generator)
    return logits, labels, torch.arange(nodes) < lengths[:, None]


def score(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def bag_loss_by_hand(logits: list[float], abnormal: bool, k: int) -> float:
    highest = sorted(map(score, logits))[-k:]
    bag_score = sum(highest) / len(highest)
    return -math.log(bag_score) if abnormal else -math.log(1 - bag_score)


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-8, 8), min_size=1, max_size=9),
    abnormal=st.booleans(),
    k=st.integers(1, 12),
    padding=st.integers(0, 3),
)
def test_bag_loss_by_hand(logits, abnormal, k, padding):
    given_logits = torch.tensor([logits + [99.0] * padding], dtype=torch.float64)
    mask = torch.tensor([[True] * len(logits) + [False] * padding])
    labels = torch.tensor([abnormal])
    for pooling, count in (("top-k", k), ("max", 1), ("mean", len(logits))):
        expected = bag_loss_by_hand(logits, abnormal, count)
        loss = bag_loss(given_logits, labels, mask, pooling=pooling, k=k)
        assert loss.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
        if not padding:
            assert bag_loss(given_logits, labels, pooling=pooling, k=k).item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@every_loss
def test_a_bag_does_not_depend_on_batch_size_order_or_neighbours(loss):
    logits, labels, mask = batch()
    together = loss(logits, labels, mask)
    assert together.shape == (5,)
    for bag in range(5):
        alone = loss(logits[bag : bag + 1], labels[bag : bag + 1], mask[bag : bag + 1])
        torch.testing.assert_close(alone[0], together[bag])
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(loss(logits[order], labels[order], mask[order]), together[order])
    others = logits.clone()
    others[1:] = 50.0
    torch.testing.assert_close(loss(others, labels, mask)[0], together[0])


@every_loss
def test_repeating_a_batch_repeats_its_losses(loss):
    """So the mean over a batch grows with nothing: neither sparsity nor anything else sums over bags."""
    logits, labels, mask = batch()
    twice = loss(logits.repeat(2, 1), labels.repeat(2), mask.repeat(2, 1))
    torch.testing.assert_close(twice, loss(logits, labels, mask).repeat(2))


@every_loss
def test_padding_changes_nothing(loss):
    logits, labels, mask = batch()
    for bag in range(5):
        length = int(mask[bag].sum())
        short = loss(logits[bag : bag + 1, :length], labels[bag : bag + 1], None)
        torch.testing.assert_close(loss(logits, labels, mask)[bag], short[0])


@every_loss
def test_no_gradient_reaches_padding_or_another_bag(loss):
    logits, labels, mask = batch()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels, mask)[2], logits)
    assert (gradient[[0, 1, 3, 4]] == 0).all()
    assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_labels_decide_not_places(pooling):
    """With every label turned round, each bag meets the other half of the cross-entropy."""
    logits, labels, _ = batch()
    for given_labels in (labels, ~labels):
        losses = bag_loss(logits, given_labels, pooling=pooling, k=2)
        for bag in range(5):
            count = {"top-k": 2, "max": 1, "mean": 7}[pooling]
            expected = bag_loss_by_hand(logits[bag].tolist(), bool(given_labels[bag]), count)
            assert losses[bag].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("abnormal", [True, False])
def test_a_batch_of_one_video_pulls_the_way_of_its_label(abnormal):
    logits = torch.zeros(1, 6, requires_grad=True)
    bag_loss(logits, torch.tensor([abnormal])).sum().backward()
    moved = -logits.grad.sum()
    assert moved > 0 if abnormal else moved < 0


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_fewer_nodes_than_k(nodes):
    logits = torch.linspace(-1, 2, nodes, dtype=torch.float64)[None]
    for abnormal in (False, True):
        expected = bag_loss_by_hand(logits[0].tolist(), abnormal, 3)
        assert bag_loss(logits, torch.tensor([abnormal]), k=3).item() == pytest.approx(expected, rel=1e-12)


def test_a_node_repeated_k_times_is_that_node():
    for value in (-2.0, 0.3):
        logits = torch.full((1, 9), value, dtype=torch.float64)
        for pooling in POOLINGS:
            loss = bag_loss(logits, torch.tensor([True]), pooling=pooling)
            assert loss.item() == pytest.approx(-math.log(score(value)), rel=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("abnormal", [True, False])
@pytest.mark.parametrize("value", [-80.0, 80.0, -1e4, 1e4])
@pytest.mark.parametrize("mixed", [True, False])
def test_extreme_logits_keep_value_and_gradient_finite(pooling, abnormal, value, mixed):
    logits = torch.full((1, 5), value)
    if mixed:
        logits[0, ::2] = -value
    logits.requires_grad_()
    loss = bag_loss(logits, torch.tensor([abnormal]), torch.tensor([[True] * 4 + [False]]), pooling=pooling)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
    wrong_way = (value < 0) == abnormal
    if not mixed:
        assert loss.item() == pytest.approx(abs(value) if wrong_way else 0.0, rel=1e-6, abs=1e-6)
        assert logits.grad.abs().sum().item() == pytest.approx(1.0 if wrong_way else 0.0, abs=2e-3)


def test_scores_are_not_rounded_to_one_before_the_logarithm():
    """At a logit of 20 the score in single precision is 1, and -log(1 - 1) would be infinite."""
    loss = bag_loss(torch.tensor([[20.0]]), torch.tensor([False]), k=1)
    assert loss.item() == pytest.approx(20 + math.exp(-20), rel=1e-6)


def test_smoothness_and_sparsity_by_hand():
    logits, _, mask = batch(bags=4, nodes=6)
    mask[0] = torch.tensor([True, True, False, True, True, False])  # a gap has no neighbours across it
    for bag in range(4):
        scores = [score(value) for value in logits[bag].tolist()]
        there = mask[bag].tolist()
        jumps = sum((scores[i + 1] - scores[i]) ** 2 for i in range(5) if there[i] and there[i + 1])
        assert smoothness(logits, mask)[bag].item() == pytest.approx(jumps, rel=1e-10, abs=1e-14)
        total = sum(value for value, exists in zip(scores, there, strict=True) if exists)
        assert sparsity(logits, mask)[bag].item() == pytest.approx(total, rel=1e-10)


def test_smoothness_does_not_cross_from_video_to_video():
    """Each video is flat, so whatever a border between two of them would add is missing."""
    logits = torch.tensor([[-9.0], [9.0], [-9.0]]).expand(3, 8)
    assert smoothness(logits).tolist() == [0.0, 0.0, 0.0]


def test_a_video_of_one_segment_is_smooth():
    assert smoothness(torch.tensor([[3.0]])).tolist() == [0.0]


def degree_variance_by_hand(graph: Tensor, labels: Tensor, mask: Tensor, threshold: float, k: int, square: bool) -> float:
    variances: dict[bool, list[float]] = {False: [], True: []}
    for bag in range(len(graph)):
        nodes = [n for n in range(graph.shape[1]) if mask[bag, n]]
        columns = nodes if square else list(range(graph.shape[2]))
        degrees = []
        for node in nodes:
            edges = [graph[bag, node, column].item() for column in columns]
            degrees.append(sum(edge for edge in edges if edge >= threshold) / len(columns))
        if labels[bag]:
            degrees = sorted(degrees)[-k:]
        mean = sum(degrees) / len(degrees)
        variances[bool(labels[bag])].append(sum((d - mean) ** 2 for d in degrees) / len(degrees))
    means = {label: sum(values) / len(values) for label, values in variances.items()}
    return (means[False] - means[True]) ** 2


@pytest.mark.parametrize(("columns", "square"), [(6, True), (6, False), (4, False)])
@pytest.mark.parametrize("threshold", [-2.0, 0.0, 0.5])
@pytest.mark.parametrize("k", [1, 3, 17])
def test_degree_variance_by_hand(columns, square, threshold, k):
    generator = torch.Generator().manual_seed(k)
    _, labels, mask = batch(bags=5, nodes=6)
    graph = 2 * torch.rand(5, 6, columns, generator=generator, dtype=torch.float64) - 1
    graph = graph.masked_fill(~mask[:, :, None], 0.0)
    if square:
        graph = graph.masked_fill(~mask[:, None, :], 0.0)
    expected = degree_variance_by_hand(graph, labels, mask, threshold, k, square)
    loss = degree_variance(graph, labels, mask, threshold=threshold, k=k, square=square)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_degree_variance_does_not_change_with_order_or_repetition():
    graph = torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([False, True, False, True, True])
    plain = degree_variance(graph, labels)
    order = torch.tensor([4, 0, 3, 1, 2])
    torch.testing.assert_close(degree_variance(graph[order], labels[order]), plain)
    torch.testing.assert_close(degree_variance(graph.repeat(3, 1, 1), labels.repeat(3)), plain)
    assert plain > 0


def test_a_relative_alpha_is_a_quantile_of_the_normal_bags_and_the_difference_relative_to_the_sum():
    """Normal entries 0, 1, 2, 3: alpha at 0.5 is 1; excesses 0, 0, 1, 2 and 0, 0.6, 0, 0: degrees 0, 1.5 and 0.3, 0."""
    graph = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[1.0, 1.6], [0.0, 0.0]]], dtype=torch.float64)
    labels = torch.tensor([False, True])
    expected = ((0.75**2 - 0.15**2) / (0.75**2 + 0.15**2)) ** 2
    assert degree_variance(graph, labels, quantile=0.5).item() == pytest.approx(expected)
    for factor, shift in ((1e-3, 0.0), (1e3, -7.0)):  # neither scale nor level of the graph matters
        assert degree_variance(factor * graph + shift, labels, quantile=0.5).item() == pytest.approx(expected)
    even = torch.cat([graph[:1], torch.full((1, 2, 2), 100.0)])  # abnormal entries have no part in alpha
    assert degree_variance(even, labels, quantile=0.5).item() == pytest.approx(1.0)
    assert degree_variance(torch.ones(2, 2, 2), labels).item() == 0.0


def test_the_relative_form_is_differentiable_through_its_threshold():
    graph = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([False, True, False, True])
    assert torch.autograd.gradcheck(lambda x: degree_variance(x, labels, quantile=0.6), graph)


def test_entries_that_do_not_exist_have_no_part_in_alpha():
    graph = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels, mask = torch.tensor([False, True]), torch.arange(5).expand(2, 5) < 3
    padded = graph.masked_fill(~(mask[:, :, None] & mask[:, None]), 0.0)
    plain = degree_variance(graph[:, :3, :3], labels, quantile=0.5, square=True)
    torch.testing.assert_close(degree_variance(padded, labels, mask, quantile=0.5, square=True), plain)


def test_a_threshold_that_nothing_reaches_is_said():
    graph, labels = torch.rand(2, 4, 4) / 2, torch.tensor([False, True])
    with pytest.warns(RuntimeWarning, match="no entry of the fused graph reaches alpha"):
        assert degree_variance(graph, labels, threshold=0.8) == 0
    with pytest.raises(ParameterError, match="'quantile' parameter of degree_variance"):
        degree_variance(graph, labels, quantile=1.5)


@pytest.mark.parametrize("times", [2, 8])
def test_degree_variance_does_not_grow_with_the_graph(times):
    """Each node split into equal copies: twice the nodes, twice the columns, the same degrees."""
    graph = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([False, True, False, True])
    large = graph.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    small = degree_variance(graph, labels, k=5)
    torch.testing.assert_close(degree_variance(large, labels, k=5 * times), small)


@pytest.mark.parametrize(("label", "what"), [(True, "only abnormal bags"), (False, "only normal bags")])
@pytest.mark.parametrize("bags", [1, 3])
def test_degree_variance_of_one_label_is_an_error(label, what, bags):
    graph = torch.rand(bags, 4, 4)
    with pytest.raises(DataError, match=f"compares the two labels.*got {what}.*sample batches by label"):
        degree_variance(graph, torch.full((bags,), label))


@pytest.mark.parametrize("pooling", ["top-k", "max", "mean"])
def test_a_bag_without_nodes(pooling):
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(DataError, match=r"a bag has no node \(bag 1\)"):
        bag_loss(torch.zeros(2, 2), torch.tensor([False, True]), mask, pooling=pooling)


def test_wrong_arguments(unchecked_types):
    logits, labels = torch.zeros(1, 2), torch.tensor([True])
    with pytest.raises(ParameterError, match="'pooling' parameter of bag_loss must be one of 'top-k', 'max', 'mean'"):
        bag_loss(logits, labels, pooling="median")
    with pytest.raises(ParameterError, match=r"'k' parameter of bag_loss must be an int in \[1, inf\). Got 0"):
        bag_loss(logits, labels, k=0)
    with pytest.raises(ParameterError, match="'k' parameter of degree_variance"):
        degree_variance(torch.zeros(2, 2, 2), torch.tensor([True, False]), k=0)
