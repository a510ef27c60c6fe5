"""How sure a simulated figure is: an interval made of profile error, trace sampling error and the luck of the draw.

Each repetition resamples the trace's prompts with replacement (what other prompts would have been recorded), lets the
requests replay prompts drawn from those (what prompts will come), draws off-path outcomes anew (seed) and multiplies
all times by one factor (how wrong the profile is). The spread of the repetitions is that of the figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hispec_sim.latency.interpolation import leave_one_out
from hispec_sim.latency.profile import LatencyProfile

LEVEL = 0.95
_MEDIAN_TO_SD = 1.4826  # of a normal distribution: median absolute deviation to standard deviation
_Z90 = 1.2815515655446004
_DOUBLE_SPACING = 4  # the error of linear interpolation grows as the spacing squared, and leaving out doubles it


def profile_error(profile: LatencyProfile) -> float:
    """Relative standard error of a long run's time that the profile's own numbers tell of.

    Interpolation: the median error of left-out points of the op that is worst known among those that make up most of a
    forward, a quarter of it, because a left-out point is bridged over twice the spacing. Repeatability: the spread of a
    point's repeated runs; it is taken as common to a run (a processor that runs slower does so for a while), so it does
    not average out over forwards.
    """
    main = {"layer", "layer_linear", "attention"}
    left_out = [error.median for op, error in leave_one_out(profile).items() if op in main]
    interpolation = _MEDIAN_TO_SD * max(left_out, default=0.0) / _DOUBLE_SPACING
    quantiles = profile.relative_quantiles()
    spread = 0.0 if quantiles is None else (math.log(quantiles[1]) - math.log(quantiles[0])) / (2 * _Z90)
    return math.hypot(interpolation, spread)


def resampled(pool: Sequence[int], requests: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Recorded sequences for so many requests, drawn from a resample of the trace's own."""
    trace = rng.choice(np.asarray(pool), len(pool))
    return np.asarray(rng.choice(trace, requests), dtype=np.int64)


def interval(values: ArrayLike, relative_error: float = 0.0, level: float = LEVEL) -> tuple[float, float]:
    """The central interval of a figure from its repetitions, widened by a relative standard error they do not have.

    A normal distribution in logarithms, so that few repetitions give steady ends. (nan, nan) where there is no value.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[np.isfinite(x) & (x > 0)]
    if not len(x):
        return float("nan"), float("nan")
    logs = np.log(x)
    variance = float(logs.var(ddof=1)) if len(x) > 1 else 0.0
    width = _normal_quantile(0.5 + level / 2) * math.hypot(math.sqrt(variance), relative_error)
    centre = float(np.median(logs))
    return math.exp(centre - width), math.exp(centre + width)


def _normal_quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)
