"""The method itself, as pure tensor functions: relationship graphs, their powers, and the operator that fuses them.

Read in this order: ``distances`` (by matrix products), ``relationship`` (what a graph is, and graphs of finer units),
``references`` (known-normal units to relate to), ``readings`` (what is read off such a graph), ``expansion`` (powers),
``operator`` (the learned mixture of powers), ``kernels`` (how it is computed), ``streaming`` and ``sparse`` (graphs too large
to hold).
"""

from .kernels import use_kernel
from .operator import GraphOperator
from .relation_vectors import cosine_vectors, dot_vectors, gaussian_vectors
from .sparse import propagate_nearest
from .streaming import propagate

__all__ = [
    "GraphOperator",
    "cosine_vectors",
    "dot_vectors",
    "gaussian_vectors",
    "propagate",
    "propagate_nearest",
    "use_kernel",
]
