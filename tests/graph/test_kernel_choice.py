"""Which kernel is used; that compiled kernels give what the eager one gives; what happens without a compiler."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import ParameterError
from lego_fusion.graph import compiled_kernel, kernels
from lego_fusion.graph.kernels import bivariate_polynomial, choose_kernel, product_polynomial, use_kernel

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}  # relative to the sum of the sizes of all terms


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def compiler():
    if not kernels.can_compile(torch.device("cpu")):
        pytest.skip("needs a C++ compiler, for example g++")


def results(function: Callable[..., Tensor], leaves: list[Tensor], weight: Tensor, kernel: str) -> list[Tensor]:
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    result = function(*leaves, kernel=kernel)
    return [result.detach(), *torch.autograd.grad(result, leaves, weight)]


def assert_same(function: Callable[..., Tensor], leaves: list[Tensor], kernel: str) -> None:
    """Value and gradients against float64 eager, relative to those of the sizes of all numbers (nothing then cancels)."""
    weight = random(*leaves[0].shape, seed=9, dtype=leaves[0].dtype)
    ours = results(function, leaves, weight, kernel)
    exact = results(function, [leaf.double() for leaf in leaves], weight.double(), "eager")
    scale = results(function, [leaf.double().abs() for leaf in leaves], weight.double().abs(), "eager")
    for one, expected, size in zip(ours, exact, scale, strict=True):
        assert one.dtype == leaves[0].dtype
        assert ((one.double() - expected).abs() <= TOLERANCE[leaves[0].dtype] * size + 1e-30).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_is_eager(compiler, dtype, p=2, q=1):
    for nodes in (1, 2, 33, 64):
        leaves = [random(2, nodes, nodes, seed=seed, dtype=dtype).clamp(-1, 1) for seed in range(2)]
        assert_same(bivariate_polynomial, [*leaves, random(p + 1, q + 1, seed=2, dtype=dtype)], "compiled")


@pytest.mark.slow
def test_compiled_is_eager_at_high_order(compiler):
    test_compiled_is_eager(None, torch.float32, 10, 10)


def test_compiled_products_are_eager(compiler):
    orders = [2, 1, 0]
    count = len(orders)

    def function(*tensors: Tensor, kernel: str) -> Tensor:
        return product_polynomial(tensors[:count], tensors[count:], kernel=kernel)

    leaves = [random(2, 5, 4, seed=seed, dtype=torch.float32).clamp(-1, 1) for seed in range(count)]
    assert_same(function, leaves + [random(2, order + 1, seed=7, dtype=torch.float32) for order in orders], "compiled")


@pytest.mark.slow
def test_more_orders_than_dynamo_has_variants_for_one_function(compiler):
    before = len(compiled_kernel._compiled)
    for q in range(9):  # dynamo stops compiling one function's code after 8 variants
        s, t, a = random(2, 3), random(2, 3, seed=1), random(1, q + 1, seed=2)
        torch.testing.assert_close(
            bivariate_polynomial(s, t, a, kernel="compiled"), bivariate_polynomial(s, t, a, kernel="eager")
        )
    codes = {id(function.__wrapped__.__code__) for function in compiled_kernel._compiled.values()}
    assert len(codes) == len(compiled_kernel._compiled) >= before + 8


def test_only_the_gradients_asked_for(compiler):
    for asked in range(3):
        leaves = [random(4, 4, seed=seed).requires_grad_(seed == asked) for seed in range(2)]
        leaves.append(random(3, 2, seed=2).requires_grad_(asked == 2))
        bivariate_polynomial(*leaves, kernel="compiled").sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [number == asked for number in range(3)]


@pytest.mark.parametrize("kernel", ["eager", "compiled"])
def test_layouts_and_empty_batches(compiler, kernel):
    s, t, a = random(3, 4, 5).transpose(0, 2), random(5, 8, 3, seed=1)[:, ::2], random(3, 2, seed=2)
    expected = bivariate_polynomial(s.contiguous(), t.contiguous(), a, kernel="eager")
    torch.testing.assert_close(bivariate_polynomial(s, t, a, kernel=kernel), expected)
    mixed = bivariate_polynomial(s.float(), t.float(), a, kernel=kernel)
    assert mixed.dtype == torch.float64
    assert bivariate_polynomial(s[:0], t[:0], a, kernel=kernel).shape == (0, 4, 3)


def test_the_choice(monkeypatch):
    small, large = torch.zeros(100), torch.zeros(1).expand(kernels.COMPILE_FROM)
    monkeypatch.delenv(kernels.ENVIRONMENT, raising=False)
    monkeypatch.setattr(kernels, "can_compile", lambda device: True)
    sizes = [3, 3]
    assert choose_kernel(None, small, torch.float32, sizes) == "eager"
    assert choose_kernel(None, large, torch.float32, sizes) == "compiled"
    assert choose_kernel(None, large, torch.float16, sizes) == "eager"
    assert choose_kernel(None, large, torch.float32, [12, 12]) == "eager"
    monkeypatch.setenv(kernels.ENVIRONMENT, "compiled")
    assert choose_kernel(None, small, torch.float32, sizes) == "compiled"
    with use_kernel("eager"):
        assert choose_kernel(None, large, torch.float32, sizes) == "eager"
        assert choose_kernel("compiled", small, torch.float32, sizes) == "compiled"
    assert choose_kernel("compiled", small[:1], torch.float32, sizes) == "eager"


@pytest.mark.parametrize(
    ("kernel", "dtype", "sizes", "rank", "message"),
    [
        ("compiled", torch.float32, [12, 12], None, "at most 128 coefficients, not 144"),
        ("compiled", torch.float16, [2, 2], None, "float32 or float64, not torch.float16"),
        ("quick", torch.float32, [2, 2], None, "must be one of 'auto', 'eager'"),
    ],
)
def test_what_a_kernel_cannot_do(kernel, dtype, sizes, rank, message, unchecked_types):
    with pytest.raises(ParameterError, match=message):
        choose_kernel(kernel, torch.zeros(4), dtype, sizes, rank=rank)


def test_an_unknown_kernel_in_the_environment(monkeypatch):
    monkeypatch.setenv(kernels.ENVIRONMENT, "fast")
    with pytest.raises(ParameterError, match="'LEGO_FUSION_KERNEL' parameter of the environment"):
        bivariate_polynomial(torch.ones(3), torch.ones(3), torch.ones(2, 2))


def run(code: str, **environment: str) -> str:
    """What a fresh Python prints, warnings among it."""
    found = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout + found.stderr


def test_without_a_compiler_everything_is_eager_and_says_so_once(tmp_path):
    code = """
        import torch
        from lego_fusion.graph.kernels import bivariate_polynomial as f, product_polynomial as g
        s, a = torch.rand(2, 30, requires_grad=True), torch.rand(3, 3, requires_grad=True)
        for _ in range(3):
            y = f(s, s * s, a)
            y.sum().backward()
            g([s, s], [a, a]).sum().backward()
        assert torch.equal(y, f(s, s * s, a, kernel="eager"))
        print("done")
    """
    said = run(code, PATH=str(tmp_path), CXX="", LEGO_FUSION_KERNEL="compiled")
    assert "done" in said
    assert said.count("without compiled kernels") == 1
    assert "no C++ compiler is on the path" in said and "LEGO_FUSION_KERNEL=eager" in said


def test_a_broken_compiler_is_none(tmp_path):
    for name in ("g++", "c++", "clang++"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    code = """
        import torch
        from lego_fusion.graph.kernels import bivariate_polynomial as f
        s, a = torch.rand(2, 30, requires_grad=True), torch.rand(3, 3, requires_grad=True)
        for _ in range(2):
            y = f(s, s, a, kernel="compiled")
            y.sum().backward()
        assert torch.equal(y, f(s, s, a, kernel="eager"))
        print("done")
    """
    said = run(code, PATH=str(tmp_path), CXX="g++", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert "done" in said
    assert said.count("without compiled kernels") == 1 and "torch.compile failed" in said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kernel", ["eager", "compiled"])
def test_kernels_on_cuda(kernel):
    leaves = [random(2, 40, 40, seed=seed).clamp(-1, 1).cuda() for seed in range(2)] + [random(4, 4, seed=2).cuda()]
    expected = bivariate_polynomial(*(leaf.cpu() for leaf in leaves), kernel="eager")
    torch.testing.assert_close(bivariate_polynomial(*leaves, kernel=kernel).cpu(), expected)
