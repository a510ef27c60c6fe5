"""Measuring: passes in random order, round after round, until medians are sure or time is over.

A machine drifts, so no point is measured in one go: every round visits all points that still need it, in an order of
its own, and a point's median comes from all over the run. A fixed product of matrices is timed all along; where its
time does not hold still, neither does anything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.profiler.passes import Pass, Shot

LEAST_ROUNDS = 5
MOST_ROUNDS = 200
SURE = 0.01
"""A pass has been measured enough when the standard error of its median is below this share of it."""
QUIET = 1.25
"""On a quiet machine the fixed product's 90th percentile is at most so many times its 10th."""
PROBE_EVERY = 10

Samples = dict[Pass, list[list[float]]]
"""Milliseconds of every shot, for every time that a pass was run."""


class Device(Protocol):
    """What runs and times."""

    def run_pass(self, shots: Pass) -> list[float]:
        """Run the shots in order; the milliseconds of each."""
        ...

    def probe_ms(self) -> float:
        """Milliseconds of a fixed piece of work."""
        ...


@dataclass(frozen=True, slots=True)
class Stand:
    """Where measuring stands: rounds begun, passes to go in this one, and seconds left at most."""

    round: int
    done: int
    total: int
    left_s: float
    noise: float


def measure(
    device: Device,
    passes: Sequence[Pass],
    *,
    budget_s: float,
    clock_s: Callable[[], float],
    seed: int = 0,
    samples: Samples | None = None,
    allow_noise: bool = False,
    keep_on: Callable[[], bool] = lambda: True,
    show: Callable[[Stand], None] = lambda stand: None,
    after_round: Callable[[Samples], None] = lambda samples: None,
) -> tuple[Samples, float]:
    """Samples of all passes, added to those given, and how much the fixed product's time spread (p90 over p10).

    All passes are run at least `LEAST_ROUNDS` times, then those whose medians are not sure, until the budget is over or
    `keep_on` says no; `after_round` is called after every round. Raises InputError on a noisy machine unless
    `allow_noise`.
    """
    samples = {each: list((samples or {}).get(each, [])) for each in passes}
    rng = np.random.default_rng([seed, sum(map(len, samples.values()))])
    probes = [device.probe_ms() for _ in range(3)]
    began_s, since_probe = clock_s(), 0

    def over() -> bool:
        return not keep_on() or clock_s() - began_s >= budget_s

    number = 0
    while not over():
        due = [each for each in passes if not is_sure(samples[each])]
        if not due or number >= MOST_ROUNDS:
            break
        number += 1
        for done, place in enumerate(rng.permutation(len(due)), start=1):
            samples[due[place]].append(device.run_pass(due[place]))
            since_probe += 1
            if since_probe == PROBE_EVERY:
                probes.append(device.probe_ms())
                since_probe = 0
            show(Stand(number, done, len(due), budget_s - (clock_s() - began_s), spread(probes)))
            if over():
                break
        after_round(samples)
        if number == 1 and not allow_noise and spread(probes) > QUIET:
            raise InputError(
                f"this machine is too noisy to measure on: one fixed product took up to {spread(probes):.2f} times as "
                f"long as at other times (a quiet machine: below {QUIET}). Stop other programs, fix the processor's "
                "frequency, or go on with --allow-noise, which marks the profile; what was measured is kept"
            )
    return samples, spread(probes)


def spread(ms: Sequence[float]) -> float:
    """The 90th percentile over the 10th."""
    low, high = np.quantile(ms, [0.1, 0.9])
    return float(high / low)


def is_sure(times: Sequence[Sequence[float]]) -> bool:
    """Whether a pass's median is known well enough: the standard error of a median is 1.25 times that of a mean, and
    p10 and p90 are 2.56 standard deviations apart where times are normal."""
    if len(times) < LEAST_ROUNDS:
        return False
    low, middle, high = np.quantile([sum(shots) for shots in times], [0.1, 0.5, 0.9])
    return bool(1.25 * (high - low) / 2.56 / len(times) ** 0.5 <= SURE * middle)


def write_samples(path: Path, about: Mapping[str, object], samples: Samples) -> None:
    """Keep what has been measured, atomically, with what it was measured on."""
    content = {
        "about": dict(about),
        "passes": [{"shots": [asdict(shot) for shot in each], "ms": times} for each, times in samples.items()],
    }
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


def read_samples(path: Path, about: Mapping[str, object]) -> Samples:
    """What an earlier run measured. Raises InputError if it is damaged or was measured on something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {tuple(Shot(**shot) for shot in each["shots"]): each["ms"] for each in content["passes"]}
        before = content["about"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and measure again") from None
    different = sorted(key for key in about if before.get(key) != about[key])
    if different:
        key = different[0]
        raise InputError(
            f"{path} was measured with {key} {before.get(key)!r}, not {about[key]!r}; give what it was begun with, or "
            "delete it and measure again"
        )
    return found
