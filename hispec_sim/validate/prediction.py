"""The prediction of one configuration: the same cascade, scheduler and prompt lengths as in reality, outcomes replayed
from a trace of other prompts, time from a profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.sampler import Sampler
from hispec_sim.acceptance.trace import AgreementTrace
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.simulate.engine import Engine, RunLog
from hispec_sim.simulate.jitter import jitter_factors
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import StepGraph
from hispec_sim.validate.design import NETWORK, Configuration
from hispec_sim.validate.observation import Figures, simulated_figures
from hispec_sim.validate.strata import Stratum, drawn

Samplers = Callable[[int], Sampler]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Figures of every repetition of a simulated configuration."""

    configuration: Configuration
    repetitions: tuple[Figures, ...]

    def values(self, name: str) -> list[float]:
        """A figure of every repetition, by its flat name."""
        return [figures.flat()[name] for figures in self.repetitions]


class Predictor:
    """Simulates configurations with one trace and one profile.

    Requests come in blocks of `block_sizes`, each a closed loop of its own. Paired, request k replays sequence
    `paired[k]`; otherwise the requests of each stratum replay sequences drawn from its own (see
    `strata.drawn`).
    """

    def __init__(
        self,
        trace: AgreementTrace,
        cost: NetworkCost,
        prompt_tokens: Sequence[int],
        *,
        block_sizes: Sequence[int],
        strata: Sequence[Stratum],
        paired: Sequence[int] | None,
        seed: int,
    ) -> None:
        self._strata, self._block_sizes = tuple(strata), tuple(block_sizes)
        self.trace, self.cost, self.prompt_tokens = trace, cost, tuple(prompt_tokens)
        self._paired, self._seed = paired, seed
        self._shape = replace(cost.profile.network, name=NETWORK)

    def predict(self, configuration: Configuration, repetitions: int, requests: int | None = None) -> Prediction:
        """Simulate it so many times, each on other recorded prompts: the blocks of the first so many requests, or all.
        Raises InputError where the trace or the profile does not have what it takes."""
        found = []
        pricer = self.pricer(configuration)
        for repetition in range(repetitions):
            jitter = self.jitter(repetition)
            log = self.run(configuration, self.samplers(configuration, repetition), pricer, jitter, requests)
            found.append(simulated_figures(log))
        return Prediction(configuration, tuple(found))

    def samplers(self, configuration: Configuration, repetition: int) -> Samplers:
        """Replaying samplers of a repetition, by request."""
        cascade = configuration.cascade(self._shape.n_layers)
        source = ReplaySource(self.trace, cascade, {NETWORK: self._shape})
        rng = np.random.default_rng([self._seed, repetition])
        chosen = self._paired if self._paired is not None else drawn(self._strata, self.trace, configuration, rng)

        def new_sampler(request: int) -> Sampler:
            return source.sampler(chosen[request], np.random.default_rng([self._seed, repetition, request]))

        return new_sampler

    def pricer(self, configuration: Configuration) -> Pricer:
        """Prices from the profile."""
        longest = max(self.prompt_tokens) + configuration.max_new_tokens
        return Pricer({NETWORK: self.cost}, range(min(self.prompt_tokens), longest + 1))

    def jitter(self, repetition: int) -> Iterator[float]:
        """How far forwards are from their medians, as the profile has it: late ones make a sum of times longer than the
        sum of the medians."""
        return jitter_factors(self.cost.profile.spread(), np.random.default_rng([self._seed, repetition, 1]))

    def run(
        self,
        configuration: Configuration,
        new_sampler: Samplers,
        pricer: Pricer,
        jitter: Iterator[float] | None = None,
        requests: int | None = None,
    ) -> RunLog:
        """One simulated run over the blocks of the first so many requests, or all."""
        graph = StepGraph(configuration.cascade(self._shape.n_layers))
        lengths = [(tokens, configuration.max_new_tokens) for tokens in self.prompt_tokens[:requests]]
        factors = {NETWORK: jitter} if jitter is not None else None
        whole, first = RunLog(graph.cascade), 0
        for size in self._block_sizes:
            block = lengths[first : first + size]
            engine = Engine(graph, pricer, new_sampler=partial(_shifted, new_sampler, first), jitter=factors)
            whole.extend(engine.run(block, configuration.batch))
            first += size
        return whole


def _shifted(new_sampler: Samplers, first: int, request: int) -> Sampler:
    return new_sampler(first + request)
