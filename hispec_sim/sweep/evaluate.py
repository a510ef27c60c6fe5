"""The engines behind a sweep: SimPy, which is the truth, and the vectorised evaluator, which screens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hispec_sim.errors import InputError
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.scenario.build import build_costs, build_policy
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.simulate import vectorised
from hispec_sim.simulate.configuration import Configuration, simulate
from hispec_sim.simulate.metrics import RunMetrics, measure
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import StepGraph
from hispec_sim.study.run import configuration_of

Engine = Literal["simpy", "vectorised"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one point: one number per repetition, and per level the middle over the repetitions.

    `matched_per_drafted` and `forwards_per_round` are medians, `time_share` is the mean; NaN where a level verifies
    nothing.
    """

    tokens_per_s: tuple[float, ...]
    tpot_ms: tuple[float, ...]
    tokens_per_target_pass: tuple[float, ...]
    matched_per_drafted: tuple[float, ...]
    time_share: tuple[float, ...]
    forwards_per_round: tuple[float, ...]

    @classmethod
    def of(cls, runs: Sequence[RunMetrics]) -> Figures:
        """The figures of a point's repetitions."""
        matched, share, forwards = (
            np.array([getattr(run, name) for run in runs])
            for name in ("matched_per_drafted", "time_share", "forwards_per_round")
        )
        return cls(
            tokens_per_s=tuple(run.tokens_per_s for run in runs),
            tpot_ms=tuple(run.tpot_ms for run in runs),
            tokens_per_target_pass=tuple(run.tokens_per_target_pass for run in runs),
            matched_per_drafted=tuple(_median(matched[:, level]) for level in range(matched.shape[1])),
            time_share=tuple(share.mean(axis=0).tolist()),
            forwards_per_round=tuple(np.median(forwards, axis=0).tolist()),
        )


def configuration(loaded: LoadedScenario) -> Configuration:
    """The first repetition of a scenario of one policy. Raises InputError."""
    costs = _costs(loaded)
    n_layers = {name: cost.profile.network.n_layers for name, cost in costs.items()}
    return configuration_of(loaded.scenario, build_policy(loaded, 0, n_layers), costs)


def needs_simpy(first: Configuration) -> str | None:
    """Why the vectorised evaluator cannot serve a configuration; None when it can."""
    return vectorised.supports(first)


def evaluate(engine: Engine, scenarios: Sequence[LoadedScenario]) -> list[Figures]:
    """Simulate scenarios of one policy, all their repetitions. What comes of one depends on no other.

    Raises InputError for latency that the profiles do not hold.
    """
    firsts = [configuration(loaded) for loaded in scenarios]
    if engine == "simpy":
        return [_on_simpy(loaded, first) for loaded, first in zip(scenarios, firsts, strict=True)]
    runs = [
        replace(first, repetition=repetition)
        for loaded, first in zip(scenarios, firsts, strict=True)
        for repetition in range(loaded.scenario.repetitions)
    ]
    try:
        metrics = iter(vectorised.evaluate(runs))
    except InputError as error:
        raise scenarios[0].fail(("workload",), str(error)) from None
    return [Figures.of([next(metrics) for _ in range(loaded.scenario.repetitions)]) for loaded in scenarios]


def _on_simpy(loaded: LoadedScenario, first: Configuration) -> Figures:
    graph, pricer = StepGraph(first.cascade), Pricer(first.costs, first.contexts)
    try:
        return Figures.of(
            [
                measure(simulate(replace(first, repetition=repetition), graph, pricer))
                for repetition in range(loaded.scenario.repetitions)
            ]
        )
    except InputError as error:
        raise loaded.fail(("workload",), str(error)) from None


def _median(figures: NDArray[np.float64]) -> float:
    return float("nan") if np.isnan(figures).all() else float(np.nanmedian(figures))


def _costs(loaded: LoadedScenario) -> Mapping[str, NetworkCost]:
    """Price lists, shared by all points that have them alike: that is most of what a point costs to prepare."""
    scenario = loaded.scenario
    key = json.dumps(
        [str(loaded.folder), scenario.model_dump(mode="json", include={"networks", "device"})], sort_keys=True
    )
    costs = _KEPT.pop(key, None)
    if costs is None:
        costs = build_costs(loaded)
        while len(_KEPT) >= _MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
    _KEPT[key] = costs
    return costs


_KEPT: dict[str, Mapping[str, NetworkCost]] = {}
_MOST_KEPT = 100
