"""Plain files a person can read: written whole or not at all, read with the file and line of whatever is wrong."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import DataError
from ..writing import write_text

# One path component that every file system takes: a letter or digit first, no separator, nothing Windows refuses.
_SAFE_NAME = re.compile(r"\w(?:[^/\\:*?\"<>|\x00-\x1f\x7f]*[^/\\:*?\"<>|\x00-\x1f\x7f. ])?")
_LONGEST_NAME = 200
Number = TypeVar("Number", int, float)


def check_name(name: str, kind: str) -> str:
    """Return ``name`` if it can be a file name inside a dataset folder, else raise.

    Args:
        name: Name of a video or modality.
        kind: What it names, for the message.

    Raises:
        DataError: If it is empty, longer than 200 bytes, has a separator or could leave the folder.

    Example:
        >>> check_name("Bad.Boys.1995__#01-11-55_label_G-B2-B6", "video")
        'Bad.Boys.1995__#01-11-55_label_G-B2-B6'
    """
    if not _SAFE_NAME.fullmatch(name) or len(name.encode()) > _LONGEST_NAME:
        raise DataError(
            f"the {kind} name {name!r} cannot be a file name in a dataset folder",
            expected='a letter or digit first, then no / \\ : * ? " < > | , no final dot or space, at most 200 bytes',
            fix=f"rename the {kind}",
        )
    return name


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, with or without a byte order mark; ``DataError`` if it is missing or not text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise DataError("the file is not UTF-8 text", where=path, got=got, fix="save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", where=path) from error


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file with a header row.

    Args:
        path: The file.
        required: Columns that must be there, in any order.
        optional: Columns that may be there.

    Returns:
        Line number (1-based, that of the row's last line) and cells, stripped of blanks, of every row that is not empty.

    Raises:
        DataError: If the file is missing, a column is missing, unknown or repeated, or a row has another number of cells.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    table: list[tuple[int, dict[str, str]]] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, path, required, optional)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise DataError(
                    "the row has another number of cells than the header",
                    where=f"{path}, line {reader.line_num}",
                    expected=len(header),
                    got=len(cells),
                    fix="quote cells that contain a comma",
                )
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            table.append((reader.line_num, row))
    except csv.Error as error:
        raise DataError(f"not a CSV table: {error}", where=f"{path}, line {reader.line_num}") from error
    return table


def number_in(row: Mapping[str, str], column: str, kind: Callable[[str], Number]) -> Number:
    """The number in a cell; ``DataError`` that names the column where there is none.

    Example:
        >>> number_in({"frames": "16"}, "frames", int)
        16
    """
    try:
        return kind(row[column])
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        raise DataError(f"'{column}' is not {expected}", expected=expected, got=repr(row[column])) from error


def shorten(names: Iterable[str], most: int = 8) -> str:
    """The first names of a list, and how many more there are.

    Example:
        >>> shorten("abcd", most=2)
        'a, b and 2 more'
    """
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a CSV file with a header row, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _check_header(header: list[str], path: Path, required: Sequence[str], optional: Sequence[str]) -> None:
    listed = ",".join(required) + (f" and optionally {','.join(optional)}" if optional else "")
    faults = {
        "misses the column": [name for name in required if name not in header],
        "has an unknown column": [name for name in header if name not in {*required, *optional}],
        "repeats the column": sorted({name for name in header if header.count(name) > 1}),
    }
    for fault, names in faults.items():
        if names:
            raise DataError(f"the table {fault} {', '.join(map(repr, names))}", where=f"{path}, line 1", expected=listed)
