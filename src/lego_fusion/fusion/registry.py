"""Fusions by name."""

from __future__ import annotations

from typing import Any

from ..errors import check_choice
from .base import Fusion
from .elementwise import Concat
from .lego import LegoFusion

FUSIONS: dict[str, type[Fusion]] = {fusion.kind: fusion for fusion in (LegoFusion, Concat)}


def make_fusion(kind: str, config: dict[str, Any]) -> Fusion:
    """Make a fusion from its name and the arguments that ``Fusion.config`` returned.

    Raises:
        ParameterError: If the name is unknown (the message lists those that exist) or an argument is not one of the fusion's.

    Example:
        >>> make_fusion("concat", {"modalities": {"motion": 3}}).out_features
        3
    """
    check_choice(kind, "kind", "make_fusion", tuple(FUSIONS))
    return FUSIONS[kind](**config)
