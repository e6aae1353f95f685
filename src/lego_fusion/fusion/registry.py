"""Fusions by name."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import ParameterError, check_choice
from .base import Fusion
from .elementwise import Concat
from .lego import LegoFusion
from .temporal import MTN

FUSIONS: dict[str, type[Fusion]] = {fusion.kind: fusion for fusion in (LegoFusion, Concat, MTN)}


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
