"""Conditions: what is noisy or missing is exactly that, and nothing else changes."""

import math

import pytest
import torch
from torch import Tensor

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import Bags, is_cached, load_bags, scoring_inputs, without_graphs
from lego_fusion.learn.conditions import (
    CLEAN,
    KINDS,
    REMOVALS,
    Condition,
    apply_condition,
    parse_condition,
    permuted_rows,
    training_mean,
)
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import ModelShape, run_method
from lego_fusion.learn.splits import own_split
from lego_fusion.learn.train import predict

WIDTHS = {"motion": 3, "text": 6}
N = 5
QUICK = TrainingConfig(steps=3)


def made_bags(prefix: str, videos: int, *, crops: int = 1, seed: int = 0) -> Bags:
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: 2 + 3 * torch.randn(videos * crops, N, width, generator=generator) for name, width in WIDTHS.items()}
    names = tuple(f"{prefix}{index}" for index in range(videos))
    return Bags(names, torch.arange(videos) % 2 == 1, crops, inputs)


TRAIN, TEST, HELD_OUT = made_bags("train", 6), made_bags("test", 4, seed=1), made_bags("held", 2, seed=2)


def under(text: str, *, train: Bags = TRAIN, test: Bags = TEST, seed: int = 0) -> tuple[Bags, Bags, Bags]:
    train, (test, held_out) = apply_condition(parse_condition(text), train, [test, HELD_OUT], seed=seed)
    return train, test, held_out


def same(first: Bags, second: Bags, names: tuple[str, ...] = tuple(WIDTHS)) -> bool:
    return all(torch.equal(first.inputs[name], second.inputs[name]) for name in names)


def sorted_rows(tensor: Tensor) -> Tensor:
    rows = tensor.flatten(0, 1)
    return rows[rows[:, 0].argsort()]


ALL = ("clean", "text:noise=1.5", "text:test-noise=2", "noise-modality=8")
ALL += tuple(f"text:missing={removal}" for removal in REMOVALS)


@pytest.mark.parametrize("text", ALL)
def test_a_condition_reads_back_as_it_is_written(text):
    condition = parse_condition(text)
    assert str(condition) == text
    assert parse_condition(f" {condition} ") == condition
    assert condition.kind in KINDS


@pytest.mark.parametrize("text", ALL)
def test_only_the_named_modality_changes_and_nothing_in_place(text):
    before = {name: tensor.clone() for name, tensor in TEST.inputs.items()}
    train, test, held_out = under(text)
    for given, now in ((TRAIN, train), (TEST, test), (HELD_OUT, held_out)):
        assert torch.equal(now.inputs["motion"], given.inputs["motion"])
        assert now.videos == given.videos
        assert torch.equal(now.labels, given.labels)
    assert all(torch.equal(TEST.inputs[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("kind", ["noise", "test-noise"])
def test_noise_of_level_0_is_clean(kind):
    assert all(same(given, now) for given, now in zip((TRAIN, TEST, HELD_OUT), under(f"motion:{kind}=0"), strict=True))


def test_noise_is_in_training_and_test_alike_and_test_noise_in_test_only():
    train, test, held_out = under("text:noise=1")
    assert not same(train, TRAIN)
    assert not same(test, TEST)
    assert not same(held_out, HELD_OUT)
    train, only_test, held_out = under("text:test-noise=1")
    assert same(train, TRAIN)
    assert same(held_out, HELD_OUT)
    assert same(only_test, test), "the same noise meets the same video"


def test_noise_grows_with_its_level_and_has_the_deviation_of_each_training_column():
    scale = torch.tensor([1.0, 10.0, 100.0])
    train = Bags(TRAIN.videos, TRAIN.labels, 1, {"motion": TRAIN.inputs["motion"] * scale})
    many = Bags(tuple(map(str, range(400))), torch.zeros(400, dtype=torch.bool), 1, {"motion": torch.zeros(400, N, 3)})
    noise = {level: apply_condition(parse_condition(f"motion:noise={level}"), train, [many], seed=0)[1][0] for level in (1, 2)}
    once, twice = noise[1].inputs["motion"], noise[2].inputs["motion"]
    torch.testing.assert_close(twice, 2 * once)
    expected = train.inputs["motion"].reshape(-1, 3).var(0, unbiased=False).sqrt()
    torch.testing.assert_close(once.reshape(-1, 3).std(0), expected, rtol=0.06, atol=0.0)
    torch.testing.assert_close(once.reshape(-1, 3).mean(0) / expected, torch.zeros(3), rtol=0.0, atol=0.06)


@pytest.mark.parametrize("text", ["text:noise=1", "noise-modality=4", "text:missing=permute"])
def test_the_same_seed_gives_the_same_noise_and_another_seed_another(text):
    torch.manual_seed(1)
    first = under(text)
    torch.manual_seed(2)  # the global generator has no part in it
    again, other = under(text), under(text, seed=1)
    name = "noise" if "modality" in text else "text"
    for place in (0, 1) if "noise" in text else (1,):
        assert torch.equal(first[place].inputs[name], again[place].inputs[name])
        assert not torch.equal(first[place].inputs[name], other[place].inputs[name])


def test_the_noise_of_a_video_depends_on_no_other_video():
    alone = under("text:noise=1", test=TEST.select([2]))[1]
    assert torch.equal(alone.inputs["text"], under("text:noise=1")[1].inputs["text"][2:3])
    turned = under("noise-modality=4", test=TEST.select([3, 2, 1, 0]))[1]
    assert torch.equal(turned.inputs["noise"].flip(0), under("noise-modality=4")[1].inputs["noise"])


def test_crops_have_noise_of_their_own():
    bags = made_bags("crops", 3, crops=2)
    noise = apply_condition(parse_condition("noise-modality=4"), bags, [bags], seed=0)[0].inputs["noise"]
    assert noise.shape == (6, N, 4)
    assert not torch.equal(noise[0], noise[1])


def test_a_noise_modality_adds_exactly_one_and_changes_no_other():
    for given, now in zip((TRAIN, TEST, HELD_OUT), under("noise-modality=7"), strict=True):
        assert set(now.inputs) == {*given.inputs, "noise"}
        assert same(now, given)
        assert now.inputs["noise"].shape == (len(given.videos), N, 7)
    condition = parse_condition("noise-modality=7")
    assert condition.modalities(("motion", "text")) == ("motion", "text", "noise")
    assert condition.manifests({})["noise"].width == 7


def test_a_missing_modality_is_there_in_training():
    for removal in REMOVALS:
        train, _, held_out = under(f"text:missing={removal}")
        assert same(train, TRAIN)
        assert same(held_out, HELD_OUT)


def test_removed_to_zero_or_to_the_training_mean():
    assert not under("text:missing=zero")[1].inputs["text"].any()
    gone = under("text:missing=mean")[1].inputs["text"]
    expected = TRAIN.inputs["text"].reshape(-1, 6).double().mean(0)
    torch.testing.assert_close(gone.double(), expected.expand(4, N, 6), rtol=1e-6, atol=1e-6)


def test_permuting_keeps_every_row_and_says_nothing_of_its_place():
    gone = under("text:missing=permute")[1].inputs["text"]
    torch.testing.assert_close(sorted_rows(gone), sorted_rows(TEST.inputs["text"]), rtol=0.0, atol=0.0)
    assert not torch.equal(gone, TEST.inputs["text"])
    many = torch.arange(2000.0).reshape(100, 20, 1)
    moved = permuted_rows(many, torch.Generator().manual_seed(0)).flatten()
    assert abs(float(torch.corrcoef(torch.stack([many.flatten(), moved]))[0, 1])) < 0.1


def fitted(rows: str = "sorted", *, relations: str = "cosine") -> PaperFusion:
    fusion = PaperFusion(WIDTHS, nodes=N, rows=rows, relations=relations, centre=relations == "cosine", zero_order="ones")
    fusion.fit(TRAIN.inputs, TRAIN.bag_labels, TRAIN.video_ids)
    with torch.no_grad():
        for parameter in fusion.operator.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return fusion


@pytest.mark.parametrize("relations", ["cosine", "gaussian"])
def test_a_dropped_term_leaves_only_the_zeroth_power_of_that_modality(relations):
    """The polynomial by hand: text contributes its coefficients of power 0, motion all of its own."""
    fusion = fitted(relations=relations)
    graphs = scoring_inputs(fusion, TEST)
    dropped = without_graphs(fusion, graphs, ["text"]).inputs
    dense = fusion.operator.dense_coefficients()
    r = graphs.inputs["motion"]
    expected = dense[0, 0] + dense[1, 0] * r + dense[2, 0] * r**2
    torch.testing.assert_close(fusion(dropped).graph, expected, rtol=1e-4, atol=1e-5)


def test_the_mean_of_a_centred_cosine_is_a_dropped_term_but_for_a_node_and_itself():
    fusion = fitted()
    gone = {**TEST.inputs, "text": training_mean(TRAIN.inputs["text"]).expand(4, N, 6)}
    assert not fusion.transform(gone)["text"][:, ~torch.eye(N, dtype=torch.bool)].any()


def test_a_dropped_term_of_the_default_is_a_typical_normal_segment():
    """The logit by hand without the weights of text: what is left is the sum of the parts of motion."""
    fusion = LegoFusion(WIDTHS)
    fusion.fit(TRAIN.inputs, TRAIN.bag_labels, TRAIN.video_ids)
    detector = Detector(fusion).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    parts = detector.reading_head.parts(fusion.fuse(TEST.inputs).nodes)
    width = WIDTHS["motion"]
    expected = parts.degree[:, :, 0].sum(-1) + parts.departure[..., :width].sum(-1) + parts.time[..., :width].sum(-1)
    found = predict(detector, TEST, dropped=["text"]).logit().float()
    torch.testing.assert_close(found, expected + parts.constant, rtol=1e-4, atol=1e-4)


def test_predicting_with_a_dropped_term_needs_graphs():
    detector = Detector(fitted())
    with pytest.raises(DataError, match=r"modality 'audio' is missing"):
        predict(detector, TEST, dropped=["audio"])
    for fusion in (Concat(WIDTHS), fitted("propagate")):
        assert not is_cached(fusion)
        with pytest.raises(ParameterError, match=r"'drop-term' needs a fusion with graphs.*use missing=mean"):
            predict(Detector(fusion), TEST, dropped=["text"])


WRONG = {
    "": "this is no condition.*expected clean, MODALITY:noise=LEVEL",
    "text": "this is no condition",
    "text:noise": "this is no condition",
    "text:noise=": "this is no condition",
    "noise=1": "this is no condition",
    ":noise=1": "this is no condition",
    "text:noise-modality=3": "this is no condition",
    "text:blur=1": "this is no condition",
    "text:clean=1": "this is no condition",
    "text:noise=loud": r"level of a condition is no number \('text:noise=loud'\): got 'loud'",
    "text:noise=-1": r"level of a condition is wrong \(text:noise=-1\): expected a finite number >= 0, got -1",
    "text:noise=nan": "level of a condition is wrong.*got nan",
    "text:test-noise=inf": "level of a condition is wrong.*got inf",
    "noise-modality=0": "a whole number of columns >= 1, got 0",
    "noise-modality=2.5": "a whole number of columns >= 1, got 2.5",
    "text:missing=gone": "unknown removal.*expected zero or mean or permute or drop-term, got 'gone'",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_wrong_condition_is_one_clear_line(text, message):
    with pytest.raises(ParameterError, match=message) as caught:
        parse_condition(text)
    assert "\n" not in str(caught.value)


def test_a_condition_needs_its_modality():
    with pytest.raises(ParameterError, match=r"'audio:noise=1' does not fit \(modality 'audio'\): expected motion, text"):
        under("audio:noise=1")
    noisy = Bags(TRAIN.videos, TRAIN.labels, 1, {**TRAIN.inputs, "noise": TRAIN.inputs["text"]})
    with pytest.raises(ParameterError, match="expected no modality called 'noise' yet"):
        under("noise-modality=3", train=noisy)
    assert parse_condition("text:noise=1").applies_to(("text",))
    assert not parse_condition("text:noise=1").applies_to(("motion",))
    assert not parse_condition("noise-modality=1").applies_to(("noise",))


def test_a_wrong_kind_or_level_is_refused_without_parsing(unchecked_types):
    with pytest.raises(ParameterError, match=r"'kind' parameter of Condition must be one of 'clean'"):
        Condition("blur")
    with pytest.raises(ParameterError, match=r"'removal' parameter of Condition must be one of 'zero'"):
        Condition("missing", "text")
    with pytest.raises(ParameterError, match="got nan"):
        Condition("noise", "text", math.nan)


@pytest.fixture(scope="module")
def planted_bags(planted: Dataset) -> Bags:
    return load_bags(planted, ("motion", "text"), [record.video for record in planted.videos], nodes=N)


SHAPE = ModelShape(nodes=N)


def scores(planted: Dataset, bags: Bags, method: str, text: str) -> dict[str, Tensor]:
    condition = parse_condition(text)
    run = run_method(
        planted, bags, own_split(planted), ("motion", "text"), method, QUICK, ModelShape(nodes=N), condition=condition
    )
    return run.node_scores


@pytest.mark.parametrize("method", ["lego", "concat", "nearest-neighbours", "flow-energy"])
def test_every_method_meets_the_conditions(method, planted, planted_bags):
    clean = scores(planted, planted_bags, method, "clean")
    for text in ("motion:noise=0", "motion:test-noise=0"):
        other = scores(planted, planted_bags, method, text)
        assert all(torch.equal(clean[video], other[video]) for video in clean)
    for text in ("motion:noise=2", "motion:missing=mean", "motion:missing=permute"):
        other = scores(planted, planted_bags, method, text)
        assert all(torch.isfinite(score).all() for score in other.values())
        assert any(not torch.allclose(clean[video], other[video]) for video in clean)
    if method == "flow-energy":  # reads one column of motion
        other = scores(planted, planted_bags, method, "noise-modality=4")
        assert all(torch.equal(clean[video], other[video]) for video in clean)


def test_a_term_can_be_dropped_from_lego_only(planted, planted_bags):
    assert scores(planted, planted_bags, "lego", "text:missing=drop-term")
    for method in ("concat", "nearest-neighbours"):
        with pytest.raises(ParameterError, match="'drop-term' needs a fusion with graphs"):
            scores(planted, planted_bags, method, "text:missing=drop-term")


def test_clean_is_the_default():
    assert Condition() == CLEAN == parse_condition("clean")
    train, (test,) = apply_condition(CLEAN, TRAIN, [TEST], seed=0)
    assert train is TRAIN
    assert test is TEST
