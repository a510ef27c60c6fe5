"""Chunks on processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from hispec_sim.errors import InputError
from hispec_sim.sweep.evaluate import Figures
from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.runners.chunk import Chunk, Done, Runner, evaluate_chunk
from hispec_sim.sweep.space import Space

_space: Space | None = None  # of a worker process


@contextmanager
def local_runner(sweep: Sweep, workers: int) -> Iterator[Runner]:
    """One worker is this process; more are processes of their own, which are ended with the context."""
    pool: ProcessPoolExecutor | None = None

    def run(chunks: Sequence[Chunk]) -> Generator[Done, None, None]:
        nonlocal pool
        if workers == 1 or len(chunks) == 1:
            space = Space(sweep)
            for chunk in chunks:
                yield chunk, evaluate_chunk(space, chunk)
            return
        if pool is None:
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, spawn, initializer=_start, initargs=(sweep,))
        waiting = {pool.submit(_evaluate, chunk): chunk for chunk in chunks}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            raise InputError(
                "a worker process was killed, perhaps for want of memory; all that was finished is kept: run the same "
                "command again, with fewer --workers"
            ) from None

    try:
        yield run
    finally:
        if pool is not None:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:  # what they are at would be computed for nobody
                process.terminate()
            pool.shutdown()


def _start(sweep: Sweep) -> None:
    """Workers leave Ctrl-C to their parent, and go when it is gone, even if it was killed."""
    global _space
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    _space = Space(sweep)


def _evaluate(chunk: Chunk) -> list[Figures]:
    assert _space is not None
    return evaluate_chunk(_space, chunk)
