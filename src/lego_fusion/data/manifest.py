"""How a feature set was made: the record that keeps features and models from being mixed up."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_serializer, model_validator

from ..errors import ManifestError

Nature = Literal["direction", "magnitude"]
UnitKind = Literal["none", "cell", "patch", "frame", "word"]
UNIT_FIELDS = ("unit_kind", "units", "grid")
_NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"


class Manifest(BaseModel):
    """Everything that changes the numbers of one modality, the same for every video of a dataset.

    Args:
        modality: Name of the feature set, for example ``"motion"``.
        extractor: Name of the extractor that wrote it, or ``"imported"``.
        version: Version of that extractor's output.
        settings: Its settings, as JSON values.
        weights_hash: SHA-256 of the network's weights; None where there is no network.
        width: D, numbers per row.
        crops: C; 1 means rows of shape (D,).
        snippet_frames: Frames that a row describes.
        stride: Frames from one row to the next.
        normalisation: What was done to a row after extraction, ``"none"`` or ``"l2"``.
        nature: What in a row carries the signal: ``"direction"`` (embeddings) or ``"magnitude"`` (physical
            amounts such as speed). It describes the data; no default depends on it.
        unit_kind: What a row is cut into: ``"none"``, or ``"cell"``, ``"patch"``, ``"frame"`` or ``"word"``. Rows of finer
            units are stored as (U, D + 1), the last column saying which units are there (``data.segments``).
        units: U, units of a row; 1 where there are none.
        grid: Rows and columns of the picture that the units fill, row by row; None where units have no place.

    Example:
        >>> a = Manifest(modality="motion", extractor="motion", version="1", width=8, nature="magnitude")
        >>> a.differences(a.model_copy(update={"width": 9}))
        ['width: 8 against 9']
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: str = Field(pattern=_NAME)
    extractor: str
    version: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    weights_hash: str | None = None
    width: int = Field(ge=1)
    crops: int = Field(default=1, ge=1)
    snippet_frames: int = Field(default=16, ge=1)
    stride: int = Field(default=16, ge=1)
    normalisation: Literal["none", "l2"] = "none"
    nature: Nature = "direction"
    unit_kind: UnitKind = "none"
    units: int = Field(default=1, ge=1)
    grid: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _units_fit(self) -> Manifest:
        if not self.has_units and (self.units, self.grid) != (1, None):
            raise ValueError(f"modality '{self.modality}' has units={self.units}, grid={self.grid}, but unit_kind is none")
        if self.has_units and self.crops > 1:
            raise ValueError(f"modality '{self.modality}' has finer units and {self.crops} crops; only one of them can be")
        if self.grid is not None and (min(self.grid) < 1 or self.grid[0] * self.grid[1] != self.units):
            raise ValueError(f"modality '{self.modality}' has {self.units} units, which do not fill a grid of {self.grid}")
        return self

    @model_serializer(mode="wrap")
    def _without_absent_units(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave the fields of units out where there are none, so that such manifests read and hash as they always did."""
        fields = handler(self)
        return fields if self.has_units else {name: value for name, value in fields.items() if name not in UNIT_FIELDS}

    @property
    def has_units(self) -> bool:
        """Whether a row is cut into finer units."""
        return self.unit_kind != "none"

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row as it is stored: (D,), (C, D) with crops, (U, D + 1) with finer units."""
        if self.has_units:
            return self.units, self.width + 1
        return (self.width,) if self.crops == 1 else (self.crops, self.width)

    @staticmethod
    def is_name(text: str) -> bool:
        """Whether a modality can be named so: a letter first, then letters, digits, ``-`` and ``_``."""
        return re.fullmatch(_NAME, text) is not None

    @property
    def hash(self) -> str:
        """SHA-256 over all fields; equal hashes mean features that may be mixed."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def differences(self, other: Manifest) -> list[str]:
        """Name every field in which two manifests differ, as ``field: mine against theirs``."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in type(self).model_fields)
        return [f"{name}: {mine!r} against {theirs!r}" for name, mine, theirs in pairs if mine != theirs]

    def require_same(self, other: Manifest, *, where: str) -> None:
        """Raise ``ManifestError`` if ``other`` was made in another way than this manifest says."""
        differences = self.differences(other)
        if differences:
            raise ManifestError(
                f"features of modality '{self.modality}' were made in another way",
                where=where,
                expected="the same manifest",
                got="; ".join(differences),
                fix="extract the features again with the settings of the model or dataset",
            )
