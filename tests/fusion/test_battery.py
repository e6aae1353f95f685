"""What every fusion owes the contract, whatever it does inside: one battery over all of them."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from lego_fusion.errors import DataError
from lego_fusion.fusion.base import Fusion, FusionOutput
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.networks import MTN
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.fusion.registry import FUSIONS, make_fusion, make_plain_fusion

NAMES = ("motion", "text", "audio", "depth")
WIDTHS = (5, 3, 8, 2)
N = 6

CASES: dict[str, Callable[[dict[str, int], int, int], Fusion]] = {
    "lego": lambda widths, nodes, seed: LegoFusion(widths, seed=seed),
    "lego-as-many-references-as-nodes": lambda widths, nodes, seed: LegoFusion(widths, references=N, seed=seed),
    "lego-causal": lambda widths, nodes, seed: LegoFusion(widths, window=4, orders=(1, 2, 3), seed=seed),
    "lego-learned": lambda widths, nodes, seed: LegoFusion(widths, operator="learned", seed=seed),
    "lego-learned-all-pairs": lambda widths, nodes, seed: LegoFusion(
        widths, operator="learned", form="all-pairs", order=1, seed=seed
    ),
    "paper-sorted": lambda widths, nodes, seed: PaperFusion(
        widths, nodes=nodes, centre=True, zero_order="ones", form="joint", rows="sorted", seed=seed
    ),
    "paper-gaussian-statistics": lambda widths, nodes, seed: PaperFusion(
        widths, nodes=nodes, relations="gaussian", zero_order="ones", form="joint", rows="statistics", seed=seed
    ),
    "paper-propagate": lambda widths, nodes, seed: PaperFusion(
        widths, nodes=nodes, zero_order="ones", form="joint", rows="propagate", seed=seed
    ),
    "paper-own-features": lambda widths, nodes, seed: PaperFusion(
        widths, nodes=nodes, zero_order="ones", form="joint", rows="propagate", own_features=True, seed=seed
    ),
    "paper-all-pairs": lambda widths, nodes, seed: PaperFusion(
        widths, nodes=nodes, zero_order="ones", form="all-pairs", seed=seed
    ),
    "paper-matrix": lambda widths, nodes, seed: PaperFusion(widths, nodes=nodes, expansion="matrix", form="joint", seed=seed),
    "lego-paper": lambda widths, nodes, seed: PaperFusion(widths, nodes=nodes, seed=seed),
    "mtn-concat": lambda widths, nodes, seed: MTN(widths, seed=seed),
    "mtn-add": lambda widths, nodes, seed: MTN(widths, join="add", seed=seed),
    "mtn-product": lambda widths, nodes, seed: MTN(widths, join="product", seed=seed),
}


def plainly(kind: str) -> Callable[[dict[str, int], int, int], Fusion]:
    return lambda widths, nodes, seed: make_plain_fusion(kind, widths, seed=seed)


CASES |= {kind: plainly(kind) for kind in FUSIONS if kind not in ("lego", "lego-paper", "mtn")}
ANY_ORDER = sorted(
    set(FUSIONS) - {"lego", "lego-paper", "concat", "mtn", "gated", "mlp", "cross-attention", "bilinear", "tensor"}
)
every_fusion = pytest.mark.parametrize("case", CASES)
every_count = pytest.mark.parametrize("count", [1, 2, 3, 4])


def widths_of(count: int = 2) -> dict[str, int]:
    return dict(zip(NAMES[:count], WIDTHS[:count], strict=True))


def features_of(
    count: int = 2, *, bags: int = 3, nodes: int = N, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    features = {}
    for name, width in widths_of(count).items():
        generator = torch.Generator().manual_seed(seed * 7919 + zlib.crc32(name.encode()) % 1000)
        features[name] = torch.randn(bags, nodes, width, generator=generator, dtype=torch.float64).to(dtype)
    return features


def fitted(case: str, count: int = 2, *, nodes: int = N, seed: int = 0, dtype: torch.dtype = torch.float32) -> Fusion:
    """A fusion whose statistics come from six training videos, the last two abnormal, in evaluation mode."""
    fusion = CASES[case](widths_of(count), nodes, seed).to(dtype)
    labels = torch.tensor([False] * 4 + [True] * 2)
    fusion.fit(features_of(count, bags=6, nodes=nodes, seed=99, dtype=dtype), labels, torch.arange(6))
    return fusion.eval()


def assert_same(output: FusionOutput, expected: FusionOutput, *, exact: bool = False) -> None:
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(output.nodes, expected.nodes, **tolerance)
    assert (output.graph is None) == (expected.graph is None)
    if output.graph is not None and expected.graph is not None:
        torch.testing.assert_close(output.graph, expected.graph, **tolerance)


def padded(x: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, columns - x.shape[-1]))


def test_the_battery_meets_every_registered_fusion():
    assert {CASES[case](widths_of(), N, 0).kind for case in CASES} == set(FUSIONS)


@every_fusion
@every_count
def test_shapes_for_any_number_of_modalities(case, count):
    fusion = fitted(case, count)
    output = fusion.fuse(features_of(count))
    assert output.nodes.shape == (3, N, fusion.out_features)
    assert torch.isfinite(output.nodes).all()
    if isinstance(fusion, LegoFusion):
        assert fusion.columns == (N if "as-many" in case else 4 * N)
        assert (output.graph is not None) == fusion.learns_operator
        assert output.graph is None or output.graph.shape == (3, N, fusion.columns)
    elif isinstance(fusion, PaperFusion) or case == "graph-convolution":
        assert output.graph.shape == (3, N, N)
    else:
        assert output.graph is None


@every_fusion
@every_count
def test_modalities_are_found_by_name(case, count):
    fusion, features = fitted(case, count), features_of(count)
    backwards = dict(reversed(features.items()))
    assert_same(fusion.fuse(backwards), fusion.fuse(features), exact=True)


@every_fusion
def test_statistics_do_not_depend_on_the_order_of_the_mapping(case):
    features = features_of(3, bags=6, seed=99)
    labels = torch.tensor([False] * 4 + [True] * 2)
    fusion = CASES[case](widths_of(3), N, 0)
    fusion.fit(dict(reversed(features.items())), labels, torch.arange(6))
    assert_same(fusion.eval().fuse(features_of(3)), fitted(case, 3).fuse(features_of(3)), exact=True)


@every_fusion
def test_other_modalities_are_ignored_when_fitting_and_when_fusing(case):
    labels = torch.tensor([False] * 4 + [True] * 2)
    fusion, plain = CASES[case](widths_of(), N, 0), fitted(case)
    nothing = {"thermal": torch.full((6, N, 7), float("nan"))}
    fusion.fit(nothing | features_of(bags=6, seed=99), labels, torch.arange(6))
    nothing = {"thermal": torch.full((3, N, 7), float("nan"))}
    assert_same(fusion.eval().fuse(nothing | features_of()), plain.fuse(features_of()), exact=True)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in fusion.state_dict().items())


@every_fusion
def test_a_missing_modality_is_named(case):
    features = features_of()
    del features["text"]
    with pytest.raises(DataError, match=r"modality 'text' is missing: expected motion, text, got motion\. What to do"):
        fitted(case).fuse(features)


@every_fusion
@pytest.mark.parametrize(("shape", "got"), [((3, N, 4), f"(3, {N}, 4)"), ((3, N + 1, 3), f"(3, {N + 1}, 3)")])
def test_a_wrong_shape_is_named(case, shape, got):
    features = features_of() | {"text": torch.zeros(shape)}
    with pytest.raises(DataError) as error:
        fitted(case).fuse(features)
    assert str(error.value) == f"features have another shape (modality 'text'): expected (3, {N}, 3), got {got}"


@every_fusion
@pytest.mark.parametrize("training", [False, True])
def test_what_masked_nodes_hold_changes_nothing(case, training):
    mask = torch.tensor([[True] * N, [True] * 4 + [False] * 2, [False, True, True, False, True, True]])
    features = features_of()
    garbage = {name: torch.where(mask[:, :, None], x, 1e3 * torch.randn_like(x)) for name, x in features.items()}
    first, second = (fitted(case).train(training).fuse(given, mask) for given in (features, garbage))
    assert_same(first, second, exact=True)
    assert (first.nodes[~mask] == 0).all()
    assert first.graph is None or (first.graph[~mask] == 0).all()


@every_fusion
@pytest.mark.parametrize("training", [False, True])
def test_a_full_mask_changes_nothing(case, training):
    every = torch.ones(3, N, dtype=torch.bool)
    assert_same(fitted(case).train(training).fuse(features_of(), every), fitted(case).train(training).fuse(features_of()))


@every_fusion
@pytest.mark.parametrize("nodes", [4, 2])
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing_for_the_nodes_that_exist(case, nodes, training):
    """A few nodes against the same nodes padded to 6."""
    short, long = (fitted(case, nodes=length) for length in (nodes, N))
    long.load_state_dict(short.state_dict())
    features = features_of(nodes=nodes)
    garbage = {name: torch.cat([x, torch.full((3, N - nodes, x.shape[-1]), 50.0)], dim=1) for name, x in features.items()}
    mask = torch.arange(N).expand(3, N) < nodes
    expected, output = short.train(training).fuse(features), long.train(training).fuse(garbage, mask)
    columns = output.nodes.shape[-1]
    torch.testing.assert_close(output.nodes[:, :nodes], padded(expected.nodes, columns), rtol=1e-4, atol=1e-5)
    assert (output.nodes[:, nodes:] == 0).all()
    if output.graph is not None:
        expected_graph = padded(expected.graph, output.graph.shape[-1])
        torch.testing.assert_close(output.graph[:, :nodes], expected_graph, rtol=1e-4, atol=1e-5)


@every_fusion
def test_a_video_does_not_depend_on_its_batch(case):
    fusion, features = fitted(case), features_of(bags=4)
    together = fusion.fuse(features)
    for video in range(4):
        alone = fusion.fuse({name: x[video : video + 1] for name, x in features.items()})
        torch.testing.assert_close(alone.nodes[0], together.nodes[video], rtol=1e-4, atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = fusion.fuse({name: x[order] for name, x in features.items()})
    torch.testing.assert_close(shuffled.nodes, together.nodes[order], rtol=1e-4, atol=1e-5)


@every_fusion
@every_count
def test_every_parameter_by_name_gets_a_gradient_and_moves(case, count):
    """Several steps, as a scale that starts at zero lets nothing through in the first."""
    fusion = fitted(case, count).train()
    learned = {name: parameter for name, parameter in fusion.named_parameters() if parameter.requires_grad}
    start = {name: parameter.detach().clone() for name, parameter in learned.items()}
    weights = torch.randn(fusion.out_features, generator=torch.Generator().manual_seed(3))
    adam = torch.optim.Adam(fusion.parameters(), lr=0.05) if start else None
    for step in range(6 if adam else 0):
        adam.zero_grad()
        ((fusion.fuse(features_of(count, seed=step)).nodes * weights).sum(-1) - 1).square().mean().backward()
        for name, parameter in learned.items():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        adam.step()
    still = [name for name, parameter in learned.items() if torch.equal(parameter, start[name])]
    assert still == []


@every_fusion
@every_count
def test_every_parameter_and_statistic_survives_a_save(case, count):
    fusion = fitted(case, count, seed=3)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.01)
    stored = load(save({name: tensor.contiguous() for name, tensor in fusion.state_dict().items()}))
    assert {name for name, _ in fusion.named_parameters()} <= set(stored)
    again = make_fusion(fusion.kind, json.loads(json.dumps(fusion.config())))
    again.load_state_dict(stored, strict=True)
    assert_same(again.eval().fuse(features_of(count)), fusion.fuse(features_of(count)), exact=True)


@every_fusion
def test_the_configuration_makes_an_equal_fusion(case):
    fusion = fitted(case, 3, seed=5)
    config = json.loads(json.dumps(fusion.config()))
    again = make_fusion(fusion.kind, config)
    assert type(again) is type(fusion)
    assert again.config() == fusion.config()
    assert again.out_features == fusion.out_features
    assert list(again.modalities) == list(fusion.modalities)
    for name, parameter in fusion.named_parameters():
        assert torch.equal(dict(again.named_parameters())[name], parameter), name


@every_fusion
def test_parameters_of_a_modality_carry_its_name(case):
    """State is kept by name: a fusion of other names shares no name of anything that belongs to one modality."""
    mine = set(fitted(case).state_dict())
    renamed = CASES[case]({"smell": 5, "touch": 3}, N, 0)
    theirs = set(renamed.state_dict())
    assert {name for name in mine if "motion" in name or "text" in name}
    assert {name.replace("smell", "motion").replace("touch", "text") for name in theirs} == mine


@every_fusion
def test_double_precision_is_kept_and_agrees(case):
    double, single = fitted(case, dtype=torch.float64), fitted(case)
    double.load_state_dict(single.state_dict())
    output = double.fuse(features_of(dtype=torch.float64))
    assert output.nodes.dtype == torch.float64
    assert single.fuse(features_of()).nodes.dtype == torch.float32
    torch.testing.assert_close(output.nodes.float(), single.fuse(features_of()).nodes, rtol=1e-3, atol=1e-4)


@every_fusion
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
)
def test_the_device_is_kept(case, device):
    fusion = CASES[case](widths_of(), N, 0).to(device)
    labels = torch.tensor([False] * 4 + [True] * 2, device=device)
    train = {name: x.to(device) for name, x in features_of(bags=6, seed=99).items()}
    fusion.fit(train, labels, torch.arange(6, device=device))
    mask = torch.ones(3, N, dtype=torch.bool, device=device)
    output = fusion.eval().fuse({name: x.to(device) for name, x in features_of().items()}, mask)
    assert output.nodes.device.type == device
    assert_same(FusionOutput(*(None if x is None else x.cpu() for x in output)), fitted(case).fuse(features_of()))


@every_fusion
@every_count
def test_a_seed_decides_everything(case, count):
    torch.manual_seed(123)
    first = fitted(case, count, seed=1)
    state = torch.get_rng_state()
    second, other = fitted(case, count, seed=1), fitted(case, count, seed=2)
    assert torch.equal(torch.get_rng_state(), state), "the global random numbers were touched"
    assert_same(second.fuse(features_of(count)), first.fuse(features_of(count)), exact=True)
    if any(parameter.requires_grad for parameter in first.parameters()):
        assert not torch.equal(other.fuse(features_of(count)).nodes, first.fuse(features_of(count)).nodes)


@every_fusion
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("bags", "nodes"), [(1, N), (3, 1), (1, 1)])
def test_one_video_and_one_node(case, bags, nodes, training):
    fusion = CASES[case](widths_of(), nodes, 0)
    fusion.fit(features_of(bags=6, nodes=nodes, seed=99), torch.tensor([False] * 4 + [True] * 2), torch.arange(6))
    output = fusion.train(training).fuse(features_of(bags=bags, nodes=nodes))
    assert output.nodes.shape == (bags, nodes, fusion.out_features)
    assert torch.isfinite(output.nodes).all()
    if any(parameter.requires_grad for parameter in fusion.parameters()):
        output.nodes.square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)


@every_fusion
def test_evaluation_changes_no_state(case):
    fusion = fitted(case, 3)
    before = {name: tensor.clone() for name, tensor in fusion.state_dict().items()}
    first, second = fusion.fuse(features_of(3)), fusion.fuse(features_of(3))
    assert_same(first, second, exact=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fusion.state_dict().items())


@pytest.mark.parametrize("kind", ANY_ORDER)
def test_the_order_of_modalities_does_not_matter_where_no_formula_has_one(kind):
    """Weights go by name into a fusion that was made in another order."""
    fusion = fitted(kind, 4)
    other = make_plain_fusion(kind, dict(reversed(widths_of(4).items())), seed=7)
    other.load_state_dict(fusion.state_dict(), strict=True)
    assert_same(other.eval().fuse(features_of(4)), fusion.fuse(features_of(4)))


COMPILED = """
import os, sys
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
import torch
from lego_fusion.fusion.registry import make_plain_fusion
worst = {}
for kind in sys.argv[1:]:
    torch.compiler.reset()
    torch.manual_seed(0)
    widths = {"motion": 5, "text": 3, "audio": 8}
    fusion = make_plain_fusion(kind, widths)
    train = {name: torch.randn(6, 6, width) for name, width in widths.items()}
    fusion.fit(train, torch.arange(6) > 3, torch.arange(6))
    fusion.eval()
    features = {name: torch.randn(3, 6, width) for name, width in widths.items()}
    mask = torch.arange(6).expand(3, 6) < torch.tensor([[6], [4], [5]])
    results = []
    backend = "inductor" if kind == "lego" else "aot_eager"  # capture and backward of all; code is generated for ours
    for run in (fusion.fuse, torch.compile(fusion.fuse, backend=backend)):
        fusion.zero_grad()
        given = {name: x.clone().requires_grad_() for name, x in features.items()}
        nodes = run(given, mask).nodes
        nodes.square().sum().backward()
        gradients = [x.grad.clone() for x in (*fusion.parameters(), *given.values()) if x.grad is not None]
        results.append([nodes.detach(), *gradients])
    assert len(results[0]) == len(results[1]), kind
    for eager, compiled in zip(*results):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5, msg=lambda text: kind + ": " + text)
    print(kind)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [tuple(FUSIONS)[::2], tuple(FUSIONS)[1::2]], ids=["even", "odd"])
def test_compiled_equals_eager(kinds):
    """Nodes and gradients; in a process of its own, as the checks of shape annotations are not for the compiler."""
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("torch.compile needs a C++ compiler, such as g++")
    done = subprocess.run([sys.executable, "-c", COMPILED, *kinds], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.split() == list(kinds)
