"""How good a search is: the best point that it finds with 4.9 % of a grid's evaluations, beside the grid's best.

    python benchmarks/search_quality.py [--out DIR] [--seeds N] [--workers N]

Every grid is evaluated whole, once, by the vectorised evaluator (into --out, where a second run finds it); searches
then look their points up. Exits with status 1 where a search ends more than 1 % below the grid's best.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hispec_sim.sweep.load import load_sweep
from hispec_sim.sweep.plan import plan
from hispec_sim.sweep.run import Run
from hispec_sim.sweep.runners.local import local_runner
from hispec_sim.sweep.search import search
from hispec_sim.sweep.space import Point, Space

SWEEPS = Path(__file__).parents[1] / "scenarios" / "sweeps"
SHARE, TOLERANCE = 0.049, 0.01
ONE_REQUEST = ["repetitions=2", "workload.requests=2"]
SPACES = {
    "Llama-2-70B, exits x Nd x Ni x bonus": ("exit_layer_x_verify_period", ONE_REQUEST),
    "Llama-3-8B, exits x Nd x Ni x bonus": ("exit_layer_x_verify_period_llama3_8b", ONE_REQUEST),
    "reference, up to four levels": ("exit_layer_x_verify_period_reference", ONE_REQUEST),
    "Llama-3.1-70B, drafts x TP": ("70b_draft_choice", ["axes.batch=[1]", "repetitions=4"]),
}


def measure(name: str, settings: Sequence[str], out: Path, seeds: int, workers: int) -> tuple[int, int, list[float]]:
    """Points of the grid, evaluations of a search, and what each seed's best is of the grid's best."""
    space = Space(load_sweep(SWEEPS / f"{name}.yaml", settings))
    with local_runner(space.sweep, workers) as runner:
        table = Run(space, out / name, runner, "vectorised", "search_quality", reported).all_points().results.table
    speeds = dict(zip(table["point"], table["tokens_per_s"], strict=True))
    known = {str(point.point): speeds[point.hash] for point in plan(space.points())}

    def tokens_per_s(points: Sequence[Point]) -> list[float]:
        return [known[str(point)] for point in points]

    evaluations = int(SHARE * len(table))
    found = []
    for seed in range(seeds):
        asked = search(space, tokens_per_s, evaluations, seed)
        found.append(max(tokens_per_s(asked)) / max(speeds.values()))
    return len(table), evaluations, found


@contextmanager
def reported(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A line for what takes long."""
    print(f"  {what} {total:,} points", file=sys.stderr, flush=True)
    yield lambda more: None


def main() -> None:
    """Print a table of all spaces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/search_quality"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{'space':40} {'points':>7} {'asked':>6} {'median':>8} {'worst':>8}  of the grid's best")
    worst = 1.0
    for title, (name, settings) in SPACES.items():
        points, asked, found = measure(name, settings, arguments.out, arguments.seeds, arguments.workers)
        found.sort()
        print(f"{title:40} {points:7,} {asked:6,} {found[len(found) // 2]:8.4f} {found[0]:8.4f}", flush=True)
        worst = min(worst, found[0])
    if worst < 1 - TOLERANCE:
        sys.exit(f"a search ended {1 - worst:.1%} below the grid's best")


if __name__ == "__main__":
    main()
