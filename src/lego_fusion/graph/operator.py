"""The fusion operator: learned coefficients that mix the powers of several relationship graphs into one.

    full         G = sum_pq A_pq R_a^(p) * R_b^(q)                   two graphs, A learned
    joint        G = sum_r prod_m (sum_p a_rmp R_m^(p))              M graphs, CP form of rank r
    rank1        the joint form of rank 1
    all-pairs    G = sum_{a<b} sum_pq A^ab_pq R_a^(p) * R_b^(q)      M graphs, one A per pair
    random-pair  one shared A; each training step draws one pair, evaluation averages all pairs

(``*`` is the elementwise product.) For two graphs and rank min(P, Q) + 1 the joint form reaches every A. A is not symmetric
between its two graphs: rows belong to the one named first. Graphs are found by name; only ``names`` has an order.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import ParameterError, check_choice, check_int, check_number
from .expansion import Expansion, Normalisation, ZeroOrder, powers, require_square
from .kernels import bivariate_polynomial, product_polynomial
from .relationship import apply_mask, columns_are_nodes

Form = Literal["full", "joint", "rank1", "all-pairs", "random-pair"]
FORMS: tuple[Form, ...] = ("full", "joint", "rank1", "all-pairs", "random-pair")
JOINT_FORMS = ("joint", "rank1")
Start = Literal["mean", "product"]
STARTS: tuple[Start, ...] = ("mean", "product")
LEAST_ENTRY = 1e-30  # of a fused graph whose logarithm is taken; a learned one may have negative entries


class GraphOperator(nn.Module):
    """Learnable mixture of graph powers.

    It starts as the mean of the first powers, G = mean_m R_m (``random-pair``: of the pair's two); with ``identity``, where
    that would be zero off the diagonal, as their product (pair forms: its mean over pairs). A joint form with fewer terms than
    graphs starts as prod_m (R_m^(0) + R_m) / 2. With ``start="product"`` every form starts as the product of the first powers,
    G = prod_m R_m (pair forms: its mean over pairs). Noise of standard deviation ``noise`` is added to every coefficient:
    without it, terms of the joint form that start equal never part and spare ones stay zero.

    Args:
        names: Names of the graphs, M >= 1, in the order that orients A. A name is part of parameter names, so it holds no
            ``.`` or ``:`` and is no attribute of ``torch.nn.ParameterDict``.
        order: Highest power of each graph, P >= 0; an int for all, or one per name.
        form: One of the forms above; with a single graph every form is the plain polynomial sum_p a_p R^(p).
        rank: Rank of the joint form, by default the number of graphs plus one; the other forms have none to choose.
        expansion: ``"hadamard"`` or ``"matrix"``.
        zero_order: R^(0), ``"ones"`` or ``"identity"``.
        normalisation: Of the graphs before matrix powers.
        symmetric: Use (A + A^T) / 2; for the forms that have an A, with equal orders.
        start: ``"mean"`` or ``"product"`` of the first powers.
        noise: Standard deviation of the random part of the start, >= 0.
        seed: Seed of the start and of the drawn pairs.

    Raises:
        ParameterError: If an option is unknown, out of range or not defined for the form, or a name cannot be used.

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
        start: Start = "mean",
        noise: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.names = check_names(names)
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
        if symmetric and form in JOINT_FORMS and len(self.names) > 1:
            raise ParameterError(f"form='{form}' has no A to symmetrise", fix="use symmetric=False, or another form")
        self.form: Form = "rank1" if len(self.names) == 1 else form
        self.expansion, self.zero_order, self.normalisation = expansion, zero_order, normalisation
        self.symmetric, self.seed = symmetric, seed
        self.start: Start = check_choice(start, "start", "GraphOperator", STARTS)
        if self.form in JOINT_FORMS:
            wanted = len(self.names) + 1 if rank is None else rank
            self.rank = 1 if self.form == "rank1" else check_int(wanted, "rank", "GraphOperator", low=1)
        self._start(check_number(noise, "noise", "GraphOperator", low=0.0))

    def _start(self, noise: float) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).mul_(noise)

        if self.form in JOINT_FORMS:
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
            first_a, first_b = min(1, self.orders[a]), min(1, self.orders[b])
            if self.zero_order == "identity" or self.start == "product":
                start[first_a, first_b] += 1 / len(pairs)
            else:
                start[first_a, 0] += 0.5 / len(pairs)
                start[0, first_b] += 0.5 / len(pairs)
            starts.append(start)
        for (a, b), start in zip(pairs, starts, strict=True):
            self.register_parameter(self._pair_name(a, b), nn.Parameter(start))
        if self.form == "random-pair":
            self.draws: Tensor
            self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def _joint_start(self, m: int) -> Tensor:
        """Coefficients of graph m: term r < M is R_r / M times R^(0) (``identity``: times R) of the others."""
        start = torch.zeros(self.rank, self.orders[m] + 1)
        first = min(1, self.orders[m])
        if self.start == "product":
            start[0, first] = 1
            return start
        if self.rank >= len(self.names):
            background = first if self.zero_order == "identity" else 0
            start[: len(self.names), background] = 1
            start[m, background] = 0
            start[m, first] = 1 / len(self.names)
            return start
        start[:, 0] = 0.5
        start[:, first] += 0.5
        share: float = self.rank ** (-1 / len(self.names))
        return share * start

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Index pairs (a, b), a < b, of the graphs."""
        return list(itertools.combinations(range(len(self.names)), 2))

    def forward(
        self,
        graphs: Mapping[str, Tensor],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        square: bool | None = None,
    ) -> Float[Tensor, "b n k"]:
        """Fuse the graphs.

        Args:
            graphs: One graph per name, all (B, N, N), or all (B, N, K) for ``hadamard`` with ``ones``; others are ignored.
            mask: True where a node exists, (B, N); masked nodes have zero rows, and zero columns where columns are nodes.
            square: Whether the columns are the nodes; None goes by the shape, so say False for as many references as nodes.

        Returns:
            G, of the graphs' shape.

        Raises:
            ParameterError: If a graph is missing, shapes differ, or the options are not defined for the shape.
        """
        chosen = self._choose(graphs)
        square = columns_are_nodes(chosen[0], square)
        if (self.expansion, self.zero_order) != ("hadamard", "ones"):
            require_square(chosen[0], f"expansion='{self.expansion}' with zero_order='{self.zero_order}'", square=square)
        if self.expansion == "matrix":
            fused = self._joint(chosen, mask) if self.form in JOINT_FORMS else self._pairs(chosen, mask)
        else:
            polynomial, coefficients = self.entry_polynomial()
            fused = polynomial(chosen, coefficients, diagonal=square)
        return apply_mask(fused, mask, square=square)

    @property
    def is_product(self) -> bool:
        """Whether G is the product of the first powers, exactly and for good."""
        fixed = not any(parameter.requires_grad for parameter in self.parameters())
        return fixed and self.start == "product" and self.form in JOINT_FORMS and self.rank == 1

    def log_entries(self, surprises: Mapping[str, Float[Tensor, "*rows k"]]) -> Float[Tensor, "*rows k"]:
        """log G from the negative logarithms of the graphs' entries, u = -log R; elementwise powers with R^(0) = 1 only.

        Of a product it is -sum_m u_m, which stays in the range of floats where the product itself would be zero. Where all
        entries are zero (u infinite), so is G.

        Example:
            >>> operator = GraphOperator(["motion"], 1, "rank1", start="product", noise=0.0)
            >>> operator.log_entries({"motion": torch.tensor([[[0.0, 2.0]]])}).tolist()
            [[[0.0, -2.0]]]
        """
        chosen = [surprises[name] for name in self.names]
        if self.is_product:
            return functools.reduce(torch.add, chosen).neg()
        nothing = torch.stack([one == float("inf") for one in chosen]).all(0)
        flat = {name: torch.exp(-one).flatten(0, -2)[None] for name, one in zip(self.names, chosen, strict=True)}
        graph = self(flat, square=False).view_as(chosen[0])
        return graph.clamp_min(LEAST_ENTRY).log().masked_fill(nothing, float("-inf"))

    def dense_coefficients(self) -> Tensor:
        """The coefficient of every product of powers, (P_1 + 1, ..., P_M + 1), whatever the form.

        For ``random-pair`` these are the coefficients of the average that evaluation computes. Entry [p, q, ...] belongs to
        R_1^(p) * R_2^(q) * ..., where R^(0) = 1 in the other graphs of a pair form. There are prod_m (P_m + 1) of them.
        """
        if self.form in JOINT_FORMS:
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

    @torch.no_grad()
    def project_nonnegative(self) -> None:
        """Set every negative coefficient to zero (joint form: every negative factor, so that A >= 0 follows).

        With relations in [0, 1] no term can then work against another, and with positive semidefinite ones G is a kernel.
        """
        for parameter in self.parameters():
            parameter.clamp_(min=0)

    @torch.no_grad()
    def modality_shares(self, graphs: Mapping[str, Tensor]) -> dict[str, float]:
        """How much each graph's powers >= 1 contribute to what differs from node to node in the fused graph.

            share_m = sum over terms with a power of m:  |A_pq...| std_i( mean_k term_ik ) / (number of graphs in the term)

        divided by the sum over m. A coefficient alone says little, as the sizes of relations differ; so each term counts
        with the spread, over nodes, of its row's mean. Elementwise powers with R^(0) = 1 only.

        Args:
            graphs: One graph (B, N, K) per name, for example those of the normal training bags.

        Returns:
            Shares in [0, 1] by name that sum to 1; all zero where nothing differs.

        Raises:
            ParameterError: If the expansion is another one.
        """
        if (self.expansion, self.zero_order) != ("hadamard", "ones"):
            got = f"expansion='{self.expansion}', zero_order='{self.zero_order}'"
            raise ParameterError("shares are defined for expansion='hadamard' with zero_order='ones'", got=got)
        chosen = self._choose(graphs)
        dense = self.dense_coefficients()
        totals = dict.fromkeys(self.names, 0.0)
        for index in itertools.product(*(range(size) for size in dense.shape)):
            inside = [m for m, power in enumerate(index) if power > 0]
            if not inside:
                continue
            term = torch.stack([chosen[m] ** index[m] for m in inside]).prod(0)
            size = float(dense[index].abs()) * float(term.mean(-1).std(correction=0))
            for m in inside:
                totals[self.names[m]] += size / len(inside)
        whole = sum(totals.values())
        return {name: total / whole if whole else 0.0 for name, total in totals.items()}

    def pair_coefficients(self, a: int, b: int) -> Float[Tensor, "p q"]:
        """A of graphs a and b (indices into ``names``), symmetrised if so chosen."""
        shared = self.form in ("random-pair", "full")
        coefficients: Tensor = getattr(self, self._pair_name(*(self.pairs[0] if shared else (a, b))))
        return (coefficients + coefficients.T) / 2 if self.symmetric else coefficients

    def _pair_name(self, a: int, b: int) -> str:
        if self.form in ("full", "random-pair"):
            return "coefficients"
        return f"coefficients_{self.names[a]}:{self.names[b]}"

    def _pairs(self, chosen: list[Tensor], mask: Tensor | None) -> Tensor:
        """Of matrix powers the sum over pairs; for ``random-pair`` one drawn pair in training, else the mean over all."""
        pairs = [self._draw_pair()] if self.form == "random-pair" and self.training else self.pairs
        used = sorted({m for pair in pairs for m in pair})  # powers once per graph, however many pairs it is in
        expanded = {m: self._matrix_powers(chosen[m], m, mask) for m in used}
        terms = [_matrix_polynomial(expanded[a], expanded[b], self.pair_coefficients(a, b)) for a, b in pairs]
        total = torch.stack(terms).sum(0)
        return total / len(pairs) if self.form == "random-pair" else total

    def entry_polynomial(self) -> tuple[EntryPolynomial, list[Tensor]]:
        """The operator as a function of single entries, for graphs that are never held whole, and its coefficients.

        ``random-pair`` draws its pair here in training.

        Raises:
            ParameterError: If the expansion is ``matrix``, whose entries are made of whole rows.
        """
        if self.expansion == "matrix":
            raise ParameterError("matrix powers need whole graphs", got="expansion='matrix'", fix="use expansion='hadamard'")
        identity = self.zero_order == "identity"
        if self.form in JOINT_FORMS:
            return EntryPolynomial(None, identity), [self.factors[name] for name in self.names]
        pairs = [self._draw_pair()] if self.form == "random-pair" and self.training else self.pairs
        scale = 1 / len(pairs) if self.form == "random-pair" else 1.0
        return EntryPolynomial(tuple(pairs), identity, scale), [self.pair_coefficients(a, b) for a, b in pairs]

    def _draw_pair(self) -> tuple[int, int]:
        """The pair of this step, from seed and step alone: a resumed run draws on, as ``draws`` is stored with the weights."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.draws))
        self.draws += 1
        return self.pairs[int(torch.randint(len(self.pairs), (), generator=generator))]

    def _joint(self, chosen: list[Tensor], mask: Tensor | None) -> Tensor:
        """The product form of matrix powers."""
        mixed = []
        for m, (name, graph) in enumerate(zip(self.names, chosen, strict=True)):
            expanded = self._matrix_powers(graph, m, mask)
            mixed.append(torch.einsum("rp,pbnk->rbnk", self.factors[name].to(graph.dtype), expanded))
        return torch.stack(mixed).prod(0).sum(0)

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
        return chosen

    def _require_equal_orders(self) -> None:
        if len(set(self.orders)) > 1:
            raise ParameterError("a shared or symmetric A needs the same order for every graph", got=str(self.orders))


@dataclass(frozen=True)
class EntryPolynomial:
    """An elementwise operator, to be applied to any block of entries.

    Args:
        pairs: The pairs of graphs that are mixed; None for the joint form.
        identity: Whether R^(0) = I: entries off the diagonal then have no terms with a zeroth power.
        scale: What the sum over pairs is multiplied by.
    """

    pairs: tuple[tuple[int, int], ...] | None
    identity: bool
    scale: float = 1.0

    def __call__(self, graphs: Sequence[Tensor], coefficients: Sequence[Tensor], *, diagonal: bool = False) -> Tensor:
        """Entries of G from the same entries of every graph; ``diagonal`` says that they form a square with the diagonal."""
        if not self.identity:
            return self._mix(graphs, coefficients)
        higher = self._mix(graphs, [self._without_zeroth(one) for one in coefficients])
        if not diagonal:
            return higher
        return _replace_diagonal(higher, self._mix([_diagonal(graph) for graph in graphs], coefficients))

    def _mix(self, graphs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
        if self.pairs is None:
            return product_polynomial(graphs, coefficients)
        terms = (bivariate_polynomial(graphs[a], graphs[b], one) for (a, b), one in zip(self.pairs, coefficients, strict=True))
        total = functools.reduce(torch.add, terms)
        return total if self.scale == 1.0 else self.scale * total

    def _without_zeroth(self, coefficients: Tensor) -> Tensor:
        if self.pairs is None:
            return nn.functional.pad(coefficients[:, 1:], (1, 0))
        return nn.functional.pad(coefficients[1:, 1:], (1, 0, 1, 0))


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names as a tuple, if each can be part of the name of a parameter."""
    if isinstance(names, str):
        raise ParameterError("graph names must be a list", got=repr(names), fix=f"use [{names!r}]")
    reserved = nn.ParameterDict()
    for name in names:
        if not name or "." in name or ":" in name or hasattr(reserved, name):
            raise ParameterError(
                f"a graph cannot be called '{name}'",
                expected="a name without '.' or ':' that is no attribute of torch.nn.ParameterDict",
                fix=f"rename the modality, for example '{name.replace('.', '_').replace(':', '_')}_features'",
            )
    return tuple(names)


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


def _matrix_polynomial(s_powers: Tensor, t_powers: Tensor, coefficients: Tensor) -> Tensor:
    """sum_p X_p * (sum_q A_pq Y_q) of powers (P+1, B, N, N) and (Q+1, B, N, N)."""
    inner = torch.einsum("pq,qbnk->pbnk", coefficients.to(t_powers.dtype), t_powers)
    return (s_powers * inner).sum(0)


def _diagonal(graph: Tensor) -> Tensor:
    return graph.diagonal(dim1=-2, dim2=-1)


def _replace_diagonal(graph: Tensor, on_diagonal: Tensor) -> Tensor:
    if torch.compiler.is_exporting():  # other runtimes have no scatter along a diagonal
        diagonal = torch.eye(graph.shape[-1], dtype=torch.bool, device=graph.device)
        return torch.where(diagonal, on_diagonal[..., None], graph)
    return torch.diagonal_scatter(graph, on_diagonal, dim1=-2, dim2=-1)
