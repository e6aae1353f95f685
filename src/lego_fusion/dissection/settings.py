"""How a network is dissected: one frozen model for the function, for its keywords and for the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from .alignment import QUANTILE
from .labelled_data import Read
from .overlap import Mode
from .recorder import Call, Kind

PIXEL_QUANTILE = 0.005  # Network Dissection's
StepCallback = Callable[[str], None]


class DissectSettings(BaseModel):
    """How a network is dissected.

    Args:
        kind: "spatial", "tokens" or "pooled", as ``Recorder`` records.
        grid: Height and width of patch tokens that are to be read as maps.
        call: Runs a network on inputs, ``call(network, inputs)``; None as ``Recorder`` does.
        read: What concepts are told apart among: "regions", objects, given with the data or found as connected areas of one
            combination of concepts (``found_regions``); "pixels"; or "auto", objects where concepts lie on objects.
        quantile: Share of the objects or places where a unit counts as active. Default: 0.1 of objects, 0.005 of pixels.
        mode: What a detector is: "normalised", "stock" or "auroc", as ``UnitAlignment.detects``. Default: "auroc" over
            objects, "normalised" over pixels.
        cut: Of the mode.
        unlabelled: Images without a label: "refuse", or "drop".
        auroc_pixels: As for ``align``.
        resamples: Of the bootstrap over images.
        permutations: Of units over modalities, for the null of the variances.
        shuffles: Of labels over objects, or of masks over images, for the null of the detectors and of the variances.
        untrained: How many copies of the network, with weights drawn as before any training, are read as well; what any of
            them detects is not taken for learned.
        gallery: Units of each layer, and images of each, of which pictures are kept.
        dtype: Of the activations on disk; numbers depend on it by rounding, 2^-11 for float16.
        scratch: Where the temporary folder lies.
        batch_size: Images upsampled at a time; changes nothing but memory and speed.
        seed: Of all resampling.
        device: Where maps are upsampled.
        on_step: Called with the name of each step.

    Example:
        >>> DissectSettings(kind="tokens").filled(over_regions=False).mode
        'normalised'
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    kind: Kind = "spatial"
    grid: tuple[int, int] | None = None
    call: Call | None = None
    read: Read = "auto"
    quantile: float | None = Field(default=None, ge=0, le=1)
    mode: Mode | None = None
    cut: float | None = Field(default=None, ge=0, le=1)
    unlabelled: Literal["refuse", "drop"] = "refuse"
    auroc_pixels: int = Field(default=256, ge=0)
    resamples: int = Field(default=200, ge=1)
    permutations: int = Field(default=200, ge=1)
    shuffles: int = Field(default=20, ge=0)
    untrained: int = Field(default=3, ge=0)
    gallery: tuple[int, int] = (4, 4)
    dtype: Literal["float16", "float32"] = "float16"
    scratch: str | Path | None = None
    batch_size: int = Field(default=8, ge=1)
    seed: int = Field(default=0, ge=0)
    device: str | torch.device = "cpu"
    on_step: StepCallback | None = None

    def filled(self, *, over_regions: bool) -> FilledSettings:
        """With what was left to the data: over regions the area under the ROC curve, over pixels the way to the ceiling."""
        defaults = {"mode": "auroc", "quantile": QUANTILE}
        if not over_regions:
            defaults = {"mode": "normalised", "quantile": PIXEL_QUANTILE}
        given = {name: value for name, value in self if value is not None}
        return FilledSettings(**{**defaults, **given})

    def step(self, name: str) -> None:
        """Tell whoever listens that a step begins."""
        if self.on_step is not None:
            self.on_step(name)


class FilledSettings(DissectSettings):
    """The same once it is known what is read over."""

    quantile: float
    mode: Mode
