"""Fates of proposed tokens for many requests at once, read off one agreement trace.

As the sampler of the SimPy engine does it (`acceptance/replay.py`): a token takes the labels at its place; the first
level above its proposer that has another label will reject it. Behind a token that is wrong, a level goes on alone, and
labels are those of a recorded continuation. A lane can be on one such path of each level at a time, one behind the
other, the one of the lowest level last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.trace import AgreementTrace
from hispec_sim.simulate.seeds import Purpose, stream
from hispec_sim.simulate.vectorised.tables import NOWHERE, StepTables

Ints = NDArray[np.int64]


class RecordedText:
    """A trace's labels as one flat array of rows: its sequences one after another, then all continuations."""

    def __init__(self, trace: AgreementTrace) -> None:
        n = len(trace.exits)
        rows = trace.off_path.rows
        self.labels = np.concatenate((trace.labels.reshape(-1), rows.reshape(-1)))
        self.n_exits, self.piece_tokens = n, rows.shape[1]
        self._first_piece = len(trace.labels)
        sequence, position, column = trace.off_path.at.astype(np.int64).T
        keys = (trace.starts[sequence] + position) * n + column
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def row_of(self, piece: Any) -> Any:
        """The first row of a continuation, or of an array of them, by number in the trace."""
        return self._first_piece + piece * self.piece_tokens

    def recorded(self, position: Ints, column: Ints) -> Ints:
        """The number of the continuation of an exit's token at a position of the text; -1 where there is none."""
        if not len(self._keys):
            return np.full(len(position), -1)
        key = position * self.n_exits + column
        last = np.searchsorted(self._keys, key, side="right") - 1  # the last, where one was recorded twice
        return np.where(self._keys[last] == key, self._order[last], -1)


class ReplayedFates:
    """The fates of all lanes' tokens; lane i replays sequence `luck[i][2]` of the trace, read as `sources[owner[i]]`
    does. `luck[i]` is (seed, repetition, request): what continuations are chosen by, where none was recorded."""

    def __init__(
        self,
        tables: StepTables,
        text: RecordedText,
        sources: Sequence[ReplaySource],
        owner: Ints,
        luck: Sequence[tuple[int, int, int]],
        most_tokens: int,
    ) -> None:
        """`most_tokens` bounds the tentative tokens of a lane."""
        n, trace = len(owner), sources[0].trace
        self._tables, self._text, self._sources, self._owner = tables, text, sources, owner
        self._luck = list(luck)
        self._rng: dict[int, np.random.Generator] = {}  # by lane; most never need one
        self._lane = np.arange(n)
        self._target = len(sources[0].columns) - 1
        self._column = np.array([sources[o].columns for o in owner.tolist()]).T.copy()  # (levels, lanes)
        self._begin = trace.starts[[request % trace.n_sequences for _, _, request in luck]]
        self.first = np.full((self._target + 2, n), NOWHERE)
        # By level that goes on alone: where the wrong token is, and in which row each piece behind it begins.
        self._wrong_at = np.full((self._target, n), NOWHERE)
        self._piece = np.full((self._target, most_tokens // text.piece_tokens + 1, n), -1)

    def prepare(self) -> None:
        """Nothing is drawn ahead."""

    def extend(self) -> None:
        """What labels mean does not depend on the moves."""

    def settle(self, move: Ints, context: Ints) -> None:
        """Discard and propose what the lanes' moves say."""
        column, n = self._tables.move, len(move)
        cut = column["cut"].take(move)
        np.putmask(self.first, self.first >= cut, NOWHERE)
        np.putmask(self._wrong_at, self._wrong_at >= cut, NOWHERE)
        place, proposer = column["place"].take(move), column["proposer"].take(move)
        proposes = place < NOWHERE
        reference, row = self._rows(place, proposes, context)
        row *= self._text.n_exits
        # Where nothing is proposed, labels are anybody's, and what comes of them is kept nowhere.
        labels = self._text.labels.take(row + self._column, mode="clip")  # (levels, lanes)
        flat_labels, lanes = labels.reshape(-1), np.arange(n)
        own = flat_labels.take(proposer * n + lanes)
        # Levels above the reference look only at the wrong token itself: what is said here of those behind it is moot.
        fate = np.full(n, self._target + 1)
        for level in range(self._target, 0, -1):
            np.putmask(fate, (labels[level] != own) & (proposer < level), level)
        cell = fate * n + lanes
        flat = self.first.reshape(-1)
        flat[cell] = np.minimum(flat.take(cell), place)
        wrong = (flat_labels.take(reference * n + lanes) != own) & (reference > 0) & proposes
        leaving = np.flatnonzero(wrong)
        if len(leaving):
            places, holder = place[leaving], fate[leaving] - 1
            self._leave(leaving, places, holder, reference[leaving], context[leaving])

    def keep(self, lanes: NDArray[np.bool_]) -> None:
        """Forget the other lanes."""
        self._owner, self._begin, self._lane = self._owner[lanes], self._begin[lanes], self._lane[lanes]
        self._column = np.ascontiguousarray(self._column[:, lanes])
        self.first = np.ascontiguousarray(self.first[:, lanes])
        self._wrong_at = np.ascontiguousarray(self._wrong_at[:, lanes])
        self._piece = np.ascontiguousarray(self._piece[:, :, lanes])

    def _rows(self, place: Ints, proposes: NDArray[np.bool_], context: Ints) -> tuple[Ints, Ints]:
        """The level with which each lane's text is compared at `place`, and the row of labels there."""
        reference = np.full(len(place), self._target)
        row = self._begin + context + place
        lowest = proposes.copy()  # lanes whose lowest path has not been seen
        for level in range(self._target):
            at = np.flatnonzero(lowest & (self._wrong_at[level] < NOWHERE))
            reference[at], lowest[at] = level, False
            if level == 0:  # nobody looks at what level 0 drafts behind its own wrong token
                row[at] = 0
                continue
            number, offset = np.divmod(place[at] - self._wrong_at[level, at] - 1, self._text.piece_tokens)
            first = self._piece[level, number, at]
            for i in np.flatnonzero(first < 0).tolist():  # it goes on longer than was recorded
                first[i] = self._piece[level, number[i], at[i]] = self._any(level, int(at[i]))
            row[at] = first + offset
        return reference, row

    def _leave(self, lanes: Ints, place: Ints, holder: Ints, reference: Ints, context: Ints) -> None:
        """The text of these lanes leaves that of `reference`: `holder` goes on alone behind the token at `place`."""
        self._wrong_at[holder, lanes] = place
        some = np.flatnonzero(holder > 0)
        lanes, place, holder, reference, context = (a[some] for a in (lanes, place, holder, reference, context))
        self._piece[holder, :, lanes] = -1
        position = self._begin[lanes] + context + place
        piece = np.where(reference == self._target, self._text.recorded(position, self._column[holder, lanes]), -1)
        self._piece[holder, 0, lanes] = np.where(piece < 0, -1, self._text.row_of(piece))
        for i in np.flatnonzero(piece < 0).tolist():
            self._piece[holder[i], 0, lanes[i]] = self._any(int(holder[i]), int(lanes[i]))

    def _any(self, level: int, lane: int) -> int:
        """The first row of a random continuation, chosen by the lane's own luck."""
        number = int(self._lane[lane])
        seed, repetition, request = self._luck[number]
        rng = self._rng.get(number)
        if rng is None:
            rng = self._rng[number] = stream(seed, repetition, Purpose.OUTCOMES, request)
        source = self._sources[self._owner[lane]]
        return int(self._text.row_of(source.any_continuation(level, request % source.trace.n_sequences, rng)))
