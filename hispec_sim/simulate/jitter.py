"""Spread of a forward's time around its median, drawn from the quantiles that were measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, repeat
from statistics import NormalDist

import numpy as np

_BLOCK = 4096
_Z90 = 1.2815515655446004  # standard normal quantile at 90 %


def jitter_factors(quantiles: tuple[float, float] | None, rng: np.random.Generator) -> Iterator[float]:
    """Endless factors with median 1 whose 10 % and 90 % quantiles are the given ratios; all 1 for None.

    Each side of the median is half a lognormal distribution of its own width, for forwards are late more than early.
    """
    if quantiles is None:
        return repeat(1.0)
    below, above = _widths(quantiles)

    def block() -> list[float]:
        z = rng.standard_normal(_BLOCK)
        factors: list[float] = np.exp(np.where(z < 0, below * z, above * z)).tolist()
        return factors

    return chain.from_iterable(iter(block, None))


def mean_factor(quantiles: tuple[float, float] | None) -> float:
    """The mean of these factors: how much longer the sum of many times is than the sum of their medians."""
    if quantiles is None:
        return 1.0
    below, above = _widths(quantiles)
    normal = NormalDist()
    return math.exp(below**2 / 2) * normal.cdf(-below) + math.exp(above**2 / 2) * normal.cdf(above)


def _widths(quantiles: tuple[float, float]) -> tuple[float, float]:
    """Standard deviations of the logarithm below and above the median."""
    below, above = (abs(math.log(ratio)) / _Z90 for ratio in quantiles)
    return below, above
