"""From how often two exits agree with the target to how their predictions hang together.

Two agreements do not tell a cascade's outcomes: the target accepts tokens that the middle exit confirmed more often
than those that it replaced. One number more settles it, the odds ratio of the two. On the reference network it is
nearly the same for every pair of exits (`docs/when_hierarchy_pays.md`), where the ratio of the two shares is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hispec_sim.acceptance.models import Correlated, LevelAgreement
from hispec_sim.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a cascade of draft, middle exit and target does to a token; every field has one shape, of the map's points.

    `draft`: P(target = draft); `middle`: P(target = middle); `confirms`: P(middle = draft); `if_confirmed` and
    `if_replaced`: P(target = middle | middle = draft) and P(target = middle | middle differs).
    """

    draft: Array
    middle: Array
    confirms: Array
    if_confirmed: Array
    if_replaced: Array

    def model(self, index: tuple[int, ...] = ()) -> Correlated:
        """One point as the acceptance model of the simulator."""
        x, p, q = (float(each[index]) for each in (self.confirms, self.if_confirmed, self.if_replaced))
        return Correlated((LevelAgreement(x, x, x), LevelAgreement(p, q, p)))


def agreement(draft: ArrayLike, middle: ArrayLike, odds_ratio: float) -> Agreement:
    """The levels as a chain: a draft that the target would accept is one that the middle exit confirms too.

    So draft = x p and middle = x p + (1 - x) q, with x, p and q as `confirms`, `if_confirmed` and `if_replaced`;
    p / (1 - p) is `odds_ratio` times q / (1 - q), which makes p the solution of a linear equation. 1 makes the levels
    independent. Raises InputError unless 0 < draft <= middle <= 1 and the odds ratio is at least 1.
    """
    d, m = np.broadcast_arrays(np.asarray(draft, dtype=np.float64), np.asarray(middle, dtype=np.float64))
    if not ((d > 0) & (d <= m) & (m <= 1)).all():
        raise InputError(
            "agreement with the target must be above 0 and at most 1, the middle exit's no lower than the draft's: "
            "a level that knows less than the level below it has nothing to verify"
        )
    if not odds_ratio >= 1:  # NaN fails too
        raise InputError(f"odds_ratio must be at least 1 (independent levels), got {odds_ratio!r}")
    gap = m - d
    p = (d + odds_ratio * gap) / (1 + (odds_ratio - 1) * gap)
    return Agreement(d, m, np.minimum(1.0, d / p), p, p / (p + odds_ratio * (1 - p)))
