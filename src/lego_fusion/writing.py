"""Files that appear complete or not at all: the floor on which everything that writes stands."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".*.partial"
"""Glob of what a kill in the middle of writing leaves beside the file."""


def write_text(path: str | Path, text: str) -> None:
    """Write a text so that its file appears complete, or not at all (``written_whole``); UTF-8, line breaks as they are."""
    with written_whole(path) as file:
        file.write(text.encode())


@contextmanager
def written_whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing so that it appears complete, or not at all, even if the process is killed.

    Args:
        path: File to write; folders above it are made.

    Yields:
        A binary file beside ``path``, renamed over it when the block ends without an exception.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with suppress(OSError):  # it is gone already where all went well
            beside.unlink(missing_ok=True)
