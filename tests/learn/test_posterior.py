"""The fit of a head with priors: what its objective is, when it stops, which fit is kept, and what does not change it."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import DataError, LegoFusionError
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.reading_head import Layout, Priors, ReadingHead
from lego_fusion.learn import objective as posterior
from lego_fusion.learn.bags import Bags, fit_frozen, training_inputs
from lego_fusion.learn.configuration import TrainingConfig, TrainingState
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.objective import all_weights, most_probable
from lego_fusion.learn.train import fit, predict, predict_logits

WIDTHS = {"motion": 4, "text": 3}
N, ODD = 8, 2
MAKE = {"fixed": lambda: LegoFusion(WIDTHS), "learned": lambda: LegoFusion(WIDTHS, operator="learned", order=1)}
both = pytest.mark.parametrize("operator", MAKE)


def made_bags(videos: int = 12, *, seed: int = 0, crops: int = 1, turned: bool = False) -> Bags:
    """Nodes around one point; the last two of abnormal videos (every third) move the same way in the first column."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(videos) % 3 == 2
    inputs = {}
    for name, width in WIDTHS.items():
        x = torch.randn(videos, crops, N, width, generator=generator)
        x[labels, :, -ODD:, 0] += 2.0
        inputs[name] = x.flatten(0, 1)
    return Bags(tuple(f"v{seed}_{i}" for i in range(videos)), ~labels if turned else labels, crops, inputs)


def trained(
    train: Bags, config: TrainingConfig | None = None, operator: str = "fixed", **options
) -> tuple[Detector, TrainingState]:
    fusion = MAKE[operator]()
    fit_frozen(fusion, train)
    detector = Detector(fusion)
    return detector, fit(detector, train, config or TrainingConfig(), **options)


def same_weights(first: Detector, second: Detector) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logits_of(detector: Detector, train: Bags) -> Tensor:
    """Of the training bags, cross-fitted."""
    found = training_inputs(detector.fusion, train)
    with torch.no_grad():
        return detector(found.inputs, found.mask, cached=True).logits.double()


def bag_losses(logits: Tensor, labels: Tensor, k: int = 3) -> float:
    """Sum of the cross-entropies of the mean of the k highest scores, by hand."""
    total = 0.0
    for row, label in zip(logits.sigmoid().tolist(), labels.tolist(), strict=True):
        bag = sum(sorted(row)[-k:]) / k
        total -= math.log(bag) if label else math.log(1 - bag)
    return total


def price(detector: Detector, train: Bags, priors: Priors) -> float:
    """-log prior by hand, of a fixed operator without the third reading and without time context's masks."""
    head = detector.reading_head
    found = training_inputs(detector.fusion, train)
    nodes = detector.fusion(found.inputs).nodes[~train.labels]
    departure = nodes[..., -sum(WIDTHS.values()) :].double()
    near = torch.zeros(N, N, dtype=torch.float64)
    for i in range(N):
        row = [math.exp(-((i - j) ** 2) / (2 * 2.0**2)) for j in range(N)]
        near[i] = torch.tensor(row) / sum(row)
    followed = (departure + near @ departure) * 0.5**0.5
    w = head.weights.detach().double()
    size = followed.square().sum(-1).mean()
    quadratic = w.square().sum() + priors.invariance * (followed @ w).square().mean() / size
    other = head.bias.square() / (2 * priors.bias**2) + head.log_a.square().sum() / (2 * priors.orders**2)
    return float(quadratic / (2 * priors.departure**2) + other.detach())


@pytest.mark.parametrize("extra", [{}, {"smoothness": 0.7}, {"sparsity": 0.4}, {"pooling": "max"}])
@pytest.mark.parametrize(
    "priors", [{}, {"prior_invariance": 0.0, "prior_departure": 0.5, "prior_orders": 0.2, "prior_bias": 1.0}]
)
def test_the_objective_is_the_sum_of_bag_losses_and_the_price_of_the_weights(extra, priors):
    train = made_bags()
    config = TrainingConfig(own_world_gain=None, iterations=20, **extra, **priors)
    detector, state = trained(train, config)
    logits = logits_of(detector, train)
    scores = logits.sigmoid()
    expected = bag_losses(logits, train.labels, 1 if extra.get("pooling") == "max" else 3)
    expected += extra.get("smoothness", 0.0) * float((scores[:, 1:] - scores[:, :-1]).square().sum())
    expected += extra.get("sparsity", 0.0) * float(scores.sum())
    given = Priors(config.prior_orders, config.prior_departure, config.prior_invariance, config.prior_bias)
    assert state.history[-1]["loss"] == pytest.approx(expected + price(detector, train, given), rel=1e-4)


@both
def test_the_objective_falls_and_the_fit_ends_where_nothing_changes(operator):
    _detector, state = trained(made_bags(), TrainingConfig(own_world_gain=None, iterations=500), operator)
    losses = [entry["loss"] for entry in state.history]
    assert all(after <= before + 1e-4 for before, after in itertools.pairwise(losses))
    assert losses[-1] < bag_losses(
        logits_of(trained(made_bags(), TrainingConfig(steps=0), operator)[0], made_bags()), made_bags().labels
    )
    assert len(losses) < 50, "it ends before so many iterations"
    assert state.step == state.history[-1]["step"]


@both
def test_nothing_in_it_is_random_but_a_learned_start(operator):
    train = made_bags()
    first, again = trained(train, operator=operator)[0], trained(train, operator=operator)[0]
    assert same_weights(first, again)
    torch.manual_seed(3)
    other = trained(train, TrainingConfig(seed=5), operator)[0]
    assert same_weights(first, other), "the seed of the training decides nothing"
    assert first.fusion.draws_at_random == (operator == "learned")


def test_the_caller_s_random_numbers_and_mode_are_left_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    detector, _ = trained(made_bags())
    assert torch.equal(torch.get_rng_state(), state)
    assert {parameter.device.type for parameter in detector.parameters()} == {"cpu"}


@both
@pytest.mark.parametrize("config", [{"steps": 0}, {"normal_only": True}])
def test_without_steps_and_without_labels_it_is_the_untrained_start(operator, config):
    train = made_bags()
    detector, state = trained(train, TrainingConfig(**config), operator)
    fusion = MAKE[operator]()
    fit_frozen(fusion, train)
    assert same_weights(detector, Detector(fusion))
    assert (state.step, state.history) == (0, [])
    head = detector.reading_head
    assert not head.weights.any() and not head.log_a.any() and not head.bias.any()


@pytest.mark.parametrize("name", ["departure", "invariance", "orders", "bias"])
def test_a_narrower_prior_keeps_its_weights_nearer_to_the_start(name):
    """The invariance is a factor: the larger, the less w says along directions in which normal segments vary."""
    sizes = []
    for value in (1e-2, 1.0, 1e2) if name != "invariance" else (1e5, 1e2, 0.0):
        head = trained(made_bags(), TrainingConfig(own_world_gain=None, **{f"prior_{name}": value}))[0].reading_head
        found = {"orders": head.log_a, "bias": head.bias}.get(name, head.weights)
        sizes.append(float(found.detach().norm()))
    assert sizes[0] < sizes[1] < sizes[2]


def test_the_prior_fades_as_videos_are_added():
    """The sum of bag losses: each video once more makes the same evidence twice."""
    train = made_bags()
    names = (*train.videos, *(f"{video}_again" for video in train.videos))
    twice = Bags(names, train.labels.repeat(2), 1, {name: x.repeat(2, 1, 1) for name, x in train.inputs.items()})
    fusion = LegoFusion(WIDTHS)
    fit_frozen(fusion, train)
    lengths = []
    for bags in (train, twice):
        detector = Detector(fusion)
        frozen = training_inputs(fusion, train) if bags is train else None
        inputs = frozen or Bags(
            names, twice.labels, 1, {n: x.repeat(2, 1, 1) for n, x in training_inputs(fusion, train).inputs.items()}
        )
        fit(detector, Bags(inputs.videos, inputs.labels, 1, inputs.inputs, related=True), TrainingConfig(own_world_gain=None))
        lengths.append(float(detector.reading_head.weights.detach().norm()))
    assert lengths[1] > 1.1 * lengths[0]


def test_labels_say_which_way_of_being_unlike_is_abnormal():
    """Trained on the first column, the weights find it, and new videos are told apart better than untrained."""
    train, test = made_bags(24), made_bags(24, seed=5)
    detector, _ = trained(train)
    weights = detector.reading_head.weights.detach()
    assert int(weights[:4].argmax()) == 0 and int(weights[4:].argmax()) == 0
    truth = torch.zeros(24, N, dtype=torch.bool)
    truth[test.labels, -ODD:] = True

    def auc(one: Detector) -> float:
        scores = predict(one, test)
        odd, usual = scores[truth], scores[~truth]
        return float((odd[:, None] > usual).double().mean())

    assert auc(detector) > auc(trained(train, TrainingConfig(steps=0))[0]) + 0.03


def test_validation_keeps_the_weights_of_the_lowest_loss():
    train, turned = made_bags(), made_bags(6, seed=5, turned=True)
    snapshots: dict[int, dict[str, Tensor]] = {}
    fusion = LegoFusion(WIDTHS)
    fit_frozen(fusion, train)
    detector = Detector(fusion)
    config = TrainingConfig(selection="validation", iterations=40)
    state = fit(
        detector, train, config, validation=turned, on_step=lambda step, _: snapshots.update({step: all_weights(detector)})
    )
    looks = {entry["step"]: entry["validation_loss"] for entry in state.history}
    assert list(looks) == list(snapshots)
    best = min(looks, key=lambda step: looks[step])
    assert (state.best_step, state.best_loss) == (best, looks[best])
    assert all(torch.equal(tensor, snapshots[best][name]) for name, tensor in detector.state_dict().items())
    assert looks[best] == pytest.approx(bag_losses(predict_logits(detector, turned).double(), turned.labels) / 6, rel=1e-4)
    watched = trained(train, config.model_copy(update={"selection": "last-step"}), validation=turned)[0]
    assert same_weights(watched, trained(train, TrainingConfig(iterations=40))[0]), "looking changes nothing"


def test_modality_dropout_is_the_expected_loss():
    """Whole with 1 - p, and without each modality with p / M: what a zero of its readings leaves."""
    train, p = made_bags(), 0.4
    config = TrainingConfig(own_world_gain=None, modality_dropout=p, modality_removal="drop-term")
    detector, state = trained(train, config)
    found = training_inputs(detector.fusion, train)
    total = price(detector, train, Priors())
    for gone, share in ((None, 1 - p), ("motion", p / 2), ("text", p / 2)):
        inputs = {name: torch.zeros_like(x) if name == gone else x for name, x in found.inputs.items()}
        with torch.no_grad():
            total += share * bag_losses(detector(inputs, cached=True).logits.double(), train.labels)
    assert state.history[-1]["loss"] == pytest.approx(total, rel=1e-4)


def test_steps_are_those_of_the_last_fit():
    """Which world it is has been asked before, and is not told."""
    for gain in (2.0, None):
        steps: list[int] = []
        config = TrainingConfig(iterations=20, own_world_gain=gain)
        _, state = trained(made_bags(), config, on_step=lambda step, loss, steps=steps: steps.append(step))
        assert steps == [entry["step"] for entry in state.history] == sorted(set(steps)) and steps[-1] <= 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(value):
    train = made_bags()
    train.inputs["text"][2, 1, 0] = value
    with pytest.raises(LegoFusionError):
        trained(train)


def test_an_objective_that_is_no_number_is_one_clear_line():
    head = ReadingHead(Layout(("a",), ("a",), (1,), {"a": 2}), time_deviation=0.0, causal=False)
    options = {"priors": Priors(), "gain": None, "iterations": 10}
    with pytest.raises(LegoFusionError, match=r"the fit met a number that is no number.*the doctor"):
        most_probable(
            head,
            lambda: all_weights(head),
            head.load_state_dict,
            lambda: list(head.parameters()),
            lambda: head.weights.sum() * float("nan"),
            **options,
        )


@pytest.mark.parametrize(("lower", "used"), [(0.0, False), (1.9, False), (2.1, True), (50.0, True)])
def test_the_own_world_is_taken_where_it_wins_by_the_gain(lower, used):
    """An objective of known value: so many nats lower with the third reading, at the share of either side."""
    head = ReadingHead(Layout(("a",), ("a",), (1,), {"a": 2}), time_deviation=0.0, causal=False)
    seen: list[float] = []

    def objective() -> Tensor:
        seen.append(float(head.own_share.detach()) if bool(head.own_world) else math.nan)
        return head.bias.square() + 60.0 - (lower if bool(head.own_world) else 0.0)

    best, objectives = most_probable(
        head,
        lambda: all_weights(head),
        head.load_state_dict,
        lambda: [p for p in head.parameters() if p.requires_grad],
        objective,
        priors=Priors(),
        gain=2.0,
        iterations=10,
    )
    assert objectives == pytest.approx([60.0, 60.0 - lower, 60.0 - lower])
    assert bool(head.own_world) == used and best.objective == pytest.approx(60.0 - (lower if used else 0.0))
    assert head.own_share.requires_grad == head.own_log_a.requires_grad == used != head.weights.requires_grad
    assert {round(share, 1) for share in seen if not math.isnan(share)} == {-3.0, 3.0}, "from either side"


def test_ten_crops_are_one_bag_of_mean_readings():
    train, test = made_bags(9, crops=10), made_bags(4, seed=3, crops=10)
    detector, state = trained(train, TrainingConfig(own_world_gain=None))
    logits = predict_logits(detector, test)
    assert logits.shape == (4, N)
    with torch.no_grad():
        alone = [detector({name: x[crop::10] for name, x in test.inputs.items()}).logits for crop in range(10)]
    torch.testing.assert_close(logits, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-4)
    assert state.history[-1]["loss"] < state.history[0]["loss"] + 1e-6 and posterior.AT_ONCE == 10


def test_one_class_only_is_refused():
    train = made_bags()
    for label, absent in ((False, "abnormal"), (True, "normal")):
        fusion = LegoFusion(WIDTHS)
        fit_frozen(fusion, train)
        with pytest.raises(DataError, match=f"one class only.*none {absent}"):
            fit(Detector(fusion), train.select((train.labels == label).nonzero()[:, 0]), TrainingConfig())


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_the_accelerator_decides_nothing_but_the_place(accelerator):
    detector, _ = trained(made_bags(), TrainingConfig(accelerator=accelerator))
    expected, _ = trained(made_bags())
    for name, tensor in detector.state_dict().items():
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=1e-3, atol=1e-3)
