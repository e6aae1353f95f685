"""What a training is set to and where it stands: every number that decides the weights, and the state of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ..measure.smoothing import SMOOTHING
from .conditions import Removal
from .objective import Pooling


class TrainingConfig(BaseModel):
    """Everything that changes a trained detector, besides its data and its own configuration.

    Args:
        steps: Optimiser steps; 0 leaves the start as it is.
        learning_rate: Of Adam.
        iterations: Most iterations of L-BFGS, for fusions whose head has priors (``lego``); they have no learning rate, no
            weight decay, no batches, and nothing random. With ``steps=0`` they stay at their start too.
        prior_departure: Deviation of the normal prior on the weights of their departure: how far labels are trusted to say
            which way of being unlike the known normals is abnormal.
        prior_invariance: How much less they are trusted along directions in which normal segments vary (``Priors``); 0 is off.
        prior_orders: Deviation of the prior on the logarithm of the weights of their degrees.
        prior_bias: Deviation of the prior on their bias.
        own_world_gain: Nats by which "unlike the rest of the own video" has to explain the labels better than "unlike the
            known normals" alone, both by their degrees, before it is used; None never uses it.
        weight_decay: Decoupled pull towards zero.
        batch_size: Bags per step, drawn by label in the proportion of the training set; None takes all.
        pooling: Bag score, ``"top-k"``, ``"max"`` or ``"mean"``.
        k: Segments of ``"top-k"``.
        degree_variance: Weight lambda of the degree-variance term.
        degree_quantile: Its alpha, as a quantile of the fused graph's entries of normal bags.
        degree_threshold: An absolute alpha in its place, 0.8 in the paper, which few entries of most graphs reach; None is off.
        degree_k: Its k.
        smoothness: Weight of the smoothness term.
        sparsity: Weight of the sparsity term.
        operator_sparsity: Weight of sum |A_t| over the coefficients of order >= 1 (``objective.operator_penalty``); 0 is off.
            It and the next two make a learned A easier to read, for fusions that learn one.
        operator_order_decay: Weight of sum 2^(order - 1) A_t^2, so that higher orders pay more; 0 is off.
        operator_nonnegative: Set negative coefficients (factors, for the joint form) to zero at the start and after each step.
        selection: ``"last-step"``, or ``"validation"``: the step with the lowest validation loss, seen every ``check_every``.
        check_every: Steps between looks at the validation bags.
        patience: Looks without improvement after which training stops; None never stops early.
        checkpoint_every: Steps between checkpoints, where there is a folder for them.
        modality_dropout: Probability in [0, 1) that a video has one of its modalities removed in a step; never all.
        modality_removal: What is left of it: ``"mean"``, ``"zero"``, ``"permute"`` or ``"drop-term"`` (``conditions``).
        snapshot_every: Steps between snapshots of the weights, where there is a folder for them (a fit of L-BFGS keeps those
            of every ten iterations, whatever the number); None keeps none.
        normal_only: Use no abnormal bag: what is known of normals is the model, and nothing is learned.
        seed: Of the head, the operator and the batches.
        accelerator: Lightning Fabric's, ``"cpu"``, ``"cuda"`` or ``"auto"``.
        precision: Lightning Fabric's, for example ``"32-true"`` or ``"bf16-mixed"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=300, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    iterations: int = Field(default=60, ge=1)
    prior_departure: float = Field(default=3.0, gt=0)
    prior_invariance: float = Field(default=60.0, ge=0)
    prior_orders: float = Field(default=0.5, gt=0)
    prior_bias: float = Field(default=3.0, gt=0)
    own_world_gain: float | None = Field(default=2.0, ge=0)
    weight_decay: float = Field(default=5e-3, ge=0)
    batch_size: int | None = Field(default=None, ge=2)
    pooling: Pooling = "top-k"
    k: int = Field(default=3, ge=1)
    degree_variance: float = Field(default=0.0, ge=0)
    degree_quantile: float = Field(default=0.9, ge=0, le=1)
    degree_threshold: float | None = None
    degree_k: int = Field(default=17, ge=1)
    smoothness: float = Field(default=0.0, ge=0)
    sparsity: float = Field(default=0.0, ge=0)
    operator_sparsity: float = Field(default=0.0, ge=0)
    operator_order_decay: float = Field(default=0.0, ge=0)
    operator_nonnegative: bool = False
    selection: Literal["last-step", "validation"] = "last-step"
    check_every: int = Field(default=10, ge=1)
    patience: int | None = Field(default=None, ge=1)
    checkpoint_every: int = Field(default=50, ge=1)
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    modality_removal: Removal = "mean"
    snapshot_every: int | None = Field(default=None, ge=1)
    normal_only: bool = False
    seed: int = Field(default=0, ge=0)
    accelerator: str = "cpu"
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"


@dataclass
class TrainingState:
    """What a run needs to go on where it stopped: everything but the data and the configuration."""

    step: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    looks_without_gain: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    """What is trained: fusion, segments, head and training, beside the data.

    Args:
        modalities: Feature sets to fuse, in the order that orients the operator; all of the dataset's by default.
        method: One of ``methods.LEARNED``: ``"lego"``, ``"lego-paper"`` or a baseline by name, such as ``"concat"``.
        training: Training configuration.
        nodes: N, segments per video; with ``segment_snippets`` the segments of a window.
        segment_snippets: Snippets of a segment, for a model that can score a stream: a bag is then a video of as many
            segments as it lasts, each scored from the N segments up to it. None cuts each video into N equal spans.
        smoothing: Of its scores, in seconds (``measure.smoothing``); 0 for none.
        hidden: Width of the head.
        validation: Share of the training videos of each label to hold out; with 0 the split's own validation videos count.
        options: Arguments of the fusion that differ from its defaults, by name, such as ``{"references": 512}``.

    Example:
        >>> TrainConfig(modalities=("motion", "text"), nodes=16).training.seed
        0
    """

    modalities: Sequence[str] = ()
    method: str = "lego"
    options: Mapping[str, Any] | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    nodes: int = 32
    hidden: int = 32
    segment_snippets: int | None = None
    smoothing: float = SMOOTHING
    validation: float = 0.0
