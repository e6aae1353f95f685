"""Extractors by name, and the way back from a manifest to the extractor that writes it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.manifest import Manifest
from ..errors import DataError, LegoFusionError, ManifestError, ParameterError
from ..own_parts import Parts
from .appearance import Appearance
from .audio import Audio
from .base import Extractor
from .motion import Motion, MotionCells, MotionFrames
from .onnx import OnnxImage
from .text import Text, Words

EXTRACTORS: Parts[Extractor] = Parts(
    "extractor",
    Extractor,  # type: ignore[type-abstract]
    "name",
    "lego_fusion.extractors",
    {one.name: one for one in (Motion, Appearance, OnnxImage, Text, Audio, MotionCells, MotionFrames, Words)},
    (__name__, "EXTRACTORS"),
)
"""Every extractor by name; one of a person's own is ``file.py:Class`` (``own_parts``)."""


def extractor_class(name: str, *, modality: str) -> type[Extractor]:
    """The class of an extractor by the name that a manifest has; one of a person's own only as ``own_parts`` allows.

    Raises:
        ParameterError: If there is none, or it is of another source now.
    """
    if name not in EXTRACTORS:
        raise ParameterError("no such extractor", where=modality, expected=", ".join(EXTRACTORS), got=name)
    return EXTRACTORS[name]


def make_extractor(kind: str, settings: Mapping[str, Any], *, modality: str) -> Extractor:
    """Make an extractor from its name and settings.

    Args:
        kind: Name of the extractor: one of lego-fusion's, one that an installed package announces by an entry point of the
            group ``lego_fusion.extractors``, or ``FILE.py:Class``.
        settings: Arguments of its class; lists become tuples.
        modality: Name of the feature set that it is for, for the messages.

    Raises:
        ParameterError: The extractor or a setting is unknown, one that it needs is missing, or a value is out of range.

    Example:
        >>> make_extractor("motion", {"bins": 4}, modality="coarse").width
        40
    """
    made_by = extractor_class(EXTRACTORS.typed(kind), modality=modality)
    try:
        return _made(made_by, settings)
    except TypeError as error:
        expected = ", ".join(inspect.signature(made_by).parameters)
        raise ParameterError(f"extractor '{kind}' cannot be made: {error}", where=modality, expected=expected) from error


def _made(made_by: type[Extractor], settings: Mapping[str, Any]) -> Extractor:
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    inspect.signature(made_by).bind(**given)
    return made_by(**given)


def column_names(manifest: Manifest) -> tuple[str, ...]:
    """Name the D columns of a modality: as its extractor does, else by their number.

    Example:
        >>> column_names(Motion().manifest("flow"))[0]
        'speed_rms'
        >>> column_names(Manifest(modality="a", extractor="imported", version="1", width=2))
        ('column 0', 'column 1')
    """
    names = tuple[str, ...]()
    with contextlib.suppress(LegoFusionError):  # of another version, whose columns may mean something else
        if extractor_class(manifest.extractor, modality=manifest.modality).columns is not Extractor.columns:
            names = extractor_for(manifest).columns()
    return names or tuple(f"column {number}" for number in range(manifest.width))


def extractor_for(manifest: Manifest, *, model: str | Path | None = None) -> Extractor:
    """Make the extractor whose manifest is ``manifest``, to describe another video in the same way.

    Args:
        manifest: Of the features that a dataset or model has.
        model: Where the network lies on this machine: the file for ``onnx``, the folder for ``text`` where it is not
            the installed package.

    Raises:
        ParameterError: There is no such extractor, its source is another one than when the features were made, or it needs
            ``model``.
        ManifestError: What it would write differs, for example because the network is another one.

    Example:
        >>> extractor_for(Motion(bins=4).manifest("flow")).settings["bins"]
        4
    """
    kind, settings = extractor_class(manifest.extractor, modality=manifest.modality), dict[str, Any](manifest.settings)
    if issubclass(kind, OnnxImage):
        file = settings.pop("file", None)
        if model is None:
            raise ParameterError("the extractor needs its network", where=manifest.modality, expected=f"the file {file}")
        settings["path"] = model
    elif issubclass(kind, Text) and model is not None:
        settings["model"] = model
    try:
        extractor = _made(kind, settings)
    except TypeError as error:
        raise DataError("the manifest has settings of another version", where=manifest.modality, got=error) from error
    mine = extractor.manifest(manifest.modality, manifest.snippet_frames, manifest.stride)
    if mine != manifest:
        raise ManifestError(
            "the extractor here would describe a video in another way",
            where=manifest.modality,
            expected="the same manifest",
            got="; ".join(manifest.differences(mine)),
            fix="give the same network, or extract and train again",
        )
    return extractor
