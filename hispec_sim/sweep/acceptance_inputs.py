"""How often levels agree, as inputs of a comparison: assumed numbers without a range, and what a trace recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from hispec_sim.acceptance.models import AcceptanceModel, Correlated, Independent, LevelAgreement, PerPosition
from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.shifted_trace import recorded_agreement, with_agreement
from hispec_sim.scenario.schema import ChainSpec
from hispec_sim.scenario.yaml_source import Key
from hispec_sim.simulate.configuration import Configuration
from hispec_sim.sweep.candidate import Candidate
from hispec_sim.sweep.uncertain import Input

REACH = 0.15
"""How far an acceptance without a stated range is varied either way: two texts easily differ by that much."""


def acceptances(candidates: Sequence[Candidate]) -> Iterator[Input]:
    """Acceptance of each level of each policy, and agreement of each level below the target where it is recorded."""
    for candidate in {candidate.policy: candidate for candidate in reversed(candidates)}.values():
        yield from _assumed(candidate)
    yield from _recorded(candidates)


def ranged_uses(candidate: Candidate) -> dict[Key, str]:
    """Keys of the scenario that hold a parameter with a range, with its name; none that the policy does not read."""
    scenario = candidate.loaded.scenario
    ranged = {name for name, parameter in scenario.parameters.items() if parameter.range is not None}
    chained = isinstance(scenario.policies[0].acceptance, ChainSpec)
    return {
        key: name
        for key, name in candidate.loaded.uses.items()
        if name in ranged and (chained or key[2:3] not in (("exit_curve",), ("target_accepts",)))
    }


def _assumed(candidate: Candidate) -> Iterator[Input]:
    """One input per verifying level, unless the scenario says the ranges itself or outcomes are recorded ones."""
    model = candidate.configuration().outcomes
    if isinstance(model, ReplaySource) or any(
        key[2] in ("acceptance", "target_accepts", "exit_curve") for key in ranged_uses(candidate) if len(key) > 2
    ):
        return
    for level in range(1, model.n_levels):
        value = _anchor(model, level)
        low, high = max(0.01, value - REACH), min(0.99, value + REACH)

        def change(other: Candidate, x: float, level: int = level, value: float = value) -> Configuration | None:
            if other.policy != candidate.policy:
                return None
            configuration = other.configuration()
            assert not isinstance(configuration.outcomes, ReplaySource)
            return replace(configuration, outcomes=shifted(configuration.outcomes, level, _logit(x) - _logit(value)))

        name = f"acceptance at level {level} of {candidate.policy}"
        yield Input(name, "", value, min(low, value), max(high, value), f"within {REACH} either way", change)


def _recorded(candidates: Sequence[Candidate]) -> Iterator[Input]:
    """One input per level below the target: its exits in all candidates, by the same log-odds.

    The first candidate that has the level names its exit and agreement.
    """
    sources = [outcomes for c in candidates if isinstance(outcomes := c.configuration().outcomes, ReplaySource)]
    for level in range(max((len(source.columns) - 1 for source in sources), default=0)):
        first = next(source for source in sources if level < len(source.columns) - 1)
        value = recorded_agreement(first.trace, first.columns[level])

        def change(candidate: Candidate, x: float, level: int = level, value: float = value) -> Configuration | None:
            configuration = candidate.configuration()
            source = configuration.outcomes
            if not isinstance(source, ReplaySource) or level >= len(source.columns) - 1:
                return None
            column = source.columns[level]
            recorded = recorded_agreement(source.trace, column)
            moved = shifted_share(recorded, _logit(x) - _logit(value))
            return replace(configuration, outcomes=source.on(with_agreement(source.trace, column, moved)))

        name = f"agreement of level {level} ({first.trace.exits[first.columns[level]]}) with the target"
        low, high = max(0.01, value - REACH), min(0.99, value + REACH)
        why = f"within {REACH} of the trace either way; other exits at this level by the same log-odds"
        yield Input(name, "", value, min(low, value), max(high, value), why, change)


def shifted(model: AcceptanceModel, level: int, logit: float) -> AcceptanceModel:
    """The model with every on-path acceptance of one level shifted by so much in log-odds; 0 and 1 stay."""

    def moved(p: float) -> float:
        return shifted_share(p, logit)

    def at_level(values: tuple[Any, ...], change: Callable[[Any], Any]) -> tuple[Any, ...]:
        return (*values[: level - 1], change(values[level - 1]), *values[level:])

    match model:
        case Independent():
            return replace(model, accept=at_level(model.accept, moved))
        case PerPosition():
            return replace(model, accept=at_level(model.accept, lambda places: tuple(map(moved, places))))
        case Correlated():

            def shift(pair: LevelAgreement) -> LevelAgreement:
                return LevelAgreement(moved(pair.if_agreed), moved(pair.if_differed), pair.off_path)

            return replace(model, agreement=at_level(model.agreement, shift))
    raise TypeError(f"an acceptance model of an unknown kind: {type(model).__name__}")


def shifted_share(share: float, logit: float) -> float:
    """A probability moved by so much in log-odds; 0 and 1 stay."""
    return share if share in (0.0, 1.0) else 1 / (1 + math.exp(-(_logit(share) + logit)))


def _anchor(model: AcceptanceModel, level: int) -> float:
    """The probability by which a level's acceptance is named."""
    if isinstance(model, Correlated):
        return model.agreement[level - 1].if_agreed
    return model.acceptance_per_token(level)


def _logit(p: float) -> float:
    p = min(max(p, 1e-9), 1 - 1e-9)
    return math.log(p / (1 - p))
