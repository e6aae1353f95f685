"""Fusions by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..errors import ParameterError, check_choice
from .attention import CrossAttention, SelfAttention
from .base import Fusion
from .elementwise import MLP, Add, Concat, Gated, Product, ScoreAverage
from .graph_convolution import GraphConvolution
from .lego import LegoFusion
from .temporal import MTN
from .tensor import Bilinear, LowRankTensorFusion, TensorFusion

FUSIONS: dict[str, type[Fusion]] = {
    fusion.kind: fusion
    for fusion in (
        LegoFusion,
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
}


def make_fusion(kind: str, config: dict[str, Any]) -> Fusion:
    """Make a fusion from its name and the arguments that ``Fusion.config`` returned.

    Raises:
        ParameterError: If the name is unknown (the message lists those that exist), or an argument is unknown or missing.

    Example:
        >>> make_fusion("concat", {"modalities": {"motion": 3}}).out_features
        3
    """
    check_choice(kind, "kind", "make_fusion", tuple(FUSIONS))
    arguments = inspect.signature(FUSIONS[kind])
    try:
        arguments.bind(**config)
    except TypeError as error:
        expected = ", ".join(arguments.parameters)
        raise ParameterError(f"fusion '{kind}' cannot be made: {error}", expected=expected, got=", ".join(config)) from error
    return FUSIONS[kind](**config)


def make_plain_fusion(kind: str, modalities: Mapping[str, int], *, seed: int = 0) -> Fusion:
    """Make a fusion with its default arguments, and a seed where it takes one.

    Example:
        >>> make_plain_fusion("add", {"motion": 3, "text": 2}, seed=1).config()
        {'modalities': {'motion': 3, 'text': 2}, 'width': 32, 'seed': 1}
    """
    check_choice(kind, "kind", "make_plain_fusion", tuple(FUSIONS))
    takes_seed = "seed" in inspect.signature(FUSIONS[kind]).parameters
    return make_fusion(kind, {"modalities": modalities} | ({"seed": seed} if takes_seed else {}))
