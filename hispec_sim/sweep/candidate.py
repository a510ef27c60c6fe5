"""A configuration that competes for the recommendation, and what the event-driven engine says of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.report.recommendation import Margin, Role
from hispec_sim.report.summary import Interval
from hispec_sim.scenario.build import build_costs, build_policy
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.simulate.configuration import Configuration, simulate
from hispec_sim.simulate.metrics import measure
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import StepGraph
from hispec_sim.study.run import configuration_of
from hispec_sim.sweep.recommend import paired_ratio


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scenario of one policy, under the name of the sweep's point (`point`), or of none."""

    role: Role
    point: str
    loaded: LoadedScenario

    @property
    def policy(self) -> str:
        """Name of its policy."""
        return self.loaded.scenario.policies[0].name

    def configuration(self) -> Configuration:
        """What either engine simulates. Raises InputError."""
        costs = build_costs(self.loaded)
        policy = build_policy(self.loaded, 0, {name: cost.profile.network.n_layers for name, cost in costs.items()})
        return configuration_of(self.loaded.scenario, policy, costs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one configuration, by repetition; `scores` are of the objective, higher being better.

    `by_prompt` are output tokens per second of each request, mean over repetitions. Where outcomes are `replayed` from
    a trace, prompts are what differs in service: repetitions of a replay are nearly the same.
    """

    tokens_per_s: tuple[float, ...]
    tpot_ms: tuple[float, ...]
    scores: tuple[float, ...]
    by_prompt: tuple[float, ...]
    replayed: bool

    @property
    def score(self) -> float:
        """Geometric mean over repetitions."""
        return float(np.exp(np.mean(np.log(self.scores))))


def margin(above: Outcome, below: Outcome) -> Margin:
    """The ratio of their scores, with its interval over repetitions, or over prompts where either is a replay."""
    if not (above.replayed or below.replayed):
        return paired_ratio(above.scores, below.scores)
    common = min(len(above.by_prompt), len(below.by_prompt))
    found = paired_ratio(above.by_prompt[:common], below.by_prompt[:common])
    ratio = above.score / below.score
    return Margin(ratio=ratio, low=ratio * found.low / found.ratio, high=ratio * found.high / found.ratio)


def run(configuration: Configuration, objective: str, repetitions: Iterable[int]) -> Outcome:
    """Simulate on the event-driven engine; the number of a repetition stands for its luck."""
    graph = StepGraph(configuration.cascade)
    pricer = Pricer(configuration.costs, configuration.contexts)
    metrics, by_prompt = [], []
    for repetition in repetitions:
        log = simulate(replace(configuration, repetition=repetition), graph, pricer)
        metrics.append(measure(log))
        requests = sorted(log.requests, key=lambda request: request.index)
        by_prompt.append([1000 * r.output_tokens / (r.end_ms - r.start_ms) for r in requests])
    speed = tuple(m.tokens_per_s for m in metrics)
    tpot_ms = tuple(m.tpot_ms for m in metrics)
    return Outcome(
        speed,
        tpot_ms,
        speed if objective == "tokens_per_s" else tuple(1000 / ms for ms in tpot_ms),
        tuple(np.mean(by_prompt, axis=0).tolist()),
        isinstance(configuration.outcomes, ReplaySource),
    )


def interval(values: Sequence[float]) -> Interval:
    """Median, 2.5 % and 97.5 % quantile."""
    low, median, high = np.quantile(values, [0.025, 0.5, 0.975])
    return Interval(median=float(median), low=float(low), high=float(high))


def levels_of(candidate: Candidate) -> list[dict[str, Any]]:
    """The levels as a sweep's table has them."""
    cascade = candidate.configuration().cascade
    return [
        {"network": level.network, "exit_layer": level.exit_layer, "verify_period": level.verify_period}
        for level in cascade.levels
    ]


def parse_levels(text: str) -> list[dict[str, Any]]:
    """The `levels` column of a sweep's table."""
    levels: list[dict[str, Any]] = json.loads(text)
    return levels
