"""Training: what decides the weights, what does not, and that a killed run ends where it would have ended."""

import math
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lego_fusion.errors import CheckpointError, DataError, ParameterError
from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.networks import MTN
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import Bags, fit_frozen
from lego_fusion.learn.configuration import TrainingConfig, TrainingState
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.objective import operator_penalty
from lego_fusion.learn.train import fit, predict

WIDTHS = {"motion": 4, "text": 3}
N, ODD = 8, 2
FUSIONS: dict[str, Callable[[dict[str, int]], Fusion]] = {
    "lego-paper": lambda widths: PaperFusion(widths, nodes=N),
    "concat": lambda widths: Concat(widths),
    "mtn": lambda widths: MTN(widths),
}
LEGO: dict[str, Callable[[dict[str, int]], Fusion]] = {
    "lego": lambda widths: LegoFusion(widths),
    "learned operator": lambda widths: LegoFusion(widths, operator="learned"),
}
every_fusion = pytest.mark.parametrize("kind", FUSIONS)  # trained by Adam; test_posterior has those with priors


def made_bags(
    videos: int = 12, *, seed: int = 0, crops: int = 1, widths: dict[str, int] = WIDTHS, abnormal: int | None = None
) -> Bags:
    """Normal nodes around one point; the last two nodes of abnormal videos lie opposite. Every third video is abnormal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(videos) % 3 == 2 if abnormal is None else torch.arange(videos) >= videos - abnormal
    inputs = {}
    for place, (name, width) in enumerate(widths.items()):
        centre = 2 * torch.randn(width, generator=torch.Generator().manual_seed(1000 + place))
        x = centre + 0.7 * torch.randn(videos, crops, N, width, generator=generator)
        x[labels, :, -ODD:] *= -1
        inputs[name] = x.flatten(0, 1)
    return Bags(tuple(f"v{seed}_{i}" for i in range(videos)), labels, crops, inputs)


def made_detector(kind: str, train: Bags, *, dropout: float = 0.0, seed: int = 0) -> Detector:
    fusion = {**FUSIONS, **LEGO}[kind]({name: x.shape[-1] for name, x in train.inputs.items()})
    fit_frozen(fusion, train)
    return Detector(fusion, hidden=8, dropout=dropout, seed=seed)


def trained(kind: str, train: Bags, config: TrainingConfig, **options) -> tuple[Detector, TrainingState]:
    dropout = options.pop("dropout", 0.0)
    detector = made_detector(kind, train, dropout=dropout, seed=config.seed)
    return detector, fit(detector, train, config, **options)


def same_weights(first: Detector, second: Detector) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def loss_by_hand(scores: Tensor, labels: Tensor, k: int = 3) -> float:
    losses = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        highest = sorted(row)[-k:]
        bag = sum(highest) / len(highest)
        losses.append(-math.log(bag) if label else -math.log(1 - bag))
    return sum(losses) / len(losses)


def auc(detector: Detector, bags: Bags) -> float:
    truth = torch.zeros(len(bags.videos), N, dtype=torch.bool)
    truth[bags.labels, -ODD:] = True
    return float(roc_auc_score(truth.flatten().numpy(), predict(detector, bags).flatten().numpy()))


@every_fusion
def test_a_seed_decides_the_weights(kind):
    train = made_bags()
    config = TrainingConfig(steps=5, batch_size=6, seed=1)
    first, second = (trained(kind, train, config, dropout=0.3)[0] for _ in range(2))
    assert same_weights(first, second)
    other, _ = trained(kind, train, config.model_copy(update={"seed": 2}), dropout=0.3)
    assert not same_weights(first, other)


@every_fusion
def test_the_random_numbers_of_the_caller_are_left_alone(kind):
    train = made_bags()
    torch.manual_seed(77)
    state = torch.get_rng_state()
    trained(kind, train, TrainingConfig(steps=4, batch_size=4), dropout=0.5)
    assert torch.equal(torch.get_rng_state(), state)


@every_fusion
def test_the_random_numbers_of_the_caller_decide_nothing(kind):
    train, config = made_bags(), TrainingConfig(steps=4, batch_size=4)
    torch.manual_seed(1)
    first, _ = trained(kind, train, config, dropout=0.5)
    torch.manual_seed(2)
    second, _ = trained(kind, train, config, dropout=0.5)
    assert same_weights(first, second)


@every_fusion
def test_training_lowers_the_loss(kind):
    config = TrainingConfig(steps=40, learning_rate=3e-2)
    _, state = trained(kind, made_bags(), config)
    losses = [entry["loss"] for entry in state.history]
    assert [entry["step"] for entry in state.history] == list(range(1, 41))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("abnormal", [1, 11])
def test_the_loss_is_the_mean_over_videos_however_unequal_the_labels(crops, abnormal):
    """Before the first update the penalty is zero, and the loss can be computed from the scores of the start."""
    train = made_bags(crops=crops, abnormal=abnormal)
    starts: list[Tensor] = []
    detector = made_detector("concat", train)
    config = TrainingConfig(steps=1, k=3)
    state = fit(detector, train, config, on_start=lambda: starts.append(predict(detector, train)))
    assert state.history[0]["loss"] == pytest.approx(loss_by_hand(starts[0], train.labels), rel=1e-4)


def test_smoothness_and_sparsity_add_their_mean_over_videos():
    train = made_bags()
    starts: list[Tensor] = []
    losses = {}
    for name in ("smoothness", "sparsity", "steps"):
        detector = made_detector("concat", train)
        config = TrainingConfig(**{"steps": 1, name: 1 if name == "steps" else 0.5})
        state = fit(detector, train, config, on_start=lambda d=detector: starts.append(predict(d, train)))
        losses[name] = state.history[0]["loss"]
    jumps = [sum((b - a) ** 2 for a, b in pairwise(row)) for row in starts[0].tolist()]
    totals = [sum(row) for row in starts[0].tolist()]
    assert losses["smoothness"] - losses["steps"] == pytest.approx(0.5 * sum(jumps) / len(jumps), abs=1e-5)
    assert losses["sparsity"] - losses["steps"] == pytest.approx(0.5 * sum(totals) / len(totals), abs=1e-5)


@pytest.mark.parametrize("kind", ["lego", "lego-paper", "concat"])
def test_the_order_of_the_training_videos_does_not_matter(kind):
    """Labels are found by bag, never by place: all abnormal first, all last, or mixed."""
    train = made_bags()
    config = TrainingConfig(steps=10, learning_rate=1e-2)
    test = made_bags(4, seed=9)
    expected = predict(trained(kind, train, config)[0], test)
    for order in (train.labels.int().argsort(), train.labels.int().argsort(descending=True)):
        detector, _ = trained(kind, train.select(order), config)
        torch.testing.assert_close(predict(detector, test), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["learned operator", "lego-paper"])
def test_degree_variance_is_part_of_the_loss(kind):
    train = made_bags()
    config = TrainingConfig(steps=1, iterations=1, degree_threshold=-1.0)
    plain, weighted = (
        trained(kind, train, config.model_copy(update={"degree_variance": weight}))[1].history[0]["loss"]
        for weight in (0.0, 1e6)
    )
    assert weighted > plain


@pytest.mark.parametrize("kind", ["learned operator", "lego-paper"])
def test_degree_variance_acts_on_the_operator_of_every_form(kind):
    """At its default its gradient on A is no rounding of the bag loss's, and another lambda ends at another A."""
    train = made_bags()
    config = TrainingConfig(steps=20, iterations=20, learning_rate=1e-2)
    one, other = (
        trained(kind, train, config.model_copy(update={"degree_variance": weight}))[0].fusion.operator.dense_coefficients()
        for weight in (0.0, 1.0)
    )
    assert float((one - other).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["concat", "lego"])
def test_degree_variance_needs_a_graph(kind):
    """Of the default with its fixed operator the readings are kept, not the graph."""
    with pytest.raises(DataError, match=r"degree variance needs a fused graph.*set its weight to 0"):
        trained(kind, made_bags(), TrainingConfig(steps=1, degree_variance=1.0))


@pytest.mark.parametrize("kind", [*FUSIONS, *LEGO])
def test_without_steps_the_start_stays(kind):
    train = made_bags()
    starts: list[dict[str, Tensor]] = []
    detector = made_detector(kind, train)

    def remember() -> None:
        starts.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})

    state = fit(detector, train, TrainingConfig(steps=0), on_start=remember)
    assert (state.step, state.history) == (0, [])
    assert len(starts) == 1
    assert all(torch.equal(tensor, starts[0][name]) for name, tensor in detector.state_dict().items())


def test_every_step_is_told():
    steps: list[int] = []
    order: list[str] = []
    _, state = trained(
        "concat",
        made_bags(),
        TrainingConfig(steps=5),
        on_start=lambda: order.append("start"),
        on_step=lambda step, loss: (steps.append(step), order.append("step"), math.isfinite(loss)),
    )
    assert steps == [1, 2, 3, 4, 5]
    assert order[0] == "start" and order.count("start") == 1
    assert state.step == 5


def test_validation_keeps_the_weights_of_the_lowest_loss():
    """Turned labels make the validation loss rise at once, so an early step is the best and the last one is not."""
    train, validation = made_bags(), made_bags(6, seed=5)
    turned = Bags(validation.videos, ~validation.labels, 1, validation.inputs)
    config = TrainingConfig(steps=30, learning_rate=1e-2, check_every=5, selection="validation")
    snapshots: dict[int, dict[str, Tensor]] = {}
    detector = made_detector("concat", train)

    def remember(step: int, _: float) -> None:
        snapshots[step] = {name: tensor.clone() for name, tensor in detector.state_dict().items()}

    state = fit(detector, train, config, validation=turned, on_step=remember)
    looks = {entry["step"]: entry["validation_loss"] for entry in state.history if "validation_loss" in entry}
    assert set(looks) == {5, 10, 15, 20, 25, 30}
    best = min(looks, key=lambda step: looks[step])
    assert best < 30
    assert (state.best_step, state.best_loss) == (best, looks[best])
    assert all(torch.equal(tensor, snapshots[best][name]) for name, tensor in detector.state_dict().items())
    assert loss_by_hand(predict(detector, turned), turned.labels) == pytest.approx(looks[best], rel=1e-4)


def test_the_last_step_is_taken_unless_validation_is_asked_for():
    train, validation = made_bags(), made_bags(6, seed=5)
    turned = Bags(validation.videos, ~validation.labels, 1, validation.inputs)
    config = TrainingConfig(steps=30, learning_rate=1e-2, check_every=5)
    watched, _ = trained("concat", train, config, validation=turned)
    plain, _ = trained("concat", train, config)
    assert same_weights(watched, plain), "looking at validation videos must not change the weights"


@pytest.mark.parametrize("steps", [3, 7])
def test_validation_always_has_a_last_look(steps):
    config = TrainingConfig(steps=steps, check_every=5, selection="validation")
    _, state = trained("concat", made_bags(), config, validation=made_bags(6, seed=5))
    assert "validation_loss" in state.history[-1]


def test_early_stop_after_looks_without_gain():
    train, validation = made_bags(), made_bags(6, seed=5)
    turned = Bags(validation.videos, ~validation.labels, 1, validation.inputs)
    config = TrainingConfig(steps=200, learning_rate=3e-2, check_every=2, selection="validation", patience=3)
    _, state = trained("concat", train, config, validation=turned)
    assert state.step == state.best_step + 2 * 3 < 200
    assert len(state.history) == state.step


def test_normal_only_meets_no_abnormal_bag_and_still_finds_the_anomalies():
    train, test = made_bags(), made_bags(9, seed=4)
    poison = {name: x.masked_fill(train.bag_labels[:, None, None], float("nan")) for name, x in train.inputs.items()}
    poisoned = Bags(train.videos, train.labels, 1, poison)
    normal = train.select((~train.labels).nonzero()[:, 0])
    detectors = []
    for bags in (normal, poisoned):
        fusion = LegoFusion(WIDTHS)
        fit_frozen(fusion, normal)
        detector = Detector(fusion)
        fit(detector, bags, TrainingConfig(normal_only=True))
        detectors.append(detector)
    assert same_weights(*detectors)
    assert auc(detectors[0], test) > 0.99


@pytest.mark.parametrize("abnormal", [0, 12])
def test_one_class_only(abnormal):
    train = made_bags(abnormal=6)
    detector = made_detector("concat", train)
    absent = "normal" if abnormal else "abnormal"
    with pytest.raises(DataError, match=f"training videos hold one class only.*got 12 videos, none {absent}"):
        fit(detector, made_bags(abnormal=abnormal), TrainingConfig(steps=1))
    with pytest.raises(DataError, match=f"validation videos hold one class only.*none {absent}"):
        fit(detector, train, TrainingConfig(steps=1), validation=made_bags(abnormal=abnormal))


@pytest.mark.parametrize("kind", ["lego-paper", "concat", "mtn"])
def test_normal_only_needs_a_start_that_knows_the_sense_of_its_scores(kind):
    with pytest.raises(ParameterError, match=r"normal_only needs a fusion that knows what is abnormal.*use method 'lego'"):
        trained(kind, made_bags(), TrainingConfig(normal_only=True))


def test_normal_only_needs_normal_videos():
    train = made_bags(abnormal=12)
    detector = made_detector("lego", made_bags())
    with pytest.raises(DataError, match=r"one class only.*What to do: add normal videos"):
        fit(detector, train, TrainingConfig(normal_only=True))


def test_validation_selection_needs_validation_videos():
    with pytest.raises(DataError, match=r"selection='validation' needs validation videos.*hold some training videos out"):
        trained("concat", made_bags(), TrainingConfig(steps=1, selection="validation"))


def numbered_batches(train: Bags, config: TrainingConfig, *, checkpoint: Path | None = None, stop: int = 0) -> list[list[int]]:
    """Which videos each step met, told by a column that holds the video's number."""
    numbers = torch.arange(len(train.videos), dtype=torch.float32)[:, None, None].expand(-1, N, 1)
    bags = Bags(train.videos, train.labels, 1, {"number": numbers.clone()})
    detector = Detector(Concat({"number": 1}), hidden=2)
    seen: list[list[int]] = []
    detector.register_forward_pre_hook(lambda _, inputs: seen.append([int(v) for v in inputs[0]["number"][:, 0, 0]]))

    def interrupt(step: int, _: float) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        fit(detector, bags, config, checkpoint=checkpoint, on_step=interrupt)
    return seen


def test_a_full_batch_holds_every_video_at_every_step():
    for size in (None, 12, 50):
        config = TrainingConfig(steps=3, batch_size=size)
        assert numbered_batches(made_bags(), config) == [list(range(12))] * 3


@pytest.mark.parametrize("size", [2, 3, 5, 11])
@pytest.mark.parametrize("abnormal", [1, 4, 6, 11])
def test_batches_are_stratified_and_every_video_is_met_equally_often(size, abnormal):
    train = made_bags(abnormal=abnormal)
    steps = 24
    batches = numbered_batches(train, TrainingConfig(steps=steps, batch_size=size, seed=3))
    assert len(batches) == steps
    shares = {sum(video >= 12 - abnormal for video in batch) for batch in batches}
    assert len(shares) == 1, "every batch has the same share of each label"
    share = shares.pop()
    assert 1 <= share <= size - 1 and abs(share - size * abnormal / 12) <= 1
    met = [sum(video in batch for batch in batches) for video in range(12)]
    for group, drawn in ((range(12 - abnormal), size - share), (range(12 - abnormal, 12), share)):
        counts = [sum(batch.count(video) for batch in batches) for video in group]
        assert max(counts) - min(counts) <= 1 and sum(counts) == steps * drawn
    assert min(met) > 0


def test_batches_are_decided_by_seed_and_step(tmp_path):
    train = made_bags()
    config = TrainingConfig(steps=12, batch_size=4, checkpoint_every=5, seed=3)
    batches = numbered_batches(train, config)
    assert numbered_batches(train, config) == batches
    assert numbered_batches(train, config.model_copy(update={"seed": 4})) != batches
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert numbered_batches(train, config, checkpoint=checkpoint, stop=8) == batches[:8]
    assert numbered_batches(train, config, checkpoint=checkpoint) == batches[5:]


RESUMED = {
    "lego-paper": ("lego-paper", {}, WIDTHS),
    "minibatches": ("lego-paper", {"batch_size": 5}, WIDTHS),
    "double precision": ("lego-paper", {"precision": "64-true"}, WIDTHS),
    "degree variance": ("lego-paper", {"degree_variance": 1.0, "degree_threshold": 0.0}, WIDTHS),
    "random pairs": ("lego-paper", {"batch_size": 5}, {"motion": 4, "text": 3, "audio": 2}),
    "readable": ("lego-paper", {"operator_sparsity": 0.1, "operator_order_decay": 0.1, "operator_nonnegative": True}, WIDTHS),
    "concat": ("concat", {"batch_size": 7}, WIDTHS),
    "mtn": ("mtn", {"batch_size": 7}, WIDTHS),
}


@pytest.mark.parametrize(("kind", "options", "widths"), RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("killed_at", [[1], [4], [6], [7, 11], [12]])
def test_a_killed_run_goes_on_to_the_same_weights(kind, options, widths, killed_at, tmp_path):
    """Killed inside a step, before or after a checkpoint, once or twice; with dropout and validation looks all the while.

    Turned validation labels make an early look the best one, which the run has to remember.
    """
    train, validation = made_bags(widths=widths), made_bags(6, seed=5, widths=widths)
    validation = Bags(validation.videos, ~validation.labels, 1, validation.inputs)
    config = TrainingConfig(steps=12, learning_rate=1e-2, checkpoint_every=3, check_every=4, seed=2, **options)
    expected, expected_state = trained(kind, train, config, validation=validation, dropout=0.4)
    checkpoint = tmp_path / "checkpoint.safetensors"
    for stop in killed_at:

        def kill(step: int, _: float, stop: int = stop) -> None:
            if step == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(kind, train, config, validation=validation, dropout=0.4, checkpoint=checkpoint, on_step=kill)
        assert checkpoint.exists() == (stop > 3)
        torch.rand(3)  # whatever else happens to the random numbers in between
    resumed, state = trained(kind, train, config, validation=validation, dropout=0.4, checkpoint=checkpoint)
    assert same_weights(resumed, expected)
    assert state.history == expected_state.history
    assert (state.best_step, state.best_loss) == (expected_state.best_step, expected_state.best_loss)
    assert all(torch.equal(tensor, expected_state.best[name]) for name, tensor in state.best.items())
    assert set(state.best) == set(expected.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors"], "nothing half written is left"


def test_a_finished_run_is_not_trained_further(tmp_path):
    train, config = made_bags(), TrainingConfig(steps=6, checkpoint_every=3)
    checkpoint = tmp_path / "checkpoint.safetensors"
    first, _ = trained("lego-paper", train, config, checkpoint=checkpoint)
    steps: list[int] = []
    again, _ = trained("lego-paper", train, config, checkpoint=checkpoint, on_step=lambda step, _: steps.append(step))
    assert steps == [] and same_weights(first, again)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train, config = made_bags(), TrainingConfig(steps=3, checkpoint_every=3)
    checkpoint = tmp_path / "checkpoint.safetensors"
    trained("lego-paper", train, config, checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match=r"the checkpoint is of another model.*delete it to start again"):
        trained("concat", train, config, checkpoint=checkpoint)


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    from safetensors.torch import save

    train, config = made_bags(), TrainingConfig(steps=3, checkpoint_every=3)
    checkpoint = tmp_path / "checkpoint.safetensors"
    trained("lego-paper", train, config, checkpoint=checkpoint)
    whole = checkpoint.read_bytes()
    content = {"cut": whole[: len(whole) // 2], "text": b"not tensors", "other": save({"weights": torch.ones(2)})}
    checkpoint.write_bytes(content[damage])
    message = "this is not the checkpoint of a run" if damage == "other" else "the file cannot be read"
    with pytest.raises(CheckpointError, match=message):
        trained("lego-paper", train, config, checkpoint=checkpoint)


@every_fusion
def test_prediction_gives_scores_and_leaves_the_mode(kind):
    train = made_bags()
    detector = made_detector(kind, train, dropout=0.5)
    for mode in (True, False):
        scores = predict(detector.train(mode), train)
        assert detector.training == mode
        assert scores.dtype == torch.float64 and scores.shape == (12, N)
        assert ((scores >= 0) & (scores <= 1)).all()
        assert torch.equal(scores, predict(detector, train)), "dropout must not act"


def test_scores_are_not_rounded_to_ties():
    """Logits of 20 and 30 are both 1 as a score in single precision; their order must survive."""
    detector = Detector(Concat({"motion": 1}), hidden=1)
    with torch.no_grad():
        detector.head.first.weight.fill_(1)
        detector.head.first.bias.fill_(0)
        detector.head.second.weight.fill_(1)
        detector.head.second.bias.fill_(0)
    bags = Bags(("v",), torch.tensor([False]), 1, {"motion": torch.tensor([[[20.0], [30.0]]])})
    low, high = predict(detector, bags)[0].tolist()
    assert low < high


@every_fusion
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precisions_of_the_processor(kind, precision):
    train = made_bags()
    detector, state = trained(kind, train, TrainingConfig(steps=3, precision=precision))
    assert all(math.isfinite(entry["loss"]) for entry in state.history)
    assert torch.isfinite(predict(detector, train)).all()


def test_one_node_and_few_videos():
    bags = made_bags(4, abnormal=2)
    single = Bags(bags.videos, bags.labels, 1, {name: x[:, -1:] for name, x in bags.inputs.items()})
    for kind, make in {**FUSIONS, **LEGO}.items():
        fusion = PaperFusion(WIDTHS, nodes=1) if kind == "lego-paper" else make(WIDTHS)
        fit_frozen(fusion, single)
        detector = Detector(fusion)
        fit(detector, single, TrainingConfig(steps=2))
        assert torch.isfinite(predict(detector, single)).all()


@pytest.mark.parametrize(
    "fields",
    [{"step": 3}, {"steps": -1}, {"learning_rate": 0}, {"pooling": "median"}, {"batch_size": 1}, {"selection": "test-best"}],
)
def test_a_wrong_configuration_is_refused(fields):
    with pytest.raises(ValidationError):
        TrainingConfig(**fields)


def test_a_configuration_cannot_be_changed():
    config = TrainingConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 3


def test_patience_without_validation_videos_is_refused():
    bags = made_bags()
    fusion = LEGO["lego"](WIDTHS)
    fit_frozen(fusion, bags)
    with pytest.raises(DataError, match="patience needs validation videos"):
        fit(Detector(fusion), bags, TrainingConfig(steps=2, patience=1))


READABLE = {"operator_sparsity": 1.0, "operator_order_decay": 1.0, "operator_nonnegative": True}


@pytest.mark.parametrize("kind", ["lego-paper"])
@pytest.mark.parametrize("setting", ["operator_sparsity", "operator_order_decay"])
def test_a_large_price_drives_the_coefficients_to_zero(kind, setting):
    """The constant is free, and the price of a higher order falls on it first."""

    def learned_size(**options) -> Tensor:
        config = TrainingConfig(steps=150, learning_rate=1e-2, weight_decay=0.0, **options)
        detector, _ = trained(kind, made_bags(), config)
        size = detector.fusion.operator.dense_coefficients().detach().abs()
        size[0, 0] = 0
        return size

    free, priced = learned_size(), learned_size(**{setting: 100.0})
    assert float(free.max()) > 0.3
    assert float(priced.max()) < 0.1 * float(free.max())


def test_the_price_of_an_order_doubles():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64)
    lasso = ridge = 0.0
    for p in range(3):
        for q in range(2):
            for r in range(3):
                if p + q + r:
                    lasso += abs(float(dense[p, q, r]))
                    ridge += 2 ** (p + q + r - 1) * float(dense[p, q, r]) ** 2
    assert float(operator_penalty(dense, sparsity=0.3)) == pytest.approx(0.3 * lasso)
    assert float(operator_penalty(dense, order_decay=0.7)) == pytest.approx(0.7 * ridge)
    assert float(operator_penalty(dense)) == 0.0


@pytest.mark.parametrize("kind", ["lego-paper"])
def test_a_nonnegative_operator_is_so_at_every_step(kind):
    train = made_bags()
    detector = made_detector(kind, train)
    lowest: list[float] = []
    config = TrainingConfig(steps=25, learning_rate=5e-2, operator_nonnegative=True)

    def look(*_: float) -> None:
        lowest.append(float(detector.fusion.operator.dense_coefficients().detach().min()))

    fit(detector, train, config, on_start=look, on_step=look)
    assert len(lowest) == 26 and min(lowest) >= 0
    free, _ = trained(kind, train, config.model_copy(update={"operator_nonnegative": False}))
    assert float(free.fusion.operator.dense_coefficients().detach().min()) < 0


def test_settings_of_the_operator_are_off_by_default_and_then_change_nothing():
    assert not any(getattr(TrainingConfig(), name) for name in READABLE)
    train, off = made_bags(), dict.fromkeys(READABLE, 0.0) | {"operator_nonnegative": False}
    plain, _ = trained("lego-paper", train, TrainingConfig(steps=5))
    same, _ = trained("lego-paper", train, TrainingConfig(steps=5, **off))
    assert same_weights(plain, same)


@pytest.mark.parametrize("setting", READABLE)
def test_settings_of_the_operator_need_one(setting):
    config = TrainingConfig(steps=1, **{setting: READABLE[setting]})
    for kind in ("concat", "lego"):
        with pytest.raises(ParameterError, match=f"{setting} is about the coefficients of a learned operator.*'{kind}', which"):
            trained(kind, made_bags(), config)
