"""Whether the machine is quiet enough to measure on: one steady piece of work, timed again and again, is the judge."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hispec_sim.errors import InputError
from hispec_sim.profiler.clock import Clock

SPREAD = 1.10
"""A quiet machine's steady work takes at most so many times its median in nine of ten runs."""
DRIFT = 1.05
"""And its median moves by at most so much from the first third of a measurement to the last."""
FEWEST = 20
"""So many runs are needed for a verdict on spread, and three times as many for one on drift."""
STEADY = 1.02
MOST_WARM_UP = 40


@dataclass(slots=True)
class Probe:
    """Times a steady piece of work and judges by it. `ms`: all its times so far."""

    clock: Clock
    work: Callable[[], Any]
    ms: list[float] = field(default_factory=list)

    def run(self, times: int = 1) -> None:
        """Time it so many times more, after once untimed: what ran before has emptied the caches."""
        self.work()
        self.ms += [self.clock.timed(self.work)[0] for _ in range(times)]

    def warm_up(self) -> None:
        """Run it, without counting, until the medians of twenty runs and the next twenty agree."""
        before = 0.0
        for _ in range(MOST_WARM_UP):
            now = statistics.median(self.clock.timed(self.work)[0] for _ in range(FEWEST))
            if max(before, now) <= STEADY * min(before, now):
                return
            before = now

    @property
    def spread(self) -> float:
        """90th percentile over median."""
        return statistics.quantiles(self.ms, n=10)[-1] / statistics.median(self.ms)

    @property
    def drift(self) -> float:
        """The larger over the smaller of the medians of the first and the last third."""
        third = len(self.ms) // 3
        first, last = statistics.median(self.ms[:third]), statistics.median(self.ms[-third:])
        return max(first, last) / min(first, last)

    def complaint(self) -> str | None:
        """What is wrong with the machine and what to do, or None if it is quiet."""
        if len(self.ms) < FEWEST:
            return None
        if self.spread > SPREAD:
            return (
                f"a steady piece of work took {self.spread - 1:.0%} more than its median in one of ten runs (at most "
                f"{SPREAD - 1:.0%} is quiet): other processes use the processor or its caches; end them, or give this "
                "one cores of its own (taskset)"
            )
        if len(self.ms) >= 3 * FEWEST and self.drift > DRIFT:
            return (
                f"a steady piece of work changed by {self.drift - 1:.0%} while measuring (at most {DRIFT - 1:.0%} is "
                "quiet): the processor's frequency steps; let it cool down, or fix the frequency"
            )
        return None

    def demand_quiet(self) -> None:
        """Raises InputError with advice if the machine is too noisy."""
        complaint = self.complaint()
        if complaint is not None:
            raise InputError(
                f"this machine is too noisy to measure on: {complaint}; then go on with --resume, or say --allow-noise"
            )
