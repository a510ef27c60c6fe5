"""Parametric acceptance: how likely each level is to accept a token that a lower one proposed.

A model answers one question: a token has just been proposed by a level; which level above will be the first to
reject it, if any? That level is the token's *fate*. Fates are drawn when tokens are proposed, so that "on the
target's path" is known for everything that is drafted after them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hispec_sim.errors import InputError


class AcceptanceModel(Protocol):
    """What the sampler needs of a model for a cascade of `n_levels` levels (the drafter and the verifiers)."""

    @property
    def n_levels(self) -> int:
        """Levels of the cascade that the model describes."""
        ...

    @property
    def clustering(self) -> float:
        """Lag-1 autocorrelation of how easy successive proposed tokens are, in [0, 1)."""
        ...

    def accept_probability(self, level: int, proposer: int, *, corrected: bool, offset: int, on_path: bool) -> float:
        """P(`level` accepts | all levels between it and `proposer` have accepted).

        `corrected` tells that the proposer replaced a lower level's token; `offset` is the token's place in the run
        that `level` will verify; `on_path` is false behind a token that some level will reject.
        """
        ...

    def acceptance_per_token(self, level: int) -> float:
        """Mean over all positions on the target's path of P(`level` predicts what the level below predicts)."""
        ...


@dataclass(frozen=True, slots=True)
class Independent:
    """Every level accepts every token with its own probability, whatever else happened (Leviathan et al. 2023).

    `accept[k - 1]` belongs to level k.
    """

    accept: tuple[float, ...]
    clustering: float = 0.0

    def __post_init__(self) -> None:
        _check_probabilities("accept", self.accept)
        _check_clustering(self.clustering)

    @property
    def n_levels(self) -> int:
        return len(self.accept) + 1

    def accept_probability(self, level: int, proposer: int, *, corrected: bool, offset: int, on_path: bool) -> float:
        return self.accept[level - 1]

    def acceptance_per_token(self, level: int) -> float:
        return self.accept[level - 1]


@dataclass(frozen=True, slots=True)
class PerPosition:
    """Acceptance that depends on a token's place in the run under verification.

    `accept[k - 1][i]` is P(level k accepts the token at place i | it accepted those before); the last value holds
    for all later places.
    """

    accept: tuple[tuple[float, ...], ...]
    clustering: float = 0.0

    def __post_init__(self) -> None:
        for k, places in enumerate(self.accept, start=1):
            if not places:
                raise InputError(f"acceptance per position of level {k} is empty; give at least one probability")
            _check_probabilities(f"accept of level {k}", places)
        _check_clustering(self.clustering)

    @property
    def n_levels(self) -> int:
        return len(self.accept) + 1

    def accept_probability(self, level: int, proposer: int, *, corrected: bool, offset: int, on_path: bool) -> float:
        places = self.accept[level - 1]
        return places[min(offset, len(places) - 1)]

    def acceptance_per_token(self, level: int) -> float:
        return math.fsum(self.accept[level - 1]) / len(self.accept[level - 1])


@dataclass(frozen=True, slots=True)
class LevelAgreement:
    """How one verifier relates to the level below it, on the target's path and off it.

    `if_agreed` is P(it predicts what the level below predicts | the level below agreed with the one below that),
    `if_differed` the same where the level below had replaced that token. Level 1 has no such condition: both are
    P(level 1 predicts the drafted token). `off_path` is the agreement behind a token that will be rejected.
    """

    if_agreed: float
    if_differed: float
    off_path: float

    def __post_init__(self) -> None:
        _check_probabilities("acceptance", (self.if_agreed, self.if_differed, self.off_path))


@dataclass(frozen=True, slots=True)
class Correlated:
    """Levels that tend to be right together: the chain draft -> level 1 -> ... -> target is Markov in depth.

    A token that the middle level confirmed is much likelier to please the target than one that it had to correct
    (measured on a real early-exit model: .97 against .77), which independent levels miss: they overstate what a
    hierarchy gains. `agreement[k - 1]` belongs to level k.
    """

    agreement: tuple[LevelAgreement, ...]
    clustering: float = 0.0

    def __post_init__(self) -> None:
        _check_clustering(self.clustering)

    @property
    def n_levels(self) -> int:
        return len(self.agreement) + 1

    def accept_probability(self, level: int, proposer: int, *, corrected: bool, offset: int, on_path: bool) -> float:
        pair = self.agreement[level - 1]
        if not on_path:
            return pair.off_path
        if level > proposer + 1:
            return pair.if_agreed
        if proposer == 0:
            return pair.if_agreed
        if corrected:
            return pair.if_differed
        return self.acceptance_per_token(level)  # a bonus token: nobody below had a say

    def acceptance_per_token(self, level: int) -> float:
        below = 1.0
        for pair in self.agreement[:level]:
            below = below * pair.if_agreed + (1 - below) * pair.if_differed
        return below


def fate_probabilities(
    model: AcceptanceModel, proposer: int, offsets: Sequence[int], *, corrected: bool, on_path: bool
) -> tuple[float, ...]:
    """Distribution of a proposed token's fate: entry f is P(level f is the first to reject it).

    The last entry, at index `n_levels`, is P(all levels accept it). `offsets[k]` is the token's place in the run
    that level k will verify. Entries up to `proposer` are zero: a level does not reject its own token.
    """
    fates = [0.0] * (model.n_levels + 1)
    survives = 1.0
    for level in range(proposer + 1, model.n_levels):
        accept = model.accept_probability(level, proposer, corrected=corrected, offset=offsets[level], on_path=on_path)
        fates[level] = survives * (1 - accept)
        survives *= accept
    fates[-1] = survives
    return tuple(fates)


def _check_probabilities(name: str, values: Sequence[float]) -> None:
    for value in values:
        if not 0 <= value <= 1:  # NaN fails too
            raise InputError(f"{name} must be probabilities between 0 and 1, got {value!r}")


def _check_clustering(value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(f"clustering must be at least 0 and below 1, got {value!r}")
