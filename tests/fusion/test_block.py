"""LegoBlock: against the formula written out in loops, identities of layout, order and masks, gradients, and bad input."""

import copy
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lego_fusion import LegoBlock
from lego_fusion.errors import DataError, ParameterError

WIDTHS = {"colour": 5, "depth": 3}
THREE = {**WIDTHS, "sound": 4}


def tokens(widths: dict[str, int] = WIDTHS, items: int = 2, nodes: int = 7, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(items, nodes, width, generator=generator).double() for name, width in widths.items()}


def maps(widths: dict[str, int] = WIDTHS, height: int = 4, width: int = 6) -> dict[str, Tensor]:
    flat = tokens(widths, nodes=height * width)
    return {name: x.transpose(1, 2).reshape(2, -1, height, width) for name, x in flat.items()}


def block(widths: dict[str, int] = WIDTHS, out: int = 6, **options) -> LegoBlock:
    return LegoBlock(widths, out, **options).double()


def by_hand(one: LegoBlock, given: dict[str, np.ndarray], centred: bool = True) -> np.ndarray:
    """Y of one item of two streams, (N, F): every entry of every graph for itself."""
    state = {name: value.detach().numpy() for name, value in one.state_dict().items()}
    names, nodes = list(given), len(next(iter(given.values())))
    graph = np.zeros((nodes, nodes))
    seen = {name: x - x.mean(0) if centred else x for name, x in given.items()}
    for i in range(nodes):
        for j in range(nodes):
            cosine = [seen[m][i] @ seen[m][j] / np.linalg.norm(seen[m][i]) / np.linalg.norm(seen[m][j]) for m in names]
            for term in range(len(names) + 1):
                factors = [state[f"operator.factors.{m}"][term] for m in names]
                graph[i, j] += np.prod([sum(a * s**p for p, a in enumerate(f)) for f, s in zip(factors, cosine, strict=True)])
    values = sum(x @ state[f"value.{m}"].T for m, x in given.items())
    received = graph @ values / np.abs(graph).sum(1, keepdims=True)
    return sum(x @ state[f"projection.{m}"].T for m, x in given.items()) + state["bias"] + state["gain"] * received


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("widths", [WIDTHS, THREE], ids=["two", "three"])
def test_it_is_the_formula(widths, centred):
    one, given = block(widths, centred=centred, gain=0.7), tokens(widths)
    expected = [by_hand(one, {name: x[item].numpy() for name, x in given.items()}, centred) for item in range(2)]
    np.testing.assert_allclose(one(given).detach().numpy(), np.stack(expected), rtol=1e-9, atol=1e-9)


def test_a_map_is_its_cells_as_tokens():
    one, given = block(), maps()
    flat = one({name: x.flatten(2).transpose(1, 2) for name, x in given.items()})
    torch.testing.assert_close(one(given), flat.transpose(1, 2).reshape(2, 6, 4, 6))


@pytest.mark.parametrize("expansion", ["hadamard", "matrix"])
@pytest.mark.parametrize("zero_order", ["ones", "identity"])
def test_permuted_nodes_give_the_permuted_output(expansion, zero_order):
    one, given = block(expansion=expansion, zero_order=zero_order), tokens()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    mask = torch.tensor([[True] * 7, [True, False, True, True, False, True, True]])
    for kept in (None, mask):
        moved = one({name: x[:, order] for name, x in given.items()}, None if kept is None else kept[:, order])
        torch.testing.assert_close(moved, one(given, kept)[:, order])


def test_items_do_not_meet():
    one, given = block(), tokens(items=3)
    alone = [one({name: x[item : item + 1] for name, x in given.items()}) for item in range(3)]
    torch.testing.assert_close(one(given), torch.cat(alone))


@pytest.mark.parametrize("centred", [True, False])
def test_masked_tokens_are_as_if_they_were_not_there(centred):
    one, given = block(centred=centred), tokens()
    mask = torch.tensor([[True] * 4 + [False] * 3, [True] * 4 + [False] * 3])
    spoiled = {name: x.masked_fill(~mask[..., None], torch.nan).requires_grad_() for name, x in given.items()}
    out = one(spoiled, mask)
    torch.testing.assert_close(out[:, :4], one({name: x[:, :4] for name, x in given.items()}))
    assert torch.equal(out[:, 4:], torch.zeros(2, 3, 6).double())
    out.square().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in spoiled.values())
    assert torch.equal(one(given, torch.zeros(2, 7, dtype=torch.bool)), torch.zeros(2, 7, 6).double())
    assert torch.equal(one(given, torch.ones(2, 7, dtype=torch.bool)), one(given))


def test_other_names_and_another_order_are_the_same_block():
    one, given = block(), tokens()
    renamed = block({"rgb": 5, "height": 3})
    torch.testing.assert_close(renamed({"rgb": given["colour"], "height": given["depth"]}), one(given), rtol=0, atol=0)
    turned = block(dict(reversed(WIDTHS.items())), seed=5)
    turned.load_state_dict(one.state_dict())
    torch.testing.assert_close(turned(dict(reversed(given.items()))), one(given))
    torch.testing.assert_close(one({**given, "unused": given["depth"][:, :2]}), one(given), rtol=0, atol=0)


@pytest.mark.parametrize("form", ["full", "joint", "rank1", "all-pairs", "random-pair"])
@pytest.mark.parametrize("start", ["concatenation", "addition"])
def test_gradients_reach_every_parameter_and_input(form, start):
    widths = dict.fromkeys(WIDTHS, 6)
    one = block(widths, form=form, start=start)
    given = {name: x.requires_grad_() for name, x in tokens(widths).items()}
    one(given).square().sum().backward()
    for name, value in [*one.named_parameters(), *given.items()]:
        assert value.grad is not None and (value.grad != 0).all(), name


def test_the_derivative_is_that_of_differences_through_the_graphs():
    one = block(gain=0.8)
    given = [x.requires_grad_() for x in tokens(items=1, nodes=4).values()]
    assert torch.autograd.gradcheck(lambda *xs: one(dict(zip(WIDTHS, xs, strict=True))), given)


def test_the_graph_alone_carries_gradient_to_the_streams():
    one, given = block(gain=1.0), {name: x.requires_grad_() for name, x in tokens().items()}
    one.graph(given)[:, 0, 1].sum().backward()
    assert all(x.grad is not None and (x.grad[:, :2] != 0).any() for x in given.values())


def test_it_starts_as_a_linear_map_of_the_concatenation_or_as_the_sum():
    given = tokens()
    quiet = block(gain=0.0)
    linear = nn.Linear(8, 6).double()
    with torch.no_grad():
        linear.weight.copy_(torch.cat([quiet.projection[name] for name in WIDTHS], 1))
        linear.bias.copy_(quiet.bias)
    torch.testing.assert_close(quiet(given), linear(torch.cat(list(given.values()), -1)))
    assert linear.weight.abs().max() <= 8**-0.5 and linear.weight.std() > 0.5 * 24**-0.5
    wide = tokens(dict.fromkeys(WIDTHS, 6))
    total = wide["colour"] + wide["depth"]
    torch.testing.assert_close(block(dict.fromkeys(WIDTHS, 6), start="addition", gain=0.0)(wide), total)
    near = block(dict.fromkeys(WIDTHS, 6), start="addition")(wide)
    assert 0 < (near - total).norm() < 0.1 * total.norm()


def test_what_arrives_is_never_larger_than_the_largest_value_sent():
    one, given = block(gain=1.0, order=3), tokens(nodes=20)
    values = sum(x @ one.value[name].T for name, x in given.items())
    received = one(given) - sum(x @ one.projection[name].T for name, x in given.items()) - one.bias
    assert (received.abs().amax(1) <= values.abs().amax(1) + 1e-12).all()


def test_order_zero_propagates_the_mean_node():
    one, given = block(order=0, gain=1.0), tokens()
    values = sum(x @ one.value[name].T for name, x in given.items())
    received = one(given) - sum(x @ one.projection[name].T for name, x in given.items()) - one.bias
    sign = one.graph(given)[0, 0, 0].sign()
    torch.testing.assert_close(received, (sign * values.mean(1, keepdim=True)).expand_as(received))


def test_relations_are_those_of_the_streams():
    relations = block().relations(tokens())
    assert list(relations) == list(WIDTHS)
    for graph in relations.values():
        torch.testing.assert_close(graph, graph.transpose(1, 2))
        assert (graph.diagonal(dim1=1, dim2=2) == 1).all() and (graph.abs() <= 1).all()
    shifted = {name: 3 * x + 100 for name, x in tokens().items()}
    torch.testing.assert_close(block().relations(shifted), relations)


def test_constant_streams_are_no_nan():
    given = {name: torch.full_like(x, 0.1).requires_grad_() for name, x in tokens().items()}
    out = block()(given)
    out.sum().backward()
    assert torch.isfinite(out).all() and all(torch.isfinite(x.grad).all() for x in given.values())
    assert torch.equal(block().relations(given)["depth"][0], torch.eye(7).double())


def test_a_patch_is_a_node_of_mean_features():
    """Maps that are constant on 2 x 2 patches: the coarse map's block, each cell four times."""
    coarse = maps(height=3, width=4)
    fine = {name: x.repeat_interleave(2, 2).repeat_interleave(2, 3) for name, x in coarse.items()}
    torch.testing.assert_close(block(patch=2)(fine), block()(coarse).repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert block(patch=2).graph(fine).shape == (2, 12, 12)


def test_resize_takes_the_named_resolution():
    given = maps()
    halved = {**given, "depth": nn.functional.avg_pool2d(given["depth"], 2)}  # bilinear by half is the mean of 2 x 2
    expected = block()({"colour": nn.functional.avg_pool2d(given["colour"], 2), "depth": halved["depth"]})
    torch.testing.assert_close(block(resize="depth")(halved), expected)
    assert block(resize="colour")(halved).shape == (2, 6, 4, 6)
    assert torch.equal(block(resize="colour")(given), block()(given))


def test_saved_and_loaded_it_is_the_same(tmp_path):
    one, given = block(THREE, order={"colour": 1, "depth": 2, "sound": 3}), tokens(THREE)
    assert {name.rpartition(".")[2] for name in one.state_dict() if "projection" in name} == set(THREE)
    save_file({name: x.contiguous() for name, x in one.state_dict().items()}, tmp_path / "block.safetensors")
    other = block(THREE, order={"colour": 1, "depth": 2, "sound": 3}, seed=9)
    assert not torch.equal(other(given), one(given))
    other.load_state_dict(load_file(tmp_path / "block.safetensors"), strict=True)
    assert torch.equal(other(given), one(given))


def test_the_seed_decides_the_start_and_nothing_else_random_does():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = block(seed=3), block(seed=3), block(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first(tokens()), again(tokens()))
    assert not torch.equal(first(tokens()), other(tokens()))
    assert torch.equal(copy.deepcopy(first)(tokens()), first(tokens()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_is_kept(dtype):
    one, given = LegoBlock(WIDTHS, 6), tokens()
    out = one.to(dtype)({name: x.to(dtype) for name, x in given.items()})
    assert out.dtype == dtype
    exact = block()(given)
    assert (out.double() - exact).abs().max() < {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]


def test_large_half_precision_features_stay_in_range():
    given = {name: (200 * x + 700).half() for name, x in tokens(nodes=100).items()}  # their sum is beyond the largest half
    one = LegoBlock(WIDTHS, 6).half()
    assert torch.isfinite(one(given)).all()
    assert (one.relations(given)["depth"].double() - block().relations(tokens(nodes=100))["depth"]).abs().max() < 0.05


def test_under_autocast_streams_of_two_dtypes_fuse():
    given = {"colour": tokens()["colour"].bfloat16(), "depth": tokens()["depth"].float()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = LegoBlock(WIDTHS, 6)(given)
    assert (out.double() - block()(tokens())).abs().max() < 0.1


def test_the_product_of_two_relations_tells_what_their_mean_does_not():
    """A node is odd where its groups in the two streams differ; both streams alone are distributed alike."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 2, (64, 12), generator=generator)
    odd = torch.rand(64, 12, generator=generator) < 0.25
    signs = {"a": 2.0 * first - 1, "b": 2.0 * (first ^ odd.long()) - 1}
    turns = {name: nn.functional.normalize(torch.randn(64, 1, 8, generator=generator), dim=-1) for name in signs}
    given = {name: sign[..., None] * turns[name] for name, sign in signs.items()}  # a direction of its own in every item
    one = LegoBlock({"a": 8, "b": 8}, 16, order=1)
    graph = one.graph(given)
    with torch.no_grad():
        one.operator.factors["a"].copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
        one.operator.factors["b"].copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
    product = one.graph(given)
    agree = (odd[:, :, None] == odd[:, None, :]).float()
    clear = one.relations(given)["a"].abs() > 0.3
    assert (((product > 0) == agree.bool()) | ~clear).float().mean() > 0.95
    assert ((graph > 0) == agree.bool()).float().mean() < 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": {}}, "at least one modality"),
        ({"modalities": {"a.b": 3}}, "cannot be called 'a.b'"),
        ({"modalities": {"a": 0}}, r"modalities\['a'\].*\[1, inf\)"),
        ({"out_features": 0}, "'out_features' parameter"),
        ({"patch": 0}, "'patch' parameter"),
        ({"most_nodes": 0}, "'most_nodes' parameter"),
        ({"tile_above": -1}, "'tile_above' parameter"),
        ({"neighbours": 0}, "'neighbours' parameter"),
        ({"start": "zero"}, "'concatenation', 'addition'. Got 'zero'"),
        ({"start": "addition"}, r"as wide as the output \(modality 'colour'\): expected 6, got 5"),
        ({"gain": -1.0}, "'gain' parameter"),
        ({"resize": "sound"}, "'resize' parameter .* 'colour', 'depth'. Got 'sound'"),
        ({"order": -1}, "'order' parameter"),
        ({"modalities": THREE, "form": "full"}, "at most two graphs"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ParameterError, match=message):
        LegoBlock(**{"modalities": WIDTHS, "out_features": 6, **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"depth": x["depth"]}, "modality 'colour' is missing: expected colour, depth, got depth"),
        (lambda x: {**x, "depth": x["depth"][:, :4]}, "different numbers of tokens: got 'colour' 7, 'depth' 4. .*align"),
        (lambda x: {**x, "depth": x["depth"][..., :2]}, r"another width \(modality 'depth'\): expected 3 at axis 2"),
        (lambda x: {**x, "depth": x["depth"][:1]}, r"no common layout \(modality 'depth'\).*\(1, 7, 3\) beside \(2, 7, 5\)"),
        (lambda x: {**x, "depth": x["depth"].float()}, r"differ in dtype \(modality 'depth'\): expected torch.float64"),
        (lambda x: {**x, "depth": x["depth"][..., None]}, "no common layout"),
        (lambda x: {name: one[:, :0] for name, one in x.items()}, "none empty"),
        (lambda x: {name: one[:, 0] for name, one in x.items()}, "no common layout"),
    ],
)
def test_bad_tokens(change, message):
    with pytest.raises(DataError, match=message):
        block()(change(tokens()))


def test_different_resolutions_are_named():
    given = maps()
    with pytest.raises(DataError, match=r"different resolutions: got 'colour' 4 x 6, 'depth' 2 x 3. .*use resize"):
        block()({**given, "depth": given["depth"][:, :, ::2, ::2]})


def test_maps_that_are_no_multiple_of_the_patch():
    with pytest.raises(DataError, match="divisible by 4, got 4 x 6"):
        block(patch=4)(maps())


def test_too_many_nodes_are_refused_with_the_way_out():
    with pytest.raises(DataError, match=r"at most 23 \(most_nodes\), got 24. What to do: use patch=2"):
        block(most_nodes=23)(maps())
    with pytest.raises(DataError, match=r"at most 6 .*got 7. What to do: give fewer tokens"):
        block(most_nodes=6)(tokens())
    assert block(most_nodes=6, patch=2)(maps()).shape == (2, 6, 4, 6)


def test_bad_masks():
    with pytest.raises(DataError, match="a mask is for tokens"):
        block()(maps(), torch.ones(2, 24, dtype=torch.bool))
    with pytest.raises(DataError, match=r"the mask does not fit: expected \(2, 7\) bool, got \(2, 6\)"):
        block()(tokens(), torch.ones(2, 6, dtype=torch.bool))


@pytest.mark.parametrize("widths", [WIDTHS, THREE], ids=["two", "three"])
@pytest.mark.parametrize("order", [1, 6])
def test_training_keeps_what_the_docs_say(widths, order):
    """2 M + 3 arrays of N x N numbers, whatever the order."""
    nodes, kept = 512, {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = (x, x.untyped_storage().nbytes())  # held, so that no address comes twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        LegoBlock(widths, 6, order=order)({name: x.float() for name, x in tokens(widths, 1, nodes).items()})
    assert sum(size for _, size in kept.values()) < (2 * len(widths) + 3) * 4 * nodes**2


COMPILED = """
import os
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
import torch
from lego_fusion import LegoBlock
torch.manual_seed(0)
block = LegoBlock({"a": 5, "b": 3}, 6)
maps = {"a": torch.randn(2, 5, 4, 6), "b": torch.randn(2, 3, 4, 6)}
tokens = {name: x.flatten(2).transpose(1, 2).contiguous() for name, x in maps.items()}
mask = torch.arange(24).expand(2, 24) < torch.tensor([[24], [15]])
for given, kept in ((maps, None), (tokens, mask)):
    results = []
    for run in (block, torch.compile(block)):
        block.zero_grad()
        inputs = {name: x.clone().requires_grad_() for name, x in given.items()}
        out = run(inputs, kept)
        out.square().sum().backward()
        results.append([out.detach(), *(x.grad.clone() for x in (*block.parameters(), *inputs.values()))])
    for eager, compiled in zip(*results):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_compiled_equals_eager():
    """Output and gradients; in a process of its own, as the checks of shape annotations are not for the compiler."""
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("torch.compile needs a C++ compiler, such as g++")
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["equal"]


@pytest.mark.parametrize("zero_order", ["ones", "identity"])
def test_graphs_in_tiles_are_whole_graphs(zero_order):
    whole, tiled = (block(zero_order=zero_order, tile_above=limit) for limit in (100, 0))
    mask = torch.tensor([[True] * 7, [True, False, True, True, False, True, True]])
    for kept in (None, mask):
        results = []
        for one in (whole, tiled):
            given = {name: x.requires_grad_() for name, x in tokens().items()}
            out = one(given, kept)
            results.append((out, *torch.autograd.grad(out.square().sum(), [*given.values(), *one.parameters()])))
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(tiled(maps()), whole(maps()))


def test_tiles_have_no_largest_number_of_nodes():
    one, given = block(most_nodes=6, tile_above=5), tokens()
    torch.testing.assert_close(one(given), block()(given))
    with pytest.raises(DataError, match=r"at most 6 \(most_nodes\), got 7"):
        one.graph(given)
    with pytest.raises(DataError, match=r"at most 6 \(most_nodes\), got 7"):
        block(most_nodes=6, tile_above=5, expansion="matrix")(given)


def test_edges_to_all_nodes_are_the_whole_graph():
    given = tokens()
    torch.testing.assert_close(block(neighbours=99)(given), block()(given))
    few = block(neighbours=2)(given)
    assert few.shape == (2, 7, 6) and not torch.allclose(few, block()(given))
    with pytest.raises(ParameterError, match="neighbours are defined for expansion='hadamard'"):
        block(neighbours=2, zero_order="identity")
