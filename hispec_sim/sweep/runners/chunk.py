"""What a runner is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hispec_sim.errors import InputError
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.sweep.evaluate import Engine, Figures, evaluate
from hispec_sim.sweep.part import at_values
from hispec_sim.sweep.space import Space


@dataclass(frozen=True, slots=True)
class Chunk:
    """Points that are evaluated together: hashes, and where each is in the space as (policy, values of its axes)."""

    engine: Engine
    hashes: tuple[str, ...]
    places: tuple[tuple[str, Mapping[str, Any]], ...]


Done = tuple[Chunk, list[Figures]]
Runner = Callable[[Sequence[Chunk]], Generator[Done, None, None]]
"""Evaluates chunks and gives each back with its figures, in whatever order they finish. Raises InputError."""


def evaluate_chunk(
    space: Space, chunk: Chunk, prepare: Callable[[LoadedScenario], LoadedScenario] = lambda loaded: loaded
) -> list[Figures]:
    """The figures of a chunk's points, in order. Raises InputError that names the point."""
    scenarios = [prepare(space.part(policy).scenario(values)) for policy, values in chunk.places]
    try:
        return evaluate(chunk.engine, scenarios)
    except InputError:
        for (_, values), loaded in zip(chunk.places, scenarios, strict=True):
            try:
                evaluate(chunk.engine, [loaded])
            except InputError as error:
                raise at_values(error, values) from None
        raise
