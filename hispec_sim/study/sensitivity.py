"""What the assumed numbers decide: every parameter with a plausible range, at both its ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hispec_sim.scenario.build import build_costs, build_policies
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.study.run import PolicyRuns, Tick, run_policy

REPETITIONS = 2
"""Runs per policy and end: the ends differ by far more than repetitions do."""


@dataclass(frozen=True, slots=True)
class Variation:
    """One parameter at one end of its range: the tokens_per_s that each policy then has."""

    parameter: str
    value: float
    tokens_per_s: Mapping[str, float]

    @property
    def best(self) -> str:
        """The fastest policy."""
        return max(self.tokens_per_s, key=lambda name: self.tokens_per_s[name])


def varied_parameters(loaded: LoadedScenario) -> dict[str, tuple[float, float]]:
    """Parameters that have a range and are used somewhere, with its ends."""
    used = set(loaded.uses.values())
    return {
        name: (parameter.range[0], parameter.range[1])
        for name, parameter in loaded.scenario.parameters.items()
        if parameter.range is not None and name in used
    }


def n_runs(loaded: LoadedScenario) -> int:
    """How many policy runs `vary` makes."""
    return sum(2 * REPETITIONS * len(_touched(loaded, name)) for name in varied_parameters(loaded))


def vary(loaded: LoadedScenario, runs: Sequence[PolicyRuns], tick: Tick = lambda: None) -> Iterator[Variation]:
    """Both ends of every range, low end first, all else as in `runs` and with the same random streams."""
    repetitions = min(REPETITIONS, loaded.scenario.repetitions)
    base = {run.policy.name: run.median("tokens_per_s") for run in runs}
    for name, ends in varied_parameters(loaded).items():
        touched = _touched(loaded, name) & set(base)
        for value in ends:
            changed = loaded.with_parameter(name, value)
            costs = build_costs(changed)
            policies = build_policies(changed, {key: cost.profile.network.n_layers for key, cost in costs.items()})
            result = dict(base)
            for policy in policies:
                if policy.name in touched:
                    run = run_policy(changed.scenario, policy, costs, repetitions, tick)
                    result[policy.name] = run.median("tokens_per_s")
            yield Variation(name, value, result)


def _touched(loaded: LoadedScenario, parameter: str) -> set[str]:
    """Policies that a parameter can change: those that name it, or all if it stands outside the policies."""
    names = [policy.name for policy in loaded.scenario.policies]
    touched: set[str] = set()
    for key, name in loaded.uses.items():
        if name == parameter:
            touched |= {names[int(key[1])]} if key[0] == "policies" else set(names)
    return touched
