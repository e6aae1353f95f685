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


def make_extractor(kind: str, settings: Mapping[str, Any], *, modality: str) -> Extractor:
    """Make an extractor from its name and settings.

    Args:
        kind: Name of the extractor.
        settings: Arguments of its class; lists become tuples.
        modality: Name of the feature set that it is for, for the messages.

    Raises:
        ParameterError: The extractor or a setting is unknown, one that it needs is missing, or a value is out of range.

    Example:
        >>> make_extractor("motion", {"bins": 4}, modality="coarse").width
        40
    """
    if kind not in EXTRACTORS:
        raise ParameterError("no such extractor", where=modality, expected=", ".join(EXTRACTORS), got=kind)
    kind = EXTRACTORS.typed(kind)
    arguments = inspect.signature(EXTRACTORS[kind])
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    try:
        arguments.bind(**given)
    except TypeError as error:
        expected = ", ".join(arguments.parameters)
        raise ParameterError(f"extractor '{kind}' cannot be made: {error}", where=modality, expected=expected) from error
    return EXTRACTORS[kind](**given)


def column_names(manifest: Manifest) -> tuple[str, ...]:
    """Name the D columns of a modality: as its extractor does, else by their number.

    Example:
        >>> column_names(Motion().manifest("flow"))[0]
        'speed_rms'
        >>> column_names(Manifest(modality="a", extractor="imported", version="1", width=2))
        ('column 0', 'column 1')
    """
    kind, names = EXTRACTORS.ours.get(manifest.extractor), tuple[str, ...]()
    if kind is not None and kind.columns is not Extractor.columns:
        with contextlib.suppress(LegoFusionError):  # of another version, whose columns may mean something else
            names = extractor_for(manifest).columns()
    return names or tuple(f"column {number}" for number in range(manifest.width))


def extractor_for(manifest: Manifest, *, model: str | Path | None = None) -> Extractor:
    """Make the extractor whose manifest is ``manifest``, to describe another video in the same way.

    Args:
        manifest: Of the features that a dataset or model has.
        model: Where the network lies on this machine: the file for ``onnx``, the folder for ``text`` where it is not
            the installed package.

    Raises:
        ParameterError: The extractor is not one of lego-fusion's, or needs ``model``.
        ManifestError: What it would write differs, for example because the network is another one.

    Example:
        >>> extractor_for(Motion(bins=4).manifest("flow")).settings["bins"]
        4
    """
    kind = EXTRACTORS.get(manifest.extractor)
    if kind is None:
        raise ParameterError(
            "no such extractor", where=manifest.modality, expected=", ".join(EXTRACTORS), got=manifest.extractor
        )
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in manifest.settings.items()
    }
    if kind is OnnxImage:
        file = settings.pop("file", None)
        if model is None:
            raise ParameterError("the extractor needs its network", where=manifest.modality, expected=f"the file {file}")
        settings["path"] = model
    elif issubclass(kind, Text) and model is not None:
        settings["model"] = model
    try:
        extractor = kind(**settings)
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
