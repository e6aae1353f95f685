"""Parts of one's own, wherever a fusion or an extractor is named: a class in a Python file, or in an installed package.

    concat                       one of ours
    smoothed                     an entry point of the group, from an installed package
    mine.py:MyFusion             a class in a file
    /home/me/mine.py:MyFusion@1f0c2a9be77d   the same as a record names it, with the hash of its source

A name that a person types is executed. A name in a record, such as that of a saved run, is executed only if its source is
still the recorded one and its file is named in ``LEGO_FUSION_PARTS``: a run folder of somebody else never runs code unasked.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from .errors import ParameterError

ALLOWED = "LEGO_FUSION_PARTS"
_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)(@(?P<hash>[0-9a-f]{12}))?")
Part = TypeVar("Part")


class Parts(Mapping[str, type[Part]]):
    """Classes by name: ours, those of installed packages, and those in files.

    Args:
        what: What a part is called in messages.
        base: Class that each derives from.
        attribute: Class attribute that holds the name under which a part is recorded.
        group: Of entry points.
        ours: The built-in ones.
        home: Module and name of these parts, where another process finds them.
    """

    def __init__(
        self, what: str, base: type[Part], attribute: str, group: str, ours: Mapping[str, type[Part]], home: tuple[str, str]
    ) -> None:
        self.what, self.base, self.attribute, self.group, self.ours = what, base, attribute, group, dict(ours)
        self.home = home
        self._loaded: dict[str, type[Part]] = {}

    @functools.cached_property
    def installed(self) -> dict[str, EntryPoint]:
        """Entry points of the group by name."""
        return {one.name: one for one in entry_points(group=self.group)}

    def typed(self, name: str) -> str:
        """The name that records use of one that a person typed; its file may be executed from now on, by workers too.

        Raises:
            ParameterError: If there is no such part, or it is not what it should be.
        """
        found = _FILE.fullmatch(name)
        if found is None or name in self.ours:
            return name
        file = Path(found["file"]).resolve()
        if not file.is_file():
            raise ParameterError(f"there is no file for this {self.what}", where=name, expected="an existing file.py:Class")
        allowed = os.environ.get(ALLOWED, "").split(os.pathsep)
        if str(file) not in allowed:
            os.environ[ALLOWED] = os.pathsep.join([*filter(None, allowed), str(file)])
        recorded = f"{file}:{found['name']}@{_hash(file)}"
        self[recorded]
        return recorded

    def __getitem__(self, name: str) -> type[Part]:
        if name in self.ours:
            return self.ours[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.ours
        yield from (name for name in self.installed if name not in self.ours)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.ours or name in self.installed or _FILE.fullmatch(name) is not None)

    def _load(self, name: str) -> type[Part]:
        found = _FILE.fullmatch(name)
        if found is not None:
            part = self._checked(getattr(self._module(name, found), found["name"], None), name)
            copyreg.pickle(part, functools.partial(_reduced, self.home, name))  # type: ignore[arg-type]
            return part
        if name in self.installed:
            return self._checked(self.installed[name].load(), name)
        raise KeyError(name)

    def _module(self, name: str, found: re.Match[str]) -> object:
        """Execute the file of a recorded name, if it is allowed to and still the same."""
        file = Path(found["file"]).resolve()
        if not file.is_file():
            raise ParameterError(f"the file of this {self.what} is gone", where=file, fix="put it back, or train again")
        if found["hash"] is None or str(file) not in os.environ.get(ALLOWED, "").split(os.pathsep):
            fix = f"if you trust this file, set {ALLOWED}={file}"
            raise ParameterError(f"this {self.what} is code of somebody's own, which is not run unasked", where=name, fix=fix)
        if _hash(file) != found["hash"]:
            got = f"{_hash(file)}, the file has changed"
            fix = "use the file as it was, or make the features or the run again"
            raise ParameterError(f"this {self.what} is of another source", where=file, expected=found["hash"], got=got, fix=fix)
        spec = importlib.util.spec_from_file_location(f"own_part_{found['hash']}", file)
        if spec is None or spec.loader is None:
            raise ParameterError("this is no Python file", where=file)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a person's own code may raise
            raise ParameterError("the file fails", where=file, got=f"{type(error).__name__}: {error}") from error
        return module

    def _checked(self, part: object, name: str) -> type[Part]:
        if not inspect.isclass(part) or not issubclass(part, self.base) or inspect.isabstract(part):
            expected = f"a class that derives from {self.base.__module__}.{self.base.__name__}, with its methods"
            got = "nothing of that name" if part is None else f"{part!r}"
            raise ParameterError(f"this is no {self.what}", where=name, expected=expected, got=got)
        setattr(part, self.attribute, name)
        return part


def _reduced(home: tuple[str, str], name: str, part: object) -> tuple[object, tuple[object, ...]]:
    return _made_again, (home, name, part.__getstate__() or {})


def _made_again(home: tuple[str, str], name: str, state: dict[str, object]) -> object:
    """An object of a person's own class in a worker process, which has to find the class by its recorded name."""
    part = getattr(importlib.import_module(home[0]), home[1])[name]
    made = part.__new__(part)
    vars(made).update(state)
    return made


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
