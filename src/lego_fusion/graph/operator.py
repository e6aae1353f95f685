"""The fusion operator: learned coefficients that mix the powers of several relationship graphs into one.

    full         G = sum_pq A_pq R_a^(p) * R_b^(q)                   two graphs, A learned
    joint        G = sum_r prod_m (sum_p a_rmp R_m^(p))              M graphs, CP form of rank r
    rank1        the joint form of rank 1
    all-pairs    G = sum_{a<b} sum_pq A^ab_pq R_a^(p) * R_b^(q)      M graphs, one A per pair
    random-pair  one shared A; each training step draws one pair, evaluation averages all pairs

(``*`` is the elementwise product.) For two graphs and rank min(P, Q) + 1 the joint form reaches every A. A is not symmetric
between its two graphs: rows belong to the one named first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import ParameterError, check_choice, check_int
from .expansion import Expansion, Normalisation, ZeroOrder, powers
from .kernels import bivariate_polynomial, product_polynomial
from .relationship import apply_mask

Form = Literal["full", "joint", "rank1", "all-pairs", "random-pair"]
FORMS: tuple[Form, ...] = ("full", "joint", "rank1", "all-pairs", "random-pair")


class GraphOperator(nn.Module):
    """Learnable mixture of graph powers.

    It starts as the mean of the first powers, G = mean_m R_m (in the pair forms: of the pair's two), plus noise of standard
    deviation ``noise`` on every coefficient that could not otherwise learn apart from its equals.

    Args:
        names: Names of the graphs, M >= 1, in the order that orients A.
        order: Highest power of each graph, P >= 0; an int for all, or one per name.
        form: One of the forms above; with a single graph every form is the plain polynomial sum_p a_p R^(p).
        rank: Rank of the joint form; by default the number of graphs plus one.
        expansion: ``"hadamard"`` or ``"matrix"``.
        zero_order: R^(0), ``"ones"`` or ``"identity"``.
        normalisation: Of the graphs before matrix powers.
        symmetric: Use (A + A^T) / 2 in the pair forms; needs equal orders.
        noise: Standard deviation of the random part of the start.
        seed: Seed of the start and of the drawn pairs.

    Source: the paper's fusion operator; the joint form for more than two graphs is ours.

    Example:
        >>> operator = GraphOperator(["motion", "text"], order=2)
        >>> graphs = {name: torch.rand(4, 8, 8) for name in operator.names}
        >>> operator(graphs).shape
        torch.Size([4, 8, 8])
    """

    def __init__(
        self,
        names: Sequence[str],
        order: int | Mapping[str, int] = 2,
        form: Form = "joint",
        *,
        rank: int | None = None,
        expansion: Expansion = "hadamard",
        zero_order: ZeroOrder = "ones",
        normalisation: Normalisation = "row",
        symmetric: bool = False,
        noise: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.orders = _orders(self.names, order)
        check_choice(form, "form", "GraphOperator", FORMS)
        check_choice(expansion, "expansion", "GraphOperator", ("hadamard", "matrix"))
        check_choice(zero_order, "zero_order", "GraphOperator", ("ones", "identity"))
        check_choice(normalisation, "normalisation", "GraphOperator", ("row", "symmetric", "none"))
        if form == "full" and len(self.names) > 2:
            raise ParameterError(
                "the full form mixes at most two graphs",
                expected="one or two modalities",
                got=", ".join(self.names),
                fix="use form='joint', 'all-pairs' or 'random-pair'",
            )
        self.form: Form = "rank1" if len(self.names) == 1 else form
        self.expansion, self.zero_order, self.normalisation = expansion, zero_order, normalisation
        self.symmetric, self.seed = symmetric, seed
        if self.form in ("joint", "rank1"):
            wanted = len(self.names) + 1 if rank is None else rank
            self.rank = 1 if self.form == "rank1" else check_int(wanted, "rank", "GraphOperator", low=1)
        self._start(noise)

    def _start(self, noise: float) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def random(*shape: int) -> Tensor:
            return noise * torch.randn(*shape, generator=generator)

        if self.form in ("joint", "rank1"):
            self.factors = nn.ParameterDict()
            for m, name in enumerate(self.names):
                self.factors[name] = nn.Parameter(random(self.rank, self.orders[m] + 1) + self._joint_start(m))
            return
        if self.symmetric or self.form == "random-pair":
            self._require_equal_orders()
        pairs = self.pairs if self.form == "all-pairs" else self.pairs[:1]
        starts = []
        for a, b in pairs:
            start = random(self.orders[a] + 1, self.orders[b] + 1)
            share = 0.5 / len(pairs)
            start[min(1, self.orders[a]), 0] += share
            start[0, min(1, self.orders[b])] += share
            starts.append(start)
        for (a, b), start in zip(pairs, starts, strict=True):
            self.register_parameter(self._pair_name(a, b), nn.Parameter(start))
        if self.form == "random-pair":
            self.draws: Tensor
            self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def _joint_start(self, m: int) -> Tensor:
        """Term r < M is R_r / M; with fewer terms than graphs, each is the product of the mean polynomials."""
        start = torch.zeros(self.rank, self.orders[m] + 1)
        if self.rank >= len(self.names):
            for r in range(len(self.names)):
                start[r, min(1, self.orders[m]) if r == m else 0] = 1 / len(self.names) if r == m else 1
            if self.orders[m] == 0:
                start[m, 0] = 1 / len(self.names)
            return start
        start[:, 0] = 0.5
        start[:, min(1, self.orders[m])] += 0.5
        return start / self.rank ** (1 / len(self.names))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Index pairs (a, b), a < b, of the graphs."""
        return list(itertools.combinations(range(len(self.names)), 2))

    def forward(
        self, graphs: Mapping[str, Float[Tensor, "b n k"]], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n k"]:
        """Fuse the graphs.

        Args:
            graphs: One graph per name, all (B, N, N), or all (B, N, K) for ``hadamard`` with ``ones``; others are ignored.
            mask: True where a node exists, (B, N); masked nodes have zero rows and columns.

        Returns:
            G, of the graphs' shape.

        Raises:
            ParameterError: If a graph is missing, shapes differ, or the options are not defined for the shape.
        """
        chosen = self._choose(graphs)
        if self.form in ("joint", "rank1"):
            fused = self._joint(chosen, [self.factors[name] for name in self.names], mask)
        elif self.form == "random-pair":
            fused = self._random_pair(chosen, mask)
        else:
            pairs = self.pairs
            fused = torch.stack([self._pair(chosen, a, b, mask) for a, b in pairs]).sum(0)
        return apply_mask(fused, mask)

    def dense_coefficients(self) -> Tensor:
        """The coefficient of every product of powers, (P_1 + 1, ..., P_M + 1), whatever the form.

        For ``random-pair`` these are the coefficients of the average that evaluation computes. Entry [p, q, ...] belongs to
        R_1^(p) * R_2^(q) * ..., where R^(0) = 1 in the other graphs of a pair form.
        """
        if self.form in ("joint", "rank1"):
            letters = "abcdefghijklmnopqstuvwxyz"[: len(self.names)]  # r is the rank
            equation = ",".join(f"r{letter}" for letter in letters) + "->" + letters
            dense: Tensor = torch.einsum(equation, *[self.factors[name] for name in self.names])
            return dense
        dense = next(self.parameters()).new_zeros([order + 1 for order in self.orders])
        for a, b in self.pairs:
            index: list[slice | int] = [0] * len(self.names)
            index[a] = index[b] = slice(None)
            scale = 1 / len(self.pairs) if self.form == "random-pair" else 1.0
            dense[tuple(index)] += scale * self.pair_coefficients(a, b)
        return dense

    def pair_coefficients(self, a: int, b: int) -> Float[Tensor, "p q"]:
        """A of graphs a and b (indices into ``names``), symmetrised if so chosen."""
        shared = self.form in ("random-pair", "full")
        coefficients: Tensor = getattr(self, self._pair_name(*(self.pairs[0] if shared else (a, b))))
        return (coefficients + coefficients.T) / 2 if self.symmetric else coefficients

    def _pair_name(self, a: int, b: int) -> str:
        if self.form in ("full", "random-pair"):
            return "coefficients"
        return f"coefficients_{self.names[a]}_{self.names[b]}"

    def _random_pair(self, chosen: list[Tensor], mask: Tensor | None) -> Tensor:
        if not self.training:
            return torch.stack([self._pair(chosen, a, b, mask) for a, b in self.pairs]).mean(0)
        step = int(self.draws)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        a, b = self.pairs[int(torch.randint(len(self.pairs), (), generator=generator))]
        self.draws += 1  # stored with the weights, so that a resumed run draws on
        return self._pair(chosen, a, b, mask)

    def _pair(self, chosen: list[Tensor], a: int, b: int, mask: Tensor | None) -> Tensor:
        s, t, coefficients = chosen[a], chosen[b], self.pair_coefficients(a, b)
        if self.expansion == "matrix":
            inner = torch.einsum("pq,qbnk->pbnk", coefficients, self._matrix_powers(t, b, mask))
            return (self._matrix_powers(s, a, mask) * inner).sum(0)
        if self.zero_order == "ones":
            return bivariate_polynomial(s, t, coefficients)
        higher = torch.zeros_like(coefficients)
        higher[1:, 1:] = coefficients[1:, 1:]
        on_diagonal = bivariate_polynomial(_diagonal(s), _diagonal(t), coefficients)
        return _replace_diagonal(bivariate_polynomial(s, t, higher), on_diagonal)

    def _joint(self, chosen: list[Tensor], factors: list[Tensor], mask: Tensor | None) -> Tensor:
        if self.expansion == "matrix":
            mixed = [
                torch.einsum("rp,pbnk->rbnk", factor, self._matrix_powers(graph, m, mask))
                for m, (graph, factor) in enumerate(zip(chosen, factors, strict=True))
            ]
            return torch.stack(mixed).prod(0).sum(0)
        if self.zero_order == "ones":
            return product_polynomial(chosen, factors)
        higher = [torch.cat([torch.zeros_like(factor[:, :1]), factor[:, 1:]], dim=1) for factor in factors]
        on_diagonal = product_polynomial([_diagonal(graph) for graph in chosen], factors)
        return _replace_diagonal(product_polynomial(chosen, higher), on_diagonal)

    def _matrix_powers(self, graph: Tensor, m: int, mask: Tensor | None) -> Tensor:
        """(P_m + 1, B, N, N)."""
        options = {"zero_order": self.zero_order, "normalisation": self.normalisation}
        return torch.stack(powers(graph, self.orders[m], expansion="matrix", mask=mask, **options))  # type: ignore[arg-type]

    def _choose(self, graphs: Mapping[str, Tensor]) -> list[Tensor]:
        missing = [name for name in self.names if name not in graphs]
        if missing:
            raise ParameterError(
                f"no graph for modality '{missing[0]}'", expected=", ".join(self.names), got=", ".join(graphs) or "nothing"
            )
        chosen = [graphs[name] for name in self.names]
        for name, graph in zip(self.names, chosen, strict=True):
            if graph.shape != chosen[0].shape or graph.dtype != chosen[0].dtype:
                raise ParameterError(
                    "graphs to be fused must have one shape and dtype",
                    where=f"modality '{name}'",
                    expected=f"{tuple(chosen[0].shape)} {chosen[0].dtype}",
                    got=f"{tuple(graph.shape)} {graph.dtype}",
                )
        if chosen[0].shape[-1] != chosen[0].shape[-2] and (self.expansion, self.zero_order) != ("hadamard", "ones"):
            raise ParameterError(
                f"expansion='{self.expansion}' with zero_order='{self.zero_order}' is not defined for reference units",
                got=f"graphs of shape {tuple(chosen[0].shape)}",
                fix="use expansion='hadamard' with zero_order='ones', or no references",
            )
        return chosen

    def _require_equal_orders(self) -> None:
        if len(set(self.orders)) > 1:
            raise ParameterError("a shared or symmetric A needs the same order for every graph", got=str(self.orders))


def _orders(names: Sequence[str], order: int | Mapping[str, int]) -> tuple[int, ...]:
    if not names:
        raise ParameterError("the operator needs at least one graph")
    if len(set(names)) < len(names):
        raise ParameterError("graph names must differ", got=", ".join(names))
    if isinstance(order, Mapping):
        if set(order) != set(names):
            raise ParameterError("one order per graph is needed", expected=", ".join(names), got=", ".join(order))
        return tuple(check_int(order[name], f"order['{name}']", "GraphOperator", low=0) for name in names)
    return tuple(check_int(order, "order", "GraphOperator", low=0) for _ in names)


def _diagonal(graph: Tensor) -> Tensor:
    return graph.diagonal(dim1=-2, dim2=-1)


def _replace_diagonal(graph: Tensor, on_diagonal: Tensor) -> Tensor:
    return torch.diagonal_scatter(graph, on_diagonal, dim1=-2, dim2=-1)
