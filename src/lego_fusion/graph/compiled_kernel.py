"""The operator's polynomials as straight lines of code for ``torch.compile``; apart from ``kernels``, as it writes source.

Compiled, an entry's whole polynomial is computed while its relations are in registers: one read of each graph, one write.
``torch.compile`` keeps its variants with the *code* of a function and gives up silently after 8 of them. So every order gets
code of its own, written out here and kept in a dictionary; sizes are dynamic, so that another N compiles nothing again.

The first use of an order takes seconds to compile; torch keeps the result on disk for the next process.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import eager_kernel

MOST_COEFFICIENTS = 128  # straight lines grow with them, and the time to compile
DTYPES = (torch.float32, torch.float64)
ENTRIES = 2**18  # summed at a time: partial sums keep rounding small

Key = tuple[Any, ...]
_compiled: dict[Key, Callable[..., Any]] = {}
_used: set[int] = set()  # those that have been called
_failure: list[str] = []  # why nothing can be compiled here, once that is known


def available() -> bool:
    """Whether nothing has shown yet that ``torch.compile`` fails here."""
    return not _failure


def unavailable(reason: str) -> None:
    """Say once per process that there is no compiled kernel here, and why."""
    if not _failure:
        _failure.append(reason)
        warnings.warn(
            f"graphs are fused without compiled kernels, which is several times slower: {reason}. "
            "What to do: install a C++ compiler (g++ or clang++), or say LEGO_FUSION_KERNEL=eager.",
            RuntimeWarning,
            stacklevel=2,
        )


def bivariate(s: Tensor, t: Tensor, coefficients: Tensor) -> Tensor:
    """sum_pq A_pq s^p t^q by Horner's rule in s over polynomials in t."""
    shape = tuple(coefficients.shape)
    run = _function(("bivariate", shape, s.dtype, s.device.type), lambda: bivariate_source(*shape))
    result = _call(run, _flat(s), _flat(t), coefficients)
    return eager_kernel.bivariate(s, t, coefficients) if result is None else _one(result).view(s.shape)


def bivariate_gradients(
    s: Tensor, t: Tensor, coefficients: Tensor, gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients in s, t and A; the two graphs' together, so that there are few functions to compile."""
    shape, kind = tuple(coefficients.shape), (s.dtype, s.device.type)
    tensors = (_flat(s), _flat(t), _flat(gradient))
    slopes: Sequence[Tensor] | None = ()
    sums: Sequence[Tensor] | None = ()
    if any(needed[:2]):
        slopes = _call(_function(("slopes", shape, *kind), lambda: bivariate_slopes_source(*shape)), *tensors, coefficients)
    if needed[2]:
        run = _function(("coefficients", shape, *kind), lambda: bivariate_coefficients_source(*shape))
        sums = _summed(run, tensors, ())
    if slopes is None or sums is None:
        return eager_kernel.bivariate_gradients(s, t, coefficients, gradient, needed)
    return _shaped([*(slopes or (None, None)), *(sums or (None,))], [s, t, coefficients], needed)


def product(graphs: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """sum_r prod_m (sum_p a_rmp s_m^p)."""
    shapes, first = tuple(tuple(a.shape) for a in factors), graphs[0]
    run = _function(("product", shapes, first.dtype, first.device.type), lambda: product_source(shapes))
    result = _call(run, *map(_flat, graphs), *factors)
    return eager_kernel.product(graphs, factors) if result is None else _one(result).view(first.shape)


def product_gradients(
    graphs: Sequence[Tensor], factors: Sequence[Tensor], gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients in all graphs and then in all factors; those of the graphs together, and those of the factors."""
    shapes, count = tuple(tuple(a.shape) for a in factors), len(graphs)
    kind = (graphs[0].dtype, graphs[0].device.type)
    tensors = (_flat(gradient), *map(_flat, graphs))
    slopes: Sequence[Tensor] | None = ()
    sums: Sequence[Tensor] | None = ()
    if any(needed[:count]):
        slopes = _call(_function(("product slopes", shapes, *kind), lambda: product_slopes_source(shapes)), *tensors, *factors)
    if any(needed[count:]):
        sums = _summed(_function(("factors", shapes, *kind), lambda: product_factors_source(shapes)), tensors, tuple(factors))
    if slopes is None or sums is None:
        return eager_kernel.product_gradients(graphs, factors, gradient, needed)
    nothing = [None] * count
    return _shaped([*(slopes or nothing), *(sums or nothing)], [*graphs, *factors], needed)


def bivariate_source(rows: int, columns: int) -> str:
    """Code of ``run(s, t, a)``: nested Horner, (P+1)(Q+1) multiply-adds."""
    lines = [f"g = {_horner(f'a[{rows - 1}, {{}}]', 't', columns)} + torch.zeros_like(s)"]
    lines += [f"g = g * s + ({_horner(f'a[{p}, {{}}]', 't', columns)})" for p in reversed(range(rows - 1))]
    return _function_source("s, t, a", lines, ["g"])


def bivariate_slopes_source(rows: int, columns: int) -> str:
    """Code of ``run(s, t, w, a)``: w dg/ds and w dg/dt, by Horner's rule for a value and its slope together."""
    lines = ["v = ds = dt = torch.zeros_like(s)"]
    for p in reversed(range(rows)):
        lines += [f"i = a[{p}, {columns - 1}] + torch.zeros_like(t)", "di = torch.zeros_like(t)"]
        for q in reversed(range(columns - 1)):
            lines += ["di = di * t + i", f"i = i * t + a[{p}, {q}]"]
        lines += ["ds = ds * s + v", "v = v * s + i", "dt = dt * s + di"]
    return _function_source("s, t, w, a", lines, ["ds * w", "dt * w"])


def bivariate_coefficients_source(rows: int, columns: int) -> str:
    """Code of ``run(s, t, w)``: every sum of w s^p t^q."""
    lines, sums = ["y = w"], []
    for p in range(rows):
        lines.append("x = y")
        for q in range(columns):
            lines.append(f"r{p}_{q} = x.sum()")
            sums.append(f"r{p}_{q}")
            if q < columns - 1:
                lines.append("x = x * t")
        if p < rows - 1:
            lines.append("y = y * s")
    return _function_source("s, t, w", lines, [f"torch.stack([{', '.join(sums)}])"])


def product_source(shapes: Sequence[tuple[int, ...]]) -> str:
    """Code of ``run(s0, ..., a0, ...)``: for each term one polynomial per graph, and their product."""
    rank = shapes[0][0]
    terms = [" * ".join(f"({_horner(f'a{m}[{r}, {{}}]', f's{m}', n)})" for m, (_, n) in enumerate(shapes)) for r in range(rank)]
    return _function_source(_names(len(shapes)), [], [f"{' + '.join(terms)} + torch.zeros_like(s0)"])


def product_slopes_source(shapes: Sequence[tuple[int, ...]]) -> str:
    """Code of ``run(w, s0, ..., a0, ...)``: for each graph w times the slope of its polynomials times the others' values."""
    lines, count, rank = [], len(shapes), shapes[0][0]
    for m, (_, size) in enumerate(shapes):
        for r in range(rank):
            lines += [f"v{m}_{r} = a{m}[{r}, {size - 1}] + torch.zeros_like(s{m})", f"d{m}_{r} = torch.zeros_like(s{m})"]
            for p in reversed(range(size - 1)):
                lines += [f"d{m}_{r} = d{m}_{r} * s{m} + v{m}_{r}", f"v{m}_{r} = v{m}_{r} * s{m} + a{m}[{r}, {p}]"]
    results = []
    for m in range(count):
        terms = [" * ".join([f"d{m}_{r}", *(f"v{k}_{r}" for k in range(count) if k != m)]) for r in range(rank)]
        results.append(f"w * ({' + '.join(terms)})")
    return _function_source("w, " + _names(count), lines, results)


def product_factors_source(shapes: Sequence[tuple[int, ...]]) -> str:
    """Code of ``run(w, s0, ..., a0, ...)``: for each factor every sum of w s_m^p times the other graphs' values."""
    count, rank = len(shapes), shapes[0][0]
    lines = [f"v{m}_{r} = {_horner(f'a{m}[{r}, {{}}]', f's{m}', n)}" for m, (_, n) in enumerate(shapes) for r in range(rank)]
    results = []
    for m, (_, size) in enumerate(shapes):
        sums = []
        for r in range(rank):
            lines.append(f"x = {' * '.join(['w', *(f'v{k}_{r}' for k in range(count) if k != m)])}")
            for p in range(size):
                lines.append(f"r{m}_{r}_{p} = x.sum()")
                sums.append(f"r{m}_{r}_{p}")
                if p < size - 1:
                    lines.append(f"x = x * s{m}")
        results.append(f"torch.stack([{', '.join(sums)}])")
    return _function_source("w, " + _names(count), lines, results)


def _horner(coefficient: str, variable: str, count: int) -> str:
    """c_0 + x (c_1 + x (...)), with ``coefficient`` a pattern for c_p."""
    text = coefficient.format(count - 1)
    for p in reversed(range(count - 1)):
        text = f"({text}) * {variable} + {coefficient.format(p)}"
    return text


def _names(count: int) -> str:
    return ", ".join([f"s{m}" for m in range(count)] + [f"a{m}" for m in range(count)])


def _function_source(arguments: str, lines: Sequence[str], results: Sequence[str]) -> str:
    body = [*lines, f"return ({', '.join(results)},)"]
    return f"def run({arguments}):\n" + "\n".join(f"    {line}" for line in body)


def _function(key: Key, source: Callable[[], str]) -> Callable[..., Any]:
    if key not in _compiled:
        namespace: dict[str, Any] = {"torch": torch}
        exec(compile(source(), f"<lego-fusion {key}>", "exec"), namespace)  # noqa: S102 - our own text, of sizes only
        _compiled[key] = torch.compile(namespace["run"], fullgraph=True)
    return _compiled[key]


def _call(run: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...] | None:
    """What the compiled function returns, or None where nothing can be compiled."""
    if _failure:
        return None
    try:
        call = run if id(run) in _used else functools.partial(_first_call, run)
        device = tensors[0].device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False), torch.no_grad():
                return call(*tensors)
        with torch.no_grad():
            return call(*tensors)
    except (RuntimeError, OSError, ImportError) as error:  # torch's own compile errors are RuntimeErrors
        if isinstance(error, torch.OutOfMemoryError):
            raise
        unavailable(f"torch.compile failed with {type(error).__name__}")
        return None


def _first_call(run: Callable[..., Any], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Compile and run, without what torch's compiler warns of about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: tuple[Tensor, ...] = run(*tensors)
    _used.add(id(run))
    return result


def _summed(run: Callable[..., Any], tensors: Sequence[Tensor], coefficients: tuple[Tensor, ...]) -> list[Tensor] | None:
    """Sums over all entries, a block at a time."""
    total: list[Tensor] | None = None
    entries = tensors[0].numel()
    blocks = max(1, entries // ENTRIES)
    edges = [entries * block // blocks for block in range(blocks + 1)]
    for first, last in itertools.pairwise(edges):
        found = _call(run, *(_flat(tensor[first:last]) for tensor in tensors), *coefficients)
        if found is None:
            return None
        total = list(found) if total is None else [a + b for a, b in zip(total, found, strict=True)]
    return total


def _shaped(found: Sequence[Tensor | None], like: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    return [
        one.view(shape.shape) if one is not None and need else None
        for one, shape, need in zip(found, like, needed, strict=True)
    ]


def _one(found: tuple[Tensor, ...]) -> Tensor:
    return found[0]


def _flat(x: Tensor) -> Tensor:
    """One contiguous row of any length; a copy only where the tensor is not contiguous.

    ``data`` makes it no view: of views, the sizes of what they look at would be compiled in.
    """
    flat = x.reshape(-1).data
    torch._dynamo.mark_dynamic(flat, 0)
    return flat
