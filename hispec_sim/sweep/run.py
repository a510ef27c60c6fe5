"""A whole sweep: from the checked file to a store with the figures of its points."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hispec_sim.sweep.copy import texts_of
from hispec_sim.sweep.evaluation import Choice, Disagreement, Evaluation, Progress, evaluate_all, verify
from hispec_sim.sweep.identity import code_version
from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.plan import Planned, plan
from hispec_sim.sweep.results import Results, read_results
from hispec_sim.sweep.runners.chunk import Runner
from hispec_sim.sweep.space import Point, Space
from hispec_sim.sweep.store import Store, create, writing


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep came to: its results so far, how many points were computed now, whether Ctrl-C cut it short."""

    results: Results
    computed: int
    disagreement: Disagreement | None
    interrupted: bool


class Run:
    """A sweep about to run: a space, where its results go, what evaluates it, and how that is told."""

    def __init__(
        self, space: Space, folder: Path, runner: Runner, choice: Choice, command: str, progress: Progress
    ) -> None:
        self._space, self._folder, self._runner, self._choice = space, folder, runner, choice
        self._command, self._progress = command, progress

    def all_points(self) -> Outcome:
        """Evaluate every point that the folder does not have yet. Raises InputError; finished points are kept."""
        points = self._space.points()
        with self._progress("checking", len(points)) as tick:
            planned = plan(points, tick)

        def evaluate(evaluation: Evaluation, store: Store) -> Disagreement | None:
            store.write_plan([point.row for point in planned])
            evaluate_all(evaluation, planned, self._choice)
            return self._verify(evaluation, planned)

        return self._run(evaluate, len(planned))

    def search(self, evaluations: int) -> Outcome:
        """Look for the largest tokens_per_s of each policy with so many evaluations. Raises InputError."""
        from hispec_sim.sweep.search import search  # Optuna is loaded by those who search

        def evaluate(evaluation: Evaluation, store: Store) -> Disagreement | None:
            planned: dict[str, Planned] = {}

            def tokens_per_s(points: Sequence[Point]) -> list[float]:
                batch = plan(points)
                evaluate_all(evaluation, batch, self._choice)
                planned.update((point.hash, point) for point in batch)
                store.write_plan([point.row for point in planned.values()])
                tick(len(points))
                return [median(evaluation.of(point).tokens_per_s) for point in batch]

            with self._progress("searching", evaluations) as tick, evaluation.silent():
                search(self._space, tokens_per_s, evaluations, seed_of(self._space.sweep))
            return self._verify(evaluation, list(planned.values()))

        return self._run(evaluate, evaluations)

    def _verify(self, evaluation: Evaluation, planned: Sequence[Planned]) -> Disagreement | None:
        sweep = self._space.sweep
        return verify(evaluation, planned, sweep.spec.verify, seed_of(sweep)) if self._choice == "auto" else None

    def _run(self, evaluate: Callable[[Evaluation, Store], Disagreement | None], n_points: int) -> Outcome:
        disagreement, interrupted = None, False
        with writing(self._folder):
            sweep = self._space.sweep
            store = create(self._folder, _meta(sweep, self._choice, self._command, n_points), texts_of(sweep))
            evaluation = Evaluation(store, self._runner, self._progress)
            try:
                disagreement = evaluate(evaluation, store)
            except KeyboardInterrupt:
                interrupted = True
        return Outcome(read_results(self._folder), evaluation.computed, disagreement, interrupted)


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
