"""LegoFusion: the readings and the logit against loops over their formulas, and what it owes whoever trains it."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.reading_head import Priors, ReadingHead
from lego_fusion.learn.bags import Bags, fit_frozen, training_inputs
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.train import fit, predict, predict_logits

WIDTHS = {"motion": 4, "text": 3}
N = 6
LABELS = torch.tensor([False, True, False, False, True, False, False])
VIDEOS = torch.arange(7)


def features(bags: int = 7, seed: int = 0, nodes: int = N) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(bags, nodes, width, generator=generator) for name, width in WIDTHS.items()}


def fitted(given: dict[str, Tensor] | None = None, labels: Tensor = LABELS, videos: Tensor = VIDEOS, **options) -> LegoFusion:
    fusion = LegoFusion(WIDTHS, **options)
    fusion.fit(features() if given is None else given, labels, videos)
    return fusion.eval()


def value_of(number: Tensor) -> float:
    return float(number.detach())


def nodes(fusion: LegoFusion, given: dict[str, Tensor], videos: Tensor | None = None) -> Tensor:
    inputs = fusion.transform(given, video_ids=videos)
    return fusion(inputs).nodes


class ByHand:
    """The frozen stage with loops in double precision: references, degrees and departures of training and other bags."""

    def __init__(self, x: dict[str, Tensor], labels: Tensor, *, kept: int = 3) -> None:
        self.x, self.kept = {name: values.double() for name, values in x.items()}, kept
        videos, count = labels.shape[0], next(iter(x.values())).shape[1]
        self.units = [(v, n) for v in range(videos) if not labels[v] for n in range(count)]
        self.near, self.full, self.bandwidth = {}, {}, {}
        normals = int((~labels).sum())
        for name, values in self.x.items():
            variance = values[~labels].flatten(0, 1).var(0, unbiased=False)
            self.near[name] = ((normals * variance + 4 * variance.mean()) / (normals + 4)).sqrt()
            self.full[name] = variance.sqrt()
            spacing = []
            for v, n in self.units:
                others = sorted(self.distance(name, values[v, n], unit) for unit in self.units if unit[0] != v)
                spacing.append(sum(others[:3]) / 3)
            common = math.exp(sum(map(math.log, spacing)) / len(spacing))
            self.bandwidth[name] = [one**0.25 * common**0.75 for one in spacing]

    def distance(self, name: str, row: Tensor, unit: tuple[int, int]) -> float:
        return float(((row - self.x[name][unit]) / self.near[name]).square().sum().sqrt())

    def read(self, rows: dict[str, Tensor], own: int | None = None) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
        """Degrees of orders 1 and 2, and departures, of one node."""
        known = [k for k, unit in enumerate(self.units) if unit[0] != own]
        relation = {
            name: [1 / (1 + (self.distance(name, row, self.units[k]) / self.bandwidth[name][k]) ** 2) for k in known]
            for name, row in rows.items()
        }
        degree = {}
        for name, entries in relation.items():
            top = sorted(entries, reverse=True)[: self.kept]
            degree[name] = [-math.log(sum(r**p for r in top) / self.kept) / (2 * p) for p in (1, 2)]
        fused = [math.prod(relation[name][place] for name in relation) ** (1 / len(rows)) for place in range(len(known))]
        departure = {}
        for name, row in rows.items():
            expected = sum(entry / sum(fused) * self.x[name][self.units[k]] for entry, k in zip(fused, known, strict=True))
            departure[name] = (row - expected) / self.full[name]
        return degree, departure


def test_readings_by_hand():
    """Cross-fitted for training bags, against all known segments for others."""
    train, test = features(), features(2, seed=1)
    fusion, hand = fitted(train), ByHand(train, LABELS)
    trained, predicted = fusion.readings(train, video_ids=VIDEOS), fusion.readings(test)
    for readings, given_bags, own in ((trained, train, True), (predicted, test, False)):
        for bag in range(len(readings.degree)):
            for node in range(N):
                rows = {name: values[bag, node].double() for name, values in given_bags.items()}
                degree, departure = hand.read(rows, own=bag if own else None)
                for place, name in enumerate(WIDTHS):
                    assert readings.degree[bag, node, place].tolist() == pytest.approx(degree[name], rel=1e-3, abs=1e-4)
                    found = readings.departure[name][bag, node].double()
                    torch.testing.assert_close(found, departure[name], rtol=1e-3, atol=1e-3)


def test_inputs_are_centred_and_scaled_by_what_is_usual():
    """Degrees: mean 0 over normals, their sum of deviation 1. Departures: by hand, root mean square and bound included."""
    train = features()
    fusion, hand = fitted(train), ByHand(train, LABELS)
    made = nodes(fusion, train, VIDEOS)
    degree = made[..., :4]
    torch.testing.assert_close(degree[~LABELS].mean((0, 1)), torch.zeros(4), atol=1e-5, rtol=0)
    assert float(degree[~LABELS].sum(-1).std()) == pytest.approx(1, abs=1e-4)
    found = {name: torch.zeros(7, N, width, dtype=torch.float64) for name, width in WIDTHS.items()}
    for bag in range(7):
        for node in range(N):
            rows = {name: values[bag, node].double() for name, values in train.items()}
            for name, departure in hand.read(rows, own=bag)[1].items():
                found[name][bag, node] = departure
    start = 8
    for name, width in WIDTHS.items():
        r = found[name] / (found[name].square().sum(-1).mean() * 2).sqrt()
        length = r.norm(dim=-1, keepdim=True)
        middle = length.flatten().sort().values[(length.numel() - 1) // 2]
        expected = r * math.sqrt(2) / (1 + (length / middle) ** 2).sqrt()
        torch.testing.assert_close(made[..., start : start + width].double(), expected, rtol=1e-3, atol=1e-4)
        start += width


def test_a_logit_is_the_sum_of_its_parts():
    fusion = fitted()
    head = fusion.make_head()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    mask = torch.rand(2, N, generator=generator) > 0.3
    for used in (False, True):
        head.use_own_world(used)
        made = nodes(fusion, features(2, seed=1))
        for given_mask in (None, mask):
            torch.testing.assert_close(head.parts(made, given_mask).total, head(made, given_mask), rtol=1e-4, atol=1e-4)
        parts = head.parts(made)
        assert bool(parts.inside.any()) == used
    with torch.no_grad():
        head.own_share.fill_(100.0)
    assert not head.parts(made).degree.any(), "a world of its own knows no known normals"


def test_the_head_by_hand():
    head = LegoFusion({"a": 2}, time_context=1.0).make_head()
    with torch.no_grad():
        head.bias.fill_(0.25)
        head.log_a.copy_(torch.tensor([[0.0, math.log(3)]]))
        head.weights.copy_(torch.tensor([1.0, -2.0]))
    made = torch.tensor([[[1.0, 2.0, 9.0, 9.0, 0.1, 0.2], [0.0, 0.0, 9.0, 9.0, 3.0, 0.0]]])
    near, along = math.exp(-0.5), (0.1 - 0.4, 3.0)  # w . r of both nodes
    first = -2 + 0.25 + 0.5 * (1 + 3 * 2) + (along[0] + (along[0] + near * along[1]) / (1 + near)) / math.sqrt(2)
    second = -2 + 0.25 + (along[1] + (along[1] + near * along[0]) / (1 + near)) / math.sqrt(2)
    assert head(made)[0].tolist() == pytest.approx([first, second])


def test_the_price_of_the_weights_is_minus_the_log_of_normal_densities():
    head = LegoFusion({"a": 2}, orders=(1,), time_context=0.0).make_head()
    with torch.no_grad():
        head.bias.fill_(1.0), head.log_a.fill_(2.0), head.weights.copy_(torch.tensor([3.0, 4.0]))
    priors = Priors(orders=0.5, departure=2.0, invariance=7.0, bias=3.0)
    assert value_of(head.penalty(priors)) == pytest.approx(1 / 18 + 4 / 0.5 + 25 / 8)
    # without time f = sqrt(2) r, so S is proportional to diag(1, 4)
    departure = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    nodes_of_two = torch.cat([torch.zeros(1, 2, 2), departure], dim=-1)
    usual = head.usual(nodes_of_two)
    quadratic = (1 * 9 + 4 * 16) / (1 + 4)  # w' S w / tr S
    assert float((usual.factor @ head.weights.detach()).square().sum()) == pytest.approx(quadratic)
    torch.testing.assert_close(usual.factor.T @ usual.factor, torch.tensor([[0.2, 0.0], [0.0, 0.8]]))
    assert value_of(head.penalty(priors, usual)) == pytest.approx(1 / 18 + 4 / 0.5 + (25 + 7 * quadratic) / 8)
    masked = head.usual(torch.cat([nodes_of_two, torch.full((1, 1, 4), 9.0)], dim=1), torch.tensor([[True, True, False]]))
    assert value_of(head.penalty(priors, masked)) == pytest.approx(value_of(head.penalty(priors, usual)))
    head.use_own_world(True)
    with torch.no_grad():
        head.own_share.fill_(-1.0)
    assert value_of(head.penalty(priors)) == pytest.approx(1 / 18 + 4 / 0.5 + 25 / 8 + 4 / 8)


def test_the_start_is_novelty_alone():
    """w = 0 and A = 1: half the sum of the degrees, above a typical normal segment at -2."""
    fusion = fitted()
    made = nodes(fusion, features(2, seed=1))
    torch.testing.assert_close(fusion.make_head()(made), -2 + made[..., :4].sum(-1) / 2)


def test_a_training_video_does_not_meet_itself():
    """A segment that only one video has is novel to that video and known to all others."""
    train = features()
    for values in train.values():
        values[2, 3] = 30.0
    fusion = fitted(train)
    trained, predicted = fusion.readings(train, video_ids=VIDEOS), fusion.readings(train)
    assert (trained.degree[2, 3] > 1).all()
    assert trained.degree[2, 3].mean() > 1.5 * predicted.degree[2, 3].mean()
    windows = torch.tensor([0, 1, 2, 2, 4, 5, 6])
    for values in train.values():
        values[3] = values[2]
    apart, together = (
        fitted(train).readings(train, video_ids=VIDEOS),
        fitted(train, videos=windows).readings(train, video_ids=windows),
    )
    assert (together.degree[3, 3] > apart.degree[3, 3] + 0.5).all(), "crops and windows of one video are that video"


def test_abnormal_videos_are_in_no_reference_and_no_scale():
    train = features()
    louder = {name: torch.where(LABELS[:, None, None], 50 * values, values) for name, values in train.items()}
    plain, loud = fitted(train), fitted(louder)
    assert torch.equal(plain.reference_units, loud.reference_units)
    for name in WIDTHS:
        for buffer in ("near", "full", "references", "bandwidth"):
            assert torch.equal(getattr(plain.known_normals(name), buffer), getattr(loud.known_normals(name), buffer))
    torch.testing.assert_close(plain.frozen.centre, loud.frozen.centre)


def test_references_are_real_segments_thinned_evenly():
    train = features()
    fusion = fitted(train, references=8)
    assert fusion.columns == 8
    for k, (bag, node) in enumerate(fusion.reference_units.tolist()):
        assert not LABELS[bag]
        assert all(torch.equal(fusion.known_normals(name).references[k], train[name][bag, node]) for name in WIDTHS)
    assert fitted(train).columns == 5 * N


def test_a_video_of_fewer_snippets_than_nodes_counts_each_once():
    train = {name: values[:, :3].repeat_interleave(2, dim=1) for name, values in features().items()}
    assert fitted(train).columns == 5 * 3


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_nothing_depends_on_the_order_of_videos_modalities_or_on_names(seed):
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    train, test = features(seed=seed), features(2, seed=seed + 1)
    plain = fitted(train)
    shuffled = fitted({name: values[order] for name, values in train.items()}, labels=LABELS[order])
    expected = plain.make_head()(nodes(plain, test))
    torch.testing.assert_close(shuffled.make_head()(nodes(shuffled, test)), expected, rtol=1e-3, atol=1e-3)
    renamed = LegoFusion({"x": 3, "y": 4})
    renamed.fit({"y": train["motion"], "x": train["text"]}, LABELS, VIDEOS)
    again = renamed.make_head()(nodes(renamed, {"y": test["motion"], "x": test["text"]}))
    torch.testing.assert_close(again, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_of_measurement_do_not_matter(scale):
    train, test = features(), features(2, seed=1)
    plain, scaled = (fitted({name: factor * values for name, values in train.items()}) for factor in (1.0, scale))
    made = [nodes(one, {n: f * v for n, v in test.items()}) for one, f in ((plain, 1.0), (scaled, scale))]
    torch.testing.assert_close(made[1], made[0], rtol=1e-3, atol=1e-3)


def test_the_mean_over_crops_may_be_taken_first():
    """The logit is linear in the readings: one bag a video gives the mean of the logits of its crops."""
    videos, train = torch.arange(7).repeat_interleave(2), features(14)
    labels = LABELS.repeat_interleave(2)
    fusion = fitted(train, labels=labels, videos=videos)
    head = fusion.make_head()
    with torch.no_grad():
        head.weights.normal_(generator=torch.Generator().manual_seed(0))
    test = features(6, seed=3)
    pooled = head(fusion(fusion.transform(test, crops=2)).nodes)
    each = head(fusion(fusion.transform(test)).nodes)
    torch.testing.assert_close(pooled, each.unflatten(0, (3, 2)).mean(1), rtol=1e-4, atol=1e-4)
    trained = fusion.transform(train, video_ids=videos, crops=2)
    assert all(values.shape[0] == 7 for values in trained.values())


def test_a_modality_of_zeros_is_a_typical_normal_segment():
    fusion = fitted()
    inputs = fusion.transform(features(2, seed=1))
    gone = {**inputs, "text": torch.zeros_like(inputs["text"])}
    parts = fusion.make_head().parts(fusion(gone).nodes)
    assert not parts.degree[:, :, 1].any() and parts.degree[:, :, 0].any()


@pytest.mark.parametrize("form", ["joint", "full", "all-pairs", "random-pair"])
def test_a_learned_operator_starts_as_the_product(form):
    """The readings are those of the fixed operator, and the degree of G itself is one more row."""
    options = {"operator": "learned", "form": form, "order": 2}
    train, test = features(), features(2, seed=1)
    fixed, learned = fitted(train), fitted(train, **options)
    with torch.no_grad():  # without the noise that parts its terms
        for parameter in learned.operator.parameters():
            parameter.copy_(parameter.round())
    plain, more = nodes(fixed, test), nodes(learned, test)
    assert more.shape[-1] == plain.shape[-1] + 2
    torch.testing.assert_close(more[..., :4], plain[..., :4], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(more[..., -7:], plain[..., -7:], rtol=1e-4, atol=1e-4)
    graph = fitted(train, **options).fuse(test).graph
    assert graph.shape == (2, N, learned.columns) and graph.min() >= 0


def test_new_normal_segments_become_known():
    train, new = features(), features(1, seed=5)
    fusion = fitted(train)
    far = {name: values[0] + 20 for name, values in new.items()}
    before = fusion.readings({name: values[None] for name, values in far.items()})
    kept = {name: fusion.known_normals(name).bandwidth.clone() for name in WIDTHS}
    fusion.add_references({name: values[::2] for name, values in far.items()}, torch.tensor([0, 0, 1]))
    after = fusion.readings({name: values[None] for name, values in far.items()})
    assert (after.degree < before.degree).all()
    assert fusion.most_like({name: values[None] for name, values in far.items()}, 3)[1].max() >= 5 * N
    assert fusion.columns == 5 * N + 3 and fusion.reference_units[-1].tolist() == [-1, -1]
    assert all(torch.equal(fusion.known_normals(name).bandwidth[: 5 * N], kept[name]) for name in WIDTHS)
    again = LegoFusion(**fusion.config())
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(nodes(again, far_bags := {n: v[None] for n, v in far.items()}), nodes(fusion, far_bags))


# ---- what somebody may bring


def test_one_normal_video_is_refused_and_two_are_enough():
    two = torch.tensor([False, True, False])
    fusion = fitted(features(3), labels=two, videos=torch.arange(3))
    assert nodes(fusion, features(2, seed=1)).isfinite().all()
    with pytest.raises(DataError, match=r"cross-fitted by video: expected at least 2 normal training videos.*got 1"):
        fitted(features(3), labels=torch.tensor([False, True, True]), videos=torch.arange(3))
    with pytest.raises(DataError, match="got 1"):
        fitted(features(3), labels=two, videos=torch.tensor([0, 1, 0]))
    with pytest.raises(DataError, match="expected normal training videos, got none"):
        fitted(features(3), labels=torch.ones(3, dtype=torch.bool), videos=torch.arange(3))


def poor(kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    train, test = features(), features(2, seed=1)
    if kind == "constant modality":
        train["text"] = torch.ones_like(train["text"])
    elif kind == "constant column":
        train["motion"][..., 1] = 7.0
    elif kind == "no distinct segments":
        train = {name: values[:1, :1].expand(7, N, -1).clone() for name, values in train.items()}
    elif kind == "huge outliers":
        train["motion"][1, 2], test["motion"][0, 0], test["text"][1] = 1e8, -1e12, 1e15
    elif kind == "huge normal outlier":
        train["motion"][0, 2] = 1e6
    elif kind == "references that duplicate test videos":
        test = {name: values[:2].clone() for name, values in train.items()}
    return train, test


KINDS = ("constant modality", "constant column", "no distinct segments", "huge outliers", "huge normal outlier")


@pytest.mark.parametrize("nodes_of_a_video", [1, 2, 3, N])
@pytest.mark.parametrize("kind", [*KINDS, "references that duplicate test videos"])
def test_poor_videos_give_finite_logits(kind, nodes_of_a_video):
    train, test = ({name: values[:, :nodes_of_a_video] for name, values in one.items()} for one in poor(kind))
    bags = Bags(tuple(map(str, range(7))), LABELS, 1, train)
    fusion = LegoFusion(WIDTHS)
    fit_frozen(fusion, bags)
    detector = Detector(fusion)
    fit(detector, bags, TrainingConfig())
    logits = predict_logits(detector, Bags(("a", "b"), torch.zeros(2, dtype=torch.bool), 1, test))
    assert logits.isfinite().all() and logits.abs().max() < 1e3


def test_what_is_wrong_with_a_modality_costs_that_modality_only():
    """One dead modality changes no degree of the others but for the common scale."""
    train, test = features(), features(2, seed=1)
    plain = LegoFusion({"motion": 4})
    plain.fit({"motion": train["motion"]}, LABELS, VIDEOS)
    train["text"], test["text"] = torch.ones_like(train["text"]), torch.ones_like(test["text"])
    both = fitted(train)
    alone = plain.readings({"motion": test["motion"]}).degree[:, :, 0]
    torch.testing.assert_close(both.readings(test).degree[:, :, 0], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"references": 0}, "'references' parameter of LegoFusion"),
        ({"kept": 0}, "'kept' parameter of LegoFusion"),
        ({"orders": ()}, r"'orders' parameter of LegoFusion must be a list of ints in \[1, inf\)"),
        ({"orders": (0,)}, "'orders' parameter of LegoFusion"),
        ({"bandwidth_exponent": 1.5}, "'bandwidth_exponent' parameter of LegoFusion"),
        ({"pseudo_videos": -1.0}, "'pseudo_videos' parameter of LegoFusion"),
        ({"time_context": -1.0}, "'time_context' parameter of LegoFusion"),
        ({"window": 0}, "'window' parameter of LegoFusion"),
        ({"operator": "free"}, "'operator' parameter of LegoFusion must be one of 'fixed', 'learned'"),
        ({"operator": "learned", "form": "cubic"}, "'form' parameter of LegoFusion"),
        ({"units": {"flow": 1}}, "units names 'flow', which is no modality"),
        ({"units": {"text": 1}, "most_novel": 0}, "'most_novel' parameter of LegoFusion"),
        ({"units": {"text": 1, "motion": 1}, "operator": "learned"}, "a learned operator needs a modality of whole segments"),
    ],
)
def test_wrong_options(options, message, unchecked_types):
    with pytest.raises(ParameterError, match=message):
        LegoFusion(WIDTHS, **options)


def test_a_fusion_that_knows_nothing_yet_says_so():
    with pytest.raises(DataError, match="knows no normal segment yet"):
        LegoFusion(WIDTHS).fuse(features())


# ---- the two worlds


def worlds(videos: int, seed: int, *, own: bool, noise: float = 0.5, nodes: int = 24) -> tuple[Bags, Tensor]:
    """Videos with a base of their own (or one for all), and 4 neighbouring nodes around another vector in abnormal ones."""
    generator = torch.Generator().manual_seed(seed)
    labels, odd = torch.arange(videos) % 2 == 1, torch.zeros(videos, nodes, dtype=torch.bool)
    for video in labels.nonzero()[:, 0].tolist():
        first = int(torch.randint(nodes - 4, (), generator=generator))
        odd[video, first : first + 4] = True
    inputs = {}
    for name, width in (("motion", 16), ("text", 12)):
        base = torch.randn(videos, 1, width, generator=generator)
        if not own:
            base = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(99 + width)).expand_as(base)
        other = torch.randn(videos, 1, width, generator=generator)
        noises = noise * torch.randn(videos, nodes, width, generator=generator)
        inputs[name] = torch.where(odd[..., None], other, base) + noises
    return Bags(tuple(f"v{i}" for i in range(videos)), labels, 1, inputs), odd


def trained(bags: Bags, **settings) -> Detector:
    fusion = LegoFusion({name: values.shape[-1] for name, values in bags.inputs.items()})
    fit_frozen(fusion, bags)
    detector = Detector(fusion)
    fit(detector, bags, TrainingConfig(**settings))
    return detector


def auc(detector: Detector, bags: Bags, odd: Tensor) -> float:
    return float(roc_auc_score(odd.flatten().numpy(), predict(detector, bags).flatten().numpy()))


def test_where_every_video_is_a_world_of_its_own_the_graph_inside_it_decides():
    train, _ = worlds(40, 0, own=True)
    test, odd = worlds(40, 1, own=True)
    detector = trained(train)
    assert bool(detector.head.own_world) and value_of(detector.head.alpha) > 0.3
    assert auc(detector, test, odd) > 0.97
    blind = trained(train, own_world_gain=None)
    assert not bool(blind.head.own_world) and auc(blind, test, odd) < 0.75


def test_in_a_known_world_the_third_reading_is_not_there():
    """To the digit: with and without the offer."""
    train, _ = worlds(24, 0, own=False)
    test, odd = worlds(24, 1, own=False)
    offered, never = trained(train), trained(train, own_world_gain=None)
    assert not bool(offered.head.own_world)
    assert torch.equal(predict_logits(offered, test), predict_logits(never, test))
    assert auc(offered, test, odd) > 0.97


def test_training_draws_nothing_at_random():
    train, _ = worlds(12, 0, own=False)
    first, second = trained(train, seed=0), trained(train, seed=7)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_the_fit_is_a_minimum_of_the_posterior():
    """No small step in any of some random directions is better."""
    train, _ = worlds(12, 0, own=False, noise=1.0)
    detector = trained(train, own_world_gain=None, iterations=200)
    head: ReadingHead = detector.head
    frozen = training_inputs(detector.fusion, train)
    made = detector.fusion(frozen.inputs).nodes.double()
    head.double()
    usual = head.usual(made[~train.labels])

    def objective() -> float:
        logits = head(made)
        top = logits.topk(3, dim=1).values
        signed = torch.where(train.labels[:, None], top, -top)
        losses = math.log(3) - torch.nn.functional.logsigmoid(signed).logsumexp(1)
        return float(losses.sum() + head.penalty(Priors(), usual))

    learned = [parameter for parameter in head.parameters() if parameter.requires_grad]
    with torch.no_grad():
        best = objective()
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            steps = [0.03 * torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in learned]
            for sign in (1, -2, 1):  # there, to the other side, and back
                for parameter, step in zip(learned, steps, strict=True):
                    parameter.add_(sign * step)
                assert objective() >= best - 1e-3


def test_labels_say_which_way_of_being_unlike_is_abnormal():
    """Novel segments are in all videos, further away in normal ones: only which way they lie tells them apart."""

    def videos(seed: int) -> tuple[Bags, Tensor]:
        bags, odd = worlds(40, seed, own=False)
        for values in bags.inputs.values():
            width = values.shape[-1]
            base = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(99 + width))
            generator = torch.Generator().manual_seed(seed + 50)
            noise = 0.5 * torch.randn(values.shape, generator=generator)
            values.copy_(base + noise)
            values[odd] += 3 * torch.eye(width)[0]
            which = torch.randint(1, width, (40,), generator=generator)
            values[:, :4] += 4 * torch.eye(width)[which][:, None] * ~odd[:, :4, None]
        return bags, odd

    (train, _), (test, odd) = videos(0), videos(1)
    untrained, learned = auc(trained(train, steps=0), test, odd), auc(trained(train), test, odd)
    assert untrained < 0.96 and learned > untrained + 0.03


CASES: dict[str, Callable[[], dict]] = {
    "fixed": dict,
    "learned": lambda: {"operator": "learned", "order": 1},
    "causal": lambda: {"window": 8},
}


@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded_it_scores_the_same(case, tmp_path):
    train, _ = worlds(12, 0, own=False)
    fusion = LegoFusion({name: values.shape[-1] for name, values in train.inputs.items()}, **CASES[case]())
    fit_frozen(fusion, train)
    detector = Detector(fusion)
    fit(detector, train, TrainingConfig(iterations=10))
    config = detector.config()
    again = Detector(LegoFusion(**config["fusion"]["config"]), **config["head"])
    again.load_state_dict(detector.state_dict())
    test, _ = worlds(4, 3, own=False)
    assert torch.equal(predict_logits(again, test), predict_logits(detector, test))
