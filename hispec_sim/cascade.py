"""Hierarchical speculative decoding as a pure state machine: no clock, no randomness, no tensors, no I/O.

A cascade is an ordered tuple of levels. Level 0 drafts one token at a time; every level above it verifies the
tokens that the level below has accepted, once `verify_period` of them have gathered; what the last level (the
target) accepts is committed. One level is autoregressive decoding, two are speculative decoding, three are
HiSpec (Kumar, Sanghavi, Das 2025, arXiv 2510.01336, Algorithms 1 and 2); more work the same way.

Two functions are the whole algorithm. `next_step(cascade, state)` says what must run now, as `Forward`s;
`apply_outcome(cascade, state, outcome)` says where that leaves the request. One rule prices everything: for a
level to predict, every token it must see has to have been pushed to the level's depth; push exactly those that
have not been, span by span between consecutive exits of that network.

All lengths are counted from the committed text: position 0 is the first token not yet committed, and a token of
the committed text that a level has not seen yet has a negative position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import accumulate

from hispec_sim.errors import InputError


class Bonus(StrEnum):
    """When a verifier adds a token of its own to those that matched."""

    ALWAYS = "always"  # HiSpec Algorithm 1: a correction on a mismatch, one further token otherwise
    ON_MISMATCH = "on_mismatch"  # HiSpec Algorithm 2: only the correction


@dataclass(frozen=True, slots=True)
class Level:
    """One decision maker: a network read out at an exit layer.

    `verify_period` is how many tokens the level below must hold before this level verifies them: the draft
    length Nd at level 1, Ni above. Level 0 verifies nothing; its period is 0. With a `shortlist` the level reads out
    only so many of the vocabulary's most frequent tokens and predicts no other; the target has none.
    """

    network: str
    exit_layer: int
    verify_period: int = 0
    shortlist: int | None = None


@dataclass(frozen=True)
class Cascade:
    """The ordered levels and the bonus rule. Raises InputError when they do not form a cascade."""

    levels: tuple[Level, ...]
    bonus: Bonus = Bonus.ON_MISMATCH

    def __post_init__(self) -> None:
        if not self.levels:
            raise InputError("a cascade needs at least one level, the target")
        deepest: dict[str, int] = {}
        for k, level in enumerate(self.levels):
            if level.exit_layer <= deepest.get(level.network, 0):
                raise InputError(
                    f"level {k} exits {level.network} at layer {level.exit_layer}; exit layers of one network must "
                    f"grow from level to level, so it must be above {deepest.get(level.network, 0)}"
                )
            deepest[level.network] = level.exit_layer
            if k == 0 and level.verify_period != 0:
                raise InputError(
                    f"level 0 drafts and verifies nothing; its verify_period is 0, not {level.verify_period}"
                )
            if k > 0 and level.verify_period < 1:
                raise InputError(f"level {k} must have a verify_period of at least 1, got {level.verify_period}")
            if level.shortlist is not None and level.shortlist < 1:
                raise InputError(f"level {k} must have a shortlist of at least 1 token, got {level.shortlist}")
        if self.levels[-1].shortlist is not None:
            raise InputError(
                f"the last level, the target, has a shortlist of {self.levels[-1].shortlist} tokens; its text would "
                "not be its own: it reads out the whole vocabulary, only levels below it may have a shortlist"
            )

    @property
    def target(self) -> int:
        """Index of the last level."""
        return len(self.levels) - 1

    @cached_property
    def exits(self) -> tuple[tuple[int, ...], ...]:
        """For each level, the levels on its network up to and including it, from shallow to deep."""
        return tuple(
            tuple(j for j in range(k + 1) if self.levels[j].network == level.network)
            for k, level in enumerate(self.levels)
        )

    @cached_property
    def most_tokens(self) -> tuple[int, ...]:
        """The most tokens that one draft, or one verification by each level, can gain."""
        extra = 1 if self.bonus is Bonus.ALWAYS else 0
        return tuple(accumulate((level.verify_period - 1 + extra for level in self.levels[1:]), initial=1))

    @property
    def max_tokens_per_round(self) -> int:
        """The most tokens that one round can commit."""
        return self.most_tokens[-1]


@dataclass(frozen=True, slots=True)
class Forward:
    """One pass through layers (first_layer, last_layer] of a network: the only thing that costs device time.

    The query tokens stand at `position` .. `position + tokens - 1`; the last `logits` of them are read out
    through the LM head, or none if the pass only hands its hidden states to a deeper span. `shortlist` belongs to the
    exit at `last_layer`, read out or not: how many tokens of the vocabulary it covers, None for all. One exit is one
    level, so that forwards through the same layers have the same one and can run as one.
    """

    network: str
    first_layer: int
    last_layer: int
    tokens: int
    position: int
    logits: int
    shortlist: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a level does next: its forwards in order, the `run` of tokens it verifies, and whether it adds a bonus.

    Level 0 verifies nothing (`run` 0) and always predicts one token.
    """

    level: int
    forwards: tuple[Forward, ...]
    run: int
    bonus: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step: how many tokens of the run matched, and whether the last token that the level now holds
    ends the sequence (a stop token)."""

    matched: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Where a request stands between steps.

    `tentative[k]` counts the tokens that level k has accepted beyond the committed text (0 for the target);
    `pushed[k]` is the position up to which tokens have been pushed to level k's depth (exclusive, may be negative);
    `room` is how many tokens may still be committed; `turn` is the level that acts next; `ended` tells that the
    newest tentative token is a stop token; `committed` counts what the last outcome committed.
    """

    tentative: tuple[int, ...]
    pushed: tuple[int, ...]
    room: int
    turn: int = 0
    ended: bool = False
    committed: int = 0

    @property
    def finished(self) -> bool:
        """True when a committed stop token or the length limit has ended the request."""
        return self.room == 0


def start(cascade: Cascade, max_new_tokens: int, prompt_tokens: int | None = None) -> State:
    """State of a new request.

    With `prompt_tokens` the prompt is still to be prefilled: the target goes first, verifying an empty run for its
    bonus token. Without, every cache holds the prompt but for its last token, which is where decoding begins.
    """
    n = len(cascade.levels)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if prompt_tokens is None:
        return State(tentative=(0,) * n, pushed=(-1,) * n, room=max_new_tokens)
    if prompt_tokens < 1:
        raise InputError(f"prompt_tokens must be at least 1, got {prompt_tokens}")
    return State((0,) * n, (-prompt_tokens,) * n, room=max_new_tokens, turn=cascade.target)


def next_step(cascade: Cascade, state: State) -> Step:
    """What must run now. The level in turn drafts one token, or verifies all that the level below holds."""
    k = state.turn
    if k == 0:
        return Step(0, _push(cascade, state, 0, upto=state.tentative[0], logits=1), run=0, bonus=False)
    below = state.tentative[k - 1]
    run = below - state.tentative[k]
    closed = state.ended or below == state.room
    bonus = run == 0 or (cascade.bonus is Bonus.ALWAYS and not closed)
    # Predicting the token at position p takes all tokens before p: the newest is pushed only for the bonus.
    upto = below if bonus else below - 1
    return Step(k, _push(cascade, state, k, upto, logits=run + bonus), run, bonus)


def apply_outcome(cascade: Cascade, state: State, outcome: Outcome) -> State:
    """The state after the step in turn has run: accept, correct, roll back, commit, and hand over the turn."""
    k = state.turn
    step = next_step(cascade, state)
    if not 0 <= outcome.matched <= step.run:
        raise ValueError(f"matched must lie between 0 and the run of {step.run} tokens, got {outcome.matched}")
    pushed = list(state.pushed)
    for forward_level in cascade.exits[k]:
        pushed[forward_level] = max(pushed[forward_level], step.forwards[-1].position + step.forwards[-1].tokens)

    matched_to = state.tentative[k] + outcome.matched
    own_token = k == 0 or step.bonus or outcome.matched < step.run
    accepted = matched_to + own_token
    # A rejected token and all behind it leave every cache; the level's own token has not been pushed anywhere.
    pushed = [min(mark, matched_to) for mark in pushed]
    tentative = tuple(accepted if j <= k else held for j, held in enumerate(state.tentative))

    if k == cascade.target:
        room = 0 if outcome.ended else state.room - accepted
        return State(
            tentative=(0,) * len(tentative),
            pushed=tuple(mark - accepted for mark in pushed),
            room=room,
            committed=accepted,
        )
    closed = outcome.ended or accepted == state.room
    gathered = accepted - tentative[k + 1]
    verify = closed or gathered >= cascade.levels[k + 1].verify_period
    return State(tentative, tuple(pushed), state.room, turn=k + 1 if verify else 0, ended=outcome.ended)


def _push(cascade: Cascade, state: State, k: int, upto: int, logits: int) -> tuple[Forward, ...]:
    """Forwards that bring every token before `upto` to level k's depth, and read out the last `logits` of them."""
    forwards: list[Forward] = []
    first_layer = 0
    for j in cascade.exits[k]:
        level, position = cascade.levels[j], state.pushed[j]
        if position < upto:
            if forwards and forwards[-1].position == position:  # the same tokens go on: one longer span
                first_layer = forwards.pop().first_layer
            tokens = upto - position
            forwards.append(Forward(level.network, first_layer, level.exit_layer, tokens, position, 0, level.shortlist))
        first_layer = level.exit_layer
    forwards[-1] = replace(forwards[-1], logits=logits)
    return tuple(forwards)
