"""The method itself, as pure tensor functions: relationship graphs, their powers, and the operator that fuses them.

Read in this order: ``relationship`` (what a graph is), ``granularity`` (graphs of finer units), ``references`` (known-normal
units to relate to), ``expansion`` (powers), ``operator`` (the learned mixture of powers), ``kernels`` (how it is computed),
``streaming`` and ``sparse`` (graphs too large to hold).
"""
