"""Caches that the runs of a campaign share, where that decides what is timed."""

from __future__ import annotations

from collections.abc import Sequence

from hispec_sim.models.llama import Llama
from hispec_sim.profiler.timed_network import TimedNetwork


class SharedCaches:
    """By batch, where forwards become CUDA graphs: graphs are of the caches that they were captured over, so that a run
    with caches of its own would time captures, and nobody decodes so."""

    def __init__(self, network: Llama, exits: Sequence[int], max_tokens: int) -> None:
        """`exits`: all that a run has; `max_tokens`: of the longest sequence, new tokens included."""
        self._network, self._exits, self._max_tokens = network, exits, max_tokens
        self._made: dict[int, TimedNetwork | None] = {}

    def of(self, batch: int) -> TimedNetwork | None:
        """Those of so many sequences; None where forwards become no graphs, and a run may have its own."""
        if batch not in self._made:
            made = TimedNetwork(self._network, slots=batch, max_tokens=self._max_tokens, exits=self._exits)
            self._made[batch] = made if made.captures else None
        return self._made[batch]
