"""How sure a simulated figure is: an interval made of profile error, trace sampling error and the luck of the draw.

The luck of the draw is the spread of repetitions, which draw outcomes anew. Profile and trace are the same in all of
them, so that their relative standard errors come on top: one factor on all times, and how far groups of prompts differ.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.interpolation import leave_one_out
from hispec_sim.latency.ops import LAYER_OPS
from hispec_sim.latency.profile import LatencyProfile
from hispec_sim.study.run import PolicyRuns
from hispec_sim.study.student import Z, student_t

_MEDIAN_TO_SD = 1.4826  # of a normal distribution: median absolute deviation to standard deviation
_Z90 = 1.2815515655446004
_DOUBLE_SPACING = 4  # the error of linear interpolation grows as the spacing squared, and leaving out doubles it


def profile_error(profile: LatencyProfile) -> float:
    """Relative standard error of a long run's time that the profile's own numbers tell of.

    Where the profile was measured with a self-check, it is what whole decodes were off by. Otherwise it is put together
    from two parts. Interpolation: the median error of left-out points of the op that is worst known among those that
    make up most of a forward, a quarter of it, because a left-out point is bridged over twice the spacing.
    Repeatability: the spread of a point's repeated runs; it is taken as common to a run (a processor that runs slower
    does so for a while), so it does not average out over forwards.
    """
    if profile.provenance.decode_error is not None:
        return profile.provenance.decode_error
    left_out = [error.median for op, error in leave_one_out(profile).items() if op in LAYER_OPS]
    interpolation = _MEDIAN_TO_SD * max(left_out, default=0.0) / _DOUBLE_SPACING
    spread = profile.spread()
    repeatability = 0.0 if spread is None else (math.log(spread.p90) - math.log(spread.p10)) / (2 * _Z90)
    return math.hypot(interpolation, repeatability)


def interval(values: ArrayLike, relative_error: float = 0.0, *, centre: float | None = None) -> tuple[float, float]:
    """The 95 % interval of a figure around `centre`, or around the median of its repetitions, as wide as these tell and
    widened by a relative standard error they do not have.

    A normal distribution in logarithms, so that few repetitions give steady ends; what few tell of their spread is
    uncertain itself, so theirs is Student's t. (nan, nan) where there is no value.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[np.isfinite(x) & (x > 0)]
    if not len(x):
        return float("nan"), float("nan")
    logs = np.log(x)
    spread = student_t(len(x) - 1) * float(logs.std(ddof=1)) if len(x) > 1 else 0.0
    width = math.hypot(spread, Z * relative_error)
    middle = math.exp(np.median(logs)) if centre is None else centre
    return middle / math.exp(width), middle * math.exp(width)


def sampling_error(values: Collection[Sequence[float]]) -> float:
    """Relative standard error of the mean of the values of independent groups; nan where one tells no spread. Of few
    groups it is so much larger that 1.96 of it make their interval of Student's t."""
    x = np.array([np.mean(each) for each in values])
    if len(x) < 2:
        return float("nan")
    return float(x.std(ddof=1) / math.sqrt(len(x)) / x.mean()) * student_t(len(x) - 1) / Z


def rate_interval(run: PolicyRuns, costs: Mapping[str, NetworkCost]) -> tuple[float, float] | None:
    """The interval of a scenario's tokens_per_s, from repetitions, the trace's prompts and the profiles.

    None where it would claim too much: without a trace of two groups of prompts, or where a profile carries no spread.
    """
    profiles = [costs[name].profile for name in {level.network for level in run.policy.cascade.levels}]
    replay = run.policy.outcomes
    if not isinstance(replay, ReplaySource) or any(profile.spread() is None for profile in profiles):
        return None
    by_group: dict[str, list[float]] = defaultdict(list)
    for request in run.log.requests:
        group = replay.trace.prompts[request.index % replay.trace.n_sequences].group
        by_group[group].append((request.end_ms - request.start_ms) / request.output_tokens)
    trace_error = sampling_error(by_group.values())
    if math.isnan(trace_error):
        return None
    rates = [metrics.tokens_per_s for metrics in run.metrics]
    return interval(rates, math.hypot(trace_error, max(map(profile_error, profiles))))
