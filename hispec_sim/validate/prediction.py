"""The prediction of one configuration: the same cascade, scheduler and prompt lengths as in reality, outcomes replayed
from a trace of other prompts, time from a profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from statistics import fmean

import numpy as np

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.sampler import Sampler
from hispec_sim.acceptance.trace import AgreementTrace
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.simulate.engine import Engine, RunLog
from hispec_sim.simulate.jitter import jitter_factors
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import shared_graph
from hispec_sim.validate.design import NETWORK, Configuration
from hispec_sim.validate.observation import Figures, simulated_figures
from hispec_sim.validate.strata import Stratum, drawn, evenly_drawn, first_of

Samplers = Callable[[int], Sampler]


class Stream(IntEnum):
    """What a stream of random numbers is for: those of two purposes never meet."""

    RESAMPLE = 0
    EVEN = 1
    JITTER = 2
    REQUEST_OF_RESAMPLE = 3
    REQUEST_OF_EVEN = 4


EVEN_RUNS = 4
"""Runs over the trace as it is, of which the predicted figures are the means."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Figures of a simulated configuration: of runs that share out the trace's sequences evenly, and of repetitions,
    each over a resample of them. `blocks`: those of the blocks of every repetition."""

    even: tuple[Figures, ...]
    repetitions: tuple[Figures, ...]
    blocks: tuple[Figures, ...] = ()

    def middle(self, name: str) -> float:
        """What is predicted of a figure, by its flat name. Resamples differ by more than the trace's own error, and few
        of them have a median of their own."""
        return fmean(figures.flat()[name] for figures in self.even)

    def values(self, name: str) -> list[float]:
        """The figure of every repetition."""
        return [figures.flat()[name] for figures in self.repetitions]

    def block_values(self, name: str) -> list[float]:
        """The figure of every block of every repetition."""
        return [figures.flat()[name] for figures in self.blocks]


class Predictor:
    """Simulates configurations with one trace and one profile.

    Requests come in blocks of `block_sizes`, each a closed loop of its own. Paired, request k replays sequence
    `paired[k]`; otherwise the requests of each stratum replay sequences of its own (`strata`).
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
        self._strata, self.block_sizes = tuple(strata), tuple(block_sizes)
        self.trace, self.cost, self.prompt_tokens = trace, cost, tuple(prompt_tokens)
        self.paired, self._seed = paired, seed
        self._shape = replace(cost.profile.network, name=NETWORK)

    def predict(self, configuration: Configuration, repetitions: int, requests: int | None = None) -> Prediction:
        """Simulate it, the blocks of the first so many requests or all. Raises InputError where the trace or the
        profile does not have what it takes."""
        pricer = self.pricer(configuration)

        def logs(samplers: Samplers, run: int) -> list[RunLog]:
            return self.run(configuration, samplers, pricer, self.jitter(run), requests)

        even = [
            simulated_figures(joined(logs(samplers, run)))
            for run, samplers in enumerate(self.even_samplers(configuration, requests))
        ]
        repeated: list[Figures] = []
        of_blocks: list[Figures] = []
        for run in range(repetitions):
            blocks = logs(self.resampled(configuration, run), run)
            repeated.append(simulated_figures(joined(blocks)))
            of_blocks += map(simulated_figures, blocks)
        return Prediction(tuple(even), tuple(repeated), tuple(of_blocks))

    def resampled(self, configuration: Configuration, repetition: int) -> Samplers:
        """Replaying samplers of a repetition, by request: over a resample of the trace."""
        rng = self._stream(Stream.RESAMPLE, repetition)
        chosen = self.paired if self.paired is not None else drawn(self._strata, self.trace, configuration, rng)
        return self._replaying(configuration, Stream.REQUEST_OF_RESAMPLE, repetition, chosen)

    def even_samplers(self, configuration: Configuration, requests: int | None = None) -> list[Samplers]:
        """Those of `EVEN_RUNS` runs over the trace itself, of the first so many requests or all."""
        rng = self._stream(Stream.EVEN)
        chosen = (
            [self.paired] * EVEN_RUNS
            if self.paired is not None
            else evenly_drawn(first_of(self._strata, requests), self.trace, configuration, EVEN_RUNS, rng)
        )
        return [self._replaying(configuration, Stream.REQUEST_OF_EVEN, run, each) for run, each in enumerate(chosen)]

    def _replaying(self, configuration: Configuration, stream: Stream, run: int, chosen: Sequence[int]) -> Samplers:
        cascade = configuration.cascade(self._shape.n_layers)
        source = ReplaySource(self.trace, cascade, {NETWORK: self._shape})
        return lambda request: source.sampler(chosen[request], self._stream(stream, run, request))

    def _stream(self, *of: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=of))

    def pricer(self, configuration: Configuration) -> Pricer:
        """Prices from the profile."""
        longest = max(self.prompt_tokens) + configuration.max_new_tokens
        return Pricer({NETWORK: self.cost}, range(min(self.prompt_tokens), longest + 1))

    def jitter(self, repetition: int) -> Iterator[float]:
        """How far forwards are from their medians, as the profile has it: late ones make a sum of times longer than the
        sum of the medians."""
        return jitter_factors(self.cost.profile.spread(), self._stream(Stream.JITTER, repetition))

    def run(
        self,
        configuration: Configuration,
        new_sampler: Samplers,
        pricer: Pricer,
        jitter: Iterator[float] | None = None,
        requests: int | None = None,
    ) -> list[RunLog]:
        """One simulated run over the first so many requests, or all: the log of each of its blocks."""
        graph = shared_graph(configuration.cascade(self._shape.n_layers))
        lengths = [(tokens, configuration.max_new_tokens) for tokens in self.prompt_tokens[:requests]]
        factors = {NETWORK: jitter} if jitter is not None else None
        logs, first = [], 0
        for size in self.block_sizes:
            if block := lengths[first : first + size]:
                engine = Engine(graph, pricer, new_sampler=partial(_shifted, new_sampler, first), jitter=factors)
                logs.append(engine.run(block, configuration.batch))
            first += size
        return logs


def joined(blocks: Sequence[RunLog]) -> RunLog:
    """The run of all blocks."""
    whole = RunLog(blocks[0].cascade)
    for block in blocks:
        whole.extend(block)
    return whole


def _shifted(new_sampler: Samplers, first: int, request: int) -> Sampler:
    return new_sampler(first + request)
