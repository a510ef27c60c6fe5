"""Many requests in lock-step: each turn takes one step of every one of them, by looking things up.

A *lane* is a request that has the device to itself. Its moves are logged and nothing else: what they cost and amount
to is summed afterwards (`sums.py`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hispec_sim.simulate.vectorised.drawn import LOOK_AHEAD
from hispec_sim.simulate.vectorised.tables import SINK, StepTables

Ints = NDArray[np.int64]
_WORTHWHILE = 0.1  # share of lanes that must have finished for the others to be copied together


class Fates(Protocol):
    """Answers verifications. `first[k]` holds, by lane, the position of the first token that level k will reject."""

    first: Ints

    def prepare(self) -> None:
        """Before every `LOOK_AHEAD` turns."""
        ...

    def extend(self) -> None:
        """The tables hold moves that were not there before."""
        ...

    def settle(self, move: Ints, context: Ints) -> None:
        """Each lane has taken a move, at a context of so many tokens committed; finished lanes have move SINK."""
        ...

    def keep(self, lanes: NDArray[np.bool_]) -> None:
        """Forget the other lanes."""
        ...


class Log:
    """Moves of all lanes, in blocks of turns of those lanes that had not finished."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Ints, NDArray[np.int32]]] = []

    def add(self, lanes: Ints, moves: NDArray[np.int32]) -> None:
        """Moves of shape (turns, lanes), lanes by their number, rising."""
        self._blocks.append((lanes, moves))

    def moves(self, first: int, end: int) -> NDArray[np.int32]:
        """Moves of lanes `first` to `end`, of shape (turns, lanes); SINK where a lane has finished."""
        parts = []
        for lanes, moves in self._blocks:
            low, high = np.searchsorted(lanes, (first, end))
            if low == high:
                break
            if high - low < end - first:
                whole = np.full((len(moves), end - first), SINK, np.int32)
                whole[:, lanes[low:high] - first] = moves[:, low:high]
                parts.append(whole)
            else:
                parts.append(moves[:, low:high])
        return np.concatenate(parts)


def walk(tables: StepTables, fates: Fates | None, step: Ints, room: Ints, ample_room: Ints) -> Log:
    """Decode `room` tokens in each lane, beginning at `step`; without `fates` nothing is ever verified."""
    log, lane = Log(), np.arange(len(step))
    context = np.zeros(len(step), np.int64)
    while len(lane):
        moves = np.empty((LOOK_AHEAD, len(lane)), np.int32)
        if fates is not None:
            fates.prepare()
        for turn in range(LOOK_AHEAD):
            move = tables.step["base"].take(step)
            if fates is not None:
                cell = tables.step["verifier"].take(step) * len(lane) + np.arange(len(lane))
                move += np.minimum(fates.first.reshape(-1).take(cell), tables.step["upto"].take(step))
            moves[turn] = move
            following = tables.move["target"].take(move)
            if following.min() < 0:
                tables.follow(move[following < 0])
                following = tables.move["target"].take(move)
                if fates is not None:
                    fates.extend()
            if fates is not None:
                fates.settle(move, context)
            committed = tables.move["committed"].take(move)
            context += committed
            room -= committed
            for i in np.flatnonzero((room < ample_room) & (committed > 0)).tolist():
                following[i] = tables.enter(int(move[i]), int(room[i]))
            step = following
        log.add(lane, moves)
        alive = step != SINK
        if alive.sum() <= (1 - _WORTHWHILE) * len(lane):
            lane, step, context, room, ample_room = (a[alive] for a in (lane, step, context, room, ample_room))
            if fates is not None:
                fates.keep(alive)
    return log
