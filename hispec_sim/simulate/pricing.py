"""Milliseconds of a batch, looked up: latency profiles are interpolated once per kind of forward, not per forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hispec_sim.step_graph import Node


class ForwardCost(Protocol):
    """Prices one device forward of one network (`latency.cost.NetworkCost`, or a constant in a test). `pads`: see
    `Pricer`."""

    @property
    def pads(self) -> bool: ...

    def forward_ms(
        self,
        *,
        first_layer: int,
        last_layer: int,
        batch: int,
        tokens: int,
        logits: int,
        context: NDArray[np.int64],
        shortlist: int | None = None,
        in_row: int | None = None,
    ) -> NDArray[np.float64]:
        """Milliseconds for each mean context in `context`; `tokens` and `logits` are sums over the batch, `shortlist`
        is how many tokens of the vocabulary are read out (None: all), `in_row` which of a row of
        such forwards it is, where that is known."""
        ...


class Asking(Protocol):
    """What the pricer must know of a request."""

    node: Node
    context: int


class Pricer:
    """Prices batches of requests that ask for the same span of layers.

    Attention reads every sequence's cache and multiplies it with its query tokens, so that sums matter and a ragged
    batch is priced by its mean context and mean query tokens. A device that `pads` fills all sequences of a batch up to
    the longest, as the executor does: there the longest counts for all.
    """

    def __init__(self, costs: Mapping[str, ForwardCost], contexts: range) -> None:
        """`contexts` spans the numbers of tokens that the requests can attend to."""
        self._costs = costs
        self._contexts = np.asarray(contexts)
        self._shortest = contexts.start
        self._tables: dict[Any, list[float]] = {}

    def price_ms(self, batch: Sequence[Asking]) -> float:
        """Milliseconds that the batch's forward takes."""
        if len(batch) == 1:
            request = batch[0]
            node = request.node
            table = self._tables.get(node)
            if table is None:
                table = self._tables[node] = self._table(node, 1, node.forward.tokens, node.forward.logits, node.in_row)
            return table[request.context + node.reach - self._shortest]
        node = batch[0].node
        forward = node.forward
        tokens = logits = context = 0
        for request in batch:
            asked = request.node.forward
            tokens += asked.tokens
            logits += asked.logits
            context += request.context + request.node.reach
        if self._costs[forward.network].pads:
            tokens = len(batch) * max(request.node.forward.tokens for request in batch)
            context = len(batch) * max(request.context + request.node.reach for request in batch)
        places = [request.node.in_row for request in batch]
        in_row = None if None in places else min(place for place in places if place is not None)
        span = (forward.network, forward.first_layer, forward.last_layer, forward.shortlist)
        key = (*span, len(batch), tokens, logits, in_row)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = self._table(node, len(batch), tokens, logits, in_row)
        return table[context // len(batch) - self._shortest]

    def _table(self, node: Node, batch: int, tokens: int, logits: int, in_row: int | None) -> list[float]:
        """Milliseconds by context, from the shortest on."""
        forward = node.forward
        duration_ms: list[float] = (
            self._costs[forward.network]
            .forward_ms(
                first_layer=forward.first_layer,
                last_layer=forward.last_layer,
                batch=batch,
                tokens=tokens,
                logits=logits,
                context=self._contexts,
                shortlist=forward.shortlist,
                in_row=in_row,
            )
            .tolist()
        )
        return duration_ms
