"""From a sweep's results to its recommendation: the leading points simulated again, then what flips the advice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.report.recommendation import KINDS, TITLES, Choice, InputEffect, Kind, Recommendation
from hispec_sim.simulate.configuration import Configuration
from hispec_sim.sweep.candidate import (
    Candidate,
    Outcome,
    interval,
    levels_of,
    margin,
    parse_levels,
    run,
)
from hispec_sim.sweep.conditions import Conditions
from hispec_sim.sweep.contest import Contest, Question, ScenarioOf, Tick, hold
from hispec_sim.sweep.defaults import default_like, is_default
from hispec_sim.sweep.flip import flip_point
from hispec_sim.sweep.identity import code_version
from hispec_sim.sweep.inputs import inputs_of
from hispec_sim.sweep.recommend import OBJECTIVES, competing, kind_of, leading, records, tried, untried
from hispec_sim.sweep.sentence import sentence
from hispec_sim.sweep.uncertain import Input
from hispec_sim.sweep.vllm import speculative_config

SCREENED_PER_KIND = 3
"""Leading points of every kind that are simulated again: screening and luck may have changed their order."""
FLIP_REPETITIONS = 3
"""Repetitions at every value of an input, the first of the finalists': all values meet the same luck, so few do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A finalist whose inputs are varied: its score, and that of as few repetitions as a varied input gets.

    What is taken from few repetitions is their ratio to as few at the base, so that varying begins at the advice.
    """

    kind: Kind
    candidate: Candidate
    score: float
    few: float


def recommend(
    table: pd.DataFrame,
    scenario_of: ScenarioOf,
    conditions: Conditions,
    question: Question,
    meta: Mapping[str, Any],
    tick: Tick = lambda what: None,
) -> Recommendation:
    """The answer to `question`. Ctrl-C while inputs are varied keeps those that are done. Raises InputError.

    `table` and `scenario_of` are a sweep's results; `conditions` are its columns that
    nobody chooses.
    """
    points = competing(table, conditions, where=question.where, max_tpot_ms=question.max_tpot_ms)
    leaders = leading(points, question.objective, SCREENED_PER_KIND)
    if len(leaders) < 2:
        raise InputError(
            f"the points that compete are all {next(iter(leaders)).replace('_', ' ')}, so there is nothing to compare; "
            "sweep an autoregressive policy and others too"
        )
    contest = hold(leaders, scenario_of, question, tick)
    advice = contest.advised(contest.scores, question.min_gain)
    rows = {str(row["point"]): row for part in leaders.values() for row in records(part)}
    counts = points["n_levels"].map(kind_of).value_counts()
    compared = [*contest.best.values(), *_default(contest, points, scenario_of, question)]
    recommended = contest.best[advice][1]
    choices = [
        Choice(
            role=candidate.role,
            point=candidate.point,
            policy=candidate.policy,
            levels=parse_levels(rows[candidate.point]["levels"]) if candidate.point in rows else levels_of(candidate),
            bonus=candidate.loaded.scenario.policies[0].bonus,
            concurrency=candidate.loaded.scenario.workload.concurrency,
            tokens_per_s=interval(outcome.tokens_per_s),
            tpot_ms=interval(outcome.tpot_ms),
            n_points=1 if candidate.role == "paper_default" else int(counts[candidate.role]),
            recommended_over_this=margin(recommended, outcome),
        )
        for candidate, outcome in compared
    ]
    limited = question.max_tpot_ms is not None
    notes = _notes(tried(table, conditions, where=question.where, load_is_chosen=limited), choices, len(table), meta)
    effects = _effects(contest, advice, question, notes, tick) if question.vary else []
    answer = Recommendation(
        sentence="",
        advice=advice,
        objective=question.objective,
        max_tpot_ms=question.max_tpot_ms,
        where=question.where,
        min_gain=question.min_gain,
        repetitions=question.repetitions,
        choices=choices,
        inputs=effects,
        speculative_config=speculative_config(contest.best[advice][0]),
        notes=notes,
        sweep=dict(meta),
    )
    return answer.model_copy(update={"sentence": sentence(answer)})


def _default(
    contest: Contest, points: pd.DataFrame, scenario_of: ScenarioOf, question: Question
) -> list[tuple[Candidate, Outcome]]:
    """The paper's untuned default: a point of the sweep, or built like its best hierarchy."""
    if "hierarchy" not in contest.best:
        return []
    best = contest.best["hierarchy"][0]
    like = points[points["levels"].map(lambda text: is_default(parse_levels(text)))]
    found: Candidate | None
    if len(like):
        row = records(like.sort_values(question.objective, ascending=OBJECTIVES[question.objective]))[0]
        found = Candidate("paper_default", str(row["point"]), scenario_of(row))
    else:
        found = default_like(best)
    if found is None:
        return []
    return [(found, run(found.configuration(), question.objective, contest.luck))]


def _effects(contest: Contest, advice: Kind, question: Question, notes: list[str], tick: Tick) -> list[InputEffect]:
    """Each input at its ends and at its flips, the widest effect first."""
    finalists = [(kind, *pair) for kind, found in contest.finalists.items() for pair in found]
    finalists.sort(key=lambda finalist: finalist[0] != advice)  # inputs are named by the first: by what is advised
    effects: list[InputEffect] = []
    luck = range(contest.luck.start, contest.luck.start + FLIP_REPETITIONS)

    def few(configuration: Configuration) -> float:
        return run(configuration, question.objective, luck).score

    def advised(scores: Mapping[Kind, float]) -> Kind:
        return contest.advised(scores, question.min_gain)

    try:
        entries = [
            Entry(kind, candidate, outcome.score, few(candidate.configuration()))
            for kind, candidate, outcome in finalists
        ]
        for uncertain in inputs_of([entry.candidate for entry in entries]):
            effects.append(_effect(entries, uncertain, advice, few, advised))
            tick(f"varying {uncertain.name}")
    except KeyboardInterrupt:
        notes.append(f"interrupted: only {len(effects)} inputs were varied")
    return sorted(effects, key=lambda e: -abs(e.advantage_at_high - e.advantage_at_low))


def _effect(
    entries: Sequence[Entry],
    uncertain: Input,
    advice: Kind,
    few: Callable[[Configuration], float],
    advised: Callable[[Mapping[Kind, float]], Kind],
) -> InputEffect:
    known: dict[float, dict[Kind, float]] = {}

    def scores(value: float) -> dict[Kind, float]:
        """A kind is as good as the best of its finalists there: it would be tuned anew."""
        if value not in known:
            known[value] = {}
            for entry in entries:
                changed = None if value == uncertain.value else uncertain.change(entry.candidate, value)
                score = entry.score if changed is None else entry.score * few(changed) / entry.few
                known[value][entry.kind] = max(score, known[value].get(entry.kind, 0.0))
        return known[value]

    def advantage(value: float) -> float:
        return scores(value)[advice] / max(score for kind, score in scores(value).items() if kind != advice)

    def advised_at(value: float) -> Kind:
        return advised(scores(value))

    below = flip_point(advised_at, uncertain.value, uncertain.low)
    above = flip_point(advised_at, uncertain.value, uncertain.high)
    return InputEffect(
        name=uncertain.name,
        unit=uncertain.unit,
        value=uncertain.value,
        low=uncertain.low,
        high=uncertain.high,
        source=uncertain.source,
        advantage=advantage(uncertain.value),
        advantage_at_low=advantage(uncertain.low),
        advantage_at_high=advantage(uncertain.high),
        flips_below=None if below is None else below[0],
        flips_above=None if above is None else above[0],
        advice_below=None if below is None else below[1],
        advice_above=None if above is None else above[1],
    )


def _notes(points: pd.DataFrame, choices: Sequence[Choice], n_finished: int, meta: Mapping[str, Any]) -> list[str]:
    notes = untried(points)
    roles = {choice.role for choice in choices}
    for kind in KINDS:
        if kind not in roles and (points["n_levels"].map(kind_of) == kind).any():
            notes.append(f"no point of {TITLES[kind]} keeps to --max-tpot-ms")
    if "hierarchy" in roles and "paper_default" not in roles:
        notes.append(
            "the paper's default is no point of the sweep, and acceptance is given for other exits only, so it is not "
            "compared"
        )
    screened, here = meta.get("code_version"), code_version()
    if screened not in (None, here):
        notes.append(
            f"the sweep's points are of version {screened}, and this is {here}: run `hispec sweep` again to see "
            "whether the same points lead"
        )
    if n_finished < int(meta.get("n_points", n_finished)):
        notes.append(f"the sweep was interrupted: {n_finished} of {meta['n_points']} points are finished")
    return notes
