"""The step graphs of many cascades as arrays, so that thousands of requests take a step in a few look-ups.

Cascades that differ only in what their networks are and at which layers they exit share one graph: their *shape*.
Steps and moves are numbered over all shapes and added when somebody first gets there, so the control logic stays where
it is (`cascade.py`, through `step_graph.py`). Here a step is one entry, however many forwards it has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.sampler import offsets_behind
from hispec_sim.cascade import Cascade, Level
from hispec_sim.step_graph import Kind, Move, Node, StepGraph

SINK = 0
"""The step and the move of requests that have finished: they take no time and lead to themselves."""
UNKNOWN = -1
"""Where nobody has gone yet."""
NOWHERE = 1 << 20
"""A position behind every tentative token."""

_STEP = ("verifier", "upto", "base")
_MOVE = (
    "target", "committed", "cut", "place", "token", "own", "draws", "proposer",
    "step", "level", "works", "reach", "forwards", "verified", "matched",
)  # fmt: skip

Token = tuple[int, bool, tuple[int, ...]]
"""A kind of proposed token: its proposer, whether it corrects a rejected one, and its place in each level's run."""
Work = tuple[int, int, int, int, int | None]
"""A forward of a shape: the level it reaches, the rank of the exit it starts from (0: none), tokens, logits, whether
the same layers ran just before."""


class Columns:
    """Arrays of one length that grow together."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.n = 0
        self.of: dict[str, NDArray[np.int64]] = {name: np.zeros(64, np.int64) for name in names}

    def add(self, count: int) -> int:
        """Room for `count` more entries; returns the first."""
        first, self.n = self.n, self.n + count
        for name, array in self.of.items():
            if self.n > len(array):
                self.of[name] = np.concatenate((array, np.zeros(self.n, np.int64)))
        return first


class Shape:
    """One shape's graph, and the kinds of token that it proposes; with `by_place` they tell places apart."""

    def __init__(self, cascade: Cascade, by_place: bool) -> None:
        self.graph = StepGraph(cascade)
        self.n_levels = len(cascade.levels)
        self.by_place = by_place
        self.tokens: dict[Token, int] = {}


class StepTables:
    """All shapes' steps and moves, arrays by name.

    `step`: `verifier` is the level that verifies (0: none) the tokens before position `upto`; its moves stand at `base`
    plus the position of the first token that does not match.
    `move`: positions from `cut` on are discarded, then the token of kind `token` is proposed by level `proposer` at
    `place` (NOWHERE: none) and `draws` a number from one of two streams (`own`: from the verifiers'). The rest restates
    the step: its forwards are `works[move["works"]]`, and `reach` is the position behind their last token.
    """

    def __init__(self) -> None:
        self._steps, self._moves = Columns(_STEP), Columns(_MOVE)
        self.works: list[tuple[Work, ...]] = [()]
        self.n_tokens = 0  # kinds of token, of all shapes
        self._work_numbers: dict[tuple[Work, ...], int] = {(): 0}
        self._shapes: dict[tuple[Cascade, bool], Shape] = {}
        self._numbers: dict[Node, int] = {}
        self._known: list[tuple[Shape, Node]] = []  # of each step: its last node
        self._taken: dict[int, Move] = {}
        self._entered: dict[tuple[int, int], int] = {}
        self._add_sink()

    @property
    def step(self) -> dict[str, NDArray[np.int64]]:
        """Steps by name of column; fetch again after anything was added."""
        return self._steps.of

    @property
    def move(self) -> dict[str, NDArray[np.int64]]:
        """Moves by name of column; fetch again after anything was added."""
        return self._moves.of

    @property
    def n_moves(self) -> int:
        """Moves so far, also those that nobody has taken."""
        return self._moves.n

    def shape(self, cascade: Cascade, by_place: bool) -> Shape:
        """The shape of a cascade."""
        key = (_shape_of(cascade), by_place)
        if key not in self._shapes:
            self._shapes[key] = Shape(*key)
        return self._shapes[key]

    def start(self, shape: Shape, output_tokens: int) -> int:
        """The step with which a request begins."""
        return self._number(shape, shape.graph.start(output_tokens))

    def enter(self, move: int, room: int) -> int:
        """The step behind a commit with `room` tokens left, fewer than are ample."""
        step = self._entered.get((move, room))
        if step is None:
            shape, _ = self._known[self.move["step"][move]]
            target = self._taken[move].target if room else None
            step = SINK if target is None else self._number(shape, shape.graph.with_room(target, room))
            self._entered[move, room] = step
        return step

    def follow(self, moves: NDArray[np.int64]) -> None:
        """Fill in moves that somebody takes for the first time."""
        for move in np.unique(moves).tolist():
            self._follow(move)

    def _follow(self, m: int) -> None:
        column = self.move
        shape, node = self._known[column["step"][m]]
        matched = int(column["matched"][m])
        move = self._taken[m] = node.after[matched] or shape.graph.follow(node, matched)
        target = SINK if move.target is None else self._number(shape, move.target)
        column = self.move  # longer now
        column["target"][m], column["committed"][m] = target, move.committed
        own = node.kind is Kind.VERIFY and (matched < node.run or node.bonus)
        if move.committed:
            column["cut"][m] = 0
        elif own or node.kind is Kind.DRAFT:
            place = node.state.tentative[node.level] + matched
            token = (node.level, matched < node.run, offsets_behind(node, matched) if shape.by_place else ())
            column["place"][m] = place
            self.n_tokens += token not in shape.tokens
            column["token"][m] = shape.tokens.setdefault(token, len(shape.tokens))
            column["own"][m], column["draws"][m] = own, 1
            if own:
                column["cut"][m] = place

    def _number(self, shape: Shape, first: Node) -> int:
        known = self._numbers.get(first)
        if known is not None:
            return known
        works, node = [_work(first)], first
        while node.kind is Kind.PASS and (passes := node.after[0]) is not None and passes.matched < 0:
            assert passes.target is not None
            node = passes.target
            works.append(_work(node))
        verifies = node.kind is Kind.VERIFY
        step, m = self._steps.add(1), self._moves.add(len(node.after))
        column, end = self.step, m + len(node.after)
        if verifies:
            column["verifier"][step], column["upto"][step] = node.level, node.verified_from + node.run
        column["base"][step] = m - (node.verified_from if verifies else 0)
        known = self._work_numbers.setdefault(tuple(works), len(self.works))
        if known == len(self.works):
            self.works.append(tuple(works))
        column = self.move
        column["step"][m:end], column["works"][m:end], column["forwards"][m:end] = step, known, len(works)
        column["level"][m:end] = column["proposer"][m:end] = node.level
        column["reach"][m:end], column["verified"][m:end] = node.reach, node.run
        column["matched"][m:end] = np.arange(end - m)
        column["target"][m:end] = UNKNOWN
        column["cut"][m:end] = column["place"][m:end] = NOWHERE
        self._known.append((shape, node))
        self._numbers[first] = step
        return step

    def _add_sink(self) -> None:
        self._steps.add(1)
        self._moves.add(1)
        self.move["cut"][SINK] = self.move["place"][SINK] = NOWHERE
        nothing: Any = None
        self._known.append((nothing, nothing))


def _shape_of(cascade: Cascade) -> Cascade:
    """The cascade with networks numbered in order and exits ranked within their network: all that control needs."""
    networks: dict[str, int] = {}
    levels = []
    for k, level in enumerate(cascade.levels):
        networks.setdefault(level.network, len(networks))
        levels.append(Level(str(networks[level.network]), len(cascade.exits[k]), level.verify_period))
    return Cascade(tuple(levels), cascade.bonus)


def _work(node: Node) -> Work:
    return node.span.reaches_level, node.span.first_layer, node.forward.tokens, node.forward.logits, node.in_row
