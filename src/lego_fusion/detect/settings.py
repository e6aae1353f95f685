"""Training settings from a YAML file and from a caller, checked in one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from ..data.files import read_text
from ..errors import ParameterError
from .train import TrainingConfig

ACCELERATORS = ("cpu", "cuda", "gpu", "mps", "auto")


def read_training_config(path: str | Path | None = None, given: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read the settings of a training run.

    Args:
        path: YAML file with fields of ``TrainingConfig``; None takes the defaults.
        given: Fields that go before those of the file.

    Raises:
        ParameterError: The file is not YAML, or a key is unknown or its value wrong.
        DataError: The file cannot be read.

    Example:
        >>> read_training_config(given={"steps": 10}).steps
        10
    """
    where = "training settings" if path is None else Path(path)
    fields = {**({} if path is None else _fields(Path(path))), **(given or {})}
    unknown = [name for name in fields if name not in TrainingConfig.model_fields]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), TrainingConfig.model_fields, n=1)
        raise ParameterError(
            f"unknown key '{unknown[0]}'",
            where=where,
            expected=f"one of {', '.join(TrainingConfig.model_fields)}",
            fix=f"write '{near[0]}'" if near else "remove it",
        )
    try:
        config = TrainingConfig.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(map(str, fault["loc"]))
        raise ParameterError(f"wrong value of '{name}': {fault['msg']}", where=where, got=repr(fault["input"])) from error
    _check_accelerator(config.accelerator, where)
    return config


def _fields(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ParameterError("not a YAML file", where=path, got=str(error), fix="write one 'key: value' a line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ParameterError("the settings are not a table", where=path, expected="key: value", got=type(content).__name__)
    return content


def _check_accelerator(name: str, where: object) -> None:
    if name not in ACCELERATORS:
        raise ParameterError("unknown accelerator", where=where, expected=", ".join(ACCELERATORS), got=repr(name))
    if name in ("cuda", "gpu") and not torch.cuda.is_available():
        raise ParameterError("there is no CUDA device here", where=where, got=repr(name), fix="use accelerator: cpu or auto")
