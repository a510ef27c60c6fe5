"""Progress of long work: a bar on a terminal, a line now and then elsewhere.

Both are drawn between two pieces of work only, never beside one: what is timed must not share its processor with a bar.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from hispec_sim.cli.durations import duration

PATIENCE_S, DRAW_EVERY_S = 1.0, 0.1
"""The bar appears only where work takes long enough to wonder, and is then drawn so often at most."""
LINE_EVERY_S = 30.0


class Bar:
    """Called after pieces of work with how many were done, one unless given."""

    def __init__(self, verb: str, total: int, unit: str, done: int, console: Console) -> None:
        self._verb, self._total, self._unit, self._console = verb, total, unit, console
        columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn(f"{unit}{{task.description}}"))
        self._bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._task = self._bar.add_task("", total=total or None, completed=done)
        self._done = self._done_before = done
        self._began = self._told = time.monotonic()

    def __call__(self, more: int = 1) -> None:
        self._done += more
        self._tell(self._pace())

    def note(self, text: str) -> None:
        """Say what goes on where no piece of work is done for a while."""
        self._tell(f", {text}")

    def close(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def _pace(self) -> str:
        """How fast it went since it began here, and how long the rest takes."""
        elapsed_s, done = time.monotonic() - self._began, self._done - self._done_before
        if not done or not elapsed_s or not self._total:
            return ""
        each_s = elapsed_s / done
        pace = f"{each_s:.3g} s each" if each_s > 1 else f"{1 / each_s:,.3g}/s"
        return f", {pace}, {duration(each_s * (self._total - self._done))} left"

    def _tell(self, text: str) -> None:
        self._bar.update(self._task, completed=self._done, description=text)
        now = time.monotonic()
        if not self._console.is_terminal:
            if now - self._told > LINE_EVERY_S:
                self._told = now
                done = f"{self._done:,} of {self._total:,}" if self._total else f"{self._done:,}"
                self._console.print(f"{self._verb}: {done} {self._unit}{text}", soft_wrap=True, highlight=False)
        elif now - self._began > PATIENCE_S and now - self._told > DRAW_EVERY_S:
            self._told = now
            self._bar.start()
            self._bar.refresh()


@contextmanager
def progress(verb: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
    """A bar for `total` pieces of work, some of them done before; a total of 0: nobody knows how many."""
    bar = Bar(verb, total, unit, done, Console(stderr=True))
    try:
        yield bar
    finally:
        bar.close()
