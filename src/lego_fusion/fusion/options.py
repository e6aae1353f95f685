"""Options of fusions as frozen records: Python, YAML and ``--set fusion.KEY=VALUE`` share their names, ranges and messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from ..errors import ParameterError
from ..graph.expansion import Expansion, Normalisation, ZeroOrder
from ..graph.operator import Form

Count: TypeAlias = Annotated[int, Field(strict=True, ge=1, description="an int in [1, inf)")]
Natural: TypeAlias = Annotated[int, Field(strict=True, ge=0, description="an int in [0, inf)")]
Amount: TypeAlias = Annotated[float, Field(strict=True, ge=0, description="a number in [0.0, inf]")]
Share: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1, description="a number in [0.0, 1.0]")]
Nodes: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1e4, description="a number in [0.0, 10000.0]")]
Flag: TypeAlias = Annotated[bool, Field(strict=True, description="true or false")]
Powers: TypeAlias = Annotated[tuple[Count, ...], Field(min_length=1, description="a list of ints in [1, inf)")]
OptionsT = TypeVar("OptionsT", bound="FusionOptions")
OperatorChoice = Literal["fixed", "learned"]
RelationKind = Literal["cosine", "gaussian", "dot"]
UnitPooling = Literal["mean", "max"]
Rows = Literal["ordered", "sorted", "statistics", "propagate"]


class FusionOptions(BaseModel):
    """Base of the options of a fusion: frozen, and without names that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls: type[OptionsT], given: Mapping[str, Any], owner: str) -> OptionsT:
        """The defaults, with what is given in their place.

        Raises:
            ParameterError: If a name is unknown or a value out of its range.

        Example:
            >>> LegoOptions.of({"kept": 0}, "LegoFusion")
            Traceback (most recent call last):
                ...
            lego_fusion.errors.ParameterError: The 'kept' parameter of LegoFusion must be an int in [1, inf). Got 0 instead
        """
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
        if name not in cls.model_fields:
            raise ParameterError(f"{owner} has no parameter '{name}'", expected=", ".join(cls.model_fields), got=name)
        expected = _expected(get_type_hints(cls, include_extras=True)[name])
        raise ParameterError(f"The '{name}' parameter of {owner} must be {expected}. Got {given[name]!r} instead")


def _expected(kind: Any) -> str:
    """What a value of a type is, in words."""
    if get_origin(kind) is Annotated:
        return next(one.description for one in get_args(kind) if isinstance(one, FieldInfo)) or str(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is dict:
        return "such a value for each modality by name"
    return " or ".join(map(_expected, get_args(kind))) or "None"


class LegoOptions(FusionOptions):
    """Options of ``LegoFusion``; see there."""

    references: Count = 2048
    kept: Count = 3
    orders: Powers = (1, 2)
    bandwidth_exponent: Share = 0.25
    pseudo_videos: Amount = 4.0
    time_context: Nodes = 2.0
    window: Count | None = None
    units: dict[str, Count] = {}
    most_novel: Count = 8
    operator: OperatorChoice = "fixed"
    order: Natural = 2
    form: Form = "joint"
    rank: Count | None = None
    seed: Natural = 0


class PaperOptions(FusionOptions):
    """Options of ``PaperFusion``; see there."""

    nodes: Count = 32
    relations: RelationKind | dict[str, RelationKind] = "cosine"
    centre: Flag = False
    unit_range: Flag = False
    nearest: Count | None = None
    rows: Rows = "ordered"
    own_features: Flag = False
    units: dict[str, Count] = {}
    unit_pooling: UnitPooling = "mean"
    order: Natural | dict[str, Natural] = 2
    form: Form | None = None
    rank: Count | None = None
    expansion: Expansion = "hadamard"
    zero_order: ZeroOrder = "identity"
    normalisation: Normalisation = "row"
    symmetric: Flag = False
    seed: Natural = 0
