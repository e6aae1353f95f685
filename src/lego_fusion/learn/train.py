"""Training a detector from bags: seeded, resumable, and selected by a rule fixed beforehand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, ParameterError
from ..fusion.base import Fusion
from ..fusion.reading_head import Priors
from ..graph.operator import GraphOperator
from .bags import Bags, is_cached, mean_over_crops, scoring_inputs, segment_outputs, training_inputs, without_graphs
from .checkpoint import load_training_state, save_snapshot, save_training_state
from .conditions import ModalityDropout
from .configuration import TrainingConfig, TrainingState
from .detector import Detector, DetectorOutput
from .objective import all_weights, bag_loss, degree_variance, most_probable, operator_penalty, smoothness, sparsity
from .processes import SINGLE_PROCESS, Ranks, SharedForward, current_ranks

NODES = "nodes"  # of bags that hold node vectors


def fit(
    detector: Detector,
    train: Bags,
    config: TrainingConfig,
    *,
    validation: Bags | None = None,
    checkpoint: Path | None = None,
    snapshots: Path | None = None,
    on_start: Callable[[], None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> TrainingState:
    """Train a detector, whose fusion's statistics are fitted, on bags with features.

    The frozen stage is computed once, and each step is one pass over what it gave. A head with priors (``lego``) is fitted to
    the sum of all bag losses by L-BFGS (``objective``); all others take steps of Adam. With a ``checkpoint`` path, a run of
    Adam that was killed goes on from there and ends with the same weights as one that was not; the other takes seconds and
    starts again.

    Args:
        detector: Changed in place.
        train: Bags of both labels (``normal_only``: the abnormal ones are left out), with features or, ``related``, with the
            cross-fitted graphs of a cache.
        config: See ``TrainingConfig``.
        validation: Bags for ``selection="validation"``, of either kind; never test bags.
        checkpoint: File for the state of the run.
        snapshots: Folder for the weights at the start, every ``config.snapshot_every`` steps and at the end of training
            (before ``selection="validation"`` goes back to an earlier step); a run that goes on writes the same ones again.
        on_start: Called before the first step.
        on_step: Called with the step and the loss.
        ranks: Processes that train this detector together on the same bags: each takes its share of every batch, the loss is
            that of the whole batch, and the weights are those of one process but for rounding. The first writes the files.
            Networks whose bags depend on each other or on chance (batch normalisation, dropout) see whole batches in each.

    Returns:
        The final state, with the history of losses.

    Raises:
        DataError: If the training bags hold one label only (and ``normal_only`` is off).
        ParameterError: If ``normal_only`` meets a fusion that would stay at random, or a setting of the operator a fusion
            that learns none.
    """
    if config.normal_only:
        if detector.reading_head is None:
            fix = "use method 'lego', or give abnormal videos too"
            raise ParameterError("normal_only needs a fusion that knows what is abnormal before training", fix=fix)
        train = train.select((~train.labels).nonzero()[:, 0])
    start_of_training(detector, train, config, validation)
    if on_start is not None:
        on_start()
    keep = _snapshots(detector, snapshots if ranks.first else None, config)
    keep(0)
    state = TrainingState()
    if config.steps == 0 or config.normal_only:
        return state
    bags = training_inputs(detector.fusion, train)
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator; the caller's stays as it was
        torch.manual_seed(config.seed)
        dropout = _modality_dropout(detector, train, config)
        if detector.reading_head is not None:
            return _most_probable(detector, bags, config, state, validation, keep, on_step, dropout, ranks)
        return _optimise(detector, bags, config, state, validation, checkpoint, keep, on_step, dropout, ranks)


def start_of_training(detector: Detector, train: Bags, config: TrainingConfig, validation: Bags | None) -> None:
    """Check labels and settings, and put the operator where they want it."""
    _check_labels(train, config, validation)
    operator = _regularised_operator(detector, config)
    if operator is not None and config.operator_nonnegative:
        operator.project_nonnegative()


@torch.no_grad()
def predict(detector: Detector, bags: Bags, *, dropped: Sequence[str] = ()) -> Tensor:
    """Segment scores in [0, 1] of bags with features, (V, N) float64: sigmoid of the mean logit over crops.

    ``dropped`` names modalities whose graphs are left out of the operator (``bags.without_graphs``).
    """
    return predict_logits(detector, bags, dropped=dropped).double().sigmoid()


@torch.no_grad()
def predict_logits(detector: Detector, bags: Bags, *, dropped: Sequence[str] = ()) -> Tensor:
    """Segment logits of bags with features, (V, N), the mean over crops; what is masked has none."""
    was_training = detector.training
    detector.eval()
    inputs = scoring_inputs(detector.fusion, _like(bags, detector))
    if dropped:
        inputs = without_graphs(detector.fusion, inputs, dropped)
    logits = segment_outputs(detector, detector.fusion, inputs).logits
    detector.train(was_training)
    return mean_over_crops(logits, inputs.crops).cpu()  # the frozen stage may have taken the mean already


def _most_probable(
    detector: Detector,
    bags: Bags,
    config: TrainingConfig,
    state: TrainingState,
    validation: Bags | None,
    keep: Callable[[int], object],
    on_step: Callable[[int, float], None] | None,
    dropout: ModalityDropout | None,
    ranks: Ranks,
) -> TrainingState:
    """Fit a head with priors to the sum of bag losses."""
    head = detector.reading_head
    if head is None:
        raise TypeError(type(detector.head))  # for the type checker: fit() asks
    device = _device(config)
    detector.to(device)
    bags = _on_device(bags, device)
    held_out = None if validation is None else scoring_inputs(detector.fusion, _like(validation, detector))
    variants = [(1.0, bags)] if dropout is None else dropout.expected(bags)
    model: Callable[..., DetectorOutput] = detector
    if is_cached(detector.fusion, bags) and not any(parameter.requires_grad for parameter in detector.fusion.parameters()):
        model = OnNodes(detector)  # the same at every step
        variants = [(weight, replace(part, inputs={NODES: _nodes(detector, part)})) for weight, part in variants]
        bags = variants[0][1]
    shared = model if ranks.size == 1 else SharedForward(model, detector, ranks)
    priors = Priors(config.prior_orders, config.prior_departure, config.prior_invariance, config.prior_bias)
    normal = bags.select((~bags.labels).nonzero()[:, 0].cpu())
    usual = head.usual(_nodes(detector, normal), normal.mask) if len(normal.videos) else None
    operator = _regularised_operator(detector, config)
    prior_of_operator = OperatorPrior(detector.fusion, config.prior_orders)
    detector.train()

    def learned() -> list[torch.nn.Parameter]:
        return [parameter for parameter in detector.parameters() if parameter.requires_grad]

    def objective() -> Tensor:
        losses = [weight * _loss(shared, detector.fusion, part, config).sum() for weight, part in variants]
        price = head.penalty(priors, usual) + prior_of_operator.penalty()
        if operator is not None:
            price = price + _operator_loss(operator, config)
        others = price.detach() * (1 - 1 / ranks.size)  # gradients are added over the processes, values are not
        return torch.stack(losses).sum() + price / ranks.size + others

    def look(step: int, value: float) -> None:
        state.step = step
        state.history.append({"step": step, "loss": value})
        if held_out is not None:
            _look(detector, detector, held_out, config, state)
        if config.snapshot_every is not None:
            keep(step)
        if on_step is not None:
            on_step(step, value)

    most_probable(
        head,
        lambda: all_weights(detector),
        detector.load_state_dict,
        learned,
        objective,
        priors=priors,
        gain=config.own_world_gain,
        iterations=config.iterations,
        add_gradients=lambda parameters: None if ranks.size == 1 else ranks.add_gradients(list(parameters)),
        on_iteration=look,
    )
    if operator is not None and config.operator_nonnegative:
        operator.project_nonnegative()
    keep(state.step)
    if config.selection == "validation" and state.best:
        detector.load_state_dict(state.best)
    detector.to("cpu")
    return state


class OnNodes:
    """The head of a detector alone, called like the detector, on node vectors that were computed before.

    Args:
        detector: Whose head it is.
    """

    def __init__(self, detector: Detector) -> None:
        self.head = detector.head

    def __call__(self, inputs: Mapping[str, Tensor], mask: Tensor | None = None, **options: object) -> DetectorOutput:
        """Logits of the nodes; there is no graph."""
        return DetectorOutput(self.head(inputs[NODES], mask), None)


@torch.no_grad()
def _nodes(detector: Detector, bags: Bags) -> Tensor:
    """Vectors of the nodes of bags."""
    if NODES in bags.inputs:
        return bags.inputs[NODES]
    return detector.fusion(bags.inputs, bags.mask).nodes


def _device(config: TrainingConfig) -> torch.device:
    if config.accelerator == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device({"gpu": "cuda"}.get(config.accelerator, config.accelerator))


class OperatorPrior:
    """Normal prior of a learned operator's coefficients around their start, with the deviation of the orders' weights."""

    def __init__(self, fusion: Fusion, deviation: float) -> None:
        everything = [] if fusion.operator is None else list(fusion.operator.parameters())
        self.parameters = [parameter for parameter in everything if parameter.requires_grad]
        self.starts = [parameter.detach().clone() for parameter in self.parameters]
        self.deviation = deviation

    def penalty(self) -> Tensor:
        """The price of where the coefficients are now."""
        moved = [(p - start).square().sum() for p, start in zip(self.parameters, self.starts, strict=True)]
        return torch.stack(moved).sum() / (2 * self.deviation**2) if moved else torch.zeros(())


def _optimise(
    detector: Detector,
    bags: Bags,
    config: TrainingConfig,
    state: TrainingState,
    validation: Bags | None,
    checkpoint: Path | None,
    keep: Callable[[int], object],
    on_step: Callable[[int, float], None] | None,
    dropout: ModalityDropout | None,
    ranks: Ranks,
) -> TrainingState:
    from lightning_fabric import Fabric  # takes half a second to import, and scoring does not need it

    devices: Any = [current_ranks().local_rank] if config.accelerator == "cuda" else 1
    fabric = Fabric(accelerator=config.accelerator, devices=devices, precision=config.precision)
    parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    operator = _regularised_operator(detector, config)
    adam = torch.optim.AdamW(detector.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    model, optimiser = fabric.setup(detector, adam)
    if checkpoint is not None and checkpoint.exists():
        load_training_state(checkpoint, detector, adam, state)
    bags = _on_device(bags, fabric.device)
    held_out = None if validation is None else scoring_inputs(detector.fusion, _like(validation, detector))
    batches = _batches(bags, config)
    shared = model if ranks.size == 1 else SharedForward(model, detector, ranks)
    model.train()
    while state.step < config.steps and not _out_of_patience(state, config):
        batch = batches(state.step)
        if dropout is not None:
            batch = dropout(batch, state.step)
        loss = _loss(shared, detector.fusion, batch, config).mean()
        beside = 0.0 if operator is None else _operator_loss(operator, config)
        optimiser.zero_grad()
        fabric.backward(loss + beside / ranks.size)
        ranks.add_gradients(parameters)
        optimiser.step()
        loss = loss + beside
        if operator is not None and config.operator_nonnegative:
            operator.project_nonnegative()
        state.step += 1
        state.history.append({"step": state.step, "loss": float(loss.detach())})
        if held_out is not None and (state.step % config.check_every == 0 or state.step == config.steps):
            _look(model, detector, held_out, config, state)
        if config.snapshot_every is not None and state.step % config.snapshot_every == 0:
            keep(state.step)
        if on_step is not None:
            on_step(state.step, float(loss.detach()))
        if checkpoint is not None and ranks.first and state.step % config.checkpoint_every == 0:
            save_training_state(checkpoint, detector, adam, state)
    keep(state.step)
    if config.selection == "validation" and state.best:
        detector.load_state_dict(state.best)
    detector.to("cpu")
    return state


def _modality_dropout(detector: Detector, train: Bags, config: TrainingConfig) -> ModalityDropout | None:
    if config.modality_dropout == 0:
        return None
    if train.mask is not None:
        fix = "leave modality_dropout out"
        raise ParameterError("modality dropout is not defined for segments of a fixed duration", fix=fix)
    if train.related:
        raise ParameterError("modality dropout needs features, and these bags hold cached graphs", fix="use no cache")
    probability, removal = config.modality_dropout, config.modality_removal
    return ModalityDropout(detector.fusion, train, probability, removal, seed=config.seed)


def _snapshots(detector: Detector, folder: Path | None, config: TrainingConfig) -> Callable[[int], object]:
    """Step -> the weights of that step are on disk, if they were asked for."""
    if folder is None or config.snapshot_every is None:
        return lambda _: None
    return functools.partial(save_snapshot, folder, detector)


def _regularised_operator(detector: Detector, config: TrainingConfig) -> GraphOperator | None:
    """The operator that settings of ``config`` concern; None where all of them are off."""
    settings = ("operator_sparsity", "operator_order_decay", "operator_nonnegative")
    chosen = [name for name in settings if getattr(config, name)]
    if not chosen:
        return None
    if not detector.fusion.learns_operator:
        raise ParameterError(
            f"{chosen[0]} is about the coefficients of a learned operator",
            expected="method 'lego-paper', or 'lego' with operator 'learned'",
            got=f"'{detector.fusion.kind}', which learns none",
            fix="leave it out",
        )
    return detector.fusion.operator


def _operator_loss(operator: GraphOperator, config: TrainingConfig) -> Tensor:
    weights = {"sparsity": config.operator_sparsity, "order_decay": config.operator_order_decay}
    return operator_penalty(operator.dense_coefficients(), **weights)


def _loss(model: Any, fusion: Fusion, batch: Bags, config: TrainingConfig) -> Tensor:
    """Loss per video, (V,)."""
    output = segment_outputs(model, fusion, batch)
    logits = mean_over_crops(output.logits, batch.crops)
    mask = None if batch.mask is None else batch.mask[:: batch.crops]
    loss = bag_loss(logits, batch.labels, mask, pooling=config.pooling, k=config.k)
    if config.smoothness:
        loss = loss + config.smoothness * smoothness(logits, mask)
    if config.sparsity:
        loss = loss + config.sparsity * sparsity(logits, mask)
    if config.degree_variance:
        if output.graph is None:
            raise DataError("degree variance needs a fused graph", got="a fusion without one", fix="set its weight to 0")
        alpha = {"threshold": config.degree_threshold, "quantile": config.degree_quantile}
        options: dict[str, Any] = {**alpha, "k": config.degree_k}
        if batch.mask is not None:
            options |= {"mask": batch.mask, "square": False}
        loss = loss + config.degree_variance * degree_variance(output.graph, batch.bag_labels, **options)
    return loss


def _look(model: Any, detector: Detector, held_out: Bags, config: TrainingConfig, state: TrainingState) -> None:
    """Measure the validation loss and keep the weights if it is the lowest so far."""
    model.eval()
    with torch.no_grad():
        plain = config.model_copy(update={"degree_variance": 0.0, "smoothness": 0.0, "sparsity": 0.0})
        loss = float(_loss(model, detector.fusion, held_out, plain).mean())
    model.train()
    state.history[-1]["validation_loss"] = loss
    if loss < state.best_loss:
        state.best_loss, state.best_step, state.looks_without_gain = loss, state.step, 0
        state.best = {name: tensor.detach().cpu().clone() for name, tensor in detector.state_dict().items()}
    else:
        state.looks_without_gain += 1


def _out_of_patience(state: TrainingState, config: TrainingConfig) -> bool:
    return config.patience is not None and state.looks_without_gain >= config.patience


def _batches(bags: Bags, config: TrainingConfig) -> Callable[[int], Bags]:
    """Step -> the batch of that step."""
    rows = batch_rows(bags, config)

    def batch(step: int) -> Bags:
        chosen = rows(step)
        return bags if chosen is None else bags.select(chosen)

    return batch


def batch_rows(bags: Bags, config: TrainingConfig) -> Callable[[int], Tensor | None]:
    """Step -> the videos of that step's batch, by index; None for all of them.

    It is a function of seed and step alone, so that a resumed run sees the same ones. Each label has its share of every
    batch, at least one bag; each is gone through in a new random order every round.
    """
    size = config.batch_size
    if size is None or size >= len(bags.videos):
        return lambda _: None
    groups = [(bags.labels == label).nonzero()[:, 0] for label in (False, True)]
    abnormal = min(size - 1, max(1, round(size * len(groups[1]) / len(bags.videos))))
    shares = (size - abnormal, abnormal)

    def rows(step: int) -> Tensor:
        chosen = [
            torch.stack([_nth(group, step * share + place, config.seed, label) for place in range(share)])
            for label, (group, share) in enumerate(zip(groups, shares, strict=True))
        ]
        return torch.cat(chosen).cpu()

    return rows


def _nth(group: Tensor, position: int, seed: int, label: int) -> Tensor:
    """The position-th bag of an endless sequence of random orders of a group."""
    round_number, place = divmod(position, len(group))
    generator = torch.Generator().manual_seed((seed * 2 + label) * 1_000_003 + round_number)
    return group[torch.randperm(len(group), generator=generator)[place]]


def _on_device(bags: Bags, device: torch.device) -> Bags:
    inputs = {name: tensor.to(device) for name, tensor in bags.inputs.items()}
    mask = None if bags.mask is None else bags.mask.to(device)
    return replace(bags, labels=bags.labels.to(device), inputs=inputs, mask=mask)


def _like(bags: Bags, detector: Detector) -> Bags:
    """Bags on the device and in the precision of a detector."""
    weights = next(detector.parameters())
    bags = _on_device(bags, weights.device)
    return replace(bags, inputs={name: tensor.to(weights) for name, tensor in bags.inputs.items()})


def _check_labels(train: Bags, config: TrainingConfig, validation: Bags | None) -> None:
    sets = [("training", train)] + ([("validation", validation)] if validation is not None else [])
    for what, bags in sets:
        have = {bool(label) for label in bags.labels}
        wanted = {False} if config.normal_only else {False, True}
        if not wanted <= have:
            absent = "abnormal" if False in have else "normal"
            raise DataError(
                f"the {what} videos hold one class only",
                expected="normal and abnormal videos",
                got=f"{len(bags.videos)} videos, none {absent}",
                fix="label some videos, or train with normal_only where all are normal"
                if absent == "abnormal"
                else "add normal videos",
            )
    if config.selection == "validation" and validation is None:
        raise DataError("selection='validation' needs validation videos", got="none", fix="hold some training videos out")
    if config.patience is not None and validation is None:
        raise DataError("patience needs validation videos to look at", got="none", fix="hold some out, or leave patience out")
