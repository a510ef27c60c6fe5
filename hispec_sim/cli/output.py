"""Where commands print tables and write figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from hispec_sim.errors import InputError

PIPED_WIDTH = 130
"""Columns of a file or a pipe, which have no width of their own: enough for every table."""


def table_console() -> Console:
    """The terminal as wide as it is, anything else wide enough for tables."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what keeps a file from being written into InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; give another place") from None
