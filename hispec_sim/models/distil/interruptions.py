"""Ctrl-C as a request that is met at the next good moment, instead of one that breaks in."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def keeping_on() -> Iterator[Callable[[], bool]]:
    """Gives a function that says True until SIGINT or SIGTERM comes; a second one breaks in."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, receive)
    except ValueError:  # not in the main thread: nothing reaches us there
        pass
    try:
        yield lambda: not received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
