"""Networks and data that a person names: a function in a Python file or in an importable module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import DataError, ParameterError

if TYPE_CHECKING:
    from torch import nn


def named_function(name: str, option: str) -> Callable[..., Any]:
    """The function that ``file.py:function`` or ``package.module:function`` names; the file or module is executed.

    Raises:
        ParameterError: If it is not there, or executing it fails; it says how.
    """
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        raise ParameterError(f"which function is {option}?", expected="file.py:function or package.module:function", got=name)
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ParameterError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a person's own code may raise
        raise ParameterError(f"{option} cannot be imported", where=place, got=f"{type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        there = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        expected = ", ".join(there[:8]) or "a function"
        raise ParameterError(f"there is no function '{function}'", where=place, expected=expected, got=name)
    result: Callable[..., Any] = found
    return result


def called(function: Callable[..., Any], name: str, option: str) -> Any:
    """What a person's function returns; what it raises in one line."""
    try:
        return function()
    except Exception as error:
        raise ParameterError(f"{option} fails", where=name, got=f"{type(error).__name__}: {error}") from error


def named_network(name: str, option: str = "MODEL") -> tuple[nn.Module, Any]:
    """The network that a function returns, and the layers where it returns both.

    Raises:
        ParameterError: If it returns something else.
    """
    from torch import nn

    found = called(named_function(name, option), name, option)
    network, layers = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(network, nn.Module):
        got = type(network).__name__
        raise ParameterError(
            f"{option} returns no network", where=name, expected="a torch.nn.Module, or (module, layers)", got=got
        )
    return network, layers


def named_networks(name: str, option: str) -> nn.Module | Mapping[str, nn.Module]:
    """One network, or one for each modality."""
    from torch import nn

    found = called(named_function(name, option), name, option)
    if isinstance(found, Mapping) and found and all(isinstance(one, nn.Module) for one in found.values()):
        return found
    if not isinstance(found, nn.Module):
        expected = "a torch.nn.Module, or one by modality"
        raise ParameterError(f"{option} returns no network", where=name, expected=expected, got=type(found).__name__)
    return found


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ParameterError("there is no such file", where=path, fix="give file.py:function")
    name = f"_dissected_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise DataError("not a Python file", where=path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # as dataclasses and pickling of the person's own code expect
    with _beside(path):
        specification.loader.exec_module(module)
    return module


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """The folder of the file is searched first, as Python does for a script."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
