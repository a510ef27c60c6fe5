"""The axes of a sweep: named values, and the combinations that meet the constraints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hispec_sim.errors import InputError
from hispec_sim.scenario.yaml_source import Key
from hispec_sim.sweep.expression import Expression
from hispec_sim.sweep.schema import RangeSpec

MAX_VALUES = 100_000
MAX_POINTS = 200_000
_MAX_TRIES = 10 * MAX_POINTS

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Axis:
    """What varies: `key` is its place in the scenario, or None where `$name` marks the places."""

    name: str
    values: tuple[Any, ...]
    key: Key | None


def values_of(given: Sequence[Any] | RangeSpec) -> tuple[Any, ...]:
    """The values of an axis. Raises InputError for none, too many, or one that stands twice."""
    if isinstance(given, RangeSpec):
        steps = math.floor((given.last - given.first) / given.step + 1e-9)
        if steps >= MAX_VALUES:
            raise InputError(f"an axis has at most {MAX_VALUES:,} values, not {steps + 1:,}; take a larger step")
        numbers = (given.first + i * given.step for i in range(steps + 1))
        return tuple(round(x, 12) if isinstance(x, float) else x for x in numbers)
    if not given:
        raise InputError("an axis needs at least one value")
    for index, value in enumerate(given):
        if any(value == other and type(value) is type(other) for other in given[:index]):
            raise InputError(f"the value {value!r} stands here twice")
    return tuple(given)


def combinations(axes: Sequence[Axis], constraints: Sequence[Expression], fixed: Values) -> Iterator[dict[str, Any]]:
    """Every combination of the axes' values that meets the constraints, the last axis varying fastest.

    A constraint is tried as soon as all its axes have values, so that whole branches fall away; `fixed` are
    parameters that constraints may name. Raises InputError when more are tried than a sweep could hold.
    """
    order = {axis.name: place for place, axis in enumerate(axes, start=1)}
    due: list[list[Expression]] = [[] for _ in range(len(axes) + 1)]
    for constraint in constraints:
        due[max((order.get(name, 0) for name in constraint.names), default=0)].append(constraint)
    tries = 0

    def extend(place: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        nonlocal tries
        tries += 1
        if tries > _MAX_TRIES:
            raise InputError(
                f"the axes span {size(axes):,} combinations, of which {_MAX_TRIES:,} have been tried; take fewer values"
            )
        if not all(constraint.holds(values) for constraint in due[place]):
            return
        if place == len(axes):
            yield {axis.name: values[axis.name] for axis in axes}
            return
        for value in axes[place].values:
            yield from extend(place + 1, {**values, axes[place].name: value})

    yield from extend(0, dict(fixed))


def size(axes: Sequence[Axis]) -> int:
    """Combinations before any constraint."""
    return math.prod(len(axis.values) for axis in axes)
