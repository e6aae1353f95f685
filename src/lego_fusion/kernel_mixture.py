"""Kernel ridge on a learned mixture of kernels, fitted to some rows: to all, and to those without a fold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .data.views import View
from .graph import kernel_learning as learning
from .graph.relationship import cosine_graph, gaussian_graph, median_distance

BLOCK = 1024  # rows predicted at a time
LEARNING_ROWS = 400  # that A is learned from
EXACT = 4  # times n_landmarks: the most rows of which each is a support


class ViewKernels:
    """The kernels of one view, with what they keep of the training rows: mean and scale, bandwidth, and the supports."""

    def __init__(self, view: View, *, text: bool) -> None:
        self.text = text
        self.kernels = ["cosine"] if text else ["cosine", "gaussian"]
        if not text:
            rows = _dense(view)
            self.mean, scale = rows.mean(0), rows.std(0)
            self.scale = np.where(scale > 1e-12 * np.abs(rows).max(0, initial=0), scale, 1.0)

    def prepare(self, view: View) -> Any:
        """Rows as the kernels take them: text to unit length, everything else standardised by the training rows."""
        if not self.text:
            return torch.from_numpy((_dense(view) - self.mean) / self.scale)
        rows = sp.csr_array(view)
        length = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
        return sp.csr_array(sp.diags_array(1 / np.where(length > 0, length, 1)) @ rows)

    def fit_bandwidth(self, rows: Any) -> None:
        """The median distance between different rows among a few hundred."""
        if not self.text:
            self.bandwidth = float(median_distance(rows))

    def graphs(self, rows: Any, supports: Any) -> Iterator[tuple[str, Tensor]]:
        """(kernel, graph of rows against supports)."""
        if self.text:
            yield "cosine", torch.from_numpy((rows @ supports.T).toarray())
            return
        yield "cosine", cosine_graph(rows[None], supports[None])[0]
        yield "gaussian", gaussian_graph(rows[None], supports[None], bandwidth=self.bandwidth)[0]


class MixtureOptions(NamedTuple):
    """What decides a mixture beside its rows; names as in ``LegoClassifier``."""

    weights: str
    steps: int
    ridge: float | None
    n_landmarks: int


class KernelMixture:
    """Kernel ridge on a learned mixture of kernels: all that is fitted to some rows, and to nothing else."""

    def __init__(self, options: MixtureOptions, text: set[str]) -> None:
        self.options, self.text = options, text
        self.without: dict[tuple[str, ...], tuple[np.ndarray, learning.Ridge, Tensor]] = {}

    def fit(self, views: dict[str, View], targets: np.ndarray, counts: np.ndarray, order: np.ndarray) -> KernelMixture:
        """Learn A from the first rows in an order, then solve the ridge on all of them; ``targets`` is (rows, outputs)."""
        self.kernels = {name: ViewKernels(view, text=name in self.text) for name, view in views.items()}
        rows = {name: kernels.prepare(views[name]) for name, kernels in self.kernels.items()}
        products = self.options.weights in ("averaged", "full")
        self.terms = learning.dictionary({name: one.kernels for name, one in self.kernels.items()}, products=products)
        self._learn(rows, torch.from_numpy(targets), np.sort(order[:LEARNING_ROWS]))
        self._solve(rows, torch.from_numpy(targets), torch.from_numpy(counts), order)
        return self

    def _learn(self, rows: dict[str, Any], targets: Tensor, chosen: np.ndarray) -> None:
        some = {name: row[chosen] for name, row in rows.items()}
        for name, kernels in self.kernels.items():
            kernels.fit_bandwidth(some[name])
        stack = learning.evaluate_terms(self.terms, self.graphs(some, some))
        variances = learning.kernel_variances(stack)
        learned, self.losses = learning.learn_mixture(
            self.terms,
            learning.centre_kernel(stack) / variances[:, None, None],
            targets[chosen],
            self.options.weights,
            steps=self.options.steps,
            ridge=self.options.ridge,
        )
        self.weights, self.scaled = learned, learned / variances

    def _solve(self, rows: dict[str, Any], targets: Tensor, counts: Tensor, order: np.ndarray) -> None:
        samples, landmarks = len(targets), self.options.n_landmarks
        exact = samples <= EXACT * landmarks
        self.chosen = np.arange(samples) if exact else np.sort(order[:landmarks])
        self.supports = {name: row[self.chosen] for name, row in rows.items()}
        self.support_targets, self.support_counts = targets[self.chosen], counts[self.chosen]
        shares = counts / counts.sum()
        mixed, means = [], torch.zeros(len(self.terms), len(self.chosen), dtype=targets.dtype)
        for block in [slice(None)] if exact else _blocks(samples):
            graphs = self.graphs({name: row[block] for name, row in rows.items()}, self.supports)
            mixed.append(learning.mix_terms(self.terms, self.scaled, graphs))
            means += learning.term_means(self.terms, graphs, shares[block])
        if exact:
            self.ridge = learning.solve_ridge(learning.centre_kernel(mixed[0]), targets, self._ridges, counts=counts)
        else:
            among = learning.mix_terms(self.terms, self.scaled, self.graphs(self.supports, self.supports))
            self.ridge = learning.solve_landmark_ridge(torch.cat(mixed), among, targets, self._ridges, counts=counts)
        self.offset = self.scaled @ means

    @property
    def _ridges(self) -> tuple[float, ...]:
        return learning.RIDGES if self.options.ridge is None else (float(self.options.ridge),)

    def graphs(self, rows: dict[str, Any], supports: dict[str, Any]) -> dict[learning.Factor, Tensor]:
        """Every kernel of every view that is there."""
        return {
            (kernel, name): graph
            for name, row in rows.items()
            for kernel, graph in self.kernels[name].graphs(row, supports[name])
        }

    def outputs(self, views: dict[str, View]) -> np.ndarray:
        """The ridge's outputs (rows, outputs), for rows that all have the same views."""
        kept, ridge, offset = self._with(tuple(sorted(self.kernels.keys() - views.keys())))
        terms, weights = [self.terms[number] for number in kept], self.scaled[kept]
        found = []
        for block in _blocks(next(iter(views.values())).shape[0]):
            rows = {name: self.kernels[name].prepare(view[block]) for name, view in views.items()}
            mixed = learning.mix_terms(terms, weights, self.graphs(rows, self.supports))
            found.append(ridge.mean + (mixed - offset) @ ridge.coefficients)
        return np.asarray(torch.cat(found).numpy())

    def _with(self, missing: tuple[str, ...]) -> tuple[np.ndarray, learning.Ridge, Tensor]:
        """The kernels that are left without some views, and the ridge on them: solved once, on the supports."""
        if not missing:
            return np.arange(len(self.terms)), self.ridge, self.offset
        if missing not in self.without:
            kept = np.array([number for number, term in enumerate(self.terms) if not term.uses(missing)])
            terms, there = [self.terms[number] for number in kept], self.kernels.keys() - set(missing)
            graphs = self.graphs({name: self.supports[name] for name in there}, self.supports)
            mixed, shares = (
                learning.mix_terms(terms, self.scaled[kept], graphs),
                self.support_counts / self.support_counts.sum(),
            )
            centred = learning.centre_kernel(mixed)
            solved = learning.solve_ridge(centred, self.support_targets, self._ridges, counts=self.support_counts)
            self.without[missing] = kept, solved, shares @ mixed
        return self.without[missing]


def _dense(view: View) -> np.ndarray:
    return np.ascontiguousarray(view.toarray() if sp.issparse(view) else view)


def _blocks(samples: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, samples)) for start in range(0, samples, BLOCK)]
