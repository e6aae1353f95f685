"""Products between modalities against einsum and explicit sums."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.elementwise import Bilinear, LowRankTensorFusion, TensorFusion

WIDTHS = {"motion": 3, "text": 2, "audio": 4, "depth": 5}


def features(count: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(2, 5, w, generator=generator, dtype=torch.float64) for n, w in list(WIDTHS.items())[:count]}


def widths(count: int) -> dict[str, int]:
    return dict(list(WIDTHS.items())[:count])


def projected(fusion, given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        n: torch.einsum("bnd,fd->bnf", x, fusion.projection[n].weight) + fusion.projection[n].bias for n, x in given.items()
    }


@torch.no_grad()
@pytest.mark.parametrize(("count", "pairs"), [(1, 1), (2, 1), (3, 3), (4, 6)])
def test_bilinear_by_hand(count, pairs):
    fusion, given = Bilinear(widths(count), width=6, reduced=3).double(), features(count)
    fusion.bias.uniform_()
    assert len(fusion.form) == pairs
    z = projected(fusion, given)
    names = list(given)
    expected = fusion.bias.expand(2, 5, 6).clone()
    for name, x in given.items():
        expected += torch.einsum("bnd,fd->bnf", x, fusion.linear[name].weight)
    for a, b in itertools.combinations(names, 2) if count > 1 else [(names[0], names[0])]:
        form = fusion.form[f"{a}:{b}"].weight.reshape(6, 3, 3)
        expected += torch.einsum("bni,fij,bnj->bnf", z[a], form, z[b])
    torch.testing.assert_close(fusion(given).nodes, expected)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_bilinear_forms_are_blind_to_the_common_sign_and_the_linear_terms_see_it(count):
    """Without offsets the forms are even: f(x) - f(-x) is twice the linear terms, f(x) + f(-x) twice the rest."""
    fusion, given = Bilinear(widths(count), width=6, reduced=3).double(), features(count)
    for layer in fusion.projection.values():
        layer.bias.zero_()
    nodes, mirrored = fusion(given).nodes, fusion({name: -x for name, x in given.items()}).nodes
    linear = sum(torch.einsum("bnd,fd->bnf", x, fusion.linear[name].weight) for name, x in given.items())
    torch.testing.assert_close((nodes - mirrored) / 2, linear)
    for layer in fusion.linear.values():
        layer.weight.zero_()
    torch.testing.assert_close(fusion({name: -x for name, x in given.items()}).nodes, fusion(given).nodes)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_outer_product_by_hand(count):
    fusion, given = TensorFusion(widths(count), reduced=2).double(), features(count)
    z = [torch.cat([torch.ones(2, 5, 1, dtype=torch.float64), part], dim=-1) for part in projected(fusion, given).values()]
    nodes = fusion(given).nodes
    assert nodes.shape == (2, 5, 3**count)
    for entry, places in enumerate(itertools.product(range(3), repeat=count)):
        for video, node in itertools.product(range(2), range(5)):
            product = math.prod(z[m][video, node, place].item() for m, place in enumerate(places))
            assert nodes[video, node, entry].item() == pytest.approx(product, rel=1e-10)


@torch.no_grad()
def test_the_outer_product_keeps_each_modality_alone():
    fusion, given = TensorFusion(widths(2), reduced=2).double(), features(2)
    z, nodes = projected(fusion, given), fusion(given).nodes.unflatten(-1, (3, 3))
    assert (nodes[..., 0, 0] == 1).all()
    torch.testing.assert_close(nodes[..., 1:, 0], z["motion"])
    torch.testing.assert_close(nodes[..., 0, 1:], z["text"])


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_low_rank_is_the_full_tensor_of_its_factors(count):
    """Weights of rank R built in full, (D_1 + 1, ..., D_M + 1, F), applied to the outer product of [x_m, 1]."""
    fusion, given = LowRankTensorFusion(widths(count), width=6, rank=3).double(), features(count)
    fusion.bias.uniform_()
    letters = "ijkl"[:count]
    factors, rows = [], []
    for name, x in given.items():
        layer = fusion.factor[name]
        factors.append(torch.cat([layer.weight, layer.bias[:, None]], dim=1).reshape(3, 6, -1))
        rows.append(torch.cat([x, torch.ones(2, 5, 1, dtype=torch.float64)], dim=-1))
    full = torch.einsum(",".join(f"rf{letter}" for letter in letters) + f"->{letters}f", *factors)
    outer = torch.einsum(",".join(f"bn{letter}" for letter in letters) + f"->bn{letters}", *rows)
    expected = torch.einsum(f"bn{letters},{letters}f->bnf", outer, full) + fusion.bias
    torch.testing.assert_close(fusion(given).nodes, expected)


def test_factors_are_registered():
    names = set(dict(LowRankTensorFusion(widths(2)).named_parameters()))
    assert names == {f"factor.{name}.{part}" for name in ("motion", "text") for part in ("weight", "bias")} | {"bias"}


@pytest.mark.parametrize(("count", "reduced"), [(5, 7), (4, 8), (2, 64), (1, 4096)])
def test_too_many_products_are_refused(count, reduced):
    modalities = dict.fromkeys(("a", "b", "c", "d", "e")[:count], 3)
    with pytest.raises(ParameterError) as error:
        TensorFusion(modalities, reduced=reduced)
    assert str(error.value) == (
        f"the outer product has too many entries (TensorFusion): expected at most 4096 per node, got ({reduced} + 1)^{count} = "
        f"{(reduced + 1) ** count}. What to do: lower 'reduced', fuse fewer modalities, or use 'low-rank-tensor'."
    )
    TensorFusion(modalities, reduced=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bilinear({"motion": 3}, reduced=0), "'reduced' parameter of Bilinear must be an int"),
        (lambda: TensorFusion({"motion": 3}, reduced=0), "'reduced' parameter of TensorFusion must be an int"),
        (lambda: LowRankTensorFusion({"motion": 3}, rank=0), "'rank' parameter of LowRankTensorFusion must be an int"),
        (lambda: LowRankTensorFusion({"motion": 3}, rank="4"), "'rank' parameter of LowRankTensorFusion must be an int"),
    ],
)
def test_wrong_arguments(make, message, unchecked_types):
    with pytest.raises(ParameterError, match=message):
        make()
