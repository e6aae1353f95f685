"""The method itself, as pure tensor functions: relationship graphs, their powers, and the operator that fuses them.

Read in this order: ``distances`` (by matrix products), ``relationship`` (what a graph is), ``granularity`` (graphs of finer
units), ``references`` (known-normal units to relate to), ``expansion`` (powers), ``operator`` (the learned mixture of powers),
``kernels`` (how it is computed), ``streaming`` and ``sparse`` (graphs too large to hold). The names below are imported when
they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "GraphOperator": "operator",
    "propagate": "streaming",
    "propagate_nearest": "sparse",
    "cosine_vectors": "relation_vectors",
    "dot_vectors": "relation_vectors",
    "gaussian_vectors": "relation_vectors",
    "use_kernel": "kernel_choice",
}

__all__ = [  # noqa: RUF022 - in the order of reading
    "GraphOperator",
    "use_kernel",
    "propagate",
    "propagate_nearest",
    "cosine_vectors",
    "dot_vectors",
    "gaussian_vectors",
]

if TYPE_CHECKING:
    from .kernel_choice import use_kernel
    from .operator import GraphOperator
    from .relation_vectors import cosine_vectors, dot_vectors, gaussian_vectors
    from .sparse import propagate_nearest
    from .streaming import propagate


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lego_fusion.graph' has no attribute '{name}'")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
