"""Memory that runs out becomes one sentence: what was being made, how large it is, and what to make smaller."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hispec_sim.errors import InputError

ALLOCATOR_SAYS = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
"""torch has no error class for a CPU without memory: its allocator's words tell, on Linux and macOS, on Windows, and
where a size does not even fit 64 bits."""


@contextmanager
def enough_memory(what: Callable[[], tuple[str, int]], cure: str) -> Iterator[None]:
    """Turn running out of memory, on any device, into an InputError. Other errors pass.

    `what` is asked only then: what was being made, and its size in bytes. `cure` completes "...: ".
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        made, size_bytes = what()
        raise InputError(f"out of memory: {made} of {size_bytes / 2**30:.3g} GiB cannot be made: {cure}") from None


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in ALLOCATOR_SAYS
    )


def give_back() -> None:
    """Return what has been freed to the system. glibc keeps it for later, but a hole that a matrix leaves is of no use
    to its packed copy, which is aligned otherwise. Elsewhere this does nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
