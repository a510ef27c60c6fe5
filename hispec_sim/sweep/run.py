"""A whole sweep: from the checked file to a store with the figures of its points."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from hispec_sim.sweep.copy import texts_of
from hispec_sim.sweep.evaluation import Choice, Disagreement, Evaluation, Progress, evaluate_all, verify
from hispec_sim.sweep.identity import code_version
from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.plan import plan
from hispec_sim.sweep.results import Results, read_results
from hispec_sim.sweep.runners.chunk import Runner
from hispec_sim.sweep.space import Space
from hispec_sim.sweep.store import create, writing


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep came to: its results so far, how many points were computed now, whether Ctrl-C cut it short."""

    results: Results
    computed: int
    disagreement: Disagreement | None
    interrupted: bool


def run_sweep(space: Space, folder: Path, runner: Runner, choice: Choice, command: str, progress: Progress) -> Outcome:
    """Evaluate every point that the folder does not have yet. Raises InputError; finished points are kept."""
    points = space.points()
    with progress("checking", len(points)) as tick:
        planned = plan(points, tick)
    with writing(folder):
        store = create(folder, _meta(space.sweep, choice, command, len(planned)), texts_of(space.sweep))
        store.write_plan([point.row for point in planned])
        evaluation = Evaluation(store, runner, progress)
        disagreement, interrupted = None, False
        try:
            evaluate_all(evaluation, planned, choice)
            if choice == "auto":
                disagreement = verify(evaluation, planned, space.sweep.spec.verify, seed_of(space.sweep))
        except KeyboardInterrupt:
            interrupted = True
    return Outcome(read_results(folder), evaluation.computed, disagreement, interrupted)


def seed_of(sweep: Sweep) -> int:
    """The scenario's seed, for what a sweep draws itself."""
    seed = sweep.source.data.get("seed", 1)
    return seed if isinstance(seed, int) else 1


def _meta(sweep: Sweep, choice: Choice, command: str, n_points: int) -> dict[str, object]:
    return {
        "code_version": code_version(),
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "engine": choice,
        "seed": seed_of(sweep),
        "n_points": n_points,
    }
