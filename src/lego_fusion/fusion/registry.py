"""Fusions by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ParameterError, check_choice
from ..own_parts import Parts
from .base import Fusion
from .elementwise import MLP, Add, Bilinear, Concat, Gated, LowRankTensorFusion, Product, ScoreAverage, TensorFusion
from .lego import LegoFusion
from .networks import MTN, CrossAttention, GraphConvolution, SelfAttention
from .paper import PaperFusion

FUSIONS: Parts[Fusion] = Parts(
    "fusion",
    Fusion,  # type: ignore[type-abstract]
    "kind",
    "lego_fusion.fusions",
    {
        fusion.kind: fusion
        for fusion in (
            LegoFusion,
            PaperFusion,
            Concat,
            Add,
            Product,
            Gated,
            MLP,
            CrossAttention,
            SelfAttention,
            Bilinear,
            TensorFusion,
            LowRankTensorFusion,
            MTN,
            GraphConvolution,
            ScoreAverage,
        )
    },
    (__name__, "FUSIONS"),
)
"""Every fusion by name; one of a person's own is ``file.py:Class`` (``own_parts``)."""

SET_ELSEWHERE = ("modalities", "nodes", "seed", "window", "units")
"""Arguments that data, manifests and the run decide, never an option of the fusion."""


def options_of(kind: str) -> tuple[str, ...]:
    """Names of the arguments of a fusion that a person may choose.

    Example:
        >>> options_of("tensor")
        ('reduced',)
    """
    check_choice(kind, "kind", "options_of", FUSIONS)
    return tuple(name for name in FUSIONS[kind].defaults() if name not in SET_ELSEWHERE)


def make_fusion(kind: str, config: dict[str, Any]) -> Fusion:
    """Make a fusion from its name and the arguments that ``Fusion.config`` returned.

    Raises:
        ParameterError: If the name is unknown (the message lists those that exist), or an argument is unknown or missing.

    Example:
        >>> make_fusion("concat", {"modalities": {"motion": 3}}).out_features
        3
    """
    check_choice(kind, "kind", "make_fusion", FUSIONS)
    arguments = FUSIONS[kind].defaults()
    odd = [name for name in config if name not in arguments]
    odd += [name for name, default in arguments.items() if default is inspect.Parameter.empty and name not in config]
    if odd:
        fault = "got an unexpected keyword argument" if odd[0] in config else "missing a required argument:"
        what = f"fusion '{kind}' cannot be made: {fault} '{odd[0]}'"
        raise ParameterError(what, expected=", ".join(arguments), got=", ".join(config))
    return FUSIONS[kind](**config)


def make_plain_fusion(kind: str, modalities: Mapping[str, int], *, asked: Sequence[str] = (), **given: Any) -> Fusion:
    """Make a fusion with its default arguments but for those given that it takes.

    Args:
        kind: Name.
        modalities: Width of each modality.
        asked: Names among ``given`` that it must take: an option that somebody asked for is never dropped.
        given: Arguments such as ``seed``, ``nodes`` or ``units``, left out where a fusion has none of that name.

    Raises:
        ParameterError: If the name is unknown, or the fusion has no argument that was asked for.

    Example:
        >>> make_plain_fusion("add", {"motion": 3, "text": 2}, seed=1, nodes=32).config()
        {'modalities': {'motion': 3, 'text': 2}, 'width': 32, 'seed': 1}
    """
    check_choice(kind, "kind", "make_plain_fusion", FUSIONS)
    takes = FUSIONS[kind].defaults()
    for name in asked:
        if name not in options_of(kind):
            near = difflib.get_close_matches(name, options_of(kind), n=1)
            raise ParameterError(
                f"fusion '{kind}' has no option '{name}'",
                expected=", ".join(options_of(kind)) or "none",
                fix=f"write '{near[0]}'" if near else "leave it out",
            )
    return make_fusion(kind, {"modalities": modalities, **{name: one for name, one in given.items() if name in takes}})
