"""``bench``: every claim about speed, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import one_line_errors

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@one_line_errors
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, few rounds, nothing stored.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also the benchmarks that print tables of their own.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if a target is missed.")] = False,
    only: Annotated[str, typer.Option(help="Some of them, with commas, such as operator_kernels,streaming.")] = "",
) -> None:
    """Measure every claim about speed here: what, target, measured, met or missed, and the share of the machine's limit.

    Ratios are taken side by side in one run and stored with the machine under benchmarks/results/. The benchmarks are in the
    source tree, not in the installed package. On two cores the whole takes about 15 minutes; keep the machine quiet.

    Example: lego-fusion bench --quick
    """
    import subprocess
    import sys

    from ..errors import ParameterError
    from .terminal import names

    script = BENCHMARKS / "bench.py"
    if not script.is_file():
        fix = "get the source of this version, and give the command again from an editable installation: pip install -e ."
        raise ParameterError("the benchmarks are not part of the installed package", where=BENCHMARKS, fix=fix)
    flags = [flag for flag, on in (("--quick", quick), ("--all", everything), ("--strict", strict)) if on]
    chosen = names(only)
    ended = subprocess.run([sys.executable, str(script), *flags, *(["--only", *chosen] if chosen else [])], check=False)  # noqa: S603
    raise typer.Exit(ended.returncode)
