"""LegoFusion: graphs, reference units, rows and starts by hand, and what it can learn that others cannot."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lego_fusion.detect.bags import Bags, fit_statistics
from lego_fusion.detect.detector import Detector
from lego_fusion.detect.train import TrainingConfig, fit, predict
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.lego import ROWS, LegoFusion
from lego_fusion.fusion.relation import RELATION_KINDS

WIDTHS = {"motion": 4, "text": 3}
N = 6
every_relation = pytest.mark.parametrize("relations", [*RELATION_KINDS, {"motion": "gaussian", "text": "cosine"}], ids=str)


def features(bags: int = 7, seed: int = 0, nodes: int = N) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(bags, nodes, width, generator=generator) for name, width in WIDTHS.items()}


LABELS = torch.tensor([False, True, False, False, True, False, False])
VIDEOS = torch.arange(7)
NORMAL = (~LABELS).nonzero()[:, 0].tolist()


def fitted(given: dict[str, Tensor] | None = None, **options) -> LegoFusion:
    fusion = LegoFusion(WIDTHS, **{"nodes": N, "references": 5, **options})
    fusion.fit_statistics(features() if given is None else given, LABELS, VIDEOS)
    return fusion.eval()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("references", [0, 5, N])
def test_fusing_features_is_relating_and_then_fusing_graphs(references, rows):
    fusion, test = fitted(references=references, rows=rows), features(3, seed=1)
    mask = torch.rand(3, N, generator=torch.Generator().manual_seed(2)) > 0.3
    for given_mask in (None, mask):
        output = fusion(test, given_mask)
        again = fusion.forward_relations(fusion.relations(test, given_mask), given_mask, features=test)
        assert torch.equal(output.nodes, again.nodes) and torch.equal(output.graph, again.graph)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("references", [0, 5])
def test_the_fused_graph_is_the_polynomial_of_the_relations(references, order):
    """g = sum_pq A_pq s^p t^q with the coefficients written out."""
    fusion, test = fitted(references=references, order=order, form="full"), features(2, seed=1)
    s, t = (fusion.relations(test)[name].double() for name in WIDTHS)
    coefficients = fusion.operator.coefficients.double()
    expected = sum(coefficients[p, q] * s**p * t**q for p in range(order + 1) for q in range(order + 1))
    torch.testing.assert_close(fusion(test).graph.double(), expected, rtol=1e-5, atol=1e-6)


def test_orders_by_name():
    fusion = fitted(order={"text": 4, "motion": 1})
    assert fusion.operator.factors["motion"].shape[1] == 2
    assert fusion.operator.factors["text"].shape[1] == 5


@every_relation
def test_references_are_real_segments_of_normal_training_videos(relations):
    train = features()
    fusion = fitted(train, relations=relations)
    assert fusion.reference_units.shape == (5, 2)
    assert len({tuple(unit) for unit in fusion.reference_units.tolist()}) == 5
    for k, (bag, node) in enumerate(fusion.reference_units.tolist()):
        assert not LABELS[bag]
        for name in WIDTHS:
            assert torch.equal(fusion.relation[name].references[k], train[name][bag, node])


@every_relation
def test_abnormal_segments_choose_no_reference(relations):
    """Whatever abnormal videos hold, the same units are chosen (only means over all videos may differ)."""
    train = features()
    fusion = fitted(train, relations=relations, centre=False)
    bandwidth_kept = {name: x.clone() for name, x in train.items()}
    for x in bandwidth_kept.values():
        x[LABELS] = x[LABELS].flip(0)
    assert torch.equal(fitted(bandwidth_kept, relations=relations, centre=False).reference_units, fusion.reference_units)


@pytest.mark.parametrize("relations", ["cosine", "gaussian"])
def test_how_much_a_column_varies_is_asked_of_normal_videos(relations):
    train = features()
    louder = {name: torch.where(LABELS[:, None, None], 50 * x, x) for name, x in train.items()}
    for name in WIDTHS:
        plain, loud = (fitted(given, relations=relations).relation[name] for given in (train, louder))
        assert torch.equal(loud.column_scale, plain.column_scale)
        assert (plain.column_scale != 1).all()


def planted_train(bag: int = 2, node: int = 3) -> dict[str, Tensor]:
    """Ordinary segments, and one in a normal video that is like nothing else, so that it must become a reference."""
    generator = torch.Generator().manual_seed(0)
    train = {name: torch.zeros(7, N, width) + torch.eye(width)[0] for name, width in WIDTHS.items()}
    train = {name: x + 0.1 * torch.randn(x.shape, generator=generator) for name, x in train.items()}
    for name, width in WIDTHS.items():
        train[name][bag, node] = 4 * torch.eye(width)[1]
    return train


@pytest.mark.parametrize("relations", ["cosine", "gaussian"])
def test_a_training_video_never_meets_its_own_segments(relations):
    train = planted_train()
    fusion = fitted(train, relations=relations, centre=False)
    assert [2, 3] in fusion.reference_units.tolist()
    trained, predicted = fusion.training_relations(train, LABELS, VIDEOS), fusion.relations(train)
    for name in WIDTHS:
        assert predicted[name][2, 3].max() == pytest.approx(1, abs=1e-5), "prediction meets every reference"
        assert trained[name][2, 3].max() < 0.9, "training never meets itself"
        others = [video for video in NORMAL if video != 2]
        assert (trained[name][others].amin(-1) < 0.9).all(), "the other videos do meet the planted segment"


@every_relation
def test_no_normal_video_meets_itself_and_abnormal_ones_meet_all(relations):
    train = features()
    fusion = fitted(train, relations=relations, references=12)
    trained, predicted = fusion.training_relations(train, LABELS, VIDEOS), fusion.relations(train)
    for name in WIDTHS:
        assert trained[name].shape == predicted[name].shape == (7, N, 12)
        assert torch.equal(trained[name][LABELS], predicted[name][LABELS])
    units = {name: x.flatten(0, 1) for name, x in train.items()}
    for video in NORMAL:
        met = torch.ones(12, 7 * N, dtype=torch.bool)  # which segment each column is the relation to
        for name, x in train.items():
            to_all = fusion.relation[name](x[video : video + 1], units[name][None])[0]  # (N, all segments)
            met &= torch.isclose(trained[name][video].T[:, None], to_all.T[None], atol=1e-5).all(-1)
        assert (met.sum(1) == 1).all()
        owners = met.int().argmax(1) // N
        assert video not in owners and not LABELS[owners].any()
        assert len(met.int().argmax(1).unique()) == 12


def test_windows_of_one_video_do_not_serve_each_other():
    """Two bags with one video's number: what is planted in one is kept from both."""
    train = planted_train(bag=2)
    for name in WIDTHS:
        train[name][3] = train[name][2]
    windows = torch.tensor([0, 1, 2, 2, 4, 5, 6])
    fusion = LegoFusion(WIDTHS, nodes=N, references=5)
    fusion.fit_statistics(train, LABELS, windows)
    trained = fusion.training_relations(train, LABELS, windows)
    assert max(float(trained[name][[2, 3], 3].max()) for name in WIDTHS) < 0.9
    apart = fusion.training_relations(train, LABELS, VIDEOS)
    assert min(float(apart[name][[2, 3], 3].max()) for name in WIDTHS) > 0.99, "as separate videos they would"


def test_training_relations_between_nodes_are_those_of_prediction():
    fusion, train = fitted(references=0), features()
    trained, predicted = fusion.training_relations(train, LABELS, VIDEOS), fusion.relations(train)
    assert all(torch.equal(trained[name], predicted[name]) for name in WIDTHS)


@pytest.mark.parametrize("rows", ["sorted", "statistics"])
@pytest.mark.parametrize("form", ["joint", "full"])
def test_which_reference_is_which_does_not_matter(rows, form):
    fusion, test = fitted(rows=rows, form=form), features(3, seed=1)
    relations, order = fusion.relations(test), torch.tensor([3, 0, 4, 2, 1])
    shuffled = {name: graph[..., order] for name, graph in relations.items()}
    output, again = fusion.forward_relations(relations), fusion.forward_relations(shuffled)
    torch.testing.assert_close(again.nodes, output.nodes)
    torch.testing.assert_close(again.graph, output.graph[..., order])


def test_ordered_rows_do_follow_the_references():
    fusion, test = fitted(rows="ordered"), features(3, seed=1)
    relations, order = fusion.relations(test), torch.tensor([3, 0, 4, 2, 1])
    shuffled = {name: graph[..., order] for name, graph in relations.items()}
    torch.testing.assert_close(fusion.forward_relations(shuffled).nodes, fusion.forward_relations(relations).nodes[..., order])


@pytest.mark.parametrize("rows", ["sorted", "statistics", "propagate"])
def test_the_order_of_nodes_moves_with_them(rows):
    fusion, test = fitted(rows=rows, references=0), features(2, seed=1)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    shuffled = fusion({name: x[:, order] for name, x in test.items()})
    torch.testing.assert_close(shuffled.nodes, fusion(test).nodes[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_segments_than_references(distinct):
    """Three kinds of segment in every normal video: three references, however many are asked for."""
    kinds = {name: torch.randn(distinct, width, generator=torch.Generator().manual_seed(1)) for name, width in WIDTHS.items()}
    train = {name: x[torch.arange(7 * N).reshape(7, N) % distinct] for name, x in kinds.items()}
    fusion = fitted(train, references=20)
    assert fusion.columns == fusion.out_features == distinct
    assert fusion.reference_units.shape == (distinct, 2)
    assert fusion(features(2, seed=1)).nodes.shape == (2, N, distinct)
    assert all(graph.shape == (7, N, distinct) for graph in fusion.training_relations(train, LABELS, VIDEOS).values())
    again = LegoFusion(**fusion.config())
    again.load_state_dict(fusion.state_dict())
    assert again.columns == distinct


def test_many_segments_are_thinned_evenly_before_choosing(monkeypatch):
    monkeypatch.setattr("lego_fusion.fusion.lego.MOST_CANDIDATES", 12)
    fusion = fitted()
    units = fusion.reference_units.tolist()
    allowed = torch.tensor([[bag, node] for bag in NORMAL for node in range(N)])[
        torch.linspace(0, len(NORMAL) * N - 1, 12).long()
    ]
    assert all(unit in allowed.tolist() for unit in units)
    given = features()
    for name, relation in fusion.relation.items():
        assert torch.equal(relation.references, torch.stack([given[name][bag, node] for bag, node in units]))
    assert all(len(graph[0, 0]) == len(units) for graph in fusion.training_relations(given, LABELS, VIDEOS).values())


def test_one_normal_video_is_not_enough():
    labels = torch.tensor([False, True, True])
    fusion = LegoFusion(WIDTHS, nodes=N, references=4)
    with pytest.raises(DataError, match=r"at least 2 normal training videos, got 1.*references=0"):
        fusion.fit_statistics(features(3), labels, torch.arange(3))
    with pytest.raises(DataError, match="at least 2 normal training videos, got 1"):
        fusion.fit_statistics(features(3), torch.tensor([False, False, True]), torch.tensor([0, 0, 1]))
    with pytest.raises(DataError, match=r"reference units come from normal videos: expected normal training videos, got none"):
        fusion.fit_statistics(features(3), torch.tensor([True, True, True]), torch.arange(3))
    LegoFusion(WIDTHS, nodes=N, references=0).fit_statistics(features(3), labels, torch.arange(3))


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


@pytest.mark.parametrize("references", [0, 4, 5, N])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_by_hand(references, masked):
    test = features(2, seed=1)
    mask = torch.tensor([[True] * N, [True, True, False, True, True, False]]) if masked else None
    for rows in ROWS:
        fusion = fitted(references=references, rows=rows).double()
        given = {name: x.double() for name, x in test.items()}
        output = fusion(given, mask)
        for bag in range(2):
            there = [n for n in range(N) if mask is None or mask[bag, n]]
            columns = list(range(references)) if references else there
            for node in range(N):
                if node not in there:
                    assert (output.nodes[bag, node] == 0).all()
                    continue
                row = output.graph[bag, node].tolist()
                chosen = [row[column] for column in columns]
                if rows == "ordered":
                    expected = row
                elif rows == "sorted":
                    expected = sorted(chosen, reverse=True) + [0.0] * (len(row) - len(chosen))
                elif rows == "statistics":
                    expected = statistics_by_hand(chosen)
                else:
                    expected = []
                    for name in WIDTHS:
                        values = fusion.relation[name].references if references else given[name][bag]
                        weight = sum(abs(row[column]) for column in columns)
                        expected += (sum(row[column] * values[column] for column in columns) / weight).tolist()
                torch.testing.assert_close(
                    output.nodes[bag, node], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8
                )


@pytest.mark.parametrize("rows", ["ordered", "sorted", "statistics", "propagate"])
@pytest.mark.parametrize("references", [0, 5])
def test_own_features_follow_what_is_handed_on_without_them(rows, references):
    """They are centred and scaled by the training bags: as train + c and s train have equal ones."""
    plain, own = (fitted(rows=rows, references=references, own_features=wanted) for wanted in (False, True))
    test = features(2, seed=1)
    nodes, more = plain(test).nodes, own(test).nodes
    assert own.out_features == more.shape[-1] == plain.out_features + sum(WIDTHS.values())
    torch.testing.assert_close(more[..., : plain.out_features], nodes)
    handed = more[..., plain.out_features :]
    for name, width in WIDTHS.items():
        part, handed = handed.split([width, handed.shape[-1] - width], dim=-1)
        x = test[name].flatten(0, 1).double()
        ratio = (part.flatten(0, 1).double() - part.flatten(0, 1).double().mean(0)) / (x - x.mean(0))
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-4)  # one scale a column
        assert (ratio > 0).all()
    assert own.start_direction() is None


def test_own_features_need_the_features():
    fusion, test = fitted(own_features=True), features(2, seed=1)
    with pytest.raises(ParameterError, match="own_features=True needs the features beside the relations"):
        fusion.forward_relations(fusion.relations(test))


def test_propagation_needs_the_features():
    fusion, test = fitted(rows="propagate", references=0), features(2, seed=1)
    with pytest.raises((ParameterError, DataError), match="rows='propagate' needs the features beside the relations"):
        fusion.forward_relations(fusion.relations(test))


@pytest.mark.parametrize("own_features", [False, True])
@pytest.mark.parametrize("references", [0, 5])
@every_relation
def test_propagation_in_tiles_is_that_along_whole_graphs(relations, references, own_features, monkeypatch):
    options = {"rows": "propagate", "references": references, "relations": relations, "own_features": own_features}
    fusion, test = fitted(**options), features(2, seed=1)
    mask = torch.tensor([[True] * N, [True, True, False, True, True, False]])
    whole = [fusion(test, given) for given in (None, mask)]
    monkeypatch.setattr("lego_fusion.fusion.lego.TILE_ABOVE", 2)
    for given, expected in zip((None, mask), whole, strict=True):
        output = fusion(test, given)
        torch.testing.assert_close(output.nodes, expected.nodes, rtol=1e-4, atol=1e-5)
        assert expected.graph is not None and output.graph is None


@pytest.mark.parametrize(
    ("options", "got"), [({"references": 0, "nodes": 1025}, "at most 1024 nodes, got 1025"), ({"references": 2000}, "got 2000")]
)
def test_rows_in_fixed_order_are_for_small_graphs(options, got):
    with pytest.raises(ParameterError, match=rf"{got}.*rows='statistics' or rows='propagate'"):
        LegoFusion(WIDTHS, rows="ordered", **options)
    LegoFusion(WIDTHS, rows="statistics", **options)
    LegoFusion(WIDTHS, rows="ordered", references=0, nodes=1024)


@pytest.mark.parametrize("references", [0, 5])
@pytest.mark.parametrize("nearest", [1, 3, 99])
def test_only_the_nearest_relations_are_kept(references, nearest):
    plain, sparse = fitted(references=references), fitted(references=references, nearest=nearest)
    test = features(2, seed=1)
    for name in WIDTHS:
        full, kept = plain.relations(test)[name], sparse.relations(test)[name]
        assert ((kept == full) | (kept == 0)).all()
        if references:
            assert ((kept != 0).sum(-1) == min(nearest, references)).all()
            assert torch.equal(kept.amax(-1), full.amax(-1))


def test_unit_range():
    test = features(2, seed=1)
    plain, mapped = fitted().relations(test), fitted(unit_range=True).relations(test)
    for name in WIDTHS:
        torch.testing.assert_close(mapped[name], (plain[name] + 1) / 2)


@pytest.mark.parametrize("references", [5, 12])
def test_a_signed_start_falls_with_every_similarity(references):
    direction = fitted(references=references).start_direction()
    assert direction.shape == (references,)
    assert (direction < 0).all()


@pytest.mark.parametrize("options", [{"references": 0}, {"rows": "statistics"}, {"rows": "propagate"}, {"own_features": True}])
def test_without_a_known_sense_there_is_no_signed_start(options):
    assert fitted(**options).start_direction() is None


def test_a_restless_modality_starts_with_a_smaller_weight():
    """Motion that differs much among normal videos says less about what is abnormal."""
    fusion = fitted()
    before = {name: fusion.operator.factors[name].detach().clone() for name in WIDTHS}
    generator = torch.Generator().manual_seed(0)
    graphs = {name: spread * torch.rand(4, N, 5, generator=generator) for name, spread in (("motion", 1.0), ("text", 0.1))}
    fusion.balance_start(graphs)
    term = {name: fusion.operator.factors[name][m, 1] / before[name][m, 1] for m, name in enumerate(WIDTHS)}
    assert term["motion"] < term["text"]
    assert term["motion"] > 0


def test_balancing_equal_modalities_changes_nothing():
    fusion = fitted()
    before = {name: factor.detach().clone() for name, factor in fusion.operator.factors.items()}
    graph = torch.rand(4, N, 5)
    fusion.balance_start({"motion": graph, "text": graph.clone()})
    for name, factor in fusion.operator.factors.items():
        torch.testing.assert_close(factor.detach(), before[name])


def test_balancing_copes_with_graphs_that_never_vary():
    fusion = fitted()
    fusion.balance_start({"motion": torch.ones(4, N, 5), "text": torch.ones(4, N, 5)})
    assert all(torch.isfinite(parameter).all() for parameter in fusion.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "'nodes' parameter of LegoFusion must be an int"),
        ({"references": -1}, "'references' parameter of LegoFusion must be an int"),
        ({"rows": "reversed"}, "'rows' parameter of LegoFusion must be one of 'ordered', 'sorted'"),
        ({"nearest": 0}, "'nearest' parameter of LegoFusion"),
        ({"order": -1}, "'order' parameter of GraphOperator"),
        ({"relations": "euclid"}, "'relation' parameter of LegoFusion must be one of 'cosine'"),
        ({"relations": {"motion": "dot"}}, "no relation is given for modality 'text': got motion"),
        (
            {"expansion": "matrix"},
            r"reference units are defined for expansion='hadamard' with zero_order='ones' only.*references=0",
        ),
        ({"zero_order": "identity"}, r"reference units are defined for.*zero_order='identity'.*references=0"),
    ],
)
def test_wrong_options(options, message, unchecked_types):
    with pytest.raises(ParameterError, match=message):
        LegoFusion(WIDTHS, **options)


def test_the_reading_of_the_paper():
    paper = LegoFusion.paper(WIDTHS, nodes=N, order=3)
    test = features(2, seed=1)
    paper.fit_statistics(features(), LABELS, VIDEOS)
    cosines = {name: torch.nn.functional.cosine_similarity(x[:, :, None], x[:, None], dim=-1) for name, x in test.items()}
    relations = paper.relations(test)
    coefficients = paper.operator.coefficients
    s, t = ({0: torch.eye(N).expand(2, N, N), **{p: cosines[name] ** p for p in (1, 2, 3)}} for name in WIDTHS)
    expected = sum(coefficients[p, q] * s[p] * t[q] for p in range(4) for q in range(4))
    output = paper.eval()(test)
    for name in WIDTHS:
        torch.testing.assert_close(relations[name], cosines[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.graph, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(output.nodes, output.graph), "rows in order"
    assert LegoFusion.paper({**WIDTHS, "audio": 2}, nodes=N).operator.form == "random-pair"


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
    fusion = LegoFusion.paper({"motion": 12, "text": 16}, nodes=16)
    fit_statistics(fusion, train)
    detector = Detector(fusion)
    before = segment_auc(detector, test, odd)
    fit(detector, train, TrainingConfig(steps=150, learning_rate=1e-2))
    assert segment_auc(detector, test, odd) > max(0.95, before)


def interacting_bags(videos: int, seed: int, nodes: int = 12) -> tuple[Bags, Tensor]:
    """Either modality alone is the same everywhere; a segment is abnormal where motion and text contradict each other.

    Both are a sign times a length that varies widely, along one direction; normal segments have equal signs.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(videos) % 2 == 1
    odd = torch.zeros(videos, nodes, dtype=torch.bool)
    odd[labels, :4] = True
    sign = torch.where(torch.rand(videos, nodes, generator=generator) < 0.5, -1.0, 1.0)
    signs = {"motion": sign, "text": torch.where(odd, -sign, sign)}
    inputs = {}
    for name, width in (("motion", 5), ("text", 4)):
        length = torch.randn(videos, nodes, generator=generator).exp()
        noise = 0.05 * torch.randn(videos, nodes, width, generator=generator)
        inputs[name] = (signs[name] * length)[:, :, None] * torch.eye(width)[0] + noise
    return Bags(tuple(f"v{i}" for i in range(videos)), labels, 1, inputs), odd


def trained_auc(names: list[str], *, additive: bool = False) -> float:
    train, _ = interacting_bags(60, seed=0)
    test, odd = interacting_bags(60, seed=1)
    train, test = train.with_modalities(names), test.with_modalities(names)
    widths = {name: x.shape[-1] for name, x in train.inputs.items()}
    fusion = LegoFusion(widths, nodes=12, references=16, relations="dot", centre=False, form="full", order=2)
    fit_statistics(fusion, train)
    if additive:
        alone = torch.ones(3, 3)
        alone[1:, 1:] = 0
        with torch.no_grad():
            fusion.operator.coefficients.mul_(alone)
        fusion.operator.coefficients.register_hook(lambda gradient: gradient * alone)
    detector = Detector(fusion)
    fit(detector, train, TrainingConfig(steps=250, learning_rate=1e-2, prior=0.0))
    if additive:
        assert (fusion.operator.coefficients[1:, 1:] == 0).all()
    return segment_auc(detector, test, odd)


def test_a_learned_operator_finds_what_lies_between_two_modalities():
    """Only products of relations tell; sums of both modalities and each alone fall behind."""
    learned = trained_auc(["motion", "text"])
    assert learned > 0.95
    assert learned > trained_auc(["motion", "text"], additive=True) + 0.1
    for name in ("motion", "text"):
        assert trained_auc([name]) < 0.65
