"""What either engine simulates: a cascade, where its outcomes come from, what forwards cost, and the requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hispec_sim.acceptance.models import AcceptanceModel
from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.sampler import FateTable, ModelSampler, Sampler
from hispec_sim.cascade import Cascade
from hispec_sim.errors import InputError
from hispec_sim.scheduler import Grouping
from hispec_sim.simulate.engine import Engine, RunLog
from hispec_sim.simulate.jitter import jitter_factors
from hispec_sim.simulate.pricing import ForwardCost, Pricer
from hispec_sim.simulate.seeds import Purpose, stream
from hispec_sim.spread import Spread
from hispec_sim.step_graph import StepGraph


@dataclass(frozen=True, slots=True)
class Configuration:
    """One run of a closed loop on one device: `requests` of equal length, `concurrency` at a time.

    `outcomes` is a model of as many levels as the cascade has, or a trace read for this cascade; then a request ends
    where its recorded text does, if that is before `output_tokens`. `costs` prices each of the cascade's networks.
    `jitter` holds the spread of a forward's time around its median, by network, None for one that has none. The same
    `seed` and `repetition` give the same luck whatever else differs. Raises InputError.
    """

    cascade: Cascade
    outcomes: AcceptanceModel | ReplaySource
    costs: Mapping[str, ForwardCost]
    prompt_tokens: int
    output_tokens: int
    requests: int = 1
    concurrency: int = 1
    seed: int = 1
    repetition: int = 0
    grouping: Grouping = Grouping.WAIT_TO_GROUP
    jitter: Mapping[str, Spread | None] | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens", "requests", "concurrency"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of a configuration must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "repetition"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} of a configuration must be at least 0, got {getattr(self, name)}")
        n_levels, described = len(self.cascade.levels), _levels_of(self.outcomes)
        if described != n_levels:
            raise InputError(f"the cascade has {n_levels} levels, what its outcomes come from describes {described}")
        missing = sorted({level.network for level in self.cascade.levels} - set(self.costs))
        if missing:
            raise InputError(f"no costs are given for network {', '.join(missing)} of the cascade")

    @property
    def contexts(self) -> range:
        """All numbers of tokens that a request can attend to: recorded texts may be shorter than what is asked for."""
        told = self.outcomes.trace.n_sequences if isinstance(self.outcomes, ReplaySource) else 1
        longest = max(map(self.output_of, range(min(self.requests, told))))
        return range(self.prompt_tokens, self.prompt_tokens + longest + 1)

    def output_of(self, request: int) -> int:
        """Tokens that a request decodes."""
        if isinstance(self.outcomes, ReplaySource):
            return min(self.output_tokens, self.outcomes.output_tokens(request))
        return self.output_tokens


def simulate(configuration: Configuration, graph: StepGraph | None = None, pricer: Pricer | None = None) -> RunLog:
    """Run the SimPy engine. A step graph of the cascade and a pricer of its costs may be given, to be shared."""
    c = configuration
    new_pricer = pricer or Pricer(c.costs, c.contexts)
    table = None if isinstance(c.outcomes, ReplaySource) else FateTable(c.outcomes)

    def new_sampler(request: int) -> Sampler:
        rng = stream(c.seed, c.repetition, Purpose.OUTCOMES, request)
        if isinstance(c.outcomes, ReplaySource):
            return c.outcomes.sampler(request, rng)
        assert table is not None
        return ModelSampler(table, rng)

    jitter = None
    if c.jitter is not None and any(c.jitter.values()):
        networks = sorted({level.network for level in c.cascade.levels})
        jitter = {
            name: jitter_factors(c.jitter.get(name), stream(c.seed, c.repetition, Purpose.JITTER, index))
            for index, name in enumerate(networks)
        }
    engine = Engine(
        graph or StepGraph(c.cascade), new_pricer, new_sampler=new_sampler, jitter=jitter, grouping=c.grouping
    )
    lengths = [(c.prompt_tokens, c.output_of(request)) for request in range(c.requests)]
    return engine.run(lengths, c.concurrency)


def _levels_of(outcomes: AcceptanceModel | ReplaySource) -> int:
    return len(outcomes.columns) if isinstance(outcomes, ReplaySource) else outcomes.n_levels
