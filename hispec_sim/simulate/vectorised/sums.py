"""What logged moves amount to: milliseconds and counts, and from them the figures of a run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hispec_sim.simulate.configuration import Configuration
from hispec_sim.simulate.metrics import RunMetrics, figures
from hispec_sim.simulate.pricing import ForwardCost
from hispec_sim.simulate.vectorised.tables import SINK, StepTables, Work

Floats = NDArray[np.float64]
_KEPT = 1 << 25  # milliseconds kept, in numbers: 256 MB


class Prices:
    """Milliseconds of forwards by context, each asked for once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[ForwardCost, Floats]] = {}
        self._size = 0

    def of_step(self, configuration: Configuration, works: tuple[Work, ...]) -> Floats:
        """Milliseconds of a step's forwards together, for each of the configuration's contexts."""
        total = np.zeros(len(configuration.contexts))
        for work in works:
            total += self._of_forward(configuration, work)
        return total

    def _of_forward(self, configuration: Configuration, work: Work) -> Floats:
        level, first_layer, tokens, logits, in_row = work
        cascade, contexts = configuration.cascade, configuration.contexts
        reached = cascade.levels[level]
        if first_layer:  # in the shape's ranks
            first_layer = cascade.levels[cascade.exits[level][first_layer - 1]].exit_layer
        cost = configuration.costs[reached.network]
        key = (id(cost), first_layer, reached.exit_layer, tokens, logits, reached.shortlist, in_row, contexts)
        known = self._known.get(key)
        if known is None:
            if self._size > _KEPT:
                self._known.clear()
                self._size = 0
            ms = cost.forward_ms(
                first_layer=first_layer,
                last_layer=reached.exit_layer,
                batch=1,
                tokens=tokens,
                logits=logits,
                context=np.asarray(contexts),
                shortlist=reached.shortlist,
                in_row=in_row,
            )
            known = self._known[key] = (cost, ms)  # with the cost, so that no other gets its id
            self._size += len(ms)
        return known[1]


def summed(configuration: Configuration, moves: NDArray[np.int32], tables: StepTables, prices: Prices) -> RunMetrics:
    """The figures of a run from its moves, of shape (turns, requests)."""
    move, n_levels = tables.move, len(configuration.cascade.levels)
    count = np.bincount(moves.reshape(-1), minlength=tables.n_moves)
    count[SINK] = 0
    taken = np.flatnonzero(count)
    works, place = np.unique(move["works"][taken], return_inverse=True)
    rows = [prices.of_step(configuration, tables.works[number]) for number in works.tolist()]
    # Prices by context, from the shortest on, one row after another; the first entry is free, for the sink.
    flat = np.concatenate([np.zeros(1), *rows])
    begin = np.zeros(tables.n_moves, np.int64)
    begin[taken] = 1 + place * len(configuration.contexts) + move["reach"][taken]
    committed = move["committed"].take(moves)
    before = np.cumsum(committed, axis=0) - committed
    before[moves == SINK] = 0
    ms = flat.take(begin.take(moves) + before)
    request_ms = ms.sum(axis=0)
    outputs = [configuration.output_of(request) for request in range(configuration.requests)]

    def by_level(of_moves: NDArray[np.int64]) -> NDArray[np.int64]:
        summed_up = np.bincount(move["level"][taken], weights=count[taken] * of_moves[taken], minlength=n_levels)
        return summed_up.astype(np.int64)

    return figures(
        duration_ms=float(request_ms.sum()),
        level_ms=np.bincount(move["level"].take(moves.reshape(-1)), weights=ms.reshape(-1), minlength=n_levels),
        forwards=by_level(move["forwards"]),
        verified=by_level(move["verified"]),
        matched=by_level(move["matched"]),
        committed=int((count[taken] * move["committed"][taken]).sum()),
        rounds=int(count[taken][move["committed"][taken] > 0].sum()),
        tpot_ms=float(np.mean(request_ms / outputs)),
    )
