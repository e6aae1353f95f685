"""The head and the detector: by hand, from which start, and what calibration promises."""

import json

import pytest
import torch
from torch import Tensor

from lego_fusion.detect.detector import Detector, NodeHead
from lego_fusion.errors import ParameterError
from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.registry import make_fusion
from lego_fusion.fusion.temporal import MTN

WIDTHS = {"motion": 4, "text": 3}
N = 8
FUSIONS = {
    "references": lambda: LegoFusion(WIDTHS, nodes=N, references=6),
    "nodes": lambda: LegoFusion(WIDTHS, nodes=N, references=0),
    "paper": lambda: LegoFusion.paper(WIDTHS, nodes=N),
    "propagate": lambda: LegoFusion(WIDTHS, nodes=N, references=6, rows="propagate"),
    "concat": lambda: Concat(WIDTHS),
    "mtn": lambda: MTN(WIDTHS),
}
every_fusion = pytest.mark.parametrize("make", FUSIONS.values(), ids=FUSIONS)
LABELS = torch.tensor([False] * 4 + [True] * 2)


def features(bags: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(bags, N, width, generator=generator) for name, width in WIDTHS.items()}


def fitted(make) -> Fusion:
    fusion = make()
    fusion.fit_statistics(features(), LABELS, torch.arange(6))
    return fusion


@torch.no_grad()
def test_the_head_by_hand():
    head = NodeHead(5, 3, seed=1).double()
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    for b in range(2):
        for n in range(4):
            hidden = [
                max(0.0, sum(w * v for w, v in zip(row, x[b, n].tolist(), strict=True)) + bias)
                for row, bias in zip(head.first.weight.tolist(), head.first.bias.tolist(), strict=True)
            ]
            last = zip(head.second.weight[0].tolist(), hidden, strict=True)
            expected = sum(w * h for w, h in last) + head.second.bias.item()
            assert head(x)[b, n].item() == pytest.approx(expected, rel=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("reach", [1.0, 30.0])
def test_a_signed_start_is_linear_within_its_reach(reach):
    direction = torch.tensor([1.0, -2.0, 0.5])
    head = NodeHead(3, 16, direction=direction, reach=reach).double()
    x, y = (reach * (2 * torch.rand(1, 50, 3, dtype=torch.float64) - 1) for _ in range(2))
    assert abs(head(torch.zeros(1, 1, 3, dtype=torch.float64)).item()) < 1e-5 * reach
    torch.testing.assert_close(head((x + y) / 2), (head(x) + head(y)) / 2)
    slopes = head(torch.eye(3, dtype=torch.float64)[None])[0]
    assert torch.equal(slopes.sign().float(), direction.sign())
    torch.testing.assert_close(slopes.float(), direction, rtol=0.2, atol=0)


@torch.no_grad()
def test_a_signed_start_without_noise_is_the_direction_itself():
    direction = torch.tensor([1.0, -2.0, 0.5])
    head = NodeHead(3, 16, direction=direction, noise=0.0).double()
    x = 2 * torch.rand(1, 50, 3, dtype=torch.float64) - 1
    torch.testing.assert_close(head(x), x @ direction.double())


@torch.no_grad()
def test_rescale_shifts_and_scales_every_logit():
    head, x = NodeHead(5, 3).double(), torch.randn(2, 4, 5, dtype=torch.float64)
    before = head(x)
    head.rescale(1.5, 0.25)
    torch.testing.assert_close(head(x), (before - 1.5) / 0.25)


@pytest.mark.parametrize("make", [lambda: NodeHead(4), lambda: NodeHead(4, direction=torch.ones(4))])
def test_dropout_acts_in_training_only(make):
    head, plain = NodeHead(4, dropout=0.5), make()
    x = torch.randn(3, 5, 4)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))
    assert torch.equal(plain.train()(x), plain(x))


@pytest.mark.parametrize("direction", [None, torch.ones(4)])
def test_the_head_is_decided_by_its_seed(direction):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (NodeHead(4, direction=direction, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.first.weight, second.first.weight)
    assert not torch.equal(first.first.weight, other.first.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "'in_features' parameter of NodeHead must be an int"),
        ({"in_features": 3, "hidden": 0}, "'hidden' parameter of NodeHead"),
        ({"in_features": 3, "dropout": -0.1}, "'dropout' parameter of NodeHead must be a number"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ParameterError, match=message):
        NodeHead(**arguments)


@every_fusion
def test_one_logit_per_node(make):
    detector = Detector(fitted(make)).eval()
    output = detector(features(3, seed=1))
    assert output.logits.shape == (3, N)
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize("name", ["references", "nodes", "paper"])
def test_cached_graphs_give_the_same_scores(name):
    fusion = fitted(FUSIONS[name])
    detector, test = Detector(fusion).eval(), features(3, seed=1)
    from_graphs = detector(fusion.relations(test), cached=True)
    assert torch.equal(from_graphs.logits, detector(test).logits)
    assert torch.equal(from_graphs.graph, detector(test).graph)


def test_a_fusion_without_relations_cannot_be_cached():
    detector = Detector(fitted(FUSIONS["concat"]))
    with pytest.raises(ParameterError, match=r"the fusion 'concat' has no relations to cache\. What to do: pass features"):
        detector(features(), cached=True)


@every_fusion
def test_padding_changes_no_logit_of_a_node_that_exists(make):
    detector = Detector(fitted(make)).eval()
    mask = torch.arange(N).expand(3, N) < torch.tensor([[N], [5], [1]])
    given = features(3, seed=1)
    garbage = {name: torch.where(mask[:, :, None], x, 1e3) for name, x in given.items()}
    assert torch.equal(detector(given, mask).logits[mask], detector(garbage, mask).logits[mask])


@every_fusion
def test_every_parameter_by_name_gets_a_gradient(make):
    detector = Detector(fitted(make))
    detector(features())[0].square().sum().backward()
    missing = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert missing == []
    assert detector.parameter_count() == sum(parameter.numel() for parameter in detector.parameters())
    assert {name.partition(".")[0] for name in detector.state_dict()} == {"fusion", "head"}


def test_the_size_is_the_published_one():
    """LEGO operator and head: 1.1 to 1.2 thousand parameters at N = 32, order 2."""
    paper = Detector(LegoFusion.paper({"motion": 1024, "text": 768}, nodes=32))
    assert paper.parameter_count() == 3 * 3 + (32 * 32 + 32) + (32 + 1)
    default = Detector(LegoFusion({"motion": 1024, "text": 768}, nodes=32, order=2))
    assert round(default.parameter_count(), -2) in (1100, 1200)


@every_fusion
def test_the_configuration_makes_an_equal_detector(make):
    detector = Detector(fitted(make), hidden=7, dropout=0.25, seed=3)
    config = json.loads(json.dumps(detector.config()))
    again = Detector(make_fusion(config["fusion"]["kind"], config["fusion"]["config"]), **config["head"])
    assert again.config() == detector.config()
    assert again.head.first.out_features == 7 and again.head.dropout.p == 0.25
    again.load_state_dict(detector.state_dict())
    assert torch.equal(again.eval()(features()).logits, detector.eval()(features()).logits)


def outliers() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Normal training features around one point, and a test video whose last two nodes lie elsewhere in both modalities."""
    generator = torch.Generator().manual_seed(0)
    centres = {name: 3 * torch.randn(width, generator=generator) for name, width in WIDTHS.items()}
    train = {name: c + 0.5 * torch.randn(6, N, len(c), generator=generator) for name, c in centres.items()}
    test = {name: c + 0.5 * torch.randn(1, N, len(c), generator=generator) for name, c in centres.items()}
    for x in (*test.values(), *(x[4:] for x in train.values())):
        x[:, -2:] *= -1
    return train, test


@pytest.mark.parametrize("relations", ["cosine", "gaussian", "dot"])
def test_untrained_reference_units_score_in_the_right_sense(relations):
    train, test = outliers()
    fusion = LegoFusion(WIDTHS, nodes=N, references=6, relations=relations)
    fusion.fit_statistics(train, LABELS, torch.arange(6))
    detector = Detector(fusion)
    detector.calibrate_start(fusion.training_relations(train, LABELS, torch.arange(6)), LABELS, cached=True)
    logits = detector.eval()(test).logits[0]
    assert logits[-2:].min() > logits[:-2].max()


@pytest.mark.parametrize("name", ["references", "nodes", "concat"])
def test_calibration_puts_normal_nodes_at_minus_two_with_deviation_one(name):
    fusion = fitted(FUSIONS[name])
    cached = name != "concat"
    inputs = fusion.training_relations(features(), LABELS, torch.arange(6)) if cached else features()
    detector = Detector(fusion).train()
    poisoned = {key: x.masked_fill(LABELS[:, None, None], float("nan")) for key, x in inputs.items()}
    detector.calibrate_start(poisoned, LABELS, cached=cached)
    assert detector.training
    normal = detector.eval()({key: x[~LABELS] for key, x in inputs.items()}, cached=cached).logits
    assert normal.mean().item() == pytest.approx(-2, abs=1e-3)
    assert normal.std().item() == pytest.approx(1, abs=1e-2)


def test_calibration_keeps_the_order_of_scores():
    fusion = fitted(lambda: LegoFusion({"motion": 4}, nodes=N, references=6))
    test = {"motion": features(3, seed=1)["motion"]}
    detector = Detector(fusion).eval()
    before = detector(test).logits.flatten().argsort()
    detector.calibrate_start({"motion": fusion.relations(features())["motion"]}, LABELS, cached=True)
    assert torch.equal(detector(test).logits.flatten().argsort(), before)


def test_calibration_on_nodes_that_are_all_alike_stays_finite():
    same = {name: torch.ones(6, N, width) for name, width in WIDTHS.items()}
    fusion = fitted(FUSIONS["concat"])
    detector = Detector(fusion)
    detector.calibrate_start(same, LABELS, cached=False)
    assert torch.isfinite(detector(features()).logits).all()
    assert detector(same).logits.mean().item() == pytest.approx(-2, abs=1e-4)
