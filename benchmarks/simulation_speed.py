"""How fast the simulator is: committed tokens per second of one core, and its time against a bare SimPy process.

    python benchmarks/simulation_speed.py [--tokens N] [--rounds N]

The bare process yields as many timeouts as the simulation does and nothing else: the least that any simulation with
this clock could take. Both run in turn, and the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import simpy

from hispec_sim.scenario.build import build_costs, build_policies
from hispec_sim.scenario.load import load_scenario
from hispec_sim.simulate.engine import Engine, RunLog
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import StepGraph

SCENARIO = Path(__file__).parents[1] / "scenarios" / "70b_3b.yaml"
PROMPT_TOKENS, OUTPUT_TOKENS = 1024, 1024


def bare_process(env: simpy.Environment, timeouts: int) -> Generator[simpy.Event, None, None]:
    """As many timeouts as the simulation, and nothing else."""
    for _ in range(timeouts):
        yield env.timeout(1.5)


def bare(timeouts: int) -> None:
    """Run the bare process to its end."""
    env = simpy.Environment()
    env.process(bare_process(env, timeouts))
    env.run()


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Print one line per policy and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000, help="committed tokens per run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="paired runs (default %(default)s)")
    arguments = parser.parse_args()
    loaded = load_scenario(SCENARIO, [f"workload.output_tokens={OUTPUT_TOKENS}"])
    costs = build_costs(loaded)
    policies = build_policies(loaded, {name: cost.profile.network.n_layers for name, cost in costs.items()})
    lengths = [(PROMPT_TOKENS, OUTPUT_TOKENS)] * max(1, arguments.tokens // OUTPUT_TOKENS)
    tokens = sum(output for _, output in lengths)
    print("policy            batch  timeouts/token   tokens/s per core  (min .. max)        x bare SimPy  (min .. max)")
    for policy in policies:
        graph = StepGraph(policy.cascade)
        pricer = Pricer(costs, range(PROMPT_TOKENS, PROMPT_TOKENS + OUTPUT_TOKENS + 1))
        for concurrency in (1, 4):

            def simulate(policy=policy, graph=graph, pricer=pricer, concurrency=concurrency) -> RunLog:  # type: ignore[no-untyped-def]
                rng = np.random.default_rng(1)
                engine = Engine(graph, pricer, new_sampler=lambda index: policy.new_sampler(index, rng.spawn(1)[0]))
                return engine.run(lengths, concurrency)

            timeouts = len(simulate().duration_ms)  # also fills the tables, which a study shares between its runs
            speeds, ratios = [], []
            for _ in range(arguments.rounds):
                ours, floor = seconds(simulate), seconds(lambda timeouts=timeouts: bare(timeouts))
                speeds.append(tokens / ours)
                ratios.append(ours / floor)
            print(
                f"{policy.name:16}  {concurrency:5}  {timeouts / tokens:14.2f}  {statistics.median(speeds):18,.0f}"
                f"  ({min(speeds):,.0f} .. {max(speeds):,.0f})".ljust(84)
                + f"{statistics.median(ratios):7.2f}  ({min(ratios):.2f} .. {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
