"""A progress bar that appears only where work takes long enough to wonder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE_S = 1.0
LINE_EVERY_S = 30.0


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


@contextmanager
def counting(verb: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to tell how many more of `total` points are done: a bar with the rate on a terminal, and a line
    now and then where nobody watches one."""
    console = Console(stderr=True)
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn("points"))
    bar = Progress(*columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=console, transient=True)
    task = bar.add_task(verb, total=total, rate="")
    began = told = time.monotonic()
    done = 0

    def advance(more: int) -> None:
        nonlocal done, told
        done += more
        now = time.monotonic()
        rate = done / max(now - began, 1e-9)
        bar.update(task, completed=done, rate=f"{rate:,.3g}/s")
        if console.is_terminal:
            if not bar.live.is_started and now - began > PATIENCE_S:
                bar.start()
        elif now - told > LINE_EVERY_S:
            told = now
            left = (total - done) / rate
            console.print(f"{verb}: {done:,} of {total:,} points, {rate:,.3g}/s, {left:,.0f} s left", highlight=False)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
