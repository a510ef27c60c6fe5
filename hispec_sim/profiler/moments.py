"""Which moments of a shared machine count: all, or quiet ones, and what was measured in another is measured again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.profiler.clock import Clock

T = TypeVar("T")

BEST = 0.1
"""What steady work takes at its best is what it takes in this share of all looks."""
LOOK = 3
"""Runs of steady work whose median is one look at it."""
LEARN, PAUSE_S = 40, 0.25
"""Looks, so far apart, that tell at first how fast the machine can be."""
PATIENCE_S = 600.0
"""A piece of work that meets no quiet moment for so long is given up."""


class Moments(Protocol):
    """When to measure."""

    lost_s: float
    """Seconds beside the work that counted: of looking, of waiting, and of work that was then done again."""

    def measure(self, work: Callable[[], T], waiting: Callable[[], object] = ...) -> T:
        """The result of the work, done when it counts. What it does besides must bear repetition. `waiting` is called
        now and then while it has to wait."""
        ...


class AnyMoment:
    """Every moment counts."""

    lost_s = 0.0

    def measure(self, work: Callable[[], T], waiting: Callable[[], object] = lambda: None) -> T:
        return work()


class QuietMoments:
    """Work counts if the machine was quiet before and after it. Cores of a cloud machine lend half of their speed to
    others for seconds at a time; between those times it is as good as one's own.

    A disturbance that begins and ends within a piece of work is not seen: pieces should take a second or so.
    """

    def __init__(
        self,
        clock: Clock,
        steady: Sequence[Callable[[], Any]],
        most: float,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """A moment is quiet if each `steady` piece of work takes at most `most` times what it takes at its best, which
        is learnt for ten seconds. Raises InputError if `most` is not above 1."""
        if not most > 1:
            raise InputError(f"--quiet must be above 1, such as 1.15, got {most:g}")
        self.lost_s = 0.0
        self._clock, self._steady, self._most, self._pause = clock, tuple(steady), most, pause
        self._looks_ms: list[list[float]] = []
        self._best_ms = np.full(len(self._steady), np.inf)
        for _ in range(LEARN):
            self._look()
            pause(PAUSE_S)

    def measure(self, work: Callable[[], T], waiting: Callable[[], object] = lambda: None) -> T:
        """Raises InputError where there is no quiet moment for `PATIENCE_S`."""
        began_s, lost_before_s = self._clock.now_s(), self.lost_s
        while True:
            while not self._quiet():
                self.lost_s = lost_before_s + self._clock.now_s() - began_s
                waiting()
                self._pause(PAUSE_S)
                self._check_patience(began_s)
            at_s = self._clock.now_s()
            result = work()
            took_s = self._clock.now_s() - at_s
            if self._quiet():
                self.lost_s = lost_before_s + self._clock.now_s() - began_s - took_s
                return result
            self._check_patience(began_s)

    def _quiet(self) -> bool:
        """What is best never rises again: in a long wait nearly all looks are slow ones."""
        self._look()
        self._best_ms = np.minimum(self._best_ms, np.quantile(self._looks_ms, BEST, axis=0))
        return self._slowdown() <= self._most

    def _slowdown(self) -> float:
        """What steady work took in the last look over what it takes at its best: of the piece that suffers most."""
        return float(np.max(self._looks_ms[-1] / self._best_ms))

    def _look(self) -> None:
        looked = []
        for work in self._steady:
            work()  # what ran before has emptied the caches
            looked.append(statistics.median(self._clock.timed(work)[0] for _ in range(LOOK)))
        self._looks_ms.append(looked)

    def _check_patience(self, began_s: float) -> None:
        if self._clock.now_s() - began_s > PATIENCE_S:
            raise InputError(
                f"no quiet moment on this machine in {PATIENCE_S:.0f} s: a steady piece of work takes "
                f"{self._slowdown():.2f} times what it can take (at most "
                f"{self._most:g} is quiet); what was measured is kept: go on with --resume when others leave the "
                "processor alone, or begin anew on another core (taskset) or with a larger --quiet"
            )
