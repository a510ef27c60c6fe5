"""The leading points of a sweep against one another: each simulated again, with luck that chose none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.report.recommendation import Kind
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.sweep.candidate import Candidate, Outcome, interval, margin, run
from hispec_sim.sweep.recommend import advise, records

Tick = Callable[[str], None]
ScenarioOf = Callable[[Mapping[str, Any]], LoadedScenario]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a sweep."""

    objective: str = "tokens_per_s"
    max_tpot_ms: float | None = None
    where: str | None = None
    min_gain: float = 0.01
    repetitions: int = 20
    vary: bool = True
    """Whether to look for what flips the advice, which takes most of the time."""


@dataclass(frozen=True, slots=True)
class Contest:
    """The finalists of every kind with their outcomes, the best first. Kinds are in the order of simplicity.

    `luck` are the numbers of the repetitions that all met: none of those that the sweep chose its leaders by.
    """

    finalists: Mapping[Kind, Sequence[tuple[Candidate, Outcome]]]
    luck: range
    doubt: Mapping[tuple[Kind, Kind], float] = field(init=False)
    """By (more complex kind, simpler kind): the ratio of their scores that could still be luck."""

    def __post_init__(self) -> None:
        margins = {
            (above, below): margin(self.best[above][1], self.best[below][1])
            for below, above in combinations(self.finalists, 2)
        }
        object.__setattr__(self, "doubt", {pair: found.ratio / found.low for pair, found in margins.items()})

    @property
    def best(self) -> dict[Kind, tuple[Candidate, Outcome]]:
        """The best of every kind."""
        return {kind: finalists[0] for kind, finalists in self.finalists.items()}

    def advised(self, scores: Mapping[Kind, float], min_gain: float) -> Kind:
        """The kind to run at such scores, luck being what it is among the best of every kind."""
        return advise(scores, min_gain, self.doubt)

    @property
    def scores(self) -> dict[Kind, float]:
        """By kind."""
        return {kind: outcome.score for kind, (_, outcome) in self.best.items()}


def hold(leaders: Mapping[Kind, pd.DataFrame], scenario_of: ScenarioOf, question: Question, tick: Tick) -> Contest:
    """Simulate the leaders again and keep the best of every kind that keeps to the limit."""
    candidates = [
        (kind, Candidate(kind, str(row["point"]), scenario_of(row)))
        for kind, rows in leaders.items()
        for row in records(rows)
    ]
    seen = max(candidate.loaded.scenario.repetitions for _, candidate in candidates)
    luck = range(seen, seen + question.repetitions)
    finalists: dict[Kind, list[tuple[Candidate, Outcome]]] = {}
    for kind, candidate in candidates:
        outcome = run(candidate.configuration(), question.objective, luck)
        tick(f"simulating {candidate.policy}")
        if question.max_tpot_ms is None or interval(outcome.tpot_ms).median <= question.max_tpot_ms:
            finalists.setdefault(kind, []).append((candidate, outcome))
    if len(finalists) < 2:
        raise InputError("simulated again, fewer than two kinds of decoding keep to --max-tpot-ms; allow a little more")
    return Contest({kind: sorted(found, key=lambda pair: -pair[1].score) for kind, found in finalists.items()}, luck)
