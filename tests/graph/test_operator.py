"""The fusion operator against the explicit sum over powers, in every form, and what its parameters promise."""

import io
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.graph.operator import FORMS, GraphOperator
from lego_fusion.graph.relationship import cosine_graph

NAMES = ("motion", "text", "audio", "flow")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
EXPANSIONS = [("hadamard", "ones"), ("hadamard", "identity"), ("matrix", "ones"), ("matrix", "identity")]


def cosine_graphs(count: int, nodes: int, columns: int | None = None, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Random cosine graphs between nodes, or of nodes to references, in float32 precision."""
    graphs = {}
    for m, name in enumerate(NAMES[:count]):
        generator = torch.Generator().manual_seed(100 * seed + m)
        x = torch.randn(batch, nodes, 3, generator=generator)
        y = None if columns is None else torch.randn(1, columns, 3, generator=generator)
        graphs[name] = cosine_graph(x, y)
    return graphs


def with_random_parameters(operator: GraphOperator, seed: int = 0) -> GraphOperator:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return operator.eval()


def explicit_powers(operator: GraphOperator, graph: Tensor, order: int, mask: Tensor | None, columns: bool) -> list[Tensor]:
    """R^(0) ... R^(order) in float64, each from the one before by multiplication."""
    graph = graph.double()
    exists = torch.ones_like(graph)
    if mask is not None:
        exists = exists * mask[:, :, None] * (1 if columns else mask[:, None, :])
    graph = graph * exists
    zeroth = exists if operator.zero_order == "ones" else exists * torch.eye(graph.shape[-1], dtype=torch.float64)
    if operator.expansion == "matrix":
        degree = graph.abs().sum(-1, keepdim=True)
        graph = graph / torch.where(degree > 0, degree, 1.0)
    powers = [zeroth]
    for p in range(1, order + 1):
        if p == 1:
            powers.append(graph)
        else:
            powers.append(powers[-1] @ graph if operator.expansion == "matrix" else powers[-1] * graph)
    return powers


def explicit_terms(operator: GraphOperator) -> list[tuple[Tensor, dict[int, int]]]:
    """Each coefficient of the sum with the power {graph: p} of every graph it multiplies, read from the stored parameters.

    The terms of the joint form are those of its own sum, one per rank: terms of different rank may cancel like any others.
    """
    state = {name: value.double() for name, value in operator.state_dict().items()}
    names, count = operator.names, len(operator.names)
    if operator.form in ("joint", "rank1"):
        factors = [state[f"factors.{name}"] for name in names]
        terms = []
        for powers in itertools.product(*(range(order + 1) for order in operator.orders)):
            products = torch.stack([factor[:, p] for factor, p in zip(factors, powers, strict=True)]).prod(0)
            terms += [(product, dict(enumerate(powers))) for product in products]
        return terms
    pairs = list(itertools.combinations(range(count), 2))
    terms = []
    for a, b in pairs:
        matrix = state[f"coefficients_{names[a]}:{names[b]}" if operator.form == "all-pairs" else "coefficients"]
        if operator.symmetric:
            matrix = (matrix + matrix.T) / 2
        if operator.form == "random-pair":
            matrix = matrix / len(pairs)
        for p, row in enumerate(matrix):
            terms += [(coefficient, {a: p, b: q}) for q, coefficient in enumerate(row)]
    return terms


def explicit_sum(
    operator: GraphOperator, graphs: dict[str, Tensor], mask: Tensor | None = None, *, columns: bool = False
) -> tuple[Tensor, Tensor]:
    """The fused graph in float64 by a loop over all terms, and the sum of the terms' sizes, which is the scale of errors."""
    powers = [
        explicit_powers(operator, graphs[name], order, mask, columns)
        for name, order in zip(operator.names, operator.orders, strict=True)
    ]
    total, size = torch.zeros_like(powers[0][0]), torch.zeros_like(powers[0][0])
    for coefficient, exponents in explicit_terms(operator):
        product = torch.ones_like(total)
        for m, p in exponents.items():
            product = product * powers[m][p]
        total += coefficient * product
        size += (coefficient * product).abs()
    return total, size


def assert_explicit(operator: GraphOperator, graphs: dict[str, Tensor], mask: Tensor | None = None, *, columns: bool = False):
    """The error of every entry is small against the sum of its terms' sizes (matrix powers: against the largest such sum).

    Terms cancel, so the size of an entry of the result is no scale for its error.
    """
    for dtype, tolerance in TOLERANCE.items():
        typed = {name: graph.to(dtype) for name, graph in graphs.items()}
        expected, size = explicit_sum(operator.float(), graphs, mask, columns=columns)
        if operator.expansion == "matrix":
            size = size.max().expand_as(size)
        fused = operator.to(dtype)(typed, mask, square=False if columns else None)
        assert fused.dtype == dtype
        error = (fused.double() - expected).abs()
        assert (error <= tolerance * size).all(), (error / size).nan_to_num().max()


def defined(form: str, orders: tuple[int, ...], *, symmetric: bool = False) -> bool:
    """Whether the form has an operator for graphs of these orders; what happens otherwise is in ``BAD_OPTIONS``."""
    if form == "full" and len(orders) > 2:
        return False
    if symmetric and form in ("joint", "rank1") and len(orders) > 1:
        return False
    return len(set(orders)) == 1 or not (symmetric or form == "random-pair")


EVERY_FORM = [
    (form, orders[:count])
    for form in FORMS
    for count in (1, 2, 3)
    for orders in [(0, 0, 0), (1, 1, 1), (4, 4, 4), (10, 10, 10), (3, 0, 7)]
    if defined(form, orders[:count])
]
EVERY_DENSE = [
    (form, orders[:count], symmetric)
    for form in FORMS
    for count in (1, 2, 3)
    for orders in [(1, 1, 1), (3, 3, 3), (2, 5, 2)]
    for symmetric in (False, True)
    if defined(form, orders[:count], symmetric=symmetric)
]


def mask_of(nodes: int, batch: int = 2) -> Tensor:
    """Every third node is missing from the first video, the last one from the others."""
    mask = torch.ones(batch, nodes, dtype=torch.bool)
    mask[0, 1::3] = False
    mask[1:, nodes - 1] = False
    return mask


@pytest.mark.parametrize("p", range(11))
def test_full_form_equals_the_explicit_sum_for_all_orders(p):
    graphs = cosine_graphs(2, 6, seed=p)
    for q in range(11):
        operator = GraphOperator(NAMES[:2], {"motion": p, "text": q}, "full")
        assert_explicit(with_random_parameters(operator, seed=q), graphs)


@pytest.mark.parametrize("nodes", [1, 2, 7, 32, 64])
@pytest.mark.parametrize(("expansion", "zero_order"), EXPANSIONS)
def test_full_form_equals_the_explicit_sum_for_all_sizes(expansion, zero_order, nodes):
    operator = GraphOperator(NAMES[:2], {"motion": 5, "text": 10}, "full", expansion=expansion, zero_order=zero_order)
    with_random_parameters(operator)
    assert_explicit(operator, cosine_graphs(2, nodes))
    assert_explicit(operator, cosine_graphs(2, nodes), mask_of(nodes))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("form", "orders"), EVERY_FORM)
@pytest.mark.parametrize(("expansion", "zero_order"), EXPANSIONS)
def test_every_form_equals_the_explicit_sum(expansion, zero_order, form, orders, masked):
    order = dict(zip(NAMES, orders, strict=False))
    operator = GraphOperator(list(order), order, form, expansion=expansion, zero_order=zero_order)
    assert_explicit(with_random_parameters(operator), cosine_graphs(len(orders), 5), mask_of(5) if masked else None)


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(["full", "joint", "rank1", "all-pairs"]),
    p=st.integers(0, 10),
    q=st.integers(0, 10),
    nodes=st.integers(1, 64),
    seed=st.integers(0, 1000),
    masked=st.booleans(),
)
def test_any_two_graphs(form, p, q, nodes, seed, masked):
    operator = with_random_parameters(GraphOperator(NAMES[:2], {"motion": p, "text": q}, form), seed)
    assert_explicit(operator, cosine_graphs(2, nodes, seed=seed, batch=1), mask_of(nodes, batch=1) if masked else None)


@pytest.mark.parametrize("columns", [1, 4, 6])  # 6: as many references as nodes
@pytest.mark.parametrize("form", FORMS)
def test_references(form, columns):
    count = 2 if form == "full" else 3
    operator = with_random_parameters(GraphOperator(NAMES[:count], 3, form))
    graphs = cosine_graphs(count, 6, columns)
    assert_explicit(operator, graphs, columns=True)
    assert_explicit(operator, graphs, mask_of(6), columns=True)


@pytest.mark.parametrize(("form", "orders", "symmetric"), EVERY_DENSE)
def test_dense_coefficients_reproduce_the_output(form, orders, symmetric):
    count = len(orders)
    operator = GraphOperator(NAMES[:count], dict(zip(NAMES, orders, strict=False)), form, symmetric=symmetric)
    with_random_parameters(operator.double())
    graphs = {name: graph.double() for name, graph in cosine_graphs(count, 4).items()}
    dense = operator.dense_coefficients()
    assert dense.shape == tuple(order + 1 for order in orders)
    expected = torch.zeros(2, 4, 4, dtype=torch.float64)
    for index in itertools.product(*(range(order + 1) for order in orders)):
        product = dense[index]
        for name, power in zip(NAMES, index, strict=False):
            product = product * graphs[name] ** power
        expected += product
    torch.testing.assert_close(operator(graphs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("p", "q"), [(0, 3), (2, 2), (3, 1)])
def test_joint_form_of_rank_min_order_plus_one_reaches_every_matrix(p, q):
    matrix = torch.randn(p + 1, q + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    operator = GraphOperator(NAMES[:2], {"motion": p, "text": q}, "joint", rank=min(p, q) + 1).double()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    with torch.no_grad():
        operator.factors["motion"].copy_((left * values).T)
        operator.factors["text"].copy_(right)
    torch.testing.assert_close(operator.dense_coefficients(), matrix, rtol=0, atol=1e-13)
    full = GraphOperator(NAMES[:2], {"motion": p, "text": q}, "full").double()
    full.load_state_dict({"coefficients": matrix})
    graphs = {name: graph.double() for name, graph in cosine_graphs(2, 5).items()}
    torch.testing.assert_close(operator(graphs), full(graphs), rtol=0, atol=1e-13)


def test_rank_one_is_a_product_of_polynomials():
    operator = with_random_parameters(GraphOperator(NAMES[:2], 2, "rank1").double())
    graphs = {name: graph.double() for name, graph in cosine_graphs(2, 4).items()}
    a, b = (sum(c * graphs[n] ** p for p, c in enumerate(operator.factors[n][0])) for n in operator.names)
    torch.testing.assert_close(operator(graphs), a * b, rtol=0, atol=1e-13)
    assert torch.linalg.matrix_rank(operator.dense_coefficients()) == 1


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 4)])
def test_with_identity_the_zero_order_coefficients_act_on_the_diagonal_only_and_as_one_scalar(p, q):
    operator = GraphOperator(NAMES[:2], {"motion": p, "text": q}, "full", zero_order="identity")
    with_random_parameters(operator.double())
    graphs = {name: graph.double() for name, graph in cosine_graphs(2, 5).items()}
    before = operator(graphs)
    changed = 0
    for i, j in itertools.product(range(p + 1), range(q + 1)):
        with torch.no_grad():
            operator.coefficients[i, j] += 1
        change = operator(graphs) - before
        with torch.no_grad():
            operator.coefficients[i, j] -= 1
        if i == 0 or j == 0:
            changed += 1
            torch.testing.assert_close(change, torch.eye(5, dtype=torch.float64).expand(2, 5, 5), rtol=0, atol=1e-12)
        else:
            assert (change * (1 - torch.eye(5))).abs().max() > 1e-3
    assert changed == p + q + 1


@pytest.mark.parametrize("form", ["full", "all-pairs", "random-pair"])
def test_symmetric_operators_do_not_know_the_order_of_their_graphs(form):
    graphs = {name: graph.double() for name, graph in cosine_graphs(2, 5).items()}
    swapped = {"motion": graphs["text"], "text": graphs["motion"]}
    for symmetric in (False, True):
        operator = with_random_parameters(GraphOperator(NAMES[:2], 3, form, symmetric=symmetric).double())
        same = torch.allclose(operator(swapped), operator(graphs), rtol=0, atol=1e-13)
        assert same == symmetric


def test_orientation_goes_by_the_order_of_names():
    graphs = cosine_graphs(2, 4)
    matrix = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # first * second squared
    for first, second in (("motion", "text"), ("text", "motion")):
        operator = GraphOperator([first, second], {first: 1, second: 2}, "full")
        operator.load_state_dict({"coefficients": matrix})
        torch.testing.assert_close(operator(graphs), graphs[first] * graphs[second] ** 2)


@pytest.mark.parametrize("form", FORMS)
def test_the_mapping_has_no_order_and_may_hold_more(form):
    graphs = cosine_graphs(2, 4)
    operator = with_random_parameters(GraphOperator(NAMES[:2], 2, form))
    shuffled = {"other": torch.zeros(7), "text": graphs["text"], "motion": graphs["motion"]}
    assert torch.equal(operator(shuffled), operator(graphs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("expansion", "zero_order"), EXPANSIONS)
def test_permuting_nodes_permutes_the_fused_graph(expansion, zero_order, form):
    graphs, order = cosine_graphs(2, 6), torch.tensor([4, 2, 0, 5, 1, 3])
    operator = with_random_parameters(GraphOperator(NAMES[:2], 3, form, expansion=expansion, zero_order=zero_order)).double()
    permuted = {name: graph.double()[:, order][:, :, order] for name, graph in graphs.items()}
    fused = operator({name: graph.double() for name, graph in graphs.items()})
    torch.testing.assert_close(operator(permuted), fused[:, order][:, :, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("expansion", "zero_order"), EXPANSIONS)
def test_padding_under_a_mask_changes_nothing(expansion, zero_order, form):
    graphs = {name: graph.double() for name, graph in cosine_graphs(2, 5).items()}
    padded = {name: torch.nn.functional.pad(graph, (0, 3, 0, 3), value=0.7) for name, graph in graphs.items()}
    mask = torch.tensor([True] * 5 + [False] * 3).expand(2, -1)
    operator = with_random_parameters(GraphOperator(NAMES[:2], 3, form, expansion=expansion, zero_order=zero_order)).double()
    fused = operator(padded, mask)
    torch.testing.assert_close(fused[:, :5, :5], operator(graphs), rtol=0, atol=1e-12)
    assert (fused[:, 5:] == 0).all() and (fused[:, :, 5:] == 0).all()


@pytest.mark.parametrize(
    ("form", "count"), [(form, count) for form in FORMS for count in (1, 2, 3) if defined(form, (3,) * count)]
)
@pytest.mark.parametrize("zero_order", ["ones", "identity"])
def test_start(form, zero_order, count):
    """Without noise: the mean of the graphs, or with the identity their product; rank one always a product."""
    graphs = cosine_graphs(count, 4)
    operator = GraphOperator(NAMES[:count], 3, form, zero_order=zero_order, noise=0.0).eval()
    tensors = list(graphs.values())
    zeroth = torch.ones(4, 4) if zero_order == "ones" else torch.eye(4)
    if count == 1:
        expected = tensors[0]
    elif form == "rank1":
        expected = torch.stack([(zeroth + graph) / 2 for graph in tensors]).prod(0)
    elif zero_order == "ones":
        expected = torch.stack(tensors).mean(0)
    elif form == "joint":
        expected = torch.stack(tensors).prod(0)
    else:
        expected = torch.stack([a * b for a, b in itertools.combinations(tensors, 2)]).mean(0)
    torch.testing.assert_close(operator(graphs), expected)


def test_the_seed_decides_the_start():
    first, same, other = (GraphOperator(NAMES[:2], 2, "full", seed=seed).coefficients for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def drawn_pairs(operator: GraphOperator, graphs: dict[str, Tensor], steps: int) -> list[tuple[str, str]]:
    """Which pair each training step fused, told from graphs that are constants and an A that is the first times ten."""
    values = {float(graph[0, 0, 0]): name for name, graph in graphs.items()}
    pairs = []
    for _ in range(steps):
        fused = operator(graphs)[0, 0, 0].item()
        (pair,) = [(values[a], values[b]) for a in values for b in values if a != b and abs(10 * a + b - fused) < 1e-3]
        pairs.append(pair)
    return pairs


@pytest.fixture
def random_pair() -> tuple[GraphOperator, dict[str, Tensor]]:
    operator = GraphOperator(NAMES[:3], 1, "random-pair", seed=5)
    operator.load_state_dict({"coefficients": torch.tensor([[0.0, 1.0], [10.0, 0.0]]), "draws": torch.tensor(0)})
    return operator, {name: torch.full((1, 2, 2), value) for name, value in zip(NAMES, (0.1, 0.3, 0.7), strict=False)}


def test_random_pair_draws_every_pair_in_the_order_of_names(random_pair):
    drawn = drawn_pairs(*random_pair, 300)
    counts = {pair: drawn.count(pair) for pair in drawn}
    assert set(counts) == {("motion", "text"), ("motion", "audio"), ("text", "audio")}
    assert min(counts.values()) > 70  # 100 expected, standard deviation 8


def test_a_resumed_run_draws_the_same_pairs(random_pair):
    operator, graphs = random_pair
    drawn_pairs(operator, graphs, 7)
    saved = {name: value.clone() for name, value in operator.state_dict().items()}
    expected = drawn_pairs(operator, graphs, 20)
    resumed = GraphOperator(NAMES[:3], 1, "random-pair", seed=5)
    resumed.load_state_dict(saved)
    assert drawn_pairs(resumed, graphs, 20) == expected


def test_evaluation_averages_all_pairs_and_draws_nothing(random_pair):
    operator, graphs = random_pair
    fused = operator.eval()(graphs)
    expected = (10 * (0.1 + 0.1 + 0.3) + (0.3 + 0.7 + 0.7)) / 3
    torch.testing.assert_close(fused, torch.full((1, 2, 2), expected))
    assert operator.draws == 0


EXPECTED_NAMES = {
    "full": {"coefficients"},
    "joint": {"factors.motion", "factors.text", "factors.audio"},
    "rank1": {"factors.motion", "factors.text", "factors.audio"},
    "all-pairs": {"coefficients_motion:text", "coefficients_motion:audio", "coefficients_text:audio"},
    "random-pair": {"coefficients"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("expansion", "zero_order"), EXPANSIONS)
def test_every_parameter_by_name_gets_a_gradient_and_survives_a_save(form, expansion, zero_order, tmp_path):
    count = 2 if form == "full" else 3
    operator = GraphOperator(NAMES[:count], 2, form, expansion=expansion, zero_order=zero_order)
    assert {name for name, _ in operator.named_parameters()} == EXPECTED_NAMES[form]
    graphs = cosine_graphs(count, 5)
    weight = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1))
    (operator(graphs) * weight).sum().backward()
    for name, parameter in operator.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).all(), name

    save_file(operator.state_dict(), tmp_path / "operator.safetensors")
    buffer = io.BytesIO()
    torch.save(operator.state_dict(), buffer)
    buffer.seek(0)
    for state in (load_file(tmp_path / "operator.safetensors"), torch.load(buffer, weights_only=True)):
        loaded = GraphOperator(NAMES[:count], 2, form, expansion=expansion, zero_order=zero_order, seed=1)
        loaded.load_state_dict(state, strict=True)
        assert torch.equal(loaded.eval()(graphs), operator.eval()(graphs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zero_order", ["ones", "identity"])
def test_gradients_of_graphs_and_parameters(form, zero_order):
    operator = with_random_parameters(GraphOperator(NAMES[:2], 2, form, zero_order=zero_order).double())
    graphs = [graph.double().requires_grad_() for graph in cosine_graphs(2, 3, batch=1).values()]
    parameters = dict(operator.named_parameters())

    def fuse(s: Tensor, t: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(parameters, values, strict=True))
        mask = torch.tensor([[True, True, False]])
        return torch.func.functional_call(operator, state, ({"motion": s, "text": t}, mask))

    assert torch.autograd.gradcheck(fuse, (*graphs, *parameters.values()))


def test_pairs_whose_names_would_run_together_stay_apart():
    operator = GraphOperator(["a", "b_c", "a_b", "c"], 1, "all-pairs")
    assert len(list(operator.parameters())) == 6


@pytest.mark.parametrize("name", ["keys", "type", "values", "training", "i3d.rgb", "a:b", ""])
def test_names_that_parameters_cannot_carry(name):
    for form in FORMS:
        with pytest.raises(ParameterError, match=f"a graph cannot be called '{name}'.*rename the modality"):
            GraphOperator(["motion", name], 2, form)


BAD_OPTIONS = [
    ({"names": []}, "needs at least one graph"),
    ({"names": "motion"}, r"must be a list.*use \['motion'\]"),
    ({"names": ["text", "text"]}, "graph names must differ: got text, text"),
    ({"order": -1}, r"'order' parameter of GraphOperator must be an int in \[0, inf\). Got -1"),
    ({"order": {"motion": 1}}, "one order per graph is needed: expected motion, text, got motion"),
    ({"order": {"motion": 1, "text": -2}}, r"'order\['text'\]' parameter"),
    ({"rank": 0, "form": "joint"}, "'rank' parameter"),
    ({"noise": -0.1}, "'noise' parameter"),
    ({"names": NAMES[:3], "form": "full"}, "full form mixes at most two graphs.*'joint', 'all-pairs' or 'random-pair'"),
    ({"names": NAMES[:2], "form": "joint", "symmetric": True}, "form='joint' has no A to symmetrise"),
    ({"order": {"motion": 1, "text": 2}, "form": "random-pair"}, r"same order for every graph: got \(1, 2\)"),
    ({"order": {"motion": 1, "text": 2}, "form": "full", "symmetric": True}, "same order for every graph"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options(options, message):
    with pytest.raises(ParameterError, match=message):
        GraphOperator(**{"names": NAMES[:2], **options})


def test_bad_graphs():
    operator, graphs = GraphOperator(NAMES[:2]), cosine_graphs(2, 4)
    with pytest.raises(ParameterError, match="no graph for modality 'text': expected motion, text, got motion"):
        operator({"motion": graphs["motion"]})
    with pytest.raises(ParameterError, match="got nothing"):
        operator({})
    with pytest.raises(ParameterError, match=r"one shape and dtype \(modality 'text'\): expected \(2, 4, 4\).*got \(2, 4, 3\)"):
        operator({**graphs, "text": graphs["text"][:, :, :3]})
    with pytest.raises(ParameterError, match=r"one shape and dtype.*got \(2, 4, 4\) torch.float64"):
        operator({**graphs, "text": graphs["text"].double()})


@pytest.mark.parametrize(("expansion", "zero_order"), EXPANSIONS[1:])
@pytest.mark.parametrize(("columns", "square"), [(3, None), (4, False)])
def test_only_elementwise_powers_with_ones_are_defined_for_references(expansion, zero_order, columns, square):
    operator = GraphOperator(NAMES[:2], expansion=expansion, zero_order=zero_order)
    with pytest.raises(ParameterError, match=r"not defined for relations to reference units.*zero_order='ones'"):
        operator(cosine_graphs(2, 4, columns), square=square)


def test_shares_of_the_modalities_by_hand():
    """G = 2 a - 3 b + 5 a b, with the spread over nodes of each term's row mean; the product is shared equally."""
    operator = GraphOperator(["a", "b"], order=1, form="full", noise=0.0)
    with torch.no_grad():
        operator.coefficients.copy_(torch.tensor([[7.0, -3.0], [2.0, 5.0]]))
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 4, generator=generator), torch.rand(2, 3, 4, generator=generator)

    def spread(term):
        rows = term.mean(-1)
        return float((rows - rows.mean()).square().mean().sqrt())

    of_a, of_b = 2 * spread(a) + 2.5 * spread(a * b), 3 * spread(b) + 2.5 * spread(a * b)
    shares = operator.modality_shares({"a": a, "b": b})
    assert shares == pytest.approx({"a": of_a / (of_a + of_b), "b": of_b / (of_a + of_b)}, rel=1e-5)
    assert operator.modality_shares({"a": 0 * a, "b": b})["a"] == 0.0
    assert operator.modality_shares({"a": 0 * a, "b": 0 * b}) == {"a": 0.0, "b": 0.0}
    with pytest.raises(ParameterError, match="shares are defined for expansion='hadamard' with zero_order='ones'"):
        GraphOperator(["a", "b"], zero_order="identity").modality_shares({"a": a, "b": b})


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("form", ["rank1", "joint"])
def test_a_start_of_the_product_is_the_product_of_first_powers(count, form):
    names = [f"m{number}" for number in range(count)]
    operator = GraphOperator(names, 2, form, start="product", noise=0.0)
    graphs = {name: torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(place)) for place, name in enumerate(names)}
    expected = torch.ones(2, 3, 4)
    for graph in graphs.values():
        expected = expected * graph
    torch.testing.assert_close(operator(graphs, square=False), expected)
    dense = operator.dense_coefficients().detach()
    assert float(dense[(1,) * count]) == pytest.approx(1.0)
    assert float(dense.abs().sum()) == pytest.approx(1.0, abs=1e-5)


def test_an_operator_is_the_product_only_where_nothing_can_change_it():
    operator = GraphOperator(["a", "b"], 1, "rank1", start="product", noise=0.0)
    assert not operator.is_product, "its factors are learned"
    operator.requires_grad_(False)
    assert operator.is_product
    assert not GraphOperator(["a", "b"], 1, "rank1").requires_grad_(False).is_product


@pytest.mark.parametrize("count", [1, 2, 3])
def test_log_entries_of_a_product_are_the_sum_of_logarithms_far_below_the_range_of_floats(count):
    names = [f"m{number}" for number in range(count)]
    operator = GraphOperator(names, 1, "rank1", start="product", noise=0.0).requires_grad_(False)
    surprises = {name: torch.tensor([[0.0, 0.5, 200.0, math.inf]]) for name in names}
    assert operator.log_entries(surprises).tolist() == [[0.0, -0.5 * count, -200.0 * count, -math.inf]]


def test_log_entries_of_a_learned_operator_are_the_logarithm_of_its_polynomial():
    """1/4 + R_a R_b / 2, by hand; where no graph has an entry there is none, and what is not positive is far below."""
    operator = GraphOperator(["a", "b"], 1, "full")
    dense = torch.tensor([[0.25, 0.0], [0.0, 0.5]])
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.copy_(dense.view_as(parameter))
    a, b = torch.tensor([[[1.0, 0.5, 0.2]]]), torch.tensor([[[0.4, 0.5, 1.0]]])
    found = operator.log_entries({"a": -a.log(), "b": -b.log()})
    torch.testing.assert_close(found, (0.25 + a * b / 2).log())
    nowhere = torch.full((1, 1, 3), math.inf)
    assert operator.log_entries({"a": nowhere, "b": nowhere}).tolist() == [[[-math.inf] * 3]]
    assert bool(operator.log_entries({"a": nowhere, "b": -b.log()}).isfinite().all())
