"""What is imported when: nothing heavy before it is used, and imports that go down the layers only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lego_fusion

SOURCE = Path(lego_fusion.__file__).parent
HEAVY = ("torch", "numpy", "scipy", "sklearn", "pydantic", "yaml", "lightning_fabric", "av", "cv2", "matplotlib")
HEAVY += ("onnxruntime", "sentence_transformers", "transformers")
LAYERS = (
    {"errors", "writing", "scorer"},  # the scorer stands alone: it is copied beside exported models
    {"engines", "own_parts"},
    {"graph", "data", "measure"},
    {"fusion", "extract", "explain", "scenes", "kernel_mixture"},
    {"dissection"},  # knows nothing of detection: a package of its own if need be
    {"learn"},
    {"study", "alarm"},  # neither knows the other
    {"why"},
    {"report", "estimators"},
    {"demo", "serve"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
WITHOUT_TORCH = {"errors", "writing", "scorer", "engines", "own_parts", "data", "measure", "scenes", "extract"}


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh Python has after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("statement", ["import lego_fusion", "import lego_fusion; dir(lego_fusion)", "import lego_fusion.cli"])
def test_import_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_after(statement) & set(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    run = f"import sys; sys.argv[1:] = {arguments}\nfrom lego_fusion.cli import main\ntry:\n    main()\nexcept SystemExit: pass"
    assert not loaded_after(run) & (set(HEAVY) - {"pydantic"})  # Typer takes pydantic for the help of numbers


def test_every_public_name_is_there() -> None:
    assert {"LegoFusion", "Dataset", "compare", "dissect"} <= set(lego_fusion.__all__)
    for name in lego_fusion.__all__:
        assert getattr(lego_fusion, name) is not None
        assert name in dir(lego_fusion)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="attribute glue"):
        _ = lego_fusion.glue


def modules() -> Iterator[tuple[Path, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in a file, also inside functions."""
    package = ("lego_fusion", *path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            if node.module:
                yield node.lineno, ".".join((*base, node.module))
            else:
                yield from ((node.lineno, ".".join((*base, alias.name))) for alias in node.names)


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def test_imports_go_down_only() -> None:
    wrong = []
    for path, part in modules():
        for line, name in imported(path):
            words = name.split(".")
            if part == "__init__" or words[0] != "lego_fusion" or len(words) == 1 or words[1] in ("__version__", part):
                continue
            if layer(words[1]) >= layer(part):
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {name}")
    assert not wrong


def test_torch_stays_out_of_data_measure_and_extract() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path, part in modules()
        if part in WITHOUT_TORCH
        for line, name in imported(path)
        if name.partition(".")[0] == "torch"
    ]
    assert not wrong
