"""From points to figures in a store, by way of a runner. What the store has is not computed again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

from hispec_sim.errors import InputError
from hispec_sim.sweep.evaluate import Engine, Figures
from hispec_sim.sweep.plan import Planned
from hispec_sim.sweep.runners.chunk import Chunk, Runner
from hispec_sim.sweep.schema import VerifySpec
from hispec_sim.sweep.store import Evaluated, Store

Choice = Literal["auto", "simpy", "vectorised"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Given what is done and to how many points: a function to tell how many more are done."""

_CHUNK_TOKENS: dict[Engine, int] = {"simpy": 300_000, "vectorised": 30_000_000}
"""About a second or two of work: what a killed run loses."""
_CHUNK_POINTS = 2_000
_CHUNKS = 8  # at least so many where there are as many points, so that all workers have some


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far the screening is from the SimPy engine: the largest |vectorised / simpy - 1| of tokens_per_s."""

    points: int
    largest: float
    at: Planned


class Evaluation:
    """Figures of points, from the store where it has them and from the runner otherwise; `computed` counts these."""

    def __init__(self, store: Store, runner: Runner, progress: Progress) -> None:
        self._store, self._runner, self._progress = store, runner, progress
        self.found: dict[Evaluated, Figures] = store.finished()
        self.computed = 0

    def figures(self, engine: Engine, points: Iterable[Planned], what: str) -> None:
        """See that `found` holds these points. Raises InputError; all that was finished before is kept."""
        missing = {point.hash: point for point in points if (point.hash, engine) not in self.found}
        if not missing:
            return
        chunks = _chunks(engine, missing)
        with self._progress(what, len(missing)) as advance, closing(self._runner(chunks)) as done:
            for chunk, figures in done:
                self._store.append(engine, dict(zip(chunk.hashes, figures, strict=True)))
                self.found.update(((found, engine), f) for found, f in zip(chunk.hashes, figures, strict=True))
                self.computed += len(figures)
                advance(len(figures))

    def of(self, point: Planned) -> Figures:
        """The figures of a point that was evaluated, the SimPy engine's where there are any."""
        simpy: Evaluated = (point.hash, "simpy")
        return self.found[simpy if simpy in self.found else (point.hash, "vectorised")]

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Without progress of its own for a while."""
        told, self._progress = self._progress, lambda what, total: nullcontext(lambda more: None)
        yield
        self._progress = told


def engine_of(choice: Choice, point: Planned) -> Engine:
    """Which engine serves a point first. Raises InputError when the one that was asked for cannot."""
    if choice == "vectorised" and point.needs_simpy is not None:
        raise InputError(f"{point.point} needs the SimPy engine ({point.needs_simpy}); give --engine auto")
    return "simpy" if choice == "simpy" or point.needs_simpy is not None else "vectorised"


def evaluate_all(evaluation: Evaluation, points: Sequence[Planned], choice: Choice) -> None:
    """Every point on the engine that serves it; nothing is screened that SimPy has done. Raises InputError."""
    by_engine: dict[Engine, list[Planned]] = {"vectorised": [], "simpy": []}
    for point in points:
        if choice != "auto" or (point.hash, "simpy") not in evaluation.found:
            by_engine[engine_of(choice, point)].append(point)
    for engine, some in by_engine.items():
        evaluation.figures(engine, some, "screening" if engine == "vectorised" else "simulating")


def verify(evaluation: Evaluation, points: Sequence[Planned], setting: VerifySpec, seed: int) -> Disagreement | None:
    """Repeat the leading points, each policy's best and a random sample of the rest on SimPy, and compare.

    None where nothing was screened. Raises InputError.
    """
    screened = {
        point.hash: (point, found)
        for point in points
        if (found := evaluation.found.get((point.hash, "vectorised"))) is not None
    }
    ranked = sorted(screened, key=lambda found: (-median(screened[found][1].tokens_per_s), found))
    best = {screened[found][0].point.policy: found for found in reversed(ranked)}
    chosen = dict.fromkeys([*ranked[: setting.leading], *sorted(best.values())])
    rest = [found for found in ranked if found not in chosen]
    chosen |= dict.fromkeys(random.Random(seed).sample(rest, min(setting.random, len(rest))))
    if not chosen:
        return None
    evaluation.figures("simpy", [screened[found][0] for found in chosen], "verifying")
    differences: Mapping[str, float] = {
        found: max(
            abs(fast / true - 1)
            for fast, true in zip(
                screened[found][1].tokens_per_s, evaluation.found[found, "simpy"].tokens_per_s, strict=True
            )
        )
        for found in chosen
    }
    worst = max(differences, key=lambda found: differences[found])
    return Disagreement(len(chosen), differences[worst], screened[worst][0])


def _chunks(engine: Engine, points: Mapping[str, Planned]) -> list[Chunk]:
    """Points in order, cut where a chunk has enough to do."""
    most = max(1, min(_CHUNK_POINTS, len(points) // _CHUNKS))
    chunks: list[list[Planned]] = [[]]
    tokens = 0
    for point in points.values():
        if chunks[-1] and (len(chunks[-1]) >= most or tokens + point.tokens > _CHUNK_TOKENS[engine]):
            chunks.append([])
            tokens = 0
        chunks[-1].append(point)
        tokens += point.tokens
    return [
        Chunk(
            engine,
            tuple(point.hash for point in chunk),
            tuple((point.point.policy, point.point.values) for point in chunk),
        )
        for chunk in chunks
    ]
