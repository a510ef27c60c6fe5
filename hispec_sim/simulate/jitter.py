"""Spread of a forward's time around its median, drawn from the quantiles that were measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, repeat
from statistics import NormalDist

import numpy as np

from hispec_sim.spread import Spread

_BLOCK = 4096
_Z90 = 1.2815515655446004  # standard normal quantile at 90 %


def jitter_factors(spread: Spread | None, rng: np.random.Generator) -> Iterator[float]:
    """Endless factors with median 1 whose 10 % and 90 % quantiles are the given ratios; all 1 for None.

    Each side of the median is half a lognormal distribution of its own width, for forwards are late more than early.
    Where the mean was measured all are scaled to it: how long many forwards take matters more than where the middle is.
    """
    if spread is None:
        return repeat(1.0)
    below, above = _widths(spread)
    scale = mean_factor(spread) / _mean(below, above)

    def block() -> list[float]:
        z = rng.standard_normal(_BLOCK)
        factors: list[float] = (scale * np.exp(np.where(z < 0, below * z, above * z))).tolist()
        return factors

    return chain.from_iterable(iter(block, None))


def mean_factor(spread: Spread | None) -> float:
    """The mean of these factors: how much longer the sum of many times is than the sum of their medians."""
    if spread is None:
        return 1.0
    return spread.mean if spread.mean is not None else _mean(*_widths(spread))


def _mean(below: float, above: float) -> float:
    normal = NormalDist()
    return math.exp(below**2 / 2) * normal.cdf(-below) + math.exp(above**2 / 2) * normal.cdf(above)


def _widths(spread: Spread) -> tuple[float, float]:
    """Standard deviations of the logarithm below and above the median."""
    return abs(math.log(spread.p10)) / _Z90, abs(math.log(spread.p90)) / _Z90
