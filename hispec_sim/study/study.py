"""A whole study: one scenario from its files to a summary and tables."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.report.summary import Summary
from hispec_sim.scenario.build import build_costs, build_policies
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.study.run import PolicyRuns, Tick, run_policy
from hispec_sim.study.sensitivity import Variation, n_runs, vary
from hispec_sim.study.summarise import requests_table, steps_table, summarise, wall_table
from hispec_sim.study.wall import verification_wall

SCOPE = "decoding only: prefill is not simulated, every request begins with its prompt in all caches"


@dataclass(frozen=True, slots=True)
class Results:
    """The summary, the tables by file name, and whether Ctrl-C cut the study short."""

    summary: Summary
    tables: dict[str, pd.DataFrame]
    interrupted: bool = False


class Study:
    """Builds everything from the scenario when made, so that every input error comes before any work."""

    def __init__(self, loaded: LoadedScenario) -> None:
        self._loaded = loaded
        self._costs = build_costs(loaded)
        n_layers = {name: cost.profile.network.n_layers for name, cost in self._costs.items()}
        self._policies = build_policies(loaded, n_layers)
        self._wall = verification_wall(loaded)
        self.n_ticks = len(self._policies) * loaded.scenario.repetitions + n_runs(loaded)

    def run(self, tick: Tick = lambda: None) -> Results:
        """Simulate. Ctrl-C keeps the policies that have finished, if the autoregressive one is among them."""
        scenario = self._loaded.scenario
        runs: list[PolicyRuns] = []
        variations: list[Variation] = []
        notes = [SCOPE]
        interrupted = False
        try:
            for policy in sorted(self._policies, key=lambda policy: policy.cascade.target > 0):
                runs.append(run_policy(scenario, policy, self._costs, scenario.repetitions, tick))
            for variation in vary(self._loaded, runs, tick):
                variations.append(variation)
        except InputError as error:  # asked for latency that the profiles do not hold
            raise self._loaded.fail(("workload",), str(error)) from None
        except KeyboardInterrupt:
            if not runs:
                raise
            interrupted = True
            variations = variations[: len(variations) // 2 * 2]
            finished = {run.policy.name for run in runs}
            missing = [policy.name for policy in self._policies if policy.name not in finished]
            notes.append(f"interrupted: without {', '.join(missing) or 'part of the sensitivity'}")
        order = [policy.name for policy in self._policies]
        runs.sort(key=lambda run: order.index(run.policy.name))
        return Results(
            summary=summarise(self._loaded, runs, variations, self._costs, notes),
            tables={
                "requests": requests_table(runs),
                "steps": steps_table(runs),
                "wall": wall_table(self._wall),
            },
            interrupted=interrupted,
        )
