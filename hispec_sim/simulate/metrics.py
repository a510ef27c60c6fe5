"""What a run's log says: the figures that are reported, under the names that are used everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hispec_sim.simulate.engine import RunLog
from hispec_sim.step_graph import Kind


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """Figures of one simulated run. Tuples have one entry per level, draft first, target last.

    `matched_per_drafted[k]` is the share of the tokens verified by level k that it accepted (NaN for level 0, which
    verifies nothing, and for levels that never verified). `time_share` divides the device's time among the levels
    whose steps took it, `forwards_per_round` counts device forwards of one sequence between two target passes.
    """

    committed_tokens: int
    duration_ms: float
    tokens_per_s: float
    tpot_ms: float
    tokens_per_target_pass: float
    matched_per_drafted: tuple[float, ...]
    time_share: tuple[float, ...]
    forwards_per_round: tuple[float, ...]


def measure(log: RunLog) -> RunMetrics:
    """Aggregate a run's log. `tpot_ms` is the mean over requests of their milliseconds per output token."""
    n_levels = len(log.cascade.levels)
    duration_ms = np.asarray(log.duration_ms)
    size = np.asarray(log.batch_size)
    member_level = np.fromiter((move.source.level for move in log.move), np.int64, len(log.move))
    share_ms = np.repeat(duration_ms / size, size)  # a batch's time in equal parts to its members
    level_ms = np.bincount(member_level, weights=share_ms, minlength=n_levels)
    forwards = np.bincount(member_level, minlength=n_levels)

    verified, matched = np.zeros(n_levels), np.zeros(n_levels)
    committed = rounds = 0
    for move, count in Counter(log.move).items():
        if move.source.kind is Kind.VERIFY and move.matched >= 0:
            verified[move.source.level] += count * move.source.run
            matched[move.source.level] += count * move.matched
        if move.committed:
            committed += count * move.committed
            rounds += count
    tpot_ms = [(request.end_ms - request.start_ms) / request.output_tokens for request in log.requests]
    return figures(
        duration_ms=float(duration_ms.sum()),
        level_ms=level_ms,
        forwards=forwards,
        verified=verified,
        matched=matched,
        committed=committed,
        rounds=rounds,
        tpot_ms=float(np.mean(tpot_ms)),
    )


def figures(
    *,
    duration_ms: float,
    level_ms: NDArray[Any],
    forwards: NDArray[np.int64],
    verified: NDArray[Any],
    matched: NDArray[Any],
    committed: int,
    rounds: int,
    tpot_ms: float,
) -> RunMetrics:
    """A run's figures from its sums; arrays have one entry per level."""
    with np.errstate(invalid="ignore"):
        matched_per_drafted = matched / np.where(verified > 0, verified, np.nan)
    return RunMetrics(
        committed_tokens=committed,
        duration_ms=duration_ms,
        tokens_per_s=1000 * committed / duration_ms,
        tpot_ms=tpot_ms,
        tokens_per_target_pass=committed / rounds,
        matched_per_drafted=tuple(matched_per_drafted.tolist()),
        time_share=tuple((level_ms / duration_ms).tolist()),
        forwards_per_round=tuple((forwards / rounds).tolist()),
    )


def member_forward(log: RunLog) -> list[int]:
    """For each member of the log, the index of the device forward it took part in."""
    return list(chain.from_iterable([i] * size for i, size in enumerate(log.batch_size)))
