"""Fates of proposed tokens for many requests at once, drawn from acceptance models.

The sampler of the SimPy engine keeps the fate of every tentative token. Here only the *first* token that each level
will reject is kept, which is all that a verification asks: what stands behind it goes with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.models import AcceptanceModel, Correlated, Independent
from hispec_sim.acceptance.sampler import fate_thresholds, streams_of
from hispec_sim.simulate.seeds import Purpose, stream
from hispec_sim.simulate.vectorised.streams import Streams
from hispec_sim.simulate.vectorised.tables import NOWHERE, Shape, StepTables

Ints = NDArray[np.int64]
LOOK_AHEAD = 64
"""Turns for which numbers are at hand after `prepare`."""


class DrawnFates:
    """The fates of all lanes' tokens; lane i decodes with `models[owner[i]]` of `shapes[owner[i]]`.

    `luck[i]` is (seed, repetition, request) of lane i: lanes of equal luck and clustering share streams.
    """

    def __init__(
        self,
        tables: StepTables,
        shapes: Sequence[Shape],
        models: Sequence[AcceptanceModel],
        owner: Ints,
        luck: Sequence[tuple[int, int, int]],
    ) -> None:
        self._tables, self._shapes, self._models, self._owner = tables, shapes, models, owner
        self._n_levels = models[0].n_levels
        self._streams = Streams()
        pairs = [self._streams_of(models[o], *key) for o, key in zip(owner, luck, strict=True)]
        self._stream = np.ascontiguousarray(np.array(pairs).T)
        self._drawn = np.zeros(self._stream.shape, np.int64)
        self._known = self._capacity = 0
        self._filled = [0] * len(models)
        self._bounds: list[NDArray[np.float64]] = []  # by level from 1 on: (model, kind of token, off the path), flat
        self.first = np.full((self._n_levels + 1, len(owner)), NOWHERE)

    def prepare(self) -> None:
        """Have numbers for the next turns."""
        self._streams.extend(int(self._drawn.max()) + LOOK_AHEAD)

    def extend(self) -> None:
        """Learn of the kinds of token that have been met since."""
        if self._known == self._tables.n_tokens:
            return
        self._known = self._tables.n_tokens
        wanted = max(len(shape.tokens) for shape in self._shapes)
        if wanted > self._capacity:
            self._capacity = max(wanted, 2 * self._capacity)
            self._filled = [0] * len(self._models)
            count = len(self._models) * self._capacity * 2
            self._bounds = [np.zeros(count) for _ in range(1, self._n_levels)]
        for i, (shape, model) in enumerate(zip(self._shapes, self._models, strict=True)):
            if self._filled[i] == len(shape.tokens):
                continue
            for number, (proposer, corrected, offsets) in list(enumerate(shape.tokens))[self._filled[i] :]:
                places = offsets or (0,) * shape.n_levels
                for off_path in (False, True):
                    bounds = fate_thresholds(model, proposer, places, corrected=corrected, on_path=not off_path)
                    for level in range(1, shape.n_levels):
                        at = (i * self._capacity + number) * 2 + off_path
                        self._bounds[level - 1][at] = bounds[level]
            self._filled[i] = len(shape.tokens)

    def settle(self, move: Ints, context: Ints) -> None:
        """Discard and propose what the lanes' moves say."""
        column, n = self._tables.move, len(move)
        first = self.first
        pending = first[1:-1]
        np.putmask(pending, pending >= column["cut"].take(move), NOWHERE)
        off_path = pending.min(axis=0) < NOWHERE
        kind = (self._owner * self._capacity + column["token"].take(move)) * 2 + off_path
        lanes = np.arange(n)
        which = column["own"].take(move) * n + lanes
        drawn = self._drawn.reshape(-1)
        at = drawn.take(which)
        u = self._streams.values.take(self._stream.reshape(-1).take(which) * self._streams.width + at)
        drawn[which] = at + column["draws"].take(move)
        fate = np.ones(n, np.int64)
        for bounds in self._bounds:
            fate += bounds.take(kind) <= u
        cell = fate * n + lanes
        flat = first.reshape(-1)
        flat[cell] = np.minimum(flat.take(cell), column["place"].take(move))

    def keep(self, lanes: NDArray[np.bool_]) -> None:
        """Forget the other lanes."""
        self._owner = self._owner[lanes]
        self._stream = np.ascontiguousarray(self._stream[:, lanes])
        self._drawn = np.ascontiguousarray(self._drawn[:, lanes])
        self.first = np.ascontiguousarray(self.first[:, lanes])

    def _streams_of(self, model: AcceptanceModel, seed: int, repetition: int, request: int) -> tuple[int, int]:
        key = (seed, repetition, request, model.clustering)
        drafts, own = self._streams.known((*key, "drafts")), self._streams.known((*key, "own"))
        if drafts is None or own is None:
            of_drafts, of_own = streams_of(model, stream(seed, repetition, Purpose.OUTCOMES, request))
            drafts = self._streams.add((*key, "drafts"), of_drafts)
            own = self._streams.add((*key, "own"), of_own)
        return drafts, own


def depends_on_place(model: AcceptanceModel) -> bool:
    """Whether a token's place in a run decides its fate; a model that is not known here may say so."""
    return not isinstance(model, Independent | Correlated)
