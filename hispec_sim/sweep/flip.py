"""Where a decision flips when one number changes: the nearest value at which the advice is another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Advice = TypeVar("Advice")

STEPS = 4
"""Places that are looked at between the number's value and the end of its range: the advice may flip and flip back."""
PRECISION = 1 / 200
"""Of a flip point, as a share of the way to the end."""


def flip_point(advise: Callable[[float], Advice], value: float, end: float) -> tuple[float, Advice] | None:
    """The value nearest to `value` on the way to `end` at which `advise` says otherwise, and what it says there.

    None if no place looked at says otherwise. `advise` must meet the same luck at every call.
    """
    if end == value:
        return None
    here, before = advise(value), 0.0
    for step in range(1, STEPS + 1):
        share = step / STEPS
        other = advise(value + share * (end - value))
        if other == here:
            before = share
            continue
        while share - before > PRECISION:
            middle = (before + share) / 2
            found = advise(value + middle * (end - value))
            if found == here:
                before = middle
            else:
                share, other = middle, found
        return value + share * (end - value), other
    return None
