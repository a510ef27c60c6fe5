"""One scenario, all its policies, all repetitions: the runs behind every figure that is reported.

Random streams depend on the seed, the repetition and the request alone, so policies meet the same luck (their ratios
are paired), and adding a policy or a repetition changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hispec_sim.acceptance.sampler import Sampler
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.scenario.build import BuiltPolicy
from hispec_sim.scenario.schema import Jitter, Scenario
from hispec_sim.simulate.engine import Engine, RunLog
from hispec_sim.simulate.jitter import jitter_factors
from hispec_sim.simulate.metrics import RunMetrics, measure
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.simulate.seeds import Purpose, stream
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
    workload = scenario.workload
    contexts = range(workload.prompt_tokens, workload.prompt_tokens + workload.output_tokens + 1)
    used = {level.network for level in policy.cascade.levels}
    pricer = Pricer({name: costs[name] for name in used}, contexts)
    graph = StepGraph(policy.cascade)
    metrics, first_log = [], None
    for repetition in range(repetitions):

        def new_sampler(index: int, repetition: int = repetition) -> Sampler:
            return policy.new_sampler(index, stream(scenario.seed, repetition, Purpose.OUTCOMES, index))

        engine = Engine(
            graph,
            pricer,
            new_sampler=new_sampler,
            jitter=_jitter(scenario, costs, sorted(used), repetition),
            grouping=workload.scheduler_grouping,
        )
        lengths = [(workload.prompt_tokens, policy.output_tokens(index)) for index in range(workload.requests)]
        log = engine.run(lengths, workload.concurrency)
        metrics.append(measure(log))
        first_log = first_log or log
        tick()
    assert first_log is not None
    return PolicyRuns(policy, tuple(metrics), first_log)


def _jitter(
    scenario: Scenario, costs: Mapping[str, NetworkCost], networks: Sequence[str], repetition: int
) -> dict[str, Iterator[float]] | None:
    setting = scenario.device.jitter
    if setting == "none":
        return None
    quantiles = {
        name: (setting.p10, setting.p90) if isinstance(setting, Jitter) else costs[name].profile.relative_quantiles()
        for name in networks
    }
    if not any(quantiles.values()):
        return None
    return {
        name: jitter_factors(quantiles[name], stream(scenario.seed, repetition, Purpose.JITTER, index))
        for index, name in enumerate(networks)
    }

