"""What time is: how long a piece of work took on a device, and how much of a budget is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class Clock(Protocol):
    """Times work. Tests have one that they set themselves."""

    name: str
    """For the profile's provenance."""

    def now_s(self) -> float:
        """Seconds since some moment, as people feel them: budgets are counted in these."""
        ...

    def loop_s(self) -> float:
        """Seconds since some moment, as durations on the host are counted."""
        ...

    def timed(self, work: Callable[[], T]) -> tuple[float, T]:
        """Milliseconds that the work took on its device, and its result."""
        ...


class WallClock:
    """The time that passes, others' work included."""

    name = "wall"

    def now_s(self) -> float:
        return time.perf_counter()

    def loop_s(self) -> float:
        return time.perf_counter()

    def timed(self, work: Callable[[], T]) -> tuple[float, T]:
        began_s = self.loop_s()
        result = work()
        return 1000 * (self.loop_s() - began_s), result


class ProcessorClock(WallClock):
    """The processor time of this thread: what other processes take from the processor is left out, though not that
    they empty its caches. Right for work on one thread only."""

    name = "processor"

    def loop_s(self) -> float:
        return time.thread_time()


class CudaClock(WallClock):
    """Time between two events on the device's stream; the first is recorded while the device is idle, so that the
    launching of kernels counts where the device waits for it."""

    name = "cuda events"

    def loop_s(self) -> float:
        """The host's time when the device has done all that was launched: a forward of a decode loop takes what the
        device takes for it, read out or not."""
        torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, work: Callable[[], T]) -> tuple[float, T]:
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        result = work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)), result
