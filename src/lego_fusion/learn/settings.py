"""Settings of a training as ``KEY=VALUE`` and as YAML: the fusion's options, ``TrainingConfig``, nodes and hidden units.

    fusion.references=512       an option of the fusion; where several are compared, of one by its name: lego.references=512
    fusion.order.motion=3       an option that may differ by modality, for one of them
    training.iterations=100     a field of TrainingConfig; iterations=100 is the same
    nodes=64, hidden=16         segments per video, units of the head
    smoothing=0.5               of the scores, in seconds

A value is YAML: ``[1, 2]`` is a list, ``null`` is none. In a file the same keys stand one a line, or in tables::

    fusion: {references: 512, orders: [1, 2]}
    training: {prior_departure: 2}
    nodes: 64
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from ..data.files import read_text
from ..errors import ParameterError, check_choice, check_int
from ..fusion.registry import FUSIONS, make_plain_fusion, options_of
from ..graph.operator import GraphOperator
from ..measure.smoothing import SMOOTHING, check_smoothing
from .configuration import TrainingConfig

ACCELERATORS = ("cpu", "cuda", "gpu", "mps", "auto")
RUN_SETTINGS = ("nodes", "hidden", "smoothing")
COMMAND_LINE = "settings"
_OWN = re.compile(r"(.+\.py:[A-Za-z_]\w*(?:@[0-9a-f]{12})?)\.(.+)")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # a number that YAML 1.1 takes for a word


@dataclass(frozen=True)
class Settings:
    """What a training is set to, beside its data.

    Args:
        training: For every fusion.
        options: Of fusions by their names, those that differ from the default.
        nodes: N, segments per video.
        hidden: Units of the head.
        smoothing: Of the scores, in seconds (``measure.smoothing``).
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    options: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    nodes: int = 32
    hidden: int = 32
    smoothing: float = SMOOTHING

    def options_of(self, fusion: str) -> dict[str, Any]:
        """The options of one fusion."""
        return self.options.get(fusion, {})


def read_settings(
    path: str | Path | None = None,
    words: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
    *,
    fusions: Sequence[str] = ("lego",),
) -> Settings:
    """Read settings from a file, from ``KEY=VALUE`` words and from a caller.

    Args:
        path: YAML file; None for none.
        words: ``KEY=VALUE``; they go before the file.
        given: Values by key, as the options of a command with names of their own; a key may stand here or in the words.
        fusions: Whose options may be set, by name; ``fusion.KEY`` is for one alone.

    Raises:
        ParameterError: The file is not YAML, a key is unknown (the message names the nearest one) or comes twice, or a value
            of the training or run is wrong. What is wrong with an option of a fusion, the fusion says when it is made.
        DataError: The file cannot be read.

    Example:
        >>> settings = read_settings(words=["fusion.orders=[1, 2, 3]", "training.prior_departure=2", "k=5"])
        >>> settings.options_of("lego"), settings.training.prior_departure, settings.training.k
        ({'orders': [1, 2, 3]}, 2.0, 5)
    """
    file, stated = _read_file(path, fusions), _once([*map(_parse_word, words), *(given or {}).items()], fusions, COMMAND_LINE)
    where = COMMAND_LINE if path is None else path
    return settings_of({**file, **stated}, fusions, where=where)


def settings_of(values: Mapping[str, Any], fusions: Sequence[str], *, where: object = COMMAND_LINE) -> Settings:
    """Settings from values by full key (``full_key``)."""
    options: dict[str, dict[str, Any]] = {}
    run: dict[str, Any] = {}
    training: dict[str, Any] = {}
    for key, value in values.items():
        section, name = _split(key, fusions)
        if not name:
            check = check_smoothing(value, "the settings") if section == "smoothing" else None
            run[section] = check_int(value, section, "the settings", low=1) if check is None else check
        elif section == "training":
            training[name] = value
        else:
            _put(options.setdefault(fusions[0] if section == "fusion" else section, {}), name, value, key)
    return Settings(_training(training, where), options, **run)


def full_key(key: str, fusions: Sequence[str], *, where: object = COMMAND_LINE) -> str:
    """A key with its section, ``training.steps`` for ``steps``; ``fusion.KEY`` where there is one fusion.

    Raises:
        ParameterError: If there is no such key; the message names the nearest one.

    Example:
        >>> full_key("k", ["lego"]), full_key("lego.kept", ["lego"]), full_key("lego.kept", ["lego", "mlp"])
        ('training.k', 'fusion.kept', 'lego.kept')
    """
    section, rest = _split(str(key), fusions)
    name, _, modality = rest.partition(".")
    if not rest and section in RUN_SETTINGS:
        return section
    if not rest and section in TrainingConfig.model_fields:
        return f"training.{section}"
    if section == "training" and rest in TrainingConfig.model_fields:
        return str(key)
    alone = len(fusions) == 1
    fusion = fusions[0] if alone and section == "fusion" else section
    if fusion in fusions and name in options_of(fusion) and not rest.endswith("."):
        return f"{'fusion' if alone else fusion}.{name}" + (f".{modality}" if modality else "")
    raise _unknown(str(key), fusions, where)


def _split(key: str, fusions: Sequence[str]) -> tuple[str, str]:
    """Section and rest of a key; the name of a fusion of one's own has points, ``mine.py:MyFusion.width``."""
    own = _OWN.fullmatch(key)
    if own is None:
        section, _, rest = key.partition(".")
        return section, rest
    return own[1] if own[1] in fusions else FUSIONS.typed(own[1]), own[2]


def parse_value(text: str, where: object = COMMAND_LINE) -> Any:
    """A value as it is written: YAML, in which 1e-3 is a number.

    Raises:
        ParameterError: If it is not YAML.

    Example:
        >>> parse_value("1e-3"), parse_value("[1, 2]"), parse_value("null"), parse_value("learned")
        (0.001, [1, 2], None, 'learned')
    """
    try:
        return _with_numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ParameterError(
            "not a value", where=where, got=repr(text), fix="write a number, a word, or a list [1, 2]"
        ) from error


def as_word(value: Any) -> str:
    """A value as ``parse_value`` reads it.

    Example:
        >>> as_word([1, 2]), as_word(0.5), as_word("learned"), as_word(None)
        ('[1, 2]', '0.5', 'learned', 'null')
    """
    short = f"{value:g}" if isinstance(value, float) else ""
    return value if isinstance(value, str) else short if short and float(short) == value else json.dumps(value)


def settings_text(fusion: str) -> str:
    """The default settings of a training as YAML that ``read_settings`` reads, with a comment a key.

    An option that changes nothing beside the other defaults stands there as a comment.

    Example:
        >>> text = settings_text("concat")
        >>> read = yaml.safe_load(text)
        >>> list(read), read["training"]["steps"], read["nodes"]
        (['fusion', 'training', 'nodes', 'hidden', 'smoothing'], 300, 32)
    """
    kind = FUSIONS[check_choice(fusion, "fusion", "settings_text", FUSIONS)]
    idle = make_plain_fusion(fusion, {"first": 1, "second": 1}).idle_options()
    options = {name: value for name, value in kind.defaults().items() if name in options_of(fusion)}
    words = described(GraphOperator) | described(kind)
    run = {name: getattr(Settings(), name) for name in RUN_SETTINGS}
    training = TrainingConfig().model_dump(mode="json")
    return "".join(
        [
            f"# Settings of {fusion}, for --config FILE; what is left out has the value that stands here.\n",
            "fusion:\n" if options else "fusion: {}\n",
            *(_line(name, value, words, "  ", name in idle) for name, value in options.items()),
            "training:\n",
            *(_line(name, value, described(TrainingConfig), "  ") for name, value in training.items()),
            *(_line(name, value, described(Settings), "") for name, value in run.items()),
        ]
    )


def described(kind: type) -> dict[str, str]:
    """What a class says of each of its arguments, from the section Args of its docstring, in one line each."""
    section = (inspect.getdoc(kind) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*?)(?=\n    \w+: |\Z)", section, flags=re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _line(name: str, value: Any, words: Mapping[str, str], indent: str, idle: bool = False) -> str:
    """A key with its value, and above it what it means."""
    comment = textwrap.fill(words.get(name, name), 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    written = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return f"{comment}\n{indent}{'# ' if idle else ''}{name}: {written}\n"


def _parse_word(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key.strip():
        fix = "write it as in --set fusion.references=512"
        raise ParameterError("not a setting", where=COMMAND_LINE, expected="KEY=VALUE", got=repr(word), fix=fix)
    return key.strip(), parse_value(text, word)


def _once(pairs: Iterable[tuple[str, Any]], fusions: Sequence[str], where: object) -> dict[str, Any]:
    """Values by full key, each once."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = full_key(key, fusions, where=where)
        if name in found:
            raise ParameterError(f"'{name}' is set twice", where=where, got=f"{found[name]!r} and {value!r}", fix="set it once")
        found[name] = value
    return found


def _read_file(path: str | Path | None, fusions: Sequence[str]) -> dict[str, Any]:
    if path is None:
        return {}
    path = Path(path)
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ParameterError("not a YAML file", where=path, got=str(error), fix="write one 'key: value' a line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ParameterError("the settings are not a table", where=path, expected="key: value", got=type(content).__name__)
    pairs: list[tuple[str, Any]] = []
    for key, value in _with_numbers(content).items():
        section = key in ("fusion", "training", *FUSIONS) and isinstance(value, dict)
        pairs += [(f"{key}.{name}", one) for name, one in value.items()] if section else [(str(key), value)]
    return _once(pairs, fusions, path)


def _with_numbers(value: Any) -> Any:
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if isinstance(value, list):
        return [_with_numbers(one) for one in value]
    return {key: _with_numbers(one) for key, one in value.items()} if isinstance(value, dict) else value


def _put(options: dict[str, Any], name: str, value: Any, key: str) -> None:
    """Set an option, or what it is for one modality."""
    name, _, modality = name.partition(".")
    if (name in options) if not modality else (name in options and not isinstance(options[name], dict)):
        whole = key.removesuffix(f".{modality}") if modality else key
        raise ParameterError(f"'{whole}' is set both for all modalities and for one", fix="set it for each modality")
    options[name] = {**options.get(name, {}), modality: value} if modality else value


def _training(fields: dict[str, Any], where: object) -> TrainingConfig:
    try:
        config = TrainingConfig.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(map(str, fault["loc"]))
        raise ParameterError(f"wrong value of '{name}': {fault['msg']}", where=where, got=repr(fault["input"])) from error
    if config.accelerator not in ACCELERATORS:
        expected = ", ".join(ACCELERATORS)
        raise ParameterError("unknown accelerator", where=where, expected=expected, got=repr(config.accelerator))
    if config.accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
        fix = "use accelerator: cpu or auto"
        raise ParameterError("there is no CUDA device here", where=where, got=repr(config.accelerator), fix=fix)
    return config


def _unknown(key: str, fusions: Sequence[str], where: object) -> ParameterError:
    """What to say of a key that is none: the nearest one, and those of its section."""
    section = _split(key, fusions)[0]
    if section in FUSIONS and section not in fusions:
        fix = f"leave it out, or name {section} too"
        return ParameterError(f"'{key}' is of another fusion", where=where, expected=" or ".join(fusions), got=section, fix=fix)
    alone = len(fusions) == 1
    if alone and section == fusions[0]:
        section, meant = "fusion", f"fusion{key.removeprefix(section)}"
    else:
        meant = key
    sections = {"training": [f"training.{name}" for name in TrainingConfig.model_fields]}
    for fusion in fusions:
        owner = "fusion" if alone else fusion
        sections[owner] = [f"{owner}.{name}" for name in options_of(fusion)]
    every = [*RUN_SETTINGS, *TrainingConfig.model_fields, *itertools.chain.from_iterable(sections.values())]
    same = [one for one in every if one.rpartition(".")[2] == key.rpartition(".")[2]]  # of another section
    nearest = same or difflib.get_close_matches(meant, every, n=1)
    shown = sections.get(section) or [one for one in every if not one.startswith("training.")]
    fix = f"write '{nearest[0]}'" if nearest else "remove it"
    return ParameterError(f"unknown key '{key}'", where=where, expected=f"one of {', '.join(shown)}", fix=fix)
