"""What a cascade gains and costs on average, without simulating: exact for independent acceptance.

Leviathan, Kalman, Matias (2023, arXiv 2211.17192) give the two-level formulas; a renewal argument carries them to any
number of levels. `docs/theory.md` derives all of it. The simulator must reproduce these numbers, and where latency
depends on nothing but the layers that run, they make the simulator superfluous.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hispec_sim.cascade import Bonus, Cascade
from hispec_sim.errors import InputError

Distribution = NDArray[np.float64]
"""Probabilities by number of tokens: entry n is P(n tokens)."""


def leviathan_tokens_per_round(alpha: float, draft_length: int, bonus: Bonus = Bonus.ALWAYS) -> float:
    """Expected tokens that one verification of `draft_length` tokens adds (Leviathan et al., eq. 1).

    (1 - a^(g+1)) / (1 - a) with bonus `always`, (1 - a^g) / (1 - a) with `on_mismatch`. Summed as the geometric
    series that these fractions are, which has no gap at a = 1 and loses no digits near it.
    """
    _check_probability("alpha", alpha)
    if draft_length < 1:
        raise InputError(f"draft_length must be at least 1, got {draft_length}")
    return math.fsum(alpha**i for i in range(draft_length + (bonus is Bonus.ALWAYS)))


def leviathan_speedup(alpha: float, draft_length: int, cost_ratio: float, bonus: Bonus = Bonus.ALWAYS) -> float:
    """Tokens per second against autoregressive decoding (Leviathan et al., theorem 3.8): tokens / (g c + 1).

    `cost_ratio` c is the milliseconds of one draft step over those of one target step; a verification is taken to
    cost as much as decoding one token.
    """
    _check_ms("cost_ratio", cost_ratio)
    return leviathan_tokens_per_round(alpha, draft_length, bonus) / (draft_length * cost_ratio + 1)


class Run(NamedTuple):
    """The tokens that a level finds to verify: how many, and how many verifications below it took to gather them."""

    tokens: Distribution
    expected_gains: float


def run_until(gain: Distribution, verify_period: int) -> Run:
    """Distribution of a sum of independent gains, stopped once it is `verify_period` or more.

    A renewal process: u(s), the probability that the sum ever equals s, is 1 at s = 0 and sum_j gain(j) u(s - j)
    above. One more gain is drawn from every s < verify_period that is visited, so that those u(s) sum to the
    expected number of gains, and the run ends at t >= verify_period with probability sum_s u(s) gain(t - s).
    """
    visited = np.zeros(verify_period)
    visited[0] = 1.0
    for s in range(1, verify_period):
        reach = min(s, len(gain) - 1)
        visited[s] = gain[1 : reach + 1] @ visited[s - reach : s][::-1]
    tokens = np.convolve(visited, gain)
    tokens[:verify_period] = 0.0  # not yet enough
    return Run(tokens, math.fsum(visited))


def gain_of(run: Distribution, accept: float, bonus: Bonus) -> Distribution:
    """Distribution of the tokens that a level holds more after verifying a run: its matched prefix and its own token.

    Every token matches with probability `accept`, so the prefix has m < S tokens with probability a^m (1 - a) and
    all S with a^S; the level's own token comes on top unless all matched and the rule is `on_mismatch`.
    """
    longest = len(run) - 1
    power = accept ** np.arange(longest + 1)
    gain = np.zeros(longest + 2)
    run_is_longer = run[::-1].cumsum()[::-1][1:]  # entry m: P(S > m)
    gain[1:-1] += power[:-1] * (1 - accept) * run_is_longer
    if bonus is Bonus.ALWAYS:
        gain[1:] += power * run
    else:
        gain[:-1] += power * run
    return gain


@dataclass(frozen=True, slots=True)
class RoundExpectation:
    """Means over rounds (a round is all work between two target verifications)."""

    tokens: float
    steps: tuple[float, ...]  # by level, draft first; the target's is 1
    ms: float

    @property
    def ms_per_token(self) -> float:
        """Long-run milliseconds per committed token: by the renewal-reward theorem the ratio of the two means."""
        return self.ms / self.tokens


def expected_round(cascade: Cascade, accept: Sequence[float], step_ms: Sequence[float]) -> RoundExpectation:
    """Exact means of a round far from the length limit.

    `accept[k - 1]` is the probability that level k accepts a token of the level below, independently of all else;
    `step_ms[k]` is what one step of level k costs, whatever the number of tokens.
    """
    n_levels = len(cascade.levels)
    if len(accept) != n_levels - 1:
        raise InputError(f"a cascade of {n_levels} levels takes {n_levels - 1} values of accept, got {len(accept)}")
    if len(step_ms) != n_levels:
        raise InputError(f"a cascade of {n_levels} levels takes {n_levels} values of step_ms, got {len(step_ms)}")
    for value in accept:
        _check_probability("accept", value)
    for value in step_ms:
        _check_ms("step_ms", value)

    gain: Distribution = np.array([0.0, 1.0])  # a draft step gains its one token
    gains_per_run: list[float] = []
    for level, probability in zip(cascade.levels[1:], accept, strict=True):
        run = run_until(gain, level.verify_period)
        gains_per_run.append(run.expected_gains)
        gain = gain_of(run.tokens, probability, cascade.bonus)

    steps = [1.0]
    for gains in reversed(gains_per_run):  # Wald: the means multiply, though gains stop their own sum
        steps.insert(0, steps[0] * gains)
    return RoundExpectation(
        tokens=float(gain @ np.arange(len(gain))),
        steps=tuple(steps),
        ms=math.fsum(count * ms for count, ms in zip(steps, step_ms, strict=True)),
    )


def two_level_ms_per_token(alpha: float, draft_length: int, draft_ms: float, target_ms: float, bonus: Bonus) -> float:
    """Speculative decoding's milliseconds per token: (Nd t0 + t1) / tokens per round."""
    return (draft_length * draft_ms + target_ms) / leviathan_tokens_per_round(alpha, draft_length, bonus)


def three_level_ms_per_token(
    accept: tuple[float, float],
    draft_length: int,
    verify_period: int,
    step_ms: tuple[float, float, float],
    bonus: Bonus,
) -> float:
    """HiSpec's milliseconds per token: (n (Nd t0 + t1) + t2) (1 - a2) / (1 - E[a2^(S + b)]).

    n is the mean number of intermediate verifications in a round, S the run that the target finds, b 1 with bonus
    `always` and 0 with `on_mismatch`. At a2 = 1 the last factor is 1 / (E[S] + b).
    """
    draft_run = np.eye(draft_length + 1)[draft_length]
    run, verifications = run_until(gain_of(draft_run, accept[0], bonus), verify_period)
    tokens = math.fsum(
        probability * math.fsum(accept[1] ** i for i in range(length + (bonus is Bonus.ALWAYS)))
        for length, probability in enumerate(run.tolist())
        if probability
    )
    return (verifications * (draft_length * step_ms[0] + step_ms[1]) + step_ms[2]) / tokens


class LayerSpan(NamedTuple):
    """Layers (first_layer, last_layer] of a network."""

    network: str
    first_layer: int
    last_layer: int


def step_spans(cascade: Cascade, level: int) -> tuple[LayerSpan, ...]:
    """The layer spans that a step of `level` runs far from the length limit: what its `step_ms` must pay for.

    A level resumes where the deepest exit below it on its network stopped. With bonus `always` a verifier has to
    see the newest token too, which nothing has pushed through the layers below that exit: they run first.
    """
    network, last_layer = cascade.levels[level].network, cascade.levels[level].exit_layer
    first_layer = max((cascade.levels[j].exit_layer for j in cascade.exits[level][:-1]), default=0)
    own = LayerSpan(network, first_layer, last_layer)
    if first_layer == 0 or cascade.bonus is Bonus.ON_MISMATCH:
        return (own,)
    return LayerSpan(network, 0, first_layer), own


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:  # NaN fails too
        raise InputError(f"{name} must be a probability between 0 and 1, got {value!r}")


def _check_ms(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a finite number of at least 0, got {value!r}")
