"""How a feature set was made: the record that keeps features and models from being mixed up."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ..errors import ManifestError

Nature = Literal["direction", "magnitude"]
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
        nature: What in a row carries the signal: ``"direction"`` (embeddings, compared by cosine) or ``"magnitude"``
            (physical amounts such as speed, compared by distance). It sets the default relation.

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
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{name}: {mine[name]!r} against {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]

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
