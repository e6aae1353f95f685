"""The command ``lego-fusion``, one verb a step; apart from ``__main__``, as the console script imports it.

This module and the verbs import nothing heavy before they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import __version__
from .commands.add_normal import add_normal
from .commands.bench import bench
from .commands.calibrate import calibrate
from .commands.compare import compare
from .commands.demo import demo
from .commands.dissect import dissect
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.explain import explain
from .commands.export import export
from .commands.extract import extract
from .commands.import_ import import_
from .commands.join import join
from .commands.report import report
from .commands.score import score
from .commands.sweep import sweep
from .commands.train import train
from .commands.watch import watch

app = typer.Typer(
    name="lego-fusion",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _paragraphs(text: str | None) -> str:
    """A docstring with each paragraph in one line, since Typer keeps the line breaks of all but the first."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))


_VERBS = (
    *(demo, extract, import_, join, doctor, train, evaluate, compare, sweep, calibrate, score, watch, explain, dissect, report),
    *(export, add_normal, bench),
)
for verb in _VERBS:
    app.command(verb.__name__.rstrip("_").replace("_", "-"), help=_paragraphs(verb.__doc__))(verb)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"lego-fusion {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Find what is abnormal in video from video-level labels, fuse feature sets by their relations, and show why.

    Start with [bold]lego-fusion demo[/bold]. On your own videos: extract, doctor, train, evaluate, score, explain, report.
    On features that exist already: import instead of extract.
    """


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
