"""``dissect``: what the modalities of any network share, what each holds alone, how they cooperate."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError, ParameterError, check_choice, with_changes
from .terminal import as_text, one_line_errors, print_json, print_table, progress, warn

if TYPE_CHECKING:
    from torch import nn

    from ..dissection.records import Dissection
    from ..dissection.settings import DissectSettings


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


@one_line_errors
def dissect(
    model: Annotated[
        str,
        typer.Argument(help="file.py:function or package.module:function that returns the network. The file is executed."),
    ],
    data: Annotated[str, typer.Argument(help="Dataset folder, or package.module:function that returns batches.")],
    out: Annotated[Path, typer.Argument(help="Folder for the page and the tables.")],
    *,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="modality=pattern, modality=layer,layer or modality=level:layer,... Repeat for each modality."),
    ] = None,
    fused: Annotated[
        str | None, typer.Option(help="Layer where modalities are one: a pattern, layer,layer or level:layer,...")
    ] = None,
    apart: Annotated[
        str | None, typer.Option(help="Function that returns the same streams trained apart: a network, or one by modality.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of the network, safetensors.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Weights of an earlier step, safetensors. Repeat, in order.")
    ] = None,
    concepts: Annotated[str | None, typer.Option(help="Names of the concepts, with commas, where DATA is a function.")] = None,
    kind: Annotated[str, typer.Option(help="spatial, tokens, or pooled.")] = "spatial",
    grid: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of patch tokens to be read as maps.")] = None,
    inputs: Annotated[str, typer.Option(help="How the network takes them: keywords, or mapping (one argument).")] = "keywords",
    read: Annotated[
        str, typer.Option(help="What concepts are told apart among: regions (objects), pixels, or auto: objects if there are.")
    ] = "auto",
    mode: Annotated[
        str | None, typer.Option(help="What a detector is: auroc, normalised, or stock. Default: auroc; of pixels normalised.")
    ] = None,
    cut: Annotated[float | None, typer.Option(help="Of the mode. Default: 0.8, 0.2, 0.04.")] = None,
    quantile: Annotated[
        float | None, typer.Option(help="Share of the objects or pixels where a unit counts as active. Default: 0.1, 0.005.")
    ] = None,
    unlabelled: Annotated[str, typer.Option(help="Images without a label: refuse, or drop.")] = "refuse",
    resamples: Annotated[int, typer.Option(help="Of the images, for intervals.")] = 200,
    shuffles: Annotated[int, typer.Option(help="Of the labels, for the null of the detectors.")] = 20,
    untrained: Annotated[int, typer.Option(help="Copies with untrained weights that are read as well, for comparison.")] = 3,
    ablate: Annotated[
        str | None,
        typer.Option(help="Function of outputs and labels that gives one number for each image: the causal check is made."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all resampling.")] = 0,
    device: Annotated[str, typer.Option(help="Where the network and the maps are: cpu, cuda.")] = "cpu",
    no_images: Annotated[bool, typer.Option("--no-images", help="Leave pictures out.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what the modalities of a network share, what each holds alone, how that evolves, and how they collaborate.

    Works on any torch network; writes one page that any browser shows, and tables. MODEL, --apart, --ablate and a DATA function
    are Python code that is executed: give only code that you trust. Weights are safetensors, which hold no code.

    Example: lego-fusion dissect net.py:build scenes out --layers rgb=encoder.rgb.* --layers depth=encoder.depth.*
    """
    from ..dissection.dissect import dissect as run
    from ..dissection.dissect import load_state
    from ..dissection.settings import DissectSettings
    from ..report.dissection_files import save_dissection

    check_choice(inputs, "inputs", "dissect", ("keywords", "mapping"))
    options: dict[str, Any] = {
        "kind": kind,
        "grid": _grid(grid),
        "call": _as_mapping if inputs == "mapping" else None,
        "read": read,
        "quantile": quantile,
        "mode": mode,
        "cut": cut,
        "unlabelled": unlabelled,
        "resamples": resamples,
        "shuffles": shuffles,
        "untrained": untrained,
        "seed": seed,
        "device": device,
        "gallery": (0, 0) if no_images else (4, 4),
    }
    settings: DissectSettings = with_changes(DissectSettings(), options, "dissect")
    network, given = named_network(model)
    if weights is not None:
        load_state(network, weights, str(weights))
    source = _source(data)
    with progress("dissecting") as notify:
        done: list[str] = []

        def step(name: str) -> None:
            done.append(name)
            notify(len(done), max(len(done), 1))

        found = run(
            network.to(device),
            _layers(layers, given),
            source,
            _names(concepts),
            fused=None if fused is None else _row(fused),
            apart=None if apart is None else named_networks(apart, "--apart"),
            checkpoints=checkpoint or (),
            settings=settings,
            on_step=step,
        )
        if ablate is not None:
            step("silencing units")
            found = replace(found, ablation=_silenced(network, found, source, ablate, settings))
    files = save_dissection(out, found, title=f"Dissection of {model.rpartition(':')[2]}", images=not no_images)
    _say(found, files, json=json)


def _silenced(network: Any, found: Dissection, source: Any, name: str, settings: DissectSettings) -> Any:
    """The causal check with a person's own metric."""
    from ..dissection.ablation import causal_check, mean_metric

    function = named_function(name, "--ablate")
    metric = mean_metric(
        name.rpartition(":")[2], lambda outputs, labels: called(lambda: function(outputs, labels), name, "--ablate")
    )
    return causal_check(network, found, source, metric, call=settings.call, seed=settings.seed)


def _say(found: Dissection, files: dict[str, Path], *, json: bool) -> None:
    from ..report.dissection_files import dissection_document
    from ..report.dissection_words import answers, reading_words

    if json:
        print_json({**dissection_document(found), "files": as_text(files)})
        return
    warn(found.notes)
    rows = []
    for one in found.sets:
        alone = (str(len(one.special(name))) for name in found.modalities)
        kept = "" if one.fused is None else str(len(one.union & one.fused))
        rows.append((one.level, str(len(one.shared)), *alone, f"{one.joint:.2f}" if one.union else "-", kept))
    names = (f"{name} alone" for name in found.modalities)
    typer.echo(reading_words(found))
    print_table(("level", "shared", *names, "J", "kept by the fused layer"), rows)
    for question, words in answers(found).items():
        typer.echo(f"{question} {' '.join(words)}")
    typer.echo(f"written: {files['page']} and {len(files) - 1} tables beside it")


def _source(data: str) -> Any:
    """A folder, or what a function returns; the function itself where it can be called again."""
    path = Path(data)
    if path.is_dir() or ":" not in data:
        return path
    function = named_function(data, "DATA")
    return lambda: called(function, data, "DATA")


def _layers(options: Sequence[str] | None, given: Any) -> dict[str, Any]:
    if not options:
        if isinstance(given, dict):
            return given
        raise ParameterError("which layers?", expected="--layers modality=pattern for each modality")
    found: dict[str, Any] = {}
    for option in options:
        modality, equals, row = option.partition("=")
        if not equals or not modality or not row or modality in found:
            raise ParameterError("--layers is given once for each modality", expected="modality=pattern", got=option)
        found[modality] = _row(row)
    return found


def _row(text: str) -> Any:
    """A pattern, a list of layers, or layers by level."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if any(":" in part for part in parts):
        return dict(part.partition(":")[::2] for part in parts)
    return parts if len(parts) > 1 else parts[0]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not height.isdigit() or not width.isdigit():
        raise ParameterError("--grid", expected="HEIGHTxWIDTH, for example 14x14", got=text)
    return int(height), int(width)


def _as_mapping(network: Callable[[Any], object], inputs: Any) -> object:
    return network(inputs)
