"""One scenario, all its policies, all repetitions: the runs behind every figure that is reported.

Random streams depend on the seed, the repetition and the request alone, so policies meet the same luck (their ratios
are paired), and adding a policy or a repetition changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hispec_sim.latency.cost import NetworkCost
from hispec_sim.scenario.build import BuiltPolicy
from hispec_sim.scenario.schema import Jitter, Scenario
from hispec_sim.simulate.configuration import Configuration, simulate
from hispec_sim.simulate.engine import RunLog
from hispec_sim.simulate.metrics import RunMetrics, measure
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.spread import Spread
from hispec_sim.step_graph import StepGraph

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class PolicyRuns:
    """What came of one policy: the figures of every repetition, and the log of the first."""

    policy: BuiltPolicy
    metrics: tuple[RunMetrics, ...]
    log: RunLog

    def median(self, name: str) -> float:
        """Median over repetitions of a scalar figure."""
        return float(np.median([getattr(metrics, name) for metrics in self.metrics]))


def run_policy(
    scenario: Scenario,
    policy: BuiltPolicy,
    costs: Mapping[str, NetworkCost],
    repetitions: int,
    tick: Tick = lambda: None,
) -> PolicyRuns:
    """Simulate one policy `repetitions` times; `tick` is called after each."""
    first = configuration_of(scenario, policy, costs)
    graph, pricer = StepGraph(policy.cascade), Pricer(first.costs, first.contexts)
    metrics, first_log = [], None
    for repetition in range(repetitions):
        log = simulate(replace(first, repetition=repetition), graph, pricer)
        metrics.append(measure(log))
        first_log = first_log or log
        tick()
    assert first_log is not None
    return PolicyRuns(policy, tuple(metrics), first_log)


def configuration_of(
    scenario: Scenario, policy: BuiltPolicy, costs: Mapping[str, NetworkCost], repetition: int = 0
) -> Configuration:
    """One repetition of a policy, as either engine takes it."""
    workload, setting = scenario.workload, scenario.device.jitter
    used = sorted({level.network for level in policy.cascade.levels})
    jitter = None
    if setting != "none":
        jitter = {
            name: Spread(setting.p10, setting.p90) if isinstance(setting, Jitter) else costs[name].profile.spread()
            for name in used
        }
    return Configuration(
        cascade=policy.cascade,
        outcomes=policy.outcomes,
        costs={name: costs[name] for name in used},
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        requests=workload.requests,
        concurrency=workload.concurrency,
        seed=scenario.seed,
        repetition=repetition,
        grouping=workload.scheduler_grouping,
        jitter=jitter,
    )
