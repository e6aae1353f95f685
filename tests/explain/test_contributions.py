"""Models, removals and intervals: the exact table of the definitions, and what is refused."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.explain.contributions import ModelValue, model_contributions
from lego_fusion.measure.detection import micro_auc
from lego_fusion.measure.intervals import combined_intervals
from lego_fusion.measure.scored import ScoredVideo

BITS = {"x1": np.array([0, 0, 1, 1]), "x2": np.array([0, 1, 0, 1])}
COPIES = {"x1": np.array([0, 1]), "x2": np.array([0, 1])}

Row = Mapping[str, np.ndarray]


@pytest.mark.parametrize(
    ("model", "bits", "v0", "v1", "v2", "v12", "phi1", "phi2", "cooperation"),
    [
        (lambda x: x["x1"] ^ x["x2"], BITS, 0.5, 0.5, 0.5, 1, 0.25, 0.25, 0.5),
        (lambda x: x["x1"] & x["x2"], BITS, 0.75, 0.75, 0.75, 1, 0.125, 0.125, 0.25),
        (lambda x: x["x1"] | x["x2"], BITS, 0.75, 0.75, 0.75, 1, 0.125, 0.125, 0.25),
        (lambda x: x["x1"], BITS, 0.5, 1, 0.5, 1, 0.5, 0, 0),
        (lambda x: x["x1"] | x["x2"], COPIES, 0.5, 1, 1, 1, 0.25, 0.25, -0.5),
    ],
    ids=["xor", "and", "or", "x1", "copies"],
)
def test_the_exact_table(
    model: Callable[[Row], np.ndarray],
    bits: Row,
    v0: float,
    v1: float,
    v2: float,
    v12: float,
    phi1: float,
    phi2: float,
    cooperation: float,
) -> None:
    told = model_contributions(model, bits, accuracy_score, targets=model(bits), removal="zero", baseline="majority")
    assert (float(told.baseline), *told.singles.tolist(), float(told.full)) == pytest.approx((v0, v1, v2, v12), abs=1e-12)
    assert told.values.tolist() == pytest.approx([phi1, phi2], abs=1e-12)
    assert float(told.cooperation) == pytest.approx(cooperation, abs=1e-12)
    assert told.removal == "zero"


def test_the_majority_baseline_breaks_the_dummy_axiom() -> None:
    """x2 is never looked at, and yet is paid for the difference between the model on zeros and the majority."""
    targets, features = np.array([1, 1, 1, 0]), {"x1": np.array([1, 1, 1, 0]), "x2": np.array([0, 1, 0, 1])}
    told = {
        baseline: model_contributions(
            lambda x: x["x1"], features, accuracy_score, targets=targets, removal="zero", baseline=baseline
        )
        for baseline in ("model", "majority")
    }
    assert told["model"].values.tolist() == pytest.approx([0.75, 0.0])  # on zeros it says 0, which is right once in four
    assert told["majority"].values.tolist() == pytest.approx([0.5, -0.25])  # v({x2}) - v({}) = 1/4 - 3/4, half of the time
    for one in told.values():
        assert one.values.sum() == pytest.approx(one.full - one.baseline)


def test_a_number_as_baseline_is_asked_of_nobody() -> None:
    asked = []

    def model(x: Row) -> np.ndarray:
        asked.append(x)
        return x["x1"] * 1.0

    told = model_contributions(model, BITS, roc_auc_score, targets=BITS["x1"], removal="zero", baseline=0.5)
    assert float(told.baseline) == 0.5
    assert len(asked) == told.evaluations == 4  # {1}, {2}, {1, 2}, and {1, 2} again


def test_removals_stand_in_what_they_say() -> None:
    features = {"x": np.arange(12.0).reshape(2, 3, 2), "y": np.array([1.0, 4.0])}

    def stand_in(removal: Any, name: str) -> Any:
        return ModelValue(lambda x: x[name], features, removal=removal)(frozenset())

    np.testing.assert_array_equal(stand_in("zero", "x"), np.zeros((2, 3, 2)))
    np.testing.assert_array_equal(stand_in("mean", "x"), np.broadcast_to([5.0, 6.0], (2, 3, 2)))  # over samples and nodes
    np.testing.assert_array_equal(stand_in("mean", "y"), [2.5, 2.5])
    many = ModelValue(lambda x: x["y"], features, removal="permute", repeats=400)
    np.testing.assert_allclose(many(frozenset()), [2.5, 2.5], atol=0.2)
    np.testing.assert_array_equal(many(frozenset({"y"})), [1.0, 4.0])


def test_removed_modalities_are_permuted_together_and_the_same_way_for_every_set() -> None:
    features = {name: np.arange(50.0) for name in "abc"}
    value = ModelValue(lambda x: np.stack([x["a"], x["b"], x["c"]]), features, removal="permute", repeats=1)
    both, one = value(frozenset({"c"})), value(frozenset({"b", "c"}))
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_array_equal(both[0], one[0])
    np.testing.assert_array_equal(both[2], features["c"])
    assert (both[0] != features["a"]).any()


def test_permuting_one_of_many_samples_finds_the_marginal_accuracy_of_xor() -> None:
    generator = np.random.default_rng(0)
    features = {"x1": generator.integers(0, 2, 4000), "x2": generator.integers(0, 2, 4000)}
    targets = features["x1"] ^ features["x2"]
    told = model_contributions(lambda x: x["x1"] ^ x["x2"], features, accuracy_score, targets=targets, removal="permute")
    np.testing.assert_allclose(told.values, 0.25, atol=0.02)
    assert told.removal == "permute, 8 permutations"
    assert told.evaluations == 3 * 8 + 2


def test_a_background_stands_in() -> None:
    features = {"x": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "y": np.zeros((3, 1))}
    background = {"x": np.array([[10.0, 20.0], [30.0, 60.0]]), "y": np.array([[1.0], [2.0]]), "unused": np.zeros(1)}
    mean = ModelValue(lambda x: x["x"], features, removal="mean", background=background)
    np.testing.assert_array_equal(mean(frozenset()), np.broadcast_to([20.0, 40.0], (3, 2)))
    assert mean.removal_name == "mean of the background"

    def pairs(x: Row) -> np.ndarray:
        return np.concatenate([x["x"][:, :1], x["y"]], axis=1)

    drawn = ModelValue(pairs, features, removal="permute", background=background, repeats=5)
    rows = np.concatenate(drawn.predictions(frozenset()))
    assert {tuple(row) for row in rows.tolist()} == {(10.0, 1.0), (30.0, 2.0)}  # both modalities from one row
    assert drawn.removal_name == "permute, 5 draws of the background"
    tensors, given = ({name: torch.from_numpy(value) for name, value in one.items()} for one in (background, features))
    again = ModelValue(pairs, given, removal="permute", background=tensors, repeats=5)
    np.testing.assert_array_equal(np.concatenate(again.predictions(frozenset())), rows)


def test_a_background_that_does_not_fit() -> None:
    features = {"x": np.ones((3, 2)), "y": np.ones(3)}
    with pytest.raises(DataError, match=r"modality 'y' is missing .background."):
        ModelValue(len, features, background={"x": np.ones((3, 2))})
    with pytest.raises(DataError, match=r"another shape .background, modality 'x'.*expected \(2,\), got \(4,\)"):
        ModelValue(len, features, background={"x": np.ones((3, 4)), "y": np.ones(3)})
    with pytest.raises(ParameterError, match="function takes no background"):
        ModelValue(len, features, removal=lambda model, x, absent: 0.0, background=features)
    with pytest.raises(ParameterError, match="zeros need no background"):
        ModelValue(len, features, removal="zero", background=features)
    with pytest.raises(DataError, match="different numbers of samples"):
        ModelValue(len, features, removal="permute", background={"x": np.ones((3, 2)), "y": np.ones(4)})


def test_a_custom_removal_gets_the_model_and_what_is_absent() -> None:
    def drop_terms(model: Any, features: Any, absent: frozenset[str]) -> np.ndarray:
        return sum(features[name] for name in features if name not in absent) + np.zeros(4)

    told = model_contributions(lambda x: x["x1"] + x["x2"], BITS, removal=drop_terms, label="drop-term")
    np.testing.assert_allclose(told.values, [BITS["x1"], BITS["x2"]])
    assert told.removal == "drop-term"
    assert model_contributions(lambda x: x["x1"] + x["x2"], BITS, removal=drop_terms).removal == "drop_terms"


@pytest.mark.parametrize("removal", ["zero", "mean", "permute"])
def test_tensors_and_arrays_agree(removal: Any) -> None:
    generator = np.random.default_rng(1)
    features = {"motion": generator.normal(size=(6, 4, 3)), "text": generator.normal(size=(6, 4, 2))}

    def model(x: Any) -> Any:
        return (x["motion"][..., 0] * x["text"][..., 1]).sum(1)

    tensors = {name: torch.from_numpy(value).requires_grad_() for name, value in features.items()}
    told, again = (model_contributions(model, one, removal=removal) for one in (features, tensors))
    np.testing.assert_allclose(told.values, again.values, atol=1e-12)
    assert told.values.shape == (2, 6)
    np.testing.assert_allclose(told.values.sum(0), told.full - told.baseline, atol=1e-12)


def fast_auc(targets: np.ndarray, scores: np.ndarray) -> float:
    """Share of pairs in the right order, half for ties."""
    differences = scores[targets == 1][:, None] - scores[targets == 0]
    return float((np.sign(differences).mean() + 1) / 2)


def linear_task(samples: int = 60) -> tuple[dict[str, np.ndarray], np.ndarray]:
    generator = np.random.default_rng(2)
    targets = np.arange(samples) % 2
    return {
        "good": targets + 0.3 * generator.normal(size=samples),
        "weak": targets + 2.0 * generator.normal(size=samples),
    }, targets


def both(x: Row) -> np.ndarray:
    return x["good"] + x["weak"]


def test_intervals_of_samples_hold_the_values_and_agree_with_resampling_from_scratch() -> None:
    features, targets = linear_task()
    told = model_contributions(both, features, fast_auc, targets=targets, removal="mean", resamples=200)
    assert told.intervals is not None
    assert len(told.intervals) == 3
    for value, interval in zip([*told.values, told.cooperation], told.intervals, strict=True):
        assert interval.value == pytest.approx(float(value), abs=1e-12)
        assert interval.low <= interval.value <= interval.high
        assert interval.unit == "sample"
    assert told.intervals[0].low > 0  # the good modality is told from nothing
    generator, drawn = np.random.default_rng(9), []
    means = {name: np.full(60, value.mean()) for name, value in features.items()}
    for _ in range(200):
        rows = np.concatenate([generator.choice(np.flatnonzero(targets == label), 30) for label in (0, 1)])
        auc = {
            keep: fast_auc(targets[rows], both({n: (features if n in keep else means)[n][rows] for n in features}))
            for keep in [(), ("good",), ("weak",), ("good", "weak")]
        }
        drawn.append((auc["good",] - auc[()] + auc["good", "weak"] - auc["weak",]) / 2)
    np.testing.assert_allclose([told.intervals[0].low, told.intervals[0].high], np.quantile(drawn, [0.025, 0.975]), atol=0.02)
    assert "95 % interval" in told.table()
    assert told.rows()[0]["low"] == told.intervals[0].low


def test_intervals_with_majority_and_with_a_number_as_baseline() -> None:
    features, targets = linear_task()

    def labels(x: Row) -> np.ndarray:
        return (both(x) > 1.0).astype(int)

    for baseline in ("majority", 0.5):
        told = model_contributions(
            labels, features, accuracy_score, targets=targets, removal="mean", baseline=baseline, resamples=20
        )
        assert told.intervals is not None
        assert [one.value for one in told.intervals] == pytest.approx([*told.values, float(told.cooperation)])


def scored(features: Mapping[str, np.ndarray]) -> list[ScoredVideo]:
    """A model that returns videos: the sum of its modalities, one video per row."""
    labels = np.zeros((8, 20), int)
    labels[::2, 5:12] = 1
    total = features["good"] + features["weak"]
    return [ScoredVideo.from_frames(f"v{number}", total[number], labels[number]) for number in range(8)]


def video_features() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    signal = np.zeros((8, 20))
    signal[::2, 5:12] = 1
    return {"good": signal + 0.5 * generator.normal(size=(8, 20)), "weak": 2 * generator.normal(size=(8, 20))}


def test_intervals_of_videos_come_from_the_measure_of_videos() -> None:
    features = video_features()
    told = model_contributions(scored, features, micro_auc, removal="mean", baseline=0.5, resamples=1)
    assert told.intervals is not None
    assert [one.value for one in told.intervals] == pytest.approx([*told.values, float(told.cooperation)])
    assert told.intervals[0].unit == "video"
    alone = model_contributions(
        lambda x: scored({**features, **x}), {"good": features["good"]}, micro_auc, removal="mean", baseline=0.5, resamples=1
    )
    assert alone.intervals is not None
    (direct,) = combined_intervals([scored(features)], np.ones((1, 1)), micro_auc)
    assert alone.intervals[0].low == pytest.approx(direct.low - 0.5)  # v(all) - 1/2
    assert alone.intervals[0].high == pytest.approx(direct.high - 0.5)


def test_intervals_of_permuted_videos_average_over_the_permutations() -> None:
    told = model_contributions(scored, video_features(), micro_auc, removal="permute", repeats=3, resamples=50)
    assert told.intervals is not None
    assert [one.value for one in told.intervals] == pytest.approx([*told.values, float(told.cooperation)])


def test_intervals_of_interactions_hold_them() -> None:
    told = model_contributions(scored, video_features(), micro_auc, removal="mean", resamples=100)
    assert told.interaction_intervals is not None
    assert told.interactions is not None
    ((pair, estimate),) = told.interaction_intervals.items()
    assert pair == ("good", "weak")
    assert estimate.value == pytest.approx(float(told.interactions[0, 1]))
    assert estimate.low <= estimate.value <= estimate.high
    assert told.intervals is not None
    assert estimate.low == pytest.approx(told.intervals[-1].low / 2)  # of two modalities C is twice their interaction
    document = told.document()
    assert document["interactions"] == [
        {"pair": ["good", "weak"], "value": estimate.value, "low": estimate.low, "high": estimate.high}
    ]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("removal", ["mean", "permute"])
def test_of_several_models_v_is_the_mean(removal: Any) -> None:
    features = {name: np.random.default_rng(place).normal(size=20) for place, name in enumerate(("x1", "x2"))}
    targets = np.arange(20) % 2
    models: list[Callable[[Row], np.ndarray]] = [lambda x: x["x1"] + x["x2"], lambda x: x["x1"] * x["x2"]]
    both = model_contributions(models, features, roc_auc_score, targets=targets, removal=removal)
    alone = [model_contributions(one, features, roc_auc_score, targets=targets, removal=removal) for one in models]
    np.testing.assert_allclose(both.values, (alone[0].values + alone[1].values) / 2)
    assert both.evaluations == alone[0].evaluations + alone[1].evaluations
    with pytest.raises(ParameterError, match="there is no model to explain"):
        model_contributions([], features, roc_auc_score, targets=targets)


def test_more_than_twelve_modalities_are_sampled_when_asked() -> None:
    features = {f"m{number}": np.array([1.0, float(number)]) for number in range(14)}

    def model(x: Row) -> np.ndarray:
        return np.sum(list(x.values()), axis=0)

    with pytest.raises(ParameterError, match=r"2\^14 = 16384 evaluations.*sample"):
        model_contributions(model, features, removal="zero")
    told = model_contributions(model, features, removal="zero", permutations=3)
    np.testing.assert_allclose(told.values, [[1.0, float(number)] for number in range(14)], atol=1e-12)
    with pytest.raises(ParameterError, match="intervals over samples need exact values"):
        model_contributions(model, features, removal="zero", permutations=3, resamples=10)


def test_a_model_with_dropout_is_caught() -> None:
    dropout = torch.nn.Dropout(0.5)
    features = {"motion": torch.ones(4, 8), "text": torch.ones(4, 8)}

    def model(x: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return dropout(x["motion"] + x["text"]).sum(1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        with pytest.raises(DataError, match=r"not deterministic.*largest difference of \d.*model.eval\(\)"):
            model_contributions(model, features)
    dropout.eval()
    model_contributions(model, features)


def test_random_labels_and_random_videos_are_caught_too() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(DataError, match="not deterministic"):
        model_contributions(lambda x: generator.choice(["cat", "dog"], 100), BITS, lambda p: (p == "cat").mean())
    features = video_features()
    with pytest.raises(DataError, match="not deterministic"):
        model_contributions(
            lambda x: scored({**x, "weak": x["weak"] + generator.normal(size=(8, 20))}), features, micro_auc, baseline=0.5
        )


def test_predictions_that_are_not_finite_name_the_set() -> None:
    features = {"motion": np.ones(3), "text": np.ones(3)}
    with (
        np.errstate(all="ignore"),
        pytest.raises(DataError, match=r"predictions are not finite .with motion\).*3 of 3 are NaN or infinite"),
    ):
        model_contributions(lambda x: x["motion"] / (x["text"] + 1 - x["motion"]), features, removal="zero")


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused_where_the_metric_needs_two(label: int) -> None:
    with pytest.raises(DataError, match=rf"metric needs two classes.*only {label}\."):
        model_contributions(lambda x: 1.0 * x["x1"], BITS, roc_auc_score, targets=np.full(4, label))
    one_class = [ScoredVideo.from_frames("v", [0.1, 0.2], [label, label])]
    with pytest.raises(DataError, match="one class"):
        model_contributions(lambda x: one_class, BITS, micro_auc)
    told = model_contributions(lambda x: x["x1"], BITS, accuracy_score, targets=np.full(4, label), removal="zero")
    assert told.values.sum() == pytest.approx(0.5 - (1 - label))  # accuracy needs no second class


def test_an_error_of_the_metric_itself_is_left_alone() -> None:
    def broken(targets: np.ndarray, predictions: np.ndarray) -> float:
        raise ValueError("not for these shapes")

    with pytest.raises(ValueError, match="not for these shapes"):
        model_contributions(lambda x: x["x1"], BITS, broken, targets=[0, 1, 0, 1])


def test_parameters_that_do_not_fit(unchecked_types: None) -> None:
    def model(x: Row) -> np.ndarray:
        return x["x1"]

    with pytest.raises(ParameterError, match=r"'removal' parameter.*'zero', 'mean', 'permute'"):
        model_contributions(model, BITS, removal="delete")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'baseline' parameter"):
        model_contributions(model, BITS, baseline="minority")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="majority predictor needs a metric and targets"):
        model_contributions(model, BITS, baseline="majority")
    with pytest.raises(ParameterError, match="need a metric"):
        model_contributions(model, BITS, resamples=10)
    with pytest.raises(ParameterError, match="one target and one prediction per sample"):
        model_contributions(model, BITS, np.mean, resamples=10)
    with pytest.raises(ParameterError, match="'resamples'"):
        model_contributions(model, BITS, np.mean, resamples=-1)
    with pytest.raises(DataError, match="different numbers of samples"):
        model_contributions(model, {"x1": np.ones(3), "x2": np.ones(4)}, removal="permute")
    with pytest.raises(DataError, match="needs other samples"):
        model_contributions(model, {"x1": np.ones(1)}, removal="permute")
    with pytest.raises(ParameterError, match="different names"):
        model_contributions(model, {})
