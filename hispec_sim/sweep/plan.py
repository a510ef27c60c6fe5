"""The points of a sweep as they are about to be evaluated: checked, hashed, and described for the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hispec_sim.errors import InputError
from hispec_sim.sweep.evaluate import configuration, needs_simpy
from hispec_sim.sweep.identity import point_hash
from hispec_sim.sweep.part import at_values
from hispec_sim.sweep.space import Point


@dataclass(frozen=True, slots=True)
class Planned:
    """A point that can be simulated; `needs_simpy` says why the vectorised evaluator cannot, `row` describes it.

    `tokens` is how many it commits over all its repetitions.
    """

    point: Point
    hash: str
    needs_simpy: str | None
    tokens: int
    row: dict[str, Any]


def plan(points: Iterable[Point], tick: Callable[[int], None] = lambda _: None) -> list[Planned]:
    """Check and describe points, in order. Raises InputError for the first that cannot be simulated."""
    found = []
    for point in points:
        found.append(planned(point))
        tick(1)
    return found


def planned(point: Point) -> Planned:
    """One point, checked and described. Raises InputError."""
    loaded = point.scenario()
    try:
        first = configuration(loaded)
    except InputError as error:
        raise at_values(error, point.values) from None
    scenario, cascade = loaded.scenario, first.cascade
    content = point_hash(loaded)
    return Planned(
        point=point,
        hash=content,
        needs_simpy=needs_simpy(first),
        tokens=scenario.repetitions * first.requests * first.output_tokens,
        row={
            "point": content,
            "policy": point.policy,
            "values": json.dumps(dict(point.values)),
            "n_levels": len(cascade.levels),
            "levels": json.dumps(
                [
                    {"network": level.network, "exit_layer": level.exit_layer, "verify_period": level.verify_period}
                    for level in cascade.levels
                ]
            ),
            "bonus": cascade.bonus.value,
            "concurrency": first.concurrency,
            "prompt_tokens": first.prompt_tokens,
            "output_tokens": first.output_tokens,
            "repetitions": scenario.repetitions,
        },
    )
