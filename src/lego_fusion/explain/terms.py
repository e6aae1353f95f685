"""Reading the graph operator: every fused entry, node score and event as a sum of shares of terms, and how these evolve.

A fused entry is a sum of terms, G_ij = sum_t A_t prod_m R_m,ij^(p_tm), each with an exponent for every modality. So its shares
are exact and need no approximation: they add up to the entry. Which modalities a term belongs to (those with p >= 1) is its
*support*: one modality for a term of its own, several for an interaction, none for the constant. Dividing each term equally
among its support gives the Shapley value of dropping modalities from the operator (a term's value is its Harsanyi dividend).

Through the node head the shares need a path: ``explain_nodes`` integrates the head's gradient on the straight line from a
typical normal row to the node's row. The head is piecewise linear, so the integral is exact, and what is left is printed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import DataError, ParameterError
from ..graph.expansion import powers
from ..graph.operator import JOINT_FORMS, GraphOperator

Support = tuple[str, ...]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Terms:
    """Values of terms over some entries.

    Args:
        names: Modalities, M of them, in the order of the exponents.
        exponents: T tuples of M powers.
        values: One tensor of values per term, (T, ...).
    """

    names: tuple[str, ...]
    exponents: tuple[tuple[int, ...], ...]
    values: Float[Tensor, "t ..."]

    @property
    def total(self) -> Tensor:
        """Sum of the terms, (...)."""
        return self.values.sum(0)

    @property
    def supports(self) -> tuple[Support, ...]:
        """The modalities of each term, those whose power is at least 1."""
        return tuple(tuple(n for n, p in zip(self.names, powers, strict=True) if p) for powers in self.exponents)

    def by_support(self) -> dict[Support, Tensor]:
        """Sum of the terms of each set of modalities: own ones, interactions, and () for the constant."""
        return self._grouped(self.supports)

    def by_order(self) -> dict[int, Tensor]:
        """Sum of the terms of each total order (the sum of a term's powers)."""
        return self._grouped([sum(powers) for powers in self.exponents])

    def by_modality(self) -> dict[str, Tensor]:
        """Share of each modality: its own terms and an equal part of every interaction it is in.

        With the constant, which belongs to no modality, these add up to the total.
        """
        shares = {name: torch.zeros_like(self.total) for name in self.names}
        for support, value in zip(self.supports, self.values, strict=True):
            for name in support:
                shares[name] = shares[name] + value / len(support)
        return shares

    @property
    def constant(self) -> Tensor:
        """The term without any modality, (...)."""
        return self.by_support().get((), torch.zeros_like(self.total))

    def _grouped(self, keys: Sequence[Key]) -> dict[Key, Tensor]:
        groups: dict[Key, Tensor] = {}
        for key, value in zip(keys, self.values, strict=True):
            groups[key] = groups[key] + value if key in groups else value
        return groups


@dataclass(frozen=True)
class NodeExplanation:
    """Why nodes score as they do, against a typical normal row.

    Args:
        terms: Part of each term in each relation of each node, in logits, values (T, B, N, K). Column k is the k-th node or
            reference, also where the head saw the row sorted.
        logits: What the head said, (B, N).
        baseline: What it says of the typical normal row.
        gap: logits - baseline - sum of the parts, (B, N): rounding only, for a piecewise linear head.
    """

    terms: Terms
    logits: Float[Tensor, "b n"]
    baseline: float
    gap: Float[Tensor, "b n"]

    def nodes(self) -> Terms:
        """The parts of each node, summed over its relations: values (T, B, N)."""
        return replace(self.terms, values=self.terms.values.sum(-1))

    def relations(self) -> Float[Tensor, "b n k"]:
        """The part of each relation, summed over terms."""
        return self.terms.total


@dataclass(frozen=True)
class CoefficientSpread:
    """Coefficients over several trainings of the same operator.

    Args:
        exponents: Powers of each coefficient.
        mean: (T,).
        deviation: Standard deviation over trainings, (T,).
        agreement: Share of trainings whose sign is that of the mean, (T,).
    """

    names: tuple[str, ...]
    exponents: tuple[tuple[int, ...], ...]
    mean: Float[Tensor, " t"]
    deviation: Float[Tensor, " t"]
    agreement: Float[Tensor, " t"]


def operator_terms(
    operator: GraphOperator,
    graphs: Mapping[str, Float[Tensor, "b n k"]],
    mask: Bool[Tensor, "b n"] | None = None,
    *,
    square: bool | None = None,
) -> Terms:
    """Every term of every fused entry; they add up to what the operator returns in evaluation.

    G_ij = sum_t A_t prod_m R_m,ij^(p_tm)

    Args:
        operator: Any form, expansion and zeroth power.
        graphs: One per name, (B, N, N) or (B, N, K).
        mask: True where a node exists, (B, N).
        square: As in ``GraphOperator.forward``.

    Returns:
        Terms with values (T, B, N, K). There are prod_m (P_m + 1) of them, in memory all at once: explain some nodes, not a
        whole dataset.

    Example:
        >>> operator = GraphOperator(["motion", "text"], order=1)
        >>> graphs = {name: torch.rand(1, 3, 3) for name in operator.names}
        >>> bool(torch.allclose(operator_terms(operator, graphs).total, operator.eval()(graphs), atol=1e-6))
        True
    """
    missing = [name for name in operator.names if name not in graphs]
    if missing:
        raise ParameterError(
            f"no graph for modality '{missing[0]}'", expected=", ".join(operator.names), got=", ".join(graphs) or "nothing"
        )
    expanded = [
        powers(
            graphs[name],
            order,
            expansion=operator.expansion,
            zero_order=operator.zero_order,
            normalisation=operator.normalisation,
            mask=mask,
            square=square,
        )
        for name, order in zip(operator.names, operator.orders, strict=True)
    ]
    values: dict[tuple[int, ...], Tensor] = {}
    with torch.no_grad():
        if operator.form in JOINT_FORMS:
            dense = operator.dense_coefficients()
            for exponents in itertools.product(*(range(order + 1) for order in operator.orders)):
                product = torch.stack([expanded[m][p] for m, p in enumerate(exponents)]).prod(0)
                values[exponents] = dense[exponents].to(product) * product
        else:
            scale = 1 / len(operator.pairs) if operator.form == "random-pair" else 1.0
            for a, b in operator.pairs:
                coefficients = operator.pair_coefficients(a, b)
                for p, q in itertools.product(range(operator.orders[a] + 1), range(operator.orders[b] + 1)):
                    exponents = tuple(p if m == a else q if m == b else 0 for m in range(len(operator.names)))
                    value = scale * coefficients[p, q].to(expanded[a][p]) * expanded[a][p] * expanded[b][q]
                    values[exponents] = values[exponents] + value if exponents in values else value
    ordered = sorted(values)
    return Terms(operator.names, tuple(ordered), torch.stack([values[exponents] for exponents in ordered]))


def mean_sorted_row(terms: Terms) -> Terms:
    """The typical row of some nodes: each term at the j-th largest entry of a row, averaged over nodes, values (T, K)."""
    ranked, _ = _by_rank(terms)
    return replace(terms, values=ranked.flatten(1, -2).mean(1))


def mean_row(terms: Terms) -> Terms:
    """The typical row of some nodes whose columns have an order of their own: each term averaged over nodes, values (T, K)."""
    return replace(terms, values=terms.values.flatten(1, -2).mean(1))


def explain_nodes(
    terms: Terms, baseline: Terms, first: nn.Linear, second: nn.Linear, *, ranked: bool = True
) -> NodeExplanation:
    """Attribute the logits of nodes to the terms of their relations.

    With x the node's row, x0 the typical normal row and f the head (first, ReLU, second), the part of term t in column j is
    (x_tj - x0_tj) * integral_0^1 df/dx_j (x0 + u (x - x0)) du. A hidden unit is linear in u, so the integral is the sum over
    hidden units of weight times the share of the line on which the unit is active: exact, with no steps to choose.
    A convex combination of two descending rows is descending, so the whole line consists of rows the head could see.

    Args:
        terms: Of the nodes, from ``operator_terms``, values (T, B, N, K).
        baseline: Typical row of known normal nodes, from ``mean_sorted_row`` (``ranked``) or ``mean_row``, values (T, K).
        first: First layer of the head, K -> hidden.
        second: Second layer, hidden -> 1.
        ranked: Whether the head sees each row in descending order.

    Raises:
        ParameterError: If the terms, the baseline and the head do not fit each other.

    Source: integrated gradients (Sundararajan et al., 2017) in closed form; the split over terms is exact.
    """
    if terms.exponents != baseline.exponents or first.in_features != terms.values.shape[-1]:
        raise ParameterError(
            "the terms, the baseline and the head do not belong together",
            expected=f"{len(terms.exponents)} terms over {first.in_features} columns",
            got=f"terms {tuple(terms.values.shape)}, baseline {tuple(baseline.values.shape)}",
        )
    values, order = _by_rank(terms) if ranked else (terms.values, None)
    difference = values - baseline.values[:, None, None]
    start, end = baseline.values.sum(0), values.sum(0)  # (K,), (B, N, K)
    with torch.no_grad():
        gradient = _path_gradient(first, second, start, end)
        logits = second(first(end).relu())[..., 0]
        at_baseline = float(second(first(start).relu())[0])
    parts = difference * gradient
    gap = logits - at_baseline - parts.sum((0, -1))
    if order is not None:  # back from ranks to columns
        parts = torch.zeros_like(parts).scatter_(-1, order.expand_as(parts), parts)
    return NodeExplanation(replace(terms, values=parts), logits, at_baseline, gap)


def variance_shares(terms: Terms) -> dict[tuple[int, ...], float]:
    """How much of the variation of the fused entries each term accounts for: cov(term, G) / var(G), which add up to 1.

    A term that opposes the others has a negative share. The constant has none.

    Raises:
        DataError: If the fused entries do not vary.
    """
    flat = terms.values.flatten(1).double()
    centred = flat - flat.mean(1, keepdim=True)
    total = centred.sum(0)
    variance = float(total.square().mean())
    if variance <= 0:
        raise DataError("the fused graph is constant, so no term accounts for its variation", fix="give graphs that differ")
    shares = (centred * total).mean(1) / variance
    return dict(zip(terms.exponents, (float(share) for share in shares), strict=True))


def summarise_operator(terms: Terms) -> str:
    """One sentence on what a trained operator does with the graphs given.

    Args:
        terms: Of typical graphs, from ``operator_terms``.

    Example:
        >>> operator = GraphOperator(["motion"], order=1)
        >>> summarise_operator(operator_terms(operator, {"motion": torch.rand(1, 4, 4)}))
        'Almost only motion at order 1 (100 % of the variation of the fused graph).'
    """
    shares = variance_shares(terms)
    supports: dict[Support, float] = {}
    for support, share in zip(terms.supports, (shares[e] for e in terms.exponents), strict=True):
        supports[support] = supports.get(support, 0.0) + share
    ranked = sorted(((share, support) for support, share in supports.items() if support), reverse=True)
    first_share, first = ranked[0]
    word = "Almost only" if first_share >= 0.95 else "Mostly" if first_share >= 0.5 else "Chiefly"
    sentence = f"{word} {_phrase(terms, shares, first)} ({100 * first_share:.0f} % of the variation of the fused graph)"
    others = [(share, support) for share, support in ranked[1:] if share >= 0.05]
    if others:
        sentence += ", with " + " and ".join(f"{_phrase(terms, shares, s)} ({100 * share:.0f} %)" for share, s in others)
    against = [support for share, support in ranked[1:] if share <= -0.05]
    if against:
        sentence += "; against them works " + " and ".join(_phrase(terms, shares, support) for support in against)
    return sentence + "."


def coefficient_spread(operators: Sequence[GraphOperator]) -> CoefficientSpread:
    """Mean, deviation and sign agreement of each coefficient over trainings, for example of several seeds.

    Coefficients of a joint form are compared as the dense A, since its factors are not unique.

    Raises:
        DataError: If there are fewer than two, or they differ in modalities or orders.
    """
    if len(operators) < 2:
        raise DataError("a spread needs several trainings", expected="at least 2 operators", got=str(len(operators)))
    names, orders = operators[0].names, operators[0].orders
    for operator in operators[1:]:
        if (operator.names, operator.orders) != (names, orders):
            raise DataError(
                "operators of different modalities or orders cannot be compared",
                expected=f"{names} with orders {orders}",
                got=f"{operator.names} with orders {operator.orders}",
            )
    with torch.no_grad():
        dense = torch.stack([operator.dense_coefficients().flatten().double() for operator in operators])
    mean = dense.mean(0)
    agreement = (dense.sign() == mean.sign()).double().mean(0)
    exponents = tuple(itertools.product(*(range(order + 1) for order in orders)))
    return CoefficientSpread(names, exponents, mean, dense.std(0), agreement)


def _by_rank(terms: Terms) -> tuple[Tensor, Tensor]:
    """Each term in the descending order of the fused row: values (T, ..., K) and that order (..., K)."""
    order = terms.total.argsort(dim=-1, descending=True)
    return terms.values.gather(-1, order.expand_as(terms.values)), order


def _path_gradient(first: nn.Linear, second: nn.Linear, start: Tensor, end: Tensor) -> Tensor:
    """Mean gradient of the head on the line from start (K,) to each end (B, N, K): (B, N, K)."""
    before, after = first(start), first(end)  # (H,), (B, N, H)
    change = after - before
    crossing = (-before / torch.where(change == 0, torch.ones_like(change), change)).clamp(0, 1)
    rising = torch.where(change > 0, 1 - crossing, crossing)  # share of the line on which the unit is positive
    active = torch.where(change == 0, (before > 0).to(change).expand_as(change), rising)
    gradient: Tensor = (active * second.weight[0]) @ first.weight
    return gradient


def _phrase(terms: Terms, shares: Mapping[tuple[int, ...], float], support: Support) -> str:
    """``text at order 1`` or ``motion x text agreement at order 1, 2``: the largest term of a support."""
    own = [e for e, s in zip(terms.exponents, terms.supports, strict=True) if s == support]
    largest = max(own, key=lambda exponents: abs(shares[exponents]))
    orders = [str(p) for p in largest if p]
    if len(support) == 1:
        return f"{support[0]} at order {orders[0]}"
    return f"{' x '.join(support)} agreement at order {sum(largest)} ({' + '.join(orders)})"


@dataclass(frozen=True)
class ShareHistory:
    """Variance shares over the steps of a training; at every step they add up to 1.

    Args:
        steps: In ascending order.
        by_support: Of each set of modalities, one share per step.
        by_order: Of each total order of the terms.
    """

    steps: tuple[int, ...]
    by_support: dict[Support, tuple[float, ...]]
    by_order: dict[int, tuple[float, ...]]

    def lines(self) -> dict[str, tuple[float, ...]]:
        """Shares by a name to print, largest at the last step first; a constant that does not vary is left out.

        A zeroth power that is the identity varies: it is 1 on the diagonal and 0 elsewhere.
        """
        varies = {support: shares for support, shares in self.by_support.items() if support or any(shares)}
        named = {" x ".join(support) or "constant": shares for support, shares in varies.items()}
        return dict(sorted(named.items(), key=lambda pair: -pair[1][-1]))


def share_history(
    operators: Mapping[int, GraphOperator],
    graphs: Mapping[str, Float[Tensor, "b n k"]],
    mask: Bool[Tensor, "b n"] | None = None,
    *,
    square: bool | None = None,
) -> ShareHistory:
    """Variance shares (``terms.variance_shares``) of the operator of each snapshot over the same graphs.

    Args:
        operators: By step, of one training.
        graphs: As for ``terms.operator_terms``: some typical bags, not a whole dataset.
        mask: As there.
        square: As there.

    Raises:
        DataError: If there is no snapshot, or the operators differ in modalities or orders.

    Example:
        >>> import torch
        >>> operator = GraphOperator(["motion"], order=1)
        >>> history = share_history({0: operator, 50: operator}, {"motion": torch.rand(1, 4, 4)})
        >>> {name: [round(share, 6) for share in shares] for name, shares in history.lines().items()}
        {'motion': [1.0, 1.0]}
    """
    if not operators:
        raise DataError("there is no snapshot to follow", fix="train with --snapshots STEPS")
    steps = sorted(operators)
    first = operators[steps[0]]
    by_support: dict[Support, list[float]] = {}
    by_order: dict[int, list[float]] = {}
    for place, step in enumerate(steps):
        operator = operators[step]
        if (operator.names, operator.orders) != (first.names, first.orders):
            raise DataError(
                "snapshots of different operators cannot be compared",
                where=f"step {step}",
                expected=f"{first.names} with orders {first.orders}",
                got=f"{operator.names} with orders {operator.orders}",
            )
        terms = operator_terms(operator, graphs, mask, square=square)
        shares = variance_shares(terms)
        for support, exponents in zip(terms.supports, terms.exponents, strict=True):
            by_support.setdefault(support, [0.0] * len(steps))[place] += shares[exponents]
            by_order.setdefault(sum(exponents), [0.0] * len(steps))[place] += shares[exponents]
    return ShareHistory(
        tuple(steps),
        {support: tuple(values) for support, values in by_support.items()},
        {order: tuple(values) for order, values in sorted(by_order.items())},
    )
