"""The states of a cascade as a graph, built while it is walked.

A request passes through few distinct states, since lengths are counted from the committed text. Remembering them
turns the state machine of `cascade.py` into a table look-up per forward, which is what lets a simulation cost
little more than its clock. Room for more tokens matters only when the next round could use it up, so all amounts of
room beyond that are one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache

from hispec_sim.cascade import Cascade, Forward, Outcome, State, Step, apply_outcome, next_step, start
from hispec_sim.scheduler import Span


class Kind(Enum):
    """What has to be known of a forward once it has run."""

    PASS = 0  # nothing: its hidden states feed the step's next forward, or the target simply decoded a token
    DRAFT = 1  # level 0 has proposed a token
    VERIFY = 2  # how many tokens of the run matched


@dataclass(slots=True, eq=False)
class Node:
    """One forward of one state's step. The fields after `after` restate the step for whoever reads a log."""

    state: State
    step: Step
    forward: Forward
    span: Span
    kind: Kind
    after: list[Move | None] = field(repr=False)  # by number of matched tokens; None until somebody has gone there
    level: int
    run: int
    bonus: bool
    reach: int  # position behind the forward's last token
    verified_from: int  # position of the run's first token
    in_row: int | None  # of a forward to an exit below the target: which one since a deeper level ran
    next_forward: Node | None = field(repr=False)  # of the same step


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """From a node to the next, given how many tokens matched; `committed` tokens became final by it.

    `matched` is -1 when the step goes on with another forward. `target` is None when the request has finished.
    """

    source: Node
    matched: int
    target: Node | None
    committed: int


CASCADES_KEPT = 64
"""Graphs that a process holds at most, those last asked for."""


@lru_cache(CASCADES_KEPT)
def shared_graph(cascade: Cascade) -> StepGraph:
    """The graph of a cascade as all that was decoded with it in this process has left it: a node is thought out once,
    not for every text anew."""
    return StepGraph(cascade)


class StepGraph:
    """All nodes met so far of one cascade; shared by every request that decodes with it."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.ample_room = cascade.max_tokens_per_round + 1
        self._steps: dict[State, Node] = {}
        self._levels = {(level.network, level.exit_layer): k for k, level in enumerate(cascade.levels)}

    def start(self, max_new_tokens: int, prompt_tokens: int | None = None) -> Node:
        """Node of a new request; its prompt is in every cache unless its length is given (see `cascade.start`)."""
        return self._first_node(start(self.cascade, min(max_new_tokens, self.ample_room), prompt_tokens))

    def follow(self, node: Node, matched: int, *, ended: bool = False) -> Move:
        """The move from `node` when `matched` tokens of its run matched; `ended`: the newest token is a stop token."""
        if ended:  # once in a request's life: not remembered
            return self._move(node, matched, ended=True)
        move = node.after[matched]
        if move is None:
            move = node.after[matched] = self._move(node, matched, ended=False)
        return move

    def _move(self, node: Node, matched: int, *, ended: bool) -> Move:
        state = apply_outcome(self.cascade, node.state, Outcome(matched, ended))
        if state.committed and not state.finished and node.state.room == self.ample_room:
            state = replace(state, room=self.ample_room)
        following = None if state.finished else self._first_node(replace(state, committed=0))
        return Move(node, matched, following, state.committed)

    def with_room(self, node: Node, room: int) -> Node:
        """The same state with `room` tokens left: for the start of a round close to the length limit."""
        return self._first_node(replace(node.state, room=min(room, self.ample_room)))

    def _in_row(self, state: State, step: Step, forward: Forward) -> int | None:
        """How often at least, with this one, the layers of a level below the target have run since a deeper level did.

        A level's own runs since then tell: they have gained so many tokens, of which one gains so many at most. A row
        begins at 1 behind the target, and at 2 behind another level of the same network, which has left fewer layers
        in the way.
        """
        levels, tentative, target = self.cascade.levels, state.tentative, self.cascade.target
        verifies = step.level > 0 and forward is step.forwards[-1]
        if not target or (verifies and step.level == target) or verifies != (forward.first_layer > 0):
            return None
        if any(level.network != forward.network for level in levels[: max(1, step.level)]):
            return None
        level = step.level if verifies else max(0, step.level - 1)
        gained, deeper = tentative[level] - tentative[level + 1], tentative[level + 1] > 0
        runs = -(-gained // self.cascade.most_tokens[level])
        return runs + (2 if deeper and levels[level + 1].network == forward.network else 1)

    def _first_node(self, state: State) -> Node:
        known = self._steps.get(state)
        if known is not None:
            return known
        step = next_step(self.cascade, state)
        following: Node | None = None
        for forward in reversed(step.forwards):
            node = Node(
                state=state,
                step=step,
                forward=forward,
                span=Span(self._levels[forward.network, forward.last_layer], forward.first_layer),
                kind=Kind.PASS,
                after=[],
                level=step.level,
                run=step.run,
                bonus=step.bonus,
                reach=forward.position + forward.tokens,
                verified_from=state.tentative[step.level],
                in_row=self._in_row(state, step, forward),
                next_forward=following,
            )
            if following is not None:
                node.after = [Move(node, -1, following, 0)]
            else:
                node.after = [None] * (step.run + 1)
                if step.run:
                    node.kind = Kind.VERIFY
                elif step.level < self.cascade.target:
                    node.kind = Kind.DRAFT
            following = node
        assert following is not None  # every step has a forward: its level's newest token is never pushed yet
        self._steps[state] = following
        return following
