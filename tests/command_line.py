"""The command line in this process, for every test of a verb."""

from typing import Any

from typer.testing import CliRunner

from lego_fusion.cli import app


def run(*arguments: object, code: int = 0, columns: int | None = None) -> Any:
    """Call the command line and check the exit code; an error that is no exit is raised."""
    runner = CliRunner() if columns is None else CliRunner(env={"COLUMNS": str(columns)})
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: object, columns: int | None = None) -> str:
    """The one line with which a command is refused; nothing on stdout."""
    result = run(*arguments, code=2, columns=columns)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return lines[0]
