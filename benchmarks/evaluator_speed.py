"""How fast a design space is evaluated: the vectorised evaluator beside the SimPy engine and a plain Python loop.

    python benchmarks/evaluator_speed.py [--points N] [--workers N] [--compare N] [--rounds N]

Points are HiSpec cascades on Llama-3.1-70B, ten requests of 1,000 tokens each: both exits, Nd, Ni, the bonus rule and
acceptance vary. The plain loop walks the remembered step graph and looks prices up as the engine does, without SimPy,
a log or metrics. The three run in turn on one thread; times are of the processor, ratios are medians over rounds.
The evaluator's figures are compared with the engine's on the way. With all points, wall time on `--workers` processes
is what a sweep takes.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np

from hispec_sim.acceptance.models import AcceptanceModel, Correlated, LevelAgreement
from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.sampler import FateTable, ModelSampler
from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.scenario.build import build_costs
from hispec_sim.scenario.load import load_scenario
from hispec_sim.simulate.configuration import Configuration, simulate
from hispec_sim.simulate.metrics import RunMetrics, measure
from hispec_sim.simulate.seeds import Purpose, stream
from hispec_sim.simulate.vectorised import evaluate
from hispec_sim.step_graph import Kind, Node, StepGraph

SCENARIO = Path(__file__).parents[1] / "scenarios" / "70b_3b.yaml"
NETWORK, DEPTH = "llama-3.1-70b", 80
PROMPT_TOKENS, OUTPUT_TOKENS, REQUESTS = 1024, 1000, 10
PORTION = 5000  # points that a worker evaluates at once


def design_space(points: int) -> list[Configuration]:
    """So many different points, in random order (at most 12,288)."""
    costs = build_costs(load_scenario(SCENARIO, []))
    space = list(
        product(
            (5, 8, 10, 15), (20, 30, 40, 50), range(1, 9), range(2, 18, 2), Bonus, (0.8, 0.84, 0.88, 0.91, 0.94, 0.97)
        )
    )
    random.Random(1).shuffle(space)
    return [
        Configuration(
            Cascade((Level(NETWORK, draft), Level(NETWORK, middle, nd), Level(NETWORK, DEPTH, ni)), bonus),
            Correlated((LevelAgreement(0.75, 0.75, 0.7), LevelAgreement(agreed, 0.66, 1.0))),
            costs,
            PROMPT_TOKENS,
            OUTPUT_TOKENS,
            REQUESTS,
        )
        for draft, middle, nd, ni, bonus, agreed in space[:points]
    ]


def plain_loop(configuration: Configuration) -> float:
    """Milliseconds of a configuration's requests, one forward after another."""
    c, graph = configuration, StepGraph(configuration.cascade)
    assert not isinstance(c.outcomes, ReplaySource)
    model: AcceptanceModel = c.outcomes
    fates, prices, total_ms = FateTable(model), dict[Node, list[float]](), 0.0
    for request in range(c.requests):
        sampler = ModelSampler(fates, stream(c.seed, c.repetition, Purpose.OUTCOMES, request))
        node: Node | None = graph.start(c.output_tokens)
        context, room = 0, c.output_tokens
        while node is not None:
            price = prices.get(node)
            if price is None:
                asked = node.forward
                price = prices[node] = (
                    c.costs[asked.network]
                    .forward_ms(
                        first_layer=asked.first_layer,
                        last_layer=asked.last_layer,
                        batch=1,
                        tokens=asked.tokens,
                        logits=asked.logits,
                        context=np.asarray(c.contexts),
                    )
                    .tolist()
                )
            total_ms += price[context + node.reach]
            matched = 0
            if node.kind is Kind.DRAFT:
                sampler.draft(node)
            elif node.kind is Kind.VERIFY:
                matched = sampler.verify(node)
            move = node.after[matched] or graph.follow(node, matched)
            node = move.target
            context, room = context + move.committed, room - move.committed
            if node is not None and move.committed and room < graph.ample_room:
                node = graph.with_room(node, room)
    return total_ms


def timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Processor seconds of one call on this thread, and its result."""
    gc.collect()
    began = time.thread_time()
    result = work()
    return time.thread_time() - began, result


def compare(points: Sequence[Configuration], few: int, rounds: int) -> None:
    """All three in turn; the slow ones on the first few points of each round."""
    rows: list[tuple[float, float, float]] = []
    for number in range(rounds):
        chosen = [points[(number * few + i) % len(points)] for i in range(few)]
        engine_s, truth = timed(lambda chosen=chosen: [measure(simulate(c)).duration_ms for c in chosen])
        loop_s, looped = timed(lambda chosen=chosen: [plain_loop(c) for c in chosen])
        ours_s, _ = timed(lambda: [metrics.duration_ms for metrics in evaluate(points)])
        found = [metrics.duration_ms for metrics in evaluate(chosen)]
        for ours, engine, loop in zip(found, truth, looped, strict=True):
            assert abs(ours - engine) <= 1e-9 * engine, (ours, engine)
            assert abs(loop - engine) <= 1e-9 * engine, (loop, engine)
        rows.append((1000 * engine_s / few, 1000 * loop_s / few, 1000 * ours_s / len(points)))
    print(f"points of {REQUESTS * OUTPUT_TOKENS:,} tokens; processor time of one thread, median of {rounds} rounds")
    names = ("SimPy engine", "plain Python loop", f"vectorised, {len(points):,} at once")
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        ratio = statistics.median(row[0] / value for row, value in zip(rows, values, strict=True))
        middle = statistics.median(values)
        print(f"{name:28} {middle:9.2f} ms/point {1000 / middle:9.1f} points/s per core {ratio:8.1f} x the engine")


def whole(points: Sequence[Configuration], workers: int) -> None:
    """Wall time of all points on so many processes."""
    # Points that share a step graph go to one worker: it is built once.
    ordered = sorted(points, key=lambda c: (c.cascade.bonus, [level.verify_period for level in c.cascade.levels]))
    size = min(PORTION, -(-len(points) // workers))
    portions = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    began = time.perf_counter()
    with ProcessPoolExecutor(workers) as pool:
        found: list[RunMetrics] = [metrics for portion in pool.map(evaluate, portions) for metrics in portion]
    took = time.perf_counter() - began
    assert len(found) == len(points)
    tokens = sum(metrics.committed_tokens for metrics in found)
    print(f"{len(points):,} points, {tokens:,} tokens, {workers} workers: {took:.1f} s of wall time")


def main() -> None:
    """Print the comparison, then the time of the whole space."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000, help="points of the whole space (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes for the whole space (default %(default)s)")
    parser.add_argument("--compare", type=int, default=1000, help="points of the comparison (default %(default)s)")
    parser.add_argument("--few", type=int, default=4, help="points a round for the slow two (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds (default %(default)s)")
    arguments = parser.parse_args()
    points = design_space(max(arguments.points, arguments.compare))
    compare(points[: arguments.compare], arguments.few, arguments.rounds)
    whole(points[: arguments.points], arguments.workers)


if __name__ == "__main__":
    main()
