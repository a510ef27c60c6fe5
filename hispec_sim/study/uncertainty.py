"""How sure a simulated figure is: an interval made of profile error, trace sampling error and the luck of the draw.

The luck of the draw is the spread of repetitions, which draw outcomes anew. Profile and trace are the same in all of
them, so that their relative standard errors come on top: one factor on all times, and how far groups of prompts differ.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
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

RATE, PER_PASS = "tokens_per_s", "tokens_per_target_pass"
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


def predicted_intervals(run: PolicyRuns, costs: Mapping[str, NetworkCost]) -> dict[str, tuple[float, float]]:
    """The intervals of a scenario's tokens_per_s and tokens_per_target_pass, from repetitions, the trace's groups of
    prompts and, for the first, the profiles.

    None of a figure for which it would claim too much: without a trace of two groups of prompts (a target alone needs
    none), and for tokens_per_s where a profile carries no spread.
    """
    cascade, found = run.policy.cascade, dict[str, tuple[float, float]]()
    profiles = [costs[name].profile for name in {level.network for level in cascade.levels}]
    alone = cascade.target == 0
    errors = {RATE: 0.0, PER_PASS: math.nan} if alone else _errors_of_the_trace(run)
    for name, error in errors.items():
        if name == RATE:
            told = all(profile.spread() is not None for profile in profiles)
            error = math.hypot(error, max(map(profile_error, profiles))) if told else math.nan
        if not math.isnan(error):
            found[name] = interval([getattr(metrics, name) for metrics in run.metrics], error)
    return found


def _errors_of_the_trace(run: PolicyRuns) -> dict[str, float]:
    """The relative standard errors that the number of groups of prompts leaves to figures; nan without a trace."""
    replay = run.policy.outcomes
    if not isinstance(replay, ReplaySource):
        return {RATE: math.nan, PER_PASS: math.nan}
    passes = Counter(
        request.index for move, request in zip(run.log.move, run.log.request, strict=True) if move.committed
    )
    ms_per_token, passes_per_token = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for request in run.log.requests:
        group = replay.trace.prompts[request.index % replay.trace.n_sequences].group
        ms_per_token[group].append((request.end_ms - request.start_ms) / request.output_tokens)
        passes_per_token[group].append(passes[request.index] / request.output_tokens)
    return {RATE: sampling_error(ms_per_token.values()), PER_PASS: sampling_error(passes_per_token.values())}
