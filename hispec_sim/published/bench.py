"""What every check simulates with: the shipped profiles, a workload of one request at a time, one seed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from hispec_sim.acceptance.models import AcceptanceModel, Independent
from hispec_sim.acceptance.sampler import FateTable, ModelSampler, Sampler
from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.latency.cost import HostOverhead, NetworkCost
from hispec_sim.latency.profile import LatencyProfile
from hispec_sim.latency.profile_file import read_profile
from hispec_sim.published.data import published_table
from hispec_sim.simulate.engine import Engine
from hispec_sim.simulate.metrics import RunMetrics, measure
from hispec_sim.simulate.pricing import ForwardCost, Pricer
from hispec_sim.step_graph import StepGraph

PROMPT_TOKENS = 512
OUTPUT_TOKENS = 1000
GRAPHED = HostOverhead()
HOSTS = ("eager", "eager with 10 % per forward")


class Bench:
    """Simulates cascades at batch 1, every run with the same luck.

    `profiles` is the folder of latency profiles of one device, `tokens` how many each run commits: 4000 leave a
    standard error of 1 % or less in throughput. Raises InputError when a profile is not there.
    """

    def __init__(self, profiles: Path, tokens: int = 4000, seed: int = 0) -> None:
        if not profiles.is_dir():
            raise InputError(
                f"{profiles}: no such folder of latency profiles; run this in a checkout of hispec-sim, or name the "
                "folder that holds llama-2-70b.csv and the others with --profiles"
            )
        self._folder = profiles
        self._requests = max(1, tokens // OUTPUT_TOKENS)
        self._output_tokens = min(tokens, OUTPUT_TOKENS)
        self._seed = seed
        self._runs: dict[Hashable, RunMetrics] = {}
        self.profile = cache(self._read)
        self.cost = cache(self._cost)

    def _read(self, network: str) -> LatencyProfile:
        return read_profile(self._folder / f"{network}.csv")

    def _cost(self, network: str, tensor_parallel: int = 0, host: HostOverhead = GRAPHED) -> NetworkCost:
        """The network's price list; `tensor_parallel` 0 is the least that its profile has."""
        profile = self.profile(network)
        return NetworkCost(profile, tensor_parallel=tensor_parallel or profile.tensor_parallels[0], host=host)

    def n_layers(self, network: str) -> int:
        """Depth of a network."""
        return self.profile(network).network.n_layers

    def run(
        self, cascade: Cascade, model: AcceptanceModel, costs: Mapping[str, ForwardCost], longer: int = 1
    ) -> RunMetrics:
        """Simulate `cascade`, for `longer` times the tokens; equal seeds meet the same luck, so ratios are paired.

        Readings overlap, so that each run is made once (`costs` must live as long as the bench, as its own do).
        """
        key = (cascade, model, tuple((name, id(cost)) for name, cost in costs.items()), longer)
        if key not in self._runs:
            self._runs[key] = self._run(cascade, model, costs, longer * self._requests)
        return self._runs[key]

    def _run(
        self, cascade: Cascade, model: AcceptanceModel, costs: Mapping[str, ForwardCost], requests: int
    ) -> RunMetrics:
        table = FateTable(model)
        seeds = np.random.SeedSequence(self._seed).spawn(requests)

        def new_sampler(index: int) -> Sampler:
            return ModelSampler(table, np.random.default_rng(seeds[index]))

        pricer = Pricer(costs, range(PROMPT_TOKENS, PROMPT_TOKENS + self._output_tokens + 1))
        engine = Engine(StepGraph(cascade), pricer, new_sampler=new_sampler)
        return measure(engine.run([(PROMPT_TOKENS, self._output_tokens)] * requests, concurrency=1))

    def autoregressive(self, network: str, costs: Mapping[str, ForwardCost]) -> RunMetrics:
        """Simulate decoding with the network alone."""
        return self.run(cascade_of((network, self.n_layers(network), 0)), Independent(()), costs)


def cascade_of(*levels: tuple[str, int, int], bonus: Bonus = Bonus.ALWAYS) -> Cascade:
    """A cascade from (network, exit layer, verify period), draft first."""
    return Cascade(tuple(Level(*level) for level in levels), bonus)


def forward_ms(cost: NetworkCost, tokens: int, *, batch: int = 1, context: int = 1024) -> float:
    """Milliseconds of a forward through the whole network, with logits for all of its `tokens` a sequence."""
    return float(
        cost.forward_ms(
            first_layer=0,
            last_layer=cost.profile.network.n_layers,
            batch=batch,
            tokens=batch * tokens,
            logits=batch * tokens,
            context=context,
        )
    )


def launch_bound_host(cost: NetworkCost, decode_ms: float, *, forward_share: float = 0.0, context: int) -> HostOverhead:
    """The host overhead with which decoding one token takes `decode_ms`.

    A share of that time is spent once a forward (the decoding loop), the rest on launching layers. Where the kernels
    alone take longer than that, they are what a layer takes.
    """
    n_layers = cost.profile.network.n_layers
    parts = cost.parts_ms(first_layer=0, last_layer=n_layers, batch=1, tokens=1, logits=1, context=context)
    ends_ms = float(parts["embedding"] + parts["lm_head"])
    per_forward_ms = forward_share * decode_ms
    return HostOverhead(per_forward_ms, max(0.0, decode_ms - per_forward_ms - ends_ms) / n_layers)


def eager_host(bench: Bench, kind: str = "eager") -> HostOverhead:
    """One of `HOSTS`: eager Hugging Face on an H100, calibrated on LayerSkip's autoregressive column (Llama-2-7B).

    The second kind spends 10 % of a decode step once a forward, the share that fits LayerSkip's speedups best.
    """
    rows = [row for row in published_table("layerskip_table1").rows if row["network"] == "llama-2-7b"]
    decode_ms = 1000 / float(np.mean([float(row["autoregressive_tok_s"]) for row in rows]))
    share = 0.1 if kind == HOSTS[1] else 0.0
    context = PROMPT_TOKENS + OUTPUT_TOKENS // 2
    return launch_bound_host(bench.cost("llama-2-7b", 1), decode_ms, forward_share=share, context=context)
