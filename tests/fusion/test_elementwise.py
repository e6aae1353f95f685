"""Fusions of each node by itself, against loops written from their formulas."""

import math

import pytest
import torch

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.elementwise import MLP, Add, Concat, Gated, Product, ScoreAverage

LABELS, VIDEOS = torch.tensor([False, True]), torch.arange(2)


def features(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"motion": torch.randn(2, 4, 3, generator=generator), "text": torch.randn(2, 4, 2, generator=generator)}


def test_concat_by_hand():
    fusion, train, test = Concat({"text": 2, "motion": 3}), features(), features(1)
    fusion.fit(train, LABELS, VIDEOS)
    nodes = fusion(test).nodes
    assert nodes.shape == (2, 4, 5)
    for column, (name, d) in enumerate([("text", 0), ("text", 1), ("motion", 0), ("motion", 1), ("motion", 2)]):
        known = train[name][..., d].flatten().tolist()
        mean = sum(known) / len(known)
        deviation = (sum((value - mean) ** 2 for value in known) / len(known)) ** 0.5
        expected = [[(value - mean) / deviation for value in row] for row in test[name][..., d].tolist()]
        torch.testing.assert_close(nodes[..., column], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_the_unit_of_a_modality_does_not_matter():
    plain, rescaled = Concat({"motion": 3, "text": 2}), Concat({"motion": 3, "text": 2})
    plain.fit(features(), LABELS, VIDEOS)
    train, test = ({**given, "motion": 1000 * given["motion"] + 7} for given in (features(), features(1)))
    rescaled.fit(train, LABELS, VIDEOS)
    torch.testing.assert_close(rescaled(test).nodes, plain(features(1)).nodes, rtol=1e-3, atol=1e-4)


def test_before_fitting_features_pass_unchanged():
    given = features()
    nodes = Concat({"motion": 3, "text": 2})(given).nodes
    assert torch.equal(nodes, torch.cat([given["motion"], given["text"]], dim=-1))


def ready(fusion):
    """Fitted, in double precision."""
    fusion = fusion.double()
    fusion.fit({name: x.double() for name, x in features().items()}, LABELS, VIDEOS)
    return fusion


def rows_of(fusion) -> list[dict[str, list[float]]]:
    """The scaled test features, node by node, each modality a list of numbers."""
    scaled = {}
    for name in fusion.modalities:
        train, test = features()[name].double().reshape(-1, fusion.modalities[name]), features(1)[name].double()
        scaled[name] = ((test - train.mean(0)) / train.std(0, unbiased=False)).reshape(-1, fusion.modalities[name]).tolist()
    return [{name: scaled[name][node] for name in scaled} for node in range(8)]


def mapped(layer, x: list[float]) -> list[float]:
    """W x + b, entry by entry."""
    bias = layer.bias.tolist() if layer.bias is not None else [0.0] * layer.out_features
    return [
        math.fsum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(layer.weight.tolist(), bias, strict=True)
    ]


def relu(x: list[float]) -> list[float]:
    return [max(value, 0.0) for value in x]


def assert_nodes(fusion, expected: list[list[float]]) -> None:
    nodes = fusion({name: x.double() for name, x in features(1).items()}).nodes
    wanted = torch.tensor(expected, dtype=torch.float64).reshape(2, 4, -1)
    torch.testing.assert_close(nodes, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "join"), [(Add, math.fsum), (Product, math.prod)])
def test_add_and_product_by_hand(kind, join):
    fusion = ready(kind({"motion": 3, "text": 2}, width=5))
    expected = []
    for row in rows_of(fusion):
        projected = [mapped(fusion.projection[name], row[name]) for name in ("motion", "text")]
        expected.append([join(column) for column in zip(*projected, strict=True)])
    assert_nodes(fusion, expected)


def test_gated_by_hand():
    fusion = ready(Gated({"motion": 3, "text": 2}, width=5))
    expected, gates = [], {"motion": [], "text": []}
    for row in rows_of(fusion):
        node = [0.0] * 5
        for name in ("motion", "text"):
            logit = mapped(fusion.gate[name], row["motion"] + row["text"])[0]
            gate = 1 / (1 + math.exp(-logit))
            gates[name].append(gate)
            node = [
                total + gate * math.tanh(z) for total, z in zip(node, mapped(fusion.projection[name], row[name]), strict=True)
            ]
        expected.append(node)
    assert_nodes(fusion, expected)
    read = fusion.gates({name: x.double() for name, x in features(1).items()})
    for name, values in gates.items():
        torch.testing.assert_close(read[name].flatten(), torch.tensor(values, dtype=torch.float64))


@torch.no_grad()
def test_closed_gates_leave_nothing_and_open_ones_everything():
    fusion, given = Gated({"motion": 3, "text": 2}, width=5), features(1)
    for name, bias in (("motion", 60.0), ("text", -200.0)):
        fusion.gate[name].weight.zero_()
        fusion.gate[name].bias.fill_(bias)
    torch.testing.assert_close(fusion(given).nodes, fusion.projection["motion"](given["motion"]).tanh())


def test_mlp_by_hand():
    fusion = ready(MLP({"motion": 3, "text": 2}, width=5, hidden=7))
    assert fusion.first.out_features == fusion.second.in_features == 7
    expected = [relu(mapped(fusion.second, relu(mapped(fusion.first, row["motion"] + row["text"])))) for row in rows_of(fusion)]
    assert_nodes(fusion, expected)


def test_score_average_by_hand():
    fusion = ready(ScoreAverage({"motion": 3, "text": 2}, hidden=4))
    expected, logits = [], {"motion": [], "text": []}
    for row in rows_of(fusion):
        for name in ("motion", "text"):
            logits[name].append(mapped(fusion.second[name], relu(mapped(fusion.first[name], row[name])))[0])
        expected.append([(logits["motion"][-1] + logits["text"][-1]) / 2])
    assert_nodes(fusion, expected)
    read = fusion.logits({name: x.double() for name, x in features(1).items()})
    for name, values in logits.items():
        torch.testing.assert_close(read[name].flatten(), torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Add({"motion": 3}, width=0), r"'width' parameter of Add must be an int in \[1, inf\)\. Got 0"),
        (lambda: Product({"motion": 3}, width=2.5), "'width' parameter of Product must be an int"),
        (lambda: Gated({"motion": 3}, seed=-1), r"'seed' parameter of Gated must be an int in \[0, inf\)"),
        (lambda: MLP({"motion": 3}, hidden=0), "'hidden' parameter of MLP must be an int"),
        (lambda: ScoreAverage({}), r"a fusion needs at least one modality \(ScoreAverage\)"),
    ],
)
def test_wrong_arguments(make, message, unchecked_types):
    with pytest.raises(ParameterError, match=message):
        make()
