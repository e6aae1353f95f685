"""Partial information decomposition of features of any size: classifiers give the marginals, batches train the coupling.

Axis letters: n sample, d feature, y class.

Axis letters: n sample, a and b samples of one batch as the first and the second source see them, y class, e embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ..errors import DataError, check_int
from .decomposition import (
    PartialInformation,
    Values,
    check_lengths,
    check_names,
    check_resampling,
    finite_rows,
    from_informations,
    label_symbols,
    require_classes,
    with_chance,
)

HIDDEN = 64
LEARNING_RATE, WEIGHT_DECAY = 1e-2, 1e-2
TINY = 1e-30


def network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """A network of one hidden layer whose weights come from the generator given."""
    layers = [nn.utils.skip_init(nn.Linear, inputs, HIDDEN), nn.utils.skip_init(nn.Linear, HIDDEN, outputs)]
    with torch.no_grad():
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            layer.bias.zero_()
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def held_out_probabilities(
    x: Float[Tensor, "n d"], labels: Tensor, classes: int, steps: int, generator: torch.Generator
) -> Float[Tensor, "n y"]:
    """p(y|x) of every sample by a network that did not see it, calibrated."""
    logits = torch.zeros(len(x), classes)
    half = torch.randperm(len(x), generator=generator) % 2 == 0
    for held_out in (half, ~half):
        model = network(x.shape[1], classes, generator)
        optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        seen = torch.nonzero(~held_out)[:, 0]
        for _ in range(steps):
            rows = seen[torch.randint(len(seen), (min(512, len(seen)),), generator=generator)]
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), labels[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            logits[held_out] = model(x[held_out])
    return calibrate(logits, labels)


def calibrate(logits: Float[Tensor, "n y"], labels: Tensor) -> Float[Tensor, "n y"]:
    """softmax(s logits + bias) of least cross-entropy; class frequencies where s would not be above zero.

    At that optimum the mean entropy is the cross-entropy and the mean probabilities are the class frequencies, so that
    information read from the probabilities is neither that of an overconfident network nor of a timid one.
    """
    logits = (logits - logits.mean(1, keepdim=True)).double()
    frequencies = torch.bincount(labels, minlength=logits.shape[1]).double() / len(labels)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros_like(frequencies).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [scale, bias], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(scale * logits + bias, labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        if not scale > 0:
            return frequencies.expand(len(labels), -1)
        return torch.softmax(scale * logits + bias, dim=1)


def information_gain(probabilities: Float[Tensor, "n y"]) -> Float[Tensor, " n"]:
    """Bits by which each sample's probabilities differ from the mean ones; their mean is the information."""
    ratio = probabilities.clamp_min(TINY) / probabilities.mean(0).clamp_min(TINY)
    return (probabilities * torch.log2(ratio)).sum(1)


WIDTH = 16  # of the embeddings, per class
WINDOW = 20  # steps over which the objective is averaged to tell whether it still falls
STILL_FALLS = 1e-3  # bits
JOINT_LACKS = 0.02  # bits
LOGIT_BOUND = 15.0  # exp of twice this is within float32 and far beyond any contrast that matters
_LEAST_SAMPLES = 20


@dataclass(frozen=True)
class Training:
    """How the networks are trained.

    Args:
        classifier_steps: Steps of each classifier, of up to 512 samples.
        coupling_steps: Most steps of the coupling; it stops once 20 steps gain less than 0.001 bit.
        batch: Samples that are coupled at once.
        sinkhorn_steps: Rescalings of rows and columns per training step; evaluation goes on until the marginals are met.
    """

    classifier_steps: int = 150
    coupling_steps: int = 200
    batch: int = 256
    sinkhorn_steps: int = 10


def batch_partial_information(
    x1: npt.ArrayLike,
    x2: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    names: tuple[str, str] = ("first", "second"),
    training: Training | None = None,
    permutations: int = 5,
    resamples: int = 40,
    level: float = 0.95,
    seed: int = 0,
) -> PartialInformation:
    """Decompose what two sets of features say about a class, without clusters.

    Networks p(y|x1), p(y|x2), p(y|x1,x2) are fitted on halves, each predicting the other half, and calibrated so that mean
    entropy = cross-entropy and mean probability = class frequency. Then, batch by batch,

        q_aby proportional to u_ay v_by exp( <f1(a)_y, f2(b)_y> / sqrt(width) )

    with u, v by Sinkhorn steps per class so that sum_b q = p(y|a) / n and sum_a q = p(y|b) / n, and f1, f2 are trained to
    make I_Q(X2; Y | X1) small. R = I2 - I_Q(X2; Y | X1), U1 = I1 - R, U2 = I2 - R, S = I12 - R - U1 - U2.

    The estimate is as good as its networks: it has no certificate, and what a classifier misses, the part it belongs to lacks.

    Args:
        x1: First source: floats (n,) or (n, d), or labels (n,).
        x2: Second source, likewise.
        y: Class of every sample (n,).
        names: Names of the two sources.
        training: How the networks are trained.
        permutations: Permutations of the labels for the null, 1 or more; each trains everything anew.
        resamples: Batches drawn for the intervals, 20 or more (m out of n bootstrap, the networks as they are).
        level: Share of resamples inside the intervals, in (0, 1).
        seed: Seed of everything random.

    Returns:
        The decomposition; ``gap`` is None and ``convergence`` tells how far the coupling still fell.

    Raises:
        DataError: If the samples differ in number, are fewer than 20 or not finite, or the target has one class.
        ParameterError: If a parameter is out of its range.

    Source: Liang et al., Quantifying and modeling multimodal interactions (arXiv 2302.12247), section 3.2.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> x1, x2 = generator.integers(0, 2, (2, 400))
        >>> quick = Training(classifier_steps=60, coupling_steps=40, batch=64)
        >>> found = batch_partial_information(x1, x2, x1 ^ x2, training=quick, permutations=1, resamples=20)
        >>> found.synergy > 0.9
        True
    """
    training = training or Training()
    _check(training, names)
    check_resampling("batch_partial_information", permutations, resamples, level, seed, least=1)
    check_int(resamples, "resamples", "batch_partial_information", low=20)
    target = label_symbols(y, "target")
    check_lengths(names, x1, x2, y)
    require_classes(target.count)
    sources = [_inputs(x, name) for x, name in zip((x1, x2), names, strict=True)]
    samples = len(target.index)
    if samples < _LEAST_SAMPLES:
        raise DataError("too few samples to train on", where="target", expected=f"{_LEAST_SAMPLES} or more", got=samples)

    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(target.index)
    fit = _fit(sources, labels, target.count, training, resamples, generator)
    shuffled = (labels[torch.randperm(samples, generator=generator)] for _ in range(permutations))
    chance = [_fit(sources, other, target.count, training, 1, generator).informations for other in shuffled]
    null = from_informations(names, *_lifted(np.array(chance)).T)
    found = _record(fit, names, target.count)
    return with_chance(found, null, _replicates(fit, names, training.batch, samples), samples=samples, level=level)


@dataclass(frozen=True, eq=False)
class _Fit:
    """I1, I2, I12 and I_Q(X1 X2; Y) in bits, the same on each batch drawn, and how the training ended."""

    informations: Float64[np.ndarray, " quantities"]
    drawn: Float64[np.ndarray, "t quantities"]
    marginal_error: float
    convergence: float
    steps: int


def _fit(
    sources: list[Float[Tensor, "n _"]],
    labels: Tensor,
    classes: int,
    training: Training,
    batches: int,
    generator: torch.Generator,
) -> _Fit:
    inputs = [*sources, torch.cat(sources, dim=1)]
    predictions = [held_out_probabilities(x, labels, classes, training.classifier_steps, generator) for x in inputs]
    gains = torch.stack([information_gain(p) for p in predictions])  # (3, n)
    coupling = _Coupling(sources, predictions[:2], classes, training, generator)
    convergence, steps = coupling.train()

    samples = len(labels)
    size = min(training.batch, samples)
    once = [rows for rows in torch.randperm(samples, generator=generator).split(size) if len(rows) == size]
    drawn = [torch.randint(samples, (size,), generator=generator) for _ in range(batches)]
    extra, error = zip(*(coupling.evaluate(rows) for rows in (*once, *drawn)), strict=True)
    alone = gains.mean(1).tolist()
    whole = np.array([*alone, alone[0] + float(np.mean(extra[: len(once)]))])
    each = [[*gains[:, rows].mean(1).tolist()] for rows in drawn]
    values = np.array([[*row, row[0] + more] for row, more in zip(each, extra[len(once) :], strict=True)])
    return _Fit(whole, values, max(error), convergence, steps)


def _record(fit: _Fit, names: tuple[str, str], classes: int) -> PartialInformation:
    parts = from_informations(names, *_lifted(fit.informations[None]).T)
    values = {key: float(value[0]) for key, value in parts.items()}
    notes = [
        f"estimated by networks, without a certificate; the coupling took {fit.steps} steps, the last {WINDOW} of which gained "
        f"{max(fit.convergence, 0.0):.4f} bits"
    ]
    if fit.convergence > STILL_FALLS:
        notes.append("the coupling was still falling: allow more coupling_steps")
    lacking = max(fit.informations[0], fit.informations[1], fit.informations[3]) - fit.informations[2]
    if lacking > JOINT_LACKS:
        notes.append(
            f"the network of both sources has {lacking:.3f} bits less than there must be, so synergy is too small: allow more "
            "classifier_steps or bring more samples"
        )
    return PartialInformation(
        redundancy=values["redundancy"],
        unique={name: values[f"unique {name}"] for name in names},
        synergy=values["synergy"],
        total=values["total"],
        information={name: values[f"information {name}"] for name in names},
        gap=None,
        marginal_error=fit.marginal_error,
        symbols={},
        classes=classes,
        convergence=fit.convergence,
        notes=tuple(notes),
    )


def _replicates(fit: _Fit, names: tuple[str, str], batch: int, samples: int) -> Values:
    """Informations of the batches drawn, their spread narrowed from batch to sample size: the m out of n bootstrap."""
    shrink = math.sqrt(min(batch, samples) / samples)
    spread = fit.informations + shrink * (fit.drawn - fit.drawn.mean(0))
    return from_informations(names, *_lifted(spread).T)


def _lifted(informations: Float64[np.ndarray, "t quantities"]) -> Float64[np.ndarray, "t quantities"]:
    """I12 at least as large as I1 and I2: all three are lower bounds, and those two hold for both sources together as well."""
    lifted = informations.copy()
    lifted[:, 2] = informations[:, :3].max(1)
    return lifted


def _inputs(values: npt.ArrayLike, name: str) -> Float[Tensor, "n _"]:
    """Floats as columns of unit variance, labels one-hot."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        symbols = label_symbols(array, name)
        return nn.functional.one_hot(torch.from_numpy(symbols.index), symbols.count).float()
    return torch.from_numpy(finite_rows(array, name)).float()


def _check(training: Training, names: tuple[str, str]) -> None:
    check_names(names)
    for name, low in (("classifier_steps", 1), ("coupling_steps", 2 * WINDOW), ("batch", 8), ("sinkhorn_steps", 1)):
        check_int(getattr(training, name), name, "Training", low=low)


class _Coupling:
    """Embeddings f1, f2 and the coupling they give on a batch."""

    def __init__(
        self,
        sources: list[Float[Tensor, "n _"]],
        predictions: list[Float[Tensor, "n y"]],
        classes: int,
        training: Training,
        generator: torch.Generator,
    ) -> None:
        self.sources, self.classes, self.training, self.generator = sources, classes, training, generator
        self.marginals = [p.float().clamp_min(1e-9) for p in predictions]
        self.networks = [network(x.shape[1], classes * WIDTH, generator) for x in sources]

    def train(self) -> tuple[float, int]:
        """Minimise I_Q(X2; Y | X1); the bits that the last window of steps gained, and the steps taken."""
        parameters = [p for embed in self.networks for p in embed.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        values: list[float] = []
        gained = math.inf
        while len(values) < self.training.coupling_steps and (len(values) < 2 * WINDOW or gained > STILL_FALLS):
            rows = torch.randperm(len(self.sources[0]), generator=self.generator)[: self.training.batch]
            value = conditional_information(sinkhorn(self._logits(rows), *self._targets(rows), self.training.sinkhorn_steps))
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            values.append(value.item())
            gained = sum(values[-2 * WINDOW : -WINDOW]) / WINDOW - sum(values[-WINDOW:]) / WINDOW
        return gained, len(values)

    @torch.no_grad()
    def evaluate(self, rows: Tensor) -> tuple[float, float]:
        """I_Q(X2; Y | X1) on one batch, and how far Q is from its marginals."""
        logits, (first, second) = self._logits(rows), self._targets(rows)
        steps, error, q = self.training.sinkhorn_steps, math.inf, logits
        while error > 1e-7 and steps <= 320:
            q = sinkhorn(logits, first, second, steps)
            error = max(float((q.sum(2) - first).abs().max()), float((q.sum(1) - second).abs().max()))
            steps *= 2
        return conditional_information(q).item(), error

    def _logits(self, rows: Tensor) -> Float[Tensor, "y a b"]:
        first, second = (
            embed(x[rows]).reshape(len(rows), self.classes, WIDTH) for embed, x in zip(self.networks, self.sources, strict=True)
        )
        logits = torch.einsum("aye,bye->yab", first, second) / math.sqrt(WIDTH)
        return LOGIT_BOUND * torch.tanh(logits / LOGIT_BOUND)

    def _targets(self, rows: Tensor) -> tuple[Float[Tensor, "y a"], Float[Tensor, "y b"]]:
        """Marginals of a batch, brought to the same mass of every class (their mean), as a coupling needs."""
        first, second = (p[rows].T / len(rows) for p in self.marginals)
        masses = first.sum(1, keepdim=True), second.sum(1, keepdim=True)
        mean = (masses[0] + masses[1]) / 2
        return first * mean / masses[0], second * mean / masses[1]


def sinkhorn(
    logits: Float[Tensor, "y a b"], first: Float[Tensor, "y a"], second: Float[Tensor, "y b"], steps: int
) -> Float[Tensor, "y a b"]:
    """Scale rows and columns of exp(logits) per class until they sum to the marginals; rows are met exactly.

    Example:
        >>> half = torch.full((1, 2), 0.5)
        >>> sinkhorn(torch.zeros(1, 2, 2), half, half, steps=1)
        tensor([[[0.2500, 0.2500],
                 [0.2500, 0.2500]]])
    """
    kernel = torch.exp(logits - logits.amax((1, 2), keepdim=True))
    columns = torch.ones_like(second)[:, None]  # (y, 1, b)
    for _ in range(steps):
        rows = first[:, None] / (columns @ kernel.mT).clamp_min(TINY)
        columns = second[:, None] / (rows @ kernel).clamp_min(TINY)
    rows = first[:, None] / (columns @ kernel.mT).clamp_min(TINY)
    return rows.mT * kernel * columns


def conditional_information(q: Float[Tensor, "y a b"]) -> Float[Tensor, ""]:
    """I_Q(X2; Y | X1) = sum q log2( q_aby q_a / (q_ab q_ay) ), in bits.

    Example:
        >>> q = torch.tensor([[[0.25, 0.0], [0.25, 0.0]], [[0.0, 0.25], [0.0, 0.25]]])  # y = x2
        >>> conditional_information(q).item()
        1.0
    """
    pairs, first_and_class = q.sum(0), q.sum(2)
    above = (q * pairs.sum(1)[:, None]).clamp_min(TINY)
    below = (pairs * first_and_class[:, :, None]).clamp_min(TINY)
    return (q * (above.log2() - below.log2())).sum()
