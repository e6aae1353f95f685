"""How the operator's terms share the fused graph from one snapshot of a training to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import DataError
from ..graph.operator import GraphOperator
from .terms import Support, operator_terms, variance_shares


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
