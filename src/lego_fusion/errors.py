"""One family of errors, so that a caller can catch everything this package means to say to a person.

Every message is one line that answers five questions: what is wrong, where, what was expected, what was found, what to do.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from types import ModuleType
from typing import Any


class LegoFusionError(Exception):
    """Base of every error raised on purpose by lego-fusion.

    Args:
        what: What is wrong, as a short sentence without a full stop.
        where: The modality, video, file, line or parameter it concerns.
        expected: What would have been right.
        got: What was found instead.
        fix: What the reader can do about it.

    Example:
        >>> print(DataError("wrong feature width", where="motion/v01.npy", expected="64", got="32", fix="extract it again"))
        wrong feature width (motion/v01.npy): expected 64, got 32. What to do: extract it again.
    """

    def __init__(
        self, what: str, *, where: object = None, expected: object = None, got: object = None, fix: str | None = None
    ) -> None:
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        message = what if where is None else f"{what} ({where})"
        facts = [f"{name} {fact}" for name, fact in (("expected", expected), ("got", got)) if fact is not None]
        if facts:
            message += ": " + ", ".join(facts)
        if fix is not None:
            message += f". What to do: {fix.rstrip('.')}."
        super().__init__(" ".join(message.split()))

    def changed(self, **parts: Any) -> LegoFusionError:
        """The same error with some of its parts replaced.

        Example:
            >>> print(DataError("wrong width", where="motion", got=3).changed(where="motion/v01.npy", got=None))
            wrong width (motion/v01.npy)
        """
        made = type(self).__new__(type(self))
        told = {name: getattr(self, name) for name in ("what", "where", "expected", "got", "fix")} | parts
        LegoFusionError.__init__(made, told.pop("what"), **told)
        return made


class ParameterError(LegoFusionError, ValueError):
    """A parameter has a value or type outside its range."""


class DataError(LegoFusionError, ValueError):
    """An array, a file or a dataset folder does not hold what it should."""


class ManifestError(DataError):
    """Features were made in another way than the model or the dataset says."""


class VideoError(DataError):
    """A video cannot be decoded, or ends before it says it does."""


class CheckpointError(LegoFusionError, ValueError):
    """A saved model cannot be used: damaged, of another version, or not one of ours."""


class StoppedByFirstError(LegoFusionError):
    """The first of several processes stopped, and has said why."""


class MissingExtraError(LegoFusionError, ImportError):
    """A part of lego-fusion that is not installed is needed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package '{package}'", fix=f"pip install 'lego-fusion[{extra}]'")


@contextmanager
def located(where: object) -> Iterator[None]:
    """Errors of the data that are raised inside are raised as errors of this place, such as a line of a file.

    Example:
        >>> with located("videos.csv, line 3"):
        ...     raise DataError("unknown label", got="odd")
        Traceback (most recent call last):
            ...
        lego_fusion.errors.DataError: unknown label (videos.csv, line 3): got odd
    """
    try:
        yield
    except DataError as error:
        raise error.changed(where=where) from error


def load_package(package: str, *, module: str | None = None, extra: str) -> ModuleType:
    """Import an optional package where it is used, or raise ``MissingExtraError`` that says what to install."""
    try:
        return importlib.import_module(module or package)
    except ImportError as error:
        raise MissingExtraError(package, extra) from error


def with_changes(settings: Any, changes: Mapping[str, Any], owner: str) -> Any:
    """Frozen settings, a dataclass or a pydantic model, with some fields changed.

    Raises:
        ParameterError: For a name that is no field, which lists them, and for what a model does not allow.
    """
    model = not is_dataclass(settings)
    names = list(type(settings).model_fields) if model else [one.name for one in fields(settings)]
    for name in changes:
        if name not in names:
            raise ParameterError(f"{owner} has no parameter '{name}'", expected=", ".join(names), got=name)
    return _checked_model(settings, changes, owner) if model else replace(settings, **changes)


def _checked_model(settings: Any, changes: Mapping[str, Any], owner: str) -> Any:
    """A pydantic model with some fields changed and all checked, in the wording of the checks below."""
    from pydantic import ValidationError

    try:
        return type(settings)(**{**dict(settings), **changes})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        wanted = fault["msg"].removeprefix("Input should be ")
        raise ParameterError(
            f"The '{fault['loc'][0]}' parameter of {owner} must be {wanted}. Got {fault['input']!r} instead"
        ) from error


def check_int(value: object, name: str, owner: str, *, low: int, high: int | None = None) -> int:
    """Return ``value`` if it is an int in [low, high], else raise ``ParameterError`` in one wording."""
    right = isinstance(value, int) and not isinstance(value, bool) and value >= low and (high is None or value <= high)
    if not right:
        span = f"[{low}, inf)" if high is None else f"[{low}, {high}]"
        raise ParameterError(f"The '{name}' parameter of {owner} must be an int in {span}. Got {value!r} instead")
    assert isinstance(value, int)  # noqa: S101 - narrows the type for mypy
    return value


def check_number(value: object, name: str, owner: str, *, low: float, high: float = float("inf")) -> float:
    """Return ``value`` as a float if it lies in [low, high], else raise ``ParameterError`` in one wording."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not right:
        raise ParameterError(f"The '{name}' parameter of {owner} must be a number in [{low}, {high}]. Got {value!r} instead")
    assert isinstance(value, int | float)  # noqa: S101 - narrows the type for mypy
    return float(value)


def check_bool(value: object, name: str, owner: str) -> bool:
    """Return ``value`` if it is true or false, else raise ``ParameterError`` in one wording."""
    if not isinstance(value, bool):
        raise ParameterError(f"The '{name}' parameter of {owner} must be true or false. Got {value!r} instead")
    return value


def check_choice(value: Any, name: str, owner: str, choices: Collection[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``, else raise ``ParameterError`` that lists them."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ParameterError(f"The '{name}' parameter of {owner} must be one of {listed}. Got {value!r} instead")
    return value
