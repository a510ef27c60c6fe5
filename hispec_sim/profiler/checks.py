"""Predictions of a latency profile beside what was measured, and how far off they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GOAL_MEDIAN, GOAL_P95 = 0.03, 0.08
FORWARDS, DECODES = "forwards", "decodes"
"""What a check is of."""


@dataclass(frozen=True, slots=True)
class Check:
    """One prediction and what was measured, in milliseconds; `group` is what it is of: forwards or decodes."""

    group: str
    name: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Relative, with its sign: above 0 where too much time is predicted."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class Summary:
    """The errors of one group."""

    group: str
    n: int
    median: float
    p95: float
    bias: float

    @property
    def good(self) -> bool:
        """Whether both goals are met."""
        return self.median <= GOAL_MEDIAN and self.p95 <= GOAL_P95


def summaries(checks: Sequence[Check]) -> list[Summary]:
    """Median and 95th percentile of the absolute errors, and the median error, of each group."""
    found = []
    for group in dict.fromkeys(check.group for check in checks):
        errors = np.array([check.error for check in checks if check.group == group])
        sizes = np.abs(errors)
        found.append(
            Summary(
                group,
                len(errors),
                float(np.median(sizes)),
                float(np.quantile(sizes, 0.95)),
                float(np.median(errors)),
            )
        )
    return found


def decode_error(checks: Sequence[Check]) -> float:
    """Root mean square of the relative errors of decodes."""
    return float(np.sqrt(np.mean([check.error**2 for check in checks if check.group == DECODES])))


def summary_of(checks: Sequence[Check]) -> str:
    """For a profile's provenance."""
    return "; ".join(f"{s.n} {s.group}: median {s.median:.1%}, p95 {s.p95:.1%} off" for s in summaries(checks))
