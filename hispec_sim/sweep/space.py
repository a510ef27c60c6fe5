"""The points of a sweep: each policy over the axes that it uses, as checked scenarios of one policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hispec_sim.errors import InputError
from hispec_sim.scenario.load import LoadedScenario, explain
from hispec_sim.scenario.schema import Scenario
from hispec_sim.scenario.yaml_source import Key, Source, put, substitute
from hispec_sim.sweep.axes import MAX_POINTS, Axis, combinations, size
from hispec_sim.sweep.expression import Expression
from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.references import references


@dataclass(frozen=True, slots=True)
class Point:
    """One place of the design space: a policy and the values of the axes that it uses."""

    policy: str
    values: Mapping[str, Any]
    scenario: LoadedScenario

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.values.items())
        return f"{self.policy} ({values})" if values else self.policy


@dataclass(frozen=True, slots=True)
class Part:
    """A policy of the sweep, alone with what it needs, and the axes and constraints that concern it."""

    policy: str
    source: Source
    axes: tuple[Axis, ...]
    constraints: tuple[Expression, ...]


def parts(sweep: Sweep) -> list[Part]:
    """One part per policy. Raises InputError for an axis that no policy uses."""
    policies = sweep.source.data.get("policies")
    if not isinstance(policies, list) or not all(isinstance(policy, dict) for policy in policies) or not policies:
        raise sweep.source.fail(("policies",), "a sweep varies a list of policies; its base has none")
    found = [_part(sweep, index, policy) for index, policy in enumerate(policies)]
    used = {axis.name for part in found for axis in part.axes}
    for axis in sweep.axes:
        if axis.name not in used:
            raise sweep.source.fail(("axes", axis.name), f"no policy uses the axis {axis.name}")
    return found


def points(sweep: Sweep) -> Iterator[Point]:
    """All points, each checked against the schema. Raises InputError for a space that is empty or too large."""
    count = 0
    space = parts(sweep)
    for part in space:
        for values in _combinations(sweep, part):
            count += 1
            if count > MAX_POINTS:
                total = sum(size(part.axes) for part in space)
                raise sweep.source.fail(
                    ("axes",),
                    f"the axes span {total:,} combinations, and more than {MAX_POINTS:,} of them meet the "
                    "constraints; take fewer values or constrain them",
                )
            yield Point(part.policy, values, _scenario(sweep, part, values))
    if count == 0:
        raise _empty(sweep, space)


def _combinations(sweep: Sweep, part: Part) -> Iterator[dict[str, Any]]:
    try:
        yield from combinations(part.axes, part.constraints, sweep.parameters)
    except InputError as error:
        raise sweep.source.fail(("axes",), str(error)) from None


def _part(sweep: Sweep, index: int, policy: dict[str, Any]) -> Part:
    here: Key = ("policies", index)
    data = {key: value for key, value in sweep.source.data.items() if key != "parameters"}
    data["policies"] = [policy]
    networks = data.get("networks")
    wanted = _networks_of(policy)
    if isinstance(networks, dict) and wanted is not None:
        data["networks"] = {name: value for name, value in networks.items() if name in wanted}
        missing = wanted - set(networks)
        if missing:  # the schema's check of the policy says it best, and needs one network at least
            data["networks"] = networks
    named = set(references(data, ()).values())
    axes = []
    for axis in sweep.axes:
        if axis.key is None:
            used = axis.name in named
        elif axis.key[0] == "policies":
            used = axis.key[:2] == here
        else:
            used = axis.key[0] != "networks" or axis.key[1] in data.get("networks", {})
        if used:
            axes.append(axis)
    names = {axis.name for axis in axes} | set(sweep.parameters) - {axis.name for axis in sweep.axes}
    lines = {_moved(key, here): line for key, line in sweep.source.lines.items() if _moved(key, here) is not None}
    below = sweep.source.below
    if below is not None:
        lines_below = {_moved(key, here): line for key, line in below.lines.items() if _moved(key, here) is not None}
        below = Source(below.path, {}, lines_below)  # type: ignore[arg-type]
    source = Source(sweep.source.path, data, lines, sweep.source.overrides, below)  # type: ignore[arg-type]
    constraints = tuple(constraint for constraint in sweep.constraints if constraint.names <= names)
    return Part(str(policy.get("name", f"policy {index}")), source, tuple(axes), constraints)


def _networks_of(policy: dict[str, Any]) -> set[str] | None:
    """Networks that the policy's levels name; None where an axis chooses one."""
    levels = policy.get("levels")
    if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels):
        return None
    names = {level.get("network") for level in levels}
    if not all(isinstance(name, str) and not name.startswith("$") for name in names):
        return None
    return {str(name) for name in names}


def _moved(key: Key, here: Key) -> Key | None:
    """Where a line of the file is in a source whose only policy is the one at `here`; None for other policies."""
    if key[:1] != ("policies",) or len(key) == 1:
        return key
    return ("policies", 0, *key[2:]) if key[:2] == here else None


def _scenario(sweep: Sweep, part: Part, values: Mapping[str, Any]) -> LoadedScenario:
    used: dict[Key, str] = {}
    data = substitute(part.source, {**sweep.parameters, **values}, used)
    for axis in part.axes:
        if axis.key is not None:
            put(data, ("policies", 0, *axis.key[2:]) if axis.key[0] == "policies" else axis.key, values[axis.name])
    wanted = _networks_of(data["policies"][0])
    networks = data.get("networks")
    if isinstance(networks, dict) and wanted is not None and wanted <= set(networks):
        data["networks"] = {name: networks[name] for name in networks if name in wanted}
    try:
        scenario = Scenario.model_validate({"name": sweep.spec.name, **data})
    except ValidationError as error:
        problem = explain(part.source, error, Scenario, ())
        raise at_values(problem, values) from None
    return LoadedScenario(scenario, part.source, used)


def at_values(error: InputError, values: Mapping[str, Any]) -> InputError:
    """The error with the point at which it came up."""
    given = ", ".join(f"{name}={value}" for name, value in values.items())
    return InputError(f"{error} (at {given}; a constraint can leave such points out)") if given else error


def _empty(sweep: Sweep, space: list[Part]) -> InputError:
    """Which constraint leaves nothing, if one alone does."""
    for index, constraint in enumerate(sweep.constraints):
        concerned = [part for part in space if constraint in part.constraints]
        if len(concerned) == len(space) and not any(
            next(combinations(part.axes, [constraint], sweep.parameters), None) for part in concerned
        ):
            return sweep.source.fail(("constraints", index), f"no point meets {constraint.text!r}")
    return sweep.source.fail(("constraints",), "no point meets all constraints together; they contradict one another")
