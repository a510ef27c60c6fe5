"""A progress bar that appears only where work takes long enough to wonder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE_S = 1.0


@contextmanager
def progress(verb: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each of `total` pieces of work; the bar shows on a terminal after a second."""
    began = time.monotonic()
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(verb, total=total)

    def tick() -> None:
        bar.advance(task)
        if not bar.live.is_started and bar.console.is_terminal and time.monotonic() - began > PATIENCE_S:
            bar.start()

    try:
        yield tick
    finally:
        bar.stop()
