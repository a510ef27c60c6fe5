"""A number that a recommendation rests on, with the range that it may lie in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hispec_sim.simulate.configuration import Configuration
from hispec_sim.sweep.candidate import Candidate

Change = Callable[[Candidate, float], Configuration | None]


@dataclass(frozen=True, slots=True)
class Input:
    """A number with a range. `change(candidate, x)` is the candidate's configuration when the number is x, None where
    it does not depend on it."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    source: str
    change: Change
