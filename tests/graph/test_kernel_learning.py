"""Leave-one-out in closed form against leaving one out; the dictionary against explicit products; what noise must not show."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.graph import kernel_learning as learning


def positive_kernel(samples: int, rank: int, seed: int = 0) -> Tensor:
    features = torch.randn(samples, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return features @ features.mT / rank


def gaussian_kernel(samples: int, width: int, seed: int = 0, *, duplicates: int = 0) -> Tensor:
    x = torch.randn(samples, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[samples - duplicates :] = x[:duplicates]
    return torch.exp(-torch.cdist(x, x).square() / (2 * width))


def targets_for(samples: int, outputs: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(samples, outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 3


def left_out(kernel: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Ridge regression with a mean of its own, fitted without each sample in turn: the linear system, bias and all."""
    samples = len(kernel)
    residuals = torch.empty_like(targets)
    for i in range(samples):
        others = [j for j in range(samples) if j != i]
        system = torch.zeros(samples, samples, dtype=kernel.dtype)
        system[:-1, :-1] = kernel[others][:, others] + ridge * torch.eye(samples - 1, dtype=kernel.dtype)
        system[-1, :-1] = system[:-1, -1] = 1
        solution = torch.linalg.solve(
            system, torch.cat([targets[others], torch.zeros(1, targets.shape[1], dtype=kernel.dtype)])
        )
        residuals[i] = targets[i] - (kernel[i, others] @ solution[:-1] + solution[-1])
    return residuals


KERNELS: dict[str, Callable[[], Tensor]] = {
    "low rank": lambda: positive_kernel(14, 3),
    "full rank": lambda: gaussian_kernel(14, 4),
    "duplicate rows": lambda: gaussian_kernel(14, 4, duplicates=5),
    "constant": lambda: torch.ones(14, 14, dtype=torch.float64),
    "two samples": lambda: gaussian_kernel(2, 4),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("ridge", [1e-3, 0.3, 50.0])
def test_closed_form_is_leaving_one_out(name: str, ridge: float) -> None:
    kernel = KERNELS[name]()
    targets = targets_for(len(kernel))
    expected = left_out(kernel, targets, ridge)
    centred = learning.centre_kernel(kernel)
    closed = learning.leave_one_out_residuals(centred, targets, ridge)
    solved = learning.solve_ridge(centred, targets, [ridge])
    torch.testing.assert_close(closed, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(solved.residuals, expected, rtol=0, atol=1e-10)


def test_landmarks_that_are_all_rows_change_nothing() -> None:
    kernel, targets = gaussian_kernel(20, 4), targets_for(20)
    exact = learning.solve_ridge(learning.centre_kernel(kernel), targets, [0.1])
    landmark = learning.solve_landmark_ridge(kernel, kernel, targets, [0.1])
    torch.testing.assert_close(landmark.residuals, exact.residuals, rtol=0, atol=1e-8)
    torch.testing.assert_close(landmark.residuals, left_out(kernel, targets, 0.1), rtol=0, atol=1e-8)
    across = gaussian_kernel(24, 4)[20:, :20] - kernel.mean(0)
    torch.testing.assert_close(across @ landmark.coefficients, across @ exact.coefficients, rtol=0, atol=1e-8)


def test_landmark_residuals_are_leaving_one_out_of_the_landmark_kernel() -> None:
    kernel, targets = gaussian_kernel(20, 4), targets_for(20)
    chosen = [0, 3, 4, 9, 15]
    nystroem = kernel[:, chosen] @ torch.linalg.solve(kernel[chosen][:, chosen], kernel[chosen])
    solved = learning.solve_landmark_ridge(kernel[:, chosen], kernel[chosen][:, chosen], targets, [0.1])
    torch.testing.assert_close(solved.residuals, left_out(nystroem, targets, 0.1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 1.0])
def test_pure_noise_is_told_by_chance_only(ridge: float) -> None:
    kernel = learning.centre_kernel(gaussian_kernel(300, 20))
    labels = torch.arange(300)[:, None] % 2 * 2.0 - 1
    labels = labels.double()[torch.randperm(300, generator=torch.Generator().manual_seed(2))]
    residuals = learning.leave_one_out_residuals(kernel, labels, ridge)
    right = ((labels - residuals).sign() == labels).double().mean()
    assert 0.35 < right < 0.6
    if ridge == 1e-6:  # the formula without the correction, which reads noise as known
        inverse = torch.linalg.inv(kernel + ridge * torch.eye(300, dtype=torch.float64))
        naive = inverse @ (labels - labels.mean(0)) / inverse.diagonal()[:, None]
        assert ((labels - naive).sign() == labels).all()


def test_gradient_is_that_of_automatic_differentiation() -> None:
    kernel = learning.centre_kernel(gaussian_kernel(12, 3)).requires_grad_()
    targets, ridge = targets_for(12), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    loss = learning.leave_one_out_residuals(kernel, targets, ridge).square().mean()
    by_kernel, by_ridge = torch.autograd.grad(loss, [kernel, ridge])
    closed = learning.leave_one_out_gradient(kernel.detach(), targets, 0.2)
    assert closed[0] == pytest.approx(float(loss.detach()), rel=1e-12)
    torch.testing.assert_close(closed[1] + closed[1].mT, by_kernel + by_kernel.mT, rtol=1e-9, atol=1e-11)
    assert closed[2] == pytest.approx(float(by_ridge), rel=1e-9)


def test_dictionary_is_every_kernel_and_every_product_of_two_views() -> None:
    both = ["cosine", "gaussian"]
    terms = learning.dictionary({"a": both, "b": both, "c": both})
    assert len(terms) == 18
    assert len({str(term) for term in terms}) == 18
    assert all(term.factors[0][1] != term.factors[1][1] for term in terms if len(term.factors) == 2)
    assert learning.dictionary({"a": both, "b": both, "c": both}, products=False) == terms[:6]
    assert [term for term in terms if not term.uses(["c"])] == learning.dictionary({"a": both, "b": both})
    assert float(learning.start_weights(terms).sum()) == pytest.approx(1)
    assert learning.start_weights(terms[:6]).tolist() == pytest.approx([1 / 6] * 6)


def test_mixture_and_means_are_those_of_the_explicit_sum() -> None:
    terms = learning.dictionary({"a": ["cosine", "gaussian"], "b": ["cosine"], "c": ["gaussian"]})
    factors = {factor for term in terms for factor in term.factors}
    graphs = {factor: torch.rand(5, 7, dtype=torch.float64) for factor in sorted(factors)}
    weights = torch.rand(len(terms), dtype=torch.float64)
    explicit = []
    for term in terms:
        product = torch.ones(5, 7, dtype=torch.float64)
        for factor in term.factors:
            product = product * graphs[factor]
        explicit.append(product)
    stack = torch.stack(explicit)
    torch.testing.assert_close(learning.evaluate_terms(terms, graphs), stack)
    torch.testing.assert_close(learning.mix_terms(terms, weights, graphs), (weights[:, None, None] * stack).sum(0))
    torch.testing.assert_close(
        learning.term_means(terms, graphs, torch.full((len(stack[0]),), 1 / len(stack[0]), dtype=stack.dtype)), stack.mean(1)
    )


def test_variance_is_the_mean_squared_distance_to_the_mean() -> None:
    features = torch.randn(9, 3, dtype=torch.float64)
    kernel = features @ features.mT
    expected = (features - features.mean(0)).square().sum(1).mean()
    constant = torch.ones(9, 9, dtype=torch.float64)
    torch.testing.assert_close(
        learning.kernel_variances(torch.stack([kernel, constant])), torch.stack([expected, expected * 0 + 1])
    )


def informed_and_noise() -> tuple[Tensor, Tensor]:
    features = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stack = learning.centre_kernel(torch.stack([features @ features.mT, *(gaussian_kernel(60, 9, seed) for seed in (1, 2))]))
    return stack / learning.kernel_variances(stack)[:, None, None], features[:, :1]


def test_learning_finds_the_informed_kernel_whatever_its_place() -> None:
    stack, targets = informed_and_noise()
    start = torch.full((3,), 1 / 3, dtype=torch.float64)
    learned = learning.learn_weights(stack, targets, start)
    assert learned.weights.argmax() == 0
    assert float(learned.weights.sum()) == pytest.approx(1)
    assert learned.losses[-1] < learned.losses[0]
    assert len(learned.losses) == 51
    order = [2, 0, 1]
    torch.testing.assert_close(
        learning.learn_weights(stack[order], targets, start).weights, learned.weights[order], rtol=1e-5, atol=1e-8
    )
    again = learning.learn_weights(stack, targets, start)
    assert torch.equal(again.weights, learned.weights)


def test_no_steps_keep_the_start_and_a_given_ridge_is_kept() -> None:
    stack, targets = informed_and_noise()
    start = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    torch.testing.assert_close(learning.learn_weights(stack, targets, start, steps=0).weights, start)
    assert learning.learn_weights(stack, targets, start, steps=3, ridge=0.7).ridge == pytest.approx(0.7)


def test_bad_input() -> None:
    stack, targets = informed_and_noise()
    start = torch.full((3,), 1 / 3, dtype=torch.float64)
    with pytest.raises(ParameterError, match=r"'steps' parameter of learn_weights must be an int in \[0, inf\)"):
        learning.learn_weights(stack, targets, start, steps=-1)
    with pytest.raises(DataError, match="no ridge gives a finite"):
        learning.solve_ridge(stack[0], targets * float("nan"))
