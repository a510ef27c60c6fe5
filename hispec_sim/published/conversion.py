"""From the rates that papers print to the probabilities that acceptance models need.

A paper's "acceptance" is often `matched_per_drafted`: of the tokens that were drafted, the share that the verifier
kept. Every token behind the first mismatch counts as lost, so it is lower than the per-token probability, the more so
the longer the draft. With independent tokens a run of S has mean matched length a + a^2 + ... + a^S.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hispec_sim.acceptance.chain import chain
from hispec_sim.acceptance.models import Correlated
from hispec_sim.cascade import Bonus
from hispec_sim.closed_forms import Distribution, gain_of, run_until
from hispec_sim.errors import InputError


def matched_per_drafted(accept: float, run: Distribution) -> float:
    """Share of verified tokens that match when each does with probability `accept`; `run` is the run's length."""
    lengths = np.arange(len(run))
    matched = np.cumsum(accept**lengths) - 1.0  # entry S: a + ... + a^S
    return float(run @ matched / (run @ lengths))


def per_token_from_matched(rate: float, run: int | Distribution) -> float:
    """The per-token probability with which `matched_per_drafted` is `rate`, for a fixed run or a distribution."""
    if not 0 <= rate <= 1:
        raise InputError(f"matched_per_drafted must be between 0 and 1, got {rate!r}")
    lengths = np.eye(run + 1)[run] if isinstance(run, int) else run
    return _bisect(lambda accept: matched_per_drafted(accept, lengths), rate)


def target_accept_from_matched(
    rate: float, draft_accept: float, draft_length: int, verify_period: int, bonus: Bonus
) -> float:
    """The target's per-token probability in a three-level cascade whose target matches `rate` of what it verifies.

    `draft_accept` is the probability that the target would accept a drafted token with no level between: the levels
    are a chain, so the intermediate accepts it with `draft_accept` over the result.
    """

    def rate_of(accept: float) -> float:
        drafts = np.eye(draft_length + 1)[draft_length]
        run = run_until(gain_of(drafts, min(1.0, draft_accept / accept), bonus), verify_period)
        return matched_per_drafted(accept, run.tokens)

    return _bisect(rate_of, rate, low=draft_accept)


def chain_model(draft: float, intermediate: float, differed_over_agreed: float = 1.0) -> Correlated:
    """Three levels in a chain, from how often the target accepts each of the lower two."""
    return chain((draft, intermediate), differed_over_agreed)


def _bisect(increasing: Callable[[float], float], value: float, low: float = 0.0) -> float:
    """Where an increasing function on [low, 1] takes `value`; the nearer end if it does not."""
    high = 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < value else (low, middle)
    return (low + high) / 2
