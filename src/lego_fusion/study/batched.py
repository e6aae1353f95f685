"""Many detectors trained together on the same cached graphs: one step of all of them is a few matrix products.

The graphs hold no learned parameter, so their powers, and the products of powers of several graphs, are the same for every
configuration and every step. They are computed once, as a matrix Z of (terms, entries); S configurations then fuse with one
product, G = A Z, where row s of A holds the coefficients of configuration s and zeros beyond its own orders. Heads are one
batched product more. Every configuration keeps its own start, learning rate, weight decay and loss, so each ends where it would
have ended alone, up to rounding.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import DataError, ParameterError
from ..fusion.base import Fusion
from ..graph.expansion import powers
from ..graph.operator import JOINT_FORMS
from ..learn.bags import Bags, mean_over_crops
from ..learn.configuration import TrainingConfig
from ..learn.detector import Detector
from ..learn.objective import counted_entries, variance_difference
from ..learn.train import batch_rows, start_of_training
from .cells import Cell, SweepPlan

Mode = Literal["auto", "together", "alone"]
MODES: tuple[Mode, ...] = ("auto", "together", "alone")
MOST_TOGETHER = 32  # detectors in one matrix product: more do not fit the processor's cache
BYTES_TOGETHER = 2**28
BYTES_PER_ENTRY = 48  # fused graph, sorted rows, their places and the gradients of all three
MOST_TERMS = 256  # products of powers that are kept; a joint form with more multiplies its factors instead
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of torch.optim.AdamW, which trains a detector alone
_SHARED = ("steps", "batch_size", "pooling", "selection", "check_every")


def why_alone(detector: Detector, config: TrainingConfig) -> str | None:
    """Why a configuration cannot be trained together with others; None where it can."""
    fusion = detector.fusion
    operator, rows = fusion.operator, fusion.config().get("rows")
    if operator is None or rows is None:
        return f"the fusion '{fusion.kind}' hands on no rows of graphs"
    reasons = {
        f"rows='{rows}'": not fusion.has_frozen_stage or fusion.row_order is None,
        f"form='{operator.form}'": operator.form not in (*JOINT_FORMS, "full"),
        "a symmetric operator": operator.symmetric,
        "dropout of the head": detector.head_config["dropout"] > 0,
        "modality_dropout": config.modality_dropout > 0,
        "normal_only": config.normal_only,
        "operator_nonnegative": config.operator_nonnegative,
        "patience": config.patience is not None,
        "snapshots": config.snapshot_every is not None,
        f"precision='{config.precision}'": config.precision != "32-true",
        f"accelerator='{config.accelerator}'": config.accelerator != "cpu",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def bucket(detector: Detector, config: TrainingConfig) -> tuple[object, ...]:
    """Configurations with equal buckets take their steps together: equal readings but for the orders, the same batches, and the
    same kind of loss.
    """
    shared = tuple(getattr(config, name) for name in _SHARED)
    reading = {name: value for name, value in detector.fusion.config().items() if name not in ("order", "seed")}
    own = (json.dumps(reading, sort_keys=True), detector.head_config["hidden"])
    return (*own, *shared, None if config.batch_size is None else config.seed, config.degree_variance > 0)


def frozen_stage(fusion: Fusion, nodes: int) -> str:
    """Cells with equal answers share what the frozen stage of their fusions makes of the videos."""
    return json.dumps([fusion.frozen_config(), nodes], sort_keys=True)


def entries_of(plan: SweepPlan, dataset: Dataset, nodes: int) -> int:
    """Numbers in the graphs inside the videos of all training bags."""
    crops = max(dataset.modalities[name].crops for name in plan.modalities)
    return len(plan.split.train) * crops * nodes**2


def batches_of(
    plan: SweepPlan, dataset: Dataset, cells: Sequence[Cell], untrained: Callable[[Cell], Detector], mode: Mode
) -> tuple[list[tuple[str, bool, tuple[Cell, ...]]], list[str]]:
    """Which cells are trained in one go; a function of plan, data and mode alone.

    Args:
        plan: Of the cells.
        dataset: What they are trained on.
        cells: In order.
        untrained: Makes the untrained detector of a cell.
        mode: As for ``experiment.run_cells``.

    Returns:
        For each batch its frozen stage, whether it is trained together, and its cells; and remarks why some are trained alone.
    """
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    notes: Counter[str] = Counter()
    for number, cell in enumerate(cells):
        detector, settings = untrained(cell), plan.settings(cell)
        entries = entries_of(plan, dataset, settings.nodes)
        room = min(MOST_TOGETHER, BYTES_TOGETHER // (entries * BYTES_PER_ENTRY))
        stage, reason = frozen_stage(detector.fusion, settings.nodes), why_alone(detector, settings.training)
        if reason is None and mode == "auto" and room < 2:
            reason = f"graphs of {entries:,} entries, too large for several to fit in memory"
        if reason is not None and mode != "alone" and (detector.reading_head is None or mode == "together"):
            notes[reason] += 1
        if mode == "alone" or reason is not None:
            groups[stage, False, 1, number] = [((), number, cell)]
        else:
            orders = cast(Any, detector.fusion).operator.orders  # like orders share terms
            key = (stage, True, max(1, room), bucket(detector, settings.training))
            groups.setdefault(key, []).append((orders, number, cell))
    batches: list[tuple[str, bool, tuple[Cell, ...]]] = []
    for (stage, together, size, _), members in sorted(groups.items(), key=lambda one: one[0][0]):
        ordered = [cell for _, _, cell in sorted(members, key=lambda one: one[:2])]
        batches += [(stage, together, tuple(ordered[first : first + size])) for first in range(0, len(ordered), size)]
    return batches, [f"{count} trials are trained one by one: {reason}" for reason, count in notes.items()]


def fit_together(
    detectors: Sequence[Detector], train: Bags, configs: Sequence[TrainingConfig], *, validation: Bags | None = None
) -> None:
    """Train several detectors as ``train.fit`` trains each alone.

    Args:
        detectors: Of one fusion with equal statistics, form, rank and rows; orders and seeds may differ. Changed in place.
        train: Bags with cross-fitted graphs (``Bags.related``).
        configs: One for each detector, all of one ``bucket``.
        validation: Bags with graphs, for ``selection="validation"``.

    Raises:
        ParameterError: If there is no detector, they cannot be trained together, or configurations are of several buckets.
        DataError: If the bags hold one label only or no graphs, or validation bags are needed.
    """
    if not detectors or len(detectors) != len(configs):
        raise ParameterError("there is nothing to train together", got=f"{len(detectors)} detectors, {len(configs)} settings")
    reasons = [why_alone(detector, config) for detector, config in zip(detectors, configs, strict=True)]
    alone = next((reason for reason in reasons if reason), None)
    if alone or len({bucket(*pair) for pair in zip(detectors, configs, strict=True)}) > 1:
        raise ParameterError("these configurations cannot be trained together", got=alone or "different steps or readings")
    if not train.related or (validation is not None and not validation.related):
        raise DataError("training together needs graphs", got="bags of features", fix="build them with graph_cache")
    for detector, config in zip(detectors, configs, strict=True):
        start_of_training(detector, train, config, validation)
    _Together(detectors, train, configs, validation).run()


class _Together:
    """The state of S detectors in training: their parameters side by side, and Adam's moments."""

    def __init__(
        self, detectors: Sequence[Detector], train: Bags, configs: Sequence[TrainingConfig], validation: Bags | None
    ) -> None:
        self.detectors, self.configs, self.config = detectors, configs, configs[0]
        self.parameters = _Parameters(detectors)
        self.model = _Model(detectors, self.parameters)
        self.train, self.rows = train, batch_rows(train, self.config)
        self.expanded = self.model.expand(train)
        self.held_out = None if validation is None else (validation, self.model.expand(validation))
        self.loss = _Loss(configs, self.parameters)
        self.rate = _column(configs, "learning_rate")
        self.decay = _column(configs, "weight_decay")
        self.best = self.parameters.flat.clone()
        self.best_loss = torch.full((len(configs), 1), math.inf)

    def run(self) -> None:
        first, second = torch.zeros_like(self.parameters.flat), torch.zeros_like(self.parameters.flat)
        for step in range(self.config.steps):
            self._adam(first, second, self._gradient(step), step + 1)
            if self.held_out is not None and ((step + 1) % self.config.check_every == 0 or step + 1 == self.config.steps):
                self._look(*self.held_out)
        self.parameters.write_back(self.best if self.config.selection == "validation" else self.parameters.flat)

    def _gradient(self, step: int) -> Tensor:
        rows = self.rows(step)
        batch = self.train if rows is None else self.train.select(rows)
        leaves = self.parameters.leaves()
        graph, logits = self.model(leaves, self.expanded.select(rows, self.train.crops), batch)
        losses = self.loss(graph, logits, batch, leaves)
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).mul_(self.parameters.exists)

    def _adam(self, first: Tensor, second: Tensor, gradient: Tensor, step: int) -> None:
        """AdamW with a learning rate and a weight decay for each configuration."""
        flat = self.parameters.flat
        flat.mul_(1 - self.rate * self.decay)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        deviation = second.sqrt().div_(math.sqrt(1 - BETAS[1] ** step)).add_(EPSILON)
        flat.sub_(self.rate / (1 - BETAS[0] ** step) * first / deviation)

    @torch.no_grad()
    def _look(self, bags: Bags, expanded: _Expanded) -> None:
        _, logits = self.model(self.parameters.views(), expanded, bags)
        loss = self.loss.bags(logits, bags)[:, None]
        better = loss < self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best = torch.where(better, self.parameters.flat, self.best)


class _Parameters:
    """The parameters of S detectors as one matrix (S, n), those of smaller orders padded with zeros that stay zeros."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self.detectors = detectors
        own = [dict(detector.named_parameters()) for detector in detectors]
        self.shapes = {
            name: torch.Size(max(parts[name].shape[axis] for parts in own) for axis in range(own[0][name].ndim))
            for name in own[0]
        }
        self.flat = torch.cat(
            [torch.stack([_padded(parts[name].detach(), s).flatten() for parts in own]) for name, s in self.shapes.items()], 1
        )
        ones = [{name: torch.ones_like(tensor) for name, tensor in parts.items()} for parts in own]
        self.exists = torch.cat(
            [torch.stack([_padded(parts[name], s).flatten() for parts in ones]) for name, s in self.shapes.items()], 1
        )

    def views(self, flat: Tensor | None = None) -> dict[str, Tensor]:
        """Each parameter of all detectors, (S, ...), as a view."""
        source = self.flat if flat is None else flat
        parts = source.split([shape.numel() for shape in self.shapes.values()], dim=1)
        return {name: part.view(len(source), *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def leaves(self) -> dict[str, Tensor]:
        return {name: view.detach().requires_grad_() for name, view in self.views().items()}

    @torch.no_grad()
    def write_back(self, flat: Tensor) -> None:
        views = self.views(flat)
        for place, detector in enumerate(self.detectors):
            for name, parameter in detector.named_parameters():
                parameter.copy_(views[name][place][tuple(slice(size) for size in parameter.shape)])


@dataclass(frozen=True, eq=False)
class _Expanded:
    """What is made of graphs once: products of powers (terms, B, N * K), or the powers of each graph (P_m + 1, B, N * K)."""

    products: Tensor | None
    by_graph: tuple[Tensor, ...]

    def select(self, videos: Tensor | None, crops: int) -> _Expanded:
        if videos is None:
            return self
        bags = (videos[:, None] * crops + torch.arange(crops)).flatten()
        products = None if self.products is None else self.products[:, bags]
        return _Expanded(products, tuple(x[:, bags] for x in self.by_graph))


class _Model:
    """Fused graphs and logits of S detectors at once."""

    def __init__(self, detectors: Sequence[Detector], parameters: _Parameters) -> None:
        operators: list[Any] = [detector.fusion.operator for detector in detectors]
        self.operator = operators[0]
        self.sorted = detectors[0].fusion.row_order == "sorted"
        self.orders = [max(operator.orders[m] for operator in operators) for m in range(len(self.operator.names))]
        self.names = _operator_names(parameters)
        terms = math.prod(order + 1 for order in self.orders)
        self.multiplied = self.operator.form == "full" or terms <= MOST_TERMS

    def expand(self, bags: Bags) -> _Expanded:
        options: dict[str, Any] = {"expansion": self.operator.expansion, "zero_order": self.operator.zero_order}
        options |= {"normalisation": self.operator.normalisation, "square": True}
        by_graph = [
            torch.stack(powers(bags.inputs[name], order, **options)).flatten(2)
            for name, order in zip(self.operator.names, self.orders, strict=True)
        ]
        if not self.multiplied:
            return _Expanded(None, tuple(by_graph))
        return _Expanded(functools.reduce(_products, by_graph), ())

    def __call__(self, parameters: dict[str, Tensor], expanded: _Expanded, bags: Bags) -> tuple[Tensor, Tensor]:
        """Fused graphs (S, B, N, K) and logits (S, V, N)."""
        shape = next(iter(bags.inputs.values())).shape  # (B, N, K)
        graph = self._fused([parameters[name] for name in self.names], expanded).view(-1, *shape)
        rows = graph.sort(dim=-1, descending=True).values if self.sorted else graph
        rows = rows.flatten(1, 2)  # (S, B * N, K)
        weight, bias = parameters["head.first.weight"], parameters["head.first.bias"]
        hidden = torch.baddbmm(bias[:, None], rows, weight.transpose(1, 2)).relu()
        out = torch.baddbmm(parameters["head.second.bias"][:, None], hidden, parameters["head.second.weight"].transpose(1, 2))
        logits = out.view(-1, shape[1])  # (S * B, N)
        return graph, mean_over_crops(logits, bags.crops).view(len(graph), -1, shape[1])

    def _fused(self, coefficients: list[Tensor], expanded: _Expanded) -> Tensor:
        """(S, entries)."""
        if expanded.products is not None:
            return _dense(coefficients) @ expanded.products.flatten(1)
        values = []
        for factor, graph in zip(coefficients, expanded.by_graph, strict=True):
            values.append((factor.flatten(0, 1) @ graph.flatten(1)).view(*factor.shape[:2], -1))  # (S, rank, entries)
        return functools.reduce(torch.mul, values).sum(1)


class _Loss:
    """The loss of each configuration, (S,), from the logits and fused graphs of all."""

    def __init__(self, configs: Sequence[TrainingConfig], parameters: _Parameters) -> None:
        self.configs, self.config = configs, configs[0]
        self.k = _column(configs, "k").long()
        self.weights = {name: _column(configs, name)[:, 0] for name in ("smoothness", "sparsity", "degree_variance")}
        self.penalties = {name: _column(configs, f"operator_{name}")[:, 0] for name in ("sparsity", "order_decay")}
        self.degree_k = _column(configs, "degree_k").long()
        self.operator = _operator_names(parameters)
        self.order = _term_orders([parameters.shapes[name] for name in self.operator])

    def __call__(self, graph: Tensor, logits: Tensor, batch: Bags, leaves: dict[str, Tensor]) -> Tensor:
        loss = self.bags(logits, batch)
        scores = logits.sigmoid()
        if bool(self.weights["smoothness"].any()):
            loss = loss + self.weights["smoothness"] * scores.diff(dim=2).square().sum(2).mean(1)
        if bool(self.weights["sparsity"].any()):
            loss = loss + self.weights["sparsity"] * scores.sum(2).mean(1)
        if bool(self.weights["degree_variance"].any()):
            loss = loss + self.weights["degree_variance"] * self._degree_variance(graph, batch.bag_labels)
        if any(bool(weight.any()) for weight in self.penalties.values()):
            loss = loss + self._operator_penalty([leaves[name] for name in self.operator])
        return loss

    def bags(self, logits: Float[Tensor, "s v n"], batch: Bags) -> Float[Tensor, " s"]:
        """Mean over bags of the cross-entropy of their k highest scores (``objective.bag_loss``)."""
        nodes = logits.shape[2]
        wanted = {"top-k": self.k, "max": torch.ones_like(self.k), "mean": torch.full_like(self.k, nodes)}
        k = wanted[self.config.pooling].clamp(max=nodes)  # (S, 1)
        top = logits.topk(int(k.max()), dim=2).values
        signed = torch.where(batch.labels[:, None], top, -top)
        counted = torch.arange(top.shape[2]) < k  # (S, most)
        log_scores = torch.nn.functional.logsigmoid(signed).masked_fill(~counted[:, None], -math.inf)
        return (k.to(logits.dtype).log() - log_scores.logsumexp(2)).mean(1)

    def _degree_variance(self, graph: Tensor, labels: Tensor) -> Tensor:
        entries = [
            counted_entries(one, labels, threshold=config.degree_threshold, quantile=config.degree_quantile)
            for one, config in zip(graph, self.configs, strict=True)
        ]
        degree = torch.stack(entries).sum(3) / graph.shape[3]  # (S, B, N)
        normal = degree[:, ~labels].var(2, unbiased=False).mean(1)
        k = self.degree_k.clamp(max=degree.shape[2])
        top = degree[:, labels].topk(int(k.max()), dim=2).values
        counted = (torch.arange(top.shape[2]) < k)[:, None]
        mean = (top * counted).sum(2, keepdim=True) / k[:, None]
        abnormal = (((top - mean).square() * counted).sum(2) / k).mean(1)
        relative = torch.tensor([config.degree_threshold is None for config in self.configs])
        ours, paper = (variance_difference(normal, abnormal, relative=wanted) for wanted in (True, False))
        return torch.where(relative, ours, paper)

    def _operator_penalty(self, coefficients: list[Tensor]) -> Tensor:
        """``objective.operator_penalty`` of each configuration."""
        learned = _dense(coefficients) * (self.order > 0)
        size, squares = learned.abs().sum(1), (2 ** (self.order - 1) * learned.square()).sum(1)
        return self.penalties["sparsity"] * size + self.penalties["order_decay"] * squares


def _operator_names(parameters: _Parameters) -> list[str]:
    return [name for name in parameters.shapes if name.startswith("fusion.operator.")]


def _dense(coefficients: Sequence[Tensor]) -> Tensor:
    """Coefficient of every product of powers, (S, terms): of A (S, P + 1, Q + 1), or of factors (S, rank, P_m + 1)."""
    if len(coefficients) == 1:  # a single graph has one factor of rank 1
        return coefficients[0].flatten(1)
    return functools.reduce(lambda a, b: (a[..., None] * b[:, :, None]).flatten(2), coefficients).sum(1)


def _term_orders(shapes: Sequence[torch.Size]) -> Tensor:
    """Order p + q + ... of every term of ``_dense``, (terms,)."""
    sizes = list(shapes[0]) if len(shapes) == 1 else [shape[-1] for shape in shapes]
    sizes = sizes[1:] if len(shapes) == 1 and sizes[0] == 1 else sizes
    axes = [torch.arange(size, dtype=torch.float32) for size in sizes]
    return functools.reduce(lambda a, b: (a[:, None] + b).flatten(), axes)


def _products(first: Tensor, second: Tensor) -> Tensor:
    """All products of two stacks of powers: (p, ...) and (q, ...) -> (p * q, ...)."""
    return (first[:, None] * second).flatten(0, 1)


def _padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    missing = [(0, size - have) for have, size in zip(tensor.shape, shape, strict=True)]
    return torch.nn.functional.pad(tensor, [number for pair in reversed(missing) for number in pair])


def _column(configs: Sequence[TrainingConfig], name: str) -> Tensor:
    """A setting of each configuration, (S, 1)."""
    return torch.tensor([[float(getattr(config, name))] for config in configs])
