"""Commands that measure in turns: one works while the others wait, so that a machine that is slow for a while is slow
for all of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from hispec_sim.errors import InputError

POLL_S, YIELD_S = 0.1, 0.25
"""A command that waits looks so often whether it is its turn; one that gives way stays away long enough to be seen."""
WAKE_S = 0.3
"""So long a turn begins with idle work: a core of a shared machine that has slept for tenths of a second is slower by a
tenth or more for the next one or two."""


class Rest(Protocol):
    """Called between two pieces of work."""

    def __call__(self, lost_s: float = 0.0) -> float:
        """Returns the seconds that others worked. `lost_s`: what this command has lost so far, waiting for quiet
        moments or in disturbed ones (`profiler.moments`): a turn lasts so much longer, or short ones would be all
        waiting."""
        ...


@contextlib.contextmanager
def turns(path: Path | None, turn_s: float) -> Iterator[Rest]:
    """Wait for a turn, hold it, and give way to whoever waits for the same file once it has lasted `turn_s` seconds.

    The turn is a lock on `path`, which the system takes back from a command that dies. Without a path there are no
    others. Raises InputError if the file cannot be made.
    """
    if path is None:
        yield lambda lost_s=0.0: 0.0
        return
    from filelock import FileLock

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=POLL_S)
    except OSError as error:
        raise InputError(f"--turns: cannot lock {path}: {error.strerror}; give another file") from None
    _wake()
    began_s, lost_before_s = time.perf_counter(), 0.0

    def rest(lost_s: float = 0.0) -> float:
        nonlocal began_s, lost_before_s
        ended_s = time.perf_counter()
        if ended_s - began_s - (lost_s - lost_before_s) < turn_s:
            return 0.0
        lock.release()
        time.sleep(YIELD_S)
        lock.acquire(poll_interval=POLL_S)
        _wake()
        began_s, lost_before_s = time.perf_counter(), lost_s
        return began_s - ended_s

    try:
        yield rest
    finally:
        lock.release()


def _wake() -> None:
    """Keep the core busy until it is as fast as in long work."""
    until_s = time.perf_counter() + WAKE_S
    while time.perf_counter() < until_s:
        pass
