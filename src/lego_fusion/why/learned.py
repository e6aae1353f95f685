"""What a saved detector learned: its weights, what its operator does with the graphs it is given, and how that came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import CheckpointError, DataError, ParameterError
from ..explain.terms import ShareHistory, coefficient_spread, share_history, summarise_operator, variance_shares
from ..fusion.base import Fusion
from ..learn.bags import training_inputs
from ..learn.checkpoint import RunConfig, list_snapshots, load_detector, load_snapshot
from ..learn.detector import Detector
from ..learn.scoring import require_same_features
from .localise import require_same_references, training_bags
from .parts import operator_of, terms_of

_MOST_BAGS = 64  # that the variation of the fused graph is measured on


@dataclass(frozen=True)
class ReadingWeights:
    """What a head that is a sum of readable parts has learned.

    Args:
        rows: Modalities, and the fused graph where its degree is read.
        orders: Powers of the degrees.
        degrees: Weight A of each degree by row, one for each power; 1 is the start, 0 is never reached.
        own: The same in the graph inside the video, by modality; empty where the own world is not used.
        departure: Length of the weights of the departure by modality; 0 where labels taught nothing.
        alpha: Share of the own world, in [0, 1].
        world: Which world the model lives in, in words.
    """

    rows: tuple[str, ...]
    orders: tuple[int, ...]
    degrees: dict[str, tuple[float, ...]]
    own: dict[str, tuple[float, ...]]
    departure: dict[str, float]
    alpha: float
    world: str

    def document(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {**vars(self), "degrees": dict(self.degrees), "own": dict(self.own)}


def reading_weights(detector: Detector) -> ReadingWeights | None:
    """The weights of a detector's head, where it is a sum of readable parts; else None.

    Example:
        >>> from lego_fusion.fusion.lego import LegoFusion
        >>> found = reading_weights(Detector(LegoFusion({"motion": 8, "text": 4})))
        >>> found.degrees, found.departure, found.alpha
        ({'motion': (1.0, 1.0), 'text': (1.0, 1.0)}, {'motion': 0.0, 'text': 0.0}, 0.0)
    """
    head = detector.reading_head
    if head is None:
        return None
    layout = head.layout
    with torch.no_grad():
        degrees = dict(zip(layout.rows, map(tuple, head.log_a.exp().tolist()), strict=True))
        own = dict(zip(layout.inside, map(tuple, head.own_log_a.exp().tolist()), strict=True))
        parts = head.weights.split(list(layout.widths.values()))
        lengths = dict(zip(layout.widths, (float(part.norm()) for part in parts), strict=True))
        return ReadingWeights(
            layout.rows,
            layout.orders,
            degrees,
            own if bool(head.own_world) else {},
            lengths,
            float(head.alpha),
            head.world,
        )


@dataclass(frozen=True)
class CoefficientRow:
    """One term of the operator.

    Args:
        powers: Of each modality.
        coefficient: Mean over the runs.
        deviation: Standard deviation over the runs; None for one run.
        agreement: Share of the runs whose sign is that of the mean; None for one run.
        variance_share: Share of the variation of the fused graph, cov(term, G) / var(G), mean over the runs.
    """

    powers: dict[str, int]
    coefficient: float
    deviation: float | None
    agreement: float | None
    variance_share: float


@dataclass(frozen=True)
class OperatorExplanation:
    """What the operator of one run, or of several that differ in their seed, does with the training relations.

    Args:
        runs: Names of the run folders.
        seeds: Of each.
        sentences: One per run.
        rows: Every term, the largest share of the variation first.
        by_support: Share of the variation by set of modalities, mean over the runs.
        by_order: And by total order.
    """

    runs: tuple[str, ...]
    seeds: tuple[str, ...]
    sentences: tuple[str, ...]
    rows: tuple[CoefficientRow, ...]
    by_support: dict[tuple[str, ...], float]
    by_order: dict[int, float]

    def document(self) -> dict[str, Any]:
        """Everything as JSON values."""
        document: dict[str, Any] = {"runs": list(self.runs), "seeds": list(self.seeds), "sentences": list(self.sentences)}
        document["coefficients"] = [vars(row) for row in self.rows]
        document["variance_by_support"] = {" x ".join(key) or "constant": share for key, share in self.by_support.items()}
        document["variance_by_order"] = {str(order): share for order, share in self.by_order.items()}
        return document


def explain_operator(run_folders: Sequence[str | Path], dataset: Dataset) -> OperatorExplanation:
    """Read the operator of a run on its (cross-fitted) training relations; of several runs also the spread over seeds.

    Args:
        run_folders: Run folders that differ in their seed.
        dataset: The dataset they were trained on.

    Raises:
        ParameterError: If a run has no learned graph operator.
        DataError: If the runs differ in modalities or orders, or the dataset is another one.
    """
    if not run_folders:
        raise DataError("there is no run to explain", expected="at least one run folder")
    read = [_read_operator(Path(folder), dataset) for folder in run_folders]
    operators = [operator_of(one.fusion) for one in read]
    spread = coefficient_spread(operators) if len(read) > 1 else None
    exponents = list(read[0].shares)
    rows: list[CoefficientRow] = []
    by_support: dict[tuple[str, ...], float] = {}
    by_order: dict[int, float] = {}
    for place, powers in enumerate(exponents):
        share = sum(one.shares[powers] for one in read) / len(read)
        named = {name: power for name, power in zip(operators[0].names, powers, strict=True) if power}
        support = tuple(named)
        by_support[support] = by_support.get(support, 0.0) + share
        by_order[sum(powers)] = by_order.get(sum(powers), 0.0) + share
        with torch.no_grad():
            alone = float(operators[0].dense_coefficients()[powers])
        mean = alone if spread is None else float(spread.mean[place])
        deviation, agreement = (
            (None, None) if spread is None else (float(spread.deviation[place]), float(spread.agreement[place]))
        )
        rows.append(CoefficientRow(named, mean, deviation, agreement, share))
    return OperatorExplanation(
        tuple(Path(folder).name for folder in run_folders),
        tuple(one.seed for one in read),
        tuple(one.sentence for one in read),
        tuple(sorted(rows, key=lambda row: -abs(row.variance_share))),
        by_support,
        by_order,
    )


@dataclass(frozen=True)
class _ReadOperator:
    fusion: Fusion
    seed: str
    shares: dict[tuple[int, ...], float]
    sentence: str


def operator_history(run_folder: str | Path, dataset: Dataset) -> ShareHistory:
    """What the operator of a run did at each snapshot of its training, on the same (cross-fitted) training relations.

    Args:
        run_folder: Run folder with snapshots.
        dataset: The dataset it was trained on.

    Raises:
        CheckpointError: If the run kept no snapshots.
        ParameterError: If it has no learned graph operator.
    """
    folder = Path(run_folder)
    detector, config = load_detector(folder)
    fusion = _readable(detector.fusion, folder)
    steps = list_snapshots(folder)
    if not steps:
        fix = "train again with --snapshots STEPS, for example --snapshots 50"
        raise CheckpointError("the run kept no snapshots of its training", where=folder, expected="snapshots/", fix=fix)
    require_same_features(config, dataset)
    graphs = _some_graphs(fusion, config, dataset)
    operators = {step: operator_of(load_snapshot(folder, step)[0].fusion) for step in steps}
    return share_history(operators, graphs, square=fusion.relates_within)


def _read_operator(folder: Path, dataset: Dataset) -> _ReadOperator:
    detector, config = load_detector(folder)
    fusion = _readable(detector.fusion, folder)
    require_same_features(config, dataset)
    terms = terms_of(fusion, _some_graphs(fusion, config, dataset))
    # operator_terms orders terms by their exponents, as the dense coefficients are
    return _ReadOperator(fusion, str(config.training.get("seed")), variance_shares(terms), summarise_operator(terms))


def _some_graphs(fusion: Fusion, config: RunConfig, dataset: Dataset) -> dict[str, Tensor]:
    """Cross-fitted graphs of the training bags, thinned evenly where there are many."""
    config.require_equal_spans("reading an operator")
    training = training_bags(config, dataset)
    require_same_references(fusion, training, dataset.name)
    graphs = fusion.operator_graphs(training_inputs(fusion, training).inputs) or {}
    count = len(next(iter(graphs.values())))
    keep = torch.linspace(0, count - 1, min(count, _MOST_BAGS)).long()
    return {name: graph[keep] for name, graph in graphs.items()}


def _readable(fusion: Fusion, folder: Path) -> Fusion:
    if not fusion.learns_operator or not fusion.has_frozen_stage:
        raise ParameterError(
            "the model has no learned operator whose terms can be read",
            where=folder,
            expected="method lego-paper (any rows but 'propagate'), or lego with operator 'learned'",
            got=fusion.kind + (" with a fixed one" if fusion.operator is not None and not fusion.learns_operator else ""),
            fix="explain videos with it instead: lego-fusion explain RUN VIDEO",
        )
    return fusion
