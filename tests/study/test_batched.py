"""Detectors trained together end where each ends alone."""

from collections.abc import Callable

import pytest
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import Bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.graph_cache import Graphs, build_graphs, restore_statistics
from lego_fusion.learn.splits import own_split
from lego_fusion.learn.train import fit, predict_logits
from lego_fusion.study import batched
from lego_fusion.study.batched import bucket, fit_together, why_alone

WIDTHS = {"motion": 3, "text": 5}
ONES = {"zero_order": "ones", "centre": True, "relations": {"motion": "gaussian", "text": "cosine"}}
FUSIONS = {
    "the paper's": {},
    "joint": {"form": "joint"},
    "ones": ONES,
    "ones, joint, sorted": {**ONES, "form": "joint", "rows": "sorted"},
    "rank 1": {"form": "rank1", "unit_range": True},
    "sorted, nearest": {"rows": "sorted", "nearest": 4},
    "matrix powers": {"expansion": "matrix", "zero_order": "ones"},
}
SETTINGS = {
    "plain": {},
    "every term": {"smoothness": 0.1, "sparsity": 0.05, "degree_variance": 1.0, "degree_threshold": 0.3, "degree_k": 3},
    "batches": {"batch_size": 4},
    "penalties": {"operator_sparsity": 0.01, "operator_order_decay": 0.02},
    "mean": {"pooling": "mean"},
    "highest": {"pooling": "max"},
    "no decay": {"weight_decay": 0.0},
    "validation": {"selection": "validation", "check_every": 3},
}


def made_fusion(**options) -> PaperFusion:
    widths = {name: WIDTHS[name] for name in options.pop("names", WIDTHS)}
    return PaperFusion(widths, **{"nodes": 8, **options})


@pytest.fixture(scope="module")
def graphs_for(write_planted: Callable[..., Dataset], tmp_path_factory) -> Callable[..., Graphs]:
    dataset = write_planted(tmp_path_factory.mktemp("batched") / "dataset", crops=2)
    split = own_split(dataset)

    def make(**options) -> Graphs:
        return build_graphs(dataset, made_fusion(**options), split.train, split.test, nodes=options.get("nodes", 8))

    return make


def detector_of(graphs: Graphs, options: dict, orders: object, seed: int) -> Detector:
    fusion = made_fusion(**options, order=orders, seed=seed)
    restore_statistics(fusion, graphs.statistics)
    return Detector(fusion, hidden=6, seed=seed)


def compare(graphs: Graphs, options: dict, orders: list, configs: list[TrainingConfig]) -> None:
    pairs = [
        [detector_of(graphs, dict(options), order, config.seed) for order, config in zip(orders, configs, strict=True)]
        for _ in range(2)
    ]
    fit_together(pairs[0], graphs.training, configs, validation=graphs.others)
    for together, alone, config in zip(*pairs, configs, strict=True):
        fit(alone, graphs.training, config, validation=graphs.others)
        for (name, found), expected in zip(together.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(
            predict_logits(together, graphs.others), predict_logits(alone, graphs.others), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("kind", FUSIONS)
def test_orders_seeds_and_rates_end_as_alone(graphs_for: Callable[..., Graphs], kind: str) -> None:
    options = FUSIONS[kind]
    orders = [{"motion": 1, "text": 3}, {"motion": 2, "text": 2}, {"motion": 4, "text": 1}, {"motion": 0, "text": 1}]
    configs = [
        TrainingConfig(steps=7, seed=place, learning_rate=rate, k=k, weight_decay=decay)
        for place, (rate, k, decay) in enumerate([(1e-3, 3, 5e-3), (1e-2, 1, 1.0), (3e-3, 8, 0.0), (1e-2, 40, 0.1)])
    ]
    compare(graphs_for(**options), options, orders, configs)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_ends_as_alone(graphs_for: Callable[..., Graphs], name: str) -> None:
    own = {"steps": 7, "learning_rate": 1e-2, **SETTINGS[name]}
    seeds = (0, 0) if "batch_size" in own else (0, 1)
    configs = [TrainingConfig(**{**own, "seed": seed}) for seed in seeds]
    varied = {"smoothness": 0.0, "sparsity": 0.2, "degree_threshold": 0.1, "degree_k": 20, "operator_sparsity": 0.0}
    if name in ("every term", "penalties"):
        configs[1] = configs[1].model_copy(update=varied)
    compare(graphs_for(), {}, [2, {"motion": 3, "text": 1}], configs)


@pytest.mark.parametrize("names", [["motion"], ["motion", "text"]])
def test_factors_that_are_multiplied_end_as_products_of_powers(
    graphs_for: Callable[..., Graphs], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "MOST_TERMS", 0)
    options = {"names": names, "form": "joint"}
    configs = [TrainingConfig(steps=5, seed=seed, operator_sparsity=0.01, learning_rate=1e-2) for seed in (0, 1)]
    compare(graphs_for(**options), options, [2, 4], configs)


def test_a_neighbour_changes_nothing(graphs_for: Callable[..., Graphs]) -> None:
    graphs, config = graphs_for(), TrainingConfig(steps=6, learning_rate=1e-2)
    weights = []
    for neighbours in ([], [9, 1]):
        detectors = [detector_of(graphs, {}, order, 0) for order in (2, *neighbours)]
        fit_together(detectors, graphs.training, [config] * len(detectors))
        weights.append(torch.nn.utils.parameters_to_vector(detectors[0].parameters()).detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_no_step_leaves_the_start(graphs_for: Callable[..., Graphs]) -> None:
    compare(graphs_for(), {}, [2], [TrainingConfig(steps=1)])
    graphs = graphs_for()
    detector, alone = (detector_of(graphs, {}, 2, 0) for _ in range(2))
    fit_together([detector], graphs.training, [TrainingConfig(steps=0)])
    fit(alone, graphs.training, TrainingConfig(steps=0))
    assert all(torch.equal(a, b) for a, b in zip(detector.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ({"rows": "statistics"}, {}, "rows='statistics'"),
        ({"form": "all-pairs"}, {}, "form='all-pairs'"),
        ({"symmetric": True}, {}, "a symmetric operator"),
        ({}, {"patience": 3, "selection": "validation"}, "patience"),
        ({}, {"modality_dropout": 0.5}, "modality_dropout"),
        ({}, {"operator_nonnegative": True}, "operator_nonnegative"),
        ({}, {"precision": "64-true"}, "precision='64-true'"),
    ],
)
def test_what_cannot_be_trained_together_says_why(
    graphs_for: Callable[..., Graphs], options: dict, settings: dict, said: str
) -> None:
    graphs, config = graphs_for(**options), TrainingConfig(**settings)
    detector = detector_of(graphs, options, 2, 0)
    assert why_alone(detector, config) == said
    with pytest.raises(ParameterError, match="cannot be trained together"):
        fit_together([detector], graphs.training, [config])


def test_other_fusions_and_dropout_are_trained_alone(graphs_for: Callable[..., Graphs]) -> None:
    for other in (Concat(WIDTHS), LegoFusion(WIDTHS)):
        assert why_alone(Detector(other), TrainingConfig()) == f"the fusion '{other.kind}' hands on no rows of graphs"
    propagating = made_fusion(rows="propagate")
    assert why_alone(Detector(propagating), TrainingConfig()) == "rows='propagate'"
    fusion = made_fusion()
    assert why_alone(Detector(fusion, dropout=0.5), TrainingConfig()) == "dropout of the head"
    assert why_alone(Detector(fusion), TrainingConfig()) is None


def test_wrong_calls_are_refused(graphs_for: Callable[..., Graphs], planted: Dataset) -> None:
    graphs = graphs_for()
    one = [detector_of(graphs, {}, 2, 0)]
    with pytest.raises(ParameterError, match="nothing to train together"):
        fit_together([], graphs.training, [])
    two = [*one, detector_of(graphs, {}, 2, 1)]
    with pytest.raises(ParameterError, match="different steps or readings"):
        fit_together(two, graphs.training, [TrainingConfig(steps=1), TrainingConfig(steps=2)])
    other = [*one, detector_of(graphs, {"rows": "sorted"}, 2, 1)]
    with pytest.raises(ParameterError, match="different steps or readings"):
        fit_together(other, graphs.training, [TrainingConfig(steps=1)] * 2)
    features = Bags(
        ("a", "b"), torch.tensor([False, True]), 1, {name: torch.rand(2, 8, width) for name, width in WIDTHS.items()}
    )
    with pytest.raises(DataError, match="training together needs graphs"):
        fit_together(one, features, [TrainingConfig()])
    normal = graphs.training.select((~graphs.training.labels).nonzero()[:, 0])
    with pytest.raises(DataError, match="one class only"):
        fit_together(one, normal, [TrainingConfig()])
    with pytest.raises(DataError, match="one class only"):
        fit_together(one, graphs.training.select([]), [TrainingConfig()])
    with pytest.raises(DataError, match="needs validation videos"):
        fit_together(one, graphs.training, [TrainingConfig(selection="validation")])


def test_buckets_part_what_meets_other_batches_losses_or_readings() -> None:
    plain, detector = TrainingConfig(), Detector(made_fusion(), hidden=6)
    same = [
        plain.model_copy(update=values) for values in ({"seed": 3}, {"k": 9}, {"learning_rate": 1.0}, {"weight_decay": 0.0})
    ]
    ordered = Detector(made_fusion(order={"motion": 1, "text": 4}, seed=2), hidden=6, seed=2)
    assert {bucket(ordered, config) for config in same} == {bucket(detector, plain)}
    other = ({"steps": 1}, {"batch_size": 2}, {"batch_size": 2, "seed": 1}, {"pooling": "max"}, {"degree_variance": 1.0})
    assert len({bucket(detector, plain.model_copy(update=values)) for values in other} | {bucket(detector, plain)}) == 6
    readings = ({"rows": "sorted"}, {"form": "joint"}, {"form": "joint", "rank": 1}, {"zero_order": "ones"})
    detectors = [detector, Detector(made_fusion(), hidden=7), *(Detector(made_fusion(**one), hidden=6) for one in readings)]
    assert len({bucket(one, plain) for one in detectors}) == 6


def test_one_node(write_planted: Callable[..., Dataset], tmp_path) -> None:
    dataset = write_planted(tmp_path / "dataset")
    split = own_split(dataset)
    options = {"nodes": 1}
    graphs = build_graphs(dataset, made_fusion(**options), split.train, split.test, nodes=1)
    compare(graphs, options, [1, 3], [TrainingConfig(steps=3, seed=seed) for seed in (0, 1)])
