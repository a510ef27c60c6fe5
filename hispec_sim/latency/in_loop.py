"""What a forward takes less, or more, in a decode loop than the sum of its parts: rows of drafts find their layers in
the processor's caches, and the target, which comes by seldom, does not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hispec_sim.latency.forward_shape import ForwardShape
from hispec_sim.latency.interpolation import OpInterpolator
from hispec_sim.latency.ops import repeated_layers_of, resumed_layer_of

Floats = NDArray[np.float64]


class Usual(Protocol):
    """The sum of a forward's parts in milliseconds, by context; the time between forwards apart."""

    def __call__(self, shape: ForwardShape, contexts: Floats) -> Floats: ...


class InLoop:
    """The rows `repeat_L`, `silent_repeat_L` and `verify_L` of a profile, if it has them, against `usual`."""

    def __init__(self, ops: Mapping[str, OpInterpolator], n_layers: int, usual: Usual) -> None:
        self._n_layers, self._usual = n_layers, usual
        self._repeats = {
            read: {n: op for name, op in ops.items() if (n := repeated_layers_of(name, read=read)) is not None}
            for read in (False, True)
        }
        self._resumed = {n: op for name, op in ops.items() if (n := resumed_layer_of(name)) is not None}

    def saved_ms(self, shape: ForwardShape, contexts: Floats, in_row: int | None) -> Floats | None:
        """How much less than its parts a forward takes, by context; None where nothing is known. `in_row` as
        `NetworkCost.forward_ms`."""
        if shape.first_layer and shape.last_layer == self._n_layers and shape.logits and self._resumed:
            return self._saved_resuming_ms(shape, contexts)
        if in_row is not None and self._repeats[True] and self._repeats[False]:
            return self._saved_in_row_ms(shape, contexts, in_row)
        return None

    def _saved_resuming_ms(self, shape: ForwardShape, contexts: Floats) -> Floats:
        """The target's verification from an exit on: what a `verify_L` does, linear between the numbers of query tokens
        that the profile has. (Forwards are not: eight rows are one block of a matrix product, seven are not.)"""

        def saved(length: int) -> Floats:
            op, saved_ms = self._resumed[length], np.zeros(contexts.shape)
            for query_tokens, share in _around(op.table.query_tokens.tolist(), shape.query_tokens):
                rows = round(shape.batch * query_tokens)
                like = ForwardShape(length, self._n_layers, shape.batch, rows, rows)
                saved_ms += share * self._saved_of_batch_ms(op, like, query_tokens, contexts)
            return saved_ms

        return self._between(self._resumed, shape.first_layer, saved, contexts)

    def _saved_in_row_ms(self, shape: ForwardShape, contexts: Floats, in_row: int) -> Floats:
        """A forward of a row. From layer 0: what a `repeat_L` does. A verification finds the heads as the drafts before
        it have left theirs, of which it has about as many as tokens, even where they take more than their parts: its
        rows are read out like those of as many sequences, for a product of few rows and one of many may read a matrix
        that lies in the caches, or does not, in quite different times. And it finds its own layers as its own runs
        before it have: what they save a longer `repeat_L` beyond a shorter one, which may fit into a cache that the
        longer does not."""
        read = shape.logits > 0

        def saved(depth: int, place: float, batch: int, *, read: bool) -> Floats:
            return self._between(
                self._repeats[read],
                depth,
                lambda length: self._saved_repeating_ms(length, place, batch, contexts, read=read),
                contexts,
            )

        first, last, batch = shape.first_layer, shape.last_layer, shape.batch
        if not first:
            return saved(last, in_row, batch, read=read)
        drafted, rows = max(2.0, shape.query_tokens), shape.logits
        head_ms = saved(first, drafted, rows, read=True) - saved(first, drafted, rows, read=False) if read else 0.0
        layers_ms = saved(last, in_row, batch, read=False) - saved(first, in_row, batch, read=False)
        return np.asarray(head_ms + np.maximum(0.0, layers_ms) * (in_row > 1))

    def _saved_repeating_ms(self, length: int, in_row: float, batch: int, contexts: Floats, *, read: bool) -> Floats:
        """What a `repeat_L` takes less than its parts, at the nearest place in the row that the profile has."""
        op = self._repeats[read][length]
        place = float(np.clip(in_row, op.table.query_tokens[0], op.table.query_tokens[-1]))
        return self._saved_of_batch_ms(op, ForwardShape(0, length, batch, batch, batch * read), place, contexts)

    def _saved_of_batch_ms(
        self, op: OpInterpolator, shape: ForwardShape, query_tokens: float, contexts: Floats
    ) -> Floats:
        """How much less than its parts a forward takes that a row of the profile tells of; all its tokens are read out,
        or none. Linear between the batches that the profile has: what is saved is, and forwards are not, for three
        rows of a large product may take longer than four."""
        saved_ms = np.zeros(contexts.shape)
        known = np.asarray(op.table.context, dtype=np.float64)  # few: what is saved hardly depends on the context
        for batch, share in _around(op.table.batch.tolist(), shape.batch):
            tokens = round(batch * shape.query_tokens)
            like = ForwardShape(shape.first_layer, shape.last_layer, int(batch), tokens, tokens * (shape.logits > 0))
            saved_ms += share * np.interp(contexts, known, self._usual(like, known) - op.at(batch, query_tokens, known))
        return saved_ms

    def _between(
        self, known: Mapping[int, object], depth: int, saved: Callable[[int], Floats], contexts: Floats
    ) -> Floats:
        """What is saved at a depth, linear between those that the profile has and up to the whole network, where it is
        nothing."""
        total_ms = np.zeros(contexts.shape)
        for each, share in _around(sorted([*known, self._n_layers]), depth):
            if each < self._n_layers:
                total_ms += share * saved(int(each))
        return total_ms


def _around(known: Sequence[float], at: float) -> list[tuple[float, float]]:
    """The nearest of these increasing numbers below and above, each with its share in a number between them; one alone
    where it is met, or nothing lies beyond."""
    upper = bisect_left(known, at)
    if upper == len(known) or upper == 0 or known[upper] == at:
        return [(known[min(upper, len(known) - 1)], 1.0)]
    share = (at - known[upper - 1]) / (known[upper] - known[upper - 1])
    return [(known[upper - 1], 1 - share), (known[upper], share)]
