"""PaperFusion: graphs inside a video, rows and options by hand, and what it can learn that others cannot."""

import math
from typing import get_args

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.options import RelationKind, Rows
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import Bags, fit_frozen
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.train import fit, predict

WIDTHS = {"motion": 4, "text": 3}
N = 6
every_relation = pytest.mark.parametrize(
    "relations", [*get_args(RelationKind), {"motion": "gaussian", "text": "cosine"}], ids=str
)


def features(bags: int = 7, seed: int = 0, nodes: int = N) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(bags, nodes, width, generator=generator) for name, width in WIDTHS.items()}


LABELS = torch.tensor([False, True, False, False, True, False, False])
VIDEOS = torch.arange(7)
OURS = {"nodes": N, "centre": True, "zero_order": "ones", "form": "joint", "rows": "sorted"}


def fitted(given: dict[str, Tensor] | None = None, **options) -> PaperFusion:
    fusion = PaperFusion(WIDTHS, **{**OURS, **options})
    fusion.fit(features() if given is None else given, LABELS, VIDEOS)
    return fusion.eval()


@pytest.mark.parametrize("rows", get_args(Rows))
def test_fusing_features_is_relating_and_then_fusing_graphs(rows):
    fusion, test = fitted(rows=rows), features(3, seed=1)
    mask = torch.rand(3, N, generator=torch.Generator().manual_seed(2)) > 0.3
    for given_mask in (None, mask):
        output = fusion.fuse(test, given_mask)
        frozen = fusion(fusion.transform(test, given_mask), given_mask)
        assert torch.equal(frozen.nodes, output.nodes) and torch.equal(frozen.graph, output.graph)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_fused_graph_is_the_polynomial_of_the_relations(order):
    """g = sum_pq A_pq s^p t^q with the coefficients written out."""
    fusion, test = fitted(order=order, form="full"), features(2, seed=1)
    s, t = (fusion.relations(test)[name].double() for name in WIDTHS)
    coefficients = fusion.operator.coefficients.double()
    expected = sum(coefficients[p, q] * s**p * t**q for p in range(order + 1) for q in range(order + 1))
    torch.testing.assert_close(fusion.fuse(test).graph.double(), expected, rtol=1e-5, atol=1e-6)


def test_orders_by_name():
    fusion = fitted(order={"text": 4, "motion": 1})
    assert fusion.operator.factors["motion"].shape[1] == 2
    assert fusion.operator.factors["text"].shape[1] == 5


def test_training_relations_are_those_of_prediction():
    fusion, train = fitted(), features()
    trained, predicted = fusion.fit_transform(train, LABELS, VIDEOS), fusion.relations(train)
    assert all(torch.equal(trained[name], predicted[name]) for name in WIDTHS)


@pytest.mark.parametrize("rows", ["sorted", "statistics", "propagate"])
def test_the_order_of_nodes_moves_with_them(rows):
    fusion, test = fitted(rows=rows), features(2, seed=1)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    shuffled = fusion.fuse({name: x[:, order] for name, x in test.items()})
    torch.testing.assert_close(shuffled.nodes, fusion.fuse(test).nodes[:, order], rtol=1e-4, atol=1e-5)


def statistics_by_hand(row: list[float]) -> list[float]:
    ordered, count = sorted(row), len(row)
    mean = sum(row) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / count)

    def quantile(q: float) -> float:
        place = q * (count - 1)
        below = int(place)
        above = min(below + 1, count - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    total = sum(map(abs, row))
    entropy = -sum(abs(value) / total * math.log(abs(value) / total) for value in row if value)
    return [mean, deviation, *(quantile(q) for q in (0, 0.25, 0.5, 0.75, 1)), entropy]


@pytest.mark.parametrize("masked", [False, True])
def test_rows_by_hand(masked):
    test = features(2, seed=1)
    mask = torch.tensor([[True] * N, [True, True, False, True, True, False]]) if masked else None
    for rows in get_args(Rows):
        fusion = fitted(rows=rows).double()
        given = {name: x.double() for name, x in test.items()}
        output = fusion.fuse(given, mask)
        for bag in range(2):
            there = [n for n in range(N) if mask is None or mask[bag, n]]
            for node in range(N):
                if node not in there:
                    assert (output.nodes[bag, node] == 0).all()
                    continue
                row = output.graph[bag, node].tolist()
                chosen = [row[column] for column in there]
                if rows == "ordered":
                    expected = row
                elif rows == "sorted":
                    expected = sorted(chosen, reverse=True) + [0.0] * (len(row) - len(chosen))
                elif rows == "statistics":
                    expected = statistics_by_hand(chosen)
                else:
                    weight = sum(abs(row[column]) for column in there)
                    expected = []
                    for name in WIDTHS:
                        values = given[name][bag]
                        expected += (sum(row[column] * values[column] for column in there) / weight).tolist()
                wanted = torch.tensor(expected, dtype=torch.float64)
                torch.testing.assert_close(output.nodes[bag, node], wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rows", ["ordered", "sorted", "statistics", "propagate"])
def test_own_features_follow_what_is_handed_on_without_them(rows):
    """They are centred by the training bags."""
    plain, own = (fitted(rows=rows, own_features=wanted) for wanted in (False, True))
    test = features(2, seed=1)
    nodes, more = plain.fuse(test).nodes, own.fuse(test).nodes
    assert own.out_features == more.shape[-1] == plain.out_features + sum(WIDTHS.values())
    torch.testing.assert_close(more[..., : plain.out_features], nodes)
    handed = more[..., plain.out_features :]
    for name, width in WIDTHS.items():
        part, handed = handed.split([width, handed.shape[-1] - width], dim=-1)
        x = test[name].flatten(0, 1).double()
        ratio = (part.flatten(0, 1).double() - part.flatten(0, 1).double().mean(0)) / (x - x.mean(0))
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-4)  # one scale a column
        assert (ratio > 0).all()


@pytest.mark.parametrize("nearest", [1, 3, 99])
def test_only_the_nearest_relations_are_kept(nearest):
    plain, sparse = fitted(), fitted(nearest=nearest)
    test = features(2, seed=1)
    for name in WIDTHS:
        full, kept = plain.relations(test)[name], sparse.relations(test)[name]
        assert ((kept == full) | (kept == 0)).all()
        assert ((kept != 0).sum(-1) >= min(nearest, N)).all()
        assert torch.equal(kept, kept.transpose(1, 2))


def test_unit_range():
    test = features(2, seed=1)
    plain, mapped = fitted().relations(test), fitted(unit_range=True).relations(test)
    for name in WIDTHS:
        torch.testing.assert_close(mapped[name], (plain[name] + 1) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "'nodes' parameter of PaperFusion must be an int"),
        ({"rows": "reversed"}, "'rows' parameter of PaperFusion must be one of 'ordered', 'sorted'"),
        ({"nearest": 0}, "'nearest' parameter of PaperFusion"),
        ({"order": -1}, "'order' parameter of PaperFusion"),
        ({"relations": "euclid"}, "'relations' parameter of PaperFusion must be one of 'cosine'"),
        ({"relations": {"motion": "dot"}}, "no relation is given for modality 'text': got motion"),
        ({"units": {"flow": 1}}, "units names 'flow', which is no modality"),
        ({"units": {"text": 1}, "rows": "propagate"}, "rows='propagate' needs one vector per node"),
        ({"units": {"text": 1}, "own_features": True}, "own_features=True needs one vector per node: got units of text"),
        (
            {"units": {"text": 1}, "unit_pooling": "least"},
            "'unit_pooling' parameter of PaperFusion must be one of 'mean', 'max'",
        ),
    ],
)
def test_wrong_options(options, message, unchecked_types):
    with pytest.raises(ParameterError, match=message):
        PaperFusion(WIDTHS, **options)


def test_the_reading_of_the_paper():
    paper = PaperFusion(WIDTHS, nodes=N, order=3)
    test = features(2, seed=1)
    paper.fit(features(), LABELS, VIDEOS)
    cosines = {name: torch.nn.functional.cosine_similarity(x[:, :, None], x[:, None], dim=-1) for name, x in test.items()}
    relations = paper.relations(test)
    coefficients = paper.operator.coefficients
    s, t = ({0: torch.eye(N).expand(2, N, N), **{p: cosines[name] ** p for p in (1, 2, 3)}} for name in WIDTHS)
    expected = sum(coefficients[p, q] * s[p] * t[q] for p in range(4) for q in range(4))
    output = paper.eval().fuse(test)
    for name in WIDTHS:
        torch.testing.assert_close(relations[name], cosines[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.graph, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(output.nodes, output.graph), "rows in order"
    assert PaperFusion({**WIDTHS, "audio": 2}, nodes=N).operator.form == "random-pair"


def segment_auc(detector: Detector, bags: Bags, odd: Tensor) -> float:
    return float(roc_auc_score(odd.flatten().numpy(), predict(detector, bags).flatten().numpy()))


def outlier_bags(videos: int, seed: int, nodes: int = 16) -> tuple[Bags, Tensor]:
    """Every video has a subject of its own; in abnormal ones three segments are about something else, in every modality."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(videos) % 2 == 1
    odd = torch.zeros(videos, nodes, dtype=torch.bool)
    for video in labels.nonzero()[:, 0].tolist():
        odd[video, torch.randperm(nodes, generator=generator)[:3]] = True
    inputs = {}
    for name, width in (("motion", 12), ("text", 16)):
        subject = torch.randn(videos, 1, width, generator=generator)
        other = torch.randn(videos, nodes, width, generator=generator)
        inputs[name] = torch.where(odd[:, :, None], other, subject) + 0.4 * torch.randn(
            videos, nodes, width, generator=generator
        )
    return Bags(tuple(f"v{i}" for i in range(videos)), labels, 1, inputs), odd


def test_the_reading_of_the_paper_learns_to_find_outliers_within_a_video():
    train, _ = outlier_bags(40, seed=0)
    test, odd = outlier_bags(40, seed=1)
    fusion = PaperFusion({"motion": 12, "text": 16}, nodes=16)
    fit_frozen(fusion, train)
    detector = Detector(fusion)
    before = segment_auc(detector, test, odd)
    fit(detector, train, TrainingConfig(steps=150, learning_rate=1e-2))
    assert segment_auc(detector, test, odd) > max(0.95, before)
