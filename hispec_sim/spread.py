"""How forwards scatter around the times that they take as a rule."""

from __future__ import annotations

from typing import NamedTuple


class Spread(NamedTuple):
    """10 % and 90 % quantile, and the mean where it was measured, each over the median."""

    p10: float
    p90: float
    mean: float | None = None
