"""What a validation aims at, and whether it got there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ERRORS = (
    ("tokens_per_s", "median", 0.02),
    ("tokens_per_s", "p95", 0.05),
    ("tokens_per_target_pass", "median", 0.01),
)
"""Absolute relative errors over configurations, at most."""
TAU, REGRET = 0.95, 0.01
"""Kendall's tau of the ranking by tokens_per_s, at least, and what the simulator's choice costs, at most; by batch."""
COVERAGE = (0.90, 0.99)
"""Share of real values in their predicted 95 % intervals: fewer tell of too narrow ones, all of too wide ones."""


def verdicts(overall: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One for each goal: `goal`, the `value` that was reached, the `least` and the `most` that it may be (one of them
    None), whether these are a `share`, and whether the goal is `met`; by a value that is not known it is not."""
    found = [
        _verdict(f"{figure}, {which} error", overall["figures"][figure][which], most=most)
        for figure, which, most in ERRORS
        if figure in overall["figures"]
    ]
    for batch, stats in overall["by_batch"].items():
        found.append(_verdict(f"Kendall tau, batch {batch}", stats["kendall_tau"], least=TAU, share=False))
        found.append(_verdict(f"regret, batch {batch}", stats["regret"], most=REGRET))
    rate = overall["figures"]["tokens_per_s"]
    for which, key in (("configurations", "coverage"), ("blocks of prompts", "coverage_of_blocks")):
        if key in rate:
            least, most = COVERAGE
            found.append(_verdict(f"tokens_per_s of {which} in its interval", rate[key], least=least, most=most))
    return found


def _verdict(
    goal: str, value: float, *, least: float | None = None, most: float | None = None, share: bool = True
) -> dict[str, Any]:
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    met = low <= value <= high
    return {"goal": goal, "value": value, "least": least, "most": most, "share": share, "met": met}
