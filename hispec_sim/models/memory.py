"""Memory that runs out becomes one sentence: what was being made, how large it is, and what to make smaller."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hispec_sim.errors import InputError

ALLOCATOR_SAYS = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
"""torch has no error class for a CPU without memory: its allocator's words tell, on Linux and macOS, on Windows, and
where a size does not even fit 64 bits."""


@dataclass(frozen=True, slots=True)
class enough_memory:  # noqa: N801, it is used like a function
    """Turn running out of memory in the `with` block, on any device, into an InputError. Other errors pass.

    `what` is asked only then: what was being made, and its size in bytes. `cure` completes "...: ". (A class and no
    generator, which costs more: one stands around every forward.)
    """

    what: Callable[[], tuple[str, int]]
    cure: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not _is_out_of_memory(error):
            return
        made, size_bytes = self.what()
        raise InputError(f"out of memory: {made} of {size_bytes / 2**30:.3g} GiB cannot be made: {self.cure}") from None


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATOR_SAYS)
    )


def give_back() -> None:
    """Return what has been freed to the system. glibc keeps it for later, but a hole that a matrix leaves is of no use
    to its packed copy, which is aligned otherwise. Elsewhere this does nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
