"""Whether an explanation is true to the model it explains: deletion, insertion, and what happens when the weights change.

An explanation gives an importance to every *unit* of an input: to each relation of a node (``edge_units``), to each node
(``span_units``, a time span) or to each modality. **Deletion** replaces the units by something typical, most important first,
and watches the score fall; **insertion** starts from all replaced and watches it rise. The area under the curve is put on a
scale where a random order has 0 and the best order known has 1; a wrong order is below 0.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import rankdata
from torch import Tensor, nn

from ..errors import DataError, check_choice, check_int
from ..graph.distances import squared_distances
from .attribution import Inputs, Model, require_alike

UnitKind = Literal["edges", "spans", "modalities"]
Direction = Literal["deletion", "insertion"]
ReplacementKind = Literal["nearest", "typical", "zero", "mean"]
REPLACEMENTS: tuple[ReplacementKind, ...] = ("nearest", "typical", "zero", "mean")
MOST_PERMUTED = 4  # units of which all orders are tried
CHUNK = 256  # inputs scored at once


@dataclass(frozen=True, eq=False)
class Units:
    """The parts of one input that can be replaced, and the score with some of them replaced.

    Args:
        kind: What a unit is.
        count: U.
        score: Which units are kept, (C, U) -> scores (C,).
    """

    kind: UnitKind
    count: int
    score: Callable[[Bool[Tensor, "c u"]], Float[Tensor, " c"]]


@dataclass(frozen=True)
class Reference:
    """Areas under the curve of random orders and of the best order known, for one input and direction.

    Args:
        random: Mean over random orders (all orders, for up to four units).
        low: 2.5 % quantile over them.
        high: 97.5 % quantile.
        best: Lowest (deletion) or highest (insertion) area found: over all orders for up to four units, else greedily,
            always taking the unit that changes the score most. A greedy order need not be optimal.
    """

    random: float
    low: float
    high: float
    best: float


@dataclass(frozen=True)
class Case:
    """One explanation of one input against its references.

    Args:
        deletion: Area under the deletion curve, in units of the score; lower is better.
        insertion: Area under the insertion curve; higher is better.
        deletion_score: (random - area) / (random - best); NaN where no order differs from another.
        insertion_score: (area - random) / (best - random), likewise.
        beats_random: Whether both areas lie beyond those of 97.5 % of random orders.
    """

    deletion: float
    insertion: float
    deletion_score: float
    insertion_score: float
    beats_random: bool


@dataclass(frozen=True)
class Faithfulness:
    """How faithful an explanation is, over several inputs of one model.

    Args:
        explanation: Its name.
        model: Name of the model it explains; scores of different models compare orders, not models.
        units: What was replaced.
        replacement: By what.
        cases: How many inputs; those on which no order matters are left out.
        deletion: Mean normalised score, 0 random, 1 the best order known.
        deletion_interval: 95 % bootstrap interval over groups of inputs.
        insertion: As deletion.
        insertion_interval: As deletion.
        beats_random: Share of cases beyond random orders both ways.
        randomisation: Mean absolute rank correlation with the explanation after the weights are drawn anew; a faithful one is
            near what two independent explanations have. None where it was not measured.
        share_error: Largest difference between found and planted share of a modality; None where nothing was planted.
        node_auc: AUC of the explanation's node totals for the planted nodes; None likewise.
    """

    explanation: str
    model: str
    units: UnitKind
    replacement: str
    cases: int
    deletion: float
    deletion_interval: tuple[float, float]
    insertion: float
    insertion_interval: tuple[float, float]
    beats_random: float
    randomisation: float | None = None
    share_error: float | None = None
    node_auc: float | None = None


def edge_units(model: Model, inputs: Inputs, replacement: Inputs, *, node: int) -> Units:
    """The relations of one node: unit m * K + k is entry k of modality m in the node's row; other rows stay.

    Args:
        model: Graphs by name, (C, N, K) each -> scores (C,).
        inputs: Of one bag, (1, N, K) by name.
        replacement: What a replaced entry becomes, of the same shapes (``replacement_for``).
        node: Row.
    """
    shape = _shape(inputs, replacement)
    check_int(node, "node", "edge_units", low=0, high=shape[1] - 1)

    def spread(keep: Tensor) -> Tensor:  # (C, M * K) -> (M, C, N, K)
        full = torch.ones(len(inputs), len(keep), *shape[1:], dtype=torch.bool)
        full[:, :, node] = keep.reshape(len(keep), len(inputs), shape[2]).transpose(0, 1)
        return full

    return _units("edges", len(inputs) * shape[2], model, inputs, replacement, spread)


def cell_units(model: Model, inputs: Inputs, replacement: Inputs) -> Units:
    """What one node is in one modality: unit m * N + n is the whole row n of modality m, of any width.

    These are the edges of a model that attends to nodes: what a node sees of node n in modality m.
    """
    nodes = _shape(inputs, replacement, same_width=False)[1]

    def spread(keep: Tensor) -> Tensor:
        return keep.reshape(len(keep), len(inputs), nodes, 1).transpose(0, 1)

    return _units("edges", len(inputs) * nodes, model, inputs, replacement, spread)


def span_units(model: Model, inputs: Inputs, replacement: Inputs) -> Units:
    """The nodes of a bag, each replaced in all modalities."""
    nodes = _shape(inputs, replacement, same_width=False)[1]
    return _units(
        "spans", nodes, model, inputs, replacement, lambda keep: keep[None, :, :, None].expand(len(inputs), -1, -1, 1)
    )


def modality_units(model: Model, inputs: Inputs, replacement: Inputs) -> Units:
    """The modalities, each replaced in all nodes."""
    _shape(inputs, replacement, same_width=False)
    return _units("modalities", len(inputs), model, inputs, replacement, lambda keep: keep.T[:, :, None, None])


def replacement_for(
    inputs: Inputs, kind: str = "nearest", *, normal: Inputs | None = None, ranked: bool = False
) -> dict[str, Tensor]:
    """What stands for an entry that is taken away, by name, of the inputs' shapes.

    Args:
        inputs: (B, N, K) by modality.
        kind: ``"nearest"``: the row of the known normal node that is nearest over all modalities (squared distance, each in
            units of its own variance among normals), so that what stands in is real and fits together (it depends on
            what it replaces, so use another one for a metric over many nodes); ``"typical"``: the
            mean over known normal nodes; ``"zero"``; ``"mean"``: the mean over the bag's own nodes.
        normal: Known normal nodes, (V, N, K) by modality, for the first two.
        ranked: The typical value of an entry that is the j-th largest of its row is the mean j-th largest of normal rows, so
            that a row replaced as a whole looks like a normal one to a model that sorts; for ``"typical"``. It keeps the
            order of the row it replaces, so an anomaly that is in the order of two modalities' rows stays.

    Raises:
        DataError: If normal nodes are needed and absent.

    Example:
        >>> x = {"a": torch.tensor([[[0.1, 0.9]]])}
        >>> replacement_for(x, "typical", normal={"a": torch.tensor([[[0.8, 0.6]]])}, ranked=True)["a"].tolist()
        [[[0.6000000238418579, 0.800000011920929]]]
    """
    check_choice(kind, "kind", "replacement_for", REPLACEMENTS)
    if kind == "zero":
        return {name: torch.zeros_like(x) for name, x in inputs.items()}
    if kind == "mean":
        return {name: x.mean(1, keepdim=True).expand_as(x).clone() for name, x in inputs.items()}
    if normal is None or any(name not in normal for name in inputs):
        what = f"the replacement '{kind}' needs known normal nodes"
        raise DataError(what, expected=", ".join(inputs), got=", ".join(normal or {}) or "none", fix="give normal=")
    if kind == "nearest":
        return _nearest(inputs, normal)
    if not ranked:
        return {name: normal[name].flatten(0, 1).mean(0).expand_as(x).clone() for name, x in inputs.items()}
    replaced = {}
    for name, x in inputs.items():
        typical = normal[name].sort(dim=-1, descending=True).values.flatten(0, 1).mean(0)
        rank = x.argsort(dim=-1, descending=True).argsort(dim=-1)
        replaced[name] = typical[rank]
    return replaced


def _nearest(inputs: Inputs, normal: Inputs) -> dict[str, Tensor]:
    """The rows of the normal node nearest to each node, all modalities of one and the same node."""
    distance: Tensor | float = 0.0
    for name, x in inputs.items():
        known = normal[name].flatten(0, 1)
        variance = known.var(0).sum().clamp_min(1e-12)
        distance = distance + squared_distances(x, known) / variance  # (B, N, V N)
    index = torch.as_tensor(distance).argmin(-1)
    return {name: normal[name].flatten(0, 1)[index] for name in inputs}


def reference_areas(units: Units, direction: Direction, *, orders: int = 50, seed: int = 0) -> Reference:
    """What a random order and the best order known would reach, once per input, whatever is explained.

    Args:
        units: Of the input.
        direction: ``"deletion"`` or ``"insertion"``.
        orders: Random orders, at least 2.
        seed: Of them.
    """
    check_int(orders, "orders", "reference_areas", low=2)
    check_choice(direction, "direction", "reference_areas", ("deletion", "insertion"))
    few = units.count <= MOST_PERMUTED
    if few:
        tried = np.array(list(itertools.permutations(range(units.count))))
    else:
        tried = np.random.default_rng(seed).permuted(np.tile(np.arange(units.count), (orders, 1)), axis=1)
    areas = [_area(curve(units, order, direction)) for order in tried]
    best = [*areas] if few else [_area(curve(units, _greedy(units, direction), direction)), *areas]
    low, high = np.quantile(areas, [0.025, 0.975])
    return Reference(float(np.mean(areas)), float(low), float(high), min(best) if direction == "deletion" else max(best))


def curve(units: Units, order: Int64[np.ndarray, " u"], direction: Direction) -> Float64[np.ndarray, " points"]:
    """Scores after 0, 1, ..., U units of an order are replaced (deletion) or put back (insertion), (U + 1,)."""
    if sorted(order.tolist()) != list(range(units.count)):
        raise DataError("an order holds every unit once", expected=f"0 to {units.count - 1}", got=f"{len(order)} entries")
    rank = torch.empty(units.count, dtype=torch.long)
    rank[torch.from_numpy(np.ascontiguousarray(order))] = torch.arange(units.count)
    done = rank[None] < torch.arange(units.count + 1)[:, None]  # (U + 1, U)
    return _scores(units, ~done if direction == "deletion" else done)


def importance_order(importance: Float[np.ndarray, "*units"], *, seed: int = 0) -> Int64[np.ndarray, " u"]:
    """Units from the most important down; equal ones in a random order, so that ties gain nothing from their place.

    Raises:
        DataError: If an importance is not finite.
    """
    flat = np.asarray(importance, dtype=np.float64).ravel()
    if not np.isfinite(flat).all():
        raise DataError("importances are not finite", got=f"{int((~np.isfinite(flat)).sum())} of {len(flat)} NaN or infinite")
    tie_break = np.random.default_rng(seed).permutation(len(flat))
    return np.lexsort((tie_break, -flat)).astype(np.int64)


def judge(
    units: Units, importance: Float[np.ndarray, "*units"], references: Mapping[Direction, Reference], *, seed: int = 0
) -> Case:
    """Deletion and insertion of one explanation of one input.

    Args:
        units: Of the input.
        importance: Of each unit, U in all; higher is more responsible for a high score. Its sign counts.
        references: Of both directions, from ``reference_areas``.
        seed: Breaks ties.
    """
    if np.size(importance) != units.count:
        raise DataError("one importance per unit is needed", expected=units.count, got=np.size(importance))
    order = importance_order(importance, seed=seed)
    deletion, insertion = (_area(curve(units, order, direction)) for direction in ("deletion", "insertion"))
    gone, back = references["deletion"], references["insertion"]
    return Case(
        deletion,
        insertion,
        _ratio(gone.random - deletion, gone.random - gone.best),
        _ratio(insertion - back.random, back.best - back.random),
        deletion < gone.low and insertion > back.high,
    )


def summarise_cases(
    explanation: str,
    model: str,
    units: UnitKind,
    replacement: str,
    cases: Sequence[Case],
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    **measured: float | None,
) -> Faithfulness:
    """One record of several cases.

    Args:
        explanation: Name of the explanation.
        model: Name of the model.
        units: What was replaced.
        replacement: By what.
        cases: At least one in which orders differ.
        groups: What each case belongs to, such as its video; whole groups are resampled, since their cases are alike.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        measured: ``randomisation``, ``share_error`` and ``node_auc``, where they were measured.

    Raises:
        DataError: If no order matters in any case.
    """
    names = list(groups) if groups is not None else [str(number) for number in range(len(cases))]
    if len(names) != len(cases):
        raise DataError("every case belongs to one group", expected=len(cases), got=len(names))
    usable = [(n, c) for n, c in zip(names, cases, strict=True) if math.isfinite(c.deletion_score + c.insertion_score)]
    if not usable:
        raise DataError("no order of replacement changes the score", where=model, fix="give inputs whose units matter")
    scores = np.array([(case.deletion_score, case.insertion_score) for _, case in usable])
    low, high = _cluster_interval([name for name, _ in usable], scores, resamples, seed)
    mean = scores.mean(0)
    return Faithfulness(
        explanation,
        model,
        units,
        replacement,
        len(usable),
        float(mean[0]),
        (float(low[0]), float(high[0])),
        float(mean[1]),
        (float(low[1]), float(high[1])),
        float(np.mean([case.beats_random for _, case in usable])),
        **measured,
    )


def redraw_weights(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose every parameter is drawn anew from a normal distribution of the parameter's own root mean square."""
    drawn = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in drawn.parameters():
            size = float(parameter.square().mean().sqrt())
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return drawn


def randomisation_check(
    explain: Callable[[nn.Module], Float[np.ndarray, "cases units"]], model: nn.Module, *, draws: int = 5, seed: int = 0
) -> float:
    """Mean absolute rank correlation of explanations before and after the weights are drawn anew, over cases and draws.

    An explanation that stays the same explains the input, not the model. Independent orders of U units have about
    sqrt(2 / (pi (U - 1))) by chance. A model that is constant after the draw correlates with nothing and counts as 0.

    Args:
        explain: Model -> importances (cases, units).
        model: What was explained.
        draws: New models.
        seed: Of the first draw.

    Source: Adebayo et al. (2018), here with all weights at once.
    """
    check_int(draws, "draws", "randomisation_check", low=1)
    before = explain(model)
    found = [
        abs(rank_correlation(a, b))
        for draw in range(draws)
        for a, b in zip(before, explain(redraw_weights(model, seed + draw)), strict=True)
    ]
    return float(np.mean(found))


def rank_correlation(a: Float[np.ndarray, "*u"], b: Float[np.ndarray, "*u"]) -> float:
    """Spearman's correlation, ties at their mean rank; 0 where either is constant.

    Example:
        >>> round(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([9.0, 4.0, 1.0])), 9)
        -1.0
    """
    ranks = np.stack([rankdata(a), rankdata(b)])
    centred = ranks - ranks.mean(1, keepdims=True)
    sizes = np.sqrt((centred**2).sum(1))
    return float(centred[0] @ centred[1] / sizes.prod()) if sizes.all() else 0.0


def faithfulness_table(records: Sequence[Faithfulness]) -> str:
    """Records as a Markdown table, a dash for what was not measured."""
    lines = [
        "| explanation | model | units | deletion | insertion | beats random | weights redrawn | share error | node AUC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in records:
        curves = [
            f"{value:.2f} [{low:.2f}, {high:.2f}]"
            for value, (low, high) in ((one.deletion, one.deletion_interval), (one.insertion, one.insertion_interval))
        ]
        others = ["-" if x is None else f"{x:.2f}" for x in (one.randomisation, one.share_error, one.node_auc)]
        cells = [one.explanation, one.model, one.units, *curves, f"{100 * one.beats_random:.0f} %", *others]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _units(
    kind: UnitKind, count: int, model: Model, inputs: Inputs, replacement: Inputs, spread: Callable[[Tensor], Tensor]
) -> Units:
    """Units whose (C, U) choice ``spread`` turns into one mask per modality, (M, C, N or 1, K or 1)."""

    @torch.no_grad()
    def score(keep: Tensor) -> Tensor:
        masks = spread(keep)
        return model({name: torch.where(masks[m], inputs[name], replacement[name]) for m, name in enumerate(inputs)})

    return Units(kind, count, score)


def _shape(inputs: Inputs, replacement: Inputs, *, same_width: bool = True) -> tuple[int, int, int]:
    require_alike(inputs, replacement)
    shapes = {tuple(x.shape) if same_width else (*x.shape[:2], 0) for x in inputs.values()}
    shape = next(iter(shapes))
    if len(shapes) > 1 or shape[0] != 1:
        raise DataError("the units of one bag are judged at a time", expected="(1, N, K) alike by modality", got=sorted(shapes))
    return shape[0], shape[1], shape[2]


def _scores(units: Units, keep: Tensor) -> Float64[np.ndarray, " c"]:
    parts = [units.score(keep[start : start + CHUNK]) for start in range(0, len(keep), CHUNK)]
    return torch.cat(parts).double().cpu().numpy()


def _area(scores: Float64[np.ndarray, " points"]) -> float:
    """Area under a curve over fractions 0 to 1, by trapezoids."""
    return float((scores[:-1] + scores[1:]).mean() / 2)


def _greedy(units: Units, direction: Direction) -> Int64[np.ndarray, " u"]:
    """Always the unit that lowers (deletion) or raises (insertion) the score most."""
    keep = torch.full((units.count,), direction == "deletion")
    left, order = list(range(units.count)), []
    while left:
        tried = keep.repeat(len(left), 1)
        tried[torch.arange(len(left)), torch.tensor(left)] = direction == "insertion"
        scores = _scores(units, tried)
        chosen = left.pop(int(scores.argmin() if direction == "deletion" else scores.argmax()))
        keep[chosen] = direction == "insertion"
        order.append(chosen)
    return np.array(order, dtype=np.int64)


def _ratio(gain: float, most: float) -> float:
    return gain / most if most > 1e-9 else float("nan")


def _cluster_interval(
    names: Sequence[str], scores: Float64[np.ndarray, "c s"], resamples: int, seed: int
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, " s"]]:
    """95 % percentile interval of the mean, drawing whole groups."""
    kinds = sorted(set(names))
    member = np.array([[name == kind for name in names] for kind in kinds], dtype=np.float64)  # (G, C)
    drawn = np.random.default_rng(seed).multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=resamples)
    means = (drawn @ member @ scores) / (drawn @ member.sum(1))[:, None]
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high
