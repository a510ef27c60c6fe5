"""A trace on which one exit agrees with the target more or less often than was recorded: what if it were so?"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.trace import UNREAD, AgreementTrace

_ALONE = UNREAD - 1  # no recorded label is so high, short of 254 different predictions at one position
_SEED = 20261125
_NEVER = -1000.0  # log-probability of a token that an exit would not draw


def recorded_agreement(trace: AgreementTrace, column: int) -> float:
    """How often the target accepts what an exit (by column) predicts on its text: the mean over positions."""
    return float(_accepted(trace, column).mean())


@lru_cache(maxsize=64)
def with_agreement(trace: AgreementTrace, column: int, agreement: float) -> AgreementTrace:
    """The trace with an exit's mean agreement moved to about `agreement` (0 to 1), all other exits as recorded.

    At a random share of the positions, whatever was recorded there, the exit predicts what the target does, or else a
    token that no other exit predicts. Each position has its own luck, the same at every `agreement`: less agreement is
    a subset of more. Text behind wrong tokens stays as recorded.
    """
    recorded = recorded_agreement(trace, column)
    luck = np.random.default_rng([_SEED, column]).random(len(trace.labels))
    labels, sampling = trace.labels.copy(), trace.sampling
    if agreement >= recorded:
        changed = luck < (agreement - recorded) / max(1 - recorded, 1e-12)
        labels[changed, column] = 0
    else:
        changed = luck < 1 - agreement / recorded
        labels[changed, column] = _ALONE
    if sampling is not None:
        log_prob = sampling.log_prob.copy()
        log_prob[changed, column] = log_prob[changed, trace.target] if agreement >= recorded else _NEVER
        sampling = replace(sampling, log_prob=log_prob)
    return replace(trace, labels=labels, sampling=sampling)


def _accepted(trace: AgreementTrace, column: int) -> NDArray[np.float64]:
    """At each position the probability that the target accepts the exit's token, given the text."""
    if trace.sampling is None:
        return np.equal(trace.labels[:, column], 0).astype(np.float64)
    known = trace.sampling.log_prob.astype(np.float64)
    odds: NDArray[np.float64] = np.exp(np.minimum(known[:, column] - known[:, trace.target], 0.0))
    return odds
