"""The head and the detector: by hand, from which start, and what calibration promises."""

import json

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.networks import MTN
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.fusion.reading_head import ReadingHead
from lego_fusion.fusion.registry import make_fusion
from lego_fusion.learn.detector import Detector, NodeHead

WIDTHS = {"motion": 4, "text": 3}
N = 8
FUSIONS = {
    "lego": lambda: LegoFusion(WIDTHS),
    "learned operator": lambda: LegoFusion(WIDTHS, operator="learned"),
    "paper": lambda: PaperFusion(WIDTHS, nodes=N),
    "sorted rows": lambda: PaperFusion(WIDTHS, nodes=N, rows="sorted", zero_order="ones", form="joint"),
    "propagate": lambda: PaperFusion(WIDTHS, nodes=N, rows="propagate"),
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
    fusion.fit(features(), LABELS, torch.arange(6))
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


def test_dropout_acts_in_training_only():
    head, plain = NodeHead(4, dropout=0.5), NodeHead(4)
    x = torch.randn(3, 5, 4)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))
    assert torch.equal(plain.train()(x), plain(x))


def test_the_head_is_decided_by_its_seed():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (NodeHead(4, seed=seed) for seed in (1, 1, 2))
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


@pytest.mark.parametrize("name", ["lego", "learned operator", "paper", "sorted rows"])
def test_frozen_inputs_give_the_same_scores(name):
    fusion = fitted(FUSIONS[name])
    detector, test = Detector(fusion).eval(), features(3, seed=1)
    frozen, whole = detector(fusion.transform(test), cached=True), detector(test)
    assert torch.equal(frozen.logits, whole.logits)
    assert (frozen.graph is None) == (whole.graph is None) == (name == "lego")
    assert frozen.graph is None or torch.equal(frozen.graph, whole.graph)


def test_the_head_of_a_fusion_goes_before_that_of_the_detector():
    assert isinstance(Detector(fitted(FUSIONS["lego"])).reading_head, ReadingHead)
    for name in ("paper", "concat", "mtn"):
        detector = Detector(fitted(FUSIONS[name]))
        assert detector.reading_head is None and isinstance(detector.head, NodeHead)


@every_fusion
def test_padding_changes_no_logit_of_a_node_that_exists(make):
    detector = Detector(fitted(make)).eval()
    mask = torch.arange(N).expand(3, N) < torch.tensor([[N], [5], [1]])
    given = features(3, seed=1)
    garbage = {name: torch.where(mask[:, :, None], x, 1e3) for name, x in given.items()}
    assert torch.equal(detector(given, mask).logits[mask], detector(garbage, mask).logits[mask])


@every_fusion
def test_every_learned_parameter_by_name_gets_a_gradient(make):
    detector = Detector(fitted(make))
    detector(features())[0].square().sum().backward()
    learned = {name: parameter for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in learned.items() if parameter.grad is None] == []
    assert detector.parameter_count() == sum(parameter.numel() for parameter in learned.values()) > 0
    assert {name.partition(".")[0] for name in detector.state_dict()} == {"fusion", "head"}


def test_the_size_of_the_paper_s_reading_is_the_published_one():
    """Operator and head: 1.1 to 1.2 thousand parameters at N = 32, order 2."""
    paper = Detector(PaperFusion({"motion": 1024, "text": 768}, nodes=32))
    assert paper.parameter_count() == 3 * 3 + (32 * 32 + 32) + (32 + 1)


@pytest.mark.parametrize(("appearance", "text"), [(512, 384), (64, 16)])
def test_the_size_of_the_default_by_hand(appearance, text):
    """One weight a column, one a modality and order, and the bias; in an own world alpha and its orders, no columns."""
    detector = Detector(LegoFusion({"motion": 18, "appearance": appearance, "text": text}))
    assert detector.parameter_count() == (18 + appearance + text) + 3 * 2 + 1 < 1500
    detector.reading_head.use_own_world(True)
    assert detector.parameter_count() == 3 * 2 + 1 + 3 * 2 + 1


@every_fusion
def test_the_configuration_makes_an_equal_detector(make):
    detector = Detector(fitted(make), hidden=7, dropout=0.25, seed=3)
    config = json.loads(json.dumps(detector.config()))
    again = Detector(make_fusion(config["fusion"]["kind"], config["fusion"]["config"]), **config["head"])
    assert again.config() == detector.config()
    if detector.reading_head is None:
        assert again.head.first.out_features == 7 and again.head.dropout.p == 0.25
    again.load_state_dict(detector.state_dict())
    assert torch.equal(again.eval()(features()).logits, detector.eval()(features()).logits)


@pytest.mark.parametrize("seed", range(3))
def test_the_untrained_default_scores_in_the_right_sense(seed):
    """Unlike the known normals in both modalities is more abnormal, before any label is seen."""
    generator = torch.Generator().manual_seed(seed)
    centres = {name: 3 * torch.randn(width, generator=generator) for name, width in WIDTHS.items()}
    train = {name: c + 0.5 * torch.randn(6, N, len(c), generator=generator) for name, c in centres.items()}
    test = {name: c + 0.5 * torch.randn(1, N, len(c), generator=generator) for name, c in centres.items()}
    for x in (*test.values(), *(x[4:] for x in train.values())):
        x[:, -2:] *= -1
    fusion = LegoFusion(WIDTHS)
    fusion.fit(train, LABELS, torch.arange(6))
    detector = Detector(fusion).eval()
    logits = detector(test).logits[0]
    assert logits[-2:].min() > logits[:-2].max()
    crossed = detector(fusion.transform(train, video_ids=torch.arange(6)), cached=True).logits[~LABELS]
    assert crossed.mean().item() == pytest.approx(-2, abs=1e-4), "a typical normal segment has a logit of -2"
    assert crossed.std().item() == pytest.approx(0.5, abs=0.05)
