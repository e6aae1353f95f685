"""What all verbs share: results on stdout, progress and remarks on stderr, one line for a person's mistake."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from ..errors import LegoFusionError, StoppedByFirstError

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")
USER_ERROR = 2
STOPPED = 130
SMOOTHING_HELP = "Seconds over which scores are smoothed, one standard deviation; 0 for none. Default: 0.5."
DEVICES = "Processes that work on this together, as under torchrun --nproc_per_node."
GROUP_BY = (
    "Videos that no split divides, beside those of one source: source, camera, domain, class, or a regular expression of names "
    "such as '(.+)_part'."
)
LINE_SECONDS = 60.0  # between two lines of progress in a log
CONFIG = "YAML file with the keys of --set, such as 'fusion: {references: 512}'."
_PLAIN_WIDTH = 240  # of tables that are not shown on a terminal: wide enough that none is folded


def one_line_errors(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn what a person can mend into one line on stderr and exit code 2; anything else is a fault of ours and is raised."""

    @functools.wraps(verb)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except StoppedByFirstError:
            raise typer.Exit(USER_ERROR) from None
        except LegoFusionError as error:
            line = str(error)
        except BrokenPipeError:  # the reader of our output left, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            line = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on where it was", err=True)
            raise typer.Exit(STOPPED) from None
        typer.echo(f"error: {line}" if _speaks() else f"process {os.environ.get('RANK', '')}: error: {line}", err=True)
        raise typer.Exit(USER_ERROR)

    return guarded


def remark(line: str) -> None:
    """Say something beside the results; of several processes, the first does."""
    if _speaks():
        typer.echo(line, err=True)


def _speaks() -> bool:
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def warn(lines: Sequence[str]) -> None:
    """Say what a person should know, one line each."""
    for line in lines:
        remark(f"warning: {line}")


def print_json(document: Any) -> None:
    """Write one JSON document on stdout."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, whole: bool = False) -> None:
    """Show a table on stdout; the first ``left`` columns are words (``whole``: never broken), the others numbers."""
    from rich.table import Table

    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(
            heading, justify="left" if number < left else "right", overflow="fold", no_wrap=whole and number < left
        )
    for row in rows:
        table.add_row(*row)
    _console(stderr=False).print(table)


@contextmanager
def stopped_by_termination() -> Iterator[None]:
    """Let SIGTERM stop what runs as Ctrl-C does; outside the main thread, where Python takes no signals, nothing changes."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while something long runs, and one line when it is done; call with how many of how many are done.

    Where stderr is no terminal but a log, a line a minute says how far it is and, at the pace so far, for how long it goes on.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = _console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not (console.is_terminal and _speaks()))
    task = bar.add_task(doing, total=None)
    if not console.is_terminal:
        remark(f"{doing} ...")
    started, last, of, first = time.perf_counter(), 0, 0, -1
    over = threading.Event()

    def notify(done: int, total: int) -> None:
        nonlocal last, of, first
        first = done if first < 0 else first  # what was there before counts for no pace
        last, of = done, total
        bar.update(task, completed=done, total=total)

    def keep_telling() -> None:
        while not over.wait(LINE_SECONDS):
            remark(f"{doing}: {_stand(last, of, max(first, 0), time.perf_counter() - started)}")

    teller = threading.Thread(target=keep_telling, daemon=True)
    with bar:
        if not console.is_terminal:
            teller.start()
        try:
            yield notify
        finally:
            over.set()
    remark(f"{doing}: {last} done in {time.perf_counter() - started:.1f} s")


def _stand(done: int, total: int, first: int, seconds: float) -> str:
    """How far something is, and how long it goes on at its pace: ``12 of 45 done after 3 min, about 8 min to go``."""
    after = f"after {_duration(seconds)}"
    if not total:
        return f"going on {after}"
    if done <= first or done >= total:
        return f"{done} of {total} done {after}"
    return f"{done} of {total} done {after}, about {_duration(seconds * (total - done) / (done - first))} to go"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def names(text: str) -> list[str]:
    """Split a list of names at its commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def chosen(**given: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in given.items() if value is not None}


def as_text(paths: Mapping[str, Path]) -> dict[str, str]:
    """Paths as JSON values."""
    return {name: str(path) for name, path in paths.items()}


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PLAIN_WIDTH
    return console
